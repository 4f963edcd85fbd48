//! The commands that make a store smaller: `expire`, `cull`, `compact`, `maintain`.
//!
//! Owns how what they do is told, while they go on and at their end.
//! Never chooses what goes; that is the store's policy and its limits.

use std::io::Write as _;
use std::ops::ControlFlow;

use larder::{Budget, Cache, UpkeepReport};

use crate::Answer;
use crate::args::{Maintain, Upkeep};
use crate::failure::Result;
use crate::progress::Progress;
use crate::store::Place;
use crate::upkeep::print;

pub(crate) fn expire(place: &Place, args: &Upkeep) -> Result<Answer> {
    let cache = place.open()?;
    let report = watched("expiring", |watch| {
        let mut last = UpkeepReport::default();
        cache.expire_with(|report| {
            last = *report;
            watch(report)
        })?;
        Ok(last)
    })?;
    show(&cache, &report, args)
}

pub(crate) fn cull(place: &Place, args: &Upkeep) -> Result<Answer> {
    let cache = place.open()?;
    let report = watched("culling", |watch| {
        let mut last = UpkeepReport::default();
        cache.cull_with(|report| {
            last = *report;
            watch(report)
        })?;
        Ok(last)
    })?;
    show(&cache, &report, args)
}

pub(crate) fn compact(place: &Place, args: &Upkeep) -> Result<Answer> {
    let cache = place.open()?;
    let report = watched("compacting", |watch| cache.compact_with(watch))?;
    show(&cache, &report, args)
}

pub(crate) fn maintain(place: &Place, args: &Maintain) -> Result<Answer> {
    let mut budget = Budget::default();
    if let Some(time) = args.time {
        budget = budget.time(time);
    }
    if let Some(bytes) = args.bytes {
        budget = budget.bytes(bytes);
    }
    let cache = place.open()?;
    let report = watched("maintaining", |watch| cache.maintain_with(&budget, watch))?;
    show(&cache, &report, &args.report)
}

type Watch<'w> = &'w mut dyn FnMut(&UpkeepReport) -> ControlFlow<()>;

/// Does the work while a bar tells how far it is.
fn watched(
    doing: &'static str,
    work: impl FnOnce(Watch<'_>) -> larder::Result<UpkeepReport>,
) -> Result<UpkeepReport> {
    let progress = Progress::of_time(doing);
    let outcome = work(&mut |report| {
        progress.tell(|| match words(report).as_str() {
            "" => doing.to_owned(),
            done => format!("{doing}: {done}"),
        });
        ControlFlow::Continue(())
    });
    drop(progress);
    Ok(outcome?)
}

fn show(cache: &Cache, report: &UpkeepReport, args: &Upkeep) -> Result<Answer> {
    let disk_usage_bytes = cache.disk_usage()?;
    let UpkeepReport {
        expired,
        culled,
        kept,
        kept_bytes,
        freed_bytes,
        is_over,
        ..
    } = report;
    print(|output| {
        if args.json {
            let line = serde_json::json!({
                "expired": expired,
                "culled": culled,
                "kept": kept,
                "kept_bytes": kept_bytes,
                "freed_bytes": freed_bytes,
                "is_over": is_over,
                "disk_usage_bytes": disk_usage_bytes,
            });
            return writeln!(output, "{line}");
        }
        let done = match words(report) {
            none if none.is_empty() => "nothing to do".to_owned(),
            done => done,
        };
        let rest = if *is_over { "" } else { "; not all is done" };
        writeln!(output, "{done}; {disk_usage_bytes} bytes on disk{rest}")
    })
}

/// What was done, as far as anything was.
fn words(report: &UpkeepReport) -> String {
    let mut parts = Vec::new();
    if report.expired > 0 {
        parts.push(format!("{} entries had expired", report.expired));
    }
    if report.culled > 0 {
        parts.push(format!("{} entries evicted", report.culled));
    }
    if report.kept > 0 {
        let (kept, bytes) = (report.kept, report.kept_bytes);
        parts.push(format!("{kept} records of {bytes} bytes copied"));
    }
    if report.freed_bytes > 0 {
        parts.push(format!("{} bytes given back", report.freed_bytes));
    }
    parts.join(", ")
}
