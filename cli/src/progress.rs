//! One bar on stderr for work that takes a while, only when stderr is a terminal.
//!
//! Owns what a bar looks like, and that sentences do not tear it.
//! Never does any of the work.

use std::fmt::Display;
use std::io::{IsTerminal as _, stderr};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::failure::say;

/// A bar, or nothing when nobody would see it; cleared when dropped.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// Whether somebody is there to look at a bar.
    pub(crate) fn is_seen() -> bool {
        stderr().is_terminal()
    }

    /// For work of a known number of bytes.
    pub(crate) fn of_bytes(doing: &'static str, total_bytes: u64) -> Self {
        let bar = if Self::is_seen() {
            ProgressBar::new(total_bytes)
        } else {
            ProgressBar::hidden()
        };
        let form = "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}, {eta} left";
        Self::styled(bar, doing, form)
    }

    /// For work of unknown length: how long it has been going on.
    pub(crate) fn of_time(doing: &'static str) -> Self {
        let bar = if Self::is_seen() {
            ProgressBar::new_spinner()
        } else {
            ProgressBar::hidden()
        };
        Self::styled(bar, doing, "{spinner} {msg} {elapsed}")
    }

    fn styled(bar: ProgressBar, doing: &'static str, form: &str) -> Self {
        if let Ok(style) = ProgressStyle::with_template(form) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(doing);
        if !bar.is_hidden() {
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        Self(bar)
    }

    pub(crate) fn advance(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    /// How much of a known number of bytes is done.
    pub(crate) fn set(&self, bytes: u64, total_bytes: u64) {
        self.0.set_length(total_bytes);
        self.0.set_position(bytes);
    }

    /// What is done so far, in words; nobody is asked for them when nobody looks.
    pub(crate) fn tell(&self, words: impl FnOnce() -> String) {
        if !self.0.is_hidden() {
            self.0.set_message(words());
        }
    }

    /// Says a sentence above the bar.
    pub(crate) fn say(&self, sentence: impl Display) {
        self.0.suspend(|| say(sentence));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
