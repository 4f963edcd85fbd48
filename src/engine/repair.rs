//! What a dead holder of the writer lock left: completed or dropped whole, before anything else.
//!
//! Idempotent: killed in the middle, the next holder does it again. Never looks at entries that were
//! not being changed.

use crate::engine::room::Lane;
use crate::engine::store::{Store, stat};
use crate::error::Result;
use crate::format::bucket::Place;
use crate::format::header as layout;
use crate::format::name::Name;
use crate::format::record;
use crate::format::segment::{SUMMARY_LEN, Summary};
use crate::part::journal::{self, Left};
use crate::part::keymap::Keymap;
use crate::part::segment::Segment;
use crate::part::segments;

impl Store {
    /// Repairs under the writer lock. `garbage`: there may be bytes past the tail.
    pub(crate) fn repair(&self, garbage: bool) -> Result<()> {
        let header = &self.files.header;
        let left = [
            layout::JOURNAL_AT,
            layout::PENDING_AT,
            layout::SPLITTING_AT,
            layout::MAKING_AT,
            layout::UNMAKING_AT,
        ];
        let found = left.iter().any(|&at| header.get(at) != 0);
        if journal::recover(&self.files, &self.dir)? == Left::Damaged {
            header.put(layout::SUSPECT_AT, 1);
        }
        Keymap::of(&self.files).recover()?;
        self.recover_pending()?;
        self.remove_unmade_segment()?;
        self.remove_unneeded_segment()?;
        if garbage {
            self.blank_past_tail(Lane::Log)?;
            self.blank_past_tail(Lane::Copies)?;
        }
        self.count(stat::REPAIRS, u64::from(found));
        Ok(())
    }

    /// A segment whose maker died before it had a row.
    fn remove_unmade_segment(&self) -> Result<()> {
        let header = &self.files.header;
        let id = header.get(layout::MAKING_AT);
        if id == 0 {
            return Ok(());
        }
        if segments::rows(&self.files)?.iter().any(|row| row.id == id) {
            header.put(layout::MAKING_AT, 0);
            return Ok(());
        }
        self.dir.remove(Name::Segment(id))?;
        header.put(layout::MAKING_AT, 0);
        Ok(())
    }

    /// A segment nobody needs, whose remover died on the way: its file goes.
    fn remove_unneeded_segment(&self) -> Result<()> {
        let header = &self.files.header;
        let word = header.get(layout::UNMAKING_AT);
        if word == 0 {
            return Ok(());
        }
        if let Some(id) = layout::id_of_checked(word)
            && segments::rows(&self.files)?.iter().all(|row| row.id != id)
        {
            self.dir.remove(Name::Segment(id))?;
        }
        header.put(layout::UNMAKING_AT, 0);
        Ok(())
    }

    /// Bytes a dead writer stored past a tail must never be taken for records: the next ones could
    /// stand exactly where a shorter record of ours ends.
    fn blank_past_tail(&self, lane: Lane) -> Result<()> {
        let header = &self.files.header;
        let Some(tail) = Place::from_bits(header.get(lane.tail())) else {
            return Ok(());
        };
        let Some(segment) = self.segments.get(&self.files, &self.dir, tail.slot)? else {
            return Ok(());
        };
        if segment.cut_from.is_some() {
            // Its footer is not where it should be, and nothing is appended to it any more.
            return Ok(());
        }
        let front = header.number(lane.front()).min(segment.head.size);
        let back = header.number(lane.back()).min(segment.head.size);
        let index = header.number(lane.count());
        if tail.at + record::HEAD_LEN as u64 <= front {
            // Lines of live records may stand close behind the tail.
            let lines = segment.head.size.saturating_sub(index * SUMMARY_LEN);
            let end = garbage_end(&segment, self, tail.at, front.min(lines))?;
            segment.blank(tail.at, end);
        }
        let mut last = index;
        while (last + 1) * SUMMARY_LEN <= back && segment.has_summary_bytes(last) {
            last += 1;
        }
        for index in (index..last).rev() {
            let at = Summary::position(segment.head.size, index);
            segment.blank(at, at + SUMMARY_LEN);
        }
        Ok(())
    }
}

/// Where the bytes a dead writer stored from `at` on end, at the latest.
fn garbage_end(segment: &Segment, store: &Store, at: u64, front: u64) -> Result<u64> {
    let mut end = at;
    loop {
        if end + record::HEAD_LEN as u64 > front || segment.is_blank(end) {
            return Ok(end.min(front));
        }
        match segment.read_head(store.dir(), end)? {
            Some(head) if end + head.len() as u64 <= front => end += head.len() as u64,
            // A torn one: nothing was stored behind its fixed part and options.
            _ => {
                return Ok((end
                    + (record::HEAD_LEN + record::OPTIONS_MAX + crate::limits::TAGS_MAX * 4)
                        as u64)
                    .min(front));
            }
        }
    }
}
