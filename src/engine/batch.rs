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
use crate::engine::ledger::{Replaced, volume_of};
use crate::engine::postings::FEW;
use crate::engine::read::Found;
use crate::engine::roll_forward::{Item, pending_check, spare_files};
use crate::engine::room::{Lane, Room};
use crate::engine::store::{INNER_SPACE, MAIN_SPACE, Proof, Store, stat};
use crate::error::{Error, Result};
use crate::format::bucket::{self, Place};
use crate::format::header::{self as layout, Address};
use crate::format::record::{Draft, Kind, Standing, tags_of};
use crate::format::segment::Summary;
use crate::limits::BATCH_BYTES_MAX;
use crate::part::keymap::Keymap;
use crate::part::shared::setting;

/// How many items before its turn a bucket is fetched into the cache.
pub(super) const PREFETCH_AHEAD: usize = 8;

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
}
