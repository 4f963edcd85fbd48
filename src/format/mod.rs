//! Bytes to values and back. No file here reads or writes a disk, takes a lock or knows the time.

pub(crate) mod bucket;
pub(crate) mod fanout;
pub(crate) mod header;
pub(crate) mod key;
pub(crate) mod name;
pub(crate) mod names;
pub(crate) mod pack;
pub(crate) mod record;
pub(crate) mod seed;
pub(crate) mod segment;
pub(crate) mod settings;
pub(crate) mod stamp;
