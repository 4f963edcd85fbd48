//! `BoundedSemaphore`: at most so many holders at a time, among threads and processes.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::view::cache::Cache;
use crate::view::recipes::grants::{GRANTS_MAX, Way};
use crate::view::recipes::guard::{Guard, Holding};
use crate::view::recipes::site::{Got, Site, new_id};

/// At most so many permits out at a time, each with its holder: one that dies gives its own back.
///
/// A permit is given back once, by its guard or its token: there are never more than at the beginning.
/// All who use a name should give the same bound; who gives a lower one waits until fewer are out.
///
/// ```
/// use larder::{BoundedSemaphore, Cache};
///
/// let cache = Cache::temporary()?;
/// let licences = BoundedSemaphore::new(&cache, "licences", 2)?;
/// let (one, two) = (licences.acquire(None)?, licences.acquire(None)?);
/// assert!(licences.try_acquire()?.is_none());
/// let token = one.detach();
/// licences.release(token)?;
/// assert!(licences.release(token).is_err(), "that would be a third one");
/// # drop(two);
/// # Ok::<(), larder::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct BoundedSemaphore {
    site: Site,
    bound: u32,
    expiry: Option<Duration>,
}

impl BoundedSemaphore {
    /// The semaphore of this name (at most 1,024 bytes) with `bound` permits, 1 to 240.
    ///
    /// # Errors
    /// [`Error::InvalidSetting`] for another bound; as [`Lock::new`](crate::Lock::new).
    pub fn new(cache: &Cache, name: impl AsRef<[u8]>, bound: u32) -> Result<BoundedSemaphore> {
        let max = GRANTS_MAX as u32 - 16;
        if bound == 0 || bound > max {
            let what = format!("{bound} permits: it can have 1 to {max}");
            return Err(Error::setting("bound", what));
        }
        Ok(BoundedSemaphore {
            site: Site::new(cache, b's', name.as_ref(), "this semaphore")?,
            bound,
            expiry: None,
        })
    }

    /// As [`Lock::expiry`](crate::Lock::expiry), for each permit.
    #[must_use]
    pub fn expiry(mut self, expiry: impl Into<Option<Duration>>) -> BoundedSemaphore {
        self.expiry = expiry.into();
        self
    }

    /// Waits for a permit, at most `timeout` (`None`: for as long as it takes).
    ///
    /// # Errors
    /// As [`Lock::acquire`](crate::Lock::acquire).
    pub fn acquire(&self, timeout: impl Into<Option<Duration>>) -> Result<Guard> {
        self.site.cache.outside("a semaphore")?;
        let ask = self
            .site
            .ask(new_id(), Way::UpTo(self.bound), self.expiry)?;
        match self.site.wait(&ask, timeout.into(), || Ok(None::<()>))? {
            Got::Lock(token) => Ok(Guard::new(&self.site, ask.id, token)),
            Got::Instead(()) => unreachable!("there is nothing else to have"),
        }
    }

    /// A permit, if one is left.
    ///
    /// # Errors
    /// As [`BoundedSemaphore::acquire`], but for the waiting.
    pub fn try_acquire(&self) -> Result<Option<Guard>> {
        self.site.cache.outside("a semaphore")?;
        let ask = self
            .site
            .ask(new_id(), Way::UpTo(self.bound), self.expiry)?;
        let token = self.site.try_take(&ask)?;
        Ok(token.map(|token| Guard::new(&self.site, ask.id, token)))
    }

    /// Gives back a permit that this handle took and [detached](Guard::detach).
    ///
    /// # Errors
    /// [`Error::NotHeld`] when there is none of that token: it would be one above the bound.
    pub fn release(&self, token: u64) -> Result<()> {
        self.site.give_back(None, token)
    }

    /// All who have a permit.
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn who_holds(&self) -> Result<Vec<Holding>> {
        Ok(self.site.holding()?.iter().map(Holding::of).collect())
    }
}
