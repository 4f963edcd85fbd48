//! Codecs: typed values to the bytes a record holds, and back.
//!
//! Owns the payload of typed values: which bytes say what type they are of, and who reads the rest.
//! The record beside them holds the codec's id, as [`ValueKind::Typed`].
//! Never touches a store.
//!
//! | at | len  | field       |                                                                     |
//! |---:|-----:|-------------|---------------------------------------------------------------------|
//! |  0 |    4 | fingerprint | CRC-32 of the type's name, little-endian; absent where the codec has [`Codec::FINGERPRINT`] `false` |
//! |  4 | rest | value       | as the codec writes it                                              |

use std::borrow::Cow;

use bincode::Options as _;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::view::value::ValueKind;

const FINGERPRINT_LEN: usize = 4;

/// The largest value [`Bincode`] writes or reads: 1 GiB.
pub const BINCODE_LEN_MAX: u64 = 1 << 30;

/// How values of type `V` become bytes.
///
/// larder has [`Bincode`] (the default), [`Json`] and [`Raw`]; others are yours to write:
///
/// ```
/// use larder::{Codec, Error, Result};
///
/// /// One byte for each of the weather's moods.
/// struct Moods;
///
/// impl Codec<char> for Moods {
///     const ID: u8 = 130;
///     const NAME: &'static str = "moods";
///     fn encode(value: &char, out: &mut Vec<u8>) -> Result<()> {
///         let mood = "☀☁☂".chars().position(|mood| mood == *value);
///         out.push(mood.ok_or_else(|| Error::Codec { what: format!("no mood: {value}") })? as u8);
///         Ok(())
///     }
///     fn decode(bytes: &[u8]) -> Result<char> {
///         let [mood] = bytes else {
///             return Err(Error::Codec { what: "a mood is one byte".to_owned() });
///         };
///         "☀☁☂".chars().nth(usize::from(*mood)).ok_or_else(|| Error::Codec { what: "no mood".to_owned() })
///     }
/// }
///
/// let moods = larder::Cache::temporary()?.typed::<String, char>().with_codec::<Moods>();
/// moods.set("monday", &'☂')?;
/// assert_eq!(moods.get("monday")?, Some('☂'));
/// # Ok::<(), Error>(())
/// ```
pub trait Codec<V> {
    /// What records carry. Ids from 128 to [`CODEC_ID_MAX`](crate::CODEC_ID_MAX) are yours; those
    /// below are larder's own, those above do not compile. A value is read only by the id it was
    /// written with, so an id once used keeps its meaning.
    const ID: u8;

    /// What errors call it.
    const NAME: &'static str;

    /// Whether a fingerprint of the type's name stands before each value, so that a value written as
    /// another type is [`Error::WrongType`].
    ///
    /// Default: `true`. `false` leaves the stored bytes exactly those of the codec.
    const FINGERPRINT: bool = true;

    /// Appends the value's bytes to `out`; what `out` already holds is not yours to change.
    ///
    /// # Errors
    /// [`Error::Codec`] when this value cannot be written.
    fn encode(value: &V, out: &mut Vec<u8>) -> Result<()>;

    /// The value whose bytes these are, all of them: bytes left over are an error.
    ///
    /// # Errors
    /// [`Error::Codec`] when they are no value. Must not panic, whatever they are.
    fn decode(bytes: &[u8]) -> Result<V>;
}

/// Any `serde` type as [bincode](https://docs.rs/bincode/1.3.3) 1 writes it: small and quick.
///
/// Fixed-width integers, at most [`BINCODE_LEN_MAX`] bytes, none left over. The bytes do not
/// describe themselves: a type whose fields changed is another type and needs another name
/// (`Typed::named`). Types that ask the data what it is (untagged enums, `serde_json::Value`) can be
/// written but not read; use [`Json`] for them.
#[derive(Clone, Copy, Debug)]
pub struct Bincode;

/// Any `serde` type as JSON, for values that other languages read or people look at.
///
/// JSON has no NaN and no infinities: they are written as `null`, which reads back as `None` into an
/// `Option` and is [`Error::Codec`] elsewhere. Map keys must be text or numbers.
#[derive(Clone, Copy, Debug)]
pub struct Json;

/// Bytes and text exactly as they are, with no fingerprint before them.
///
/// For `Vec<u8>`, `Box<[u8]>`, `String` and `Box<str>`. Text read from bytes that are not UTF-8 is
/// [`Error::Codec`]; nothing else tells these types apart.
#[derive(Clone, Copy, Debug)]
pub struct Raw;

/// larder's own codecs by id; records on disk hold these ids.
const OWN: [&str; 3] = ["raw", "bincode", "json"];
const RAW: u8 = 0;
const BINCODE: u8 = 1;
const JSON: u8 = 2;

/// What an error calls the codec with this id.
fn name_of(id: u8) -> String {
    OWN.get(usize::from(id))
        .map_or_else(|| format!("codec {id}"), |name| (*name).to_owned())
}

fn bincode_options() -> impl bincode::Options {
    bincode::DefaultOptions::new()
        .with_fixint_encoding()
        .reject_trailing_bytes()
        .with_limit(BINCODE_LEN_MAX)
}

impl<V: Serialize + DeserializeOwned> Codec<V> for Bincode {
    const ID: u8 = BINCODE;
    const NAME: &'static str = OWN[BINCODE as usize];

    fn encode(value: &V, out: &mut Vec<u8>) -> Result<()> {
        bincode_options()
            .serialize_into(out, value)
            .map_err(|error| match *error {
                bincode::ErrorKind::SizeLimit => Error::TooLarge {
                    what: "a value as bincode",
                    bytes: bincode_options()
                        .with_no_limit()
                        .serialized_size(value)
                        .unwrap_or(u64::MAX),
                    max_bytes: BINCODE_LEN_MAX,
                },
                other => Error::Codec {
                    what: other.to_string(),
                },
            })
    }

    fn decode(bytes: &[u8]) -> Result<V> {
        bincode_options()
            .deserialize(bytes)
            .map_err(|error| Error::Codec {
                what: error.to_string(),
            })
    }
}

impl<V: Serialize + DeserializeOwned> Codec<V> for Json {
    const ID: u8 = JSON;
    const NAME: &'static str = OWN[JSON as usize];

    fn encode(value: &V, out: &mut Vec<u8>) -> Result<()> {
        serde_json::to_writer(out, value).map_err(|error| Error::Codec {
            what: error.to_string(),
        })
    }

    fn decode(bytes: &[u8]) -> Result<V> {
        serde_json::from_slice(bytes).map_err(|error| Error::Codec {
            what: error.to_string(),
        })
    }
}

macro_rules! raw_bytes {
    ($($bytes:ty),*) => {$(
        impl Codec<$bytes> for Raw {
            const ID: u8 = RAW;
            const NAME: &'static str = OWN[RAW as usize];
            const FINGERPRINT: bool = false;

            fn encode(value: &$bytes, out: &mut Vec<u8>) -> Result<()> {
                out.extend_from_slice(value);
                Ok(())
            }

            fn decode(bytes: &[u8]) -> Result<$bytes> {
                Ok(bytes.into())
            }
        }
    )*};
}

macro_rules! raw_text {
    ($($text:ty),*) => {$(
        impl Codec<$text> for Raw {
            const ID: u8 = RAW;
            const NAME: &'static str = OWN[RAW as usize];
            const FINGERPRINT: bool = false;

            fn encode(value: &$text, out: &mut Vec<u8>) -> Result<()> {
                out.extend_from_slice(value.as_bytes());
                Ok(())
            }

            fn decode(bytes: &[u8]) -> Result<$text> {
                let text = std::str::from_utf8(bytes);
                text.map(Into::into).map_err(|error| Error::Codec { what: error.to_string() })
            }
        }
    )*};
}

raw_bytes! { Vec<u8>, Box<[u8]> }
raw_text! { String, Box<str> }

/// The name values of a type are stored under, and its fingerprint.
#[derive(Clone, Debug)]
pub(crate) struct TypeName {
    name: Cow<'static, str>,
    fingerprint: [u8; FINGERPRINT_LEN],
}

impl TypeName {
    pub(crate) fn new(name: impl Into<Cow<'static, str>>) -> Self {
        let name = name.into();
        let fingerprint = crc32fast::hash(name.as_bytes()).to_le_bytes();
        TypeName { name, fingerprint }
    }

    /// The payload of a record that holds `value`.
    pub(crate) fn encode<V, C: Codec<V>>(&self, value: &V) -> Result<Vec<u8>> {
        let mut payload = Vec::new();
        if C::FINGERPRINT {
            payload.extend_from_slice(&self.fingerprint);
        }
        match C::encode(value, &mut payload) {
            Err(Error::Codec { what }) => Err(Error::Codec {
                what: format!("cannot write {}: {what}", self.described::<V, C>()),
            }),
            done => done.map(|()| payload),
        }
    }

    /// The value of a record of this kind with this payload.
    pub(crate) fn decode<V, C: Codec<V>>(&self, kind: ValueKind, payload: &[u8]) -> Result<V> {
        match kind {
            ValueKind::Typed(id) if id == C::ID => {}
            ValueKind::Typed(id) => return Err(self.wrong_type::<V, C>(name_of(id))),
            ValueKind::Bytes => return Err(self.wrong_type::<V, C>("plain bytes".to_owned())),
            ValueKind::Text => return Err(self.wrong_type::<V, C>("plain text".to_owned())),
            ValueKind::Integer | ValueKind::Float => {
                return Err(self.wrong_type::<V, C>("a number".to_owned()));
            }
        }
        let mut value = payload;
        if C::FINGERPRINT {
            match payload.split_first_chunk() {
                Some((found, rest)) if *found == self.fingerprint => value = rest,
                Some(_) => {
                    return Err(self.wrong_type::<V, C>(format!("{} of another type", C::NAME)));
                }
                None => return Err(self.undecodable::<V, C>("it ends within its fingerprint")),
            }
        }
        match C::decode(value) {
            Err(Error::Codec { what }) => Err(self.undecodable::<V, C>(&what)),
            done => done,
        }
    }

    /// "json of plan/v1"
    fn described<V, C: Codec<V>>(&self) -> String {
        format!("{} of {}", C::NAME, self.name)
    }

    fn wrong_type<V, C: Codec<V>>(&self, found: String) -> Error {
        Error::WrongType {
            expected: self.described::<V, C>(),
            found,
        }
    }

    fn undecodable<V, C: Codec<V>>(&self, what: &str) -> Error {
        Error::Codec {
            what: format!("cannot read {}: {what}", self.described::<V, C>()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: TypeName = TypeName {
        name: Cow::Borrowed("plan/v1"),
        fingerprint: [1, 2, 3, 4],
    };

    fn typed<V, C: Codec<V>>() -> ValueKind {
        ValueKind::Typed(C::ID)
    }

    fn round_trip<V: PartialEq + std::fmt::Debug, C: Codec<V>>(value: V) -> Vec<u8> {
        let payload = PLAN.encode::<V, C>(&value).expect("a value");
        let back = PLAN
            .decode::<V, C>(typed::<V, C>(), &payload)
            .expect("the same value");
        assert_eq!(back, value);
        payload
    }

    #[test]
    fn the_bytes_are_those_of_the_table() {
        assert_eq!(round_trip::<u16, Bincode>(258), [1, 2, 3, 4, 2, 1]);
        assert_eq!(
            round_trip::<String, Json>("a".to_owned()),
            b"\x01\x02\x03\x04\"a\""
        );
        assert_eq!(round_trip::<Vec<u8>, Raw>(vec![7, 0]), [7, 0]);
        assert_eq!(round_trip::<Box<[u8]>, Raw>(Box::new([7, 0])), [7, 0]);
        assert_eq!(round_trip::<String, Raw>("ä".to_owned()), "ä".as_bytes());
        assert_eq!(round_trip::<Box<str>, Raw>("ä".into()), "ä".as_bytes());
        assert_eq!(
            TypeName::new("123456789").fingerprint,
            0xCBF4_3926_u32.to_le_bytes()
        );
    }

    #[test]
    fn another_kind_is_a_wrong_type() {
        let payload = round_trip::<u16, Bincode>(258);
        for kind in [
            ValueKind::Bytes,
            ValueKind::Text,
            ValueKind::Integer,
            ValueKind::Float,
            typed::<u16, Json>(),
            typed::<String, Raw>(),
            ValueKind::Typed(200),
        ] {
            let answer = PLAN.decode::<u16, Bincode>(kind, &payload);
            assert!(matches!(answer, Err(Error::WrongType { .. })), "{kind:?}");
        }
    }

    #[test]
    fn another_name_is_a_wrong_type() {
        let payload = round_trip::<u16, Bincode>(258);
        let answer =
            TypeName::new("plan/v2").decode::<u16, Bincode>(typed::<u16, Bincode>(), &payload);
        let Err(Error::WrongType { expected, found }) = answer else {
            panic!("{answer:?}")
        };
        assert_eq!(
            (expected.as_str(), found.as_str()),
            ("bincode of plan/v2", "bincode of another type")
        );
    }

    fn fails_unless_whole<V: PartialEq + std::fmt::Debug, C: Codec<V>>(value: V) {
        let payload = round_trip::<V, C>(value);
        let decode = |payload: &[u8]| PLAN.decode::<V, C>(typed::<V, C>(), payload);
        for cut in 0..payload.len() {
            assert!(
                matches!(decode(&payload[..cut]), Err(Error::Codec { .. })),
                "cut at {cut}"
            );
        }
        let longer = [&payload[..], b"0"].concat();
        assert!(matches!(decode(&longer), Err(Error::Codec { .. })));
    }

    #[test]
    fn every_cut_and_a_byte_too_many_are_errors() {
        let value = (7u64, "seven".to_owned(), vec![Some(1.5f64), None]);
        fails_unless_whole::<_, Bincode>(value.clone());
        fails_unless_whole::<_, Json>(value);
    }

    #[test]
    fn a_length_that_lies_is_an_error_and_takes_no_memory() {
        let mut payload = PLAN.encode::<Vec<u64>, Bincode>(&vec![1]).expect("a value");
        payload[4..12].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(
            PLAN.decode::<Vec<u64>, Bincode>(typed::<Vec<u64>, Bincode>(), &payload)
                .is_err()
        );
        assert!(
            PLAN.decode::<String, Bincode>(typed::<String, Bincode>(), &payload)
                .is_err()
        );
    }

    #[test]
    fn text_that_is_none_is_an_error() {
        let answer = PLAN.decode::<String, Raw>(typed::<String, Raw>(), &[0xFF]);
        assert!(matches!(answer, Err(Error::Codec { .. })));
        let answer =
            PLAN.encode::<std::collections::BTreeMap<Vec<u8>, u8>, Json>(&[(vec![1], 1)].into());
        assert!(matches!(answer, Err(Error::Codec { .. })));
    }
}
