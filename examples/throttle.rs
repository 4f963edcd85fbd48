//! So many times in so long, counted in the store: a new process goes on where the last one was.

use std::time::{Duration, Instant};

use larder::{Cache, Throttle};

fn main() -> larder::Result<()> {
    let cache = Cache::temporary()?;
    let calls = Throttle::new(&cache, "calls", 5, Duration::from_millis(500))?;

    let start = Instant::now();
    for number in 1..=8 {
        calls.wait(Duration::from_secs(5))?;
        println!("call {number} after {:>3} ms", start.elapsed().as_millis());
    }

    // The same name is the same bucket, here and in every process.
    let same = Throttle::new(&cache, "calls", 5, Duration::from_millis(500))?;
    println!("one more at once: {}", same.try_take()?);
    Ok(())
}
