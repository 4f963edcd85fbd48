//! Who holds something that is told in an entry: a lock, a job. It holds it for as long as it lives.
//!
//! A handle is named by its place among the participants, its incarnation there, and the life of the
//! store, since incarnations begin anew when the header is made again. Owns the name and the question
//! whether somebody still answers to it; never takes anything from anybody.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::engine::store::Store;
use crate::error::Result;
use crate::format::header::{self as layout, participant};
use crate::limits::PARTICIPANTS_MAX;
use crate::os::raw;
use crate::part::participants;

/// A handle's name, and the process that had it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    life: u64,
    index: u16,
    incarnation: u64,
    /// For messages.
    pub(crate) pid: u32,
}

impl Holder {
    pub(crate) const LEN: usize = 24;

    /// `life`, incarnation 48 and place 16, pid; little-endian.
    pub(crate) fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&self.life.to_le_bytes());
        let word = self.incarnation & ((1 << 48) - 1) | u64::from(self.index) << 48;
        bytes[8..16].copy_from_slice(&word.to_le_bytes());
        bytes[16..].copy_from_slice(&u64::from(self.pid).to_le_bytes());
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8; Self::LEN]) -> Holder {
        let (words, _) = bytes.as_chunks::<8>();
        let word = |n: usize| u64::from_le_bytes(words[n]);
        Holder {
            life: word(0),
            index: (word(1) >> 48) as u16,
            incarnation: word(1) & ((1 << 48) - 1),
            pid: word(2) as u32,
        }
    }
}

/// This process's number, asked for once in each.
fn process_id() -> u32 {
    static SEEN: AtomicU64 = AtomicU64::new(0);
    let forks = raw::forks() << 32;
    let seen = SEEN.load(Ordering::Relaxed);
    if seen as u32 != 0 && seen >> 32 << 32 == forks {
        return seen as u32;
    }
    let pid = std::process::id();
    SEEN.store(forks | u64::from(pid), Ordering::Relaxed);
    pid
}

impl Store {
    /// This handle's own name.
    pub(crate) fn holder(&self) -> Holder {
        Holder {
            life: self.files.header.get(layout::LIFE_AT),
            index: self.me.index as u16,
            incarnation: self.me.incarnation,
            pid: process_id(),
        }
    }

    /// Whether the handle of this name is still open, in whatever process. Cheap for this handle itself;
    /// some microseconds for others.
    ///
    /// # Errors
    /// [`Error::Moved`](crate::Error::Moved) when its lock file is missing or replaced.
    pub(crate) fn is_alive(&self, holder: &Holder) -> Result<bool> {
        let header = &self.files.header;
        if holder.life != header.get(layout::LIFE_AT) {
            return Ok(false);
        }
        let index = usize::from(holder.index);
        if index >= PARTICIPANTS_MAX {
            return Ok(false);
        }
        if index == self.me.index {
            return Ok(holder.incarnation == self.me.incarnation);
        }
        // Before the lock is asked for: one who joins after that raises it, and is another.
        let incarnation = header.get(participants::at(index, participant::INCARNATION));
        if incarnation & ((1 << 47) - 1) != holder.incarnation {
            return Ok(false);
        }
        participants::is_alive(header, &self.dir, index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_as_it_was_written() {
        let holder = Holder {
            life: u64::MAX - 3,
            index: 127,
            incarnation: (1 << 47) - 1,
            pid: u32::MAX,
        };
        assert_eq!(Holder::from_bytes(&holder.to_bytes()), holder);
    }
}
