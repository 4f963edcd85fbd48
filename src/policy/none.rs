//! `none`: nothing goes.
//!
//! Owns the answer that there are no candidates. Never evicts.

use super::{CullPolicy, Source};

/// Keeps all there is.
#[derive(Debug)]
pub(super) struct Keeps;

impl CullPolicy for Keeps {
    fn source(&self) -> Source {
        Source::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_no_candidates() {
        assert_eq!(Keeps.source(), Source::None);
        assert_eq!(Keeps.ghost_window(1_000), 0);
    }
}
