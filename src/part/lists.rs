//! Lists of cells: one for each tag, and one for each stretch of time in which entries expire.
//!
//! A list is a chain of blocks of 64 bytes, cells appended at its tail, taken away block by block at its
//! head; all blocks but the last are full. A cell is (31 hash bits) << 32 | (low 32 bits of a sequence),
//! and is alive while the keymap leads to a record that says so: stale ones cost nothing to leave.
//! Owns rows and blocks; never looks at a record.
//!
//! | row at | what                                                        |
//! |-------:|-------------------------------------------------------------|
//! |      0 | first block u32, last block u32; 0: none                    |
//! |      8 | cells                                                       |
//! |     16 | generation: goes up when cells are taken away; odd meanwhile|
//! |     24 | entries that have the tag                                   |
//! |     32 | their bytes, as in `volume`                                 |
//! |     40 | the tag's quota, bytes; 0: none                             |
//!
//! A block is seven cells and a link to the next (`format/bucket.rs`).

use std::sync::atomic::Ordering;

use crate::error::{Error, Result};
use crate::format::bucket::{self, KNOWN_MASK, Link, read_link};
use crate::format::header::{self as layout, Address, SUSPECT_AT, Shared};
use crate::os::dir::Dir;
use crate::part::journal::Journal;
use crate::part::shared::Files;

pub(crate) const ROW_LEN: u64 = 64;
pub(crate) const BLOCK_LEN: u64 = 64;
/// Cells of a block.
pub(crate) const CELLS: u64 = 7;
const LINK_AT: u64 = CELLS * 8;
/// Rows of expiry lists: levels of 64, in which one list is 1 s, 64 s, 4,096 s, 262,144 s long.
pub(crate) const LEVELS: u64 = 4;
pub(crate) const LEVEL_BITS: u64 = 6;
/// The first tag's row is that of id 1, behind the expiry lists.
const TAGS_FROM: u64 = LEVELS << LEVEL_BITS;
/// Ids are given one by one: nobody skips so many.
const TAGS_AT_ONCE_MAX: u64 = 1 << 20;
/// Rows a store begins with.
pub(crate) const ROWS_MIN: u64 = TAGS_FROM + 64;

pub(crate) mod row {
    pub(crate) const ENDS: u64 = 0;
    pub(crate) const CELLS: u64 = 8;
    pub(crate) const GENERATION: u64 = 16;
    pub(crate) const ENTRIES: u64 = 24;
    pub(crate) const BYTES: u64 = 32;
    pub(crate) const QUOTA: u64 = 40;
}

/// Which list: the number of its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct List(u64);

impl List {
    /// Of a tag.
    pub(crate) fn of_tag(id: u32) -> List {
        List(TAGS_FROM + u64::from(id))
    }

    /// Whether it is one of expiry; else it is a tag's.
    pub(crate) fn is_of_time(self) -> bool {
        self.0 < TAGS_FROM
    }

    /// The tag whose list it is; 0: none.
    pub(crate) fn tag(self) -> u32 {
        self.0.saturating_sub(TAGS_FROM) as u32
    }

    /// The `index`-th list of a level of expiry, counted since the store's birth.
    pub(crate) fn of_time(level: u64, index: u64) -> List {
        List(level << LEVEL_BITS | index & ((1 << LEVEL_BITS) - 1))
    }

    pub(crate) fn at(self, field: u64) -> Address {
        Address {
            file: Shared::Lists,
            at: self.0 * ROW_LEN + field,
            half: false,
        }
    }
}

/// One posting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Posting {
    pub(crate) hash: u64,
    /// The lowest 32 bits of a sequence.
    pub(crate) seq_low: u32,
}

impl Posting {
    pub(crate) fn new(hash: u64, seq: u64) -> Posting {
        Posting {
            hash: hash & KNOWN_MASK,
            seq_low: seq as u32,
        }
    }

    pub(crate) fn to_bits(self) -> u64 {
        self.hash << 32 | u64::from(self.seq_low)
    }

    fn from_bits(bits: u64) -> Posting {
        Posting {
            hash: bits >> 32,
            seq_low: bits as u32,
        }
    }
}

/// A field of a list's row; 0 where the table does not reach.
#[inline]
pub(crate) fn field(files: &Files, list: List, field: u64) -> Result<u64> {
    if (list.0 + 1) * ROW_LEN > files.header.number(layout::LISTS_BYTES_AT) {
        return Ok(0);
    }
    Ok(files.lists.word(list.at(field).at)?.load(Ordering::Acquire))
}

/// As [`field`], for what counts something.
#[inline]
pub(crate) fn number(files: &Files, list: List, which: u64) -> Result<u64> {
    Ok(field(files, list, which)?.min(1 << 48))
}

fn ends(files: &Files, list: List) -> Result<(u64, u64)> {
    let word = field(files, list, row::ENDS)?;
    Ok((word & 0xFFFF_FFFF, word >> 32))
}

fn cell_at(block: u64, n: u64) -> Address {
    Address {
        file: Shared::Posts,
        at: block * BLOCK_LEN + n * 8,
        half: false,
    }
}

fn link_at(block: u64) -> Address {
    cell_at(block, CELLS)
}

/// The block a link leads to; 0: none.
fn next_of(files: &Files, block: u64) -> Result<u64> {
    let word = files.posts.word(link_at(block).at)?.load(Ordering::Acquire);
    match read_link(word as u32) {
        Link::End => Ok(0),
        Link::To(index) => Ok(u64::from(index)),
        Link::Damaged => {
            files.header.put(SUSPECT_AT, 1);
            let what = "a link between posting blocks is damaged";
            Err(Error::corrupt(
                files.posts.path(),
                block * BLOCK_LEN + LINK_AT,
                what,
            ))
        }
    }
}

/// Sees to it that the rows of tags up to `id` are there; returns the bytes taken on disk.
pub(crate) fn reserve_rows(files: &Files, dir: &Dir, id: u32) -> Result<u64> {
    let need = (TAGS_FROM + u64::from(id) + 1) * ROW_LEN;
    let has = files.header.number(layout::LISTS_BYTES_AT);
    if need <= has {
        return Ok(0);
    }
    if need - has > TAGS_AT_ONCE_MAX * ROW_LEN {
        return Err(files.more_used_than_has(&files.lists, has));
    }
    let step = (has / 32)
        .clamp(4096, 1 << 20)
        .max(need - has)
        .next_multiple_of(4096);
    files.lists.grow(dir, has, has + step)?;
    files.header.put(layout::LISTS_BYTES_AT, has + step);
    Ok(step)
}

/// Sees to it that `blocks` more are there; returns the bytes taken on disk. Under the lock.
pub(crate) fn reserve_blocks(files: &Files, dir: &Dir, blocks: u64) -> Result<u64> {
    let has = files.header.number(layout::POSTS_BYTES_AT);
    let used = files.header.number(layout::POSTS_USED_AT);
    if used * BLOCK_LEN > has {
        return Err(files.more_used_than_has(&files.posts, has));
    }
    let need = (used + blocks) * BLOCK_LEN;
    if need <= has {
        return Ok(0);
    }
    let step = (has / 16)
        .clamp(4096, 1 << 20)
        .max(need - has)
        .next_multiple_of(4096);
    files.posts.grow(dir, has, has + step)?;
    files.header.put(layout::POSTS_BYTES_AT, has + step);
    Ok(step)
}

/// Appends and removals of one journal, which are seen by the next of the same journal.
#[derive(Debug)]
pub(crate) struct Postings {
    free: u64,
    used: u64,
    /// Lists appended to: ends and cells as they will be.
    touched: Vec<(List, (u64, u64), u64)>,
}

impl Postings {
    pub(crate) fn new(files: &Files) -> Postings {
        Postings {
            free: files.header.number(layout::POSTS_FREE_AT),
            used: files.header.number(layout::POSTS_USED_AT),
            touched: Vec::new(),
        }
    }

    /// Appends a cell to a list. After [`reserve_blocks`].
    pub(crate) fn append(
        &mut self,
        files: &Files,
        journal: &mut Journal<'_>,
        list: List,
        posting: Posting,
    ) -> Result<()> {
        let known = self.touched.iter().position(|touched| touched.0 == list);
        let known = match known {
            Some(known) => known,
            None => {
                let cells = number(files, list, row::CELLS)?;
                self.touched.push((list, ends(files, list)?, cells));
                self.touched.len() - 1
            }
        };
        let (_, (mut first, mut last), cells) = self.touched[known];
        let n = cells % CELLS;
        if n == 0 {
            let block = self.take_block(files, journal)?;
            journal.put(link_at(block), 0);
            if last != 0 && cells > 0 {
                journal.put(link_at(last), u64::from(bucket::link(block as u32)));
            } else {
                first = block;
            }
            last = block;
            journal.put(list.at(row::ENDS), first | last << 32);
        }
        journal.put(cell_at(last, n), posting.to_bits());
        journal.put(list.at(row::CELLS), cells + 1);
        self.touched[known] = (list, (first, last), cells + 1);
        Ok(())
    }

    fn take_block(&mut self, files: &Files, journal: &mut Journal<'_>) -> Result<u64> {
        if self.free != 0 {
            let block = self.free;
            self.free = next_of(files, block)?;
            journal.header(layout::POSTS_FREE_AT, self.free);
            return Ok(block);
        }
        let block = self.used;
        self.used += 1;
        journal.header(layout::POSTS_USED_AT, self.used);
        Ok(block)
    }
}

/// Takes a list's first block away. A journal of its own; nothing else in it appends.
pub(crate) fn pop_block(files: &Files, journal: &mut Journal<'_>, list: List) -> Result<()> {
    let (first, last) = ends(files, list)?;
    if first == 0 {
        return Ok(());
    }
    let cells = number(files, list, row::CELLS)?;
    let gone = if first == last { cells } else { CELLS };
    let next = if first == last {
        0
    } else {
        next_of(files, first)?
    };
    let last = if next == 0 { 0 } else { last };
    let left = if next == 0 {
        0
    } else {
        cells.saturating_sub(gone)
    };
    let free = files.header.number(layout::POSTS_FREE_AT);
    let generation = field(files, list, row::GENERATION)?;
    journal.put(list.at(row::GENERATION), generation | 1);
    journal.put(list.at(row::ENDS), next | last << 32);
    journal.put(list.at(row::CELLS), left);
    let link = if free == 0 {
        0
    } else {
        bucket::link(free as u32)
    };
    journal.put(link_at(first), u64::from(link));
    journal.header(layout::POSTS_FREE_AT, first);
    journal.put(list.at(row::GENERATION), (generation | 1).wrapping_add(1));
    Ok(())
}

/// Whether a list has one block.
pub(crate) fn is_one_block(files: &Files, list: List) -> Result<bool> {
    let (first, last) = ends(files, list)?;
    Ok(first == last)
}

/// Leaves but `keep`, some of its cells, in a list of one block. A journal of its own.
pub(crate) fn rewrite_block(
    files: &Files,
    journal: &mut Journal<'_>,
    list: List,
    keep: &[Posting],
) -> Result<()> {
    if keep.is_empty() {
        return pop_block(files, journal, list);
    }
    let (first, _) = ends(files, list)?;
    let generation = field(files, list, row::GENERATION)?;
    journal.put(list.at(row::GENERATION), generation | 1);
    for (n, posting) in keep.iter().enumerate() {
        journal.put(cell_at(first, n as u64), posting.to_bits());
    }
    journal.put(list.at(row::CELLS), keep.len() as u64);
    journal.put(list.at(row::GENERATION), (generation | 1).wrapping_add(1));
    Ok(())
}

/// The cells of a list's first blocks. Under the lock.
pub(crate) fn cells_from_first(
    files: &Files,
    list: List,
    blocks: u64,
    out: &mut Vec<Posting>,
) -> Result<()> {
    let (mut block, _) = ends(files, list)?;
    let mut left = number(files, list, row::CELLS)?.min(blocks.saturating_mul(CELLS));
    while block != 0 && left > 0 {
        for n in 0..left.min(CELLS) {
            let bits = files
                .posts
                .word(cell_at(block, n).at)?
                .load(Ordering::Acquire);
            out.push(Posting::from_bits(bits));
        }
        left -= left.min(CELLS);
        block = next_of(files, block)?;
    }
    Ok(())
}

/// One past the largest tag id that the table has a row for.
pub(crate) fn tags_max(files: &Files) -> u64 {
    let rows = files.header.number(layout::LISTS_BYTES_AT) / ROW_LEN;
    let in_file = files.lists.len().map_or(u64::MAX, |bytes| bytes / ROW_LEN);
    let ids = rows.min(in_file).saturating_sub(TAGS_FROM);
    ids.min(u64::from(u32::MAX))
}

/// Every list a store with `tags` tag ids (the last one left out) has a row for.
pub(crate) fn all(tags: u32) -> impl Iterator<Item = List> {
    (0..TAGS_FROM)
        .chain((1..u64::from(tags)).map(|id| TAGS_FROM + id))
        .map(List)
}

/// The blocks of a list, first one first; it ends at `most` of them.
pub(crate) fn blocks(files: &Files, list: List, most: u64) -> Result<Vec<u64>> {
    let (mut block, _) = ends(files, list)?;
    let mut blocks = Vec::new();
    while block != 0 && blocks.len() as u64 <= most {
        blocks.push(block);
        block = next_of(files, block)?;
    }
    Ok(blocks)
}

/// The blocks no list has any more, at most `most` and one.
pub(crate) fn free_blocks(files: &Files, most: u64) -> Result<Vec<u64>> {
    let mut block = files.header.number(layout::POSTS_FREE_AT);
    let mut blocks = Vec::new();
    while block != 0 && blocks.len() as u64 <= most {
        blocks.push(block);
        block = next_of(files, block)?;
    }
    Ok(blocks)
}

/// Stores the cells of a block no list has, and its link.
pub(crate) fn fill_block(files: &Files, block: u64, cells: &[u64], link: u32) -> Result<()> {
    for (n, &cell) in cells.iter().enumerate() {
        let word = files.posts.word(cell_at(block, n as u64).at)?;
        word.store(cell, Ordering::Release);
    }
    let word = files.posts.word(link_at(block).at)?;
    word.store(u64::from(link), Ordering::Release);
    Ok(())
}

/// All cells of a list, as one moment saw them; `None`: some were taken away meanwhile.
pub(crate) fn gather(files: &Files, list: List) -> Result<Option<Vec<Posting>>> {
    let generation = field(files, list, row::GENERATION)?;
    if generation & 1 == 1 {
        return Ok(None);
    }
    let cells = number(files, list, row::CELLS)?;
    let (mut block, _) = ends(files, list)?;
    let unchanged = || -> Result<bool> { Ok(field(files, list, row::GENERATION)? == generation) };
    let most = files.posts.len()? / 8;
    let mut out = Vec::with_capacity(cells.min(most) as usize);
    let mut left = cells;
    while left > 0 && block != 0 {
        for n in 0..left.min(CELLS) {
            let word = files.posts.word(cell_at(block, n).at);
            match word {
                Ok(word) => out.push(Posting::from_bits(word.load(Ordering::Acquire))),
                Err(_) if !unchanged()? => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        left -= left.min(CELLS);
        if out.len() as u64 > most {
            break;
        }
        block = match next_of(files, block) {
            Ok(next) => next,
            Err(_) if !unchanged()? => return Ok(None),
            Err(error) => return Err(error),
        };
    }
    Ok(unchanged()?.then_some(out))
}
