//! Every limit of the format, with its unit. Owns numbers; never code that acts on them.

/// The longest key, bytes (64 KiB). A longer one is [`Error::TooLarge`](crate::Error::TooLarge).
pub const KEY_LEN_MAX: usize = 64 * 1024;
/// The most tags one entry carries.
pub const TAGS_MAX: usize = 1_000;
/// The longest tag, bytes.
pub const TAG_LEN_MAX: usize = 1_024;
/// The smallest segment, bytes; also the first step in which space is taken.
pub const SEGMENT_SIZE_MIN: u64 = 64 * 1024;
/// The largest segment a setting may ask for, bytes.
pub const SEGMENT_SIZE_MAX: u64 = 256 * 1024 * 1024;
/// No segment file is ever longer than this: 26 bits of 8-byte units, bytes.
pub(crate) const SEGMENT_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// The smallest limit from which values go to files of their own, bytes.
pub const LARGE_VALUE_MIN: u64 = 1024;
/// The largest such limit, bytes.
pub const LARGE_VALUE_MAX: u64 = 8 * 1024 * 1024;
/// The smallest `size_limit_bytes` (1 MiB): an empty store takes up to 256 KiB.
pub const SIZE_LIMIT_MIN: u64 = 1024 * 1024;
/// The largest atomic batch, bytes of framed records; also at most a quarter of `size_limit_bytes`.
pub const BATCH_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Handles (of all processes) one store serves at a time.
pub const PARTICIPANTS_MAX: usize = 128;
/// Values streamed in at the same time, by all processes.
pub const STREAMS_MAX: usize = 64;
/// Named spaces with an order of their own: a deque has two, an index one, a queue three; two are
/// the store's own.
pub const SPACES_MAX: usize = 256;
/// Rows of the segment table; row 0 is never used.
pub(crate) const SEGMENT_SLOTS: usize = 1 << 16;
/// Segments, and what is allocated of them, come in pieces of this many bytes.
pub(crate) const SEGMENT_STEP: u64 = 16 * 1024;
/// A reader starts over at most this often before it answers `Busy`.
pub(crate) const RETRIES_MAX: u32 = 100_000;
/// The longest chain of overflow buckets a reader follows.
pub(crate) const CHAIN_MAX: u32 = 4_096;
/// Room at the end of the active segment that only deletes may use, bytes.
pub(crate) const RESERVE_BYTES: u64 = 16 * 1024;
/// Shards a store is divided into at most.
pub const SHARDS_MAX: usize = 256;
