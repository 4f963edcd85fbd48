//! When a store makes itself smaller: beside each write, when it is full, and when somebody asks.
//!
//! Owns the marks of fullness, the segment being compacted, and the driver of all steps. What a step does
//! is `cull`'s, `expire`'s and `reclaim`'s. Each step holds the writer lock for a moment; syncs are made
//! off it, but by who is in a transaction.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::engine::cull::Spared;
use crate::engine::reclaim::Fate;
use crate::engine::room::Lane;
use crate::engine::store::{MAIN_SPACE, Proof, Store};
use crate::error::{Error, Result};
use crate::format::bucket::Place;
use crate::format::header::{self as layout, row, state};
use crate::part::segments::{self, Row, row_at};
use crate::part::shared::setting;
use crate::part::writer_lock;
use crate::policy::Source;

/// A store begins to make room when less than this share of its limit is left: 1/8.
const HIGH_PARTS: u64 = 8;
/// And does so in every writer's way, not only in the background, from here on: 1/16.
const URGENT_PARTS: u64 = 16;
/// Entries above `count_limit` that one write evicts beyond as many as it brought.
const SURPLUS_PER_WRITE: u64 = 64;
/// Turns of making room that give nothing back, before a write is refused.
const IN_VAIN_MAX: u32 = 400;
/// Entries one write removes as expired, at most.
const EXPIRED_PER_WRITE: u64 = 14;
/// A sealed segment with a smaller share of live bytes is compacted rather than culled.
const WORTH_COMPACTING: f64 = 0.25;
/// The same where nothing is culled, or culling leaves holes everywhere.
const WORTH_COMPACTING_ALONE: f64 = 0.85;
/// Live entries take at most this share of the limit under policies that evict here and there: the
/// rest is room to compact in.
const LIVE_SHARE_MAX: f64 = 0.75;
/// Below that share of live bytes in all segments compaction begins before the store is full.
const LIVE_SHARE_MIN: f64 = 0.45;

/// How long maintenance leaves the lock to others who want it.
const OTHERS_TURN: Duration = Duration::from_micros(100);

/// What upkeep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct UpkeepReport {
    /// Entries removed because they had expired.
    pub expired: u64,
    /// Entries evicted by the policy, for any limit.
    pub culled: u64,
    /// Records copied to give the bytes around them back.
    pub kept: u64,
    /// Bytes of those.
    pub kept_bytes: u64,
    /// Bytes on disk given back.
    pub freed_bytes: u64,
    /// There is nothing more to do now.
    pub is_over: bool,
    /// Bytes that went, or were passed and not kept.
    #[serde(skip)]
    pub(crate) progress: u64,
}

/// Who is told how upkeep goes on, and may end it.
pub(crate) type Watch<'w> = &'w mut dyn FnMut(&UpkeepReport) -> ControlFlow<()>;

impl Store {
    pub(crate) fn limit(&self) -> u64 {
        self.files.header.setting(setting::SIZE_LIMIT)
    }

    /// Bytes on disk that will not go by themselves: without segments that are empty already.
    fn needed_bytes(&self) -> Result<u64> {
        let disk = self.disk_bytes();
        if disk <= self.limit() - self.limit() / HIGH_PARTS {
            return Ok(disk);
        }
        Ok(disk.saturating_sub(self.empty_bytes()?))
    }

    fn is_high(&self) -> Result<bool> {
        Ok(self.needed_bytes()? > self.limit() - self.limit() / HIGH_PARTS)
    }

    /// Entries one write may still remove.
    fn cull_limit(&self) -> u64 {
        self.files.header.setting(setting::CULL_LIMIT)
    }

    /// After a write, under its lock: what is due, what is too many, and a step towards room.
    ///
    /// The write is done: what fails here is met by the next one.
    #[inline]
    pub(crate) fn upkeep_beside(&self, proof: &mut Proof, spared: &Spared) {
        let header = &self.files.header;
        let second = u64::from(self.second(self.now_ms()));
        let is_due = header.get(layout::EXPIRED_UPTO_AT) < second;
        // Without what is reserved for streams: those who stream see to their room themselves.
        let is_tight =
            header.number(layout::DISK_BYTES_AT) > self.limit() - self.limit() / HIGH_PARTS;
        let target = header.get(layout::COMPACTING_AT);
        let is_sparse = self.is_sparse(MAIN_SPACE);
        if is_due || is_tight || is_sparse || target != 0 || self.surplus() > 0 {
            let _ = self.upkeep_slowly(proof, spared, is_due);
        }
    }

    #[cold]
    fn upkeep_slowly(&self, proof: &mut Proof, spared: &Spared, is_due: bool) -> Result<()> {
        let mut left = self.cull_limit();
        if is_due {
            let most = left.min(EXPIRED_PER_WRITE);
            if most > 0 {
                left -= self.expire_step(proof, most)?.removed.min(left);
            } else {
                // Nothing may go, but time passes.
                self.expire_step(proof, 0)?;
            }
        }
        let came = spared.0.end.saturating_sub(spared.0.start) + SURPLUS_PER_WRITE;
        left -= self.cull_surplus(proof, left.min(came), spared)?.min(left);
        let has_keeper = self.files.header.get(layout::KEEPER_AT) != 0;
        let parts = if has_keeper { URGENT_PARTS } else { HIGH_PARTS };
        let is_mine = self.disk_bytes() > self.limit() - self.limit() / parts;
        let is_compacting = self.files.header.get(layout::COMPACTING_AT) != 0 && !has_keeper;
        let is_sparse = self.is_sparse(MAIN_SPACE) && !has_keeper;
        // Twice as much as was written: so it ends.
        if is_mine && has_keeper {
            // It does not keep pace; perhaps it is dead.
            self.forget_dead_keeper();
        }
        if is_mine || is_compacting || is_sparse {
            let debt = self.debt.load(Ordering::Relaxed);
            if debt >= 64 * 1024 {
                self.debt.store(0, Ordering::Relaxed);
                if is_sparse {
                    self.densify_step(proof)?;
                }
                let begin = Instant::now();
                let mut progress = 0;
                // As much goes as came, so that it ends; a longer turn would keep others waiting.
                while progress < debt * 2 && begin.elapsed() < Duration::from_micros(400) {
                    let is_high = self.needed_bytes()? > self.limit() - self.limit() / parts;
                    if !is_high && self.compacting()?.is_none() {
                        break;
                    }
                    let done = self.room_step(proof, left, spared)?;
                    left -= done.culled.min(left);
                    progress += done.progress;
                    if done.is_over {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// Evicts what is above `count_limit`, at most `most` entries. How many.
    ///
    /// Beside a write (`spared` has its sequences) not many more than came with it: of a limit that was
    /// lowered the rest goes by and by.
    fn cull_surplus(&self, proof: &mut Proof, most: u64, spared: &Spared) -> Result<u64> {
        let mut gone = 0;
        while gone < most {
            let surplus = self.surplus().min(most - gone);
            if surplus == 0 {
                break;
            }
            match self.cull_some(proof, surplus, spared)? {
                0 => break,
                some => gone += some,
            }
        }
        Ok(gone)
    }

    /// One step towards room: goes on with the segment being compacted, or chooses what to do. Returns
    /// what it did; `is_over`: there is nothing that can be done.
    fn room_step(&self, proof: &mut Proof, most: u64, spared: &Spared) -> Result<UpkeepReport> {
        let mut report = UpkeepReport::default();
        if let Some(row) = self.compacting()? {
            return self.compact_step(proof, &row);
        }
        let source = self.cull_policy().source();
        let keeps = self.cull_policy().copies();
        let worth = match source {
            Source::Log if keeps => WORTH_COMPACTING,
            Source::Log => 0.04,
            _ => WORTH_COMPACTING_ALONE,
        };
        let turn = self.files.header.get(layout::NEXT_FILE_AT);
        if let Some((row, share)) = self.emptiest(turn, u64::MAX)?
            && share < worth
        {
            // Those that leave holes everywhere first see to it that there are enough.
            let is_crowded = matches!(source, Source::Sample { .. }) && share > 0.5;
            if !(is_crowded && self.live_share()? > LIVE_SHARE_MAX) {
                self.begin_compacting(&row);
                return self.compact_step(proof, &row);
            }
        }
        if most == 0 {
            report.is_over = true;
            return Ok(report);
        }
        match source {
            Source::None => report.is_over = true,
            Source::Log => match self.cull_by_walk(proof, most, spared)? {
                None => report.is_over = true,
                Some(step) => {
                    report.culled = step.gone - step.expired;
                    report.expired = step.expired;
                    report.kept = step.kept;
                    report.kept_bytes = step.kept_bytes;
                    report.progress = step.passed_bytes.saturating_sub(step.kept_bytes);
                }
            },
            Source::Sample { .. } => {
                let volume = || self.files.space(MAIN_SPACE, layout::space::VOLUME);
                let before = volume();
                let some = self.cull_some(proof, most.min(32), spared)?;
                report.culled = some;
                report.progress = before.saturating_sub(volume());
                report.is_over = some == 0;
            }
        }
        Ok(report)
    }

    /// One step through the emptiest segment, all of whose entries go: there is no room to keep them.
    fn give_up_step(&self, proof: &mut Proof, most: u64) -> Result<UpkeepReport> {
        let mut report = UpkeepReport::default();
        let target = match self.compacting()? {
            Some(row) => Some(row),
            None => self.emptiest(0, u64::MAX)?.map(|(row, _)| row),
        };
        let is_kept = self.cull_policy().source() == Source::None;
        let Some(row) = target.filter(|_| !is_kept) else {
            report.is_over = true;
            return Ok(report);
        };
        let mut gone = 0;
        let step = self.walk_step(proof, &row, 0, false, &mut |_| {
            gone += 1;
            match gone > most {
                true => Fate::Waits,
                false => Fate::Goes,
            }
        })?;
        report.culled = step.gone - step.expired;
        report.expired = step.expired;
        report.is_over = step.gone == 0 && !step.is_over;
        self.count(crate::engine::store::stat::CULLED, report.culled);
        self.count(crate::engine::store::stat::EXPIRED, report.expired);
        Ok(report)
    }

    /// Live bytes of all segments, as a share of the limit.
    fn live_share(&self) -> Result<f64> {
        let rows = segments::rows(&self.files)?;
        let live: u64 = rows
            .iter()
            .filter(|row| !row.is(state::EMPTY))
            .map(|row| row.live)
            .sum();
        Ok(live as f64 / self.limit() as f64)
    }

    /// The segment being compacted, from where it goes on.
    fn compacting(&self) -> Result<Option<Row>> {
        let header = &self.files.header;
        let id = header.get(layout::COMPACTING_AT);
        if id == 0 {
            return Ok(None);
        }
        let rows = segments::rows(&self.files)?;
        let found = rows
            .into_iter()
            .find(|row| row.id == id && (row.is(state::SEALED) || row.is(state::BAD)));
        if found.is_none() {
            header.put(layout::COMPACTING_AT, 0);
        }
        Ok(found)
    }

    fn begin_compacting(&self, row: &Row) {
        self.files.header.put(layout::COMPACTING_AT + 8, 0);
        self.files.header.put(layout::COMPACTING_AT, row.id);
    }

    /// One step through a segment all of whose live entries are kept.
    fn compact_step(&self, proof: &mut Proof, row: &Row) -> Result<UpkeepReport> {
        let header = &self.files.header;
        let from = header.number(layout::COMPACTING_AT + 8);
        let step = self.walk_step(proof, row, from, false, &mut |_| Fate::Stays(None))?;
        header.put(layout::COMPACTING_AT + 8, step.next);
        if step.is_over {
            header.put(layout::COMPACTING_AT, 0);
        }
        self.count(crate::engine::store::stat::EXPIRED, step.expired);
        Ok(UpkeepReport {
            expired: step.expired,
            kept: step.kept,
            kept_bytes: step.kept_bytes,
            progress: step.passed_bytes.saturating_sub(step.kept_bytes),
            ..UpkeepReport::default()
        })
    }

    /// A segment was sealed: if too much of the log is dead, compaction begins. Under the lock.
    pub(crate) fn look_at_dead_bytes(&self) -> Result<()> {
        if self.files.header.get(layout::COMPACTING_AT) != 0 {
            return Ok(());
        }
        let policy = self.cull_policy();
        if policy.source() == Source::Log
            && !policy.copies()
            && self.disk_bytes() > self.limit() / 4 * 3
        {
            // The oldest segment goes soon, whatever is dead in it: copies would be made for nothing.
            return Ok(());
        }
        let rows = segments::rows(&self.files)?;
        let sealed = || rows.iter().filter(|row| row.is(state::SEALED));
        let has: u64 = sealed().map(|row| row.end).sum();
        let live: u64 = sealed().map(|row| row.live).sum();
        if has > self.segment_size() * 4 && (live as f64) < has as f64 * LIVE_SHARE_MIN {
            let turn = self.files.header.get(layout::NEXT_FILE_AT);
            if let Some((row, share)) = self.emptiest(turn, u64::MAX)?
                && share < 0.6
            {
                self.begin_compacting(&row);
            }
        }
        Ok(())
    }

    /// Off the lock, after a write: files that can go now, at the cost of a sync when enough wait.
    pub(crate) fn tidy_segments(&self) {
        let keeper = self.files.header.get(layout::KEEPER_AT);
        if keeper != writer_lock::name_of(&self.me) {
            // A mapping too many costs space alone.
            let _ = self.notice_gone();
        }
        let limit = self.limit();
        // With a keeper nobody syncs in a writer's way but who finds no room (`make_way`).
        let disk = self.files.header.number(layout::DISK_BYTES_AT);
        if keeper != 0 || disk <= limit - limit / HIGH_PARTS {
            return;
        }
        if self.empty_bytes().unwrap_or(0) >= self.segment_size() {
            // The write is done; a failed sync is noted for every process.
            let _ = self.free_durably(Some(Duration::from_secs(1)));
        }
    }

    /// Room for `need` bytes more, off the lock, as far as policy and `cull_limit` allow. Whether it is
    /// worth while to try again.
    pub(crate) fn make_way(&self, need: u64) -> Result<bool> {
        // A thread that is in a transaction holds the lock: it would wait for itself.
        let patience = Some(Duration::from_secs(5));
        let start = Instant::now();
        let mut left = self.cull_limit();
        let mut some = false;
        // Copying from one segment to another gives back less and less: it ends when it gives nothing.
        let (mut least, mut in_vain) = (u64::MAX, 0);
        loop {
            if self.graves() > 0 || self.empty_bytes()? > 0 {
                match self.free_durably(patience) {
                    Err(Error::Busy { .. }) => return Ok(some),
                    freed => {
                        let freed = freed?;
                        some |= freed > 0;
                        if freed == 0 && self.empty_bytes()? > 0 {
                            // Somebody needs the files to stay for a while.
                            std::thread::sleep(Duration::from_millis(1));
                        }
                    }
                }
            }
            if self.has_room(need) {
                return Ok(true);
            }
            match self.disk_bytes() {
                disk if disk < least => (least, in_vain) = (disk, 0),
                _ => in_vain += 1,
            }
            if in_vain > IN_VAIN_MAX || start.elapsed() > Duration::from_secs(10) {
                return Ok(some && in_vain == 0);
            }
            let mut held = match Store::lock(self, patience) {
                Err(Error::Busy { .. }) => return Ok(some),
                held => held?,
            };
            let (store, proof) = held.parts();
            // Until a segment or more is empty: a sync is not for less.
            let begin = Instant::now();
            loop {
                if store.empty_bytes()? >= store.segment_size().max(need.min(store.limit() / 8)) {
                    break;
                }
                let done = match store.room_step(proof, left, &Spared::nothing()) {
                    // No room to copy into: what is empty goes first, or something goes uncopied.
                    Err(Error::Full { .. }) if store.empty_bytes()? > 0 => break,
                    Err(Error::Full { .. }) if left > 0 => store.give_up_step(proof, left)?,
                    done => done?,
                };
                left -= done.culled.min(left);
                if done.is_over {
                    if store.empty_bytes()? == 0 && store.graves() == 0 {
                        // The last segment that could be emptied is the one being written.
                        if !store.seal_active(proof)? {
                            return Ok(some);
                        }
                    }
                    break;
                }
                if begin.elapsed() > Duration::from_micros(700) {
                    break;
                }
            }
        }
    }

    /// Seals what is being written if a good part of it is dead. Under the lock.
    pub(crate) fn seal_if_dead(&self, proof: &mut Proof) -> Result<()> {
        let _ = proof;
        let header = &self.files.header;
        for lane in [Lane::Log, Lane::Copies] {
            let Some(tail) = Place::from_bits(header.get(lane.tail())) else {
                continue;
            };
            let live = self.files.load(&self.dir, row_at(tail.slot, row::LIVE))?;
            if live * 8 < tail.at * 7 && tail.at > 64 * 1024 {
                self.rotate(lane, 0, 0, true)?;
            }
        }
        Ok(())
    }

    /// Seals the log's segment if it holds anything, so that a hand may pass it. Under the lock.
    fn seal_active(&self, proof: &mut Proof) -> Result<bool> {
        let _ = proof;
        let header = &self.files.header;
        let mut sealed = false;
        for lane in [Lane::Log, Lane::Copies] {
            let is_begun = Place::from_bits(header.get(lane.tail())).is_some();
            if is_begun && header.number(lane.count()) > 1 {
                // A new one takes space too: where there is none, nothing is lost.
                sealed |= self.rotate(lane, 0, 0, true).is_ok();
            }
        }
        // The hands may have stood at the end of what was active.
        Ok(sealed)
    }

    fn has_room(&self, need: u64) -> bool {
        self.disk_bytes().saturating_add(need) <= self.limit()
    }

    /// The same by who holds the lock and keeps it: in a transaction.
    pub(crate) fn make_way_locked(&self, proof: &mut Proof, need: u64) -> Result<bool> {
        let mut left = self.cull_limit();
        let spared = Spared::nothing();
        let mut some = false;
        let (mut least, mut in_vain) = (u64::MAX, 0);
        for _ in 0..100_000 {
            if self.has_room(need) {
                return Ok(true);
            }
            match self.disk_bytes() {
                disk if disk < least => (least, in_vain) = (disk, 0),
                _ => in_vain += 1,
            }
            if in_vain > IN_VAIN_MAX * 50 {
                return Ok(false);
            }
            if self.empty_bytes()? >= self.segment_size() || self.graves() > 0 {
                let freed = self.free_durably_locked(proof)?;
                some |= freed > 0;
                if freed > 0 {
                    continue;
                }
            }
            let done = match self.room_step(proof, left, &spared) {
                Err(Error::Full { .. }) if self.empty_bytes()? > 0 => UpkeepReport {
                    is_over: true,
                    ..UpkeepReport::default()
                },
                Err(Error::Full { .. }) if left > 0 => self.give_up_step(proof, left)?,
                done => done?,
            };
            left -= done.culled.min(left);
            if done.is_over {
                let freed = self.free_durably_locked(proof)?;
                some |= freed > 0;
                if freed == 0 && !self.seal_active(proof)? {
                    return Ok(some);
                }
            }
        }
        Ok(some)
    }

    /// Does what there is to do, within a budget of time and of bytes copied.
    pub(crate) fn maintain(
        &self,
        budget: &Budget,
        timeout: Option<Duration>,
        watch: Watch<'_>,
    ) -> Result<UpkeepReport> {
        let start = Instant::now();
        // What is copied meanwhile is not copied again: so it ends.
        let bound = self.files.header.number(layout::NEXT_FILE_AT);
        let mut report = UpkeepReport::default();
        let is_spent = |report: &UpkeepReport| {
            budget.time.is_some_and(|time| start.elapsed() >= time)
                || budget.bytes.is_some_and(|bytes| report.kept_bytes >= bytes)
        };
        loop {
            let (over, is_wanted);
            {
                let mut held = Store::lock(self, timeout)?;
                let (store, proof) = held.parts();
                let begin = Instant::now();
                loop {
                    let done = store.maintain_step(proof, budget.deep, bound)?;
                    report.expired += done.expired;
                    report.culled += done.culled;
                    report.kept += done.kept;
                    report.kept_bytes += done.kept_bytes;
                    if done.is_over
                        || is_spent(&report)
                        || begin.elapsed() > Duration::from_micros(700)
                        || writer_lock::is_wanted(&store.files.header)
                    {
                        over = done.is_over;
                        break;
                    }
                }
                store.mark_if_due(proof);
                is_wanted = writer_lock::is_wanted(&store.files.header);
            }
            if over || self.is_worth_a_sync()? {
                report.freed_bytes += self.free_durably(timeout)?;
            }
            report.is_over = over;
            if watch(&report).is_break() || over || is_spent(&report) {
                return Ok(report);
            }
            if is_wanted {
                // Who was woken finds the lock free: it would sleep again, turn after turn.
                std::thread::sleep(OTHERS_TURN);
            } else {
                std::thread::yield_now();
            }
        }
    }

    /// Whether enough segments wait for their emptying to be durable: one sync serves them all.
    fn is_worth_a_sync(&self) -> Result<bool> {
        let limit = self.limit();
        let is_urgent = self.disk_bytes() > limit - limit / URGENT_PARTS / 2;
        let least = if is_urgent { 0 } else { limit / URGENT_PARTS };
        Ok(self.empty_bytes()? >= self.segment_size().max(least))
    }

    /// `bound`: segments with an id below it may be compacted.
    fn maintain_step(&self, proof: &mut Proof, deep: bool, bound: u64) -> Result<UpkeepReport> {
        let mut report = UpkeepReport::default();
        let expired = self.expire_step(proof, u64::MAX)?;
        report.expired = expired.removed;
        if !expired.is_over {
            return Ok(report);
        }
        let surplus = self.surplus().min(256);
        if surplus > 0 {
            report.culled = self.cull_surplus(proof, surplus, &Spared::nothing())?;
            if report.culled > 0 {
                return Ok(report);
            }
        }
        if let Some(aged) = self.cull_aged(proof)? {
            report.culled += aged;
            return Ok(report);
        }
        if let Some(row) = self.compacting()? {
            return self.compact_step(proof, &row);
        }
        if self.is_high()? {
            return self.room_step(proof, u64::MAX, &Spared::nothing());
        }
        let turn = self.files.header.get(layout::NEXT_FILE_AT);
        let worth = if deep { 0.97 } else { 0.5 };
        if let Some((row, share)) = self.emptiest(turn, bound)?
            && share < worth
        {
            self.begin_compacting(&row);
            return self.compact_step(proof, &row);
        }
        if self.densify_step(proof)? {
            return Ok(report);
        }
        report.is_over = true;
        Ok(report)
    }

    /// A step of `cull`: what is above any limit goes. `None`: nothing is.
    pub(crate) fn cull_to_limits(&self, proof: &mut Proof) -> Result<Option<UpkeepReport>> {
        let mut report = UpkeepReport::default();
        let surplus = self.surplus().min(256);
        if surplus > 0 {
            report.culled = self.cull_surplus(proof, surplus, &Spared::nothing())?;
        }
        if report.culled == 0 {
            if let Some(aged) = self.cull_aged(proof)? {
                report.culled = aged;
                return Ok(Some(report));
            }
            if !self.is_high()? {
                return Ok(None);
            }
            report = self.room_step(proof, u64::MAX, &Spared::nothing())?;
            if report.is_over {
                // All that is left is in what is being written.
                let is_above = self.disk_bytes() > self.limit();
                return Ok((is_above && self.seal_active(proof)?).then_some(report));
            }
        }
        Ok(Some(report))
    }
}

/// How much [`Cache::maintain`](crate::Cache::maintain) may do.
///
/// ```
/// use std::time::Duration;
/// let budget = larder::Budget::default().time(Duration::from_millis(50));
/// let cache = larder::Cache::temporary()?;
/// let report = cache.maintain(&budget)?;
/// assert!(report.is_over);
/// # Ok::<(), larder::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[must_use]
pub struct Budget {
    pub(crate) time: Option<Duration>,
    pub(crate) bytes: Option<u64>,
    pub(crate) deep: bool,
}

impl Budget {
    /// Ends after so much time, between two steps of under a millisecond; syncs come on top. Default:
    /// when all is done.
    pub fn time(mut self, time: Duration) -> Self {
        self.time = Some(time);
        self
    }

    /// Ends after so many bytes of records copied. Default: when all is done.
    pub fn bytes(mut self, bytes: u64) -> Self {
        self.bytes = Some(bytes);
        self
    }

    pub(crate) fn deep(mut self) -> Self {
        self.deep = true;
        self
    }
}
