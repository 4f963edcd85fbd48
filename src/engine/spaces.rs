//! Named spaces: entries of one kind and name that share the log, with an order and a count of their own.
//!
//! Names are entries of the inner space: `s/KIND/NAME` holds the space's number, and `spaces` which
//! numbers are taken. A number is found by its name at each opening of a view. Owns the names; never
//! looks at an entry of a space.

use crate::engine::store::{INNER_SPACE, Store};
use crate::error::{Error, Result};
use crate::limits::SPACES_MAX;

/// The inner key under which the taken numbers are kept, a bit each.
pub(crate) const TAKEN_KEY: &[u8] = b"spaces";
/// Inner keys of names begin so.
const PREFIX: &[u8] = b"s/";

/// The inner key of a space's number.
pub(crate) fn name_key(kind: &str, name: &[u8]) -> Vec<u8> {
    [PREFIX, kind.as_bytes(), b"/", name].concat()
}

/// Whether an inner key is that of a space's number.
pub(crate) fn is_name(key: &[u8]) -> bool {
    key.starts_with(PREFIX)
}

/// The bits of these numbers.
pub(crate) fn bits_of(numbers: impl Iterator<Item = u32>) -> Vec<u8> {
    let mut bits = vec![0; SPACES_MAX / 8];
    for number in numbers.filter(|&number| (number as usize) < SPACES_MAX) {
        bits[number as usize / 8] |= 1 << (number % 8);
    }
    bits
}

/// The first number that is not taken, and the bits with it; the first two are the store's own.
pub(crate) fn take(taken: &[u8]) -> Result<(u32, Vec<u8>)> {
    let mut bits = taken.to_vec();
    bits.resize(SPACES_MAX / 8, 0);
    bits[0] |= 0b11;
    let free = (0..SPACES_MAX).find(|space| bits[space / 8] >> (space % 8) & 1 == 0);
    let Some(space) = free else {
        return Err(Error::TooLarge {
            what: "the number of named spaces in one store",
            bytes: SPACES_MAX as u64 + 1,
            max_bytes: SPACES_MAX as u64,
        });
    };
    bits[space / 8] |= 1 << (space % 8);
    Ok((space as u32, bits))
}

/// The number in a name's entry; `None`: damaged.
pub(crate) fn number(value: &[u8]) -> Option<u32> {
    let number = u32::from_le_bytes(value.try_into().ok()?);
    (2..SPACES_MAX as u32).contains(&number).then_some(number)
}

/// The name in a name's key, if it is of this kind.
pub(crate) fn name_of(key: &[u8], kind: &str) -> Option<Vec<u8>> {
    let rest = key.strip_prefix(PREFIX)?.strip_prefix(kind.as_bytes())?;
    rest.strip_prefix(b"/").map(<[u8]>::to_vec)
}

impl Store {
    /// The number of a named space; `None`: there is none of that name.
    pub(crate) fn space_id(&self, kind: &str, name: &[u8]) -> Result<Option<u32>> {
        let key = name_key(kind, name);
        let mut buffer = Vec::new();
        let hash = self.hash.of(INNER_SPACE, &key);
        let Some(hit) = self.find(INNER_SPACE, &key, hash, &mut buffer)? else {
            return Ok(None);
        };
        let number = number(hit.value(&buffer)).ok_or_else(|| {
            let what = format!(
                "the number of the {kind} {:?} is damaged",
                name.escape_ascii()
            );
            Error::corrupt(self.dir.path(), 0, what)
        })?;
        Ok(Some(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_taken_one_after_the_other_until_there_are_none() {
        let mut bits = Vec::new();
        for wanted in 2..SPACES_MAX as u32 {
            let (number, more) = take(&bits).expect("one is free");
            assert_eq!(number, wanted);
            bits = more;
        }
        assert!(take(&bits).is_err());
        bits[7] = 0b1101_1111;
        assert_eq!(take(&bits).expect("one is free").0, 61);
    }
}
