//! What a queue costs: jobs pushed, leased and acked in one process; and how soon a worker that waits in
//! another process has what was pushed.
//!
//! Jobs of 100 bytes. Prints Markdown. With `--test` everything runs once, with few jobs.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use larder::{Job, PushOptions, Queue, Raw};

mod common;

use common::{Scale, median, open_store, scratch};

type Bytes = Queue<Vec<u8>, Raw>;

const CHILD: &str = "LARDER_QUEUE_BENCH_CHILD";
const LEASE: Duration = Duration::from_secs(60);
const RUNS: usize = 5;

fn open(dir: &Path) -> Bytes {
    Queue::of(&open_store(dir), "jobs")
        .expect("a queue opens")
        .with_codec()
}

fn main() {
    if let Some(dir) = std::env::var_os(CHILD) {
        return wait_for_jobs(Path::new(&dir));
    }
    let scale = Scale::from_arguments();
    let jobs = scale.entries / 2;
    println!("| jobs of 100 bytes, one process | jobs/s | µs each |");
    println!("|---|---:|---:|");
    let plain = PushOptions::default();
    throughput("push, lease and ack one by one", jobs, |queue, jobs| {
        for _ in 0..jobs {
            queue.push(&payload()).expect("a push");
            lease(queue).ack().expect("an ack");
        }
    });
    throughput("push all, then lease and ack all", jobs, |queue, jobs| {
        for _ in 0..jobs {
            queue.push(&payload()).expect("a push");
        }
        for _ in 0..jobs {
            lease(queue).ack().expect("an ack");
        }
    });
    throughput("the same in batches of 100", jobs, |queue, jobs| {
        for _ in 0..jobs / 100 {
            let batch = (0..100).map(|_| payload());
            queue.push_many(batch, &plain).expect("pushes");
        }
        for _ in 0..jobs / 100 {
            let batch = queue.lease_many(100, LEASE).expect("leases");
            assert_eq!(queue.ack_many(&batch).expect("acks"), 100);
        }
    });
    throughput("one by one, of 8 priorities", jobs, |queue, jobs| {
        for n in 0..jobs {
            let options = PushOptions::default().priority(n as i32 % 8 - 3);
            queue.push_with(&payload(), &options).expect("a push");
            lease(queue).ack().expect("an ack");
        }
    });
    wake_up(if scale.small { 5 } else { 1_000 });
}

fn payload() -> Vec<u8> {
    vec![b'x'; 100]
}

fn lease(queue: &Bytes) -> Job<Vec<u8>> {
    queue.lease(LEASE).expect("a lease").expect("a job")
}

/// Median of some runs, each in a new store.
fn throughput(what: &str, jobs: u64, work: impl Fn(&Bytes, u64)) {
    let mut wanted = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'));
    if wanted.next().is_some_and(|word| !what.contains(&word)) {
        return;
    }
    let runs = if jobs < 10_000 { 1 } else { RUNS };
    let took: Vec<f64> = (0..runs)
        .map(|_| {
            let dir = scratch("queue");
            let queue = open(&dir);
            let begin = Instant::now();
            work(&queue, jobs);
            let took = begin.elapsed().as_nanos() as f64 / jobs as f64;
            let left = (
                queue.depth().expect("a depth"),
                queue.in_flight().expect("a count"),
            );
            assert_eq!(left, (0, 0));
            drop(queue);
            std::fs::remove_dir_all(&dir).expect("the bench's directory is ours");
            took
        })
        .collect();
    let each = median(&took);
    println!("| {what} | {:.0} | {:.2} |", 1e9 / each, each / 1e3);
}

/// From before a push here until the job is leased in another process that waits.
fn wake_up(rounds: usize) {
    let dir = scratch("queue-wake");
    let queue = open(&dir);
    let program = std::env::current_exe().expect("this program's path");
    let mut child = Command::new(program)
        .env(CHILD, &dir)
        .stdout(Stdio::piped())
        .spawn()
        .expect("this program starts");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut line = || lines.next().expect("a line").expect("text");
    assert_eq!(line(), "ready");
    let mut took: Vec<f64> = (0..rounds)
        .map(|round| {
            // Long enough for the other to sleep again, of no fixed length.
            std::thread::sleep(Duration::from_micros(3_000 + round as u64 * 37 % 9_000));
            let begin = now_ns();
            queue.push(&begin.to_le_bytes().to_vec()).expect("a push");
            let leased: u64 = line().parse().expect("a time");
            (leased - begin) as f64
        })
        .collect();
    queue.push(&Vec::new()).expect("a push");
    child.wait().expect("the child ends");
    took.sort_by(f64::total_cmp);
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize] / 1e3;
    println!();
    println!("| from push to lease in another process that waits | µs |");
    println!("|---|---:|");
    for (name, share) in [("median", 0.5), ("p99", 0.99), ("worst", 1.0)] {
        println!("| {name} of {rounds} | {:.0} |", at(share));
    }
    std::fs::remove_dir_all(&dir).expect("the bench's directory is ours");
}

/// The other process: says when it had each job; an empty one ends it.
fn wait_for_jobs(dir: &Path) {
    let queue = open(dir);
    let say = |text: String| {
        println!("{text}");
        std::io::stdout().flush().expect("a parent that reads");
    };
    say("ready".into());
    loop {
        let job = queue
            .lease_wait(LEASE, None)
            .expect("a lease")
            .expect("a job");
        let leased = now_ns();
        job.ack().expect("an ack");
        if job.is_empty() {
            return;
        }
        say(leased.to_string());
    }
}

/// Nanoseconds of the clock all processes of this boot share.
fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
