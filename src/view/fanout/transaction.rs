//! A transaction over all shards: each verb by the shard that has the key.

use crate::error::Result;
use crate::format::fanout::Layout;
use crate::view::fanout::merge;
use crate::view::options::{Expiry, SetOptions, Side};
use crate::view::transaction::Transaction;
use crate::view::value::{Number, Value};

/// Several changes, in any shards, that happen together or not at all. Made by
/// [`Fanout::transact`](crate::Fanout::transact).
///
/// Its verbs mean what those of [`Transaction`] mean, and answer the same errors.
#[derive(Debug)]
pub struct FanoutTransaction {
    layout: Layout,
    parts: Vec<Transaction>,
}

impl FanoutTransaction {
    pub(super) fn new(layout: Layout, parts: Vec<Transaction>) -> Self {
        FanoutTransaction { layout, parts }
    }

    fn of(&self, key: impl AsRef<[u8]>) -> &Transaction {
        &self.parts[self.layout.shard_of(key.as_ref())]
    }

    fn queue(&self, prefix: Option<&[u8]>) -> &Transaction {
        &self.parts[self.layout.shard_of_name(prefix.unwrap_or_default())]
    }

    /// As [`Transaction::get`].
    ///
    /// # Errors
    /// As there.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        self.of(&key).get(key)
    }

    /// As [`Transaction::contains`].
    ///
    /// # Errors
    /// As there.
    pub fn contains(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        self.of(&key).contains(key)
    }

    /// As [`Transaction::set`].
    ///
    /// # Errors
    /// As there.
    pub fn set(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<()> {
        self.of(&key).set(key, value)
    }

    /// As [`Transaction::set_with`].
    ///
    /// # Errors
    /// As there.
    pub fn set_with(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: &SetOptions,
    ) -> Result<()> {
        self.of(&key).set_with(key, value, options)
    }

    /// As [`Transaction::set_number`].
    ///
    /// # Errors
    /// As there.
    pub fn set_number(
        &self,
        key: impl AsRef<[u8]>,
        number: impl Into<Number>,
        options: &SetOptions,
    ) -> Result<()> {
        self.of(&key).set_number(key, number, options)
    }

    /// As [`Transaction::add`].
    ///
    /// # Errors
    /// As there.
    pub fn add(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: &SetOptions,
    ) -> Result<bool> {
        self.of(&key).add(key, value, options)
    }

    /// As [`Transaction::replace`].
    ///
    /// # Errors
    /// As there.
    pub fn replace(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: &SetOptions,
    ) -> Result<bool> {
        self.of(&key).replace(key, value, options)
    }

    /// As [`Transaction::compare_and_swap`].
    ///
    /// # Errors
    /// As there.
    pub fn compare_and_swap(
        &self,
        key: impl AsRef<[u8]>,
        expected: Option<&[u8]>,
        new: Option<&[u8]>,
        options: &SetOptions,
    ) -> Result<bool> {
        self.of(&key).compare_and_swap(key, expected, new, options)
    }

    /// As [`Transaction::touch`].
    ///
    /// # Errors
    /// As there.
    pub fn touch(&self, key: impl AsRef<[u8]>, expiry: Expiry) -> Result<bool> {
        self.of(&key).touch(key, expiry)
    }

    /// As [`Transaction::delete`].
    ///
    /// # Errors
    /// As there.
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        self.of(&key).delete(key)
    }

    /// As [`Transaction::pop`].
    ///
    /// # Errors
    /// As there.
    pub fn pop(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        self.of(&key).pop(key)
    }

    /// As [`Transaction::incr`].
    ///
    /// # Errors
    /// As there.
    pub fn incr(
        &self,
        key: impl AsRef<[u8]>,
        delta: impl Into<Number>,
        default: impl Into<Number>,
    ) -> Result<Number> {
        self.of(&key).incr(key, delta, default)
    }

    /// As [`Transaction::decr`].
    ///
    /// # Errors
    /// As there.
    pub fn decr(
        &self,
        key: impl AsRef<[u8]>,
        delta: impl Into<Number>,
        default: impl Into<Number>,
    ) -> Result<Number> {
        self.of(&key).decr(key, delta, default)
    }

    /// As [`Transaction::push`].
    ///
    /// # Errors
    /// As there.
    pub fn push(
        &self,
        prefix: Option<&[u8]>,
        value: impl AsRef<[u8]>,
        side: Side,
        options: &SetOptions,
    ) -> Result<Vec<u8>> {
        self.queue(prefix).push(prefix, value, side, options)
    }

    /// As [`Transaction::pull`].
    ///
    /// # Errors
    /// As there.
    pub fn pull(&self, prefix: Option<&[u8]>, side: Side) -> Result<Option<(Vec<u8>, Value)>> {
        self.queue(prefix).pull(prefix, side)
    }

    /// As [`Transaction::peek`].
    ///
    /// # Errors
    /// As there.
    pub fn peek(&self, prefix: Option<&[u8]>, side: Side) -> Result<Option<(Vec<u8>, Value)>> {
        self.queue(prefix).peek(prefix, side)
    }

    /// As [`Transaction::len`], over all shards.
    ///
    /// # Errors
    /// As there.
    pub fn len(&self) -> Result<u64> {
        self.parts.iter().map(Transaction::len).sum()
    }

    /// As [`Transaction::is_empty`].
    ///
    /// # Errors
    /// As there.
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// As [`Transaction::iter`], in the order of [`Fanout::iter`](crate::Fanout::iter).
    ///
    /// # Errors
    /// As there.
    pub fn iter(
        &self,
    ) -> Result<impl DoubleEndedIterator<Item = Result<(Vec<u8>, Value)>> + use<'_>> {
        let mut parts = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            parts.push(part.iter()?.map(|item| {
                let (key, value) = item?;
                Ok((part.stored_at_s(&key)?, (key, value)))
            }));
        }
        Ok(merge::Merged::new(parts))
    }

    /// As [`Transaction::first`].
    ///
    /// # Errors
    /// As there.
    pub fn first(&self) -> Result<Option<(Vec<u8>, Value)>> {
        self.iter()?.next().transpose()
    }

    /// As [`Transaction::last`].
    ///
    /// # Errors
    /// As there.
    pub fn last(&self) -> Result<Option<(Vec<u8>, Value)>> {
        self.iter()?.next_back().transpose()
    }
}
