//! Exclusive holds on names: byte-range locks of one file, which end with their holder.

use std::fs::File;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::time::{Duration, Instant};

use crate::engine::store::Store;
use crate::error::{Error, Result};
use crate::format::name::Name;
use crate::os::{lock, raw};

/// A hold on a name, given back when dropped. Made by [`Cache::hold`](crate::Cache::hold).
#[derive(Debug)]
pub struct Hold {
    file: Option<File>,
    byte: u64,
    seat: usize,
    forks: u64,
}

impl Hold {
    pub(crate) fn take(store: &Store, name: &[u8], timeout: Option<Duration>) -> Result<Hold> {
        // Two names with one of 2^62 bytes wait for each other, and are right all the same.
        let byte = store.hash.of(u32::MAX, name) >> 2;
        let start = Instant::now();
        let mut pause = Duration::from_micros(200);
        let hold = raw::without_fork(|| -> Result<Hold> {
            let file = store.dir.open_lock(Name::Holds)?;
            let Some(seat) = raw::register_lock(file.as_raw_fd()) else {
                return Err(lock::too_many(&store.dir, Name::Holds));
            };
            Ok(Hold {
                file: Some(file),
                byte,
                seat,
                forks: raw::forks(),
            })
        })?;
        let Some(file) = &hold.file else {
            return Ok(hold);
        };
        loop {
            let had = raw::try_lock_byte(file, byte)
                .map_err(|error| Error::io("locking", store.dir.path_of(Name::Holds), error))?;
            if had {
                return Ok(hold);
            }
            if timeout.is_some_and(|timeout| start.elapsed() >= timeout) {
                return Err(Error::Busy {
                    what: "this name",
                    holder_pid: 0,
                    held_since: None,
                    waited: start.elapsed(),
                    removed: 0,
                });
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(10));
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let Some(file) = self.file.take() else { return };
        if raw::forks() != self.forks {
            // The child of a fork: its copy of the descriptor is closed already.
            let _ = file.into_raw_fd();
            return;
        }
        let _ = raw::unlock_byte(&file, self.byte);
        raw::without_fork(|| {
            raw::forget_lock(self.seat);
            drop(file);
        });
    }
}
