//! How a store is opened, and with which settings.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::keeper;
use crate::engine::open::Wish;
use crate::error::Result;
use crate::format::settings::{Compression, Durability, Settings};
use crate::os::clock::{Clock, SystemClock};
use crate::policy::{CullPolicy, Policy};
use crate::view::cache::Cache;
use crate::view::fanout::{self, Fanout};
use crate::view::handle::Handle;

type Setter = Arc<dyn Fn(&mut Settings) + Send + Sync>;

/// Opens a store; what is set here is set for every process, and kept.
///
/// ```
/// use larder::{Cache, Durability};
///
/// # let dir = tempfile::tempdir().unwrap();
/// let cache = Cache::builder().size_limit_bytes(64 << 20).durability(Durability::Sync).open(dir.path())?;
/// cache.close()?;
/// // A later open without settings keeps them.
/// assert_eq!(Cache::open(dir.path())?.settings()?.size_limit_bytes, 64 << 20);
/// # Ok::<(), larder::Error>(())
/// ```
#[derive(Clone)]
#[must_use]
pub struct Builder {
    setters: Vec<Setter>,
    clock: Arc<dyn Clock>,
    create: bool,
    keeps: bool,
    own_policy: Option<Arc<dyn CullPolicy>>,
    any_filesystem: bool,
    read_only: bool,
}

impl Default for Builder {
    fn default() -> Self {
        Builder {
            setters: Vec::new(),
            clock: Arc::new(SystemClock),
            create: true,
            keeps: false,
            own_policy: None,
            any_filesystem: false,
            read_only: false,
        }
    }
}

impl Builder {
    fn with(mut self, setter: impl Fn(&mut Settings) + Send + Sync + 'static) -> Self {
        self.setters.push(Arc::new(setter));
        self
    }

    /// Bytes the directory may take on disk. Default 1 GiB.
    pub fn size_limit_bytes(self, bytes: u64) -> Self {
        self.with(move |settings| settings.size_limit_bytes = bytes)
    }

    /// Bytes of a segment file. Default 64 MiB.
    pub fn segment_size_bytes(self, bytes: u64) -> Self {
        self.with(move |settings| settings.segment_size_bytes = bytes)
    }

    /// Values from this length on get a file of their own. Default 1 MiB.
    pub fn large_value_bytes(self, bytes: u64) -> Self {
        self.with(move |settings| settings.large_value_bytes = bytes)
    }

    /// When an acknowledged write survives power loss. Default [`Durability::Process`].
    pub fn durability(self, durability: Durability) -> Self {
        self.with(move |settings| settings.durability = durability)
    }

    /// How long a write waits for the writer lock; `None`: for ever. Default 60 s.
    pub fn lock_timeout(self, timeout: Option<Duration>) -> Self {
        self.with(move |settings| settings.lock_timeout = timeout)
    }

    /// When values are compressed. Default: when a write asks for it.
    pub fn compression(self, compression: Compression) -> Self {
        self.with(move |settings| settings.compression = compression)
    }

    /// The ttl of writes that name none. Default: they never expire.
    pub fn default_ttl(self, ttl: Option<Duration>) -> Self {
        self.with(move |settings| settings.default_ttl = ttl)
    }

    /// Who goes when the store is full. Default [`Policy::default`].
    pub fn policy(self, policy: Policy) -> Self {
        self.with(move |settings| settings.policy = policy)
    }

    /// The most entries; `None`: as many as fit. The default.
    pub fn count_limit(self, entries: Option<u64>) -> Self {
        self.with(move |settings| settings.count_limit = entries)
    }

    /// Entries stored longer ago than this are over; `None`: however old. The default.
    pub fn max_age(self, age: Option<Duration>) -> Self {
        self.with(move |settings| settings.max_age = age)
    }

    /// The most entries one write evicts or removes as expired; `None`: until it fits. The default.
    pub fn cull_limit(self, entries: Option<u64>) -> Self {
        self.with(move |settings| settings.cull_limit = entries)
    }

    /// Count hits and misses. Default true.
    pub fn statistics(self, count: bool) -> Self {
        self.with(move |settings| settings.statistics = count)
    }

    /// Where the time comes from. Default [`SystemClock`]; of this handle alone.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Whether a store that is missing is made. Default true; false: it is
    /// [`Error::NotAStore`](crate::Error::NotAStore), and nothing is made.
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// Maintains the store in a thread of this process while it is open: expires, culls, compacts, gives
    /// files back, so that writers seldom have to. Of all processes that ask for it one does it at a time;
    /// when that dies or closes, another. Default false: writers do it beside their writes. A child of a
    /// fork does not.
    pub fn background_maintenance(mut self, maintain: bool) -> Self {
        self.keeps = maintain;
        self
    }

    /// A policy of the caller's own, for the culls this handle does; others follow the settings' policy.
    pub fn custom_policy(mut self, policy: Arc<dyn CullPolicy>) -> Self {
        self.own_policy = Some(policy);
        self
    }

    /// Takes any filesystem, for one handle alone: others wait for it to close. Default false.
    pub fn allow_any_filesystem(mut self, allow: bool) -> Self {
        self.any_filesystem = allow;
        self
    }

    /// Opens a store to read it alone, and changes not one byte of it. Default false.
    ///
    /// For a store on a read-only mount, or in files the process may only read. Verbs that write are
    /// [`Error::ReadOnly`](crate::Error::ReadOnly), and so are settings given here that are not the
    /// store's; `lock_timeout` alone is this handle's own, and bounds the opening. What reading notes
    /// elsewhere (hits, misses, times of access) is not kept.
    ///
    /// Nobody may write to the store meanwhile. Who has it open for writing makes this
    /// [`Error::Busy`](crate::Error::Busy) at once; who wants to open it for writing waits, as for
    /// another opener, until the last read-only handle and iterator is dropped. Any number read it side
    /// by side. In a copy without its `gate` file no writer is noticed: what is read is still checked
    /// whole, but may be old or missing.
    ///
    /// A store that was left without [`Cache::close`] in another boot, on another mount or before it was
    /// copied is rebuilt from its log in memory at each such open: that reads all of the log, and takes
    /// about 35 bytes of memory an entry, several times that while it lasts. The newest segment is one
    /// in memory then.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let cache = larder::Cache::open(dir.path())?;
    /// # cache.set("answer", "42")?;
    /// # cache.close()?;
    /// let cache = larder::Cache::builder().read_only(true).open(dir.path())?;
    /// assert_eq!(cache.get("answer")?.as_deref(), Some(&b"42"[..]));
    /// assert!(matches!(cache.delete("answer"), Err(larder::Error::ReadOnly { .. })));
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Opens the store in `dir`, making or rebuilding it as needed.
    ///
    /// Takes under 1 ms whatever it holds, unless the derived files must be rebuilt from the log.
    ///
    /// # Errors
    /// [`NotAStore`](crate::Error::NotAStore), [`Unsupported`](crate::Error::Unsupported) (a newer
    /// format, a filesystem), [`InvalidSetting`](crate::Error::InvalidSetting),
    /// [`Busy`](crate::Error::Busy) (another opener did not finish in time, or reads alone),
    /// [`NoSpace`](crate::Error::NoSpace), [`Corrupt`](crate::Error::Corrupt),
    /// [`Io`](crate::Error::Io). A directory that is no store is left as it was.
    pub fn open(self, dir: impl AsRef<Path>) -> Result<Cache> {
        let mut settings = Settings::default();
        self.apply(&mut settings);
        settings.validate().or_else(|error| {
            // It may fit an existing store's other settings: that is decided below.
            if dir.as_ref().exists() {
                Ok(())
            } else {
                Err(error)
            }
        })?;
        let wish = self.wish(settings);
        let cache = Cache::of(Handle::open(dir.as_ref(), wish)?);
        if !self.setters.is_empty() {
            let before = cache.settings()?;
            let mut after = before.clone();
            self.apply(&mut after);
            after.validate()?;
            if self.read_only {
                after.lock_timeout = before.lock_timeout;
            }
            if after.to_words() != before.to_words() {
                cache.update_settings(|settings| self.apply(settings))?;
            }
        }
        self.begin(&cache)?;
        Ok(cache)
    }

    /// Opens the store in `dir` that is divided into shards, or makes one; `shards`: into how many, `None`:
    /// as many as it has, a new one by the number of processors.
    ///
    /// What is set here is for the whole: `size_limit_bytes` and `count_limit` of all shards together. A
    /// policy given by [`Builder::custom_policy`] culls each shard for itself.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// let fanout = larder::Cache::builder().size_limit_bytes(64 << 20).open_fanout(dir.path(), 4)?;
    /// fanout.set("answer", "42")?;
    /// assert_eq!((fanout.shards(), fanout.settings()?.size_limit_bytes), (4, 64 << 20));
    /// # Ok::<(), larder::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Builder::open`]; [`InvalidSetting`](crate::Error::InvalidSetting), which says the right number,
    /// when the store has another number of shards ([`Fanout::reshard`] changes it), and when a shard's
    /// part of a limit would be below [`SIZE_LIMIT_MIN`](crate::SIZE_LIMIT_MIN).
    pub fn open_fanout(
        self,
        dir: impl AsRef<Path>,
        shards: impl Into<Option<usize>>,
    ) -> Result<Fanout> {
        fanout::open::open(&self, dir.as_ref(), shards.into())
    }

    pub(super) fn wish(&self, settings: Settings) -> Wish {
        Wish {
            create: self.create && !self.read_only,
            read_only: self.read_only,
            as_shard: false,
            any_filesystem: self.any_filesystem,
            clock: Arc::clone(&self.clock),
            // The opening waits for another's as long as a write would.
            timeout: settings.lock_timeout,
            settings,
        }
    }

    /// What runs beside an opened store, if it was asked for.
    pub(super) fn begin(&self, cache: &Cache) -> Result<()> {
        if self.read_only {
            return Ok(());
        }
        cache.start_syncing()?;
        let store = cache.store()?;
        if let Some(policy) = &self.own_policy {
            // A new handle has none yet.
            let _ = store.own_policy.set(Arc::clone(policy));
        }
        if self.keeps && !store.dir.is_read_only() {
            keeper::start(store);
        }
        Ok(())
    }

    /// Whether anything was set.
    pub(super) fn has_settings(&self) -> bool {
        !self.setters.is_empty()
    }

    pub(super) fn apply(&self, settings: &mut Settings) {
        for setter in &self.setters {
            setter(settings);
        }
    }
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut settings = Settings::default();
        self.apply(&mut settings);
        f.debug_struct("Builder")
            .field("settings", &settings)
            .field("create", &self.create)
            .finish_non_exhaustive()
    }
}
