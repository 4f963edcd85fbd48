//! Recipes: what several processes do with a store to stay out of each other's way.
//!
//! Locks of all kinds are a list of grants in an entry (`grants`, `cell`, `site`, `turn`, `guard`); single
//! flight (`flight`) is a lock on a key, and what computes values stands on that. None knows a file, or
//! takes the writer lock but by `cell` and the verbs of `Cache`.

mod args;
#[cfg(feature = "tokio")]
mod async_compute;
pub(crate) mod averager;
mod cell;
pub(crate) mod compute;
mod flight;
mod grants;
pub(crate) mod guard;
pub(crate) mod lock;
mod many;
pub(crate) mod memo;
mod once;
pub(crate) mod rlock;
pub(crate) mod rw_lock;
pub(crate) mod semaphore;
mod site;
mod stampede;
pub(crate) mod throttle;
mod turn;
