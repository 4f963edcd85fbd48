//! Two processes count in one store, at once; not one count is lost.

use std::path::Path;
use std::process::Command;

use larder::Cache;

const COUNTS: i64 = 10_000;

fn count(dir: &Path) -> larder::Result<()> {
    let cache = Cache::open(dir)?;
    for _ in 0..COUNTS {
        cache.incr("count", 1, 0)?;
    }
    cache.close()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    if let Some(dir) = std::env::args_os().nth(1) {
        return Ok(count(Path::new(&dir))?); // We are the second process.
    }

    let cache = Cache::temporary()?;
    let mut second = Command::new(std::env::current_exe()?)
        .arg(cache.path())
        .spawn()?;
    count(cache.path())?;
    assert!(second.wait()?.success());

    let counted = cache.get("count")?.expect("two processes counted");
    assert_eq!(counted, (2 * COUNTS).to_string().as_str());
    println!("counted to {} in two processes", counted.escape_ascii());
    Ok(cache.close()?)
}
