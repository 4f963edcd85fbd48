//! A cache in tasks of a tokio runtime: no verb blocks a thread that runs tasks.
//!
//! `cargo run --features tokio --example async_cache`

use std::time::Duration;

use larder::{AsyncCache, Cache, ChangeKind, Result, SetOptions, WatchEvent, WatchFilter};

async fn run() -> Result<()> {
    let cache = AsyncCache::from(Cache::temporary()?);
    let mut watch = cache.watch(WatchFilter::prefix("page/")).await?;

    // Tasks share the cache as threads and processes do.
    let tasks: Vec<_> = (0..4)
        .map(|n| {
            let cache = cache.clone();
            tokio::spawn(async move {
                let key = format!("page/{n}");
                let options = SetOptions::default().tag("pages");
                cache.set_with(key, format!("page {n}"), &options).await?;
                cache.incr("rendered", 1, 0).await
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no task panics")?;
    }
    if let Some(rendered) = cache.get("rendered").await? {
        println!("rendered: {}", String::from_utf8_lossy(&rendered));
    }

    // A transaction runs on a thread for blocking work: it does not await.
    cache
        .transact(|tx| match tx.pop("page/0")? {
            Some(value) => tx.set("front", value),
            None => Ok(()),
        })
        .await?;

    // A timeout may drop any future: what it stood for is done whole or not at all.
    let front = tokio::time::timeout(Duration::from_secs(5), cache.get("front")).await;
    println!(
        "front: {:?}",
        front.map(|front| front.map(|value| value.is_some()))
    );

    let mut entries = cache.iter().await?;
    while let Some((key, value)) = entries.next().await? {
        println!("{} has {} bytes", key.escape_ascii(), value.len());
    }

    cache.evict_tag("pages").await?;
    let mut evicted = 0;
    while evicted < 3 {
        match watch.next().await? {
            WatchEvent::Change(change) => {
                evicted += u32::from(change.kind == ChangeKind::Evicted);
                println!("{:?} {}", change.kind, change.key.escape_ascii());
            }
            WatchEvent::Gap(gap) => println!("not all was told: {gap:?}"),
        }
    }
    cache.close().await
}

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .expect("a runtime");
    runtime.block_on(run())
}
