//! The file `fanout`: into how many shards a store is divided, and which they are. 32 bytes.
//!
//! | at | len | field      |                                              |
//! |---:|----:|------------|----------------------------------------------|
//! |  0 |   8 | magic      |                                              |
//! |  8 |   4 | version    | of everything on disk, as in `larder`        |
//! | 12 |   4 | shards     |                                              |
//! | 16 |   8 | generation | of the shards: part of their directory names |
//! | 24 |   4 | hash       | which function sends a key to its shard      |
//! | 28 |   4 | crc        | CRC-32 of every byte before this one         |
//!
//! The same bytes stand in each shard's own log, so that a lost file is made again.
//!
//! Owns these bytes, and the function. Never opens a file.

use crate::format::header::FORMAT_VERSION;
use crate::limits::SHARDS_MAX;

const MAGIC: &[u8; 8] = b"larder.f";
pub(crate) const FANOUT_LEN: usize = 32;

/// What [`Layout::shard_of`] does; another function is another number.
const HASH: u32 = 1;
/// One for all stores, for ever.
const HASH_SEED: u64 = 0x6C61_7264_6572_2E66;
/// Digits of an item's number in a queue.
const ITEM_DIGITS: usize = 15;

/// How a store is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) shards: usize,
    pub(crate) generation: u64,
}

/// Why bytes are no layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LayoutFault {
    Damaged,
    /// Of this version, or with a function of this number.
    Newer(u32),
}

impl Layout {
    pub(crate) fn encode(self) -> [u8; FANOUT_LEN] {
        let mut out = [0; FANOUT_LEN];
        out[..8].copy_from_slice(MAGIC);
        out[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&(self.shards as u32).to_le_bytes());
        out[16..24].copy_from_slice(&self.generation.to_le_bytes());
        out[24..28].copy_from_slice(&HASH.to_le_bytes());
        let crc = crc32fast::hash(&out[..28]);
        out[28..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Layout, LayoutFault> {
        let Ok(bytes) = <&[u8; FANOUT_LEN]>::try_from(bytes) else {
            return Err(LayoutFault::Damaged);
        };
        let half = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        if !bytes.starts_with(MAGIC) || half(28) != crc32fast::hash(&bytes[..28]) {
            return Err(LayoutFault::Damaged);
        }
        if half(8) != FORMAT_VERSION || half(24) != HASH {
            return Err(LayoutFault::Newer(half(8).max(half(24))));
        }
        let layout = Layout {
            shards: half(12) as usize,
            generation: u64::from(half(16)) | u64::from(half(20)) << 32,
        };
        match (1..=SHARDS_MAX).contains(&layout.shards) {
            true => Ok(layout),
            false => Err(LayoutFault::Damaged),
        }
    }

    /// The shard of a key. A queue's items are with their queue, so a key that looks like an item's is
    /// where the queue of that name is.
    #[inline]
    pub(crate) fn shard_of(self, key: &[u8]) -> usize {
        self.shard_of_name(queue_of(key).unwrap_or(key))
    }

    /// The shard of a whole: a queue by its prefix, a named structure by its name.
    #[inline]
    pub(crate) fn shard_of_name(self, name: &[u8]) -> usize {
        let hash = rapidhash::v3::rapidhash_v3_seeded(
            name,
            const { &rapidhash::v3::RapidSecrets::seed(HASH_SEED) },
        );
        // The high bits of a product: evenly spread, whatever the number of shards is.
        ((u128::from(hash) * self.shards as u128) >> 64) as usize
    }
}

/// The queue whose item has such a key: 15 digits from the middle of their range, alone or behind the
/// prefix and a dash.
fn queue_of(key: &[u8]) -> Option<&[u8]> {
    let (prefix, digits) = key.split_at_checked(key.len().checked_sub(ITEM_DIGITS)?)?;
    // 10^14 items fit on either side of the middle: a queue that is never empty for three years at a
    // million a second.
    if !matches!(digits[0], b'4' | b'5') || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    match prefix {
        [] => Some(prefix),
        [prefix @ .., b'-'] => Some(prefix),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_comes_back_and_any_flipped_bit_is_noticed() {
        let layout = Layout {
            shards: 8,
            generation: 3,
        };
        let whole = layout.encode();
        assert_eq!(Layout::decode(&whole), Ok(layout));
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Layout::decode(&flipped).is_err(), "bit {bit}");
        }
        for len in 0..whole.len() {
            assert!(Layout::decode(&whole[..len]).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn keys_stay_where_they_are() {
        let layout = Layout {
            shards: 8,
            generation: 1,
        };
        // Another answer is another function: stores of before would lose their keys.
        let of = |key: &str| layout.shard_of(key.as_bytes());
        assert_eq!([of(""), of("a"), of("b"), of("larder")], EXPECTED);
        let mut counts = [0; 8];
        for n in 0..8_000 {
            counts[of(&format!("key {n}"))] += 1;
        }
        assert!(
            counts.iter().all(|&count| (850..1_150).contains(&count)),
            "{counts:?}"
        );
    }

    const EXPECTED: [usize; 4] = [6, 7, 4, 6];

    #[test]
    fn an_item_is_with_its_queue() {
        let layout = Layout {
            shards: 64,
            generation: 1,
        };
        for (item, queue) in [
            ("500000000000000", ""),
            ("499999999999999", ""),
            ("jobs-500000000000007", "jobs"),
            ("a-b-500000000000007", "a-b"),
            ("-500000000000007", ""),
        ] {
            let key = item.as_bytes();
            assert_eq!(layout.shard_of(key), layout.shard_of_name(queue.as_bytes()));
        }
        for other in [
            "jobs500000000000007",
            "jobs-00500000000000",
            "x-000000000000001",
        ] {
            assert_eq!(queue_of(other.as_bytes()), None, "{other}");
        }
    }
}
