//! What a store counts and holds, as text that Prometheus reads.
//!
//! Owns the names of the metrics. Reads the store's own words alone; never an entry.

use std::fmt::Write as _;

use crate::engine::store::MAIN_SPACE;
use crate::error::Result;
use crate::format::header::space;
use crate::part::shared::setting;
use crate::view::cache::Cache;
use crate::view::stats::Stats;

/// Name, what it is, and whether it only grows.
type Metric = (&'static str, &'static str, bool);

impl Cache {
    /// Everything of [`Stats`], and what the store holds now, in the text format of Prometheus. It costs
    /// some hundred loads of shared memory.
    ///
    /// `labels` are on every line, to tell one store from another. Counters are those of all processes; they
    /// begin anew with a [`Cache::stats`] that resets, as with a restart.
    ///
    /// ```
    /// let cache = larder::Cache::temporary()?;
    /// cache.set("a", "1")?;
    /// let text = cache.metrics(&[("store", "sessions")])?;
    /// assert!(text.contains("# TYPE larder_sets_total counter\n"));
    /// assert!(text.contains("larder_sets_total{store=\"sessions\"} 1\n"));
    /// assert!(text.contains("larder_entries{store=\"sessions\"} 1\n"));
    /// # Ok::<(), larder::Error>(())
    /// ```
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn metrics(&self, labels: &[(&str, &str)]) -> Result<String> {
        let store = self.store()?;
        let labels = in_braces(labels);
        let mut text = String::with_capacity(4096);
        let mut put = |(name, help, grows): Metric, value: f64| {
            let kind = if grows { "counter" } else { "gauge" };
            // Writing to a String cannot fail.
            let _ = writeln!(text, "# HELP larder_{name} {help}");
            let _ = writeln!(text, "# TYPE larder_{name} {kind}");
            let _ = writeln!(text, "larder_{name}{labels} {value}");
        };
        let entries = store.entries(MAIN_SPACE);
        let limit = store.files.header.setting(setting::SIZE_LIMIT);
        put(
            ("entries", "Entries, expired ones included.", false),
            entries as f64,
        );
        put(
            ("volume_bytes", "Bytes of keys, values and headers.", false),
            store.files.space(MAIN_SPACE, space::VOLUME) as f64,
        );
        put(
            ("disk_bytes", "Bytes on disk.", false),
            store.disk_bytes() as f64,
        );
        put(
            ("disk_limit_bytes", "The most bytes on disk.", false),
            limit as f64,
        );
        for (metric, value) in counters(&Stats::read(store, false)) {
            put(metric, value);
        }
        Ok(text)
    }
}

fn counters(stats: &Stats) -> [(Metric, f64); 19] {
    let counter = |name, help, value: u64| ((name, help, true), value as f64);
    [
        counter("hits_total", "Reads that found an entry.", stats.hits),
        counter("misses_total", "Reads that found none.", stats.misses),
        counter("sets_total", "Entries stored.", stats.sets),
        counter("deletes_total", "Entries removed by key.", stats.deletes),
        counter("batches_total", "Atomic batches.", stats.batches),
        counter("expired_total", "Expired entries removed.", stats.expired),
        counter("culled_total", "Entries evicted by a limit.", stats.culled),
        counter("evicted_total", "Entries removed by tag.", stats.evicted),
        counter(
            "decode_failures_total",
            "Typed reads of what is no such value.",
            stats.decode_failures,
        ),
        counter(
            "lock_waits_total",
            "Waits for the writer lock.",
            stats.lock_waits,
        ),
        counter(
            "repairs_total",
            "Changes of dead processes completed or dropped.",
            stats.repairs,
        ),
        counter("syncs_total", "Syncs of the log.", stats.syncs),
        counter(
            "set_bytes_total",
            "Bytes of values stored.",
            stats.bytes_set,
        ),
        counter("put_bytes_total", "Bytes of records set.", stats.bytes_put),
        counter(
            "logged_bytes_total",
            "Bytes of records appended.",
            stats.bytes_logged,
        ),
        counter(
            "kept_bytes_total",
            "Bytes of records copied.",
            stats.bytes_kept,
        ),
        counter(
            "freed_bytes_total",
            "Bytes of files given back.",
            stats.bytes_freed,
        ),
        (
            (
                "saved_seconds_total",
                "Seconds of computing that hits saved.",
                true,
            ),
            stats.seconds_saved,
        ),
        (
            (
                "damaged_records",
                "Damaged records met when the store was last rebuilt.",
                false,
            ),
            stats.damaged as f64,
        ),
    ]
}

/// Labels as they stand behind a name; none: nothing.
fn in_braces(labels: &[(&str, &str)]) -> String {
    if labels.is_empty() {
        return String::new();
    }
    let pairs: Vec<String> = labels
        .iter()
        .map(|(name, value)| {
            let value = value
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            format!("{name}=\"{value}\"")
        })
        .collect();
    format!("{{{}}}", pairs.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_may_have_any_value_and_none_has_no_braces() {
        assert_eq!(in_braces(&[]), "");
        assert_eq!(
            in_braces(&[("a", "x\"y\\z\n"), ("b", "")]),
            "{a=\"x\\\"y\\\\z\\n\",b=\"\"}"
        );
    }
}
