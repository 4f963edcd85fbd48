//! The segment table: which id stands behind which slot, and the segments this handle has mapped.
//!
//! Owns the rows of `segs.G`. Holds: rows are used again, ids never, so a mapping is right while its id
//! is the row's. Never looks inside a segment.

use std::ops::Deref;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use arc_swap::{ArcSwapOption, Guard};

use crate::error::{Error, Result};
use crate::format::header::{self as layout, Address, ROW_LEN, Shared, row};
use crate::format::segment::RECORDS_AT;
use crate::limits::SEGMENT_SLOTS;
use crate::os::dir::Dir;
use crate::part::segment::Segment;
use crate::part::shared::Files;

const BLOCK: usize = 256;
/// The most a damaged row can say of bytes or records.
const ROW_NUMBER_MAX: u64 = u64::MAX / SEGMENT_SLOTS as u64;
type Block = Box<[ArcSwapOption<Segment>; BLOCK]>;

/// The segments one handle has mapped, by slot.
#[derive(Debug)]
pub(crate) struct Segments {
    uuid: [u8; 16],
    blocks: Vec<OnceLock<Block>>,
}

/// Where a field of a row stands.
pub(crate) fn row_at(slot: u16, field: u64) -> Address {
    Address {
        file: Shared::Segments,
        at: u64::from(slot) * ROW_LEN + field,
        half: false,
    }
}

/// The id in a row; 0: the row is free.
#[inline]
pub(crate) fn id_of(files: &Files, slot: u16) -> Result<u64> {
    Ok(files
        .segs
        .word(u64::from(slot) * ROW_LEN + row::ID)?
        .load(Ordering::Acquire))
}

/// A row's state word: see [`row`].
pub(crate) fn state_of(files: &Files, slot: u16) -> Result<u64> {
    Ok(files
        .segs
        .word(row_at(slot, row::STATE).at)?
        .load(Ordering::Acquire))
}

/// Whether the row's segment is of the second lane.
pub(crate) fn is_copies(files: &Files, slot: u16) -> Result<bool> {
    Ok(state_of(files, slot)? & layout::COPIES != 0)
}

/// A mapped segment, kept while this is held even if its file goes.
pub(crate) struct Seat(Guard<Option<Arc<Segment>>>);

impl Deref for Seat {
    type Target = Arc<Segment>;

    #[inline]
    fn deref(&self) -> &Arc<Segment> {
        match &*self.0 {
            Some(segment) => segment,
            // Made from one that is there alone.
            None => unreachable!("a seat is taken"),
        }
    }
}

impl Segments {
    pub(crate) fn new(uuid: [u8; 16]) -> Self {
        Segments {
            uuid,
            blocks: (0..SEGMENT_SLOTS / BLOCK)
                .map(|_| OnceLock::new())
                .collect(),
        }
    }

    fn seat(&self, slot: u16) -> &ArcSwapOption<Segment> {
        let block = self.blocks[usize::from(slot) / BLOCK]
            .get_or_init(|| Box::new([const { ArcSwapOption::const_empty() }; BLOCK]));
        &block[usize::from(slot) % BLOCK]
    }

    /// The segment behind `slot`; `None`: the row is free or its file is gone.
    #[inline]
    pub(crate) fn get(&self, files: &Files, dir: &Dir, slot: u16) -> Result<Option<Seat>> {
        let id = id_of(files, slot)?;
        if id == 0 {
            return Ok(None);
        }
        let seat = self.seat(slot).load();
        if seat.as_ref().is_some_and(|segment| segment.head.id == id) {
            return Ok(Some(Seat(seat)));
        }
        self.open(dir, slot, id)
    }

    #[cold]
    fn open(&self, dir: &Dir, slot: u16, id: u64) -> Result<Option<Seat>> {
        let Some(segment) = Segment::open(dir, &self.uuid, id, slot)? else {
            return Ok(None);
        };
        let segment = Arc::new(segment);
        self.seat(slot).store(Some(Arc::clone(&segment)));
        Ok(Some(Seat(Guard::from_inner(Some(segment)))))
    }

    /// The segment behind `slot`, which must be there.
    pub(crate) fn must_get(&self, files: &Files, dir: &Dir, slot: u16) -> Result<Arc<Segment>> {
        match self.get(files, dir, slot)? {
            Some(segment) => Ok(Arc::clone(&segment)),
            None => Err(Error::corrupt(
                files.segs.path(),
                u64::from(slot) * ROW_LEN,
                "the segment table names a segment that is not there",
            )),
        }
    }

    /// Keeps a segment this handle has just made.
    pub(crate) fn keep(&self, segment: Segment) {
        self.seat(segment.slot).store(Some(Arc::new(segment)));
    }

    /// Lets go of the mappings whose segments are gone.
    pub(crate) fn forget_gone(&self, files: &Files) -> Result<()> {
        for (index, block) in self.blocks.iter().enumerate() {
            let Some(block) = block.get() else { continue };
            for (n, seat) in block.iter().enumerate() {
                let known = seat.load();
                let Some(id) = known.as_ref().map(|segment| segment.head.id) else {
                    continue;
                };
                if id_of(files, (index * BLOCK + n) as u16)? != id {
                    // Unless the row's next segment has just taken the seat.
                    seat.compare_and_swap(&known, None);
                }
            }
        }
        Ok(())
    }
}

/// A segment that has a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) slot: u16,
    pub(crate) id: u64,
    /// The row's state word.
    pub(crate) state: u64,
    /// Bytes of records that entries still need.
    pub(crate) live: u64,
    /// Smallest sequence of a dead record; 0: none.
    pub(crate) dead_seq: u64,
    /// Records of a sealed one; 0: not known.
    pub(crate) lines: u64,
    /// Where the records of a sealed one end, bytes; 0: not known.
    pub(crate) end: u64,
    /// No record of it has a smaller sequence.
    pub(crate) first_seq: u64,
    /// Bytes of deletes, kills and drops that were needed when they came here.
    pub(crate) notes: u64,
}

impl Row {
    /// Which state it is in.
    pub(crate) fn is(&self, state: u64) -> bool {
        self.state >> 56 == state
    }

    /// Bytes of a sealed one that a copy of it would have, as a share of its records'. `oldest`: the
    /// smallest sequence of a dead record anywhere: what removes older ones is needed.
    pub(crate) fn needed_share(&self, oldest: u64) -> f64 {
        let notes = if oldest < self.first_seq {
            self.notes
        } else {
            0
        };
        (self.live + notes) as f64 / self.end.saturating_sub(RECORDS_AT).max(1) as f64
    }

    pub(crate) fn is_copies(&self) -> bool {
        self.state & layout::COPIES != 0
    }
}

/// Every segment that has a row, oldest first.
pub(crate) fn rows(files: &Files) -> Result<Vec<Row>> {
    let end = files
        .header
        .number(layout::SEGS_USED_AT)
        .clamp(1, SEGMENT_SLOTS as u64 - 1) as u16;
    let mut rows = Vec::new();
    for slot in 1..end {
        let id = id_of(files, slot)?;
        if id != 0 {
            let load = |field| -> Result<u64> {
                Ok(files
                    .segs
                    .word(row_at(slot, field).at)?
                    .load(Ordering::Relaxed))
            };
            // What counts something stays small enough that those of all rows can be added up.
            let number = |field| Ok::<u64, Error>(load(field)?.min(ROW_NUMBER_MAX));
            let state = load(row::STATE)?;
            rows.push(Row {
                slot,
                id,
                state,
                live: match state >> 56 {
                    // A sequence, not a number of bytes.
                    layout::state::EMPTY => load(row::LIVE)?,
                    _ => number(row::LIVE)?,
                },
                dead_seq: load(row::DEAD_SEQ)?,
                lines: number(row::LINES)?,
                end: number(row::END)?,
                first_seq: load(row::FIRST_SEQ)?,
                notes: number(row::NOTES)?,
            });
        }
    }
    rows.sort_unstable_by_key(|row| row.id);
    Ok(rows)
}

/// A row for a new segment, and whether it was never used; `None`: all are in use. Under the lock.
pub(crate) fn vacant_row(files: &Files) -> Result<Option<(u16, bool)>> {
    let used = files
        .header
        .number(layout::SEGS_USED_AT)
        .clamp(1, SEGMENT_SLOTS as u64 - 1) as u16;
    for slot in 1..used {
        if id_of(files, slot)? == 0 {
            return Ok(Some((slot, false)));
        }
    }
    Ok((usize::from(used) < SEGMENT_SLOTS - 1).then_some((used, true)))
}

/// Sees to it that one more row finds its space; returns the bytes taken on disk. Under the lock.
pub(crate) fn reserve(files: &Files, dir: &Dir) -> Result<u64> {
    let has = files.header.number(layout::SEGS_BYTES_AT);
    let used = files.header.number(layout::SEGS_USED_AT);
    if used * ROW_LEN > has {
        return Err(files.more_used_than_has(&files.segs, has));
    }
    let need = (used + 2) * ROW_LEN;
    if need <= has {
        return Ok(0);
    }
    let step = (need - has).next_multiple_of(4096);
    files.segs.grow(dir, has, has + step)?;
    files.header.put(layout::SEGS_BYTES_AT, has + step);
    Ok(step)
}
