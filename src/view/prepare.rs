//! What a value becomes before the lock is taken: plain, compressed, or in a file of its own; and
//! what it becomes again when read.

use std::borrow::Cow;
use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::engine::change::Payload;
use crate::engine::large::{CHUNK, Stream};
use crate::engine::store::Store;
use crate::error::{Error, Result};
use crate::format::record::{Apart, Head};
use crate::limits::{KEY_LEN_MAX, TAG_LEN_MAX, TAGS_MAX};
use crate::part::shared::setting;
use crate::view::options::{Expiry, SetOptions};
use crate::view::value::{Number, Value, ValueKind};

/// A value ready to be stored.
pub(crate) struct Prepared<'a> {
    pub(crate) bytes: Cow<'a, [u8]>,
    pub(crate) zstd: Option<(u32, u32)>,
    pub(crate) stream: Option<Box<(Stream, Apart)>>,
    pub(crate) kind: u8,
    pub(crate) expires_ms: Option<u64>,
    pub(crate) sliding_ms: Option<u64>,
    pub(crate) cost_s: Option<f64>,
}

pub(crate) fn check_key(key: &[u8]) -> Result<()> {
    if key.len() > KEY_LEN_MAX {
        return Err(Error::TooLarge {
            what: "a key (bytes)",
            bytes: key.len() as u64,
            max_bytes: KEY_LEN_MAX as u64,
        });
    }
    Ok(())
}

pub(crate) fn check_tags(tags: &[Vec<u8>]) -> Result<()> {
    if tags.len() > TAGS_MAX {
        return Err(Error::TooLarge {
            what: "the number of tags",
            bytes: tags.len() as u64,
            max_bytes: TAGS_MAX as u64,
        });
    }
    match tags.iter().map(Vec::len).max() {
        Some(len) if len > TAG_LEN_MAX => Err(Error::TooLarge {
            what: "a tag (bytes)",
            bytes: len as u64,
            max_bytes: TAG_LEN_MAX as u64,
        }),
        _ => Ok(()),
    }
}

/// Prepares bytes that are at hand.
pub(crate) fn bytes<'a>(
    store: &Arc<Store>,
    value: &'a [u8],
    options: &SetOptions,
    now_ms: u64,
) -> Result<Prepared<'a>> {
    let max_bytes = store.files.header.setting(setting::SIZE_LIMIT);
    if value.len() as u64 > max_bytes {
        return Err(Error::TooLarge {
            what: "a value (bytes)",
            bytes: value.len() as u64,
            max_bytes,
        });
    }
    let kind = kind_of(options)?;
    let mut prepared = Prepared {
        bytes: Cow::Borrowed(value),
        zstd: None,
        stream: None,
        kind,
        expires_ms: expires_ms(store, options, now_ms)?,
        sliding_ms: options.sliding_ms(),
        cost_s: options.cost_s,
    };
    if value.len() as u64 >= store.files.header.setting(setting::LARGE_VALUE) {
        let mut stream = Stream::begin(store)?;
        for chunk in value.chunks(CHUNK * 16) {
            stream.write(chunk)?;
        }
        prepared.set_apart(store, stream)?;
    } else if options.compress != Some(false) && value.len() >= 32 {
        prepared.compress(store, value, options)?;
    }
    Ok(prepared)
}

/// What kind of value a caller says it is.
fn kind_of(options: &SetOptions) -> Result<u8> {
    match options.kind.unwrap_or(ValueKind::Bytes) {
        ValueKind::Integer | ValueKind::Float => Err(Error::Codec {
            what: "numbers are set with set_number, or by incr and decr".into(),
        }),
        kind => kind.to_byte(),
    }
}

/// Prepares whatever a reader gives, in bounded memory. Returns its length too.
pub(crate) fn reader(
    store: &Arc<Store>,
    mut reader: impl Read,
    options: &SetOptions,
) -> Result<(Prepared<'static>, u64)> {
    let large = store.files.header.setting(setting::LARGE_VALUE);
    let fault = |source| Error::Io {
        path: "the value's reader".into(),
        doing: "reading",
        source,
    };
    let mut head = Vec::new();
    reader
        .by_ref()
        .take(large)
        .read_to_end(&mut head)
        .map_err(fault)?;
    if (head.len() as u64) < large {
        let len = head.len() as u64;
        let prepared = bytes(store, &head, options, store.now_ms())?;
        return Ok((prepared.into_owned(), len));
    }
    let kind = kind_of(options)?;
    let mut stream = Stream::begin(store)?;
    stream.write(&head)?;
    head.resize(CHUNK, 0);
    loop {
        match reader.read(&mut head[..CHUNK]) {
            Ok(0) => break,
            Ok(count) => stream.write(&head[..count])?,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(fault(error)),
        }
    }
    let expires_ms = expires_ms(store, options, store.now_ms())?;
    let mut prepared = Prepared {
        bytes: Cow::Borrowed(&[]),
        zstd: None,
        stream: None,
        kind,
        expires_ms,
        sliding_ms: options.sliding_ms(),
        cost_s: options.cost_s,
    };
    prepared.set_apart(store, stream)?;
    let len = prepared.stream.as_ref().map_or(0, |stream| stream.1.len);
    Ok((prepared, len))
}

/// Prepares a number.
pub(crate) fn number(
    store: &Store,
    number: Number,
    options: &SetOptions,
    now_ms: u64,
) -> Result<Prepared<'static>> {
    Ok(Prepared {
        bytes: Cow::Owned(number.to_bytes().to_vec()),
        zstd: None,
        stream: None,
        kind: number.kind().to_byte()?,
        expires_ms: expires_ms(store, options, now_ms)?,
        sliding_ms: options.sliding_ms(),
        cost_s: options.cost_s,
    })
}

impl Prepared<'_> {
    fn set_apart(&mut self, store: &Store, mut stream: Stream) -> Result<()> {
        let sync = store.files.header.setting(setting::DURABILITY) != 0;
        let apart = stream.finish(sync)?;
        self.bytes = Cow::Borrowed(&[]);
        self.stream = Some(Box::new((stream, apart)));
        Ok(())
    }

    fn compress(&mut self, store: &Store, value: &[u8], options: &SetOptions) -> Result<()> {
        if options.compress.is_none() && store.files.header.setting(setting::COMPRESS_ALWAYS) == 0 {
            return Ok(());
        }
        let compression = store.settings()?.compression;
        let wanted = options.compress == Some(true) || compression.always;
        if !wanted || (value.len() as u64) < compression.min_bytes {
            return Ok(());
        }
        let fault = |error: std::io::Error| Error::Codec {
            what: format!("zstd could not compress: {error}"),
        };
        let packed = zstd::bulk::compress(value, compression.level).map_err(fault)?;
        if packed.len() < value.len() {
            self.zstd = Some((value.len() as u32, 0));
            self.bytes = Cow::Owned(packed);
        }
        Ok(())
    }

    /// The same, with bytes of its own.
    pub(crate) fn into_owned(self) -> Prepared<'static> {
        Prepared {
            bytes: Cow::Owned(self.bytes.into_owned()),
            zstd: self.zstd,
            stream: self.stream,
            kind: self.kind,
            expires_ms: self.expires_ms,
            sliding_ms: self.sliding_ms,
            cost_s: self.cost_s,
        }
    }

    /// It was stored: its file, if it has one, stays.
    pub(crate) fn keep(self) {
        if let Some(stream) = self.stream {
            stream.0.keep();
        }
    }

    pub(crate) fn apart(&self) -> Option<Apart> {
        self.stream.as_ref().map(|stream| stream.1)
    }

    /// As a batch keeps it; the stream is kept beside.
    pub(crate) fn into_payload(self, tags: Vec<u32>, stored_s: u32) -> (Payload, Option<Stream>) {
        let apart = self.apart();
        let payload = Payload {
            value_kind: self.kind,
            value: self.bytes.into_owned(),
            expires_ms: self.expires_ms,
            zstd: self.zstd,
            apart,
            sliding_ms: self.sliding_ms,
            cost_s: self.cost_s,
            is_item: false,
            tag_seq: 0,
            tags,
            stored_s,
        };
        (payload, self.stream.map(|stream| stream.0))
    }
}

/// When an entry written now expires.
fn expires_ms(store: &Store, options: &SetOptions, now_ms: u64) -> Result<Option<u64>> {
    Ok(match options.expiry {
        Some(expiry) => at_ms(expiry, now_ms),
        // The largest value is "never".
        None => match store.files.header.setting(setting::DEFAULT_TTL) {
            u64::MAX => None,
            ttl => Some(now_ms.saturating_add(ttl)),
        },
    })
}

/// A moment in ms since 1970.
pub(crate) fn at_ms(expiry: Expiry, now_ms: u64) -> Option<u64> {
    match expiry {
        Expiry::Never => None,
        Expiry::After(ttl) => {
            Some(now_ms.saturating_add(ttl.as_millis().min(u128::from(u64::MAX)) as u64))
        }
        Expiry::At(at) => Some(
            at.duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |since| {
                    since.as_millis().min(u128::from(u64::MAX)) as u64
                }),
        ),
    }
}

pub(crate) fn time(ms: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH
        .checked_add(Duration::from_millis(ms))
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

/// The plain bytes of a value that is compressed, never more than its record says.
pub(crate) fn decompress(packed: &[u8], plain_len: u32, dictionary: u32) -> Result<Vec<u8>> {
    let wrong = |what: String| Error::Codec {
        what: format!("a compressed value cannot be read: {what}"),
    };
    if dictionary != 0 {
        return Err(wrong(format!(
            "it needs dictionary {dictionary}, which this version does not know"
        )));
    }
    if plain_len as usize >= crate::format::record::VALUE_LEN_END {
        return Err(wrong(format!("it claims {plain_len} bytes")));
    }
    let plain = zstd::bulk::decompress(packed, plain_len as usize)
        .map_err(|error| wrong(error.to_string()))?;
    if plain.len() != plain_len as usize {
        return Err(wrong(format!(
            "it has {} bytes instead of {plain_len}",
            plain.len()
        )));
    }
    Ok(plain)
}

/// The value of a verified record in `buffer`; `None`: its file is gone, so the entry has changed.
#[inline]
pub(crate) fn value_of(store: &Store, head: &Head, buffer: Vec<u8>) -> Result<Option<Value>> {
    let kind = ValueKind::from_byte(head.value_kind);
    let start = head.key_at + head.key_len;
    let end = start + head.value_len;
    if let Some(apart) = head.options.apart {
        let mut bytes = Vec::new();
        return Ok(store
            .read_apart(apart, &mut bytes)?
            .map(|()| Value::whole(bytes, kind)));
    }
    if let Some((plain_len, dictionary)) = head.options.zstd {
        return Ok(Some(Value::whole(
            decompress(&buffer[start..end], plain_len, dictionary)?,
            kind,
        )));
    }
    if let Some(number) = Number::read(kind, &buffer[start..end]) {
        return Ok(Some(Value::whole(number.to_string().into_bytes(), kind)));
    }
    Ok(Some(Value::within(buffer, start, end, kind)))
}

/// Bytes of the value a record holds.
pub(crate) fn size_of(head: &Head, buffer: &[u8]) -> u64 {
    let kind = ValueKind::from_byte(head.value_kind);
    match (head.options.apart, head.options.zstd) {
        (Some(apart), _) => apart.len,
        (_, Some((plain_len, _))) => u64::from(plain_len),
        _ => {
            let start = head.key_at + head.key_len;
            Number::read(kind, &buffer[start..start + head.value_len])
                .map_or(head.value_len, |number| number.to_string().len()) as u64
        }
    }
}
