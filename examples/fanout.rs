//! One store in several shards: processes write side by side, and a batch is one all the same.

use larder::{Cache, Fanout, SetOptions};

fn main() -> larder::Result<()> {
    let dir = tempfile::tempdir().map_err(|error| larder::Error::Aborted {
        what: error.to_string(),
    })?;
    let fanout = Cache::builder()
        .size_limit_bytes(64 << 20)
        .open_fanout(dir.path(), 4)?;

    // Four threads, mostly on four different locks; processes do the same.
    let write = &|thread: u32| {
        for n in 0..100 {
            fanout.set(format!("{thread}/{n}"), format!("value {n}"))?;
        }
        Ok::<(), larder::Error>(())
    };
    std::thread::scope(|scope| {
        let threads = [0, 1, 2, 3].map(|thread| scope.spawn(move || write(thread)));
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or(Ok(())))
    })?;
    println!("{} entries in {} shards", fanout.len()?, fanout.shards());

    // Whatever shards the two accounts are in: both change, or neither does.
    fanout.set_number("anna", 30, &SetOptions::default())?;
    fanout.set_number("bert", 0, &SetOptions::default())?;
    fanout.transact(|tx| {
        tx.decr("anna", 10, 0)?;
        tx.incr("bert", 10, 0)
    })?;
    for name in ["anna", "bert"] {
        if let Some(sum) = fanout.get(name)? {
            println!("{name} has {}", sum.escape_ascii());
        }
    }
    fanout.close()?;

    // The number of shards is kept; another is made by copying all of it.
    Fanout::reshard(dir.path(), 2)?;
    let fanout = Fanout::open(dir.path())?;
    println!("{} entries in {} shards", fanout.len()?, fanout.shards());
    Ok(())
}
