//! Miss ratios: exact caches, simulated, beside larder's policies.
//!
//! Prints Markdown: a row for each load and size, the mean, and whether three criteria hold.
//! `--seed N` gives other loads, `--trace FILE` adds a trace (a number a line), `--test` runs
//! everything once and small. Never measures time.

use std::path::PathBuf;

use larder::Policy;

mod exact;
mod mechanics;
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

/// One load at one size.
struct Cell {
    name: String,
    ratios: [f64; 9],
}

impl Cell {
    fn measure(load: &Load, percent: usize) -> Cell {
        let capacity = (load.objects * percent / 100).max(1);
        let simulated = |misses: u64| misses as f64 / load.requests.len() as f64;
        let stored = |policy| run_on_store(policy, capacity as u64, &load.requests);
        Cell {
            name: format!("{}, {percent} %", load.name),
            ratios: [
                simulated(exact::lru(load, capacity)),
                simulated(exact::lfu(load, capacity)),
                simulated(exact::fifo(load, capacity)),
                simulated(exact::sieve(load, capacity)),
                simulated(exact::s3_fifo(load, capacity)),
                stored(Policy::LeastRecentlyUsed),
                stored(Policy::LeastFrequentlyUsed),
                stored(Policy::LeastRecentlyStored),
                stored(Policy::S3Fifo),
            ],
        }
    }

    /// The misses of one column as a share of another's.
    fn against(&self, column: usize, base: usize) -> f64 {
        self.ratios[column] / self.ratios[base]
    }
}

/// The share of requests that miss: a get each, and a set of a small value after a miss.
fn run_on_store(policy: Policy, capacity: u64, requests: &[u64]) -> f64 {
    mechanics::run(policy, capacity, requests).misses as f64 / requests.len() as f64
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

/// What the log form copies, by the mechanics in memory.
fn print_copies(loads: &[Load]) {
    println!("\n| load, size | copies per set | most in one set |\n|---|---:|---:|");
    for load in loads {
        for percent in SIZES_PERCENT {
            let capacity = (load.objects * percent / 100).max(1) as u64;
            let outcome = mechanics::run(Policy::S3Fifo, capacity, &load.requests);
            let per_set = outcome.copies as f64 / outcome.misses as f64;
            println!(
                "| {}, {percent} % | {per_set:.3} | {} |",
                load.name, outcome.burst
            );
        }
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

fn main() {
    let flag = |name| std::env::args().any(|argument| argument == name);
    let small = flag("--test") || !flag("--bench");
    let seed = argument("--seed").map_or(1, |text| text.parse().expect("--seed takes a number"));
    let trace = argument("--trace").map(PathBuf::from);
    let loads = workloads::all(seed, trace.as_deref(), small);

    println!("Miss ratios, seed {seed}:\n");
    println!("| load, size | {} |", COLUMNS.join(" | "));
    println!("|---|{}", "---:|".repeat(COLUMNS.len()));
    let mut cells = Vec::new();
    for load in &loads {
        for percent in SIZES_PERCENT {
            let cell = Cell::measure(load, percent);
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

    print_copies(&loads);
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
}
