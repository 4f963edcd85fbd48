//! An embedded storage engine for caches, queues and indexes that several processes on one host share
//! and that outlive them all: an append-only log of segment files, found through a memory-mapped hash
//! index, written under one lock that dies with its holder.
//!
//! [`Cache`] is where to begin:
//!
//! ```
//! use larder::{Cache, SetOptions};
//! use std::time::Duration;
//!
//! let cache = Cache::temporary()?; // or Cache::open("some/dir")
//! cache.set("answer", "42")?;
//! cache.set_with("session", "…", &SetOptions::default().ttl(Duration::from_secs(60)).tag("run-7"))?;
//! assert_eq!(cache.get("answer")?.as_deref(), Some(&b"42"[..]));
//! assert_eq!(cache.incr("visits", 1, 0)?.to_string(), "1");
//! # Ok::<(), larder::Error>(())
//! ```
//!
//! [`Fanout`] is the same in several shards, for several processes that write at a time.
//!
//! Views on the same log, each in a directory of its own or by its name inside a store:
//!
//! | view | what it is |
//! |---|---|
//! | [`Cache`], [`Typed`] | keys and values, with expiry, tags and eviction |
//! | [`Fanout`] | one store in several shards, for several writers at a time |
//! | [`Deque`], [`Index`] | a sequence with two ends; an ordered map |
//! | [`Queue`] | durable jobs, leased and acked |
//! | [`Lock`], [`RLock`], [`RwLock`], [`BoundedSemaphore`], [`Throttle`] | staying out of each other's way |
//! | [`Cache::get_or_compute`], [`Memo`], [`Cache::once`], [`Averager`] | computing things once |
//! | [`Watch`] | what any process changes, as it happens |
//!
//! With the feature `tokio`, `AsyncCache` and `AsyncQueue` are for tasks.
//!
//! What is promised, and why it holds, is in `DESIGN.md` beside the source.

#[cfg(not(all(
    target_os = "linux",
    target_pointer_width = "64",
    target_endian = "little"
)))]
compile_error!(
    "larder runs on Linux on 64-bit little-endian machines: its files are mapped, and its locks are Linux's"
);

mod engine;
mod error;
mod format;
mod limits;
mod os;
mod part;
pub mod policy;
mod view;

#[cfg(fuzzing)]
pub mod fuzzing;

pub use engine::findings::{CheckReport, Depth, Finding, FindingKind};
pub use engine::mend::{Lost, RepairReport};
pub use engine::snapshot::SnapshotReport;
pub use engine::upkeep::{Budget, UpkeepReport};
pub use error::{Error, Result};
pub use format::key::{KEY_DEPTH_MAX, Key, KeyPart};
pub use format::settings::{Compression, Durability, Settings};
pub use limits::{
    BATCH_BYTES_MAX, KEY_LEN_MAX, LARGE_VALUE_MAX, LARGE_VALUE_MIN, PARTICIPANTS_MAX,
    SEGMENT_SIZE_MAX, SEGMENT_SIZE_MIN, SHARDS_MAX, SIZE_LIMIT_MIN, SPACES_MAX, STREAMS_MAX,
    TAG_LEN_MAX, TAGS_MAX,
};
pub use os::clock::{Clock, ManualClock, SystemClock};
pub use os::raw::Mapped;
pub use policy::{CullPolicy, Policy};
#[cfg(feature = "tokio")]
pub use view::async_cache::{AsyncCache, AsyncIter, AsyncWatch};
#[cfg(feature = "tokio")]
pub use view::async_queue::{AsyncJob, AsyncQueue};
pub use view::builder::Builder;
pub use view::cache::Cache;
pub use view::cache_upkeep::{TagIter, TagMatch, TagUsage};
pub use view::codec::{BINCODE_LEN_MAX, Bincode, Codec, Json, Raw};
pub use view::deque::Deque;
pub use view::fanout::Fanout;
pub use view::fanout::merge::{FanoutIter, FanoutKeys};
pub use view::fanout::reshard::{ReshardProgress, ReshardReport};
pub use view::fanout::transaction::FanoutTransaction;
pub use view::hold::Hold;
pub use view::index::Index;
pub use view::iter::{Iter, Keys, Sorted};
pub use view::log::{LogIter, LogLine};
pub use view::options::{Expiry, SetOptions, Side};
pub use view::pack::{PackChoice, PackProgress, PackReport};
pub use view::reader::ValueReader;
pub use view::recipes::averager::Averager;
pub use view::recipes::compute::ComputeOptions;
pub use view::recipes::guard::{Guard, Holding};
pub use view::recipes::lock::Lock;
pub use view::recipes::memo::Memo;
pub use view::recipes::rlock::{RGuard, RLock};
pub use view::recipes::rw_lock::RwLock;
pub use view::recipes::semaphore::BoundedSemaphore;
pub use view::recipes::throttle::Throttle;
#[doc(hidden)]
pub use view::shelf::Shelf;
pub use view::space::ViewKind;
pub use view::stats::Stats;
pub use view::transaction::Transaction;
pub use view::typed::{Typed, TypedEntry};
pub use view::unpack::{UnpackOptions, UnpackProgress, UnpackReport};
pub use view::value::{CODEC_ID_MAX, Description, Entry, Number, Value, ValueKind};
pub use view::watch::{Change, ChangeKind, Gap, GapCause, Watch, WatchEvent, WatchFilter};
pub use view::work_queue::{DeadLetter, Job, LeaseId, PushOptions, Queue};
