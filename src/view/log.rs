//! The log in readable form, a line a record.

use std::sync::Arc;

use serde::Serialize;

use crate::engine::store::Store;
use crate::engine::walk::{Next, Walk};
use crate::error::{Error, Result};
use crate::format::name::Name;
use crate::format::record::Kind;
use crate::part::segment::{Read, Segment};
use crate::part::segments;
use crate::view::value::ValueKind;

/// One record of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LogLine {
    /// Byte offset in the segment.
    pub at: u64,
    /// Its sequence number.
    pub seq: u64,
    /// The entry's place in the insertion order.
    pub order: u64,
    /// `set`, `delete`, `kill`, `drop`, `mark` or `damaged`.
    pub kind: &'static str,
    /// The named space; 0 is the cache's own, 1 holds settings, tag names and queues.
    pub space: u32,
    /// The key.
    pub key: Vec<u8>,
    /// Bytes of the value as stored.
    pub value_len: u64,
    /// What the value is; of `set` alone.
    pub value_kind: Option<ValueKind>,
    /// When it expires, ms since 1970.
    pub expires_ms: Option<u64>,
    /// Number of tags.
    pub tags: u16,
    /// Id of the value's own file.
    pub file: Option<u64>,
}

impl std::fmt::Display for LogLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:>10} seq {} {} {} bytes",
            self.at, self.seq, self.kind, self.value_len
        )?;
        if self.kind == "set" {
            write!(f, " order {}", self.order)?;
        }
        if self.space != 0 {
            write!(f, " space {}", self.space)?;
        }
        if let Some(ms) = self.expires_ms {
            write!(f, " expires {ms}")?;
        }
        if self.tags > 0 {
            write!(f, " tags {}", self.tags)?;
        }
        if let Some(id) = self.file {
            write!(f, " file {id:016x}.val")?;
        }
        if !self.key.is_empty() {
            write!(f, " \"{}\"", self.key.escape_ascii())?;
        }
        Ok(())
    }
}

/// The records of one segment, oldest first. Made by [`Cache::log`](crate::Cache::log).
#[derive(Debug)]
pub struct LogIter {
    store: Arc<Store>,
    segment: Arc<Segment>,
    walk: Walk,
}

impl LogIter {
    pub(crate) fn new(store: &Arc<Store>, id: u64) -> Result<LogIter> {
        let rows = segments::rows(&store.files)?;
        if let Some(row) = rows.iter().find(|row| row.id == id) {
            let segment = store
                .segments
                .must_get(&store.files, &store.dir, row.slot)?;
            let walk = Walk::new(&segment, store.end_of(row.slot, segment.head.size));
            return Ok(LogIter {
                store: Arc::clone(store),
                segment,
                walk,
            });
        }
        let path = store.dir.path_of(Name::Segment(id));
        let source = std::io::Error::from(std::io::ErrorKind::NotFound);
        Err(Error::Io {
            path,
            doing: "opening the segment",
            source,
        })
    }

    fn line(&self, next: Next) -> Result<LogLine> {
        let blank = LogLine {
            at: 0,
            seq: 0,
            order: 0,
            kind: "damaged",
            space: 0,
            key: Vec::new(),
            value_len: 0,
            value_kind: None,
            expires_ms: None,
            tags: 0,
            file: None,
        };
        let (at, head) = match next {
            Next::Damage { at, summary } => {
                return Ok(LogLine {
                    at,
                    seq: summary.map_or(0, |summary| summary.seq),
                    ..blank
                });
            }
            Next::Record { at, head, .. } => (at, head),
        };
        let mut bytes = Vec::new();
        let is_whole = matches!(
            self.segment.read(&self.store.dir, at, &mut bytes)?,
            Read::Whole(_)
        );
        let kind = match head.kind {
            _ if !is_whole => "damaged",
            Kind::Set => "set",
            Kind::Delete => "delete",
            Kind::Kill => "kill",
            Kind::Mark => "mark",
            Kind::Drop => "drop",
        };
        Ok(LogLine {
            at,
            seq: head.seq,
            order: head.order,
            kind,
            space: head.options.space,
            // What a kill list has there are names of others.
            key: if is_whole && matches!(head.kind, Kind::Set | Kind::Delete) {
                bytes[head.key_at..][..head.key_len].to_vec()
            } else {
                Vec::new()
            },
            value_len: head
                .options
                .apart
                .map_or(head.value_len as u64, |apart| apart.len),
            value_kind: (head.kind == Kind::Set).then(|| ValueKind::from_byte(head.value_kind)),
            expires_ms: head.options.expires_ms,
            tags: head.options.tag_count,
            file: head.options.apart.map(|apart| apart.id),
        })
    }
}

impl Iterator for LogIter {
    type Item = Result<LogLine>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.walk.next(&self.store.dir) {
            Ok(next) => next.map(|next| self.line(next)),
            Err(error) => Some(Err(error)),
        }
    }
}
