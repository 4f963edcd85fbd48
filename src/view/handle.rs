//! One opened store, and how a forked child gets its own.
//!
//! The fork is noticed before anything else: a child opens the store again, as a participant of its
//! own, and never touches its parent's.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crate::engine::open::{self, Wish};
use crate::engine::store::Store;
use crate::error::Result;

/// A store as one process has it, and as its forked children have.
pub(crate) struct Handle {
    first: Link,
    wish: Wish,
    path: PathBuf,
    temporary: Option<u64>,
    /// Forks + 1 of the process that syncs for this handle; 0: none does.
    pub(crate) syncing: std::sync::atomic::AtomicU64,
}

struct Link {
    store: Arc<Store>,
    child: OnceLock<Box<Link>>,
}

impl Handle {
    pub(crate) fn open(path: &Path, wish: Wish) -> Result<Handle> {
        let store = Arc::new(open::open(path, &wish)?);
        let path = store.dir.path().to_path_buf();
        let syncing = std::sync::atomic::AtomicU64::new(0);
        Ok(Handle {
            first: Link {
                store,
                child: OnceLock::new(),
            },
            wish,
            path,
            temporary: None,
            syncing,
        })
    }

    /// The directory goes with the last handle, in the process that made it.
    pub(crate) fn temporary(mut self) -> Handle {
        self.temporary = Some(crate::os::raw::forks());
        self
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The store of this process.
    #[inline]
    pub(crate) fn store(&self) -> Result<&Arc<Store>> {
        if !self.first.store.is_forked() {
            return Ok(&self.first.store);
        }
        self.store_of_child()
    }

    #[cold]
    fn store_of_child(&self) -> Result<&Arc<Store>> {
        let mut link = &self.first;
        while link.store.is_forked() {
            link = match link.child.get() {
                Some(child) => child,
                None => {
                    let wish = Wish {
                        create: false,
                        clock: Arc::clone(&self.wish.clock),
                        settings: self.wish.settings.clone(),
                        ..self.wish
                    };
                    let store = Arc::new(open::open(&self.path, &wish)?);
                    link.child.get_or_init(|| {
                        Box::new(Link {
                            store,
                            child: OnceLock::new(),
                        })
                    })
                }
            };
        }
        Ok(&link.store)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.temporary == Some(crate::os::raw::forks()) {
            // Nobody else knows of it; what cannot be removed is the system's to clean.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}
