//! Whether an index equals another map, with or without its order.

use std::borrow::Borrow;
use std::collections::HashSet;

use crate::error::Result;
use crate::format::key::Key;
use crate::view::codec::Codec;
use crate::view::index::Index;
use crate::view::typed::bytes_of;

impl<K: Key, V: PartialEq, C: Codec<V>> Index<K, V, C> {
    /// Whether it has the entries of any other map, in whatever order.
    ///
    /// ```
    /// use std::collections::BTreeMap;
    ///
    /// let index = larder::Index::<u32, char>::temporary()?;
    /// index.extend([(2, 'b'), (1, 'a')])?;
    /// assert!(index.equals(&BTreeMap::from([(1, 'a'), (2, 'b')]))?);
    /// assert!(index.equals_in_order([(&2, &'b'), (&1, &'a')])?);
    /// assert!(!index.equals_in_order([(&1, &'a'), (&2, &'b')])?);
    /// # Ok::<(), larder::Error>(())
    /// ```
    ///
    /// # Errors
    /// See [`Index`].
    pub fn equals<'a, Q>(&self, other: impl IntoIterator<Item = (&'a Q, &'a V)>) -> Result<bool>
    where
        K: Borrow<Q>,
        Q: Key + ?Sized + 'a,
        V: 'a,
    {
        let mut keys = HashSet::new();
        for (key, value) in other {
            if self.get(key)?.as_ref() != Some(value) {
                return Ok(false);
            }
            keys.insert(bytes_of(key)?);
        }
        Ok(keys.len() as u64 == self.len()?)
    }

    /// Whether it has the entries of any other map in the same order.
    ///
    /// # Errors
    /// See [`Index`].
    pub fn equals_in_order<'a, Q>(
        &self,
        other: impl IntoIterator<Item = (&'a Q, &'a V)>,
    ) -> Result<bool>
    where
        K: Borrow<Q>,
        Q: Key + ?Sized + 'a,
        V: 'a,
    {
        let mut other = other.into_iter();
        for item in self.items()? {
            let (key, value) = item?;
            let value = self.read(&value)?;
            match other.next() {
                Some((theirs, their_value))
                    if *their_value == value && bytes_of(theirs)? == key => {}
                _ => return Ok(false),
            }
        }
        Ok(other.next().is_none())
    }

    /// Whether another index has the same entries in the same order.
    ///
    /// # Errors
    /// See [`Index`].
    pub fn equals_index<C2: Codec<V>>(&self, other: &Index<K, V, C2>) -> Result<bool> {
        let mut theirs = other.items()?;
        for item in self.items()? {
            let (key, value) = item?;
            let Some((their_key, their_value)) = theirs.next().transpose()? else {
                return Ok(false);
            };
            if key != their_key || self.read(&value)? != other.read(&their_value)? {
                return Ok(false);
            }
        }
        Ok(theirs.next().is_none())
    }
}
