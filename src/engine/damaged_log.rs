//! A damaged log as far as it can be read: what `mend` works from.
//!
//! Reads the log anew, whatever a handle has mapped; changes nothing. Slots count from 1 in the order of its
//! segments, not as in the table.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::engine::check::{Bad, Checked};
use crate::engine::rebuild;
use crate::engine::scan::{self, Scan, Seen, SeenKind};
use crate::engine::store::Store;
use crate::error::{Error, Result};
use crate::format::bucket::Place;
use crate::format::header::{self as layout, row};
use crate::format::name::Name;
use crate::format::segment::SegmentHead;
use crate::part::segment::Segment;
use crate::part::segments::{self, Row, row_at};

/// The log as it can be read; slots count from 1 in the order of `segments`.
pub(super) struct Log {
    pub(super) segments: Vec<Arc<Segment>>,
    pub(super) rows: Vec<Row>,
    /// By the table's slot: which of them.
    pub(super) by_slot: HashMap<u16, usize>,
    pub(super) missing: Vec<Row>,
    /// Ids of those that are set aside.
    pub(super) hurt: HashSet<u64>,
    pub(super) scan: Scan,
    pub(super) winners: Vec<Seen>,
    /// Whole records of entries, by place.
    pub(super) whole: Vec<Seen>,
    /// Damaged ones, by place.
    pub(super) damaged: HashMap<Place, Seen>,
    pub(super) bad: HashSet<Place>,
    pub(super) bad_values: HashSet<Place>,
    /// Some segment of ours has no row.
    pub(super) has_strangers: bool,
}
impl Log {
    /// The log's place for one of the table's.
    pub(super) fn place(&self, place: Place) -> Option<Place> {
        let slot = *self.by_slot.get(&place.slot)? as u16 + 1;
        Some(Place { slot, at: place.at })
    }

    /// The other way round.
    pub(super) fn in_table(&self, place: Place) -> Place {
        Place {
            slot: self.row(place).slot,
            at: place.at,
        }
    }

    pub(super) fn row(&self, place: Place) -> &Row {
        &self.rows[usize::from(place.slot) - 1]
    }

    pub(super) fn segment(&self, place: Place) -> &Arc<Segment> {
        &self.segments[usize::from(place.slot) - 1]
    }

    /// Nothing of it is missing or damaged: it alone says what is there.
    pub(super) fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.hurt.is_empty() && !self.has_strangers
    }

    pub(super) fn whole_at(&self, place: Place) -> Option<&Seen> {
        let at = self.whole.binary_search_by_key(&place, |seen| seen.place);
        at.ok().map(|at| &self.whole[at])
    }
}
impl Store {
    /// Reads the log anew, whatever this handle has mapped.
    pub(super) fn open_log(&self, checked: &Checked) -> Result<Log> {
        let mut log = Log {
            segments: Vec::new(),
            rows: Vec::new(),
            by_slot: HashMap::new(),
            missing: Vec::new(),
            hurt: HashSet::new(),
            scan: Scan::default(),
            winners: Vec::new(),
            whole: Vec::new(),
            damaged: HashMap::new(),
            bad: HashSet::new(),
            bad_values: HashSet::new(),
            has_strangers: false,
        };
        for bad in &checked.bad {
            if let Bad::Record { segment, .. } | Bad::Segment(segment) = bad {
                log.hurt.insert(*segment);
            }
        }
        for row in segments::rows(&self.files)? {
            let slot = log.segments.len() as u16 + 1;
            let opened = match Segment::open(&self.dir, &self.uuid, row.id, slot) {
                Err(Error::Corrupt { .. }) => {
                    log.hurt.insert(row.id);
                    match Segment::open_as(&self.dir, self.head_of(&row)?, slot) {
                        Err(Error::Corrupt { .. }) => None,
                        opened => opened?,
                    }
                }
                opened => opened?,
            };
            match opened {
                Some(segment) => {
                    log.by_slot.insert(row.slot, log.segments.len());
                    log.segments.push(Arc::new(segment));
                    log.rows.push(row);
                }
                None => log.missing.push(row),
            }
        }
        // A file that is not there is not set aside.
        for row in &log.missing {
            if !matches!(self.dir.stat(Name::Segment(row.id)), Ok(Some(_))) {
                log.hurt.remove(&row.id);
            }
        }
        let known: HashSet<u64> = log
            .rows
            .iter()
            .chain(&log.missing)
            .map(|row| row.id)
            .collect();
        log.hurt.retain(|id| known.contains(id));
        for bad in &checked.bad {
            let (segment, at, is_value) = match *bad {
                Bad::Record { segment, at } => (segment, at, false),
                Bad::Value { segment, at, .. } => (segment, at, true),
                Bad::Segment(_) => continue,
            };
            if let Some(n) = log.rows.iter().position(|row| row.id == segment) {
                let slot = n as u16 + 1;
                let bad = if is_value {
                    &mut log.bad_values
                } else {
                    &mut log.bad
                };
                bad.insert(Place { slot, at });
            }
        }
        // Nothing is missing in the log but by damage.
        log.scan = scan::scan(&self.dir, &log.segments, &self.hash, Some(self.committed()))?;
        for seen in &mut log.scan.seen {
            seen.is_damaged |= log.bad.contains(&seen.place);
        }
        let damaged = log.scan.seen.iter().filter(|seen| seen.is_damaged);
        log.damaged = damaged.map(|seen| (seen.place, *seen)).collect();
        log.winners = rebuild::winners(&self.dir, &log.segments, &log.scan)?;
        let is_whole = |seen: &&Seen| seen.kind == SeenKind::Set && !seen.is_damaged;
        log.whole = log.scan.seen.iter().filter(is_whole).copied().collect();
        log.whole.sort_unstable_by_key(|seen| seen.place);
        Ok(log)
    }

    /// What is known of a segment beside its own header.
    fn head_of(&self, row: &Row) -> Result<SegmentHead> {
        let first_seq = self
            .files
            .load(&self.dir, row_at(row.slot, row::FIRST_SEQ))?;
        Ok(SegmentHead {
            uuid: self.uuid,
            id: row.id,
            size: 0,
            first_seq: first_seq.min(1 << 48),
            hash_seed: self.hash_seed,
            created_ms: self.created_ms,
            life_seq: self.files.header.number(layout::LIFE_SEQ_AT),
            life: self.files.header.number(layout::LIFE_AT),
            copies: row.is_copies(),
        })
    }
}
