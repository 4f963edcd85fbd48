//! What was counted. Read from the store's own words; survives restarts, and is lost with the header.

use serde::Serialize;

use crate::engine::store::{Store, stat};
use crate::format::header::{self as layout, participant};
use crate::limits::PARTICIPANTS_MAX;
use crate::part::participants;

/// Counters of a store, over all processes, since it was made or the last reset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
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
    /// Expired entries removed (so far by `pull` alone).
    pub expired: u64,
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
    /// Bytes of records appended for them.
    pub bytes_logged: u64,
    /// Damaged records met when the derived files were last rebuilt.
    pub damaged: u64,
}

impl Stats {
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
            decode_failures: word(stat::DECODE_FAILURES),
            lock_waits: word(stat::LOCK_WAITS),
            repairs: word(stat::REPAIRS),
            syncs: word(stat::SYNCS),
            bytes_set: word(stat::BYTES_SET),
            bytes_logged: word(stat::BYTES_LOGGED),
            damaged: word(stat::CORRUPT),
        }
    }
}
