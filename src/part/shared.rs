//! The mapped files of one store, and each word in them by its address.
//!
//! Owns: the header's mapping and the derived files' regions. Never knows which change means what.

use std::fs::File;
use std::ops::Deref;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::{ArcSwapOption, Guard};

use crate::error::{Error, Result};
use crate::format::header::{self as layout, Address, Shared, space};
use crate::format::name::Name;
use crate::format::settings::Settings;
use crate::limits::SPACES_MAX;
use crate::os::dir::Dir;
use crate::os::raw::Map;
use crate::os::region::Region;

/// The header's words.
#[derive(Debug)]
pub(crate) struct Header {
    map: Map,
    file: File,
    pub(crate) inode: u64,
}

impl Header {
    /// Maps the header file, which has its whole length.
    pub(crate) fn new(dir: &Dir, file: File) -> Result<Header> {
        let stat = dir.stat_open(Name::Header, &file)?;
        if stat.len < layout::HEADER_LEN {
            return Err(Error::corrupt(
                dir.path_of(Name::Header),
                stat.len,
                "the header file is cut short",
            ));
        }
        let map = Map::new(&file, 0, layout::HEADER_LEN as usize)
            .map_err(|error| Error::io("mapping", dir.path_of(Name::Header), error))?;
        map.touch(0, layout::HEADER_LEN as usize)
            .map_err(|error| Error::io("reading", dir.path_of(Name::Header), error))?;
        Ok(Header {
            map,
            file,
            inode: stat.inode,
        })
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    #[inline]
    pub(crate) fn word(&self, at: u64) -> &AtomicU64 {
        self.map.word(at as usize)
    }

    pub(crate) fn half(&self, at: u64) -> &AtomicU32 {
        self.map.half(at as usize)
    }

    #[inline]
    pub(crate) fn get(&self, at: u64) -> u64 {
        self.word(at).load(Ordering::Acquire)
    }

    /// A word that counts something: whatever the file says, small enough to be added to and
    /// multiplied by what is added to and multiplied by here.
    #[inline]
    pub(crate) fn number(&self, at: u64) -> u64 {
        self.get(at).min(1 << 48)
    }

    #[inline]
    pub(crate) fn put(&self, at: u64, value: u64) {
        self.word(at).store(value, Ordering::Release);
    }

    /// Adds to a counter and returns what it was.
    pub(crate) fn add(&self, at: u64, count: u64) -> u64 {
        self.word(at).fetch_add(count, Ordering::AcqRel)
    }

    /// The bytes from `at` to `end`.
    pub(crate) fn bytes(&self, at: u64, end: u64) -> Vec<u8> {
        let mut out = Vec::new();
        self.map
            .copy_out(at as usize, (end - at) as usize, &mut out);
        out
    }

    pub(crate) fn write(&self, at: u64, bytes: &[u8]) {
        self.map.copy_in(at as usize, bytes);
    }

    /// The settings as they are now; `None`: their words are damaged.
    pub(crate) fn settings(&self) -> Option<Settings> {
        // Somebody may be changing them: a few tries tell that from damage.
        for _ in 0..20 {
            let mut words = [0; layout::SETTINGS_WORDS as usize];
            for (n, word) in words.iter_mut().enumerate() {
                *word = self.get(layout::SETTINGS_AT + n as u64 * 8);
            }
            if self.get(layout::SETTINGS_CRC_AT) == settings_crc(&words) {
                return Some(Settings::from_words(&words));
            }
            std::thread::yield_now();
        }
        None
    }

    /// One setting's word, for the hot paths.
    #[inline]
    pub(crate) fn setting(&self, index: u64) -> u64 {
        self.word(layout::SETTINGS_AT + index * 8)
            .load(Ordering::Relaxed)
    }

    pub(crate) fn put_settings(&self, settings: &Settings) {
        for (at, value) in settings_pairs(settings) {
            self.put(at, value);
        }
    }

    /// The checksum of what a graceful leave finds, bound to the sequence.
    pub(crate) fn quiet(&self) -> u64 {
        let mut crc = crc32fast::Hasher::new();
        for (at, end) in layout::QUIET_RANGES {
            crc.update(&self.bytes(at, end));
        }
        u64::from(crc.finalize()) | self.number(layout::COMMITTED_AT) << 32 | 1 << 63
    }

    /// Something changes: what a graceful leave wrote holds no longer.
    #[inline]
    pub(crate) fn disturb(&self) {
        if self.get(layout::QUIET_AT) != 0 {
            self.put(layout::QUIET_AT, 0);
        }
    }
}

fn settings_crc(words: &[u64; layout::SETTINGS_WORDS as usize]) -> u64 {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    u64::from(crc32fast::hash(&bytes)) | 1 << 32
}

/// The header words that hold `settings`.
pub(crate) fn settings_pairs(settings: &Settings) -> Vec<(u64, u64)> {
    let words = settings.to_words();
    let mut pairs: Vec<_> = words
        .iter()
        .enumerate()
        .map(|(n, &word)| (layout::SETTINGS_AT + n as u64 * 8, word))
        .collect();
    pairs.push((layout::SETTINGS_CRC_AT, settings_crc(&words)));
    pairs
}

/// Which word of the settings holds what.
pub(crate) mod setting {
    pub(crate) const SIZE_LIMIT: u64 = 0;
    pub(crate) const SEGMENT_SIZE: u64 = 1;
    pub(crate) const LARGE_VALUE: u64 = 2;
    pub(crate) const DURABILITY: u64 = 3;
    pub(crate) const LOCK_TIMEOUT: u64 = 5;
    pub(crate) const COMPRESS_ALWAYS: u64 = 8;
    pub(crate) const DEFAULT_TTL: u64 = 9;
    pub(crate) const STATISTICS: u64 = 10;
    pub(crate) const POLICY: u64 = 11;
    pub(crate) const COUNT_LIMIT: u64 = 12;
    pub(crate) const MAX_AGE: u64 = 13;
    pub(crate) const CULL_LIMIT: u64 = 14;
}

/// One file of a space's order list; a denser one may have taken its place.
#[derive(Debug)]
pub(crate) struct OrderFile {
    pub(crate) generation: u64,
    pub(crate) region: Region,
}

struct OrderSeat(Guard<Option<Arc<OrderFile>>>);

impl Deref for OrderSeat {
    type Target = Arc<OrderFile>;

    #[inline]
    fn deref(&self) -> &Arc<OrderFile> {
        match &*self.0 {
            Some(file) => file,
            // Made from one that is there alone.
            None => unreachable!("a seat is taken"),
        }
    }
}

/// All mapped files of a store.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) header: Header,
    pub(crate) generation: u64,
    pub(crate) keymap: Region,
    pub(crate) over: Region,
    pub(crate) segs: Region,
    pub(crate) lists: Region,
    pub(crate) posts: Region,
    ghost: OnceLock<Region>,
    orders: [ArcSwapOption<OrderFile>; SPACES_MAX],
}

impl Files {
    /// Opens the derived files the header names.
    pub(crate) fn open(dir: &Dir, header: Header) -> Result<Files> {
        let generation = header.get(layout::GENERATION_AT);
        let open = |name: Name| -> Result<Region> {
            let Some(file) = dir.open_file(name)? else {
                return Err(Error::corrupt(
                    dir.path_of(name),
                    0,
                    "this derived file is missing",
                ));
            };
            Region::new(dir, name, file)
        };
        Ok(Files {
            generation,
            keymap: open(Name::Keymap(generation))?,
            over: open(Name::Overflow(generation))?,
            segs: open(Name::Segments(generation))?,
            lists: open(Name::Lists(generation))?,
            posts: open(Name::Posts(generation))?,
            ghost: OnceLock::new(),
            orders: [const { ArcSwapOption::const_empty() }; SPACES_MAX],
            header,
        })
    }

    /// Makes empty derived files of `generation`.
    pub(crate) fn create(dir: &Dir, header: Header, generation: u64) -> Result<Files> {
        let make = |name: Name| -> Result<Region> { Region::new(dir, name, dir.create(name)?) };
        Ok(Files {
            generation,
            keymap: make(Name::Keymap(generation))?,
            over: make(Name::Overflow(generation))?,
            segs: make(Name::Segments(generation))?,
            lists: make(Name::Lists(generation))?,
            posts: make(Name::Posts(generation))?,
            ghost: OnceLock::new(),
            orders: [const { ArcSwapOption::const_empty() }; SPACES_MAX],
            header,
        })
    }

    /// A field of a space's row in the header.
    pub(crate) fn space(&self, space: u32, field: u64) -> u64 {
        self.header
            .number(layout::SPACES_AT + u64::from(space) * layout::SPACE_LEN + field)
    }

    pub(crate) fn space_at(space: u32, field: u64) -> Address {
        Address::header(layout::SPACES_AT + u64::from(space) * layout::SPACE_LEN + field)
    }

    /// The order list's file; `None`: the space has had no entry yet.
    pub(crate) fn order(&self, dir: &Dir, space: u32) -> Result<Option<Arc<OrderFile>>> {
        Ok(self.order_seat(dir, space)?.map(|seat| Arc::clone(&seat)))
    }

    #[inline]
    fn order_seat(&self, dir: &Dir, space: u32) -> Result<Option<OrderSeat>> {
        let Some(seat) = self.orders.get(space as usize) else {
            return Err(Error::corrupt(
                dir.path_of(Name::Header),
                0,
                format!("there is no space {space}"),
            ));
        };
        let generation = self.space(space, space::GENERATION);
        let file = seat.load();
        if file
            .as_ref()
            .is_some_and(|file| file.generation == generation)
        {
            return Ok(Some(OrderSeat(file)));
        }
        self.open_order(dir, space, generation)
    }

    #[cold]
    fn open_order(&self, dir: &Dir, space: u32, generation: u64) -> Result<Option<OrderSeat>> {
        if generation == 0 {
            return Ok(None);
        }
        let name = Name::Order { space, generation };
        let Some(file) = dir.open_file(name)? else {
            return Err(Error::corrupt(
                dir.path_of(name),
                0,
                "this derived file is missing",
            ));
        };
        let region = Region::new(dir, name, file)?;
        let file = Arc::new(OrderFile { generation, region });
        self.orders[space as usize].store(Some(Arc::clone(&file)));
        Ok(Some(OrderSeat(Guard::from_inner(Some(file)))))
    }

    /// Makes the order list's file of a space that has none.
    pub(crate) fn create_order(&self, dir: &Dir, space: u32) -> Result<()> {
        let name = Name::Order {
            space,
            generation: self.generation,
        };
        let file = dir.create(name)?;
        drop(file);
        let at = |field| Self::space_at(space, field).at;
        self.header.put(at(space::BYTES), 0);
        self.header.put(at(space::GENERATION), self.generation);
        Ok(())
    }

    /// The ghost table; `None`: there is none.
    pub(crate) fn ghost(&self, dir: &Dir) -> Result<Option<&Region>> {
        if let Some(region) = self.ghost.get() {
            return Ok(Some(region));
        }
        if self.header.get(layout::GHOST_BITS_AT) == 0 {
            return Ok(None);
        }
        let name = Name::Ghost(self.generation);
        let Some(file) = dir.open_file(name)? else {
            return Ok(None);
        };
        let region = Region::new(dir, name, file)?;
        Ok(Some(self.ghost.get_or_init(|| region)))
    }

    /// Loads the word at an address.
    #[inline]
    pub(crate) fn load(&self, dir: &Dir, address: Address) -> Result<u64> {
        Ok(match address.file {
            Shared::Keymap => self.keymap.word(address.at)?.load(Ordering::Acquire),
            Shared::Overflow => self.over.word(address.at)?.load(Ordering::Acquire),
            Shared::Header => self.header.get(address.at),
            Shared::Segments => self.segs.word(address.at)?.load(Ordering::Acquire),
            Shared::Lists => self.lists.word(address.at)?.load(Ordering::Acquire),
            Shared::Posts => self.posts.word(address.at)?.load(Ordering::Acquire),
            Shared::Ghost => return Err(self.no_such_word(dir, address)),
            Shared::Order(space) => match self.order_seat(dir, space)? {
                Some(file) => file.region.word(address.at)?.load(Ordering::Acquire),
                None => return Err(self.no_such_word(dir, address)),
            },
        })
    }

    /// The header says that more of a file is in use than it has: taking space for that could take all there
    /// is. From here on the store is suspect.
    pub(crate) fn more_used_than_has(&self, region: &Region, has: u64) -> Error {
        self.header.put(layout::SUSPECT_AT, 1);
        let what = "the header says that more of this file is in use than it has";
        Error::corrupt(region.path(), has, what)
    }

    fn no_such_word(&self, dir: &Dir, address: Address) -> Error {
        Error::corrupt(
            dir.path_of(Name::Header),
            address.at,
            format!("an address names {:?}, where nothing is", address.file),
        )
    }

    /// Stores a word at an address, visible to every process at once.
    #[inline]
    pub(crate) fn store(&self, dir: &Dir, address: Address, value: u64) -> Result<()> {
        let region = match address.file {
            Shared::Header if address.at + 8 <= layout::HEADER_LEN => {
                self.header.put(address.at & !7, value);
                return Ok(());
            }
            Shared::Header => {
                return Err(Error::corrupt(
                    dir.path_of(Name::Header),
                    address.at,
                    "an address is past the header",
                ));
            }
            Shared::Keymap => &self.keymap,
            Shared::Overflow => &self.over,
            Shared::Segments => &self.segs,
            Shared::Lists => &self.lists,
            Shared::Posts => &self.posts,
            Shared::Ghost => return Err(self.no_such_word(dir, address)),
            Shared::Order(space) => {
                let Some(file) = self.order_seat(dir, space)? else {
                    return Err(self.no_such_word(dir, address));
                };
                file.region
                    .word(address.at)?
                    .store(value, Ordering::Release);
                return Ok(());
            }
        };
        if address.half {
            region
                .half(address.at)?
                .store(value as u32, Ordering::Release);
        } else {
            region.word(address.at)?.store(value, Ordering::Release);
        }
        Ok(())
    }

    /// Every derived file that is open or recorded, for syncing.
    pub(crate) fn sync_derived(&self, dir: &Dir) -> Result<()> {
        for region in [
            &self.keymap,
            &self.over,
            &self.segs,
            &self.lists,
            &self.posts,
        ] {
            dir.sync(region.name(), region.file())?;
        }
        for space in 0..SPACES_MAX as u32 {
            if let Some(file) = self.order(dir, space)? {
                dir.sync(file.region.name(), file.region.file())?;
            }
        }
        Ok(())
    }
}
