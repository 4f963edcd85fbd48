//! `Deque`: a sequence in a store, pushed to and popped from at both ends by any number of processes.
//!
//! Two named spaces, a wing for each end: an element's key is its depth there, and each wing's order of
//! insertion is that of its depths, so its ends are those of an order list and no counter is kept. A third
//! space, one for all deques of a store, has what is beside the elements: longest length, direction, and
//! where elements were removed from between others.
//! Never knows a file; takes the lock in `ends.rs` alone.

mod counted;
mod elements;
mod ends;
mod holes;
mod look;
mod sequence;
mod session;
pub(crate) mod shape;
#[cfg(test)]
mod tests;
mod whole;

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::path::Path;
use std::sync::{Arc, Mutex};

#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::view::cache::Cache;
use crate::view::codec::{Bincode, Codec, TypeName};
use crate::view::state;
use ends::Known;
use look::Walk;
use session::Session;
use shape::Wing;

/// Elements of one batch, where a verb makes several.
const STEP: u64 = 128;
/// The numbers of a deque's spaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spaces {
    front: u32,
    back: u32,
    notes: u32,
}

impl Spaces {
    fn of(self, wing: Wing) -> u32 {
        match wing {
            Wing::Front => self.front,
            Wing::Back => self.back,
        }
    }
}

/// A sequence of `T` with two ends, in a store; its elements are never culled and never expire.
///
/// [`Deque::open`] has a directory of its own; [`Deque::of`] is a named part of a store that has other
/// things too. Cheap to clone, `Send + Sync`. Every verb is one change: all of it is seen, by every process,
/// or nothing, unless it says otherwise. Inside [`Cache::transact`] on the same store the verbs join the
/// transaction and see what it has done.
///
/// ```
/// use larder::{Cache, Deque};
///
/// let cache = Cache::temporary()?;
/// let deque = Deque::<String>::of(&cache, "jobs")?;
/// deque.push_back(&"b".to_owned())?;
/// deque.push_front(&"a".to_owned())?;
/// assert_eq!(deque.get(-1)?.as_deref(), Some("b"));
/// assert_eq!(deque.pop_front()?.as_deref(), Some("a"));
/// assert_eq!(deque.to_vec()?, ["b"]);
/// # Ok::<(), larder::Error>(())
/// ```
///
/// # Names and types
///
/// As in [`Typed`](crate::Typed): values are read by the codec and type name they were written with;
/// [`Deque::named`] gives a type a name that lasts.
///
/// # Errors
///
/// Every verb: [`Error::Io`], [`Error::Corrupt`] where bytes on disk are not what was written (an end
/// whose element is damaged stays so until [`Cache::repair`]), [`Error::WrongType`] and [`Error::Codec`]
/// for an element that is not a `T`; it stays. Verbs that write, too: what [`Cache`]'s do. Verbs that read
/// look again while others write, and take their turn for the lock when that was in vain 64 times:
/// [`Error::Busy`] then. Whatever the error, nothing was changed, unless the verb says otherwise.
pub struct Deque<T, C = Bincode> {
    cache: Cache,
    spaces: Spaces,
    name: TypeName,
    known: Arc<Mutex<Known>>,
    /// `T` and `C` only ever pass through.
    types: PhantomData<fn(C) -> T>,
}

impl<T> Deque<T> {
    /// The deque of a directory of its own, made if there is none. For settings, open the store with
    /// [`Cache::builder`] and use [`Deque::of`].
    ///
    /// # Errors
    /// As [`Builder::open`](crate::Builder::open).
    pub fn open(dir: impl AsRef<Path>) -> Result<Deque<T>> {
        Deque::of(&Cache::open(dir)?, "")
    }

    /// A deque in a new directory below the system's temporary one, removed with the last clone.
    ///
    /// # Errors
    /// As [`Deque::open`].
    pub fn temporary() -> Result<Deque<T>> {
        Deque::of(&Cache::temporary()?, "")
    }

    /// The deque of this name inside a store, made if there is none. A store has room for 126, less with
    /// other views.
    ///
    /// # Errors
    /// [`Error::TooLarge`] for a name above 1,024 bytes or one deque too many; [`Error::Aborted`] when it
    /// has to be made inside a transaction.
    pub fn of(cache: &Cache, name: impl AsRef<[u8]>) -> Result<Deque<T>> {
        let name = name.as_ref();
        let spaces = Spaces {
            notes: cache.space("deque.notes", b"")?.space,
            back: cache.space("deque.back", name)?.space,
            // Last, since it is what `view_names` knows a deque by: none is half made.
            front: cache.space("deque.front", name)?.space,
        };
        Ok(Deque {
            cache: cache.in_space(crate::engine::store::MAIN_SPACE),
            spaces,
            name: TypeName::new(std::any::type_name::<T>()),
            known: Arc::default(),
            types: PhantomData,
        })
    }
}

impl<T, C> Deque<T, C> {
    /// The same deque with another codec: [`Json`](crate::Json), [`Raw`](crate::Raw) or your own.
    #[must_use]
    pub fn with_codec<C2: Codec<T>>(self) -> Deque<T, C2> {
        Deque {
            cache: self.cache,
            spaces: self.spaces,
            name: self.name,
            known: self.known,
            types: PhantomData,
        }
    }

    /// The same deque with a name for its values that stays when the type moves, and changes when the type
    /// does. Default: [`std::any::type_name`] of `T`, with the caveats of [`Typed`](crate::Typed).
    #[must_use]
    pub fn named(self, name: impl Into<Cow<'static, str>>) -> Self {
        Deque {
            name: TypeName::new(name),
            ..self
        }
    }

    /// The store it is in.
    #[must_use]
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// With what this handle knows of the deque.
    fn known<R>(&self, work: impl FnOnce(&mut Known) -> R) -> R {
        match ends::known(&self.known) {
            Some(mut known) => work(&mut known),
            None => work(&mut Known::default()),
        }
    }

    /// One change, in the transaction this thread is in or one of its own.
    fn change<R>(&self, work: impl FnOnce(&mut Session<'_>) -> Result<R>) -> Result<R> {
        self.cache.transact(|transaction| {
            let mut session = Session::begin(transaction, self.spaces)?;
            let done = work(&mut session)?;
            session.finish().map(|()| done)
        })
    }

    /// What the transaction this thread is in sees; `None`: it is in none.
    fn inside<R>(&self, work: impl FnOnce(&mut Session<'_>) -> Result<R>) -> Result<Option<R>> {
        match self.cache.inside()? {
            Some(transaction) => {
                let mut session = Session::begin(&transaction, self.spaces)?;
                let seen = work(&mut session)?;
                session.finish().map(|()| Some(seen))
            }
            None => Ok(None),
        }
    }

    fn is_inside(&self) -> Result<bool> {
        Ok(state::is_inside(self.cache.store()?))
    }

    fn walk(&self) -> Result<Walk> {
        match self.inside(|session| session.values())? {
            Some(values) => Ok(Walk::Gathered(values.into_iter())),
            None => self.known(|known| look::walk(&self.cache, self.spaces, known)),
        }
    }
}

impl<T, C> Clone for Deque<T, C> {
    fn clone(&self) -> Self {
        Deque {
            cache: self.cache.clone(),
            spaces: self.spaces,
            name: self.name.clone(),
            known: Arc::clone(&self.known),
            types: PhantomData,
        }
    }
}

impl<T, C> fmt::Debug for Deque<T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deque")
            .field("path", &self.cache.path())
            .field("spaces", &self.spaces)
            .finish_non_exhaustive()
    }
}
