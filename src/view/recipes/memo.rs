//! `Memo`: the results of a function, by its arguments.

use std::borrow::Cow;
use std::marker::PhantomData;
use std::time::Duration;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::format::key::{Key, KeyPart};
use crate::view::cache::Cache;
use crate::view::codec::{Bincode, Codec, TypeName};
use crate::view::options::SetOptions;
use crate::view::recipes::args;
use crate::view::recipes::compute::{ComputeOptions, Wanted};
use crate::view::recipes::flight::Flights;
use crate::view::typed;

/// Remembers what a function made of its arguments, for all processes; it runs once per host for those
/// who ask at once, as with [`Cache::get_or_compute`].
///
/// Arguments are anything `serde` can serialise: a value, a reference, a tuple. Equal arguments are one
/// key, whatever holds them: maps are sorted, `7_u8` is `7_i64`. (A `HashSet` has no order of its own
/// and is no good argument; a `BTreeSet` is.) Results are entries of the cache like others: they expire,
/// are evicted, and carry the tag `memo:NAME`.
///
/// ```
/// use std::time::Duration;
/// use larder::{Cache, Memo};
///
/// let cache = Cache::temporary()?;
/// let power = Memo::<u64>::new(&cache, "power").ttl(Duration::from_secs(60));
/// let call = |base: u64, exponent: u32| {
///     power.call(&(base, exponent), || Ok::<_, larder::Error>(base.pow(exponent)))
/// };
/// assert_eq!(call(2, 10)?, 1024);
/// assert!(cache.contains(power.key_of(&(2, 10))?)?);
/// assert!(power.invalidate(&(2, 10))?);
/// # Ok::<(), larder::Error>(())
/// ```
///
/// The name stands for the function and what it does: give it another name when that changes. What
/// results are read as is checked as in [`Typed`](crate::Typed).
pub struct Memo<V, C = Bincode> {
    cache: Cache,
    name: String,
    type_name: TypeName,
    ignored: Vec<usize>,
    is_typed: bool,
    /// Its tags alone.
    set: SetOptions,
    options: ComputeOptions,
    types: PhantomData<fn(C) -> V>,
}

impl<V> Memo<V> {
    /// A memory of the function of this name.
    #[must_use]
    pub fn new(cache: &Cache, name: impl Into<String>) -> Memo<V> {
        let name = name.into();
        Memo {
            cache: cache.clone(),
            set: SetOptions::default().tag(tag_of(&name)),
            name,
            type_name: TypeName::new(std::any::type_name::<V>()),
            ignored: Vec::new(),
            is_typed: true,
            options: ComputeOptions::default(),
            types: PhantomData,
        }
    }
}

impl<V, C> Memo<V, C> {
    /// The same with results written by another codec.
    #[must_use]
    pub fn with_codec<C2: Codec<V>>(self) -> Memo<V, C2> {
        Memo {
            cache: self.cache,
            name: self.name,
            type_name: self.type_name,
            ignored: self.ignored,
            is_typed: self.is_typed,
            set: self.set,
            options: self.options,
            types: PhantomData,
        }
    }

    /// Results are good for so long. Default: as the store's `default_ttl` says.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.options = self.options.ttl(ttl);
        self
    }

    /// How results are computed: ttl, deadline, stale ones, early ones. Default: that of
    /// [`Cache::get_or_compute`].
    #[must_use]
    pub fn options(mut self, options: ComputeOptions) -> Self {
        self.options = options;
        self
    }

    /// One more tag of the results.
    #[must_use]
    pub fn tag(mut self, tag: impl AsRef<[u8]>) -> Self {
        self.set = self.set.tag(tag);
        self
    }

    /// The arguments at these places (of a tuple, from 0) do not count: a connection, a logger.
    #[must_use]
    pub fn ignore(mut self, places: impl IntoIterator<Item = usize>) -> Self {
        self.ignored.extend(places);
        self
    }

    /// Whether 1 and 1.0 are two arguments. Default: `true`, since functions tell them apart.
    #[must_use]
    pub fn typed(mut self, is_typed: bool) -> Self {
        self.is_typed = is_typed;
        self
    }

    /// A name for the results' type that stays when the type moves, as
    /// [`Typed::named`](crate::Typed::named).
    #[must_use]
    pub fn named(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.type_name = TypeName::new(name);
        self
    }

    /// The key of the result of these arguments: the typed key of the name and the arguments' bytes.
    ///
    /// # Errors
    /// [`Error::InvalidKey`] for arguments that cannot be serialised.
    pub fn key_of<A: Serialize + ?Sized>(&self, args: &A) -> Result<Vec<u8>> {
        let args = args::encode(args, &self.ignored, self.is_typed)?;
        let parts = vec![
            KeyPart::Text(Cow::Borrowed(&self.name)),
            KeyPart::Bytes(Cow::Owned(args)),
        ];
        let mut key = Vec::new();
        KeyPart::Tuple(parts).encode(&mut key)?;
        Ok(key)
    }

    /// Forgets the result of these arguments; what is being computed of them just now is not stored
    /// either. Whether there was one.
    ///
    /// # Errors
    /// As [`Memo::key_of`]; see [`Cache`].
    pub fn invalidate<A: Serialize + ?Sized>(&self, args: &A) -> Result<bool> {
        let key = self.key_of(args)?;
        let flights = Flights::of(&self.cache, &key)?;
        self.cache.transact(|tx| {
            flights.end()?;
            tx.delete(&key)
        })
    }

    /// Forgets all results of this name. How many. What is being computed meanwhile is stored.
    ///
    /// # Errors
    /// As [`Cache::evict_tag`].
    pub fn invalidate_all(&self) -> Result<u64> {
        self.cache.evict_tag(tag_of(&self.name))
    }
}

impl<V, C: Codec<V>> Memo<V, C> {
    /// The result of these arguments: the one that is there, or what `f` makes.
    ///
    /// # Errors
    /// What `f` returns; as [`Memo::key_of`] and [`Cache::get_or_compute_with`];
    /// [`Error::TooLarge`] for arguments of more than about 64 KiB; [`Error::WrongType`] when the result
    /// that is there is of another type.
    pub fn call<A: Serialize + ?Sized, E: From<Error>>(
        &self,
        args: &A,
        f: impl FnOnce() -> Result<V, E>,
    ) -> Result<V, E> {
        let set = self.options.set.clone().tags(&self.set.tags);
        let set = typed::as_typed::<V, C>(&set);
        let options = self.options.clone().stored_with(set);
        let wanted = Wanted {
            cache: &self.cache,
            key: &self.key_of(args)?,
            options: &options,
        };
        wanted.get(
            |value| {
                let read = self.type_name.decode::<V, C>(value.kind(), value);
                read.inspect_err(|_| self.cache.count_decode_failure())
            },
            || f().and_then(|value| Ok((self.type_name.encode::<V, C>(&value)?, value))),
        )
    }
}

fn tag_of(name: &str) -> String {
    format!("memo:{name}")
}

impl<V, C> Clone for Memo<V, C> {
    fn clone(&self) -> Self {
        Memo {
            cache: self.cache.clone(),
            name: self.name.clone(),
            type_name: self.type_name.clone(),
            ignored: self.ignored.clone(),
            is_typed: self.is_typed,
            set: self.set.clone(),
            options: self.options.clone(),
            types: PhantomData,
        }
    }
}

impl<V, C> std::fmt::Debug for Memo<V, C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memo")
            .field("path", &self.cache.path())
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
