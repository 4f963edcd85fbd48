//! The command `ls`: which keys there are, and what is known of each.
//!
//! Owns the form of a line, in text and in JSON.
//! Never reads a value.

use std::io::{self, BufWriter, Write};

use larder::{Cache, Description, ValueKind};
use serde::Serialize;

use crate::args::Ls;
use crate::entries::bytes;
use crate::failure::{Failure, Result, damage, say};
use crate::store::Place;
use crate::{Answer, escape, time};

/// Which entries are listed, and how.
struct Wanted {
    prefix: Vec<u8>,
    tags: Vec<Vec<u8>>,
    json: bool,
}

impl Wanted {
    fn new(args: &Ls, escaped: bool) -> Result<Self> {
        let prefix = args
            .prefix
            .as_ref()
            .map(|prefix| bytes(prefix, escaped))
            .transpose()?;
        let tags = args
            .tags
            .iter()
            .map(|tag| bytes(tag, escaped))
            .collect::<Result<_>>()?;
        Ok(Self {
            prefix: prefix.unwrap_or_default(),
            tags,
            json: args.json,
        })
    }
}

/// One line of `ls --json`.
#[derive(Serialize)]
struct Line {
    key: String,
    size: u64,
    kind: String,
    tags: Vec<String>,
    expires_at: Option<String>,
    stored_at: String,
}

pub(crate) fn ls(place: &Place, args: &Ls, escaped: bool) -> Result<Answer> {
    let wanted = Wanted::new(args, escaped)?;
    let cache = place.open()?;
    let mut output = BufWriter::new(io::stdout().lock());
    let mut left = args.limit.unwrap_or(usize::MAX);
    let mut answer = Answer::Yes;
    let mut keys = cache.keys()?;
    while left > 0 {
        let Some(key) = (if args.reverse {
            keys.next_back()
        } else {
            keys.next()
        }) else {
            break;
        };
        match key.and_then(|key| line(&cache, &key, &wanted)) {
            Ok(Some(line)) => {
                writeln!(output, "{line}").map_err(|cause| Failure::output(&cause))?;
                left -= 1;
            }
            Ok(None) => {}
            Err(error) => {
                say(damage(error)?);
                answer = Answer::Status(2);
            }
        }
    }
    output.flush().map_err(|cause| Failure::output(&cause))?;
    Ok(answer)
}

/// The key's line; none when it is not wanted, or went away meanwhile.
fn line(cache: &Cache, key: &[u8], wanted: &Wanted) -> larder::Result<Option<String>> {
    if !key.starts_with(&wanted.prefix) {
        return Ok(None);
    }
    if wanted.tags.is_empty() && !wanted.json {
        return Ok(Some(escape::text(key)));
    }
    let Some(entry) = cache.describe(key)? else {
        return Ok(None);
    };
    if !wanted.tags.iter().all(|tag| entry.tags.contains(tag)) {
        return Ok(None);
    }
    Ok(Some(if wanted.json {
        json_line(key, &entry)
    } else {
        escape::text(key)
    }))
}

fn json_line(key: &[u8], entry: &Description) -> String {
    let line = Line {
        key: escape::text(key),
        size: entry.size_bytes,
        kind: kind_name(entry.kind),
        tags: entry.tags.iter().map(|tag| escape::text(tag)).collect(),
        expires_at: entry.expires_at.map(time::show_instant),
        stored_at: time::show_instant(entry.stored_at),
    };
    serde_json::to_string(&line).expect("numbers and strings are always JSON")
}

fn kind_name(kind: ValueKind) -> String {
    match kind {
        ValueKind::Bytes => "bytes".to_owned(),
        ValueKind::Text => "text".to_owned(),
        ValueKind::Integer => "integer".to_owned(),
        ValueKind::Float => "float".to_owned(),
        ValueKind::Typed(codec) => format!("typed:{codec}"),
        other => format!("{other:?}").to_lowercase(),
    }
}
