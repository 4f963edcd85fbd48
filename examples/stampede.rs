//! Early recomputation: one reader makes a value anew a little before it expires, and nobody waits.

use std::cell::Cell;
use std::thread;
use std::time::{Duration, Instant};

use larder::{Cache, Error};

fn main() -> larder::Result<()> {
    let cache = Cache::temporary()?;
    let (made, ttl) = (Cell::new(0), Duration::from_millis(300));
    let report = || {
        cache.memoize_stampede("report", ttl, 1.0, || {
            made.set(made.get() + 1);
            thread::sleep(Duration::from_millis(20)); // what it costs
            Ok::<_, Error>(format!("report {}", made.get()))
        })
    };
    let start = Instant::now();
    let (mut reads, mut slow) = (0_u32, 0_u32);
    while start.elapsed() < Duration::from_millis(900) {
        let before = Instant::now();
        report()?;
        reads += 1;
        slow += u32::from(before.elapsed() > Duration::from_millis(15));
        thread::sleep(Duration::from_millis(1));
    }
    println!(
        "{reads} reads, made {} times, {slow} of them by a reader",
        made.get()
    );
    Ok(())
}
