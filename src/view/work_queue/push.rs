//! Pushing: a payload alone where that is all, else with a note and a dedup key as one batch.
//!
//! Owns what a caller may say with a job.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::format::record::{Draft, Kind};
use crate::view::options::SetOptions;
use crate::view::prepare;
use crate::view::space::NAME_LEN_MAX;
use crate::view::state;
use crate::view::transaction::Transaction;
use crate::view::work_queue::core::Core;
use crate::view::work_queue::note::{Note, dedup_key, id_key};

/// What goes with a job.
///
/// ```
/// use std::time::Duration;
/// use larder::{PushOptions, Queue};
///
/// let queue = Queue::<String>::temporary()?;
/// let options = PushOptions::default().priority(5).key("invoice 17");
/// let (id, is_new) = queue.push_with(&"print".to_owned(), &options)?;
/// assert!(is_new);
/// assert_eq!(queue.push_with(&"print".to_owned(), &options)?, (id, false));
/// queue.push_with(&"later".to_owned(), &PushOptions::default().delay(Duration::from_secs(60)))?;
/// # Ok::<(), larder::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct PushOptions {
    pub(super) priority: i32,
    pub(super) delay: Duration,
    pub(super) key: Option<Vec<u8>>,
}

impl PushOptions {
    /// Jobs of a higher priority are delivered before those of a lower one, whenever they were pushed.
    ///
    /// Default: 0. Jobs of priority 0 cost least: one record instead of two.
    pub fn priority(mut self, priority: i32) -> Self {
        self.priority = priority;
        self
    }

    /// Not delivered before so long after the push, by the store's clock. Its place in the order is that of
    /// its push all the same.
    ///
    /// Default: 0.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// While a job with this key is queued or in flight, no second one is pushed. At most 1,024 bytes.
    ///
    /// The key is free again once its job is acked or given up as dead.
    pub fn key(mut self, key: impl AsRef<[u8]>) -> Self {
        self.key = Some(key.as_ref().to_vec());
        self
    }
}

impl Core {
    /// Puts one job into the queue: its number, and whether it is a new one.
    pub(super) fn push(
        &self,
        payload: &[u8],
        set: &SetOptions,
        options: &PushOptions,
    ) -> Result<(u64, bool)> {
        let store = self.store()?;
        let is_plain = options.priority == 0 && options.delay.is_zero() && options.key.is_none();
        if is_plain && !state::is_inside(store) {
            return self.push_plain(payload, set).map(|id| (id, true));
        }
        if let Some(key) = &options.key
            && key.len() > NAME_LEN_MAX
        {
            return Err(Error::TooLarge {
                what: "a dedup key (bytes)",
                bytes: key.len() as u64,
                max_bytes: NAME_LEN_MAX as u64,
            });
        }
        self.jobs
            .transact(|tx| self.push_inside(tx, payload, set, options))
    }

    /// Puts jobs into the queue as one batch: their numbers.
    pub(super) fn push_all(
        &self,
        payloads: &[Vec<u8>],
        set: &SetOptions,
        options: &PushOptions,
    ) -> Result<Vec<u64>> {
        if options.key.is_some() && payloads.len() > 1 {
            let what = "one dedup key cannot be that of several jobs: push them one by one";
            return Err(Error::InvalidKey { what: what.into() });
        }
        self.jobs.transact(|tx| {
            let pushed = payloads.iter();
            pushed
                .map(|payload| Ok(self.push_inside(tx, payload, set, options)?.0))
                .collect()
        })
    }

    fn push_inside(
        &self,
        tx: &Transaction,
        payload: &[u8],
        set: &SetOptions,
        options: &PushOptions,
    ) -> Result<(u64, bool)> {
        let inside = self.inside(tx);
        if let Some(dedup) = &options.key
            && let Some(id) = inside.holder_of(dedup)?
        {
            return Ok((id, false));
        }
        // What may be refused comes before the number: one that is given and not used would be another
        // job's, too.
        let (store, now_ms) = {
            let state = tx.state.borrow();
            state.check_fork()?;
            (Arc::clone(&state.store), state.now_ms)
        };
        let prepared = prepare::bytes(&store, payload, set, now_ms)?;
        let id = {
            let mut state = tx.state.borrow_mut();
            let id = state.new_number();
            state.set(self.spaces.jobs, &id_key(id), prepared, set)?;
            id
        };
        let has_note = options.priority != 0 || !options.delay.is_zero() || options.key.is_some();
        if has_note {
            let delay_ms = options.delay.as_millis().min(u128::from(u64::MAX)) as u64;
            let due_ms = match delay_ms {
                0 => 0,
                delay_ms => tx.state.borrow().now_ms.saturating_add(delay_ms),
            };
            let note = Note::waiting(options.priority, due_ms, options.key.clone());
            let plain = Core::plain_options();
            inside.notes.set_with(id_key(id), note.encode(), &plain)?;
            if let Some(dedup) = &options.key {
                let value = id_key(id);
                inside.notes.set_with(dedup_key(dedup), value, &plain)?;
            }
        }
        tx.ring(self.bell);
        Ok((id, true))
    }

    /// One record.
    fn push_plain(&self, payload: &[u8], set: &SetOptions) -> Result<u64> {
        let store = self.store()?;
        let now_ms = store.now_ms();
        let prepared = prepare::bytes(store, payload, set, now_ms)?;
        let pushed = Cell::new(0);
        self.locked(store, |store, proof| {
            // At most the sequence of its record: no other job is ever called so.
            let id = store.committed() + 1;
            pushed.set(id);
            let key = id_key(id);
            let draft = Draft {
                kind: Kind::Set,
                value_kind: prepared.kind,
                space: self.spaces.jobs,
                key: &key,
                value: &prepared.bytes,
                expires_ms: prepared.expires_ms,
                zstd: prepared.zstd,
                apart: prepared.apart(),
                stored_s: store.second(now_ms),
                ..store.blank_draft()
            };
            store.put(proof, store.hash.of(self.spaces.jobs, &key), &draft, &[])
        })?;
        if let Some(stream) = prepared.stream {
            stream.0.keep();
        }
        // Also if it cannot be made durable now: it is there.
        self.ring(store);
        self.jobs.finish(store)?;
        Ok(pushed.get())
    }
}
