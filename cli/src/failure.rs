//! What goes wrong in a command, and how it is said: one line on stderr that begins `larder: `.
//!
//! Owns the words between a failure and the terminal, and what ends quietly instead.
//! Never decides an exit status; that is `main`'s.

use std::fmt::{Display, Formatter};
use std::io;
use std::path::Path;

use crate::escape;

pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

/// Why a command stopped.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Whoever read our output went away: nothing is wrong and nobody is left to tell.
    Closed,
    /// A sentence for stderr.
    Said(String),
}

impl Failure {
    pub(crate) fn new(sentence: impl Into<String>) -> Self {
        Self::Said(sentence.into())
    }

    /// An operation of the system on a file did not work.
    pub(crate) fn file(doing: &str, path: &Path, cause: &io::Error) -> Self {
        Self::Said(format!("cannot {doing} {}: {cause}", path.display()))
    }

    /// Writing to our own stdout or stderr did not work.
    pub(crate) fn output(cause: &io::Error) -> Self {
        match cause.kind() {
            io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Said(format!("cannot write the output: {cause}")),
        }
    }
}

impl From<larder::Error> for Failure {
    fn from(error: larder::Error) -> Self {
        Self::Said(error.to_string())
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Closed => f.write_str("the reader of the output went away"),
            Self::Said(sentence) => f.write_str(sentence),
        }
    }
}

/// The sentence about damage in one place, for who can go on with the rest of the store.
///
/// # Errors
/// Whatever is not damage.
pub(crate) fn damage(error: larder::Error) -> Result<String> {
    match error {
        larder::Error::Corrupt { .. } => Ok(error.to_string()),
        other => Err(other.into()),
    }
}

/// Says one sentence on stderr, on one line whatever names are in it.
pub(crate) fn say(sentence: impl Display) {
    use std::io::Write as _;
    let line = format!("larder: {}\n", escape::one_line(&sentence.to_string()));
    // Nobody can be told that stderr does not work.
    let _ = io::stderr().write_all(line.as_bytes());
}
