//! Any damage to the log, with the maps kept or deleted: records are lost or reported, never a panic,
//! a hang, or bytes nobody wrote.

#![no_main]

use std::sync::{LazyLock, Mutex};

use larder_fuzz::Sample;
use libfuzzer_sys::fuzz_target;

static SAMPLE: LazyLock<Mutex<Sample>> = LazyLock::new(|| Mutex::new(Sample::new()));

fuzz_target!(|input: &[u8]| SAMPLE
    .lock()
    .expect("a panic ends the fuzzer")
    .damaged_log(input));
