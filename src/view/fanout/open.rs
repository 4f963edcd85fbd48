//! Opening the shards: which there are, made if there are none, each the one its directory says.
//!
//! Holds: whoever opens while shards are made or replaced waits, or looks again. Never opens a shard that
//! is not of the layout it goes by.

use std::path::Path;
use std::sync::Arc;

use crate::engine::crossing::RETIRED;
use crate::engine::fanout::{self, Gate, Shards};
use crate::engine::store::Store;
use crate::error::{Error, Result};
use crate::format::fanout::Layout;
use crate::format::name;
use crate::format::settings::Settings;
use crate::limits::SHARDS_MAX;
use crate::view::builder::Builder;
use crate::view::cache::Cache;
use crate::view::fanout::{Fanout, share, step};
use crate::view::handle::Handle;

/// Looks at a store that is being divided anew.
const TRIES: u32 = 20;
/// Below this part of `size_limit_bytes` a shard is not made by default: its segments would be small.
const SHARE_MIN: u64 = 16 << 20;
/// Shards made by default at most.
const DEFAULT_MAX: usize = 64;

pub(crate) fn open(builder: &Builder, path: &Path, wanted: Option<usize>) -> Result<Fanout> {
    if let Some(wanted) = wanted
        && !(1..=SHARDS_MAX).contains(&wanted)
    {
        let what = format!("{wanted} is not between 1 and {SHARDS_MAX}");
        return Err(Error::setting("shards", what));
    }
    let mut settings = Settings::default();
    builder.apply(&mut settings);
    let wish = builder.wish(settings.clone());
    let shards = Shards::open(path, wish.create, wish.any_filesystem, wish.read_only)?;
    for _ in 0..TRIES {
        let before = shards.layout()?;
        let layout = match before {
            Some(layout) => layout,
            None => make(builder, &shards, &settings, wanted)?,
        };
        if let Some(wanted) = wanted.filter(|&wanted| wanted != layout.shards) {
            let what = format!(
                "the store in {} has {} shards, not {wanted}: open it with {0} or without a number, or divide it anew (`larder reshard`)",
                path.display(),
                layout.shards
            )
            .replacen("{0}", &layout.shards.to_string(), 1);
            return Err(Error::setting("shards", what));
        }
        let opened = enter(builder, &shards, layout);
        // Divided anew in between: what was opened is gone, or will be.
        if shards.layout()? == Some(layout) {
            return opened;
        }
    }
    Err(Error::Busy {
        what: "the opening of the store (it is divided anew again and again)",
        holder_pid: 0,
        held_since: None,
        waited: std::time::Duration::ZERO,
        removed: 0,
    })
}

/// Opens the shard with this index.
pub(super) fn shard(
    builder: &Builder,
    shards: &Shards,
    layout: Layout,
    index: usize,
    (create, settings): (bool, &Settings),
) -> Result<Cache> {
    let own = share::of(settings, layout.shards, index);
    let name = name::shard(layout.generation, index);
    shard_at(builder, shards, &name, (create, &own))
}

/// Opens the shard in the directory `name`; `settings` are its own, if it is made.
pub(super) fn shard_at(
    builder: &Builder,
    shards: &Shards,
    name: &str,
    (create, settings): (bool, &Settings),
) -> Result<Cache> {
    let mut wish = builder.wish(settings.clone());
    wish.create &= create;
    wish.as_shard = true;
    let path = shards.dir.path().join(name);
    Ok(Cache::of(Handle::open(&path, wish)?))
}

fn enter(builder: &Builder, shards: &Shards, layout: Layout) -> Result<Fanout> {
    let mut settings = Settings::default();
    builder.apply(&mut settings);
    let mut caches = Vec::with_capacity(layout.shards);
    for index in 0..layout.shards {
        let cache = shard(builder, shards, layout, index, (false, &settings))?;
        let told = fanout::shard_of(cache.store()?)?;
        if told != Some((layout, index)) {
            let what =
                "it is not the shard its directory's name says: was it copied from elsewhere?";
            return Err(Error::corrupt(cache.path(), 0, what));
        }
        caches.push(cache);
    }
    let fanout = Fanout::new(shards.dir.path().into(), layout, caches);
    let is_read_only = fanout.shards[0].store()?.dir.is_read_only();
    fanout.unretire(shards)?;
    fanout.introduce()?;
    fanout.settle_settings(builder)?;
    for cache in &*fanout.shards {
        builder.begin(cache)?;
    }
    if !is_read_only
        && shards.present()?.len() > layout.shards
        && let Some(gate) = shards.try_gate()?
        && shards.layout()? == Some(layout)
    {
        shards.remove_others(&gate, layout)?;
    }
    Ok(fanout)
}

impl Fanout {
    /// Takes back what one who was killed dividing the store anew had said: `fanout` names these shards.
    fn unretire(&self, shards: &Shards) -> Result<()> {
        let stores = self.shards.iter().map(Cache::store);
        let mut retired = Vec::new();
        for store in stores {
            let store = store?;
            if store.crossing() == RETIRED {
                retired.push(Arc::clone(store));
            }
        }
        if retired.is_empty() {
            return Ok(());
        }
        // In a store that is only read, this changes pages of this process alone.
        let gate = match retired[0].dir.is_read_only() {
            true => None,
            false => Some(shards.gate(self.patience()?)?),
        };
        if shards.layout()? == Some(self.core.layout) {
            for store in retired {
                let mut held = Store::lock_as_opener(&*store, self.patience()?)?;
                held.parts().0.set_crossing(0);
            }
        }
        drop(gate);
        Ok(())
    }
}

/// As many shards as there are processors, if each has a decent part of the limit.
fn default_shards(settings: &Settings) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let fit = (settings.size_limit_bytes / SHARE_MIN).max(1);
    cores.min(DEFAULT_MAX).min(fit as usize)
}

/// Makes the shards, or completes what a killed maker began; or finds out which they are.
fn make(
    builder: &Builder,
    shards: &Shards,
    settings: &Settings,
    wanted: Option<usize>,
) -> Result<Layout> {
    let wish = builder.wish(settings.clone());
    let missing = |what: &str| Error::NotAStore {
        path: shards.dir.path().into(),
        what: what.into(),
    };
    if !wish.create {
        return Err(missing("it has no file `fanout`"));
    }
    shards.refuse_others()?;
    let count = wanted.unwrap_or_else(|| default_shards(settings));
    share::validate(settings, count)?;
    let gate = shards.gate(wish.timeout)?;
    if let Some(layout) = shards.layout()? {
        return Ok(layout);
    }
    if let Some(layout) = find(builder, shards, settings)? {
        let caches = (0..layout.shards)
            .map(|index| shard(builder, shards, layout, index, (false, settings)))
            .collect::<Result<Vec<_>>>()?;
        label(&caches, layout, settings)?;
        shards.publish(&gate, layout)?;
        return Ok(layout);
    }
    // None of them was ever in use: the last thing its maker does is to tell each which it is.
    let layout = Layout {
        shards: count,
        generation: 1,
    };
    let none = Layout {
        shards: 0,
        ..layout
    };
    shards.remove_others(&gate, none)?;
    make_all(builder, shards, &gate, layout, settings)?;
    shards.publish(&gate, layout)?;
    Ok(layout)
}

/// Makes the shards of a layout that is not published yet.
pub(super) fn make_all(
    builder: &Builder,
    shards: &Shards,
    gate: &Gate,
    layout: Layout,
    settings: &Settings,
) -> Result<Vec<Cache>> {
    let _ = gate;
    let caches: Vec<Cache> = (0..layout.shards)
        .map(|index| shard(builder, shards, layout, index, (true, settings)))
        .collect::<Result<_>>()?;
    shards.dir.sync_names()?;
    step();
    label(&caches, layout, settings)?;
    Ok(caches)
}

/// Tells each shard which it is, unless it knows.
fn label(caches: &[Cache], layout: Layout, settings: &Settings) -> Result<()> {
    for (index, cache) in caches.iter().enumerate() {
        let store = cache.store()?;
        if fanout::shard_of(store)?.is_none() {
            let mut held = Store::lock(&**store, cache.patience(store))?;
            let (store, proof) = held.parts();
            if index == 0 {
                share::put_whole(store, proof, settings)?;
            }
            fanout::put_shard(store, proof, layout, index)?;
        }
        store.sync_log()?;
        step();
    }
    Ok(())
}

/// Which shards there are, by what they say themselves: the file `fanout` is lost, or was never made.
fn find(builder: &Builder, shards: &Shards, settings: &Settings) -> Result<Option<Layout>> {
    let mut found: Option<Layout> = None;
    let present = shards.present()?;
    for &(generation, index) in &present {
        let guess = Layout {
            shards: index + 1,
            generation,
        };
        let told = match shard(builder, shards, guess, index, (false, settings)) {
            Ok(cache) => fanout::shard_of(cache.store()?)?,
            // Its maker did not come as far as to make a store of it.
            Err(Error::NotAStore { .. }) => None,
            Err(error) => return Err(error),
        };
        match (told, found) {
            (Some((layout, _)), Some(other)) if layout != other => {
                let what = "its shards are of several generations, and the file `fanout` that says which count is missing";
                return Err(Error::corrupt(shards.dir.path(), 0, what));
            }
            (Some((layout, _)), _) => found = Some(layout),
            (None, _) => {}
        }
    }
    if let Some(layout) = found
        && let Some(index) =
            (0..layout.shards).find(|&index| !present.contains(&(layout.generation, index)))
    {
        let what = format!(
            "shard {index} of {} is missing, and so is the file `fanout`",
            layout.shards
        );
        return Err(Error::corrupt(shards.dir.path(), 0, what));
    }
    Ok(found)
}
