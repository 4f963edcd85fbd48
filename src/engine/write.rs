//! Changing one entry under the writer lock: room, record, journal, publication.
//!
//! Owns: the set and delete paths, and the growing of the active segment. Holds: before the journal
//! is decided nothing a reader or a later holder sees has changed.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, RwLock};

use crate::engine::read::{Found, Hit};
use crate::engine::store::{INNER_SPACE, MAIN_SPACE, Proof, Store, stat};
use crate::error::{Error, Result};
use crate::format::bucket::{self, Place};
use crate::format::header::{self as layout, Address, row, space, state};
use crate::format::record::{Apart, Draft, Kind, Standing, flag};
use crate::format::segment::{RECORDS_AT, SUMMARY_LEN, SegmentHead, Summary};
use crate::limits::{RESERVE_BYTES, SEGMENT_BYTES_MAX, SEGMENT_SLOTS};
use crate::part::journal::Journal;
use crate::part::keymap::{Keymap, Vacancy};
use crate::part::order::{self, Cell};
use crate::part::segment::Segment;
use crate::part::segments::{self, row_at};
use crate::part::shared::{Files, setting};

/// Bytes the front of a segment grows by at most: what is made present in one go.
const FRONT_STEP_MAX: u64 = 1 << 20;
const FRONT_STEP_MIN: u64 = 64 * 1024;
/// What is allocated is in pieces of this many bytes: those in which pages are first touched.
const STEP: u64 = crate::limits::SEGMENT_STEP;
/// Bytes the back grows by: room for summaries.
const BACK_STEP_MIN: u64 = STEP;
const BACK_STEP_MAX: u64 = 128 * 1024;

/// Where the next records go.
pub(crate) struct Room {
    pub(crate) segment: Arc<Segment>,
    pub(crate) at: u64,
    /// Index of the next summary.
    pub(crate) index: u64,
}

/// What the version a write replaces was.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Replaced {
    pub(crate) place: Place,
    pub(crate) len: u64,
    pub(crate) volume: u64,
    pub(crate) seq: u64,
    pub(crate) order: u64,
    pub(crate) apart: Option<Apart>,
    /// Pushed to a queue: a version set over it stays in the queue.
    pub(crate) is_item: bool,
}

impl Replaced {
    pub(crate) fn of(hit: &Hit<'_>) -> Self {
        let head = &hit.head;
        Replaced {
            place: hit.place,
            len: head.len() as u64,
            volume: head.volume(),
            seq: head.seq,
            order: head.order,
            apart: head.options.apart,
            is_item: head.flags & flag::ITEM != 0,
        }
    }
}

impl Replaced {
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
}

impl Store {
    /// Stores one entry; `extra` are header words that change with it.
    #[inline]
    pub(crate) fn put(
        &self,
        proof: &mut Proof,
        hash: u64,
        draft: &Draft<'_>,
        extra: &[(u64, u64)],
    ) -> Result<()> {
        let mut old_bytes = std::mem::take(&mut proof.old);
        let found = self.find_to_write(draft.space, draft.key, hash, &mut old_bytes);
        proof.old = old_bytes;
        let (old, address) = match found? {
            Found::Entry(hit) => (
                Some(Replaced::of(&hit).less(draft.apart)),
                Some(hit.address()),
            ),
            Found::Damaged(address) => (None, Some(address)),
            Found::Nothing => (None, None),
        };
        self.make_graves(proof, u64::from(old.is_some_and(|old| old.apart.is_some())))?;
        let draft = &Draft {
            is_item: draft.is_item || old.is_some_and(|old| old.is_item),
            ..*draft
        };
        let len = draft.len(false) as u64;
        let room = self.room(proof, len, 1, draft.space == INNER_SPACE)?;
        let insert = old.is_none();
        if insert {
            self.reserve_derived(draft.space, 1)?;
        }
        let seq = self.committed() + 1;
        let standing = Standing {
            seq,
            order: old.map_or(seq, |old| old.order),
            batch: None,
        };
        self.append(proof, &room, draft, standing, hash);

        let place = Place {
            slot: room.segment.slot,
            at: room.at,
        };
        let mut ledger = Ledger::new(&self.files);
        ledger.rows(Some((place.slot, len)), old)?;
        ledger.space(
            draft.space,
            i64::from(insert && address.is_none()),
            volume_of(draft) as i64 - old.map_or(0, |old| old.volume as i64),
        );
        if insert {
            ledger.cell(draft.space, hash, standing.order);
        }
        ledger.grave(old, seq);
        for &(at, value) in extra {
            ledger.journal.header(at, value);
        }
        if let Some(apart) = draft.apart {
            ledger.journal.header(layout::APART_SEQ_AT, seq);
            self.end_stream(&mut ledger, apart);
        }
        ledger.tail(&room, place, len, 1, place, seq);
        let word = match address {
            Some(address) => address,
            None => ledger.word(Keymap::of(&self.files).vacancy(hash, &[])?),
        };
        ledger.journal.put(word, bucket::word(hash, place));
        ledger.journal.commit(&self.files, &self.dir)?;
        proof.dirty = false;
        self.clear_stamp(word);
        self.after_set(draft, insert, len);
        Ok(())
    }

    /// A new version has not been accessed yet.
    pub(crate) fn clear_stamp(&self, word: Address) {
        let region = if word.file == layout::Shared::Keymap {
            &self.files.keymap
        } else {
            &self.files.over
        };
        let bucket = word.at & !(bucket::BUCKET_LEN - 1);
        if let Ok(stamp) = region.half(bucket + bucket::STAMPS_AT + (word.at - bucket) / 2) {
            stamp.store(0, Ordering::Relaxed);
        }
    }

    fn after_set(&self, draft: &Draft<'_>, insert: bool, len: u64) {
        if insert {
            // The entry is stored: a split that cannot be made now is made by a later write.
            let _ = Keymap::of(&self.files).grow();
        }
        self.count(stat::BYTES_LOGGED, len);
        if draft.space == MAIN_SPACE {
            self.count(stat::SETS, 1);
            self.count(stat::BYTES_SET, draft.value.len() as u64);
        }
    }

    /// Removes a live entry of the cache's own space. Whether there was one.
    pub(crate) fn delete(&self, proof: &mut Proof, key: &[u8]) -> Result<bool> {
        let hash = self.hash.of(MAIN_SPACE, key);
        let now_ms = self.now_ms();
        let mut buffer = std::mem::take(&mut proof.old);
        let found = self.find_to_write(MAIN_SPACE, key, hash, &mut buffer);
        proof.old = buffer;
        let (old, address) = match found? {
            Found::Nothing => return Ok(false),
            Found::Entry(hit) if hit.is_expired(now_ms) => return Ok(false),
            Found::Entry(hit) => (Some(Replaced::of(&hit)), hit.address()),
            Found::Damaged(address) => (None, address),
        };
        let draft = Draft {
            kind: Kind::Delete,
            key,
            stored_s: self.second(now_ms),
            ..self.blank_draft()
        };
        self.remove(proof, hash, &draft, old, address)?;
        Ok(true)
    }

    /// Removes one entry that was found under this lock.
    pub(crate) fn remove(
        &self,
        proof: &mut Proof,
        hash: u64,
        draft: &Draft<'_>,
        old: Option<Replaced>,
        address: Address,
    ) -> Result<()> {
        self.make_graves(proof, u64::from(old.is_some_and(|old| old.apart.is_some())))?;
        let len = draft.len(false) as u64;
        let room = self.room(proof, len, 1, true)?;
        let seq = self.committed() + 1;
        self.append(
            proof,
            &room,
            draft,
            Standing {
                seq,
                order: seq,
                batch: None,
            },
            hash,
        );
        let place = Place {
            slot: room.segment.slot,
            at: room.at,
        };
        let mut ledger = Ledger::new(&self.files);
        ledger.rows(None, old)?;
        ledger.space(draft.space, -1, old.map_or(0, |old| -(old.volume as i64)));
        ledger.grave(old, seq);
        ledger.tail(&room, place, len, 1, place, seq);
        let used = self.files.header.number(layout::KEYMAP_USED_AT);
        ledger
            .journal
            .header(layout::KEYMAP_USED_AT, used.saturating_sub(1));
        ledger.journal.put(address, 0);
        ledger.journal.commit(&self.files, &self.dir)?;
        proof.dirty = false;
        self.count(stat::DELETES, u64::from(draft.space == MAIN_SPACE));
        self.count(stat::BYTES_LOGGED, len);
        Ok(())
    }

    /// Appends a record that concerns no key: a mark.
    pub(crate) fn append_mark(&self, proof: &mut Proof, durable_seq: u64) -> Result<()> {
        let value = durable_seq.to_le_bytes();
        let draft = Draft {
            kind: Kind::Mark,
            value: &value,
            ..self.blank_draft()
        };
        let len = draft.len(false) as u64;
        let room = self.room(proof, len, 1, true)?;
        let seq = self.committed() + 1;
        self.append(
            proof,
            &room,
            &draft,
            Standing {
                seq,
                order: seq,
                batch: None,
            },
            0,
        );
        let place = Place {
            slot: room.segment.slot,
            at: room.at,
        };
        let mut ledger = Ledger::new(&self.files);
        ledger.tail(&room, place, len, 1, place, seq);
        ledger.journal.commit(&self.files, &self.dir)?;
        proof.dirty = false;
        Ok(())
    }

    pub(crate) fn blank_draft(&self) -> Draft<'static> {
        Draft {
            kind: Kind::Set,
            value_kind: 0,
            space: 0,
            key: &[],
            value: &[],
            expires_ms: None,
            zstd: None,
            apart: None,
            is_item: false,
            tag_seq: 0,
            tags: &[],
            stored_s: self.second(self.now_ms()),
        }
    }

    fn append(
        &self,
        proof: &mut Proof,
        room: &Room,
        draft: &Draft<'_>,
        standing: Standing,
        hash: u64,
    ) {
        proof.dirty = true;
        proof.scratch.clear();
        draft.encode(room.segment.seed, room.at, standing, &mut proof.scratch);
        room.segment.write(room.at, &proof.scratch);
        let summary = Summary {
            seq: standing.seq,
            kind: draft.kind.into(),
            hash,
            at: room.at,
        };
        room.segment.write_summary(room.index, &summary);
    }

    /// Space for the keymap's and the order list's next words.
    pub(crate) fn reserve_derived(&self, space: u32, entries: u64) -> Result<()> {
        let taken = Keymap::of(&self.files).reserve(&self.dir, entries)?;
        self.took(taken);
        let taken = order::reserve(&self.files, &self.dir, space, entries)?;
        self.took(taken);
        Ok(())
    }

    /// Room for `bytes` of records at the tail, allocated and present. `removing`: may use the reserve.
    pub(crate) fn room(
        &self,
        proof: &Proof,
        bytes: u64,
        records: u64,
        removing: bool,
    ) -> Result<Room> {
        let header = &self.files.header;
        let _ = proof;
        for _ in 0..2 {
            let Some(tail) = Place::from_bits(header.get(layout::TAIL_AT)) else {
                return Err(Error::corrupt(
                    self.dir.path_of(crate::format::name::Name::Header),
                    layout::TAIL_AT,
                    "the tail names no segment",
                ));
            };
            let Some(segment) = self.active(tail.slot)? else {
                self.rotate(bytes + RESERVE_BYTES, records, removing)?;
                continue;
            };
            let index = header.number(layout::TAIL_COUNT_AT);
            let size = segment.head.size;
            let reserve = if removing {
                0
            } else {
                RESERVE_BYTES.min(size / 16)
            };
            let is_whole = segment.head.id == segments::id_of(&self.files, tail.slot)?;
            if is_whole
                && (tail.at + bytes + reserve).next_multiple_of(STEP)
                    + ((index + records) * SUMMARY_LEN).next_multiple_of(STEP)
                    <= size
            {
                self.extend_front(&segment, tail.at + bytes, reserve, removing)?;
                self.extend_back(&segment, (index + records) * SUMMARY_LEN)?;
                self.make_present(&segment, tail.at, bytes);
                return Ok(Room {
                    segment,
                    at: tail.at,
                    index,
                });
            }
            self.rotate(bytes + RESERVE_BYTES, records, removing)?;
        }
        Err(Error::TooLarge {
            what: "a record",
            bytes,
            max_bytes: SEGMENT_BYTES_MAX,
        })
    }

    /// The segment records go to; `None`: it is missing, damaged or cut short, and takes no more.
    fn active(&self, slot: u16) -> Result<Option<Arc<Segment>>> {
        match self.segments.get(&self.files, &self.dir, slot) {
            Ok(Some(segment)) if segment.cut_from.is_none() => Ok(Some(Arc::clone(segment))),
            Ok(_) | Err(Error::Corrupt { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn extend_front(
        &self,
        segment: &Segment,
        end: u64,
        reserve: u64,
        removing: bool,
    ) -> Result<()> {
        let header = &self.files.header;
        let front = header.number(layout::FRONT_AT);
        let wanted = (end + reserve).next_multiple_of(STEP);
        if wanted <= front {
            return Ok(());
        }
        if removing && end <= front {
            return Ok(());
        }
        let back = header.number(layout::BACK_AT);
        let step = front
            .clamp(FRONT_STEP_MIN, FRONT_STEP_MAX)
            .max(wanted - front)
            .next_multiple_of(STEP);
        let to = (front + step)
            .min((segment.head.size - back) / STEP * STEP)
            .max(wanted);
        if !removing {
            self.budget(to - front)?;
        }
        segment.allocate(&self.dir, front, to)?;
        header.put(layout::FRONT_AT, to);
        self.took(to - front);
        Ok(())
    }

    fn extend_back(&self, segment: &Segment, need: u64) -> Result<()> {
        let header = &self.files.header;
        let back = header.number(layout::BACK_AT);
        if need <= back {
            return Ok(());
        }
        let front = header.number(layout::FRONT_AT);
        let step = back
            .clamp(BACK_STEP_MIN, BACK_STEP_MAX)
            .max(need - back)
            .next_multiple_of(STEP);
        let to = (back + step)
            .min(segment.head.size - front)
            .max(need.next_multiple_of(STEP));
        segment.allocate(&self.dir, segment.head.size - to, segment.head.size - back)?;
        header.put(layout::BACK_AT, to);
        self.took(to - back);
        Ok(())
    }

    /// Has this process's page tables hold the pages ahead of the tail.
    #[inline]
    fn make_present(&self, segment: &Segment, at: u64, bytes: u64) {
        let known = self.populated.load(Ordering::Relaxed);
        let upto = if known >> 48 == u64::from(segment.slot) {
            known & ((1 << 48) - 1)
        } else {
            0
        };
        if at + bytes > upto {
            let front = self.files.header.number(layout::FRONT_AT);
            let to = (at + bytes + FRONT_STEP_MAX).min(front);
            segment.map().populate(at as usize, (to - at) as usize);
            self.populated
                .store(u64::from(segment.slot) << 48 | to, Ordering::Relaxed);
        }
    }

    /// Begins a new segment with room for `bytes` of records.
    pub(crate) fn rotate(&self, bytes: u64, records: u64, removing: bool) -> Result<()> {
        let header = &self.files.header;
        let slot = header.number(layout::SEGS_USED_AT);
        if slot >= SEGMENT_SLOTS as u64 - 1 {
            let what = "all 65,534 rows of its segment table are in use: choose larger segments"
                .to_string();
            return Err(Error::Unsupported {
                path: self.dir.path().into(),
                what,
            });
        }
        let need = RECORDS_AT + bytes + records * SUMMARY_LEN + 3 * STEP;
        let size = header.setting(setting::SEGMENT_SIZE).clamp(
            crate::limits::SEGMENT_SIZE_MIN,
            crate::limits::SEGMENT_SIZE_MAX,
        );
        let size = size.max(need).next_multiple_of(STEP);
        if size > SEGMENT_BYTES_MAX {
            return Err(Error::TooLarge {
                what: "a batch",
                bytes,
                max_bytes: crate::limits::BATCH_BYTES_MAX,
            });
        }
        let front = FRONT_STEP_MIN
            .min(size / 2)
            .max((RECORDS_AT + bytes).next_multiple_of(STEP))
            .min(size - STEP);
        let front = if size == FRONT_STEP_MIN {
            size / 2
        } else {
            front
        };
        if !removing {
            self.budget(front + BACK_STEP_MIN)?;
        }
        let taken = segments::reserve(&self.files, &self.dir)?;
        self.took(taken);
        let id = header.add(layout::NEXT_FILE_AT, 1);
        header.put(layout::MAKING_AT, id);
        let head = SegmentHead {
            uuid: self.uuid,
            id,
            size,
            first_seq: self.committed() + 1,
            hash_seed: self.hash_seed,
            created_ms: self.created_ms,
        };
        let made = Segment::create(&self.dir, head, slot as u16, front, BACK_STEP_MIN);
        let segment = match made {
            Ok(segment) => segment,
            Err(error) => {
                header.put(layout::MAKING_AT, 0);
                return Err(error);
            }
        };
        self.enter_row(&segment, front)?;
        self.took(front + BACK_STEP_MIN);
        header.add(layout::NAMES_AT, 1);
        self.segments.keep(segment);
        Ok(())
    }

    /// One journalled change: the new segment has a row, and is the tail.
    fn enter_row(&self, segment: &Segment, front: u64) -> Result<()> {
        let header = &self.files.header;
        let slot = segment.slot;
        let mut journal = Journal::new(header);
        if let Some(tail) = Place::from_bits(header.get(layout::TAIL_AT)) {
            let front = (header.number(layout::FRONT_AT) / 4096) & layout::FRONT_MASK;
            let word = self.files.load(&self.dir, row_at(tail.slot, row::STATE))?;
            let sealed = if word >> 56 == state::BAD {
                state::BAD
            } else {
                state::SEALED
            };
            journal.put(row_at(tail.slot, row::STATE), sealed << 56 | front);
        }
        journal.put(row_at(slot, row::STATE), state::ACTIVE << 56);
        journal.put(row_at(slot, row::LIVE), 0);
        journal.put(row_at(slot, row::DEAD_SEQ), 0);
        journal.put(row_at(slot, row::ID), segment.head.id);
        journal.header(layout::SEGS_USED_AT, u64::from(slot) + 1);
        journal.header(layout::FRONT_AT, front);
        journal.header(layout::BACK_AT, BACK_STEP_MIN);
        journal.header(layout::TAIL_COUNT_AT, 0);
        journal.header(layout::MAKING_AT, 0);
        journal.header(
            layout::TAIL_AT,
            Place {
                slot,
                at: RECORDS_AT,
            }
            .to_bits(),
        );
        journal.commit(&self.files, &self.dir)
    }
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
            new_live = Some((slot, live(slot)? + len));
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
        }
        if let Some((slot, live)) = new_live {
            self.journal.put(row_at(slot, row::LIVE), live);
        }
        Ok(())
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
        self.journal.header(layout::TAIL_AT, end.to_bits());
        self.journal
            .header(layout::TAIL_COUNT_AT, room.index + records);
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

/// Tag names and their ids, as far as this handle has met them; they never change.
#[derive(Debug, Default)]
pub(crate) struct TagNames {
    ids: RwLock<HashMap<Vec<u8>, u32>>,
    names: RwLock<HashMap<u32, Vec<u8>>>,
}

/// The inner key under which a tag's id is kept.
pub(crate) fn tag_key(name: &[u8]) -> Vec<u8> {
    [b"t/", name].concat()
}

/// The inner key under which a tag's name is kept.
pub(crate) fn tag_id_key(id: u32) -> Vec<u8> {
    format!("i/{id}").into_bytes()
}

impl Store {
    /// The id of a tag; `None`: nobody has used it yet.
    pub(crate) fn tag_id(&self, name: &[u8]) -> Result<Option<u32>> {
        if let Some(&id) = self
            .tags
            .ids
            .read()
            .unwrap_or_else(|poison| poison.into_inner())
            .get(name)
        {
            return Ok(Some(id));
        }
        let key = tag_key(name);
        let mut buffer = Vec::new();
        let Some(hit) = self.find(
            INNER_SPACE,
            &key,
            self.hash.of(INNER_SPACE, &key),
            &mut buffer,
        )?
        else {
            return Ok(None);
        };
        let id = hit.value(&buffer).try_into().map(u32::from_le_bytes).ok();
        if let Some(id) = id {
            self.remember_tag(name, id);
        }
        Ok(id)
    }

    pub(crate) fn remember_tag(&self, name: &[u8], id: u32) {
        self.tags
            .ids
            .write()
            .unwrap_or_else(|poison| poison.into_inner())
            .insert(name.to_vec(), id);
        self.tags
            .names
            .write()
            .unwrap_or_else(|poison| poison.into_inner())
            .insert(id, name.to_vec());
    }

    /// The name of a tag by its id.
    pub(crate) fn tag_name(&self, id: u32) -> Result<Vec<u8>> {
        if let Some(name) = self
            .tags
            .names
            .read()
            .unwrap_or_else(|poison| poison.into_inner())
            .get(&id)
        {
            return Ok(name.clone());
        }
        let key = tag_id_key(id);
        let mut buffer = Vec::new();
        match self.find(
            INNER_SPACE,
            &key,
            self.hash.of(INNER_SPACE, &key),
            &mut buffer,
        )? {
            Some(hit) => {
                let name = hit.value(&buffer).to_vec();
                self.remember_tag(&name, id);
                Ok(name)
            }
            None => Err(Error::corrupt(
                self.dir.path(),
                0,
                format!("the name of tag {id} is lost"),
            )),
        }
    }
}
