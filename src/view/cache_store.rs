//! What `Cache` tells of its store as a whole, and does to it: flush, settings, counters, check, log.

use std::ops::ControlFlow;
use std::path::Path;

use crate::engine::findings::{CheckReport, Depth};
use crate::engine::mend::RepairReport;
use crate::engine::snapshot::SnapshotReport;
use crate::engine::sync;
use crate::error::Result;
use crate::format::header::space;
use crate::format::settings::Settings;
use crate::view::cache::Cache;
use crate::view::log::LogIter;
use crate::view::stats::Stats;

impl Cache {
    /// Makes everything acknowledged so far, by any process, durable.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io): what the disk refused; nothing since the last success is surely durable.
    /// [`Error::Busy`](crate::Error::Busy): durable, but the mark that says so was not written. [`Error::Aborted`](crate::Error::Aborted) inside
    /// [`Cache::transact`].
    pub fn flush(&self) -> Result<()> {
        let store = self.writable()?;
        store.flush(self.patience(store))
    }

    /// Flushes, and leaves a marker by which the next opener trusts the derived files, also after a
    /// reboot. Other handles and clones stay usable. Without it the store is as safe: an opener after
    /// a reboot rebuilds them from the log.
    ///
    /// # Errors
    /// As [`Cache::flush`].
    pub fn close(self) -> Result<()> {
        if self.store()?.dir.is_read_only() {
            // There is nothing to flush, and nothing is left behind.
            return Ok(());
        }
        let store = self.writable()?;
        store.close(self.patience(store))
    }

    // About the store.

    /// The settings all processes share, as they are now.
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn settings(&self) -> Result<Settings> {
        self.store()?.settings()
    }

    /// Changes settings for all processes, at once. The settings as they are then.
    ///
    /// # Errors
    /// [`Error::InvalidSetting`](crate::Error::InvalidSetting); see [`Cache`].
    pub fn update_settings(&self, change: impl FnOnce(&mut Settings)) -> Result<Settings> {
        let store = self.writable()?;
        let settings = sync::locked(store, self.patience(store), |store, proof| {
            let mut settings = store.settings()?;
            change(&mut settings);
            // As it is kept: in whole milliseconds and steps.
            let settings = Settings::from_words(&settings.to_words());
            store.write_settings(proof, &settings)?;
            Ok(settings)
        })?;
        self.finish(store)?;
        Ok(settings)
    }

    /// What was counted, since the store was made or the last reset. `reset`: begins anew.
    ///
    /// # Errors
    /// See [`Cache`]; to reset is to write.
    pub fn stats(&self, reset: bool) -> Result<Stats> {
        let store = if reset {
            self.store_to_change()?
        } else {
            self.store()?
        };
        Ok(Stats::read(store, reset))
    }

    /// Bytes of live keys, values and record headers; expired entries not yet removed included.
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn volume(&self) -> Result<u64> {
        Ok(self.store()?.files.space(self.space, space::VOLUME))
    }

    /// Bytes the store takes on disk, as it was allocated; what `size_limit_bytes` bounds. What a
    /// [`Cache::repair`] moved to `damaged/` is not counted.
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn disk_usage(&self) -> Result<u64> {
        Ok(self.store()?.disk_bytes())
    }

    /// Verifies every record, word, cell and count. Goes on beside readers and writers.
    ///
    /// # Errors
    /// See [`Cache`]; damage is no error but a finding.
    pub fn check(&self) -> Result<CheckReport> {
        self.check_depth(Depth::Full)
    }

    /// As [`Cache::check`]; `watch` is told (bytes verified, bytes in all) now and then.
    ///
    /// # Errors
    /// As [`Cache::check`].
    pub fn check_with(&self, mut watch: impl FnMut(u64, u64)) -> Result<CheckReport> {
        self.check_depth_with(Depth::Full, |done, total| {
            watch(done, total);
            ControlFlow::Continue(())
        })
    }

    /// Verifies as much as `depth` says, beside readers and writers. What changes while it looks is not
    /// called damage; counts are compared only when no writer was at work meanwhile
    /// ([`CheckReport::has_counted`]). Takes some 60 bytes of memory an entry while it does.
    ///
    /// ```
    /// use larder::{Cache, Depth};
    ///
    /// let cache = Cache::temporary()?;
    /// cache.set("a", "1")?;
    /// let report = cache.check_depth(Depth::Quick)?;
    /// assert!(report.is_sound() && report.has_counted);
    /// assert_eq!(report.entries, 1);
    /// # Ok::<(), larder::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Cache::check`].
    pub fn check_depth(&self, depth: Depth) -> Result<CheckReport> {
        self.check_depth_with(depth, |_, _| ControlFlow::Continue(()))
    }

    /// As [`Cache::check_depth`]; `watch` is told (bytes verified, bytes in all) every few MiB, and may
    /// end the check: the report then has what was found by then, and is not complete.
    ///
    /// # Errors
    /// As [`Cache::check`].
    pub fn check_depth_with(
        &self,
        depth: Depth,
        mut watch: impl FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<CheckReport> {
        Ok(self.store()?.check(depth, &mut watch)?.report)
    }

    /// Mends what [`Cache::check`] finds, while other processes have the store open; readers go on.
    ///
    /// Words, lists and counts are made right in place. A damaged segment's readable entries are copied
    /// elsewhere, and its file goes to `damaged/` in the store's directory, as damaged value files and
    /// files the store does not know do: outside `size_limit_bytes` and [`Cache::disk_usage`], never
    /// deleted. What cannot be read is lost, and told; no older version of it comes back, also not after
    /// deleting every derived file. Undamaged entries are as before.
    ///
    /// Looks at everything first, beside writers; when something is wrong, holds the writer lock to the
    /// end, which takes as long as two readings of the log's headers: others wait, or are `Busy`. Killed in the
    /// middle, the next to open the store alone rebuilds it.
    ///
    /// ```
    /// let cache = larder::Cache::temporary()?;
    /// cache.set("a", "1")?;
    /// let report = cache.repair()?;
    /// assert!(report.lost.is_empty() && !report.rebuilt);
    /// # Ok::<(), larder::Error>(())
    /// ```
    ///
    /// # Errors
    /// See [`Cache`]. [`Error::Corrupt`](crate::Error::Corrupt) when what the processes share can only be
    /// rebuilt by the next to open the store alone; [`Error::Full`](crate::Error::Full) when there is no
    /// room to copy to. What was mended by then stays mended.
    pub fn repair(&self) -> Result<RepairReport> {
        self.repair_with(|_, _| ControlFlow::Continue(()))
    }

    /// As [`Cache::repair`]; `watch` is told (bytes looked at, bytes in all) now and then, and may end it
    /// before anything is changed.
    ///
    /// # Errors
    /// As [`Cache::repair`].
    pub fn repair_with(
        &self,
        mut watch: impl FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<RepairReport> {
        let store = self.writable()?;
        store.mend(self.patience(store), &mut watch)
    }

    /// A consistent copy of the store as it is at one moment, in a directory that is empty or not there:
    /// hard links to what is written already, which take no space; copies on another filesystem.
    ///
    /// Writers go on meanwhile, but for the moment in which the log is synced and sealed. Until the last
    /// file is linked no file of the store is removed: a full store may be `Full`, or wait. The copy is
    /// durable when this returns. It is a store of its own: opening it rebuilds the mapped files from its
    /// log, and whatever becomes of one store leaves the other as it is. Access stamps and counters are
    /// not in it.
    ///
    /// ```
    /// let dir = tempfile::tempdir().unwrap();
    /// let cache = larder::Cache::open(dir.path().join("store"))?;
    /// cache.set("a", "1")?;
    /// let report = cache.snapshot(dir.path().join("then"))?;
    /// assert_eq!((report.segments, report.copied), (1, 0));
    /// cache.set("a", "2")?;
    ///
    /// let then = larder::Cache::open(dir.path().join("then"))?;
    /// assert_eq!(then.get("a")?.as_deref(), Some(&b"1"[..]));
    /// # Ok::<(), larder::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) when the directory is not empty, or a file cannot be linked or
    /// copied; as [`Cache::flush`] otherwise. What was made in the directory is removed.
    pub fn snapshot(&self, dir: impl AsRef<Path>) -> Result<SnapshotReport> {
        let store = self.writable()?;
        store.snapshot(dir.as_ref(), self.patience(store))
    }

    /// The ids of the log's segments, oldest first.
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn segments(&self) -> Result<Vec<u64>> {
        let rows = crate::part::segments::rows(&self.store()?.files)?;
        Ok(rows.iter().map(|row| row.id).collect())
    }

    /// The records of one segment in readable form.
    ///
    /// # Errors
    /// See [`Cache`]; [`Error::Io`](crate::Error::Io) when there is no such segment.
    pub fn log(&self, segment: u64) -> Result<LogIter> {
        LogIter::new(self.store()?, segment)
    }
}
