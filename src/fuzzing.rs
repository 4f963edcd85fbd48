//! Doors for the fuzz targets, in fuzzing builds alone: bytes in, no panic out.

use std::sync::Arc;

use crate::engine::walk::{Next, Walk};
use crate::format::header::FORMAT_VERSION;
use crate::format::key::{Key, KeyPart};
use crate::format::name::Name;
use crate::format::names;
use crate::format::pack;
use crate::format::record::{self, Record};
use crate::format::seed::Seed;
use crate::format::segment::{RECORDS_AT, SegmentHead, Summary};
use crate::os::dir::Dir;
use crate::part::segment::Segment;
use crate::view::unpack::UnpackOptions;

const UUID: [u8; 16] = [7; 16];

/// Bytes as a record, as a record's header, as a footer line, as a segment's header.
///
/// The checksums of the first are mended, so that what lies behind them is reached.
pub fn record_decode(bytes: &[u8]) {
    let seed = Seed::of_segment(&UUID, 1);
    let mut mended = bytes.to_vec();
    for round in 0..2 {
        if let Ok(record) = Record::decode(&mended, seed, RECORDS_AT) {
            assert!(record.value_at() + record.value().len() <= mended.len());
            let _ = (
                record.kills().count(),
                names::from_rows(record.key()).map_or(0, |names| names.len()),
                record.durable_seq(),
                record.head.len(),
                record.head.volume(),
            );
        }
        if let Ok(head) = record::decode_head(&mended, seed, RECORDS_AT) {
            assert!(head.key_at <= mended.len());
        }
        if round == 0 {
            mend(&mut mended, seed);
        }
    }
    if let Some(words) = bytes.get(..16) {
        let word = |at: usize| u64::from_le_bytes(words[at..at + 8].try_into().unwrap_or_default());
        let _ = Summary::decode([word(0), word(8)], seed, 3);
    }
    let _ = SegmentHead::decode(bytes);
    let _ = FORMAT_VERSION;
}

/// Gives bytes the checksums a record of their lengths would have.
fn mend(bytes: &mut [u8], seed: Seed) {
    let Some(fixed) = bytes.get(..record::HEAD_LEN) else {
        return;
    };
    let shape = u64::from_le_bytes(fixed[8..16].try_into().unwrap_or_default());
    let word = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let Some(padded) = record::claimed_len(shape, word) else {
        return;
    };
    let (key, value) = ((shape >> 23 & 0x1_FFFF) as usize, (shape >> 40) as usize);
    let key_at = padded.saturating_sub((key + value).next_multiple_of(8));
    let end = key_at + key + value;
    if end > bytes.len() || key_at < record::HEAD_LEN {
        return;
    }
    let head = seed.crc(RECORDS_AT + 4, &bytes[8..key_at]);
    bytes[4..8].copy_from_slice(&head.to_le_bytes());
    let whole = seed.crc(RECORDS_AT, &bytes[4..end]);
    bytes[..4].copy_from_slice(&whole.to_le_bytes());
}

/// Bytes as a whole segment file, walked from end to end.
pub fn segment_scan(bytes: &[u8]) {
    let Ok(temporary) = std::env::temp_dir().canonicalize() else {
        return;
    };
    let path = temporary.join(format!("larder-fuzz-{}", std::process::id()));
    let Ok(dir) = Dir::open(&path, true) else {
        return;
    };
    let name = Name::Segment(1);
    let mut file = bytes.to_vec();
    if file.len() >= RECORDS_AT as usize && bytes[0] & 1 == 0 {
        // Half of the inputs have a right header, so that the walk is reached.
        let size = (file.len() as u64 / 8 * 8).max(RECORDS_AT + 16);
        let head = SegmentHead {
            uuid: UUID,
            id: 1,
            size,
            first_seq: 1,
            hash_seed: 1,
            created_ms: 0,
            life_seq: 1,
            life: 1,
            copies: false,
        };
        file[..RECORDS_AT as usize].copy_from_slice(&head.encode());
    }
    let written = dir
        .create(name)
        .and_then(|made| dir.write_at(name, &made, 0, &file));
    if written.is_ok()
        && let Ok(Some(segment)) = Segment::open(&dir, &UUID, 1, 1)
    {
        let segment = Arc::new(segment);
        let mut walk = Walk::new(&segment, u64::MAX);
        let mut steps = 0;
        let mut buffer = Vec::new();
        while let Ok(Some(next)) = walk.next(&dir) {
            steps += 1;
            assert!(steps <= file.len(), "a walk ends");
            if let Next::Record { at, .. } = next {
                let _ = segment.read(&dir, at, &mut buffer);
            }
        }
    }
    let _ = std::fs::remove_dir_all(&path);
}

/// Bytes as a canonical key: what is read is written back the same.
pub fn key_decode(bytes: &[u8]) {
    if let Ok(part) = <KeyPart<'_> as Key>::decode(bytes) {
        let mut again = Vec::new();
        assert!(
            part.encode(&mut again).is_ok() && again == bytes,
            "a key has one encoding"
        );
    }
}

/// Bytes as a packed file: as they are, and as its stream, so that what lies behind the checksum of
/// the file is reached; then with the checksums of its frames and entries mended.
pub fn unpack(bytes: &[u8]) {
    let verify = |file: &[u8]| {
        if let Ok(report) = UnpackOptions::default().verify(std::io::Cursor::new(file)) {
            assert_eq!(report.file_bytes, file.len() as u64);
        }
    };
    verify(bytes);
    let mut stream = bytes.to_vec();
    for _ in 0..2 {
        if let Ok(zstd) = zstd::bulk::compress(&stream, 1) {
            let mut file = [&pack::encode_head()[..], &zstd].concat();
            let crc = crc32fast::hash(&file);
            file.extend(crc.to_le_bytes());
            verify(&file);
        }
        mend_pack(&mut stream);
    }
}

/// Gives frames and entries the checksums they would have, as far as their lengths lead.
fn mend_pack(stream: &mut [u8]) {
    let mut at = 0;
    while at + pack::FRAME_LEN <= stream.len() {
        if stream[at + 4] == 2 {
            let crc = crc32fast::hash(&stream[..at]);
            stream[at + 32..at + 36].copy_from_slice(&crc.to_le_bytes());
        }
        let crc = crc32fast::hash(&stream[at + 4..at + pack::FRAME_LEN]);
        stream[at..at + 4].copy_from_slice(&crc.to_le_bytes());
        let len = |at: usize| u64::from_le_bytes(stream[at..at + 8].try_into().unwrap_or_default());
        let names = len(at + 8);
        let body = (names >> 32)
            .saturating_add(names & 0xffff_ffff)
            .saturating_add(len(at + 16));
        let end = (at as u64 + pack::FRAME_LEN as u64).saturating_add(body);
        if end.saturating_add(pack::CRC_LEN as u64) > stream.len() as u64 {
            return;
        }
        let end = end as usize;
        let crc = crc32fast::hash(&stream[at..end]);
        stream[end..end + pack::CRC_LEN].copy_from_slice(&crc.to_le_bytes());
        at = end + pack::CRC_LEN;
    }
}
