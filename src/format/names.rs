//! Whom a kill list or a drop removes, by name: for those who watch the store.
//!
//! Stands in the record's key field, which is empty when nobody watches. One after the other:
//!
//! | len | field |                                                           |
//! |----:|-------|-----------------------------------------------------------|
//! |   1 | cause | see [`Cause`]; 0: the end                                 |
//! |   1 | space | of the entry                                              |
//! |   2 | tags  | how many                                                  |
//! |   4 | len   | of the key                                                |
//! | 4 n | tags  | their ids                                                 |
//! |     | key   |                                                           |
//!
//! cut into rows of 14 bytes, each followed by two bytes `0xFF`. So no row can be taken for a pair of a
//! damaged kill list: as a sequence it is above any there is. Owns these bytes; never reads a file.

/// Bytes of names in one row, and of the row.
const ROW_BYTES: usize = 14;
const ROW_LEN: usize = 16;
/// Bytes of one name beside its tags and key.
const FIXED_LEN: usize = 8;
/// The most bytes of names, in rows, that one record has; the longest name fits three quarters of it.
pub(crate) const NAMES_MAX: usize = 120 * 1024;
/// A record that has so many takes one more name, however long.
pub(crate) const NAMES_ENOUGH: usize = 36 * 1024;
const _: () = {
    let longest = FIXED_LEN + crate::limits::TAGS_MAX * 4 + crate::limits::KEY_LEN_MAX;
    let all = NAMES_ENOUGH / ROW_LEN * ROW_BYTES + longest;
    assert!((all / ROW_BYTES + 2) * ROW_LEN <= NAMES_MAX, "it fits");
    assert!(NAMES_MAX < 1 << 17, "a key field holds them");
};

/// Why an entry is removed, beside by a delete of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Cause {
    /// `clear`.
    Cleared = 1,
    Expired = 2,
    /// By a limit: of size, count, age, or a tag's quota.
    Culled = 3,
    /// With its tag.
    Evicted = 4,
    /// By a repair: it could not be read, or was an older version.
    Repaired = 5,
}

impl Cause {
    pub(crate) fn from_byte(byte: u8) -> Option<Cause> {
        let all = [
            Cause::Cleared,
            Cause::Expired,
            Cause::Culled,
            Cause::Evicted,
            Cause::Repaired,
        ];
        all.into_iter().find(|&cause| cause as u8 == byte)
    }
}

/// An entry that was removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) cause: Cause,
    pub(crate) space: u32,
    pub(crate) tags: Vec<u32>,
    pub(crate) key: Vec<u8>,
}

impl Name {
    /// The name's bytes, not in rows yet.
    pub(crate) fn encode(
        cause: Cause,
        space: u32,
        tags: impl Iterator<Item = u32>,
        key: &[u8],
    ) -> Vec<u8> {
        let mut bytes = vec![cause as u8, space as u8, 0, 0];
        bytes.extend_from_slice(&(key.len() as u32).to_le_bytes());
        let mut count = 0_u16;
        for tag in tags {
            bytes.extend_from_slice(&tag.to_le_bytes());
            count += 1;
        }
        bytes[2..4].copy_from_slice(&count.to_le_bytes());
        bytes.extend_from_slice(key);
        bytes
    }
}

/// Bytes that names of `len` bytes take in rows.
pub(crate) fn rows_len(len: usize) -> usize {
    len.div_ceil(ROW_BYTES) * ROW_LEN
}

/// Encoded names, in rows.
pub(crate) fn to_rows<'n>(names: impl Iterator<Item = &'n [u8]>) -> Vec<u8> {
    let bytes: Vec<u8> = names.flatten().copied().collect();
    let mut rows = Vec::with_capacity(rows_len(bytes.len()));
    for row in bytes.chunks(ROW_BYTES) {
        rows.extend_from_slice(row);
        rows.resize(rows.len().next_multiple_of(ROW_LEN) - 2, 0);
        rows.extend_from_slice(&[0xFF, 0xFF]);
    }
    rows
}

/// The names in a record's key field; `None`: it has none, or they are not what was written.
pub(crate) fn from_rows(rows: &[u8]) -> Option<Vec<Name>> {
    let mut bytes = Vec::with_capacity(rows.len());
    for row in rows.chunks(ROW_LEN) {
        bytes.extend_from_slice(row.strip_suffix(&[0xFF, 0xFF])?);
    }
    let mut names = Vec::new();
    let mut rest = &bytes[..];
    while rest.first().is_some_and(|&cause| cause != 0) {
        let (fixed, behind) = rest.split_first_chunk::<FIXED_LEN>()?;
        let cause = Cause::from_byte(fixed[0])?;
        let count = usize::from(u16::from_le_bytes([fixed[2], fixed[3]]));
        let len = u32::from_le_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]) as usize;
        let (tags, behind) = behind.split_at_checked(count * 4)?;
        let (key, behind) = behind.split_at_checked(len)?;
        let (tags, _) = tags.as_chunks::<4>();
        names.push(Name {
            cause,
            space: u32::from(fixed[1]),
            tags: tags.iter().map(|id| u32::from_le_bytes(*id)).collect(),
            key: key.to_vec(),
        });
        rest = behind;
    }
    (!names.is_empty()).then_some(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<Name> {
        (0..40_usize)
            .map(|n| Name {
                cause: Cause::from_byte(1 + (n % 5) as u8).expect("a cause"),
                space: n as u32 % 64,
                tags: (0..n as u32 % 4).collect(),
                key: vec![n as u8; n * n % 90],
            })
            .collect()
    }

    fn rows_of(names: &[Name]) -> Vec<u8> {
        let encoded: Vec<Vec<u8>> = names
            .iter()
            .map(|name| Name::encode(name.cause, name.space, name.tags.iter().copied(), &name.key))
            .collect();
        to_rows(encoded.iter().map(Vec::as_slice))
    }

    #[test]
    fn names_come_back_and_every_cut_is_none_or_fewer() {
        let names = sample();
        for len in 0..names.len() {
            let rows = rows_of(&names[..len]);
            let back = from_rows(&rows);
            assert_eq!(back.unwrap_or_default(), &names[..len]);
        }
        let rows = rows_of(&names);
        for cut in 0..rows.len() {
            assert_ne!(from_rows(&rows[..cut]).as_ref(), Some(&names), "cut {cut}");
        }
    }

    #[test]
    fn no_row_is_a_pair_of_a_kill_list() {
        let rows = rows_of(&sample());
        let (pairs, rest) = rows.as_chunks::<16>();
        assert!(rest.is_empty());
        for pair in pairs {
            let (_, seq) = pair.split_last_chunk::<8>().expect("sixteen bytes");
            assert!(u64::from_le_bytes(*seq) >= 1 << 48, "no sequence");
        }
    }

    #[test]
    fn flipped_bits_are_read_without_a_panic() {
        let rows = rows_of(&sample()[..12]);
        for bit in 0..rows.len() * 8 {
            let mut flipped = rows.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let _ = from_rows(&flipped);
        }
    }
}
