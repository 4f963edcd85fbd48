//! Reading a deque without a lock: everything as of one moment, or looked at again.
//!
//! A reader notes what is committed, looks, and looks whether anybody was changing anything meanwhile.
//! Where writers follow one another too closely for that, it takes its turn among them.

use std::hint::spin_loop;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use crate::engine::store::Store;
use crate::engine::sync;
use crate::error::Result;
use crate::format::header as layout;
use crate::view::cache::Cache;
use crate::view::deque::Spaces;
use crate::view::deque::ends::{Known, load};
use crate::view::deque::holes::Holes;
use crate::view::deque::session::{damaged, depth_of};
use crate::view::deque::shape::{Run, Shape, Spot, Wing};
use crate::view::iter::{Iter, Keys};
use crate::view::options::Side;
use crate::view::value::Value;

/// How often a reader looks before it takes the lock.
const LOOKS: u32 = 64;

/// What `look` sees at a moment when nobody changes the store.
pub(super) fn at_one_moment<T>(
    cache: &Cache,
    known: &mut Known,
    mut look: impl FnMut(&Arc<Store>, &mut Known) -> Result<T>,
) -> Result<T> {
    let store = cache.store()?;
    let header = &store.files.header;
    let is_still = || header.get(layout::JOURNAL_AT) == 0 && header.get(layout::PENDING_AT) == 0;
    for _ in 0..LOOKS {
        let before = store.committed();
        if !is_still() {
            spin_loop();
            continue;
        }
        let seen = look(store, known);
        // What was loaded was loaded before what follows.
        fence(Ordering::Acquire);
        if is_still() && store.committed() == before {
            return seen;
        }
        known.forget();
    }
    let arc = Arc::clone(store);
    sync::locked_for_upkeep(store, cache.patience(store), |_, _| look(&arc, known))
}

/// The elements of both wings.
pub(super) fn len(cache: &Cache, spaces: Spaces) -> Result<u64> {
    at_one_moment(cache, &mut Known::default(), |store, _| {
        Ok(store.entries(spaces.front) + store.entries(spaces.back))
    })
}

fn run(store: &Arc<Store>, which: u32) -> Result<Option<Run>> {
    let count = store.entries(which);
    if count == 0 {
        return Ok(Some(Run::default()));
    }
    let mut keys = Keys::new(store, which)?;
    let first = keys.next().transpose()?;
    let last = Keys::new(store, which)?.next_back().transpose()?;
    let depth = |key: Option<Vec<u8>>| key.map(|key| depth_of(store, &key)).transpose();
    Ok(Run::new(depth(first)?, depth(last)?, count))
}

fn shape(store: &Arc<Store>, spaces: Spaces, known: &mut Known) -> Result<Shape> {
    let committed = store.committed();
    if let Some(shape) = known.shape(committed) {
        return Ok(shape);
    }
    let mut shape = Shape {
        notes: known.notes(store, spaces)?,
        ..Shape::default()
    };
    for wing in Wing::BOTH {
        let run = run(store, spaces.of(wing))?;
        shape.runs[wing as usize] =
            run.ok_or_else(|| damaged(store, "the ends do not fit the count"))?;
    }
    known.note_shape(committed, shape);
    Ok(shape)
}

/// What looking for an index finds.
pub(super) enum Found {
    One(Value),
    Nothing,
    /// The counters of removed elements are not what they should be.
    Uncounted,
}

/// The element of an index.
pub(super) fn get(cache: &Cache, spaces: Spaces, known: &mut Known, index: i64) -> Result<Found> {
    at_one_moment(cache, known, |store, known| {
        let shape = shape(store, spaces, known)?;
        let Some((wing, below)) = shape.locate(index) else {
            return Ok(Found::Nothing);
        };
        let run = shape.run(wing);
        let mut depth = run.base + below;
        if run.holes() > 0 {
            let load = |key: &[u8]| load(store, spaces, key);
            let seat = &mut known.holes[wing as usize];
            let holes = match seat {
                Some(holes) => holes,
                None => seat.insert(Holes::load(spaces.front, wing, &load)?),
            };
            if holes.total != run.holes() {
                return Ok(Found::Uncounted);
            }
            match holes.select(depth, &load)? {
                Some(found) if found < run.end => depth = found,
                _ => return Ok(Found::Uncounted),
            }
        }
        let key = Spot { wing, depth }.key();
        let value = cache.in_space(spaces.of(wing)).get_quietly(&key)?;
        Ok(value.map_or(Found::Uncounted, Found::One))
    })
}

/// The element at a side.
pub(super) fn peek(
    cache: &Cache,
    spaces: Spaces,
    known: &mut Known,
    side: Side,
) -> Result<Option<Value>> {
    at_one_moment(cache, known, |store, known| {
        let own = known.notes(store, spaces)?.wing(side);
        let found = if store.entries(spaces.of(own)) > 0 {
            Iter::new(store, spaces.of(own))?.next_back()
        } else {
            Iter::new(store, spaces.of(own.other()))?.next()
        };
        Ok(found.transpose()?.map(|(_, value)| value))
    })
}

/// Walks over both wings: elements of one moment, as they are when it comes to them.
pub(super) fn walk(cache: &Cache, spaces: Spaces, known: &mut Known) -> Result<Walk> {
    at_one_moment(cache, known, |store, known| {
        let notes = known.notes(store, spaces)?;
        Ok(Walk::Free {
            front: Iter::new(store, spaces.front)?,
            back: Iter::new(store, spaces.back)?,
            is_reversed: notes.is_reversed,
        })
    })
}

/// A deque's elements still to be visited.
pub(super) enum Walk {
    Free {
        front: Iter,
        back: Iter,
        is_reversed: bool,
    },
    /// Gathered inside a transaction.
    Gathered(std::vec::IntoIter<(Spot, Value)>),
}

fn spotted(wing: Wing, item: Option<Result<(Vec<u8>, Value)>>) -> Option<Result<(Spot, Value)>> {
    item.map(|item| {
        let (key, value) = item?;
        let depth = key
            .as_slice()
            .try_into()
            .map_or(u64::MAX, u64::from_be_bytes);
        Ok((Spot { wing, depth }, value))
    })
}

impl Walk {
    fn step(&mut self, forward: bool) -> Option<Result<(Spot, Value)>> {
        match self {
            Walk::Gathered(all) => match forward {
                true => all.next().map(Ok),
                false => all.next_back().map(Ok),
            },
            Walk::Free {
                front,
                back,
                is_reversed,
            } => {
                // From the front: down the front wing, then up the back one.
                if forward != *is_reversed {
                    spotted(Wing::Front, front.next_back())
                        .or_else(|| spotted(Wing::Back, back.next()))
                } else {
                    spotted(Wing::Back, back.next_back())
                        .or_else(|| spotted(Wing::Front, front.next()))
                }
            }
        }
    }
}

impl Iterator for Walk {
    type Item = Result<(Spot, Value)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step(true)
    }
}

impl DoubleEndedIterator for Walk {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.step(false)
    }
}
