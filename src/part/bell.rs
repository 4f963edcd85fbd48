//! Bells: who waits for a change sleeps on a word in the header until somebody rings.
//!
//! Names share 63 bells, so whoever is woken looks whether it was meant, and nobody sleeps for ever:
//! a ringer may die between its change and its ringing. Owns the words; never knows what a ring means.

use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::thread::futex;

use crate::format::header::{BELL_LEN, BELLS, BELLS_AT};
use crate::part::shared::Header;

/// The longest sleep without a look, whatever was asked for.
const SLEEP_MAX: Duration = Duration::from_millis(100);

/// One of the bells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bell(u64);

impl Bell {
    /// The bell of whatever has this hash; the first one is the log's.
    pub(crate) fn of(hash: u64) -> Bell {
        Bell(BELLS_AT + ((hash >> 32) % (BELLS - 1) + 1) * BELL_LEN)
    }

    /// How often it has rung: to be read before looking whether there is something to wait for.
    pub(crate) fn rung(self, header: &Header) -> u32 {
        header.half(self.0).load(Ordering::SeqCst)
    }

    /// Wakes all who wait for it. Costs one addition when nobody does.
    pub(crate) fn ring(self, header: &Header) {
        header.half(self.0).fetch_add(1, Ordering::SeqCst);
        // Both sides store before they load: either this sees the waiter, or the waiter the ring.
        if header.half(self.0 + 8).load(Ordering::SeqCst) != 0 {
            let _ = futex::wake(header.half(self.0), futex::Flags::empty(), i32::MAX as u32);
        }
    }

    /// Rings if somebody waits: one load when nobody does. A waiter who is just lying down may miss it, and
    /// looks again a little later.
    #[inline]
    pub(crate) fn ring_if_awaited(self, header: &Header) {
        if header.half(self.0 + 8).load(Ordering::Relaxed) != 0 {
            self.ring(header);
        }
    }

    /// Sleeps until it has rung more often than `rung`, or for `time`, or a while. The caller looks again.
    pub(crate) fn wait(self, header: &Header, rung: u32, time: Duration) {
        let waiters = header.half(self.0 + 8);
        waiters.fetch_add(1, Ordering::SeqCst);
        let time = time.min(SLEEP_MAX);
        let time = rustix::time::Timespec {
            tv_sec: 0,
            tv_nsec: time.subsec_nanos().into(),
        };
        // Woken, rung before, timed out, interrupted: the caller looks again in each case.
        let _ = futex::wait(
            header.half(self.0),
            futex::Flags::empty(),
            rung,
            Some(&time),
        );
        // A waiter killed in its sleep stays counted: ringers then wake nobody at the cost of a call.
        waiters.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The bell of the log itself: rung when the writer lock is given back, for those who watch all of it.
pub(crate) const LOG: Bell = Bell(BELLS_AT);

/// Nobody waits. The caller holds the gate, and nobody lives.
pub(crate) fn forget_waiters(header: &Header) {
    for bell in 0..BELLS {
        header
            .half(BELLS_AT + bell * BELL_LEN + 8)
            .store(0, Ordering::Relaxed);
    }
}
