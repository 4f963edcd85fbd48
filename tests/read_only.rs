//! A store opened to be read alone answers as any other, and not one byte of it changes.
//!
//! Every story takes a listing of all files (bytes, times, modes, inodes) before and after. A store
//! that was closed is read as it is; one that was killed, copied or has lost its derived files is
//! rebuilt in memory; beside a writer nobody reads so, and a writer waits for who does.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use common::{
    Dice, Job, assert_sound, copy_store, fast_dir, flip, forget_derived, is_log, leave, names,
    read_signed, say, signed_value, small, start, work_dir,
};
use larder::{Cache, Error, Expiry, SetOptions, Side};

#[test]
fn role_entry() {
    let Some(job) = common::job() else { return };
    match job.role.as_str() {
        "writer" => write_until_killed(&job),
        "holder" => hold_open(&job),
        "forker" => read_after_a_fork(&job),
        role => panic!("no such role: {role}"),
    }
    leave()
}

// ---- tools ----

/// All there is to see of a file: inode, mode, length, times of the last change, bytes.
type Seen = (u64, u32, u64, [i64; 4], Vec<u8>);

/// The directory and every file in it.
fn listing(dir: &Path) -> BTreeMap<PathBuf, Seen> {
    let see = |path: PathBuf| {
        let meta = fs::symlink_metadata(&path).expect("the file is there");
        let times = [
            meta.mtime(),
            meta.mtime_nsec(),
            meta.ctime(),
            meta.ctime_nsec(),
        ];
        let bytes = if meta.is_dir() {
            Vec::new()
        } else {
            fs::read(&path).expect("the file can be read")
        };
        (path, (meta.ino(), meta.mode(), meta.len(), times, bytes))
    };
    let below = names(dir).into_iter().map(|name| dir.join(name));
    below.chain([dir.to_path_buf()]).map(see).collect()
}

#[track_caller]
fn assert_untouched(dir: &Path, before: &BTreeMap<PathBuf, Seen>) {
    let after = listing(dir);
    let changed: Vec<_> = before
        .keys()
        .chain(after.keys())
        .filter(|path| before.get(*path) != after.get(*path))
        .collect();
    assert!(changed.is_empty(), "changed: {changed:?}");
}

/// Takes the right to write away from everybody, and gives it back at the end.
struct Closed(PathBuf);

impl Closed {
    fn new(dir: &Path) -> Closed {
        set_modes(dir, 0o400, 0o500);
        Closed(dir.to_path_buf())
    }
}

impl Drop for Closed {
    fn drop(&mut self) {
        set_modes(&self.0, 0o600, 0o700);
    }
}

fn set_modes(dir: &Path, files: u32, directory: u32) {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).expect("a mode");
    for name in names(dir) {
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(files)).expect("a mode");
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(directory)).expect("a mode");
}

fn read_only(dir: &Path) -> larder::Result<Cache> {
    Cache::builder().read_only(true).open(dir)
}

fn copy_of(dir: &Path) -> tempfile::TempDir {
    let copy = fast_dir();
    copy_store(dir, copy.path());
    copy
}

// ---- a store and what is in it ----

/// Live entries, oldest first.
type Model = Vec<(Vec<u8>, Vec<u8>)>;

fn key(n: u64) -> Vec<u8> {
    format!("key-{n:05}").into_bytes()
}

/// A store with a past: thousands of entries, large ones among them, replaced and removed ones too.
fn fill(cache: &Cache, entries: u64) -> Model {
    let mut model = Model::new();
    for n in 0..entries {
        let len = match n % 97 {
            0 => 20_000,
            1 => 4_096,
            _ => 40 + (n % 200) as usize,
        };
        let value = signed_value(&key(n), 1, n, len);
        let options = match n % 10 {
            0 => SetOptions::default().tag("ten"),
            1 => SetOptions::default().compress(true),
            _ => SetOptions::default(),
        };
        cache.set_with(key(n), &value, &options).expect("set");
        model.push((key(n), value));
    }
    // Overwritten, an entry keeps its place; deleted, it loses it.
    for n in (0..entries).step_by(7) {
        let value = signed_value(&key(n), 2, n, 100);
        cache.set(key(n), &value).expect("set");
        model[n as usize].1 = value;
    }
    for n in (0..entries).step_by(13) {
        assert!(cache.delete(key(n)).expect("delete"));
    }
    let mut n = 0;
    model.retain(|_| {
        n += 1;
        (n - 1) % 13 != 0
    });
    let batch: Vec<_> = (entries..entries + 50)
        .map(|n| (key(n), signed_value(&key(n), 3, n, 60)))
        .collect();
    cache
        .set_many(batch.iter().map(|(k, v)| (k, v)), &SetOptions::default())
        .expect("set_many");
    model.extend(batch);
    cache.incr("number", 41, 1).expect("incr");
    model.push((b"number".to_vec(), b"42".to_vec()));
    let item = cache
        .push(Some(b"q"), "first", Side::Back, &SetOptions::default())
        .expect("push");
    model.push((item, b"first".to_vec()));
    model
}

/// Every verb that reads, against what should be there.
fn read_everything(cache: &Cache, model: &Model) {
    assert_eq!(cache.len().expect("len"), model.len() as u64);
    assert!(!cache.is_empty().expect("is_empty"));
    let walked: Model = cache
        .iter()
        .expect("iter")
        .map(|item| item.expect("an entry"))
        .map(|(key, value)| (key, value.to_vec()))
        .collect();
    assert!(walked == *model, "the order or a value differs");
    let back: Vec<Vec<u8>> = cache
        .keys()
        .expect("keys")
        .rev()
        .map(|key| key.expect("a key"))
        .collect();
    assert!(back.iter().eq(model.iter().rev().map(|(key, _)| key)));
    let mut sorted = model.clone();
    sorted.sort();
    let walked = cache
        .iter_sorted()
        .expect("iter_sorted")
        .map(|item| item.expect("an entry").0);
    assert!(walked.eq(sorted.iter().map(|(key, _)| key.clone())));
    let range = cache.range(key(100)..key(200)).expect("range").count();
    let wanted = sorted
        .iter()
        .filter(|(k, _)| (key(100)..key(200)).contains(k))
        .count();
    assert_eq!(range, wanted);

    let mut buffer = Vec::new();
    for (n, (key, value)) in model.iter().enumerate() {
        assert_eq!(cache.get(key).expect("get").as_deref(), Some(&value[..]));
        assert!(cache.contains(key).expect("contains"));
        if n % 50 != 0 {
            continue;
        }
        cache.get_into(key, &mut buffer).expect("get_into");
        assert_eq!(buffer, *value);
        let mut reader = cache
            .get_reader(key)
            .expect("get_reader")
            .expect("an entry");
        buffer.clear();
        reader.read_to_end(&mut buffer).expect("the value");
        assert_eq!(buffer, *value);
        let entry = cache.get_entry(key).expect("get_entry").expect("an entry");
        assert_eq!(&*entry.value, &value[..]);
        let about = cache.describe(key).expect("describe").expect("an entry");
        assert_eq!(about.size_bytes, value.len() as u64);
        if let Some(path) = cache.value_path(key).expect("value_path") {
            assert_eq!(fs::read(path).expect("the value's file"), *value);
        }
        // SAFETY: nobody writes to the store in these tests.
        match unsafe { cache.get_mapped(key) } {
            Ok(mapped) => assert_eq!(&*mapped.expect("an entry"), &value[..]),
            Err(Error::Unsupported { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert!(cache.get("nothing").expect("get").is_none());
    assert_eq!(cache.first().expect("first").expect("one").0, model[0].0);
    let last = model.last().expect("one");
    assert_eq!(cache.last().expect("last").expect("one").0, last.0);
    let peeked = cache
        .peek(Some(b"q"), Side::Back)
        .expect("peek")
        .expect("an item");
    assert_eq!((&peeked.0, &*peeked.1), (&last.0, &last.1[..]));
    let tagged = cache
        .describe(key(10))
        .expect("describe")
        .expect("an entry");
    assert_eq!(tagged.tags, [b"ten".to_vec()]);

    assert!(cache.stats(false).expect("stats").hits >= model.len() as u64);
    assert!(cache.volume().expect("volume") > 0);
    assert!(cache.disk_usage().expect("disk_usage") > 0);
    let settings = cache.settings().expect("settings");
    assert_eq!(settings.large_value_bytes, common::SMALL_LARGE_VALUE_BYTES);
    assert_sound(cache);
    let mut lines = 0;
    for segment in cache.segments().expect("segments") {
        for line in cache.log(segment).expect("log") {
            assert_ne!(line.expect("a line").kind, "damaged");
            lines += 1;
        }
    }
    assert!(lines >= model.len());
}

/// A store of `entries`, closed.
fn closed_store(dir: &Path, entries: u64) -> Model {
    let cache = small().open(dir).expect("a store");
    let model = fill(&cache, entries);
    cache.close().expect("close");
    model
}

/// Opened alone, everything is there, and nothing was changed when all is dropped.
fn assert_readable(dir: &Path, model: &Model) {
    let before = listing(dir);
    let cache = read_only(dir).expect("it opens");
    assert_untouched(dir, &before);
    read_everything(&cache, model);
    assert_untouched(dir, &before);
    cache.clone().close().expect("close");
    drop(cache);
    assert_untouched(dir, &before);
}

// ---- stories ----

#[test]
fn a_closed_store_in_files_nobody_may_write() {
    let dir = work_dir();
    let store = dir.path().join("store");
    let model = closed_store(&store, 4_000);
    let closed = Closed::new(&store);
    assert_readable(&store, &model);
    drop(closed);
    // And nothing was left that a writer would stumble over.
    let cache = Cache::open(&store).expect("it opens");
    read_everything(&cache, &model);
    cache.set("after", "all").expect("set");
}

#[test]
fn a_store_that_was_dropped_without_a_word() {
    let dir = work_dir();
    let cache = small().open(dir.path()).expect("a store");
    let model = fill(&cache, 500);
    drop(cache);
    let _closed = Closed::new(dir.path());
    assert_readable(dir.path(), &model);
}

#[test]
fn a_copy_is_read_whether_it_was_closed_or_not() {
    let dir = work_dir();
    let model = closed_store(dir.path(), 800);
    assert_readable(copy_of(dir.path()).path(), &model);

    let cache = Cache::open(dir.path()).expect("it opens");
    cache.set("later", "x").expect("set");
    cache.delete("later").expect("delete");
    drop(cache);
    let copy = copy_of(dir.path());
    let _closed = Closed::new(copy.path());
    assert_readable(copy.path(), &model);
}

#[test]
fn the_log_alone_is_enough() {
    let dir = work_dir();
    let model = closed_store(dir.path(), 2_000);
    forget_derived(dir.path());
    let _closed = Closed::new(dir.path());
    assert!(names(dir.path()).iter().all(|name| is_log(name)));
    assert_readable(dir.path(), &model);
}

#[test]
fn one_derived_file_missing_or_cut() {
    let dir = work_dir();
    let model = closed_store(dir.path(), 300);
    for name in names(dir.path()) {
        if is_log(&name)
            || name.starts_with("p-")
            || fs::metadata(dir.path().join(&name)).expect("a file").len() == 0
        {
            continue;
        }
        let copy = copy_of(dir.path());
        fs::remove_file(copy.path().join(&name)).expect("removed");
        assert_readable(copy.path(), &model);
        let copy = copy_of(dir.path());
        common::cut_at(&copy.path().join(&name), 100);
        assert_readable(copy.path(), &model);
    }
}

/// A mount of this test's own, taken away at its end.
struct Mount(PathBuf);

impl Mount {
    /// `None`: this process may not mount.
    fn new(args: &[&str], at: &Path) -> Option<Mount> {
        let done = Command::new("mount").args(args).arg(at).output().ok()?;
        if !done.status.success() {
            println!(
                "skipped: cannot mount: {}",
                String::from_utf8_lossy(&done.stderr).trim()
            );
            return None;
        }
        Some(Mount(at.to_path_buf()))
    }

    fn remount_read_only(&self, options: &str) {
        let done = Command::new("mount")
            .args(["-o", options])
            .arg(&self.0)
            .output();
        let done = done.expect("mount runs");
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[test]
fn a_read_only_mount_of_a_tmpfs() {
    let dir = work_dir();
    let Some(mount) = Mount::new(&["-t", "tmpfs", "larder-test"], dir.path()) else {
        return;
    };
    let (closed, unclosed) = (dir.path().join("closed"), dir.path().join("unclosed"));
    let model = closed_store(&closed, 1_000);
    copy_store(&closed, &unclosed);
    let cache = Cache::open(&unclosed).expect("it opens");
    cache.set("number", "x").expect("set");
    cache
        .set_number("number", 42, &SetOptions::default())
        .expect("set");
    drop(cache);
    mount.remount_read_only("remount,ro");
    assert!(fs::write(dir.path().join("file"), "x").is_err());
    assert!(Cache::open(&closed).is_err(), "nobody can write there");
    for _ in 0..2 {
        assert_readable(&closed, &model);
        assert_readable(&unclosed, &model);
    }
}

#[test]
fn a_read_only_view_of_a_directory_others_may_write() {
    let dir = work_dir();
    let (store, view) = (dir.path().join("store"), dir.path().join("view"));
    let model = closed_store(&store, 300);
    fs::create_dir(&view).expect("a directory");
    let Some(mount) = Mount::new(&["--bind", store.to_str().expect("text")], &view) else {
        return;
    };
    mount.remount_read_only("remount,ro,bind");
    assert_readable(&view, &model);
    // The locks are the files': whoever writes beside the mount is noticed, and waits.
    let writer = Cache::open(&store).expect("it opens");
    assert!(matches!(read_only(&view), Err(Error::Busy { .. })));
    drop(writer);
    let reader = read_only(&view).expect("it opens");
    let timeout = Some(Duration::from_millis(50));
    let busy = Cache::builder().lock_timeout(timeout).open(&store);
    assert!(matches!(busy, Err(Error::Busy { .. })), "{busy:?}");
    drop(reader);
    // Killed there, it is another mount's: rebuilt in memory.
    let writer = start("holder", &store, &[]);
    let mut writer = writer;
    writer.expect("ready");
    writer.kill();
    assert_readable(&view, &model);
}

// ---- beside others ----

fn hold_open(job: &Job) {
    let cache = Cache::open(&job.store).expect("the store opens");
    cache.set("beside", "x").expect("set");
    cache.delete("beside").expect("delete");
    say("ready");
    common::hear();
}

#[test]
fn beside_a_writer_nobody_reads_alone() {
    let dir = work_dir();
    let model = closed_store(dir.path(), 100);
    let mut writer = start("holder", dir.path(), &[]);
    writer.expect("ready");
    let before = listing(dir.path());
    let begun = Instant::now();
    let error = read_only(dir.path()).expect_err("somebody writes");
    assert!(begun.elapsed() < Duration::from_secs(5), "it does not wait");
    let text = error.to_string();
    assert!(matches!(error, Error::Busy { .. }), "{text}");
    assert!(text.contains("without read_only"), "{text}");
    assert!(
        text.contains(&format!("process {}", writer.pid())),
        "{text}"
    );
    assert_untouched(dir.path(), &before);
    writer.tell("go");
    writer.finish();
    assert_readable(dir.path(), &model);

    // The same handle's process counts too.
    let here = Cache::open(dir.path()).expect("it opens");
    assert!(matches!(read_only(dir.path()), Err(Error::Busy { .. })));
    // Also in a directory whose header is gone.
    fs::remove_file(dir.path().join("larder")).expect("removed");
    assert!(matches!(read_only(dir.path()), Err(Error::Busy { .. })));
    drop(here);
}

#[test]
fn readers_share_and_a_writer_waits_for_the_last() {
    let dir = work_dir();
    let model = closed_store(dir.path(), 100);
    let before = listing(dir.path());
    let one = read_only(dir.path()).expect("it opens");
    let two = read_only(dir.path()).expect("it opens");
    read_everything(&one, &model);
    drop(one);
    let walk = two.iter().expect("iter");
    drop(two);
    let timeout = Some(Duration::from_millis(100));
    let error = Cache::builder()
        .lock_timeout(timeout)
        .open(dir.path())
        .expect_err("read");
    assert!(error.to_string().contains("read-only"), "{error}");
    assert!(matches!(error, Error::Busy { .. }), "{error}");
    assert_untouched(dir.path(), &before);
    assert_eq!(walk.count(), model.len());
    let writer = Cache::open(dir.path()).expect("everybody has left");
    writer.set("now", "I write").expect("set");
}

#[test]
fn somebody_who_opens_is_waited_for() {
    let dir = work_dir();
    closed_store(dir.path(), 20);
    let alone = Cache::builder()
        .allow_any_filesystem(true)
        .open(dir.path())
        .expect("it opens");
    let timeout = Some(Duration::from_millis(100));
    let open = || {
        Cache::builder()
            .read_only(true)
            .lock_timeout(timeout)
            .open(dir.path())
    };
    assert!(matches!(open(), Err(Error::Busy { .. })));
    drop(alone);
    open().expect("it opens, and its patience is no setting of the store's");
}

fn read_after_a_fork(job: &Job) {
    let cache = read_only(&job.store).expect("it opens");
    assert!(cache.get(key(1)).expect("get").is_some());
    // SAFETY: the child only uses the store, which is meant to be used after a fork, and leaves.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let is_right = matches!(cache.get(key(1)), Ok(Some(_)))
            && matches!(cache.set("x", "y"), Err(Error::ReadOnly { .. }));
        // SAFETY: ends the child at once, as it should.
        unsafe { libc::_exit(i32::from(!is_right)) };
    }
    let mut status = 0;
    // SAFETY: `status` is an int to be written to.
    let waited = unsafe { libc::waitpid(pid, &mut status, 0) };
    assert_eq!((waited, status), (pid, 0));
    // The child's end let go of nothing that is the parent's.
    let timeout = Some(Duration::from_millis(50));
    let busy = Cache::builder().lock_timeout(timeout).open(&job.store);
    assert!(matches!(busy, Err(Error::Busy { .. })), "{busy:?}");
    assert!(cache.get(key(1)).expect("get").is_some());
    say("done");
}

#[test]
fn a_forked_child_reads_too() {
    let dir = work_dir();
    closed_store(dir.path(), 20);
    let before = listing(dir.path());
    start("forker", dir.path(), &[]).expect("done");
    assert_untouched(dir.path(), &before);
}

// ---- what is refused ----

#[test]
fn every_verb_that_writes_is_refused_at_once() {
    let dir = work_dir();
    let model = closed_store(dir.path(), 100);
    let before = listing(dir.path());
    let cache = read_only(dir.path()).expect("it opens");
    let plain = SetOptions::default();
    let some_key = &model[0].0;
    let large = vec![7; 100_000];
    #[track_caller]
    fn refused<T>(done: larder::Result<T>) {
        let error = done.err().expect("a verb that writes");
        assert!(matches!(error, Error::ReadOnly { .. }), "{error}");
        assert!(
            error
                .to_string()
                .contains("opened read-only; nothing was changed"),
            "{error}"
        );
    }
    refused(cache.set("k", "v"));
    refused(cache.set("k", &large));
    refused(cache.set_with("k", "v", &plain.clone().tag("new")));
    refused(cache.set_number("k", 1, &plain));
    refused(cache.set_reader("k", &large[..], &plain));
    refused(cache.set_many([("k", "v")], &plain));
    refused(cache.set_many::<&str, &str>([], &plain));
    refused(cache.add("k", "v", &plain));
    refused(cache.add(some_key, "v", &plain));
    refused(cache.replace(some_key, "v", &plain));
    refused(cache.compare_and_swap("k", None, Some(b"v"), &plain));
    refused(cache.touch(some_key, Expiry::Never));
    refused(cache.delete(some_key));
    refused(cache.delete("nothing"));
    refused(cache.pop(some_key));
    refused(cache.clear());
    refused(cache.incr("number", 1, 0));
    refused(cache.decr("number", 1, 0));
    refused(cache.push(None, "v", Side::Front, &plain));
    refused(cache.pull(Some(b"q"), Side::Front));
    refused(cache.transact(|_| Ok(())));
    refused(cache.flush());
    refused(cache.update_settings(|_| {}));
    refused(cache.stats(true));
    refused(cache.hold("name", None));
    let typed = cache.typed::<String, u64>();
    refused(typed.set(&"k".to_string(), &1));
    refused(typed.delete(&"k".to_string()));
    refused(typed.pop(&"k".to_string()));
    refused(
        Cache::builder()
            .read_only(true)
            .size_limit_bytes(5 << 30)
            .open(dir.path()),
    );
    let as_it_is = Cache::builder()
        .read_only(true)
        .segment_size_bytes(common::SMALL_SEGMENT_BYTES);
    as_it_is
        .open(dir.path())
        .expect("a setting that is the store's own");
    cache.with_timeout(None).close().expect("close");
    read_everything(&cache, &model);
    drop((cache, typed));
    assert_untouched(dir.path(), &before);
}

#[test]
fn an_empty_store_refuses_to_be_cleared_too() {
    let dir = work_dir();
    Cache::open(dir.path())
        .expect("a store")
        .close()
        .expect("close");
    let cache = read_only(dir.path()).expect("it opens");
    assert!(matches!(cache.clear(), Err(Error::ReadOnly { .. })));
    assert_eq!(cache.iter().expect("iter").count(), 0);
    assert!(cache.first().expect("first").is_none());
}

#[test]
fn nothing_is_made_where_no_store_is() {
    let dir = work_dir();
    let missing = dir.path().join("missing");
    for _ in 0..2 {
        assert!(matches!(read_only(&missing), Err(Error::NotAStore { .. })));
        assert!(matches!(
            read_only(dir.path()),
            Err(Error::NotAStore { .. })
        ));
    }
    assert!(names(dir.path()).is_empty());
    fs::write(dir.path().join("letter"), "dear").expect("a file");
    assert!(matches!(
        read_only(dir.path()),
        Err(Error::NotAStore { .. })
    ));
    assert_eq!(names(dir.path()), ["letter"]);
}

#[test]
fn a_store_that_syncs_every_so_often_is_not_synced() {
    let dir = work_dir();
    let every = larder::Durability::Interval(Duration::from_millis(1));
    let cache = small().durability(every).open(dir.path()).expect("a store");
    let model = fill(&cache, 200);
    drop(cache);
    // The thread that syncs may be in the middle of its last turn.
    let begin = std::time::Instant::now();
    loop {
        match read_only(dir.path()) {
            Err(Error::Busy { .. }) if begin.elapsed() < Duration::from_secs(20) => {
                std::thread::sleep(Duration::from_millis(2));
            }
            opened => break drop(opened.expect("it opens")),
        }
    }
    let before = listing(dir.path());
    let cache = read_only(dir.path()).expect("it opens");
    read_everything(&cache, &model);
    std::thread::sleep(Duration::from_millis(50));
    drop(cache);
    assert_untouched(dir.path(), &before);
}

// ---- killed ----

const KEYS: u64 = 60;

fn write_until_killed(job: &Job) {
    let cache = Cache::open(&job.store).expect("the store opens");
    let mut dice = Dice::new(job.args[0]);
    let mut version = job.args[1];
    say("ready");
    loop {
        version += 1;
        let n = dice.below(KEYS);
        let len = if dice.one_in(10) {
            6_000
        } else {
            60 + dice.below(400) as usize
        };
        match dice.below(10) {
            0..6 => {
                say(&format!("i {n} {version}"));
                cache
                    .set(key(n), signed_value(&key(n), 0, version, len))
                    .expect("set");
                say(&format!("a {n} {version}"));
            }
            6..8 => {
                let items: Vec<_> = (0..5)
                    .map(|more| key((n + more) % KEYS))
                    .map(|key| (key.clone(), signed_value(&key, 0, version, 200)))
                    .collect();
                for more in 0..5 {
                    say(&format!("i {} {version}", (n + more) % KEYS));
                }
                cache
                    .set_many(items, &SetOptions::default())
                    .expect("set_many");
                for more in 0..5 {
                    say(&format!("a {} {version}", (n + more) % KEYS));
                }
            }
            _ => {
                cache.incr("count", 1, 0).expect("incr");
            }
        }
    }
}

/// Each key's newest acknowledged version, and those that were on their way.
#[derive(Default)]
struct Told {
    done: BTreeMap<u64, u64>,
    begun: BTreeMap<u64, u64>,
}

impl Told {
    fn listen(&mut self, lines: Vec<String>) -> u64 {
        let mut newest = 0;
        for line in lines {
            let words: Vec<&str> = line.split(' ').collect();
            let [what, n, version] = words[..] else {
                continue;
            };
            let (n, version) = (
                n.parse().expect("a key"),
                version.parse().expect("a version"),
            );
            newest = newest.max(version);
            match what {
                "i" => self.begun.insert(n, version),
                _ => self.done.insert(n, version),
            };
        }
        newest
    }

    /// Nothing acknowledged is missing, nothing is older, nothing was never written.
    fn check(&self, cache: &Cache) {
        for n in 0..KEYS {
            let found = cache
                .get(key(n))
                .expect("get")
                .map(|value| read_signed(&key(n), &value).expect("its own value").1);
            let done = self.done.get(&n).copied();
            let begun = self.begun.get(&n).copied();
            assert!(
                found == done || found == begun,
                "key {n}: {found:?}, not {done:?} or {begun:?}"
            );
        }
    }
}

fn all_of(cache: &Cache) -> Model {
    let entry = |item: larder::Result<(Vec<u8>, larder::Value)>| {
        let (key, value) = item.expect("an entry");
        (key, value.to_vec())
    };
    cache.iter().expect("iter").map(entry).collect()
}

#[test]
fn a_killed_writers_store_is_read_as_the_next_writer_would() {
    let mut dice = Dice::new(common::seed("read_only killed"));
    let dir = work_dir();
    small()
        .open(dir.path())
        .expect("a store")
        .close()
        .expect("close");
    let mut told = Told::default();
    let mut version = 0;
    for round in 0..25 {
        let mut writer = start("writer", dir.path(), &[dice.roll(), version]);
        writer.expect("ready");
        std::thread::sleep(Duration::from_micros(dice.below(40_000)));
        version = version.max(told.listen(writer.kill())) + 1;

        // In place: what is half done is completed in private pages alone.
        let before = listing(dir.path());
        let cache = read_only(dir.path()).unwrap_or_else(|error| panic!("round {round}: {error}"));
        told.check(&cache);
        assert_sound(&cache);
        let here = all_of(&cache);
        drop(cache);
        assert_untouched(dir.path(), &before);

        // A copy of it, and its log alone: rebuilt in memory. What was on its way when the writer was
        // killed may be in the log already, though the header does not say so.
        let copy = copy_of(dir.path());
        let (mut there, mut findings) = (Model::new(), Vec::new());
        for step in 0..2 {
            if step == 1 {
                forget_derived(copy.path());
            }
            let before = listing(copy.path());
            let cache = read_only(copy.path()).expect("it opens");
            told.check(&cache);
            let found = all_of(&cache);
            assert!(step == 0 || found == there, "round {round}");
            (there, findings) = (found, cache.check().expect("check").findings);
            drop(cache);
            assert_untouched(copy.path(), &before);
        }
        // The next writer finds the very same, there and here.
        let cache = Cache::open(copy.path()).expect("it opens");
        assert!(all_of(&cache) == there, "round {round}");
        assert_eq!(cache.check().expect("check").findings, findings);
        drop(cache);
        let cache = Cache::open(dir.path()).expect("it opens");
        assert!(all_of(&cache) == here, "round {round}");
        told.check(&cache);
        told.begun = told.done.clone();
        for n in 0..KEYS {
            if let Some(value) = cache.get(key(n)).expect("get") {
                let version = read_signed(&key(n), &value).expect("its own").1;
                told.done.insert(n, version);
                told.begun.insert(n, version);
            }
        }
    }
}

// ---- damaged ----

#[test]
fn a_damaged_value_is_corrupt_for_its_key_alone() {
    let dir = work_dir();
    let model = closed_store(dir.path(), 400);
    // All but the first were overwritten: the newest record is what is damaged, and no older one shows.
    let victims = [key(1), key(7), key(98), key(105)];
    let cache = read_only(dir.path()).expect("it opens");
    let mut hits = Vec::new();
    for segment in cache.segments().expect("segments") {
        for line in cache.log(segment).expect("log") {
            let line = line.expect("a line");
            if victims.contains(&line.key) && line.kind == "set" {
                hits.retain(|(key, _, _)| *key != line.key);
                hits.push((line.key.clone(), segment, line.at));
            }
        }
    }
    drop(cache);
    assert_eq!(hits.len(), victims.len());
    for (_, segment, at) in &hits {
        // Behind the fixed part and the key.
        flip(
            &dir.path().join(format!("{segment:016x}.seg")),
            (at + 32 + 10) * 8 + 3,
        );
    }
    // A large value's own file, too.
    let large = key(97 * 2);
    let cache = read_only(dir.path()).expect("it opens");
    let path = cache
        .value_path(&large)
        .expect("value_path")
        .expect("a large value");
    drop(cache);
    flip(&path, 77);

    for step in 0..2 {
        if step == 1 {
            forget_derived(dir.path());
        }
        let before = listing(dir.path());
        let cache = read_only(dir.path()).expect("it opens");
        for (key, value) in &model {
            let got = cache.get(key);
            if victims.contains(key) || *key == large {
                assert!(
                    matches!(got, Err(Error::Corrupt { .. })),
                    "{key:?}: {got:?}"
                );
            } else {
                assert_eq!(got.expect("get").as_deref(), Some(&value[..]));
            }
        }
        let walked = cache
            .iter()
            .expect("iter")
            .filter(|item| item.is_ok())
            .count();
        assert_eq!(walked, model.len() - victims.len() - 1);
        assert!(!cache.check().expect("check").is_sound());
        drop(cache);
        assert_untouched(dir.path(), &before);
    }
}

#[test]
fn any_flipped_bit_of_a_derived_file_is_met_by_a_rebuild_or_an_error() {
    let mut dice = Dice::new(common::seed("read_only flips"));
    let dir = fast_dir();
    let model = closed_store(dir.path(), 150);
    let derived: Vec<_> = names(dir.path())
        .into_iter()
        .filter(|name| !is_log(name))
        .map(|name| dir.path().join(name))
        .filter(|path| path.metadata().expect("a file").len() > 0)
        .collect();
    for round in 0..300 {
        let path = &derived[dice.below(derived.len() as u64) as usize];
        let bits = path.metadata().expect("a file").len() * 8;
        // Half of them where the words are.
        let bit = if dice.one_in(2) {
            dice.below(bits)
        } else {
            dice.below(bits.min(8 << 13))
        };
        flip(path, bit);
        let before = listing(dir.path());
        let story = || format!("round {round}: bit {bit} of {}", path.display());
        match read_only(dir.path()) {
            Ok(cache) => {
                for (key, value) in &model {
                    match cache.get(key) {
                        Ok(Some(found)) => assert!(*found == value[..], "{}", story()),
                        Ok(None) => panic!("{}: {:?} is missing", story(), key),
                        Err(Error::Corrupt { .. }) => {}
                        Err(error) => panic!("{}: {error}", story()),
                    }
                }
                let _ = cache.check().expect("check");
            }
            Err(Error::Corrupt { .. } | Error::Unsupported { .. } | Error::Moved { .. }) => {}
            Err(error) => panic!("{}: {error}", story()),
        }
        assert_untouched(dir.path(), &before);
        flip(path, bit);
    }
    assert_readable(dir.path(), &model);
}
