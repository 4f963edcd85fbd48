//! Opening: who is alive, what is trusted, and what must be made or rebuilt first.
//!
//! Trust is decided under the gate, by an opener who finds nobody alive; with somebody alive the
//! mapped files are what that process sees, so they are right. Does no work by the number of entries
//! unless it must rebuild. DESIGN.md (open) has the cases.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::create::{self, Identity};
use crate::engine::fanout;
use crate::engine::rebuild;
use crate::engine::store::{Held, Opened, Store};
use crate::error::{Error, Result};
use crate::format::bucket::Place;
use crate::format::header as layout;
use crate::format::name::Name;
use crate::format::segment::{HeadFault, RECORDS_AT, SegmentHead};
use crate::format::settings::Settings;
use crate::os::clock::Clock;
use crate::os::dir::Dir;
use crate::os::host::{self, Home};
use crate::os::lock::FileLock;
use crate::part::segment::Read;
use crate::part::shared::{Files, Header};
use crate::part::writer_lock;
use crate::part::{self, participants};

/// How a store is opened.
pub(crate) struct Wish {
    pub(crate) create: bool,
    pub(crate) any_filesystem: bool,
    /// Nothing is changed; `create` is false then.
    pub(crate) read_only: bool,
    /// By who has all shards of the store it is one of.
    pub(crate) as_shard: bool,
    pub(crate) clock: Arc<dyn Clock>,
    /// Of a store that is made.
    pub(crate) settings: Settings,
    pub(crate) timeout: Option<Duration>,
}

/// What stands in the directory.
enum There {
    Nothing,
    /// A header that is whole.
    Store,
    /// Segments, but no header that can be read.
    Headless,
}

/// Opens the store in `path`, making or rebuilding it as needed.
pub(crate) fn open(path: &Path, wish: &Wish) -> Result<Store> {
    if !wish.create && !path.exists() {
        return Err(Error::NotAStore {
            path: path.into(),
            what: "there is no such directory".into(),
        });
    }
    if !path.exists() && !wish.any_filesystem {
        // Before the directory is made, where it would be.
        let nearest = path.ancestors().skip(1).find(|parent| parent.exists());
        let nearest = nearest.filter(|parent| !parent.as_os_str().is_empty());
        host::check_filesystem(&Dir::open(nearest.unwrap_or(Path::new(".")), false)?)?;
    }
    if !wish.as_shard {
        fanout::refuse_shard(path)?;
    }
    let dir = if wish.read_only {
        Dir::open_read_only(path)?
    } else {
        Dir::open(path, wish.create)?
    };
    let there = look(&dir)?;
    if matches!(there, There::Nothing) && !wish.create {
        return Err(create::refuse(&dir, "it is empty"));
    }
    if !wish.any_filesystem {
        host::check_filesystem(&dir)?;
    }
    // Who reads alone shares the gate for as long as he reads: whoever would write waits there.
    let gate = if wish.read_only {
        FileLock::share(&dir, Name::Gate, wish.timeout)?
    } else {
        Some(FileLock::take(&dir, Name::Gate, wish.timeout)?)
    };
    if wish.read_only && participants::any_file_held(&dir)? {
        return Err(written_to(&dir));
    }
    // Somebody may have made it while we waited.
    let store = match look(&dir)? {
        There::Nothing if wish.read_only => return Err(create::refuse(&dir, "it is empty")),
        There::Nothing => make(dir, wish)?,
        There::Headless => {
            if participants::any_file_held(&dir)? {
                return Err(Error::Moved {
                    path: dir.path_of(Name::Header),
                });
            }
            rebuild::rebuild(dir, None, wish)?
        }
        There::Store => enter(dir, wish)?,
    };
    // On a filesystem that may not share, one handle alone: the gate stays shut while it lives.
    Ok(match gate {
        Some(gate) if wish.any_filesystem || wish.read_only => store.with_gate(gate),
        _ => store,
    })
}

/// For who would read alone, beside a writer: what he sees would change under his private pages.
fn written_to(dir: &Dir) -> Error {
    let pid_of = |index: usize| -> Option<u64> {
        let file = dir.open_to_read(Name::Header).ok()??;
        let at = participants::at(index, layout::participant::PID);
        let bytes = dir.read_at(Name::Header, &file, at, 8).ok()?;
        bytes.try_into().map(u64::from_le_bytes).ok()
    };
    let holder = participants::file_holder(dir).ok().flatten();
    Error::Busy {
        what: "the store (open for writing: open it without read_only to share it)",
        holder_pid: holder.and_then(pid_of).unwrap_or(0) as u32,
        held_since: None,
        waited: Duration::ZERO,
        removed: 0,
    }
}

/// Looks without changing a byte; refuses what is not ours, or is of a newer format.
fn look(dir: &Dir) -> Result<There> {
    if let Some(file) = dir.open_to_read(Name::Header)? {
        let bytes = dir.read_at(Name::Header, &file, 0, 64)?;
        let half = |at: usize| {
            bytes
                .get(at..at + 4)
                .map_or(0, |b| u32::from_le_bytes(b.try_into().unwrap_or_default()))
        };
        if bytes.starts_with(layout::MAGIC) {
            let crc_is_right = bytes.len() == 64 && half(48) == crc32fast::hash(&bytes[8..48]);
            if crc_is_right && (half(8) != layout::FORMAT_VERSION || half(12) != 0) {
                return Err(newer(dir, Name::Header, half(8)));
            }
            let is_long = dir.stat_open(Name::Header, &file)?.len >= layout::HEADER_LEN;
            if crc_is_right && is_long {
                return Ok(There::Store);
            }
            // Another version may check its header in another way: it says so in plain.
            if half(8) != layout::FORMAT_VERSION && !any_segment_is_ours(dir)? {
                return Err(newer(dir, Name::Header, half(8)));
            }
        }
    }
    let (ours, strangers) = dir.list()?;
    if ours
        .iter()
        .any(|name| matches!(name, Name::Fanout | Name::FanoutGate))
    {
        return Err(create::refuse(
            dir,
            "it is a store of several shards: open it with `Fanout`",
        ));
    }
    if any_segment_is_ours(dir)? {
        return Ok(There::Headless);
    }
    let leftovers = ours.iter().any(|name| matches!(name, Name::Gate));
    let foreign_header = ours.contains(&Name::Header) && !leftovers;
    let segments = ours
        .iter()
        .any(|name| matches!(name, Name::Segment(_) | Name::Value(_)));
    if foreign_header || (segments && !leftovers) {
        return Err(create::refuse(
            dir,
            "it has files with a store's names, but none is a store's",
        ));
    }
    if !strangers.is_empty() && !leftovers {
        let what = format!(
            "it holds {} file(s) that are not a store's, {:?} among them; give an empty directory",
            strangers.len(),
            strangers[0]
        );
        return Err(create::refuse(dir, what));
    }
    Ok(There::Nothing)
}

fn newer(dir: &Dir, name: Name, version: u32) -> Error {
    let what = format!(
        "it is of format version {version}; this larder reads and writes version {}",
        layout::FORMAT_VERSION
    );
    Error::Unsupported {
        path: dir.path_of(name),
        what,
    }
}

fn any_segment_is_ours(dir: &Dir) -> Result<bool> {
    let (mut ours, _) = dir.list()?;
    ours.retain(|name| matches!(name, Name::Segment(_)));
    let mut damaged = None;
    for name in ours {
        let Some(file) = dir.open_to_read(name)? else {
            continue;
        };
        match SegmentHead::decode(&dir.read_at(name, &file, 0, RECORDS_AT as usize)?) {
            Ok(_) => return Ok(true),
            Err(HeadFault::Newer(version)) => return Err(newer(dir, name, version)),
            Err(HeadFault::Damaged) => {
                let head = dir.read_at(name, &file, 0, RECORDS_AT as usize)?;
                if dir.stat(Name::Gate)?.is_some() && head.iter().any(|&byte| byte != 0) {
                    damaged = Some(name);
                }
            }
        }
    }
    match damaged {
        None => Ok(false),
        Some(name) => {
            let what =
                "the header of this segment is damaged, and no other says which store it is of";
            Err(Error::corrupt(dir.path_of(name), 0, what))
        }
    }
}

fn make(dir: Dir, wish: &Wish) -> Result<Store> {
    wish.settings.validate()?;
    let [a, b, hash_seed] = host::random_words::<3>()?;
    let mut uuid = [0; 16];
    uuid[..8].copy_from_slice(&a.to_le_bytes());
    uuid[8..].copy_from_slice(&b.to_le_bytes());
    let identity = Identity {
        uuid,
        hash_seed,
        created_ms: wish.clock.now_ms() / 1_000 * 1_000,
    };
    // What an earlier attempt left: segments without a header, so without a record.
    for name in dir.list()?.0 {
        if matches!(name, Name::Segment(_)) {
            dir.remove(name)?;
        }
    }
    let files = create::files(&dir, &identity, &wish.settings)?;
    let me = participants::join(&files.header, &dir)?;
    let store = Store::new(Opened {
        dir,
        files,
        me,
        clock: Arc::clone(&wish.clock),
    });
    store.first_segment()?;
    create::log_settings(&store, &wish.settings)?;
    create::publish(&store.files, &store.dir)?;
    Ok(store)
}

/// Opens a store whose header is whole.
fn enter(dir: Dir, wish: &Wish) -> Result<Store> {
    let Some(file) = dir.open_file(Name::Header)? else {
        return Err(Error::Moved {
            path: dir.path_of(Name::Header),
        });
    };
    let header = Header::new(&dir, file)?;
    // A copy has another inode: nobody lives in it, whatever its rows say.
    let is_copy = header.get(layout::INODES_AT) != header.inode;
    if is_copy && participants::any_file_held(&dir)? {
        // Somebody lives on the header that stood here before.
        return Err(Error::Moved {
            path: dir.path_of(Name::Header),
        });
    }
    if !is_copy && participants::any_alive(&header, &dir)? {
        if wish.read_only {
            return Err(written_to(&dir));
        }
        let files = Files::open(&dir, header)?;
        let me = participants::join(&files.header, &dir)?;
        let store = Store::new(Opened {
            dir,
            files,
            me,
            clock: Arc::clone(&wish.clock),
        });
        if writer_lock::take_from_my_past(&store.files.header, &store.me) {
            store.repair_and_give_back()?;
        }
        return Ok(store);
    }
    let home = Home::of(&dir);
    let same_home = !is_copy && is_home(&header, &home);
    let is_clean = header.number(layout::CLEAN_AT) == header.number(layout::COMMITTED_AT) + 1;
    let quiet = header.get(layout::QUIET_AT);
    let is_quiet = quiet == 0 || quiet == header.quiet();
    let known = same_home.then(|| header.number(layout::COMMITTED_AT));
    if !(same_home || is_clean) || !is_quiet || header.get(layout::SUSPECT_AT) != 0 {
        return rebuild::rebuild(dir, known, wish);
    }
    match try_enter(dir, header, (same_home, quiet != 0), wish)? {
        Ok(store) => Ok(store),
        Err(dir) => rebuild::rebuild(dir, known, wish),
    }
}

fn is_home(header: &Header, home: &Home) -> bool {
    home.mount_id != 0
        && home.boot_id
            == [
                header.get(layout::BOOT_ID_AT),
                header.get(layout::BOOT_ID_AT + 8),
            ]
        && home.mount_id == header.get(layout::MOUNT_ID_AT)
}

/// Enters an unattended store if all it says fits; else gives the directory back, to rebuild.
fn try_enter(
    dir: Dir,
    header: Header,
    (same_home, was_quiet): (bool, bool),
    wish: &Wish,
) -> Result<Result<Store, Dir>> {
    let recorded: Vec<u64> = (0..layout::INODES as u64)
        .map(|n| header.get(layout::INODES_AT + n * 8))
        .collect();
    let files = match Files::open(&dir, header) {
        Ok(files) => files,
        Err(Error::Corrupt { .. }) => return Ok(Err(dir)),
        Err(error) => return Err(error),
    };
    let inodes = create::inodes(&files, &dir)?;
    if same_home && recorded != inodes {
        return Ok(Err(dir));
    }
    if !lengths_fit(&files, &dir)? {
        return Ok(Err(dir));
    }
    // Nobody lives: rows of others, whose lock files may be another store's copies, are free.
    participants::forget_all(&files.header);
    let me = participants::join(&files.header, &dir)?;
    let store = Store::new(Opened {
        dir,
        files,
        me,
        clock: Arc::clone(&wish.clock),
    });
    let header = &store.files.header;
    writer_lock::take_from_the_dead(header, &store.me);
    let repaired = store
        .repair(true)
        .and_then(|()| store.end_dead_streams(|_| true));
    let repaired = repaired.and_then(|()| store.check_counters());
    // What a graceful leave put under a checksum is right, whatever became of the log meanwhile.
    let fits = repaired.is_ok()
        && header.get(layout::SUSPECT_AT) == 0
        && (was_quiet || store.last_record_fits()?);
    writer_lock::give_back(header);
    if !fits {
        return store.into_dir().map(Err);
    }
    if header.settings().is_none() {
        let settings = store.logged_settings()?;
        header.put_settings(&settings);
    }
    create::settle_home(&store.files, &store.dir)?;
    Ok(Ok(store))
}

fn lengths_fit(files: &Files, dir: &Dir) -> Result<bool> {
    let header = &files.header;
    let mut fits = files.keymap.len()?
        >= header
            .number(layout::KEYMAP_BYTES_AT)
            .max(crate::format::bucket::BUCKET_LEN << 10)
        && files.over.len()? >= header.number(layout::OVER_BYTES_AT)
        && files.segs.len()? >= header.number(layout::SEGS_BYTES_AT)
        && files.lists.len()? >= header.number(layout::LISTS_BYTES_AT)
        && files.posts.len()? >= header.number(layout::POSTS_BYTES_AT);
    for space in 0..crate::limits::SPACES_MAX as u32 {
        match files.order(dir, space) {
            Ok(Some(file)) => {
                fits &= file.region.len()? >= files.space(space, layout::space::CELLS) * 8
            }
            Ok(None) => fits &= files.space(space, layout::space::CELLS) == 0,
            Err(Error::Corrupt { .. }) => fits = false,
            Err(error) => return Err(error),
        }
    }
    let split = crate::part::keymap::Keymap::of(files).split();
    fits &= split.buckets() * crate::format::bucket::BUCKET_LEN
        <= header.number(layout::KEYMAP_BYTES_AT);
    Ok(fits)
}

impl Store {
    /// Counters that tell how much space to take agree with each other, or the store is suspect: a wrong
    /// one could have a writer take all there is. Nothing is being changed.
    fn check_counters(&self) -> Result<()> {
        let header = &self.files.header;
        let space = |which: u32, field: u64| self.files.space(which, field);
        let spaces = 0..crate::limits::SPACES_MAX as u32;
        let entries: u64 = spaces
            .clone()
            .map(|which| space(which, layout::space::COUNT))
            .sum();
        let mut fits = header.number(layout::KEYMAP_USED_AT) == entries
            && header.number(layout::OVER_USED_AT) * crate::format::bucket::BUCKET_LEN
                <= header.number(layout::OVER_BYTES_AT)
            && header.number(layout::SEGS_USED_AT) * layout::ROW_LEN
                <= header.number(layout::SEGS_BYTES_AT)
            && header.number(layout::POSTS_USED_AT) * part::lists::BLOCK_LEN
                <= header.number(layout::POSTS_BYTES_AT)
            && self.graves_fit();
        for which in spaces {
            let cells = space(which, layout::space::CELLS);
            fits &= space(which, layout::space::COUNT) <= cells
                && space(which, layout::space::TAIL) <= cells
                && space(which, layout::space::HEAD) <= cells
                && cells * part::order::CELL_LEN <= space(which, layout::space::BYTES);
        }
        if !fits {
            header.put(layout::SUSPECT_AT, 1);
        }
        Ok(())
    }

    /// The record the header calls the last is whole, has the committed sequence, and ends at the tail.
    fn last_record_fits(&self) -> Result<bool> {
        let header = &self.files.header;
        let (Some(tail), Some(last)) = (
            Place::from_bits(header.get(layout::TAIL_AT)),
            Place::from_bits(header.get(layout::LAST_AT)),
        ) else {
            return Ok(false);
        };
        let tail_segment = self.segments.get(&self.files, &self.dir, tail.slot);
        if !matches!(tail_segment, Ok(Some(_))) {
            return Ok(false);
        }
        let Ok(Some(segment)) = self.segments.get(&self.files, &self.dir, last.slot) else {
            return Ok(false);
        };
        let mut buffer = Vec::new();
        // A damaged value is no reason to rebuild: its header tells what is needed here.
        let head = match segment.read(&self.dir, last.at, &mut buffer)? {
            Read::Whole(head) => Some(head),
            Read::Damaged(_) => segment.read_head(&self.dir, last.at)?,
        };
        let Some(head) = head else { return Ok(false) };
        let end = Place {
            slot: last.slot,
            at: last.at + head.len() as u64,
        };
        let copies = Place::from_bits(header.get(layout::COPY_TAIL_AT));
        let ends = tail == end || copies == Some(end);
        // Either lane may have begun another segment since.
        let rotated = tail.slot != last.slot
            && copies.is_none_or(|copies| copies.slot != last.slot)
            && (header.number(layout::TAIL_COUNT_AT) == 0
                || header.number(layout::COPY_COUNT_AT) == 0);
        Ok(head.seq == self.committed() && (ends || rotated))
    }

    fn repair_and_give_back(&self) -> Result<()> {
        let repaired = self.repair(true);
        writer_lock::give_back(&self.files.header);
        repaired
    }

    /// Gives the directory back; the header says that it is not to be trusted.
    fn into_dir(self) -> Result<Dir> {
        self.files.header.put(layout::SUSPECT_AT, 1);
        let path = self.dir.path().to_path_buf();
        let is_read_only = self.dir.is_read_only();
        drop(self);
        if is_read_only {
            Dir::open_read_only(&path)
        } else {
            Dir::open(&path, false)
        }
    }

    /// Locks for one call of the opener, who waits for nobody.
    pub(crate) fn lock_now(&self) -> Result<Held<&Store>> {
        Store::lock_as_opener(self, None)
    }
}
