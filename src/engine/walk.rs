//! Walking a segment record by record, with its footer beside it.
//!
//! Reports what is there: a record, damage, or the end. Never repairs, and never looks for a record
//! anywhere but where the one before it, or the footer, says it begins.

use std::sync::Arc;

use crate::engine::room::Lane;
use crate::engine::store::Store;
use crate::error::Result;
use crate::format::bucket::Place;
use crate::format::header as layout;
use crate::format::record::Head;
use crate::format::segment::{RECORDS_AT, Summary};
use crate::os::dir::Dir;
use crate::part::segment::{Footer, Segment};
use crate::part::segments;

/// What stands next in a segment.
#[derive(Debug)]
pub(crate) enum Next {
    /// A record whose header is whole.
    Record {
        at: u64,
        head: Head,
        /// `None`: its line is missing or damaged.
        summary: Option<Summary>,
        /// Something stands where its line should be.
        has_line: bool,
    },
    /// Bytes that were a record once and are not now; what the footer says of it.
    Damage { at: u64, summary: Option<Summary> },
}

/// A walk through one segment, oldest record first.
#[derive(Debug)]
pub(crate) struct Walk {
    segment: Arc<Segment>,
    footer: Footer,
    at: u64,
    index: u64,
    /// Nothing from here on is part of the log.
    limit: u64,
    /// Fixed part and options of the record met last.
    options: Vec<u8>,
}

impl Walk {
    pub(crate) fn new(segment: &Arc<Segment>, limit: u64) -> Self {
        Walk {
            segment: Arc::clone(segment),
            footer: Footer::default(),
            at: RECORDS_AT,
            index: 0,
            limit: limit.min(segment.head.size),
            options: Vec::new(),
        }
    }

    /// Fixed part and options, at least, of the record met last.
    pub(crate) fn options(&self) -> &[u8] {
        &self.options
    }

    /// Where the next record would begin.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// `None`: the log ends here, perhaps inside a record whose writer died.
    pub(crate) fn next(&mut self, dir: &Dir) -> Result<Option<Next>> {
        let (at, index) = (self.at, self.index);
        if at >= self.limit {
            return Ok(None);
        }
        let line = self.footer.line(dir, &self.segment, index);
        let summary = line.filter(|summary| summary.at == at);
        if let Some(head) = self.segment.read_options(dir, at, &mut self.options)? {
            self.at += head.len() as u64;
            self.index += 1;
            let has_line = summary.is_some() || self.footer.has_bytes(dir, &self.segment, index);
            return Ok(Some(Next::Record {
                at,
                head,
                summary,
                has_line,
            }));
        }
        let next = self.footer.line(dir, &self.segment, index + 1);
        let next = next
            .map(|next| next.at)
            .filter(|&next| next > at && next < self.limit);
        match (summary, next) {
            (None, None) => {
                self.limit = at;
                Ok(None)
            }
            (summary, next) => {
                // Without a successor in the footer this was the last record.
                self.at = next.unwrap_or(self.limit);
                self.index += 1;
                if next.is_none() {
                    self.limit = self.at;
                }
                Ok(Some(Next::Damage { at, summary }))
            }
        }
    }
}

impl Store {
    /// Where the log ends in the segment of `slot`: the tail in an active one, else what was allocated
    /// for records.
    pub(crate) fn end_of(&self, slot: u16, size: u64) -> u64 {
        for lane in [Lane::Log, Lane::Copies] {
            match Place::from_bits(self.files.header.get(lane.tail())) {
                Some(tail) if tail.slot == slot => return tail.at.min(size),
                _ => {}
            }
        }
        match segments::state_of(&self.files, slot) {
            Ok(word) if word & layout::FRONT_MASK != 0 => {
                ((word & layout::FRONT_MASK) * 4096).min(size)
            }
            _ => size,
        }
    }
}
