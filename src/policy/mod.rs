//! Who goes when a store is full: policies as pure choices.
//!
//! Owns what a policy is told, what it answers, and the names of the policies.
//! Never reads a clock, a file or a lock, and keeps no state: the engine holds every counter.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

mod cost_aware;
pub mod ghost;
mod least_frequently_used;
mod least_recently_stored;
mod least_recently_used;
mod none;
mod s3_fifo;

use crate::error::{Error, Result};

/// An entry's hit counter stops here: it has six bits.
pub const HITS_MAX: u8 = 63;

/// How a full store chooses what to evict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Policy {
    /// Nothing is evicted: a write into a full store fails.
    None,
    /// The oldest version of all goes first.
    LeastRecentlyStored,
    /// What was not read for longest goes first, by samples.
    LeastRecentlyUsed,
    /// What was read least often since it was inserted goes first, by samples; of equals the one not
    /// read for longest.
    LeastFrequentlyUsed,
    /// What is new must be read again before it may stay. The default: the fewest misses on most loads.
    #[default]
    #[serde(rename = "s3-fifo")]
    S3Fifo,
    /// What saves the fewest seconds per byte goes first, by samples.
    CostAware,
}

impl Policy {
    /// All of them, in the order of their numbers.
    pub const ALL: [Policy; 6] = [
        Policy::None,
        Policy::LeastRecentlyStored,
        Policy::LeastRecentlyUsed,
        Policy::LeastFrequentlyUsed,
        Policy::S3Fifo,
        Policy::CostAware,
    ];

    /// The name in settings and on command lines.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Policy::None => "none",
            Policy::LeastRecentlyStored => "least-recently-stored",
            Policy::LeastRecentlyUsed => "least-recently-used",
            Policy::LeastFrequentlyUsed => "least-frequently-used",
            Policy::S3Fifo => "s3-fifo",
            Policy::CostAware => "cost-aware",
        }
    }

    /// The number a header's word holds. A number once given keeps its meaning.
    #[must_use]
    pub fn to_u64(self) -> u64 {
        match self {
            Policy::None => 0,
            Policy::LeastRecentlyStored => 1,
            Policy::LeastRecentlyUsed => 2,
            Policy::LeastFrequentlyUsed => 3,
            Policy::S3Fifo => 4,
            Policy::CostAware => 5,
        }
    }

    /// The policy of a number; `None` when no policy has it.
    #[must_use]
    pub fn from_u64(number: u64) -> Option<Policy> {
        Policy::ALL
            .into_iter()
            .find(|policy| policy.to_u64() == number)
    }

    /// The choices behind the name.
    #[must_use]
    pub fn policy(self) -> &'static dyn CullPolicy {
        match self {
            Policy::None => &none::Keeps,
            Policy::LeastRecentlyStored => &least_recently_stored::LeastRecentlyStored,
            Policy::LeastRecentlyUsed => &least_recently_used::LeastRecentlyUsed,
            Policy::LeastFrequentlyUsed => &least_frequently_used::LeastFrequentlyUsed,
            Policy::S3Fifo => &s3_fifo::S3Fifo,
            Policy::CostAware => &cost_aware::CostAware,
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Policy {
    type Err = Error;

    fn from_str(name: &str) -> Result<Policy> {
        Policy::ALL
            .into_iter()
            .find(|policy| policy.name() == name)
            .ok_or_else(|| {
                let names = Policy::ALL.map(Policy::name).join(", ");
                Error::setting("policy", format!("`{name}` is none of {names}"))
            })
    }
}

/// An entry that may go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Accesses since the entry was inserted, at most [`HITS_MAX`]; less where a policy took some.
    pub hits: u8,
    /// Ticks since the last access; 256 ticks are about as many sets as the store has entries.
    pub age_ticks: u32,
    /// Time since this version was stored.
    pub stored_ago: Duration,
    /// What its record takes, bytes.
    pub size_bytes: u64,
    /// What it takes to compute the value again, seconds; 0 when nobody said.
    pub cost_seconds: f64,
}

/// Where the candidates come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// There are none.
    None,
    /// `draw` entries at random, of which the `take` of highest rank go. A store with at most `draw`
    /// entries is looked at as a whole, and one entry goes at a time: the order is exact then.
    Sample {
        /// Entries looked at.
        draw: usize,
        /// Entries evicted of those, at most.
        take: usize,
    },
    /// The oldest records of both lanes.
    Log,
}

/// One of the two queues in which records lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// What was set: new entries, and new versions of old ones.
    Log,
    /// What was kept and copied.
    Copy,
}

/// What the lanes hold, live records alone, without the one being written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lanes {
    /// Bytes of live records in the log lane.
    pub log_bytes: u64,
    /// Bytes of live records in the copy lane.
    pub copy_bytes: u64,
}

impl Lanes {
    /// The lane that is not empty, when only one is.
    fn only(&self) -> Option<Lane> {
        match (self.log_bytes, self.copy_bytes) {
            (_, 0) => Some(Lane::Log),
            (0, _) => Some(Lane::Copy),
            _ => None,
        }
    }
}

/// What becomes of the record at a lane's hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes. From the log lane, its fingerprint is remembered if the policy has a ghost.
    Evict,
    /// It moves to the tail of the copy lane.
    Keep {
        /// Its counter from now on.
        hits: u8,
    },
}

/// A policy: functions of their arguments alone.
pub trait CullPolicy: Send + Sync + fmt::Debug {
    /// Where candidates come from.
    fn source(&self) -> Source;

    /// For [`Source::Sample`]: whether `rank` looks at more than hits and age; without, a draw reads no
    /// records.
    fn looks_at_records(&self) -> bool {
        true
    }

    /// For [`Source::Sample`]: the highest goes first.
    fn rank(&self, _candidate: &Candidate) -> u64 {
        0
    }

    /// For [`Source::Log`]: whether it ever keeps a record.
    fn copies(&self) -> bool {
        false
    }

    /// For [`Source::Log`]: whose hand moves next. Never an empty lane, unless both are.
    fn next_lane(&self, lanes: &Lanes) -> Lane {
        lanes.only().unwrap_or(Lane::Copy)
    }

    /// For [`Source::Log`]: what becomes of the live record at the hand of `lane`.
    ///
    /// `kept_in_a_row` counts the records kept since the last that was evicted, in both lanes.
    fn judge(&self, _candidate: &Candidate, _lane: Lane, _kept_in_a_row: u32) -> Verdict {
        Verdict::Evict
    }

    /// For [`Source::Log`]: the counter of an entry just inserted.
    fn hits_at_birth(&self, _was_in_ghost: bool) -> u8 {
        0
    }

    /// How many evictions from the log lane the ghost remembers in a store of so many entries; 0: the
    /// policy has no ghost.
    fn ghost_window(&self, _entries: u64) -> u64 {
        0
    }
}

/// What the tests of the policies begin with.
#[cfg(test)]
fn candidate(hits: u8, age_ticks: u32) -> Candidate {
    Candidate {
        hits,
        age_ticks,
        stored_ago: Duration::ZERO,
        size_bytes: 100,
        cost_seconds: 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_come_back() {
        for (at, policy) in Policy::ALL.into_iter().enumerate() {
            assert_eq!(policy.to_u64(), at as u64);
            assert_eq!(Policy::from_u64(at as u64), Some(policy));
            assert_eq!(policy.to_string().parse::<Policy>().ok(), Some(policy));
            let json = serde_json::to_string(&policy).expect("a name is text");
            assert_eq!(json, format!("\"{policy}\""));
            assert_eq!(serde_json::from_str::<Policy>(&json).ok(), Some(policy));
        }
        assert_eq!(Policy::from_u64(6), None);
    }

    #[test]
    fn an_unknown_name_is_refused_with_those_there_are() {
        for bad in ["", "lru", "S3-FIFO", "least_recently_used", "none "] {
            let error = bad.parse::<Policy>().expect_err("no policy has this name");
            assert!(error.to_string().contains("cost-aware"), "{error}");
        }
    }

    #[test]
    fn no_policy_moves_the_hand_of_an_empty_lane() {
        for policy in Policy::ALL.map(Policy::policy) {
            for (log_bytes, copy_bytes, lane) in [(1, 0, Lane::Log), (0, 1, Lane::Copy)] {
                let lanes = Lanes {
                    log_bytes,
                    copy_bytes,
                };
                assert_eq!(policy.next_lane(&lanes), lane, "{policy:?}");
            }
        }
    }

    #[test]
    fn every_counter_ends_in_an_eviction() {
        for policy in Policy::ALL.map(Policy::policy) {
            for lane in [Lane::Log, Lane::Copy] {
                for born in 0..=HITS_MAX {
                    let (mut hits, mut lane, mut turns) = (born, lane, 0);
                    while let Verdict::Keep { hits: left } =
                        policy.judge(&candidate(hits, 0), lane, 0)
                    {
                        assert!(left <= HITS_MAX);
                        (hits, lane, turns) = (left, Lane::Copy, turns + 1);
                        assert!(turns <= 3, "{policy:?} keeps {born} hits for ever");
                    }
                }
            }
        }
    }
}
