//! What can be typed: every command, its arguments, and what `--help` says of them.
//!
//! Owns the shape of the command line and the checks a single argument can pass by itself.
//! Never opens a store.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use larder::Number;

use crate::{escape, time};

/// A store of keys and values in a directory, shared by all processes that open it.
///
/// Exit status: 0 done, 1 the answer is no (a missing key, an unsound store, an entry that did not
/// stay), 2 wrong use or an error, with one line on stderr.
#[derive(Debug, Parser)]
#[command(name = "larder", version)]
pub(crate) struct Cli {
    /// The directory of the store; `set`, `incr`, `settings`, `quota`, `import`, `unpack`, `memo`
    /// and `lock` create it.
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "LARDER_STORE",
        hide_env_values = true
    )]
    pub(crate) store: Option<OsString>,

    /// Keys, prefixes and tags are typed as `ls` shows them (`\xNN` for a byte, `\\` for a backslash).
    #[arg(long, global = true, display_order = 901)]
    pub(crate) escaped: bool,

    /// Change not one byte of the store, for one on a read-only mount or one nobody may write to
    /// meanwhile; only commands that read take it.
    #[arg(long, global = true, display_order = 902)]
    pub(crate) read_only: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Store a value under a key.
    Set(Set),
    /// Write a key's value to stdout, its bytes as they are; exit 1 when there is none.
    Get(OneKey),
    /// Remove a key; exit 1 when it was not there.
    Delete(OneKey),
    /// Change when a key expires; exit 1 when it is not there.
    Touch(Touch),
    /// Add to the number under a key and print the sum.
    Incr(Incr),
    /// List keys, oldest first, one a line.
    Ls(Ls),
    Watch(Watch),
    /// Show what the store holds and what was done with it.
    Stats(Stats),
    /// Show the store's settings, or change some for every process.
    Settings(Settings),
    /// Remove every entry and print how many there were.
    Clear,
    Evict(Evict),
    /// List the tags by name: what their entries take, and the most they may.
    Tags(Tags),
    Quota(Quota),
    /// Remove the entries that have expired.
    ///
    /// They are not seen by anybody, and go by themselves when others are written; this is for a store
    /// to which nobody writes. It costs by those that have expired. Ended in between (Ctrl-C), some have
    /// gone: run it again.
    #[command(verbatim_doc_comment)]
    Expire(Upkeep),
    /// Evict by the store's policy until all its limits hold.
    ///
    /// For a limit that was just lowered: writers see to it that limits hold, as far as cull_limit lets
    /// them. Removes what has expired first. About an eighth of size_limit_bytes is kept free. Ended in
    /// between (Ctrl-C), some have gone: run it again.
    #[command(verbatim_doc_comment)]
    Cull(Upkeep),
    /// Give every dead byte back to the filesystem.
    ///
    /// Copies what lives in files with dead records and removes them, down to a few per cent of dead
    /// bytes. Removes what has expired and what the limits do not allow first. Others read and write
    /// meanwhile. Ended in between (Ctrl-C), every entry is whole and what was given back stays so.
    #[command(verbatim_doc_comment)]
    Compact(Upkeep),
    Maintain(Maintain),
    /// Show the records of the store's log in readable form.
    Log(Log),
    /// Read all of the store and report what is damaged; exit 0 when sound, 1 when not.
    Check(Check),
    Snapshot(Snapshot),
    Reshard(Reshard),
    Import(Import),
    Export(Export),
    Pack(Pack),
    Unpack(Unpack),
    Memo(Memo),
    Lock(Lock),
    Queue(crate::queue::args::Queue),
    /// One of the processes of `import`.
    #[command(hide = true)]
    ImportWorker(ImportWorker),
}

impl Command {
    /// What the command changes in the store; none when it only reads.
    pub(crate) fn changes(&self) -> Option<&'static str> {
        match self {
            Self::Set(_) => Some("set stores a value"),
            Self::Delete(_) => Some("delete removes a key"),
            Self::Touch(_) => Some("touch changes when a key expires"),
            Self::Incr(_) => Some("incr stores a number"),
            Self::Clear => Some("clear removes every entry"),
            Self::Evict(_) => Some("evict removes entries"),
            Self::Quota(_) => Some("quota changes what a tag may take"),
            Self::Expire(_) => Some("expire removes entries"),
            Self::Cull(_) => Some("cull removes entries"),
            Self::Compact(_) => Some("compact copies records and removes files"),
            Self::Maintain(_) => Some("maintain removes entries and files"),
            Self::Import(_) | Self::ImportWorker(_) => Some("import stores files"),
            Self::Memo(_) => Some("memo stores an answer"),
            Self::Lock(_) => Some("lock notes who holds it"),
            Self::Queue(args) => args.command.changes(),
            Self::Unpack(_) => Some("unpack stores entries"),
            Self::Check(args) if args.repair => Some("check --repair mends the store"),
            Self::Snapshot(_) => Some("snapshot ends the segments being written"),
            Self::Reshard(_) => Some("reshard divides the store anew"),
            Self::Stats(args) if args.reset => Some("stats --reset starts counting anew"),
            Self::Settings(args) if !args.changes.is_empty() => {
                Some("NAME=VALUE changes a setting")
            }
            Self::Get(_)
            | Self::Ls(_)
            | Self::Watch(_)
            | Self::Tags(_)
            | Self::Stats(_)
            | Self::Settings(_)
            | Self::Log(_)
            | Self::Check(_)
            | Self::Pack(_)
            | Self::Export(_) => None,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Look at footers, words, lists and counts alone, at no value.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Mend what is damaged: what cannot be read is moved to `damaged/` in the store's directory, and what
    /// was lost is told. Exit 0 when the store is sound then.
    #[arg(long, conflicts_with = "quick")]
    pub(crate) repair: bool,
}

/// Make a store of its own in DIR that holds what this one holds now, by links to the same files where
/// that is possible. Writers go on.
#[derive(Debug, Args)]
pub(crate) struct Snapshot {
    /// An empty directory, or none yet.
    #[arg(value_name = "DIR")]
    pub(crate) dir: std::path::PathBuf,
}

/// Divide a store that is in several shards into another number of them.
///
/// Every entry is copied, with its expiry, tags and order, so it takes as much disk again as the store
/// has. Writers wait meanwhile; whoever has the store open opens it again afterwards. Ended in between
/// (Ctrl-C), nothing was changed.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Reshard {
    /// How many shards there are to be.
    #[arg(value_name = "N", value_parser = clap::value_parser!(u16).range(1..=larder::SHARDS_MAX as i64))]
    pub(crate) shards: u16,
    /// Say what was done as one JSON object: before, after (shards), entries.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct OneKey {
    /// The key, its bytes as they are.
    pub(crate) key: OsString,
}

#[derive(Debug, Args)]
pub(crate) struct Set {
    /// The key, its bytes as they are.
    pub(crate) key: OsString,
    /// The value; `-` or nothing: all of stdin. Put `--` before one that begins with a dash.
    #[arg(allow_negative_numbers = true)]
    pub(crate) value: Option<OsString>,
    /// A tag of the entry; may be given several times.
    #[arg(long = "tag", value_name = "T")]
    pub(crate) tags: Vec<OsString>,
    /// Expire after this long (500ms, 30s, 1h30m, 7d); without it the store's default_ttl applies.
    #[arg(long, value_name = "D", value_parser = time::parse_span)]
    pub(crate) ttl: Option<Duration>,
    /// Each read begins the time of --ttl anew.
    #[arg(long, requires = "ttl")]
    pub(crate) sliding: bool,
    /// What it takes to make the value again: the policy cost-aware weighs it, and `stats` counts it
    /// as saved with each hit.
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = parse_cost)]
    pub(crate) cost: Option<f64>,
}

#[derive(Debug, Args)]
pub(crate) struct Touch {
    /// The key, its bytes as they are.
    pub(crate) key: OsString,
    /// Expire this long from now; without --ttl and --never the store's default_ttl applies.
    #[arg(long, value_name = "D", value_parser = time::parse_span, conflicts_with = "never")]
    pub(crate) ttl: Option<Duration>,
    /// Do not expire at all.
    #[arg(long)]
    pub(crate) never: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Incr {
    /// The key, its bytes as they are.
    pub(crate) key: OsString,
    /// What to add: a whole or a decimal number.
    #[arg(allow_negative_numbers = true, default_value = "1", value_parser = parse_number)]
    pub(crate) delta: Number,
    /// What an absent key counts as.
    #[arg(long = "default", value_name = "N", allow_negative_numbers = true, default_value = "0", value_parser = parse_number)]
    pub(crate) default: Number,
}

#[derive(Debug, Args)]
pub(crate) struct Ls {
    /// Only keys that begin so.
    #[arg(long, value_name = "P")]
    pub(crate) prefix: Option<OsString>,
    /// Only entries with this tag; given several times, with all of them.
    #[arg(long = "tag", value_name = "T")]
    pub(crate) tags: Vec<OsString>,
    /// Newest first.
    #[arg(long)]
    pub(crate) reverse: bool,
    /// At most this many.
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
    /// One JSON object a line: key, size (bytes), kind, tags, expires_at, stored_at.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Show what any process changes, a line a change, until Ctrl-C.
///
/// A line is a position, `set`, `deleted`, `expired`, `culled`, `evicted` or `cleared`, and the key as `ls`
/// shows it. Where changes cannot be told it is a position, `gap`, and why. Each line is written at once.
/// To go on later, give the position of the last line to --from. What expires is told when it is removed.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Watch {
    /// Only keys that begin so.
    #[arg(long, value_name = "P", conflicts_with = "tag")]
    pub(crate) prefix: Option<OsString>,
    /// Only entries that have this tag, or may have had it until the change.
    #[arg(long, value_name = "T")]
    pub(crate) tag: Option<OsString>,
    /// Begin behind this position instead of now; 0: with all that the log still has.
    #[arg(long, value_name = "SEQ")]
    pub(crate) from: Option<u64>,
    /// End after so long (500ms, 5s, 1m; 0: when all there is was told).
    #[arg(long, value_name = "D", value_parser = time::parse_span)]
    pub(crate) timeout: Option<Duration>,
    /// One JSON object a line: seq, kind, key, tags; of a gap seq, kind, from, cause, removed.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Stats {
    /// One JSON object.
    #[arg(long)]
    pub(crate) json: bool,
    /// Start counting anew after showing.
    #[arg(long)]
    pub(crate) reset: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Settings {
    /// A setting and its new value: sizes as 64MiB, spans as 30s or never. Without any: show all.
    #[arg(value_name = "NAME=VALUE", value_parser = parse_assignment)]
    pub(crate) changes: Vec<(String, String)>,
}

#[derive(Debug, Args)]
pub(crate) struct Log {
    /// The segment's number; without it, all segments.
    pub(crate) segment: Option<u64>,
}

/// Remove the entries that have a tag.
///
/// With several tags those that have any of them go, with --all those that have all. It costs by these
/// entries, not by the store. What is stored with the tag meanwhile may stay. Ended in between (Ctrl-C),
/// some have gone and the others are whole: run it again.
///
/// Exit 0 also when nobody had the tags.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Evict {
    /// A tag, its bytes as they are.
    #[arg(required = true, value_name = "TAG")]
    pub(crate) tags: Vec<OsString>,
    /// Only entries that have all of the tags.
    #[arg(long)]
    pub(crate) all: bool,
    /// Say what was done as one JSON object: entries.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Tags {
    /// One JSON object a line: name, entries, bytes, quota_bytes.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Limit what the entries of a tag may take.
///
/// What is too much goes at once, and with every later write: of the same tag, oldest first, so that no
/// tag takes another's room. Says what is left. A quota holds for all processes and is kept, also while
/// nobody has the tag.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Quota {
    /// The tag, its bytes as they are.
    pub(crate) tag: OsString,
    /// The most bytes: a number, or 512KiB, 64MiB, 2GiB; `none`: as many as fit.
    #[arg(value_parser = parse_quota)]
    pub(crate) bytes: Limit,
}

/// A number of bytes, or as many as there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit(pub(crate) Option<u64>);

#[derive(Debug, Args)]
pub(crate) struct Upkeep {
    /// Say what was done as one JSON object: expired, culled (evicted), kept (copied records),
    /// kept_bytes, freed_bytes, is_over, disk_usage_bytes.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Keep the store small, within a budget: expire, cull, compact.
///
/// Writers do the same beside their writes, a little at a time; this is for the hours without writes.
/// Without a budget it ends when nothing is left to do. It goes in steps of under a millisecond; others
/// read and write in between. Ended in between (Ctrl-C), what was done stays done.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Maintain {
    /// End after so long (500ms, 5s, 1m).
    #[arg(long, value_name = "D", value_parser = time::parse_span)]
    pub(crate) time: Option<Duration>,
    /// End after so many bytes of records were copied (a number, or 512KiB, 64MiB, 2GiB).
    #[arg(long, value_name = "BYTES", value_parser = parse_size)]
    pub(crate) bytes: Option<u64>,
    #[command(flatten)]
    pub(crate) report: Upkeep,
}

/// Store a tree of files, with several processes at once.
///
/// A regular file becomes an entry: its key is the prefix and the path below DIR, its value the
/// content, its tag the permission bits as `mode:0644`. A symbolic link becomes an entry with the
/// same key, its target as value and the tag `type:symlink`. A directory becomes an entry whose key
/// ends in `/`, with an empty value and the tags `type:dir` and `mode:0755`; DIR itself has the key
/// `./`. Owners, times and hard links are not kept. Sockets, pipes and devices are named on stderr
/// and left out, and so is the store when it lies below DIR.
///
/// Entries never expire by themselves. What is unchanged since an earlier import is not written
/// again, so an import that was killed completes when it is run again. What was deleted below DIR
/// stays in the store.
///
/// Exit 1 when a file could not be read, or when an entry did not stay because of the store's limits.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Import {
    /// The root of the tree.
    pub(crate) dir: PathBuf,
    /// How many processes share the work [default: one for each processor].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) jobs: Option<u16>,
    /// What every key begins with.
    #[arg(long, value_name = "P", default_value = "", hide_default_value = true)]
    pub(crate) prefix: OsString,
}

#[derive(Debug, Args)]
pub(crate) struct ImportWorker {
    pub(crate) dir: PathBuf,
    #[arg(long)]
    pub(crate) prefix: OsString,
    #[arg(long)]
    pub(crate) index: u16,
    #[arg(long)]
    pub(crate) jobs: u16,
}

/// Write what `import` stored back to a directory.
///
/// DIR is created when it is missing. Entries without the tags of `import` become regular files with
/// mode 0644. A key that is no path below DIR (absolute, `..`, an empty component, a zero byte) is
/// named on stderr and left out, and so is what cannot be written; then the exit status is 1. No
/// symbolic link is ever followed below DIR.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Export {
    /// Where the tree is written.
    pub(crate) dir: PathBuf,
    /// Only keys that begin so; the paths below DIR are what follows it.
    #[arg(long, value_name = "P", default_value = "", hide_default_value = true)]
    pub(crate) prefix: OsString,
    /// Write into a directory that is not empty, replacing files and links of the same name.
    #[arg(long)]
    pub(crate) force: bool,
}

/// Write entries to one file, for `unpack` on this or another machine.
///
/// The file holds keys, values with their kinds, when they expire, and tags, compressed. It appears
/// under its name when it is whole. With --tag and --prefix it holds the entries that satisfy all of
/// them. Each entry is as it is when its turn comes, while others go on writing.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Pack {
    /// The file to write; `-`: stdout.
    pub(crate) file: PathBuf,
    /// Only entries with this tag; given several times, with all of them.
    #[arg(long = "tag", value_name = "T")]
    pub(crate) tags: Vec<OsString>,
    /// Only keys that begin so.
    #[arg(long, value_name = "P")]
    pub(crate) prefix: Option<OsString>,
    /// Replace FILE when there is one.
    #[arg(long)]
    pub(crate) force: bool,
    /// Say what was done as one JSON object: entries, value_bytes, file_bytes.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Store the entries of a file that `pack` wrote.
///
/// The whole file is verified first: when it is damaged, cut short or of a newer version, nothing is
/// changed. Entries with the same keys are overwritten. Entries that have expired are left out. When
/// the store is full half way, what was stored until then stays, and unpacking again goes over it.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Unpack {
    /// The file to read; it is read twice, so no pipe.
    pub(crate) file: PathBuf,
    /// Say what was done as one JSON object: entries, replaced, expired, value_bytes.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Run a command once; afterwards answer its output and exit status from the store.
///
/// The answer's key is `memo:` and a hash of:
/// - the words of COMMAND,
/// - the current directory,
/// - every --env NAME with its value, or with the fact that it is not set,
/// - every --file PATH with its content.
///
/// Nothing else is in it: not the rest of the environment, not the program's own file, not the time.
/// Neither is stdin, so COMMAND gets an empty one.
///
/// A run shows its output while it runs. An answer gives all of stdout, then all of stderr. Of many
/// that ask at once one runs COMMAND and the others wait for its answer. An exit status other than 0
/// is an answer too; a COMMAND killed by a signal is not stored, and the status is 128 + the signal.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Memo {
    /// Forget the answer after this long; without it the store's default_ttl applies.
    #[arg(long, value_name = "D", value_parser = time::parse_span)]
    pub(crate) ttl: Option<Duration>,
    /// A tag of the answer's entry; may be given several times.
    #[arg(long = "tag", value_name = "T")]
    pub(crate) tags: Vec<OsString>,
    /// A variable of the environment the answer depends on; may be given several times.
    #[arg(long = "env", value_name = "NAME")]
    pub(crate) env: Vec<OsString>,
    /// A file whose content the answer depends on; may be given several times.
    #[arg(long = "file", value_name = "PATH")]
    pub(crate) files: Vec<PathBuf>,
    /// A program and its words.
    #[arg(last = true, required = true)]
    pub(crate) command: Vec<OsString>,
}

/// Run a command while nobody else holds the lock of this name.
///
/// Waits for it, without a word, and exits as COMMAND does: with its status, or 128 + the signal that
/// ended it. When the lock is not had in time, COMMAND does not run, and the status is 2. COMMAND finds
/// in LARDER_TOKEN a number higher than that of every holder before, for what refuses lower ones.
///
/// The lock is the library's `Lock`, and dies with this `larder` however it ends; COMMAND may go on then.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Lock {
    /// The lock, not a key: it has nothing to do with the entry of that name.
    pub(crate) name: OsString,
    /// Wait at most this long; without it for as long as it takes.
    #[arg(long, value_name = "D", value_parser = time::parse_span)]
    pub(crate) timeout: Option<Duration>,
    /// Let others have it after this long, though COMMAND still runs; without it never.
    #[arg(long, value_name = "D", value_parser = time::parse_span)]
    pub(crate) expiry: Option<Duration>,
    /// A program and its words.
    #[arg(last = true, required = true)]
    pub(crate) command: Vec<OsString>,
}

/// The bytes an argument stands for, `escaped` or as they are.
pub(crate) fn bytes(argument: &OsString, escaped: bool) -> Result<Vec<u8>, String> {
    if escaped {
        escape::bytes(argument.as_bytes())
    } else {
        Ok(argument.as_bytes().to_vec())
    }
}

/// A number is whole when it is written so; one too big for that is not rounded but refused.
fn parse_number(text: &str) -> Result<Number, String> {
    let digits = text.trim_start_matches(['+', '-']);
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return text
            .parse()
            .map(Number::Int)
            .map_err(|_| "too big for a whole number of 64 bits".to_owned());
    }
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(Number::Float(number)),
        _ => Err("not a number".to_owned()),
    }
}

/// The notation of sizes is that of the settings.
fn parse_size(text: &str) -> Result<u64, String> {
    let mut settings = larder::Settings::default();
    settings
        .set_by_name("size_limit_bytes", text)
        .map_err(|_| "write bytes, or 512KiB, 64MiB, 2GiB".to_owned())?;
    Ok(settings.size_limit_bytes)
}

fn parse_quota(text: &str) -> Result<Limit, String> {
    if text == "none" {
        return Ok(Limit(None));
    }
    match parse_size(text) {
        Ok(0) => Err("0 bytes hold no entry: evict the tag instead".to_owned()),
        Ok(bytes) => Ok(Limit(Some(bytes))),
        Err(why) => Err(format!("{why}, or none")),
    }
}

fn parse_cost(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds.is_finite() && seconds >= 0.0 => Ok(seconds),
        _ => Err("write it as seconds: 0.25, 12".to_owned()),
    }
}

fn parse_assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write it as NAME=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_commands_fit_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_are_written_as_in_settings() {
        assert_eq!(parse_size("64MiB"), Ok(64 << 20));
        assert_eq!(parse_size("0"), Ok(0));
        assert_eq!(parse_quota("none"), Ok(Limit(None)));
        assert_eq!(parse_quota("1KiB"), Ok(Limit(Some(1_024))));
        for text in ["", "-1", "64MB", "1.5KiB", "0", "never"] {
            assert!(parse_quota(text).is_err(), "{text}");
        }
        assert_eq!(parse_cost("0.5"), Ok(0.5));
        for text in ["", "-1", "inf", "nan", "5s"] {
            assert!(parse_cost(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_keep_their_kind() {
        assert!(matches!(parse_number("-7"), Ok(Number::Int(-7))));
        assert!(matches!(parse_number("0.5"), Ok(Number::Float(half)) if half == 0.5));
        for text in [
            "",
            "-",
            "seven",
            "inf",
            "nan",
            "1e999",
            "9223372036854775808",
        ] {
            assert!(parse_number(text).is_err(), "{text}");
        }
    }
}
