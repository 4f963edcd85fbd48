//! What is done to all shards, one after another, and told of them together.
//!
//! Holds: a snapshot has no half of a batch across shards, for none runs while it is made.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use crate::engine::crossing;
use crate::engine::fanout::Shards;
use crate::engine::findings::{CheckReport, Depth};
use crate::engine::mend::RepairReport;
use crate::engine::snapshot::SnapshotReport;
use crate::engine::store::Store;
use crate::engine::upkeep::{Budget, UpkeepReport};
use crate::error::{Error, Result};
use crate::format::name;
use crate::view::cache::Cache;
use crate::view::cache_upkeep::{TagMatch, TagUsage};
use crate::view::fanout::Fanout;
use crate::view::stats::Stats;
use crate::view::value::Value;

impl Fanout {
    /// Does `work` to each shard, and tells how many entries went before an error.
    fn sum(&self, work: impl Fn(&Cache) -> Result<u64>) -> Result<u64> {
        let mut sum = 0;
        for index in 0..self.shards.len() {
            sum += work(self.settled(index)?).map_err(|error| {
                let before = sum + error.removed();
                error.after_removing(before)
            })?;
        }
        Ok(sum)
    }

    // By tag.

    /// As [`Cache::evict_tag`].
    ///
    /// # Errors
    /// As [`Cache::evict_tag`].
    pub fn evict_tag(&self, tag: impl AsRef<[u8]>) -> Result<u64> {
        self.writable()?;
        self.sum(|shard| shard.evict_tag(tag.as_ref()))
    }

    /// As [`Cache::evict_tags`].
    ///
    /// # Errors
    /// As [`Cache::evict_tag`].
    pub fn evict_tags<T: AsRef<[u8]>>(
        &self,
        tags: impl IntoIterator<Item = T>,
        which: TagMatch,
    ) -> Result<u64> {
        self.writable()?;
        let tags: Vec<T> = tags.into_iter().collect();
        self.sum(|shard| shard.evict_tags(tags.iter().map(AsRef::as_ref), which))
    }

    /// As [`Cache::iter_tag`].
    ///
    /// # Errors
    /// See [`Fanout`].
    pub fn iter_tag<T: AsRef<[u8]>>(
        &self,
        tag: T,
    ) -> Result<impl Iterator<Item = Result<(Vec<u8>, Value)>> + use<T>> {
        let walks = self.steadily(|| {
            let shards = self.shards.iter();
            shards
                .map(|shard| shard.iter_tag(tag.as_ref()))
                .collect::<Result<Vec<_>>>()
        })?;
        Ok(walks.into_iter().flatten())
    }

    /// As [`Cache::tags`].
    ///
    /// # Errors
    /// See [`Fanout`].
    pub fn tags(&self) -> Result<Vec<TagUsage>> {
        let all = self.steadily(|| {
            let shards = self.shards.iter();
            shards.map(Cache::tags).collect::<Result<Vec<_>>>()
        })?;
        let mut tags: BTreeMap<Vec<u8>, TagUsage> = BTreeMap::new();
        for tag in all.into_iter().flatten() {
            match tags.get_mut(&tag.name) {
                None => drop(tags.insert(tag.name.clone(), tag)),
                Some(sum) => {
                    sum.entries += tag.entries;
                    sum.bytes += tag.bytes;
                    sum.quota_bytes = match (sum.quota_bytes, tag.quota_bytes) {
                        (Some(one), Some(other)) => Some(one + other),
                        (one, other) => one.or(other),
                    };
                }
            }
        }
        Ok(tags.into_values().collect())
    }

    /// As [`Cache::set_tag_quota`]. Each shard has an equal part of the quota.
    ///
    /// # Errors
    /// As [`Cache::set_tag_quota`]; also for a quota of fewer bytes than there are shards. Failed in the
    /// middle, some shards have their part.
    pub fn set_tag_quota(&self, tag: impl AsRef<[u8]>, bytes: Option<u64>) -> Result<()> {
        self.writable()?;
        let shards = self.shards.len() as u64;
        if let Some(bytes) = bytes.filter(|&bytes| bytes < shards) {
            let what = format!("{bytes} bytes are less than one for each of {shards} shards");
            return Err(Error::setting("tag_quota", what));
        }
        for index in 0..self.shards.len() {
            let extra = |bytes: u64| u64::from((index as u64) < bytes % shards);
            let part = bytes.map(|bytes| bytes / shards + extra(bytes));
            self.settled(index)?.set_tag_quota(tag.as_ref(), part)?;
        }
        Ok(())
    }

    // What is over, too much, or dead.

    /// As [`Cache::clear`], one shard after another.
    ///
    /// # Errors
    /// As [`Cache::clear`].
    pub fn clear(&self) -> Result<u64> {
        self.writable()?;
        self.sum(Cache::clear)
    }

    /// As [`Cache::expire`].
    ///
    /// # Errors
    /// As [`Cache::expire`].
    pub fn expire(&self) -> Result<u64> {
        self.writable()?;
        self.sum(Cache::expire)
    }

    /// As [`Cache::cull`]: each shard to its own limits.
    ///
    /// # Errors
    /// As [`Cache::cull`].
    pub fn cull(&self) -> Result<u64> {
        self.writable()?;
        self.sum(Cache::cull)
    }

    /// As [`Cache::compact`].
    ///
    /// # Errors
    /// See [`Fanout`].
    pub fn compact(&self) -> Result<UpkeepReport> {
        self.writable()?;
        let mut all = over();
        for index in 0..self.shards.len() {
            all = plus(all, self.settled(index)?.compact()?);
        }
        Ok(all)
    }

    /// As [`Cache::maintain`]; the budget is for all shards together.
    ///
    /// # Errors
    /// See [`Fanout`]; what was done stays done.
    pub fn maintain(&self, budget: &Budget) -> Result<UpkeepReport> {
        self.writable()?;
        let start = Instant::now();
        let mut all = over();
        // Not always the same one first: the budget may end before the others.
        let first = self.core.turn();
        for n in 0..self.shards.len() {
            let index = (first + n) % self.shards.len();
            let left = Budget {
                time: budget.time.map(|time| time.saturating_sub(start.elapsed())),
                bytes: budget
                    .bytes
                    .map(|bytes| bytes.saturating_sub(all.kept_bytes)),
                ..*budget
            };
            all = plus(all, self.settled(index)?.maintain(&left)?);
        }
        Ok(all)
    }

    // About the store.

    /// As [`Cache::flush`].
    ///
    /// # Errors
    /// As [`Cache::flush`].
    pub fn flush(&self) -> Result<()> {
        self.writable()?;
        for index in 0..self.shards.len() {
            self.settled(index)?.flush()?;
        }
        self.forget_intents()
    }

    /// What all shards have for good need not be kept in the first one.
    fn forget_intents(&self) -> Result<()> {
        let stores = self.stores()?;
        let mut held = Store::lock(&*stores[0], self.patience()?)?;
        crossing::forget_done(&stores, held.parts().1)
    }

    /// As [`Cache::close`].
    ///
    /// # Errors
    /// As [`Cache::flush`].
    pub fn close(self) -> Result<()> {
        if !self.store(0)?.dir.is_read_only() {
            self.flush()?;
        }
        for shard in &*self.shards {
            shard.clone().close()?;
        }
        Ok(())
    }

    /// As [`Cache::stats`], of all shards together.
    ///
    /// # Errors
    /// See [`Fanout`]; to reset is to write.
    pub fn stats(&self, reset: bool) -> Result<Stats> {
        let mut all = Stats::default();
        for index in 0..self.shards.len() {
            all = all.plus(self.at(index)?.stats(reset)?);
        }
        Ok(all)
    }

    /// As [`Cache::volume`].
    ///
    /// # Errors
    /// See [`Fanout`].
    pub fn volume(&self) -> Result<u64> {
        (0..self.shards.len())
            .map(|index| self.at(index)?.volume())
            .sum()
    }

    /// As [`Cache::disk_usage`].
    ///
    /// # Errors
    /// See [`Fanout`].
    pub fn disk_usage(&self) -> Result<u64> {
        (0..self.shards.len())
            .map(|index| self.at(index)?.disk_usage())
            .sum()
    }

    /// As [`Cache::check`]; a finding's path says in which shard it is.
    ///
    /// # Errors
    /// As [`Cache::check`].
    pub fn check(&self) -> Result<CheckReport> {
        self.check_depth(Depth::Full)
    }

    /// As [`Cache::check_depth`].
    ///
    /// # Errors
    /// As [`Cache::check`].
    pub fn check_depth(&self, depth: Depth) -> Result<CheckReport> {
        self.check_depth_with(depth, |_, _| ControlFlow::Continue(()))
    }

    /// As [`Cache::check_depth_with`]; `watch` is told of each shard's bytes for themselves.
    ///
    /// # Errors
    /// As [`Cache::check`].
    pub fn check_depth_with(
        &self,
        depth: Depth,
        mut watch: impl FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<CheckReport> {
        let mut all = CheckReport {
            is_complete: true,
            has_counted: true,
            ..CheckReport::default()
        };
        for index in 0..self.shards.len() {
            let one = self.settled(index)?.check_depth_with(depth, &mut watch)?;
            all.findings.extend(one.findings);
            all.records += one.records;
            all.bytes += one.bytes;
            all.entries += one.entries;
            all.is_complete &= one.is_complete;
            all.has_counted &= one.has_counted;
            if !one.is_complete {
                break;
            }
        }
        Ok(all)
    }

    /// As [`Cache::repair`], one shard after another.
    ///
    /// # Errors
    /// As [`Cache::repair`]. Shards before the one that failed stay mended.
    pub fn repair(&self) -> Result<RepairReport> {
        self.writable()?;
        let mut all = RepairReport {
            is_complete: true,
            ..RepairReport::default()
        };
        for index in 0..self.shards.len() {
            let one = self.settled(index)?.repair()?;
            all.rebuilt |= one.rebuilt;
            all.quarantined.extend(one.quarantined);
            all.quarantined_bytes += one.quarantined_bytes;
            all.lost.extend(one.lost);
            all.kept += one.kept;
            all.laid_to_rest += one.laid_to_rest;
            all.is_complete &= one.is_complete;
        }
        Ok(all)
    }

    /// As [`Cache::snapshot`], for a store in shards: one directory, opened like this one.
    ///
    /// Each shard is as it was at one moment, the shards at moments a little apart; of a batch across shards
    /// all is in it or nothing. Such batches wait while it is made. What is in [`Fanout::cache`] and
    /// [`Fanout::views`] is not in it: make snapshots of those themselves.
    ///
    /// # Errors
    /// As [`Cache::snapshot`].
    pub fn snapshot(&self, dir: impl AsRef<Path>) -> Result<SnapshotReport> {
        self.writable()?;
        let dir = dir.as_ref();
        let is_new = !dir.exists();
        let done = self.snapshot_in(dir);
        if done.is_err() && is_new {
            // What was made in it; the error that is told is the one that led here.
            let _ = std::fs::remove_dir_all(dir);
        }
        done
    }

    fn snapshot_in(&self, dir: &Path) -> Result<SnapshotReport> {
        let shards = Shards::open(dir, true, true, false)?;
        let gate = shards.gate(self.patience()?)?;
        if !shards.present()?.is_empty() || shards.layout()?.is_some() {
            let what = std::io::Error::new(
                std::io::ErrorKind::DirectoryNotEmpty,
                "it is not empty: a snapshot needs a directory of its own",
            );
            return Err(Error::io("making a snapshot in", dir, what));
        }
        // Most of it off the lock, so that the rest is little.
        for index in 0..self.shards.len() {
            self.settled(index)?.flush()?;
        }
        let timeout = self.patience()?;
        let layout = self.core.layout;
        let path = |index| dir.join(name::shard(layout.generation, index));
        // Who has the first shard's lock keeps every batch across shards from beginning.
        let mut held = Store::lock(&**self.store(0)?, timeout)?;
        let mut all = SnapshotReport::default();
        for index in 0..self.shards.len() {
            let (first, proof) = held.parts();
            let one = match index {
                0 => first.snapshot_held(proof, &path(0), timeout)?,
                _ => {
                    let store = self.store(index)?;
                    let mut other = Store::lock_sibling(&**store, timeout)?;
                    let (store, proof) = other.parts();
                    if store.crossing() != 0 {
                        store.catch_up(proof, first, index as u16)?;
                    }
                    store.snapshot_held(proof, &path(index), timeout)?
                }
            };
            all.segments += one.segments;
            all.values += one.values;
            all.copied += one.copied;
            all.copied_bytes += one.copied_bytes;
        }
        drop(held);
        shards.dir.sync_names()?;
        shards.publish(&gate, layout)?;
        Ok(all)
    }
}

fn over() -> UpkeepReport {
    UpkeepReport {
        is_over: true,
        ..UpkeepReport::default()
    }
}

fn plus(all: UpkeepReport, one: UpkeepReport) -> UpkeepReport {
    UpkeepReport {
        expired: all.expired + one.expired,
        culled: all.culled + one.culled,
        kept: all.kept + one.kept,
        kept_bytes: all.kept_bytes + one.kept_bytes,
        freed_bytes: all.freed_bytes + one.freed_bytes,
        is_over: all.is_over && one.is_over,
        ..all
    }
}
