//! What a transaction has done so far: changes over the store, seen by itself alone.
//!
//! Owns the writer lock for as long as it lives, and the changes until they are committed. Never
//! shows anybody else a thing.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use crate::engine::change::{Change, Payload};
use crate::engine::cull::Spared;
use crate::engine::large::Stream;
use crate::engine::quota::quota_key;
use crate::engine::store::{Held, INNER_SPACE, MAIN_SPACE, Proof, Store};
use crate::engine::tags::{tag_id_key, tag_key};
use crate::error::{Error, Result};
use crate::format::header as layout;
use crate::format::record::{flag, tags_of};
use crate::limits::TAGS_MAX;
use crate::part::bell::Bell;
use crate::view::deque::shape::Shape;
use crate::view::options::SetOptions;
use crate::view::prepare::{self, Prepared};
use crate::view::value::{Number, Value, ValueKind};

/// An open transaction.
pub(crate) struct State {
    held: Held<Arc<Store>>,
    pub(crate) store: Arc<Store>,
    changes: Vec<Change>,
    /// Index of a key's change, by its hash; one of another key with that hash is at the next number.
    by_hash: SeatMap,
    streams: Vec<Stream>,
    new_tags: HashMap<Vec<u8>, u32>,
    /// Of tags, once all is committed.
    quotas: Vec<(u32, u64)>,
    /// Who waits for what this changes is woken once it is committed.
    rings: Vec<Bell>,
    /// The deques it works on, by their front space, as they are now.
    pub(crate) deques: Vec<(u32, Shape)>,
    /// Numbers given by `new_number`.
    numbered: u64,
    /// It leads to removing: as `Proof::in_reserve`.
    pub(crate) is_in_reserve: bool,
    pub(crate) now_ms: u64,
}

/// Indexes by hash.
pub(crate) type SeatMap = HashMap<u64, usize, BuildHasherDefault<AsIs>>;

/// The store's hash is one already.
#[derive(Default)]
pub(crate) struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0 << 8 | u64::from(byte);
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = word;
    }
}

thread_local! {
    /// The transactions this thread is in, outermost first.
    static OPEN: RefCell<Vec<(usize, Weak<RefCell<State>>)>> = const { RefCell::new(Vec::new()) };
}

fn address(store: &Arc<Store>) -> usize {
    Arc::as_ptr(store) as usize
}

/// The transaction this thread is in on `store`.
pub(crate) fn current(store: &Arc<Store>) -> Option<Rc<RefCell<State>>> {
    OPEN.with_borrow(|open| {
        open.iter()
            .rev()
            .find(|(at, _)| *at == address(store))
            .and_then(|(_, state)| state.upgrade())
    })
}

/// Whether this thread is in a transaction on `store`; cheap.
#[inline]
pub(crate) fn is_inside(store: &Arc<Store>) -> bool {
    OPEN.with_borrow(|open| !open.is_empty() && open.iter().any(|(at, _)| *at == address(store)))
}

/// Whether this thread is in a transaction on any store: it must wait for no other lock.
pub(crate) fn is_any_open() -> bool {
    OPEN.with_borrow(|open| !open.is_empty())
}

/// Takes a thread's note of a transaction away when it ends, also by a panic.
pub(crate) struct Entered;

impl Entered {
    pub(crate) fn new(store: &Arc<Store>, state: &Rc<RefCell<State>>) -> Self {
        OPEN.with_borrow_mut(|open| open.push((address(store), Rc::downgrade(state))));
        Entered
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        OPEN.with_borrow_mut(|open| open.pop());
    }
}

impl State {
    pub(crate) fn begin(store: &Arc<Store>, timeout: Option<Duration>) -> Result<State> {
        let held = Store::lock(Arc::clone(store), timeout)?;
        Ok(State::over(store, held))
    }

    /// A transaction over a store whose lock is had.
    pub(crate) fn over(store: &Arc<Store>, held: Held<Arc<Store>>) -> State {
        State {
            held,
            store: Arc::clone(store),
            changes: Vec::new(),
            by_hash: HashMap::default(),
            streams: Vec::new(),
            new_tags: HashMap::new(),
            quotas: Vec::new(),
            rings: Vec::new(),
            deques: Vec::new(),
            numbered: 0,
            is_in_reserve: false,
            now_ms: store.now_ms(),
        }
    }

    pub(crate) fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// A change that is no caller's.
    pub(crate) fn add(&mut self, change: Change) {
        self.push(change);
    }

    /// Commits entries that name the files of this transaction's new large values: from then on the files
    /// are the store's. `name` is given the changes and the files.
    pub(crate) fn hand_over_files(
        &mut self,
        name: impl FnOnce(&Store, &[Change], &[u64]) -> Vec<Change>,
    ) -> Result<()> {
        if self.streams.is_empty() {
            return Ok(());
        }
        let files: Vec<u64> = self.streams.iter().map(|stream| stream.id).collect();
        let (store, proof) = self.held.parts();
        let named = name(store, &self.changes, &files);
        if named.is_empty() {
            return Ok(());
        }
        store.commit_inner(proof, &named)?;
        self.keep_named(&named);
        Ok(())
    }

    /// The files of new large values that changes name are the store's.
    ///
    /// One that was set and replaced again in the transaction is of no record: it goes with the transaction,
    /// when the lock is given back.
    fn keep_named(&mut self, changes: &[Change]) {
        let files = |change: &Change| Some(change.set.as_ref()?.apart?.id);
        for stream in std::mem::take(&mut self.streams) {
            if changes
                .iter()
                .any(|change| files(change) == Some(stream.id))
            {
                stream.keep();
            } else {
                self.streams.push(stream);
            }
        }
    }

    /// Sees to it that these changes and `more` find their room, making it under the lock if need be.
    pub(crate) fn foresee(&mut self, more: &[Change], slack_bytes: u64) -> Result<()> {
        let (store, proof) = self.held.parts();
        let all = (&self.changes[..], more);
        match store.foresee(proof, &all, slack_bytes) {
            Err(Error::Full { needed_bytes, .. })
                if store.make_way_locked(proof, needed_bytes)? =>
            {
                store.foresee(proof, &all, slack_bytes)
            }
            done => done,
        }
    }

    /// The lock's parts for the engine's calls.
    pub(crate) fn held(&mut self) -> (&Store, &mut Proof) {
        self.held.parts()
    }

    /// Makes all changes happen, and tells those who wait for them.
    pub(crate) fn commit(mut self) -> Result<()> {
        self.commit_held()
    }

    /// The same; the lock stays had.
    pub(crate) fn commit_held(&mut self) -> Result<()> {
        self.check_fork()?;
        let store = Arc::clone(&self.store);
        let rings = std::mem::take(&mut self.rings);
        // Also after an error: what failed may be what comes after the change.
        let done = self.make_changes();
        for bell in rings {
            bell.ring(&store.files.header);
        }
        done
    }

    /// One change beneath this transaction: at once, and whatever becomes of it.
    pub(crate) fn beneath<T>(
        &mut self,
        work: impl FnOnce(&Store, &mut Proof) -> Result<T>,
    ) -> Result<T> {
        self.check_fork()?;
        let (store, proof) = self.held.parts();
        work(store, proof)
    }

    /// Once this is committed, the bell rings.
    pub(crate) fn ring(&mut self, bell: Bell) {
        if !self.rings.contains(&bell) {
            self.rings.push(bell);
        }
    }

    /// A number no other entry was ever given, for the name of one that this transaction sets: each takes
    /// a sequence, so the next transaction begins above.
    pub(crate) fn new_number(&mut self) -> u64 {
        self.numbered += 1;
        self.store.committed() + self.numbered
    }

    fn make_changes(&mut self) -> Result<()> {
        let mut changes = std::mem::take(&mut self.changes);
        changes.retain(|change| !change.is_void);
        let (store, proof) = self.held.parts();
        proof.in_reserve = self.is_in_reserve;
        let before = store.committed();
        match store.commit(proof, &changes) {
            Err(Error::Full { needed_bytes, .. })
                if store.make_way_locked(proof, needed_bytes)? =>
            {
                store.commit(proof, &changes)?;
            }
            done => done?,
        }
        store.mark_if_due(proof);
        for (id, bytes) in self.quotas.drain(..) {
            store.put_quota(id, bytes)?;
            store.cull_to_quota(proof, id, &Spared::nothing())?;
        }
        store.upkeep_beside(proof, &Spared(before + 1..store.committed() + 1));
        self.keep_named(&changes);
        for (name, id) in self.new_tags.drain() {
            self.store.remember_tag(&name, id);
        }
        Ok(())
    }

    pub(crate) fn check_fork(&self) -> Result<()> {
        if self.store.is_forked() {
            Err(Error::Forked)
        } else {
            Ok(())
        }
    }

    /// Room for `more` changes.
    pub(crate) fn reserve(&mut self, more: usize) {
        self.changes.reserve(more);
        self.by_hash.reserve(more);
    }

    fn index_of(&self, space: u32, key: &[u8], hash: u64) -> Option<usize> {
        self.seat_of(space, key, hash)
            .and_then(|seat| self.by_hash.get(&seat).copied())
    }

    /// Under which number a key's change is noted.
    fn seat_of(&self, space: u32, key: &[u8], hash: u64) -> Option<u64> {
        let mut seat = hash;
        while let Some(&index) = self.by_hash.get(&seat) {
            let change = &self.changes[index];
            if change.space == space && change.key == key {
                return Some(seat);
            }
            seat = seat.wrapping_add(1);
        }
        None
    }

    /// The entry as this transaction sees it, live or expired; its value as stored.
    pub(crate) fn entry(&self, space: u32, key: &[u8]) -> Result<Option<Payload>> {
        self.check_fork()?;
        let hash = self.store.hash.of(space, key);
        if let Some(index) = self.index_of(space, key, hash) {
            return Ok(self.changes[index].set.clone());
        }
        let mut buffer = Vec::new();
        let Some(hit) = self.store.find(space, key, hash, &mut buffer)? else {
            return Ok(None);
        };
        let head = hit.head;
        let tags = tags_of(&hit.head, &buffer).collect();
        Ok(Some(Payload {
            value_kind: head.value_kind,
            value: hit.value(&buffer).to_vec(),
            // As it is for everybody: renewed, or told to be over.
            expires_ms: match self.store.lives(&hit, self.now_ms) {
                true => {
                    let expires = self.store.own_expiry_of(&hit, self.now_ms);
                    head.options.expires_ms.map(|_| expires)
                }
                false => Some(0),
            },
            zstd: head.options.zstd,
            apart: head.options.apart,
            sliding_ms: head.options.sliding_ms,
            cost_s: head.options.cost_s,
            is_item: head.flags & flag::ITEM != 0,
            tag_seq: head.options.tag_seq,
            tags,
            stored_s: head.stored_s,
        }))
    }

    /// Whether this transaction sets a key over an item of a queue.
    pub(crate) fn is_over_item(&self, space: u32, key: &[u8]) -> Result<bool> {
        let hash = self.store.hash.of(space, key);
        let Some(index) = self
            .index_of(space, key, hash)
            .filter(|&index| !self.changes[index].fresh)
        else {
            return Ok(false);
        };
        let change = &self.changes[index];
        let mut buffer = Vec::new();
        let below = self.store.find(space, &change.key, hash, &mut buffer)?;
        Ok(below.is_some_and(|hit| hit.head.flags & flag::ITEM != 0))
    }

    /// The entry, if it is live.
    pub(crate) fn live(&self, space: u32, key: &[u8]) -> Result<Option<Payload>> {
        let now = self.now_ms;
        Ok(self
            .entry(space, key)?
            .filter(|payload| payload.expires_ms.is_none_or(|expires| expires > now)))
    }

    /// The plain value of a payload.
    pub(crate) fn value(&self, payload: &Payload) -> Result<Value> {
        let kind = ValueKind::from_byte(payload.value_kind);
        if let Some(apart) = payload.apart {
            let mut bytes = Vec::new();
            return match self.store.read_apart(apart, &mut bytes)? {
                Some(()) => Ok(Value::whole(bytes, kind)),
                None => {
                    let path = self.store.dir.path_of(Store::value_file(apart.id));
                    Err(Error::corrupt(
                        path,
                        0,
                        "the file of a large value is missing",
                    ))
                }
            };
        }
        if let Some((plain_len, dictionary)) = payload.zstd {
            return Ok(Value::whole(
                prepare::decompress(&payload.value, plain_len, dictionary)?,
                kind,
            ));
        }
        let bytes = match Number::read(kind, &payload.value) {
            Some(number) => number.to_string().into_bytes(),
            None => payload.value.clone(),
        };
        Ok(Value::whole(bytes, kind))
    }

    /// The key will be `payload`.
    pub(crate) fn put(&mut self, space: u32, key: &[u8], payload: Payload) -> Result<()> {
        self.check_fork()?;
        let hash = self.store.hash.of(space, key);
        let Some(seat) = self.seat_of(space, key, hash) else {
            self.push(Change {
                space,
                key: key.to_vec(),
                hash,
                set: Some(payload),
                fresh: false,
                is_void: false,
            });
            return Ok(());
        };
        let index = self.by_hash[&seat];
        let change = &mut self.changes[index];
        if let Some(before) = &change.set {
            let is_item = payload.is_item || before.is_item;
            change.set = Some(Payload { is_item, ..payload });
            return Ok(());
        }
        // Removed and set again: a new entry, behind those set meanwhile.
        change.is_void = true;
        self.by_hash.insert(seat, self.changes.len());
        self.changes.push(Change {
            space,
            key: key.to_vec(),
            hash,
            set: Some(payload),
            fresh: true,
            is_void: false,
        });
        Ok(())
    }

    fn push(&mut self, change: Change) {
        let mut seat = change.hash;
        while self.by_hash.contains_key(&seat) {
            seat = seat.wrapping_add(1);
        }
        self.by_hash.insert(seat, self.changes.len());
        self.changes.push(change);
    }

    /// The key will be gone.
    pub(crate) fn remove(&mut self, space: u32, key: &[u8]) -> Result<()> {
        self.check_fork()?;
        let hash = self.store.hash.of(space, key);
        match self.index_of(space, key, hash) {
            Some(index) => self.changes[index].set = None,
            None => self.push(Change {
                space,
                key: key.to_vec(),
                hash,
                set: None,
                fresh: false,
                is_void: false,
            }),
        }
        Ok(())
    }

    /// Sets a key to a prepared value.
    pub(crate) fn set(
        &mut self,
        space: u32,
        key: &[u8],
        prepared: Prepared<'_>,
        options: &SetOptions,
    ) -> Result<()> {
        prepare::check_key(key)?;
        let tags = self.tag_ids(&options.tags)?;
        let (payload, stream) = prepared.into_payload(tags, self.store.second(self.now_ms));
        self.streams.extend(stream);
        self.put(space, key, payload)
    }

    /// As [`State::set`], for an item of a queue.
    pub(crate) fn set_item(
        &mut self,
        key: &[u8],
        prepared: Prepared<'_>,
        options: &SetOptions,
    ) -> Result<()> {
        self.set(MAIN_SPACE, key, prepared, options)?;
        let hash = self.store.hash.of(MAIN_SPACE, key);
        if let Some(index) = self.index_of(MAIN_SPACE, key, hash)
            && let Some(payload) = self.changes[index].set.as_mut()
        {
            payload.is_item = true;
        }
        Ok(())
    }

    /// As [`State::set`], with the second of an earlier storing, and as the item of a queue it was.
    pub(crate) fn set_as_stored(
        &mut self,
        key: &[u8],
        prepared: Prepared<'_>,
        tags: &[Vec<u8>],
        (stored_s, is_item): (u32, bool),
    ) -> Result<()> {
        let tags = self.tag_ids(tags)?;
        let (payload, stream) = prepared.into_payload(tags, stored_s);
        self.streams.extend(stream);
        self.put(MAIN_SPACE, key, Payload { is_item, ..payload })
    }

    /// The ids of tags; new ones are named in this transaction.
    fn tag_ids(&mut self, names: &[Vec<u8>]) -> Result<Vec<u32>> {
        prepare::check_tags(names)?;
        let mut ids: Vec<u32> = Vec::with_capacity(names.len());
        for name in names {
            let id = match self.new_tags.get(name) {
                Some(id) => Some(*id),
                None => self.store.tag_id(name)?,
            };
            let id = match id {
                Some(id) => id,
                None => self.name_tag(name)?,
            };
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        debug_assert!(ids.len() <= TAGS_MAX);
        Ok(ids)
    }

    /// A tag's quota: an entry of the inner space, and once that is committed a word of its row.
    pub(crate) fn set_quota(&mut self, tag: &[u8], bytes: Option<u64>) -> Result<()> {
        let ids = self.tag_ids(&[tag.to_vec()])?;
        let key = quota_key(tag);
        match bytes {
            None => self.remove(INNER_SPACE, &key)?,
            Some(bytes) => {
                let payload = self.inner_payload(bytes.to_le_bytes().to_vec());
                self.put(INNER_SPACE, &key, payload)?;
            }
        }
        self.quotas
            .extend(ids.into_iter().map(|id| (id, bytes.unwrap_or(0))));
        Ok(())
    }

    /// Plain bytes that never expire.
    pub(crate) fn inner_payload(&self, value: Vec<u8>) -> Payload {
        Payload {
            value_kind: 0,
            value,
            expires_ms: None,
            zstd: None,
            apart: None,
            sliding_ms: None,
            cost_s: None,
            is_item: false,
            tag_seq: 0,
            tags: Vec::new(),
            stored_s: self.store.second(self.now_ms),
        }
    }

    fn name_tag(&mut self, name: &[u8]) -> Result<u32> {
        // An id handed out and not used is lost; there are four thousand million.
        let id = self.store.files.header.add(layout::NEXT_TAG_AT, 1);
        let Ok(id) = u32::try_from(id) else {
            return Err(Error::TooLarge {
                what: "the number of tags ever used",
                bytes: id,
                max_bytes: u32::MAX.into(),
            });
        };
        let payload = self.inner_payload(id.to_le_bytes().to_vec());
        self.put(INNER_SPACE, &tag_key(name), payload)?;
        let payload = self.inner_payload(name.to_vec());
        self.put(INNER_SPACE, &tag_id_key(id), payload)?;
        self.new_tags.insert(name.to_vec(), id);
        self.store.reserve_tag(id)?;
        Ok(id)
    }

    /// Entries as this transaction sees them, expired ones included.
    pub(crate) fn len(&self, space: u32) -> Result<u64> {
        let mut len = self.store.entries(space) as i64;
        let mut buffer = Vec::new();
        for change in self
            .changes
            .iter()
            .filter(|change| change.space == space && !change.is_void)
        {
            let was_there = self
                .store
                .find(space, &change.key, change.hash, &mut buffer)?
                .is_some();
            len += i64::from(change.set.is_some()) - i64::from(was_there);
        }
        Ok(len.max(0) as u64)
    }

    /// How this transaction changes a key of the store: `None`: not at all.
    pub(crate) fn change_of(&self, space: u32, key: &[u8]) -> Option<&Change> {
        let hash = self.store.hash.of(space, key);
        self.index_of(space, key, hash)
            .map(|index| &self.changes[index])
    }

    /// Whether it has changed anything in a space.
    pub(crate) fn touches(&self, space: u32) -> bool {
        self.changes.iter().any(|change| change.space == space)
    }

    /// The transaction's own sets, in the order in which new ones would be inserted.
    pub(crate) fn sets(&self, space: u32) -> impl DoubleEndedIterator<Item = (&Change, &Payload)> {
        self.changes
            .iter()
            .filter(move |change| change.space == space && !change.is_void)
            .filter_map(|change| Some((change, change.set.as_ref()?)))
    }
}
