//! The ghost: fingerprints of what was evicted not long ago, and when.
//!
//! Owns the bits of a word and which word of a bucket is replaced.
//! Never holds the table: the engine loads a bucket and stores the word it is told.
//!
//! Time is counted in evictions from the log lane, so a store that evicts nothing forgets nothing.
//! A lost store of a word forgets one eviction: words need no lock.

/// Words of a bucket: half a cache line.
pub const BUCKET_WORDS: usize = 8;

// A word. 0 is an empty one: a fingerprint is never 0.
//
// | bits   | field       |                                        |
// |-------:|-------------|----------------------------------------|
// | 31..12 | fingerprint | of the key's hash, 1 at least          |
// | 11..0  | tick        | of the eviction, modulo 2¹²            |
const TICK_BITS: u32 = 12;
const TICK_MASK: u32 = (1 << TICK_BITS) - 1;

/// A table has so many ticks for each time all its words are written once.
const TICKS_PER_TABLE: u64 = 256;

/// The bucket of a hash in a table of `words` words, a power of two and at least one bucket.
#[must_use]
pub fn bucket(hash: u64, words: u64) -> u64 {
    debug_assert!(words.is_power_of_two() && words >= BUCKET_WORDS as u64);
    hash & (words / BUCKET_WORDS as u64 - 1)
}

/// The fingerprint of a hash: its highest bits, which [`bucket`] does not use below 2⁴⁴ buckets.
#[must_use]
pub fn fingerprint(hash: u64) -> u32 {
    ((hash >> (32 + TICK_BITS)) as u32).max(1)
}

/// So many evictions share a tick in a table of `words` words.
fn tick_evictions(words: u64) -> u64 {
    (words / TICKS_PER_TABLE).max(1)
}

/// Ticks since the eviction that `word` names.
fn age_ticks(word: u32, evictions: u64, words: u64) -> u64 {
    let now = (evictions / tick_evictions(words)) as u32;
    u64::from(now.wrapping_sub(word) & TICK_MASK)
}

/// Which word says that `hash` was evicted within the last `window` evictions, of `evictions` in all.
///
/// The engine clears it: an entry comes back once.
#[must_use]
pub fn find(
    bucket: &[u32; BUCKET_WORDS],
    hash: u64,
    evictions: u64,
    words: u64,
    window: u64,
) -> Option<usize> {
    let window_ticks = window / tick_evictions(words);
    bucket.iter().position(|&word| {
        word >> TICK_BITS == fingerprint(hash) && age_ticks(word, evictions, words) <= window_ticks
    })
}

/// Where to write what for `hash`, evicted as number `evictions`: an empty word, or the oldest.
#[must_use]
pub fn remember(
    bucket: &[u32; BUCKET_WORDS],
    hash: u64,
    evictions: u64,
    words: u64,
) -> (usize, u32) {
    let same = |word: u32| word >> TICK_BITS == fingerprint(hash);
    let place = |&at: &usize| match bucket[at] {
        0 => u64::MAX - 1,
        word if same(word) => u64::MAX,
        word => age_ticks(word, evictions, words),
    };
    let at = (0..BUCKET_WORDS).max_by_key(place).unwrap_or(0);
    let tick = (evictions / tick_evictions(words)) as u32 & TICK_MASK;
    (at, fingerprint(hash) << TICK_BITS | tick)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: u64 = 1_024; // four evictions share a tick
    const HASH: u64 = 0xABCD_E000_0000_0003;

    fn filled(evictions: u64) -> [u32; BUCKET_WORDS] {
        let mut bucket = [0; BUCKET_WORDS];
        let (at, word) = remember(&bucket, HASH, evictions, WORDS);
        bucket[at] = word;
        bucket
    }

    #[test]
    fn an_eviction_is_remembered_for_the_window() {
        let bucket = filled(400);
        assert!(find(&bucket, HASH, 400, WORDS, 100).is_some());
        assert!(find(&bucket, HASH, 503, WORDS, 100).is_some());
        assert!(find(&bucket, HASH, 504, WORDS, 100).is_none());
    }

    #[test]
    fn another_hash_is_not_found() {
        let bucket = filled(400);
        assert!(find(&bucket, HASH ^ 1 << 44, 400, WORDS, 100).is_none());
        assert!(find(&[0; BUCKET_WORDS], HASH, 0, WORDS, 100).is_none());
        assert!(find(&[0; BUCKET_WORDS], 0, 0, WORDS, 100).is_none());
    }

    #[test]
    fn ticks_wrap() {
        let last = u64::from(TICK_MASK) * 4;
        let bucket = filled(last);
        assert!(find(&bucket, HASH, last + 100, WORDS, 100).is_some());
        assert!(find(&bucket, HASH, last + 104, WORDS, 100).is_none());
    }

    #[test]
    fn a_full_bucket_loses_its_oldest_and_one_hash_has_one_word() {
        let mut bucket = [0; BUCKET_WORDS];
        let hash = |n: u64| (n + 1) << 44;
        for n in 0..9 {
            let (at, word) = remember(&bucket, hash(n), n * 4, WORDS);
            bucket[at] = word;
        }
        assert!(find(&bucket, hash(0), 32, WORDS, 100).is_none());
        for n in 1..9 {
            assert!(find(&bucket, hash(n), 32, WORDS, 100).is_some(), "{n}");
        }
        let before = find(&bucket, hash(5), 36, WORDS, 100);
        let (at, word) = remember(&bucket, hash(5), 36, WORDS);
        assert_eq!(Some(at), before);
        assert_eq!(word & TICK_MASK, 9);
    }

    #[test]
    fn buckets_lie_in_the_table() {
        assert_eq!(bucket(u64::MAX, 8), 0);
        assert_eq!(bucket(u64::MAX, WORDS), WORDS / 8 - 1);
        assert_eq!(bucket(HASH, WORDS), 3);
    }
}
