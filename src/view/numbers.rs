//! Counting: numbers as a kind of value.

use crate::engine::batch::Payload;
use crate::engine::store::MAIN_SPACE;
use crate::error::{Error, Result};
use crate::view::prepare;
use crate::view::state::State;
use crate::view::value::{Number, ValueKind};

/// Adds `delta` to the number under `key`; expiry and tags are kept, the time of storing is renewed.
pub(crate) fn add(state: &mut State, key: &[u8], delta: Number, default: Number) -> Result<Number> {
    prepare::check_key(key)?;
    let stored_s = state.store.second(state.now_ms);
    let (sum, payload) = match state.live(MAIN_SPACE, key)? {
        None => {
            let blank = Payload {
                value_kind: 0,
                value: Vec::new(),
                expires_ms: None,
                zstd: None,
                apart: None,
                tag_seq: 0,
                tags: Vec::new(),
                stored_s,
            };
            (sum(default, delta)?, blank)
        }
        Some(payload) => {
            let kind = ValueKind::from_byte(payload.value_kind);
            let number = Number::read(kind, &payload.value)
                .filter(|_| payload.zstd.is_none() && payload.apart.is_none());
            let Some(number) = number else {
                return Err(Error::NotANumber {
                    found: name_of(kind),
                });
            };
            (sum(number, delta)?, payload)
        }
    };
    let payload = Payload {
        value_kind: sum.kind().to_byte()?,
        value: sum.to_bytes().to_vec(),
        stored_s,
        ..payload
    };
    state.put(MAIN_SPACE, key, payload)?;
    Ok(sum)
}

fn sum(a: Number, b: Number) -> Result<Number> {
    let float = |number| match number {
        Number::Int(value) => value as f64,
        Number::Float(value) => value,
    };
    match (a, b) {
        (Number::Int(value), Number::Int(delta)) => value
            .checked_add(delta)
            .map(Number::Int)
            .ok_or(Error::Overflow { value, delta }),
        (a, b) => Ok(Number::Float(float(a) + float(b))),
    }
}

/// The number whose addition is the subtraction of `number`.
pub(crate) fn negated(number: Number) -> Result<Number> {
    match number {
        Number::Int(delta) => delta
            .checked_neg()
            .map(Number::Int)
            .ok_or(Error::Overflow { value: 0, delta }),
        Number::Float(delta) => Ok(Number::Float(-delta)),
    }
}

fn name_of(kind: ValueKind) -> String {
    match kind {
        ValueKind::Bytes => "bytes".into(),
        ValueKind::Text => "text".into(),
        ValueKind::Integer | ValueKind::Float => "a damaged number".into(),
        ValueKind::Typed(id) => format!("a value of codec {id}"),
    }
}
