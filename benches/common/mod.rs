//! What the benches share: entries, stores, and processes that open, write and are killed.
//!
//! A child is this same program, told what to be by its environment.

#![allow(dead_code, unreachable_pub, reason = "each bench uses its part")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use larder::{Cache, SetOptions};

pub mod random;

pub const KEY_LEN: usize = 20;
pub const VALUE_LEN: usize = 100;
const SIZE_LIMIT_BYTES: u64 = 16 << 30;
/// What a child is to be, and in which store.
const CHILD: &str = "LARDER_BENCH_CHILD";
const CHILD_STORE: &str = "LARDER_BENCH_CHILD_STORE";

/// How much is done.
#[derive(Clone, Copy)]
pub struct Scale {
    pub entries: u64,
    pub opens: usize,
    pub small: bool,
}

impl Scale {
    /// Small unless `cargo bench` asked for measurements.
    pub fn from_arguments() -> Scale {
        let asked = |flag| std::env::args().any(|argument| argument == flag);
        if asked("--bench") && !asked("--test") {
            Scale {
                entries: 1_000_000,
                opens: 200,
                small: false,
            }
        } else {
            Scale {
                entries: 2_000,
                opens: 3,
                small: true,
            }
        }
    }
}

/// Whether only some benches were asked for by name.
pub fn filtered() -> bool {
    std::env::args()
        .skip(1)
        .any(|argument| !argument.starts_with('-'))
}

/// Spreads the bits of a number (the finalizer of SplitMix64).
fn spread(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// The key of entry `number`: no order, no common beginning.
pub fn key(number: u64) -> [u8; KEY_LEN] {
    let mut key = [0; KEY_LEN];
    key[..8].copy_from_slice(&spread(number).to_le_bytes());
    key[8..16].copy_from_slice(&number.to_le_bytes());
    key[16..].copy_from_slice(b"key.");
    key
}

/// The value of entry `number`.
pub fn value(number: u64) -> [u8; VALUE_LEN] {
    let word = spread(!number).to_le_bytes();
    let mut value = [0; VALUE_LEN];
    for chunk in value.chunks_mut(8) {
        chunk.copy_from_slice(&word[..chunk.len()]);
    }
    value
}

/// Numbers of entries, uniformly at random, the same in every run.
pub struct Entries {
    state: u64,
    entries: u64,
}

impl Entries {
    pub fn uniform(entries: u64) -> Entries {
        Entries {
            state: 0x1234_5678_9ABC_DEF1,
            entries,
        }
    }

    pub fn next(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        ((u128::from(self.state) * u128::from(self.entries)) >> 64) as u64
    }
}

/// An empty directory for a bench of this name.
pub fn scratch(name: &str) -> PathBuf {
    let root = std::env::var_os("LARDER_BENCH_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    empty(&root.join(format!("larder-bench-{name}-{}", std::process::id())))
}

/// `dir`, made or emptied.
pub fn empty(dir: &Path) -> PathBuf {
    if dir.exists() {
        fs::remove_dir_all(dir).expect("the bench's directory is ours");
    }
    fs::create_dir_all(dir).expect("the bench's directory can be made");
    dir.to_path_buf()
}

pub fn open_store(dir: &Path) -> Cache {
    Cache::builder()
        .size_limit_bytes(SIZE_LIMIT_BYTES)
        .open(dir)
        .expect("a store opens")
}

/// A store of entries `0..entries`, written in batches.
pub fn filled_store(dir: &Path, entries: u64) -> Cache {
    let store = open_store(dir);
    let mut from = 0;
    while from < entries {
        let to = (from + 1_000).min(entries);
        let items = (from..to).map(|number| (key(number), value(number)));
        store
            .set_many(items, &SetOptions::default())
            .expect("a batch");
        from = to;
    }
    store
}

/// In what state a store is found by who opens it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Closed by its last user.
    Clean,
    /// Open in another process, which has just written.
    Live,
    /// Its last user was killed while it wrote.
    Killed,
}

/// What `count` opens took, nanoseconds. Of the store's entries one is read after each.
pub fn open_times(dir: &Path, state: State, count: usize, entries: u64) -> Vec<f64> {
    let mut numbers = Entries::uniform(entries);
    let live = (state == State::Live).then(|| start_child("pause", dir));
    let took = (0..count)
        .map(|_| {
            if state == State::Killed {
                kill(start_child("write", dir));
            }
            let begin = Instant::now();
            let store = Cache::open(dir).expect("a store opens");
            let took = begin.elapsed();
            let number = numbers.next();
            assert!(*store.get(key(number)).expect("a read").expect("an entry") == value(number));
            store.close().expect("a close");
            took.as_nanos() as f64
        })
        .collect();
    if let Some(child) = live {
        kill(child);
    }
    took
}

/// A child that does `what` in the store at `dir`; returns once it has begun.
fn start_child(what: &str, dir: &Path) -> Child {
    let program = std::env::current_exe().expect("this program's path");
    let mut child = Command::new(program)
        .env(CHILD, what)
        .env(CHILD_STORE, dir)
        .stdout(Stdio::piped())
        .spawn()
        .expect("this program starts");
    let mut begun = String::new();
    let stdout = child.stdout.as_mut().expect("a pipe");
    BufReader::new(stdout)
        .read_line(&mut begun)
        .expect("a child that begins");
    assert_eq!(begun, "begun\n");
    child
}

/// SIGKILL, at whatever instant it is met.
fn kill(mut child: Child) {
    child.kill().expect("a child that lives");
    child.wait().expect("a child that died");
}

/// What a child that opened the store and read a few entries says of its anonymous memory, KiB.
pub fn child_memory_kib(dir: &Path) -> (u64, u64) {
    let program = std::env::current_exe().expect("this program's path");
    let output = Command::new(program)
        .env(CHILD, "memory")
        .env(CHILD_STORE, dir)
        .output()
        .expect("this program starts");
    let text = String::from_utf8(output.stdout).expect("a child that writes text");
    let mut numbers = text
        .split_whitespace()
        .map(|number| number.parse().expect("a number"));
    (
        numbers.next().expect("before the open"),
        numbers.next().expect("after it"),
    )
}

/// A child does what it was started for and never returns.
pub fn be_a_child_if_told() {
    let (Some(what), Some(dir)) = (std::env::var_os(CHILD), std::env::var_os(CHILD_STORE)) else {
        return;
    };
    let before = memory_kib();
    let store = Cache::open(dir).expect("a store opens");
    let begun = || {
        println!("begun");
        std::io::stdout().flush().expect("a parent that reads");
    };
    match what.to_str() {
        Some("write") => {
            let write = |number: u64| {
                store
                    .set(key(number % 500), value(number % 500))
                    .expect("a set")
            };
            write(0);
            begun();
            for number in 1.. {
                write(number);
            }
        }
        Some("pause") => {
            store.set(key(0), value(0)).expect("a set");
            begun();
            loop {
                std::thread::park();
            }
        }
        Some("memory") => {
            for number in 0..100 {
                assert!(store.get(key(number)).expect("a read").is_some());
            }
            println!("{before} {}", memory_kib());
        }
        _ => panic!("no such child: {what:?}"),
    }
    std::process::exit(0);
}

/// Anonymous memory of this process, KiB.
fn memory_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("this process's status");
    let line = status
        .lines()
        .find(|line| line.starts_with("RssAnon:"))
        .expect("a line on anonymous memory");
    line.split_whitespace()
        .nth(1)
        .and_then(|number| number.parse().ok())
        .expect("a number of KiB")
}

pub fn median(numbers: &[f64]) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    }
}

pub fn duration_text(nanoseconds: f64) -> String {
    if nanoseconds < 10_000.0 {
        format!("{:.3} µs", nanoseconds / 1e3)
    } else {
        format!("{:.0} µs", nanoseconds / 1e3)
    }
}
