//! The store's settings: an entry of the inner space, and the header words that follow it.
//!
//! Owns: where they are kept and how they change for all processes at once.

use crate::engine::store::{INNER_SPACE, Proof, Store};
use crate::error::Result;
use crate::format::header as layout;
use crate::format::record::Draft;
use crate::format::settings::Settings;
use crate::part::shared::{setting, settings_pairs};

/// The inner key of the settings.
pub(crate) const KEY: &[u8] = b"settings";

impl Store {
    /// The settings as they are now.
    pub(crate) fn settings(&self) -> Result<Settings> {
        // Damaged, or being changed by a writer who was killed: the log has them.
        self.files
            .header
            .settings()
            .map_or_else(|| self.logged_settings(), Ok)
    }

    /// Writes the settings to the log, and with it to the header.
    pub(crate) fn write_settings(&self, proof: &mut Proof, settings: &Settings) -> Result<()> {
        settings.validate()?;
        let text = settings.to_text();
        let draft = Draft {
            value_kind: 1,
            space: INNER_SPACE,
            key: KEY,
            value: text.as_bytes(),
            ..self.blank_draft()
        };
        // A higher limit counts for its own record: a full store can be given more.
        let header = &self.files.header;
        let at = layout::SETTINGS_AT + setting::SIZE_LIMIT * 8;
        let before = header.get(at);
        header.put(at, before.max(settings.size_limit_bytes));
        let hash = self.hash.of(INNER_SPACE, KEY);
        let done = self.put(proof, hash, &draft, &settings_pairs(settings));
        if done.is_err() {
            header.put(at, before);
        }
        self.note_lowered();
        done
    }
}
