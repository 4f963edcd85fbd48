//! Many readers or one writer, among threads and processes.

use std::thread;
use std::time::Duration;

use larder::{Cache, RwLock};

fn main() -> larder::Result<()> {
    let cache = Cache::temporary()?;
    let lock = RwLock::new(&cache, "catalogue")?;

    let readers = (lock.read(None)?, lock.read(None)?);
    println!("{} readers", lock.who_holds()?.len());
    println!("a writer may enter: {}", lock.try_write()?.is_some());

    // A writer that waits is not passed by readers that come later.
    let writing = {
        let lock = lock.clone();
        thread::spawn(move || lock.write(Duration::from_secs(10))?.release())
    };
    thread::sleep(Duration::from_millis(50));
    println!("a late reader may enter: {}", lock.try_read()?.is_some());
    drop(readers);
    writing.join().expect("it ends")?;
    println!(
        "written; a reader may enter: {}",
        lock.try_read()?.is_some()
    );
    Ok(())
}
