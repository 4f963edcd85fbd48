//! Watching a cache: what any process changes, as it happens, from a position on.
//!
//! A coat over `engine/feed.rs`: which changes somebody wants, and what they look like. Never takes
//! the writer lock to look, and never holds anything back from being removed.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::engine::feed::{Feed, Progress, Told, Untold};
use crate::engine::store::{MAIN_SPACE, Store};
use crate::error::{Error, Result};
use crate::format::names::Cause;
use crate::format::record::{Head, Kind, flag, tags_of};
use crate::part::segment::{Read, Segment};
use crate::view::cache::Cache;
use crate::view::prepare;
use crate::view::value::Value;

/// So long a look waits for the end of a change that is being made.
const UNSETTLED: Duration = Duration::from_millis(2);

/// Which changes a [`Watch`] tells.
///
/// ```
/// use larder::WatchFilter;
///
/// let filter = WatchFilter::prefix("user/").with_values();
/// # let _ = filter;
/// ```
#[derive(Clone, Debug, Default)]
pub struct WatchFilter {
    prefix: Vec<u8>,
    tag: Option<Vec<u8>>,
    has_values: bool,
}

impl WatchFilter {
    /// All changes.
    #[must_use]
    pub fn all() -> WatchFilter {
        WatchFilter::default()
    }

    /// Changes of entries whose key begins with `prefix`.
    #[must_use]
    pub fn prefix(prefix: impl AsRef<[u8]>) -> WatchFilter {
        WatchFilter {
            prefix: prefix.as_ref().to_vec(),
            ..WatchFilter::default()
        }
    }

    /// Changes of entries that have the tag, or may have had it until this change.
    ///
    /// No end of an entry with the tag is missed: an overwrite without it is told (its [`Change::tags`]
    /// do not have it), and every removal. What was overwritten or deleted by key with other tags alone is
    /// told too, for the log does not say which they were; entries that never had a tag are not.
    #[must_use]
    pub fn tag(tag: impl AsRef<[u8]>) -> WatchFilter {
        WatchFilter {
            tag: Some(tag.as_ref().to_vec()),
            ..WatchFilter::default()
        }
    }

    /// The value that was set comes with each [`ChangeKind::Set`]. Default: it does not, for it is read
    /// from the log whole; who wants the newest value reads the cache.
    #[must_use]
    pub fn with_values(mut self) -> WatchFilter {
        self.has_values = true;
        self
    }
}

/// What happened to an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ChangeKind {
    /// Stored, or overwritten, or its expiry changed.
    Set,
    /// Removed by its key: `delete`, `pop`, `pull`.
    Deleted,
    /// Removed after it had expired. Readers do not see it from its expiry on, which nobody is told of;
    /// one that is set anew before it is removed is [`ChangeKind::Set`] alone.
    Expired,
    /// Removed by a limit: of size, count, age, or a tag's quota.
    Culled,
    /// Removed with its tag, by `evict_tag`.
    Evicted,
    /// Removed by `clear`.
    Cleared,
}

/// One entry was changed.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Change {
    /// The position behind it: a watch from here on tells what comes after. Entries that went at once
    /// have one position. Grows from change to change, by one or more.
    pub seq: u64,
    /// What happened.
    pub kind: ChangeKind,
    /// Of which entry.
    pub key: Vec<u8>,
    /// Of one that was set: its tags. Of one that was removed other than by its key: those it had.
    pub tags: Vec<Vec<u8>>,
    /// Of one that was set: its value, with [`WatchFilter::with_values`]. `None` too when it is a large one
    /// whose file has gone since.
    pub value: Option<Value>,
}

/// Why changes are not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum GapCause {
    /// The watch fell too far behind: the log no longer has them.
    Behind,
    /// Entries went while nobody watched (or the store was too full to name them): which ones is not
    /// logged then.
    Unnamed,
    /// The log is damaged there, or was, and was repaired.
    Damaged,
    /// The position is of a log that a power loss has cut since, or of another store.
    Rebuilt,
}

/// Changes that are not told. Whoever keeps a picture of the cache takes a new one, then goes on watching.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gap {
    /// The first position that is not told.
    pub from: u64,
    /// The last one. A watch from here on tells what comes after.
    pub to: u64,
    /// Why.
    pub cause: GapCause,
    /// How many entries went, of [`GapCause::Unnamed`] if it is known; they need not be of those watched.
    pub removed: Option<u64>,
}

/// What a [`Watch`] tells.
#[derive(Clone, Debug, PartialEq)]
pub enum WatchEvent {
    /// An entry was changed.
    Change(Change),
    /// Some changes are not told.
    Gap(Gap),
}

impl WatchEvent {
    /// The position behind it.
    #[must_use]
    pub fn seq(&self) -> u64 {
        match self {
            WatchEvent::Change(change) => change.seq,
            WatchEvent::Gap(gap) => gap.to,
        }
    }

    /// The change; `None`: it is a gap.
    #[must_use]
    pub fn change(self) -> Option<Change> {
        match self {
            WatchEvent::Change(change) => Some(change),
            WatchEvent::Gap(_) => None,
        }
    }
}

/// Changes made by any process, in the order in which they happened. Made by [`Cache::watch`].
///
/// A batch is told after all of it has happened, and then all of it. As an iterator it waits for the next
/// change, for ever, and ends after an error. A change is told once it can be read: what the cache then
/// says is as new or newer.
///
/// It costs readers nothing, writers nothing but the names of what they evict, expire or clear, and keeps
/// nothing from being removed but the segment the log was in last. So one that is not asked for long meets
/// a [`Gap`]: after five minutes for what went unnamed since, and sooner where it is behind by a segment
/// that was removed meanwhile; one has
/// [`Settings::segment_size_bytes`](crate::Settings::segment_size_bytes), 1/32 of the store's limit at most.
#[derive(Debug)]
pub struct Watch {
    cache: Cache,
    filter: WatchFilter,
    /// The tag's id, once somebody has used it.
    tag: Option<u32>,
    feed: Feed,
    /// What was met and not told yet, each with the position up to which all is told after it.
    told: VecDeque<(u64, WatchEvent)>,
    /// The position up to which all was told, and the one up to which all was met.
    upto: u64,
    met: u64,
    is_over: bool,
}

impl Cache {
    /// Watches what any process changes from now on: all entries of the cache, or what a filter names.
    /// What views keep in the same store is not told.
    ///
    /// To keep a picture of the cache: begin to watch, then read all there is, then apply what is told. A
    /// [`Gap`] means to read all again.
    ///
    /// ```
    /// use larder::{Cache, ChangeKind, WatchEvent, WatchFilter};
    /// use std::time::Duration;
    ///
    /// let cache = Cache::temporary()?;
    /// let mut watch = cache.watch(WatchFilter::prefix("user/"))?;
    /// cache.set("user/7", "Ada")?;
    /// cache.set("page/1", "…")?;
    /// cache.delete("user/7")?;
    ///
    /// let mut kinds = Vec::new();
    /// while let Some(event) = watch.poll()? {
    ///     match event {
    ///         WatchEvent::Change(change) => kinds.push(change.kind),
    ///         WatchEvent::Gap(gap) => println!("{gap:?}: read everything again"),
    ///     }
    /// }
    /// assert_eq!(kinds, [ChangeKind::Set, ChangeKind::Deleted]);
    /// assert_eq!(watch.next_timeout(Duration::from_millis(5))?, None);
    /// # Ok::<(), larder::Error>(())
    /// ```
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn watch(&self, filter: WatchFilter) -> Result<Watch> {
        let store = self.store()?;
        let next = store.begin_watching();
        Ok(Watch::new(self, filter, next, store.position(next - 1)))
    }

    /// Watches what was changed after a position that [`Watch::seq`], a [`Change`] or a [`Gap`] told, in
    /// this process or another one; 0: all that the log still has. What is no longer in it is told as a
    /// [`Gap`].
    ///
    /// ```
    /// use larder::{Cache, WatchFilter};
    ///
    /// let cache = Cache::temporary()?;
    /// let watch = cache.watch(WatchFilter::all())?;
    /// let seq = watch.seq();
    /// drop(watch);
    /// cache.set("meanwhile", "1")?;
    /// let mut watch = cache.watch_from(WatchFilter::all(), seq)?;
    /// let change = watch.poll()?.and_then(|event| event.change());
    /// assert_eq!(change.map(|change| change.key).as_deref(), Some(&b"meanwhile"[..]));
    /// # Ok::<(), larder::Error>(())
    /// ```
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn watch_from(&self, filter: WatchFilter, seq: u64) -> Result<Watch> {
        let store = self.store()?;
        let now = store.begin_watching();
        let from = if seq == 0 { Some(0) } else { store.seq_of(seq) };
        let Some(from) = from else {
            let mut watch = Watch::new(self, filter, now, seq);
            let gap = Gap {
                from: seq,
                to: store.position(now - 1),
                cause: GapCause::Rebuilt,
                removed: None,
            };
            watch.told.push_back((gap.to, WatchEvent::Gap(gap)));
            watch.met = gap.to;
            return Ok(watch);
        };
        Ok(Watch::new(self, filter, from + 1, seq))
    }
}

impl Watch {
    fn new(cache: &Cache, filter: WatchFilter, next: u64, upto: u64) -> Watch {
        Watch {
            cache: cache.clone(),
            filter,
            tag: None,
            feed: Feed::new(next),
            told: VecDeque::new(),
            upto,
            met: upto,
            is_over: false,
        }
    }

    /// The position up to which all was told: [`Cache::watch_from`] goes on there. In between entries that
    /// went at once it is before the first of them, so they are told again.
    ///
    /// It counts records of the log, from 1; each rebuild of the store's derived files after a power loss or
    /// their removal adds 2^48, for a sequence may come again then.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.upto
    }

    /// The next change, if there is one. Waits for none to begin, and 2 ms at most for the end of one that is
    /// being made.
    ///
    /// # Errors
    /// See [`Cache`]; what was not told stays to be told.
    pub fn poll(&mut self) -> Result<Option<WatchEvent>> {
        let mut has_waited = false;
        loop {
            if let Some(event) = self.pop() {
                return Ok(Some(event));
            }
            match self.look()? {
                Progress::More => {}
                Progress::Unsettled if !has_waited => {
                    has_waited = true;
                    let deadline = Instant::now() + UNSETTLED;
                    self.feed.wait(self.cache.store()?, Some(deadline))?;
                }
                Progress::Unsettled | Progress::End if self.told.is_empty() => return Ok(None),
                Progress::Unsettled | Progress::End => {}
            }
        }
    }

    /// The next change; `None`: there was none for so long.
    ///
    /// # Errors
    /// As [`Watch::poll`].
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<WatchEvent>> {
        // None: further away than the clock goes.
        self.next_until(Instant::now().checked_add(timeout))
    }

    fn next_until(&mut self, deadline: Option<Instant>) -> Result<Option<WatchEvent>> {
        loop {
            if let Some(event) = self.poll()? {
                return Ok(Some(event));
            }
            let store = self.cache.store()?;
            if !self.feed.wait(store, deadline)? {
                return Ok(None);
            }
        }
    }

    fn pop(&mut self) -> Option<WatchEvent> {
        let (upto, event) = self.told.pop_front()?;
        self.upto = match self.told.is_empty() {
            true => self.met,
            false => upto.max(self.upto),
        };
        Some(event)
    }

    /// Looks at some records more.
    fn look(&mut self) -> Result<Progress> {
        let store = self.cache.store()?;
        if let (Some(name), None) = (&self.filter.tag, self.tag) {
            self.tag = store.tag_id(name)?;
        }
        let Watch {
            filter, tag, told, ..
        } = self;
        let progress = self.feed.step(store, &mut |met| {
            // A tag nobody had used then has an id by now, if this is its first use.
            if let (Some(name), None) = (&filter.tag, &tag) {
                *tag = store.tag_id(name)?;
            }
            let wish = Wish {
                store,
                filter,
                tag: *tag,
            };
            wish.take(met, told)
        })?;
        self.met = store.position(self.feed.next() - 1);
        if told.is_empty() {
            self.upto = self.met;
        }
        Ok(progress)
    }
}

impl Iterator for Watch {
    type Item = Result<WatchEvent>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let next = self.next_until(None).transpose();
        self.is_over = matches!(next, Some(Err(_)));
        next
    }
}

/// What is wanted, and in which words it is told.
struct Wish<'w> {
    store: &'w Store,
    filter: &'w WatchFilter,
    tag: Option<u32>,
}

impl Wish<'_> {
    fn take(&self, met: Told<'_>, told: &mut VecDeque<(u64, WatchEvent)>) -> Result<()> {
        match met {
            Told::Entry {
                head,
                options,
                key,
                segment,
                at,
            } => {
                if self.wants_entry(head, options, key) {
                    let event = self.entry((head, options), key, (segment, at))?;
                    told.push_back((event.seq(), event));
                }
            }
            Told::Removed { seq, names } => {
                let before = told.len();
                let (behind, ahead) = (self.store.position(seq), self.store.position(seq - 1));
                for name in names {
                    let has_tag = self.filter.tag.is_none()
                        || self.tag.is_some_and(|tag| name.tags.contains(&tag));
                    let is_wanted = name.space == MAIN_SPACE
                        && has_tag
                        && name.key.starts_with(&self.filter.prefix);
                    if is_wanted {
                        let change = Change {
                            seq: behind,
                            kind: kind_of(name.cause),
                            key: name.key,
                            tags: self.tag_names(name.tags.into_iter())?,
                            value: None,
                        };
                        told.push_back((ahead, WatchEvent::Change(change)));
                    }
                }
                if let Some((upto, _)) = told.range_mut(before..).next_back() {
                    *upto = behind;
                }
            }
            Told::Gap { from, to, why } => {
                let (cause, removed) = match why {
                    Untold::Behind => (GapCause::Behind, None),
                    Untold::Unnamed(removed) => (GapCause::Unnamed, removed),
                    Untold::Damaged => (GapCause::Damaged, None),
                };
                let gap = Gap {
                    from: self.store.position(from),
                    to: self.store.position(to),
                    cause,
                    removed,
                };
                told.push_back((gap.to, WatchEvent::Gap(gap)));
            }
        }
        Ok(())
    }

    fn wants_entry(&self, head: &Head, options: &[u8], key: &[u8]) -> bool {
        if head.options.space != MAIN_SPACE || !key.starts_with(&self.filter.prefix) {
            return false;
        }
        self.filter.tag.is_none()
            || head.flags & flag::UNTAGS != 0
            || tags_of(head, options).any(|id| Some(id) == self.tag)
    }

    fn entry(
        &self,
        (head, options): (&Head, &[u8]),
        key: &[u8],
        (segment, at): (&Segment, u64),
    ) -> Result<WatchEvent> {
        let seq = self.store.position(head.seq);
        let is_set = head.kind == Kind::Set;
        let mut change = Change {
            seq,
            kind: if is_set {
                ChangeKind::Set
            } else {
                ChangeKind::Deleted
            },
            key: key.to_vec(),
            tags: self.tag_names(tags_of(head, options))?,
            value: None,
        };
        if is_set && self.filter.has_values {
            let mut bytes = Vec::new();
            let value = match segment.read(&self.store.dir, at, &mut bytes)? {
                Read::Whole(head) => prepare::value_of(self.store, &head, bytes),
                Read::Damaged(_) => Err(Error::corrupt(self.store.dir.path(), at, "a value")),
            };
            change.value = match value {
                Err(Error::Corrupt { .. }) => {
                    return Ok(WatchEvent::Gap(Gap {
                        from: seq,
                        to: seq,
                        cause: GapCause::Damaged,
                        removed: None,
                    }));
                }
                value => value?,
            };
        }
        Ok(WatchEvent::Change(change))
    }

    fn tag_names(&self, ids: impl Iterator<Item = u32>) -> Result<Vec<Vec<u8>>> {
        let names = ids.map(|id| self.store.tag_name(id));
        // The name of one may be lost by damage: nobody knows it any more.
        let is_known = |name: &Result<Vec<u8>>| !matches!(name, Err(Error::Corrupt { .. }));
        names.filter(is_known).collect()
    }
}

fn kind_of(cause: Cause) -> ChangeKind {
    match cause {
        Cause::Cleared => ChangeKind::Cleared,
        Cause::Expired => ChangeKind::Expired,
        Cause::Culled => ChangeKind::Culled,
        Cause::Evicted => ChangeKind::Evicted,
        Cause::Repaired => ChangeKind::Deleted,
    }
}
