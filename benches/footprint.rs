//! What a store takes: bytes per entry by kind of file, memory, and the time an open takes.
//!
//! Keys of 20 bytes, values of 100, no tags, no expiry. Prints Markdown. With `--test` everything
//! runs once, with few entries.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use larder::Cache;

mod common;

use common::{KEY_LEN, Scale, State, VALUE_LEN, key, open_store, value};

/// Bytes of a store's directory.
#[derive(Default)]
struct Bytes {
    /// The segments, as long as they are.
    segments: u64,
    /// What is mapped besides: allocated blocks of the keymap, its overflow, segment table, order.
    mapped: Vec<(String, u64)>,
}

impl Bytes {
    fn of(dir: &Path) -> Bytes {
        let mut bytes = Bytes::default();
        for entry in std::fs::read_dir(dir).expect("the store's directory") {
            let entry = entry.expect("a file of the store");
            let name = entry
                .file_name()
                .into_string()
                .expect("the store's names are ASCII");
            let allocated = entry.metadata().expect("a file's metadata").blocks() * 512;
            if name.ends_with(".seg") {
                bytes.segments += allocated;
            } else if allocated > 0 {
                bytes.mapped.push((name, allocated));
            }
        }
        bytes.mapped.sort();
        bytes
    }

    fn mapped_total(&self) -> u64 {
        self.mapped.iter().map(|(_, bytes)| bytes).sum()
    }
}

/// What the segments hold besides keys and values.
struct Log {
    /// Bytes from one entry's record to the next, less key and value; the most frequent one.
    overhead: u64,
    /// Bytes of footers: lines of 16 bytes that grow down from a segment's end.
    footers: u64,
    /// Bytes of records that are no entry's.
    other: u64,
}

impl Log {
    fn of(store: &Cache) -> Log {
        let mut log = Log {
            overhead: 0,
            footers: 0,
            other: 0,
        };
        let mut distances = BTreeMap::<u64, u64>::new();
        for segment in store.segments().expect("the segments") {
            let mut before = None;
            for line in store.log(segment).expect("a segment's records") {
                let line = line.expect("a record");
                let is_entry = line.kind == "set" && line.space == 0;
                if let Some((at, was_entry)) = before.replace((line.at, is_entry)) {
                    if was_entry {
                        *distances.entry(line.at - at).or_default() += 1;
                    } else {
                        log.other += line.at - at;
                    }
                }
            }
            let path = store.path().join(format!("{segment:016x}.seg"));
            let bytes = std::fs::read(path).expect("a segment");
            let lines = bytes.rchunks_exact(16).take_while(|line| **line != [0; 16]);
            log.footers += 16 * lines.count() as u64;
        }
        let most = distances.into_iter().max_by_key(|(_, count)| *count);
        log.overhead = most.expect("some records").0 - (KEY_LEN + VALUE_LEN) as u64;
        log
    }
}

fn row(name: &str, cells: impl IntoIterator<Item = String>) {
    let cells: Vec<String> = cells.into_iter().collect();
    println!("| {name} | {} |", cells.join(" | "));
}

fn main() {
    common::be_a_child_if_told();
    let scale = Scale::from_arguments();
    let dir = common::scratch("footprint");
    let sizes = [scale.entries / 10, scale.entries];

    let mut measured = Vec::new();
    for entries in sizes {
        let path = dir.join(entries.to_string());
        let store = open_store(&path);
        for number in 0..entries {
            store.set(key(number), value(number)).expect("a set");
        }
        let log = Log::of(&store);
        let live = store.volume().expect("the live bytes");
        let disk = store.disk_usage().expect("the bytes on disk");
        store.close().expect("a close");
        measured.push((entries, Bytes::of(&path), log, live, disk));
    }

    let per_entry = |bytes: u64, entries: u64| format!("{:.1} B", bytes as f64 / entries as f64);
    let heads = measured
        .iter()
        .map(|(entries, ..)| format!("{entries} entries"));
    row(
        &format!("per entry ({KEY_LEN} B key, {VALUE_LEN} B value)"),
        heads,
    );
    println!("|---|{}", "---:|".repeat(measured.len()));
    row(
        "all mapped structures",
        measured
            .iter()
            .map(|(entries, bytes, ..)| per_entry(bytes.mapped_total(), *entries)),
    );
    let largest = &measured.last().expect("two sizes").1;
    for (name, _) in &largest.mapped {
        let bytes_of = |bytes: &Bytes| {
            bytes
                .mapped
                .iter()
                .find(|(own, _)| own == name)
                .map_or(0, |(_, bytes)| *bytes)
        };
        row(
            &format!("— `{name}`"),
            measured
                .iter()
                .map(|(entries, bytes, ..)| per_entry(bytes_of(bytes), *entries)),
        );
    }
    row(
        "record overhead",
        measured
            .iter()
            .map(|(_, _, log, ..)| format!("{} B", log.overhead)),
    );
    row(
        "footers",
        measured
            .iter()
            .map(|(entries, _, log, ..)| per_entry(log.footers, *entries)),
    );
    row(
        "other records",
        measured
            .iter()
            .map(|(entries, _, log, ..)| per_entry(log.other, *entries)),
    );
    row(
        "segments on disk",
        measured
            .iter()
            .map(|(entries, bytes, ..)| per_entry(bytes.segments, *entries)),
    );
    row(
        "disk over live bytes",
        measured
            .iter()
            .map(|(_, _, _, live, disk)| format!("{:.3}", *disk as f64 / *live as f64)),
    );
    let memory = measured.iter().map(|(entries, ..)| {
        let (before, after) = common::child_memory_kib(&dir.join(entries.to_string()));
        format!("{after} KiB ({before} before)")
    });
    row(
        "anonymous memory of a process that opened it",
        memory.collect::<Vec<_>>(),
    );
    for (name, state) in [
        ("open, after a clean close", State::Clean),
        ("open, while another process has it open", State::Live),
        ("open, after SIGKILL of a writer", State::Killed),
    ] {
        let medians = sizes.map(|entries| {
            let took =
                common::open_times(&dir.join(entries.to_string()), state, scale.opens, entries);
            common::duration_text(common::median(&took))
        });
        row(&format!("{name} (median of {})", scale.opens), medians);
    }
    std::fs::remove_dir_all(&dir).expect("the bench's directory is ours");
}
