//! The log read as it grows: what was changed, from a sequence on.
//!
//! Owns where a reader of changes is. Takes no lock to read, pins nothing, and never passes over a record
//! in silence: what cannot be told is a gap. DESIGN.md (watching) has the argument.

use std::time::{Duration, Instant};

use crate::engine::horizon::Settled;
use crate::engine::store::Store;
use crate::error::{Error, Result};
use crate::format::header::row;
use crate::format::names::{self, Cause, Name};
use crate::format::record::{Head, Kind, Record};
use crate::format::segment::{RECORDS_AT, SUMMARY_HASH_MASK, Summary, SummaryKind};
use crate::limits::RETRIES_MAX;
use crate::part::bell;
use crate::part::segment::{Line, Read, Segment};
use crate::part::segments::{self, row_at};

/// Lines looked at in one step.
const LINES_PER_STEP: u32 = 512;
/// The longest sleep of one who waits: a ring may be missed, and a dead writer rings no bell.
const PAUSE: Duration = Duration::from_millis(10);
/// A change that takes longer may be a dead writer's.
const UNFINISHED_FOR: Duration = Duration::from_millis(20);
/// So long the lock is waited for to find that out.
const LOCK_PATIENCE: Duration = Duration::from_millis(2);
/// How often one who waits says so, and lets go of what has gone.
const ALIVE_EVERY: Duration = Duration::from_secs(1);

/// Why changes are not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Untold {
    /// Their segments have gone.
    Behind,
    /// Entries were removed while nobody watched: how many, if that is known.
    Unnamed(Option<u64>),
    Damaged,
}

/// What a step has met.
pub(crate) enum Told<'a> {
    /// A set or a delete.
    Entry {
        head: &'a Head,
        /// Fixed part and options of the record.
        options: &'a [u8],
        key: &'a [u8],
        segment: &'a Segment,
        at: u64,
    },
    /// Entries that went by one record.
    Removed { seq: u64, names: Vec<Name> },
    /// Changes that are not told: of these sequences.
    Gap { from: u64, to: u64, why: Untold },
}

/// How far a step came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// There may be more at once.
    More,
    /// All there is was told.
    End,
    /// There is more, and somebody is in the middle of a change, or died there.
    Unsettled,
}

/// A segment being read.
#[derive(Clone, Copy, Debug)]
struct Seat {
    slot: u16,
    id: u64,
    /// The next line.
    index: u64,
    /// Sequences from here on are another segment's.
    until: u64,
    /// Where the last record met begins.
    last_at: u64,
    /// A line before this one could not be read.
    is_hurt: bool,
}

/// Where somebody is who reads changes.
#[derive(Clone, Debug)]
pub(crate) struct Feed {
    /// The first sequence that was not looked at.
    next: u64,
    seat: Option<Seat>,
    alive_at: Option<Instant>,
    /// The log when it was looked last.
    now: Option<Settled>,
    /// Since when somebody is in the middle of a change.
    unsettled_at: Option<Instant>,
}

type Look<'l> = &'l mut dyn FnMut(Told<'_>) -> Result<()>;

impl Feed {
    /// Everything from `next` on.
    pub(crate) fn new(next: u64) -> Feed {
        Feed {
            next,
            seat: None,
            alive_at: None,
            now: None,
            unsettled_at: None,
        }
    }

    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Looks at some records more, and tells `look` of those that may concern somebody.
    pub(crate) fn step(&mut self, store: &Store, look: Look<'_>) -> Result<Progress> {
        self.stay_alive(store)?;
        if store.committed() < self.next {
            return Ok(Progress::End);
        }
        // What was decided when it was looked last is told to its end: a batch is told in one go.
        let before = self.now.filter(|before| self.next <= before.bound);
        let Some(now) = self.settled(store).or(before) else {
            return Ok(Progress::Unsettled);
        };
        self.now = Some(now);
        for _ in 0..RETRIES_MAX {
            if self.next > now.bound {
                return Ok(Progress::End);
            }
            let seat = match self.seat {
                Some(seat) => seat,
                None => match self.locate(store, &now, look)? {
                    Some(seat) => seat,
                    None => return Ok(Progress::End),
                },
            };
            let segment = match store.segments.get(&store.files, &store.dir, seat.slot) {
                Ok(Some(segment)) if segment.head.id == seat.id => segment,
                Ok(_) if segments::id_of(&store.files, seat.slot)? != seat.id => {
                    // It has gone: what that means is found by looking anew.
                    self.seat = None;
                    continue;
                }
                Ok(_) | Err(Error::Corrupt { .. }) => {
                    self.give_up(seat, now.bound, look)?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            if self.read(store, seat, &segment, &now, look)? {
                return Ok(Progress::More);
            }
        }
        Ok(Progress::More)
    }

    /// The log between two changes. One whose writer may have died is completed: whoever has the lock next
    /// does that, and if that is nobody, we do.
    fn settled(&mut self, store: &Store) -> Option<Settled> {
        let settled = store.settled();
        if settled.is_some() {
            self.unsettled_at = None;
            return settled;
        }
        let since = *self.unsettled_at.get_or_insert_with(Instant::now);
        if since.elapsed() > UNFINISHED_FOR && store.may_write().is_ok() {
            self.unsettled_at = None;
            drop(Store::lock(store, Some(LOCK_PATIENCE)));
        }
        None
    }

    /// The segment the next sequence is in, or would be; `None`: there is none.
    fn locate(&mut self, store: &Store, now: &Settled, look: Look<'_>) -> Result<Option<Seat>> {
        let rows = store.log_rows()?;
        // In this order: a row that is no longer there was noted before it went.
        let lost = store.feed_lost();
        if self.next <= lost {
            let to = lost.min(now.bound);
            self.gap(to, Untold::Behind, look)?;
            if self.next > now.bound {
                return Ok(None);
            }
        }
        let behind = rows.partition_point(|row| row.first_seq <= self.next);
        let chosen = behind.saturating_sub(1);
        let Some(row) = rows.get(chosen) else {
            return Ok(None);
        };
        let until = rows.get(chosen + 1).map_or(u64::MAX, |row| row.first_seq);
        let mut seat = Seat {
            slot: row.slot,
            id: row.id,
            index: 0,
            until,
            last_at: 0,
            is_hurt: false,
        };
        if let Ok(Some(segment)) = store.segments.get(&store.files, &store.dir, row.slot)
            && segment.head.id == row.id
        {
            let lines = match now.active == row.id {
                true => now.count,
                false => row.lines,
            };
            seat.index = first_line(&segment, lines, self.next);
        }
        self.seat = Some(seat);
        Ok(Some(seat))
    }

    /// Reads lines of one segment. Whether so many that others should have their turn.
    fn read(
        &mut self,
        store: &Store,
        mut seat: Seat,
        segment: &Segment,
        now: &Settled,
        look: Look<'_>,
    ) -> Result<bool> {
        let is_active = now.active == seat.id;
        let (mut lines, mut end) = (now.count, 0);
        if !is_active {
            let load = |field| store.files.load(&store.dir, row_at(seat.slot, field));
            (lines, end) = (load(row::LINES)?, load(row::END)?);
            let has_gone = segments::id_of(&store.files, seat.slot)? != seat.id;
            // It was the last one when it was found: now another follows, at a sequence to be known.
            if has_gone || (seat.until == u64::MAX && has_follower(store, seat.id)?) {
                self.seat = None;
                return Ok(false);
            }
        }
        let is_known = is_active || lines != 0;
        for _ in 0..LINES_PER_STEP {
            if is_known && seat.index >= lines {
                self.end_of(store, seat, (segment, is_active, end), now.bound, look)?;
                return Ok(false);
            }
            match segment.line(seat.index) {
                Some(Line::Whole(line)) if line.seq > now.bound || line.seq >= seat.until => {
                    self.end_of(store, seat, (segment, is_active, 0), now.bound, look)?;
                    return Ok(false);
                }
                Some(Line::Whole(line)) => {
                    if line.seq >= self.next {
                        if std::mem::take(&mut seat.is_hurt) && line.seq > self.next {
                            self.gap(line.seq - 1, Untold::Damaged, look)?;
                        }
                        tell(store, segment, &line, look)?;
                        self.next = line.seq + 1;
                    }
                    seat.last_at = line.at;
                }
                Some(Line::Blank) if !is_known => {
                    self.end_of(store, seat, (segment, is_active, end), now.bound, look)?;
                    return Ok(false);
                }
                Some(Line::Damaged | Line::Blank) => seat.is_hurt = true,
                // Cut short: its footer is gone.
                None => {
                    self.give_up(seat, now.bound, look)?;
                    return Ok(false);
                }
            }
            seat.index += 1;
            self.seat = Some(seat);
        }
        Ok(true)
    }

    /// A segment has nothing more up to `bound`. `end`: so far its records go, if that is known.
    fn end_of(
        &mut self,
        store: &Store,
        mut seat: Seat,
        (segment, is_active, end): (&Segment, bool, u64),
        bound: u64,
        look: Look<'_>,
    ) -> Result<()> {
        if end > RECORDS_AT && seat.last_at < end {
            let last = match seat.last_at {
                0 => None,
                at => segment.read_head(&store.dir, at)?,
            };
            let reached = last.map_or(seat.last_at, |head| seat.last_at + head.len() as u64);
            seat.is_hurt |= reached < end;
        }
        let to = bound.min(seat.until - 1);
        if std::mem::take(&mut seat.is_hurt) && to >= self.next {
            self.gap(to, Untold::Damaged, look)?;
        }
        self.next = self.next.max(to + 1);
        self.seat = (is_active || to < seat.until - 1).then_some(seat);
        Ok(())
    }

    /// A segment that cannot be read.
    fn give_up(&mut self, seat: Seat, bound: u64, look: Look<'_>) -> Result<()> {
        self.seat = None;
        let to = bound.min(seat.until - 1);
        if to >= self.next {
            self.gap(to, Untold::Damaged, look)?;
        }
        Ok(())
    }

    fn gap(&mut self, to: u64, why: Untold, look: Look<'_>) -> Result<()> {
        let from = self.next;
        self.next = to + 1;
        look(Told::Gap { from, to, why })
    }

    /// Waits until there may be something to tell. Whether there is; not: `deadline` has come.
    ///
    /// This is the one place that sleeps.
    pub(crate) fn wait(&mut self, store: &Store, deadline: Option<Instant>) -> Result<bool> {
        let header = &store.files.header;
        loop {
            let rung = bell::LOG.rung(header);
            if store.committed() >= self.next && self.settled(store).is_some() {
                return Ok(true);
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(false);
            }
            self.stay_alive(store)?;
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            bell::LOG.wait(header, rung, left.map_or(PAUSE, |left| left.min(PAUSE)));
        }
    }

    /// Says now and then that somebody watches, and lets go of what has gone.
    pub(crate) fn stay_alive(&mut self, store: &Store) -> Result<()> {
        let now = Instant::now();
        if self.alive_at.is_some_and(|at| now < at + ALIVE_EVERY) {
            return Ok(());
        }
        self.alive_at = Some(now);
        store.notice_gone()?;
        if store.may_write().is_ok() {
            store.keep_watched();
            store.check_moved()?;
        }
        Ok(())
    }
}

/// Whether the log has a later segment.
fn has_follower(store: &Store, id: u64) -> Result<bool> {
    Ok(store.log_rows()?.iter().any(|row| row.id > id))
}

/// The first line that may have sequence `next` or a later one, of a segment with so many; 0: not known.
fn first_line(segment: &Segment, lines: u64, next: u64) -> u64 {
    let (mut low, mut high) = (0, lines);
    while low < high {
        let middle = low + (high - low) / 2;
        match segment.line(middle) {
            Some(Line::Whole(line)) if line.seq < next => low = middle + 1,
            Some(Line::Whole(_)) => high = middle,
            // Who cannot be asked is looked at from the front.
            _ => return 0,
        }
    }
    // One before: where the last record ends is asked for.
    low.saturating_sub(1)
}

/// Tells of one record.
fn tell(store: &Store, segment: &Segment, line: &Summary, look: Look<'_>) -> Result<()> {
    let seq = line.seq;
    let damaged = |look: Look<'_>| {
        look(Told::Gap {
            from: seq,
            to: seq,
            why: Untold::Damaged,
        })
    };
    let mut bytes = Vec::new();
    if line.kind == SummaryKind::Other {
        let Read::Whole(head) = segment.read(&store.dir, line.at, &mut bytes)? else {
            return damaged(look);
        };
        let record = match Record::decode(&bytes, segment.seed, line.at) {
            Ok(record) if head.seq == seq => record,
            _ => return damaged(look),
        };
        return match head.kind {
            Kind::Kill | Kind::Drop => tell_removal(&record, look),
            Kind::Mark | Kind::Set | Kind::Delete => Ok(()),
        };
    }
    let Some(head) = segment.read_options(&store.dir, line.at, &mut bytes)? else {
        return damaged(look);
    };
    let start = line.at + head.key_at as u64;
    let (from, to) = (
        start / 8 * 8,
        (start + head.key_len as u64).next_multiple_of(8),
    );
    let mut copy = Vec::new();
    segment.copy_range(&store.dir, from, to, &mut copy)?;
    let key = copy.get((start - from) as usize..);
    let Some(key) = key.and_then(|key| key.get(..head.key_len)) else {
        return damaged(look);
    };
    // The key's bytes are under the record's checksum, and under the hash in its line.
    let hash = store.hash.of(head.options.space, key) & SUMMARY_HASH_MASK;
    if head.seq != seq || hash != line.hash {
        return damaged(look);
    }
    look(Told::Entry {
        head: &head,
        options: &bytes,
        key,
        segment,
        at: line.at,
    })
}

fn tell_removal(record: &Record<'_>, look: Look<'_>) -> Result<()> {
    let seq = record.head.seq;
    if let Some(names) = names::from_rows(record.key()) {
        return look(Told::Removed { seq, names });
    }
    let is_repair = Cause::from_byte(record.head.value_kind) == Some(Cause::Repaired);
    let count = (record.head.kind == Kind::Kill).then(|| record.kills().count() as u64);
    let why = match is_repair {
        true => Untold::Damaged,
        false => Untold::Unnamed(count),
    };
    look(Told::Gap {
        from: seq,
        to: seq,
        why,
    })
}
