//! Where the store is, and the ways to open it.
//!
//! Owns which commands may bring a store into being.
//! Never reads or writes an entry.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use larder::{Builder, Cache};

use crate::failure::{Failure, Result};

/// The directory that was named as the store; there may be none yet.
#[derive(Debug)]
pub(crate) struct Place {
    dir: PathBuf,
    read_only: bool,
}

impl Place {
    pub(crate) fn new(dir: Option<OsString>, read_only: bool) -> Result<Self> {
        match dir {
            Some(dir) if !dir.is_empty() => Ok(Self {
                dir: dir.into(),
                read_only,
            }),
            _ => Err(Failure::new(
                "which store? Give --store DIR or set LARDER_STORE",
            )),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.dir
    }

    /// The store that is there, for commands with nothing to do when there is none.
    pub(crate) fn open(&self) -> Result<Cache> {
        Ok(self.try_open()?)
    }

    /// As [`Place::open`], for who wants to look at the error.
    pub(crate) fn try_open(&self) -> larder::Result<Cache> {
        self.builder().create(false).open(&self.dir)
    }

    /// The store, made now if there is none, for commands that put something into it.
    pub(crate) fn open_or_create(&self) -> Result<Cache> {
        Ok(self.builder().open(&self.dir)?)
    }

    fn builder(&self) -> Builder {
        Cache::builder().read_only(self.read_only)
    }
}
