//! The verbs of `Cache` that write, each a short transaction, and `transact` itself.
//!
//! Never waits for anything but the lock and, where that was asked for, the disk.

use std::io::Read;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::engine::batch::Changes;
use crate::engine::doomed::Doomed;
use crate::engine::store::{INNER_SPACE, MAIN_SPACE, Store};
use crate::engine::sync;
use crate::error::{Error, Result};
use crate::format::header::space;
use crate::format::names::Cause;
use crate::format::record::{Draft, Kind, flag};
use crate::part::order;
use crate::part::shared::OrderFile;
use crate::part::shared::setting;
use crate::view::cache::Cache;
use crate::view::iter::Keys;
use crate::view::options::{Expiry, SetOptions, Side};
use crate::view::prepare::{self, Prepared};
use crate::view::queue;
use crate::view::state::{self, SeatMap, State};
use crate::view::transaction::Transaction;
use crate::view::value::{Number, Value};

/// How long a write makes room for itself before it gives up.
const WAY_PATIENCE: Duration = Duration::from_secs(10);
/// Entries one step of `clear` removes under the lock.
const CLEAR_STEP: usize = 128;

impl Cache {
    /// Stores a value; what was under the key goes, its place in the order stays.
    ///
    /// # Errors
    /// See [`Cache`].
    #[inline]
    pub fn set(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<()> {
        self.set_with(key, value, &SetOptions::default())
    }

    /// Stores a value with options.
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn set_with(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: &SetOptions,
    ) -> Result<()> {
        let store = self.store_to_change()?;
        let now = store.now_ms();
        let prepared = prepare::bytes(store, value.as_ref(), options, now)?;
        self.set_prepared(store, key.as_ref(), prepared, options, now)
    }

    /// Stores a number, which [`Cache::incr`] counts.
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn set_number(
        &self,
        key: impl AsRef<[u8]>,
        number: impl Into<Number>,
        options: &SetOptions,
    ) -> Result<()> {
        let store = self.store_to_change()?;
        let now = store.now_ms();
        let prepared = prepare::number(store, number.into(), options, now)?;
        self.set_prepared(store, key.as_ref(), prepared, options, now)
    }

    /// Stores what a reader gives, in bounded memory and without the lock while it reads. Its length.
    ///
    /// # Errors
    /// See [`Cache`]; [`Error::Io`] with what the reader said.
    pub fn set_reader(
        &self,
        key: impl AsRef<[u8]>,
        reader: impl Read,
        options: &SetOptions,
    ) -> Result<u64> {
        prepare::check_key(key.as_ref())?;
        let store = self.store_to_change()?;
        // A ttl counts from when the value is whole.
        let (prepared, len) = prepare::reader(store, reader, options)?;
        let now = store.now_ms();
        self.set_prepared(store, key.as_ref(), prepared, options, now)?;
        Ok(len)
    }

    fn set_prepared(
        &self,
        store: &Arc<Store>,
        key: &[u8],
        prepared: Prepared<'_>,
        options: &SetOptions,
        now_ms: u64,
    ) -> Result<()> {
        prepare::check_key(key)?;
        prepare::check_tags(&options.tags)?;
        let tags = match options.tags.is_empty() {
            true => Some(Vec::new()),
            false => known_tags(store, &options.tags)?,
        };
        let Some(tags) = tags.filter(|_| !state::is_inside(store)) else {
            return self.write(store, |state| state.set(self.space, key, prepared, options));
        };
        let draft = Draft {
            kind: Kind::Set,
            value_kind: prepared.kind,
            space: self.space,
            key,
            value: &prepared.bytes,
            expires_ms: prepared.expires_ms,
            zstd: prepared.zstd,
            apart: prepared.apart(),
            sliding_ms: prepared.sliding_ms,
            cost_s: prepared.cost_s,
            is_item: false,
            tag_seq: 0,
            tags: &tags,
            stored_s: store.second(now_ms),
        };
        let hash = store.hash.of(self.space, key);
        let put = || {
            sync::locked(store, self.patience(store), |store, proof| {
                store.put(proof, hash, &draft, &[])
            })
        };
        self.with_way(store, put)?;
        if let Some(stream) = prepared.stream {
            stream.0.keep();
        }
        self.finish(store)
    }

    /// Stores several values as one batch: all or none are seen, by readers and after a kill. How many.
    ///
    /// # Errors
    /// See [`Cache`]; [`Error::TooLarge`] above 256 MiB or a quarter of `size_limit_bytes`.
    pub fn set_many<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &self,
        items: impl IntoIterator<Item = (K, V)>,
        options: &SetOptions,
    ) -> Result<u64> {
        let store = self.store_to_change()?;
        // The caller's iterator runs, and values are compressed, before the lock is taken.
        let items: Vec<(K, V)> = items.into_iter().collect();
        let now = store.now_ms();
        let mut prepared = Vec::with_capacity(items.len());
        for (key, value) in &items {
            prepare::check_key(key.as_ref())?;
            prepared.push(prepare::bytes(store, value.as_ref(), options, now)?);
        }
        let is_plain = options.tags.is_empty() && prepared.iter().all(|one| one.stream.is_none());
        if !is_plain || state::is_inside(store) {
            return self.write(store, |state| {
                state.reserve(items.len());
                for ((key, _), prepared) in items.iter().zip(prepared) {
                    state.set(self.space, key.as_ref(), prepared, options)?;
                }
                Ok(items.len() as u64)
            });
        }
        let many = Many::new(store, self.space, &items, &prepared, now);
        self.with_way(store, || {
            sync::locked(store, self.patience(store), |store, proof| {
                store.commit(proof, &many)
            })
        })?;
        self.finish(store)?;
        Ok(items.len() as u64)
    }

    /// Stores a value if the key is absent or expired: of several processes, exactly one does.
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn add(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: &SetOptions,
    ) -> Result<bool> {
        // Without the lock first: who comes too late need not wait.
        let inside = state::is_inside(self.store_to_change()?);
        if !inside && self.contains(key.as_ref())? {
            return Ok(false);
        }
        self.transact(|tx| tx.add(key, value, options))
    }

    /// Stores a value if the key has a live entry. Whether it did.
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn replace(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: &SetOptions,
    ) -> Result<bool> {
        self.transact(|tx| tx.replace(key, value, options))
    }

    /// Changes a key from `expected` to `new` (`None`: absent) if it is `expected`. Whether it was.
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn compare_and_swap(
        &self,
        key: impl AsRef<[u8]>,
        expected: Option<&[u8]>,
        new: Option<&[u8]>,
        options: &SetOptions,
    ) -> Result<bool> {
        self.transact(|tx| tx.compare_and_swap(key, expected, new, options))
    }

    /// Changes a live entry's expiry alone, also to never. Whether there was one.
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn touch(&self, key: impl AsRef<[u8]>, expiry: Expiry) -> Result<bool> {
        self.transact(|tx| tx.touch(key, expiry))
    }

    /// Removes a live entry. Whether there was one; an expired one stays, unseen.
    ///
    /// # Errors
    /// See [`Cache`]; a damaged entry is removed like any other.
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        let store = self.store_to_change()?;
        if state::is_inside(store) {
            return self.transact(|tx| tx.delete(key));
        }
        let key = key.as_ref();
        // Where deletes have used up what is kept free for them, what they left dead is given back first.
        let gone = self.with_way(store, || {
            sync::locked(store, self.patience(store), |store, proof| {
                store.delete(proof, self.space, key)
            })
        })?;
        if gone {
            self.finish(store)?;
        }
        Ok(gone)
    }

    /// Removes a live entry and returns its value: of several processes, one gets it.
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn pop(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        self.transact(|tx| tx.pop(key))
    }

    /// Removes every entry that was there when it began, in steps. How many.
    ///
    /// # Errors
    /// See [`Cache`]; [`Error::removed`] says how many went before [`Error::Busy`].
    pub fn clear(&self) -> Result<u64> {
        let store = self.writable()?;
        let bound = store.committed();
        let mut removed = 0;
        let (list, mut at, end) = self.main_list(store)?;
        while let Some(list) = list.as_ref().filter(|_| at < end) {
            let mut next = at;
            let step = sync::locked_to_remove(store, self.patience(store), |store, proof| {
                next = at;
                let mut victims = Doomed::new(store, Cause::Cleared);
                let mut buffer = Vec::new();
                while next < end && victims.len() < CLEAR_STEP {
                    let cell = order::cell_in(list, next)?;
                    next += 1;
                    let hit = match store.find_cell(self.space, cell, &mut buffer) {
                        Ok(Some(hit)) if hit.head.order <= bound => hit,
                        _ => continue,
                    };
                    let hash = store.hash.of(self.space, hit.key(&buffer));
                    victims.push(hash, &hit.head, &buffer);
                }
                store.kill(proof, &victims)
            });
            removed += step.map_err(|error| error.after_removing(removed))?;
            at = next;
        }
        if self.space == MAIN_SPACE {
            self.clear_queues(store)
                .map_err(|error| error.after_removing(removed))?;
        }
        self.finish(store)?;
        Ok(removed)
    }

    /// The order list, and which of its cells may be alive. Whatever list takes its place meanwhile.
    fn main_list(&self, store: &Arc<Store>) -> Result<(Option<Arc<OrderFile>>, u64, u64)> {
        sync::locked_for_upkeep(store, self.patience(store), |store, _| {
            Ok((
                store.files.order(&store.dir, self.space)?,
                store.files.space(self.space, space::HEAD),
                store.files.space(self.space, space::CELLS),
            ))
        })
    }

    /// Queues begin anew when their items are gone.
    fn clear_queues(&self, store: &Arc<Store>) -> Result<()> {
        let mut queues = Vec::new();
        for key in Keys::new(store, INNER_SPACE)? {
            let key = key?;
            if key.starts_with(queue::INNER_PREFIX) {
                queues.push(key);
            }
        }
        if queues.is_empty() {
            return Ok(());
        }
        self.write(store, |state| {
            queues
                .iter()
                .try_for_each(|key| state.remove(INNER_SPACE, key))
        })
    }

    /// Adds to a number; absent or expired, it becomes `default + delta`. Expiry and tags are kept. The
    /// new number.
    ///
    /// # Errors
    /// [`Error::NotANumber`] on anything else, [`Error::Overflow`]; the value is unchanged. See [`Cache`].
    pub fn incr(
        &self,
        key: impl AsRef<[u8]>,
        delta: impl Into<Number>,
        default: impl Into<Number>,
    ) -> Result<Number> {
        self.transact(|tx| tx.incr(key, delta, default))
    }

    /// Subtracts from a number, as [`Cache::incr`] adds.
    ///
    /// # Errors
    /// As [`Cache::incr`].
    pub fn decr(
        &self,
        key: impl AsRef<[u8]>,
        delta: impl Into<Number>,
        default: impl Into<Number>,
    ) -> Result<Number> {
        self.transact(|tx| tx.decr(key, delta, default))
    }

    /// Puts a value at an end of the queue `prefix` (`None`: the nameless one). The key it got.
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn push(
        &self,
        prefix: Option<&[u8]>,
        value: impl AsRef<[u8]>,
        side: Side,
        options: &SetOptions,
    ) -> Result<Vec<u8>> {
        self.transact(|tx| tx.push(prefix, value, side, options))
    }

    /// Takes the value at an end of a queue away: of several processes, one gets it.
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn pull(&self, prefix: Option<&[u8]>, side: Side) -> Result<Option<(Vec<u8>, Value)>> {
        self.transact(|tx| tx.pull(prefix, side))
    }

    /// The value at an end of a queue.
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn peek(&self, prefix: Option<&[u8]>, side: Side) -> Result<Option<(Vec<u8>, Value)>> {
        queue::peek(self.store()?, prefix, side, |key| {
            let found = self.look_up(key, false, |store, hit, buffer| {
                if hit.head.flags & flag::ITEM == 0 {
                    return Ok(Some(None));
                }
                Ok(prepare::value_of(store, &hit.head, buffer)?.map(Some))
            })?;
            Ok(found.flatten())
        })
    }

    /// Runs `work` as one change: all of it happens or, on an error or panic, nothing does.
    ///
    /// Holds the writer lock throughout; readers go on and see the state before. Inside, `work` writes
    /// and reads through the transaction it is given. The cache's own writing verbs join it too, as does
    /// a `transact` inside another; its reading verbs see the state before; `clear`, `flush`, `close` and
    /// `update_settings` are [`Error::Aborted`].
    ///
    /// At most 256 MiB of records or a quarter of `size_limit_bytes`, 64 new large values, 128 replaced.
    ///
    /// ```
    /// # let cache = larder::Cache::temporary()?;
    /// cache.set("from", "7")?;
    /// cache.transact(|tx| {
    ///     let value = tx.pop("from")?.ok_or(larder::Error::Aborted { what: "nothing to move".into() })?;
    ///     tx.set("to", value)
    /// })?;
    /// assert_eq!(cache.get("to")?.as_deref(), Some(&b"7"[..]));
    /// # Ok::<(), larder::Error>(())
    /// ```
    ///
    /// # Errors
    /// What `work` returns; see [`Cache`]. Nothing was changed then.
    pub fn transact<T>(&self, work: impl FnOnce(&Transaction) -> Result<T>) -> Result<T> {
        let store = self.store_to_change()?;
        if let Some(state) = state::current(store) {
            return work(&Transaction {
                state,
                space: self.space,
            });
        }
        let state = Rc::new(std::cell::RefCell::new(State::begin(
            store,
            self.patience(store),
        )?));
        let transaction = Transaction {
            state: Rc::clone(&state),
            space: self.space,
        };
        let done = {
            let _entered = state::Entered::new(store, &state);
            work(&transaction)
        };
        drop(transaction);
        let Ok(state) = Rc::try_unwrap(state) else {
            return Err(Error::Aborted {
                what: "the transaction is still borrowed after its closure returned".into(),
            });
        };
        let value = done?;
        state.into_inner().commit()?;
        self.finish(store)?;
        Ok(value)
    }

    /// Does `work`; where the store is full, makes room off the lock and does it again.
    pub(super) fn with_way<T>(
        &self,
        store: &Store,
        mut work: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        let mut start = None;
        loop {
            match work() {
                // Others may take the room that was made: not for ever.
                Err(Error::Full {
                    needed_bytes,
                    limit_bytes,
                }) if start.get_or_insert_with(Instant::now).elapsed() < WAY_PATIENCE => {
                    if !store.make_way(needed_bytes)? {
                        return Err(Error::Full {
                            needed_bytes,
                            limit_bytes,
                        });
                    }
                }
                done => return done,
            }
        }
    }

    /// A transaction over the state itself.
    fn write<T>(
        &self,
        store: &Arc<Store>,
        work: impl FnOnce(&mut State) -> Result<T>,
    ) -> Result<T> {
        if let Some(state) = state::current(store) {
            return work(&mut state.borrow_mut());
        }
        let mut state = State::begin(store, self.patience(store))?;
        let value = work(&mut state)?;
        state.commit()?;
        self.finish(store)?;
        Ok(value)
    }

    /// The store, unless this thread is in a transaction on it: it would wait for itself.
    #[inline]
    pub(super) fn writable(&self) -> Result<&Arc<Store>> {
        let store = self.store_to_change()?;
        if state::is_inside(store) {
            let what = "this thread is inside transact on this store: write with the transaction's own verbs".into();
            return Err(Error::Aborted { what });
        }
        Ok(store)
    }

    /// After a write: durable if that was asked for, and tidy.
    #[inline]
    pub(super) fn finish(&self, store: &Arc<Store>) -> Result<()> {
        match store.files.header.setting(setting::DURABILITY) {
            0 => {}
            1 => self.start_syncing()?,
            _ => store.acknowledge()?,
        }
        store.tidy();
        Ok(())
    }

    /// In `Durability::Interval` each process that has the store open syncs it.
    pub(crate) fn start_syncing(&self) -> Result<()> {
        let store = self.store()?;
        let here = crate::os::raw::forks() + 1;
        let is_wanted = store.files.header.setting(setting::DURABILITY) == 1;
        if is_wanted && self.handle.syncing.swap(here, Ordering::AcqRel) != here {
            sync::keep_syncing(store);
        }
        Ok(())
    }
}

/// The ids of tags that all have one; each once.
fn known_tags(store: &Store, names: &[Vec<u8>]) -> Result<Option<Vec<u32>>> {
    let mut ids = Vec::with_capacity(names.len());
    for name in names {
        match store.tag_id(name)? {
            Some(id) if !ids.contains(&id) => ids.push(id),
            Some(_) => {}
            None => return Ok(None),
        }
    }
    Ok(Some(ids))
}

/// Plain values to be stored as one batch, without a copy of their own.
struct Many<'a, K> {
    space: u32,
    keys: Vec<(u64, &'a K)>,
    values: Vec<&'a Prepared<'a>>,
    stored_s: u32,
}

impl<'a, K: AsRef<[u8]>> Many<'a, K> {
    /// Of a key that comes twice the last value counts, at the place of the first.
    fn new<V>(
        store: &Store,
        space: u32,
        items: &'a [(K, V)],
        prepared: &'a [Prepared<'a>],
        now_ms: u64,
    ) -> Self {
        let mut seats = SeatMap::default();
        seats.reserve(items.len());
        let mut keys: Vec<(u64, &K)> = Vec::with_capacity(items.len());
        let mut values: Vec<&Prepared<'_>> = Vec::with_capacity(items.len());
        for ((key, _), value) in items.iter().zip(prepared) {
            let hash = store.hash.of(space, key.as_ref());
            let mut seat = hash;
            let seen = loop {
                match seats.get(&seat) {
                    Some(&index) if keys[index].1.as_ref() == key.as_ref() => break Some(index),
                    Some(_) => seat = seat.wrapping_add(1),
                    None => break None,
                }
            };
            match seen {
                Some(index) => values[index] = value,
                None => {
                    seats.insert(seat, keys.len());
                    keys.push((hash, key));
                    values.push(value);
                }
            }
        }
        Many {
            space,
            keys,
            values,
            stored_s: store.second(now_ms),
        }
    }
}

impl<K: AsRef<[u8]>> Changes for Many<'_, K> {
    fn len(&self) -> usize {
        self.keys.len()
    }

    fn hash(&self, n: usize) -> u64 {
        self.keys[n].0
    }

    fn draft(&self, n: usize) -> Draft<'_> {
        let value = self.values[n];
        Draft {
            kind: Kind::Set,
            value_kind: value.kind,
            space: self.space,
            key: self.keys[n].1.as_ref(),
            value: &value.bytes,
            expires_ms: value.expires_ms,
            zstd: value.zstd,
            apart: None,
            sliding_ms: value.sliding_ms,
            cost_s: value.cost_s,
            is_item: false,
            tag_seq: 0,
            tags: &[],
            stored_s: self.stored_s,
        }
    }

    fn is_fresh(&self, _: usize) -> bool {
        false
    }
}
