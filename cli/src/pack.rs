//! The command `pack`: entries of the store as one file.
//!
//! Owns where that file is written, and that it has its name only when it is whole.
//! Never knows a byte of its format; that is the library's.

use std::fs::{self, Permissions};
use std::io::{self, IsTerminal as _, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use larder::{Cache, Error, PackChoice, PackReport};
use tempfile::NamedTempFile;

use crate::Answer;
use crate::args::Pack;
use crate::entries::bytes;
use crate::export::is_inside;
use crate::failure::{Failure, Result};
use crate::progress::Progress;
use crate::store::Place;

/// Before the umask takes its share, as any new file's.
const NEW_FILE_MODE: u32 = 0o666;

pub(crate) fn pack(place: &Place, args: &Pack, escaped: bool) -> Result<Answer> {
    let mut choice = PackChoice::default().name(&args.file);
    for tag in &args.tags {
        choice = choice.tag(bytes(tag, escaped)?);
    }
    if let Some(prefix) = &args.prefix {
        choice = choice.prefix(bytes(prefix, escaped)?);
    }
    if args.file == Path::new("-") {
        return to_stdout(place, args, &choice.name("stdout"));
    }
    let cache = place.open()?;
    if is_inside(&args.file, place.path()) {
        return Err(Failure::new(format!(
            "{} lies in the store itself",
            args.file.display()
        )));
    }
    let path = writable(&args.file, args.force)?;
    let report = to_file(&cache, &path, args.force, &choice)?;
    show(&report, args.json)?;
    Ok(Answer::Yes)
}

/// Where the file is to be: what a link leads to, when it may be replaced.
fn writable(path: &Path, force: bool) -> Result<PathBuf> {
    match fs::symlink_metadata(path) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(path.to_path_buf()),
        Err(cause) => return Err(Failure::file("write", path, &cause)),
        Ok(_) => {}
    }
    let real = fs::canonicalize(path);
    let real = real.map_err(|cause| Failure::file("write", path, &cause))?;
    let meta = fs::metadata(&real).map_err(|cause| Failure::file("write", path, &cause))?;
    let shown = path.display();
    if !meta.is_file() {
        return Err(Failure::new(format!(
            "{shown} is there and no regular file (`-` writes to stdout)"
        )));
    }
    if !force {
        return Err(Failure::new(format!(
            "{shown} is there already (--force replaces it)"
        )));
    }
    Ok(real)
}

/// Writes beside the name and takes the name at the end; whatever fails leaves nothing.
fn to_file(cache: &Cache, path: &Path, force: bool, choice: &PackChoice) -> Result<PackReport> {
    let fault = |cause: &io::Error| Failure::file("write", path, cause);
    let dir = match path.parent() {
        Some(dir) if dir != Path::new("") => dir,
        _ => Path::new("."),
    };
    let mut file = tempfile::Builder::new()
        .prefix(".larder-pack-")
        .permissions(Permissions::from_mode(NEW_FILE_MODE))
        .tempfile_in(dir)
        .map_err(|cause| fault(&cause))?;
    let report = run(cache, file.as_file_mut(), choice)?;
    file.as_file().sync_all().map_err(|cause| fault(&cause))?;
    let named = if force {
        NamedTempFile::persist(file, path)
    } else {
        NamedTempFile::persist_noclobber(file, path)
    };
    named.map_err(|failed| fault(&failed.error))?;
    Ok(report)
}

fn to_stdout(place: &Place, args: &Pack, choice: &PackChoice) -> Result<Answer> {
    if args.json {
        return Err(Failure::new(
            "with `-` the file goes to stdout: there is no place for --json",
        ));
    }
    let stdout = io::stdout().lock();
    if stdout.is_terminal() {
        return Err(Failure::new(
            "a packed file is no text: name a file, or send stdout to one",
        ));
    }
    run(&place.open()?, stdout, choice)?;
    Ok(Answer::Yes)
}

fn run(cache: &Cache, to: impl Write, choice: &PackChoice) -> Result<PackReport> {
    let progress = Progress::of_time("packing");
    let outcome = cache.pack_with(to, choice, |_| ControlFlow::Continue(()));
    drop(progress);
    outcome.map_err(|error| match error {
        Error::Io { source, .. } if source.kind() == io::ErrorKind::BrokenPipe => Failure::Closed,
        // What the library says of a full disk is said of a store.
        Error::NoSpace { path, .. } => Failure::new(format!(
            "cannot write {}: no space left on its filesystem",
            path.display()
        )),
        other => other.into(),
    })
}

fn show(report: &PackReport, json: bool) -> Result<()> {
    let PackReport {
        entries,
        value_bytes,
        file_bytes,
        ..
    } = report;
    let line = if json {
        serde_json::json!({
            "entries": entries,
            "value_bytes": value_bytes,
            "file_bytes": file_bytes,
        })
        .to_string()
    } else {
        format!("{entries} entries, {value_bytes} bytes, packed in {file_bytes}")
    };
    writeln!(io::stdout(), "{line}").map_err(|cause| Failure::output(&cause))
}
