//! Everything derived, made again from the log alone.
//!
//! Reads every record's header, decides where the log ends, which version of each key is the newest,
//! and writes new derived files beside the old ones; one store to the header makes them valid.
//! Changes nothing in place before. Killed in the middle, the next opener begins again. DESIGN.md
//! (rebuild) has the rules and why they hold.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::engine::create::{self, Identity};
use crate::engine::ledger::Ledger;
use crate::engine::open::Wish;
use crate::engine::postings::tag_steps;
use crate::engine::room::Lane;
use crate::engine::scan::{self, Scan, Seen, SeenKind};
use crate::engine::store::{INNER_SPACE, MAIN_SPACE, Opened, Store, stat};
use crate::error::{Error, Result};
use crate::format::bucket::{self, Place};
use crate::format::header::{self as layout, row, space, state};
use crate::format::name::Name;
use crate::format::seed::KeyHash;
use crate::format::segment::{RECORDS_AT, SUMMARY_HASH_MASK, SegmentHead};
use crate::format::settings::Settings;
use crate::os::dir::Dir;
use crate::os::host::Home;
use crate::part::keymap::Keymap;
use crate::part::lists::Posting;
use crate::part::order::{self, Cell};
use crate::part::participants;
use crate::part::segment::Segment;
use crate::part::segments::row_at;

/// Rebuilds the store in `dir`. `known`: a sequence up to which nothing can be missing but by damage.
///
/// The caller holds the gate and found nobody alive.
pub(crate) fn rebuild(dir: Dir, known: Option<u64>, wish: &Wish) -> Result<Store> {
    let (ours, _) = dir.list()?;
    let home = Home::of(&dir);
    let known = known.or(remembered(&dir, &home)?);
    let (identity, header_is_whole) = identity(&dir, &ours)?;
    let unneeded = unneeded(&dir, &ours, header_is_whole)?;
    let mut ids: Vec<u64> = ours
        .iter()
        .filter_map(|name| {
            if let Name::Segment(id) = name {
                Some(*id)
            } else {
                None
            }
        })
        .collect();
    ids.retain(|id| !unneeded.contains(id));
    ids.sort_unstable();
    let segments = open_segments(&dir, &identity, &ids)?;
    let hash = KeyHash::new(identity.hash_seed);
    let mut scan = scan::scan(&dir, &segments, &hash, known)?;
    // A segment that cannot be read may hold anything.
    scan.has_losses |= segments.len() < ids.len();
    let winners = winners(&dir, &segments, &scan)?;

    let header = create::header_file(&dir, !header_is_whole)?;
    header.put(layout::SUSPECT_AT, 1);
    let before = ours
        .iter()
        .filter_map(|name| {
            if let Name::Keymap(generation) = name {
                Some(*generation)
            } else {
                None
            }
        })
        .max();
    let generation = before
        .unwrap_or(0)
        .max(header.get(layout::GENERATION_AT).min(1 << 40))
        + 1;
    header.put(
        layout::KNOWN_AT,
        known.map_or(0, |known| known | home.mark() << 48),
    );
    let kept_settings = header_is_whole.then(|| header.settings()).flatten();
    create::blank_header(&header, &identity);
    header.put(layout::SUSPECT_AT, 1);
    let files = create::derived_files(&dir, header, generation, winners.len() as u64)?;
    participants::forget_all(&files.header);
    let me = participants::join(&files.header, &dir)?;
    let store = Store::new(Opened {
        dir,
        files,
        me,
        clock: Arc::clone(&wish.clock),
    });
    let kept_settings = kept_settings.unwrap_or_else(|| wish.settings.clone());
    store.files.header.put_settings(&kept_settings);
    store.files.header.put(
        layout::EXPIRED_UPTO_AT,
        u64::from(store.second(store.now_ms())),
    );
    let lives = segments.iter().map(|segment| segment.head.life).max();
    store
        .files
        .header
        .put(layout::LIFE_AT, lives.unwrap_or(0) + 1);
    store.enter_segments(&segments)?;
    store.enter_winners(&winners)?;
    store.settle_counters(&scan, &ours)?;
    let settings = store.logged_settings().unwrap_or(kept_settings);
    store.files.header.put_settings(&settings);
    store.begin_after(&scan)?;
    let disk = create::disk_of(&store.dir)?;
    store.files.header.put(layout::DISK_BYTES_AT, disk);
    create::publish(&store.files, &store.dir)?;
    store.remove_leftovers(&ours, &scan, &winners)?;
    store
        .files
        .header
        .put(layout::DISK_BYTES_AT, create::disk_of(&store.dir)?);
    store.note_lowered();
    Ok(store)
}

/// Segments whose file was being removed, or made, by who died: none of their records counts. Removed.
fn unneeded(dir: &Dir, ours: &[Name], header_is_whole: bool) -> Result<Vec<u64>> {
    let mut gone = Vec::new();
    if header_is_whole && let Some(file) = dir.open_to_read(Name::Header)? {
        let bytes = dir.read_at(Name::Header, &file, layout::UNMAKING_AT, 8)?;
        let word = bytes.try_into().map_or(0, u64::from_le_bytes);
        gone.extend(layout::id_of_checked(word));
    }
    for &name in ours {
        let Name::Segment(id) = name else { continue };
        let Some(file) = dir.open_to_read(name)? else {
            continue;
        };
        // Its maker died before it had a header; so it has nothing else.
        let begin = dir.read_at(name, &file, 0, 4096)?;
        let disk = dir.stat_open(name, &file)?.disk;
        if begin.iter().all(|&byte| byte == 0) && disk <= 256 * 1024 {
            gone.push(id);
        }
    }
    for &id in &gone {
        dir.remove(Name::Segment(id))?;
    }
    Ok(gone)
}

/// What a rebuild that was killed knew, in this boot and on this mount.
fn remembered(dir: &Dir, home: &Home) -> Result<Option<u64>> {
    let Some(file) = dir.open_to_read(Name::Header)? else {
        return Ok(None);
    };
    let bytes = dir.read_at(Name::Header, &file, layout::KNOWN_AT, 8)?;
    let word = bytes.try_into().map_or(0, u64::from_le_bytes);
    Ok((word != 0 && word >> 48 == home.mark()).then_some(word & ((1 << 48) - 1)))
}

/// Who the store is: by its header, else by its segments. And whether the header is whole.
fn identity(dir: &Dir, ours: &[Name]) -> Result<(Identity, bool)> {
    if let Some(file) = dir.open_file(Name::Header)?
        && dir.stat_open(Name::Header, &file)?.len >= layout::HEADER_LEN
    {
        let header = crate::part::shared::Header::new(dir, file)?;
        if let Some(identity) = create::identity_of(&header) {
            return Ok((identity, true));
        }
    }
    let mut found: Vec<(u64, Identity)> = Vec::new();
    for name in ours {
        let Name::Segment(id) = *name else { continue };
        let Some(file) = dir.open_to_read(*name)? else {
            continue;
        };
        let bytes = dir.read_at(*name, &file, 0, RECORDS_AT as usize)?;
        if let Ok(head) = SegmentHead::decode(&bytes)
            && head.id == id
        {
            found.push((
                id,
                Identity {
                    uuid: head.uuid,
                    hash_seed: head.hash_seed,
                    created_ms: head.created_ms,
                },
            ));
        }
    }
    // A stranger's segment may lie among ours: whoever has most is at home.
    let votes = |uuid: &[u8; 16]| {
        found
            .iter()
            .filter(|(_, other)| other.uuid == *uuid)
            .count()
    };
    let best = found
        .iter()
        .max_by_key(|(id, identity)| (votes(&identity.uuid), std::cmp::Reverse(*id)));
    match best {
        Some((_, identity)) => Ok((*identity, false)),
        None => Err(create::refuse(
            dir,
            "neither its header nor any segment can be read",
        )),
    }
}

/// Our segments by slot, oldest first; strangers' and damaged ones are left where they are.
fn open_segments(dir: &Dir, identity: &Identity, ids: &[u64]) -> Result<Vec<Arc<Segment>>> {
    let mut segments = Vec::new();
    for &id in ids {
        let slot = segments.len() as u16 + 1;
        match Segment::open(dir, &identity.uuid, id, slot) {
            Ok(Some(segment)) => segments.push(Arc::new(segment)),
            Ok(None) => {}
            Err(Error::Corrupt { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(segments)
}

/// The newest version of each key that is to be found, by insertion.
pub(crate) fn winners(dir: &Dir, segments: &[Arc<Segment>], scan: &Scan) -> Result<Vec<Seen>> {
    let mut damaged: HashMap<u64, Seen> = HashMap::new();
    for seen in scan.seen.iter().filter(|seen| seen.is_damaged) {
        let entry = damaged
            .entry(seen.hash & SUMMARY_HASH_MASK)
            .or_insert(*seen);
        if seen.seq > entry.seq {
            *entry = *seen;
        }
    }
    let mut whole: Vec<Seen> = scan
        .seen
        .iter()
        .filter(|seen| !seen.is_damaged)
        .copied()
        .collect();
    whole.sort_unstable_by_key(|seen| (seen.hash, std::cmp::Reverse(seen.seq)));
    let mut winners = Vec::new();
    for group in whole.chunk_by(|a, b| a.hash == b.hash) {
        let killed = scan.kills.get(&group[0].hash).copied().unwrap_or(0);
        let hurt = damaged
            .get(&(group[0].hash & SUMMARY_HASH_MASK))
            .map_or(0, |hurt| hurt.seq);
        for winner in newest_per_key(dir, segments, group)? {
            if winner.kind == SeenKind::Set && winner.seq > killed && winner.seq > hurt {
                winners.push(winner);
            }
        }
    }
    // A damaged newest version keeps its key: reading it says so, an older one never comes back.
    for hurt in damaged.into_values() {
        let newer = winners_with(&whole, hurt.hash).any(|seen| seen.seq > hurt.seq);
        let killed = scan.kills.iter().any(|(hash, seq)| {
            hash & SUMMARY_HASH_MASK == hurt.hash & SUMMARY_HASH_MASK && *seq >= hurt.seq
        });
        if hurt.kind == SeenKind::Set && !newer && !killed {
            winners.push(hurt);
        }
    }
    winners.sort_unstable_by_key(|seen| (seen.order, seen.seq));
    Ok(winners)
}

fn winners_with(whole: &[Seen], hash: u64) -> impl Iterator<Item = &Seen> {
    whole
        .iter()
        .filter(move |seen| seen.hash & SUMMARY_HASH_MASK == hash & SUMMARY_HASH_MASK)
}

/// Of versions with one hash, newest first: the newest of each full key.
fn newest_per_key(dir: &Dir, segments: &[Arc<Segment>], group: &[Seen]) -> Result<Vec<Seen>> {
    if let [only] = group {
        return Ok(vec![*only]);
    }
    let mut keys = HashSet::new();
    let mut newest = Vec::new();
    for seen in group {
        let key = scan::key_of(dir, &segments[usize::from(seen.place.slot) - 1], seen)?;
        if keys.insert((seen.space, key)) {
            newest.push(*seen);
        }
    }
    Ok(newest)
}

impl Store {
    /// One row for each segment, all sealed.
    fn enter_segments(&self, segments: &[Arc<Segment>]) -> Result<()> {
        for segment in segments {
            let taken = crate::part::segments::reserve(&self.files, &self.dir)?;
            let _ = taken;
            let put = |field, value| {
                self.files
                    .store(&self.dir, row_at(segment.slot, field), value)
            };
            put(row::ID, segment.head.id)?;
            put(row::FIRST_SEQ, segment.head.first_seq)?;
            let copies = if segment.head.copies {
                layout::COPIES
            } else {
                0
            };
            let front = self.front_of(segment)?;
            put(row::STATE, state::SEALED << 56 | copies | front)?;
            self.files
                .header
                .put(layout::SEGS_USED_AT, u64::from(segment.slot) + 1);
        }
        Ok(())
    }

    /// Pages of a sealed segment that may hold records, for its row: no more than are allocated.
    pub(crate) fn front_of(&self, segment: &Segment) -> Result<u64> {
        let disk = self.dir.stat(segment.name())?.map_or(0, |stat| stat.disk);
        let pages = disk.min(segment.head.size).div_ceil(4096);
        Ok(pages & layout::FRONT_MASK)
    }

    /// Words, cells and counts of every entry.
    fn enter_winners(&self, winners: &[Seen]) -> Result<()> {
        let keymap = Keymap::of(&self.files);
        let header = &self.files.header;
        for seen in winners {
            keymap.insert_alone(&self.dir, seen.hash, bucket::word(seen.hash, seen.place))?;
            order::reserve(&self.files, &self.dir, seen.space, 1)?;
            let at = |field| crate::part::shared::Files::space_at(seen.space, field).at;
            let cells = header.get(at(space::CELLS));
            self.files.store(
                &self.dir,
                order::cell_at(seen.space, cells),
                Cell::new(seen.hash, seen.order).to_bits(),
            )?;
            header.put(at(space::CELLS), cells + 1);
            header.put(at(space::TAIL), cells + 1);
            header.add(at(space::COUNT), 1);
            header.add(at(space::VOLUME), seen.volume);
            self.files
                .segs
                .word(row_at(seen.place.slot, row::LIVE).at)?
                .fetch_add(seen.len, std::sync::atomic::Ordering::Relaxed);
            let is_copy = crate::part::segments::is_copies(&self.files, seen.place.slot)?;
            if is_copy && seen.space == MAIN_SPACE {
                header.add(layout::COPY_VOLUME_AT, seen.volume);
            }
            if seen.is_listed {
                self.enter_postings(seen)?;
            }
        }
        Ok(())
    }

    /// Cells of an entry's tags and expiry.
    fn enter_postings(&self, seen: &Seen) -> Result<()> {
        let segment = self
            .segments
            .must_get(&self.files, &self.dir, seen.place.slot)?;
        let Some(head) = segment.read_head(&self.dir, seen.place.at)? else {
            return Ok(());
        };
        let tags = segment.read_tags(&self.dir, seen.place.at)?;
        let posting = Posting::new(seen.hash, head.options.tag_seq);
        for step in tag_steps((&[], 0), (&tags, seen.volume), true) {
            self.reserve_postings(1)?;
            self.reserve_tag(step.id)?;
            let mut ledger = Ledger::new(&self.files);
            ledger.tag(step, posting)?;
            ledger.journal.commit(&self.files, &self.dir)?;
        }
        if let Some(expires_ms) = head.options.expires_ms {
            self.reserve_postings(1)?;
            let mut ledger = Ledger::new(&self.files);
            ledger.post(
                self.time_list(expires_ms),
                Posting::new(seen.hash, head.seq),
            )?;
            ledger.journal.commit(&self.files, &self.dir)?;
        }
        Ok(())
    }

    /// Counters that follow from what was seen.
    fn settle_counters(&self, scan: &Scan, ours: &[Name]) -> Result<()> {
        let header = &self.files.header;
        let last_file = ours
            .iter()
            .filter_map(|name| match name {
                Name::Segment(id) | Name::Value(id) | Name::Streaming(id) => Some(*id),
                _ => None,
            })
            .chain(scan.seen.iter().filter_map(|seen| seen.apart))
            .max();
        header.put(
            layout::NEXT_FILE_AT,
            last_file.unwrap_or(0).min(u64::MAX / 2) + 1,
        );
        header.put(layout::COMMITTED_AT, scan.end_seq);
        self.put_feed_lost(scan.hole_seq);
        header.put(layout::LIFE_SEQ_AT, scan.end_seq + 1);
        let mut dead: HashMap<u16, u64> = HashMap::new();
        let mut ends: HashMap<u16, u64> = HashMap::new();
        for seen in &scan.seen {
            // Without the marks at the end: how many records there are is found by walking them.
            let end = ends.entry(seen.place.slot).or_default();
            *end = (*end).max(seen.place.at + seen.len);
            // Smaller than needed is safe: it only keeps tombstones longer.
            let entry = dead.entry(seen.place.slot).or_insert(seen.seq);
            *entry = (*entry).min(seen.seq);
        }
        for (slot, seq) in dead {
            self.files
                .store(&self.dir, row_at(slot, row::DEAD_SEQ), seq)?;
        }
        for (slot, end) in ends {
            self.files.store(&self.dir, row_at(slot, row::END), end)?;
        }
        header.put(layout::NEXT_TAG_AT, self.last_tag()? + 1);
        self.enter_quotas()?;
        header.put(
            layout::STATS_AT + 8 * stat::CORRUPT,
            scan.seen.iter().filter(|seen| seen.is_damaged).count() as u64,
        );
        Ok(())
    }

    /// The rows of tags that have a quota.
    fn enter_quotas(&self) -> Result<()> {
        let mut buffer = Vec::new();
        for index in 0..self.files.space(INNER_SPACE, space::CELLS) {
            let Some(cell) = order::cell(&self.files, &self.dir, INNER_SPACE, index)? else {
                break;
            };
            let Ok(Some(hit)) = self.find_cell(INNER_SPACE, cell, &mut buffer) else {
                continue;
            };
            let Some(name) = hit.key(&buffer).strip_prefix(b"u/") else {
                continue;
            };
            let bytes = hit.value(&buffer).try_into().map(u64::from_le_bytes);
            if let (Ok(bytes), Some(id)) = (bytes, self.tag_id(name)?) {
                self.put_quota(id, bytes)?;
            }
        }
        Ok(())
    }

    /// The highest tag id in use.
    fn last_tag(&self) -> Result<u64> {
        let mut last = 0;
        let mut buffer = Vec::new();
        for index in 0..self.files.space(INNER_SPACE, space::CELLS) {
            let Some(cell) = order::cell(&self.files, &self.dir, INNER_SPACE, index)? else {
                break;
            };
            let Ok(Some(hit)) = self.find_cell(INNER_SPACE, cell, &mut buffer) else {
                continue;
            };
            let id = hit
                .key(&buffer)
                .strip_prefix(b"i/")
                .and_then(|id| std::str::from_utf8(id).ok()?.parse::<u64>().ok());
            last = last.max(id.unwrap_or(0));
        }
        Ok(last)
    }

    /// Everything found is made durable, and a mark in a new segment says so: from its first record on,
    /// whatever an older segment holds beyond `end_seq` was never acknowledged.
    fn begin_after(&self, scan: &Scan) -> Result<()> {
        self.first_segment()?;
        for row in crate::part::segments::rows(&self.files)? {
            let name = Name::Segment(row.id);
            if let Some(file) = self.dir.open_file(name)? {
                self.dir.sync(name, &file)?;
            }
        }
        self.dir.sync_names()?;
        let header = &self.files.header;
        header.put(layout::DURABLE_AT, scan.end_seq);
        header.put(layout::UNSYNCED_AT, header.number(layout::NEXT_FILE_AT) - 1);
        let held = &mut self.lock_now()?;
        let (store, proof) = held.parts();
        store.append_mark(proof, scan.end_seq)?;
        if scan.has_losses || scan.seen.iter().any(|seen| seen.is_damaged) {
            // Whoever watches is told that not everything was told.
            store.append_kills(proof, &[])?;
        }
        Ok(())
    }

    /// Old derived files, streams nobody writes any more, and value files no record names.
    fn remove_leftovers(&self, ours: &[Name], scan: &Scan, winners: &[Seen]) -> Result<()> {
        let generation = self.files.generation;
        let needed: HashSet<u64> = winners.iter().filter_map(|seen| seen.apart).collect();
        // With damage about, a value file may be of a record that cannot be read: it stays.
        let is_sound = !scan.seen.iter().any(|seen| seen.is_damaged) && !scan.has_losses;
        for &name in ours {
            let is_left = match name {
                Name::Keymap(of)
                | Name::Overflow(of)
                | Name::Segments(of)
                | Name::Lists(of)
                | Name::Posts(of)
                | Name::Ghost(of)
                | Name::Order { generation: of, .. } => of != generation,
                Name::Streaming(_) => true,
                Name::Value(id) => is_sound && !needed.contains(&id),
                _ => false,
            };
            if is_left {
                self.dir.remove(name)?;
            }
        }
        Ok(())
    }

    /// The settings as the log has them; defaults when it has none.
    pub(crate) fn logged_settings(&self) -> Result<Settings> {
        let mut buffer = Vec::new();
        let key = crate::engine::settings::KEY;
        match self.find(
            INNER_SPACE,
            key,
            self.hash.of(INNER_SPACE, key),
            &mut buffer,
        )? {
            Some(hit) => Ok(Settings::from_text(&String::from_utf8_lossy(
                hit.value(&buffer),
            ))),
            None => Err(Error::corrupt(
                self.dir.path(),
                0,
                "the log has no settings",
            )),
        }
    }

    /// A segment for the next records, whatever the last one still has room for.
    pub(crate) fn first_segment(&self) -> Result<()> {
        let place = Place::from_bits(self.files.header.get(layout::TAIL_AT));
        debug_assert!(place.is_none(), "only a store without a tail begins one");
        self.rotate(Lane::Log, 0, 0, true)
    }
}
