//! Producers and consumers as processes, the consumers killed all the time: every job is done, twice only
//! if the one who had it died, and in order but for those that come again.
//!
//! `LARDER_TEST_TIMES` multiplies the number of jobs: 50 makes a million.

mod common;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::{Duration, Instant};

use common::{Dice, Job as Task, Watch, Worker, leave, say, seed, start};
use larder::{Cache, PushOptions, Queue};

const PRODUCERS: u64 = 4;
const CONSUMERS: usize = 4;
const JOBS_EACH: u64 = 5_000;
/// So long that what the dead had comes back because they are dead.
const LEASE: Duration = Duration::from_secs(600);

/// Producer, number.
type Payload = (u64, u64, Vec<u8>);

#[test]
fn role_entry() {
    let Some(task) = common::job() else { return };
    match task.role.as_str() {
        "producer" => produce(&task),
        "consumer" => consume(&task),
        other => panic!("no such role: {other}"),
    }
    leave()
}

fn open(dir: &Path) -> Queue<Payload> {
    let cache = Cache::open(dir).expect("the store opens");
    Queue::of(&cache, "jobs")
        .expect("the queue opens")
        .named("job")
}

fn priority_of(n: u64) -> i32 {
    [0, 0, 0, 0, 0, 0, 0, 3][(n / 10 % 8) as usize]
}

fn produce(task: &Task) {
    let queue = open(&task.store);
    let (producer, jobs) = (task.args[0], task.args[1]);
    let payload = |n: u64| (producer, n, vec![n as u8; (n % 150) as usize]);
    let mut n = 0;
    while n < jobs {
        // Tens: some as one batch, some one by one, some of another priority.
        let options = PushOptions::default().priority(priority_of(n));
        let ten = n..(n + 10).min(jobs);
        n = ten.end;
        if ten.start / 10 % 3 == 0 {
            queue
                .push_many(ten.map(payload), &options)
                .expect("a batch");
        } else {
            for n in ten {
                queue.push_with(&payload(n), &options).expect("a push");
            }
        }
    }
}

/// Says `d PRODUCER NUMBER DELIVERIES` of each job before it is acked.
fn consume(task: &Task) {
    let queue = open(&task.store);
    let mut last: BTreeMap<i32, u64> = BTreeMap::new();
    say("ready");
    loop {
        let job = queue
            .lease_wait(LEASE, Some(Duration::from_secs(1)))
            .expect("a lease");
        let Some(job) = job else { continue };
        let (producer, n, filler) = job.payload();
        assert_eq!(filler.len() as u64, n % 150);
        assert_eq!(job.priority(), priority_of(*n));
        if job.attempts() == 1 {
            // The first delivery of each is in the order of pushing.
            let before = last.insert(job.priority(), job.id());
            assert!(
                before.is_none_or(|before| before < job.id()),
                "out of order"
            );
        }
        say(&format!("d {producer} {n} {}", job.attempts()));
        assert!(
            job.ack().expect("an ack"),
            "it was taken from a living worker"
        );
    }
}

/// What was delivered to whom, and who has died.
#[derive(Default)]
struct Judge {
    /// By job, the consumers that had it.
    had: HashMap<(u64, u64), Vec<usize>>,
    /// How many first deliveries of each producer's came to one consumer out of order.
    lines: u64,
    again: u64,
}

impl Judge {
    fn hear(&mut self, consumer: usize, lines: Vec<String>) {
        let mut last: HashMap<(u64, i32), u64> = HashMap::new();
        for line in lines {
            let words: Vec<&str> = line.split(' ').collect();
            if words[0] != "d" {
                continue;
            }
            let number = |n: usize| words[n].parse::<u64>().expect("a number");
            let (producer, n) = (number(1), number(2));
            self.had.entry((producer, n)).or_default().push(consumer);
            self.lines += 1;
            if number(3) > 1 {
                self.again += 1;
                continue;
            }
            let before = last.insert((producer, priority_of(n)), n);
            assert!(
                before.is_none_or(|before| before < n),
                "job {n} of producer {producer} came late"
            );
        }
    }
}

#[test]
fn every_job_is_done_though_its_workers_are_killed() {
    let seed = seed("every job is done");
    let times: u64 =
        std::env::var("LARDER_TEST_TIMES").map_or(1, |times| times.parse().expect("a number"));
    let _watch = Watch::new(
        Duration::from_secs(60 * (times + 1)),
        format!("seed {seed}"),
    );
    let mut dice = Dice::new(seed);
    let dir = common::work_dir();
    let jobs = JOBS_EACH * times;
    let cache = Cache::builder()
        .size_limit_bytes(8 << 30)
        .open(dir.path())
        .expect("a store");
    let queue = open(dir.path());
    queue.set_max_attempts(None).expect("a setting");

    let begin = Instant::now();
    let producers: Vec<Worker> = (0..PRODUCERS)
        .map(|n| start("producer", dir.path(), &[n, jobs]))
        .collect();
    let mut started = 0;
    let mut consumer = || {
        started += 1;
        (started - 1, start("consumer", dir.path(), &[]))
    };
    let mut consumers: Vec<(usize, Worker)> = (0..CONSUMERS).map(|_| consumer()).collect();
    let mut judge = Judge::default();
    let mut killed = 0;
    loop {
        std::thread::sleep(Duration::from_millis(dice.below(100)));
        let n = dice.below(CONSUMERS as u64) as usize;
        let (who, worker) = std::mem::replace(&mut consumers[n], consumer());
        judge.hear(who, worker.kill());
        killed += 1;
        let pushed_all = judge.had.len() as u64 >= jobs * PRODUCERS * 9 / 10;
        if pushed_all
            && killed > 20
            && queue.depth().expect("a depth") == 0
            && queue.in_flight().expect("a count") == 0
        {
            break;
        }
    }
    for producer in producers {
        producer.finish();
    }
    // What the last one killed had comes back too.
    while queue.depth().expect("a depth") + queue.in_flight().expect("a count") > 0 {
        std::thread::sleep(Duration::from_millis(20));
    }
    let took = begin.elapsed();
    for (who, worker) in consumers {
        judge.hear(who, worker.kill());
    }

    assert_eq!(
        judge.had.len() as u64,
        jobs * PRODUCERS,
        "jobs that were done"
    );
    assert_eq!(
        (queue.dead().expect("dead"), cache.len().expect("len")),
        (0, 0)
    );
    let mut twice = 0;
    for (job, had) in &judge.had {
        // A worker that lives acks what it has, and it is never seen again: so none had it twice, and all
        // but the last died before they acked it.
        let mut once = had.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(
            once.len(),
            had.len(),
            "job {job:?} came to one worker twice"
        );
        twice += u64::from(had.len() > 1);
    }
    // Each death lets one job at most come again.
    assert!(
        twice <= killed,
        "{twice} jobs came twice, {killed} workers died"
    );
    common::assert_sound(&cache);
    println!(
        "{} jobs, {killed} consumers killed, {} deliveries told, {} of them not the first, {twice} told \
         twice, {:.1} s: {:.0} jobs/s",
        jobs * PRODUCERS,
        judge.lines,
        judge.again,
        took.as_secs_f64(),
        (jobs * PRODUCERS) as f64 / took.as_secs_f64(),
    );
}
