//! The counters of a deque's holes inside a transaction: looked up, changed, and made anew after damage.
//!
//! They agree with the elements whenever a verb begins: `last - first + 1 - count` is their sum.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::error::Result;
use crate::view::deque::Spaces;
use crate::view::deque::holes::{Holes, key_prefix};
use crate::view::deque::session::{Session, damaged};
use crate::view::deque::shape::{Spot, Wing};
use crate::view::iter::Keys;
use crate::view::state::State;

impl Session<'_> {
    /// The depth of the element of a wing with so many below it.
    pub(super) fn nth(&mut self, wing: Wing, below: u64) -> Result<u64> {
        let run = *self.shape.run(wing);
        if run.holes() == 0 {
            return Ok(run.base + below);
        }
        for _ in 0..2 {
            self.load_holes(wing)?;
            let (spaces, state) = (self.spaces, &self.state);
            let load = |key: &[u8]| load(state, spaces, key);
            if let Some(holes) = &mut self.holes[wing as usize]
                && let Some(depth) = holes.select(run.base + below, &load)?
                && depth < run.end
            {
                return Ok(depth);
            }
            self.count_holes_anew(wing)?;
        }
        Err(damaged(
            &self.state.store,
            "the counters of removed elements",
        ))
    }

    pub(super) fn load_holes(&mut self, wing: Wing) -> Result<()> {
        if self.holes[wing as usize].is_some() {
            return Ok(());
        }
        let (spaces, state) = (self.spaces, &self.state);
        let holes = Holes::load(spaces.front, wing, &|key| load(state, spaces, key))?;
        let is_right = holes.total == self.shape.run(wing).holes();
        self.holes[wing as usize] = Some(holes);
        if !is_right {
            self.count_holes_anew(wing)?;
        }
        Ok(())
    }

    /// After elements were lost to damage: the counters, from the elements that are there.
    #[cold]
    fn count_holes_anew(&mut self, wing: Wing) -> Result<()> {
        let spaces = self.spaces;
        let run = *self.shape.run(wing);
        let mut keys: BTreeSet<Vec<u8>> = BTreeSet::new();
        for key in Keys::new(&self.state.store, spaces.notes)? {
            keys.insert(key?);
        }
        keys.extend(
            self.state
                .sets(spaces.notes)
                .map(|(change, _)| change.key.clone()),
        );
        let mut node_prefix = key_prefix(spaces.front, b'h');
        node_prefix.push(wing as u8);
        let root_key = Holes::none(spaces.front, wing).root_key();
        for key in keys {
            if key.starts_with(&node_prefix) || key == root_key {
                self.state.remove(spaces.notes, &key)?;
            }
        }
        let mut holes = Holes::none(spaces.front, wing);
        for depth in run.base..run.end {
            let key = Spot { wing, depth }.key();
            if matches!(self.state.entry(spaces.of(wing), &key), Ok(None)) {
                holes.add(depth, &|_| Ok(None))?;
            }
        }
        self.holes[wing as usize] = Some(holes);
        Ok(())
    }

    /// The counters agree with the elements, or are made to.
    pub(super) fn check_holes(&mut self) -> Result<()> {
        for wing in Wing::BOTH {
            let run = *self.shape.run(wing);
            if run.holes() > 0 {
                for below in 0..run.count {
                    let depth = self.nth(wing, below)?;
                    if matches!(self.payload(Spot { wing, depth }), Ok(None)) {
                        self.count_holes_anew(wing)?;
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// Depths that are no longer between the ends are no holes.
    pub(super) fn fill(&mut self, wing: Wing, depths: Range<u64>) -> Result<()> {
        if depths.is_empty() {
            return Ok(());
        }
        self.load_holes(wing)?;
        let (spaces, state) = (self.spaces, &self.state);
        if let Some(holes) = &mut self.holes[wing as usize] {
            for depth in depths {
                holes.remove(depth, &|key| load(state, spaces, key))?;
            }
        }
        Ok(())
    }
}

/// What is kept under a key of the notes, as the transaction sees it.
pub(super) fn load(state: &State, spaces: Spaces, key: &[u8]) -> Result<Option<Vec<u8>>> {
    let payload = state.entry(spaces.notes, key)?;
    Ok(payload.map(|payload| payload.value))
}
