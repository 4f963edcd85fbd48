//! Segments: append-only files of records, with a summary growing down from the end.
//!
//! Owns the bytes of `*.seg` files. Holds: bytes below the tail never change; bytes past it mean
//! nothing yet; only what was allocated is stored to. Never takes a lock or deletes a file.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::error::{Error, Result};
use crate::format::name::Name;
use crate::format::record::{self, Fault, Head, Record, SHAPE_AT};
use crate::format::seed::Seed;
use crate::format::segment::{HeadFault, RECORDS_AT, SUMMARY_LEN, SegmentHead, Summary};
use crate::limits::SEGMENT_BYTES_MAX;
use crate::os::dir::Dir;
use crate::os::raw::Map;

/// Records from this length on are read by `pread`, so that a failing medium is an error.
const PREAD_FROM: usize = 64 * 1024;

/// One segment file, mapped whole.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) head: SegmentHead,
    pub(crate) seed: Seed,
    pub(crate) slot: u16,
    /// Bytes its header says it should have, when the file has fewer.
    pub(crate) cut_from: Option<u64>,
    map: Arc<Map>,
}

/// What a place holds.
#[derive(Debug)]
pub(crate) enum Read {
    /// A whole record; its bytes are in the buffer.
    Whole(Head),
    /// Not the record that was written there.
    Damaged(Fault),
}

impl Segment {
    /// Makes the file, its first bytes allocated and its header written.
    pub(crate) fn create(
        dir: &Dir,
        head: SegmentHead,
        slot: u16,
        front: u64,
        back: u64,
    ) -> Result<Segment> {
        let name = Name::Segment(head.id);
        let file = dir.create(name)?;
        let made = dir
            .set_len(name, &file, head.size)
            .and_then(|()| dir.allocate(name, &file, 0, front))
            .and_then(|()| dir.allocate(name, &file, head.size - back, back));
        let mapped = made.and_then(|()| {
            Map::new(&file, 0, head.size as usize)
                .map_err(|error| Error::io("mapping", dir.path_of(name), error))
        });
        let map = mapped.inspect_err(|_| {
            // The error that is told is the first one.
            let _ = dir.remove(name);
        })?;
        map.copy_in(0, &head.encode());
        Ok(Segment {
            head,
            seed: Seed::of_segment(&head.uuid, head.id),
            slot,
            cut_from: None,
            map: Arc::new(map),
        })
    }

    /// Opens the segment `id`; `None`: there is no such file.
    pub(crate) fn open(dir: &Dir, uuid: &[u8; 16], id: u64, slot: u16) -> Result<Option<Segment>> {
        let name = Name::Segment(id);
        let Some(file) = dir.open_file(name)? else {
            return Ok(None);
        };
        let damaged = |what: &str| Error::corrupt(dir.path_of(name), 0, what);
        let bytes = dir.read_at(name, &file, 0, RECORDS_AT as usize)?;
        let head = match SegmentHead::decode(&bytes) {
            Ok(head) => head,
            Err(HeadFault::Damaged) => {
                return Err(damaged("this is no segment, or its header is damaged"));
            }
            Err(HeadFault::Newer(version)) => {
                let what = format!(
                    "it is a segment of format version {version}; this larder reads version 1"
                );
                return Err(Error::Unsupported {
                    path: dir.path_of(name),
                    what,
                });
            }
        };
        if head.uuid != *uuid || head.id != id {
            return Err(damaged("this segment belongs to another store"));
        }
        Segment::of_file(dir, &file, head, slot).map(Some)
    }

    /// Opens a segment whose own header cannot be read, by what is known of it; its size is the file's.
    pub(crate) fn open_as(dir: &Dir, mut head: SegmentHead, slot: u16) -> Result<Option<Segment>> {
        let name = Name::Segment(head.id);
        let Some(file) = dir.open_file(name)? else {
            return Ok(None);
        };
        head.size = dir.stat_open(name, &file)?.len / 8 * 8;
        Segment::of_file(dir, &file, head, slot).map(Some)
    }

    fn of_file(dir: &Dir, file: &File, mut head: SegmentHead, slot: u16) -> Result<Segment> {
        let name = Name::Segment(head.id);
        let len = dir.stat_open(name, file)?.len;
        if head.size > SEGMENT_BYTES_MAX || head.size < RECORDS_AT + SUMMARY_LEN {
            let what = "its header names an impossible size";
            return Err(Error::corrupt(dir.path_of(name), 0, what));
        }
        // Cut short: what is left can still be read; its footer is gone.
        let cut_from = (len < head.size).then_some(head.size);
        head.size = head.size.min(len / 8 * 8);
        let map = Map::new(file, 0, head.size as usize)
            .map_err(|error| Error::io("mapping", dir.path_of(name), error))?;
        Ok(Segment {
            head,
            seed: Seed::of_segment(&head.uuid, head.id),
            slot,
            cut_from,
            map: Arc::new(map),
        })
    }

    /// Copies the bytes `from..to`, both multiples of 8, inside the segment.
    pub(crate) fn copy_range(
        &self,
        dir: &Dir,
        from: u64,
        to: u64,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let to = to.min(self.head.size / 8 * 8);
        if from < to {
            let fault = |error| Error::io("reading", dir.path_of(self.name()), error);
            self.map
                .touch(from as usize, (to - from) as usize)
                .map_err(fault)?;
            self.map
                .copy_out(from as usize, (to - from) as usize / 8 * 8, out);
        }
        Ok(())
    }

    pub(crate) fn name(&self) -> Name {
        Name::Segment(self.head.id)
    }

    pub(crate) fn map(&self) -> &Arc<Map> {
        &self.map
    }

    /// Copies the record at `at` into `out` (replaced) and verifies the copy.
    #[inline]
    pub(crate) fn read(&self, dir: &Dir, at: u64, out: &mut Vec<u8>) -> Result<Read> {
        match self.copy(dir, at, out)? {
            None => Ok(Read::Damaged(Fault::Head)),
            Some(()) => Ok(match Record::decode(out, self.seed, at) {
                Ok(record) => Read::Whole(record.head),
                Err(fault) => Read::Damaged(fault),
            }),
        }
    }

    /// Copies what claims to be a record; `None`: what is there claims to be none.
    #[inline]
    fn copy(&self, dir: &Dir, at: u64, out: &mut Vec<u8>) -> Result<Option<()>> {
        out.clear();
        let size = self.head.size;
        let fault = |error| Error::io("reading", dir.path_of(self.name()), error);
        if at < RECORDS_AT || at + record::HEAD_LEN as u64 > size {
            return Ok(None);
        }
        self.map
            .touch(at as usize, record::HEAD_LEN + record::OPTIONS_MAX)
            .map_err(fault)?;
        let word = |offset: usize| {
            let at = at + offset as u64;
            (at + 8 <= size).then(|| self.map.word(at as usize).load(Ordering::Relaxed))
        };
        let Some(len) = word(SHAPE_AT as usize).and_then(|shape| record::claimed_len(shape, word))
        else {
            return Ok(None);
        };
        if at + len as u64 > size {
            return Ok(None);
        }
        if len >= PREAD_FROM {
            let name = self.name();
            let Some(file) = dir.open_to_read(name)? else {
                return Ok(None);
            };
            *out = dir.read_at(name, &file, at, len)?;
            return Ok((out.len() == len).then_some(()));
        }
        self.map.touch(at as usize, len).map_err(fault)?;
        self.map.copy_out(at as usize, len, out);
        Ok(Some(()))
    }

    /// Has the line at `at` come into the processor's cache; past the end: nothing.
    #[inline]
    pub(crate) fn prefetch(&self, at: u64) {
        if at < self.head.size {
            self.map.prefetch(at as usize);
        }
    }

    /// The verified fixed part of the record at `at`; key and value are not looked at.
    pub(crate) fn read_head(&self, dir: &Dir, at: u64) -> Result<Option<Head>> {
        self.read_options(dir, at, &mut Vec::new())
    }

    /// The tag ids of the record at `at`; none where its header is damaged.
    pub(crate) fn read_tags(&self, dir: &Dir, at: u64) -> Result<Vec<u32>> {
        let mut bytes = Vec::new();
        let head = self.read_options(dir, at, &mut bytes)?;
        Ok(head.map_or(Vec::new(), |head| record::tags_of(&head, &bytes).collect()))
    }

    /// As [`Segment::read_head`]; the fixed part and the options are copied into `bytes`.
    pub(crate) fn read_options(
        &self,
        dir: &Dir,
        at: u64,
        bytes: &mut Vec<u8>,
    ) -> Result<Option<Head>> {
        let most =
            (record::HEAD_LEN + record::OPTIONS_MAX + crate::limits::TAGS_MAX * 4 + 8) as u64;
        if at < RECORDS_AT || at + record::HEAD_LEN as u64 > self.head.size {
            return Ok(None);
        }
        let first = (record::HEAD_LEN + record::OPTIONS_MAX) as u64;
        for want in [first, most] {
            let len = want.min(self.head.size - at) / 8 * 8;
            self.map
                .touch(at as usize, len as usize)
                .map_err(|error| Error::io("reading", dir.path_of(self.name()), error))?;
            bytes.clear();
            self.map.copy_out(at as usize, len as usize, bytes);
            match record::decode_head(bytes, self.seed, at) {
                Ok(head) if at + head.len() as u64 <= self.head.size => return Ok(Some(head)),
                Err(Fault::Short) => {}
                _ => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Stores bytes of records at `at`, inside what was allocated.
    pub(crate) fn write(&self, at: u64, bytes: &[u8]) {
        self.map.copy_in(at as usize, bytes);
    }

    /// Stores the `index`-th summary.
    pub(crate) fn write_summary(&self, index: u64, summary: &Summary) {
        let at = Summary::position(self.head.size, index) as usize;
        let [low, high] = summary.encode(self.seed, index);
        self.map.word(at).store(low, Ordering::Relaxed);
        self.map.word(at + 8).store(high, Ordering::Relaxed);
    }

    /// Whether anything was ever stored as the `index`-th summary.
    ///
    /// Only for one inside what was allocated.
    pub(crate) fn has_summary_bytes(&self, index: u64) -> bool {
        let at = Summary::position(self.head.size, index);
        let load = |at: u64| self.map.word(at as usize).load(Ordering::Relaxed);
        load(at) != 0 || load(at + 8) != 0
    }

    /// What stands in the `index`-th line of the footer; `None`: there can be none.
    ///
    /// Through the mapping: for lines that are in use, and the one behind them.
    pub(crate) fn line(&self, index: u64) -> Option<Line> {
        let from_end = index.checked_add(1)?.checked_mul(SUMMARY_LEN)?;
        let at = self.head.size.checked_sub(from_end)?;
        if at < RECORDS_AT || self.cut_from.is_some() {
            return None;
        }
        self.map.touch(at as usize, SUMMARY_LEN as usize).ok()?;
        let load = |at: u64| self.map.word(at as usize).load(Ordering::Relaxed);
        let words = [load(at), load(at + 8)];
        if words == [0, 0] {
            return Some(Line::Blank);
        }
        Some(match Summary::decode(words, self.seed, index) {
            Some(summary) => Line::Whole(summary),
            None => Line::Damaged,
        })
    }

    /// Takes space for the bytes `from..to`; the pages are made present.
    pub(crate) fn allocate(&self, dir: &Dir, from: u64, to: u64) -> Result<()> {
        let name = self.name();
        let Some(file) = dir.open_file(name)? else {
            return Err(Error::Moved {
                path: dir.path_of(name),
            });
        };
        dir.allocate(name, &file, from, to - from)?;
        self.map.populate(from as usize, (to - from) as usize);
        Ok(())
    }

    /// Whether the 32 bytes at `at` are all zero: nobody began a record there.
    pub(crate) fn is_blank(&self, at: u64) -> bool {
        let mut bytes = Vec::new();
        let len = (self.head.size - at).min(record::HEAD_LEN as u64) as usize / 8 * 8;
        self.map.copy_out(at as usize, len, &mut bytes);
        bytes.iter().all(|&byte| byte == 0)
    }

    /// Stores zeros over `from..to`, from the end backwards.
    pub(crate) fn blank(&self, from: u64, to: u64) {
        let mut at = to / 8 * 8;
        while at > from {
            at -= 8;
            self.map.word(at as usize).store(0, Ordering::Release);
        }
    }
}

/// What stands in a line of a footer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Line {
    Whole(Summary),
    Damaged,
    /// Nobody wrote there.
    Blank,
}

/// Bytes of the footer read at a time.
const BLOCK_LEN: u64 = 64 * 1024;

/// A segment's footer, read through `pread`: what is not allocated is not touched.
#[derive(Debug, Default)]
pub(crate) struct Footer {
    file: Option<File>,
    /// Which block is at hand, counted from the end of the file.
    block: Option<u64>,
    bytes: Vec<u8>,
}

impl Footer {
    /// The `index`-th line; `None`: none, or damaged.
    pub(crate) fn line(&mut self, dir: &Dir, segment: &Segment, index: u64) -> Option<Summary> {
        Summary::decode(self.words(dir, segment, index)?, segment.seed, index)
    }

    /// Whether anything stands in the `index`-th line.
    pub(crate) fn has_bytes(&mut self, dir: &Dir, segment: &Segment, index: u64) -> bool {
        self.words(dir, segment, index)
            .is_some_and(|words| words != [0, 0])
    }

    fn words(&mut self, dir: &Dir, segment: &Segment, index: u64) -> Option<[u64; 2]> {
        let size = segment.head.size;
        let from_end = index.checked_add(1)?.checked_mul(SUMMARY_LEN)?;
        let at = size.checked_sub(from_end).filter(|&at| at >= RECORDS_AT)?;
        let block = index * SUMMARY_LEN / BLOCK_LEN;
        let start = size.saturating_sub((block + 1) * BLOCK_LEN);
        if self.block != Some(block) {
            let name = segment.name();
            if self.file.is_none() {
                self.file = dir.open_to_read(name).ok().flatten();
            }
            let len = size - block * BLOCK_LEN - start;
            self.bytes = dir
                .read_at(name, self.file.as_ref()?, start, len as usize)
                .ok()?;
            self.block = Some(block);
        }
        let bytes = self.bytes.get((at - start) as usize..)?.get(..16)?;
        let (words, _) = bytes.as_chunks::<8>();
        Some([u64::from_le_bytes(words[0]), u64::from_le_bytes(words[1])])
    }
}
