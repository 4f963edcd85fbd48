//! The engine's mechanics in memory: what a store with a limit of entries would miss.
//!
//! Owns the two lanes, the table of the ghost, the counters and ticks. Never chooses: that is the
//! policies'.

use std::collections::VecDeque;
use std::time::Duration;

use larder::policy::{Candidate, HITS_MAX, Lane, Lanes, Source, Verdict, ghost};

use super::workloads::Random;

/// What a run came to.
#[derive(Clone, Copy, Default)]
pub(crate) struct Outcome {
    pub(crate) misses: u64,
    /// Records copied.
    pub(crate) copies: u64,
    /// The most copies in one set.
    pub(crate) burst: u32,
}

#[derive(Clone, Copy)]
struct Entry {
    hits: u8,
    tick: u32,
    /// Where the sampled form keeps it.
    slot: usize,
}

struct Mechanics {
    policy: &'static dyn larder::policy::CullPolicy,
    capacity: usize,
    entries: Vec<Option<Entry>>,
    slots: Vec<usize>,
    lanes: [VecDeque<usize>; 2],
    ghost: Vec<u32>,
    evictions: u64,
    sets: usize,
    random: Random,
    outcome: Outcome,
}

/// Runs `requests` through a store of `capacity` entries: a get, and a set if it missed.
pub(crate) fn run(policy: larder::Policy, capacity: u64, requests: &[u64]) -> Outcome {
    let capacity = capacity as usize;
    let objects = requests.iter().max().map_or(0, |&most| most as usize + 1);
    let mut store = Mechanics {
        policy: policy.policy(),
        capacity,
        entries: vec![None; objects],
        slots: Vec::new(),
        lanes: [VecDeque::new(), VecDeque::new()],
        ghost: vec![0; capacity.next_power_of_two().max(ghost::BUCKET_WORDS)],
        evictions: 0,
        sets: 0,
        random: Random(77),
        outcome: Outcome::default(),
    };
    for &object in requests {
        let now = store.now();
        if let Some(entry) = &mut store.entries[object as usize] {
            entry.hits = (entry.hits + 1).min(HITS_MAX);
            entry.tick = now;
        } else {
            store.set(object as usize);
        }
    }
    store.outcome
}

fn hash(object: usize) -> u64 {
    Random(object as u64).draw()
}

impl Mechanics {
    fn now(&self) -> u32 {
        (self.sets / (self.capacity / 256).max(1)) as u32
    }

    fn candidate(&self, object: usize) -> Candidate {
        let entry = self.entries[object].expect("candidates are cached");
        Candidate {
            hits: entry.hits,
            age_ticks: self.now() - entry.tick,
            stored_ago: Duration::ZERO,
            size_bytes: 1,
            cost_seconds: 0.0,
        }
    }

    fn set(&mut self, object: usize) {
        self.outcome.misses += 1;
        self.sets += 1;
        let source = self.policy.source();
        while self.slots.len() >= self.capacity {
            match source {
                Source::None => return,
                Source::Sample { draw, take } => self.cull_by_sample(draw, take),
                Source::Log => self.cull_by_lanes(),
            }
        }
        let back = source == Source::Log && self.was_in_ghost(object);
        self.entries[object] = Some(Entry {
            hits: self.policy.hits_at_birth(back),
            tick: self.now(),
            slot: self.slots.len(),
        });
        self.slots.push(object);
        if source == Source::Log {
            self.lanes[Lane::Log as usize].push_back(object);
        }
    }

    fn remove(&mut self, object: usize) {
        let Some(gone) = self.entries[object].take() else {
            return;
        };
        self.slots.swap_remove(gone.slot);
        if let Some(&moved) = self.slots.get(gone.slot)
            && let Some(entry) = &mut self.entries[moved]
        {
            entry.slot = gone.slot;
        }
    }

    fn cull_by_sample(&mut self, draw: usize, take: usize) {
        let (drawn, take) = if self.slots.len() <= draw {
            (self.slots.clone(), 1)
        } else {
            let end = self.slots.len() as u64;
            let mut pick = || self.slots[self.random.below(end) as usize];
            ((0..draw).map(|_| pick()).collect(), take)
        };
        let mut ranked: Vec<_> = drawn
            .into_iter()
            .map(|object| (self.policy.rank(&self.candidate(object)), object))
            .collect();
        ranked.sort_unstable_by(|a, b| b.cmp(a));
        ranked.dedup();
        for &(_, object) in ranked.iter().take(take) {
            self.remove(object);
        }
    }

    fn cull_by_lanes(&mut self) {
        let mut kept_in_a_row = 0;
        loop {
            let lane = self.policy.next_lane(&Lanes {
                log_bytes: self.lanes[Lane::Log as usize].len() as u64,
                copy_bytes: self.lanes[Lane::Copy as usize].len() as u64,
            });
            let Some(object) = self.lanes[lane as usize].pop_front() else {
                return;
            };
            let verdict = self
                .policy
                .judge(&self.candidate(object), lane, kept_in_a_row);
            match verdict {
                Verdict::Keep { hits } => {
                    if let Some(entry) = &mut self.entries[object] {
                        entry.hits = hits;
                    }
                    self.lanes[Lane::Copy as usize].push_back(object);
                    kept_in_a_row += 1;
                    self.outcome.copies += 1;
                    self.outcome.burst = self.outcome.burst.max(kept_in_a_row);
                }
                Verdict::Evict => {
                    if lane == Lane::Log {
                        self.remember(object);
                    }
                    self.remove(object);
                    return;
                }
            }
        }
    }

    fn bucket(&mut self, object: usize) -> &mut [u32; ghost::BUCKET_WORDS] {
        let words = self.ghost.len() as u64;
        let at = ghost::bucket(hash(object), words) as usize;
        &mut self.ghost.as_chunks_mut().0[at]
    }

    fn remember(&mut self, object: usize) {
        let (words, evictions) = (self.ghost.len() as u64, self.evictions);
        let bucket = self.bucket(object);
        let (at, word) = ghost::remember(bucket, hash(object), evictions, words);
        bucket[at] = word;
        self.evictions += 1;
    }

    fn was_in_ghost(&mut self, object: usize) -> bool {
        let (words, evictions) = (self.ghost.len() as u64, self.evictions);
        let window = self.policy.ghost_window(self.slots.len() as u64);
        if window == 0 {
            return false;
        }
        let bucket = self.bucket(object);
        let found = ghost::find(bucket, hash(object), evictions, words, window);
        if let Some(at) = found {
            bucket[at] = 0;
        }
        found.is_some()
    }
}
