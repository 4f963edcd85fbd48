//! Reading a packed file from its head to its last byte, once, in bounded memory.
//!
//! Holds: whatever the file claims, no more is kept than one entry's key and tags, zstd's window and
//! what the caller asked for. Never stores an entry, and never trusts a length before it is checked.

use std::io::{BufReader, ErrorKind, Read, Seek, SeekFrom, Take};
use std::path::{Path, PathBuf};

use zstd::Decoder;

use crate::error::{Error, Result};
use crate::format::pack::{
    self, CRC_LEN, EntryFrame, FRAME_LEN, Fault, Frame, HEAD_LEN, WINDOW_LOG_MAX,
};

/// The caller's reader, with what was read of it so far.
struct Source<'f, R> {
    from: &'f mut R,
    at: u64,
    crc: crc32fast::Hasher,
    /// The reader's own failure, told apart from zstd's.
    failed: bool,
}

impl<R: Read> Read for Source<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        match self.from.read(out) {
            Ok(count) => {
                self.crc.update(&out[..count]);
                self.at += count as u64;
                Ok(count)
            }
            Err(error) => {
                self.failed = error.kind() != ErrorKind::Interrupted;
                Err(error)
            }
        }
    }
}

type Stream<'f, R> = BufReader<Take<Source<'f, R>>>;

/// A packed file that is being read.
pub(crate) struct Packed<'f, R> {
    /// What errors call the file.
    name: PathBuf,
    /// `None`: read to the end.
    decoder: Option<Decoder<'static, Stream<'f, R>>>,
    /// Bytes of the whole file.
    len: u64,
    /// Of every uncompressed byte so far.
    stream_crc: crc32fast::Hasher,
    /// Of the entry that is being read.
    body_crc: crc32fast::Hasher,
    /// Bytes of its value still to come.
    value_left: u64,
    /// Entries begun so far, and the bytes of their values.
    pub(crate) entries: u64,
    pub(crate) value_bytes: u64,
}

impl<'f, R: Read + Seek> Packed<'f, R> {
    /// Begins at the place `from` stands at; the file goes from there to the end.
    pub(crate) fn open(from: &'f mut R, name: &Path) -> Result<Packed<'f, R>> {
        let io = |error| Error::io("reading", name, error);
        let start = from.stream_position().map_err(io)?;
        let end = from.seek(SeekFrom::End(0)).map_err(io)?;
        from.seek(SeekFrom::Start(start)).map_err(io)?;
        let len = end.saturating_sub(start);
        let mut source = Source {
            from,
            at: 0,
            crc: crc32fast::Hasher::new(),
            failed: false,
        };
        let mut head = Vec::with_capacity(HEAD_LEN);
        source
            .by_ref()
            .take(HEAD_LEN as u64)
            .read_to_end(&mut head)
            .map_err(io)?;
        pack::check_head(&head).map_err(|fault| error_of(name, head.len() as u64, fault))?;
        let Some(stream_len) = len.checked_sub((HEAD_LEN + CRC_LEN) as u64) else {
            let fault = Fault::Damaged("it is cut short after its head".into());
            return Err(error_of(name, len, fault));
        };
        let zstd = |error: std::io::Error| Error::Codec {
            what: format!("zstd cannot begin to decompress: {error}"),
        };
        let stream = BufReader::with_capacity(128 * 1024, source.take(stream_len));
        let mut decoder = Decoder::with_buffer(stream).map_err(zstd)?.single_frame();
        decoder.window_log_max(WINDOW_LOG_MAX).map_err(zstd)?;
        Ok(Packed {
            name: name.to_path_buf(),
            decoder: Some(decoder),
            len,
            stream_crc: crc32fast::Hasher::new(),
            body_crc: crc32fast::Hasher::new(),
            value_left: 0,
            entries: 0,
            value_bytes: 0,
        })
    }

    /// Bytes of the whole file.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// How far into the file was read.
    pub(crate) fn at(&self) -> u64 {
        self.decoder.as_ref().map_or(self.len, |decoder| {
            let stream = decoder.get_ref();
            stream.get_ref().get_ref().at - stream.buffer().len() as u64
        })
    }

    /// The next entry's frame; `None`: that was all, and the file is whole to its last byte.
    pub(crate) fn next(&mut self) -> Result<Option<EntryFrame>> {
        let before = self.stream_crc.clone().finalize();
        let mut bytes = [0; FRAME_LEN];
        self.fill(&mut bytes)?;
        match Frame::decode(&bytes).map_err(|fault| self.refuse(fault))? {
            Frame::Entry(entry) => {
                self.body_crc = crc32fast::Hasher::new();
                self.body_crc.update(&bytes);
                self.value_left = entry.value_len;
                self.entries += 1;
                self.value_bytes = self.value_bytes.saturating_add(entry.value_len);
                Ok(Some(entry))
            }
            Frame::End(end) => {
                let counted = (self.entries, self.value_bytes, before);
                if (end.entries, end.value_bytes, end.stream_crc) != counted {
                    let what = "its end does not fit the entries before it";
                    return Err(self.damaged(what));
                }
                self.finish()?;
                Ok(None)
            }
        }
    }

    /// The key and the tags, as they stand there, of the entry whose frame came last.
    pub(crate) fn names(
        &mut self,
        entry: &EntryFrame,
        key: &mut Vec<u8>,
        tags: &mut Vec<u8>,
    ) -> Result<()> {
        for (bytes, len) in [(key, entry.key_len), (tags, entry.tags_len)] {
            bytes.resize(len, 0);
            self.fill(bytes)?;
            self.body_crc.update(bytes);
        }
        Ok(())
    }

    /// The tags in what [`Packed::names`] gave; only of a whole entry it is known whose fault theirs is.
    pub(crate) fn tags(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        pack::decode_tags(bytes).map_err(|fault| self.refuse(fault))
    }

    /// More of the value; 0: that was all of it.
    pub(crate) fn value(&mut self, out: &mut [u8]) -> Result<usize> {
        let count = self.value_left.min(out.len() as u64) as usize;
        self.fill(&mut out[..count])?;
        self.body_crc.update(&out[..count]);
        self.value_left -= count as u64;
        Ok(count)
    }

    /// The entry was read through: whether it is what was written.
    pub(crate) fn end_entry(&mut self) -> Result<()> {
        debug_assert_eq!(self.value_left, 0, "the value comes first");
        let mut crc = [0; CRC_LEN];
        self.fill(&mut crc)?;
        if u32::from_le_bytes(crc) != self.body_crc.clone().finalize() {
            return Err(self.damaged("its bytes are not what was written"));
        }
        Ok(())
    }

    /// Reads uncompressed bytes until `out` is full.
    fn fill(&mut self, out: &mut [u8]) -> Result<()> {
        let mut filled = 0;
        while filled < out.len() {
            match self.read(&mut out[filled..])? {
                0 => return Err(self.damaged("it ends before its end")),
                count => filled += count,
            }
        }
        self.stream_crc.update(out);
        Ok(())
    }

    fn read(&mut self, out: &mut [u8]) -> Result<usize> {
        loop {
            let Some(decoder) = &mut self.decoder else {
                return Ok(0);
            };
            let error = match decoder.read(out) {
                Ok(count) => return Ok(count),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            if decoder.get_ref().get_ref().get_ref().failed {
                return Err(Error::io("reading", &self.name, error));
            }
            return Err(match error.kind() {
                ErrorKind::UnexpectedEof => self.damaged("it is cut short"),
                _ => self.damaged(format!("zstd cannot decompress it: {error}")),
            });
        }
    }

    /// Nothing may follow the end: not in the stream, not after it.
    fn finish(&mut self) -> Result<()> {
        if self.read(&mut [0])? != 0 {
            return Err(self.damaged("its stream goes on after its end"));
        }
        let at = self.at();
        let Some(decoder) = self.decoder.take() else {
            return Ok(());
        };
        let after = self.len - CRC_LEN as u64 - at;
        if after != 0 {
            let fault = Fault::Damaged(format!("{after} bytes follow its end"));
            return Err(error_of(&self.name, at, fault));
        }
        let mut source = decoder.into_inner().into_inner().into_inner();
        let wanted = source.crc.clone().finalize();
        let mut crc = [0; CRC_LEN];
        match source.read_exact(&mut crc) {
            Ok(()) if u32::from_le_bytes(crc) == wanted => Ok(()),
            Ok(()) => Err(self.damaged("its bytes are not what was written")),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                Err(self.damaged("it is cut short"))
            }
            Err(error) => Err(Error::io("reading", &self.name, error)),
        }
    }

    fn damaged(&self, what: impl Into<String>) -> Error {
        self.refuse(Fault::Damaged(what.into()))
    }

    fn refuse(&self, fault: Fault) -> Error {
        match fault {
            Fault::Damaged(what) if self.decoder.is_some() && self.entries > 0 => {
                let what = format!("in or after entry {}: {what}", self.entries);
                error_of(&self.name, self.at(), Fault::Damaged(what))
            }
            other => error_of(&self.name, self.at(), other),
        }
    }
}

fn error_of(name: &Path, offset: u64, fault: Fault) -> Error {
    match fault {
        Fault::Damaged(what) => Error::DamagedPack {
            path: name.to_path_buf(),
            offset,
            what,
        },
        Fault::Newer(what) => Error::Unsupported {
            path: name.to_path_buf(),
            what,
        },
        Fault::TooLarge {
            what,
            bytes,
            max_bytes,
        } => Error::TooLarge {
            what,
            bytes,
            max_bytes,
        },
    }
}
