//! `barrier` and `once`: work that runs one at a time, or one time ever.

use crate::error::{Error, Result};
use crate::view::cache::Cache;
use crate::view::recipes::cell::Next;
use crate::view::recipes::flight::Flights;
use crate::view::recipes::lock::Lock;
use crate::view::recipes::site::{Site, thread_id};

impl Cache {
    /// Runs `f` while nobody else runs one under this name, in whatever thread or process; waits for
    /// its turn. Not re-entrant.
    ///
    /// ```
    /// let cache = larder::Cache::temporary()?;
    /// let lines = cache.barrier("append", || Ok::<_, larder::Error>(7))?;
    /// assert_eq!(lines, 7);
    /// # Ok::<(), larder::Error>(())
    /// ```
    ///
    /// # Errors
    /// What `f` returns; as [`Lock::acquire`].
    pub fn barrier<T, E: From<Error>>(
        &self,
        name: impl AsRef<[u8]>,
        f: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let _alone = Lock::of(self, b'b', name.as_ref(), "this barrier")?.acquire(None)?;
        f()
    }

    /// Runs `f` if it has never been run to its good end under this name, by whatever process; others
    /// who come meanwhile wait for that. Whether it ran in this call.
    ///
    /// That it ran is part of the store, and as durable as a [`Cache::set`]. A process that dies between
    /// `f`'s end and the note of it leaves it to be run again, as does one that dies within `f`.
    ///
    /// ```
    /// let cache = larder::Cache::temporary()?;
    /// assert!(cache.once("schema", || Ok::<_, larder::Error>(()))?);
    /// assert!(!cache.once("schema", || -> larder::Result<()> { unreachable!() })?);
    /// # Ok::<(), larder::Error>(())
    /// ```
    ///
    /// # Errors
    /// What `f` returns: then it has not run, for anybody. As [`Lock::acquire`];
    /// [`Error::Aborted`] when `f` asks for itself.
    pub fn once<E: From<Error>>(
        &self,
        name: impl AsRef<[u8]>,
        f: impl FnOnce() -> Result<(), E>,
    ) -> Result<bool, E> {
        let done = done_site(self, name.as_ref())?;
        if is_done(&done)? {
            return Ok(false);
        }
        self.outside("work that runs once")?;
        let flights = Flights::named(self, b'p', name.as_ref(), "work that runs once")?;
        let flight = match flights.wait(thread_id(), None, || Ok(is_done(&done)?.then_some(())))? {
            Ok(()) => return Ok(false),
            Err(flight) => flight,
        };
        if is_done(&done)? {
            return Ok(false);
        }
        f()?;
        done.cache
            .change(&done.key, |_, _| Ok((Next::Put(Vec::new()), ())))?;
        done.cache.store()?.acknowledge()?;
        drop(flight);
        Ok(true)
    }

    /// Forgets that [`Cache::once`] ran under this name: the next one runs again. Whether it had.
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn forget_once(&self, name: impl AsRef<[u8]>) -> Result<bool> {
        let done = done_site(self, name.as_ref())?;
        done.cache.delete(&done.key)
    }
}

fn done_site(cache: &Cache, name: &[u8]) -> Result<Site> {
    Site::new(cache, b'o', name, "work that runs once")
}

fn is_done(done: &Site) -> Result<bool> {
    Ok(done.cache.peek_at(&done.key)?.is_some())
}
