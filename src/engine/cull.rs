//! Culling: entries go because the store is full, by the policy's choice.
//!
//! Owns the hands of the policies that walk the log, and the samples of the others. A policy chooses
//! among candidates (`src/policy`); what then happens to a record is `reclaim`'s and `kill`'s. Never
//! evicts what the write it is done for has just stored.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::engine::doomed::Doomed;
use crate::engine::reclaim::{Fate, Step};
use crate::engine::room::Lane;
use crate::engine::store::{MAIN_SPACE, Proof, Store, stat};
use crate::error::Result;
use crate::format::bucket::{self, is_whole};
use crate::format::header::{self as layout, space, state};
use crate::format::names::Cause;
use crate::format::record::{Head, Kind};
use crate::format::stamp::Stamp;
use crate::part::keymap::Keymap;
use crate::part::order;
use crate::part::segment::Read;
use crate::part::segments::{self, Row};
use crate::policy::{self, Candidate, CullPolicy, Lanes, Source, Verdict};

/// Draws in which nobody was found who may go, before a cull gives up.
const DRAWS_IN_VAIN: u32 = 8;

/// A word of the keymap, drawn at random, and its stamp.
#[derive(Clone, Copy, Debug)]
struct Drawn {
    word: u64,
    stamp: u32,
}

/// Entries drawn when the hands of a policy that walks find nobody.
const DRAWN_INSTEAD: usize = 16;

/// So many rounds may the hands make in which nobody goes: no policy keeps an entry longer.
const ROUNDS_MAX: u64 = 3;

/// Rounds of the hands since somebody went.
#[derive(Debug, Default)]
pub(crate) struct Vain {
    rounds: AtomicU64,
    /// The newest sequence when this round began; 0: none did.
    from: AtomicU64,
}

impl Vain {
    fn begin(&self) {
        self.rounds.store(0, Ordering::Relaxed);
        self.from.store(0, Ordering::Relaxed);
    }
}

/// Sequences that a cull leaves alone: those of the write it is for.
#[derive(Clone, Debug)]
pub(crate) struct Spared(pub(crate) std::ops::Range<u64>);

impl Spared {
    pub(crate) fn nothing() -> Spared {
        Spared(0..0)
    }
}

impl Store {
    /// Entries above `count_limit`.
    pub(crate) fn surplus(&self) -> u64 {
        let limit = self
            .files
            .header
            .setting(crate::part::shared::setting::COUNT_LIMIT);
        self.files
            .space(MAIN_SPACE, space::COUNT)
            .saturating_sub(limit)
    }

    /// Evicts at most `most` entries, in one step. How many; 0: there is none that may go. Under the lock.
    pub(crate) fn cull_some(&self, proof: &mut Proof, most: u64, spared: &Spared) -> Result<u64> {
        match self.cull_policy().source() {
            Source::None => Ok(0),
            Source::Sample { draw, take } => self.cull_by_sample(proof, draw, take, most, spared),
            Source::Log => {
                let mut gone = 0;
                self.vain.begin();
                // A step may keep what it meets, or meet nothing that lives.
                while gone < most {
                    let Some(step) = self.cull_by_walk(proof, most - gone, spared)? else {
                        break;
                    };
                    gone += step.gone;
                    if step.gone > 0 {
                        break;
                    }
                }
                if gone == 0 {
                    // The hands gave up, and yet somebody may go: of all, whoever is drawn.
                    gone = self.cull_by_sample(proof, DRAWN_INSTEAD, 1, most, spared)?;
                }
                Ok(gone)
            }
        }
    }

    /// One step of the hand that moves next; `None`: both are at the end.
    pub(crate) fn cull_by_walk(
        &self,
        proof: &mut Proof,
        most: u64,
        spared: &Spared,
    ) -> Result<Option<Step>> {
        if self.is_in_vain() {
            return Ok(None);
        }
        let policy = self.cull_policy();
        let copy_bytes = self.files.header.number(layout::COPY_VOLUME_AT);
        let volume = self.files.space(MAIN_SPACE, space::VOLUME);
        let lanes = Lanes {
            log_bytes: volume.saturating_sub(copy_bytes),
            copy_bytes,
        };
        let (first, second) = match policy.next_lane(&lanes) {
            policy::Lane::Log => (Lane::Log, Lane::Copies),
            policy::Lane::Copy => (Lane::Copies, Lane::Log),
        };
        for lane in [first, second] {
            // What may not go would be kept again and again.
            let is_bare = match lane {
                Lane::Log => lanes.log_bytes == 0,
                Lane::Copies => lanes.copy_bytes == 0,
            };
            if is_bare {
                continue;
            }
            if let Some((row, index)) = self.hand(lane)? {
                let step = self.move_hand(proof, lane, &row, index, most, (policy, spared))?;
                if step.next > index || step.is_over {
                    return Ok(Some(step));
                }
            }
        }
        Ok(None)
    }

    /// Whether the hands went round and round and found nobody who may go: what is left is not the
    /// cache's own, or just written. Whoever asks next begins anew.
    fn is_in_vain(&self) -> bool {
        let is_in_vain = self.vain.rounds.load(Ordering::Relaxed) >= ROUNDS_MAX;
        if is_in_vain {
            self.vain.begin();
        }
        is_in_vain
    }

    /// Notes how a hand moved: behind `last_seq`, the sequence of the last record it passed.
    fn note_move(&self, lane: Lane, step: &Step) {
        let vain = &self.vain;
        let from = vain.from.load(Ordering::Relaxed);
        if step.gone > 0 {
            vain.begin();
        } else if from == 0 {
            vain.from.store(self.committed(), Ordering::Relaxed);
        } else if lane == Lane::Copies && step.last_seq > from {
            // What it passed was kept since the round began: all that there was then was passed.
            vain.rounds.fetch_add(1, Ordering::Relaxed);
            vain.from.store(self.committed(), Ordering::Relaxed);
        }
    }

    fn move_hand(
        &self,
        proof: &mut Proof,
        lane: Lane,
        row: &Row,
        index: u64,
        most: u64,
        (policy, spared): (&dyn CullPolicy, &Spared),
    ) -> Result<Step> {
        let now_ms = self.now_ms();
        let mut gone = 0;
        let kept = &self.kept_in_a_row;
        let step = self.walk_step(proof, row, index, lane == Lane::Log, &mut |met| {
            if gone >= most || spared.0.contains(&met.head.seq) {
                return Fate::Waits;
            }
            let candidate = self.candidate(met.head, met.stamp, now_ms);
            let policy_lane = match lane {
                Lane::Log => policy::Lane::Log,
                Lane::Copies => policy::Lane::Copy,
            };
            match policy.judge(&candidate, policy_lane, kept.load(Ordering::Relaxed)) {
                Verdict::Evict => {
                    kept.store(0, Ordering::Relaxed);
                    gone += 1;
                    Fate::Goes
                }
                Verdict::Keep { hits } => {
                    kept.fetch_add(1, Ordering::Relaxed);
                    Fate::Stays(Some(hits))
                }
            }
        })?;
        self.set_hand(lane, row.id, step.next);
        self.note_move(lane, &step);
        self.count(stat::CULLED, step.gone - step.expired);
        self.count(stat::EXPIRED, step.expired);
        Ok(step)
    }

    /// What a policy is told of an entry.
    fn candidate(&self, head: &Head, stamp: Stamp, now_ms: u64) -> Candidate {
        let stored_ms = self.created_ms + u64::from(head.stored_s) * 1_000;
        Candidate {
            hits: stamp.hits(),
            age_ticks: match stamp {
                Stamp::Access { tick, .. } => self.ticks_since(tick),
                Stamp::Slid(_) | Stamp::Dead(_) => 0,
            },
            stored_ago: Duration::from_millis(now_ms.saturating_sub(stored_ms)),
            size_bytes: head.volume(),
            cost_seconds: head.options.cost_s.unwrap_or(0.0),
        }
    }

    fn hand_at(lane: Lane) -> u64 {
        match lane {
            Lane::Log => layout::LOG_HAND_AT,
            Lane::Copies => layout::COPY_HAND_AT,
        }
    }

    fn set_hand(&self, lane: Lane, id: u64, index: u64) {
        self.files.header.put(Self::hand_at(lane), id);
        self.files.header.put(Self::hand_at(lane) + 8, index);
    }

    /// The record a lane's hand is at: its segment, and the index of its line; `None`: at the end.
    fn hand(&self, lane: Lane) -> Result<Option<(Row, u64)>> {
        let header = &self.files.header;
        let (id, index) = (
            header.get(Self::hand_at(lane)),
            header.number(Self::hand_at(lane) + 8),
        );
        let rows = segments::rows(&self.files)?;
        let mut ahead = rows.iter().filter(|row| {
            row.id >= id && row.is_copies() == (lane == Lane::Copies) && !row.is(state::EMPTY)
        });
        let Some(mut row) = ahead.next() else {
            return Ok(None);
        };
        let mut index = if row.id == id { index } else { 0 };
        // At the end of one that was not given up: something in it cannot be read.
        if index >= self.lines_of(row) && !row.is(state::ACTIVE) {
            match ahead.next() {
                Some(next) => (row, index) = (next, 0),
                None => return Ok(None),
            }
        }
        Ok((index < self.lines_of(row)).then_some((*row, index)))
    }

    /// Draws entries at random and evicts those of highest rank.
    fn cull_by_sample(
        &self,
        proof: &mut Proof,
        draw: usize,
        take: usize,
        most: u64,
        spared: &Spared,
    ) -> Result<u64> {
        let policy = self.cull_policy();
        let now_ms = self.now_ms();
        let mut buffer = Vec::new();
        let header = &self.files.header;
        let entries = self.files.space(MAIN_SPACE, space::COUNT);
        // Else most words lead to tag names and the like.
        let is_ours = entries.saturating_mul(2) > header.number(layout::KEYMAP_USED_AT);
        for _ in 0..DRAWS_IN_VAIN {
            let (drawn, is_all) = match is_ours {
                true => self.draw(draw)?,
                false => self.draw_by_order(draw)?,
            };
            let take = if is_all { 1 } else { take }.min(most as usize);
            let mut ranked = Vec::with_capacity(drawn.len());
            for Drawn { word, stamp } in drawn {
                let stamp = Stamp::from_bits(stamp);
                let head = match policy.looks_at_records() {
                    true => match self.head_behind(word, &mut buffer)? {
                        Some(head) => Some(head),
                        None => continue,
                    },
                    false => None,
                };
                let candidate = match &head {
                    Some(head) => self.candidate(head, stamp, now_ms),
                    None => Candidate {
                        hits: stamp.hits(),
                        age_ticks: match stamp {
                            Stamp::Access { tick, .. } => self.ticks_since(tick),
                            Stamp::Slid(_) | Stamp::Dead(_) => 0,
                        },
                        stored_ago: Duration::ZERO,
                        size_bytes: 0,
                        cost_seconds: 0.0,
                    },
                };
                ranked.push((policy.rank(&candidate), word));
            }
            ranked.sort_unstable_by_key(|(rank, _)| std::cmp::Reverse(*rank));
            let mut victims = Doomed::new(self, Cause::Culled);
            for (_, word) in ranked {
                if victims.len() >= take {
                    break;
                }
                let Some(head) = self.head_behind(word, &mut buffer)? else {
                    continue;
                };
                let is_ours = head.options.space == MAIN_SPACE && head.kind == Kind::Set;
                if is_ours && !spared.0.contains(&head.seq) {
                    let key = &buffer[head.key_at..][..head.key_len];
                    victims.push(self.hash.of(MAIN_SPACE, key), &head, &buffer);
                }
            }
            let gone = self.kill(proof, &victims)?;
            if gone > 0 {
                self.count(stat::CULLED, gone);
                return Ok(gone);
            }
        }
        Ok(0)
    }

    fn head_behind(&self, word: u64, buffer: &mut Vec<u8>) -> Result<Option<Head>> {
        let Some(place) = bucket::place(word) else {
            return Ok(None);
        };
        let Some(segment) = self.segments.get(&self.files, &self.dir, place.slot)? else {
            return Ok(None);
        };
        Ok(match segment.read(&self.dir, place.at, buffer)? {
            Read::Whole(head) => Some(head),
            Read::Damaged(_) => None,
        })
    }

    /// As [`Store::draw`], along the order list from a random place on: of the cache's own entries alone.
    fn draw_by_order(&self, count: usize) -> Result<(Vec<Drawn>, bool)> {
        let (first, end) = (
            self.files.space(MAIN_SPACE, space::HEAD),
            self.files.space(MAIN_SPACE, space::CELLS),
        );
        let mut drawn = Vec::new();
        let mut buffer = Vec::new();
        let cells = end.saturating_sub(first).max(1);
        let start = RandomState::new().build_hasher().finish() % cells;
        for n in 0..cells {
            let index = first + (start + n) % cells;
            let cell = order::cell(&self.files, &self.dir, MAIN_SPACE, index);
            let Ok(Some(cell)) = cell else { continue };
            if let Ok(Some(hit)) = self.find_cell(MAIN_SPACE, cell, &mut buffer) {
                drawn.push(Drawn {
                    word: hit.met.word,
                    stamp: hit.met.stamp(),
                });
                if drawn.len() > count {
                    return Ok((drawn, false));
                }
            }
        }
        Ok((drawn, true))
    }

    /// Words of entries at random, each once; and whether these are all there are.
    fn draw(&self, count: usize) -> Result<(Vec<Drawn>, bool)> {
        let keymap = Keymap::of(&self.files);
        let buckets = keymap.split().buckets();
        let mut drawn: Vec<Drawn> = Vec::new();
        let visit = |index: u64, drawn: &mut Vec<Drawn>| -> Result<()> {
            let mut words = Vec::new();
            keymap.words(index, |address, word| {
                if is_whole(word) {
                    words.push((address, word));
                }
            })?;
            for (address, word) in words {
                let stamp = keymap.stamp_at(address)?.load(Ordering::Relaxed);
                drawn.push(Drawn { word, stamp });
            }
            Ok(())
        };
        if self.files.header.number(layout::KEYMAP_USED_AT) <= count as u64 {
            for index in 0..buckets {
                visit(index, &mut drawn)?;
            }
            return Ok((drawn, true));
        }
        let mut random = RandomState::new().build_hasher();
        random.write_u64(self.committed());
        let mut state = random.finish() | 1;
        let mut seen = Vec::new();
        // Buckets are empty, or nearly, in a store that had more entries once.
        for _ in 0..count * 64 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let index = state % buckets;
            if seen.contains(&index) {
                continue;
            }
            seen.push(index);
            visit(index, &mut drawn)?;
            if drawn.len() >= count {
                break;
            }
        }
        Ok((drawn, false))
    }
}
