//! A value of any length goes in and out as a stream, in bounded memory.

use std::io::{Read, Seek, SeekFrom};

use larder::{Cache, SetOptions};

const LEN: u64 = 64 << 20;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let cache = Cache::temporary()?;

    // Anything that reads will do: a file, a socket, another process's output.
    let source = std::io::repeat(b'x').take(LEN);
    let written = cache.set_reader("film", source, &SetOptions::default())?;
    assert_eq!(written, LEN);

    // A large value lies in a file of its own, for programs that want a path.
    let path = cache.value_path("film")?.expect("large values have files");
    assert_eq!(std::fs::metadata(&path)?.len(), LEN);

    let mut reader = cache.get_reader("film")?.expect("just written");
    assert_eq!(reader.len(), LEN);
    let copied = std::io::copy(&mut reader, &mut std::io::sink())?;
    assert_eq!(copied, LEN);

    // It can be read from anywhere, and goes on when the entry is gone.
    cache.delete("film")?;
    reader.seek(SeekFrom::End(-3))?;
    let mut end = String::new();
    reader.read_to_string(&mut end)?;
    assert_eq!(end, "xxx");
    println!("streamed {copied} bytes in and out");
    Ok(cache.close()?)
}
