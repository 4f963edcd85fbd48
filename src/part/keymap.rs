//! The keymap: linear hashing over buckets of one cache line, read without a lock.
//!
//! Owns: buckets, overflow chains, splitting. Holds: a word that stays never moves; overflow buckets
//! are never unlinked while the generation lives; movers are copied, the growth is published, and
//! only then are they cleared. Never looks at a record: `DESIGN.md` (keymap) has the races.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use crate::error::{Error, Result};
use crate::format::bucket::{
    self, BUCKET_LEN, BUCKETS_MAX, LINK_AT, Link, Place, STAMPS_AT, Split, WORDS, is_whole,
    known_hash, may_be, read_link,
};
use crate::format::header::{self as layout, Address, Shared};
use crate::limits::CHAIN_MAX;
use crate::os::dir::Dir;
use crate::os::region::{Line, Region};
use crate::part::shared::Files;

/// Buckets per word-load of .70: (words in use) * 10 > buckets * WORDS * 7 asks for a split.
const LOAD: (u64, u64) = (10, 7);
/// Bytes the keymap grows by at least.
const GROW_MIN: u64 = 16 * 1024;

/// One bucket of a chain.
#[derive(Clone, Copy)]
struct At<'a> {
    file: Shared,
    at: u64,
    line: Line<'a>,
}

/// A word met in a chain.
#[derive(Clone, Copy)]
pub(crate) struct Met<'a> {
    pub(crate) address: Address,
    pub(crate) word: u64,
    pub(crate) cell: &'a AtomicU64,
    /// Where its access stamp is.
    line: Line<'a>,
    index: u64,
}

impl Met<'_> {
    /// Whether the word is still what was met.
    #[inline]
    pub(crate) fn unchanged(&self) -> bool {
        fence(Ordering::Acquire);
        self.cell.load(Ordering::Acquire) == self.word
    }

    /// Its access stamp (`format/stamp.rs`).
    #[inline]
    pub(crate) fn stamp(&self) -> u32 {
        self.line
            .half(STAMPS_AT + self.index * 4)
            .load(Ordering::Relaxed)
    }

    /// Notes an access.
    #[inline]
    pub(crate) fn set_stamp(&self, bits: u32) {
        let stamp = self.line.half(STAMPS_AT + self.index * 4);
        if stamp.load(Ordering::Relaxed) != bits {
            stamp.store(bits, Ordering::Relaxed);
        }
    }

    /// Changes the stamp from `before`; whether it was that still.
    pub(crate) fn replace_stamp(&self, before: u32, bits: u32) -> bool {
        let stamp = self.line.half(STAMPS_AT + self.index * 4);
        stamp
            .compare_exchange(before, bits, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }
}

/// The place for a new word.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vacancy {
    pub(crate) word: Address,
    /// Of a new overflow bucket: where its link goes, and what the link says.
    pub(crate) link: Option<(Address, u32)>,
}

/// The keymap of one store's files.
#[derive(Clone, Copy)]
pub(crate) struct Keymap<'a> {
    files: &'a Files,
}

impl<'a> Keymap<'a> {
    pub(crate) fn of(files: &'a Files) -> Self {
        Keymap { files }
    }

    /// How far the table has grown.
    #[inline]
    pub(crate) fn split(&self) -> Split {
        Split::from_bits(self.files.header.get(layout::SPLIT_AT))
    }

    /// Has the bucket of a hash come into the processor's cache.
    #[inline]
    pub(crate) fn prefetch(&self, hash: u64) {
        self.files
            .keymap
            .prefetch(self.split().bucket(hash) * BUCKET_LEN);
    }

    /// Where a word that may be of `hash` leads, looked for in its first bucket alone: a hint.
    #[inline]
    pub(crate) fn likely_place(&self, hash: u64) -> Option<Place> {
        let bucket = self.at(Shared::Keymap, self.split().bucket(hash)).ok()?;
        let words = (0..WORDS).map(|n| bucket.line.word(n * 8).load(Ordering::Relaxed));
        let mut ours = words.filter(|&word| is_whole(word) && may_be(word, hash));
        ours.find_map(bucket::place)
    }

    fn region(&self, file: Shared) -> &'a Region {
        if file == Shared::Keymap {
            &self.files.keymap
        } else {
            &self.files.over
        }
    }

    #[inline]
    fn at(&self, file: Shared, index: u64) -> Result<At<'a>> {
        let at = index * BUCKET_LEN;
        Ok(At {
            file,
            at,
            line: self.region(file).line(at)?,
        })
    }

    /// The next bucket of a chain.
    #[inline]
    fn next(&self, bucket: &At<'a>) -> Result<Option<At<'a>>> {
        match read_link(bucket.line.half(LINK_AT).load(Ordering::Acquire)) {
            Link::End => Ok(None),
            Link::To(index) => self.at(Shared::Overflow, u64::from(index)).map(Some),
            Link::Damaged => {
                Err(self.damaged(bucket, LINK_AT, "a link between buckets is damaged"))
            }
        }
    }

    fn damaged(&self, bucket: &At<'_>, at: u64, what: &str) -> Error {
        self.files.header.put(layout::SUSPECT_AT, 1);
        Error::corrupt(self.region(bucket.file).path(), bucket.at + at, what)
    }

    fn chain(
        &self,
        index: u64,
        mut visit: impl FnMut(&At<'a>) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let mut bucket = self.at(Shared::Keymap, index)?;
        for _ in 0..CHAIN_MAX {
            if visit(&bucket)?.is_break() {
                return Ok(());
            }
            match self.next(&bucket)? {
                Some(next) => bucket = next,
                None => return Ok(()),
            }
        }
        Err(self.damaged(&bucket, LINK_AT, "a chain of buckets never ends"))
    }

    /// Visits the words that may lead to `hash` in bucket `index`, until one breaks.
    ///
    /// A word with a damaged parity is visited too, with `whole` false: it may have been anyone's.
    #[inline]
    pub(crate) fn probe<T>(
        &self,
        index: u64,
        hash: u64,
        mut visit: impl FnMut(Met<'a>, bool) -> Result<ControlFlow<T>>,
    ) -> Result<Option<T>> {
        let mut bucket = self.at(Shared::Keymap, index)?;
        for _ in 0..CHAIN_MAX {
            for n in 0..WORDS {
                let cell = bucket.line.word(n * 8);
                let word = cell.load(Ordering::Acquire);
                if word == 0 || (is_whole(word) && !may_be(word, hash)) {
                    continue;
                }
                let address = Address {
                    file: bucket.file,
                    at: bucket.at + n * 8,
                    half: false,
                };
                let met = Met {
                    address,
                    word,
                    cell,
                    line: bucket.line,
                    index: n,
                };
                if let ControlFlow::Break(found) = visit(met, is_whole(word))? {
                    return Ok(Some(found));
                }
            }
            match self.next(&bucket)? {
                Some(next) => bucket = next,
                None => return Ok(None),
            }
        }
        Err(self.damaged(&bucket, LINK_AT, "a chain of buckets never ends"))
    }

    /// Visits every word of bucket `index`, damaged ones too, with their addresses.
    pub(crate) fn words(&self, index: u64, mut visit: impl FnMut(Address, u64)) -> Result<()> {
        self.chain(index, |bucket| {
            for n in 0..WORDS {
                let word = bucket.line.word(n * 8).load(Ordering::Acquire);
                if word != 0 {
                    visit(
                        Address {
                            file: bucket.file,
                            at: bucket.at + n * 8,
                            half: false,
                        },
                        word,
                    );
                }
            }
            Ok(ControlFlow::Continue(()))
        })
    }

    /// The stamp beside the word at `address`.
    #[inline]
    pub(crate) fn stamp_at(&self, address: Address) -> Result<&'a AtomicU32> {
        let line = self
            .region(address.file)
            .line(address.at & !(BUCKET_LEN - 1))?;
        let n = (address.at % BUCKET_LEN / 8).min(WORDS - 1);
        Ok(line.half(STAMPS_AT + n * 4))
    }

    /// Where a new word of `hash` goes. Under the writer lock, after [`Keymap::reserve`].
    pub(crate) fn vacancy(&self, hash: u64, taken: &[Address]) -> Result<Vacancy> {
        let mut found = None;
        let mut last = None;
        self.chain(self.split().bucket(hash), |bucket| {
            for n in 0..WORDS {
                let address = Address {
                    file: bucket.file,
                    at: bucket.at + n * 8,
                    half: false,
                };
                if bucket.line.word(n * 8).load(Ordering::Relaxed) == 0 && !taken.contains(&address)
                {
                    found = Some(address);
                    return Ok(ControlFlow::Break(()));
                }
            }
            last = Some(Address {
                file: bucket.file,
                at: bucket.at + LINK_AT,
                half: true,
            });
            Ok(ControlFlow::Continue(()))
        })?;
        if let Some(word) = found {
            return Ok(Vacancy { word, link: None });
        }
        let index = self.files.header.number(layout::OVER_USED_AT);
        let word = Address {
            file: Shared::Overflow,
            at: index * BUCKET_LEN,
            half: false,
        };
        Ok(Vacancy {
            word,
            link: last.map(|link| (link, bucket::link(index as u32))),
        })
    }

    /// Sees to it that one more overflow bucket, and one more split, find their space.
    ///
    /// Returns the bytes taken on disk. A refusal for the split alone is not an error: chains grow.
    pub(crate) fn reserve(&self, dir: &Dir, over_buckets: u64) -> Result<u64> {
        self.reserve_for(dir, over_buckets, 0)
    }

    fn reserve_for(&self, dir: &Dir, over_buckets: u64, more: u64) -> Result<u64> {
        let header = &self.files.header;
        let mut taken = 0;
        let over_used = header.number(layout::OVER_USED_AT);
        let over_has = header.number(layout::OVER_BYTES_AT);
        if over_used * BUCKET_LEN > over_has {
            return Err(self.files.more_used_than_has(&self.files.over, over_has));
        }
        let over_need = (over_used + over_buckets + 2) * BUCKET_LEN;
        if over_need > over_has {
            let step = (over_has / 16)
                .clamp(GROW_MIN, 4 << 20)
                .max(over_need - over_has)
                .next_multiple_of(GROW_MIN);
            self.files.over.grow(dir, over_has, over_has + step)?;
            header.put(layout::OVER_BYTES_AT, over_has + step);
            taken += step;
        }
        let has = header.number(layout::KEYMAP_BYTES_AT);
        if self.wants_split_for(more) && (self.split().target() + 4) * BUCKET_LEN > has {
            let step = (has / 64)
                .clamp(GROW_MIN, 4 << 20)
                .next_multiple_of(GROW_MIN);
            if self.files.keymap.grow(dir, has, has + step).is_ok() {
                header.put(layout::KEYMAP_BYTES_AT, has + step);
                taken += step;
            }
        }
        Ok(taken)
    }

    fn wants_split(&self) -> bool {
        self.wants_split_for(0)
    }

    /// Whether `more` words would pass the load.
    pub(crate) fn wants_split_for(&self, more: u64) -> bool {
        let (times, share) = LOAD;
        let buckets = self.split().buckets();
        (self.files.header.number(layout::KEYMAP_USED_AT) + more) * times > buckets * WORDS * share
            && buckets < BUCKETS_MAX
    }

    /// Splits one bucket if the load asks for it. Under the writer lock.
    pub(crate) fn grow(&self) -> Result<()> {
        if !self.wants_split() {
            return Ok(());
        }
        self.split_one()
    }

    /// Splits for `more` words to come, as far as there is room; whether one was split.
    pub(crate) fn grow_for(&self, dir: &Dir, more: u64) -> Result<(bool, u64)> {
        if !self.wants_split_for(more) {
            return Ok((false, 0));
        }
        let taken = self.reserve_for(dir, 0, more)?;
        let before = self.split();
        self.split_one()?;
        Ok((self.split() != before, taken))
    }

    fn split_one(&self) -> Result<()> {
        let header = &self.files.header;
        let split = self.split();
        let room = (split.target() + 1) * BUCKET_LEN <= header.number(layout::KEYMAP_BYTES_AT);
        // Movers may need a chain as long as the one they leave.
        let mut chain = 0;
        self.chain(split.next, |_| {
            chain += 1;
            Ok(ControlFlow::Continue(()))
        })?;
        let over_room = (header.number(layout::OVER_USED_AT) + chain) * BUCKET_LEN
            <= header.number(layout::OVER_BYTES_AT);
        if !room || !over_room {
            return Ok(());
        }
        header.put(layout::SPLITTING_AT, split.next + 1);
        fence(Ordering::Release);
        self.copy_movers(split)?;
        fence(Ordering::Release);
        header.put(layout::SPLIT_AT, split.grown().to_bits());
        fence(Ordering::Release);
        self.clear_movers(split.next)?;
        fence(Ordering::Release);
        header.put(layout::SPLITTING_AT, 0);
        Ok(())
    }

    /// Copies what belongs to the new bucket; whatever an earlier attempt left there goes first.
    fn copy_movers(&self, split: Split) -> Result<()> {
        let grown = split.grown();
        self.chain(split.target(), |bucket| {
            for n in 0..WORDS {
                bucket.line.word(n * 8).store(0, Ordering::Relaxed);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        let mut to = self.at(Shared::Keymap, split.target())?;
        let mut n = 0;
        self.chain(split.next, |bucket| {
            for from in 0..WORDS {
                let word = bucket.line.word(from * 8).load(Ordering::Relaxed);
                // Damaged words stay: nobody knows where they belong.
                if word == 0
                    || !is_whole(word)
                    || grown.bucket(known_hash(word, split.next)) == split.next
                {
                    continue;
                }
                if n == WORDS {
                    to = match self.next(&to)? {
                        Some(next) => next,
                        None => self.extend(&to)?,
                    };
                    n = 0;
                }
                to.line.word(n * 8).store(word, Ordering::Relaxed);
                let stamp = bucket
                    .line
                    .half(STAMPS_AT + from * 4)
                    .load(Ordering::Relaxed);
                to.line
                    .half(STAMPS_AT + n * 4)
                    .store(stamp, Ordering::Relaxed);
                n += 1;
            }
            Ok(ControlFlow::Continue(()))
        })
    }

    fn extend(&self, last: &At<'a>) -> Result<At<'a>> {
        let index = self.files.header.add(layout::OVER_USED_AT, 1);
        let bucket = self.at(Shared::Overflow, index)?;
        last.line
            .half(LINK_AT)
            .store(bucket::link(index as u32), Ordering::Release);
        Ok(bucket)
    }

    /// Clears the words that belong elsewhere by now.
    fn clear_movers(&self, index: u64) -> Result<()> {
        let split = self.split();
        self.chain(index, |bucket| {
            for n in 0..WORDS {
                let cell = bucket.line.word(n * 8);
                let word = cell.load(Ordering::Relaxed);
                if word != 0 && is_whole(word) && split.bucket(known_hash(word, index)) != index {
                    cell.store(0, Ordering::Release);
                }
            }
            Ok(ControlFlow::Continue(()))
        })
    }

    /// Finishes a split whose maker died. Under the writer lock.
    pub(crate) fn recover(&self) -> Result<()> {
        let header = &self.files.header;
        let Some(index) = header.get(layout::SPLITTING_AT).checked_sub(1) else {
            return Ok(());
        };
        let split = self.split();
        if index == split.next {
            self.copy_movers(split)?;
            fence(Ordering::Release);
            header.put(layout::SPLIT_AT, split.grown().to_bits());
            fence(Ordering::Release);
        }
        if index < split.grown().buckets() {
            self.clear_movers(index)?;
        }
        fence(Ordering::Release);
        header.put(layout::SPLITTING_AT, 0);
        Ok(())
    }

    /// Puts a word into a keymap nobody else sees yet, making overflow buckets as needed.
    pub(crate) fn insert_alone(&self, dir: &Dir, hash: u64, word: u64) -> Result<()> {
        self.reserve_overflow_alone(dir)?;
        let vacancy = self.vacancy(hash, &[])?;
        self.files.store(dir, vacancy.word, word)?;
        if let Some((link, value)) = vacancy.link {
            self.files.header.add(layout::OVER_USED_AT, 1);
            self.files.store(dir, link, u64::from(value))?;
        }
        self.files.header.add(layout::KEYMAP_USED_AT, 1);
        Ok(())
    }

    fn reserve_overflow_alone(&self, dir: &Dir) -> Result<()> {
        let header = &self.files.header;
        let has = header.number(layout::OVER_BYTES_AT);
        if (header.number(layout::OVER_USED_AT) + 2) * BUCKET_LEN > has {
            let step = (has / 16)
                .clamp(GROW_MIN, 4 << 20)
                .next_multiple_of(GROW_MIN);
            self.files.over.grow(dir, has, has + step)?;
            header.put(layout::OVER_BYTES_AT, has + step);
        }
        Ok(())
    }
}

/// What can be reached of one bucket's chain.
pub(crate) struct Reach {
    /// Each word that is not 0, with its address.
    pub(crate) words: Vec<(Address, u64)>,
    empty: Vec<Address>,
    /// The link of the last bucket reached.
    link: Address,
    /// That link is damaged: what was behind it is lost.
    pub(crate) is_broken: bool,
}

impl Keymap<'_> {
    /// Walks the chain of bucket `index` as far as it goes.
    pub(crate) fn reach(&self, index: u64) -> Result<Reach> {
        let mut bucket = self.at(Shared::Keymap, index)?;
        let (mut words, mut empty, mut seen) = (Vec::new(), Vec::new(), Vec::new());
        loop {
            seen.push((bucket.file, bucket.at));
            for n in 0..WORDS {
                let address = Address {
                    file: bucket.file,
                    at: bucket.at + n * 8,
                    half: false,
                };
                match bucket.line.word(n * 8).load(Ordering::Acquire) {
                    0 => empty.push(address),
                    word => words.push((address, word)),
                }
            }
            let link = Address {
                file: bucket.file,
                at: bucket.at + LINK_AT,
                half: true,
            };
            let next = match read_link(bucket.line.half(LINK_AT).load(Ordering::Acquire)) {
                Link::End => None,
                Link::Damaged => Some(Err(())),
                Link::To(next) => Some(match self.at(Shared::Overflow, u64::from(next)) {
                    // A chain that leads back into itself never ends.
                    Ok(next) if !seen.contains(&(next.file, next.at)) => Ok(next),
                    Ok(_) | Err(Error::Corrupt { .. }) => Err(()),
                    Err(error) => return Err(error),
                }),
            };
            match next {
                Some(Ok(next)) => bucket = next,
                ended => {
                    return Ok(Reach {
                        words,
                        empty,
                        link,
                        is_broken: ended.is_some(),
                    });
                }
            }
        }
    }

    /// Has bucket `index` hold exactly `expected`; whether it did not. Readers find at every moment what
    /// they found before, and what is right. Under the writer lock; adds the bytes taken to `taken`.
    pub(crate) fn mend(
        &self,
        dir: &Dir,
        index: u64,
        expected: &[u64],
        taken: &mut u64,
    ) -> Result<bool> {
        let Reach {
            words,
            mut empty,
            link,
            is_broken,
        } = self.reach(index)?;
        let mut missing = expected.to_vec();
        let mut wrong = Vec::new();
        for (address, word) in words {
            match missing.iter().position(|&other| other == word) {
                Some(at) => drop(missing.swap_remove(at)),
                None => wrong.push(address),
            }
        }
        if missing.is_empty() && wrong.is_empty() && !is_broken {
            return Ok(false);
        }
        while let Some(&word) = missing.last() {
            let Some(address) = wrong.pop().or_else(|| empty.pop()) else {
                break;
            };
            self.files.store(dir, address, word)?;
            missing.pop();
        }
        // The rest in buckets that nobody sees before the one store that links them.
        let mut first = 0;
        for words in missing.chunks(WORDS as usize) {
            *taken += self.reserve(dir, 1)?;
            let number = self.files.header.add(layout::OVER_USED_AT, 1);
            let bucket = self.at(Shared::Overflow, number)?;
            for n in 0..WORDS {
                let word = words.get(n as usize).copied().unwrap_or(0);
                bucket.line.word(n * 8).store(word, Ordering::Relaxed);
                bucket
                    .line
                    .half(STAMPS_AT + n * 4)
                    .store(0, Ordering::Relaxed);
            }
            bucket.line.half(LINK_AT).store(first, Ordering::Relaxed);
            first = bucket::link(number as u32);
        }
        if is_broken || first != 0 {
            fence(Ordering::Release);
            self.files.store(dir, link, u64::from(first))?;
        }
        for address in wrong {
            self.files.store(dir, address, 0)?;
        }
        Ok(true)
    }
}

/// Buckets a keymap for `entries` starts with, and their bytes.
pub(crate) fn buckets_for(entries: u64) -> (Split, u64) {
    let buckets = (entries * 10 / (WORDS * 6)).clamp(1 << bucket::BASE_BITS, BUCKETS_MAX);
    (
        Split::with_buckets(buckets),
        (buckets * BUCKET_LEN).next_multiple_of(GROW_MIN),
    )
}
