//! `Typed`: a cache with keys and values of Rust types.
//!
//! A thin coat over [`Cache`] or `Fanout`: owns nothing in the store but the way keys ([`Key`]) and values
//! ([`Codec`]) become bytes.
//! Holds: a value is read back by the codec and the type name it was written with, or not at all.
//! Never takes a lock, opens a file, or knows the clock.

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Bound, RangeBounds};
use std::time::SystemTime;

use crate::error::{Error, Result};
use crate::format::key::Key;
use crate::view::cache::Cache;
use crate::view::codec::{Bincode, Codec, TypeName};
use crate::view::options::{Expiry, SetOptions};
use crate::view::shelf::Shelf;
use crate::view::value::{CODEC_ID_MAX, Value, ValueKind};

/// A cache whose keys are `K` and whose values are `V`, written by the codec `C`.
///
/// Made by [`Cache::typed`] and [`Fanout::typed`](crate::Fanout::typed); cheap to clone. Look-ups take borrowed forms as a `HashMap` does: `&str`
/// where `K` is `String` (see [`Key`]).
///
/// ```
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Debug, PartialEq, Serialize, Deserialize)]
/// struct Plan { floors: u8, rooms: Vec<String> }
///
/// let cache = larder::Cache::temporary()?;
/// let plans = cache.typed::<(String, u32), Plan>().named("plan/v1");
///
/// let plan = Plan { floors: 2, rooms: vec!["kitchen".into()] };
/// plans.set(&("house".into(), 7), &plan)?;
/// assert_eq!(plans.get(&("house".into(), 7))?, Some(plan));
///
/// // Another type under the same key is an error, never garbage.
/// assert!(cache.typed::<(String, u32), u64>().get(&("house".into(), 7)).is_err());
/// # Ok::<(), larder::Error>(())
/// ```
///
/// # Names
///
/// With each value stands a fingerprint (CRC-32) of its type's name, and only a view of the same
/// name reads it. The name is by default [`std::any::type_name`] of `V`, which is not made for this:
/// it may change with the compiler and with every move of the type to another module, and it may be
/// the same for two types (as those of two versions of one crate). Then values are not found to be
/// what they are ([`Error::WrongType`]), or are decoded as what they are not. Give a name of your own
/// with [`named`](Typed::named) to values that outlive one build, and a new name when the type
/// changes.
///
/// # Errors
///
/// Besides what the verb of the same name on [`Cache`] returns:
/// [`Error::InvalidKey`] for a key that cannot be encoded (NaN),
/// [`Error::WrongType`] for a value of another codec or name,
/// [`Error::Codec`] for a value that cannot be encoded or decoded.
/// A value that could not be read is counted in `stats().decode_failures`, and stays where it is: set
/// or delete it.
///
/// # Sharing a store
///
/// All views of a store share its keys. Values that are not of this view's type, and keys that are
/// not of its key type, are errors of single items when iterating, which then goes on. Byte keys of
/// the plain [`Cache`] that happen to be a typed key's encoding are that key.
pub struct Typed<K, V, C = Bincode, S = Cache> {
    cache: S,
    name: TypeName,
    /// `K`, `V` and `C` only ever pass through; a view can be sent and shared whatever they are.
    types: PhantomData<fn(K, C) -> V>,
}

/// A value and what the store knows about it, from [`Typed::get_entry`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TypedEntry<V> {
    /// The value.
    pub value: V,
    /// When it expires; `None`: never.
    pub expires_at: Option<SystemTime>,
    /// Its tags, in the order they were given.
    pub tags: Vec<Vec<u8>>,
    /// When this version was stored, to the second.
    pub stored_at: SystemTime,
    /// When it was last read, to the second; when it was stored, if it has not been read since.
    pub accessed_at: SystemTime,
    /// Bytes of the encoded value.
    pub size_bytes: u64,
}

impl<K, V, C, S> Typed<K, V, C, S> {
    pub(crate) fn new(cache: S) -> Self {
        let name = TypeName::new(std::any::type_name::<V>());
        Typed {
            cache,
            name,
            types: PhantomData,
        }
    }

    /// The same view with another codec: [`Json`](crate::Json), [`Raw`](crate::Raw) or your own.
    #[must_use]
    pub fn with_codec<C2: Codec<V>>(self) -> Typed<K, V, C2, S> {
        Typed {
            cache: self.cache,
            name: self.name,
            types: PhantomData,
        }
    }

    /// The same view with a name for its values that stays when the type moves, and changes when the
    /// type does: `plan/v1`.
    ///
    /// Default: [`std::any::type_name`] of `V`, with its caveats (see [`Typed`]).
    #[must_use]
    pub fn named(self, name: impl Into<Cow<'static, str>>) -> Self {
        Typed {
            name: TypeName::new(name),
            ..self
        }
    }

    /// The store below.
    #[must_use]
    pub fn cache(&self) -> &S {
        &self.cache
    }
}

impl<K: Key, V, C: Codec<V>, S: Shelf> Typed<K, V, C, S> {
    /// The key's value; `None` when it is absent or expired.
    ///
    /// # Errors
    /// See [`Typed`].
    pub fn get<Q>(&self, key: &Q) -> Result<Option<V>>
    where
        K: Borrow<Q>,
        Q: Key + ?Sized,
    {
        self.cache
            .get(bytes_of(key)?)?
            .map(|value| self.read(&value))
            .transpose()
    }

    /// The key's value with its expiry, tags and times; `None` when it is absent or expired.
    ///
    /// # Errors
    /// See [`Typed`].
    pub fn get_entry<Q>(&self, key: &Q) -> Result<Option<TypedEntry<V>>>
    where
        K: Borrow<Q>,
        Q: Key + ?Sized,
    {
        let Some(entry) = self.cache.get_entry(bytes_of(key)?)? else {
            return Ok(None);
        };
        Ok(Some(TypedEntry {
            value: self.read(&entry.value)?,
            expires_at: entry.expires_at,
            tags: entry.tags,
            stored_at: entry.stored_at,
            accessed_at: entry.accessed_at,
            size_bytes: entry.size_bytes,
        }))
    }

    /// Whether the key has a live value, of whatever type.
    ///
    /// # Errors
    /// See [`Typed`].
    pub fn contains<Q>(&self, key: &Q) -> Result<bool>
    where
        K: Borrow<Q>,
        Q: Key + ?Sized,
    {
        self.cache.contains(bytes_of(key)?)
    }

    /// The values of several keys, in the keys' order.
    ///
    /// # Errors
    /// See [`Typed`]; one value that cannot be read is an error of the whole call.
    pub fn get_many<'a, Q>(&self, keys: impl IntoIterator<Item = &'a Q>) -> Result<Vec<Option<V>>>
    where
        K: Borrow<Q>,
        Q: Key + ?Sized + 'a,
    {
        let keys: Vec<Vec<u8>> = keys.into_iter().map(bytes_of).collect::<Result<_>>()?;
        let values = self.cache.get_many(keys)?;
        values
            .iter()
            .map(|value| value.as_ref().map(|value| self.read(value)).transpose())
            .collect()
    }

    /// Stores the value under the key, with the store's default expiry and no tags.
    ///
    /// # Errors
    /// See [`Typed`]; nothing was changed.
    pub fn set<Q>(&self, key: &Q, value: &V) -> Result<()>
    where
        K: Borrow<Q>,
        Q: Key + ?Sized,
    {
        self.set_with(key, value, &SetOptions::default())
    }

    /// Stores the value under the key. What `options` say of the value's kind is not used.
    ///
    /// # Errors
    /// See [`Typed`]; nothing was changed.
    pub fn set_with<Q>(&self, key: &Q, value: &V, options: &SetOptions) -> Result<()>
    where
        K: Borrow<Q>,
        Q: Key + ?Sized,
    {
        self.cache.set_with(
            bytes_of(key)?,
            self.payload(value)?,
            &as_typed::<V, C>(options),
        )
    }

    /// Stores all items in one atomic batch; returns how many.
    ///
    /// # Errors
    /// See [`Typed`]; nothing was changed.
    pub fn set_many<'a, Q>(
        &self,
        items: impl IntoIterator<Item = (&'a Q, &'a V)>,
        options: &SetOptions,
    ) -> Result<u64>
    where
        K: Borrow<Q>,
        Q: Key + ?Sized + 'a,
        V: 'a,
    {
        let items: Vec<(Vec<u8>, Vec<u8>)> = items
            .into_iter()
            .map(|(key, value)| Ok((bytes_of(key)?, self.payload(value)?)))
            .collect::<Result<_>>()?;
        self.cache.set_many(items, &as_typed::<V, C>(options))
    }

    /// Stores the value only if the key is absent or expired; says whether it did.
    ///
    /// # Errors
    /// See [`Typed`]; nothing was changed.
    pub fn add<Q>(&self, key: &Q, value: &V, options: &SetOptions) -> Result<bool>
    where
        K: Borrow<Q>,
        Q: Key + ?Sized,
    {
        self.cache.add(
            bytes_of(key)?,
            self.payload(value)?,
            &as_typed::<V, C>(options),
        )
    }

    /// Stores the value only if the key has a live one, of whatever type; says whether it did.
    ///
    /// # Errors
    /// See [`Typed`]; nothing was changed.
    pub fn replace<Q>(&self, key: &Q, value: &V, options: &SetOptions) -> Result<bool>
    where
        K: Borrow<Q>,
        Q: Key + ?Sized,
    {
        self.cache.replace(
            bytes_of(key)?,
            self.payload(value)?,
            &as_typed::<V, C>(options),
        )
    }

    /// Puts `new` where `expected` is, in one step; says whether it did. `None` stands for absent.
    ///
    /// Values are compared as their bytes, so `V` should encode equal values equally (a `HashMap`
    /// does not). A value of another type is not the expected one: `false`, no error.
    ///
    /// # Errors
    /// See [`Typed`]; nothing was changed.
    pub fn compare_and_swap<Q>(
        &self,
        key: &Q,
        expected: Option<&V>,
        new: Option<&V>,
        options: &SetOptions,
    ) -> Result<bool>
    where
        K: Borrow<Q>,
        Q: Key + ?Sized,
    {
        let expected = expected.map(|value| self.payload(value)).transpose()?;
        let new = new.map(|value| self.payload(value)).transpose()?;
        self.cache.compare_and_swap(
            bytes_of(key)?,
            expected.as_deref(),
            new.as_deref(),
            &as_typed::<V, C>(options),
        )
    }

    /// Gives a live value another expiry; says whether there was one, of whatever type.
    ///
    /// # Errors
    /// See [`Typed`]; nothing was changed.
    pub fn touch<Q>(&self, key: &Q, expiry: Expiry) -> Result<bool>
    where
        K: Borrow<Q>,
        Q: Key + ?Sized,
    {
        self.cache.touch(bytes_of(key)?, expiry)
    }

    /// Removes the key's value, of whatever type; says whether there was a live one.
    ///
    /// # Errors
    /// See [`Typed`]; nothing was changed.
    pub fn delete<Q>(&self, key: &Q) -> Result<bool>
    where
        K: Borrow<Q>,
        Q: Key + ?Sized,
    {
        self.cache.delete(bytes_of(key)?)
    }

    /// Removes the key's value and returns it, in one step: only one of several callers gets it.
    ///
    /// # Errors
    /// See [`Typed`]; nothing was changed, so a value that cannot be read stays.
    pub fn pop<Q>(&self, key: &Q) -> Result<Option<V>>
    where
        K: Borrow<Q>,
        Q: Key + ?Sized,
    {
        self.cache.pop_if(&bytes_of(key)?, |value| self.read(value))
    }

    /// All keys and values in insertion order, from both ends.
    ///
    /// # Errors
    /// See [`Typed`]; each item is a result of its own, and after one that cannot be read the next
    /// follows.
    pub fn iter(
        &self,
    ) -> Result<impl DoubleEndedIterator<Item = Result<(K::Owned, V)>> + use<'_, K, V, C, S>> {
        Ok(self.cache.iter()?.map(|item| self.item(item)))
    }

    /// All keys in insertion order, from both ends, whatever the types of their values.
    ///
    /// # Errors
    /// See [`Typed`]; each item is a result of its own.
    pub fn keys(
        &self,
    ) -> Result<impl DoubleEndedIterator<Item = Result<K::Owned>> + use<'_, K, V, C, S>> {
        Ok(self.cache.keys()?.map(|key| K::decode(&key?)))
    }

    /// All keys and values in the order of the keys, from both ends. As costly as
    /// [`Cache::iter_sorted`].
    ///
    /// # Errors
    /// As for [`iter`](Typed::iter).
    pub fn iter_sorted(
        &self,
    ) -> Result<impl DoubleEndedIterator<Item = Result<(K::Owned, V)>> + use<'_, K, V, C, S>> {
        Ok(self.cache.iter_sorted()?.map(|item| self.item(item)))
    }

    /// The keys and values between two keys, in the order of the keys, from both ends. As costly as
    /// [`Cache::range`].
    ///
    /// An open end means the end of the whole store, keys of other shapes included.
    ///
    /// ```
    /// let years = larder::Cache::temporary()?.typed::<i32, String>();
    /// for year in [1999, -44, 476] {
    ///     years.set(&year, &format!("the year {year}"))?;
    /// }
    /// let before = years.range(..1000)?.map(|item| Ok(item?.0)).collect::<larder::Result<Vec<_>>>()?;
    /// assert_eq!(before, [-44, 476]);
    /// # Ok::<(), larder::Error>(())
    /// ```
    ///
    /// # Errors
    /// As for [`iter`](Typed::iter).
    pub fn range<Q, R>(
        &self,
        range: R,
    ) -> Result<impl DoubleEndedIterator<Item = Result<(K::Owned, V)>> + use<'_, K, V, C, S, Q, R>>
    where
        K: Borrow<Q>,
        Q: Key + ?Sized,
        R: RangeBounds<Q>,
    {
        let range = (bound_of(range.start_bound())?, bound_of(range.end_bound())?);
        Ok(self.cache.range(range)?.map(|item| self.item(item)))
    }

    fn item(&self, item: Result<(Vec<u8>, Value)>) -> Result<(K::Owned, V)> {
        let (key, value) = item?;
        Ok((K::decode(&key)?, self.read(&value)?))
    }

    pub(super) fn payload(&self, value: &V) -> Result<Vec<u8>> {
        self.name.encode::<V, C>(value)
    }

    /// Every value read comes through here, and every failure is counted.
    pub(super) fn read(&self, value: &Value) -> Result<V> {
        self.name
            .decode::<V, C>(value.kind(), value)
            .inspect_err(|_: &Error| self.cache.count_decode_failure())
    }
}

pub(super) fn as_typed<V, C: Codec<V>>(options: &SetOptions) -> SetOptions {
    const {
        assert!(
            C::ID <= CODEC_ID_MAX,
            "records have no room for this codec id"
        );
    }
    options.clone().kind(ValueKind::Typed(C::ID))
}

pub(super) fn bytes_of<Q: Key + ?Sized>(key: &Q) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    key.encode(&mut bytes)?;
    Ok(bytes)
}

fn bound_of<Q: Key + ?Sized>(bound: Bound<&Q>) -> Result<Bound<Vec<u8>>> {
    Ok(match bound {
        Bound::Included(key) => Bound::Included(bytes_of(key)?),
        Bound::Excluded(key) => Bound::Excluded(bytes_of(key)?),
        Bound::Unbounded => Bound::Unbounded,
    })
}

impl<K, V, C, S: Clone> Clone for Typed<K, V, C, S> {
    fn clone(&self) -> Self {
        Typed {
            cache: self.cache.clone(),
            name: self.name.clone(),
            types: PhantomData,
        }
    }
}

impl<K, V, C, S: Shelf> fmt::Debug for Typed<K, V, C, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Typed")
            .field("path", &self.cache.path())
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
