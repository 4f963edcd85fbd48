//! Walking all shards as one: in order of storing, or by key.
//!
//! Each shard's own order is kept exactly; among shards what was stored in an earlier second comes first,
//! of one second what the shard of lower index has.

use crate::error::Result;
use crate::view::fanout::verbs::value_of;
use crate::view::fanout::{Fanout, Told};
use crate::view::iter::{Iter, Sorted};
use crate::view::value::Value;

/// What was stored, and in which second.
pub(super) type Timed<T> = Result<(u64, T)>;
type Pair = (Vec<u8>, Value);

/// Several walks as one, from both ends.
#[derive(Debug)]
pub(super) struct Merged<I, T> {
    parts: Vec<Ends<I, T>>,
}

/// A walk, and what was taken from its ends to look at.
#[derive(Debug)]
struct Ends<I, T> {
    walk: I,
    front: Option<Timed<T>>,
    back: Option<Timed<T>>,
}

impl<T, I: DoubleEndedIterator<Item = Timed<T>>> Ends<I, T> {
    /// The next item from one end, left where it is.
    fn look(&mut self, forward: bool) -> Option<&Timed<T>> {
        let Ends { walk, front, back } = self;
        let (this, other) = if forward {
            (front, back)
        } else {
            (back, front)
        };
        if this.is_none() {
            let next = if forward {
                walk.next()
            } else {
                walk.next_back()
            };
            // The last one stands at the other end.
            *this = next.or_else(|| other.take());
        }
        this.as_ref()
    }

    fn take(&mut self, forward: bool) -> Option<Timed<T>> {
        if forward {
            self.front.take()
        } else {
            self.back.take()
        }
    }
}

impl<T, I: DoubleEndedIterator<Item = Timed<T>>> Merged<I, T> {
    pub(super) fn new(walks: Vec<I>) -> Self {
        let ends = |walk| Ends {
            walk,
            front: None,
            back: None,
        };
        Merged {
            parts: walks.into_iter().map(ends).collect(),
        }
    }

    fn step(&mut self, forward: bool) -> Option<Result<T>> {
        let mut best: Option<(u64, usize)> = None;
        for (index, part) in self.parts.iter_mut().enumerate() {
            let second = match part.look(forward) {
                None => continue,
                // An error is told at once.
                Some(Err(_)) => {
                    best = Some((0, index));
                    break;
                }
                Some(Ok((second, _))) => *second,
            };
            let is_better = match best {
                None => true,
                Some((other, _)) if forward => second < other,
                Some((other, _)) => second >= other,
            };
            if is_better {
                best = Some((second, index));
            }
        }
        let item = self.parts[best?.1].take(forward)?;
        Some(item.map(|(_, item)| item))
    }
}

impl<T, I: DoubleEndedIterator<Item = Timed<T>>> Iterator for Merged<I, T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step(true)
    }
}

impl<T, I: DoubleEndedIterator<Item = Timed<T>>> DoubleEndedIterator for Merged<I, T> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.step(false)
    }
}

/// One shard's walk, corrected by what a batch across shards says.
#[derive(Debug)]
struct Walk {
    fanout: Fanout,
    index: usize,
    iter: Iter,
}

impl Walk {
    fn step(&mut self, forward: bool) -> Option<Timed<Pair>> {
        loop {
            let (second, key, value) = match self.iter.step(forward)? {
                Ok(item) => item,
                Err(error) => return Some(Err(error)),
            };
            let told = match self.fanout.told(self.index, &key) {
                Ok(told) => told,
                Err(error) => return Some(Err(error)),
            };
            match told {
                Told::Plain => return Some(Ok((second, (key, value)))),
                Told::Gone => {}
                // By the batch, or by what has come after it.
                Told::Set(_) => match self.fanout.get_quietly(&key) {
                    Ok(Some(value)) => return Some(Ok((second, (key, value)))),
                    Ok(None) => {}
                    Err(error) => return Some(Err(error)),
                },
            }
        }
    }
}

impl Iterator for Walk {
    type Item = Timed<Pair>;

    fn next(&mut self) -> Option<Timed<Pair>> {
        self.step(true)
    }
}

impl DoubleEndedIterator for Walk {
    fn next_back(&mut self) -> Option<Timed<Pair>> {
        self.step(false)
    }
}

/// Live entries of all shards, both ways. Made by [`Fanout::iter`].
#[derive(Debug)]
pub struct FanoutIter(Merged<Walk, Pair>);

impl Iterator for FanoutIter {
    type Item = Result<(Vec<u8>, Value)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }
}

impl DoubleEndedIterator for FanoutIter {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.0.next_back()
    }
}

/// Keys of live entries of all shards, both ways. Made by [`Fanout::keys`].
#[derive(Debug)]
pub struct FanoutKeys(FanoutIter);

impl Iterator for FanoutKeys {
    type Item = Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.0.next()?.map(|(key, _)| key))
    }
}

impl DoubleEndedIterator for FanoutKeys {
    fn next_back(&mut self) -> Option<Self::Item> {
        Some(self.0.next_back()?.map(|(key, _)| key))
    }
}

impl Fanout {
    pub(in crate::view) fn get_quietly(&self, key: &[u8]) -> Result<Option<Value>> {
        self.read(key, |shard| shard.get_quietly(key), value_of)
    }

    /// As [`Cache::len`](crate::Cache::len), over all shards.
    ///
    /// # Errors
    /// See [`Fanout`].
    pub fn len(&self) -> Result<u64> {
        self.steadily(|| self.shards.iter().map(crate::Cache::len).sum())
    }

    /// Whether [`Fanout::len`] is 0.
    ///
    /// # Errors
    /// See [`Fanout`].
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Live entries of all shards, both ways; none inserted after this call.
    ///
    /// Entries of one shard come in insertion order. Among shards, what was stored in an earlier second
    /// comes earlier; an entry that was overwritten keeps its place in its shard, and is compared by the
    /// second of the overwriting. So `rev` may mix shards in another way where entries were overwritten.
    ///
    /// # Errors
    /// See [`Fanout`].
    pub fn iter(&self) -> Result<FanoutIter> {
        let walks = self.steadily(|| {
            let mut walks = Vec::with_capacity(self.shards.len());
            for (index, shard) in self.shards.iter().enumerate() {
                walks.push(Walk {
                    fanout: self.clone(),
                    index,
                    iter: shard.iter()?,
                });
            }
            Ok(walks)
        })?;
        Ok(FanoutIter(Merged::new(walks)))
    }

    /// Keys of live entries, in the order of [`Fanout::iter`].
    ///
    /// # Errors
    /// See [`Fanout`].
    pub fn keys(&self) -> Result<FanoutKeys> {
        Ok(FanoutKeys(self.iter()?))
    }

    /// The first entry of [`Fanout::iter`].
    ///
    /// # Errors
    /// See [`Fanout`].
    pub fn first(&self) -> Result<Option<(Vec<u8>, Value)>> {
        self.iter()?.next().transpose()
    }

    /// The last entry of [`Fanout::iter`].
    ///
    /// # Errors
    /// See [`Fanout`].
    pub fn last(&self) -> Result<Option<(Vec<u8>, Value)>> {
        self.iter()?.next_back().transpose()
    }

    /// As [`Cache::iter_prefix`](crate::Cache::iter_prefix), in the order of [`Fanout::iter`].
    ///
    /// # Errors
    /// See [`Fanout`].
    pub fn iter_prefix<P: AsRef<[u8]>>(
        &self,
        prefix: P,
    ) -> Result<impl DoubleEndedIterator<Item = Result<(Vec<u8>, Value)>> + use<P>> {
        let prefix = prefix.as_ref().to_vec();
        Ok(self.iter()?.filter(move |item| {
            item.as_ref()
                .map_or(true, |(key, _)| key.starts_with(&prefix))
        }))
    }

    /// As [`Cache::iter_sorted`](crate::Cache::iter_sorted).
    ///
    /// # Errors
    /// See [`Fanout`].
    pub fn iter_sorted(&self) -> Result<Sorted<Fanout>> {
        self.sorted(|_| true)
    }

    /// As [`Cache::range`](crate::Cache::range).
    ///
    /// # Errors
    /// See [`Fanout`].
    pub fn range<K: AsRef<[u8]>>(
        &self,
        range: impl std::ops::RangeBounds<K>,
    ) -> Result<Sorted<Fanout>> {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        self.sorted(|key| {
            let after = match range.start_bound() {
                Included(start) => key >= start.as_ref(),
                Excluded(start) => key > start.as_ref(),
                Unbounded => true,
            };
            after
                && match range.end_bound() {
                    Included(end) => key <= end.as_ref(),
                    Excluded(end) => key < end.as_ref(),
                    Unbounded => true,
                }
        })
    }

    fn sorted(&self, wanted: impl Fn(&[u8]) -> bool) -> Result<Sorted<Fanout>> {
        let walks = self.steadily(|| {
            let shards = self.shards.iter();
            shards.map(crate::Cache::keys).collect::<Result<Vec<_>>>()
        })?;
        let mut keys = Vec::new();
        for key in walks.into_iter().flatten() {
            let key = key?;
            if wanted(&key) {
                keys.push(key);
            }
        }
        keys.sort_unstable();
        Ok(Sorted {
            store: self.clone(),
            keys: keys.into_iter(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::value::ValueKind;

    fn walk(seconds: &[u64], name: char) -> Vec<Timed<Pair>> {
        let value = || Value::whole(Vec::new(), ValueKind::Bytes);
        let item =
            |(n, &second): (usize, &u64)| Ok((second, (format!("{name}{n}").into(), value())));
        seconds.iter().enumerate().map(item).collect()
    }

    #[test]
    fn several_walks_are_one_from_both_ends_and_from_each_in_turn() {
        let merged = || {
            let walks = vec![
                walk(&[1, 1, 5], 'a'),
                walk(&[], 'b'),
                walk(&[1, 4, 9, 2], 'c'),
            ];
            Merged::new(walks.into_iter().map(Vec::into_iter).collect())
        };
        let name = |item: Result<(Vec<u8>, Value)>| String::from_utf8(item.expect("item").0);
        let forward: Vec<_> = merged().map(|item| name(item).expect("text")).collect();
        assert_eq!(forward, ["a0", "a1", "c0", "c1", "a2", "c2", "c3"]);
        for split in 0..=forward.len() {
            let mut both = merged();
            let mut all = Vec::new();
            for _ in 0..split {
                all.push(name(both.next().expect("more")).expect("text"));
            }
            let mut rest: Vec<_> = both.rev().map(|item| name(item).expect("text")).collect();
            rest.reverse();
            all.extend(rest);
            all.sort();
            let mut sorted = forward.clone();
            sorted.sort();
            assert_eq!(all, sorted, "{split} from the front");
        }
    }
}
