//! Large values: streamed into files of their own before the lock is taken, and buried after.
//!
//! Owns `*.tmp` and `*.val`. Holds: bytes are reserved before they are written; a value file goes
//! only once the death of its record is durable, so that a prefix after power loss is whole.

use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::engine::ledger::Ledger;
use crate::engine::store::{Proof, Store};
use crate::error::{Error, Result};
use crate::format::header::{self as layout, participant};
use crate::format::name::Name;
use crate::format::record::Apart;
use crate::limits::STREAMS_MAX;
use crate::os::lock::FileLock;
use crate::part::participants;
use crate::part::shared::setting;
use crate::part::writer_lock;

/// How long a large value waits for others to be written.
const STREAM_PATIENCE: Duration = Duration::from_secs(2);
/// How long a writer who needs a grave waits for whoever needs the files to stay.
const PIN_PATIENCE: Duration = Duration::from_secs(10);
/// Bytes reserved at a time.
const RESERVE_STEP: u64 = 1 << 20;
/// Bytes read from the caller's reader at a time.
pub(crate) const CHUNK: usize = 256 * 1024;

/// A value on its way into a file of its own. Dropped before its record is written: nothing stays.
#[derive(Debug)]
pub(crate) struct Stream {
    store: Arc<Store>,
    seat: u64,
    pub(crate) id: u64,
    name: Name,
    file: File,
    len: u64,
    reserved: u64,
    crc: crc32fast::Hasher,
    kept: bool,
}

impl Stream {
    pub(crate) fn begin(store: &Arc<Store>) -> Result<Stream> {
        let header = &store.files.header;
        header.disturb();
        let id = store.new_file_id(Name::Streaming)?;
        let claim = || {
            (0..STREAMS_MAX as u64).find(|&seat| {
                let word = header.word(store.stream_at(seat));
                word.compare_exchange(0, id, Ordering::AcqRel, Ordering::Relaxed)
                    .is_ok()
            })
        };
        let start = Instant::now();
        let seat = loop {
            if let Some(seat) = claim() {
                break seat;
            }
            // Rows of the dead first; then others may finish. Not for long: they may all be of this
            // very batch.
            if start.elapsed() > STREAM_PATIENCE {
                return Err(Error::TooLarge {
                    what: "the number of large values on their way at once, of all processes",
                    bytes: STREAMS_MAX as u64 + 1,
                    max_bytes: STREAMS_MAX as u64,
                });
            }
            if let Ok(held) = Store::lock(&**store, Some(Duration::ZERO)) {
                store.end_dead_streams(|owner| store.is_dead(owner))?;
                drop(held);
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let at = store.stream_at(seat);
        header.put(at + 16, 0);
        header.put(at + 8, writer_lock::name_of(&store.me));
        let name = Name::Streaming(id);
        match store.dir.create(name) {
            Ok(file) => {
                let crc = crc32fast::Hasher::new();
                Ok(Stream {
                    store: Arc::clone(store),
                    seat,
                    id,
                    name,
                    file,
                    len: 0,
                    reserved: 0,
                    crc,
                    kept: false,
                })
            }
            Err(error) => {
                header.put(at, 0);
                Err(error)
            }
        }
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let end = self.len + bytes.len() as u64;
        if end > self.reserved {
            let max_bytes = self.store.files.header.setting(setting::SIZE_LIMIT);
            if end > max_bytes {
                return Err(Error::TooLarge {
                    what: "a value (bytes)",
                    bytes: end,
                    max_bytes,
                });
            }
            self.reserve(end)?;
        }
        self.store
            .dir
            .write_at(self.name, &self.file, self.len, bytes)?;
        self.crc.update(bytes);
        self.len = end;
        Ok(())
    }

    /// Reserves the bytes up to `end`: a large step if there is room, else what is needed.
    fn reserve(&mut self, end: u64) -> Result<()> {
        let need = (end - self.reserved).next_multiple_of(4096);
        let step = (end - self.reserved).next_multiple_of(RESERVE_STEP);
        if self.try_reserve(step).is_ok() || self.try_reserve(need).is_ok() {
            return Ok(());
        }
        let start = Instant::now();
        while start.elapsed() < STREAM_PATIENCE * 5 && self.store.make_way(need)? {
            if self.try_reserve(need).is_ok() {
                return Ok(());
            }
        }
        self.try_reserve(need)
    }

    /// Reserves first and looks then, so that two who reserve at once do not both fit.
    fn try_reserve(&mut self, more: u64) -> Result<()> {
        let word = self.store.stream_at(self.seat) + 16;
        self.store.files.header.put(word, self.reserved + more);
        if let Err(error) = self.store.budget(0) {
            self.store.files.header.put(word, self.reserved);
            return Err(match error {
                Error::Full { limit_bytes, .. } => Error::Full {
                    limit_bytes,
                    needed_bytes: more,
                },
                other => other,
            });
        }
        self.reserved += more;
        Ok(())
    }

    /// All is written: gives the file its name. `sync`: and waits until it is on the disk.
    pub(crate) fn finish(&mut self, sync: bool) -> Result<Apart> {
        if sync {
            self.store.dir.sync(self.name, &self.file)?;
        }
        self.store.dir.rename(self.name, Name::Value(self.id))?;
        self.name = Name::Value(self.id);
        self.store.files.header.add(layout::NAMES_AT, 1);
        Ok(Apart {
            id: self.id,
            len: self.len,
            crc: self.crc.clone().finalize(),
        })
    }

    /// Its record is written, and has ended the stream.
    pub(crate) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.kept || self.store.is_forked() {
            return;
        }
        // Under the lock nothing is pending: a decided change that names the file has ended the stream.
        // Without it the file stays for the next opener who is alone.
        let Ok(_held) = Store::lock(&*self.store, Some(Duration::from_millis(100))) else {
            return;
        };
        let at = self.store.stream_at(self.seat);
        if self.store.files.header.get(at) == self.id {
            // Whatever stays of it is removed by the next opener who finds nobody alive.
            let _ = self.store.dir.remove(self.name);
            self.store.files.header.put(at, 0);
        }
    }
}

impl Store {
    /// Where the row of stream `seat` is in the header.
    pub(crate) fn stream_at(&self, seat: u64) -> u64 {
        layout::STREAMS_AT + seat % STREAMS_MAX as u64 * layout::STREAM_LEN
    }

    /// The row of the stream of file `id`.
    pub(crate) fn stream_of(&self, id: u64) -> Option<u64> {
        (0..STREAMS_MAX as u64)
            .map(|seat| self.stream_at(seat))
            .find(|&at| self.files.header.get(at) == id)
    }

    /// The stream of a value ends with the change that names its file: what was reserved is in use.
    pub(crate) fn end_stream(&self, ledger: &mut Ledger<'_>, apart: Apart) {
        if let Some(stream) = self.stream_of(apart.id) {
            let disk = self.files.header.number(layout::DISK_BYTES_AT);
            ledger.journal.header(
                layout::DISK_BYTES_AT,
                disk + apart.len.next_multiple_of(4096),
            );
            ledger.journal.header(stream, 0);
        }
    }

    /// The file of a value that is being streamed or was.
    pub(crate) fn value_file(id: u64) -> Name {
        Name::Value(id)
    }

    /// Bytes reserved for values being streamed in.
    pub(crate) fn reserved_bytes(&self) -> u64 {
        let header = &self.files.header;
        (0..STREAMS_MAX as u64)
            .map(|seat| self.stream_at(seat))
            .filter(|&at| header.get(at) != 0)
            .map(|at| header.get(at + 16).min(1 << 50))
            .sum()
    }

    /// Whether an owner word names nobody alive.
    pub(crate) fn is_dead(&self, owner: u64) -> bool {
        let header = &self.files.header;
        let index = (owner >> 48) as usize;
        let incarnation = owner >> 1 & ((1 << 47) - 1);
        if index >= crate::limits::PARTICIPANTS_MAX {
            return true;
        }
        let now = header.get(participants::at(index, participant::INCARNATION)) & ((1 << 47) - 1);
        now != incarnation || matches!(participants::is_alive(header, &self.dir, index), Ok(false))
    }

    /// Removes what dead participants were streaming. Under the writer lock, after repair.
    pub(crate) fn end_dead_streams(&self, is_dead: impl Fn(u64) -> bool) -> Result<()> {
        let header = &self.files.header;
        for at in (0..STREAMS_MAX as u64).map(|seat| self.stream_at(seat)) {
            let id = header.get(at);
            if id != 0 && is_dead(header.get(at + 8)) {
                self.dir.remove(Name::Streaming(id))?;
                self.dir.remove(Name::Value(id))?;
                header.put(at, 0);
            }
        }
        Ok(())
    }

    /// Sees to it that `more` dead value files find a grave.
    pub(crate) fn make_graves(&self, proof: &mut Proof, more: u64) -> Result<()> {
        if more == 0 || self.graves() + more <= layout::GRAVES {
            return Ok(());
        }
        let durable = self.sync_log()?;
        self.append_mark(proof, durable)?;
        self.sync_log()?;
        let start = Instant::now();
        loop {
            self.bury(proof)?;
            if self.graves() + more <= layout::GRAVES {
                return Ok(());
            }
            // Somebody needs the files to stay for a while.
            if start.elapsed() > PIN_PATIENCE {
                return Err(Error::Busy {
                    what: "the removal of large values' files (a snapshot is being made)",
                    holder_pid: 0,
                    held_since: None,
                    waited: start.elapsed(),
                    removed: 0,
                });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Dead value files that wait for their record's death to be durable.
    pub(crate) fn graves(&self) -> u64 {
        let header = &self.files.header;
        let used = header
            .number(layout::GRAVES_HEAD_AT)
            .saturating_sub(header.number(layout::GRAVES_TAIL_AT));
        if used > layout::GRAVES {
            // More than there can be: the words are damaged. A rebuild finds the files that nobody needs.
            header.put(layout::SUSPECT_AT, 1);
            return 0;
        }
        used
    }

    /// Whether the ring of graves is one.
    pub(crate) fn graves_fit(&self) -> bool {
        let header = &self.files.header;
        let (tail, head) = (
            header.number(layout::GRAVES_TAIL_AT),
            header.number(layout::GRAVES_HEAD_AT),
        );
        (tail..=tail + layout::GRAVES).contains(&head)
    }

    /// Whether a value file waits to be removed.
    pub(crate) fn is_grave(&self, id: u64) -> bool {
        let header = &self.files.header;
        let (tail, head) = (
            header.number(layout::GRAVES_TAIL_AT),
            header.number(layout::GRAVES_HEAD_AT),
        );
        let mut ring = tail..head.min(tail + layout::GRAVES);
        ring.any(|n| header.get(layout::GRAVES_AT + n % layout::GRAVES * 16) == id)
    }

    /// The value files that wait to be removed.
    pub(crate) fn graves_now(&self) -> Vec<u64> {
        let header = &self.files.header;
        let tail = header.number(layout::GRAVES_TAIL_AT);
        (tail..tail + self.graves())
            .map(|n| header.get(layout::GRAVES_AT + n % layout::GRAVES * 16))
            .collect()
    }

    /// Removes the value files whose death is durable, unless somebody needs files to stay. Under the
    /// writer lock.
    pub(crate) fn bury(&self, proof: &mut Proof) -> Result<()> {
        let _ = proof;
        let header = &self.files.header;
        // And the log says so, durably: else a rebuild would verify a record whose file is gone, and end
        // the log there.
        let durable = self.marked_durably();
        let oldest = header.number(layout::GRAVES_TAIL_AT) % layout::GRAVES * 16;
        if self.graves() > 0 && header.get(layout::GRAVES_AT + oldest + 8) > durable {
            return Ok(());
        }
        let _pin = match self.graves() {
            0 => None,
            _ => match FileLock::try_take(&self.dir, Name::Pin)? {
                None => return Ok(()),
                pin => pin,
            },
        };
        while self.graves() > 0 {
            let tail = header.number(layout::GRAVES_TAIL_AT);
            let at = layout::GRAVES_AT + tail % layout::GRAVES * 16;
            if header.get(at + 8) > durable {
                break;
            }
            let name = Name::Value(header.get(at));
            let bytes = self
                .dir
                .stat(name)?
                .map_or(0, |stat| stat.len.next_multiple_of(4096));
            self.dir.remove(name)?;
            header.put(layout::GRAVES_TAIL_AT, tail + 1);
            let dead = header.number(layout::GRAVES_BYTES_AT);
            header.put(layout::GRAVES_BYTES_AT, dead.saturating_sub(bytes));
            self.gave(bytes);
        }
        if self.graves() == 0 {
            header.put(layout::GRAVES_BYTES_AT, 0);
        }
        Ok(())
    }

    /// Reads a large value whole and verifies it; `None`: its file is gone, so the entry has changed.
    pub(crate) fn read_apart(&self, apart: Apart, out: &mut Vec<u8>) -> Result<Option<()>> {
        let name = Name::Value(apart.id);
        let Some(file) = self.dir.open_to_read(name)? else {
            return Ok(None);
        };
        let path = || self.dir.path_of(name);
        let len = self.dir.stat_open(name, &file)?.len;
        if len != apart.len {
            return Err(Error::corrupt(
                path(),
                len,
                format!("the value's file should have {} bytes", apart.len),
            ));
        }
        out.reserve(len as usize);
        let start = out.len();
        (&file)
            .take(len)
            .read_to_end(out)
            .map_err(|error| Error::io("reading", path(), error))?;
        if out.len() - start != len as usize || crc32fast::hash(&out[start..]) != apart.crc {
            out.truncate(start);
            return Err(Error::corrupt(
                path(),
                0,
                "the value's bytes are not what was written",
            ));
        }
        Ok(Some(()))
    }
}
