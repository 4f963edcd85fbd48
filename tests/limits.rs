//! What a store takes of disk and memory, measured from outside.
//!
//! Disk is what `du` sees. Memory is the anonymous part of a process of its own, so that nothing
//! else in the test counts. The figures are printed, met or not.

mod common;

use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use common::{Dice, Job, du_bytes, leave, names, say, start};
use larder::{Cache, Error, Policy, SetOptions};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// Where a worker process begins; for the test itself there is nothing to do.
#[test]
fn role_entry() {
    let Some(job) = common::job() else { return };
    match job.role.as_str() {
        "opener" => open_and_get(&job),
        "streamer" => stream(&job),
        other => panic!("no such role: {other}"),
    }
    leave()
}

/// Fills a store with entries of a 20-byte key and a 100-byte value.
fn fill(store: &Cache, entries: u64) {
    let mut dice = Dice::new(1);
    for block in 0..entries.div_ceil(1_000) {
        let items: Vec<_> = (block * 1_000..(block * 1_000 + 1_000).min(entries))
            .map(|at| (format!("key-{at:016}"), dice.bytes(100)))
            .collect();
        store
            .set_many(items, &SetOptions::default())
            .expect("set_many");
    }
}

// ---- disk ----

#[test]
fn an_empty_store_is_small() {
    let dir = common::work_dir();
    let store = Cache::open(dir.path()).expect("opens");
    let open = du_bytes(dir.path());
    assert_eq!(store.get("nothing").expect("get").map(|_| ()), None);
    store.close().expect("close");
    let closed = du_bytes(dir.path());
    println!(
        "an empty store: {} KiB open, {} KiB closed",
        open / KIB,
        closed / KIB
    );
    assert!(
        open <= 256 * KIB && closed <= 256 * KIB,
        "{open} bytes open, {closed} closed"
    );
}

#[test]
fn a_thousand_small_entries_take_at_most_a_mebibyte() {
    for one_by_one in [true, false] {
        let dir = common::work_dir();
        let store = Cache::open(dir.path()).expect("opens");
        if one_by_one {
            for at in 0..1_000 {
                store
                    .set(format!("key-{at:016}"), [b'v'; 100])
                    .expect("set");
            }
        } else {
            fill(&store, 1_000);
        }
        let open = du_bytes(dir.path());
        let own = store.disk_usage().expect("disk_usage");
        store.close().expect("close");
        let closed = du_bytes(dir.path());
        println!(
            "1,000 entries of 100 bytes, one by one: {one_by_one}: {} KiB open, {} KiB closed",
            open / KIB,
            closed / KIB
        );
        assert!(
            open <= MIB && closed <= MIB,
            "{open} bytes open, {closed} closed"
        );
        assert!(
            own.abs_diff(open) <= 32 * KIB,
            "disk_usage says {own}, du {open}"
        );
    }
}

#[test]
fn bytes_per_entry_stay_within_the_figures() {
    let entries = 100_000;
    let dir = common::work_dir();
    let store = Cache::open(dir.path()).expect("opens");
    fill(&store, entries);
    store.close().expect("close");
    let (mut mapped, mut log) = (0, 0);
    for name in names(dir.path()) {
        use std::os::unix::fs::MetadataExt;
        let bytes = std::fs::metadata(dir.path().join(&name))
            .expect("metadata")
            .blocks()
            * 512;
        println!("  {name}: {} KiB", bytes / KIB);
        if common::is_log(&name) {
            log += bytes
        } else {
            mapped += bytes
        }
    }
    let each = |bytes: u64| bytes as f64 / entries as f64;
    println!(
        "{entries} entries of 20 + 100 bytes: {:.1} mapped bytes each, {:.1} of log beyond key and value",
        each(mapped),
        each(log) - 120.0
    );
    assert!(
        each(mapped) <= 40.0,
        "{:.1} mapped bytes per entry",
        each(mapped)
    );
    // Record 40, footer 16, and the last growth step.
    assert!(
        each(log) - 120.0 <= 40.0 + 16.0 + 4.0,
        "{:.1} bytes of log per entry",
        each(log)
    );
}

#[test]
fn overwriting_and_deleting_a_large_value_gives_its_space_back() {
    let dir = common::work_dir();
    let store = Cache::open(dir.path()).expect("opens");
    let value = Dice::new(3).bytes(3 * MIB as usize);
    for _ in 0..20 {
        store.set("large", &value).expect("set");
        store
            .set_reader("streamed", &value[..], &SetOptions::default())
            .expect("set_reader");
    }
    // What died is kept until its successor is durable: a power loss leaves a prefix.
    store.flush().expect("flush");
    let used = du_bytes(dir.path());
    assert!(
        used <= 10 * MIB,
        "two values of 3 MiB, twenty times each, take {used} bytes"
    );
    store.delete("large").expect("delete");
    store.delete("streamed").expect("delete");
    store.flush().expect("flush");
    let used = du_bytes(dir.path());
    assert!(used <= 2 * MIB, "after deleting both: {used} bytes");
}

#[test]
fn a_full_store_takes_back_the_files_of_dead_values() {
    let dir = common::work_dir();
    let store = Cache::builder()
        .size_limit_bytes(16 * MIB)
        .segment_size_bytes(MIB)
        .open(dir.path())
        .expect("opens");
    let value = Dice::new(4).bytes(3 * MIB as usize);
    for round in 0..30 {
        store
            .set("large", &value)
            .unwrap_or_else(|error| panic!("round {round}: one value of 3 MiB lives: {error}"));
        let used = du_bytes(dir.path());
        assert!(used <= 17 * MIB, "round {round}: {used} bytes of 16 MiB");
    }
}

/// Adds up what the directory takes, again and again, until told to stop.
fn watch(dir: &Path, stop: &AtomicBool, most: &AtomicU64) {
    while !stop.load(Ordering::Relaxed) {
        most.fetch_max(du_bytes(dir), Ordering::Relaxed);
        std::thread::sleep(Duration::from_micros(300));
    }
    most.fetch_max(du_bytes(dir), Ordering::Relaxed);
}

#[test]
fn the_size_limit_holds_at_any_time() {
    let seed = common::seed("size limit");
    for (round, limit) in [(0, 4 * MIB), (1, 8 * MIB), (2, 24 * MIB)] {
        let dir = common::work_dir();
        let path = dir.path();
        let store = Cache::builder()
            .policy(larder::Policy::None)
            .size_limit_bytes(limit)
            .segment_size_bytes(256 * KIB)
            .large_value_bytes(64 * KIB)
            .open(path)
            .expect("opens");
        let (stop, most) = (AtomicBool::new(false), AtomicU64::new(0));
        let full = AtomicU64::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| watch(path, &stop, &most));
            let workers: Vec<_> = (0..3_u64)
                .map(|worker| {
                    let (store, full) = (store.clone(), &full);
                    scope.spawn(move || {
                        fill_up(&store, worker, Dice::new(seed ^ (worker + 1)), limit, full);
                    })
                })
                .collect();
            for worker in workers {
                worker.join().expect("a worker does well");
            }
            stop.store(true, Ordering::Relaxed);
        });
        let most = most.load(Ordering::Relaxed);
        println!(
            "limit {} KiB: at most {} KiB on disk, {} times full",
            limit / KIB,
            most / KIB,
            full.load(Ordering::Relaxed)
        );
        assert!(
            full.load(Ordering::Relaxed) > 0,
            "round {round}: the limit was never reached"
        );
        assert!(
            most <= limit + limit / 16,
            "round {round}: {most} bytes of {limit}"
        );
        common::assert_sound(&store);
        // Everything stored is there, and raising the limit lets the next one in.
        for item in store.iter().expect("iter") {
            item.expect("an entry");
        }
        store
            .update_settings(|settings| settings.size_limit_bytes = 2 * limit)
            .expect("update_settings");
        store
            .set("one more", vec![1_u8; 1_000])
            .expect("set under a higher limit");
    }
}

/// Writes all sorts of things until the store says it is full, many times over.
fn fill_up(store: &Cache, worker: u64, mut dice: Dice, limit: u64, full: &AtomicU64) {
    let mut refusals = 0;
    let mut written = 0;
    for n in 0.. {
        if refusals >= 30 || written > 10 * limit {
            break;
        }
        let key = format!("{worker}/{n}");
        let len = match dice.below(20) {
            0 => 64 * KIB + dice.below(limit / 8),
            1..4 => dice.below(40 * KIB),
            _ => dice.below(500),
        };
        let result = if dice.one_in(4) {
            store
                .set_reader(
                    &key,
                    Read::take(std::io::repeat(7), len),
                    &SetOptions::default(),
                )
                .map(|_| ())
        } else {
            store.set(&key, dice.bytes(len as usize))
        };
        match result {
            Ok(()) => {
                written += len;
                assert!(
                    store.contains(&key).expect("contains"),
                    "{key} was acknowledged"
                );
            }
            Err(Error::Full { limit_bytes, .. }) => {
                assert_eq!(limit_bytes, limit);
                refusals += 1;
                full.fetch_add(1, Ordering::Relaxed);
                assert!(
                    !store.contains(&key).expect("contains"),
                    "{key} was refused"
                );
                // Deletes work on a full store.
                let old = dice.below(n + 1);
                store.delete(format!("{worker}/{old}")).expect("delete");
            }
            Err(other) => panic!("{len} bytes: {other}"),
        }
    }
}

/// A store with no room left, under a policy that evicts nobody.
fn full_store(dir: &std::path::Path, options: &SetOptions) -> (Cache, u64) {
    let builder = common::small().size_limit_bytes(larder::SIZE_LIMIT_MIN);
    let store = builder.policy(Policy::None).open(dir).expect("a store");
    let mut entries = 0;
    while store
        .set_with(format!("key/{entries}"), [7; 150], options)
        .is_ok()
    {
        entries += 1;
    }
    assert!(entries > 500, "{entries} entries fill it");
    (store, entries)
}

#[test]
fn a_store_with_no_room_left_can_be_emptied() {
    for way in ["clear", "evict", "expire", "delete"] {
        let dir = common::work_dir();
        let options = match way {
            "expire" => SetOptions::default().ttl(Duration::from_secs(2)),
            _ => SetOptions::default().tag("all"),
        };
        let (store, entries) = full_store(dir.path(), &options);
        if way == "expire" {
            std::thread::sleep(Duration::from_millis(2_100));
        }
        let removed = match way {
            "clear" => store.clear(),
            "evict" => store.evict_tag("all"),
            "delete" => (0..entries)
                .map(|n| store.delete(format!("key/{n}")).map(u64::from))
                .sum(),
            _ => store.expire(),
        };
        let removed = removed.unwrap_or_else(|error| panic!("{way} of {entries}: {error}"));
        println!("{way}: {removed} of {entries}");
        assert!(
            removed == entries || way == "expire",
            "{way}: {removed} of {entries}"
        );
        assert_eq!(store.len().expect("len"), 0, "{way}");
        store.set("after", "1").expect("there is room again");
        common::assert_sound(&store);
    }
}

// ---- memory ----

/// Anonymous memory of this process, in bytes.
fn anonymous_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("status reads");
    let line = status
        .lines()
        .find(|line| line.starts_with("RssAnon:"))
        .expect("RssAnon");
    let kib: u64 = line
        .split_whitespace()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .expect("a number");
    kib * KIB
}

fn open_and_get(job: &Job) {
    let entries = job.args[0];
    let before = anonymous_bytes();
    let store = Cache::open(&job.store).expect("opens");
    let opened = anonymous_bytes();
    let mut dice = Dice::new(2);
    for _ in 0..20_000 {
        let at = dice.below(entries);
        let value = store
            .get(format!("key-{at:016}"))
            .expect("get")
            .expect("there");
        assert_eq!(value.len(), 100);
    }
    assert_eq!(store.iter().expect("iter").count() as u64, entries);
    store.set("one", "more").expect("set");
    assert!(store.delete("one").expect("delete"));
    say(&format!(
        "memory {} {}",
        opened.saturating_sub(before),
        anonymous_bytes().saturating_sub(before)
    ));
}

#[test]
fn a_process_that_opens_a_store_keeps_little_in_its_own_memory() {
    let entries = 200_000;
    let dir = common::work_dir();
    let store = Cache::open(dir.path()).expect("opens");
    fill(&store, entries);
    store.close().expect("close");
    for rebuilt in [false, true] {
        if rebuilt {
            common::forget_derived(dir.path());
            // Rebuilding may take memory; it is not what is measured.
            Cache::open(dir.path())
                .expect("opens")
                .close()
                .expect("close");
        }
        let mut worker = start("opener", dir.path(), &[entries]);
        let said = worker.expect("memory");
        let (opened, used) = said.split_once(' ').expect("two numbers");
        worker.finish();
        let kib = |text: &str| text.parse::<u64>().expect("a number") / KIB;
        println!(
            "{entries} entries, rebuilt before: {rebuilt}: {} KiB anonymous after opening, {} KiB after reading",
            kib(opened),
            kib(used)
        );
        assert!(kib(opened) < 8 * KIB, "{opened} bytes after opening");
        assert!(kib(used) < 8 * KIB, "{used} bytes after reading");
    }
}

/// A stream of `left` bytes that are the same each time, checksummed on the way.
struct Stream {
    left: u64,
    dice: Dice,
    sum: crc32fast::Hasher,
}

impl Stream {
    fn new(len: u64) -> Stream {
        Stream {
            left: len,
            dice: Dice::new(9),
            sum: crc32fast::Hasher::new(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.left.min(buf.len() as u64) as usize;
        for chunk in buf[..n].chunks_mut(8) {
            let word = self.dice.roll().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
        self.sum.update(&buf[..n]);
        self.left -= n as u64;
        Ok(n)
    }
}

fn stream(job: &Job) {
    let len = job.args[0];
    let store = Cache::open(&job.store).expect("opens");
    let before = anonymous_bytes();
    let (stop, most) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                most.fetch_max(anonymous_bytes(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let mut source = Stream::new(len);
        let n = store
            .set_reader("huge", &mut source, &SetOptions::default().tag("streamed"))
            .expect("set_reader");
        assert_eq!(n, len);
        // Another one writes while this one streams: the lock is not held.
        let mut back = crc32fast::Hasher::new();
        let mut reader = store
            .get_reader("huge")
            .expect("get_reader")
            .expect("there");
        assert_eq!(reader.len(), len);
        let mut buf = vec![0_u8; 64 * 1024];
        let mut total = 0;
        loop {
            let n = reader.read(&mut buf).expect("the value reads");
            if n == 0 {
                break;
            }
            back.update(&buf[..n]);
            total += n as u64;
        }
        assert_eq!(total, len);
        assert_eq!(
            back.finalize(),
            source.sum.finalize(),
            "what came back is what went in"
        );
        stop.store(true, Ordering::Relaxed);
    });
    say(&format!(
        "peak {}",
        most.load(Ordering::Relaxed).saturating_sub(before)
    ));
}

#[test]
fn a_large_stream_passes_through_little_memory() {
    let len = 300 * 1000 * 1000;
    let dir = common::work_dir();
    let store = Cache::open(dir.path()).expect("opens");
    let mut worker = start("streamer", dir.path(), &[len]);
    // While it streams, other writers do not wait for it.
    let mut longest = Duration::ZERO;
    let mut sets = 0_u32;
    let peak = loop {
        if let Some(said) = worker.hear_within(Duration::from_millis(1)) {
            break said;
        }
        let (result, took) = common::timed(|| store.set("beside", sets.to_string()));
        result.expect("set");
        longest = longest.max(took);
        sets += 1;
        assert!(sets < 120_000, "the stream does not end");
    };
    let peak: u64 = peak
        .strip_prefix("peak ")
        .and_then(|n| n.parse().ok())
        .unwrap_or_else(|| panic!("heard {peak}"));
    worker.finish();
    println!(
        "{len} bytes streamed in and out: {} KiB anonymous at most; {sets} sets beside it, the longest {longest:?}",
        peak / KIB
    );
    assert!(peak < 64 * MIB, "{peak} bytes");
    assert!(
        longest < Duration::from_secs(2),
        "a set waited {longest:?} for a stream"
    );
    let found = store.describe("huge").expect("describe").expect("there");
    assert_eq!(
        (found.size_bytes, found.tags),
        (len, vec![b"streamed".to_vec()])
    );
    let path = store
        .value_path("huge")
        .expect("value_path")
        .expect("a file");
    assert_eq!(std::fs::metadata(path).expect("metadata").len(), len);
}
