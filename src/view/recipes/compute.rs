//! `get_or_compute`: a value from the store or, once per host, from a function.
//!
//! Owns when a value is good, early or stale, and who makes it anew. That is told by the entry alone:
//! its expiry, and the seconds it cost. Never runs a caller's function under the writer lock.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::format::key::Key;
use crate::view::cache::Cache;
use crate::view::codec::Codec;
use crate::view::options::SetOptions;
use crate::view::prepare;
use crate::view::recipes::flight::{self, Flight, Flights};
use crate::view::recipes::site::{be_known_as, new_id, thread_id};
use crate::view::recipes::stampede;
use crate::view::typed::{self, Typed};
use crate::view::value::Value;

/// How a value is computed and how long it is good. For [`Cache::get_or_compute_with`].
///
/// All who ask for one key should give the same times: when a value becomes stale is told from its
/// entry's expiry less the longer of the two times after it.
#[derive(Clone, Debug)]
#[must_use]
pub struct ComputeOptions {
    ttl: Option<Duration>,
    pub(super) set: SetOptions,
    pub(super) timeout: Option<Duration>,
    stale_while_ms: u64,
    stale_if_error_ms: u64,
    beta: f64,
}

impl Default for ComputeOptions {
    fn default() -> Self {
        ComputeOptions {
            ttl: None,
            set: SetOptions::default(),
            timeout: None,
            stale_while_ms: 0,
            stale_if_error_ms: 0,
            beta: 0.0,
        }
    }
}

impl ComputeOptions {
    /// With this ttl, if any.
    pub(super) fn of(ttl: Option<Duration>) -> ComputeOptions {
        ComputeOptions {
            ttl,
            ..ComputeOptions::default()
        }
    }

    /// The value is good for so long. Default: what [`ComputeOptions::stored_with`] or the store's
    /// `default_ttl` says, and then it is never given stale.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Tags and the like for the value. Its expiry is used when there is no [`ComputeOptions::ttl`];
    /// its cost is measured.
    pub fn stored_with(mut self, options: SetOptions) -> Self {
        self.set = options;
        self
    }

    /// Wait at most so long for another who computes it; then [`Error::Busy`]. Default: for as long as
    /// that one lives.
    pub fn timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.timeout = timeout.into();
        self
    }

    /// For so long after the ttl one caller computes it anew while the others get the old value at once.
    /// Default: 0. Plain [`Cache::get`] sees the old value, too.
    pub fn stale_while_revalidate(mut self, time: Duration) -> Self {
        self.stale_while_ms = millis(time);
        self
    }

    /// For so long after the ttl the old value is given when computing it anew fails, or is waited for
    /// in vain. Default: 0. Plain [`Cache::get`] sees the old value, too.
    pub fn stale_if_error(mut self, time: Duration) -> Self {
        self.stale_if_error_ms = millis(time);
        self
    }

    /// Compute it anew early, as [`Cache::memoize_stampede`] does with this `beta`. Default: 0, never.
    pub fn early(mut self, beta: f64) -> Self {
        self.beta = beta;
        self
    }

    /// How long an entry is kept beyond its ttl.
    fn grace_ms(&self) -> u64 {
        match self.ttl {
            Some(_) => self.stale_while_ms.max(self.stale_if_error_ms),
            None => 0,
        }
    }

    /// What a value that took so long to make is stored with.
    pub(super) fn set_options(&self, took: Duration) -> SetOptions {
        let options = self.set.clone().cost(took.as_secs_f64());
        match self.ttl {
            Some(ttl) => options.ttl(ttl.saturating_add(Duration::from_millis(self.grace_ms()))),
            None => options,
        }
    }
}

fn millis(time: Duration) -> u64 {
    time.as_millis().min(u128::from(u64::MAX)) as u64
}

/// How good a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Age {
    Good,
    /// Good, and to be made anew all the same.
    Early,
    /// Past its ttl; whether it is given while it is made anew, and if that fails.
    Stale {
        at_once: bool,
        if_error: bool,
    },
}

fn age_of(options: &ComputeOptions, expires_ms: u64, cost_s: f64, now_ms: u64, dice: f64) -> Age {
    if expires_ms == u64::MAX {
        return Age::Good;
    }
    let end_ms = expires_ms.saturating_sub(options.grace_ms());
    if now_ms < end_ms {
        return match stampede::is_early(now_ms, end_ms, cost_s, options.beta, dice) {
            true => Age::Early,
            false => Age::Good,
        };
    }
    let late_ms = now_ms - end_ms;
    Age::Stale {
        at_once: late_ms < options.stale_while_ms,
        if_error: late_ms < options.stale_if_error_ms,
    }
}

/// A value that is there.
pub(super) struct Had {
    pub(super) value: Value,
    expires_ms: u64,
    cost_s: f64,
}

/// One key being asked for.
pub(super) struct Wanted<'a> {
    pub(super) cache: &'a Cache,
    pub(super) key: &'a [u8],
    pub(super) options: &'a ComputeOptions,
}

/// What a first look came to.
pub(super) enum Begun {
    Done(Value),
    /// This caller makes it; what there is meanwhile, and how old.
    Make(Flight, Option<(Had, Age)>),
}

impl Wanted<'_> {
    /// The value, or who is to make it: `id` where nothing is waited for, else `waiter`.
    pub(super) fn begin(&self, id: u64, waiter: u64) -> Result<Begun> {
        self.cache.outside("a value being made")?;
        let had = match self.probe(true)? {
            Some(had) => match self.age(&had) {
                Age::Good => return Ok(Begun::Done(had.value)),
                age => Some((had, age)),
            },
            None => None,
        };
        let flights = Flights::of(self.cache, self.key)?;
        let had_expires_ms = had.as_ref().map(|(had, _)| had.expires_ms);
        let flight = match had {
            Some((had, age @ (Age::Early | Age::Stale { at_once: true, .. }))) => {
                match flights.try_take(id)? {
                    Some(flight) => (flight, Some((had, age))),
                    None => return Ok(Begun::Done(had.value)),
                }
            }
            had => {
                match flights.wait(waiter, self.options.timeout, || self.newer(had_expires_ms)) {
                    Ok(Ok(value)) => return Ok(Begun::Done(value)),
                    Ok(Err(flight)) => (flight, had),
                    Err(error @ Error::Busy { .. }) => {
                        return match had {
                            Some((had, Age::Stale { if_error: true, .. })) => {
                                Ok(Begun::Done(had.value))
                            }
                            _ => Err(error),
                        };
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        // Whoever had it before has most likely stored the value.
        if let Some(value) = self.newer(had_expires_ms)? {
            return Ok(Begun::Done(value));
        }
        Ok(Begun::Make(flight.0, flight.1))
    }

    /// Makes the value and stores it; others get it from the store.
    fn finish<T, E: From<Error>>(
        &self,
        flight: Flight,
        had: Option<(Had, Age)>,
        read: impl Fn(&Value) -> Result<T>,
        make: impl FnOnce() -> Result<(Vec<u8>, T), E>,
    ) -> Result<T, E> {
        let start = Instant::now();
        match make() {
            Ok((payload, value)) => {
                let options = self.options.set_options(start.elapsed());
                flight::land(self.cache, vec![(flight, self.key, payload)], &options)?;
                Ok(value)
            }
            Err(error) => {
                drop(flight);
                match had {
                    Some((had, Age::Early | Age::Stale { if_error: true, .. })) => {
                        Ok(read(&had.value)?)
                    }
                    _ => Err(error),
                }
            }
        }
    }

    /// The whole of it, in the caller's thread.
    pub(super) fn get<T, E: From<Error>>(
        &self,
        read: impl Fn(&Value) -> Result<T>,
        make: impl FnOnce() -> Result<(Vec<u8>, T), E>,
    ) -> Result<T, E> {
        match self.begin(thread_id(), thread_id())? {
            Begun::Done(value) => Ok(read(&value)?),
            Begun::Make(flight, had) => self.finish(flight, had, read, make),
        }
    }

    /// What is there. A damaged value is as good as none: it is made anew over the damage.
    fn probe(&self, is_counted: bool) -> Result<Option<Had>> {
        let had = self
            .cache
            .look_up(self.key, is_counted, |store, hit, buffer| {
                let (expires_ms, cost_s) = (
                    store.own_expiry_of(&hit, store.now_ms()),
                    hit.head.options.cost_s.unwrap_or(0.0),
                );
                Ok(
                    prepare::value_of(store, &hit.head, buffer)?.map(|value| Had {
                        value,
                        expires_ms,
                        cost_s,
                    }),
                )
            });
        match had {
            Err(Error::Corrupt { .. }) => Ok(None),
            had => had,
        }
    }

    fn age(&self, had: &Had) -> Age {
        let now_ms = self.cache.store().map_or(0, |store| store.now_ms());
        let dice = if self.options.beta > 0.0 {
            stampede::roll()
        } else {
            1.0
        };
        age_of(self.options, had.expires_ms, had.cost_s, now_ms, dice)
    }

    /// A good value.
    pub(super) fn good(&self, is_counted: bool) -> Result<Option<Value>> {
        let had = self.probe(is_counted)?;
        let had = had.filter(|had| matches!(self.age(had), Age::Good | Age::Early));
        Ok(had.map(|had| had.value))
    }

    /// A good value other than the one that was there before.
    pub(super) fn newer(&self, before_ms: Option<u64>) -> Result<Option<Value>> {
        let had = self.probe(false)?.filter(|had| {
            let is_good = matches!(self.age(had), Age::Good | Age::Early);
            is_good && Some(had.expires_ms) != before_ms
        });
        Ok(had.map(|had| had.value))
    }
}

pub(super) fn bytes_made<V: AsRef<[u8]>>(value: &V, options: &ComputeOptions) -> (Vec<u8>, Value) {
    let bytes = value.as_ref().to_vec();
    let kind = options.set.kind.unwrap_or(crate::ValueKind::Bytes);
    (bytes.clone(), Value::whole(bytes, kind))
}

impl Cache {
    /// The value of a key or, when there is none, what `f` makes, which is stored for `ttl` (`None`: as
    /// the store's `default_ttl` says).
    ///
    /// `f` runs once per host: others who ask meanwhile, in whatever thread or process, wait for its
    /// value. An error of `f` is returned to its caller and not stored; the next one who waits runs its
    /// own `f` then, as when the first one dies, which is noticed within 100 ms. How long `f` took is
    /// stored as the [cost](SetOptions::cost) of the entry.
    ///
    /// `f` runs in the caller's thread, without any lock of the store but that on making this value. It
    /// may ask for other values; two that ask for each other's wait for ever, but for a timeout.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let cache = larder::Cache::temporary()?;
    /// let hour = Duration::from_secs(3600);
    /// let make = || Ok::<_, larder::Error>("<h1>made</h1>");
    /// assert_eq!(cache.get_or_compute("/index", hour, make)?, "<h1>made</h1>");
    /// let again = cache.get_or_compute("/index", hour, || -> larder::Result<&str> { unreachable!() })?;
    /// assert_eq!(again, "<h1>made</h1>");
    /// # Ok::<(), larder::Error>(())
    /// ```
    ///
    /// # Errors
    /// What `f` returns; see [`Cache`], also when the value was made and could not be stored;
    /// [`Error::Aborted`] inside `transact`, where nobody could be waited for, or when `f` asks for what
    /// it is to make.
    pub fn get_or_compute<V: AsRef<[u8]>, E: From<Error>>(
        &self,
        key: impl AsRef<[u8]>,
        ttl: impl Into<Option<Duration>>,
        f: impl FnOnce() -> Result<V, E>,
    ) -> Result<Value, E> {
        let options = ComputeOptions::of(ttl.into());
        self.get_or_compute_with(key, &options, f)
    }

    /// As [`Cache::get_or_compute`], with a deadline, values given stale, and early recomputation.
    ///
    /// What is made anew while others get the old value is made in this caller's thread, who waits for
    /// it ([`Cache::get_or_compute_behind`] does not).
    ///
    /// ```
    /// use std::time::Duration;
    /// use larder::{Cache, ComputeOptions, Error};
    ///
    /// let cache = Cache::temporary()?;
    /// let options = ComputeOptions::default()
    ///     .ttl(Duration::ZERO) // stale at once
    ///     .stale_if_error(Duration::from_secs(60));
    /// cache.get_or_compute_with("rate", &options, || Ok::<_, Error>("1.07"))?;
    /// let fails = || Err::<&str, _>(Error::Aborted { what: "no network".into() });
    /// assert_eq!(cache.get_or_compute_with("rate", &options, fails)?, "1.07");
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Cache::get_or_compute`]; [`Error::Busy`], which names the process that computes, after the
    /// timeout.
    pub fn get_or_compute_with<V: AsRef<[u8]>, E: From<Error>>(
        &self,
        key: impl AsRef<[u8]>,
        options: &ComputeOptions,
        f: impl FnOnce() -> Result<V, E>,
    ) -> Result<Value, E> {
        let wanted = Wanted {
            cache: self,
            key: key.as_ref(),
            options,
        };
        wanted.get(
            |value| Ok(value.clone()),
            || f().map(|value| bytes_made(&value, options)),
        )
    }

    /// As [`Cache::get_or_compute_with`], but a value that is there and to be made anew is given at
    /// once, and made anew by a thread behind. It ends with the process, as it may: the next one who asks
    /// begins another. Its errors are told to nobody, so the one who asks after the value's last moment
    /// meets them.
    ///
    /// # Errors
    /// As [`Cache::get_or_compute_with`].
    pub fn get_or_compute_behind<V, E>(
        &self,
        key: impl AsRef<[u8]>,
        options: &ComputeOptions,
        f: impl FnOnce() -> Result<V, E> + Send + 'static,
    ) -> Result<Value, E>
    where
        V: AsRef<[u8]>,
        E: From<Error>,
    {
        let wanted = Wanted {
            cache: self,
            key: key.as_ref(),
            options,
        };
        let id = new_id();
        let (flight, had) = match wanted.begin(id, thread_id())? {
            Begun::Done(value) => return Ok(value),
            Begun::Make(flight, had) => (flight, had),
        };
        let at_once = matches!(
            had,
            Some((_, Age::Early | Age::Stale { at_once: true, .. }))
        );
        let Some((old, _)) = had.as_ref().filter(|_| at_once) else {
            let make = || f().map(|value| bytes_made(&value, options));
            return wanted.finish(flight, had, |value| Ok(value.clone()), make);
        };
        let old = old.value.clone();
        let (cache, key, options) = (self.clone(), key.as_ref().to_vec(), options.clone());
        let behind = move || {
            // So that an `f` that asks for its own value is told, and does not wait for itself.
            be_known_as(id);
            let wanted = Wanted {
                cache: &cache,
                key: &key,
                options: &options,
            };
            let make = || f().map(|value| bytes_made(&value, &options));
            let _ = wanted.finish::<_, E>(flight, None, |value| Ok(value.clone()), make);
        };
        // Where no thread can be had, the next one who asks tries again.
        let _ = std::thread::Builder::new()
            .name("larder-compute".into())
            .spawn(behind);
        Ok(old)
    }
}

impl<K: Key, V, C: Codec<V>> Typed<K, V, C> {
    /// As [`Cache::get_or_compute`]. A value of another type under the key is an error, and `f` does
    /// not run.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let squares = larder::Cache::temporary()?.typed::<u64, u64>();
    /// let square = squares.get_or_compute(&7, Duration::from_secs(60), || Ok::<_, larder::Error>(49))?;
    /// assert_eq!(square, 49);
    /// # Ok::<(), larder::Error>(())
    /// ```
    ///
    /// # Errors
    /// See [`Typed`] and [`Cache::get_or_compute`].
    pub fn get_or_compute<Q, E>(
        &self,
        key: &Q,
        ttl: impl Into<Option<Duration>>,
        f: impl FnOnce() -> Result<V, E>,
    ) -> Result<V, E>
    where
        K: std::borrow::Borrow<Q>,
        Q: Key + ?Sized,
        E: From<Error>,
    {
        let options = ComputeOptions::of(ttl.into());
        self.get_or_compute_with(key, &options, f)
    }

    /// As [`Cache::get_or_compute_with`].
    ///
    /// # Errors
    /// See [`Typed`] and [`Cache::get_or_compute_with`].
    pub fn get_or_compute_with<Q, E>(
        &self,
        key: &Q,
        options: &ComputeOptions,
        f: impl FnOnce() -> Result<V, E>,
    ) -> Result<V, E>
    where
        K: std::borrow::Borrow<Q>,
        Q: Key + ?Sized,
        E: From<Error>,
    {
        let options = ComputeOptions {
            set: typed::as_typed::<V, C>(&options.set),
            ..options.clone()
        };
        let wanted = Wanted {
            cache: self.cache(),
            key: &typed::bytes_of(key)?,
            options: &options,
        };
        wanted.get(
            |value| self.read(value),
            || f().and_then(|value| Ok((self.payload(&value)?, value))),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_good_a_value_is_is_told_from_its_expiry() {
        let options = ComputeOptions::default()
            .ttl(Duration::from_secs(1))
            .stale_while_revalidate(Duration::from_millis(100))
            .stale_if_error(Duration::from_millis(300));
        let expires_ms = 10_000;
        let stale = |at_once, if_error| Age::Stale { at_once, if_error };
        for (now_ms, age) in [
            (9_699, Age::Good),
            (9_700, stale(true, true)),
            (9_799, stale(true, true)),
            (9_800, stale(false, true)),
            (9_999, stale(false, true)),
            (10_000, stale(false, false)),
        ] {
            assert_eq!(
                age_of(&options, expires_ms, 0.0, now_ms, 1.0),
                age,
                "{now_ms}"
            );
        }
        let early = options.early(1.0);
        assert_eq!(age_of(&early, expires_ms, 1.0, 9_699, 0.5), Age::Early);
        assert_eq!(age_of(&early, u64::MAX, 1.0, 9_699, 0.5), Age::Good);
    }
}
