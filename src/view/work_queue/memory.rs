//! What one handle remembers of a queue: how far it has read, who is ready, who is leased until when.
//!
//! Everything here is a guess, made from the order lists of jobs and notes and looked up again under
//! the writer lock before anything comes of it: a stale memory costs time, never a job. Owns nothing
//! in the store, and waits for nobody: its mutex is taken last and held for moments.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use crate::engine::holder::Holder;
use crate::engine::store::{Proof, Store};
use crate::error::{Error, Result};
use crate::format::header::space;
use crate::format::record::Head;
use crate::os::{host, raw};
use crate::view::work_queue::feed::Feed;
use crate::view::work_queue::note::{Note, Phase, Turn, id_key, id_of};

/// How often holders are asked whether they live.
pub(super) const HOLDERS_EVERY: Duration = Duration::from_millis(50);
/// Leases remembered before those that are over are looked for.
const PRUNE_MIN: usize = 1_024;

/// A job nobody has anything to say of yet, as it was found.
#[derive(Debug)]
pub(super) struct Plain {
    pub(super) id: u64,
    pub(super) order: u64,
    pub(super) head: Head,
    pub(super) buffer: Vec<u8>,
}

/// What the front of the jobs' list has.
#[allow(
    clippy::large_enum_variant,
    reason = "it lives on the stack, for one look"
)]
#[derive(Debug)]
pub(super) enum Front {
    Job(Plain),
    End,
    /// Too many cells of dead jobs: they are passed over off the lock.
    Far,
}

/// A lease, as it was last heard of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leased {
    pub(super) deadline_ms: u64,
    pub(super) holder: Option<Holder>,
}

#[derive(Debug)]
pub(super) struct Memory {
    pub(super) jobs: Feed,
    pub(super) notes: Feed,
    pub(super) ready: BinaryHeap<Turn>,
    /// By the moment before which they are not ready.
    pub(super) delayed: BinaryHeap<Reverse<(u64, Turn)>>,
    pub(super) leases: HashMap<u64, Leased>,
    /// No lease runs out before.
    pub(super) next_deadline_ms: u64,
    prune_at: usize,
    /// `None`: not yet.
    holders_asked: Option<Instant>,
    /// Those who were found dead and whose leases are still to be given to others.
    pub(super) dead_holders: Vec<Holder>,
    random: u64,
    /// This process's own name as a holder, once it was asked for.
    me: Option<Holder>,
    spaces: Spaces,
}

/// The numbers of a queue's spaces.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spaces {
    pub(super) jobs: u32,
    pub(super) notes: u32,
    pub(super) dead: u32,
}

/// The note of a job as the store has it; a damaged one counts as none.
pub(super) fn find_note(
    store: &Store,
    notes: u32,
    id: u64,
    buffer: &mut Vec<u8>,
) -> Result<Option<Note>> {
    let key = id_key(id);
    let hash = store.hash.of(notes, &key);
    match store.find(notes, &key, hash, buffer) {
        Ok(Some(hit)) => Ok(Note::decode(hit.value(buffer), hit.head.order)),
        Ok(None) | Err(Error::Corrupt { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Memory {
    fn new(spaces: Spaces) -> Result<Memory> {
        let [random] = host::random_words::<1>()?;
        Ok(Memory {
            jobs: Feed::new(spaces.jobs),
            notes: Feed::new(spaces.notes),
            ready: BinaryHeap::new(),
            delayed: BinaryHeap::new(),
            leases: HashMap::new(),
            next_deadline_ms: u64::MAX,
            prune_at: PRUNE_MIN,
            holders_asked: None,
            dead_holders: Vec::new(),
            random,
            me: None,
            spaces,
        })
    }

    /// A lease's token: nobody guesses it, and no two are the same.
    pub(super) fn token(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn me(&mut self, store: &Store) -> Holder {
        *self.me.get_or_insert_with(|| store.holder())
    }

    /// Notes how long the lists are. Under the lock.
    pub(super) fn look(&mut self, store: &Store, proof: &Proof) -> Result<()> {
        self.jobs.look(store, proof)?;
        if self.notes.look(store, proof)? {
            self.ready.clear();
            self.delayed.clear();
            self.leases.clear();
            self.next_deadline_ms = u64::MAX;
        }
        Ok(())
    }

    /// Reads at most so many notes.
    pub(super) fn read_notes(&mut self, store: &Store, now_ms: u64, most: u64) -> Result<()> {
        let mut buffer = Vec::new();
        for _ in 0..most {
            let Some(cell) = self.notes.cell()? else {
                break;
            };
            match store.find_cell(self.spaces.notes, cell, &mut buffer) {
                Ok(Some(hit)) => {
                    let note = Note::decode(hit.value(&buffer), hit.head.order);
                    if let (Some(id), Some(note)) = (id_of(hit.key(&buffer)), note) {
                        self.heard(id, &note, now_ms);
                    }
                }
                Ok(None) => self.notes.was_dead(),
                Err(Error::Corrupt { .. }) => {}
                Err(error) => return Err(error),
            }
            self.notes.at += 1;
        }
        Ok(())
    }

    /// Reads what this handle has just written under the lock it still has.
    pub(super) fn read_notes_made(
        &mut self,
        store: &Store,
        proof: &Proof,
        now_ms: u64,
    ) -> Result<()> {
        self.look(store, proof)?;
        self.read_notes(store, now_ms, 16)
    }

    /// Keeps what a note says.
    pub(super) fn heard(&mut self, id: u64, note: &Note, now_ms: u64) {
        let turn = Turn {
            priority: note.priority,
            order: note.order,
            id,
        };
        match note.phase {
            Phase::Leased => {
                let leased = Leased {
                    deadline_ms: note.until_ms,
                    holder: note.holder,
                };
                self.next_deadline_ms = self.next_deadline_ms.min(note.until_ms);
                self.leases.insert(id, leased);
            }
            Phase::Waiting => {
                self.leases.remove(&id);
                if note.until_ms <= now_ms {
                    self.ready.push(turn);
                } else {
                    self.delayed.push(Reverse((note.until_ms, turn)));
                }
            }
        }
    }

    /// What is due is ready.
    pub(super) fn wake_due(&mut self, now_ms: u64) {
        while let Some(Reverse((due_ms, turn))) = self.delayed.peek().copied()
            && due_ms <= now_ms
        {
            self.delayed.pop();
            self.ready.push(turn);
        }
    }

    /// The first job of the list that has no note and is not dead; looks at most at `visits` cells.
    pub(super) fn front(&mut self, store: &Store, visits: &mut u64) -> Result<Front> {
        let mut buffer = Vec::new();
        let any_dead = store.files.space(self.spaces.dead, space::COUNT) > 0;
        while let Some(cell) = self.jobs.cell()? {
            if *visits == 0 {
                return Ok(Front::Far);
            }
            *visits -= 1;
            let hit = match store.find_cell(self.spaces.jobs, cell, &mut buffer) {
                Ok(Some(hit)) => hit,
                Ok(None) => {
                    self.jobs.was_dead();
                    self.jobs.at += 1;
                    continue;
                }
                Err(error) => {
                    // A damaged job is told once, and is in nobody's way.
                    self.jobs.at += 1;
                    return Err(error);
                }
            };
            let (head, id) = (hit.head, id_of(hit.key(&buffer)));
            let Some(id) = id else {
                self.jobs.at += 1;
                continue;
            };
            let mut other = Vec::new();
            if find_note(store, self.spaces.notes, id, &mut other)?.is_some()
                || any_dead && is_dead(store, self.spaces, id, &mut other)?
            {
                self.jobs.at += 1;
                continue;
            }
            return Ok(Front::Job(Plain {
                id,
                order: head.order,
                head,
                buffer,
            }));
        }
        Ok(Front::End)
    }

    /// Forgets leases that are over, once in a while.
    pub(super) fn prune(&mut self, store: &Store) -> Result<()> {
        if self.leases.len() < self.prune_at {
            return Ok(());
        }
        let mut buffer = Vec::new();
        let mut living = HashMap::with_capacity(self.leases.len() / 2);
        for (&id, &leased) in &self.leases {
            let note = find_note(store, self.spaces.notes, id, &mut buffer)?;
            if note.is_some_and(|note| note.phase == Phase::Leased) {
                living.insert(id, leased);
            }
        }
        self.leases = living;
        self.prune_at = (self.leases.len() * 2).max(PRUNE_MIN);
        Ok(())
    }

    /// Asks holders whether they live, if that was not done a moment ago. Whether leases of dead ones are
    /// to be given to others.
    pub(super) fn ask_holders(&mut self, store: &Store) -> Result<bool> {
        let is_due = |asked: Instant| asked.elapsed() >= HOLDERS_EVERY;
        if !self.leases.is_empty() && self.holders_asked.is_none_or(is_due) {
            let me = self.me(store);
            let mut others: Vec<Holder> = Vec::new();
            for holder in self.leases.values().filter_map(|leased| leased.holder) {
                if holder != me && !others.contains(&holder) {
                    others.push(holder);
                }
            }
            self.dead_holders.clear();
            for holder in others {
                if !store.is_alive(&holder)? {
                    self.dead_holders.push(holder);
                }
            }
            self.holders_asked = Some(Instant::now());
        }
        Ok(!self.dead_holders.is_empty())
    }

    /// Whether a look under the lock may find something to lease or to take back.
    pub(super) fn may_have_work(&mut self, store: &Store, now_ms: u64) -> Result<bool> {
        self.wake_due(now_ms);
        Ok(self.jobs.has_news(store)
            || self.notes.has_news(store)
            || !self.ready.is_empty()
            || self.next_deadline_ms <= now_ms
            || self.ask_holders(store)?)
    }

    /// The next moment at which there may be work without anybody's doing, ms since 1970.
    pub(super) fn next_ms(&self) -> u64 {
        let due_ms = self.delayed.peek().map_or(u64::MAX, |next| next.0.0);
        due_ms.min(self.next_deadline_ms)
    }
}

pub(super) fn is_dead(
    store: &Store,
    spaces: Spaces,
    id: u64,
    buffer: &mut Vec<u8>,
) -> Result<bool> {
    let key = id_key(id);
    let hash = store.hash.of(spaces.dead, &key);
    match store.find(spaces.dead, &key, hash, buffer) {
        Ok(hit) => Ok(hit.is_some()),
        Err(Error::Corrupt { .. }) => Ok(true),
        Err(error) => Err(error),
    }
}

/// The memory of each process that has the handle: a forked child begins its own.
#[derive(Debug)]
pub(super) struct Seat {
    forks: u64,
    memory: Mutex<Memory>,
    child: OnceLock<Box<Seat>>,
}

impl Seat {
    pub(super) fn new(spaces: Spaces) -> Result<Seat> {
        Ok(Seat {
            forks: raw::forks(),
            memory: Mutex::new(Memory::new(spaces)?),
            child: OnceLock::new(),
        })
    }

    /// The memory of this process.
    pub(super) fn memory(&self, spaces: Spaces) -> Result<MutexGuard<'_, Memory>> {
        let mut seat = self;
        while seat.forks != raw::forks() {
            seat = match seat.child.get() {
                Some(child) => child,
                None => {
                    let child = Box::new(Seat::new(spaces)?);
                    seat.child.get_or_init(|| child)
                }
            };
        }
        Ok(seat
            .memory
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}
