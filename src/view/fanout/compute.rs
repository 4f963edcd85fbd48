//! Values made once: the verbs of `Cache` that compute what is missing, each by the key's shard.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::view::fanout::Fanout;
use crate::view::recipes::compute::ComputeOptions;
use crate::view::value::Value;

/// A key as somebody else's slice has it.
struct Wanted<'a, K>(&'a K);

impl<K: AsRef<[u8]>> AsRef<[u8]> for Wanted<'_, K> {
    fn as_ref(&self) -> &[u8] {
        self.0.as_ref()
    }
}

impl Fanout {
    /// As [`Cache::get_or_compute`](crate::Cache::get_or_compute).
    ///
    /// # Errors
    /// As [`Cache::get_or_compute`](crate::Cache::get_or_compute); see [`Fanout`].
    pub fn get_or_compute<V: AsRef<[u8]>, E: From<Error>>(
        &self,
        key: impl AsRef<[u8]>,
        ttl: impl Into<Option<Duration>>,
        f: impl FnOnce() -> Result<V, E>,
    ) -> Result<Value, E> {
        let key = key.as_ref();
        self.shard_to_read(key)?.get_or_compute(key, ttl, f)
    }

    /// As [`Cache::get_or_compute_with`](crate::Cache::get_or_compute_with).
    ///
    /// # Errors
    /// As [`Cache::get_or_compute_with`](crate::Cache::get_or_compute_with); see [`Fanout`].
    pub fn get_or_compute_with<V: AsRef<[u8]>, E: From<Error>>(
        &self,
        key: impl AsRef<[u8]>,
        options: &ComputeOptions,
        f: impl FnOnce() -> Result<V, E>,
    ) -> Result<Value, E> {
        let key = key.as_ref();
        self.shard_to_read(key)?
            .get_or_compute_with(key, options, f)
    }

    /// As [`Cache::get_or_compute_many`](crate::Cache::get_or_compute_many), shard by shard: `f` is called for each shard that misses some, and
    /// what it makes is stored as one batch of that shard.
    ///
    /// # Errors
    /// As [`Cache::get_or_compute_many`](crate::Cache::get_or_compute_many); see [`Fanout`].
    pub fn get_or_compute_many<K: AsRef<[u8]>, V: AsRef<[u8]>, E: From<Error>>(
        &self,
        keys: &[K],
        ttl: impl Into<Option<Duration>>,
        mut f: impl FnMut(&[&K]) -> Result<Vec<V>, E>,
    ) -> Result<Vec<Value>, E> {
        let ttl = ttl.into();
        let mut by_shard = BTreeMap::<usize, Vec<usize>>::new();
        for (at, key) in keys.iter().enumerate() {
            let shard = self.shard_of(key.as_ref());
            by_shard.entry(shard).or_default().push(at);
        }
        let mut values: Vec<Option<Value>> = vec![None; keys.len()];
        for (shard, places) in by_shard {
            let wanted: Vec<Wanted<'_, K>> = places.iter().map(|&at| Wanted(&keys[at])).collect();
            let found = self
                .settled(shard)?
                .get_or_compute_many(&wanted, ttl, |some| {
                    let some: Vec<&K> = some.iter().map(|wanted| wanted.0).collect();
                    f(&some)
                })?;
            for (at, value) in places.into_iter().zip(found) {
                values[at] = Some(value);
            }
        }
        Ok(values.into_iter().flatten().collect())
    }

    /// As [`Cache::memoize_stampede`](crate::Cache::memoize_stampede).
    ///
    /// # Errors
    /// As [`Cache::memoize_stampede`](crate::Cache::memoize_stampede); see [`Fanout`].
    pub fn memoize_stampede<V: AsRef<[u8]>, E: From<Error>>(
        &self,
        key: impl AsRef<[u8]>,
        ttl: Duration,
        beta: f64,
        f: impl FnOnce() -> Result<V, E>,
    ) -> Result<Value, E> {
        let key = key.as_ref();
        self.shard_to_read(key)?.memoize_stampede(key, ttl, beta, f)
    }
}
