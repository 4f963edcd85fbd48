//! A leased job: the payload, and the duty to say what became of it.
//!
//! Owns what happens to a job whose guard goes without a word.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use crate::error::Result;
use crate::os::raw;
use crate::view::state;
use crate::view::work_queue::core::Core;
use crate::view::work_queue::settle::LeaseId;

/// Nothing was said yet.
const OPEN: u8 = 0;
/// It was said in a transaction, which may come to nothing.
const SAID_INSIDE: u8 = 1;
const SETTLED: u8 = 2;

/// A job that was leased: the payload, by `Deref`, and the lease.
///
/// It is this worker's until the lease's end, or for as long as [`Job::extend`] puts that off. Dropped
/// without [`Job::ack`], [`Job::nack`] or [`Job::fail`], also by a panic, it is delivered again at once,
/// and this delivery counts. A child of a fork that drops its copy changes nothing.
#[must_use = "a job that is dropped is given back to the queue"]
pub struct Job<T> {
    core: Arc<Core>,
    lease: LeaseId,
    attempts: u32,
    priority: i32,
    error: String,
    payload: T,
    said: AtomicU8,
    forks: u64,
}

/// What a job is made of.
pub(super) struct Parts<T> {
    pub(super) core: Arc<Core>,
    pub(super) lease: LeaseId,
    pub(super) attempts: u32,
    pub(super) priority: i32,
    pub(super) error: String,
    pub(super) payload: T,
}

impl<T> Job<T> {
    pub(super) fn new(parts: Parts<T>) -> Job<T> {
        Job {
            core: parts.core,
            lease: parts.lease,
            attempts: parts.attempts,
            priority: parts.priority,
            error: parts.error,
            payload: parts.payload,
            said: AtomicU8::new(OPEN),
            forks: raw::forks(),
        }
    }

    /// The job's number, the same at each delivery.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.lease.job
    }

    /// What names this lease: another process can ack by it.
    #[must_use]
    pub fn lease_id(&self) -> LeaseId {
        self.lease
    }

    /// The payload.
    #[must_use]
    pub fn payload(&self) -> &T {
        &self.payload
    }

    /// How often the job was delivered, this time included.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// The priority it was pushed with.
    #[must_use]
    pub fn priority(&self) -> i32 {
        self.priority
    }

    /// Why the delivery before this one came to nothing; `None`: there was none.
    #[must_use]
    pub fn last_error(&self) -> Option<&str> {
        Some(self.error.as_str()).filter(|error| !error.is_empty())
    }

    /// The job is done: it is removed for good. `false`: the lease had ended and the job was given back
    /// or to another, who will do it again; nothing was changed.
    ///
    /// Inside [`Cache::transact`](crate::Cache::transact) on the same store it is part of the
    /// transaction; if that comes to nothing, the job is given back when this guard goes: keep it outside of
    /// the closure, or nobody has the job until its lease runs out.
    ///
    /// # Errors
    /// See [`Queue`](crate::Queue); the job is still leased.
    pub fn ack(&self) -> Result<bool> {
        let count = self.core.ack(&[self.lease])?;
        self.say()?;
        Ok(count > 0)
    }

    /// The job could not be done: it is delivered again after `delay`, or given up for dead if this was
    /// the last delivery allowed. `false`: the lease had ended already; nothing was changed.
    ///
    /// # Errors
    /// As [`Job::ack`].
    pub fn nack(&self, delay: Duration) -> Result<bool> {
        let done = self.core.nack(self.lease, delay, None)?;
        self.say()?;
        Ok(done)
    }

    /// As [`Job::nack`], with the reason: the next delivery's [`Job::last_error`], or what its dead letter
    /// says. Of a reason 1,024 bytes are kept.
    ///
    /// # Errors
    /// As [`Job::ack`].
    pub fn fail(&self, error: impl fmt::Display, delay: Duration) -> Result<bool> {
        let why = error.to_string();
        let done = self.core.nack(self.lease, delay, Some(&why))?;
        self.say()?;
        Ok(done)
    }

    /// The lease ends so long from now, by the store's clock, instead of when it would have: sooner or
    /// later. `false`: it had ended and the job was given back or to another; nothing was changed. A lease
    /// that has run out unnoticed is this worker's again.
    ///
    /// # Errors
    /// As [`Job::ack`].
    pub fn extend(&self, visibility: Duration) -> Result<bool> {
        self.core.change_lease(self.lease, Some(visibility), false)
    }

    /// The lease outlives this guard and this process, until its time is over: whoever has the name that
    /// is returned acks it by [`Queue::ack`](crate::Queue::ack). `None`: the lease had ended already.
    ///
    /// # Errors
    /// As [`Job::ack`]; the job is given back then.
    pub fn detach(self) -> Result<Option<LeaseId>> {
        let done = self.core.change_lease(self.lease, None, true)?;
        self.said.store(SETTLED, Ordering::Relaxed);
        Ok(done.then_some(self.lease))
    }

    /// Somebody else has settled this job.
    pub(super) fn say(&self) -> Result<()> {
        let said = match state::is_inside(self.core.jobs.store()?) {
            true => SAID_INSIDE,
            false => SETTLED,
        };
        self.said.store(said, Ordering::Relaxed);
        Ok(())
    }

    /// What a guard does that goes without a word, or with one that came to nothing.
    fn let_go(&self) -> Result<()> {
        let said = self.said.load(Ordering::Relaxed);
        if said == SETTLED || self.forks != raw::forks() {
            return Ok(());
        }
        let is_inside = state::is_inside(self.core.jobs.store()?);
        let panics = std::thread::panicking();
        if is_inside && said == SAID_INSIDE {
            return Ok(());
        }
        let why = match (said, panics) {
            (SAID_INSIDE, _) => "the transaction in which it was acked came to nothing",
            (_, true) => "its worker panicked",
            (_, false) => "it was dropped without an ack",
        };
        match is_inside {
            // The transaction may come to nothing, and nobody would have the job then.
            true => self.core.give_back_beneath(self.lease, why),
            false => self.core.nack(self.lease, Duration::ZERO, Some(why)),
        }?;
        Ok(())
    }
}

impl<T> Deref for Job<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.payload
    }
}

impl<T> Drop for Job<T> {
    fn drop(&mut self) {
        // What cannot be given back now is when its lease has run out, or this process has ended.
        let _ = self.let_go();
    }
}

impl<T: fmt::Debug> fmt::Debug for Job<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("lease", &self.lease.to_string())
            .field("attempts", &self.attempts)
            .field("payload", &self.payload)
            .finish_non_exhaustive()
    }
}
