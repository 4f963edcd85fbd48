//! Dividing a store anew: another number of shards, made beside the old ones.
//!
//! Holds: until the file `fanout` names the new shards nobody sees them, and the old ones stay; nobody
//! writes to the old ones while they are copied, nor ever after. Killed anywhere, the store is the old one
//! or the new one, and the next opener removes the other.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use crate::engine::crossing::{RETIRED, inner_change};
use crate::engine::fanout::{self, Shards};
use crate::engine::read::Hit;
use crate::engine::store::{INNER_SPACE, Store};
use crate::error::{Error, Result};
use crate::format::fanout::Layout;
use crate::format::name;
use crate::format::record::{Head, flag, tags_of};
use crate::format::settings::Settings;
use crate::limits::{SEGMENT_SIZE_MIN, SHARDS_MAX, SIZE_LIMIT_MIN};
use crate::os::clock::ManualClock;
use crate::policy::Policy;
use crate::view::builder::Builder;
use crate::view::cache::Cache;
use crate::view::fanout::merge::{Merged, Timed};
use crate::view::fanout::{Fanout, open, share, step};
use crate::view::iter::{Iter, Keys};
use crate::view::options::SetOptions;
use crate::view::prepare::{self, Prepared};
use crate::view::queue;
use crate::view::reader::ValueReader;
use crate::view::state::State;
use crate::view::value::ValueKind;

/// Entries of one shard stored as one batch.
const BATCH_ENTRIES: usize = 512;
const BATCH_BYTES: usize = 256 << 10;

/// How far [`Fanout::reshard_with`] has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReshardProgress {
    /// Entries copied.
    pub entries: u64,
    /// Entries there are, expired ones included.
    pub entries_max: u64,
}

/// What [`Fanout::reshard`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ReshardReport {
    /// Shards before.
    pub before: usize,
    /// Shards now.
    pub after: usize,
    /// Entries copied; 0 when there were as many shards as asked for.
    pub entries: u64,
}

/// An entry as it stands in its old shard.
struct Taken {
    shard: usize,
    key: Vec<u8>,
    value: Vec<u8>,
    head: Head,
    tags: Vec<Vec<u8>>,
    expires_ms: Option<u64>,
    stored_at_s: u64,
}

impl Fanout {
    /// Divides the store in `dir` into another number of shards.
    ///
    /// Live entries are copied with their expiry, tags, cost, order and second of storing, and so are queues,
    /// quotas and settings; counters, hits and times of access begin anew. Takes as much disk again as the
    /// store has. Writers wait meanwhile, or are [`Error::Busy`]; readers go on. Whoever had the store
    /// open is [`Error::Moved`] then, and opens it again; a [`Fanout::hold`] from before is not seen after.
    /// Killed in the middle, nothing was changed.
    ///
    /// ```
    /// let dir = tempfile::tempdir().unwrap();
    /// let fanout = larder::Cache::builder().open_fanout(dir.path(), 2)?;
    /// fanout.set("answer", "42")?;
    /// fanout.close()?;
    /// larder::Fanout::reshard(dir.path(), 3)?;
    ///
    /// let fanout = larder::Fanout::open(dir.path())?;
    /// assert_eq!((fanout.shards(), fanout.get("answer")?.as_deref()), (3, Some(&b"42"[..])));
    /// # Ok::<(), larder::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Fanout::open`]; [`Error::NotAStore`] when there is none; [`Error::InvalidSetting`] for a number
    /// that cannot be, or of which a shard's part of `size_limit_bytes` would be too small;
    /// [`Error::NoSpace`]; [`Error::Corrupt`] for an entry that cannot be read: repair first. The store is
    /// as it was then.
    pub fn reshard(dir: impl AsRef<Path>, shards: usize) -> Result<ReshardReport> {
        Fanout::reshard_with(dir, shards, |_| ControlFlow::Continue(()))
    }

    /// As [`Fanout::reshard`]; `watch` is told now and then, and may end it: [`Error::Aborted`], and nothing
    /// was changed.
    ///
    /// # Errors
    /// As [`Fanout::reshard`].
    pub fn reshard_with(
        dir: impl AsRef<Path>,
        shards: usize,
        mut watch: impl FnMut(&ReshardProgress) -> ControlFlow<()>,
    ) -> Result<ReshardReport> {
        if !(1..=SHARDS_MAX).contains(&shards) {
            let what = format!("{shards} is not between 1 and {SHARDS_MAX}");
            return Err(Error::setting("shards", what));
        }
        let dir = dir.as_ref();
        let old = Builder::default().create(false).open_fanout(dir, None)?;
        let mut report = ReshardReport {
            before: old.shards(),
            after: shards,
            entries: 0,
        };
        let whole = old.settings()?;
        share::validate(&whole, shards)?;
        let place = Shards::open(dir, false, false, false)?;
        let gate = place.gate(old.patience()?)?;
        if place.layout()? != Some(old.core.layout) {
            return Err(old.moved());
        }
        if shards == old.shards() {
            return Ok(report);
        }
        let layout = Layout {
            shards,
            generation: old.core.layout.generation + 1,
        };
        place.remove_others(&gate, old.core.layout)?;
        let done = old.copy_to(&place, layout, &whole, &mut watch);
        let copied = done.map(|(new, entries)| {
            report.entries = entries;
            new
        });
        let (new, locks) = match copied {
            Ok(made) => made,
            Err(error) => {
                // Nobody has seen them. The error that is told is the one that led here.
                let _ = place.remove_others(&gate, old.core.layout);
                return Err(error);
            }
        };
        // Who waits for a lock now finds this; until `fanout` says so it can be taken back.
        for store in old.stores()? {
            step();
            store.set_crossing(RETIRED);
        }
        step();
        if let Err(error) = place.publish(&gate, layout) {
            if place.layout().ok().flatten() == Some(old.core.layout) {
                for store in old.stores()? {
                    store.set_crossing(0);
                }
            }
            return Err(error);
        }
        drop(new);
        step();
        place.remove_others(&gate, layout)?;
        step();
        drop(locks);
        Ok(report)
    }

    /// Copies all to shards of a new generation. Returns them, and the locks of the old ones.
    #[allow(clippy::type_complexity, reason = "it is taken apart at once")]
    fn copy_to(
        &self,
        place: &Shards,
        layout: Layout,
        whole: &Settings,
        watch: &mut dyn FnMut(&ReshardProgress) -> ControlFlow<()>,
    ) -> Result<((Vec<Cache>, Vec<(usize, State)>), u64)> {
        let all: Vec<usize> = (0..self.shards.len()).collect();
        let locks = self.begin(&all)?;
        let stores = self.stores()?;
        // Seconds are counted from a store's birth, and entries may be older than the new shards.
        let born_ms = stores.iter().map(|store| store.created_ms).min();
        let born = Builder::default().clock(Arc::new(ManualClock::new(born_ms.unwrap_or(0))));
        // Nothing is evicted on the way.
        let roomy = Settings {
            size_limit_bytes: whole.size_limit_bytes.max(self.disk_usage()?) * 2,
            segment_size_bytes: (whole.segment_size_bytes)
                .min(whole.size_limit_bytes / layout.shards as u64 / 32)
                .max(SEGMENT_SIZE_MIN),
            policy: Policy::None,
            count_limit: None,
            max_age: None,
            ..whole.clone()
        };
        for index in 0..layout.shards {
            // As one shard of one: it has the limit of all.
            let path = name::shard(layout.generation, index);
            drop(open::shard_at(&born, place, &path, (true, &roomy))?);
        }
        place.dir.sync_names()?;
        let builder = Builder::default();
        let mut new = Vec::with_capacity(layout.shards);
        for index in 0..layout.shards {
            let path = name::shard(layout.generation, index);
            new.push(open::shard_at(&builder, place, &path, (false, &roomy))?);
        }
        let entries = self.copy_entries(&new, layout, watch)?;
        self.copy_queues(&new, layout)?;
        self.copy_quotas(&new)?;
        step();
        self.label(&new, layout, whole)?;
        step();
        Ok(((new, locks), entries))
    }

    fn copy_entries(
        &self,
        new: &[Cache],
        layout: Layout,
        watch: &mut dyn FnMut(&ReshardProgress) -> ControlFlow<()>,
    ) -> Result<u64> {
        let mut walks = Vec::with_capacity(self.shards.len());
        for (index, shard) in self.shards.iter().enumerate() {
            walks.push(Taking {
                index,
                iter: shard.iter()?,
            });
        }
        let mut progress = ReshardProgress {
            entries: 0,
            entries_max: self.shards.iter().map(Cache::len).sum::<Result<u64>>()?,
        };
        let mut batches: Vec<(Vec<Taken>, usize)> = new.iter().map(|_| (Vec::new(), 0)).collect();
        for taken in Merged::new(walks) {
            let taken = taken?;
            let to = layout.shard_of(&taken.key);
            let (batch, bytes) = &mut batches[to];
            let len = taken.key.len() + taken.value.len();
            if !batch.is_empty() && (batch.len() >= BATCH_ENTRIES || *bytes + len > BATCH_BYTES) {
                *bytes = 0;
                self.store_batch(&new[to], std::mem::take(batch))?;
                if watch(&progress).is_break() {
                    return Err(stopped());
                }
            }
            *bytes += len;
            batch.push(taken);
            progress.entries += 1;
        }
        for (to, (batch, _)) in batches.into_iter().enumerate() {
            self.store_batch(&new[to], batch)?;
        }
        if watch(&progress).is_break() {
            return Err(stopped());
        }
        Ok(progress.entries)
    }

    fn store_batch(&self, to: &Cache, batch: Vec<Taken>) -> Result<()> {
        let store = to.store()?;
        // Those in files of their own are read before the lock is taken, and go alone: few may be on their
        // way at a time.
        let mut state: Option<State> = None;
        for taken in batch {
            let stored_s = taken.stored_at_s.saturating_sub(store.created_ms / 1_000);
            let about = (
                stored_s.min(u64::from(u32::MAX)) as u32,
                taken.head.flags & flag::ITEM != 0,
            );
            if taken.head.options.apart.is_some() {
                if let Some(state) = state.take() {
                    state.commit()?;
                }
                let prepared = self.prepare_large(store, &taken)?;
                let mut state = State::begin(store, None)?;
                state.set_as_stored(&taken.key, prepared, &taken.tags, about)?;
                state.commit()?;
                continue;
            }
            let prepared = Prepared {
                bytes: taken.value.into(),
                zstd: taken.head.options.zstd,
                stream: None,
                kind: taken.head.value_kind,
                expires_ms: taken.expires_ms,
                sliding_ms: taken.head.options.sliding_ms,
                cost_s: taken.head.options.cost_s,
            };
            let state = match &mut state {
                Some(state) => state,
                none => none.insert(State::begin(store, None)?),
            };
            state.set_as_stored(&taken.key, prepared, &taken.tags, about)?;
        }
        state.map_or(Ok(()), State::commit)
    }

    fn prepare_large(&self, store: &Arc<Store>, taken: &Taken) -> Result<Prepared<'static>> {
        let from = self.store(taken.shard)?;
        let Some(apart) = taken.head.options.apart else {
            return Err(from.missing_value(&taken.head));
        };
        let Some(reader) = ValueReader::of_file(from, apart)? else {
            return Err(from.missing_value(&taken.head));
        };
        let options = SetOptions::default().kind(ValueKind::from_byte(taken.head.value_kind));
        let (mut prepared, _) = prepare::reader(store, reader, &options)?;
        prepared.expires_ms = taken.expires_ms;
        prepared.sliding_ms = taken.head.options.sliding_ms;
        prepared.cost_s = taken.head.options.cost_s;
        Ok(prepared)
    }

    /// The ends of queues: each is where its prefix is.
    fn copy_queues(&self, new: &[Cache], layout: Layout) -> Result<()> {
        for from in self.stores()? {
            for key in Keys::new(&from, INNER_SPACE)? {
                let key = key?;
                let Some(prefix) = queue::prefix_of(&key) else {
                    continue;
                };
                let to = &new[layout.shard_of_name(prefix.unwrap_or_default())];
                let store = to.store()?;
                let value = from.inner(&key)?;
                let mut held = Store::lock(&**store, None)?;
                let (store, proof) = held.parts();
                store.commit_inner(proof, &vec![inner_change(store, &key, value)])?;
            }
        }
        Ok(())
    }

    fn copy_quotas(&self, new: &[Cache]) -> Result<()> {
        let mut quotas = std::collections::BTreeMap::<Vec<u8>, u64>::new();
        for shard in &*self.shards {
            for tag in shard.tags()? {
                if let Some(quota) = tag.quota_bytes {
                    *quotas.entry(tag.name).or_default() += quota;
                }
            }
        }
        let count = new.len() as u64;
        for (tag, bytes) in quotas {
            for (index, to) in new.iter().enumerate() {
                let part = bytes / count + u64::from((index as u64) < bytes % count);
                to.set_tag_quota(&tag, Some(part.max(1)))?;
            }
        }
        Ok(())
    }

    /// Gives the new shards their settings, their parts of the limit, and their names; all is durable then.
    fn label(&self, new: &[Cache], layout: Layout, whole: &Settings) -> Result<()> {
        let count = new.len() as u64;
        let mut disks = Vec::with_capacity(new.len());
        for cache in new {
            disks.push(cache.disk_usage()?.max(SIZE_LIMIT_MIN / 2) + SIZE_LIMIT_MIN / 2);
        }
        let spare = whole.size_limit_bytes.saturating_sub(disks.iter().sum());
        let equal = whole.size_limit_bytes / count;
        let fits = disks.iter().all(|&disk| disk <= equal - equal / 8);
        for (index, cache) in new.iter().enumerate() {
            let limit = match (fits, spare) {
                (true, _) | (_, 0) => equal,
                (false, spare) => disks[index] + spare / count,
            };
            let settings = Settings {
                size_limit_bytes: limit,
                ..share::of(whole, layout.shards, index)
            };
            let store = cache.store()?;
            {
                let mut held = Store::lock(&**store, None)?;
                let (store, proof) = held.parts();
                store.write_settings(proof, &settings)?;
                if index == 0 {
                    share::put_whole(store, proof, whole)?;
                }
                fanout::put_shard(store, proof, layout, index)?;
            }
            store.sync_log()?;
        }
        Ok(())
    }
}

fn stopped() -> Error {
    Error::Aborted {
        what: "dividing the store was stopped; nothing was changed".into(),
    }
}

/// A shard's live entries, as they are stored.
struct Taking {
    index: usize,
    iter: Iter,
}

impl Taking {
    fn step(&mut self, forward: bool) -> Option<Timed<Taken>> {
        let shard = self.index;
        let take = |store: &Store, hit: Hit<'_>, buffer: &mut Vec<u8>| {
            let tags = tags_of(&hit.head, buffer);
            let tags = tags.map(|id| store.tag_name(id)).collect::<Result<_>>()?;
            let stored_at_s = store.created_ms / 1_000 + u64::from(hit.head.stored_s);
            let expires_ms = hit.head.options.expires_ms;
            let taken = Taken {
                shard,
                key: hit.key(buffer).to_vec(),
                value: hit.value(buffer).to_vec(),
                head: hit.head,
                tags,
                // As it was renewed by reading, if it slides.
                expires_ms: expires_ms.map(|_| store.own_expiry_of(&hit, store.now_ms())),
                stored_at_s,
            };
            Ok(Some((stored_at_s, taken)))
        };
        self.iter.step_with(forward, take)
    }
}

impl Iterator for Taking {
    type Item = Timed<Taken>;

    fn next(&mut self) -> Option<Timed<Taken>> {
        self.step(true)
    }
}

impl DoubleEndedIterator for Taking {
    fn next_back(&mut self) -> Option<Timed<Taken>> {
        self.step(false)
    }
}
