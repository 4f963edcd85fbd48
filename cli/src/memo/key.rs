//! The key of a command's answer: what it depends on, as a hash.
//!
//! Owns what is in the hash and in which order; `Memo`'s help says it in words.
//! Never opens a store.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use crate::args::Memo;
use crate::failure::{Failure, Result};

const PREFIX: &str = "memo:";
/// Of SHA-256's 32 bytes; nobody finds two commands that share them.
const HASH_BYTES: usize = 16;
const READ_BYTES: usize = 128 << 10;

/// `memo:` and 32 hexadecimal digits.
pub(crate) fn of(args: &Memo) -> Result<Vec<u8>> {
    let mut hash = Fields(Sha256::new());
    hash.add("larder memo", b"1");
    for word in &args.command {
        hash.add("word", word.as_bytes());
    }
    let cwd = std::env::current_dir()
        .map_err(|cause| Failure::new(format!("cannot tell the current directory: {cause}")))?;
    hash.add("directory", cwd.as_os_str().as_bytes());
    for name in sorted(&args.env) {
        check_name(name)?;
        hash.add("variable", name.as_bytes());
        match std::env::var_os(name) {
            Some(value) => hash.add("value", value.as_bytes()),
            None => hash.add("not set", b""),
        }
    }
    for path in sorted(&args.files) {
        hash.add("file", path.as_os_str().as_bytes());
        hash.add("content", &content_hash(path)?);
    }
    Ok(hash.key())
}

/// Refuses what no variable can be called, most likely meant as NAME=VALUE.
fn check_name(name: &OsStr) -> Result<()> {
    if name.is_empty() || name.as_bytes().contains(&b'=') {
        let name = name.display();
        return Err(Failure::new(format!(
            "--env {name}: give the name of a variable alone"
        )));
    }
    Ok(())
}

/// Each once and in one order, however they were typed.
fn sorted<T: Ord>(items: &[T]) -> Vec<&T> {
    let mut items: Vec<&T> = items.iter().collect();
    items.sort();
    items.dedup();
    items
}

fn content_hash(path: &Path) -> Result<Vec<u8>> {
    let failed = |cause| Failure::file("read", path, &cause);
    let mut file = File::open(path).map_err(failed)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match file.read(&mut buffer).map_err(failed)? {
            0 => return Ok(hash.finalize().to_vec()),
            count => hash.update(&buffer[..count]),
        }
    }
}

/// Fields that cannot run into each other: each with its name and its length.
struct Fields(Sha256);

impl Fields {
    fn add(&mut self, name: &str, bytes: &[u8]) {
        for part in [name.as_bytes(), bytes] {
            self.0.update((part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
    }

    fn key(self) -> Vec<u8> {
        let hash = self.0.finalize();
        let digits = hash[..HASH_BYTES].iter().map(|byte| format!("{byte:02x}"));
        PREFIX
            .bytes()
            .chain(digits.flat_map(String::into_bytes))
            .collect()
    }
}
