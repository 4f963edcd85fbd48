//! What the processes of an import tell the one that started them: a line for each entry.
//!
//! Owns the form of these lines, written and read; names in them are escaped, so that a line is a
//! line whatever a file is called.
//! Never decides what becomes of the import.

use std::io::{self, BufWriter, Stdout, Write as _};
use std::time::{Duration, Instant};

use crate::escape;
use crate::failure::{Failure, Result};

const SEND_EVERY: Duration = Duration::from_millis(50);

/// What became of one entry, or of all of the work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Report {
    /// Now in the store.
    Wrote { bytes: u64 },
    /// In the store already, just so.
    Unchanged { bytes: u64 },
    /// The store has no room for it; `why` is empty when only its limit is in the way.
    NoRoom { path: Vec<u8>, why: String },
    /// It could not be read.
    Unreadable { path: Vec<u8>, why: String },
    /// Neither file, directory nor link.
    OddType { path: Vec<u8> },
    /// The process gave up.
    Fatal { why: String },
}

impl Report {
    pub(crate) fn to_line(&self) -> String {
        match self {
            Self::Wrote { bytes } => format!("wrote\t{bytes}\t"),
            Self::Unchanged { bytes } => format!("unchanged\t{bytes}\t"),
            Self::NoRoom { path, why } => named("no-room", path, why),
            Self::Unreadable { path, why } => named("unreadable", path, why),
            Self::OddType { path } => named("odd-type", path, ""),
            Self::Fatal { why } => named("fatal", b"", why),
        }
    }

    /// None when no [`Report::to_line`] wrote it.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split('\t');
        let (name, subject, why) = (fields.next()?, fields.next()?, fields.next()?.to_owned());
        let path = || escape::bytes(subject.as_bytes()).ok();
        Some(match name {
            "wrote" => Self::Wrote {
                bytes: subject.parse().ok()?,
            },
            "unchanged" => Self::Unchanged {
                bytes: subject.parse().ok()?,
            },
            "no-room" => Self::NoRoom { path: path()?, why },
            "unreadable" => Self::Unreadable { path: path()?, why },
            "odd-type" => Self::OddType { path: path()? },
            "fatal" => Self::Fatal { why },
            _ => return None,
        })
    }
}

fn named(name: &str, path: &[u8], why: &str) -> String {
    format!("{name}\t{}\t{}", escape::text(path), escape::one_line(why))
}

/// The writing end of the lines: gathers them, so that a small file does not cost a system call.
pub(crate) struct Reporter {
    lines: BufWriter<Stdout>,
    sent_at: Instant,
}

impl Reporter {
    pub(crate) fn new() -> Self {
        Self {
            lines: BufWriter::new(io::stdout()),
            sent_at: Instant::now(),
        }
    }

    /// # Errors
    /// `Closed` when the process that started this one is gone.
    pub(crate) fn send(&mut self, report: &Report) -> Result<()> {
        writeln!(self.lines, "{}", report.to_line()).map_err(|cause| Failure::output(&cause))?;
        if self.sent_at.elapsed() < SEND_EVERY {
            Ok(())
        } else {
            self.flush()
        }
    }

    pub(crate) fn flush(&mut self) -> Result<()> {
        self.sent_at = Instant::now();
        self.lines.flush().map_err(|cause| Failure::output(&cause))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_read_as_it_was_written() {
        let path = b"a\tb\nc\\\xff".to_vec();
        for report in [
            Report::Wrote { bytes: u64::MAX },
            Report::Unchanged { bytes: 0 },
            Report::NoRoom {
                path: path.clone(),
                why: String::new(),
            },
            Report::Unreadable {
                path: path.clone(),
                why: "no permission".to_owned(),
            },
            Report::OddType { path },
            Report::Fatal {
                why: "the disk is full".to_owned(),
            },
        ] {
            let line = report.to_line();
            assert!(!line.contains('\n'));
            assert_eq!(Report::parse(&line), Some(report));
        }
        for line in ["", "wrote", "wrote\tx\t", "what\t\t", "no-room\t\\q\t"] {
            assert_eq!(Report::parse(line), None, "{line:?}");
        }
    }
}
