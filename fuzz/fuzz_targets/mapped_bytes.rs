//! Any damage to a mapped file, under an open handle or before opening: wrong pointers are misses or
//! errors, never a panic, a hang, or another key's value.

#![no_main]

use std::sync::{LazyLock, Mutex};

use larder_fuzz::Sample;
use libfuzzer_sys::fuzz_target;

static SAMPLE: LazyLock<Mutex<Sample>> = LazyLock::new(|| Mutex::new(Sample::new()));

fuzz_target!(|input: &[u8]| SAMPLE
    .lock()
    .expect("a panic ends the fuzzer")
    .damaged_maps(input));
