//! Work that runs one at a time (`barrier`), or one time ever (`once`), among all processes.

use std::thread;

use larder::{Cache, Error};

fn main() -> larder::Result<()> {
    let cache = Cache::temporary()?;
    thread::scope(|scope| {
        for number in 0..4 {
            let cache = &cache;
            scope.spawn(move || {
                let ran = cache.once("schema", || {
                    println!("thread {number} makes the schema");
                    cache.set("schema", "v1")
                });
                // Whoever comes later finds it made.
                assert!(cache.contains("schema").expect("a look"));
                if !ran.expect("it ran, or had") {
                    println!("thread {number} finds it made");
                }
            });
        }
    });

    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let added = cache.barrier("count", || {
                    // Read and written in two steps: alone, that is safe.
                    let lines = cache.get("lines")?.map_or(0, |lines| lines.len());
                    cache.set("lines", vec![b'|'; lines + 1])?;
                    Ok::<_, Error>(())
                });
                added.expect("its turn");
            });
        }
    });
    println!(
        "lines: {}",
        cache.get("lines")?.expect("four").escape_ascii()
    );
    Ok(())
}
