//! What lives at the front of a list of dead cells goes to its end: a step that a kill does not undo, so
//! lists stay short also where every process leases one job and ends.
//!
//! Holds: a job that is moved has a note or a grave, and that its place in the order; so where its cell
//! stands means nothing. A job without either is never moved.

use crate::engine::change::{Change, Payload};
use crate::engine::store::{Proof, Store};
use crate::error::{Error, Result};
use crate::format::record::tags_of;
use crate::part::order::Cell;
use crate::view::work_queue::core::Core;
use crate::view::work_queue::memory::{Memory, find_note, is_dead};
use crate::view::work_queue::note::{Note, id_of};

/// Entries moved while the lock is held.
const MOVES_PER_LOOK: usize = 8;

impl Core {
    /// Moves a few of those that keep lists long. Under the lock.
    pub(super) fn move_blockers(
        &self,
        store: &Store,
        proof: &mut Proof,
        memory: &mut Memory,
    ) -> Result<()> {
        for _ in 0..MOVES_PER_LOOK {
            let Some(cell) = memory.notes.blocker(store)? else {
                break;
            };
            if !self.move_one(store, proof, self.spaces.notes, cell)? {
                break;
            }
        }
        for _ in 0..MOVES_PER_LOOK {
            let Some(cell) = memory.jobs.blocker(store)? else {
                break;
            };
            if !self.move_one(store, proof, self.spaces.jobs, cell)? {
                break;
            }
        }
        memory.look(store, proof)
    }

    /// Sets an entry anew as it is, at the end of its list. Whether that could be done.
    fn move_one(&self, store: &Store, proof: &mut Proof, space: u32, cell: Cell) -> Result<bool> {
        let mut buffer = Vec::new();
        let hit = match store.find_cell(space, cell, &mut buffer) {
            Ok(Some(hit)) => hit,
            Ok(None) => return Ok(true),
            // A damaged one stays.
            Err(Error::Corrupt { .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        let key = hit.key(&buffer).to_vec();
        let mut value = hit.value(&buffer).to_vec();
        let id = id_of(&key);
        if space == self.spaces.jobs {
            let Some(id) = id else { return Ok(false) };
            let mut other = Vec::new();
            if find_note(store, self.spaces.notes, id, &mut other)?.is_none()
                && !is_dead(store, self.spaces, id, &mut other)?
            {
                return Ok(false);
            }
        } else if id.is_some() {
            // Its own order will be another: it is written down.
            let Some(note) = Note::decode(&value, hit.head.order) else {
                return Ok(false);
            };
            value = note.encode();
        }
        let head = hit.head;
        let change = Change {
            space,
            hash: store.hash.of(space, &key),
            set: Some(Payload {
                value_kind: head.value_kind,
                value,
                expires_ms: head.options.expires_ms,
                zstd: head.options.zstd,
                apart: head.options.apart,
                sliding_ms: head.options.sliding_ms,
                cost_s: head.options.cost_s,
                is_item: false,
                tag_seq: head.options.tag_seq,
                tags: tags_of(&head, &buffer).collect(),
                stored_s: head.stored_s,
            }),
            key,
            fresh: true,
            is_void: false,
        };
        match self.commit(store, proof, &vec![change]) {
            Ok(()) => Ok(true),
            // A full store has long lists.
            Err(Error::Full { .. } | Error::NoSpace { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
