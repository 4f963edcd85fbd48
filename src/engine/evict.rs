//! Entries by tag: walking a tag's list, removing what it leads to, and keeping the list short.
//!
//! A cell is alive while its key leads to a record that has the tag and its cell's sequence. Evicting
//! walks a list from its first block on and takes block by block away; an entry that got the tag after
//! the eviction began is posted again. Costs by the entries that have the tag.

use crate::engine::doomed::Naming;
use crate::engine::kill::Version;
use crate::engine::read::Hit;
use crate::engine::store::{Proof, Store, stat};
use crate::error::{Error, Result};
use crate::format::names::Cause;
use crate::format::record::tags_of;
use crate::limits::RETRIES_MAX;
use crate::part::keymap::Keymap;
use crate::part::lists::{self, CELLS, List, Posting, row};

/// Blocks that one step of an eviction takes away.
const BLOCKS_PER_STEP: u64 = 36;
/// Cells of a list beyond those alive, from which on it is tidied.
const STALE_MIN: u64 = 64;
/// How many cells before its turn an entry's bucket is fetched, and then its record.
const BUCKETS_AHEAD: usize = 12;
const RECORDS_AHEAD: usize = 6;
/// Blocks tidied beside one write.
const TIDIED_PER_WRITE: u64 = 4;

/// An eviction by tag, in steps.
#[derive(Debug)]
pub(crate) struct Eviction {
    list: List,
    tag: u32,
    /// Entries that got the tag later stay.
    bound: u64,
    /// Cells that were there when it began.
    cells: u64,
    /// Entries that went.
    pub(crate) gone: u64,
}

impl Store {
    /// Begins to evict a tag.
    pub(crate) fn begin_eviction(&self, tag: u32) -> Result<Eviction> {
        let list = List::of_tag(tag);
        // In this order: what got the tag before has its cell.
        let bound = self.committed();
        let cells = lists::number(&self.files, list, row::CELLS)?;
        Ok(Eviction {
            list,
            tag,
            bound,
            cells,
            gone: 0,
        })
    }

    /// One step of an eviction; whether there may be more. Under the lock. After an error it is done again.
    ///
    /// `wanted` may spare an entry, by its record and key.
    pub(crate) fn evict_step(
        &self,
        proof: &mut Proof,
        eviction: &mut Eviction,
        wanted: &dyn Fn(&Hit<'_>, &[u8]) -> bool,
    ) -> Result<bool> {
        let left = lists::number(&self.files, eviction.list, row::CELLS)?;
        // Another may have evicted the same tag meanwhile.
        eviction.cells = eviction.cells.min(left);
        if eviction.cells == 0 {
            return Ok(false);
        }
        let mut cells = Vec::new();
        let mut victims: Vec<Version> = Vec::new();
        let mut naming = Naming::new(self, Cause::Evicted);
        // By block, what stays.
        let mut again: Vec<Vec<Posting>> = Vec::new();
        let mut buffer = Vec::new();
        let mut newest = 0;
        let keymap = Keymap::of(&self.files);
        let blocks = BLOCKS_PER_STEP.min(eviction.cells.div_ceil(CELLS));
        lists::cells_from_first(&self.files, eviction.list, blocks, &mut cells)?;
        for (n, &posting) in cells.iter().enumerate() {
            if n.is_multiple_of(CELLS as usize) {
                again.push(Vec::new());
            }
            if let Some(ahead) = cells.get(n + BUCKETS_AHEAD) {
                keymap.prefetch(ahead.hash);
            }
            if let Some(ahead) = cells.get(n + RECORDS_AHEAD) {
                self.prefetch_record(ahead.hash);
            }
            let found = self.find_posting(posting, &mut buffer, |head| head.options.tag_seq as u32);
            // What is damaged is told by reading it, and stays.
            let Ok(Some(hit)) = found else { continue };
            if !tags_of(&hit.head, &buffer).any(|id| id == eviction.tag) {
                continue;
            }
            if hit.head.options.tag_seq > eviction.bound || !wanted(&hit, &buffer) {
                if let Some(here) = again.last_mut() {
                    here.push(posting);
                }
                continue;
            }
            let hash = self.hash.of(hit.head.options.space, hit.key(&buffer));
            let version = Version::of(&hit, hash, &buffer);
            // A list may have two cells of one entry; most of it is in the order of sequences.
            let is_new =
                version.seq() > newest || victims.iter().all(|other| other.seq() != version.seq());
            newest = newest.max(version.seq());
            if is_new {
                naming.push(Cause::Evicted, &hit.head, &buffer);
                victims.push(version);
            }
        }
        let before = eviction.gone;
        let killed = self.kill_versions(proof, &victims, &naming, &mut eviction.gone);
        self.count(stat::EVICTED, eviction.gone - before);
        killed?;
        eviction.cells -= eviction.cells.min(cells.len() as u64);
        let mut moved = false;
        for (n, here) in again.iter().enumerate() {
            // The last block has what was moved to the list's end: it stays, dead cells and all.
            let is_full = cells.len() >= (n + 1) * CELLS as usize;
            if is_full || !moved {
                self.retire_block(eviction.list, here)?;
            }
            moved |= !here.is_empty();
        }
        Ok(true)
    }

    /// Keeps a tag's list short: stale cells at its head go, the others move to its end. Under the lock,
    /// beside a write that posted to it.
    pub(crate) fn tidy_tag(&self, tag: u32) -> Result<()> {
        let list = List::of_tag(tag);
        for _ in 0..TIDIED_PER_WRITE {
            let cells = lists::number(&self.files, list, row::CELLS)?;
            let entries = lists::number(&self.files, list, row::ENTRIES)?;
            if cells <= entries * 2 + STALE_MIN {
                return Ok(());
            }
            let mut first = Vec::new();
            lists::cells_from_first(&self.files, list, 1, &mut first)?;
            let mut buffer = Vec::new();
            first.retain(|&posting| {
                let found =
                    self.find_posting(posting, &mut buffer, |head| head.options.tag_seq as u32);
                match found {
                    Ok(Some(hit)) => tags_of(&hit.head, &buffer).any(|id| id == tag),
                    Ok(None) => false,
                    Err(_) => true,
                }
            });
            self.retire_block(list, &first)?;
        }
        Ok(())
    }

    /// The cells of a tag, as one moment saw them.
    pub(crate) fn cells_of_tag(&self, tag: u32) -> Result<Vec<Posting>> {
        for _ in 0..RETRIES_MAX {
            if let Some(cells) = lists::gather(&self.files, List::of_tag(tag))? {
                return Ok(cells);
            }
            std::hint::spin_loop();
        }
        Err(Error::Busy {
            what: "a tag whose entries change again and again",
            holder_pid: 0,
            held_since: None,
            waited: std::time::Duration::ZERO,
            removed: 0,
        })
    }
}
