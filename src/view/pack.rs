//! `Cache::pack`: entries of a store as one portable file.
//!
//! Holds: large values pass through in pieces, and the same entries give the same bytes.
//! Never changes the store, takes its lock, or counts as an access.

use std::io::{ErrorKind, Read, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use zstd::Encoder;

use crate::engine::store::Store;
use crate::error::{Error, Result};
use crate::format::pack::{self, EndFrame, EntryFrame, Frame};
use crate::format::record::tags_of;
use crate::view::cache::Cache;
use crate::view::prepare;
use crate::view::reader::ValueReader;
use crate::view::value::{Number, Value, ValueKind};

/// Bytes of a large value read at a time.
const PIECE: usize = 256 * 1024;

/// Which entries are packed, for [`Cache::pack`]. Default: all.
///
/// ```
/// let cache = larder::Cache::temporary()?;
/// cache.set_with("user/1", "Ada", &larder::SetOptions::default().tag("run-7"))?;
/// cache.set("user/2", "Grace")?;
///
/// let mut file = Vec::new();
/// let choice = larder::PackChoice::default().prefix("user/").tag("run-7");
/// assert_eq!(cache.pack(&mut file, &choice)?.entries, 1);
/// # Ok::<(), larder::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct PackChoice {
    tags: Vec<Vec<u8>>,
    prefix: Vec<u8>,
    name: PathBuf,
}

impl Default for PackChoice {
    fn default() -> Self {
        PackChoice {
            tags: Vec::new(),
            prefix: Vec::new(),
            name: UNNAMED.into(),
        }
    }
}

/// What errors call a file that has no name.
pub(crate) const UNNAMED: &str = "the packed file";

impl PackChoice {
    /// Only entries with this tag; given several times, with all of them.
    pub fn tag(mut self, tag: impl AsRef<[u8]>) -> Self {
        self.tags.push(tag.as_ref().to_vec());
        self
    }

    /// Only entries whose key begins so.
    pub fn prefix(mut self, prefix: impl AsRef<[u8]>) -> Self {
        self.prefix = prefix.as_ref().to_vec();
        self
    }

    /// What errors call the file. Default: "the packed file".
    pub fn name(mut self, name: impl AsRef<Path>) -> Self {
        self.name = name.as_ref().to_path_buf();
        self
    }
}

/// How far [`Cache::pack_with`] has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PackProgress {
    /// Entries packed, and the one on its way.
    pub entries: u64,
    /// Bytes of their values.
    pub value_bytes: u64,
    /// Bytes written, compressed.
    pub file_bytes: u64,
}

/// What a packed file holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PackReport {
    /// Entries.
    pub entries: u64,
    /// Bytes of their values, uncompressed.
    pub value_bytes: u64,
    /// Bytes of the file.
    pub file_bytes: u64,
}

impl Cache {
    /// Writes live entries, in insertion order, as one file that [`Cache::unpack`] reads, on any
    /// machine: keys, values with their kinds, expiry, tags, and when each was stored.
    ///
    /// Takes no lock. Each entry is as it is when its turn comes: not one moment's view. Entries
    /// inserted after the call are left out. Memory stays bounded whatever the values' sizes; the same
    /// entries give the same bytes. Items of a queue are packed as plain entries.
    ///
    /// ```
    /// use larder::{Cache, PackChoice};
    ///
    /// let (from, to) = (Cache::temporary()?, Cache::temporary()?);
    /// from.set("answer", "42")?;
    ///
    /// let mut file = Vec::new(); // or std::fs::File::create("answers.larder")
    /// let packed = from.pack(&mut file, &PackChoice::default())?;
    /// assert_eq!((packed.entries, packed.file_bytes), (1, file.len() as u64));
    ///
    /// to.unpack(std::io::Cursor::new(file))?;
    /// assert_eq!(to.get("answer")?.as_deref(), Some(&b"42"[..]));
    /// # Ok::<(), larder::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::NoSpace`] of the writer, [`Error::Corrupt`] at the first damaged
    /// entry; see [`Cache`]. What was written until then is not a whole file, and `unpack` refuses it.
    pub fn pack(&self, to: impl Write, choice: &PackChoice) -> Result<PackReport> {
        self.pack_with(to, choice, |_| ControlFlow::Continue(()))
    }

    /// As [`Cache::pack`]; `watch` is told after each entry and each piece of a large one, and may
    /// stop it.
    ///
    /// # Errors
    /// As [`Cache::pack`]; [`Error::Aborted`] when `watch` stopped it.
    pub fn pack_with(
        &self,
        to: impl Write,
        choice: &PackChoice,
        mut watch: impl FnMut(&PackProgress) -> ControlFlow<()>,
    ) -> Result<PackReport> {
        let mut packing = Packing::begin(to, &choice.name, &mut watch)?;
        for key in self.keys()? {
            let key = key?;
            if !key.starts_with(&choice.prefix) {
                continue;
            }
            if let Some(entry) = self.take(&key, choice)? {
                packing.entry(&key, entry)?;
            }
        }
        packing.finish()
    }

    /// One version of an entry; `None`: it is gone, or not chosen.
    fn take(&self, key: &[u8], choice: &PackChoice) -> Result<Option<Taken>> {
        let found = self.look_up(key, false, |store, hit, buffer| {
            let head = hit.head;
            let tags: Vec<Vec<u8>> = tags_of(&head, &buffer)
                .map(|id| store.tag_name(id))
                .collect::<Result<_>>()?;
            if !choice.tags.iter().all(|tag| tags.contains(tag)) {
                return Ok(Some(None));
            }
            let kind = ValueKind::from_byte(head.value_kind);
            let value = if let Some(apart) = head.options.apart {
                let path = Store::value_name(&head).map(|name| store.dir.path_of(name));
                let reader = ValueReader::of_file(store, apart)?;
                reader.map(|reader| Body::File(reader, path.unwrap_or_default()))
            } else if let Some(number) = Number::read(kind, hit.value(&buffer)) {
                Some(Body::Number(number.to_bytes()))
            } else {
                prepare::value_of(store, &head, buffer)?.map(Body::Bytes)
            };
            // A number of another length than a number's is none.
            let is_number = matches!(value, Some(Body::Number(_)));
            let value_kind = if pack::is_number(head.value_kind) && !is_number {
                ValueKind::Bytes.to_byte()?
            } else {
                head.value_kind
            };
            Ok(value.map(|value| {
                Some(Taken {
                    value_kind,
                    is_compressed: head.options.zstd.is_some(),
                    expires_ms: head.options.expires_ms,
                    stored_ms: store.created_ms + u64::from(head.stored_s) * 1_000,
                    tags,
                    value,
                })
            }))
        })?;
        Ok(found.flatten())
    }
}

/// One version of an entry, to be packed.
struct Taken {
    value_kind: u8,
    is_compressed: bool,
    expires_ms: Option<u64>,
    stored_ms: u64,
    tags: Vec<Vec<u8>>,
    value: Body,
}

enum Body {
    Bytes(Value),
    Number([u8; 8]),
    /// A large value, and its file's path for errors.
    File(ValueReader, PathBuf),
}

impl Body {
    fn len(&self) -> u64 {
        match self {
            Body::Bytes(value) => value.len() as u64,
            Body::Number(bytes) => bytes.len() as u64,
            Body::File(reader, _) => reader.len(),
        }
    }
}

/// The caller's writer, with what went there so far.
struct Sink<W> {
    to: W,
    at: u64,
    crc: crc32fast::Hasher,
}

impl<W: Write> Write for Sink<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.to.write(bytes)?;
        self.crc.update(&bytes[..count]);
        self.at += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.to.flush()
    }
}

/// A packed file on its way.
struct Packing<'c, W: Write> {
    name: &'c Path,
    encoder: Encoder<'static, Sink<W>>,
    /// Of every uncompressed byte so far.
    stream_crc: crc32fast::Hasher,
    /// Of the entry's bytes so far.
    body_crc: crc32fast::Hasher,
    so_far: PackProgress,
    watch: &'c mut dyn FnMut(&PackProgress) -> ControlFlow<()>,
}

impl<'c, W: Write> Packing<'c, W> {
    fn begin(
        to: W,
        name: &'c Path,
        watch: &'c mut dyn FnMut(&PackProgress) -> ControlFlow<()>,
    ) -> Result<Self> {
        let mut sink = Sink {
            to,
            at: 0,
            crc: crc32fast::Hasher::new(),
        };
        let io = |error| Error::io("writing", name, error);
        sink.write_all(&pack::encode_head()).map_err(io)?;
        let mut encoder = Encoder::new(sink, pack::LEVEL).map_err(io)?;
        encoder.window_log(pack::WINDOW_LOG).map_err(io)?;
        Ok(Packing {
            name,
            encoder,
            stream_crc: crc32fast::Hasher::new(),
            body_crc: crc32fast::Hasher::new(),
            so_far: PackProgress::default(),
            watch,
        })
    }

    fn entry(&mut self, key: &[u8], entry: Taken) -> Result<()> {
        let tags = pack::encode_tags(&entry.tags);
        let frame = Frame::Entry(EntryFrame {
            value_kind: entry.value_kind,
            is_compressed: entry.is_compressed,
            key_len: key.len(),
            tags_len: tags.len(),
            value_len: entry.value.len(),
            expires_ms: entry.expires_ms,
            stored_ms: entry.stored_ms,
        });
        self.so_far.entries += 1;
        self.body_crc = crc32fast::Hasher::new();
        self.put(&frame.encode())?;
        self.put(key)?;
        self.put(&tags)?;
        match entry.value {
            Body::Bytes(value) => self.value(&value)?,
            Body::Number(bytes) => self.value(&bytes)?,
            Body::File(reader, path) => self.stream(reader, &path)?,
        }
        let crc = self.body_crc.clone().finalize();
        self.put(&crc.to_le_bytes())?;
        self.tell()
    }

    fn value(&mut self, bytes: &[u8]) -> Result<()> {
        self.so_far.value_bytes += bytes.len() as u64;
        self.put(bytes)
    }

    fn stream(&mut self, mut reader: ValueReader, path: &Path) -> Result<()> {
        let mut piece = vec![0; PIECE.min(reader.len() as usize)];
        let mut left = reader.len();
        while left > 0 {
            match reader.read(&mut piece) {
                Ok(count) => {
                    self.value(&piece[..count])?;
                    left -= count as u64;
                    self.tell()?;
                }
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::InvalidData | ErrorKind::UnexpectedEof => {
                        return Err(Error::corrupt(path, 0, error.to_string()));
                    }
                    _ => return Err(Error::io("reading", path, error)),
                },
            }
        }
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream_crc.update(bytes);
        self.body_crc.update(bytes);
        self.encoder
            .write_all(bytes)
            .map_err(|error| Error::io("writing", self.name, error))
    }

    fn tell(&mut self) -> Result<()> {
        self.so_far.file_bytes = self.encoder.get_ref().at;
        match (self.watch)(&self.so_far) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Aborted {
                what: format!("packing was stopped after {} entries", self.so_far.entries),
            }),
        }
    }

    fn finish(mut self) -> Result<PackReport> {
        let end = Frame::End(EndFrame {
            entries: self.so_far.entries,
            value_bytes: self.so_far.value_bytes,
            stream_crc: self.stream_crc.clone().finalize(),
        });
        self.put(&end.encode())?;
        let io = |error| Error::io("writing", self.name, error);
        let mut sink = self.encoder.finish().map_err(io)?;
        let crc = sink.crc.clone().finalize();
        sink.write_all(&crc.to_le_bytes()).map_err(io)?;
        sink.flush().map_err(io)?;
        Ok(PackReport {
            entries: self.so_far.entries,
            value_bytes: self.so_far.value_bytes,
            file_bytes: sink.at,
        })
    }
}
