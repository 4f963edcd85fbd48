//! Repair while others have the store open: what is damaged is set aside, what is derived made anew in
//! place.
//!
//! Looks at everything off the lock first; then holds it to the end. What can be read of a damaged
//! segment is kept in the second lane, its file goes to `damaged/`, and whatever older version might
//! come back for want of it is killed. Marks the store suspect while it works: killed in the middle, the
//! next opener alone rebuilds. Never deletes a file of the log. DESIGN.md (repair) has the argument.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::engine::audit::Tally;
use crate::engine::check::{Bad, Checked};
use crate::engine::damaged_log::Log;
use crate::engine::findings::{CheckReport, Depth};
use crate::engine::ledger::Ledger;
use crate::engine::rebuild;
use crate::engine::room::Lane;
use crate::engine::scan::{self, Seen, SeenKind};
use crate::engine::store::{MAIN_SPACE, Proof, Store};
use crate::error::{Error, Result};
use crate::format::bucket::{self, BUCKET_LEN, KNOWN_MASK, Place, is_whole, known_hash};
use crate::format::header::{self as layout, row, space, state};
use crate::format::name::Name;
use crate::format::names::Cause;
use crate::format::record::{Draft, Kind, tags_of};
use crate::limits::SPACES_MAX;
use crate::part::keymap::Keymap;
use crate::part::segment::{Read, Segment};
use crate::part::segments::{self, Row, row_at};
use crate::part::shared::Files;

/// Pairs of one kill list.
const PAIRS_AT_ONCE: usize = 1_000;

/// An entry that could not be kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Lost {
    /// Its key, where it could be read and is the one the footer names.
    pub key: Option<Vec<u8>>,
    /// Id of the segment its record was in.
    pub segment: u64,
    /// The byte in that segment.
    pub offset: u64,
    /// Why, as a sentence.
    pub what: String,
}

/// What a repair did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RepairReport {
    /// Something derived was made anew: words, lists, or counts.
    pub rebuilt: bool,
    /// Files that were moved to `damaged/`, where they are now. Nobody counts or needs them any more.
    pub quarantined: Vec<PathBuf>,
    /// Bytes those take on disk.
    pub quarantined_bytes: u64,
    /// Entries that could not be kept.
    pub lost: Vec<Lost>,
    /// Entries copied out of damaged segments.
    pub kept: u64,
    /// Older versions, of lost or removed entries, that were kept from coming back.
    pub laid_to_rest: u64,
    /// Nobody ended it before it began to change anything.
    pub is_complete: bool,
}

/// What a place holds.
enum Held {
    /// This entry, its place one of the log's.
    Entry(Seen),
    /// An entry that is lost.
    Lost(Lost),
    /// Nothing a word leads to.
    Nothing,
}

/// What the store should hold.
#[derive(Default)]
struct Wanted {
    /// Entries, by bucket; places are the log's.
    entries: Vec<(u64, Seen)>,
    lost: Vec<Lost>,
}

impl Store {
    /// Repairs the store. `watch` is told how the look at everything goes on, and may end it.
    pub(crate) fn mend(
        &self,
        timeout: Option<Duration>,
        watch: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<RepairReport> {
        let checked = self.check(Depth::Full, watch)?;
        let mut report = RepairReport {
            is_complete: checked.report.is_complete,
            ..RepairReport::default()
        };
        let is_suspect = self.files.header.get(layout::SUSPECT_AT) != 0;
        if !report.is_complete || (checked.report.is_sound() && !is_suspect) {
            return Ok(report);
        }
        let mut held = Store::lock(self, timeout)?;
        let (store, proof) = held.parts();
        let keymap = Keymap::of(&store.files);
        if keymap.split().buckets() * BUCKET_LEN > store.files.keymap.len()? {
            let what = "the growth word names buckets past the end of this file: the next to open the store alone rebuilds it";
            store.files.header.put(layout::SUSPECT_AT, 1);
            return Err(Error::corrupt(store.files.keymap.path(), 0, what));
        }
        store.files.header.put(layout::SUSPECT_AT, 1);
        store.mend_locked(proof, &checked, timeout, &mut report)?;
        store.files.header.put(layout::SUSPECT_AT, 0);
        store.mark_if_due(proof);
        Ok(report)
    }

    fn mend_locked(
        &self,
        proof: &mut Proof,
        checked: &Checked,
        timeout: Option<Duration>,
        report: &mut RepairReport,
    ) -> Result<()> {
        let (mended, has_strangers) = self.mend_ids()?;
        report.rebuilt |= mended;
        self.leave_damaged_segments(checked)?;
        let mut log = self.open_log(checked)?;
        log.has_strangers = has_strangers;
        let wanted = self.wanted(&log)?;
        report.rebuilt |= self.mend_keymap(&log, &wanted)?;
        report.rebuilt |= self.mend_counts(&log, &wanted)?;
        report.rebuilt |= self.mend_lists(proof, &log, &wanted)?;
        for row in &log.missing {
            self.forget_row(row)?;
        }
        let has_losses =
            !log.is_complete() || !log.bad_values.is_empty() || !wanted.lost.is_empty();
        if has_losses {
            report.laid_to_rest = self.lay_to_rest(proof, &log, &wanted)?;
        }
        let mut by_segment: HashMap<u64, Vec<&Seen>> = HashMap::new();
        for (_, seen) in &wanted.entries {
            let id = log.row(seen.place).id;
            if log.hurt.contains(&id) {
                by_segment.entry(id).or_default().push(seen);
            }
        }
        let hurt = |row: &&Row| log.hurt.contains(&row.id);
        // While one has a row whose sync failed, none succeeds: those first, at once.
        let (unsynced, others): (Vec<&Row>, Vec<&Row>) = log
            .rows
            .iter()
            .filter(hurt)
            .partition(|row| row.is(state::BAD));
        let groups = std::iter::once(&unsynced[..]).chain(others.chunks(1));
        for group in groups.filter(|group| !group.is_empty()) {
            for row in group {
                let mut entries = by_segment.remove(&row.id).unwrap_or_default();
                entries.sort_unstable_by_key(|seen| seen.place);
                for seen in entries {
                    report.kept += u64::from(self.keep_entry(proof, &log, seen)?);
                }
                self.forget_row(row)?;
            }
            // A hole in the sequences that nobody marked as durable would end the log.
            self.settle_log(proof)?;
            for row in group {
                self.set_aside(Name::Segment(row.id), timeout, report)?;
            }
        }
        let is_left = |row: &&Row| log.hurt.contains(&row.id);
        for row in log.missing.iter().filter(is_left) {
            self.set_aside(Name::Segment(row.id), timeout, report)?;
        }
        self.settle_log(proof)?;
        let named = wanted.entries.iter().filter_map(|(_, seen)| seen.apart);
        self.set_strangers_aside(&named.collect(), timeout, report)?;
        report.lost.clone_from(&wanted.lost);
        if has_losses {
            // Whoever watches is told that not everything was told.
            self.append_kills(proof, &[])?;
        }
        if self.logged_settings().is_err() {
            self.write_settings(proof, &self.settings()?)?;
        }
        Ok(())
    }

    /// Rows whose id is wrong: the segment that words of the row lead into has no row, or two share one.
    /// Whether there were some, and whether a segment is left that has no row.
    fn mend_ids(&self) -> Result<(bool, bool)> {
        let rows = segments::rows(&self.files)?;
        let mut empty = HashSet::new();
        for row in &rows {
            let is_shared = rows.iter().filter(|other| other.id == row.id).count() > 1;
            if is_shared || self.dir.stat(Name::Segment(row.id))?.is_none() {
                empty.insert(row.slot);
            }
        }
        let mut strange = Vec::new();
        for name in self.dir.list()?.0 {
            if let Name::Segment(id) = name
                && rows
                    .iter()
                    .all(|row| row.id != id || empty.contains(&row.slot))
                && let Ok(Some(segment)) = Segment::open(&self.dir, &self.uuid, id, 1)
            {
                strange.push(Arc::new(segment));
            }
        }
        let used: HashSet<u16> = rows.iter().map(|row| row.slot).collect();
        let mut mended = false;
        let keymap = Keymap::of(&self.files);
        for index in 0..keymap.split().buckets() {
            if strange.is_empty() {
                break;
            }
            for (_, word) in keymap.reach(index)?.words {
                let Some(place) = bucket::place(word).filter(|_| is_whole(word)) else {
                    continue;
                };
                if used.contains(&place.slot) && !empty.contains(&place.slot) {
                    continue;
                }
                let mut home = None;
                for (n, segment) in strange.iter().enumerate() {
                    let seen = scan::look(&self.dir, segment, place.at, &self.hash)?;
                    if seen.is_some_and(|seen| seen.hash & KNOWN_MASK == known_hash(word, index)) {
                        home = Some(n);
                    }
                }
                if let Some(home) = home {
                    let id = strange.swap_remove(home).head.id;
                    self.files
                        .store(&self.dir, row_at(place.slot, row::ID), id)?;
                    empty.remove(&place.slot);
                    mended = true;
                }
            }
        }
        // Of two that share an id, the one no word leads into has none.
        for row in rows.iter().filter(|row| empty.contains(&row.slot)) {
            let id = segments::id_of(&self.files, row.slot)?;
            let now = segments::rows(&self.files)?;
            if now.iter().filter(|other| other.id == id).count() > 1 {
                self.forget_row(row)?;
                mended = true;
            }
        }
        let now = segments::rows(&self.files)?;
        let is_left = |segment: &Arc<Segment>| now.iter().all(|row| row.id != segment.head.id);
        Ok((mended, strange.iter().any(is_left)))
    }

    /// What is appended to from now on is undamaged.
    fn leave_damaged_segments(&self, checked: &Checked) -> Result<()> {
        for lane in [Lane::Log, Lane::Copies] {
            let Some(tail) = Place::from_bits(self.files.header.get(lane.tail())) else {
                continue;
            };
            let id = segments::id_of(&self.files, tail.slot)?;
            let is_bad = checked.bad.iter().any(|bad| match bad {
                Bad::Record { segment, .. } | Bad::Segment(segment) => *segment == id,
                Bad::Value { .. } => false,
            });
            if is_bad {
                self.rotate(lane, 0, 0, true)?;
            }
        }
        Ok(())
    }

    /// Which entries the store should hold. With the whole log at hand, that says it; else the keymap
    /// does, but for buckets that are damaged themselves.
    fn wanted(&self, log: &Log) -> Result<Wanted> {
        let keymap = Keymap::of(&self.files);
        let split = keymap.split();
        let mut winners: HashMap<u64, Vec<Seen>> = HashMap::new();
        for seen in &log.winners {
            if !log.bad_values.contains(&seen.place) {
                winners
                    .entry(split.bucket(seen.hash))
                    .or_default()
                    .push(*seen);
            }
        }
        let mut wanted = Wanted::default();
        for index in 0..split.buckets() {
            let reach = keymap.reach(index)?;
            let mut is_hurt = reach.is_broken;
            let mut entries: Vec<Seen> = Vec::new();
            let mut lost: Vec<u64> = Vec::new();
            for (_, word) in &reach.words {
                let place = bucket::place(*word).filter(|_| is_whole(*word));
                let held = match place {
                    Some(place) => self.held(log, place)?,
                    None => Held::Nothing,
                };
                let known = known_hash(*word, index);
                match held {
                    Held::Entry(seen)
                        if seen.hash & KNOWN_MASK == known && split.bucket(seen.hash) == index =>
                    {
                        if entries.iter().all(|other| other.place != seen.place) {
                            entries.push(seen);
                        }
                    }
                    Held::Lost(one) => {
                        lost.push(known);
                        wanted.lost.push(one);
                    }
                    Held::Entry(_) | Held::Nothing => is_hurt = true,
                }
            }
            let found = winners.remove(&index).unwrap_or_default();
            if log.is_complete() {
                // Its own damage aside, the keymap may lack an entry or have one too many.
                entries.retain(|seen| found.iter().any(|winner| winner.place == seen.place));
            }
            if is_hurt || log.is_complete() {
                for seen in found {
                    let has = entries.iter().any(|other| other.place == seen.place);
                    // An older version of an entry that is lost must not come back.
                    if has || lost.contains(&(seen.hash & KNOWN_MASK)) {
                        continue;
                    }
                    if seen.is_damaged {
                        lost.push(seen.hash & KNOWN_MASK);
                        wanted.lost.push(self.lost_record(log, seen.place)?);
                        continue;
                    }
                    entries.retain(|other| other.hash != seen.hash || other.seq > seen.seq);
                    if entries.iter().all(|other| other.hash != seen.hash) {
                        entries.push(seen);
                    }
                }
            }
            wanted
                .entries
                .extend(entries.into_iter().map(|seen| (index, seen)));
        }
        Ok(wanted)
    }

    /// What stands at a place of the table.
    fn held(&self, log: &Log, place: Place) -> Result<Held> {
        let Some(here) = log.place(place) else {
            let row = log.missing.iter().find(|row| row.slot == place.slot);
            return Ok(match row {
                Some(row) => Held::Lost(Lost {
                    key: None,
                    segment: row.id,
                    offset: place.at,
                    what: "its segment is missing".into(),
                }),
                None => Held::Nothing,
            });
        };
        if log.bad_values.contains(&here) {
            let mut lost = self.lost_record(log, here)?;
            lost.what = "the file of its value is missing or damaged".into();
            return Ok(Held::Lost(lost));
        }
        if log.bad.contains(&here) {
            return Ok(Held::Lost(self.lost_record(log, here)?));
        }
        if let Some(seen) = log.whole_at(here) {
            return Ok(Held::Entry(*seen));
        }
        // A walk may end before it, where two neighbours are damaged.
        let segment = log.segment(here);
        match scan::look(&self.dir, segment, here.at, &self.hash)? {
            Some(seen) if seen.kind == SeenKind::Set => Ok(Held::Entry(seen)),
            Some(_) => Ok(Held::Nothing),
            None if log.hurt.contains(&segment.head.id) => {
                Ok(Held::Lost(self.lost_record(log, here)?))
            }
            None => Ok(Held::Nothing),
        }
    }

    /// An entry whose record is at a place of the log, with its key if that can be told.
    fn lost_record(&self, log: &Log, place: Place) -> Result<Lost> {
        let segment = log.segment(place);
        let seen = log.damaged.get(&place).or_else(|| log.whole_at(place));
        let key = match seen {
            Some(seen) => scan::key_of_damaged(&self.dir, segment, seen, &self.hash)?,
            None => None,
        };
        let what = match &key {
            Some((which, _)) if *which != MAIN_SPACE => "an entry of the store's own is damaged",
            _ => "its record is damaged",
        };
        Ok(Lost {
            key: key
                .filter(|(which, _)| *which == MAIN_SPACE)
                .map(|(_, key)| key),
            segment: segment.head.id,
            offset: place.at,
            what: what.into(),
        })
    }

    /// Words and links, in place.
    fn mend_keymap(&self, log: &Log, wanted: &Wanted) -> Result<bool> {
        let keymap = Keymap::of(&self.files);
        let mut mended = false;
        let mut rest = &wanted.entries[..];
        let mut expected = Vec::new();
        for index in 0..keymap.split().buckets() {
            let len = rest.partition_point(|(bucket, _)| *bucket <= index);
            let (here, others) = rest.split_at(len);
            rest = others;
            expected.clear();
            let word = |(_, seen): &(u64, Seen)| bucket::word(seen.hash, log.in_table(seen.place));
            expected.extend(here.iter().map(word));
            let mut taken = 0;
            let done = keymap.mend(&self.dir, index, &expected, &mut taken);
            self.took(taken);
            mended |= done?;
        }
        Ok(mended)
    }

    /// Counts of the header and of the segments' rows.
    fn mend_counts(&self, log: &Log, wanted: &Wanted) -> Result<bool> {
        let mut mended = false;
        let mut counts = vec![(0_u64, 0_u64); SPACES_MAX];
        let mut live = vec![0_u64; log.rows.len()];
        let mut copies = 0;
        let mut places = HashSet::with_capacity(wanted.entries.len());
        for (_, seen) in &wanted.entries {
            let count = &mut counts[(seen.space as usize).min(SPACES_MAX - 1)];
            count.0 += 1;
            count.1 += seen.volume;
            live[usize::from(seen.place.slot) - 1] += seen.len;
            if seen.space == MAIN_SPACE && log.row(seen.place).is_copies() {
                copies += seen.volume;
            }
            places.insert(seen.place);
        }
        let mut dead = vec![u64::MAX; log.rows.len()];
        for seen in log
            .whole
            .iter()
            .filter(|seen| !places.contains(&seen.place))
        {
            let least = &mut dead[usize::from(seen.place.slot) - 1];
            *least = (*least).min(seen.seq);
        }
        let header = &self.files.header;
        let mut put = |at: u64, value: u64| {
            if header.get(at) != value {
                header.put(at, value);
                mended = true;
            }
        };
        put(layout::KEYMAP_USED_AT, wanted.entries.len() as u64);
        put(layout::COPY_VOLUME_AT, copies);
        for (which, (count, volume)) in counts.into_iter().enumerate() {
            put(Files::space_at(which as u32, space::COUNT).at, count);
            put(Files::space_at(which as u32, space::VOLUME).at, volume);
        }
        for (n, row) in log.rows.iter().enumerate() {
            let segment = &log.segments[n];
            let tails = [Lane::Log, Lane::Copies].map(|lane| {
                Place::from_bits(self.files.header.get(lane.tail())).map(|tail| tail.slot)
            });
            let mut store = |field: u64, value: u64| -> Result<()> {
                let at = row_at(row.slot, field);
                if self.files.load(&self.dir, at)? != value {
                    self.files.store(&self.dir, at, value)?;
                    mended = true;
                }
                Ok(())
            };
            if !row.is(state::EMPTY) {
                store(row::LIVE, live[n])?;
            } else if live[n] > 0 {
                store(row::LIVE, live[n])?;
                let rest = row.state & ((1 << 56) - 1);
                store(row::STATE, state::SEALED << 56 | rest)?;
            }
            // Smaller than needed is safe.
            if dead[n] != u64::MAX && (row.dead_seq == 0 || row.dead_seq > dead[n]) {
                store(row::DEAD_SEQ, dead[n])?;
            }
            if tails.contains(&Some(row.slot)) {
                continue;
            }
            let (lines, end) = log.scan.walked[n];
            if row.lines != 0 && row.lines != lines {
                store(row::LINES, lines)?;
            }
            let is_empty = row.is(state::EMPTY) && live[n] == 0;
            let now = match row.is(state::BAD) || is_empty {
                true => row.state >> 56,
                false => state::SEALED,
            };
            let copies = if segment.head.copies {
                layout::COPIES
            } else {
                0
            };
            let front = match row.state & layout::FRONT_MASK {
                0 => 0,
                front if front * 4096 >= end && front * 4096 <= segment.head.size => front,
                _ => self.front_of(segment)?,
            };
            store(row::STATE, now << 56 | copies | front)?;
        }
        Ok(mended)
    }

    /// Order lists, and the lists of tags and expiry: those that are not right are written anew.
    fn mend_lists(&self, proof: &mut Proof, log: &Log, wanted: &Wanted) -> Result<bool> {
        let mut tally = Tally::default();
        let mut expiring = Vec::new();
        let mut entries: Vec<&Seen> = wanted.entries.iter().map(|(_, seen)| seen).collect();
        entries.sort_unstable_by_key(|seen| seen.place);
        let mut options = Vec::new();
        for seen in entries {
            let segment = log.segment(seen.place);
            let head = segment.read_options(&self.dir, seen.place.at, &mut options)?;
            let Some(head) = head else { continue };
            let tags: Vec<u32> = tags_of(&head, &options).collect();
            let slot = log.row(seen.place).slot;
            tally.entry(&head, seen.hash & KNOWN_MASK, slot, &tags);
            if let Some(expires_ms) = head.options.expires_ms {
                expiring.push((expires_ms, seen.hash, head.seq));
            }
        }
        tally.sort();
        let mut mended = false;
        for which in 0..SPACES_MAX as u32 {
            let mut found = CheckReport::default();
            let compared = tally.compare_cells(self, which, &mut found);
            if !is_right(compared, &found)? {
                self.rewrite_order(proof, which, &tally.cells(which))?;
                mended = true;
            }
        }
        let mut found = CheckReport::default();
        let compared = tally.compare_lists(self, &mut found);
        if !is_right(compared, &found)? {
            self.rewrite_lists(proof, &tally.lists_of_tags(), &expiring)?;
            mended = true;
        }
        Ok(mended)
    }

    /// Kills what a rebuild without the damaged segments would bring back: older versions of what is
    /// lost, and what only a damaged or missing segment says was removed. How many.
    fn lay_to_rest(&self, proof: &mut Proof, log: &Log, wanted: &Wanted) -> Result<u64> {
        let mut rest = Vec::new();
        for row in log.rows.iter().filter(|row| !log.hurt.contains(&row.id)) {
            let slot = rest.len() as u16 + 1;
            rest.extend(Segment::open(&self.dir, &self.uuid, row.id, slot)?.map(Arc::new));
        }
        let scan = scan::scan(&self.dir, &rest, &self.hash, Some(self.committed()))?;
        let winners = rebuild::winners(&self.dir, &rest, &scan)?;
        let wanted: HashSet<u64> = wanted.entries.iter().map(|(_, seen)| seen.hash).collect();
        let pairs: Vec<(u64, u64)> = winners
            .iter()
            .filter(|seen| !wanted.contains(&seen.hash))
            .map(|seen| (seen.hash, seen.seq))
            .collect();
        for pairs in pairs.chunks(PAIRS_AT_ONCE) {
            self.append_kills(proof, pairs)?;
        }
        Ok(pairs.len() as u64)
    }

    /// A kill list of versions no word leads to.
    pub(crate) fn append_kills(&self, proof: &mut Proof, pairs: &[(u64, u64)]) -> Result<()> {
        let value: Vec<u8> = pairs
            .iter()
            .flat_map(|(hash, seq)| [hash.to_le_bytes(), seq.to_le_bytes()])
            .flatten()
            .collect();
        let draft = Draft {
            kind: Kind::Kill,
            value_kind: Cause::Repaired as u8,
            value: &value,
            ..self.blank_draft()
        };
        let len = draft.len(false) as u64;
        let room = self.room(proof, Lane::Log, len, 1, true)?;
        self.append_note(proof, &room, &draft, |_, _| Ok(()))?;
        self.logged(len);
        Ok(())
    }

    /// Copies an entry out of a segment that goes. Whether it was there.
    fn keep_entry(&self, proof: &mut Proof, log: &Log, seen: &Seen) -> Result<bool> {
        let mut bytes = Vec::new();
        let segment = log.segment(seen.place);
        let Read::Whole(head) = segment.read(&self.dir, seen.place.at, &mut bytes)? else {
            // It was whole a moment ago: a medium that fails.
            return Err(self.damaged_record(segment, seen.place.at, "a record is damaged"));
        };
        let place = log.in_table(seen.place);
        let word = bucket::word(seen.hash, place);
        let keymap = Keymap::of(&self.files);
        let mut address = None;
        keymap.words(keymap.split().bucket(seen.hash), |at, found| {
            if found == word {
                address = Some(at);
            }
        })?;
        let Some(address) = address else {
            return Ok(false);
        };
        self.keep(proof, &head, place, &bytes, address)?;
        Ok(true)
    }

    /// All so far is durable, and a durable mark says so.
    fn settle_log(&self, proof: &mut Proof) -> Result<()> {
        let durable = self.sync_log()?;
        self.append_mark(proof, durable)?;
        self.sync_log()?;
        Ok(())
    }

    /// A row whose segment is needed no more is free.
    fn forget_row(&self, row: &Row) -> Result<()> {
        let mut ledger = Ledger::new(&self.files);
        self.clear_row(&mut ledger, row)?;
        ledger.journal.commit(&self.files, &self.dir)?;
        self.files.header.add(layout::GONE_AT, 1);
        self.notice_gone()
    }
}

/// Whether a comparison found nothing wrong.
fn is_right(compared: Result<()>, found: &CheckReport) -> Result<bool> {
    match compared {
        Ok(()) => Ok(found.is_sound()),
        Err(Error::Corrupt { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}
