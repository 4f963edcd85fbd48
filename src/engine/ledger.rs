//! The words that change with an entry: live bytes, counts, cells, graves, tail, word.
//!
//! Gathers them for one journal; decides nothing.

use std::sync::atomic::Ordering;

use crate::engine::read::Hit;
use crate::engine::room::Room;
use crate::engine::store::MAIN_SPACE;
use crate::error::Result;
use crate::format::bucket::Place;
use crate::format::header::{self as layout, Address, row, space};
use crate::format::record::{Apart, Draft, Head, flag};
use crate::part::journal::Journal;
use crate::part::keymap::Vacancy;
use crate::part::lists::Postings;
use crate::part::order::{self, Cell};
use crate::part::segments::{self, row_at};
use crate::part::shared::Files;

/// What the version a write replaces was.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Replaced {
    pub(crate) place: Place,
    pub(crate) len: u64,
    pub(crate) volume: u64,
    pub(crate) seq: u64,
    pub(crate) order: u64,
    pub(crate) apart: Option<Apart>,
    pub(crate) tag_count: u16,
    pub(crate) space: u32,
    /// Pushed to a queue: a version set over it stays in the queue.
    pub(crate) is_item: bool,
}

impl Replaced {
    pub(crate) fn of(hit: &Hit<'_>) -> Self {
        Self::of_head(&hit.head, hit.place)
    }

    pub(crate) fn of_head(head: &Head, place: Place) -> Self {
        Replaced {
            place,
            len: head.len() as u64,
            volume: head.volume(),
            seq: head.seq,
            order: head.order,
            apart: head.options.apart,
            tag_count: head.options.tag_count,
            space: head.options.space,
            is_item: head.flags & flag::ITEM != 0,
        }
    }

    /// The new version names the same value file: it does not die with the old one.
    pub(crate) fn less(mut self, new: Option<Apart>) -> Self {
        self.apart = self
            .apart
            .filter(|old| new.is_none_or(|new| new.id != old.id));
        self
    }
}

/// The words that change with one more or one less entry, gathered per journal.
pub(crate) struct Ledger<'a> {
    pub(crate) files: &'a Files,
    pub(crate) journal: Journal<'a>,
    pub(crate) postings: Option<Postings>,
}

/// Bytes an entry counts for in `volume()`.
pub(crate) fn volume_of(draft: &Draft<'_>) -> u64 {
    let padding = draft.key.len() + draft.value.len();
    let header = draft.len(false) - padding.next_multiple_of(8);
    (header + padding) as u64 + draft.apart.map_or(0, |apart| apart.len)
}

impl<'a> Ledger<'a> {
    pub(crate) fn new(files: &'a Files) -> Self {
        Ledger {
            files,
            journal: Journal::new(&files.header),
            postings: None,
        }
    }

    /// The live bytes of the segment written to, and of the one whose record died.
    pub(crate) fn rows(&mut self, new: Option<(u16, u64)>, old: Option<Replaced>) -> Result<()> {
        let live = |slot: u16| -> Result<u64> {
            Ok(self
                .files
                .segs
                .word(row_at(slot, row::LIVE).at)?
                .load(Ordering::Relaxed))
        };
        let mut new_live = None;
        if let Some((slot, len)) = new {
            new_live = Some((slot, live(slot)?.saturating_add(len)));
        }
        if let Some(old) = old {
            let slot = old.place.slot;
            let before = match new_live {
                Some((same, live)) if same == slot => live,
                _ => live(slot)?,
            };
            let after = before.saturating_sub(old.len);
            match &mut new_live {
                Some((same, live)) if *same == slot => *live = after,
                _ => self.journal.put(row_at(slot, row::LIVE), after),
            }
            let dead = self
                .files
                .segs
                .word(row_at(slot, row::DEAD_SEQ).at)?
                .load(Ordering::Relaxed);
            if dead == 0 || old.seq < dead {
                self.journal.put(row_at(slot, row::DEAD_SEQ), old.seq);
            }
            if old.space == MAIN_SPACE && segments::is_copies(self.files, slot)? {
                self.copy_volume(-(old.volume as i64));
            }
        }
        if let Some((slot, live)) = new_live {
            self.journal.put(row_at(slot, row::LIVE), live);
        }
        Ok(())
    }

    /// Bytes of the cache's own entries whose record is in the second lane.
    pub(crate) fn copy_volume(&mut self, more: i64) {
        let now = self.files.header.number(layout::COPY_VOLUME_AT);
        self.journal
            .header(layout::COPY_VOLUME_AT, now.saturating_add_signed(more));
    }

    /// Entries and bytes of a space.
    pub(crate) fn space(&mut self, which: u32, entries: i64, volume: i64) {
        for (field, more) in [(space::COUNT, entries), (space::VOLUME, volume)] {
            if more != 0 {
                let now = self.files.space(which, field).saturating_add_signed(more);
                self.journal.put(Files::space_at(which, field), now);
            }
        }
    }

    /// One more cell in the order list.
    pub(crate) fn cell(&mut self, which: u32, hash: u64, order: u64) {
        self.nth_cell(which, 0, hash, order);
        self.used(which, 1, 0);
    }

    /// The `n`-th new cell of this change; [`Ledger::used`] counts them.
    pub(crate) fn nth_cell(&mut self, which: u32, n: u64, hash: u64, order: u64) {
        let cells = self.files.space(which, space::CELLS) + n;
        self.journal.put(
            order::cell_at(which, cells),
            Cell::new(hash, order).to_bits(),
        );
    }

    /// So many new cells and words are in use.
    pub(crate) fn used(&mut self, which: u32, cells: u64, words: u64) {
        if cells > 0 {
            let cells = self.files.space(which, space::CELLS) + cells;
            self.journal
                .put(Files::space_at(which, space::CELLS), cells);
            self.journal.put(Files::space_at(which, space::TAIL), cells);
        }
        if words > 0 {
            let used = self.files.header.number(layout::KEYMAP_USED_AT);
            self.journal.header(layout::KEYMAP_USED_AT, used + words);
        }
    }

    /// A value file that nobody needs once the death is durable.
    pub(crate) fn grave(&mut self, old: Option<Replaced>, seq: u64) {
        if let Some(apart) = old.and_then(|old| old.apart) {
            let head = self.files.header.number(layout::GRAVES_HEAD_AT);
            let at = layout::GRAVES_AT + head % layout::GRAVES * 16;
            let bytes = self.files.header.number(layout::GRAVES_BYTES_AT);
            self.journal
                .header(layout::GRAVES_BYTES_AT, bytes + apart.len);
            self.journal.header(at, apart.id);
            self.journal.header(at + 8, seq);
            self.journal.header(layout::GRAVES_HEAD_AT, head + 1);
        }
    }

    pub(crate) fn tail(
        &mut self,
        room: &Room,
        first: Place,
        len: u64,
        records: u64,
        last: Place,
        seq: u64,
    ) {
        let end = Place {
            slot: first.slot,
            at: first.at + len,
        };
        self.journal.header(room.lane.tail(), end.to_bits());
        self.journal.header(room.lane.count(), room.index + records);
        self.journal.header(layout::LAST_AT, last.to_bits());
        self.journal.header(layout::COMMITTED_AT, seq);
    }

    /// A new word's place, its overflow bucket linked.
    pub(crate) fn word(&mut self, vacancy: Vacancy) -> Address {
        self.used(0, 0, 1);
        self.linked(vacancy)
    }

    /// As [`Ledger::word`]; [`Ledger::used`] counts it.
    pub(crate) fn linked(&mut self, vacancy: Vacancy) -> Address {
        if let Some((link, value)) = vacancy.link {
            let over = self.files.header.number(layout::OVER_USED_AT);
            self.journal.header(layout::OVER_USED_AT, over + 1);
            self.journal.put(link, u64::from(value));
        }
        vacancy.word
    }
}
