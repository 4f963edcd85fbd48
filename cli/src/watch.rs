//! The command `watch`: a line for each change, as it happens.
//!
//! Owns the form of a line, in text and in JSON, and when the command ends.
//! Never changes an entry.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use larder::{Change, ChangeKind, Gap, GapCause, WatchEvent, WatchFilter};
use serde::Serialize;

use crate::args::{Watch, bytes};
use crate::failure::{Failure, Result};
use crate::store::Place;
use crate::{Answer, escape, interrupt};

/// How soon Ctrl-C is heard while nothing changes.
const PAUSE: Duration = Duration::from_millis(50);

/// One line of `watch --json`: a change.
#[derive(Serialize)]
struct Line {
    seq: u64,
    kind: ChangeKind,
    key: String,
    tags: Vec<String>,
}

/// One line of `watch --json`: changes that are not told.
#[derive(Serialize)]
struct GapLine {
    seq: u64,
    kind: &'static str,
    from: u64,
    cause: GapCause,
    removed: Option<u64>,
}

pub(crate) fn watch(place: &Place, args: &Watch, escaped: bool) -> Result<Answer> {
    let argument = |given: &_| bytes(given, escaped).map_err(Failure::new);
    let filter = match (&args.prefix, &args.tag) {
        (Some(prefix), _) => WatchFilter::prefix(argument(prefix)?),
        (None, Some(tag)) => WatchFilter::tag(argument(tag)?),
        (None, None) => WatchFilter::all(),
    };
    let cache = place.open()?;
    let mut watch = match args.from {
        Some(seq) => cache.watch_from(filter, seq)?,
        None => cache.watch(filter)?,
    };
    interrupt::listen();
    let end = args
        .timeout
        .and_then(|timeout| Instant::now().checked_add(timeout));
    let mut output = io::stdout().lock();
    while !interrupt::is_wanted() {
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        let pause = left.map_or(PAUSE, |left| left.min(PAUSE));
        match watch.next_timeout(pause)? {
            Some(event) => {
                let line = show(event, args.json) + "\n";
                output
                    .write_all(line.as_bytes())
                    .and_then(|()| output.flush())
                    .map_err(|cause| Failure::output(&cause))?;
            }
            None if left.is_some_and(|left| left.is_zero()) => break,
            None => {}
        }
    }
    Ok(Answer::Yes)
}

fn show(event: WatchEvent, json: bool) -> String {
    match event {
        WatchEvent::Change(change) => show_change(&change, json),
        WatchEvent::Gap(gap) => show_gap(gap, json),
    }
}

fn show_change(change: &Change, json: bool) -> String {
    let key = escape::text(&change.key);
    if json {
        return to_json(&Line {
            seq: change.seq,
            kind: change.kind,
            key,
            tags: change.tags.iter().map(|tag| escape::text(tag)).collect(),
        });
    }
    let kind = format!("{:?}", change.kind).to_lowercase();
    format!("{} {kind} {key}", change.seq)
}

fn show_gap(gap: Gap, json: bool) -> String {
    if json {
        return to_json(&GapLine {
            seq: gap.to,
            kind: "gap",
            from: gap.from,
            cause: gap.cause,
            removed: gap.removed,
        });
    }
    let cause = format!("{:?}", gap.cause).to_lowercase();
    let removed = gap
        .removed
        .map_or(String::new(), |count| format!(" ({count} entries removed)"));
    format!("{} gap from {}: {cause}{removed}", gap.to, gap.from)
}

fn to_json(line: &impl Serialize) -> String {
    serde_json::to_string(line).expect("numbers and strings are always JSON")
}
