//! A mapped file that grows: chunks that double, are mapped once, and are never moved or unmapped.
//!
//! Holds: a byte past the file's end is never touched; one that a damaged word points at is
//! `Error::Corrupt`. Never knows what the bytes mean.

use std::fs::File;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::error::{Error, Result};
use crate::format::name::Name;
use crate::os::dir::Dir;
use crate::os::raw::Map;

const FIRST_BITS: u32 = 16;
const CHUNKS: usize = 32;

/// A growing file of words that all processes share.
#[derive(Debug)]
pub(crate) struct Region {
    name: Name,
    path: std::path::PathBuf,
    file: File,
    chunks: [OnceLock<Map>; CHUNKS],
    /// Bytes the file is known to have.
    valid: AtomicU64,
}

impl Region {
    pub(crate) fn new(dir: &Dir, name: Name, file: File) -> Result<Region> {
        let region = Region {
            name,
            path: dir.path_of(name),
            file,
            chunks: [const { OnceLock::new() }; CHUNKS],
            valid: AtomicU64::new(0),
        };
        region.refresh()?;
        Ok(region)
    }

    pub(crate) fn name(&self) -> Name {
        self.name
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// Bytes the file has now.
    pub(crate) fn len(&self) -> Result<u64> {
        self.refresh()?;
        Ok(self.valid.load(Ordering::Relaxed))
    }

    /// Learns the file's length.
    fn refresh(&self) -> Result<()> {
        let stat = rustix::fs::fstat(&self.file)
            .map_err(|errno| Error::io("asking about", &self.path, errno.into()))?;
        let len = stat.st_size as u64;
        self.valid.store(len, Ordering::Relaxed);
        for (index, chunk) in self.chunks.iter().enumerate() {
            if let Some(map) = chunk.get() {
                map.set_valid(len.saturating_sub(chunk_start(index)) as usize);
            }
        }
        Ok(())
    }

    #[cold]
    fn grown_to(&self, at: u64, len: u64) -> Result<()> {
        self.refresh()?;
        if at + len > self.valid.load(Ordering::Relaxed) {
            return Err(Error::corrupt(
                &self.path,
                at,
                "something points past the end of this file",
            ));
        }
        Ok(())
    }

    /// The mapping that holds `len` bytes at `at`, and where in it they are; `len` divides the chunks.
    #[inline]
    fn locate(&self, at: u64, len: u64) -> Result<(&Map, usize)> {
        if at.saturating_add(len) > self.valid.load(Ordering::Relaxed) {
            if at > 1 << 46 {
                return Err(Error::corrupt(
                    &self.path,
                    at,
                    "something points past the end of this file",
                ));
            }
            self.grown_to(at, len)?;
        }
        let index = chunk_index(at);
        let start = chunk_start(index);
        let chunk = match self.chunks.get(index).map(|chunk| chunk.get()) {
            Some(Some(map)) => map,
            _ => self.map_chunk(index)?,
        };
        let at = (at - start) as usize;
        chunk
            .touch(at, len as usize)
            .map_err(|error| Error::io("reading", &self.path, error))?;
        Ok((chunk, at))
    }

    #[cold]
    fn map_chunk(&self, index: usize) -> Result<&Map> {
        let Some(chunk) = self.chunks.get(index) else {
            return Err(Error::corrupt(
                &self.path,
                chunk_start(index),
                "something points past the end of this file",
            ));
        };
        let start = chunk_start(index);
        let map = Map::new(&self.file, start, chunk_len(index))
            .map_err(|error| Error::io("mapping", &self.path, error))?;
        map.set_valid(self.valid.load(Ordering::Relaxed).saturating_sub(start) as usize);
        Ok(chunk.get_or_init(|| map))
    }

    /// The word at `at`.
    #[inline]
    pub(crate) fn word(&self, at: u64) -> Result<&AtomicU64> {
        let (map, at) = self.locate(at & !7, 8)?;
        Ok(map.word(at))
    }

    /// The half word at `at`.
    #[inline]
    pub(crate) fn half(&self, at: u64) -> Result<&AtomicU32> {
        let (map, at) = self.locate(at & !3, 4)?;
        Ok(map.half(at))
    }

    /// A line of 64 bytes at `at`, a multiple of 64.
    #[inline]
    pub(crate) fn line(&self, at: u64) -> Result<Line<'_>> {
        let (map, at) = self.locate(at & !63, 64)?;
        Ok(Line { map, at })
    }

    /// Has the line at `at` come into the processor's cache, if it is mapped.
    #[inline]
    pub(crate) fn prefetch(&self, at: u64) {
        if at.saturating_add(64) > self.valid.load(Ordering::Relaxed) {
            return;
        }
        let index = chunk_index(at);
        if let Some(map) = self.chunks.get(index).and_then(|chunk| chunk.get()) {
            map.prefetch((at - chunk_start(index)) as usize);
        }
    }

    /// Takes space until the file has `len` bytes, all zeros behind the old end.
    pub(crate) fn grow(&self, dir: &Dir, from: u64, len: u64) -> Result<()> {
        if from > self.len()? || len <= from || len > 1 << 46 {
            return Err(Error::corrupt(
                &self.path,
                from,
                "the header says that this file is longer than it is",
            ));
        }
        dir.allocate(self.name, &self.file, from, len - from)?;
        self.refresh()?;
        // Pages present before anybody stores to them: no fault under the lock.
        let mut at = from;
        while at < len {
            let (map, inside) = self.locate(at & !7, 8)?;
            let piece = (len - at).min((map.len() - inside) as u64);
            map.populate(inside, piece as usize);
            at += piece;
        }
        Ok(())
    }
}

/// 64 bytes that share a cache line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line<'a> {
    map: &'a Map,
    at: usize,
}

impl<'a> Line<'a> {
    #[inline]
    pub(crate) fn word(&self, at: u64) -> &'a AtomicU64 {
        self.map.word(self.at + at as usize)
    }

    #[inline]
    pub(crate) fn half(&self, at: u64) -> &'a AtomicU32 {
        self.map.half(self.at + at as usize)
    }
}

#[inline]
fn chunk_index(at: u64) -> usize {
    if at < 1 << FIRST_BITS {
        0
    } else {
        (at.ilog2() - FIRST_BITS + 1) as usize
    }
}

fn chunk_start(index: usize) -> u64 {
    if index == 0 {
        0
    } else {
        1 << (FIRST_BITS + index as u32 - 1)
    }
}

fn chunk_len(index: usize) -> usize {
    1 << (FIRST_BITS + (index as u32).max(1) - 1)
}
