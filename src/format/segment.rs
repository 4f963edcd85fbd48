//! A segment file: a header, records growing up, a summary growing down from the end.
//!
//! | at  | len | field      |                                                        |
//! |----:|----:|------------|--------------------------------------------------------|
//! |   0 |   8 | magic      | `larder.s`                                             |
//! |   8 |   4 | version    | [`FORMAT_VERSION`](super::header::FORMAT_VERSION)      |
//! |  12 |   4 | features   | bits a reader must know: 1, [`COPIES`]                 |
//! |  16 |  16 | uuid       | the store's                                            |
//! |  32 |   8 | id         | never reused                                           |
//! |  40 |   8 | size       | bytes of the whole file                                |
//! |  48 |   8 | first seq  | not above that of its first record                     |
//! |  56 |   8 | hash seed  | the store's                                            |
//! |  64 |   8 | created    | ms since 1970, the store's                             |
//! |  72 |   8 | life seq   | sequence with which the log went on after the last     |
//! |     |     |            | rebuild: what a segment of an earlier life holds at or |
//! |     |     |            | above it was never acknowledged                        |
//! |  80 |   8 | life       | which one it is, counted from 1                        |
//! |  88 |   4 | crc        | CRC-32 of bytes 0..88                                  |
//! |  96 |     | records    | each 8-aligned                                         |
//! | -16n|  16 | summary    | of record n, counted from 1: see [`Summary`]           |
//!
//! The file is sparse: only what is in use, and a step more, is allocated. Owns these bytes.

use super::header::FORMAT_VERSION;
use super::record::Kind;
use super::seed::Seed;

pub(crate) const MAGIC: &[u8; 8] = b"larder.s";
/// Where the first record begins.
pub(crate) const RECORDS_AT: u64 = 96;
/// Bytes of one record's summary: its footer.
pub(crate) const SUMMARY_LEN: u64 = 16;

const CRC_AT: usize = 88;
/// Feature: it is of the second lane, where records go that were kept.
pub(crate) const COPIES: u32 = 1;

/// A segment's first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHead {
    pub(crate) uuid: [u8; 16],
    pub(crate) id: u64,
    pub(crate) size: u64,
    pub(crate) first_seq: u64,
    pub(crate) hash_seed: u64,
    pub(crate) created_ms: u64,
    /// The first sequence of this life of the log, and its number: two may begin with one sequence.
    pub(crate) life_seq: u64,
    pub(crate) life: u64,
    /// Of the second lane: records that were kept when their first segment went.
    pub(crate) copies: bool,
}

/// Why a file is no segment of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeadFault {
    /// No header, or a damaged one.
    Damaged,
    /// Whole, and of another format version or with features we do not know.
    Newer(u32),
}

impl SegmentHead {
    pub(crate) fn encode(&self) -> [u8; RECORDS_AT as usize] {
        let mut bytes = [0; RECORDS_AT as usize];
        bytes[0..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&(u32::from(self.copies) * COPIES).to_le_bytes());
        bytes[16..32].copy_from_slice(&self.uuid);
        for (at, word) in [
            (32, self.id),
            (40, self.size),
            (48, self.first_seq),
            (56, self.hash_seed),
            (64, self.created_ms),
            (72, self.life_seq),
            (80, self.life),
        ] {
            bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        let crc = crc32fast::hash(&bytes[..CRC_AT]);
        bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header; one flipped bit is mended, for a CRC tells which it was.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, HeadFault> {
        match Self::decode_whole(bytes) {
            Err(HeadFault::Damaged) if bytes.len() >= RECORDS_AT as usize => {}
            answer => return answer,
        }
        let mut bytes = bytes[..RECORDS_AT as usize].to_vec();
        for bit in 0..(CRC_AT + 4) * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(head) = Self::decode_whole(&bytes) {
                return Ok(head);
            }
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        Err(HeadFault::Damaged)
    }

    fn decode_whole(bytes: &[u8]) -> Result<Self, HeadFault> {
        let fixed = bytes.get(..RECORDS_AT as usize).ok_or(HeadFault::Damaged)?;
        let word = |at: usize| u64::from_le_bytes(fixed[at..at + 8].try_into().unwrap_or_default());
        let half = |at: usize| u32::from_le_bytes(fixed[at..at + 4].try_into().unwrap_or_default());
        if &fixed[..8] != MAGIC || half(CRC_AT) != crc32fast::hash(&fixed[..CRC_AT]) {
            return Err(HeadFault::Damaged);
        }
        if half(8) != FORMAT_VERSION || half(12) & !COPIES != 0 {
            return Err(HeadFault::Newer(half(8)));
        }
        let uuid = fixed[16..32].try_into().unwrap_or_default();
        Ok(SegmentHead {
            uuid,
            id: word(32),
            size: word(40),
            first_seq: word(48),
            hash_seed: word(56),
            created_ms: word(64),
            life_seq: word(72),
            life: word(80),
            copies: half(12) & COPIES != 0,
        })
    }
}

/// What the footer says of one record, so that damage to it is known for what it was.
///
/// | bits     | word 0             | word 1                   |
/// |----------|--------------------|--------------------------|
/// | 0..48    | seq                | hash 0..38, offset 38..64|
/// | 48..50   | 1 set, 2 delete, 3 other |                    |
/// | 50..64   | check              |                          |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) seq: u64,
    pub(crate) kind: SummaryKind,
    /// The lowest 38 bits of the key's hash.
    pub(crate) hash: u64,
    /// Byte offset of the record.
    pub(crate) at: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SummaryKind {
    Set = 1,
    Delete = 2,
    Other = 3,
}

impl From<Kind> for SummaryKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Set => SummaryKind::Set,
            Kind::Delete => SummaryKind::Delete,
            Kind::Kill | Kind::Mark | Kind::Drop => SummaryKind::Other,
        }
    }
}

/// The hash bits a summary keeps.
pub(crate) const SUMMARY_HASH_MASK: u64 = (1 << 38) - 1;

impl Summary {
    /// The two words of the `index`-th summary (from 0) of the segment with `seed`.
    pub(crate) fn encode(&self, seed: Seed, index: u64) -> [u64; 2] {
        let low = self.seq | (self.kind as u64) << 48;
        let high = self.hash & SUMMARY_HASH_MASK | (self.at / 8) << 38;
        [low | check(seed, index, low, high) << 50, high]
    }

    /// `None`: not a summary, or a damaged one.
    pub(crate) fn decode(words: [u64; 2], seed: Seed, index: u64) -> Option<Self> {
        let low = words[0] & ((1 << 50) - 1);
        let kind = match low >> 48 {
            1 => SummaryKind::Set,
            2 => SummaryKind::Delete,
            3 => SummaryKind::Other,
            _ => return None,
        };
        if words[0] >> 50 != check(seed, index, low, words[1]) {
            return None;
        }
        Some(Summary {
            seq: low & ((1 << 48) - 1),
            kind,
            hash: words[1] & SUMMARY_HASH_MASK,
            at: (words[1] >> 38) * 8,
        })
    }

    /// Where the `index`-th summary of a segment of `size` bytes stands.
    pub(crate) fn position(size: u64, index: u64) -> u64 {
        size - (index + 1) * SUMMARY_LEN
    }
}

fn check(seed: Seed, index: u64, low: u64, high: u64) -> u64 {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&low.to_le_bytes());
    bytes[8..].copy_from_slice(&high.to_le_bytes());
    let crc = seed.crc(index * 8, &bytes);
    u64::from((crc ^ crc >> 16) & 0x3FFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_head_mends_any_one_flip_and_notices_two() {
        let head = SegmentHead {
            uuid: [3; 16],
            id: 9,
            size: 65536,
            first_seq: 4,
            hash_seed: 5,
            created_ms: 6,
            life_seq: 2,
            life: 3,
            copies: true,
        };
        let whole = head.encode();
        assert_eq!(SegmentHead::decode(&whole), Ok(head));
        for bit in 0..(CRC_AT + 4) * 8 {
            let mut flipped = whole;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHead::decode(&flipped), Ok(head), "bit {bit}");
            let other = (bit + 9) % ((CRC_AT + 4) * 8);
            flipped[other / 8] ^= 1 << (other % 8);
            assert_eq!(
                SegmentHead::decode(&flipped),
                Err(HeadFault::Damaged),
                "bit {bit}"
            );
        }
    }

    #[test]
    fn a_summary_notices_every_flip_and_another_place() {
        let seed = Seed::of_segment(&[3; 16], 9);
        for n in 0..200_u64 {
            let hash = n.wrapping_mul(0x9E37_79B9_7F4A_7C15) & SUMMARY_HASH_MASK;
            let summary = Summary {
                seq: n * 7919,
                kind: SummaryKind::Set,
                hash,
                at: n * 48,
            };
            let words = summary.encode(seed, n);
            assert_eq!(Summary::decode(words, seed, n), Some(summary));
            for bit in 0..128 {
                let mut flipped = words;
                flipped[bit / 64] ^= 1 << (bit % 64);
                assert_eq!(Summary::decode(flipped, seed, n), None, "bit {bit} of {n}");
            }
        }
        assert_eq!(Summary::decode([0, 0], seed, 0), None);
    }
}
