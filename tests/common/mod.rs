//! The tools every story here is told with.
//!
//! Owns: seeded dice, directories to work in, damage to files, and worker processes.
//! Knows of the store's files only which ones are the log (`*.seg`, `*.val`): all others are
//! derived, and [`forget_derived`] takes them away.
#![allow(
    dead_code,
    reason = "each test file is a crate of its own and uses its own share of these tools"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use larder::{Builder, Cache};
use rustix::process::Signal;

/// The smallest segment a store takes.
pub(crate) const SMALL_SEGMENT_BYTES: u64 = 64 * 1024;
/// Values from here on get a file of their own in the tests' stores.
pub(crate) const SMALL_LARGE_VALUE_BYTES: u64 = 4 * 1024;

/// A store that rotates segments and makes value files early.
pub(crate) fn small() -> Builder {
    Cache::builder()
        .segment_size_bytes(SMALL_SEGMENT_BYTES)
        .large_value_bytes(SMALL_LARGE_VALUE_BYTES)
}

// ---- a watch over what may hang ----

/// Ends the test process, naming what it was doing, if that takes longer than `limit`.
pub(crate) struct Watch {
    done: std::sync::mpsc::Sender<()>,
}

impl Watch {
    pub(crate) fn new(limit: Duration, what: String) -> Watch {
        let (done, waits) = channel::<()>();
        std::thread::spawn(move || {
            if waits.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                eprintln!("still not done after {limit:?}: {what}");
                std::process::abort();
            }
        });
        Watch { done }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.done.send(());
    }
}

// ---- dice ----

/// The seed of this run: `LARDER_TEST_SEED`, or the clock's. Printed, so that a run can be had again.
pub(crate) fn seed(story: &str) -> u64 {
    let seed = match std::env::var("LARDER_TEST_SEED") {
        Ok(text) => text.trim().parse().expect("LARDER_TEST_SEED is a number"),
        Err(_) => SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(1, |since| since.as_nanos() as u64),
    };
    println!("{story}: LARDER_TEST_SEED={seed}");
    seed
}

/// SplitMix64: small, seeded, the same everywhere.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number under `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.roll() % end.max(1)
    }

    /// True one time in `n`.
    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.roll().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}

// ---- directories and files ----

/// A directory on the machine's ordinary filesystem, removed at the end.
pub(crate) fn work_dir() -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix("larder-test-")
        .tempdir()
        .expect("a temporary directory")
}

/// A directory in memory where there is one: for loops that open thousands of stores.
pub(crate) fn fast_dir() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if std::env::var_os("TMPDIR").is_none()
        && let Ok(dir) = tempfile::Builder::new()
            .prefix("larder-test-")
            .tempdir_in(memory)
    {
        return dir;
    }
    work_dir()
}

/// The names in a directory, sorted.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .expect("the store's directory can be listed")
        .map(|entry| {
            entry
                .expect("a directory entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}

/// Whether a file is part of the log, the one thing a store cannot be without.
pub(crate) fn is_log(name: &str) -> bool {
    matches!(
        Path::new(name).extension().and_then(OsStr::to_str),
        Some("seg" | "val")
    )
}

/// Removes every file that can be rebuilt from the log. Nobody may have the store open.
pub(crate) fn forget_derived(dir: &Path) {
    for name in names(dir) {
        let path = dir.join(&name);
        if !is_log(&name) && path.is_file() {
            fs::remove_file(&path).expect("a derived file can be removed");
        }
    }
}

/// Turns one bit of a file over, in place.
pub(crate) fn flip(path: &Path, bit: u64) {
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .expect("the file to damage opens");
    let mut byte = [0_u8];
    file.read_exact_at(&mut byte, bit / 8)
        .expect("the byte is there");
    byte[0] ^= 1 << (bit % 8);
    file.write_all_at(&byte, bit / 8)
        .expect("the byte can be written");
}

/// Shortens a file to `len` bytes.
pub(crate) fn cut_at(path: &Path, len: u64) {
    fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|file| file.set_len(len))
        .expect("the file can be cut");
}

/// Copies a store's directory, file by file.
pub(crate) fn copy_store(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the copy's directory");
    for name in names(from) {
        let path = from.join(&name);
        if path.is_dir() {
            copy_store(&path, &to.join(&name));
        } else {
            fs::copy(&path, to.join(&name)).expect("a file can be copied");
        }
    }
}

/// Bytes a directory takes, as `du` counts them: blocks, the directory's own included.
pub(crate) fn du_bytes(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut total = fs::metadata(dir).map_or(0, |meta| meta.blocks() * 512);
    let Ok(entries) = fs::read_dir(dir) else {
        return total;
    };
    for entry in entries.flatten() {
        let Ok(meta) = fs::symlink_metadata(entry.path()) else {
            continue; // removed while we counted
        };
        total += if meta.is_dir() {
            du_bytes(&entry.path())
        } else {
            meta.blocks() * 512
        };
    }
    total
}

/// Every file below a directory with its bytes, and every link with its target.
pub(crate) fn picture(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    let mut todo = vec![dir.to_path_buf()];
    while let Some(at) = todo.pop() {
        for name in names(&at) {
            let path = at.join(&name);
            let meta = fs::symlink_metadata(&path).expect("the file is there");
            if meta.is_dir() {
                todo.push(path);
            } else if meta.is_symlink() {
                let target = fs::read_link(&path).expect("a link has a target");
                all.push((path, target.into_os_string().into_encoded_bytes()));
            } else {
                let bytes = fs::read(&path).expect("the file can be read");
                all.push((path, bytes));
            }
        }
    }
    all.sort();
    all
}

/// `check` finds nothing wrong.
pub(crate) fn assert_sound(store: &Cache) {
    let report = store.check().expect("check");
    let some: Vec<_> = report.findings.iter().take(5).collect();
    assert!(
        report.is_sound(),
        "{} findings: {some:#?}",
        report.findings.len()
    );
}

/// How many live entries have each tag, by looking at each entry.
pub(crate) fn tags_by_iteration(store: &Cache) -> BTreeMap<Vec<u8>, u64> {
    let mut counts = BTreeMap::new();
    for key in store.keys().expect("keys") {
        let Some(about) = store.describe(key.expect("a key")).expect("describe") else {
            continue; // it expired meanwhile
        };
        for tag in about.tags {
            *counts.entry(tag).or_insert(0) += 1;
        }
    }
    counts
}

/// What `tags` and `iter_tag` tell is what iteration finds. Nobody may write meanwhile, and nothing may
/// have expired and still be there.
pub(crate) fn assert_tags_agree(store: &Cache) {
    let counts = tags_by_iteration(store);
    let told: BTreeMap<Vec<u8>, u64> = store
        .tags()
        .expect("tags")
        .into_iter()
        .filter(|tag| tag.entries > 0)
        .map(|tag| (tag.name, tag.entries))
        .collect();
    assert_eq!(told, counts, "what tags() tells, and what iteration finds");
    for (tag, entries) in &counts {
        let mut keys = BTreeSet::new();
        for pair in store.iter_tag(tag).expect("iter_tag") {
            let (key, _) = pair.expect("an entry");
            assert!(keys.insert(key), "iter_tag tells an entry twice");
        }
        assert_eq!(
            keys.len() as u64,
            *entries,
            "iter_tag of {}",
            String::from_utf8_lossy(tag)
        );
    }
}

// ---- values that say what they are ----

/// A value that names its key, its writer and its version, and ends in a checksum of itself.
pub(crate) fn signed_value(key: &[u8], writer: u32, version: u64, len: usize) -> Vec<u8> {
    let mut value = Vec::with_capacity(len + 64);
    value.extend_from_slice(&writer.to_le_bytes());
    value.extend_from_slice(&version.to_le_bytes());
    value.extend_from_slice(&(key.len() as u32).to_le_bytes());
    value.extend_from_slice(key);
    let mut filler = Dice::new(version ^ (u64::from(writer) << 48));
    while value.len() + 4 < len {
        let word = filler.roll().to_le_bytes();
        let room = (len - 4 - value.len()).min(8);
        value.extend_from_slice(&word[..room]);
    }
    let sum = crc32fast::hash(&value);
    value.extend_from_slice(&sum.to_le_bytes());
    value
}

/// The writer and version of a [`signed_value`]; an error says why it is not one of this key.
pub(crate) fn read_signed(key: &[u8], value: &[u8]) -> Result<(u32, u64), String> {
    let Some((body, sum)) = value.split_last_chunk::<4>() else {
        return Err(format!("{} bytes are no signed value", value.len()));
    };
    if crc32fast::hash(body).to_le_bytes() != *sum {
        return Err("its own checksum is wrong".into());
    }
    let head = body.get(..16).ok_or("too short")?;
    let writer = u32::from_le_bytes(head[..4].try_into().expect("four bytes"));
    let version = u64::from_le_bytes(head[4..12].try_into().expect("eight bytes"));
    let key_len = u32::from_le_bytes(head[12..16].try_into().expect("four bytes")) as usize;
    if body.get(16..16 + key_len) != Some(key) {
        return Err("it is another key's value".into());
    }
    Ok((writer, version))
}

/// Nanoseconds of the clock all processes of this boot share.
pub(crate) fn tick_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

// ---- other processes ----

const ROLE: &str = "LARDER_TEST_ROLE";
const STORE: &str = "LARDER_TEST_STORE";
const ARGS: &str = "LARDER_TEST_ARGS";

/// What a worker process was started for.
pub(crate) struct Job {
    pub(crate) role: String,
    pub(crate) store: PathBuf,
    pub(crate) args: Vec<u64>,
}

/// This process's job, if it is a worker and not the test itself.
pub(crate) fn job() -> Option<Job> {
    let role = std::env::var(ROLE).ok()?;
    // libtest has begun a line of its own on stdout; ours start on a new one.
    say("");
    Some(Job {
        role,
        store: std::env::var_os(STORE)
            .map(PathBuf::from)
            .unwrap_or_default(),
        args: std::env::var(ARGS)
            .unwrap_or_default()
            .split_whitespace()
            .map(|word| word.parse().expect("a worker's arguments are numbers"))
            .collect(),
    })
}

/// Tells the test one line, in one `write`: a kill leaves whole lines or none.
pub(crate) fn say(line: &str) {
    let text = format!("\n@{line}\n");
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        match rustix::io::write(std::io::stdout(), rest) {
            Ok(n) => rest = &rest[n..],
            Err(rustix::io::Errno::INTR) => {}
            // The test is gone; so are we.
            Err(_) => std::process::exit(3),
        }
    }
}

/// Ends a worker whose work is done, before libtest adds words of its own.
pub(crate) fn leave() -> ! {
    say("bye");
    std::process::exit(0)
}

/// Waits for a line from the test.
pub(crate) fn hear() -> String {
    let mut line = String::new();
    let n = std::io::stdin().read_line(&mut line).expect("stdin reads");
    if n == 0 {
        std::process::exit(4); // the test is gone
    }
    line.trim_end().to_owned()
}

/// A process of our own, started from this very binary with a role to play.
pub(crate) struct Worker {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

/// Starts a worker.
pub(crate) fn start(role: &str, store: &Path, args: &[u64]) -> Worker {
    let args: Vec<String> = args.iter().map(u64::to_string).collect();
    let mut child = Command::new(std::env::current_exe().expect("this binary has a path"))
        .args(["--exact", "role_entry", "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .env(STORE, store)
        .env(ARGS, args.join(" "))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a worker starts");
    let stdin = child.stdin.take();
    let stdout = child.stdout.take().expect("stdout is a pipe");
    let (send, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::with_capacity(1 << 16, stdout).lines() {
            let Ok(line) = line else { break };
            if let Some(said) = line.strip_prefix('@')
                && !said.is_empty()
                && send.send(said.to_owned()).is_err()
            {
                break;
            }
        }
    });
    Worker {
        child,
        stdin,
        lines,
    }
}

impl Worker {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends the worker a line.
    pub(crate) fn tell(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("stdin is open");
        stdin
            .write_all(format!("{line}\n").as_bytes())
            .and_then(|()| stdin.flush())
            .expect("the worker listens");
    }

    /// The next line the worker says, within `patience`.
    pub(crate) fn hear_within(&mut self, patience: Duration) -> Option<String> {
        self.lines.recv_timeout(patience).ok()
    }

    /// The next line, which must come within half a minute.
    pub(crate) fn hear(&mut self) -> String {
        self.hear_within(Duration::from_secs(30))
            .expect("the worker has something to say")
    }

    /// Waits for a line that is `word`, or starts with it and a space; returns what follows it.
    pub(crate) fn expect(&mut self, word: &str) -> String {
        let line = self.hear();
        match line.strip_prefix(word) {
            Some(rest) => rest.trim_start().to_owned(),
            None => panic!("expected `{word}` of the worker, heard `{line}`"),
        }
    }

    /// All lines said by now.
    pub(crate) fn said(&mut self) -> Vec<String> {
        self.lines.try_iter().collect()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("the worker can be signalled");
    }

    /// SIGKILL, at once; returns all it had said. It must not have ended by itself before.
    pub(crate) fn kill(mut self) -> Vec<String> {
        use std::os::unix::process::ExitStatusExt;
        self.child.kill().expect("the worker can be killed");
        let status = self.child.wait().expect("the worker is reaped");
        let lines: Vec<String> = self.lines.iter().collect();
        let killed = status.signal() == Some(Signal::KILL.as_raw());
        assert!(
            killed,
            "a worker ended by itself: {status}; its last words: {:?}",
            lines.last()
        );
        lines
    }

    /// Waits until it ends by itself, which must go well; returns all it said.
    pub(crate) fn finish(mut self) -> Vec<String> {
        drop(self.stdin.take());
        let lines: Vec<String> = self.lines.iter().collect();
        let status = self.child.wait().expect("the worker is reaped");
        assert!(
            status.success(),
            "a worker failed: {status}; its last words: {:?}",
            lines.last()
        );
        lines
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Also on a test's way out after a panic: no worker may outlive it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `work` and panics if it takes longer than `limit`: no test waits for ever.
pub(crate) fn within<T: Send + 'static>(
    limit: Duration,
    what: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (send, done) = channel();
    let thread = std::thread::spawn(move || {
        let _ = send.send(work());
    });
    match done.recv_timeout(limit) {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => panic!("{what} took longer than {limit:?}"),
        Err(RecvTimeoutError::Disconnected) => match thread.join() {
            Ok(()) => panic!("{what} ended without a result"),
            Err(panic) => std::panic::resume_unwind(panic),
        },
    }
}

/// How long something took, with what it gave.
pub(crate) fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let result = work();
    (result, start.elapsed())
}

/// Has whatever a killed writer had decided completed: an iterator meets that half way otherwise, with what
/// it read before as it was and the rest as it is.
pub(crate) fn settle(store: &Cache) {
    store.transact(|_| Ok(())).expect("the lock");
}

/// Has a thread of `scope` keep the writer lock for so long; it has it when this returns.
pub(crate) fn hold_writer_lock<'scope>(
    scope: &'scope std::thread::Scope<'scope, '_>,
    cache: &'scope Cache,
    how_long: Duration,
) {
    let (tell, told) = channel();
    scope.spawn(move || {
        let held = cache.transact(|_| {
            tell.send(()).expect("somebody waits");
            std::thread::sleep(how_long);
            Ok(())
        });
        held.expect("the lock");
    });
    told.recv().expect("the lock is held");
}
