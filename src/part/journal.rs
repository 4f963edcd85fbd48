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
use crate::part::shared::{Files, Header};

/// A change being gathered, in the header itself; at most [`JOURNAL_PAIRS`] pairs.
#[derive(Debug)]
pub(crate) struct Journal<'a> {
    header: &'a Header,
    len: u64,
    check: u64,
}

impl<'a> Journal<'a> {
    /// Begins a change. Under the writer lock; one at a time.
    pub(crate) fn new(header: &'a Header) -> Self {
        Journal {
            header,
            len: 0,
            check: 0,
        }
    }

    /// `address` will be `value`. The last pair of a change is the one that publishes it.
    #[inline]
    pub(crate) fn put(&mut self, address: Address, value: u64) {
        assert!(self.len < JOURNAL_PAIRS as u64, "a change fits the journal");
        let (address, at) = (address.to_bits(), JOURNAL_AT + 8 + self.len * 16);
        self.header.word(at).store(address, Ordering::Relaxed);
        self.header.word(at + 8).store(value, Ordering::Relaxed);
        self.check = mixed(self.check, address, value);
        self.len += 1;
    }

    /// A word of the header will be `value`.
    #[inline]
    pub(crate) fn header(&mut self, at: u64, value: u64) {
        self.put(Address::header(at), value);
    }

    /// Room for more pairs.
    pub(crate) fn left(&self) -> u64 {
        JOURNAL_PAIRS as u64 - self.len
    }

    /// Makes all pairs happen, or none if this process is killed before it is decided.
    pub(crate) fn commit(&mut self, files: &Files, dir: &Dir) -> Result<()> {
        if self.len == 0 {
            return Ok(());
        }
        let number = self.header.word(JOURNAL_AT);
        // The fences keep the order for whoever looks after a kill: pairs, number, changes, 0.
        fence(Ordering::Release);
        number.store(seal(self.check, self.len), Ordering::Relaxed);
        fence(Ordering::Release);
        if let Err(error) = apply(self.len, files, dir) {
            // It stays decided: the next holder tries again, and the next opener alone rebuilds.
            self.header.put(SUSPECT_AT, 1);
            return Err(error);
        }
        fence(Ordering::Release);
        number.store(0, Ordering::Relaxed);
        (self.len, self.check) = (0, 0);
        Ok(())
    }
}

fn pair(header: &Header, n: u64) -> (u64, u64) {
    let at = JOURNAL_AT + 8 + n * 16;
    (
        header.word(at).load(Ordering::Relaxed),
        header.word(at + 8).load(Ordering::Relaxed),
    )
}

fn apply(len: u64, files: &Files, dir: &Dir) -> Result<()> {
    for n in 0..len {
        let (address, value) = pair(&files.header, n);
        files.store(dir, Address::from_bits(address), value)?;
    }
    Ok(())
}

#[inline]
fn mixed(check: u64, address: u64, value: u64) -> u64 {
    let value = value.wrapping_mul(0xD6E8_FEB8_6659_FD93).rotate_left(32);
    check.rotate_left(5) ^ address.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ value
}

/// The number of pairs, 8 bits, and a check over them: one flipped bit changes it.
#[inline]
fn seal(check: u64, len: u64) -> u64 {
    ((check ^ check << 8) | 0xFF) & !0xFF | len
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
    let len = sealed & 0xFF;
    let header = &files.header;
    let check = (0..len.min(JOURNAL_PAIRS as u64)).fold(0, |check, n| {
        let (address, value) = pair(header, n);
        mixed(check, address, value)
    });
    if len > JOURNAL_PAIRS as u64 || seal(check, len) != sealed {
        header.put(JOURNAL_AT, 0);
        return Ok(Left::Damaged);
    }
    apply(len, files, dir).map_err(|_| {
        let what = "the journal names words that are not there";
        Error::corrupt(dir.path_of(Name::Header), JOURNAL_AT, what)
    })?;
    fence(Ordering::Release);
    files.header.put(JOURNAL_AT, 0);
    Ok(Left::Completed)
}
