//! Any bytes as a whole segment: records, the end, or damage; the scan ends inside the bytes.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| larder::fuzzing::segment_scan(bytes));
