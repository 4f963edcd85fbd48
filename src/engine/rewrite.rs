//! Lists written anew while readers go on: order lists, and those of tags and expiry.
//!
//! Under the writer lock. What is new is written where nobody looks, and takes the old one's place by one
//! journal each. Never decides what belongs in a list.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use crate::engine::store::{Proof, Store};
use crate::error::Result;
use crate::format::bucket;
use crate::format::header::{self as layout, space};
use crate::format::name::Name;
use crate::os::region::Region;
use crate::part::journal::Journal;
use crate::part::lists::{self, CELLS, List, Posting, row};
use crate::part::order::CELL_LEN;
use crate::part::shared::Files;

impl Store {
    /// Gives a space an order list with these cells. Old iterators go on with the old one.
    pub(crate) fn rewrite_order(&self, proof: &mut Proof, which: u32, cells: &[u64]) -> Result<()> {
        let _ = proof;
        let from = self.files.space(which, space::GENERATION);
        let old_bytes = self.files.space(which, space::BYTES);
        let number = self.new_file_id(Name::Segment)?;
        let name = Name::Order {
            space: which,
            generation: number,
        };
        let region = Region::new(&self.dir, name, self.dir.create(name)?)?;
        let bytes = (cells.len() as u64 * CELL_LEN + 1).next_multiple_of(4096);
        region.grow(&self.dir, 0, bytes)?;
        self.took(bytes);
        for (n, &cell) in cells.iter().enumerate() {
            region
                .word(n as u64 * CELL_LEN)?
                .store(cell, Ordering::Release);
        }
        let mut journal = Journal::new(&self.files.header);
        let len = cells.len() as u64;
        for (field, value) in [
            (space::GENERATION, space::CHANGING),
            (space::BYTES, bytes),
            (space::HEAD, 0),
            (space::TAIL, len),
            (space::CELLS, len),
            (space::GENERATION, number),
        ] {
            journal.header(Files::space_at(which, field).at, value);
        }
        journal.commit(&self.files, &self.dir)?;
        self.dir.remove(Name::Order {
            space: which,
            generation: from,
        })?;
        self.gave(old_bytes);
        Ok(())
    }

    /// Gives every tag and every stretch of time its list. `tags`: cells, entries and bytes by tag;
    /// `expiring`: when, hash and sequence of each entry that expires.
    pub(crate) fn rewrite_lists(
        &self,
        proof: &mut Proof,
        tags: &HashMap<u32, (Vec<u64>, u64, u64)>,
        expiring: &[(u64, u64, u64)],
    ) -> Result<()> {
        let _ = proof;
        let mut lists: HashMap<List, (Vec<u64>, u64, u64)> = HashMap::new();
        for (&tag, list) in tags {
            self.reserve_tag(tag)?;
            lists.insert(List::of_tag(tag), list.clone());
        }
        for &(expires_ms, hash, seq) in expiring {
            let cells = &mut lists.entry(self.time_list(expires_ms)).or_default().0;
            cells.push(Posting::new(hash, seq).to_bits());
        }
        let header = &self.files.header;
        let old_used = header.number(layout::POSTS_USED_AT);
        let none = (Vec::new(), 0, 0);
        for list in lists::all(self.tags_end()) {
            if (list.at(0).at + lists::ROW_LEN) > header.number(layout::LISTS_BYTES_AT) {
                continue;
            }
            let (cells, entries, bytes) = lists.get(&list).unwrap_or(&none);
            let blocks = (cells.len() as u64).div_ceil(CELLS);
            self.took(lists::reserve_blocks(&self.files, &self.dir, blocks)?);
            let first = header.add(layout::POSTS_USED_AT, blocks);
            for (n, cells) in (first..).zip(cells.chunks(CELLS as usize)) {
                let next = if n + 1 < first + blocks {
                    bucket::link(n as u32 + 1)
                } else {
                    0
                };
                lists::fill_block(&self.files, n, cells, next)?;
            }
            let ends = match blocks {
                0 => 0,
                blocks => first | (first + blocks - 1) << 32,
            };
            let generation = lists::field(&self.files, list, row::GENERATION)?;
            let mut journal = Journal::new(header);
            for (field, value) in [
                (row::GENERATION, generation | 1),
                (row::ENDS, ends),
                (row::CELLS, cells.len() as u64),
                (row::ENTRIES, *entries),
                (row::BYTES, *bytes),
                (row::GENERATION, (generation | 1).wrapping_add(1)),
            ] {
                journal.put(list.at(field), value);
            }
            journal.commit(&self.files, &self.dir)?;
        }
        // No list has any of the old blocks now.
        header.put(layout::POSTS_FREE_AT, 0);
        for block in 1..old_used {
            let next = if block + 1 < old_used {
                bucket::link(block as u32 + 1)
            } else {
                0
            };
            lists::fill_block(&self.files, block, &[], next)?;
        }
        header.put(layout::POSTS_FREE_AT, u64::from(old_used > 1));
        Ok(())
    }
}
