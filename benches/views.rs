//! What the views cost beside the cache they stand on: a deque's push and pop, an index's insert.
//!
//! Series take turns in one process, a fresh store each, with values of 100 bytes; what is popped is
//! compared with what was pushed. The table has medians of the rounds, ratios of those to
//! `Cache::set` of the same run, and the best round, which tells what a busy machine adds. `cargo bench --bench views -- FILTER` measures a part; with `--test`
//! everything runs once, with few entries.
//!
//! The stores lie under the build directory, or where `LARDER_BENCH_DIR` says.

use std::path::Path;
use std::time::Instant;

use larder::{Deque, Index, Raw};

mod common;

use common::{Scale, open_store};

const ROUNDS: usize = 9;
/// Elements that stand in a deque while others come and go.
const STANDING: u64 = 1_000;

/// A round with so many operations in a directory; nanoseconds for each.
type Round = fn(&Path, u64) -> f64;

/// One series: what it is called, and its rounds.
struct Series {
    name: &'static str,
    round: Round,
    each: Vec<f64>,
}

fn value(number: u64) -> Vec<u8> {
    common::value(number).to_vec()
}

fn text_key(number: u64) -> String {
    format!("key.{:016x}", number.wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

fn per_operation(count: u64, work: impl FnOnce()) -> f64 {
    let begin = Instant::now();
    work();
    begin.elapsed().as_nanos() as f64 / count as f64
}

fn deque(dir: &Path) -> Deque<Vec<u8>, Raw> {
    let cache = open_store(&common::empty(dir));
    Deque::of(&cache, "bench")
        .expect("a deque")
        .with_codec::<Raw>()
}

fn standing(dir: &Path) -> Deque<Vec<u8>, Raw> {
    let deque = deque(dir);
    deque.extend((0..STANDING).map(value)).expect("elements");
    deque
}

fn cache_set(dir: &Path, count: u64) -> f64 {
    let cache = open_store(&common::empty(dir));
    let items: Vec<_> = (0..count)
        .map(|number| (text_key(number), value(number)))
        .collect();
    per_operation(count, || {
        for (key, value) in &items {
            cache.set(key, value).expect("a set");
        }
    })
}

fn index_insert(dir: &Path, count: u64) -> f64 {
    let cache = open_store(&common::empty(dir));
    let index = Index::<String, Vec<u8>>::of(&cache, "bench").expect("an index");
    let index = index.with_codec::<Raw>();
    let items: Vec<_> = (0..count)
        .map(|number| (text_key(number), value(number)))
        .collect();
    per_operation(count, || {
        for (key, value) in &items {
            index.insert(key, value).expect("an insert");
        }
    })
}

fn index_get(dir: &Path, count: u64) -> f64 {
    let cache = open_store(&common::empty(dir));
    let index = Index::<String, Vec<u8>>::of(&cache, "bench").expect("an index");
    let index = index.with_codec::<Raw>();
    let items: Vec<_> = (0..count)
        .map(|number| (text_key(number), value(number)))
        .collect();
    index
        .extend(items.iter().map(|(key, value)| (key, value)))
        .expect("entries");
    per_operation(count, || {
        for (key, value) in &items {
            assert_eq!(index.get(key).expect("a get").as_ref(), Some(value));
        }
    })
}

fn queue(dir: &Path, count: u64) -> f64 {
    let deque = standing(dir);
    let values: Vec<_> = (0..count + STANDING).map(value).collect();
    per_operation(count, || {
        for number in 0..count as usize {
            deque
                .push_back(&values[number + STANDING as usize])
                .expect("a push");
            assert_eq!(
                deque.pop_front().expect("a pop").as_ref(),
                Some(&values[number])
            );
        }
    })
}

fn stack(dir: &Path, count: u64) -> f64 {
    let deque = standing(dir);
    let values: Vec<_> = (0..count).map(value).collect();
    per_operation(count, || {
        for value in &values {
            deque.push_back(value).expect("a push");
            assert_eq!(deque.pop_back().expect("a pop").as_ref(), Some(value));
        }
    })
}

fn fill_and_drain(dir: &Path, count: u64) -> f64 {
    let deque = deque(dir);
    let values: Vec<_> = (0..count).map(value).collect();
    per_operation(count, || {
        for value in &values {
            deque.push_front(value).expect("a push");
        }
        for value in &values {
            assert_eq!(deque.pop_back().expect("a pop").as_ref(), Some(value));
        }
    })
}

fn two_handles(dir: &Path, count: u64) -> f64 {
    let producer = standing(dir);
    let consumer = Deque::<Vec<u8>>::of(&open_store(dir), "bench").expect("a deque");
    let consumer = consumer.with_codec::<Raw>();
    let values: Vec<_> = (0..count + STANDING).map(value).collect();
    per_operation(count, || {
        for number in 0..count as usize {
            producer
                .push_back(&values[number + STANDING as usize])
                .expect("a push");
            assert_eq!(
                consumer.pop_front().expect("a pop").as_ref(),
                Some(&values[number])
            );
        }
    })
}

fn get_by_index(dir: &Path, count: u64) -> f64 {
    let deque = deque(dir);
    deque.extend((0..count).map(value)).expect("elements");
    let mut numbers = common::Entries::uniform(count);
    per_operation(count, || {
        for _ in 0..count {
            let number = numbers.next();
            let found = deque.get(number as i64).expect("a get");
            assert_eq!(found, Some(value(number)));
        }
    })
}

/// One element in ten is removed from between the others first.
fn get_by_index_among_holes(dir: &Path, count: u64) -> f64 {
    let deque = deque(dir);
    deque.extend((0..count).map(value)).expect("elements");
    let mut numbers = 0..count;
    deque
        .retain(|_| numbers.next().is_none_or(|number| number % 10 != 5))
        .expect("retain");
    let len = deque.len().expect("a length");
    let mut numbers = common::Entries::uniform(len);
    per_operation(count, || {
        for _ in 0..count {
            let number = numbers.next();
            let wanted = number / 9 * 10 + [0, 1, 2, 3, 4, 6, 7, 8, 9][(number % 9) as usize];
            let found = deque.get(number as i64).expect("a get");
            assert_eq!(found, Some(value(wanted)));
        }
    })
}

fn main() {
    common::be_a_child_if_told();
    let scale = Scale::from_arguments();
    let (rounds, count) = match scale.small {
        true => (1, scale.entries),
        false => (ROUNDS, scale.entries / 10),
    };
    let dir = common::scratch("views");
    let all: [(&'static str, Round); 9] = [
        ("Cache::set, new keys", cache_set),
        ("Index::insert, new keys", index_insert),
        ("Index::get", index_get),
        ("Deque push_back + pop_front, 1,000 standing", queue),
        ("Deque push_back + pop_back, 1,000 standing", stack),
        (
            "Deque push_front of all, then pop_back of all",
            fill_and_drain,
        ),
        (
            "Deque push_back + pop_front, two handles in turns",
            two_handles,
        ),
        ("Deque::get, any index", get_by_index),
        (
            "Deque::get, any index, a tenth removed",
            get_by_index_among_holes,
        ),
    ];
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .collect();
    let mut series: Vec<Series> = all
        .into_iter()
        .filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|word| name.contains(word)))
        .map(|(name, round)| Series {
            name,
            round,
            each: Vec::new(),
        })
        .collect();
    for _ in 0..rounds {
        for one in &mut series {
            one.each.push((one.round)(&dir.join("store"), count));
        }
    }
    if !scale.small {
        let set = series
            .iter()
            .find(|one| one.name.starts_with("Cache::set"))
            .map(|one| common::median(&one.each));
        println!(
            "| operation, {count} a round, {rounds} rounds | median | of Cache::set | best round |"
        );
        println!("|---|---:|---:|---:|");
        for one in &series {
            let median = common::median(&one.each);
            let ratio = set.map_or(String::new(), |set| format!("{:.2}", median / set));
            let best = one.each.iter().copied().fold(f64::INFINITY, f64::min);
            println!(
                "| {} | {} | {ratio} | {} |",
                one.name,
                common::duration_text(median),
                common::duration_text(best)
            );
        }
    }
    std::fs::remove_dir_all(&dir).expect("the bench's directory is ours");
}
