//! The two ends of a space's order, under the lock: what stands there, and dead cells there let go.
//!
//! Cells that are dead behind the last living one are handed out again, so a list that is pushed to and
//! popped from at its end does not grow. An iterator that began before sees only younger entries there,
//! past its bound; a denser list being written begins anew if it had read that far.

use crate::engine::read::Hit;
use crate::engine::store::{Proof, Store};
use crate::error::Result;
use crate::format::header::space;
use crate::part::order;
use crate::part::shared::Files;

/// An entry at an end of a space's order, and which cell is its.
pub(crate) struct AtEnd<'a> {
    pub(crate) hit: Hit<'a>,
    pub(crate) cell: u64,
}

impl Store {
    /// The entry of a space that was inserted first; its record is copied into `buffer`.
    pub(crate) fn oldest(
        &self,
        proof: &mut Proof,
        which: u32,
        buffer: &mut Vec<u8>,
    ) -> Result<Option<AtEnd<'_>>> {
        let head = self.files.space(which, space::HEAD);
        let cells = self.files.space(which, space::CELLS);
        for index in head..cells {
            let Some(cell) = order::cell(&self.files, &self.dir, which, index)? else {
                break;
            };
            if let Some(hit) = self.find_cell(which, cell, buffer)? {
                if index > head {
                    self.skip(proof, which, index);
                }
                return Ok(Some(AtEnd { hit, cell: index }));
            }
        }
        self.shorten(proof, which, 0);
        Ok(None)
    }

    /// The entry of a space that was inserted last; its record is copied into `buffer`.
    pub(crate) fn newest(
        &self,
        proof: &mut Proof,
        which: u32,
        buffer: &mut Vec<u8>,
    ) -> Result<Option<AtEnd<'_>>> {
        let head = self.files.space(which, space::HEAD);
        let cells = self.files.space(which, space::CELLS);
        for index in (head..cells).rev() {
            let Some(cell) = order::cell(&self.files, &self.dir, which, index)? else {
                break;
            };
            if let Some(hit) = self.find_cell(which, cell, buffer)? {
                if index + 1 < cells {
                    self.shorten(proof, which, index + 1);
                }
                return Ok(Some(AtEnd { hit, cell: index }));
            }
        }
        self.shorten(proof, which, 0);
        Ok(None)
    }

    /// All cells of a space before `to` are dead.
    pub(crate) fn skip(&self, proof: &mut Proof, which: u32, to: u64) {
        let _ = proof;
        let at = |field| Files::space_at(which, field).at;
        self.files.header.put(at(space::HEAD), to);
    }

    /// All cells of a space from `to` on are dead: the next ones stand there.
    pub(crate) fn shorten(&self, proof: &mut Proof, which: u32, to: u64) {
        let _ = proof;
        let header = &self.files.header;
        let at = |field| Files::space_at(which, field).at;
        // Whoever dies between these has left dead cells between the hints, and no more.
        if to < header.get(at(space::FEWEST)) {
            header.put(at(space::FEWEST), to);
        }
        if to < header.get(at(space::HEAD)) {
            header.put(at(space::HEAD), to);
        }
        header.put(at(space::TAIL), to);
        header.put(at(space::CELLS), to);
    }
}
