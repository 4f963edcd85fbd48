//! One who waits for a lock: when it looks, when it keeps a place, and when it gives up.
//!
//! Holds: a dead holder is found by a look within 50 ms, since the dead ring no bell; of one who has gone
//! no place is left.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::view::prepare;
use crate::view::recipes::cell::Next;
use crate::view::recipes::grants::{self, Answer, Ask};
use crate::view::recipes::site::Site;

/// Who waits looks again after so long, woken or not: a dead holder rings no bell.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Who has waited so long keeps a place. Before that whoever comes first is quicker.
const PLACE_AFTER: Duration = Duration::from_millis(5);

/// One who waits.
pub(super) struct Turn<'a> {
    site: &'a Site,
    ask: &'a Ask,
    start: Instant,
    timeout: Option<Duration>,
    /// When its place was last seen to.
    kept: Option<Instant>,
}

/// What a look came to.
pub(super) enum Turned {
    Had(u64),
    Again,
    Sleep(Duration),
}

impl<'a> Turn<'a> {
    pub(super) fn new(site: &'a Site, ask: &'a Ask, timeout: Option<Duration>) -> Turn<'a> {
        Turn {
            site,
            ask,
            start: Instant::now(),
            timeout,
            kept: None,
        }
    }

    /// Takes it where it can be had, or says how long to sleep.
    pub(super) fn look(&mut self) -> Result<Turned> {
        let look = self.site.look(self.ask)?;
        if look.is_free {
            return Ok(match self.site.take(self.ask, &look.dead, false)? {
                Answer::Had { token } => {
                    self.kept = None;
                    Turned::Had(token)
                }
                // Another was quicker: it is told by the next look.
                _ => Turned::Again,
            });
        }
        let waited = self.start.elapsed();
        let left = self.timeout.map(|timeout| timeout.saturating_sub(waited));
        if left.is_some_and(|left| left.is_zero()) {
            return Err(Error::Busy {
                what: self.site.what,
                holder_pid: look.by.map_or(0, |by| by.holder.pid),
                held_since: look.by.map(|by| prepare::time(by.since_ms)),
                waited,
                removed: 0,
            });
        }
        let is_kept = look.has_place && self.kept.is_some_and(|at| at.elapsed() < LOOK_EVERY * 10);
        if self.ask.keeps_place && waited >= PLACE_AFTER && !is_kept {
            match self.site.take(self.ask, &look.dead, true)? {
                Answer::Had { token } => {
                    self.kept = None;
                    return Ok(Turned::Had(token));
                }
                Answer::Waits => self.kept = Some(Instant::now()),
                Answer::No => {}
            }
        }
        let mut time = left.unwrap_or(LOOK_EVERY).min(LOOK_EVERY);
        if self.ask.keeps_place && waited < PLACE_AFTER {
            time = time.min(PLACE_AFTER - waited);
        }
        if let Some(over) = look.over_in {
            time = time.min(over.max(Duration::from_millis(1)));
        }
        Ok(Turned::Sleep(time))
    }
}

impl Drop for Turn<'_> {
    /// Nobody need wait for one who has gone. What fails is over within a second all the same.
    fn drop(&mut self) {
        if self.kept.is_none() {
            return;
        }
        let gone = self.site.cache.change(&self.site.key, |old, _| {
            let mut all = match old {
                Some(bytes) => self.site.decode(bytes)?,
                None => return Ok((Next::Keep, ())),
            };
            all.retain(|grant| !(grant.waits() && grant.is_of(&self.ask.holder, self.ask.id)));
            let next = match all.is_empty() {
                true => Next::Delete,
                false => Next::PutLess(grants::encode(&all)),
            };
            Ok((next, ()))
        });
        let _ = gone.and_then(|()| self.site.ring());
    }
}
