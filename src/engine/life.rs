//! Whether an entry lives, and what reading it leaves behind.
//!
//! Live while its expiry is after now, for everybody: who says "expired" first notes the version in its
//! stamp, so that a clock that runs behind does not say otherwise. A sliding expiry counts from the last
//! access, kept in the stamp too. Never writes to the log.

use std::sync::atomic::Ordering;

use crate::engine::read::Hit;
use crate::engine::store::{MAIN_SPACE, Store};
use crate::format::header::participant;
use crate::format::record::{Head, flag};
use crate::format::stamp::{HITS_MAX, Stamp};
use crate::part::participants;
use crate::part::shared::setting;

impl Store {
    /// Whether an entry that was found lives.
    #[inline]
    pub(crate) fn lives(&self, hit: &Hit<'_>, now_ms: u64) -> bool {
        let age_max = self.files.header.setting(setting::MAX_AGE);
        // Without an expiry, and now without `max_age` too: that may have been set, and have told so.
        if hit.head.options.expires_ms.is_none()
            && age_max == u64::MAX
            && !Stamp::may_be_dead(hit.met.stamp())
        {
            return true;
        }
        self.is_due(hit, now_ms, age_max)
    }

    #[cold]
    fn is_due(&self, hit: &Hit<'_>, now_ms: u64, age_max: u64) -> bool {
        loop {
            let bits = hit.met.stamp();
            if self.expiry_by(&hit.head, bits, now_ms, age_max) > now_ms {
                return true;
            }
            if Stamp::from_bits(bits) == Stamp::dead(hit.head.seq) {
                return false;
            }
            // A sliding one may just have been renewed: then it lives.
            if hit
                .met
                .replace_stamp(bits, Stamp::dead(hit.head.seq).to_bits())
            {
                return false;
            }
        }
    }

    /// As [`Store::lives`], by record and stamp; notes nothing.
    pub(crate) fn lives_by(&self, head: &Head, bits: u32, now_ms: u64) -> bool {
        let age_max = self.files.header.setting(setting::MAX_AGE);
        self.expiry_by(head, bits, now_ms, age_max) > now_ms
    }

    /// When an entry expires, ms since 1970; the largest number: never.
    pub(crate) fn expiry_of(&self, hit: &Hit<'_>, now_ms: u64) -> u64 {
        let age_max = self.files.header.setting(setting::MAX_AGE);
        self.expiry_by(&hit.head, hit.met.stamp(), now_ms, age_max)
    }

    /// The same, whatever `max_age` is: what a new version of the entry is to have.
    pub(crate) fn own_expiry_of(&self, hit: &Hit<'_>, now_ms: u64) -> u64 {
        self.expiry_by(&hit.head, hit.met.stamp(), now_ms, u64::MAX)
    }

    fn expiry_by(&self, head: &Head, bits: u32, now_ms: u64, age_max: u64) -> u64 {
        let options = &head.options;
        let mut expires = options.expires_ms.unwrap_or(u64::MAX);
        match Stamp::from_bits(bits) {
            stamp @ Stamp::Dead(_) if stamp == Stamp::dead(head.seq) => return 0,
            Stamp::Slid(eighths) => {
                if let Some(ttl_ms) = options.sliding_ms {
                    let now = now_ms.saturating_sub(self.created_ms);
                    let at = self.created_ms + Stamp::slid_ms(eighths, now);
                    expires = expires.max(at.saturating_add(ttl_ms));
                }
            }
            _ => {}
        }
        if age_max != u64::MAX && options.space == MAIN_SPACE {
            let stored = self.created_ms + u64::from(head.stored_s) * 1_000;
            expires = expires.min(stored.saturating_add(age_max));
        }
        expires
    }

    /// Notes that a live entry was read.
    #[inline]
    pub(crate) fn note_access(&self, hit: &Hit<'_>, now_ms: u64) {
        let tick = self.tick(now_ms);
        let bits = hit.met.stamp();
        if hit.head.flags & (flag::SLIDING | flag::COST) != 0 {
            return self.note_special(hit, bits, now_ms, tick);
        }
        let stamp = Stamp::from_bits(bits);
        let hits = (stamp.hits() + 1).min(HITS_MAX);
        let read = Stamp::Access { hits, tick }.to_bits();
        if hit.head.options.expires_ms.is_none() && !Stamp::may_be_dead(bits) {
            return hit.met.set_stamp(read);
        }
        // Another may have told it dead since it was found to live: that holds.
        if stamp != Stamp::dead(hit.head.seq) {
            hit.met.replace_stamp(bits, read);
        }
    }

    #[cold]
    fn note_special(&self, hit: &Hit<'_>, bits: u32, now_ms: u64, tick: u32) {
        if let Some(cost_s) = hit.head.options.cost_s {
            let at = participants::at(self.me.index, participant::SAVED_US);
            let saved = (cost_s * 1e6).clamp(0.0, 1e18) as u64;
            self.files
                .header
                .word(at)
                .fetch_add(saved, Ordering::Relaxed);
        }
        let stamp = Stamp::from_bits(bits);
        if stamp == Stamp::dead(hit.head.seq) {
            return;
        }
        let new = match hit.head.options.sliding_ms {
            Some(_) => Stamp::slid(now_ms.saturating_sub(self.created_ms)),
            None => Stamp::Access {
                hits: (stamp.hits() + 1).min(HITS_MAX),
                tick,
            },
        };
        // Another may have told it dead, or renewed it: both hold.
        hit.met.replace_stamp(bits, new.to_bits());
    }

    /// When an entry was last read, in seconds since the store's birth.
    pub(crate) fn accessed_second(&self, hit: &Hit<'_>, now_ms: u64) -> u32 {
        let stored = hit.head.stored_s;
        let read = match Stamp::from_bits(hit.met.stamp()) {
            Stamp::Access { hits: 0, .. } | Stamp::Dead(_) => stored,
            Stamp::Access { tick, .. } => self.second_of(tick).unwrap_or(stored),
            Stamp::Slid(eighths) => {
                let now = now_ms.saturating_sub(self.created_ms);
                (Stamp::slid_ms(eighths, now) / 1_000) as u32
            }
        };
        read.max(stored)
    }
}
