//! The everyday verbs: set with a lifetime and tags, get, count, add, iterate.

use std::time::Duration;

use larder::{Cache, SetOptions};

fn main() -> larder::Result<()> {
    // A real program names a directory: Cache::open("…").
    let cache = Cache::temporary()?;

    let hour = SetOptions::default()
        .ttl(Duration::from_secs(3600))
        .tags(["page", "en"]);
    cache.set_with("/index.html", "<h1>Larder</h1>", &hour)?;

    let page = cache.get("/index.html")?.expect("just written");
    assert_eq!(&*page, b"<h1>Larder</h1>");
    assert!(cache.get("/missing.html")?.is_none());

    let entry = cache.get_entry("/index.html")?.expect("just written");
    assert_eq!(entry.tags, [b"page".to_vec(), b"en".to_vec()]);
    println!(
        "/index.html: {} bytes, expires {:?}",
        entry.size_bytes, entry.expires_at
    );

    // A number is a kind of value; an absent one starts from the default.
    cache.incr("visits", 1, 0)?;
    let visits = cache.incr("visits", 1, 0)?;
    assert_eq!(cache.get("visits")?.expect("just counted"), "2");
    println!("visits: {visits}");

    // Only the first of all processes gets to add.
    assert!(cache.add("job 7", "mine", &SetOptions::default())?);
    assert!(!cache.add("job 7", "also mine", &SetOptions::default())?);

    // Insertion order, as a dictionary keeps it: an overwrite keeps its place.
    cache.set("/index.html", "<h1>The larder</h1>")?;
    let keys = cache.keys()?.collect::<larder::Result<Vec<_>>>()?;
    assert_eq!(keys, [&b"/index.html"[..], b"visits", b"job 7"]);
    for item in cache.iter()?.rev() {
        let (key, value) = item?;
        println!("{}: {}", key.escape_ascii(), value.escape_ascii());
    }
    cache.close()
}
