//! The redo journal: several words changed as one.
//!
//! (address, value) pairs are written to the header, then their number with a check over them
//! (**decided**), then applied in order, then the number is cleared. A process killed before the
//! number changed nothing; one killed after it is completed by whoever holds the lock next, and
//! applying twice is harmless. Never decides what belongs together.

use std::sync::atomic::{Ordering, fence};

use crate::error::{Error, Result};
use crate::format::header::{Address, JOURNAL_AT, JOURNAL_PAIRS, SUSPECT_AT};
use crate::format::name::Name;
use crate::os::dir::Dir;
use crate::part::shared::Files;

/// Pairs being gathered; at most [`JOURNAL_PAIRS`].
#[derive(Debug)]
pub(crate) struct Journal {
    pairs: [(u64, u64); JOURNAL_PAIRS],
    len: usize,
}

impl Journal {
    pub(crate) fn new() -> Self {
        Journal {
            pairs: [(0, 0); JOURNAL_PAIRS],
            len: 0,
        }
    }

    /// `address` will be `value`. The last pair of a change is the one that publishes it.
    #[inline]
    pub(crate) fn put(&mut self, address: Address, value: u64) {
        assert!(self.len < JOURNAL_PAIRS, "a change fits the journal");
        self.pairs[self.len] = (address.to_bits(), value);
        self.len += 1;
    }

    /// A word of the header will be `value`.
    #[inline]
    pub(crate) fn header(&mut self, at: u64, value: u64) {
        self.put(Address::header(at), value);
    }

    /// Makes all pairs happen, or none if this process is killed before it is decided.
    pub(crate) fn commit(&mut self, files: &Files, dir: &Dir) -> Result<()> {
        if self.len == 0 {
            return Ok(());
        }
        let pairs = &self.pairs[..self.len];
        for (n, (address, value)) in pairs.iter().enumerate() {
            let at = JOURNAL_AT + 8 + n as u64 * 16;
            files.header.word(at).store(*address, Ordering::Relaxed);
            files.header.word(at + 8).store(*value, Ordering::Relaxed);
        }
        // The fences keep the order for whoever looks after a kill: pairs, number, changes, 0.
        fence(Ordering::Release);
        files
            .header
            .word(JOURNAL_AT)
            .store(seal(pairs), Ordering::Relaxed);
        fence(Ordering::Release);
        if let Err(error) = apply(pairs, files, dir) {
            // It stays decided: the next holder tries again, and the next opener alone rebuilds.
            files.header.put(SUSPECT_AT, 1);
            return Err(error);
        }
        fence(Ordering::Release);
        files.header.word(JOURNAL_AT).store(0, Ordering::Relaxed);
        self.len = 0;
        Ok(())
    }
}

fn apply(pairs: &[(u64, u64)], files: &Files, dir: &Dir) -> Result<()> {
    for &(address, value) in pairs {
        files.store(dir, Address::from_bits(address), value)?;
    }
    Ok(())
}

/// The number of pairs, 8 bits, and a check over them: one flipped bit changes it.
#[inline]
fn seal(pairs: &[(u64, u64)]) -> u64 {
    let mut check = 0_u64;
    for &(address, value) in pairs {
        let mixed = address.wrapping_mul(0x9E37_79B9_7F4A_7C15)
            ^ value.wrapping_mul(0xD6E8_FEB8_6659_FD93).rotate_left(32);
        check = check.rotate_left(5) ^ mixed;
    }
    (check ^ check << 8 | 0xFF) & !0xFF | pairs.len() as u64
}

/// What the journal says after its owner died.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// Nothing was decided.
    Nothing,
    /// A decided change was completed.
    Completed,
    /// Its number does not match its pairs: it was never written so.
    Damaged,
}

/// Completes what a dead owner had decided. Under the writer lock.
pub(crate) fn recover(files: &Files, dir: &Dir) -> Result<Left> {
    let sealed = files.header.get(JOURNAL_AT);
    if sealed == 0 {
        return Ok(Left::Nothing);
    }
    let len = (sealed & 0xFF) as usize;
    let pairs: Vec<_> = (0..len.min(JOURNAL_PAIRS) as u64)
        .map(|n| {
            (
                files.header.get(JOURNAL_AT + 8 + n * 16),
                files.header.get(JOURNAL_AT + 16 + n * 16),
            )
        })
        .collect();
    if len > JOURNAL_PAIRS || seal(&pairs) != sealed {
        files.header.put(JOURNAL_AT, 0);
        return Ok(Left::Damaged);
    }
    apply(&pairs, files, dir).map_err(|_| {
        Error::corrupt(
            dir.path_of(Name::Header),
            JOURNAL_AT,
            "the journal names words that are not there",
        )
    })?;
    fence(Ordering::Release);
    files.header.put(JOURNAL_AT, 0);
    Ok(Left::Completed)
}
