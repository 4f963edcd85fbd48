//! The command `ls`: which keys there are, and what is known of each.
//!
//! Owns the form of a line, in text and in JSON.
//! Never reads a value.

use std::io::{self, BufWriter, Write};

use larder::{Cache, Description, ValueKind};
use serde::Serialize;

use crate::args::Ls;
use crate::entries::bytes;
use crate::failure::{Failure, Result};
use crate::store::Place;
use crate::{Answer, escape, time};

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
    let prefix = args
        .prefix
        .as_ref()
        .map(|prefix| bytes(prefix, escaped))
        .transpose()?
        .unwrap_or_default();
    let tags: Vec<Vec<u8>> = args
        .tags
        .iter()
        .map(|tag| bytes(tag, escaped))
        .collect::<Result<_>>()?;
    let cache = place.open()?;
    let mut output = BufWriter::new(io::stdout().lock());
    let mut left = args.limit.unwrap_or(usize::MAX);
    let mut keys = cache.keys()?;
    while left > 0 {
        let Some(key) = (if args.reverse {
            keys.next_back()
        } else {
            keys.next()
        }) else {
            break;
        };
        let key = key?;
        if !key.starts_with(&prefix) {
            continue;
        }
        let Some(line) = line(&cache, &key, &tags, args.json)? else {
            continue;
        };
        writeln!(output, "{line}").map_err(|cause| Failure::output(&cause))?;
        left -= 1;
    }
    output.flush().map_err(|cause| Failure::output(&cause))?;
    Ok(Answer::Yes)
}

/// The key's line; none when it lacks one of `tags`, or went away meanwhile.
fn line(cache: &Cache, key: &[u8], tags: &[Vec<u8>], json: bool) -> Result<Option<String>> {
    if tags.is_empty() && !json {
        return Ok(Some(escape::text(key)));
    }
    let Some(entry) = cache.describe(key)? else {
        return Ok(None);
    };
    if !tags.iter().all(|tag| entry.tags.contains(tag)) {
        return Ok(None);
    }
    if !json {
        return Ok(Some(escape::text(key)));
    }
    let line = serde_json::to_string(&json_line(key, &entry));
    line.map(Some)
        .map_err(|cause| Failure::new(cause.to_string()))
}

fn json_line(key: &[u8], entry: &Description) -> Line {
    Line {
        key: escape::text(key),
        size: entry.size_bytes,
        kind: kind_name(entry.kind),
        tags: entry.tags.iter().map(|tag| escape::text(tag)).collect(),
        expires_at: entry.expires_at.map(time::show_instant),
        stored_at: time::show_instant(entry.stored_at),
    }
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
