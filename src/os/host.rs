//! What the host is: this boot, this mount, this filesystem. Reports; never decides about trust.

use std::path::Path;

use rustix::fs::{AtFlags, StatxFlags};

use crate::error::{Error, Result};
use crate::os::dir::Dir;

/// `STATX_MNT_ID_UNIQUE`: a mount id that is never used again in one boot (Linux 6.8).
const MNT_ID_UNIQUE: u32 = 0x4000;

/// Which boot, and which mount of the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Home {
    pub(crate) boot_id: [u64; 2],
    /// 0: this kernel has no unique mount ids, so no two opens are known to be of one mount.
    pub(crate) mount_id: u64,
}

impl Home {
    /// 16 bits by which another boot or mount is told; never 0.
    pub(crate) fn mark(&self) -> u64 {
        let words = [self.boot_id[0], self.boot_id[1], self.mount_id];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        u64::from(crc32fast::hash(&bytes) >> 16) | 1
    }

    pub(crate) fn of(dir: &Dir) -> Home {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let digits: String = boot.chars().filter(char::is_ascii_hexdigit).collect();
        let half = |range: std::ops::Range<usize>| {
            digits
                .get(range)
                .and_then(|hex| u64::from_str_radix(hex, 16).ok())
                .unwrap_or(0)
        };
        let wanted = StatxFlags::from_bits_retain(MNT_ID_UNIQUE);
        let mount_id = match rustix::fs::statx(dir.fd(), "", AtFlags::EMPTY_PATH, wanted) {
            Ok(stat) if stat.stx_mask & MNT_ID_UNIQUE != 0 => stat.stx_mnt_id,
            _ => 0,
        };
        Home {
            boot_id: [half(0..16), half(16..32)],
            mount_id,
        }
    }
}

/// Refuses filesystems on which mapped files or flock are not shared as larder needs them. Who only
/// reads needs less.
pub(crate) fn check_filesystem(dir: &Dir) -> Result<()> {
    let stat = rustix::fs::fstatfs(dir.fd())
        .map_err(|errno| Error::io("asking about the filesystem of", dir.path(), errno.into()))?;
    let kind = stat.f_type as u64 & 0xFFFF_FFFF;
    let name = match kind {
        // ext2/3/4, xfs, tmpfs, overlay: see statfs(2).
        0xEF53 | 0x5846_5342 | 0x0102_1994 | 0x794C_7630 => return Ok(()),
        0x9123_683E if dir.is_read_only() || is_nocow(dir) => return Ok(()),
        // squashfs, erofs, ISO 9660: nobody ever writes to them.
        0x7371_7368 | 0xE0F5_E1E2 | 0x9660 if dir.is_read_only() => return Ok(()),
        0x9123_683E => "btrfs without NOCOW (chattr +C on the empty directory)",
        0x6969 => "NFS",
        0xFF53_4D42 | 0xFE53_4D42 | 0x517B => "SMB",
        0x6573_5546 => "FUSE",
        0x0102_1997 => "9p",
        _ => "unknown",
    };
    Err(Error::Unsupported {
        path: dir.path().into(),
        what: format!(
            "its filesystem (type {kind:#x}: {name}) does not share mapped files and locks as larder needs; \
             use ext4, xfs, tmpfs, overlay or btrfs with NOCOW, or allow_any_filesystem for one process alone"
        ),
    })
}

fn is_nocow(dir: &Dir) -> bool {
    rustix::fs::ioctl_getflags(dir.fd())
        .is_ok_and(|flags| flags.contains(rustix::fs::IFlags::NOCOW))
}

/// Random bytes for a store's identity, from the system.
pub(crate) fn random_words<const N: usize>() -> Result<[u64; N]> {
    use std::io::Read;
    if cfg!(fuzzing) {
        // A found input is one for every process: the store it damages is the same.
        return Ok(std::array::from_fn(|n| {
            0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(n as u64 + 1)
        }));
    }
    let path = Path::new("/dev/urandom");
    let mut bytes = vec![0; N * 8];
    std::fs::File::open(path)
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|error| Error::io("reading", path, error))?;
    let mut words = [0; N];
    for (word, chunk) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*chunk);
    }
    Ok(words)
}
