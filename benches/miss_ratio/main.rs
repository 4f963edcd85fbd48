//! Miss ratios: exact caches, simulated, beside stores with larder's policies.
//!
//! Prints Markdown: a row for each load and size, the mean, and whether three criteria hold.
//! `--seed N` gives other loads, `--trace FILE` adds a trace (a number a line), `--dir DIR` says
//! where the stores lie (`/dev/shm` if there is one), `--test` runs everything once and small.
//! Never measures time.

use std::path::{Path, PathBuf};

use larder::{Cache, Policy, Stats};

#[path = "../common/random.rs"]
mod random;

mod exact;
mod workloads;

use workloads::Load;

/// Sizes of the caches, percent of a load's distinct objects.
const SIZES_PERCENT: [usize; 3] = [2, 10, 30];
const COLUMNS: [&str; 9] = [
    "LRU",
    "LFU",
    "FIFO",
    "SIEVE",
    "S3-FIFO",
    "larder LRU",
    "larder LFU",
    "larder LRS",
    "larder S3",
];
const LRU: usize = 0;
const LFU: usize = 1;
const LARDER_LRU: usize = 5;
const LARDER_LFU: usize = 6;
const LARDER_S3: usize = 8;

/// The stores' `size_limit_bytes`: out of the way, so that `count_limit` alone decides.
const SIZE_LIMIT_BYTES: u64 = 1 << 30;

/// One load at one size.
struct Cell {
    name: String,
    ratios: [f64; 9],
    /// What the store under the default policy counted.
    stats: Stats,
}

impl Cell {
    fn measure(load: &Load, percent: usize, dir: &Path) -> Cell {
        let capacity = (load.objects * percent / 100).max(1);
        let simulated = |misses: u64| misses as f64 / load.requests.len() as f64;
        let share = |stats: &Stats| stats.misses as f64 / load.requests.len() as f64;
        let stored = |policy| run_on_store(dir, policy, capacity as u64, &load.requests);
        let stats = stored(Policy::S3Fifo);
        Cell {
            name: format!("{}, {percent} %", load.name),
            ratios: [
                simulated(exact::lru(load, capacity)),
                simulated(exact::lfu(load, capacity)),
                simulated(exact::fifo(load, capacity)),
                simulated(exact::sieve(load, capacity)),
                simulated(exact::s3_fifo(load, capacity)),
                share(&stored(Policy::LeastRecentlyUsed)),
                share(&stored(Policy::LeastFrequentlyUsed)),
                share(&stored(Policy::LeastRecentlyStored)),
                share(&stats),
            ],
            stats,
        }
    }

    /// The misses of one column as a share of another's.
    fn against(&self, column: usize, base: usize) -> f64 {
        self.ratios[column] / self.ratios[base]
    }
}

/// What a store of `capacity` entries counts: a get for each request, and a set of a small value after a
/// miss.
fn run_on_store(dir: &Path, policy: Policy, capacity: u64, requests: &[u64]) -> Stats {
    let dir = dir.join(policy.name());
    let store = Cache::builder()
        .size_limit_bytes(SIZE_LIMIT_BYTES)
        .count_limit(Some(capacity))
        .policy(policy)
        .statistics(true)
        .open(&dir)
        .expect("a store opens");
    for object in requests {
        let key = object.to_le_bytes();
        if store.get(key).expect("a read").is_none() {
            store.set(key, key).expect("a set");
        }
    }
    let stats = store.stats(false).expect("the counters");
    assert_eq!(stats.hits + stats.misses, requests.len() as u64);
    assert!(store.len().expect("the count") <= capacity);
    drop(store);
    std::fs::remove_dir_all(&dir).expect("the bench's directory is ours");
    stats
}

/// The cell in which a column does worst against another.
fn worst(cells: &[Cell], column: usize, base: usize) -> (f64, &str) {
    cells
        .iter()
        .map(|cell| (cell.against(column, base), cell.name.as_str()))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .unwrap_or((1.0, "no cell"))
}

fn print_row(name: &str, numbers: impl IntoIterator<Item = f64>) {
    let cells: Vec<_> = numbers.into_iter().map(|n| format!("{n:.4}")).collect();
    println!("| {name} | {} |", cells.join(" | "));
}

/// What the log form writes besides: records kept, and notes of what went.
fn print_copies(cells: &[Cell]) {
    println!(
        "\n| load, size | bytes kept per byte set | bytes logged per byte set |\n|---|---:|---:|"
    );
    for cell in cells {
        let kept = cell.stats.bytes_kept as f64 / cell.stats.bytes_put as f64;
        let logged = cell.stats.write_amplification().unwrap_or(1.0);
        println!("| {} | {kept:.3} | {logged:.3} |", cell.name);
    }
    println!();
}

fn print_criterion(holds: bool, what: &str) {
    println!("- {}: {what}", if holds { "PASS" } else { "FAIL" });
}

fn argument(name: &str) -> Option<String> {
    std::env::args()
        .skip_while(|argument| argument != name)
        .nth(1)
}

/// Where stores are fastest: what they miss does not depend on the disk.
fn default_root() -> PathBuf {
    let memory = Path::new("/dev/shm");
    match memory.is_dir() {
        true => memory.into(),
        false => env!("CARGO_TARGET_TMPDIR").into(),
    }
}

fn main() {
    let flag = |name| std::env::args().any(|argument| argument == name);
    let small = flag("--test") || !flag("--bench");
    let seed = argument("--seed").map_or(1, |text| text.parse().expect("--seed takes a number"));
    let trace = argument("--trace").map(PathBuf::from);
    let loads = workloads::all(seed, trace.as_deref(), small);
    let root = argument("--dir").map_or_else(default_root, PathBuf::from);
    let dir = root.join(format!("larder-bench-miss-ratio-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("the bench's directory can be made");

    println!("Miss ratios, seed {seed}:\n");
    println!("| load, size | {} |", COLUMNS.join(" | "));
    println!("|---|{}", "---:|".repeat(COLUMNS.len()));
    let mut cells = Vec::new();
    for load in &loads {
        for percent in SIZES_PERCENT {
            let cell = Cell::measure(load, percent, &dir);
            print_row(&cell.name, cell.ratios);
            cells.push(cell);
        }
    }
    let count = cells.len() as f64;
    let mean = |of: &dyn Fn(&Cell, usize) -> f64, column| {
        cells.iter().map(|cell| of(cell, column)).sum::<f64>() / count
    };
    let columns = 0..COLUMNS.len();
    print_row(
        "mean",
        columns
            .clone()
            .map(|at| mean(&|cell, at| cell.ratios[at], at)),
    );
    print_row(
        "mean of LRU's",
        columns
            .clone()
            .map(|at| mean(&|cell, at| cell.against(at, LRU), at)),
    );
    print_row("worst of LRU's", columns.map(|at| worst(&cells, at, LRU).0));

    print_copies(&cells);
    let (most, cell) = worst(&cells, LARDER_S3, LRU);
    print_criterion(
        most <= 1.01,
        &format!("larder S3 misses at most 1.01 of LRU in every cell: {most:.4} ({cell})"),
    );
    let of_lru = mean(&|cell, at| cell.against(at, LRU), LARDER_S3);
    print_criterion(
        of_lru <= 0.9,
        &format!("larder S3 misses at most 0.9 of LRU in the mean: {of_lru:.4}"),
    );
    let (lru, lru_cell) = worst(&cells, LARDER_LRU, LRU);
    let (lfu, lfu_cell) = worst(&cells, LARDER_LFU, LFU);
    print_criterion(
        lru <= 1.02 && lfu <= 1.02,
        &format!(
            "samples miss at most 1.02 of the exact order: LRU {lru:.4} ({lru_cell}), LFU {lfu:.4} ({lfu_cell})"
        ),
    );
    std::fs::remove_dir_all(&dir).expect("the bench's directory is ours");
}
