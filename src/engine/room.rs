//! Room for the next records: a lane's active segment, its growing, and the one after it.
//!
//! Holds: what is stored to was allocated and is present; a refusal leaves everything as it was.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::engine::store::{Proof, Store, Use};
use crate::error::{Error, Result};
use crate::format::bucket::Place;
use crate::format::header::{self as layout, row, state};
use crate::format::name::Name;
use crate::format::segment::{RECORDS_AT, SUMMARY_LEN, SegmentHead};
use crate::limits::{RESERVE_BYTES, SEGMENT_BYTES_MAX};
use crate::part::journal::Journal;
use crate::part::keymap::Keymap;
use crate::part::order::{self};
use crate::part::segment::Segment;
use crate::part::segments::{self, row_at};
use crate::part::shared::setting;

/// Bytes the front of a segment grows by at most: what is made present in one go.
const FRONT_STEP_MAX: u64 = 1 << 20;
const FRONT_STEP_MIN: u64 = 64 * 1024;
/// The same share of a small store's segments.
const FRONT_PARTS: u64 = 8;
/// What is allocated is in pieces of this many bytes: those in which pages are first touched.
const STEP: u64 = crate::limits::SEGMENT_STEP;
/// Bytes the back grows by: room for summaries.
const BACK_STEP_MIN: u64 = STEP;
const BACK_STEP_MAX: u64 = 128 * 1024;
/// A full store has at least so many segments.
const SEGMENTS_MIN: u64 = 32;

/// Where records are appended: their own log, or copies of older ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    Log,
    Copies,
}

impl Lane {
    /// Header word: place bits of the next record; 0: no segment was begun.
    pub(crate) fn tail(self) -> u64 {
        [layout::TAIL_AT, layout::COPY_TAIL_AT][self as usize]
    }

    /// Header word: records in the active segment.
    pub(crate) fn count(self) -> u64 {
        [layout::TAIL_COUNT_AT, layout::COPY_COUNT_AT][self as usize]
    }

    /// Header word: bytes of it allocated from the front.
    pub(crate) fn front(self) -> u64 {
        [layout::FRONT_AT, layout::COPY_FRONT_AT][self as usize]
    }

    /// Header word: bytes of it allocated at the back, for summaries.
    pub(crate) fn back(self) -> u64 {
        [layout::BACK_AT, layout::COPY_BACK_AT][self as usize]
    }
}

/// Where the next records go.
pub(crate) struct Room {
    pub(crate) lane: Lane,
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

    /// Room for `bytes` of records at a lane's tail, allocated and present. `removing`: may use the reserve.
    pub(crate) fn room(
        &self,
        proof: &Proof,
        lane: Lane,
        bytes: u64,
        records: u64,
        removing: bool,
    ) -> Result<Room> {
        let what_for = match removing || proof.in_reserve {
            false => Use::Entries,
            true if lane == Lane::Copies => Use::Copies,
            true => Use::Removing,
        };
        self.room_for(lane, bytes, records, what_for)
    }

    /// Room for a mark of so many bytes in the log.
    pub(crate) fn room_for_mark(&self, proof: &Proof, bytes: u64) -> Result<Room> {
        let _ = proof;
        self.room_for(Lane::Log, bytes, 1, Use::Marks)
    }

    fn room_for(&self, lane: Lane, bytes: u64, records: u64, what_for: Use) -> Result<Room> {
        let header = &self.files.header;
        let removing = what_for != Use::Entries;
        let kept_free = if removing { 0 } else { RESERVE_BYTES };
        for _ in 0..2 {
            let tail = Place::from_bits(header.get(lane.tail()));
            if tail.is_none() && lane == Lane::Log {
                return Err(Error::corrupt(
                    self.dir.path_of(Name::Header),
                    layout::TAIL_AT,
                    "the tail names no segment",
                ));
            }
            let active = match tail {
                Some(tail) => self.active(tail.slot)?.map(|segment| (tail, segment)),
                None => None,
            };
            let Some((tail, segment)) = active else {
                self.rotate_for(lane, bytes + kept_free, records, what_for)?;
                continue;
            };
            let index = header.number(lane.count());
            let size = segment.head.size;
            let reserve = if removing {
                0
            } else {
                RESERVE_BYTES.min(size / 16)
            };
            // One that was begun under a higher limit is too large to be given back in time.
            let is_oversized = !removing && tail.at > self.segment_size() && tail.at > bytes * 2;
            if !is_oversized
                && (tail.at + bytes + reserve).next_multiple_of(STEP)
                    + ((index + records) * SUMMARY_LEN).next_multiple_of(STEP)
                    <= size
            {
                self.extend_front(lane, &segment, tail.at + bytes, reserve, what_for)?;
                self.extend_back(lane, &segment, (index + records) * SUMMARY_LEN)?;
                self.make_present(lane, &segment, tail.at, bytes);
                return Ok(Room {
                    lane,
                    segment,
                    at: tail.at,
                    index,
                });
            }
            self.rotate_for(lane, bytes + kept_free, records, what_for)?;
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
                Ok(Some(Arc::clone(&segment)))
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
        lane: Lane,
        segment: &Segment,
        end: u64,
        reserve: u64,
        what_for: Use,
    ) -> Result<()> {
        let header = &self.files.header;
        let front = header.number(lane.front());
        let wanted = (end + reserve).next_multiple_of(STEP);
        if wanted <= front {
            return Ok(());
        }
        if what_for != Use::Entries && end <= front {
            return Ok(());
        }
        let back = header.number(lane.back());
        let step = front
            .clamp(front_step(segment.head.size), FRONT_STEP_MAX)
            .max(wanted - front)
            .next_multiple_of(STEP);
        let to = (front + step)
            .min((segment.head.size - back) / STEP * STEP)
            .max(wanted);
        self.budget_for(to - front, what_for)?;
        // What the footer has there already is not asked for again, nor given back if refused.
        let end = to.min(segment.head.size - back);
        if end > front {
            segment.allocate(&self.dir, front, end)?;
        }
        // What was just allocated is present in this process, if what was before it is.
        let populated = &self.populated[lane as usize];
        if populated.load(Ordering::Relaxed) == present(segment, front) {
            populated.store(present(segment, to), Ordering::Relaxed);
        }
        header.put(lane.front(), to);
        self.took(to - front);
        Ok(())
    }

    fn extend_back(&self, lane: Lane, segment: &Segment, need: u64) -> Result<()> {
        let header = &self.files.header;
        let back = header.number(lane.back());
        if need <= back {
            return Ok(());
        }
        let front = header.number(lane.front());
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
        header.put(lane.back(), to);
        self.took(to - back);
        Ok(())
    }

    /// Has this process's page tables hold the pages ahead of the tail.
    #[inline]
    fn make_present(&self, lane: Lane, segment: &Segment, at: u64, bytes: u64) {
        let populated = &self.populated[lane as usize];
        let known = populated.load(Ordering::Relaxed);
        let upto = if known >> PRESENT_BITS == present(segment, 0) >> PRESENT_BITS {
            known & ((1 << PRESENT_BITS) - 1)
        } else {
            0
        };
        if at + bytes > upto {
            let front = self.files.header.number(lane.front());
            let to = (at + bytes + FRONT_STEP_MAX).min(front);
            segment.map().populate(at as usize, (to - at) as usize);
            populated.store(present(segment, to), Ordering::Relaxed);
        }
    }

    /// Bytes of a segment: what is set, but small beside the limit, for it is given back whole.
    pub(crate) fn segment_size(&self) -> u64 {
        let header = &self.files.header;
        let share = header.setting(setting::SIZE_LIMIT) / SEGMENTS_MIN;
        header
            .setting(setting::SEGMENT_SIZE)
            .min(share)
            .clamp(
                crate::limits::SEGMENT_SIZE_MIN,
                crate::limits::SEGMENT_SIZE_MAX,
            )
            .next_multiple_of(STEP)
    }

    /// Begins a new segment with room for `bytes` of records.
    pub(crate) fn rotate(
        &self,
        lane: Lane,
        bytes: u64,
        records: u64,
        removing: bool,
    ) -> Result<()> {
        let what_for = match (removing, lane) {
            (false, _) => Use::Entries,
            (true, Lane::Log) => Use::Removing,
            (true, Lane::Copies) => Use::Copies,
        };
        self.rotate_for(lane, bytes, records, what_for)
    }

    fn rotate_for(&self, lane: Lane, bytes: u64, records: u64, what_for: Use) -> Result<()> {
        let header = &self.files.header;
        let Some((slot, is_new_row)) = segments::vacant_row(&self.files)? else {
            let what = "all 65,534 rows of its segment table are in use: choose larger segments"
                .to_string();
            return Err(Error::Unsupported {
                path: self.dir.path().into(),
                what,
            });
        };
        let need = RECORDS_AT + bytes + records * SUMMARY_LEN + 3 * STEP;
        let size = self.segment_size().max(need).next_multiple_of(STEP);
        if size > SEGMENT_BYTES_MAX {
            return Err(Error::TooLarge {
                what: "a batch (bytes)",
                bytes,
                max_bytes: crate::limits::BATCH_BYTES_MAX,
            });
        }
        let front = front_step(size)
            .max((RECORDS_AT + bytes).next_multiple_of(STEP))
            .min(size - STEP);
        self.budget_for(front + BACK_STEP_MIN, what_for)?;
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
            life_seq: header.get(layout::LIFE_SEQ_AT),
            life: header.get(layout::LIFE_AT),
            copies: lane == Lane::Copies,
        };
        let made = Segment::create(&self.dir, head, slot, front, BACK_STEP_MIN);
        let segment = match made {
            Ok(segment) => segment,
            Err(error) => {
                header.put(layout::MAKING_AT, 0);
                return Err(error);
            }
        };
        // Before the first record is there to be synced.
        header.add(layout::NAMES_AT, 1);
        self.enter_row(lane, &segment, front, is_new_row)?;
        self.took(front + BACK_STEP_MIN);
        self.segments.keep(segment);
        self.look_at_dead_bytes()
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

    /// One journalled change: the new segment has a row, and is the lane's tail.
    fn enter_row(&self, lane: Lane, segment: &Segment, front: u64, is_new_row: bool) -> Result<()> {
        let header = &self.files.header;
        let slot = segment.slot;
        let mut journal = Journal::new(header);
        if let Some(tail) = Place::from_bits(header.get(lane.tail())) {
            let front = (header.number(lane.front()) / 4096) & layout::FRONT_MASK;
            let word = segments::state_of(&self.files, tail.slot)?;
            let sealed = if word >> 56 == state::BAD {
                state::BAD
            } else {
                state::SEALED
            };
            journal.put(row_at(tail.slot, row::LINES), header.number(lane.count()));
            journal.put(row_at(tail.slot, row::END), tail.at);
            journal.put(
                row_at(tail.slot, row::STATE),
                sealed << 56 | word & layout::COPIES | front,
            );
        }
        let copies = if lane == Lane::Copies {
            layout::COPIES
        } else {
            0
        };
        journal.put(row_at(slot, row::STATE), state::ACTIVE << 56 | copies);
        journal.put(row_at(slot, row::LIVE), 0);
        journal.put(row_at(slot, row::DEAD_SEQ), 0);
        journal.put(row_at(slot, row::FIRST_SEQ), segment.head.first_seq);
        journal.put(row_at(slot, row::LINES), 0);
        journal.put(row_at(slot, row::END), 0);
        journal.put(row_at(slot, row::NOTES), 0);
        journal.put(row_at(slot, row::ID), segment.head.id);
        if is_new_row {
            journal.header(layout::SEGS_USED_AT, u64::from(slot) + 1);
        }
        journal.header(lane.front(), front);
        journal.header(lane.back(), BACK_STEP_MIN);
        journal.header(lane.count(), 0);
        journal.header(layout::MAKING_AT, 0);
        journal.header(
            lane.tail(),
            Place {
                slot,
                at: RECORDS_AT,
            }
            .to_bits(),
        );
        journal.commit(&self.files, &self.dir)
    }
}

/// Bytes the front of a segment of `size` bytes begins with, and grows by at least.
fn front_step(size: u64) -> u64 {
    (size / FRONT_PARTS)
        .clamp(STEP, FRONT_STEP_MIN)
        .next_multiple_of(STEP)
}

/// Bytes that a word of `populated` holds beside the segment's id.
const PRESENT_BITS: u32 = 40;

/// The pages of a segment up to `to` are present.
fn present(segment: &Segment, to: u64) -> u64 {
    segment.head.id << PRESENT_BITS | to
}
