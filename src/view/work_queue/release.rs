//! What gives jobs back: leases that ran out, and those of handles that are gone; and what becomes of a
//! job whose lease ended without an ack. Owns no bytes.

use crate::engine::holder::Holder;
use crate::engine::store::{Proof, Store};
use crate::error::{Error, Result};
use crate::view::state;
use crate::view::work_queue::core::Core;
use crate::view::work_queue::memory::{Memory, find_note};
use crate::view::work_queue::note::{Grave, Note, Phase, id_key};
use crate::view::work_queue::settle::LeaseId;

/// Jobs taken back from leases that are over while the lock is held.
const TAKEN_BACK_PER_LOOK: usize = 64;
/// What the last error says of a job that was not acked in time.
const RAN_OUT: &str = "its lease ran out";
const WORKER_GONE: &str = "its worker's process is gone";

impl Core {
    /// Takes jobs back whose lease ran out or whose holder is gone. How many.
    pub(super) fn take_back(
        &self,
        store: &Store,
        proof: &mut Proof,
        memory: &mut Memory,
        now_ms: u64,
    ) -> Result<usize> {
        if memory.next_deadline_ms > now_ms && memory.dead_holders.is_empty() {
            return Ok(0);
        }
        let is_gone = |memory: &Memory, holder: Option<Holder>| {
            holder.is_some_and(|holder| memory.dead_holders.contains(&holder))
        };
        let mut over = Vec::new();
        let mut next_ms = u64::MAX;
        for (&id, leased) in &memory.leases {
            if leased.deadline_ms <= now_ms || is_gone(memory, leased.holder) {
                over.push(id);
            } else {
                next_ms = next_ms.min(leased.deadline_ms);
            }
        }
        // Oldest first, so that they are ready again in the order in which they were pushed.
        over.sort_unstable();
        let is_all = over.len() <= TAKEN_BACK_PER_LOOK;
        let mut taken_back = 0;
        for id in over.into_iter().take(TAKEN_BACK_PER_LOOK) {
            let mut buffer = Vec::new();
            let note = find_note(store, self.spaces.notes, id, &mut buffer)?;
            let Some(note) = note.filter(|note| note.phase == Phase::Leased) else {
                memory.leases.remove(&id);
                continue;
            };
            let why = match note.until_ms <= now_ms {
                true => RAN_OUT,
                false if is_gone(memory, note.holder) => WORKER_GONE,
                false => {
                    // It was extended, or leased by another.
                    memory.heard(id, &note, now_ms);
                    next_ms = next_ms.min(note.until_ms);
                    continue;
                }
            };
            self.take_back_one(store, proof, memory, id, note, why, now_ms)?;
            taken_back += 1;
        }
        if is_all {
            memory.next_deadline_ms = next_ms;
            memory.dead_holders.clear();
        }
        Ok(taken_back)
    }

    /// Gives a leased job back at once, beneath the transaction this thread is in. Whether the lease was
    /// still the job's.
    pub(super) fn give_back_beneath(&self, lease: LeaseId, why: &str) -> Result<bool> {
        let store = self.store()?;
        let Some(state) = state::current(store) else {
            return Ok(false);
        };
        let mut state = state.try_borrow_mut().map_err(|_| Error::Aborted {
            what: "the transaction of this thread is in the middle of a verb".into(),
        })?;
        let max_attempts = self.max_attempts_beneath()?;
        let given = state.beneath(|store, proof| {
            let now_ms = store.now_ms();
            let note = find_note(store, self.spaces.notes, lease.job, &mut Vec::new())?;
            let Some(note) = note.filter(|note| note.is_leased_by(lease.token)) else {
                return Ok(false);
            };
            let changes = match release(note, now_ms, Some(why), max_attempts, now_ms) {
                Released::Waiting(note) => vec![self.set_note(store, lease.job, &note, now_ms)],
                Released::Dead(note, grave) => {
                    let mut changes = vec![self.no_note(store, lease.job)];
                    changes.push(self.set_grave(store, lease.job, &grave, now_ms));
                    changes.extend(self.free_dedup(store, lease.job, &note)?);
                    changes
                }
            };
            let before = std::mem::replace(&mut proof.in_reserve, true);
            let done = self.commit(store, proof, &changes);
            proof.in_reserve = before;
            done.map(|()| true)
        })?;
        drop(state);
        self.ring(store);
        Ok(given)
    }

    #[allow(clippy::too_many_arguments, reason = "one step of a loop")]
    fn take_back_one(
        &self,
        store: &Store,
        proof: &mut Proof,
        memory: &mut Memory,
        id: u64,
        note: Note,
        why: &str,
        now_ms: u64,
    ) -> Result<()> {
        let key = id_key(id);
        let hash = store.hash.of(self.spaces.jobs, &key);
        let mut buffer = Vec::new();
        let changes = if store
            .find(self.spaces.jobs, &key, hash, &mut buffer)?
            .is_none()
        {
            // It was acked by one who was killed in the middle.
            let mut changes = vec![self.no_note(store, id)];
            changes.extend(self.free_dedup(store, id, &note)?);
            changes
        } else {
            match release(note, now_ms, Some(why), self.max_attempts()?, now_ms) {
                Released::Waiting(note) => vec![self.set_note(store, id, &note, now_ms)],
                Released::Dead(note, grave) => {
                    let mut changes = vec![self.no_note(store, id)];
                    changes.push(self.set_grave(store, id, &grave, now_ms));
                    changes.extend(self.free_dedup(store, id, &note)?);
                    changes
                }
            }
        };
        self.commit(store, proof, &changes)?;
        memory.leases.remove(&id);
        // What it is now is read with the other notes.
        memory.read_notes_made(store, proof, now_ms)
    }
}

/// What becomes of a job whose lease ended without an ack.
pub(super) enum Released {
    Waiting(Note),
    Dead(Note, Grave),
}

/// Gives a leased job back, to be ready from `due_ms` on; or up.
pub(super) fn release(
    note: Note,
    due_ms: u64,
    why: Option<&str>,
    max_attempts: u32,
    now_ms: u64,
) -> Released {
    let error = match why {
        Some(why) => why.to_owned(),
        None => note.error.clone(),
    };
    if max_attempts > 0 && note.attempts >= max_attempts {
        let grave = Grave {
            attempts: note.attempts,
            priority: note.priority,
            order: note.order,
            died_ms: now_ms,
            error,
        };
        return Released::Dead(note, grave);
    }
    Released::Waiting(Note {
        phase: Phase::Waiting,
        until_ms: due_ms,
        token: 0,
        holder: None,
        error,
        ..note
    })
}
