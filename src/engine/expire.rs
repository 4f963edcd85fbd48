//! Removing what is due, at a cost by what is due: the lists named by time are walked as it passes.
//!
//! A list is walked from its first block on: what is due goes, by one kill list; what is not is posted
//! again, nearer; what is no longer there is passed over. Owns how far the lists were walked.

use crate::engine::doomed::Doomed;
use crate::engine::store::{Proof, Store, stat};
use crate::error::{Error, Result};
use crate::format::header as layout;
use crate::format::names::Cause;
use crate::part::lists::{self, CELLS, LEVEL_BITS, LEVELS, List, Posting, row};

/// Blocks of one step, at most.
const BLOCKS_PER_STEP: u64 = 24;

/// What one step of expiry did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Expired {
    pub(crate) removed: u64,
    /// All that is due has gone.
    pub(crate) is_over: bool,
}

impl Store {
    /// One step: removes at most `most` entries that are due, soonest first. Under the lock.
    pub(crate) fn expire_step(&self, proof: &mut Proof, most: u64) -> Result<Expired> {
        let now_ms = self.now_ms();
        let now = u64::from(self.second(now_ms));
        let mut blocks = (most.div_ceil(CELLS)).min(BLOCKS_PER_STEP);
        let mut done = Expired::default();
        let mut upto = u64::from(self.expired_upto());
        if upto > now {
            done.is_over = true;
            return Ok(done);
        }
        // Nothing is in any list: nothing to walk.
        loop {
            // The far lists that begin here first: what they hold is posted into nearer ones.
            for level in (0..LEVELS).rev() {
                let shift = level * LEVEL_BITS;
                if level > 0 && upto & ((1 << shift) - 1) != 0 {
                    continue;
                }
                let list = List::of_time(level, upto >> shift);
                let mut left = lists::number(&self.files, list, row::CELLS)?;
                while left > 0 {
                    if blocks == 0 {
                        return Ok(done);
                    }
                    blocks -= 1;
                    left = left.saturating_sub(CELLS);
                    let may = most - done.removed;
                    match self.expire_block(proof, list, now_ms, may) {
                        Ok(removed) => done.removed += removed,
                        // What went is told; the refusal is met again.
                        Err(Error::Full { .. }) if done.removed > 0 => return Ok(done),
                        Err(error) => return Err(error),
                    }
                    if done.removed >= most {
                        return Ok(done);
                    }
                }
            }
            if upto >= now {
                // The list of this very second may fill again.
                done.is_over = true;
                return Ok(done);
            }
            upto = self.next_second(upto, now)?;
            self.files.header.put(layout::EXPIRED_UPTO_AT, upto);
        }
    }

    /// The next second with a list to walk, `now` at the latest.
    fn next_second(&self, from: u64, now: u64) -> Result<u64> {
        let mut next = now;
        for level in 0..LEVELS {
            let shift = level * LEVEL_BITS;
            // The lists of this level that begin after `from`.
            let first = (from >> shift) + 1;
            let last = (now >> shift).min(first + (1 << LEVEL_BITS) - 1);
            for index in first..=last {
                if lists::number(&self.files, List::of_time(level, index), row::CELLS)? > 0 {
                    next = next.min(index << shift);
                    break;
                }
            }
        }
        Ok(next)
    }

    /// Walks a list's first block and takes it away. How many entries went, at most `most`.
    fn expire_block(&self, proof: &mut Proof, list: List, now_ms: u64, most: u64) -> Result<u64> {
        let mut cells = Vec::with_capacity(CELLS as usize);
        lists::cells_from_first(&self.files, list, 1, &mut cells)?;
        let mut victims = Doomed::new(self, Cause::Expired);
        let mut later: Vec<(u64, Posting)> = Vec::new();
        let (mut here, mut elsewhere) = (Vec::new(), Vec::new());
        let mut buffer = Vec::new();
        for posting in cells {
            // What is damaged is told by reading it, and stays.
            let found = self.find_posting(posting, &mut buffer, |head| head.seq as u32);
            let Ok(Some(hit)) = found else { continue };
            let expires_ms = self.expiry_of(&hit, now_ms);
            if expires_ms > now_ms {
                later.push((expires_ms, posting));
            } else if victims.len() as u64 >= most {
                here.push(posting);
            } else {
                let key = hit.key(&buffer);
                let hash = self.hash.of(hit.head.options.space, key);
                victims.push(hash, &hit.head, &buffer);
            }
        }
        let removed = self.kill(proof, &victims)?;
        self.count(stat::EXPIRED, removed);
        for (expires_ms, posting) in later {
            match self.time_list(expires_ms) {
                same if same == list => here.push(posting),
                other => elsewhere.push((other, posting)),
            }
        }
        self.post_all(elsewhere.into_iter())?;
        self.retire_block(list, &here)?;
        Ok(removed)
    }
}
