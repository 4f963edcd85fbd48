//! What every story about the command needs: a store in a scratch directory, and a short way to
//! run `larder` on it.

#![allow(dead_code, reason = "each test file uses some of it")]

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// A scratch directory with a store in it, which the first writing command makes.
pub(crate) struct Scene {
    dir: TempDir,
}

impl Scene {
    pub(crate) fn new() -> Self {
        Self {
            dir: TempDir::new().expect("a scratch directory"),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.path("store")
    }

    /// The command, to be run on the store.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
        command
            .env_remove("LARDER_STORE")
            .arg("--store")
            .arg(self.store());
        command
            .args(args)
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Outcome {
        Outcome::of(self.command(args).output().expect("larder runs"))
    }

    pub(crate) fn run_with_stdin<S: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
        stdin: &[u8],
    ) -> Outcome {
        let mut command = self.command(args);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("larder runs");
        let mut pipe = child.stdin.take().expect("its stdin is a pipe");
        pipe.write_all(stdin).expect("it reads its stdin");
        drop(pipe);
        Outcome::of(child.wait_with_output().expect("larder ends"))
    }

    /// Runs what has to work, and gives its stdout.
    pub(crate) fn done<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> String {
        let outcome = self.run(args);
        assert_eq!(outcome.status, 0, "{outcome:?}");
        outcome.stdout_text()
    }

    pub(crate) fn has_store(&self) -> bool {
        self.store().exists()
    }
}

pub(crate) struct Outcome {
    pub(crate) status: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

/// As text, so that a failed assertion can be read.
impl std::fmt::Debug for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            status,
            stdout,
            stderr,
        } = self;
        let shown = String::from_utf8_lossy(&stdout[..stdout.len().min(2_000)]);
        write!(f, "exit {status}\nstdout: {shown}\nstderr: {stderr}")
    }
}

impl Outcome {
    pub(crate) fn of(output: Output) -> Self {
        Self {
            status: output.status.code().unwrap_or(-1),
            stdout: output.stdout,
            stderr: String::from_utf8(output.stderr).expect("stderr is text"),
        }
    }

    pub(crate) fn stdout_text(&self) -> String {
        String::from_utf8(self.stdout.clone()).expect("stdout is text")
    }

    /// Exit 2, nothing on stdout, and one line on stderr with all of `words` in it.
    #[track_caller]
    pub(crate) fn assert_refused(&self, words: &[&str]) {
        assert_eq!(self.status, 2, "{self:?}");
        assert!(self.stdout.is_empty(), "{self:?}");
        assert!(self.stderr.starts_with("larder: "), "{self:?}");
        assert_eq!(self.stderr.matches('\n').count(), 1, "{self:?}");
        assert!(self.stderr.ends_with('\n'), "{self:?}");
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is not in {self:?}");
        }
    }

    /// Exit 1 and not a word.
    #[track_caller]
    pub(crate) fn assert_no(&self) {
        assert_eq!(
            (self.status, self.stdout.len(), self.stderr.as_str()),
            (1, 0, ""),
            "{self:?}"
        );
    }
}

/// Every file below `dir`, `dir` left out, in no order.
pub(crate) fn files_below(dir: &Path) -> Vec<PathBuf> {
    let below = walkdir::WalkDir::new(dir).min_depth(1);
    below
        .into_iter()
        .map(|entry| entry.expect("a readable tree").into_path())
        .collect()
}
