//! Exact caches of objects of size one: how many requests miss.
//!
//! Owns the simulators larder is compared with. Never opens a store.

use std::collections::{BTreeSet, VecDeque};

use super::workloads::Load;

/// Least recently used.
pub(crate) fn lru(load: &Load, capacity: usize) -> u64 {
    ordered(load, capacity, |_, now| (0, now))
}

/// Least frequently used since insertion; of equals, least recently used.
pub(crate) fn lfu(load: &Load, capacity: usize) -> u64 {
    ordered(load, capacity, |hits, now| (hits, now))
}

/// The lowest place goes. `place` gets the number of hits and the time of the request.
fn ordered(load: &Load, capacity: usize, place: impl Fn(u64, u64) -> (u64, u64)) -> u64 {
    let mut cached: Vec<Option<(u64, (u64, u64))>> = vec![None; load.objects];
    let mut order = BTreeSet::new();
    let mut misses = 0;
    for (now, &object) in load.requests.iter().enumerate() {
        let hits = match cached[object as usize] {
            Some((hits, at)) => {
                order.remove(&(at, object));
                hits + 1
            }
            None => {
                misses += 1;
                if order.len() >= capacity
                    && let Some((_, victim)) = order.pop_first()
                {
                    cached[victim as usize] = None;
                }
                0
            }
        };
        let at = place(hits, now as u64);
        cached[object as usize] = Some((hits, at));
        order.insert((at, object));
    }
    misses
}

/// First in, first out.
pub(crate) fn fifo(load: &Load, capacity: usize) -> u64 {
    let mut cached = vec![false; load.objects];
    let mut queue = VecDeque::new();
    let mut misses = 0;
    for &object in &load.requests {
        if cached[object as usize] {
            continue;
        }
        misses += 1;
        if queue.len() >= capacity
            && let Some(victim) = queue.pop_front()
        {
            cached[victim] = false;
        }
        cached[object as usize] = true;
        queue.push_back(object as usize);
    }
    misses
}

/// SIEVE (Zhang et al., NSDI 2024): a queue whose hand steps over what was visited, in place.
pub(crate) fn sieve(load: &Load, capacity: usize) -> u64 {
    // Objects in the order of their insertion, by its number; the hand is such a number.
    let mut queue = std::collections::BTreeMap::new();
    let mut visited: Vec<Option<bool>> = vec![None; load.objects];
    let (mut hand, mut misses) = (0, 0);
    for &object in &load.requests {
        if let Some(seen) = &mut visited[object as usize] {
            *seen = true;
            continue;
        }
        misses += 1;
        while queue.len() >= capacity {
            let next = queue.range(hand..).next().or(queue.iter().next());
            let Some((&at, &victim)) = next else { break };
            // Past the newest it is back at the oldest, whatever comes in meanwhile.
            hand = queue.range(at + 1..).next().map_or(0, |(&newer, _)| newer);
            if visited[victim] == Some(true) {
                visited[victim] = Some(false);
            } else {
                visited[victim] = None;
                queue.remove(&at);
            }
        }
        visited[object as usize] = Some(false);
        queue.insert(misses, object as usize);
    }
    misses
}

/// S3-FIFO as published: a tenth is probation, a counter to 3, a ghost as long as the main queue.
pub(crate) fn s3_fifo(load: &Load, capacity: usize) -> u64 {
    let small_len = (capacity / 10).max(1);
    let ghost_len = (capacity - small_len) as u64;
    let mut hits: Vec<Option<u8>> = vec![None; load.objects];
    let mut ghost: Vec<Option<u64>> = vec![None; load.objects];
    let (mut small, mut main) = (VecDeque::<usize>::new(), VecDeque::<usize>::new());
    let (mut evictions, mut misses) = (0, 0);
    for &object in &load.requests {
        let object = object as usize;
        if let Some(hits) = &mut hits[object] {
            *hits = (*hits + 1).min(3);
            continue;
        }
        misses += 1;
        while small.len() + main.len() >= capacity {
            let probation = main.is_empty() || small.len() >= small_len;
            let queue = if probation { &mut small } else { &mut main };
            let Some(oldest) = queue.pop_front() else {
                break;
            };
            let count = hits[oldest].unwrap_or(0);
            if probation && count > 1 {
                hits[oldest] = Some(0);
                main.push_back(oldest);
            } else if !probation && count > 0 {
                hits[oldest] = Some(count - 1);
                main.push_back(oldest);
            } else {
                hits[oldest] = None;
                if probation {
                    ghost[oldest] = Some(evictions);
                    evictions += 1;
                }
            }
        }
        hits[object] = Some(0);
        let back = ghost[object]
            .take()
            .is_some_and(|at| evictions - at <= ghost_len);
        let queue = if back { &mut main } else { &mut small };
        queue.push_back(object);
    }
    misses
}
