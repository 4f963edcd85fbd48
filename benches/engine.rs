//! What the verbs cost at a million entries, beside a map in memory and a bare append.
//!
//! Every series is measured in the same process, one after the other, on keys of 20 bytes and
//! values of 100; whatever is read is compared with what was written. The results stand in one
//! Markdown table at the end: medians, and means where a series goes from empty to full.
//! `cargo bench --bench engine -- FILTER` measures a part; with `--test` everything runs once, with
//! few entries.
//!
//! The stores lie under the build directory, or where `LARDER_BENCH_DIR` says.

use std::cell::{LazyCell, RefCell};
use std::collections::HashMap;
use std::fs::File;
use std::hint::black_box;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;
use std::sync::RwLock;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode};
use larder::{Cache, SetOptions};

mod common;

use common::{Entries, Scale, key, open_store, value};

/// Samples of each series.
const SAMPLES: usize = 12;
/// What a record of 20 + 100 bytes takes in the log: the bare appends write as much.
const RECORD_BYTES: usize = 152;
/// Sets in one `set_many` or `transact`.
const BATCH: u64 = 1_000;

type Map = RwLock<HashMap<Vec<u8>, Vec<u8>>>;
/// Made by the first series that needs it, before its clock starts: a filter leaves little to do.
type Lazy<'a, T> = LazyCell<T, Box<dyn FnOnce() -> T + 'a>>;

/// Nanoseconds per operation by row and series, in the order they were measured.
#[derive(Default)]
struct Table {
    rows: RefCell<Vec<(&'static str, &'static str, f64)>>,
}

impl Table {
    /// The table, or nothing when a filter left nothing to show.
    fn print(&self, scale: Scale) {
        let rows = self.rows.borrow();
        if rows.is_empty() || scale.small {
            return;
        }
        println!(
            "\n| operation, {} entries | series | time per operation |",
            scale.entries
        );
        println!("|---|---|---:|");
        for (row, series, nanoseconds) in rows.iter() {
            println!(
                "| {row} | {series} | {} |",
                common::duration_text(*nanoseconds)
            );
        }
    }
}

/// One group of series: `row` of the table.
struct Group<'a> {
    group: BenchmarkGroup<'a, WallTime>,
    table: Rc<Table>,
    row: &'static str,
    /// Whether each sample is another stretch on the way from empty to full (or back): then the mean
    /// stands for the whole way, else the median for the typical operation.
    stretches: bool,
}

impl<'a> Group<'a> {
    fn new(criterion: &'a mut Criterion, table: &Rc<Table>, row: &'static str) -> Group<'a> {
        let mut group = criterion.benchmark_group(row);
        group.sample_size(SAMPLES);
        group.sampling_mode(SamplingMode::Flat);
        group.warm_up_time(Duration::from_millis(700));
        group.measurement_time(Duration::from_millis(2_500));
        Group {
            group,
            table: Rc::clone(table),
            row,
            stretches: false,
        }
    }

    fn stretches(self) -> Group<'a> {
        Group {
            stretches: true,
            ..self
        }
    }

    /// Measures `run`, which answers what the asked number of operations took.
    fn series(&mut self, series: &'static str, mut run: impl FnMut(u64) -> Duration) {
        let mut each: Vec<(f64, f64)> = Vec::new();
        let mut is_ready = false;
        self.group.bench_function(series, |bencher| {
            if !is_ready {
                // What is made on first use is made outside the warm-up, which counts operations.
                run(1);
                is_ready = true;
            }
            bencher.iter_custom(|count| {
                let took = run(count);
                each.push((took.as_nanos() as f64, count as f64));
                took
            });
        });
        // The first calls warm up; the last are the samples.
        let samples = &each[each.len().saturating_sub(SAMPLES)..];
        if samples.is_empty() {
            return; // Filtered out.
        }
        let result = if self.stretches {
            samples.iter().map(|(took, _)| took).sum::<f64>()
                / samples.iter().map(|(_, count)| count).sum::<f64>()
        } else {
            common::median(
                &samples
                    .iter()
                    .map(|(took, count)| took / count)
                    .collect::<Vec<_>>(),
            )
        };
        self.table
            .rows
            .borrow_mut()
            .push((self.row, series, result));
    }
}

fn timed(count: u64, mut operation: impl FnMut(u64)) -> Duration {
    let begin = Instant::now();
    for number in 0..count {
        operation(number);
    }
    begin.elapsed()
}

/// `count` operations of which `room` fit into what `fresh` makes; making it is not timed.
struct Rounds<T> {
    current: Option<(T, u64)>,
    room: u64,
}

impl<T> Rounds<T> {
    fn new(room: u64) -> Rounds<T> {
        Rounds {
            current: None,
            room,
        }
    }

    /// `part` is given numbers `from..to` to do, in what `fresh` made.
    fn run(
        &mut self,
        count: u64,
        mut fresh: impl FnMut() -> T,
        mut part: impl FnMut(&mut T, u64, u64),
    ) -> Duration {
        let mut took = Duration::ZERO;
        let mut left = count;
        while left > 0 {
            if self
                .current
                .as_ref()
                .is_none_or(|(_, done)| *done >= self.room)
            {
                // The old one goes first: two never take space at once.
                self.current = None;
                self.current = Some((fresh(), 0));
            }
            let (state, done) = self.current.as_mut().expect("just made");
            let (from, to) = (*done, (*done + left).min(self.room));
            let begin = Instant::now();
            part(state, from, to);
            took += begin.elapsed();
            left -= to - from;
            *done = to;
        }
        took
    }
}

fn map_of(entries: u64) -> Map {
    RwLock::new(
        (0..entries)
            .map(|number| (key(number).to_vec(), value(number).to_vec()))
            .collect(),
    )
}

fn get(
    criterion: &mut Criterion,
    table: &Rc<Table>,
    store: &Lazy<'_, Cache>,
    map: &Lazy<'_, Map>,
    entries: u64,
) {
    let mut numbers = Entries::uniform(entries);
    let mut group = Group::new(criterion, table, "get 100 B, uniform");
    group.series("larder get", |count| {
        let store: &Cache = store;
        timed(count, |_| {
            let number = numbers.next();
            let found = store.get(key(number)).expect("a read").expect("an entry");
            assert!(*found == value(number));
        })
    });
    let mut buffer = Vec::new();
    group.series("larder get_into", |count| {
        let store: &Cache = store;
        timed(count, |_| {
            let number = numbers.next();
            store
                .get_into(key(number), &mut buffer)
                .expect("a read")
                .expect("an entry");
            assert!(buffer == value(number));
        })
    });
    group.series("RwLock<HashMap> get + clone", |count| {
        let map: &Map = map;
        timed(count, |_| {
            let number = numbers.next();
            let found = map
                .read()
                .expect("no panic")
                .get(&key(number)[..])
                .cloned()
                .expect("an entry");
            assert!(*found == value(number));
        })
    });
    drop(group);

    let mut group = Group::new(criterion, table, "get, missing");
    group.series("larder get", |count| {
        let store: &Cache = store;
        timed(count, |_| {
            assert!(
                store
                    .get(key(entries + numbers.next()))
                    .expect("a read")
                    .is_none()
            )
        })
    });
    group.series("RwLock<HashMap> get", |count| {
        let map: &Map = map;
        timed(count, |_| {
            assert!(
                !map.read()
                    .expect("no panic")
                    .contains_key(&key(entries + numbers.next())[..])
            )
        })
    });
}

fn iterate(
    criterion: &mut Criterion,
    table: &Rc<Table>,
    store: &Lazy<'_, Cache>,
    map: &Lazy<'_, Map>,
    entries: u64,
) {
    let mut group = Group::new(criterion, table, "iterate, per entry");
    // A sample is a whole pass or a part of one; what an iterator costs to make is in it.
    group.series("larder iter", |count| {
        let store: &Cache = store;
        let mut left = count;
        let begin = Instant::now();
        while left > 0 {
            let part = left.min(entries);
            let items = store.iter().expect("an iterator").take(part as usize);
            let mut seen = 0;
            for (number, item) in items.enumerate() {
                let (found, data) = item.expect("an entry");
                assert!(*found == key(number as u64) && data.len() == common::VALUE_LEN);
                seen += 1;
            }
            assert_eq!(seen, part);
            left -= part;
        }
        begin.elapsed()
    });
    group.series("RwLock<HashMap> iter + clone", |count| {
        let map: &Map = map;
        let mut left = count;
        let begin = Instant::now();
        while left > 0 {
            let part = left.min(entries);
            for (found, data) in map.read().expect("no panic").iter().take(part as usize) {
                let (found, data) = black_box((found.clone(), data.clone()));
                assert!(found.len() == common::KEY_LEN && data.len() == common::VALUE_LEN);
            }
            left -= part;
        }
        begin.elapsed()
    });
}

/// Appends of as many bytes as a record takes, to files with their space allocated.
fn bare_appends(group: &mut Group<'_>, dir: &Path, entries: u64) {
    let path = dir.join("bare");
    let record = [0x5A_u8; RECORD_BYTES];
    let allocated = || {
        let file = File::create(&path).expect("a file in the bench's directory");
        let len = entries * RECORD_BYTES as u64;
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, len)
            .expect("room for the bare file");
        file
    };
    let mut rounds = Rounds::new(entries);
    group.series("bare append, pwrite", |count| {
        rounds.run(count, allocated, |file, from, to| {
            for number in from..to {
                file.write_all_at(&record, number * RECORD_BYTES as u64)
                    .expect("room for the bare file");
            }
        })
    });
    let mut rounds = Rounds::new(entries);
    group.series("bare append, BufWriter", |count| {
        rounds.run(
            count,
            || BufWriter::with_capacity(64 * 1024, allocated()),
            |file, from, to| {
                for _ in from..to {
                    file.write_all(&record).expect("room for the bare file");
                }
            },
        )
    });
    drop(rounds);
    std::fs::remove_file(&path).ok(); // A filter may have left it unmade.
}

fn set(criterion: &mut Criterion, table: &Rc<Table>, dir: &Path, entries: u64) {
    let fresh = || open_store(&common::empty(&dir.join("set")));
    let mut group = Group::new(criterion, table, "set 100 B, new keys from empty").stretches();
    let mut rounds = Rounds::new(entries);
    group.series("larder set", |count| {
        rounds.run(count, fresh, |store, from, to| {
            for number in from..to {
                store.set(key(number), value(number)).expect("a set");
            }
        })
    });
    let mut rounds = Rounds::new(entries);
    group.series("RwLock<HashMap> insert", |count| {
        rounds.run(count, Map::default, |map, from, to| {
            for number in from..to {
                map.write()
                    .expect("no panic")
                    .insert(key(number).to_vec(), value(number).to_vec());
            }
        })
    });
    bare_appends(&mut group, dir, entries);
    drop(group);

    let mut group = Group::new(
        criterion,
        table,
        "set 100 B, new keys, batches of 1,000, per set",
    )
    .stretches();
    let numbers = |batch: u64| batch * BATCH..(batch + 1) * BATCH;
    let mut rounds = Rounds::new(entries.div_ceil(BATCH));
    group.series("larder set_many", |count| {
        let batches = count.div_ceil(BATCH);
        let took = rounds.run(batches, fresh, |store, from, to| {
            for batch in from..to {
                let items = numbers(batch).map(|number| (key(number), value(number)));
                assert_eq!(
                    store
                        .set_many(items, &SetOptions::default())
                        .expect("a batch"),
                    BATCH
                );
            }
        });
        took.mul_f64(count as f64 / (batches * BATCH) as f64)
    });
    let mut rounds = Rounds::new(entries.div_ceil(BATCH));
    group.series("larder transact", |count| {
        let batches = count.div_ceil(BATCH);
        let took = rounds.run(batches, fresh, |store, from, to| {
            for batch in from..to {
                store
                    .transact(|tx| {
                        for number in numbers(batch) {
                            tx.set(key(number), value(number))?;
                        }
                        Ok(())
                    })
                    .expect("a batch");
            }
        });
        took.mul_f64(count as f64 / (batches * BATCH) as f64)
    });
    let mut rounds = Rounds::new(entries.div_ceil(BATCH));
    group.series("RwLock<HashMap> insert, one lock a batch", |count| {
        let batches = count.div_ceil(BATCH);
        let took = rounds.run(batches, Map::default, |map, from, to| {
            for batch in from..to {
                let mut map = map.write().expect("no panic");
                map.extend(
                    numbers(batch).map(|number| (key(number).to_vec(), value(number).to_vec())),
                );
            }
        });
        took.mul_f64(count as f64 / (batches * BATCH) as f64)
    });
}

fn overwrite(
    criterion: &mut Criterion,
    table: &Rc<Table>,
    store: &Lazy<'_, Cache>,
    map: &Lazy<'_, Map>,
    entries: u64,
) {
    let mut numbers = Entries::uniform(entries);
    let mut group = Group::new(criterion, table, "overwrite 100 B, uniform");
    group.series("larder set", |count| {
        let store: &Cache = store;
        timed(count, |_| {
            let number = numbers.next();
            store.set(key(number), value(number)).expect("a set");
        })
    });
    group.series("RwLock<HashMap> insert", |count| {
        let map: &Map = map;
        timed(count, |_| {
            let number = numbers.next();
            map.write()
                .expect("no panic")
                .insert(key(number).to_vec(), value(number).to_vec());
        })
    });
}

fn delete(criterion: &mut Criterion, table: &Rc<Table>, dir: &Path, entries: u64) {
    let mut group = Group::new(criterion, table, "delete").stretches();
    let mut rounds = Rounds::new(entries);
    group.series("larder delete", |count| {
        let full = || common::filled_store(&common::empty(&dir.join("delete")), entries);
        rounds.run(count, full, |store, from, to| {
            for number in from..to {
                assert!(store.delete(key(number)).expect("a delete"));
            }
        })
    });
    let mut rounds = Rounds::new(entries);
    group.series("RwLock<HashMap> remove", |count| {
        rounds.run(
            count,
            || map_of(entries),
            |map, from, to| {
                for number in from..to {
                    assert!(
                        map.write()
                            .expect("no panic")
                            .remove(&key(number)[..])
                            .is_some()
                    );
                }
            },
        )
    });
}

/// Not by criterion: between two opens stands a close, or a process that starts and is killed.
fn open(table: &Rc<Table>, dir: &Path, scale: Scale) {
    for (series, state) in [
        ("larder open, after a clean close", common::State::Clean),
        (
            "larder open, while another process has it open",
            common::State::Live,
        ),
        (
            "larder open, after SIGKILL of a writer",
            common::State::Killed,
        ),
    ] {
        let took = common::open_times(dir, state, scale.opens, scale.entries);
        println!("{series}: {}", common::duration_text(common::median(&took)));
        table
            .rows
            .borrow_mut()
            .push(("open", series, common::median(&took)));
    }
}

fn lazy<'a, T>(make: impl FnOnce() -> T + 'a) -> Lazy<'a, T> {
    LazyCell::new(Box::new(make))
}

fn main() {
    common::be_a_child_if_told();
    let scale = Scale::from_arguments();
    let dir = common::scratch("engine");
    let table = Rc::new(Table::default());
    let mut criterion = Criterion::default().configure_from_args();

    let read = dir.join("read");
    let entries = scale.entries;
    {
        let store = lazy(|| common::filled_store(&read, entries));
        let map = lazy(|| map_of(entries));
        get(&mut criterion, &table, &store, &map, entries);
        iterate(&mut criterion, &table, &store, &map, entries);
    }
    set(&mut criterion, &table, &dir, entries);
    delete(&mut criterion, &table, &dir, entries);
    if !common::filtered() {
        open(&table, &read, scale);
    }
    {
        // The store that was read, if it was.
        let store = lazy(|| match read.exists() {
            true => open_store(&read),
            false => common::filled_store(&read, entries),
        });
        let map = lazy(|| map_of(entries));
        overwrite(&mut criterion, &table, &store, &map, entries);
    }
    criterion.final_summary();
    table.print(scale);
    std::fs::remove_dir_all(&dir).expect("the bench's directory is ours");
}
