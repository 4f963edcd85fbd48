//! Locks among processes: never two inside at once, whoever is killed and whenever; nobody waits for
//! the dead, and nobody for ever.
//!
//! Who goes in writes so, with the time, to a plain file after it has the lock, and who goes out before
//! it gives it back; who is killed was inside until the moment before. So the file tells who was inside
//! together, and never tells it of two who were not.

mod common;

use std::collections::{BTreeSet, HashMap};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{Dice, Job, Watch, Worker, leave, say, start, tick_ns, work_dir};
use larder::{BoundedSemaphore, Cache, Error, Guard, Lock, ManualClock, RLock, RwLock};
use rustix::process::Signal;

/// Nobody waits longer for anything here; most waits are a thousandth of it.
const PATIENCE: Duration = Duration::from_secs(25);

/// Where a worker process begins; for the test itself there is nothing to do.
#[test]
fn role_entry() {
    let Some(job) = common::job() else { return };
    match job.role.as_str() {
        "visitor" => go_in_and_out(&job),
        "maker" => make_values(&job),
        "waiter" => wait_outside(&job),
        "sit" => sit_inside(&job),
        "forker" => fork_while_holding(&job),
        other => panic!("no such role: {other}"),
    }
    leave()
}

fn open(dir: &Path) -> Cache {
    Cache::open(dir).expect("the store opens")
}

fn watch(what: &str) -> Watch {
    Watch::new(Duration::from_secs(100), what.into())
}

/// A plain file beside the store.
fn plain(dir: &Path, name: &str) -> File {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(dir.with_extension(name))
        .expect("a plain file")
}

fn dir_of(root: &tempfile::TempDir) -> std::path::PathBuf {
    root.path().join("store")
}

// ---- who is inside together ----

/// Goes in and out: with the one lock when `args[0]` is 1, else with one of so many permits.
fn go_in_and_out(job: &Job) {
    let mut visits = plain(&job.store, "visits");
    let cache = open(&job.store);
    let lock = Lock::new(&cache, "door").expect("a lock");
    let permits = BoundedSemaphore::new(&cache, "permits", job.args[0] as u32);
    let permits = permits.expect("a semaphore");
    let mut dice = Dice::new(job.args[1]);
    let mut tell = |way: &str, token: u64| {
        let line = format!("{} {token} {way} {}\n", std::process::id(), tick_ns());
        visits.write_all(line.as_bytes()).expect("a line");
    };
    say("begun");
    for round in 0..job.args[2] {
        let guard = match job.args[0] {
            1 => lock.acquire(PATIENCE),
            _ => permits.acquire(PATIENCE),
        };
        let guard = guard.expect("it is had in time");
        tell("in", guard.token());
        if dice.one_in(3) {
            std::thread::sleep(Duration::from_micros(dice.below(1_000)));
        }
        assert!(guard.is_still_held().expect("a look"));
        tell("out", guard.token());
        match round % 2 {
            0 => guard.release().expect("it is ours"),
            _ => drop(guard),
        }
    }
}

struct Visit {
    token: u64,
    from_ns: u64,
    to_ns: u64,
}

/// All visits, by the time they began. `killed` has when each killed process was last known to live.
fn visits(dir: &Path, name: &str, killed: &HashMap<u32, u64>) -> Vec<Visit> {
    let text = std::fs::read_to_string(dir.with_extension(name)).expect("visits");
    let mut visits: Vec<Visit> = Vec::new();
    let mut inside: HashMap<u64, usize> = HashMap::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<u64>().expect("a number");
        let (pid, token, at_ns) = (number(0) as u32, number(1), number(3));
        if words[2] == "in" {
            inside.insert(token, visits.len());
            visits.push(Visit {
                token,
                from_ns: at_ns,
                to_ns: killed.get(&pid).copied().unwrap_or(u64::MAX),
            });
        } else {
            visits[inside[&token]].to_ns = at_ns;
        }
    }
    visits.sort_by_key(|visit| visit.from_ns);
    visits
}

fn assert_at_most(bound: usize, visits: &[Visit]) {
    let mut inside: Vec<&Visit> = Vec::new();
    for visit in visits {
        inside.retain(|other| other.to_ns > visit.from_ns);
        inside.push(visit);
        assert!(inside.len() <= bound, "{} are inside", inside.len());
    }
}

/// Four processes do their work, some are killed, and the last go on to a good end. The store, and when
/// each killed process was last known to live.
fn kill_some_of_four(
    role: &str,
    first: u64,
    kills: u64,
) -> (tempfile::TempDir, Cache, HashMap<u32, u64>) {
    let seed = common::seed(role);
    let _watch = watch(role);
    let root = work_dir();
    let dir = dir_of(&root);
    let cache = common::small().open(&dir).expect("a new store");
    let mut dice = Dice::new(seed);
    let mut killed = HashMap::new();
    let begin = |dice: &mut Dice, rounds| {
        let mut worker = start(role, &dir, &[first, dice.roll(), rounds]);
        worker.expect("begun");
        worker
    };
    let mut kill = |worker: Worker| {
        killed.insert(worker.pid(), tick_ns());
        worker.kill();
    };
    let mut workers: Vec<_> = (0..4).map(|_| begin(&mut dice, u64::MAX)).collect();
    for _ in 0..kills {
        std::thread::sleep(Duration::from_micros(dice.below(40_000)));
        kill(workers.swap_remove(dice.below(4) as usize));
        workers.push(begin(&mut dice, u64::MAX));
    }
    workers.into_iter().for_each(&mut kill);
    let last: Vec<_> = (0..3).map(|_| begin(&mut dice, 200)).collect();
    last.into_iter().for_each(|worker| drop(worker.finish()));

    (root, cache, killed)
}

fn many_go_in_and_out(bound: u64, kills: u64) -> (tempfile::TempDir, Cache) {
    let (root, cache, killed) = kill_some_of_four("visitor", bound, kills);
    let visits = visits(&dir_of(&root), "visits", &killed);
    assert!(visits.len() > 600, "{} visits", visits.len());
    let tokens: BTreeSet<u64> = visits.iter().map(|visit| visit.token).collect();
    assert_eq!(
        tokens.len(),
        visits.len(),
        "every visit has a token of its own"
    );
    assert_at_most(bound as usize, &visits);
    if bound == 1 {
        assert!(
            visits.is_sorted_by_key(|visit| visit.token),
            "fencing tokens rise"
        );
    }
    (root, cache)
}

#[test]
fn never_two_inside_though_holders_are_killed() {
    let (_root, cache) = many_go_in_and_out(1, 14);
    let lock = Lock::new(&cache, "door").expect("a lock");
    assert!(lock.who_holds().expect("a look").is_none());
    common::assert_sound(&cache);
}

#[test]
fn no_more_permits_are_out_than_there_are() {
    let (_root, cache) = many_go_in_and_out(2, 10);
    let permits = BoundedSemaphore::new(&cache, "permits", 2).expect("a semaphore");
    assert!(permits.who_holds().expect("a look").is_empty());
    let permit = || permits.try_acquire().expect("a look");
    let (one, two) = (permit().expect("one"), permit().expect("another"));
    assert!(one.token() < two.token());
    assert!(permit().is_none());
    let token = one.detach();
    permits.release(token).expect("it was out");
    let above = permits.release(token);
    assert!(matches!(above, Err(Error::NotHeld { .. })), "{above:?}");
    common::assert_sound(&cache);
}

/// Asks for values of a few keys, makes them, fails to make them, removes them.
fn make_values(job: &Job) {
    let mut files: Vec<File> = (0..job.args[0])
        .map(|key| plain(&job.store, &format!("key{key}")))
        .collect();
    let cache = open(&job.store);
    let mut dice = Dice::new(job.args[1]);
    say("begun");
    for round in 0..job.args[2] {
        let at = dice.below(job.args[0]) as usize;
        let (pause_us, is_bad) = (dice.below(1_500), dice.one_in(6));
        let key = format!("key{at}");
        let made = cache.get_or_compute(&key, None, || {
            let visit = u64::from(std::process::id()) << 32 | round;
            let mut tell = |way: &str| {
                let line = format!("{} {visit} {way} {}\n", std::process::id(), tick_ns());
                files[at].write_all(line.as_bytes()).expect("a line");
            };
            tell("in");
            std::thread::sleep(Duration::from_micros(pause_us));
            tell("out");
            let long = "x".repeat(pause_us as usize * 4);
            match is_bad {
                true => Err(Error::Aborted {
                    what: "it rains".into(),
                }),
                false => Ok(format!("{key} {visit} {long}")),
            }
        });
        match made {
            Ok(value) => assert!(value.starts_with(key.as_bytes()), "{value:?}"),
            Err(Error::Aborted { .. }) => assert!(is_bad, "only by one's own"),
            Err(other) => panic!("{other}"),
        }
        if dice.one_in(3) {
            cache.delete(&key).expect("delete");
        }
    }
}

#[test]
fn never_two_make_one_value_though_makers_are_killed_and_fail() {
    let (root, cache, killed) = kill_some_of_four("maker", 2, 12);
    for key in ["key0", "key1"] {
        let visits = visits(&dir_of(&root), key, &killed);
        assert!(visits.len() > 20, "{} makings", visits.len());
        assert_at_most(1, &visits);
    }
    common::assert_sound(&cache);
}

// ---- the dead ----

/// Takes what is asked for, says so, and never gives it back.
fn sit_inside(job: &Job) {
    let cache = open(&job.store);
    let guards = take_all(&cache, job.args[0] == 1);
    say("inside");
    std::thread::park();
    drop(guards);
}

fn take_all(cache: &Cache, writes: bool) -> Vec<Guard> {
    let lock = Lock::new(cache, "door").expect("a lock");
    let both = RwLock::new(cache, "both").expect("a lock");
    let permits = BoundedSemaphore::new(cache, "permits", 1).expect("a semaphore");
    let side = match writes {
        true => both.write(PATIENCE),
        false => both.read(PATIENCE),
    };
    vec![
        lock.acquire(PATIENCE).expect("in time"),
        side.expect("in time"),
        permits.acquire(PATIENCE).expect("in time"),
    ]
}

fn wait_outside(job: &Job) {
    let cache = open(&job.store);
    let lock = Lock::new(&cache, "door").expect("a lock");
    say("waiting");
    drop(lock.acquire(PATIENCE).expect("in time"));
    say("had");
}

#[test]
fn one_who_is_stopped_while_it_waits_delays_the_others_only_for_a_while() {
    let _watch = watch("locks: a stopped waiter");
    let root = work_dir();
    let dir = dir_of(&root);
    let cache = common::small().open(&dir).expect("a new store");
    let lock = Lock::new(&cache, "door").expect("a lock");
    let guard = lock.acquire(None).expect("it is free");
    let mut waiter = start("waiter", &dir, &[]);
    waiter.expect("waiting");
    // By then it has a place.
    std::thread::sleep(Duration::from_millis(50));
    waiter.signal(Signal::STOP);
    guard.release().expect("it is ours");
    let guard = lock.acquire(PATIENCE).expect("its place is over some time");
    waiter.signal(Signal::CONT);
    guard.release().expect("it is ours");
    waiter.expect("had");
    waiter.finish();
}

#[test]
fn who_waits_for_a_dead_holder_soon_has_it() {
    let _watch = watch("locks: dead holders");
    let root = work_dir();
    let dir = dir_of(&root);
    let cache = common::small().open(&dir).expect("a new store");
    for writes in [1, 0] {
        let mut holder = start("sit", &dir, &[writes]);
        holder.expect("inside");
        let lock = Lock::new(&cache, "door").expect("a lock");
        let seen = lock.who_holds().expect("a look").expect("somebody");
        assert_eq!(seen.pid, holder.pid());
        let busy = lock.acquire(Duration::from_millis(20));
        match busy {
            Err(Error::Busy { holder_pid, .. }) => assert_eq!(holder_pid, holder.pid()),
            other => panic!("{other:?}"),
        }
        let waiting = {
            let cache = cache.clone();
            std::thread::spawn(move || {
                let guards = take_all(&cache, true);
                (guards, Instant::now())
            })
        };
        std::thread::sleep(Duration::from_millis(60));
        let killed = Instant::now();
        holder.kill();
        let (guards, had) = waiting.join().expect("they are had");
        // 100 ms are promised; this machine may be busy.
        assert!(had - killed < Duration::from_secs(5), "{:?}", had - killed);
        for guard in guards {
            guard.release().expect("it is ours");
        }
    }
}

// ---- fork ----

/// `fork`, as a number: 0 in the child.
fn fork() -> i32 {
    // SAFETY: this worker has no other thread that the child could miss, and the child ends by `_exit`.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork failed");
    pid
}

fn fork_while_holding(job: &Job) {
    let cache = open(&job.store);
    let lock = Lock::new(&cache, "door").expect("a lock");
    let guard = lock.acquire(None).expect("it is free");
    let token = guard.token();
    let child = fork();
    if child == 0 {
        let is_held = guard.is_still_held().expect("a look");
        let is_busy = lock.try_acquire().expect("a look").is_none();
        let by_token = matches!(lock.release(token), Err(Error::NotHeld { .. }));
        let by_guard = matches!(guard.release(), Err(Error::Forked));
        say(&format!("child {is_held} {is_busy} {by_token} {by_guard}"));
        // SAFETY: it takes a number and never returns.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    // SAFETY: the child is ours, and `status` lives.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!((waited, status), (child, 0));
    say(&format!(
        "parent {}",
        guard.is_still_held().expect("a look")
    ));
    guard.release().expect("it is ours still");
}

#[test]
fn the_child_of_a_fork_holds_nothing_and_gives_nothing_back() {
    let root = work_dir();
    let dir = dir_of(&root);
    let _cache = common::small().open(&dir).expect("a new store");
    let mut worker = start("forker", &dir, &[]);
    assert_eq!(worker.expect("child"), "false true true true");
    assert_eq!(worker.expect("parent"), "true");
    worker.finish();
}

// ---- time ----

/// Two handles of one store with one clock, as two processes have them.
fn two_handles() -> (tempfile::TempDir, Arc<ManualClock>, Cache, Cache) {
    let root = work_dir();
    let clock = Arc::new(ManualClock::new(1_700_000_000_000));
    let open = || {
        let builder = common::small().clock(Arc::clone(&clock) as Arc<dyn larder::Clock>);
        builder.open(dir_of(&root)).expect("the store opens")
    };
    let (one, other) = (open(), open());
    (root, clock, one, other)
}

#[test]
fn an_expired_lock_is_taken_over_and_its_old_holder_is_told() {
    let (_root, clock, one, other) = two_handles();
    let ours = Lock::new(&one, "door")
        .expect("a lock")
        .expiry(Duration::from_secs(5));
    let theirs = Lock::new(&other, "door").expect("a lock");
    let old = ours.acquire(None).expect("it is free");
    let seen = theirs.who_holds().expect("a look").expect("somebody");
    assert_eq!((seen.token, seen.is_exclusive), (old.token(), true));
    assert_eq!(
        seen.expires_at
            .expect("it expires")
            .duration_since(seen.since)
            .expect("later"),
        Duration::from_secs(5)
    );
    clock.advance(Duration::from_secs(4));
    old.extend(Duration::from_secs(5)).expect("it is ours");
    clock.advance(Duration::from_secs(4));
    assert!(theirs.try_acquire().expect("a look").is_none());
    clock.advance(Duration::from_secs(1));
    assert!(!old.is_still_held().expect("a look"));
    let new = theirs.try_acquire().expect("a look").expect("it is over");
    assert!(new.token() > old.token(), "a fence");
    assert!(matches!(old.extend(None), Err(Error::NotHeld { .. })));
    match old.release() {
        Err(Error::NotHeld { why, .. }) => assert!(why.contains("process"), "{why}"),
        other => panic!("{other:?}"),
    }
    assert!(
        new.is_still_held().expect("a look"),
        "nothing of it was changed"
    );
    drop(new);
    // Over, and nobody came: told all the same, and out of the way.
    let late = ours.acquire(None).expect("it is free");
    clock.advance(Duration::from_secs(6));
    assert!(matches!(late.release(), Err(Error::NotHeld { .. })));
    assert!(theirs.who_holds().expect("a look").is_none());
}

// ---- threads ----

#[test]
fn threads_of_one_handle_keep_each_other_out_and_reentry_is_for_one_thread() {
    let _watch = watch("locks: threads");
    let cache = Cache::temporary().expect("a store");
    let lock = RLock::new(&cache, "tree").expect("a lock");
    let (inside, most) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let outer = lock.acquire(PATIENCE).expect("in time");
                    let inner = lock.acquire(PATIENCE).expect("it is ours");
                    most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    inner.release().expect("it is ours");
                    assert!(outer.is_still_held().expect("a look"));
                    std::thread::yield_now();
                    inside.fetch_sub(1, Ordering::SeqCst);
                    outer.release().expect("it is ours");
                }
            });
        }
    });
    assert_eq!(most.load(Ordering::SeqCst), 1);
    assert!(lock.who_holds().expect("a look").is_none());

    let plain = Lock::new(&cache, "tree").expect("another lock of that name");
    let guard = plain.acquire(None).expect("it is free");
    assert!(
        plain.try_acquire().expect("a look").is_none(),
        "not re-entrant"
    );
    std::thread::scope(|scope| {
        scope.spawn(|| guard.release().expect("a guard may pass to another thread"));
    });
}

#[test]
fn readers_that_come_and_go_without_end_do_not_starve_a_writer() {
    let _watch = watch("locks: starving");
    let cache = Cache::temporary().expect("a store");
    let lock = RwLock::new(&cache, "both").expect("a lock");
    let (writers, readers, ends) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !ends.load(Ordering::SeqCst) {
                    let guard = lock.read(PATIENCE).expect("readers are not starved");
                    readers.fetch_add(1, Ordering::SeqCst);
                    assert_eq!(writers.load(Ordering::SeqCst), 0, "a writer is alone");
                    std::thread::sleep(Duration::from_micros(500));
                    drop(guard);
                }
            });
        }
        for _ in 0..10 {
            let guard = lock.write(PATIENCE).expect("the writer is not starved");
            writers.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_micros(300));
            writers.fetch_sub(1, Ordering::SeqCst);
            drop(guard);
            std::thread::sleep(Duration::from_millis(2));
        }
        ends.store(true, Ordering::SeqCst);
    });
    assert!(readers.load(Ordering::SeqCst) > 10);
    assert!(lock.who_holds().expect("a look").is_empty());
}

#[test]
fn a_holder_that_takes_it_again_and_again_lets_others_in() {
    let _watch = watch("locks: greed");
    let cache = Cache::temporary().expect("a store");
    let lock = Lock::new(&cache, "door").expect("a lock");
    let ends = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ends.load(Ordering::SeqCst) {
                let guard = lock.acquire(PATIENCE).expect("in time");
                std::thread::sleep(Duration::from_millis(1));
                drop(guard);
            }
        });
        for _ in 0..10 {
            drop(lock.acquire(PATIENCE).expect("in time"));
        }
        ends.store(true, Ordering::SeqCst);
    });
}

// ---- beside the rest of the store ----

#[test]
fn a_lock_is_not_waited_for_inside_a_transaction_but_given_back_whatever_becomes_of_it() {
    let cache = Cache::temporary().expect("a store");
    let lock = Lock::new(&cache, "door").expect("a lock");
    let mut guard = Some(lock.acquire(None).expect("it is free"));
    let failed = cache.transact(|tx| {
        tx.set("key", "value")?;
        assert!(matches!(lock.acquire(None), Err(Error::Aborted { .. })));
        assert!(matches!(lock.try_acquire(), Err(Error::Aborted { .. })));
        assert!(lock.who_holds()?.is_some());
        guard.take().expect("we have it").release()?;
        Err::<(), _>(Error::Aborted { what: "no".into() })
    });
    assert!(failed.is_err() && !cache.contains("key").expect("a look"));
    assert!(lock.try_acquire().expect("a look").is_some());
    let committed = cache.transact(|tx| {
        tx.set("key", "value")?;
        assert!(
            RwLock::new(&cache, "both")
                .expect("a lock")
                .read(None)
                .is_err()
        );
        Ok(())
    });
    assert!(committed.is_ok() && cache.contains("key").expect("a look"));
    common::assert_sound(&cache);
}

#[test]
fn locks_are_nobodys_entries_and_go_with_their_holders() {
    let root = work_dir();
    let dir = dir_of(&root);
    let cache = common::small().open(&dir).expect("a new store");
    let lock = Lock::new(&cache, "door").expect("a lock");
    let token = lock.acquire(None).expect("it is free").detach();
    assert!(cache.is_empty().expect("a look"));
    assert_eq!(cache.clear().expect("clear"), 0);
    assert!(
        lock.who_holds().expect("a look").is_some(),
        "detached, not free"
    );
    assert!(lock.release(token + 1).is_err());
    drop((cache, lock));
    // The store is made again from its log: the grant is there, its holder is not.
    common::forget_derived(&dir);
    let cache = open(&dir);
    let lock = Lock::new(&cache, "door").expect("a lock");
    assert!(lock.who_holds().expect("a look").is_none());
    assert!(matches!(lock.release(token), Err(Error::NotHeld { .. })));
    let guard = lock.acquire(PATIENCE).expect("it is free");
    assert!(guard.token() > token);
    common::assert_sound(&cache);
}

#[test]
fn what_cannot_be_is_refused() {
    let cache = Cache::temporary().expect("a store");
    for bound in [0, 241, u32::MAX] {
        let refused = BoundedSemaphore::new(&cache, "permits", bound);
        assert!(
            matches!(refused, Err(Error::InvalidSetting { .. })),
            "{bound}"
        );
    }
    let long = Lock::new(&cache, [b'x'; 1_025]);
    assert!(matches!(long, Err(Error::TooLarge { .. })));
    let all = BoundedSemaphore::new(&cache, "permits", 240).expect("a semaphore");
    let permits: Vec<Guard> = (0..240)
        .map(|_| all.acquire(None).expect("one is left"))
        .collect();
    assert!(all.try_acquire().expect("a look").is_none());
    assert_eq!(all.who_holds().expect("a look").len(), permits.len());
}

fn full_store(dir: &std::path::Path) -> Cache {
    Cache::builder()
        .policy(larder::Policy::None)
        .size_limit_bytes(1 << 20)
        .open(dir)
        .expect("opens")
}

fn fill(cache: &Cache) {
    let mut noise = common::Dice::new(3);
    for len in [20_000_usize, 3_000, 400, 60, 1] {
        for n in 0.. {
            let value: Vec<u8> = (0..len).map(|_| noise.below(256) as u8).collect();
            if cache.set(format!("fill-{len}-{n}"), &value).is_err() {
                break;
            }
        }
    }
}

#[test]
fn a_lock_that_waited_for_the_writer_lock_lasts_as_long_as_asked() {
    let cache = Cache::temporary().expect("store");
    let lock = Lock::new(&cache, "l")
        .expect("it works")
        .expiry(Duration::from_secs(1));
    std::thread::scope(|scope| {
        common::hold_writer_lock(scope, &cache, Duration::from_millis(1_500));
        let guard = lock.acquire(None).expect("it works");
        assert!(
            guard.is_still_held().expect("it works"),
            "over before it was had"
        );
        assert!(
            lock.try_acquire().expect("it works").is_none(),
            "two hold it"
        );
    });
}

/// What is given back in a full store is given back.
#[test]
fn a_permit_is_given_back_in_a_full_store() {
    let dir = common::fast_dir();
    let cache = full_store(dir.path());
    let two = larder::BoundedSemaphore::new(&cache, "s", 2).expect("it works");
    let (a, b) = (
        two.acquire(None).expect("it works"),
        two.acquire(None).expect("it works"),
    );
    fill(&cache);
    a.release().expect("given back");
    assert_eq!(two.who_holds().expect("it works").len(), 1);
    b.release().expect("it works");
}

#[test]
fn an_rlock_is_given_back_in_a_full_store() {
    let dir = common::fast_dir();
    let cache = full_store(dir.path());
    let lock = larder::RLock::new(&cache, "s").expect("it works");
    let (a, b) = (
        lock.acquire(None).expect("it works"),
        lock.acquire(None).expect("it works"),
    );
    fill(&cache);
    a.release().expect("given back");
    b.release().expect("it works");
    assert!(lock.who_holds().expect("it works").is_none());
}
