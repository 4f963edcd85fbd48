//! Snapshots: a store's log as it is at one moment, linked into another directory.
//!
//! Seals what is being written, so that all of it is in files nobody stores to again, and links those.
//! Holds: no file of the log is removed between the sealing and the last link. Never links a derived
//! file: who opens the snapshot rebuilds them. DESIGN.md (snapshots) has the argument.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::engine::room::Lane;
use crate::engine::store::{Proof, Store};
use crate::error::{Error, Result};
use crate::format::bucket::Place;
use crate::format::header as layout;
use crate::format::name::Name;
use crate::os::dir::Dir;
use crate::os::lock::FileLock;
use crate::part::segments;

/// What a snapshot holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SnapshotReport {
    /// Segments of the log.
    pub segments: u64,
    /// Files of large values. Some may be of entries set since: the first to open the snapshot removes
    /// those.
    pub values: u64,
    /// Of all these files: copied, because they could not be linked.
    pub copied: u64,
    /// Bytes of those.
    pub copied_bytes: u64,
}

/// The directory of a snapshot. Dropped before it is kept: what was made in it goes.
struct Target {
    dir: Dir,
    is_new: bool,
    made: Vec<Name>,
    kept: bool,
}

impl Target {
    fn open(path: &Path) -> Result<Target> {
        let is_new = !path.exists();
        let dir = Dir::open(path, true)?;
        let (ours, strangers) = dir.list_on_disk()?;
        let target = Target {
            dir,
            is_new,
            made: Vec::new(),
            kept: false,
        };
        if ours.is_empty() && strangers.is_empty() {
            return Ok(target);
        }
        let what = std::io::Error::new(
            std::io::ErrorKind::DirectoryNotEmpty,
            "it is not empty: a snapshot needs a directory of its own",
        );
        Err(Error::io("making a snapshot in", path, what))
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // The error that is told is the one that led here.
        for &name in &self.made {
            let _ = self.dir.remove(name);
        }
        if self.is_new {
            let _ = std::fs::remove_dir(self.dir.path());
        }
    }
}

/// The log as it is sealed.
struct Sealed {
    segments: Vec<u64>,
    /// Value files whose entry is dead by then.
    dead: HashSet<u64>,
    /// Files from this id on are newer.
    end: u64,
    seq: u64,
}

impl Store {
    /// Makes a snapshot in `path`.
    pub(crate) fn snapshot(
        &self,
        path: &Path,
        timeout: Option<Duration>,
    ) -> Result<SnapshotReport> {
        let target = Target::open(path)?;
        let pin = FileLock::share_made(&self.dir, Name::Pin, timeout)?;
        // Most of it off the lock, so that the rest is little.
        self.flush(timeout)?;
        let sealed = {
            let mut held = Store::lock(self, timeout)?;
            self.seal_log(held.parts().1)?
        };
        self.give_all(target, pin, &sealed)
    }

    /// The same for who has the lock, and keeps it.
    pub(crate) fn snapshot_held(
        &self,
        proof: &mut Proof,
        path: &Path,
        timeout: Option<Duration>,
    ) -> Result<SnapshotReport> {
        let target = Target::open(path)?;
        let pin = FileLock::share_made(&self.dir, Name::Pin, timeout)?;
        let sealed = self.seal_log(proof)?;
        self.give_all(target, pin, &sealed)
    }

    fn give_all(
        &self,
        mut target: Target,
        pin: FileLock,
        sealed: &Sealed,
    ) -> Result<SnapshotReport> {
        self.sync_to(sealed.seq)?;
        let mut report = SnapshotReport::default();
        for &id in &sealed.segments {
            self.give(Name::Segment(id), &mut target, &mut report)?;
            report.segments += 1;
        }
        for name in self.dir.list()?.0 {
            let Name::Value(id) = name else { continue };
            if id >= sealed.end || sealed.dead.contains(&id) {
                continue;
            }
            match self.give(name, &mut target, &mut report) {
                Ok(()) => report.values += 1,
                // It was on its way, and no record names it: those that one names stay.
                Err(Error::Moved { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        drop(pin);
        target.dir.sync_names()?;
        if let Some(parent) = target.dir.path().parent().filter(|_| target.is_new) {
            Dir::open(parent, false)?.sync_names()?;
        }
        target.kept = true;
        Ok(report)
    }

    fn give(&self, name: Name, target: &mut Target, report: &mut SnapshotReport) -> Result<()> {
        if self.dir.link(name, &target.dir)? {
            target.made.push(name);
            return Ok(());
        }
        target.made.push(name);
        report.copied_bytes += self.dir.copy(name, &target.dir)?;
        report.copied += 1;
        Ok(())
    }

    /// Has all that is committed in segments nobody appends to any more, durable, and marked as such.
    fn seal_log(&self, proof: &mut Proof) -> Result<Sealed> {
        let header = &self.files.header;
        let durable = self.sync_log()?;
        self.append_mark(proof, durable)?;
        for lane in [Lane::Log, Lane::Copies] {
            let is_begun = Place::from_bits(header.get(lane.tail())).is_some();
            if is_begun && header.number(lane.count()) > 0 {
                self.rotate(lane, 0, 0, true)?;
            }
        }
        // What is active now holds no record.
        let tails = [Lane::Log, Lane::Copies]
            .map(|lane| Place::from_bits(header.get(lane.tail())).map(|tail| tail.slot));
        let mut rows = segments::rows(&self.files)?;
        rows.retain(|row| !tails.contains(&Some(row.slot)));
        Ok(Sealed {
            segments: rows.iter().map(|row| row.id).collect(),
            dead: self.graves_now().into_iter().collect(),
            end: header.get(layout::NEXT_FILE_AT),
            seq: self.committed(),
        })
    }
}
