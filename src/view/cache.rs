//! `Cache`: byte keys and byte values, shared by every process that opens the directory.
//!
//! Thin: each verb is a look-up without a lock, or a short transaction. Never knows a file.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use crate::engine::check::CheckReport;
use crate::engine::read::Hit;
use crate::engine::store::{INNER_SPACE, MAIN_SPACE, Store, stat};
use crate::engine::sync;
use crate::error::{Error, Result};
use crate::format::header::{self as layout, participant, space};
use crate::format::key::Key;
use crate::format::record::{Draft, Kind, flag};
use crate::format::settings::Settings;
use crate::os::host;
use crate::os::raw::Mapped;
use crate::part::order;
use crate::part::participants;
use crate::part::shared::setting;
use crate::view::builder::Builder;
use crate::view::codec::Bincode;
use crate::view::handle::Handle;
use crate::view::hold::Hold;
use crate::view::iter::{Iter, Keys, Sorted};
use crate::view::log::LogIter;
use crate::view::options::{Expiry, SetOptions, Side};
use crate::view::prepare::{self, Prepared};
use crate::view::queue;
use crate::view::reader::ValueReader;
use crate::view::state::{self, State};
use crate::view::stats::Stats;
use crate::view::transaction::Transaction;
use crate::view::typed::Typed;
use crate::view::value::{Description, Entry, Number, Value, ValueKind};

/// Entries one step of `clear` removes under the lock.
const CLEAR_STEP: usize = 128;

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
/// [`Error::NoSpace`], [`Error::TooLarge`], [`Error::Moved`]. Whatever the error, nothing was changed,
/// unless the verb says otherwise.
#[derive(Clone, Debug)]
pub struct Cache {
    handle: Arc<Handle>,
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
                timeout: None,
            }),
        }
    }

    pub(crate) fn of(handle: Handle) -> Cache {
        Cache {
            handle: Arc::new(handle),
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
            timeout: Some(timeout),
        }
    }

    #[inline]
    pub(crate) fn store(&self) -> Result<&Arc<Store>> {
        self.handle.store()
    }

    /// How long this handle waits for the lock.
    fn patience(&self, store: &Store) -> Option<Duration> {
        self.timeout
            .unwrap_or_else(|| match store.files.header.setting(setting::LOCK_TIMEOUT) {
                u64::MAX => None,
                ms => Some(Duration::from_millis(ms)),
            })
    }

    // Reading: no lock, no waiting.

    /// Finds a live entry, counting and stamping it when `counted`.
    #[inline]
    fn look_up<T>(
        &self,
        key: &[u8],
        counted: bool,
        mut take: impl FnMut(&Arc<Store>, Hit<'_>, Vec<u8>) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        let store = self.store()?;
        let hash = store.hash.of(MAIN_SPACE, key);
        let mut found = None;
        loop {
            let mut buffer = Vec::new();
            let Some(hit) = store.find(MAIN_SPACE, key, hash, &mut buffer)? else {
                break;
            };
            let now = store.now_ms();
            if hit.is_expired(now) {
                break;
            }
            if counted {
                hit.met.set_stamp(store.second(now));
            }
            found = take(store, hit, buffer)?;
            if found.is_some() {
                break;
            }
            // Its file is gone: the entry has changed, or the file was taken away.
            if hit.met.unchanged() {
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

    // Writing.

    /// Stores a value; what was under the key goes, its place in the order stays.
    ///
    /// # Errors
    /// See [`Cache`].
    #[inline]
    pub fn set(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<()> {
        self.set_with(key, value, &SetOptions::default())
    }

    /// Stores a value with options.
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn set_with(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: &SetOptions,
    ) -> Result<()> {
        let store = self.store()?;
        let now = store.now_ms();
        let prepared = prepare::bytes(store, value.as_ref(), options, now)?;
        self.set_prepared(store, key.as_ref(), prepared, options)
    }

    /// Stores a number, which [`Cache::incr`] counts.
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn set_number(
        &self,
        key: impl AsRef<[u8]>,
        number: impl Into<Number>,
        options: &SetOptions,
    ) -> Result<()> {
        let store = self.store()?;
        let prepared = prepare::number(store, number.into(), options, store.now_ms())?;
        self.set_prepared(store, key.as_ref(), prepared, options)
    }

    /// Stores what a reader gives, in bounded memory and without the lock while it reads. Its length.
    ///
    /// # Errors
    /// See [`Cache`]; [`Error::Io`] with what the reader said.
    pub fn set_reader(
        &self,
        key: impl AsRef<[u8]>,
        reader: impl Read,
        options: &SetOptions,
    ) -> Result<u64> {
        prepare::check_key(key.as_ref())?;
        let store = self.store()?;
        let (prepared, len) = prepare::reader(store, reader, options, store.now_ms())?;
        self.set_prepared(store, key.as_ref(), prepared, options)?;
        Ok(len)
    }

    fn set_prepared(
        &self,
        store: &Arc<Store>,
        key: &[u8],
        prepared: Prepared<'_>,
        options: &SetOptions,
    ) -> Result<()> {
        prepare::check_key(key)?;
        if !options.tags.is_empty() || state::is_inside(store) {
            return self.write(store, |state| state.set(key, prepared, options));
        }
        let draft = Draft {
            kind: Kind::Set,
            value_kind: prepared.kind,
            space: MAIN_SPACE,
            key,
            value: &prepared.bytes,
            expires_ms: prepared.expires_ms,
            zstd: prepared.zstd,
            apart: prepared.apart(),
            is_item: false,
            tag_seq: 0,
            tags: &[],
            stored_s: store.second(store.now_ms()),
        };
        let hash = store.hash.of(MAIN_SPACE, key);
        let put = || {
            sync::locked(store, self.patience(store), |store, proof| {
                store.put(proof, hash, &draft, &[])
            })
        };
        match put() {
            Err(Error::Full { .. }) if store.make_way()? => put()?,
            done => done?,
        }
        if let Some((stream, _)) = prepared.stream {
            stream.keep();
        }
        self.finish(store)
    }

    /// Stores several values as one batch: all or none are seen, by readers and after a kill. How many.
    ///
    /// # Errors
    /// See [`Cache`]; [`Error::TooLarge`] above 256 MiB or a quarter of `size_limit_bytes`.
    pub fn set_many<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &self,
        items: impl IntoIterator<Item = (K, V)>,
        options: &SetOptions,
    ) -> Result<u64> {
        let store = self.store()?;
        // The caller's iterator runs, and values are compressed, before the lock is taken.
        let items: Vec<(K, V)> = items.into_iter().collect();
        let now = store.now_ms();
        let mut prepared = Vec::with_capacity(items.len());
        for (key, value) in &items {
            prepare::check_key(key.as_ref())?;
            prepared.push(prepare::bytes(store, value.as_ref(), options, now)?);
        }
        self.write(store, |state| {
            state.reserve(items.len());
            for ((key, _), prepared) in items.iter().zip(prepared) {
                state.set(key.as_ref(), prepared, options)?;
            }
            Ok(items.len() as u64)
        })
    }

    /// Stores a value if the key is absent or expired: of several processes, exactly one does.
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn add(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: &SetOptions,
    ) -> Result<bool> {
        // Without the lock first: who comes too late need not wait.
        if self.contains(key.as_ref())? {
            return Ok(false);
        }
        self.transact(|tx| tx.add(key, value, options))
    }

    /// Stores a value if the key has a live entry. Whether it did.
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn replace(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: &SetOptions,
    ) -> Result<bool> {
        self.transact(|tx| tx.replace(key, value, options))
    }

    /// Changes a key from `expected` to `new` (`None`: absent) if it is `expected`. Whether it was.
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn compare_and_swap(
        &self,
        key: impl AsRef<[u8]>,
        expected: Option<&[u8]>,
        new: Option<&[u8]>,
        options: &SetOptions,
    ) -> Result<bool> {
        self.transact(|tx| tx.compare_and_swap(key, expected, new, options))
    }

    /// Changes a live entry's expiry alone, also to never. Whether there was one.
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn touch(&self, key: impl AsRef<[u8]>, expiry: Expiry) -> Result<bool> {
        self.transact(|tx| tx.touch(key, expiry))
    }

    /// Removes a live entry. Whether there was one; an expired one stays for `expire`.
    ///
    /// # Errors
    /// See [`Cache`]; a damaged entry is removed like any other.
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        let store = self.store()?;
        if state::is_inside(store) {
            return self.transact(|tx| tx.delete(key));
        }
        let key = key.as_ref();
        let gone = sync::locked(store, self.patience(store), |store, proof| {
            store.delete(proof, key)
        })?;
        if gone {
            self.finish(store)?;
        }
        Ok(gone)
    }

    /// Removes a live entry and returns its value: of several processes, one gets it.
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn pop(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        self.transact(|tx| tx.pop(key))
    }

    /// Removes every entry that was there when it began, in steps. How many.
    ///
    /// # Errors
    /// See [`Cache`]; [`Error::removed`] says how many went before [`Error::Busy`].
    pub fn clear(&self) -> Result<u64> {
        let store = self.writable()?;
        let bound = store.committed();
        let end = store.files.space(MAIN_SPACE, space::CELLS);
        let mut at = store.files.space(MAIN_SPACE, space::HEAD);
        let mut removed = 0;
        while at < end {
            let step = sync::locked(store, self.patience(store), |store, proof| {
                let mut victims = Vec::new();
                let mut buffer = Vec::new();
                while at < end && victims.len() < CLEAR_STEP {
                    let cell = order::cell(&store.files, &store.dir, MAIN_SPACE, at)?;
                    at += 1;
                    let hit = match cell.map(|cell| store.find_cell(MAIN_SPACE, cell, &mut buffer))
                    {
                        Some(Ok(Some(hit))) if hit.head.order <= bound => hit,
                        _ => continue,
                    };
                    victims.push((store.hash.of(MAIN_SPACE, hit.key(&buffer)), hit.head.seq));
                }
                store.kill(proof, &victims)
            });
            removed += step.map_err(|error| error.after_removing(removed))?;
        }
        self.clear_queues(store)
            .map_err(|error| error.after_removing(removed))?;
        self.finish(store)?;
        Ok(removed)
    }

    /// Queues begin anew when their items are gone.
    fn clear_queues(&self, store: &Arc<Store>) -> Result<()> {
        let mut queues = Vec::new();
        for key in Keys::new(store, INNER_SPACE)? {
            let key = key?;
            if key.starts_with(queue::INNER_PREFIX) {
                queues.push(key);
            }
        }
        if queues.is_empty() {
            return Ok(());
        }
        self.write(store, |state| {
            queues
                .iter()
                .try_for_each(|key| state.remove(INNER_SPACE, key))
        })
    }

    /// Adds to a number; absent or expired, it becomes `default + delta`. Expiry and tags are kept. The
    /// new number.
    ///
    /// # Errors
    /// [`Error::NotANumber`] on anything else, [`Error::Overflow`]; the value is unchanged. See [`Cache`].
    pub fn incr(
        &self,
        key: impl AsRef<[u8]>,
        delta: impl Into<Number>,
        default: impl Into<Number>,
    ) -> Result<Number> {
        self.transact(|tx| tx.incr(key, delta, default))
    }

    /// Subtracts from a number, as [`Cache::incr`] adds.
    ///
    /// # Errors
    /// As [`Cache::incr`].
    pub fn decr(
        &self,
        key: impl AsRef<[u8]>,
        delta: impl Into<Number>,
        default: impl Into<Number>,
    ) -> Result<Number> {
        self.transact(|tx| tx.decr(key, delta, default))
    }

    /// Puts a value at an end of the queue `prefix` (`None`: the nameless one). The key it got.
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn push(
        &self,
        prefix: Option<&[u8]>,
        value: impl AsRef<[u8]>,
        side: Side,
        options: &SetOptions,
    ) -> Result<Vec<u8>> {
        self.transact(|tx| tx.push(prefix, value, side, options))
    }

    /// Takes the value at an end of a queue away: of several processes, one gets it.
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn pull(&self, prefix: Option<&[u8]>, side: Side) -> Result<Option<(Vec<u8>, Value)>> {
        self.transact(|tx| tx.pull(prefix, side))
    }

    /// The value at an end of a queue.
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn peek(&self, prefix: Option<&[u8]>, side: Side) -> Result<Option<(Vec<u8>, Value)>> {
        queue::peek(self.store()?, prefix, side, |key| {
            let found = self.look_up(key, false, |store, hit, buffer| {
                if hit.head.flags & flag::ITEM == 0 {
                    return Ok(Some(None));
                }
                Ok(prepare::value_of(store, &hit.head, buffer)?.map(Some))
            })?;
            Ok(found.flatten())
        })
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
        Ok(self.store()?.entries(MAIN_SPACE))
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
        Iter::new(self.store()?, MAIN_SPACE)
    }

    /// Keys of live entries in insertion order, both ways; none inserted after this call.
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn keys(&self) -> Result<Keys> {
        Keys::new(self.store()?, MAIN_SPACE)
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

    // Several at once.

    /// Runs `work` as one change: all of it happens or, on an error or panic, nothing does.
    ///
    /// Holds the writer lock throughout; readers go on and see the state before. One inside another on
    /// the same store joins it: then the outer one decides.
    ///
    /// ```
    /// # let cache = larder::Cache::temporary()?;
    /// cache.set("from", "7")?;
    /// cache.transact(|tx| {
    ///     let value = tx.pop("from")?.ok_or(larder::Error::Aborted { what: "nothing to move".into() })?;
    ///     tx.set("to", value)
    /// })?;
    /// assert_eq!(cache.get("to")?.as_deref(), Some(&b"7"[..]));
    /// # Ok::<(), larder::Error>(())
    /// ```
    ///
    /// # Errors
    /// What `work` returns; see [`Cache`]. Nothing was changed then.
    pub fn transact<T>(&self, work: impl FnOnce(&Transaction) -> Result<T>) -> Result<T> {
        let store = self.store()?;
        if let Some(state) = state::current(store) {
            return work(&Transaction { state });
        }
        let state = Rc::new(std::cell::RefCell::new(State::begin(
            store,
            self.patience(store),
        )?));
        let transaction = Transaction {
            state: Rc::clone(&state),
        };
        let done = {
            let _entered = state::Entered::new(store, &state);
            work(&transaction)
        };
        drop(transaction);
        let Ok(state) = Rc::try_unwrap(state) else {
            return Err(Error::Aborted {
                what: "the transaction is still borrowed after its closure returned".into(),
            });
        };
        let value = done?;
        state.into_inner().commit()?;
        self.finish(store)?;
        Ok(value)
    }

    /// A transaction over the state itself.
    fn write<T>(
        &self,
        store: &Arc<Store>,
        work: impl FnOnce(&mut State) -> Result<T>,
    ) -> Result<T> {
        if let Some(state) = state::current(store) {
            return work(&mut state.borrow_mut());
        }
        let mut state = State::begin(store, self.patience(store))?;
        let value = work(&mut state)?;
        state.commit()?;
        self.finish(store)?;
        Ok(value)
    }

    /// The store, unless this thread is in a transaction on it: it would wait for itself.
    #[inline]
    fn writable(&self) -> Result<&Arc<Store>> {
        let store = self.store()?;
        if state::is_inside(store) {
            let what = "this thread is inside transact on this store: write with the transaction's own verbs".into();
            return Err(Error::Aborted { what });
        }
        Ok(store)
    }

    /// After a write: durable if that was asked for, and tidy.
    #[inline]
    fn finish(&self, store: &Arc<Store>) -> Result<()> {
        match store.files.header.setting(setting::DURABILITY) {
            0 => {}
            1 => self.start_syncing()?,
            _ => store.acknowledge()?,
        }
        store.tidy();
        Ok(())
    }

    /// In `Durability::Interval` each process that has the store open syncs it.
    pub(crate) fn start_syncing(&self) -> Result<()> {
        let store = self.store()?;
        let here = crate::os::raw::forks() + 1;
        let is_wanted = store.files.header.setting(setting::DURABILITY) == 1;
        if is_wanted && self.handle.syncing.swap(here, Ordering::AcqRel) != here {
            sync::keep_syncing(store);
        }
        Ok(())
    }

    /// Makes everything acknowledged so far, by any process, durable.
    ///
    /// # Errors
    /// [`Error::Io`]: what the disk refused; nothing since the last success is surely durable.
    pub fn flush(&self) -> Result<()> {
        let store = self.store()?;
        store.flush(self.patience(store))
    }

    /// Flushes, and leaves a marker by which the next opener trusts the derived files, also after a
    /// reboot. Other handles and clones stay usable. Without it the store is as safe: an opener after
    /// a reboot rebuilds them from the log.
    ///
    /// # Errors
    /// As [`Cache::flush`].
    pub fn close(self) -> Result<()> {
        let store = self.store()?;
        store.close(self.patience(store))
    }

    // About the store.

    /// The settings all processes share, as they are now.
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn settings(&self) -> Result<Settings> {
        self.store()?.settings()
    }

    /// Changes settings for all processes, at once. The settings as they are then.
    ///
    /// # Errors
    /// [`Error::InvalidSetting`]; see [`Cache`].
    pub fn update_settings(&self, change: impl FnOnce(&mut Settings)) -> Result<Settings> {
        let store = self.writable()?;
        let settings = sync::locked(store, self.patience(store), |store, proof| {
            let mut settings = store.settings()?;
            change(&mut settings);
            settings.segment_size_bytes = settings
                .segment_size_bytes
                .next_multiple_of(crate::limits::SEGMENT_STEP);
            store.write_settings(proof, &settings)?;
            Ok(settings)
        })?;
        self.finish(store)?;
        Ok(settings)
    }

    /// What was counted, since the store was made or the last reset. `reset`: begins anew.
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn stats(&self, reset: bool) -> Result<Stats> {
        Ok(Stats::read(self.store()?, reset))
    }

    /// Bytes of live keys, values and record headers; expired entries not yet removed included.
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn volume(&self) -> Result<u64> {
        Ok(self.store()?.files.space(MAIN_SPACE, space::VOLUME))
    }

    /// Bytes the store takes on disk, as it was allocated; what `size_limit_bytes` bounds.
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn disk_usage(&self) -> Result<u64> {
        Ok(self.store()?.disk_bytes())
    }

    /// Verifies every record, word, cell and count. Goes on beside readers and writers.
    ///
    /// # Errors
    /// See [`Cache`]; damage is no error but a finding.
    pub fn check(&self) -> Result<CheckReport> {
        self.check_with(|_, _| {})
    }

    /// As [`Cache::check`]; `watch` is told (bytes verified, bytes in all) now and then.
    ///
    /// # Errors
    /// As [`Cache::check`].
    pub fn check_with(&self, mut watch: impl FnMut(u64, u64)) -> Result<CheckReport> {
        self.store()?.check(&mut watch)
    }

    /// The ids of the log's segments, oldest first.
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn segments(&self) -> Result<Vec<u64>> {
        let store = self.store()?;
        let slots = crate::part::segments::slots(&store.files);
        slots
            .map(|slot| crate::part::segments::id_of(&store.files, slot))
            .filter(|id| !matches!(id, Ok(0)))
            .collect()
    }

    /// The records of one segment in readable form.
    ///
    /// # Errors
    /// See [`Cache`]; [`Error::Io`] when there is no such segment.
    pub fn log(&self, segment: u64) -> Result<LogIter> {
        LogIter::new(self.store()?, segment)
    }

    /// Keys and values of Rust types over this cache.
    #[must_use]
    pub fn typed<K: Key, V>(&self) -> Typed<K, V, Bincode> {
        Typed::new(self.clone())
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
    /// [`Error::Busy`] when it was not had within `timeout` (`None`: waits for ever).
    pub fn hold(&self, name: impl AsRef<[u8]>, timeout: Option<Duration>) -> Result<Hold> {
        Hold::take(self.store()?, name.as_ref(), timeout)
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
    let tags = state::tags_of(head, buffer)
        .into_iter()
        .map(|id| store.tag_name(id))
        .collect::<Result<_>>()?;
    Ok(Description {
        expires_at: head.options.expires_ms.map(prepare::time),
        tags,
        stored_at: second(head.stored_s),
        accessed_at: second(hit.met.stamp().max(head.stored_s)),
        size_bytes: prepare::size_of(head, buffer),
        kind: ValueKind::from_byte(head.value_kind),
    })
}
