//! What `Cache` tells of its store as a whole, and does to it: flush, settings, counters, check, log.

use crate::engine::check::CheckReport;
use crate::engine::store::MAIN_SPACE;
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
        Ok(self.store()?.files.space(MAIN_SPACE, space::VOLUME))
    }

    /// Bytes the store takes on disk, as it was allocated; what `size_limit_bytes` bounds.
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
        self.check_with(|_, _| {})
    }

    /// As [`Cache::check`]; `watch` is told (bytes verified, bytes in all) now and then.
    ///
    /// # Errors
    /// As [`Cache::check`].
    pub fn check_with(&self, mut watch: impl FnMut(u64, u64)) -> Result<CheckReport> {
        self.store()?.check(&mut watch)
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
