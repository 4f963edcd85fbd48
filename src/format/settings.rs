//! The settings of a store: their names, defaults, bounds, and both their forms (words in the header,
//! text in the log). Never applies one.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::header::SETTINGS_WORDS;
use crate::error::{Error, Result};
use crate::limits::{
    LARGE_VALUE_MAX, LARGE_VALUE_MIN, SEGMENT_SIZE_MAX, SEGMENT_SIZE_MIN, SEGMENT_STEP,
    SIZE_LIMIT_MIN,
};
use crate::policy::Policy;

/// When an acknowledged write survives what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Durability {
    /// SIGKILL of every process; after power loss the store holds a prefix of the writes. The default.
    Process,
    /// And power loss, but for the last interval (while a process has the store open).
    Interval(Duration),
    /// And power loss, at once: each write waits for the disk, threads share one wait.
    Sync,
}

/// When and how values are compressed with zstd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compression {
    /// zstd's level, 1 to 19. Default 3, zstd's own.
    pub level: i32,
    /// Values shorter than this stay plain, bytes. Default 256: below it little is won.
    pub min_bytes: u64,
    /// Compress every value, not only those whose options ask for it. Default false.
    pub always: bool,
}

impl Default for Compression {
    fn default() -> Self {
        Compression {
            level: 3,
            min_bytes: 256,
            always: false,
        }
    }
}

/// What a store is told once and keeps: shared by all its processes, changed for all at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Settings {
    /// Bytes the directory may take on disk, as `du` counts them. Default 1 GiB; at least 1 MiB.
    pub size_limit_bytes: u64,
    /// Bytes of a segment file, at most 1/32 of `size_limit_bytes`. Default 64 MiB; 64 KiB to 256 MiB.
    /// Holds for segments begun later.
    pub segment_size_bytes: u64,
    /// Values from this length on get a file of their own. Default 1 MiB; 1 KiB to 8 MiB.
    pub large_value_bytes: u64,
    /// When an acknowledged write survives power loss. Default [`Durability::Process`].
    pub durability: Durability,
    /// How long a write waits for the writer lock; `None`: for ever. Default 60 s.
    pub lock_timeout: Option<Duration>,
    /// When values are compressed. Default: when a write asks for it.
    pub compression: Compression,
    /// The ttl of writes that name none; `None`: they never expire. The default.
    pub default_ttl: Option<Duration>,
    /// Who goes when the store is full. Default [`Policy::default`].
    pub policy: Policy,
    /// The most entries; a write that passes it evicts. `None`: as many as fit. The default.
    pub count_limit: Option<u64>,
    /// Entries stored longer ago than this are over, to the second. `None`: however old. The default.
    /// What a reader was told to be over stays so under a higher limit, too.
    pub max_age: Option<Duration>,
    /// The most entries one write evicts or removes as expired. `None`, the default: until the new entry
    /// fits; 0: none, a full store refuses.
    pub cull_limit: Option<u64>,
    /// Count hits and misses. Default true: it costs a few nanoseconds.
    pub statistics: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            size_limit_bytes: 1 << 30,
            segment_size_bytes: 64 << 20,
            large_value_bytes: 1 << 20,
            durability: Durability::Process,
            lock_timeout: Some(Duration::from_secs(60)),
            compression: Compression::default(),
            default_ttl: None,
            policy: Policy::default(),
            count_limit: None,
            max_age: None,
            cull_limit: None,
            statistics: true,
        }
    }
}

const NAMES: &[&str] = &[
    "size_limit_bytes",
    "segment_size_bytes",
    "large_value_bytes",
    "durability",
    "lock_timeout",
    "compression_level",
    "compression_min_bytes",
    "compression_always",
    "default_ttl",
    "policy",
    "count_limit",
    "max_age",
    "cull_limit",
    "statistics",
];

impl Settings {
    /// The names [`Settings::set_by_name`] knows.
    #[must_use]
    pub fn names() -> &'static [&'static str] {
        NAMES
    }

    /// One setting as text: `64MiB`, `30s`, `never`, `sync`.
    #[must_use]
    pub fn get_by_name(&self, name: &str) -> Option<String> {
        Some(match name {
            "size_limit_bytes" => size_text(self.size_limit_bytes),
            "segment_size_bytes" => size_text(self.segment_size_bytes),
            "large_value_bytes" => size_text(self.large_value_bytes),
            "durability" => match self.durability {
                Durability::Process => "process".to_string(),
                Durability::Interval(every) => duration_text(Some(every)),
                Durability::Sync => "sync".to_string(),
            },
            "lock_timeout" => duration_text(self.lock_timeout),
            "compression_level" => self.compression.level.to_string(),
            "compression_min_bytes" => size_text(self.compression.min_bytes),
            "compression_always" => self.compression.always.to_string(),
            "default_ttl" => duration_text(self.default_ttl),
            "policy" => self.policy.to_string(),
            "count_limit" => count_text(self.count_limit),
            "max_age" => duration_text(self.max_age),
            "cull_limit" => count_text(self.cull_limit),
            "statistics" => self.statistics.to_string(),
            _ => return None,
        })
    }

    /// Sets one setting from text: sizes as `64MiB`, durations as `30s` or `never`, durability as
    /// `process`, `sync` or the interval's duration.
    ///
    /// # Errors
    /// [`Error::InvalidSetting`] for an unknown name or a value that cannot be read; nothing changed.
    pub fn set_by_name(&mut self, name: &str, value: &str) -> Result<()> {
        let truth = || {
            value
                .parse()
                .map_err(|_| Error::setting(name, format!("{value:?} is neither true nor false")))
        };
        match name {
            "size_limit_bytes" => self.size_limit_bytes = parse_size(name, value)?,
            "segment_size_bytes" => self.segment_size_bytes = parse_size(name, value)?,
            "large_value_bytes" => self.large_value_bytes = parse_size(name, value)?,
            "durability" => {
                self.durability = match value {
                    "process" => Durability::Process,
                    "sync" => Durability::Sync,
                    every => {
                        Durability::Interval(parse_duration(name, every)?.ok_or_else(|| {
                            Error::setting(name, "is `process`, `sync` or an interval such as `1s`")
                        })?)
                    }
                }
            }
            "lock_timeout" => self.lock_timeout = parse_duration(name, value)?,
            "compression_level" => {
                self.compression.level = value
                    .parse()
                    .map_err(|_| Error::setting(name, format!("{value:?} is no whole number")))?;
            }
            "compression_min_bytes" => self.compression.min_bytes = parse_size(name, value)?,
            "compression_always" => self.compression.always = truth()?,
            "default_ttl" => self.default_ttl = parse_duration(name, value)?,
            "policy" => self.policy = value.parse()?,
            "count_limit" => self.count_limit = parse_count(name, value)?,
            "max_age" => self.max_age = parse_duration(name, value)?,
            "cull_limit" => self.cull_limit = parse_count(name, value)?,
            "statistics" => self.statistics = truth()?,
            _ => {
                return Err(Error::setting(
                    name,
                    format!("there is no such setting; there are {}", NAMES.join(", ")),
                ));
            }
        }
        Ok(())
    }

    /// Whether every value is within its bounds.
    pub(crate) fn validate(&self) -> Result<()> {
        let within = |name: &str, value: u64, min: u64, max: u64| {
            if (min..=max).contains(&value) {
                return Ok(());
            }
            Err(Error::setting(
                name,
                format!(
                    "{value} bytes is not between {} and {}",
                    size_text(min),
                    size_text(max)
                ),
            ))
        };
        within(
            "size_limit_bytes",
            self.size_limit_bytes,
            SIZE_LIMIT_MIN,
            1 << 60,
        )?;
        within(
            "segment_size_bytes",
            self.segment_size_bytes,
            SEGMENT_SIZE_MIN,
            SEGMENT_SIZE_MAX,
        )?;
        within(
            "large_value_bytes",
            self.large_value_bytes,
            LARGE_VALUE_MIN,
            LARGE_VALUE_MAX,
        )?;
        if !(1..=19).contains(&self.compression.level) {
            return Err(Error::setting(
                "compression_level",
                format!("{} is not between 1 and 19", self.compression.level),
            ));
        }
        if matches!(self.durability, Durability::Interval(every) if every < Duration::from_millis(1))
        {
            return Err(Error::setting(
                "durability",
                "an interval is at least 1ms; for less there is `sync`",
            ));
        }
        if self.count_limit == Some(0) {
            return Err(Error::setting(
                "count_limit",
                "a store of no entries holds nothing: at least 1, or `none`",
            ));
        }
        if self.max_age.is_some_and(|age| age < Duration::from_secs(1)) {
            return Err(Error::setting(
                "max_age",
                "is told to the second: at least 1s, or `never`",
            ));
        }
        Ok(())
    }

    /// The header's form.
    pub(crate) fn to_words(&self) -> [u64; SETTINGS_WORDS as usize] {
        let ms = |time: Option<Duration>| {
            time.map_or(u64::MAX, |time| {
                time.as_millis().min(u128::from(u64::MAX - 1)) as u64
            })
        };
        let (mode, every) = match self.durability {
            Durability::Process => (0, 0),
            Durability::Interval(every) => (1, ms(Some(every))),
            Durability::Sync => (2, 0),
        };
        [
            self.size_limit_bytes,
            self.segment_size_bytes.next_multiple_of(SEGMENT_STEP),
            self.large_value_bytes,
            mode,
            every,
            ms(self.lock_timeout),
            self.compression.level as u64,
            self.compression.min_bytes,
            u64::from(self.compression.always),
            ms(self.default_ttl),
            u64::from(self.statistics),
            self.policy.to_u64(),
            self.count_limit.unwrap_or(u64::MAX),
            ms(self.max_age),
            self.cull_limit.unwrap_or(u64::MAX),
            0,
        ]
    }

    pub(crate) fn from_words(words: &[u64; SETTINGS_WORDS as usize]) -> Self {
        let count = |word: u64| (word != u64::MAX).then_some(word);
        let time = |ms: u64| (ms != u64::MAX).then(|| Duration::from_millis(ms));
        Settings {
            size_limit_bytes: words[0],
            segment_size_bytes: words[1],
            large_value_bytes: words[2],
            durability: match words[3] {
                1 => Durability::Interval(Duration::from_millis(words[4].max(1))),
                2 => Durability::Sync,
                _ => Durability::Process,
            },
            lock_timeout: time(words[5]),
            compression: Compression {
                level: words[6] as i32,
                min_bytes: words[7],
                always: words[8] != 0,
            },
            default_ttl: time(words[9]),
            statistics: words[10] != 0,
            policy: Policy::from_u64(words[11]).unwrap_or_default(),
            count_limit: count(words[12]),
            max_age: time(words[13]),
            cull_limit: count(words[14]),
        }
    }

    /// The log's form: `name=value` lines.
    pub(crate) fn to_text(&self) -> String {
        NAMES
            .iter()
            .map(|name| format!("{name}={}\n", self.get_by_name(name).unwrap_or_default()))
            .collect()
    }

    /// Unknown names and bad values are left at their defaults: a newer version may have written them.
    pub(crate) fn from_text(text: &str) -> Self {
        let mut settings = Settings::default();
        for line in text.lines() {
            if let Some((name, value)) = line.split_once('=') {
                let _ = settings.set_by_name(name, value);
            }
        }
        if settings.validate().is_ok() {
            settings
        } else {
            Settings::default()
        }
    }
}

const UNITS: [(&str, u64); 4] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

fn size_text(bytes: u64) -> String {
    let unit = UNITS
        .iter()
        .rev()
        .find(|(_, unit)| bytes != 0 && bytes.is_multiple_of(*unit));
    unit.map_or_else(
        || bytes.to_string(),
        |(name, unit)| format!("{}{name}", bytes / unit),
    )
}

fn count_text(count: Option<u64>) -> String {
    count.map_or("none".to_string(), |count| count.to_string())
}

/// A whole number, or `none`.
fn parse_count(name: &str, text: &str) -> Result<Option<u64>> {
    if text == "none" {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        Error::setting(
            name,
            format!("{text:?} is neither a whole number nor `none`"),
        )
    })
}

fn parse_size(name: &str, text: &str) -> Result<u64> {
    let wrong = || {
        Error::setting(
            name,
            format!("{text:?} is no size: write bytes, or 512KiB, 64MiB, 2GiB"),
        )
    };
    let (digits, unit) = UNITS
        .iter()
        .find_map(|(unit, bytes)| text.strip_suffix(unit).map(|digits| (digits, *bytes)))
        .unwrap_or((text, 1));
    digits
        .trim()
        .parse::<u64>()
        .ok()
        .and_then(|count| count.checked_mul(unit))
        .ok_or_else(wrong)
}

const TIMES: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1_000),
    ("min", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

fn duration_text(time: Option<Duration>) -> String {
    let Some(time) = time else {
        return "never".to_string();
    };
    let ms = time.as_millis() as u64;
    let (name, unit) = TIMES
        .iter()
        .rev()
        .find(|(_, unit)| ms != 0 && ms.is_multiple_of(*unit))
        .unwrap_or(&TIMES[0]);
    format!("{}{name}", ms / unit)
}

fn parse_duration(name: &str, text: &str) -> Result<Option<Duration>> {
    if text == "never" {
        return Ok(None);
    }
    let wrong = || {
        Error::setting(
            name,
            format!("{text:?} is no duration: write 500ms, 30s, 5min, 24h, 7d or never"),
        )
    };
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let count: u64 = text[..split].parse().map_err(|_| wrong())?;
    let (_, unit) = TIMES
        .iter()
        .chain(&[("m", 60_000), ("w", 7 * 86_400_000)])
        .find(|(unit, _)| *unit == &text[split..])
        .ok_or_else(wrong)?;
    count
        .checked_mul(*unit)
        .map(|ms| Some(Duration::from_millis(ms)))
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_come_back_from_words_and_from_text() {
        let mut settings = Settings::default();
        for (name, value) in [
            ("size_limit_bytes", "3GiB"),
            ("segment_size_bytes", "128KiB"),
            ("large_value_bytes", "5000"),
            ("durability", "250ms"),
            ("lock_timeout", "never"),
            ("compression_level", "7"),
            ("compression_always", "true"),
            ("default_ttl", "36h"),
            ("statistics", "false"),
        ] {
            settings.set_by_name(name, value).expect(name);
            assert_eq!(settings.get_by_name(name).as_deref(), Some(value));
        }
        settings.validate().expect("valid");
        assert_eq!(Settings::from_words(&settings.to_words()), settings);
        assert_eq!(Settings::from_text(&settings.to_text()), settings);
    }

    #[test]
    fn nonsense_is_refused() {
        let mut settings = Settings::default();
        for (name, value) in [
            ("sise", "1"),
            ("size_limit_bytes", "1 apple"),
            ("default_ttl", "5"),
            ("statistics", "yes"),
            ("durability", "never"),
        ] {
            assert!(settings.set_by_name(name, value).is_err(), "{name}={value}");
        }
        assert_eq!(settings, Settings::default());
        settings.size_limit_bytes = 5;
        assert!(settings.validate().is_err());
    }
}
