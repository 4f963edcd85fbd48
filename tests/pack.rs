//! What was packed comes out again, and a file that is not what was packed changes nothing.
//!
//! Knows the layout of a packed file, to make bad ones whose checksums are right.

mod common;

use std::io::{Cursor, Read, Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use common::{Dice, Job, leave, picture, say, start};
use larder::{
    Cache, Error, ManualClock, Number, PackChoice, PackReport, SetOptions, UnpackOptions,
    UnpackProgress, UnpackReport, ValueKind,
};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// Where a worker process begins; for the test itself there is nothing to do.
#[test]
fn role_entry() {
    let Some(job) = common::job() else { return };
    match job.role.as_str() {
        "packer" => pack_and_unpack_in_little_memory(&job),
        "bomb-reader" => read_bombs(&job),
        other => panic!("no such role: {other}"),
    }
    leave()
}

fn packed(store: &Cache) -> Vec<u8> {
    packed_choice(store, &PackChoice::default()).0
}

fn packed_choice(store: &Cache, choice: &PackChoice) -> (Vec<u8>, PackReport) {
    let mut file = Vec::new();
    let report = store.pack(&mut file, choice).expect("pack");
    assert_eq!(report.file_bytes, file.len() as u64);
    let verified = UnpackOptions::default()
        .verify(Cursor::new(&file))
        .expect("what was packed is whole");
    assert_eq!(verified, report);
    (file, report)
}

fn unpack(store: &Cache, file: &[u8]) -> larder::Result<UnpackReport> {
    store.unpack(Cursor::new(file))
}

/// All that a packed file keeps of an entry.
#[derive(Clone, Debug, PartialEq)]
struct Kept {
    key: Vec<u8>,
    value: Vec<u8>,
    kind: ValueKind,
    tags: Vec<Vec<u8>>,
    expires_at: Option<std::time::SystemTime>,
}

fn entries(store: &Cache) -> Vec<Kept> {
    let keys = store.keys().expect("keys");
    keys.map(|key| {
        let key = key.expect("a key");
        let entry = store.get_entry(&key).expect("get").expect("there");
        Kept {
            key,
            value: entry.value.into_vec(),
            kind: entry.kind,
            tags: entry.tags,
            expires_at: entry.expires_at,
        }
    })
    .collect()
}

fn keys(store: &Cache) -> Vec<String> {
    let keys = store.keys().expect("keys");
    keys.map(|key| String::from_utf8_lossy(&key.expect("a key")).into_owned())
        .collect()
}

/// One of each: every kind, lengths around every limit, expiry, tags, compressed and not.
fn fill(store: &Cache) {
    let plain = SetOptions::default();
    let hour = SetOptions::default().ttl(Duration::from_secs(3_600));
    store.set("", "the empty key").expect("set");
    store.set("empty", "").expect("set");
    store
        .set_with([b'k'; larder::KEY_LEN_MAX], "longest key", &plain)
        .expect("set");
    store.set_with("hour", "v", &hour).expect("set");
    for len in [1, 31, 32, 4_095, 4_096, 4_097, 70_000, 1_500_000] {
        let value = Dice::new(len as u64).bytes(len);
        let tagged = SetOptions::default().tag(format!("len-{len}")).tag("sized");
        store
            .set_with(format!("len/{len}"), value, &tagged)
            .expect("set");
    }
    for (name, kind) in [
        ("text", ValueKind::Text),
        ("typed", ValueKind::Typed(0)),
        ("typed, highest", ValueKind::Typed(larder::CODEC_ID_MAX)),
    ] {
        store
            .set_with(name, "a value", &plain.clone().kind(kind))
            .expect("set");
    }
    let long_text = "text and more text; ".repeat(20_000);
    store
        .set_with(
            "large text",
            &long_text,
            &plain.clone().kind(ValueKind::Text),
        )
        .expect("set");
    for compress in [true, false] {
        store
            .set_with(
                format!("compress {compress}"),
                &long_text[..3_000],
                &plain.clone().compress(compress),
            )
            .expect("set");
    }
    for (name, number) in [
        ("least", Number::from(i64::MIN)),
        ("most", i64::MAX.into()),
        ("zero", 0_i64.into()),
        ("tenth", 0.1.into()),
        ("minus zero", (-0.0).into()),
        ("infinite", f64::INFINITY.into()),
        ("least float", 5e-324.into()),
        ("no number", f64::NAN.into()),
    ] {
        store
            .set_number(name, number, &hour.clone().tag("number"))
            .expect("set_number");
    }
    let tags = (0..larder::TAGS_MAX).map(|at| format!("{at:0>width$}", width = at % 100));
    store
        .set_with("many tags", "v", &plain.clone().tags(tags))
        .expect("set");
    store
        .set_with(
            "long tag",
            "v",
            &plain.tag([b't'; larder::TAG_LEN_MAX]).tag(""),
        )
        .expect("set");
}

// ---- what was packed comes out again ----

#[test]
fn everything_about_an_entry_comes_back_whatever_the_settings_of_both_stores() {
    let (small, roomy) = (common::work_dir(), common::work_dir());
    let stores = [
        common::small().open(small.path()).expect("opens"),
        Cache::builder()
            .default_ttl(Some(Duration::from_secs(1)))
            .open(roomy.path())
            .expect("opens"),
    ];
    for from in &stores {
        let dir = common::work_dir();
        let filled = Cache::builder()
            .large_value_bytes(from.settings().expect("settings").large_value_bytes)
            .open(dir.path())
            .expect("opens");
        fill(&filled);
        let before = entries(&filled);
        let file = packed(&filled);
        for to in &stores {
            to.clear().expect("clear");
            let report = unpack(to, &file).expect("unpack");
            assert_eq!(entries(to), before);
            assert_eq!(report.entries, before.len() as u64);
            assert_eq!((report.replaced, report.expired), (0, 0));
            common::assert_sound(to);
            assert_eq!(to.incr("zero", 5, 0).expect("incr"), Number::Int(5));
        }
    }
}

#[test]
fn a_compressed_value_stays_compressed_and_a_plain_one_plain() {
    let (from, to) = (
        Cache::temporary().expect("opens"),
        Cache::temporary().expect("opens"),
    );
    let value = "again and ".repeat(5_000);
    for at in 0..20 {
        let compressed = SetOptions::default().compress(true);
        from.set_with(format!("{at}"), &value, &compressed)
            .expect("set");
    }
    unpack(&to, &packed(&from)).expect("unpack");
    let volume = to.volume().expect("volume");
    assert_eq!(volume, from.volume().expect("volume"));
    assert!(volume < value.len() as u64, "{volume}");
}

#[test]
fn the_same_entries_give_the_same_bytes() {
    let clock = Arc::new(ManualClock::new(1_700_000_000_000));
    let file = || {
        let dir = common::work_dir();
        let store = common::small()
            .clock(clock.clone())
            .open(dir.path())
            .expect("opens");
        fill(&store);
        let twice = [packed(&store), packed(&store)];
        assert!(twice[0] == twice[1]);
        packed(&store)
    };
    assert!(file() == file());
}

#[test]
fn an_empty_store_is_a_file_too() {
    let (from, to) = (
        Cache::temporary().expect("opens"),
        Cache::temporary().expect("opens"),
    );
    to.set("k", "v").expect("set");
    let (file, report) = packed_choice(&from, &PackChoice::default());
    assert_eq!((report.entries, report.value_bytes), (0, 0));
    assert_eq!(unpack(&to, &file).expect("unpack"), UnpackReport::default());
    assert_eq!(keys(&to), ["k"]);
}

#[test]
fn tags_and_a_prefix_choose() {
    let store = Cache::temporary().expect("opens");
    let tagged = |tags: &[&str]| SetOptions::default().tags(tags);
    store.set_with("a/1", "v", &tagged(&["x"])).expect("set");
    store
        .set_with("a/2", "v", &tagged(&["x", "y"]))
        .expect("set");
    store
        .set_with("b/1", "v", &tagged(&["y", "x"]))
        .expect("set");
    store.set("a/3", "v").expect("set");
    store.set_with("a/gone", "v", &tagged(&["x"])).expect("set");
    store.delete("a/gone").expect("delete");
    let chosen = |choice: PackChoice| {
        let to = Cache::temporary().expect("opens");
        unpack(&to, &packed_choice(&store, &choice).0).expect("unpack");
        keys(&to)
    };
    let all = PackChoice::default;
    assert_eq!(chosen(all()), ["a/1", "a/2", "b/1", "a/3"]);
    assert_eq!(chosen(all().tag("x")), ["a/1", "a/2", "b/1"]);
    assert_eq!(chosen(all().prefix("a/")), ["a/1", "a/2", "a/3"]);
    assert_eq!(chosen(all().prefix("a/").tag("x")), ["a/1", "a/2"]);
    assert_eq!(chosen(all().tag("x").tag("y")), ["a/2", "b/1"]);
    assert_eq!(chosen(all().tag("z")), [""; 0]);
    assert_eq!(chosen(all().prefix("a/1").tag("y")), [""; 0]);
}

#[test]
fn an_entry_that_is_there_is_overwritten_and_keeps_its_place() {
    let (from, to) = (
        Cache::temporary().expect("opens"),
        Cache::temporary().expect("opens"),
    );
    from.set_with("b", "new", &SetOptions::default().tag("new"))
        .expect("set");
    from.set("c", "new").expect("set");
    for key in ["a", "b"] {
        to.set_with(key, "old", &SetOptions::default().tag("old"))
            .expect("set");
    }
    let report = unpack(&to, &packed(&from)).expect("unpack");
    assert_eq!((report.entries, report.replaced), (2, 1));
    assert_eq!(keys(&to), ["a", "b", "c"]);
    let entry = to.get_entry("b").expect("get").expect("there");
    assert_eq!(
        (&*entry.value, entry.tags),
        (&b"new"[..], vec![b"new".to_vec()])
    );
    assert_eq!(to.get("a").expect("get").as_deref(), Some(&b"old"[..]));
}

#[test]
fn what_has_expired_is_left_out_on_both_sides() {
    let clock = Arc::new(ManualClock::new(1_700_000_000_000));
    let open = |dir: &tempfile::TempDir| {
        common::small()
            .clock(clock.clone())
            .open(dir.path())
            .expect("opens")
    };
    let (dirs, seconds) = (
        [common::work_dir(), common::work_dir()],
        Duration::from_secs,
    );
    let (from, to) = (open(&dirs[0]), open(&dirs[1]));
    for (key, ttl_s, len) in [
        ("1s", 1, 3),
        ("10s", 10, 3),
        ("10s large", 10, 9_000),
        ("1h", 3_600, 3),
    ] {
        let options = SetOptions::default().ttl(seconds(ttl_s));
        from.set_with(key, vec![7; len], &options).expect("set");
    }
    to.set("10s", "stays").expect("set");
    clock.advance(seconds(5));
    let (file, report) = packed_choice(&from, &PackChoice::default());
    assert_eq!(report.entries, 3);
    clock.advance(seconds(5));
    let report = unpack(&to, &file).expect("unpack");
    assert_eq!(
        (report.entries, report.expired, report.value_bytes),
        (1, 2, 3)
    );
    assert_eq!(keys(&to), ["10s", "1h"]);
    assert_eq!(to.get("10s").expect("get").as_deref(), Some(&b"stays"[..]));
    // The expiry is the moment it was, not a span from now.
    clock.advance(seconds(3_590));
    assert_eq!(keys(&to), ["10s"]);
}

#[test]
fn random_stores_come_back() {
    let mut dice = Dice::new(common::seed("random packs"));
    for round in 0..20 {
        let (dir, to) = (common::fast_dir(), common::fast_dir());
        let from = common::small().open(dir.path()).expect("opens");
        let to = common::small().open(to.path()).expect("opens");
        for _ in 0..dice.below(3_000) {
            let key = format!("{}", dice.below(2_000));
            let len = if dice.one_in(100) { 10_000 } else { 600 };
            let value = dice.below(len) as usize;
            let value = dice.bytes(value);
            let mut options = SetOptions::default();
            if dice.one_in(3) {
                options = options.tag(format!("tag-{}", dice.below(50)));
            }
            if dice.one_in(10) {
                from.delete(&key).expect("delete");
            } else {
                from.set_with(&key, value, &options).expect("set");
            }
        }
        let report = unpack(&to, &packed(&from)).expect("unpack");
        assert_eq!(report.entries, from.len().expect("len"), "round {round}");
        assert!(entries(&to) == entries(&from), "round {round}");
        common::assert_sound(&to);
    }
}

#[test]
fn a_pack_may_stand_anywhere_in_a_file_to_its_end() {
    let (from, to) = (
        Cache::temporary().expect("opens"),
        Cache::temporary().expect("opens"),
    );
    from.set("k", "v").expect("set");
    let mut file = Cursor::new([b"a word before".to_vec(), packed(&from)].concat());
    file.set_position(13);
    to.unpack(&mut file).expect("unpack");
    assert_eq!(keys(&to), ["k"]);
}

#[test]
fn who_watches_sees_it_go_on_and_may_stop_it() {
    let (from, to) = (
        Cache::temporary().expect("opens"),
        Cache::temporary().expect("opens"),
    );
    for at in 0..3_000 {
        from.set(format!("{at}"), "v").expect("set");
    }
    let mut file = Vec::new();
    let mut last = 0;
    let report = from
        .pack_with(&mut file, &PackChoice::default(), |now| {
            assert!(now.entries >= last);
            last = now.entries;
            ControlFlow::Continue(())
        })
        .expect("pack");
    assert_eq!(last, report.entries);
    let stopped = from.pack_with(Vec::new(), &PackChoice::default(), |_| {
        ControlFlow::Break(())
    });
    assert!(matches!(stopped, Err(Error::Aborted { .. })), "{stopped:?}");

    let mut seen = UnpackProgress::default();
    let options = UnpackOptions::default();
    let mut watch = |now: &UnpackProgress, stop_at: u64| {
        assert!(now.read_bytes >= seen.read_bytes && now.entries >= seen.entries);
        assert!(now.is_verified || now.entries == 0);
        assert!(now.read_bytes <= now.read_bytes_max);
        seen = *now;
        if now.entries >= stop_at {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    let stopped = to.unpack_with(Cursor::new(&file), &options, |now| watch(now, 1));
    assert!(matches!(stopped, Err(Error::Aborted { .. })), "{stopped:?}");
    assert_eq!(to.len().expect("len"), seen.entries);
    seen = UnpackProgress::default();
    let mut watch = |now: &UnpackProgress| {
        seen = *now;
        ControlFlow::Continue(())
    };
    to.unpack_with(Cursor::new(&file), &options, &mut watch)
        .expect("unpack");
    assert_eq!(
        (seen.entries, seen.read_bytes),
        (3_000, seen.read_bytes_max)
    );
    common::assert_sound(&to);
}

#[test]
fn neither_verb_waits_for_its_own_transaction() {
    let store = Cache::temporary().expect("opens");
    store.set("k", "v").expect("set");
    let file = packed(&store);
    store
        .transact(|tx| {
            tx.set("later", "v")?;
            assert!(packed(&store) == file, "packing sees the state before");
            let refused = unpack(&store, &file);
            assert!(matches!(refused, Err(Error::Aborted { .. })), "{refused:?}");
            Ok(())
        })
        .expect("transact");
}

// ---- files that are not what was packed ----

/// A store with something in it, open, and a picture of its directory.
struct Target {
    dir: tempfile::TempDir,
    store: Cache,
    before: Vec<(std::path::PathBuf, Vec<u8>)>,
}

impl Target {
    fn new() -> Target {
        let dir = common::fast_dir();
        let store = common::small()
            .size_limit_bytes(64 * MIB)
            .open(dir.path())
            .expect("opens");
        store.set("mine", "before").expect("set");
        let before = picture(dir.path());
        Target { dir, store, before }
    }

    /// Unpacks what has to be refused.
    #[track_caller]
    fn refuse(&self, file: &[u8]) -> Error {
        let refused = unpack(&self.store, file);
        assert_eq!(self.store.len().expect("len"), 1);
        match refused {
            Err(error) => error,
            Ok(report) => panic!("{report:?}"),
        }
    }

    #[track_caller]
    fn refuse_as_damaged(&self, file: &[u8], word: &str) {
        let error = self.refuse(file);
        assert!(matches!(error, Error::DamagedPack { .. }), "{error}");
        assert!(
            error.to_string().contains(word),
            "{word:?} is not in: {error}"
        );
    }

    #[track_caller]
    fn assert_unchanged(&self) {
        assert!(
            picture(self.dir.path()) == self.before,
            "a file has changed"
        );
    }
}

/// Three little entries, one with a tag and an expiry, as a packed file.
fn little() -> Vec<u8> {
    let store = Cache::temporary().expect("opens");
    let options = SetOptions::default()
        .tag("t")
        .ttl(Duration::from_secs(1_000_000));
    store.set_with("tagged", "value", &options).expect("set");
    store.set("mine", "another").expect("set");
    store
        .set_number("n", 7, &SetOptions::default())
        .expect("set");
    packed(&store)
}

#[test]
fn every_cut_is_refused() {
    let (target, file) = (Target::new(), little());
    for cut in 0..file.len() {
        let error = target.refuse(&file[..cut]);
        assert!(
            matches!(error, Error::DamagedPack { .. }),
            "cut at {cut}: {error}"
        );
    }
    target.assert_unchanged();
}

#[test]
fn every_flipped_bit_is_refused() {
    let (target, file) = (Target::new(), little());
    for bit in 0..file.len() * 8 {
        let mut flipped = file.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let error = target.refuse(&flipped);
        assert!(
            matches!(error, Error::DamagedPack { .. }),
            "bit {bit}: {error}"
        );
    }
    target.assert_unchanged();
}

#[test]
fn every_flipped_bit_of_the_stream_is_refused_even_with_a_right_file_checksum() {
    let target = Target::new();
    let whole = Pack::little().stream;
    for bit in 0..whole.len() * 8 {
        let mut stream = whole.clone();
        stream[bit / 8] ^= 1 << (bit % 8);
        let error = target.refuse(&file_of(&zstd_of(&stream)));
        assert!(
            matches!(error, Error::DamagedPack { .. }),
            "bit {bit}: {error}"
        );
    }
    target.assert_unchanged();
}

#[test]
fn every_cut_of_the_stream_is_refused_even_with_a_right_file_checksum() {
    let target = Target::new();
    let whole = Pack::little().stream;
    for cut in 0..whole.len() {
        target.refuse_as_damaged(&file_of(&zstd_of(&whole[..cut])), "ends before its end");
    }
    target.assert_unchanged();
}

#[test]
fn what_is_no_packed_file_is_told_so() {
    let target = Target::new();
    for file in [
        &b"PK\x03\x04 some archive of another kind"[..],
        b"x",
        &[0; 4_096],
        "larder.q and so on and so on".as_bytes(),
    ] {
        target.refuse_as_damaged(file, "does not begin as a packed file");
    }
    target.refuse_as_damaged(b"", "inside its head");
    target.refuse_as_damaged(&file_of(b""), "cut short");
    target.refuse_as_damaged(&file_of(b"not zstd, whatever it is"), "zstd");
    let named = UnpackOptions::default().name("/some/where.larder");
    let error = named.verify(Cursor::new(b"x")).expect_err("refused");
    assert!(error.to_string().contains("/some/where.larder"), "{error}");
    target.assert_unchanged();
}

#[test]
fn a_newer_version_and_unknown_features_are_named() {
    let target = Target::new();
    let with = |at: usize, word: u32| {
        let mut file = little();
        file[at..at + 4].copy_from_slice(&word.to_le_bytes());
        let crc = crc32fast::hash(&file[..16]);
        file[16..20].copy_from_slice(&crc.to_le_bytes());
        target.refuse(&reseal(file))
    };
    for (error, word) in [
        (with(8, 2), "version 2"),
        (with(12, 1 << 5), "feature bit 5"),
    ] {
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains(word), "{error}");
    }
    target.assert_unchanged();
}

#[test]
fn nothing_may_follow_the_end() {
    let target = Target::new();
    let whole = Pack::little();
    for more in [&b"x"[..], &little(), &[0; 100_000]] {
        target.refuse_as_damaged(&[&little()[..], more].concat(), "follow its end");
        let goes_on = [&whole.stream[..], more].concat();
        target.refuse_as_damaged(&file_of(&zstd_of(&goes_on)), "goes on after its end");
        let second = [zstd_of(&whole.stream), zstd_of(more)].concat();
        target.refuse_as_damaged(&file_of(&second), "follow its end");
    }
    target.assert_unchanged();
}

#[test]
fn lengths_and_counts_that_lie_are_refused() {
    let target = Target::new();
    let refused = |pack: Pack| target.refuse(&pack.file());
    for (claimed, word) in [
        (
            Claim {
                key_len: 65_537,
                ..Claim::default()
            },
            "key",
        ),
        (
            Claim {
                key_len: u32::MAX,
                ..Claim::default()
            },
            "key",
        ),
        (
            Claim {
                tags_len: u32::MAX,
                ..Claim::default()
            },
            "tags",
        ),
        (
            Claim {
                value_len: u64::MAX,
                ..Claim::default()
            },
            "value",
        ),
        (
            Claim {
                value_len: 64 * MIB + 1,
                ..Claim::default()
            },
            "value",
        ),
    ] {
        let error = refused(Pack::new().claim(claimed, b"key", b"", b"value").end());
        assert!(matches!(error, Error::TooLarge { .. }), "{error}");
        assert!(error.to_string().contains(word), "{error}");
    }
    let tag_lens = |lens: &[u16]| -> Vec<u8> {
        lens.iter()
            .flat_map(|len| [&len.to_le_bytes()[..], &vec![b't'; usize::from(*len)]].concat())
            .collect()
    };
    for tags in [tag_lens(&[1_025]), tag_lens(&[0; 1_001])] {
        let error = refused(Pack::new().entry(b"key", &tags, b"value").end());
        assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    }
    for (tags, word) in [
        (&[1][..], "inside a length"),
        (&[9, 0, b't'], "inside a tag"),
    ] {
        target.refuse_as_damaged(&Pack::new().entry(b"key", tags, b"").end().file(), word);
    }
    for value_kind in [2, 3] {
        let claim = Claim {
            value_kind,
            value_len: 5,
            key_len: 3,
            ..Claim::default()
        };
        let file = Pack::new().claim(claim, b"key", b"", b"12345").end().file();
        target.refuse_as_damaged(&file, "a number has 8 bytes");
    }
    let flags = Claim {
        flags: 4,
        key_len: 3,
        ..Claim::default()
    };
    target.refuse_as_damaged(
        &Pack::new().claim(flags, b"key", b"", b"").end().file(),
        "flags",
    );
    let frame = Claim {
        frame: 9,
        ..Claim::default()
    };
    target.refuse_as_damaged(
        &Pack::new().claim(frame, b"", b"", b"").end().file(),
        "no frame 9",
    );
    let one = || Pack::new().entry(b"key", b"", b"value");
    for end in [
        one().end_saying(2, 5, 0),
        one().end_saying(1, 6, 0),
        one().end_saying(1, 5, 1),
    ] {
        target.refuse_as_damaged(&end.file(), "its end does not fit");
    }
    target.refuse_as_damaged(&one().file(), "ends before its end");
    let mut wrong_body = one();
    let last = wrong_body.stream.len() - 1;
    wrong_body.stream[last] ^= 1;
    target.refuse_as_damaged(&wrong_body.end().file(), "not what was written");
    target.assert_unchanged();
    // The tools above do make good files.
    assert_eq!(
        unpack(&target.store, &one().end().file())
            .expect("unpack")
            .entries,
        1
    );
}

#[test]
fn a_key_that_comes_twice_has_its_last_value() {
    let store = Cache::temporary().expect("opens");
    let file = Pack::new()
        .entry(b"k", b"", b"one")
        .entry(b"k", b"", b"two")
        .end()
        .file();
    unpack(&store, &file).expect("unpack");
    assert_eq!(store.get("k").expect("get").as_deref(), Some(&b"two"[..]));
    common::assert_sound(&store);
}

#[test]
fn a_file_that_changes_while_it_is_read_stores_nothing_nobody_packed() {
    let from = Cache::temporary().expect("opens");
    from.set("k", "the value").expect("set");
    from.set("large", vec![1_u8; 10_000]).expect("set");
    let file = packed(&from);
    let other = {
        from.set("large", vec![2_u8; 10_000]).expect("set");
        let mut other = packed(&from);
        let middle = other.len() - 30;
        other[middle] ^= 1;
        other
    };
    let dir = common::work_dir();
    let to = common::small().open(dir.path()).expect("opens");
    let refused = to.unpack(Changing {
        first: Cursor::new(file),
        then: Cursor::new(other),
        opened: 0,
    });
    assert!(
        matches!(refused, Err(Error::DamagedPack { .. })),
        "{refused:?}"
    );
    for (key, value) in to.iter().expect("iter").map(|item| item.expect("an entry")) {
        assert_eq!(from.get(&key).expect("get").as_deref(), Some(&value[..]));
    }
    common::assert_sound(&to);
}

/// One file for the first reading, another for the second.
struct Changing {
    first: Cursor<Vec<u8>>,
    then: Cursor<Vec<u8>>,
    opened: u32,
}

impl Changing {
    fn now(&mut self) -> &mut Cursor<Vec<u8>> {
        if self.opened > 1 {
            &mut self.then
        } else {
            &mut self.first
        }
    }
}

impl Read for Changing {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        self.now().read(out)
    }
}

impl Seek for Changing {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        if matches!(to, SeekFrom::End(_)) {
            self.opened += 1;
        }
        self.now().seek(to)
    }
}

#[test]
fn failures_of_the_reader_and_the_writer_are_told_as_such() {
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("the wire was cut"))
        }
    }
    impl Seek for Failing {
        fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
            Ok(if matches!(to, SeekFrom::End(_)) {
                100
            } else {
                0
            })
        }
    }
    let target = Target::new();
    let refused = target.store.unpack(Failing).expect_err("refused");
    assert!(matches!(refused, Error::Io { .. }), "{refused}");
    assert!(
        refused.to_string().contains("the wire was cut"),
        "{refused}"
    );
    target.assert_unchanged();

    struct Short(usize);
    impl Write for Short {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let count = bytes.len().min(self.0);
            self.0 -= count;
            match count {
                0 => Err(std::io::Error::from_raw_os_error(28)),
                count => Ok(count),
            }
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    for room in 0..packed(&target.store).len() {
        let refused = target.store.pack(Short(room), &PackChoice::default());
        assert!(
            matches!(refused, Err(Error::NoSpace { .. })),
            "{room}: {refused:?}"
        );
    }
}

#[test]
fn a_damaged_entry_is_not_packed_and_its_file_is_named() {
    for large in [false, true] {
        let dir = common::work_dir();
        let store = common::small().open(dir.path()).expect("opens");
        let value = Dice::new(1).bytes(if large { 20_000 } else { 200 });
        store.set("fine", "v").expect("set");
        store.set("hit", &value).expect("set");
        let (path, at) = picture(dir.path())
            .into_iter()
            .filter(|(path, _)| common::is_log(&path.to_string_lossy()))
            .find_map(|(path, bytes)| {
                let at = bytes.windows(50).position(|window| window == &value[..50]);
                at.map(|at| (path, at as u64))
            })
            .expect("the value stands somewhere");
        common::flip(&dir.path().join(&path), (at + 60) * 8);
        let mut file = Vec::new();
        let refused = store
            .pack(&mut file, &PackChoice::default())
            .expect_err("refused");
        assert!(
            matches!(&refused, Error::Corrupt { path: said, .. } if said.ends_with(path.file_name().expect("a name"))),
            "{refused}"
        );
        assert!(UnpackOptions::default().verify(Cursor::new(file)).is_err());
    }
}

// ---- limits and memory ----

#[test]
fn a_value_the_store_can_never_take_is_refused_before_anything_is_stored() {
    let from = Cache::temporary().expect("opens");
    from.set("small", "v").expect("set");
    from.set("large", vec![7_u8; 3 << 20]).expect("set");
    let dir = common::work_dir();
    let to = Cache::builder()
        .size_limit_bytes(2 * MIB)
        .segment_size_bytes(64 * KIB)
        .open(dir.path())
        .expect("opens");
    let refused = unpack(&to, &packed(&from));
    assert!(
        matches!(refused, Err(Error::TooLarge { .. })),
        "{refused:?}"
    );
    assert_eq!(to.len().expect("len"), 0);
}

#[test]
fn a_store_that_is_full_says_so_and_keeps_what_it_took() {
    let from = Cache::temporary().expect("opens");
    let mut dice = Dice::new(5);
    for at in 0..3_000 {
        let tagged = SetOptions::default().tag(format!("tag-{at}"));
        from.set_with(format!("{at}"), dice.bytes(1_000), &tagged)
            .expect("set");
    }
    let file = packed(&from);
    let dir = common::work_dir();
    let to = Cache::builder()
        .policy(larder::Policy::None)
        .size_limit_bytes(2 * MIB)
        .segment_size_bytes(64 * KIB)
        .open(dir.path())
        .expect("opens");
    let mut stored = 0;
    let refused = to.unpack_with(Cursor::new(&file), &UnpackOptions::default(), |now| {
        stored = now.entries;
        ControlFlow::Continue(())
    });
    assert!(matches!(refused, Err(Error::Full { .. })), "{refused:?}");
    assert!(stored > 100, "{stored}");
    assert_eq!(to.len().expect("len"), stored);
    assert!(entries(&to)[..] == entries(&from)[..stored as usize]);
    common::assert_sound(&to);
    to.update_settings(|settings| settings.size_limit_bytes = 32 * MIB)
        .expect("update");
    let report = unpack(&to, &file).expect("unpack");
    assert_eq!((report.entries, report.replaced), (3_000, stored));
}

#[test]
fn unpacking_over_large_values_needs_no_room_for_the_dead_ones() {
    let from = Cache::temporary().expect("opens");
    for at in 0..4 {
        from.set(format!("large/{at}"), vec![at; 3 << 20])
            .expect("set");
    }
    from.set("small", "v").expect("set");
    let file = packed(&from);
    let dir = common::work_dir();
    let to = Cache::builder()
        .size_limit_bytes(18 * MIB)
        .segment_size_bytes(MIB)
        .open(dir.path())
        .expect("opens");
    for round in 0..5 {
        let report = unpack(&to, &file).unwrap_or_else(|error| panic!("round {round}: {error}"));
        assert_eq!(report.entries, 5);
    }
    assert!(entries(&to) == entries(&from));
}

/// Most anonymous memory this process had while `work` ran, beyond what it had before.
fn peak_bytes(work: impl FnOnce()) -> u64 {
    let anonymous_bytes = || {
        let status = std::fs::read_to_string("/proc/self/status").expect("status reads");
        let line = status.lines().find(|line| line.starts_with("RssAnon:"));
        let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
        kib.expect("RssAnon") * KIB
    };
    let (stop, most) = (AtomicBool::new(false), AtomicU64::new(0));
    let before = anonymous_bytes();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                most.fetch_max(anonymous_bytes(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        work();
        stop.store(true, Ordering::Relaxed);
    });
    most.load(Ordering::Relaxed).saturating_sub(before)
}

fn pack_and_unpack_in_little_memory(job: &Job) {
    let len = job.args[0];
    let store = Cache::open(&job.store).expect("opens");
    store
        .set_reader("huge", std::io::repeat(7).take(len), &SetOptions::default())
        .expect("set_reader");
    let mut dice = Dice::new(8);
    for at in 0..20_000 {
        store.set(format!("{at}"), dice.bytes(1_000)).expect("set");
    }
    let path = job.store.with_extension("pack");
    let peak = peak_bytes(|| {
        let file = std::fs::File::create(&path).expect("a file");
        let packed = store.pack(file, &PackChoice::default()).expect("pack");
        store.clear().expect("clear");
        store.flush().expect("flush");
        let file = std::fs::File::open(&path).expect("a file");
        let report = store.unpack(file).expect("unpack");
        assert_eq!(
            (report.entries, report.value_bytes),
            (packed.entries, packed.value_bytes)
        );
    });
    std::fs::remove_file(&path).expect("removed");
    say(&format!("peak {peak}"));
}

#[test]
fn large_and_many_values_pass_through_little_memory() {
    let dir = common::work_dir();
    let mut worker = start("packer", &dir.path().join("store"), &[300 * MIB]);
    let peak: u64 = worker.expect("peak").parse().expect("a number");
    worker.finish();
    println!("packed and unpacked: {} KiB anonymous at most", peak / KIB);
    assert!(peak < 48 * MIB, "{peak} bytes");
}

/// Files of some hundred kilobytes that claim, and expand to, gigabytes.
fn bombs() -> Vec<(&'static str, Vec<u8>)> {
    let gib4 = 4 << 30;
    let huge = Claim {
        key_len: 1,
        value_len: gib4,
        ..Claim::default()
    };
    let frame = Pack::new().claim(huge, b"k", b"", b"").stream;
    let head = &frame[..frame.len() - 4];
    let many = Claim {
        key_len: 1,
        value_len: 60 * MIB,
        ..Claim::default()
    };
    let many = Pack::new().claim(many, b"k", b"", b"").stream;
    let whole = Pack::little().stream;
    vec![
        ("zeros", zstd_with_zeros(&[], gib4)),
        ("a value of 4 GiB", zstd_with_zeros(head, gib4)),
        (
            "one value and then zeros",
            zstd_with_zeros(&many[..many.len() - 4], gib4),
        ),
        ("zeros after the end", zstd_with_zeros(&whole, gib4)),
    ]
}

fn read_bombs(job: &Job) {
    let store = Cache::builder()
        .size_limit_bytes(64 * MIB)
        .segment_size_bytes(MIB)
        .open(&job.store)
        .expect("opens");
    let before = picture(&job.store);
    let peak = peak_bytes(|| {
        for (name, bomb) in bombs() {
            let file = file_of(&bomb);
            assert!((file.len() as u64) < MIB, "{name}: {} bytes", file.len());
            let refused = unpack(&store, &file).expect_err(name);
            assert!(
                matches!(refused, Error::DamagedPack { .. } | Error::TooLarge { .. }),
                "{name}: {refused}"
            );
            // Without a store there is no limit for a value: it is read through, and kept nowhere.
            let refused = UnpackOptions::default()
                .verify(Cursor::new(&file))
                .expect_err(name);
            assert!(
                matches!(refused, Error::DamagedPack { .. }),
                "{name}: {refused}"
            );
        }
        let wide = [
            &[0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3][..],
            &rle(1 << 17, true),
        ]
        .concat();
        let refused = unpack(&store, &file_of(&wide)).expect_err("a window of 2 GiB");
        assert!(refused.to_string().contains("memory"), "{refused}");
    });
    assert!(picture(&job.store) == before, "the store is unchanged");
    say(&format!("peak {peak}"));
}

#[test]
fn bombs_are_refused_in_little_memory() {
    let dir = common::work_dir();
    let mut worker = start("bomb-reader", dir.path(), &[]);
    let peak: u64 = worker.expect("peak").parse().expect("a number");
    worker.finish();
    println!("bombs: {} KiB anonymous at most", peak / KIB);
    assert!(peak < 32 * MIB, "{peak} bytes");
}

// ---- making packed files by hand ----

/// A frame as it is claimed; what follows it may be something else.
#[derive(Clone, Copy)]
struct Claim {
    frame: u8,
    value_kind: u8,
    flags: u16,
    key_len: u32,
    tags_len: u32,
    value_len: u64,
}

impl Default for Claim {
    fn default() -> Self {
        Claim {
            frame: 1,
            value_kind: 0,
            flags: 0,
            key_len: 0,
            tags_len: 0,
            value_len: 0,
        }
    }
}

/// A packed file's stream, uncompressed.
struct Pack {
    stream: Vec<u8>,
    entries: u64,
    value_bytes: u64,
}

impl Pack {
    fn new() -> Pack {
        Pack {
            stream: Vec::new(),
            entries: 0,
            value_bytes: 0,
        }
    }

    fn little() -> Pack {
        Pack::new()
            .entry(b"key", b"\x01\0t", b"value")
            .entry(b"", b"", b"")
            .end()
    }

    fn entry(self, key: &[u8], tags: &[u8], value: &[u8]) -> Pack {
        let claim = Claim {
            key_len: key.len() as u32,
            tags_len: tags.len() as u32,
            value_len: value.len() as u64,
            ..Claim::default()
        };
        self.claim(claim, key, tags, value)
    }

    fn claim(mut self, claim: Claim, key: &[u8], tags: &[u8], value: &[u8]) -> Pack {
        let mut frame = vec![0; 4];
        frame.extend([claim.frame, claim.value_kind]);
        frame.extend(claim.flags.to_le_bytes());
        frame.extend(claim.key_len.to_le_bytes());
        frame.extend(claim.tags_len.to_le_bytes());
        frame.extend(claim.value_len.to_le_bytes());
        frame.extend([0; 16]);
        seal(&mut frame);
        let body = [&frame, key, tags, value].concat();
        self.stream.extend_from_slice(&body);
        self.stream.extend(crc32fast::hash(&body).to_le_bytes());
        self.entries += 1;
        self.value_bytes += value.len() as u64;
        self
    }

    fn end(self) -> Pack {
        let (entries, value_bytes) = (self.entries, self.value_bytes);
        self.end_saying(entries, value_bytes, 0)
    }

    fn end_saying(mut self, entries: u64, value_bytes: u64, crc_off: u32) -> Pack {
        let mut frame = vec![0; 4];
        frame.push(2);
        frame.extend([0; 11]);
        frame.extend(entries.to_le_bytes());
        frame.extend(value_bytes.to_le_bytes());
        frame.extend((crc32fast::hash(&self.stream) ^ crc_off).to_le_bytes());
        frame.extend([0; 4]);
        seal(&mut frame);
        self.stream.extend(frame);
        self
    }

    fn file(&self) -> Vec<u8> {
        file_of(&zstd_of(&self.stream))
    }
}

/// Gives a frame its checksum.
fn seal(frame: &mut [u8]) {
    let crc = crc32fast::hash(&frame[4..]);
    frame[..4].copy_from_slice(&crc.to_le_bytes());
}

/// Gives a file its checksum again.
fn reseal(mut file: Vec<u8>) -> Vec<u8> {
    file.truncate(file.len() - 4);
    let crc = crc32fast::hash(&file);
    file.extend(crc.to_le_bytes());
    file
}

/// A file around a compressed stream.
fn file_of(zstd: &[u8]) -> Vec<u8> {
    let mut file = b"larder.p\x01\0\0\0\0\0\0\0".to_vec();
    file.extend(crc32fast::hash(&file).to_le_bytes());
    file.extend_from_slice(zstd);
    file.extend([0; 4]);
    reseal(file)
}

fn zstd_of(stream: &[u8]) -> Vec<u8> {
    zstd::encode_all(stream, 1).expect("zstd compresses")
}

/// A block of zeros: four bytes, whatever it expands to.
fn rle(len: u32, is_last: bool) -> [u8; 4] {
    let head = u32::from(is_last) | 1 << 1 | len << 3;
    let [a, b, c, _] = head.to_le_bytes();
    [a, b, c, 0]
}

/// A zstd stream, made block by block: some bytes and then zeros.
fn zstd_with_zeros(bytes: &[u8], zeros: u64) -> Vec<u8> {
    let mut out = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 10 << 3];
    let head = (bytes.len() as u32) << 3;
    out.extend_from_slice(&head.to_le_bytes()[..3]);
    out.extend_from_slice(bytes);
    let blocks = zeros >> 17;
    for at in 0..blocks {
        out.extend(rle(1 << 17, at + 1 == blocks));
    }
    out
}
