//! A lock of whatever kind: its entry, how it is taken, waited for and given back.
//!
//! Holds: what is dead or over counts as free; a holder's death is asked about off the writer lock. Never
//! decides who may have what (`grants`), or how long somebody sleeps (`turn`).

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::engine::holder::Holder;
use crate::error::{Error, Result};
use crate::part::bell::Bell;
use crate::view::cache::Cache;
use crate::view::prepare;
use crate::view::recipes::cell::Next;
use crate::view::recipes::grants::{self, Answer, Ask, Grant, Way};
use crate::view::recipes::turn::{Turn, Turned};
use crate::view::space::NAME_LEN_MAX;

/// Ids of guards and threads, unique in this process.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// An id nobody in this process has had.
pub(super) fn new_id() -> u64 {
    NEXT_ID.fetch_add(1, Ordering::Relaxed)
}

thread_local! {
    static ID: Cell<u64> = Cell::new(new_id());
}

/// This thread's own id.
pub(super) fn thread_id() -> u64 {
    ID.get()
}

/// This thread goes by an id of `new_id` from now on: what was taken for it is its own.
pub(super) fn be_known_as(id: u64) {
    ID.set(id);
}

/// Where a lock is.
#[derive(Clone, Debug)]
pub(super) struct Site {
    pub(super) cache: Cache,
    pub(super) key: Arc<[u8]>,
    /// What errors call it.
    pub(super) what: &'static str,
}

/// What waiting came to.
pub(super) enum Got<T> {
    /// The lock, with its token.
    Lock(u64),
    /// What makes the lock needless.
    Instead(T),
}

/// What a look without the writer lock found.
pub(super) struct Look {
    pub(super) is_free: bool,
    pub(super) has_place: bool,
    pub(super) dead: Vec<Holder>,
    /// Somebody who has it, when it is not free.
    pub(super) by: Option<Grant>,
    /// When the first of those who have it is over.
    pub(super) over_in: Option<Duration>,
}

impl Site {
    /// The lock of this name. `letter` tells kinds of locks apart.
    pub(super) fn new(cache: &Cache, letter: u8, name: &[u8], what: &'static str) -> Result<Site> {
        if name.len() > NAME_LEN_MAX {
            return Err(Error::TooLarge {
                what: "the name of a lock (bytes)",
                bytes: name.len() as u64,
                max_bytes: NAME_LEN_MAX as u64,
            });
        }
        let mut key = Vec::with_capacity(1 + name.len());
        key.push(letter);
        key.extend_from_slice(name);
        let cache = cache.space("locks", b"")?;
        Ok(Site {
            cache,
            key: key.into(),
            what,
        })
    }

    pub(super) fn bell(&self) -> Result<Bell> {
        self.cache.bell(&self.key)
    }

    /// A wish of this handle.
    pub(super) fn ask(&self, id: u64, way: Way, expiry: Option<Duration>) -> Result<Ask> {
        Ok(Ask {
            holder: self.cache.store()?.holder(),
            id,
            way,
            expiry_ms: expiry.map(|expiry| expiry.as_millis().min(u128::from(u64::MAX)) as u64),
            again: false,
            keeps_place: true,
        })
    }

    /// All grants there are, living or not.
    pub(super) fn grants(&self) -> Result<Vec<Grant>> {
        match self.cache.peek_at(&self.key)? {
            Some(bytes) => self.decode(&bytes),
            None => Ok(Vec::new()),
        }
    }

    /// Those who have it now, and live.
    pub(super) fn holding(&self) -> Result<Vec<Grant>> {
        let mut grants = self.grants()?;
        let store = self.cache.store()?;
        let now_ms = store.now_ms();
        let mut live = Vec::with_capacity(grants.len());
        for grant in grants.drain(..) {
            let counts = !grant.waits() && grant.expires_ms > now_ms;
            if counts && store.is_alive(&grant.holder)? {
                live.push(grant);
            }
        }
        Ok(live)
    }

    pub(super) fn decode(&self, bytes: &[u8]) -> Result<Vec<Grant>> {
        grants::decode(bytes).ok_or_else(|| {
            let what = format!("the state of {} is not one of this version", self.what);
            Error::corrupt(self.cache.path(), 0, what)
        })
    }

    /// Takes it if it is free but for the dead; one short step under the writer lock.
    pub(super) fn take(&self, ask: &Ask, dead: &[Holder], keeps_place: bool) -> Result<Answer> {
        let store = self.cache.store()?;
        let (answer, others_wait) = self.cache.change(&self.key, |old, token| {
            // Its time begins when it is had, however long the writer lock was waited for.
            let now_ms = store.now_ms();
            let mut all = match old {
                Some(bytes) => self.decode(bytes)?,
                None => Vec::new(),
            };
            grants::retain_live(&mut all, now_ms, dead);
            let answer = grants::decide(&mut all, ask, now_ms, token, keeps_place);
            let others_wait = all.iter().any(Grant::waits);
            let next = match answer {
                Answer::No => Next::Keep,
                _ => Next::Put(grants::encode(&all)),
            };
            Ok((next, (answer, others_wait)))
        })?;
        let is_shared = ask.way != Way::Alone;
        if is_shared && others_wait && matches!(answer, Answer::Had { .. }) {
            // Whoever is first now may have it beside this one.
            self.ring()?;
        }
        Ok(answer)
    }

    /// Takes it if it is free, without waiting. Its token.
    pub(super) fn try_take(&self, ask: &Ask) -> Result<Option<u64>> {
        match self.take(ask, &[], false)? {
            Answer::Had { token } => Ok(Some(token)),
            _ => self.take_if_free(ask),
        }
    }

    /// The same, without the writer lock where it is not free.
    pub(super) fn take_if_free(&self, ask: &Ask) -> Result<Option<u64>> {
        let look = self.look(ask)?;
        if !look.is_free {
            return Ok(None);
        }
        match self.take(ask, &look.dead, false)? {
            Answer::Had { token } => Ok(Some(token)),
            _ => Ok(None),
        }
    }

    /// Waits until it is had, or `instead` has something better; `None`: for as long as it takes.
    ///
    /// # Errors
    /// [`Error::Busy`] after `timeout`; nothing of the wish is left behind.
    pub(super) fn wait<T>(
        &self,
        ask: &Ask,
        timeout: Option<Duration>,
        mut instead: impl FnMut() -> Result<Option<T>>,
    ) -> Result<Got<T>> {
        if let Answer::Had { token } = self.take(ask, &[], false)? {
            return Ok(Got::Lock(token));
        }
        let mut turn = Turn::new(self, ask, timeout);
        loop {
            let store = self.cache.store()?;
            let bell = self.bell()?;
            let rung = bell.rung(&store.files.header);
            if let Some(better) = instead()? {
                return Ok(Got::Instead(better));
            }
            let time = match turn.look()? {
                Turned::Had(token) => return Ok(Got::Lock(token)),
                Turned::Again => continue,
                Turned::Sleep(time) => time,
            };
            bell.wait(&store.files.header, rung, time);
        }
    }

    /// Looks, and asks about who is in the way. No lock.
    pub(super) fn look(&self, ask: &Ask) -> Result<Look> {
        let store = self.cache.store()?;
        let now_ms = store.now_ms();
        let mut all = self.grants()?;
        grants::retain_live(&mut all, now_ms, &[]);
        let mut asked: Vec<Holder> = Vec::new();
        let mut dead = Vec::new();
        for grant in &all {
            if !asked.contains(&grant.holder) {
                asked.push(grant.holder);
                if !store.is_alive(&grant.holder)? {
                    dead.push(grant.holder);
                }
            }
        }
        grants::retain_live(&mut all, now_ms, &dead);
        let had = || all.iter().filter(|grant| !grant.waits());
        let by = had().next().copied();
        let over_ms = had().map(|grant| grant.expires_ms - now_ms).min();
        let has_place = all
            .iter()
            .any(|grant| grant.waits() && grant.is_of(&ask.holder, ask.id));
        let answer = grants::decide(&mut all, ask, now_ms, 0, false);
        Ok(Look {
            is_free: matches!(answer, Answer::Had { .. }),
            has_place,
            dead,
            by,
            over_in: over_ms.map(Duration::from_millis),
        })
    }

    /// Gives back what this handle has by `token` (and `id`, where it is known).
    ///
    /// # Errors
    /// [`Error::NotHeld`]: it has it no more; nothing was changed, but that one whose time is over is
    /// forgotten.
    pub(super) fn give_back(&self, id: Option<u64>, token: u64) -> Result<()> {
        let store = self.cache.store()?;
        let (holder, now_ms) = (store.holder(), store.now_ms());
        let held = self.cache.change(&self.key, |old, _| {
            let mut all = match old {
                Some(bytes) => self.decode(bytes)?,
                None => Vec::new(),
            };
            let Some(at) = find(&all, &holder, id, token) else {
                return Ok((Next::Keep, false));
            };
            let is_over = all[at].expires_ms <= now_ms;
            all[at].times = all[at].times.saturating_sub(1);
            if all[at].times == 0 || is_over {
                all.remove(at);
            }
            let next = match all.is_empty() {
                true => Next::Delete,
                false => Next::PutLess(grants::encode(&all)),
            };
            Ok((next, !is_over))
        })?;
        self.ring()?;
        if held {
            return Ok(());
        }
        Err(self.not_held(token))
    }

    /// Gives what is held by `token` another time to expire at, counted from now.
    pub(super) fn extend(&self, id: u64, token: u64, expiry: Option<Duration>) -> Result<()> {
        let store = self.cache.store()?;
        let holder = store.holder();
        let held = self.cache.change(&self.key, |old, _| {
            let now_ms = store.now_ms();
            let mut all = match old {
                Some(bytes) => self.decode(bytes)?,
                None => Vec::new(),
            };
            match find(&all, &holder, Some(id), token) {
                Some(at) if all[at].expires_ms > now_ms => {
                    all[at].expires_ms = prepare::at_ms(
                        expiry.map_or(crate::Expiry::Never, crate::Expiry::After),
                        now_ms,
                    )
                    .unwrap_or(u64::MAX);
                    Ok((Next::Put(grants::encode(&all)), true))
                }
                _ => Ok((Next::Keep, false)),
            }
        })?;
        if held {
            return Ok(());
        }
        Err(self.not_held(token))
    }

    /// Whether this handle has it by `token`, and its time is not over.
    pub(super) fn is_held(&self, id: u64, token: u64) -> Result<bool> {
        let store = self.cache.store()?;
        let all = self.grants()?;
        let at = find(&all, &store.holder(), Some(id), token);
        Ok(at.is_some_and(|at| all[at].expires_ms > store.now_ms()))
    }

    pub(super) fn ring(&self) -> Result<()> {
        self.bell()?.ring(&self.cache.store()?.files.header);
        Ok(())
    }

    fn not_held(&self, token: u64) -> Error {
        let name = self.key[1..].escape_ascii().to_string();
        let why = match self.holding().ok().and_then(|all| all.first().copied()) {
            Some(other) => format!(
                "its time was over or it was given back before; process {} has it now, with token {}",
                other.holder.pid, other.token
            ),
            None => "its time was over or it was given back before".to_owned(),
        };
        Error::NotHeld {
            what: self.what,
            name,
            token,
            why,
        }
    }
}

fn find(all: &[Grant], holder: &Holder, id: Option<u64>, token: u64) -> Option<usize> {
    all.iter().position(|grant| {
        !grant.waits()
            && grant.token == token
            && grant.holder == *holder
            && id.is_none_or(|id| grant.id == id)
    })
}
