//! What a directory that is only read would have become: files in memory, and names that are gone.
//!
//! Owns: the files made since it was opened. Holds: the disk is never asked to change anything.
//! Never looks at the directory itself; `Dir` asks here first.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::{Mutex, MutexGuard};

use rustix::fs::MemfdFlags;
use rustix::io::Errno;

use crate::format::name::Name;

/// Names that are not what the disk says. `None`: removed.
#[derive(Debug, Default)]
pub(crate) struct Overlay(Mutex<HashMap<Name, Option<File>>>);

/// What stands under a name.
#[derive(Debug)]
pub(crate) enum Layer {
    /// Whatever the disk has.
    Disk,
    /// This file, in memory or of another name.
    Memory(File),
    /// Nothing any more.
    Gone,
}

impl Overlay {
    fn names(&self) -> MutexGuard<'_, HashMap<Name, Option<File>>> {
        self.0.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    pub(crate) fn find(&self, name: Name) -> io::Result<Layer> {
        Ok(match self.names().get(&name) {
            None => Layer::Disk,
            Some(None) => Layer::Gone,
            Some(Some(file)) => Layer::Memory(file.try_clone()?),
        })
    }

    /// Makes a new, empty file; what stood under the name is gone.
    pub(crate) fn create(&self, name: Name) -> io::Result<File> {
        let memory =
            |flags| rustix::fs::memfd_create(name.to_string(), MemfdFlags::CLOEXEC | flags);
        let made = match memory(MemfdFlags::NOEXEC_SEAL) {
            // Before Linux 6.3.
            Err(Errno::INVAL) => memory(MemfdFlags::empty()),
            made => made,
        };
        let file = File::from(made?);
        self.put(name, file.try_clone()?);
        Ok(file)
    }

    /// From now on `file` stands under `name`.
    pub(crate) fn put(&self, name: Name, file: File) {
        self.names().insert(name, Some(file));
    }

    pub(crate) fn remove(&self, name: Name) {
        self.names().insert(name, None);
    }

    /// The names the disk has, as they are with these changes.
    pub(crate) fn apply(&self, ours: &mut Vec<Name>) {
        let names = self.names();
        ours.retain(|name| !names.contains_key(name));
        ours.extend(
            names
                .iter()
                .filter(|(_, file)| file.is_some())
                .map(|(name, _)| *name),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_again_until_they_are_removed() {
        use std::os::unix::fs::FileExt;
        let overlay = Overlay::default();
        let (made, kept, gone) = (Name::Keymap(2), Name::Segment(1), Name::Keymap(1));
        assert!(matches!(overlay.find(made), Ok(Layer::Disk)));
        let file = overlay.create(made).expect("memory");
        file.write_all_at(b"here", 0).expect("room");
        overlay.remove(gone);
        let Ok(Layer::Memory(again)) = overlay.find(made) else {
            panic!("it was made");
        };
        assert_eq!(again.metadata().expect("its length").len(), 4);
        assert!(matches!(overlay.find(gone), Ok(Layer::Gone)));
        let mut ours = vec![kept, gone];
        overlay.apply(&mut ours);
        assert_eq!(ours, [kept, made]);
        assert_eq!(
            overlay
                .create(made)
                .expect("memory")
                .metadata()
                .expect("its length")
                .len(),
            0
        );
    }
}
