//! The whole log, read once: every version of every key, and where the log ends.
//!
//! Reads and decides; writes nothing. The rule of the end: records at or below what is known to be
//! durable are the log whatever happened to one of them; above it, the first one missing ends it, and
//! a batch without its end is dropped whole.

use std::collections::HashMap;
use std::sync::Arc;

use crate::engine::large::CHUNK;
use crate::engine::walk::{Next, Walk};
use crate::error::Result;
use crate::format::bucket::Place;
use crate::format::name::Name;
use crate::format::record::{Apart, Head, Kind, Record, flag};
use crate::format::seed::KeyHash;
use crate::format::segment::{Summary, SummaryKind};
use crate::os::dir::Dir;
use crate::part::segment::{Read, Segment};

/// What a version does to its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SeenKind {
    Set,
    Delete,
    /// Kill lists and marks.
    Other,
}

/// One version of a key, as the log has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) hash: u64,
    pub(crate) seq: u64,
    pub(crate) order: u64,
    pub(crate) place: Place,
    pub(crate) len: u64,
    pub(crate) volume: u64,
    pub(crate) apart: Option<u64>,
    pub(crate) space: u32,
    pub(crate) kind: SeenKind,
    /// It has tags or an expiry.
    pub(crate) is_listed: bool,
    pub(crate) is_damaged: bool,
    /// Its line in the footer was begun: else its writer died before it was decided.
    is_finished: bool,
    /// In a batch that ends with a later record.
    is_open: bool,
}

/// What the log holds.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    pub(crate) seen: Vec<Seen>,
    /// By hash: every version up to this sequence is removed by a kill list.
    pub(crate) kills: HashMap<u64, u64>,
    /// The newest sequence of the log.
    pub(crate) end_seq: u64,
    /// The highest sequence up to the end that no record has: of a segment that has gone.
    pub(crate) hole_seq: u64,
    /// Something below the end is missing without a trace.
    pub(crate) has_losses: bool,
    /// Of each segment: records, and the byte behind the last one.
    pub(crate) walked: Vec<(u64, u64)>,
}

/// Reads the segments, oldest first. `known`: see `rebuild`.
pub(crate) fn scan(
    dir: &Dir,
    segments: &[Arc<Segment>],
    hash: &KeyHash,
    known: Option<u64>,
) -> Result<Scan> {
    let mut all: Vec<Seen> = Vec::new();
    let mut marks = 0;
    // What a segment of an earlier life holds from a later life's first sequence on was never
    // acknowledged.
    let later_life = |segment: &Segment| {
        let later = segments
            .iter()
            .filter(|other| other.head.life > segment.head.life);
        later.map(|other| other.head.life_seq).min()
    };
    let mut walked = Vec::new();
    for segment in segments {
        let end = later_life(segment).unwrap_or(u64::MAX);
        let mut seen = read_segment(dir, segment, hash, &mut marks)?;
        let last = seen.last().map_or(0, |last| last.place.at + last.len);
        walked.push((seen.len() as u64, last));
        seen.retain(|seen| seen.seq < end);
        all.extend(seen);
    }
    // Two lanes take turns.
    all.sort_by_key(|seen| seen.seq);
    let known = known.unwrap_or(0).max(marks);
    let mut scan = Scan {
        walked,
        ..Scan::default()
    };
    cut(dir, segments, &mut all, known, &mut scan)?;
    drop_open_batch(&mut all, &mut scan);
    scan.hole_seq = hole(&all, scan.end_seq);
    scan.kills = kills(dir, segments, &all)?;
    let drops = drops(dir, segments, &all)?;
    for seen in &mut all {
        let id = segments[usize::from(seen.place.slot) - 1].head.id;
        let is_dropped = drops
            .get(&id)
            .is_some_and(|ranges| ranges.iter().any(|range| range.contains(&seen.place.at)));
        if seen.kind == SeenKind::Set && is_dropped {
            // It went, and whatever was older of its key.
            seen.kind = SeenKind::Delete;
            seen.is_damaged = false;
        }
    }
    scan.seen = all;
    scan.seen.retain(|seen| seen.kind != SeenKind::Other);
    Ok(scan)
}

fn read_segment(
    dir: &Dir,
    segment: &Arc<Segment>,
    hash: &KeyHash,
    marks: &mut u64,
) -> Result<Vec<Seen>> {
    let mut walk = Walk::new(segment, segment.head.size);
    let mut seen: Vec<Seen> = Vec::new();
    // Sequences grow within a segment; the other lane has those in between.
    let mut last = segment.head.first_seq.saturating_sub(1);
    let mut buffer = Vec::new();
    while let Some(next) = walk.next(dir)? {
        let one = match next {
            Next::Record {
                at,
                head,
                summary,
                has_line,
            } => {
                // The rest of an older attempt, behind a log that ended here.
                if head.seq <= last {
                    break;
                }
                let place = Place {
                    slot: segment.slot,
                    at,
                };
                if head.kind == Kind::Mark
                    && let Read::Whole(_) = segment.read(dir, at, &mut buffer)?
                    && let Ok(record) = Record::decode(&buffer, segment.seed, at)
                {
                    *marks = (*marks).max(record.durable_seq().min(head.seq));
                }
                of_record(
                    &head,
                    place,
                    key_hash(dir, segment, (at, &head), summary, hash, &mut buffer)?,
                    walk.at() - at,
                    has_line || segment.cut_from.is_some(),
                )
            }
            Next::Damage { at, summary } => {
                if summary.is_some_and(|summary| summary.seq <= last) {
                    break;
                }
                of_damage(
                    summary,
                    Place {
                        slot: segment.slot,
                        at,
                    },
                    last + 1,
                    walk.at() - at,
                )
            }
        };
        last = one.seq;
        seen.push(one);
    }
    Ok(seen)
}

/// The hash of a record's key; a footer that says otherwise means the key's bytes are damaged.
fn key_hash(
    dir: &Dir,
    segment: &Arc<Segment>,
    (at, head): (u64, &Head),
    summary: Option<Summary>,
    hash: &KeyHash,
    buffer: &mut Vec<u8>,
) -> Result<KeyHashed> {
    if !matches!(head.kind, Kind::Set | Kind::Delete) {
        return Ok(KeyHashed {
            hash: 0,
            is_damaged: false,
        });
    }
    buffer.clear();
    let start = at + head.key_at as u64;
    let (from, to) = (
        start / 8 * 8,
        (start + head.key_len as u64).next_multiple_of(8),
    );
    segment.copy_range(dir, from, to, buffer)?;
    let key = &buffer[(start - from) as usize..][..head.key_len];
    let found = hash.of(head.options.space, key);
    match summary {
        Some(summary) if summary.hash != found & crate::format::segment::SUMMARY_HASH_MASK => {
            Ok(KeyHashed {
                hash: summary.hash,
                is_damaged: true,
            })
        }
        _ => Ok(KeyHashed {
            hash: found,
            is_damaged: false,
        }),
    }
}

/// The whole record at a place, as a scan would have it; `None`: there is none.
pub(crate) fn look(
    dir: &Dir,
    segment: &Arc<Segment>,
    at: u64,
    hash: &KeyHash,
) -> Result<Option<Seen>> {
    let mut buffer = Vec::new();
    let Read::Whole(head) = segment.read(dir, at, &mut buffer)? else {
        return Ok(None);
    };
    let key = &buffer[head.key_at..][..head.key_len];
    let key = KeyHashed {
        hash: hash.of(head.options.space, key),
        is_damaged: false,
    };
    let slot = segment.slot;
    let len = head.len() as u64;
    Ok(Some(of_record(&head, Place { slot, at }, key, len, true)))
}

/// The space and key of a record that is damaged, if they are those its footer's line names by `hash`.
pub(crate) fn key_of_damaged(
    dir: &Dir,
    segment: &Arc<Segment>,
    seen: &Seen,
    hash: &KeyHash,
) -> Result<Option<(u32, Vec<u8>)>> {
    let mut bytes = Vec::new();
    let at = seen.place.at;
    let most = (crate::format::record::HEAD_LEN
        + crate::format::record::OPTIONS_MAX
        + crate::limits::TAGS_MAX * 4
        + crate::limits::KEY_LEN_MAX) as u64
        + 8;
    segment.copy_range(dir, at, (at + most).min(segment.head.size), &mut bytes)?;
    let Some(head) = crate::format::record::verified_head(&bytes) else {
        return Ok(None);
    };
    let Some(key) = bytes.get(head.key_at..head.key_at + head.key_len) else {
        return Ok(None);
    };
    let found = hash.of(head.options.space, key);
    let mask = crate::format::segment::SUMMARY_HASH_MASK;
    let is_it = seen.hash & mask == found & mask && seen.hash != 0;
    Ok(is_it.then(|| (head.options.space, key.to_vec())))
}

struct KeyHashed {
    hash: u64,
    is_damaged: bool,
}

fn of_record(head: &Head, place: Place, key: KeyHashed, len: u64, is_finished: bool) -> Seen {
    Seen {
        hash: key.hash,
        seq: head.seq,
        order: head.order,
        place,
        len,
        volume: head.volume(),
        apart: head.options.apart.map(|apart| apart.id),
        space: head.options.space,
        kind: match head.kind {
            Kind::Set => SeenKind::Set,
            Kind::Delete => SeenKind::Delete,
            Kind::Kill | Kind::Mark | Kind::Drop => SeenKind::Other,
        },
        is_listed: head.flags & (flag::TAGS | flag::EXPIRES) != 0,
        is_damaged: key.is_damaged,
        is_finished,
        is_open: head.flags & (flag::BATCH | flag::BATCH_END) == flag::BATCH,
    }
}

fn of_damage(summary: Option<Summary>, place: Place, seq: u64, len: u64) -> Seen {
    Seen {
        hash: summary.map_or(0, |summary| summary.hash),
        seq,
        order: seq,
        place,
        len,
        volume: 0,
        apart: None,
        space: 0,
        kind: match summary.map(|summary| summary.kind) {
            Some(SummaryKind::Set) => SeenKind::Set,
            Some(SummaryKind::Delete) => SeenKind::Delete,
            Some(SummaryKind::Other) | None => SeenKind::Other,
        },
        is_listed: false,
        is_damaged: true,
        is_finished: true,
        is_open: false,
    }
}

/// Ends the log at the first record above `known` that is missing or damaged.
fn cut(
    dir: &Dir,
    segments: &[Arc<Segment>],
    all: &mut Vec<Seen>,
    known: u64,
    scan: &mut Scan,
) -> Result<()> {
    let mut buffer = Vec::new();
    let mut end = all.len();
    let mut last = all.first().map_or(0, |first| first.seq - 1);
    for (n, seen) in all.iter().enumerate() {
        // Below what is known to be durable, segments nobody needed have gone.
        if seen.seq > last + 1 && last + 1 > known {
            scan.has_losses = true;
            end = n;
            break;
        }
        if seen.seq > known {
            let segment = &segments[usize::from(seen.place.slot) - 1];
            let is_whole = !seen.is_damaged
                && seen.is_finished
                && match segment.read(dir, seen.place.at, &mut buffer)? {
                    Read::Whole(head) => value_is_whole(dir, head.options.apart)?,
                    Read::Damaged(_) => false,
                };
            if !is_whole {
                end = n;
                break;
            }
        }
        last = seen.seq;
    }
    all.truncate(end);
    // A word that lies tells at most so much.
    scan.end_seq = if known - last.min(known) < 1 << 32 {
        last.max(known)
    } else {
        last
    };
    if last < known {
        scan.has_losses = true;
    }
    Ok(())
}

/// The highest sequence up to `end` that none of `all`, ascending, has; 0: there is none.
fn hole(all: &[Seen], end: u64) -> u64 {
    let mut above = end + 1;
    for seen in all.iter().rev() {
        if seen.seq + 1 < above {
            break;
        }
        above = above.min(seen.seq);
    }
    above - 1
}

/// Whether a large value's file is what its record names: it may not have reached the disk.
pub(crate) fn value_is_whole(dir: &Dir, apart: Option<Apart>) -> Result<bool> {
    let Some(apart) = apart else { return Ok(true) };
    let name = Name::Value(apart.id);
    let Some(file) = dir.open_to_read(name)? else {
        return Ok(false);
    };
    if dir.stat_open(name, &file)?.len != apart.len {
        return Ok(false);
    }
    let mut crc = crc32fast::Hasher::new();
    let mut at = 0;
    while at < apart.len {
        let bytes = dir.read_at(name, &file, at, CHUNK)?;
        if bytes.is_empty() {
            return Ok(false);
        }
        crc.update(&bytes);
        at += bytes.len() as u64;
    }
    Ok(crc.finalize() == apart.crc)
}

fn drop_open_batch(all: &mut Vec<Seen>, scan: &mut Scan) {
    while all.last().is_some_and(|last| last.is_open) {
        all.pop();
        scan.end_seq = all.last().map_or(0, |last| last.seq);
    }
}

/// What kill lists remove. A damaged list still tells by each pair that fits a record.
fn kills(dir: &Dir, segments: &[Arc<Segment>], all: &[Seen]) -> Result<HashMap<u64, u64>> {
    let mut kills = HashMap::new();
    let lists: Vec<&Seen> = all
        .iter()
        .filter(|seen| seen.kind == SeenKind::Other)
        .collect();
    if lists.is_empty() {
        return Ok(kills);
    }
    let mut by_seq: HashMap<u64, u64> = HashMap::new();
    let mut hashes: std::collections::HashSet<u64> = std::collections::HashSet::new();
    let mut kill = |hash: u64, seq: u64| {
        let entry = kills.entry(hash).or_insert(seq);
        *entry = (*entry).max(seq);
    };
    let mut buffer = Vec::new();
    for list in lists {
        let segment = &segments[usize::from(list.place.slot) - 1];
        if let Read::Whole(head) = segment.read(dir, list.place.at, &mut buffer)? {
            if matches!(head.kind, Kind::Kill | Kind::Drop)
                && let Ok(record) = Record::decode(&buffer, segment.seed, list.place.at)
            {
                record.kills().for_each(|(hash, seq)| kill(hash, seq));
            }
            continue;
        }
        if by_seq.is_empty() {
            by_seq = all
                .iter()
                .filter(|seen| seen.kind == SeenKind::Set)
                .map(|seen| (seen.seq, seen.hash))
                .collect();
            hashes = by_seq.values().copied().collect();
        }
        buffer.clear();
        let start = list.place.at + crate::format::record::HEAD_LEN as u64;
        let end = (list.place.at + list.len)
            .min(start + (1 << 20))
            .min(segment.head.size);
        segment.copy_range(dir, start, end.max(start), &mut buffer)?;
        for pair in buffer.as_chunks::<16>().0 {
            let hash = u64::from_le_bytes(pair[..8].try_into().unwrap_or_default());
            let seq = u64::from_le_bytes(pair[8..].try_into().unwrap_or_default());
            if hashes.contains(&hash) {
                kill(hash, list.seq - 1);
            } else if let Some(&hash) = by_seq
                .get(&seq)
                .filter(|_| seq < list.seq && hash.count_ones() > 0)
            {
                kill(hash, seq);
            }
        }
    }
    Ok(kills)
}

type Drops = HashMap<u64, Vec<std::ops::Range<u64>>>;

/// Which bytes of each segment were emptied, by its id. A damaged one is as good as none: what it
/// dropped comes back as far as its segment is still there, and nothing else does.
fn drops(dir: &Dir, segments: &[Arc<Segment>], all: &[Seen]) -> Result<Drops> {
    let mut drops = Drops::new();
    let mut buffer = Vec::new();
    for list in all.iter().filter(|seen| seen.kind == SeenKind::Other) {
        let segment = &segments[usize::from(list.place.slot) - 1];
        if let Read::Whole(head) = segment.read(dir, list.place.at, &mut buffer)?
            && head.kind == Kind::Drop
            && let Ok(record) = Record::decode(&buffer, segment.seed, list.place.at)
            && let Some((id, range)) = record.dropped()
        {
            let ranges = drops.entry(id).or_default();
            // One after the other, mostly.
            match ranges.last_mut() {
                Some(last) if last.end >= range.start && last.start <= range.start => {
                    last.end = last.end.max(range.end);
                }
                _ => ranges.push(range),
            }
        }
    }
    Ok(drops)
}

/// A version's full key.
pub(crate) fn key_of(dir: &Dir, segment: &Arc<Segment>, seen: &Seen) -> Result<Vec<u8>> {
    let Some(head) = segment.read_head(dir, seen.place.at)? else {
        return Ok(Vec::new());
    };
    let mut buffer = Vec::new();
    let start = seen.place.at + head.key_at as u64;
    let (from, to) = (
        start / 8 * 8,
        (start + head.key_len as u64).next_multiple_of(8),
    );
    segment.copy_range(dir, from, to, &mut buffer)?;
    Ok(buffer[(start - from) as usize..][..head.key_len].to_vec())
}
