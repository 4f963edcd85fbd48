//! Single flight: of all who want one thing made, one makes it while the others wait.
//!
//! Owns who makes it, and how what was made is stored: together with the end of the flight, and not at
//! all when the flight was ended by others meanwhile. Never knows what is made.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::view::cache::Cache;
use crate::view::options::SetOptions;
use crate::view::prepare;
use crate::view::recipes::grants::{Ask, Grant, Way};
use crate::view::recipes::guard::Guard;
use crate::view::recipes::site::{Got, Site};

const LETTER: u8 = b'f';
/// Who has had a flight for less is taken to live.
const YOUNG_MS: u64 = 50;

/// The right to make the value of one key.
pub(super) struct Flight(Guard);

/// Where the flights of one key are.
pub(super) struct Flights {
    site: Site,
}

impl Flights {
    /// Of a key in the cache's space. Two keys of one hash wait for each other, and are right all the
    /// same: each looks for its own value.
    pub(super) fn of(cache: &Cache, key: &[u8]) -> Result<Flights> {
        prepare::check_key(key)?;
        let mut name = cache.space.to_le_bytes().to_vec();
        let hash = cache.store()?.hash.of(cache.space, key);
        name.extend_from_slice(&hash.to_le_bytes());
        let site = Site::new(cache, LETTER, &name, "the value being made")?;
        Ok(Flights { site })
    }

    /// Of a name of its own, without a key.
    pub(super) fn named(
        cache: &Cache,
        letter: u8,
        name: &[u8],
        what: &'static str,
    ) -> Result<Self> {
        let site = Site::new(cache, letter, name, what)?;
        Ok(Flights { site })
    }

    /// The flight, if nobody has it: for this thread, or by an id of its own for any. The writer lock is
    /// taken only where it may be had.
    pub(super) fn try_take(&self, id: u64) -> Result<Option<Flight>> {
        let now_ms = self.site.cache.store()?.now_ms();
        // One that began just now is not asked about: its death is found soon enough.
        let is_young = |grant: &Grant| now_ms.abs_diff(grant.since_ms) < YOUNG_MS;
        if self.site.grants()?.iter().any(is_young) {
            return Ok(None);
        }
        let ask = self.ask(id)?;
        let token = self.site.take_if_free(&ask)?;
        Ok(token.map(|token| Flight(Guard::new(&self.site, ask.id, token))))
    }

    /// Waits for the flight, for the thread or task `id`, or for what makes it needless.
    ///
    /// # Errors
    /// [`Error::Busy`] after `timeout`; [`Error::Aborted`] when `id` itself has it: it would wait
    /// for itself.
    pub(super) fn wait<T>(
        &self,
        id: u64,
        timeout: Option<Duration>,
        mut instead: impl FnMut() -> Result<Option<T>>,
    ) -> Result<Result<T, Flight>> {
        let ask = self.ask(id)?;
        let got = self.site.wait(&ask, timeout, || {
            if let Some(better) = instead()? {
                return Ok(Some(better));
            }
            let grants = self.site.grants()?;
            if grants.iter().any(|grant| is_own(grant, &ask)) {
                let what =
                    "a function asks for the very value it is to make, and would wait for itself";
                return Err(Error::Aborted { what: what.into() });
            }
            Ok(None)
        })?;
        Ok(match got {
            Got::Instead(better) => Ok(better),
            Got::Lock(token) => Err(Flight(Guard::new(&self.site, ask.id, token))),
        })
    }

    /// Ends whatever flight there is: what it makes is given to who asked, and not stored. Inside a
    /// transaction, with it.
    pub(super) fn end(&self) -> Result<()> {
        let bell = self.site.bell()?;
        self.site.cache.transact(|tx| {
            if tx.delete(&self.site.key)? {
                tx.ring(bell);
            }
            Ok(())
        })
    }

    fn ask(&self, id: u64) -> Result<Ask> {
        let ask = self.site.ask(id, Way::Alone, None)?;
        // Whoever comes first: all want the same.
        Ok(Ask {
            keeps_place: false,
            ..ask
        })
    }
}

fn is_own(grant: &Grant, ask: &Ask) -> bool {
    !grant.waits() && grant.is_of(&ask.holder, ask.id)
}

/// Stores what was made in these flights as one change, and ends them. A flight that others ended
/// leaves nothing.
pub(super) fn land(
    cache: &Cache,
    made: Vec<(Flight, &[u8], Vec<u8>)>,
    options: &SetOptions,
) -> Result<()> {
    let store = cache.store_to_change()?;
    let now_ms = store.now_ms();
    let mut prepared = Vec::with_capacity(made.len());
    for (_, _, value) in &made {
        prepared.push(prepare::bytes(store, value, options, now_ms)?);
    }
    cache.transact(|tx| {
        for ((Flight(guard), key, _), prepared) in made.iter().zip(prepared) {
            let site = guard.site();
            let locks = tx.of(&site.cache);
            let grants = match locks.get(&site.key)? {
                Some(bytes) => site.decode(&bytes)?,
                None => continue,
            };
            let holder = site.cache.store()?.holder();
            let is_ours = |grant: &Grant| {
                grant.token == guard.token() && grant.is_of(&holder, guard.id()) && !grant.waits()
            };
            if !grants.iter().any(is_ours) {
                continue;
            }
            let mut state = tx.state.borrow_mut();
            state.set(cache.space, key, prepared, options)?;
            state.ring(site.bell()?);
            state.remove(site.cache.space, &site.key)?;
        }
        Ok(())
    })?;
    for (Flight(guard), _, _) in made {
        guard.forget();
    }
    Ok(())
}
