//! Walking entries: in insertion order both ways, or sorted.
//!
//! The bound is fixed when the iterator is made; writing meanwhile is safe, and it ends. Looks each
//! cell up when it comes to it, so a value is the newest at that moment.

use std::sync::Arc;

use crate::engine::read::Hit;
use crate::engine::store::Store;
use crate::error::{Error, Result};
use crate::format::header::space;
use crate::limits::RETRIES_MAX;
use crate::part::order::{self, Cell};
use crate::part::shared::OrderFile;
use crate::view::cache::Cache;
use crate::view::prepare;
use crate::view::shelf::Shelf;
use crate::view::value::Value;

/// Positions of a space's order list still to be visited.
#[derive(Debug)]
struct Cursor {
    store: Arc<Store>,
    space: u32,
    /// The list as it was; a denser one may take its place. `None`: there was no entry yet.
    list: Option<Arc<OrderFile>>,
    front: u64,
    back: u64,
    /// Entries inserted after this sequence are not visited.
    bound: u64,
}

impl Cursor {
    fn new(store: &Arc<Store>, space: u32) -> Result<Cursor> {
        for _ in 0..RETRIES_MAX {
            // In this order: every entry up to `bound` has its cell below `back`.
            let bound = store.committed();
            let before = store.files.space(space, space::GENERATION);
            let list = store.files.order(&store.dir, space);
            let cells = store.files.space(space, space::CELLS);
            let back = store.files.space(space, space::TAIL).min(cells);
            let front = store.files.space(space, space::HEAD).min(back);
            let now = store.files.space(space, space::GENERATION);
            if before != now || now == space::CHANGING {
                // Another list takes its place.
                std::hint::spin_loop();
                continue;
            }
            return Ok(Cursor {
                store: Arc::clone(store),
                space,
                // That of a store whose first entry comes just now is empty.
                list: list?.filter(|list| list.generation == now),
                front,
                back,
                bound,
            });
        }
        Err(Error::Busy {
            what: "an order list that changes again and again",
            holder_pid: 0,
            held_since: None,
            waited: std::time::Duration::ZERO,
            removed: 0,
        })
    }

    fn cell(&self, index: u64) -> Result<Option<Cell>> {
        match &self.list {
            Some(list) => order::cell_in(list, index).map(Some),
            None => Ok(None),
        }
    }

    /// The next entry that is there and live, from either end.
    fn step<T>(
        &mut self,
        forward: bool,
        take: impl Fn(&Store, Hit<'_>, &mut Vec<u8>) -> Result<Option<T>>,
    ) -> Option<Result<T>> {
        let mut buffer = Vec::new();
        let mut passed = 0_u32;
        while self.front < self.back {
            let index = if forward { self.front } else { self.back - 1 };
            let found = self.visit(index, &mut buffer, &take);
            if forward {
                self.front += 1;
            } else {
                self.back -= 1;
            }
            match found {
                Ok(None) => passed += 1,
                Ok(Some(Seen::Expired)) => {}
                Ok(Some(Seen::Live(item))) => {
                    if passed > 64 {
                        self.hint(forward, index);
                    }
                    return Some(Ok(item));
                }
                Err(error) => return Some(Err(error)),
            }
        }
        None
    }

    fn visit<T>(
        &self,
        index: u64,
        buffer: &mut Vec<u8>,
        take: &impl Fn(&Store, Hit<'_>, &mut Vec<u8>) -> Result<Option<T>>,
    ) -> Result<Option<Seen<T>>> {
        let store = &self.store;
        let Some(cell) = self.cell(index)? else {
            return Ok(None);
        };
        loop {
            let Some(hit) = store.find_cell(self.space, cell, buffer)? else {
                return Ok(None);
            };
            if hit.head.order > self.bound {
                return Ok(None);
            }
            if !store.lives(&hit, store.now_ms()) {
                return Ok(Some(Seen::Expired));
            }
            if let Some(item) = take(store, hit, buffer)? {
                return Ok(Some(Seen::Live(item)));
            }
            // Its file is gone: the entry has changed, or the file was taken away.
            if hit.is_current() {
                return Err(store.missing_value(&hit.head));
            }
        }
    }

    /// Many dead cells stood before `index`, or behind it: if they all did from the list's end on, and
    /// the lock is free, the next one skips them.
    #[cold]
    fn hint(&self, forward: bool, index: u64) {
        let store = &self.store;
        let Ok(held) = Store::lock(&**store, Some(std::time::Duration::ZERO)) else {
            return;
        };
        let now = store.files.space(self.space, space::GENERATION);
        if self.list.as_ref().is_none_or(|list| list.generation != now) {
            return;
        }
        // Under the lock: nothing is pending, and what is dead stays dead.
        let (field, dead) = if forward {
            (
                space::HEAD,
                store.files.space(self.space, space::HEAD)..index,
            )
        } else {
            (
                space::TAIL,
                index + 1..store.files.space(self.space, space::TAIL),
            )
        };
        let mut buffer = Vec::new();
        let to = if forward { dead.end } else { dead.start };
        let all_dead = !dead.is_empty()
            && dead.into_iter().all(|index| {
                let cell = order::cell(&store.files, &store.dir, self.space, index);
                matches!(cell, Ok(Some(cell)) if matches!(store.find_cell(self.space, cell, &mut buffer), Ok(None)))
            });
        if all_dead {
            let at = crate::part::shared::Files::space_at(self.space, field).at;
            store.files.header.put(at, to);
        }
        drop(held);
    }
}

enum Seen<T> {
    Live(T),
    Expired,
}

/// Live entries in insertion order, both ways. Made by [`Cache::iter`].
#[derive(Debug)]
pub struct Iter(Cursor);

impl Iter {
    pub(crate) fn new(store: &Arc<Store>, space: u32) -> Result<Iter> {
        Ok(Iter(Cursor::new(store, space)?))
    }
}

impl Iter {
    /// The next entry from either end, and when it was stored, in seconds since 1970.
    pub(crate) fn step(&mut self, forward: bool) -> Option<Result<(u64, Vec<u8>, Value)>> {
        self.step_with(forward, |store, hit, buffer| {
            let second = store.created_ms / 1_000 + u64::from(hit.head.stored_s);
            Ok(item(store, hit, buffer)?.map(|(key, value)| (second, key, value)))
        })
    }

    /// What `take` makes of the next entry from either end.
    pub(crate) fn step_with<T>(
        &mut self,
        forward: bool,
        take: impl Fn(&Store, Hit<'_>, &mut Vec<u8>) -> Result<Option<T>>,
    ) -> Option<Result<T>> {
        self.0.step(forward, take)
    }
}

fn item(store: &Store, hit: Hit<'_>, buffer: &mut Vec<u8>) -> Result<Option<(Vec<u8>, Value)>> {
    let key = hit.key(buffer).to_vec();
    let bytes = std::mem::take(buffer);
    Ok(prepare::value_of(store, &hit.head, bytes)?.map(|value| (key, value)))
}

impl Iterator for Iter {
    type Item = Result<(Vec<u8>, Value)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.step(true, item)
    }
}

impl DoubleEndedIterator for Iter {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.0.step(false, item)
    }
}

/// Keys of live entries in insertion order, both ways. Made by [`Cache::keys`].
#[derive(Debug)]
pub struct Keys(Cursor);

impl Keys {
    pub(crate) fn new(store: &Arc<Store>, space: u32) -> Result<Keys> {
        Ok(Keys(Cursor::new(store, space)?))
    }
}

impl Iterator for Keys {
    type Item = Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0
            .step(true, |_, hit, buffer| Ok(Some(hit.key(buffer).to_vec())))
    }
}

impl DoubleEndedIterator for Keys {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.0
            .step(false, |_, hit, buffer| Ok(Some(hit.key(buffer).to_vec())))
    }
}

/// Live entries by key, both ways. Made by [`Cache::iter_sorted`] and [`Cache::range`],
/// and by those of a [`Fanout`](crate::Fanout).
#[derive(Debug)]
pub struct Sorted<S = Cache> {
    pub(super) store: S,
    pub(super) keys: std::vec::IntoIter<Vec<u8>>,
}

impl Sorted {
    pub(crate) fn new(cache: &Cache, wanted: impl Fn(&[u8]) -> bool) -> Result<Sorted> {
        let mut keys = Vec::new();
        for key in cache.keys()? {
            let key = key?;
            if wanted(&key) {
                keys.push(key);
            }
        }
        keys.sort_unstable();
        Ok(Sorted {
            store: cache.clone(),
            keys: keys.into_iter(),
        })
    }
}

impl<S: Shelf> Sorted<S> {
    fn value(&self, key: Vec<u8>) -> Option<Result<(Vec<u8>, Value)>> {
        match self.store.get_quietly(&key) {
            // Gone since the keys were gathered.
            Ok(None) => None,
            Ok(Some(value)) => Some(Ok((key, value))),
            Err(error) => Some(Err(error)),
        }
    }
}

impl<S: Shelf> Iterator for Sorted<S> {
    type Item = Result<(Vec<u8>, Value)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let key = self.keys.next()?;
            if let Some(item) = self.value(key) {
                return Some(item);
            }
        }
    }
}

impl<S: Shelf> DoubleEndedIterator for Sorted<S> {
    fn next_back(&mut self) -> Option<Self::Item> {
        loop {
            let key = self.keys.next_back()?;
            if let Some(item) = self.value(key) {
                return Some(item);
            }
        }
    }
}
