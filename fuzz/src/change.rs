//! Changes to a file's bytes, made from a fuzzer's input.
//!
//! Never changes the length: a mapped file that somebody shortens is outside what is promised.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// Applies `changes`, eleven bytes each: what, where (two), and eight to do it with.
///
/// A place is counted among the bytes in use, or plainly, so that both what is there and what
/// should be empty is met.
pub(crate) fn change(target: &File, used: &[usize], changes: &[u8]) {
    let len = target.metadata().expect("a file's length").len() as usize;
    for change in changes.chunks_exact(11) {
        let place = |bytes: &[u8]| {
            let number = usize::from(bytes[0]) << 8 | usize::from(bytes[1]);
            if used.is_empty() || change[0] & 0x80 != 0 {
                number * 8 % len
            } else {
                used[number % used.len()]
            }
        };
        let at = place(&change[1..3]);
        let data: [u8; 8] = change[3..].try_into().expect("eight of eleven bytes");
        let put = |at: usize, bytes: &[u8]| {
            let bytes = &bytes[..bytes.len().min(len - at)];
            target
                .write_all_at(bytes, at as u64)
                .expect("a write inside the file");
        };
        let word = |at: usize| {
            let at = (at & !7).min(len.saturating_sub(8));
            let mut bytes = [0; 8];
            target
                .read_exact_at(&mut bytes[..len.min(8)], at as u64)
                .expect("a read inside the file");
            (at, bytes)
        };
        match change[0] & 0x0F {
            0 | 1 => put(at, &data[..1]),
            2 | 3 => put(
                at,
                &[word(at).1[at & 7 & (len - 1).min(7)] ^ 1 << (data[0] & 7)],
            ),
            4 | 5 => put(at & !7, &data),
            6 => put(at & !7, &data[..2]),
            7 => put(at & !7, &data[..4]),
            // A word of the same file in another's place: well formed, and wrong.
            8..=10 => put(at & !7, &word(place(&data)).1),
            // Two words trade places.
            11 | 12 => {
                let ((a, first), (b, second)) = (word(at), word(place(&data)));
                put(a, &second);
                put(b, &first);
            }
            // A number that is nearly right.
            13 => {
                let (at, bytes) = word(at);
                let near = u64::from_le_bytes(bytes)
                    .wrapping_add_signed(i64::from(data[0] as i8) << (data[1] & 63));
                put(at, &near.to_le_bytes());
            }
            _ => put(at, &vec![data[0]; usize::from(data[1]) * 8]),
        }
    }
}
