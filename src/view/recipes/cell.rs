//! One entry looked at and changed under one taking of the writer lock: what locks are made of.
//!
//! Owns that step. Its changes are in the log like all others, but nobody waits for the disk: what they
//! tell (who holds a lock now) is void after a power loss.

use std::sync::Arc;

use crate::engine::ledger::Replaced;
use crate::engine::read::Found;
use crate::engine::store::{Proof, Store};
use crate::engine::sync;
use crate::error::{Error, Result};
use crate::format::record::{Draft, Kind};
use crate::part::shared::setting;
use crate::view::cache::Cache;
use crate::view::state;

/// What becomes of an entry.
pub(super) enum Next {
    Keep,
    Put(Vec<u8>),
    /// What is left of it, now that something was given back: also where the store is full.
    PutLess(Vec<u8>),
    /// It goes by itself some time after this moment, ms since 1970; until then it is there.
    PutUntil(Vec<u8>, u64),
    Delete,
}

impl Cache {
    /// Changes an entry by what it is. `decide` gets its bytes and a number higher than that of every
    /// change before; it may be asked again where room had to be made.
    ///
    /// Within a transaction it happens at once, whatever becomes of that.
    pub(super) fn change<T>(
        &self,
        key: &[u8],
        decide: impl Fn(Option<&[u8]>, u64) -> Result<(Next, T)>,
    ) -> Result<T> {
        let store = self.store_to_change()?;
        if let Some(state) = state::current(store) {
            let mut state = state.try_borrow_mut().map_err(|_| Error::Aborted {
                what: "the transaction of this thread is in the middle of a verb".into(),
            })?;
            return state.beneath(|store, proof| change(store, proof, self.space, key, &decide));
        }
        let done = self.with_way(store, || {
            sync::locked(store, self.patience(store), |store, proof| {
                change(store, proof, self.space, key, &decide)
            })
        })?;
        if store.files.header.setting(setting::DURABILITY) == 1 {
            self.start_syncing()?;
        }
        store.tidy();
        Ok(done)
    }

    /// The bytes of an entry of a view that never expires and never has a file of its own; no lock.
    pub(super) fn peek_at(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let store = self.store()?;
        let mut buffer = Vec::new();
        let hash = store.hash.of(self.space, key);
        let hit = store.find(self.space, key, hash, &mut buffer)?;
        Ok(hit.map(|hit| hit.value(&buffer).to_vec()))
    }

    /// The store, unless this thread is in a transaction on it: it holds the lock others need to end
    /// what is waited for.
    pub(super) fn outside(&self, what: &str) -> Result<&Arc<Store>> {
        let store = self.store()?;
        if state::is_inside(store) {
            let what = format!(
                "{what} waits for others, who cannot change anything while this thread is inside transact: \
                 take it before"
            );
            return Err(Error::Aborted { what });
        }
        Ok(store)
    }
}

fn change<T>(
    store: &Store,
    proof: &mut Proof,
    space: u32,
    key: &[u8],
    decide: &impl Fn(Option<&[u8]>, u64) -> Result<(Next, T)>,
) -> Result<T> {
    let mut buffer = std::mem::take(&mut proof.old);
    let done = change_found(store, proof, space, key, decide, &mut buffer);
    if proof.old.capacity() < buffer.capacity() {
        proof.old = buffer;
    }
    done
}

fn change_found<T>(
    store: &Store,
    proof: &mut Proof,
    space: u32,
    key: &[u8],
    decide: &impl Fn(Option<&[u8]>, u64) -> Result<(Next, T)>,
    buffer: &mut Vec<u8>,
) -> Result<T> {
    let hash = store.hash.of(space, key);
    let hit = match store.find_to_write(space, key, hash, buffer)? {
        Found::Entry(hit) => Some(hit),
        Found::Nothing => None,
        Found::Damaged(_) => {
            let what = "the state of a lock is damaged: repair the store, which lets go of it";
            return Err(Error::corrupt(store.dir.path(), 0, what));
        }
    };
    let old = hit.as_ref().map(|hit| hit.value(buffer));
    let (next, answer) = decide(old, store.committed() + 1)?;
    let draft = Draft {
        space,
        key,
        ..store.blank_draft()
    };
    match (next, hit) {
        (Next::Keep, _) | (Next::Delete, None) => {}
        (Next::Put(value), _) => {
            let draft = Draft {
                value: &value,
                ..draft
            };
            store.put(proof, hash, &draft, &[])?;
        }
        (Next::PutLess(value), _) => {
            let draft = Draft {
                value: &value,
                ..draft
            };
            let before = std::mem::replace(&mut proof.in_reserve, true);
            let done = store.put(proof, hash, &draft, &[]);
            proof.in_reserve = before;
            done?;
        }
        (Next::PutUntil(value, expires_ms), _) => {
            let draft = Draft {
                value: &value,
                expires_ms: Some(expires_ms),
                ..draft
            };
            store.put(proof, hash, &draft, &[])?;
        }
        (Next::Delete, Some(hit)) => {
            let draft = Draft {
                kind: Kind::Delete,
                ..draft
            };
            let old = Some(Replaced::of(&hit));
            store.remove(proof, hash, &draft, old, hit.address())?;
        }
    }
    Ok(answer)
}
