//! What a holder has in hand: a guard that gives back when dropped, and what others see of it.

use std::time::{Duration, SystemTime};

use crate::error::{Error, Result};
use crate::os::raw;
use crate::view::prepare;
use crate::view::recipes::grants::{Grant, Kind};
use crate::view::recipes::site::Site;

/// Something held: a [`Lock`](crate::Lock), a side of an [`RwLock`](crate::RwLock), a permit of a
/// [`BoundedSemaphore`](crate::BoundedSemaphore). Given back when dropped, or when its process ends.
///
/// It belongs to the process that took it: the child of a fork holds nothing, and dropping its copy
/// gives nothing back. What fails while dropping is not told, and then stays held until it expires or
/// the handle is closed; [`Guard::release`] tells.
#[derive(Debug)]
#[must_use = "it is given back when it is dropped"]
pub struct Guard {
    site: Site,
    id: u64,
    token: u64,
    forks: u64,
    is_over: bool,
}

impl Guard {
    pub(super) fn new(site: &Site, id: u64, token: u64) -> Guard {
        Guard {
            site: site.clone(),
            id,
            token,
            forks: raw::forks(),
            is_over: false,
        }
    }

    /// The fencing token: higher than that of everybody who had it before.
    ///
    /// Hand it to what the lock protects, and let that refuse a lower one than it has seen: so an old
    /// holder that slept past its expiry does no harm. Tokens rise for as long as the host is up; after
    /// a power loss they go on from what was durable.
    #[must_use]
    pub fn token(&self) -> u64 {
        self.token
    }

    /// Whether it is still held: not past its expiry, and not in the child of a fork.
    ///
    /// # Errors
    /// See [`Cache`](crate::Cache).
    pub fn is_still_held(&self) -> Result<bool> {
        Ok(!self.is_forked() && self.site.is_held(self.id, self.token)?)
    }

    /// Holds it for so long from now; `None`: for as long as the process lives.
    ///
    /// # Errors
    /// [`Error::NotHeld`] when it has expired; nothing was changed.
    pub fn extend(&self, expiry: impl Into<Option<Duration>>) -> Result<()> {
        if self.is_forked() {
            return Err(Error::Forked);
        }
        self.site.extend(self.id, self.token, expiry.into())
    }

    /// Gives it back, and says whether that went well.
    ///
    /// # Errors
    /// [`Error::NotHeld`] when it had expired: somebody else may have worked meanwhile; nothing of
    /// theirs was changed. [`Error::Forked`] in the child of a fork.
    pub fn release(mut self) -> Result<()> {
        self.is_over = true;
        if self.is_forked() {
            return Err(Error::Forked);
        }
        self.site.give_back(Some(self.id), self.token)
    }

    /// Keeps it beyond this guard, to be given back by `release(token)` of what it was taken from, or
    /// by the end of the handle. The token.
    #[must_use = "without the token it cannot be given back"]
    pub fn detach(mut self) -> u64 {
        self.is_over = true;
        self.token
    }

    fn is_forked(&self) -> bool {
        self.forks != raw::forks()
    }

    pub(super) fn site(&self) -> &Site {
        &self.site
    }

    /// As [`Site::is_held`], for one who gives it back in another way.
    pub(super) fn forget(mut self) {
        self.is_over = true;
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.is_over && !self.is_forked() {
            let _ = self.site.give_back(Some(self.id), self.token);
        }
    }
}

/// Who holds something.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holding {
    /// The process, as it calls itself.
    pub pid: u32,
    /// Since when, by the store's clock.
    pub since: SystemTime,
    /// Until when at most; `None`: for as long as its handle is open.
    pub expires_at: Option<SystemTime>,
    /// Its fencing token.
    pub token: u64,
    /// Whether nobody else may have it meanwhile.
    pub is_exclusive: bool,
}

impl Holding {
    pub(super) fn of(grant: &Grant) -> Holding {
        Holding {
            pid: grant.holder.pid,
            since: prepare::time(grant.since_ms),
            expires_at: (grant.expires_ms != u64::MAX).then(|| prepare::time(grant.expires_ms)),
            token: grant.token,
            is_exclusive: grant.kind == Kind::Alone,
        }
    }
}
