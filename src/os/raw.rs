//! Mapped memory and the other things that need `unsafe`: the only file with any.
//!
//! Owns: mappings, copies in and out of them, the word for a fork, byte-range locks.
//! Holds: nobody else forms a pointer into a mapping; what others may change is only ever read
//! through an atomic, and bytes are copied out before they are looked at.
//! Never knows what the bytes mean. Bounds are checked here, in safe code, before each access.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use memmap2::{Advice, MmapOptions, MmapRaw};
use rustix::fs::OFlags;

/// First touches are made in pieces of this many bytes, through `madvise`, so that a medium that
/// fails is an error and not a signal.
const PIECE: usize = 16 * 1024;

/// A mapping of part of a file, shared with whoever maps it, or private when the file was opened for
/// reading alone. It is never moved and lives as long as this value.
#[derive(Debug)]
pub(crate) struct Map {
    raw: MmapRaw,
    /// One bit a piece: read through once in this process.
    touched: Box<[AtomicU64]>,
    /// Bytes the file has behind the mapping, as far as its owner knows.
    valid: AtomicUsize,
}

impl Map {
    /// Maps `len` bytes of `file` from `offset` on, for reading and writing.
    ///
    /// The file may be shorter: whoever accesses the mapping keeps to what the file has, and says how
    /// much that is by [`Map::set_valid`]. Of a file that was opened for reading alone the mapping is
    /// private: what is stored to it stays in this process, and the file never sees it.
    pub(crate) fn new(file: &File, offset: u64, len: usize) -> io::Result<Map> {
        let mut options = MmapOptions::new();
        options.offset(offset).len(len);
        let is_writable = rustix::fs::fcntl_getfl(file)? & OFlags::ACCMODE == OFlags::RDWR;
        let raw = if is_writable {
            options.map_raw(file)?
        } else {
            // No swap is set aside: hardly any of its pages are ever stored to.
            let options = options.no_reserve_swap();
            // SAFETY: the file may be changed by others, so no reference to its bytes may be formed:
            // the mapping is turned raw at once, and is reached as a shared one is, through atomics.
            MmapRaw::from(unsafe { options.map_copy(file) }?)
        };
        let touched = (0..len.div_ceil(PIECE).div_ceil(64))
            .map(|_| AtomicU64::new(0))
            .collect();
        Ok(Map {
            raw,
            touched,
            valid: AtomicUsize::new(len),
        })
    }

    /// The file has `len` bytes behind this mapping.
    pub(crate) fn set_valid(&self, len: usize) {
        self.valid.store(len.min(self.raw.len()), Ordering::Relaxed);
    }

    pub(crate) fn len(&self) -> usize {
        self.raw.len()
    }

    fn at(&self, at: usize, len: usize) -> *mut u8 {
        assert!(
            at.checked_add(len).is_some_and(|end| end <= self.raw.len()),
            "an access ends inside its mapping"
        );
        // SAFETY: `at + len` is inside the mapping, as asserted above.
        unsafe { self.raw.as_mut_ptr().add(at) }
    }

    /// The word at byte `at`, which is a multiple of 8.
    #[inline]
    pub(crate) fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8), "words are aligned");
        let word = self.at(at, 8);
        // SAFETY: `word` is inside the mapping (`at`) and 8-aligned, since a mapping starts on a page.
        // It stays mapped while `self` lives, and every process reaches it through atomics only.
        unsafe { AtomicU64::from_ptr(word.cast()) }
    }

    /// The half word at byte `at`, which is a multiple of 4.
    #[inline]
    pub(crate) fn half(&self, at: usize) -> &AtomicU32 {
        assert!(at.is_multiple_of(4), "half words are aligned");
        let half = self.at(at, 4);
        // SAFETY: as in `word`; bytes used as half words are never used as words at the same time,
        // but for the futex, which only compares.
        unsafe { AtomicU32::from_ptr(half.cast()) }
    }

    /// Has the cache line of byte `at` come into the processor's cache.
    #[inline]
    pub(crate) fn prefetch(&self, at: usize) {
        let line = self.at(at, 1);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch reads nothing the program sees and faults on no address.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line.cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = line;
    }

    /// Appends the `len` bytes at `at` (both multiples of 8) to `out`.
    #[inline]
    pub(crate) fn copy_out(&self, at: usize, len: usize, out: &mut Vec<u8>) {
        assert!(
            at.is_multiple_of(8) && len.is_multiple_of(8),
            "copies are of words"
        );
        let from = self.at(at, len).cast::<u64>();
        out.reserve(len);
        let start = out.len();
        let to = out.spare_capacity_mut().as_mut_ptr().cast::<u64>();
        for n in 0..len / 8 {
            // SAFETY: n < len / 8 and `len` bytes from `from` are inside the mapping.
            let word = unsafe { from.add(n) };
            // SAFETY: `word` is inside the mapping and 8-aligned; all processes use atomics.
            let word = unsafe { AtomicU64::from_ptr(word) }.load(Ordering::Relaxed);
            // SAFETY: n < len / 8 and `len` bytes were reserved behind `to`.
            let slot = unsafe { to.add(n) };
            // SAFETY: `slot` is inside the reserved bytes; the write needs no alignment.
            unsafe { slot.write_unaligned(word) };
        }
        // SAFETY: the `len` bytes behind the old end were written above.
        unsafe { out.set_len(start + len) };
    }

    /// Copies `bytes` to `at` (a multiple of 8), the last word filled with zeros.
    #[inline]
    pub(crate) fn copy_in(&self, at: usize, bytes: &[u8]) {
        assert!(at.is_multiple_of(8), "copies are of words");
        let to = self.at(at, bytes.len().next_multiple_of(8)).cast::<u64>();
        let store = |n: usize, word: u64| {
            // SAFETY: n words from `to` on are inside the mapping: `n` is below the count asserted.
            let slot = unsafe { to.add(n) };
            // SAFETY: `slot` is inside the mapping and 8-aligned; all processes use atomics.
            unsafe { AtomicU64::from_ptr(slot) }.store(word, Ordering::Relaxed);
        };
        let (words, rest) = bytes.as_chunks::<8>();
        for (n, word) in words.iter().enumerate() {
            store(n, u64::from_ne_bytes(*word));
        }
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            store(words.len(), u64::from_ne_bytes(last));
        }
    }

    /// Reads the bytes from `at` to `at + len` in once, so that a failing medium is an error.
    #[inline]
    pub(crate) fn touch(&self, at: usize, len: usize) -> io::Result<()> {
        for piece in at / PIECE..=(at + len.max(1) - 1) / PIECE {
            let Some(bits) = self.touched.get(piece / 64) else {
                return Ok(());
            };
            if bits.load(Ordering::Relaxed) >> (piece % 64) & 1 == 0 {
                self.touch_piece(piece)?;
            }
        }
        Ok(())
    }

    #[cold]
    fn touch_piece(&self, piece: usize) -> io::Result<()> {
        let start = piece * PIECE;
        let valid = self
            .valid
            .load(Ordering::Relaxed)
            .next_multiple_of(4096)
            .min(self.len());
        let len = PIECE.min(valid.saturating_sub(start));
        if len == 0 {
            return Ok(());
        }
        match self.raw.advise_range(Advice::PopulateRead, start, len) {
            // EINVAL: before Linux 5.14.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            Err(error) if matches!(error.raw_os_error(), Some(libc::EFAULT | libc::EHWPOISON)) => {
                return Err(io::Error::from_raw_os_error(libc::EIO));
            }
            Err(error) => return Err(error),
            Ok(()) => {}
        }
        self.touched[piece / 64].fetch_or(1 << (piece % 64), Ordering::Relaxed);
        Ok(())
    }

    /// Makes the pages of `at..at + len` present and writable, ahead of stores to them.
    pub(crate) fn populate(&self, at: usize, len: usize) {
        let start = at / 4096 * 4096;
        let end = (at + len).next_multiple_of(4096).min(self.len());
        if start < end {
            // A refusal (an old kernel) costs page faults later, nothing else.
            let _ = self
                .raw
                .advise_range(Advice::PopulateWrite, start, end - start);
        }
    }
}

/// Bytes of a mapping, borrowed without a copy. See `Cache::get_mapped` for what its caller promised.
#[derive(Debug)]
pub struct Mapped {
    map: Arc<Map>,
    at: usize,
    len: usize,
}

impl Mapped {
    pub(crate) fn new(map: Arc<Map>, at: usize, len: usize) -> Self {
        assert!(at + len <= map.len(), "a view ends inside its mapping");
        Mapped { map, at, len }
    }
}

impl std::ops::Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let start = self.map.at(self.at, self.len);
        // SAFETY: `len` bytes at `start` are inside the mapping, which lives as long as `self`. That
        // nobody writes to them is what the caller of `get_mapped` promised: records are never
        // changed once written, unless something other than larder writes to the file.
        unsafe { std::slice::from_raw_parts(start, self.len) }
    }
}

/// How often this process is the child of a fork, counted from the first store it saw.
static FORKS: AtomicU64 = AtomicU64::new(0);
/// Descriptors of lock files + 1, for the child to close; 0: free.
static LOCK_FDS: [AtomicI32; 1024] = [const { AtomicI32::new(0) }; 1024];
static HANDLER: std::sync::Once = std::sync::Once::new();

/// Held while a lock's descriptor is opened or closed and its seat changes: no fork in between.
static NO_FORK: AtomicBool = AtomicBool::new(false);

/// Changes in the child of a fork, and only there.
#[inline]
pub(crate) fn forks() -> u64 {
    FORKS.load(Ordering::Relaxed)
}

/// Runs `work`, a few system calls, while no thread of this process forks.
pub(crate) fn without_fork<T>(work: impl FnOnce() -> T) -> T {
    struct Open;
    impl Drop for Open {
        fn drop(&mut self) {
            NO_FORK.store(false, Ordering::Release);
        }
    }
    HANDLER.call_once(|| {
        // SAFETY: the handlers only touch atomics, yield and call close(2): all are safe around a fork.
        unsafe { libc::pthread_atfork(Some(before_fork), Some(in_parent), Some(in_child)) };
    });
    before_fork();
    let _open = Open;
    work()
}

extern "C" fn before_fork() {
    while NO_FORK
        .compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed)
        .is_err()
    {
        std::thread::yield_now();
    }
}

extern "C" fn in_parent() {
    NO_FORK.store(false, Ordering::Release);
}

/// Has the child of a fork close `fd`, so that it never keeps its parent's lock alive. Inside
/// [`without_fork`].
///
/// Returns the seat to give to [`forget_lock`]; `None`: more locks than seats.
pub(crate) fn register_lock(fd: i32) -> Option<usize> {
    let is_free = |seat: &AtomicI32| {
        seat.compare_exchange(0, fd + 1, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    };
    LOCK_FDS.iter().position(is_free)
}

/// The lock's descriptor is about to be closed. Inside [`without_fork`].
pub(crate) fn forget_lock(seat: usize) {
    LOCK_FDS[seat].store(0, Ordering::Release);
}

extern "C" fn in_child() {
    FORKS.fetch_add(1, Ordering::Relaxed);
    for seat in &LOCK_FDS {
        let fd = seat.swap(0, Ordering::AcqRel) - 1;
        if fd >= 0 {
            // SAFETY: the descriptor belongs to a lock of the parent's, whose owner in this process
            // sees the fork and never closes it again. Closing a description that is shared with the
            // parent releases nothing of the parent's.
            unsafe { libc::close(fd) };
        }
    }
    NO_FORK.store(false, Ordering::Release);
}

/// Tries for an exclusive lock on one byte of `file` (an open file description lock, fcntl(2)).
pub(crate) fn try_lock_byte(file: &File, byte: u64) -> io::Result<bool> {
    match byte_lock(file, byte, libc::F_WRLCK) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Gives the lock on one byte back, for every copy of the description.
pub(crate) fn unlock_byte(file: &File, byte: u64) -> io::Result<()> {
    byte_lock(file, byte, libc::F_UNLCK)
}

fn byte_lock(file: &File, byte: u64, kind: i32) -> io::Result<()> {
    let request = libc::flock64 {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte as i64,
        l_len: 1,
        l_pid: 0,
    };
    // SAFETY: the descriptor is open and `request` is a whole flock64, which the call only reads.
    let done = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &request) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_copies_meet_in_the_file() {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(8192).expect("room");
        let map = Map::new(&file, 0, 8192).expect("a mapping");
        map.copy_in(16, b"hello, world");
        let mut out = vec![9];
        map.copy_out(16, 16, &mut out);
        assert_eq!(out, b"\x09hello, world\0\0\0\0");
        assert_eq!(
            map.word(16).load(Ordering::Relaxed).to_le_bytes(),
            *b"hello, w"
        );
        map.half(4).store(7, Ordering::Relaxed);
        assert_eq!(map.word(0).load(Ordering::Relaxed), 7 << 32);
        map.touch(0, 8192).expect("it is there");
    }

    #[test]
    fn what_is_stored_over_a_file_opened_to_be_read_stays_here() {
        let whole = tempfile::NamedTempFile::new().expect("a file");
        whole.as_file().set_len(8192).expect("room");
        let file = File::open(whole.path()).expect("it opens");
        let map = Map::new(&file, 0, 8192).expect("a mapping");
        map.touch(0, 8192).expect("it is there");
        map.copy_in(0, b"unwritten");
        let mut out = Vec::new();
        map.copy_out(0, 16, &mut out);
        assert_eq!(out, b"unwritten\0\0\0\0\0\0\0");
        assert_eq!(std::fs::read(whole.path()).expect("it reads"), [0_u8; 8192]);
    }

    #[test]
    #[should_panic(expected = "inside its mapping")]
    fn an_access_past_the_end_is_our_mistake() {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(4096).expect("room");
        let map = Map::new(&file, 0, 4096).expect("a mapping");
        map.word(4096);
    }
}
