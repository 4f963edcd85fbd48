//! `get_or_compute_many`: values of several keys, those that are missing made together.
//!
//! Holds: nothing is waited for while something is being made here, so no two wait for each other.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::view::cache::Cache;
use crate::view::recipes::compute::{ComputeOptions, Wanted, bytes_made};
use crate::view::recipes::flight::{self, Flight, Flights};
use crate::view::recipes::site::thread_id;
use crate::view::value::Value;

impl Cache {
    /// The values of several keys; those that are not there are made by `f`, all together, and stored
    /// as one batch. In the order of the keys.
    ///
    /// `f` gets the keys it is to make, each once, and returns a value for each, in their order. Those
    /// that others are making it does not get: they are waited for afterwards, and made by another call
    /// of `f` if that came to nothing.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let cache = larder::Cache::temporary()?;
    /// cache.set("b", "B")?;
    /// let values = cache.get_or_compute_many(&["a", "b", "c"], Duration::from_secs(60), |missing| {
    ///     Ok::<_, larder::Error>(missing.iter().map(|key| key.to_uppercase()).collect())
    /// })?;
    /// assert_eq!(values, ["A", "B", "C"]);
    /// # Ok::<(), larder::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Cache::get_or_compute`]; [`Error::Aborted`] when `f` returns more or fewer values than it
    /// got keys. What was made by a call of `f` before stays.
    pub fn get_or_compute_many<K: AsRef<[u8]>, V: AsRef<[u8]>, E: From<Error>>(
        &self,
        keys: &[K],
        ttl: impl Into<Option<Duration>>,
        f: impl FnMut(&[&K]) -> Result<Vec<V>, E>,
    ) -> Result<Vec<Value>, E> {
        let options = ComputeOptions::of(ttl.into());
        self.get_or_compute_many_with(keys, &options, f)
    }

    /// As [`Cache::get_or_compute_many`], with options. Stale values are made anew before they are
    /// given, and an error is an error.
    ///
    /// # Errors
    /// As [`Cache::get_or_compute_many`]; [`Error::Busy`] when another's value was not there in time.
    pub fn get_or_compute_many_with<K: AsRef<[u8]>, V: AsRef<[u8]>, E: From<Error>>(
        &self,
        keys: &[K],
        options: &ComputeOptions,
        mut f: impl FnMut(&[&K]) -> Result<Vec<V>, E>,
    ) -> Result<Vec<Value>, E> {
        self.outside("a value being made")?;
        let wanted = |key| Wanted {
            cache: self,
            key,
            options,
        };
        // Which key stands where first.
        let mut places: HashMap<&[u8], usize> = HashMap::new();
        let mut values: Vec<Option<Value>> = vec![None; keys.len()];
        for (at, key) in keys.iter().enumerate() {
            let first = *places.entry(key.as_ref()).or_insert(at);
            if first == at {
                values[at] = wanted(key.as_ref()).good(true)?;
            }
        }
        loop {
            let is_first = |at: &usize| places[keys[*at].as_ref()] == *at;
            let missing: Vec<usize> = (0..keys.len())
                .filter(is_first)
                .filter(|at| values[*at].is_none())
                .collect();
            let Some(&first) = missing.first() else { break };
            let mut mine: Vec<(usize, Flight)> = Vec::new();
            for at in missing {
                let key = keys[at].as_ref();
                if let Some(flight) = Flights::of(self, key)?.try_take(thread_id())? {
                    mine.push((at, flight));
                }
            }
            if mine.is_empty() {
                // Nothing is held while others are waited for: no two can wait for each other.
                let key = keys[first].as_ref();
                let newer = || wanted(key).newer(None);
                match Flights::of(self, key)?.wait(thread_id(), options.timeout, newer)? {
                    Ok(value) => values[first] = Some(value),
                    Err(flight) => mine.push((first, flight)),
                }
            }
            let mut ours = Vec::with_capacity(mine.len());
            for (at, flight) in mine {
                match wanted(keys[at].as_ref()).newer(None)? {
                    Some(value) => values[at] = Some(value),
                    None => ours.push((at, flight)),
                }
            }
            if ours.is_empty() {
                continue;
            }
            let asked: Vec<&K> = ours.iter().map(|(at, _)| &keys[*at]).collect();
            let start = Instant::now();
            let made = f(&asked)?;
            if made.len() != asked.len() {
                let what = format!("{} values were made of {} keys", made.len(), asked.len());
                return Err(Error::Aborted { what }.into());
            }
            let took = start.elapsed() / made.len().max(1) as u32;
            let mut landing = Vec::with_capacity(made.len());
            for ((at, flight), value) in ours.into_iter().zip(&made) {
                let (bytes, value) = bytes_made(value, options);
                values[at] = Some(value);
                landing.push((flight, keys[at].as_ref(), bytes));
            }
            flight::land(self, landing, &options.set_options(took))?;
        }
        let value_at = |at: usize| values[places[keys[at].as_ref()]].clone();
        Ok((0..keys.len()).filter_map(value_at).collect())
    }
}
