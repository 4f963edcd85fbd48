//! The logical clock of accesses: fine enough for a policy, and with a memory of what time it was.
//!
//! One header word: tick 32, second 32. A tick begins with each new second, and with every so many sets:
//! about 256 while a store's entries are replaced once. The ticks that began with a second are kept in
//! rings, level n by 2^n seconds, so that a tick tells its time to about 1/32 of its age. Owns those
//! words; what is wrong in them costs a policy's precision and `accessed_at`'s.

use std::sync::atomic::Ordering;

use crate::engine::store::{MAIN_SPACE, Store};
use crate::format::header::{self as layout, space};
use crate::format::stamp::TICK_MASK;

impl Store {
    /// The tick it is, as stamps keep it.
    #[inline]
    pub(crate) fn tick(&self, now_ms: u64) -> u32 {
        self.tick_at(self.second(now_ms))
    }

    /// The tick it is in this second of the store's life.
    #[inline]
    pub(crate) fn tick_at(&self, second: u32) -> u32 {
        let word = self
            .files
            .header
            .word(layout::CLOCK_AT)
            .load(Ordering::Relaxed);
        if second > word as u32 {
            return self.begin_second(word, second) & TICK_MASK;
        }
        (word >> 32) as u32 & TICK_MASK
    }

    #[cold]
    fn begin_second(&self, word: u64, second: u32) -> u32 {
        let header = &self.files.header;
        let tick = ((word >> 32) as u32).wrapping_add(1);
        let new = u64::from(tick) << 32 | u64::from(second);
        let done = header.word(layout::CLOCK_AT).compare_exchange(
            word,
            new,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
        if let Err(other) = done {
            return (other >> 32) as u32;
        }
        for level in 0..layout::RING_LEVELS {
            if second >> level != word as u32 >> level || word as u32 == 0 {
                let n = u64::from(second >> level) % layout::RING_LEN;
                let at = layout::RING_AT + (level * layout::RING_LEN + n) * 8;
                header.word(at).store(new, Ordering::Relaxed);
            }
        }
        tick
    }

    /// After `sets` sets, the last with sequence `seq`: perhaps ticks begin. Under the lock.
    #[inline]
    pub(crate) fn turn(&self, seq: u64, sets: u64) {
        let entries = self.files.space(MAIN_SPACE, space::COUNT);
        let ticks = ticks_begun(seq, sets, (entries / 256).max(1));
        if ticks > 0 {
            self.files.header.add(layout::CLOCK_AT, ticks << 32);
        }
    }

    /// Ticks since a stamp's.
    pub(crate) fn ticks_since(&self, tick: u32) -> u32 {
        let now = (self.files.header.get(layout::CLOCK_AT) >> 32) as u32;
        now.wrapping_sub(tick) & TICK_MASK
    }

    /// The second in which a stamp's tick was, since the store's birth; `None`: nobody remembers.
    pub(crate) fn second_of(&self, tick: u32) -> Option<u32> {
        let header = &self.files.header;
        let now = (header.get(layout::CLOCK_AT) >> 32) as u32;
        let tick = now.wrapping_sub(now.wrapping_sub(tick) & TICK_MASK);
        let all = (0..layout::RING_LEVELS * layout::RING_LEN)
            .map(|n| header.get(layout::RING_AT + n * 8))
            .filter(|&word| word != 0);
        // The last second that began at or before that tick.
        all.map(|word| (tick.wrapping_sub((word >> 32) as u32), word as u32))
            .filter(|(ago, _)| *ago <= u32::MAX / 2)
            .min()
            .map(|(_, second)| second)
    }
}

/// Ticks that begin with `sets` sets, the last with sequence `seq`, when one begins about every `every`.
///
/// By a product of the sequence, not its lowest bits: in a full store each set is followed by the record
/// of what it evicted, so that sets may have odd sequences alone.
fn ticks_begun(seq: u64, sets: u64, every: u64) -> u64 {
    // 2^64 over the golden ratio: the products of sequences in steps of any length are spread evenly.
    let share = seq.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let rest = u128::from(sets % every) << 64;
    sets / every + u64::from(u128::from(share) * u128::from(every) < rest)
}

#[cfg(test)]
mod tests {
    use super::ticks_begun;

    #[test]
    fn ticks_begin_as_often_whatever_stands_between_sets() {
        for every in [1, 2, 3, 19, 256, 1_000] {
            for step in [1, 2, 3, 4, 8, 64] {
                for sets in [1, 7, 300] {
                    let rounds = 40_000;
                    let begun: u64 = (0..rounds)
                        .map(|round| ticks_begun(5 + round * step * sets, sets, every))
                        .sum();
                    let due = rounds * sets / every;
                    let off = begun.abs_diff(due);
                    assert!(
                        off <= due / 4 + 2,
                        "{begun} of {due}: {sets} sets, steps of {step}, every {every}"
                    );
                }
            }
        }
    }
}
