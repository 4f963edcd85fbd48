//! A view's own entries: a named space of a store, as a `Cache` over that space alone.
//!
//! Owns how a space is found or made by kind and name. What a view keeps there is its own affair.

use crate::engine::spaces;
use crate::engine::store::INNER_SPACE;
use crate::error::{Error, Result};
use crate::limits::SPACES_MAX;
use crate::part::bell::Bell;
use crate::view::cache::Cache;
use crate::view::iter::Keys;
use crate::view::state;
use crate::view::transaction::Transaction;

/// A kind of view that lives in a store by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ViewKind {
    /// A [`Deque`](crate::Deque).
    Deque,
    /// An [`Index`](crate::Index).
    Index,
    /// A [`Queue`](crate::Queue).
    Queue,
}

impl ViewKind {
    /// The kind of the space each has one of.
    fn space(self) -> &'static str {
        match self {
            ViewKind::Deque => "deque.front",
            ViewKind::Index => "index",
            ViewKind::Queue => "queue",
        }
    }
}

/// The longest name of a view, bytes.
pub(crate) const NAME_LEN_MAX: usize = 1_024;

impl Cache {
    /// The space of this kind and name, made if there is none. Its entries are never culled; verbs of
    /// the whole store (settings, tags, upkeep) mean the whole store here too.
    ///
    /// # Errors
    /// [`Error::TooLarge`] for a long name or the 255th space; [`Error::Aborted`] when it has to be made
    /// inside a transaction, which may come to nothing.
    pub(crate) fn space(&self, kind: &'static str, name: &[u8]) -> Result<Cache> {
        if name.len() > NAME_LEN_MAX {
            return Err(Error::TooLarge {
                what: "the name of a view (bytes)",
                bytes: name.len() as u64,
                max_bytes: NAME_LEN_MAX as u64,
            });
        }
        let store = self.store()?;
        let number = match store.space_id(kind, name)? {
            Some(number) => number,
            None if state::is_inside(store) => {
                let what = format!(
                    "a {kind} is made outside of transact: open {:?} before",
                    name.escape_ascii().to_string()
                );
                return Err(Error::Aborted { what });
            }
            None => self.make_space(kind, name)?,
        };
        Ok(self.in_space(number))
    }

    /// The same store and timeout, over another space.
    pub(crate) fn in_space(&self, number: u32) -> Cache {
        let mut cache = self.clone();
        cache.space = number;
        cache
    }

    /// The names of the views of one kind that live in this store, oldest first. Costs by the store's
    /// names: of views, tags and settings.
    ///
    /// ```
    /// use larder::{Cache, Deque, ViewKind};
    ///
    /// let cache = Cache::temporary()?;
    /// Deque::<String>::of(&cache, "pages")?;
    /// assert_eq!(cache.view_names(ViewKind::Deque)?, [b"pages".to_vec()]);
    /// # Ok::<(), larder::Error>(())
    /// ```
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn view_names(&self, kind: ViewKind) -> Result<Vec<Vec<u8>>> {
        let mut names = Vec::new();
        for key in Keys::new(self.store()?, INNER_SPACE)? {
            names.extend(spaces::name_of(&key?, kind.space()));
        }
        Ok(names)
    }

    fn make_space(&self, kind: &'static str, name: &[u8]) -> Result<u32> {
        let key = spaces::name_key(kind, name);
        let inner = self.in_space(INNER_SPACE);
        inner.transact(|tx| {
            if let Some(value) = tx.get(&key)? {
                // Another has made it meanwhile.
                return spaces::number(&value).ok_or_else(|| {
                    Error::corrupt(self.path(), 0, "the number of a view is damaged")
                });
            }
            let taken = match tx.get(spaces::TAKEN_KEY)? {
                Some(taken) => taken.to_vec(),
                None => self.taken_by_names(tx)?,
            };
            let (number, bits) = spaces::take(&taken)?;
            let options = crate::view::options::SetOptions::default().never_expires();
            let options = options.compress(false);
            tx.set_with(spaces::TAKEN_KEY, bits, &options)?;
            tx.set_with(&key, number.to_le_bytes(), &options)?;
            Ok(number)
        })
    }

    /// The numbers that names have, or entries, where none are noted as taken: in a new store, or when a repair
    /// gave the note up. A number is never that of two.
    fn taken_by_names(&self, inner: &Transaction) -> Result<Vec<u8>> {
        let mut numbers = Vec::new();
        for item in inner.iter()? {
            let (key, value) = item?;
            if spaces::is_name(&key) {
                numbers.extend(spaces::number(&value));
            }
        }
        let store = self.store()?;
        let used = (INNER_SPACE + 1..SPACES_MAX as u32).filter(|&number| store.entries(number) > 0);
        numbers.extend(used);
        Ok(spaces::bits_of(numbers.into_iter()))
    }

    /// The transaction this thread is in on the store, over this space; a view reads through it.
    pub(crate) fn inside(&self) -> Result<Option<Transaction>> {
        Ok(state::current(self.store()?).map(|state| Transaction {
            state,
            space: self.space,
        }))
    }

    /// The bell of a name within this space: rung by who changes what others wait for.
    pub(crate) fn bell(&self, name: &[u8]) -> Result<Bell> {
        Ok(Bell::of(self.store()?.hash.of(self.space, name)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn spaces_of_one_store_do_not_see_each_other() -> Result<()> {
        let cache = Cache::temporary()?;
        let one = cache.space("test", b"one")?;
        let other = cache.space("test", b"other")?;
        assert_eq!(one.space, cache.space("test", b"one")?.space);
        cache.set("k", "main")?;
        one.set("k", "1")?;
        other.set_many([("k", "2"), ("l", "3")], &Default::default())?;
        assert_eq!(cache.get("k")?.as_deref(), Some(&b"main"[..]));
        assert_eq!(one.get("k")?.as_deref(), Some(&b"1"[..]));
        assert_eq!((cache.len()?, one.len()?, other.len()?), (1, 1, 2));
        assert_eq!(other.clear()?, 2);
        assert!(one.delete("k")? && !one.contains("k")?);
        assert_eq!((cache.len()?, one.len()?, other.len()?), (1, 0, 0));
        assert!(cache.check()?.is_sound());
        Ok(())
    }

    #[test]
    fn one_transaction_changes_several_spaces() -> Result<()> {
        let cache = Cache::temporary()?;
        let one = cache.space("test", b"one")?;
        let failed = cache.transact(|tx| {
            tx.set("k", "main")?;
            tx.of(&one).set("k", "1")?;
            assert_eq!(
                one.inside()?.expect("inside").get("k")?.as_deref(),
                Some(&b"1"[..])
            );
            Err::<(), _>(Error::Aborted { what: "no".into() })
        });
        assert!(failed.is_err() && !cache.contains("k")? && !one.contains("k")?);
        cache.transact(|tx| {
            tx.set("k", "main")?;
            one.set("k", "1")?;
            let made_inside = cache.space("test", b"late");
            assert!(matches!(made_inside, Err(Error::Aborted { .. })));
            Ok(())
        })?;
        assert_eq!((cache.len()?, one.len()?), (1, 1));
        Ok(())
    }

    #[test]
    fn who_waits_for_a_bell_is_woken_by_the_commit() -> Result<()> {
        let cache = Cache::temporary()?;
        let one = cache.space("test", b"one")?;
        let bell = one.bell(b"name")?;
        let header = &cache.store()?.files.header;
        let rung = bell.rung(header);
        let start = Instant::now();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                while bell.rung(header) == rung && start.elapsed() < Duration::from_secs(20) {
                    bell.wait(header, rung, Duration::from_secs(20));
                }
            });
            std::thread::sleep(Duration::from_millis(5));
            let done = one.transact(|tx| {
                tx.ring(bell);
                tx.set("k", "v")
            });
            waiter.join().expect("it wakes");
            done
        })?;
        assert_ne!(bell.rung(header), rung);
        Ok(())
    }
}
