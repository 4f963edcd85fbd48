//! Counts, order cells and postings against the entries a check has met.
//!
//! Gathers what should be there while records are walked, and compares at the end, when nothing changed
//! meanwhile. Never reads a record.

use std::collections::{HashMap, HashSet};

use crate::engine::findings::{CheckReport, FindingKind};
use crate::engine::store::{MAIN_SPACE, Store};
use crate::error::{Error, Result};
use crate::format::header::{self as layout, space};
use crate::format::name::Name;
use crate::format::record::Head;
use crate::limits::SPACES_MAX;
use crate::part::lists::{self, List, Posting, row};
use crate::part::order::{self, Cell};
use crate::part::segments::Row;

/// An entry's insertion.
#[derive(Clone, Copy, Debug)]
struct Inserted {
    space: u32,
    cell: u64,
    order: u64,
}

/// What a segment's row should say.
#[derive(Clone, Copy, Debug)]
struct Held {
    row: Row,
    live: u64,
    lines: u64,
    dead_seq: u64,
    is_empty: bool,
}

/// What was met on a walk.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Words of the keymap, damaged ones too.
    pub(crate) words: u64,
    /// Of those, in overflow buckets nobody handed out.
    pub(crate) beyond_overflow: u64,
    /// Bytes of records that entries need.
    pub(crate) live_bytes: u64,
    /// Large values that entries name.
    pub(crate) files: HashSet<u64>,
    copy_volume: u64,
    copy_slots: HashSet<u16>,
    volumes: HashMap<u32, u64>,
    inserted: Vec<Inserted>,
    tags: HashMap<u32, (u64, u64)>,
    tagged: Vec<(u32, u64)>,
    expiring: Vec<u64>,
    volume_by_slot: HashMap<u16, u64>,
    held: Vec<Held>,
}

impl Tally {
    /// An entry whose record is in row `slot`; `known`: the lowest 31 bits of its hash.
    pub(crate) fn entry(&mut self, head: &Head, known: u64, slot: u16, tags: &[u32]) {
        let which = head.options.space;
        let volume = head.volume();
        self.live_bytes += head.len() as u64;
        *self.volumes.entry(which).or_default() += volume;
        if which == MAIN_SPACE {
            *self.volume_by_slot.entry(slot).or_default() += volume;
        }
        self.inserted.push(Inserted {
            space: which,
            cell: Cell::new(known, head.order).to_bits(),
            order: head.order,
        });
        for &tag in tags {
            let (entries, bytes) = self.tags.entry(tag).or_default();
            *entries += 1;
            *bytes += volume;
            let posting = Posting::new(known, head.options.tag_seq);
            self.tagged.push((tag, posting.to_bits()));
        }
        if head.options.expires_ms.is_some() {
            self.expiring.push(Posting::new(known, head.seq).to_bits());
        }
    }

    /// A segment that was walked to its end. `dead_seq`: the smallest of a version nobody needs.
    pub(crate) fn row(&mut self, row: &Row, live: u64, lines: u64, dead_seq: u64, is_empty: bool) {
        if row.is_copies() {
            self.copy_slots.insert(row.slot);
        }
        self.held.push(Held {
            row: *row,
            live,
            lines,
            dead_seq,
            is_empty,
        });
    }

    /// Compares everything. Nothing has changed since the walk began.
    pub(crate) fn compare(&mut self, store: &Store, report: &mut CheckReport) -> Result<()> {
        let of_copies = |(slot, volume): (&u16, &u64)| {
            if self.copy_slots.contains(slot) {
                *volume
            } else {
                0
            }
        };
        self.copy_volume = self.volume_by_slot.iter().map(of_copies).sum();
        self.sort();
        self.compare_header(store, report);
        self.compare_rows(store, report);
        for which in 0..SPACES_MAX as u32 {
            if let Err(error) = self.compare_cells(store, which, report) {
                report.add_error(FindingKind::DamagedDerived, error)?;
            }
        }
        if let Err(error) = self.compare_lists(store, report) {
            report.add_error(FindingKind::DamagedList, error)?;
        }
        Ok(())
    }

    /// Before parts are compared.
    pub(crate) fn sort(&mut self) {
        self.inserted
            .sort_unstable_by_key(|one| (one.space, one.order));
        self.tagged.sort_unstable();
    }

    /// The cells of a space as they should be, oldest first.
    pub(crate) fn cells(&self, which: u32) -> Vec<u64> {
        self.of_space(which).iter().map(|one| one.cell).collect()
    }

    /// Every tag's cells, and its entries and their bytes.
    pub(crate) fn lists_of_tags(&self) -> HashMap<u32, (Vec<u64>, u64, u64)> {
        let mut lists: HashMap<u32, (Vec<u64>, u64, u64)> = HashMap::new();
        for (&tag, &(entries, bytes)) in &self.tags {
            lists.insert(tag, (Vec::new(), entries, bytes));
        }
        for &(tag, posting) in &self.tagged {
            lists.entry(tag).or_default().0.push(posting);
        }
        lists
    }

    fn compare_header(&self, store: &Store, report: &mut CheckReport) {
        let path = || store.dir.path_of(Name::Header);
        let mut expect = |what: &str, at: u64, said: u64, counted: u64| {
            if said != counted {
                let what = format!("{what}: {said} by the header, {counted} were counted");
                report.add(FindingKind::WrongCount, path(), at, what);
            }
        };
        let header = &store.files.header;
        for (name, at, counted) in [
            ("words of the keymap", layout::KEYMAP_USED_AT, self.words),
            (
                "bytes of entries in the second lane",
                layout::COPY_VOLUME_AT,
                self.copy_volume,
            ),
        ] {
            expect(name, at, header.number(at), counted);
        }
        expect(
            "words in overflow buckets that are not in use",
            layout::OVER_USED_AT,
            0,
            self.beyond_overflow,
        );
        for which in 0..SPACES_MAX as u32 {
            let count = self.of_space(which).len() as u64;
            for (name, field, counted) in [
                ("entries", space::COUNT, count),
                (
                    "bytes of entries",
                    space::VOLUME,
                    self.volumes.get(&which).copied().unwrap_or(0),
                ),
            ] {
                let at = crate::part::shared::Files::space_at(which, field).at;
                let name = format!("{name} of space {which}");
                expect(&name, at, store.files.space(which, field), counted);
            }
        }
    }

    fn of_space(&self, which: u32) -> &[Inserted] {
        let from = self.inserted.partition_point(|one| one.space < which);
        let len = self.inserted[from..].partition_point(|one| one.space == which);
        &self.inserted[from..from + len]
    }

    fn compare_rows(&self, store: &Store, report: &mut CheckReport) {
        for held in &self.held {
            let row = &held.row;
            let at = crate::part::segments::row_at(row.slot, 0).at;
            let mut add = |what: String| {
                let path = store.files.segs.path();
                report.add(FindingKind::WrongCount, path, at, what);
            };
            let id = row.id;
            if !held.is_empty && row.live != held.live {
                let (said, counted) = (row.live, held.live);
                add(format!(
                    "segment {id} should have {said} live bytes, and has {counted}"
                ));
            }
            if held.is_empty && held.live > 0 {
                add(format!(
                    "segment {id} is said to be empty, and entries need it"
                ));
            }
            if row.lines != 0 && row.lines != held.lines {
                let (said, counted) = (row.lines, held.lines);
                add(format!(
                    "segment {id} should have {said} records, and has {counted}"
                ));
            }
            let dead = held.dead_seq;
            if dead != u64::MAX && (row.dead_seq == 0 || row.dead_seq > dead) {
                let said = row.dead_seq;
                add(format!(
                    "segment {id} holds a dead record of sequence {dead}, below {said} as its row says"
                ));
            }
        }
    }

    /// The order list of a space: each entry once, oldest first, between the hints.
    pub(crate) fn compare_cells(
        &self,
        store: &Store,
        which: u32,
        report: &mut CheckReport,
    ) -> Result<()> {
        let entries = self.of_space(which);
        let number = |field| store.files.space(which, field);
        let hints = number(space::HEAD)..number(space::TAIL);
        let (mut next, mut is_hidden) = (0, false);
        for index in 0..number(space::CELLS) {
            let Some(cell) = order::cell(&store.files, &store.dir, which, index)? else {
                break;
            };
            let is_next = entries.get(next).map(|one| one.cell) == Some(cell.to_bits());
            next += usize::from(is_next);
            is_hidden |= is_next && !hints.contains(&index);
        }
        if next == entries.len() && !is_hidden {
            return Ok(());
        }
        self.tell_cells(store, which, report)
    }

    /// What is wrong with an order list.
    fn tell_cells(&self, store: &Store, which: u32, report: &mut CheckReport) -> Result<()> {
        let mut entries = self.of_space(which).to_vec();
        entries.sort_unstable_by_key(|one| one.cell);
        let mut met = vec![false; entries.len()];
        let path = match store.files.order(&store.dir, which)? {
            Some(file) => file.region.path().to_path_buf(),
            None => store.dir.path_of(Name::Header),
        };
        let number = |field| store.files.space(which, field);
        let hints = number(space::HEAD)..number(space::TAIL);
        let mut last = 0;
        for index in 0..number(space::CELLS) {
            let Some(cell) = order::cell(&store.files, &store.dir, which, index)? else {
                break;
            };
            let bits = cell.to_bits();
            let from = entries.partition_point(|one| one.cell < bits);
            // Cells may be alike: each stands for one entry.
            let found = entries[from..]
                .iter()
                .take_while(|one| one.cell == bits)
                .zip(from..)
                .find(|(_, n)| !met[*n]);
            let Some((one, n)) = found else {
                continue;
            };
            met[n] = true;
            let mut add = |what: &str| {
                let what = format!("the order list of space {which} {what}");
                report.add(FindingKind::OrderOutOfOrder, &path, index * 8, what);
            };
            if one.order <= last {
                add("is out of order");
            }
            last = one.order;
            if !hints.contains(&index) {
                add("hides this entry");
            }
        }
        let missing = met.iter().filter(|met| !**met).count();
        if missing > 0 {
            let what = format!("{missing} entries of space {which} are not in its order list");
            report.add(FindingKind::OrderOutOfOrder, &path, 0, what);
        }
        Ok(())
    }

    /// The lists of tags and expiry: whole, and no entry is missing.
    pub(crate) fn compare_lists(&self, store: &Store, report: &mut CheckReport) -> Result<()> {
        let files = &store.files;
        let most = files.posts.len()? / lists::BLOCK_LEN;
        let mut used = HashSet::new();
        let mut timed: HashSet<u64> = HashSet::new();
        for list in lists::all(store.tags_end()) {
            let wrong = |at: u64, what: String, report: &mut CheckReport| {
                report.add(FindingKind::DamagedList, files.lists.path(), at, what);
            };
            let cells = lists::number(files, list, row::CELLS)?;
            let gathered = match lists::gather(files, list) {
                Ok(gathered) => gathered.unwrap_or_default(),
                Err(error @ Error::Corrupt { .. }) => {
                    report.add_error(FindingKind::DamagedList, error)?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let blocks = lists::blocks(files, list, most)?;
            let at = list.at(0).at;
            if gathered.len() as u64 != cells || blocks.len() as u64 != cells.div_ceil(lists::CELLS)
            {
                let (has, blocks) = (gathered.len(), blocks.len());
                let what =
                    format!("a list should have {cells} cells, and has {has} in {blocks} blocks");
                wrong(at, what, report);
                continue;
            }
            if let Some(block) = blocks.into_iter().find(|block| !used.insert(*block)) {
                wrong(at, format!("block {block} is in two lists"), report);
            }
            if list.is_of_time() {
                timed.extend(gathered.iter().map(|posting| posting.to_bits()));
                continue;
            }
            self.compare_tag(store, list, &gathered, report)?;
        }
        let free = lists::free_blocks(files, most)?;
        if let Some(block) = free.into_iter().find(|block| !used.insert(*block)) {
            let what = format!("free block {block} is in a list");
            report.add(FindingKind::DamagedList, files.posts.path(), 0, what);
        }
        let missing = self.expiring.iter().filter(|bits| !timed.contains(bits));
        let missing = missing.count();
        if missing > 0 {
            let what = format!("{missing} entries that expire are in no list of those");
            report.add(FindingKind::DamagedList, files.lists.path(), 0, what);
        }
        Ok(())
    }

    fn compare_tag(
        &self,
        store: &Store,
        list: List,
        gathered: &[Posting],
        report: &mut CheckReport,
    ) -> Result<()> {
        let (files, tag) = (&store.files, list.tag());
        let (entries, bytes) = self.tags.get(&tag).copied().unwrap_or_default();
        for (name, field, counted) in [
            ("entries", row::ENTRIES, entries),
            ("bytes", row::BYTES, bytes),
        ] {
            let said = lists::number(files, list, field)?;
            if said != counted {
                let at = list.at(field).at;
                let what = format!("tag {tag} should have {said} {name}, and has {counted}");
                report.add(FindingKind::WrongCount, files.lists.path(), at, what);
            }
        }
        let mut bits: Vec<u64> = gathered.iter().map(|posting| posting.to_bits()).collect();
        bits.sort_unstable();
        let from = self.tagged.partition_point(|(id, _)| *id < tag);
        let ours = self.tagged[from..].iter().take_while(|(id, _)| *id == tag);
        let missing = ours
            .filter(|(_, posting)| bits.binary_search(posting).is_err())
            .count();
        if missing > 0 {
            let at = list.at(0).at;
            let what = format!("{missing} entries with tag {tag} are not in its list");
            report.add(FindingKind::DamagedList, files.lists.path(), at, what);
        }
        Ok(())
    }
}
