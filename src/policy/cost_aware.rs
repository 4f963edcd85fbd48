//! `cost-aware`: what saves the fewest seconds per byte goes first, by samples.
//!
//! Owns the worth of an entry. Never trusts a cost: one that is no positive number is a default.

use super::least_recently_used::SAMPLE;
use super::{Candidate, CullPolicy, Source};

/// What an entry costs whose writer did not say.
const DEFAULT_COST_SECONDS: f64 = 0.001;
/// Costs beyond this count as this: about eleven days.
const COST_SECONDS_MAX: f64 = 1e6;
/// Worth is halved when an entry is this many ticks old: about 1/16 of the entries were set since.
const HALF_WORTH_TICKS: f64 = 16.0;

/// By cost times uses, per byte, less with age (after GreedyDual-Size-Frequency).
#[derive(Debug)]
pub(super) struct CostAware;

impl CullPolicy for CostAware {
    fn source(&self) -> Source {
        SAMPLE
    }

    fn rank(&self, candidate: &Candidate) -> u64 {
        let cost = if candidate.cost_seconds > 0.0 {
            candidate.cost_seconds.clamp(1e-9, COST_SECONDS_MAX)
        } else {
            DEFAULT_COST_SECONDS
        };
        let uses = f64::from(candidate.hits) + 1.0;
        let age = 1.0 + f64::from(candidate.age_ticks) / HALF_WORTH_TICKS;
        let bytes = candidate.size_bytes.max(1) as f64;
        // Positive numbers are ordered as their bits are.
        (bytes * age / (cost * uses)).to_bits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::candidate;

    fn rank(cost_seconds: f64, hits: u8, size_bytes: u64, age_ticks: u32) -> u64 {
        CostAware.rank(&Candidate {
            cost_seconds,
            size_bytes,
            ..candidate(hits, age_ticks)
        })
    }

    #[test]
    fn what_is_cheap_large_unused_or_old_goes_first() {
        let usual = rank(1.0, 1, 1_000, 100);
        assert!(rank(0.9, 1, 1_000, 100) > usual);
        assert!(rank(1.0, 0, 1_000, 100) > usual);
        assert!(rank(1.0, 1, 1_001, 100) > usual);
        assert!(rank(1.0, 1, 1_000, 101) > usual);
    }

    #[test]
    fn twice_the_cost_is_worth_twice_the_bytes() {
        assert_eq!(rank(2.0, 0, 2_000, 5), rank(1.0, 0, 1_000, 5));
        assert_eq!(rank(1.0, 1, 2_000, 5), rank(1.0, 0, 1_000, 5));
        assert_eq!(rank(1.0, 0, 1_000, 16), rank(1.0, 0, 2_000, 0));
    }

    #[test]
    fn a_cost_that_is_none_is_the_default() {
        let default = rank(DEFAULT_COST_SECONDS, 0, 100, 0);
        for none in [0.0, -0.0, -1.0, f64::NAN, f64::NEG_INFINITY] {
            assert_eq!(rank(none, 0, 100, 0), default);
        }
    }

    #[test]
    fn the_ends_of_every_range_are_ordered() {
        let worst = rank(f64::MIN_POSITIVE, 0, u64::MAX, u32::MAX);
        let best = rank(f64::INFINITY, 63, 0, 0);
        assert!(f64::from_bits(worst).is_finite() && worst > best && best > 0);
    }
}
