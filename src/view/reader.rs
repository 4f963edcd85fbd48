//! Reading a value piece by piece: from its own file, or from memory when it is small.

use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom};

use crate::engine::store::Store;
use crate::error::{Error, Result};
use crate::format::name::Name;
use crate::format::record::Apart;
use crate::view::value::Value;

/// A reader over one version of a value; `Read + Seek`. Made by [`Cache::get_reader`](crate::Cache::get_reader).
///
/// A large value is verified as it is read through from the start: at its end a wrong checksum is an
/// error of kind `InvalidData`.
#[derive(Debug)]
pub struct ValueReader(From);

#[derive(Debug)]
enum From {
    Memory(Cursor<Value>),
    File {
        file: File,
        apart: Apart,
        at: u64,
        seen: u64,
        crc: crc32fast::Hasher,
    },
}

impl ValueReader {
    pub(crate) fn of_value(value: Value) -> Self {
        ValueReader(From::Memory(Cursor::new(value)))
    }

    /// `None`: the file is gone.
    pub(crate) fn of_file(store: &Store, apart: Apart) -> Result<Option<Self>> {
        let name = Name::Value(apart.id);
        let Some(file) = store.dir.open_to_read(name)? else {
            return Ok(None);
        };
        let len = store.dir.stat_open(name, &file)?.len;
        if len != apart.len {
            let what = format!("the value's file should have {} bytes", apart.len);
            return Err(Error::corrupt(store.dir.path_of(name), len, what));
        }
        Ok(Some(ValueReader(From::File {
            file,
            apart,
            at: 0,
            seen: 0,
            crc: crc32fast::Hasher::new(),
        })))
    }

    /// Bytes of the value.
    #[must_use]
    pub fn len(&self) -> u64 {
        match &self.0 {
            From::Memory(cursor) => cursor.get_ref().len() as u64,
            From::File { apart, .. } => apart.len,
        }
    }

    /// Whether the value has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Read for ValueReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            From::Memory(cursor) => cursor.read(out),
            From::File {
                file,
                apart,
                at,
                seen,
                crc,
            } => {
                let want = (apart.len - (*at).min(apart.len)).min(out.len() as u64) as usize;
                let count = file.read(&mut out[..want])?;
                if count == 0 && want > 0 {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the value's file is shorter than its record says",
                    ));
                }
                if *seen == *at {
                    crc.update(&out[..count]);
                    *seen += count as u64;
                }
                *at += count as u64;
                if *seen == apart.len && count > 0 && crc.clone().finalize() != apart.crc {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "the value's file is damaged: its bytes are not what was written",
                    ));
                }
                Ok(count)
            }
        }
    }
}

impl Seek for ValueReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match &mut self.0 {
            From::Memory(cursor) => cursor.seek(to),
            From::File { file, at, .. } => {
                *at = file.seek(to)?;
                Ok(*at)
            }
        }
    }
}
