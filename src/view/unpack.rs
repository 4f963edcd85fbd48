//! `Cache::unpack`: the entries of a packed file into a store.
//!
//! Holds: the file is verified to its last byte before the store is touched, and memory stays bounded
//! whatever the file claims. Never removes an entry that the file does not name.

use std::borrow::Cow;
use std::io::{Read, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::engine::store::{MAIN_SPACE, Store};
use crate::error::{Error, Result};
use crate::format::pack::EntryFrame;
use crate::part::shared::setting;
use crate::view::cache::Cache;
use crate::view::options::SetOptions;
use crate::view::pack::{PackReport, UNNAMED};
use crate::view::packed::Packed;
use crate::view::prepare::{self, Prepared};
use crate::view::state::State;
use crate::view::value::{Number, ValueKind};

/// Entries stored under one hold of the lock, at most.
const BATCH_ENTRIES_MAX: usize = 1_000;
/// Bytes stored so, at most, unless one entry alone has more.
const BATCH_BYTES_MAX: u64 = 1 << 20;
/// What an entry or a new tag's name takes in the log beside its bytes, at most.
const RECORD_BYTES: u64 = 128;
/// Bytes of a value verified at a time.
const PIECE: usize = 64 * 1024;

/// How a packed file is read, for [`Cache::unpack_with`].
#[derive(Clone, Debug)]
#[must_use]
pub struct UnpackOptions {
    name: PathBuf,
}

impl Default for UnpackOptions {
    fn default() -> Self {
        UnpackOptions {
            name: UNNAMED.into(),
        }
    }
}

impl UnpackOptions {
    /// What errors call the file. Default: "the packed file".
    pub fn name(mut self, name: impl AsRef<Path>) -> Self {
        self.name = name.as_ref().to_path_buf();
        self
    }

    /// Reads a packed file to its last byte and says what is in it. Needs no store, and leaves the
    /// reader where it stood.
    ///
    /// ```
    /// # let cache = larder::Cache::temporary()?;
    /// # let mut file = Vec::new();
    /// # cache.pack(&mut file, &larder::PackChoice::default())?;
    /// let cut_short = std::io::Cursor::new(&file[..file.len() - 1]);
    /// let refused = larder::UnpackOptions::default().verify(cut_short);
    /// assert!(matches!(refused, Err(larder::Error::DamagedPack { .. })));
    /// # Ok::<(), larder::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Cache::unpack`] has of the file.
    pub fn verify(&self, mut from: impl Read + Seek) -> Result<PackReport> {
        let io = |error| Error::io("reading", &self.name, error);
        let start = from.stream_position().map_err(io)?;
        let report = verify(&mut from, &self.name, None, &mut |_| {
            ControlFlow::Continue(())
        })?;
        from.seek(SeekFrom::Start(start)).map_err(io)?;
        Ok(report)
    }
}

/// How far [`Cache::unpack_with`] has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnpackProgress {
    /// Whether the file is verified; only then is the store written to.
    pub is_verified: bool,
    /// Entries that are in the store; 0 until the file is verified.
    pub entries: u64,
    /// Bytes of the file read: once to verify it, once to store its entries.
    pub read_bytes: u64,
    /// What `read_bytes` ends at: twice the file's bytes.
    pub read_bytes_max: u64,
}

/// What [`Cache::unpack`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnpackReport {
    /// Entries stored.
    pub entries: u64,
    /// How many of them replaced a live entry with the same key.
    pub replaced: u64,
    /// Entries left out, for they had expired.
    pub expired: u64,
    /// Bytes of the values stored, uncompressed.
    pub value_bytes: u64,
}

type Watch<'w> = dyn FnMut(&UnpackProgress) -> ControlFlow<()> + 'w;

impl Cache {
    /// Stores the entries of a file that [`Cache::pack`] wrote, from where the reader stands to its
    /// end, in their order: with kind, expiry and tags, stored now. A live entry with the same key is
    /// overwritten and keeps its place in the order. Entries that have expired are left out.
    ///
    /// Reads the file twice. The first time it is verified to its last byte, so a file that is
    /// damaged, cut short, not a packed file, of a newer version or made to harm leaves the store
    /// unchanged. The second time entries are stored, some at a time: others see them appear, and
    /// write in between. Memory stays bounded whatever the file claims.
    ///
    /// ```
    /// use larder::{Cache, PackChoice};
    ///
    /// # let dir = std::env::temp_dir().join(format!("larder-doc-{}", std::process::id()));
    /// # std::fs::create_dir_all(&dir).unwrap();
    /// # let path = dir.join("answers.larder");
    /// # let from = Cache::temporary()?;
    /// # from.set("answer", "42")?;
    /// # from.pack(std::fs::File::create(&path).unwrap(), &PackChoice::default())?;
    /// let cache = Cache::temporary()?;
    /// cache.set("answer", "41")?;
    /// let report = cache.unpack(std::fs::File::open(path).unwrap())?;
    /// assert_eq!((report.entries, report.replaced, report.expired), (1, 1, 0));
    /// # std::fs::remove_dir_all(dir).unwrap();
    /// # Ok::<(), larder::Error>(())
    /// ```
    ///
    /// # Errors
    /// Of the file, the store unchanged: [`Error::DamagedPack`]; [`Error::Unsupported`] when it is of
    /// a newer version; [`Error::TooLarge`] when a value is larger than `size_limit_bytes`, or a key
    /// or tag above its limit; [`Error::Io`] of the reader. Of the store, with the entries so far in
    /// it: see [`Cache`], foremost [`Error::Full`] and [`Error::NoSpace`]. A file that others change
    /// while it is read may be found out only then. [`Error::Aborted`] inside [`Cache::transact`].
    pub fn unpack(&self, from: impl Read + Seek) -> Result<UnpackReport> {
        self.unpack_with(from, &UnpackOptions::default(), |_| {
            ControlFlow::Continue(())
        })
    }

    /// As [`Cache::unpack`]; `watch` is told after each entry and each piece of a large one, and may
    /// stop it.
    ///
    /// # Errors
    /// As [`Cache::unpack`]; [`Error::Aborted`] when `watch` stopped it: what it was told is stored
    /// stays.
    pub fn unpack_with(
        &self,
        mut from: impl Read + Seek,
        options: &UnpackOptions,
        mut watch: impl FnMut(&UnpackProgress) -> ControlFlow<()>,
    ) -> Result<UnpackReport> {
        let store = self.writable()?;
        let name = &options.name;
        let io = |error| Error::io("reading", name, error);
        let start = from.stream_position().map_err(io)?;
        let limits = Limits {
            now_ms: store.now_ms(),
            value_bytes_max: store.files.header.setting(setting::SIZE_LIMIT),
        };
        verify(&mut from, name, Some(limits), &mut watch)?;
        from.seek(SeekFrom::Start(start)).map_err(io)?;
        let mut packed = Packed::open(&mut from, name)?;
        let mut unpacking = Unpacking {
            cache: self,
            store,
            batch: Vec::new(),
            batch_bytes: 0,
            report: UnpackReport::default(),
            watch: &mut watch,
        };
        unpacking.store_all(&mut packed, limits.now_ms)
    }
}

/// What the store asks of entries before it is touched.
#[derive(Clone, Copy)]
struct Limits {
    now_ms: u64,
    value_bytes_max: u64,
}

/// Reads the file to its last byte.
fn verify(
    from: &mut (impl Read + Seek),
    name: &Path,
    limits: Option<Limits>,
    watch: &mut Watch<'_>,
) -> Result<PackReport> {
    let mut packed = Packed::open(from, name)?;
    let (mut key, mut tags) = (Vec::new(), Vec::new());
    let mut piece = vec![0; PIECE];
    while let Some(entry) = packed.next()? {
        if let Some(limits) = limits
            && !entry.is_expired(limits.now_ms)
            && entry.value_len > limits.value_bytes_max
        {
            return Err(Error::TooLarge {
                what: "a packed value (bytes)",
                bytes: entry.value_len,
                max_bytes: limits.value_bytes_max,
            });
        }
        packed.names(&entry, &mut key, &mut tags)?;
        while packed.value(&mut piece)? > 0 {
            tell(&packed, false, 0, watch)?;
        }
        packed.end_entry()?;
        packed.tags(&tags)?;
        tell(&packed, false, 0, watch)?;
    }
    Ok(PackReport {
        entries: packed.entries,
        value_bytes: packed.value_bytes,
        file_bytes: packed.len(),
    })
}

fn tell<R: Read + Seek>(
    packed: &Packed<'_, R>,
    is_verified: bool,
    entries: u64,
    watch: &mut Watch<'_>,
) -> Result<()> {
    let before = if is_verified { packed.len() } else { 0 };
    let progress = UnpackProgress {
        is_verified,
        entries,
        read_bytes: before + packed.at(),
        read_bytes_max: packed.len().saturating_mul(2),
    };
    match watch(&progress) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::Aborted {
            what: format!("unpacking was stopped; {entries} entries were stored before"),
        }),
    }
}

/// An entry that waits for its batch.
struct Item {
    key: Vec<u8>,
    value: Vec<u8>,
    zstd: Option<(u32, u32)>,
    kind: u8,
    expires_ms: Option<u64>,
    options: SetOptions,
    value_len: u64,
}

/// A verified file on its way into a store.
struct Unpacking<'c> {
    cache: &'c Cache,
    store: &'c Arc<Store>,
    batch: Vec<Item>,
    batch_bytes: u64,
    report: UnpackReport,
    watch: &'c mut Watch<'c>,
}

impl Unpacking<'_> {
    fn store_all<R: Read + Seek>(
        &mut self,
        packed: &mut Packed<'_, R>,
        now_ms: u64,
    ) -> Result<UnpackReport> {
        let mut piece = vec![0; PIECE];
        while let Some(entry) = packed.next()? {
            let (mut key, mut tags) = (Vec::new(), Vec::new());
            packed.names(&entry, &mut key, &mut tags)?;
            if entry.is_expired(now_ms) {
                while packed.value(&mut piece)? > 0 {
                    tell(packed, true, self.report.entries, self.watch)?;
                }
                packed.end_entry()?;
                self.report.expired += 1;
            } else {
                let tags = packed.tags(&tags)?;
                self.entry(packed, &entry, key, tags)?;
            }
            tell(packed, true, self.report.entries, self.watch)?;
        }
        self.flush()?;
        tell(packed, true, self.report.entries, self.watch)?;
        Ok(self.report)
    }

    fn entry<R: Read + Seek>(
        &mut self,
        packed: &mut Packed<'_, R>,
        entry: &EntryFrame,
        key: Vec<u8>,
        tags: Vec<Vec<u8>>,
    ) -> Result<()> {
        let options = options_of(entry, tags);
        let prepared = self.prepare(packed, entry, &options)?;
        // Before anything is stored: a file that changed since it was verified goes no further.
        packed.end_entry()?;
        let value_len = entry.value_len;
        if prepared.stream.is_some() {
            self.flush()?;
            return self.store_large(&key, prepared, &options, value_len);
        }
        let item = Item {
            key,
            value: prepared.bytes.into_owned(),
            zstd: prepared.zstd,
            kind: prepared.kind,
            expires_ms: prepared.expires_ms,
            options,
            value_len,
        };
        let bytes = item.log_bytes();
        let size_limit = self.store.files.header.setting(setting::SIZE_LIMIT);
        // A batch takes a quarter of the limit at most.
        let bytes_max = BATCH_BYTES_MAX.min(size_limit / 8);
        if self.batch.len() >= BATCH_ENTRIES_MAX || self.batch_bytes + bytes > bytes_max {
            self.flush()?;
        }
        self.batch.push(item);
        self.batch_bytes += bytes;
        Ok(())
    }

    /// Reads the value: into memory, or into a file of the store when it is large.
    fn prepare<R: Read + Seek>(
        &mut self,
        packed: &mut Packed<'_, R>,
        entry: &EntryFrame,
        options: &SetOptions,
    ) -> Result<Prepared<'static>> {
        let now_ms = self.store.now_ms();
        if entry.is_number() {
            let mut bytes = [0; 8];
            packed.value(&mut bytes)?;
            let kind = ValueKind::from_byte(entry.value_kind);
            let number = Number::read(kind, &bytes).ok_or_else(|| Error::Codec {
                what: format!("a packed {kind:?} is no number"),
            })?;
            return prepare::number(self.store, number, options, now_ms);
        }
        let mut reader = EntryReader {
            packed,
            entries: self.report.entries,
            watch: self.watch,
            failed: None,
        };
        match prepare::reader(self.store, &mut reader, options) {
            Ok((prepared, _)) => Ok(prepared),
            Err(error) => Err(reader.failed.unwrap_or(error)),
        }
    }

    /// Stores the entries that wait, all or none.
    fn flush(&mut self) -> Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        match self.commit() {
            // Dead value files may make room; not while the lock is held.
            Err(Error::Full { needed_bytes, .. }) if self.store.make_way(needed_bytes)? => {
                self.commit()?
            }
            done => done?,
        }
        self.batch.clear();
        self.batch_bytes = 0;
        self.cache.finish(self.store)
    }

    fn commit(&mut self) -> Result<()> {
        let mut state = State::begin(self.store, self.cache.patience(self.store))?;
        state.reserve(self.batch.len());
        let mut report = self.report;
        for item in &self.batch {
            report.note(self.cache, &item.key, item.value_len);
            let prepared = Prepared {
                sliding_ms: None,
                cost_s: None,
                bytes: Cow::Borrowed(&item.value),
                zstd: item.zstd,
                stream: None,
                kind: item.kind,
                expires_ms: item.expires_ms,
            };
            state.set(MAIN_SPACE, &item.key, prepared, &item.options)?;
        }
        state.commit()?;
        self.report = report;
        Ok(())
    }

    /// A value in a file of its own goes alone: few of them may be on their way at a time.
    fn store_large(
        &mut self,
        key: &[u8],
        prepared: Prepared<'_>,
        options: &SetOptions,
        value_len: u64,
    ) -> Result<()> {
        let mut state = State::begin(self.store, self.cache.patience(self.store))?;
        let mut report = self.report;
        report.note(self.cache, key, value_len);
        state.set(MAIN_SPACE, key, prepared, options)?;
        state.commit()?;
        self.report = report;
        self.cache.finish(self.store)
    }
}

impl Item {
    /// What it takes in the log, at most: its tags may all be new.
    fn log_bytes(&self) -> u64 {
        let tags: u64 = (self.options.tags.iter())
            .map(|tag| 2 * (tag.len() as u64 + RECORD_BYTES))
            .sum();
        self.key.len() as u64 + self.value.len() as u64 + RECORD_BYTES + tags
    }
}

impl UnpackReport {
    /// One more entry, about to be stored under the lock.
    fn note(&mut self, cache: &Cache, key: &[u8], value_len: u64) {
        self.entries += 1;
        self.value_bytes += value_len;
        // A damaged entry is overwritten like any other.
        self.replaced += u64::from(!matches!(cache.contains(key), Ok(false)));
    }
}

/// As the entry was stored, but for when.
fn options_of(entry: &EntryFrame, tags: Vec<Vec<u8>>) -> SetOptions {
    let mut options = SetOptions::default().tags(tags);
    options = match entry.expires_ms {
        Some(expires_ms) => options.expires_at(prepare::time(expires_ms)),
        None => options.never_expires(),
    };
    if entry.is_compressed {
        options = options.compress(true);
    }
    if entry.is_number() {
        return options;
    }
    options.kind(ValueKind::from_byte(entry.value_kind))
}

/// The value of one entry; its failures are kept whole beside.
struct EntryReader<'p, 'f, R> {
    packed: &'p mut Packed<'f, R>,
    entries: u64,
    watch: &'p mut Watch<'p>,
    failed: Option<Error>,
}

impl<R: Read + Seek> Read for EntryReader<'_, '_, R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let read = self.packed.value(out).and_then(|count| {
            tell(self.packed, true, self.entries, self.watch)?;
            Ok(count)
        });
        read.map_err(|error| {
            let said = std::io::Error::other(error.to_string());
            self.failed = Some(error);
            said
        })
    }
}
