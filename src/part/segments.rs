//! The segment table: which id stands behind which slot, and the segments this handle has mapped.
//!
//! Owns the rows of `segs.G`. Holds: a row's id is stored once and ids are never reused, so a
//! mapping is right while its id is the row's. Never looks inside a segment.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use crate::error::{Error, Result};
use crate::format::header::{self as layout, Address, ROW_LEN, Shared, row};
use crate::limits::SEGMENT_SLOTS;
use crate::os::dir::Dir;
use crate::part::segment::Segment;
use crate::part::shared::Files;

const BLOCK: usize = 256;
type Block = Box<[OnceLock<Arc<Segment>>; BLOCK]>;

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

impl Segments {
    pub(crate) fn new(uuid: [u8; 16]) -> Self {
        Segments {
            uuid,
            blocks: (0..SEGMENT_SLOTS / BLOCK)
                .map(|_| OnceLock::new())
                .collect(),
        }
    }

    /// The segment behind `slot`; `None`: the row is free or its file is gone.
    #[inline]
    pub(crate) fn get(&self, files: &Files, dir: &Dir, slot: u16) -> Result<Option<&Arc<Segment>>> {
        let id = id_of(files, slot)?;
        if id == 0 {
            return Ok(None);
        }
        let block = self.blocks[usize::from(slot) / BLOCK]
            .get_or_init(|| Box::new([const { OnceLock::new() }; BLOCK]));
        let seat = &block[usize::from(slot) % BLOCK];
        let segment = match seat.get() {
            Some(segment) => segment,
            None => match Segment::open(dir, &self.uuid, id, slot)? {
                None => return Ok(None),
                Some(segment) => seat.get_or_init(|| Arc::new(segment)),
            },
        };
        if segment.head.id != id {
            return Err(Error::corrupt(
                files.segs.path(),
                u64::from(slot) * ROW_LEN,
                "the segment table names another segment than before",
            ));
        }
        Ok(Some(segment))
    }

    /// The segment behind `slot`, which must be there.
    pub(crate) fn must_get(&self, files: &Files, dir: &Dir, slot: u16) -> Result<Arc<Segment>> {
        match self.get(files, dir, slot)? {
            Some(segment) => Ok(Arc::clone(segment)),
            None => Err(Error::corrupt(
                files.segs.path(),
                u64::from(slot) * ROW_LEN,
                "the segment table names a segment that is not there",
            )),
        }
    }

    /// Keeps a segment this handle has just made.
    pub(crate) fn keep(&self, segment: Segment) -> Arc<Segment> {
        let slot = usize::from(segment.slot);
        let block =
            self.blocks[slot / BLOCK].get_or_init(|| Box::new([const { OnceLock::new() }; BLOCK]));
        Arc::clone(block[slot % BLOCK].get_or_init(|| Arc::new(segment)))
    }
}

/// Slots handed out, oldest first.
pub(crate) fn slots(files: &Files) -> std::ops::Range<u16> {
    1..files
        .header
        .number(layout::SEGS_USED_AT)
        .clamp(1, SEGMENT_SLOTS as u64 - 1) as u16
}

/// Sees to it that one more row finds its space; returns the bytes taken on disk. Under the lock.
pub(crate) fn reserve(files: &Files, dir: &Dir) -> Result<u64> {
    let has = files.header.number(layout::SEGS_BYTES_AT);
    let need = (files.header.number(layout::SEGS_USED_AT) + 2) * ROW_LEN;
    if need <= has {
        return Ok(0);
    }
    let step = (need - has).next_multiple_of(4096);
    files.segs.grow(dir, has, has + step)?;
    files.header.put(layout::SEGS_BYTES_AT, has + step);
    Ok(step)
}
