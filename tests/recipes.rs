//! What is made once is made once, among processes that ask at the same moment, are killed while they
//! make it, or fail; and what is counted in the store is counted for all of them.
//!
//! Each making leaves a line in a plain file that is only ever appended to.

mod common;

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use common::{Job, Watch, Worker, hear, leave, say, start, within, work_dir};
use larder::{
    Averager, Cache, ComputeOptions, Error, Json, ManualClock, Memo, Result, SetOptions, Throttle,
};

const PATIENCE: Duration = Duration::from_secs(25);
const HOUR: Duration = Duration::from_secs(3_600);

/// Where a worker process begins; for the test itself there is nothing to do.
#[test]
fn role_entry() {
    let Some(job) = common::job() else { return };
    match job.role.as_str() {
        "asker" => ask_for_it(&job),
        "sleeper" => make_for_ever(&job),
        "once" => run_once(&job),
        "taker" => take_all_there_are(&job),
        "adder" => add_numbers(&job),
        other => panic!("no such role: {other}"),
    }
    leave()
}

fn open(dir: &Path) -> Cache {
    Cache::open(dir).expect("the store opens")
}

fn new_store() -> (tempfile::TempDir, PathBuf, Cache) {
    let root = work_dir();
    let dir = root.path().join("store");
    let cache = common::small().open(&dir).expect("a new store");
    (root, dir, cache)
}

fn with_clock() -> (tempfile::TempDir, Arc<ManualClock>, Cache) {
    let root = work_dir();
    let clock = Arc::new(ManualClock::new(1_700_000_000_000));
    let builder = common::small().clock(Arc::clone(&clock) as Arc<dyn larder::Clock>);
    let cache = builder
        .open(root.path().join("store"))
        .expect("a new store");
    (root, clock, cache)
}

fn watch(what: &str) -> Watch {
    Watch::new(Duration::from_secs(100), what.into())
}

/// Leaves a line for a making.
fn made(dir: &Path) {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(dir.with_extension("made"))
        .and_then(|mut file| file.write_all(format!("{}\n", std::process::id()).as_bytes()))
        .expect("a line");
}

fn makings(dir: &Path) -> usize {
    std::fs::read_to_string(dir.with_extension("made")).map_or(0, |text| text.lines().count())
}

fn fails() -> Result<&'static str> {
    Err(Error::Aborted {
        what: "it rains".into(),
    })
}

fn never() -> Result<&'static str> {
    panic!("it was to be in the store")
}

// ---- one making ----

fn ask_for_it(job: &Job) {
    let cache = open(&job.store);
    say("ready");
    hear();
    let value = cache
        .get_or_compute("cold", HOUR, || {
            made(&job.store);
            std::thread::sleep(Duration::from_millis(job.args[0]));
            Ok::<_, Error>(format!("made by {}", std::process::id()))
        })
        .expect("a value");
    say(&format!("value {}", value.escape_ascii()));
}

fn make_for_ever(job: &Job) {
    let cache = open(&job.store);
    let _ = cache.get_or_compute("cold", HOUR, || {
        made(&job.store);
        say("making");
        std::thread::sleep(Duration::from_secs(3_600));
        Ok::<_, Error>("never")
    });
}

fn ready(dir: &Path, count: usize, makes_ms: u64) -> Vec<Worker> {
    let mut workers: Vec<_> = (0..count)
        .map(|_| start("asker", dir, &[makes_ms]))
        .collect();
    workers
        .iter_mut()
        .for_each(|worker| drop(worker.expect("ready")));
    workers
}

fn same_values(workers: Vec<Worker>) -> String {
    let mut values: Vec<String> = workers
        .into_iter()
        .map(|mut worker| worker.expect("value"))
        .collect();
    values.dedup();
    assert_eq!(values.len(), 1, "{values:?}");
    values.remove(0)
}

#[test]
fn sixteen_processes_on_one_cold_key_make_it_once() {
    let _watch = watch("recipes: sixteen");
    let (_root, dir, cache) = new_store();
    for makes_ms in [40, 0] {
        let mut workers = ready(&dir, 16, makes_ms);
        workers.iter_mut().for_each(|worker| worker.tell("go"));
        let value = same_values(workers);
        assert_eq!(makings(&dir), 1, "{value}");
        assert_eq!(cache.get("cold").expect("a read").expect("a value"), value);
        cache.delete("cold").expect("delete");
        std::fs::remove_file(dir.with_extension("made")).expect("the file");
    }
    common::assert_sound(&cache);
}

#[test]
fn when_the_maker_is_killed_exactly_one_more_makes_it() {
    let _watch = watch("recipes: killed maker");
    let (_root, dir, cache) = new_store();
    let mut maker = start("sleeper", &dir, &[]);
    maker.expect("making");
    let mut workers = ready(&dir, 15, 40);
    workers.iter_mut().for_each(|worker| worker.tell("go"));
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(makings(&dir), 1);
    let killed = Instant::now();
    maker.kill();
    same_values(workers);
    assert!(killed.elapsed() < Duration::from_secs(8));
    assert_eq!(makings(&dir), 2);
    common::assert_sound(&cache);
}

#[test]
fn a_deadline_names_who_makes_it() {
    let _watch = watch("recipes: deadline");
    let (_root, dir, cache) = new_store();
    let mut maker = start("sleeper", &dir, &[]);
    maker.expect("making");
    let options = ComputeOptions::default().timeout(Duration::from_millis(50));
    match cache.get_or_compute_with("cold", &options, never) {
        Err(Error::Busy { holder_pid, .. }) => assert_eq!(holder_pid, maker.pid()),
        other => panic!("{other:?}"),
    }
    maker.kill();
    let options = options.timeout(PATIENCE);
    let value = cache.get_or_compute_with("cold", &options, || Ok::<_, Error>("mine"));
    assert_eq!(value.expect("a value"), "mine");
}

// ---- errors ----

#[test]
fn errors_go_to_their_caller_and_the_next_one_makes_it() {
    let _watch = watch("recipes: errors");
    let (_root, _, cache) = new_store();
    let failed = cache.get_or_compute("key", HOUR, fails);
    assert!(matches!(failed, Err(Error::Aborted { .. })));
    assert!(!cache.contains("key").expect("a look"));

    // One fails while another waits: that one makes it.
    let (begun, begins) = channel();
    let other = cache.clone();
    let failing = std::thread::spawn(move || {
        other.get_or_compute("key", HOUR, || {
            begun.send(()).expect("the test listens");
            std::thread::sleep(Duration::from_millis(30));
            fails()
        })
    });
    begins.recv().expect("it begins");
    let value = cache.get_or_compute("key", HOUR, || Ok::<_, Error>("made"));
    assert_eq!(value.expect("a value"), "made");
    assert!(failing.join().expect("it ends").is_err());

    // So with a panic.
    let other = cache.clone();
    let panics = std::thread::spawn(move || {
        other.get_or_compute("other", HOUR, || -> Result<&str> { panic!("as it should") })
    });
    assert!(panics.join().is_err());
    let value = cache.get_or_compute("other", HOUR, || Ok::<_, Error>("made"));
    assert_eq!(value.expect("a value"), "made");
}

#[derive(Debug)]
enum Mine {
    Larder(Error),
    Rain,
}

impl From<Error> for Mine {
    fn from(error: Error) -> Self {
        Mine::Larder(error)
    }
}

#[test]
fn errors_of_ones_own_come_back_as_they_are() {
    let (_root, _, cache) = new_store();
    let answer = cache.get_or_compute("key", None, || Err::<&str, _>(Mine::Rain));
    assert!(matches!(answer, Err(Mine::Rain)));
    let long = cache.get_or_compute([0; 70_000], None, || Ok::<_, Mine>("x"));
    assert!(matches!(long, Err(Mine::Larder(Error::TooLarge { .. }))));
}

#[test]
fn who_would_wait_for_itself_is_told() {
    let _watch = watch("recipes: itself");
    let (_root, _, cache) = new_store();
    let answer = cache.get_or_compute("key", HOUR, || cache.get_or_compute("key", HOUR, never));
    assert!(matches!(answer, Err(Error::Aborted { .. })), "{answer:?}");
    let nested = cache.get_or_compute("outer", HOUR, || {
        cache.get_or_compute("inner", HOUR, || Ok::<_, Error>("deep"))
    });
    assert_eq!(nested.expect("a value"), "deep");
    let inside = cache.transact(|_| cache.get_or_compute("new", HOUR, never).map(drop));
    assert!(matches!(inside, Err(Error::Aborted { .. })));
}

// ---- stale and early ----

#[test]
fn while_one_makes_it_anew_the_others_get_the_old_one_at_once() {
    let _watch = watch("recipes: stale while");
    let (_root, clock, cache) = with_clock();
    let options = ComputeOptions::default()
        .ttl(Duration::from_secs(10))
        .stale_while_revalidate(Duration::from_secs(5));
    let get =
        |value: &'static str| cache.get_or_compute_with("key", &options, || Ok::<_, Error>(value));
    assert_eq!(get("one").expect("a value"), "one");
    clock.advance(Duration::from_secs(9));
    assert_eq!(get("two").expect("a value"), "one");
    clock.advance(Duration::from_secs(2));
    let (begun, begins) = channel();
    let (go, goes) = channel::<()>();
    std::thread::scope(|scope| {
        let (cache, options) = (&cache, &options);
        let slow = scope.spawn(move || {
            cache.get_or_compute_with("key", options, || {
                begun.send(()).expect("the test listens");
                goes.recv().expect("the test says when");
                Ok::<_, Error>("three")
            })
        });
        begins.recv().expect("it begins");
        for _ in 0..3 {
            assert_eq!(get("nobody's").expect("a value"), "one");
        }
        go.send(()).expect("it waits");
        assert_eq!(slow.join().expect("it ends").expect("a value"), "three");
    });
    assert_eq!(get("nobody's").expect("a value"), "three");
    // Beyond both it is made before anybody gets it.
    clock.advance(Duration::from_secs(16));
    assert_eq!(get("four").expect("a value"), "four");
}

#[test]
fn behind_the_callers_back_a_stale_value_is_made_anew() {
    let _watch = watch("recipes: behind");
    let (_root, clock, cache) = with_clock();
    let options = ComputeOptions::default()
        .ttl(Duration::from_secs(10))
        .stale_while_revalidate(Duration::from_secs(5));
    let get = |value: &'static str| {
        cache.get_or_compute_behind("key", &options, move || Ok::<_, Error>(value))
    };
    assert_eq!(get("one").expect("a value"), "one");
    clock.advance(Duration::from_secs(11));
    let failing = cache.get_or_compute_behind("key", &options, || {
        Err::<&str, _>(Error::Aborted { what: "no".into() })
    });
    assert_eq!(failing.expect("the old one"), "one");
    let start = Instant::now();
    while get("two").expect("a value") == "one" {
        assert!(start.elapsed() < PATIENCE, "it is made in the end");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(get("three").expect("a value"), "two");
}

#[test]
fn when_making_it_anew_fails_the_old_one_serves_for_a_while() {
    let (_root, clock, cache) = with_clock();
    let options = ComputeOptions::default()
        .ttl(Duration::from_secs(10))
        .stale_if_error(Duration::from_secs(60));
    let value = cache.get_or_compute_with("key", &options, || Ok::<_, Error>("old"));
    assert_eq!(value.expect("a value"), "old");
    clock.advance(Duration::from_secs(69));
    let value = cache.get_or_compute_with("key", &options, fails);
    assert_eq!(value.expect("the old one"), "old");
    clock.advance(Duration::from_secs(2));
    assert!(cache.get_or_compute_with("key", &options, fails).is_err());
}

#[test]
fn early_recomputation_is_by_one_at_a_time_and_its_errors_are_not_told() {
    let _watch = watch("recipes: early");
    let (_root, clock, cache) = with_clock();
    let ttl = Duration::from_secs(1_000);
    let get = |beta, f: &dyn Fn() -> Result<&'static str>| {
        cache
            .memoize_stampede("key", ttl, beta, f)
            .expect("a value")
    };
    let slow = || {
        std::thread::sleep(Duration::from_millis(20));
        Ok("one")
    };
    assert_eq!(get(1.0, &slow), "one");
    assert_eq!(get(1.0, &never), "one", "20 ms against 1,000 s");
    clock.advance(Duration::from_secs(500));
    let eager = 1e12;
    assert_eq!(get(0.0, &never), "one");
    assert_eq!(get(eager, &fails), "one", "it is good still");
    let inside = AtomicU64::new(0);
    let made = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5 {
                    get(eager, &|| {
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "one at a time");
                        made.fetch_add(1, Ordering::SeqCst);
                        std::thread::sleep(Duration::from_millis(2));
                        inside.fetch_sub(1, Ordering::SeqCst);
                        Ok("two")
                    });
                }
            });
        }
    });
    assert!(made.load(Ordering::SeqCst) >= 1);
    assert_eq!(get(0.0, &never), "two");
    clock.advance(ttl);
    assert_eq!(get(0.0, &|| Ok("three")), "three");
}

// ---- many, typed, memo ----

#[test]
fn of_many_only_those_that_are_missing_are_made_and_each_once() {
    let _watch = watch("recipes: many");
    let (_root, _, cache) = new_store();
    cache.set("b", "B").expect("set");
    let keys = ["a", "b", "a", "c", "d"];
    let calls = AtomicU64::new(0);
    let ask = || {
        cache
            .get_or_compute_many(&keys, HOUR, |missing| {
                calls.fetch_add(missing.len() as u64, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(20));
                Ok::<_, Error>(missing.iter().map(|key| key.to_uppercase()).collect())
            })
            .expect("values")
    };
    std::thread::scope(|scope| {
        // Others make some of them alone, in another order.
        scope.spawn(|| {
            for key in ["d", "c"] {
                let value = cache.get_or_compute(key, HOUR, || {
                    calls.fetch_add(1, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(10));
                    Ok::<_, Error>(key.to_uppercase())
                });
                assert_eq!(value.expect("a value"), key.to_uppercase());
            }
        });
        for _ in 0..3 {
            scope.spawn(|| assert_eq!(ask(), ["A", "B", "A", "C", "D"]));
        }
    });
    assert_eq!(calls.load(Ordering::SeqCst), 3, "a, c and d");
    assert_eq!(ask().len(), 5);
    let short = cache.get_or_compute_many(&["x", "y"], HOUR, |_| Ok::<_, Error>(vec!["one"]));
    assert!(matches!(short, Err(Error::Aborted { .. })));
    assert!(!cache.contains("x").expect("a look"));
    let none: Vec<&str> = Vec::new();
    let nothing = cache.get_or_compute_many(&none, HOUR, |_| Ok::<_, Error>(vec!["one"]));
    assert!(nothing.expect("no values").is_empty());
    let options = ComputeOptions::default()
        .ttl(Duration::ZERO)
        .stale_while_revalidate(HOUR)
        .stored_with(SetOptions::default().tag("many"));
    for round in ["1", "2"] {
        let values = cache.get_or_compute_many_with(&["s", "t"], &options, |missing| {
            Ok::<_, Error>(missing.iter().map(|_| round).collect())
        });
        assert_eq!(
            values.expect("values"),
            [round, round],
            "stale ones are made anew"
        );
    }
    assert_eq!(cache.evict_tag("many").expect("a change"), 2);
    common::assert_sound(&cache);
}

#[test]
fn who_may_only_read_gets_what_is_there_and_makes_nothing() {
    let (_root, dir, cache) = new_store();
    cache
        .get_or_compute("key", HOUR, || Ok::<_, Error>("value"))
        .expect("a value");
    cache
        .once("schema", || Ok::<_, Error>(()))
        .expect("it runs");
    drop(cache);
    let cache = Cache::builder()
        .read_only(true)
        .open(&dir)
        .expect("the store opens");
    assert_eq!(
        cache.get_or_compute("key", HOUR, never).expect("a value"),
        "value"
    );
    let many =
        cache.get_or_compute_many(&["key"], HOUR, |_| -> Result<Vec<&str>> { unreachable!() });
    assert_eq!(many.expect("values"), ["value"]);
    assert!(
        !cache
            .once("schema", || never().map(drop))
            .expect("it had run")
    );
    for refused in [
        cache.get_or_compute("other", HOUR, never).map(drop),
        cache.once("other", || never().map(drop)).map(drop),
        cache.barrier("other", || never().map(drop)),
        cache.memoize_stampede("other", HOUR, 1.0, never).map(drop),
        Averager::new(&cache, "mean").add(1.0),
    ] {
        assert!(
            matches!(refused, Err(Error::ReadOnly { .. })),
            "{refused:?}"
        );
    }
}

#[test]
fn typed_values_are_made_and_read_as_what_they_are() {
    let (_root, _, cache) = new_store();
    let typed = cache.typed::<String, Vec<u32>>().named("numbers");
    let made = typed.get_or_compute("key", HOUR, || Ok::<_, Error>(vec![1, 2]));
    assert_eq!(made.expect("a value"), [1, 2]);
    let read = typed.get_or_compute("key", HOUR, || -> Result<Vec<u32>> { unreachable!() });
    assert_eq!(read.expect("a value"), [1, 2]);
    assert_eq!(typed.get("key").expect("a read"), Some(vec![1, 2]));
    let other = cache.typed::<String, u8>();
    let wrong = other.get_or_compute("key", HOUR, || Ok::<_, Error>(1));
    assert!(matches!(wrong, Err(Error::WrongType { .. })));
}

#[test]
fn what_it_cost_is_stored_with_the_value() {
    let (_root, _, cache) = new_store();
    let slow = || {
        std::thread::sleep(Duration::from_millis(30));
        Ok::<_, Error>("dear")
    };
    cache.get_or_compute("key", HOUR, slow).expect("a value");
    cache.get_or_compute("key", HOUR, never).expect("a value");
    assert!(cache.stats(false).expect("stats").seconds_saved >= 0.03);
}

#[test]
fn a_memo_knows_arguments_by_what_they_are() {
    let (_root, _, cache) = new_store();
    let calls = AtomicU64::new(0);
    let area = Memo::<f64>::new(&cache, "area")
        .ttl(HOUR)
        .ignore([2])
        .tag("geometry");
    let call = |wide: f64, high: f64, note: &str| {
        area.call(&(wide, high, note), || {
            calls.fetch_add(1, Ordering::SeqCst);
            Ok::<_, Error>(wide * high)
        })
        .expect("a result")
    };
    assert_eq!(call(2.0, 3.0, "first"), 6.0);
    assert_eq!(call(2.0, 3.0, "again"), 6.0);
    assert_eq!(call(3.0, 2.0, "first"), 6.0);
    assert_eq!(calls.load(Ordering::SeqCst), 2);
    let key = area.key_of(&(2.0, 3.0, "")).expect("a key");
    let entry = cache.get_entry(&key).expect("a read").expect("a result");
    assert_eq!(entry.tags, [b"memo:area".to_vec(), b"geometry".to_vec()]);
    assert!(area.invalidate(&(2.0, 3.0, "")).expect("a change"));
    assert!(!area.invalidate(&(2.0, 3.0, "")).expect("a change"));
    assert_eq!(call(2.0, 3.0, ""), 6.0);
    assert_eq!(calls.load(Ordering::SeqCst), 3);

    let other = Memo::<f64>::new(&cache, "volume");
    assert_ne!(
        other.key_of(&1).expect("a key"),
        area.key_of(&1).expect("a key")
    );
    assert_ne!(
        other.key_of(&1).expect("a key"),
        other.key_of(&1.0).expect("a key")
    );
    let loose = other.clone().typed(false);
    assert_eq!(
        loose.key_of(&1).expect("a key"),
        loose.key_of(&1.0).expect("a key")
    );
    other.call(&1, || Ok::<_, Error>(1.0)).expect("a result");
    assert_eq!(area.invalidate_all().expect("a change"), 2);
    assert_eq!(cache.len().expect("a look"), 1);

    let text = Memo::<HashMap<String, u8>>::new(&cache, "text").with_codec::<Json>();
    let map = HashMap::from([("a".to_owned(), 1), ("b".to_owned(), 2)]);
    let result = text.call(&map, || Ok::<_, Error>(map.clone()));
    assert_eq!(result.expect("a result"), map);
    let wrong = Memo::<u8>::new(&cache, "text").call(&map, || Ok::<_, Error>(1));
    assert!(matches!(wrong, Err(Error::WrongType { .. })));
}

#[test]
fn what_was_being_made_when_it_was_invalidated_is_not_stored() {
    let _watch = watch("recipes: invalidated");
    let (_root, _, cache) = new_store();
    let memo = Memo::<String>::new(&cache, "page");
    let result = memo.call(&7, || {
        memo.invalidate(&7)?;
        Ok::<_, Error>("of yesterday".to_owned())
    });
    assert_eq!(result.expect("a result"), "of yesterday");
    let result = memo.call(&7, || Ok::<_, Error>("of today".to_owned()));
    assert_eq!(result.expect("a result"), "of today");
    let result = memo.call(&7, || -> Result<String> { unreachable!() });
    assert_eq!(result.expect("a result"), "of today");
    common::assert_sound(&cache);
}

#[test]
fn a_damaged_value_is_made_anew() {
    let (_root, dir, cache) = new_store();
    let value = "x".repeat(200);
    cache
        .get_or_compute("key", HOUR, || Ok::<_, Error>(value.clone()))
        .expect("a value");
    let segment = common::names(&dir)
        .into_iter()
        .find(|name| name.ends_with(".seg"));
    let path = dir.join(segment.expect("a segment"));
    let bytes = std::fs::read(&path).expect("the segment");
    let at = bytes
        .windows(200)
        .position(|part| part == value.as_bytes())
        .expect("the value");
    common::flip(&path, at as u64 * 8 + 3);
    assert!(matches!(cache.get("key"), Err(Error::Corrupt { .. })));
    let again = cache.get_or_compute("key", HOUR, || Ok::<_, Error>("again"));
    assert_eq!(again.expect("a value"), "again");
    assert_eq!(cache.get("key").expect("a read").expect("a value"), "again");
}

// ---- once, one at a time ----

fn run_once(job: &Job) {
    let cache = open(&job.store);
    say("ready");
    hear();
    let ran = cache.once("schema", || {
        made(&job.store);
        std::thread::sleep(Duration::from_millis(30));
        Ok::<_, Error>(())
    });
    say(&format!("ran {}", ran.expect("it ran, or had")));
    let (_, alone) = common::timed(|| {
        cache.barrier("door", || {
            let file = OpenOptions::new()
                .append(true)
                .open(job.store.with_extension("made"));
            let file = file.expect("the plain file");
            file.try_lock().expect("nobody else is inside");
            std::thread::sleep(Duration::from_millis(5));
            Ok::<_, Error>(())
        })
    });
    assert!(alone < PATIENCE);
}

#[test]
fn what_runs_once_runs_once_and_failing_is_not_running() {
    let _watch = watch("recipes: once");
    let (_root, dir, cache) = new_store();
    let failed = cache.once("schema", || fails().map(drop));
    assert!(failed.is_err());
    let mut workers: Vec<_> = (0..6).map(|_| start("once", &dir, &[])).collect();
    workers
        .iter_mut()
        .for_each(|worker| drop(worker.expect("ready")));
    workers.iter_mut().for_each(|worker| worker.tell("go"));
    let ran: Vec<String> = workers
        .iter_mut()
        .map(|worker| worker.expect("ran"))
        .collect();
    assert_eq!(ran.iter().filter(|ran| *ran == "true").count(), 1);
    workers.into_iter().for_each(|worker| drop(worker.finish()));
    assert_eq!(makings(&dir), 1);
    drop(cache);
    common::forget_derived(&dir);
    let cache = open(&dir);
    assert!(
        !cache
            .once("schema", || never().map(drop))
            .expect("it had run")
    );
    assert!(cache.forget_once("schema").expect("a change"));
    assert!(
        cache
            .once("schema", || Ok::<_, Error>(()))
            .expect("it runs")
    );
    common::assert_sound(&cache);
}

// ---- counted in the store ----

fn take_all_there_are(job: &Job) {
    let cache = open(&job.store);
    let throttle = Throttle::new(&cache, "mails", 50, HOUR).expect("a throttle");
    let mut taken = 0;
    while taken < job.args[0] && throttle.try_take().expect("a look") {
        taken += 1;
    }
    say(&format!("taken {taken}"));
}

#[test]
fn a_throttle_is_one_for_all_processes_and_not_reset_by_a_new_one() {
    let _watch = watch("recipes: throttle");
    let (_root, dir, cache) = new_store();
    let mut taken = 0;
    for most in [20, 1_000] {
        let mut workers: Vec<_> = (0..2).map(|_| start("taker", &dir, &[most])).collect();
        for worker in &mut workers {
            taken += worker.expect("taken").parse::<u32>().expect("a number");
        }
    }
    assert_eq!(taken, 50);
    let throttle = Throttle::new(&cache, "mails", 50, HOUR).expect("a throttle");
    let full = throttle.full_at().expect("a look");
    assert!(full > std::time::SystemTime::now() + HOUR / 2);
    let busy = throttle.wait(Duration::from_millis(1));
    assert!(matches!(busy, Err(Error::Busy { .. })));
    assert!(cache.transact(|_| throttle.try_take()).is_err());
    for (count, period) in [(0, HOUR), (1, Duration::MAX), (7, Duration::ZERO)] {
        assert!(Throttle::new(&cache, "no", count, period).is_err());
    }
}

#[test]
fn a_throttle_gives_one_after_the_other_as_time_goes() {
    let _watch = watch("recipes: throttle by time");
    let (_root, clock, cache) = with_clock();
    let throttle = Throttle::new(&cache, "calls", 3, Duration::from_secs(30)).expect("a throttle");
    let take = || throttle.try_take().expect("a look");
    assert!(take() && take() && take() && !take());
    clock.advance(Duration::from_millis(9_900));
    assert!(!take());
    clock.advance(Duration::from_millis(200));
    assert!(take() && !take());
    clock.advance(Duration::from_secs(3_600));
    assert_eq!(
        cache.expire().expect("a change"),
        1,
        "a full one leaves nothing"
    );
    assert!(take() && take() && take() && !take());
    common::assert_sound(&cache);
    clock.set(1_000);
    assert!(!take(), "the clock was set back");
    clock.advance(Duration::from_secs(11));
    assert!(take(), "and nobody waits for it longer than for one");
    clock.advance(Duration::from_secs(3_600));
    assert!(
        take() && take() && take() && !take(),
        "no more than are in it"
    );

    let real = Cache::temporary().expect("a store");
    let quick = Throttle::new(&real, "calls", 2, Duration::from_millis(40)).expect("a throttle");
    within(PATIENCE, "six takings at 20 ms each", move || {
        let start = Instant::now();
        for _ in 0..6 {
            quick.wait(None).expect("one more");
        }
        // Two at once, four more at 20 ms each, by a clock of 4 ms.
        assert!(
            start.elapsed() >= Duration::from_millis(60),
            "{:?}",
            start.elapsed()
        );
    });
}

fn add_numbers(job: &Job) {
    let cache = open(&job.store);
    let averager = Averager::new(&cache, "latency");
    for number in 1..=100 {
        averager.add(f64::from(number)).expect("add");
    }
}

#[test]
fn an_average_is_of_all_that_was_added() {
    let (_root, dir, cache) = new_store();
    let averager = Averager::new(&cache, "latency").tag("times");
    assert_eq!(averager.get().expect("a look"), None);
    assert_eq!(averager.pop().expect("a look"), None);
    let workers: Vec<_> = (0..3).map(|_| start("adder", &dir, &[])).collect();
    workers.into_iter().for_each(|worker| drop(worker.finish()));
    assert_eq!(averager.get().expect("a look"), Some(50.5));
    averager.add(50.5).expect("add");
    let tags = cache
        .describe("latency")
        .expect("a look")
        .expect("an entry")
        .tags;
    assert_eq!(tags, [b"times".to_vec()]);
    assert_eq!(averager.pop().expect("a look"), Some(50.5));
    assert_eq!(averager.get().expect("a look"), None);
    cache
        .transact(|_| {
            averager.add(1.0)?;
            averager.add(2.0)?;
            assert_eq!(averager.get()?, Some(1.5));
            Ok(())
        })
        .expect("a transaction");
    cache
        .set_with("latency", "slow", &SetOptions::default())
        .expect("set");
    assert!(matches!(averager.add(1.0), Err(Error::WrongType { .. })));
    assert!(matches!(averager.get(), Err(Error::WrongType { .. })));

    let (_root, clock, cache) = with_clock();
    let short = Averager::new(&cache, "latency").ttl(Duration::from_secs(5));
    short.add(1.0).expect("add");
    clock.advance(Duration::from_secs(4));
    short.add(2.0).expect("add");
    clock.advance(Duration::from_secs(4));
    assert_eq!(short.get().expect("a look"), Some(1.5));
    clock.advance(Duration::from_secs(2));
    assert_eq!(short.get().expect("a look"), None);
}

/// Who waits long for the writer lock does not fill a throttle's bucket.
#[test]
fn a_throttle_is_not_filled_by_one_who_waited_for_the_writer_lock() {
    let cache = Cache::temporary().expect("it works");
    let throttle = Throttle::new(&cache, "t", 10, Duration::from_millis(500)).expect("it works");
    while throttle.try_take().expect("it works") {}
    let (tell, told) = std::sync::mpsc::channel();
    let mut after = 0;
    std::thread::scope(|scope| {
        let throttle = &throttle;
        let taker = scope.spawn(move || {
            told.recv().expect("it works");
            throttle.try_take().expect("it works")
        });
        cache
            .transact(|_| {
                tell.send(()).expect("it works");
                std::thread::sleep(Duration::from_millis(900));
                Ok(())
            })
            .expect("it works");
        while throttle.try_take().expect("it works") {
            after += 1;
        }
        after += u32::from(taker.join().expect("it works"));
    });
    println!("{after}");
    assert!(after <= 12, "{after} of 10");
}

#[test]
fn a_value_made_behind_that_asks_for_itself_is_told() {
    let cache = Cache::temporary().expect("it works");
    let options = larder::ComputeOptions::default()
        .ttl(Duration::ZERO)
        .stale_while_revalidate(Duration::from_millis(400));
    cache
        .get_or_compute_with("k", &options, || Ok::<_, larder::Error>("1"))
        .expect("it works");
    let (tell, told) = std::sync::mpsc::channel();
    let inner = cache.clone();
    let again = options.clone();
    cache
        .get_or_compute_behind("k", &options, move || {
            std::thread::sleep(Duration::from_millis(600));
            let r = inner
                .get_or_compute_with("k", &again, || Ok::<_, larder::Error>("2"))
                .map(|v| v.to_vec());
            let _ = tell.send(format!("{r:?}"));
            Ok::<_, larder::Error>("3")
        })
        .expect("it works");
    let said = told
        .recv_timeout(Duration::from_secs(5))
        .expect("it waits for itself for ever");
    println!("{said}");
}
