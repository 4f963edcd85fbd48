//! `RLock`: a lock that the thread which has it may take again.

use std::marker::PhantomData;
use std::time::Duration;

use crate::error::Result;
use crate::view::cache::Cache;
use crate::view::recipes::grants::{Ask, Way};
use crate::view::recipes::guard::{Guard, Holding};
use crate::view::recipes::site::{Got, Site, thread_id};

/// A re-entrant [`Lock`](crate::Lock): the thread that has it may take it again, and it is free when
/// every guard is gone. Threads of one process keep each other out as processes do.
///
/// It is known by its thread and handle (an opened [`Cache`] and its clones). Taking it again begins its
/// expiry anew.
///
/// ```
/// use larder::{Cache, RLock};
///
/// let cache = Cache::temporary()?;
/// let lock = RLock::new(&cache, "tree")?;
/// let outer = lock.acquire(None)?;
/// let inner = lock.acquire(None)?; // the same thread
/// assert_eq!(outer.token(), inner.token());
/// drop(inner);
/// assert!(lock.who_holds()?.is_some());
/// outer.release()?;
/// assert!(lock.who_holds()?.is_none());
/// # Ok::<(), larder::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct RLock {
    site: Site,
    expiry: Option<Duration>,
}

/// One taking of an [`RLock`], given back when dropped. It stays with its thread.
#[derive(Debug)]
#[must_use = "it is given back when it is dropped"]
pub struct RGuard {
    guard: Guard,
    /// The store knows its holder by the thread: it is not for others.
    stays: PhantomData<*const ()>,
}

impl RLock {
    /// The re-entrant lock of this name, at most 1,024 bytes; a [`Lock`](crate::Lock) of the same name
    /// is another.
    ///
    /// # Errors
    /// As [`Lock::new`](crate::Lock::new).
    pub fn new(cache: &Cache, name: impl AsRef<[u8]>) -> Result<RLock> {
        Ok(RLock {
            site: Site::new(cache, b'r', name.as_ref(), "this re-entrant lock")?,
            expiry: None,
        })
    }

    /// As [`Lock::expiry`](crate::Lock::expiry).
    #[must_use]
    pub fn expiry(mut self, expiry: impl Into<Option<Duration>>) -> RLock {
        self.expiry = expiry.into();
        self
    }

    /// Waits for it, at most `timeout` (`None`: for as long as it takes); not at all in the thread that
    /// has it.
    ///
    /// # Errors
    /// As [`Lock::acquire`](crate::Lock::acquire).
    pub fn acquire(&self, timeout: impl Into<Option<Duration>>) -> Result<RGuard> {
        self.site.cache.outside("a lock")?;
        let ask = self.ask()?;
        match self.site.wait(&ask, timeout.into(), || Ok(None::<()>))? {
            Got::Lock(token) => Ok(self.guard(&ask, token)),
            Got::Instead(()) => unreachable!("there is nothing else to have"),
        }
    }

    /// Takes it if no other thread has it.
    ///
    /// # Errors
    /// As [`RLock::acquire`], but for the waiting.
    pub fn try_acquire(&self) -> Result<Option<RGuard>> {
        self.site.cache.outside("a lock")?;
        let ask = self.ask()?;
        let token = self.site.try_take(&ask)?;
        Ok(token.map(|token| self.guard(&ask, token)))
    }

    /// Who has it; `None`: it is free.
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn who_holds(&self) -> Result<Option<Holding>> {
        Ok(self.site.holding()?.first().map(Holding::of))
    }

    fn ask(&self) -> Result<Ask> {
        let ask = self.site.ask(thread_id(), Way::Alone, self.expiry)?;
        Ok(Ask { again: true, ..ask })
    }

    fn guard(&self, ask: &Ask, token: u64) -> RGuard {
        RGuard {
            guard: Guard::new(&self.site, ask.id, token),
            stays: PhantomData,
        }
    }
}

impl RGuard {
    /// As [`Guard::token`]; the same for all guards of one thread.
    #[must_use]
    pub fn token(&self) -> u64 {
        self.guard.token()
    }

    /// As [`Guard::is_still_held`].
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn is_still_held(&self) -> Result<bool> {
        self.guard.is_still_held()
    }

    /// As [`Guard::extend`].
    ///
    /// # Errors
    /// As [`Guard::extend`].
    pub fn extend(&self, expiry: impl Into<Option<Duration>>) -> Result<()> {
        self.guard.extend(expiry)
    }

    /// Gives back this taking of it.
    ///
    /// # Errors
    /// As [`Guard::release`].
    pub fn release(self) -> Result<()> {
        self.guard.release()
    }
}
