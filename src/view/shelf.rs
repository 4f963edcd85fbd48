//! What a typed view needs of the store below it: a `Cache`, or a `Fanout`.

use crate::error::Result;
use crate::view::cache::Cache;
use crate::view::fanout::Fanout;
use crate::view::fanout::merge::{FanoutIter, FanoutKeys};
use crate::view::iter::{Iter, Keys, Sorted};
use crate::view::options::{Expiry, SetOptions};
use crate::view::value::{Entry, Value};

type Bound = std::ops::Bound<Vec<u8>>;

/// What [`Typed`](crate::Typed) is over: a [`Cache`] or a [`Fanout`]. Its verbs are theirs; it is not for
/// others to implement.
#[doc(hidden)]
#[allow(missing_docs, reason = "each verb is that of `Cache`")]
pub trait Shelf: Clone + sealed::Sealed {
    type Iter: DoubleEndedIterator<Item = Result<(Vec<u8>, Value)>>;
    type Keys: DoubleEndedIterator<Item = Result<Vec<u8>>>;
    type Sorted: DoubleEndedIterator<Item = Result<(Vec<u8>, Value)>>;

    fn get(&self, key: Vec<u8>) -> Result<Option<Value>>;
    /// As `get`, not counted as an access.
    fn get_quietly(&self, key: &[u8]) -> Result<Option<Value>>;
    fn get_entry(&self, key: Vec<u8>) -> Result<Option<Entry>>;
    fn contains(&self, key: Vec<u8>) -> Result<bool>;
    fn get_many(&self, keys: Vec<Vec<u8>>) -> Result<Vec<Option<Value>>>;
    fn set_with(&self, key: Vec<u8>, value: Vec<u8>, options: &SetOptions) -> Result<()>;
    fn set_many(&self, items: Vec<(Vec<u8>, Vec<u8>)>, options: &SetOptions) -> Result<u64>;
    fn add(&self, key: Vec<u8>, value: Vec<u8>, options: &SetOptions) -> Result<bool>;
    fn replace(&self, key: Vec<u8>, value: Vec<u8>, options: &SetOptions) -> Result<bool>;
    fn compare_and_swap(
        &self,
        key: Vec<u8>,
        expected: Option<&[u8]>,
        new: Option<&[u8]>,
        options: &SetOptions,
    ) -> Result<bool>;
    fn touch(&self, key: Vec<u8>, expiry: Expiry) -> Result<bool>;
    fn delete(&self, key: Vec<u8>) -> Result<bool>;
    /// Removes a value if `read` can read it.
    fn pop_if<V>(&self, key: &[u8], read: impl Fn(&Value) -> Result<V>) -> Result<Option<V>>;
    fn iter(&self) -> Result<Self::Iter>;
    fn keys(&self) -> Result<Self::Keys>;
    fn iter_sorted(&self) -> Result<Self::Sorted>;
    fn range(&self, range: (Bound, Bound)) -> Result<Self::Sorted>;
    fn count_decode_failure(&self);
    fn path(&self) -> &std::path::Path;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for crate::Cache {}
    impl Sealed for crate::Fanout {}
}

macro_rules! shelf {
    ($store:ty, $iter:ty, $keys:ty, $sorted:ty) => {
        impl Shelf for $store {
            type Iter = $iter;
            type Keys = $keys;
            type Sorted = $sorted;

            #[inline]
            fn get(&self, key: Vec<u8>) -> Result<Option<Value>> {
                self.get(key)
            }

            fn get_quietly(&self, key: &[u8]) -> Result<Option<Value>> {
                self.get_quietly(key)
            }

            fn get_entry(&self, key: Vec<u8>) -> Result<Option<Entry>> {
                self.get_entry(key)
            }

            fn contains(&self, key: Vec<u8>) -> Result<bool> {
                self.contains(key)
            }

            fn get_many(&self, keys: Vec<Vec<u8>>) -> Result<Vec<Option<Value>>> {
                self.get_many(keys)
            }

            #[inline]
            fn set_with(&self, key: Vec<u8>, value: Vec<u8>, options: &SetOptions) -> Result<()> {
                self.set_with(key, value, options)
            }

            fn set_many(
                &self,
                items: Vec<(Vec<u8>, Vec<u8>)>,
                options: &SetOptions,
            ) -> Result<u64> {
                self.set_many(items, options)
            }

            fn add(&self, key: Vec<u8>, value: Vec<u8>, options: &SetOptions) -> Result<bool> {
                self.add(key, value, options)
            }

            fn replace(&self, key: Vec<u8>, value: Vec<u8>, options: &SetOptions) -> Result<bool> {
                self.replace(key, value, options)
            }

            fn compare_and_swap(
                &self,
                key: Vec<u8>,
                expected: Option<&[u8]>,
                new: Option<&[u8]>,
                options: &SetOptions,
            ) -> Result<bool> {
                self.compare_and_swap(key, expected, new, options)
            }

            fn touch(&self, key: Vec<u8>, expiry: Expiry) -> Result<bool> {
                self.touch(key, expiry)
            }

            fn delete(&self, key: Vec<u8>) -> Result<bool> {
                self.delete(key)
            }

            fn pop_if<V>(
                &self,
                key: &[u8],
                read: impl Fn(&Value) -> Result<V>,
            ) -> Result<Option<V>> {
                self.transact_on(key, |transaction| {
                    let Some(value) = transaction.get(key)? else {
                        return Ok(None);
                    };
                    let value = read(&value)?;
                    transaction.delete(key)?;
                    Ok(Some(value))
                })
            }

            fn iter(&self) -> Result<$iter> {
                self.iter()
            }

            fn keys(&self) -> Result<$keys> {
                self.keys()
            }

            fn iter_sorted(&self) -> Result<$sorted> {
                self.iter_sorted()
            }

            fn range(&self, range: (Bound, Bound)) -> Result<$sorted> {
                self.range(range)
            }

            fn count_decode_failure(&self) {
                self.count_decode_failure();
            }

            fn path(&self) -> &std::path::Path {
                self.path()
            }
        }
    };
}

shelf!(Cache, Iter, Keys, Sorted);
shelf!(Fanout, FanoutIter, FanoutKeys, Sorted<Fanout>);
