//! The one clock. It says when, never in which order.

use std::sync::atomic::{AtomicU64, Ordering};

/// Where the store gets the time from; give it another in tests.
pub trait Clock: Send + Sync {
    /// Milliseconds since 1970 (UTC).
    fn now_ms(&self) -> u64;
}

/// The system's coarse wall clock (`CLOCK_REALTIME_COARSE`): exact to about 4 ms, 5 ns a call.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[inline]
    fn now_ms(&self) -> u64 {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
        (time.tv_sec.max(0) as u64) * 1_000 + time.tv_nsec as u64 / 1_000_000
    }
}

/// A clock that stands still until it is moved, also backwards.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    /// Stands at `ms` since 1970.
    #[must_use]
    pub fn new(ms: u64) -> Self {
        ManualClock(AtomicU64::new(ms))
    }

    /// Moves to `ms` since 1970.
    pub fn set(&self, ms: u64) {
        self.0.store(ms, Ordering::Relaxed);
    }

    /// Moves on by `time`.
    pub fn advance(&self, time: std::time::Duration) {
        self.0.fetch_add(time.as_millis() as u64, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
