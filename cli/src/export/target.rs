//! The directory an export writes into.
//!
//! Owns every step below it: each directory on the way is opened from the one above and only when it
//! is no symbolic link, so nothing is ever written outside, whatever others do to the tree meanwhile.
//! Never looks at keys, and never replaces anything unless it was told to.

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, fchmod, mkdirat, openat, symlinkat, unlinkat};
use rustix::io::Errno;

use crate::failure::{Failure, Result};
use crate::tree;

const COPY_BYTES: usize = 128 << 10;
/// Linux takes no longer path, so no longer target of a link.
const LINK_BYTES_MAX: u64 = 4095;
const DIR_FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
const NEW_FILE_FLAGS: OFlags = OFlags::WRONLY
    .union(OFlags::CREATE)
    .union(OFlags::EXCL)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Why one entry could not be written.
pub(crate) enum Trouble {
    /// The store did not give its value.
    Value(io::Error),
    /// The target did not take it.
    File(io::Error),
}

impl From<Errno> for Trouble {
    fn from(errno: Errno) -> Self {
        Self::File(errno.into())
    }
}

pub(crate) struct Target {
    root: OwnedFd,
    /// Whether files and links in the way are replaced.
    force: bool,
    /// The directory used last: neighbours mostly follow each other.
    last: Option<(Vec<u8>, OwnedFd)>,
    buffer: Vec<u8>,
}

impl Target {
    /// Makes the directory if it is missing; unless `force`, one that is there has to be empty.
    pub(crate) fn open(dir: &Path, force: bool) -> Result<Self> {
        fs::create_dir_all(dir).map_err(|cause| Failure::file("create", dir, &cause))?;
        let mut entries = fs::read_dir(dir).map_err(|cause| Failure::file("read", dir, &cause))?;
        if !force && entries.next().is_some() {
            return Err(Failure::new(format!(
                "{} is not empty (--force writes into it)",
                dir.display()
            )));
        }
        let root = File::open(dir).map_err(|cause| Failure::file("open", dir, &cause))?;
        Ok(Self {
            root: root.into(),
            force,
            last: None,
            buffer: vec![0; COPY_BYTES],
        })
    }

    /// Makes a directory whose parents are there; one that is `closed` is nobody else's to look into
    /// until its mode is set.
    pub(crate) fn make_dir(&mut self, path: &[u8], closed: bool) -> Result<(), Trouble> {
        let force = self.force;
        let (parent, name) = self.parent(path)?;
        let mode = Mode::from_raw_mode(if closed { 0o700 } else { 0o777 });
        match mkdirat(parent, name, mode) {
            Err(Errno::EXIST) if force => {}
            outcome => return Ok(outcome?),
        }
        if openat(parent, name, DIR_FLAGS, Mode::empty()).is_ok() {
            return Ok(());
        }
        unlinkat(parent, name, AtFlags::empty())?;
        Ok(mkdirat(parent, name, mode)?)
    }

    /// The root's path is empty.
    pub(crate) fn set_dir_mode(&mut self, path: &[u8], mode: u32) -> Result<(), Trouble> {
        Ok(fchmod(self.dir(path)?, Mode::from_raw_mode(mode))?)
    }

    pub(crate) fn write_file(
        &mut self,
        path: &[u8],
        mode: u32,
        value: &mut impl Read,
    ) -> Result<(), Trouble> {
        let file = self.make(path, |parent, name| {
            openat(parent, name, NEW_FILE_FLAGS, Mode::RUSR | Mode::WUSR)
        })?;
        let mut file = File::from(file);
        let outcome = copy(value, &mut file, &mut self.buffer).and_then(|()| {
            file.set_permissions(Permissions::from_mode(mode))
                .map_err(Trouble::File)
        });
        if outcome.is_err() {
            let (parent, name) = self.parent(path)?;
            // Half a file is worse than none; the first failure is the one to tell.
            let _ = unlinkat(parent, name, AtFlags::empty());
        }
        outcome
    }

    pub(crate) fn make_symlink(
        &mut self,
        path: &[u8],
        value: &mut impl Read,
    ) -> Result<(), Trouble> {
        let mut target = Vec::new();
        value
            .take(LINK_BYTES_MAX + 1)
            .read_to_end(&mut target)
            .map_err(Trouble::Value)?;
        self.make(path, |parent, name| symlinkat(&target[..], parent, name))
    }

    /// Makes something new, in the place of what is there if that is allowed.
    fn make<T>(
        &mut self,
        path: &[u8],
        make: impl Fn(&OwnedFd, &[u8]) -> Result<T, Errno>,
    ) -> Result<T, Trouble> {
        let force = self.force;
        let (parent, name) = self.parent(path)?;
        match make(parent, name) {
            Err(Errno::EXIST) if force => {
                unlinkat(parent, name, AtFlags::empty())?;
                Ok(make(parent, name)?)
            }
            outcome => Ok(outcome?),
        }
    }

    fn parent<'a>(&mut self, path: &'a [u8]) -> Result<(&OwnedFd, &'a [u8]), Trouble> {
        let (dir, name) = tree::split(path);
        Ok((self.dir(dir)?, name))
    }

    /// Walks to a directory, one real directory after the other.
    fn dir(&mut self, path: &[u8]) -> Result<&OwnedFd, Trouble> {
        if path.is_empty() {
            return Ok(&self.root);
        }
        if self.last.as_ref().is_none_or(|(last, _)| last != path) {
            let mut at: Option<OwnedFd> = None;
            for name in path.split(|byte| *byte == b'/') {
                let above = at.as_ref().unwrap_or(&self.root).as_fd();
                at = Some(openat(above, name, DIR_FLAGS, Mode::empty())?);
            }
            self.last = at.map(|dir| (path.to_vec(), dir));
        }
        Ok(self.last.as_ref().map_or(&self.root, |(_, dir)| dir))
    }
}

fn copy(value: &mut impl Read, file: &mut File, buffer: &mut [u8]) -> Result<(), Trouble> {
    loop {
        match value.read(buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => file.write_all(&buffer[..count]).map_err(Trouble::File)?,
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(Trouble::Value(cause)),
        }
    }
}
