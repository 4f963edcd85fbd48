//! An access stamp: 32 bits beside each word of the keymap, which readers store to without a lock.
//!
//! | top bits | rest                                                                              |
//! |----------|-----------------------------------------------------------------------------------|
//! | `0`      | hits since it was stored first, 6 (63 is "or more"); tick of the last access, 25  |
//! | `10`     | of a sliding expiry: time of the last access, 30: 1/8 s since the store's birth   |
//! | `11`     | the version with these lowest 30 bits of its sequence was told to have expired    |
//!
//! Wrong ones do no harm but to a policy's choice, and to `accessed_at`: whatever decides about an entry
//! is in its record too. Numbers in, numbers out.

/// Bits of a tick.
const TICK_BITS: u32 = 25;
/// A tick, as stamps keep it.
pub(crate) const TICK_MASK: u32 = (1 << TICK_BITS) - 1;
/// More hits than this are not told apart.
pub(crate) const HITS_MAX: u8 = 63;
const REST_BITS: u32 = 30;
const REST_MASK: u32 = (1 << REST_BITS) - 1;
/// The unit of the second form, ms.
pub(crate) const EIGHTH_MS: u64 = 125;

/// What a stamp says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stamp {
    Access {
        hits: u8,
        tick: u32,
    },
    /// Eighths of a second since the store's birth, the lowest 30 bits.
    Slid(u32),
    /// The lowest 30 bits of a sequence.
    Dead(u32),
}

impl Stamp {
    #[inline]
    pub(crate) fn from_bits(bits: u32) -> Stamp {
        match bits >> REST_BITS {
            2 => Stamp::Slid(bits & REST_MASK),
            3 => Stamp::Dead(bits & REST_MASK),
            _ => Stamp::Access {
                hits: (bits >> TICK_BITS) as u8,
                tick: bits & TICK_MASK,
            },
        }
    }

    #[inline]
    pub(crate) fn to_bits(self) -> u32 {
        match self {
            Stamp::Access { hits, tick } => {
                u32::from(hits.min(HITS_MAX)) << TICK_BITS | tick & TICK_MASK
            }
            Stamp::Slid(eighths) => 2 << REST_BITS | eighths & REST_MASK,
            Stamp::Dead(seq) => 3 << REST_BITS | seq & REST_MASK,
        }
    }

    /// The version with this sequence was told to have expired.
    pub(crate) fn dead(seq: u64) -> Stamp {
        Stamp::Dead(seq as u32 & REST_MASK)
    }

    /// Whether some version was told to have expired: [`Stamp::dead`] says which.
    #[inline]
    pub(crate) fn may_be_dead(bits: u32) -> bool {
        bits >> REST_BITS == 3
    }

    /// An access at so many ms since the store's birth.
    pub(crate) fn slid(since_birth_ms: u64) -> Stamp {
        Stamp::Slid((since_birth_ms / EIGHTH_MS) as u32 & REST_MASK)
    }

    /// The time of the second form, ms since the store's birth: the latest that is not after `now_ms`.
    pub(crate) fn slid_ms(eighths: u32, now_ms: u64) -> u64 {
        let now = now_ms / EIGHTH_MS;
        let ago = (now as u32).wrapping_sub(eighths) & REST_MASK;
        now.saturating_sub(u64::from(ago)) * EIGHTH_MS
    }

    /// Hits, as far as this form has them.
    pub(crate) fn hits(self) -> u8 {
        match self {
            Stamp::Access { hits, .. } => hits,
            // Whatever slides was read again and again, as far as anybody knows.
            Stamp::Slid(_) => 1,
            Stamp::Dead(_) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{HITS_MAX, Stamp, TICK_MASK};

    #[test]
    fn every_form_comes_back() {
        for stamp in [
            Stamp::Access { hits: 0, tick: 0 },
            Stamp::Access {
                hits: HITS_MAX,
                tick: TICK_MASK,
            },
            Stamp::Slid(5),
            Stamp::dead(u64::MAX),
        ] {
            assert_eq!(Stamp::from_bits(stamp.to_bits()), stamp);
            let is_dead = matches!(stamp, Stamp::Dead(_));
            assert_eq!(Stamp::may_be_dead(stamp.to_bits()), is_dead);
        }
    }

    #[test]
    fn a_slid_time_is_never_later_than_it_was_and_wraps_once_in_four_years() {
        for ms in [0, 124, 125, 1_000_999, 1 << 40] {
            let Stamp::Slid(eighths) = Stamp::slid(ms) else {
                panic!("it slid")
            };
            for later in [ms, ms + 1, ms + 86_400_000] {
                let read = Stamp::slid_ms(eighths, later);
                assert!(read <= ms && ms - read < 125, "{ms} read as {read}");
            }
        }
    }
}
