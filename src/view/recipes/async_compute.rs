//! `get_or_compute` for tasks: the value is made by a future, the store's part is done off the runtime.
//!
//! Owns who holds the flight while a task makes the value: a guard that gives it back off the runtime's
//! threads, also when the task is dropped.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use crate::error::{Error, Result};
use crate::view::async_cache::AsyncCache;
use crate::view::async_turns::Work;
use crate::view::recipes::compute::{Age, Begun, ComputeOptions, Wanted, bytes_made};
use crate::view::recipes::flight::{self, Flight};
use crate::view::recipes::site::new_id;
use crate::view::value::Value;

/// A flight in a task's hands.
struct InTask(Option<Flight>);

impl InTask {
    fn land(mut self) -> Option<Flight> {
        self.0.take()
    }
}

impl Drop for InTask {
    fn drop(&mut self) {
        // To give it back is to write: not on the runtime's own threads, where there are others.
        if let Some(flight) = self.0.take()
            && let Ok(runtime) = Handle::try_current()
        {
            drop(runtime.spawn_blocking(move || drop(flight)));
        }
    }
}

impl AsyncCache {
    /// As [`Cache::get_or_compute`](crate::Cache::get_or_compute), with a future that makes the value.
    ///
    /// The future is polled by this task, and holds nothing of the store but the right to make this value.
    /// Dropped meanwhile, the right is given back and the next one who waits makes it. Who waits for
    /// another's value has one of the runtime's threads for blocking work until it comes; dropped, that
    /// thread goes on waiting, and then gives up what it got. A future that asks for the very value it
    /// makes waits for itself, until its timeout.
    ///
    /// ```
    /// use std::time::Duration;
    /// use larder::{AsyncCache, Cache, Error};
    ///
    /// # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    /// # runtime.block_on(async {
    /// let cache = AsyncCache::from(Cache::temporary()?);
    /// let hour = Duration::from_secs(3600);
    /// let page = cache.get_or_compute("/index", hour, async || Ok::<_, Error>("<h1>made</h1>")).await?;
    /// assert_eq!(page, "<h1>made</h1>");
    /// # Ok::<(), Error>(())
    /// # })?;
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Cache::get_or_compute`](crate::Cache::get_or_compute); see [`AsyncCache`].
    pub async fn get_or_compute<V: AsRef<[u8]>, E: From<Error>>(
        &self,
        key: impl Into<Vec<u8>>,
        ttl: impl Into<Option<Duration>>,
        f: impl AsyncFnOnce() -> Result<V, E>,
    ) -> Result<Value, E> {
        let options = ComputeOptions::of(ttl.into());
        self.get_or_compute_with(key, &options, f).await
    }

    /// As [`AsyncCache::get_or_compute`], with options.
    ///
    /// # Errors
    /// As [`AsyncCache::get_or_compute`].
    pub async fn get_or_compute_with<V: AsRef<[u8]>, E: From<Error>>(
        &self,
        key: impl Into<Vec<u8>>,
        options: &ComputeOptions,
        f: impl AsyncFnOnce() -> Result<V, E>,
    ) -> Result<Value, E> {
        let key: Arc<[u8]> = key.into().into();
        let begun = {
            let (cache, key, options) = (self.cache().clone(), Arc::clone(&key), options.clone());
            // Tasks share threads: each asks as somebody of its own.
            let id = new_id();
            Work::begin(move || {
                let wanted = Wanted {
                    cache: &cache,
                    key: &key,
                    options: &options,
                };
                wanted.begin(id, id)
            })
        };
        let (flight, had) = match begun.await?? {
            Begun::Done(value) => return Ok(value),
            Begun::Make(flight, had) => (InTask(Some(flight)), had),
        };
        let start = Instant::now();
        match f().await {
            Ok(value) => {
                let (payload, value) = bytes_made(&value, options);
                let set = options.set_options(start.elapsed());
                let cache = self.cache().clone();
                if let Some(flight) = flight.land() {
                    let store =
                        move || flight::land(&cache, vec![(flight, &key[..], payload)], &set);
                    Work::begin(store).await??;
                }
                Ok(value)
            }
            Err(error) => {
                drop(flight);
                match had {
                    Some((had, Age::Early | Age::Stale { if_error: true, .. })) => Ok(had.value),
                    _ => Err(error),
                }
            }
        }
    }
}
