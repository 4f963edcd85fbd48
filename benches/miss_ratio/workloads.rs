//! Requests: generated from a seed, or read from a trace.
//!
//! Owns the lengths and shapes of the loads. Never knows a cache.

use std::collections::HashMap;
use std::path::Path;

/// Requests for objects, by number.
pub(crate) struct Load {
    pub(crate) name: &'static str,
    pub(crate) requests: Vec<u64>,
    /// Distinct objects among them.
    pub(crate) objects: usize,
}

impl Load {
    /// Objects are numbered in the order of their first request.
    fn new(name: &'static str, raw: impl IntoIterator<Item = u64>) -> Load {
        let mut numbers = HashMap::new();
        let requests = raw
            .into_iter()
            .map(|object| {
                let next = numbers.len() as u64;
                *numbers.entry(object).or_insert(next)
            })
            .collect();
        Load {
            name,
            requests,
            objects: numbers.len(),
        }
    }
}

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.draw()) * u128::from(end)) >> 64) as u64
    }
}

/// Ranks by Zipf's law: rank r as often as r to the power of minus `skew`.
struct Zipf {
    /// Sums of the weights up to each rank.
    sums: Vec<f64>,
}

impl Zipf {
    fn new(objects: u64, skew: f64) -> Zipf {
        let mut sum = 0.0;
        let weight = |rank: u64| {
            sum += (rank as f64).powf(-skew);
            sum
        };
        Zipf {
            sums: (1..=objects).map(weight).collect(),
        }
    }

    fn draw(&self, random: &mut Random) -> u64 {
        let all = self.sums.last().copied().unwrap_or(0.0);
        let at = (random.draw() >> 11) as f64 / (1_u64 << 53) as f64 * all;
        let rank = self.sums.partition_point(|&sum| sum <= at);
        rank.min(self.sums.len() - 1) as u64
    }
}

/// Independent draws.
fn zipf(seed: u64, objects: u64, skew: f64, len: u64) -> Vec<u64> {
    let (law, mut random) = (Zipf::new(objects, skew), Random(seed));
    (0..len).map(|_| law.draw(&mut random)).collect()
}

/// After every 2/5 of `objects` draws, a scan of a tenth of a cold range as large, on from the last.
fn zipf_with_scans(seed: u64, objects: u64, skew: f64, len: u64) -> Vec<u64> {
    let (law, mut random) = (Zipf::new(objects, skew), Random(seed));
    let mut requests = Vec::new();
    let mut scanned = 0;
    while (requests.len() as u64) < len {
        requests.extend((0..objects * 2 / 5).map(|_| law.draw(&mut random)));
        requests.extend((scanned..scanned + objects / 10).map(|at| objects + at % objects));
        scanned += objects / 10;
    }
    requests.truncate(len as usize);
    requests
}

/// Four branches of one base. Each round takes one at random, replaces 5 % of its objects by new ones
/// and reads them all in order.
fn looping_builds(seed: u64, objects: u64, rounds: usize) -> Vec<u64> {
    let mut random = Random(seed);
    let mut branches = vec![(0..objects).collect::<Vec<_>>(); 4];
    let (mut new, mut requests) = (objects, Vec::new());
    for _ in 0..rounds {
        let branch = &mut branches[random.below(4) as usize];
        for _ in 0..objects / 20 {
            branch[random.below(objects) as usize] = new;
            new += 1;
        }
        requests.extend_from_slice(branch);
    }
    requests
}

/// All loads; the trace is the first when there is one.
pub(crate) fn all(seed: u64, trace: Option<&Path>, small: bool) -> Vec<Load> {
    let (objects, build, rounds) = if small {
        (500, 200, 8)
    } else {
        (50_000, 20_000, 30)
    };
    let len = objects * 10;
    let mut loads = Vec::new();
    if let Some(path) = trace {
        let text = std::fs::read_to_string(path).expect("the trace can be read");
        let blocks = text
            .lines()
            .map(|line| line.trim().parse::<u64>().expect("one number a line"));
        let len = if small { 2_000 } else { usize::MAX };
        loads.push(Load::new("trace", blocks.take(len)));
    }
    loads.push(Load::new("zipf 1.0", zipf(seed, objects, 1.0, len)));
    loads.push(Load::new(
        "zipf 0.8, scans",
        zipf_with_scans(seed + 1, objects, 0.8, len),
    ));
    loads.push(Load::new(
        "looping builds",
        looping_builds(seed + 2, build, rounds),
    ));
    loads
}
