//! What makes the parts one store: reading without a lock, writing under one, and coming back after
//! a kill.

pub(crate) mod batch;
pub(crate) mod change;
pub(crate) mod check;
pub(crate) mod create;
pub(crate) mod kill;
pub(crate) mod large;
pub(crate) mod ledger;
pub(crate) mod open;
pub(crate) mod read;
pub(crate) mod rebuild;
pub(crate) mod repair;
pub(crate) mod room;
pub(crate) mod scan;
pub(crate) mod settings;
pub(crate) mod store;
pub(crate) mod sync;
pub(crate) mod tags;
pub(crate) mod walk;
pub(crate) mod write;
