//! What can go wrong, each as a sentence a person can act on.
//!
//! Owns the one error type of the library. Never decides what to do about it.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// The library's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything the library answers instead of a value.
///
/// | variant | returned when | what is left |
/// |---|---|---|
/// | [`Full`](Error::Full) | `size_limit_bytes` would be passed by the next step of space | the store as it was; reads and deletes work |
/// | [`NoSpace`](Error::NoSpace) | the filesystem refused space (`ENOSPC`, `EDQUOT`) | the store as it was; reads and deletes work |
/// | [`TooLarge`](Error::TooLarge) | a key, tag or number of tags is above its limit; a value alone is larger than `size_limit_bytes`; a batch is above its limits; more than 64 large values are on their way | the store as it was |
/// | [`Busy`](Error::Busy) | the writer lock, the opening of the store or a held name was not had in time; a store to be opened read-only is open for writing; an entry changed 100,000 times under a reader | what [`Error::removed`] says was done, nothing else |
/// | [`NotHeld`](Error::NotHeld) | a lock or permit that is given back or extended has expired, or was given back before | others' locks as they are |
/// | [`Corrupt`](Error::Corrupt) | bytes on disk are not what was written | every other entry; the damaged bytes stay where they are |
/// | [`DamagedPack`](Error::DamagedPack) | a packed file is none, is cut short, or is not what was written | the store as it was, unless the file changed while it was unpacked |
/// | [`ReadOnly`](Error::ReadOnly) | a verb that writes, on a handle that was opened to read alone | the store as it was |
/// | [`Unsupported`](Error::Unsupported) | a newer format or an unknown feature; a filesystem larder cannot share; `get_mapped` of a value that is not its bytes; a 129th handle; 65,534 segments | not one byte changed |
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store's own limit is reached and nothing may be evicted for the new entry.
    #[error(
        "the store is full: {needed_bytes} more bytes would pass its size_limit_bytes of {limit_bytes}; \
         raise the limit (nothing was changed)"
    )]
    Full {
        /// The limit, bytes on disk.
        limit_bytes: u64,
        /// The step in which space would have been taken, bytes: more than the entry itself.
        needed_bytes: u64,
    },
    /// The filesystem has no room left; nothing was changed.
    #[error("no space left on the filesystem of {path}{} (nothing was changed)", asked(.needed_bytes))]
    NoSpace {
        /// The file that should have grown.
        path: PathBuf,
        /// How many bytes were asked for; 0 when the system did not say.
        needed_bytes: u64,
    },
    /// This can never fit, whatever else is removed.
    #[error(
        "{what} of {bytes} bytes is too large: at most {max_bytes} bytes (nothing was changed)"
    )]
    TooLarge {
        /// What is too large, and its unit: `a key (bytes)`, `the number of tags`, …
        what: &'static str,
        /// Its size.
        bytes: u64,
        /// The most that is taken.
        max_bytes: u64,
    },
    /// Somebody else held what was waited for until the deadline.
    #[error("{}", busy_sentence(.what, .holder_pid, .held_since, .waited, .removed))]
    Busy {
        /// What was waited for: `the store`, `the opening of the store`, `this name`, …
        what: &'static str,
        /// The process that held the lock, as it called itself; 0 when unknown.
        holder_pid: u32,
        /// When it took the lock, by its own clock.
        held_since: Option<SystemTime>,
        /// How long this call waited.
        waited: Duration,
        /// Entries a bulk verb had handled before it gave up.
        removed: u64,
    },
    /// This handle was opened with [`Builder::read_only`](crate::Builder::read_only).
    #[error("{path} was opened read-only; nothing was changed")]
    ReadOnly {
        /// The store's directory.
        path: PathBuf,
    },
    /// Bytes on disk are not what was written there.
    #[error("{path} is damaged at byte {offset}: {what}; every other entry can still be read")]
    Corrupt {
        /// The damaged file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        what: String,
    },
    /// A packed file is none, is cut short, or its bytes are not what was written.
    #[error("{path} is not a sound packed file: {what} (byte {offset})")]
    DamagedPack {
        /// The file, as the caller named it.
        path: PathBuf,
        /// How far it was read; what is wrong stands there or before.
        offset: u64,
        /// What is wrong.
        what: String,
    },
    /// A format, feature or filesystem this version does not handle; nothing was changed.
    #[error("{path} is not supported: {what} (nothing was changed)")]
    Unsupported {
        /// The file or directory.
        path: PathBuf,
        /// What is not supported, and what to do.
        what: String,
    },
    /// The directory holds no store, or something that is not one.
    #[error("{path} is not a larder store: {what} (nothing was changed)")]
    NotAStore {
        /// The directory.
        path: PathBuf,
        /// Why not.
        what: String,
    },
    /// A file this handle shares with others was removed or replaced under it.
    #[error(
        "{path} was removed or replaced while the store was open; nothing more is written there: open the store again"
    )]
    Moved {
        /// The file that is no longer what it was.
        path: PathBuf,
    },
    /// `incr` or `decr` met a value that is no number; it is unchanged.
    #[error("the value under this key is {found}, not a number; it is unchanged")]
    NotANumber {
        /// What kind of value it is.
        found: String,
    },
    /// `incr` or `decr` would leave the range of a 64-bit number; the value is unchanged.
    #[error(
        "{value} and {delta} more would pass what a 64-bit number holds; the value is unchanged"
    )]
    Overflow {
        /// The value as it is.
        value: String,
        /// What should have been added; with a minus, subtracted.
        delta: String,
    },
    /// A typed read met a value of another type or codec.
    #[error("the value was written as {found}, not as {expected}")]
    WrongType {
        /// What the caller asked for.
        expected: String,
        /// What the record says.
        found: String,
    },
    /// A codec could not encode or decode.
    #[error("{what}")]
    Codec {
        /// What the codec said.
        what: String,
    },
    /// A setting that cannot be.
    #[error("setting {name}: {what} (nothing was changed)")]
    InvalidSetting {
        /// Which one.
        name: String,
        /// Why, and what would do.
        what: String,
    },
    /// A key that cannot be encoded.
    #[error("this key cannot be used: {what}")]
    InvalidKey {
        /// Why.
        what: String,
    },
    /// For a transaction's closure to give up with: everything it did is rolled back. Also what a verb
    /// that cannot run inside a transaction answers there.
    #[error("{what}")]
    Aborted {
        /// The closure's reason.
        what: String,
    },
    /// A lock or permit that is to be given back or extended is not held in this way any more.
    #[error(
        "{what}, {name:?}, is not held with token {token}: {why} (nothing of others was changed)"
    )]
    NotHeld {
        /// What it is: `this lock`, `this semaphore`, …
        what: &'static str,
        /// Its name.
        name: String,
        /// The fencing token by which it was thought to be held.
        token: u64,
        /// Why not, and who has it.
        why: String,
    },
    /// This transaction, or what is to be given back, belongs to the process before a fork.
    #[error("this belongs to the process that was forked; the child begins its own")]
    Forked,
    /// The system refused a call.
    #[error("{doing} {path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

impl Error {
    /// Entries a bulk verb (`clear`, …) had handled before this error ended it; 0 for others.
    #[must_use]
    pub fn removed(&self) -> u64 {
        match self {
            Error::Busy { removed, .. } => *removed,
            _ => 0,
        }
    }

    pub(crate) fn after_removing(mut self, count: u64) -> Self {
        if let Error::Busy { removed, .. } = &mut self {
            *removed = count;
        }
        self
    }

    /// A failed system call, told apart by its number.
    pub(crate) fn io(doing: &'static str, path: impl AsRef<Path>, source: std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        match source.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => Error::NoSpace {
                path,
                needed_bytes: 0,
            },
            _ => Error::Io {
                path,
                doing,
                source,
            },
        }
    }

    pub(crate) fn corrupt(path: impl AsRef<Path>, offset: u64, what: impl Into<String>) -> Self {
        Error::Corrupt {
            path: path.as_ref().to_path_buf(),
            offset,
            what: what.into(),
        }
    }

    pub(crate) fn setting(name: &str, what: impl Into<String>) -> Self {
        Error::InvalidSetting {
            name: name.to_string(),
            what: what.into(),
        }
    }
}

fn asked(bytes: &u64) -> String {
    if *bytes == 0 {
        String::new()
    } else {
        format!(": {bytes} bytes were refused")
    }
}

fn busy_sentence(
    what: &str,
    pid: &u32,
    since: &Option<SystemTime>,
    waited: &Duration,
    removed: &u64,
) -> String {
    let mut text = if waited.is_zero() {
        format!("{what} is taken")
    } else {
        format!("{what} is still taken after {waited:.1?}")
    };
    if *pid != 0 {
        text.push_str(&format!(" by process {pid}"));
    }
    if let Some(since) = since {
        let held = SystemTime::now().duration_since(*since).unwrap_or_default();
        text.push_str(&format!(", which has held it for about {:.1?}", held));
    }
    if *removed > 0 {
        text.push_str(&format!(" ({removed} entries were handled before)"));
    }
    text
}
