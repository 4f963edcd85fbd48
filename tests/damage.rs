//! Every cut and every flipped bit of a small log is opened again, and no wrong value comes out.
//!
//! The log holds every kind of record: overwrites, deletes, a batch, tags, expiry, numbers, a
//! compressed value and one in a file of its own. Each damage is tried with the mapped files as
//! they were and again after deleting them; what it led to is counted and printed:
//!
//! - *harmless*: every key reads as it should;
//! - *corrupt*: a key gives `Error::Corrupt`, which names the file;
//! - *record lost*: a key is missing that was there;
//! - *end of log*: the store is as it was before the damaged record, and nothing newer is left;
//! - *refused*: the store does not open, with an error that says why.
//!
//! What must never come: a panic, a hang, a value nobody stored, and (when all was known to be
//! durable) an older value than the newest. Damage to one record may cost that record alone.

mod common;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use common::Dice;
use larder::{Cache, Error, ManualClock, Result, SetOptions, ValueKind};

const NOW_MS: u64 = 1_700_000_000_000;
/// No damage may cost more time than this to open and read.
const TIME_MAX: Duration = Duration::from_secs(2);

type Key = Vec<u8>;
type State = BTreeMap<Key, Vec<u8>>;

/// Where a worker process begins; for the test itself there is nothing to do.
#[test]
fn role_entry() {
    let Some(job) = common::job() else { return };
    assert_eq!(job.role, "filler");
    let store = open(&job.store).expect("a new store opens");
    fill(&store);
    common::say("filled");
    common::hear();
}

// ---- the log and what it means ----

/// One change of one key; those with the same `op` were acknowledged together.
#[derive(Clone, Debug)]
struct Change {
    op: usize,
    key: Key,
    value: Option<Vec<u8>>,
}

/// Everything that was ever done to the store, in order.
#[derive(Clone, Debug, Default)]
struct History(Vec<Change>);

impl History {
    fn note(&mut self, key: &[u8], value: Option<&[u8]>) {
        let op = self.0.last().map_or(0, |change| change.op + 1);
        self.0.push(Change {
            op,
            key: key.to_vec(),
            value: value.map(<[u8]>::to_vec),
        });
    }

    fn note_batch(&mut self, items: &[(&[u8], Option<&[u8]>)]) {
        let op = self.0.last().map_or(0, |change| change.op + 1);
        for (key, value) in items {
            self.0.push(Change {
                op,
                key: key.to_vec(),
                value: value.map(<[u8]>::to_vec),
            });
        }
    }

    /// The state before change number `at`, less the rest of its batch.
    fn before(&self, at: usize) -> State {
        let mut state = State::new();
        let op = self.0.get(at).map_or(usize::MAX, |change| change.op);
        for change in self.0.iter().filter(|change| change.op < op) {
            match &change.value {
                Some(value) => state.insert(change.key.clone(), value.clone()),
                None => state.remove(&change.key),
            };
        }
        state
    }

    fn newest(&self) -> State {
        self.before(usize::MAX)
    }

    fn keys(&self) -> Vec<Key> {
        let mut keys: Vec<Key> = self.0.iter().map(|change| change.key.clone()).collect();
        keys.sort();
        keys.dedup();
        keys
    }

    fn ever_held(&self, key: &[u8], value: &[u8]) -> bool {
        self.0
            .iter()
            .any(|change| change.key == key && change.value.as_deref() == Some(value))
    }

    /// The keys change number `at` may cost: its own, and those of its batch; none whose newest
    /// change is a later one.
    fn cost_of(&self, at: usize) -> Vec<Key> {
        let op = self.0[at].op;
        let newest = |key: &Key| self.0.iter().rfind(|change| change.key == *key);
        self.0
            .iter()
            .filter(|change| change.op == op)
            .filter(|change| newest(&change.key).is_some_and(|newest| newest.op == op))
            .map(|change| change.key.clone())
            .collect()
    }
}

fn open(dir: &Path) -> Result<Cache> {
    common::small()
        .clock(Arc::new(ManualClock::new(NOW_MS)))
        .open(dir)
}

/// Writes the small log.
fn fill(store: &Cache) -> History {
    let mut history = History::default();
    let plain = SetOptions::default();
    let mut set = |key: &str, value: &[u8], options: &SetOptions| {
        store.set_with(key, value, options).expect("set_with");
        history.note(key.as_bytes(), Some(value));
    };
    set("a", b"the first of a", &plain);
    set("b", b"the first of b", &plain);
    // As long as before, so that the two records lie a power of two apart.
    set("a", b"the second a..", &plain);
    set(
        "tagged",
        b"with tags",
        &plain.clone().tag("red").tag("blue"),
    );
    set(
        "expires",
        b"in an hour",
        &plain.clone().ttl(Duration::from_secs(3600)),
    );
    set(
        "text",
        "a text, \u{fc}".as_bytes(),
        &plain.clone().kind(ValueKind::Text),
    );
    set("squeezed", &[b'z'; 600], &plain.clone().compress(true));
    set("", b"the empty key's", &plain);
    set("gone", b"to be deleted", &plain);
    store.delete("gone").expect("delete");
    history.note(b"gone", None);
    store.set_number("n", 41, &plain).expect("set_number");
    history.note(b"n", Some(b"41"));
    store.incr("n", 1, 0).expect("incr");
    history.note(b"n", Some(b"42"));
    store
        .transact(|tx| {
            tx.set("x", "first of the batch")?;
            tx.set("b", "the second of b")?;
            tx.set("y", "last of the batch")
        })
        .expect("transact");
    history.note_batch(&[
        (b"x", Some(b"first of the batch")),
        (b"b", Some(b"the second of b")),
        (b"y", Some(b"last of the batch")),
    ]);
    let large = Dice::new(5).bytes(common::SMALL_LARGE_VALUE_BYTES as usize + 100);
    store.set("large", &large).expect("set");
    history.note(b"large", Some(&large));
    store.set("last", "of the log").expect("set");
    history.note(b"last", Some(b"of the log"));
    history
}

/// Where a record lies in its segment, and which change of the history it is (none: a
/// checkpoint, or whatever else is not a change of a key).
#[derive(Clone, Debug)]
struct Record {
    at: u64,
    end: u64,
    change: Option<usize>,
}

/// Lists the records of a segment, and ties them to the history.
fn records(store: &Cache, segment: u64, history: &History, first_change: usize) -> Vec<Record> {
    let lines: Vec<(u64, Option<Key>)> = store
        .log(segment)
        .expect("log")
        .map(|line| {
            let line = line.expect("a sound log");
            let json = serde_json::to_value(&line).expect("a line serializes");
            let at = json["at"].as_u64().expect("a line says where it is");
            let is_change =
                json["space"] == 0 && matches!(json["kind"].as_str(), Some("set" | "delete"));
            let key = is_change.then(|| {
                let bytes = json["key"].as_array().expect("a change has a key");
                bytes
                    .iter()
                    .map(|byte| byte.as_u64().expect("a byte") as u8)
                    .collect()
            });
            (at, key)
        })
        .collect();
    let mut next = first_change;
    let mut records: Vec<Record> = Vec::new();
    for (at, key) in lines {
        if let Some(before) = records.last_mut() {
            before.end = at;
        }
        let change = key.map(|key: Key| {
            assert_eq!(
                history.0[next].key, key,
                "the log has the changes in their order"
            );
            next += 1;
            next - 1
        });
        // The last one's end is not known by name: what follows is told apart by its zeros.
        records.push(Record {
            at,
            end: at + 32,
            change,
        });
    }
    assert!(
        next <= history.0.len(),
        "more changes in the log than were made"
    );
    records
}

// ---- a store to damage ----

/// The bytes of a sound store, to lay out again and again.
struct Bench {
    dir: tempfile::TempDir,
    known: Known,
    files: Vec<(String, Vec<u8>, u64)>,
    history: History,
    records: Vec<Record>,
    remade: u32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Maps {
    Kept,
    Deleted,
}

impl fmt::Display for Maps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Maps::Kept => "with the maps",
            Maps::Deleted => "maps deleted",
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Known {
    /// Flushed and closed.
    Durable,
    /// As a kill would leave its log: written, never flushed.
    Written,
    /// As a kill leaves it, maps and all.
    Killed,
}

impl Bench {
    fn new(known: Known) -> Bench {
        let mut bench = Bench {
            dir: common::fast_dir(),
            known,
            files: Vec::new(),
            history: History::default(),
            records: Vec::new(),
            remade: 0,
        };
        bench.make();
        bench
    }

    fn make(&mut self) {
        let known = self.known;
        self.empty();
        let store = open(self.dir.path()).expect("a new store opens");
        self.history = fill(&store);
        if known == Known::Durable {
            store.flush().expect("flush");
        }
        let segments = store.segments().expect("segments");
        assert_eq!(segments.len(), 1, "the small log fits into one segment");
        self.records = records(&store, segments[0], &self.history, 0);
        let changes = self
            .records
            .iter()
            .filter(|record| record.change.is_some())
            .count();
        assert_eq!(changes, self.history.0.len(), "each change is a record");
        match known {
            Known::Durable => {
                store.close().expect("close");
                self.snapshot();
            }
            Known::Written => {
                // The bytes a killed process would have left.
                self.snapshot();
                drop(store);
            }
            Known::Killed => {
                drop(store);
                self.empty();
                let mut worker = common::start("filler", self.dir.path(), &[]);
                worker.expect("filled");
                worker.kill();
                self.snapshot();
            }
        }
        let last = self.records.last_mut().expect("it has records");
        let (_, bytes, _) = self
            .files
            .iter()
            .find(|file| file.0.ends_with(".seg"))
            .expect("one");
        // Its end: the last byte before the zeros in the middle of the file.
        let zeros = (last.at as usize + 8..bytes.len())
            .find(|at| bytes[*at..].iter().take(512).all(|byte| *byte == 0))
            .expect("the segment has room left");
        // Records end on a multiple of eight.
        last.end = (zeros as u64).next_multiple_of(8);
    }

    fn empty(&self) {
        for name in common::names(self.dir.path()) {
            let path = self.dir.path().join(name);
            if path.is_dir() {
                fs::remove_dir_all(path).expect("removed");
            } else {
                fs::remove_file(path).expect("removed");
            }
        }
    }

    /// The derived files that have something in them.
    fn maps(&self) -> Vec<String> {
        let maps = self
            .files
            .iter()
            .filter(|file| !common::is_log(&file.0) && !file.1.is_empty());
        maps.map(|file| file.0.clone()).collect()
    }

    fn bytes_of(&self, name: &str) -> Option<&Vec<u8>> {
        self.files
            .iter()
            .find(|file| file.0 == name)
            .map(|file| &file.1)
    }

    fn snapshot(&mut self) {
        self.files.clear();
        for name in common::names(self.dir.path()) {
            let path = self.dir.path().join(&name);
            if path.is_file() {
                let inode = fs::metadata(&path).expect("metadata").ino();
                let bytes = fs::read(&path).expect("the file reads");
                self.files.push((name, bytes, inode));
            }
        }
    }

    /// Lays the sound store out again. With its maps, the files stay the same files: a store
    /// knows a copy of itself, and would not trust its maps.
    fn restore(&mut self, maps: Maps) {
        let dir = self.dir.path().to_path_buf();
        let same = |name: &str, inode: u64| {
            fs::metadata(dir.join(name)).is_ok_and(|meta| meta.ino() == inode)
        };
        if maps == Maps::Kept && !self.files.iter().all(|(name, _, inode)| same(name, *inode)) {
            self.remade += 1;
            self.make();
            return;
        }
        for name in common::names(&dir) {
            let path = dir.join(&name);
            let keep = self.files.iter().any(|file| file.0 == name)
                && (maps == Maps::Kept || common::is_log(&name));
            if path.is_dir() {
                fs::remove_dir_all(path).expect("removed");
            } else if !keep {
                fs::remove_file(path).expect("removed");
            }
        }
        for (name, bytes, _) in &self.files {
            if maps == Maps::Kept || common::is_log(name) {
                // Opened without truncation: it stays the same file, and is whole again.
                let file = fs::OpenOptions::new()
                    .write(true)
                    .create(true)
                    .truncate(false)
                    .open(dir.join(name))
                    .expect("the file opens");
                file.set_len(bytes.len() as u64).expect("the length is set");
                std::os::unix::fs::FileExt::write_all_at(&file, bytes, 0).expect("written");
            }
        }
    }

    fn segment(&self) -> (&str, &[u8]) {
        let (name, bytes, _) = self
            .files
            .iter()
            .find(|file| file.0.ends_with(".seg"))
            .expect("a segment");
        (name, bytes)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn record_at(&self, at: u64) -> Option<&Record> {
        self.records
            .iter()
            .find(|record| record.at <= at && at < record.end)
    }
}

// ---- what a damaged store shows ----

#[derive(Clone, Debug, PartialEq)]
enum Reading {
    Value(Vec<u8>),
    Missing,
    Corrupt,
    Error(String),
}

struct Findings {
    readings: BTreeMap<Key, Reading>,
    /// Whether `check` found nothing wrong.
    sound: bool,
}

/// Reads everything in every way; panics on what no damage may cause.
fn examine(dir: &Path, history: &History) -> Result<Findings, Error> {
    let store = open(dir)?;
    let newest = history.newest();
    let mut readings = BTreeMap::new();
    for key in history.keys() {
        let reading = match store.get(&key) {
            Ok(Some(value)) => Reading::Value(value.into_vec()),
            Ok(None) => Reading::Missing,
            Err(Error::Corrupt { path, .. }) => {
                assert!(path.starts_with(dir), "Corrupt names {}", path.display());
                Reading::Corrupt
            }
            Err(other) => Reading::Error(other.to_string()),
        };
        if let Reading::Value(value) = &reading {
            assert!(
                history.ever_held(&key, value),
                "a value nobody stored: {:?} of {:?}",
                String::from_utf8_lossy(value),
                String::from_utf8_lossy(&key)
            );
            if newest.get(&key) == Some(value) {
                examine_entry(&store, &key);
            }
        }
        readings.insert(key, reading);
    }
    let mut items = 0;
    for item in store.iter()?.take(1_000) {
        items += 1;
        if let Ok((key, value)) = item {
            assert!(
                history.ever_held(&key, &value),
                "iteration shows a value nobody stored"
            );
            if let Some(Reading::Value(read)) = readings.get(&key) {
                assert!(value[..] == read[..], "iteration and get differ");
            }
        }
    }
    assert!(items <= 500, "iteration does not end");
    let _ = store.iter()?.rev().take(1_000).count();
    let _ = store.iter_sorted().map(|iter| iter.take(1_000).count());
    let _ = store.len();
    let _ = store.volume();
    let _ = store.settings();
    for segment in store.segments().unwrap_or_default().into_iter().take(10) {
        if let Ok(log) = store.log(segment) {
            for line in log.take(1_000) {
                let _ = line.map(|line| line.to_string());
            }
        }
    }
    let sound = store.check().is_ok_and(|report| report.is_sound());
    // And it goes on, or says why not.
    let mut written = store.set("fresh", "after the damage");
    let store = if written.is_err() {
        // At the latest once it was opened again.
        drop(store);
        let store = open(dir)?;
        written = store.set("fresh", "after the damage");
        store
    } else {
        store
    };
    match written {
        Ok(()) => match store.get("fresh") {
            Ok(Some(value)) => assert!(value[..] == *b"after the damage", "fresh"),
            Ok(None) => panic!("what was just written is missing"),
            Err(error) => panic!("what was just written gives {error}"),
        },
        Err(error) => {
            readings.insert(b"fresh".to_vec(), Reading::Error(error.to_string()));
        }
    }
    Ok(Findings { readings, sound })
}

/// A value that reads right has the right tags and expiry beside it.
fn examine_entry(store: &Cache, key: &[u8]) {
    let Ok(Some(entry)) = store.get_entry(key) else {
        return;
    };
    let tags = if key == b"tagged" { 2 } else { 0 };
    assert_eq!(entry.tags.len(), tags, "tags {:?}", entry.tags);
    let expires = (key == b"expires")
        .then(|| UNIX_EPOCH + Duration::from_millis(NOW_MS) + Duration::from_secs(3600));
    assert_eq!(entry.expires_at, expires);
    let kind = match key {
        b"n" => ValueKind::Integer,
        b"text" => ValueKind::Text,
        _ => ValueKind::Bytes,
    };
    assert_eq!(entry.kind, kind);
}

/// What one damage led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Harmless,
    Corrupt,
    RecordLost,
    EndOfLog,
    Refused,
}

/// What a damage is allowed to lead to.
enum Allowed {
    /// These keys may be missing or corrupt, never older; all others read right.
    Only(Vec<Key>),
    /// As `Only`; or all keys are as they were before one of these changes, and nothing newer is
    /// left.
    OnlyOrEnd(Vec<Key>, Vec<usize>),
    /// Every key may be missing or corrupt, never older; the store may refuse to open.
    Anything,
    /// Keys changed from this change on may be missing or corrupt, never older.
    From(usize),
    /// Keys changed from this change on may be missing, corrupt, or as before it.
    FromOrOlder(usize),
}

/// Judges what was found; `Err` says what is wrong with it.
fn judge(history: &History, found: &Findings, allowed: &Allowed) -> Result<Outcome, String> {
    let newest = history.newest();
    let right = |key: &Key, reading: &Reading, state: &State| match (reading, state.get(key)) {
        (Reading::Value(found), Some(value)) => found == value,
        (Reading::Missing, None) => true,
        _ => false,
    };
    if let Allowed::OnlyOrEnd(_, ends) = allowed {
        let is_as = |state: &State| {
            history
                .keys()
                .iter()
                .all(|key| right(key, &found.readings[key], state))
        };
        if !is_as(&newest) && ends.iter().any(|at| is_as(&history.before(*at))) {
            return Ok(Outcome::EndOfLog);
        }
    }
    let mut outcome = Outcome::Harmless;
    for (key, reading) in &found.readings {
        let name = String::from_utf8_lossy(key).into_owned();
        if key == b"fresh" {
            return Err(format!("no write is possible: {reading:?}"));
        }
        if right(key, reading, &newest) {
            continue;
        }
        let touched = |at: usize| {
            history.0[at.min(history.0.len())..]
                .iter()
                .any(|change| change.key == *key)
        };
        let may_differ = match allowed {
            Allowed::Only(keys) | Allowed::OnlyOrEnd(keys, _) => keys.contains(key),
            Allowed::Anything => true,
            Allowed::From(at) | Allowed::FromOrOlder(at) => touched(*at),
        };
        if !may_differ {
            return Err(format!(
                "`{name}` reads {reading:?}, which the damage does not touch"
            ));
        }
        let this = match reading {
            Reading::Missing => Outcome::RecordLost,
            Reading::Corrupt => Outcome::Corrupt,
            Reading::Error(text) => return Err(format!("`{name}` gives another error: {text}")),
            Reading::Value(value) => {
                let older_is_right = match allowed {
                    Allowed::FromOrOlder(at) => history.before(*at).get(key) == Some(value),
                    _ => false,
                };
                if !older_is_right {
                    return Err(format!(
                        "`{name}` shows an older value: {:?}",
                        String::from_utf8_lossy(value)
                    ));
                }
                Outcome::EndOfLog
            }
        };
        outcome = outcome.max(this);
    }
    let must_notice = !matches!(allowed, Allowed::OnlyOrEnd(..) | Allowed::FromOrOlder(_));
    if must_notice && outcome != Outcome::Harmless && found.sound {
        return Err(format!(
            "check() finds nothing, though a key is {outcome:?}"
        ));
    }
    Ok(outcome)
}

/// Counts of outcomes, and what went wrong.
#[derive(Default)]
struct Tally {
    counts: BTreeMap<Outcome, u64>,
    /// By what is wrong: how often, and the first and last damage that led to it.
    bad: BTreeMap<String, (u64, String, String)>,
    longest: Duration,
    /// The first time a store was refused, and why.
    refusals: Option<String>,
}

impl Tally {
    /// Opens the damaged store and judges it.
    fn run(&mut self, bench: &Bench, what: &dyn Fn() -> String, allowed: &Allowed) {
        let begin = Instant::now();
        if std::env::var_os("LARDER_TEST_TRACE").is_some() {
            eprintln!("{}", what());
        }
        let watch = common::Watch::new(Duration::from_secs(100), what());
        let result = catch_unwind(AssertUnwindSafe(|| {
            examine(bench.dir.path(), &bench.history)
        }));
        drop(watch);
        let took = begin.elapsed();
        self.longest = self.longest.max(took);
        let verdict = match result {
            Err(panic) => {
                let text = panic
                    .downcast_ref::<String>()
                    .cloned()
                    .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                    .unwrap_or_default();
                Err(format!("panic: {text}"))
            }
            Ok(Err(error)) if matches!(allowed, Allowed::Anything) => {
                let clear = matches!(
                    error,
                    Error::Corrupt { .. } | Error::Unsupported { .. } | Error::NotAStore { .. }
                );
                if clear {
                    let example = || format!("{}: {error}", what());
                    self.refusals.get_or_insert_with(example);
                    Ok(Outcome::Refused)
                } else {
                    Err(format!("opening gives {error}"))
                }
            }
            Ok(Err(error)) => Err(format!("does not open: {error}")),
            Ok(Ok(found)) => judge(&bench.history, &found, allowed),
        };
        let verdict = verdict.and_then(|outcome| {
            if took > TIME_MAX {
                return Err(format!("took {took:?}"));
            }
            Ok(outcome)
        });
        match verdict {
            Ok(outcome) => *self.counts.entry(outcome).or_default() += 1,
            Err(why) => {
                let what = what();
                let entry = self
                    .bad
                    .entry(why)
                    .or_insert((0, what.clone(), what.clone()));
                entry.0 += 1;
                entry.2 = what;
            }
        }
    }

    fn print(&self, what: &str) {
        println!(
            "{what}: {:?}, {} bad; longest {:?}",
            self.counts,
            self.bad.values().map(|bad| bad.0).sum::<u64>(),
            self.longest
        );
        if let Some(first) = &self.refusals {
            println!("  refused first: {first}");
        }
        for (why, (count, first, last)) in &self.bad {
            println!("  {count} x {why}: {first} … {last}");
        }
    }

    fn finish(self, what: &str) {
        self.print(what);
        assert!(self.bad.is_empty(), "{what}: see above");
    }
}

// ---- the stories ----

/// Every bit from the segment's start to its last record's end, and every bit of what stands at
/// its end; of the untouched middle a sample.
fn bits_of_segment(bench: &Bench, dice: &mut Dice) -> Vec<u64> {
    let (_, bytes) = bench.segment();
    let front = bench.records.last().expect("it has records").end;
    let tail = (front..bytes.len() as u64)
        .find(|at| bytes[*at as usize] != 0)
        .unwrap_or(bytes.len() as u64);
    let mut bits: Vec<u64> = (0..front * 8)
        .chain(tail * 8..bytes.len() as u64 * 8)
        .collect();
    for _ in 0..200 {
        bits.push(front * 8 + dice.below((tail - front) * 8));
    }
    bits
}

/// What a flipped bit at this byte of the segment may cost.
fn allowed_for_byte(bench: &Bench, byte: u64, known: Known) -> Allowed {
    let first = bench.records[0].at;
    if byte < first {
        return Allowed::Anything; // the segment's own header
    }
    match bench.record_at(byte).map(|record| record.change) {
        Some(Some(change)) => {
            let keys = bench.history.cost_of(change);
            match known {
                // Of a durable batch, too, the damaged record alone.
                Known::Durable | Known::Killed => {
                    let own = &bench.history.0[change].key;
                    Allowed::Only(keys.into_iter().filter(|key| key == own).collect())
                }
                Known::Written => Allowed::OnlyOrEnd(keys, vec![change]),
            }
        }
        // A record of the store's own, perhaps in one batch with the change before or after it.
        Some(None) if known == Known::Written => {
            let next = bench
                .records
                .iter()
                .filter(|record| record.at > byte)
                .find_map(|r| r.change);
            let next = next.unwrap_or(bench.history.0.len());
            Allowed::OnlyOrEnd(Vec::new(), vec![next, next.saturating_sub(1)])
        }
        // The summary at the end, or nothing at all: the records are whole.
        _ => Allowed::Only(Vec::new()),
    }
}

fn flip_every_bit_of_the_segment(known: Known, maps: Maps) {
    let mut dice = Dice::new(common::seed("flips"));
    let bench = Bench::new(known);
    let bits = bits_of_segment(&bench, &mut dice);
    flip_bits_of_the_segment(bench, maps, &bits);
}

fn flip_bits_of_the_segment(mut bench: Bench, maps: Maps, bits: &[u64]) {
    let known = bench.known;
    let mut tally = Tally::default();
    let begin = Instant::now();
    for bit in bits {
        bench.restore(maps);
        let name = bench.segment().0.to_owned();
        common::flip(&bench.path(&name), *bit);
        let allowed = allowed_for_byte(&bench, bit / 8, known);
        let what = || match bench.record_at(bit / 8) {
            Some(record) => format!(
                "bit {bit} (byte {} of the record at {}, change {:?})",
                bit / 8 - record.at,
                record.at,
                record
                    .change
                    .map(|at| String::from_utf8_lossy(&bench.history.0[at].key).into_owned())
            ),
            None => format!("bit {bit} (byte {} of the file)", bit / 8),
        };
        tally.run(&bench, &what, &allowed);
    }
    println!(
        "{} bits in {:?}, the store made anew {} times",
        bits.len(),
        begin.elapsed(),
        bench.remade
    );
    tally.finish(&format!("flipped bits of a {known:?} segment, {maps}"));
}

#[test]
fn every_flipped_bit_of_a_durable_segment_with_the_maps() {
    flip_every_bit_of_the_segment(Known::Durable, Maps::Kept);
}

#[test]
fn every_flipped_bit_of_a_durable_segment_after_deleting_the_maps() {
    flip_every_bit_of_the_segment(Known::Durable, Maps::Deleted);
}

#[test]
fn flipped_bits_of_an_unflushed_segment_after_deleting_the_maps() {
    let mut dice = Dice::new(common::seed("flips"));
    let bench = Bench::new(Known::Written);
    let mut bits = bits_of_segment(&bench, &mut dice);
    bits.retain(|_| dice.one_in(4));
    flip_bits_of_the_segment(bench, Maps::Deleted, &bits);
}

/// A bit of every byte: what is left of a killed process is trusted by other rules.
#[test]
fn flipped_bits_of_a_segment_a_killed_process_left() {
    let mut dice = Dice::new(common::seed("flips"));
    let bench = Bench::new(Known::Killed);
    let mut bits = bits_of_segment(&bench, &mut dice);
    bits.retain(|_| dice.one_in(8));
    flip_bits_of_the_segment(bench, Maps::Kept, &bits);
}

fn cut_the_segment_everywhere(known: Known, maps: Maps) {
    let mut bench = Bench::new(known);
    let len = bench.segment().1.len() as u64;
    let front = bench.records.last().expect("it has records").end;
    let mut dice = Dice::new(common::seed("cuts"));
    let mut cuts: Vec<u64> = (0..=front).collect();
    cuts.extend((0..300).map(|_| front + dice.below(len - front)));
    cuts.extend((1..300).map(|back| len - back));
    let mut tally = Tally::default();
    for cut in &cuts {
        bench.restore(maps);
        let name = bench.segment().0.to_owned();
        common::cut_at(&bench.path(&name), *cut);
        let first = bench.records[0].at;
        let lost = bench
            .records
            .iter()
            .filter(|record| record.end > *cut)
            .find_map(|record| record.change)
            .unwrap_or(bench.history.0.len());
        // The whole batch goes with its first lost record.
        let lost = bench.history.0.iter().position(|change| {
            bench
                .history
                .0
                .get(lost)
                .is_some_and(|first| first.op == change.op)
        });
        let lost = lost.unwrap_or(bench.history.0.len());
        let allowed = if *cut < first && maps == Maps::Deleted {
            Allowed::Anything
        } else if maps == Maps::Kept {
            Allowed::From(lost)
        } else {
            // What told of the newer version was cut off with it.
            Allowed::FromOrOlder(lost)
        };
        tally.run(&bench, &|| format!("cut at {cut}"), &allowed);
    }
    println!(
        "{} cuts, the store made anew {} times",
        cuts.len(),
        bench.remade
    );
    tally.finish(&format!("every cut of a {known:?} segment, {maps}"));
}

#[test]
fn every_cut_of_a_durable_segment_with_the_maps() {
    cut_the_segment_everywhere(Known::Durable, Maps::Kept);
}

#[test]
fn every_cut_of_a_durable_segment_after_deleting_the_maps() {
    cut_the_segment_everywhere(Known::Durable, Maps::Deleted);
}

#[test]
fn every_cut_of_an_unflushed_segment_after_deleting_the_maps() {
    cut_the_segment_everywhere(Known::Written, Maps::Deleted);
}

/// All bits of used bytes in the derived files if there is time, else as many as there is time
/// for, drawn by the seed; of the bytes that are zero a sample.
#[test]
fn flipped_bits_of_the_maps_give_no_wrong_value() {
    flip_bits_of_the_maps(Known::Durable);
}

#[test]
fn flipped_bits_of_maps_a_killed_process_left_give_no_wrong_value() {
    flip_bits_of_the_maps(Known::Killed);
}

/// How long to go on with bits of one derived file; more time, more bits.
fn time_for(files: usize) -> Duration {
    let seconds = std::env::var("LARDER_TEST_SECONDS").map_or(10, |text| {
        text.parse().expect("LARDER_TEST_SECONDS is a number")
    });
    Duration::from_secs(seconds) / files as u32
}

/// All bits of bytes in use, and of the others a sample: three to one, for as long as both last.
/// Also says how many are in use.
fn bits_of_map(bytes: &[u8], dice: &mut Dice) -> (Vec<u64>, usize) {
    let mut bits = Vec::new();
    for (at, byte) in bytes.iter().enumerate() {
        if *byte != 0 {
            bits.extend((0..8).map(|bit| at as u64 * 8 + bit));
        }
    }
    let used = bits.len();
    dice.shuffle(&mut bits);
    let mut others: Vec<u64> = (0..2_000)
        .map(|_| dice.below(bytes.len() as u64 * 8))
        .collect();
    let mut order = Vec::new();
    for (at, bit) in bits.into_iter().enumerate() {
        order.push(bit);
        if at % 3 == 2 {
            order.extend(others.pop());
        }
    }
    order.extend(others);
    (order, used)
}

fn flip_bits_of_the_maps(known: Known) {
    let mut dice = Dice::new(common::seed("map flips"));
    let mut bench = Bench::new(known);
    let names = bench.maps();
    let per_file = time_for(names.len());
    let mut bad = 0;
    for name in names {
        let find = |bench: &Bench| bench.bytes_of(&name).cloned();
        let bytes = find(&bench).expect("it is there");
        let (order, used) = bits_of_map(&bytes, &mut dice);
        let begin = Instant::now();
        let mut tally = Tally::default();
        let mut tried = 0;
        for bit in &order {
            if begin.elapsed() > per_file {
                break;
            }
            bench.restore(Maps::Kept);
            if find(&bench).is_none_or(|now| now.len() as u64 * 8 <= *bit) {
                continue; // made anew under another name
            }
            common::flip(&bench.path(&name), *bit);
            tally.run(
                &bench,
                &|| format!("{name}: bit {bit} (byte {})", bit / 8),
                &Allowed::Anything,
            );
            tried += 1;
        }
        tally.print(&format!(
            "{known:?}, {name}: {tried} of {used} used bits and 2000 others flipped"
        ));
        bad += tally.bad.len();
    }
    assert_eq!(bad, 0, "see above");
}

/// The maps are shared and anybody may damage them at any time: an open handle gives no wrong
/// value either, whatever it meets.
#[test]
fn flipped_bits_under_an_open_handle_give_no_wrong_value() {
    let mut dice = Dice::new(common::seed("live flips"));
    let mut bench = Bench::new(Known::Durable);
    bench.restore(Maps::Kept);
    let names = bench.maps();
    let per_file = time_for(names.len());
    let newest = bench.history.newest();
    let mut bad = BTreeMap::new();
    for name in names {
        let store = open(bench.dir.path()).expect("opens");
        let store = store.with_timeout(Some(Duration::from_millis(100)));
        for key in bench.history.keys() {
            store.get(&key).expect("get"); // all is mapped now
        }
        let bytes = fs::read(bench.path(&name)).expect("reads");
        let (order, used) = bits_of_map(&bytes, &mut dice);
        let (begin, mut counts, mut tried) = (Instant::now(), [0_u64; 3], 0_u64);
        let mut longest = Duration::ZERO;
        for bit in order {
            if begin.elapsed() > per_file {
                break;
            }
            let at = Instant::now();
            let watch =
                common::Watch::new(Duration::from_secs(100), format!("live, {name}: bit {bit}"));
            common::flip(&bench.path(&name), bit);
            let mut note = |what: String| {
                let entry = bad.entry(format!("{name}: {what}")).or_insert((0, bit));
                entry.0 += 1;
            };
            for key in bench.history.keys() {
                let text = String::from_utf8_lossy(&key).into_owned();
                match store.get(&key) {
                    Ok(Some(found)) if newest.get(&key).is_some_and(|v| *v == found[..]) => {
                        counts[0] += 1;
                    }
                    Ok(Some(found)) if bench.history.ever_held(&key, &found) => {
                        note(format!("an older value of `{text}`"));
                    }
                    Ok(Some(_)) => note(format!("a foreign value of `{text}`")),
                    Ok(None) if newest.contains_key(&key) => counts[1] += 1,
                    Ok(None) => counts[0] += 1,
                    Err(_) => counts[2] += 1,
                }
            }
            for (key, value) in store.iter().into_iter().flatten().take(1_000).flatten() {
                if !bench.history.ever_held(&key, &value) {
                    note("iteration shows a foreign value".into());
                }
            }
            let _ = store.len();
            let _ = store.keys().map(|keys| keys.rev().take(1_000).count());
            common::flip(&bench.path(&name), bit);
            drop(watch);
            tried += 1;
            longest = longest.max(at.elapsed());
        }
        let [right, missing, errors] = counts;
        println!(
            "live, {name}: {tried} bits, {used} of them used: {right} reads right, {missing} missing, {errors} errors; longest {longest:?}"
        );
        assert!(longest < TIME_MAX, "{name}: {longest:?}");
        for (key, value) in &newest {
            let found = store.get(key).expect("get").expect("all is as it was");
            assert!(found[..] == value[..], "{}", String::from_utf8_lossy(key));
        }
        drop(store);
        bench.make();
    }
    assert!(bad.is_empty(), "(how often, first bit): {bad:#?}");
}

/// Not a bit but all of it: derived files full of zeros, ones, noise, or cut short.
#[test]
fn derived_files_full_of_garbage_give_no_wrong_value() {
    let mut dice = Dice::new(common::seed("garbage"));
    let mut tally = Tally::default();
    for known in [Known::Durable, Known::Killed] {
        let mut bench = Bench::new(known);
        for name in bench.maps() {
            for round in 0..60 {
                bench.restore(Maps::Kept);
                let Some(mut bytes) = bench.bytes_of(&name).cloned() else {
                    continue;
                };
                let len = bytes.len() as u64;
                let what = match round {
                    0 => {
                        bytes.fill(0);
                        "zeros".to_owned()
                    }
                    1 => {
                        bytes.fill(0xff);
                        "ones".to_owned()
                    }
                    2..5 => {
                        bytes = dice.bytes(bytes.len());
                        "noise".to_owned()
                    }
                    5..15 => {
                        let cut = [0, 1, 63, 64, 4_095, 4_096, len / 2, len - 1, 8, len - 64];
                        bytes.truncate(cut[round - 5] as usize);
                        format!("cut to {}", bytes.len())
                    }
                    _ => {
                        // Noise in a few lines of the file, where something is if it can be.
                        let used: Vec<usize> = (0..bytes.len() / 64)
                            .filter(|n| bytes[n * 64..][..64] != [0; 64])
                            .collect();
                        for _ in 0..dice.below(4) + 1 {
                            let line = match used.len() {
                                0 => dice.below(len / 64) as usize,
                                n => used[dice.below(n as u64) as usize],
                            };
                            let noise = dice.bytes(64);
                            bytes[line * 64..][..64].copy_from_slice(&noise);
                        }
                        "noise in some lines".to_owned()
                    }
                };
                // In place: the same file still.
                let file = fs::OpenOptions::new()
                    .write(true)
                    .open(bench.path(&name))
                    .expect("opens");
                file.set_len(bytes.len() as u64).expect("the length is set");
                std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 0).expect("written");
                tally.run(
                    &bench,
                    &|| format!("{known:?}, {name}: {what}"),
                    &Allowed::Anything,
                );
            }
        }
    }
    // The log is whole: there is no reason not to open.
    let refused = tally.counts.get(&Outcome::Refused).copied();
    tally.finish("derived files of garbage");
    assert_eq!(refused, None, "refused to open for a derived file");
}

#[test]
fn a_damaged_or_cut_value_file_is_corrupt() {
    let mut dice = Dice::new(common::seed("value files"));
    let mut bench = Bench::new(Known::Durable);
    let (name, bytes) = {
        let file = bench
            .files
            .iter()
            .find(|file| file.0.ends_with(".val"))
            .expect("a value file");
        (file.0.clone(), file.1.clone())
    };
    let mut tally = Tally::default();
    let mut try_it = |bench: &mut Bench, what: &str, maps: Maps, damage: &dyn Fn(&Path)| {
        bench.restore(maps);
        // Made anew, it may have another name.
        let file = bench
            .files
            .iter()
            .find(|file| file.0.ends_with(".val"))
            .expect("one")
            .0
            .clone();
        damage(&bench.path(&file));
        let store = open(bench.dir.path()).expect("a value's damage is no reason not to open");
        let error = store.get("large").expect_err("a damaged value");
        assert!(matches!(error, Error::Corrupt { .. }), "{what}: {error:?}");
        assert!(
            error.to_string().contains(&file),
            "{what}: `{error}` names {file}"
        );
        let read = store.get_reader("large").and_then(|reader| {
            let mut all = Vec::new();
            reader
                .expect("the entry is there")
                .read_to_end(&mut all)
                .map_err(|source| Error::Io {
                    path: PathBuf::new(),
                    doing: "read",
                    source,
                })
        });
        assert!(
            read.is_err(),
            "{what}: a reader read it to the end: {read:?}"
        );
        drop(store);
        tally.run(
            bench,
            &|| what.to_owned(),
            &Allowed::Only(vec![b"large".to_vec()]),
        );
    };
    for byte in 0..bytes.len() as u64 {
        if byte % 7 != 0 && byte > 64 {
            continue;
        }
        let bit = byte * 8 + dice.below(8);
        let maps = if dice.one_in(2) {
            Maps::Kept
        } else {
            Maps::Deleted
        };
        try_it(
            &mut bench,
            &format!("{name}: bit {bit}, {maps}"),
            maps,
            &|path| {
                common::flip(path, bit);
            },
        );
    }
    for _ in 0..40 {
        let len = dice.below(bytes.len() as u64);
        let maps = if dice.one_in(2) {
            Maps::Kept
        } else {
            Maps::Deleted
        };
        try_it(
            &mut bench,
            &format!("{name}: cut at {len}, {maps}"),
            maps,
            &|path| {
                common::cut_at(path, len);
            },
        );
    }
    tally.finish("value file");
}

#[test]
fn a_missing_value_file_is_an_error_of_its_entry_alone() {
    let mut bench = Bench::new(Known::Durable);
    for maps in [Maps::Kept, Maps::Deleted] {
        bench.restore(maps);
        let file = bench
            .files
            .iter()
            .find(|file| file.0.ends_with(".val"))
            .expect("one")
            .0
            .clone();
        fs::remove_file(bench.path(&file)).expect("removed");
        let store = open(bench.dir.path()).expect("opens");
        let error = store.get("large").expect_err("its file is gone");
        assert!(matches!(error, Error::Corrupt { .. }), "{maps}: {error:?}");
        assert!(error.to_string().contains(&file), "`{error}` names {file}");
        assert!(!store.check().expect("check").is_sound());
        assert_eq!(
            &store.get("last").expect("get").expect("there")[..],
            b"of the log"
        );
        store.set("large", "anew").expect("set");
        assert_eq!(
            &store.get("large").expect("get").expect("there")[..],
            b"anew"
        );
    }
}

/// Several full segments, all durable: damage in an old one costs what it hit, and no more.
#[test]
fn damage_in_an_old_segment_costs_one_record() {
    let mut dice = Dice::new(common::seed("old segments"));
    let dir = common::fast_dir();
    let store = open(dir.path()).expect("opens");
    let keys = 1_500_u64;
    let value = |at: u64, round: u64| format!("value {at} of round {round} {}", "x".repeat(60));
    for round in 0..2 {
        for at in 0..keys {
            if round == 0 || at.is_multiple_of(3) {
                store
                    .set(format!("key/{at}"), value(at, round))
                    .expect("set");
            }
        }
    }
    let newest = |at: u64| value(at, u64::from(at.is_multiple_of(3)));
    store.flush().expect("flush");
    let segments = store.segments().expect("segments");
    assert!(segments.len() >= 3, "only {segments:?}");
    store.close().expect("close");
    let sound = common::picture(dir.path());
    let logs: Vec<&(PathBuf, Vec<u8>)> = sound
        .iter()
        .filter(|(path, _)| path.extension().is_some_and(|ext| ext == "seg"))
        .collect();
    let (mut lost, mut corrupt, mut harmless) = (0, 0, 0);
    for round in 0..150 {
        for name in common::names(dir.path()) {
            let path = dir.path().join(name);
            if path.is_file() {
                fs::remove_file(path)
            } else {
                fs::remove_dir_all(path)
            }
            .expect("removed");
        }
        for (path, bytes) in &logs {
            fs::write(path, bytes).expect("written");
        }
        let (path, bytes) = logs[dice.below(logs.len() as u64 - 1) as usize];
        let bit = loop {
            let bit = dice.below(bytes.len() as u64 * 8);
            // Past the file's own header, where something is.
            if bit > 512 * 8 && bytes[bit as usize / 8] != 0 {
                break bit;
            }
        };
        common::flip(path, bit);
        let store = open(dir.path()).expect("opens");
        let mut hit = 0;
        for at in 0..keys {
            match store.get(format!("key/{at}")) {
                Ok(Some(found)) => assert!(
                    found[..] == *newest(at).as_bytes(),
                    "round {round}, bit {bit} of {}: key/{at} shows {:?}",
                    path.display(),
                    String::from_utf8_lossy(&found)
                ),
                Ok(None) => {
                    hit += 1;
                    lost += 1;
                }
                Err(Error::Corrupt { .. }) => {
                    hit += 1;
                    corrupt += 1;
                }
                Err(other) => panic!("round {round}, bit {bit}: {other}"),
            }
        }
        assert!(
            hit <= 1,
            "round {round}, bit {bit} of {} cost {hit} keys",
            path.display()
        );
        harmless += u32::from(hit == 0);
        if hit == 1 {
            assert!(
                !store.check().expect("check").is_sound(),
                "check found nothing"
            );
            // Mended, it costs no more; and its older version does not come back.
            let report = store.repair().expect("repair");
            assert!(
                report.lost.len() <= 1,
                "round {round}, bit {bit}: {report:?}"
            );
            common::assert_sound(&store);
            let found = (0..keys).filter(|at| {
                let found = store.get(format!("key/{at}")).expect("get");
                assert!(
                    found
                        .as_deref()
                        .is_none_or(|found| *found == *newest(*at).as_bytes())
                );
                found.is_some()
            });
            assert_eq!(found.count() as u64, keys - 1, "round {round}, bit {bit}");
        }
    }
    println!("150 flips in old segments: {corrupt} corrupt, {lost} lost, {harmless} harmless");
}
