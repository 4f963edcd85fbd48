//! A packed file: entries of a store in one portable file.
//!
//! | at | len | field    |                                                                     |
//! |---:|----:|----------|---------------------------------------------------------------------|
//! |  0 |   8 | magic    | `larder.p`                                                          |
//! |  8 |   4 | version  | 1; these 20 bytes stand so in every version                         |
//! | 12 |   4 | features | bits a reader must know; 0                                          |
//! | 16 |   4 | head_crc | CRC-32 of the 16 bytes before                                       |
//! | 20 |     | stream   | one zstd stream with a window of at most 8 MiB                      |
//! | -4 |   4 | file_crc | CRC-32 of every byte before: zstd does not look at every bit of its own |
//!
//! The stream, uncompressed, is a frame for each entry, in insertion order, and one for the end:
//!
//! | at | len | an entry   |                                                                   |
//! |---:|----:|------------|-------------------------------------------------------------------|
//! |  0 |   4 | frame_crc  | CRC-32 of bytes 4..40                                             |
//! |  4 |   1 | frame      | 1                                                                 |
//! |  5 |   1 | value_kind | 0 bytes, 1 text, 2 integer, 3 float, from 4 on a codec's id + 4   |
//! |  6 |   2 | flags      | 1: it expires; 2: its store kept it compressed; others 0          |
//! |  8 |   4 | key_len    | at most 64 KiB                                                    |
//! | 12 |   4 | tags_len   | bytes of all tags, each with its length before it                 |
//! | 16 |   8 | value_len  | 8 for a number                                                    |
//! | 24 |   8 | expires_ms | since 1970; 0 when it does not expire                             |
//! | 32 |   8 | stored_ms  | since 1970                                                        |
//! | 40 |     | key        |                                                                   |
//! |    |     | tags       | at most 1,000, in their order, each: length u16, bytes            |
//! |    |     | value      | plain; a number as 64 bits, not as text                           |
//! |    |   4 | body_crc   | CRC-32 of the frame up to here, frame_crc included                |
//!
//! | at | len | the end     |                                                                  |
//! |---:|----:|-------------|------------------------------------------------------------------|
//! |  0 |   4 | frame_crc   | CRC-32 of bytes 4..40                                            |
//! |  4 |   1 | frame       | 2                                                                |
//! |  5 |  11 |             | 0                                                                |
//! | 16 |   8 | entries     | how many                                                         |
//! | 24 |   8 | value_bytes | the sum of all value_len                                         |
//! | 32 |   4 | stream_crc  | CRC-32 of every uncompressed byte before this frame              |
//! | 36 |   4 |             | 0                                                                |
//!
//! Numbers are little-endian. An entry has one encoding, and nothing follows the end. Owns these
//! bytes; never reads a file.

use crate::limits::{KEY_LEN_MAX, TAG_LEN_MAX, TAGS_MAX};

const MAGIC: [u8; 8] = *b"larder.p";
const VERSION: u32 = 1;
/// Feature bits this version knows.
const FEATURES: u32 = 0;

/// Bytes before the stream.
pub(crate) const HEAD_LEN: usize = 8 + 4 + 4 + 4;
/// Bytes of a checksum, after the stream or after an entry's body.
pub(crate) const CRC_LEN: usize = 4;
/// Bytes of a frame before an entry's key.
pub(crate) const FRAME_LEN: usize = 4 + 1 + 1 + 2 + 4 + 4 + 8 + 8 + 8;
const _: () = assert!(
    HEAD_LEN == 20 && FRAME_LEN == 40,
    "other lengths are another VERSION"
);
/// The largest window a reader's zstd takes, as a power of 2: 8 MiB.
pub(crate) const WINDOW_LOG_MAX: u32 = 23;
/// The window a writer's zstd uses, as a power of 2: 2 MiB, what its level 3 uses anyway.
pub(crate) const WINDOW_LOG: u32 = 21;
/// The writer's zstd level: zstd's own default.
pub(crate) const LEVEL: i32 = 3;

const TAGS_LEN_MAX: usize = TAGS_MAX * (2 + TAG_LEN_MAX);

const FRAME_ENTRY: u8 = 1;
const FRAME_END: u8 = 2;
const FLAG_EXPIRES: u16 = 1;
const FLAG_COMPRESSED: u16 = 2;
const KIND_INTEGER: u8 = 2;
const KIND_FLOAT: u8 = 3;

/// Why bytes are not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// They are not what was written.
    Damaged(String),
    /// They were written by a version that knows more.
    Newer(String),
    /// They are above a limit.
    TooLarge {
        what: &'static str,
        bytes: u64,
        max_bytes: u64,
    },
}

fn damaged(what: impl Into<String>) -> Fault {
    Fault::Damaged(what.into())
}

/// The bytes before the stream.
pub(crate) fn encode_head() -> [u8; HEAD_LEN] {
    let mut head = [0; HEAD_LEN];
    head[..8].copy_from_slice(&MAGIC);
    head[8..12].copy_from_slice(&VERSION.to_le_bytes());
    head[12..16].copy_from_slice(&FEATURES.to_le_bytes());
    let crc = crc32fast::hash(&head[..16]);
    head[16..].copy_from_slice(&crc.to_le_bytes());
    head
}

/// Whether a file that begins with these bytes, fewer when it is short, can be read.
pub(crate) fn check_head(head: &[u8]) -> Result<(), Fault> {
    let magic = &head[..head.len().min(8)];
    if !MAGIC.starts_with(magic) {
        return Err(damaged("it does not begin as a packed file does"));
    }
    if head.len() < HEAD_LEN {
        return Err(damaged("it ends inside its head"));
    }
    if crc32fast::hash(&head[..16]) != u32_at(head, 16) {
        return Err(damaged("its head is not what was written"));
    }
    match u32_at(head, 8) {
        VERSION => {}
        0 => return Err(damaged("it says that it is of version 0")),
        newer => {
            return Err(Fault::Newer(format!(
                "it is a packed file of version {newer}, and this larder knows version {VERSION}: \
                 a newer larder unpacks it"
            )));
        }
    }
    let unknown = u32_at(head, 12) & !FEATURES;
    if unknown != 0 {
        let bits: Vec<String> = (0..32)
            .filter(|bit| unknown >> bit & 1 == 1)
            .map(|bit| bit.to_string())
            .collect();
        return Err(Fault::Newer(format!(
            "it uses what feature bit {} stands for, which this larder does not know: \
             a newer one unpacks it",
            bits.join(", ")
        )));
    }
    Ok(())
}

/// What stands before an entry's key, tags and value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EntryFrame {
    pub(crate) value_kind: u8,
    /// Its store kept it compressed.
    pub(crate) is_compressed: bool,
    pub(crate) key_len: usize,
    pub(crate) tags_len: usize,
    pub(crate) value_len: u64,
    pub(crate) expires_ms: Option<u64>,
    pub(crate) stored_ms: u64,
}

impl EntryFrame {
    pub(crate) fn is_number(&self) -> bool {
        is_number(self.value_kind)
    }

    /// Live while the expiry is after now, as in a store.
    pub(crate) fn is_expired(&self, now_ms: u64) -> bool {
        self.expires_ms.is_some_and(|expires| expires <= now_ms)
    }
}

/// Whether a value of this kind is 64 bits.
pub(crate) fn is_number(value_kind: u8) -> bool {
    matches!(value_kind, KIND_INTEGER | KIND_FLOAT)
}

/// What the last frame says of all before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EndFrame {
    pub(crate) entries: u64,
    pub(crate) value_bytes: u64,
    pub(crate) stream_crc: u32,
}

/// The fixed part of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    Entry(EntryFrame),
    End(EndFrame),
}

impl Frame {
    pub(crate) fn encode(&self) -> [u8; FRAME_LEN] {
        let mut out = [0; FRAME_LEN];
        match self {
            Frame::Entry(entry) => {
                let expires = if entry.expires_ms.is_some() {
                    FLAG_EXPIRES
                } else {
                    0
                };
                let compressed = if entry.is_compressed {
                    FLAG_COMPRESSED
                } else {
                    0
                };
                out[4] = FRAME_ENTRY;
                out[5] = entry.value_kind;
                out[6..8].copy_from_slice(&(expires | compressed).to_le_bytes());
                out[8..12].copy_from_slice(&(entry.key_len as u32).to_le_bytes());
                out[12..16].copy_from_slice(&(entry.tags_len as u32).to_le_bytes());
                out[16..24].copy_from_slice(&entry.value_len.to_le_bytes());
                out[24..32].copy_from_slice(&entry.expires_ms.unwrap_or(0).to_le_bytes());
                out[32..40].copy_from_slice(&entry.stored_ms.to_le_bytes());
            }
            Frame::End(end) => {
                out[4] = FRAME_END;
                out[16..24].copy_from_slice(&end.entries.to_le_bytes());
                out[24..32].copy_from_slice(&end.value_bytes.to_le_bytes());
                out[32..36].copy_from_slice(&end.stream_crc.to_le_bytes());
            }
        }
        let crc = crc32fast::hash(&out[4..]);
        out[..4].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8; FRAME_LEN]) -> Result<Frame, Fault> {
        if crc32fast::hash(&bytes[4..]) != u32_at(bytes, 0) {
            return Err(damaged("a frame is not what was written"));
        }
        match bytes[4] {
            FRAME_ENTRY => decode_entry(bytes).map(Frame::Entry),
            FRAME_END => decode_end(bytes).map(Frame::End),
            other => Err(damaged(format!("there is no frame {other}"))),
        }
    }
}

fn decode_entry(bytes: &[u8; FRAME_LEN]) -> Result<EntryFrame, Fault> {
    let flags = u16_at(bytes, 6);
    if flags & !(FLAG_EXPIRES | FLAG_COMPRESSED) != 0 {
        return Err(damaged(format!("there are no flags {flags:#06x}")));
    }
    let has_expiry = flags & FLAG_EXPIRES != 0;
    let expires_ms = u64_at(bytes, 24);
    if !has_expiry && expires_ms != 0 {
        return Err(damaged("an entry that does not expire has an expiry"));
    }
    let entry = EntryFrame {
        value_kind: bytes[5],
        is_compressed: flags & FLAG_COMPRESSED != 0,
        key_len: u32_at(bytes, 8) as usize,
        tags_len: u32_at(bytes, 12) as usize,
        value_len: u64_at(bytes, 16),
        expires_ms: has_expiry.then_some(expires_ms),
        stored_ms: u64_at(bytes, 32),
    };
    within("a packed key (bytes)", entry.key_len, KEY_LEN_MAX)?;
    within(
        "all tags of a packed entry (bytes)",
        entry.tags_len,
        TAGS_LEN_MAX,
    )?;
    if entry.is_number() && entry.value_len != 8 {
        let len = entry.value_len;
        return Err(damaged(format!(
            "a number has 8 bytes, and this one has {len}"
        )));
    }
    Ok(entry)
}

fn decode_end(bytes: &[u8; FRAME_LEN]) -> Result<EndFrame, Fault> {
    if bytes[5..16]
        .iter()
        .chain(&bytes[36..])
        .any(|&byte| byte != 0)
    {
        return Err(damaged("the end says more than an end does"));
    }
    Ok(EndFrame {
        entries: u64_at(bytes, 16),
        value_bytes: u64_at(bytes, 24),
        stream_crc: u32_at(bytes, 32),
    })
}

/// Tags as they stand after a key.
pub(crate) fn encode_tags(tags: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::with_capacity(tags.iter().map(|tag| 2 + tag.len()).sum());
    for tag in tags {
        out.extend_from_slice(&(tag.len() as u16).to_le_bytes());
        out.extend_from_slice(tag);
    }
    out
}

pub(crate) fn decode_tags(bytes: &[u8]) -> Result<Vec<Vec<u8>>, Fault> {
    let mut tags = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (len, after) = rest
            .split_first_chunk::<2>()
            .ok_or_else(|| damaged("an entry's tags end inside a length"))?;
        let len = usize::from(u16::from_le_bytes(*len));
        within("a packed tag (bytes)", len, TAG_LEN_MAX)?;
        let (tag, after) = after
            .split_at_checked(len)
            .ok_or_else(|| damaged("an entry's tags end inside a tag"))?;
        tags.push(tag.to_vec());
        within("the number of tags of a packed entry", tags.len(), TAGS_MAX)?;
        rest = after;
    }
    Ok(tags)
}

fn within(what: &'static str, len: usize, max: usize) -> Result<(), Fault> {
    if len <= max {
        return Ok(());
    }
    Err(Fault::TooLarge {
        what,
        bytes: len as u64,
        max_bytes: max as u64,
    })
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap_or_default())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap_or_default())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> EntryFrame {
        EntryFrame {
            value_kind: 7,
            is_compressed: true,
            key_len: KEY_LEN_MAX,
            tags_len: TAGS_LEN_MAX,
            value_len: u64::MAX,
            expires_ms: Some(u64::MAX),
            stored_ms: 1_700_000_000_000,
        }
    }

    fn frames() -> [Frame; 4] {
        let plain = EntryFrame {
            value_kind: 2,
            is_compressed: false,
            key_len: 0,
            tags_len: 0,
            value_len: 8,
            expires_ms: None,
            stored_ms: 0,
        };
        [
            Frame::Entry(sample()),
            Frame::Entry(plain),
            Frame::Entry(EntryFrame {
                expires_ms: Some(0),
                ..plain
            }),
            Frame::End(EndFrame {
                entries: 3,
                value_bytes: u64::MAX,
                stream_crc: 0xdead_beef,
            }),
        ]
    }

    /// The frame with its checksum made right again.
    fn sealed(mut bytes: [u8; FRAME_LEN]) -> [u8; FRAME_LEN] {
        let crc = crc32fast::hash(&bytes[4..]);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    #[test]
    fn every_frame_comes_back() {
        for frame in frames() {
            assert_eq!(Frame::decode(&frame.encode()), Ok(frame));
        }
    }

    #[test]
    fn any_flipped_bit_of_a_frame_is_noticed() {
        for frame in frames() {
            for bit in 0..FRAME_LEN * 8 {
                let mut flipped = frame.encode();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(Frame::decode(&flipped).is_err(), "{frame:?}, bit {bit}");
            }
        }
    }

    #[test]
    fn a_frame_has_one_encoding_even_with_a_right_checksum() {
        for frame in frames() {
            for bit in 32..FRAME_LEN * 8 {
                let mut flipped = frame.encode();
                flipped[bit / 8] ^= 1 << (bit % 8);
                let flipped = sealed(flipped);
                if let Ok(read) = Frame::decode(&flipped) {
                    assert_ne!(read, frame, "bit {bit}");
                    assert_eq!(read.encode(), flipped, "{read:?}, bit {bit}");
                }
            }
        }
    }

    #[test]
    fn lengths_above_the_limits_are_refused() {
        let too_long = EntryFrame {
            key_len: KEY_LEN_MAX + 1,
            ..sample()
        };
        let too_tagged = EntryFrame {
            tags_len: TAGS_LEN_MAX + 1,
            ..sample()
        };
        for entry in [too_long, too_tagged] {
            let refused = Frame::decode(&Frame::Entry(entry).encode());
            assert!(matches!(refused, Err(Fault::TooLarge { .. })), "{entry:?}");
        }
        let odd_number = EntryFrame {
            value_kind: 3,
            value_len: 9,
            ..sample()
        };
        let refused = Frame::decode(&Frame::Entry(odd_number).encode());
        assert!(matches!(refused, Err(Fault::Damaged(_))));
    }

    #[test]
    fn tags_come_back_and_every_cut_of_them_is_fewer_or_refused() {
        let tags = vec![b"run-7".to_vec(), Vec::new(), vec![b't'; TAG_LEN_MAX]];
        let bytes = encode_tags(&tags);
        assert_eq!(decode_tags(&bytes), Ok(tags.clone()));
        for cut in 0..bytes.len() {
            match decode_tags(&bytes[..cut]) {
                Ok(fewer) => assert!(tags.starts_with(&fewer) && fewer.len() < 3, "cut at {cut}"),
                Err(fault) => assert!(matches!(fault, Fault::Damaged(_)), "cut at {cut}"),
            }
        }
        let many = encode_tags(&vec![Vec::new(); TAGS_MAX + 1]);
        assert!(matches!(decode_tags(&many), Err(Fault::TooLarge { .. })));
        let long = encode_tags(&[vec![0; TAG_LEN_MAX + 1]]);
        assert!(matches!(decode_tags(&long), Err(Fault::TooLarge { .. })));
    }

    #[test]
    fn a_head_is_known_or_says_why_not() {
        let head = encode_head();
        assert_eq!(check_head(&head), Ok(()));
        for cut in 0..HEAD_LEN {
            assert!(
                matches!(check_head(&head[..cut]), Err(Fault::Damaged(_))),
                "cut at {cut}"
            );
        }
        for bit in 0..HEAD_LEN * 8 {
            let mut flipped = head;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(
                matches!(check_head(&flipped), Err(Fault::Damaged(_))),
                "bit {bit}"
            );
        }
        let with = |at: usize, word: u32| {
            let mut other = head;
            other[at..at + 4].copy_from_slice(&word.to_le_bytes());
            let crc = crc32fast::hash(&other[..16]);
            other[16..].copy_from_slice(&crc.to_le_bytes());
            check_head(&other)
        };
        assert!(matches!(with(8, 2), Err(Fault::Newer(what)) if what.contains("version 2")));
        assert!(matches!(with(8, 0), Err(Fault::Damaged(_))));
        assert!(matches!(with(12, 0b1010), Err(Fault::Newer(what)) if what.contains("bit 1, 3")));
    }
}
