//! One order list as a handle reads it: how far, and where its living cells begin.
//!
//! Holds: a cell is passed only if what it stood for was committed when it was read. Changes nothing
//! but the hint where the list begins.

use std::sync::Arc;

use crate::engine::store::{Proof, Store};
use crate::error::Result;
use crate::format::header::space;
use crate::part::order::{self, Cell};
use crate::part::shared::{Files, OrderFile};

/// How far one order list was read.
#[derive(Debug)]
pub(super) struct Feed {
    space: u32,
    list: Option<Arc<OrderFile>>,
    generation: u64,
    /// The next cell to be read.
    pub(super) at: u64,
    /// What stands before this was committed when the lock was last held.
    pub(super) limit: u64,
    /// All cells before this one are dead: who begins to read need not look at them.
    dead_to: u64,
    looks: u64,
}

/// How often dead cells at a list's front are looked for, in looks; and at how many.
const LOOKS_PER_TRIM: u64 = 128;
const CELLS_PER_TRIM_MIN: u64 = 256;
const CELLS_PER_TRIM_MAX: u64 = 2_048;
/// Dead cells at the front that one handle may know of before it tells the others.
const UNTOLD_MAX: u64 = 16_384;
/// Cells a list may have beside twice as many as it has entries before what lives at its front is moved to
/// its end.
const DEAD_MIN: u64 = 4_096;

impl Feed {
    pub(super) fn new(space: u32) -> Feed {
        Feed {
            space,
            list: None,
            generation: 0,
            at: 0,
            limit: 0,
            dead_to: 0,
            looks: 0,
        }
    }

    /// Whether there is more than was read, as far as one sees without the lock.
    pub(super) fn has_news(&self, store: &Store) -> bool {
        self.at < self.limit
            || store.files.space(self.space, space::CELLS) != self.limit
            || store.files.space(self.space, space::GENERATION) != self.generation
    }

    /// Notes how long the list is. Under the lock, so that nothing before its end is still to come.
    /// Whether it is another list, to be read from the start.
    pub(super) fn look(&mut self, store: &Store, _: &Proof) -> Result<bool> {
        let generation = store.files.space(self.space, space::GENERATION);
        let cells = store.files.space(self.space, space::CELLS);
        let is_other = generation != self.generation || cells < self.limit;
        if is_other {
            self.list = store.files.order(&store.dir, self.space)?;
            self.generation = generation;
            self.at = store.files.space(self.space, space::HEAD).min(cells);
            self.dead_to = self.at;
        }
        self.limit = cells;
        self.looks += 1;
        let head = store.files.space(self.space, space::HEAD);
        let knows_more = self.dead_to > head + CELLS_PER_TRIM_MAX;
        if knows_more || self.looks.is_multiple_of(LOOKS_PER_TRIM) {
            self.trim(store, head)?;
        }
        Ok(is_other)
    }

    /// Whether others should be told how many dead cells the list begins with: one who walks over very many
    /// may be killed before the end, and the next would begin where it began.
    pub(super) fn should_tell(&self, store: &Store) -> bool {
        let head = store.files.space(self.space, space::HEAD);
        let same = store.files.space(self.space, space::GENERATION) == self.generation;
        let is_blocked = self.is_sparse(store) && self.at - self.dead_to > DEAD_MIN;
        same && (self.dead_to > head + UNTOLD_MAX || is_blocked)
    }

    /// Whether the list, from its first living cell on, is much longer than its entries.
    fn is_sparse(&self, store: &Store) -> bool {
        let entries = store.files.space(self.space, space::COUNT);
        self.limit.saturating_sub(self.dead_to) > 2 * entries + DEAD_MIN
    }

    /// The living cell that keeps the list's front where it is, if that is to be moved. Under the lock.
    pub(super) fn blocker(&mut self, store: &Store) -> Result<Option<Cell>> {
        // What was moved before may have been the change beside which another list took this one's place.
        let same = store.files.space(self.space, space::GENERATION) == self.generation;
        if !same || self.dead_to >= self.at || !self.is_sparse(store) {
            return Ok(None);
        }
        let head = store.files.space(self.space, space::HEAD);
        self.trim(store, head)?;
        match &self.list {
            Some(list) if self.dead_to < self.at => order::cell_in(list, self.dead_to).map(Some),
            _ => Ok(None),
        }
    }

    /// Passes over dead cells at the list's front, and notes how many there are: a process that leases one
    /// job and ends would walk over all of them. Under the lock, where what is dead stays dead; the list is
    /// still the store's, or the hint would hide the beginning of another.
    fn trim(&mut self, store: &Store, head: u64) -> Result<()> {
        self.dead_to = self.dead_to.max(head.min(self.at));
        let behind = self.at - self.dead_to;
        let some = (behind / 2).clamp(CELLS_PER_TRIM_MIN, CELLS_PER_TRIM_MAX);
        let end = (self.dead_to + some).min(self.at);
        let mut buffer = Vec::new();
        while self.dead_to < end
            && let Some(list) = &self.list
        {
            let cell = order::cell_in(list, self.dead_to)?;
            if !matches!(store.find_cell(self.space, cell, &mut buffer), Ok(None)) {
                break;
            }
            self.dead_to += 1;
        }
        if self.dead_to > head {
            let at = Files::space_at(self.space, space::HEAD).at;
            store.files.header.put(at, self.dead_to);
        }
        Ok(())
    }

    /// A cell was found dead: the list's front may begin after it.
    pub(super) fn was_dead(&mut self) {
        if self.dead_to == self.at {
            self.dead_to += 1;
        }
    }

    pub(super) fn lag(&self) -> u64 {
        self.limit - self.at
    }

    pub(super) fn cell(&self) -> Result<Option<Cell>> {
        match &self.list {
            Some(list) if self.at < self.limit => order::cell_in(list, self.at).map(Some),
            _ => Ok(None),
        }
    }

    /// Passes over the cell this handle has just made, if nothing else is unread. Under the lock.
    pub(super) fn skip_own(&mut self, store: &Store) {
        let same = store.files.space(self.space, space::GENERATION) == self.generation;
        let cells = store.files.space(self.space, space::CELLS);
        if same && self.at == self.limit && cells == self.limit + 1 {
            (self.at, self.limit) = (cells, cells);
        }
    }
}
