//! Several processes share one store: no acknowledged write is lost, and no value is foreign.
//!
//! Workers are this very binary, started again with a role. They report each acknowledged call
//! over a pipe with the times it began and ended; the test keeps a model of its own from these
//! reports and judges what anybody read against it.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use common::{
    Dice, Job, hear, leave, read_signed, say, signed_value, start, tick_ns, timed, within,
};
use larder::{Cache, Error, SetOptions, Side};
use rustix::process::Signal;

/// Where a worker process begins; for the test itself there is nothing to do.
#[test]
fn role_entry() {
    let Some(job) = common::job() else { return };
    match job.role.as_str() {
        "writer" => write_for_a_while(&job),
        "reader" => read_for_a_while(&job),
        "adder" => add_all(&job),
        "counter" => count_up(&job),
        "queuer" => push_and_pull(&job),
        "batcher" => write_batches(&job),
        "batch-reader" => read_batches(&job),
        "echo" => echo(&job),
        "holder" => hold_the_lock(&job),
        "forker" => fork_and_go_on(&job),
        "fork-inside" => fork_inside_a_transaction(&job),
        "fork-parent" => fork_and_be_killed(&job),
        "name-holder" => hold_a_name(&job),
        other => panic!("no such role: {other}"),
    }
    leave()
}

fn open(dir: &Path) -> Cache {
    Cache::open(dir).expect("the store opens")
}

fn new_store() -> (tempfile::TempDir, Cache) {
    let dir = common::work_dir();
    let store = common::small().open(dir.path()).expect("a new store opens");
    (dir, store)
}

// ---- hammering: own keys and shared keys ----

const WRITERS: u32 = 4;
const OWN_KEYS: u64 = 60;
const SHARED_KEYS: u64 = 20;

fn own_key(writer: u32, at: u64) -> Vec<u8> {
    format!("own/{writer}/{at}").into_bytes()
}

fn shared_key(at: u64) -> Vec<u8> {
    format!("shared/{at}").into_bytes()
}

/// Sets, deletes and batches until told to end; says `w KEY VERSION KIND BEGIN END` for each.
fn write_for_a_while(job: &Job) {
    let store = open(&job.store);
    let writer = job.args[0] as u32;
    let mut dice = Dice::new(job.args[1]);
    let end = tick_ns() + job.args[2] * 1_000_000;
    let mut version = 0_u64;
    while tick_ns() < end {
        version += 1;
        let kind = dice.below(20);
        let len = match dice.below(30) {
            0 => 20_000,
            1..5 => 3_000,
            _ => dice.below(200) as usize + 60,
        };
        let at = dice.below(OWN_KEYS);
        let key = own_key(writer, at);
        let begin = tick_ns();
        match kind {
            0..9 => {
                store
                    .set(&key, signed_value(&key, writer, version, len))
                    .expect("set");
                say(&format!("w own {at} {version} set {begin} {}", tick_ns()));
            }
            9..12 => {
                store.delete(&key).expect("delete");
                say(&format!("w own {at} {version} gone {begin} {}", tick_ns()));
            }
            12 => {
                let value = signed_value(&key, writer, version, 30_000);
                store
                    .set_reader(&key, &value[..], &SetOptions::default())
                    .expect("set_reader");
                say(&format!("w own {at} {version} set {begin} {}", tick_ns()));
            }
            13 => {
                store.pop(&key).expect("pop");
                say(&format!("w own {at} {version} gone {begin} {}", tick_ns()));
            }
            14..16 => {
                let all: BTreeSet<u64> = (0..5).map(|_| dice.below(OWN_KEYS)).collect();
                let items: Vec<_> = all
                    .iter()
                    .map(|at| {
                        let key = own_key(writer, *at);
                        let value = signed_value(&key, writer, version, 100);
                        (key, value)
                    })
                    .collect();
                store
                    .set_many(items, &SetOptions::default())
                    .expect("set_many");
                let done = tick_ns();
                for at in all {
                    say(&format!("w own {at} {version} set {begin} {done}"));
                }
            }
            _ => {
                let at = dice.below(SHARED_KEYS);
                let key = shared_key(at);
                store
                    .set(&key, signed_value(&key, writer, version, len))
                    .expect("set");
                say(&format!(
                    "w shared {at} {version} set {begin} {}",
                    tick_ns()
                ));
            }
        }
    }
}

/// Reads keys of all writers; says `r WRITER KEY VERSION BEGIN END` (version 0: nothing there).
fn read_for_a_while(job: &Job) {
    let store = open(&job.store);
    let mut dice = Dice::new(job.args[0]);
    let end = tick_ns() + job.args[1] * 1_000_000;
    let mut buf = Vec::new();
    while tick_ns() < end {
        let writer = dice.below(u64::from(WRITERS)) as u32;
        let at = dice.below(OWN_KEYS);
        let key = own_key(writer, at);
        let begin = tick_ns();
        let found = match dice.below(3) {
            0 => {
                let kind = store.get_into(&key, &mut buf).expect("get_into");
                kind.map(|_| buf.clone())
            }
            1 => store
                .get_reader(&key)
                .expect("get_reader")
                .map(|mut reader| {
                    let mut all = Vec::new();
                    std::io::Read::read_to_end(&mut reader, &mut all).expect("the value reads");
                    all
                }),
            _ => store.get(&key).expect("get").map(larder::Value::into_vec),
        };
        let done = tick_ns();
        let version = found.map_or(0, |value| {
            let (by, version) = read_signed(&key, &value).unwrap_or_else(|why| {
                panic!("{}: {why}", String::from_utf8_lossy(&key));
            });
            assert_eq!(by, writer, "an own key holds another writer's value");
            version
        });
        say(&format!("r {writer} {at} {version} {begin} {done}"));
        if dice.one_in(50) {
            let at = dice.below(SHARED_KEYS);
            let key = shared_key(at);
            if let Some(value) = store.get(&key).expect("get") {
                read_signed(&key, &value).expect("a shared key's own value");
            }
        }
    }
}

#[derive(Clone, Debug)]
struct Write {
    version: u64,
    present: bool,
    begin: u64,
    end: u64,
}

#[test]
fn no_acknowledged_write_is_lost_and_no_value_is_foreign() {
    let seed = common::seed("hammer");
    let (dir, store) = new_store();
    let mut dice = Dice::new(seed);
    let for_ms = 3_000;
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            start(
                "writer",
                dir.path(),
                &[u64::from(writer), dice.roll(), for_ms],
            )
        })
        .collect();
    let readers: Vec<_> = (0..2)
        .map(|_| start("reader", dir.path(), &[dice.roll(), for_ms]))
        .collect();

    let mut own: BTreeMap<(u32, u64), Vec<Write>> = BTreeMap::new();
    let mut shared: BTreeMap<u64, Vec<(u32, Write)>> = BTreeMap::new();
    let mut writes = 0_u64;
    for (writer, worker) in writers.into_iter().enumerate() {
        for line in worker.finish() {
            let words: Vec<&str> = line.split(' ').collect();
            let ["w", whose, at, version, kind, begin, end] = words[..] else {
                continue;
            };
            let number = |word: &str| word.parse::<u64>().expect("a number");
            let write = Write {
                version: number(version),
                present: kind == "set",
                begin: number(begin),
                end: number(end),
            };
            writes += 1;
            if whose == "own" {
                own.entry((writer as u32, number(at)))
                    .or_default()
                    .push(write);
            } else {
                shared
                    .entry(number(at))
                    .or_default()
                    .push((writer as u32, write));
            }
        }
    }
    let mut reads = 0_u64;
    for worker in readers {
        for line in worker.finish() {
            let words: Vec<&str> = line.split(' ').collect();
            let ["r", writer, at, version, begin, end] = words[..] else {
                continue;
            };
            let number = |word: &str| word.parse::<u64>().expect("a number");
            let key = (number(writer) as u32, number(at));
            let history = own.get(&key).map_or(&[][..], |writes| &writes[..]);
            judge_read(key, history, number(version), number(begin), number(end));
            reads += 1;
        }
    }
    assert!(
        writes > 1_000 && reads > 1_000,
        "{writes} writes, {reads} reads"
    );

    let check_all = |store: &Cache, when: &str| {
        for ((writer, at), history) in &own {
            let key = own_key(*writer, *at);
            let last = history.last().expect("it has a write");
            let found = store
                .get(&key)
                .expect("get")
                .map(|value| read_signed(&key, &value));
            let expected = last.present.then_some(Ok((*writer, last.version)));
            assert_eq!(found, expected, "{when}: {}", String::from_utf8_lossy(&key));
        }
        for (at, history) in &shared {
            let key = shared_key(*at);
            let value = store
                .get(&key)
                .expect("get")
                .expect("shared keys are never deleted");
            let (writer, version) = read_signed(&key, &value).expect("its own value");
            let (_, won) = history
                .iter()
                .find(|(by, write)| *by == writer && write.version == version)
                .expect("a write that was acknowledged");
            let later = history.iter().find(|(_, write)| write.begin > won.end);
            assert!(
                later.is_none(),
                "{when}: {at} holds {won:?}, but {later:?} came after it"
            );
        }
    };
    check_all(&store, "at the end");
    common::assert_sound(&store);
    store.close().expect("close");
    common::forget_derived(dir.path());
    let store = open(dir.path());
    check_all(&store, "rebuilt from the log");
    println!("hammer: {writes} acknowledged writes, {reads} judged reads, none wrong");
}

/// A register with one writer: a read gives a version not older than the newest write that ended
/// before it began, and none that began after it ended.
fn judge_read(key: (u32, u64), history: &[Write], version: u64, begin: u64, end: u64) {
    let from = history.partition_point(|write| write.end < begin);
    let to = history.partition_point(|write| write.begin < end);
    let absent_at_first = from == 0;
    let possible = &history[from.saturating_sub(1)..to];
    let fits = if version == 0 {
        absent_at_first || possible.iter().any(|write| !write.present)
    } else {
        possible
            .iter()
            .any(|write| write.present && write.version == version)
    };
    assert!(
        fits,
        "{key:?}: a read in {begin}..{end} gave version {version}, possible were {possible:?}"
    );
}

// ---- add, incr, push and pull ----

const ADDED_KEYS: u64 = 1_000;

fn add_all(job: &Job) {
    let store = open(&job.store);
    let me = job.args[0];
    let mut dice = Dice::new(job.args[1]);
    let mut keys: Vec<u64> = (0..ADDED_KEYS).collect();
    // In blocks, so that all are at the same keys at the same time.
    for block in keys.chunks_mut(10) {
        dice.shuffle(block);
    }
    say("ready");
    hear();
    for at in keys {
        if store
            .add(format!("add/{at}"), format!("{me}"), &SetOptions::default())
            .expect("add")
        {
            say(&format!("won {at}"));
        }
    }
}

#[test]
fn add_has_one_winner_among_processes() {
    let seed = common::seed("add");
    let mut dice = Dice::new(seed);
    let (dir, store) = new_store();
    let mut workers: Vec<_> = (0..4)
        .map(|me| start("adder", dir.path(), &[me, dice.roll()]))
        .collect();
    for worker in &mut workers {
        worker.expect("ready");
    }
    for worker in &mut workers {
        worker.tell("go");
    }
    let mut winner = BTreeMap::new();
    let mut wins = [0_u64; 4];
    for (me, worker) in workers.into_iter().enumerate() {
        for line in worker.finish() {
            if let Some(at) = line.strip_prefix("won ") {
                wins[me] += 1;
                let before = winner.insert(at.to_owned(), me);
                assert_eq!(before, None, "add/{at} was won twice");
            }
        }
    }
    assert_eq!(winner.len() as u64, ADDED_KEYS);
    for (at, me) in winner {
        let value = store
            .get(format!("add/{at}"))
            .expect("get")
            .expect("it was added");
        assert_eq!(&value[..], me.to_string().as_bytes(), "add/{at}");
    }
    println!("add: {ADDED_KEYS} keys, won {wins:?}");
}

fn count_up(job: &Job) {
    let store = open(&job.store);
    let (times, mut last) = (job.args[0], 0_i64);
    say("ready");
    hear();
    for _ in 0..times {
        let larder::Number::Int(now) = store.incr("count", 1, 0).expect("incr") else {
            panic!("an integer counts in integers");
        };
        assert!(now > last, "the count went from {last} to {now}");
        last = now;
        store.decr("down", 2, 0).expect("decr");
        store.incr("float", 0.5, 0.0).expect("incr");
    }
}

#[test]
fn counting_by_four_processes_sums_exactly() {
    let (dir, store) = new_store();
    let times = 2_000;
    let mut workers: Vec<_> = (0..4)
        .map(|_| start("counter", dir.path(), &[times]))
        .collect();
    for worker in &mut workers {
        worker.expect("ready");
    }
    for worker in &mut workers {
        worker.tell("go");
    }
    for worker in workers {
        worker.finish();
    }
    let text = |key: &str| {
        let value = store.get(key).expect("get").expect("it was counted");
        String::from_utf8(value.into_vec()).expect("decimal text")
    };
    assert_eq!(text("count"), (4 * times).to_string());
    assert_eq!(text("down"), format!("-{}", 8 * times));
    assert_eq!(
        text("float").parse::<f64>().expect("a float"),
        2.0 * times as f64
    );
}

fn push_and_pull(job: &Job) {
    let store = open(&job.store);
    let (me, times) = (job.args[0], job.args[1]);
    say("ready");
    hear();
    let mut pulled = 0;
    for n in 0..times {
        let value = format!("{me} {n}");
        let key = store
            .push(Some(b"work"), &value, Side::Back, &SetOptions::default())
            .expect("push");
        say(&format!("pushed {} {value}", String::from_utf8_lossy(&key)));
        if n % 2 == 1 {
            pulled += pull_one(&store);
        }
    }
    while pulled < times {
        pulled += pull_one(&store);
    }
}

fn pull_one(store: &Cache) -> u64 {
    match store.pull(Some(b"work"), Side::Front).expect("pull") {
        Some((key, value)) => {
            say(&format!(
                "pulled {} {}",
                String::from_utf8_lossy(&key),
                String::from_utf8_lossy(&value)
            ));
            1
        }
        None => {
            std::thread::sleep(Duration::from_millis(1));
            0
        }
    }
}

#[test]
fn a_queue_between_processes_loses_nothing_and_doubles_nothing() {
    let (dir, store) = new_store();
    let times = 500;
    let mut workers: Vec<_> = (0..4)
        .map(|me| start("queuer", dir.path(), &[me, times]))
        .collect();
    for worker in &mut workers {
        worker.expect("ready");
    }
    for worker in &mut workers {
        worker.tell("go");
    }
    let mut pushed = BTreeMap::new();
    let mut pulled = BTreeMap::new();
    for worker in workers {
        // One puller sees each pusher's items in the order they were pushed.
        let mut newest = BTreeMap::new();
        for line in worker.finish() {
            let words: Vec<&str> = line.split(' ').collect();
            let [what, key, by, n] = words[..] else {
                continue;
            };
            let n: u64 = n.parse().expect("a number");
            let item = (by.to_owned(), n);
            if what == "pushed" {
                // A queue that was drained in between gives its keys anew: the item tells.
                assert_eq!(pushed.insert(item, key.to_owned()), None, "pushed twice");
            } else {
                let before = newest.insert(by.to_owned(), n);
                assert!(
                    before.is_none_or(|before| before < n),
                    "{by}: {n} after {before:?}"
                );
                assert_eq!(pulled.insert(item, key.to_owned()), None, "pulled twice");
            }
        }
    }
    assert_eq!(pushed.len() as u64, 4 * times);
    assert_eq!(pulled, pushed);
    assert_eq!(
        store
            .pull(Some(b"work"), Side::Front)
            .expect("pull")
            .map(|pair| pair.0),
        None
    );
    assert_eq!(store.len().expect("len"), 0);
}

// ---- batches ----

const BATCH_KEYS: u64 = 8;

fn batch_key(at: u64) -> Vec<u8> {
    format!("batch/{at}").into_bytes()
}

fn write_batches(job: &Job) {
    let store = open(&job.store);
    let end = tick_ns() + job.args[0] * 1_000_000;
    let mut version = 0;
    while tick_ns() < end {
        version += 1;
        store
            .transact(|tx| {
                for at in 0..BATCH_KEYS {
                    let key = batch_key(at);
                    // One of them large enough for a file of its own.
                    let len = if at == 3 && version % 7 == 0 {
                        9_000
                    } else {
                        100
                    };
                    tx.set(&key, signed_value(&key, 0, version, len))?;
                }
                Ok(())
            })
            .expect("transact");
        if version % 3 == 0 {
            // Between batches: the log moves on.
            store.set("other", vec![0_u8; 500]).expect("set");
        }
    }
    say(&format!("wrote {version}"));
}

/// Whoever saw one write of a batch never misses another.
fn read_batches(job: &Job) {
    let store = open(&job.store);
    let mut dice = Dice::new(job.args[0]);
    let end = tick_ns() + job.args[1] * 1_000_000;
    let (mut newest, mut reads) = (0, 0_u64);
    while tick_ns() < end {
        let key = batch_key(dice.below(BATCH_KEYS));
        let version = match store.get(&key).expect("get") {
            Some(value) => read_signed(&key, &value).expect("its own value").1,
            None => 0,
        };
        assert!(
            version >= newest,
            "saw batch {newest}, then {version} in {}",
            String::from_utf8_lossy(&key)
        );
        newest = version;
        reads += 1;
        if reads % 64 == 0 {
            // Never half of one inside a transaction either, from where nothing can change.
            let tx = store.transact(|tx| {
                (0..BATCH_KEYS)
                    .map(|at| {
                        let key = batch_key(at);
                        Ok(tx
                            .get(&key)?
                            .map(|value| read_signed(&key, &value).expect("its own")))
                    })
                    .collect::<Result<BTreeSet<_>, Error>>()
            });
            assert_eq!(
                tx.expect("transact").len(),
                1,
                "a transaction saw two batches"
            );
        }
    }
    say(&format!("read {reads} {newest}"));
}

#[test]
fn a_batch_is_seen_whole_or_not_at_all() {
    let seed = common::seed("batches");
    let mut dice = Dice::new(seed);
    let (dir, store) = new_store();
    let writer = start("batcher", dir.path(), &[2_500]);
    let readers: Vec<_> = (0..3)
        .map(|_| start("batch-reader", dir.path(), &[dice.roll(), 2_500]))
        .collect();
    let wrote = writer.finish();
    let mut reads = Vec::new();
    for reader in readers {
        let said = reader.finish();
        let line = said
            .iter()
            .find_map(|line| line.strip_prefix("read "))
            .expect("it read");
        reads.push(
            line.split(' ')
                .next()
                .and_then(|n| n.parse::<u64>().ok())
                .expect("a number"),
        );
    }
    assert!(reads.iter().all(|n| *n > 100), "{reads:?}");
    let last: u64 = wrote
        .iter()
        .find_map(|line| line.strip_prefix("wrote ")?.parse().ok())
        .expect("the writer says how many");
    for at in 0..BATCH_KEYS {
        let key = batch_key(at);
        let value = store.get(&key).expect("get").expect("it was written");
        assert_eq!(read_signed(&key, &value), Ok((0, last)));
    }
    println!("batches: {last} written, {reads:?} reads, none saw a part");
}

// ---- at once ----

fn echo(job: &Job) {
    let store = open(&job.store);
    say("ready");
    loop {
        let line = hear();
        if line == "end" {
            return;
        }
        let value = store.get("there").expect("get").expect("visible at once");
        assert_eq!(&value[..], line.as_bytes(), "an older value");
        store.set("back", &line).expect("set");
        store.delete("gone").expect("delete");
        assert!(
            !store.contains("dead").expect("contains"),
            "a delete is visible at once"
        );
        say(&format!("echo {line}"));
    }
}

#[test]
fn a_write_is_visible_to_other_processes_at_once() {
    let (dir, store) = new_store();
    let mut worker = start("echo", dir.path(), &[]);
    worker.expect("ready");
    for n in 0..2_000_u32 {
        let line = format!("n{n}");
        store.set("dead", "x").expect("set");
        store.set("gone", "x").expect("set");
        store.set("there", &line).expect("set");
        store.delete("dead").expect("delete");
        worker.tell(&line);
        assert_eq!(worker.expect("echo"), line);
        let back = store.get("back").expect("get").expect("visible at once");
        assert_eq!(&back[..], line.as_bytes());
        assert!(!store.contains("gone").expect("contains"));
    }
    worker.tell("end");
    worker.finish();
}

// ---- who holds the lock ----

/// Holds the writer lock, with a write half made, until told to go on.
fn hold_the_lock(job: &Job) {
    let store = open(&job.store);
    let result = store.transact(|tx| {
        tx.set("held", "by the holder")?;
        tx.set("key/1", "not yet")?;
        say("holding");
        hear();
        Ok(())
    });
    result.expect("transact");
    say("committed");
    hear();
}

/// A store with some entries, and a process that holds its writer lock.
fn held_store() -> (tempfile::TempDir, Cache, common::Worker) {
    let (dir, store) = new_store();
    for at in 0..100 {
        store
            .set(format!("key/{at}"), vec![7_u8; 200])
            .expect("set");
    }
    store.set("large", vec![9_u8; 50_000]).expect("set");
    let mut holder = start("holder", dir.path(), &[]);
    holder.expect("holding");
    (dir, store, holder)
}

/// Gets every key `rounds` times; returns the longest any took.
fn read_all(store: &Cache, rounds: u32) -> Duration {
    let mut longest = Duration::ZERO;
    for _ in 0..rounds {
        for at in 0..100 {
            let (value, took) = timed(|| store.get(format!("key/{at}")).expect("get"));
            assert_eq!(&value.expect("it is there")[..], &[7_u8; 200]);
            longest = longest.max(took);
        }
        let (count, took) = timed(|| store.iter().expect("iter").count());
        assert_eq!(count, 101);
        longest = longest.max(took);
    }
    longest
}

#[test]
fn busy_says_who_holds_the_lock_and_since_when() {
    let (_dir, store, mut holder) = held_store();
    let hasty = store.with_timeout(Some(Duration::from_millis(300)));
    std::thread::sleep(Duration::from_millis(1_100));
    let (result, took) = timed(|| hasty.set("mine", "x"));
    let Err(error @ Error::Busy { .. }) = result else {
        panic!("a set beside a held lock gave {result:?}");
    };
    assert!(took >= Duration::from_millis(290), "gave up after {took:?}");
    assert!(took < Duration::from_millis(2_000), "waited {took:?}");
    let text = error.to_string();
    println!("busy: {text}");
    assert!(
        text.contains(&holder.pid().to_string()),
        "`{text}` names pid {}",
        holder.pid()
    );
    assert!(
        text.contains("since") || text.contains("for "),
        "`{text}` says since when"
    );
    assert_eq!(error.removed(), 0);
    for result in [
        hasty.delete("key/1").map(|_| ()),
        hasty.clear().map(|_| ()),
        hasty.incr("count", 1, 0).map(|_| ()),
        hasty.transact(|_| Ok(())),
        hasty
            .set_many([("a", "b")], &SetOptions::default())
            .map(|_| ()),
        hasty.touch("key/1", larder::Expiry::Never).map(|_| ()),
    ] {
        assert!(matches!(result, Err(Error::Busy { .. })), "{result:?}");
    }
    // The old handle keeps its own patience, and what the holder wrote is not to be seen.
    assert!(store.get("held").expect("get").is_none());
    read_all(&store, 3);
    holder.tell("go on");
    holder.expect("committed");
    assert_eq!(
        &store.get("held").expect("get").expect("committed")[..],
        b"by the holder"
    );
    hasty.set("mine", "x").expect("the lock is free");
    holder.tell("end");
    holder.finish();
}

#[test]
fn a_frozen_lock_holder_delays_writers_until_their_deadline_and_readers_never() {
    let (dir, store, mut holder) = held_store();
    holder.signal(Signal::STOP);
    std::thread::sleep(Duration::from_millis(50));
    let longest = read_all(&store, 30);
    // A new process of ours can also open and read; this one opens another handle.
    let (late, took) = timed(|| open(dir.path()));
    assert!(
        took < Duration::from_secs(2),
        "opening beside a frozen holder took {took:?}"
    );
    read_all(&late, 1);
    let hasty = late.with_timeout(Some(Duration::from_millis(200)));
    let (result, took) = timed(|| hasty.set("mine", "x"));
    assert!(matches!(result, Err(Error::Busy { .. })), "{result:?}");
    assert!(took < Duration::from_secs(2), "waited {took:?}");
    println!("frozen holder: the longest read took {longest:?}");
    // Long enough for a busy machine; a reader that waits for the lock would wait a minute.
    assert!(
        longest < Duration::from_secs(1),
        "a reader waited {longest:?}"
    );
    holder.signal(Signal::CONT);
    holder.tell("go on");
    holder.expect("committed");
    assert_eq!(
        &store.get("held").expect("get").expect("committed")[..],
        b"by the holder"
    );
    holder.tell("end");
    holder.finish();
}

#[test]
fn a_killed_lock_holder_frees_the_lock_and_leaves_nothing_half_done() {
    let (_dir, store, holder) = held_store();
    holder.signal(Signal::STOP);
    holder.kill();
    let (result, took) = timed(|| store.set("mine", "x"));
    result.expect("the lock is free");
    println!("killed holder: the next writer had the lock after {took:?}");
    assert!(
        took < Duration::from_secs(1),
        "the lock came after {took:?}"
    );
    assert!(store.get("held").expect("get").is_none());
    assert_eq!(
        &store.get("key/1").expect("get").expect("there")[..],
        &[7_u8; 200]
    );
    common::assert_sound(&store);
}

#[test]
fn a_second_handle_inside_a_transaction_is_busy_and_the_same_thread_never_hangs() {
    let (dir, store) = new_store();
    let path = dir.path().to_path_buf();
    within(
        Duration::from_secs(20),
        "a lock inside a transaction",
        move || {
            let other = open(&path).with_timeout(Some(Duration::from_millis(200)));
            store
                .transact(|tx| {
                    tx.set("a", "1")?;
                    let result = other.set("b", "2");
                    assert!(matches!(result, Err(Error::Busy { .. })), "{result:?}");
                    assert!(other.get("a")?.is_none(), "another handle sees nothing yet");
                    // Another thread with a clone of the very handle is a stranger, too.
                    let clone = store.with_timeout(Some(Duration::from_millis(200)));
                    let result = std::thread::scope(|scope| {
                        scope
                            .spawn(|| (clone.set("c", "3"), clone.get("a")))
                            .join()
                            .expect("no panic")
                    });
                    assert!(matches!(result.0, Err(Error::Busy { .. })), "{result:?}");
                    assert!(result.1?.is_none(), "another thread sees nothing yet");
                    Ok(())
                })
                .expect("transact");
            assert_eq!(&other.get("a").expect("get").expect("committed")[..], b"1");
            other.set("b", "2").expect("the lock is free again");
        },
    );
}

#[test]
fn threads_of_one_process_exclude_each_other() {
    let (_dir, store) = new_store();
    std::thread::scope(|scope| {
        for thread in 0..4_u32 {
            let store = store.clone();
            scope.spawn(move || {
                for n in 0..500_u64 {
                    store.incr("count", 1, 0).expect("incr");
                    store
                        .transact(|tx| {
                            let old = tx.get("sum")?.map_or(0, |value| {
                                String::from_utf8_lossy(&value)
                                    .parse::<u64>()
                                    .expect("a number")
                            });
                            tx.set("sum", (old + 1).to_string())
                        })
                        .expect("transact");
                    let key = own_key(thread, n % 50);
                    store
                        .set(&key, signed_value(&key, thread, n, 100))
                        .expect("set");
                    let other = own_key((thread + 1) % 4, n % 50);
                    if let Some(value) = store.get(&other).expect("get") {
                        read_signed(&other, &value).expect("its own value");
                    }
                }
            });
        }
    });
    assert_eq!(
        &store.get("count").expect("get").expect("counted")[..],
        b"2000"
    );
    assert_eq!(
        &store.get("sum").expect("get").expect("summed")[..],
        b"2000"
    );
    common::assert_sound(&store);
}

// ---- fork ----

/// `fork`, as a number: 0 in the child.
fn fork() -> i32 {
    // SAFETY: the child runs on this one thread, touches only what the test made for it and ends
    // by `_exit`; glibc keeps its allocator usable in a child.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork failed");
    pid
}

/// Ends a forked child without running anything that is its parent's to run.
fn end_child(good: bool) -> ! {
    // SAFETY: `_exit` only ends the process.
    unsafe { libc::_exit(if good { 0 } else { 1 }) }
}

/// Waits for a child; whether it ended well.
fn wait_for(pid: i32) -> bool {
    let mut status = 0;
    // SAFETY: `status` outlives the call, and `pid` is a child nobody else waits for.
    let got = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    got == pid && libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
}

/// What both sides of a fork do: write, read back, count. `false` says something went wrong.
fn go_on(store: &Cache, who: &str) -> bool {
    let once = |n: u32| -> Result<bool, Error> {
        let key = format!("{who}/{n}");
        store.set(&key, vec![n as u8; 300])?;
        store.incr("both", 1, 0)?;
        let back = store.get(&key)?;
        Ok(
            back.is_some_and(|value| value[..] == vec![n as u8; 300][..])
                && store.get("before")?.is_some(),
        )
    };
    for n in 0..300 {
        match once(n) {
            Ok(true) => {}
            Ok(false) => {
                say(&format!("{who}: wrong value at {n}"));
                return false;
            }
            Err(error) => {
                say(&format!("{who}: at {n}: {error}"));
                return false;
            }
        }
    }
    true
}

fn fork_and_go_on(job: &Job) {
    let store = open(&job.store);
    store.set("before", "the fork").expect("set");
    let pid = fork();
    if pid == 0 {
        let good = go_on(&store, "child");
        // Also a grandchild.
        let pid = fork();
        if pid == 0 {
            let good = go_on(&store, "grandchild");
            drop(store);
            end_child(good);
        }
        let good = good && wait_for(pid);
        drop(store);
        end_child(good);
    }
    let good = go_on(&store, "parent");
    assert!(wait_for(pid), "the child did well");
    assert!(good, "the parent did well");
    for who in ["parent", "child", "grandchild"] {
        for n in 0..300 {
            assert!(
                store.contains(format!("{who}/{n}")).expect("contains"),
                "{who}/{n}"
            );
        }
    }
    store.set("after", "the child's end").expect("set");
}

#[test]
fn parent_and_child_both_go_on_after_a_fork() {
    let (dir, store) = new_store();
    let said = start("forker", dir.path(), &[]).finish();
    assert_eq!(
        &store.get("both").expect("get").expect("counted")[..],
        b"900",
        "{said:?}"
    );
    common::assert_sound(&store);
}

fn fork_inside_a_transaction(job: &Job) {
    let store = open(&job.store);
    store.set("before", "the fork").expect("set");
    let mut child = 0;
    store
        .transact(|tx| {
            tx.set("parent", "1")?;
            child = fork();
            if child == 0 {
                // The parent's transaction is not ours.
                let refused = matches!(tx.set("child/tx", "x"), Err(Error::Forked));
                if !refused {
                    say("the child could write to its parent's transaction");
                }
                // The lock is the parent's still: a hasty child waits in vain.
                let hasty = store.with_timeout(Some(Duration::from_millis(100)));
                let busy = hasty.set("child/hasty", "x");
                if !matches!(busy, Err(Error::Busy { .. })) {
                    say(&format!(
                        "beside its parent's transaction the child had {busy:?}"
                    ));
                }
                let patient = store.with_timeout(Some(Duration::from_secs(20)));
                let own = patient.set("child/own", "x");
                if own.is_err() {
                    say(&format!("after the commit the child had {own:?}"));
                }
                let seen = store.get("parent").is_ok_and(|value| value.is_some());
                end_child(
                    refused && matches!(busy, Err(Error::Busy { .. })) && own.is_ok() && seen,
                );
            }
            std::thread::sleep(Duration::from_millis(600));
            tx.set("parent/2", "2")
        })
        .expect("the parent commits");
    assert!(wait_for(child), "the child did well");
    for key in ["before", "parent", "parent/2", "child/own"] {
        assert!(store.contains(key).expect("contains"), "{key}");
    }
    for key in ["child/tx", "child/hasty"] {
        assert!(!store.contains(key).expect("contains"), "{key}");
    }
}

#[test]
fn a_child_forked_inside_a_transaction_has_no_part_in_it() {
    let (dir, store) = new_store();
    start("fork-inside", dir.path(), &[]).finish();
    common::assert_sound(&store);
}

/// Forks a child that never touches the store again, and is killed while it holds the lock.
fn fork_and_be_killed(job: &Job) {
    let store = open(&job.store);
    store
        .transact(|tx| {
            tx.set("half", "done")?;
            let child = fork();
            if child == 0 {
                std::thread::sleep(Duration::from_secs(60));
                end_child(true);
            }
            say(&format!("child {child}"));
            hear();
            Ok(())
        })
        .expect("transact");
}

#[test]
fn a_forked_child_does_not_keep_its_dead_parents_lock() {
    let (dir, store) = new_store();
    let mut parent = start("fork-parent", dir.path(), &[]);
    let child: i32 = parent.expect("child").parse().expect("a pid");
    // The child holds the pipe's other end, too: kill without waiting for its end of file.
    parent.signal(Signal::KILL);
    let (result, took) = timed(|| {
        store
            .with_timeout(Some(Duration::from_secs(20)))
            .set("mine", "x")
    });
    let pid = rustix::process::Pid::from_raw(child).expect("a pid");
    rustix::process::kill_process(pid, Signal::KILL).expect("the child lives");
    result.expect("the lock is free");
    println!("killed parent: the lock came after {took:?} while its child lived");
    assert!(
        took < Duration::from_secs(1),
        "the lock came after {took:?}"
    );
    assert!(store.get("half").expect("get").is_none());
}

// ---- names held among processes ----

fn hold_a_name(job: &Job) {
    let store = open(&job.store);
    let hold = store.hold("name", None).expect("hold");
    say("holding");
    if hear() == "let go" {
        drop(hold);
        say("let go");
        hear();
    }
}

#[test]
fn a_name_is_held_by_one_process_and_dies_with_it() {
    let (dir, store) = new_store();
    let mut first = start("name-holder", dir.path(), &[]);
    first.expect("holding");
    let short = Some(Duration::from_millis(200));
    assert!(
        matches!(store.hold("name", short), Err(Error::Busy { .. })),
        "it is held"
    );
    drop(
        store
            .hold("another name", short)
            .expect("another name is free"),
    );
    store
        .set("name", "the store's own key is another matter")
        .expect("set");
    first.tell("let go");
    first.expect("let go");
    let own = store.hold("name", short).expect("it was let go");
    drop(own);
    let mut second = start("name-holder", dir.path(), &[]);
    second.expect("holding");
    second.kill();
    let begin = Instant::now();
    drop(
        store
            .hold("name", Some(Duration::from_secs(20)))
            .expect("it died with its holder"),
    );
    assert!(
        begin.elapsed() < Duration::from_secs(1),
        "after {:?}",
        begin.elapsed()
    );
    drop(first);
}
