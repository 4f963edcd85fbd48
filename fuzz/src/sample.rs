//! A store as it was written, restored and damaged for every input.
//!
//! Owns one scratch directory per process. Damage is done in place, so that the files keep their
//! inodes and an opener has every reason to trust them.
//! Never judges what the store answers.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use larder::Cache;

use crate::change::change;
use crate::entries::{LARGE_VALUE_BYTES, Written, fill};
use crate::promises::{exercise, read_all, said};

/// A call that finds a damaged lock word gives up after this long.
const LOCK_TIMEOUT: Duration = Duration::from_millis(5);

/// What a file system allocates at once.
const BLOCK: usize = 4 * 1024;

/// Whether damage is done to a closed store or under an open handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// After a clean close: the next opener trusts the files by their clean marker.
    Closed,
    /// While a handle is open: it has the damaged bytes mapped already.
    Open,
}

/// What happens to the mapped files before the store is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Maps {
    /// They stay.
    Kept,
    /// All but the header are deleted.
    DeletedButHeader,
    /// All are deleted; the log is what is left.
    Deleted,
}

/// A store as it was written, and the directory it is restored into.
pub struct Sample {
    dir: PathBuf,
    /// A second name of every file, so that it outlives its removal from the store.
    kept: PathBuf,
    files: Vec<SampleFile>,
    written: Written,
}

struct SampleFile {
    name: String,
    bytes: Vec<u8>,
    /// Where something other than zero stands, and the byte after: most of a map is empty.
    used: Vec<usize>,
}

impl Sample {
    /// Writes about thirty entries of every kind and closes the store cleanly.
    #[must_use]
    pub fn new() -> Sample {
        let root = scratch_root();
        sweep(&root);
        let dir = root.join(format!("larder-fuzz-{}", std::process::id()));
        let mut sample = Sample {
            kept: dir.join("kept"),
            dir: dir.join("store"),
            files: Vec::new(),
            written: Written::new(),
        };
        sample.write();
        sample
    }

    fn write(&mut self) {
        fs::create_dir_all(&self.kept).expect("the scratch directory can be made");
        let cache = Cache::builder()
            .large_value_bytes(LARGE_VALUE_BYTES)
            .segment_size_bytes(larder::SEGMENT_SIZE_MIN)
            .lock_timeout(Some(LOCK_TIMEOUT))
            .open(&self.dir)
            .expect("an undamaged store opens");
        fill(&cache, &mut self.written);
        let sound = cache.check().expect("an undamaged store can be checked");
        assert!(sound.is_sound(), "{:?}", sound.findings);
        let seen = read_all(&cache, &self.written);
        assert!(seen > 40, "the sample has lost entries: {seen}");
        cache.close().expect("an undamaged store closes");

        for entry in fs::read_dir(&self.dir).expect("the store's directory") {
            let entry = entry.expect("an entry of the store's directory");
            let name = entry
                .file_name()
                .into_string()
                .expect("the store's names are ASCII");
            let bytes = fs::read(entry.path()).expect("a file of the store");
            fs::hard_link(entry.path(), self.kept.join(&name)).expect("a second name");
            let used =
                (0..bytes.len()).filter(|&at| bytes[at] != 0 || at > 0 && bytes[at - 1] != 0);
            let used = used.collect();
            self.files.push(SampleFile { name, bytes, used });
        }
        self.files.sort_by(|a, b| a.name.cmp(&b.name));
    }

    /// The files as they were when the sample was written, each with its inode.
    fn restore(&self) {
        for entry in fs::read_dir(&self.dir).expect("the store's directory") {
            let entry = entry.expect("an entry of the store's directory");
            let name = entry.file_name();
            let kept = self.kept.join(&name).metadata();
            if kept.is_ok_and(|kept| entry.metadata().is_ok_and(|own| own.ino() == kept.ino())) {
                continue;
            }
            let path = entry.path();
            if path.is_dir() {
                fs::remove_dir_all(path)
            } else {
                fs::remove_file(path)
            }
            .expect("a file that is not of the sample");
        }
        for file in &self.files {
            let path = self.dir.join(&file.name);
            if !path.exists() {
                fs::hard_link(self.kept.join(&file.name), &path).expect("a link to a kept file");
            }
            let open = OpenOptions::new().write(true).open(path);
            let open = open.expect("a file of the sample");
            let len = file.bytes.len() as u64;
            if is_log(&file.name) {
                // What was a hole in a segment is one again.
                open.set_len(0).expect("an emptied segment");
                open.set_len(len).expect("a segment of its old length");
                for (block, bytes) in file.bytes.chunks(BLOCK).enumerate() {
                    if bytes.iter().any(|byte| *byte != 0) {
                        let at = (block * BLOCK) as u64;
                        open.write_all_at(bytes, at).expect("room for the sample");
                    }
                }
            } else {
                open.set_len(len).expect("a file of its old length");
                open.write_all_at(&file.bytes, 0)
                    .expect("room for the sample");
            }
        }
    }

    /// Damages one mapped file as `input` says, and uses the store.
    ///
    /// Byte 0 chooses the file, byte 1 whether a handle is open meanwhile; then come the changes.
    pub fn damaged_maps(&mut self, input: &[u8]) {
        let [file, when, changes @ ..] = input else {
            return;
        };
        let when = if when & 1 == 0 {
            When::Closed
        } else {
            When::Open
        };
        self.damaged(is_map, *file, when, Maps::Kept, changes);
    }

    /// Damages one segment or large value as `input` says, and uses the store.
    ///
    /// Byte 0 chooses the file, byte 1 what becomes of the maps; then come the changes.
    pub fn damaged_log(&mut self, input: &[u8]) {
        let [file, mode, changes @ ..] = input else {
            return;
        };
        let (when, maps) = match mode % 4 {
            0 => (When::Closed, Maps::Kept),
            1 => (When::Open, Maps::Kept),
            2 => (When::Closed, Maps::DeletedButHeader),
            _ => (When::Closed, Maps::Deleted),
        };
        self.damaged(is_log, *file, when, maps, changes);
    }

    fn damaged(
        &mut self,
        which: fn(&str) -> bool,
        file: u8,
        when: When,
        maps: Maps,
        changes: &[u8],
    ) {
        self.restore();
        let candidates: Vec<&SampleFile> = self
            .files
            .iter()
            .filter(|file| which(&file.name) && !file.bytes.is_empty())
            .collect();
        let chosen = candidates[usize::from(file) % candidates.len()];
        let before =
            (when == When::Open).then(|| open(&self.dir).expect("an undamaged store opens"));

        let path = self.dir.join(&chosen.name);
        let target = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .expect("a file of the store");
        change(&target, &chosen.used, changes);
        if maps != Maps::Kept {
            for file in &self.files {
                let spared = maps == Maps::DeletedButHeader && file.name == "larder";
                if is_map(&file.name) && !spared {
                    fs::remove_file(self.dir.join(&file.name)).expect("a mapped file");
                }
            }
        }

        let mut written = self.written.clone();
        if let Some(before) = &before {
            exercise(before, &mut written);
        }
        match open(&self.dir) {
            Ok(cache) => {
                exercise(&cache, &mut written);
                said(cache.close());
            }
            Err(error) => drop(error.to_string()),
        }
    }
}

impl Default for Sample {
    fn default() -> Sample {
        Sample::new()
    }
}

fn open(dir: &Path) -> larder::Result<Cache> {
    Ok(Cache::open(dir)?.with_timeout(Some(LOCK_TIMEOUT)))
}

/// Memory if there is some: the files are rewritten for every input.
fn scratch_root() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() {
        memory
    } else {
        std::env::temp_dir()
    }
}

/// Removes what fuzzers that are gone left behind: a fuzzer that ends runs no destructor.
fn sweep(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name
            .to_str()
            .and_then(|name| name.strip_prefix("larder-fuzz-"))
        else {
            continue;
        };
        if !Path::new("/proc").join(pid).exists() {
            // Another fuzzer that starts now may be removing it too.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn is_log(name: &str) -> bool {
    name.ends_with(".seg") || name.ends_with(".val")
}

fn is_map(name: &str) -> bool {
    !is_log(name)
        && !name.ends_with(".tmp")
        && !name.starts_with("p-")
        && !matches!(name, "gate" | "holds")
}
