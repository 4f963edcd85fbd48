//! A lock by name that threads and processes share: who has it, and a fencing token for what it guards.

use std::time::Duration;

use larder::{Cache, Error, Lock, RLock};

fn main() -> larder::Result<()> {
    // A real program names a directory that others open, too: Cache::open("…").
    let cache = Cache::temporary()?;
    let lock = Lock::new(&cache, "nightly report")?.expiry(Duration::from_secs(60));

    let guard = lock.acquire(Duration::from_secs(5))?;
    println!("held with token {}", guard.token());
    let holder = lock.who_holds()?.expect("we hold it");
    println!("process {} has it since {:?}", holder.pid, holder.since);

    // Others wait, or give up and learn who has it.
    match lock.acquire(Duration::from_millis(20)) {
        Err(Error::Busy { holder_pid, .. }) => println!("busy: process {holder_pid} has it"),
        other => println!("surprising: {other:?}"),
    }
    guard.extend(Duration::from_secs(120))?;
    guard.release()?; // dropping it would do, too

    let later = lock.acquire(None)?;
    println!("held again, with token {}", later.token());

    // A thread may take a re-entrant lock as often as it likes.
    let tree = RLock::new(&cache, "tree")?;
    let (_outer, _inner) = (tree.acquire(None)?, tree.acquire(None)?);
    Ok(())
}
