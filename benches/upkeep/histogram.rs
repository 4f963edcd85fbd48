//! A histogram of times in logarithmic buckets.
//!
//! Owns the buckets: sixteen to each doubling, so that a quantile is told to about 6 %, never too low.

const STEPS: u64 = 16;
const STEP_BITS: u32 = STEPS.ilog2();
const BUCKETS: usize = 64 * STEPS as usize;

/// Times in nanoseconds.
pub(crate) struct Histogram {
    counts: Vec<u64>,
    pub(crate) count: u64,
    pub(crate) longest: u64,
}

impl Histogram {
    pub(crate) fn new() -> Histogram {
        Histogram {
            counts: vec![0; BUCKETS],
            count: 0,
            longest: 0,
        }
    }

    pub(crate) fn add(&mut self, nanoseconds: u64) {
        self.counts[bucket(nanoseconds)] += 1;
        self.count += 1;
        self.longest = self.longest.max(nanoseconds);
    }

    /// Such a part of the times is at most so long.
    pub(crate) fn quantile(&self, part: f64) -> u64 {
        let rank = ((self.count as f64 * part).ceil() as u64).clamp(1, self.count.max(1));
        let mut passed = 0;
        for (at, count) in self.counts.iter().enumerate() {
            passed += count;
            if passed >= rank {
                return end(at).min(self.longest);
            }
        }
        self.longest
    }

    /// Times by doubling: (the end of the range, how many are in it), from the first to the last in use.
    pub(crate) fn doublings(&self) -> Vec<(u64, u64)> {
        let rows = self.counts.chunks(STEPS as usize).enumerate();
        rows.map(|(n, counts)| (end((n + 1) * STEPS as usize - 1), counts.iter().sum()))
            .collect()
    }
}

/// Below 16 a bucket for each number; above, the four bits behind the highest choose.
fn bucket(nanoseconds: u64) -> usize {
    if nanoseconds < STEPS {
        return nanoseconds as usize;
    }
    let shift = nanoseconds.ilog2() - STEP_BITS;
    (u64::from(shift + 1) * STEPS + (nanoseconds >> shift) - STEPS) as usize
}

/// The largest time of a bucket.
fn end(bucket: usize) -> u64 {
    let (row, step) = (bucket as u64 / STEPS, bucket as u64 % STEPS);
    if row == 0 {
        return step;
    }
    let next = u128::from(STEPS + step + 1) << (row - 1);
    u64::try_from(next - 1).unwrap_or(u64::MAX)
}

/// Prints histograms side by side, a line for each doubling.
pub(crate) fn print(names: &[&str], histograms: &[&Histogram]) {
    println!("\n| up to | {} |", names.join(" | "));
    println!("|---:|{}", "---:|".repeat(names.len()));
    let columns: Vec<_> = histograms.iter().map(|one| one.doublings()).collect();
    let in_use = |row: &usize| columns.iter().any(|column| column[*row].1 > 0);
    let rows = 0..columns[0].len();
    let (first, last) = (rows.clone().find(in_use), rows.rev().find(in_use));
    for row in first.unwrap_or(0)..=last.unwrap_or(0) {
        let cells: Vec<_> = columns
            .iter()
            .map(|column| column[row].1.to_string())
            .collect();
        let end_us = columns[0][row].0 as f64 / 1e3;
        println!("| {end_us:.1} µs | {} |", cells.join(" | "));
    }
    for part in [0.5, 0.99, 0.999, 0.9999, 1.0] {
        let cells: Vec<_> = histograms
            .iter()
            .map(|one| format!("{:.1} µs", one.quantile(part) as f64 / 1e3))
            .collect();
        println!("| p{} | {} |", part * 100.0, cells.join(" | "));
    }
}
