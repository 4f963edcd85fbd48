//! A batch across shards: its intent in the first shard decides it, and each shard's part is applied
//! once, by its maker or by whoever next has that shard's lock.
//!
//! Holds: the intent is durable before any part is applied, and stays until every part is; a shard whose
//! part may be missing says so in its header, and nobody changes it before the part is in. Locks are
//! taken by index, the first shard's always. DESIGN.md (several shards) has the argument.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use crate::engine::change::{Change, Payload};
use crate::engine::intent::{Bytes, Intent};
use crate::engine::store::{Held, INNER_SPACE, Proof, Store};
use crate::error::{Error, Result};
use crate::format::header as layout;
use crate::format::name::Name;

/// Instead of a number: the shard's entries are in other shards now.
pub(crate) const RETIRED: u64 = u64::MAX;

/// Bytes of an intent that one entry holds.
const PIECE_LEN: usize = 4 << 20;
/// Intents that wait for their parts to be durable, at most.
pub(crate) const OUTSTANDING_MAX: usize = 512;
/// What the intents that wait are, in the first shard.
const LOG_KEY: &[u8] = b"x";
/// The newest crossing whose part a shard has applied.
const APPLIED_KEY: &[u8] = b"x/applied";
/// Large values that wait in a shard for the decision: the crossing's number and how many.
const WAITING_KEY: &[u8] = b"x/waiting";

/// Where a shard stands among its siblings.
#[derive(Debug)]
pub(crate) struct Siblings {
    pub(crate) index: u16,
    /// The first of them; `None`: this is it.
    pub(crate) first: Option<Arc<Store>>,
}

/// The inner key of a piece of an intent.
fn intent_key(id: u64, piece: u64) -> Vec<u8> {
    format!("x/i/{id:x}/{piece:x}").into_bytes()
}

/// The inner key of a large value that waits.
fn waiting_key(id: u64, n: u64) -> Vec<u8> {
    format!("x/v/{id:x}/{n:x}").into_bytes()
}

/// An intent that may still be needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Open {
    pub(crate) id: u64,
    /// Its length; it is kept in pieces.
    len: u64,
    /// The shards that have a part.
    pub(crate) shards: Vec<u16>,
}

/// What the first shard knows of crossings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Log {
    /// The newest number given.
    pub(crate) last: u64,
    pub(crate) open: Vec<Open>,
}

impl Log {
    pub(crate) fn read(first: &Store) -> Result<Log> {
        let Some(bytes) = first.inner(LOG_KEY)? else {
            return Ok(Log::default());
        };
        Log::decode(&bytes).ok_or_else(|| damaged(first, "the list of batches across shards"))
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = self.last.to_le_bytes().to_vec();
        for open in &self.open {
            out.extend_from_slice(&open.id.to_le_bytes());
            out.extend_from_slice(&open.len.to_le_bytes());
            out.extend_from_slice(&(open.shards.len() as u16).to_le_bytes());
            for shard in &open.shards {
                out.extend_from_slice(&shard.to_le_bytes());
            }
        }
        out
    }

    fn decode(bytes: &[u8]) -> Option<Log> {
        let mut from = Bytes(bytes);
        let last = from.long()?;
        let mut open = Vec::new();
        while !from.0.is_empty() {
            let (id, len, count) = (from.long()?, from.long()?, from.half()?);
            let shards = (0..count).map(|_| from.half()).collect::<Option<_>>()?;
            open.push(Open { id, len, shards });
        }
        Some(Log { last, open })
    }
}

impl Log {
    /// Leaves out the intents whose parts are all there for good; their removal is added to `changes`.
    fn drop_done(&mut self, all: &[Arc<Store>], changes: &mut Vec<Change>) -> Result<()> {
        let first = &all[0];
        let mut stays = Vec::new();
        for open in self.open.drain(..) {
            let mut is_over = true;
            for &shard in &open.shards {
                is_over &= match all.get(shard as usize) {
                    // Its part stands before the removal in the same log: what is durable of it has both.
                    Some(_) if shard == 0 => first.applied()? >= open.id,
                    Some(store) => store.has_durably(open.id)?,
                    None => true,
                };
            }
            if is_over {
                for piece in 0..open.len.div_ceil(PIECE_LEN as u64) {
                    changes.push(inner_change(first, &intent_key(open.id, piece), None));
                }
            } else {
                stays.push(open);
            }
        }
        self.open = stays;
        Ok(())
    }
}

fn damaged(first: &Store, what: &str) -> Error {
    Error::corrupt(
        first.dir.path(),
        0,
        format!("{what} cannot be read: some of it may be missing in other shards"),
    )
}

/// A change of an entry of the inner space.
pub(crate) fn inner_change(store: &Store, key: &[u8], value: Option<Vec<u8>>) -> Change {
    let payload = |value| Payload {
        value_kind: 0,
        value,
        expires_ms: None,
        zstd: None,
        apart: None,
        sliding_ms: None,
        cost_s: None,
        is_item: false,
        tag_seq: 0,
        tags: Vec::new(),
        stored_s: store.second(store.now_ms()),
    };
    Change {
        space: INNER_SPACE,
        key: key.to_vec(),
        hash: store.hash.of(INNER_SPACE, key),
        set: value.map(payload),
        fresh: false,
        is_void: false,
    }
}

impl Store {
    /// The value of an entry of the inner space.
    pub(crate) fn inner(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let mut buffer = Vec::new();
        let hash = self.hash.of(INNER_SPACE, key);
        let hit = self.find(INNER_SPACE, key, hash, &mut buffer)?;
        Ok(hit.map(|hit| hit.value(&buffer).to_vec()))
    }

    /// Commits changes of the inner space, making room under the lock if need be.
    pub(crate) fn commit_inner(&self, proof: &mut Proof, changes: &Vec<Change>) -> Result<()> {
        match self.commit(proof, changes) {
            Err(Error::Full { needed_bytes, .. })
                if self.make_way_locked(proof, needed_bytes)? =>
            {
                self.commit(proof, changes)
            }
            done => done,
        }
    }

    /// The number of the crossing that may have a part here not yet applied; 0: none.
    #[inline]
    pub(crate) fn crossing(&self) -> u64 {
        self.files.header.get(layout::CROSSING_AT)
    }

    pub(crate) fn set_crossing(&self, id: u64) {
        fence(Ordering::Release);
        self.files.header.put(layout::CROSSING_AT, id);
    }

    /// The newest crossing that readers see. Of the first shard.
    #[inline]
    pub(crate) fn decided(&self) -> u64 {
        self.files.header.number(layout::DECIDED_AT)
    }

    /// The lock of one shard among several that one caller takes; what a dead maker left stays so far.
    pub(crate) fn lock_sibling<S: std::ops::Deref<Target = Store>>(
        store: S,
        timeout: Option<Duration>,
    ) -> Result<Held<S>> {
        Store::lock_as_opener(store, timeout)
    }

    /// This shard's part of a crossing whose maker died. Its lock is not held.
    #[cold]
    pub(crate) fn complete_crossing(&self, timeout: Option<Duration>) -> Result<()> {
        let Some(siblings) = self.siblings.get() else {
            return Err(Error::Unsupported {
                path: self.dir.path().into(),
                what: "a batch across shards is half done in it: open the store of several shards it is part of".into(),
            });
        };
        let Some(first) = &siblings.first else {
            let mut held = Store::lock_sibling(self, timeout)?;
            let (store, proof) = held.parts();
            return store.catch_up(proof, store, siblings.index);
        };
        let mut first = Store::lock_sibling(&**first, timeout)?;
        let mut held = Store::lock_sibling(self, timeout)?;
        let (store, proof) = held.parts();
        store.catch_up(proof, first.parts().0, siblings.index)
    }

    /// Applies what this shard has missed. Under its lock and the first one's.
    pub(crate) fn catch_up(&self, proof: &mut Proof, first: &Store, index: u16) -> Result<()> {
        if self.crossing() == RETIRED {
            return Err(Error::Moved {
                path: self.dir.path_of(Name::Header),
            });
        }
        let log = Log::read(first)?;
        if first.decided() < log.last {
            // Its maker died before it was durable, or the header is a new one.
            first.sync_log()?;
            first.decide_crossing(log.last);
        }
        let applied = self.applied()?;
        for open in &log.open {
            if open.id <= applied || !open.shards.contains(&index) {
                continue;
            }
            let intent = read_intent(first, open.id)?
                .ok_or_else(|| damaged(first, "a batch across shards"))?;
            let Some(part) = intent.part(index) else {
                continue;
            };
            let mut changes = part.changes.clone();
            for change in &mut changes {
                change.hash = self.hash.of(change.space, &change.key);
            }
            changes.extend(self.end_of_part(open.id)?);
            self.commit_inner(proof, &changes)?;
        }
        // What was never decided.
        self.forget_waiting(proof)?;
        self.mark_if_due(proof);
        self.set_crossing(0);
        Ok(())
    }

    pub(crate) fn decide_crossing(&self, id: u64) {
        fence(Ordering::Release);
        self.files.header.put(layout::DECIDED_AT, id);
    }

    /// The newest crossing whose part has been applied here.
    fn applied(&self) -> Result<u64> {
        let bytes = self.inner(APPLIED_KEY)?;
        let word = bytes.and_then(|bytes| bytes.try_into().ok());
        Ok(word.map_or(0, u64::from_le_bytes))
    }

    /// What goes with a part in its batch: that it was applied, and that nothing waits any more.
    pub(crate) fn end_of_part(&self, id: u64) -> Result<Vec<Change>> {
        let mut changes = self.no_longer_waiting(Some(id))?;
        changes.push(inner_change(
            self,
            APPLIED_KEY,
            Some(id.to_le_bytes().to_vec()),
        ));
        Ok(changes)
    }

    /// Whether a change here was decided and is not complete: the next holder of the lock completes it first.
    pub(crate) fn is_halfway(&self) -> bool {
        let header = &self.files.header;
        header.get(layout::PENDING_AT) != 0 || header.get(layout::JOURNAL_AT) != 0
    }

    /// Lets go of large values that waited for a decision.
    pub(crate) fn forget_waiting(&self, proof: &mut Proof) -> Result<()> {
        let changes = self.no_longer_waiting(None)?;
        match changes.is_empty() {
            true => Ok(()),
            false => self.commit_inner(proof, &changes),
        }
    }

    /// Removes the entries that held large values for crossing `id`, or for any.
    fn no_longer_waiting(&self, id: Option<u64>) -> Result<Vec<Change>> {
        let Some(bytes) = self.inner(WAITING_KEY)? else {
            return Ok(Vec::new());
        };
        let mut from = Bytes(&bytes);
        let (Some(of), Some(count)) = (from.long(), from.long()) else {
            return Ok(vec![inner_change(self, WAITING_KEY, None)]);
        };
        if id.is_some_and(|id| id != of) {
            return Ok(Vec::new());
        }
        let mut changes = vec![inner_change(self, WAITING_KEY, None)];
        // What the log says is bounded by what one process streams.
        for n in 0..count.min(crate::limits::STREAMS_MAX as u64) {
            changes.push(inner_change(self, &waiting_key(of, n), None));
        }
        Ok(changes)
    }

    /// Entries that hold new large values until the decision, so that their files stay.
    pub(crate) fn waiting(&self, id: u64, changes: &[Change], files: &[u64]) -> Vec<Change> {
        let mut waiting = Vec::new();
        for payload in changes.iter().filter_map(|change| change.set.as_ref()) {
            let Some(apart) = payload.apart.filter(|apart| files.contains(&apart.id)) else {
                continue;
            };
            let key = waiting_key(id, waiting.len() as u64);
            let mut change = inner_change(self, &key, Some(Vec::new()));
            if let Some(set) = &mut change.set {
                set.apart = Some(apart);
            }
            waiting.push(change);
        }
        if !waiting.is_empty() {
            let count = waiting.len() as u64;
            let value = [id.to_le_bytes(), count.to_le_bytes()].concat();
            waiting.push(inner_change(self, WAITING_KEY, Some(value)));
        }
        waiting
    }

    /// Whether a crossing's part is here for good.
    fn has_durably(&self, id: u64) -> Result<bool> {
        let mut buffer = Vec::new();
        let hash = self.hash.of(INNER_SPACE, APPLIED_KEY);
        let Some(hit) = self.find(INNER_SPACE, APPLIED_KEY, hash, &mut buffer)? else {
            return Ok(false);
        };
        let applied = hit.value(&buffer).try_into().map_or(0, u64::from_le_bytes);
        // It is the last record of its part's batch.
        let durable = self.files.header.number(layout::DURABLE_AT);
        Ok(applied >= id && durable >= hit.head.seq)
    }
}

/// What a crossing of other shards finds in the first one; `None`: it was never decided, or is over.
pub(crate) fn read_intent(first: &Store, id: u64) -> Result<Option<Intent>> {
    let log = Log::read(first)?;
    let Some(open) = log.open.iter().find(|open| open.id == id) else {
        return Ok(None);
    };
    let mut bytes = Vec::new();
    let mut piece = 0;
    while (bytes.len() as u64) < open.len {
        match first.inner(&intent_key(id, piece))? {
            Some(more) => bytes.extend_from_slice(&more),
            // Removed since the list was read.
            None if Log::read(first)?.open.iter().all(|open| open.id != id) => return Ok(None),
            None => return Err(damaged(first, "a batch across shards")),
        }
        piece += 1;
    }
    Intent::decode(id, &bytes)
        .map(Some)
        .ok_or_else(|| damaged(first, "a batch across shards"))
}

/// The changes of the first shard by which a crossing is decided.
pub(crate) struct Decision {
    pub(crate) id: u64,
    before: Log,
    pub(crate) changes: Vec<Change>,
    /// Intents that are kept then.
    pub(crate) open: usize,
}

impl Decision {
    /// Prepares one. `bytes`: the parts; `all`: the shards, each locked or not.
    pub(crate) fn new(
        all: &[Arc<Store>],
        bytes: &[u8],
        shards: Vec<u16>,
        id: u64,
    ) -> Result<Decision> {
        let first = &all[0];
        let before = Log::read(first)?;
        let mut after = before.clone();
        let mut changes = Vec::new();
        after.drop_done(all, &mut changes)?;
        after.last = id;
        after.open.push(Open {
            id,
            len: bytes.len() as u64,
            shards,
        });
        for (n, piece) in bytes.chunks(PIECE_LEN).enumerate() {
            let key = intent_key(id, n as u64);
            changes.push(inner_change(first, &key, Some(piece.to_vec())));
        }
        changes.push(inner_change(first, LOG_KEY, Some(after.encode())));
        Ok(Decision {
            id,
            before,
            open: after.open.len(),
            changes,
        })
    }

    /// The next number.
    pub(crate) fn next_id(first: &Store) -> Result<u64> {
        Ok(Log::read(first)?.last.max(first.decided()) + 1)
    }

    /// Takes back what the disk refused; readers have not seen it.
    pub(crate) fn undo(&self, first: &Store, proof: &mut Proof) -> Result<()> {
        let log = Log {
            last: self.id,
            open: self.before.open.clone(),
        };
        // What was over stays removed; the list must not name it.
        let gone = |open: &Open| {
            let key = intent_key(open.id, 0);
            (self.changes.iter()).any(|change| change.set.is_none() && change.key == key)
        };
        let open = log.open.into_iter().filter(|open| !gone(open)).collect();
        let log = Log { open, ..log };
        let mut changes = vec![inner_change(first, LOG_KEY, Some(log.encode()))];
        for change in &self.changes {
            if change.set.is_some() && change.key != LOG_KEY {
                changes.push(inner_change(first, &change.key, None));
            }
        }
        first.commit_inner(proof, &changes)
    }
}

/// Makes all that several shards have so far durable, side by side: the disk does it in about the time of one.
pub(crate) fn sync_all<'a>(shards: impl Iterator<Item = &'a Store>) -> Result<()> {
    let is_due = |store: &&Store| store.files.header.number(layout::DURABLE_AT) < store.committed();
    let due: Vec<&Store> = shards.filter(is_due).collect();
    let Some((last, others)) = due.split_last() else {
        return Ok(());
    };
    std::thread::scope(|scope| {
        let sync = |store: &'a Store| move || store.sync_log().map(drop);
        // Without a thread the caller does it.
        let begun: Vec<_> = others
            .iter()
            .map(|&store| {
                let thread = std::thread::Builder::new().name("larder-sync".into());
                (store, thread.spawn_scoped(scope, sync(store)))
            })
            .collect();
        let mut done = last.sync_log().map(drop);
        for (store, thread) in begun {
            let one = match thread {
                Ok(thread) => thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                Err(_) => store.sync_log().map(drop),
            };
            done = done.and(one);
        }
        done
    })
}

/// Removes intents whose parts are all durable. Under the first shard's lock.
pub(crate) fn forget_done(all: &[Arc<Store>], proof: &mut Proof) -> Result<()> {
    let first = &all[0];
    let mut log = Log::read(first)?;
    let mut changes = Vec::new();
    log.drop_done(all, &mut changes)?;
    if changes.is_empty() {
        return Ok(());
    }
    changes.push(inner_change(first, LOG_KEY, Some(log.encode())));
    first.commit_inner(proof, &changes)
}

/// Whether some shard may miss a part: a look without a lock.
pub(crate) fn is_anything_missing(all: &[Arc<Store>]) -> Result<bool> {
    let log = Log::read(&all[0])?;
    if all.iter().any(|store| store.crossing() != 0) || all[0].decided() < log.last {
        return Ok(true);
    }
    for (index, store) in all.iter().enumerate() {
        if store.inner(WAITING_KEY)?.is_some() {
            return Ok(true);
        }
        let newest = (log.open.iter())
            .filter(|open| open.shards.contains(&(index as u16)))
            .map(|open| open.id)
            .max();
        if let Some(newest) = newest
            && store.applied()? < newest
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Applies in every shard what it has missed. `all`: locked, in order, by the caller.
pub(crate) fn catch_all_up<S: std::ops::Deref<Target = Store>>(held: &mut [Held<S>]) -> Result<()> {
    let Some((first, others)) = held.split_first_mut() else {
        return Ok(());
    };
    let (store, proof) = first.parts();
    store.catch_up(proof, store, 0)?;
    for (n, other) in others.iter_mut().enumerate() {
        let (other, proof) = other.parts();
        other.catch_up(proof, store, n as u16 + 1)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_intents_comes_back_and_no_cut_is_taken_for_one() {
        let log = Log {
            last: 7,
            open: vec![
                Open {
                    id: 6,
                    len: 100,
                    shards: vec![0, 3],
                },
                Open {
                    id: 7,
                    len: 1,
                    shards: vec![2],
                },
            ],
        };
        let bytes = log.encode();
        assert_eq!(Log::decode(&bytes), Some(log));
        let ends = [8, 8 + 8 + 8 + 2 + 4];
        for len in (0..bytes.len()).filter(|len| !ends.contains(len)) {
            assert_eq!(Log::decode(&bytes[..len]), None, "{len} bytes");
        }
    }
}
