//! Who takes part: a row in the header and a lock file for each open handle.
//!
//! A participant lives exactly as long as its exclusive flock on `p-I`. Owns rows and lock files;
//! never decides what the death of one means.

use crate::error::{Error, Result};
use crate::format::header::{PARTICIPANT_LEN, PARTICIPANTS_AT, participant};
use crate::format::name::Name;
use crate::limits::PARTICIPANTS_MAX;
use crate::os::dir::Dir;
use crate::os::lock::{self, FileLock};
use crate::part::bell;
use crate::part::shared::Header;

/// This handle's place among the store's participants.
#[derive(Debug)]
pub(crate) struct Me {
    pub(crate) index: usize,
    pub(crate) incarnation: u64,
    pub(crate) lock: FileLock,
}

pub(crate) fn at(index: usize, field: u64) -> u64 {
    PARTICIPANTS_AT + index as u64 * PARTICIPANT_LEN + field
}

fn put_inode(header: &Header, index: usize, inode: u64) {
    header.put(at(index, participant::INODE), inode);
    header.put(at(index, participant::INODE_CHECK), inode.rotate_left(7));
}

/// The inode of a participant's lock file; 0: there is no such participant.
///
/// Where the row is damaged, or its owner died while writing it, the file that is there tells.
fn inode_of(header: &Header, dir: &Dir, index: usize) -> Result<u64> {
    let inode = header.get(at(index, participant::INODE));
    if header.get(at(index, participant::INODE_CHECK)) == inode.rotate_left(7) {
        return Ok(inode);
    }
    Ok(dir
        .stat(Name::Participant(index))?
        .map_or(0, |stat| stat.inode))
}

/// Whether anybody alive takes part. The caller holds the gate.
///
/// # Errors
/// [`Error::Moved`] when a lock file of a participant is missing or replaced.
pub(crate) fn any_alive(header: &Header, dir: &Dir) -> Result<bool> {
    for index in 0..PARTICIPANTS_MAX {
        let inode = inode_of(header, dir, index)?;
        if inode != 0 && lock::is_held(dir, Name::Participant(index), inode)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether any lock file is held, whatever the header says: for a directory whose header is gone.
pub(crate) fn any_file_held(dir: &Dir) -> Result<bool> {
    Ok(file_holder(dir)?.is_some())
}

/// The first participant whose lock file is held, whatever the header says.
pub(crate) fn file_holder(dir: &Dir) -> Result<Option<usize>> {
    for index in 0..PARTICIPANTS_MAX {
        if let Some(stat) = dir.stat(Name::Participant(index))?
            && lock::is_held(dir, Name::Participant(index), stat.inode)?
        {
            return Ok(Some(index));
        }
    }
    Ok(None)
}

/// Frees every row. The caller holds the gate, and nobody lives.
pub(crate) fn forget_all(header: &Header) {
    bell::forget_waiters(header);
    for index in 0..PARTICIPANTS_MAX {
        put_inode(header, index, 0);
    }
}

/// Frees this participant's own row; its lock goes with `me`.
pub(crate) fn leave(header: &Header, me: &Me) {
    put_inode(header, me.index, 0);
}

/// Takes a free participant. The caller holds the gate.
pub(crate) fn join(header: &Header, dir: &Dir) -> Result<Me> {
    for index in 0..PARTICIPANTS_MAX {
        let Some(lock) = FileLock::try_take(dir, Name::Participant(index))? else {
            continue;
        };
        let incarnation = header
            .get(at(index, participant::INCARNATION))
            .wrapping_add(1);
        put_inode(header, index, lock.inode);
        header.put(at(index, participant::PID), u64::from(std::process::id()));
        header.put(at(index, participant::INCARNATION), incarnation);
        return Ok(Me {
            index,
            incarnation: incarnation & ((1 << 47) - 1),
            lock,
        });
    }
    let what = format!(
        "{PARTICIPANTS_MAX} handles have it open already; close one, or share one handle by cloning it"
    );
    Err(Error::Unsupported {
        path: dir.path().into(),
        what,
    })
}

/// Whether the participant `index` is alive.
pub(crate) fn is_alive(header: &Header, dir: &Dir, index: usize) -> Result<bool> {
    if index >= PARTICIPANTS_MAX {
        return Ok(false);
    }
    let inode = inode_of(header, dir, index)?;
    if inode == 0 {
        return Ok(false);
    }
    lock::is_held(dir, Name::Participant(index), inode)
}
