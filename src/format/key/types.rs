//! Which Rust types are keys, and as what.
//!
//! Owns the way between these types and [`KeyPart`]. Never sees an encoded byte.

use std::borrow::Cow;

use super::{Key, KeyPart};
use crate::error::{Error, Result};

impl<K: Key + ?Sized> Key for &K {
    type Owned = K::Owned;

    fn to_part(&self) -> Result<KeyPart<'_>> {
        K::to_part(self)
    }

    fn from_part(part: KeyPart<'_>) -> Result<K::Owned> {
        K::from_part(part)
    }
}

impl Key for bool {
    type Owned = bool;

    fn to_part(&self) -> Result<KeyPart<'_>> {
        Ok(KeyPart::Bool(*self))
    }

    fn from_part(part: KeyPart<'_>) -> Result<bool> {
        match part {
            KeyPart::Bool(bool) => Ok(bool),
            other => unexpected("a bool", &other),
        }
    }
}

macro_rules! whole_number_keys {
    ($($int:ty => $variant:ident),* $(,)?) => {$(
        impl Key for $int {
            type Owned = $int;

            fn to_part(&self) -> Result<KeyPart<'_>> {
                Ok(KeyPart::$variant(*self as _)) // widens: no type here has more than 64 bits
            }

            fn from_part(part: KeyPart<'_>) -> Result<$int> {
                match part {
                    KeyPart::Int(int) => <$int>::try_from(int).ok(),
                    KeyPart::Uint(uint) => <$int>::try_from(uint).ok(),
                    KeyPart::Float(float) if float as i128 as f64 == float => {
                        <$int>::try_from(float as i128).ok()
                    }
                    _ => None,
                }
                .map_or_else(|| unexpected(concat!("of type ", stringify!($int)), &part), Ok)
            }
        }
    )*};
}

whole_number_keys! {
    i8 => Int, i16 => Int, i32 => Int, i64 => Int, isize => Int,
    u8 => Uint, u16 => Uint, u32 => Uint, u64 => Uint, usize => Uint,
}

impl Key for f64 {
    type Owned = f64;

    fn to_part(&self) -> Result<KeyPart<'_>> {
        Ok(KeyPart::Float(*self))
    }

    /// A whole number that no `f64` equals is another type's key.
    fn from_part(part: KeyPart<'_>) -> Result<f64> {
        match part {
            KeyPart::Float(float) => return Ok(float),
            KeyPart::Int(int) if int as f64 as i128 == i128::from(int) => return Ok(int as f64),
            KeyPart::Uint(uint) if uint as f64 as u128 == u128::from(uint) => {
                return Ok(uint as f64);
            }
            _ => {}
        }
        unexpected("of type f64", &part)
    }
}

impl Key for f32 {
    type Owned = f32;

    fn to_part(&self) -> Result<KeyPart<'_>> {
        Ok(KeyPart::Float((*self).into()))
    }

    /// A number that no `f32` equals is another type's key.
    fn from_part(part: KeyPart<'_>) -> Result<f32> {
        let wide = f64::from_part(part)?;
        if f64::from(wide as f32) == wide || wide.is_nan() {
            return Ok(wide as f32);
        }
        unexpected("of type f32", &KeyPart::Float(wide))
    }
}

impl Key for str {
    type Owned = String;

    fn to_part(&self) -> Result<KeyPart<'_>> {
        Ok(KeyPart::Text(Cow::Borrowed(self)))
    }

    fn from_part(part: KeyPart<'_>) -> Result<String> {
        match part {
            KeyPart::Text(text) => Ok(text.into_owned()),
            other => unexpected("text", &other),
        }
    }
}

impl Key for [u8] {
    type Owned = Vec<u8>;

    fn to_part(&self) -> Result<KeyPart<'_>> {
        Ok(KeyPart::Bytes(Cow::Borrowed(self)))
    }

    fn from_part(part: KeyPart<'_>) -> Result<Vec<u8>> {
        match part {
            KeyPart::Bytes(bytes) => Ok(bytes.into_owned()),
            other => unexpected("bytes", &other),
        }
    }
}

impl<const N: usize> Key for [u8; N] {
    type Owned = [u8; N];

    fn to_part(&self) -> Result<KeyPart<'_>> {
        Ok(KeyPart::Bytes(Cow::Borrowed(self)))
    }

    fn from_part(part: KeyPart<'_>) -> Result<[u8; N]> {
        if let KeyPart::Bytes(bytes) = &part
            && let Ok(array) = bytes.as_ref().try_into()
        {
            return Ok(array);
        }
        unexpected(&format!("{N} bytes"), &part)
    }
}

macro_rules! keys_like_what_they_hold {
    ($($owner:ty => $held:ty),* $(,)?) => {$(
        impl Key for $owner {
            type Owned = $owner;

            fn to_part(&self) -> Result<KeyPart<'_>> {
                <$held>::to_part(self)
            }

            fn from_part(part: KeyPart<'_>) -> Result<$owner> {
                <$held>::from_part(part)
            }
        }
    )*};
}

keys_like_what_they_hold! { String => str, Vec<u8> => [u8] }

/// `None` is null and `Some` is what it holds. A `Some` of something that is itself null (a
/// `Some(None)`) could not be told from `None` and is refused.
impl<K: Key> Key for Option<K> {
    type Owned = Option<K::Owned>;

    fn to_part(&self) -> Result<KeyPart<'_>> {
        let Some(key) = self else {
            return Ok(KeyPart::Null);
        };
        match key.to_part()? {
            KeyPart::Null => Err(Error::InvalidKey {
                what: "a Some whose content is null could not be told from None".to_owned(),
            }),
            part => Ok(part),
        }
    }

    fn from_part(part: KeyPart<'_>) -> Result<Option<K::Owned>> {
        match part {
            KeyPart::Null => Ok(None),
            part => K::from_part(part).map(Some),
        }
    }
}

macro_rules! tuple_keys {
    ($(($len:literal $(, $K:ident $part:ident)*))*) => {$(
        impl<$($K: Key),*> Key for ($($K,)*) {
            type Owned = ($($K::Owned,)*);

            fn to_part(&self) -> Result<KeyPart<'_>> {
                let ($($part,)*) = self;
                Ok(KeyPart::Tuple(vec![$($part.to_part()?),*]))
            }

            fn from_part(part: KeyPart<'_>) -> Result<Self::Owned> {
                match part {
                    KeyPart::Tuple(parts) => match <[KeyPart<'_>; $len]>::try_from(parts) {
                        Ok([$($part),*]) => Ok(($($K::from_part($part)?,)*)),
                        Err(parts) => unexpected(concat!("a tuple of ", $len), &KeyPart::Tuple(parts)),
                    },
                    other => unexpected(concat!("a tuple of ", $len), &other),
                }
            }
        }
    )*};
}

tuple_keys! {
    (0)
    (1, A a)
    (2, A a, B b)
    (3, A a, B b, C c)
    (4, A a, B b, C c, D d)
    (5, A a, B b, C c, D d, E e)
    (6, A a, B b, C c, D d, E e, F f)
}

impl KeyPart<'_> {
    /// What an error calls it.
    fn shape(&self) -> String {
        match self {
            KeyPart::Null => "null".to_owned(),
            KeyPart::Bool(_) => "a bool".to_owned(),
            KeyPart::Int(int) => format!("the number {int}"),
            KeyPart::Uint(uint) => format!("the number {uint}"),
            KeyPart::Float(float) => format!("the number {float}"),
            KeyPart::Text(_) => "text".to_owned(),
            KeyPart::Bytes(bytes) => format!("{} bytes", bytes.len()),
            KeyPart::Tuple(parts) => format!("a tuple of {}", parts.len()),
        }
    }
}

fn unexpected<T>(wanted: &str, found: &KeyPart<'_>) -> Result<T> {
    Err(Error::InvalidKey {
        what: format!("it should be {wanted} and is {}", found.shape()),
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::encoded;
    use super::*;
    use crate::format::key::U64_END_F64;

    fn round_trip<K: Key<Owned = K> + PartialEq + std::fmt::Debug>(key: K) {
        assert_eq!(K::decode(&encoded(&key)).expect("canonical"), key);
    }

    #[test]
    fn types_come_back_as_themselves() {
        round_trip(());
        round_trip(true);
        round_trip((i8::MIN, i16::MIN, i32::MIN, i64::MIN, isize::MIN, 0));
        round_trip((u8::MAX, u16::MAX, u32::MAX, u64::MAX, usize::MAX, 0));
        round_trip((0.1f32, f32::INFINITY, 0.1f64, f64::MIN, U64_END_F64));
        round_trip((
            String::from("a"),
            vec![0u8, 255],
            [1u8, 2, 3],
            Some(1u8),
            None::<u8>,
        ));
        round_trip((Some(()), (((1,),),)));
        assert_eq!(
            <(&str, &[u8])>::decode(&encoded(&("a", &b"b"[..]))).ok(),
            Some(("a".to_owned(), b"b".to_vec()))
        );
    }

    #[test]
    fn another_shape_is_an_error() {
        assert!(u8::decode(&encoded(&256)).is_err());
        assert!(u8::decode(&encoded(&-1)).is_err());
        assert!(i64::decode(&encoded(&u64::MAX)).is_err());
        assert!(u64::decode(&encoded(&U64_END_F64)).is_err());
        assert!(i64::decode(&encoded(&0.5)).is_err());
        assert!(i64::decode(&encoded("1")).is_err());
        assert!(f64::decode(&encoded(&u64::MAX)).is_err());
        assert!(f64::decode(&encoded(&(i64::MAX))).is_err());
        assert!(f32::decode(&encoded(&0.1f64)).is_err());
        assert!(bool::decode(&encoded(&1)).is_err());
        assert!(String::decode(&encoded(&b"a"[..])).is_err());
        assert!(<Vec<u8>>::decode(&encoded("a")).is_err());
        assert!(<[u8; 2]>::decode(&encoded(&[1u8])).is_err());
        assert!(<(u8,)>::decode(&encoded(&1u8)).is_err());
        assert!(<(u8, u8)>::decode(&encoded(&(1, 2, 3))).is_err());
        assert!(<()>::decode(&encoded(&KeyPart::Null)).is_err());
    }

    #[test]
    fn borrowed_forms_have_the_same_bytes() {
        assert_eq!(encoded("a"), encoded(&String::from("a")));
        assert_eq!(encoded(&"a"), encoded(&&&"a"));
        assert_eq!(encoded(&b"a"[..]), encoded(&b"a".to_vec()));
        assert_eq!(encoded(b"a"), encoded(&b"a".to_vec()));
        assert_eq!(encoded(&("a", 1u8)), encoded(&(String::from("a"), 1i64)));
        assert_eq!(encoded(&Some("a")), encoded("a"));
    }
}
