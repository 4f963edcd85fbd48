//! Whoever watches is told all that any process changes, or that not all is told.
//!
//! Pictures of the cache are kept by what is told alone, and compared with the cache: while processes
//! write, remove and compact; after a stop that was too long; across processes, kills and rebuilds.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Dice, Watch as Limit, hear, job, leave, say, start};
use larder::{
    Budget, Cache, ChangeKind, Expiry, GapCause, ManualClock, SetOptions, Side, Watch, WatchEvent,
    WatchFilter,
};
use rustix::process::Signal;

type Picture = BTreeMap<Vec<u8>, Vec<u8>>;

/// What the cache holds, read entry by entry. Nobody may write meanwhile.
fn contents(cache: &Cache) -> Picture {
    let pairs = cache.iter().expect("an iterator");
    pairs
        .map(|pair| pair.map(|(key, value)| (key, value.to_vec())))
        .collect::<Result<_, _>>()
        .expect("the cache can be read")
}

/// A picture of a cache, kept by what a watch tells; after a gap, a new one.
struct Follower {
    cache: Cache,
    watch: Watch,
    picture: Picture,
    gaps: Vec<GapCause>,
    told: u64,
}

impl Follower {
    fn new(cache: &Cache) -> Follower {
        let watch = cache
            .watch(WatchFilter::all().with_values())
            .expect("a watch");
        Follower {
            cache: cache.clone(),
            watch,
            picture: contents(cache),
            gaps: Vec::new(),
            told: 0,
        }
    }

    fn apply(&mut self, event: WatchEvent) {
        self.told += 1;
        match event {
            WatchEvent::Gap(gap) => {
                assert!(gap.from <= gap.to, "{gap:?}");
                self.gaps.push(gap.cause);
                self.picture = contents(&self.cache);
            }
            WatchEvent::Change(change) => match change.kind {
                ChangeKind::Set => {
                    // Without a value: its file has gone, so something later is told of it.
                    let value = change.value.map_or(Vec::new(), |value| value.to_vec());
                    self.picture.insert(change.key, value);
                }
                _ => {
                    self.picture.remove(&change.key);
                }
            },
        }
    }

    fn catch_up(&mut self) {
        while let Some(event) = self.watch.poll().expect("the watch goes on") {
            self.apply(event);
        }
    }
}

fn assert_same(picture: &Picture, cache: &Cache) {
    let there = contents(cache);
    let missing: Vec<_> = there
        .keys()
        .filter(|key| !picture.contains_key(*key))
        .collect();
    let extra: Vec<_> = picture
        .keys()
        .filter(|key| !there.contains_key(*key))
        .collect();
    let text = |keys: Vec<&Vec<u8>>| {
        let some = keys
            .iter()
            .take(5)
            .map(|key| key.escape_ascii().to_string());
        (keys.len(), some.collect::<Vec<_>>())
    };
    assert!(
        missing.is_empty() && extra.is_empty(),
        "not told of {:?}; told and not there: {:?}",
        text(missing),
        text(extra)
    );
    for (key, value) in &there {
        assert!(
            picture[key] == *value,
            "another value of {}",
            key.escape_ascii()
        );
    }
}

/// All that is told now.
fn all(watch: &mut Watch) -> Vec<WatchEvent> {
    std::iter::from_fn(|| watch.poll().expect("the watch goes on")).collect()
}

/// Kind and key of each; a gap has none.
fn words(events: Vec<WatchEvent>) -> Vec<(ChangeKind, String)> {
    let changes = events.into_iter().filter_map(WatchEvent::change);
    changes
        .map(|change| {
            let key = String::from_utf8(change.key).expect("the tests' keys are text");
            (change.kind, key)
        })
        .collect()
}

fn expect(watch: &mut Watch, wanted: &[(ChangeKind, &str)]) {
    let told = words(all(watch));
    let told: Vec<_> = told
        .iter()
        .map(|(kind, key)| (*kind, key.as_str()))
        .collect();
    assert_eq!(told, wanted);
}

// ---- processes ----

#[test]
fn role_entry() {
    let Some(job) = job() else { return };
    let cache = Cache::open(&job.store).expect("a worker opens the store");
    match job.role.as_str() {
        "churn" => churn(&cache, &job.args),
        "follow" => follow(&cache),
        "batches" => batches(&cache, &job.args),
        "tell" => tell(&cache, &job.args),
        role => panic!("no role {role}"),
    }
    leave();
}

/// Does all that can be done to a cache, so many things after each word it hears.
fn churn(cache: &Cache, args: &[u64]) {
    let (mut dice, count) = (Dice::new(args[0]), args[1]);
    say("ready");
    while hear() != "stop" {
        for _ in 0..count {
            change(cache, &mut dice);
        }
        say("done");
    }
}

fn change(cache: &Cache, dice: &mut Dice) {
    let key = |dice: &mut Dice| format!("key-{}", dice.below(300));
    let len = if dice.one_in(40) {
        5_000
    } else {
        dice.below(600)
    };
    let value = dice.bytes(len as usize);
    let mut options = SetOptions::default();
    if dice.one_in(3) {
        options = options.tag(format!("tag-{}", dice.below(4)));
    }
    if dice.one_in(4) {
        options = options.ttl(Duration::from_millis(dice.below(300)));
    }
    let name = key(dice);
    let done = match dice.below(100) {
        0..50 => cache.set_with(&name, &value, &options),
        50..65 => cache.delete(&name).map(drop),
        65..72 => cache.touch(&name, Expiry::Never).map(drop),
        72..86 => {
            let names: Vec<String> = (0..2 + dice.below(9)).map(|_| key(dice)).collect();
            let removes = dice.below(3);
            cache.transact(|tx| {
                for (n, name) in names.iter().enumerate() {
                    if (n as u64) < removes {
                        tx.delete(name)?;
                    } else {
                        tx.set_with(name, &value, &options)?;
                    }
                }
                Ok(())
            })
        }
        86..90 => cache.push(None, &value, Side::Back, &options).map(drop),
        90..94 => cache.pull(None, Side::Front).map(drop),
        94..97 => cache.evict_tag(format!("tag-{}", dice.below(4))).map(drop),
        97 => cache.expire().map(drop),
        98 if dice.one_in(4) => cache.clear().map(drop),
        _ => cache.maintain(&Budget::default()).map(drop),
    };
    done.expect("the cache can be changed");
}

/// Keeps a picture until it hears a word, then says whether it is right.
fn follow(cache: &Cache) {
    let mut follower = Follower::new(cache);
    let words = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let _ = words.0.send(hear());
    });
    say("ready");
    loop {
        if let Some(event) = follower
            .watch
            .next_timeout(Duration::from_millis(20))
            .expect("the watch goes on")
        {
            follower.apply(event);
        }
        if words.1.try_recv().is_ok() {
            break;
        }
    }
    follower.catch_up();
    assert_same(&follower.picture, cache);
    say(&format!("gaps {}", follower.gaps.len()));
}

/// Batches of so many keys, each with one number.
fn batches(cache: &Cache, args: &[u64]) {
    let mut number = args[0];
    say("ready");
    loop {
        number += 1;
        let value = number.to_le_bytes();
        let items = (0..args[1]).map(|n| (format!("batch-{n}"), value));
        cache
            .set_many(items, &SetOptions::default())
            .expect("a batch");
    }
}

/// Tells so many keys from a position on, and the position it came to.
fn tell(cache: &Cache, args: &[u64]) {
    let mut watch = cache
        .watch_from(WatchFilter::all(), args[0])
        .expect("a watch");
    for _ in 0..args[1] {
        match watch.poll().expect("the watch goes on") {
            Some(WatchEvent::Change(change)) => {
                let name = String::from_utf8(change.key).expect("text");
                say(&format!("key {:?} {name}", change.kind));
            }
            Some(WatchEvent::Gap(gap)) => panic!("a gap: {gap:?}"),
            None => break,
        }
    }
    say(&format!("seq {}", watch.seq()));
}

// ---- stories ----

#[test]
fn each_kind_of_change_is_told_by_its_name() {
    let clock = Arc::new(ManualClock::new(1_700_000_000_000));
    let dir = common::fast_dir();
    let cache = common::small()
        .clock(Arc::clone(&clock) as Arc<dyn larder::Clock>)
        .open(dir.path().join("s"))
        .expect("a store");
    let mut watch = cache.watch(WatchFilter::all()).expect("a watch");
    let ttl = |s| SetOptions::default().ttl(Duration::from_secs(s));
    cache.set("a", "1").expect("set");
    cache.set("a", "2").expect("set");
    cache.set_with("b", "1", &ttl(1)).expect("set");
    cache
        .set_with("c", "1", &SetOptions::default().tag("t"))
        .expect("set");
    cache.delete("a").expect("delete");
    use ChangeKind::{Cleared, Culled, Deleted, Evicted, Expired, Set};
    expect(
        &mut watch,
        &[
            (Set, "a"),
            (Set, "a"),
            (Set, "b"),
            (Set, "c"),
            (Deleted, "a"),
        ],
    );
    clock.advance(Duration::from_secs(5));
    expect(&mut watch, &[]);
    assert_eq!(cache.expire().expect("expire"), 1);
    expect(&mut watch, &[(Expired, "b")]);
    assert_eq!(cache.evict_tag("t").expect("evict"), 1);
    expect(&mut watch, &[(Evicted, "c")]);
    cache
        .set_many([("d", "1"), ("e", "1"), ("f", "1")], &SetOptions::default())
        .expect("a batch");
    expect(&mut watch, &[(Set, "d"), (Set, "e"), (Set, "f")]);
    cache
        .update_settings(|settings| settings.count_limit = Some(2))
        .expect("settings");
    cache.cull().expect("cull");
    let told = words(all(&mut watch));
    assert!(
        matches!(told.as_slice(), [(Culled, _)]),
        "one is above the limit: {told:?}"
    );
    cache.clear().expect("clear");
    let told = words(all(&mut watch));
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told.iter().all(|(kind, _)| *kind == Cleared), "{told:?}");
    let _ = cache.transact(|tx| {
        tx.set("g", "1")?;
        Err::<(), _>(larder::Error::Aborted {
            what: "no".to_owned(),
        })
    });
    expect(&mut watch, &[]);
}

#[test]
fn filters_tell_what_they_name_and_every_end_of_it() {
    let cache = Cache::temporary().expect("a store");
    let mut prefix = cache.watch(WatchFilter::prefix("user/")).expect("a watch");
    let mut tag = cache.watch(WatchFilter::tag("hot")).expect("a watch");
    let with = |tags: &[&str]| {
        tags.iter()
            .fold(SetOptions::default(), |options, tag| options.tag(tag))
    };
    use ChangeKind::{Deleted, Evicted, Set};
    cache.set("plain", "1").expect("set");
    cache.set("plain", "2").expect("set");
    cache.delete("plain").expect("delete");
    cache.set_with("user/1", "1", &with(&["hot"])).expect("set");
    cache
        .set_with("user/2", "1", &with(&["hot", "new"]))
        .expect("set");
    cache.set_with("page", "1", &with(&["new"])).expect("set");
    expect(&mut prefix, &[(Set, "user/1"), (Set, "user/2")]);
    expect(&mut tag, &[(Set, "user/1"), (Set, "user/2")]);
    // Overwritten without the tag: its end, for who watches the tag.
    cache.set("user/1", "2").expect("set");
    cache.set("user/1", "3").expect("set");
    expect(&mut tag, &[(Set, "user/1")]);
    cache.evict_tag("new").expect("evict");
    expect(&mut tag, &[(Evicted, "user/2")]);
    cache.set_with("x", "1", &with(&["hot"])).expect("set");
    cache
        .transact(|tx| tx.delete("x").map(drop))
        .expect("a batch");
    cache.set_with("y", "1", &with(&["hot"])).expect("set");
    cache
        .transact(|tx| {
            tx.delete("y")?;
            tx.set("y", "2")?;
            tx.set("z", "2")
        })
        .expect("a batch");
    expect(
        &mut tag,
        &[(Set, "x"), (Deleted, "x"), (Set, "y"), (Set, "y")],
    );
    prefix.poll().expect("the watch goes on");
    // More tags than one journal holds.
    let many: Vec<String> = (0..50).map(|n| format!("tag {n}")).collect();
    let mut many: Vec<&str> = many.iter().map(String::as_str).collect();
    many.push("hot");
    cache.set_with("m", "1", &with(&many)).expect("set");
    cache.delete("m").expect("delete");
    expect(&mut tag, &[(Set, "m"), (Deleted, "m")]);
    // A batch that takes tags away is told, whichever they were.
    let mut values = cache
        .watch(WatchFilter::prefix("v").with_values())
        .expect("a watch");
    cache.set_with("v", "7", &with(&["hot"])).expect("set");
    let change = values
        .poll()
        .expect("a change")
        .and_then(WatchEvent::change);
    let change = change.expect("a change");
    assert_eq!(change.value.as_deref(), Some(&b"7"[..]));
    assert_eq!(change.tags, [b"hot".to_vec()]);
}

#[test]
fn what_went_while_nobody_watched_is_a_gap_with_its_count() {
    let dir = common::fast_dir();
    let path = dir.path().join("s");
    let cache = common::small().open(&path).expect("a store");
    for n in 0..10 {
        cache.set(format!("k{n}"), "1").expect("set");
    }
    assert_eq!(cache.clear().expect("clear"), 10);
    cache.set("after", "1").expect("set");
    let mut watch = cache.watch_from(WatchFilter::all(), 0).expect("a watch");
    let told = all(&mut watch);
    let gaps: Vec<_> = told
        .iter()
        .filter_map(|event| match event {
            WatchEvent::Gap(gap) => Some((gap.cause, gap.removed)),
            WatchEvent::Change(_) => None,
        })
        .collect();
    assert_eq!(gaps, [(GapCause::Unnamed, Some(10))]);
    assert_eq!(told.len(), 12);
    // Watched from now on, also by who is not there for the moment.
    let seq = watch.seq();
    drop(watch);
    assert_eq!(cache.clear().expect("clear"), 1);
    let mut watch = cache.watch_from(WatchFilter::all(), seq).expect("a watch");
    expect(&mut watch, &[(ChangeKind::Cleared, "after")]);
    // A position nobody gave is no reason to be silent.
    let mut watch = cache
        .watch_from(WatchFilter::all(), seq + 1_000_000)
        .expect("a watch");
    let told = all(&mut watch);
    assert!(
        matches!(told.as_slice(), [WatchEvent::Gap(gap)] if gap.cause == GapCause::Rebuilt),
        "{told:?}"
    );
}

#[test]
fn whoever_keeps_up_has_the_right_picture() {
    let _limit = Limit::new(Duration::from_secs(90), "three writers, one watcher".into());
    let mut dice = Dice::new(common::seed("whoever_keeps_up"));
    let dir = common::fast_dir();
    let path = dir.path().join("s");
    let cache = common::small()
        .size_limit_bytes(2 << 20)
        .count_limit(Some(200))
        .open(&path)
        .expect("a store");
    let mut follower = Follower::new(&cache);
    let mut workers: Vec<_> = (0..3)
        .map(|_| start("churn", &path, &[dice.roll(), 25]))
        .collect();
    workers.iter_mut().for_each(|one| drop(one.expect("ready")));
    for round in 0..40 {
        for worker in &mut workers {
            worker.tell("go");
        }
        for worker in &mut workers {
            let until = Instant::now() + Duration::from_secs(30);
            while worker.hear_within(Duration::from_millis(1)).is_none() {
                follower.catch_up();
                assert!(Instant::now() < until, "a worker is stuck");
            }
        }
        // What has expired is there until it is removed.
        std::thread::sleep(Duration::from_millis(10));
        cache.expire().expect("expire");
        follower.catch_up();
        cache.compact().expect("compact");
        follower.catch_up();
        assert!(
            follower.gaps.is_empty(),
            "round {round}: {:?}",
            follower.gaps
        );
    }
    for mut worker in workers {
        worker.tell("stop");
        worker.finish();
    }
    std::thread::sleep(Duration::from_millis(320));
    cache.expire().expect("expire");
    follower.catch_up();
    assert!(follower.gaps.is_empty(), "{:?}", follower.gaps);
    assert!(follower.told > 2_000, "{} changes", follower.told);
    assert_same(&follower.picture, &cache);
    common::assert_sound(&cache);
}

#[test]
fn whoever_is_stopped_too_long_sees_a_gap_and_is_right_again() {
    let _limit = Limit::new(Duration::from_secs(60), "a stopped watcher".into());
    let mut dice = Dice::new(common::seed("whoever_is_stopped"));
    let dir = common::fast_dir();
    let path = dir.path().join("s");
    let cache = common::small()
        .size_limit_bytes(1 << 20)
        .open(&path)
        .expect("a store");
    let mut watcher = start("follow", &path, &[]);
    watcher.expect("ready");
    cache.set("early", "1").expect("set");
    watcher.signal(Signal::STOP);
    for n in 0..3_000 {
        let len = dice.below(900) as usize;
        cache
            .set(format!("key-{}", n % 2_000), dice.bytes(len))
            .expect("set");
    }
    watcher.signal(Signal::CONT);
    watcher.tell("enough");
    let gaps: u64 = watcher.expect("gaps").parse().expect("a number");
    assert!(gaps > 0, "it was stopped for longer than the log is long");
    watcher.finish();
}

#[test]
fn another_process_goes_on_where_one_ended() {
    let _limit = Limit::new(Duration::from_secs(60), "one watch after another".into());
    let dir = common::fast_dir();
    let path = dir.path().join("s");
    let cache = common::small().open(&path).expect("a store");
    let first = cache.watch(WatchFilter::all()).expect("a watch").seq();
    let mut wanted = Vec::new();
    for n in 0..40 {
        cache
            .set_with(format!("k{n}"), "1", &SetOptions::default().tag("t"))
            .expect("set");
        wanted.push(format!("Set k{n}"));
    }
    cache.evict_tag("t").expect("evict");
    let mut told: Vec<String> = Vec::new();
    let mut seq = first;
    for _ in 0..30 {
        let mut one = start("tell", &path, &[seq, 7]);
        loop {
            let line = one.hear();
            if let Some(at) = line.strip_prefix("seq ") {
                seq = at.parse().expect("a position");
                break;
            }
            let change = line.strip_prefix("key ").expect("a key").to_owned();
            // What went at once may be told again.
            if !told.contains(&change) {
                told.push(change);
            }
        }
        one.finish();
        if told.len() >= 47 {
            break;
        }
    }
    assert_eq!(told[..40], wanted);
    assert!(told[40..].iter().all(|line| line.starts_with("Evicted ")));
    // Seven at a time never come behind forty that went at once.
    assert_eq!(told.len(), 47);
    let mut rest = start("tell", &path, &[seq, 1_000]);
    let lines: Vec<String> = std::iter::from_fn(|| Some(rest.hear()))
        .take_while(|line| !line.starts_with("seq "))
        .collect();
    assert_eq!(lines.len(), 40);
    rest.finish();
}

#[test]
fn a_batch_of_a_killed_writer_is_told_whole_or_not_at_all() {
    let _limit = Limit::new(Duration::from_secs(60), "killed writers of batches".into());
    let mut dice = Dice::new(common::seed("a_batch_of_a_killed_writer"));
    let dir = common::fast_dir();
    let path = dir.path().join("s");
    let cache = common::small()
        .size_limit_bytes(8 << 20)
        .open(&path)
        .expect("a store");
    const KEYS: u64 = 25;
    let mut follower = Follower::new(&cache);
    let mut part: Vec<(Vec<u8>, u64)> = Vec::new();
    let mut number = 0;
    for round in 0..25 {
        let mut writer = start("batches", &path, &[number, KEYS]);
        writer.expect("ready");
        let end = Instant::now() + Duration::from_micros(2_000 + dice.below(25_000));
        while Instant::now() < end {
            hear_batches(&mut follower, &mut part, &mut number, KEYS as usize);
        }
        writer.kill();
        // Told without anybody writing anew: whoever watches completes what was decided.
        let until = Instant::now() + Duration::from_millis(60);
        while Instant::now() < until {
            hear_batches(&mut follower, &mut part, &mut number, KEYS as usize);
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(
            part.is_empty(),
            "round {round}: half a batch: {}",
            part.len()
        );
        follower.catch_up();
        assert_same(&follower.picture, &cache);
    }
    assert!(number > 25, "{number} batches were told");
}

/// Takes what is told; each number must come for every key, one after the other.
fn hear_batches(
    follower: &mut Follower,
    part: &mut Vec<(Vec<u8>, u64)>,
    number: &mut u64,
    keys: usize,
) {
    while let Some(event) = follower.watch.poll().expect("the watch goes on") {
        follower.apply(event.clone());
        let Some(change) = event.change() else {
            part.clear();
            continue;
        };
        let value = change.value.expect("a small value");
        let value = u64::from_le_bytes(value[..].try_into().expect("a number"));
        part.push((change.key, value));
        assert!(
            part.iter().all(|(_, other)| *other == value),
            "two batches are mixed: {part:?}"
        );
        if part.len() == keys {
            *number = value;
            part.clear();
        }
    }
    assert!(part.is_empty(), "half a batch was told: {part:?}");
}

#[test]
fn what_killed_processes_removed_is_told_as_it_is() {
    let _limit = Limit::new(Duration::from_secs(90), "killed removers".into());
    let mut dice = Dice::new(common::seed("what_killed_processes_removed"));
    let dir = common::fast_dir();
    let path = dir.path().join("s");
    // Segments that even a watcher who has to wait for a processor reads in time.
    let cache = Cache::builder()
        .size_limit_bytes(256 << 20)
        .segment_size_bytes(4 << 20)
        .large_value_bytes(common::SMALL_LARGE_VALUE_BYTES)
        .count_limit(Some(150))
        .open(&path)
        .expect("a store");
    let mut follower = Follower::new(&cache);
    for round in 1..=30 {
        let mut workers: Vec<_> = (0..2)
            .map(|_| start("churn", &path, &[dice.roll(), 100_000]))
            .collect();
        workers.iter_mut().for_each(|one| drop(one.expect("ready")));
        workers.iter_mut().for_each(|one| one.tell("go"));
        let end = Instant::now() + Duration::from_micros(500 + dice.below(15_000));
        while Instant::now() < end {
            follower.catch_up();
        }
        for worker in workers {
            worker.kill();
        }
        if round % 5 == 0 {
            std::thread::sleep(Duration::from_millis(320));
            cache.expire().expect("expire");
            follower.catch_up();
            assert_same(&follower.picture, &cache);
        }
    }
    println!("{} changes, {} gaps", follower.told, follower.gaps.len());
    let is_behind = |cause: &GapCause| *cause == GapCause::Behind;
    assert!(follower.gaps.iter().all(is_behind), "{:?}", follower.gaps);
    common::assert_sound(&cache);
}

#[test]
fn a_rebuild_in_between_is_a_gap_or_right() {
    let _limit = Limit::new(Duration::from_secs(60), "watching across rebuilds".into());
    let mut dice = Dice::new(common::seed("a_rebuild_in_between"));
    let dir = common::fast_dir();
    let path = dir.path().join("s");
    let open = || {
        common::small()
            .size_limit_bytes(2 << 20)
            .open(&path)
            .expect("a store")
    };
    let mut cache = open();
    let mut follower = Follower::new(&cache);
    let mut seamless = 0;
    for round in 0..14 {
        let (seq, picture, gaps) = {
            for _ in 0..dice.below(120) {
                change(&cache, &mut dice);
            }
            if !dice.one_in(3) {
                follower.catch_up();
            }
            (follower.watch.seq(), follower.picture, follower.gaps.len())
        };
        for _ in 0..dice.below(40) {
            change(&cache, &mut dice);
        }
        drop(follower.watch);
        drop(follower.cache);
        drop(cache);
        if dice.one_in(2) {
            common::forget_derived(&path);
        }
        cache = open();
        for _ in 0..dice.below(40) {
            change(&cache, &mut dice);
        }
        std::thread::sleep(Duration::from_millis(320));
        cache.expire().expect("expire");
        let watch = cache
            .watch_from(WatchFilter::all().with_values(), seq)
            .expect("a watch");
        follower = Follower {
            cache: cache.clone(),
            watch,
            picture,
            gaps: Vec::new(),
            told: 0,
        };
        follower.catch_up();
        println!("round {round}: {gaps} gaps before, {:?} now", follower.gaps);
        seamless += u64::from(follower.gaps.is_empty());
        assert_same(&follower.picture, &cache);
    }
    assert!(seamless > 3, "a rebuild need not be a gap: {seamless}");
}

#[test]
fn a_position_that_was_taken_back_is_a_gap() {
    let dir = common::fast_dir();
    let (path, then) = (dir.path().join("s"), dir.path().join("then"));
    let cache = common::small().open(&path).expect("a store");
    for n in 0..50 {
        cache.set(format!("early-{n}"), "1").expect("set");
    }
    let early = cache.watch(WatchFilter::all()).expect("a watch").seq();
    // What a power loss would leave: the log up to here.
    common::copy_store(&path, &then);
    common::forget_derived(&then);
    for n in 0..50 {
        cache.set(format!("lost-{n}"), "1").expect("set");
    }
    let late = cache.watch(WatchFilter::all()).expect("a watch").seq();
    drop(cache);
    let cache = Cache::open(&then).expect("it is rebuilt");
    for n in 0..200 {
        cache.set(format!("new-{n}"), "1").expect("set");
    }
    let mut watch = cache
        .watch_from(WatchFilter::all(), early)
        .expect("a watch");
    let told = words(all(&mut watch));
    assert_eq!(told.len(), 200, "{told:?}");
    let mut watch = cache.watch_from(WatchFilter::all(), late).expect("a watch");
    assert_eq!(watch.seq(), late);
    let told = all(&mut watch);
    assert!(
        matches!(told.as_slice(), [WatchEvent::Gap(gap)] if gap.cause == GapCause::Rebuilt),
        "{told:?}"
    );
    assert!(watch.seq() > late);
    let mut again = cache
        .watch_from(WatchFilter::all(), watch.seq())
        .expect("a watch");
    cache.set("last", "1").expect("set");
    expect(&mut again, &[(ChangeKind::Set, "last")]);
    // All there is, whatever life it is of.
    let mut watch = cache.watch_from(WatchFilter::all(), 0).expect("a watch");
    assert_eq!(words(all(&mut watch)).len(), 251);
}

#[test]
fn a_watcher_wakes_soon_after_another_process_has_written() {
    let _limit = Limit::new(Duration::from_secs(30), "waking up".into());
    let dir = common::fast_dir();
    let path = dir.path().join("s");
    let cache = common::small().open(&path).expect("a store");
    let mut watch = cache.watch(WatchFilter::all()).expect("a watch");
    let mut worker = start("churn", &path, &[7, 1]);
    worker.expect("ready");
    let ((), waited) = common::timed(|| {
        assert_eq!(
            watch
                .next_timeout(Duration::from_millis(30))
                .expect("no change"),
            None
        );
    });
    assert!(waited >= Duration::from_millis(30));
    let mut heard = 0;
    for _ in 0..20 {
        worker.tell("go");
        worker.expect("done");
        while let Some(event) = watch
            .next_timeout(Duration::from_millis(200))
            .expect("the watch goes on")
        {
            heard += 1;
            drop(event);
            if heard % 2 == 0 {
                break;
            }
        }
    }
    assert!(heard > 0);
    worker.tell("stop");
    worker.finish();
}

#[test]
fn what_is_damaged_or_missing_is_a_gap_and_the_rest_is_told() {
    let _limit = Limit::new(Duration::from_secs(60), "watching a damaged log".into());
    let mut dice = Dice::new(common::seed("what_is_damaged"));
    let dir = common::fast_dir();
    let path = dir.path().join("s");
    let cache = common::small().open(&path).expect("a store");
    for n in 0..1_200 {
        cache
            .set(format!("key-{n:05}"), dice.bytes(150))
            .expect("set");
    }
    let whole = told_keys(&cache);
    assert_eq!(whole.0.len(), 1_200);
    assert!(whole.1.is_empty());
    let segments = cache.segments().expect("segments");
    assert!(segments.len() > 3);
    let file = |id: u64| path.join(format!("{id:016x}.seg"));
    // One bit of a key, and the whole of another segment.
    let mut bytes = std::fs::read(file(segments[0])).expect("a segment");
    let at = bytes
        .windows(9)
        .position(|window| window == b"key-00100")
        .expect("the key is there");
    common::flip(&file(segments[0]), at as u64 * 8 + 3);
    std::fs::remove_file(file(segments[2])).expect("a file");
    bytes.clear();
    // Another handle, which has not mapped it yet.
    let other = Cache::open(&path).expect("the store opens");
    let (keys, gaps) = told_keys(&other);
    assert_eq!(gaps, [GapCause::Damaged, GapCause::Damaged]);
    assert!(keys.len() < 1_200 && keys.len() > 600, "{}", keys.len());
    assert!(!keys.contains(&b"key-00100".to_vec()));
    assert!(keys.contains(&b"key-00101".to_vec()));
    assert!(keys.contains(&b"key-01199".to_vec()));
    // Repaired, whoever went on watching is told that not all was told.
    let mut watch = other.watch(WatchFilter::all()).expect("a watch");
    assert!(!other.repair().expect("repair").lost.is_empty());
    let told = all(&mut watch);
    assert!(
        told.iter().any(|event| matches!(event, WatchEvent::Gap(_))),
        "{told:?}"
    );
    other.set("after", "1").expect("set");
    let told = words(all(&mut watch));
    assert_eq!(told, [(ChangeKind::Set, "after".to_owned())]);
}

/// The keys told from the log's beginning on, and the gaps.
fn told_keys(cache: &Cache) -> (Vec<Vec<u8>>, Vec<GapCause>) {
    let mut watch = cache.watch_from(WatchFilter::all(), 0).expect("a watch");
    let (mut keys, mut gaps) = (Vec::new(), Vec::new());
    for event in all(&mut watch) {
        match event {
            WatchEvent::Change(change) => keys.push(change.key),
            WatchEvent::Gap(gap) => gaps.push(gap.cause),
        }
    }
    (keys, gaps)
}

#[test]
fn the_longest_keys_and_most_tags_are_told_too() {
    let dir = common::fast_dir();
    let cache = common::small()
        .size_limit_bytes(16 << 20)
        .open(dir.path().join("s"))
        .expect("a store");
    let mut watch = cache.watch(WatchFilter::all()).expect("a watch");
    let key = |n: u8| vec![n; larder::KEY_LEN_MAX - usize::from(n)];
    let tags: Vec<String> = (0..larder::TAGS_MAX).map(|n| format!("t{n}")).collect();
    let options = SetOptions::default().tags(&tags);
    let mut told = |kind: ChangeKind, tags: usize| -> Vec<Vec<u8>> {
        let changes = all(&mut watch).into_iter().map(|event| {
            let change = event.change().expect("no gap");
            (change.kind, change.key, change.tags.len())
        });
        let of_kind = changes.filter(|(of, _, _)| *of == kind);
        of_kind
            .map(|(_, key, count)| {
                assert_eq!(count, tags);
                key
            })
            .collect()
    };
    for n in 1..8 {
        cache.set_with(key(n), "1", &options).expect("set");
    }
    assert_eq!(told(ChangeKind::Set, tags.len()).len(), 7);
    assert_eq!(cache.evict_tag("t7").expect("evict"), 7);
    let mut gone = told(ChangeKind::Evicted, tags.len());
    gone.sort_unstable();
    assert!(gone == (1..8).map(key).collect::<Vec<_>>());
    // By a drop: culling walks the log.
    for n in 1..8 {
        cache.set(key(n), "1").expect("set");
    }
    cache
        .update_settings(|settings| settings.count_limit = Some(1))
        .expect("settings");
    cache.cull().expect("cull");
    assert_eq!(told(ChangeKind::Culled, 0).len(), 6);
}

#[test]
fn a_full_store_can_be_emptied_while_somebody_watches() {
    let _limit = Limit::new(Duration::from_secs(60), "a full store".into());
    let mut dice = Dice::new(common::seed("a_full_store"));
    let dir = common::fast_dir();
    let cache = common::small()
        .size_limit_bytes(1 << 20)
        .policy(larder::Policy::None)
        .open(dir.path().join("s"))
        .expect("a store");
    let mut follower = Follower::new(&cache);
    for round in 0..6 {
        let full = (0..20_000).find_map(|n| {
            let len = 1_200 + dice.below(900) as usize;
            cache.set(format!("key-{round}-{n}"), dice.bytes(len)).err()
        });
        assert!(matches!(full, Some(larder::Error::Full { .. })), "{full:?}");
        follower.catch_up();
        assert_same(&follower.picture, &cache);
        cache.clear().expect("a full store is cleared");
        follower.catch_up();
        assert!(follower.picture.is_empty());
    }
    let is_honest = |cause: &GapCause| matches!(cause, GapCause::Unnamed | GapCause::Behind);
    assert!(follower.gaps.iter().all(is_honest), "{:?}", follower.gaps);
}
