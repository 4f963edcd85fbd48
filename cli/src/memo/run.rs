//! One run of a command: shown while it runs, and kept aside for the store.
//!
//! Owns the pipes from the command and the files that hold what came through.
//! Never holds the output in memory as a whole, and never touches a store.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek as _, Write, stderr, stdout};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;

use crate::failure::{Failure, Result};

const TEE_BYTES: usize = 64 << 10;

/// A command that came to its end with all of its output shown.
pub(crate) struct Run {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Spool,
    pub(crate) stderr: Spool,
}

impl Run {
    /// # Errors
    /// `Closed` when nobody read the output to its end: then it is not whole.
    pub(crate) fn of(command: &[OsString]) -> Result<Self> {
        let Some((program, words)) = command.split_first() else {
            return Err(Failure::new("which command?"));
        };
        let (mut out, mut err) = (Spool::new()?, Spool::new()?);
        let mut child = Command::new(program)
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|cause| Failure::new(format!("cannot run {}: {cause}", program.display())))?;
        let (from_out, from_err) = (child.stdout.take(), child.stderr.take());
        let shown = thread::scope(|scope| {
            let other = scope.spawn(|| tee(from_err, stderr(), &mut err));
            let ours = tee(from_out, stdout(), &mut out);
            ours.and(
                other
                    .join()
                    .unwrap_or_else(|_| Err(Failure::new("lost the command's stderr"))),
            )
        });
        let status = child
            .wait()
            .map_err(|cause| Failure::new(format!("cannot wait for the command: {cause}")))?;
        shown?;
        Ok(Self {
            status,
            stdout: out,
            stderr: err,
        })
    }

    /// The status as a shell gives it: 128 and the signal that ended the command.
    pub(crate) fn shell_status(&self) -> u8 {
        let signal = self.status.signal().unwrap_or(0);
        u8::try_from(128 + signal).unwrap_or(u8::MAX)
    }
}

/// What came through one pipe, in a file without a name.
pub(crate) struct Spool {
    file: File,
    bytes: u64,
}

impl Spool {
    fn new() -> Result<Self> {
        Ok(Self {
            file: tempfile::tempfile().map_err(|cause| spool_failure(&cause))?,
            bytes: 0,
        })
    }

    /// Back to its first byte; says how many there are.
    pub(crate) fn rewind(&mut self) -> Result<u64> {
        self.file.rewind().map_err(|cause| spool_failure(&cause))?;
        Ok(self.bytes)
    }
}

impl Read for Spool {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }
}

fn spool_failure(cause: &io::Error) -> Failure {
    Failure::new(format!(
        "cannot keep the command's output in a temporary file: {cause}"
    ))
}

/// Shows and keeps everything that comes. Dropping the pipe early is what tells the command that
/// nobody listens any more.
fn tee(pipe: Option<impl Read>, mut shown: impl Write, kept: &mut Spool) -> Result<()> {
    let Some(mut pipe) = pipe else { return Ok(()) };
    let mut buffer = vec![0; TEE_BYTES];
    loop {
        let count = match pipe.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
            Err(cause) => {
                return Err(Failure::new(format!(
                    "cannot read the command's output: {cause}"
                )));
            }
        };
        let part = &buffer[..count];
        shown
            .write_all(part)
            .and_then(|()| shown.flush())
            .map_err(|cause| Failure::output(&cause))?;
        kept.file
            .write_all(part)
            .map_err(|cause| spool_failure(&cause))?;
        kept.bytes += count as u64;
    }
}
