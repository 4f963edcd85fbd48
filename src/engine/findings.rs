//! What a check says: kinds of damage, findings with file and offset, and the report.
//!
//! Looks at nothing itself.

use std::path::PathBuf;

use serde::Serialize;

use crate::error::{Error, Result};

/// More findings than this tell nothing more.
pub(super) const FINDINGS_MAX: usize = 1_000;

/// How much a check reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum Depth {
    /// Headers and footers of the log, and everything derived, against each other. Keys, values and the
    /// bytes of large values' files are not read.
    Quick,
    /// Every byte of every record and value file too.
    #[default]
    Full,
}

/// What kind of thing is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[non_exhaustive]
pub enum FindingKind {
    /// A record in the log is not what was written.
    DamagedRecord,
    /// A footer's line that names a record is missing or not what was written.
    DamagedFooter,
    /// A segment's header is not what was written.
    DamagedSegment,
    /// A segment has fewer bytes than its header says.
    CutSegment,
    /// A segment the table names is not there.
    MissingSegment,
    /// A sync of this segment failed: what was not durable by then may be lost on the disk.
    FailedSync,
    /// A word of the keymap, or a link between its buckets, is damaged.
    DamagedWord,
    /// A word of the keymap leads to another key's record, or to none.
    WrongPlace,
    /// A large value's file is not there.
    MissingValueFile,
    /// A large value's file is not what was written.
    DamagedValueFile,
    /// A file with a store's name that the store does not know.
    UnknownFile,
    /// A count is not that of the things it counts.
    WrongCount,
    /// An order list does not hold each entry once, oldest first.
    OrderOutOfOrder,
    /// A list of tagged or expiring entries is damaged, or an entry is missing in it.
    DamagedList,
    /// Something else of the derived files cannot be read.
    DamagedDerived,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// What kind of thing it is.
    pub kind: FindingKind,
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
    /// Everything wrong, up to 1,000 things; empty when the store is sound.
    pub findings: Vec<Finding>,
    /// Records verified.
    pub records: u64,
    /// Bytes of records and value files verified; in a quick check, of those whose headers were.
    pub bytes: u64,
    /// Entries the keymap leads to.
    pub entries: u64,
    /// All was looked at: nobody ended the check before.
    pub is_complete: bool,
    /// Counts were compared too: no writer was at work meanwhile.
    pub has_counted: bool,
}

impl CheckReport {
    /// Whether nothing is wrong, as far as was looked.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }

    pub(crate) fn add(
        &mut self,
        kind: FindingKind,
        path: impl Into<PathBuf>,
        offset: u64,
        what: impl Into<String>,
    ) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(Finding {
                kind,
                path: path.into(),
                offset,
                what: what.into(),
            });
        }
    }

    /// Damage that was met as an error.
    pub(crate) fn add_error(&mut self, kind: FindingKind, error: Error) -> Result<()> {
        match error {
            Error::Corrupt { path, offset, what } => {
                self.add(kind, path, offset, what);
                Ok(())
            }
            other => Err(other),
        }
    }
}
