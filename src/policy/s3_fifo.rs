//! `s3-fifo`: what is new must be read again before it may stay.
//!
//! Owns the shares, thresholds and the length of the ghost. Never copies a record nobody read.
//!
//! After "FIFO queues are all you need for cache eviction" (Yang et al., SOSP 2023), with records in
//! a log: the log lane is the probation queue, the copy lane the main one, and a turn in the copy lane
//! costs two hits instead of one, which halves the copies.

use super::{Candidate, CullPolicy, Lane, Lanes, Source, Verdict};

/// The log lane is worked on while it has more than one part in so many of the live bytes.
const PROBATION_PARTS: u64 = 10;
/// Hits a record needs to leave the log lane by a copy.
const PROMOTION_HITS: u8 = 1;
/// More hits than this count as this many.
const HITS_COUNTED_MAX: u8 = 3;
/// What one more turn in the copy lane costs.
const TURN_HITS: u8 = 2;
/// After so many copies the next record goes whatever its hits: no write copies for long.
const KEPT_IN_A_ROW_MAX: u32 = 16;
/// The ghost remembers one eviction for so many entries.
const GHOST_PARTS: u64 = 2;

/// Two queues and a ghost.
#[derive(Debug)]
pub(super) struct S3Fifo;

impl CullPolicy for S3Fifo {
    fn source(&self) -> Source {
        Source::Log
    }

    fn copies(&self) -> bool {
        true
    }

    fn next_lane(&self, lanes: &Lanes) -> Lane {
        let live_bytes = lanes.log_bytes.saturating_add(lanes.copy_bytes);
        lanes.only().unwrap_or({
            if lanes.log_bytes > live_bytes / PROBATION_PARTS {
                Lane::Log
            } else {
                Lane::Copy
            }
        })
    }

    fn judge(&self, candidate: &Candidate, lane: Lane, kept_in_a_row: u32) -> Verdict {
        if kept_in_a_row >= KEPT_IN_A_ROW_MAX {
            return Verdict::Evict;
        }
        let hits = candidate.hits.min(HITS_COUNTED_MAX);
        match lane {
            // Promotion starts anew: what was read in its first moments alone goes after one turn.
            Lane::Log if hits >= PROMOTION_HITS => Verdict::Keep { hits: 0 },
            Lane::Copy if hits >= TURN_HITS => Verdict::Keep {
                hits: hits - TURN_HITS,
            },
            Lane::Log | Lane::Copy => Verdict::Evict,
        }
    }

    fn hits_at_birth(&self, was_in_ghost: bool) -> u8 {
        if was_in_ghost { PROMOTION_HITS } else { 0 }
    }

    fn ghost_window(&self, entries: u64) -> u64 {
        entries / GHOST_PARTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::candidate;

    fn judge(hits: u8, lane: Lane) -> Verdict {
        S3Fifo.judge(&candidate(hits, 0), lane, 0)
    }

    #[test]
    fn a_tenth_of_the_bytes_is_on_probation() {
        let next = |log_bytes, copy_bytes| {
            S3Fifo.next_lane(&Lanes {
                log_bytes,
                copy_bytes,
            })
        };
        assert_eq!(next(100, 900), Lane::Copy);
        assert_eq!(next(101, 899), Lane::Log);
        assert_eq!(next(1_000, 0), Lane::Log);
        assert_eq!(next(0, 1_000), Lane::Copy);
        assert_eq!(next(u64::MAX, u64::MAX), Lane::Log);
    }

    #[test]
    fn one_hit_leads_out_of_probation() {
        assert_eq!(judge(0, Lane::Log), Verdict::Evict);
        assert_eq!(judge(1, Lane::Log), Verdict::Keep { hits: 0 });
        assert_eq!(judge(63, Lane::Log), Verdict::Keep { hits: 0 });
    }

    #[test]
    fn a_turn_in_the_copy_lane_costs_two_hits() {
        assert_eq!(judge(0, Lane::Copy), Verdict::Evict);
        assert_eq!(judge(1, Lane::Copy), Verdict::Evict);
        assert_eq!(judge(2, Lane::Copy), Verdict::Keep { hits: 0 });
        assert_eq!(judge(3, Lane::Copy), Verdict::Keep { hits: 1 });
        assert_eq!(judge(63, Lane::Copy), Verdict::Keep { hits: 1 });
    }

    #[test]
    fn no_write_copies_for_long() {
        for lane in [Lane::Log, Lane::Copy] {
            let judge = |row| S3Fifo.judge(&candidate(63, 0), lane, row);
            assert_ne!(judge(15), Verdict::Evict);
            assert_eq!(judge(16), Verdict::Evict);
        }
    }

    #[test]
    fn what_comes_back_is_kept() {
        assert_eq!(S3Fifo.ghost_window(1_000), 500);
        assert_eq!(S3Fifo.hits_at_birth(false), 0);
        let back = S3Fifo.hits_at_birth(true);
        assert_ne!(judge(back, Lane::Log), Verdict::Evict);
    }
}
