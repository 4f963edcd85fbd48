//! A store in shards is one store: whatever shard a key is in, whoever reads, writes, is killed or divides
//! it anew.

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::{Dice, fast_dir, seed, work_dir};
use larder::{Cache, Error, Expiry, Fanout, Key, SetOptions, Side, TagMatch};

fn open(dir: &std::path::Path, shards: usize) -> Fanout {
    common::small()
        .open_fanout(dir, shards)
        .expect("the fanout opens")
}

fn assert_sound(fanout: &Fanout) {
    let report = fanout.check().expect("check");
    let some: Vec<_> = report.findings.iter().take(5).collect();
    assert!(report.is_sound(), "{some:#?}");
}

#[test]
fn a_model_agrees_through_every_verb_and_reopening() {
    let mut dice = Dice::new(seed("model"));
    let dir = fast_dir();
    let mut fanout = open(dir.path(), 4);
    let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let options = SetOptions::default();
    for step in 0..3_000_u32 {
        let key = format!("k{}", dice.below(60)).into_bytes();
        let len = if dice.one_in(20) {
            6_000
        } else {
            dice.below(90) as usize
        };
        let value = dice.bytes(len);
        match dice.below(12) {
            0..=2 => {
                fanout.set(&key, &value).expect("set");
                model.insert(key, value);
            }
            3 => assert_eq!(
                fanout.delete(&key).expect("delete"),
                model.remove(&key).is_some()
            ),
            4 => assert_eq!(
                fanout.pop(&key).expect("pop").map(Vec::from),
                model.remove(&key)
            ),
            5 => {
                let was = fanout.add(&key, &value, &options).expect("add");
                assert_eq!(was, !model.contains_key(&key));
                model.entry(key).or_insert(value);
            }
            6 => {
                let was = fanout.replace(&key, &value, &options).expect("replace");
                assert_eq!(was, model.contains_key(&key));
                if was {
                    model.insert(key, value);
                }
            }
            7 => {
                let items: Vec<(Vec<u8>, Vec<u8>)> = (0..dice.below(6))
                    .map(|_| {
                        (
                            format!("k{}", dice.below(60)).into_bytes(),
                            dice.bytes(5_000),
                        )
                    })
                    .collect();
                fanout.set_many(items.clone(), &options).expect("set_many");
                model.extend(items);
            }
            8 | 9 => {
                let fails = dice.one_in(3);
                let other = format!("k{}", dice.below(60)).into_bytes();
                let mut next = model.clone();
                let done = fanout.transact(|tx| {
                    if let Some(value) = tx.pop(&key)? {
                        assert_eq!(next.remove(&key), Some(value.to_vec()));
                        tx.set(&other, &value)?;
                        next.insert(other.clone(), value.into_vec());
                    }
                    tx.set("both", &other)?;
                    next.insert(b"both".to_vec(), other.clone());
                    assert_eq!(tx.len()?, next.len() as u64);
                    assert_eq!(tx.iter()?.count(), next.len());
                    match fails {
                        true => Err(Error::Aborted { what: "no".into() }),
                        false => Ok(()),
                    }
                });
                assert_eq!(done.is_err(), fails);
                if !fails {
                    model = next;
                }
            }
            10 => {
                let expected = model.get(&key).cloned();
                assert!(
                    fanout
                        .compare_and_swap(&key, expected.as_deref(), Some(&value), &options)
                        .expect("compare_and_swap")
                );
                model.insert(key, value);
            }
            _ => match dice.below(4) {
                0 => {
                    if dice.one_in(2) {
                        fanout.close().expect("close");
                    } else {
                        drop(fanout);
                        if dice.one_in(2) {
                            for name in common::names(dir.path()) {
                                if name.contains('-') && dice.one_in(2) {
                                    common::forget_derived(&dir.path().join(name));
                                }
                            }
                        }
                    }
                    fanout = open(dir.path(), 4);
                }
                1 => assert_sound(&fanout),
                _ => fanout.flush().expect("flush"),
            },
        }
        if step % 16 == 0 {
            let got: BTreeMap<Vec<u8>, Vec<u8>> = fanout
                .iter()
                .expect("iter")
                .map(|item| item.expect("item"))
                .map(|(key, value)| (key, value.into_vec()))
                .collect();
            assert_eq!(got.len() as u64, fanout.len().expect("len"));
            assert!(got == model, "step {step}");
            let sorted = fanout.iter_sorted().expect("iter_sorted");
            assert!(
                sorted
                    .map(|item| item.expect("item").0)
                    .eq(model.keys().cloned())
            );
        }
        let key = format!("k{}", dice.below(60)).into_bytes();
        assert_eq!(
            fanout.get(&key).expect("get").map(Vec::from),
            model.get(&key).cloned()
        );
    }
    assert_sound(&fanout);
}

#[test]
fn another_number_of_shards_is_refused_by_the_right_one() {
    let dir = work_dir();
    drop(open(dir.path(), 3));
    let error = Cache::builder().open_fanout(dir.path(), 5).expect_err("5");
    let text = error.to_string();
    assert!(
        matches!(error, Error::InvalidSetting { .. }) && text.contains("3 shards"),
        "{text}"
    );
    assert_eq!(Fanout::open(dir.path()).expect("any").shards(), 3);
    // Neither the whole nor a shard is a plain store.
    let error = Cache::open(dir.path()).expect_err("a fanout");
    assert!(error.to_string().contains("several shards"), "{error}");
    let error = Cache::open(dir.path().join("1-002")).expect_err("a shard");
    assert!(error.to_string().contains("one shard"), "{error}");
    // And a plain store is no fanout.
    let plain = work_dir();
    drop(Cache::open(plain.path()).expect("a cache"));
    let error = Fanout::open(plain.path()).expect_err("a cache");
    assert!(error.to_string().contains("not divided"), "{error}");
}

#[test]
fn one_and_one_point_naught_are_one_key() {
    let dir = work_dir();
    let fanout = open(dir.path(), 7);
    for n in 0..200_i64 {
        let (mut whole, mut float) = (Vec::new(), Vec::new());
        n.encode(&mut whole).expect("a key");
        (n as f64).encode(&mut float).expect("a key");
        fanout.set(&whole, n.to_string()).expect("set");
        let value = fanout.get(&float).expect("get").expect("it is there");
        assert_eq!(value, n.to_string());
    }
    assert_eq!(fanout.len().expect("len"), 200);
}

#[test]
fn queues_tags_and_expiry_are_those_of_the_whole() {
    let dir = work_dir();
    let fanout = open(dir.path(), 4);
    let plain = SetOptions::default();
    for prefix in [None, Some(&b"jobs"[..]), Some(b"a-b")] {
        let keys: Vec<Vec<u8>> = (0..5)
            .map(|n| {
                fanout
                    .push(prefix, format!("{n}"), Side::Back, &plain)
                    .expect("push")
            })
            .collect();
        for (n, key) in keys.iter().enumerate() {
            assert_eq!(fanout.get(key).expect("get").expect("there"), n.to_string());
        }
        fanout.delete(&keys[0]).expect("delete");
        let (key, value) = fanout
            .pull(prefix, Side::Front)
            .expect("pull")
            .expect("one");
        assert_eq!((&key, &*value), (&keys[1], &b"1"[..]));
        let (_, value) = fanout.peek(prefix, Side::Back).expect("peek").expect("one");
        assert_eq!(&*value, b"4");
    }
    fanout.clear().expect("clear");
    for n in 0..40 {
        let tagged = SetOptions::default().tag("all").tag(format!("t{}", n % 2));
        fanout.set_with(format!("k{n}"), "v", &tagged).expect("set");
    }
    assert_eq!(fanout.iter_tag("t0").expect("iter_tag").count(), 20);
    let tags = fanout.tags().expect("tags");
    assert_eq!(
        tags.iter().map(|tag| tag.entries).collect::<Vec<_>>(),
        [40, 20, 20]
    );
    assert_eq!(
        fanout
            .evict_tags(["all", "t1"], TagMatch::All)
            .expect("evict"),
        20
    );
    assert_eq!(fanout.len().expect("len"), 20);
    fanout.set_tag_quota("all", Some(1 << 20)).expect("quota");
    assert_eq!(fanout.tags().expect("tags")[0].quota_bytes, Some(1 << 20));
    let past = SetOptions::default().ttl(Duration::ZERO);
    fanout
        .transact(|tx| {
            for n in 0..10 {
                tx.set_with(format!("old{n}"), "v", &past)?;
            }
            Ok(())
        })
        .expect("transact");
    assert!(!fanout.contains("old1").expect("contains"));
    // A second later the write itself may have removed some.
    assert!(fanout.expire().expect("expire") <= 10);
    assert_eq!(fanout.len().expect("len"), 20);
    assert!(
        fanout
            .touch("k0", Expiry::After(Duration::from_secs(9)))
            .expect("touch")
    );
    assert!(
        fanout
            .describe("k0")
            .expect("describe")
            .expect("there")
            .expires_at
            .is_some()
    );
    assert_sound(&fanout);
}

#[test]
fn names_of_caches_are_names() {
    let dir = work_dir();
    let fanout = open(dir.path(), 2);
    for bad in ["", ".", "..", ".x", "a/b", "a\0b", "a\nb", &"x".repeat(201)] {
        assert!(
            matches!(fanout.cache(bad), Err(Error::InvalidKey { .. })),
            "{bad:?}"
        );
    }
    fanout
        .cache("pages")
        .expect("a cache")
        .set("k", "v")
        .expect("set");
    assert_eq!(fanout.get("k").expect("get"), None);
    assert_eq!(
        fanout
            .cache("pages")
            .expect("a cache")
            .get("k")
            .expect("get")
            .expect("v"),
        "v"
    );
}

#[test]
fn a_reader_sees_the_whole_and_changes_nothing() {
    let dir = work_dir();
    let fanout = open(dir.path(), 3);
    fanout
        .set_many(
            (0..30).map(|n| (format!("k{n}"), "v")),
            &SetOptions::default(),
        )
        .expect("set");
    fanout.close().expect("close");
    let before = common::picture(dir.path());
    let reader = Cache::builder()
        .read_only(true)
        .open_fanout(dir.path(), None)
        .expect("opens");
    assert_eq!(reader.len().expect("len"), 30);
    assert_eq!(reader.iter().expect("iter").count(), 30);
    assert!(matches!(reader.set("k", "v"), Err(Error::ReadOnly { .. })));
    assert!(matches!(
        reader.transact(|tx| tx.set("k", "v")),
        Err(Error::ReadOnly { .. })
    ));
    drop(reader);
    assert!(
        common::picture(dir.path()) == before,
        "a reader changes nothing"
    );
}

// ---- batches across shards: readers, kills, power loss ----

/// Where a worker process begins; for the test itself there is nothing to do.
#[test]
fn role_entry() {
    let Some(job) = common::job() else { return };
    match job.role.as_str() {
        "crosser" => cross_until_killed(&job),
        "reader" => read_groups(&job),
        "resharder" => reshard_until_killed(&job),
        "writer" => write_until_moved(&job),
        "filler" => fill(&job),
        "forker" => fork_and_go_on(&job),
        other => panic!("no such role: {other}"),
    }
    common::leave()
}

const GROUP: u64 = 5;

fn shared_key(at: u64) -> String {
    format!("shared/{at}")
}

fn own_key(writer: u64, at: u64) -> String {
    format!("own/{writer}/{at}")
}

fn number(value: &[u8]) -> u64 {
    // Large values are filled up behind the number.
    let text = std::str::from_utf8(value).expect("text");
    let digits = text.split(' ').next().expect("a first word");
    digits.parse().expect("a number")
}

/// The number, in a value of a few bytes or a file of its own.
fn value_of(number: u64, is_large: bool) -> String {
    match is_large {
        true => format!("{number} {}", "x".repeat(5_000)),
        false => number.to_string(),
    }
}

/// Counts a group of keys up by `transact`, and another of its own by `set_many`; tells each.
fn cross_until_killed(job: &common::Job) {
    let writer = job.args[0];
    let mut dice = Dice::new(job.args[1]);
    let fanout = Fanout::open(&job.store).expect("opens");
    let own = own_key(writer, 0);
    let mut count = fanout
        .get(&own)
        .expect("get")
        .map_or(0, |value| number(&value));
    let tagged = SetOptions::default().tag(format!("w{writer}"));
    loop {
        let is_large = dice.one_in(4);
        if dice.one_in(2) {
            let next = fanout
                .transact(|tx| {
                    let next = tx.get(shared_key(0))?.map_or(0, |value| number(&value)) + 1;
                    for at in 0..GROUP {
                        tx.set(shared_key(at), value_of(next, is_large && at == 1))?;
                    }
                    Ok(next)
                })
                .expect("transact");
            common::say(&format!("shared {next}"));
        } else {
            count += 1;
            common::say(&format!("begin {count}"));
            let value = value_of(count, is_large);
            let items = (0..GROUP).map(|at| (own_key(writer, at), &value));
            fanout.set_many(items, &tagged).expect("set_many");
            common::say(&format!("own {count}"));
        }
        if dice.one_in(3) {
            fanout
                .set(format!("plain/{writer}"), value_of(count, is_large))
                .expect("set");
        }
    }
}

/// Whoever has seen one write of a batch never misses another.
fn read_groups(job: &common::Job) {
    let fanout = Fanout::open(&job.store).expect("opens");
    let mut seen = 0;
    let end = std::time::Instant::now() + Duration::from_millis(job.args[0]);
    while std::time::Instant::now() < end {
        for at in [0, 3, 1, 4, 2, 0] {
            let value = fanout.get(shared_key(at)).expect("get");
            let now = value.map_or(0, |value| number(&value));
            assert!(now >= seen, "key {at} is {now} after {seen} was seen");
            seen = now;
        }
        // New pairs come and go whole.
        let mut pairs = BTreeMap::<Vec<u8>, u32>::new();
        for key in fanout.keys().expect("keys") {
            let key = key.expect("a key");
            if let Some(rest) = key.strip_prefix(b"own/") {
                *pairs.entry(rest[..1].to_vec()).or_default() += 1;
            }
        }
        assert!(
            pairs.values().all(|&count| count == GROUP as u32),
            "{pairs:?}"
        );
    }
    common::say(&format!("seen {seen}"));
}

#[test]
fn readers_in_another_process_never_see_half_a_batch() {
    let seed = seed("half");
    let dir = fast_dir();
    drop(open(dir.path(), 4));
    let crossers: Vec<_> = (0..2)
        .map(|writer| common::start("crosser", dir.path(), &[writer, seed + writer]))
        .collect();
    let mut reader = common::start("reader", dir.path(), &[2_500]);
    let seen: u64 = reader.expect("seen").parse().expect("a number");
    reader.finish();
    for crosser in crossers {
        crosser.kill();
    }
    assert!(seen > 10, "only {seen} batches");
    judge(
        &Fanout::open(dir.path()).expect("opens"),
        &BTreeMap::new(),
        0,
    );
}

/// Each group is whole, nothing acknowledged is missing, nothing that was not begun is there.
fn judge(fanout: &Fanout, own: &BTreeMap<u64, (u64, u64)>, shared: u64) {
    let group = |key: &dyn Fn(u64) -> String| -> u64 {
        let values: Vec<u64> = (0..GROUP)
            .map(|at| {
                let value = fanout.get(key(at)).expect("get");
                value.map_or(0, |value| number(&value))
            })
            .collect();
        assert!(
            values.iter().all(|&value| value == values[0]),
            "half a batch: {values:?}"
        );
        values[0]
    };
    let now = group(&shared_key);
    assert!(now >= shared, "shared is {now}, {shared} was acknowledged");
    for (&writer, &(acknowledged, begun)) in own {
        let now = group(&|at| own_key(writer, at));
        assert!(
            (acknowledged..=begun).contains(&now),
            "{writer} is at {now}, not {acknowledged} to {begun}"
        );
        let tagged = fanout
            .iter_tag(format!("w{writer}"))
            .expect("iter_tag")
            .count() as u64;
        assert_eq!(tagged, if now == 0 { 0 } else { GROUP });
    }
    assert_sound(fanout);
}

fn storm(story: &str, forgets: bool) {
    let mut dice = Dice::new(seed(story));
    // On a disk a sync takes long enough to be killed in.
    let dir = if forgets { fast_dir() } else { work_dir() };
    drop(open(dir.path(), 4));
    let mut own: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    let mut shared = 0;
    for _ in 0..12 {
        let mut crossers: Vec<_> = (0..3)
            .map(|writer| {
                (
                    writer,
                    common::start("crosser", dir.path(), &[writer, dice.roll()]),
                )
            })
            .collect();
        let mut note = |writer: u64, line: &str| {
            let (word, rest) = line.split_once(' ').expect("two words");
            let value: u64 = rest.parse().expect("a number");
            match word {
                "shared" => shared = shared.max(value),
                "begin" => own.entry(writer).or_default().1 = value,
                "own" => own.entry(writer).or_default().0 = value,
                other => panic!("{other}"),
            }
        };
        // One after another, so that the living meet what the dead left.
        while let Some(at) = (!crossers.is_empty()).then(|| dice.below(crossers.len() as u64)) {
            let (writer, mut crosser) = crossers.swap_remove(at as usize);
            let first = crosser.hear();
            note(writer, &first);
            std::thread::sleep(Duration::from_micros(dice.below(25_000)));
            for line in crosser.kill() {
                note(writer, &line);
            }
        }
        if forgets {
            for shard in 0..4 {
                if dice.one_in(2) {
                    common::forget_derived(&dir.path().join(format!("1-00{shard}")));
                }
            }
        }
        judge(&Fanout::open(dir.path()).expect("opens"), &own, shared);
    }
    assert!(shared > 20, "{shared}");
}

#[test]
fn killed_crossers_leave_whole_batches() {
    storm("killed", false);
}

#[test]
fn killed_crossers_leave_whole_batches_whatever_headers_are_lost() {
    storm("killed and lost", true);
}

#[test]
fn a_power_loss_leaves_a_batch_whole_or_absent() {
    let mut dice = Dice::new(seed("power"));
    let dir = fast_dir();
    let copies = fast_dir();
    let at = dir.path().join("store");
    let fanout = open(&at, 4);
    let keys: Vec<String> = (0..12).map(|n| format!("key {n}")).collect();
    let mut states = vec![BTreeMap::<String, u64>::new()];
    common::copy_store(&at, &copies.path().join("0"));
    for n in 1..=12_u64 {
        let mut state = states[n as usize - 1].clone();
        let mut some = keys.clone();
        dice.shuffle(&mut some);
        // So many are never in one shard alone: a batch of one is durable when `durability` says so.
        some.truncate(9 + dice.below(4) as usize);
        fanout
            .transact(|tx| {
                for (index, key) in some.iter().enumerate() {
                    if index == 1 && n % 3 == 0 {
                        tx.delete(key)?;
                        state.remove(key);
                        continue;
                    }
                    let tagged = SetOptions::default().tag(format!("n{n}"));
                    tx.set_with(key, value_of(n, false), &tagged)?;
                    state.insert(key.clone(), n);
                }
                Ok(())
            })
            .expect("transact");
        states.push(state);
        common::copy_store(&at, &copies.path().join(n.to_string()));
    }
    drop(fanout);
    let read = |path: &std::path::Path| -> BTreeMap<String, u64> {
        let fanout = Fanout::open(path).expect("opens");
        assert_sound(&fanout);
        let got = fanout.iter().expect("iter").map(|item| item.expect("item"));
        let got = got.map(|(key, value)| (String::from_utf8(key).expect("text"), number(&value)));
        let got: BTreeMap<String, u64> = got.collect();
        for (key, n) in &got {
            let tags = fanout.describe(key).expect("describe").expect("there").tags;
            assert_eq!(tags, [format!("n{n}").into_bytes()]);
        }
        got
    };
    // The first shard's intent is durable before any part is; of the others any may be missing.
    for n in 1..=12_usize {
        for _ in 0..3 {
            let hybrid = fast_dir();
            let to = hybrid.path().join("store");
            let (old, new) = (n - 1, n);
            common::copy_store(&copies.path().join(new.to_string()), &to);
            for shard in 1..4 {
                let name = format!("1-00{shard}");
                if dice.one_in(2) {
                    std::fs::remove_dir_all(to.join(&name)).expect("goes");
                    let from = copies.path().join(old.to_string()).join(&name);
                    common::copy_store(&from, &to.join(&name));
                }
            }
            for shard in 0..4 {
                common::forget_derived(&to.join(format!("1-00{shard}")));
            }
            assert_eq!(read(&to), states[n], "batch {n}");
            // Done once, it stays done.
            assert_eq!(read(&to), states[n], "batch {n} again");
        }
        // Not even the intent had reached the disk.
        let hybrid = fast_dir();
        let to = hybrid.path().join("store");
        common::copy_store(&copies.path().join((n - 1).to_string()), &to);
        assert_eq!(read(&to), states[n - 1], "before batch {n}");
    }
}

#[test]
fn a_snapshot_beside_crossers_has_no_half_batch() {
    let seed = seed("snapshot");
    let dir = fast_dir();
    let at = dir.path().join("store");
    let fanout = open(&at, 4);
    let crossers: Vec<_> = (0..2)
        .map(|writer| {
            let mut crosser = common::start("crosser", &at, &[writer, seed + writer]);
            crosser.hear();
            crosser
        })
        .collect();
    for n in 0..8 {
        let to = dir.path().join(format!("then {n}"));
        let report = fanout.snapshot(&to).expect("snapshot");
        assert!(report.segments >= 4);
        let then = Fanout::open(&to).expect("opens");
        assert_eq!(then.shards(), 4);
        judge(&then, &BTreeMap::new(), 0);
        for writer in 0..2 {
            let of = |at| then.get(own_key(writer, at)).expect("get");
            let values: Vec<_> = (0..GROUP).map(of).collect();
            assert!(values.iter().all(|value| *value == values[0]));
        }
        assert!(fanout.snapshot(&to).is_err(), "it is not empty");
        then.set("its own", "x").expect("set");
    }
    for crosser in crossers {
        crosser.kill();
    }
    assert_eq!(fanout.get("its own").expect("get"), None);
}

#[test]
fn a_refused_batch_changes_nothing() {
    let dir = fast_dir();
    let fanout = common::small()
        .size_limit_bytes(8 * MIB)
        .policy(larder::Policy::None)
        .open_fanout(dir.path(), 3)
        .expect("opens");
    let options = SetOptions::default();
    fanout
        .set_many((0..9).map(|n| (format!("k{n}"), "old")), &options)
        .expect("set_many");
    let judge = |what: &str| {
        for n in 0..9 {
            let value = fanout.get(format!("k{n}")).expect("get").expect("there");
            assert_eq!(value, "old", "{what}");
        }
        assert_eq!(fanout.len().expect("len"), 9, "{what}");
        assert_sound(&fanout);
    };
    // Records above a quarter of a shard's part, beside large values that fit.
    for len in [3_000, 5_000] {
        let items: Vec<_> = (0..9)
            .flat_map(|n| (0..60).map(move |m| (n, m)))
            .map(|(n, m)| {
                (
                    if m == 0 {
                        format!("k{n}")
                    } else {
                        format!("new {n} {m}")
                    },
                    vec![1; len],
                )
            })
            .chain((0..9).map(|n| (format!("large {n}"), vec![2; 6_000])))
            .collect();
        let error = fanout.set_many(items, &options).expect_err("too much");
        assert!(
            matches!(error, Error::TooLarge { .. } | Error::Full { .. }),
            "{error}"
        );
        judge("refused");
    }
    // A large value set twice in one batch leaves one file.
    fanout
        .transact(|tx| {
            for n in 0..9 {
                tx.set(format!("k{n}"), vec![3; 6_000])?;
                tx.set(format!("k{n}"), vec![4; 7_000])?;
                tx.set(format!("k{n}"), "old")?;
            }
            Ok(())
        })
        .expect("transact");
    judge("set twice");
    fanout.flush().expect("flush");
    fanout.flush().expect("flush");
    fanout.compact().expect("compact");
    let files = common::picture(dir.path()).into_iter().filter(|(path, _)| {
        path.extension()
            .is_some_and(|end| end == "val" || end == "tmp")
    });
    assert_eq!(files.count(), 0, "no file of a large value is left");
}

// ---- one limit for the whole ----

const MIB: u64 = 1 << 20;

/// Keys that are all in one shard: a queue's and its items' are together.
fn in_one_shard(n: u64) -> String {
    format!("hot-{}", 400_000_000_000_000 + n)
}

/// Sets keys, most of them in one shard, beyond the limit.
fn fill(job: &common::Job) {
    let fanout = Fanout::open(&job.store).expect("opens");
    let mut dice = Dice::new(job.args[0]);
    for _ in 0..job.args[1] {
        let key = match dice.one_in(4) {
            true => format!("cold {}", dice.below(1_000_000)),
            false => in_one_shard(dice.below(1_000_000)),
        };
        let len = if dice.one_in(50) { 20_000 } else { 1_000 };
        fanout.set(key, dice.bytes(len)).expect("set");
    }
}

#[test]
fn the_limit_is_that_of_the_whole_and_a_hot_shard_has_most_of_it() {
    let seed = seed("limit");
    let dir = fast_dir();
    let limit = 16 * MIB;
    let fanout = common::small()
        .size_limit_bytes(limit)
        .open_fanout(dir.path(), 4)
        .expect("opens");
    let workers: Vec<_> = (0..2)
        .map(|n| common::start("filler", dir.path(), &[seed + n, 14_000]))
        .collect();
    let most = limit + limit / 16;
    let mut workers: Vec<_> = workers.into_iter().map(Some).collect();
    while workers.iter().any(Option::is_some) {
        for worker in &mut workers {
            let patience = Duration::from_millis(5);
            if let Some(mut running) = worker.take() {
                match running.hear_within(patience) {
                    Some(_) => drop(running.finish()),
                    None => *worker = Some(running),
                }
            }
        }
        let disk = fanout.disk_usage().expect("disk_usage");
        assert!(disk <= most, "{disk} bytes of {limit}");
    }
    let disk = common::du_bytes(dir.path());
    assert!(disk <= most, "{disk} bytes of {limit} by du");
    assert_eq!(fanout.settings().expect("settings").size_limit_bytes, limit);
    let hot = fanout
        .iter_prefix("hot-")
        .expect("iter")
        .map(|item| item.expect("item").1.len());
    let hot = hot.sum::<usize>() as u64;
    assert!(hot > limit / 4, "the hot shard has {hot} bytes");
    // Others evict for a value larger than an equal part.
    let large = vec![7; 6 * MIB as usize];
    fanout.set("large", &large).expect("a large value");
    assert_eq!(fanout.get("large").expect("get").expect("there"), large);
    assert!(fanout.disk_usage().expect("disk_usage") <= most);
    assert!(matches!(
        fanout.set("larger", vec![7; 17 * MIB as usize]),
        Err(Error::TooLarge { .. })
    ));
    let lower = fanout.update_settings(|settings| settings.size_limit_bytes = 8 * MIB);
    assert_eq!(lower.expect("update").size_limit_bytes, 8 * MIB);
    fanout.cull().expect("cull");
    fanout.compact().expect("compact");
    let disk = common::du_bytes(dir.path());
    assert!(disk <= 8 * MIB + 8 * MIB / 16, "{disk} bytes of 8 MiB");
    let error = fanout.update_settings(|settings| settings.size_limit_bytes = 3 * MIB);
    assert!(matches!(error, Err(Error::InvalidSetting { .. })));
    assert_sound(&fanout);
}

// ---- dividing it anew ----

fn reshard_until_killed(job: &common::Job) {
    let shards = job.args[0] as usize;
    common::say("go");
    Fanout::reshard(&job.store, shards).expect("reshard");
}

/// Counts a key up; opens the store again whenever it has moved.
fn write_until_moved(job: &common::Job) {
    let mut count = 0_u64;
    loop {
        let fanout = Fanout::open(&job.store).expect("opens");
        common::say("opened 0");
        loop {
            match fanout.set(format!("count {}", count % 7), (count + 1).to_string()) {
                Ok(()) => count += 1,
                Err(Error::Moved { .. }) => break,
                Err(error) => panic!("{error}"),
            }
            common::say(&format!("count {count}"));
        }
    }
}

#[test]
fn dividing_it_anew_keeps_all_that_is_known_of_an_entry() {
    let dir = work_dir();
    let mut fanout = open(dir.path(), 3);
    let far = std::time::SystemTime::now() + Duration::from_secs(5_000);
    for n in 0..60 {
        let options = SetOptions::default()
            .tag(format!("t{}", n % 3))
            .cost(1.5)
            .expires_at(far);
        let len = if n % 10 == 0 { 9_000 } else { 30 };
        fanout
            .set_with(format!("k{n:02}"), vec![n; len], &options)
            .expect("set");
    }
    fanout
        .set_number("number", 7, &SetOptions::default())
        .expect("set");
    fanout
        .push(Some(b"jobs"), "1", Side::Back, &SetOptions::default())
        .expect("push");
    fanout
        .push(Some(b"jobs"), "2", Side::Back, &SetOptions::default())
        .expect("push");
    fanout.pull(Some(b"jobs"), Side::Front).expect("pull");
    fanout.set_tag_quota("t1", Some(1 << 20)).expect("quota");
    fanout
        .update_settings(|settings| settings.count_limit = Some(5_000))
        .expect("settings");
    let describe = |fanout: &Fanout| -> Vec<_> {
        (0..60)
            .map(|n| {
                let entry = fanout
                    .get_entry(format!("k{n:02}"))
                    .expect("get")
                    .expect("there");
                (
                    entry.value,
                    entry.tags,
                    entry.expires_at,
                    entry.stored_at,
                    entry.kind,
                )
            })
            .collect()
    };
    let before = describe(&fanout);
    let settings = fanout.settings().expect("settings");
    for shards in [5, 1, 4] {
        drop(fanout);
        let report = Fanout::reshard(dir.path(), shards).expect("reshard");
        assert_eq!((report.after, report.entries), (shards, 62));
        fanout = Fanout::open(dir.path()).expect("opens");
        assert_eq!(fanout.shards(), shards);
        assert_eq!(describe(&fanout), before);
        assert_eq!(fanout.len().expect("len"), 62);
        assert_eq!(fanout.settings().expect("settings"), settings);
        let tags = fanout.tags().expect("tags");
        assert_eq!((tags.len(), tags[1].quota_bytes), (3, Some(1 << 20)));
        let (key, value) = fanout
            .peek(Some(b"jobs"), Side::Front)
            .expect("peek")
            .expect("one");
        assert_eq!((&*key, &*value), (&b"jobs-500000000000001"[..], &b"2"[..]));
        assert_sound(&fanout);
        assert_eq!(
            common::names(dir.path()).len(),
            shards + 2,
            "{:?}",
            common::names(dir.path())
        );
    }
    assert_eq!(fanout.incr("number", 1, 0).expect("incr").to_string(), "8");
    fanout
        .push(Some(b"jobs"), "3", Side::Back, &SetOptions::default())
        .expect("push");
    let (key, _) = fanout
        .peek(Some(b"jobs"), Side::Back)
        .expect("peek")
        .expect("one");
    assert_eq!(key, b"jobs-500000000000002");
    let none = work_dir();
    assert!(matches!(
        Fanout::reshard(none.path(), 2),
        Err(Error::NotAStore { .. })
    ));
    assert_eq!(common::names(none.path()).len(), 0);
}

#[test]
fn whoever_divides_it_anew_may_be_killed_and_writers_go_on() {
    let mut dice = Dice::new(seed("reshard"));
    let dir = work_dir();
    let fanout = open(dir.path(), 2);
    let items = (0..3_000).map(|n| (format!("k{n}"), vec![n as u8; 50]));
    fanout.set_many(items, &SetOptions::default()).expect("set");
    drop(fanout);
    let mut writer = common::start("writer", dir.path(), &[]);
    writer.expect("opened");
    let (mut killed, mut done) = (0, 0);
    for _ in 0..10 {
        let shards = Fanout::open(dir.path()).expect("opens").shards();
        let wanted = shards as u64 % 4 + 1;
        let mut resharder = common::start("resharder", dir.path(), &[wanted]);
        resharder.expect("go");
        std::thread::sleep(Duration::from_micros(dice.below(90_000)));
        // It may have ended by itself just now.
        resharder.signal(rustix::process::Signal::KILL);
        drop(resharder);
        let fanout = Fanout::open(dir.path()).expect("opens");
        match fanout.shards() == shards {
            true => killed += 1,
            false => done += 1,
        }
        for n in [0, 1, 2_999, dice.below(3_000)] {
            let value = fanout.get(format!("k{n}")).expect("get").expect("there");
            assert_eq!(value, vec![n as u8; 50]);
        }
        assert!(fanout.len().expect("len") >= 3_000);
        assert_sound(&fanout);
    }
    println!("killed before {killed}, after {done}");
    // What was acknowledged is there, in whatever shards.
    let last = writer
        .kill()
        .iter()
        .rev()
        .find_map(|line| line.strip_prefix("count ").map(str::to_owned));
    let last: u64 = last.expect("it wrote").parse().expect("a number");
    let fanout = Fanout::open(dir.path()).expect("opens");
    for at in 0..7 {
        let value = fanout
            .get(format!("count {at}"))
            .expect("get")
            .expect("there");
        let newest = (0..last).rev().find(|n| n % 7 == at).map_or(0, |n| n + 1);
        assert!(
            number(&value) >= newest,
            "{at} is {}, {newest} was acknowledged",
            number(&value)
        );
    }
}

// ---- fork ----

/// `fork`, as a number: 0 in the child.
fn fork() -> i32 {
    // SAFETY: the child runs on this one thread, touches only what the test made for it and ends
    // by `_exit`; glibc keeps its allocator usable in a child.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork failed");
    pid
}

/// Ends a forked child without running anything that is its parent's to run.
fn end_child(good: bool) -> ! {
    // SAFETY: `_exit` only ends the process.
    unsafe { libc::_exit(if good { 0 } else { 1 }) }
}

/// Waits for a child; whether it ended well.
fn wait_for(pid: i32) -> bool {
    let mut status = 0;
    // SAFETY: `status` outlives the call, and `pid` is a child nobody else waits for.
    let got = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    got == pid && libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
}

fn go_on(fanout: &Fanout, who: &str) -> bool {
    let once = |n: u32| -> larder::Result<bool> {
        fanout.set(format!("{who}/{n}"), "x")?;
        fanout.transact(|tx| {
            tx.incr("a", 1, 0)?;
            tx.incr("b", 1, 0)?;
            tx.incr("c", 1, 0)
        })?;
        Ok(fanout.contains(format!("{who}/{n}"))? && fanout.get("before")?.is_some())
    };
    (0..60).all(|n| matches!(once(n), Ok(true)))
}

fn fork_and_go_on(job: &common::Job) {
    let fanout = Fanout::open(&job.store).expect("opens");
    fanout.set("before", "the fork").expect("set");
    let pid = fork();
    if pid == 0 {
        end_child(go_on(&fanout, "child"));
    }
    let good = go_on(&fanout, "parent");
    assert!(wait_for(pid) && good);
    // A child forked inside has no part in it, and marks nothing by ending it.
    let parent = std::process::id();
    let mut child = 0;
    let done = fanout.transact(|tx| {
        for n in 0..9 {
            tx.set(format!("inside {n}"), "x")?;
        }
        child = fork();
        if child != 0 {
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    });
    if std::process::id() != parent {
        end_child(matches!(done, Err(Error::Forked)));
    }
    done.expect("the parent commits");
    assert!(wait_for(child));
    let is_there = |n| fanout.contains(format!("inside {n}")).expect("contains");
    assert!((0..9).all(is_there));
}

#[test]
fn a_fork_goes_on_in_both() {
    let dir = work_dir();
    let fanout = open(dir.path(), 3);
    common::start("forker", dir.path(), &[]).finish();
    for key in ["a", "b", "c"] {
        assert_eq!(fanout.get(key).expect("get").expect("counted"), "120");
    }
    assert_sound(&fanout);
}

#[test]
fn what_is_missing_is_made_once_and_kept_in_its_shard() {
    let dir = common::work_dir();
    let fanout = Cache::builder()
        .open_fanout(dir.path(), Some(4))
        .expect("a store");
    let keys: Vec<String> = (0..40).map(|n| format!("key/{n}")).collect();
    let mut made = 0;
    for round in 0..2 {
        let values = fanout
            .get_or_compute_many(&keys, None, |missing| {
                made += missing.len();
                Ok::<_, larder::Error>(missing.iter().map(|key| key.to_uppercase()).collect())
            })
            .expect("values");
        for (key, value) in keys.iter().zip(&values) {
            assert_eq!(value.as_ref(), key.to_uppercase().as_bytes(), "{round}");
        }
    }
    assert_eq!(made, 40);
    let value = fanout
        .get_or_compute("key/0", None, || -> larder::Result<&str> {
            panic!("it is there")
        })
        .expect("the value");
    assert_eq!(value.as_ref(), b"KEY/0");
}

#[test]
fn views_of_a_divided_store_stay_when_it_is_divided_anew() {
    let dir = common::work_dir();
    let fanout = Cache::builder()
        .open_fanout(dir.path(), Some(2))
        .expect("a store");
    let jobs = fanout.queue::<u32>("jobs").expect("a queue");
    let last = fanout.deque::<u32>("last").expect("a deque");
    fanout
        .views()
        .expect("the views")
        .transact(|_| {
            jobs.push(&7)?;
            last.push_back(&7)
        })
        .expect("one batch");
    fanout.set("k", "v").expect("set");
    drop((jobs, last, fanout));
    larder::Fanout::reshard(dir.path(), 3).expect("three shards");
    let fanout = larder::Fanout::open(dir.path()).expect("it opens");
    assert_eq!(fanout.shards(), 3);
    assert_eq!(fanout.get("k").expect("get").as_deref(), Some(&b"v"[..]));
    assert_eq!(
        fanout
            .deque::<u32>("last")
            .expect("a deque")
            .pop_front()
            .expect("pop"),
        Some(7)
    );
    let jobs = fanout.queue::<u32>("jobs").expect("a queue");
    let job = jobs.lease(Duration::from_secs(60)).expect("lease");
    assert_eq!(job.map(|job| *job), Some(7));
    let index = fanout.index::<String, u32>("names").expect("an index");
    index.insert("a", &1).expect("insert");
    assert_eq!(
        fanout
            .views()
            .expect("views")
            .view_names(larder::ViewKind::Index)
            .expect("names")
            .len(),
        1
    );
}
