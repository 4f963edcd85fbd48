//! What people call: thin coats over the engine. No view knows a file.

pub(crate) mod builder;
pub(crate) mod cache;
pub(crate) mod cache_store;
pub(crate) mod cache_upkeep;
pub(crate) mod cache_write;
pub(crate) mod codec;
pub(crate) mod fanout;
pub(crate) mod handle;
pub(crate) mod hold;
pub(crate) mod iter;
pub(crate) mod log;
pub(crate) mod numbers;
pub(crate) mod options;
pub(crate) mod pack;
pub(crate) mod packed;
pub(crate) mod prepare;
pub(crate) mod queue;
pub(crate) mod reader;
pub(crate) mod shelf;
pub(crate) mod state;
pub(crate) mod stats;
pub(crate) mod transaction;
pub(crate) mod typed;
pub(crate) mod unpack;
pub(crate) mod value;
