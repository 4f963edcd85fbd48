//! `least-frequently-used`: what was read least often goes first, by samples.
//!
//! Owns the order counter, then age. Never lowers a counter.

use super::least_recently_used::SAMPLE;
use super::{Candidate, CullPolicy, HITS_MAX, Source};

/// By the number of accesses since insertion; of equals, by the last access.
#[derive(Debug)]
pub(super) struct LeastFrequentlyUsed;

impl CullPolicy for LeastFrequentlyUsed {
    fn source(&self) -> Source {
        SAMPLE
    }

    fn looks_at_records(&self) -> bool {
        false
    }

    fn rank(&self, candidate: &Candidate) -> u64 {
        let unused = HITS_MAX.saturating_sub(candidate.hits);
        u64::from(unused) << 32 | u64::from(candidate.age_ticks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::candidate;

    #[test]
    fn fewer_accesses_go_first_and_age_breaks_ties() {
        let rank = |hits, age| LeastFrequentlyUsed.rank(&candidate(hits, age));
        assert!(rank(0, 0) > rank(1, u32::MAX));
        assert!(rank(3, 2) > rank(3, 1));
        assert!(rank(62, 0) > rank(63, u32::MAX));
    }
}
