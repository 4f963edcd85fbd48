//! How a tree of files stands in a store: the format of `import` and `export`.
//!
//! | in the tree   | key                 | value   | tags                       |
//! |---------------|---------------------|---------|----------------------------|
//! | regular file  | prefix + path       | content | `mode:0644`                |
//! | symbolic link | prefix + path       | target  | `type:symlink`             |
//! | directory     | prefix + path + `/` | empty   | `type:dir` and `mode:0755` |
//! | the root      | prefix + `./`       | empty   | `type:dir` and `mode:0755` |
//!
//! Paths are the bytes of the names below the root, joined by `/`; no name is `.`, so the root's key
//! is nobody else's. A mode is the twelve permission bits as four octal digits. Owners, times, hard
//! links and extended attributes are not kept.
//!
//! Owns that table, both ways. Never touches a file or a store.

/// The key of the root itself, after the prefix.
const ROOT: &[u8] = b"./";
const TYPE_DIR: &[u8] = b"type:dir";
const TYPE_SYMLINK: &[u8] = b"type:symlink";
const MODE: &[u8] = b"mode:";
const MODE_MAX: u32 = 0o7777;
/// The mode of entries that no import wrote.
const MODE_OF_OTHERS: u32 = 0o644;

/// What an entry of the tree is, less its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Node {
    File { mode: u32 },
    Symlink,
    Dir { mode: u32 },
}

impl Node {
    /// The key of the node at `path`; the root's path is empty.
    pub(crate) fn key(self, prefix: &[u8], path: &[u8]) -> Vec<u8> {
        match self {
            Self::Dir { .. } => dir_key(prefix, path),
            Self::File { .. } | Self::Symlink => leaf_key(prefix, path),
        }
    }

    pub(crate) fn tags(self) -> Vec<Vec<u8>> {
        let mode_tag = |mode: u32| format!("mode:{:04o}", mode & MODE_MAX).into_bytes();
        match self {
            Self::File { mode } => vec![mode_tag(mode)],
            Self::Symlink => vec![TYPE_SYMLINK.to_vec()],
            Self::Dir { mode } => vec![TYPE_DIR.to_vec(), mode_tag(mode)],
        }
    }
}

/// The key of whatever is not a directory at `path`.
pub(crate) fn leaf_key(prefix: &[u8], path: &[u8]) -> Vec<u8> {
    [prefix, path].concat()
}

/// The key of the directory at `path`; keys of what lies in it begin so, but for the root's.
pub(crate) fn dir_key(prefix: &[u8], path: &[u8]) -> Vec<u8> {
    if path.is_empty() {
        [prefix, ROOT].concat()
    } else {
        [prefix, path, b"/"].concat()
    }
}

/// The path and the node that an entry stands for; `rest` is its key after the prefix.
///
/// # Errors
/// Says why the key is no path below a directory.
pub(crate) fn node(rest: &[u8], tags: &[Vec<u8>]) -> Result<(Vec<u8>, Node), &'static str> {
    let has = |tag: &[u8]| tags.iter().any(|other| other == tag);
    let mode = tags.iter().find_map(|tag| parse_mode(tag));
    if has(TYPE_DIR) && rest.ends_with(b"/") {
        let node = Node::Dir {
            mode: mode.unwrap_or(0o755),
        };
        if rest == ROOT {
            return Ok((Vec::new(), node));
        }
        let path = &rest[..rest.len() - 1];
        return check_path(path).map(|()| (path.to_vec(), node));
    }
    check_path(rest)?;
    let node = if has(TYPE_SYMLINK) {
        Node::Symlink
    } else {
        Node::File {
            mode: mode.unwrap_or(MODE_OF_OTHERS),
        }
    };
    Ok((rest.to_vec(), node))
}

fn parse_mode(tag: &[u8]) -> Option<u32> {
    let digits = tag.strip_prefix(MODE)?;
    if digits.len() != 4 || !digits.iter().all(|digit| (b'0'..=b'7').contains(digit)) {
        return None;
    }
    Some(
        digits
            .iter()
            .fold(0, |mode, digit| mode << 3 | u32::from(digit - b'0')),
    )
}

/// Nothing but names one below the other.
fn check_path(path: &[u8]) -> Result<(), &'static str> {
    if path.is_empty() {
        return Err("the path is empty");
    }
    if path.starts_with(b"/") {
        return Err("the path is absolute");
    }
    if path.contains(&0) {
        return Err("a zero byte cannot be part of a path");
    }
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" => return Err("a component of the path is empty"),
            b"." | b".." => return Err("a component of the path is `.` or `..`"),
            _ => {}
        }
    }
    Ok(())
}

/// The directories above `path`, outermost first, the root left out.
pub(crate) fn parents(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b'/')
        .map(|(at, _)| &path[..at])
}

/// The directory `path` lies in, empty for the root, and its name there.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_comes_back() {
        for path in [&b"a"[..], b"a/b", b"\xff/...", b"a b/\n"] {
            for mode in 0..=MODE_MAX {
                for there in [Node::File { mode }, Node::Dir { mode }, Node::Symlink] {
                    let key = there.key(b"p:", path);
                    assert_eq!(node(&key[2..], &there.tags()), Ok((path.to_vec(), there)));
                }
            }
        }
        let root = Node::Dir { mode: 0o700 };
        assert_eq!(root.key(b"", b""), b"./");
        assert_eq!(node(b"./", &root.tags()), Ok((Vec::new(), root)));
    }

    #[test]
    fn foreign_entries_are_plain_files() {
        let plain = Node::File { mode: 0o644 };
        for tags in [
            vec![],
            vec![b"mode:99".to_vec()],
            vec![b"mode:+644".to_vec()],
            vec![b"type:dir".to_vec()],
        ] {
            assert_eq!(node(b"a/b", &tags), Ok((b"a/b".to_vec(), plain)));
        }
    }

    #[test]
    fn hostile_keys_are_refused() {
        let dir = Node::Dir { mode: 0o755 }.tags();
        for key in [
            "", "/", "/a", "..", "a/..", "../a", "a/../b", ".", "./a", "a/./b", "a//b", "a/",
            "a\0b", "./",
        ] {
            assert!(node(key.as_bytes(), &[]).is_err(), "{key:?}");
            if !["a/", "./"].contains(&key) {
                assert!(
                    node(format!("{key}/").as_bytes(), &dir).is_err() || key == ".",
                    "{key:?}/"
                );
            }
        }
    }

    #[test]
    fn parents_come_outermost_first() {
        assert_eq!(parents(b"a/b/c").collect::<Vec<_>>(), [&b"a"[..], b"a/b"]);
        assert_eq!(parents(b"a").count(), 0);
        assert_eq!(split(b"a/b/c"), (&b"a/b"[..], &b"c"[..]));
        assert_eq!(split(b"a"), (&b""[..], &b"a"[..]));
    }
}
