//! Several entries changed as one, and lists of entries removed: what is rolled forward after a kill.
//!
//! A batch is appended whole, then named in the header (**decided**); from there on whoever holds the
//! lock rolls it forward: the words are pointed at its records, which nobody sees yet, one store of
//! the committed sequence shows them all, and the accounts follow. Each step is journalled with its
//! number, so it happens once. DESIGN.md (batch) has the argument.

use std::collections::BTreeMap;
use std::sync::atomic::{Ordering, fence};

use crate::engine::change::Change;
use crate::engine::cull::Spared;
use crate::engine::kill::KillRecord;
use crate::engine::ledger::{Ledger, Replaced, volume_of};
use crate::engine::postings::{FEW, tag_steps};
use crate::engine::read::Found;
use crate::engine::room::{Lane, Room};
use crate::engine::store::{INNER_SPACE, MAIN_SPACE, Proof, Store, stat};
use crate::error::{Error, Result};
use crate::format::bucket::{self, Place, is_whole};
use crate::format::header::{self as layout, Address, Shared, row};
use crate::format::record::{Apart, Draft, Head, Kind, Record, Standing, tags_of};
use crate::format::segment::Summary;
use crate::limits::BATCH_BYTES_MAX;
use crate::part::keymap::Keymap;
use crate::part::lists::Posting;
use crate::part::segment::Read;
use crate::part::segments::{self, row_at};
use crate::part::shared::setting;

/// How many items before its turn a bucket is fetched into the cache.
const PREFETCH_AHEAD: usize = 8;

/// Bytes of records framed before they are stored.
const PIECE_LEN: usize = 32 * 1024;

/// What a batch is made of, one change a key.
pub(crate) trait Changes {
    fn len(&self) -> usize;
    fn hash(&self, n: usize) -> u64;
    fn draft(&self, n: usize) -> Draft<'_>;
    /// Its entry is a new one, at the end of the order, even if the key is there.
    fn is_fresh(&self, n: usize) -> bool;
}

impl Changes for Vec<Change> {
    fn len(&self) -> usize {
        self.len()
    }

    fn hash(&self, n: usize) -> u64 {
        self[n].hash
    }

    fn draft(&self, n: usize) -> Draft<'_> {
        self[n].draft()
    }

    fn is_fresh(&self, n: usize) -> bool {
        self[n].fresh
    }
}

/// Changes from two places.
impl Changes for (&[Change], &[Change]) {
    fn len(&self) -> usize {
        self.0.len() + self.1.len()
    }

    fn hash(&self, n: usize) -> u64 {
        self.nth(n).hash
    }

    fn draft(&self, n: usize) -> Draft<'_> {
        self.nth(n).draft()
    }

    fn is_fresh(&self, n: usize) -> bool {
        self.nth(n).fresh
    }
}

trait Nth {
    fn nth(&self, n: usize) -> &Change;
}

impl Nth for (&[Change], &[Change]) {
    fn nth(&self, n: usize) -> &Change {
        match n.checked_sub(self.0.len()) {
            None => &self.0[n],
            Some(n) => &self.1[n],
        }
    }
}

/// What was there of a key before its change.
#[derive(Clone, Debug)]
struct Before {
    /// Which change.
    n: usize,
    is_set: bool,
    old: Option<Replaced>,
    /// The key's word, when it has one.
    word: Option<Address>,
    /// Where that leads, when it cannot be read.
    damaged: Option<Place>,
    old_tags: Vec<u32>,
}

/// One record of a decided batch, as rolling forward needs it.
#[derive(Debug)]
struct Item {
    space: u32,
    hash: u64,
    is_set: bool,
    place: Place,
    len: u64,
    volume: u64,
    order: u64,
    seq: u64,
    apart: Option<Apart>,
    old: Option<Replaced>,
    /// The key's word, when it has one.
    word: Option<Address>,
    tags: Vec<u32>,
    old_tags: Vec<u32>,
    tag_seq: u64,
    expires_ms: Option<u64>,
}

impl Item {
    fn is_new_entry(&self) -> bool {
        self.is_set && self.old.is_none() && self.word.is_none()
    }

    fn needs_cell(&self) -> bool {
        self.is_set && self.order == self.seq
    }
}

/// One change that goes by steps all the same: it has too many tags for one journal.
struct One<'a> {
    hash: u64,
    draft: &'a Draft<'a>,
}

impl Changes for One<'_> {
    fn len(&self) -> usize {
        1
    }

    fn hash(&self, _: usize) -> u64 {
        self.hash
    }

    fn draft(&self, _: usize) -> Draft<'_> {
        *self.draft
    }

    fn is_fresh(&self, _: usize) -> bool {
        false
    }
}

impl Store {
    /// Applies one change as a batch of one.
    pub(crate) fn commit_one(&self, proof: &mut Proof, hash: u64, draft: &Draft<'_>) -> Result<()> {
        let one = One { hash, draft };
        let found = self.find_all(proof, &one)?;
        if found.is_empty() {
            return Ok(());
        }
        self.commit_many(proof, &one, &found)
    }

    /// Applies all changes, or none. One change per key; removed keys that are not there are left out.
    pub(crate) fn commit(&self, proof: &mut Proof, changes: &impl Changes) -> Result<()> {
        let found = self.find_all(proof, changes)?;
        match found.as_slice() {
            [] => Ok(()),
            [one] if one.is_set && !changes.is_fresh(one.n) => {
                self.put(proof, changes.hash(one.n), &changes.draft(one.n), &[])
            }
            [
                Before {
                    n,
                    old,
                    word: Some(word),
                    is_set: false,
                    old_tags,
                    ..
                },
            ] if old_tags.len() <= FEW => {
                let stored_s = self.second(self.now_ms());
                let draft = Draft {
                    stored_s,
                    ..changes.draft(*n)
                };
                self.remove(proof, changes.hash(*n), &draft, *old, *word)
            }
            many => self.commit_many(proof, changes, many),
        }
    }

    /// What is there of each key that changes.
    fn find_all(&self, proof: &mut Proof, changes: &impl Changes) -> Result<Vec<Before>> {
        let keymap = Keymap::of(&self.files);
        let mut found = Vec::with_capacity(changes.len());
        let mut files = Vec::new();
        let mut buffer = std::mem::take(&mut proof.old);
        for n in 0..changes.len() {
            if n + PREFETCH_AHEAD < changes.len() {
                keymap.prefetch(changes.hash(n + PREFETCH_AHEAD));
            }
            let draft = changes.draft(n);
            files.extend(draft.apart.map(|apart| apart.id));
            let mut old_tags = Vec::new();
            let (old, word) =
                match self.find_to_write(draft.space, draft.key, changes.hash(n), &mut buffer)? {
                    Found::Entry(hit) => {
                        if hit.head.options.tag_count > 0 {
                            old_tags.extend(tags_of(&hit.head, &buffer));
                        }
                        (
                            Some(Replaced::of(&hit).less(draft.apart)),
                            Some(hit.address()),
                        )
                    }
                    Found::Damaged(address) => (None, Some(address)),
                    Found::Nothing => (None, None),
                };
            let is_set = draft.kind == Kind::Set;
            let damaged = match word {
                Some(word) if old.is_none() => bucket::place(self.files.load(&self.dir, word)?),
                _ => None,
            };
            if is_set || word.is_some() {
                found.push(Before {
                    n,
                    is_set,
                    old,
                    word,
                    damaged,
                    old_tags,
                });
            }
        }
        proof.old = buffer;
        for one in found.iter_mut().filter(|_| !files.is_empty()) {
            spare_files(&mut one.old, &files);
        }
        Ok(found)
    }

    /// Sees to it that `commit` of these changes, under the same lock, finds all it needs, and as much
    /// as `slack_bytes` besides. Refuses what `commit` would refuse; changes no entry.
    pub(crate) fn foresee(
        &self,
        proof: &mut Proof,
        changes: &impl Changes,
        slack_bytes: u64,
    ) -> Result<()> {
        let found = self.find_all(proof, changes)?;
        self.make_ready(proof, changes, &found, slack_bytes)?;
        Ok(())
    }

    /// Room for a batch, and for all that is noted beside it. Returns the bytes of its records too, and
    /// whether the keymap has grown: words that were found may stand elsewhere then.
    fn make_ready(
        &self,
        proof: &mut Proof,
        changes: &impl Changes,
        found: &[Before],
        slack_bytes: u64,
    ) -> Result<(Room, u64, bool)> {
        let (mut total, mut graves, mut removing, mut entries) = (0, 0, true, 0);
        let mut cells = BTreeMap::<u32, u64>::new();
        let mut postings = 0;
        for one in found {
            let draft = changes.draft(one.n);
            total += draft.len(true) as u64;
            graves += u64::from(one.old.is_some_and(|old| old.apart.is_some()));
            removing &= !one.is_set;
            entries += u64::from(draft.space != INNER_SPACE);
            for &id in draft.tags {
                self.reserve_tag(id)?;
            }
            postings += draft.tags.len() as u64 + u64::from(draft.expires_ms.is_some());
            *cells.entry(draft.space).or_default() += u64::from(one.is_set);
        }
        // One entry and what the store notes beside it is bounded as a single set is.
        let share = if entries > 1 { 4 } else { 1 };
        let max_bytes = BATCH_BYTES_MAX.min(self.files.header.setting(setting::SIZE_LIMIT) / share);
        if total > max_bytes {
            return Err(Error::TooLarge {
                what: "a batch (bytes)",
                bytes: total,
                max_bytes,
            });
        }
        if graves > layout::GRAVES {
            let what = "the number of large values one batch replaces";
            return Err(Error::TooLarge {
                what,
                bytes: graves,
                max_bytes: layout::GRAVES,
            });
        }
        self.make_graves(proof, graves)?;
        let records = found.len() as u64 + slack_bytes / 64;
        let room = self.room(proof, Lane::Log, total + slack_bytes, records, removing)?;
        for (&space, &cells) in cells.iter().filter(|(_, cells)| **cells > 0) {
            self.reserve_cells(space, cells)?;
        }
        self.reserve_postings(postings)?;
        // The keymap first, so that the batch meets short chains.
        let new = found
            .iter()
            .filter(|one| one.is_set && one.word.is_none())
            .count() as u64;
        // One split makes room for more than one word; a count that lies asks for no more than this.
        let mut has_grown = false;
        for _ in 0..new + 16 {
            let (has_split, taken) = Keymap::of(&self.files).grow_for(&self.dir, new)?;
            self.took(taken);
            if !has_split {
                break;
            }
            has_grown = true;
        }
        let over = (new / 8 + 16).min(new + 2);
        self.took(Keymap::of(&self.files).reserve(&self.dir, over)?);
        Ok((room, total, has_grown))
    }

    fn commit_many(
        &self,
        proof: &mut Proof,
        changes: &impl Changes,
        found: &[Before],
    ) -> Result<()> {
        let (room, total, has_grown) = self.make_ready(proof, changes, found, 0)?;
        // A split moves words: what they say is the same, where they are is not.
        let again;
        let found = if has_grown {
            again = self.find_all(proof, changes)?;
            &again
        } else {
            found
        };
        let items = self.append_batch(proof, &room, changes, found);
        let ours = |item: &&Item| item.space == MAIN_SPACE;
        let sets = items.iter().filter(ours).filter(|item| item.is_set).count() as u64;
        let gone = items
            .iter()
            .filter(ours)
            .filter(|item| !item.is_set)
            .count() as u64;
        // Of one space the count is told in advance: the cache's own, or else the first that changes.
        let counted = match items.iter().any(|item| item.space == MAIN_SPACE) {
            true => MAIN_SPACE,
            false => items
                .iter()
                .map(|item| item.space)
                .max()
                .unwrap_or(MAIN_SPACE),
        };
        let count = items.iter().filter(|item| item.space == counted).fold(
            self.files.space(counted, layout::space::COUNT),
            |count, item| {
                (count + u64::from(item.is_new_entry())).saturating_sub(u64::from(!item.is_set))
            },
        );
        let count = u64::from(counted) << 48 | count;
        let last = items[items.len() - 1].seq;
        self.decide(
            items[0].place,
            room.at + total,
            items.len() as u64,
            last,
            count,
        );
        proof.dirty = false;
        self.roll_forward(&items, &room, total, 0)?;
        self.turn(last, sets);
        self.count(stat::BATCHES, 1);
        self.count(stat::BYTES_PUT, total);
        self.count(stat::SETS, sets);
        self.count(stat::DELETES, gone);
        let set = found
            .iter()
            .map(|one| changes.draft(one.n))
            .filter(|draft| draft.space == MAIN_SPACE);
        self.count(
            stat::BYTES_SET,
            set.map(|draft| draft.value.len() as u64).sum(),
        );
        self.logged(total);
        let mut cells = BTreeMap::<u32, u64>::new();
        for item in items.iter().filter(|item| item.space > INNER_SPACE) {
            *cells.entry(item.space).or_default() += u64::from(item.needs_cell());
        }
        for (space, cells) in cells {
            self.densify_if_due(proof, space, cells);
        }
        let mut tags: Vec<u32> = items.iter().flat_map(|item| &item.tags).copied().collect();
        tags.sort_unstable();
        tags.dedup();
        let first = items.first().map_or(last, |item| item.seq);
        self.after_tags(proof, &tags, &Spared(first..last + 1))
    }

    fn append_batch(
        &self,
        proof: &mut Proof,
        room: &Room,
        changes: &impl Changes,
        found: &[Before],
    ) -> Vec<Item> {
        proof.dirty = true;
        proof.scratch.clear();
        let base = self.committed();
        let (mut at, mut written) = (room.at, room.at);
        let mut items = Vec::with_capacity(found.len());
        for (n, one) in found.iter().enumerate() {
            let draft = changes.draft(one.n);
            let is_fresh = changes.is_fresh(one.n);
            let kept = one.is_set && !is_fresh && one.old.is_some_and(|old| old.is_item);
            let draft = Draft {
                is_item: draft.is_item || kept,
                ..draft
            };
            let seq = base + 1 + n as u64;
            let order = one.old.filter(|_| !is_fresh).map_or(seq, |old| old.order);
            // Of a damaged version too: its word is found again by it.
            let previous = one
                .old
                .map(|old| old.place)
                .or(one.damaged)
                .map_or(0, Place::to_bits);
            let standing = Standing {
                seq,
                order,
                batch: Some((previous, n + 1 == found.len())),
                untags: one.damaged.is_some()
                    || one.old_tags.iter().any(|id| !draft.tags.contains(id)),
            };
            draft.encode(room.segment.seed, at, standing, &mut proof.scratch);
            let hash = changes.hash(one.n);
            let summary = Summary {
                seq,
                kind: draft.kind.into(),
                hash,
                at,
            };
            room.segment.write_summary(room.index + n as u64, &summary);
            let len = draft.len(true) as u64;
            items.push(Item {
                space: draft.space,
                hash,
                is_set: one.is_set,
                place: Place {
                    slot: room.segment.slot,
                    at,
                },
                len,
                volume: volume_of(&draft),
                order,
                seq,
                apart: draft.apart,
                old: one.old,
                word: one.word,
                tags: draft.tags.to_vec(),
                old_tags: one.old_tags.clone(),
                tag_seq: if draft.tag_seq == 0 {
                    seq
                } else {
                    draft.tag_seq
                },
                expires_ms: draft.expires_ms.filter(|_| one.is_set),
            });
            at += len;
            // In ascending pieces, so that what a kill leaves is a beginning (`repair`).
            if proof.scratch.len() >= PIECE_LEN || n + 1 == found.len() {
                room.segment.write(written, &proof.scratch);
                written = at;
                proof.scratch.clear();
            }
        }
        items
    }

    /// From here on the records at `first` happen, whoever completes them.
    pub(super) fn decide(&self, first: Place, end: u64, len: u64, last_seq: u64, count: u64) {
        let header = &self.files.header;
        header.put(layout::PENDING_END_AT, end);
        header.put(layout::PENDING_DONE_AT, 0);
        header.put(layout::PENDING_SEQ_AT, last_seq);
        header.put(layout::PENDING_COUNT_AT, count);
        header.put(layout::PENDING_LEN_AT, len);
        header.put(
            layout::PENDING_CHECK_AT,
            pending_check(first.to_bits(), end, len, last_seq),
        );
        fence(Ordering::Release);
        header.put(layout::PENDING_AT, first.to_bits());
    }

    /// Completes a decided batch from step `done` on.
    fn roll_forward(&self, items: &[Item], room: &Room, total: u64, done: u64) -> Result<()> {
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
fn spare_files(old: &mut Option<Replaced>, files: &[u64]) {
    if let Some(old) = old {
        old.apart = old.apart.filter(|apart| !files.contains(&apart.id));
    }
}

fn pending_check(first: u64, end: u64, len: u64, seq: u64) -> u64 {
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
