//! The one door for file calls: a store's directory, and the files in it by name.
//!
//! Holds: names are opened relative to the directory, no symbolic link is followed, everything made
//! is for its owner alone, and every failed call names its file; one that is only read is never
//! asked to change: what is made, renamed or removed there lives in memory, with this value. Never
//! knows what a file holds.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags};

use crate::error::{Error, Result};
use crate::format::name::Name;
use crate::os::overlay::{Layer, Overlay};

/// Where damaged files go.
const ASIDE: &str = "damaged";

/// What the filesystem says of a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stat {
    pub(crate) inode: u64,
    pub(crate) len: u64,
    /// Bytes on disk.
    pub(crate) disk: u64,
}

/// A directory that holds a store.
#[derive(Debug)]
pub(crate) struct Dir {
    path: PathBuf,
    fd: OwnedFd,
    /// There is one when the directory is only read.
    overlay: Option<Overlay>,
}

impl Dir {
    /// Opens the directory `path`; makes it, for its owner alone, when `create` says so.
    pub(crate) fn open(path: &Path, create: bool) -> Result<Dir> {
        if create {
            match std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700)
                .recursive(true)
                .create(path)
            {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Error::io("making the directory", path, error)),
            }
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(fd) => {
                let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
                Ok(Dir {
                    path,
                    fd,
                    overlay: None,
                })
            }
            Err(rustix::io::Errno::NOTDIR) => Err(Error::NotAStore {
                path: path.into(),
                what: "it is not a directory".into(),
            }),
            Err(rustix::io::Errno::NOENT) => Err(Error::NotAStore {
                path: path.into(),
                what: "there is nothing".into(),
            }),
            Err(errno) => Err(Error::io("opening the directory", path, errno.into())),
        }
    }

    /// Opens a directory of which nothing is changed, whatever is asked for.
    pub(crate) fn open_read_only(path: &Path) -> Result<Dir> {
        Ok(Dir {
            overlay: Some(Overlay::default()),
            ..Dir::open(path, false)?
        })
    }

    #[inline]
    pub(crate) fn is_read_only(&self) -> bool {
        self.overlay.is_some()
    }

    /// What this handle has put in a name's place.
    fn layer(&self, name: Name) -> Result<Layer> {
        match &self.overlay {
            None => Ok(Layer::Disk),
            Some(overlay) => overlay
                .find(name)
                .map_err(|error| Error::io("opening", self.path_of(name), error)),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn path_of(&self, name: Name) -> PathBuf {
        self.path.join(name.to_string())
    }

    pub(crate) fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn open_with(&self, name: Name, flags: OFlags) -> Result<Option<File>> {
        match self.layer(name)? {
            Layer::Disk => {}
            Layer::Memory(file) => return Ok(Some(file)),
            Layer::Gone => return Ok(None),
        }
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let fd = loop {
            match rustix::fs::openat(&self.fd, name.to_string(), flags, Mode::RUSR | Mode::WUSR) {
                Ok(fd) => break fd,
                Err(rustix::io::Errno::NOENT) => return Ok(None),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::LOOP) => {
                    return Err(Error::corrupt(
                        self.path_of(name),
                        0,
                        "a symbolic link stands where a file of the store should be",
                    ));
                }
                Err(errno) => return Err(Error::io("opening", self.path_of(name), errno.into())),
            }
        };
        let stat = rustix::fs::fstat(&fd)
            .map_err(|errno| Error::io("asking about", self.path_of(name), errno.into()))?;
        if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() {
            return Err(Error::corrupt(
                self.path_of(name),
                0,
                "this is no regular file",
            ));
        }
        Ok(Some(File::from(fd)))
    }

    /// Opens a file for reading and writing, on a directory that is only read for reading alone;
    /// `None`: there is none.
    pub(crate) fn open_file(&self, name: Name) -> Result<Option<File>> {
        let flags = if self.is_read_only() {
            OFlags::RDONLY
        } else {
            OFlags::RDWR
        };
        self.open_with(name, flags)
    }

    /// Opens a file for reading alone; `None`: there is none.
    pub(crate) fn open_to_read(&self, name: Name) -> Result<Option<File>> {
        self.open_with(name, OFlags::RDONLY)
    }

    /// Opens a lock file, making it when it is not there. On a directory that is only read it is one
    /// that nobody else sees.
    pub(crate) fn open_lock(&self, name: Name) -> Result<File> {
        if self.is_read_only() && !matches!(self.layer(name)?, Layer::Memory(_)) {
            return self.create(name);
        }
        match self.open_with(name, OFlags::RDWR | OFlags::CREATE)? {
            Some(file) => Ok(file),
            None => Err(Error::Moved {
                path: self.path.clone(),
            }),
        }
    }

    /// Makes a new, empty file; one that is there already goes first.
    pub(crate) fn create(&self, name: Name) -> Result<File> {
        if let Some(overlay) = &self.overlay {
            return overlay
                .create(name)
                .map_err(|error| Error::io("making", self.path_of(name), error));
        }
        self.remove(name)?;
        match self.open_with(name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)? {
            Some(file) => Ok(file),
            None => Err(Error::Moved {
                path: self.path.clone(),
            }),
        }
    }

    /// Removes a file; one that is not there is gone.
    pub(crate) fn remove(&self, name: Name) -> Result<()> {
        if let Some(overlay) = &self.overlay {
            overlay.remove(name);
            return Ok(());
        }
        match rustix::fs::unlinkat(&self.fd, name.to_string(), AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(errno) => Err(Error::io("removing", self.path_of(name), errno.into())),
        }
    }

    /// Gives `from` the name `to`, at once.
    pub(crate) fn rename(&self, from: Name, to: Name) -> Result<()> {
        if let Some(overlay) = &self.overlay {
            let file = self.open_file(from)?.ok_or(Error::Moved {
                path: self.path_of(from),
            })?;
            overlay.put(to, file);
            overlay.remove(from);
            return Ok(());
        }
        rustix::fs::renameat(&self.fd, from.to_string(), &self.fd, to.to_string())
            .map_err(|errno| Error::io("renaming", self.path_of(from), errno.into()))
    }

    /// Gives a file the same name in another directory too; `false`: it cannot be linked there.
    pub(crate) fn link(&self, name: Name, to: &Dir) -> Result<bool> {
        use rustix::io::Errno;
        let text = name.to_string();
        match rustix::fs::linkat(&self.fd, &text, &to.fd, &text, AtFlags::empty()) {
            Ok(()) => Ok(true),
            // Another filesystem, one without links, somebody else's file, or too many links.
            Err(Errno::XDEV | Errno::PERM | Errno::OPNOTSUPP | Errno::MLINK) => Ok(false),
            Err(Errno::NOENT) => Err(Error::Moved {
                path: self.path_of(name),
            }),
            Err(errno) => Err(Error::io("linking", to.path_of(name), errno.into())),
        }
    }

    /// Copies a file to another directory, holes left out, and waits for the disk. Returns the bytes
    /// copied.
    pub(crate) fn copy(&self, name: Name, to: &Dir) -> Result<u64> {
        const PIECE: u64 = 1 << 20;
        let Some(from) = self.open_to_read(name)? else {
            return Err(Error::Moved {
                path: self.path_of(name),
            });
        };
        let file = to.create(name)?;
        let len = self.stat_open(name, &from)?.len;
        to.set_len(name, &file, len)?;
        let (mut at, mut copied) = (0, 0);
        while at < len {
            // Where holes cannot be asked for, all is data.
            let data = match rustix::fs::seek(&from, rustix::fs::SeekFrom::Data(at)) {
                Ok(data) => data,
                Err(rustix::io::Errno::NXIO) => break,
                Err(_) => at,
            };
            let hole = rustix::fs::seek(&from, rustix::fs::SeekFrom::Hole(data)).unwrap_or(len);
            at = data;
            while at < hole {
                let bytes = self.read_at(name, &from, at, PIECE.min(hole - at) as usize)?;
                if bytes.is_empty() {
                    break;
                }
                to.write_at(name, &file, at, &bytes)?;
                at += bytes.len() as u64;
                copied += bytes.len() as u64;
            }
            at = at.max(hole);
        }
        to.sync(name, &file)?;
        Ok(copied)
    }

    /// Moves a file into the directory `damaged` in this one, which is made when it is not there; nothing
    /// there is replaced. Returns its path, durable.
    pub(crate) fn set_aside(&self, name: Name) -> Result<PathBuf> {
        use rustix::io::Errno;
        let path = self.path.join(ASIDE);
        let fault = |doing, errno: Errno| Error::io(doing, &path, errno.into());
        match rustix::fs::mkdirat(&self.fd, ASIDE, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(fault("making the directory", errno)),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let aside = rustix::fs::openat(&self.fd, ASIDE, flags, Mode::empty())
            .map_err(|errno| fault("opening the directory", errno))?;
        let from = name.to_string();
        for n in 0.. {
            let to = match n {
                0 => from.clone(),
                n => format!("{from}.{n}"),
            };
            let keep = rustix::fs::RenameFlags::NOREPLACE;
            match rustix::fs::renameat_with(&self.fd, &from, &aside, &to, keep) {
                Ok(()) => {
                    rustix::fs::fsync(&aside)
                        .map_err(|errno| fault("syncing the directory", errno))?;
                    self.sync_names()?;
                    return Ok(path.join(to));
                }
                Err(Errno::EXIST) if n < 1_000 => {}
                Err(errno) => return Err(fault("moving a file to", errno)),
            }
        }
        unreachable!("the loop ends by returning")
    }

    /// What stands under `name`; `None`: nothing.
    pub(crate) fn stat(&self, name: Name) -> Result<Option<Stat>> {
        match self.layer(name)? {
            Layer::Disk => self.stat_on_disk(name),
            Layer::Memory(file) => self.stat_open(name, &file).map(Some),
            Layer::Gone => Ok(None),
        }
    }

    /// As [`Dir::stat`], whatever this handle has put in its place.
    pub(crate) fn stat_on_disk(&self, name: Name) -> Result<Option<Stat>> {
        match rustix::fs::statat(&self.fd, name.to_string(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat_of(&stat))),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(errno) => Err(Error::io("asking about", self.path_of(name), errno.into())),
        }
    }

    /// What an open file is.
    pub(crate) fn stat_open(&self, name: Name, file: &File) -> Result<Stat> {
        let stat = rustix::fs::fstat(file)
            .map_err(|errno| Error::io("asking about", self.path_of(name), errno.into()))?;
        Ok(stat_of(&stat))
    }

    /// The names in the directory: ours, and those of strangers.
    pub(crate) fn list(&self) -> Result<(Vec<Name>, Vec<String>)> {
        let (mut ours, strangers) = self.list_on_disk()?;
        if let Some(overlay) = &self.overlay {
            overlay.apply(&mut ours);
        }
        Ok((ours, strangers))
    }

    /// As [`Dir::list`], whatever this handle has put in their places.
    pub(crate) fn list_on_disk(&self) -> Result<(Vec<Name>, Vec<String>)> {
        let fault = |error: io::Error| Error::io("listing", &self.path, error);
        let (mut ours, mut strangers) = (Vec::new(), Vec::new());
        for entry in rustix::fs::Dir::read_from(&self.fd).map_err(|errno| fault(errno.into()))? {
            let entry = entry.map_err(|errno| fault(errno.into()))?;
            let text = entry.file_name().to_string_lossy().into_owned();
            match Name::parse(&text) {
                _ if text == "." || text == ".." => {}
                Some(name) => ours.push(name),
                None => strangers.push(text),
            }
        }
        strangers.sort();
        Ok((ours, strangers))
    }

    /// Removes the directory `name` in this one and all that is in it; one that is not there is gone.
    pub(crate) fn remove_below(&self, name: &str) -> Result<()> {
        let path = self.path.join(name);
        match std::fs::remove_dir_all(&path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Error::io("removing the directory", path, error)),
        }
    }

    /// Allocates the bytes `at..at + len` of a file for good; the file keeps its other bytes.
    ///
    /// A file that was shorter is made longer. A refusal leaves nothing allocated that was not.
    pub(crate) fn allocate(&self, name: Name, file: &File, at: u64, len: u64) -> Result<()> {
        let before = self.stat_open(name, file)?;
        if self.is_read_only() && matches!(self.layer(name)?, Layer::Disk) {
            // Stores to its mapping are private: they need nothing of the disk.
            return if at + len <= before.len {
                Ok(())
            } else {
                Err(Error::ReadOnly {
                    path: self.path.clone(),
                })
            };
        }
        loop {
            match rustix::fs::fallocate(file, FallocateFlags::empty(), at, len) {
                Ok(()) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => {
                    // ext4 keeps what it had found of the space before it gave up (DESIGN.md).
                    if before.len <= at {
                        let _ = rustix::fs::ftruncate(file, before.len);
                    } else {
                        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                        let _ = rustix::fs::fallocate(file, hole, at, len);
                    }
                    let path = self.path_of(name);
                    return Err(match errno {
                        rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT => Error::NoSpace {
                            path,
                            needed_bytes: len,
                        },
                        errno => Error::io("allocating space for", path, errno.into()),
                    });
                }
            }
        }
    }

    /// Sets the length of a file without allocating.
    pub(crate) fn set_len(&self, name: Name, file: &File, len: u64) -> Result<()> {
        rustix::fs::ftruncate(file, len)
            .map_err(|errno| Error::io("sizing", self.path_of(name), errno.into()))
    }

    /// Writes all of `bytes` at `at`.
    pub(crate) fn write_at(&self, name: Name, file: &File, at: u64, bytes: &[u8]) -> Result<()> {
        file.write_all_at(bytes, at)
            .map_err(|error| Error::io("writing", self.path_of(name), error))
    }

    /// Reads `len` bytes at `at`, fewer at the file's end.
    pub(crate) fn read_at(&self, name: Name, file: &File, at: u64, len: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        let mut had = 0;
        while had < len {
            match file.read_at(&mut bytes[had..], at + had as u64) {
                Ok(0) => break,
                Ok(count) => had += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("reading", self.path_of(name), error)),
            }
        }
        bytes.truncate(had);
        Ok(bytes)
    }

    /// Waits until the file's bytes, and what is needed to find them, are on the disk.
    pub(crate) fn sync(&self, name: Name, file: &File) -> Result<()> {
        if self.is_read_only() {
            return Ok(());
        }
        rustix::fs::fdatasync(file)
            .map_err(|errno| Error::io("syncing", self.path_of(name), errno.into()))
    }

    /// Waits until the directory's names are on the disk.
    pub(crate) fn sync_names(&self) -> Result<()> {
        if self.is_read_only() {
            return Ok(());
        }
        rustix::fs::fsync(&self.fd)
            .map_err(|errno| Error::io("syncing the directory", &self.path, errno.into()))
    }
}

fn stat_of(stat: &rustix::fs::Stat) -> Stat {
    Stat {
        inode: stat.st_ino,
        len: stat.st_size as u64,
        disk: stat.st_blocks as u64 * 512,
    }
}
