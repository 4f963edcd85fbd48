//! Verifying a store: every record, every word, every cell, every count against each other.
//!
//! Reads without the lock and reports; mends nothing. Words are gathered first and sorted by place, so
//! that each segment is read once, from its front to its end. What changes while it looks is not called
//! damage: a word that leads astray is looked at again, and counts are compared (`engine/audit.rs`) only
//! when nobody had the writer lock meanwhile.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::engine::audit::Tally;
use crate::engine::findings::{CheckReport, Depth, FINDINGS_MAX, FindingKind};
use crate::engine::store::Store;
use crate::engine::walk::{Next, Walk};
use crate::error::{Error, Result};
use crate::format::bucket::{self, BUCKET_LEN, KNOWN_MASK, Place, is_whole, known_hash};
use crate::format::header::{self as layout, Address, Shared, state};
use crate::format::name::Name;
use crate::format::record::{Apart, Head, Kind, tags_of};
use crate::format::segment::Summary;
use crate::part::keymap::Keymap;
use crate::part::segment::{Read, Segment};
use crate::part::segments::{self, Row};

/// Bytes verified before the watch is told again.
const WATCH_EVERY_BYTES: u64 = 4 << 20;

/// Who is told (bytes done, bytes in all), and may end the check.
pub(crate) type Watch<'w> = &'w mut dyn FnMut(u64, u64) -> ControlFlow<()>;

/// A place that cannot be kept where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Bad {
    /// A record, of the segment with this id, at this byte.
    Record { segment: u64, at: u64 },
    /// Something of a segment beside its records.
    Segment(u64),
    /// The value file of the record at this byte of this segment.
    Value { segment: u64, at: u64, file: u64 },
}

/// What a check found, for who repairs.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    pub(crate) report: CheckReport,
    pub(crate) bad: HashSet<Bad>,
}

/// A word of the keymap, and the bucket it is of.
#[derive(Clone, Copy, Debug)]
struct Led {
    word: u64,
    bucket: u32,
}

impl Led {
    fn place(&self) -> Place {
        // Gathered are only whole words that name one.
        bucket::place(self.word).unwrap_or(Place { slot: 0, at: 0 })
    }
}

struct Check<'s, 'w> {
    store: &'s Store,
    depth: Depth,
    watch: Watch<'w>,
    told: u64,
    total: u64,
    done: Checked,
    tally: Tally,
    buffer: Vec<u8>,
}

/// Ended by the watch, or by an error.
enum Stop {
    Watch,
    Error(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Error(error)
    }
}

impl Store {
    /// Verifies the store. Takes 16 bytes of memory a word, and some 40 an entry, while it does.
    pub(crate) fn check(&self, depth: Depth, watch: Watch<'_>) -> Result<Checked> {
        let mut check = Check {
            store: self,
            depth,
            watch,
            told: 0,
            total: self.disk_bytes(),
            done: Checked::default(),
            tally: Tally::default(),
            buffer: Vec::new(),
        };
        match check.run() {
            Ok(()) => check.done.report.is_complete = true,
            Err(Stop::Watch) => {}
            Err(Stop::Error(error)) => return Err(error),
        }
        Ok(check.done)
    }

    /// How often the writer lock was taken, if nobody has it and nobody left anything half done.
    fn stillness(&self) -> Option<u64> {
        let header = &self.files.header;
        let takes = header.get(layout::TAKES_AT);
        let busy = [
            layout::OWNER_AT,
            layout::JOURNAL_AT,
            layout::PENDING_AT,
            layout::SPLITTING_AT,
            layout::MAKING_AT,
            layout::UNMAKING_AT,
        ];
        busy.iter().all(|&at| header.get(at) == 0).then_some(takes)
    }
}

impl Check<'_, '_> {
    fn run(&mut self) -> Result<(), Stop> {
        let before = self.store.stillness();
        let names = self.store.dir.list()?.0;
        let words = self.gather_words()?;
        let rows = segments::rows(&self.store.files)?;
        self.total = self.total.max(1);
        for (n, row) in rows.iter().enumerate() {
            let from = words.partition_point(|led| led.place().slot < row.slot);
            let len = words[from..].partition_point(|led| led.place().slot == row.slot);
            self.check_row(&rows, n, &words[from..from + len])?;
            self.tell(true)?;
        }
        // Words of rows that are free by now, or always were.
        let known: HashSet<u16> = rows.iter().map(|row| row.slot).collect();
        for led in words
            .iter()
            .filter(|led| !known.contains(&led.place().slot))
        {
            self.check_again(*led)?;
        }
        if before.is_some() && self.store.stillness() == before {
            self.done.report.has_counted = self.done.report.findings.is_empty();
            if self.done.report.has_counted {
                // Damage elsewhere explains a difference.
                self.tally.compare(self.store, &mut self.done.report)?;
            }
            self.check_names(&names)?;
            if self.store.stillness() != before {
                // Somebody began meanwhile: what was not told before may be no damage.
                self.done.report.has_counted = false;
                self.done.report.findings.retain(|finding| {
                    !matches!(
                        finding.kind,
                        FindingKind::WrongCount
                            | FindingKind::OrderOutOfOrder
                            | FindingKind::DamagedList
                            | FindingKind::UnknownFile
                    )
                });
            }
        }
        (self.watch)(self.total, self.total)
            .is_continue()
            .then_some(())
            .ok_or(Stop::Watch)
    }

    fn tell(&mut self, now: bool) -> Result<(), Stop> {
        let bytes = self.done.report.bytes;
        if !now && bytes - self.told < WATCH_EVERY_BYTES {
            return Ok(());
        }
        self.told = bytes;
        match (self.watch)(bytes.min(self.total), self.total) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Stop::Watch),
        }
    }

    /// Every whole word, by the place it leads to; the others are told.
    fn gather_words(&mut self) -> Result<Vec<Led>> {
        let store = self.store;
        let keymap = Keymap::of(&store.files);
        let report = &mut self.done.report;
        let in_file = store.files.keymap.len()? / BUCKET_LEN;
        if keymap.split().buckets() > in_file {
            let what = "the growth word names buckets past the end of this file";
            report.add(FindingKind::DamagedWord, store.files.keymap.path(), 0, what);
        }
        let over_used = store.files.header.number(layout::OVER_USED_AT) * BUCKET_LEN;
        let mut words = Vec::new();
        let mut index = 0;
        while index < keymap.split().buckets().min(in_file) && report.findings.len() < FINDINGS_MAX
        {
            let mut odd = Vec::new();
            let visited = keymap.words(index, |address, word| {
                self.tally.words += 1;
                if address.file == Shared::Overflow && address.at >= over_used {
                    self.tally.beyond_overflow += 1;
                }
                if is_whole(word) && bucket::place(word).is_some() {
                    let bucket = index as u32;
                    words.push(Led { word, bucket });
                } else {
                    odd.push((address, word));
                }
            });
            if let Err(error) = visited {
                report.add_error(FindingKind::DamagedWord, error)?;
            }
            for (address, word) in odd {
                let what = if is_whole(word) {
                    "a word of the keymap names no place"
                } else {
                    "a word of the keymap is damaged"
                };
                let path = store.region_path(address);
                report.add(FindingKind::DamagedWord, path, address.at, what);
            }
            index += 1;
        }
        words.sort_unstable_by_key(|led| led.place());
        Ok(words)
    }

    /// One segment, and the words that lead into it.
    fn check_row(&mut self, rows: &[Row], n: usize, words: &[Led]) -> Result<(), Stop> {
        let (store, row) = (self.store, &rows[n]);
        let is_row = || matches!(segments::id_of(&store.files, row.slot), Ok(id) if id == row.id);
        match store.segments.must_get(&store.files, &store.dir, row.slot) {
            Ok(segment) if segment.head.id == row.id => {
                // What a later life of the log did not take over.
                let lives = rows[n + 1..].iter().filter_map(|newer| {
                    let newer = store.segments.get(&store.files, &store.dir, newer.slot);
                    newer.ok().flatten().map(|newer| newer.head)
                });
                let until = lives
                    .filter(|newer| newer.life > segment.head.life)
                    .map(|newer| newer.life_seq)
                    .min()
                    .unwrap_or(u64::MAX);
                self.check_segment(&segment, row, until, words)
            }
            Err(error @ Error::Corrupt { .. }) if is_row() => {
                self.done.bad.insert(Bad::Segment(row.id));
                let kind = match store.dir.stat(Name::Segment(row.id))? {
                    Some(_) => FindingKind::DamagedSegment,
                    None => FindingKind::MissingSegment,
                };
                let path = store.dir.path_of(Name::Segment(row.id));
                let Error::Corrupt { what, offset, .. } = error else {
                    return Ok(());
                };
                let what = format!("{what}; {} entries were in it", words.len());
                self.done.report.add(kind, path, offset, what);
                Ok(())
            }
            Err(error @ Error::Io { .. }) => Err(error.into()),
            // It went, or another took its row.
            _ => Ok(words.iter().try_for_each(|led| self.check_again(*led))?),
        }
    }

    /// `until`: records from this sequence on were cut off before a newer segment began.
    fn check_segment(
        &mut self,
        segment: &Arc<Segment>,
        row: &Row,
        until: u64,
        words: &[Led],
    ) -> Result<(), Stop> {
        let store = self.store;
        let path = store.dir.path_of(segment.name());
        let id = segment.head.id;
        if let Some(size) = segment.cut_from {
            self.done.bad.insert(Bad::Segment(id));
            let what = format!("this segment is cut short: it should have {size} bytes");
            let kind = FindingKind::CutSegment;
            self.done
                .report
                .add(kind, path.clone(), segment.head.size, what);
        }
        if row.is(state::BAD) {
            self.done.bad.insert(Bad::Segment(id));
            let what =
                "a sync of this segment failed: what was not durable may be lost on the disk";
            let kind = FindingKind::FailedSync;
            self.done.report.add(kind, path.clone(), 0, what);
        }
        let end = store.end_of(segment.slot, segment.head.size);
        let mut walk = Walk::new(segment, end);
        let (mut next_word, mut lines, mut dead_seq) = (0, 0, u64::MAX);
        let live_before = self.tally.live_bytes;
        while let Some(next) = walk.next(&store.dir)? {
            let (at, summary) = match &next {
                Next::Record { head, .. } if head.seq >= until => break,
                // Lines of a batch whose writer died before its records were there.
                Next::Damage {
                    summary: Some(summary),
                    ..
                } if summary.seq >= until => break,
                Next::Record { at, summary, .. } | Next::Damage { at, summary } => (*at, *summary),
            };
            lines += 1;
            // Words that lead to no record's beginning.
            while words.get(next_word).is_some_and(|led| led.place().at < at) {
                self.check_again(words[next_word])?;
                next_word += 1;
            }
            let led = words.get(next_word).filter(|led| led.place().at == at);
            next_word += usize::from(led.is_some());
            match next {
                Next::Damage { at, summary } => {
                    let which = summary.map_or(String::new(), |summary| {
                        format!(" (sequence {})", summary.seq)
                    });
                    let what = format!("the header of a record{which} is damaged");
                    let kind = FindingKind::DamagedRecord;
                    self.done.report.add(kind, path.clone(), at, what);
                    self.done.bad.insert(Bad::Record { segment: id, at });
                }
                Next::Record { head, .. } => {
                    self.done.report.records += 1;
                    self.done.report.bytes += head.len() as u64;
                    if segment.cut_from.is_none()
                        && summary.is_none_or(|summary| summary.seq != head.seq)
                    {
                        self.done.bad.insert(Bad::Segment(id));
                        let what = "the footer's line for this record is damaged";
                        let kind = FindingKind::DamagedFooter;
                        self.done.report.add(kind, path.clone(), at, what);
                    }
                    let is_sound = self.check_record(segment, (at, &head), summary)?;
                    match led {
                        Some(led) => {
                            let tags = tags_of(&head, walk.options()).collect();
                            self.check_led(*led, &head, tags, summary, is_sound)?;
                        }
                        None if head.kind == Kind::Set => dead_seq = dead_seq.min(head.seq),
                        None => {}
                    }
                    self.tell(false)?;
                }
            }
        }
        for led in &words[next_word.min(words.len())..] {
            self.check_again(*led)?;
        }
        let tail = Place::from_bits(store.files.header.get(layout::TAIL_AT));
        let is_active = tail.is_some_and(|tail| tail.slot == segment.slot && tail.at == end);
        if is_active && walk.at() != end && until == u64::MAX {
            self.done.bad.insert(Bad::Segment(id));
            let what = "the log ends here, before its tail";
            let kind = FindingKind::DamagedRecord;
            self.done.report.add(kind, path, walk.at(), what);
        }
        let live = self.tally.live_bytes - live_before;
        self.tally
            .row(row, live, lines, dead_seq, row.is(state::EMPTY));
        Ok(())
    }

    /// Key and value of a record whose header is whole.
    fn check_record(
        &mut self,
        segment: &Segment,
        (at, head): (u64, &Head),
        summary: Option<Summary>,
    ) -> Result<bool> {
        if self.depth == Depth::Quick {
            return Ok(true);
        }
        let store = self.store;
        let read = segment.read(&store.dir, at, &mut self.buffer)?;
        let names_its_key = |buffer: &[u8]| {
            let key = &buffer[head.key_at..][..head.key_len];
            let hash = store.hash.of(head.options.space, key);
            summary.is_none_or(|summary| {
                !matches!(head.kind, Kind::Set | Kind::Delete)
                    || summary.hash == hash & crate::format::segment::SUMMARY_HASH_MASK
            })
        };
        let (kind, what) = match read {
            Read::Damaged(_) => (
                FindingKind::DamagedRecord,
                "the key or value of a record is damaged",
            ),
            Read::Whole(_) if names_its_key(&self.buffer) => return Ok(true),
            Read::Whole(_) => (
                FindingKind::DamagedFooter,
                "the footer's line for this record names another key",
            ),
        };
        let id = segment.head.id;
        let path = store.dir.path_of(segment.name());
        self.done.report.add(kind, path, at, what);
        let is_whole = kind == FindingKind::DamagedFooter;
        self.done.bad.insert(if is_whole {
            Bad::Segment(id)
        } else {
            Bad::Record { segment: id, at }
        });
        Ok(is_whole)
    }

    /// An entry: the word and the record it leads to.
    fn check_led(
        &mut self,
        led: Led,
        head: &Head,
        tags: Vec<u32>,
        summary: Option<Summary>,
        is_sound: bool,
    ) -> Result<()> {
        let known = known_hash(led.word, u64::from(led.bucket));
        // Without its line the key itself must tell.
        let is_hers = summary.is_some_and(|summary| summary.hash & KNOWN_MASK == known);
        if !is_hers || head.kind != Kind::Set {
            if is_sound {
                self.check_again(led)?;
            }
            if head.kind != Kind::Set {
                return Ok(());
            }
        }
        self.done.report.entries += u64::from(head.options.space == 0);
        self.tally.entry(head, known, led.place().slot, &tags);
        let Some(apart) = head.options.apart else {
            return Ok(());
        };
        self.tally.files.insert(apart.id);
        if let Some((kind, what)) = self.check_value(apart)?
            && self.find_again(led)?.is_some()
        {
            let path = self.store.dir.path_of(Name::Value(apart.id));
            let place = led.place();
            let segment = segments::id_of(&self.store.files, place.slot)?;
            self.done.report.add(kind, path, 0, what);
            self.done.bad.insert(Bad::Value {
                segment,
                at: place.at,
                file: apart.id,
            });
        }
        Ok(())
    }

    /// What is wrong with a value's file; `None`: nothing.
    fn check_value(&mut self, apart: Apart) -> Result<Option<(FindingKind, &'static str)>> {
        let dir = &self.store.dir;
        let what = match dir.stat(Name::Value(apart.id))? {
            None => {
                let what = "a large value's file is missing";
                return Ok(Some((FindingKind::MissingValueFile, what)));
            }
            Some(stat) if stat.len != apart.len => "a large value's file has another length",
            Some(_) if self.depth == Depth::Quick => return Ok(None),
            Some(_) => {
                self.done.report.bytes += apart.len;
                match crate::engine::scan::value_is_whole(dir, Some(apart)) {
                    Ok(true) => return Ok(None),
                    Ok(false) | Err(Error::Corrupt { .. }) => "a large value's file is damaged",
                    Err(error) => return Err(error),
                }
            }
        };
        Ok(Some((FindingKind::DamagedValueFile, what)))
    }

    /// A word that did not lead to its entry's record: it has changed, or it is wrong.
    fn check_again(&mut self, led: Led) -> Result<(), Error> {
        let Some((index, address)) = self.find_again(led)? else {
            return Ok(());
        };
        if let Err(error) = self.check_word(index, address, led.word) {
            // An entry whose record is damaged was told with the record.
            let kind = match &error {
                Error::Corrupt { path, .. } if path.extension().is_some_and(|end| end == "seg") => {
                    FindingKind::DamagedRecord
                }
                _ => FindingKind::WrongPlace,
            };
            let is_told = self.done.report.findings.iter().any(|finding| {
                matches!(&error, Error::Corrupt { path, offset, .. }
                    if finding.path == *path && finding.offset == *offset)
            });
            if is_told {
                return Ok(());
            }
            self.done.report.add_error(kind, error)?;
        }
        Ok(())
    }

    /// Where a word stands now; `None`: it has changed.
    fn find_again(&self, led: Led) -> Result<Option<(u64, Address)>> {
        let keymap = Keymap::of(&self.store.files);
        let split = keymap.split();
        let mut found = None;
        // A split may have moved it.
        let home = split.bucket(known_hash(led.word, u64::from(led.bucket)));
        for index in [u64::from(led.bucket), home] {
            let visited = keymap.words(index, |address, word| {
                if word == led.word && found.is_none() {
                    found = Some((index, address));
                }
            });
            match visited {
                Ok(()) | Err(Error::Corrupt { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    fn check_word(&mut self, index: u64, address: Address, word: u64) -> Result<()> {
        let store = self.store;
        let wrong = |what: &str| Err(Error::corrupt(store.region_path(address), address.at, what));
        let changed = || {
            store
                .files
                .load(&store.dir, address)
                .is_ok_and(|now| now != word)
        };
        let Some(place) = bucket::place(word) else {
            return wrong("a word of the keymap names no place");
        };
        let segment = match store
            .segments
            .must_get(&store.files, &store.dir, place.slot)
        {
            Ok(segment) => segment,
            Err(Error::Corrupt { .. }) if changed() => return Ok(()),
            Err(Error::Corrupt { .. }) => {
                return wrong("a word of the keymap leads to a segment that is not there");
            }
            Err(error) => return Err(error),
        };
        let read = segment.read(&store.dir, place.at, &mut self.buffer)?;
        let Read::Whole(head) = read else {
            if changed() {
                return Ok(());
            }
            return Err(store.damaged_record(&segment, place.at, "an entry's record is damaged"));
        };
        let key = &self.buffer[head.key_at..][..head.key_len];
        let hash = store.hash.of(head.options.space, key);
        let split = Keymap::of(&store.files).split();
        let fits = hash & KNOWN_MASK == known_hash(word, index) && split.bucket(hash) == index;
        if !fits && !changed() && head.kind == Kind::Set {
            return wrong("a word of the keymap leads to another key's record");
        }
        Ok(())
    }

    /// Files with a store's names that the store does not know.
    fn check_names(&mut self, names: &[Name]) -> Result<()> {
        let store = self.store;
        let mut known = HashSet::new();
        known.extend(segments::rows(&store.files)?.iter().map(|row| row.id));
        for &name in names {
            let what = match name {
                Name::Segment(id) if !known.contains(&id) => {
                    "a segment that is damaged, or of another store: its records are not used"
                }
                Name::Value(id)
                    if !self.tally.files.contains(&id)
                        && store.stream_of(id).is_none()
                        && !store.is_grave(id) =>
                {
                    "a large value's file that no entry names"
                }
                _ => continue,
            };
            if store.dir.stat(name)?.is_some() {
                let path = store.dir.path_of(name);
                self.done
                    .report
                    .add(FindingKind::UnknownFile, path, 0, what);
            }
        }
        Ok(())
    }
}

impl Store {
    /// The file that holds a word of the keymap.
    fn region_path(&self, address: Address) -> &std::path::Path {
        if address.file == Shared::Keymap {
            self.files.keymap.path()
        } else {
            self.files.over.path()
        }
    }
}
