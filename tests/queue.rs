//! What a queue promises, story by story: order, leases, retries, dead letters, dedup keys, transactions.

mod common;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Job as Task, hear, leave, say, start, within};
use larder::{
    Cache, Clock, Error, Json, LeaseId, ManualClock, Policy, PushOptions, Queue, Raw, SetOptions,
};

const BEGIN_MS: u64 = 1_700_000_000_000;
const MINUTE: Duration = Duration::from_secs(60);
const NO_TIME: Duration = Duration::ZERO;

#[test]
fn role_entry() {
    let Some(task) = common::job() else { return };
    match task.role.as_str() {
        "holder" => hold_a_job(&task),
        "pusher" => push_when_told(&task),
        "waiter" => wait_for_a_job(&task),
        "forker" => fork_with_a_job(&task),
        "killed-acker" => ack_for_ever(&task),
        other => panic!("no such role: {other}"),
    }
    leave()
}

fn texts(cache: &Cache) -> Queue<String> {
    Queue::of(cache, "texts").expect("the queue opens")
}

fn text(text: &str) -> String {
    text.to_owned()
}

fn after(seconds: u64) -> PushOptions {
    PushOptions::default().delay(Duration::from_secs(seconds))
}

fn with_clock(dir: &Path) -> (Cache, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new(BEGIN_MS));
    let dynamic: Arc<dyn Clock> = clock.clone();
    let cache = common::small()
        .clock(dynamic)
        .open(dir)
        .expect("the store opens");
    (cache, clock)
}

/// The next job's payload; it is acked.
fn next(queue: &Queue<String>) -> Option<String> {
    let job = queue.lease(MINUTE).expect("lease")?;
    assert!(job.ack().expect("ack"));
    Some(job.payload().clone())
}

fn counts<T, C>(queue: &Queue<T, C>) -> (u64, u64, u64) {
    (
        queue.depth().expect("depth"),
        queue.in_flight().expect("in_flight"),
        queue.dead().expect("dead"),
    )
}

// ---- order ----

#[test]
fn a_higher_priority_goes_first_and_a_delayed_job_when_it_is_due() {
    let dir = common::fast_dir();
    let (cache, clock) = with_clock(dir.path());
    let queue = texts(&cache);
    queue.push(&text("a")).expect("push");
    queue
        .push_with(&text("urgent"), &PushOptions::default().priority(9))
        .expect("push");
    queue.push_with(&text("later"), &after(30)).expect("push");
    queue
        .push_with(
            &text("whenever"),
            &PushOptions::default().priority(i32::MIN),
        )
        .expect("push");
    queue.push(&text("b")).expect("push");
    assert_eq!(counts(&queue), (5, 0, 0));

    assert_eq!(next(&queue).as_deref(), Some("urgent"));
    assert_eq!(next(&queue).as_deref(), Some("a"));
    clock.advance(Duration::from_secs(30));
    // It is due, and was pushed before `b`.
    assert_eq!(next(&queue).as_deref(), Some("later"));
    assert_eq!(next(&queue).as_deref(), Some("b"));
    assert_eq!(next(&queue).as_deref(), Some("whenever"));
    assert_eq!(next(&queue), None);
    assert_eq!(counts(&queue), (0, 0, 0));
    common::assert_sound(&cache);
}

#[test]
fn a_batch_is_delivered_in_its_order_to_whoever_asks() {
    let cache = Cache::temporary().expect("a store");
    let queue = texts(&cache);
    let all: Vec<String> = (0..600).map(|n| n.to_string()).collect();
    let ids = queue
        .push_many(&all, &PushOptions::default())
        .expect("pushes");
    assert!(ids.is_sorted(), "numbers go up");
    let other =
        Queue::<String>::of(&Cache::open(cache.path()).expect("open"), "texts").expect("a queue");
    let mut had = Vec::new();
    loop {
        // In turns: each sees what the other has leased.
        let mut jobs = queue.lease_many(7, MINUTE).expect("leases");
        jobs.extend(other.lease_many(3, MINUTE).expect("leases"));
        if jobs.is_empty() {
            break;
        }
        assert_eq!(queue.ack_many(&jobs).expect("acks"), jobs.len() as u64);
        had.extend(jobs.iter().map(|job| job.payload().clone()));
    }
    assert_eq!(had, all);
    let both = PushOptions::default().key("k");
    assert!(matches!(
        queue.push_many(["a", "b"].map(text), &both),
        Err(Error::InvalidKey { .. })
    ));
    let none = queue
        .push_many(Vec::<String>::new(), &both)
        .expect("nothing");
    assert!(none.is_empty());
}

#[test]
fn thousands_of_jobs_pass_through_a_short_queue() {
    let dir = common::fast_dir();
    let cache = common::small().open(dir.path()).expect("a store");
    let (queue, other) = (texts(&cache), texts(&cache));
    for n in 0..14_000 {
        // Now and then of another priority, to be noted; the lists are written anew several times.
        let options = PushOptions::default().priority(i32::from(n % 7 == 0));
        queue.push_with(&n.to_string(), &options).expect("push");
        let from = if n % 3 == 0 { &other } else { &queue };
        assert_eq!(next(from), Some(n.to_string()));
    }
    assert_eq!((next(&queue), next(&other)), (None, None));
    common::assert_sound(&cache);
}

#[test]
fn what_stays_at_the_front_of_a_busy_queue_stays_what_it_is() {
    let dir = common::fast_dir();
    let builder = || common::small().open(dir.path()).expect("the store opens");
    let cache = builder();
    let queue = texts(&cache);
    queue.set_max_attempts(Some(1)).expect("a setting");
    queue.push(&"dead".repeat(2_000)).expect("push");
    drop(queue.lease(MINUTE).expect("lease").expect("a job"));
    let keyed = after(3_600).key("k").priority(3);
    let (late, _) = queue.push_with(&text("late"), &keyed).expect("push");
    queue.push(&text("held")).expect("push");
    let held = queue.lease(MINUTE * 60).expect("lease").expect("a job");
    let held = held.detach().expect("detach").expect("it is its");
    drop((queue, cache));
    for _ in 0..12 {
        // Handles that do some work and end, as commands do; so no list is ever written anew for long.
        let cache = builder();
        let queue = texts(&cache);
        for n in 0..800 {
            queue.push(&n.to_string()).expect("push");
        }
        for n in 0..800 {
            assert_eq!(next(&queue), Some(n.to_string()));
        }
        assert_eq!((next(&queue), counts(&queue)), (None, (1, 1, 1)));
        common::assert_sound(&cache);
    }
    let cache = builder();
    let queue = texts(&cache);
    assert_eq!(
        queue.push_with(&text("x"), &keyed).expect("push"),
        (late, false)
    );
    assert!(queue.ack(held).expect("ack"));
    let letter = queue
        .dead_letters()
        .expect("letters")
        .next()
        .expect("one")
        .expect("a letter");
    assert_eq!(letter.payload, "dead".repeat(2_000));
    assert_eq!(queue.requeue_dead().expect("requeue"), 1);
    assert_eq!(next(&queue), Some("dead".repeat(2_000)));
    assert_eq!((next(&queue), counts(&queue)), (None, (1, 0, 0)));
    common::assert_sound(&cache);
}

// ---- leases ----

#[test]
fn a_lease_that_runs_out_is_anothers_and_acks_nothing_more() {
    let dir = common::fast_dir();
    let (cache, clock) = with_clock(dir.path());
    let queue = texts(&cache);
    queue.push(&text("a")).expect("push");
    let first = queue.lease(MINUTE).expect("lease").expect("a job");
    assert_eq!((first.attempts(), first.last_error()), (1, None));
    assert!(queue.lease(MINUTE).expect("lease").is_none());
    assert!(first.extend(MINUTE * 2).expect("extend"));
    clock.advance(MINUTE);
    assert!(
        queue.lease(MINUTE).expect("lease").is_none(),
        "it was extended"
    );
    clock.advance(MINUTE);
    // It has run out, but nobody has noticed: it can still be prolonged.
    assert_eq!(counts(&queue), (1, 0, 0));
    assert!(first.extend(MINUTE).expect("extend"));
    clock.advance(MINUTE);

    let second = queue.lease(MINUTE).expect("lease").expect("a job");
    assert_eq!(second.id(), first.id());
    assert_eq!(
        (second.attempts(), second.last_error()),
        (2, Some("its lease ran out"))
    );
    assert!(!first.extend(MINUTE).expect("extend"), "another has it");
    assert!(!first.ack().expect("ack"), "another has it");
    assert!(!first.nack(NO_TIME).expect("nack"), "another has it");
    drop(first);
    assert_eq!(counts(&queue), (0, 1, 0));
    assert!(second.ack().expect("ack"));
    assert!(!second.ack().expect("ack"), "it is gone");
    assert_eq!(counts(&queue), (0, 0, 0));
}

#[test]
fn a_guard_that_goes_without_a_word_gives_the_job_back_at_once() {
    let cache = Cache::temporary().expect("a store");
    let queue = texts(&cache);
    queue.push(&text("a")).expect("push");
    drop(queue.lease(MINUTE).expect("lease").expect("a job"));
    let job = queue.lease(MINUTE).expect("lease").expect("it is back");
    assert_eq!(job.last_error(), Some("it was dropped without an ack"));
    let panicked = std::thread::spawn(move || {
        let _job = job;
        panic!("this worker panics, as it should");
    });
    assert!(panicked.join().is_err());
    let job = queue.lease(MINUTE).expect("lease").expect("it is back");
    assert_eq!(
        (job.attempts(), job.last_error()),
        (3, Some("its worker panicked"))
    );
    assert!(
        job.fail("the printer burns", Duration::from_secs(3_600))
            .expect("fail")
    );
    drop(job);
    assert!(
        queue.lease(MINUTE).expect("lease").is_none(),
        "it is delayed"
    );
    assert_eq!(counts(&queue), (1, 0, 0));
}

#[test]
fn a_detached_lease_is_acked_by_its_name_from_anywhere() {
    let dir = common::fast_dir();
    let (cache, clock) = with_clock(dir.path());
    let queue = texts(&cache);
    for n in 0..3 {
        queue.push(&n.to_string()).expect("push");
    }
    let leases: Vec<LeaseId> = (0..3)
        .map(|_| queue.lease(MINUTE).expect("lease").expect("a job"))
        .map(|job| job.detach().expect("detach").expect("it is its"))
        .collect();
    drop((queue, cache));

    let (cache, _) = with_clock(dir.path());
    let queue = texts(&cache);
    assert_eq!(counts(&queue), (0, 3, 0));
    std::thread::sleep(Duration::from_millis(60));
    assert!(
        queue.lease(MINUTE).expect("lease").is_none(),
        "they outlive their process"
    );
    let named: LeaseId = leases[0].to_string().parse().expect("a lease's name");
    assert!(queue.ack(named).expect("ack"));
    assert!(!queue.ack(named).expect("ack"));
    assert!(
        queue
            .nack(leases[1], NO_TIME, Some("no luck"))
            .expect("nack")
    );
    let job = queue.lease(MINUTE).expect("lease").expect("it is back");
    assert_eq!(
        (job.payload().as_str(), job.last_error()),
        ("1", Some("no luck"))
    );
    assert!(job.ack().expect("ack"));
    assert!(queue.extend(leases[2], MINUTE).expect("extend"));
    assert!(!queue.extend(leases[1], MINUTE).expect("extend"));
    drop(clock);
    for wrong in [
        "",
        "7",
        "7-",
        "-00c0ffee00c0ffee",
        "7-c0ffee",
        "7-00c0ffee00c0ffeg",
        "+7-00c0ffee00c0ffee",
    ] {
        assert!(wrong.parse::<LeaseId>().is_err(), "{wrong:?}");
    }
}

// ---- dead letters ----

#[test]
fn what_fails_too_often_is_a_dead_letter_until_it_is_requeued() {
    let cache = Cache::temporary().expect("a store");
    let queue = texts(&cache);
    assert_eq!(queue.max_attempts().expect("a setting"), Some(10));
    queue.set_max_attempts(Some(2)).expect("a setting");
    let options = PushOptions::default().key("one").priority(4);
    let (id, _) = queue.push_with(&text("poison"), &options).expect("push");
    queue.push(&text("good")).expect("push");
    for _ in 0..2 {
        let job = queue.lease(MINUTE).expect("lease").expect("a job");
        assert_eq!(*job, "poison");
        job.fail("it is poison", NO_TIME).expect("fail");
    }
    assert_eq!(next(&queue).as_deref(), Some("good"));
    assert_eq!(counts(&queue), (0, 0, 1));
    let letters: Vec<_> = queue
        .dead_letters()
        .expect("letters")
        .collect::<Result<_, _>>()
        .expect("letters");
    assert_eq!(letters.len(), 1);
    let letter = &letters[0];
    assert_eq!((letter.id, letter.attempts, letter.priority), (id, 2, 4));
    assert_eq!(
        (letter.payload.as_str(), letter.error.as_str()),
        ("poison", "it is poison")
    );

    // Its key is free: the same may be pushed anew.
    let (anew, is_new) = queue.push_with(&text("anew"), &options).expect("push");
    assert!(is_new && anew != id);
    assert_eq!(queue.requeue_dead().expect("requeue"), 1);
    assert_eq!(counts(&queue), (2, 0, 0));
    let job = queue.lease(MINUTE).expect("lease").expect("a job");
    assert_eq!(
        (job.id(), job.attempts(), job.last_error()),
        (id, 1, Some("it is poison"))
    );
    job.ack().expect("ack");
    assert_eq!(
        queue.push_with(&text("x"), &options).expect("push"),
        (anew, false),
        "the other's key"
    );
    assert_eq!(next(&queue).as_deref(), Some("anew"));

    queue.push(&text("poison")).expect("push");
    for _ in 0..2 {
        drop(queue.lease(MINUTE).expect("lease").expect("a job"));
    }
    assert_eq!(counts(&queue), (0, 0, 1));
    assert_eq!(queue.clear_dead().expect("clear"), 1);
    assert_eq!(counts(&queue), (0, 0, 0));
    queue.set_max_attempts(None).expect("a setting");
    assert_eq!(queue.max_attempts().expect("a setting"), None);
    common::assert_sound(&cache);
}

#[test]
fn a_payload_that_cannot_be_read_is_told_and_given_up_in_the_end() {
    let cache = Cache::temporary().expect("a store");
    let queue = texts(&cache);
    queue.set_max_attempts(Some(3)).expect("a setting");
    let numbers = Queue::<u64>::of(&cache, "texts")
        .expect("a queue")
        .with_codec::<Json>();
    queue.push(&text("text")).expect("push");
    numbers.push(&7).expect("push");
    for _ in 0..3 {
        assert!(matches!(
            numbers.lease(MINUTE),
            Err(Error::WrongType { .. })
        ));
    }
    let job = numbers.lease(MINUTE).expect("lease").expect("a number");
    assert_eq!(*job, 7);
    job.ack().expect("ack");
    let letter = queue
        .dead_letters()
        .expect("letters")
        .next()
        .expect("one")
        .expect("of this type");
    assert!(letter.error.contains("not as"), "{}", letter.error);
    assert!(
        numbers
            .dead_letters()
            .expect("letters")
            .next()
            .expect("one")
            .is_err()
    );
    let raw = numbers
        .dead_values()
        .expect("letters")
        .next()
        .expect("one")
        .expect("bytes");
    assert!(raw.payload.ends_with(b"text"));
}

// ---- dedup keys ----

#[test]
fn one_key_is_one_job_until_that_is_acked() {
    let dir = common::fast_dir();
    let cache = common::small().open(dir.path()).expect("a store");
    let queue = texts(&cache);
    let keyed = PushOptions::default().key("k");
    let (id, _) = queue.push_with(&text("a"), &keyed).expect("push");
    assert_eq!(
        queue.push_with(&text("b"), &keyed).expect("push"),
        (id, false)
    );
    assert!(
        queue
            .push_with(&text("c"), &PushOptions::default().key("other"))
            .expect("push")
            .1
    );
    let job = queue.lease(MINUTE).expect("lease").expect("a job");
    assert_eq!(
        queue.push_with(&text("b"), &keyed).expect("push"),
        (id, false),
        "in flight"
    );
    job.nack(NO_TIME).expect("nack");
    drop((job, queue, cache));

    common::forget_derived(dir.path());
    let cache = common::small().open(dir.path()).expect("a store");
    let queue = texts(&cache);
    assert_eq!(
        queue.push_with(&text("b"), &keyed).expect("push"),
        (id, false),
        "reopened"
    );
    assert_eq!(next(&queue).as_deref(), Some("a"));
    let (anew, is_new) = queue.push_with(&text("b"), &keyed).expect("push");
    assert!(is_new && anew != id);
    let long = PushOptions::default().key(vec![0; 1_025]);
    assert!(matches!(
        queue.push_with(&text("x"), &long),
        Err(Error::TooLarge { .. })
    ));
    assert_eq!(queue.clear().expect("clear"), 2);
    assert!(
        queue.push_with(&text("b"), &keyed).expect("push").1,
        "a cleared key is free"
    );
    assert_eq!(next(&queue).as_deref(), Some("b"));
    assert_eq!(next(&queue), None);
}

// ---- transactions ----

#[test]
fn an_ack_and_its_result_happen_together_or_not_at_all() {
    let cache = Cache::temporary().expect("a store");
    let (queue, more) = (
        texts(&cache),
        Queue::<u32>::of(&cache, "more").expect("a queue"),
    );
    queue.push(&text("a")).expect("push");
    let job = queue.lease(MINUTE).expect("lease").expect("a job");
    let failed = cache.transact(|tx| {
        tx.set("result", "half")?;
        more.push(&1)?;
        assert!(job.ack()?);
        assert_eq!(
            (queue.in_flight()?, more.depth()?),
            (0, 1),
            "as the transaction sees it"
        );
        Err::<(), _>(Error::Aborted { what: "no".into() })
    });
    assert!(failed.is_err());
    assert_eq!(
        (cache.get("result").expect("get"), counts(&more)),
        (None, (0, 0, 0))
    );
    assert_eq!(counts(&queue), (0, 1, 0), "still leased");
    drop(job);

    let job = queue
        .lease(MINUTE)
        .expect("lease")
        .expect("it is back at once");
    assert_eq!(
        job.last_error(),
        Some("the transaction in which it was acked came to nothing")
    );
    let done = cache.transact(|tx| {
        tx.set("result", "whole")?;
        more.push_with(&2, &PushOptions::default().priority(1).key("k"))?;
        let again = more.push_with(&3, &PushOptions::default().key("k"))?;
        assert!(!again.1, "it sees its own push");
        more.push_many([4, 5], &PushOptions::default())?;
        assert!(matches!(more.lease(MINUTE), Err(Error::Aborted { .. })));
        job.ack()
    });
    assert!(done.expect("a transaction"));
    drop(job);
    assert_eq!(
        cache.get("result").expect("get").as_deref(),
        Some(&b"whole"[..])
    );
    assert_eq!((counts(&queue), counts(&more)), ((0, 0, 0), (3, 0, 0)));
    let jobs = more.lease_many(9, MINUTE).expect("leases");
    let had: Vec<u32> = jobs.iter().map(|job| *job.payload()).collect();
    assert_eq!(had, [2, 4, 5]);
    cache.transact(|_| more.ack_many(&jobs)).expect("acks");
    drop(jobs);
    assert_eq!(counts(&more), (0, 0, 0));
    common::assert_sound(&cache);
}

// ---- large payloads, full stores ----

#[test]
fn large_payloads_are_files_and_go_with_their_ack() {
    let dir = common::fast_dir();
    let cache = common::small().open(dir.path()).expect("a store");
    let queue = Queue::<Vec<u8>>::of(&cache, "files")
        .expect("a queue")
        .with_codec::<Raw>();
    let large = |n: u8| vec![n; 300_000];
    for n in 0..4 {
        let options = PushOptions::default().priority(i32::from(n));
        queue.push_with(&large(n), &options).expect("push");
    }
    for n in (0..4).rev() {
        let job = queue.lease(MINUTE).expect("lease").expect("a job");
        assert_eq!(*job, large(n));
        assert!(job.nack(NO_TIME).expect("nack"));
        let job = queue.lease(MINUTE).expect("lease").expect("a job");
        assert_eq!(*job, large(n));
        job.ack().expect("ack");
    }
    cache.close().expect("close");
    let names = common::names(dir.path());
    let files = names.iter().filter(|name| name.ends_with(".val")).count();
    assert_eq!(files, 0, "{names:?}");
}

#[test]
fn a_full_store_refuses_jobs_and_can_be_emptied() {
    let dir = common::fast_dir();
    let builder = Cache::builder()
        .size_limit_bytes(2 << 20)
        .policy(Policy::None);
    let cache = builder.open(dir.path()).expect("a store");
    let queue = Queue::<Vec<u8>>::of(&cache, "jobs")
        .expect("a queue")
        .with_codec::<Raw>();
    let mut pushed = 0;
    let refused = loop {
        match queue.push(&vec![1; 2_000]) {
            Ok(_) => pushed += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, Error::Full { .. }), "{refused}");
    assert!(pushed > 100, "{pushed} jobs");
    for n in 0..pushed {
        let job = queue
            .lease(MINUTE)
            .expect("a full store lends")
            .expect("a job");
        if n % 5 == 0 {
            job.nack(NO_TIME).expect("and takes back");
            queue
                .lease(MINUTE)
                .expect("lease")
                .expect("a job")
                .ack()
                .expect("ack");
        } else {
            job.ack().expect("ack");
        }
    }
    assert_eq!(counts(&queue), (0, 0, 0));
    queue.push(&vec![1; 2_000]).expect("there is room again");
    common::assert_sound(&cache);
}

#[test]
fn a_queue_is_not_the_caches_and_not_anothers() {
    let cache = Cache::temporary().expect("a store");
    cache
        .update_settings(|settings| settings.default_ttl = Some(Duration::from_millis(1)))
        .expect("settings");
    let (one, other) = (
        texts(&cache),
        Queue::<String>::of(&cache, "other").expect("a queue"),
    );
    one.push(&text("a")).expect("push");
    cache
        .set_with("k", "v", &SetOptions::default().never_expires())
        .expect("set");
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(cache.clear().expect("clear"), 1);
    assert_eq!((next(&other), next(&one).as_deref()), (None, Some("a")));
    let names = Queue::<String>::names(&cache).expect("names");
    assert_eq!(names, [b"texts".to_vec(), b"other".to_vec()]);
}

// ---- other processes ----

fn hold_a_job(task: &Task) {
    let queue = texts(&Cache::open(&task.store).expect("open"));
    let job = queue
        .lease(Duration::from_secs(3_600))
        .expect("lease")
        .expect("a job");
    say(&format!("has {}", job.payload()));
    hear();
}

#[test]
fn a_killed_workers_job_is_delivered_at_once() {
    let dir = common::work_dir();
    let cache = Cache::open(dir.path()).expect("open");
    let queue = texts(&cache);
    for n in ["a", "b", "c"] {
        queue.push(&text(n)).expect("push");
    }
    let mut worker = start("holder", dir.path(), &[]);
    assert_eq!(worker.expect("has"), "a");
    assert_eq!(next(&queue).as_deref(), Some("b"));
    worker.kill();
    let begin = Instant::now();
    let job = within(Duration::from_secs(20), "a dead worker's job", move || {
        queue
            .lease_wait(MINUTE, None)
            .expect("lease")
            .expect("c")
            .ack()
            .expect("ack");
        queue
            .lease_wait(MINUTE, None)
            .expect("lease")
            .expect("a job")
    });
    assert!(begin.elapsed() < Duration::from_secs(10));
    assert_eq!(*job, "a");
    assert_eq!(
        (job.attempts(), job.last_error()),
        (2, Some("its worker's process is gone"))
    );
}

fn push_when_told(task: &Task) {
    let queue = texts(&Cache::open(&task.store).expect("open"));
    say("ready");
    loop {
        queue.push(&hear()).expect("push");
    }
}

#[test]
fn who_waits_is_woken_by_a_push_elsewhere_and_by_a_job_that_is_due() {
    let dir = common::work_dir();
    let cache = Cache::open(dir.path()).expect("open");
    let queue = texts(&cache);
    let mut pusher = start("pusher", dir.path(), &[]);
    pusher.expect("ready");
    let (none, took) = common::timed(|| queue.lease_wait(MINUTE, Some(Duration::from_millis(30))));
    assert!(none.expect("lease").is_none() && took >= Duration::from_millis(30));
    let waiters: Vec<_> = (0..4)
        .map(|_| {
            let queue = queue.clone();
            std::thread::spawn(move || {
                let job = queue
                    .lease_wait(MINUTE, Some(MINUTE))
                    .expect("lease")
                    .expect("a job");
                job.ack().expect("ack");
                job.payload().clone()
            })
        })
        .collect();
    for n in 0..4 {
        pusher.tell(&n.to_string());
    }
    let mut had: Vec<String> = within(Duration::from_secs(30), "four waiters", move || {
        waiters
            .into_iter()
            .map(|waiter| waiter.join().expect("it ends"))
            .collect()
    });
    had.sort();
    assert_eq!(had, ["0", "1", "2", "3"]);

    let soon = PushOptions::default().delay(Duration::from_millis(150));
    queue.push_with(&text("soon"), &soon).expect("push");
    let job = within(Duration::from_secs(30), "a job that is due", move || {
        queue
            .lease_wait(MINUTE, None)
            .expect("lease")
            .expect("a job")
    });
    assert_eq!(*job, "soon");
}

fn wait_for_a_job(task: &Task) {
    let queue = texts(&Cache::open(&task.store).expect("open"));
    say("ready");
    let job = queue
        .lease_wait(MINUTE, None)
        .expect("lease")
        .expect("a job");
    say(&format!("has {}", job.payload()));
    job.ack().expect("ack");
}

#[test]
fn a_commit_wakes_who_waits_and_a_nack_and_a_requeue_do() {
    let dir = common::work_dir();
    let cache = Cache::open(dir.path()).expect("open");
    let queue = texts(&cache);
    queue.set_max_attempts(Some(1)).expect("a setting");
    let mut worker = start("waiter", dir.path(), &[]);
    worker.expect("ready");
    cache
        .transact(|_| queue.push(&text("a")))
        .expect("a transaction");
    assert_eq!(worker.expect("has"), "a");
    worker.finish();
    queue.push(&text("b")).expect("push");
    drop(queue.lease(MINUTE).expect("lease").expect("a job"));
    assert_eq!(counts(&queue), (0, 0, 1));
    let mut worker = start("waiter", dir.path(), &[]);
    worker.expect("ready");
    assert_eq!(queue.requeue_dead().expect("requeue"), 1);
    assert_eq!(worker.expect("has"), "b");
    worker.finish();
}

fn fork_with_a_job(task: &Task) {
    let cache = Cache::open(&task.store).expect("open");
    let queue = texts(&cache);
    queue.push(&text("parent's")).expect("push");
    queue.push(&text("child's")).expect("push");
    let job = queue.lease(MINUTE).expect("lease").expect("a job");
    // SAFETY: the child touches nothing that another thread of this process may have locked.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork failed");
    if pid == 0 {
        // Its copy of the guard says nothing; its own lease is its own.
        drop(job);
        let own = queue.lease(MINUTE).expect("lease").expect("a job");
        assert_eq!(*own, "child's");
        std::mem::forget(own);
        // SAFETY: ends this child at once, as a kill would.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    // SAFETY: waits for the child above; `status` outlives the call.
    unsafe { libc::waitpid(pid, &mut status, 0) };
    say(&format!("child {status}"));
    assert!(
        job.ack().expect("ack"),
        "the child's drop did not give it back"
    );
    let again = within(Duration::from_secs(20), "the child's job", move || {
        queue
            .lease_wait(MINUTE, None)
            .expect("lease")
            .expect("a job")
    });
    assert_eq!((again.payload().as_str(), again.attempts()), ("child's", 2));
    again.ack().expect("ack");
}

#[test]
fn a_forked_childs_leases_are_its_own() {
    let dir = common::work_dir();
    let said = start("forker", dir.path(), &[]).finish();
    assert!(said.contains(&"child 0".to_owned()), "{said:?}");
}

fn ack_for_ever(task: &Task) {
    let cache = Cache::open(&task.store).expect("open");
    let queue = texts(&cache);
    say("ready");
    loop {
        let keyed = PushOptions::default().key("k").priority(1);
        queue.push(&text("plain")).expect("push");
        queue.push_with(&text("keyed"), &keyed).expect("push");
        for _ in 0..2 {
            queue
                .lease(MINUTE)
                .expect("lease")
                .expect("a job")
                .ack()
                .expect("ack");
        }
        cache
            .transact(|tx| {
                tx.incr("pushed", 1, 0)?;
                queue.push(&text("counted"))
            })
            .expect("a transaction");
        let job = queue.lease(MINUTE).expect("lease").expect("a job");
        cache
            .transact(|tx| {
                tx.incr("acked", i64::from(*job == "counted"), 0)?;
                job.ack()
            })
            .expect("a transaction");
    }
}

#[test]
fn a_worker_killed_at_any_instant_leaves_a_queue_that_goes_on() {
    let seed = common::seed("a killed worker");
    let mut dice = common::Dice::new(seed);
    let dir = common::fast_dir();
    let cache = common::small().open(dir.path()).expect("open");
    let queue = texts(&cache);
    queue.set_max_attempts(None).expect("a setting");
    for _ in 0..20 {
        let mut worker = start("killed-acker", dir.path(), &[]);
        worker.expect("ready");
        std::thread::sleep(Duration::from_micros(dice.below(40_000)));
        worker.kill();
        std::thread::sleep(Duration::from_millis(60));
        // Whatever it left is delivered, and then there is nothing: no note, no key, no count.
        let mut counted = 0;
        while let Some(job) = queue.lease(MINUTE).expect("lease") {
            counted += i64::from(*job == "counted");
            job.ack().expect("ack");
        }
        cache.incr("acked", counted, 0).expect("incr");
        let number = |key: &str| cache.get(key).expect("get").map(|value| value.to_vec());
        assert_eq!(
            number("pushed"),
            number("acked"),
            "results and acks go together"
        );
        assert_eq!(counts(&queue), (0, 0, 0));
        let (_, is_new) = queue
            .push_with(&text("x"), &PushOptions::default().key("k"))
            .expect("push");
        assert!(is_new, "the key is free");
        assert_eq!(next(&queue).as_deref(), Some("x"));
        common::assert_sound(&cache);
    }
}

/// A push that fails in a transaction must not make two jobs share a number.
#[test]
fn a_failed_push_in_a_transaction_gives_no_number_twice() {
    let dir = common::fast_dir();
    let cache = Cache::builder()
        .policy(Policy::None)
        .size_limit_bytes(1 << 20)
        .open(dir.path())
        .expect("store");
    let queue = Queue::<Vec<u8>>::of(&cache, "q").expect("queue");
    let mut noise = common::Dice::new(7);
    let big: Vec<u8> = (0..3 << 20).map(|_| noise.below(256) as u8).collect();
    let mut ids = Vec::new();
    cache
        .transact(|_| {
            assert!(queue.push(&big).is_err(), "too large for the store");
            ids.push(queue.push(&b"one".to_vec())?);
            Ok(())
        })
        .expect("transact");
    ids.push(queue.push(&b"two".to_vec()).expect("push"));
    println!("{ids:?}");
    assert_ne!(ids[0], ids[1], "two jobs of one number");
    assert_eq!(queue.depth().expect("depth"), 2);
}

/// A ready job that is looked at with an older moment is not forgotten.
#[test]
fn a_clock_set_back_and_forth_loses_no_job() {
    let dir = common::fast_dir();
    let (cache, clock) = with_clock(dir.path());
    let queue = Queue::<String>::of(&cache, "q").expect("queue");
    queue
        .push_with(
            &"later".into(),
            &PushOptions::default().delay(Duration::from_secs(10)),
        )
        .expect("it works");
    queue
        .push_with(&"high".into(), &PushOptions::default().priority(5))
        .expect("it works");
    clock.advance(Duration::from_secs(11));
    let job = queue.lease(MINUTE).expect("it works").expect("it works");
    assert_eq!(*job, "high");
    job.ack().expect("it works");
    clock.set(BEGIN_MS + 5_000);
    assert!(queue.lease(MINUTE).expect("it works").is_none(), "not due");
    clock.set(BEGIN_MS + 20_000);
    let job = queue.lease(MINUTE).expect("it works");
    assert_eq!(
        job.as_deref().map(String::as_str),
        Some("later"),
        "it is due again"
    );
}

/// A lease begins when it is had, not when it was asked for.
#[test]
fn a_lease_that_waited_for_the_writer_lock_lasts_as_long_as_asked() {
    let cache = Cache::temporary().expect("store");
    let queue = Queue::<String>::of(&cache, "q").expect("queue");
    queue.push(&"a".into()).expect("it works");
    std::thread::scope(|scope| {
        common::hold_writer_lock(scope, &cache, Duration::from_millis(1_500));
        let job = queue
            .lease(Duration::from_secs(1))
            .expect("it works")
            .expect("it works");
        let twice = queue.lease(Duration::from_secs(1)).expect("it works");
        assert!(twice.is_none(), "a job of a live worker, twice at once");
        job.ack().expect("it works");
    });
}

/// A list that is written anew while its front is moved keeps all its jobs.
#[test]
fn delayed_jobs_stay_findable_while_lists_are_made_dense() {
    let dir = common::fast_dir();
    let clock = Arc::new(ManualClock::new(BEGIN_MS));
    let dynamic: Arc<dyn Clock> = clock.clone();
    let cache = Cache::builder()
        .clock(dynamic)
        .open(dir.path())
        .expect("opens");
    let queue = Queue::<u64>::of(&cache, "q").expect("queue");
    let delayed: u64 = 4_000;
    let hour = PushOptions::default().delay(Duration::from_secs(36_000));
    for chunk in (0..delayed).collect::<Vec<_>>().chunks(500) {
        queue.push_many(chunk, &hour).expect("it works");
    }
    for n in 0..24_000_u64 {
        queue.push(&(1_000_000 + n)).expect("it works");
        let job = queue.lease(MINUTE).expect("it works").expect("it works");
        job.ack().expect("it works");
    }
    assert_eq!(queue.depth().expect("it works"), delayed);
    clock.advance(Duration::from_secs(40_000));
    // This handle, and one that reads the lists.
    let fresh = Queue::<u64>::of(&cache, "q").expect("it works");
    let mut seen = std::collections::BTreeSet::new();
    loop {
        let jobs = fresh.lease_many(256, MINUTE).expect("it works");
        if jobs.is_empty() {
            break;
        }
        for job in &jobs {
            assert!(seen.insert(**job));
        }
        fresh.ack_many(&jobs).expect("it works");
    }
    assert_eq!(
        seen.len() as u64,
        delayed,
        "depth still {}",
        fresh.depth().expect("it works")
    );
}

/// A job whose guard goes inside a transaction that comes to nothing is delivered again at once.
#[test]
fn a_job_dropped_inside_a_transaction_that_fails_is_given_back() {
    let cache = Cache::temporary().expect("it works");
    let queue = Queue::<String>::of(&cache, "q").expect("it works");
    queue.push(&"a".into()).expect("it works");
    let job = queue.lease(MINUTE).expect("it works").expect("it works");
    let failed = cache.transact(move |tx| {
        tx.set("x", "y")?;
        let _job = job;
        Err::<(), _>(Error::Aborted { what: "no".into() })
    });
    assert!(failed.is_err());
    let job = queue
        .lease(MINUTE)
        .expect("it works")
        .expect("it is delivered again");
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        cache.transact(move |tx| {
            tx.set("x", "y")?;
            let _job = job;
            panic!("in the middle");
            #[allow(unreachable_code)]
            Ok(())
        })
    }));
    assert!(panicked.is_err());
    let job = queue
        .lease(MINUTE)
        .expect("it works")
        .expect("it is delivered again");
    assert_eq!(job.attempts(), 3);
    assert!(cache.get("x").expect("it works").is_none());
    // And where the transaction comes to be, too.
    cache
        .transact(|tx| {
            tx.set("x", "y")?;
            drop(job);
            Ok(())
        })
        .expect("it works");
    let job = queue
        .lease(MINUTE)
        .expect("it works")
        .expect("it is delivered again");
    assert_eq!(
        cache.get("x").expect("it works").as_deref(),
        Some(&b"y"[..])
    );
    assert!(job.ack().expect("it works"));
    common::assert_sound(&cache);
}
