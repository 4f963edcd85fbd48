//! `least-recently-stored`: the oldest version goes first.
//!
//! Owns the order copy lane, then log lane. Never looks at accesses and never copies.

use super::{Candidate, CullPolicy, Lane, Lanes, Source, Verdict};

/// First in, first out.
///
/// What lies in the copy lane was copied out of an older segment, so it was stored before most of the
/// log lane.
#[derive(Debug)]
pub(super) struct LeastRecentlyStored;

impl CullPolicy for LeastRecentlyStored {
    fn source(&self) -> Source {
        Source::Log
    }

    fn next_lane(&self, lanes: &Lanes) -> Lane {
        lanes.only().unwrap_or(Lane::Copy)
    }

    fn judge(&self, _: &Candidate, _: Lane, _: u32) -> Verdict {
        Verdict::Evict
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::candidate;

    #[test]
    fn copies_go_before_the_log() {
        let policy = LeastRecentlyStored;
        let both = Lanes {
            log_bytes: 1_000,
            copy_bytes: 1,
        };
        assert_eq!(policy.source(), Source::Log);
        assert_eq!(policy.next_lane(&both), Lane::Copy);
        assert_eq!(policy.ghost_window(1_000), 0);
    }

    #[test]
    fn accesses_do_not_matter() {
        for lane in [Lane::Log, Lane::Copy] {
            for hits in [0, 1, 63] {
                let verdict = LeastRecentlyStored.judge(&candidate(hits, 0), lane, 0);
                assert_eq!(verdict, Verdict::Evict);
            }
        }
    }
}
