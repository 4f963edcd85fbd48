//! The command `unpack`: the entries of a packed file into the store.
//!
//! Owns what may be read as one, and that a bad one makes no store.
//! Never knows a byte of its format; that is the library's.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::ops::ControlFlow;
use std::path::Path;

use larder::{Cache, Error, UnpackOptions, UnpackReport};

use crate::Answer;
use crate::args::Unpack;
use crate::failure::{Failure, Result};
use crate::progress::Progress;
use crate::store::Place;

pub(crate) fn unpack(place: &Place, args: &Unpack) -> Result<Answer> {
    let file = open(&args.file)?;
    let options = UnpackOptions::default().name(&args.file);
    let cache = match place.try_open() {
        Ok(cache) => cache,
        // There is none: a bad file does not make one.
        Err(Error::NotAStore { .. }) => {
            options.verify(&file)?;
            place.open_or_create()?
        }
        Err(error) => return Err(error.into()),
    };
    let report = run(&cache, file, &options)?;
    show(&report, args.json)?;
    Ok(Answer::Yes)
}

/// A regular file: it is read twice.
fn open(path: &Path) -> Result<File> {
    if path == Path::new("-") {
        return Err(Failure::new(
            "a packed file is read twice, so it cannot come from stdin: name a file",
        ));
    }
    let fault = |cause| Failure::file("read", path, &cause);
    // Before it is opened: opening a pipe waits for its writer.
    let meta = fs::metadata(path).map_err(fault)?;
    if !meta.is_file() {
        return Err(Failure::new(format!(
            "{} is no regular file: a packed file is read twice, so it cannot come from a pipe",
            path.display()
        )));
    }
    File::open(path).map_err(fault)
}

fn run(cache: &Cache, file: File, options: &UnpackOptions) -> Result<UnpackReport> {
    let progress = Progress::of_bytes("unpacking", 0);
    let mut stored = 0;
    let outcome = cache.unpack_with(file, options, |now| {
        stored = now.entries;
        progress.set(now.read_bytes, now.read_bytes_max);
        ControlFlow::Continue(())
    });
    drop(progress);
    outcome.map_err(|error| match stored {
        0 => error.into(),
        _ => Failure::new(format!("{stored} entries were unpacked, then: {error}")),
    })
}

fn show(report: &UnpackReport, json: bool) -> Result<()> {
    let UnpackReport {
        entries,
        replaced,
        expired,
        value_bytes,
        ..
    } = report;
    let line = if json {
        serde_json::json!({
            "entries": entries,
            "replaced": replaced,
            "expired": expired,
            "value_bytes": value_bytes,
        })
        .to_string()
    } else {
        let mut line = format!("{entries} entries, {value_bytes} bytes");
        if *replaced > 0 {
            line.push_str(&format!(", {replaced} over older ones"));
        }
        if *expired > 0 {
            line.push_str(&format!("; {expired} had expired"));
        }
        line
    };
    writeln!(io::stdout(), "{line}").map_err(|cause| Failure::output(&cause))
}
