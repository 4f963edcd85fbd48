//! Giving dead bytes back: what a segment still holds is kept elsewhere or goes, then its file goes.
//!
//! In steps that hold the writer lock for a moment each. A record that is kept is appended to the second
//! lane as a new version of its entry, in its place in the order. What goes is told by one record: a
//! drop, which names the segment up to a byte, and pairs for those whose older versions might come
//! back. A file goes only when its emptying is durable, and a synced mark says so. DESIGN.md
//! (compaction) has the argument.

use std::sync::atomic::Ordering;

use crate::engine::doomed::{Doomed, Naming};
use crate::engine::kill::{TAGS_AT_ONCE, untag};
use crate::engine::ledger::{Ledger, Replaced, volume_of};
use crate::engine::room::Lane;
use crate::engine::store::{MAIN_SPACE, Proof, Store, stat};
use crate::error::{Error, Result};
use crate::format::bucket::{self, Place, is_whole};
use crate::format::header::{self as layout, Address, row, state};
use crate::format::names::{Cause, to_rows};
use crate::format::record::{Draft, Head, Kind, Record, Standing, tags_of};
use crate::format::segment::{Summary, SummaryKind};
use crate::format::stamp::Stamp;
use crate::part::keymap::Keymap;
use crate::part::lists::Posting;
use crate::part::segment::{Line, Read, Segment};
use crate::part::segments::{self, Row, row_at};

/// Records looked at in one step.
const LINES_PER_STEP: u64 = 2_000;
/// Bytes of records kept in one step.
const KEPT_BYTES_PER_STEP: u64 = 128 * 1024;
/// Entries that go in one step.
const GONE_PER_STEP: usize = 256;
/// How many lines before its turn a bucket is fetched.
const AHEAD: u64 = 6;

/// An entry's record met on a walk.
pub(crate) struct Met<'a> {
    pub(crate) head: &'a Head,
    pub(crate) stamp: Stamp,
}

/// What becomes of an entry that a walk meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It goes.
    Goes,
    /// It is kept, with this many hits; `None`: with those it has.
    Stays(Option<u8>),
    /// The walk ends before it.
    Waits,
}

/// What stands at a place.
#[allow(
    clippy::large_enum_variant,
    reason = "it lives on the stack, for one look"
)]
pub(crate) enum There {
    /// Nothing that is needed.
    Dead,
    /// What a word leads to, and cannot be read.
    Damaged,
    Entry {
        address: Address,
        head: Head,
        stamp: Stamp,
        is_live: bool,
    },
}

/// How far a step came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Step {
    /// Index of the line to go on with.
    pub(crate) next: u64,
    /// The segment's end was reached.
    pub(crate) is_over: bool,
    pub(crate) gone: u64,
    pub(crate) gone_bytes: u64,
    pub(crate) kept: u64,
    pub(crate) kept_bytes: u64,
    /// Of those that went: had expired.
    pub(crate) expired: u64,
    /// Bytes of the records passed, dead ones and all.
    pub(crate) passed_bytes: u64,
    /// Sequence of the last one passed; 0: none was.
    pub(crate) last_seq: u64,
}

/// An entry that goes.
struct Victim {
    address: Address,
    hash: u64,
    old: Replaced,
    space: u32,
    /// It is the first version of its entry: nothing older is anywhere.
    is_only: bool,
    tags: Vec<u32>,
}

impl Store {
    /// Walks a segment from line `from` on, asking `fate` of each entry. Under the lock.
    /// `is_probation`: the ghost remembers what goes.
    ///
    /// The entries that went have gone when this returns; kept ones are in the second lane.
    pub(crate) fn walk_step(
        &self,
        proof: &mut Proof,
        target: &Row,
        from: u64,
        is_probation: bool,
        fate: &mut dyn FnMut(&Met<'_>) -> Fate,
    ) -> Result<Step> {
        let segment = self
            .segments
            .must_get(&self.files, &self.dir, target.slot)?;
        let lines = self.lines_of(target);
        let mut step = Step {
            next: from,
            ..Step::default()
        };
        let mut victims: Vec<Victim> = Vec::new();
        let mut naming = Naming::new(self, Cause::Expired);
        let mut graves = 0;
        let now_ms = self.now_ms();
        let mut buffer = Vec::new();
        let keymap = Keymap::of(&self.files);
        let (mut upto, mut begin, mut has_damage) = (None, None, false);
        while step.next - from < LINES_PER_STEP
            && step.kept_bytes < KEPT_BYTES_PER_STEP
            && victims.len() < GONE_PER_STEP
            && graves < layout::GRAVES
            && !naming.is_enough()
        {
            if step.next >= lines {
                step.is_over = true;
                break;
            }
            if let Some(Line::Whole(ahead)) = segment.line(step.next + AHEAD) {
                keymap.prefetch(ahead.hash);
            }
            let summary = match segment.line(step.next) {
                Some(Line::Whole(summary)) => summary,
                // A damaged line, or the end of a footer whose length nobody noted.
                Some(Line::Damaged) => {
                    step.next += 1;
                    continue;
                }
                Some(Line::Blank) | None => {
                    step.is_over = true;
                    break;
                }
            };
            let place = Place {
                slot: target.slot,
                at: summary.at,
            };
            match summary.kind {
                SummaryKind::Set => {
                    let met = self.meet(&segment, place, &summary, now_ms, &mut buffer)?;
                    has_damage |= matches!(met, There::Damaged);
                    if let There::Entry {
                        address,
                        head,
                        stamp,
                        is_live,
                    } = met
                    {
                        let told = Met { head: &head, stamp };
                        let fate = match head.options.space == MAIN_SPACE {
                            true if is_live => fate(&told),
                            true => {
                                step.expired += 1;
                                Fate::Goes
                            }
                            // Only the cache's own entries may go.
                            false => Fate::Stays(None),
                        };
                        match fate {
                            Fate::Waits => break,
                            Fate::Goes => {
                                step.gone_bytes += head.volume();
                                graves += u64::from(head.options.apart.is_some());
                                let key = &buffer[head.key_at..][..head.key_len];
                                let hash = self.hash.of(head.options.space, key);
                                if is_probation && is_live {
                                    self.remember_culled(hash)?;
                                }
                                let cause = match is_live {
                                    true => Cause::Culled,
                                    false => Cause::Expired,
                                };
                                naming.push(cause, &head, &buffer);
                                if is_live {
                                    naming.cause = cause;
                                }
                                victims.push(Victim {
                                    address,
                                    hash,
                                    old: Replaced::of_head(&head, place),
                                    space: head.options.space,
                                    // A batch may begin an entry anew over an older one.
                                    is_only: head.order == head.seq && head.options.previous == 0,
                                    tags: tags_of(&head, &buffer).collect(),
                                });
                            }
                            Fate::Stays(hits) => {
                                let bytes = self.keep(proof, &head, place, &buffer, address)?;
                                step.kept += 1;
                                step.kept_bytes += bytes;
                                if let Some(hits) = hits {
                                    self.set_hits(address, hits)?;
                                }
                            }
                        }
                    }
                }
                SummaryKind::Delete | SummaryKind::Other => {
                    step.kept_bytes += self.keep_note(proof, target, &segment, place)?;
                }
            }
            step.next += 1;
            step.last_seq = summary.seq;
            begin.get_or_insert(summary.at);
            upto = Some(summary.at + 8);
        }
        step.passed_bytes = upto.unwrap_or(0) - begin.unwrap_or(upto.unwrap_or(0));
        step.gone = victims.len() as u64;
        if let (false, Some(from), Some(upto)) = (victims.is_empty(), begin, upto) {
            // A drop would make what is damaged there seem never to have been.
            if has_damage {
                self.kill_victims(proof, &victims, naming)?;
            } else {
                self.drop_victims(proof, target, from..upto, (&victims, &naming))?;
            }
        }
        // Sealed during this very step, with more records: the walk goes on with those.
        let noted = self
            .files
            .load(&self.dir, row_at(target.slot, row::LINES))?;
        step.is_over &= noted <= step.next;
        if step.is_over && !self.mark_empty(proof, target)? {
            self.note_stuck(target, step.next)?;
        }
        Ok(step)
    }

    /// A walk ended, and something is still there: it cannot be read, or is not finished being written.
    fn note_stuck(&self, target: &Row, lines: u64) -> Result<()> {
        let word = segments::state_of(&self.files, target.slot)?;
        if !matches!(word >> 56, state::SEALED | state::BAD) {
            return Ok(());
        }
        // As it is now: it may have been sealed during this very step, with more records.
        let noted = self
            .files
            .load(&self.dir, row_at(target.slot, row::LINES))?;
        if noted == 0 {
            self.files
                .store(&self.dir, row_at(target.slot, row::LINES), lines)?;
        }
        let live = self.files.load(&self.dir, row_at(target.slot, row::LIVE))?;
        let mut stuck = self
            .stuck
            .lock()
            .unwrap_or_else(|poison| poison.into_inner());
        stuck.insert(target.id, live);
        Ok(())
    }

    /// Records of a segment, as far as anybody noted; the walk ends at a blank line anyway.
    pub(crate) fn lines_of(&self, target: &Row) -> u64 {
        for lane in [Lane::Log, Lane::Copies] {
            let tail = Place::from_bits(self.files.header.get(lane.tail()));
            if tail.is_some_and(|tail| tail.slot == target.slot) {
                return self.files.header.number(lane.count());
            }
        }
        if target.lines == 0 {
            u64::MAX
        } else {
            target.lines
        }
    }

    /// What stands at a place that a line names. Of an entry, its record is copied into `buffer`.
    pub(crate) fn meet(
        &self,
        segment: &Segment,
        place: Place,
        summary: &Summary,
        now_ms: u64,
        buffer: &mut Vec<u8>,
    ) -> Result<There> {
        let keymap = Keymap::of(&self.files);
        let mut address = None;
        keymap.words(keymap.split().bucket(summary.hash), |at, word| {
            if is_whole(word) && bucket::place(word) == Some(place) {
                address = Some(at);
            }
        })?;
        let Some(address) = address else {
            return Ok(There::Dead);
        };
        let Read::Whole(head) = segment.read(&self.dir, place.at, buffer)? else {
            // What cannot be read stays where it is, and its segment with it.
            return Ok(There::Damaged);
        };
        let stamp = keymap.stamp_at(address)?.load(Ordering::Relaxed);
        let is_live = self.lives_by(&head, stamp, now_ms);
        Ok(There::Entry {
            address,
            head,
            stamp: Stamp::from_bits(stamp),
            is_live,
        })
    }

    fn set_hits(&self, address: Address, hits: u8) -> Result<()> {
        let stamp = Keymap::of(&self.files).stamp_at(address)?;
        if let Stamp::Access { tick, .. } = Stamp::from_bits(stamp.load(Ordering::Relaxed)) {
            stamp.store(Stamp::Access { hits, tick }.to_bits(), Ordering::Relaxed);
        }
        Ok(())
    }

    /// Appends an entry's record to the second lane, as its newest version. Returns its bytes.
    pub(crate) fn keep(
        &self,
        proof: &mut Proof,
        head: &Head,
        place: Place,
        bytes: &[u8],
        word: Address,
    ) -> Result<u64> {
        let tags: Vec<u32> = tags_of(head, bytes).collect();
        let draft = Draft {
            kind: Kind::Set,
            value_kind: head.value_kind,
            space: head.options.space,
            key: &bytes[head.key_at..][..head.key_len],
            value: &bytes[head.key_at + head.key_len..][..head.value_len],
            expires_ms: head.options.expires_ms,
            zstd: head.options.zstd,
            apart: head.options.apart,
            sliding_ms: head.options.sliding_ms,
            cost_s: head.options.cost_s,
            is_item: head.flags & crate::format::record::flag::ITEM != 0,
            tag_seq: head.options.tag_seq,
            tags: &tags,
            stored_s: head.stored_s,
        };
        let hash = self.hash.of(draft.space, draft.key);
        let len = draft.len(false) as u64;
        let room = self.room(proof, Lane::Copies, len, 1, true)?;
        self.reserve_postings(u64::from(draft.expires_ms.is_some()))?;
        let seq = self.committed() + 1;
        let standing = Standing {
            seq,
            order: head.order,
            batch: None,
            untags: false,
        };
        self.append(proof, &room, &draft, standing, hash);
        let to = Place {
            slot: room.segment.slot,
            at: room.at,
        };
        let old = Replaced::of_head(head, place).less(head.options.apart);
        let mut ledger = Ledger::new(&self.files);
        ledger.rows(Some((to.slot, len)), Some(old))?;
        let was_copy = segments::is_copies(&self.files, place.slot)?;
        if draft.space != MAIN_SPACE {
            // The lanes' shares are of what may go.
        } else if !was_copy {
            ledger.copy_volume(volume_of(&draft) as i64);
        } else {
            // `rows` took it away.
            let volume = self.files.header.number(layout::COPY_VOLUME_AT);
            ledger.journal.header(layout::COPY_VOLUME_AT, volume);
        }
        if let Some(expires_ms) = draft.expires_ms {
            let list = self.time_list(expires_ms);
            ledger.post(list, Posting::new(hash, seq))?;
        }
        ledger.tail(&room, to, len, 1, to, seq);
        ledger.journal.put(word, bucket::word(hash, to));
        ledger.journal.commit(&self.files, &self.dir)?;
        proof.dirty = false;
        self.count(stat::BYTES_KEPT, len);
        self.logged(len);
        Ok(len)
    }

    /// A delete, kill list, drop or mark met on the way: kept if what it removed may still be somewhere.
    fn keep_note(
        &self,
        proof: &mut Proof,
        target: &Row,
        segment: &Segment,
        place: Place,
    ) -> Result<u64> {
        let mut bytes = Vec::new();
        let Read::Whole(head) = segment.read(&self.dir, place.at, &mut bytes)? else {
            return Ok(0);
        };
        if head.kind == Kind::Mark {
            return Ok(0);
        }
        let rows = segments::rows(&self.files)?;
        let others = || rows.iter().filter(|row| row.id != target.id);
        // The smallest sequence of a dead record in any other segment.
        let oldest = others().map(|row| row.dead_seq).filter(|&seq| seq != 0);
        let oldest = oldest.min().unwrap_or(u64::MAX);
        let record = Record::decode(&bytes, segment.seed, place.at)
            .map_err(|_| self.damaged_record(segment, place.at, "a record is damaged"))?;
        let mut value: Vec<u8> = Vec::new();
        let mut kind = head.kind;
        let mut pair = |hash: u64, seq: u64| {
            value.extend_from_slice(&hash.to_le_bytes());
            value.extend_from_slice(&seq.to_le_bytes());
        };
        match head.kind {
            // By its own sequence: what its key was set to since stays.
            Kind::Delete if oldest < head.seq => {
                let key = &bytes[head.key_at..][..head.key_len];
                pair(self.hash.of(head.options.space, key), head.seq);
                kind = Kind::Kill;
            }
            Kind::Delete => return Ok(0),
            _ => {
                let dropped = record.dropped().filter(|_| kind == Kind::Drop);
                let dropped = dropped.filter(|(id, _)| others().any(|row| row.id == *id));
                match &dropped {
                    None => kind = Kind::Kill,
                    Some((id, range)) => {
                        for word in [*id, range.start, range.end] {
                            value.extend_from_slice(&word.to_le_bytes());
                        }
                    }
                }
                let mut pair = |hash: u64, seq: u64| {
                    value.extend_from_slice(&hash.to_le_bytes());
                    value.extend_from_slice(&seq.to_le_bytes());
                };
                record
                    .kills()
                    .filter(|(_, seq)| oldest <= *seq)
                    .for_each(|(hash, seq)| pair(hash, seq));
                if value.is_empty() {
                    return Ok(0);
                }
            }
        }
        let draft = Draft {
            kind,
            value: &value,
            stored_s: head.stored_s,
            ..self.blank_draft()
        };
        let len = draft.len(false) as u64;
        let room = self.room(proof, Lane::Copies, len, 1, true)?;
        self.append_note(proof, &room, &draft, |ledger, to| {
            let notes = row_at(to.slot, row::NOTES);
            let before = self.files.load(&self.dir, notes)?;
            ledger.journal.put(notes, before.saturating_add(len));
            Ok(())
        })?;
        self.count(stat::BYTES_KEPT, len);
        self.logged(len);
        Ok(len)
    }

    /// Removes the victims by a kill list.
    fn kill_victims(&self, proof: &mut Proof, victims: &[Victim], naming: Naming) -> Result<()> {
        let pairs = victims
            .iter()
            .map(|victim| (victim.hash, victim.old.seq))
            .collect();
        self.kill(proof, &Doomed { pairs, naming })?;
        Ok(())
    }

    /// Removes the victims of one segment: a drop of `range`, decided, then their words.
    fn drop_victims(
        &self,
        proof: &mut Proof,
        target: &Row,
        range: std::ops::Range<u64>,
        (victims, naming): (&[Victim], &Naming),
    ) -> Result<()> {
        let graves = victims.iter().filter(|one| one.old.apart.is_some());
        self.make_graves(proof, graves.count() as u64)?;
        let mut value = Vec::with_capacity(24 + victims.len() * 16);
        for word in [target.id, range.start, range.end] {
            value.extend_from_slice(&word.to_le_bytes());
        }
        let oldest = segments::rows(&self.files)?
            .iter()
            .filter(|row| row.id != target.id && row.dead_seq != 0)
            .map(|row| row.dead_seq)
            .min()
            .unwrap_or(u64::MAX);
        for victim in victims {
            // Its older versions, if any, are in this segment alone: the drop has them.
            if !victim.is_only && oldest < victim.old.seq {
                value.extend_from_slice(&victim.hash.to_le_bytes());
                value.extend_from_slice(&victim.old.seq.to_le_bytes());
            }
        }
        let names = to_rows(naming.names().iter().map(Vec::as_slice));
        let mut draft = Draft {
            kind: Kind::Drop,
            value_kind: naming.cause as u8,
            key: &names,
            value: &value,
            ..self.blank_draft()
        };
        let mut len = draft.len(false) as u64;
        let room = match self.room(proof, Lane::Log, len, 1, names.is_empty()) {
            // What is kept free for removing is not for names: whoever watches is told of a gap.
            Err(Error::Full { .. } | Error::NoSpace { .. }) if !names.is_empty() => {
                draft.key = &[];
                len = draft.len(false) as u64;
                self.room(proof, Lane::Log, len, 1, true)?
            }
            room => room?,
        };
        let seq = self.committed() + 1;
        let standing = Standing {
            seq,
            order: seq,
            batch: None,
            untags: false,
        };
        self.append(proof, &room, &draft, standing, 0);
        let place = Place {
            slot: room.segment.slot,
            at: room.at,
        };
        self.decide(place, room.at + len, victims.len() as u64, u64::MAX, 0);
        proof.dirty = false;
        self.logged(len);
        let mut ledger = Ledger::new(&self.files);
        ledger.journal.header(layout::PENDING_DONE_AT, 1);
        ledger.tail(&room, place, len, 1, place, seq);
        ledger.journal.commit(&self.files, &self.dir)?;
        for victim in victims {
            self.unpoint_victim(victim, seq, 0)?;
        }
        self.end_pending()
    }

    /// One entry goes; each journal leaves it whole or gone, and its tags' rows follow first, in pieces of
    /// which `done` are done.
    fn unpoint_victim(&self, victim: &Victim, seq: u64, done: usize) -> Result<()> {
        let pieces: Vec<&[u32]> = victim.tags.chunks(TAGS_AT_ONCE).collect();
        let (last, first) = match pieces.split_last() {
            Some((last, first)) => (*last, first),
            None => (&[][..], &[][..]),
        };
        for (step, tags) in first.iter().enumerate().skip(done) {
            let mut ledger = Ledger::new(&self.files);
            untag(&mut ledger, tags, &victim.old)?;
            ledger
                .journal
                .header(layout::PENDING_DONE_AT, 2 + step as u64);
            ledger.journal.commit(&self.files, &self.dir)?;
        }
        let mut ledger = Ledger::new(&self.files);
        untag(&mut ledger, last, &victim.old)?;
        self.unpoint_killed(&mut ledger, victim.address, victim.old, victim.space, seq)?;
        ledger.journal.header(layout::PENDING_DONE_AT, 1);
        ledger.journal.commit(&self.files, &self.dir)
    }

    /// Completes a drop whose maker died: whatever the segment still holds before `upto` goes.
    pub(crate) fn roll_drop(
        &self,
        record: &Record<'_>,
        (place, len, seq): (Place, u64, u64),
        index: u64,
    ) -> Result<()> {
        let header = &self.files.header;
        let done = header.number(layout::PENDING_DONE_AT);
        if done == 0 {
            let segment = self.segments.must_get(&self.files, &self.dir, place.slot)?;
            let room = crate::engine::room::Room {
                lane: Lane::Log,
                segment,
                at: place.at,
                index,
            };
            let mut ledger = Ledger::new(&self.files);
            ledger.journal.header(layout::PENDING_DONE_AT, 1);
            ledger.tail(&room, place, len, 1, place, seq);
            ledger.journal.commit(&self.files, &self.dir)?;
        }
        let Some((id, range)) = record.dropped() else {
            return self.end_pending();
        };
        let rows = segments::rows(&self.files)?;
        let Some(target) = rows.iter().find(|row| row.id == id) else {
            return self.end_pending();
        };
        let segment = self
            .segments
            .must_get(&self.files, &self.dir, target.slot)?;
        let mut begun = header.number(layout::PENDING_DONE_AT).saturating_sub(1);
        let mut buffer = Vec::new();
        for index in 0..self.lines_of(target) {
            let summary = match segment.line(index) {
                Some(Line::Whole(summary)) if summary.at < range.end => summary,
                Some(Line::Damaged) => continue,
                _ => break,
            };
            let place = Place {
                slot: target.slot,
                at: summary.at,
            };
            if summary.kind != SummaryKind::Set || summary.at < range.start {
                continue;
            }
            let There::Entry { address, head, .. } =
                self.meet(&segment, place, &summary, 0, &mut buffer)?
            else {
                continue;
            };
            let victim = Victim {
                address,
                hash: 0,
                old: Replaced::of_head(&head, place),
                space: head.options.space,
                is_only: true,
                tags: tags_of(&head, &buffer).collect(),
            };
            // The first that still stands is the one whose tags may be done in part.
            self.unpoint_victim(&victim, seq, std::mem::take(&mut begun) as usize)?;
        }
        self.end_pending()
    }
}
