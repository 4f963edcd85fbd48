//! All that a batch across shards changes, as bytes: what the first shard keeps until each shard has its
//! part.
//!
//! A part: shard u16, changes u32, then each change: space u32, flags u8, key (u32 and bytes) and, when
//! it is set: kind u8, value (u32 and bytes), what the flags say in their order, tags' sequence u64, tags
//! (u16 and u32 each), stored second u32. Owns these bytes; their checksums are the records' they stand in.

use std::collections::HashMap;

use crate::engine::change::{Change, Payload};
use crate::engine::store::MAIN_SPACE;
use crate::format::record::Apart;

mod flag {
    pub(super) const SET: u8 = 1;
    pub(super) const FRESH: u8 = 2;
    pub(super) const EXPIRES: u8 = 4;
    pub(super) const ZSTD: u8 = 8;
    pub(super) const APART: u8 = 16;
    pub(super) const SLIDES: u8 = 32;
    pub(super) const COSTS: u8 = 64;
    pub(super) const ITEM: u8 = 128;
}

/// What one shard has to do.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) shard: u16,
    /// Their hashes are 0: each store has its own.
    pub(crate) changes: Vec<Change>,
    by_key: HashMap<Vec<u8>, usize>,
}

impl Part {
    /// What becomes of one of the caller's keys; `None`: nothing.
    pub(crate) fn change_of(&self, key: &[u8]) -> Option<&Change> {
        self.by_key.get(key).map(|&index| &self.changes[index])
    }
}

/// A batch across shards.
#[derive(Debug)]
pub(crate) struct Intent {
    pub(crate) id: u64,
    /// Its bytes.
    pub(crate) len: usize,
    pub(crate) parts: Vec<Part>,
}

impl Intent {
    pub(crate) fn part(&self, shard: u16) -> Option<&Part> {
        self.parts.iter().find(|part| part.shard == shard)
    }

    /// `None`: the bytes are not an intent's.
    pub(crate) fn decode(id: u64, bytes: &[u8]) -> Option<Intent> {
        let mut from = Bytes(bytes);
        let mut parts = Vec::new();
        while !from.0.is_empty() {
            let (shard, count) = (from.half()?, from.word()?);
            let mut changes = Vec::new();
            let mut by_key = HashMap::new();
            for _ in 0..count {
                let change = read_change(&mut from)?;
                if change.space == MAIN_SPACE {
                    by_key.insert(change.key.clone(), changes.len());
                }
                changes.push(change);
            }
            parts.push(Part {
                shard,
                changes,
                by_key,
            });
        }
        Some(Intent {
            id,
            len: bytes.len(),
            parts,
        })
    }
}

/// Appends the part of one shard.
pub(crate) fn encode_part(shard: u16, changes: &[Change], out: &mut Vec<u8>) {
    let changes = changes.iter().filter(|change| !change.is_void);
    out.extend_from_slice(&shard.to_le_bytes());
    out.extend_from_slice(&(changes.clone().count() as u32).to_le_bytes());
    for change in changes {
        write_change(change, out);
    }
}

fn write_change(change: &Change, out: &mut Vec<u8>) {
    let mut flags = 0;
    let mut put = |on: bool, bit: u8| flags |= if on { bit } else { 0 };
    put(change.fresh, flag::FRESH);
    if let Some(set) = &change.set {
        put(true, flag::SET);
        put(set.expires_ms.is_some(), flag::EXPIRES);
        put(set.zstd.is_some(), flag::ZSTD);
        put(set.apart.is_some(), flag::APART);
        put(set.sliding_ms.is_some(), flag::SLIDES);
        put(set.cost_s.is_some(), flag::COSTS);
        put(set.is_item, flag::ITEM);
    }
    out.extend_from_slice(&change.space.to_le_bytes());
    out.push(flags);
    write_bytes(&change.key, out);
    let Some(set) = &change.set else { return };
    out.push(set.value_kind);
    write_bytes(&set.value, out);
    if let Some(expires_ms) = set.expires_ms {
        out.extend_from_slice(&expires_ms.to_le_bytes());
    }
    if let Some((plain_len, dictionary)) = set.zstd {
        out.extend_from_slice(&plain_len.to_le_bytes());
        out.extend_from_slice(&dictionary.to_le_bytes());
    }
    if let Some(apart) = set.apart {
        out.extend_from_slice(&apart.id.to_le_bytes());
        out.extend_from_slice(&apart.len.to_le_bytes());
        out.extend_from_slice(&apart.crc.to_le_bytes());
    }
    if let Some(sliding_ms) = set.sliding_ms {
        out.extend_from_slice(&sliding_ms.to_le_bytes());
    }
    if let Some(cost_s) = set.cost_s {
        out.extend_from_slice(&cost_s.to_bits().to_le_bytes());
    }
    out.extend_from_slice(&set.tag_seq.to_le_bytes());
    out.extend_from_slice(&(set.tags.len() as u16).to_le_bytes());
    for tag in &set.tags {
        out.extend_from_slice(&tag.to_le_bytes());
    }
    out.extend_from_slice(&set.stored_s.to_le_bytes());
}

fn write_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn read_change(from: &mut Bytes<'_>) -> Option<Change> {
    let space = from.word()?;
    let flags = from.byte()?;
    let has = |bit: u8| flags & bit != 0;
    let key = from.bytes()?.to_vec();
    let set = match has(flag::SET) {
        false => None,
        true => {
            let (value_kind, value) = (from.byte()?, from.bytes()?.to_vec());
            let expires_ms = if has(flag::EXPIRES) {
                Some(from.long()?)
            } else {
                None
            };
            let zstd = match has(flag::ZSTD) {
                true => Some((from.word()?, from.word()?)),
                false => None,
            };
            let apart = match has(flag::APART) {
                true => Some(Apart {
                    id: from.long()?,
                    len: from.long()?,
                    crc: from.word()?,
                }),
                false => None,
            };
            let sliding_ms = if has(flag::SLIDES) {
                Some(from.long()?)
            } else {
                None
            };
            let cost_s = match has(flag::COSTS) {
                true => Some(f64::from_bits(from.long()?)),
                false => None,
            };
            let tag_seq = from.long()?;
            let count = from.half()?;
            let tags = (0..count).map(|_| from.word()).collect::<Option<_>>()?;
            Some(Payload {
                value_kind,
                value,
                expires_ms,
                zstd,
                apart,
                sliding_ms,
                cost_s,
                is_item: has(flag::ITEM),
                tag_seq,
                tags,
                stored_s: from.word()?,
            })
        }
    };
    Some(Change {
        space,
        key,
        hash: 0,
        set,
        fresh: has(flag::FRESH),
        is_void: false,
    })
}

/// Bytes being read from their front.
pub(crate) struct Bytes<'a>(pub(crate) &'a [u8]);

impl<'a> Bytes<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take().map(|[byte]| byte)
    }

    pub(crate) fn half(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }

    fn word(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    pub(crate) fn long(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.word()? as usize;
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<Change> {
        let full = Payload {
            value_kind: 7,
            value: b"value".to_vec(),
            expires_ms: Some(12),
            zstd: Some((9, 0)),
            apart: Some(Apart {
                id: 3,
                len: 4,
                crc: 5,
            }),
            sliding_ms: Some(6),
            cost_s: Some(1.5),
            is_item: true,
            tag_seq: 8,
            tags: vec![1, 2],
            stored_s: 10,
        };
        let plain = Payload {
            value_kind: 0,
            value: Vec::new(),
            expires_ms: None,
            zstd: None,
            apart: None,
            sliding_ms: None,
            cost_s: None,
            is_item: false,
            tag_seq: 0,
            tags: Vec::new(),
            stored_s: 0,
        };
        let change = |space, key: &[u8], set, fresh| Change {
            space,
            key: key.to_vec(),
            hash: 0,
            set,
            fresh,
            is_void: false,
        };
        vec![
            change(0, b"a", Some(full), true),
            change(1, b"b", Some(plain), false),
            change(0, b"", None, false),
        ]
    }

    #[test]
    fn an_intent_comes_back_and_no_cut_is_taken_for_one() {
        let mut bytes = Vec::new();
        encode_part(3, &sample(), &mut bytes);
        let first_len = bytes.len();
        encode_part(9, &sample()[1..], &mut bytes);
        let intent = Intent::decode(5, &bytes).expect("whole");
        assert_eq!(intent.parts.len(), 2);
        let part = intent.part(3).expect("a part");
        for (told, change) in part.changes.iter().zip(sample()) {
            assert_eq!(
                (told.space, &told.key, &told.set, told.fresh),
                (change.space, &change.key, &change.set, change.fresh)
            );
        }
        assert!(part.change_of(b"a").is_some() && part.change_of(b"b").is_none());
        for len in (1..bytes.len()).filter(|&len| len != first_len) {
            assert!(Intent::decode(5, &bytes[..len]).is_none(), "{len} bytes");
        }
    }
}
