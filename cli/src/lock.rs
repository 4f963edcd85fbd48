//! The command `lock`: runs a command while nobody else holds a lock of that name.
//!
//! Owns the command from its start to its end; the lock is held for exactly as long, or for less where
//! it expires. Never reads what the command writes.

use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;

use larder::{Error, Lock};

use crate::Answer;
use crate::args;
use crate::failure::{Failure, Result, say};
use crate::store::Place;

pub(crate) fn lock(place: &Place, args: &args::Lock, escaped: bool) -> Result<Answer> {
    let name = args::bytes(&args.name, escaped).map_err(Failure::new)?;
    let Some((program, words)) = args.command.split_first() else {
        return Err(Failure::new("which command?"));
    };
    let cache = place.open_or_create()?;
    let lock = Lock::new(&cache, &name)?.expiry(args.expiry);
    let guard = lock.acquire(args.timeout)?;
    let mut child = Command::new(program)
        .args(words)
        .env("LARDER_TOKEN", guard.token().to_string())
        .spawn()
        .map_err(|cause| Failure::new(format!("cannot run {}: {cause}", program.display())))?;
    let status = child
        .wait()
        .map_err(|cause| Failure::new(format!("cannot wait for the command: {cause}")))?;
    match guard.release() {
        Ok(()) => {}
        // The command has run: its status counts, and who shared the lock with it ought to know.
        Err(error @ Error::NotHeld { .. }) => say(format_args!("{error}")),
        Err(error) => return Err(error.into()),
    }
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    let signal = status.signal().unwrap_or(0);
    Ok(Answer::Status(code.unwrap_or_else(|| {
        u8::try_from(128 + signal).unwrap_or(u8::MAX)
    })))
}
