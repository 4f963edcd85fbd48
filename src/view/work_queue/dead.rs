//! Dead letters: jobs that were given up, with their payloads and what went wrong; and clearing.
//!
//! A dead job's payload stays where it is; its grave says that nobody is to have it.

use std::time::SystemTime;

use crate::error::Result;
use crate::view::prepare;
use crate::view::state;
use crate::view::value::Value;
use crate::view::work_queue::core::Core;
use crate::view::work_queue::note::{Grave, Note, id_key, id_of};

/// Jobs changed as one batch.
const JOBS_PER_BATCH: usize = 128;

/// A job that was delivered as often as it may be, and never acked.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct DeadLetter<T> {
    /// The job's number.
    pub id: u64,
    /// What was pushed.
    pub payload: T,
    /// How often it was delivered.
    pub attempts: u32,
    /// The priority it was pushed with.
    pub priority: i32,
    /// Why the last delivery came to nothing; empty when nobody said.
    pub error: String,
    /// When it was given up.
    pub died_at: SystemTime,
}

impl Core {
    /// Dead letters, oldest first. Whose payload is gone meanwhile is left out.
    pub(super) fn graves(&self) -> Result<impl Iterator<Item = Result<DeadLetter<Value>>> + use<>> {
        let jobs = self.jobs.clone();
        Ok(self.dead.iter()?.filter_map(move |item| {
            let (key, value) = match item {
                Ok(item) => item,
                Err(error) => return Some(Err(error)),
            };
            let (id, grave) = (id_of(&key)?, Grave::decode(&value)?);
            let payload = match jobs.get_quietly(&key) {
                Ok(payload) => payload?,
                Err(error) => return Some(Err(error)),
            };
            Some(Ok(DeadLetter {
                id,
                payload,
                attempts: grave.attempts,
                priority: grave.priority,
                error: grave.error,
                died_at: prepare::time(grave.died_ms),
            }))
        }))
    }

    /// Puts dead jobs back where they were in the order, never delivered. How many.
    pub(super) fn requeue_dead(&self) -> Result<u64> {
        self.each_grave(|core, key| {
            core.jobs.transact(|tx| {
                let inside = core.inside(tx);
                let (Some(id), Some(value)) = (id_of(key), inside.dead.pop(key)?) else {
                    return Ok(false);
                };
                let grave = Grave::decode(&value);
                if !inside.jobs.contains(key)? {
                    return Ok(false);
                }
                let note = Note {
                    order: grave.as_ref().map_or(0, |grave| grave.order),
                    error: grave
                        .as_ref()
                        .map(|grave| grave.error.clone())
                        .unwrap_or_default(),
                    ..Note::waiting(grave.map_or(0, |grave| grave.priority), 0, None)
                };
                inside.put_note(id, &note)?;
                tx.ring(core.bell);
                Ok(true)
            })
        })
    }

    /// Removes dead jobs for good. How many.
    pub(super) fn clear_dead(&self) -> Result<u64> {
        self.each_grave(|core, key| {
            core.jobs.transact(|tx| {
                let inside = core.inside(tx);
                let was_there = inside.dead.delete(key)?;
                if was_there {
                    inside.jobs.delete(key)?;
                }
                Ok(was_there)
            })
        })
    }

    /// Does `work`, which joins a transaction, for each dead job there is now; some at a time.
    fn each_grave(&self, work: impl Fn(&Core, &[u8]) -> Result<bool>) -> Result<u64> {
        let store = self.store()?;
        let keys: Vec<Vec<u8>> = match self.dead.inside()? {
            Some(tx) => tx.iter()?.map(|item| Ok(item?.0)).collect::<Result<_>>()?,
            None => self.dead.keys()?.collect::<Result<_>>()?,
        };
        let batch = match state::is_inside(store) {
            true => keys.len().max(1),
            false => JOBS_PER_BATCH,
        };
        let mut count = 0;
        for keys in keys.chunks(batch) {
            count += self.jobs.transact(|_| {
                let mut count = 0;
                for key in keys {
                    count += u64::from(work(self, key)?);
                }
                Ok(count)
            })?;
        }
        Ok(count)
    }

    /// Removes every job that was there when it began, in whatever state. How many.
    pub(super) fn clear(&self) -> Result<u64> {
        let store = self.store()?;
        self.outside(store, "clear a queue")?;
        let removed = self.jobs.clear()?;
        // What is said of jobs that are gone; a job pushed meanwhile keeps its note.
        for space in [&self.notes, &self.dead] {
            let keys: Vec<Vec<u8>> = space.keys()?.collect::<Result<_>>()?;
            for keys in keys.chunks(JOBS_PER_BATCH) {
                self.jobs.transact(|tx| {
                    let (jobs, there) = (tx.of(&self.jobs), tx.of(space));
                    for key in keys {
                        let id = match id_of(key) {
                            Some(id) => Some(id),
                            None => there.get(key)?.and_then(|value| id_of(&value)),
                        };
                        if let Some(id) = id
                            && !jobs.contains(id_key(id))?
                        {
                            there.delete(key)?;
                        }
                    }
                    Ok(())
                })?;
            }
        }
        Ok(removed)
    }
}
