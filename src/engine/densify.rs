//! Order lists made dense again: one much longer than its entries is written anew without its dead
//! cells, in steps, and takes the old one's place by one journalled change. Old iterators go on with the
//! old file. One handle at a time does it; what a killed one left goes when the next begins.

use std::sync::atomic::Ordering;

use crate::engine::store::{Proof, Store};
use crate::error::Result;
use crate::format::header::{self as layout, space};
use crate::format::name::Name;
use crate::limits::SPACES_MAX;
use crate::os::region::Region;
use crate::part::journal::Journal;
use crate::part::order::{self, CELL_LEN};
use crate::part::shared::Files;
use crate::part::writer_lock;

/// Dead cells a list may have beside as many again as it has entries.
const DEAD_MIN: u64 = 4_096;
/// Cells looked at in one step.
const CELLS_PER_STEP: u64 = 2_048;
/// A step is made beside so many new cells: fewer than it reads, so that it ends.
const CELLS_PER_TURN: u64 = 512;

/// A list being written anew.
#[derive(Debug)]
pub(crate) struct Densifying {
    space: u32,
    /// Generation of the list it is made from.
    from: u64,
    number: u64,
    region: Region,
    bytes: u64,
    /// Cells of the old list that were looked at, and of the new one.
    read: u64,
    written: u64,
}

impl Store {
    /// One step, if a list is more than twice as long as its entries. Whether there was one. Under the
    /// lock.
    pub(crate) fn densify_step(&self, proof: &mut Proof) -> Result<bool> {
        let mut job = self
            .densifying
            .lock()
            .unwrap_or_else(|poison| poison.into_inner());
        if job.is_none() {
            *job = self.begin_densifying()?;
        }
        let Some(work) = job.as_mut() else {
            return Ok(false);
        };
        let done = self.densify_some(proof, work);
        if !matches!(done, Ok(false))
            && let Some(work) = job.take()
        {
            self.end_densifying(&work, matches!(done, Ok(true)))?;
        }
        done.map(|_| true)
    }

    pub(crate) fn is_sparse(&self, which: u32) -> bool {
        let cells = self.files.space(which, space::CELLS);
        let entries = self.files.space(which, space::COUNT);
        cells > entries * 2 + DEAD_MIN
    }

    /// Once in a while, after cells came to a list: a step, if it is due. Under the lock.
    #[inline]
    pub(crate) fn densify_if_due(&self, proof: &mut Proof, which: u32, new_cells: u64) {
        let cells = self.files.space(which, space::CELLS);
        if cells % CELLS_PER_TURN < new_cells && self.is_sparse(which) {
            // What came is stored: a step that cannot be made now is made another time.
            let _ = self.densify_step(proof);
        }
    }

    fn begin_densifying(&self) -> Result<Option<Densifying>> {
        let Some(which) = (0..SPACES_MAX as u32).find(|&which| self.is_sparse(which)) else {
            return Ok(None);
        };
        let header = &self.files.header;
        let owner = header.get(layout::DENSIFYING_AT);
        if owner != 0 && owner != writer_lock::name_of(&self.me) && !self.is_dead(owner) {
            return Ok(None);
        }
        let from = self.files.space(which, space::GENERATION);
        // What a killed one left.
        for name in self.dir.list()?.0 {
            if let Name::Order { space, generation } = name
                && space == which
                && generation != from
            {
                let bytes = self.dir.stat(name)?.map_or(0, |stat| stat.disk);
                self.dir.remove(name)?;
                self.gave(bytes);
            }
        }
        let number = self.new_file_id(Name::Segment)?;
        let name = Name::Order {
            space: which,
            generation: number,
        };
        let region = Region::new(&self.dir, name, self.dir.create(name)?)?;
        header.put(layout::DENSIFYING_AT, writer_lock::name_of(&self.me));
        header.put(Files::space_at(which, space::FEWEST).at, u64::MAX);
        Ok(Some(Densifying {
            space: which,
            from,
            number,
            region,
            bytes: 0,
            read: 0,
            written: 0,
        }))
    }

    /// Goes on with a list; whether it took the old one's place.
    fn densify_some(&self, proof: &mut Proof, work: &mut Densifying) -> Result<bool> {
        let _ = proof;
        let header = &self.files.header;
        if self.files.space(work.space, space::GENERATION) != work.from {
            let what = "another wrote this order list anew";
            return Err(crate::error::Error::Aborted { what: what.into() });
        }
        let cells = self.files.space(work.space, space::CELLS);
        if self.files.space(work.space, space::FEWEST) < work.read {
            // Cells that were read have gone, and others may stand there: once more from the start.
            header.put(Files::space_at(work.space, space::FEWEST).at, u64::MAX);
            (work.read, work.written) = (0, 0);
        }
        // Those before the hint are known to be dead.
        work.read = work.read.max(self.files.space(work.space, space::HEAD));
        let mut buffer = Vec::new();
        let end = (work.read + CELLS_PER_STEP).min(cells);
        while work.read < end {
            let Some(cell) = order::cell(&self.files, &self.dir, work.space, work.read)? else {
                break;
            };
            work.read += 1;
            // A damaged entry keeps its place.
            if matches!(self.find_cell(work.space, cell, &mut buffer), Ok(None)) {
                continue;
            }
            let at = work.written * CELL_LEN;
            if at + CELL_LEN > work.bytes {
                let step = (work.bytes / 8).clamp(4096, 1 << 20).next_multiple_of(4096);
                work.region.grow(&self.dir, work.bytes, work.bytes + step)?;
                work.bytes += step;
                self.took(step);
            }
            work.region
                .word(at)?
                .store(cell.to_bits(), Ordering::Release);
            work.written += 1;
        }
        if work.read < cells {
            return Ok(false);
        }
        let old_bytes = self.files.space(work.space, space::BYTES);
        let at = |field| Files::space_at(work.space, field).at;
        let mut journal = Journal::new(header);
        for (field, value) in [
            (space::GENERATION, space::CHANGING),
            (space::BYTES, work.bytes),
            (space::HEAD, 0),
            (space::TAIL, work.written),
            (space::CELLS, work.written),
            (space::GENERATION, work.number),
        ] {
            journal.header(at(field), value);
        }
        journal.commit(&self.files, &self.dir)?;
        self.dir.remove(Name::Order {
            space: work.space,
            generation: work.from,
        })?;
        self.gave(old_bytes);
        Ok(true)
    }

    fn end_densifying(&self, work: &Densifying, took_place: bool) -> Result<()> {
        self.files.header.put(layout::DENSIFYING_AT, 0);
        if !took_place {
            self.dir.remove(work.region.name())?;
            self.gave(work.bytes);
        }
        Ok(())
    }
}
