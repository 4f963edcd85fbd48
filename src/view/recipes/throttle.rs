//! `Throttle`: so many times in so long, counted in the store.
//!
//! Owns the bucket: one number, the moment at which it is full again (GCRA), so that nothing has to
//! be added while nobody asks.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::view::cache::Cache;
use crate::view::prepare;
use crate::view::recipes::cell::Next;
use crate::view::recipes::site::Site;

/// The longest sleep between two looks: the store's clock may be moved.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// On average `count` takings in each `period`, by all processes together: a bucket that holds `count` and
/// gets one more every `period / count`. So after a rest `count` come at once, and up to twice as many
/// within one period.
///
/// Its state is in the store: a new process, or a new `Throttle` of the same name, goes on with it. It
/// begins full, also after a power loss. Time is the store's clock, to 4 ms.
///
/// ```
/// use std::time::Duration;
/// use larder::{Cache, Throttle};
///
/// let cache = Cache::temporary()?;
/// let mails = Throttle::new(&cache, "mails", 2, Duration::from_secs(60))?;
/// assert!(mails.try_take()? && mails.try_take()?);
/// assert!(!Throttle::new(&cache, "mails", 2, Duration::from_secs(60))?.try_take()?);
/// # Ok::<(), larder::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Throttle {
    site: Site,
    period_ns: u64,
    step_ns: u64,
}

impl Throttle {
    /// The throttle of this name (at most 1,024 bytes): `count` takings in `period`.
    ///
    /// # Errors
    /// [`Error::InvalidSetting`] for a count of 0, or more than one a nanosecond or one in 100 years; as
    /// [`Lock::new`](crate::Lock::new).
    pub fn new(
        cache: &Cache,
        name: impl AsRef<[u8]>,
        count: u32,
        period: Duration,
    ) -> Result<Throttle> {
        let century = Duration::from_secs(100 * 365 * 86_400);
        let period_ns = period.min(century).as_nanos() as u64;
        let step_ns = period_ns.checked_div(u64::from(count)).unwrap_or(0);
        if step_ns == 0 || period > century {
            let what =
                format!("{count} in {period:?}: one in a century up to one a nanosecond will do");
            return Err(Error::setting("count", what));
        }
        Ok(Throttle {
            site: Site::new(cache, b't', name.as_ref(), "this throttle")?,
            period_ns,
            step_ns,
        })
    }

    /// Takes one if there is one. Whether there was.
    ///
    /// # Errors
    /// See [`Cache`]; [`Error::Aborted`] inside `transact`, which could not give it back.
    pub fn try_take(&self) -> Result<bool> {
        Ok(self.take()?.is_none())
    }

    /// Waits until it has taken one, at most `timeout` (`None`: for as long as it takes). Who waits takes
    /// in no order.
    ///
    /// # Errors
    /// [`Error::Busy`] after the timeout, and at once when there will surely be none by then; nothing was
    /// taken. As [`Throttle::try_take`].
    pub fn wait(&self, timeout: impl Into<Option<Duration>>) -> Result<()> {
        let timeout = timeout.into();
        let start = Instant::now();
        while let Some(time) = self.take()? {
            let waited = start.elapsed();
            if timeout.is_some_and(|timeout| waited + time > timeout) {
                return Err(Error::Busy {
                    what: "this throttle",
                    holder_pid: 0,
                    held_since: None,
                    waited,
                    removed: 0,
                });
            }
            std::thread::sleep(time.clamp(Duration::from_millis(1), LOOK_EVERY));
        }
        Ok(())
    }

    /// Takes one, or says how long it is until there is one.
    fn take(&self) -> Result<Option<Duration>> {
        let store = self.site.cache.outside("a throttle")?;
        self.site.cache.change(&self.site.key, |old, _| {
            // Under the writer lock: an older moment would be taken for a clock that was set back.
            let now_ns = store.now_ms().saturating_mul(1_000_000);
            let full_ns = match old {
                None => 0,
                Some(bytes) => u64::from_le_bytes(bytes.try_into().map_err(|_| {
                    Error::corrupt(
                        self.site.cache.path(),
                        0,
                        "the state of a throttle is not one",
                    )
                })?),
            };
            let (then_ns, time_ns) = take_one(full_ns, now_ns, self.period_ns, self.step_ns);
            let next = match then_ns == full_ns {
                true => Next::Keep,
                // A full bucket is as good as none.
                false => Next::PutUntil(then_ns.to_le_bytes().to_vec(), then_ns / 1_000_000 + 1),
            };
            Ok((next, time_ns.map(Duration::from_nanos)))
        })
    }

    /// When the bucket will be full again, if nobody takes any more.
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn full_at(&self) -> Result<std::time::SystemTime> {
        let bytes = self.site.cache.peek_at(&self.site.key)?;
        let word = bytes.and_then(|bytes| bytes.try_into().ok());
        let now_ms = self.site.cache.store()?.now_ms();
        let full_ms = word.map_or(0, u64::from_le_bytes) / 1_000_000;
        Ok(prepare::time(full_ms.max(now_ms)))
    }
}

/// The moment at which the bucket is full, one taken; or, none taken, the time until one can be, too.
fn take_one(full_ns: u64, now_ns: u64, period_ns: u64, step_ns: u64) -> (u64, Option<u64>) {
    // Emptier than empty it cannot be, unless the clock was set back: it fills from now on then.
    let full_ns = full_ns.min(now_ns.saturating_add(period_ns));
    let then_ns = full_ns.max(now_ns).saturating_add(step_ns);
    match then_ns - now_ns {
        ahead if ahead <= period_ns => (then_ns, None),
        ahead => (full_ns, Some(ahead - period_ns)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_window_holds_more_than_a_full_bucket_and_what_came_since() {
        let (count, period_ns) = (5_u64, 1_000_000_u64);
        let step_ns = period_ns / count;
        let mut full_ns = 0;
        let mut taken = Vec::new();
        for now_ns in (7_000_000..17_000_000).step_by(10_000) {
            while let (then_ns, None) = take_one(full_ns, now_ns, period_ns, step_ns) {
                full_ns = then_ns;
                taken.push(now_ns);
            }
        }
        let at_once = taken.iter().filter(|at| **at == 7_000_000).count();
        assert_eq!(at_once as u64, count);
        assert_eq!(taken.len() as u64, count + 10 * count - 1);
    }

    #[test]
    fn a_clock_set_back_makes_nobody_wait_longer_than_for_one() {
        let (full_ns, _) = take_one(0, 1_000_000_000, 1_000, 100);
        let (full_ns, time_ns) = take_one(full_ns, 5_000, 1_000, 100);
        assert_eq!((full_ns, time_ns), (6_000, Some(100)));
        assert_eq!(take_one(full_ns, 5_100, 1_000, 100), (6_100, None));
    }
}
