//! Leasing: who is next is told by the memory, looked up under the lock, and noted.
//!
//! Owns no bytes. Whose lease is over is taken back first (`release.rs`).

use std::cell::Cell;
use std::cmp::Reverse;
use std::time::{Duration, Instant};

use crate::engine::store::{Proof, Store};
use crate::error::{Error, Result};
use crate::format::record::{Draft, Head, Kind};
use crate::view::prepare;
use crate::view::value::Value;
use crate::view::work_queue::core::{Core, NOTES_PER_LOOK};
use crate::view::work_queue::memory::{Front, Memory, Plain, find_note};
use crate::view::work_queue::note::{Note, Phase, Turn, id_key};

/// Cells of dead jobs passed over while the lock is held.
const VISITS_PER_LOOK: u64 = 64;
/// The same off the lock, between two looks of others at the memory.
const VISITS_PER_STEP: u64 = 1_024;
/// Jobs leased while the lock is held.
const LEASED_PER_LOOK: usize = 256;
/// While a queue has fewer leases than this, a store that is full has room for one more: so it can be
/// emptied.
const LEASES_IN_RESERVE: usize = 64;

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish {
    pub(super) visibility_ms: u64,
    pub(super) most: usize,
}

/// A leased job with its payload as it is stored.
#[derive(Debug)]
pub(super) struct Lent {
    pub(super) id: u64,
    pub(super) token: u64,
    pub(super) attempts: u32,
    pub(super) priority: i32,
    pub(super) error: String,
    head: Head,
    buffer: Vec<u8>,
}

impl Lent {
    /// The payload; `None`: the job is gone, since somebody cleared the queue.
    pub(super) fn take_value(&mut self, store: &Store) -> Result<Option<Value>> {
        prepare::value_of(store, &self.head, std::mem::take(&mut self.buffer))
    }
}

/// What one look under the lock came to.
enum Step {
    Lent(Vec<Lent>),
    Nothing,
    /// There is more to be read first.
    Behind,
}

impl Core {
    /// Leases up to `most` jobs; none: nothing is ready.
    pub(super) fn lend(&self, wish: Wish) -> Result<Vec<Lent>> {
        let store = self.store()?;
        self.outside(store, "lease")?;
        loop {
            let now_ms = store.now_ms();
            if !self.memory()?.may_have_work(store, now_ms)? {
                return Ok(Vec::new());
            }
            let taken_back = Cell::new(0);
            let step = self.locked(store, |store, proof| {
                // A lease begins when it is had, however long the lock was waited for.
                let now_ms = store.now_ms();
                let mut memory = self.memory()?;
                let (step, back) = self.look(store, proof, &mut memory, wish, now_ms)?;
                taken_back.set(taken_back.get() + back);
                Ok(step)
            });
            if taken_back.get() > 0 {
                self.ring(store);
            }
            match step? {
                Step::Lent(lent) => {
                    // Never made durable for its own sake: after a power loss nobody has a lease, and a
                    // sync that fails must not leave one that nobody knows of.
                    let _ = self.jobs.start_syncing();
                    store.tidy();
                    return Ok(lent);
                }
                Step::Nothing => return Ok(Vec::new()),
                Step::Behind => {
                    self.catch_up(store, now_ms)?;
                    self.pass_dead(store)?;
                }
            }
        }
    }

    /// Leases up to `most` jobs, waiting until there is one or the time is up.
    pub(super) fn lend_or_wait(&self, wish: Wish, timeout: Option<Duration>) -> Result<Vec<Lent>> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let store = self.store()?;
            // Before the look: who pushes after it rings another number.
            let rung = self.bell.rung(&store.files.header);
            let lent = self.lend(wish)?;
            if !lent.is_empty() {
                return Ok(lent);
            }
            let mut time = Duration::MAX;
            if let Some(deadline) = deadline {
                time = deadline.saturating_duration_since(Instant::now());
                if time.is_zero() {
                    return Ok(lent);
                }
            }
            let next_ms = self.memory()?.next_ms().saturating_sub(store.now_ms());
            // The store's clock is exact to some milliseconds: not a spin until it moves.
            time = time.min(Duration::from_millis(next_ms.max(1)));
            self.bell.wait(&store.files.header, rung, time);
        }
    }

    /// Passes over cells of dead jobs at the front of the list, off the lock.
    fn pass_dead(&self, store: &Store) -> Result<()> {
        loop {
            let mut visits = VISITS_PER_STEP;
            let mut memory = self.memory()?;
            let front = memory.front(store, &mut visits);
            let should_tell = memory.jobs.should_tell(store);
            drop(memory);
            if should_tell {
                self.look_at_lists(store)?;
            }
            match front {
                Ok(Front::Far) => {}
                // A damaged job is told by the look under the lock, or passed over by now.
                Err(Error::Corrupt { .. }) => {}
                Ok(Front::Job(_) | Front::End) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// One look under the lock. How many jobs were taken back from others, too.
    fn look(
        &self,
        store: &Store,
        proof: &mut Proof,
        memory: &mut Memory,
        wish: Wish,
        now_ms: u64,
    ) -> Result<(Step, usize)> {
        memory.look(store, proof)?;
        self.move_blockers(store, proof, memory)?;
        if memory.notes.lag() > NOTES_PER_LOOK {
            return Ok((Step::Behind, 0));
        }
        memory.read_notes(store, now_ms, NOTES_PER_LOOK)?;
        memory.wake_due(now_ms);
        memory.prune(store)?;
        // Also while there is other work, or the dead would keep theirs until their leases run out.
        memory.ask_holders(store)?;
        proof.in_reserve = memory.leases.len() < LEASES_IN_RESERVE;
        let taken_back = self.take_back(store, proof, memory, now_ms)?;
        let mut lent = Vec::new();
        let end = self.lend_some(store, proof, memory, wish, now_ms, &mut lent);
        proof.in_reserve = false;
        let step = match end {
            _ if !lent.is_empty() => Step::Lent(lent),
            Ok(true) => Step::Behind,
            Ok(false) => Step::Nothing,
            Err(error) => return Err(error),
        };
        Ok((step, taken_back))
    }

    /// Leases one after the other. Whether it ended for having to look at too much.
    fn lend_some(
        &self,
        store: &Store,
        proof: &mut Proof,
        memory: &mut Memory,
        wish: Wish,
        now_ms: u64,
        lent: &mut Vec<Lent>,
    ) -> Result<bool> {
        let most = wish.most.min(LEASED_PER_LOOK);
        let mut visits = VISITS_PER_LOOK + most as u64;
        let mut front = None;
        while lent.len() < most {
            if front.is_none() {
                front = match memory.front(store, &mut visits)? {
                    Front::Job(plain) => Some(plain),
                    Front::End => None,
                    Front::Far => return Ok(true),
                };
            }
            let turn = front.as_ref().map(|plain| Turn {
                priority: 0,
                order: plain.order,
                id: plain.id,
            });
            match (memory.ready.peek().copied(), turn) {
                (None, None) => break,
                (Some(ready), turn) if turn.is_none_or(|turn| ready > turn) => {
                    if visits == 0 {
                        return Ok(true);
                    }
                    visits -= 1;
                    let one = self.lend_ready(store, proof, memory, ready, wish, now_ms);
                    // Not when it could not be noted: then it is still the next. A damaged one is told
                    // once, and is in nobody's way.
                    if !matches!(&one, Err(error) if !matches!(error, Error::Corrupt { .. })) {
                        memory.ready.pop();
                    }
                    lent.extend(one?);
                }
                _ => {
                    let Some(plain) = front.take() else { break };
                    lent.push(self.lend_plain(store, proof, memory, plain, wish, now_ms)?);
                    memory.jobs.at += 1;
                }
            }
        }
        Ok(false)
    }

    fn lease_of(&self, store: &Store, memory: &mut Memory, wish: Wish, now_ms: u64) -> Note {
        Note {
            phase: Phase::Leased,
            priority: 0,
            attempts: 1,
            order: 0,
            until_ms: now_ms.saturating_add(wish.visibility_ms),
            token: memory.token(),
            holder: Some(memory.me(store)),
            dedup: None,
            error: String::new(),
        }
    }

    /// Leases a job that has no note: one record.
    fn lend_plain(
        &self,
        store: &Store,
        proof: &mut Proof,
        memory: &mut Memory,
        plain: Plain,
        wish: Wish,
        now_ms: u64,
    ) -> Result<Lent> {
        let note = Note {
            order: plain.order,
            ..self.lease_of(store, memory, wish, now_ms)
        };
        let key = id_key(plain.id);
        let value = note.encode();
        let draft = Draft {
            kind: Kind::Set,
            space: self.spaces.notes,
            key: &key,
            value: &value,
            stored_s: store.second(now_ms),
            ..store.blank_draft()
        };
        store.put(proof, store.hash.of(self.spaces.notes, &key), &draft, &[])?;
        memory.notes.skip_own(store);
        memory.heard(plain.id, &note, now_ms);
        Ok(Lent {
            id: plain.id,
            token: note.token,
            attempts: 1,
            priority: 0,
            error: String::new(),
            head: plain.head,
            buffer: plain.buffer,
        })
    }

    /// Leases a job that waits by its note, if it still does.
    fn lend_ready(
        &self,
        store: &Store,
        proof: &mut Proof,
        memory: &mut Memory,
        turn: Turn,
        wish: Wish,
        now_ms: u64,
    ) -> Result<Option<Lent>> {
        let mut buffer = Vec::new();
        let Some(before) = find_note(store, self.spaces.notes, turn.id, &mut buffer)? else {
            return Ok(None);
        };
        let is_it = before.phase == Phase::Waiting
            && before.order == turn.order
            && before.until_ms <= now_ms;
        if !is_it {
            if before.phase == Phase::Waiting && before.order == turn.order {
                // It was due by a clock that has been set back, or by another thread's later look.
                memory.delayed.push(Reverse((before.until_ms, turn)));
            }
            return Ok(None);
        }
        let key = id_key(turn.id);
        let hash = store.hash.of(self.spaces.jobs, &key);
        let Some(hit) = store.find(self.spaces.jobs, &key, hash, &mut buffer)? else {
            // Its job was cleared away, or acked by one who was killed in the middle.
            let changes = vec![self.no_note(store, turn.id)];
            self.commit(store, proof, &changes)?;
            return Ok(None);
        };
        let head = hit.head;
        let lease = self.lease_of(store, memory, wish, now_ms);
        let note = Note {
            priority: before.priority,
            attempts: before.attempts.saturating_add(1),
            order: before.order,
            dedup: before.dedup,
            error: before.error,
            ..lease
        };
        let changes = vec![self.set_note(store, turn.id, &note, now_ms)];
        self.commit(store, proof, &changes)?;
        memory.notes.skip_own(store);
        memory.heard(turn.id, &note, now_ms);
        Ok(Some(Lent {
            id: turn.id,
            token: note.token,
            attempts: note.attempts,
            priority: note.priority,
            error: note.error,
            head,
            buffer,
        }))
    }

    /// The most a lease can be asked for at once.
    pub(super) fn wish(visibility: Duration, most: usize) -> Wish {
        let visibility_ms = visibility.as_millis().min(u128::from(u64::MAX)) as u64;
        Wish {
            visibility_ms,
            most,
        }
    }
}
