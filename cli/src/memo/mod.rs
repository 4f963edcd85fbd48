//! The command `memo`: runs a command once, and afterwards answers for it from the store.
//!
//! Owns the order of looking, holding, looking again and running, which makes it one run at a time.
//! Never stores an answer that is not whole.

mod answer;
mod key;
mod run;

use std::io::{Read as _, stderr, stdout};

use larder::Cache;

use self::answer::Header;
use self::run::Run;
use crate::Answer;
use crate::args::Memo;
use crate::entries::{copy, options};
use crate::failure::{Failure, Result, damage, say};
use crate::store::Place;

pub(crate) fn memo(place: &Place, args: &Memo, escaped: bool) -> Result<Answer> {
    let options = options(&args.tags, args.ttl, escaped)?;
    let key = key::of(args)?;
    let cache = place.open_or_create()?;
    if let Some(answer) = replay(&cache, &key)? {
        return Ok(answer);
    }
    let _alone = cache.hold(&key, None)?;
    // Whoever held it before has most likely stored the answer.
    if let Some(answer) = replay(&cache, &key)? {
        return Ok(answer);
    }
    let run = Run::of(&args.command)?;
    let Some(status) = run.status.code().and_then(|code| u8::try_from(code).ok()) else {
        return Ok(Answer::Status(run.shell_status()));
    };
    // The command has run and its output is out: its status counts, stored or not.
    if let Err(failure) = keep(&cache, &key, run, status, &options) {
        say(format_args!("the answer is not stored: {failure}"));
    }
    Ok(Answer::Status(status))
}

fn keep(
    cache: &Cache,
    key: &[u8],
    run: Run,
    status: u8,
    options: &larder::SetOptions,
) -> Result<()> {
    let (mut out, mut err) = (run.stdout, run.stderr);
    let header = Header {
        status,
        stdout_bytes: out.rewind()?,
        stderr_bytes: err.rewind()?,
    };
    cache.set_reader(key, header.encode().chain(out).chain(err), options)?;
    Ok(())
}

/// Shows the stored answer; none when there is none, or when the entry is not an answer.
fn replay(cache: &Cache, key: &[u8]) -> Result<Option<Answer>> {
    let mut value = match cache.get_reader(key) {
        Ok(Some(value)) => value,
        Ok(None) => return Ok(None),
        // A damaged answer is none: the command runs again, and its answer takes the place.
        Err(error) => return damage(error).map(|_| None),
    };
    let bytes = value.len();
    let mut header = [0; answer::HEADER_LEN];
    if bytes < header.len() as u64 {
        return Ok(None);
    }
    value
        .read_exact(&mut header)
        .map_err(|cause| Failure::new(format!("cannot read the stored answer: {cause}")))?;
    let Some(header) = Header::decode(&header, bytes) else {
        return Ok(None);
    };
    copy(
        &mut (&mut value).take(header.stdout_bytes),
        &mut stdout().lock(),
    )?;
    copy(
        &mut (&mut value).take(header.stderr_bytes),
        &mut stderr().lock(),
    )?;
    Ok(Some(Answer::Status(header.status)))
}
