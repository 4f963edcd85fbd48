//! The verbs of `Cache` that are about one key, each by the shard that has it.
//!
//! A reader asks first whether a batch across shards says otherwise.

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::change::Payload;
use crate::engine::store::Store;
use crate::error::{Error, Result};
use crate::format::key::Key;
use crate::limits::RETRIES_MAX;
use crate::os::raw::Mapped;
use crate::view::cache::Cache;
use crate::view::codec::Bincode;
use crate::view::fanout::{Fanout, Told};
use crate::view::hold::Hold;
use crate::view::options::{Expiry, SetOptions, Side};
use crate::view::prepare;
use crate::view::reader::ValueReader;
use crate::view::typed::Typed;
use crate::view::value::{Description, Entry, Number, Value, ValueKind};

impl Fanout {
    // Reading.

    /// Reads by the shard, or by the batch that is being applied to it.
    #[inline]
    pub(super) fn read<T>(
        &self,
        key: &[u8],
        plain: impl Fn(&Cache) -> Result<Option<T>>,
        told: impl Fn(&Arc<Store>, &Payload) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        let index = self.shard_of(key);
        for _ in 0..RETRIES_MAX {
            match self.told(index, key)? {
                Told::Plain => return plain(self.at(index)?),
                Told::Gone => return Ok(None),
                Told::Set(payload) => {
                    let store = self.store(index)?;
                    if (payload.expires_ms).is_some_and(|expires| expires <= store.now_ms()) {
                        return Ok(None);
                    }
                    if let Some(seen) = told(store, &payload)? {
                        return Ok(Some(seen));
                    }
                    // Its file is gone: the entry has changed again.
                }
            }
        }
        Err(Error::Busy {
            what: "an entry that changes again and again",
            holder_pid: 0,
            held_since: None,
            waited: Duration::ZERO,
            removed: 0,
        })
    }

    /// As [`Cache::get`].
    ///
    /// # Errors
    /// See [`Fanout`].
    #[inline]
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        let key = key.as_ref();
        self.read(key, |shard| shard.get(key), value_of)
    }

    /// As [`Cache::get_into`].
    ///
    /// # Errors
    /// See [`Fanout`]; `buffer` is empty then.
    pub fn get_into(
        &self,
        key: impl AsRef<[u8]>,
        buffer: &mut Vec<u8>,
    ) -> Result<Option<ValueKind>> {
        buffer.clear();
        Ok(self.get(key)?.map(|value| {
            buffer.extend_from_slice(&value);
            value.kind()
        }))
    }

    /// As [`Cache::contains`].
    ///
    /// # Errors
    /// See [`Fanout`].
    pub fn contains(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        let key = key.as_ref();
        let plain = |shard: &Cache| Ok(shard.contains(key)?.then_some(()));
        Ok(self.read(key, plain, |_, _| Ok(Some(())))?.is_some())
    }

    /// As [`Cache::get_many`]: each is read for itself, not one moment's view.
    ///
    /// # Errors
    /// See [`Fanout`]: the first one met.
    pub fn get_many<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Value>>> {
        keys.into_iter().map(|key| self.get(key)).collect()
    }

    /// As [`Cache::get_entry`].
    ///
    /// # Errors
    /// See [`Fanout`].
    pub fn get_entry(&self, key: impl AsRef<[u8]>) -> Result<Option<Entry>> {
        self.shard_to_read(key.as_ref())?.get_entry(key)
    }

    /// As [`Cache::describe`].
    ///
    /// # Errors
    /// See [`Fanout`].
    pub fn describe(&self, key: impl AsRef<[u8]>) -> Result<Option<Description>> {
        self.shard_to_read(key.as_ref())?.describe(key)
    }

    /// As [`Cache::get_reader`].
    ///
    /// # Errors
    /// See [`Fanout`].
    pub fn get_reader(&self, key: impl AsRef<[u8]>) -> Result<Option<ValueReader>> {
        self.shard_to_read(key.as_ref())?.get_reader(key)
    }

    /// As [`Cache::value_path`].
    ///
    /// # Errors
    /// See [`Fanout`].
    pub fn value_path(&self, key: impl AsRef<[u8]>) -> Result<Option<PathBuf>> {
        self.shard_to_read(key.as_ref())?.value_path(key)
    }

    /// As [`Cache::get_mapped`].
    ///
    /// # Safety
    /// As [`Cache::get_mapped`].
    ///
    /// # Errors
    /// See [`Fanout`] and [`Cache::get_mapped`].
    pub unsafe fn get_mapped(&self, key: impl AsRef<[u8]>) -> Result<Option<Mapped>> {
        let shard = self.shard_to_read(key.as_ref())?;
        // SAFETY: the caller keeps to what `Cache::get_mapped` asks for.
        unsafe { shard.get_mapped(key) }
    }

    /// The shard of a key; when a batch across shards that changes the key is half applied, once it is
    /// not.
    pub(super) fn shard_to_read(&self, key: &[u8]) -> Result<&Cache> {
        let index = self.shard_of(key);
        match self.told(index, key)? {
            Told::Plain => self.at(index),
            _ => self.settled(index),
        }
    }

    /// As [`Cache::peek`].
    ///
    /// # Errors
    /// See [`Fanout`].
    pub fn peek(&self, prefix: Option<&[u8]>, side: Side) -> Result<Option<(Vec<u8>, Value)>> {
        self.settled(self.shard_of_queue(prefix))?
            .peek(prefix, side)
    }

    /// As [`Cache::hold`].
    ///
    /// # Errors
    /// As [`Cache::hold`].
    pub fn hold(&self, name: impl AsRef<[u8]>, timeout: Option<Duration>) -> Result<Hold> {
        self.at(0)?.hold(name, timeout)
    }

    // Writing.

    /// Writes to one shard; what is too large for its part of the limit gets a larger part.
    #[inline]
    pub(super) fn write<T>(&self, index: usize, work: impl Fn(&Cache) -> Result<T>) -> Result<T> {
        let shard = self.settled(index)?;
        let done = match work(shard) {
            Err(error) if self.may_grow(index, &error)? => work(shard),
            done => done,
        };
        if done.is_ok() {
            self.balance(index);
        }
        done
    }

    /// As [`Cache::set`].
    ///
    /// # Errors
    /// See [`Fanout`].
    #[inline]
    pub fn set(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<()> {
        self.set_with(key, value, &SetOptions::default())
    }

    /// As [`Cache::set_with`].
    ///
    /// # Errors
    /// See [`Fanout`].
    #[inline]
    pub fn set_with(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: &SetOptions,
    ) -> Result<()> {
        let (key, value) = (key.as_ref(), value.as_ref());
        self.write(self.shard_of(key), |shard| {
            shard.set_with(key, value, options)
        })
    }

    /// As [`Cache::set_number`].
    ///
    /// # Errors
    /// See [`Fanout`].
    pub fn set_number(
        &self,
        key: impl AsRef<[u8]>,
        number: impl Into<Number>,
        options: &SetOptions,
    ) -> Result<()> {
        let (key, number) = (key.as_ref(), number.into());
        self.write(self.shard_of(key), |shard| {
            shard.set_number(key, number, options)
        })
    }

    /// As [`Cache::set_reader`]. A reader is read once: what is larger than the shard's part of the limit
    /// is refused, and a second call may find a larger part.
    ///
    /// # Errors
    /// See [`Fanout`] and [`Cache::set_reader`].
    pub fn set_reader(
        &self,
        key: impl AsRef<[u8]>,
        reader: impl Read,
        options: &SetOptions,
    ) -> Result<u64> {
        let index = self.shard_of(key.as_ref());
        let done = self.settled(index)?.set_reader(key, reader, options);
        match &done {
            Ok(_) => self.balance(index),
            // Its length is not known: as much as others leave.
            Err(error) => drop(self.may_grow(index, error)?),
        }
        done
    }

    /// As [`Cache::add`].
    ///
    /// # Errors
    /// See [`Fanout`].
    pub fn add(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: &SetOptions,
    ) -> Result<bool> {
        let (key, value) = (key.as_ref(), value.as_ref());
        self.write(self.shard_of(key), |shard| shard.add(key, value, options))
    }

    /// As [`Cache::replace`].
    ///
    /// # Errors
    /// See [`Fanout`].
    pub fn replace(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: &SetOptions,
    ) -> Result<bool> {
        let (key, value) = (key.as_ref(), value.as_ref());
        self.write(self.shard_of(key), |shard| {
            shard.replace(key, value, options)
        })
    }

    /// As [`Cache::compare_and_swap`].
    ///
    /// # Errors
    /// See [`Fanout`].
    pub fn compare_and_swap(
        &self,
        key: impl AsRef<[u8]>,
        expected: Option<&[u8]>,
        new: Option<&[u8]>,
        options: &SetOptions,
    ) -> Result<bool> {
        let key = key.as_ref();
        self.write(self.shard_of(key), |shard| {
            shard.compare_and_swap(key, expected, new, options)
        })
    }

    /// As [`Cache::touch`].
    ///
    /// # Errors
    /// See [`Fanout`].
    pub fn touch(&self, key: impl AsRef<[u8]>, expiry: Expiry) -> Result<bool> {
        let key = key.as_ref();
        self.write(self.shard_of(key), |shard| shard.touch(key, expiry))
    }

    /// As [`Cache::delete`].
    ///
    /// # Errors
    /// See [`Fanout`].
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        let key = key.as_ref();
        self.write(self.shard_of(key), |shard| shard.delete(key))
    }

    /// As [`Cache::pop`].
    ///
    /// # Errors
    /// See [`Fanout`].
    pub fn pop(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        let key = key.as_ref();
        self.write(self.shard_of(key), |shard| shard.pop(key))
    }

    /// As [`Cache::incr`].
    ///
    /// # Errors
    /// See [`Fanout`] and [`Cache::incr`].
    pub fn incr(
        &self,
        key: impl AsRef<[u8]>,
        delta: impl Into<Number>,
        default: impl Into<Number>,
    ) -> Result<Number> {
        let (key, delta, default) = (key.as_ref(), delta.into(), default.into());
        self.write(self.shard_of(key), |shard| shard.incr(key, delta, default))
    }

    /// As [`Cache::decr`].
    ///
    /// # Errors
    /// See [`Fanout`] and [`Cache::incr`].
    pub fn decr(
        &self,
        key: impl AsRef<[u8]>,
        delta: impl Into<Number>,
        default: impl Into<Number>,
    ) -> Result<Number> {
        let (key, delta, default) = (key.as_ref(), delta.into(), default.into());
        self.write(self.shard_of(key), |shard| shard.decr(key, delta, default))
    }

    /// As [`Cache::push`]. All of a queue is in one shard; so is any key that looks like an item of it:
    /// the prefix, a dash, and 15 digits of which the first is 4 or 5.
    ///
    /// # Errors
    /// See [`Fanout`].
    pub fn push(
        &self,
        prefix: Option<&[u8]>,
        value: impl AsRef<[u8]>,
        side: Side,
        options: &SetOptions,
    ) -> Result<Vec<u8>> {
        let value = value.as_ref();
        self.write(self.shard_of_queue(prefix), |shard| {
            shard.push(prefix, value, side, options)
        })
    }

    /// As [`Cache::pull`].
    ///
    /// # Errors
    /// See [`Fanout`].
    pub fn pull(&self, prefix: Option<&[u8]>, side: Side) -> Result<Option<(Vec<u8>, Value)>> {
        self.write(self.shard_of_queue(prefix), |shard| {
            shard.pull(prefix, side)
        })
    }

    /// Keys and values of Rust types over this store.
    ///
    /// ```
    /// let dir = tempfile::tempdir().unwrap();
    /// let years = larder::Fanout::open(dir.path())?.typed::<f64, String>();
    /// years.set(&1999.0, &"the year 1999".into())?;
    /// assert!(years.contains(&1999.0)?);
    /// # Ok::<(), larder::Error>(())
    /// ```
    #[must_use]
    pub fn typed<K: Key, V>(&self) -> Typed<K, V, Bincode, Fanout> {
        Typed::new(self.clone())
    }

    /// A transaction that is about `key` alone: in its shard.
    pub(crate) fn transact_on<T>(
        &self,
        key: &[u8],
        work: impl Fn(&crate::Transaction) -> Result<T>,
    ) -> Result<T> {
        self.write(self.shard_of(key), |shard| shard.transact(&work))
    }

    pub(crate) fn count_decode_failure(&self) {
        if let Ok(shard) = self.at(0) {
            shard.count_decode_failure();
        }
    }

    pub(super) fn shard_of_queue(&self, prefix: Option<&[u8]>) -> usize {
        self.core.layout.shard_of_name(prefix.unwrap_or_default())
    }
}

/// The plain value of what a batch sets; `None`: its file is gone.
pub(super) fn value_of(store: &Arc<Store>, payload: &Payload) -> Result<Option<Value>> {
    let kind = ValueKind::from_byte(payload.value_kind);
    if let Some(apart) = payload.apart {
        let mut bytes = Vec::new();
        let read = store.read_apart(apart, &mut bytes)?;
        return Ok(read.map(|()| Value::whole(bytes, kind)));
    }
    let bytes = match (payload.zstd, Number::read(kind, &payload.value)) {
        (Some((plain_len, dictionary)), _) => {
            prepare::decompress(&payload.value, plain_len, dictionary)?
        }
        (_, Some(number)) => number.to_string().into_bytes(),
        _ => payload.value.clone(),
    };
    Ok(Some(Value::whole(bytes, kind)))
}
