//! A transaction's verbs, each over its own changes first.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use crate::engine::change::Payload;
use crate::engine::store::Store;
use crate::error::{Error, Result};
use crate::part::bell::Bell;
use crate::view::cache::Cache;
use crate::view::iter::Keys;
use crate::view::numbers::{self, Way};
use crate::view::options::{Expiry, SetOptions, Side};
use crate::view::prepare;
use crate::view::queue;
use crate::view::state::State;
use crate::view::value::{Number, Value};

/// Several changes that happen together or not at all. Made by
/// [`Cache::transact`](crate::Cache::transact).
///
/// It sees its own changes; nobody else does before it is over. Its verbs mean what those of
/// [`Cache`](crate::Cache) mean.
pub struct Transaction {
    pub(crate) state: Rc<RefCell<State>>,
    /// Whose entries its verbs mean.
    pub(crate) space: u32,
}

impl Transaction {
    /// The same transaction over a view's entries.
    pub(crate) fn of(&self, cache: &Cache) -> Transaction {
        Transaction {
            state: Rc::clone(&self.state),
            space: cache.space,
        }
    }

    /// Once all is committed, the bell rings.
    pub(crate) fn ring(&self, bell: Bell) {
        self.state.borrow_mut().ring(bell);
    }

    fn store(&self) -> Arc<Store> {
        Arc::clone(&self.state.borrow().store)
    }

    /// The value of a key.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Io`], [`Error::Forked`].
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        let state = self.state.borrow();
        state
            .live(self.space, key.as_ref())?
            .map(|payload| state.value(&payload))
            .transpose()
    }

    /// Whether the key has a live entry.
    ///
    /// # Errors
    /// As [`Transaction::get`].
    pub fn contains(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        Ok(self
            .state
            .borrow()
            .live(self.space, key.as_ref())?
            .is_some())
    }

    /// Stores a value.
    ///
    /// # Errors
    /// As [`Transaction::set_with`].
    pub fn set(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<()> {
        self.set_with(key, value, &SetOptions::default())
    }

    /// Stores a value with options.
    ///
    /// # Errors
    /// [`Error::TooLarge`] for key, tags; [`Error::Full`], [`Error::NoSpace`] for a large value's
    /// file; [`Error::Forked`]. The transaction goes on without this change.
    pub fn set_with(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: &SetOptions,
    ) -> Result<()> {
        let store = self.store();
        let mut state = self.state.borrow_mut();
        state.check_fork()?;
        let now = state.now_ms;
        state.set(
            self.space,
            key.as_ref(),
            prepare::bytes(&store, value.as_ref(), options, now)?,
            options,
        )
    }

    pub(crate) fn set_quota(&self, tag: &[u8], bytes: Option<u64>) -> Result<()> {
        self.state.borrow_mut().set_quota(tag, bytes)
    }

    /// Stores a number.
    ///
    /// # Errors
    /// As [`Transaction::set_with`].
    pub fn set_number(
        &self,
        key: impl AsRef<[u8]>,
        number: impl Into<Number>,
        options: &SetOptions,
    ) -> Result<()> {
        let store = self.store();
        let mut state = self.state.borrow_mut();
        let now = state.now_ms;
        state.set(
            self.space,
            key.as_ref(),
            prepare::number(&store, number.into(), options, now)?,
            options,
        )
    }

    /// Stores a value if the key has no live entry. Whether it did.
    ///
    /// # Errors
    /// As [`Transaction::set_with`].
    pub fn add(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: &SetOptions,
    ) -> Result<bool> {
        if self.contains(key.as_ref())? {
            return Ok(false);
        }
        self.set_with(key, value, options).map(|()| true)
    }

    /// Stores a value if the key has a live entry. Whether it did.
    ///
    /// # Errors
    /// As [`Transaction::set_with`].
    pub fn replace(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: &SetOptions,
    ) -> Result<bool> {
        if !self.contains(key.as_ref())? {
            return Ok(false);
        }
        self.set_with(key, value, options).map(|()| true)
    }

    /// Changes a key from `expected` to `new` (`None`: absent) if it is `expected`. Whether it was.
    ///
    /// # Errors
    /// As [`Transaction::set_with`].
    pub fn compare_and_swap(
        &self,
        key: impl AsRef<[u8]>,
        expected: Option<&[u8]>,
        new: Option<&[u8]>,
        options: &SetOptions,
    ) -> Result<bool> {
        let key = key.as_ref();
        if self.get(key)?.as_deref() != expected {
            return Ok(false);
        }
        match new {
            Some(new) => self.set_with(key, new, options)?,
            None if expected.is_some() => self.state.borrow_mut().remove(self.space, key)?,
            None => {}
        }
        Ok(true)
    }

    /// Changes a live entry's expiry alone. Whether there was one.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Io`], [`Error::Forked`].
    pub fn touch(&self, key: impl AsRef<[u8]>, expiry: Expiry) -> Result<bool> {
        let key = key.as_ref();
        let mut state = self.state.borrow_mut();
        let Some(payload) = state.live(self.space, key)? else {
            return Ok(false);
        };
        let expires_ms = prepare::at_ms(expiry, state.now_ms);
        state.put(
            self.space,
            key,
            Payload {
                expires_ms,
                // A moment of its own ends the sliding; a new ttl slides on.
                sliding_ms: match expiry {
                    Expiry::After(ttl) if payload.sliding_ms.is_some() => {
                        Some(ttl.as_millis().min(u128::from(u64::MAX)) as u64)
                    }
                    _ => None,
                },
                ..payload
            },
        )?;
        Ok(true)
    }

    /// Removes a live entry. Whether there was one.
    ///
    /// # Errors
    /// [`Error::Corrupt`] does not keep a damaged entry from being removed; [`Error::Io`],
    /// [`Error::Forked`].
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        let key = key.as_ref();
        let mut state = self.state.borrow_mut();
        match state.live(self.space, key) {
            Ok(None) => Ok(false),
            Ok(Some(_)) | Err(Error::Corrupt { .. }) => {
                state.remove(self.space, key).map(|()| true)
            }
            Err(error) => Err(error),
        }
    }

    /// Removes a live entry and returns its value.
    ///
    /// # Errors
    /// As [`Transaction::get`].
    pub fn pop(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        let key = key.as_ref();
        let value = self.get(key)?;
        if value.is_some() {
            self.state.borrow_mut().remove(self.space, key)?;
        }
        Ok(value)
    }

    /// Adds to a number; absent or expired, it becomes `default + delta`. The new number.
    ///
    /// # Errors
    /// [`Error::NotANumber`], [`Error::Overflow`]; the value is unchanged.
    pub fn incr(
        &self,
        key: impl AsRef<[u8]>,
        delta: impl Into<Number>,
        default: impl Into<Number>,
    ) -> Result<Number> {
        numbers::count(
            &mut self.state.borrow_mut(),
            self.space,
            key.as_ref(),
            Way::Up,
            delta.into(),
            default.into(),
        )
    }

    /// Subtracts from a number, as [`Transaction::incr`] adds.
    ///
    /// # Errors
    /// As [`Transaction::incr`].
    pub fn decr(
        &self,
        key: impl AsRef<[u8]>,
        delta: impl Into<Number>,
        default: impl Into<Number>,
    ) -> Result<Number> {
        numbers::count(
            &mut self.state.borrow_mut(),
            self.space,
            key.as_ref(),
            Way::Down,
            delta.into(),
            default.into(),
        )
    }

    /// Puts a value at an end of the queue `prefix`. The key it got.
    ///
    /// # Errors
    /// As [`Transaction::set_with`].
    pub fn push(
        &self,
        prefix: Option<&[u8]>,
        value: impl AsRef<[u8]>,
        side: Side,
        options: &SetOptions,
    ) -> Result<Vec<u8>> {
        let store = self.store();
        let mut state = self.state.borrow_mut();
        let now = state.now_ms;
        let prepared = prepare::bytes(&store, value.as_ref(), options, now)?;
        queue::push(&mut state, prefix, prepared, side, options)
    }

    /// Takes the value at an end of the queue `prefix` away.
    ///
    /// # Errors
    /// As [`Transaction::get`].
    pub fn pull(&self, prefix: Option<&[u8]>, side: Side) -> Result<Option<(Vec<u8>, Value)>> {
        queue::pull(&mut self.state.borrow_mut(), prefix, side)
    }

    /// The value at an end of the queue `prefix`.
    ///
    /// # Errors
    /// As [`Transaction::get`].
    pub fn peek(&self, prefix: Option<&[u8]>, side: Side) -> Result<Option<(Vec<u8>, Value)>> {
        queue::peek_inside(&self.state.borrow(), prefix, side)
    }

    /// Entries as this transaction sees them, expired ones included. Costs by its own changes.
    ///
    /// # Errors
    /// As [`Transaction::get`].
    pub fn len(&self) -> Result<u64> {
        self.state.borrow().len(self.space)
    }

    /// Whether there is no entry.
    ///
    /// # Errors
    /// As [`Transaction::get`].
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// All live entries in insertion order, as the transaction sees them now. Gathers the keys first.
    ///
    /// # Errors
    /// As [`Transaction::get`].
    pub fn iter(
        &self,
    ) -> Result<impl DoubleEndedIterator<Item = Result<(Vec<u8>, Value)>> + use<'_>> {
        let mut keys: VecDeque<Vec<u8>> = VecDeque::new();
        let store = self.store();
        for key in Keys::new(&store, self.space)? {
            let key = key?;
            match self.state.borrow().change_of(self.space, &key) {
                Some(change) if change.set.is_none() || change.fresh => {}
                _ => keys.push_back(key),
            }
        }
        let state = self.state.borrow();
        let mut buffer = Vec::new();
        for (change, _) in state.sets(self.space) {
            let was_there = store.find(self.space, &change.key, change.hash, &mut buffer)?;
            // One that had expired keeps its place; `Keys` has skipped it.
            if was_there.is_none() || change.fresh {
                keys.push_back(change.key.clone());
            } else if was_there.is_some_and(|hit| !store.lives(&hit, state.now_ms)) {
                place_by_order(&store, self.space, &mut keys, change.key.clone())?;
            }
        }
        drop(state);
        Ok(keys
            .into_iter()
            .filter_map(move |key| match self.get(&key) {
                Ok(value) => value.map(|value| Ok((key, value))),
                Err(error) => Some(Err(error)),
            }))
    }

    /// When this version was stored, in seconds since 1970; 0: there is none.
    pub(crate) fn stored_at_s(&self, key: &[u8]) -> Result<u64> {
        let state = self.state.borrow();
        let entry = state.entry(self.space, key)?;
        let second =
            |payload: Payload| state.store.created_ms / 1_000 + u64::from(payload.stored_s);
        Ok(entry.map_or(0, second))
    }

    /// The entry inserted first.
    ///
    /// # Errors
    /// As [`Transaction::get`].
    pub fn first(&self) -> Result<Option<(Vec<u8>, Value)>> {
        self.iter()?.next().transpose()
    }

    /// The entry inserted last.
    ///
    /// # Errors
    /// As [`Transaction::get`].
    pub fn last(&self) -> Result<Option<(Vec<u8>, Value)>> {
        self.iter()?.next_back().transpose()
    }
}

/// Puts `key` among `keys` where its insertion was.
fn place_by_order(
    store: &Store,
    space: u32,
    keys: &mut VecDeque<Vec<u8>>,
    key: Vec<u8>,
) -> Result<()> {
    let mut buffer = Vec::new();
    let mut order_of = |key: &[u8]| -> Result<u64> {
        let hit = store.find(space, key, store.hash.of(space, key), &mut buffer)?;
        Ok(hit.map_or(u64::MAX, |hit| hit.head.order))
    };
    let order = order_of(&key)?;
    let mut index = 0;
    while index < keys.len() && order_of(&keys[index])? < order {
        index += 1;
    }
    keys.insert(index, key);
    Ok(())
}

impl std::fmt::Debug for Transaction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transaction").finish_non_exhaustive()
    }
}
