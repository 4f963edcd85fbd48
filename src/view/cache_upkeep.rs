//! The verbs of `Cache` that keep a store small, verify it, and tell of its tags.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::engine::read::Hit;
use crate::engine::store::{MAIN_SPACE, Store};
use crate::engine::sync;
use crate::engine::upkeep::{Budget, UpkeepReport};
use crate::error::{Error, Result};
use crate::format::record::tags_of;
use crate::part::lists::{self, List, Posting, row};
use crate::view::cache::Cache;
use crate::view::prepare;
use crate::view::value::Value;

/// Which entries several tags name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagMatch {
    /// Those that have at least one of them.
    Any,
    /// Those that have all of them.
    All,
}

/// What a tag holds.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct TagUsage {
    /// The tag.
    pub name: Vec<u8>,
    /// Entries that have it, expired ones not yet removed included.
    pub entries: u64,
    /// Their bytes, as [`Cache::volume`] counts them.
    pub bytes: u64,
    /// The most bytes its entries may take.
    pub quota_bytes: Option<u64>,
}

/// Steps of a cull that evict nothing and give nothing back, before it ends.
const STEPS_IN_VAIN_MAX: u32 = 2_000;

/// Nobody watches.
pub(crate) fn unwatched(_: &UpkeepReport) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

impl Cache {
    // By tag.

    /// Removes every entry that has the tag, at a cost by those alone. How many.
    ///
    /// When it returns, none of them is there for any process, also after a SIGKILL. What is set with the
    /// tag after this call began may stay. Ended by an error or a kill in between, some have gone: call it
    /// again.
    ///
    /// ```
    /// use larder::{Cache, SetOptions};
    ///
    /// let cache = Cache::temporary()?;
    /// cache.set_with("a", "1", &SetOptions::default().tag("run-7"))?;
    /// cache.set("b", "2")?;
    /// assert_eq!(cache.evict_tag("run-7")?, 1);
    /// assert_eq!((cache.get("a")?, cache.len()?), (None, 1));
    /// # Ok::<(), larder::Error>(())
    /// ```
    ///
    /// # Errors
    /// See [`Cache`]; [`Error::removed`] says how many went before [`Error::Busy`].
    pub fn evict_tag(&self, tag: impl AsRef<[u8]>) -> Result<u64> {
        self.evict_by(&[tag.as_ref()], TagMatch::Any)
    }

    /// Removes every entry that has any, or all, of the tags. How many. No tags: none.
    ///
    /// # Errors
    /// As [`Cache::evict_tag`].
    pub fn evict_tags<T: AsRef<[u8]>>(
        &self,
        tags: impl IntoIterator<Item = T>,
        which: TagMatch,
    ) -> Result<u64> {
        let tags: Vec<T> = tags.into_iter().collect();
        let tags: Vec<&[u8]> = tags.iter().map(AsRef::as_ref).collect();
        self.evict_by(&tags, which)
    }

    fn evict_by(&self, tags: &[&[u8]], which: TagMatch) -> Result<u64> {
        let store = self.writable()?;
        let mut ids = Vec::new();
        for tag in tags {
            match store.tag_id(tag)? {
                Some(id) => ids.push(id),
                // A tag nobody has used is on no entry.
                None if which == TagMatch::All => return Ok(0),
                None => {}
            }
        }
        let mut removed = 0;
        let mut walked = ids.clone();
        if which == TagMatch::All {
            // The shortest list leads to all of them.
            let lens = |id: u32| lists::number(&store.files, List::of_tag(id), row::CELLS);
            let mut shortest = None;
            for &id in &ids {
                let len = lens(id)?;
                if shortest.is_none_or(|(_, least)| len < least) {
                    shortest = Some((id, len));
                }
            }
            walked = shortest.into_iter().map(|(id, _)| id).collect();
        }
        for tag in walked {
            // Under the lock: what a killed writer had decided has its cells then.
            let patience = self.patience(store);
            let begun =
                sync::locked_for_upkeep(store, patience, |store, _| store.begin_eviction(tag));
            let mut eviction = begun.map_err(|error| error.after_removing(removed))?;
            let wanted = |hit: &Hit<'_>, buffer: &[u8]| {
                let has = |id: u32| tags_of(&hit.head, buffer).any(|own| own == id);
                which == TagMatch::Any || ids.iter().all(|&id| has(id))
            };
            loop {
                let step = sync::locked_to_remove(store, self.patience(store), |store, proof| {
                    store.evict_step(proof, &mut eviction, &wanted)
                });
                removed += std::mem::take(&mut eviction.gone);
                if !step.map_err(|error| error.after_removing(removed))? {
                    break;
                }
            }
        }
        self.finish(store)?;
        Ok(removed)
    }

    /// Live entries that have the tag, in no order that is promised; none that got it after this call.
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn iter_tag(&self, tag: impl AsRef<[u8]>) -> Result<TagIter> {
        let store = self.store()?;
        let id = store.tag_id(tag.as_ref())?;
        let cells = match id {
            Some(id) => store.cells_of_tag(id)?,
            None => Vec::new(),
        };
        Ok(TagIter {
            store: Arc::clone(store),
            tag: id.unwrap_or(0),
            seen: std::collections::HashSet::new(),
            cells: cells.into_iter(),
        })
    }

    /// Every tag that entries have, or that has a quota, by name.
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn tags(&self) -> Result<Vec<TagUsage>> {
        let store = self.store()?;
        let mut tags = Vec::new();
        for id in 1..store.tags_end() {
            let number = |field| lists::number(&store.files, List::of_tag(id), field);
            let (entries, quota) = (number(row::ENTRIES)?, number(row::QUOTA)?);
            if entries > 0 || quota > 0 {
                tags.push(TagUsage {
                    name: store.tag_name(id)?,
                    entries,
                    bytes: number(row::BYTES)?,
                    quota_bytes: (quota > 0).then_some(quota),
                });
            }
        }
        tags.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(tags)
    }

    /// The most bytes, as [`Cache::volume`] counts them, that entries with the tag may take; `None`: as
    /// many as fit. A write that passes it evicts others with the same tag, oldest first, so that no tag
    /// flushes another's entries.
    ///
    /// # Errors
    /// See [`Cache`]; [`Error::InvalidSetting`] for a quota of 0.
    pub fn set_tag_quota(&self, tag: impl AsRef<[u8]>, bytes: Option<u64>) -> Result<()> {
        if bytes == Some(0) {
            return Err(Error::setting(
                "tag_quota",
                "a quota of 0 bytes holds no entry: evict the tag instead",
            ));
        }
        let store = self.writable()?;
        self.transact(|tx| tx.set_quota(tag.as_ref(), bytes))?;
        self.finish(store)
    }

    // What is over, too much, or dead.

    /// Removes the entries that have expired, at a cost by those alone. How many.
    ///
    /// # Errors
    /// See [`Cache`]; [`Error::removed`] says how many went before [`Error::Busy`].
    pub fn expire(&self) -> Result<u64> {
        self.expire_with(unwatched)
    }

    /// As [`Cache::expire`]; `watch` is told after each step, and may end it.
    ///
    /// # Errors
    /// As [`Cache::expire`].
    pub fn expire_with(
        &self,
        mut watch: impl FnMut(&UpkeepReport) -> ControlFlow<()>,
    ) -> Result<u64> {
        let store = self.writable()?;
        let mut report = UpkeepReport::default();
        loop {
            let step = sync::locked_to_remove(store, self.patience(store), |store, proof| {
                store.expire_step(proof, u64::MAX)
            });
            let step = step.map_err(|error| error.after_removing(report.expired))?;
            report.expired += step.removed;
            report.is_over = step.is_over;
            if watch(&report).is_break() || step.is_over {
                break;
            }
        }
        self.finish(store)?;
        Ok(report.expired)
    }

    /// Evicts until the store is within all its limits, `cull_limit` aside, and removes what has expired.
    /// How many entries went.
    ///
    /// # Errors
    /// See [`Cache`]; [`Error::removed`] says how many went before [`Error::Busy`].
    pub fn cull(&self) -> Result<u64> {
        self.cull_with(unwatched)
    }

    /// As [`Cache::cull`]; `watch` is told after each step, and may end it.
    ///
    /// # Errors
    /// As [`Cache::cull`].
    pub fn cull_with(
        &self,
        mut watch: impl FnMut(&UpkeepReport) -> ControlFlow<()>,
    ) -> Result<u64> {
        let mut report = UpkeepReport {
            expired: self.expire()?,
            ..UpkeepReport::default()
        };
        let store = self.writable()?;
        let mut in_vain = 0;
        loop {
            let before = (report.culled, report.freed_bytes);
            let step = sync::locked_for_upkeep(store, self.patience(store), |store, proof| {
                store.cull_to_limits(proof)
            });
            let step = step.map_err(|error| error.after_removing(report.culled))?;
            if let Some(done) = step {
                report.culled += done.culled;
                report.expired += done.expired;
                report.kept += done.kept;
                report.kept_bytes += done.kept_bytes;
            }
            report.is_over = step.is_none();
            if step.is_none() || store.empty_bytes()? >= store.segment_size() {
                report.freed_bytes += store.free_durably(self.patience(store))?;
            }
            // What is left cannot be given back: it ends all the same.
            in_vain = match (report.culled, report.freed_bytes) == before {
                true => in_vain + 1,
                false => 0,
            };
            if watch(&report).is_break() || step.is_none() || in_vain > STEPS_IN_VAIN_MAX {
                break;
            }
        }
        self.finish(store)?;
        Ok(report.culled + report.expired)
    }

    /// Gives every dead byte back that can be: copies what lives in segments with dead records, and
    /// removes their files.
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn compact(&self) -> Result<UpkeepReport> {
        self.compact_with(unwatched)
    }

    /// As [`Cache::compact`]; `watch` is told after each step, and may end it.
    ///
    /// # Errors
    /// As [`Cache::compact`].
    pub fn compact_with(
        &self,
        mut watch: impl FnMut(&UpkeepReport) -> ControlFlow<()>,
    ) -> Result<UpkeepReport> {
        let store = self.writable()?;
        // What is being written may hold dead records too.
        sync::locked_for_upkeep(store, self.patience(store), |store, proof| {
            store.seal_if_dead(proof)
        })?;
        store.maintain(&Budget::default().deep(), self.patience(store), &mut watch)
    }

    /// Does what there is to do within a budget: expires, culls, compacts, gives files back.
    ///
    /// # Errors
    /// See [`Cache`]; what was done stays done.
    pub fn maintain(&self, budget: &Budget) -> Result<UpkeepReport> {
        self.maintain_with(budget, unwatched)
    }

    /// As [`Cache::maintain`]; `watch` is told after each step, and may end it.
    ///
    /// # Errors
    /// As [`Cache::maintain`].
    pub fn maintain_with(
        &self,
        budget: &Budget,
        mut watch: impl FnMut(&UpkeepReport) -> ControlFlow<()>,
    ) -> Result<UpkeepReport> {
        let store = self.writable()?;
        store.maintain(budget, self.patience(store), &mut watch)
    }
}

/// Live entries that have a tag. Made by [`Cache::iter_tag`].
#[derive(Debug)]
pub struct TagIter {
    store: Arc<Store>,
    tag: u32,
    /// Orders of entries that were told: a list may name one twice.
    seen: std::collections::HashSet<u64>,
    cells: std::vec::IntoIter<Posting>,
}

impl TagIter {
    fn look(&mut self, posting: Posting) -> Result<Option<(Vec<u8>, Value)>> {
        let store = &self.store;
        loop {
            let mut buffer = Vec::new();
            let found =
                store.find_posting(posting, &mut buffer, |head| head.options.tag_seq as u32);
            let Some(hit) = found? else { return Ok(None) };
            let is_ours = tags_of(&hit.head, &buffer).any(|id| id == self.tag)
                && hit.head.options.space == MAIN_SPACE
                && store.lives(&hit, store.now_ms())
                && !self.seen.contains(&hit.head.order);
            if !is_ours {
                return Ok(None);
            }
            let key = hit.key(&buffer).to_vec();
            if let Some(value) = prepare::value_of(store, &hit.head, buffer)? {
                self.seen.insert(hit.head.order);
                return Ok(Some((key, value)));
            }
            // Its file is gone: the entry has changed, or the file was taken away.
            if hit.is_current() {
                return Err(store.missing_value(&hit.head));
            }
        }
    }
}

impl Iterator for TagIter {
    type Item = Result<(Vec<u8>, Value)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let posting = self.cells.next()?;
            match self.look(posting) {
                Ok(None) => {}
                Ok(Some(item)) => return Some(Ok(item)),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
