//! Writers are killed at random instants, again and again, and the store never notices.
//!
//! Three processes write; each says what it is about to do and what was acknowledged. After two
//! hundred kills and more, and now and then after all were killed at once, every key holds its
//! newest acknowledged write or the one that was in flight: with the mapped files as they were
//! left, and again rebuilt from the log alone.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use common::{Dice, Job, Worker, leave, read_signed, say, signed_value, start};
use larder::{Cache, Number, SetOptions};

const WRITERS: u64 = 3;
const KEYS: u64 = 40;
const BATCHES: u64 = 4;
const BATCH_KEYS: u64 = 6;
const KILLS_MIN: u32 = 220;
const TIME_MAX: Duration = Duration::from_secs(55);

/// Where a worker process begins; for the test itself there is nothing to do.
#[test]
fn role_entry() {
    let Some(job) = common::job() else { return };
    assert_eq!(job.role, "writer");
    write_until_killed(&job);
    leave()
}

fn plain_key(writer: u64, at: u64) -> Vec<u8> {
    format!("plain/{writer}/{at}").into_bytes()
}

fn batch_key(writer: u64, batch: u64, at: u64) -> Vec<u8> {
    format!("batch/{writer}/{batch}/{at}").into_bytes()
}

fn count_key(writer: u64) -> Vec<u8> {
    format!("count/{writer}").into_bytes()
}

/// What is kept under one name: a key, a batch of keys that change together, or a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Slot {
    Plain(u64, u64),
    Batch(u64, u64),
    Count(u64),
}

/// Writes for ever. `i SLOT VERSION KIND` before each call, `a` once it is acknowledged.
fn write_until_killed(job: &Job) {
    let store = Cache::open(&job.store).expect("the store opens");
    let writer = job.args[0];
    let mut dice = Dice::new(job.args[1]);
    let mut version = job.args[2];
    say("ready");
    loop {
        version += 1;
        let at = dice.below(KEYS);
        let key = plain_key(writer, at);
        match dice.below(20) {
            0..8 => {
                let len = if dice.one_in(12) {
                    3_500
                } else {
                    dice.below(300) as usize + 50
                };
                say(&format!("i plain {at} {version} set"));
                store
                    .set(&key, signed_value(&key, writer as u32, version, len))
                    .expect("set");
            }
            8..11 => {
                say(&format!("i plain {at} {version} gone"));
                store.delete(&key).expect("delete");
            }
            11 => {
                say(&format!("i plain {at} {version} gone"));
                store.pop(&key).expect("pop");
            }
            12..14 => {
                let value = signed_value(&key, writer as u32, version, 60_000);
                say(&format!("i plain {at} {version} set"));
                let n = store
                    .set_reader(&key, Slow(&value), &SetOptions::default())
                    .expect("set_reader");
                assert_eq!(n, value.len() as u64);
            }
            14..16 => {
                let batch = dice.below(BATCHES);
                let items: Vec<_> = (0..BATCH_KEYS)
                    .map(|at| {
                        let key = batch_key(writer, batch, at);
                        let len = if at == 2 && version.is_multiple_of(3) {
                            6_000
                        } else {
                            120
                        };
                        let value = signed_value(&key, writer as u32, version, len);
                        (key, value)
                    })
                    .collect();
                say(&format!("i batch {batch} {version} set"));
                store
                    .set_many(items, &SetOptions::default())
                    .expect("set_many");
            }
            16 => {
                let batch = dice.below(BATCHES);
                say(&format!("i batch {batch} {version} gone"));
                store
                    .transact(|tx| {
                        for at in 0..BATCH_KEYS {
                            tx.delete(batch_key(writer, batch, at))?;
                        }
                        Ok(())
                    })
                    .expect("transact");
            }
            17 => {
                // Rolled back: must change nothing, whenever it is killed.
                let result: larder::Result<()> = store.transact(|tx| {
                    tx.set(&key, b"never to be seen")?;
                    tx.set(batch_key(writer, 0, 0), b"never to be seen")?;
                    Err(larder::Error::Aborted {
                        what: "on purpose".into(),
                    })
                });
                assert!(
                    matches!(result, Err(larder::Error::Aborted { .. })),
                    "{result:?}"
                );
                continue;
            }
            _ => {
                say(&format!("i count 0 {version} up"));
                let Number::Int(now) = store.incr(count_key(writer), 1, 0).expect("incr") else {
                    panic!("an integer counts in integers");
                };
                say(&format!("a {now}"));
                continue;
            }
        }
        say("a");
    }
}

/// A reader that takes its time, so that a kill may come in the middle of a stream.
struct Slow<'a>(&'a [u8]);

impl Read for Slow<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.0.len().min(buf.len()).min(16_384);
        let (now, rest) = self.0.split_at(n);
        buf[..n].copy_from_slice(now);
        self.0 = rest;
        std::thread::sleep(Duration::from_micros(200));
        Ok(n)
    }
}

/// What a slot may hold: versions of writes, 0 for nothing there. One is sure, more are in flight.
#[derive(Clone, Debug)]
struct May(BTreeSet<u64>);

impl Default for May {
    fn default() -> May {
        May(BTreeSet::from([0]))
    }
}

/// What the writers were told: the truth to judge the store by.
#[derive(Default)]
struct Ledger {
    slots: BTreeMap<Slot, May>,
    /// A call begun and not acknowledged, by writer.
    in_flight: BTreeMap<u64, (Slot, u64)>,
    versions: BTreeMap<u64, u64>,
    acknowledged: u64,
}

impl Ledger {
    fn note(&mut self, writer: u64, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["i", what, at, version, kind] => {
                let at: u64 = at.parse().expect("a number");
                let version: u64 = version.parse().expect("a number");
                let slot = match what {
                    "plain" => Slot::Plain(writer, at),
                    "batch" => Slot::Batch(writer, at),
                    _ => Slot::Count(writer),
                };
                let holds = match kind {
                    "set" => version,
                    "gone" => 0,
                    // One more than the count may be now.
                    _ => u64::MAX,
                };
                self.versions.insert(writer, version);
                self.in_flight.insert(writer, (slot, holds));
            }
            ["a", ref rest @ ..] => {
                let (slot, holds) = self.in_flight.remove(&writer).expect("it had begun");
                let may = self.slots.entry(slot).or_default();
                let holds = match rest.first() {
                    None => holds,
                    Some(count) => {
                        let count: u64 = count.parse().expect("a number");
                        let possible = may.0.iter().any(|before| before + 1 == count);
                        assert!(possible, "counted to {count}, from one of {:?}", may.0);
                        count
                    }
                };
                may.0 = BTreeSet::from([holds]);
                self.acknowledged += 1;
            }
            _ => {}
        }
    }

    /// A writer is dead: what it had begun may have happened or not.
    fn died(&mut self, writer: u64) {
        let Some((slot, holds)) = self.in_flight.remove(&writer) else {
            return;
        };
        let may = self.slots.entry(slot).or_default();
        if holds == u64::MAX {
            let more: Vec<u64> = may.0.iter().map(|count| count + 1).collect();
            may.0.extend(more);
        } else {
            may.0.insert(holds);
        }
    }

    /// Judges every key of a store nobody writes to, and notes what it holds as the truth.
    fn judge(&mut self, store: &Cache, when: &str) {
        for writer in 0..WRITERS {
            for at in 0..KEYS {
                self.settle(
                    Slot::Plain(writer, at),
                    read(store, &plain_key(writer, at)),
                    when,
                );
            }
            for batch in 0..BATCHES {
                let all: Vec<u64> = (0..BATCH_KEYS)
                    .map(|at| read(store, &batch_key(writer, batch, at)))
                    .collect();
                assert!(
                    all.iter().all(|version| *version == all[0]),
                    "{when}: half of a batch: {writer}/{batch} is {all:?}"
                );
                self.settle(Slot::Batch(writer, batch), all[0], when);
            }
            let count = store
                .get(count_key(writer))
                .expect("get")
                .map_or(0, |value| {
                    String::from_utf8_lossy(&value).parse().expect("a count")
                });
            self.settle(Slot::Count(writer), count, when);
        }
        let live: usize = self
            .slots
            .iter()
            .map(|(slot, may)| match slot {
                _ if may.0.contains(&0) => 0,
                Slot::Batch(..) => BATCH_KEYS as usize,
                _ => 1,
            })
            .sum();
        let keys: BTreeSet<Vec<u8>> = store
            .keys()
            .expect("keys")
            .map(|key| key.expect("a key"))
            .collect();
        assert_eq!(
            keys.len(),
            live,
            "{when}: iteration shows what the keys hold"
        );
        assert_eq!(store.len().expect("len"), live as u64, "{when}: len");
    }

    fn settle(&mut self, slot: Slot, holds: u64, when: &str) {
        let may = self.slots.entry(slot).or_default();
        assert!(
            may.0.contains(&holds),
            "{when}: {slot:?} holds {holds}, expected one of {:?}",
            may.0
        );
        may.0 = BTreeSet::from([holds]);
    }
}

/// The version a key holds; 0: none.
fn read(store: &Cache, key: &[u8]) -> u64 {
    match store.get(key).expect("get") {
        None => 0,
        Some(value) => match read_signed(key, &value) {
            Ok((_, version)) => version,
            Err(why) => panic!("{}: {why}", String::from_utf8_lossy(key)),
        },
    }
}

fn spawn(dir: &Path, ledger: &Ledger, dice: &mut Dice, writer: u64) -> Worker {
    let version = ledger.versions.get(&writer).copied().unwrap_or(0);
    start("writer", dir, &[writer, dice.roll(), version])
}

fn kill(ledger: &mut Ledger, writer: u64, worker: Worker) {
    for line in worker.kill() {
        ledger.note(writer, &line);
    }
    ledger.died(writer);
}

#[test]
fn two_hundred_kills_lose_nothing() {
    let seed = common::seed("kill storm");
    let mut dice = Dice::new(seed);
    let dir = common::work_dir();
    let path = dir.path();
    common::small()
        .open(path)
        .expect("a new store")
        .close()
        .expect("close");
    let mut ledger = Ledger::default();
    let mut workers: Vec<Option<Worker>> = (0..WRITERS)
        .map(|writer| Some(spawn(path, &ledger, &mut dice, writer)))
        .collect();
    let begin = Instant::now();
    let (mut kills, mut all_killed, mut rebuilt) = (0_u32, 0_u32, 0_u32);
    let mut next_all = 15;
    // More for a longer storm.
    let times = std::env::var("LARDER_TEST_TIMES").map_or(1, |text| {
        text.parse().expect("LARDER_TEST_TIMES is a number")
    });
    while kills < KILLS_MIN * times {
        assert!(
            begin.elapsed() < TIME_MAX * times,
            "only {kills} kills in {TIME_MAX:?}"
        );
        // From the middle of opening to some hundred writes later.
        std::thread::sleep(Duration::from_micros(dice.below(90_000) + 500));
        if kills < next_all {
            let writer = dice.below(WRITERS);
            let worker = workers[writer as usize].take().expect("it runs");
            kill(&mut ledger, writer, worker);
            kills += 1;
            workers[writer as usize] = Some(spawn(path, &ledger, &mut dice, writer));
            continue;
        }
        next_all = kills + 15 + dice.below(20) as u32;
        // All at once, as near as signals go.
        let doomed: Vec<Worker> = workers
            .iter_mut()
            .map(|worker| worker.take().expect("it runs"))
            .collect();
        for worker in &doomed {
            worker.signal(rustix::process::Signal::KILL);
        }
        for (writer, worker) in doomed.into_iter().enumerate() {
            kill(&mut ledger, writer as u64, worker);
            kills += 1;
        }
        all_killed += 1;
        if dice.one_in(3) {
            common::forget_derived(path);
            rebuilt += 1;
        }
        if dice.one_in(4) {
            // The writers open it themselves, without anybody in between.
        } else {
            let store = Cache::open(path).expect("the store opens after all were killed");
            ledger.judge(&store, &format!("after {kills} kills"));
            if dice.one_in(2) {
                store.close().expect("close");
            }
        }
        for writer in 0..WRITERS {
            workers[writer as usize] = Some(spawn(path, &ledger, &mut dice, writer));
        }
    }
    for (writer, worker) in workers.into_iter().enumerate() {
        kill(&mut ledger, writer as u64, worker.expect("it runs"));
        kills += 1;
    }
    let store = Cache::open(path).expect("the store opens at the end");
    ledger.judge(&store, "at the end");
    common::assert_sound(&store);
    store.set("still", "writable").expect("set");
    store.delete("still").expect("delete");
    drop(store);
    let left: Vec<String> = common::names(path)
        .into_iter()
        .filter(|name| name.ends_with(".tmp"))
        .collect();
    assert!(
        left.is_empty(),
        "streams of the dead are left behind: {left:?}"
    );

    common::forget_derived(path);
    let store = Cache::open(path).expect("the store opens without its maps");
    ledger.judge(&store, "rebuilt from the log");
    common::assert_sound(&store);
    println!(
        "kill storm: {kills} kills ({all_killed} times all at once, {rebuilt} of these rebuilt), \
         {} acknowledged writes, none lost, in {:?}",
        ledger.acknowledged,
        begin.elapsed()
    );
}
