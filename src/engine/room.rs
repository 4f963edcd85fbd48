//! Room for the next records: the active segment, its growing, and the one after it.
//!
//! Holds: what is stored to was allocated and is present; a refusal leaves everything as it was.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::engine::store::{Proof, Store};
use crate::error::{Error, Result};
use crate::format::bucket::Place;
use crate::format::header::{self as layout, row, state};
use crate::format::name::Name;
use crate::format::segment::{RECORDS_AT, SUMMARY_LEN, SegmentHead};
use crate::limits::{RESERVE_BYTES, SEGMENT_BYTES_MAX, SEGMENT_SLOTS};
use crate::part::journal::Journal;
use crate::part::keymap::Keymap;
use crate::part::order::{self};
use crate::part::segment::Segment;
use crate::part::segments::{self, row_at};
use crate::part::shared::setting;

/// Bytes the front of a segment grows by at most: what is made present in one go.
const FRONT_STEP_MAX: u64 = 1 << 20;
const FRONT_STEP_MIN: u64 = 64 * 1024;
/// What is allocated is in pieces of this many bytes: those in which pages are first touched.
const STEP: u64 = crate::limits::SEGMENT_STEP;
/// Bytes the back grows by: room for summaries.
const BACK_STEP_MIN: u64 = STEP;
const BACK_STEP_MAX: u64 = 128 * 1024;

/// Where the next records go.
pub(crate) struct Room {
    pub(crate) segment: Arc<Segment>,
    pub(crate) at: u64,
    /// Index of the next summary.
    pub(crate) index: u64,
}

impl Store {
    /// Space for the keymap's and the order list's next words.
    pub(crate) fn reserve_derived(&self, space: u32, entries: u64) -> Result<()> {
        self.took(Keymap::of(&self.files).reserve(&self.dir, entries)?);
        self.reserve_cells(space, entries)
    }

    /// Space for the order list's next cells.
    pub(crate) fn reserve_cells(&self, space: u32, entries: u64) -> Result<()> {
        self.took(order::reserve(&self.files, &self.dir, space, entries)?);
        Ok(())
    }

    /// Room for `bytes` of records at the tail, allocated and present. `removing`: may use the reserve.
    pub(crate) fn room(
        &self,
        proof: &Proof,
        bytes: u64,
        records: u64,
        removing: bool,
    ) -> Result<Room> {
        let header = &self.files.header;
        let _ = proof;
        for _ in 0..2 {
            let Some(tail) = Place::from_bits(header.get(layout::TAIL_AT)) else {
                return Err(Error::corrupt(
                    self.dir.path_of(crate::format::name::Name::Header),
                    layout::TAIL_AT,
                    "the tail names no segment",
                ));
            };
            let Some(segment) = self.active(tail.slot)? else {
                self.rotate(bytes + RESERVE_BYTES, records, removing)?;
                continue;
            };
            let index = header.number(layout::TAIL_COUNT_AT);
            let size = segment.head.size;
            let reserve = if removing {
                0
            } else {
                RESERVE_BYTES.min(size / 16)
            };
            let is_whole = segment.head.id == segments::id_of(&self.files, tail.slot)?;
            if is_whole
                && (tail.at + bytes + reserve).next_multiple_of(STEP)
                    + ((index + records) * SUMMARY_LEN).next_multiple_of(STEP)
                    <= size
            {
                self.extend_front(&segment, tail.at + bytes, reserve, removing)?;
                self.extend_back(&segment, (index + records) * SUMMARY_LEN)?;
                self.make_present(&segment, tail.at, bytes);
                return Ok(Room {
                    segment,
                    at: tail.at,
                    index,
                });
            }
            self.rotate(bytes + RESERVE_BYTES, records, removing)?;
        }
        Err(Error::TooLarge {
            what: "a record (bytes)",
            bytes,
            max_bytes: SEGMENT_BYTES_MAX,
        })
    }

    /// The segment records go to; `None`: it is missing, damaged, cut short or could not be synced.
    fn active(&self, slot: u16) -> Result<Option<Arc<Segment>>> {
        match self.segments.get(&self.files, &self.dir, slot) {
            Ok(Some(segment)) if segment.cut_from.is_none() && !self.is_bad(slot)? => {
                Ok(Some(Arc::clone(segment)))
            }
            Ok(_) | Err(Error::Corrupt { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether a sync of the segment failed: nothing more goes there.
    fn is_bad(&self, slot: u16) -> Result<bool> {
        let word = self.files.load(&self.dir, row_at(slot, row::STATE))?;
        Ok(word >> 56 == state::BAD)
    }

    fn extend_front(
        &self,
        segment: &Segment,
        end: u64,
        reserve: u64,
        removing: bool,
    ) -> Result<()> {
        let header = &self.files.header;
        let front = header.number(layout::FRONT_AT);
        let wanted = (end + reserve).next_multiple_of(STEP);
        if wanted <= front {
            return Ok(());
        }
        if removing && end <= front {
            return Ok(());
        }
        let back = header.number(layout::BACK_AT);
        let step = front
            .clamp(FRONT_STEP_MIN, FRONT_STEP_MAX)
            .max(wanted - front)
            .next_multiple_of(STEP);
        let to = (front + step)
            .min((segment.head.size - back) / STEP * STEP)
            .max(wanted);
        self.budget_for(to - front, removing)?;
        // What the footer has there already is not asked for again, nor given back if refused.
        let end = to.min(segment.head.size - back);
        if end > front {
            segment.allocate(&self.dir, front, end)?;
        }
        // What was just allocated is present in this process, if what was before it is.
        let known = self.populated.load(Ordering::Relaxed);
        if known == u64::from(segment.slot) << 48 | front {
            self.populated
                .store(u64::from(segment.slot) << 48 | to, Ordering::Relaxed);
        }
        header.put(layout::FRONT_AT, to);
        self.took(to - front);
        Ok(())
    }

    fn extend_back(&self, segment: &Segment, need: u64) -> Result<()> {
        let header = &self.files.header;
        let back = header.number(layout::BACK_AT);
        if need <= back {
            return Ok(());
        }
        let front = header.number(layout::FRONT_AT);
        let step = back
            .clamp(BACK_STEP_MIN, BACK_STEP_MAX)
            .max(need - back)
            .next_multiple_of(STEP);
        let to = (back + step)
            .min(segment.head.size - front)
            .max(need.next_multiple_of(STEP));
        let (start, end) = (
            (segment.head.size - to).max(front),
            segment.head.size - back,
        );
        if start < end {
            segment.allocate(&self.dir, start, end)?;
        }
        header.put(layout::BACK_AT, to);
        self.took(to - back);
        Ok(())
    }

    /// Has this process's page tables hold the pages ahead of the tail.
    #[inline]
    fn make_present(&self, segment: &Segment, at: u64, bytes: u64) {
        let known = self.populated.load(Ordering::Relaxed);
        let upto = if known >> 48 == u64::from(segment.slot) {
            known & ((1 << 48) - 1)
        } else {
            0
        };
        if at + bytes > upto {
            let front = self.files.header.number(layout::FRONT_AT);
            let to = (at + bytes + FRONT_STEP_MAX).min(front);
            segment.map().populate(at as usize, (to - at) as usize);
            self.populated
                .store(u64::from(segment.slot) << 48 | to, Ordering::Relaxed);
        }
    }

    /// Begins a new segment with room for `bytes` of records.
    pub(crate) fn rotate(&self, bytes: u64, records: u64, removing: bool) -> Result<()> {
        let header = &self.files.header;
        let slot = header.number(layout::SEGS_USED_AT);
        if slot >= SEGMENT_SLOTS as u64 - 1 {
            let what = "all 65,534 rows of its segment table are in use: choose larger segments"
                .to_string();
            return Err(Error::Unsupported {
                path: self.dir.path().into(),
                what,
            });
        }
        let need = RECORDS_AT + bytes + records * SUMMARY_LEN + 3 * STEP;
        let size = header.setting(setting::SEGMENT_SIZE).clamp(
            crate::limits::SEGMENT_SIZE_MIN,
            crate::limits::SEGMENT_SIZE_MAX,
        );
        let size = size.max(need).next_multiple_of(STEP);
        if size > SEGMENT_BYTES_MAX {
            return Err(Error::TooLarge {
                what: "a batch (bytes)",
                bytes,
                max_bytes: crate::limits::BATCH_BYTES_MAX,
            });
        }
        let front = FRONT_STEP_MIN
            .min(size / 2)
            .max((RECORDS_AT + bytes).next_multiple_of(STEP))
            .min(size - STEP);
        let front = if size == FRONT_STEP_MIN {
            size / 2
        } else {
            front
        };
        self.budget_for(front + BACK_STEP_MIN, removing)?;
        let taken = segments::reserve(&self.files, &self.dir)?;
        self.took(taken);
        let id = self.new_file_id(Name::Segment)?;
        header.put(layout::MAKING_AT, id);
        let head = SegmentHead {
            uuid: self.uuid,
            id,
            size,
            first_seq: self.committed() + 1,
            hash_seed: self.hash_seed,
            created_ms: self.created_ms,
        };
        let made = Segment::create(&self.dir, head, slot as u16, front, BACK_STEP_MIN);
        let segment = match made {
            Ok(segment) => segment,
            Err(error) => {
                header.put(layout::MAKING_AT, 0);
                return Err(error);
            }
        };
        // Before the first record is there to be synced.
        header.add(layout::NAMES_AT, 1);
        self.enter_row(&segment, front)?;
        self.took(front + BACK_STEP_MIN);
        self.segments.keep(segment);
        Ok(())
    }

    /// An id for a new file, which nothing has: a counter that lies must not cost a file.
    pub(crate) fn new_file_id(&self, name: impl Fn(u64) -> Name) -> Result<u64> {
        loop {
            let id = self.files.header.add(layout::NEXT_FILE_AT, 1);
            let is_taken = self.dir.stat(Name::Segment(id))?.is_some()
                || self.dir.stat(Name::Value(id))?.is_some()
                || self.dir.stat(name(id))?.is_some();
            if id != 0 && !is_taken {
                return Ok(id);
            }
        }
    }

    /// One journalled change: the new segment has a row, and is the tail.
    fn enter_row(&self, segment: &Segment, front: u64) -> Result<()> {
        let header = &self.files.header;
        let slot = segment.slot;
        let mut journal = Journal::new(header);
        if let Some(tail) = Place::from_bits(header.get(layout::TAIL_AT)) {
            let front = (header.number(layout::FRONT_AT) / 4096) & layout::FRONT_MASK;
            let word = self.files.load(&self.dir, row_at(tail.slot, row::STATE))?;
            let sealed = if word >> 56 == state::BAD {
                state::BAD
            } else {
                state::SEALED
            };
            journal.put(row_at(tail.slot, row::STATE), sealed << 56 | front);
        }
        journal.put(row_at(slot, row::STATE), state::ACTIVE << 56);
        journal.put(row_at(slot, row::LIVE), 0);
        journal.put(row_at(slot, row::DEAD_SEQ), 0);
        journal.put(row_at(slot, row::ID), segment.head.id);
        journal.header(layout::SEGS_USED_AT, u64::from(slot) + 1);
        journal.header(layout::FRONT_AT, front);
        journal.header(layout::BACK_AT, BACK_STEP_MIN);
        journal.header(layout::TAIL_COUNT_AT, 0);
        journal.header(layout::MAKING_AT, 0);
        journal.header(
            layout::TAIL_AT,
            Place {
                slot,
                at: RECORDS_AT,
            }
            .to_bits(),
        );
        journal.commit(&self.files, &self.dir)
    }
}
