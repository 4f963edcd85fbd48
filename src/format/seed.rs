//! The seeds that bind bytes to their place, and the hash that finds a key.
//!
//! A checksum starts from (store, segment, offset), so bytes that are whole but in the wrong file or
//! at the wrong offset are damage. Never stored: both sides compute it.

/// Where a segment's checksums start; one per segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seed(u32);

impl Seed {
    /// Of the segment `id` in the store `uuid`.
    pub(crate) fn of_segment(uuid: &[u8; 16], id: u64) -> Self {
        let mut crc = crc32fast::Hasher::new();
        crc.update(uuid);
        crc.update(&id.to_le_bytes());
        Seed(crc.finalize())
    }

    /// The initial state for a record at byte `at` of the segment.
    ///
    /// The multiplier is odd, so two offsets of one segment never start alike.
    fn at(self, at: u64) -> u32 {
        self.0 ^ (at as u32 / 8 + 1).wrapping_mul(0x9E37_79B1)
    }

    /// CRC-32 (IEEE) of `bytes`, which stand at byte `at`.
    pub(crate) fn crc(self, at: u64, bytes: &[u8]) -> u32 {
        let mut crc = crc32fast::Hasher::new_with_initial(self.at(at));
        crc.update(bytes);
        crc.finalize()
    }
}

/// A store's keyed hash: rapidhash v3, whose output is fixed by its version.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyHash {
    secrets: rapidhash::v3::RapidSecrets,
}

impl KeyHash {
    pub(crate) fn new(seed: u64) -> Self {
        KeyHash {
            secrets: rapidhash::v3::RapidSecrets::seed(seed),
        }
    }

    /// The hash of `key` in the named space `space` (0: the cache's own).
    #[inline]
    pub(crate) fn of(&self, space: u32, key: &[u8]) -> u64 {
        let hash = rapidhash::v3::rapidhash_v3_seeded(key, &self.secrets);
        if space == 0 {
            hash
        } else {
            (hash ^ u64::from(space)).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ hash >> 32
        }
    }
}
