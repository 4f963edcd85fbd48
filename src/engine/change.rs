//! One key's change, as a transaction gathers it and a batch writes it. Plain values.

use crate::format::record::{Apart, Draft, Kind};

/// One key's change in a batch.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) space: u32,
    pub(crate) key: Vec<u8>,
    pub(crate) hash: u64,
    /// `None`: the key is removed.
    pub(crate) set: Option<Payload>,
    /// It was removed on the way: its entry is a new one, at the end of the order.
    pub(crate) fresh: bool,
    /// Another change took its place.
    pub(crate) is_void: bool,
}

/// What a key is set to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Payload {
    pub(crate) value_kind: u8,
    /// As stored: compressed, or empty for a value in a file of its own.
    pub(crate) value: Vec<u8>,
    pub(crate) expires_ms: Option<u64>,
    pub(crate) zstd: Option<(u32, u32)>,
    pub(crate) apart: Option<Apart>,
    pub(crate) sliding_ms: Option<u64>,
    pub(crate) cost_s: Option<f64>,
    pub(crate) is_item: bool,
    pub(crate) tag_seq: u64,
    pub(crate) tags: Vec<u32>,
    pub(crate) stored_s: u32,
}

impl Change {
    pub(crate) fn draft(&self) -> Draft<'_> {
        let blank = Draft {
            kind: Kind::Delete,
            value_kind: 0,
            space: self.space,
            key: &self.key,
            value: &[],
            expires_ms: None,
            zstd: None,
            apart: None,
            sliding_ms: None,
            cost_s: None,
            is_item: false,
            tag_seq: 0,
            tags: &[],
            stored_s: 0,
        };
        match &self.set {
            None => blank,
            Some(payload) => Draft {
                kind: Kind::Set,
                value_kind: payload.value_kind,
                value: &payload.value,
                expires_ms: payload.expires_ms,
                zstd: payload.zstd,
                apart: payload.apart,
                sliding_ms: payload.sliding_ms,
                cost_s: payload.cost_s,
                is_item: payload.is_item,
                tag_seq: payload.tag_seq,
                tags: &payload.tags,
                stored_s: payload.stored_s,
                ..blank
            },
        }
    }
}
