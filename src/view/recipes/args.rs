//! The arguments of a call as bytes: the same for equal arguments, others for others.
//!
//! Owns that encoding of whatever `serde` can serialise. It is never read back. Floats are told by their
//! bits, but that all NaNs are one; maps are sorted by their encoded keys; names of fields and variants
//! count, names of types do not.
//!
//! | argument | bytes |
//! |---|---|
//! | nothing (`()`, `None`) | `00` |
//! | `false`, `true` | `01`, `02` |
//! | a whole number | `03`, 16 bytes of its `i128`; above that `04`, 16 bytes |
//! | a float | `05`, 8 bytes; when types do not count and it is whole, that number |
//! | text, a character | `06`, length in 8 bytes, UTF-8 |
//! | bytes | `07`, length, bytes |
//! | a sequence, a tuple | `08`, its parts, `FF` |
//! | a map | `09`, keys each with its value, `FF` |
//! | a struct | `0A`, names of fields (as text) each with its value, `FF` |
//! | a variant | `0B`, its name as text, its content (nothing for a plain one) |
//! | `Some` | `0C`, its content |

use serde::ser::{self, Serialize};

use crate::error::{Error, Result};

const NOTHING: u8 = 0x00;
const FALSE: u8 = 0x01;
const TRUE: u8 = 0x02;
const INT: u8 = 0x03;
const UINT: u8 = 0x04;
const FLOAT: u8 = 0x05;
const TEXT: u8 = 0x06;
const BYTES: u8 = 0x07;
const SEQUENCE: u8 = 0x08;
const MAP: u8 = 0x09;
const STRUCT: u8 = 0x0A;
const VARIANT: u8 = 0x0B;
const SOME: u8 = 0x0C;
const END: u8 = 0xFF;

/// The bytes of `args`, without the parts at the places `ignored` of a tuple, sequence or struct.
/// `typed`: whether 1 and 1.0 are two.
pub(super) fn encode<A: Serialize + ?Sized>(
    args: &A,
    ignored: &[usize],
    typed: bool,
) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    args.serialize(Writer {
        out: &mut out,
        ignored,
        typed,
    })
    .map_err(|Refused(what)| Error::InvalidKey { what })?;
    Ok(out)
}

/// Why something cannot be an argument.
#[derive(Debug)]
struct Refused(String);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

impl ser::Error for Refused {
    fn custom<T: std::fmt::Display>(what: T) -> Self {
        Refused(format!("an argument cannot be serialised: {what}"))
    }
}

type Written = std::result::Result<(), Refused>;

struct Writer<'a> {
    out: &'a mut Vec<u8>,
    /// Of the outermost parts alone.
    ignored: &'a [usize],
    typed: bool,
}

/// Parts of something, being written one after the other.
struct Parts<'a> {
    out: &'a mut Vec<u8>,
    ignored: &'a [usize],
    typed: bool,
    at: usize,
    /// Of a map: pairs to be sorted.
    pairs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl<'a> Writer<'a> {
    fn int(self, int: i128) -> Written {
        self.out.push(INT);
        self.out.extend_from_slice(&int.to_be_bytes());
        Ok(())
    }

    fn counted(&mut self, kind: u8, bytes: &[u8]) {
        self.out.push(kind);
        self.out
            .extend_from_slice(&(bytes.len() as u64).to_be_bytes());
        self.out.extend_from_slice(bytes);
    }

    fn parts(self, kind: u8) -> Parts<'a> {
        self.out.push(kind);
        Parts {
            out: self.out,
            ignored: self.ignored,
            typed: self.typed,
            at: 0,
            pairs: Vec::new(),
        }
    }

    fn variant(mut self, name: &str) -> Writer<'a> {
        self.out.push(VARIANT);
        self.counted(TEXT, name.as_bytes());
        self
    }
}

impl Parts<'_> {
    fn is_ignored(&mut self) -> bool {
        let at = self.at;
        self.at += 1;
        self.ignored.contains(&at)
    }

    fn inner(&mut self) -> Writer<'_> {
        Writer {
            out: self.out,
            ignored: &[],
            typed: self.typed,
        }
    }

    fn part<T: Serialize + ?Sized>(&mut self, value: &T) -> Written {
        match self.is_ignored() {
            true => Ok(()),
            false => value.serialize(self.inner()),
        }
    }

    fn field<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> Written {
        if self.is_ignored() {
            return Ok(());
        }
        self.inner().counted(TEXT, name.as_bytes());
        value.serialize(self.inner())
    }

    fn apart<T: Serialize + ?Sized>(&self, value: &T) -> std::result::Result<Vec<u8>, Refused> {
        let mut out = Vec::new();
        value.serialize(Writer {
            out: &mut out,
            ignored: &[],
            typed: self.typed,
        })?;
        Ok(out)
    }

    fn close(self) -> Written {
        self.out.push(END);
        Ok(())
    }
}

macro_rules! ints {
    ($($name:ident: $int:ty),*) => {$(
        fn $name(self, value: $int) -> Written {
            self.int(i128::from(value))
        }
    )*};
}

impl<'a> ser::Serializer for Writer<'a> {
    type Ok = ();
    type Error = Refused;
    type SerializeSeq = Parts<'a>;
    type SerializeTuple = Parts<'a>;
    type SerializeTupleStruct = Parts<'a>;
    type SerializeTupleVariant = Parts<'a>;
    type SerializeMap = Parts<'a>;
    type SerializeStruct = Parts<'a>;
    type SerializeStructVariant = Parts<'a>;

    ints! {
        serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64,
        serialize_i128: i128, serialize_u8: u8, serialize_u16: u16, serialize_u32: u32,
        serialize_u64: u64
    }

    fn serialize_u128(self, value: u128) -> Written {
        match i128::try_from(value) {
            Ok(int) => self.int(int),
            Err(_) => {
                self.out.push(UINT);
                self.out.extend_from_slice(&value.to_be_bytes());
                Ok(())
            }
        }
    }

    fn serialize_bool(self, value: bool) -> Written {
        self.out.push(if value { TRUE } else { FALSE });
        Ok(())
    }

    fn serialize_f32(self, value: f32) -> Written {
        self.serialize_f64(value.into())
    }

    fn serialize_f64(self, value: f64) -> Written {
        // 2^126: below it every whole float is an i128.
        if !self.typed && value.fract() == 0.0 && value.abs() < 8.5e37 {
            return self.int(value as i128);
        }
        let value = if value.is_nan() { f64::NAN } else { value };
        self.out.push(FLOAT);
        self.out.extend_from_slice(&value.to_bits().to_be_bytes());
        Ok(())
    }

    fn serialize_char(self, value: char) -> Written {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(mut self, value: &str) -> Written {
        self.counted(TEXT, value.as_bytes());
        Ok(())
    }

    fn serialize_bytes(mut self, value: &[u8]) -> Written {
        self.counted(BYTES, value);
        Ok(())
    }

    fn serialize_none(self) -> Written {
        self.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Written {
        self.out.push(SOME);
        value.serialize(Writer {
            ignored: &[],
            ..self
        })
    }

    fn serialize_unit(self) -> Written {
        self.out.push(NOTHING);
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Written {
        self.serialize_unit()
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, name: &'static str) -> Written {
        self.variant(name).serialize_unit()
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Written {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        name: &'static str,
        value: &T,
    ) -> Written {
        let inner = self.variant(name);
        value.serialize(Writer {
            ignored: &[],
            ..inner
        })
    }

    fn serialize_seq(self, _: Option<usize>) -> std::result::Result<Parts<'a>, Refused> {
        Ok(self.parts(SEQUENCE))
    }

    fn serialize_tuple(self, _: usize) -> std::result::Result<Parts<'a>, Refused> {
        Ok(self.parts(SEQUENCE))
    }

    fn serialize_tuple_struct(
        self,
        _: &'static str,
        _: usize,
    ) -> std::result::Result<Parts<'a>, Refused> {
        Ok(self.parts(SEQUENCE))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        name: &'static str,
        _: usize,
    ) -> std::result::Result<Parts<'a>, Refused> {
        let mut parts = self.variant(name).parts(SEQUENCE);
        parts.ignored = &[];
        Ok(parts)
    }

    fn serialize_map(self, _: Option<usize>) -> std::result::Result<Parts<'a>, Refused> {
        Ok(self.parts(MAP))
    }

    fn serialize_struct(
        self,
        _: &'static str,
        _: usize,
    ) -> std::result::Result<Parts<'a>, Refused> {
        Ok(self.parts(STRUCT))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        name: &'static str,
        _: usize,
    ) -> std::result::Result<Parts<'a>, Refused> {
        let mut parts = self.variant(name).parts(STRUCT);
        parts.ignored = &[];
        Ok(parts)
    }
}

macro_rules! in_turn {
    ($($which:ident::$name:ident),*) => {$(
        impl ser::$which for Parts<'_> {
            type Ok = ();
            type Error = Refused;

            fn $name<T: Serialize + ?Sized>(&mut self, value: &T) -> Written {
                self.part(value)
            }

            fn end(self) -> Written {
                self.close()
            }
        }
    )*};
}

in_turn! {
    SerializeSeq::serialize_element,
    SerializeTuple::serialize_element,
    SerializeTupleStruct::serialize_field,
    SerializeTupleVariant::serialize_field
}

macro_rules! by_name {
    ($($which:ident),*) => {$(
        impl ser::$which for Parts<'_> {
            type Ok = ();
            type Error = Refused;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: &'static str,
                value: &T,
            ) -> Written {
                self.field(name, value)
            }

            fn skip_field(&mut self, _: &'static str) -> Written {
                // Its place counts all the same.
                self.at += 1;
                Ok(())
            }

            fn end(self) -> Written {
                self.close()
            }
        }
    )*};
}

by_name! { SerializeStruct, SerializeStructVariant }

impl ser::SerializeMap for Parts<'_> {
    type Ok = ();
    type Error = Refused;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Written {
        let key = self.apart(key)?;
        self.pairs.push((key, Vec::new()));
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Written {
        let value = self.apart(value)?;
        if let Some(pair) = self.pairs.last_mut() {
            pair.1 = value;
        }
        Ok(())
    }

    fn end(mut self) -> Written {
        self.pairs.sort();
        for (key, value) in std::mem::take(&mut self.pairs) {
            self.out.extend_from_slice(&key);
            self.out.extend_from_slice(&value);
        }
        self.close()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use serde::Serialize;

    use super::*;

    fn typed<A: Serialize>(args: A) -> Vec<u8> {
        encode(&args, &[], true).expect("arguments")
    }

    fn untyped<A: Serialize>(args: A) -> Vec<u8> {
        encode(&args, &[], false).expect("arguments")
    }

    #[derive(Serialize)]
    enum Shape {
        Dot,
        Round(f64),
        Box { wide: u8, high: u8 },
        Pair(u8, u8),
    }

    #[derive(Serialize)]
    struct Wide {
        wide: u8,
    }

    #[test]
    fn different_arguments_differ() {
        let all = [
            typed(()),
            typed(Some(())),
            typed(false),
            typed(true),
            typed(0),
            typed(1),
            typed(-1),
            typed(u128::MAX),
            typed(1.0),
            typed(0.0),
            typed(-0.0),
            typed(f64::NAN),
            typed(f64::INFINITY),
            typed(""),
            typed("1"),
            typed("a"),
            typed(("a", "b")),
            typed(("ab", "")),
            typed((("a",), "b")),
            typed(((), ())),
            typed(((),)),
            typed([0_u8; 0]),
            typed(vec![vec![1], vec![]]),
            typed(vec![vec![], vec![1]]),
            typed(Some(1)),
            typed(Some(Some(1))),
            typed(Shape::Dot),
            typed("Dot"),
            typed(Shape::Round(1.0)),
            typed(Shape::Box { wide: 1, high: 2 }),
            typed(Shape::Box { wide: 2, high: 1 }),
            typed(Shape::Pair(1, 2)),
            typed(Wide { wide: 1 }),
            typed(BTreeMap::from([("wide", 1)])),
            typed(BTreeMap::from([("wide", 1), ("x", 2)])),
        ];
        for (a, one) in all.iter().enumerate() {
            for (b, other) in all.iter().enumerate() {
                assert_eq!(a == b, one == other, "{a} and {b}");
                // None begins another: what follows in a tuple cannot make up for it.
                assert!(a == b || !other.starts_with(one), "{a} begins {b}");
            }
        }
    }

    #[test]
    fn equal_arguments_are_the_same_whatever_holds_them() {
        assert_eq!(typed(7_u8), typed(7_i64));
        assert_eq!(typed('a'), typed("a".to_owned()));
        assert_eq!(typed(1.5_f32), typed(1.5_f64));
        assert_eq!(typed((1, 2)), typed(vec![1, 2]));
        assert_eq!(typed(f64::NAN), typed(-f64::NAN));
        let pairs: Vec<(u32, u32)> = (0..50).map(|n| (n * 7 % 50, n)).collect();
        let one: HashMap<_, _> = pairs.iter().copied().collect();
        let other: HashMap<_, _> = pairs.iter().rev().copied().collect();
        assert_eq!(typed(&one), typed(&other));
        assert_eq!(typed(one), typed(BTreeMap::from_iter(pairs)));
    }

    #[test]
    fn numbers_are_one_kind_when_types_do_not_count() {
        assert_ne!(typed(1), typed(1.0));
        assert_eq!(untyped(1), untyped(1.0));
        assert_eq!(untyped(0.0), untyped(-0.0));
        assert_ne!(untyped(1), untyped(1.5));
        assert_ne!(untyped(u128::MAX), untyped(u128::MAX as f64));
    }

    #[test]
    fn ignored_places_do_not_count_and_others_do() {
        let key = |args: (u8, &str, u8)| encode(&args, &[1], true).expect("arguments");
        assert_eq!(key((1, "x", 2)), key((1, "other", 2)));
        assert_ne!(key((1, "x", 2)), key((2, "x", 2)));
        let nested = |args: ((u8, u8), u8)| encode(&args, &[1], true).expect("arguments");
        assert_ne!(nested(((1, 1), 0)), nested(((1, 2), 0)));
        let named = |wide, high| {
            #[derive(Serialize)]
            struct Size {
                wide: u8,
                high: u8,
            }
            encode(&Size { wide, high }, &[0], true).expect("arguments")
        };
        assert_eq!(named(1, 2), named(9, 2));
        assert_ne!(named(1, 2), named(1, 3));
    }
}
