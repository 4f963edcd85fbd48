//! Counting: numbers as a kind of value.

use crate::engine::change::Payload;
use crate::error::{Error, Result};
use crate::view::prepare;
use crate::view::state::State;
use crate::view::value::{Number, ValueKind};

/// Which way to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Up,
    Down,
}

/// Adds or subtracts `delta` to the number under `key`; expiry and tags are kept, the time of storing is renewed.
pub(crate) fn count(
    state: &mut State,
    space: u32,
    key: &[u8],
    way: Way,
    delta: Number,
    default: Number,
) -> Result<Number> {
    prepare::check_key(key)?;
    let stored_s = state.store.second(state.now_ms);
    let (sum, payload) = match state.live(space, key)? {
        None => {
            let blank = Payload {
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
                stored_s,
            };
            (sum(default, way, delta)?, blank)
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
            (sum(number, way, delta)?, payload)
        }
    };
    let payload = Payload {
        value_kind: sum.kind().to_byte()?,
        value: sum.to_bytes().to_vec(),
        stored_s,
        ..payload
    };
    state.put(space, key, payload)?;
    Ok(sum)
}

fn sum(a: Number, way: Way, b: Number) -> Result<Number> {
    let float = |number| match number {
        Number::Int(value) => value as f64,
        Number::Float(value) => value,
    };
    let sum = match (a, b, way) {
        (Number::Int(value), Number::Int(delta), Way::Up) => {
            value.checked_add(delta).map(Number::Int)
        }
        (Number::Int(value), Number::Int(delta), Way::Down) => {
            value.checked_sub(delta).map(Number::Int)
        }
        (a, b, way) => {
            let sum = if way == Way::Up {
                float(a) + float(b)
            } else {
                float(a) - float(b)
            };
            // Infinity is a number only if one was given.
            let overflows = sum.is_infinite() && float(a).is_finite() && float(b).is_finite();
            (!overflows).then_some(Number::Float(sum))
        }
    };
    let delta = || {
        if way == Way::Up {
            b.to_string()
        } else {
            format!("-({b})")
        }
    };
    sum.ok_or_else(|| Error::Overflow {
        value: a.to_string(),
        delta: delta(),
    })
}

fn name_of(kind: ValueKind) -> String {
    match kind {
        ValueKind::Bytes => "bytes".into(),
        ValueKind::Text => "text".into(),
        ValueKind::Integer | ValueKind::Float => "a damaged number".into(),
        ValueKind::Typed(id) => format!("a value of codec {id}"),
    }
}
