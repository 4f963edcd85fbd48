//! Settings of the whole, and each shard's part of its limits.
//!
//! Holds: the shards' limits are at most the whole's together, whoever is killed when: a limit is lowered,
//! durably, before another is raised, and whoever changes one has the first shard's lock.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::engine::crossing::inner_change;
use crate::engine::store::{Proof, Store};
use crate::error::{Error, Result};
use crate::format::header as layout;
use crate::format::settings::Settings;
use crate::limits::{BATCH_BYTES_MAX, SIZE_LIMIT_MIN};
use crate::os::clock::{Clock, SystemClock};
use crate::part::shared::setting;
use crate::policy::Policy;
use crate::view::builder::Builder;
use crate::view::fanout::{Fanout, step};

/// The inner key, in the first shard, of the settings of the whole.
const WHOLE_KEY: &[u8] = b"whole";
/// A shard that is fuller than this part of its limit looks for more.
const FULL_PARTS: u64 = 4;
/// How often it looks, ms.
const LOOK_MS: u64 = 50;
/// How long it waits for a lock then.
const BALANCE_PATIENCE: Duration = Duration::from_millis(5);
/// What is left to a shard beyond what it has on disk, when it gives the rest away.
const LEFT_BYTES: u64 = 256 << 10;

/// The settings of one shard, when all have equal parts.
pub(super) fn of(whole: &Settings, shards: usize, index: usize) -> Settings {
    let count = shards as u64;
    let part = |all: u64| all / count + u64::from((index as u64) < all % count);
    Settings {
        size_limit_bytes: whole.size_limit_bytes / count,
        count_limit: whole.count_limit.map(|all| part(all).max(1)),
        ..whole.clone()
    }
}

/// Refuses settings of which a shard's part is too small.
pub(super) fn validate(whole: &Settings, shards: usize) -> Result<()> {
    whole.validate()?;
    if let Some(count) = whole.count_limit.filter(|&count| count < shards as u64) {
        let what = format!("{count} entries are less than one for each of {shards} shards");
        return Err(Error::setting("count_limit", what));
    }
    if whole.size_limit_bytes / (shards as u64) < SIZE_LIMIT_MIN {
        return Err(Error::setting(
            "size_limit_bytes",
            format!(
                "{} bytes are less than 1 MiB for each of {shards} shards",
                whole.size_limit_bytes
            ),
        ));
    }
    Ok(())
}

pub(super) fn put_whole(first: &Store, proof: &mut Proof, whole: &Settings) -> Result<()> {
    let text = whole.to_text().into_bytes();
    first.commit_inner(proof, &vec![inner_change(first, WHOLE_KEY, Some(text))])
}

fn limit_of(store: &Store) -> u64 {
    store.files.header.setting(setting::SIZE_LIMIT)
}

fn disk_of(store: &Store) -> u64 {
    store.files.header.number(layout::DISK_BYTES_AT)
}

impl Fanout {
    /// The settings of the whole.
    ///
    /// # Errors
    /// See [`Fanout`].
    pub fn settings(&self) -> Result<Settings> {
        match self.store(0)?.inner(WHOLE_KEY)? {
            Some(text) => Ok(Settings::from_text(&String::from_utf8_lossy(&text))),
            None => {
                let mut whole = self.store(0)?.settings()?;
                whole.size_limit_bytes = 0;
                for index in 0..self.shards.len() {
                    whole.size_limit_bytes += limit_of(self.store(index)?);
                }
                Ok(whole)
            }
        }
    }

    /// Changes settings of the whole, for all processes. The settings as they are then.
    ///
    /// # Errors
    /// As [`Cache::update_settings`](crate::Cache::update_settings). Killed or failed in the middle, some
    /// shards have the new ones; the next opener gives them to all.
    pub fn update_settings(&self, change: impl FnOnce(&mut Settings)) -> Result<Settings> {
        self.writable()?;
        let first = self.store(0)?;
        let mut held = Store::lock(&**first, self.patience()?)?;
        let mut whole = self.settings()?;
        change(&mut whole);
        let whole = Settings::from_words(&whole.to_words());
        validate(&whole, self.shards.len())?;
        let (store, proof) = held.parts();
        put_whole(store, proof, &whole)?;
        store.sync_log()?;
        self.give_settings(store, proof, &whole)?;
        Ok(whole)
    }

    /// At opening: what is set here counts, and every shard has the settings of the whole.
    pub(super) fn settle_settings(&self, builder: &Builder) -> Result<()> {
        let before = self.settings()?;
        let mut after = before.clone();
        builder.apply(&mut after);
        let after = Settings::from_words(&after.to_words());
        let is_read_only = self.store(0)?.dir.is_read_only();
        if builder.has_settings() {
            validate(&after, self.shards.len())?;
        }
        if is_read_only {
            let ours = Settings {
                lock_timeout: before.lock_timeout,
                ..after
            };
            return match ours.to_words() == before.to_words() {
                true => Ok(()),
                false => Err(Error::ReadOnly {
                    path: self.core.path.clone(),
                }),
            };
        }
        if after.to_words() != before.to_words() {
            self.update_settings(|settings| *settings = after)?;
            return Ok(());
        }
        if !self.is_settled(&before)? {
            let first = self.store(0)?;
            let mut held = Store::lock(&**first, self.patience()?)?;
            let whole = self.settings()?;
            let (store, proof) = held.parts();
            self.give_settings(store, proof, &whole)?;
        }
        Ok(())
    }

    /// Whether every shard has the settings of the whole, and their limits are within its.
    fn is_settled(&self, whole: &Settings) -> Result<bool> {
        let mut sum = 0;
        for index in 0..self.shards.len() {
            let own = self.store(index)?.settings()?;
            sum += own.size_limit_bytes;
            if self
                .settings_of(whole, index, own.size_limit_bytes)
                .to_words()
                != own.to_words()
            {
                return Ok(false);
            }
        }
        Ok(sum <= whole.size_limit_bytes)
    }

    fn settings_of(&self, whole: &Settings, index: usize, limit: u64) -> Settings {
        Settings {
            size_limit_bytes: limit,
            ..of(whole, self.shards.len(), index)
        }
    }

    /// Gives every shard its part of the settings; limits keep their proportions. Under the first's lock.
    fn give_settings(&self, first: &Store, proof: &mut Proof, whole: &Settings) -> Result<()> {
        let stores = self.stores()?;
        let before: Vec<u64> = stores.iter().map(|store| limit_of(store)).collect();
        let sum: u64 = before.iter().sum();
        let mut after: Vec<u64> = match sum == whole.size_limit_bytes {
            true => before.clone(),
            false => {
                let part = |limit: u64| {
                    (u128::from(limit) * u128::from(whole.size_limit_bytes)
                        / u128::from(sum.max(1))) as u64
                };
                before.iter().map(|&limit| part(limit)).collect()
            }
        };
        if after.iter().any(|&limit| limit < SIZE_LIMIT_MIN) {
            after = vec![whole.size_limit_bytes / stores.len() as u64; stores.len()];
        }
        for is_raise in [false, true] {
            for (index, store) in stores.iter().enumerate() {
                let own = store.settings()?;
                let new = self.settings_of(whole, index, after[index]);
                if (after[index] > before[index]) == is_raise && own.to_words() != new.to_words() {
                    self.put_settings((first, &mut *proof), index, &new, self.patience()?)?;
                    store.sync_log()?;
                    step();
                }
            }
        }
        Ok(())
    }

    /// Writes one shard's settings. Under the first's lock.
    fn put_settings(
        &self,
        (first, proof): (&Store, &mut Proof),
        index: usize,
        settings: &Settings,
        timeout: Option<Duration>,
    ) -> Result<()> {
        if index == 0 {
            return first.write_settings(proof, settings);
        }
        let mut held = Store::lock_sibling(&**self.store(index)?, timeout)?;
        let (store, proof) = held.parts();
        if store.crossing() != 0 {
            store.catch_up(proof, first, index as u16)?;
        }
        store.write_settings(proof, settings)
    }

    /// After a write: a shard that fills takes what others do not use.
    #[inline]
    pub(super) fn balance(&self, index: usize) {
        let Ok(store) = self.store(index) else { return };
        let limit = limit_of(store);
        if disk_of(store) > limit - limit / FULL_PARTS {
            self.balance_now(index, limit);
        }
    }

    #[cold]
    fn balance_now(&self, index: usize, limit: u64) {
        let now = SystemClock.now_ms();
        let look = &self.core.looks_ms[index];
        if now < look.load(Ordering::Relaxed) || crate::view::state::is_any_open() {
            return;
        }
        look.store(now + LOOK_MS, Ordering::Relaxed);
        // The write is done; without more room the shard culls for itself.
        let _ = self.take(index, limit + limit / 8, false);
    }

    /// Whether a larger part of the limit was had for what was refused.
    pub(super) fn may_grow(&self, index: usize, error: &Error) -> Result<bool> {
        if self.shards.len() == 1 || crate::view::state::is_any_open() {
            return Ok(false);
        }
        let store = self.store(index)?;
        let wanted = match *error {
            Error::TooLarge {
                what: "a value (bytes)",
                bytes,
                ..
            } => bytes + bytes / 16 + (2 << 20),
            Error::TooLarge {
                what: "a batch (bytes)",
                bytes,
                ..
            } if bytes <= BATCH_BYTES_MAX => bytes * 4 + (1 << 20),
            Error::Full { needed_bytes, .. } => {
                disk_of(store) + needed_bytes + needed_bytes / 16 + (1 << 20)
            }
            _ => return Ok(false),
        };
        if wanted <= limit_of(store) {
            return Ok(false);
        }
        self.take(index, wanted, true)?;
        Ok(limit_of(store) >= wanted)
    }

    /// Raises a shard's limit to `wanted`, as far as others leave something; when it `must` be, they evict
    /// for it.
    fn take(&self, index: usize, wanted: u64, must: bool) -> Result<()> {
        let whole = self.settings()?;
        let others: Vec<usize> = (0..self.shards.len()).filter(|&n| n != index).collect();
        let patience = match must {
            true => self.patience()?,
            // It only makes room for later: others come first.
            false => Some(BALANCE_PATIENCE),
        };
        let floor = SIZE_LIMIT_MIN * others.len() as u64;
        if must && wanted > whole.size_limit_bytes.saturating_sub(floor) {
            return Ok(());
        }
        if must {
            self.make_others_small(&others, wanted, whole.size_limit_bytes)?;
        }
        let mut held = Store::lock(&**self.store(0)?, patience)?;
        let (first, proof) = held.parts();
        let mut limits = Vec::with_capacity(self.shards.len());
        for n in 0..self.shards.len() {
            limits.push(limit_of(self.store(n)?));
        }
        let mut missing = wanted.saturating_sub(limits[index]);
        let spare = whole
            .size_limit_bytes
            .saturating_sub(limits.iter().sum::<u64>());
        let mut had = missing.min(spare);
        missing -= had;
        for n in others {
            if missing == 0 {
                break;
            }
            let store = self.store(n)?;
            let disk = store.disk_bytes();
            // Of its own will a shard keeps twice what it has: it grows too.
            let keeps = match must {
                true => disk + disk / 16 + LEFT_BYTES,
                false => disk * 2 + LEFT_BYTES,
            };
            let gives = limits[n]
                .saturating_sub(keeps.max(SIZE_LIMIT_MIN))
                .min(missing);
            if gives < SIZE_LIMIT_MIN / 16 && !must {
                continue;
            }
            if gives > 0 {
                let lower = self.settings_of(&whole, n, limits[n] - gives);
                self.put_settings((first, &mut *proof), n, &lower, patience)?;
                // Else a power loss could take this back, and leave the other's higher one.
                store.sync_log()?;
                step();
                had += gives;
                missing -= gives;
            }
        }
        if had > 0 {
            let higher = self.settings_of(&whole, index, limits[index] + had);
            self.put_settings((first, proof), index, &higher, patience)?;
            step();
        }
        Ok(())
    }

    /// Evicts in other shards until what they have leaves `wanted` bytes of the whole.
    fn make_others_small(&self, others: &[usize], wanted: u64, whole: u64) -> Result<()> {
        let mut fuller = Vec::new();
        let mut sum = 0;
        for &n in others {
            let store = self.store(n)?;
            if Policy::from_u64(store.files.header.setting(setting::POLICY)) == Some(Policy::None) {
                return Ok(());
            }
            let disk = store.disk_bytes();
            let keeps = disk + disk / 16 + LEFT_BYTES;
            sum += keeps.max(SIZE_LIMIT_MIN);
            fuller.push((disk, n));
        }
        let mut excess = sum.saturating_sub(whole.saturating_sub(wanted));
        fuller.sort_unstable_by(|a, b| b.cmp(a));
        for (disk, n) in fuller {
            if excess == 0 {
                break;
            }
            // An equal part of it each, the fullest first.
            let most = disk.saturating_sub(SIZE_LIMIT_MIN).min(excess);
            if most == 0 {
                continue;
            }
            self.shrink(n, disk - most)?;
            excess -= most;
        }
        Ok(())
    }

    /// Lowers a shard's limit to about `bytes`, and evicts until it is within.
    fn shrink(&self, index: usize, bytes: u64) -> Result<()> {
        let bytes = bytes.max(SIZE_LIMIT_MIN);
        {
            let mut held = Store::lock(&**self.store(0)?, self.patience()?)?;
            let (first, proof) = held.parts();
            let whole = self.settings()?;
            if bytes >= limit_of(self.store(index)?) {
                return Ok(());
            }
            let lower = self.settings_of(&whole, index, bytes);
            self.put_settings((first, proof), index, &lower, self.patience()?)?;
            self.store(index)?.sync_log()?;
        }
        self.at(index)?.cull()?;
        Ok(())
    }
}
