//! A tag's quota: the most bytes entries with it may take, so that one job does not flush another's.
//!
//! Owns where quotas are kept (an entry of the inner space, and the tag's row) and who goes: of the same
//! tag, what got it first. Never looks at an entry without the tag.

use crate::engine::cull::Spared;
use crate::engine::doomed::Naming;
use crate::engine::kill::Version;
use crate::engine::store::{Proof, Store, stat};
use crate::error::Result;
use crate::format::names::Cause;
use crate::format::record::tags_of;
use crate::part::lists::{self, CELLS, List, row};

/// Blocks of a list that one write walks for a quota, at most.
const BLOCKS_PER_WRITE: u64 = 64;

/// The inner key under which a tag's quota is kept.
pub(crate) fn quota_key(name: &[u8]) -> Vec<u8> {
    [b"u/", name].concat()
}

impl Store {
    /// Notes a quota in the tag's row; 0: none.
    pub(crate) fn put_quota(&self, id: u32, bytes: u64) -> Result<()> {
        self.reserve_tag(id)?;
        self.files
            .store(&self.dir, List::of_tag(id).at(row::QUOTA), bytes)
    }

    /// Evicts entries with a tag until they are within its quota. Under the lock, after a write that gave
    /// an entry the tag; `spared` stays whatever the quota says.
    pub(crate) fn cull_to_quota(&self, proof: &mut Proof, id: u32, spared: &Spared) -> Result<u64> {
        let list = List::of_tag(id);
        let quota = lists::number(&self.files, list, row::QUOTA)?;
        let mut gone = 0;
        if quota == 0 {
            return Ok(0);
        }
        let cells = lists::number(&self.files, list, row::CELLS)?;
        for _ in 0..BLOCKS_PER_WRITE.min(cells.div_ceil(CELLS)) {
            let bytes = lists::number(&self.files, list, row::BYTES)?;
            if bytes <= quota {
                break;
            }
            let mut first = Vec::new();
            lists::cells_from_first(&self.files, list, 1, &mut first)?;
            let mut excess = bytes - quota;
            let mut is_enough = false;
            let mut victims = Vec::new();
            let mut naming = Naming::new(self, Cause::Culled);
            let mut stay = Vec::new();
            let mut buffer = Vec::new();
            for posting in first {
                let found =
                    self.find_posting(posting, &mut buffer, |head| head.options.tag_seq as u32);
                let Ok(Some(hit)) = found else { continue };
                if !tags_of(&hit.head, &buffer).any(|tag| tag == id) {
                    continue;
                }
                let hash = self.hash.of(hit.head.options.space, hit.key(&buffer));
                let version = Version::of(&hit, hash, &buffer);
                let is_known = victims
                    .iter()
                    .any(|other: &Version| other.seq() == version.seq());
                is_enough |= excess == 0;
                if excess == 0 || spared.0.contains(&hit.head.seq) || is_known {
                    stay.push(posting);
                    continue;
                }
                excess = excess.saturating_sub(hit.head.volume());
                naming.push(Cause::Culled, &hit.head, &buffer);
                victims.push(version);
            }
            let mut some = 0;
            self.kill_versions(proof, &victims, &naming, &mut some)?;
            self.count(stat::CULLED, some);
            gone += some;
            if is_enough {
                // Those that are next keep their turn; dead cells before them cost a look.
                break;
            }
            self.retire_block(list, &stay)?;
        }
        Ok(gone)
    }
}
