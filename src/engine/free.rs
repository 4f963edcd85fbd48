//! Giving files back: a segment nobody needs is noted as empty, and goes when that is durable.
//!
//! A file goes only when its emptying is durable and a synced mark says so, and never while somebody links or
//! reads files as they are. Never decides what is needed. DESIGN.md (compaction) has the argument.

use crate::engine::ledger::Ledger;
use crate::engine::store::{Proof, Store, stat};
use crate::error::Result;
use crate::format::bucket::Place;
use crate::format::header::{self as layout, row, state};
use crate::format::name::Name;
use crate::os::lock::FileLock;
use crate::part::segments::{self, Row, row_at};

impl Store {
    /// Notes that nothing in a segment is needed any more, if that is so. Under the lock.
    pub(crate) fn mark_empty(&self, proof: &mut Proof, target: &Row) -> Result<bool> {
        let _ = proof;
        let word = segments::state_of(&self.files, target.slot)?;
        let live = self.files.load(&self.dir, row_at(target.slot, row::LIVE))?;
        let is_sealed = matches!(word >> 56, state::SEALED | state::BAD);
        if live != 0 || !is_sealed || segments::id_of(&self.files, target.slot)? != target.id {
            return Ok(false);
        }
        let mut ledger = Ledger::new(&self.files);
        let rest = word & ((1 << 56) - 1);
        ledger
            .journal
            .put(row_at(target.slot, row::LIVE), self.committed());
        ledger
            .journal
            .put(row_at(target.slot, row::STATE), state::EMPTY << 56 | rest);
        ledger.journal.commit(&self.files, &self.dir)?;
        Ok(true)
    }

    /// Removes the files of empty segments whose emptying is durable, and known to be. Returns the bytes
    /// given back. Under the lock.
    pub(crate) fn free_empty(&self, proof: &mut Proof) -> Result<u64> {
        let _ = proof;
        let header = &self.files.header;
        let marked = self.marked_durably();
        let mut rows = self.empty_rows()?;
        rows.retain(|row| row.live <= marked);
        if rows.is_empty() {
            return Ok(0);
        }
        // Whoever links or reads files as they are shares this lock.
        let Some(_pin) = FileLock::try_take(&self.dir, Name::Pin)? else {
            return Ok(0);
        };
        let mut freed = 0;
        for row in rows {
            let name = Name::Segment(row.id);
            let bytes = self.dir.stat(name)?.map_or(0, |stat| stat.disk);
            header.put(layout::UNMAKING_AT, layout::checked_id(row.id));
            let mut ledger = Ledger::new(&self.files);
            self.clear_row(&mut ledger, &row)?;
            ledger.journal.commit(&self.files, &self.dir)?;
            self.dir.remove(name)?;
            header.put(layout::UNMAKING_AT, 0);
            header.add(layout::NAMES_AT, 1);
            header.add(layout::GONE_AT, 1);
            self.gave(bytes);
            freed += bytes;
        }
        self.count(stat::BYTES_FREED, freed);
        if header.get(layout::LOWERED_AT) != 0 {
            self.note_lowered();
        }
        Ok(freed)
    }

    /// A row whose segment is needed no more is free with this journal.
    pub(super) fn clear_row(&self, ledger: &mut Ledger<'_>, row: &Row) -> Result<()> {
        self.note_lost(ledger, row)?;
        for field in [row::STATE, row::LIVE, row::DEAD_SEQ, row::LINES, row::ID] {
            ledger.journal.put(row_at(row.slot, field), 0);
        }
        Ok(())
    }

    /// Bytes of segments that wait for their emptying to be durable.
    pub(crate) fn empty_bytes(&self) -> Result<u64> {
        Ok(self.empty_rows()?.iter().map(allocated).sum())
    }

    /// Empty segments that may go once that is durable. While somebody watches, and there is room without
    /// it, the one of the log that was sealed last may not: who keeps up has read it before another is.
    fn empty_rows(&self) -> Result<Vec<Row>> {
        let mut rows = segments::rows(&self.files)?;
        let has_room = || self.disk_bytes() + self.segment_size() <= self.limit();
        if self.is_watched() && has_room() {
            let tail = Place::from_bits(self.files.header.get(layout::TAIL_AT));
            let mut sealed = rows
                .iter()
                .rev()
                .filter(|row| !row.is_copies() && tail.is_none_or(|tail| tail.slot != row.slot));
            let newest = sealed.next().map(|row| row.id);
            rows.retain(|row| Some(row.id) != newest);
        }
        rows.retain(|row| row.is(state::EMPTY));
        Ok(rows)
    }

    /// Makes what was emptied durable, says so in the log, and removes the files. Off the lock; syncs.
    ///
    /// Returns the bytes given back.
    pub(crate) fn free_durably(&self, timeout: Option<std::time::Duration>) -> Result<u64> {
        let mut freed = 0;
        for _ in 0..2 {
            let durable = self.sync_log()?;
            let mut held = Store::lock(self, timeout)?;
            let (store, proof) = held.parts();
            if store.free_and_mark(proof, durable, &mut freed)? {
                break;
            }
        }
        self.notice_gone()?;
        Ok(freed)
    }

    /// The same, by who holds the lock and cannot let go.
    pub(crate) fn free_durably_locked(&self, proof: &mut Proof) -> Result<u64> {
        let mut freed = 0;
        for _ in 0..2 {
            let durable = self.sync_log()?;
            if self.free_and_mark(proof, durable, &mut freed)? {
                break;
            }
        }
        Ok(freed)
    }

    /// Removes what may go, and marks what is `durable` now, so that the rest may go next; whether there is
    /// no rest.
    fn free_and_mark(&self, proof: &mut Proof, durable: u64, freed: &mut u64) -> Result<bool> {
        *freed += self.free_empty(proof)?;
        if self.empty_bytes()? == 0 && self.graves() == 0 {
            return Ok(true);
        }
        self.bury(proof)?;
        if durable > self.files.header.number(layout::MARKED_AT) {
            self.append_mark(proof, durable)?;
        }
        Ok(false)
    }

    /// The sealed segment that gives most back for least copying; now and then the one that keeps most
    /// deletes from going. Of those with an id below `bound`, without those that copying does not empty.
    pub(crate) fn emptiest(&self, turn: u64, bound: u64) -> Result<Option<(Row, f64)>> {
        let mut rows = segments::rows(&self.files)?;
        let oldest = rows.iter().map(|row| row.dead_seq).filter(|&seq| seq != 0);
        let oldest = oldest.min().unwrap_or(u64::MAX);
        let stuck = self
            .stuck
            .lock()
            .unwrap_or_else(|poison| poison.into_inner());
        rows.retain(|row| {
            (row.is(state::SEALED) || row.is(state::BAD))
                && row.id < bound
                && stuck.get(&row.id) != Some(&row.live)
        });
        drop(stuck);
        // Of the records alone: what their segment has beside them, its copy will have too.
        let share = |row: &Row| row.needed_share(oldest);
        if turn % 8 == 7 {
            let oldest = rows
                .iter()
                .filter(|row| row.dead_seq != 0)
                .min_by_key(|row| row.dead_seq);
            if let Some(row) = oldest.filter(|row| share(row) < 0.9) {
                return Ok(Some((*row, share(row))));
            }
        }
        let best = rows
            .iter()
            .min_by(|a, b| share(a).total_cmp(&share(b)))
            .map(|row| (*row, share(row)));
        Ok(best)
    }
}

/// Bytes a sealed segment's records and summaries take, as they were allocated.
pub(crate) fn allocated(row: &Row) -> u64 {
    let front = (row.state & layout::FRONT_MASK) * 4096;
    // After a rebuild nobody knows more than where its records end.
    front.max(row.end.next_multiple_of(4096)).max(4096)
        + row.lines * crate::format::segment::SUMMARY_LEN
}
