//! Insertion order: an append-only list of cells, one per insertion, checked when walked.
//!
//! A cell is (31 hash bits as the keymap knows them) << 32 | (low 32 bits of the entry's order). It is
//! alive while the keymap leads from those hash bits to a record with that order; overwrites,
//! deletes and compaction never touch it. Owns the cells; never looks at a record.

use crate::error::Result;
use crate::format::bucket::KNOWN_MASK;
use crate::format::header::{Address, Shared, space};
use crate::os::dir::Dir;
use crate::part::shared::{Files, OrderFile};

pub(crate) const CELL_LEN: u64 = 8;
/// Bytes an order list begins with.
const GROW_MIN: u64 = 4096;

/// One insertion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) hash: u64,
    pub(crate) order_low: u32,
}

impl Cell {
    pub(crate) fn new(hash: u64, order: u64) -> Self {
        Cell {
            hash: hash & KNOWN_MASK,
            order_low: order as u32,
        }
    }

    pub(crate) fn to_bits(self) -> u64 {
        self.hash << 32 | u64::from(self.order_low)
    }

    pub(crate) fn from_bits(bits: u64) -> Self {
        Cell {
            hash: bits >> 32,
            order_low: bits as u32,
        }
    }
}

/// Where cell `index` of a space stands.
pub(crate) fn cell_at(space: u32, index: u64) -> Address {
    Address {
        file: Shared::Order(space),
        at: index * CELL_LEN,
        half: false,
    }
}

/// The cell `index` of a space; `None`: there is none.
pub(crate) fn cell(files: &Files, dir: &Dir, space: u32, index: u64) -> Result<Option<Cell>> {
    if index >= files.space(space, space::CELLS) {
        return Ok(None);
    }
    files
        .load(dir, cell_at(space, index))
        .map(|bits| Some(Cell::from_bits(bits)))
}

/// The cell `index` of a list that may no longer be the space's.
pub(crate) fn cell_in(list: &OrderFile, index: u64) -> Result<Cell> {
    let bits = list
        .region
        .word(index * CELL_LEN)?
        .load(std::sync::atomic::Ordering::Acquire);
    Ok(Cell::from_bits(bits))
}

/// Sees to it that `more` cells find their space; returns the bytes taken on disk. Under the lock.
pub(crate) fn reserve(files: &Files, dir: &Dir, space: u32, more: u64) -> Result<u64> {
    if files.order(dir, space)?.is_none() {
        files.create_order(dir, space)?;
    }
    let Some(file) = files.order(dir, space)? else {
        return Ok(0);
    };
    let used = files.space(space, space::CELLS);
    let has = files.space(space, space::BYTES);
    if used * CELL_LEN > has {
        return Err(files.more_used_than_has(&file.region, has));
    }
    let need = (used + more) * CELL_LEN;
    if need <= has {
        return Ok(0);
    }
    let step = (has / 32)
        .clamp(GROW_MIN, 1 << 20)
        .max(need - has)
        .next_multiple_of(GROW_MIN);
    file.region.grow(dir, has, has + step)?;
    files
        .header
        .put(Files::space_at(space, space::BYTES).at, has + step);
    Ok(step)
}

#[cfg(test)]
mod tests {
    use super::Cell;

    #[test]
    fn cells_come_back() {
        let cell = Cell::new(0x7FFF_1234, 0x1_0000_0005);
        assert_eq!(Cell::from_bits(cell.to_bits()), cell);
    }
}
