//! The shape of a deque: two runs of elements, and which of them a side or an index means.
//!
//! Plain arithmetic. Each run grows and shrinks at its top and drains from its base; the front one is
//! read from its top, the back one after it from its base. Never reads or writes anything.

use crate::view::options::Side;

/// Which of a deque's two runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wing {
    Front = 0,
    Back = 1,
}

impl Wing {
    pub(crate) const BOTH: [Wing; 2] = [Wing::Front, Wing::Back];

    pub(crate) fn other(self) -> Wing {
        match self {
            Wing::Front => Wing::Back,
            Wing::Back => Wing::Front,
        }
    }
}

/// Where an element stands: its wing, and its depth there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spot {
    pub(crate) wing: Wing,
    pub(crate) depth: u64,
}

impl Spot {
    pub(crate) fn key(self) -> [u8; 8] {
        self.depth.to_be_bytes()
    }
}

/// One wing: its elements' depths are from `base` to before `end`, but for holes between.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) base: u64,
    pub(crate) end: u64,
    pub(crate) count: u64,
}

impl Run {
    /// `None`: these numbers are of no run.
    pub(crate) fn new(first: Option<u64>, last: Option<u64>, count: u64) -> Option<Run> {
        let (base, end) = match (first, last) {
            (None, None) => (0, 0),
            (Some(first), Some(last)) if first <= last => (first, last.checked_add(1)?),
            _ => return None,
        };
        let fits = count <= end - base && (count == 0) == (end == base);
        fits.then_some(Run { base, end, count })
    }

    /// Depths between the ends at which no element stands.
    pub(crate) fn holes(&self) -> u64 {
        self.end - self.base - self.count
    }
}

/// What is kept of a deque beside its elements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Notes {
    pub(crate) max_len: Option<u64>,
    /// Front means back, and back front.
    pub(crate) is_reversed: bool,
}

impl Notes {
    /// The wing whose top is this side.
    pub(crate) fn wing(self, side: Side) -> Wing {
        match (side, self.is_reversed) {
            (Side::Front, false) | (Side::Back, true) => Wing::Front,
            (Side::Back, false) | (Side::Front, true) => Wing::Back,
        }
    }

    pub(crate) fn to_bytes(self) -> [u8; 9] {
        let mut bytes = [0; 9];
        bytes[..8].copy_from_slice(&self.max_len.unwrap_or(u64::MAX).to_le_bytes());
        bytes[8] = u8::from(self.is_reversed);
        bytes
    }

    /// `None`: damaged.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Notes> {
        let (max_len, &[is_reversed @ (0 | 1)]) = bytes.split_first_chunk()? else {
            return None;
        };
        let max_len = Some(u64::from_le_bytes(*max_len)).filter(|&max_len| max_len != u64::MAX);
        Some(Notes {
            max_len,
            is_reversed: is_reversed == 1,
        })
    }
}

/// A whole deque.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) runs: [Run; 2],
    pub(crate) notes: Notes,
}

impl Shape {
    pub(crate) fn len(&self) -> u64 {
        self.runs[0].count + self.runs[1].count
    }

    pub(crate) fn run(&self, wing: Wing) -> &Run {
        &self.runs[wing as usize]
    }

    /// The element at a side.
    pub(crate) fn end(&self, side: Side) -> Option<Spot> {
        let wing = self.notes.wing(side);
        let (own, other) = (self.run(wing), self.run(wing.other()));
        if own.count > 0 {
            Some(Spot {
                wing,
                depth: own.end - 1,
            })
        } else if other.count > 0 {
            Some(Spot {
                wing: wing.other(),
                depth: other.base,
            })
        } else {
            None
        }
    }

    /// The wing of an element, and how many elements stand below it there. Negative indexes count from
    /// the back: -1 is the last.
    pub(crate) fn locate(&self, index: i64) -> Option<(Wing, u64)> {
        let len = self.len();
        let index = match u64::try_from(index) {
            Ok(index) => index,
            Err(_) => len.checked_sub(index.unsigned_abs())?,
        };
        if index >= len {
            return None;
        }
        let index = match self.notes.is_reversed {
            false => index,
            true => len - 1 - index,
        };
        let front = self.runs[0].count;
        Some(if index < front {
            (Wing::Front, front - 1 - index)
        } else {
            (Wing::Back, index - front)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(front: u64, back: u64, is_reversed: bool) -> Shape {
        let run = |count: u64| Run {
            base: 3,
            end: 3 + count,
            count,
        };
        Shape {
            runs: [run(front), run(back)],
            notes: Notes {
                max_len: None,
                is_reversed,
            },
        }
    }

    #[test]
    fn every_index_means_one_element_from_either_end() {
        for front in 0..4 {
            for back in 0..4 {
                let (plain, turned) = (shape(front, back, false), shape(front, back, true));
                let len = (front + back) as i64;
                let all: Vec<_> = (0..len).map(|index| plain.locate(index)).collect();
                let wanted: Vec<_> = (0..front)
                    .rev()
                    .map(|below| Some((Wing::Front, below)))
                    .chain((0..back).map(|below| Some((Wing::Back, below))))
                    .collect();
                assert_eq!(all, wanted);
                for index in 0..len {
                    assert_eq!(plain.locate(index), plain.locate(index - len));
                    assert_eq!(plain.locate(index), turned.locate(len - 1 - index));
                }
                for shape in [plain, turned] {
                    assert_eq!((shape.locate(len), shape.locate(-len - 1)), (None, None));
                    for (side, index) in [(Side::Front, 0), (Side::Back, -1)] {
                        let end = shape.end(side).map(|spot| (spot.wing, spot.depth - 3));
                        assert_eq!(end, shape.locate(index));
                    }
                }
            }
        }
    }

    #[test]
    fn notes_come_back_and_damage_is_told() {
        for max_len in [None, Some(0), Some(7)] {
            for is_reversed in [false, true] {
                let notes = Notes {
                    max_len,
                    is_reversed,
                };
                assert_eq!(Notes::from_bytes(&notes.to_bytes()), Some(notes));
            }
        }
        assert_eq!(Notes::from_bytes(&[0; 8]), None);
        assert_eq!(Notes::from_bytes(&[2; 9]), None);
    }

    #[test]
    fn a_run_is_refused_when_its_numbers_do_not_fit() {
        assert_eq!(Run::new(None, None, 0), Some(Run::default()));
        assert_eq!(
            Run::new(Some(2), Some(9), 5).map(|run| run.holes()),
            Some(3)
        );
        assert_eq!(Run::new(Some(2), Some(3), 3), None);
        assert_eq!(Run::new(Some(3), Some(2), 1), None);
        assert_eq!(Run::new(Some(2), Some(3), 0), None);
        assert_eq!(Run::new(None, None, 1), None);
    }
}
