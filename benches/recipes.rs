//! What recipes cost: a lock nobody else wants, and the time in which it passes from one process to
//! another that waits for it.
//!
//! Prints Markdown: medians. With `--test` everything runs a few times only. The store lies under the
//! build directory, or where `LARDER_BENCH_DIR` says.

use std::hint::black_box;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use larder::{Cache, Lock, SetOptions};

mod common;

use common::{Scale, duration_text, median, open_store, scratch};

/// The store in which a child waits for the lock.
const WAITER_STORE: &str = "LARDER_BENCH_WAITER_STORE";
/// How often the child has had the lock, and how often the parent has.
const ROUNDS_KEY: &str = "rounds";
const TURNS_KEY: &str = "turns";
const RELEASED_KEY: &str = "released";

fn main() {
    if let Some(dir) = std::env::var_os(WAITER_STORE) {
        return wait_again_and_again(Path::new(&dir));
    }
    if common::filtered() {
        return;
    }
    let scale = Scale::from_arguments();
    let dir = scratch("recipes");
    let cache = open_store(&dir);
    let (samples, rounds) = if scale.small { (20, 5) } else { (4_001, 401) };
    println!("| what | median |\n|---|---:|");
    for (what, nanoseconds) in uncontended(&cache, samples) {
        println!("| {what} | {} |", duration_text(nanoseconds));
    }
    let (pass, write) = hand_over(&cache, &dir, rounds);
    println!(
        "| `Lock` passes to a process that waits | {} |",
        duration_text(pass)
    );
    println!(
        "| beside it: a `set` in the same state | {} |",
        duration_text(write)
    );
    drop(cache);
    std::fs::remove_dir_all(dir).expect("the bench's directory is ours");
}

/// Medians of what one call costs when nobody else is there.
fn uncontended(cache: &Cache, samples: usize) -> Vec<(&'static str, f64)> {
    let lock = Lock::new(cache, "uncontended").expect("a lock");
    let no_wait = Duration::ZERO;
    let ttl = Duration::from_secs(3_600);
    let get = || {
        let value = cache.get_or_compute("hit", ttl, || Ok::<_, larder::Error>("value"));
        black_box(value.expect("a value"));
    };
    get();
    vec![
        (
            "`Lock`: acquire and release",
            per_call(samples, || {
                let guard = lock.acquire(no_wait).expect("nobody has it");
                guard.release().expect("we have it");
            }),
        ),
        (
            "beside it: one `set` and one `delete`",
            per_call(samples, || {
                cache.set("beside", [0; 64]).expect("a set");
                cache.delete("beside").expect("a delete");
            }),
        ),
        ("`get_or_compute`, a hit", per_call(samples, get)),
        (
            "beside it: `get`",
            per_call(samples, || {
                black_box(cache.get("hit").expect("a read"));
            }),
        ),
    ]
}

fn per_call(samples: usize, work: impl Fn()) -> f64 {
    // Short, so that on a busy machine most samples are not interrupted.
    const CALLS: u32 = 50;
    let times: Vec<f64> = (0..samples)
        .map(|_| {
            let start = Instant::now();
            (0..CALLS).for_each(|_| work());
            start.elapsed().as_nanos() as f64 / f64::from(CALLS)
        })
        .collect();
    median(&times)
}

/// Medians of the time from just before a release to the other process having the lock, and of a write.
fn hand_over(cache: &Cache, dir: &Path, rounds: i64) -> (f64, f64) {
    let lock = Lock::new(cache, "passed").expect("a lock");
    let mut guard = lock.acquire(None).expect("it is free");
    let mut child = start_waiter(dir);
    let mut writes = Vec::new();
    for round in 1..=rounds {
        // By now the child sleeps.
        std::thread::sleep(Duration::from_millis(3));
        let start = Instant::now();
        let now = tick_ns().to_le_bytes();
        cache.set(RELEASED_KEY, now).expect("a set");
        writes.push(start.elapsed().as_nanos() as f64);
        guard.release().expect("we have it");
        while count(cache, ROUNDS_KEY) < round {
            std::thread::sleep(Duration::from_micros(200));
        }
        guard = lock.acquire(None).expect("the child gives it back");
        tell(cache, TURNS_KEY, round);
    }
    child.kill().expect("a child that lives");
    child.wait().expect("a child that died");
    let passes = cache.get("passes").expect("a read").expect("all passes");
    let (words, _) = passes.as_chunks::<8>();
    let passes: Vec<f64> = words
        .iter()
        .map(|word| u64::from_le_bytes(*word) as f64)
        .collect();
    (median(&passes), median(&writes))
}

fn tell(cache: &Cache, key: &str, count: i64) {
    cache
        .set_number(key, count, &SetOptions::default())
        .expect("a set");
}

fn count(cache: &Cache, key: &str) -> i64 {
    let value = cache.get(key).expect("a read");
    value.map_or(0, |value| {
        String::from_utf8_lossy(&value).parse().expect("a number")
    })
}

fn start_waiter(dir: &Path) -> Child {
    let program = std::env::current_exe().expect("this program's path");
    Command::new(program)
        .env(WAITER_STORE, dir)
        .spawn()
        .expect("this program starts")
}

/// Takes the lock, tells how long it took since it was released, and waits for it again.
fn wait_again_and_again(dir: &Path) {
    let cache = Cache::open(dir).expect("a store opens");
    let lock = Lock::new(&cache, "passed").expect("a lock");
    let mut passes: Vec<u8> = Vec::new();
    for round in 1_i64.. {
        let guard = lock.acquire(None).expect("the parent gives it back");
        let now = tick_ns();
        let released = cache.get(RELEASED_KEY).expect("a read").expect("a time");
        let released = u64::from_le_bytes(released[..].try_into().expect("eight bytes"));
        passes.extend((now - released).to_le_bytes());
        cache.set("passes", &passes).expect("a set");
        drop(guard);
        tell(&cache, ROUNDS_KEY, round);
        // The parent has had it before it is asked for again.
        while count(&cache, TURNS_KEY) < round {
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

/// Nanoseconds of the clock all processes share.
fn tick_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
