//! Trees of files to import, and a picture of a tree that can be compared.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

/// Everything that has gone wrong somewhere once: odd names, odd modes, links to nowhere, nothing at
/// all, and one file that is far bigger than any buffer.
#[allow(dead_code, reason = "not every story needs it")]
pub(crate) fn make_tree(root: &Path) {
    let dir = |name: &str| fs::create_dir_all(root.join(name)).expect("a directory");
    let file = |name: &[u8], bytes: &[u8]| -> PathBuf {
        let path = root.join(OsStr::from_bytes(name));
        fs::write(&path, bytes).expect("a file");
        path
    };
    let link = |name: &str, to: &[u8]| {
        symlink(OsStr::from_bytes(to), root.join(name)).expect("a link");
    };
    dir("empty");
    dir("a/b/c/d/e/f/g");
    dir("a/also empty");
    dir("memo:x");
    file(b"nothing", b"");
    file(b"one", b"1");
    file(b"a/b/c/d/e/f/g/deep", b"deep down");
    file(b"\xff\xfe not text", b"x");
    file(b"new\nline \\ tab\t", b"x");
    file(b"-", b"dash");
    file(b"--jobs", b"dashes");
    file("a/\u{202e}gnp.ä".as_bytes(), b"x");
    file(&[b'n'; 255], b"long name");
    file(b"a/big", &noise(20 << 20));
    for number in 0..200_usize {
        file(format!("a/b/{number}").as_bytes(), &noise(number * number));
    }
    for mode in [0o400, 0o600, 0o644, 0o755, 0o777, 0o4755, 0o2755] {
        set_mode(&file(format!("mode {mode:o}").as_bytes(), b"x"), mode);
    }
    link("a/relative", b"../one");
    link("absolute", b"/");
    link("dangling", b"no/such/file\xff\n");
    link("to itself", b"to itself");
    link("a/to dir", b"b/c");
    for (name, mode) in [("sticky", 0o1777), ("shared", 0o2770), ("private", 0o700)] {
        dir(name);
        file(format!("{name}/f").as_bytes(), b"x");
        set_mode(&root.join(name), mode);
    }
    dir("read only");
    file(b"read only/f", b"x");
    set_mode(&root.join("read only"), 0o555);
    set_mode(root, 0o750);
}

/// Bytes that no codec makes shorter, the same each time.
pub(crate) fn noise(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ count as u64;
    (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
}

/// Kind, permission bits, and the content or where it points to.
pub(crate) type Picture = BTreeMap<Vec<u8>, (char, u32, Vec<u8>)>;

/// All of a tree, the root with the name of nothing.
pub(crate) fn snapshot(root: &Path) -> Picture {
    let entries = walkdir::WalkDir::new(root).into_iter();
    entries
        .map(|entry| {
            let path = entry.expect("a readable tree").into_path();
            let meta = path.symlink_metadata().expect("it is there");
            let (kind, content) = if meta.is_symlink() {
                (
                    'l',
                    fs::read_link(&path)
                        .expect("a link")
                        .into_os_string()
                        .into_vec(),
                )
            } else if meta.is_dir() {
                ('d', Vec::new())
            } else {
                ('f', fs::read(&path).expect("a file"))
            };
            let name = path
                .strip_prefix(root)
                .expect("below the root")
                .as_os_str()
                .as_bytes();
            (name.to_vec(), (kind, meta.mode() & 0o7777, content))
        })
        .collect()
}
