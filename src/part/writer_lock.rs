//! The writer lock: one word in the header, whose owner lives as long as its flock.
//!
//! Owner word: participant 16 | incarnation 47 | waiters 1. Taken by one compare-and-swap; a waiter
//! spins, then sleeps on the word's low half, and asks every 10 ms whether the owner's lock file is
//! still held. A dead owner's word is taken over, and the taker repairs. Never breaks a lock by time
//! or pid. DESIGN.md (lock) has the interleavings.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use rustix::thread::futex;

use crate::error::{Error, Result};
use crate::format::header::{OWNER_AT, OWNER_SINCE_AT, participant};
use crate::os::dir::Dir;
use crate::part::bell;
use crate::part::participants::{self, Me};
use crate::part::shared::Header;

const WAITERS: u64 = 1;
const SPINS: u32 = 100;
const SLEEP: Duration = Duration::from_millis(10);

/// How the lock was had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// From nobody.
    Free,
    /// From an owner who died with it: the taker repairs before anything else.
    Over,
}

/// The owner word of `me`.
pub(crate) fn name_of(me: &Me) -> u64 {
    (me.index as u64) << 48 | (me.incarnation & ((1 << 47) - 1)) << 1
}

/// Takes the lock if nobody has it.
#[inline]
pub(crate) fn try_take(header: &Header, me: &Me) -> bool {
    header
        .word(OWNER_AT)
        .compare_exchange(0, name_of(me), Ordering::Acquire, Ordering::Relaxed)
        .is_ok()
}

/// Waits for the lock until `timeout` has passed (`None`: for ever).
pub(crate) fn take(
    header: &Header,
    dir: &Dir,
    me: &Me,
    timeout: Option<Duration>,
) -> Result<Taken> {
    if try_take(header, me) {
        return Ok(Taken::Free);
    }
    let start = Instant::now();
    let word = header.word(OWNER_AT);
    let mine = name_of(me);
    for _ in 0..SPINS {
        std::hint::spin_loop();
        if word.load(Ordering::Relaxed) == 0 && try_take(header, me) {
            return Ok(Taken::Free);
        }
    }
    loop {
        let seen = word.load(Ordering::Relaxed);
        if seen == 0 {
            // Others may sleep: whoever unlocks wakes one of them.
            if word
                .compare_exchange(0, mine | WAITERS, Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
            {
                return Ok(Taken::Free);
            }
            continue;
        }
        let waited = start.elapsed();
        let left = timeout.map_or(SLEEP, |timeout| timeout.saturating_sub(waited).min(SLEEP));
        if left.is_zero() {
            return Err(busy(header, seen, waited));
        }
        if seen & WAITERS == 0
            && word
                .compare_exchange(seen, seen | WAITERS, Ordering::Relaxed, Ordering::Relaxed)
                .is_err()
        {
            continue;
        }
        sleep(header, (seen | WAITERS) as u32, left);
        let now = word.load(Ordering::Relaxed);
        if now | WAITERS == seen | WAITERS && !is_owner_alive(header, dir, now)? {
            let taken =
                word.compare_exchange(now, mine | WAITERS, Ordering::Acquire, Ordering::Relaxed);
            if taken.is_ok() {
                return Ok(Taken::Over);
            }
        }
    }
}

/// Takes the lock from whoever the word names: the caller holds the gate and knows nobody lives.
pub(crate) fn take_from_the_dead(header: &Header, me: &Me) {
    header
        .word(OWNER_AT)
        .swap(name_of(me) | WAITERS, Ordering::AcqRel);
}

/// Takes the lock over if the word names an earlier incarnation of `me`'s participant. Whether it did:
/// a waiter may have found that one dead first, and be repairing.
pub(crate) fn take_from_my_past(header: &Header, me: &Me) -> bool {
    let owner = header.get(OWNER_AT);
    let is_past = owner != 0 && owner >> 48 == me.index as u64 && owner & !WAITERS != name_of(me);
    is_past
        && header
            .word(OWNER_AT)
            .compare_exchange(
                owner,
                name_of(me) | WAITERS,
                Ordering::AcqRel,
                Ordering::Relaxed,
            )
            .is_ok()
}

fn is_owner_alive(header: &Header, dir: &Dir, owner: u64) -> Result<bool> {
    participants::is_alive(header, dir, (owner >> 48) as usize)
}

fn sleep(header: &Header, seen: u32, time: Duration) {
    let time = rustix::time::Timespec {
        tv_sec: 0,
        tv_nsec: time.subsec_nanos().into(),
    };
    // Woken, changed, timed out, interrupted: the caller looks again in each case.
    let _ = futex::wait(
        header.half(OWNER_AT),
        futex::Flags::empty(),
        seen,
        Some(&time),
    );
}

/// Whether somebody sleeps until the lock is given back, or did when it was last given.
#[inline]
pub(crate) fn is_wanted(header: &Header) -> bool {
    header.get(OWNER_AT) & WAITERS != 0
}

/// Gives the lock back.
#[inline]
pub(crate) fn give_back(header: &Header) {
    if header.word(OWNER_AT).swap(0, Ordering::Release) & WAITERS != 0 {
        let _ = futex::wake(header.half(OWNER_AT), futex::Flags::empty(), 1);
    }
    bell::LOG.ring_if_awaited(header);
}

fn busy(header: &Header, owner: u64, waited: Duration) -> Error {
    let index = (owner >> 48) as usize;
    let pid = if index < crate::limits::PARTICIPANTS_MAX {
        header.get(participants::at(index, participant::PID))
    } else {
        0
    };
    let since = header.get(OWNER_SINCE_AT);
    let held_since = (since != 0).then(|| SystemTime::UNIX_EPOCH + Duration::from_millis(since));
    Error::Busy {
        what: "the store",
        holder_pid: pid as u32,
        held_since,
        waited,
        removed: 0,
    }
}
