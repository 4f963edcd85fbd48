//! What ends a lease: ack, nack; and what prolongs it. The lease's token decides whether it may.
//!
//! Owns no bytes. An ack removes the payload before the note: killed in between, the note is of no job,
//! and goes with its lease.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::engine::ledger::Replaced;
use crate::engine::store::{Proof, Store};
use crate::error::{Error, Result};
use crate::format::record::{Draft, Kind};
use crate::view::state;
use crate::view::work_queue::core::{Core, Inside};
use crate::view::work_queue::note::{Note, id_key};
use crate::view::work_queue::release::{Released, release};

/// One lease of one job: what `larder queue lease` prints, and what acks it from anywhere.
///
/// Written as `JOB-TOKEN`, the job's number and 16 hexadecimal digits:
///
/// ```
/// let lease: larder::LeaseId = "17-00c0ffee00c0ffee".parse()?;
/// assert_eq!((lease.job(), lease.to_string()), (17, "17-00c0ffee00c0ffee".to_owned()));
/// # Ok::<(), larder::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaseId {
    pub(super) job: u64,
    pub(super) token: u64,
}

impl LeaseId {
    /// The job's number.
    #[must_use]
    pub fn job(self) -> u64 {
        self.job
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:016x}", self.job, self.token)
    }
}

impl FromStr for LeaseId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let read = || -> Option<LeaseId> {
            let (job, token) = text.split_once('-')?;
            let is_token = token.len() == 16 && token.bytes().all(|byte| byte.is_ascii_hexdigit());
            let is_job = !job.is_empty() && job.bytes().all(|byte| byte.is_ascii_digit());
            (is_token && is_job).then_some(LeaseId {
                job: job.parse().ok()?,
                token: u64::from_str_radix(token, 16).ok()?,
            })
        };
        read().ok_or_else(|| Error::InvalidKey {
            what: format!(
                "{text:?} is no lease: a lease is a number, a dash and 16 hexadecimal digits"
            ),
        })
    }
}

impl Core {
    /// Removes leased jobs for good, each for itself, or all within the transaction this thread is in. Of
    /// how many the lease was still the job's.
    pub(super) fn ack(&self, leases: &[LeaseId]) -> Result<u64> {
        let store = self.store()?;
        if state::is_inside(store) {
            return self.ack_inside(leases);
        }
        let mut done = Vec::new();
        let mut at = 0;
        // Again from where it was, where there was no room at first.
        self.locked(store, |store, proof| {
            while let Some(&lease) = leases.get(at) {
                if self.ack_one(store, proof, lease)? {
                    done.push(lease.job);
                }
                at += 1;
            }
            Ok(())
        })?;
        if !done.is_empty() {
            let mut memory = self.memory()?;
            for job in &done {
                memory.leases.remove(job);
            }
            drop(memory);
            self.jobs.finish(store)?;
        }
        Ok(done.len() as u64)
    }

    fn ack_one(&self, store: &Store, proof: &mut Proof, lease: LeaseId) -> Result<bool> {
        let key = id_key(lease.job);
        let hash = store.hash.of(self.spaces.notes, &key);
        let mut buffer = Vec::new();
        let Some(hit) = store.find(self.spaces.notes, &key, hash, &mut buffer)? else {
            return Ok(false);
        };
        let note = Note::decode(hit.value(&buffer), hit.head.order);
        let Some(note) = note.filter(|note| note.is_leased_by(lease.token)) else {
            return Ok(false);
        };
        let (old, address) = (Some(Replaced::of(&hit)), hit.address());
        self.remove_payload(store, proof, &key, &mut buffer)?;
        if note.dedup.is_some() {
            let mut changes = vec![self.no_note(store, lease.job)];
            changes.extend(self.free_dedup(store, lease.job, &note)?);
            self.commit(store, proof, &changes)?;
            return Ok(true);
        }
        let draft = Draft {
            kind: Kind::Delete,
            space: self.spaces.notes,
            key: &key,
            ..store.blank_draft()
        };
        store.remove(proof, hash, &draft, old, address)?;
        Ok(true)
    }

    fn remove_payload(
        &self,
        store: &Store,
        proof: &mut Proof,
        key: &[u8],
        buffer: &mut Vec<u8>,
    ) -> Result<()> {
        let hash = store.hash.of(self.spaces.jobs, key);
        match store.find(self.spaces.jobs, key, hash, buffer) {
            Ok(Some(hit)) => {
                let draft = Draft {
                    kind: Kind::Delete,
                    space: self.spaces.jobs,
                    key,
                    ..store.blank_draft()
                };
                let (old, address) = (Some(Replaced::of(&hit)), hit.address());
                store.remove(proof, hash, &draft, old, address)
            }
            // A damaged one goes like any other.
            Err(Error::Corrupt { .. }) => store.delete(proof, self.spaces.jobs, key).map(|_| ()),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn ack_inside(&self, leases: &[LeaseId]) -> Result<u64> {
        self.jobs.transact(|tx| {
            let inside = self.inside(tx);
            let mut count = 0;
            for lease in leases {
                let Some(note) = inside.leased(*lease)? else {
                    continue;
                };
                inside.jobs.delete(id_key(lease.job))?;
                inside.free_dedup(lease.job, &note)?;
                inside.notes.delete(id_key(lease.job))?;
                count += 1;
            }
            Ok(count)
        })
    }

    /// Gives a leased job back, to be delivered again after `delay`. Whether the lease was still the job's.
    pub(super) fn nack(&self, lease: LeaseId, delay: Duration, why: Option<&str>) -> Result<bool> {
        let joins = state::is_inside(self.store()?);
        self.jobs.transact(|tx| {
            let inside = self.inside(tx);
            let Some(note) = inside.leased(lease)? else {
                return Ok(false);
            };
            let now_ms = tx.state.borrow().now_ms;
            tx.state.borrow_mut().is_in_reserve |= !joins;
            let delay_ms = delay.as_millis().min(u128::from(u64::MAX)) as u64;
            let due_ms = now_ms.saturating_add(delay_ms);
            match release(note, due_ms, why, self.max_attempts()?, now_ms) {
                Released::Waiting(note) => inside.put_note(lease.job, &note)?,
                Released::Dead(note, grave) => {
                    inside.free_dedup(lease.job, &note)?;
                    inside.notes.delete(id_key(lease.job))?;
                    inside.dead.set_with(
                        id_key(lease.job),
                        grave.encode(),
                        &Core::plain_options(),
                    )?;
                }
            }
            inside.tx.ring(self.bell);
            Ok(true)
        })
    }

    /// Changes a lease: its end, counted from now, and whether it ends with this process.
    pub(super) fn change_lease(
        &self,
        lease: LeaseId,
        visibility: Option<Duration>,
        detach: bool,
    ) -> Result<bool> {
        let joins = state::is_inside(self.store()?);
        self.jobs.transact(|tx| {
            let inside = self.inside(tx);
            let Some(mut note) = inside.leased(lease)? else {
                return Ok(false);
            };
            if let Some(visibility) = visibility {
                // Not when a transaction began that may have gone on for long.
                let now_ms = tx.state.borrow().store.now_ms();
                let visibility_ms = visibility.as_millis().min(u128::from(u64::MAX)) as u64;
                note.until_ms = now_ms.saturating_add(visibility_ms);
            }
            if detach {
                note.holder = None;
            }
            tx.state.borrow_mut().is_in_reserve |= !joins;
            inside.put_note(lease.job, &note)?;
            Ok(true)
        })
    }
}

impl Inside<'_> {
    /// The note of a job, if this is its lease.
    fn leased(&self, lease: LeaseId) -> Result<Option<Note>> {
        let note = self.note(lease.job)?;
        Ok(note.filter(|note| note.is_leased_by(lease.token)))
    }
}
