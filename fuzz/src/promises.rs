//! What holds of a store whatever its files hold.
//!
//! No call panics, iteration ends, an error is a sentence, and what comes back under a key was once
//! written under that key. Never judges which entries are lost.

use std::io::{Read, Seek, SeekFrom};

use larder::{Cache, Expiry, Number, SetOptions, Side};

use crate::entries::{Written, noise};

/// Nothing in the sample can yield more items than this, however its order is damaged.
const ITEMS_MAX: usize = 1_000_000;

/// An error is an answer; its sentence must be one too.
pub(crate) fn said<T>(result: larder::Result<T>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) => {
            assert!(!error.to_string().is_empty());
            None
        }
    }
}

fn own(written: &Written, key: &[u8], value: &[u8]) {
    let known = written
        .get(key)
        .is_some_and(|values| values.contains(value));
    assert!(
        known,
        "under {:?} stands what was never written there: {:?}",
        show(key),
        show(value)
    );
}

fn show(bytes: &[u8]) -> String {
    let shown = bytes[..bytes.len().min(60)].escape_ascii();
    format!("{shown} ({} bytes)", bytes.len())
}

fn items(
    written: &Written,
    all: impl Iterator<Item = larder::Result<(Vec<u8>, larder::Value)>>,
) -> usize {
    let mut seen = 0;
    for item in all {
        if let Some((key, value)) = said(item) {
            own(written, &key, &value);
        }
        seen += 1;
        assert!(seen < ITEMS_MAX, "an iteration without end");
    }
    seen
}

/// Every key, and all entries in order; answers how many an iteration yielded.
fn read_values(cache: &Cache, written: &Written) -> usize {
    for key in written.keys() {
        if let Some(value) = said(cache.get(key)).flatten() {
            own(written, key, &value);
        }
    }
    for key in [&b"absent"[..], b"plain", b"deletee"] {
        assert!(said(cache.get(key)).flatten().is_none(), "{}", show(key));
    }
    said(cache.iter()).map_or(0, |all| items(written, all))
}

/// Every verb that reads; answers how many entries an iteration yielded.
pub(crate) fn read_all(cache: &Cache, written: &Written) -> usize {
    let seen = read_values(cache, written);
    let mut buffer = Vec::new();
    for key in written.keys() {
        if said(cache.get_into(key, &mut buffer)).flatten().is_some() {
            own(written, key, &buffer);
        }
        if let Some(entry) = said(cache.get_entry(key)).flatten() {
            own(written, key, &entry.value);
            assert!(entry.tags.len() <= larder::TAGS_MAX);
        }
        said(cache.describe(key));
        said(cache.contains(key));
        said(cache.value_path(key));
        if let Some(mut reader) = said(cache.get_reader(key)).flatten() {
            let mut value = Vec::new();
            // A streamed value is verified as a whole; what comes before its end is not asserted.
            if reader.read_to_end(&mut value).is_ok() {
                own(written, key, &value);
                assert!(reader.seek(SeekFrom::Start(0)).is_ok());
            }
        }
    }
    if let Some(all) = said(cache.iter()) {
        items(written, all.rev());
    }
    if let Some(keys) = said(cache.keys()) {
        assert!(
            keys.take(ITEMS_MAX).count() < ITEMS_MAX,
            "an iteration without end"
        );
    }
    if let Some(all) = said(cache.iter_prefix(b"plain ")) {
        items(written, all);
    }
    if let Some(all) = said(cache.iter_sorted()) {
        items(written, all);
    }
    for item in [
        cache.first(),
        cache.last(),
        cache.peek(Some(b"queue"), Side::Front),
    ] {
        if let Some((key, value)) = said(item).flatten() {
            own(written, &key, &value);
        }
    }
    said(cache.len());
    said(cache.volume());
    said(cache.disk_usage());
    said(cache.settings());
    said(cache.stats(false));
    for segment in said(cache.segments()).into_iter().flatten() {
        if let Some(lines) = said(cache.log(segment)) {
            for (count, line) in lines.enumerate() {
                said(line.map(|line| line.to_string()));
                assert!(count < ITEMS_MAX, "a log without end");
            }
        }
    }
    seen
}

/// Every verb that reads, then those that write, then the readers once more.
pub(crate) fn exercise(cache: &Cache, written: &mut Written) {
    read_all(cache, written);

    let plain = SetOptions::default();
    let mut writes = vec![
        (b"plain 2".to_vec(), b"after the damage".to_vec()),
        (b"new".to_vec(), b"also".to_vec()),
    ];
    for (key, value) in &writes {
        written
            .entry(key.clone())
            .or_default()
            .insert(value.clone());
        said(cache.set(key, value));
    }
    if let Some(number) = said(cache.incr(b"integer", Number::Int(1), Number::Int(0))) {
        let text = number.to_string().into_bytes();
        let values = written.entry(b"integer".to_vec()).or_default();
        let before = |value: &Vec<u8>| {
            String::from_utf8_lossy(value)
                .parse::<i64>()
                .map(|n| (n + 1).to_string())
        };
        assert!(
            text == b"1"
                || values
                    .iter()
                    .any(|value| before(value).is_ok_and(|next| next.as_bytes() == text))
        );
        values.insert(text);
    }
    said(cache.delete(b"plain 7"));
    if let Some(value) = said(cache.pop(b"large")).flatten() {
        own(written, b"large", &value);
    }
    if let Some((key, value)) = said(cache.pull(Some(b"queue"), Side::Front)).flatten() {
        own(written, &key, &value);
    }
    written
        .entry(b"large and overwritten".to_vec())
        .or_default()
        .insert(noise(400, 5_000));
    said(cache.set_with(b"large and overwritten", noise(400, 5_000), &plain));
    said(cache.touch(b"expires", Expiry::Never));
    writes = vec![
        (b"batch 1".to_vec(), b"uno".to_vec()),
        (b"batch 3".to_vec(), b"tre".to_vec()),
    ];
    for (key, value) in &writes {
        written
            .entry(key.clone())
            .or_default()
            .insert(value.clone());
    }
    said(cache.transact(|batch| {
        for (key, value) in &writes {
            batch.set(key, value)?;
        }
        batch.delete(b"plain 8")
    }));
    said(cache.flush());

    read_values(cache, written);
    if let Some(report) = said(cache.check()) {
        assert!(report.findings.len() < ITEMS_MAX);
    }
}
