//! The file `larder`: who the store is, and the words its processes share. 48 KiB, mapped.
//!
//! Everything here is derived or rebuilt with a loss of statistics only. Offsets are bytes; every
//! word is a u64 unless it says otherwise; a word several cores write has a cache line of its own.
//! Owns the layout; never reads or writes it.

/// The version of everything on disk; a store of another one is refused by name.
pub(crate) const FORMAT_VERSION: u32 = 1;
pub(crate) const MAGIC: &[u8; 8] = b"larder.h";
pub(crate) const HEADER_LEN: u64 = 48 * 1024;

// Identity: written once, under IDENTITY_CRC.
pub(crate) const MAGIC_AT: u64 = 0;
/// Version u32, features u32.
pub(crate) const VERSION_AT: u64 = 8;
pub(crate) const UUID_AT: u64 = 16;
pub(crate) const HASH_SEED_AT: u64 = 32;
pub(crate) const CREATED_MS_AT: u64 = 40;
pub(crate) const IDENTITY_CRC_AT: u64 = 48;

/// While a rebuild runs: the sequence it knows nothing is missing up to 48, whose home 16 bits.
pub(crate) const KNOWN_AT: u64 = 56;

// Trust: what an opener who finds nobody alive believes.
/// Generation of the derived files.
pub(crate) const GENERATION_AT: u64 = 64;
pub(crate) const BOOT_ID_AT: u64 = 72;
pub(crate) const MOUNT_ID_AT: u64 = 88;
/// seq + 1 at which everything was durable and the store closed; 0: not clean.
pub(crate) const CLEAN_AT: u64 = 96;
/// Inode numbers: header, gate, keymap, over, segs, lists, posts.
pub(crate) const INODES_AT: u64 = 104;
pub(crate) const INODES: usize = 7;
/// CRC-32 of the words from 64 to here and of the quiet region; low half. High half: low 32 bits of seq.
pub(crate) const QUIET_AT: u64 = 168;
/// Set by whoever meets a damaged derived structure: the next opener alone rebuilds.
pub(crate) const SUSPECT_AT: u64 = 176;

// Settings, 16 words and their CRC.
pub(crate) const SETTINGS_AT: u64 = 192;
pub(crate) const SETTINGS_WORDS: u64 = 16;
pub(crate) const SETTINGS_CRC_AT: u64 = SETTINGS_AT + SETTINGS_WORDS * 8;

// Shared words.
/// Participant 16, incarnation 47, waiters 1: who holds the writer lock.
pub(crate) const OWNER_AT: u64 = 4096;
/// Since when, ms since 1970; for messages.
pub(crate) const OWNER_SINCE_AT: u64 = OWNER_AT + 64;
/// How often the lock was taken.
pub(crate) const TAKES_AT: u64 = OWNER_AT + 72;
/// The newest sequence number readers may see.
pub(crate) const COMMITTED_AT: u64 = 4224;
/// How far the keymap has grown.
pub(crate) const SPLIT_AT: u64 = 4288;
/// Bucket being split + 1; 0: none.
pub(crate) const SPLITTING_AT: u64 = 4296;
/// Goes up when a segment's file is removed: handles drop their mappings of those that are gone.
pub(crate) const GONE_AT: u64 = 4304;
/// Place bits: where the next record goes.
pub(crate) const TAIL_AT: u64 = 4352;
/// Records in the active segment.
pub(crate) const TAIL_COUNT_AT: u64 = 4360;
/// Place bits of the last record.
pub(crate) const LAST_AT: u64 = 4368;
/// Bytes of the active segment allocated from the front.
pub(crate) const FRONT_AT: u64 = 4376;
/// Bytes of the active segment allocated at the back, for summaries.
pub(crate) const BACK_AT: u64 = 4384;
/// Id of a segment being made; 0: none. A dead maker's file is removed.
pub(crate) const MAKING_AT: u64 = 4392;
/// Words in use in the keymap.
pub(crate) const KEYMAP_USED_AT: u64 = 4416;
/// Overflow buckets handed out.
pub(crate) const OVER_USED_AT: u64 = 4424;
/// Bytes allocated: keymap, overflow, segment table.
pub(crate) const KEYMAP_BYTES_AT: u64 = 4432;
pub(crate) const OVER_BYTES_AT: u64 = 4440;
pub(crate) const SEGS_BYTES_AT: u64 = 4448;
/// Rows of the segment table handed out (row 0 never is).
pub(crate) const SEGS_USED_AT: u64 = 4456;
/// Next tag id.
pub(crate) const NEXT_TAG_AT: u64 = 4464;
/// A batch or kill list being applied: first place bits (0: none), end offset, records done, last
/// seq, check.
pub(crate) const PENDING_AT: u64 = 4480;
pub(crate) const PENDING_END_AT: u64 = 4488;
pub(crate) const PENDING_DONE_AT: u64 = 4496;
pub(crate) const PENDING_SEQ_AT: u64 = 4504;
pub(crate) const PENDING_CHECK_AT: u64 = 4512;
/// Space 16, and how many entries that has once the pending batch is seen, 48.
pub(crate) const PENDING_COUNT_AT: u64 = 4520;
/// Records in the pending batch.
pub(crate) const PENDING_LEN_AT: u64 = 4528;
/// Everything up to this sequence is durable.
pub(crate) const DURABLE_AT: u64 = 4544;
/// Goes up at each failed sync.
pub(crate) const FAULTS_AT: u64 = 4552;
/// Lowest id of a segment that may hold bytes not yet durable.
pub(crate) const UNSYNCED_AT: u64 = 4560;
/// Sequence of the newest record whose value is in a file of its own.
pub(crate) const APART_SEQ_AT: u64 = 4568;
/// Goes up when a file appears in the directory; the last one that was synced.
pub(crate) const NAMES_AT: u64 = 4576;
pub(crate) const NAMES_DURABLE_AT: u64 = 4584;
/// Bytes on disk of all files, as they were allocated.
pub(crate) const DISK_BYTES_AT: u64 = 4592;
/// Next id of a segment or value file.
pub(crate) const NEXT_FILE_AT: u64 = 4608;
/// Graves: ring positions taken and given back.
pub(crate) const GRAVES_HEAD_AT: u64 = 4672;
pub(crate) const GRAVES_TAIL_AT: u64 = 4680;
/// Bytes of the files in graves.
pub(crate) const GRAVES_BYTES_AT: u64 = 4688;
/// Bytes of records since the last mark, and the durable sequence it names.
pub(crate) const UNMARKED_BYTES_AT: u64 = 4696;
pub(crate) const MARKED_AT: u64 = 4704;
/// Statistics kept by writers.
pub(crate) const STATS_AT: u64 = 4736;

/// Redo journal: one word of length and check, then (address, value) pairs.
pub(crate) const JOURNAL_AT: u64 = 5120;
pub(crate) const JOURNAL_PAIRS: usize = 96;

// The second lane, where compaction and culling copy records to; as TAIL, TAIL_COUNT, FRONT, BACK.
pub(crate) const COPY_TAIL_AT: u64 = 6720;
pub(crate) const COPY_COUNT_AT: u64 = 6728;
pub(crate) const COPY_FRONT_AT: u64 = 6736;
pub(crate) const COPY_BACK_AT: u64 = 6744;
/// Bytes of the cache's own entries (as in `volume`) whose record is in the second lane.
pub(crate) const COPY_VOLUME_AT: u64 = 6752;
/// Where the policy's hand is in each lane: id of the segment, index of the record.
pub(crate) const LOG_HAND_AT: u64 = 6760;
pub(crate) const COPY_HAND_AT: u64 = 6776;
/// The sequence with which the log went on after the last rebuild, and how many lives it has had.
pub(crate) const LIFE_SEQ_AT: u64 = 6928;
pub(crate) const LIFE_AT: u64 = 6960;
/// Sequence of the newest mark.
pub(crate) const MARK_SEQ_AT: u64 = 6792;
/// Id of a segment whose file is being removed, 48 bits, and a check of it; 0: none. See [`checked_id`].
pub(crate) const UNMAKING_AT: u64 = 6800;
/// Rows of the list table, and posting blocks: bytes allocated, blocks handed out, first free block.
pub(crate) const LISTS_BYTES_AT: u64 = 6808;
pub(crate) const POSTS_BYTES_AT: u64 = 6816;
pub(crate) const POSTS_USED_AT: u64 = 6824;
pub(crate) const POSTS_FREE_AT: u64 = 6832;
/// Every expiry list up to this second (since the store's birth) has been walked.
pub(crate) const EXPIRED_UPTO_AT: u64 = 6840;
/// 1: the limit was lowered below what is on disk; until that is within it, removing and copying go on.
pub(crate) const LOWERED_AT: u64 = 6848;
/// The ghost table: its slots, as a power of two (0: there is none), and how many it has taken.
pub(crate) const GHOST_BITS_AT: u64 = 6912;
pub(crate) const GHOST_TAKEN_AT: u64 = 6920;
/// Id of the segment being compacted (0: none), and the index of the record it goes on with.
pub(crate) const COMPACTING_AT: u64 = 6936;
/// Participant that writes an order list anew, as in OWNER; 0: none.
pub(crate) const DENSIFYING_AT: u64 = 6952;
/// Participant that does background maintenance, as in OWNER; 0: none.
pub(crate) const KEEPER_AT: u64 = 6976;
/// Somebody watches the store until then, ms since 1970 by the system's clock: what goes is logged by name.
pub(crate) const WATCHED_UNTIL_AT: u64 = 7040;
/// The highest sequence that a removed segment of the log may have had, with a check; 0: none was
/// removed. See [`checked_id`].
pub(crate) const FEED_LOST_AT: u64 = 7048;
/// Where the words of upkeep end.
pub(crate) const UPKEEP_END: u64 = 7104;
/// Of a shard of several: number of the batch across shards that has a part here not yet applied; 0:
/// none. The largest number: the store has moved to other shards (`engine/crossing.rs`). Of the first
/// shard: the newest such batch that readers may see. Not under QUIET: an opener finds both from the log.
pub(crate) const CROSSING_AT: u64 = 7104;
pub(crate) const DECIDED_AT: u64 = 7112;

/// Named spaces: see [`space`].
pub(crate) const SPACES_AT: u64 = 32768;
pub(crate) const SPACE_LEN: u64 = 64;
pub(crate) mod space {
    /// Cells in the order list.
    pub(crate) const CELLS: u64 = 0;
    /// All cells before this one are dead.
    pub(crate) const HEAD: u64 = 8;
    /// All cells from this one on are dead.
    pub(crate) const TAIL: u64 = 16;
    /// Entries, expired ones included.
    pub(crate) const COUNT: u64 = 24;
    /// Bytes of keys, values and record headers.
    pub(crate) const VOLUME: u64 = 32;
    /// Generation of its order file; 0: none yet.
    pub(crate) const GENERATION: u64 = 40;
    /// Bytes allocated of it.
    pub(crate) const BYTES: u64 = 48;
    /// The fewest cells it has had since a denser list was begun.
    pub(crate) const FEWEST: u64 = 56;
    /// Instead of a generation: another file takes its place.
    pub(crate) const CHANGING: u64 = 1 << 47;
}

/// Bells: how often it rang u32, spare, who waits for it u32, spare. See `engine/bell.rs`.
pub(crate) const BELLS_AT: u64 = 31744;
pub(crate) const BELLS: u64 = 64;
pub(crate) const BELL_LEN: u64 = 16;

/// Values being streamed in: id (0: free), owner (as in OWNER), bytes reserved, spare.
pub(crate) const STREAMS_AT: u64 = 12288;
pub(crate) const STREAM_LEN: u64 = 32;
/// Dead value files, not yet durably so: id, sequence of the death.
pub(crate) const GRAVES_AT: u64 = 14336;
pub(crate) const GRAVES: u64 = 128;
/// Participants: see [`participant`].
pub(crate) const PARTICIPANTS_AT: u64 = 16384;
pub(crate) const PARTICIPANT_LEN: u64 = 64;
pub(crate) mod participant {
    pub(crate) const INCARNATION: u64 = 0;
    /// Inode of its lock file.
    pub(crate) const INODE: u64 = 8;
    /// For messages.
    pub(crate) const PID: u64 = 16;
    pub(crate) const HITS: u64 = 24;
    pub(crate) const MISSES: u64 = 32;
    /// The inode again, turned by 7 bits.
    pub(crate) const INODE_CHECK: u64 = 40;
    /// Microseconds that hits have saved, by the cost their entries name.
    pub(crate) const SAVED_US: u64 = 48;
}
/// Tick 32, second 32: the logical clock of accesses (`engine/ticks.rs`).
pub(crate) const CLOCK_AT: u64 = 24576;
/// Ticks that began with a new second: levels of 32 (tick 32, second 32), level n by 2^n seconds.
pub(crate) const RING_AT: u64 = 24640;
pub(crate) const RING_LEVELS: u64 = 26;
pub(crate) const RING_LEN: u64 = 32;
const _: () =
    assert!(PARTICIPANTS_AT + PARTICIPANT_LEN * crate::limits::PARTICIPANTS_MAX as u64 == CLOCK_AT);
const _: () = assert!(RING_AT + RING_LEVELS * RING_LEN * 8 <= BELLS_AT);
const _: () = assert!(BELLS_AT + BELLS * BELL_LEN == SPACES_AT);
const _: () = assert!(JOURNAL_AT + 8 + JOURNAL_PAIRS as u64 * 16 <= COPY_TAIL_AT);
const _: () = assert!(UPKEEP_END <= CROSSING_AT && DECIDED_AT < STREAMS_AT);
const _: () = assert!(SPACES_AT + SPACE_LEN * crate::limits::SPACES_MAX as u64 == HEADER_LEN);
const _: () = assert!(STREAMS_AT + STREAM_LEN * crate::limits::STREAMS_MAX as u64 == GRAVES_AT);
const _: () = assert!(GRAVES_AT + GRAVES * 16 == PARTICIPANTS_AT);

/// An id with a check: a flipped bit must not name another file.
pub(crate) fn checked_id(id: u64) -> u64 {
    let id = id & ((1 << 48) - 1);
    id | u64::from(crc32fast::hash(&id.to_le_bytes()) & 0xFFFF) << 48
}

/// The id of a checked word; `None`: none, or damaged.
pub(crate) fn id_of_checked(word: u64) -> Option<u64> {
    let id = word & ((1 << 48) - 1);
    (id != 0 && checked_id(id) == word).then_some(id)
}

/// The words a graceful leave puts under QUIET: byte ranges.
pub(crate) const QUIET_RANGES: [(u64, u64); 6] = [
    (GENERATION_AT, QUIET_AT),
    (COMMITTED_AT, STATS_AT),
    (JOURNAL_AT, JOURNAL_AT + 8),
    (COPY_TAIL_AT, KEEPER_AT),
    (STREAMS_AT, PARTICIPANTS_AT),
    (SPACES_AT, HEADER_LEN),
];

/// A row of the segment table.
pub(crate) const ROW_LEN: u64 = 64;
pub(crate) mod row {
    /// The segment's id; 0: the row is free.
    pub(crate) const ID: u64 = 0;
    /// State 8, spare 27, of the second lane 1, pages allocated for records 28 (0: not known).
    pub(crate) const STATE: u64 = 8;
    /// Bytes of records that entries still need; of an empty one: the sequence at which it became so.
    pub(crate) const LIVE: u64 = 16;
    /// Smallest sequence of a dead record; 0: none.
    pub(crate) const DEAD_SEQ: u64 = 24;
    /// No record of it has a smaller sequence.
    pub(crate) const FIRST_SEQ: u64 = 32;
    /// Of a sealed segment: end of its records, 8 bytes each, 32; how many they are 32. 0: not known.
    pub(crate) const LINES: u64 = 40;
    /// Where the records of a sealed segment end, bytes; 0: not known.
    pub(crate) const END: u64 = 48;
    /// Of the second lane: bytes of deletes, kills and drops that were needed when they came here.
    pub(crate) const NOTES: u64 = 56;
}
/// Of a row's state word: pages allocated for records.
pub(crate) const FRONT_MASK: u64 = (1 << 28) - 1;
/// Of a row's state word: the segment is one of the second lane.
pub(crate) const COPIES: u64 = 1 << 28;
/// States of a segment.
pub(crate) mod state {
    pub(crate) const ACTIVE: u64 = 1;
    pub(crate) const SEALED: u64 = 2;
    /// A sync of it failed: nothing of it counts as durable any more.
    pub(crate) const BAD: u64 = 3;
    /// Nobody needs it; its file goes once that is durable.
    pub(crate) const EMPTY: u64 = 4;
}

/// A word in one of the mapped files, as the journal names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) file: Shared,
    /// Byte offset.
    pub(crate) at: u64,
    /// A u32 instead of a u64.
    pub(crate) half: bool,
}

/// The mapped files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shared {
    Header,
    Keymap,
    Overflow,
    Segments,
    Lists,
    Posts,
    Ghost,
    Order(u32),
}

impl Address {
    pub(crate) fn header(at: u64) -> Self {
        Address {
            file: Shared::Header,
            at,
            half: false,
        }
    }

    pub(crate) fn to_bits(self) -> u64 {
        let file = match self.file {
            Shared::Header => 0,
            Shared::Keymap => 1,
            Shared::Overflow => 2,
            Shared::Segments => 3,
            Shared::Lists => 4,
            Shared::Posts => 5,
            Shared::Ghost => 6,
            Shared::Order(space) => 8 + u64::from(space),
        };
        file << 48 | u64::from(self.half) << 47 | self.at
    }

    pub(crate) fn from_bits(bits: u64) -> Self {
        let file = match bits >> 48 {
            0 => Shared::Header,
            1 => Shared::Keymap,
            2 => Shared::Overflow,
            3 => Shared::Segments,
            4 => Shared::Lists,
            5 => Shared::Posts,
            6 | 7 => Shared::Ghost,
            more => Shared::Order((more - 8) as u32),
        };
        Address {
            file,
            at: bits & ((1 << 47) - 1),
            half: bits >> 47 & 1 == 1,
        }
    }
}
