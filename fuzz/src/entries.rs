//! The entries of the sample, of every kind and state, and a record of all that was ever written.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use larder::{Cache, Expiry, Number, SetOptions, Side};

/// Values from this length on have files of their own.
pub(crate) const LARGE_VALUE_BYTES: u64 = 4 * 1024;

/// What was ever written, by key.
pub(crate) type Written = BTreeMap<Vec<u8>, BTreeSet<Vec<u8>>>;

pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

fn put(cache: &Cache, written: &mut Written, key: &[u8], value: &[u8], options: &SetOptions) {
    cache
        .set_with(key, value, options)
        .expect("room in the sample");
    written
        .entry(key.to_vec())
        .or_default()
        .insert(value.to_vec());
}

/// Entries of every kind and state, overwritten and deleted ones among them.
pub(crate) fn fill(cache: &Cache, written: &mut Written) {
    let plain = SetOptions::default();
    for number in 0..12_u64 {
        let key = format!("plain {number}").into_bytes();
        put(
            cache,
            written,
            &key,
            &noise(number, number as usize * 9),
            &plain,
        );
    }
    for number in 3..6_u64 {
        let key = format!("plain {number}").into_bytes();
        put(cache, written, &key, &noise(100 + number, 40), &plain);
    }
    for number in 0..3_u64 {
        let key = format!("tagged {number}").into_bytes();
        let tags = (0..=number).map(|tag| format!("tag {tag}"));
        put(
            cache,
            written,
            &key,
            &noise(200 + number, 60),
            &SetOptions::default().tags(tags),
        );
    }
    let day = Duration::from_secs(24 * 3600);
    put(
        cache,
        written,
        b"expires",
        b"tomorrow",
        &SetOptions::default().ttl(day),
    );
    put(
        cache,
        written,
        b"touched",
        b"never",
        &SetOptions::default().ttl(day).tag("tag 1"),
    );
    cache.touch(b"touched", Expiry::Never).expect("a touch");
    put(
        cache,
        written,
        b"compressed",
        &b"again and again ".repeat(90),
        &SetOptions::default().compress(true),
    );
    put(cache, written, b"", b"the empty key", &plain);
    put(cache, written, b"empty value", b"", &plain);
    put(cache, written, &noise(9, 3_000), &noise(10, 1_200), &plain);
    // Enough for a second segment.
    for number in 0..15_u64 {
        let key = format!("wide {number}").into_bytes();
        put(cache, written, &key, &noise(500 + number, 3_900), &plain);
    }
    put(cache, written, b"large", &noise(300, 6_000), &plain);
    put(
        cache,
        written,
        b"large and overwritten",
        &noise(301, 5_000),
        &plain,
    );
    put(
        cache,
        written,
        b"large and overwritten",
        &noise(302, 5_500),
        &plain,
    );
    put(cache, written, b"deleted", b"must not matter", &plain);
    cache.delete(b"deleted").expect("a delete");

    for (key, number) in [
        (&b"integer"[..], Number::Int(41)),
        (b"float", Number::Float(2.5)),
    ] {
        let text = cache
            .incr(key, number, Number::Int(0))
            .expect("a number")
            .to_string();
        written
            .entry(key.to_vec())
            .or_default()
            .insert(text.into_bytes());
        let shown = cache
            .get(key)
            .expect("a read")
            .expect("a number just written");
        written
            .entry(key.to_vec())
            .or_default()
            .insert(shown.to_vec());
    }
    for value in [&b"first"[..], b"second", b"third"] {
        let key = cache
            .push(Some(b"queue"), value, Side::Back, &plain)
            .expect("a push");
        written.entry(key).or_default().insert(value.to_vec());
    }
    let batch = [
        (&b"batch 1"[..], &b"one"[..]),
        (b"batch 2", b"two"),
        (b"plain 1", b"by a batch"),
    ];
    cache.set_many(batch, &plain).expect("a batch");
    for (key, value) in batch {
        written
            .entry(key.to_vec())
            .or_default()
            .insert(value.to_vec());
    }
}
