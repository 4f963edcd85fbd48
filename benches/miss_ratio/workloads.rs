//! Requests: generated from a seed, or read from a trace.
//!
//! Owns the lengths and shapes of the loads. Never knows a cache.

use std::collections::HashMap;
use std::path::Path;

use super::random::{Random, Zipf};

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
