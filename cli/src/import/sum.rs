//! What an import comes to: the sum of all reports, shown while it runs and told at its end.
//!
//! Owns the numbers, the sentences about what is wrong, and the answer.
//! Never starts or ends a process.

use std::collections::HashSet;
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::time::SystemTime;

use larder::Cache;
use walkdir::DirEntry;

use super::report::Report;
use super::walk::Source;
use crate::failure::{Failure, Result, damage, say};
use crate::progress::Progress;
use crate::{Answer, escape, tree};

/// What all the processes did, and what is wrong.
pub(crate) struct Sum {
    progress: Progress,
    written: u64,
    unchanged: u64,
    refused: u64,
    bytes: u64,
    /// Not in the store because of its limits.
    gone: HashSet<Vec<u8>>,
    unreadable: HashSet<Vec<u8>>,
    odd: HashSet<Vec<u8>>,
}

impl Sum {
    pub(crate) fn new(progress: Progress) -> Self {
        let (gone, unreadable, odd) = (HashSet::new(), HashSet::new(), HashSet::new());
        Self {
            progress,
            written: 0,
            unchanged: 0,
            refused: 0,
            bytes: 0,
            gone,
            unreadable,
            odd,
        }
    }

    pub(crate) fn add(&mut self, report: Report) -> Result<()> {
        match report {
            Report::Wrote { bytes } => {
                self.written += 1;
                self.bytes += bytes;
                self.progress.advance(bytes);
            }
            Report::Unchanged { bytes } => {
                self.unchanged += 1;
                self.bytes += bytes;
                self.progress.advance(bytes);
            }
            Report::NoRoom { path, why } => {
                if !why.is_empty() {
                    self.progress.say(format_args!("{}: {why}", shown(&path)));
                }
                self.refused += 1;
                self.gone.insert(path);
            }
            Report::Unreadable { path, why } => {
                self.progress
                    .say(format_args!("cannot read {}: {why}", shown(&path)));
                self.unreadable.insert(path);
            }
            Report::OddType { path } => {
                self.progress.say(format_args!(
                    "{} is neither file, directory nor link; left out",
                    shown(&path)
                ));
                self.odd.insert(path);
            }
            Report::Fatal { why } => return Err(Failure::Said(why)),
        }
        Ok(())
    }

    /// Looks for every entry once more: what was written first may have been culled for the rest.
    pub(crate) fn look_after(
        &mut self,
        cache: &Cache,
        source: &Source,
        started_at: SystemTime,
    ) -> Result<()> {
        for step in source.walk() {
            let Ok(entry) = step.found else { continue };
            let path = step.path;
            let is_dir = path.is_empty() || entry.file_type().is_dir();
            let key = if is_dir {
                tree::dir_key(source.prefix(), &path)
            } else {
                tree::leaf_key(source.prefix(), &path)
            };
            let is_known = [&self.unreadable, &self.odd, &self.gone]
                .iter()
                .any(|paths| paths.contains(&path));
            if !is_known && !is_there(cache, &key)? && !is_newer(&entry, started_at) {
                self.gone.insert(path);
            }
        }
        Ok(())
    }

    /// The sum on stdout, what is wrong on stderr.
    pub(crate) fn tell(self) -> Result<Answer> {
        let Self {
            progress,
            written,
            unchanged,
            refused,
            bytes,
            gone,
            unreadable,
            ..
        } = self;
        drop(progress);
        let (entries, all) = (written + unchanged, written + unchanged + refused);
        writeln!(
            io::stdout(),
            "{entries} entries, {bytes} bytes: {written} written, {unchanged} unchanged"
        )
        .map_err(|cause| Failure::output(&cause))?;
        if !unreadable.is_empty() {
            say(format_args!("{} could not be read", unreadable.len()));
        }
        if !gone.is_empty() {
            let gone = gone.len();
            say(format_args!(
                "{gone} of {all} entries did not stay: the store's limits (see `larder settings`)"
            ));
        }
        Ok(Answer::yes_if(unreadable.is_empty() && gone.is_empty()))
    }
}

fn is_there(cache: &Cache, key: &[u8]) -> Result<bool> {
    match cache.contains(key) {
        Ok(found) => Ok(found),
        Err(error) => damage(error).map(|_| false),
    }
}

/// Whether it came, or changed, while the import ran: then nobody promised to have seen it.
fn is_newer(entry: &DirEntry, started_at: SystemTime) -> bool {
    let started = started_at
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let started = (started.as_secs() as i64, i64::from(started.subsec_nanos()));
    entry
        .metadata()
        .map_or(true, |meta| (meta.ctime(), meta.ctime_nsec()) >= started)
}

/// The root's own path is empty.
fn shown(path: &[u8]) -> String {
    if path.is_empty() {
        ".".to_owned()
    } else {
        escape::text(path)
    }
}
