//! A store that stays small: a limit, a policy, tags with a quota, expiry, and what gives bytes back.

use std::time::Duration;

use larder::{Budget, Cache, Policy, SetOptions, TagMatch};

fn tell(cache: &Cache, what: &str) -> larder::Result<()> {
    let (entries, bytes) = (cache.len()?, cache.disk_usage()?);
    println!("{what}: {entries} entries, {} KiB on disk", bytes >> 10);
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let cache = Cache::builder()
        .size_limit_bytes(8 << 20)
        .policy(Policy::S3Fifo)
        .open(dir.path())?;

    // Three times as much as fits: what nobody reads goes, what is read again stays.
    cache.set("favourite", "kept by being read")?;
    for number in 0..24_000 {
        cache.set(format!("page/{number}"), [b'x'; 1_000])?;
        if number % 100 == 0 {
            assert!(cache.get("favourite")?.is_some());
        }
    }
    assert!(cache.disk_usage()? <= 8 << 20);
    tell(&cache, "24,000 pages of 1 kB under a limit of 8 MiB")?;

    // A quota keeps one tag's entries from taking the others' room.
    cache.set_tag_quota("thumbnail", Some(100_000))?;
    let thumbnail = SetOptions::default().tags(["thumbnail", "user-7"]);
    for number in 0..500 {
        cache.set_with(format!("thumbnail/{number}"), [b'y'; 1_000], &thumbnail)?;
    }
    for tag in cache.tags()? {
        let name = tag.name.escape_ascii();
        println!("tag {name}: {} entries, {} bytes", tag.entries, tag.bytes);
    }
    let gone = cache.evict_tags(["thumbnail", "user-7"], TagMatch::All)?;
    println!("evicted the {gone} that had both tags");

    // Expired entries are gone for readers at once; their bytes go when somebody writes, or asks.
    let soon = SetOptions::default().ttl(Duration::from_millis(10));
    cache.set_many(
        (0..1_000).map(|number| (format!("brief/{number}"), "v")),
        &soon,
    )?;
    std::thread::sleep(Duration::from_millis(20));
    assert!(cache.get("brief/7")?.is_none());
    println!("{} had expired", cache.expire()?);

    // What was overwritten or removed takes room until its neighbours are copied away.
    for number in (0..24_000).filter(|number| number % 4 != 0) {
        cache.delete(format!("page/{number}"))?;
    }
    tell(&cache, "three quarters of the pages deleted")?;
    let report = cache.maintain(&Budget::default().time(Duration::from_millis(50)))?;
    println!(
        "50 ms of maintenance gave {} KiB back",
        report.freed_bytes >> 10
    );
    cache.compact()?;
    tell(&cache, "compacted")?;

    let stats = cache.stats(false)?;
    let appended = stats.write_amplification().unwrap_or(1.0);
    println!(
        "{} culled; {appended:.2} bytes appended for each byte set",
        stats.culled
    );
    Ok(cache.close()?)
}
