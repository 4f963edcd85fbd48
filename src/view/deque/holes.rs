//! Where in a wing no element stands: a tree of counters, from which the n-th element's depth is found.
//!
//! Leaves are bitmaps of 64 depths, each node above counts the holes below its 64 children, and the root
//! says how high the tree is and how many holes it has. There are holes between a wing's ends only.
//! Owns the nodes' bytes and keys; reads through what it is given, and tells what has changed.
//!
//! | entry | key                                       | value                                |
//! |-------|-------------------------------------------|--------------------------------------|
//! | root  | deque u32, `r`, wing u8                   | height u8, holes u64                 |
//! | leaf  | deque u32, `h`, wing u8, 0, index u64     | bitmap u64                           |
//! | node  | deque u32, `h`, wing u8, level, index u64 | child u8, holes u64, for each with any |

use std::collections::{BTreeMap, BTreeSet};

use crate::error::Result;
use crate::view::deque::shape::Wing;

const FAN_BITS: u32 = 6;
const FAN: usize = 1 << FAN_BITS;
/// Sixty-four bits of depth, six a level.
const HEIGHT_MAX: u8 = 10;

/// How a node's bytes are had.
pub(super) type Load<'a> = &'a dyn Fn(&[u8]) -> Result<Option<Vec<u8>>>;

/// Keys of a deque's notes begin so.
pub(super) fn key_prefix(deque: u32, tag: u8) -> Vec<u8> {
    [&deque.to_be_bytes()[..], &[tag]].concat()
}

type Node = [u64; FAN];

/// The holes of one wing, as far as they were looked at.
#[derive(Clone, Debug)]
pub(super) struct Holes {
    deque: u32,
    wing: Wing,
    height: u8,
    pub(super) total: u64,
    leaves: BTreeMap<u64, u64>,
    /// By level and index.
    nodes: BTreeMap<(u8, u64), Box<Node>>,
    changed: BTreeSet<(u8, u64)>,
    is_root_changed: bool,
}

/// How many depths a tree of this height is for.
fn cover(height: u8) -> u64 {
    1_u64
        .checked_shl(FAN_BITS * (u32::from(height) + 1))
        .unwrap_or(u64::MAX)
}

/// A depth's node of a level, and its child there.
fn step(depth: u64, level: u8) -> (u64, usize) {
    let down = FAN_BITS * u32::from(level);
    let child = (depth >> down) as usize % FAN;
    (depth.checked_shr(down + FAN_BITS).unwrap_or(0), child)
}

impl Holes {
    /// None, yet.
    pub(super) fn none(deque: u32, wing: Wing) -> Holes {
        Holes {
            deque,
            wing,
            height: 0,
            total: 0,
            leaves: BTreeMap::new(),
            nodes: BTreeMap::new(),
            changed: BTreeSet::new(),
            is_root_changed: false,
        }
    }

    pub(super) fn load(deque: u32, wing: Wing, load: Load<'_>) -> Result<Holes> {
        let mut holes = Holes::none(deque, wing);
        if let Some(bytes) = load(&holes.root_key())?
            && let Some((&[height], total)) = bytes.split_first_chunk()
            && let Ok(total) = total.try_into()
        {
            holes.height = height.min(HEIGHT_MAX);
            holes.total = u64::from_le_bytes(total);
        }
        Ok(holes)
    }

    pub(super) fn root_key(&self) -> Vec<u8> {
        let mut key = key_prefix(self.deque, b'r');
        key.push(self.wing as u8);
        key
    }

    fn node_key(&self, level: u8, index: u64) -> Vec<u8> {
        let mut key = key_prefix(self.deque, b'h');
        key.extend([self.wing as u8, level]);
        key.extend(index.to_be_bytes());
        key
    }

    /// A missing or damaged leaf has no holes: its parent's number tells that it should.
    fn leaf(&mut self, index: u64, load: Load<'_>) -> Result<&mut u64> {
        let key = self.node_key(0, index);
        Ok(match self.leaves.entry(index) {
            std::collections::btree_map::Entry::Occupied(leaf) => leaf.into_mut(),
            std::collections::btree_map::Entry::Vacant(free) => {
                let bytes = load(&key)?.and_then(|bytes| bytes.try_into().ok());
                free.insert(bytes.map_or(0, u64::from_le_bytes))
            }
        })
    }

    fn node(&mut self, level: u8, index: u64, load: Load<'_>) -> Result<&mut Node> {
        let key = self.node_key(level, index);
        Ok(match self.nodes.entry((level, index)) {
            std::collections::btree_map::Entry::Occupied(node) => node.into_mut(),
            std::collections::btree_map::Entry::Vacant(free) => {
                let mut node = Box::new([0; FAN]);
                for pair in load(&key)?.unwrap_or_default().chunks_exact(9) {
                    let mut count = [0; 8];
                    count.copy_from_slice(&pair[1..]);
                    node[usize::from(pair[0]) % FAN] = u64::from_le_bytes(count);
                }
                free.insert(node)
            }
        })
    }

    /// There is a hole at this depth now.
    pub(super) fn add(&mut self, depth: u64, load: Load<'_>) -> Result<()> {
        while depth >= cover(self.height) && self.height < HEIGHT_MAX {
            let total = self.total;
            self.height += 1;
            let height = self.height;
            *self.node(height, 0, load)? = [0; FAN];
            self.node(height, 0, load)?[0] = total;
            self.changed.insert((height, 0));
        }
        let (index, bit) = step(depth, 0);
        let leaf = self.leaf(index, load)?;
        if *leaf >> bit & 1 == 1 {
            return Ok(());
        }
        *leaf |= 1 << bit;
        self.changed.insert((0, index));
        for level in 1..=self.height {
            let (index, child) = step(depth, level);
            self.node(level, index, load)?[child] += 1;
            self.changed.insert((level, index));
        }
        self.total += 1;
        self.is_root_changed = true;
        Ok(())
    }

    /// There is no hole at this depth any more.
    pub(super) fn remove(&mut self, depth: u64, load: Load<'_>) -> Result<()> {
        if depth >= cover(self.height) {
            return Ok(());
        }
        let (index, bit) = step(depth, 0);
        let leaf = self.leaf(index, load)?;
        if *leaf >> bit & 1 == 0 {
            return Ok(());
        }
        *leaf &= !(1 << bit);
        self.changed.insert((0, index));
        for level in 1..=self.height {
            let (index, child) = step(depth, level);
            let count = &mut self.node(level, index, load)?[child];
            *count = count.saturating_sub(1);
            self.changed.insert((level, index));
        }
        self.total = self.total.saturating_sub(1);
        self.is_root_changed = true;
        Ok(())
    }

    /// The depth of the element before which `n` depths are no holes. `None`: the counters do not agree.
    pub(super) fn select(&mut self, n: u64, load: Load<'_>) -> Result<Option<u64>> {
        let mut left = n;
        let Some(all) = cover(self.height).checked_sub(self.total) else {
            return Ok(None);
        };
        if left >= all {
            return Ok(left.checked_add(self.total));
        }
        let (mut index, mut holes) = (0, self.total);
        for level in (1..=self.height).rev() {
            let span = cover(level - 1);
            let node = self.node(level, index, load)?;
            if node
                .iter()
                .try_fold(0_u64, |sum, &more| sum.checked_add(more))
                != Some(holes)
            {
                return Ok(None);
            }
            let mut child = 0;
            loop {
                let Some(count) = node.get(child) else {
                    return Ok(None);
                };
                let Some(full) = span.checked_sub(*count) else {
                    return Ok(None);
                };
                if left < full {
                    holes = *count;
                    break;
                }
                left -= full;
                child += 1;
            }
            index = index << FAN_BITS | child as u64;
        }
        let leaf = *self.leaf(index, load)?;
        if u64::from(leaf.count_ones()) != holes {
            return Ok(None);
        }
        let bit = (0..FAN as u64)
            .filter(|bit| leaf >> bit & 1 == 0)
            .nth(left as usize);
        Ok(bit.map(|bit| index << FAN_BITS | bit))
    }

    /// The entries that are others now: key, and value or `None`.
    pub(super) fn changes(&mut self) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        let mut changes = Vec::new();
        for (level, index) in std::mem::take(&mut self.changed) {
            let value = match level {
                0 => self
                    .leaves
                    .get(&index)
                    .map(|leaf| leaf.to_le_bytes().to_vec()),
                _ => self.nodes.get(&(level, index)).map(|node| bytes_of(node)),
            };
            let value = value.filter(|value| value.iter().any(|&byte| byte != 0));
            changes.push((self.node_key(level, index), value));
        }
        if std::mem::take(&mut self.is_root_changed) {
            let root = [&[self.height][..], &self.total.to_le_bytes()].concat();
            changes.push((self.root_key(), (self.total > 0).then_some(root)));
        }
        changes
    }
}

fn bytes_of(node: &Node) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (child, count) in (0_u8..).zip(node).filter(|(_, count)| **count > 0) {
        bytes.push(child);
        bytes.extend(count.to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn the_nth_element_is_found_whatever_is_taken_away() -> Result<()> {
        let stored = RefCell::new(BTreeMap::<Vec<u8>, Vec<u8>>::new());
        let load = |key: &[u8]| Ok(stored.borrow().get(key).cloned());
        let mut model = BTreeSet::new();
        let mut word = 0x2545_F491_4F6C_DD1D_u64;
        let mut roll = |below: u64| {
            word ^= word << 13;
            word ^= word >> 7;
            word ^= word << 17;
            word % below
        };
        for round in 0..600 {
            let mut holes = Holes::load(1, Wing::Back, &load)?;
            assert_eq!(holes.total, model.len() as u64);
            for _ in 0..3 {
                // Near each other, and now and then far beyond the tree.
                let depth = match roll(8) {
                    0 => roll(1 << 30),
                    1 => 262_144 + roll(70),
                    _ => roll(300),
                };
                if roll(5) < 2 && round > 100 {
                    holes.remove(depth, &load)?;
                    model.remove(&depth);
                } else {
                    holes.add(depth, &load)?;
                    model.insert(depth);
                }
            }
            for (key, value) in holes.changes() {
                match value {
                    Some(value) => stored.borrow_mut().insert(key, value),
                    None => stored.borrow_mut().remove(&key),
                };
            }
            let mut holes = Holes::load(1, Wing::Back, &load)?;
            for n in [0, 1, 17, 63, 64, 250, 5_000, 262_100, 262_160, 1 << 31] {
                let mut wanted = n;
                for &hole in &model {
                    wanted += u64::from(hole <= wanted);
                }
                assert_eq!(holes.select(n, &load)?, Some(wanted), "round {round}, {n}");
            }
        }
        for depth in model.clone() {
            let mut holes = Holes::load(1, Wing::Back, &load)?;
            holes.remove(depth, &load)?;
            for (key, value) in holes.changes() {
                match value {
                    Some(value) => stored.borrow_mut().insert(key, value),
                    None => stored.borrow_mut().remove(&key),
                };
            }
        }
        assert!(stored.borrow().is_empty(), "what is empty goes");
        Ok(())
    }

    #[test]
    fn a_node_that_is_gone_is_noticed() -> Result<()> {
        let stored = RefCell::new(BTreeMap::<Vec<u8>, Vec<u8>>::new());
        let load = |key: &[u8]| Ok(stored.borrow().get(key).cloned());
        let mut holes = Holes::none(1, Wing::Front);
        for depth in [3, 70, 5_000] {
            holes.add(depth, &load)?;
        }
        let all: BTreeMap<_, _> = holes
            .changes()
            .into_iter()
            .filter_map(|(key, value)| Some((key, value?)))
            .collect();
        for gone in all.keys() {
            *stored.borrow_mut() = all.clone();
            stored.borrow_mut().remove(gone);
            let mut told = 0;
            for n in 0..5_200 {
                let mut holes = Holes::load(1, Wing::Front, &load)?;
                told += u32::from(holes.total != 3 || holes.select(n, &load)?.is_none());
            }
            assert!(told > 0, "{gone:?}");
        }
        Ok(())
    }
}
