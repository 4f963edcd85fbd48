//! Verifying a store: every record, every word, every cell, every count against each other.
//!
//! Reads without the lock and reports; mends nothing. What changes while it looks is not called
//! damage: counts are compared only when nothing was committed meanwhile.

use std::collections::HashSet;
use std::path::PathBuf;

use serde::Serialize;

use crate::engine::store::Store;
use crate::engine::walk::{Next, Walk};
use crate::error::{Error, Result};
use crate::format::bucket::{self, BUCKET_LEN, KNOWN_MASK, Place, is_whole, known_hash};
use crate::format::header::{self as layout, Address, Shared, space};
use crate::format::name::Name;
use crate::format::record::{Head, Kind};
use crate::limits::SPACES_MAX;
use crate::part::keymap::Keymap;
use crate::part::order;
use crate::part::segment::{Read, Segment};
use crate::part::segments;

/// More findings than this tell nothing more.
const FINDINGS_MAX: usize = 1_000;

/// How many cells before its turn an entry's bucket is fetched, and then its record.
const BUCKETS_AHEAD: u64 = 12;
const RECORDS_AHEAD: u64 = 6;

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// The file.
    pub path: PathBuf,
    /// The byte in it.
    pub offset: u64,
    /// What is wrong, as a sentence.
    pub what: String,
}

/// What a check saw.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CheckReport {
    /// Everything wrong; empty when the store is sound.
    pub findings: Vec<Finding>,
    /// Records verified.
    pub records: u64,
    /// Bytes of records and value files verified.
    pub bytes: u64,
    /// Entries the keymap leads to.
    pub entries: u64,
}

impl CheckReport {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }

    fn add(&mut self, path: PathBuf, offset: u64, what: impl Into<String>) {
        if self.findings.len() >= FINDINGS_MAX {
            return;
        }
        self.findings.push(Finding {
            path,
            offset,
            what: what.into(),
        });
    }

    fn add_error(&mut self, error: Error) -> Result<()> {
        match error {
            Error::Corrupt { path, offset, what } => {
                self.add(path, offset, what);
                Ok(())
            }
            other => Err(other),
        }
    }
}

impl Store {
    /// Verifies everything. `watch` is told (bytes done, bytes in all).
    pub(crate) fn check(&self, watch: &mut dyn FnMut(u64, u64)) -> Result<CheckReport> {
        let mut report = CheckReport::default();
        let before = self.committed();
        let total = self.disk_bytes();
        let names = self.dir.list()?.0;
        let rows = segments::rows(&self.files)?;
        for (n, row) in rows.iter().enumerate() {
            match self.segments.must_get(&self.files, &self.dir, row.slot) {
                Ok(segment) => {
                    // What a later life of the log did not take over.
                    let lives = rows[n + 1..].iter().filter_map(|newer| {
                        let newer = self.segments.get(&self.files, &self.dir, newer.slot);
                        newer.ok().flatten().map(|newer| newer.head)
                    });
                    let until = lives
                        .filter(|newer| newer.life > segment.head.life)
                        .map(|newer| newer.life_seq)
                        .min()
                        .unwrap_or(u64::MAX);
                    self.check_segment(&segment, until, &mut report)?;
                }
                Err(_) if !matches!(segments::id_of(&self.files, row.slot), Ok(id) if id == row.id) =>
                    {}
                Err(error) => report.add_error(error)?,
            }
            watch(report.bytes.min(total), total);
        }
        let mut counts = [0_u64; SPACES_MAX];
        let mut files = HashSet::new();
        self.check_words(&mut report, &mut counts, &mut files)?;
        let mut cells = [0_u64; SPACES_MAX];
        self.check_cells(&mut report, &mut cells)?;
        if self.committed() == before {
            self.check_counts(&mut report, &counts, &cells);
            self.check_names(&mut report, &names, &files)?;
        }
        watch(total, total);
        Ok(report)
    }

    /// `until`: records from this sequence on were cut off before a newer segment began.
    fn check_segment(
        &self,
        segment: &std::sync::Arc<Segment>,
        until: u64,
        report: &mut CheckReport,
    ) -> Result<()> {
        let path = self.dir.path_of(segment.name());
        if let Some(size) = segment.cut_from {
            report.add(
                path.clone(),
                segment.head.size,
                format!("this segment is cut short: it should have {size} bytes"),
            );
        }
        let end = self.end_of(segment.slot, segment.head.size);
        let mut walk = Walk::new(segment, end);
        let mut buffer = Vec::new();
        while let Some(next) = walk.next(&self.dir)? {
            match next {
                Next::Damage { at, summary } => {
                    let which = summary.map_or(String::new(), |summary| {
                        format!(" (sequence {})", summary.seq)
                    });
                    report.add(
                        path.clone(),
                        at,
                        format!("the header of a record{which} is damaged"),
                    );
                }
                Next::Record { head, .. } if head.seq >= until => break,
                Next::Record {
                    at, head, summary, ..
                } => {
                    report.records += 1;
                    report.bytes += head.len() as u64;
                    if !matches!(segment.read(&self.dir, at, &mut buffer)?, Read::Whole(_)) {
                        report.add(path.clone(), at, "the key or value of a record is damaged");
                    }
                    if segment.cut_from.is_none()
                        && summary.is_none_or(|summary| summary.seq != head.seq)
                    {
                        report.add(
                            path.clone(),
                            at,
                            "the footer's line for this record is damaged",
                        );
                    }
                }
            }
        }
        let tail = Place::from_bits(self.files.header.get(layout::TAIL_AT));
        let is_active = tail.is_some_and(|tail| tail.slot == segment.slot && tail.at == end);
        if is_active && walk.at() != end {
            report.add(path, walk.at(), "the log ends here, before its tail");
        }
        Ok(())
    }

    fn check_words(
        &self,
        report: &mut CheckReport,
        counts: &mut [u64; SPACES_MAX],
        files: &mut HashSet<u64>,
    ) -> Result<()> {
        let keymap = Keymap::of(&self.files);
        let mut buffer = Vec::new();
        let mut index = 0;
        let in_file = self.files.keymap.len()? / BUCKET_LEN;
        if keymap.split().buckets() > in_file {
            let what = "the growth word names buckets past the end of this file";
            report.add(self.files.keymap.path().into(), 0, what);
        }
        // A bucket ahead, so that its records are on their way.
        let gather = |index, report: &mut CheckReport| -> Result<Vec<(Address, u64)>> {
            let mut words = Vec::new();
            if let Err(error) = keymap.words(index, |address, word| words.push((address, word))) {
                report.add_error(error)?;
            }
            for place in words.iter().filter_map(|&(_, word)| bucket::place(word)) {
                self.prefetch_place(place);
            }
            Ok(words)
        };
        let ends = |index| index >= keymap.split().buckets().min(in_file);
        let mut ahead = match ends(0) {
            true => Vec::new(),
            false => gather(0, report)?,
        };
        while !ends(index) && report.findings.len() < FINDINGS_MAX {
            let words = match ends(index + 1) {
                true => std::mem::take(&mut ahead),
                false => std::mem::replace(&mut ahead, gather(index + 1, report)?),
            };
            for (address, word) in words {
                match self.check_word(index, address, word, &mut buffer) {
                    Ok(Some(head)) => {
                        counts[(head.options.space as usize).min(SPACES_MAX - 1)] += 1;
                        report.entries += u64::from(head.options.space == 0);
                        if let Some(apart) = head.options.apart {
                            report.bytes += apart.len;
                            files.insert(apart.id);
                        }
                    }
                    Ok(None) => {}
                    Err(error) => report.add_error(error)?,
                }
            }
            index += 1;
        }
        Ok(())
    }

    fn check_word(
        &self,
        index: u64,
        address: Address,
        word: u64,
        buffer: &mut Vec<u8>,
    ) -> Result<Option<Head>> {
        let region = if address.file == Shared::Keymap {
            &self.files.keymap
        } else {
            &self.files.over
        };
        let wrong = |what: &str| Err(Error::corrupt(region.path(), address.at, what));
        if !is_whole(word) {
            return wrong("a word of the keymap is damaged");
        }
        let Some(place) = bucket::place(word) else {
            return wrong("a word of the keymap names no place");
        };
        let segment = self.segments.must_get(&self.files, &self.dir, place.slot)?;
        let read = segment.read(&self.dir, place.at, buffer)?;
        let changed = || {
            self.files
                .load(&self.dir, address)
                .is_ok_and(|now| now != word)
        };
        let Read::Whole(head) = read else {
            if changed() {
                return Ok(None);
            }
            return Err(self.damaged_record(&segment, place.at, "an entry's record is damaged"));
        };
        let key = &buffer[head.key_at..][..head.key_len];
        let hash = self.hash.of(head.options.space, key);
        let split = Keymap::of(&self.files).split();
        let fits = head.kind == Kind::Set
            && hash & KNOWN_MASK == known_hash(word, index)
            && split.bucket(hash) == index;
        if !fits && !changed() && head.kind == Kind::Set {
            return wrong("a word of the keymap leads to another key's record");
        }
        if let Some(apart) = head.options.apart {
            let is_whole = crate::engine::scan::value_is_whole(&self.dir, Some(apart))?;
            if !is_whole && !changed() {
                let path = self.dir.path_of(Store::value_file(apart.id));
                return Err(Error::corrupt(
                    path,
                    0,
                    "a large value's file is missing or damaged",
                ));
            }
        }
        Ok(fits.then_some(head))
    }

    fn check_cells(&self, report: &mut CheckReport, cells: &mut [u64; SPACES_MAX]) -> Result<()> {
        let mut buffer = Vec::new();
        for which in 0..SPACES_MAX as u32 {
            let mut last = None;
            let keymap = Keymap::of(&self.files);
            for index in 0..self.files.space(which, space::CELLS) {
                let ahead = |n| order::cell(&self.files, &self.dir, which, index + n);
                if let Ok(Some(cell)) = ahead(BUCKETS_AHEAD) {
                    keymap.prefetch(cell.hash);
                }
                if let Ok(Some(cell)) = ahead(RECORDS_AHEAD) {
                    self.prefetch_record(cell.hash);
                }
                let cell = match order::cell(&self.files, &self.dir, which, index) {
                    Ok(Some(cell)) => cell,
                    Ok(None) => break,
                    Err(error) => {
                        report.add_error(error)?;
                        break;
                    }
                };
                match self.find_cell(which, cell, &mut buffer) {
                    Ok(Some(hit)) => {
                        cells[which as usize] += 1;
                        if last.is_some_and(|last| hit.head.order <= last) {
                            report.add(
                                self.dir.path().into(),
                                index * 8,
                                format!("the order list of space {which} is out of order"),
                            );
                        }
                        last = Some(hit.head.order);
                    }
                    Ok(None) | Err(Error::Corrupt { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Files with a store's names that the store does not know.
    fn check_names(
        &self,
        report: &mut CheckReport,
        names: &[Name],
        needed: &HashSet<u64>,
    ) -> Result<()> {
        let mut known = HashSet::new();
        known.extend(segments::rows(&self.files)?.iter().map(|row| row.id));
        for &name in names {
            let what = match name {
                Name::Segment(id) if !known.contains(&id) => {
                    "a segment that is damaged, or of another store: its records are not used"
                }
                Name::Value(id)
                    if !needed.contains(&id)
                        && self.stream_of(id).is_none()
                        && !self.is_grave(id) =>
                {
                    "a large value's file that no entry names"
                }
                _ => continue,
            };
            if self.dir.stat(name)?.is_some() {
                report.add(self.dir.path_of(name), 0, what);
            }
        }
        Ok(())
    }

    fn check_counts(
        &self,
        report: &mut CheckReport,
        counts: &[u64; SPACES_MAX],
        cells: &[u64; SPACES_MAX],
    ) {
        if !report.findings.is_empty() {
            // Damage elsewhere explains a difference.
            return;
        }
        for which in 0..SPACES_MAX {
            let said = self.files.space(which as u32, space::COUNT);
            for (what, counted) in [
                ("the keymap leads to", counts[which]),
                ("the order list holds", cells[which]),
            ] {
                if counted != said {
                    let path = self.dir.path_of(Name::Header);
                    report.add(
                        path,
                        0,
                        format!("space {which} should have {said} entries, but {what} {counted}"),
                    );
                }
            }
        }
    }
}
