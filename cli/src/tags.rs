//! The commands by tag: `evict`, `tags`, `quota`.
//!
//! Owns how a tag and what it holds are shown.
//! Never looks at an entry; that is `ls --tag`.

use std::io::Write as _;

use larder::{TagMatch, TagUsage};
use serde::Serialize;

use crate::args::{Evict, Quota, Tags};
use crate::entries::bytes;
use crate::failure::Result;
use crate::progress::Progress;
use crate::store::Place;
use crate::upkeep::print;
use crate::{Answer, escape};

/// One line of `tags --json`.
#[derive(Serialize)]
struct Line {
    name: String,
    entries: u64,
    bytes: u64,
    quota_bytes: Option<u64>,
}

pub(crate) fn evict(place: &Place, args: &Evict, escaped: bool) -> Result<Answer> {
    let tags = args.tags.iter().map(|tag| bytes(tag, escaped));
    let tags = tags.collect::<Result<Vec<_>>>()?;
    let which = if args.all {
        TagMatch::All
    } else {
        TagMatch::Any
    };
    let cache = place.open()?;
    let progress = Progress::of_time("evicting");
    let outcome = cache.evict_tags(tags, which);
    drop(progress);
    let entries = outcome?;
    print(|output| {
        if args.json {
            writeln!(output, "{}", serde_json::json!({ "entries": entries }))
        } else {
            writeln!(output, "{entries} entries removed")
        }
    })
}

pub(crate) fn tags(place: &Place, args: &Tags) -> Result<Answer> {
    let lines: Vec<Line> = place.open()?.tags()?.into_iter().map(line).collect();
    let width = lines.iter().map(|line| line.name.chars().count()).max();
    let width = width.unwrap_or(0);
    print(|output| {
        lines.iter().try_for_each(|line| {
            if args.json {
                serde_json::to_writer(&mut *output, line)?;
                writeln!(output)
            } else {
                writeln!(output, "{:width$}  {}", line.name, holds(line))
            }
        })
    })
}

pub(crate) fn quota(place: &Place, args: &Quota, escaped: bool) -> Result<Answer> {
    let tag = bytes(&args.tag, escaped)?;
    let quota_bytes = args.bytes.0;
    let cache = match quota_bytes {
        Some(_) => place.open_or_create()?,
        None => place.open()?,
    };
    cache.set_tag_quota(&tag, quota_bytes)?;
    let usage = cache.tags()?.into_iter().find(|usage| usage.name == tag);
    let line = usage.map_or_else(
        || Line {
            name: escape::text(&tag),
            entries: 0,
            bytes: 0,
            quota_bytes,
        },
        line,
    );
    print(|output| writeln!(output, "{}: {}", line.name, holds(&line)))
}

fn line(usage: TagUsage) -> Line {
    Line {
        name: escape::text(&usage.name),
        entries: usage.entries,
        bytes: usage.bytes,
        quota_bytes: usage.quota_bytes,
    }
}

fn holds(line: &Line) -> String {
    let Line { entries, bytes, .. } = line;
    match line.quota_bytes {
        Some(quota) => format!("{entries} entries, {bytes} bytes of at most {quota}"),
        None => format!("{entries} entries, {bytes} bytes, no quota"),
    }
}
