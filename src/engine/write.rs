//! Changing one entry under the writer lock: record, journal, publication.
//!
//! Owns: the set and delete paths. Holds: before the journal is decided nothing a reader or a later
//! holder sees has changed.

use std::sync::atomic::Ordering;

use crate::engine::cull::Spared;
use crate::engine::ledger::{Ledger, Replaced, volume_of};
use crate::engine::postings::{FEW, FewTags, tag_steps};
use crate::engine::read::Found;
use crate::engine::room::{Lane, Room};
use crate::engine::store::{INNER_SPACE, MAIN_SPACE, Proof, Store, stat};
use crate::error::Result;
use crate::format::bucket::{self, Place};
use crate::format::header::{self as layout, Address};
use crate::format::record::{Draft, Kind, Standing, tags_of};
use crate::format::segment::Summary;
use crate::format::stamp::Stamp;
use crate::part::keymap::Keymap;
use crate::part::lists::Posting;

/// A mark is due when so much was logged since the last one.
const MARK_EVERY_BYTES: u64 = 64 * 1024;

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
        let done = self.put_over(proof, hash, draft, extra, &mut old_bytes);
        proof.old = old_bytes;
        done
    }

    #[inline]
    fn put_over(
        &self,
        proof: &mut Proof,
        hash: u64,
        draft: &Draft<'_>,
        extra: &[(u64, u64)],
        old_bytes: &mut Vec<u8>,
    ) -> Result<()> {
        let found = self.find_to_write(draft.space, draft.key, hash, old_bytes)?;
        let mut old_tags = FewTags::of(std::iter::empty());
        let (old, address) = match found {
            Found::Entry(hit) => {
                if hit.head.options.tag_count > 0 {
                    old_tags = FewTags::of(tags_of(&hit.head, old_bytes));
                }
                (
                    Some(Replaced::of(&hit).less(draft.apart)),
                    Some(hit.address()),
                )
            }
            // With a note of its place: not every older version is known.
            Found::Damaged(_) if draft.space != INNER_SPACE => {
                return self.commit_one(proof, hash, draft);
            }
            Found::Damaged(address) => (None, Some(address)),
            Found::Nothing => (None, None),
        };
        let Some(old_tags) = old_tags.filter(|_| draft.tags.len() <= FEW) else {
            return self.commit_one(proof, hash, draft);
        };
        self.make_graves(proof, u64::from(old.is_some_and(|old| old.apart.is_some())))?;
        let draft = &Draft {
            is_item: draft.is_item || old.is_some_and(|old| old.is_item),
            ..*draft
        };
        let len = draft.len(false) as u64;
        let room = self.room(proof, Lane::Log, len, 1, draft.space == INNER_SPACE)?;
        let insert = old.is_none();
        if insert {
            self.reserve_derived(draft.space, 1)?;
        }
        self.reserve_postings(draft.tags.len() as u64 + u64::from(draft.expires_ms.is_some()))?;
        for &id in draft.tags {
            self.reserve_tag(id)?;
        }
        let seq = self.committed() + 1;
        let standing = Standing {
            seq,
            order: old.map_or(seq, |old| old.order),
            batch: None,
            untags: old_tags.ids().iter().any(|id| !draft.tags.contains(id)),
        };
        self.append(proof, &room, draft, standing, hash);

        let place = Place {
            slot: room.segment.slot,
            at: room.at,
        };
        let volume = volume_of(draft);
        let old_volume = old.map_or(0, |old| old.volume);
        let mut ledger = Ledger::new(&self.files);
        ledger.rows(Some((place.slot, len)), old)?;
        ledger.space(
            draft.space,
            i64::from(insert && address.is_none()),
            volume as i64 - old_volume as i64,
        );
        if insert {
            ledger.cell(draft.space, hash, standing.order);
        }
        if !draft.tags.is_empty() || !old_tags.ids().is_empty() {
            let posting = Posting::new(hash, seq);
            let posts = draft.tag_seq == 0;
            let (old, new) = ((old_tags.ids(), old_volume), (draft.tags, volume));
            for step in tag_steps(old, new, posts) {
                ledger.tag(step, posting)?;
            }
        }
        if let Some(expires_ms) = draft.expires_ms {
            ledger.post(self.time_list(expires_ms), Posting::new(hash, seq))?;
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
        // What was read in the second before is older.
        self.tick_at(draft.stored_s);
        self.stamp_written(word, hash, insert)?;
        ledger.journal.put(word, bucket::word(hash, place));
        ledger.journal.commit(&self.files, &self.dir)?;
        proof.dirty = false;
        self.turn(seq, 1);
        self.after_set(draft, insert, len);
        if insert && draft.space > INNER_SPACE {
            self.densify_if_due(proof, draft.space, 1);
        }
        self.after_tags(proof, draft.tags, &Spared(seq..seq + 1))
    }

    /// After entries got tags: their lists stay short, and within their quotas.
    pub(crate) fn after_tags(
        &self,
        proof: &mut Proof,
        tags: &[u32],
        spared: &Spared,
    ) -> Result<()> {
        for &id in tags {
            self.tidy_tag(id)?;
            self.cull_to_quota(proof, id, spared)?;
        }
        Ok(())
    }

    /// The stamp of a word about to lead to a new version: stored now, its hits kept or as at birth.
    pub(crate) fn stamp_written(&self, word: Address, hash: u64, is_new: bool) -> Result<()> {
        let stamp = Keymap::of(&self.files).stamp_at(word)?;
        let hits = if is_new {
            self.hits_at_birth(hash)
        } else {
            Stamp::from_bits(stamp.load(Ordering::Relaxed)).hits()
        };
        let tick = (self.files.header.get(layout::CLOCK_AT) >> 32) as u32;
        stamp.store(Stamp::Access { hits, tick }.to_bits(), Ordering::Relaxed);
        Ok(())
    }

    fn after_set(&self, draft: &Draft<'_>, insert: bool, len: u64) {
        if insert {
            // The entry is stored: a split that cannot be made now is made by a later write.
            let _ = Keymap::of(&self.files).grow();
        }
        self.logged(len);
        if draft.space == MAIN_SPACE {
            self.count(stat::SETS, 1);
            self.count(stat::BYTES_SET, draft.value.len() as u64);
            self.count(stat::BYTES_PUT, len);
        }
    }

    /// Removes a live entry of a space. Whether there was one.
    pub(crate) fn delete(&self, proof: &mut Proof, space: u32, key: &[u8]) -> Result<bool> {
        let hash = self.hash.of(space, key);
        let now_ms = self.now_ms();
        let mut buffer = std::mem::take(&mut proof.old);
        let found = self.find_to_write(space, key, hash, &mut buffer);
        proof.old = buffer;
        let (old, address) = match found? {
            Found::Nothing => return Ok(false),
            Found::Entry(hit)
                if usize::from(hit.head.options.tag_count) > FEW && self.lives(&hit, now_ms) =>
            {
                let draft = Draft {
                    kind: Kind::Delete,
                    space,
                    key,
                    stored_s: self.second(now_ms),
                    ..self.blank_draft()
                };
                return self.commit_one(proof, hash, &draft).map(|()| true);
            }
            Found::Entry(hit) if !self.lives(&hit, now_ms) => return Ok(false),
            Found::Entry(hit) => (Some(Replaced::of(&hit)), hit.address()),
            Found::Damaged(address) => (None, address),
        };
        let draft = Draft {
            kind: Kind::Delete,
            space,
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
        let room = self.room(proof, Lane::Log, len, 1, true)?;
        let seq = self.committed() + 1;
        self.append(
            proof,
            &room,
            draft,
            Standing {
                seq,
                order: seq,
                batch: None,
                // Of a damaged one nobody knows.
                untags: old.is_none_or(|old| old.tag_count > 0),
            },
            hash,
        );
        let place = Place {
            slot: room.segment.slot,
            at: room.at,
        };
        let mut ledger = Ledger::new(&self.files);
        ledger.rows(None, old)?;
        if let Some(old) = old.filter(|old| old.tag_count > 0) {
            let tags = self.tags_at(old.place)?;
            for step in tag_steps((&tags, old.volume), (&[], 0), false) {
                ledger.tag(step, Posting::new(hash, seq))?;
            }
        }
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
        self.logged(len);
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
        let room = self.room_for_mark(proof, draft.len(false) as u64)?;
        let seq = self.append_note(proof, &room, &draft, |_, _| Ok(()))?;
        self.files.header.put(layout::UNMARKED_BYTES_AT, 0);
        self.files.header.put(layout::MARKED_AT, durable_seq);
        self.files.header.put(layout::MARK_SEQ_AT, seq);
        Ok(())
    }

    /// Appends a record that is no entry's to room that was made for it; `beside` may change what goes with
    /// it. Its sequence.
    pub(crate) fn append_note(
        &self,
        proof: &mut Proof,
        room: &Room,
        draft: &Draft<'_>,
        beside: impl FnOnce(&mut Ledger<'_>, Place) -> Result<()>,
    ) -> Result<u64> {
        let seq = self.committed() + 1;
        let standing = Standing {
            seq,
            order: seq,
            batch: None,
            untags: false,
        };
        self.append(proof, room, draft, standing, 0);
        let place = Place {
            slot: room.segment.slot,
            at: room.at,
        };
        let mut ledger = Ledger::new(&self.files);
        beside(&mut ledger, place)?;
        ledger.tail(room, place, draft.len(false) as u64, 1, place, seq);
        ledger.journal.commit(&self.files, &self.dir)?;
        proof.dirty = false;
        Ok(seq)
    }

    /// So many bytes of records came.
    pub(crate) fn logged(&self, bytes: u64) {
        self.count(stat::BYTES_LOGGED, bytes);
        self.debt.fetch_add(bytes, Ordering::Relaxed);
        let since = self.files.header.number(layout::UNMARKED_BYTES_AT);
        self.files
            .header
            .put(layout::UNMARKED_BYTES_AT, since + bytes);
    }

    /// Notes in the log now and then how far it is durable, at no cost but the record: damage below
    /// that is told from the end of the log. Under the lock, after a write.
    pub(crate) fn mark_if_due(&self, proof: &mut Proof) {
        let header = &self.files.header;
        if header.number(layout::UNMARKED_BYTES_AT) < MARK_EVERY_BYTES {
            return;
        }
        let durable = header.number(layout::DURABLE_AT);
        if durable > header.number(layout::MARKED_AT) {
            // The write is done: a mark that finds no space is written another time.
            let _ = self.append_mark(proof, durable);
        }
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
            sliding_ms: None,
            cost_s: None,
            is_item: false,
            tag_seq: 0,
            tags: &[],
            stored_s: self.second(self.now_ms()),
        }
    }

    pub(super) fn append(
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
}
