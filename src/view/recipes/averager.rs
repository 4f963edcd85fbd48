//! `Averager`: the mean of numbers that all processes add to.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::view::cache::Cache;
use crate::view::options::SetOptions;
use crate::view::value::Value;

/// A mean under a key of the cache, which all processes add to.
///
/// It is an entry like others: 16 bytes, a sum and a count; it can expire, have tags, and be evicted.
///
/// ```
/// use larder::{Averager, Cache};
///
/// let cache = Cache::temporary()?;
/// let latency = Averager::new(&cache, "latency");
/// assert_eq!(latency.get()?, None);
/// latency.add(2.0)?;
/// latency.add(5.0)?;
/// assert_eq!(latency.get()?, Some(3.5));
/// assert_eq!(latency.pop()?, Some(3.5));
/// assert_eq!(latency.get()?, None);
/// # Ok::<(), larder::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Averager {
    cache: Cache,
    key: Vec<u8>,
    options: SetOptions,
}

impl Averager {
    /// The mean under this key.
    #[must_use]
    pub fn new(cache: &Cache, key: impl AsRef<[u8]>) -> Averager {
        Averager {
            cache: cache.clone(),
            key: key.as_ref().to_vec(),
            options: SetOptions::default().never_expires().compress(false),
        }
    }

    /// It is forgotten so long after the last number was added. Default: never.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Averager {
        self.options = self.options.ttl(ttl);
        self
    }

    /// One more tag of its entry.
    #[must_use]
    pub fn tag(mut self, tag: impl AsRef<[u8]>) -> Averager {
        self.options = self.options.tag(tag);
        self
    }

    /// Adds a number.
    ///
    /// # Errors
    /// [`Error::WrongType`] when something else is under the key; nothing was changed. See [`Cache`].
    pub fn add(&self, number: f64) -> Result<()> {
        self.cache.transact(|tx| {
            let (sum, count) = match tx.get(&self.key)? {
                Some(value) => read(&value)?,
                None => (0.0, 0),
            };
            let mut bytes = (sum + number).to_le_bytes().to_vec();
            bytes.extend_from_slice(&(count + 1).to_le_bytes());
            tx.set_with(&self.key, bytes, &self.options)
        })
    }

    /// The mean of all that was added; `None`: nothing was.
    ///
    /// # Errors
    /// [`Error::WrongType`] when something else is under the key; see [`Cache`].
    pub fn get(&self) -> Result<Option<f64>> {
        let value = match self.cache.inside()? {
            Some(tx) => tx.get(&self.key)?,
            None => self.cache.get(&self.key)?,
        };
        value.as_ref().map(mean).transpose()
    }

    /// The mean, and begins anew.
    ///
    /// # Errors
    /// As [`Averager::get`]; nothing was changed.
    pub fn pop(&self) -> Result<Option<f64>> {
        self.cache.transact(|tx| {
            let value = tx.get(&self.key)?;
            let mean = value.as_ref().map(mean).transpose()?;
            if mean.is_some() {
                tx.delete(&self.key)?;
            }
            Ok(mean)
        })
    }
}

fn mean(value: &Value) -> Result<f64> {
    read(value).map(|(sum, count)| sum / count as f64)
}

/// Sum and count.
fn read(value: &Value) -> Result<(f64, u64)> {
    let (words, rest) = value.as_chunks::<8>();
    match (words, rest) {
        ([sum, count], []) if u64::from_le_bytes(*count) > 0 => {
            Ok((f64::from_le_bytes(*sum), u64::from_le_bytes(*count)))
        }
        _ => Err(Error::WrongType {
            expected: "the sum and count of an averager".into(),
            found: format!("{} bytes of another kind", value.len()),
        }),
    }
}
