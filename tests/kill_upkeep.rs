//! Writers and whoever keeps the store small are killed at random instants, and the store never notices.
//!
//! Several processes write, with tags, expiries and large values; one compacts, culls, expires, evicts by
//! tag and maintains without a pause. Each says what it is about to do and what was acknowledged. Owns
//! two storms: one in which nothing may vanish, and one in which a small store evicts, but what is known
//! to be gone never comes back and no older value surfaces; and a race of writers, a compactor and a
//! reader.

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use common::{Dice, Job, Worker, leave, read_signed, say, signed_value, start};
use larder::{Budget, Cache, Error, Policy, Result, SetOptions, TagMatch};

const WRITERS: u64 = 3;
const KEYS: u64 = 60;
const TAGS: u64 = 6;
/// So many tags take more than one step to count.
const MANY_TAGS: u64 = 90;
/// What ends by itself does so by then.
const ENDS_MS: u64 = 250;
const SMALL_LIMIT: u64 = 4 << 20;

/// Where a worker process begins; for the test itself there is nothing to do.
#[test]
fn role_entry() {
    let Some(job) = common::job() else { return };
    match job.role.as_str() {
        "writer" => write_until_killed(&job),
        "keeper" => keep_until_killed(&job),
        "reader" => read_until_told(&job),
        "tagger" => tag_until_killed(&job),
        role => panic!("no role {role}"),
    }
    leave()
}

fn key(writer: u64, at: u64) -> Vec<u8> {
    format!("key/{writer}/{at}").into_bytes()
}

fn tag(at: u64) -> String {
    format!("tag/{at}")
}

/// The tags of a key's version.
fn tags_of(at: u64, version: u64) -> Vec<String> {
    match version % 8 {
        0 => Vec::new(),
        7 => (0..MANY_TAGS).map(|n| format!("many/{}", n + at)).collect(),
        n if n % 2 == 0 => vec![tag(version / 8 % TAGS)],
        _ => vec![tag(version / 8 % TAGS), tag((version / 8 + 1) % TAGS)],
    }
}

/// A full store refuses; so does one whose lock is busy. Neither has changed anything.
fn is_refusal(error: &Error) -> bool {
    matches!(error, Error::Full { .. } | Error::Busy { .. })
}

/// Writes for ever. `i KEY VERSION KIND` before each call, then `a`, or `n`: nothing happened.
/// Arguments: writer, seed, last version, whether values may be evicted.
fn write_until_killed(job: &Job) {
    let store = Cache::open(&job.store).expect("the store opens");
    let (writer, may_lose) = (job.args[0], job.args[3] == 1);
    let mut dice = Dice::new(job.args[1]);
    let mut version = job.args[2];
    say("ready");
    loop {
        version += 1;
        let at = dice.below(KEYS);
        let key = key(writer, at);
        let len = match dice.below(12) {
            0 => 6_000,
            1 | 2 => 2_500,
            _ => dice.below(700) as usize + 50,
        };
        let options = SetOptions::default().tags(tags_of(at, version));
        let value = signed_value(&key, writer as u32, version, len);
        let answer: Result<bool> = match dice.below(16) {
            0..9 => {
                say(&format!("i {at} {version} set"));
                store.set_with(&key, value, &options).map(|()| true)
            }
            9 | 10 => {
                say(&format!("i {at} {version} gone"));
                store.delete(&key)
            }
            11 if may_lose => {
                // It ends while others look; whoever was told so holds it to that.
                say(&format!("i {at} {version} ends"));
                let ttl = Duration::from_millis(dice.below(ENDS_MS));
                store
                    .set_with(&key, value, &options.ttl(ttl))
                    .map(|()| true)
            }
            11 | 12 => {
                say(&format!("i {at} {version} set"));
                let options = options.ttl(Duration::from_secs(100_000));
                store.set_with(&key, value, &options).map(|()| true)
            }
            13 => {
                // Tombstones and dead records that are nobody's.
                for n in 0..30_u64 {
                    let key = format!("passing/{writer}/{n}");
                    let done = store.set(&key, [7; 300]).and_then(|()| store.delete(&key));
                    assert!(done.is_ok() || is_refusal(&done.expect_err("checked")));
                }
                continue;
            }
            _ => {
                say(&format!("i {at} {version} set"));
                store.transact(|tx| {
                    tx.set(&key, b"never to be seen")?;
                    tx.delete(&key)?;
                    tx.set_with(&key, &value, &options)?;
                    Ok(true)
                })
            }
        };
        match answer {
            Ok(_) => say("a"),
            Err(error) if is_refusal(&error) => say("n"),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Keeps the store small, for ever. `e TAG` before and `d TAG` after a tag was evicted.
/// Arguments: seed, whether tags may be evicted.
fn keep_until_killed(job: &Job) {
    let store = Cache::open(&job.store).expect("the store opens");
    let mut dice = Dice::new(job.args[0]);
    let may_lose = job.args[1] == 1;
    say("ready");
    loop {
        let done: Result<u64> = match dice.below(8) {
            0 => store.compact().map(|report| report.kept),
            1 | 2 => {
                let budget = Budget::default().bytes(dice.below(100_000));
                let budget = budget.time(Duration::from_micros(dice.below(4_000)));
                store.maintain(&budget).map(|report| report.kept)
            }
            3 => store.expire(),
            4 => store.cull(),
            5 if may_lose => {
                let at = dice.below(TAGS);
                say(&format!("e {at}"));
                let done = store.evict_tag(tag(at));
                if done.is_ok() {
                    say(&format!("d {at}"));
                }
                done
            }
            6 if may_lose => {
                let tags = [dice.below(40), dice.below(40) + 50].map(|n| format!("many/{n}"));
                say("e many");
                store.evict_tags(tags, TagMatch::All)
            }
            _ => store.flush().map(|()| 0),
        };
        if let Err(error) = done {
            assert!(is_refusal(&error), "{error}");
        }
    }
}

/// What a key may hold: the newest acknowledged version, or one in flight; 0 is nothing.
#[derive(Clone, Debug, Default)]
struct Known {
    /// Acknowledged, or read: nothing older may ever be seen again.
    version: u64,
    /// Begun since and never answered, each by a process that died, and whether it ends by itself.
    in_flight: Vec<(u64, bool)>,
    /// It may be gone without a word: it ends by itself, or the store may evict.
    may_end: bool,
}

/// What the workers were told: the truth to judge the store by.
#[derive(Default)]
struct Ledger {
    keys: BTreeMap<(u64, u64), Known>,
    /// A call begun and not answered, by writer: key, version, what it does.
    begun: BTreeMap<u64, (u64, u64, String)>,
    versions: BTreeMap<u64, u64>,
    /// Numbers of tombstones: a delete counts as a version of its own, which holds nothing.
    deleted: std::collections::BTreeSet<(u64, u64)>,
    acknowledged: u64,
    may_lose: bool,
}

impl Ledger {
    fn note(&mut self, writer: u64, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["i", at, version, what] => {
                let at = at.parse().expect("a number");
                let version = version.parse().expect("a number");
                self.versions.insert(writer, version);
                if what == "gone" {
                    self.deleted.insert((writer, version));
                }
                self.begun.insert(writer, (at, version, what.to_owned()));
            }
            ["a"] => {
                let (at, version, what) = self.begun.remove(&writer).expect("it had begun");
                let known = self.keys.entry((writer, at)).or_default();
                *known = Known {
                    version,
                    may_end: what == "ends",
                    ..Known::default()
                };
                self.acknowledged += 1;
            }
            ["n"] => {
                self.begun.remove(&writer);
            }
            _ => {}
        }
    }

    /// A writer is dead: what it had begun may have happened or not.
    fn died(&mut self, writer: u64) {
        if let Some((at, version, what)) = self.begun.remove(&writer) {
            let known = self.keys.entry((writer, at)).or_default();
            known.in_flight.push((version, what == "ends"));
        }
    }

    /// Judges every key of a store nobody writes to, and notes what it holds as the truth.
    fn judge(&mut self, store: &Cache, when: &str) {
        if self.may_lose {
            std::thread::sleep(Duration::from_millis(ENDS_MS));
        }
        let mut live = 0;
        let mut wrong: Vec<String> = Vec::new();
        for writer in 0..WRITERS {
            for at in 0..KEYS {
                let key = key(writer, at);
                let found = match store.get_entry(&key) {
                    Ok(found) => found,
                    Err(error) => {
                        wrong.push(error.to_string());
                        continue;
                    }
                };
                let known = self.keys.entry((writer, at)).or_default();
                let holds = found.as_ref().map(|entry| {
                    let (by, version) = read_signed(&key, &entry.value).expect("a whole value");
                    assert_eq!(u64::from(by), writer);
                    version
                });
                let name = String::from_utf8_lossy(&key).into_owned();
                match (holds, &found) {
                    (Some(version), Some(entry)) => {
                        live += 1;
                        let begun = known.in_flight.iter().find(|&&(now, _)| now == version);
                        if version != known.version && begun.is_none() {
                            wrong.push(format!("{name} holds {version}, known is {known:?}"));
                        }
                        known.may_end = begun.map_or(known.may_end, |&(_, ends)| ends);
                        let mut tags: Vec<Vec<u8>> = entry.tags.clone();
                        let mut wanted: Vec<Vec<u8>> = tags_of(at, version)
                            .into_iter()
                            .map(String::into_bytes)
                            .collect();
                        tags.sort();
                        wanted.sort();
                        assert!(tags == wanted, "{when}: tags of {name} at {version}");
                        known.version = version;
                        known.in_flight.clear();
                    }
                    _ => {
                        let is_deleted = |version: u64| self.deleted.contains(&(writer, version));
                        let may_be_gone = known.version == 0
                            || is_deleted(known.version)
                            || known
                                .in_flight
                                .iter()
                                .any(|&(now, ends)| ends || is_deleted(now))
                            || known.may_end
                            || self.may_lose;
                        if !may_be_gone {
                            wrong.push(format!("{name} is gone, known is {known:?}"));
                        }
                        // Told to be gone: neither the one in flight nor any older one comes back.
                        *known = Known::default();
                    }
                }
            }
        }
        assert!(
            wrong.is_empty(),
            "{when}: {} are wrong: {wrong:#?}",
            wrong.len()
        );
        let passing = store.iter_prefix("passing/").expect("iter_prefix").count() as u64;
        let keys = store.keys().expect("keys").count() as u64;
        assert_eq!(
            keys,
            live + passing,
            "{when}: iteration shows what the keys hold"
        );
        // What is over goes first: it counts in `len` and in tags until then.
        store.expire().expect("expires");
        let live = store.keys().expect("keys").count() as u64;
        assert_eq!(store.len().expect("len"), live, "{when}: len");
        common::assert_tags_agree(store);
        common::assert_sound(store);
    }
}

fn spawn(dir: &Path, ledger: &Ledger, dice: &mut Dice, who: u64) -> Worker {
    let may_lose = u64::from(ledger.may_lose);
    if who == WRITERS {
        return start("keeper", dir, &[dice.roll(), may_lose]);
    }
    let version = ledger.versions.get(&who).copied().unwrap_or(0);
    start("writer", dir, &[who, dice.roll(), version, may_lose])
}

fn kill(ledger: &mut Ledger, who: u64, worker: Worker) {
    for line in worker.kill() {
        ledger.note(who, &line);
    }
    ledger.died(who);
}

fn storm(story: &str, may_lose: bool, kills_min: u32, time_max: Duration) {
    let mut dice = Dice::new(common::seed(story));
    let dir = common::work_dir();
    let path = dir.path();
    let new = common::small();
    let new = match may_lose {
        true => new.size_limit_bytes(SMALL_LIMIT).policy(Policy::S3Fifo),
        false => new.policy(Policy::None),
    };
    new.open(path).expect("a new store").close().expect("close");
    let mut ledger = Ledger {
        may_lose,
        ..Ledger::default()
    };
    let mut workers: Vec<Option<Worker>> = (0..=WRITERS)
        .map(|who| Some(spawn(path, &ledger, &mut dice, who)))
        .collect();
    let begin = Instant::now();
    let (mut kills, mut judged, mut rebuilt) = (0_u32, 0_u32, 0_u32);
    let times = std::env::var("LARDER_TEST_TIMES").map_or(1, |text| {
        text.parse().expect("LARDER_TEST_TIMES is a number")
    });
    let mut next_all = 8;
    while kills < kills_min * times {
        assert!(
            begin.elapsed() < time_max * times,
            "only {kills} kills in {time_max:?}"
        );
        std::thread::sleep(Duration::from_micros(dice.below(90_000) + 500));
        if kills < next_all {
            let who = match dice.one_in(2) {
                true => WRITERS,
                false => dice.below(WRITERS),
            };
            let worker = workers[who as usize].take().expect("it runs");
            kill(&mut ledger, who, worker);
            kills += 1;
            workers[who as usize] = Some(spawn(path, &ledger, &mut dice, who));
            continue;
        }
        next_all = kills + 8 + dice.below(10) as u32;
        let doomed: Vec<Worker> = workers
            .iter_mut()
            .map(|worker| worker.take().expect("it runs"))
            .collect();
        for worker in &doomed {
            worker.signal(rustix::process::Signal::KILL);
        }
        for (who, worker) in doomed.into_iter().enumerate() {
            kill(&mut ledger, who as u64, worker);
            kills += 1;
        }
        let limit = if may_lose { SMALL_LIMIT } else { 1 << 30 };
        let du = common::du_bytes(path);
        assert!(du <= limit + limit / 16, "{du} bytes on disk, of {limit}");
        let when = format!("after {kills} kills");
        if dice.one_in(2) {
            let store = Cache::open(path).expect("the store opens after all were killed");
            ledger.judge(&store, &when);
        }
        if dice.one_in(2) {
            common::forget_derived(path);
            rebuilt += 1;
        }
        let store = Cache::open(path).expect("the store opens again");
        ledger.judge(&store, &format!("{when}, opened again ({rebuilt} rebuilt)"));
        judged += 1;
        if may_lose && dice.one_in(3) {
            let policies = &Policy::ALL[1..];
            let policy = policies[dice.below(policies.len() as u64) as usize];
            let change = |settings: &mut larder::Settings| settings.policy = policy;
            store.update_settings(change).expect("update_settings");
        }
        if dice.one_in(2) {
            store.close().expect("close");
        } else {
            drop(store);
        }
        for who in 0..=WRITERS {
            workers[who as usize] = Some(spawn(path, &ledger, &mut dice, who));
        }
    }
    for (who, worker) in workers.into_iter().enumerate() {
        kill(&mut ledger, who as u64, worker.expect("it runs"));
    }
    for rebuilt in [false, true] {
        if rebuilt {
            common::forget_derived(path);
        }
        let store = Cache::open(path).expect("the store opens at the end");
        ledger.judge(
            &store,
            if rebuilt {
                "at the end, rebuilt"
            } else {
                "at the end"
            },
        );
        store.compact().expect("compacts");
        ledger.judge(&store, "at the end, compacted");
    }
    println!(
        "{story}: {kills} kills, judged {judged} times ({rebuilt} rebuilt), {} acknowledged writes, in {:?}",
        ledger.acknowledged,
        begin.elapsed()
    );
}

#[test]
fn nothing_vanishes_where_nothing_may() {
    storm("upkeep storm", false, 90, Duration::from_secs(50));
}

#[test]
fn what_is_gone_stays_gone_where_a_small_store_evicts() {
    storm(
        "upkeep storm in a small store",
        true,
        90,
        Duration::from_secs(50),
    );
}

/// Sets keys with a tag, one after the other. `a N` once a key is acknowledged.
fn tag_until_killed(job: &Job) {
    let store = Cache::open(&job.store).expect("the store opens");
    say("ready");
    for n in job.args[0].. {
        let options = SetOptions::default().tag("job");
        store
            .set_with(n.to_le_bytes(), [7; 100], &options)
            .expect("set");
        say(&format!("a {n}"));
    }
}

#[test]
fn what_had_a_tag_when_it_was_evicted_is_gone_though_others_set_it() {
    let mut dice = Dice::new(common::seed("tag race"));
    let dir = common::work_dir();
    let store = common::small().open(dir.path()).expect("opens");
    let mut next = 0_u64;
    for round in 0..12 {
        let mut worker = start("tagger", dir.path(), &[next]);
        worker.expect("ready");
        for _ in 0..10 {
            std::thread::sleep(Duration::from_micros(dice.below(6_000)));
            let mut acknowledged = next;
            for line in worker.said() {
                if let Some(n) = line.strip_prefix("a ") {
                    acknowledged = n.parse::<u64>().expect("a number") + 1;
                }
            }
            next = acknowledged;
            store.evict_tag("job").expect("evicts");
            for n in next.saturating_sub(400)..next {
                let is_there = store.contains(n.to_le_bytes()).expect("contains");
                assert!(!is_there, "round {round}: {n} of {next} is there");
            }
        }
        let said = worker.kill();
        next = said
            .iter()
            .filter_map(|line| line.strip_prefix("a ")?.parse::<u64>().ok())
            .max()
            .map_or(next, |n| n + 1);
        // Killed in the middle of a write: what of it can be seen goes too.
        store.evict_tag("job").expect("evicts");
        assert_eq!(store.len().expect("len"), 0, "round {round}");
        common::assert_tags_agree(&store);
        // The write that was in flight may have happened.
        next += 1;
    }
    common::assert_sound(&store);
    drop(store);
    common::forget_derived(dir.path());
    let store = Cache::open(dir.path()).expect("opens");
    assert_eq!(store.len().expect("len"), 0);
}

/// Reads all keys of all writers, by key, in order and by tag: versions only ever grow.
fn read_until_told(job: &Job) {
    let store = Cache::open(&job.store).expect("the store opens");
    let mut dice = Dice::new(job.args[0]);
    let mut newest: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
    let mut seen = |key: &[u8], value: &[u8]| {
        if key.starts_with(b"passing/") {
            return;
        }
        let (_, version) = read_signed(key, value).expect("a whole value");
        let newest = newest.entry(key.to_vec()).or_default();
        assert!(
            version >= *newest,
            "{} went back from {newest} to {version}",
            String::from_utf8_lossy(key)
        );
        *newest = version;
    };
    say("ready");
    let begin = Instant::now();
    let mut reads = 0_u64;
    while begin.elapsed() < Duration::from_millis(job.args[1]) {
        match dice.below(6) {
            0 => {
                for pair in store.iter().expect("iter") {
                    let (key, value) = pair.expect("an entry");
                    seen(&key, &value);
                    reads += 1;
                }
            }
            1 => match store.iter_tag(tag(dice.below(TAGS))) {
                // The list may change again and again: then nothing is told.
                Err(Error::Busy { .. }) => {}
                iter => {
                    for pair in iter.expect("iter_tag") {
                        let (key, value) = pair.expect("an entry");
                        seen(&key, &value);
                        reads += 1;
                    }
                }
            },
            _ => {
                for _ in 0..200 {
                    let key = key(dice.below(WRITERS), dice.below(KEYS));
                    if let Some(value) = store.get(&key).expect("get") {
                        seen(&key, &value);
                        reads += 1;
                    }
                }
            }
        }
    }
    say(&format!("read {reads}"));
}

#[test]
fn readers_see_whole_and_ever_newer_values_while_all_is_moved() {
    for may_lose in [0, 1] {
        let mut dice = Dice::new(common::seed("upkeep race"));
        let dir = common::work_dir();
        let new = common::small();
        let new = match may_lose {
            1 => new.size_limit_bytes(SMALL_LIMIT),
            _ => new.policy(Policy::None),
        };
        let store = new.open(dir.path()).expect("a new store");
        let mut ledger = Ledger {
            may_lose: may_lose == 1,
            ..Ledger::default()
        };
        let mut workers: Vec<Worker> = (0..2)
            .map(|writer| start("writer", dir.path(), &[writer, dice.roll(), 0, may_lose]))
            .collect();
        workers.push(start("keeper", dir.path(), &[dice.roll(), may_lose]));
        let mut reader = start("reader", dir.path(), &[dice.roll(), 4_000]);
        reader.expect("ready");
        let said = loop {
            if let Some(line) = reader.hear_within(Duration::from_secs(30)) {
                break line;
            }
        };
        println!("{said}");
        reader.finish();
        for (who, worker) in workers.into_iter().enumerate() {
            kill(&mut ledger, who as u64, worker);
        }
        ledger.judge(&store, "after the race");
        drop(store);
        common::forget_derived(dir.path());
        let store = Cache::open(dir.path()).expect("opens");
        ledger.judge(&store, "after the race, rebuilt");
        println!("{} acknowledged writes", ledger.acknowledged);
    }
}
