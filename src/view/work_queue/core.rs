//! A queue without its type: its spaces, its bell, and how changes of it are made under the lock.
//!
//! Owns what a queue is made of. Lock order: the writer lock, then the memory's; never the other way.

use std::sync::{Arc, MutexGuard};

use crate::engine::change::{Change, Payload};
use crate::engine::store::{Proof, Store};
use crate::engine::sync;
use crate::error::{Error, Result};
use crate::part::bell::Bell;
use crate::view::cache::Cache;
use crate::view::options::SetOptions;
use crate::view::state;
use crate::view::transaction::Transaction;
use crate::view::work_queue::memory::{Memory, Seat, Spaces, find_note};
use crate::view::work_queue::note::{Grave, MAX_ATTEMPTS_KEY, Note, Phase, dedup_key, id_key};

pub(super) const JOBS_KIND: &str = "queue";
const NOTES_KIND: &str = "queue.notes";
const DEAD_KIND: &str = "queue.dead";
pub(super) const MAX_ATTEMPTS_DEFAULT: u32 = 10;
/// Notes read under the lock at once; more are read off it.
pub(super) const NOTES_PER_LOOK: u64 = 256;
/// The same off the lock, between two looks of others at the memory.
const NOTES_PER_STEP: u64 = 4_096;

/// A queue's parts.
#[derive(Debug)]
pub(super) struct Core {
    /// Payloads by id, in the order in which they were pushed.
    pub(super) jobs: Cache,
    /// What is known of jobs beside that: `note.rs`.
    pub(super) notes: Cache,
    /// Jobs that were given up; their payloads stay where they are.
    pub(super) dead: Cache,
    pub(super) bell: Bell,
    pub(super) spaces: Spaces,
    seat: Seat,
}

impl Core {
    pub(super) fn of(cache: &Cache, name: &[u8]) -> Result<Core> {
        let notes = cache.space(NOTES_KIND, name)?;
        let dead = cache.space(DEAD_KIND, name)?;
        // Last, since it is what `view_names` knows a queue by: none is half made.
        let jobs = cache.space(JOBS_KIND, name)?;
        let bell = jobs.bell(b"jobs")?;
        let spaces = Spaces {
            jobs: jobs.space,
            notes: notes.space,
            dead: dead.space,
        };
        Ok(Core {
            jobs,
            notes,
            dead,
            bell,
            spaces,
            seat: Seat::new(spaces)?,
        })
    }

    pub(super) fn memory(&self) -> Result<MutexGuard<'_, Memory>> {
        self.seat.memory(self.spaces)
    }

    /// The store, for a verb that changes it.
    pub(super) fn store(&self) -> Result<&Arc<Store>> {
        self.jobs.store_to_change()
    }

    /// Does `work` under the writer lock, as one of the verbs that change one entry.
    pub(super) fn locked<T>(
        &self,
        store: &Arc<Store>,
        mut work: impl FnMut(&Store, &mut Proof) -> Result<T>,
    ) -> Result<T> {
        let patience = self.jobs.patience(store);
        self.jobs.with_way(store, || {
            sync::locked(store, patience, |store, proof| work(store, proof))
        })
    }

    /// Refuses what cannot be part of a transaction.
    pub(super) fn outside(&self, store: &Arc<Store>, verb: &str) -> Result<()> {
        if state::is_inside(store) {
            let what = format!("{verb} outside of transact: what it does cannot be undone");
            return Err(Error::Aborted { what });
        }
        Ok(())
    }

    pub(super) fn ring(&self, store: &Store) {
        self.bell.ring(&store.files.header);
    }

    /// The queue's spaces as a transaction sees them.
    pub(super) fn inside<'a>(&self, tx: &'a Transaction) -> Inside<'a> {
        Inside {
            jobs: tx.of(&self.jobs),
            notes: tx.of(&self.notes),
            dead: tx.of(&self.dead),
            tx,
        }
    }

    /// The most deliveries of a job; 0: no limit.
    pub(super) fn max_attempts(&self) -> Result<u32> {
        let value = match self.notes.inside()? {
            Some(tx) => tx.get(MAX_ATTEMPTS_KEY)?,
            None => self.notes.get_quietly(MAX_ATTEMPTS_KEY)?,
        };
        Ok(attempts_of(value.as_deref()))
    }

    /// The same, without what a transaction of this thread says.
    pub(super) fn max_attempts_beneath(&self) -> Result<u32> {
        let value = self.notes.get_quietly(MAX_ATTEMPTS_KEY)?;
        Ok(attempts_of(value.as_deref()))
    }

    pub(super) fn plain_options() -> SetOptions {
        SetOptions::default().never_expires().compress(false)
    }

    /// Reads all notes the lists had when the lock was last held, off the lock, in steps.
    pub(super) fn catch_up(&self, store: &Store, now_ms: u64) -> Result<()> {
        loop {
            let mut memory = self.memory()?;
            if memory.notes.lag() <= NOTES_PER_LOOK / 2 {
                return Ok(());
            }
            memory.read_notes(store, now_ms, NOTES_PER_STEP)?;
            let should_tell = memory.notes.should_tell(store);
            drop(memory);
            if should_tell {
                self.look_at_lists(store)?;
            }
        }
    }

    /// Notes how long the lists are, and tells how many dead cells they begin with.
    pub(super) fn look_at_lists(&self, store: &Store) -> Result<()> {
        // This thread may have the lock.
        if self.jobs.inside()?.is_some() {
            return self.memory()?.look(store, &Proof::default());
        }
        sync::locked_for_upkeep(store, self.jobs.patience(store), |store, proof| {
            let mut memory = self.memory()?;
            memory.look(store, proof)?;
            self.move_blockers(store, proof, &mut memory)
        })
    }

    /// Notes how long the lists are, and reads what is new.
    pub(super) fn read_all(&self, store: &Arc<Store>, now_ms: u64) -> Result<()> {
        self.look_at_lists(store)?;
        self.catch_up(store, now_ms)?;
        self.memory()?.read_notes(store, now_ms, u64::MAX)
    }

    /// Jobs that are leased, and whose lease has not run out.
    pub(super) fn in_flight(&self) -> Result<u64> {
        let store = self.jobs.store()?;
        let now_ms = store.now_ms();
        let inside = self.notes.inside()?;
        if store.dir.is_read_only() {
            return self.count_leased(now_ms);
        }
        self.read_all(store, now_ms)?;
        let mut memory = self.memory()?;
        memory.prune(store)?;
        let mut buffer = Vec::new();
        let mut count = 0;
        for &id in memory.leases.keys() {
            let note = match &inside {
                Some(tx) => note_inside(tx, id)?,
                None => find_note(store, self.spaces.notes, id, &mut buffer)?,
            };
            let is_leased = |note: &Note| note.phase == Phase::Leased && note.until_ms > now_ms;
            count += u64::from(note.as_ref().is_some_and(is_leased));
        }
        Ok(count)
    }

    /// The same by looking at every note: in a store that is opened to be read alone.
    fn count_leased(&self, now_ms: u64) -> Result<u64> {
        let mut count = 0;
        for item in self.notes.iter()? {
            let (key, value) = item?;
            let note = (key.len() == 8).then(|| Note::decode(&value, 0)).flatten();
            let is_leased = |note: &Note| note.phase == Phase::Leased && note.until_ms > now_ms;
            count += u64::from(note.as_ref().is_some_and(is_leased));
        }
        Ok(count)
    }

    /// Entries of a space, as this thread's transaction sees them if it is in one.
    pub(super) fn len_of(&self, space: &Cache) -> Result<u64> {
        match space.inside()? {
            Some(tx) => tx.len(),
            None => space.len(),
        }
    }

    /// Makes changes found right under the lock.
    pub(super) fn commit(
        &self,
        store: &Store,
        proof: &mut Proof,
        changes: &Vec<Change>,
    ) -> Result<()> {
        store.commit(proof, changes)
    }

    pub(super) fn set_note(&self, store: &Store, id: u64, note: &Note, now_ms: u64) -> Change {
        let payload = payload(store, note.encode(), now_ms);
        change(store, self.spaces.notes, &id_key(id), Some(payload))
    }

    pub(super) fn set_grave(&self, store: &Store, id: u64, grave: &Grave, now_ms: u64) -> Change {
        let payload = payload(store, grave.encode(), now_ms);
        change(store, self.spaces.dead, &id_key(id), Some(payload))
    }

    pub(super) fn no_note(&self, store: &Store, id: u64) -> Change {
        change(store, self.spaces.notes, &id_key(id), None)
    }

    /// A dedup key is free again, if it is this job's.
    pub(super) fn free_dedup(&self, store: &Store, id: u64, note: &Note) -> Result<Option<Change>> {
        let Some(dedup) = &note.dedup else {
            return Ok(None);
        };
        let key = dedup_key(dedup);
        let hash = store.hash.of(self.spaces.notes, &key);
        let mut buffer = Vec::new();
        let hit = store.find(self.spaces.notes, &key, hash, &mut buffer)?;
        let is_its = hit.is_some_and(|hit| *hit.value(&buffer) == id_key(id));
        Ok(is_its.then(|| change(store, self.spaces.notes, &key, None)))
    }
}

/// One transaction over a queue's spaces.
pub(super) struct Inside<'a> {
    pub(super) jobs: Transaction,
    pub(super) notes: Transaction,
    pub(super) dead: Transaction,
    pub(super) tx: &'a Transaction,
}

impl Inside<'_> {
    pub(super) fn note(&self, id: u64) -> Result<Option<Note>> {
        note_inside(&self.notes, id)
    }

    pub(super) fn put_note(&self, id: u64, note: &Note) -> Result<()> {
        // Removed first: at the end of the order list everybody sees it.
        self.notes.delete(id_key(id))?;
        self.notes
            .set_with(id_key(id), note.encode(), &Core::plain_options())
    }

    /// The job a dedup key names, if that is still to be done.
    pub(super) fn holder_of(&self, dedup: &[u8]) -> Result<Option<u64>> {
        let Some(value) = self.notes.get(dedup_key(dedup))? else {
            return Ok(None);
        };
        let Some(id) = crate::view::work_queue::note::id_of(&value) else {
            return Ok(None);
        };
        let is_its = self.jobs.contains(id_key(id))?
            && self
                .note(id)?
                .is_some_and(|note| note.dedup.as_deref() == Some(dedup));
        Ok(is_its.then_some(id))
    }

    /// The key of a job that is done or given up is free.
    pub(super) fn free_dedup(&self, id: u64, note: &Note) -> Result<()> {
        if let Some(dedup) = &note.dedup
            && self.holder_of(dedup)? == Some(id)
        {
            self.notes.delete(dedup_key(dedup))?;
        }
        Ok(())
    }
}

/// A note as a transaction sees it.
fn note_inside(notes: &Transaction, id: u64) -> Result<Option<Note>> {
    let state = notes.state.borrow();
    state.check_fork()?;
    match state.change_of(notes.space, &id_key(id)) {
        // What the transaction itself has written has no order yet.
        Some(change) => Ok(change
            .set
            .as_ref()
            .and_then(|set| Note::decode(&set.value, 0))),
        None => find_note(&state.store, notes.space, id, &mut Vec::new()),
    }
}

fn attempts_of(value: Option<&[u8]>) -> u32 {
    let bytes = value.and_then(|value| value.try_into().ok());
    bytes.map_or(MAX_ATTEMPTS_DEFAULT, u32::from_le_bytes)
}

fn change(store: &Store, space: u32, key: &[u8], set: Option<Payload>) -> Change {
    Change {
        space,
        key: key.to_vec(),
        hash: store.hash.of(space, key),
        // A note that changes goes to the end of the order list, where everybody sees it.
        fresh: set.is_some(),
        set,
        is_void: false,
    }
}

fn payload(store: &Store, value: Vec<u8>, now_ms: u64) -> Payload {
    Payload {
        value_kind: 0,
        value,
        expires_ms: None,
        zstd: None,
        apart: None,
        sliding_ms: None,
        cost_s: None,
        is_item: false,
        tag_seq: 0,
        tags: Vec::new(),
        stored_s: store.second(now_ms),
    }
}
