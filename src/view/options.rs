//! What a caller may say with a write. Plain values; they decide nothing.

use std::time::{Duration, SystemTime};

use crate::view::value::ValueKind;

/// When an entry expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// Never.
    Never,
    /// So long after the write.
    After(Duration),
    /// At this moment; live while it is later than now.
    At(SystemTime),
}

/// Which end of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Where the lowest key is.
    Front,
    /// Where the highest key is.
    Back,
}

/// What goes with a value.
///
/// ```
/// use std::time::Duration;
/// use larder::{Cache, SetOptions};
///
/// let cache = Cache::temporary()?;
/// cache.set_with("k", "v", &SetOptions::default().ttl(Duration::from_secs(60)).tag("run-7"))?;
/// assert_eq!(cache.get_entry("k")?.map(|entry| entry.tags), Some(vec![b"run-7".to_vec()]));
/// # Ok::<(), larder::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct SetOptions {
    pub(crate) expiry: Option<Expiry>,
    pub(crate) tags: Vec<Vec<u8>>,
    pub(crate) compress: Option<bool>,
    pub(crate) kind: Option<ValueKind>,
    pub(crate) slides: bool,
    pub(crate) cost_s: Option<f64>,
}

impl SetOptions {
    /// Expires so long after the write; 0 stores an entry that is dead at once.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.expiry = Some(Expiry::After(ttl));
        self
    }

    /// Expires so long after the write or the last read, whichever is later: each read renews it, for
    /// every process, without a write to the log.
    ///
    /// A renewal is exact to 1/8 s, never later. It is lost when the derived files are rebuilt: then the
    /// write's own moment counts, or that of the last `incr` or the like.
    pub fn sliding_ttl(mut self, ttl: Duration) -> Self {
        self.expiry = Some(Expiry::After(ttl));
        self.slides = true;
        self
    }

    /// Seconds it takes to make the value again: what [`Policy::CostAware`](crate::Policy::CostAware)
    /// weighs, and what each hit adds to `seconds_saved` of the statistics. Negative and infinite ones
    /// count as none.
    pub fn cost(mut self, seconds: f64) -> Self {
        self.cost_s = Some(seconds).filter(|cost| cost.is_finite() && *cost >= 0.0);
        self
    }

    pub(crate) fn sliding_ms(&self) -> Option<u64> {
        match self.expiry {
            Some(Expiry::After(ttl)) if self.slides => {
                Some(ttl.as_millis().min(u128::from(u64::MAX)) as u64)
            }
            _ => None,
        }
    }

    /// Expires at this moment.
    pub fn expires_at(mut self, at: SystemTime) -> Self {
        self.expiry = Some(Expiry::At(at));
        self
    }

    /// Never expires, whatever the store's `default_ttl` is.
    pub fn never_expires(mut self) -> Self {
        self.expiry = Some(Expiry::Never);
        self
    }

    /// One more tag, at most 1,024 bytes; an entry has at most 1,000.
    pub fn tag(mut self, tag: impl AsRef<[u8]>) -> Self {
        self.tags.push(tag.as_ref().to_vec());
        self
    }

    /// More tags.
    pub fn tags<T: AsRef<[u8]>>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
        self.tags
            .extend(tags.into_iter().map(|tag| tag.as_ref().to_vec()));
        self
    }

    /// Compress the value with zstd when that makes it smaller, or surely not. Default: as the
    /// store's settings say.
    pub fn compress(mut self, compress: bool) -> Self {
        self.compress = Some(compress);
        self
    }

    /// What the value is. Default: bytes. Numbers are set with `set_number`.
    pub fn kind(mut self, kind: ValueKind) -> Self {
        self.kind = Some(kind);
        self
    }
}
