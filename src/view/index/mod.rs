//! `Index`: keys and values of Rust types in insertion order, as Python's `dict` has them.
//!
//! One named space: its order list is the index's order. Owns the bytes of keys and values; never knows a
//! file or takes a lock of its own.

mod compare;
mod line;
mod order;

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::marker::PhantomData;
use std::path::Path;

use crate::error::{Error, Result};
use crate::format::key::Key;
use crate::view::cache::Cache;
use crate::view::codec::{Bincode, Codec, TypeName};
use crate::view::options::SetOptions;
use crate::view::transaction::Transaction;
use crate::view::typed::{as_typed, bytes_of};
use crate::view::value::Value;

/// Entries and bytes of one batch of `extend`.
const EXTEND_ENTRIES: usize = 1_024;
const EXTEND_BYTES: usize = 1 << 20;

/// Keys `K` and values `V` in the order in which the keys were first inserted, in a store; entries are
/// never culled and never expire.
///
/// [`Index::open`] has a directory of its own; [`Index::of`] is a named part of a store that has other
/// things too. Cheap to clone, `Send + Sync`. Every verb is one change: all of it is seen, by every process,
/// or nothing, unless it says otherwise. A value set over another keeps the key's place. Inside
/// [`Cache::transact`] on the same store the verbs join the transaction and see what it has done.
///
/// Look-ups take borrowed forms as a `HashMap` does: `&str` where `K` is `String` (see [`Key`]).
///
/// ```
/// let index = larder::Index::<String, u32>::temporary()?;
/// index.insert("b", &2)?;
/// index.insert("a", &1)?;
/// index.insert("b", &20)?;
/// assert_eq!(index.get("b")?, Some(20));
/// assert_eq!(index.first()?, Some(("b".to_owned(), 20)));
/// assert_eq!(index.pop_last()?, Some(("a".to_owned(), 1)));
/// assert_eq!(index.len()?, 1);
/// # Ok::<(), larder::Error>(())
/// ```
///
/// # Names and types
///
/// As in [`Typed`](crate::Typed): values are read by the codec and type name they were written with;
/// [`Index::named`] gives a type a name that lasts.
///
/// # Errors
///
/// Every verb: [`Error::Io`], [`Error::Corrupt`] where bytes on disk are not what was written,
/// [`Error::InvalidKey`] for a key that cannot be one (NaN) or is not a `K`, [`Error::WrongType`] and
/// [`Error::Codec`] for a value that is not a `V`; it stays. Verbs that write, too: what [`Cache`]'s do.
/// Whatever the error, nothing was changed, unless the verb says otherwise.
pub struct Index<K, V, C = Bincode> {
    /// Over the index's own space.
    entries: Cache,
    cache: Cache,
    name: TypeName,
    /// `K`, `V` and `C` only ever pass through.
    types: PhantomData<fn(K, C) -> V>,
}

impl<K, V> Index<K, V> {
    /// The index of a directory of its own, made if there is none. For settings, open the store with
    /// [`Cache::builder`] and use [`Index::of`].
    ///
    /// # Errors
    /// As [`Builder::open`](crate::Builder::open).
    pub fn open(dir: impl AsRef<Path>) -> Result<Index<K, V>> {
        Index::of(&Cache::open(dir)?, "")
    }

    /// An index in a new directory below the system's temporary one, removed with the last clone.
    ///
    /// # Errors
    /// As [`Index::open`].
    pub fn temporary() -> Result<Index<K, V>> {
        Index::of(&Cache::temporary()?, "")
    }

    /// The index of this name inside a store, made if there is none. A store has room
    /// for about 250.
    ///
    /// # Errors
    /// [`Error::TooLarge`] for a name above 1,024 bytes or one index too many; [`Error::Aborted`] when it
    /// has to be made inside a transaction.
    pub fn of(cache: &Cache, name: impl AsRef<[u8]>) -> Result<Index<K, V>> {
        Ok(Index {
            entries: cache.space("index", name.as_ref())?,
            cache: cache.in_space(crate::engine::store::MAIN_SPACE),
            name: TypeName::new(std::any::type_name::<V>()),
            types: PhantomData,
        })
    }
}

impl<K, V, C> Index<K, V, C> {
    /// The same index with another codec: [`Json`](crate::Json), [`Raw`](crate::Raw) or your own.
    #[must_use]
    pub fn with_codec<C2: Codec<V>>(self) -> Index<K, V, C2> {
        Index {
            entries: self.entries,
            cache: self.cache,
            name: self.name,
            types: PhantomData,
        }
    }

    /// The same index with a name for its values that stays when the type moves, and changes when the type
    /// does. Default: [`std::any::type_name`] of `V`, with the caveats of [`Typed`](crate::Typed).
    #[must_use]
    pub fn named(self, name: impl Into<Cow<'static, str>>) -> Self {
        Index {
            name: TypeName::new(name),
            ..self
        }
    }

    /// The store it is in.
    #[must_use]
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// How many entries there are.
    ///
    /// # Errors
    /// See [`Index`].
    pub fn len(&self) -> Result<u64> {
        match self.entries.inside()? {
            Some(inside) => inside.len(),
            None => self.entries.len(),
        }
    }

    /// Whether there is no entry.
    ///
    /// # Errors
    /// See [`Index`].
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Removes every entry that was there when it began, in steps; inside a transaction as part of it. How
    /// many.
    ///
    /// # Errors
    /// See [`Index`]; [`Error::removed`] says how many went before [`Error::Busy`].
    pub fn clear(&self) -> Result<u64> {
        let Some(inside) = self.entries.inside()? else {
            return self.entries.clear();
        };
        let keys = inside.iter()?.map(|item| Ok(item?.0));
        let keys = keys.collect::<Result<Vec<_>>>()?;
        for key in &keys {
            inside.delete(key)?;
        }
        Ok(keys.len() as u64)
    }

    /// The items from both ends: as they come, or inside a transaction all at once.
    fn items(&self) -> Result<Items> {
        Ok(match self.entries.inside()? {
            Some(inside) => Items::Gathered(inside.iter()?.collect::<Vec<_>>().into_iter()),
            None => Items::Free(Box::new(self.entries.iter()?)),
        })
    }
}

/// Entries still to be visited.
enum Items {
    Free(Box<crate::view::iter::Iter>),
    Gathered(std::vec::IntoIter<Result<(Vec<u8>, Value)>>),
}

impl Iterator for Items {
    type Item = Result<(Vec<u8>, Value)>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Items::Free(items) => items.next(),
            Items::Gathered(items) => items.next(),
        }
    }
}

impl DoubleEndedIterator for Items {
    fn next_back(&mut self) -> Option<Self::Item> {
        match self {
            Items::Free(items) => items.next_back(),
            Items::Gathered(items) => items.next_back(),
        }
    }
}

impl<K: Key, V, C: Codec<V>> Index<K, V, C> {
    /// The key's value.
    ///
    /// # Errors
    /// See [`Index`].
    pub fn get<Q>(&self, key: &Q) -> Result<Option<V>>
    where
        K: Borrow<Q>,
        Q: Key + ?Sized,
    {
        let key = bytes_of(key)?;
        let value = match self.entries.inside()? {
            Some(inside) => inside.get(key)?,
            None => self.entries.get_quietly(&key)?,
        };
        value.map(|value| self.read(&value)).transpose()
    }

    /// Whether the key has a value.
    ///
    /// # Errors
    /// See [`Index`].
    pub fn contains_key<Q>(&self, key: &Q) -> Result<bool>
    where
        K: Borrow<Q>,
        Q: Key + ?Sized,
    {
        let key = bytes_of(key)?;
        match self.entries.inside()? {
            Some(inside) => inside.contains(key),
            None => self.entries.contains(key),
        }
    }

    /// Stores a value under a key: a new key comes last, another keeps its place. What was there goes unread;
    /// [`Index::replace`] returns it.
    ///
    /// # Errors
    /// See [`Index`].
    pub fn insert<Q>(&self, key: &Q, value: &V) -> Result<()>
    where
        K: Borrow<Q>,
        Q: Key + ?Sized,
    {
        self.entries
            .set_with(bytes_of(key)?, self.payload(value)?, &self.options())
    }

    /// Stores a value under a key, as [`Index::insert`], and returns the one that was there.
    ///
    /// # Errors
    /// See [`Index`]; a value that cannot be read stays.
    pub fn replace<Q>(&self, key: &Q, value: &V) -> Result<Option<V>>
    where
        K: Borrow<Q>,
        Q: Key + ?Sized,
    {
        let (key, payload) = (bytes_of(key)?, self.payload(value)?);
        self.entries.transact(|transaction| {
            let old = transaction.get(&key)?;
            let old = old.map(|old| self.read(&old)).transpose()?;
            transaction.set_with(&key, &payload, &self.options())?;
            Ok(old)
        })
    }

    /// The key's value; if there is none, that of `make`, which is then stored.
    ///
    /// `make` runs without the lock: another may be quicker, and then it is its value that counts.
    ///
    /// # Errors
    /// See [`Index`].
    pub fn get_or_insert_with<Q>(&self, key: &Q, make: impl FnOnce() -> V) -> Result<V>
    where
        K: Borrow<Q>,
        Q: Key + ?Sized,
    {
        self.get_or_try_insert_with(key, || Ok(make()))
    }

    fn get_or_try_insert_with<Q>(&self, key: &Q, make: impl FnOnce() -> Result<V>) -> Result<V>
    where
        K: Borrow<Q>,
        Q: Key + ?Sized,
    {
        if let Some(value) = self.get(key)? {
            return Ok(value);
        }
        let value = make()?;
        let (key, payload) = (bytes_of(key)?, self.payload(&value)?);
        let theirs = self.entries.transact(|transaction| {
            let theirs = transaction.get(&key)?;
            if theirs.is_none() {
                transaction.set_with(&key, &payload, &self.options())?;
            }
            Ok(theirs)
        })?;
        theirs.map_or(Ok(value), |theirs| self.read(&theirs))
    }

    /// `function`, run once for each argument: its results are kept in this index.
    ///
    /// Of several that ask for an argument nobody has asked for yet, each runs it; the first result is
    /// everybody's. Results stay until they are removed.
    ///
    /// ```
    /// let squares = larder::Index::<u64, u64>::temporary()?;
    /// let square = squares.memoize(|n| n * n);
    /// assert_eq!((square(&12)?, square(&12)?), (144, 144));
    /// assert_eq!(squares.len()?, 1);
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn memoize(&self, function: impl Fn(&K) -> V) -> impl Fn(&K) -> Result<V> {
        move |key| self.get_or_insert_with(key, || function(key))
    }

    /// Removes a key; its value, if it had one.
    ///
    /// # Errors
    /// See [`Index`]; a value that cannot be read stays: [`Index::delete`] removes it.
    pub fn remove<Q>(&self, key: &Q) -> Result<Option<V>>
    where
        K: Borrow<Q>,
        Q: Key + ?Sized,
    {
        let key = bytes_of(key)?;
        self.entries
            .transact(|transaction| Ok(self.take(transaction, &key)?.map(|(_, value)| value)))
    }

    /// Removes a key and its value, unread. Whether it was there.
    ///
    /// # Errors
    /// See [`Index`].
    pub fn delete<Q>(&self, key: &Q) -> Result<bool>
    where
        K: Borrow<Q>,
        Q: Key + ?Sized,
    {
        self.entries.delete(bytes_of(key)?)
    }

    /// Inserts entries in their order. How many.
    ///
    /// In batches, each of them one change: 1,024 entries or 1 MiB. The entries come before the lock is
    /// taken, so they may be this index's own.
    ///
    /// # Errors
    /// See [`Index`]; earlier batches stay.
    pub fn extend<Q, W>(&self, entries: impl IntoIterator<Item = (Q, W)>) -> Result<u64>
    where
        Q: Borrow<K>,
        W: Borrow<V>,
    {
        let store = self.entries.store_to_change()?;
        let limit = store
            .files
            .header
            .setting(crate::part::shared::setting::SIZE_LIMIT);
        let bytes_max = EXTEND_BYTES.min((limit / 32) as usize);
        let mut entries = entries.into_iter();
        let mut inserted = 0;
        loop {
            let mut batch = Vec::new();
            let mut bytes = 0;
            while batch.len() < EXTEND_ENTRIES
                && bytes < bytes_max
                && let Some((key, value)) = entries.next()
            {
                let item = (bytes_of(key.borrow())?, self.payload(value.borrow())?);
                bytes += item.0.len() + item.1.len();
                batch.push(item);
            }
            if batch.is_empty() {
                return Ok(inserted);
            }
            inserted += self.entries.set_many(batch, &self.options())?;
        }
    }

    /// All keys and values in order, from both ends; none inserted after this call. Inside a transaction they
    /// are all gathered first.
    ///
    /// # Errors
    /// See [`Index`]; each item is a result of its own, and after one that cannot be read the next follows.
    pub fn iter(
        &self,
    ) -> Result<impl DoubleEndedIterator<Item = Result<(K::Owned, V)>> + use<'_, K, V, C>> {
        Ok(self.items()?.map(|item| self.pair(item?)))
    }

    /// All keys in order, from both ends.
    ///
    /// # Errors
    /// As for [`iter`](Index::iter).
    pub fn keys(
        &self,
    ) -> Result<impl DoubleEndedIterator<Item = Result<K::Owned>> + use<'_, K, V, C>> {
        Ok(self.items()?.map(|item| K::decode(&item?.0)))
    }

    /// All values in the order of their keys, from both ends.
    ///
    /// # Errors
    /// As for [`iter`](Index::iter).
    pub fn values(&self) -> Result<impl DoubleEndedIterator<Item = Result<V>> + use<'_, K, V, C>> {
        Ok(self.items()?.map(|item| self.read(&item?.1)))
    }

    fn take(&self, transaction: &Transaction, key: &[u8]) -> Result<Option<(K::Owned, V)>> {
        let Some(value) = transaction.get(key)? else {
            return Ok(None);
        };
        let pair = (K::decode(key)?, self.read(&value)?);
        transaction.delete(key)?;
        Ok(Some(pair))
    }

    fn pair(&self, (key, value): (Vec<u8>, Value)) -> Result<(K::Owned, V)> {
        Ok((K::decode(&key)?, self.read(&value)?))
    }

    fn options(&self) -> SetOptions {
        as_typed::<V, C>(&SetOptions::default().never_expires())
    }

    fn payload(&self, value: &V) -> Result<Vec<u8>> {
        self.name.encode::<V, C>(value)
    }

    /// Every value read comes through here, and every failure is counted.
    fn read(&self, value: &Value) -> Result<V> {
        self.name
            .decode::<V, C>(value.kind(), value)
            .inspect_err(|_: &Error| self.cache.count_decode_failure())
    }
}

impl<K, V, C> Clone for Index<K, V, C> {
    fn clone(&self) -> Self {
        Index {
            entries: self.entries.clone(),
            cache: self.cache.clone(),
            name: self.name.clone(),
            types: PhantomData,
        }
    }
}

impl<K, V, C> fmt::Debug for Index<K, V, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Index")
            .field("path", &self.cache.path())
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
