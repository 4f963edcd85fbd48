//! What an export is going to write, known before the first byte is.
//!
//! Owns the sorting of a store's entries into directories, files, links and what is refused.
//! Never reads a value and never touches the target.

use std::collections::BTreeMap;

use larder::Cache;

use crate::failure::{Result, damage};
use crate::tree::{self, Node};

/// Something with content: a file or a link.
pub(crate) struct Leaf {
    pub(crate) key: Vec<u8>,
    pub(crate) path: Vec<u8>,
    pub(crate) node: Node,
    pub(crate) bytes: u64,
}

#[derive(Default)]
pub(crate) struct Plan {
    /// By path, the root's is empty; no mode: it is only in the way to something else.
    pub(crate) dirs: BTreeMap<Vec<u8>, Option<u32>>,
    /// In the order they were stored.
    pub(crate) files: Vec<Leaf>,
    pub(crate) links: Vec<Leaf>,
    /// Keys that are no paths, and why.
    pub(crate) refused: Vec<(Vec<u8>, &'static str)>,
    /// What the store says of entries it cannot read.
    pub(crate) damaged: Vec<String>,
}

impl Plan {
    /// For all entries whose keys begin with `prefix`.
    pub(crate) fn of(cache: &Cache, prefix: &[u8]) -> Result<Self> {
        let mut plan = Self::default();
        for key in cache.keys()? {
            if let Err(error) = key.and_then(|key| plan.look_at(cache, &key, prefix)) {
                plan.damaged.push(damage(error)?);
            }
        }
        Ok(plan)
    }

    fn look_at(&mut self, cache: &Cache, key: &[u8], prefix: &[u8]) -> larder::Result<()> {
        if let Some(rest) = key.strip_prefix(prefix)
            && let Some(entry) = cache.describe(key)?
        {
            self.add(key, rest, &entry.tags, entry.size_bytes);
        }
        Ok(())
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.files
            .iter()
            .chain(&self.links)
            .map(|leaf| leaf.bytes)
            .sum()
    }

    fn add(&mut self, key: &[u8], rest: &[u8], tags: &[Vec<u8>], bytes: u64) {
        let (path, node) = match tree::node(rest, tags) {
            Ok(known) => known,
            Err(why) => return self.refused.push((key.to_vec(), why)),
        };
        for parent in tree::parents(&path) {
            self.dirs.entry(parent.to_vec()).or_insert(None);
        }
        let leaf = |path| Leaf {
            key: key.to_vec(),
            path,
            node,
            bytes,
        };
        match node {
            Node::Dir { mode } => {
                self.dirs.insert(path, Some(mode));
            }
            Node::File { .. } => self.files.push(leaf(path)),
            Node::Symlink => self.links.push(leaf(path)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_are_made_and_keep_their_modes() {
        let mut plan = Plan::default();
        let dir = Node::Dir { mode: 0o700 };
        plan.add(b"a/", b"a/", &dir.tags(), 0);
        plan.add(b"a/b/c", b"a/b/c", &[], 3);
        plan.add(b"../x", b"../x", &[], 3);
        let dirs: Vec<_> = plan.dirs.into_iter().collect();
        assert_eq!(
            dirs,
            [(b"a".to_vec(), Some(0o700)), (b"a/b".to_vec(), None)]
        );
        assert_eq!((plan.files.len(), plan.refused.len()), (1, 1));
    }
}
