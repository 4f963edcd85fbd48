//! Whatever is damaged under an open store, repair keeps what can be read, tells what cannot, and no
//! older version ever comes back.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{
    Dice, SMALL_SEGMENT_BYTES, assert_sound, cut_at, fast_dir, flip, forget_derived, is_log, names,
    small, start,
};
use larder::{Cache, Depth, Error, FindingKind, RepairReport, SetOptions};

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// Where a worker process begins; for the test itself there is nothing to do.
#[test]
fn role_entry() {
    let Some(job) = common::job() else { return };
    match job.role.as_str() {
        // Has the store open, and tells what it sees when asked.
        "reader" => {
            let store = open(&job.store);
            let _ = store.get("key/1");
            common::say("open");
            while common::hear() == "look" {
                let all = store
                    .iter()
                    .expect("iter")
                    .map(|item| item.expect("an entry"));
                let mut crc = crc32fast::Hasher::new();
                let mut count = 0_u64;
                for (key, value) in all {
                    assert!(store.get(&key).expect("get").as_deref() == Some(&*value));
                    crc.update(&key);
                    crc.update(&value);
                    count += 1;
                }
                common::say(&format!("{count} {}", crc.finalize()));
            }
            common::leave();
        }
        "repairer" => {
            let store = open(&job.store);
            common::say("begins");
            let _ = store.repair();
            common::leave();
        }
        role => panic!("no such role: {role}"),
    }
}

fn open(dir: &Path) -> Cache {
    small().open(dir).expect("it opens")
}

/// Overwrites, deletes, tags, expiry, batches, large values, and copies made by compaction.
fn fill(store: &Cache, dice: &mut Dice, model: &mut Model, changes: u64) {
    for n in 0..changes {
        let key = format!("key/{}", dice.below(changes / 3)).into_bytes();
        let len = if dice.one_in(25) { 5_000 } else { 150 };
        // A value that says when it was set, so that an older one is known for what it is.
        let mut value = format!("{n} of {} ", String::from_utf8_lossy(&key)).into_bytes();
        value.extend(dice.bytes(len));
        match dice.below(8) {
            0 => {
                store.delete(&key).expect("delete");
                model.remove(&key);
            }
            1 => {
                let mut options = SetOptions::default().ttl(Duration::from_secs(5_000));
                for tag in 0..dice.below(4) {
                    options = options.tag(format!("tag-{tag}"));
                }
                store.set_with(&key, &value, &options).expect("set");
                model.insert(key, value);
            }
            2 => {
                let pair = [key.clone(), [&key[..], b"/twin"].concat()];
                store
                    .transact(|tx| pair.iter().try_for_each(|key| tx.set(key, &value)))
                    .expect("a batch");
                for key in pair {
                    model.insert(key, value.clone());
                }
            }
            _ => {
                store.set(&key, &value).expect("set");
                model.insert(key, value);
            }
        }
    }
}

fn contents(store: &Cache) -> Model {
    let all: Model = store
        .iter()
        .expect("iter")
        .map(|item| item.expect("an entry"))
        .map(|(key, value)| (key, value.to_vec()))
        .collect();
    assert_eq!(store.len().expect("len"), all.len() as u64);
    all
}

/// A store of several segments with old versions everywhere, all durable.
fn filled(dir: &Path, dice: &mut Dice, changes: u64) -> (Cache, Model) {
    let store = open(dir);
    let mut model = Model::new();
    fill(&store, dice, &mut model, changes);
    let large = dice.bytes(6_000);
    store.set("large", &large).expect("set");
    model.insert(b"large".to_vec(), large);
    store.compact().expect("compact");
    fill(&store, dice, &mut model, changes / 2);
    store.flush().expect("flush");
    assert!(contents(&store) == model);
    (store, model)
}

/// After a repair: what is there is right, what is not was told, for everybody and for ever.
fn judge(dir: &Path, store: Cache, model: &Model, report: &RepairReport, story: &str) -> usize {
    let found = contents(&store);
    let mut gone = BTreeSet::new();
    for (key, value) in model {
        match found.get(key) {
            Some(now) => assert!(
                now == value,
                "{story}: {} is {}",
                String::from_utf8_lossy(key),
                String::from_utf8_lossy(&now[..now.len().min(30)])
            ),
            None => drop(gone.insert(key.clone())),
        }
        assert_eq!(
            store.get(key).expect("get").is_some(),
            found.contains_key(key),
            "{story}"
        );
    }
    for key in found.keys() {
        assert!(
            model.contains_key(key),
            "{story}: {} came back",
            String::from_utf8_lossy(key)
        );
    }
    let told: BTreeSet<Vec<u8>> = report
        .lost
        .iter()
        .filter_map(|lost| lost.key.clone())
        .collect();
    assert!(told.is_subset(&gone), "{story}: {told:?} of {gone:?}");
    assert!(
        gone.len() <= report.lost.len(),
        "{story}: {gone:?}, {:?}",
        report.lost
    );
    assert_sound(&store);
    for path in &report.quarantined {
        assert!(path.exists(), "{story}: {}", path.display());
    }
    // By another handle, after writing, and with nothing but the log.
    let other = open(dir);
    assert!(contents(&other) == found, "{story}");
    store.set("fresh", "new").expect("set");
    assert_eq!(
        other.get("fresh").expect("get").as_deref(),
        Some(&b"new"[..])
    );
    store.delete("fresh").expect("delete");
    store.flush().expect("flush");
    drop((store, other));
    forget_derived(dir);
    let store = open(dir);
    assert!(contents(&store) == found, "{story}, rebuilt");
    assert_sound(&store);
    gone.len()
}

fn logs(dir: &Path, end: &str) -> Vec<PathBuf> {
    let mut names = names(dir);
    names.retain(|name| name.ends_with(end));
    names.iter().map(|name| dir.join(name)).collect()
}

/// A bit where something is.
fn used_bit(path: &Path, from: u64, dice: &mut Dice) -> u64 {
    let bytes = fs::read(path).expect("reads");
    loop {
        let bit = dice.below(bytes.len() as u64 * 8);
        if bit >= from * 8 && bytes[bit as usize / 8] != 0 {
            return bit;
        }
    }
}

#[test]
fn a_sound_store_is_left_alone() {
    let dir = fast_dir();
    let (store, _) = filled(dir.path(), &mut Dice::new(5), 600);
    store.close().expect("close");
    let store = open(dir.path());
    let before = common::picture(dir.path());
    let mut told = 0;
    let report = store
        .repair_with(|done, total| {
            assert!(done <= total);
            told += 1;
            ControlFlow::Continue(())
        })
        .expect("repair");
    assert!(told > 0 && report.is_complete && !report.rebuilt && report.kept == 0);
    assert!(report.lost.is_empty() && report.quarantined.is_empty());
    assert!(common::picture(dir.path()) == before);
    // Ended before it began.
    let report = store
        .repair_with(|_, _| ControlFlow::Break(()))
        .expect("repair");
    assert!(!report.is_complete);
    let report = store
        .check_depth_with(Depth::Full, |_, _| ControlFlow::Break(()))
        .expect("check");
    assert!(!report.is_complete);
    let inside = store.transact(|_| store.repair().map(drop));
    assert!(matches!(inside, Err(Error::Aborted { .. })), "{inside:?}");
}

/// Flips under an open store, in the log.
#[test]
fn flipped_bits_of_the_log_cost_what_they_hit() {
    let mut dice = Dice::new(common::seed("repair: log"));
    let (mut lost, mut named) = (0, 0);
    for round in 0..40 {
        let dir = fast_dir();
        let (store, model) = filled(dir.path(), &mut dice, 400);
        let mut worker = (round % 8 == 0).then(|| start("reader", dir.path(), &[]));
        if let Some(worker) = &mut worker {
            worker.expect("open");
        }
        let segments = logs(dir.path(), ".seg");
        let mut story = format!("round {round}:");
        for _ in 0..=dice.below(3) {
            let path = &segments[dice.below(segments.len() as u64) as usize];
            let bit = used_bit(path, 96, &mut dice);
            flip(path, bit);
            story += &format!(" bit {bit} of {}", path.display());
        }
        if store.check().expect("check").is_sound() {
            continue; // padding, or two flips of one bit
        }
        let report = store.repair().expect("repair");
        assert!(!report.quarantined.is_empty(), "{story}");
        lost += report.lost.len();
        named += report.lost.iter().filter(|lost| lost.key.is_some()).count();
        if let Some(mut worker) = worker {
            let found = contents(&store);
            let mut crc = crc32fast::Hasher::new();
            for item in store.iter().expect("iter") {
                let (key, value) = item.expect("an entry");
                crc.update(&key);
                crc.update(&value);
            }
            worker.tell("look");
            assert_eq!(
                worker.hear(),
                format!("{} {}", found.len(), crc.finalize()),
                "{story}"
            );
            worker.tell("leave");
            worker.finish();
        }
        let gone = judge(dir.path(), store, &model, &report, &story);
        assert!(gone <= report.lost.len());
    }
    println!("{lost} entries lost, {named} of them by name");
    assert!(named > 0 && named >= lost / 2);
}

/// Flips under an open store, in what is derived: nothing is lost.
#[test]
fn flipped_bits_of_what_is_derived_cost_nothing() {
    let mut dice = Dice::new(common::seed("repair: derived"));
    let mut kinds = BTreeMap::new();
    for round in 0..40 {
        let dir = fast_dir();
        let (store, model) = filled(dir.path(), &mut dice, 400);
        let derived: Vec<PathBuf> = names(dir.path())
            .into_iter()
            .filter(|name| {
                ["keymap.", "over.", "order-0.", "lists.", "posts.", "segs."]
                    .iter()
                    .any(|kind| name.starts_with(kind))
            })
            .map(|name| dir.path().join(name))
            .collect();
        let mut story = format!("round {round}:");
        for _ in 0..=dice.below(6) {
            let path = &derived[dice.below(derived.len() as u64) as usize];
            if fs::read(path).expect("reads").iter().all(|&byte| byte == 0) {
                continue;
            }
            let bit = used_bit(path, 0, &mut dice);
            flip(path, bit);
            story += &format!(" bit {bit} of {}", path.display());
        }
        let found = store.check().expect("check");
        for finding in &found.findings {
            *kinds.entry(format!("{:?}", finding.kind)).or_insert(0) += 1;
        }
        let report = store.repair().expect("repair");
        assert!(report.lost.is_empty(), "{story}: {:?}", report.lost);
        let is_changed = report.rebuilt || !report.quarantined.is_empty();
        let findings = &found.findings;
        assert_eq!(
            found.is_sound(),
            !is_changed,
            "{story}: {findings:?}, {report:?}"
        );
        let gone = judge(dir.path(), store, &model, &report, &story);
        assert_eq!(gone, 0, "{story}");
    }
    println!("{kinds:?}");
}

/// Both at once, some of it found by who opens the store again.
#[test]
fn cut_missing_and_beheaded_segments_and_values() {
    let mut dice = Dice::new(common::seed("repair: files"));
    for round in 0..24 {
        let dir = fast_dir();
        let (store, model) = filled(dir.path(), &mut dice, 400);
        let segments = logs(dir.path(), ".seg");
        let values = logs(dir.path(), ".val");
        drop(store);
        let segment = &segments[dice.below(segments.len() as u64 - 2) as usize];
        let value = &values[dice.below(values.len() as u64) as usize];
        let kind = match round % 6 {
            0 => {
                cut_at(segment, 4_096 + dice.below(SMALL_SEGMENT_BYTES - 8_192));
                FindingKind::CutSegment
            }
            1 => {
                fs::remove_file(segment).expect("removed");
                FindingKind::MissingSegment
            }
            2 => {
                // More than one bit: it cannot be mended.
                flip(segment, 40 * 8);
                flip(segment, 50 * 8);
                flip(segment, 61 * 8);
                FindingKind::DamagedSegment
            }
            3 => {
                fs::remove_file(value).expect("removed");
                FindingKind::MissingValueFile
            }
            4 => {
                flip(value, used_bit(value, 0, &mut dice));
                FindingKind::DamagedValueFile
            }
            _ => {
                fs::write(dir.path().join("00000000000fffff.val"), "nobody's").expect("written");
                FindingKind::UnknownFile
            }
        };
        let story = format!("round {round}: {kind:?}, {}", segment.display());
        let store = open(dir.path());
        let found = store.check().expect("check");
        let has = |kind| found.findings.iter().any(|finding| finding.kind == kind);
        assert!(has(kind), "{story}: {:?}", found.findings);
        let quick = store.check_depth(Depth::Quick).expect("check");
        if kind != FindingKind::DamagedValueFile {
            assert!(!quick.is_sound(), "{story}");
        }
        let report = store.repair().expect("repair");
        let gone = judge(dir.path(), store, &model, &report, &story);
        match kind {
            // Only its own header was damaged.
            FindingKind::DamagedSegment | FindingKind::UnknownFile => {
                assert_eq!(gone, 0, "{story}")
            }
            FindingKind::MissingValueFile | FindingKind::DamagedValueFile => {
                assert_eq!(gone, 1, "{story}");
                assert!(report.lost.iter().all(|lost| lost.key.is_some()), "{story}");
            }
            _ => {}
        }
    }
}

/// Each way in which an older version could come back, one by one.
#[test]
fn no_older_version_of_a_lost_or_removed_key_comes_back() {
    // What is flipped: a byte of the newest record, counted from its beginning; the footer too.
    for (at, footer) in [
        (4, false),
        (12, false),
        (20, false),
        (34, false),
        (60, false),
        (20, true),
    ] {
        for removed in [false, true] {
            let dir = fast_dir();
            let store = open(dir.path());
            let pad = |from: u64| {
                for n in from..from + 900 {
                    store.set(format!("pad/{n}"), vec![1; 100]).expect("set");
                }
            };
            store.set("the-key", "old").expect("set");
            pad(0);
            if removed {
                store.delete("the-key").expect("delete");
            } else {
                store
                    .set("the-key", "the newest version of this entry")
                    .expect("set");
            }
            pad(1_000);
            store.flush().expect("flush");
            let mut hits = Vec::new();
            for path in logs(dir.path(), ".seg") {
                let bytes = fs::read(&path).expect("reads");
                for (n, window) in bytes.windows(7).enumerate() {
                    if window == b"the-key" {
                        hits.push((path.clone(), n as u64));
                    }
                }
            }
            assert_eq!(hits.len(), 2, "two records");
            let (path, key_at) = hits.pop().expect("two");
            let record = key_at - 32;
            assert_ne!(path, hits[0].0, "in two segments");
            if removed && at > 40 {
                continue;
            }
            flip(&path, (record + at) * 8 + 1);
            if footer {
                // Its line: found by what it says of where the record is.
                let bytes = fs::read(&path).expect("reads");
                let line = (0..bytes.len() / 16).rev().find(|n| {
                    let high = u64::from_le_bytes(bytes[n * 16 + 8..][..8].try_into().expect("8"));
                    (high >> 38) * 8 == record && n * 16 > record as usize
                });
                flip(&path, (line.expect("a line") as u64 * 16 + 8) * 8);
            }
            let story = format!("byte {at}, footer {footer}, removed {removed}");
            let report = store.repair().expect("repair");
            assert_eq!(report.quarantined.len(), 1, "{story}");
            assert_eq!(
                report.lost.len(),
                usize::from(!removed),
                "{story}: {:?}",
                report.lost
            );
            let unnamed = footer || at == 12 || at == 34;
            if !removed && !unnamed {
                assert_eq!(
                    report.lost[0].key.as_deref(),
                    Some(&b"the-key"[..]),
                    "{story}"
                );
            }
            assert_eq!(store.get("the-key").expect("get"), None, "{story}");
            assert_eq!(store.len().expect("len"), 1_800);
            assert_sound(&store);
            drop(store);
            forget_derived(dir.path());
            let store = open(dir.path());
            assert_eq!(store.get("the-key").expect("get"), None, "{story}");
            assert_eq!(store.len().expect("len"), 1_800);
            // Nor when the log is compacted, and rebuilt once more.
            store.compact().expect("compact");
            drop(store);
            forget_derived(dir.path());
            let store = open(dir.path());
            assert_eq!(store.get("the-key").expect("get"), None, "{story}");
            assert_sound(&store);
            store.set("the-key", "again").expect("set");
            assert_eq!(
                store.get("the-key").expect("get").as_deref(),
                Some(&b"again"[..])
            );
        }
    }
}

#[test]
fn others_read_and_write_while_a_store_is_repaired() {
    let mut dice = Dice::new(common::seed("repair: beside"));
    for _ in 0..6 {
        let dir = fast_dir();
        let (store, model) = filled(dir.path(), &mut dice, 600);
        let segments = logs(dir.path(), ".seg");
        for path in &segments[..segments.len() - 1] {
            if dice.one_in(2) {
                flip(path, used_bit(path, 96, &mut dice));
            }
        }
        let damaged: BTreeSet<Vec<u8>> = model
            .keys()
            .filter(|key| store.get(key).is_err())
            .cloned()
            .collect();
        let stop = AtomicBool::new(false);
        let begun = std::sync::Barrier::new(3);
        let report = std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let other = open(dir.path());
                begun.wait();
                while !stop.load(Ordering::Relaxed) {
                    for (key, value) in model.iter().filter(|(key, _)| !damaged.contains(*key)) {
                        let found = other.get(key).expect("an undamaged entry");
                        assert!(found.as_deref() == Some(&value[..]));
                    }
                }
            });
            let writer = scope.spawn(|| {
                let other = open(dir.path());
                begun.wait();
                let mut n = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    other
                        .set(format!("beside/{}", n % 50), format!("{n}"))
                        .expect("set");
                    n += 1;
                }
            });
            begun.wait();
            std::thread::sleep(Duration::from_millis(5));
            let report = store.repair().expect("repair");
            stop.store(true, Ordering::Relaxed);
            reader.join().expect("the reader");
            writer.join().expect("the writer");
            report
        });
        let mut model = model;
        for n in 0..50 {
            let key = format!("beside/{n}").into_bytes();
            if let Some(value) = store.get(&key).expect("get") {
                model.insert(key, value.to_vec());
            }
        }
        judge(dir.path(), store, &model, &report, "beside others");
    }
}

#[test]
fn a_repair_killed_in_the_middle_is_met_by_the_next_opener() {
    let mut dice = Dice::new(common::seed("repair: killed"));
    for round in 0..25 {
        let dir = fast_dir();
        let (store, model) = filled(dir.path(), &mut dice, 400);
        let segments = logs(dir.path(), ".seg");
        for path in &segments {
            if dice.one_in(3) {
                flip(path, used_bit(path, 96, &mut dice));
            }
        }
        let bad: BTreeSet<Vec<u8>> = model
            .keys()
            .filter(|key| store.get(key).is_err())
            .cloned()
            .collect();
        drop(store);
        let mut worker = start("repairer", dir.path(), &[]);
        worker.expect("begins");
        std::thread::sleep(Duration::from_micros(dice.below(12_000)));
        // It may have ended by itself.
        worker.signal(rustix::process::Signal::KILL);
        drop(worker);
        let store = open(dir.path());
        for (key, value) in &model {
            match store.get(key) {
                Ok(Some(found)) => assert!(*found == value[..], "round {round}"),
                Ok(None) | Err(Error::Corrupt { .. }) => {
                    assert!(bad.contains(key), "round {round}")
                }
                Err(error) => panic!("round {round}: {error}"),
            }
        }
        let report = store.repair().expect("repair");
        let found = contents(&store);
        for (key, value) in &found {
            assert_eq!(model.get(key), Some(value), "round {round}");
        }
        let gone = model.keys().filter(|key| !found.contains_key(*key));
        assert!(
            gone.clone().all(|key| bad.contains(key)),
            "round {round}: {report:?}"
        );
        assert_sound(&store);
    }
}

#[test]
fn a_rebuilt_store_gives_dead_bytes_back() {
    let dir = fast_dir();
    let store = open(dir.path());
    for round in 0..3 {
        for n in 0..2_000 {
            if round == 0 || n % 4 != 0 {
                store
                    .set(format!("key/{n}"), vec![round; 300])
                    .expect("set");
            }
        }
    }
    drop(store);
    forget_derived(dir.path());
    let store = open(dir.path());
    let before = store.disk_usage().expect("disk usage");
    store.compact().expect("compact");
    store.flush().expect("flush");
    let after = store.disk_usage().expect("disk usage");
    assert!(after * 3 < before * 2, "{before} before, {after} after");
    assert_sound(&store);
    assert!(names(dir.path()).iter().any(|name| is_log(name)));
}
