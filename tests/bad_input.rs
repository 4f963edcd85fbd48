//! What is not as it should be ends in one clear error, and nothing else is lost.
//!
//! Wrong directories, foreign files, newer formats, full and read-only disks, limits and
//! nonsense: each story says what was there before, what was tried, and that the rest is whole.
//! Stories that need to mount something print `skipped` and why where that is not allowed.

mod common;

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::{Dice, Job, leave, names, picture, say, start, within};
use larder::{Cache, Compression, Error, Expiry, SetOptions, Settings};

/// Where a worker process begins; for the test itself there is nothing to do.
#[test]
fn role_entry() {
    let Some(job) = common::job() else { return };
    match job.role.as_str() {
        "few-files" => live_with_few_files(&job),
        "bomb-reader" => read_a_bomb(&job),
        other => panic!("no such role: {other}"),
    }
    leave()
}

fn patient(store: &Cache) -> Cache {
    store.with_timeout(Some(Duration::from_secs(5)))
}

/// A closed store with a few entries, one of them in a file of its own.
fn stored() -> tempfile::TempDir {
    let dir = common::work_dir();
    let store = common::small().open(dir.path()).expect("opens");
    fill(&store);
    store.close().expect("close");
    dir
}

fn fill(store: &Cache) {
    for at in 0..50 {
        store
            .set(format!("key/{at}"), format!("value {at}"))
            .expect("set");
    }
    store.set("large", vec![5_u8; 20_000]).expect("set");
}

fn assert_whole(store: &Cache) {
    for at in 0..50 {
        let value = store
            .get(format!("key/{at}"))
            .expect("get")
            .expect("it was stored");
        assert_eq!(&value[..], format!("value {at}").as_bytes());
    }
    let value = store.get("large").expect("get").expect("it was stored");
    assert_eq!(&value[..], &vec![5_u8; 20_000][..]);
}

fn names_it(error: &Error, path: &Path) {
    let text = error.to_string();
    let name = path
        .file_name()
        .expect("a name")
        .to_string_lossy()
        .into_owned();
    assert!(text.contains(&name), "`{text}` names {name}");
    assert!(!text.contains('\n'), "`{text}` is one line");
}

// ---- directories ----

#[test]
fn a_directory_with_other_things_in_it_is_no_store() {
    let dir = common::work_dir();
    fs::write(dir.path().join("notes.txt"), "mine").expect("written");
    fs::create_dir(dir.path().join("photos")).expect("made");
    let before = (names(dir.path()), picture(dir.path()));
    for create in [true, false] {
        let error = Cache::builder()
            .create(create)
            .open(dir.path())
            .map(|_| ())
            .expect_err("no store");
        assert!(matches!(error, Error::NotAStore { .. }), "{error:?}");
        names_it(&error, dir.path());
        assert_eq!(
            (names(dir.path()), picture(dir.path())),
            before,
            "untouched"
        );
    }
}

#[test]
fn nothing_is_made_where_nothing_may_be_made() {
    let dir = common::work_dir();
    let missing = dir.path().join("missing");
    let error = Cache::builder()
        .create(false)
        .open(&missing)
        .map(|_| ())
        .expect_err("no store");
    assert!(matches!(error, Error::NotAStore { .. }), "{error:?}");
    names_it(&error, &missing);
    assert!(!missing.exists());
    let error = Cache::builder()
        .create(false)
        .open(dir.path())
        .map(|_| ())
        .expect_err("no store");
    assert!(matches!(error, Error::NotAStore { .. }), "{error:?}");
    assert!(
        names(dir.path()).is_empty(),
        "an empty directory stays empty"
    );
    // With leave to, it is made, parents and all that is missing of them included or not.
    Cache::open(&missing)
        .expect("opens")
        .set("a", "b")
        .expect("set");
    let error = Cache::builder()
        .create(false)
        .open(&missing)
        .map(|_| ())
        .err();
    assert!(error.is_none(), "{error:?}");
}

#[test]
fn a_file_is_no_store() {
    let dir = common::work_dir();
    let file = dir.path().join("file");
    fs::write(&file, "some text").expect("written");
    for create in [true, false] {
        let error = Cache::builder()
            .create(create)
            .open(&file)
            .map(|_| ())
            .expect_err("a file");
        assert!(matches!(error, Error::NotAStore { .. }), "{error:?}");
        names_it(&error, &file);
    }
    assert_eq!(fs::read(&file).expect("reads"), b"some text");
    let error = Cache::open(file.join("below"))
        .map(|_| ())
        .expect_err("below a file");
    assert!(
        matches!(error, Error::NotAStore { .. } | Error::Io { .. }),
        "{error:?}"
    );
}

#[test]
fn the_directory_may_be_a_link_and_the_files_in_it_never() {
    let dir = stored();
    let aside = common::work_dir();
    let link = aside.path().join("link");
    symlink(dir.path(), &link).expect("linked");
    {
        let store = Cache::open(&link).expect("the directory's link is followed");
        assert_whole(&store);
    }
    // Each kind of file in turn, moved away with a link left in its place.
    for name in names(dir.path()) {
        let copy = common::work_dir();
        common::copy_store(dir.path(), copy.path());
        let path = copy.path().join(&name);
        let target = aside.path().join("target");
        fs::rename(&path, &target)
            .or_else(|_| {
                fs::copy(&path, &target)
                    .map(|_| ())
                    .and_then(|()| fs::remove_file(&path))
            })
            .expect("moved away");
        symlink(&target, &path).expect("linked");
        let before = fs::read(&target).expect("reads");
        let copy_path = copy.path().to_path_buf();
        let outcome = within(Duration::from_secs(20), &name, move || {
            let store = patient(&Cache::open(copy_path)?);
            for at in 0..50 {
                if let Ok(Some(value)) = store.get(format!("key/{at}")) {
                    assert_eq!(&value[..], format!("value {at}").as_bytes());
                }
            }
            let _ = store.get("large");
            store.set("more", vec![1_u8; 3_000])?;
            store.delete("key/1")?;
            Ok::<(), Error>(())
        });
        println!("a link for {name}: {outcome:?}");
        assert_eq!(
            fs::read(&target).expect("reads"),
            before,
            "{name} was followed out of the store"
        );
        fs::remove_file(&target).expect("removed");
    }
}

#[test]
fn pipes_and_directories_in_the_place_of_files_do_not_hang_anybody() {
    let dir = stored();
    for name in names(dir.path()) {
        for pipe in [true, false] {
            let copy = common::work_dir();
            common::copy_store(dir.path(), copy.path());
            let path = copy.path().join(&name);
            fs::remove_file(&path).expect("removed");
            if pipe {
                let done = Command::new("mkfifo")
                    .arg(&path)
                    .status()
                    .expect("mkfifo runs");
                assert!(done.success());
            } else {
                fs::create_dir(&path).expect("made");
            }
            let copy_path = copy.path().to_path_buf();
            let outcome = within(Duration::from_secs(20), &name, move || {
                let store = patient(&Cache::open(copy_path)?);
                let _ = store.get("key/1");
                let _ = store.get("large");
                store.set("more", vec![1_u8; 3_000])
            });
            println!(
                "a {} for {name}: {outcome:?}",
                if pipe { "pipe" } else { "directory" }
            );
        }
    }
}

#[test]
fn directories_and_files_are_the_owners_alone() {
    let dir = common::work_dir();
    let inner = dir.path().join("store");
    let store = common::small().open(&inner).expect("opens");
    fill(&store);
    for at in 0..500 {
        store
            .set(format!("more/{at}"), vec![1_u8; 300])
            .expect("set");
    }
    let mode = |path: &Path| {
        fs::symlink_metadata(path)
            .expect("metadata")
            .permissions()
            .mode()
            & 0o7777
    };
    assert_eq!(mode(&inner), 0o700);
    for name in names(&inner) {
        let path = inner.join(&name);
        let wanted = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode(&path), wanted, "{name}");
    }
}

#[test]
fn a_temporary_store_removes_its_directory() {
    let store = Cache::temporary().expect("a temporary store");
    let path = store.path().to_path_buf();
    store.set("a", "b").expect("set");
    store.set("large", vec![1_u8; 2 << 20]).expect("set");
    let other = store.clone();
    let second = Cache::temporary().expect("another");
    assert_ne!(second.path(), path);
    drop(store);
    assert!(path.is_dir(), "a clone still uses it");
    assert_eq!(&other.get("a").expect("get").expect("there")[..], b"b");
    drop(other);
    assert!(!path.exists(), "{} is still there", path.display());
}

#[test]
fn a_store_taken_away_while_open_is_moved() {
    type TakeAway = (&'static str, fn(&Path));
    let taken_away: [TakeAway; 3] = [
        ("removed", |dir| fs::remove_dir_all(dir).expect("removed")),
        ("removed and made again", |dir| {
            fs::remove_dir_all(dir).expect("removed");
            Cache::open(dir)
                .expect("a new store")
                .set("new", "store")
                .expect("set");
        }),
        ("its lock files removed", |dir| {
            for name in names(dir) {
                let path = dir.join(name);
                let is_lock = fs::metadata(&path).is_ok_and(|meta| meta.len() == 0);
                if is_lock {
                    fs::remove_file(path).expect("removed");
                }
            }
        }),
    ];
    for (what, take_away) in taken_away {
        let outer = common::work_dir();
        let dir = outer.path().join("store");
        let store = patient(&common::small().open(&dir).expect("opens"));
        let second = patient(&Cache::open(&dir).expect("opens"));
        store.set("a", "b").expect("set");
        second.set("c", "d").expect("set");
        take_away(&dir);
        // DESIGN.md, section 14: a writer looks every 10 ms.
        std::thread::sleep(std::time::Duration::from_millis(30));
        for handle in [&store, &second, &store] {
            let error = handle
                .set("after", "it went")
                .expect_err("nothing is acknowledged any more");
            assert!(matches!(error, Error::Moved { .. }), "{what}: {error:?}");
            names_it(&error, &dir);
            let result = handle.transact(|tx| tx.set("after", "it went"));
            assert!(
                matches!(result, Err(Error::Moved { .. })),
                "{what}: {result:?}"
            );
            let _ = handle.get("a");
            let _ = handle.flush();
        }
        drop((store, second));
        if what == "removed and made again" {
            let new = Cache::open(&dir).expect("opens");
            assert_eq!(&new.get("new").expect("get").expect("there")[..], b"store");
            assert_eq!(new.len().expect("len"), 1, "the old handles left it alone");
        }
    }
}

// ---- foreign files and formats ----

#[test]
fn foreign_files_in_a_store_are_left_alone() {
    let dir = stored();
    let foreign = [
        "notes.txt",
        ".hidden",
        "x.seg",
        "zz.val",
        "0.seg",
        "seg",
        ".seg",
        "1.SEG",
        "00000000000000001.seg",
        "ffffffffffffffffff.seg",
        "larder.bak",
        "keymap",
        "keymap.x",
        "core.1234",
        "\u{fc}ml.val",
    ];
    for name in foreign {
        fs::write(dir.path().join(name), format!("foreign {name}")).expect("written");
    }
    fs::create_dir_all(dir.path().join("sub/dir")).expect("made");
    fs::write(dir.path().join("sub/dir/file"), "below").expect("written");
    let assert_left = |when: &str| {
        for name in foreign {
            let bytes = fs::read(dir.path().join(name)).unwrap_or_default();
            assert_eq!(
                bytes,
                format!("foreign {name}").as_bytes(),
                "{when}: {name}"
            );
        }
        assert_eq!(
            fs::read(dir.path().join("sub/dir/file")).unwrap_or_default(),
            b"below"
        );
    };
    {
        let store = Cache::open(dir.path()).expect("opens");
        assert_whole(&store);
        common::assert_sound(&store);
        for at in 0..500 {
            store
                .set(format!("more/{at}"), vec![1_u8; 300])
                .expect("set");
        }
        assert_left("in use");
        store.close().expect("close");
    }
    // The derived files of the store itself, by name: the foreign ones must stay.
    let own: Vec<String> = {
        let clean = stored();
        names(clean.path())
    };
    for name in own {
        if !common::is_log(&name) {
            let _ = fs::remove_file(dir.path().join(name));
        }
    }
    let store = Cache::open(dir.path()).expect("opens without its maps");
    assert_whole(&store);
    assert_left("rebuilt");
    store.clear().expect("clear");
    assert_left("cleared");
}

#[test]
fn another_stores_segment_is_not_read() {
    for deleted in [false, true] {
        let dir = common::work_dir();
        let store = common::small().open(dir.path()).expect("opens");
        fill(&store);
        for at in 0..600 {
            store
                .set(format!("own/{at}"), vec![2_u8; 300])
                .expect("set");
        }
        let newest = *store
            .segments()
            .expect("segments")
            .iter()
            .max()
            .expect("some");
        store.close().expect("close");
        let other = common::work_dir();
        let store = common::small().open(other.path()).expect("opens");
        store.set("foreign", "value").expect("set");
        store.set("key/1", "foreign value").expect("set");
        store.close().expect("close");
        let segment = |dir: &Path| {
            let mut all = names(dir);
            all.retain(|name| name.ends_with(".seg"));
            all
        };
        let from = segment(other.path()).remove(0);
        let own = segment(dir.path());
        // Under the id that would come next, and as a copy in the place of an own one's successor.
        let width = own[0].len() - ".seg".len();
        for id in [newest + 1, newest + 100] {
            let to = format!("{id:0width$x}.seg");
            if !own.contains(&to) {
                fs::copy(other.path().join(&from), dir.path().join(to)).expect("copied");
            }
        }
        if deleted {
            common::forget_derived(dir.path());
        }
        let store = match Cache::open(dir.path()) {
            Ok(store) => store,
            Err(error) => {
                // Without its maps, a store may refuse what it cannot tell apart.
                assert!(deleted, "{error}");
                assert!(
                    matches!(
                        error,
                        Error::Corrupt { .. } | Error::Unsupported { .. } | Error::NotAStore { .. }
                    ),
                    "{error:?}"
                );
                println!("with a foreign segment and no maps: {error}");
                continue;
            }
        };
        assert_whole(&store);
        assert!(
            store.get("foreign").expect("get").is_none(),
            "a foreign value"
        );
        assert_eq!(store.len().expect("len"), 651);
        for at in 0..600 {
            store
                .set(format!("new/{at}"), vec![3_u8; 300])
                .expect("set");
        }
        assert_whole(&store);
        assert!(
            store.get("foreign").expect("get").is_none(),
            "a foreign value"
        );
    }
}

/// Makes a file's beginning, checksummed as far as `covered`, that of a format `version` with
/// `features`.
fn make_newer(path: &Path, covered: std::ops::Range<usize>, version: u32, features: u32) {
    let mut bytes = fs::read(path).expect("reads");
    let sum = |bytes: &[u8]| crc32fast::hash(&bytes[covered.clone()]).to_le_bytes();
    let at = covered.end..covered.end + 4;
    assert_eq!(
        bytes[at.clone()],
        sum(&bytes),
        "{}: its checksum",
        path.display()
    );
    bytes[8..12].copy_from_slice(&version.to_le_bytes());
    bytes[12..16].copy_from_slice(&features.to_le_bytes());
    let sum = sum(&bytes);
    bytes[at].copy_from_slice(&sum);
    fs::write(path, bytes).expect("written");
}

#[test]
fn a_store_of_a_newer_format_is_refused_and_not_a_byte_changed() {
    for (version, features) in [(2, 0), (u32::MAX, 0), (1, 1 << 31)] {
        for deleted in [false, true] {
            let dir = stored();
            for name in names(dir.path()) {
                let path = dir.path().join(&name);
                match name.as_str() {
                    "larder" => make_newer(&path, 8..48, version, features),
                    name if name.ends_with(".seg") => make_newer(&path, 0..88, version, features),
                    _ => {}
                }
            }
            if deleted {
                common::forget_derived(dir.path());
            }
            let before = picture(dir.path());
            for _ in 0..2 {
                let error = Cache::open(dir.path())
                    .map(|_| ())
                    .expect_err("it is newer");
                let Error::Unsupported { path, .. } = &error else {
                    panic!("{error:?}")
                };
                assert!(path.starts_with(dir.path()), "{}", path.display());
                if version == 2 {
                    println!("newer format, maps deleted: {deleted}: {error}");
                    assert!(
                        error.to_string().contains('2'),
                        "`{error}` names the version"
                    );
                }
                assert_eq!(picture(dir.path()), before, "not one byte changed");
            }
        }
    }
}

/// CRC-32 of a record's bytes as the format seeds it: by store, segment and offset.
fn sum_at(uuid: &[u8], id: u64, at: u64, bytes: &[u8]) -> [u8; 4] {
    let seed = crc32fast::hash(&[uuid, &id.to_le_bytes()].concat());
    let mut sum =
        crc32fast::Hasher::new_with_initial(seed ^ (at as u32 / 8 + 1).wrapping_mul(0x9E37_79B1));
    sum.update(bytes);
    sum.finalize().to_le_bytes()
}

/// Rewrites the record of `key`, which has an expiry and no other option, as one whose value is
/// compressed and claims to be `plain_len` bytes long, all checksums right.
fn claim_compressed(path: &Path, key: &[u8], plain_len: u32) {
    const EXPIRES: u64 = 4 << 8;
    const ZSTD: u64 = 32 << 8;
    let mut file = fs::read(path).expect("reads");
    let uuid = file[16..32].to_vec();
    let id = u64::from_le_bytes(file[32..40].try_into().expect("eight bytes"));
    let key_at = file
        .windows(key.len())
        .position(|window| window == key)
        .expect("the key");
    let at = key_at - 40;
    let shape = u64::from_le_bytes(file[at + 8..at + 16].try_into().expect("eight bytes"));
    assert_eq!(shape >> 8 & 0x7FF, 4, "an expiry and nothing else");
    let end = key_at + key.len() + (shape >> 40) as usize;
    let sum = sum_at(&uuid, id, at as u64, &file[at + 4..end]);
    assert_eq!(file[at..at + 4], sum, "the record as it was written");
    file[at + 8..at + 16].copy_from_slice(&(shape & !EXPIRES | ZSTD).to_le_bytes());
    file[at + 32..at + 40].copy_from_slice(&u64::from(plain_len).to_le_bytes());
    let head = sum_at(&uuid, id, at as u64 + 4, &file[at + 8..key_at]);
    file[at + 4..at + 8].copy_from_slice(&head);
    let sum = sum_at(&uuid, id, at as u64, &file[at + 4..end]);
    file[at..at + 4].copy_from_slice(&sum);
    fs::write(path, file).expect("written");
}

#[test]
fn a_decompression_bomb_is_an_error_and_not_memory() {
    // A quarter of a gibibyte of zeros, in some kilobytes.
    let zeros = std::io::Read::take(std::io::repeat(0), 256 << 20);
    let bomb = zstd::stream::encode_all(zeros, 1).expect("encoded");
    assert!(bomb.len() < 100_000, "{} bytes", bomb.len());
    for plain_len in [0, 600, 1 << 20, (256 << 20) - 1, u32::MAX] {
        let dir = common::work_dir();
        let store = Cache::open(dir.path()).expect("opens");
        let options = SetOptions::default()
            .compress(false)
            .ttl(Duration::from_secs(1_000_000));
        store.set("before", "the bomb").expect("set");
        store
            .set_with("the bomb's key", &bomb, &options)
            .expect("set");
        store.set("after", "the bomb").expect("set");
        store.close().expect("close");
        let segment = names(dir.path())
            .into_iter()
            .find(|name| name.ends_with(".seg"));
        claim_compressed(
            &dir.path().join(segment.expect("one")),
            b"the bomb's key",
            plain_len,
        );
        for deleted in [false, true] {
            if deleted {
                common::forget_derived(dir.path());
            }
            let said = start("bomb-reader", dir.path(), &[]).finish();
            println!("a bomb that claims {plain_len} bytes, maps deleted: {deleted}: {said:?}");
            let peak: u64 = said
                .iter()
                .find_map(|line| line.strip_prefix("peak ")?.parse().ok())
                .expect("the reader measures its memory");
            // A claim that is honest may be believed as far as it goes; one that is not, never.
            assert!(
                peak < 64 << 10,
                "{peak} KiB for a value that claims {plain_len} bytes"
            );
        }
    }
}

fn read_a_bomb(job: &Job) {
    let peak_kib = || -> u64 {
        let status = fs::read_to_string("/proc/self/status").expect("status reads");
        let line = status
            .lines()
            .find(|line| line.starts_with("VmHWM:"))
            .expect("VmHWM");
        line.split_whitespace()
            .nth(1)
            .and_then(|n| n.parse().ok())
            .expect("a number")
    };
    let before = peak_kib();
    let store = Cache::open(&job.store).expect("opens");
    let key = "the bomb's key";
    let error = store.get(key).map(|_| ()).expect_err("a bomb is an error");
    say(&format!("error {error}"));
    assert!(store.get_into(key, &mut Vec::new()).is_err());
    let read = store.get_reader(key).map(|reader| {
        let mut all = Vec::new();
        let reader = std::io::Read::take(reader.expect("there is something"), 300 << 20);
        std::io::Read::read_to_end(&mut { reader }, &mut all).is_ok()
    });
    assert!(
        matches!(read, Err(_) | Ok(false)),
        "a reader read it to the end"
    );
    assert!(store.get_many([key]).is_err());
    let _ = store.get_entry(key).map(|_| ());
    let _ = store.pop(key).map(|_| ());
    for (key, value) in store.iter().expect("iter").flatten() {
        assert_eq!(&value[..], b"the bomb", "{}", String::from_utf8_lossy(&key));
    }
    let _ = store.check();
    for key in ["before", "after"] {
        assert_eq!(
            &store.get(key).expect("get").expect("there")[..],
            b"the bomb"
        );
    }
    say(&format!("peak {}", peak_kib() - before));
}

#[test]
fn settings_that_cannot_be_are_refused_by_name() {
    let dir = common::work_dir();
    let no_level = Compression {
        level: 99,
        min_bytes: 100,
        always: false,
    };
    let refused = [
        ("segment_size", Cache::builder().segment_size_bytes(0)),
        ("segment_size", Cache::builder().segment_size_bytes(1_000)),
        (
            "segment_size",
            Cache::builder().segment_size_bytes(u64::MAX),
        ),
        ("size_limit", Cache::builder().size_limit_bytes(0)),
        ("size_limit", Cache::builder().size_limit_bytes(1_000)),
        ("large_value", Cache::builder().large_value_bytes(0)),
        ("large_value", Cache::builder().large_value_bytes(u64::MAX)),
        ("compression", Cache::builder().compression(no_level)),
    ];
    for (name, builder) in refused {
        let inner = dir.path().join("store");
        let error = builder.open(&inner).map(|_| ()).expect_err(name);
        match &error {
            Error::InvalidSetting { name: found, .. } => {
                assert!(found.contains(name), "{found} instead of {name}");
                assert!(error.to_string().contains(name), "`{error}` names {name}");
            }
            other => panic!("{name}: {other:?}"),
        }
        assert!(!inner.exists(), "{name}: nothing was made");
    }
    let store = Cache::open(dir.path()).expect("opens");
    let before = store.settings().expect("settings");
    let result = store.update_settings(|settings| settings.segment_size_bytes = 7);
    assert!(
        matches!(result, Err(Error::InvalidSetting { .. })),
        "{result:?}"
    );
    let result = store.update_settings(|settings| {
        settings.count_limit = Some(0);
    });
    assert!(
        matches!(result, Err(Error::InvalidSetting { .. })),
        "{result:?}"
    );
    assert_eq!(store.settings().expect("settings"), before);
    // A reopen that asks for nonsense changes nothing either.
    let error = Cache::builder()
        .segment_size_bytes(1)
        .open(dir.path())
        .map(|_| ());
    assert!(
        matches!(error, Err(Error::InvalidSetting { .. })),
        "{error:?}"
    );
    assert_eq!(store.settings().expect("settings"), before);
}

#[test]
fn settings_go_by_name_and_come_back() {
    let dir = common::work_dir();
    let store = Cache::open(dir.path()).expect("opens");
    let settings = store.settings().expect("settings");
    let mut again: Settings = settings.clone();
    for name in Settings::names() {
        let text = settings
            .get_by_name(name)
            .unwrap_or_else(|| panic!("{name} has a value"));
        again
            .set_by_name(name, &text)
            .unwrap_or_else(|error| panic!("{name}={text}: {error}"));
        for nonsense in ["", "12 apples", "-1", "99999999999999999999999"] {
            let result = again.clone().set_by_name(name, nonsense);
            if let Err(error) = result {
                assert!(
                    matches!(error, Error::InvalidSetting { .. }),
                    "{name}={nonsense}: {error:?}"
                );
                assert!(error.to_string().contains(name), "`{error}` names {name}");
            }
        }
        assert!(
            again.clone().set_by_name(name, "12 apples").is_err(),
            "{name}=12 apples"
        );
    }
    assert_eq!(again, settings);
    let error = again
        .set_by_name("colour", "red")
        .expect_err("no such setting");
    assert!(matches!(error, Error::InvalidSetting { .. }), "{error:?}");
    assert!(settings.get_by_name("colour").is_none());
    again
        .set_by_name("size_limit_bytes", "64MiB")
        .expect("a size");
    assert_eq!(again.size_limit_bytes, 64 << 20);
    again.set_by_name("default_ttl", "30s").expect("a duration");
    assert_eq!(again.default_ttl, Some(Duration::from_secs(30)));
    again.set_by_name("default_ttl", "never").expect("never");
    assert_eq!(again.default_ttl, None);
    // The builder sets, and a reopen without it keeps.
    drop(store);
    Cache::builder()
        .size_limit_bytes(64 << 20)
        .open(dir.path())
        .expect("opens");
    let store = Cache::open(dir.path()).expect("opens");
    assert_eq!(
        store.settings().expect("settings").size_limit_bytes,
        64 << 20
    );
}

// ---- limits ----

#[test]
fn a_key_over_the_limit_is_too_large_and_one_at_the_limit_works() {
    let dir = common::work_dir();
    let store = Cache::open(dir.path()).expect("opens");
    let huge = vec![b'k'; 32 << 20];
    let plain = SetOptions::default();
    let error = store.set(&huge, "x").expect_err("32 MiB are no key");
    let Error::TooLarge {
        bytes, max_bytes, ..
    } = error
    else {
        panic!("{error:?}")
    };
    assert_eq!(bytes, 32 << 20);
    assert!(max_bytes >= 64 * 1024, "the limit is {max_bytes}");
    println!("longest key: {max_bytes} bytes; {error}");
    let text = error.to_string();
    assert!(text.contains("key"), "`{text}` says what is too large");
    assert!(
        text.contains(|c: char| c.is_ascii_digit()),
        "`{text}` names the limit"
    );
    let over = &huge[..max_bytes as usize + 1];
    let too_large = |result: Result<(), Error>| {
        assert!(matches!(result, Err(Error::TooLarge { .. })), "{result:?}");
    };
    too_large(store.set(over, "x"));
    too_large(store.add(over, "x", &plain).map(|_| ()));
    too_large(store.set_reader(over, &b"x"[..], &plain).map(|_| ()));
    too_large(store.incr(over, 1, 0).map(|_| ()));
    too_large(store.set_many([(over, "x")], &plain).map(|_| ()));
    too_large(store.transact(|tx| tx.set(over, "x")));
    too_large(
        store
            .compare_and_swap(over, None, Some(b"x"), &plain)
            .map(|_| ()),
    );
    // Asking after what cannot be there is no error, or the same one.
    for result in [
        store.get(over).map(|value| value.is_some()),
        store.contains(over),
        store.delete(over),
        store.touch(over, Expiry::Never),
        store.replace(over, "x", &plain),
    ] {
        assert!(
            matches!(result, Ok(false) | Err(Error::TooLarge { .. })),
            "{result:?}"
        );
    }
    assert_eq!(store.len().expect("len"), 0);
    for len in [64 * 1024, max_bytes as usize] {
        let key = &huge[..len];
        store.set(key, "at the limit").expect("set");
        assert_eq!(
            &store.get(key).expect("get").expect("there")[..],
            b"at the limit"
        );
        assert!(store.get(&key[1..]).expect("get").is_none());
    }
    drop(store);
    common::forget_derived(dir.path());
    let store = Cache::open(dir.path()).expect("opens");
    let value = store
        .get(&huge[..max_bytes as usize])
        .expect("get")
        .expect("there");
    assert_eq!(&value[..], b"at the limit");
}

#[test]
fn too_many_and_too_long_tags_are_too_large() {
    let dir = common::work_dir();
    let store = Cache::open(dir.path()).expect("opens");
    store.set("a", "before").expect("set");
    let long = SetOptions::default().tag(vec![b't'; 32 << 20]);
    let many = SetOptions::default().tags((0..1_000_000).map(|at| format!("tag {at}")));
    for options in [long, many] {
        match store.set_with("a", "tagged", &options) {
            Ok(()) => {
                let entry = store.get_entry("a").expect("get_entry").expect("there");
                assert!(!entry.tags.is_empty());
                store.set("a", "before").expect("set");
            }
            Err(error) => {
                assert!(matches!(error, Error::TooLarge { .. }), "{error:?}");
                assert_eq!(&store.get("a").expect("get").expect("there")[..], b"before");
            }
        }
    }
}

#[test]
fn odd_times_are_no_reason_to_panic() {
    let dir = common::work_dir();
    let store = Cache::open(dir.path()).expect("opens");
    let past = UNIX_EPOCH - Duration::from_secs(3600);
    store
        .set_with("a", "x", &SetOptions::default().expires_at(past))
        .expect("set");
    assert!(store.get("a").expect("get").is_none(), "dead at once");
    store
        .set_with("b", "x", &SetOptions::default().ttl(Duration::ZERO))
        .expect("set");
    assert!(store.get("b").expect("get").is_none(), "dead at once");
    store
        .set_with("c", "x", &SetOptions::default().ttl(Duration::MAX))
        .expect("set");
    assert!(
        store.get("c").expect("get").is_some(),
        "lives practically for ever"
    );
    assert!(
        store
            .touch("c", Expiry::After(Duration::MAX))
            .expect("touch")
    );
    assert!(store.get("c").expect("get").is_some());
    assert!(store.touch("c", Expiry::At(past)).expect("touch"));
    assert!(store.get("c").expect("get").is_none());
    let far = SystemTime::now() + Duration::from_secs(1 << 40);
    store
        .set_with("d", "x", &SetOptions::default().expires_at(far))
        .expect("set");
    let entry = store.get_entry("d").expect("get_entry").expect("there");
    assert!(entry.expires_at.is_none_or(|at| at > SystemTime::now()));
}

#[test]
fn a_full_store_refuses_and_loses_nothing() {
    let dir = common::work_dir();
    let limit = 2 << 20;
    let store = Cache::builder()
        .policy(larder::Policy::None)
        .size_limit_bytes(limit)
        .segment_size_bytes(64 << 10)
        .large_value_bytes(16 << 10)
        .open(dir.path())
        .expect("opens");
    // What can never fit is another matter than what does not fit now.
    let never = store
        .set("never", vec![0_u8; 3 << 20])
        .expect_err("larger than the limit");
    assert!(matches!(never, Error::TooLarge { .. }), "{never:?}");
    let result = store.set_reader("never", std::io::repeat(1), &SetOptions::default());
    assert!(
        matches!(result, Err(Error::TooLarge { .. } | Error::Full { .. })),
        "an endless stream ends with {result:?}"
    );
    let batch = store.transact(|tx| {
        for at in 0..4_000 {
            tx.set(format!("batch/{at}"), vec![0_u8; 1_000])?;
        }
        Ok(())
    });
    assert!(
        matches!(batch, Err(Error::TooLarge { .. } | Error::Full { .. })),
        "{batch:?}"
    );
    assert_eq!(store.len().expect("len"), 0, "nothing of a refused batch");
    let mut stored = Vec::new();
    let error = loop {
        let key = format!("key/{}", stored.len());
        match store.set(&key, vec![stored.len() as u8; 2_000]) {
            Ok(()) => stored.push(key),
            Err(error) => break error,
        }
        assert!(stored.len() < 2_000, "the limit does not hold");
    };
    println!("full after {} entries: {error}", stored.len());
    let Error::Full {
        limit_bytes,
        needed_bytes,
    } = error
    else {
        panic!("{error:?}")
    };
    assert_eq!(limit_bytes, limit);
    assert!(needed_bytes > 0);
    let assert_all = |store: &Cache| {
        for (at, key) in stored.iter().enumerate() {
            let value = store.get(key).expect("get").expect("it was acknowledged");
            assert!(value.len() == 2_000 && value[0] == at as u8);
        }
    };
    assert_all(&store);
    assert!(store.delete("key/0").expect("deletes work on a full store"));
    store
        .set("key/0", vec![0_u8; 2_000])
        .or_else(|_| {
            store.update_settings(|settings| settings.size_limit_bytes = 2 * limit)?;
            store.set("key/0", vec![0_u8; 2_000])
        })
        .expect("with more room it works");
    assert_all(&store);
}

#[test]
fn a_process_with_few_descriptors_gets_errors() {
    let dir = common::work_dir();
    let store = common::small().open(dir.path()).expect("opens");
    fill(&store);
    for at in 0..500 {
        store
            .set(format!("more/{at}"), vec![1_u8; 300])
            .expect("set");
    }
    let mut opened = 0;
    for files in 3..40 {
        let said = start("few-files", dir.path(), &[files]).finish();
        opened += u64::from(said.iter().any(|line| line == "opened"));
    }
    println!("of 37 processes with 3 to 39 descriptors, {opened} could use the store");
    assert!(opened > 0, "forty descriptors are enough for a small store");
    assert_whole(&store);
    common::assert_sound(&store);
}

fn live_with_few_files(job: &Job) {
    let now = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    rustix::process::setrlimit(
        rustix::process::Resource::Nofile,
        rustix::process::Rlimit {
            current: Some(job.args[0]),
            maximum: now.maximum,
        },
    )
    .expect("setrlimit");
    let fine = |error: &Error| matches!(error, Error::Io { .. });
    match Cache::open(&job.store) {
        Ok(store) => {
            let mut good = true;
            let mut note = |result: Result<(), Error>| {
                if let Err(error) = result {
                    good = false;
                    assert!(fine(&error), "{error:?}");
                }
            };
            for at in 0..50 {
                note(store.get(format!("key/{at}")).map(|_| ()));
            }
            note(store.get("large").map(|_| ()));
            note(store.set(format!("files/{}", job.args[0]), "x"));
            note(store.set(format!("large/{}", job.args[0]), vec![1_u8; 10_000]));
            note(
                store
                    .iter()
                    .map(|iter| assert!(iter.take(10).count() <= 10)),
            );
            if good {
                say("opened");
            }
        }
        Err(error) => assert!(fine(&error), "{error:?}"),
    }
}

// ---- damage, in plain words ----

#[test]
fn an_error_about_damage_names_the_file_and_the_rest_is_whole() {
    let dir = stored();
    let segment = names(dir.path())
        .into_iter()
        .find(|name| name.ends_with(".seg"))
        .expect("one");
    let path = dir.path().join(&segment);
    let bytes = fs::read(&path).expect("reads");
    let at = bytes
        .windows(8)
        .position(|window| window == b"value 17")
        .expect("the value is there");
    let file = fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .expect("opens");
    file.write_all_at(b"VALUE", at as u64).expect("written");
    let store = Cache::open(dir.path()).expect("opens");
    let error = store.get("key/17").expect_err("damaged");
    println!("damage: {error}");
    let Error::Corrupt {
        path: named,
        offset,
        ..
    } = &error
    else {
        panic!("{error:?}")
    };
    assert_eq!(named.file_name(), path.file_name());
    assert!(
        *offset <= at as u64 && *offset + 200 > at as u64,
        "offset {offset}, damage at {at}"
    );
    names_it(&error, &path);
    for at in (0..50).filter(|at| *at != 17) {
        assert!(
            store.get(format!("key/{at}")).expect("get").is_some(),
            "key/{at}"
        );
    }
    let report = store.check().expect("check");
    assert!(!report.is_sound());
    assert!(
        report
            .findings
            .iter()
            .any(|finding| finding.path.file_name() == path.file_name())
    );
    // It can be mended by writing it anew.
    store.set("key/17", "value 17").expect("set");
    assert_whole(&store);
}

#[test]
fn a_segments_counters_may_say_anything_and_nobody_panics() {
    const ROW_BYTES: usize = 64;
    const KEYS: usize = 200;
    let round = |store: &Cache, text: &str| {
        (0..KEYS).all(|at| {
            let value = text.repeat(at % 50 + 1);
            store.set(format!("key/{at}"), value).is_ok()
        })
    };
    let dir = common::work_dir();
    let store = common::small().open(dir.path()).expect("opens");
    assert!(round(&store, "before ") && round(&store, "after "));
    store.close().expect("close");
    let files = names(dir.path());
    let table = files.iter().find(|name| name.starts_with("segs."));
    let table = table.expect("a segment table");

    // The first word of a row is the segment's id: another id is another segment, which is told elsewhere.
    let words = (ROW_BYTES..4 * ROW_BYTES)
        .step_by(8)
        .filter(|at| at % ROW_BYTES != 0);
    let (mut cases, mut refused) = (0, 0);
    for (at, wrong) in words.flat_map(|at| [1 << 63, u64::MAX].map(|wrong| (at, wrong))) {
        let copy = common::work_dir();
        for name in &files {
            fs::copy(dir.path().join(name), copy.path().join(name)).expect("a copy");
        }
        let file = fs::OpenOptions::new()
            .write(true)
            .open(copy.path().join(table));
        file.expect("the segment table")
            .write_all_at(&u64::to_le_bytes(wrong), at as u64)
            .expect("written");
        let store = patient(&Cache::open(copy.path()).expect("opens"));
        cases += 1;
        refused += usize::from(!round(&store, "with a wrong counter "));
        store.check().expect("checked");
        for key in 0..KEYS {
            // What can be read is right.
            let Ok(Some(value)) = store.get(format!("key/{key}")) else {
                continue;
            };
            let mut texts = ["before ", "after ", "with a wrong counter "].iter();
            assert!(
                texts.any(|text| text.repeat(key % 50 + 1).as_bytes() == &value[..]),
                "word {at} was {wrong:#x}: key/{key} is {value:?}"
            );
        }
    }
    println!("{cases} wrong words; writes refused after {refused}");
}

#[test]
fn an_error_about_a_cut_segment_names_it_and_what_is_left_reads() {
    let dir = stored();
    let segment = names(dir.path())
        .into_iter()
        .find(|name| name.ends_with(".seg"))
        .expect("one");
    let path = dir.path().join(&segment);
    let bytes = fs::read(&path).expect("reads");
    let at = bytes
        .windows(8)
        .position(|window| window == b"value 30")
        .expect("the value is there");
    common::cut_at(&path, at as u64);
    let store = Cache::open(dir.path()).expect("opens");
    for at in 0..30 {
        let value = store
            .get(format!("key/{at}"))
            .expect("get")
            .expect("before the cut");
        assert_eq!(&value[..], format!("value {at}").as_bytes());
    }
    for at in 30..50 {
        let error = store
            .get(format!("key/{at}"))
            .map(|_| ())
            .expect_err("behind the cut");
        assert!(matches!(error, Error::Corrupt { .. }), "{error:?}");
        names_it(&error, &path);
    }
    let report = store.check().expect("check");
    let named = |path: &Path| path.file_name() == Path::new(&segment).file_name();
    assert!(
        report.findings.iter().any(|finding| named(&finding.path)),
        "{report:?}"
    );
    // And it goes on.
    for at in 30..50 {
        store
            .set(format!("key/{at}"), format!("value {at}"))
            .expect("set");
    }
    for at in 0..50 {
        let value = store
            .get(format!("key/{at}"))
            .expect("get")
            .expect("there again");
        assert_eq!(&value[..], format!("value {at}").as_bytes());
    }
}

// ---- mounts ----

/// A small filesystem of its own, unmounted at the end.
struct Mount(tempfile::TempDir);

impl Mount {
    fn new(kind: &str, options: &str) -> Option<Mount> {
        let dir = common::work_dir();
        let mut command = Command::new("mount");
        command.args(["-t", kind]);
        if !options.is_empty() {
            command.args(["-o", options]);
        }
        let output = command.arg("larder-test").arg(dir.path()).output();
        match output {
            Ok(output) if output.status.success() => Some(Mount(dir)),
            Ok(output) => {
                println!(
                    "skipped: no {kind}: {}",
                    String::from_utf8_lossy(&output.stderr).trim()
                );
                None
            }
            Err(error) => {
                println!("skipped: no mount command: {error}");
                None
            }
        }
    }

    fn remount(&self, options: &str) -> bool {
        Command::new("mount")
            .args(["-o", &format!("remount,{options}")])
            .arg(self.0.path())
            .status()
            .is_ok_and(|status| status.success())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("store")
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_an_error_and_nothing_is_lost() {
    let Some(mount) = Mount::new("tmpfs", "size=3m") else {
        return;
    };
    let store = common::small().open(mount.path()).expect("opens");
    let mut stored = Vec::new();
    let mut dice = Dice::new(common::seed("full disk"));
    let error = loop {
        let key = format!("key/{}", stored.len());
        let len = if dice.one_in(20) { 30_000 } else { 1_000 };
        match store.set(&key, vec![stored.len() as u8; len]) {
            Ok(()) => stored.push((key, len)),
            Err(error) => break error,
        }
        assert!(stored.len() < 4_000, "the disk has 3 MiB");
    };
    println!("disk full after {} entries: {error}", stored.len());
    let Error::NoSpace { path, .. } = &error else {
        panic!("{error:?}")
    };
    assert!(
        path.starts_with(mount.path()),
        "{} is in the store",
        path.display()
    );
    let whole = |store: &Cache, from: usize| {
        for (at, (key, len)) in stored.iter().enumerate().skip(from) {
            let value = store.get(key).expect("get").expect("it was acknowledged");
            assert!(value.len() == *len && value[0] == at as u8, "{key}");
        }
    };
    whole(&store, 0);
    // What else is tried on a full disk: an error each time, and no change.
    let plain = SetOptions::default();
    for _ in 0..20 {
        let results = [
            store.set("big", vec![1_u8; 200_000]),
            store
                .set_reader(
                    "big",
                    std::io::Read::take(std::io::repeat(1), 200_000),
                    &plain,
                )
                .map(|_| ()),
            store.transact(|tx| {
                (0..500).try_for_each(|at| tx.set(format!("batch/{at}"), vec![1_u8; 1_000]))
            }),
            store
                .set_many(
                    (0..500).map(|at| (format!("batch/{at}"), vec![1_u8; 1_000])),
                    &plain,
                )
                .map(|_| ()),
        ];
        for result in results {
            assert!(matches!(result, Err(Error::NoSpace { .. })), "{result:?}");
        }
        assert!(store.get("big").expect("get").is_none());
        assert!(store.get("batch/0").expect("get").is_none());
    }
    let left = names(&mount.path())
        .into_iter()
        .filter(|name| name.ends_with(".tmp"))
        .count();
    assert_eq!(left, 0, "unfinished streams are removed");
    assert_eq!(store.len().expect("len"), stored.len() as u64);
    // A second process could come now; a new store could not.
    let second = Cache::open(mount.path()).expect("a full disk is no reason not to open");
    whole(&second, 0);
    let error = Cache::open(mount.path().with_file_name("another"))
        .map(|_| ())
        .expect_err("no room");
    assert!(matches!(error, Error::NoSpace { .. }), "{error:?}");
    for (key, _) in &stored[..50] {
        assert!(
            store.delete(key).expect("deletes work on a full disk"),
            "{key}"
        );
    }
    whole(&second, 50);
    common::assert_sound(&store);
    // Rebuilt from the log on a full disk: it works, or says that there is no space.
    drop((store, second));
    common::forget_derived(&mount.path());
    match Cache::open(mount.path()) {
        Ok(store) => whole(&store, 50),
        Err(error) => assert!(matches!(error, Error::NoSpace { .. }), "{error:?}"),
    }
    assert!(mount.remount("size=12m"), "the disk grows");
    let store = Cache::open(mount.path()).expect("opens");
    whole(&store, 50);
    assert!(
        !store.contains("key/0").expect("contains"),
        "a deleted key stays away"
    );
    store
        .set("big", vec![1_u8; 200_000])
        .expect("there is space again");
    store.set("small", "x").expect("set");
    common::assert_sound(&store);
}

#[test]
fn space_that_appears_is_used_without_reopening() {
    let Some(mount) = Mount::new("tmpfs", "size=2m") else {
        return;
    };
    let store = common::small().open(mount.path()).expect("opens");
    let fill = |from: u64| {
        for at in from..from + 20_000 {
            match store.set(format!("key/{at}"), vec![at as u8; 500]) {
                Ok(()) => {}
                Err(Error::NoSpace { .. }) => return at,
                Err(other) => panic!("{other}"),
            }
        }
        panic!("the disk is never full");
    };
    let first = fill(0);
    assert!(mount.remount("size=4m"), "the disk grows");
    let second = fill(first);
    assert!(second > first + 1_000, "{first}, then {second}");
    for at in 0..second {
        let value = store
            .get(format!("key/{at}"))
            .expect("get")
            .expect("acknowledged");
        assert_eq!(value[0], at as u8);
    }
    println!("{first} entries in 2 MiB, {second} in 4 MiB, without reopening");
}

#[test]
fn a_read_only_disk_is_an_error_that_names_the_directory() {
    let Some(mount) = Mount::new("tmpfs", "size=8m") else {
        return;
    };
    let store = common::small().open(mount.path()).expect("opens");
    fill(&store);
    store.close().expect("close");
    let before = picture(&mount.path());
    assert!(mount.remount("ro"), "remounted read-only");
    let error = Cache::open(mount.path())
        .map(|_| ())
        .expect_err("a read-only disk");
    println!("read-only: {error}");
    assert!(matches!(error, Error::Io { .. }), "{error:?}");
    names_it(&error, &mount.path());
    let error = Cache::open(mount.path().with_file_name("new"))
        .map(|_| ())
        .expect_err("read-only");
    assert!(matches!(error, Error::Io { .. }), "{error:?}");
    assert_eq!(picture(&mount.path()), before);
    assert!(mount.remount("rw"), "remounted");
    assert_whole(&Cache::open(mount.path()).expect("opens"));
}

#[test]
fn a_directory_that_takes_no_new_files_is_an_error() {
    let dir = common::work_dir();
    let frozen = Frozen::new(dir.path());
    if frozen.is_none() {
        println!("skipped: a directory cannot be made immutable here");
        return;
    }
    let inner = dir.path().join("store");
    let error = Cache::open(&inner)
        .map(|_| ())
        .expect_err("nothing can be made there");
    println!("unwritable: {error}");
    assert!(matches!(error, Error::Io { .. }), "{error:?}");
    names_it(&error, &inner);
    drop(frozen);
    let store = common::small().open(&inner).expect("opens");
    fill(&store);
    let frozen = Frozen::new(&inner).expect("it worked before");
    // It can be read, and written until a new file is needed.
    assert_whole(&store);
    let error = (0..2_000)
        .find_map(|at| store.set(format!("more/{at}"), vec![1_u8; 1_000]).err())
        .expect("a new segment cannot be made");
    assert!(matches!(error, Error::Io { .. }), "{error:?}");
    assert!(store.set("large/2", vec![1_u8; 10_000]).is_err());
    assert_whole(&store);
    drop(frozen);
    store.set("again", vec![1_u8; 10_000]).expect("works again");
    assert_whole(&store);
    common::assert_sound(&store);
}

/// A directory in which nothing can be made or removed, as long as this lives.
struct Frozen(PathBuf);

impl Frozen {
    fn new(dir: &Path) -> Option<Frozen> {
        let output = Command::new("chattr").arg("+i").arg(dir).output().ok()?;
        let frozen = Frozen(dir.to_path_buf());
        if !output.status.success() || fs::write(dir.join("probe"), "").is_ok() {
            let _ = fs::remove_file(dir.join("probe"));
            return None;
        }
        Some(frozen)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = Command::new("chattr").arg("-i").arg(&self.0).output();
    }
}

#[test]
fn a_filesystem_that_is_not_known_is_refused_unless_asked_for() {
    let Some(mount) = Mount::new("ramfs", "") else {
        return;
    };
    let error = Cache::open(mount.path())
        .map(|_| ())
        .expect_err("ramfs is not known");
    println!("ramfs: {error}");
    assert!(matches!(error, Error::Unsupported { .. }), "{error:?}");
    assert!(names(mount.0.path()).is_empty(), "nothing was made");
    // Asked for, it works if the filesystem can do what is needed at all: this one reserves no space.
    match Cache::builder()
        .allow_any_filesystem(true)
        .open(mount.path())
    {
        Ok(store) => use_alone(&store),
        Err(error) => {
            println!("ramfs, asked for: {error}");
            assert!(
                matches!(error, Error::Io { .. } | Error::Unsupported { .. }),
                "{error:?}"
            );
        }
    }
    // For one exclusive process, whatever the filesystem: another handle is another process.
    let dir = common::work_dir();
    let store = Cache::builder()
        .allow_any_filesystem(true)
        .lock_timeout(Some(Duration::from_millis(300)))
        .open(dir.path())
        .expect("asked for");
    use_alone(&store);
    drop(store);
    common::assert_sound(&Cache::open(dir.path()).expect("the next one may"));
}

/// Uses a store nobody else may open meanwhile.
fn use_alone(store: &Cache) {
    store.set("a", "b").expect("set");
    assert_eq!(&store.get("a").expect("get").expect("there")[..], b"b");
    for ask in [true, false] {
        let other = Cache::builder()
            .allow_any_filesystem(ask)
            .lock_timeout(Some(Duration::from_millis(300)))
            .open(store.path());
        let refused = matches!(other, Err(Error::Busy { .. } | Error::Unsupported { .. }));
        assert!(refused, "asked for: {ask}: {:?}", other.map(|_| ()));
    }
}
