//! The mean of numbers that all processes add to.

use std::time::Duration;

use larder::{Averager, Cache};

fn main() -> larder::Result<()> {
    let cache = Cache::temporary()?;
    let latency = Averager::new(&cache, "latency")
        .ttl(Duration::from_secs(600))
        .tag("times");
    println!("before: {:?}", latency.get()?);
    for milliseconds in [12.0, 15.5, 9.5] {
        latency.add(milliseconds)?;
    }
    println!("mean: {:?} ms", latency.get()?);
    println!("taken away: {:?} ms", latency.pop()?);
    println!("after: {:?}", latency.get()?);
    Ok(())
}
