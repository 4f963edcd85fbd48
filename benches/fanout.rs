//! What shards cost one process, and what they give several: `Fanout` beside `Cache`.
//!
//! Keys of 20 bytes, values of 100; each series is the median of five rounds. Writers in other processes
//! are this same program, told so by its environment. `cargo bench --bench fanout`; with `--test`
//! everything runs once, with few entries.
//!
//! The stores lie under the build directory, or where `LARDER_BENCH_DIR` says.

use std::hint::black_box;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use larder::{Cache, Fanout, SetOptions};

mod common;

use common::{Entries, Scale, key, value};

const SHARDS: usize = 8;
const ROUNDS: usize = 5;
/// Which store a writer in another process opens, how many entries it sets, and from which on.
const WRITER: &str = "LARDER_BENCH_FANOUT";

/// One of the two.
enum Store {
    Plain(Cache),
    Divided(Fanout),
}

impl Store {
    fn open(dir: &Path, is_divided: bool) -> Store {
        let builder = Cache::builder().size_limit_bytes(4 << 30);
        match is_divided {
            true => Store::Divided(builder.open_fanout(dir, SHARDS).expect("a fanout")),
            false => Store::Plain(builder.open(dir).expect("a cache")),
        }
    }

    fn set(&self, number: u64) {
        match self {
            Store::Plain(cache) => cache.set(key(number), value(number)),
            Store::Divided(fanout) => fanout.set(key(number), value(number)),
        }
        .expect("set");
    }

    fn get(&self, number: u64) {
        let found = match self {
            Store::Plain(cache) => cache.get(key(number)),
            Store::Divided(fanout) => fanout.get(key(number)),
        };
        assert!(*black_box(found.expect("get").expect("there")) == value(number));
    }

    fn set_many(&self, from: u64, count: u64) {
        let items = (from..from + count).map(|number| (key(number), value(number)));
        let options = SetOptions::default();
        match self {
            Store::Plain(cache) => cache.set_many(items, &options),
            Store::Divided(fanout) => fanout.set_many(items, &options),
        }
        .expect("set_many");
    }
}

fn main() {
    if let Ok(told) = std::env::var(WRITER) {
        return write_as_told(&told);
    }
    let scale = Scale::from_arguments();
    let entries = if scale.small { 500 } else { 200_000 };
    let rounds = if scale.small { 1 } else { ROUNDS };
    println!("| operation | `Cache` | `Fanout`, {SHARDS} shards |");
    println!("|---|---:|---:|");
    let row = |name: &str, work: &dyn Fn(bool) -> f64| {
        let median = |is_divided| {
            let mut all: Vec<f64> = (0..rounds).map(|_| work(is_divided)).collect();
            all.sort_by(f64::total_cmp);
            common::duration_text(all[all.len() / 2])
        };
        println!("| {name} | {} | {} |", median(false), median(true));
    };
    row("set of a new key", &|is_divided| {
        on_a_store(is_divided, |store, _| {
            per_entry(entries, |number| store.set(number))
        })
    });
    row("get", &|is_divided| {
        on_a_store(is_divided, |store, _| {
            (0..entries).for_each(|number| store.set(number));
            let mut numbers = Entries::uniform(entries);
            per_entry(entries, |_| store.get(numbers.next()))
        })
    });
    row("set_many of 1,000, one entry of it", &|is_divided| {
        on_a_store(is_divided, |store, _| {
            let batches = (entries / 1_000).clamp(1, 20);
            per_entry(batches, |batch| store.set_many(batch * 1_000, 1_000)) / 1_000.0
        })
    });
    for writers in [1, 2] {
        let name = format!("set by {writers} other process(es), one of all");
        row(&name, &|is_divided| {
            on_a_store(is_divided, |_, dir| {
                let took = write_elsewhere(dir, is_divided, writers, entries);
                took.as_nanos() as f64 / (entries * writers) as f64
            })
        });
    }
}

fn on_a_store(is_divided: bool, work: impl FnOnce(&Store, &Path) -> f64) -> f64 {
    let dir = common::scratch("fanout");
    let store = Store::open(&dir, is_divided);
    let took = work(&store, &dir);
    drop(store);
    std::fs::remove_dir_all(&dir).expect("the bench's directory goes");
    took
}

fn per_entry(count: u64, mut work: impl FnMut(u64)) -> f64 {
    let begin = Instant::now();
    (0..count).for_each(&mut work);
    begin.elapsed().as_nanos() as f64 / count as f64
}

/// Has several processes set as many entries each; the time of the slowest.
fn write_elsewhere(dir: &Path, is_divided: bool, writers: u64, entries: u64) -> Duration {
    let program = std::env::current_exe().expect("this program's path");
    let children: Vec<_> = (0..writers)
        .map(|writer| {
            let told = format!(
                "{}\n{is_divided}\n{}\n{entries}",
                dir.display(),
                writer * entries
            );
            Command::new(&program)
                .env(WRITER, told)
                .stdout(Stdio::piped())
                .spawn()
                .expect("this program starts")
        })
        .collect();
    let took = |child: std::process::Child| -> u64 {
        let output = child.wait_with_output().expect("a writer");
        let text = String::from_utf8(output.stdout).expect("text");
        text.trim().parse().expect("nanoseconds")
    };
    Duration::from_nanos(children.into_iter().map(took).max().unwrap_or(0))
}

fn write_as_told(told: &str) {
    let mut lines = told.lines();
    let mut next = || lines.next().expect("four lines");
    let (dir, is_divided) = (next().to_owned(), next() == "true");
    let mut number = || next().parse::<u64>().expect("a number");
    let (from, count) = (number(), number());
    let store = Store::open(Path::new(&dir), is_divided);
    let begin = Instant::now();
    (from..from + count).for_each(|number| store.set(number));
    println!("{}", begin.elapsed().as_nanos());
}
