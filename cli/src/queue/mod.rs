//! The commands on queues: `queue push`, `lease`, `ack`, `nack`, `extend`, `dead`, `ls`, `stats`.
//!
//! Owns how a job, a lease and a queue are shown.
//! Never keeps a lease beyond what it printed.

pub(crate) mod args;

use std::ffi::OsString;
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;

use larder::{Cache, PushOptions, Raw};
use serde::Serialize;

use self::args::{Dead, Extend, Lease, Nack, OneLease, Push, QueueCommand, Shown};
use crate::entries::bytes;
use crate::failure::{Failure, Result};
use crate::store::Place;
use crate::upkeep::print;
use crate::{Answer, escape, time};

/// Payloads as their bytes.
type Queue = larder::Queue<Vec<u8>, Raw>;

/// One line of `queue ls --json`.
#[derive(Serialize)]
struct Line {
    name: String,
    depth: u64,
    in_flight: u64,
    dead: u64,
    max_attempts: Option<u32>,
}

pub(crate) fn queue(place: &Place, command: &QueueCommand, escaped: bool) -> Result<Answer> {
    match command {
        QueueCommand::Push(args) => push(place, args, escaped),
        QueueCommand::Lease(args) => lease(place, args, escaped),
        QueueCommand::Ack(args) => ack(place, args, escaped),
        QueueCommand::Nack(args) => nack(place, args, escaped),
        QueueCommand::Extend(args) => extend(place, args, escaped),
        QueueCommand::Dead(args) => dead(place, args, escaped),
        QueueCommand::Ls(args) => ls(place, args),
        QueueCommand::Stats(args) => stats(place, &args.name, &args.shown, escaped),
    }
}

fn open(cache: &Cache, name: &[u8]) -> Result<Queue> {
    Ok(larder::Queue::of(cache, name)?.with_codec())
}

/// The queue, if there is one of this name: what only looks makes none.
fn find(place: &Place, name: &OsString, escaped: bool) -> Result<Option<Queue>> {
    let name = bytes(name, escaped)?;
    let cache = place.open()?;
    if !larder::Queue::<()>::names(&cache)?.contains(&name) {
        return Ok(None);
    }
    open(&cache, &name).map(Some)
}

fn push(place: &Place, args: &Push, escaped: bool) -> Result<Answer> {
    let name = bytes(&args.name, escaped)?;
    let mut options = PushOptions::default().priority(args.priority);
    if let Some(delay) = args.delay {
        options = options.delay(delay);
    }
    if let Some(key) = &args.key {
        options = options.key(bytes(key, escaped)?);
    }
    let payload = match args.value.as_ref().filter(|value| *value != "-") {
        Some(value) => value.as_bytes().to_vec(),
        None => {
            let mut payload = Vec::new();
            let read = io::stdin().lock().read_to_end(&mut payload);
            read.map_err(|cause| Failure::new(format!("cannot read the payload: {cause}")))?;
            payload
        }
    };
    let queue = open(&place.open_or_create()?, &name)?;
    let (job, is_new) = queue.push_with(&payload, &options)?;
    print(|output| writeln!(output, "{job}"))?;
    Ok(Answer::yes_if(is_new))
}

fn lease(place: &Place, args: &Lease, escaped: bool) -> Result<Answer> {
    let Some(queue) = find(place, &args.name, escaped)? else {
        return Ok(Answer::No);
    };
    let Some(job) = queue.lease_value(args.visibility)? else {
        return Ok(Answer::No);
    };
    let (lease, number) = (job.lease_id(), job.id());
    let shown = args.json.then(|| {
        serde_json::json!({
            "lease": lease.to_string(),
            "job": number,
            "attempts": job.attempts(),
            "priority": job.priority(),
            "last_error": job.last_error(),
            "payload": escape::text(job.payload()),
        })
    });
    let payload = job.payload().to_vec();
    // From here on it is of no process: who reads what is printed has it.
    if job.detach()?.is_none() {
        return Err(Failure::new(
            "the lease ran out before it could be printed: ask for a longer --visibility",
        ));
    }
    let printed = print(|output| match &shown {
        Some(shown) => writeln!(output, "{shown}"),
        None => {
            writeln!(output, "{lease}")?;
            output.write_all(&payload)
        }
    });
    if printed.is_err() {
        // Nobody has it.
        queue.nack(lease, std::time::Duration::ZERO, None)?;
    }
    printed
}

fn ack(place: &Place, args: &OneLease, escaped: bool) -> Result<Answer> {
    match find(place, &args.name, escaped)? {
        Some(queue) => Ok(Answer::yes_if(queue.ack(args.lease)?)),
        None => Ok(Answer::No),
    }
}

fn nack(place: &Place, args: &Nack, escaped: bool) -> Result<Answer> {
    let Some(queue) = find(place, &args.lease.name, escaped)? else {
        return Ok(Answer::No);
    };
    let delay = args.delay.unwrap_or_default();
    let done = queue.nack(args.lease.lease, delay, args.error.as_deref())?;
    Ok(Answer::yes_if(done))
}

fn extend(place: &Place, args: &Extend, escaped: bool) -> Result<Answer> {
    let Some(queue) = find(place, &args.lease.name, escaped)? else {
        return Ok(Answer::No);
    };
    let done = queue.extend(args.lease.lease, args.visibility)?;
    Ok(Answer::yes_if(done))
}

fn dead(place: &Place, args: &Dead, escaped: bool) -> Result<Answer> {
    let Some(queue) = find(place, &args.name, escaped)? else {
        return Ok(Answer::No);
    };
    if args.requeue {
        let count = queue.requeue_dead()?;
        return print(|output| writeln!(output, "{count} jobs queued again"));
    }
    if args.clear {
        let count = queue.clear_dead()?;
        return print(|output| writeln!(output, "{count} jobs removed"));
    }
    for letter in queue.dead_values()? {
        let letter = letter?;
        let payload = escape::text(&letter.payload);
        let died_at = time::show_instant(letter.died_at);
        print(|output| {
            if args.json {
                let line = serde_json::json!({
                    "job": letter.id,
                    "attempts": letter.attempts,
                    "priority": letter.priority,
                    "died_at": died_at,
                    "error": letter.error,
                    "payload": payload,
                });
                writeln!(output, "{line}")
            } else {
                let error = escape::one_line(&letter.error);
                let (job, attempts) = (letter.id, letter.attempts);
                writeln!(output, "{job}\t{attempts}\t{died_at}\t{payload}\t{error}")
            }
        })?;
    }
    Ok(Answer::Yes)
}

fn ls(place: &Place, args: &Shown) -> Result<Answer> {
    let cache = place.open()?;
    for name in larder::Queue::<()>::names(&cache)? {
        show(&line(&cache, &name)?, args)?;
    }
    Ok(Answer::Yes)
}

fn stats(place: &Place, name: &OsString, args: &Shown, escaped: bool) -> Result<Answer> {
    let name = bytes(name, escaped)?;
    let cache = place.open()?;
    if !larder::Queue::<()>::names(&cache)?.contains(&name) {
        return Ok(Answer::No);
    }
    show(&line(&cache, &name)?, args)
}

fn line(cache: &Cache, name: &[u8]) -> Result<Line> {
    let queue = open(cache, name)?;
    Ok(Line {
        name: escape::text(name),
        depth: queue.depth()?,
        in_flight: queue.in_flight()?,
        dead: queue.dead()?,
        max_attempts: queue.max_attempts()?,
    })
}

fn show(line: &Line, args: &Shown) -> Result<Answer> {
    print(|output| {
        if args.json {
            serde_json::to_writer(&mut *output, line)?;
            return writeln!(output);
        }
        let Line {
            name,
            depth,
            in_flight,
            dead,
            ..
        } = line;
        writeln!(
            output,
            "{name}: {depth} waiting, {in_flight} leased, {dead} dead"
        )
    })
}
