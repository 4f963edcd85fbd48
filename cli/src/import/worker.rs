//! One of the processes of an import: it walks the whole tree and stores the entries that are its.
//!
//! Owns how an entry gets into the store: compared first, written only when it differs, and freed of
//! what another type of file left under the same path.
//! Never holds a file's content as a whole, and never tells a person anything; it reports.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek as _};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use larder::{Cache, Error, SetOptions};
use rustix::fs::OFlags;

use super::report::{Report, Reporter};
use super::walk::{Source, Step, owner};
use crate::Answer;
use crate::args::ImportWorker;
use crate::entries::bytes;
use crate::failure::{Failure, Result};
use crate::store::Place;
use crate::tree::{self, Node};

const COMPARE_BYTES: usize = 64 << 10;

/// Stores this process's share of the tree and reports on stdout.
pub(crate) fn work(place: &Place, args: &ImportWorker) -> Result<Answer> {
    let mut reporter = Reporter::new();
    match share(place, args, &mut reporter) {
        Err(Failure::Said(why)) => {
            reporter.send(&Report::Fatal { why })?;
            reporter.flush()?;
            Ok(Answer::No)
        }
        outcome => outcome.map(|()| Answer::Yes),
    }
}

fn share(place: &Place, args: &ImportWorker, reporter: &mut Reporter) -> Result<()> {
    let source = Source::new(&args.dir, place.path(), bytes(&args.prefix, false)?)?;
    let worker = Worker {
        cache: place.open()?,
        prefix: source.prefix().to_vec(),
    };
    for step in source.walk() {
        if owner(&step.path, args.jobs) == args.index {
            reporter.send(&worker.store(step)?)?;
        }
    }
    worker.cache.close()?;
    reporter.flush()
}

/// An entry that did not get into the store.
enum Trouble {
    /// The file's fault.
    File(io::Error),
    /// The store's.
    Store(Error),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::File(error)
    }
}

struct Worker {
    cache: Cache,
    prefix: Vec<u8>,
}

impl Worker {
    /// What became of one entry; an error when the store itself does not work.
    fn store(&self, step: Step) -> Result<Report> {
        let path = step.path;
        match step
            .found
            .map_err(Trouble::File)
            .and_then(|entry| self.store_entry(&path, entry.path()))
        {
            Ok(report) => Ok(report),
            Err(Trouble::File(cause)) => Ok(Report::Unreadable {
                path,
                why: cause.to_string(),
            }),
            Err(Trouble::Store(Error::Full { .. })) => Ok(Report::NoRoom {
                path,
                why: String::new(),
            }),
            Err(Trouble::Store(error @ (Error::TooLarge { .. } | Error::InvalidKey { .. }))) => {
                Ok(Report::NoRoom {
                    path,
                    why: error.to_string(),
                })
            }
            Err(Trouble::Store(error)) => Err(error.into()),
        }
    }

    fn store_entry(&self, path: &[u8], place: &Path) -> Result<Report, Trouble> {
        let meta = place.symlink_metadata()?;
        if path.is_empty() || meta.is_dir() {
            let mode = place.metadata()?.permissions().mode();
            return self.store_dir(path, mode);
        }
        if meta.is_symlink() {
            return self.store_symlink(path, place);
        }
        if meta.is_file() {
            return self.store_file(path, place);
        }
        Ok(Report::OddType {
            path: path.to_vec(),
        })
    }

    fn store_dir(&self, path: &[u8], mode: u32) -> Result<Report, Trouble> {
        let report = self.store_bytes(path, Node::Dir { mode }, b"")?;
        // What was a file or a link the last time.
        let leaf_key = tree::leaf_key(&self.prefix, path);
        if !path.is_empty() && !matches!(self.cache.contains(&leaf_key), Ok(false)) {
            self.cache.delete(leaf_key)?;
        }
        Ok(report)
    }

    fn store_symlink(&self, path: &[u8], place: &Path) -> Result<Report, Trouble> {
        let target = std::fs::read_link(place)?.into_os_string().into_vec();
        let report = self.store_bytes(path, Node::Symlink, &target)?;
        self.forget_dir(path)?;
        Ok(report)
    }

    fn store_bytes(&self, path: &[u8], node: Node, value: &[u8]) -> Result<Report, Trouble> {
        let (key, bytes) = (node.key(&self.prefix, path), value.len() as u64);
        if self.is_like(&key, node, bytes)?
            && whole(self.cache.get(&key))?.is_some_and(|there| *there == *value)
        {
            return Ok(Report::Unchanged { bytes });
        }
        self.cache.set_with(&key, value, &options(node))?;
        Ok(Report::Wrote { bytes })
    }

    fn store_file(&self, path: &[u8], place: &Path) -> Result<Report, Trouble> {
        let mut file = open(place)?;
        let meta = file.metadata()?;
        let node = Node::File {
            mode: meta.permissions().mode(),
        };
        let key = node.key(&self.prefix, path);
        if self.is_like(&key, node, meta.len())? && self.holds(&key, &mut file)? {
            self.forget_dir(path)?;
            return Ok(Report::Unchanged { bytes: meta.len() });
        }
        file.rewind()?;
        let bytes = self.write_file(&key, node, file)?;
        self.forget_dir(path)?;
        Ok(Report::Wrote { bytes })
    }

    fn write_file(&self, key: &[u8], node: Node, file: File) -> Result<u64, Trouble> {
        let mut content = Content { file, failed: None };
        let outcome = self.cache.set_reader(key, &mut content, &options(node));
        match (outcome, content.failed) {
            (Ok(bytes), _) => Ok(bytes),
            (Err(_), Some(cause)) => Err(Trouble::File(cause)),
            (Err(error), None) => Err(Trouble::Store(error)),
        }
    }

    /// Whether the store has an entry that differs at most in its content. A damaged one is like
    /// nothing, so it is written anew.
    fn is_like(&self, key: &[u8], node: Node, bytes: u64) -> Result<bool, Trouble> {
        let Some(there) = whole(self.cache.describe(key))? else {
            return Ok(false);
        };
        let (mut tags, mut wanted) = (there.tags, node.tags());
        tags.sort();
        wanted.sort();
        Ok(there.size_bytes == bytes && there.expires_at.is_none() && tags == wanted)
    }

    /// Whether the entry's content is the file's.
    fn holds(&self, key: &[u8], file: &mut File) -> Result<bool, Trouble> {
        let Some(mut there) = whole(self.cache.get_reader(key))? else {
            return Ok(false);
        };
        let (mut ours, mut theirs) = (vec![0; COMPARE_BYTES], vec![0; COMPARE_BYTES]);
        loop {
            let count = fill(file, &mut ours)?;
            // A value that cannot be read to its end is not the file's either.
            match fill(&mut there, &mut theirs) {
                Ok(other) if ours[..count] == theirs[..other] => {}
                _ => return Ok(false),
            }
            if count < COMPARE_BYTES {
                return Ok(true);
            }
        }
    }

    /// Removes what was stored while `path` was a directory: its own key last, so that an import
    /// which is killed in between still finds the way in.
    fn forget_dir(&self, path: &[u8]) -> Result<(), Trouble> {
        let dir_key = tree::dir_key(&self.prefix, path);
        if matches!(self.cache.contains(&dir_key), Ok(false)) {
            return Ok(());
        }
        for key in self.cache.keys()? {
            let Some(key) = whole(key.map(Some))? else {
                continue;
            };
            if key.starts_with(&dir_key) && key != dir_key {
                self.cache.delete(&key)?;
            }
        }
        self.cache.delete(&dir_key)?;
        Ok(())
    }
}

/// Damage is as good as nothing: what is there is going to be replaced.
fn whole<T>(found: larder::Result<Option<T>>) -> larder::Result<Option<T>> {
    match found {
        Err(Error::Corrupt { .. }) => Ok(None),
        other => other,
    }
}

/// Imported entries stay until they are removed, whatever the store's default_ttl is.
fn options(node: Node) -> SetOptions {
    SetOptions::default().never_expires().tags(node.tags())
}

/// Opens a file that may have become a link or a pipe since it was looked at.
fn open(place: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags as i32)
        .open(place)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::other("it changed while it was read"))
    }
}

/// Reads until `buffer` is full or nothing is left.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(cause),
        }
    }
    Ok(filled)
}

/// A file on its way into the store that remembers whether it was the one to fail.
struct Content {
    file: File,
    failed: Option<io::Error>,
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer).inspect_err(|cause| {
            if cause.kind() != io::ErrorKind::Interrupted {
                self.failed = Some(io::Error::new(cause.kind(), cause.to_string()));
            }
        })
    }
}
