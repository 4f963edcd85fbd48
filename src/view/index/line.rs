//! Queues of values inside an index: keys `500000000000000`, or `prefix-500000000000001` with a prefix.
//!
//! As `queue.rs` does for a cache, with typed keys: a queue's numbers are an entry of the inner space, an
//! item's record says that it was pushed, and keys that were inserted by hand are left alone. An empty queue
//! begins again at 500000000000000.

use crate::engine::change::Payload;
use crate::engine::store::INNER_SPACE;
use crate::error::{Error, Result};
use crate::format::key::{Key, KeyPart};
use crate::view::options::{SetOptions, Side};
use crate::view::prepare::{self, Prepared};
use crate::view::state::State;

const MIDDLE: u64 = 500_000_000_000_000;
const END: u64 = 1_000_000_000_000_000;
/// Inner keys of an index's queues begin so.
const INNER_PREFIX: &[u8] = b"x/";

/// One queue of one index.
#[derive(Clone, Copy)]
pub(super) struct Line<'a> {
    pub(super) space: u32,
    pub(super) prefix: Option<&'a str>,
}

/// Numbers of a queue's items: from `front`, below `back`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    front: u64,
    back: u64,
}

const EMPTY: Range = Range {
    front: MIDDLE,
    back: MIDDLE,
};

impl Range {
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
    fn less(mut self, side: Side) -> Range {
        match side {
            Side::Front => self.front += 1,
            Side::Back => self.back -= 1,
        }
        self
    }

    /// With the number of one more item at one end.
    fn more(self, side: Side) -> Option<(Range, u64)> {
        let number = match side {
            Side::Back => self.back,
            // Whichever side an empty queue's first item comes from, it is in the middle.
            Side::Front if self == EMPTY => MIDDLE,
            Side::Front => self.front.checked_sub(1)?,
        };
        let range = Range {
            front: self.front.min(number),
            back: self.back.max(number + 1),
        };
        (number > 0 && number < END).then_some((range, number))
    }
}

impl<'a> Line<'a> {
    fn inner_key(self) -> Vec<u8> {
        let mut key = [INNER_PREFIX, &self.space.to_be_bytes()].concat();
        if let Some(prefix) = self.prefix {
            key.push(b'-');
            key.extend(prefix.as_bytes());
        }
        key
    }

    /// The key of an item, as the index's caller sees it.
    pub(super) fn part(self, number: u64) -> KeyPart<'static> {
        match self.prefix {
            None => KeyPart::Uint(number),
            Some(prefix) => KeyPart::Text(format!("{prefix}-{number:015}").into()),
        }
    }

    fn key(self, number: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.part(number).encode(&mut bytes)?;
        Ok(bytes)
    }

    fn range(self, state: &State) -> Result<Range> {
        let Some(payload) = state.entry(INNER_SPACE, &self.inner_key())? else {
            return Ok(EMPTY);
        };
        let (words, _) = payload.value.as_chunks::<8>();
        let word = |n: usize| {
            words
                .get(n)
                .map_or(MIDDLE, |word| u64::from_le_bytes(*word))
        };
        Ok(Range {
            front: word(0).min(END),
            back: word(1).min(END),
        })
    }

    fn put_range(self, state: &mut State, range: Range) -> Result<()> {
        let key = self.inner_key();
        if range.is_empty() {
            return state.remove(INNER_SPACE, &key);
        }
        let bytes = [range.front.to_le_bytes(), range.back.to_le_bytes()].concat();
        let payload = state.inner_payload(bytes);
        state.put(INNER_SPACE, &key, payload)
    }

    /// What was pushed under a number, or set over it.
    fn item(self, state: &State, number: u64) -> Result<Option<Payload>> {
        let key = self.key(number)?;
        let Some(payload) = state.entry(self.space, &key)? else {
            return Ok(None);
        };
        let is_item = payload.is_item || state.is_over_item(self.space, &key)?;
        Ok(is_item.then_some(payload))
    }

    /// Puts a value at an end; the number it got.
    pub(super) fn push(
        self,
        state: &mut State,
        prepared: Prepared<'_>,
        side: Side,
        options: &SetOptions,
    ) -> Result<u64> {
        prepare::check_key(&self.inner_key())?;
        prepare::check_key(&self.key(END)?)?;
        let mut range = self.range(state)?;
        // Items that were removed at the end do not count: an empty queue begins anew.
        while !range.is_empty() && self.item(state, range.end(side))?.is_none() {
            range = range.less(side);
        }
        if range.is_empty() {
            range = EMPTY;
        }
        let number = loop {
            let Some((more, number)) = range.more(side) else {
                return Err(Error::TooLarge {
                    what: "the number of a queue's item",
                    bytes: END,
                    max_bytes: END - 1,
                });
            };
            range = more;
            // A key inserted by hand is in the way: it is left alone.
            if state.entry(self.space, &self.key(number)?)?.is_none() {
                break number;
            }
        };
        let key = self.key(number)?;
        state.set(self.space, &key, prepared, options)?;
        if let Some(mut payload) = state.entry(self.space, &key)? {
            payload.is_item = true;
            state.put(self.space, &key, payload)?;
        }
        self.put_range(state, range)?;
        Ok(number)
    }

    /// The item at an end, and how the queue stands without it; `None`: the queue is empty.
    pub(super) fn next(self, state: &State, side: Side) -> Result<Option<(u64, Payload)>> {
        let mut range = self.range(state)?;
        while !range.is_empty() {
            let number = range.end(side);
            if let Some(payload) = self.item(state, number)? {
                return Ok(Some((number, payload)));
            }
            range = range.less(side);
        }
        Ok(None)
    }

    /// [`Line::next`] found nothing: what is known of items that were removed is forgotten.
    pub(super) fn begin_anew(self, state: &mut State) -> Result<()> {
        match self.range(state)?.is_empty() {
            true => Ok(()),
            false => self.put_range(state, EMPTY),
        }
    }

    /// Takes the item that [`Line::next`] found away.
    pub(super) fn take(self, state: &mut State, side: Side, number: u64) -> Result<()> {
        let mut range = self.range(state)?;
        while !range.is_empty() && range.end(side) != number {
            range = range.less(side);
        }
        state.remove(self.space, &self.key(number)?)?;
        if !range.is_empty() {
            range = range.less(side);
        }
        self.put_range(state, range)
    }
}
