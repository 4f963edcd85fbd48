//! A record: one entry's bytes in the log.
//!
//! | at | len | field     |                                                                     |
//! |---:|----:|-----------|---------------------------------------------------------------------|
//! |  0 |   4 | crc       | CRC-32 of every byte after this one, padding left out               |
//! |  4 |   4 | head_crc  | CRC-32 of bytes 8.. to the end of the options                       |
//! |  8 |   8 | shape     | value kind 8, flags 11, kind 4, key length 17, value length 24 bits |
//! | 16 |   6 | seq       | this version's sequence number; consecutive along the log           |
//! | 22 |   6 | order     | the entry's insertion: the seq of its first version                 |
//! | 28 |   4 | stored_s  | seconds since the store was created                                 |
//! | 32 |     | options   | by flag, in this order: see [`Options`]                             |
//! |    |     | key, value| then zeros up to a multiple of 8                                    |
//!
//! Both checksums start from the record's place (see `seed`). Kind 0 is never valid, so zeros are no
//! record. Owns these bytes; never reads a file.

use super::seed::Seed;

/// Bytes of the fixed part.
pub(crate) const HEAD_LEN: usize = 32;
/// Bytes of options at most, tags left out.
pub(crate) const OPTIONS_MAX: usize = 8 * 9;
/// Values inline in the log are shorter than this.
pub(crate) const VALUE_LEN_END: usize = 1 << 24;

/// What a record does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Stores an entry.
    Set = 1,
    /// Removes the entry of its key.
    Delete = 2,
    /// Removes the entries it lists: n x (hash u64, seq u64), each with every older version. Its value
    /// kind is the cause, its key the entries' names if somebody watches (see `names`).
    Kill = 3,
    /// Says how far the log is durable: seq u64.
    Mark = 4,
    /// Removes what a segment holds between two bytes: id u64, from u64, upto u64, then pairs as in a kill
    /// list. Cause and names as there.
    Drop = 5,
}

impl Kind {
    fn from_bits(bits: u64) -> Option<Kind> {
        [Kind::Set, Kind::Delete, Kind::Kill, Kind::Mark, Kind::Drop]
            .into_iter()
            .find(|&kind| kind as u64 == bits)
    }
}

/// Which options a record has.
pub(crate) mod flag {
    /// Part of a batch; option: the place of the version it replaces.
    pub(crate) const BATCH: u16 = 1;
    /// The last of its batch.
    pub(crate) const BATCH_END: u16 = 2;
    /// Option: expiry, ms since 1970.
    pub(crate) const EXPIRES: u16 = 4;
    /// Option: tags, last of all.
    pub(crate) const TAGS: u16 = 8;
    /// The value is in a file of its own; option: its id, length and checksum.
    pub(crate) const APART: u16 = 16;
    /// The value is zstd; option: its plain length u32, dictionary u32 (0: none).
    pub(crate) const ZSTD: u16 = 32;
    /// Not in the cache's own space; option: space u32, zeros u32.
    pub(crate) const SPACE: u16 = 64;
    /// A sliding expiry; option: its length, ms.
    pub(crate) const SLIDING: u16 = 128;
    /// The cost to recompute; option: f64 seconds.
    pub(crate) const COST: u16 = 256;
    /// Pushed to a queue, not set by hand. No option.
    pub(crate) const ITEM: u16 = 512;
    /// The version it replaces or removes had, or may have had, a tag that it has not. No option.
    pub(crate) const UNTAGS: u16 = 1024;
    /// All that this version knows.
    pub(crate) const ALL: u16 = 2047;
}

/// A large value's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Apart {
    pub(crate) id: u64,
    pub(crate) len: u64,
    pub(crate) crc: u32,
}

/// What the options say; absent ones are 0 or `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Options {
    /// Place bits of the version a batch record replaces; 0: none.
    pub(crate) previous: u64,
    pub(crate) expires_ms: Option<u64>,
    pub(crate) space: u32,
    /// Plain length and dictionary of a compressed value.
    pub(crate) zstd: Option<(u32, u32)>,
    pub(crate) apart: Option<Apart>,
    /// Length of a sliding expiry.
    pub(crate) sliding_ms: Option<u64>,
    /// Seconds it takes to make the value again; finite, not negative.
    pub(crate) cost_s: Option<f64>,
    /// Sequence at which the tags were last changed, and how many there are.
    pub(crate) tag_seq: u64,
    pub(crate) tag_count: u16,
}

/// A record's fixed part and options.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Head {
    pub(crate) kind: Kind,
    pub(crate) value_kind: u8,
    pub(crate) flags: u16,
    pub(crate) key_len: usize,
    pub(crate) value_len: usize,
    pub(crate) seq: u64,
    pub(crate) order: u64,
    pub(crate) stored_s: u32,
    pub(crate) options: Options,
    /// Where the key begins.
    pub(crate) key_at: usize,
}

impl Head {
    /// Bytes of the whole record in the log, padding included.
    pub(crate) fn len(&self) -> usize {
        (self.key_at + self.key_len + self.value_len).next_multiple_of(8)
    }

    /// Bytes the entry counts for in `volume()`: header, options, key and value.
    /// The same for an entry however it was written: a batch's own option is not counted.
    pub(crate) fn volume(&self) -> u64 {
        let batch = if self.flags & flag::BATCH != 0 { 8 } else { 0 };
        (self.key_at - batch + self.key_len + self.value_len) as u64
            + self.options.apart.map_or(0, |apart| apart.len)
    }
}

/// What is to be written; `encode` makes its bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Draft<'a> {
    pub(crate) kind: Kind,
    pub(crate) value_kind: u8,
    pub(crate) space: u32,
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
    pub(crate) expires_ms: Option<u64>,
    pub(crate) zstd: Option<(u32, u32)>,
    pub(crate) apart: Option<Apart>,
    pub(crate) sliding_ms: Option<u64>,
    pub(crate) cost_s: Option<f64>,
    /// Pushed to a queue.
    pub(crate) is_item: bool,
    /// 0: the tags change with this record.
    pub(crate) tag_seq: u64,
    pub(crate) tags: &'a [u32],
    pub(crate) stored_s: u32,
}

/// Where a draft stands in the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing {
    pub(crate) seq: u64,
    pub(crate) order: u64,
    /// Of a batch: place bits of the version replaced, and whether it is the last.
    pub(crate) batch: Option<(u64, bool)>,
    /// A tag that the version before had is gone.
    pub(crate) untags: bool,
}

impl Draft<'_> {
    fn flags(&self, batch: Option<(u64, bool)>) -> u16 {
        let mut flags = 0;
        let mut put = |on: bool, bit: u16| flags |= if on { bit } else { 0 };
        put(batch.is_some(), flag::BATCH);
        put(batch.is_some_and(|(_, end)| end), flag::BATCH_END);
        put(self.expires_ms.is_some(), flag::EXPIRES);
        put(!self.tags.is_empty(), flag::TAGS);
        put(self.apart.is_some(), flag::APART);
        put(self.zstd.is_some(), flag::ZSTD);
        put(self.space != 0, flag::SPACE);
        put(self.is_item, flag::ITEM);
        put(self.sliding_ms.is_some(), flag::SLIDING);
        put(self.cost_s.is_some(), flag::COST);
        flags
    }

    /// Bytes of the whole record, padding included.
    pub(crate) fn len(&self, in_batch: bool) -> usize {
        let options = options_len(self.flags(in_batch.then_some((0, false))), self.tags.len());
        (HEAD_LEN + options + self.key.len() + self.value.len()).next_multiple_of(8)
    }

    /// Appends the record's bytes for byte `at` of the segment with `seed`.
    pub(crate) fn encode(&self, seed: Seed, at: u64, standing: Standing, out: &mut Vec<u8>) {
        let start = out.len();
        out.reserve(self.len(standing.batch.is_some()));
        let mut flags = self.flags(standing.batch);
        if standing.untags {
            flags |= flag::UNTAGS;
        }
        let shape = u64::from(self.value_kind)
            | u64::from(flags) << 8
            | (self.kind as u64) << 19
            | (self.key.len() as u64) << 23
            | (self.value.len() as u64) << 40;
        let mut head = [0; HEAD_LEN];
        head[8..16].copy_from_slice(&shape.to_le_bytes());
        head[16..22].copy_from_slice(&standing.seq.to_le_bytes()[..6]);
        head[22..28].copy_from_slice(&standing.order.to_le_bytes()[..6]);
        head[28..32].copy_from_slice(&self.stored_s.to_le_bytes());
        out.extend_from_slice(&head);
        self.encode_options(standing, out);
        let head_crc = seed.crc(at + 4, &out[start + 8..]);
        out[start + 4..start + 8].copy_from_slice(&head_crc.to_le_bytes());
        out.extend_from_slice(self.key);
        out.extend_from_slice(self.value);
        let crc = seed.crc(at, &out[start + 4..]);
        out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
        out.resize(start + (out.len() - start).next_multiple_of(8), 0);
    }

    fn encode_options(&self, standing: Standing, out: &mut Vec<u8>) {
        let mut word = |word: u64| out.extend_from_slice(&word.to_le_bytes());
        if let Some((previous, _)) = standing.batch {
            word(previous);
        }
        if let Some(ms) = self.expires_ms {
            word(ms);
        }
        if self.space != 0 {
            word(u64::from(self.space));
        }
        if let Some((plain_len, dictionary)) = self.zstd {
            word(u64::from(plain_len) | u64::from(dictionary) << 32);
        }
        if let Some(apart) = self.apart {
            word(apart.id);
            word(apart.len);
            word(u64::from(apart.crc));
        }
        if let Some(ms) = self.sliding_ms {
            word(ms);
        }
        if let Some(cost) = self.cost_s {
            word(cost.to_bits());
        }
        if !self.tags.is_empty() {
            let tag_seq = if self.tag_seq == 0 {
                standing.seq
            } else {
                self.tag_seq
            };
            word(tag_seq | (self.tags.len() as u64) << 48);
            for pair in self.tags.chunks(2) {
                word(u64::from(pair[0]) | u64::from(pair.get(1).copied().unwrap_or(0)) << 32);
            }
        }
    }
}

fn options_len(flags: u16, tags: usize) -> usize {
    let words = (flags
        & (flag::BATCH | flag::EXPIRES | flag::SPACE | flag::ZSTD | flag::SLIDING | flag::COST))
        .count_ones() as usize
        + if flags & flag::APART != 0 { 3 } else { 0 }
        + if flags & flag::TAGS != 0 {
            1 + tags.div_ceil(2)
        } else {
            0
        };
    words * 8
}

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The bytes end before the record does.
    Short,
    /// The fixed part or the options are not what was written.
    Head,
    /// Key or value are not what was written.
    Body,
}

/// The bytes a whole record would have, by its unverified `shape` word; `None`: surely none.
///
/// For knowing how much to copy before anything is checked. `word` reads the record at a byte offset.
#[inline]
pub(crate) fn claimed_len(shape: u64, word: impl Fn(usize) -> Option<u64>) -> Option<usize> {
    let flags = (shape >> 8 & 0x7FF) as u16;
    Kind::from_bits(shape >> 19 & 0xF)?;
    let mut tags = 0;
    if flags & flag::TAGS != 0 {
        tags = (word(HEAD_LEN + options_len(flags, 0) - 8)? >> 48) as usize;
    }
    Some(
        (HEAD_LEN + options_len(flags, tags) + key_len(shape) + value_len(shape))
            .next_multiple_of(8),
    )
}

/// Where the shape word stands.
pub(crate) const SHAPE_AT: u64 = 8;

fn key_len(shape: u64) -> usize {
    (shape >> 23 & 0x1_FFFF) as usize
}

fn value_len(shape: u64) -> usize {
    (shape >> 40) as usize
}

fn word_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn half_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Reads fixed part and options without checking them.
fn parse_head(bytes: &[u8]) -> Option<Head> {
    let shape = word_at(bytes, 8)?;
    let flags = (shape >> 8 & 0x7FF) as u16;
    let kind = Kind::from_bits(shape >> 19 & 0xF)?;
    if flags & !flag::ALL != 0 {
        return None;
    }
    let mut options = Options::default();
    let mut at = HEAD_LEN;
    let mut next = |wanted: u16| -> Option<Option<u64>> {
        if flags & wanted == 0 {
            return Some(None);
        }
        at += 8;
        Some(Some(word_at(bytes, at - 8)?))
    };
    options.previous = next(flag::BATCH)?.unwrap_or(0);
    options.expires_ms = next(flag::EXPIRES)?;
    options.space = next(flag::SPACE)?.unwrap_or(0) as u32;
    options.zstd = next(flag::ZSTD)?.map(|word| (word as u32, (word >> 32) as u32));
    if let Some(id) = next(flag::APART)? {
        let len = next(flag::APART)??;
        // Longer than any file: such a record is none.
        if len >> 48 != 0 {
            return None;
        }
        options.apart = Some(Apart {
            id,
            len,
            crc: next(flag::APART)?? as u32,
        });
    }
    options.sliding_ms = next(flag::SLIDING)?;
    let cost = next(flag::COST)?.map(f64::from_bits);
    options.cost_s = cost.filter(|cost| cost.is_finite() && *cost >= 0.0);
    if let Some(word) = next(flag::TAGS)? {
        options.tag_seq = word & ((1 << 48) - 1);
        options.tag_count = (word >> 48) as u16;
        at += usize::from(options.tag_count).div_ceil(2) * 8;
    }
    Some(Head {
        kind,
        value_kind: shape as u8,
        flags,
        key_len: key_len(shape),
        value_len: value_len(shape),
        seq: word_at(bytes, 16)? & ((1 << 48) - 1),
        order: word_at(bytes, 20)? >> 16,
        stored_s: half_at(bytes, 28)?,
        options,
        key_at: at,
    })
}

/// Fixed part and options of a record that was verified before.
#[inline]
pub(crate) fn verified_head(bytes: &[u8]) -> Option<Head> {
    parse_head(bytes)
}

/// Fixed part and options of the bytes at `at`, verified by their own checksum.
pub(crate) fn decode_head(bytes: &[u8], seed: Seed, at: u64) -> Result<Head, Fault> {
    let head = parse_head(bytes).ok_or(Fault::Head)?;
    let covered = bytes.get(8..head.key_at).ok_or(Fault::Short)?;
    if half_at(bytes, 4) != Some(seed.crc(at + 4, covered)) {
        return Err(Fault::Head);
    }
    Ok(head)
}

/// The tag ids of a record whose options, at least, are in `bytes`.
pub(crate) fn tags_of<'b>(head: &Head, bytes: &'b [u8]) -> impl Iterator<Item = u32> + 'b {
    let count = usize::from(head.options.tag_count);
    let start = head.key_at - count.div_ceil(2) * 8;
    (0..count).filter_map(move |n| half_at(bytes, start + n * 4))
}

/// A verified record: its head, and its bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<'a> {
    pub(crate) head: Head,
    bytes: &'a [u8],
}

impl<'a> Record<'a> {
    /// Verifies the record that begins `bytes`, which stand at `at`.
    #[inline]
    pub(crate) fn decode(bytes: &'a [u8], seed: Seed, at: u64) -> Result<Self, Fault> {
        let head = parse_head(bytes).ok_or(Fault::Head)?;
        let end = head.key_at + head.key_len + head.value_len;
        let covered = bytes.get(4..end).ok_or(Fault::Short)?;
        if half_at(bytes, 0) != Some(seed.crc(at, covered)) {
            return Err(if decode_head(bytes, seed, at).is_ok() {
                Fault::Body
            } else {
                Fault::Head
            });
        }
        Ok(Record {
            head,
            bytes: &bytes[..end],
        })
    }

    /// The key, or the names of what goes.
    pub(crate) fn key(&self) -> &'a [u8] {
        &self.bytes[self.head.key_at..][..self.head.key_len]
    }

    pub(crate) fn value(&self) -> &'a [u8] {
        &self.bytes[self.value_at()..]
    }

    pub(crate) fn value_at(&self) -> usize {
        self.head.key_at + self.head.key_len
    }

    /// The ids of its tags, in the order they were given.
    #[cfg(test)]
    pub(crate) fn tags(&self) -> Vec<u32> {
        tags_of(&self.head, self.bytes).collect()
    }

    /// The (hash, seq) pairs of a kill list.
    pub(crate) fn kills(&self) -> impl Iterator<Item = (u64, u64)> + 'a {
        let value = match self.head.kind {
            Kind::Drop => self.value().get(24..).unwrap_or(&[]),
            _ => self.value(),
        };
        value
            .chunks_exact(16)
            .map(|pair| (word_at(pair, 0).unwrap_or(0), word_at(pair, 8).unwrap_or(0)))
    }

    /// The segment a drop is about, and which of its bytes.
    pub(crate) fn dropped(&self) -> Option<(u64, std::ops::Range<u64>)> {
        let word = |n: usize| word_at(self.value(), n * 8);
        Some((word(0)?, word(1)?..word(2)?))
    }

    /// The durable sequence a mark names.
    pub(crate) fn durable_seq(&self) -> u64 {
        word_at(self.value(), 0).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(out: &mut Vec<u8>, seed: Seed, at: u64) {
        let draft = Draft {
            kind: Kind::Set,
            value_kind: 1,
            space: 3,
            key: b"key",
            value: b"a value",
            expires_ms: Some(77),
            zstd: Some((9, 0)),
            apart: Some(Apart {
                id: 5,
                len: 6,
                crc: 7,
            }),
            sliding_ms: Some(9),
            cost_s: Some(1.5),
            is_item: true,
            tag_seq: 11,
            tags: &[1, 2, 3],
            stored_s: 8,
        };
        let standing = Standing {
            seq: 12,
            order: 11,
            batch: Some((0x40_0000_0000, true)),
            untags: true,
        };
        draft.encode(seed, at, standing, out);
        assert_eq!(out.len(), draft.len(true));
    }

    #[test]
    fn a_record_comes_back_as_it_was_written() {
        let seed = Seed::of_segment(&[7; 16], 1);
        let mut bytes = Vec::new();
        sample(&mut bytes, seed, 64);
        let record = Record::decode(&bytes, seed, 64).expect("whole");
        assert_eq!(
            (record.key(), record.value()),
            (&b"key"[..], &b"a value"[..])
        );
        assert_eq!(record.tags(), [1, 2, 3]);
        let head = record.head;
        assert_eq!(
            (head.seq, head.order, head.stored_s, head.value_kind),
            (12, 11, 8, 1)
        );
        assert_eq!(
            head.options.apart,
            Some(Apart {
                id: 5,
                len: 6,
                crc: 7
            })
        );
        assert_eq!(
            (
                head.options.expires_ms,
                head.options.space,
                head.options.zstd
            ),
            (Some(77), 3, Some((9, 0)))
        );
        assert_eq!(head.len(), bytes.len());
        assert_eq!(decode_head(&bytes, seed, 64), Ok(head));
    }

    #[test]
    fn any_flipped_bit_every_cut_and_another_place_are_noticed() {
        let seed = Seed::of_segment(&[7; 16], 1);
        let mut whole = Vec::new();
        sample(&mut whole, seed, 64);
        let end = HEAD_LEN + 8 * 12 + 3 + 7;
        for bit in 0..end * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Record::decode(&flipped, seed, 64).is_err(), "bit {bit}");
        }
        for cut in 0..end {
            assert!(
                Record::decode(&whole[..cut], seed, 64).is_err(),
                "cut at {cut}"
            );
        }
        assert!(Record::decode(&whole, seed, 72).is_err());
        assert!(Record::decode(&whole, Seed::of_segment(&[7; 16], 2), 64).is_err());
        assert!(Record::decode(&whole, Seed::of_segment(&[8; 16], 1), 64).is_err());
        assert_eq!(Record::decode(&[0; 256], seed, 64).err(), Some(Fault::Head));
    }
}
