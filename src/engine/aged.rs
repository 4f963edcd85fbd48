//! Entries above `max_age`: nobody sees them any more, and upkeep removes them.
//!
//! Owns how far each segment was looked through, and when there will be something in it to remove: so a
//! segment is looked through as often as something in it is due. Never keeps a record.

use std::collections::HashMap;

use crate::engine::doomed::Doomed;
use crate::engine::reclaim::There;
use crate::engine::store::{MAIN_SPACE, Proof, Store, stat};
use crate::error::Result;
use crate::format::bucket::Place;
use crate::format::header::state;
use crate::format::names::Cause;
use crate::format::segment::SummaryKind;
use crate::part::segment::Line;
use crate::part::segments::{self, Row};
use crate::part::shared::setting;

/// Records looked at in one step.
const LINES_PER_STEP: u64 = 512;
/// Entries that go in one step.
const GONE_PER_STEP: usize = 128;

/// What this handle knows of segments, by their ids.
#[derive(Debug, Default)]
pub(crate) struct Aged {
    known: HashMap<u64, Known>,
    /// The segment being looked through.
    at: Option<(u64, Known)>,
}

/// What was seen of a segment.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// Lines looked at.
    lines: u64,
    /// The smallest second in which something alive was stored.
    stored_s: u64,
}

impl Store {
    /// One step: removes entries above `max_age`. How many; `None`: there is none, or no such limit.
    pub(crate) fn cull_aged(&self, proof: &mut Proof) -> Result<Option<u64>> {
        let age_max = self.files.header.setting(setting::MAX_AGE);
        if age_max == u64::MAX {
            return Ok(None);
        }
        let mut aged = self
            .aged
            .lock()
            .unwrap_or_else(|poison| poison.into_inner());
        let now_ms = self.now_ms();
        let is_due = |stored_s: u64| {
            (self.created_ms + stored_s.saturating_mul(1_000)).saturating_add(age_max) <= now_ms
        };
        let mut rows = segments::rows(&self.files)?;
        rows.retain(|row| !row.is(state::EMPTY));
        aged.known
            .retain(|id, _| rows.iter().any(|row| row.id == *id));
        let going_on = aged.at.take();
        let going_on = going_on.and_then(|(id, known)| {
            let row = rows.iter().find(|row| row.id == id)?;
            Some((*row, known))
        });
        let next = going_on.or_else(|| {
            let row = rows.iter().find(|row| {
                row.live > 0
                    && aged.known.get(&row.id).is_none_or(|known| {
                        is_due(known.stored_s) || self.lines_of(row).min(1 << 32) > known.lines
                    })
            })?;
            let known = Known {
                lines: 0,
                stored_s: u64::MAX / 2_000,
            };
            Some((*row, known))
        });
        let Some((row, known)) = next else {
            return Ok(None);
        };
        let mut known = known;
        let mut victims = Doomed::new(self, Cause::Culled);
        if self.find_aged(&row, &mut known, now_ms, &mut victims)? {
            aged.known.insert(row.id, known);
        } else {
            aged.at = Some((row.id, known));
        }
        let gone = self.kill(proof, &victims)?;
        self.count(stat::CULLED, gone);
        Ok(Some(gone))
    }

    /// Looks at some lines more: who is over, and whether that was all.
    fn find_aged(
        &self,
        row: &Row,
        known: &mut Known,
        now_ms: u64,
        victims: &mut Doomed,
    ) -> Result<bool> {
        let segment = self.segments.must_get(&self.files, &self.dir, row.slot)?;
        let mut buffer = Vec::new();
        let end = self.lines_of(row);
        for _ in 0..LINES_PER_STEP {
            if known.lines >= end || victims.len() >= GONE_PER_STEP {
                break;
            }
            let summary = match segment.line(known.lines) {
                Some(Line::Whole(summary)) => summary,
                Some(Line::Damaged) => {
                    known.lines += 1;
                    continue;
                }
                Some(Line::Blank) | None => {
                    // How many lines there are was not known.
                    known.lines = 1 << 32;
                    return Ok(true);
                }
            };
            known.lines += 1;
            let place = Place {
                slot: row.slot,
                at: summary.at,
            };
            if summary.kind != SummaryKind::Set {
                continue;
            }
            let met = self.meet(&segment, place, &summary, now_ms, &mut buffer)?;
            let There::Entry { head, is_live, .. } = met else {
                continue;
            };
            if head.options.space != MAIN_SPACE {
                continue;
            }
            if is_live {
                known.stored_s = known.stored_s.min(u64::from(head.stored_s));
            } else {
                let key = &buffer[head.key_at..][..head.key_len];
                victims.push(self.hash.of(MAIN_SPACE, key), &head, &buffer);
            }
        }
        Ok(known.lines >= end)
    }
}
