//! A store and a plain map in memory get the same random calls and agree after each.
//!
//! The calls are all verbs of `Cache`, from two handles that are two processes to each other, with
//! reopening, rebuilding from the log alone, changed settings and a clock that also jumps back.
//! Insertion order is compared too.
//!
//! An entry that was told to have expired stays so, also under a clock that jumped back; only a rebuild
//! may forget it. Some things are not fixed, and the model follows what the store shows: when an expired
//! entry is really removed (so whether it counts in `len`), therefore whether a write over an expired
//! entry keeps its place or takes the last one, and which entries a policy evicts.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Seek, SeekFrom};
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use larder::{
    Budget, Cache, Durability, Error, Expiry, ManualClock, Number, Policy, Result, SetOptions,
    Settings, Side, TagMatch, Transaction, Value, ValueKind,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

/// When the stores of these tests were made, by their own clock.
const START_MS: u64 = 1_700_000_000_000;
/// Stored times are kept at least this exactly.
const STORED_TOLERANCE_MS: u64 = 1_000;

type Pair = (Vec<u8>, Value);

// ---- what can happen ----

/// A value to store, small to print.
#[derive(Clone, Copy, Debug)]
struct Blob {
    len: usize,
    seed: u64,
    squeezable: bool,
}

impl Blob {
    fn bytes(self) -> Vec<u8> {
        if self.squeezable {
            vec![self.seed as u8; self.len]
        } else {
            common::Dice::new(self.seed).bytes(self.len)
        }
    }
}

/// When an entry is to end.
#[derive(Clone, Copy, Debug)]
enum Ends {
    ByDefault,
    Never,
    AfterMs(u64),
    /// As long after the write or the last read.
    SlidingMs(u64),
    /// From now, also into the past.
    AtMs(i64),
}

#[derive(Clone, Debug)]
struct Opts {
    ends: Ends,
    tags: Vec<u8>,
    compress: Option<bool>,
    kind: Option<u8>,
}

#[derive(Clone, Copy, Debug)]
enum Expected {
    Absent,
    TheValue,
    AnotherValue,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Num {
    Int(i64),
    Float(f64),
}

impl Num {
    fn number(self) -> Number {
        match self {
            Num::Int(int) => Number::Int(int),
            Num::Float(float) => Number::Float(float),
        }
    }

    fn text(self) -> String {
        self.number().to_string()
    }

    fn plus(self, other: Num) -> Option<Num> {
        self.combine(other, i64::checked_add, |a, b| a + b)
    }

    fn minus(self, other: Num) -> Option<Num> {
        self.combine(other, i64::checked_sub, |a, b| a - b)
    }

    fn combine(
        self,
        other: Num,
        ints: impl Fn(i64, i64) -> Option<i64>,
        floats: impl Fn(f64, f64) -> f64,
    ) -> Option<Num> {
        match (self, other) {
            (Num::Int(a), Num::Int(b)) => ints(a, b).map(Num::Int),
            (a, b) => {
                let sum = floats(a.float(), b.float());
                sum.is_finite().then_some(Num::Float(sum))
            }
        }
    }

    fn float(self) -> f64 {
        match self {
            Num::Int(int) => int as f64,
            Num::Float(float) => float,
        }
    }
}

/// The verbs a transaction has as well.
#[derive(Clone, Debug)]
enum Step {
    Get(usize),
    Contains(usize),
    Set(usize, Blob),
    SetWith(usize, Blob, Opts),
    Add(usize, Blob, Opts),
    Replace(usize, Blob, Opts),
    Swap {
        key: usize,
        expected: Expected,
        new: Option<Blob>,
        opts: Opts,
    },
    Touch(usize, Ends),
    Delete(usize),
    Pop(usize),
    Incr {
        key: usize,
        delta: Num,
        default: Num,
    },
    Decr {
        key: usize,
        delta: Num,
        default: Num,
    },
    Push {
        prefix: usize,
        blob: Blob,
        back: bool,
        opts: Opts,
    },
    Pull {
        prefix: usize,
        back: bool,
    },
    Peek {
        prefix: usize,
        back: bool,
    },
    /// A queue is an entry per item: the user may delete or overwrite one in the middle.
    DeleteQueued(usize),
    OverwriteQueued(usize, Blob),
    Len,
    Ends,
    Iterate,
}

#[derive(Clone, Copy, Debug)]
enum Ending {
    Commit,
    Error,
    Panic,
}

#[derive(Clone, Debug)]
enum Change {
    LargeValue(u64),
    DefaultTtl(Option<u64>),
    CompressAlways(bool),
    CompressFrom(u64),
    SegmentSize(u64),
    Statistics(bool),
    Durability(Durability),
    Policy(Policy),
    CountLimit(Option<u64>),
    CullLimit(Option<u64>),
    MaxAge(Option<u64>),
}

#[derive(Clone, Debug)]
enum Action {
    Step(Step),
    SetNumber(usize, Num, Opts),
    SetReader(usize, Blob, Opts),
    SetMany(Vec<(usize, Blob)>, Opts),
    GetInto(usize),
    GetReader {
        key: usize,
        seek: u64,
    },
    GetMany(Vec<usize>),
    Describe(usize),
    Clear,
    Sorted {
        from_back: bool,
    },
    Prefix(usize),
    Range {
        low: usize,
        high: usize,
        low_kind: u8,
        high_kind: u8,
    },
    /// From both ends until they meet, `front` steps first.
    BothWays {
        front: usize,
    },
    IterateWhileWriting {
        back: bool,
        sets: Vec<(usize, Blob)>,
        deletes: Vec<usize>,
    },
    Transact {
        outer: Vec<Step>,
        nested: Option<Vec<Step>>,
        ending: Ending,
    },
    Settings(Change),
    Clock {
        by_ms: i64,
    },
    Flush,
    Check,
    EvictTags {
        tags: Vec<u8>,
        all: bool,
    },
    IterTag(u8),
    Tags,
    Quota {
        tag: u8,
        bytes: Option<u64>,
    },
    Expire,
    Cull,
    Compact,
    Maintain {
        bytes: u64,
        micros: u64,
    },
    /// Many writes of one key, so that segments are sealed and die.
    Churn(usize),
    ReopenOne,
    ReopenBoth {
        close: bool,
    },
    Rebuild {
        close: bool,
    },
}

fn blobs() -> impl Strategy<Value = Blob> {
    let len = prop_oneof![
        2 => Just(0_usize),
        8 => 1_usize..300,
        2 => prop_oneof![Just(4095_usize), Just(4096), Just(4097), Just(8), Just(7)],
        2 => 300_usize..10_000,
        1 => 10_000_usize..102_400,
    ];
    (len, 0_u64..1_000, any::<bool>()).prop_map(|(len, seed, squeezable)| Blob {
        len,
        seed,
        squeezable,
    })
}

fn ends() -> impl Strategy<Value = Ends> {
    prop_oneof![
        4 => Just(Ends::ByDefault),
        1 => Just(Ends::Never),
        2 => (0_u64..5_000).prop_map(Ends::AfterMs),
        1 => (1_000_000_u64..100_000_000_000).prop_map(Ends::AfterMs),
        1 => (500_u64..5_000).prop_map(Ends::SlidingMs),
        1 => (-3_000_i64..5_000).prop_map(Ends::AtMs),
    ]
}

fn opts() -> impl Strategy<Value = Opts> {
    (
        ends(),
        prop_oneof![3 => Just(Vec::new()), 2 => vec(0_u8..6, 1..4)],
        prop_oneof![3 => Just(None), 2 => any::<bool>().prop_map(Some)],
        prop_oneof![3 => Just(None), 1 => (0_u8..4).prop_map(Some)],
    )
        .prop_map(|(ends, tags, compress, kind)| Opts {
            ends,
            tags,
            compress,
            kind,
        })
}

fn nums() -> impl Strategy<Value = Num> {
    prop_oneof![
        6 => (-100_i64..100).prop_map(Num::Int),
        2 => (-100.0_f64..100.0).prop_map(Num::Float),
        1 => prop_oneof![
            Just(Num::Int(i64::MAX)),
            Just(Num::Int(i64::MIN)),
            Just(Num::Int(i64::MAX - 50)),
            Just(Num::Float(f64::MAX)),
            Just(Num::Float(-f64::MAX)),
            Just(Num::Float(0.1)),
            Just(Num::Float(1e300)),
        ],
    ]
}

fn keys() -> impl Strategy<Value = usize> {
    0..KEYS
}

/// Mostly the keys that hold numbers, so that they are counted up more than once.
fn number_keys() -> impl Strategy<Value = usize> {
    prop_oneof![4 => NUMBER_KEYS, 1 => keys()]
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => keys().prop_map(Step::Get),
        1 => keys().prop_map(Step::Contains),
        6 => (keys(), blobs()).prop_map(|(key, blob)| Step::Set(key, blob)),
        6 => (keys(), blobs(), opts()).prop_map(|(key, blob, opts)| Step::SetWith(key, blob, opts)),
        2 => (keys(), blobs(), opts()).prop_map(|(key, blob, opts)| Step::Add(key, blob, opts)),
        2 => (keys(), blobs(), opts()).prop_map(|(key, blob, opts)| Step::Replace(key, blob, opts)),
        3 => (
            keys(),
            prop_oneof![
                Just(Expected::Absent),
                Just(Expected::TheValue),
                Just(Expected::AnotherValue)
            ],
            prop_oneof![1 => Just(None), 2 => blobs().prop_map(Some)],
            opts(),
        )
            .prop_map(|(key, expected, new, opts)| Step::Swap { key, expected, new, opts }),
        2 => (keys(), ends()).prop_map(|(key, ends)| Step::Touch(key, ends)),
        3 => keys().prop_map(Step::Delete),
        2 => keys().prop_map(Step::Pop),
        3 => (number_keys(), nums(), nums())
            .prop_map(|(key, delta, default)| Step::Incr { key, delta, default }),
        2 => (number_keys(), nums(), nums())
            .prop_map(|(key, delta, default)| Step::Decr { key, delta, default }),
        4 => (0..PREFIXES.len(), blobs(), any::<bool>(), opts())
            .prop_map(|(prefix, blob, back, opts)| Step::Push { prefix, blob, back, opts }),
        3 => (0..PREFIXES.len(), any::<bool>()).prop_map(|(prefix, back)| Step::Pull { prefix, back }),
        1 => (0..PREFIXES.len(), any::<bool>()).prop_map(|(prefix, back)| Step::Peek { prefix, back }),
        1 => (0_usize..100).prop_map(Step::DeleteQueued),
        1 => (0_usize..100, blobs()).prop_map(|(at, blob)| Step::OverwriteQueued(at, blob)),
        1 => Just(Step::Len),
        1 => Just(Step::Ends),
        1 => Just(Step::Iterate),
    ]
}

fn changes() -> impl Strategy<Value = Change> {
    prop_oneof![
        1 => prop_oneof![Just(4096_u64), Just(8192), Just(1 << 20)].prop_map(Change::LargeValue),
        1 => prop_oneof![1 => Just(None), 1 => (1_000_u64..10_000).prop_map(Some)]
            .prop_map(Change::DefaultTtl),
        1 => any::<bool>().prop_map(Change::CompressAlways),
        1 => prop_oneof![Just(0_u64), Just(64), Just(1024)].prop_map(Change::CompressFrom),
        1 => prop_oneof![Just(64 << 10), Just(128 << 10), Just(1 << 20)].prop_map(Change::SegmentSize),
        1 => any::<bool>().prop_map(Change::Statistics),
        1 => prop_oneof![
            Just(Durability::Process),
            Just(Durability::Sync),
            Just(Durability::Interval(Duration::from_millis(20))),
        ]
        .prop_map(Change::Durability),
        2 => proptest::sample::select(Policy::ALL.to_vec()).prop_map(Change::Policy),
        2 => prop_oneof![1 => Just(None), 1 => (1_u64..20).prop_map(Some)]
            .prop_map(Change::CountLimit),
        1 => prop_oneof![1 => Just(None), 1 => (0_u64..12).prop_map(Some)]
            .prop_map(Change::CullLimit),
        1 => prop_oneof![1 => Just(None), 1 => (1_000_u64..10_000).prop_map(Some)]
            .prop_map(Change::MaxAge),
    ]
}

fn upkeep() -> impl Strategy<Value = Action> {
    prop_oneof![
        2 => (vec(0_u8..6, 0..3), any::<bool>())
            .prop_map(|(tags, all)| Action::EvictTags { tags, all }),
        2 => (0_u8..6).prop_map(Action::IterTag),
        1 => Just(Action::Tags),
        1 => (0_u8..6, prop_oneof![1 => Just(None), 2 => (1_u64..20_000).prop_map(Some)])
            .prop_map(|(tag, bytes)| Action::Quota { tag, bytes }),
        2 => Just(Action::Expire),
        1 => Just(Action::Cull),
        2 => Just(Action::Compact),
        2 => (0_u64..20_000, 0_u64..300)
            .prop_map(|(bytes, micros)| Action::Maintain { bytes, micros }),
        1 => keys().prop_map(Action::Churn),
    ]
}

fn actions() -> impl Strategy<Value = Action> {
    prop_oneof![
        60 => steps().prop_map(Action::Step),
        2 => (number_keys(), nums(), opts())
            .prop_map(|(key, num, opts)| Action::SetNumber(key, num, opts)),
        3 => (keys(), blobs(), opts()).prop_map(|(key, blob, opts)| Action::SetReader(key, blob, opts)),
        3 => (vec((keys(), blobs()), 0..8), opts())
            .prop_map(|(items, opts)| Action::SetMany(items, opts)),
        1 => keys().prop_map(Action::GetInto),
        2 => (keys(), any::<u64>()).prop_map(|(key, seek)| Action::GetReader { key, seek }),
        1 => vec(keys(), 0..10).prop_map(Action::GetMany),
        2 => keys().prop_map(Action::Describe),
        1 => Just(Action::Clear),
        1 => any::<bool>().prop_map(|from_back| Action::Sorted { from_back }),
        1 => keys().prop_map(Action::Prefix),
        2 => (keys(), keys(), 0_u8..3, 0_u8..3).prop_map(|(low, high, low_kind, high_kind)| {
            Action::Range { low, high, low_kind, high_kind }
        }),
        1 => (0_usize..20).prop_map(|front| Action::BothWays { front }),
        2 => (any::<bool>(), vec((keys(), blobs()), 0..6), vec(keys(), 0..3))
            .prop_map(|(back, sets, deletes)| Action::IterateWhileWriting { back, sets, deletes }),
        6 => (
            vec(steps(), 0..8),
            prop_oneof![2 => Just(None), 1 => vec(steps(), 0..4).prop_map(Some)],
            prop_oneof![3 => Just(Ending::Commit), 1 => Just(Ending::Error), 1 => Just(Ending::Panic)],
        )
            .prop_map(|(outer, nested, ending)| Action::Transact { outer, nested, ending }),
        2 => changes().prop_map(Action::Settings),
        5 => (-4_000_i64..6_000).prop_map(|by_ms| Action::Clock { by_ms }),
        13 => upkeep(),
        1 => Just(Action::Flush),
        1 => Just(Action::Check),
        2 => Just(Action::ReopenOne),
        2 => any::<bool>().prop_map(|close| Action::ReopenBoth { close }),
        2 => any::<bool>().prop_map(|close| Action::Rebuild { close }),
    ]
}

// ---- the keys ----

const KEYS: usize = 18;
const NUMBER_KEYS: std::ops::Range<usize> = 9..12;

/// Keys that are easily mistaken for each other: empty, prefixes, zeros, and 64 KiB long.
fn key(at: usize) -> Vec<u8> {
    match at {
        0 => Vec::new(),
        1 => b"a".to_vec(),
        2 => b"ab".to_vec(),
        3 => b"abc".to_vec(),
        4 => b"a\0".to_vec(),
        5 => b"\0".to_vec(),
        6 => b"\xff".to_vec(),
        7 => b"\xff\xff".to_vec(),
        8 => vec![b'k'; 64 * 1024],
        9 => b"n/1".to_vec(),
        10 => b"n/2".to_vec(),
        11 => b"n/3".to_vec(),
        12 => [vec![b'k'; 64 * 1024 - 1], vec![b'l']].concat(),
        13 => vec![b'm'; 255],
        14 => vec![b'm'; 256],
        15 => b"p/1".to_vec(),
        16 => b"p/2".to_vec(),
        _ => b"p/".to_vec(),
    }
}

/// Prefixes of queues, some of them beginnings of others' keys.
const PREFIXES: [Option<&[u8]>; 5] = [
    None,
    Some(b"q"),
    Some(b"q-5"),
    Some(b"q-500000000000000"),
    Some(b"\xff\x00"),
];

fn tag(at: u8) -> Vec<u8> {
    match at {
        0 => Vec::new(),
        1 => b"red".to_vec(),
        2 => b"re".to_vec(),
        3 => vec![b't'; 300],
        4 => b"\xff\x00".to_vec(),
        _ => b"blue".to_vec(),
    }
}

fn kind(at: u8) -> ValueKind {
    match at {
        0 => ValueKind::Bytes,
        1 => ValueKind::Text,
        2 => ValueKind::Typed(1),
        _ => ValueKind::Typed(200),
    }
}

fn side(back: bool) -> Side {
    if back { Side::Back } else { Side::Front }
}

fn time(ms: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(ms)
}

fn ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .expect("a time after 1970")
        .as_millis() as u64
}

// ---- the verbs both `Cache` and `Transaction` have ----

trait Verbs {
    fn get(&self, key: &[u8]) -> Result<Option<Value>>;
    fn contains(&self, key: &[u8]) -> Result<bool>;
    fn set(&self, key: &[u8], value: &[u8]) -> Result<()>;
    fn set_with(&self, key: &[u8], value: &[u8], options: &SetOptions) -> Result<()>;
    fn add(&self, key: &[u8], value: &[u8], options: &SetOptions) -> Result<bool>;
    fn replace(&self, key: &[u8], value: &[u8], options: &SetOptions) -> Result<bool>;
    fn swap(
        &self,
        key: &[u8],
        expected: Option<&[u8]>,
        new: Option<&[u8]>,
        options: &SetOptions,
    ) -> Result<bool>;
    fn touch(&self, key: &[u8], expiry: Expiry) -> Result<bool>;
    fn delete(&self, key: &[u8]) -> Result<bool>;
    fn pop(&self, key: &[u8]) -> Result<Option<Value>>;
    fn incr(&self, key: &[u8], delta: Number, default: Number) -> Result<Number>;
    fn decr(&self, key: &[u8], delta: Number, default: Number) -> Result<Number>;
    fn push(
        &self,
        prefix: Option<&[u8]>,
        value: &[u8],
        side: Side,
        options: &SetOptions,
    ) -> Result<Vec<u8>>;
    fn pull(&self, prefix: Option<&[u8]>, side: Side) -> Result<Option<Pair>>;
    fn peek(&self, prefix: Option<&[u8]>, side: Side) -> Result<Option<Pair>>;
    fn len(&self) -> Result<u64>;
    fn first(&self) -> Result<Option<Pair>>;
    fn last(&self) -> Result<Option<Pair>>;
    fn all(&self) -> Result<Vec<Pair>>;
    /// Whether a read renews what slides.
    fn renews(&self) -> bool;
}

macro_rules! verbs_of {
    ($type:ty, $renews:literal) => {
        impl Verbs for $type {
            fn get(&self, key: &[u8]) -> Result<Option<Value>> {
                self.get(key)
            }
            fn contains(&self, key: &[u8]) -> Result<bool> {
                self.contains(key)
            }
            fn set(&self, key: &[u8], value: &[u8]) -> Result<()> {
                self.set(key, value)
            }
            fn set_with(&self, key: &[u8], value: &[u8], options: &SetOptions) -> Result<()> {
                self.set_with(key, value, options)
            }
            fn add(&self, key: &[u8], value: &[u8], options: &SetOptions) -> Result<bool> {
                self.add(key, value, options)
            }
            fn replace(&self, key: &[u8], value: &[u8], options: &SetOptions) -> Result<bool> {
                self.replace(key, value, options)
            }
            fn swap(
                &self,
                key: &[u8],
                expected: Option<&[u8]>,
                new: Option<&[u8]>,
                options: &SetOptions,
            ) -> Result<bool> {
                self.compare_and_swap(key, expected, new, options)
            }
            fn touch(&self, key: &[u8], expiry: Expiry) -> Result<bool> {
                self.touch(key, expiry)
            }
            fn delete(&self, key: &[u8]) -> Result<bool> {
                self.delete(key)
            }
            fn pop(&self, key: &[u8]) -> Result<Option<Value>> {
                self.pop(key)
            }
            fn incr(&self, key: &[u8], delta: Number, default: Number) -> Result<Number> {
                self.incr(key, delta, default)
            }
            fn decr(&self, key: &[u8], delta: Number, default: Number) -> Result<Number> {
                self.decr(key, delta, default)
            }
            fn push(
                &self,
                prefix: Option<&[u8]>,
                value: &[u8],
                side: Side,
                options: &SetOptions,
            ) -> Result<Vec<u8>> {
                self.push(prefix, value, side, options)
            }
            fn pull(&self, prefix: Option<&[u8]>, side: Side) -> Result<Option<Pair>> {
                self.pull(prefix, side)
            }
            fn peek(&self, prefix: Option<&[u8]>, side: Side) -> Result<Option<Pair>> {
                self.peek(prefix, side)
            }
            fn len(&self) -> Result<u64> {
                self.len()
            }
            fn first(&self) -> Result<Option<Pair>> {
                self.first()
            }
            fn last(&self) -> Result<Option<Pair>> {
                self.last()
            }
            fn all(&self) -> Result<Vec<Pair>> {
                self.iter()?.collect()
            }
            fn renews(&self) -> bool {
                $renews
            }
        }
    };
}

verbs_of!(Cache, true);
verbs_of!(Transaction, false);

// ---- the model ----

#[derive(Clone, Debug)]
struct Item {
    value: Vec<u8>,
    number: Option<Num>,
    kind: ValueKind,
    /// As the log has it.
    expires_ms: Option<u64>,
    sliding_ms: Option<u64>,
    /// When a sliding one was last read, since the store's birth.
    slid_ms: Option<u64>,
    /// It was told to have expired: whatever the clock says, it has.
    dead: bool,
    tags: BTreeSet<Vec<u8>>,
    stored_ms: u64,
    order: u64,
    /// The place it may also have, when it was written over an expired entry.
    old_orders: Vec<u64>,
    queue: Option<usize>,
    /// It was expired at some moment since it was last known to be there.
    doubtful: bool,
    /// Whether its value may have been compressed.
    squeezed: bool,
}

impl Item {
    fn matches(&self, found: &[u8]) -> bool {
        found == &self.value[..]
    }
}

/// Who may have taken entries away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upkeep {
    /// Nobody: a store is as it was when it is opened again, whoever closed it.
    Nobody,
    /// A write, beside what it did: as many as `cull_limit` says.
    Beside,
    /// Who was asked to, and ended before all was within limits.
    Begun,
    /// Who was asked to, until all was within limits.
    Done,
}

#[derive(Clone, Debug)]
struct Model {
    items: BTreeMap<Vec<u8>, Item>,
    next_order: u64,
    now_ms: u64,
    settings: Settings,
    quotas: BTreeMap<Vec<u8>, u64>,
    /// The latest time at which anybody did anything.
    latest_ms: u64,
    /// The clock jumped back once: what slid may be looked for later than it is over.
    went_back: bool,
    /// What the current action wrote.
    written: BTreeSet<Vec<u8>>,
}

impl Item {
    /// When it is over by its own expiry.
    fn own_expiry(&self, now_ms: u64) -> Option<u64> {
        let expires_ms = self.expires_ms?;
        let since = now_ms.saturating_sub(START_MS);
        match (self.sliding_ms, self.slid_ms) {
            (Some(ttl), Some(slid)) => {
                // A read in what is now the future counts as one at the birth.
                let slid = if slid <= since / 125 * 125 { slid } else { 0 };
                Some(expires_ms.max(START_MS + slid + ttl))
            }
            _ => Some(expires_ms),
        }
    }

    /// The second in which it was stored, since the store's birth, as ms.
    fn stored_second_ms(&self) -> u64 {
        self.stored_ms.saturating_sub(START_MS) / 1_000 * 1_000
    }
}

impl Model {
    fn live(&self, key: &[u8]) -> Option<&Item> {
        self.items.get(key).filter(|item| self.is_live(item))
    }

    fn is_live(&self, item: &Item) -> bool {
        !item.dead && self.ends(item).is_none_or(|at| at > self.now_ms)
    }

    /// When an item is over, for any reason.
    fn ends(&self, item: &Item) -> Option<u64> {
        let age = self.settings.max_age.map(|age| age.as_millis() as u64);
        let too_old = age.map(|age| START_MS + item.stored_second_ms() + age);
        let own = item.own_expiry(self.now_ms);
        own.into_iter().chain(too_old).min()
    }

    /// A read that renews.
    fn note_read(&mut self, key: &[u8]) {
        let since = self.now_ms.saturating_sub(START_MS);
        if self.live(key).is_some()
            && let Some(item) = self
                .items
                .get_mut(key)
                .filter(|item| item.sliding_ms.is_some())
        {
            item.slid_ms = Some(since / 125 * 125);
        }
    }

    /// Everything was read: what was over stays so.
    fn all_was_told(&mut self) {
        let keys: Vec<Vec<u8>> = self
            .items
            .iter()
            .filter(|(_, item)| !self.is_live(item))
            .map(|(key, _)| key.clone())
            .collect();
        for key in keys {
            if let Some(item) = self.items.get_mut(&key) {
                (item.dead, item.doubtful) = (true, true);
            }
        }
    }

    /// Whether the policy may take entries away beside a write.
    fn may_cull(&self) -> bool {
        self.settings.policy != Policy::None && self.settings.count_limit.is_some()
    }

    fn has_tag(item: &Item, tags: &[Vec<u8>], all: bool) -> bool {
        match all {
            true => !tags.is_empty() && tags.iter().all(|tag| item.tags.contains(tag)),
            false => tags.iter().any(|tag| item.tags.contains(tag)),
        }
    }

    /// Learns which entries upkeep took, and judges whether it might.
    fn reconcile(&mut self, store: &Cache, upkeep: Upkeep) {
        let all_limits = upkeep == Upkeep::Done;
        let there: BTreeSet<Vec<u8>> = store
            .keys()
            .expect("keys")
            .map(|key| key.expect("a key"))
            .collect();
        let gone: Vec<Vec<u8>> = self
            .live_keys()
            .map(|(key, _)| key.clone())
            .filter(|key| !there.contains(key))
            .collect();
        let len = store.len().expect("len");
        let over = self
            .items
            .values()
            .filter(|item| !self.is_live(item))
            .count() as u64;
        let limit = self.settings.count_limit.unwrap_or(u64::MAX);
        let most = match upkeep {
            Upkeep::Nobody => {
                assert!(gone.is_empty(), "{} is gone", short(&gone[0]));
                0
            }
            Upkeep::Beside => self.settings.cull_limit.unwrap_or(u64::MAX),
            // It bounds what one write takes, and this was none.
            Upkeep::Begun | Upkeep::Done => u64::MAX,
        };
        let mut culled = 0;
        for key in gone {
            assert!(
                all_limits || !self.written.contains(&key),
                "{} was just written, and is gone",
                short(&key)
            );
            let item = self.items.remove(&key).expect("it was live");
            if !item.tags.iter().any(|tag| self.quotas.contains_key(tag)) {
                assert!(self.may_cull(), "{} is gone", short(&key));
                culled += 1;
            }
        }
        assert!(culled <= most, "{culled} are gone, at most {most} may");
        if culled > 0 {
            assert!(
                len + over >= limit,
                "{culled} too many are gone: {len} of {limit} left"
            );
        }
        let has_written = all_limits || !self.written.is_empty();
        if self.may_cull() && most == u64::MAX && has_written {
            let spared = if all_limits {
                0
            } else {
                self.written.len() as u64
            };
            assert!(
                len <= limit.max(spared),
                "{len} entries, at most {limit} may be"
            );
        }
        for usage in store.tags().expect("tags") {
            let has = |key: &Vec<u8>| {
                let item = self.items.get(key);
                item.is_some_and(|item| item.tags.contains(&usage.name))
            };
            let with: Vec<&Vec<u8>> = self.items.keys().filter(|key| has(key)).collect();
            assert_eq!(usage.quota_bytes, self.quotas.get(&usage.name).copied());
            if self.written.iter().any(has)
                && let Some(quota) = usage.quota_bytes
                && usage.bytes > quota
            {
                let live = with.iter().filter(|key| self.live(key).is_some());
                assert!(
                    live.into_iter().all(|key| self.written.contains(*key)),
                    "tag {} has {} bytes, at most {quota} may be",
                    short(&usage.name),
                    usage.bytes
                );
            }
        }
    }

    fn live_keys(&self) -> impl Iterator<Item = (&Vec<u8>, &Item)> {
        self.items.iter().filter(|(_, item)| self.is_live(item))
    }

    fn expiry(&self, ends: Ends) -> Option<u64> {
        match ends {
            Ends::ByDefault => self
                .settings
                .default_ttl
                .map(|ttl| self.now_ms + ttl.as_millis() as u64),
            Ends::Never => None,
            Ends::AfterMs(ms) | Ends::SlidingMs(ms) => Some(self.now_ms + ms),
            Ends::AtMs(ms) => Some(self.now_ms.saturating_add_signed(ms)),
        }
    }

    fn options(&self, opts: &Opts) -> SetOptions {
        let mut options = SetOptions::default().tags(opts.tags.iter().map(|at| tag(*at)));
        options = match opts.ends {
            Ends::ByDefault => options,
            Ends::Never => options.never_expires(),
            Ends::AfterMs(ms) => options.ttl(Duration::from_millis(ms)),
            Ends::SlidingMs(ms) => options.sliding_ttl(Duration::from_millis(ms)),
            Ends::AtMs(ms) => options.expires_at(time(self.now_ms.saturating_add_signed(ms))),
        };
        if let Some(compress) = opts.compress {
            options = options.compress(compress);
        }
        if let Some(at) = opts.kind {
            options = options.kind(kind(at));
        }
        options
    }

    fn put(&mut self, key: &[u8], value: Vec<u8>, opts: &Opts) {
        let item = Item {
            value,
            number: None,
            kind: opts.kind.map_or(ValueKind::Bytes, kind),
            expires_ms: self.expiry(opts.ends),
            sliding_ms: match opts.ends {
                Ends::SlidingMs(ms) => Some(ms),
                _ => None,
            },
            slid_ms: None,
            dead: false,
            tags: opts.tags.iter().map(|at| tag(*at)).collect(),
            stored_ms: self.now_ms,
            order: 0,
            old_orders: Vec::new(),
            queue: None,
            doubtful: false,
            squeezed: opts.compress.unwrap_or(self.settings.compression.always),
        };
        self.insert(key, item);
    }

    fn put_number(&mut self, key: &[u8], num: Num, opts: &Opts) {
        self.put(key, num.text().into_bytes(), opts);
        let item = self.items.get_mut(key).expect("just put");
        item.number = Some(num);
        item.kind = match num {
            Num::Int(_) => ValueKind::Integer,
            Num::Float(_) => ValueKind::Float,
        };
    }

    /// Puts an item where the key's old one was, or last.
    fn insert(&mut self, key: &[u8], mut item: Item) {
        let last = self.next_order;
        self.next_order += 1;
        match self.items.get(key) {
            Some(old) if old.doubtful || !self.is_live(old) => {
                item.order = last;
                // Any of its earlier places, if it was doubtful more than once.
                item.old_orders = old.old_orders.clone();
                item.old_orders.push(old.order);
                item.queue = item.queue.or(old.queue);
            }
            Some(old) => {
                item.order = old.order;
                item.old_orders = old.old_orders.clone();
                item.queue = item.queue.or(old.queue);
            }
            None => item.order = last,
        }
        item.doubtful = false;
        item.doubtful = !self.is_live(&item);
        self.written.insert(key.to_vec());
        self.items.insert(key.to_vec(), item);
    }

    fn queued(&self, prefix: usize, back: bool) -> Option<Vec<u8>> {
        let mut queue = self
            .live_keys()
            .filter(|(_, item)| item.queue == Some(prefix))
            .map(|(key, _)| key.clone());
        if back {
            queue.next_back_of()
        } else {
            queue.next()
        }
    }

    fn all_queued(&self) -> Vec<Vec<u8>> {
        self.live_keys()
            .filter(|(_, item)| item.queue.is_some())
            .map(|(key, _)| key.clone())
            .collect()
    }

    fn set_clock(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        self.latest_ms = self.latest_ms.max(now_ms);
        self.went_back |= now_ms < self.latest_ms;
        let over: Vec<bool> = self
            .items
            .values()
            .map(|item| !self.is_live(item))
            .collect();
        for (item, over) in self.items.values_mut().zip(over) {
            item.doubtful |= over;
        }
    }

    /// The store was rebuilt from its log, which knows of no read. What had expired, and by the clock
    /// lives again, may still be there: asks the store.
    fn forget_reads(&mut self, store: &dyn Verbs) {
        for item in self.items.values_mut() {
            (item.dead, item.slid_ms) = (false, None);
        }
        let back: Vec<Vec<u8>> = self
            .live_keys()
            .filter(|(_, item)| item.doubtful)
            .map(|(key, _)| key.clone())
            .collect();
        for key in back {
            if store.contains(&key).expect("contains") {
                if let Some(item) = self.items.get_mut(&key) {
                    item.doubtful = false;
                }
            } else {
                self.items.remove(&key);
            }
        }
    }

    /// Compares an order the store shows with the model's, and learns the places left open.
    fn check_order(&mut self, found: &[Vec<u8>], complete: bool) {
        let mut seen = BTreeSet::new();
        for key in found {
            assert!(seen.insert(key.clone()), "{} came twice", short(key));
            assert!(
                self.live(key).is_some(),
                "{} is not in the model",
                short(key)
            );
        }
        if complete {
            for (key, _) in self.live_keys() {
                assert!(
                    seen.contains(key),
                    "{} is missing from iteration",
                    short(key)
                );
            }
        }
        let sure: Vec<(usize, u64)> = found
            .iter()
            .enumerate()
            .filter(|(_, key)| self.items[*key].old_orders.is_empty())
            .map(|(at, key)| (at, self.items[key].order))
            .collect();
        for pair in sure.windows(2) {
            assert!(
                pair[0].1 < pair[1].1,
                "{} stands before {}, but was inserted after it",
                short(&found[pair[0].0]),
                short(&found[pair[1].0]),
            );
        }
        for (at, key) in found.iter().enumerate() {
            let item = self.items.get_mut(key).expect("checked above");
            if item.old_orders.is_empty() {
                continue;
            }
            let before = sure
                .iter()
                .rev()
                .find(|(place, _)| *place < at)
                .map(|(_, order)| *order);
            let after = sure
                .iter()
                .find(|(place, _)| *place > at)
                .map(|(_, order)| *order);
            let fits = |order: u64| {
                before.is_none_or(|before| before < order)
                    && after.is_none_or(|after| order < after)
            };
            let mut places = std::mem::take(&mut item.old_orders);
            places.push(item.order);
            places.retain(|&order| fits(order));
            match places.as_slice() {
                [] => panic!("{} is neither at an old place nor last", short(key)),
                [only] => item.order = *only,
                // Not to be told yet.
                [old @ .., last] => {
                    item.old_orders = old.to_vec();
                    item.order = *last;
                }
            }
        }
    }
}

trait LastOf: Iterator {
    fn next_back_of(&mut self) -> Option<Self::Item> {
        self.last()
    }
}
impl<I: Iterator> LastOf for I {}

fn short(key: &[u8]) -> String {
    if key.len() > 40 {
        format!(
            "{:?}… ({} bytes)",
            String::from_utf8_lossy(&key[..8]),
            key.len()
        )
    } else {
        format!("{:?}", String::from_utf8_lossy(key))
    }
}

fn assert_value(what: &str, key: &[u8], found: Option<&[u8]>, expected: Option<&Item>) {
    match (found, expected) {
        (None, None) => {}
        (Some(found), Some(item)) => assert!(
            item.matches(found),
            "{what} {}: {} instead of {}",
            short(key),
            short(found),
            short(&item.value)
        ),
        (Some(found), None) => panic!("{what} {}: {} instead of nothing", short(key), short(found)),
        (None, Some(item)) => {
            panic!(
                "{what} {}: nothing instead of {}",
                short(key),
                short(&item.value)
            )
        }
    }
}

/// One step on a store or inside a transaction, and on the model, with the same outcome.
fn step(store: &dyn Verbs, model: &mut Model, step: &Step) {
    match step {
        Step::Get(at) => {
            let key = key(*at);
            let found = store.get(&key).expect("get");
            assert_value("get", &key, found.as_deref(), model.live(&key));
            if store.renews() {
                model.note_read(&key);
            }
            if let (Some(found), Some(item)) = (&found, model.live(&key)) {
                assert_eq!(found.kind(), item.kind, "kind of {}", short(&key));
            }
        }
        Step::Contains(at) => {
            let key = key(*at);
            assert_eq!(
                store.contains(&key).expect("contains"),
                model.live(&key).is_some()
            );
        }
        Step::Set(at, blob) => {
            let key = key(*at);
            store.set(&key, &blob.bytes()).expect("set");
            model.put(&key, blob.bytes(), &PLAIN);
        }
        Step::SetWith(at, blob, opts) => {
            let key = key(*at);
            store
                .set_with(&key, &blob.bytes(), &model.options(opts))
                .expect("set_with");
            model.put(&key, blob.bytes(), opts);
        }
        Step::Add(at, blob, opts) => {
            let key = key(*at);
            let added = store
                .add(&key, &blob.bytes(), &model.options(opts))
                .expect("add");
            assert_eq!(added, model.live(&key).is_none(), "add {}", short(&key));
            if added {
                model.put(&key, blob.bytes(), opts);
            }
        }
        Step::Replace(at, blob, opts) => {
            let key = key(*at);
            let done = store
                .replace(&key, &blob.bytes(), &model.options(opts))
                .expect("replace");
            assert_eq!(done, model.live(&key).is_some(), "replace {}", short(&key));
            if done {
                model.put(&key, blob.bytes(), opts);
            }
        }
        Step::Swap {
            key: at,
            expected,
            new,
            opts,
        } => {
            swap(store, model, &key(*at), *expected, *new, opts);
        }
        Step::Touch(at, ends) => touch(store, model, &key(*at), *ends),
        Step::Delete(at) => delete(store, model, &key(*at)),
        Step::Pop(at) => {
            let key = key(*at);
            let found = store.pop(&key).expect("pop");
            assert_value("pop", &key, found.as_deref(), model.live(&key));
            if found.is_some() {
                model.items.remove(&key);
            }
        }
        Step::Incr {
            key: at,
            delta,
            default,
        } => count(store, model, &key(*at), *delta, *default, true),
        Step::Decr {
            key: at,
            delta,
            default,
        } => {
            count(store, model, &key(*at), *delta, *default, false);
        }
        Step::Push {
            prefix,
            blob,
            back,
            opts,
        } => {
            push(store, model, *prefix, *blob, *back, opts);
        }
        Step::Pull { prefix, back } => {
            let found = store.pull(PREFIXES[*prefix], side(*back)).expect("pull");
            assert_front(model, *prefix, *back, found.as_ref(), "pull");
            if let Some((key, _)) = found {
                model.items.remove(&key);
            }
        }
        Step::Peek { prefix, back } => {
            let found = store.peek(PREFIXES[*prefix], side(*back)).expect("peek");
            assert_front(model, *prefix, *back, found.as_ref(), "peek");
        }
        Step::DeleteQueued(at) => {
            let queued = model.all_queued();
            if !queued.is_empty() {
                delete(store, model, &queued[at % queued.len()]);
            }
        }
        Step::OverwriteQueued(at, blob) => {
            let queued = model.all_queued();
            if !queued.is_empty() {
                let key = &queued[at % queued.len()];
                store.set(key, &blob.bytes()).expect("set");
                model.put(key, blob.bytes(), &PLAIN);
            }
        }
        Step::Len => check_len(store, model),
        Step::Ends => {
            let all = store.all().expect("iter");
            let first = store.first().expect("first");
            let last = store.last().expect("last");
            assert_eq!(
                first.map(|pair| pair.0),
                all.first().map(|pair| pair.0.clone())
            );
            assert_eq!(
                last.map(|pair| pair.0),
                all.last().map(|pair| pair.0.clone())
            );
        }
        Step::Iterate => {
            let all = store.all().expect("iter");
            check_all(model, &all);
        }
    }
}

const PLAIN: Opts = Opts {
    ends: Ends::ByDefault,
    tags: Vec::new(),
    compress: None,
    kind: None,
};

fn check_all(model: &mut Model, all: &[Pair]) {
    let keys: Vec<Vec<u8>> = all.iter().map(|(key, _)| key.clone()).collect();
    model.check_order(&keys, true);
    for (key, value) in all {
        assert_value("iter", key, Some(value), model.live(key));
    }
}

fn check_len(store: &dyn Verbs, model: &Model) {
    let len = store.len().expect("len");
    let live = model.live_keys().count() as u64;
    let all = model.items.len() as u64;
    assert!(
        (live..=all).contains(&len),
        "len {len}, live {live}, with expired ones {all}"
    );
}

/// What is told of tags is what their entries sum up to.
fn check_tags(store: &Cache, model: &Model) {
    let told = store.tags().expect("tags");
    let volume = store.volume().expect("volume");
    let named: BTreeSet<&Vec<u8>> = told.iter().map(|usage| &usage.name).collect();
    assert_eq!(named.len(), told.len(), "a tag is told twice");
    let mut names: BTreeSet<&Vec<u8>> = model.quotas.keys().collect();
    for (_, item) in model.live_keys() {
        names.extend(&item.tags);
    }
    for name in names {
        assert!(named.contains(name), "tag {} is not told", short(name));
    }
    for usage in &told {
        let has = |item: &Item| item.tags.contains(&usage.name);
        let live = model.live_keys().filter(|(_, item)| has(item)).count() as u64;
        let most = model.items.values().filter(|item| has(item)).count() as u64;
        assert!(
            (live..=most).contains(&usage.entries),
            "tag {}: {} entries, {live} to {most} expected",
            short(&usage.name),
            usage.entries
        );
        assert!(usage.bytes <= volume, "{usage:?} of {volume} in all");
        assert_eq!(usage.entries == 0, usage.bytes == 0, "{usage:?}");
        // Each has a header, and a word or more of tags.
        assert!(usage.bytes >= usage.entries * 48, "{usage:?}");
        assert_eq!(usage.quota_bytes, model.quotas.get(&usage.name).copied());
    }
}

/// After all that is over was removed: none of it counts any more.
fn check_expired(model: &mut Model, len: u64, aged_too: bool) {
    let live = model.live_keys().count() as u64;
    // Nobody looks for what was told to be over under another clock or another `max_age`, nor does
    // `expire` for what is too old.
    let is_left = |item: &Item| {
        let over = if aged_too {
            model.ends(item)
        } else {
            item.own_expiry(model.now_ms)
        };
        let is_late = model.went_back && item.sliding_ms.is_some();
        !model.is_live(item) && (is_late || over.is_none_or(|at| at > model.now_ms))
    };
    let left = model.items.values().filter(|item| is_left(item)).count() as u64;
    if model.now_ms >= model.latest_ms {
        assert!(
            (live..=live + left).contains(&len),
            "{len} entries, {live} to {left} more live"
        );
        if left == 0 {
            let keys: Vec<Vec<u8>> = model.live_keys().map(|(key, _)| key.clone()).collect();
            model.items.retain(|key, _| keys.contains(key));
        }
    }
}

fn swap(
    store: &dyn Verbs,
    model: &mut Model,
    key: &[u8],
    expected: Expected,
    new: Option<Blob>,
    opts: &Opts,
) {
    let current = model.live(key).map(|item| item.value.clone());
    let bytes = match expected {
        Expected::Absent => None,
        Expected::TheValue => Some(current.clone().unwrap_or_else(|| b"none".to_vec())),
        Expected::AnotherValue => {
            let mut other = current.clone().unwrap_or_default();
            match other.last_mut() {
                Some(last) => *last ^= 1,
                None => other.push(0),
            }
            Some(other)
        }
    };
    let new_bytes = new.map(Blob::bytes);
    let done = store
        .swap(
            key,
            bytes.as_deref(),
            new_bytes.as_deref(),
            &model.options(opts),
        )
        .expect("compare_and_swap");
    assert_eq!(
        done,
        bytes == current,
        "compare_and_swap {} expecting {expected:?}",
        short(key)
    );
    if done {
        match new_bytes {
            Some(value) => model.put(key, value, opts),
            None if current.is_some() => {
                model.items.remove(key);
            }
            None => {}
        }
    }
}

fn touch(store: &dyn Verbs, model: &mut Model, key: &[u8], ends: Ends) {
    let (expiry, expires_ms) = match ends {
        Ends::ByDefault | Ends::Never => (Expiry::Never, None),
        Ends::AfterMs(after) | Ends::SlidingMs(after) => (
            Expiry::After(Duration::from_millis(after)),
            Some(model.now_ms + after),
        ),
        Ends::AtMs(by) => {
            let at = model.now_ms.saturating_add_signed(by);
            (Expiry::At(time(at)), Some(at))
        }
    };
    let touched = store.touch(key, expiry).expect("touch");
    assert_eq!(touched, model.live(key).is_some(), "touch {}", short(key));
    if touched {
        let now_ms = model.now_ms;
        model.written.insert(key.to_vec());
        let item = model.items.get_mut(key).expect("it is live");
        // A new ttl slides on, any other moment ends it.
        item.sliding_ms = item.sliding_ms.and(match expiry {
            Expiry::After(ttl) => Some(ttl.as_millis() as u64),
            _ => None,
        });
        (item.expires_ms, item.slid_ms) = (expires_ms, None);
        item.doubtful = expires_ms.is_some_and(|at| at <= now_ms);
    }
}

fn delete(store: &dyn Verbs, model: &mut Model, key: &[u8]) {
    let deleted = store.delete(key).expect("delete");
    assert_eq!(deleted, model.live(key).is_some(), "delete {}", short(key));
    if deleted {
        model.items.remove(key);
    }
}

fn count(store: &dyn Verbs, model: &mut Model, key: &[u8], delta: Num, default: Num, up: bool) {
    let result = if up {
        store.incr(key, delta.number(), default.number())
    } else {
        store.decr(key, delta.number(), default.number())
    };
    let now_ms = model.now_ms;
    let from = match model.live(key) {
        None => Some(default),
        Some(item) => item.number,
    };
    let Some(from) = from else {
        assert!(
            matches!(result, Err(Error::NotANumber { .. })),
            "counting on bytes gave {result:?}"
        );
        return;
    };
    let Some(sum) = (if up {
        from.plus(delta)
    } else {
        from.minus(delta)
    }) else {
        assert!(
            matches!(result, Err(Error::Overflow { .. })),
            "an overflow gave {result:?}"
        );
        return;
    };
    let result = result.expect("incr or decr");
    assert_eq!(
        result.to_string(),
        sum.text(),
        "{from:?} and {delta:?}, up: {up}"
    );
    if model.live(key).is_some() {
        model.written.insert(key.to_vec());
        let item = model.items.get_mut(key).expect("it is live");
        // As it was renewed, it is written down.
        (item.expires_ms, item.slid_ms) = (item.own_expiry(now_ms), None);
        item.number = Some(sum);
        item.value = sum.text().into_bytes();
        item.kind = match sum {
            Num::Int(_) => ValueKind::Integer,
            Num::Float(_) => ValueKind::Float,
        };
        item.stored_ms = now_ms;
    } else {
        // A new count has neither expiry nor tags.
        model.put_number(
            key,
            sum,
            &Opts {
                ends: Ends::Never,
                ..PLAIN
            },
        );
    }
}

fn push(store: &dyn Verbs, model: &mut Model, prefix: usize, blob: Blob, back: bool, opts: &Opts) {
    let key = store
        .push(
            PREFIXES[prefix],
            &blob.bytes(),
            side(back),
            &model.options(opts),
        )
        .expect("push");
    assert!(
        key.starts_with(PREFIXES[prefix].unwrap_or_default()),
        "{} does not begin with its queue's prefix",
        short(&key)
    );
    assert!(
        model.live(&key).is_none(),
        "push chose {}, which is taken",
        short(&key)
    );
    for (other, item) in model.live_keys() {
        if item.queue == Some(prefix) {
            let behind = key > *other;
            assert_eq!(
                behind,
                back,
                "{} pushed beside {}",
                short(&key),
                short(other)
            );
        }
    }
    model.put(&key, blob.bytes(), opts);
    model.items.get_mut(&key).expect("just put").queue = Some(prefix);
}

fn assert_front(model: &Model, prefix: usize, back: bool, found: Option<&Pair>, what: &str) {
    let expected = model.queued(prefix, back);
    assert_eq!(
        found.map(|pair| short(&pair.0)),
        expected.as_deref().map(short),
        "{what} of {:?}",
        PREFIXES[prefix]
    );
    if let Some((key, value)) = found {
        assert_value(what, key, Some(value), model.live(key));
    }
}

// ---- the run ----

struct Run {
    dir: tempfile::TempDir,
    clock: Arc<ManualClock>,
    handles: [Option<Cache>; 2],
    model: Model,
}

impl Run {
    fn new() -> Run {
        let dir = common::fast_dir();
        let clock = Arc::new(ManualClock::new(START_MS));
        let first = common::small()
            .clock(clock.clone())
            .open(dir.path())
            .expect("a new store opens");
        let settings = first.settings().expect("settings");
        let mut run = Run {
            dir,
            clock,
            handles: [Some(first), None],
            model: Model {
                items: BTreeMap::new(),
                next_order: 0,
                now_ms: START_MS,
                settings,
                quotas: BTreeMap::new(),
                latest_ms: START_MS,
                went_back: false,
                written: BTreeSet::new(),
            },
        };
        run.open(1);
        run
    }

    fn open(&mut self, which: usize) {
        let handle = Cache::builder()
            .clock(self.clock.clone())
            .open(self.dir.path())
            .expect("the store opens again");
        self.handles[which] = Some(handle);
    }

    fn store(&self, which: usize) -> &Cache {
        self.handles[which].as_ref().expect("it is open")
    }

    fn act(&mut self, which: usize, action: &Action) {
        let store = self.store(which).clone();
        let mut upkeep = Upkeep::Beside;
        self.model.written.clear();
        let model = &mut self.model;
        match action {
            Action::Step(one) => step(&store, model, one),
            Action::SetNumber(at, num, opts) => {
                let key = key(*at);
                store
                    .set_number(&key, num.number(), &model.options(opts))
                    .expect("set_number");
                // A kind among the options gives way to the number's own.
                model.put_number(&key, *num, opts);
            }
            Action::SetReader(at, blob, opts) => {
                let key = key(*at);
                let reader = Dribble(blob.bytes(), 0);
                let n = store
                    .set_reader(&key, reader, &model.options(opts))
                    .expect("set_reader");
                assert_eq!(n, blob.len as u64);
                model.put(&key, blob.bytes(), opts);
            }
            Action::SetMany(items, opts) => {
                let pairs: Vec<_> = items
                    .iter()
                    .map(|(at, blob)| (key(*at), blob.bytes()))
                    .collect();
                let n = store
                    .set_many(
                        pairs.iter().map(|(key, value)| (key, value)),
                        &model.options(opts),
                    )
                    .expect("set_many");
                let distinct: BTreeSet<_> = items.iter().map(|(at, _)| at).collect();
                assert!(
                    n == items.len() as u64 || n == distinct.len() as u64,
                    "set_many said {n}"
                );
                for (key, value) in pairs {
                    model.put(&key, value, opts);
                }
            }
            Action::GetInto(at) => {
                let key = key(*at);
                let mut buf = b"left over".to_vec();
                let kind = store.get_into(&key, &mut buf).expect("get_into");
                assert_eq!(kind, model.live(&key).map(|item| item.kind));
                model.note_read(&key);
                if kind.is_some() {
                    assert_value("get_into", &key, Some(&buf), model.live(&key));
                }
            }
            Action::GetReader { key: at, seek } => read_about(&store, model, &key(*at), *seek),
            Action::GetMany(at) => {
                let keys: Vec<_> = at.iter().map(|at| key(*at)).collect();
                let found = store.get_many(&keys).expect("get_many");
                assert_eq!(found.len(), keys.len());
                for (key, value) in keys.iter().zip(&found) {
                    assert_value("get_many", key, value.as_deref(), model.live(key));
                    model.note_read(key);
                }
            }
            Action::Describe(at) => describe(&store, model, &key(*at)),
            Action::Clear => {
                let live = model.live_keys().count() as u64;
                let n = store.clear().expect("clear");
                assert!(
                    (live..=model.items.len() as u64).contains(&n),
                    "clear said {n}"
                );
                model.items.clear();
                assert_eq!(store.len().expect("len"), 0);
                assert!(store.is_empty().expect("is_empty"));
            }
            Action::Sorted { from_back } => {
                let iter = store.iter_sorted().expect("iter_sorted");
                let mut found: Vec<Pair> = if *from_back {
                    iter.rev().collect::<Result<_>>().expect("an entry")
                } else {
                    iter.collect::<Result<_>>().expect("an entry")
                };
                if *from_back {
                    found.reverse();
                }
                assert_sorted(model, &found, |_| true);
            }
            Action::Prefix(at) => {
                let prefix = key(*at);
                let iter = store.iter_prefix(&prefix).expect("iter_prefix");
                let found: Vec<Pair> = iter.collect::<Result<_>>().expect("an entry");
                let keys: Vec<Vec<u8>> = found.iter().map(|(key, _)| key.clone()).collect();
                model.check_order(&keys, false);
                let expected: BTreeSet<_> = model
                    .live_keys()
                    .map(|(key, _)| key)
                    .filter(|key| key.starts_with(&prefix))
                    .collect();
                assert_eq!(keys.len(), expected.len(), "iter_prefix {}", short(&prefix));
                for (key, value) in &found {
                    assert!(expected.contains(key), "{} in iter_prefix", short(key));
                    assert_value("iter_prefix", key, Some(value), model.live(key));
                }
                let back: Vec<Vec<u8>> = store
                    .iter_prefix(&prefix)
                    .expect("iter_prefix")
                    .rev()
                    .map(|pair| pair.expect("an entry").0)
                    .collect();
                assert!(
                    back.iter().rev().eq(keys.iter()),
                    "iter_prefix differs backwards"
                );
            }
            Action::Range {
                low,
                high,
                low_kind,
                high_kind,
            } => {
                let bound = |kind: u8, key: Vec<u8>| match kind {
                    0 => Bound::Unbounded,
                    1 => Bound::Included(key),
                    _ => Bound::Excluded(key),
                };
                let range = (bound(*low_kind, key(*low)), bound(*high_kind, key(*high)));
                let found: Vec<Pair> = store
                    .range::<Vec<u8>>(range.clone())
                    .expect("range")
                    .collect::<Result<_>>()
                    .expect("an entry");
                assert_sorted(model, &found, |key| {
                    std::ops::RangeBounds::<Vec<u8>>::contains(&range, key)
                });
            }
            Action::BothWays { front } => {
                let mut iter = store.iter().expect("iter");
                let mut head: Vec<Pair> = iter
                    .by_ref()
                    .take(*front)
                    .collect::<Result<_>>()
                    .expect("an entry");
                let tail: Vec<Pair> = iter.rev().collect::<Result<_>>().expect("an entry");
                head.extend(tail.into_iter().rev());
                check_all(model, &head);
                let keys = store
                    .keys()
                    .expect("keys")
                    .collect::<Result<Vec<_>>>()
                    .expect("a key");
                assert!(
                    keys.iter().eq(head.iter().map(|(key, _)| key)),
                    "keys() differs from iter()"
                );
            }
            Action::IterateWhileWriting {
                back,
                sets,
                deletes,
            } => {
                self.iterate_while_writing(which, *back, sets, deletes);
            }
            Action::Transact {
                outer,
                nested,
                ending,
            } => {
                transact(&store, model, outer, nested.as_deref(), *ending);
            }
            Action::Settings(change) => {
                let change = |settings: &mut Settings| match change {
                    Change::LargeValue(bytes) => settings.large_value_bytes = *bytes,
                    Change::DefaultTtl(ms) => settings.default_ttl = ms.map(Duration::from_millis),
                    Change::CompressAlways(always) => settings.compression.always = *always,
                    Change::CompressFrom(bytes) => settings.compression.min_bytes = *bytes,
                    Change::SegmentSize(bytes) => settings.segment_size_bytes = *bytes,
                    Change::Statistics(on) => settings.statistics = *on,
                    Change::Durability(durability) => settings.durability = *durability,
                    Change::Policy(policy) => settings.policy = *policy,
                    Change::CountLimit(limit) => settings.count_limit = *limit,
                    Change::CullLimit(limit) => settings.cull_limit = *limit,
                    Change::MaxAge(ms) => settings.max_age = ms.map(Duration::from_millis),
                };
                change(&mut model.settings);
                let now = store.update_settings(change).expect("update_settings");
                assert_eq!(now, model.settings);
                let now_ms = model.now_ms;
                model.set_clock(now_ms);
            }
            Action::Clock { by_ms } => {
                let now_ms = model.now_ms.saturating_add_signed(*by_ms);
                self.clock.set(now_ms);
                model.set_clock(now_ms);
            }
            Action::EvictTags { tags, all } => {
                let tags: Vec<Vec<u8>> = tags.iter().map(|at| tag(*at)).collect();
                let which = if *all { TagMatch::All } else { TagMatch::Any };
                let before = store.len().expect("len");
                let gone = match &tags[..] {
                    [one] if !*all => store.evict_tag(one).expect("evict_tag"),
                    tags => store.evict_tags(tags, which).expect("evict_tags"),
                };
                let has = |item: &Item| Model::has_tag(item, &tags, *all);
                let live = model.live_keys().filter(|(_, item)| has(item)).count() as u64;
                let most = model.items.values().filter(|item| has(item)).count() as u64;
                assert!(
                    (live..=most).contains(&gone),
                    "{gone} evicted of {live} to {most}"
                );
                assert_eq!(store.len().expect("len"), before - gone);
                model.items.retain(|_, item| !has(item));
            }
            Action::IterTag(at) => {
                let found: Vec<Pair> = store
                    .iter_tag(tag(*at))
                    .expect("iter_tag")
                    .collect::<Result<_>>()
                    .expect("an entry");
                for (key, value) in &found {
                    assert_value("iter_tag", key, Some(value), model.live(key));
                }
                let keys: BTreeSet<&Vec<u8>> = found.iter().map(|(key, _)| key).collect();
                assert_eq!(keys.len(), found.len(), "iter_tag tells an entry twice");
                let wanted = model.live_keys();
                let wanted = wanted.filter(|(_, item)| item.tags.contains(&tag(*at)));
                let wanted: BTreeSet<&Vec<u8>> = wanted.map(|(key, _)| key).collect();
                assert!(
                    keys == wanted,
                    "iter_tag: {} of {}",
                    keys.len(),
                    wanted.len()
                );
            }
            Action::Tags => check_tags(&store, model),
            Action::Quota { tag: at, bytes } => {
                let name = tag(*at);
                store.set_tag_quota(&name, *bytes).expect("set_tag_quota");
                match bytes {
                    Some(bytes) => model.quotas.insert(name.clone(), *bytes),
                    None => model.quotas.remove(&name),
                };
                let usage = store.tags().expect("tags").into_iter();
                for usage in usage.filter(|usage| usage.name == name) {
                    assert!(bytes.is_none_or(|bytes| usage.bytes <= bytes), "{usage:?}");
                }
            }
            Action::Expire => {
                let before = store.len().expect("len");
                let gone = store.expire().expect("expire");
                let len = store.len().expect("len");
                assert_eq!(len, before - gone, "expire said {gone}");
                check_expired(model, len, false);
            }
            Action::Cull => {
                let before = store.len().expect("len");
                let gone = store.cull().expect("cull");
                let len = store.len().expect("len");
                assert_eq!(len, before - gone, "cull said {gone}");
                model.reconcile(&store, Upkeep::Done);
                check_expired(model, len, true);
                upkeep = Upkeep::Done;
            }
            Action::Compact => {
                store.compact().expect("compact");
                upkeep = Upkeep::Done;
            }
            Action::Maintain { bytes, micros } => {
                let budget = Budget::default().bytes(*bytes);
                let budget = budget.time(Duration::from_micros(*micros));
                let done = store.maintain(&budget).expect("maintain");
                upkeep = match done.is_over {
                    true => Upkeep::Done,
                    false => Upkeep::Begun,
                };
            }
            Action::Churn(at) => {
                let key = key(*at);
                let value = Blob {
                    len: 200,
                    seed: *at as u64,
                    squeezable: false,
                };
                for _ in 0..300 {
                    store.set(&key, value.bytes()).expect("set");
                    model.put(&key, value.bytes(), &PLAIN);
                }
                // Each of them may have evicted so many.
                let limit = model.settings.cull_limit.map(|limit| limit * 300);
                let limit = std::mem::replace(&mut model.settings.cull_limit, limit);
                model.reconcile(&store, Upkeep::Beside);
                model.settings.cull_limit = limit;
            }
            Action::Flush => store.flush().expect("flush"),
            Action::Check => {
                common::assert_sound(&store);
            }
            Action::ReopenOne => {
                upkeep = Upkeep::Nobody;
                drop(store);
                self.handles[which] = None;
                self.open(which);
            }
            Action::ReopenBoth { close } => {
                upkeep = Upkeep::Nobody;
                drop(store);
                self.put_away(*close);
                self.open(0);
                self.open(1);
            }
            Action::Rebuild { close } => {
                upkeep = Upkeep::Nobody;
                let told = |store: &Cache| {
                    let len = store.len().expect("len");
                    let volume = store.volume().expect("volume");
                    let keys = store.keys().expect("keys");
                    let keys: Vec<String> = keys.map(|key| short(&key.expect("a key"))).collect();
                    ((len, volume, store.tags().expect("tags")), keys)
                };
                let before = told(&store);
                drop(store);
                self.put_away(*close);
                common::forget_derived(self.dir.path());
                self.open(0);
                self.open(1);
                let store = self.store(which).clone();
                let after = told(&store);
                assert!(
                    after.0 == before.0,
                    "len and volume {:?} are {:?} rebuilt; or tags differ; keys {:?} and {:?}",
                    (before.0.0, before.0.1),
                    (after.0.0, after.0.1),
                    before.1,
                    after.1
                );
                self.model.forget_reads(&store);
            }
        }
        let store = self.store(which).clone();
        self.model.reconcile(&store, upkeep);
        self.audit();
    }

    fn put_away(&mut self, close: bool) {
        let [first, second] = self.handles.each_mut().map(Option::take);
        drop(second);
        if close && let Some(first) = first {
            first.close().expect("close");
        }
    }

    /// Both handles and the model agree on everything.
    fn audit(&mut self) {
        for handle in self.handles.iter().flatten() {
            let all: Vec<Pair> = handle
                .iter()
                .expect("iter")
                .collect::<Result<_>>()
                .expect("an entry");
            check_all(&mut self.model, &all);
            let back: Vec<Vec<u8>> = handle
                .keys()
                .expect("keys")
                .rev()
                .map(|key| key.expect("a key"))
                .collect();
            assert!(
                back.iter().rev().eq(all.iter().map(|(key, _)| key)),
                "keys() differs backwards"
            );
            check_len(handle, &self.model);
            for at in 0..KEYS {
                let key = key(at);
                let found = handle.get(&key).expect("get");
                assert_value("audit", &key, found.as_deref(), self.model.live(&key));
                self.model.note_read(&key);
            }
            assert_eq!(handle.settings().expect("settings"), self.model.settings);
            check_tags(handle, &self.model);
        }
        self.model.all_was_told();
    }

    /// What describes an entry, and the sums over all of them.
    fn audit_deeply(&mut self) {
        self.audit();
        let store = self.store(0).clone();
        let mut payload = 0;
        let mut ceiling = 0;
        let keys: Vec<Vec<u8>> = self.model.items.keys().cloned().collect();
        for key in keys {
            describe(&store, &mut self.model, &key);
            let item = &self.model.items[&key];
            let tags: usize = item.tags.iter().map(|tag| tag.len() + 64).sum();
            if self.model.is_live(item) && !item.squeezed {
                payload += (key.len() + item.value.len()) as u64;
            }
            ceiling += (key.len() + item.value.len() + tags + 256) as u64;
        }
        let volume = store.volume().expect("volume");
        // A number's record may hold eight bytes where its text is longer.
        let slack = 400 * NUMBER_KEYS.len() as u64;
        assert!(
            volume + slack >= payload,
            "volume {volume} of {payload} live bytes"
        );
        assert!(
            volume <= ceiling,
            "volume {volume}, at most {ceiling} expected"
        );
        common::assert_sound(&store);
    }

    fn iterate_while_writing(
        &mut self,
        which: usize,
        back: bool,
        sets: &[(usize, Blob)],
        deletes: &[usize],
    ) {
        let reader = self.store(which).clone();
        let writer = self.store(1 - which).clone();
        let before: BTreeSet<Vec<u8>> =
            self.model.live_keys().map(|(key, _)| key.clone()).collect();
        // An expired one that is written again may keep its place, and so be met.
        let known: BTreeSet<Vec<u8>> = self.model.items.keys().cloned().collect();
        let mut iter = reader.iter().expect("iter");
        let mut next = || if back { iter.next_back() } else { iter.next() };
        let mut found = Vec::new();
        found.extend(next().map(|pair| pair.expect("an entry").0));
        let mut touched = BTreeSet::new();
        for at in deletes {
            touched.insert(key(*at));
            step(&writer, &mut self.model, &Step::Delete(*at));
            self.model.reconcile(&writer, Upkeep::Beside);
        }
        for (at, blob) in sets {
            touched.insert(key(*at));
            self.model.written.clear();
            step(&writer, &mut self.model, &Step::Set(*at, *blob));
            self.model.reconcile(&writer, Upkeep::Beside);
        }
        // What was evicted meanwhile need not come.
        let before: BTreeSet<Vec<u8>> = before
            .into_iter()
            .filter(|key| self.model.live(key).is_some())
            .collect();
        let most = known.len() + touched.len() + 1;
        while let Some(pair) = next() {
            found.push(pair.expect("an entry").0);
            assert!(found.len() <= most, "iteration does not end");
        }
        let seen: BTreeSet<_> = found.iter().cloned().collect();
        assert_eq!(seen.len(), found.len(), "a key came twice");
        for key in &before {
            if !touched.contains(key) {
                assert!(seen.contains(key), "{} was there all the time", short(key));
            }
        }
        for key in &seen {
            assert!(
                known.contains(key),
                "{} came after the iterator",
                short(key)
            );
        }
    }
}

/// A reader that gives its bytes in odd portions.
struct Dribble(Vec<u8>, usize);

impl Read for Dribble {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let rest = &self.0[self.1..];
        let n = rest.len().min(buf.len()).min(4_093);
        buf[..n].copy_from_slice(&rest[..n]);
        self.1 += n;
        Ok(n)
    }
}

fn assert_sorted(model: &Model, found: &[Pair], wanted: impl Fn(&Vec<u8>) -> bool) {
    let expected: Vec<&Vec<u8>> = model
        .live_keys()
        .map(|(key, _)| key)
        .filter(|key| wanted(key))
        .collect();
    assert_eq!(
        found.iter().map(|(key, _)| short(key)).collect::<Vec<_>>(),
        expected.iter().map(|key| short(key)).collect::<Vec<_>>()
    );
    for (key, value) in found {
        assert_value("sorted", key, Some(value), model.live(key));
    }
}

/// Reads a value through `get_reader`: whole, and from a place in the middle.
fn read_about(store: &Cache, model: &mut Model, key: &[u8], seek: u64) {
    model.note_read(key);
    let reader = store.get_reader(key).expect("get_reader");
    let Some(item) = model.live(key) else {
        assert!(
            reader.is_none(),
            "a reader of {}, which is not there",
            short(key)
        );
        return;
    };
    let mut reader = reader.expect("it is there");
    let value = &item.value;
    assert_eq!(reader.len(), value.len() as u64);
    let mut all = Vec::new();
    reader.read_to_end(&mut all).expect("the value reads");
    assert_eq!(&all, value);
    let at = seek % (value.len() as u64 + 1);
    for (from, lands) in [
        (SeekFrom::Start(at), at),
        (SeekFrom::End(-(at as i64)), value.len() as u64 - at),
        (SeekFrom::Start(0), 0),
        (SeekFrom::Current(at as i64), at),
    ] {
        assert_eq!(reader.seek(from).expect("seek"), lands);
    }
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).expect("the value reads");
    assert_eq!(&rest[..], &value[at as usize..]);
    assert!(
        reader
            .seek(SeekFrom::End(-(value.len() as i64) - 1))
            .is_err(),
        "before the start"
    );
}

/// `get_entry`, `describe` and `value_path` say what the model knows.
fn describe(store: &Cache, model: &mut Model, key: &[u8]) {
    let entry = store.get_entry(key).expect("get_entry");
    model.note_read(key);
    let description = store.describe(key).expect("describe");
    let path = store.value_path(key).expect("value_path");
    let Some(item) = model.live(key) else {
        assert!(
            entry.is_none() && description.is_none() && path.is_none(),
            "{}",
            short(key)
        );
        return;
    };
    let entry = entry.expect("get_entry finds it");
    let description = description.expect("describe finds it");
    assert_value("get_entry", key, Some(&entry.value), Some(item));
    assert_eq!(entry.kind, item.kind);
    assert_eq!(
        entry.expires_at.map(ms),
        item.expires_ms.and(model.ends(item)),
        "expiry of {}",
        short(key)
    );
    let tags: BTreeSet<Vec<u8>> = entry.tags.iter().cloned().collect();
    assert_eq!(tags, item.tags, "tags of {}", short(key));
    assert_eq!(tags.len(), entry.tags.len(), "a tag came twice");
    // A clock set back to before the store was made has no time to tell.
    if item.stored_ms >= START_MS {
        let off = ms(entry.stored_at).abs_diff(item.stored_ms);
        assert!(off <= STORED_TOLERANCE_MS, "stored {off} ms off");
    }
    assert_eq!(
        entry.size_bytes,
        item.value.len() as u64,
        "size of {}",
        short(key)
    );
    assert_eq!(description.kind, entry.kind);
    assert_eq!(description.expires_at, entry.expires_at);
    assert_eq!(description.tags, entry.tags);
    assert_eq!(description.stored_at, entry.stored_at);
    assert_eq!(description.size_bytes, entry.size_bytes);
    if let Some(path) = path {
        assert!(
            path.starts_with(store.path()),
            "{} is in the store",
            path.display()
        );
        assert!(item.matches(&std::fs::read(&path).expect("a value's file reads")));
    }
}

/// A transaction with an ending; on anything but a commit the model stays as it was.
fn transact(
    store: &Cache,
    model: &mut Model,
    outer: &[Step],
    nested: Option<&[Step]>,
    ending: Ending,
) {
    let mut draft = model.clone();
    let result = catch_unwind(AssertUnwindSafe(|| {
        store.transact(|tx| {
            let half = outer.len() / 2;
            for one in &outer[..half] {
                step(tx, &mut draft, one);
            }
            if let Some(nested) = nested {
                store.transact(|tx| {
                    for one in nested {
                        step(tx, &mut draft, one);
                    }
                    Ok(())
                })?;
            }
            for one in &outer[half..] {
                step(tx, &mut draft, one);
            }
            match ending {
                Ending::Commit => Ok(draft.items.len()),
                Ending::Error => Err(Error::Aborted {
                    what: "as the test wants".into(),
                }),
                // No message: this panic is no news.
                Ending::Panic => resume_unwind(Box::new(OnPurpose)),
            }
        })
    }));
    match (ending, result) {
        (Ending::Commit, Ok(Ok(_))) => *model = draft,
        (Ending::Error, Ok(Err(Error::Aborted { .. }))) => {}
        (Ending::Panic, Err(payload)) if payload.is::<OnPurpose>() => {}
        (_, Err(payload)) => resume_unwind(payload),
        (_, Ok(other)) => panic!("transact ended with {other:?}"),
    }
}

struct OnPurpose;

fn play(script: &[(bool, Action)]) {
    let _watch = common::Watch::new(Duration::from_secs(60), format!("{script:?}"));
    let mut run = Run::new();
    for (second, action) in script {
        run.act(usize::from(*second), action);
    }
    run.audit_deeply();
    run.act(0, &Action::ReopenBoth { close: true });
    run.audit_deeply();
    run.act(0, &Action::Rebuild { close: false });
    run.audit_deeply();
}

#[test]
fn every_verb_agrees_with_a_plain_map() {
    let seed = common::seed("model");
    let mut bytes = [0_u8; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config {
        failure_persistence: None,
        max_shrink_iters: 4_000,
        max_shrink_time: 120_000,
        ..Config::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let strategy = vec((any::<bool>(), actions()), 1..160);
    let outcome = runner.run(&strategy, |script| {
        play(&script);
        Ok::<(), TestCaseError>(())
    });
    if let Err(failure) = outcome {
        panic!("LARDER_TEST_SEED={seed}\n{failure}");
    }
}

#[test]
fn statistics_count_and_survive_reopening() {
    let dir = common::work_dir();
    let store = common::small().open(dir.path()).expect("opens");
    store.set("a", "1").expect("set");
    store.set("b", "2").expect("set");
    store.get("a").expect("get");
    store.get("a").expect("get");
    store.get("nothing").expect("get");
    store.delete("b").expect("delete");
    let counted = |store: &Cache, reset: bool| {
        let stats = store.stats(reset).expect("stats");
        (stats.hits, stats.misses, stats.sets, stats.deletes)
    };
    assert_eq!(counted(&store, false), (2, 1, 2, 1));
    store.close().expect("close");
    let store = Cache::open(dir.path()).expect("opens");
    assert_eq!(counted(&store, true), (2, 1, 2, 1), "after reopening");
    assert_eq!(counted(&store, false), (0, 0, 0, 0), "after a reset");
    store.get("a").expect("get");
    // What neither hits nor misses count.
    store.contains("a").expect("contains");
    store.peek(None, Side::Front).expect("peek");
    let _ = store.iter().expect("iter").count();
    assert_eq!(counted(&store, false).0, 1);
}

#[test]
fn a_large_value_is_a_file_and_goes_with_its_entry() {
    let dir = common::work_dir();
    let store = common::small().open(dir.path()).expect("opens");
    let files = |dir: &Path| {
        common::names(dir)
            .into_iter()
            .filter(|name| name.ends_with(".val"))
            .count()
    };
    let value = common::Dice::new(7).bytes(common::SMALL_LARGE_VALUE_BYTES as usize);
    store.set("below", &value[1..]).expect("set");
    assert_eq!(store.value_path("below").expect("value_path"), None);
    assert_eq!(files(dir.path()), 0);
    store.set("large", &value).expect("set");
    let path = store
        .value_path("large")
        .expect("value_path")
        .expect("a file of its own");
    assert_eq!(std::fs::read(&path).expect("reads"), value);
    assert_eq!(files(dir.path()), 1);
    // Rolled back, its file goes.
    let result: Result<()> = store.transact(|tx| {
        tx.set("other", &value)?;
        Err(Error::Aborted { what: "no".into() })
    });
    assert!(result.is_err());
    assert_eq!(files(dir.path()), 1, "the rolled back value's file is gone");
    // A reader that has the file keeps it, whatever becomes of the entry.
    let mut reader = store
        .get_reader("large")
        .expect("get_reader")
        .expect("there");
    store.set("large", "small now").expect("set");
    store.delete("large").expect("delete");
    let mut read = Vec::new();
    reader.read_to_end(&mut read).expect("reads");
    assert_eq!(read, value);
}
