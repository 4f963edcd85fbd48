//! Four processes write far more than fits: what the directory takes meanwhile, and what gets lost.
//!
//! Owns the mix of sizes, the writers (this program started again) and the sampling of the directory.
//! A writer reads what it has just written before its next write.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use larder::{Cache, Error};

use crate::common::key;
use crate::common::random::Random;
use crate::{Run, Table, argument};

const PROCESSES: u64 = 4;
const VALUES: u64 = 2_000_000;
const SAMPLE_EVERY: Duration = Duration::from_millis(20);
/// Marks a writer in its environment: its number.
const WRITER: &str = "LARDER_BENCH_UPKEEP_WRITER";
const MIB: u64 = 1 << 20;

/// What one writer counted.
#[derive(Default)]
struct Told {
    values: u64,
    bytes: u64,
    /// Not there when it was read back at once.
    misses: u64,
    /// There, but not what was written.
    wrong: u64,
    /// Refused: the store was full.
    refused: u64,
    /// The longest set, microseconds.
    longest_us: u64,
}

impl Told {
    fn line(&self) -> String {
        [
            self.values,
            self.bytes,
            self.misses,
            self.wrong,
            self.refused,
            self.longest_us,
        ]
        .map(|number| number.to_string())
        .join(" ")
    }

    fn add_line(&mut self, line: &str) {
        let numbers: Vec<u64> = line
            .split_whitespace()
            .map(|number| number.parse().expect("a number"))
            .collect();
        let [values, bytes, misses, wrong, refused, longest_us] = numbers[..] else {
            panic!("a writer said: {line}");
        };
        self.values += values;
        self.bytes += bytes;
        self.misses += misses;
        self.wrong += wrong;
        self.refused += refused;
        self.longest_us = self.longest_us.max(longest_us);
    }
}

/// 99 % up to 4 KiB, 0.9 % of 64 KiB, 0.1 % of 1 to 4 MiB.
fn value_len(random: &mut Random) -> usize {
    match random.below(1_000) {
        0 => (MIB + random.below(3 * MIB + 1)) as usize,
        1..10 => 64 << 10,
        _ => random.below((4 << 10) + 1) as usize,
    }
}

/// A writer does its part and never returns.
pub(crate) fn be_a_writer_if_told() {
    let Ok(number) = std::env::var(WRITER) else {
        return;
    };
    let number: u64 = number.parse().expect("a writer's number");
    let dir = argument("--store").expect("a writer's store");
    let values: u64 = argument("--values")
        .and_then(|text| text.parse().ok())
        .expect("how many values to write");
    println!("{}", write(Path::new(&dir), number, values).line());
    std::process::exit(0);
}

fn write(dir: &Path, number: u64, values: u64) -> Told {
    let store = Cache::open(dir).expect("a store opens");
    let mut random = Random(number);
    let pool: Vec<u8> = (0..MIB)
        .flat_map(|_| random.draw().to_le_bytes())
        .take(5 << 20)
        .collect();
    let mut told = Told::default();
    for n in 0..values {
        let len = value_len(&mut random);
        let from = random.below(MIB) as usize;
        let value = &pool[from..from + len];
        let key = key(number << 40 | n);
        let begin = Instant::now();
        match store.set(key, value) {
            Ok(()) => {}
            Err(Error::Full { .. }) => {
                told.refused += 1;
                continue;
            }
            Err(error) => panic!("a set: {error}"),
        }
        told.longest_us = told.longest_us.max(begin.elapsed().as_micros() as u64);
        told.values += 1;
        told.bytes += len as u64;
        match store.get(key).expect("a read") {
            None => told.misses += 1,
            Some(found) => told.wrong += u64::from(*found != *value),
        }
    }
    told
}

/// What the directory takes: its blocks, and those of what is in it. A file may go meanwhile.
fn disk_bytes(dir: &Path) -> u64 {
    let blocks = |metadata: std::fs::Metadata| metadata.blocks() * 512;
    let own = std::fs::metadata(dir).map_or(0, blocks);
    let files = std::fs::read_dir(dir).expect("the store's directory");
    let of_file = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.expect("a file of the store");
        entry.metadata().map_or(0, blocks)
    };
    own + files.map(of_file).sum::<u64>()
}

fn start(dir: &Path, number: u64, values: u64) -> Child {
    let program = std::env::current_exe().expect("this program's path");
    Command::new(program)
        .env(WRITER, number.to_string())
        .arg("--store")
        .arg(dir)
        .args(["--values", &values.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .expect("this program starts")
}

pub(crate) fn measure(run: &Run, table: &mut Table) {
    let dir = run.fresh("bound");
    let limit = run.size_limit_bytes();
    let values = match run.small {
        true => 8_000,
        false => (VALUES as f64 * run.scale) as u64,
    };
    let store = Cache::builder()
        .size_limit_bytes(limit)
        .open(&dir)
        .expect("a store opens");
    let begin = Instant::now();
    let mut writers: Vec<Child> = (1..=PROCESSES)
        .map(|number| start(&dir, number, values / PROCESSES))
        .collect();
    let (mut most, mut least, mut samples) = (0, u64::MAX, 0_u64);
    let (mut is_full, mut sum) = (false, 0.0);
    while writers
        .iter_mut()
        .any(|writer| writer.try_wait().expect("a writer").is_none())
    {
        let bytes = disk_bytes(&dir);
        most = most.max(bytes);
        is_full |= bytes > limit - limit / 8;
        if is_full {
            least = least.min(bytes);
            samples += 1;
            sum += bytes as f64;
        }
        std::thread::sleep(SAMPLE_EVERY);
    }
    let took = begin.elapsed();
    let mut told = Told::default();
    for writer in writers {
        let output = writer.wait_with_output().expect("a writer's answer");
        assert!(output.status.success(), "a writer failed");
        told.add_line(&String::from_utf8(output.stdout).expect("a writer that writes text"));
    }
    assert!(store.check().expect("a check").is_sound());
    let stats = store.stats(false).expect("the counters");
    drop(store);
    std::fs::remove_dir_all(&dir).expect("the bench's directory is ours");

    let share = |bytes: u64| bytes as f64 / limit as f64;
    println!(
        "\nbound: {} values of {} MiB by {PROCESSES} processes in {:.1} s: {:.0} MB/s; the longest set {} ms; \
         {samples} samples while full, {:.3} of the limit in the mean; {} culled, write amplification {:.3}",
        told.values,
        told.bytes / MIB,
        took.as_secs_f64(),
        told.bytes as f64 / 1e6 / took.as_secs_f64(),
        told.longest_us / 1_000,
        sum / samples as f64 / limit as f64,
        stats.culled,
        stats.write_amplification().unwrap_or(1.0),
    );
    table.add(
        "bound: most on disk, of the limit",
        format!("{:.4}", share(most)),
        "≤ 1.0625",
        most <= limit + limit / 16,
    );
    table.add(
        "bound: least on disk once full, of the limit",
        format!("{:.4}", share(least)),
        "≥ 0.5",
        is_full && least >= limit / 2,
    );
    table.add(
        "bound: read back at once, but other bytes",
        told.wrong.to_string(),
        "0",
        told.wrong == 0,
    );
    table.add(
        "bound: sets refused as the store was full",
        told.refused.to_string(),
        "0",
        told.refused == 0,
    );
    table.tell(
        "bound: read back at once, but evicted for another's write",
        format!("{} of {}", told.misses, told.values),
    );
}
