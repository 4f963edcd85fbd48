//! One mechanism each, over the mapped words; they have never met. The engine puts them together.

pub(crate) mod bell;
pub(crate) mod journal;
pub(crate) mod keymap;
pub(crate) mod lists;
pub(crate) mod order;
pub(crate) mod participants;
pub(crate) mod segment;
pub(crate) mod segments;
pub(crate) mod shared;
pub(crate) mod writer_lock;
