//! Durability: what is synced when, off the lock, and what a failure means.
//!
//! Holds: nothing counts as durable that one failed sync could have lost; a failed sync is never
//! tried again as if it had worked. Threads of a process share a sync: whoever waits for the turn and
//! finds its sequence durable goes home.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::engine::cull::Spared;
use crate::engine::store::{Held, Proof, Store, stat};
use crate::engine::walk::{Next, Walk};
use crate::error::{Error, Result};
use crate::format::bucket::Place;
use crate::format::header::{self as layout, row, state};
use crate::format::name::Name;
use crate::part::segments::{self, Row, row_at};

/// Dead value files may take so many bytes before a writer sees to their going.
const GRAVES_BYTES_MAX: u64 = 16 << 20;

/// So often room is made for one step that removes entries: others may take it.
const TRIES_TO_REMOVE: u32 = 8;

impl Store {
    /// Makes everything committed so far durable. Returns the newest durable sequence.
    pub(crate) fn sync_log(&self) -> Result<u64> {
        self.sync_to(self.committed())
    }

    /// Makes everything up to `seq` durable, unless somebody has.
    pub(crate) fn sync_to(&self, seq: u64) -> Result<u64> {
        let header = &self.files.header;
        if header.number(layout::DURABLE_AT) >= seq {
            return Ok(header.number(layout::DURABLE_AT));
        }
        let turn = self
            .sync_turn
            .lock()
            .unwrap_or_else(|poison| poison.into_inner());
        if header.number(layout::DURABLE_AT) >= seq {
            return Ok(header.number(layout::DURABLE_AT));
        }
        let synced = self.sync_now();
        drop(turn);
        synced
    }

    fn sync_now(&self) -> Result<u64> {
        let header = &self.files.header;
        let faults = header.get(layout::FAULTS_AT);
        let durable = header.number(layout::DURABLE_AT);
        let mark = self.newest_mark();
        // In this order: every record up to `seq` is in a segment up to the tail's.
        let seq = self.committed();
        let Some(tail) = Place::from_bits(header.get(layout::TAIL_AT)) else {
            return Ok(durable);
        };
        let names = header.get(layout::NAMES_AT);
        let unsynced = header.get(layout::UNSYNCED_AT);
        let copies = Place::from_bits(header.get(layout::COPY_TAIL_AT));
        let mut rows = segments::rows(&self.files)?;
        // Ids grow: whatever is appended to from now on has one as high as the tails have.
        let first_active = rows
            .iter()
            .filter(|row| row.slot == tail.slot || copies.is_some_and(|at| at.slot == row.slot))
            .map(|row| row.id)
            .min();
        rows.retain(|row| row.id >= unsynced);
        for row in &rows {
            self.sync_segment(row)?;
        }
        if header.get(layout::APART_SEQ_AT) > durable {
            self.sync_values(&rows, durable)?;
        }
        if header.get(layout::NAMES_DURABLE_AT) < names {
            self.dir.sync_names()?;
            header
                .word(layout::NAMES_DURABLE_AT)
                .fetch_max(names, Ordering::AcqRel);
        }
        if header.get(layout::FAULTS_AT) != faults {
            return Err(self.fault(tail.slot));
        }
        header.disturb();
        header
            .word(layout::UNSYNCED_AT)
            .fetch_max(first_active.unwrap_or(unsynced), Ordering::AcqRel);
        header
            .word(layout::DURABLE_AT)
            .fetch_max(seq, Ordering::AcqRel);
        self.note_mark(mark, seq);
        self.count(stat::SYNCS, 1);
        Ok(seq)
    }

    /// How far the newest mark says the log is durable, and the mark's own sequence.
    fn newest_mark(&self) -> (u64, u64) {
        let header = &self.files.header;
        // In this order: of a mark written just now the sequence alone, at worst.
        let marked = header.number(layout::MARKED_AT);
        std::sync::atomic::fence(Ordering::Acquire);
        (marked, header.number(layout::MARK_SEQ_AT))
    }

    fn note_mark(&self, (marked, seq): (u64, u64), durable: u64) {
        if seq <= durable {
            self.marked.fetch_max(marked, Ordering::Relaxed);
        }
    }

    /// How far a durable mark says the log is durable.
    pub(crate) fn marked_durably(&self) -> u64 {
        let durable = self.files.header.number(layout::DURABLE_AT);
        self.note_mark(self.newest_mark(), durable);
        self.marked.load(Ordering::Relaxed)
    }

    fn sync_segment(&self, row: &Row) -> Result<()> {
        if row.is(state::BAD) {
            return Err(self.fault(row.slot));
        }
        let name = Name::Segment(row.id);
        let Some(file) = self.dir.open_file(name)? else {
            // Nobody needs it any more, or somebody took it away.
            return match segments::id_of(&self.files, row.slot)? {
                id if id == row.id => Err(Error::Moved {
                    path: self.dir.path_of(name),
                }),
                _ => Ok(()),
            };
        };
        self.dir.sync(name, &file).inspect_err(|_| {
            // For every process, for good: the kernel forgets such an error once it was told.
            self.files.header.add(layout::FAULTS_AT, 1);
            let _ = self.files.store(
                &self.dir,
                row_at(row.slot, row::STATE),
                state::BAD << 56 | row.state & ((1 << 56) - 1),
            );
        })
    }

    fn fault(&self, slot: u16) -> Error {
        let path = self.dir.path_of(Name::Segment(
            segments::id_of(&self.files, slot).unwrap_or(0),
        ));
        let source = std::io::Error::other(
            "a sync of this file failed before: what was not durable by then may be lost on the disk",
        );
        Error::Io {
            path,
            doing: "syncing",
            source,
        }
    }

    /// Value files whose records are not yet durable.
    fn sync_values(&self, rows: &[Row], durable: u64) -> Result<()> {
        for row in rows.iter().filter(|row| !row.is_copies()) {
            let Some(segment) = self.segments.get(&self.files, &self.dir, row.slot)? else {
                continue;
            };
            let mut walk = Walk::new(&segment, self.end_of(row.slot, segment.head.size));
            while let Some(next) = walk.next(&self.dir)? {
                let Next::Record { head, .. } = next else {
                    continue;
                };
                if let (Some(name), true) = (Store::value_name(&head), head.seq > durable)
                    && let Some(file) = self.dir.open_file(name)?
                {
                    self.dir.sync(name, &file)?;
                }
            }
        }
        Ok(())
    }

    /// Makes all so far durable, notes in the log how far that is, and buries what may go.
    pub(crate) fn flush(&self, timeout: Option<Duration>) -> Result<()> {
        let before = self.files.header.number(layout::DURABLE_AT);
        let durable = self.sync_log()?;
        if durable == before && self.graves() == 0 {
            return Ok(());
        }
        {
            let mut held = Store::lock(self, timeout)?;
            let (store, proof) = held.parts();
            store.append_mark(proof, durable)?;
        }
        if self.graves() == 0 {
            return Ok(());
        }
        // The files go when the mark is durable too.
        self.sync_log()?;
        let mut held = Store::lock(self, timeout)?;
        let (store, proof) = held.parts();
        store.bury(proof)
    }

    /// Flushes, and leaves the marker that lets the next opener trust everything, also after a reboot.
    ///
    /// The marker is left out when somebody changes something meanwhile: it would be a lie.
    pub(crate) fn close(&self, timeout: Option<Duration>) -> Result<()> {
        let header = &self.files.header;
        if header.number(layout::CLEAN_AT) == self.committed() + 1 {
            return Ok(());
        }
        self.flush(timeout)?;
        // Under the lock no change is half done: `committed` moves before a change is over. Without upkeep:
        // that would be a change, and nothing could be marked.
        let (seq, takes) = {
            let _held: Held<&Store> = Store::lock(self, timeout)?;
            (self.committed(), header.get(layout::TAKES_AT))
        };
        self.sync_to(seq)?;
        self.files.sync_derived(&self.dir)?;
        self.dir.sync_names()?;
        let mut held = Store::lock(self, timeout)?;
        let (store, proof) = held.parts();
        store.mark_clean(proof, seq, takes.wrapping_add(1))
    }

    /// `takes`: how often the lock was taken if nobody else had it since the derived files were synced.
    fn mark_clean(&self, proof: &mut Proof, seq: u64, takes: u64) -> Result<()> {
        let _ = proof;
        let header = &self.files.header;
        let is_untouched = header.get(layout::TAKES_AT) == takes && self.committed() == seq;
        if !is_untouched || header.number(layout::DURABLE_AT) < seq {
            return Ok(());
        }
        header.put(layout::CLEAN_AT, seq + 1);
        header.put(layout::QUIET_AT, header.quiet());
        self.dir.sync(Name::Header, header.file())
    }

    /// After a write under `Durability::Sync`: waits for the disk.
    pub(crate) fn acknowledge(&self) -> Result<()> {
        if self
            .files
            .header
            .setting(crate::part::shared::setting::DURABILITY)
            == 2
        {
            self.sync_log()?;
        }
        Ok(())
    }

    /// After a write, off the lock: buries dead value files before they crowd the store.
    ///
    /// The write is done: what fails here is met again, and told, by the next flush.
    pub(crate) fn tidy(&self) {
        let graves = self.graves();
        let bytes = self.files.header.number(layout::GRAVES_BYTES_AT);
        if graves > layout::GRAVES / 2 || (graves > 0 && bytes > GRAVES_BYTES_MAX) {
            let _ = self.flush(Some(Duration::from_secs(1)));
        }
        self.tidy_segments();
    }
}

/// The thread that syncs every so often while a process has the store open, in that mode.
pub(crate) fn keep_syncing(store: &Arc<Store>) {
    let weak = Arc::downgrade(store);
    let spawned = std::thread::Builder::new()
        .name("larder-sync".into())
        .spawn(move || {
            let mut every = Duration::from_millis(20);
            loop {
                std::thread::sleep(every);
                let Some(store) = weak.upgrade() else { return };
                every = match store
                    .files
                    .header
                    .settings()
                    .map(|settings| settings.durability)
                {
                    Some(crate::format::settings::Durability::Interval(time)) => {
                        if store.files.header.number(layout::DURABLE_AT) < store.committed() {
                            // A failure is marked in the store and met by the next flush or write.
                            let _ = store.sync_log();
                        }
                        time.clamp(Duration::from_millis(1), Duration::from_secs(1))
                    }
                    // The mode may come back.
                    _ => Duration::from_secs(1),
                };
            }
        });
    // Without a thread the kernel's own writeback decides, as in `Durability::Process`.
    drop(spawned);
}

/// Locks a store for one step of upkeep, which counts what goes: nothing else goes beside it.
pub(crate) fn locked_for_upkeep<T>(
    store: &Store,
    timeout: Option<Duration>,
    work: impl FnOnce(&Store, &mut Proof) -> Result<T>,
) -> Result<T> {
    let mut held: Held<&Store> = Store::lock(store, timeout)?;
    let (store, proof) = held.parts();
    let done = work(store, proof)?;
    store.mark_if_due(proof);
    Ok(done)
}

/// The same for a step that removes entries: where the store has no room left even for that, some is made
/// off the lock, and the step done again. A step that failed has changed nothing it will not change then.
pub(crate) fn locked_to_remove<T>(
    store: &Store,
    timeout: Option<Duration>,
    mut step: impl FnMut(&Store, &mut Proof) -> Result<T>,
) -> Result<T> {
    let mut tries = 0;
    loop {
        match locked_for_upkeep(store, timeout, &mut step) {
            Err(Error::Full { needed_bytes, .. })
                if tries < TRIES_TO_REMOVE && store.make_way(needed_bytes)? =>
            {
                tries += 1;
            }
            done => return done,
        }
    }
}

/// Locks a store for the time of one call.
pub(crate) fn locked<T>(
    store: &Store,
    timeout: Option<Duration>,
    work: impl FnOnce(&Store, &mut Proof) -> Result<T>,
) -> Result<T> {
    let mut held: Held<&Store> = Store::lock(store, timeout)?;
    let (store, proof) = held.parts();
    let before = store.committed();
    let done = work(store, proof)?;
    store.mark_if_due(proof);
    store.upkeep_beside(proof, &Spared(before + 1..store.committed() + 1));
    Ok(done)
}
