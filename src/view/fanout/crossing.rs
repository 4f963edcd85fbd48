//! Batches across shards, from the caller's closure to the last part.
//!
//! Holds: locks are taken by index, the first shard's always, and kept until each part is applied. What
//! is on disk when is `engine/crossing.rs`'s.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use crate::engine::crossing::{self, Decision, OUTSTANDING_MAX, RETIRED};
use crate::engine::intent;
use crate::engine::store::{MAIN_SPACE, Store};
use crate::error::{Error, Result};
use crate::limits::BATCH_BYTES_MAX;
use crate::view::fanout::transaction::FanoutTransaction;
use crate::view::fanout::{Fanout, step};
use crate::view::options::SetOptions;
use crate::view::prepare;
use crate::view::state::{self, State};
use crate::view::transaction::Transaction;

/// What upkeep may log beside a part before it is applied.
const SLACK_BYTES: u64 = 4096;

/// Why a batch across shards did not come about.
struct Refused {
    error: Error,
    /// It may have been decided all the same.
    is_open: bool,
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Refused {
            error,
            is_open: false,
        }
    }
}

impl Fanout {
    /// Runs `work` as one change, whatever shards its keys are in: all of it happens or, on an error or
    /// panic, nothing does; for readers in every process, after SIGKILL and after power loss.
    ///
    /// As [`Cache::transact`](crate::Cache::transact). Holds the writer locks of all shards throughout. When
    /// more than one shard was changed it is durable when it returns, whatever `durability` is.
    ///
    /// At most 256 MiB in all, and in each shard a quarter of its part of `size_limit_bytes`, 64 new large
    /// values and 128 replaced ones. A value must fit into its shard's part as it is: inside, no shard
    /// takes more from others.
    ///
    /// # Errors
    /// What `work` returns; see [`Fanout`]. Nothing was changed then. When the disk refused the sync that
    /// decides, [`Error::Io`]: nothing was changed for this boot's processes; after a power loss all of it
    /// may be there, or nothing.
    pub fn transact<T>(&self, work: impl FnOnce(&FanoutTransaction) -> Result<T>) -> Result<T> {
        let stores = self.stores()?;
        let open: Vec<_> = stores.iter().filter_map(state::current).collect();
        if open.len() == stores.len() {
            let parts = open.into_iter().map(|state| Transaction {
                state,
                space: MAIN_SPACE,
            });
            return work(&FanoutTransaction::new(self.core.layout, parts.collect()));
        }
        if !open.is_empty() {
            let what = "this thread is inside transact on one shard of this store".into();
            return Err(Error::Aborted { what });
        }
        let all: Vec<usize> = (0..stores.len()).collect();
        let states = self.begin(&all)?.into_iter();
        let states: Vec<Rc<RefCell<State>>> = states
            .map(|(_, state)| Rc::new(RefCell::new(state)))
            .collect();
        let parts = states.iter().map(|state| Transaction {
            state: Rc::clone(state),
            space: MAIN_SPACE,
        });
        let transaction = FanoutTransaction::new(self.core.layout, parts.collect());
        let done = {
            let entered = stores.iter().zip(&states);
            let _entered: Vec<_> = entered
                .map(|(store, state)| state::Entered::new(store, state))
                .collect();
            work(&transaction)
        };
        drop(transaction);
        let mut whole = Vec::with_capacity(states.len());
        for (index, state) in states.into_iter().enumerate() {
            let Ok(state) = Rc::try_unwrap(state) else {
                return Err(Error::Aborted {
                    what: "the transaction is still borrowed after its closure returned".into(),
                });
            };
            whole.push((index, state.into_inner()));
        }
        let value = done?;
        self.commit(whole)?;
        Ok(value)
    }

    /// Stores several values as one batch, whatever shards they are in. How many.
    ///
    /// As [`Cache::set_many`](crate::Cache::set_many); over several shards as [`Fanout::transact`].
    ///
    /// # Errors
    /// As [`Fanout::transact`].
    pub fn set_many<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &self,
        items: impl IntoIterator<Item = (K, V)>,
        options: &SetOptions,
    ) -> Result<u64> {
        let items: Vec<(K, V)> = items.into_iter().collect();
        let Some((first, _)) = items.first() else {
            return Ok(0);
        };
        let index = self.shard_of(first.as_ref());
        if items
            .iter()
            .all(|(key, _)| self.shard_of(key.as_ref()) == index)
        {
            let pairs = || {
                items
                    .iter()
                    .map(|(key, value)| (key.as_ref(), value.as_ref()))
            };
            return self.write(index, |shard| shard.set_many(pairs(), options));
        }
        let stores = self.stores()?;
        if stores.iter().any(state::is_inside) {
            return self.transact(|tx| {
                for (key, value) in &items {
                    tx.set_with(key, value, options)?;
                }
                Ok(items.len() as u64)
            });
        }
        // Values are compressed, and large ones streamed, before the locks are taken.
        let mut prepared = Vec::with_capacity(items.len());
        let mut wanted = vec![0];
        for (key, value) in &items {
            prepare::check_key(key.as_ref())?;
            let index = self.shard_of(key.as_ref());
            let store = &stores[index];
            store.may_write()?;
            let prepare = || prepare::bytes(store, value.as_ref(), options, store.now_ms());
            prepared.push(match prepare() {
                Err(error) if self.may_grow(index, &error)? => prepare()?,
                done => done?,
            });
            wanted.push(index);
        }
        wanted.sort_unstable();
        wanted.dedup();
        let mut states = self.begin(&wanted)?;
        for ((key, _), prepared) in items.iter().zip(prepared) {
            let index = self.shard_of(key.as_ref());
            if let Ok(at) = wanted.binary_search(&index) {
                states[at]
                    .1
                    .set(MAIN_SPACE, key.as_ref(), prepared, options)?;
            }
        }
        self.commit(states)?;
        Ok(items.len() as u64)
    }

    /// Takes the locks of shards, which are given in ascending order and begin with the first.
    pub(super) fn begin(&self, wanted: &[usize]) -> Result<Vec<(usize, State)>> {
        let timeout = self.patience()?;
        let mut states: Vec<(usize, State)> = Vec::with_capacity(wanted.len());
        for &index in wanted {
            let store = Arc::clone(self.store(index)?);
            store.may_write()?;
            let mut held = Store::lock_sibling(Arc::clone(&store), timeout)?;
            if store.crossing() != 0 {
                let (_, proof) = held.parts();
                match states.first_mut() {
                    None => store.catch_up(proof, &store, 0)?,
                    Some((_, first)) => store.catch_up(proof, first.held().0, index as u16)?,
                }
            }
            states.push((index, State::over(&store, held)));
        }
        Ok(states)
    }

    /// Makes all changes happen: in one shard as an ordinary transaction, in several as a crossing.
    fn commit(&self, mut states: Vec<(usize, State)>) -> Result<()> {
        // In a child of a fork they are its parent's: it marks no shard.
        states
            .iter()
            .try_for_each(|(_, state)| state.check_fork())?;
        let stores = self.stores()?;
        let changed: Vec<usize> = (states.iter())
            .filter(|(_, state)| !state.changes().is_empty())
            .map(|(index, _)| *index)
            .collect();
        match changed.as_slice() {
            [] => Ok(()),
            &[index] => {
                states.retain(|(other, _)| *other == index);
                for (_, state) in states {
                    state.commit()?;
                }
                let shard = self.at(index)?;
                shard.finish(shard.store()?)?;
                self.balance(index);
                Ok(())
            }
            _ => {
                let is_long = self.cross(states, &changed)?;
                // It has happened: what fails now is met again by the next writer.
                if is_long {
                    // Some shard's part waits for its next writer: that is us, or the list grew for ever.
                    for index in 0..self.shards.len() {
                        let _ = self
                            .settled(index)
                            .and_then(|shard| shard.store()?.sync_log());
                    }
                }
                for index in changed {
                    stores[index].tidy();
                    self.balance(index);
                }
                Ok(())
            }
        }
    }

    /// Whether many intents wait.
    fn cross(&self, mut states: Vec<(usize, State)>, changed: &[usize]) -> Result<bool> {
        let stores = self.stores()?;
        let id = Decision::next_id(&stores[0])?;
        for &index in changed {
            stores[index].set_crossing(id);
            step();
        }
        let is_long = match self.decide(&mut states, changed, &stores, id) {
            Ok(is_long) => is_long,
            Err(refused) => {
                for (index, state) in &mut states {
                    let (store, proof) = state.held();
                    // Nobody saw a thing. What cannot be taken back now is by the next holder of the lock,
                    // and so is what may have been decided all the same.
                    if changed.contains(index)
                        && !refused.is_open
                        && !store.is_halfway()
                        && store.forget_waiting(proof).is_ok()
                    {
                        store.set_crossing(0);
                    }
                }
                return Err(refused.error);
            }
        };
        // It has happened: readers see it. A part that fails now is applied by the next holder of its lock.
        for (index, state) in &mut states {
            if changed.contains(index) && Self::apply(state, id).is_ok() {
                step();
                stores[*index].set_crossing(0);
                step();
            }
        }
        Ok(is_long)
    }

    fn apply(state: &mut State, id: u64) -> Result<()> {
        for change in state.store.end_of_part(id)? {
            state.add(change);
        }
        state.commit_held()
    }

    /// All that may be refused; at its end the batch has happened.
    fn decide(
        &self,
        states: &mut [(usize, State)],
        changed: &[usize],
        stores: &[Arc<Store>],
        id: u64,
    ) -> Result<bool, Refused> {
        let mut bytes = Vec::new();
        for (index, state) in states
            .iter_mut()
            .filter(|(index, _)| changed.contains(index))
        {
            // Their files are the store's before the intent names them.
            state.hand_over_files(|store, changes, files| store.waiting(id, changes, files))?;
            step();
            intent::encode_part(*index as u16, state.changes(), &mut bytes);
            if bytes.len() as u64 > BATCH_BYTES_MAX {
                let error = Error::TooLarge {
                    what: "a batch across shards (bytes)",
                    bytes: bytes.len() as u64,
                    max_bytes: BATCH_BYTES_MAX,
                };
                return Err(error.into());
            }
            if *index != 0 {
                let end = state.store.end_of_part(id)?;
                state.foresee(&end, SLACK_BYTES)?;
            }
        }
        // What came before the batch is durable before it is: a prefix stays one.
        let others = changed.iter().filter(|&&index| index != 0);
        crossing::sync_all(others.map(|&index| &*stores[index]))?;
        step();
        let shards = changed.iter().map(|&index| index as u16).collect();
        let decision = Decision::new(stores, &bytes, shards, id)?;
        let Some((_, first)) = states.first_mut() else {
            return Ok(false);
        };
        let mut more = decision.changes.clone();
        if changed.contains(&0) {
            more.extend(first.store.end_of_part(id)?);
        }
        first.foresee(&more, SLACK_BYTES)?;
        drop(more);
        step();
        let (store, proof) = first.held();
        store
            .commit_inner(proof, &decision.changes)
            .map_err(|error| Refused {
                // Its records may be decided and wait for the next holder of the lock.
                is_open: store.is_halfway()
                    || Decision::next_id(store).map_or(true, |next| next > id),
                error,
            })?;
        step();
        if let Err(error) = store.sync_log() {
            let is_open = decision.undo(store, proof).is_err();
            return Err(Refused { error, is_open });
        }
        step();
        store.decide_crossing(id);
        step();
        Ok(decision.open > OUTSTANDING_MAX)
    }

    /// The store, unless this thread is in a transaction on it, or it is read alone.
    pub(super) fn writable(&self) -> Result<()> {
        for index in 0..self.shards.len() {
            let shard = self.at(index)?;
            if shard.writable()?.crossing() == RETIRED {
                return Err(self.moved());
            }
        }
        Ok(())
    }
}
