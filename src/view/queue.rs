//! Little queues inside a cache: keys `500000000000000`, `prefix-500000000000001`, …
//!
//! A queue's lowest and next number are an entry of the inner space, changed in one batch with its
//! items. An item's record says that it was pushed: keys a caller sets by hand are none,
//! and a value set over an item stays in the queue. An empty queue begins again
//! at 500000000000000.

use std::sync::Arc;

use crate::engine::change::Payload;
use crate::engine::store::{INNER_SPACE, MAIN_SPACE, Store, stat};
use crate::error::{Error, Result};
use crate::view::options::{SetOptions, Side};
use crate::view::prepare::{self, Prepared};
use crate::view::state::State;
use crate::view::value::Value;

const MIDDLE: u64 = 500_000_000_000_000;
const END: u64 = 1_000_000_000_000_000;

/// Inner keys of queues begin so.
pub(crate) const INNER_PREFIX: &[u8] = b"q/";

/// Numbers of a queue's items: from `front`, below `back`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    front: u64,
    back: u64,
}

impl Range {
    const EMPTY: Range = Range {
        front: MIDDLE,
        back: MIDDLE,
    };

    fn is_empty(self) -> bool {
        self.front >= self.back
    }

    fn end(self, side: Side) -> u64 {
        match side {
            Side::Front => self.front,
            Side::Back => self.back - 1,
        }
    }

    /// Without the item at one end.
    fn less(self, side: Side) -> Range {
        match side {
            Side::Front => Range {
                front: self.front + 1,
                ..self
            },
            Side::Back => Range {
                back: self.back - 1,
                ..self
            },
        }
    }

    fn to_bytes(self) -> Vec<u8> {
        [self.front.to_le_bytes(), self.back.to_le_bytes()].concat()
    }

    fn from_bytes(bytes: &[u8]) -> Range {
        let (words, _) = bytes.as_chunks::<8>();
        let word = |n: usize| {
            words
                .get(n)
                .map_or(MIDDLE, |word| u64::from_le_bytes(*word))
                .min(END)
        };
        Range {
            front: word(0),
            back: word(1),
        }
    }
}

/// The inner key of a queue.
fn inner_key(prefix: Option<&[u8]>) -> Vec<u8> {
    match prefix {
        None => [INNER_PREFIX, b"-"].concat(),
        Some(prefix) => [INNER_PREFIX, b"+", prefix].concat(),
    }
}

/// The queue whose inner key this is; `None`: it is no queue's.
pub(crate) fn prefix_of(inner: &[u8]) -> Option<Option<&[u8]>> {
    match inner.strip_prefix(INNER_PREFIX)?.split_first()? {
        (b'-', []) => Some(None),
        (b'+', prefix) => Some(Some(prefix)),
        _ => None,
    }
}

/// The key of an item.
fn item_key(prefix: Option<&[u8]>, number: u64) -> Vec<u8> {
    let digits = format!("{number:015}").into_bytes();
    match prefix {
        None => digits,
        Some(prefix) => [prefix, b"-", &digits].concat(),
    }
}

/// What was pushed under a key, or set over it; `None`: nothing, or a key set by hand.
fn item(state: &State, key: &[u8]) -> Result<Option<Payload>> {
    let Some(payload) = state.entry(MAIN_SPACE, key)? else {
        return Ok(None);
    };
    // A value set over an item stays in the queue.
    Ok((payload.is_item || state.is_over_item(MAIN_SPACE, key)?).then_some(payload))
}

fn range_of(state: &State, prefix: Option<&[u8]>) -> Result<Range> {
    let entry = state.entry(INNER_SPACE, &inner_key(prefix))?;
    Ok(entry.map_or(Range::EMPTY, |payload| Range::from_bytes(&payload.value)))
}

fn put_range(state: &mut State, prefix: Option<&[u8]>, range: Range) -> Result<()> {
    let key = inner_key(prefix);
    if range.is_empty() {
        return state.remove(INNER_SPACE, &key);
    }
    let payload = Payload {
        value_kind: 0,
        value: range.to_bytes(),
        expires_ms: None,
        zstd: None,
        apart: None,
        sliding_ms: None,
        cost_s: None,
        is_item: false,
        tag_seq: 0,
        tags: Vec::new(),
        stored_s: state.store.second(state.now_ms),
    };
    state.put(INNER_SPACE, &key, payload)
}

/// Puts a value at an end; returns its key.
pub(crate) fn push(
    state: &mut State,
    prefix: Option<&[u8]>,
    prepared: Prepared<'_>,
    side: Side,
    options: &SetOptions,
) -> Result<Vec<u8>> {
    prepare::check_key(&inner_key(prefix))?;
    let mut range = range_of(state, prefix)?;
    // Items that were deleted or expired at the end do not count: an empty queue begins anew.
    while !range.is_empty() && item(state, &item_key(prefix, range.end(side)))?.is_none() {
        range = range.less(side);
    }
    if range.is_empty() {
        range = Range::EMPTY;
    }
    let number = loop {
        let number = match side {
            Side::Back => range.back,
            // Whichever side an empty queue's first item comes from, it is in the middle.
            Side::Front if range == Range::EMPTY => MIDDLE,
            Side::Front => range.front - 1,
        };
        if number == 0 || number >= END {
            return Err(Error::TooLarge {
                what: "the number of a queue's item",
                bytes: number,
                max_bytes: END - 1,
            });
        }
        range = match side {
            Side::Back => Range {
                back: number + 1,
                ..range
            },
            Side::Front => Range {
                front: number,
                back: range.back.max(number + 1),
            },
        };
        // A key set by hand is in the way: it is left alone.
        if state
            .entry(MAIN_SPACE, &item_key(prefix, number))?
            .is_none()
        {
            break number;
        }
    };
    let key = item_key(prefix, number);
    state.set_item(&key, prepared, options)?;
    put_range(state, prefix, range)?;
    Ok(key)
}

/// Takes the value at an end away; expired items on the way are removed.
pub(crate) fn pull(
    state: &mut State,
    prefix: Option<&[u8]>,
    side: Side,
) -> Result<Option<(Vec<u8>, Value)>> {
    let before = range_of(state, prefix)?;
    let mut range = before;
    let mut found = None;
    while found.is_none() && !range.is_empty() {
        let key = item_key(prefix, range.end(side));
        range = range.less(side);
        let Some(payload) = item(state, &key)? else {
            continue;
        };
        let is_live = payload
            .expires_ms
            .is_none_or(|expires| expires > state.now_ms);
        let value = if is_live {
            Some(state.value(&payload)?)
        } else {
            None
        };
        state.remove(MAIN_SPACE, &key)?;
        if !is_live {
            state.store.count(stat::EXPIRED, 1);
        }
        found = value.map(|value| (key, value));
    }
    if range != before {
        put_range(state, prefix, range)?;
    }
    Ok(found)
}

/// The value at an end, inside a transaction.
pub(crate) fn peek_inside(
    state: &State,
    prefix: Option<&[u8]>,
    side: Side,
) -> Result<Option<(Vec<u8>, Value)>> {
    let mut range = range_of(state, prefix)?;
    while !range.is_empty() {
        let key = item_key(prefix, range.end(side));
        let live = |payload: &Payload| {
            payload
                .expires_ms
                .is_none_or(|expires| expires > state.now_ms)
        };
        if let Some(payload) = item(state, &key)?.filter(live) {
            return Ok(Some((key, state.value(&payload)?)));
        }
        range = range.less(side);
    }
    Ok(None)
}

/// The value at an end, without a lock: the item may be pulled by another at any time.
pub(crate) fn peek(
    store: &Arc<Store>,
    prefix: Option<&[u8]>,
    side: Side,
    get: impl Fn(&[u8]) -> Result<Option<Value>>,
) -> Result<Option<(Vec<u8>, Value)>> {
    let inner = inner_key(prefix);
    let hash = store.hash.of(INNER_SPACE, &inner);
    let mut buffer = Vec::new();
    let Some(hit) = store.find(INNER_SPACE, &inner, hash, &mut buffer)? else {
        return Ok(None);
    };
    let mut range = Range::from_bytes(hit.value(&buffer));
    while !range.is_empty() {
        let key = item_key(prefix, range.end(side));
        if let Some(value) = get(&key)? {
            return Ok(Some((key, value)));
        }
        range = range.less(side);
    }
    Ok(None)
}
