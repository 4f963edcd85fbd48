//! What a deque does with its elements' values: finding, removing and comparing them.
//!
//! Values are decoded and compared by the caller's `PartialEq`, without a lock; what is removed is looked
//! at again under it. Never knows where an element stands.

use std::borrow::Borrow;
use std::cmp::Ordering;

use crate::error::Result;
use crate::view::codec::Codec;
use crate::view::deque::shape::Spot;
use crate::view::deque::{Deque, STEP};
use crate::view::value::Value;

impl<T, C: Codec<T>> Deque<T, C> {
    /// Removes the elements of which `keep` says no. How many.
    ///
    /// `keep` sees each element that was there when it began, without the lock; those to go do so in batches
    /// of 128, unless they are others by then.
    ///
    /// # Errors
    /// See [`Deque`]; earlier batches have gone.
    pub fn retain(&self, mut keep: impl FnMut(&T) -> bool) -> Result<u64> {
        let mut removed = 0;
        let mut doomed = Vec::new();
        for item in self.walk()? {
            let (spot, value) = item?;
            if !keep(&self.read(&value)?) {
                doomed.push((spot, value));
            }
            if doomed.len() as u64 == STEP {
                removed += self.remove_all(&doomed)?;
                doomed.clear();
            }
        }
        Ok(removed + self.remove_all(&doomed)?)
    }

    /// Removes elements that are still what they were.
    fn remove_all(&self, doomed: &[(Spot, Value)]) -> Result<u64> {
        if doomed.is_empty() {
            return Ok(0);
        }
        self.change(|session| {
            let mut removed = 0;
            for (spot, value) in doomed {
                if session.value(*spot)?.as_ref() == Some(value) {
                    session.take(*spot)?;
                    removed += 1;
                }
            }
            Ok(removed)
        })
    }
}

impl<T: PartialEq, C: Codec<T>> Deque<T, C> {
    /// Whether an element equals this value. Looks at one after the other.
    ///
    /// # Errors
    /// See [`Deque`].
    pub fn contains(&self, value: &T) -> Result<bool> {
        Ok(self.position(value)?.is_some())
    }

    /// The index of the first element that equals this value, among those that were there when it began.
    ///
    /// # Errors
    /// See [`Deque`].
    pub fn position(&self, value: &T) -> Result<Option<u64>> {
        for (index, item) in (0..).zip(self.iter()?) {
            if item? == *value {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    /// How many elements equal this value.
    ///
    /// # Errors
    /// See [`Deque`].
    pub fn count(&self, value: &T) -> Result<u64> {
        let mut count = 0;
        for item in self.iter()? {
            count += u64::from(item? == *value);
        }
        Ok(count)
    }

    /// Removes the first element that equals this value; when another process is quicker, the next one.
    /// Whether there was one.
    ///
    /// # Errors
    /// See [`Deque`].
    pub fn remove_value(&self, value: &T) -> Result<bool> {
        for item in self.walk()? {
            let (spot, found) = item?;
            if self.read(&found)? == *value && self.remove_all(&[(spot, found)])? == 1 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether it has the same elements in the same order as any other sequence.
    ///
    /// ```
    /// let deque = larder::Deque::<u32>::temporary()?;
    /// deque.extend([1, 2, 3])?;
    /// assert!(deque.equals([1, 2, 3])? && deque.equals(&std::collections::VecDeque::from([1, 2, 3]))?);
    /// assert!(!deque.equals([3, 2, 1])? && !deque.equals([1, 2])?);
    /// # Ok::<(), larder::Error>(())
    /// ```
    ///
    /// # Errors
    /// See [`Deque`].
    pub fn equals<B: Borrow<T>>(&self, other: impl IntoIterator<Item = B>) -> Result<bool> {
        let mut other = other.into_iter();
        for item in self.iter()? {
            let item = item?;
            match other.next() {
                Some(one) if *one.borrow() == item => {}
                _ => return Ok(false),
            }
        }
        Ok(other.next().is_none())
    }
}

impl<T: PartialOrd, C: Codec<T>> Deque<T, C> {
    /// How it compares with any other sequence, by the first element that differs, or by length. `None`:
    /// two elements have no order.
    ///
    /// # Errors
    /// See [`Deque`].
    pub fn compare<B: Borrow<T>>(
        &self,
        other: impl IntoIterator<Item = B>,
    ) -> Result<Option<Ordering>> {
        let mut other = other.into_iter();
        for item in self.iter()? {
            let item = item?;
            match other.next().map(|one| item.partial_cmp(one.borrow())) {
                Some(Some(Ordering::Equal)) => {}
                Some(order) => return Ok(order),
                None => return Ok(Some(Ordering::Greater)),
            }
        }
        Ok(Some(match other.next() {
            Some(_) => Ordering::Less,
            None => Ordering::Equal,
        }))
    }
}
