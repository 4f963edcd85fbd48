//! Entries about to be removed by one record, and what they are called while somebody watches the store.
//!
//! Owns the word that says so. With nobody watching that costs one load a step, and names nothing. Never
//! removes an entry.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::engine::store::Store;
use crate::format::header as layout;
use crate::format::names::{Cause, NAMES_ENOUGH, Name, rows_len};
use crate::format::record::{Head, tags_of};
use crate::os::clock::{Clock, SystemClock};

/// For so long what goes is named after a watcher looked last.
const WATCHED_FOR: Duration = Duration::from_secs(300);

/// Names being gathered; none while nobody watches.
#[derive(Debug)]
pub(crate) struct Naming {
    pub(crate) cause: Cause,
    is_watched: bool,
    names: Vec<Vec<u8>>,
    /// Bytes of them, in rows.
    len: usize,
}

impl Naming {
    pub(crate) fn new(store: &Store, cause: Cause) -> Naming {
        Naming {
            cause,
            is_watched: store.is_watched(),
            names: Vec::new(),
            len: 0,
        }
    }

    /// The entry of this record goes. Its fixed part, options and key begin `record`.
    #[inline]
    pub(crate) fn push(&mut self, cause: Cause, head: &Head, record: &[u8]) {
        if self.is_watched {
            let key = &record[head.key_at..][..head.key_len];
            let name = Name::encode(cause, head.options.space, tags_of(head, record), key);
            self.len += rows_len(name.len());
            self.names.push(name);
        }
    }

    /// One record takes not many more.
    pub(crate) fn is_enough(&self) -> bool {
        self.len >= NAMES_ENOUGH
    }

    /// What was gathered: none, or one for each entry.
    pub(crate) fn names(&self) -> &[Vec<u8>] {
        &self.names
    }
}

/// Versions of entries to be removed by a kill list.
#[derive(Debug)]
pub(crate) struct Doomed {
    /// Hash and sequence of each.
    pub(crate) pairs: Vec<(u64, u64)>,
    pub(crate) naming: Naming,
}

impl Doomed {
    pub(crate) fn new(store: &Store, cause: Cause) -> Doomed {
        Doomed {
            pairs: Vec::new(),
            naming: Naming::new(store, cause),
        }
    }

    /// The version of this record goes; `hash` is its key's.
    pub(crate) fn push(&mut self, hash: u64, head: &Head, record: &[u8]) {
        self.pairs.push((hash, head.seq));
        self.naming.push(self.naming.cause, head, record);
    }

    pub(crate) fn len(&self) -> usize {
        self.pairs.len()
    }
}

impl Store {
    /// Whether somebody watches: then what goes is named.
    pub(crate) fn is_watched(&self) -> bool {
        let word = self.files.header.word(layout::WATCHED_UNTIL_AT);
        let until_ms = word.load(Ordering::Relaxed);
        // The system's clock: the word is between this machine's processes.
        until_ms != 0 && until_ms > SystemClock.now_ms()
    }

    /// Somebody watches. Whether what goes was not named until now.
    pub(crate) fn keep_watched(&self) -> bool {
        let word = self.files.header.word(layout::WATCHED_UNTIL_AT);
        let now_ms = SystemClock.now_ms();
        let until_ms = now_ms + WATCHED_FOR.as_millis() as u64;
        let before = word.fetch_max(until_ms, Ordering::SeqCst);
        if before > until_ms + 1_000 {
            // By a clock that was set back since, or damaged.
            word.store(until_ms, Ordering::SeqCst);
        }
        before <= now_ms
    }
}
