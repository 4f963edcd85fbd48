//! Any bytes as one line of printable text, and back.
//!
//! Owns the notation: printable UTF-8 stands for itself, a backslash is `\\`, every other byte is
//! `\xNN`. Both ways agree on every sequence of bytes.
//! Never touches a store.

use std::fmt::Write as _;

/// The bytes as one line; [`bytes`] is the way back.
pub(crate) fn text(bytes: &[u8]) -> String {
    let mut line = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for letter in chunk.valid().chars() {
            match letter {
                '\\' => line.push_str("\\\\"),
                _ if is_printable(letter) => line.push(letter),
                _ => push_hex(&mut line, letter.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        push_hex(&mut line, chunk.invalid());
    }
    line
}

/// The bytes that `line`, in this notation, stands for.
pub(crate) fn bytes(line: &[u8]) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(line.len());
    let mut rest = line;
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'\\' {
            bytes.push(first);
            continue;
        }
        match rest {
            [b'\\', after @ ..] => {
                bytes.push(b'\\');
                rest = after;
            }
            [b'x', high, low, after @ ..]
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                bytes.push(nibble(*high) << 4 | nibble(*low));
                rest = after;
            }
            _ => {
                return Err(format!(
                    "{}: a backslash is followed by xNN or by another",
                    text(line)
                ));
            }
        }
    }
    Ok(bytes)
}

/// A sentence with names in it on one line: only what would break the line or the terminal changes.
pub(crate) fn one_line(sentence: &str) -> String {
    let mut line = String::with_capacity(sentence.len());
    for letter in sentence.chars() {
        if is_printable(letter) {
            line.push(letter);
        } else {
            push_hex(&mut line, letter.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
    line
}

/// Neither a control nor one of the invisible letters that reorder or join a line's text.
fn is_printable(letter: char) -> bool {
    !letter.is_control()
        && !matches!(letter,
            '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

fn push_hex(line: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(line, "\\x{byte:02x}");
    }
}

fn nibble(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit - b'A' + 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_stay_and_the_rest_is_hexadecimal() {
        assert_eq!(text("käse \u{1f9c0}".as_bytes()), "käse \u{1f9c0}");
        assert_eq!(text(b"a\\b\nc\xff\0"), "a\\\\b\\x0ac\\xff\\x00");
        assert_eq!(text("\u{202e}".as_bytes()), "\\xe2\\x80\\xae");
    }

    #[test]
    fn every_pair_of_bytes_comes_back() {
        for pair in 0..=u16::MAX {
            let pair = pair.to_be_bytes();
            let line = text(&pair);
            assert!(line.chars().all(is_printable));
            assert_eq!(bytes(line.as_bytes()).as_deref(), Ok(&pair[..]));
        }
    }

    #[test]
    fn a_lone_backslash_is_refused() {
        for line in ["\\", "a\\", "\\n", "\\x", "\\x0", "\\xg0"] {
            assert!(bytes(line.as_bytes()).is_err(), "{line}");
        }
    }
}
