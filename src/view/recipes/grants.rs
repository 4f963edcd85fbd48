//! Who has what of a lock, and who waits for it: a list in an entry, and the choice who may have it.
//!
//! Owns the bytes of such an entry and the rules. Pure: never asks who is alive, what time it is, or
//! changes a store.
//!
//! An entry is one grant after the other, in the order in which they were made, little-endian:
//!
//! | at | len | field      |                                                          |
//! |---:|----:|------------|----------------------------------------------------------|
//! |  0 |  24 | holder     | the handle                                               |
//! | 24 |   8 | id         | which guard or thread of that handle                     |
//! | 32 |   8 | token      | higher than that of every grant made before              |
//! | 40 |   8 | since_ms   | when it was made                                         |
//! | 48 |   8 | expires_ms | the largest number: never                                |
//! | 56 |   4 | times      | how often a thread that has it has taken it              |
//! | 60 |   4 | kind       | 1 alone, 2 with others, 3 it only waits: its turn is kept |

use crate::engine::holder::Holder;

const LEN: usize = Holder::LEN + 4 * 8 + 2 * 4;
const _: () = assert!(LEN == 64, "another length is another table");

/// The most grants of one lock; who comes when there are so many waits.
pub(super) const GRANTS_MAX: usize = 256;
/// The most places kept for who waits; others compete for those.
const WAITING_MAX: usize = 8;
/// So long a place is kept for one who does not come back to keep it.
const PLACE_MS: u64 = 1_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Alone = 1,
    Shared = 2,
    Waits = 3,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grant {
    pub(super) holder: Holder,
    pub(super) id: u64,
    pub(super) token: u64,
    pub(super) since_ms: u64,
    pub(super) expires_ms: u64,
    pub(super) times: u32,
    pub(super) kind: Kind,
}

/// In what way something is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Alone,
    /// With all others who ask so.
    Shared,
    /// With at most so many, this one counted.
    UpTo(u32),
}

/// A wish to be granted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask {
    pub(super) holder: Holder,
    pub(super) id: u64,
    pub(super) way: Way,
    pub(super) expiry_ms: Option<u64>,
    /// Who has it may have it again.
    pub(super) again: bool,
    /// Who waits long keeps a place.
    pub(super) keeps_place: bool,
}

/// What a wish came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Had {
        token: u64,
    },
    /// A place among those who wait is kept for it.
    Waits,
    /// Nothing has changed.
    No,
}

impl Grant {
    pub(super) fn waits(&self) -> bool {
        self.kind == Kind::Waits
    }

    pub(super) fn is_of(&self, holder: &Holder, id: u64) -> bool {
        self.holder == *holder && self.id == id
    }
}

pub(super) fn encode(grants: &[Grant]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(grants.len() * LEN);
    for grant in grants {
        bytes.extend_from_slice(&grant.holder.to_bytes());
        for word in [grant.id, grant.token, grant.since_ms, grant.expires_ms] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(&grant.times.to_le_bytes());
        bytes.extend_from_slice(&(grant.kind as u32).to_le_bytes());
    }
    bytes
}

/// The grants of an entry; `None`: it is none of ours.
pub(super) fn decode(bytes: &[u8]) -> Option<Vec<Grant>> {
    let (all, rest) = bytes.as_chunks::<LEN>();
    if !rest.is_empty() {
        return None;
    }
    all.iter().map(decode_one).collect()
}

fn decode_one(bytes: &[u8; LEN]) -> Option<Grant> {
    let (holder, rest) = bytes.split_first_chunk::<{ Holder::LEN }>()?;
    let (words, _) = rest.as_chunks::<8>();
    let word = |n: usize| u64::from_le_bytes(words[n]);
    let kind = match word(4) >> 32 {
        1 => Kind::Alone,
        2 => Kind::Shared,
        3 => Kind::Waits,
        _ => return None,
    };
    Some(Grant {
        holder: Holder::from_bytes(holder),
        id: word(0),
        token: word(1),
        since_ms: word(2),
        expires_ms: word(3),
        times: word(4) as u32,
        kind,
    })
}

/// Without those whose time is over, and those whose holder is known to be dead. A place kept for longer
/// than places are is over too: the clock was set back.
pub(super) fn retain_live(grants: &mut Vec<Grant>, now_ms: u64, dead: &[Holder]) {
    grants.retain(|grant| {
        let is_over = grant.expires_ms <= now_ms
            || grant.waits() && grant.expires_ms > now_ms.saturating_add(PLACE_MS);
        !is_over && !dead.contains(&grant.holder)
    });
}

/// Whether `ask` is granted, of those that live; the list is as it is then. `token` is for a new grant;
/// `keeps_place`: who must wait takes a place among those who do.
pub(super) fn decide(
    grants: &mut Vec<Grant>,
    ask: &Ask,
    now_ms: u64,
    token: u64,
    keeps_place: bool,
) -> Answer {
    let expires_ms = ask
        .expiry_ms
        .map_or(u64::MAX, |expiry| now_ms.saturating_add(expiry));
    let mine = |grant: &Grant| grant.is_of(&ask.holder, ask.id);
    if ask.again
        && let Some(grant) = grants
            .iter_mut()
            .find(|grant| mine(grant) && !grant.waits())
    {
        grant.times = grant.times.saturating_add(1);
        grant.expires_ms = expires_ms;
        return Answer::Had { token: grant.token };
    }
    let place = grants.iter().position(|grant| grant.waits() && mine(grant));
    // Who kept a place first comes first, and before everybody who has none.
    let is_first = grants.iter().find(|grant| grant.waits()).is_none_or(mine);
    let had = grants.iter().filter(|grant| !grant.waits());
    let is_free = match ask.way {
        Way::Alone => had.count() == 0,
        Way::Shared => had.clone().all(|grant| grant.kind != Kind::Alone),
        Way::UpTo(bound) => had.count() < bound as usize,
    };
    let mut grant = Grant {
        holder: ask.holder,
        id: ask.id,
        token,
        since_ms: now_ms,
        expires_ms,
        times: 1,
        kind: match ask.way {
            Way::Alone => Kind::Alone,
            _ => Kind::Shared,
        },
    };
    if is_free && is_first && (place.is_some() || grants.len() < GRANTS_MAX) {
        if let Some(place) = place {
            grants.remove(place);
        }
        grants.push(grant);
        return Answer::Had { token };
    }
    let waiting = grants.iter().filter(|grant| grant.waits()).count();
    if !keeps_place || (place.is_none() && (waiting >= WAITING_MAX || grants.len() >= GRANTS_MAX)) {
        return Answer::No;
    }
    grant.kind = Kind::Waits;
    grant.expires_ms = now_ms.saturating_add(PLACE_MS);
    match place {
        Some(place) => grants[place].expires_ms = grant.expires_ms,
        None => grants.push(grant),
    }
    Answer::Waits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(n: u8) -> Holder {
        let mut bytes = [0; Holder::LEN];
        bytes[0] = n;
        bytes[16] = n;
        Holder::from_bytes(&bytes)
    }

    fn ask(n: u8, way: Way) -> Ask {
        Ask {
            holder: holder(n),
            id: u64::from(n),
            way,
            expiry_ms: None,
            again: false,
            keeps_place: true,
        }
    }

    fn had(answer: Answer) -> bool {
        matches!(answer, Answer::Had { .. })
    }

    #[test]
    fn bytes_are_read_as_they_were_written_and_no_others_are() {
        let mut grants = Vec::new();
        for n in 1..4 {
            decide(&mut grants, &ask(n, Way::Alone), 7, 100, true);
        }
        let bytes = encode(&grants);
        assert_eq!(decode(&bytes), Some(grants));
        assert_eq!(decode(&[]), Some(Vec::new()));
        for cut in (1..bytes.len()).filter(|cut| cut % LEN != 0) {
            assert_eq!(decode(&bytes[..cut]), None);
        }
        let mut odd = bytes;
        odd[60] = 9;
        assert_eq!(decode(&odd), None);
    }

    #[test]
    fn one_alone_or_many_together_but_never_past_the_bound() {
        let mut grants = Vec::new();
        assert!(had(decide(&mut grants, &ask(1, Way::Shared), 0, 1, false)));
        assert!(had(decide(&mut grants, &ask(2, Way::Shared), 0, 2, false)));
        assert!(!had(decide(&mut grants, &ask(3, Way::Alone), 0, 3, false)));
        assert!(!had(decide(
            &mut grants,
            &ask(3, Way::UpTo(2)),
            0,
            3,
            false
        )));
        assert!(had(decide(&mut grants, &ask(3, Way::UpTo(3)), 0, 3, false)));
        grants.clear();
        assert!(had(decide(&mut grants, &ask(1, Way::Alone), 0, 1, false)));
        for way in [Way::Shared, Way::Alone, Way::UpTo(1)] {
            assert!(!had(decide(&mut grants, &ask(2, way), 0, 2, false)));
        }
        retain_live(&mut grants, 0, &[holder(1)]);
        assert!(had(decide(&mut grants, &ask(2, Way::Alone), 0, 2, false)));
    }

    #[test]
    fn who_kept_a_place_comes_before_who_did_not_until_it_dies_or_its_place_is_over() {
        let mut grants = Vec::new();
        assert!(had(decide(&mut grants, &ask(1, Way::Shared), 0, 1, false)));
        assert_eq!(
            decide(&mut grants, &ask(2, Way::Alone), 0, 2, true),
            Answer::Waits
        );
        assert_eq!(
            decide(&mut grants, &ask(3, Way::Shared), 0, 3, true),
            Answer::Waits
        );
        grants.retain(Grant::waits);
        assert!(!had(decide(&mut grants, &ask(3, Way::Shared), 0, 3, false)));
        assert!(!had(decide(&mut grants, &ask(4, Way::Shared), 0, 4, false)));
        for (now_ms, dead) in [(0, vec![holder(2)]), (PLACE_MS, vec![])] {
            let mut later = grants.clone();
            later[1].expires_ms = now_ms + 1;
            retain_live(&mut later, now_ms, &dead);
            assert!(had(decide(&mut later, &ask(3, Way::Shared), 0, 3, false)));
        }
        assert!(had(decide(&mut grants, &ask(2, Way::Alone), 0, 2, false)));
        assert_eq!(grants.iter().filter(|grant| grant.waits()).count(), 1);
    }

    #[test]
    fn places_and_grants_are_bounded() {
        let mut grants = Vec::new();
        assert!(had(decide(&mut grants, &ask(0, Way::Alone), 0, 1, true)));
        for n in 1..100 {
            decide(&mut grants, &ask(n, Way::Alone), 0, 1, true);
        }
        assert_eq!(grants.len(), 1 + WAITING_MAX);
        grants.clear();
        for n in 0..2 * GRANTS_MAX as u64 {
            let ask = Ask {
                id: n,
                ..ask(1, Way::Shared)
            };
            decide(&mut grants, &ask, 0, 1, true);
        }
        assert_eq!(grants.len(), GRANTS_MAX);
    }

    #[test]
    fn a_thread_that_has_it_may_have_it_again() {
        let mut grants = Vec::new();
        let again = Ask {
            again: true,
            ..ask(1, Way::Alone)
        };
        assert_eq!(
            decide(&mut grants, &again, 0, 5, false),
            Answer::Had { token: 5 }
        );
        assert_eq!(
            decide(&mut grants, &again, 0, 9, false),
            Answer::Had { token: 5 }
        );
        assert_eq!((grants.len(), grants[0].times), (1, 2));
    }
}
