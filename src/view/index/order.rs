//! An index's order: its ends, its queues, and moving a key behind all others.
//!
//! Ends are read off the order list. Never looks at a value but to hand it out.

use std::borrow::Borrow;
use std::cell::RefCell;

use crate::engine::change::Change;
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::format::key::Key;
use crate::view::codec::Codec;
use crate::view::index::Index;
use crate::view::index::line::Line;
use crate::view::iter::Keys;
use crate::view::options::Side;
use crate::view::prepare;
use crate::view::transaction::Transaction;
use crate::view::typed::bytes_of;
use crate::view::value::Value;

impl<K: Key, V, C: Codec<V>> Index<K, V, C> {
    /// The entry inserted first.
    ///
    /// # Errors
    /// See [`Index`].
    pub fn first(&self) -> Result<Option<(K::Owned, V)>> {
        self.item(Side::Front)?
            .map(|item| self.pair(item))
            .transpose()
    }

    /// The entry inserted last.
    ///
    /// # Errors
    /// See [`Index`].
    pub fn last(&self) -> Result<Option<(K::Owned, V)>> {
        self.item(Side::Back)?
            .map(|item| self.pair(item))
            .transpose()
    }

    /// Takes the entry inserted first away: of several processes, one gets it.
    ///
    /// # Errors
    /// See [`Index`]; an entry that cannot be read stays.
    pub fn pop_first(&self) -> Result<Option<(K::Owned, V)>> {
        self.pop(Side::Front)
    }

    /// Takes the entry inserted last away: of several processes, one gets it.
    ///
    /// # Errors
    /// See [`Index`]; an entry that cannot be read stays.
    pub fn pop_last(&self) -> Result<Option<(K::Owned, V)>> {
        self.pop(Side::Back)
    }

    fn pop(&self, side: Side) -> Result<Option<(K::Owned, V)>> {
        self.entries
            .transact(|transaction| match inserted(transaction, side)? {
                Some(key) => self.take(transaction, &key),
                None => Ok(None),
            })
    }

    /// Puts a value under a new key at an end of the queue `prefix`: `500000000000000` and on, or
    /// `prefix-500000000000000`. The key. For `K` that can be such a key: a number, or text with a prefix.
    ///
    /// ```
    /// use larder::{Index, Side};
    ///
    /// let index = Index::<String, u32>::temporary()?;
    /// assert_eq!(index.push(Some("jobs"), &7, Side::Back)?, "jobs-500000000000000");
    /// assert_eq!(index.pull(Some("jobs"), Side::Front)?.map(|(_, value)| value), Some(7));
    /// # Ok::<(), larder::Error>(())
    /// ```
    ///
    /// # Errors
    /// See [`Index`]; [`Error::InvalidKey`] when a `K` cannot be such a key.
    pub fn push(&self, prefix: Option<&str>, value: &V, side: Side) -> Result<K::Owned> {
        let line = self.line(prefix);
        // Before anything is stored under a key that cannot be read.
        K::from_part(line.part(0))?;
        let (payload, options) = (self.payload(value)?, self.options());
        let store = self.entries.store_to_change()?;
        let prepared = prepare::bytes(store, &payload, &options, store.now_ms())?;
        let number = self.entries.transact(|transaction| {
            line.push(
                &mut transaction.state.borrow_mut(),
                prepared,
                side,
                &options,
            )
        })?;
        K::from_part(line.part(number))
    }

    /// Takes the entry at an end of the queue `prefix` away: of several processes, one gets it. Keys that
    /// were inserted by hand are never taken.
    ///
    /// # Errors
    /// See [`Index`]; an entry that cannot be read stays.
    pub fn pull(&self, prefix: Option<&str>, side: Side) -> Result<Option<(K::Owned, V)>> {
        let line = self.line(prefix);
        self.entries.transact(|transaction| {
            let next = {
                let state = RefCell::borrow(&transaction.state);
                let next = line.next(&state, side)?;
                next.map(|(number, payload)| Ok((number, state.value(&payload)?)))
                    .transpose()?
            };
            let Some((number, value)) = next else {
                let mut state = transaction.state.borrow_mut();
                return line.begin_anew(&mut state).map(|()| None);
            };
            let pair = (K::from_part(line.part(number))?, self.read(&value)?);
            line.take(&mut transaction.state.borrow_mut(), side, number)?;
            Ok(Some(pair))
        })
    }

    fn line<'a>(&self, prefix: Option<&'a str>) -> Line<'a> {
        Line {
            space: self.entries.space,
            prefix,
        }
    }

    /// Makes a key the one inserted last. Whether it was there.
    ///
    /// Only to the end: an order that is only ever added to has no place before the first.
    ///
    /// # Errors
    /// See [`Index`].
    pub fn move_to_end<Q>(&self, key: &Q) -> Result<bool>
    where
        K: Borrow<Q>,
        Q: Key + ?Sized,
    {
        let key = bytes_of(key)?;
        self.entries.transact(|transaction| {
            let mut state = transaction.state.borrow_mut();
            let Some(payload) = state.live(self.entries.space, &key)? else {
                return Ok(false);
            };
            state.remove(self.entries.space, &key)?;
            state.put(self.entries.space, &key, payload).map(|()| true)
        })
    }

    fn item(&self, side: Side) -> Result<Option<(Vec<u8>, Value)>> {
        match (self.entries.inside()?, side) {
            (Some(inside), Side::Front) => inside.first(),
            (Some(inside), Side::Back) => inside.last(),
            (None, Side::Front) => self.entries.first(),
            (None, Side::Back) => self.entries.last(),
        }
    }
}

/// The key inserted first or last, as the transaction sees it.
fn inserted(transaction: &Transaction, side: Side) -> Result<Option<Vec<u8>>> {
    let space = transaction.space;
    let mut state = transaction.state.borrow_mut();
    if !state.touches(space) {
        let (store, proof) = state.held();
        let mut buffer = Vec::new();
        let end = match side {
            Side::Front => store.oldest(proof, space, &mut buffer)?,
            Side::Back => store.newest(proof, space, &mut buffer)?,
        };
        return Ok(end.map(|end| end.hit.key(&buffer).to_vec()));
    }
    // What it inserted itself comes behind what was there.
    let is_new = |key: &[u8], is_fresh: bool| -> Result<bool> {
        let hash = state.store.hash.of(space, key);
        Ok(is_fresh
            || state
                .store
                .find(space, key, hash, &mut Vec::new())?
                .is_none())
    };
    let newest = |own: &mut dyn Iterator<Item = &Change>| -> Result<Option<Vec<u8>>> {
        for change in own {
            if is_new(&change.key, change.fresh)? {
                return Ok(Some(change.key.clone()));
            }
        }
        Ok(None)
    };
    let mut own = state.sets(space).map(|(change, _)| change);
    if side == Side::Back
        && let Some(key) = newest(&mut own.by_ref().rev())?
    {
        return Ok(Some(key));
    }
    let mut keys = Keys::new(&state.store, space)?;
    let mut next = || match side {
        Side::Front => keys.next(),
        Side::Back => keys.next_back(),
    };
    while let Some(key) = next().transpose()? {
        match state.change_of(space, &key) {
            Some(change) if change.set.is_none() || change.fresh => {}
            _ => return Ok(Some(key)),
        }
    }
    newest(&mut own)
}
