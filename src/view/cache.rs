//! `Cache`: byte keys and byte values, shared by every process that opens the directory.
//!
//! Thin: each verb is a look-up without a lock, or a short transaction. Never knows a file.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::engine::read::Hit;
use crate::engine::store::{MAIN_SPACE, Store, stat};
use crate::error::{Error, Result};
use crate::format::header::{self as layout, participant};
use crate::format::key::Key;
use crate::format::record::tags_of;
use crate::os::host;
use crate::os::raw::Mapped;
use crate::part::participants;
use crate::part::shared::setting;
use crate::view::builder::Builder;
use crate::view::codec::Bincode;
use crate::view::handle::Handle;
use crate::view::hold::Hold;
use crate::view::iter::{Iter, Keys, Sorted};
use crate::view::prepare::{self};
use crate::view::reader::ValueReader;
use crate::view::typed::Typed;
use crate::view::value::{Description, Entry, Value, ValueKind};

/// A cache in a directory, shared by threads and processes.
///
/// Cheap to clone, `Send + Sync`, usable after `fork`. A change is visible to every process once its
/// verb has returned. Keys are at most [`KEY_LEN_MAX`](crate::KEY_LEN_MAX) bytes; values have any length.
///
/// ```
/// let cache = larder::Cache::temporary()?;
/// cache.set("greeting", "hello")?;
/// assert_eq!(cache.get("greeting")?.as_deref(), Some(&b"hello"[..]));
/// # Ok::<(), larder::Error>(())
/// ```
///
/// # Errors
/// Every verb: [`Error::Io`] and, where bytes on disk are not what was written, [`Error::Corrupt`].
/// Verbs that write, too: [`Error::Busy`] after the lock timeout, [`Error::Full`],
/// [`Error::NoSpace`], [`Error::TooLarge`], [`Error::Moved`], [`Error::ReadOnly`]. Whatever the error,
/// nothing was changed, unless the verb says otherwise.
#[derive(Clone, Debug)]
pub struct Cache {
    pub(super) handle: Arc<Handle>,
    /// Whose entries its verbs mean: the cache's own, or a view's.
    pub(super) space: u32,
    timeout: Option<Option<Duration>>,
}

impl Cache {
    /// Opens the store in `dir`, making it if there is none.
    ///
    /// # Errors
    /// As [`Builder::open`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Cache> {
        Builder::default().open(dir)
    }

    /// Opens a store with settings.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// A store of its own in a new directory below the system's temporary one, removed with the last
    /// clone of this handle.
    ///
    /// # Errors
    /// As [`Builder::open`].
    pub fn temporary() -> Result<Cache> {
        let [name] = host::random_words::<1>()?;
        let dir = std::env::temp_dir().join(format!("larder-{name:016x}"));
        let cache = Builder::default().open(&dir)?;
        match Arc::try_unwrap(cache.handle) {
            Ok(handle) => Ok(Cache::of(handle.temporary())),
            Err(handle) => Ok(Cache {
                handle,
                space: MAIN_SPACE,
                timeout: None,
            }),
        }
    }

    pub(crate) fn of(handle: Handle) -> Cache {
        Cache {
            handle: Arc::new(handle),
            space: MAIN_SPACE,
            timeout: None,
        }
    }

    /// The store's directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.handle.path()
    }

    /// The same store, waiting at most `timeout` for the writer lock; `None`: for ever.
    #[must_use]
    pub fn with_timeout(&self, timeout: Option<Duration>) -> Cache {
        Cache {
            handle: Arc::clone(&self.handle),
            space: self.space,
            timeout: Some(timeout),
        }
    }

    #[inline]
    pub(crate) fn store(&self) -> Result<&Arc<Store>> {
        self.handle.store()
    }

    /// The store, for a verb that changes it.
    #[inline]
    pub(super) fn store_to_change(&self) -> Result<&Arc<Store>> {
        let store = self.store()?;
        store.may_write()?;
        Ok(store)
    }

    /// How long this handle waits for the lock.
    pub(super) fn patience(&self, store: &Store) -> Option<Duration> {
        self.timeout
            .unwrap_or_else(|| match store.files.header.setting(setting::LOCK_TIMEOUT) {
                u64::MAX => None,
                ms => Some(Duration::from_millis(ms)),
            })
    }

    // Reading: no lock, no waiting.

    /// Finds a live entry, counting and stamping it when `counted`.
    #[inline]
    pub(super) fn look_up<T>(
        &self,
        key: &[u8],
        counted: bool,
        mut take: impl FnMut(&Arc<Store>, Hit<'_>, Vec<u8>) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        let store = self.store()?;
        let hash = store.hash.of(self.space, key);
        let mut found = None;
        loop {
            let mut buffer = Vec::new();
            let Some(hit) = store.find(self.space, key, hash, &mut buffer)? else {
                break;
            };
            let now = store.now_ms();
            if !store.lives(&hit, now) {
                break;
            }
            // Read-only, a stamp would only cost a page of this process's own.
            if counted && !store.dir.is_read_only() {
                store.note_access(&hit, now);
            }
            found = take(store, hit, buffer)?;
            if found.is_some() {
                break;
            }
            // Its file is gone: the entry has changed, or the file was taken away.
            if hit.is_current() {
                return Err(store.missing_value(&hit.head));
            }
        }
        if counted && store.files.header.setting(setting::STATISTICS) != 0 {
            let field = if found.is_some() {
                participant::HITS
            } else {
                participant::MISSES
            };
            store
                .files
                .header
                .add(participants::at(store.me.index, field), 1);
        }
        Ok(found)
    }

    /// The value of a key; `None`: absent or expired. Numbers come as decimal text.
    ///
    /// # Errors
    /// See [`Cache`].
    #[inline]
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        self.look_up(key.as_ref(), true, |store, hit, buffer| {
            prepare::value_of(store, &hit.head, buffer)
        })
    }

    /// Puts the value into `buffer` (replaced) and says what it is; `None`: absent, `buffer` is empty.
    ///
    /// # Errors
    /// See [`Cache`]; `buffer` is empty then.
    pub fn get_into(
        &self,
        key: impl AsRef<[u8]>,
        buffer: &mut Vec<u8>,
    ) -> Result<Option<ValueKind>> {
        buffer.clear();
        Ok(self.get(key)?.map(|value| {
            buffer.extend_from_slice(&value);
            value.kind()
        }))
    }

    /// The value's bytes in the mapping itself, without a copy, verified once.
    ///
    /// They stay valid after the entry is overwritten, deleted, culled or compacted away, for as long
    /// as the returned value lives.
    ///
    /// # Safety
    /// Nobody but larder may write to or shorten the store's files while the returned value lives:
    /// another's store to those bytes is undefined behaviour here, a shorter file a SIGBUS. larder
    /// itself, in every process, keeps to that.
    ///
    /// # Errors
    /// See [`Cache`]; [`Error::Unsupported`] for values that are compressed, numbers, or in files of
    /// their own ([`Cache::value_path`]).
    pub unsafe fn get_mapped(&self, key: impl AsRef<[u8]>) -> Result<Option<Mapped>> {
        self.look_up(key.as_ref(), true, |store, hit, buffer| {
            let head = hit.head;
            let is_plain = head.options.apart.is_none()
                && head.options.zstd.is_none()
                && !matches!(ValueKind::from_byte(head.value_kind), ValueKind::Integer | ValueKind::Float);
            if !is_plain {
                let what = "this value is not stored as its bytes in the log: read it with get or value_path".into();
                return Err(Error::Unsupported { path: self.path().into(), what });
            }
            drop(buffer);
            let segment = store.segments.must_get(&store.files, &store.dir, hit.place.slot)?;
            let at = hit.place.at as usize + head.key_at + head.key_len;
            Ok(Some(Mapped::new(Arc::clone(segment.map()), at, head.value_len)))
        })
    }

    /// A reader over the value, for large ones: it goes on reading this version, whatever happens to
    /// the entry.
    ///
    /// # Errors
    /// See [`Cache`]. Damage to a large value's file shows when it was read through from the start.
    pub fn get_reader(&self, key: impl AsRef<[u8]>) -> Result<Option<ValueReader>> {
        self.look_up(key.as_ref(), true, |store, hit, buffer| {
            match hit.head.options.apart {
                Some(apart) => ValueReader::of_file(store, apart),
                None => Ok(prepare::value_of(store, &hit.head, buffer)?.map(ValueReader::of_value)),
            }
        })
    }

    /// The path of a large value's own file; `None`: absent, or not large. Its bytes are the value.
    ///
    /// The file goes some time after the entry: open it at once.
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn value_path(&self, key: impl AsRef<[u8]>) -> Result<Option<PathBuf>> {
        let found = self.look_up(key.as_ref(), true, |store, hit, _| {
            Ok(Some(
                Store::value_name(&hit.head).map(|name| store.dir.path_of(name)),
            ))
        })?;
        Ok(found.flatten())
    }

    /// The value and all that is known of its entry.
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn get_entry(&self, key: impl AsRef<[u8]>) -> Result<Option<Entry>> {
        let found = self.look_up(key.as_ref(), true, |store, hit, buffer| {
            let about = describe(store, &hit, &buffer)?;
            Ok(prepare::value_of(store, &hit.head, buffer)?.map(|value| (about, value)))
        })?;
        Ok(found.map(|(about, value)| Entry {
            value,
            expires_at: about.expires_at,
            tags: about.tags,
            stored_at: about.stored_at,
            accessed_at: about.accessed_at,
            size_bytes: about.size_bytes,
            kind: about.kind,
        }))
    }

    /// All that is known of an entry but its value; not counted as an access.
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn describe(&self, key: impl AsRef<[u8]>) -> Result<Option<Description>> {
        self.look_up(key.as_ref(), false, |store, hit, buffer| {
            describe(store, &hit, &buffer).map(Some)
        })
    }

    /// Whether the key has a live entry; not counted as an access.
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn contains(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        Ok(self
            .look_up(key.as_ref(), false, |_, _, _| Ok(Some(())))?
            .is_some())
    }

    /// The values of several keys, in their order. Each is read for itself: not one moment's view.
    ///
    /// # Errors
    /// See [`Cache`]: the first one met.
    pub fn get_many<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Value>>> {
        keys.into_iter().map(|key| self.get(key)).collect()
    }

    // In order.

    /// The live entry inserted first.
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn first(&self) -> Result<Option<(Vec<u8>, Value)>> {
        self.iter()?.next().transpose()
    }

    /// The live entry inserted last.
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn last(&self) -> Result<Option<(Vec<u8>, Value)>> {
        self.iter()?.next_back().transpose()
    }

    /// Entries, expired ones not yet removed included.
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn len(&self) -> Result<u64> {
        Ok(self.store()?.entries(self.space))
    }

    /// Whether [`Cache::len`] is 0.
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Live entries in insertion order, both ways; none inserted after this call.
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn iter(&self) -> Result<Iter> {
        Iter::new(self.store()?, self.space)
    }

    /// Keys of live entries in insertion order, both ways; none inserted after this call.
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn keys(&self) -> Result<Keys> {
        Keys::new(self.store()?, self.space)
    }

    /// Entries whose key begins with `prefix`, in insertion order. Looks at every key.
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn iter_prefix<P: AsRef<[u8]>>(
        &self,
        prefix: P,
    ) -> Result<impl DoubleEndedIterator<Item = Result<(Vec<u8>, Value)>> + use<P>> {
        let prefix = prefix.as_ref().to_vec();
        Ok(self.iter()?.filter(move |item| {
            item.as_ref()
                .map_or(true, |(key, _)| key.starts_with(&prefix))
        }))
    }

    /// Entries by key, compared as bytes. Gathers and sorts every key first: n log n time, and the
    /// memory of the keys.
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn iter_sorted(&self) -> Result<Sorted> {
        Sorted::new(self, |_| true)
    }

    /// Entries whose key is in `range`, by key. Looks at every key, and sorts those.
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn range<K: AsRef<[u8]>>(&self, range: impl std::ops::RangeBounds<K>) -> Result<Sorted> {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        Sorted::new(self, |key| {
            let after = match range.start_bound() {
                Included(start) => key >= start.as_ref(),
                Excluded(start) => key > start.as_ref(),
                Unbounded => true,
            };
            after
                && match range.end_bound() {
                    Included(end) => key <= end.as_ref(),
                    Excluded(end) => key < end.as_ref(),
                    Unbounded => true,
                }
        })
    }

    /// Keys and values of Rust types over this cache.
    #[must_use]
    pub fn typed<K: Key, V>(&self) -> Typed<K, V, Bincode> {
        Typed::new(self.clone())
    }

    /// A transaction that is about `key` alone.
    pub(crate) fn transact_on<T>(
        &self,
        key: &[u8],
        work: impl Fn(&crate::Transaction) -> Result<T>,
    ) -> Result<T> {
        let _ = key;
        self.transact(work)
    }

    pub(crate) fn count_decode_failure(&self) {
        if let Ok(store) = self.store() {
            store
                .files
                .header
                .add(layout::STATS_AT + 8 * stat::DECODE_FAILURES, 1);
        }
    }

    /// An exclusive hold on a name, among all threads and processes that ask for it; it ends with its
    /// holder. It has nothing to do with the entry of that name.
    ///
    /// # Errors
    /// [`Error::Busy`] when it was not had within `timeout` (`None`: waits for ever);
    /// [`Error::ReadOnly`].
    pub fn hold(&self, name: impl AsRef<[u8]>, timeout: Option<Duration>) -> Result<Hold> {
        Hold::take(self.store_to_change()?, name.as_ref(), timeout)
    }

    pub(crate) fn get_quietly(&self, key: &[u8]) -> Result<Option<Value>> {
        self.look_up(key, false, |store, hit, buffer| {
            prepare::value_of(store, &hit.head, buffer)
        })
    }
}

fn describe(store: &Store, hit: &Hit<'_>, buffer: &[u8]) -> Result<Description> {
    let head = &hit.head;
    let second =
        |second: u32| -> SystemTime { prepare::time(store.created_ms + u64::from(second) * 1_000) };
    let tags = tags_of(head, buffer)
        .map(|id| store.tag_name(id))
        .collect::<Result<_>>()?;
    let now = store.now_ms();
    Ok(Description {
        expires_at: head
            .options
            .expires_ms
            .map(|_| prepare::time(store.expiry_of(hit, now))),
        tags,
        stored_at: second(head.stored_s),
        accessed_at: second(store.accessed_second(hit, now)),
        size_bytes: prepare::size_of(head, buffer),
        kind: ValueKind::from_byte(head.value_kind),
    })
}
