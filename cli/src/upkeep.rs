//! The commands on the store as a whole: `stats`, `settings`, `clear`, `log`, `check`, `snapshot`.
//!
//! Owns how its numbers, settings, records and findings are shown.
//! Never repairs anything.

use std::io::{self, BufWriter, Write};
use std::ops::ControlFlow;

use larder::{Cache, CheckReport, Depth, Error};
use serde_json::{Map, Value};

use crate::args::{Log, Settings, Stats};
use crate::failure::{Failure, Result, say};
use crate::progress::Progress;
use crate::store::Place;
use crate::{Answer, escape};

pub(crate) fn stats(place: &Place, args: &Stats) -> Result<Answer> {
    let cache = place.open()?;
    let numbers = numbers(&cache, args.reset)?;
    print(|output| {
        if args.json {
            return writeln!(output, "{}", Value::Object(numbers));
        }
        let width = numbers.keys().map(String::len).max().unwrap_or(0);
        numbers.iter().try_for_each(|(name, number)| match number {
            Value::Null => writeln!(output, "{name:width$}  none"),
            number => writeln!(output, "{name:width$}  {number}"),
        })
    })
}

/// What the store holds now, and what it counted.
fn numbers(cache: &Cache, reset: bool) -> Result<Map<String, Value>> {
    let mut numbers = Map::new();
    numbers.insert("entries".to_owned(), cache.len()?.into());
    numbers.insert("volume_bytes".to_owned(), cache.volume()?.into());
    numbers.insert("disk_usage_bytes".to_owned(), cache.disk_usage()?.into());
    let counted = cache.stats(reset)?;
    // Nothing was set: none.
    let amplification = counted.write_amplification().map(to_thousandths);
    numbers.insert("write_amplification".to_owned(), amplification.into());
    match serde_json::to_value(counted) {
        Ok(Value::Object(counted)) => numbers.extend(counted),
        Ok(other) => {
            return Err(Failure::new(format!(
                "the statistics are no table: {other}"
            )));
        }
        Err(cause) => {
            return Err(Failure::new(format!(
                "the statistics cannot be shown: {cause}"
            )));
        }
    }
    Ok(numbers)
}

fn to_thousandths(number: f64) -> f64 {
    (number * 1_000.0).round() / 1_000.0
}

pub(crate) fn settings(place: &Place, args: &Settings) -> Result<Answer> {
    // Tried on a copy first: one bad value and nothing changes, nor is a store made.
    apply(&mut larder::Settings::default(), &args.changes)?;
    let cache = place.open_or_create()?;
    if args.changes.is_empty() {
        return show_settings(&cache);
    }
    let mut outcome = Ok(());
    cache.update_settings(|settings| outcome = apply(settings, &args.changes))?;
    outcome?;
    Ok(Answer::Yes)
}

fn apply(settings: &mut larder::Settings, changes: &[(String, String)]) -> larder::Result<()> {
    changes
        .iter()
        .try_for_each(|(name, value)| settings.set_by_name(name, value))
}

/// Every setting as `NAME=VALUE`, which `settings` takes again.
fn show_settings(cache: &Cache) -> Result<Answer> {
    let settings = cache.settings()?;
    print(|output| {
        larder::Settings::names().iter().try_for_each(|name| {
            let value = settings.get_by_name(name).unwrap_or_default();
            writeln!(output, "{name}={value}")
        })
    })
}

pub(crate) fn clear(place: &Place) -> Result<Answer> {
    let count = place.open()?.clear()?;
    print(|output| writeln!(output, "{count}"))
}

/// Damage inside a segment is named where it is met; the other segments are still shown.
pub(crate) fn log(place: &Place, args: &Log) -> Result<Answer> {
    let cache = place.open()?;
    let mut segments = cache.segments()?;
    if let Some(wanted) = args.segment {
        segments.retain(|segment| *segment == wanted);
        if segments.is_empty() {
            return Err(Failure::new(format!("there is no segment {wanted}")));
        }
    }
    let mut output = BufWriter::new(io::stdout().lock());
    let mut answer = Answer::Yes;
    for segment in segments {
        match log_segment(&cache, segment, &mut output) {
            Ok(()) => {}
            Err(Failure::Closed) => return Err(Failure::Closed),
            Err(failure) => {
                say(failure);
                answer = Answer::Status(2);
            }
        }
    }
    output.flush().map_err(|cause| Failure::output(&cause))?;
    Ok(answer)
}

fn log_segment(cache: &Cache, segment: u64, output: &mut impl Write) -> Result<()> {
    let lines = cache.log(segment)?;
    writeln!(output, "# segment {segment}").map_err(|cause| Failure::output(&cause))?;
    for line in lines {
        writeln!(output, "{}", line?).map_err(|cause| Failure::output(&cause))?;
    }
    Ok(())
}

pub(crate) fn snapshot(place: &Place, args: &crate::args::Snapshot) -> Result<Answer> {
    let report = place.open()?.snapshot(&args.dir)?;
    print(|output| {
        writeln!(
            output,
            "{} segments and {} value files, {} of them copied ({} bytes)",
            report.segments, report.values, report.copied, report.copied_bytes
        )
    })?;
    Ok(Answer::Yes)
}

fn repair(place: &Place) -> Result<Answer> {
    let progress = Progress::of_bytes("repairing", 0);
    let report = place.open()?.repair_with(|done, total| {
        progress.set(done, total);
        ControlFlow::Continue(())
    })?;
    drop(progress);
    print(|output| {
        for lost in &report.lost {
            let key = match &lost.key {
                Some(key) => format!("\"{}\"", key.escape_ascii()),
                None => "a key that cannot be read".to_owned(),
            };
            let line = format!(
                "lost {key}: {} (segment {:016x}, byte {})",
                lost.what, lost.segment, lost.offset
            );
            writeln!(output, "{}", escape::one_line(&line))?;
        }
        for path in &report.quarantined {
            let line = format!("set aside {}", path.display());
            writeln!(output, "{}", escape::one_line(&line))?;
        }
        writeln!(
            output,
            "{} lost, {} kept, {} files set aside",
            report.lost.len(),
            report.kept,
            report.quarantined.len()
        )
    })
}

pub(crate) fn check(place: &Place, args: &crate::args::Check) -> Result<Answer> {
    if args.repair {
        repair(place)?;
    }
    let depth = if args.quick {
        Depth::Quick
    } else {
        Depth::Full
    };
    let progress = Progress::of_bytes("checking", 0);
    let report = place.try_open().and_then(|cache| {
        cache.check_depth_with(depth, |done, total| {
            progress.set(done, total);
            ControlFlow::Continue(())
        })
    });
    drop(progress);
    match report {
        Ok(report) => show_report(&report),
        // Damage that keeps the store shut is the first finding.
        Err(Error::Corrupt { path, offset, what }) => {
            print(|output| {
                writeln!(
                    output,
                    "{}",
                    escape::one_line(&format!("{}:{offset}: {what}", path.display()))
                )
            })?;
            Ok(Answer::No)
        }
        Err(error) => Err(error.into()),
    }
}

fn show_report(report: &CheckReport) -> Result<Answer> {
    print(|output| {
        for finding in &report.findings {
            let line = format!(
                "{}:{}: {}",
                finding.path.display(),
                finding.offset,
                finding.what
            );
            writeln!(output, "{}", escape::one_line(&line))?;
        }
        let verdict = if report.is_sound() {
            "sound"
        } else {
            "not sound"
        };
        let (entries, records, bytes) = (report.entries, report.records, report.bytes);
        writeln!(
            output,
            "{verdict}: {entries} entries, {records} records, {bytes} bytes"
        )
    })?;
    Ok(Answer::yes_if(report.is_sound()))
}

/// Writes to stdout, all at once.
pub(crate) fn print(
    write: impl FnOnce(&mut BufWriter<io::StdoutLock<'static>>) -> io::Result<()>,
) -> Result<Answer> {
    let mut output = BufWriter::new(io::stdout().lock());
    write(&mut output)
        .and_then(|()| output.flush())
        .map_err(|cause| Failure::output(&cause))?;
    Ok(Answer::Yes)
}
