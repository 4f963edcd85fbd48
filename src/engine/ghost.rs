//! The ghost table: fingerprints of what was culled not long ago, shared by all processes.
//!
//! Owns the file `ghost.G` and how it grows. What a word means is `policy/ghost.rs`'s; a wrong or lost
//! one costs a policy's precision and nothing else, so words are stored without a journal.

use std::sync::atomic::Ordering;

use crate::engine::store::{MAIN_SPACE, Store};
use crate::error::Result;
use crate::format::header::{self as layout, space};
use crate::format::name::Name;
use crate::policy::ghost::{self, BUCKET_WORDS};

/// Words the table has at least, as a power of two.
const BITS_MIN: u32 = 10;
const BITS_MAX: u32 = 28;

impl Store {
    /// The hit counter an entry with `hash` is born with.
    #[inline]
    pub(crate) fn hits_at_birth(&self, hash: u64) -> u8 {
        let header = &self.files.header;
        if header.get(layout::GHOST_BITS_AT) == 0 {
            return 0;
        }
        self.was_in_ghost(hash)
    }

    #[cold]
    fn was_in_ghost(&self, hash: u64) -> u8 {
        let policy = self.cull_policy();
        let entries = self.files.space(MAIN_SPACE, space::COUNT);
        let window = policy.ghost_window(entries);
        if window == 0 {
            return policy.hits_at_birth(false);
        }
        let found = self.with_bucket(hash, |bucket, taken, words| {
            ghost::find(bucket, hash, taken, words, window).map(|n| (n, 0))
        });
        policy.hits_at_birth(matches!(found, Ok(Some(()))))
    }

    /// An entry with `hash` was culled from the log lane.
    pub(crate) fn remember_culled(&self, hash: u64) -> Result<()> {
        let entries = self.files.space(MAIN_SPACE, space::COUNT);
        if self.cull_policy().ghost_window(entries) == 0 {
            return Ok(());
        }
        self.grow_ghost(entries)?;
        let taken = self.files.header.add(layout::GHOST_TAKEN_AT, 1);
        self.with_bucket(hash, |bucket, _, words| {
            Some(ghost::remember(bucket, hash, taken, words))
        })?;
        Ok(())
    }

    /// Shows a hash's bucket to `choose`, and stores the word it answers. Whether it answered one.
    fn with_bucket(
        &self,
        hash: u64,
        choose: impl FnOnce(&[u32; BUCKET_WORDS], u64, u64) -> Option<(usize, u32)>,
    ) -> Result<Option<()>> {
        let header = &self.files.header;
        let bits = header.number(layout::GHOST_BITS_AT) as u32;
        let Some(region) = self.files.ghost(&self.dir)? else {
            return Ok(None);
        };
        let words = 1 << bits.clamp(BITS_MIN, BITS_MAX);
        let taken = header.number(layout::GHOST_TAKEN_AT);
        let at = ghost::bucket(hash, words) * BUCKET_WORDS as u64 * 4;
        let mut bucket = [0; BUCKET_WORDS];
        for (n, word) in bucket.iter_mut().enumerate() {
            *word = region.half(at + n as u64 * 4)?.load(Ordering::Relaxed);
        }
        let Some((n, word)) = choose(&bucket, taken, words) else {
            return Ok(None);
        };
        region
            .half(at + n as u64 * 4)?
            .store(word, Ordering::Relaxed);
        Ok(Some(()))
    }

    /// A word for each entry, more or less. What was remembered is forgotten in part as it grows.
    fn grow_ghost(&self, entries: u64) -> Result<()> {
        let header = &self.files.header;
        let bits = header.number(layout::GHOST_BITS_AT) as u32;
        let wanted = entries
            .next_power_of_two()
            .ilog2()
            .clamp(BITS_MIN, BITS_MAX);
        if bits >= wanted {
            return Ok(());
        }
        let name = Name::Ghost(self.files.generation);
        if bits == 0 {
            drop(self.dir.create(name)?);
            // Before the mapping is looked for.
            header.put(layout::GHOST_BITS_AT, 1);
        }
        let has = if bits < BITS_MIN { 0 } else { 4 << bits };
        let grown = match self.files.ghost(&self.dir)? {
            Some(region) => region.grow(&self.dir, has, 4 << wanted),
            None => return Ok(()),
        };
        if grown.is_err() {
            // Without it new entries are judged alike.
            header.put(layout::GHOST_BITS_AT, u64::from(bits));
            return Ok(());
        }
        self.took((4 << wanted) - has);
        header.put(layout::GHOST_BITS_AT, u64::from(wanted));
        Ok(())
    }
}
