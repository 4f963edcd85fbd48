//! Any bytes as a packed file: whole or refused, never a panic or much memory.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| larder::fuzzing::unpack(bytes));
