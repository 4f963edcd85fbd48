//! Any bytes as an encoded typed key: decoded or refused, never a panic.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| larder::fuzzing::key_decode(bytes));
