//! `Fanout`: one store in several shards, so that several processes write at a time.
//!
//! Each shard is a whole store with a writer lock of its own; a key's hash says which is its own. Here:
//! the type, which shard is whose, and what a reader does while a batch across shards is being applied.
//! Never knows a file.

pub(crate) mod compute;
pub(crate) mod crossing;
#[cfg(test)]
mod kill_points;
pub(crate) mod merge;
pub(crate) mod open;
pub(crate) mod reshard;
pub(crate) mod share;
pub(crate) mod transaction;
pub(crate) mod upkeep;
pub(crate) mod verbs;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwapOption;

use crate::engine::change::Payload;
use crate::engine::crossing::{self as crossings, RETIRED, Siblings};
use crate::engine::intent::Intent;
use crate::engine::store::Store;
use crate::error::{Error, Result};
use crate::format::fanout::Layout;
use crate::format::name::Name;
use crate::view::builder::Builder;
use crate::view::cache::Cache;
use crate::view::deque::Deque;
use crate::view::index::Index;
use crate::view::work_queue::Queue;

/// A store divided into shards, each with a writer lock of its own: several processes and threads write
/// at the same time.
///
/// Its verbs are those of [`Cache`] and mean the same, for the store as a whole. A key is always in the
/// same shard, whatever machine or process asks; `1` and `1.0` as typed keys are one key. Cheap to clone,
/// `Send + Sync`, usable after `fork`.
///
/// What differs from one [`Cache`]:
/// - [`Fanout::transact`] and [`Fanout::set_many`] over keys of several shards are as atomic as in one, for
///   readers, after SIGKILL and after power loss. Where they changed more than one, they are durable when
///   they return: they wait for the disk, whatever `durability` is. All other verbs change one shard.
/// - There is no `watch`, `once`, `barrier`, `pack` or `log` of the whole; [`Fanout::cache`] gives a [`Cache`]
///   beside it for such things, [`Fanout::views`] one for named views.
/// - Order over all shards is by the second of storing; exact among the entries of one shard.
/// - `size_limit_bytes` and `count_limit` are those of the whole. Each shard has its part of the bytes,
///   at first equal ones; one that needs more takes what others do not use. Of entries each has an equal
///   part, as of a tag's quota.
/// - In [`Durability::Process`](crate::Durability), what a power loss leaves is a prefix of what was
///   written to each shard; among shards one may have more of it than another.
///
/// Use a [`Cache`] where one writer at a time is enough: it takes less space, and batches cost less.
///
/// ```
/// let dir = tempfile::tempdir().unwrap();
/// let fanout = larder::Fanout::open(dir.path())?;
/// fanout.set("from", "7")?;
/// fanout.transact(|tx| {
///     let value = tx.pop("from")?.unwrap_or_else(|| unreachable!());
///     tx.set("to", value) // perhaps in another shard: both or none
/// })?;
/// assert_eq!(fanout.get("to")?.as_deref(), Some(&b"7"[..]));
/// # Ok::<(), larder::Error>(())
/// ```
///
/// # Errors
/// Every verb: as [`Cache`]; [`Error::Moved`] when the store was divided anew
/// ([`Fanout::reshard`]) since it was opened: open it again.
#[derive(Clone, Debug)]
pub struct Fanout {
    core: Arc<Core>,
    shards: Arc<[Cache]>,
}

/// An intent of at most so many bytes is kept decoded, until another is met.
const INTENT_KEPT: usize = 8 << 20;

/// What the clones of a handle share.
struct Core {
    path: PathBuf,
    layout: Layout,
    /// The batch across shards that a reader last met half applied.
    intent: ArcSwapOption<Intent>,
    /// By shard: when it next looks for a larger part of the limit, ms.
    looks_ms: Box<[AtomicU64]>,
    /// Which shard's maintenance begins.
    turn: AtomicU64,
    /// The store of named views, once it was asked for.
    views: OnceLock<Cache>,
    /// Stores beside this one that were asked for, by name.
    caches: Mutex<HashMap<String, Cache>>,
}

impl Core {
    fn turn(&self) -> usize {
        self.turn.fetch_add(1, std::sync::atomic::Ordering::Relaxed) as usize
    }
}

/// What a batch across shards, decided and not yet applied, makes of a key.
enum Told {
    /// Nothing: the shard says what the key is.
    Plain,
    Gone,
    Set(Box<Payload>),
}

impl Fanout {
    /// Opens the store in `dir` with as many shards as it has, or makes one with as many as there are
    /// processors.
    ///
    /// # Errors
    /// As [`Builder::open_fanout`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Fanout> {
        Builder::default().open_fanout(dir, None)
    }

    fn new(path: PathBuf, layout: Layout, shards: Vec<Cache>) -> Fanout {
        Fanout {
            core: Arc::new(Core {
                path,
                layout,
                intent: ArcSwapOption::empty(),
                looks_ms: shards.iter().map(|_| AtomicU64::new(0)).collect(),
                turn: AtomicU64::new(0),
                views: OnceLock::new(),
                caches: Mutex::default(),
            }),
            shards: shards.into(),
        }
    }

    /// The store's directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.core.path
    }

    /// How many shards there are.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// The same store, waiting at most `timeout` for a writer lock; `None`: for ever.
    #[must_use]
    pub fn with_timeout(&self, timeout: Option<Duration>) -> Fanout {
        let shards = self.shards.iter().map(|shard| shard.with_timeout(timeout));
        Fanout {
            core: Arc::clone(&self.core),
            shards: shards.collect(),
        }
    }

    /// A store of its own, with settings of its own, in the directory `cache/NAME` of this one's; made if
    /// there is none. It is not counted in this one's size. The clones of this handle share it once it is
    /// open; [`Cache::update_settings`] gives it other settings than the default ones.
    ///
    /// # Errors
    /// As [`Cache::open`]; [`Error::InvalidKey`] for a name that is empty, begins with a dot, has a `/` or
    /// a control character, or more than 200 bytes.
    pub fn cache(&self, name: &str) -> Result<Cache> {
        check_name(name)?;
        let mut open = (self.core.caches.lock()).unwrap_or_else(|poison| poison.into_inner());
        if let Some(cache) = open.get(name) {
            return Ok(cache.clone());
        }
        let builder = Builder::default().read_only(self.store(0)?.dir.is_read_only());
        let cache = builder.open(self.core.path.join("cache").join(name))?;
        open.insert(name.to_owned(), cache.clone());
        Ok(cache)
    }

    /// The store of this one's named views, in the directory `views`; made if there is none. All of them
    /// are in it, so one [`Cache::transact`] on it changes several at once; together with entries of the
    /// shards they do not change: for that, keep both in one [`Cache`]. It is not counted in this one's size,
    /// and not touched when the shards are divided anew.
    ///
    /// # Errors
    /// As [`Cache::open`].
    pub fn views(&self) -> Result<&Cache> {
        if let Some(views) = self.core.views.get() {
            return Ok(views);
        }
        let builder = Builder::default().read_only(self.store(0)?.dir.is_read_only());
        let opened = builder.open(self.core.path.join("views"))?;
        Ok(self.core.views.get_or_init(|| opened))
    }

    /// The deque of this name.
    ///
    /// # Errors
    /// As [`Deque::of`]; [`Fanout::views`].
    pub fn deque<T>(&self, name: impl AsRef<[u8]>) -> Result<Deque<T>> {
        Deque::of(self.views()?, name)
    }

    /// The index of this name.
    ///
    /// # Errors
    /// As [`Index::of`]; [`Fanout::views`].
    pub fn index<K, V>(&self, name: impl AsRef<[u8]>) -> Result<Index<K, V>> {
        Index::of(self.views()?, name)
    }

    /// The queue of this name.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let dir = tempfile::tempdir().unwrap();
    /// let fanout = larder::Fanout::open(dir.path())?;
    /// let jobs = fanout.queue::<String>("jobs")?;
    /// jobs.push(&"index.html".to_owned())?;
    /// let job = jobs.lease(Duration::from_secs(30))?.unwrap();
    /// assert_eq!(*job, "index.html");
    /// job.ack()?;
    /// # Ok::<(), larder::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Queue::of`]; [`Fanout::views`].
    pub fn queue<T>(&self, name: impl AsRef<[u8]>) -> Result<Queue<T>> {
        Queue::of(self.views()?, name)
    }

    #[inline]
    fn shard_of(&self, key: &[u8]) -> usize {
        self.core.layout.shard_of(key)
    }

    /// The shard with this index, as this process has it.
    #[inline]
    fn at(&self, index: usize) -> Result<&Cache> {
        let shard = &self.shards[index];
        if shard.store()?.siblings.get().is_none() {
            self.introduce()?;
        }
        Ok(shard)
    }

    #[inline]
    fn store(&self, index: usize) -> Result<&Arc<Store>> {
        self.at(index)?.store()
    }

    /// Every shard's store, in order.
    fn stores(&self) -> Result<Vec<Arc<Store>>> {
        (0..self.shards.len())
            .map(|index| self.store(index).cloned())
            .collect()
    }

    /// Tells each shard where it stands, in this process or a forked child of it; and completes what a
    /// killed writer left, if that can be seen.
    #[cold]
    fn introduce(&self) -> Result<()> {
        let first = self.shards[0].store()?;
        let mut all = Vec::with_capacity(self.shards.len());
        for (index, shard) in self.shards.iter().enumerate() {
            let store = shard.store()?;
            let siblings = Siblings {
                index: index as u16,
                first: (index > 0).then(|| Arc::clone(first)),
            };
            // Another thread of this process may have told it the same.
            let _ = store.siblings.set(siblings);
            all.push(Arc::clone(store));
        }
        if crossings::is_anything_missing(&all)? {
            let mut held = Vec::with_capacity(all.len());
            for store in &all {
                held.push(Store::lock_sibling(&**store, self.patience()?)?);
            }
            crossings::catch_all_up(&mut held)?;
        }
        Ok(())
    }

    /// How long this handle waits for a lock.
    fn patience(&self) -> Result<Option<Duration>> {
        let shard = &self.shards[0];
        Ok(shard.patience(shard.store()?))
    }

    /// What a reader of `key` is to be told instead of what its shard says.
    #[inline]
    fn told(&self, index: usize, key: &[u8]) -> Result<Told> {
        match self.store(index)?.crossing() {
            0 => Ok(Told::Plain),
            id => self.told_by(index, key, id),
        }
    }

    #[cold]
    fn told_by(&self, index: usize, key: &[u8], mut id: u64) -> Result<Told> {
        let (first, store) = (self.store(0)?, self.store(index)?);
        loop {
            if id == RETIRED {
                return Err(self.moved());
            }
            // Not decided yet: the state before is right. Nobody has seen anything of it.
            if id == 0 || first.decided() < id {
                return Ok(Told::Plain);
            }
            if let Some(intent) = self.intent(first, id)? {
                let change = intent
                    .part(index as u16)
                    .and_then(|part| part.change_of(key));
                return Ok(match change.map(|change| &change.set) {
                    None => Told::Plain,
                    Some(None) => Told::Gone,
                    Some(Some(payload)) => Told::Set(Box::new(payload.clone())),
                });
            }
            // Over since: the shard has its part. Or a mark without a batch, which the next writer clears.
            match store.crossing() {
                now if now == id => return Ok(Told::Plain),
                now => id = now,
            }
        }
    }

    fn intent(&self, first: &Store, id: u64) -> Result<Option<Arc<Intent>>> {
        if let Some(known) = self
            .core
            .intent
            .load_full()
            .filter(|intent| intent.id == id)
        {
            return Ok(Some(known));
        }
        let read = crossings::read_intent(first, id)?.map(Arc::new);
        // A large one is read each time: it would stay in memory.
        if let Some(intent) = read.as_ref().filter(|intent| intent.len <= INTENT_KEPT) {
            self.core.intent.store(Some(Arc::clone(intent)));
        }
        Ok(read)
    }

    fn moved(&self) -> Error {
        Error::Moved {
            path: self.core.path.join(Name::Fanout.to_string()),
        }
    }

    /// Waits until a shard has its part of what was decided: for its writer, or in a dead one's place.
    fn settled(&self, index: usize) -> Result<&Cache> {
        let shard = self.at(index)?;
        let store = shard.store()?;
        loop {
            match store.crossing() {
                0 => return Ok(shard),
                RETIRED => return Err(self.moved()),
                id if self.store(0)?.decided() < id => return Ok(shard),
                // Nobody writes to it: it is as its opener left it.
                _ if store.dir.is_read_only() => return Ok(shard),
                _ => drop(Store::lock(&**store, shard.patience(store))?),
            }
        }
    }

    /// Does `look` at all shards at a moment when no batch across them is half applied or comes between.
    fn steadily<T>(&self, look: impl Fn() -> Result<T>) -> Result<T> {
        const TRIES: u32 = 50;
        for _ in 0..TRIES {
            let decided = self.store(0)?.decided();
            for index in 0..self.shards.len() {
                self.settled(index)?;
            }
            let seen = look()?;
            std::sync::atomic::fence(std::sync::atomic::Ordering::Acquire);
            if self.store(0)?.decided() == decided {
                return Ok(seen);
            }
        }
        // One after another: with the first shard's lock there is none.
        let first = self.store(0)?;
        let mut held = Store::lock(&**first, self.patience()?)?;
        for index in 1..self.shards.len() {
            let store = self.store(index)?;
            if store.crossing() != 0 {
                let mut other = Store::lock_sibling(&**store, self.patience()?)?;
                let (store, proof) = other.parts();
                store.catch_up(proof, held.parts().0, index as u16)?;
            }
        }
        look()
    }
}

/// Where a test has this process killed, by the number of calls.
#[inline]
fn step() {
    #[cfg(test)]
    kill_points::step();
}

/// Refuses names that are no single name of a directory.
fn check_name(name: &str) -> Result<()> {
    let refuse = |why: &str| {
        Err(Error::InvalidKey {
            what: format!("the name {name:?} {why}"),
        })
    };
    if name.is_empty() {
        return refuse("is empty");
    }
    if name.len() > 200 {
        return refuse("has more than 200 bytes");
    }
    if name.starts_with('.') {
        return refuse("begins with a dot");
    }
    if name
        .chars()
        .any(|letter| letter == '/' || letter.is_control())
    {
        return refuse("has a slash or a control character");
    }
    Ok(())
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core")
            .field("path", &self.path)
            .field("layout", &self.layout)
            .finish_non_exhaustive()
    }
}
