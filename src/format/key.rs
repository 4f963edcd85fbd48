//! Keys: typed keys to bytes that sort as the keys do, and back.
//!
//! Owns the canonical key encoding. Holds: two keys are equal exactly when their bytes are, and the
//! bytes, compared as bytes, order as null < false < true < numbers < text < bytes < tuples.
//! Never knows how long a key may be (the store does), what its value is, or who calls.
//!
//! | key    | bytes                                                                         |
//! |--------|-------------------------------------------------------------------------------|
//! | null   | `10`                                                                          |
//! | false  | `20`                                                                          |
//! | true   | `21`                                                                          |
//! | number | `30`, then 8 bytes: the nearest `f64` in sortable form; then, where that `f64` is in -2^63 ..= -2^53 or 2^53 ..= 2^64, 2 bytes: 2^15 plus what the number has beyond that `f64` |
//! | text   | `40`, its UTF-8 with each `00` as `00 FF`, `00`                               |
//! | bytes  | `50`, its bytes with each `00` as `00 FF`, `00`                               |
//! | tuple  | `60`, its parts one after the other, `00`                                     |
//!
//! Multi-byte fields are big-endian. The sortable form of an `f64` is its bits with the sign bit set
//! when it is positive, and all bits inverted when it is negative. Every other first byte is free for
//! kinds to come; none may ever be `00` (it ends a tuple) or `FF` (it follows an escaped `00`).
//!
//! Every key has one encoding and [`Key::decode`] refuses all others, so that no entry can be stored
//! under a name that no look-up would form.

mod types;

use std::borrow::Cow;

use crate::error::{Error, Result};

const END: u8 = 0x00;
const ESCAPED: u8 = 0xFF;
const NULL: u8 = 0x10;
const FALSE: u8 = 0x20;
const TRUE: u8 = 0x21;
const NUMBER: u8 = 0x30;
const TEXT: u8 = 0x40;
const BYTES: u8 = 0x50;
const TUPLE: u8 = 0x60;

/// Whole numbers beyond this may lie between two `f64`s.
const EXACT_F64: f64 = 9_007_199_254_740_992.0; // 2^53
const I64_MIN_F64: f64 = -9_223_372_036_854_775_808.0; // -2^63
const U64_END_F64: f64 = 18_446_744_073_709_551_616.0; // 2^64
const REMAINDER_BIAS: i128 = 1 << 15;

/// Tuples may stand in tuples this many deep, the outermost counted; a deeper key is
/// [`Error::InvalidKey`], written or read. It bounds the stack that any stored bytes can claim.
pub const KEY_DEPTH_MAX: usize = 64;

/// A key in the shape it is stored in: what every [`Key`] turns into, and what to use directly when
/// keys of several shapes share a store.
///
/// Numbers are one kind: `Int(1)`, `Uint(1)` and `Float(1.0)` are the same key, and so are `0` and
/// `-0.0`; they sort by their exact values, beyond 2^53 too, infinities included. NaN is no key. A
/// number is read back as `Int` if it fits, else `Uint` if it fits, else `Float`. Text sorts by code
/// points, bytes by bytes, a tuple before every longer one that begins with it.
///
/// `==` compares shapes as they were written, so `Int(1) != Float(1.0)`; compare encodings for the
/// store's view.
///
/// A number takes 9 bytes, or 11 where its `f64` stands for several whole numbers (from ±2^53 to
/// -2^63 and to 2^64). Text and bytes take their length, plus one for each zero byte in them, plus 2;
/// a tuple takes its parts plus 2.
#[derive(Clone, Debug, PartialEq)]
pub enum KeyPart<'a> {
    /// Nothing; sorts before everything else.
    Null,
    /// `false`, then `true`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A whole number.
    Uint(u64),
    /// Any number but NaN.
    Float(f64),
    /// Text; a key of its own, never equal to the same bytes as [`KeyPart::Bytes`].
    Text(Cow<'a, str>),
    /// Bytes.
    Bytes(Cow<'a, [u8]>),
    /// Parts compared from the first on. May be empty, may hold tuples.
    Tuple(Vec<KeyPart<'a>>),
}

impl KeyPart<'_> {
    /// The same key, holding on to nothing borrowed.
    #[must_use]
    pub fn into_owned(self) -> KeyPart<'static> {
        match self {
            KeyPart::Null => KeyPart::Null,
            KeyPart::Bool(bool) => KeyPart::Bool(bool),
            KeyPart::Int(int) => KeyPart::Int(int),
            KeyPart::Uint(uint) => KeyPart::Uint(uint),
            KeyPart::Float(float) => KeyPart::Float(float),
            KeyPart::Text(text) => KeyPart::Text(Cow::Owned(text.into_owned())),
            KeyPart::Bytes(bytes) => KeyPart::Bytes(Cow::Owned(bytes.into_owned())),
            KeyPart::Tuple(parts) => {
                KeyPart::Tuple(parts.into_iter().map(KeyPart::into_owned).collect())
            }
        }
    }
}

/// A type that can be a key of a typed view.
///
/// Implemented for `()`, `bool`, whole numbers up to 64 bits, `f32`, `f64`, `str`, `String`, byte
/// slices, arrays and vectors, `Option`, tuples of one to six keys, [`KeyPart`], and references to
/// all of them. The order of keys in a store is that of [`KeyPart`], which for each of these types
/// alone is its usual order (`None` first).
///
/// A borrowed form finds what its owned form stored: wherever a `Typed<K, V>` takes a key, it takes
/// any `&Q` with `K: Borrow<Q>`, as a `HashMap` does, so `&str` serves where `K` is `String`, and
/// `&[u8]` where it is `Vec<u8>`. Inside tuples, let `K` itself be borrowed: a
/// `Typed<(&str, u32), V>` is asked with `&("a", 1)` and yields `(String, u32)`. Whoever implements
/// both `Key` and `Borrow` sees to it that a borrowed form makes the same [`KeyPart`] as its owner.
///
/// # A key of your own
///
/// ```
/// use std::borrow::Cow;
/// use larder::{Error, Key, KeyPart, Result};
///
/// #[derive(Debug, PartialEq)]
/// struct Page { site: String, number: u32 }
///
/// impl Key for Page {
///     type Owned = Self;
///     fn to_part(&self) -> Result<KeyPart<'_>> {
///         Ok(KeyPart::Tuple(vec![
///             KeyPart::Text(Cow::Borrowed(&self.site)),
///             KeyPart::Uint(self.number.into()),
///         ]))
///     }
///     fn from_part(part: KeyPart<'_>) -> Result<Self> {
///         let (site, number) = <(String, u32)>::from_part(part)?;
///         Ok(Page { site, number })
///     }
/// }
///
/// let page = Page { site: "a".into(), number: 7 };
/// let mut bytes = Vec::new();
/// page.encode(&mut bytes)?;
/// assert_eq!(Page::decode(&bytes)?, page);
/// # Ok::<(), Error>(())
/// ```
pub trait Key {
    /// What reading a key back gives: the type itself, or for a borrowed type the one that owns.
    type Owned;

    /// The key in its stored shape.
    ///
    /// # Errors
    /// [`Error::InvalidKey`] when this value cannot be a key.
    fn to_part(&self) -> Result<KeyPart<'_>>;

    /// The key that has this shape.
    ///
    /// # Errors
    /// [`Error::InvalidKey`] when no key of this type has it.
    fn from_part(part: KeyPart<'_>) -> Result<Self::Owned>;

    /// Appends the key's canonical bytes to `out`.
    ///
    /// # Errors
    /// [`Error::InvalidKey`] for NaN, for tuples deeper than [`KEY_DEPTH_MAX`], and for a `Some` that
    /// would look like `None`. `out` may then hold a part of the key.
    fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        encode_part(&self.to_part()?, 0, out)
    }

    /// The key whose canonical bytes these are.
    ///
    /// # Errors
    /// [`Error::InvalidKey`] when the bytes are no canonical encoding, or that of another type's key.
    fn decode(bytes: &[u8]) -> Result<Self::Owned> {
        let mut rest = bytes;
        let part = decode_part(&mut rest, 0)?;
        if !rest.is_empty() {
            return Err(damaged("has bytes after its end"));
        }
        Self::from_part(part)
    }
}

fn encode_part(part: &KeyPart<'_>, depth: usize, out: &mut Vec<u8>) -> Result<()> {
    match part {
        KeyPart::Null => out.push(NULL),
        KeyPart::Bool(false) => out.push(FALSE),
        KeyPart::Bool(true) => out.push(TRUE),
        KeyPart::Int(int) => put_whole((*int).into(), out),
        KeyPart::Uint(uint) => put_whole((*uint).into(), out),
        KeyPart::Float(float) => put_float(*float, out)?,
        KeyPart::Text(text) => put_escaped(TEXT, text.as_bytes(), out),
        KeyPart::Bytes(bytes) => put_escaped(BYTES, bytes, out),
        KeyPart::Tuple(parts) => {
            if depth == KEY_DEPTH_MAX {
                return Err(too_deep());
            }
            out.push(TUPLE);
            for part in parts {
                encode_part(part, depth + 1, out)?;
            }
            out.push(END);
        }
    }
    Ok(())
}

fn decode_part<'a>(rest: &mut &'a [u8], depth: usize) -> Result<KeyPart<'a>> {
    Ok(match take(rest)? {
        NULL => KeyPart::Null,
        FALSE => KeyPart::Bool(false),
        TRUE => KeyPart::Bool(true),
        NUMBER => take_number(rest)?,
        TEXT => KeyPart::Text(utf8(take_escaped(rest)?)?),
        BYTES => KeyPart::Bytes(take_escaped(rest)?),
        TUPLE => {
            if depth == KEY_DEPTH_MAX {
                return Err(too_deep());
            }
            let mut parts = Vec::new();
            while rest.first() != Some(&END) {
                parts.push(decode_part(rest, depth + 1)?);
            }
            take(rest)?;
            KeyPart::Tuple(parts)
        }
        _ => return Err(damaged("begins with a byte that stands for no kind of key")),
    })
}

/// Whether several whole numbers may share this nearest `f64`, so that a remainder follows it. It
/// depends on the `f64` alone: where the first 8 bytes are equal, so is what follows comparable.
fn has_remainder(nearest: f64) -> bool {
    nearest.abs() >= EXACT_F64 && (I64_MIN_F64..=U64_END_F64).contains(&nearest)
}

/// `whole` is an `i64` or a `u64`, so at most 2^10 from its nearest `f64`.
fn put_whole(whole: i128, out: &mut Vec<u8>) {
    let nearest = whole as f64;
    put_number(nearest, whole - nearest as i128, out);
}

fn put_float(float: f64, out: &mut Vec<u8>) -> Result<()> {
    if float.is_nan() {
        return Err(Error::InvalidKey {
            what: "NaN equals nothing, so it would never be found".to_owned(),
        });
    }
    put_number(if float == 0.0 { 0.0 } else { float }, 0, out);
    Ok(())
}

fn put_number(nearest: f64, remainder: i128, out: &mut Vec<u8>) {
    out.push(NUMBER);
    let bits = nearest.to_bits();
    let sortable = if nearest.is_sign_negative() {
        !bits
    } else {
        bits | 1 << 63
    };
    out.extend_from_slice(&sortable.to_be_bytes());
    if has_remainder(nearest) {
        let biased = (remainder + REMAINDER_BIAS) as u16;
        out.extend_from_slice(&biased.to_be_bytes());
    }
}

fn take_number(rest: &mut &[u8]) -> Result<KeyPart<'static>> {
    let sortable = u64::from_be_bytes(take_array(rest)?);
    let positive = sortable >> 63 == 1;
    let nearest = f64::from_bits(if positive {
        sortable ^ 1 << 63
    } else {
        !sortable
    });
    if nearest.is_nan() || (nearest == 0.0 && !positive) {
        return Err(damaged("holds a number in another than its one form"));
    }
    let remainder = if has_remainder(nearest) {
        i128::from(u16::from_be_bytes(take_array(rest)?)) - REMAINDER_BIAS
    } else {
        0
    };
    if nearest.fract() != 0.0 || !(I64_MIN_F64..=U64_END_F64).contains(&nearest) {
        return Ok(KeyPart::Float(nearest)); // infinities come here by their range
    }
    let whole = nearest as i128 + remainder;
    if let Ok(int) = i64::try_from(whole)
        && int as f64 == nearest
    {
        Ok(KeyPart::Int(int))
    } else if let Ok(uint) = u64::try_from(whole)
        && uint as f64 == nearest
    {
        Ok(KeyPart::Uint(uint))
    } else if remainder == 0 {
        Ok(KeyPart::Float(nearest)) // 2^64
    } else {
        Err(damaged("holds a number in another than its one form"))
    }
}

fn put_escaped(tag: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.reserve(bytes.len() + 2);
    out.push(tag);
    let mut pieces = bytes.split(|&byte| byte == 0);
    out.extend_from_slice(pieces.next().unwrap_or_default());
    for piece in pieces {
        out.extend_from_slice(&[0, ESCAPED]);
        out.extend_from_slice(piece);
    }
    out.push(END);
}

fn take_escaped<'a>(rest: &mut &'a [u8]) -> Result<Cow<'a, [u8]>> {
    let bytes = *rest;
    let mut unescaped = Vec::new(); // stays empty while nothing had to be unescaped
    let mut from = 0;
    loop {
        let piece = bytes.get(from..).unwrap_or_default();
        let Some(len) = piece.iter().position(|&byte| byte == 0) else {
            return Err(damaged("is cut off"));
        };
        let zero = from + len;
        if bytes.get(zero + 1) == Some(&ESCAPED) {
            unescaped.extend_from_slice(&bytes[from..=zero]);
            from = zero + 2;
            continue;
        }
        *rest = &bytes[zero + 1..];
        if from == 0 {
            return Ok(Cow::Borrowed(&bytes[..zero]));
        }
        unescaped.extend_from_slice(&bytes[from..zero]);
        return Ok(Cow::Owned(unescaped));
    }
}

fn utf8(bytes: Cow<'_, [u8]>) -> Result<Cow<'_, str>> {
    match bytes {
        Cow::Borrowed(bytes) => std::str::from_utf8(bytes).map(Cow::Borrowed).ok(),
        Cow::Owned(bytes) => String::from_utf8(bytes).map(Cow::Owned).ok(),
    }
    .ok_or_else(|| damaged("holds text that is not UTF-8"))
}

fn take(rest: &mut &[u8]) -> Result<u8> {
    let [byte] = take_array(rest)?;
    Ok(byte)
}

fn take_array<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N]> {
    let Some((array, after)) = rest.split_first_chunk() else {
        return Err(damaged("is cut off"));
    };
    *rest = after;
    Ok(*array)
}

fn damaged(how: &str) -> Error {
    Error::InvalidKey {
        what: format!("these bytes are not a typed key: it {how}"),
    }
}

fn too_deep() -> Error {
    Error::InvalidKey {
        what: format!("tuples may stand at most {KEY_DEPTH_MAX} deep in each other"),
    }
}

impl Key for KeyPart<'_> {
    type Owned = KeyPart<'static>;

    /// A plain copy; [`Key::encode`] does without.
    fn to_part(&self) -> Result<KeyPart<'_>> {
        Ok(self.clone())
    }

    fn from_part(part: KeyPart<'_>) -> Result<KeyPart<'static>> {
        Ok(part.into_owned())
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        encode_part(self, 0, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn encoded(key: &(impl Key + ?Sized)) -> Vec<u8> {
        let mut bytes = Vec::new();
        key.encode(&mut bytes).expect("a key");
        bytes
    }

    fn text(text: &str) -> KeyPart<'_> {
        KeyPart::Text(text.into())
    }

    fn bytes(bytes: &[u8]) -> KeyPart<'_> {
        KeyPart::Bytes(bytes.into())
    }

    fn tuple<const N: usize>(parts: [KeyPart<'static>; N]) -> KeyPart<'static> {
        KeyPart::Tuple(parts.into())
    }

    fn nested(depth: usize) -> KeyPart<'static> {
        (0..depth).fold(KeyPart::Null, |inner, _| tuple([inner]))
    }

    /// Keys in ascending order; those in one row are the same key.
    fn ascending() -> Vec<Vec<KeyPart<'static>>> {
        use KeyPart::{Bool, Float, Int, Null, Uint};
        const P53: i64 = 1 << 53;
        const P63: u64 = 1 << 63;
        let whole = |int: i64| vec![Int(int)];
        vec![
            vec![Null],
            vec![Bool(false)],
            vec![Bool(true)],
            vec![Float(f64::NEG_INFINITY)],
            vec![Float(f64::MIN)],
            vec![Float(I64_MIN_F64.next_down())],
            vec![Int(i64::MIN), Float(I64_MIN_F64)],
            whole(i64::MIN + 1),
            whole(i64::MIN + 512), // half way to the next f64
            whole(i64::MIN + 513),
            vec![Int(i64::MIN + 1024), Float(I64_MIN_F64.next_up())],
            whole(-P53 - 3),
            vec![Int(-P53 - 2), Float(-EXACT_F64 - 2.0)],
            whole(-P53 - 1),
            vec![Int(-P53), Float(-EXACT_F64)],
            vec![Int(-P53 + 1), Float(-EXACT_F64 + 1.0)],
            vec![Int(-2), Float(-2.0)],
            vec![Float(-1.0f64.next_up())],
            vec![Int(-1), Float(-1.0)],
            vec![Float(-1.0f64.next_down())],
            vec![Float(-f64::MIN_POSITIVE)],
            vec![Float(-f64::from_bits(1))],
            vec![Int(0), Uint(0), Float(0.0), Float(-0.0)],
            vec![Float(f64::from_bits(1))],
            vec![Float(0.1)],
            vec![Int(1), Uint(1), Float(1.0)],
            vec![Float(1.0f64.next_up())],
            vec![Int(255), Uint(255), Float(255.0)],
            vec![Int(256), Uint(256), Float(256.0)],
            vec![Int(P53 - 1), Float(EXACT_F64 - 1.0)],
            vec![Int(P53), Uint(P53 as u64), Float(EXACT_F64)],
            whole(P53 + 1),
            vec![Int(P53 + 2), Float(EXACT_F64 + 2.0)],
            whole(P53 + 3),
            vec![Int(P53 + 4), Float(EXACT_F64 + 4.0)],
            whole(i64::MAX - 1),
            vec![Int(i64::MAX), Uint(i64::MAX as u64)],
            vec![Uint(P63), Float(9_223_372_036_854_775_808.0)],
            vec![Uint(P63 + 1)],
            vec![Uint(P63 + 1024)], // half way to the next f64
            vec![Uint(P63 + 1025)],
            vec![Uint(u64::MAX - 2048)],
            vec![Uint(u64::MAX - 2047), Float(U64_END_F64.next_down())],
            vec![Uint(u64::MAX - 1024)],
            vec![Uint(u64::MAX - 1023)],
            vec![Uint(u64::MAX)],
            vec![Float(U64_END_F64)],
            vec![Float(U64_END_F64.next_up())],
            vec![Float(f64::MAX)],
            vec![Float(f64::INFINITY)],
            vec![text("")],
            vec![text("\0")],
            vec![text("\0\0")],
            vec![text("\0\u{1}")],
            vec![text("\0a")],
            vec![text("\u{1}")],
            vec![text("A")],
            vec![text("a")],
            vec![text("a\0")],
            vec![text("a\0\0")],
            vec![text("a\0b")],
            vec![text("a\u{1}")],
            vec![text("aa")],
            vec![text("b")],
            vec![text("\u{7f}")],
            vec![text("\u{80}")],
            vec![text("\u{ffff}")],
            vec![text("\u{10ffff}")],
            vec![bytes(b"")],
            vec![bytes(b"\0")],
            vec![bytes(b"\0\0")],
            vec![bytes(b"\0\xff")],
            vec![bytes(b"\0\xff\0")],
            vec![bytes(b"\x01")],
            vec![bytes(b"a")],
            vec![bytes(b"a\0")],
            vec![bytes(b"a\xff")],
            vec![bytes(b"\xff")],
            vec![bytes(b"\xff\0")],
            vec![bytes(b"\xff\0\xff")],
            vec![bytes(b"\xff\xff")],
            vec![tuple([])],
            vec![tuple([Null])],
            vec![tuple([Null, Null])],
            vec![tuple([Bool(true)])],
            vec![tuple([Int(1)]), tuple([Float(1.0)])],
            vec![tuple([Int(1), Int(2)])],
            vec![tuple([text("")])],
            vec![tuple([text(""), text("a")])],
            vec![tuple([text("\0")])],
            vec![tuple([text("a")])],
            vec![tuple([text("a"), Null])],
            vec![tuple([text("a"), tuple([])])],
            vec![tuple([text("a\0")])],
            vec![tuple([text("aa")])],
            vec![tuple([bytes(b"a")])],
            vec![tuple([bytes(b"\xff\xff")])],
            vec![tuple([tuple([])])],
            vec![tuple([tuple([]), Null])],
            vec![tuple([tuple([Null])])],
            vec![tuple([tuple([text("a")]), text("b")])],
            vec![tuple([tuple([text("a"), text("b")])])],
            vec![nested(KEY_DEPTH_MAX)],
        ]
    }

    #[test]
    fn every_pair_is_ordered_as_its_values_are() {
        let rows = ascending();
        for (left, left_keys) in rows.iter().enumerate() {
            for (right, right_keys) in rows.iter().enumerate() {
                for (a, b) in left_keys
                    .iter()
                    .flat_map(|a| right_keys.iter().map(move |b| (a, b)))
                {
                    assert_eq!(
                        encoded(a).cmp(&encoded(b)),
                        left.cmp(&right),
                        "{a:?} and {b:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn every_key_comes_back_as_the_first_of_its_forms() {
        for row in ascending() {
            for key in &row {
                assert_eq!(
                    KeyPart::decode(&encoded(key)).expect("canonical"),
                    row[0],
                    "{key:?}"
                );
            }
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_table() {
        assert_eq!(encoded(&KeyPart::Null), [0x10]);
        assert_eq!(encoded(&false), [0x20]);
        assert_eq!(encoded(&true), [0x21]);
        assert_eq!(encoded(&1u8), [0x30, 0xBF, 0xF0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(
            encoded(&-1i64),
            [0x30, 0x40, 0x0F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]
        );
        assert_eq!(
            encoded(&u64::MAX),
            [0x30, 0xC3, 0xF0, 0, 0, 0, 0, 0, 0, 0x7F, 0xFF]
        );
        assert_eq!(encoded("a\0b"), [0x40, b'a', 0, 0xFF, b'b', 0]);
        assert_eq!(encoded(&b"\0"[..]), [0x50, 0, 0xFF, 0]);
        assert_eq!(
            encoded(&((), "a", true)),
            [0x60, 0x60, 0, 0x40, b'a', 0, 0x21, 0]
        );
    }

    /// Whatever decodes was canonical.
    fn try_decode(bytes: &[u8]) -> bool {
        let Ok(part) = KeyPart::decode(bytes) else {
            return false;
        };
        assert_eq!(encoded(&part), bytes, "{part:?} has another encoding too");
        true
    }

    #[test]
    fn all_short_inputs_are_decoded_or_refused() {
        assert!(!try_decode(&[]));
        let ones: Vec<u8> = (0..=u8::MAX).filter(|&a| try_decode(&[a])).collect();
        assert_eq!(ones, [NULL, FALSE, TRUE]);
        let twos: Vec<[u8; 2]> = (0..=u16::MAX)
            .map(u16::to_be_bytes)
            .filter(|two| try_decode(two))
            .collect();
        assert_eq!(twos, [[TEXT, END], [BYTES, END], [TUPLE, END]]);
    }

    #[test]
    fn after_any_cut_or_changed_byte_it_is_refused_or_another_key() {
        for key in ascending().iter().flatten() {
            let whole = encoded(key);
            for cut in 0..whole.len() {
                try_decode(&whole[..cut]);
            }
            for at in 0..whole.len() {
                for byte in 0..=u8::MAX {
                    let mut changed = whole.clone();
                    changed[at] = byte;
                    try_decode(&changed);
                }
            }
            for byte in 0..=u8::MAX {
                let longer: Vec<u8> = whole.iter().copied().chain([byte]).collect();
                try_decode(&longer);
            }
        }
    }

    #[test]
    fn every_remainder_is_canonical_or_refused() {
        for nearest in [
            EXACT_F64,
            -EXACT_F64,
            1e18,
            -1e18,
            I64_MIN_F64,
            -I64_MIN_F64,
            U64_END_F64,
        ] {
            let mut whole = Vec::new();
            put_number(nearest, 0, &mut whole);
            for biased in 0..=u16::MAX {
                whole[9..].copy_from_slice(&biased.to_be_bytes());
                try_decode(&whole);
            }
        }
    }

    #[test]
    fn what_cannot_be_a_key_is_refused() {
        for key in [
            KeyPart::Float(f64::NAN),
            tuple([KeyPart::Float(-f64::NAN)]),
            nested(KEY_DEPTH_MAX + 1),
        ] {
            assert!(key.encode(&mut Vec::new()).is_err(), "{key:?}");
        }
        assert!(Some(None::<bool>).encode(&mut Vec::new()).is_err());
        assert!(KeyPart::decode(&vec![TUPLE; 1 << 20]).is_err());
    }
}
