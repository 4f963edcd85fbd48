//! How long a set and a get take at most, in a full store beside its upkeep.
//!
//! Owns the paced load: a writer that is offered 100 MB/s, a reader with a get every 50 µs, and the
//! background worker. What a call takes is measured; so is that less what its thread waited for a core,
//! which is the machine's part where others work on it too, and, for sets, what passed since the call was
//! due.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use larder::Cache;

use crate::common::key;
use crate::common::random::{Random, Zipf};
use crate::histogram::{self, Histogram};
use crate::{Run, Table, ms_text};

const OFFERED_BYTES_PER_S: f64 = 100e6;
const VALUE_LEN: std::ops::RangeInclusive<u64> = 100..=16 << 10;
const GET_EVERY: Duration = Duration::from_micros(50);
const SKEW: f64 = 0.9;

/// What the load draws from.
struct Load {
    law: Zipf,
    random: Random,
    value: Vec<u8>,
}

impl Load {
    fn new(limit: u64, seed: u64) -> Load {
        let mean = (VALUE_LEN.start() + VALUE_LEN.end()) / 2;
        Load {
            law: Zipf::new(limit / mean * 3, SKEW),
            random: Random(seed),
            value: vec![0x5A; *VALUE_LEN.end() as usize],
        }
    }

    fn key(&mut self) -> [u8; 20] {
        key(self.law.draw(&mut self.random))
    }

    fn value(&mut self) -> &[u8] {
        let len = VALUE_LEN.start() + self.random.below(VALUE_LEN.end() - VALUE_LEN.start() + 1);
        let word = self.random.draw().to_le_bytes();
        self.value[..8].copy_from_slice(&word);
        &self.value[..len as usize]
    }
}

/// Sleeps until `due`, counted from `begin`: never spins, the cores are needed.
fn wait_until(begin: Instant, due: Duration) {
    let now = begin.elapsed();
    if now < due {
        std::thread::sleep(due - now);
    }
}

/// What calls took: as it was, and less what the thread waited for a core.
struct Calls {
    whole: Histogram,
    own: Histogram,
    waits: Waits,
}

impl Calls {
    fn new() -> Calls {
        Calls {
            whole: Histogram::new(),
            own: Histogram::new(),
            waits: Waits::of_this_thread(),
        }
    }

    fn time(&mut self, call: impl FnOnce()) {
        let before = self.waits.nanoseconds();
        let from = Instant::now();
        call();
        let took = from.elapsed().as_nanos() as u64;
        self.whole.add(took);
        // A short call waited for nothing.
        let waited = match took {
            ..50_000 => 0,
            _ => self.waits.nanoseconds() - before,
        };
        self.own.add(took.saturating_sub(waited));
    }
}

/// How long a thread was ready to run without a core, as the kernel counts it.
struct Waits(Option<File>);

impl Waits {
    fn of_this_thread() -> Waits {
        Waits(File::open("/proc/thread-self/schedstat").ok())
    }

    /// 0 where the kernel does not count.
    fn nanoseconds(&self) -> u64 {
        let mut bytes = [0; 64];
        let len = self.0.as_ref().map_or(0, |file| {
            file.read_at(&mut bytes, 0)
                .expect("the scheduler's counters")
        });
        let text = String::from_utf8_lossy(&bytes[..len]);
        let second = text.split_whitespace().nth(1);
        second.and_then(|text| text.parse().ok()).unwrap_or(0)
    }
}

fn read(store: &Cache, limit: u64, is_over: &AtomicBool) -> Calls {
    let mut load = Load::new(limit, 2);
    let mut gets = Calls::new();
    let begin = Instant::now();
    for n in 0.. {
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        wait_until(begin, GET_EVERY * n);
        let key = load.key();
        gets.time(|| {
            std::hint::black_box(store.get(key).expect("a read"));
        });
    }
    gets
}

pub(crate) fn measure(run: &Run, table: &mut Table) {
    let dir = run.fresh("stalls");
    let limit = run.size_limit_bytes();
    let lasts = match run.small {
        true => Duration::from_millis(500),
        false => Duration::from_secs_f64(60.0 * run.scale),
    };
    let store = Cache::builder()
        .size_limit_bytes(limit)
        .background_maintenance(true)
        .open(&dir)
        .expect("a store opens");
    let mut load = Load::new(limit, 1);
    let mut filled = 0;
    while filled < limit * 3 / 2 {
        let key = load.key();
        let value = load.value();
        filled += value.len() as u64;
        store.set(key, value).expect("a set");
    }
    store.stats(true).expect("the counters");

    let is_over = AtomicBool::new(false);
    let (mut sets, mut since_due) = (Calls::new(), Histogram::new());
    let mut bytes = 0;
    let (gets, took) = std::thread::scope(|scope| {
        let reader = scope.spawn(|| read(&store, limit, &is_over));
        let begin = Instant::now();
        while begin.elapsed() < lasts {
            let due = Duration::from_secs_f64(bytes as f64 / OFFERED_BYTES_PER_S);
            wait_until(begin, due);
            let key = load.key();
            let value = load.value();
            sets.time(|| store.set(key, value).expect("a set"));
            since_due.add((begin.elapsed().saturating_sub(due)).as_nanos() as u64);
            bytes += value.len() as u64;
        }
        let took = begin.elapsed();
        is_over.store(true, Ordering::Relaxed);
        (reader.join().expect("the reader"), took)
    });
    let stats = store.stats(false).expect("the counters");
    drop(store);
    std::fs::remove_dir_all(&dir).expect("the bench's directory is ours");

    let rate = bytes as f64 / took.as_secs_f64();
    println!(
        "\nstalls: {:.1} MB/s for {:.0} s; {} culled, {} syncs, write amplification {:.3}, {} MiB kept and {} MiB given back by upkeep",
        rate / 1e6,
        took.as_secs_f64(),
        stats.culled,
        stats.syncs,
        stats.write_amplification().unwrap_or(1.0),
        stats.bytes_kept >> 20,
        stats.bytes_freed >> 20,
    );
    histogram::print(
        &[
            "sets",
            "sets less waits for a core",
            "sets since due",
            "gets",
            "gets less waits for a core",
        ],
        &[&sets.whole, &sets.own, &since_due, &gets.whole, &gets.own],
    );
    for (what, calls, target, most_ns) in [
        ("set", &sets, "< 5 ms", 5_000_000),
        ("get", &gets, "< 1 ms", 1_000_000),
    ] {
        let longest = calls.whole.quantile(0.9999);
        table.add(
            format!("stalls: {what} p99.99 of {}", calls.whole.count),
            ms_text(longest),
            target,
            longest < most_ns,
        );
        table.tell(
            format!("stalls: {what} p99.99 less waits for a core"),
            ms_text(calls.own.quantile(0.9999)),
        );
    }
    table.add(
        "stalls: taken of what was offered",
        format!("{:.1} MB/s", rate / 1e6),
        "≥ 99 MB/s",
        rate >= 0.99 * OFFERED_BYTES_PER_S,
    );
    table.tell(
        "stalls: set p99.99 since it was due",
        ms_text(since_due.quantile(0.9999)),
    );
}
