//! `RwLock`: many readers or one writer, among threads and processes.

use std::time::Duration;

use crate::error::Result;
use crate::view::cache::Cache;
use crate::view::recipes::grants::Way;
use crate::view::recipes::guard::{Guard, Holding};
use crate::view::recipes::site::{Got, Site, new_id};

/// Many readers, or one writer alone. Up to 256 readers at a time; more wait.
///
/// Who waits longer than some milliseconds gets a place, and nobody who comes later passes it: readers
/// that come and go without end do not starve a writer, nor writers a reader. So a thread that reads
/// and asks to read again may wait for a writer who waits for it: take it once.
///
/// ```
/// use larder::{Cache, RwLock};
///
/// let cache = Cache::temporary()?;
/// let lock = RwLock::new(&cache, "catalogue")?;
/// let (one, two) = (lock.read(None)?, lock.read(None)?);
/// assert!(lock.try_write()?.is_none());
/// drop((one, two));
/// let writer = lock.write(None)?;
/// assert!(lock.try_read()?.is_none());
/// writer.release()?;
/// # Ok::<(), larder::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct RwLock {
    site: Site,
    expiry: Option<Duration>,
}

impl RwLock {
    /// The lock of this name, at most 1,024 bytes; a [`Lock`](crate::Lock) of the same name is another.
    ///
    /// # Errors
    /// As [`Lock::new`](crate::Lock::new).
    pub fn new(cache: &Cache, name: impl AsRef<[u8]>) -> Result<RwLock> {
        Ok(RwLock {
            site: Site::new(cache, b'w', name.as_ref(), "this read-write lock")?,
            expiry: None,
        })
    }

    /// As [`Lock::expiry`](crate::Lock::expiry), for readers and writers.
    #[must_use]
    pub fn expiry(mut self, expiry: impl Into<Option<Duration>>) -> RwLock {
        self.expiry = expiry.into();
        self
    }

    /// Waits to read beside other readers, at most `timeout` (`None`: for as long as it takes).
    ///
    /// # Errors
    /// As [`Lock::acquire`](crate::Lock::acquire).
    pub fn read(&self, timeout: impl Into<Option<Duration>>) -> Result<Guard> {
        self.acquire(Way::Shared, timeout.into())
    }

    /// Waits to be alone, at most `timeout` (`None`: for as long as it takes).
    ///
    /// # Errors
    /// As [`Lock::acquire`](crate::Lock::acquire).
    pub fn write(&self, timeout: impl Into<Option<Duration>>) -> Result<Guard> {
        self.acquire(Way::Alone, timeout.into())
    }

    /// Reads if nobody writes, or has waited to.
    ///
    /// # Errors
    /// As [`RwLock::read`], but for the waiting.
    pub fn try_read(&self) -> Result<Option<Guard>> {
        self.try_acquire(Way::Shared)
    }

    /// Writes if nobody has it in any way.
    ///
    /// # Errors
    /// As [`RwLock::write`], but for the waiting.
    pub fn try_write(&self) -> Result<Option<Guard>> {
        self.try_acquire(Way::Alone)
    }

    /// Gives back what this handle took and [detached](Guard::detach).
    ///
    /// # Errors
    /// As [`Lock::release`](crate::Lock::release).
    pub fn release(&self, token: u64) -> Result<()> {
        self.site.give_back(None, token)
    }

    /// All who have it.
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn who_holds(&self) -> Result<Vec<Holding>> {
        Ok(self.site.holding()?.iter().map(Holding::of).collect())
    }

    fn acquire(&self, way: Way, timeout: Option<Duration>) -> Result<Guard> {
        self.site.cache.outside("a lock")?;
        let ask = self.site.ask(new_id(), way, self.expiry)?;
        match self.site.wait(&ask, timeout, || Ok(None::<()>))? {
            Got::Lock(token) => Ok(Guard::new(&self.site, ask.id, token)),
            Got::Instead(()) => unreachable!("there is nothing else to have"),
        }
    }

    fn try_acquire(&self, way: Way) -> Result<Option<Guard>> {
        self.site.cache.outside("a lock")?;
        let ask = self.site.ask(new_id(), way, self.expiry)?;
        let token = self.site.try_take(&ask)?;
        Ok(token.map(|token| Guard::new(&self.site, ask.id, token)))
    }
}
