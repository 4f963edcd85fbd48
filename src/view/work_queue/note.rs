//! What is known of a job beside its payload: its note, and what is left of it when it is dead.
//!
//! Owns these bytes and the inner keys. A plain job that was never leased has no note.
//!
//! | note at | len  | field                                                              |
//! |--------:|-----:|--------------------------------------------------------------------|
//! |       0 |    1 | phase: 1 leased, 2 waiting                                         |
//! |       1 |    1 | 0                                                                  |
//! |       2 |    2 | length of the dedup key, plus 1; 0: none                           |
//! |       4 |    4 | priority                                                           |
//! |       8 |    4 | deliveries so far                                                  |
//! |      12 |    4 | 0                                                                  |
//! |      16 |    8 | the job's place in the order; 0: this record's own                 |
//! |      24 |    8 | leased: the deadline; waiting: not before; ms since 1970           |
//! |      32 |    8 | the lease's token                                                  |
//! |      40 |   24 | who holds it; zeros: nobody whose death could be noticed           |
//! |      64 | rest | the dedup key, then the last error, UTF-8                          |
//!
//! | dead at | len  | field                                       |
//! |--------:|-----:|---------------------------------------------|
//! |       0 |    4 | deliveries                                  |
//! |       4 |    4 | priority                                    |
//! |       8 |    8 | the job's place in the order                |
//! |      16 |    8 | when it was given up, ms since 1970         |
//! |      24 | rest | the last error, UTF-8                       |
//!
//! Numbers are little-endian; keys of jobs are the id, 8 bytes, big-endian. Other keys of the notes'
//! space are longer: 8 zero bytes, a letter (`k`: a dedup key follows, the value is the job's id;
//! `m`: the most deliveries), and more.

use crate::engine::holder::Holder;

const HEAD_LEN: usize = 64;
const DEAD_HEAD_LEN: usize = 24;
/// Of an error more is cut off.
const ERROR_LEN_MAX: usize = 1_024;

pub(super) const MAX_ATTEMPTS_KEY: &[u8] = b"\0\0\0\0\0\0\0\0m";
const DEDUP_PREFIX: &[u8] = b"\0\0\0\0\0\0\0\0k";

/// The key of a job.
pub(super) fn id_key(id: u64) -> [u8; 8] {
    id.to_be_bytes()
}

/// The job a key means; `None`: it is none of a job.
pub(super) fn id_of(key: &[u8]) -> Option<u64> {
    key.try_into().ok().map(u64::from_be_bytes)
}

/// The key under which a dedup key is noted.
pub(super) fn dedup_key(key: &[u8]) -> Vec<u8> {
    [DEDUP_PREFIX, key].concat()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Leased,
    Waiting,
}

/// What is known of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) phase: Phase,
    pub(super) priority: i32,
    /// Deliveries so far.
    pub(super) attempts: u32,
    /// As written: 0 means the record's own.
    pub(super) order: u64,
    pub(super) until_ms: u64,
    pub(super) token: u64,
    pub(super) holder: Option<Holder>,
    pub(super) dedup: Option<Vec<u8>>,
    pub(super) error: String,
}

impl Note {
    /// Of a job that was not leased yet.
    pub(super) fn waiting(priority: i32, until_ms: u64, dedup: Option<Vec<u8>>) -> Note {
        Note {
            phase: Phase::Waiting,
            priority,
            attempts: 0,
            order: 0,
            until_ms,
            token: 0,
            holder: None,
            dedup,
            error: String::new(),
        }
    }

    pub(super) fn is_leased_by(&self, token: u64) -> bool {
        self.phase == Phase::Leased && self.token == token
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let dedup = self.dedup.as_deref();
        let error = cut(&self.error);
        let rest = dedup.map_or(0, <[u8]>::len) + error.len();
        let mut bytes = Vec::with_capacity(HEAD_LEN + rest);
        bytes.push(match self.phase {
            Phase::Leased => 1,
            Phase::Waiting => 2,
        });
        bytes.push(0);
        let dedup_len = dedup.map_or(0, |key| key.len() as u16 + 1);
        bytes.extend_from_slice(&dedup_len.to_le_bytes());
        bytes.extend_from_slice(&self.priority.to_le_bytes());
        bytes.extend_from_slice(&self.attempts.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        for word in [self.order, self.until_ms, self.token] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        let holder = self.holder.map_or([0; Holder::LEN], Holder::to_bytes);
        bytes.extend_from_slice(&holder);
        bytes.extend_from_slice(dedup.unwrap_or_default());
        bytes.extend_from_slice(error.as_bytes());
        bytes
    }

    /// The note in these bytes, of a record of this order; `None`: they are none.
    pub(super) fn decode(bytes: &[u8], own_order: u64) -> Option<Note> {
        let (head, rest) = bytes.split_at_checked(HEAD_LEN)?;
        let phase = match head[0] {
            1 => Phase::Leased,
            2 => Phase::Waiting,
            _ => return None,
        };
        let dedup_len = usize::from(u16::from_le_bytes(head[2..4].try_into().ok()?));
        let (dedup, error) = rest.split_at_checked(dedup_len.saturating_sub(1))?;
        let word = |at: usize| -> Option<u64> {
            Some(u64::from_le_bytes(head[at..at + 8].try_into().ok()?))
        };
        let holder: &[u8; Holder::LEN] = head[40..].try_into().ok()?;
        Some(Note {
            phase,
            priority: i32::from_le_bytes(head[4..8].try_into().ok()?),
            attempts: u32::from_le_bytes(head[8..12].try_into().ok()?),
            order: match word(16)? {
                0 => own_order,
                order => order,
            },
            until_ms: word(24)?,
            token: word(32)?,
            holder: (*holder != [0; Holder::LEN]).then(|| Holder::from_bytes(holder)),
            dedup: (dedup_len > 0).then(|| dedup.to_vec()),
            error: String::from_utf8_lossy(error).into_owned(),
        })
    }
}

/// What is left of a job that was given up, beside its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Grave {
    pub(super) attempts: u32,
    pub(super) priority: i32,
    pub(super) order: u64,
    pub(super) died_ms: u64,
    pub(super) error: String,
}

impl Grave {
    pub(super) fn encode(&self) -> Vec<u8> {
        let error = cut(&self.error);
        let mut bytes = Vec::with_capacity(DEAD_HEAD_LEN + error.len());
        bytes.extend_from_slice(&self.attempts.to_le_bytes());
        bytes.extend_from_slice(&self.priority.to_le_bytes());
        bytes.extend_from_slice(&self.order.to_le_bytes());
        bytes.extend_from_slice(&self.died_ms.to_le_bytes());
        bytes.extend_from_slice(error.as_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Grave> {
        let (head, error) = bytes.split_at_checked(DEAD_HEAD_LEN)?;
        Some(Grave {
            attempts: u32::from_le_bytes(head[..4].try_into().ok()?),
            priority: i32::from_le_bytes(head[4..8].try_into().ok()?),
            order: u64::from_le_bytes(head[8..16].try_into().ok()?),
            died_ms: u64::from_le_bytes(head[16..].try_into().ok()?),
            error: String::from_utf8_lossy(error).into_owned(),
        })
    }
}

/// The beginning of an error's text.
fn cut(error: &str) -> &str {
    let mut end = error.len().min(ERROR_LEN_MAX);
    while !error.is_char_boundary(end) {
        end -= 1;
    }
    &error[..end]
}

/// Who comes before whom: a higher priority, then the one that was pushed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) priority: i32,
    pub(super) order: u64,
    pub(super) id: u64,
}

impl Ord for Turn {
    /// The greatest is the next.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.priority
            .cmp(&other.priority)
            .then(other.order.cmp(&self.order))
            .then(other.id.cmp(&self.id))
    }
}

impl PartialOrd for Turn {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(dedup: Option<&[u8]>) -> Note {
        let mut holder = [0; Holder::LEN];
        for (n, byte) in holder[..20].iter_mut().enumerate() {
            *byte = n as u8 + 1;
        }
        Note {
            phase: Phase::Leased,
            priority: -7,
            attempts: 3,
            order: 1 << 40,
            until_ms: 1_700_000_000_123,
            token: u64::MAX - 5,
            holder: Some(Holder::from_bytes(&holder)),
            dedup: dedup.map(<[u8]>::to_vec),
            error: "no röom".into(),
        }
    }

    #[test]
    fn notes_come_back_and_their_beginnings_are_none_or_shorter() {
        for dedup in [None, Some(&b""[..]), Some(&b"key"[..])] {
            let note = sample(dedup);
            let bytes = note.encode();
            assert_eq!(Note::decode(&bytes, 9), Some(note));
            for end in 0..HEAD_LEN {
                assert_eq!(Note::decode(&bytes[..end], 9), None, "{end} bytes");
            }
        }
        let own = Note::waiting(1, 2, None).encode();
        assert_eq!(Note::decode(&own, 9).map(|note| note.order), Some(9));
        let grave = Grave {
            attempts: 5,
            priority: 1,
            order: 7,
            died_ms: 8,
            error: "x".into(),
        };
        assert_eq!(Grave::decode(&grave.encode()), Some(grave));
    }

    #[test]
    fn a_long_error_is_cut_between_letters() {
        let note = Note {
            error: "ä".repeat(5_000),
            ..sample(None)
        };
        let read = Note::decode(&note.encode(), 0).expect("a note");
        assert_eq!(read.error, "ä".repeat(ERROR_LEN_MAX / 2));
    }

    #[test]
    fn a_higher_priority_goes_first_and_an_older_job_before_a_younger() {
        let turn = |priority, order| Turn {
            priority,
            order,
            id: order,
        };
        assert!(turn(1, 9) > turn(0, 1));
        assert!(turn(0, 1) > turn(0, 2));
        assert!(turn(-1, 1) < turn(0, 2));
    }

    #[test]
    fn keys_of_jobs_and_other_keys_are_never_the_same() {
        assert_eq!(id_of(&id_key(77)), Some(77));
        assert_eq!(id_of(&dedup_key(b"")), None);
        assert_eq!(id_of(MAX_ATTEMPTS_KEY), None);
    }
}
