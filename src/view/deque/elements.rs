//! A deque's elements: pushed, popped, looked at, replaced and taken away, as values of their type.
//!
//! Values become bytes before the lock is taken. Never knows where an element stands.

use std::borrow::Borrow;

use crate::error::{Error, Result};
use crate::part::shared::setting;
use crate::view::codec::Codec;
use crate::view::deque::Deque;
use crate::view::deque::ends::{self, Popped};
use crate::view::deque::look::{self, Found};
use crate::view::deque::session::Session;
use crate::view::deque::shape::Spot;
use crate::view::options::{SetOptions, Side};
use crate::view::prepare;
use crate::view::typed::as_typed;
use crate::view::value::Value;

/// Bytes of values in one batch of `extend`, and how many of them may be in files of their own.
const EXTEND_BYTES: u64 = 1 << 20;
const EXTEND_LARGE: usize = 32;
const EXTEND_ELEMENTS: usize = 1_024;

impl<T, C: Codec<T>> Deque<T, C> {
    /// Puts an element behind the last one.
    ///
    /// # Errors
    /// See [`Deque`].
    pub fn push_back(&self, value: &T) -> Result<()> {
        self.push(Side::Back, value)
    }

    /// Puts an element before the first one.
    ///
    /// # Errors
    /// See [`Deque`].
    pub fn push_front(&self, value: &T) -> Result<()> {
        self.push(Side::Front, value)
    }

    /// Takes the last element away: of several processes, one gets it.
    ///
    /// # Errors
    /// See [`Deque`].
    pub fn pop_back(&self) -> Result<Option<T>> {
        self.pop(Side::Back)
    }

    /// Takes the first element away: of several processes, one gets it.
    ///
    /// # Errors
    /// See [`Deque`].
    pub fn pop_front(&self) -> Result<Option<T>> {
        self.pop(Side::Front)
    }

    /// The first element.
    ///
    /// # Errors
    /// See [`Deque`].
    pub fn peek_front(&self) -> Result<Option<T>> {
        self.peek(Side::Front)
    }

    /// The last element.
    ///
    /// # Errors
    /// See [`Deque`].
    pub fn peek_back(&self) -> Result<Option<T>> {
        self.peek(Side::Back)
    }

    /// The element of an index from 0, or from the back: -1 is the last. `None`: there are not so many.
    ///
    /// One look-up; where elements were removed from between others, one more for each power of 64
    /// in how many were ever pushed to this end since it was last empty.
    ///
    /// # Errors
    /// See [`Deque`].
    pub fn get(&self, index: i64) -> Result<Option<T>> {
        if self.is_inside()? {
            let value = self.inside(|session| {
                let spot = session.spot(index)?;
                spot.map(|spot| session.must_value(spot)).transpose()
            })?;
            return value.flatten().map(|value| self.read(&value)).transpose();
        }
        for _ in 0..3 {
            match self.known(|known| look::get(&self.cache, self.spaces, known, index))? {
                Found::One(value) => return self.read(&value).map(Some),
                Found::Nothing => return Ok(None),
                Found::Uncounted => {}
            }
            match self.change(|session| session.check_holes()) {
                Err(Error::ReadOnly { .. }) => break,
                done => done?,
            }
        }
        let mut walk = self.walk()?;
        let found = match usize::try_from(index) {
            Ok(index) => walk.nth(index),
            Err(_) => walk.nth_back((-1 - index) as usize),
        };
        let value = found.transpose()?;
        value.map(|(_, value)| self.read(&value)).transpose()
    }

    /// Replaces the element of an index, which counts as for [`Deque::get`]. Whether there was one.
    ///
    /// # Errors
    /// See [`Deque`].
    pub fn set(&self, index: i64, value: &T) -> Result<bool> {
        let options = self.options();
        let bytes = self.name.encode::<T, C>(value)?;
        let store = self.cache.store_to_change()?;
        let prepared = prepare::bytes(store, &bytes, &options, store.now_ms())?;
        self.change(|session| {
            let Some(spot) = session.spot(index)? else {
                return Ok(false);
            };
            session.set(spot, prepared, &options).map(|()| true)
        })
    }

    /// Takes the element of an index away, which counts as for [`Deque::get`].
    ///
    /// # Errors
    /// See [`Deque`].
    pub fn remove(&self, index: i64) -> Result<Option<T>> {
        self.take(|session| session.spot(index))
    }

    /// Puts elements behind the last one, in their order. How many.
    ///
    /// In batches, each of them one change: 1,024 elements or 1 MiB of values, 64 elements where there is a
    /// longest length. The elements come before the lock is taken, so they may be this deque's own.
    ///
    /// # Errors
    /// See [`Deque`]; earlier batches stay.
    pub fn extend<B: Borrow<T>>(&self, values: impl IntoIterator<Item = B>) -> Result<u64> {
        self.push_all(Side::Back, values)
    }

    /// Puts elements before the first one, one after the other: the last of them comes to be the first.
    /// Otherwise as [`Deque::extend`].
    ///
    /// # Errors
    /// As [`Deque::extend`].
    pub fn extend_front<B: Borrow<T>>(&self, values: impl IntoIterator<Item = B>) -> Result<u64> {
        self.push_all(Side::Front, values)
    }

    /// The elements that are there now, in order, from both ends.
    ///
    /// Elements that go meanwhile are left out, and so are those a rotation moves; none that comes later is
    /// met, so it ends whatever is pushed. Inside a transaction they are all gathered first.
    ///
    /// # Errors
    /// See [`Deque`]; each item is a result of its own, and after one that cannot be read the next follows.
    pub fn iter(&self) -> Result<impl DoubleEndedIterator<Item = Result<T>> + use<'_, T, C>> {
        Ok(self.walk()?.map(|item| self.read(&item?.1)))
    }

    /// All elements, in order.
    ///
    /// # Errors
    /// See [`Deque`]: the first one met.
    pub fn to_vec(&self) -> Result<Vec<T>> {
        self.iter()?.collect()
    }

    fn options(&self) -> SetOptions {
        as_typed::<T, C>(&SetOptions::default().never_expires())
    }

    /// Every value read comes through here, and every failure is counted.
    pub(super) fn read(&self, value: &Value) -> Result<T> {
        self.name
            .decode::<T, C>(value.kind(), value)
            .inspect_err(|_: &Error| self.cache.count_decode_failure())
    }

    fn push(&self, side: Side, value: &T) -> Result<()> {
        let options = self.options();
        let bytes = self.name.encode::<T, C>(value)?;
        let store = self.cache.store_to_change()?;
        let prepared = prepare::bytes(store, &bytes, &options, store.now_ms())?;
        let is_placed = !self.is_inside()?
            && self.known(|known| ends::push(&self.cache, self.spaces, known, side, &prepared))?;
        if is_placed {
            prepared.keep();
            return Ok(());
        }
        self.change(|session| session.push(side, prepared, &options))
    }

    fn push_all<B: Borrow<T>>(
        &self,
        side: Side,
        values: impl IntoIterator<Item = B>,
    ) -> Result<u64> {
        let options = self.options();
        let store = self.cache.store_to_change()?;
        let limit = store.files.header.setting(setting::SIZE_LIMIT);
        let elements = match self.max_len()? {
            None => EXTEND_ELEMENTS,
            Some(_) => EXTEND_ELEMENTS / 16,
        };
        let mut values = values.into_iter();
        let mut pushed = 0;
        loop {
            let mut batch = Vec::new();
            let (mut bytes, mut large) = (0, 0);
            while batch.len() < elements
                && bytes < EXTEND_BYTES.min(limit / 32)
                && large < EXTEND_LARGE
                && let Some(value) = values.next()
            {
                let payload = self.name.encode::<T, C>(value.borrow())?;
                let prepared =
                    prepare::bytes(store, &payload, &options, store.now_ms())?.into_owned();
                bytes += payload.len() as u64;
                large += usize::from(prepared.stream.is_some());
                batch.push(prepared);
            }
            let len = batch.len() as u64;
            if len == 0 {
                return Ok(pushed);
            }
            self.change(|session| {
                batch
                    .into_iter()
                    .try_for_each(|prepared| session.push(side, prepared, &options))
            })?;
            pushed += len;
        }
    }

    fn peek(&self, side: Side) -> Result<Option<T>> {
        let inside = self.inside(|session| {
            let spot = session.shape.end(side);
            spot.map(|spot| session.must_value(spot)).transpose()
        })?;
        let value = match inside {
            Some(value) => value,
            None => self.known(|known| look::peek(&self.cache, self.spaces, known, side))?,
        };
        value.map(|value| self.read(&value)).transpose()
    }

    fn pop(&self, side: Side) -> Result<Option<T>> {
        self.cache.store_to_change()?;
        if !self.is_inside()? {
            if self.is_empty()? {
                // Who comes too early need not wait.
                return Ok(None);
            }
            let popped = self.known(|known| {
                ends::pop(&self.cache, self.spaces, known, side, |value| {
                    self.read(&value)
                })
            })?;
            match popped {
                Popped::One(value) => return Ok(Some(value)),
                Popped::Nothing => return Ok(None),
                Popped::Slow => {}
            }
        }
        self.take(|session| Ok(session.shape.end(side)))
    }

    /// Takes the element that `choose` chooses away.
    fn take(
        &self,
        choose: impl FnOnce(&mut Session<'_>) -> Result<Option<Spot>>,
    ) -> Result<Option<T>> {
        self.cache.transact(|transaction| {
            let mut session = Session::begin(transaction, self.spaces)?;
            let Some(spot) = choose(&mut session)? else {
                return session.finish().map(|()| None);
            };
            let value = session.must_value(spot)?;
            session.finish()?;
            // The caller's code, before it goes: what cannot be read stays.
            let value = self.read(&value)?;
            let mut session = Session::begin(transaction, self.spaces)?;
            session.take(spot)?;
            session.finish().map(|()| Some(value))
        })
    }
}
