//! flock, held by a file description of its own, that a forked child can neither keep nor release.
//!
//! `fs2`'s names are shadowed by `std::fs::File`'s, so they are called fully qualified. Never waits
//! without a deadline; never decides what a lock means.

use std::fs::File;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::format::name::Name;
use crate::os::dir::Dir;
use crate::os::raw;

/// A lock on one of the store's lock files, released when dropped.
#[derive(Debug)]
pub(crate) struct FileLock {
    file: Option<File>,
    seat: usize,
    forks: u64,
    pub(crate) inode: u64,
}

impl FileLock {
    /// Tries once; `None`: somebody else has it.
    pub(crate) fn try_take(dir: &Dir, name: Name) -> Result<Option<FileLock>> {
        let open = || dir.open_lock(name);
        Self::try_lock(dir, name, open, fs2::FileExt::try_lock_exclusive)
    }

    fn try_lock(
        dir: &Dir,
        name: Name,
        open: impl FnOnce() -> Result<File>,
        try_lock: impl FnOnce(&File) -> std::io::Result<()>,
    ) -> Result<Option<FileLock>> {
        let lock = raw::without_fork(|| -> Result<FileLock> {
            let file = open()?;
            let inode = dir.stat_open(name, &file)?.inode;
            let Some(seat) = raw::register_lock(file.as_raw_fd()) else {
                return Err(too_many(dir, name));
            };
            Ok(FileLock {
                file: Some(file),
                seat,
                forks: raw::forks(),
                inode,
            })
        })?;
        match lock.file.as_ref().map(try_lock) {
            Some(Err(error)) if is_contended(&error) => Ok(None),
            Some(Err(error)) => Err(Error::io("locking", dir.path_of(name), error)),
            _ => Ok(Some(lock)),
        }
    }

    /// Waits for the lock until `timeout` has passed (`None`: for ever).
    pub(crate) fn take(dir: &Dir, name: Name, timeout: Option<Duration>) -> Result<FileLock> {
        Self::wait(dir, name, timeout, || Self::try_take(dir, name))
    }

    /// The same for a lock that several hold at once while nobody takes it: the file is there already
    /// and is only read. `None`: it is not there.
    pub(crate) fn share(
        dir: &Dir,
        name: Name,
        timeout: Option<Duration>,
    ) -> Result<Option<FileLock>> {
        if dir.stat(name)?.is_none() {
            return Ok(None);
        }
        let open = || {
            dir.open_to_read(name)?.ok_or_else(|| Error::Moved {
                path: dir.path_of(name),
            })
        };
        let try_lock = || Self::try_lock(dir, name, open, fs2::FileExt::try_lock_shared);
        Self::wait(dir, name, timeout, try_lock).map(Some)
    }

    /// As [`FileLock::share`], of a file that is made when it is not there.
    pub(crate) fn share_made(dir: &Dir, name: Name, timeout: Option<Duration>) -> Result<FileLock> {
        let open = || dir.open_lock(name);
        let try_lock = || Self::try_lock(dir, name, open, fs2::FileExt::try_lock_shared);
        Self::wait(dir, name, timeout, try_lock)
    }

    fn wait(
        dir: &Dir,
        name: Name,
        timeout: Option<Duration>,
        try_lock: impl Fn() -> Result<Option<FileLock>>,
    ) -> Result<FileLock> {
        let start = Instant::now();
        let mut pause = Duration::from_micros(50);
        loop {
            if let Some(lock) = try_lock()? {
                // Whoever replaced the file in between has another lock.
                if dir.stat(name)?.is_some_and(|stat| stat.inode == lock.inode) {
                    return Ok(lock);
                }
            }
            if timeout.is_some_and(|timeout| start.elapsed() >= timeout) {
                let stat = dir.stat(name)?;
                let is_shared = stat.is_some_and(|stat| {
                    // Who has it alone would not let it be shared.
                    matches!(is_held(dir, name, stat.inode), Ok(false))
                });
                return Err(Error::Busy {
                    what: match (name, is_shared) {
                        (Name::Pin, _) => "the store's files (somebody removes or links some)",
                        (_, true) => "the opening of the store (somebody has it open read-only)",
                        _ => "the opening of the store",
                    },
                    holder_pid: 0,
                    held_since: None,
                    waited: start.elapsed(),
                    removed: 0,
                });
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(10));
        }
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        let Some(file) = self.file.take() else { return };
        if raw::forks() != self.forks {
            // The child of a fork: its copy of the descriptor is closed already.
            let _ = file.into_raw_fd();
            return;
        }
        // First the lock, for every copy of the description; then the descriptor.
        let _ = fs2::FileExt::unlock(&file);
        raw::without_fork(|| {
            raw::forget_lock(self.seat);
            drop(file);
        });
    }
}

pub(crate) fn too_many(dir: &Dir, name: Name) -> Error {
    let error = std::io::Error::other("more than 1024 locks are held by this process");
    Error::io("locking", dir.path_of(name), error)
}

fn is_contended(error: &std::io::Error) -> bool {
    error.raw_os_error() == fs2::lock_contended_error().raw_os_error()
}

/// Whether somebody alive holds `name` exclusively. Asks with a *shared* try-lock, which two can hold.
///
/// # Errors
/// [`Error::Moved`] when the file is missing or is not the one with `inode`: that is no dead holder.
pub(crate) fn is_held(dir: &Dir, name: Name, inode: u64) -> Result<bool> {
    let Some(file) = dir.open_file(name)? else {
        return Err(Error::Moved {
            path: dir.path_of(name),
        });
    };
    if dir.stat_open(name, &file)?.inode != inode {
        return Err(Error::Moved {
            path: dir.path_of(name),
        });
    }
    match fs2::FileExt::try_lock_shared(&file) {
        Ok(()) => Ok(false),
        Err(error) if is_contended(&error) => Ok(true),
        Err(error) => Err(Error::io("testing the lock", dir.path_of(name), error)),
    }
}
