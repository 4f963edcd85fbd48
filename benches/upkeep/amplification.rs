//! Bytes appended for each byte of a record that was set, in a store that has been full for long.
//!
//! Owns the load: keys by Zipf's law over three times what fits; half of the steps overwrite a key that
//! is there, half get one and set it if it is not there.

use larder::{Cache, Policy};

use crate::common::key;
use crate::common::random::{Random, Zipf};
use crate::{Run, Table};

const SKEW: f64 = 0.9;
/// The key space, in entries that fit.
const SPACE: u64 = 3;
/// Bytes of a record and its derived words besides key and value, more or less.
const OVERHEAD_BYTES: u64 = 68;

/// Lengths of values.
struct Sizes {
    name: &'static str,
    least: u64,
    most: u64,
}

const SIZES: [Sizes; 2] = [
    Sizes {
        name: "about 1 KiB",
        least: 900,
        most: 1_150,
    },
    Sizes {
        name: "100 to 300 B",
        least: 100,
        most: 300,
    },
];

/// Steps through the load.
struct Load<'a> {
    store: &'a Cache,
    sizes: &'a Sizes,
    law: Zipf,
    random: Random,
    value: Vec<u8>,
    /// Bytes of values set.
    bytes: u64,
}

impl Load<'_> {
    /// Ranks are keys: their hashes spread them.
    fn draw(&mut self) -> [u8; 20] {
        key(self.law.draw(&mut self.random))
    }

    fn set(&mut self, key: [u8; 20]) {
        let len = self.sizes.least + self.random.below(self.sizes.most - self.sizes.least + 1);
        self.value.resize(len as usize, 0x5A);
        self.value[..8].copy_from_slice(&key[..8]);
        self.store.set(key, &self.value).expect("a set");
        self.bytes += len;
    }

    fn step(&mut self) {
        if self.random.below(2) == 0 {
            let key = self.draw();
            if self.store.get(key).expect("a read").is_none() {
                self.set(key);
            }
            return;
        }
        // In an empty store there is none.
        for _ in 0..64 {
            let key = self.draw();
            if self.store.contains(key).expect("a look") {
                return self.set(key);
            }
        }
    }

    fn run(&mut self, bytes: u64) {
        let end = self.bytes + bytes;
        while self.bytes < end {
            self.step();
        }
    }
}

fn one(run: &Run, policy: Policy, sizes: &Sizes) -> f64 {
    let dir = run.fresh("amplification");
    let limit = run.size_limit_bytes();
    let store = Cache::builder()
        .size_limit_bytes(limit)
        .policy(policy)
        .open(&dir)
        .expect("a store opens");
    let fits = limit / (20 + (sizes.least + sizes.most) / 2 + OVERHEAD_BYTES);
    let mut load = Load {
        store: &store,
        sizes,
        law: Zipf::new(fits * SPACE, SKEW),
        random: Random(1),
        value: Vec::new(),
        bytes: 0,
    };
    // To be full for long, and then for as long again.
    let rounds = if run.small { 1 } else { 4 };
    load.run(limit * rounds);
    store.stats(true).expect("the counters");
    load.run(limit * rounds);
    let stats = store.stats(false).expect("the counters");
    println!(
        "\namplification, {policy}, {}: {} sets, {} hits, {} misses, {} culled; of bytes set: logged {:.3}, kept {:.3}; {} entries in {:.3} of the limit, live {:.3}",
        sizes.name,
        stats.sets,
        stats.hits,
        stats.misses,
        stats.culled,
        stats.write_amplification().unwrap_or(1.0),
        stats.bytes_kept as f64 / stats.bytes_put as f64,
        store.len().expect("the count"),
        store.disk_usage().expect("the bytes on disk") as f64 / limit as f64,
        store.volume().expect("the live bytes") as f64 / limit as f64,
    );
    drop(store);
    std::fs::remove_dir_all(&dir).expect("the bench's directory is ours");
    stats.write_amplification().unwrap_or(1.0)
}

pub(crate) fn measure(run: &Run, table: &mut Table) {
    for (policy, target, most) in [
        (Policy::default(), "≤ 1.6", 1.6),
        (Policy::LeastRecentlyStored, "≤ 1.05", 1.05),
    ] {
        for sizes in &SIZES {
            let ratio = one(run, policy, sizes);
            table.add(
                format!("amplification: {policy}, values of {}", sizes.name),
                format!("{ratio:.3}"),
                target,
                ratio <= most,
            );
        }
    }
}
