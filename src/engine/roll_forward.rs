//! Completing a decided batch: words, then the sequence that shows them, then the accounts.
//!
//! Each step is journalled with its number, so it happens once, whoever does it: who decided the batch, or who
//! found it in the header and reads its records anew (`recover_pending`). Never appends and never decides.
//! DESIGN.md (batch) has the argument.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use crate::engine::batch::PREFETCH_AHEAD;
use crate::engine::kill::KillRecord;
use crate::engine::ledger::{Ledger, Replaced};
use crate::engine::postings::tag_steps;
use crate::engine::room::{Lane, Room};
use crate::engine::store::{MAIN_SPACE, Store};
use crate::error::Result;
use crate::format::bucket::{self, Place, is_whole};
use crate::format::header::{self as layout, Address, Shared, row};
use crate::format::record::{Apart, Head, Kind, Record};
use crate::part::keymap::Keymap;
use crate::part::lists::Posting;
use crate::part::segment::Read;
use crate::part::segments::{self, row_at};

/// One record of a decided batch, as rolling forward needs it.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) space: u32,
    pub(super) hash: u64,
    pub(super) is_set: bool,
    pub(super) place: Place,
    pub(super) len: u64,
    pub(super) volume: u64,
    pub(super) order: u64,
    pub(super) seq: u64,
    pub(super) apart: Option<Apart>,
    pub(super) old: Option<Replaced>,
    /// The key's word, when it has one.
    pub(super) word: Option<Address>,
    pub(super) tags: Vec<u32>,
    pub(super) old_tags: Vec<u32>,
    pub(super) tag_seq: u64,
    pub(super) expires_ms: Option<u64>,
}

impl Item {
    pub(super) fn is_new_entry(&self) -> bool {
        self.is_set && self.old.is_none() && self.word.is_none()
    }

    pub(super) fn needs_cell(&self) -> bool {
        self.is_set && self.order == self.seq
    }
}

impl Store {
    /// Completes a decided batch from step `done` on.
    pub(super) fn roll_forward(
        &self,
        items: &[Item],
        room: &Room,
        total: u64,
        done: u64,
    ) -> Result<()> {
        let n = items.len() as u64;
        self.point_all(items, done)?;
        let (Some(first), Some(last)) = (items.first(), items.last()) else {
            return Ok(());
        };
        if done <= n {
            let mut ledger = Ledger::new(&self.files);
            ledger.journal.header(layout::PENDING_DONE_AT, n + 1);
            if items.iter().any(|item| item.apart.is_some()) {
                ledger.journal.header(layout::APART_SEQ_AT, last.seq);
            }
            ledger.tail(room, first.place, total, n, last.place, last.seq);
            ledger.journal.commit(&self.files, &self.dir)?;
        }
        self.settle(items, done.saturating_sub(n + 1), n + 1)?;
        self.end_pending()
    }

    pub(super) fn end_pending(&self) -> Result<()> {
        let mut ledger = Ledger::new(&self.files);
        ledger.journal.header(layout::PENDING_AT, 0);
        ledger.journal.commit(&self.files, &self.dir)
    }

    /// Points keys' words at their records, from item `done` on; nobody sees them before the sequence
    /// is committed. As many at a time as the journal holds.
    fn point_all(&self, items: &[Item], done: u64) -> Result<()> {
        let keymap = Keymap::of(&self.files);
        let mut next = done as usize;
        while next < items.len() {
            let mut ledger = Ledger::new(&self.files);
            let space = items[next].space;
            let (mut cells, mut words) = (0, 0);
            let mut taken: Vec<Address> = Vec::new();
            let first = next;
            // A new overflow bucket takes four pairs, the words in common four.
            while let Some(item) = items.get(next).filter(|item| item.space == space)
                && ledger.journal.left() >= 10
            {
                if let Some(ahead) = items
                    .get(next + PREFETCH_AHEAD)
                    .filter(|ahead| ahead.word.is_none())
                {
                    keymap.prefetch(ahead.hash);
                }
                let word = match item.word {
                    Some(word) => word,
                    None => {
                        let vacancy = keymap.vacancy(item.hash, &taken)?;
                        if vacancy.link.is_some() && next > first {
                            // It takes the next overflow bucket: of one change, one does.
                            break;
                        }
                        if vacancy.link.is_some() {
                            self.took(keymap.reserve(&self.dir, 1)?);
                        }
                        let word = ledger.linked(vacancy);
                        words += 1;
                        taken.push(word);
                        word
                    }
                };
                if item.needs_cell() {
                    ledger.nth_cell(item.space, cells, item.hash, item.order);
                    cells += 1;
                }
                if item.is_set {
                    self.stamp_written(word, item.hash, item.is_new_entry())?;
                }
                ledger
                    .journal
                    .put(word, bucket::word(item.hash, item.place));
                next += 1;
                if taken.last() == Some(&word) && word.file == Shared::Overflow {
                    // The bucket just linked is seen by the next look.
                    break;
                }
            }
            ledger.used(space, cells, words);
            ledger.journal.header(layout::PENDING_DONE_AT, next as u64);
            ledger.journal.commit(&self.files, &self.dir)?;
        }
        Ok(())
    }

    /// The accounts of a batch that is seen: one journalled step each, from step `done` on.
    fn settle(&self, items: &[Item], done: u64, base: u64) -> Result<()> {
        let mut step = 0;
        let mut each = |make: &mut dyn FnMut(&mut Ledger<'_>) -> Result<()>| -> Result<()> {
            step += 1;
            if step <= done {
                return Ok(());
            }
            let mut ledger = Ledger::new(&self.files);
            make(&mut ledger)?;
            ledger.journal.header(layout::PENDING_DONE_AT, base + step);
            ledger.journal.commit(&self.files, &self.dir)
        };
        for (slot, change) in rows_of(items) {
            each(&mut |ledger| ledger.row(slot, change))?;
        }
        for (space, (entries, volume)) in spaces_of(items) {
            each(&mut |ledger| {
                ledger.space(space, entries, volume);
                Ok(())
            })?;
        }
        for item in items {
            if item.old.is_some_and(|old| old.apart.is_some()) {
                each(&mut |ledger| {
                    ledger.grave(item.old, item.seq);
                    Ok(())
                })?;
            }
            if let Some(apart) = item.apart {
                each(&mut |ledger| {
                    self.end_stream(ledger, apart);
                    Ok(())
                })?;
            }
            let posting = Posting::new(item.hash, item.seq);
            let old = (&item.old_tags[..], item.old.map_or(0, |old| old.volume));
            let new = (&item.tags[..], item.volume);
            for tag in tag_steps(old, new, item.tag_seq == item.seq) {
                each(&mut |ledger| ledger.tag(tag, posting))?;
            }
            if let Some(expires_ms) = item.expires_ms {
                each(&mut |ledger| ledger.post(self.time_list(expires_ms), posting))?;
            }
            if !item.is_set {
                each(&mut |ledger| self.unpoint(ledger, item.hash, item.place))?;
            }
        }
        Ok(())
    }

    /// Clears the word that leads to a removed key's tombstone.
    fn unpoint(&self, ledger: &mut Ledger<'_>, hash: u64, place: Place) -> Result<()> {
        if let Some(word) = self.word_to(hash, place)? {
            let used = self.files.header.number(layout::KEYMAP_USED_AT);
            ledger
                .journal
                .header(layout::KEYMAP_USED_AT, used.saturating_sub(1));
            ledger.journal.put(word, 0);
        }
        Ok(())
    }

    /// The address of the word that leads to `place`.
    fn word_to(&self, hash: u64, place: Place) -> Result<Option<Address>> {
        let keymap = Keymap::of(&self.files);
        let mut found = None;
        keymap.words(keymap.split().bucket(hash), |address, word| {
            if is_whole(word) && bucket::place(word) == Some(place) {
                found = Some(address);
            }
        })?;
        Ok(found)
    }

    /// Completes a batch or kill list whose maker died. Under the writer lock.
    pub(crate) fn recover_pending(&self) -> Result<()> {
        let header = &self.files.header;
        let bits = header.get(layout::PENDING_AT);
        if bits == 0 {
            return Ok(());
        }
        let (end, len, seq) = (
            header.get(layout::PENDING_END_AT),
            header.number(layout::PENDING_LEN_AT),
            header.get(layout::PENDING_SEQ_AT),
        );
        let done = header.number(layout::PENDING_DONE_AT);
        let first = Place::from_bits(bits);
        let Some(first) = first
            .filter(|_| header.get(layout::PENDING_CHECK_AT) == pending_check(bits, end, len, seq))
        else {
            header.put(layout::SUSPECT_AT, 1);
            header.put(layout::PENDING_AT, 0);
            return Ok(());
        };
        let segment = self.segments.must_get(&self.files, &self.dir, first.slot)?;
        let damaged =
            |at: u64| self.damaged_record(&segment, at, "a record of a decided batch is damaged");
        let mut buffer = Vec::new();
        let Read::Whole(head) = segment.read(&self.dir, first.at, &mut buffer)? else {
            return Err(damaged(first.at));
        };
        let is_kill = matches!(head.kind, Kind::Kill | Kind::Drop);
        // The tail's count moved with the commit: count back when it did.
        let moved = if is_kill { done >= 1 } else { done > len };
        let counted = match (moved, is_kill) {
            (false, _) => 0,
            (true, true) => 1,
            (true, false) => len,
        };
        let index = header.number(layout::TAIL_COUNT_AT).saturating_sub(counted);
        let room = Room {
            lane: Lane::Log,
            segment: std::sync::Arc::clone(&segment),
            at: first.at,
            index,
        };
        if is_kill {
            let record =
                Record::decode(&buffer, segment.seed, first.at).map_err(|_| damaged(first.at))?;
            if head.kind == Kind::Drop {
                return self.roll_drop(&record, (first, head.len() as u64, head.seq), index);
            }
            let victims: Vec<_> = record.kills().collect();
            self.roll_kill(
                &victims,
                &[],
                &room,
                KillRecord {
                    place: first,
                    len: head.len() as u64,
                    seq: head.seq,
                },
                done,
            )?;
            return Ok(());
        }
        let mut items = Vec::new();
        let mut at = first.at;
        while at < end && (items.len() as u64) < len {
            let Read::Whole(head) = segment.read(&self.dir, at, &mut buffer)? else {
                return Err(damaged(at));
            };
            let key = buffer[head.key_at..][..head.key_len].to_vec();
            items.push(self.item_of(
                &head,
                &key,
                Place {
                    slot: first.slot,
                    at,
                },
                items.len() as u64 >= done,
            )?);
            at += head.len() as u64;
        }
        let files: Vec<u64> = items
            .iter()
            .filter_map(|item| item.apart.map(|apart| apart.id))
            .collect();
        for item in &mut items {
            spare_files(&mut item.old, &files);
        }
        self.roll_forward(&items, &room, end - first.at, done)
    }

    /// A batch record read back from the log. `unpointed`: its key's word still leads to the old version.
    fn item_of(&self, head: &Head, key: &[u8], place: Place, unpointed: bool) -> Result<Item> {
        let hash = self.hash.of(head.options.space, key);
        let new_apart = head.options.apart;
        let mut old = None;
        let mut word = None;
        let mut old_tags = Vec::new();
        if let Some(previous) = Place::from_bits(head.options.previous) {
            if let Some(segment) = self.segments.get(&self.files, &self.dir, previous.slot)?
                && let Some(head) = segment.read_head(&self.dir, previous.at)?
            {
                old = Some(Replaced::of_head(&head, previous).less(new_apart));
                if head.options.tag_count > 0 {
                    old_tags = segment.read_tags(&self.dir, previous.at)?;
                }
            }
            word = self.word_to(hash, if unpointed { previous } else { place })?;
        }
        Ok(Item {
            space: head.options.space,
            hash,
            is_set: head.kind == Kind::Set,
            place,
            len: head.len() as u64,
            volume: head.volume(),
            order: head.order,
            seq: head.seq,
            apart: new_apart,
            old,
            word,
            tags: self.tags_at(place)?,
            old_tags,
            tag_seq: head.options.tag_seq,
            expires_ms: head.options.expires_ms,
        })
    }
}

/// A value file that an entry of the same batch is to have does not die with the entry that had it.
pub(super) fn spare_files(old: &mut Option<Replaced>, files: &[u64]) {
    if let Some(old) = old {
        old.apart = old.apart.filter(|apart| !files.contains(&apart.id));
    }
}

pub(super) fn pending_check(first: u64, end: u64, len: u64, seq: u64) -> u64 {
    [first, end, len, seq]
        .iter()
        .fold(0x6C61_7264_6572, |check: u64, word| {
            (check.rotate_left(13) ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15)
        })
}

/// How a batch changes a segment's row.
#[derive(Clone, Copy, Debug, Default)]
struct RowChange {
    live: i64,
    /// The smallest sequence that died; 0: none did.
    dead_seq: u64,
    /// Bytes of the entries whose record died, as in `volume`.
    dead_volume: u64,
}

fn rows_of(items: &[Item]) -> BTreeMap<u16, RowChange> {
    let mut rows = BTreeMap::<u16, RowChange>::new();
    for item in items {
        if item.is_set {
            rows.entry(item.place.slot).or_default().live += item.len as i64;
        }
        if let Some(old) = item.old {
            let row = rows.entry(old.place.slot).or_default();
            row.live -= old.len as i64;
            row.dead_volume += if old.space == MAIN_SPACE {
                old.volume
            } else {
                0
            };
            row.dead_seq = if row.dead_seq == 0 {
                old.seq
            } else {
                row.dead_seq.min(old.seq)
            };
        }
    }
    rows
}

/// Entries and bytes more or less, by space.
fn spaces_of(items: &[Item]) -> BTreeMap<u32, (i64, i64)> {
    let mut spaces = BTreeMap::<u32, (i64, i64)>::new();
    for item in items {
        let space = spaces.entry(item.space).or_default();
        if item.is_set {
            space.0 += i64::from(item.is_new_entry());
            space.1 += item.volume as i64;
        } else {
            space.0 -= 1;
        }
        space.1 -= item.old.map_or(0, |old| old.volume as i64);
    }
    spaces
}

impl Ledger<'_> {
    /// A segment row's live bytes and smallest dead sequence.
    fn row(&mut self, slot: u16, change: RowChange) -> Result<()> {
        let at = row_at(slot, row::LIVE);
        let now = self.files.segs.word(at.at)?.load(Ordering::Relaxed);
        self.journal.put(at, now.saturating_add_signed(change.live));
        let at = row_at(slot, row::DEAD_SEQ);
        let now = self.files.segs.word(at.at)?.load(Ordering::Relaxed);
        if change.dead_seq != 0 && (now == 0 || change.dead_seq < now) {
            self.journal.put(at, change.dead_seq);
        }
        if change.dead_volume > 0 && segments::is_copies(self.files, slot)? {
            self.copy_volume(-(change.dead_volume as i64));
        }
        Ok(())
    }
}
