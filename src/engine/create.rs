//! A new store: its header, its empty derived files, its first segment.
//!
//! The header's magic is written last: killed before, the next opener begins again.

use crate::engine::store::Store;
use crate::error::{Error, Result};
use crate::format::header as layout;
use crate::format::name::Name;
use crate::format::settings::Settings;
use crate::os::dir::Dir;
use crate::os::host::Home;
use crate::part::keymap;
use crate::part::lists;
use crate::part::participants;
use crate::part::shared::{Files, Header};

/// Who a store is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    pub(crate) uuid: [u8; 16],
    pub(crate) hash_seed: u64,
    pub(crate) created_ms: u64,
}

/// Makes a header file full of zeros, or takes the one that is there.
pub(crate) fn header_file(dir: &Dir, anew: bool) -> Result<Header> {
    let file = match dir.open_file(Name::Header)? {
        Some(file) if !anew => file,
        _ => dir.create(Name::Header)?,
    };
    dir.allocate(Name::Header, &file, 0, layout::HEADER_LEN)?;
    Header::new(dir, file)
}

/// Fills the header for empty derived files of `generation`; nobody else sees it yet.
///
/// Participants' rows and statistics stay as they are.
pub(crate) fn blank_header(header: &Header, identity: &Identity) {
    header.put(layout::MAGIC_AT, 0);
    for at in (layout::GENERATION_AT..layout::SETTINGS_AT).step_by(8) {
        header.put(at, 0);
    }
    for at in (layout::OWNER_AT..layout::STATS_AT)
        .step_by(8)
        .chain((layout::JOURNAL_AT..layout::PARTICIPANTS_AT).step_by(8))
        .chain((layout::CLOCK_AT..layout::HEADER_LEN).step_by(8))
    {
        header.put(at, 0);
    }
    header.put(layout::VERSION_AT, u64::from(layout::FORMAT_VERSION));
    header.write(layout::UUID_AT, &identity.uuid);
    header.put(layout::HASH_SEED_AT, identity.hash_seed);
    header.put(layout::CREATED_MS_AT, identity.created_ms);
    header.put(layout::SEGS_USED_AT, 1);
    header.put(layout::NEXT_FILE_AT, 1);
    header.put(layout::NEXT_TAG_AT, 1);
    header.put(layout::LIFE_SEQ_AT, 1);
    header.put(layout::LIFE_AT, 1);
}

/// Makes empty derived files with room for `entries`. Returns the bytes they take.
pub(crate) fn derived_files(
    dir: &Dir,
    header: Header,
    generation: u64,
    entries: u64,
) -> Result<Files> {
    let files = Files::create(dir, header, generation)?;
    let (split, bytes) = keymap::buckets_for(entries);
    files.keymap.grow(dir, 0, bytes)?;
    files.over.grow(dir, 0, 16 * 1024)?;
    files.segs.grow(dir, 0, 4096)?;
    files.lists.grow(dir, 0, lists::ROWS_MIN * lists::ROW_LEN)?;
    files.posts.grow(dir, 0, 4096)?;
    let header = &files.header;
    header.put(layout::SPLIT_AT, split.to_bits());
    header.put(layout::KEYMAP_BYTES_AT, bytes);
    header.put(layout::OVER_BYTES_AT, 16 * 1024);
    header.put(layout::SEGS_BYTES_AT, 4096);
    header.put(layout::LISTS_BYTES_AT, lists::ROWS_MIN * lists::ROW_LEN);
    header.put(layout::POSTS_BYTES_AT, 4096);
    header.put(layout::POSTS_USED_AT, 1);
    Ok(files)
}

/// The header says what it is, and where it is at home: from here on it is believed.
pub(crate) fn publish(files: &Files, dir: &Dir) -> Result<()> {
    let header = &files.header;
    header.put(layout::GENERATION_AT, files.generation);
    let identity = header.bytes(layout::VERSION_AT, layout::IDENTITY_CRC_AT);
    header.put(
        layout::IDENTITY_CRC_AT,
        u64::from(crc32fast::hash(&identity)),
    );
    settle_home(files, dir)?;
    header.put(layout::SUSPECT_AT, 0);
    header.put(layout::KNOWN_AT, 0);
    header.put(layout::MAGIC_AT, u64::from_le_bytes(*layout::MAGIC));
    Ok(())
}

/// Notes this boot, this mount and these files.
pub(crate) fn settle_home(files: &Files, dir: &Dir) -> Result<()> {
    let header = &files.header;
    let home = Home::of(dir);
    header.put(layout::BOOT_ID_AT, home.boot_id[0]);
    header.put(layout::BOOT_ID_AT + 8, home.boot_id[1]);
    header.put(layout::MOUNT_ID_AT, home.mount_id);
    for (n, inode) in inodes(files, dir)?.into_iter().enumerate() {
        header.put(layout::INODES_AT + n as u64 * 8, inode);
    }
    Ok(())
}

/// The inode numbers of the files an unclean store must still have.
pub(crate) fn inodes(files: &Files, dir: &Dir) -> Result<[u64; layout::INODES]> {
    let of = |name: Name, file: &std::fs::File| dir.stat_open(name, file).map(|stat| stat.inode);
    Ok([
        files.header.inode,
        dir.stat(Name::Gate)?.map_or(0, |stat| stat.inode),
        of(files.keymap.name(), files.keymap.file())?,
        of(files.over.name(), files.over.file())?,
        of(files.segs.name(), files.segs.file())?,
        of(files.lists.name(), files.lists.file())?,
        of(files.posts.name(), files.posts.file())?,
    ])
}

/// Whether the identity words are whole.
pub(crate) fn identity_of(header: &Header) -> Option<Identity> {
    let bytes = header.bytes(layout::VERSION_AT, layout::IDENTITY_CRC_AT);
    let whole = header.get(layout::MAGIC_AT) == u64::from_le_bytes(*layout::MAGIC)
        && header.get(layout::IDENTITY_CRC_AT) == u64::from(crc32fast::hash(&bytes));
    whole.then(|| Identity {
        uuid: header
            .bytes(layout::UUID_AT, layout::UUID_AT + 16)
            .try_into()
            .unwrap_or_default(),
        hash_seed: header.get(layout::HASH_SEED_AT),
        created_ms: header.get(layout::CREATED_MS_AT),
    })
}

/// A new, empty store in a directory that has none. The caller holds the gate.
pub(crate) fn files(dir: &Dir, identity: &Identity, settings: &Settings) -> Result<Files> {
    let header = header_file(dir, true)?;
    blank_header(&header, identity);
    header.put_settings(settings);
    let files = derived_files(dir, header, 1, 0)?;
    participants::forget_all(&files.header);
    files.header.put(layout::DISK_BYTES_AT, disk_of(dir)?);
    Ok(files)
}

/// Bytes on disk of the directory and every file of ours in it.
pub(crate) fn disk_of(dir: &Dir) -> Result<u64> {
    let (ours, _) = dir.list_on_disk()?;
    let mut bytes = 4096;
    for name in ours {
        bytes += dir.stat_on_disk(name)?.map_or(0, |stat| stat.disk);
    }
    Ok(bytes)
}

/// The first write to a new store: its settings, in the log.
pub(crate) fn log_settings(store: &Store, settings: &Settings) -> Result<()> {
    crate::engine::sync::locked(store, None, |store, proof| {
        store.write_settings(proof, settings)
    })
}

/// Refuses a directory that is no store and is not to become one.
pub(crate) fn refuse(dir: &Dir, what: impl Into<String>) -> Error {
    Error::NotAStore {
        path: dir.path().into(),
        what: what.into(),
    }
}
