//! The verbs of `Cache` for tasks of a tokio runtime: feature `tokio`.
//!
//! Every verb runs on one of the runtime's threads for blocking work (`spawn_blocking`), reads too: they
//! take no lock, but bytes that are not in memory are read from the disk at the first touch, and no task
//! beside should wait for that. A hand-over costs some microseconds; [`AsyncCache::cache`] is for who knows
//! that what is read is in memory. Nothing of the core knows of a runtime.
//!
//! A future does nothing before it is polled. Dropped later, what it stands for is done whole or not at
//! all: a thread that has begun goes on to the end of its one verb and lets go of the lock there. Nothing
//! here holds a lock across an `await`.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use crate::engine::upkeep::{Budget, UpkeepReport};
use crate::error::Result;
use crate::view::async_turns::{Turns, Work};
use crate::view::cache::Cache;
use crate::view::iter::Iter;
use crate::view::options::{Expiry, SetOptions, Side};
use crate::view::stats::Stats;
use crate::view::transaction::Transaction;
use crate::view::value::{Description, Entry, Number, Value};
use crate::view::watch::{Watch, WatchEvent, WatchFilter};

/// Entries read in one turn of an iterator.
const PAGE: usize = 128;
/// Changes told in one turn of a watch, and how long a turn waits for the first.
const CHANGES: usize = 256;
const TURN: Duration = Duration::from_millis(100);

/// A [`Cache`] for tasks of a tokio runtime (feature `tokio`): no verb blocks the thread it is awaited on.
///
/// Cheap to clone. Keys and values are moved to the thread that does the work: a `Vec<u8>` or `String`
/// without a copy. A future that is dropped has done all of its verb or nothing, or a thread is at it and
/// will have done all of it soon; no lock is held across an `await`.
///
/// ```
/// use larder::{AsyncCache, Cache};
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
/// # runtime.block_on(async {
/// let cache = AsyncCache::from(Cache::temporary()?);
/// cache.set("greeting", "hello").await?;
/// assert_eq!(cache.get("greeting").await?.as_deref(), Some(&b"hello"[..]));
/// # Ok::<(), larder::Error>(())
/// # })?;
/// # Ok::<(), larder::Error>(())
/// ```
///
/// # Errors
/// Every verb: those of the same verb of [`Cache`]; [`Error::Aborted`](crate::Error::Aborted) when the
/// runtime shuts down before its work began. Panics where it is polled outside a tokio runtime.
#[derive(Clone, Debug)]
pub struct AsyncCache {
    cache: Cache,
}

impl From<Cache> for AsyncCache {
    fn from(cache: Cache) -> AsyncCache {
        AsyncCache { cache }
    }
}

impl AsyncCache {
    /// Opens the store in `dir`, making it if there is none. For settings: [`Cache::builder`], and
    /// `AsyncCache::from`.
    ///
    /// # Errors
    /// As [`Cache::open`].
    pub async fn open(dir: impl Into<PathBuf>) -> Result<AsyncCache> {
        let dir = dir.into();
        let cache = Work::begin(move || Cache::open(dir)).await??;
        Ok(AsyncCache { cache })
    }

    /// The cache itself, whose verbs block.
    #[must_use]
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Does any work with the cache on a thread for blocking work. What the other verbs are made of.
    ///
    /// Dropped before a thread has begun, `work` does not run; from then on it runs to its end.
    ///
    /// ```
    /// # use larder::{AsyncCache, Cache};
    /// # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    /// # runtime.block_on(async {
    /// let cache = AsyncCache::from(Cache::temporary()?);
    /// let tags = cache.blocking(|cache| cache.tags()).await?;
    /// assert!(tags.is_empty());
    /// # Ok::<(), larder::Error>(())
    /// # })?;
    /// # Ok::<(), larder::Error>(())
    /// ```
    ///
    /// # Errors
    /// What `work` returns; see [`AsyncCache`]. A panic of `work` goes on here.
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Cache) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let cache = self.cache.clone();
        Work::begin(move || work(&cache)).await?
    }

    // Reading.

    /// As [`Cache::get`].
    ///
    /// # Errors
    /// See [`AsyncCache`].
    pub async fn get(&self, key: impl Into<Vec<u8>>) -> Result<Option<Value>> {
        let key = key.into();
        self.blocking(move |cache| cache.get(key)).await
    }

    /// As [`Cache::get_many`], in one hand-over.
    ///
    /// # Errors
    /// See [`AsyncCache`].
    pub async fn get_many<K: Into<Vec<u8>>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Value>>> {
        let keys: Vec<Vec<u8>> = keys.into_iter().map(Into::into).collect();
        self.blocking(move |cache| cache.get_many(keys)).await
    }

    /// As [`Cache::get_entry`].
    ///
    /// # Errors
    /// See [`AsyncCache`].
    pub async fn get_entry(&self, key: impl Into<Vec<u8>>) -> Result<Option<Entry>> {
        let key = key.into();
        self.blocking(move |cache| cache.get_entry(key)).await
    }

    /// As [`Cache::describe`].
    ///
    /// # Errors
    /// See [`AsyncCache`].
    pub async fn describe(&self, key: impl Into<Vec<u8>>) -> Result<Option<Description>> {
        let key = key.into();
        self.blocking(move |cache| cache.describe(key)).await
    }

    /// As [`Cache::contains`].
    ///
    /// # Errors
    /// See [`AsyncCache`].
    pub async fn contains(&self, key: impl Into<Vec<u8>>) -> Result<bool> {
        let key = key.into();
        self.blocking(move |cache| cache.contains(key)).await
    }

    /// As [`Cache::len`].
    ///
    /// # Errors
    /// See [`AsyncCache`].
    pub async fn len(&self) -> Result<u64> {
        self.blocking(Cache::len).await
    }

    /// As [`Cache::is_empty`].
    ///
    /// # Errors
    /// See [`AsyncCache`].
    pub async fn is_empty(&self) -> Result<bool> {
        self.blocking(Cache::is_empty).await
    }

    /// As [`Cache::stats`].
    ///
    /// # Errors
    /// See [`AsyncCache`].
    pub async fn stats(&self, reset: bool) -> Result<Stats> {
        self.blocking(move |cache| cache.stats(reset)).await
    }

    /// As [`Cache::iter`], read in pages: an entry is as it was when its page was read.
    ///
    /// ```
    /// # use larder::{AsyncCache, Cache};
    /// # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    /// # runtime.block_on(async {
    /// let cache = AsyncCache::from(Cache::temporary()?);
    /// cache.set("a", "1").await?;
    /// let mut entries = cache.iter().await?;
    /// while let Some((key, value)) = entries.next().await? {
    ///     assert_eq!((&key[..], &value[..]), (&b"a"[..], &b"1"[..]));
    /// }
    /// # Ok::<(), larder::Error>(())
    /// # })?;
    /// # Ok::<(), larder::Error>(())
    /// ```
    ///
    /// # Errors
    /// See [`AsyncCache`].
    pub async fn iter(&self) -> Result<AsyncIter> {
        let iter = self.blocking(Cache::iter).await?;
        Ok(AsyncIter {
            turns: Turns::new(iter),
            page: VecDeque::new(),
            is_over: false,
        })
    }

    // Writing.

    /// As [`Cache::set`].
    ///
    /// # Errors
    /// See [`AsyncCache`].
    pub async fn set(&self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Result<()> {
        let (key, value) = (key.into(), value.into());
        self.blocking(move |cache| cache.set(key, value)).await
    }

    /// As [`Cache::set_with`].
    ///
    /// # Errors
    /// See [`AsyncCache`].
    pub async fn set_with(
        &self,
        key: impl Into<Vec<u8>>,
        value: impl Into<Vec<u8>>,
        options: &SetOptions,
    ) -> Result<()> {
        let (key, value, options) = (key.into(), value.into(), options.clone());
        self.blocking(move |cache| cache.set_with(key, value, &options))
            .await
    }

    /// As [`Cache::set_many`]: one batch.
    ///
    /// # Errors
    /// See [`AsyncCache`].
    pub async fn set_many<K: Into<Vec<u8>>, V: Into<Vec<u8>>>(
        &self,
        items: impl IntoIterator<Item = (K, V)>,
        options: &SetOptions,
    ) -> Result<u64> {
        let items = items.into_iter();
        let items: Vec<(Vec<u8>, Vec<u8>)> = items.map(|(k, v)| (k.into(), v.into())).collect();
        let options = options.clone();
        self.blocking(move |cache| cache.set_many(items, &options))
            .await
    }

    /// As [`Cache::add`].
    ///
    /// # Errors
    /// See [`AsyncCache`].
    pub async fn add(
        &self,
        key: impl Into<Vec<u8>>,
        value: impl Into<Vec<u8>>,
        options: &SetOptions,
    ) -> Result<bool> {
        let (key, value, options) = (key.into(), value.into(), options.clone());
        self.blocking(move |cache| cache.add(key, value, &options))
            .await
    }

    /// As [`Cache::replace`].
    ///
    /// # Errors
    /// See [`AsyncCache`].
    pub async fn replace(
        &self,
        key: impl Into<Vec<u8>>,
        value: impl Into<Vec<u8>>,
        options: &SetOptions,
    ) -> Result<bool> {
        let (key, value, options) = (key.into(), value.into(), options.clone());
        self.blocking(move |cache| cache.replace(key, value, &options))
            .await
    }

    /// As [`Cache::compare_and_swap`].
    ///
    /// # Errors
    /// See [`AsyncCache`].
    pub async fn compare_and_swap(
        &self,
        key: impl Into<Vec<u8>>,
        expected: Option<Vec<u8>>,
        new: Option<Vec<u8>>,
        options: &SetOptions,
    ) -> Result<bool> {
        let (key, options) = (key.into(), options.clone());
        self.blocking(move |cache| {
            cache.compare_and_swap(key, expected.as_deref(), new.as_deref(), &options)
        })
        .await
    }

    /// As [`Cache::touch`].
    ///
    /// # Errors
    /// See [`AsyncCache`].
    pub async fn touch(&self, key: impl Into<Vec<u8>>, expiry: Expiry) -> Result<bool> {
        let key = key.into();
        self.blocking(move |cache| cache.touch(key, expiry)).await
    }

    /// As [`Cache::delete`].
    ///
    /// # Errors
    /// See [`AsyncCache`].
    pub async fn delete(&self, key: impl Into<Vec<u8>>) -> Result<bool> {
        let key = key.into();
        self.blocking(move |cache| cache.delete(key)).await
    }

    /// As [`Cache::pop`]. Dropped, the value may have been taken away all the same.
    ///
    /// # Errors
    /// See [`AsyncCache`].
    pub async fn pop(&self, key: impl Into<Vec<u8>>) -> Result<Option<Value>> {
        let key = key.into();
        self.blocking(move |cache| cache.pop(key)).await
    }

    /// As [`Cache::incr`].
    ///
    /// # Errors
    /// See [`AsyncCache`].
    pub async fn incr(
        &self,
        key: impl Into<Vec<u8>>,
        delta: impl Into<Number>,
        default: impl Into<Number>,
    ) -> Result<Number> {
        let (key, delta, default) = (key.into(), delta.into(), default.into());
        self.blocking(move |cache| cache.incr(key, delta, default))
            .await
    }

    /// As [`Cache::push`].
    ///
    /// # Errors
    /// See [`AsyncCache`].
    pub async fn push(
        &self,
        prefix: Option<&[u8]>,
        value: impl Into<Vec<u8>>,
        side: Side,
        options: &SetOptions,
    ) -> Result<Vec<u8>> {
        let (prefix, value, options) = (prefix.map(<[u8]>::to_vec), value.into(), options.clone());
        self.blocking(move |cache| cache.push(prefix.as_deref(), value, side, &options))
            .await
    }

    /// As [`Cache::pull`]. Dropped, the value may have been taken away all the same.
    ///
    /// # Errors
    /// See [`AsyncCache`].
    pub async fn pull(
        &self,
        prefix: Option<&[u8]>,
        side: Side,
    ) -> Result<Option<(Vec<u8>, Value)>> {
        let prefix = prefix.map(<[u8]>::to_vec);
        self.blocking(move |cache| cache.pull(prefix.as_deref(), side))
            .await
    }

    /// As [`Cache::transact`]: `work` runs on a thread for blocking work, with the writer lock, and may not
    /// await.
    ///
    /// ```
    /// # use larder::{AsyncCache, Cache};
    /// # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    /// # runtime.block_on(async {
    /// let cache = AsyncCache::from(Cache::temporary()?);
    /// cache.set("from", "7").await?;
    /// let moved = cache.transact(|tx| match tx.pop("from")? {
    ///     Some(value) => tx.set("to", value).map(|()| true),
    ///     None => Ok(false),
    /// });
    /// assert!(moved.await?);
    /// # Ok::<(), larder::Error>(())
    /// # })?;
    /// # Ok::<(), larder::Error>(())
    /// ```
    ///
    /// # Errors
    /// What `work` returns; see [`AsyncCache`]. Nothing was changed then.
    pub async fn transact<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Transaction) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.blocking(move |cache| cache.transact(work)).await
    }

    /// As [`Cache::clear`]. In steps: dropped, a thread goes on to the end.
    ///
    /// # Errors
    /// See [`AsyncCache`].
    pub async fn clear(&self) -> Result<u64> {
        self.blocking(Cache::clear).await
    }

    /// As [`Cache::evict_tag`]. In steps: dropped, a thread goes on to the end.
    ///
    /// # Errors
    /// See [`AsyncCache`].
    pub async fn evict_tag(&self, tag: impl Into<Vec<u8>>) -> Result<u64> {
        let tag = tag.into();
        self.blocking(move |cache| cache.evict_tag(tag)).await
    }

    /// As [`Cache::expire`]. In steps: dropped, a thread goes on to the end.
    ///
    /// # Errors
    /// See [`AsyncCache`].
    pub async fn expire(&self) -> Result<u64> {
        self.blocking(Cache::expire).await
    }

    /// As [`Cache::maintain`]. In steps: dropped, a thread goes on to the end of the budget.
    ///
    /// # Errors
    /// See [`AsyncCache`].
    pub async fn maintain(&self, budget: &Budget) -> Result<UpkeepReport> {
        let budget = *budget;
        self.blocking(move |cache| cache.maintain(&budget)).await
    }

    /// As [`Cache::flush`].
    ///
    /// # Errors
    /// See [`AsyncCache`].
    pub async fn flush(&self) -> Result<()> {
        self.blocking(Cache::flush).await
    }

    /// As [`Cache::close`].
    ///
    /// # Errors
    /// See [`AsyncCache`].
    pub async fn close(self) -> Result<()> {
        Work::begin(move || self.cache.close()).await?
    }

    // Watching.

    /// As [`Cache::watch`].
    ///
    /// ```
    /// # use larder::{AsyncCache, Cache, WatchFilter};
    /// # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    /// # runtime.block_on(async {
    /// let cache = AsyncCache::from(Cache::temporary()?);
    /// let mut watch = cache.watch(WatchFilter::all()).await?;
    /// cache.set("a", "1").await?;
    /// let change = watch.next().await?.change();
    /// assert_eq!(change.map(|change| change.key).as_deref(), Some(&b"a"[..]));
    /// # Ok::<(), larder::Error>(())
    /// # })?;
    /// # Ok::<(), larder::Error>(())
    /// ```
    ///
    /// # Errors
    /// See [`AsyncCache`].
    pub async fn watch(&self, filter: WatchFilter) -> Result<AsyncWatch> {
        let watch = self.blocking(move |cache| cache.watch(filter)).await?;
        Ok(AsyncWatch::new(watch))
    }

    /// As [`Cache::watch_from`].
    ///
    /// # Errors
    /// See [`AsyncCache`].
    pub async fn watch_from(&self, filter: WatchFilter, seq: u64) -> Result<AsyncWatch> {
        let watch = self.blocking(move |cache| cache.watch_from(filter, seq));
        Ok(AsyncWatch::new(watch.await?))
    }
}

type Page<T> = Result<VecDeque<T>>;

/// Live entries in insertion order, read in pages. Made by [`AsyncCache::iter`].
#[derive(Debug)]
pub struct AsyncIter {
    turns: Turns<Iter, Page<(Vec<u8>, Value)>>,
    page: VecDeque<(Vec<u8>, Value)>,
    is_over: bool,
}

impl AsyncIter {
    /// The next entry; `None`: that was all. Cancel-safe: dropped, it loses no entry.
    ///
    /// # Errors
    /// See [`AsyncCache`]; what was read of the page with the error is left out.
    pub async fn next(&mut self) -> Result<Option<(Vec<u8>, Value)>> {
        if self.page.is_empty() && !self.is_over {
            self.page = self.turns.take(|iter| iter.take(PAGE).collect()).await??;
            self.is_over = self.page.is_empty();
        }
        Ok(self.page.pop_front())
    }
}

/// Changes made by any process. Made by [`AsyncCache::watch`].
#[derive(Debug)]
pub struct AsyncWatch {
    turns: Turns<Watch, Result<Told>>,
    told: VecDeque<(u64, WatchEvent)>,
    seq: u64,
}

impl AsyncWatch {
    fn new(watch: Watch) -> AsyncWatch {
        AsyncWatch {
            seq: watch.seq(),
            turns: Turns::new(watch),
            told: VecDeque::new(),
        }
    }

    /// The next change, however long it takes: see [`Watch`]. Cancel-safe: dropped, it loses no change, so
    /// a timeout around it is as good as any.
    ///
    /// While it is awaited, and a tenth of a second longer, it takes one of the runtime's threads for
    /// blocking work.
    ///
    /// # Errors
    /// See [`AsyncCache`].
    pub async fn next(&mut self) -> Result<WatchEvent> {
        loop {
            if let Some((seq, event)) = self.told.pop_front() {
                self.seq = seq;
                return Ok(event);
            }
            let (told, upto) = self.turns.take(changes).await??;
            if told.is_empty() {
                self.seq = upto;
            }
            self.told = told;
        }
    }

    /// As [`Watch::seq`]: the position up to which all was told.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.seq
    }
}

/// Changes, each with the position up to which all was told after it; and that after all of them.
type Told = (VecDeque<(u64, WatchEvent)>, u64);

fn changes(watch: &mut Watch) -> Result<Told> {
    let mut told = VecDeque::new();
    let mut event = watch.next_timeout(TURN)?;
    while let Some(some) = event {
        told.push_back((watch.seq(), some));
        if told.len() >= CHANGES {
            break;
        }
        // An error is met again, and told, in the next turn.
        event = watch.poll().unwrap_or(None);
    }
    Ok((told, watch.seq()))
}
