//! One handle on one store: what it holds, how its writer lock is had, and what it leaves behind.
//!
//! Owns: the handle's parts and the lock guard. Never looks inside a record.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::format::header as layout;
use crate::format::name::Name;
use crate::format::seed::KeyHash;
use crate::os::clock::{Clock, SystemClock};
use crate::os::dir::Dir;
use crate::os::lock::FileLock;
use crate::os::raw;
use crate::part::participants::{self, Me};
use crate::part::segments::Segments;
use crate::part::shared::{Files, setting};
use crate::part::writer_lock::{self, Taken};
use crate::policy::{CullPolicy, Policy};

/// The cache's own entries.
pub(crate) const MAIN_SPACE: u32 = 0;
/// Settings, tag names, queue counters: entries like others, but not the caller's.
pub(crate) const INNER_SPACE: u32 = 1;

/// How often a writer looks whether its files are still the ones under their names, ms.
const MOVED_CHECK_MS: u64 = 10;

/// The fewest bytes a segment begins with.
const SEGMENT_BEGINS_WITH: u64 = 32 * 1024;

/// What room is wanted for. Each may use more than the one before, or the room that one gives back would
/// never come: deletes leave dead bytes, copies empty their segments, and a mark lets those go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    Entries,
    Removing,
    Copies,
    Marks,
}

/// A handle's parts.
pub(crate) struct Store {
    // Fixed at open.
    pub(crate) dir: Dir,
    pub(crate) uuid: [u8; 16],
    pub(crate) hash_seed: u64,
    pub(crate) created_ms: u64,
    pub(crate) hash: KeyHash,
    pub(crate) clock: Arc<dyn Clock>,
    /// Held for life on a filesystem that one process alone may use; shared by who only reads.
    gate: Option<FileLock>,
    forks: u64,
    // Shared with every process: read at any time, changed only under the writer lock.
    pub(crate) files: Files,
    // This handle's own.
    pub(crate) segments: Segments,
    pub(crate) me: Me,
    pub(crate) sync_turn: std::sync::Mutex<()>,
    /// By lane: bytes of the active segment whose pages this process has made present (`engine/room.rs`).
    pub(crate) populated: [AtomicU64; 2],
    pub(crate) tags: crate::engine::tags::TagNames,
    /// Instead of the settings' policy, for the culls of this handle.
    pub(crate) own_policy: std::sync::OnceLock<Arc<dyn CullPolicy>>,
    /// Records culling has kept since it last evicted one.
    pub(crate) kept_in_a_row: std::sync::atomic::AtomicU32,
    pub(crate) vain: crate::engine::cull::Vain,
    gone_seen: AtomicU64,
    /// Segments that a walk did not empty, by id, with the live bytes they had then.
    pub(crate) stuck: std::sync::Mutex<std::collections::HashMap<u64, u64>>,
    /// How far segments were looked through for entries above `max_age`.
    pub(crate) aged: std::sync::Mutex<crate::engine::aged::Aged>,
    pub(crate) densifying: std::sync::Mutex<Option<crate::engine::densify::Densifying>>,
    /// Of a shard of several: where it stands among them.
    pub(crate) siblings: std::sync::OnceLock<crate::engine::crossing::Siblings>,
    /// How far a durable mark says the log is durable, as far as this handle knows.
    pub(crate) marked: AtomicU64,
    /// Bytes logged by this handle since it last did a step towards room.
    pub(crate) debt: AtomicU64,
    moved_checked_ms: AtomicU64,
}

/// What the writer lock's holder shows, and works with.
#[derive(Debug, Default)]
pub(crate) struct Proof {
    /// Records being framed.
    pub(crate) scratch: Vec<u8>,
    /// Bytes of the version being replaced.
    pub(crate) old: Vec<u8>,
    /// Something was stored past the tail that is not part of the log yet.
    pub(crate) dirty: bool,
    /// What is written now leads to removing: it may use what is kept for that in a full store.
    pub(crate) in_reserve: bool,
}

/// The writer lock, held.
pub(crate) struct Held<S: Deref<Target = Store>> {
    store: S,
    pub(crate) proof: Proof,
}

/// What a handle is made of once its files are trusted.
pub(crate) struct Opened {
    pub(crate) dir: Dir,
    pub(crate) files: Files,
    pub(crate) me: Me,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Store {
    pub(crate) fn new(opened: Opened) -> Store {
        let header = &opened.files.header;
        let uuid: [u8; 16] = header
            .bytes(layout::UUID_AT, layout::UUID_AT + 16)
            .try_into()
            .unwrap_or_default();
        let hash_seed = header.get(layout::HASH_SEED_AT);
        Store {
            uuid,
            hash_seed,
            created_ms: header.get(layout::CREATED_MS_AT),
            hash: KeyHash::new(hash_seed),
            clock: opened.clock,
            gate: None,
            forks: raw::forks(),
            files: opened.files,
            segments: Segments::new(uuid),
            me: opened.me,
            sync_turn: std::sync::Mutex::new(()),
            populated: [AtomicU64::new(0), AtomicU64::new(0)],
            tags: crate::engine::tags::TagNames::default(),
            own_policy: std::sync::OnceLock::new(),
            kept_in_a_row: std::sync::atomic::AtomicU32::new(0),
            vain: crate::engine::cull::Vain::default(),
            gone_seen: AtomicU64::new(0),
            stuck: std::sync::Mutex::default(),
            aged: std::sync::Mutex::default(),
            densifying: std::sync::Mutex::new(None),
            siblings: std::sync::OnceLock::new(),
            debt: AtomicU64::new(0),
            marked: AtomicU64::new(0),
            moved_checked_ms: AtomicU64::new(0),
            dir: opened.dir,
        }
    }

    /// Keeps others out for as long as this handle lives.
    pub(crate) fn with_gate(mut self, gate: FileLock) -> Store {
        self.gate = Some(gate);
        self
    }

    /// Whether this is a copy in the child of a fork: such a handle is opened again, never used.
    #[inline]
    pub(crate) fn is_forked(&self) -> bool {
        raw::forks() != self.forks
    }

    #[inline]
    pub(crate) fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// Seconds since the store was created.
    #[inline]
    pub(crate) fn second(&self, now_ms: u64) -> u32 {
        (now_ms.saturating_sub(self.created_ms) / 1_000).min(u64::from(u32::MAX)) as u32
    }

    #[inline]
    pub(crate) fn committed(&self) -> u64 {
        self.files.header.number(layout::COMMITTED_AT)
    }

    /// Refuses to change a store that was opened to be read alone.
    #[inline]
    pub(crate) fn may_write(&self) -> Result<()> {
        if self.dir.is_read_only() {
            return Err(Error::ReadOnly {
                path: self.dir.path().into(),
            });
        }
        Ok(())
    }

    /// Waits for the writer lock; repairs what a dead holder left.
    pub(crate) fn lock<S: Deref<Target = Store> + Clone>(
        store: S,
        timeout: Option<Duration>,
    ) -> Result<Held<S>> {
        store.may_write()?;
        loop {
            let held = Store::lock_as_opener(store.clone(), timeout)?;
            if held.store.files.header.get(layout::CROSSING_AT) == 0 {
                return Ok(held);
            }
            // Whoever crosses has this lock until its part is done: it died. Off the lock, for the first
            // shard's comes first.
            drop(held);
            store.complete_crossing(timeout)?;
        }
    }

    /// The same for an opener, who makes the mapped files fit the log even in memory.
    pub(crate) fn lock_as_opener<S: Deref<Target = Store>>(
        store: S,
        timeout: Option<Duration>,
    ) -> Result<Held<S>> {
        let header = &store.files.header;
        let taken = if writer_lock::try_take(header, &store.me) {
            Taken::Free
        } else {
            let taken = writer_lock::take(header, &store.dir, &store.me, timeout);
            if taken.is_ok() {
                header.put(
                    layout::STATS_AT + 8 * stat::LOCK_WAITS,
                    header
                        .get(layout::STATS_AT + 8 * stat::LOCK_WAITS)
                        .wrapping_add(1),
                );
            }
            taken?
        };
        let mut held = Held {
            store,
            proof: Proof::default(),
        };
        held.proof.dirty = taken == Taken::Over;
        held.store.begin(taken)?;
        held.proof.dirty = false;
        Ok(held)
    }

    fn begin(&self, taken: Taken) -> Result<()> {
        // The system's clock, not the injected one: both are between this machine's processes.
        let now = SystemClock.now_ms();
        let header = &self.files.header;
        header
            .word(layout::OWNER_SINCE_AT)
            .store(now, Ordering::Relaxed);
        if now.abs_diff(self.moved_checked_ms.load(Ordering::Relaxed)) >= MOVED_CHECK_MS {
            self.check_moved()?;
            self.moved_checked_ms.store(now, Ordering::Relaxed);
        }
        header.put(
            layout::TAKES_AT,
            header.get(layout::TAKES_AT).wrapping_add(1),
        );
        let unfinished = [
            layout::JOURNAL_AT,
            layout::PENDING_AT,
            layout::SPLITTING_AT,
            layout::MAKING_AT,
            layout::UNMAKING_AT,
        ];
        if taken == Taken::Over || unfinished.iter().any(|&at| header.get(at) != 0) {
            self.repair(taken == Taken::Over)?;
        }
        header.disturb();
        if header.get(layout::CLEAN_AT) != 0 {
            // Durably, before anything changes: else a power loss would find the marker and half a
            // change. Neither clean nor 0 until it is: whoever finds that does it again.
            header.put(layout::CLEAN_AT, u64::MAX);
            self.dir.sync(Name::Header, header.file())?;
            header.put(layout::CLEAN_AT, 0);
        }
        Ok(())
    }

    /// Whether the files this handle shares are still the ones under their names.
    pub(crate) fn check_moved(&self) -> Result<()> {
        let same = |name: Name, inode: u64| -> Result<()> {
            match self.dir.stat(name) {
                Ok(Some(stat)) if stat.inode == inode => Ok(()),
                _ => Err(Error::Moved {
                    path: self.dir.path_of(name),
                }),
            }
        };
        same(Name::Header, self.files.header.inode)?;
        same(Name::Participant(self.me.index), self.me.lock.inode)?;
        // 0: this handle is making the store, or making it again.
        let generation = self.files.header.get(layout::GENERATION_AT);
        if generation != 0 && generation != self.files.generation {
            return Err(Error::Moved {
                path: self.dir.path_of(Name::Keymap(self.files.generation)),
            });
        }
        Ok(())
    }

    /// Who goes when the store is full.
    pub(crate) fn cull_policy(&self) -> &dyn CullPolicy {
        match self.own_policy.get() {
            Some(policy) => &**policy,
            None => Policy::from_u64(self.files.header.setting(setting::POLICY))
                .unwrap_or_default()
                .policy(),
        }
    }

    /// Lets go of mappings whose segments are gone, so that their bytes go too. Off the lock: whoever has
    /// the last mapping of a file waits milliseconds for its going.
    #[inline]
    pub(crate) fn notice_gone(&self) -> Result<()> {
        let gone = self.files.header.get(layout::GONE_AT);
        if self.gone_seen.load(Ordering::Relaxed) != gone {
            self.gone_seen.store(gone, Ordering::Relaxed);
            self.segments.forget_gone(&self.files)?;
        }
        Ok(())
    }

    /// Adds to a writer's statistic. Under the lock.
    pub(crate) fn count(&self, which: u64, more: u64) {
        let at = layout::STATS_AT + 8 * which;
        self.files
            .header
            .put(at, self.files.header.get(at).wrapping_add(more));
    }

    /// Bytes on disk of all files, and what is reserved for values being streamed in.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.files.header.number(layout::DISK_BYTES_AT) + self.reserved_bytes()
    }

    /// The files have taken `bytes` more.
    pub(crate) fn took(&self, bytes: u64) {
        if bytes > 0 {
            self.files.header.add(layout::DISK_BYTES_AT, bytes);
        }
    }

    /// The files have given `bytes` back.
    pub(crate) fn gave(&self, bytes: u64) {
        let word = self.files.header.word(layout::DISK_BYTES_AT);
        let _ = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |had| {
            Some(had.saturating_sub(bytes))
        });
    }

    /// Refuses what would pass `size_limit_bytes`.
    pub(crate) fn budget(&self, more: u64) -> Result<()> {
        self.budget_for(more, Use::Entries)
    }

    /// Notes whether the limit is lower than what is on disk: then what removes and copies goes on all the
    /// same, or nothing ever could.
    pub(crate) fn note_lowered(&self) {
        let header = &self.files.header;
        let is_above = self.disk_bytes() > header.setting(setting::SIZE_LIMIT);
        header.put(layout::LOWERED_AT, u64::from(is_above));
    }

    /// The same, by what it is for: above the limit there is a sixteenth that not everybody may use.
    pub(crate) fn budget_for(&self, more: u64, what_for: Use) -> Result<()> {
        let limit_bytes = self.files.header.setting(setting::SIZE_LIMIT);
        if what_for != Use::Entries && self.files.header.get(layout::LOWERED_AT) != 0 {
            return Ok(());
        }
        let half = limit_bytes / 32;
        let beyond = match what_for {
            Use::Entries => 0,
            Use::Removing => half,
            Use::Copies => half + (half / 2).max(SEGMENT_BEGINS_WITH),
            Use::Marks => (half * 2).max(half + SEGMENT_BEGINS_WITH * 2),
        };
        let most = limit_bytes.saturating_add(beyond);
        if self.disk_bytes().saturating_add(more) > most {
            return Err(Error::Full {
                limit_bytes,
                needed_bytes: more,
            });
        }
        Ok(())
    }
}

/// Words of the writers' statistics.
pub(crate) mod stat {
    pub(crate) const SETS: u64 = 0;
    pub(crate) const DELETES: u64 = 1;
    pub(crate) const BATCHES: u64 = 2;
    pub(crate) const EXPIRED: u64 = 3;
    pub(crate) const DECODE_FAILURES: u64 = 4;
    pub(crate) const LOCK_WAITS: u64 = 5;
    pub(crate) const REPAIRS: u64 = 6;
    pub(crate) const SYNCS: u64 = 7;
    pub(crate) const BYTES_SET: u64 = 8;
    pub(crate) const BYTES_LOGGED: u64 = 9;
    pub(crate) const CORRUPT: u64 = 10;
    pub(crate) const CULLED: u64 = 11;
    pub(crate) const EVICTED: u64 = 12;
    pub(crate) const BYTES_KEPT: u64 = 13;
    pub(crate) const BYTES_FREED: u64 = 14;
    pub(crate) const BYTES_PUT: u64 = 15;
}

impl<S: Deref<Target = Store>> Held<S> {
    /// The lock's parts for the engine's calls: the store, and the proof that it is locked.
    pub(crate) fn parts(&mut self) -> (&Store, &mut Proof) {
        (&self.store, &mut self.proof)
    }
}

impl<S: Deref<Target = Store>> Drop for Held<S> {
    fn drop(&mut self) {
        if self.store.is_forked() {
            return;
        }
        if self.proof.dirty || std::thread::panicking() {
            // Whatever fails here is met again, and reported, by the next holder.
            let _ = self.store.repair(true);
        }
        writer_lock::give_back(&self.store.files.header);
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if self.is_forked() {
            return;
        }
        let header = &self.files.header;
        self.retire_keeper();
        if writer_lock::try_take(header, &self.me) {
            if header.get(layout::JOURNAL_AT) == 0
                && header.get(layout::PENDING_AT) == 0
                && header.get(layout::SPLITTING_AT) == 0
            {
                header.put(layout::QUIET_AT, header.quiet());
            }
            writer_lock::give_back(header);
        }
        // Nothing of this handle is left in the store: its lock file may go.
        participants::leave(header, &self.me);
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("dir", &self.dir.path())
            .field("participant", &self.me.index)
            .finish_non_exhaustive()
    }
}
