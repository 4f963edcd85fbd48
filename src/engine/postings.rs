//! What tags and expiry cost a change: rows and cells of their lists, gathered for one journal.
//!
//! Owns: which list an expiry is posted to, and how a tag's entries and bytes follow a change. Cells are
//! checked when they are walked (`engine/evict.rs`, `engine/expire.rs`); never walks one.

use crate::engine::ledger::Ledger;
use crate::engine::store::Store;
use crate::error::Result;
use crate::part::lists::{self, LEVEL_BITS, LEVELS, List, Posting, row};

/// More tags than this on one side of a change, and it goes by steps (`engine/batch.rs`).
pub(crate) const FEW: usize = 4;

/// The tags of a version, when they are few.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FewTags {
    ids: [u32; FEW],
    len: usize,
}

impl FewTags {
    /// `None`: there are more than a few.
    pub(crate) fn of(ids: impl Iterator<Item = u32>) -> Option<FewTags> {
        let mut few = FewTags::default();
        for id in ids {
            *few.ids.get_mut(few.len)? = id;
            few.len += 1;
        }
        Some(few)
    }

    pub(crate) fn ids(&self) -> &[u32] {
        &self.ids[..self.len]
    }
}

/// How a tag's row changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TagStep {
    pub(crate) id: u32,
    entries: i64,
    bytes: i64,
    posts: bool,
}

/// The rows that change when a version with tags `old` gives way to one with tags `new`, in an order that
/// depends on those alone. `posts`: the new version has cells of its own.
pub(crate) fn tag_steps<'t>(
    old: (&'t [u32], u64),
    new: (&'t [u32], u64),
    posts: bool,
) -> impl Iterator<Item = TagStep> + 't {
    let ((old, old_bytes), (new, new_bytes)) = (old, new);
    let born = new.iter().map(move |&id| {
        let had = old.contains(&id);
        TagStep {
            id,
            entries: i64::from(!had),
            bytes: new_bytes as i64 - if had { old_bytes as i64 } else { 0 },
            posts,
        }
    });
    let died = old
        .iter()
        .filter(move |id| !new.contains(id))
        .map(move |&id| TagStep {
            id,
            entries: -1,
            bytes: -(old_bytes as i64),
            posts: false,
        });
    born.chain(died)
}

impl Ledger<'_> {
    /// A tag's row, and its cell if it has one.
    pub(crate) fn tag(&mut self, step: TagStep, posting: Posting) -> Result<()> {
        let list = List::of_tag(step.id);
        for (which, more) in [(row::ENTRIES, step.entries), (row::BYTES, step.bytes)] {
            if more != 0 {
                let now = lists::number(self.files, list, which)?;
                self.journal
                    .put(list.at(which), now.saturating_add_signed(more));
            }
        }
        if step.posts {
            self.post(list, posting)?;
        }
        Ok(())
    }

    /// One more cell of a list. After its block was reserved.
    pub(crate) fn post(&mut self, list: List, posting: Posting) -> Result<()> {
        let mut postings = match self.postings.take() {
            Some(postings) => postings,
            None => lists::Postings::new(self.files),
        };
        let done = postings.append(self.files, &mut self.journal, list, posting);
        self.postings = Some(postings);
        done
    }
}

impl Store {
    /// The list in which an expiry is found when it is due.
    pub(crate) fn time_list(&self, expires_ms: u64) -> List {
        let due = self.second(expires_ms);
        // Whatever was walked already is not walked again.
        let base = self.second(self.now_ms()).max(self.expired_upto());
        let due = u64::from(due.max(base));
        let base = u64::from(base);
        for level in 0..LEVELS {
            let shift = level * LEVEL_BITS;
            if (due >> shift) - (base >> shift) < 1 << LEVEL_BITS {
                return List::of_time(level, due >> shift);
            }
        }
        // Further than that: looked at on the way.
        let shift = (LEVELS - 1) * LEVEL_BITS;
        List::of_time(LEVELS - 1, (base >> shift) + (1 << LEVEL_BITS) - 1)
    }

    /// The first second whose lists were not walked to their end.
    pub(crate) fn expired_upto(&self) -> u32 {
        self.files
            .header
            .number(crate::format::header::EXPIRED_UPTO_AT)
            .min(u64::from(u32::MAX)) as u32
    }

    /// Takes a list's first block away; `keep`, some of its cells, stay in the list. Under the lock.
    pub(crate) fn retire_block(&self, list: List, keep: &[Posting]) -> Result<()> {
        if !lists::is_one_block(&self.files, list)? {
            // First again, then away: killed in between, a cell is there twice.
            self.post_all(keep.iter().map(|&posting| (list, posting)))?;
            let mut ledger = Ledger::new(&self.files);
            lists::pop_block(&self.files, &mut ledger.journal, list)?;
            return ledger.journal.commit(&self.files, &self.dir);
        }
        let mut ledger = Ledger::new(&self.files);
        lists::rewrite_block(&self.files, &mut ledger.journal, list, keep)?;
        ledger.journal.commit(&self.files, &self.dir)
    }

    /// Posts cells, one journal each.
    pub(crate) fn post_all(&self, cells: impl Iterator<Item = (List, Posting)>) -> Result<()> {
        for (list, posting) in cells {
            self.reserve_postings(1)?;
            let mut ledger = Ledger::new(&self.files);
            ledger.post(list, posting)?;
            ledger.journal.commit(&self.files, &self.dir)?;
        }
        Ok(())
    }

    /// Space for `cells` more in lists, each in a block of its own at worst.
    pub(crate) fn reserve_postings(&self, cells: u64) -> Result<()> {
        if cells > 0 {
            self.took(lists::reserve_blocks(&self.files, &self.dir, cells)?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{FewTags, tag_steps};

    #[test]
    fn a_tag_that_stays_counts_its_entry_once_and_bytes_by_the_difference() {
        let steps: Vec<_> = tag_steps((&[1, 2], 100), (&[2, 3], 70), true).collect();
        let told: Vec<_> = steps
            .iter()
            .map(|step| (step.id, step.entries, step.bytes, step.posts))
            .collect();
        assert_eq!(
            told,
            [(2, 0, -30, true), (3, 1, 70, true), (1, -1, -100, false)]
        );
        assert!(FewTags::of(0..4).is_some() && FewTags::of(0..5).is_none());
    }
}
