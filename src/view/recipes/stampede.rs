//! Early recomputation: one of many who read a value makes it anew a little before it expires, so that
//! none ever waits for it.
//!
//! Owns the formula (XFetch: Vattani, Chierichetti, Lowenstein, "Optimal Probabilistic Cache Stampede
//! Prevention", VLDB 2015) and its dice.

use std::cell::Cell;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::os::host;
use crate::view::cache::Cache;
use crate::view::recipes::compute::ComputeOptions;
use crate::view::value::Value;

impl Cache {
    /// As [`Cache::get_or_compute`], but a value that took `f` long to make is made anew early by one of
    /// those who read it, at random and the likelier the nearer its end: then nobody waits for it.
    ///
    /// It is made anew when `now - seconds f took * beta * ln(random) >= expiry` (XFetch), by one at a
    /// time; the others go on with the old value. `beta` of 1 is best on average; higher is earlier, 0
    /// never. An error of `f` before the expiry is not told: the old value is still good.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let cache = larder::Cache::temporary()?;
    /// let report = cache.memoize_stampede("report", Duration::from_secs(60), 1.0, || {
    ///     Ok::<_, larder::Error>("made once")
    /// })?;
    /// assert_eq!(report, "made once");
    /// # Ok::<(), larder::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Cache::get_or_compute`].
    pub fn memoize_stampede<V: AsRef<[u8]>, E: From<Error>>(
        &self,
        key: impl AsRef<[u8]>,
        ttl: Duration,
        beta: f64,
        f: impl FnOnce() -> Result<V, E>,
    ) -> Result<Value, E> {
        let options = ComputeOptions::default().ttl(ttl).early(beta);
        self.get_or_compute_with(key, &options, f)
    }
}

/// Whether to make a value anew that expires at `expires_ms` and took `cost_s` to make. `dice` is in
/// (0, 1].
pub(super) fn is_early(now_ms: u64, expires_ms: u64, cost_s: f64, beta: f64, dice: f64) -> bool {
    let ahead_ms = -(cost_s * 1_000.0) * beta * dice.ln();
    // NaN and the like are no reason.
    ahead_ms > 0.0 && now_ms as f64 + ahead_ms >= expires_ms as f64
}

/// A random number in (0, 1], of this thread.
pub(super) fn roll() -> f64 {
    thread_local! {
        static STATE: Cell<u64> = Cell::new(seed());
    }
    // SplitMix64: two processes must not roll alike, and that is all.
    STATE.with(|state| {
        let next = state.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
        state.set(next);
        let mut mixed = next;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        to_unit(mixed ^ (mixed >> 31))
    })
}

/// The upper 53 bits as a number in (0, 1].
fn to_unit(bits: u64) -> f64 {
    ((bits >> 11) + 1) as f64 / (1_u64 << 53) as f64
}

fn seed() -> u64 {
    match host::random_words::<1>() {
        Ok([word]) => word,
        Err(_) => u64::from(std::process::id()) << 32 | crate::view::recipes::site::thread_id(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chance_of_being_early_is_that_of_the_formula() {
        // P(-delta * beta * ln(u) >= left) = exp(-left / (delta * beta)).
        let mut state = 7_u64;
        let mut dice = move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            to_unit(state ^ state >> 29)
        };
        const ROLLS: u32 = 40_000;
        for (left_ms, cost_s, beta) in [
            (500_u64, 0.5, 1.0),
            (500, 0.5, 2.0),
            (100, 1.0, 1.0),
            (3_000, 1.0, 1.0),
            (0, 0.1, 1.0),
        ] {
            let early = (0..ROLLS)
                .filter(|_| is_early(1_000_000, 1_000_000 + left_ms, cost_s, beta, dice()))
                .count();
            let wanted = (-(left_ms as f64) / (cost_s * 1_000.0 * beta)).exp();
            let had = early as f64 / f64::from(ROLLS);
            assert!(
                (had - wanted).abs() < 0.015,
                "{left_ms} ms left: {had}, not {wanted}"
            );
        }
    }

    #[test]
    fn what_costs_nothing_or_is_never_early_is_not() {
        for dice in [f64::MIN_POSITIVE, 0.5, 1.0] {
            assert!(!is_early(0, 1, 0.0, 1.0, dice));
            assert!(!is_early(0, 1, 5.0, 0.0, dice));
            assert!(!is_early(0, 1, f64::NAN, 1.0, dice));
            assert!(!is_early(0, u64::MAX, 1e3, 1.0, dice));
        }
    }

    #[test]
    fn dice_stay_in_their_range() {
        assert!(to_unit(0) > 0.0 && to_unit(u64::MAX) <= 1.0);
        assert!((0..1_000).all(|_| (0.0..=1.0).contains(&roll())));
    }
}
