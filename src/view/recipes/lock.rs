//! `Lock`: one holder at a time, among threads and processes.

use std::time::Duration;

use crate::error::Result;
use crate::view::cache::Cache;
use crate::view::recipes::grants::Way;
use crate::view::recipes::guard::{Guard, Holding};
use crate::view::recipes::site::{Got, Site, new_id};

/// A lock by name, among all threads and processes that open the store.
///
/// It is held until its [`Guard`] is dropped, its expiry has passed, or its process has ended in
/// whatever way, which those who wait find out within 100 ms. Not re-entrant: who has it and asks again
/// waits for itself ([`RLock`](crate::RLock) is). Names of locks have nothing to do with keys of entries.
///
/// Who waits longer than some milliseconds gets a place, and places come in turn, before anybody who
/// has none; there are 8. So a holder that takes it again and again keeps nobody out.
///
/// ```
/// use std::time::Duration;
/// use larder::{Cache, Lock};
///
/// let cache = Cache::temporary()?;
/// let lock = Lock::new(&cache, "report")?;
/// let guard = lock.acquire(Duration::from_secs(5))?;
/// assert_eq!(lock.who_holds()?.expect("we do").pid, std::process::id());
/// assert!(lock.try_acquire()?.is_none());
/// guard.release()?;
/// assert!(lock.who_holds()?.is_none());
/// # Ok::<(), larder::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Lock {
    site: Site,
    expiry: Option<Duration>,
}

impl Lock {
    /// The lock of this name, at most 1,024 bytes.
    ///
    /// # Errors
    /// [`Error::TooLarge`](crate::Error::TooLarge) for a long name;
    /// [`Error::Aborted`](crate::Error::Aborted) for a store's first lock inside a transaction.
    pub fn new(cache: &Cache, name: impl AsRef<[u8]>) -> Result<Lock> {
        Lock::of(cache, b'l', name.as_ref(), "this lock")
    }

    /// One with names of its own, by letter.
    pub(super) fn of(cache: &Cache, letter: u8, name: &[u8], what: &'static str) -> Result<Lock> {
        Ok(Lock {
            site: Site::new(cache, letter, name, what)?,
            expiry: None,
        })
    }

    /// Whoever takes it has it for at most so long, by the store's clock. Default: for as long as the
    /// process lives, since its death is noticed anyway.
    #[must_use]
    pub fn expiry(mut self, expiry: impl Into<Option<Duration>>) -> Lock {
        self.expiry = expiry.into();
        self
    }

    /// Waits for it, at most `timeout` (`None`: for as long as it takes).
    ///
    /// # Errors
    /// [`Error::Busy`](crate::Error::Busy), which names the holder, after the timeout;
    /// [`Error::Aborted`](crate::Error::Aborted) inside `transact`, where others could not give it back.
    pub fn acquire(&self, timeout: impl Into<Option<Duration>>) -> Result<Guard> {
        self.site.cache.outside("a lock")?;
        let ask = self.site.ask(new_id(), Way::Alone, self.expiry)?;
        match self.site.wait(&ask, timeout.into(), || Ok(None::<()>))? {
            Got::Lock(token) => Ok(Guard::new(&self.site, ask.id, token)),
            Got::Instead(()) => unreachable!("there is nothing else to have"),
        }
    }

    /// Takes it if nobody has it.
    ///
    /// # Errors
    /// As [`Lock::acquire`], but for the waiting.
    pub fn try_acquire(&self) -> Result<Option<Guard>> {
        self.site.cache.outside("a lock")?;
        let ask = self.site.ask(new_id(), Way::Alone, self.expiry)?;
        let token = self.site.try_take(&ask)?;
        Ok(token.map(|token| Guard::new(&self.site, ask.id, token)))
    }

    /// Gives back what this handle took and [detached](Guard::detach).
    ///
    /// # Errors
    /// [`Error::NotHeld`](crate::Error::NotHeld) when this handle does not have it by that token;
    /// nothing was changed.
    pub fn release(&self, token: u64) -> Result<()> {
        self.site.give_back(None, token)
    }

    /// Who has it; `None`: it is free.
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn who_holds(&self) -> Result<Option<Holding>> {
        Ok(self.site.holding()?.first().map(Holding::of))
    }
}
