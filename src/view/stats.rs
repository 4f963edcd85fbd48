//! What was counted. Read from the store's own words; survives restarts, and is lost with the header.

use serde::Serialize;

use crate::engine::store::{Store, stat};
use crate::format::header::{self as layout, participant};
use crate::limits::PARTICIPANTS_MAX;
use crate::part::participants;

/// Counters of a store, over all processes, since it was made or the last reset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// Reads that found a live entry: `get`, `get_into`, `get_many`, `get_mapped`, `get_reader`,
    /// `get_entry`, `value_path`; not `contains`, `describe`, `peek`, iteration.
    pub hits: u64,
    /// Reads that found none.
    pub misses: u64,
    /// Entries stored.
    pub sets: u64,
    /// Entries removed by key; `clear` is not counted.
    pub deletes: u64,
    /// Atomic batches of more than one change.
    pub batches: u64,
    /// Expired entries removed.
    pub expired: u64,
    /// Entries evicted by a limit: of size, count, age, or a tag's quota.
    pub culled: u64,
    /// Entries removed by tag.
    pub evicted: u64,
    /// Typed reads that met another type, another codec, or bytes they could not decode.
    pub decode_failures: u64,
    /// Times the writer lock was waited for.
    pub lock_waits: u64,
    /// Times something a dead process left half done was completed or dropped.
    pub repairs: u64,
    /// Times the log was synced.
    pub syncs: u64,
    /// Bytes of values stored, as they stand in the log.
    pub bytes_set: u64,
    /// Bytes of records appended, of every kind.
    pub bytes_logged: u64,
    /// Of those, bytes of records that were kept when their segments were given back.
    pub bytes_kept: u64,
    /// Of those, bytes of records that callers set.
    pub bytes_put: u64,
    /// Bytes of files of segments given back.
    pub bytes_freed: u64,
    /// Seconds that hits have saved, as far as entries name what they cost.
    pub seconds_saved: f64,
    /// Damaged records met when the derived files were last rebuilt.
    pub damaged: u64,
}

impl Stats {
    /// Bytes appended for each byte of a record that a caller set; 1 when nothing was ever copied or
    /// removed. `None`: nothing was set.
    #[must_use]
    pub fn write_amplification(&self) -> Option<f64> {
        (self.bytes_put > 0).then(|| self.bytes_logged as f64 / self.bytes_put as f64)
    }

    /// Counters of two stores together.
    pub(crate) fn plus(self, other: Stats) -> Stats {
        Stats {
            hits: self.hits + other.hits,
            misses: self.misses + other.misses,
            sets: self.sets + other.sets,
            deletes: self.deletes + other.deletes,
            batches: self.batches + other.batches,
            expired: self.expired + other.expired,
            culled: self.culled + other.culled,
            evicted: self.evicted + other.evicted,
            decode_failures: self.decode_failures + other.decode_failures,
            lock_waits: self.lock_waits + other.lock_waits,
            repairs: self.repairs + other.repairs,
            syncs: self.syncs + other.syncs,
            bytes_set: self.bytes_set + other.bytes_set,
            bytes_logged: self.bytes_logged + other.bytes_logged,
            bytes_kept: self.bytes_kept + other.bytes_kept,
            bytes_put: self.bytes_put + other.bytes_put,
            bytes_freed: self.bytes_freed + other.bytes_freed,
            seconds_saved: self.seconds_saved + other.seconds_saved,
            damaged: self.damaged + other.damaged,
        }
    }

    pub(crate) fn read(store: &Store, reset: bool) -> Stats {
        let header = &store.files.header;
        let take = |at: u64| {
            if reset {
                header.word(at).swap(0, std::sync::atomic::Ordering::AcqRel)
            } else {
                header.get(at)
            }
        };
        let word = |which: u64| take(layout::STATS_AT + 8 * which);
        let sum = |field: u64| {
            (0..PARTICIPANTS_MAX)
                .map(|index| take(participants::at(index, field)))
                .fold(0, u64::wrapping_add)
        };
        Stats {
            hits: sum(participant::HITS),
            misses: sum(participant::MISSES),
            sets: word(stat::SETS),
            deletes: word(stat::DELETES),
            batches: word(stat::BATCHES),
            expired: word(stat::EXPIRED),
            culled: word(stat::CULLED),
            evicted: word(stat::EVICTED),
            decode_failures: word(stat::DECODE_FAILURES),
            lock_waits: word(stat::LOCK_WAITS),
            repairs: word(stat::REPAIRS),
            syncs: word(stat::SYNCS),
            bytes_set: word(stat::BYTES_SET),
            bytes_logged: word(stat::BYTES_LOGGED),
            bytes_kept: word(stat::BYTES_KEPT),
            bytes_put: word(stat::BYTES_PUT),
            bytes_freed: word(stat::BYTES_FREED),
            seconds_saved: sum(participant::SAVED_US) as f64 / 1e6,
            damaged: word(stat::CORRUPT),
        }
    }
}
