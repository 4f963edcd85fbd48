//! What comes out of a store: values, their kinds, and what is known of an entry.
//!
//! Owns the bytes it shows. Never reaches back into a mapping.

use std::time::SystemTime;

use serde::Serialize;

use crate::error::{Error, Result};

/// The highest codec id a value's kind can carry.
pub const CODEC_ID_MAX: u8 = 251;

/// What a value is, as its record says it; another language's binding tells them apart by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[non_exhaustive]
pub enum ValueKind {
    /// Bytes. The default.
    Bytes,
    /// UTF-8 text, as its writer says.
    Text,
    /// A 64-bit integer; shown as decimal text.
    Integer,
    /// A 64-bit float; shown as decimal text.
    Float,
    /// Written by the codec with this id, at most [`CODEC_ID_MAX`].
    Typed(u8),
}

impl ValueKind {
    pub(crate) fn to_byte(self) -> Result<u8> {
        match self {
            ValueKind::Bytes => Ok(0),
            ValueKind::Text => Ok(1),
            ValueKind::Integer => Ok(2),
            ValueKind::Float => Ok(3),
            ValueKind::Typed(id) if id <= CODEC_ID_MAX => Ok(id + 4),
            ValueKind::Typed(id) => Err(Error::Codec {
                what: format!("codec id {id} is above {CODEC_ID_MAX}"),
            }),
        }
    }

    pub(crate) fn from_byte(byte: u8) -> Self {
        match byte {
            0 => ValueKind::Bytes,
            1 => ValueKind::Text,
            2 => ValueKind::Integer,
            3 => ValueKind::Float,
            id => ValueKind::Typed(id - 4),
        }
    }
}

/// A number as [`Cache::incr`](crate::Cache::incr) counts it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub enum Number {
    /// A 64-bit integer.
    Int(i64),
    /// A 64-bit float.
    Float(f64),
}

impl From<i64> for Number {
    fn from(value: i64) -> Self {
        Number::Int(value)
    }
}

impl From<i32> for Number {
    fn from(value: i32) -> Self {
        Number::Int(value.into())
    }
}

impl From<f64> for Number {
    fn from(value: f64) -> Self {
        Number::Float(value)
    }
}

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Number::Int(value) => write!(f, "{value}"),
            // The shortest text that reads back as the same float, with a point in it.
            Number::Float(value) => write!(f, "{value:?}"),
        }
    }
}

impl Number {
    pub(crate) fn kind(self) -> ValueKind {
        match self {
            Number::Int(_) => ValueKind::Integer,
            Number::Float(_) => ValueKind::Float,
        }
    }

    pub(crate) fn to_bytes(self) -> [u8; 8] {
        match self {
            Number::Int(value) => value.to_le_bytes(),
            Number::Float(value) => value.to_le_bytes(),
        }
    }

    /// The number a record holds; `None`: it holds none.
    pub(crate) fn read(kind: ValueKind, bytes: &[u8]) -> Option<Number> {
        let bytes: [u8; 8] = bytes.try_into().ok()?;
        match kind {
            ValueKind::Integer => Some(Number::Int(i64::from_le_bytes(bytes))),
            ValueKind::Float => Some(Number::Float(f64::from_le_bytes(bytes))),
            _ => None,
        }
    }
}

/// A value: bytes of the caller's own, verified when they were read.
#[derive(Clone)]
pub struct Value {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    kind: ValueKind,
}

impl Value {
    #[inline]
    pub(crate) fn within(bytes: Vec<u8>, start: usize, end: usize, kind: ValueKind) -> Self {
        debug_assert!(start <= end && end <= bytes.len());
        Value {
            bytes,
            start,
            end,
            kind,
        }
    }

    pub(crate) fn whole(bytes: Vec<u8>, kind: ValueKind) -> Self {
        let end = bytes.len();
        Value {
            bytes,
            start: 0,
            end,
            kind,
        }
    }

    /// What the value is.
    #[must_use]
    pub fn kind(&self) -> ValueKind {
        self.kind
    }

    /// The bytes, without a copy where the value alone is held.
    #[must_use]
    pub fn into_vec(mut self) -> Vec<u8> {
        self.bytes.truncate(self.end);
        self.bytes.drain(..self.start);
        self.bytes
    }
}

impl std::ops::Deref for Value {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }
}

impl AsRef<[u8]> for Value {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<Value> for Vec<u8> {
    fn from(value: Value) -> Self {
        value.into_vec()
    }
}

impl std::fmt::Debug for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "b\"{}\"", self.escape_ascii())
    }
}

impl Eq for Value {}

impl PartialEq for Value {
    fn eq(&self, other: &Value) -> bool {
        **self == **other
    }
}

macro_rules! equal_to {
    ($($other:ty),*) => {$(
        impl PartialEq<$other> for Value {
            fn eq(&self, other: &$other) -> bool {
                let other: &[u8] = other.as_ref();
                **self == *other
            }
        }
    )*};
}
equal_to!([u8], &[u8], str, &str, String, Vec<u8>);

impl<const N: usize> PartialEq<[u8; N]> for Value {
    fn eq(&self, other: &[u8; N]) -> bool {
        **self == *other
    }
}

impl<const N: usize> PartialEq<&[u8; N]> for Value {
    fn eq(&self, other: &&[u8; N]) -> bool {
        **self == **other
    }
}

/// A value and all that is known of its entry.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Entry {
    /// The value.
    pub value: Value,
    /// When it expires; `None`: never.
    pub expires_at: Option<SystemTime>,
    /// Its tags, in the order they were given.
    pub tags: Vec<Vec<u8>>,
    /// When this version was stored, to the second.
    pub stored_at: SystemTime,
    /// When it was last read, to the second; when it was stored, if it has not been read since.
    pub accessed_at: SystemTime,
    /// Bytes of the value.
    pub size_bytes: u64,
    /// What the value is.
    pub kind: ValueKind,
}

/// All that is known of an entry but its value.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Description {
    /// When it expires; `None`: never.
    pub expires_at: Option<SystemTime>,
    /// Its tags, in the order they were given.
    pub tags: Vec<Vec<u8>>,
    /// When this version was stored, to the second.
    pub stored_at: SystemTime,
    /// When it was last read, to the second; when it was stored, if it has not been read since.
    pub accessed_at: SystemTime,
    /// Bytes of the value.
    pub size_bytes: u64,
    /// What the value is.
    pub kind: ValueKind,
}
