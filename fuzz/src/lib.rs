//! A small store whose files the targets damage, and the promises that must hold all the same.

mod change;
mod entries;
mod promises;
mod sample;

pub use sample::Sample;
