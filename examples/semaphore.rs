//! At most so many at a time: a bounded semaphore whose permits die with their holders.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use larder::{BoundedSemaphore, Cache};

fn main() -> larder::Result<()> {
    let cache = Cache::temporary()?;
    let licences = BoundedSemaphore::new(&cache, "licences", 2)?;
    let (inside, most) = (AtomicU32::new(0), AtomicU32::new(0));
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let _permit = licences.acquire(None).expect("a permit");
                most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                thread::sleep(Duration::from_millis(5));
                inside.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    println!("at most {} at a time", most.into_inner());

    // A permit without its guard is given back by its token, once.
    let token = licences.acquire(None)?.detach();
    licences.release(token)?;
    println!(
        "twice: {}",
        licences.release(token).expect_err("one above the bound")
    );
    Ok(())
}
