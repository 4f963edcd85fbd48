//! Finding an entry without a lock. DESIGN.md (get) has the argument, race by race.
//!
//! Trusts nothing: the whole key and the record's checksum decide, on a private copy. Never changes
//! anything but an access stamp and the mark that something is damaged.

use std::ops::ControlFlow;

use crate::engine::store::Store;
use crate::error::{Error, Result};
use crate::format::bucket::{self, Place};
use crate::format::header as layout;
use crate::format::header::Address;
use crate::format::name::Name;
use crate::format::record::{Head, Kind, flag};
use crate::format::segment::{SUMMARY_HASH_MASK, SUMMARY_LEN, Summary};
use crate::limits::RETRIES_MAX;
use crate::os::dir::Dir;
use crate::part::keymap::{Keymap, Met};
use crate::part::segment::{Footer, Read, Segment};

/// An entry as it was found; its record's bytes are in the caller's buffer.
#[derive(Clone, Copy)]
pub(crate) struct Hit<'a> {
    pub(crate) head: Head,
    pub(crate) place: Place,
    pub(crate) met: Met<'a>,
}

/// Where an entry was found, as the look-up passes it on: a `Hit` is several times as large.
#[derive(Clone, Copy)]
struct Spot<'a> {
    place: Place,
    met: Met<'a>,
}

impl<'a> Spot<'a> {
    /// With its verified record in `buffer`.
    #[inline]
    fn hit(self, buffer: &[u8]) -> Option<Hit<'a>> {
        let head = crate::format::record::verified_head(buffer)?;
        Some(Hit {
            head,
            place: self.place,
            met: self.met,
        })
    }
}

impl<'a> Hit<'a> {
    fn spot(&self) -> Spot<'a> {
        Spot {
            place: self.place,
            met: self.met,
        }
    }

    pub(crate) fn address(&self) -> Address {
        self.met.address
    }

    /// Whether the key's word still leads to this very version.
    pub(crate) fn is_current(&self) -> bool {
        self.met.unchanged() && bucket::place(self.met.word) == Some(self.place)
    }

    /// The key, in the buffer.
    pub(crate) fn key<'b>(&self, buffer: &'b [u8]) -> &'b [u8] {
        &buffer[self.head.key_at..][..self.head.key_len]
    }

    /// The value's bytes as they are stored, in the buffer.
    pub(crate) fn value<'b>(&self, buffer: &'b [u8]) -> &'b [u8] {
        &buffer[self.head.key_at + self.head.key_len..][..self.head.value_len]
    }
}

/// Lines of a record fetched before its turn: a short one's; in a long one the processor looks ahead.
const PREFETCH_LINES: u64 = 3;

/// What a look-up for a writer finds.
#[allow(
    clippy::large_enum_variant,
    reason = "it lives on the stack, for one look"
)]
pub(crate) enum Found<'a> {
    /// The newest version, whole.
    Entry(Hit<'a>),
    /// The key's newest version is damaged: its word may be written over.
    Damaged(Address),
    Nothing,
}

/// What a candidate word led to.
enum Verdict<'a> {
    Ours(Spot<'a>),
    /// The key's word, but nobody may see an entry behind it.
    Absent,
    Other,
    Changed,
    /// The record is damaged; the word may be our key's (`true`: surely).
    Damaged(Error, bool),
}

enum Outcome<'a> {
    Hit(Spot<'a>),
    Absent,
    Again,
    Damaged(Error, Address),
}

impl Store {
    /// The newest visible version of a key; its record is copied into `buffer`.
    #[inline]
    pub(crate) fn find(
        &self,
        space: u32,
        key: &[u8],
        hash: u64,
        buffer: &mut Vec<u8>,
    ) -> Result<Option<Hit<'_>>> {
        match self.search(space, key, hash, buffer)? {
            Outcome::Hit(spot) => Ok(spot.hit(buffer)),
            Outcome::Damaged(error, _) => Err(error),
            _ => Ok(None),
        }
    }

    /// As [`Store::find`], for a writer: a damaged version is no error, it can be written over.
    pub(crate) fn find_to_write(
        &self,
        space: u32,
        key: &[u8],
        hash: u64,
        buffer: &mut Vec<u8>,
    ) -> Result<Found<'_>> {
        match self.search(space, key, hash, buffer) {
            Ok(Outcome::Hit(spot)) => Ok(spot.hit(buffer).map_or(Found::Nothing, Found::Entry)),
            Ok(Outcome::Damaged(_, address)) => Ok(Found::Damaged(address)),
            Ok(_) => Ok(Found::Nothing),
            // Damage that is nobody's for sure: the new version gets a word of its own.
            Err(Error::Corrupt { path, .. })
                if path != self.files.keymap.path() || self.chain_is_whole(hash) =>
            {
                Ok(Found::Nothing)
            }
            Err(error) => Err(error),
        }
    }

    fn chain_is_whole(&self, hash: u64) -> bool {
        let keymap = Keymap::of(&self.files);
        keymap.words(keymap.split().bucket(hash), |_, _| {}).is_ok()
    }

    #[inline]
    fn search(
        &self,
        space: u32,
        key: &[u8],
        hash: u64,
        buffer: &mut Vec<u8>,
    ) -> Result<Outcome<'_>> {
        let keymap = Keymap::of(&self.files);
        for _ in 0..RETRIES_MAX {
            let index = keymap.split().bucket(hash);
            let mut unsure = None;
            let found = keymap.probe(index, hash, |met, whole| {
                if !whole {
                    self.files.header.put(layout::SUSPECT_AT, 1);
                    unsure = Some(self.damaged_word(met.address));
                    return Ok(ControlFlow::Continue(()));
                }
                Ok(match self.judge(met, space, key, hash, buffer)? {
                    Verdict::Ours(spot) => ControlFlow::Break(Outcome::Hit(spot)),
                    Verdict::Absent => ControlFlow::Break(Outcome::Absent),
                    Verdict::Changed => ControlFlow::Break(Outcome::Again),
                    Verdict::Other => ControlFlow::Continue(()),
                    Verdict::Damaged(error, true) => {
                        ControlFlow::Break(Outcome::Damaged(error, met.address))
                    }
                    Verdict::Damaged(error, false) => {
                        unsure = Some(error);
                        ControlFlow::Continue(())
                    }
                })
            });
            match found? {
                Some(Outcome::Again) => std::hint::spin_loop(),
                Some(outcome) => return Ok(outcome),
                None if keymap.split().bucket(hash) != index => {}
                None => return unsure.map_or(Ok(Outcome::Absent), Err),
            }
        }
        Err(Error::Busy {
            what: "an entry that changes again and again",
            holder_pid: 0,
            held_since: None,
            waited: std::time::Duration::ZERO,
            removed: 0,
        })
    }

    fn damaged_word(&self, address: Address) -> Error {
        let region = if address.file == layout::Shared::Keymap {
            &self.files.keymap
        } else {
            &self.files.over
        };
        Error::corrupt(
            region.path(),
            address.at,
            "a word of the keymap is damaged; delete the derived files or let the next opener rebuild them",
        )
    }

    /// What the word `met` means for the key.
    #[inline]
    fn judge<'a>(
        &'a self,
        met: Met<'a>,
        space: u32,
        key: &[u8],
        hash: u64,
        buffer: &mut Vec<u8>,
    ) -> Result<Verdict<'a>> {
        let Some(place) = bucket::place(met.word) else {
            return Ok(Verdict::Damaged(self.damaged_word(met.address), false));
        };
        let segment = match self.segments.get(&self.files, &self.dir, place.slot) {
            Ok(Some(segment)) => segment,
            Ok(None) if !met.unchanged() => return Ok(Verdict::Changed),
            Ok(None) => {
                let what = format!("a record's segment (table row {}) is missing", place.slot);
                return Ok(Verdict::Damaged(
                    Error::corrupt(self.files.segs.path(), u64::from(place.slot) * 32, what),
                    false,
                ));
            }
            Err(error @ Error::Corrupt { .. }) => return Ok(Verdict::Damaged(error, false)),
            Err(error) => return Err(error),
        };
        let head = match segment.read(&self.dir, place.at, buffer)? {
            Read::Whole(head) => head,
            Read::Damaged(_) if !met.unchanged() => return Ok(Verdict::Changed),
            Read::Damaged(fault) => return Ok(self.judge_damage(&segment, place, hash, fault)),
        };
        let hit = Hit { head, place, met };
        if head.options.space != space
            || hit.key(buffer) != key
            || !matches!(head.kind, Kind::Set | Kind::Delete)
        {
            return Ok(if met.unchanged() {
                Verdict::Other
            } else {
                Verdict::Changed
            });
        }
        // The record first, what is committed after it: see DESIGN.md (batch).
        if head.flags & flag::BATCH != 0 && self.is_pending(head.seq) {
            return self.judge_previous(hit, space, key, buffer);
        }
        if !met.unchanged() {
            return Ok(Verdict::Changed);
        }
        Ok(if head.kind == Kind::Set {
            Verdict::Ours(hit.spot())
        } else {
            Verdict::Absent
        })
    }

    /// Whether a batch record that a word leads to is of a batch nobody may see yet. Its word was pointed
    /// while the batch was pending, so without one it is committed, whatever `committed` says.
    fn is_pending(&self, seq: u64) -> bool {
        seq > self.committed() && self.files.header.get(layout::PENDING_AT) != 0
    }

    /// The version a batch not yet committed will replace.
    fn judge_previous<'a>(
        &'a self,
        hit: Hit<'a>,
        space: u32,
        key: &[u8],
        buffer: &mut Vec<u8>,
    ) -> Result<Verdict<'a>> {
        let previous = Place::from_bits(hit.head.options.previous);
        let verdict = match previous {
            None => Verdict::Absent,
            Some(place) => match self.segments.get(&self.files, &self.dir, place.slot)? {
                None => Verdict::Changed,
                Some(segment) => match segment.read(&self.dir, place.at, buffer)? {
                    Read::Damaged(fault) => Verdict::Damaged(
                        self.damaged_record(&segment, place.at, &format!("{fault:?} of a record")),
                        true,
                    ),
                    Read::Whole(head) => {
                        let previous = Hit {
                            head,
                            place,
                            met: hit.met,
                        };
                        let ours = head.options.space == space
                            && previous.key(buffer) == key
                            && head.kind == Kind::Set;
                        if ours {
                            Verdict::Ours(previous.spot())
                        } else {
                            Verdict::Changed
                        }
                    }
                },
            },
        };
        Ok(if hit.met.unchanged() && self.is_pending(hit.head.seq) {
            verdict
        } else {
            Verdict::Changed
        })
    }

    /// Whose record was damaged: the footer may tell.
    #[cold]
    fn judge_damage(
        &self,
        segment: &Segment,
        place: Place,
        hash: u64,
        fault: crate::format::record::Fault,
    ) -> Verdict<'static> {
        let error = self.damaged_record(
            segment,
            place.at,
            &format!(
                "the record's {} is not what was written",
                match fault {
                    crate::format::record::Fault::Body => "key or value",
                    _ => "header",
                }
            ),
        );
        match summary_of(&self.dir, segment, place.at) {
            Some(summary) if summary.hash != hash & SUMMARY_HASH_MASK => Verdict::Other,
            Some(_) => Verdict::Damaged(error, true),
            None => Verdict::Damaged(error, false),
        }
    }

    pub(crate) fn damaged_record(&self, segment: &Segment, at: u64, what: &str) -> Error {
        Error::corrupt(self.dir.path_of(segment.name()), at, what)
    }

    /// The entry behind an order cell, if it is still that entry; its record is copied into `buffer`.
    pub(crate) fn find_cell(
        &self,
        space: u32,
        cell: crate::part::order::Cell,
        buffer: &mut Vec<u8>,
    ) -> Result<Option<Hit<'_>>> {
        let is_it =
            |head: &Head| head.options.space == space && head.order as u32 == cell.order_low;
        self.find_by(cell.hash, buffer, &is_it)
    }

    /// The entry behind a posting: `number` of its record is the posting's.
    pub(crate) fn find_posting(
        &self,
        posting: crate::part::lists::Posting,
        buffer: &mut Vec<u8>,
        number: impl Fn(&Head) -> u32,
    ) -> Result<Option<Hit<'_>>> {
        self.find_by(posting.hash, buffer, &|head| {
            number(head) == posting.seq_low
        })
    }

    /// Has the record that a hash probably leads to come into the processor's cache.
    #[inline]
    pub(crate) fn prefetch_record(&self, hash: u64) {
        if let Some(place) = Keymap::of(&self.files).likely_place(hash) {
            self.prefetch_place(place);
        }
    }

    /// The same of the record at a place.
    #[inline]
    pub(crate) fn prefetch_place(&self, place: Place) {
        if let Ok(Some(segment)) = self.segments.get(&self.files, &self.dir, place.slot) {
            for line in 0..PREFETCH_LINES {
                segment.prefetch(place.at + line * 64);
            }
        }
    }

    /// The entry with these known bits of its hash whose record `is_it`.
    fn find_by(
        &self,
        hash: u64,
        buffer: &mut Vec<u8>,
        is_it: &dyn Fn(&Head) -> bool,
    ) -> Result<Option<Hit<'_>>> {
        let keymap = Keymap::of(&self.files);
        for _ in 0..RETRIES_MAX {
            let index = keymap.split().bucket(hash);
            let mut damage = None;
            let found = keymap.probe(index, hash, |met, whole| {
                if !whole {
                    return Ok(ControlFlow::Continue(()));
                }
                Ok(match self.judge_by(met, is_it, buffer)? {
                    Verdict::Ours(spot) => ControlFlow::Break(Outcome::Hit(spot)),
                    Verdict::Absent => ControlFlow::Break(Outcome::Absent),
                    Verdict::Changed => ControlFlow::Break(Outcome::Again),
                    Verdict::Other => ControlFlow::Continue(()),
                    Verdict::Damaged(error, _) => {
                        damage = Some(error);
                        ControlFlow::Continue(())
                    }
                })
            })?;
            match found {
                Some(Outcome::Hit(spot)) => return Ok(spot.hit(buffer)),
                Some(Outcome::Again) => std::hint::spin_loop(),
                Some(_) => return Ok(None),
                None if keymap.split().bucket(hash) != index => {}
                None => return damage.map_or(Ok(None), Err),
            }
        }
        Err(Error::Busy {
            what: "an entry that changes again and again",
            holder_pid: 0,
            held_since: None,
            waited: std::time::Duration::ZERO,
            removed: 0,
        })
    }

    fn judge_by<'a>(
        &'a self,
        met: Met<'a>,
        is_it: &dyn Fn(&Head) -> bool,
        buffer: &mut Vec<u8>,
    ) -> Result<Verdict<'a>> {
        let Some(place) = bucket::place(met.word) else {
            return Ok(Verdict::Other);
        };
        let Some(segment) = self.segments.get(&self.files, &self.dir, place.slot)? else {
            return Ok(if met.unchanged() {
                Verdict::Other
            } else {
                Verdict::Changed
            });
        };
        let head = match segment.read(&self.dir, place.at, buffer)? {
            Read::Whole(head) => head,
            Read::Damaged(_) if !met.unchanged() => return Ok(Verdict::Changed),
            // Its order cannot be read, so this may be the cell's entry: better told twice than never.
            Read::Damaged(_) => {
                return Ok(Verdict::Damaged(
                    self.damaged_record(&segment, place.at, "a record is damaged"),
                    false,
                ));
            }
        };
        let hit = Hit { head, place, met };
        if head.flags & flag::BATCH != 0 && self.is_pending(head.seq) {
            let key = hit.key(buffer).to_vec();
            let space = head.options.space;
            return Ok(match self.judge_previous(hit, space, &key, buffer)? {
                Verdict::Ours(spot) if !spot.hit(buffer).is_some_and(|hit| is_it(&hit.head)) => {
                    Verdict::Other
                }
                Verdict::Absent => Verdict::Other,
                verdict => verdict,
            });
        }
        if !met.unchanged() {
            return Ok(Verdict::Changed);
        }
        if !is_it(&head) || head.kind != Kind::Set {
            return Ok(Verdict::Other);
        }
        Ok(Verdict::Ours(hit.spot()))
    }

    /// Entries in a space, as one moment saw them.
    pub(crate) fn entries(&self, space: u32) -> u64 {
        let header = &self.files.header;
        loop {
            let pending = header.get(layout::PENDING_AT);
            let told = header.get(layout::PENDING_COUNT_AT);
            let count = if pending != 0
                && told >> 48 == u64::from(space)
                && self.committed() >= header.get(layout::PENDING_SEQ_AT)
            {
                told & ((1 << 48) - 1)
            } else {
                self.files.space(space, layout::space::COUNT)
            };
            if header.get(layout::PENDING_AT) == pending {
                return count;
            }
        }
    }

    /// Whether a large value's file is the one its record names.
    pub(crate) fn value_name(head: &Head) -> Option<Name> {
        head.options.apart.map(|apart| Name::Value(apart.id))
    }

    /// A large value's file is not there, though its entry is.
    pub(crate) fn missing_value(&self, head: &Head) -> Error {
        let path =
            Store::value_name(head).map_or(self.dir.path().into(), |name| self.dir.path_of(name));
        Error::corrupt(path, 0, "the file of a large value is missing")
    }

    pub(crate) fn dir(&self) -> &Dir {
        &self.dir
    }
}

/// The footer's line for the record at `at`, by binary search: offsets grow with the index.
fn summary_of(dir: &Dir, segment: &Segment, at: u64) -> Option<Summary> {
    let mut footer = Footer::default();
    let (mut low, mut high) = (0, segment.head.size / SUMMARY_LEN);
    while low < high {
        let middle = low + (high - low) / 2;
        // Blank or damaged ones count as past the end; a line next to it is still found below.
        match footer.line(dir, segment, middle) {
            Some(summary) if summary.at <= at => low = middle + 1,
            _ => high = middle,
        }
    }
    let mut near = low.saturating_sub(2)..low + 2;
    near.find_map(|index| {
        footer
            .line(dir, segment, index)
            .filter(|summary| summary.at == at)
    })
}
