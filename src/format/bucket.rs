//! The keymap's bucket of 64 bytes, its words, and the address of a bucket.
//!
//! | at | len | field   |                                                             |
//! |---:|----:|---------|-------------------------------------------------------------|
//! |  0 |  40 | words   | 5 x u64: parity 1, hash bits 21, segment slot 16, offset 26 |
//! | 40 |  20 | stamps  | 5 x u32: second of the last access since the store's birth  |
//! | 60 |   4 | link    | parity 1, index of the overflow bucket + 1: 30, 1; 0: none  |
//!
//! A word has an odd number of one bits, so one flipped bit is noticed and 0 is "empty". Never
//! touches a map: numbers in, numbers out.

/// Bytes of a bucket: a cache line.
pub(crate) const BUCKET_LEN: u64 = 64;
/// Words in a bucket.
pub(crate) const WORDS: u64 = 5;
pub(crate) const STAMPS_AT: u64 = WORDS * 8;
pub(crate) const LINK_AT: u64 = STAMPS_AT + WORDS * 4;
const _: () = assert!(LINK_AT + 4 == BUCKET_LEN, "a bucket is one cache line");

/// Buckets a new keymap has: its index gives the lowest hash bits, a word the 21 above.
pub(crate) const BASE_BITS: u32 = 10;
const HASH_BITS: u32 = 21;
/// Buckets a keymap can grow to before its words no longer say where they belong.
pub(crate) const BUCKETS_MAX: u64 = 1 << (BASE_BITS + HASH_BITS);
const HASH_MASK: u64 = (1 << HASH_BITS) - 1;

/// Where a record is: a row of the segment table and a byte offset in that segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) slot: u16,
    pub(crate) at: u64,
}

impl Place {
    const BITS: u64 = (1 << 42) - 1;

    pub(crate) fn to_bits(self) -> u64 {
        debug_assert!(self.at.is_multiple_of(8) && self.at / 8 < 1 << 26);
        u64::from(self.slot) << 26 | (self.at / 8)
    }

    /// `None` for 0: no place.
    pub(crate) fn from_bits(bits: u64) -> Option<Self> {
        let place = Place {
            slot: (bits >> 26) as u16,
            at: (bits & ((1 << 26) - 1)) * 8,
        };
        (bits & !Self::BITS == 0 && place.slot != 0).then_some(place)
    }
}

/// The word that leads from a hash to a place.
pub(crate) fn word(hash: u64, place: Place) -> u64 {
    let bits = (hash >> BASE_BITS & HASH_MASK) << 42 | place.to_bits();
    bits | u64::from(bits.count_ones().is_multiple_of(2)) << 63
}

/// Whether the word is whole: an odd number of ones.
pub(crate) fn is_whole(word: u64) -> bool {
    !word.count_ones().is_multiple_of(2)
}

/// Whether a whole word may belong to `hash`.
pub(crate) fn may_be(word: u64, hash: u64) -> bool {
    (word >> 42 ^ hash >> BASE_BITS) & HASH_MASK == 0
}

/// The place a whole word names.
pub(crate) fn place(word: u64) -> Option<Place> {
    Place::from_bits(word & Place::BITS)
}

/// The lowest 31 hash bits of a word in bucket `bucket`.
pub(crate) fn known_hash(word: u64, bucket: u64) -> u64 {
    (word >> 42 & HASH_MASK) << BASE_BITS | bucket & ((1 << BASE_BITS) - 1)
}

/// Hash bits a word and its bucket tell together.
pub(crate) const KNOWN_MASK: u64 = (1 << (BASE_BITS + HASH_BITS)) - 1;

/// A link to overflow bucket `index`.
pub(crate) fn link(index: u32) -> u32 {
    let bits = (index + 1) << 1 & 0x7FFF_FFFF | 1;
    bits | u32::from(bits.count_ones().is_multiple_of(2)) << 31
}

/// What a link says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Link {
    End,
    To(u32),
    Damaged,
}

pub(crate) fn read_link(link: u32) -> Link {
    match link {
        0 => Link::End,
        _ if link.count_ones().is_multiple_of(2) || link & 1 == 0 || link & 0x7FFF_FFFE == 0 => {
            Link::Damaged
        }
        _ => Link::To((link & 0x7FFF_FFFF) / 2 - 1),
    }
}

/// How far the table has grown: `1024 << level` buckets, of which the first `next` are split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Split {
    pub(crate) level: u32,
    pub(crate) next: u64,
}

impl Split {
    pub(crate) fn to_bits(self) -> u64 {
        u64::from(self.level) << 56 | self.next
    }

    pub(crate) fn from_bits(bits: u64) -> Self {
        let level = ((bits >> 56) as u32).min(HASH_BITS - 1);
        Split {
            level,
            next: (bits & ((1 << 56) - 1)).min(1 << (BASE_BITS + level)),
        }
    }

    /// The growth with exactly `buckets` buckets.
    pub(crate) fn with_buckets(buckets: u64) -> Self {
        let level = buckets.max(1 << BASE_BITS).ilog2() - BASE_BITS;
        Split {
            level,
            next: buckets.max(1 << BASE_BITS) - (1 << (BASE_BITS + level)),
        }
    }

    fn round(self) -> u64 {
        1 << (BASE_BITS + self.level)
    }

    pub(crate) fn buckets(self) -> u64 {
        self.round() + self.next
    }

    /// The bucket of a hash (linear hashing, Litwin 1980).
    #[inline]
    pub(crate) fn bucket(self, hash: u64) -> u64 {
        let low = hash & (self.round() - 1);
        if low < self.next {
            hash & (self.round() * 2 - 1)
        } else {
            low
        }
    }

    /// The growth after the next bucket was split.
    pub(crate) fn grown(self) -> Self {
        if self.next + 1 == self.round() {
            Split {
                level: self.level + 1,
                next: 0,
            }
        } else {
            Split {
                next: self.next + 1,
                ..self
            }
        }
    }

    /// Where the next split's movers go.
    pub(crate) fn target(self) -> u64 {
        self.next + self.round()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_gives_back_what_it_was_made_of_and_notices_a_flip() {
        for hash in [0, 1, u64::MAX, 0xDEAD_BEEF_0123_4567] {
            for at in [64, 4096, (1 << 29) - 8] {
                let at = Place { slot: 77, at };
                let word = word(hash, at);
                assert!(is_whole(word) && may_be(word, hash));
                assert_eq!(place(word), Some(at));
                assert_eq!(known_hash(word, hash & 1023), hash & KNOWN_MASK);
                for bit in 0..64 {
                    assert!(!is_whole(word ^ 1 << bit), "bit {bit}");
                }
            }
        }
    }

    #[test]
    fn links_come_back_and_flips_are_damage() {
        for index in [0, 1, 77, 0x3FFF_FFFD] {
            let link = link(index);
            assert_eq!(read_link(link), Link::To(index));
            for bit in 0..32 {
                assert_eq!(read_link(link ^ 1 << bit), Link::Damaged);
            }
        }
    }

    #[test]
    fn growing_bucket_by_bucket_keeps_every_hash_in_one_of_two_places() {
        let mut split = Split { level: 0, next: 0 };
        let hashes: Vec<u64> = (0..2000_u64)
            .map(|n| n.wrapping_mul(0x9E37_79B9_7F4A_7C15))
            .collect();
        for _ in 0..5000 {
            let grown = split.grown();
            assert_eq!(grown.buckets(), split.buckets() + 1);
            assert_eq!(Split::with_buckets(grown.buckets()), grown);
            for &hash in &hashes {
                let (before, after) = (split.bucket(hash), grown.bucket(hash));
                assert!(after == before || (before == split.next && after == split.target()));
            }
            split = grown;
        }
    }
}
