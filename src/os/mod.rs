//! The only way out: files, mapped words, locks, time, and what the host is.
//!
//! `dir` is the one door for file calls, `raw` the one for mapped words and the only file with
//! `unsafe`. What is Linux's own stays on this floor.

pub(crate) mod clock;
pub(crate) mod dir;
pub(crate) mod host;
pub(crate) mod lock;
pub(crate) mod overlay;
pub(crate) mod raw;
pub(crate) mod region;
