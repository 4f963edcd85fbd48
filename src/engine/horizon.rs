//! How far the log may be told to who watches, and what of it has gone.
//!
//! Owns: the moment between two changes, positions, and the word that says which segments went. Never
//! reads a record.

use std::time::Duration;

use crate::engine::ledger::Ledger;
use crate::engine::store::Store;
use crate::error::{Error, Result};
use crate::format::bucket::Place;
use crate::format::header as layout;
use crate::limits::RETRIES_MAX;
use crate::part::segment::Line;
use crate::part::segments::{self, Row};

/// Looks at a change that is being made, before whoever waits for its end does something else.
const LOOKS: u32 = 64;
/// So long one who begins to watch waits for the lock.
const PATIENCE: Duration = Duration::from_millis(200);
/// Sequences, and above them which life of the log they are of: see [`Store::position`].
const SEQ_BITS: u32 = 48;

/// The log between two changes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settled {
    /// The newest sequence.
    pub(crate) bound: u64,
    /// Id of the log's active segment, and how many records are in it.
    pub(crate) active: u64,
    pub(crate) count: u64,
}

impl Store {
    /// The rows of the log's segments, oldest first, as one moment saw them.
    pub(crate) fn log_rows(&self) -> Result<Vec<Row>> {
        for _ in 0..RETRIES_MAX {
            // Goes up before a row is taken: no row is missed of which a later one is seen.
            let names = self.files.header.get(layout::NAMES_AT);
            let mut rows = segments::rows(&self.files)?;
            let mut is_whole = true;
            for row in &rows {
                // Ids never come again: what was read is of this one.
                is_whole &= segments::id_of(&self.files, row.slot)? == row.id;
            }
            if is_whole && self.files.header.get(layout::NAMES_AT) == names {
                rows.retain(|row| !row.is_copies());
                return Ok(rows);
            }
            std::hint::spin_loop();
        }
        Err(Error::Busy {
            what: "a segment table that changes again and again",
            holder_pid: 0,
            held_since: None,
            waited: Duration::ZERO,
            removed: 0,
        })
    }

    /// The log as it is between two changes; `None`: somebody is in the middle of one.
    pub(crate) fn settled(&self) -> Option<Settled> {
        let header = &self.files.header;
        for _ in 0..LOOKS {
            let bound = self.committed();
            let tail = header.get(layout::TAIL_AT);
            let slot = Place::from_bits(tail).map(|tail| tail.slot);
            let active = slot.map_or(Ok(0), |slot| segments::id_of(&self.files, slot));
            let active = active.unwrap_or(0);
            let count = header.number(layout::TAIL_COUNT_AT);
            // What is seen of a change above shows its journal here, or that it is over.
            let is_settled =
                header.get(layout::JOURNAL_AT) == 0 && header.get(layout::PENDING_AT) == 0;
            if is_settled && self.committed() == bound && header.get(layout::TAIL_AT) == tail {
                return Some(Settled {
                    bound,
                    active,
                    count,
                });
            }
            std::hint::spin_loop();
        }
        None
    }

    /// Begins to watch: where what comes from now on begins.
    pub(crate) fn begin_watching(&self) -> u64 {
        if self.may_write().is_ok() && self.keep_watched() {
            // A removal that began unwatched is over once the lock was had. Not at any price: at worst it
            // is told as a gap.
            drop(Store::lock(self, Some(PATIENCE)));
        }
        self.committed() + 1
    }

    /// A sequence as it is told: with the life of the log it is of, for after a rebuild a sequence may
    /// come again.
    pub(crate) fn position(&self, seq: u64) -> u64 {
        let life = self.files.header.get(layout::LIFE_AT).wrapping_sub(1);
        life << SEQ_BITS | seq
    }

    /// The sequence of a position, if what was told up to it still happened.
    pub(crate) fn seq_of(&self, position: u64) -> Option<u64> {
        let header = &self.files.header;
        let seq = position & ((1 << SEQ_BITS) - 1);
        let lives = (self.position(seq) >> SEQ_BITS).wrapping_sub(position >> SEQ_BITS);
        let is_there = match lives & 0xFFFF {
            0 => seq <= self.committed(),
            1 => seq < header.number(layout::LIFE_SEQ_AT),
            _ => false,
        };
        is_there.then_some(seq)
    }

    /// The highest sequence that a segment of the log had, or may have had, whose file was removed.
    pub(crate) fn feed_lost(&self) -> u64 {
        match self.files.header.get(layout::FEED_LOST_AT) {
            0 => 0,
            word => layout::id_of_checked(word).unwrap_or_else(|| self.committed()),
        }
    }

    pub(crate) fn put_feed_lost(&self, seq: u64) {
        let word = if seq == 0 { 0 } else { layout::checked_id(seq) };
        self.files.header.put(layout::FEED_LOST_AT, word);
    }

    /// The segment of this row goes: who has not read it by then is told. Before the row is freed.
    pub(crate) fn note_lost(&self, ledger: &mut Ledger<'_>, gone: &Row) -> Result<()> {
        if gone.is_copies() {
            return Ok(());
        }
        let rows = segments::rows(&self.files)?;
        let next = rows
            .iter()
            .find(|row| row.id > gone.id && !row.is_copies())
            .map_or(self.committed() + 1, |row| row.first_seq);
        // As its last line says: what is between that and the next segment is in the other lane.
        let last = match self.last_line(gone) {
            Some(seq) if seq < next => seq,
            _ => next.saturating_sub(1).min((1 << SEQ_BITS) - 1),
        };
        if last > self.feed_lost() {
            let word = layout::checked_id(last);
            ledger.journal.header(layout::FEED_LOST_AT, word);
        }
        Ok(())
    }

    /// The sequence of a sealed segment's last record; `None`: nobody knows for sure.
    fn last_line(&self, row: &Row) -> Option<u64> {
        let segment = self.segments.get(&self.files, &self.dir, row.slot);
        let segment = segment.ok().flatten()?;
        let Some(Line::Whole(line)) = segment.line(row.lines.checked_sub(1)?) else {
            return None;
        };
        let head = segment.read_head(&self.dir, line.at).ok().flatten()?;
        (line.at + head.len() as u64 >= row.end).then_some(line.seq)
    }
}
