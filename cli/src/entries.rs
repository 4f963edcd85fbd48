//! The commands on one key: `set`, `get`, `delete`, `touch`, `incr`.
//!
//! Owns how their arguments become verbs of the library.
//! Never holds a value from stdin, or on its way to stdout, in memory as a whole.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

use larder::{Expiry, SetOptions};

use crate::Answer;
use crate::args::{self, Incr, OneKey, Set, Touch};
use crate::failure::{Failure, Result};
use crate::store::Place;

const COPY_BYTES: usize = 128 << 10;

pub(crate) fn set(place: &Place, args: &Set, escaped: bool) -> Result<Answer> {
    let key = bytes(&args.key, escaped)?;
    let mut options = options(&args.tags, args.ttl, escaped)?;
    if let Some(ttl) = args.ttl.filter(|_| args.sliding) {
        options = options.sliding_ttl(ttl);
    }
    if let Some(seconds) = args.cost {
        options = options.cost(seconds);
    }
    match args.value.as_ref().filter(|value| *value != "-") {
        Some(value) => place
            .open_or_create()?
            .set_with(key, value.as_bytes(), &options)?,
        None => {
            place
                .open_or_create()?
                .set_reader(key, io::stdin().lock(), &options)?;
        }
    }
    Ok(Answer::Yes)
}

pub(crate) fn get(place: &Place, args: &OneKey, escaped: bool) -> Result<Answer> {
    let key = bytes(&args.key, escaped)?;
    let Some(mut value) = place.open()?.get_reader(key)? else {
        return Ok(Answer::No);
    };
    copy(&mut value, &mut io::stdout().lock())?;
    Ok(Answer::Yes)
}

pub(crate) fn delete(place: &Place, args: &OneKey, escaped: bool) -> Result<Answer> {
    let key = bytes(&args.key, escaped)?;
    Ok(Answer::yes_if(place.open()?.delete(key)?))
}

pub(crate) fn touch(place: &Place, args: &Touch, escaped: bool) -> Result<Answer> {
    let key = bytes(&args.key, escaped)?;
    let cache = place.open()?;
    let ttl = match args.ttl {
        Some(ttl) => Some(ttl),
        None if args.never => None,
        None => cache.settings()?.default_ttl,
    };
    Ok(Answer::yes_if(
        cache.touch(key, ttl.map_or(Expiry::Never, Expiry::After))?,
    ))
}

pub(crate) fn incr(place: &Place, args: &Incr, escaped: bool) -> Result<Answer> {
    let key = bytes(&args.key, escaped)?;
    let sum = place
        .open_or_create()?
        .incr(key, args.delta, args.default)?;
    writeln!(io::stdout(), "{sum}").map_err(|cause| Failure::output(&cause))?;
    Ok(Answer::Yes)
}

/// The bytes an argument stands for.
pub(crate) fn bytes(argument: &OsString, escaped: bool) -> Result<Vec<u8>> {
    args::bytes(argument, escaped).map_err(Failure::Said)
}

/// What `--tag` and `--ttl` ask for.
pub(crate) fn options(
    tags: &[OsString],
    ttl: Option<Duration>,
    escaped: bool,
) -> Result<SetOptions> {
    let tags: Vec<Vec<u8>> = tags
        .iter()
        .map(|tag| bytes(tag, escaped))
        .collect::<Result<_>>()?;
    let options = SetOptions::default().tags(tags);
    Ok(match ttl {
        Some(ttl) => options.ttl(ttl),
        None => options,
    })
}

/// A value on its way to our own stdout or stderr.
pub(crate) fn copy(value: &mut impl Read, output: &mut impl Write) -> Result<()> {
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        let count = match value.read(&mut buffer) {
            Ok(0) => return output.flush().map_err(|cause| Failure::output(&cause)),
            Ok(count) => count,
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
            Err(cause) => return Err(Failure::new(format!("cannot read the value: {cause}"))),
        };
        output
            .write_all(&buffer[..count])
            .map_err(|cause| Failure::output(&cause))?;
    }
}
