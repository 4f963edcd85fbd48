//! What tags, expiry and checks cost at a million entries.
//!
//! Owns the interleaved rounds, in which what is compared takes turns, so that a slow moment of the
//! machine meets both alike. A rate is also told by the thread's own processor time, which others on the
//! machine do not lengthen.

use std::path::Path;
use std::time::{Duration, Instant};

use larder::{Cache, SetOptions};
use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::common::{self, Entries, key, value};
use crate::{Run, Table};

/// Sets in one round.
const ROUND: u64 = 20_000;
/// Tags that entries have, one each.
const TAGS: u64 = 100;
/// Entries of one tag that is evicted are one in so many.
const EVICTED_PARTS: u64 = 10;
const LARGE_LIMIT_BYTES: u64 = 16 << 30;

pub(crate) fn measure(run: &Run, table: &mut Table) {
    let entries = if run.small { 4_000 } else { 1_000_000 };
    tagged_sets(run, table, entries);
    evictions(run, table, entries);
    expiry(run, table, entries);
    check(run, table);
}

/// A moment on the clock, and in this thread's processor time.
struct Watch(Instant, Timespec);

impl Watch {
    fn start() -> Watch {
        Watch(Instant::now(), clock_gettime(ClockId::ThreadCPUTime))
    }

    /// Units per second: as it was, and by processor time.
    fn rates(&self, units: u64) -> [f64; 2] {
        let (whole, now) = (self.0.elapsed(), clock_gettime(ClockId::ThreadCPUTime));
        let own = (now.tv_sec - self.1.tv_sec) as f64 + (now.tv_nsec - self.1.tv_nsec) as f64 / 1e9;
        [units as f64 / whole.as_secs_f64(), units as f64 / own]
    }
}

fn medians(rates: &[[f64; 2]]) -> [f64; 2] {
    [0, 1].map(|which| common::median(&rates.iter().map(|pair| pair[which]).collect::<Vec<_>>()))
}

/// What a round of sets took, nanoseconds for each.
fn round(store: &Cache, options: &[SetOptions], numbers: impl Iterator<Item = u64>) -> f64 {
    let (begin, mut count) = (Instant::now(), 0);
    for number in numbers {
        let options = &options[number as usize % options.len()];
        store
            .set_with(key(number), value(number), options)
            .expect("a set");
        count += 1;
    }
    begin.elapsed().as_nanos() as f64 / f64::from(count)
}

fn tagged_sets(run: &Run, table: &mut Table, entries: u64) {
    let open = |name| common::open_store(&run.fresh(name));
    let stores = [open("plain"), open("tagged")];
    let tag = |n: u64| SetOptions::default().tag(format!("tag-{n}"));
    let options = [
        vec![SetOptions::default()],
        (0..TAGS).map(tag).collect::<Vec<_>>(),
    ];
    let rounds = entries.div_ceil(ROUND);
    let mut compare = |what: &str, numbers: &dyn Fn(u64) -> Vec<u64>| {
        let mut took = [Vec::new(), Vec::new()];
        for n in 0..rounds {
            let numbers = numbers(n);
            // Who goes first changes.
            for which in [n as usize % 2, 1 - n as usize % 2] {
                let numbers = numbers.iter().copied();
                took[which].push(round(&stores[which], &options[which], numbers));
            }
        }
        let [plain, tagged] = took.map(|took| common::median(&took));
        let ratio = tagged / plain;
        table.add(
            format!("costs: {what} with one tag, to one without"),
            format!("{ratio:.3} ({tagged:.0} ns to {plain:.0} ns)"),
            "≤ 1.4",
            ratio <= 1.4,
        );
    };
    compare("an insert", &|n| {
        (n * ROUND..((n + 1) * ROUND).min(entries)).collect()
    });
    let random = std::cell::RefCell::new(Entries::uniform(entries));
    compare("an overwrite", &|_| {
        (0..ROUND).map(|_| random.borrow_mut().next()).collect()
    });
    drop(stores);
    for name in ["plain", "tagged"] {
        remove(&run.dir.join(name));
    }
}

fn evictions(run: &Run, table: &mut Table, entries: u64) {
    let dir = run.fresh("evictions");
    let store = common::open_store(&dir);
    let tag = |n: u64| format!("tag-{n}");
    let options: Vec<_> = (0..EVICTED_PARTS)
        .map(|n| SetOptions::default().tag(tag(n)))
        .collect();
    round(&store, &options, 0..entries);
    let each = entries / EVICTED_PARTS;
    let mut rates = Vec::new();
    // Half of the tags; what went comes back before the next, so that there are always as many.
    for n in 0..EVICTED_PARTS / 2 {
        let watch = Watch::start();
        let gone = store.evict_tag(tag(n)).expect("an eviction");
        rates.push(watch.rates(gone));
        assert_eq!(gone, each);
        let numbers = (0..each).map(|number| number * EVICTED_PARTS + n);
        round(&store, &options, numbers);
    }
    assert_eq!(store.len().expect("the count"), entries);
    let [rate, own] = medians(&rates);
    table.add(
        format!("costs: evicting a tag of {each} among {entries}"),
        format!("{:.2} M entries/s", rate / 1e6),
        "≥ 2 M/s",
        rate >= 2e6,
    );
    table.tell(
        "costs: evicting, by processor time",
        format!("{:.2} M entries/s", own / 1e6),
    );
    drop(store);
    remove(&dir);
}

fn expiry(run: &Run, table: &mut Table, entries: u64) {
    let dir = run.fresh("expiry");
    let store = common::open_store(&dir);
    let options = [SetOptions::default().ttl(Duration::from_secs(24 * 3_600))];
    round(&store, &options, 0..entries);
    let calls = if run.small { 100 } else { 10_000 };
    let took: Vec<f64> = (0..calls)
        .map(|_| {
            let begin = Instant::now();
            assert_eq!(store.expire().expect("an expiry"), 0);
            begin.elapsed().as_nanos() as f64
        })
        .collect();
    let median = common::median(&took);
    table.add(
        format!("costs: expire() with nothing due at {entries}"),
        format!(
            "{} (first {})",
            common::duration_text(median),
            common::duration_text(took[0])
        ),
        "< 10 µs",
        median < 10_000.0,
    );
    drop(store);
    remove(&dir);
}

fn check(run: &Run, table: &mut Table) {
    let dir = run.fresh("check");
    let store = Cache::builder()
        .size_limit_bytes(LARGE_LIMIT_BYTES)
        .open(&dir)
        .expect("a store opens");
    let mut data = [0x5A_u8; 1 << 10];
    for number in 0..if run.small { 4_000 } else { 1 << 20 } {
        data[..common::VALUE_LEN].copy_from_slice(&value(number));
        store.set(key(number), data).expect("a set");
    }
    let (mut rates, mut bytes) = (Vec::new(), 0);
    for _ in 0..if run.small { 1 } else { 3 } {
        let watch = Watch::start();
        let report = store.check().expect("a check");
        rates.push(watch.rates(report.bytes));
        assert!(report.is_sound(), "{:?}", report.findings);
        bytes = report.bytes;
    }
    let [rate, own] = medians(&rates);
    table.add(
        format!("costs: check of {} MiB of 1 KiB values", bytes >> 20),
        format!("{:.0} MB/s", rate / 1e6),
        "≥ 500 MB/s",
        rate >= 500e6,
    );
    table.tell(
        "costs: check, by processor time",
        format!("{:.0} MB/s", own / 1e6),
    );
    drop(store);
    remove(&dir);
}

fn remove(dir: &Path) {
    std::fs::remove_dir_all(dir).expect("the bench's directory is ours");
}
