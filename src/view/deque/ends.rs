//! Pushing and popping outside of a transaction: one record each, under one short lock.
//!
//! What the end is, is read off the order lists under the lock, or known from the last time if nobody
//! has written since. Whatever needs more than one record (a full deque, removed elements beside the
//! end) is left to a transaction.

use std::sync::{Mutex, MutexGuard};

use crate::engine::ledger::Replaced;
use crate::engine::store::{Proof, Store};
use crate::engine::sync;
use crate::error::Result;
use crate::format::header::space;
use crate::format::record::{Draft, Kind};
use crate::view::cache::Cache;
use crate::view::deque::Spaces;
use crate::view::deque::holes::Holes;
use crate::view::deque::session::{damaged, depth_of, notes_key};
use crate::view::deque::shape::{Notes, Shape, Spot, Wing};
use crate::view::options::Side;
use crate::view::prepare::{self, Prepared};
use crate::view::value::Value;

/// What a handle knows of its deque.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Generation and length of the notes' order list, when `notes` and `has_holes` were read.
    seen: Option<(u64, u64)>,
    notes: Notes,
    /// Elements may have been removed from between others.
    has_holes: bool,
    /// The sequence for which `tops` are right.
    committed: u64,
    /// Where the next element of each wing goes.
    tops: [Option<u64>; 2],
    /// The whole shape, and the holes that were looked at, with the sequence for which they are right.
    shape: Option<(u64, Shape)>,
    pub(super) holes: [Option<Holes>; 2],
}

impl Known {
    /// What is kept beside the elements, looked up when it may have changed. At a moment when nobody
    /// changes anything.
    pub(super) fn notes(&mut self, store: &Store, spaces: Spaces) -> Result<Notes> {
        let list = |field| store.files.space(spaces.notes, field);
        let now = (list(space::GENERATION), list(space::CELLS));
        if self.seen != Some(now) {
            self.seen = None;
            let load = |key: &[u8]| load(store, spaces, key);
            self.notes = match load(&notes_key(spaces))? {
                Some(bytes) => {
                    Notes::from_bytes(&bytes).ok_or_else(|| damaged(store, "the notes"))?
                }
                None => Notes::default(),
            };
            self.has_holes = false;
            for wing in Wing::BOTH {
                self.has_holes |= Holes::load(spaces.front, wing, &load)?.total > 0;
            }
            self.seen = Some(now);
        }
        Ok(self.notes)
    }

    /// Forgets what somebody else's change may have made wrong. Under the lock.
    fn refresh(&mut self, store: &Store) {
        if self.committed != store.committed() {
            self.tops = [None; 2];
        }
    }

    /// The shape, if nobody has written since it was noted.
    pub(super) fn shape(&mut self, committed: u64) -> Option<Shape> {
        let known = self.shape.filter(|(at, _)| *at == committed);
        if known.is_none() {
            (self.shape, self.holes) = (None, [None, None]);
        }
        known.map(|(_, shape)| shape)
    }

    pub(super) fn note_shape(&mut self, committed: u64, shape: Shape) {
        self.shape = Some((committed, shape));
    }

    /// What was looked up may have been half changed.
    pub(super) fn forget(&mut self) {
        (self.seen, self.shape, self.holes) = (None, None, [None, None]);
    }

    fn note(&mut self, store: &Store, wing: Wing, top: Option<u64>) {
        self.committed = store.committed();
        self.tops[wing as usize] = top;
    }
}

/// What is kept under a key of the notes, read without a lock.
pub(super) fn load(store: &Store, spaces: Spaces, key: &[u8]) -> Result<Option<Vec<u8>>> {
    let mut buffer = Vec::new();
    let hash = store.hash.of(spaces.notes, key);
    let hit = store.find(spaces.notes, key, hash, &mut buffer)?;
    Ok(hit.map(|hit| hit.value(&buffer).to_vec()))
}

/// What a handle knows; another thread's turn, or one that was cut off by a fork, is not waited for.
pub(super) fn known(shared: &Mutex<Known>) -> Option<MutexGuard<'_, Known>> {
    shared.try_lock().ok()
}

fn count(store: &Store, spaces: Spaces, wing: Wing) -> u64 {
    store.files.space(spaces.of(wing), space::COUNT)
}

/// Puts a value at a side. `false`: it takes a transaction.
pub(super) fn push(
    cache: &Cache,
    spaces: Spaces,
    known: &mut Known,
    side: Side,
    prepared: &Prepared<'_>,
) -> Result<bool> {
    let store = cache.store_to_change()?;
    let stored_s = store.second(store.now_ms());
    let mut is_done = false;
    cache.with_way(store, || {
        sync::locked(store, cache.patience(store), |store, proof| {
            let notes = known.notes(store, spaces)?;
            if let Some(max_len) = notes.max_len
                && count(store, spaces, Wing::Front) + count(store, spaces, Wing::Back) >= max_len
            {
                return Ok(());
            }
            let wing = notes.wing(side);
            known.refresh(store);
            let depth = match known.tops[wing as usize] {
                Some(top) => top,
                None => top_of(store, proof, spaces, wing)?,
            };
            let spot = Spot { wing, depth };
            let which = spaces.of(wing);
            let draft = Draft {
                kind: Kind::Set,
                value_kind: prepared.kind,
                space: which,
                key: &spot.key(),
                value: &prepared.bytes,
                expires_ms: None,
                zstd: prepared.zstd,
                apart: prepared.apart(),
                sliding_ms: None,
                cost_s: None,
                is_item: false,
                tag_seq: 0,
                tags: &[],
                stored_s,
            };
            store.put(proof, store.hash.of(which, draft.key), &draft, &[])?;
            known.note(store, wing, depth.checked_add(1));
            is_done = true;
            Ok(())
        })
    })?;
    if is_done {
        cache.finish(store)?;
    }
    Ok(is_done)
}

/// Where the next element of a wing goes.
fn top_of(store: &Store, proof: &mut Proof, spaces: Spaces, wing: Wing) -> Result<u64> {
    let mut buffer = std::mem::take(&mut proof.old);
    let top = match store.newest(proof, spaces.of(wing), &mut buffer)? {
        Some(end) => depth_of(store, end.hit.key(&buffer))?.saturating_add(1),
        None => 0,
    };
    proof.old = buffer;
    Ok(top)
}

/// What popping came to.
pub(super) enum Popped<T> {
    One(T),
    Nothing,
    /// It takes a transaction.
    Slow,
}

/// Takes the element at a side away, if `read` makes something of it.
pub(super) fn pop<T>(
    cache: &Cache,
    spaces: Spaces,
    known: &mut Known,
    side: Side,
    read: impl FnOnce(Value) -> Result<T>,
) -> Result<Popped<T>> {
    let store = cache.store_to_change()?;
    let popped = sync::locked(store, cache.patience(store), |store, proof| {
        let notes = known.notes(store, spaces)?;
        if known.has_holes {
            // Perhaps there will be none then.
            known.forget();
            return Ok(Popped::Slow);
        }
        known.refresh(store);
        let own = notes.wing(side);
        let counts = [own, own.other()].map(|wing| count(store, spaces, wing));
        let (wing, is_top, left) = match counts {
            [0, 0] => return Ok(Popped::Nothing),
            [0, other] => (own.other(), false, other - 1),
            [own_count, _] => (own, true, own_count - 1),
        };
        let which = spaces.of(wing);
        let mut buffer = Vec::new();
        let end = match is_top {
            true => store.newest(proof, which, &mut buffer)?,
            false => store.oldest(proof, which, &mut buffer)?,
        };
        let end =
            end.ok_or_else(|| damaged(store, "no element is found, but there should be one"))?;
        let depth = depth_of(store, end.hit.key(&buffer))?;
        let Some(value) = prepare::value_of(store, &end.hit.head, buffer)? else {
            return Err(store.missing_value(&end.hit.head));
        };
        // Read before it goes: what cannot be read stays.
        let value = read(value)?;
        let key = Spot { wing, depth }.key();
        let draft = Draft {
            kind: Kind::Delete,
            space: which,
            key: &key,
            ..store.blank_draft()
        };
        let hash = store.hash.of(which, &key);
        let old = Replaced::of(&end.hit);
        store.remove(proof, hash, &draft, Some(old), end.hit.address())?;
        match (left, is_top) {
            (0, _) => store.shorten(proof, which, 0),
            (_, true) => store.shorten(proof, which, end.cell),
            (_, false) => store.skip(proof, which, end.cell + 1),
        }
        let top = match (left, is_top) {
            (0, _) => Some(0),
            (_, true) => None,
            (_, false) => known.tops[wing as usize],
        };
        known.note(store, wing, top);
        Ok(Popped::One(value))
    })?;
    if matches!(popped, Popped::One(_)) {
        cache.finish(store)?;
    }
    Ok(popped)
}
