//! The way through a tree that every process of an import takes, and whose turn an entry is.
//!
//! Owns the relative paths, the order-free division of work, and that the store itself is passed by.
//! Never opens a file.

use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use walkdir::{DirEntry, WalkDir};

use crate::failure::{Failure, Result};

/// One step: an entry, or a directory that could not be read.
pub(crate) struct Step {
    /// Relative to the root; the root's own is empty.
    pub(crate) path: Vec<u8>,
    pub(crate) found: io::Result<DirEntry>,
}

/// A tree to be imported, and where to.
#[derive(Debug)]
pub(crate) struct Source {
    root: PathBuf,
    store: PathBuf,
    prefix: Vec<u8>,
}

impl Source {
    /// # Errors
    /// When `root` is no directory that can be looked at.
    pub(crate) fn new(root: &Path, store: &Path, prefix: Vec<u8>) -> Result<Self> {
        let meta = root
            .metadata()
            .map_err(|cause| Failure::file("read", root, &cause))?;
        if !meta.is_dir() {
            return Err(Failure::new(format!(
                "{} is not a directory",
                root.display()
            )));
        }
        Ok(Self {
            root: root.to_owned(),
            store: store.to_owned(),
            prefix,
        })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn store(&self) -> &Path {
        &self.store
    }

    /// What every key begins with.
    pub(crate) fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    /// The root and every entry below it, parents first; symbolic links are not followed.
    pub(crate) fn walk(&self) -> impl Iterator<Item = Step> {
        let is_store = is_dir_at(&self.store);
        let steps = WalkDir::new(&self.root).into_iter();
        let steps = steps.filter_entry(move |entry| entry.depth() == 0 || !is_store(entry));
        steps.map(|found| {
            let path = match &found {
                Ok(entry) => entry.path(),
                Err(error) => error.path().unwrap_or(&self.root),
            };
            Step {
                path: self.relative(path),
                found: found.map_err(cause),
            }
        })
    }

    /// How much there is in the files, as far as they can be seen.
    pub(crate) fn count_bytes(&self) -> u64 {
        let entries = self.walk().filter_map(|step| step.found.ok());
        let files = entries.filter(|entry| entry.file_type().is_file());
        files
            .filter_map(|entry| entry.metadata().ok())
            .map(|meta| meta.len())
            .sum()
    }

    fn relative(&self, path: &Path) -> Vec<u8> {
        path.strip_prefix(&self.root)
            .unwrap_or(path)
            .as_os_str()
            .as_bytes()
            .to_vec()
    }
}

/// Tells the directory `dir` from all others, whatever path leads to it.
fn is_dir_at(dir: &Path) -> impl Fn(&DirEntry) -> bool + use<> {
    let id = dir.metadata().map(|meta| (meta.dev(), meta.ino())).ok();
    let name = dir
        .canonicalize()
        .ok()
        .and_then(|path| path.file_name().map(OsStr::to_owned));
    move |entry| {
        // The name first: it costs no system call.
        entry.file_type().is_dir()
            && Some(entry.file_name()) == name.as_deref()
            && entry
                .metadata()
                .is_ok_and(|meta| Some((meta.dev(), meta.ino())) == id)
    }
}

/// The system's own words; only a loop of links, which is never entered, has none.
fn cause(error: walkdir::Error) -> io::Error {
    error
        .into_io_error()
        .unwrap_or_else(|| io::Error::other("it leads back to itself"))
}

/// Which of `jobs` processes an entry belongs to; they run the same program, so they agree.
pub(crate) fn owner(path: &[u8], jobs: u16) -> u16 {
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    (hasher.finish() % u64::from(jobs.max(1))) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_gets_something() {
        let mut counts = [0_u32; 4];
        for number in 0..4_000 {
            counts[usize::from(owner(format!("dir/{number}").as_bytes(), 4))] += 1;
        }
        assert!(
            counts.iter().all(|count| (800..1_200).contains(count)),
            "{counts:?}"
        );
        assert_eq!(owner(b"a", 1), 0);
    }
}
