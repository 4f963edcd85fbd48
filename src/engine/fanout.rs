//! The directory of a store of several shards: which shards there are, and how that comes to be known.
//!
//! Owns `fanout` and its gate, and the shards' directories as wholes. Holds: `fanout` is written once for
//! a generation, whole, when its shards are there; who makes or removes shards has the gate. Never looks
//! into a shard's files but through its store.

use std::path::Path;
use std::time::Duration;

use crate::engine::crossing::inner_change;
use crate::engine::store::{Proof, Store};
use crate::error::{Error, Result};
use crate::format::fanout::{FANOUT_LEN, Layout, LayoutFault};
use crate::format::name::{self, Name};
use crate::os::dir::Dir;
use crate::os::host;
use crate::os::lock::FileLock;

/// The inner key under which a shard says which it is: the layout, and its index.
const SHARD_KEY: &[u8] = b"shard";

/// The directory that holds the shards.
#[derive(Debug)]
pub(crate) struct Shards {
    pub(crate) dir: Dir,
}

/// The right to make and remove shards.
#[derive(Debug)]
pub(crate) struct Gate {
    _lock: FileLock,
}

/// Refuses to open one shard alone: a key would land in the wrong one, and half a batch be seen.
pub(crate) fn refuse_shard(path: &Path) -> Result<()> {
    // Also of whoever stands in it.
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let text = whole.file_name().map(|name| name.to_string_lossy());
    let is_named = text.is_some_and(|text| name::parse_shard(&text).is_some());
    let Some(parent) = whole.parent().filter(|_| is_named) else {
        return Ok(());
    };
    let Ok(dir) = Dir::open(parent, false) else {
        return Ok(());
    };
    match dir.stat(Name::Fanout)? {
        None => Ok(()),
        Some(_) => Err(Error::NotAStore {
            path: path.into(),
            what: "it is one shard of the store in the directory above: open that with `Fanout`"
                .into(),
        }),
    }
}

impl Shards {
    /// Opens the directory, making it if asked to.
    pub(crate) fn open(
        path: &Path,
        create: bool,
        any_filesystem: bool,
        read_only: bool,
    ) -> Result<Shards> {
        if !path.exists() && create && !any_filesystem {
            // Before the directory is made, where it would be.
            let nearest = path.ancestors().skip(1).find(|parent| parent.exists());
            let nearest = nearest.filter(|parent| !parent.as_os_str().is_empty());
            host::check_filesystem(&Dir::open(nearest.unwrap_or(Path::new(".")), false)?)?;
        }
        let dir = match read_only {
            true => Dir::open_read_only(path)?,
            false => Dir::open(path, create)?,
        };
        Ok(Shards { dir })
    }

    /// Waits for the gate.
    pub(crate) fn gate(&self, timeout: Option<Duration>) -> Result<Gate> {
        let _lock = FileLock::take(&self.dir, Name::FanoutGate, timeout)?;
        Ok(Gate { _lock })
    }

    /// The gate, if nobody has it.
    pub(crate) fn try_gate(&self) -> Result<Option<Gate>> {
        let lock = FileLock::try_take(&self.dir, Name::FanoutGate)?;
        Ok(lock.map(|_lock| Gate { _lock }))
    }

    /// What `fanout` says; `None`: there is none.
    pub(crate) fn layout(&self) -> Result<Option<Layout>> {
        let Some(file) = self.dir.open_to_read(Name::Fanout)? else {
            return Ok(None);
        };
        let bytes = self.dir.read_at(Name::Fanout, &file, 0, FANOUT_LEN + 1)?;
        match Layout::decode(&bytes) {
            Ok(layout) => Ok(Some(layout)),
            Err(fault) => Err(self.fault(fault)),
        }
    }

    fn fault(&self, fault: LayoutFault) -> Error {
        let path = self.dir.path_of(Name::Fanout);
        match fault {
            LayoutFault::Newer(version) => Error::Unsupported {
                path,
                what: format!("it was written by a newer larder (its version is {version})"),
            },
            LayoutFault::Damaged => Error::corrupt(
                path,
                0,
                "it does not say how many shards there are: remove it, and the shards say so themselves",
            ),
        }
    }

    /// From here on these are the shards.
    pub(crate) fn publish(&self, gate: &Gate, layout: Layout) -> Result<()> {
        let _ = gate;
        let file = self.dir.create(Name::FanoutNew)?;
        self.dir
            .write_at(Name::FanoutNew, &file, 0, &layout.encode())?;
        self.dir.sync(Name::FanoutNew, &file)?;
        self.dir.rename(Name::FanoutNew, Name::Fanout)?;
        self.dir.sync_names()
    }

    /// The directories of shards that are there: generation and index.
    pub(crate) fn present(&self) -> Result<Vec<(u64, usize)>> {
        let (_, strangers) = self.dir.list_on_disk()?;
        Ok(strangers
            .iter()
            .filter_map(|text| name::parse_shard(text))
            .collect())
    }

    /// Refuses a directory that holds something else.
    pub(crate) fn refuse_others(&self) -> Result<()> {
        let refuse = |what: String| {
            Err(Error::NotAStore {
                path: self.dir.path().into(),
                what,
            })
        };
        let (ours, strangers) = self.dir.list_on_disk()?;
        let is_gate =
            |name: &Name| matches!(name, Name::FanoutGate | Name::FanoutNew | Name::Fanout);
        if ours.contains(&Name::FanoutGate) {
            return Ok(());
        }
        if ours.iter().any(|name| !is_gate(name)) {
            return refuse("it is a store that is not divided: open it with `Cache`, or give an empty directory".into());
        }
        match strangers.first() {
            None => Ok(()),
            Some(first) => refuse(format!(
                "it holds {} file(s) that are not a store's, {first:?} among them; give an empty directory",
                strangers.len()
            )),
        }
    }

    /// Removes shards of other generations than `layout`'s: what a killed maker or remover left.
    pub(crate) fn remove_others(&self, gate: &Gate, layout: Layout) -> Result<()> {
        let _ = gate;
        for (generation, index) in self.present()? {
            if generation != layout.generation || index >= layout.shards {
                self.dir.remove_below(&name::shard(generation, index))?;
            }
        }
        Ok(())
    }
}

/// Notes in a shard's own log which it is.
pub(crate) fn put_shard(
    store: &Store,
    proof: &mut Proof,
    layout: Layout,
    index: usize,
) -> Result<()> {
    let mut value = layout.encode().to_vec();
    value.extend_from_slice(&(index as u32).to_le_bytes());
    store.commit_inner(proof, &vec![inner_change(store, SHARD_KEY, Some(value))])
}

/// Which shard a store says it is; `None`: it was never made whole.
pub(crate) fn shard_of(store: &Store) -> Result<Option<(Layout, usize)>> {
    let Some(bytes) = store.inner(SHARD_KEY)? else {
        return Ok(None);
    };
    let parsed = bytes.split_last_chunk::<4>().and_then(|(layout, index)| {
        let layout = Layout::decode(layout).ok()?;
        Some((layout, u32::from_le_bytes(*index) as usize))
    });
    parsed.map(Some).ok_or_else(|| {
        let what = "what it says of the shard it is cannot be read";
        Error::corrupt(store.dir.path(), 0, what)
    })
}
