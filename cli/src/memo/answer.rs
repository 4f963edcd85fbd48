//! How a command's answer stands in its entry.
//!
//! Owns the bytes before stdout and stderr, both ways. Never reads or writes a store.

const MAGIC: [u8; 7] = *b"memo\0\0\x01";

/// | at | len | field        |                                          |
/// |---:|----:|--------------|------------------------------------------|
/// |  0 |   7 | magic        | `memo`, two zero bytes, the version 1    |
/// |  7 |   1 | status       | the command's exit status                |
/// |  8 |   8 | stdout_bytes | little-endian; stdout follows the header |
/// | 16 |   8 | stderr_bytes | little-endian; stderr follows stdout     |
pub(crate) const HEADER_LEN: usize = 7 + 1 + 8 + 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) status: u8,
    pub(crate) stdout_bytes: u64,
    pub(crate) stderr_bytes: u64,
}

impl Header {
    pub(crate) fn encode(self) -> impl std::io::Read {
        let mut bytes = Vec::with_capacity(HEADER_LEN);
        bytes.extend_from_slice(&MAGIC);
        bytes.push(self.status);
        bytes.extend_from_slice(&self.stdout_bytes.to_le_bytes());
        bytes.extend_from_slice(&self.stderr_bytes.to_le_bytes());
        std::io::Cursor::new(bytes)
    }

    /// None unless it heads an entry of `total_bytes`.
    pub(crate) fn decode(bytes: &[u8; HEADER_LEN], total_bytes: u64) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk::<7>()?;
        let (&[status], rest) = rest.split_first_chunk::<1>()?;
        let (out, rest) = rest.split_first_chunk::<8>()?;
        let header = Self {
            status,
            stdout_bytes: u64::from_le_bytes(*out),
            stderr_bytes: u64::from_le_bytes(rest.try_into().ok()?),
        };
        let sum = (HEADER_LEN as u64)
            .checked_add(header.stdout_bytes)?
            .checked_add(header.stderr_bytes)?;
        (*magic == MAGIC && sum == total_bytes).then_some(header)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn encoded(header: Header) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        header
            .encode()
            .read_exact(&mut bytes)
            .expect("a header is that long");
        bytes
    }

    #[test]
    fn a_header_comes_back() {
        let header = Header {
            status: 255,
            stdout_bytes: 7,
            stderr_bytes: 9,
        };
        let total = HEADER_LEN as u64 + 16;
        assert_eq!(Header::decode(&encoded(header), total), Some(header));
        assert_eq!(Header::decode(&encoded(header), total + 1), None);
    }

    #[test]
    fn no_flipped_bit_outside_the_status_passes() {
        let header = Header {
            status: 0,
            stdout_bytes: 7,
            stderr_bytes: 9,
        };
        let whole = encoded(header);
        for bit in (0..whole.len() * 8).filter(|bit| bit / 8 != 7) {
            let mut flipped = whole;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                Header::decode(&flipped, HEADER_LEN as u64 + 16),
                None,
                "bit {bit}"
            );
        }
    }
}
