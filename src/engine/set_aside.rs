//! Moving files a repair cannot use to `damaged/`.
//!
//! Owns which files are strangers, and what they are counted as. Never removes one, and never decides what is
//! damaged.

use std::collections::HashSet;
use std::time::Duration;

use crate::engine::mend::RepairReport;
use crate::engine::store::Store;
use crate::error::Result;
use crate::format::name::Name;
use crate::os::lock::FileLock;
use crate::part::segments;

impl Store {
    /// One file, to `damaged/`; told in the report.
    pub(super) fn set_aside(
        &self,
        name: Name,
        timeout: Option<Duration>,
        report: &mut RepairReport,
    ) -> Result<()> {
        let Some(stat) = self.dir.stat(name)? else {
            return Ok(());
        };
        // Whoever links or reads files as they are shares this lock.
        let _pin = FileLock::take(&self.dir, Name::Pin, timeout)?;
        report.quarantined.push(self.dir.set_aside(name)?);
        report.quarantined_bytes += stat.disk;
        self.gave(match name {
            Name::Value(_) => stat.len.next_multiple_of(4096),
            _ => stat.disk,
        });
        Ok(())
    }

    /// Segments the table does not know, and value files no entry names (`named`).
    pub(super) fn set_strangers_aside(
        &self,
        named: &HashSet<u64>,
        timeout: Option<Duration>,
        report: &mut RepairReport,
    ) -> Result<()> {
        let known: HashSet<u64> = segments::rows(&self.files)?
            .iter()
            .map(|row| row.id)
            .collect();
        for name in self.dir.list()?.0 {
            let is_strange = match name {
                Name::Segment(id) => !known.contains(&id),
                Name::Value(id) => {
                    !named.contains(&id) && self.stream_of(id).is_none() && !self.is_grave(id)
                }
                _ => false,
            };
            if is_strange {
                self.set_aside(name, timeout, report)?;
            }
        }
        Ok(())
    }
}
