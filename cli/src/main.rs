//! The command `larder`: a store from the shell.
//!
//! Owns what becomes of a command line: which function runs it, and the exit status of its answer.
//! Never reads or writes a store itself.

mod args;
mod entries;
mod escape;
mod export;
mod failure;
mod import;
mod interrupt;
mod listing;
mod lock;
mod maintain;
mod memo;
mod pack;
mod progress;
mod queue;
mod reshard;
mod store;
mod tags;
mod time;
mod tree;
mod unpack;
mod upkeep;
mod watch;

use std::process::ExitCode;

use clap::Parser as _;
use clap::error::ErrorKind;

use crate::args::{Cli, Command};
use crate::failure::{Failure, Result, say};
use crate::store::Place;

/// What a command found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// Done, or found.
    Yes,
    /// Missing, not sound, or not all of it.
    No,
    /// The exit status of somebody else's command.
    Status(u8),
}

impl Answer {
    fn yes_if(yes: bool) -> Self {
        if yes { Self::Yes } else { Self::No }
    }
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return misuse(&error),
    };
    match run(cli) {
        Ok(Answer::Yes) | Err(Failure::Closed) => ExitCode::SUCCESS,
        Ok(Answer::No) => ExitCode::from(1),
        Ok(Answer::Status(status)) => ExitCode::from(status),
        Err(failure @ Failure::Said(_)) => {
            say(failure);
            ExitCode::from(2)
        }
    }
}

fn run(cli: Cli) -> Result<Answer> {
    if let Some(what) = cli.command.changes().filter(|_| cli.read_only) {
        return Err(Failure::new(format!(
            "{what}: it cannot be run --read-only"
        )));
    }
    let place = Place::new(cli.store, cli.read_only)?;
    let escaped = cli.escaped;
    match cli.command {
        Command::Set(args) => entries::set(&place, &args, escaped),
        Command::Get(args) => entries::get(&place, &args, escaped),
        Command::Delete(args) => entries::delete(&place, &args, escaped),
        Command::Touch(args) => entries::touch(&place, &args, escaped),
        Command::Incr(args) => entries::incr(&place, &args, escaped),
        Command::Ls(args) => listing::ls(&place, &args, escaped),
        Command::Watch(args) => watch::watch(&place, &args, escaped),
        Command::Stats(args) => upkeep::stats(&place, &args),
        Command::Settings(args) => upkeep::settings(&place, &args),
        Command::Clear => upkeep::clear(&place),
        Command::Evict(args) => tags::evict(&place, &args, escaped),
        Command::Tags(args) => tags::tags(&place, &args),
        Command::Quota(args) => tags::quota(&place, &args, escaped),
        Command::Expire(args) => maintain::expire(&place, &args),
        Command::Cull(args) => maintain::cull(&place, &args),
        Command::Compact(args) => maintain::compact(&place, &args),
        Command::Maintain(args) => maintain::maintain(&place, &args),
        Command::Log(args) => upkeep::log(&place, &args),
        Command::Check(args) => upkeep::check(&place, &args),
        Command::Snapshot(args) => upkeep::snapshot(&place, &args),
        Command::Reshard(args) => reshard::reshard(&place, &args),
        Command::Import(args) => import::import(&place, &args, escaped),
        Command::ImportWorker(args) => import::worker::work(&place, &args),
        Command::Export(args) => export::export(&place, &args, escaped),
        Command::Pack(args) => pack::pack(&place, &args, escaped),
        Command::Unpack(args) => unpack::unpack(&place, &args),
        Command::Memo(args) => memo::memo(&place, &args, escaped),
        Command::Lock(args) => lock::lock(&place, &args, escaped),
        Command::Queue(args) => queue::queue(&place, &args.command, escaped),
    }
}

/// Help and version go to stdout; everything else is one line on stderr.
fn misuse(error: &clap::Error) -> ExitCode {
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    ) {
        // Whoever asked for help and closed the pipe has seen enough.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    if matches!(
        error.kind(),
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    ) {
        say("which command? (see `larder --help`)");
        return ExitCode::from(2);
    }
    let text = error.to_string();
    let words: Vec<&str> = text
        .lines()
        .take_while(|line| !line.is_empty())
        .flat_map(str::split_whitespace)
        .collect();
    let sentence = words.join(" ");
    let sentence = sentence.strip_prefix("error: ").unwrap_or(&sentence);
    say(format_args!("{sentence} (see `larder --help`)"));
    ExitCode::from(2)
}
