//! Tasks use a cache without waiting on their threads, and a future that is dropped has done its work
//! whole or not at all.
#![cfg(feature = "tokio")]

mod common;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{Dice, Watch as Limit, timed};
use larder::{AsyncCache, AsyncQueue, Cache, Error, Queue, SetOptions, Side, WatchFilter};
use tokio::runtime::Runtime;
use tokio::time::{sleep, timeout};

/// One thread for tasks: whoever blocks it stops them all.
fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime")
}

fn new_cache() -> AsyncCache {
    AsyncCache::from(Cache::temporary().expect("a store"))
}

fn run(story: impl Future<Output = larder::Result<()>>) {
    let _limit = Limit::new(Duration::from_secs(30), "a story of tasks".into());
    runtime().block_on(story).expect("the story goes well");
}

/// Two threads for tasks.
fn two_threads() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .expect("a runtime")
}

#[test]
fn each_verb_does_what_that_of_the_cache_does() {
    run(async {
        let dir = common::fast_dir();
        let cache = AsyncCache::open(dir.path().join("s")).await?;
        let plain = SetOptions::default();
        cache.set("a", "1").await?;
        assert!(!cache.add("a", "2", &plain).await?);
        assert!(cache.replace("a", vec![b'3'], &plain).await?);
        let one = Some(b"3".to_vec());
        let four = Some(b"4".to_vec());
        assert!(cache.compare_and_swap("a", one, four, &plain).await?);
        assert_eq!(cache.get("a").await?.as_deref(), Some(&b"4"[..]));
        assert_eq!(cache.incr("n", 5, 0).await?.to_string(), "5");
        assert!(cache.contains("a").await? && !cache.contains("b").await?);
        let tagged = SetOptions::default().tag("t");
        assert_eq!(cache.set_many([("x", "1"), ("y", "2")], &tagged).await?, 2);
        assert_eq!(cache.describe("x").await?.expect("x").tags, [b"t".to_vec()]);
        let both = cache.get_many(["x", "z"]).await?;
        assert!(both[0].is_some() && both[1].is_none());
        assert_eq!(cache.evict_tag("t").await?, 2);
        let key = cache.push(None, "job", Side::Back, &plain).await?;
        let (pulled, value) = cache.pull(None, Side::Front).await?.expect("a job");
        assert_eq!((pulled, &value[..]), (key, &b"job"[..]));
        assert!(cache.pop("a").await?.is_some() && cache.delete("n").await?);
        assert!(cache.is_empty().await?);
        let failed = cache
            .transact(|tx| {
                tx.set("half", "1")?;
                Err::<(), _>(Error::Aborted { what: "no".into() })
            })
            .await;
        assert!(matches!(failed, Err(Error::Aborted { .. })));
        assert_eq!(cache.len().await?, 0);
        cache.flush().await?;
        cache.close().await
    });
}

#[test]
fn a_runtime_of_one_thread_goes_on_while_a_verb_waits_for_the_lock() {
    run(async {
        let cache = new_cache();
        let ticks = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&ticks);
        let ticker = tokio::spawn(async move {
            loop {
                sleep(Duration::from_millis(5)).await;
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        let other = cache.clone();
        let holder = tokio::spawn(async move {
            other
                .transact(|tx| {
                    std::thread::sleep(Duration::from_millis(300));
                    tx.set("held", "1")
                })
                .await
        });
        sleep(Duration::from_millis(30)).await;
        cache.transact(|_| Ok(())).await?;
        holder.await.expect("no panic")?;
        drop(ticker);
        assert!(ticks.load(Ordering::Relaxed) > 5, "tasks went on meanwhile");
        Ok(())
    });
}

#[test]
fn a_dropped_future_has_done_all_or_nothing_and_keeps_no_lock() {
    run(async {
        let mut dice = Dice::new(common::seed("a_dropped_future"));
        let cache = new_cache();
        let mut seen = BTreeMap::new();
        for round in 0..150_u64 {
            let items: Vec<_> = (0..30)
                .map(|n| (format!("k{n}"), round.to_string()))
                .collect();
            let plain = SetOptions::default();
            let patience = Duration::from_micros(dice.below(600));
            let done = timeout(patience, cache.set_many(items, &plain)).await;
            // Whatever became of it: the next write is not kept waiting.
            let (next, took) = timed(|| cache.cache().set("other", "1"));
            next?;
            assert!(took < Duration::from_secs(5), "a lock was kept: {took:?}");
            let values = cache
                .transact(|tx| {
                    (0..30)
                        .map(|n| Ok(tx.get(format!("k{n}"))?.map(|value| value.to_vec())))
                        .collect::<larder::Result<Vec<_>>>()
                })
                .await?;
            assert!(
                values.windows(2).all(|two| two[0] == two[1]),
                "round {round}: a part of a batch: {values:?}"
            );
            if let Ok(done) = done {
                done?;
                // An earlier one's thread may have come later.
                assert!(values[0].is_some(), "round {round} was done");
            }
            *seen
                .entry(values[0] == Some(round.to_string().into_bytes()))
                .or_insert(0) += 1;
        }
        println!("done or not, by round: {seen:?}");
        Ok(())
    });
}

#[test]
fn a_panic_in_a_transaction_reaches_who_awaits_it_and_nobody_else() {
    run(async {
        let cache = new_cache();
        let inner = cache.clone();
        let task = tokio::spawn(async move {
            inner
                .transact(|tx| {
                    tx.set("half", "1")?;
                    panic!("on purpose");
                    #[expect(unreachable_code, reason = "it names the closure's type")]
                    Ok(())
                })
                .await
        });
        assert!(task.await.is_err_and(|error| error.is_panic()));
        assert_eq!(cache.get("half").await?, None);
        cache.set("half", "2").await
    });
}

#[test]
fn iteration_and_watching_lose_nothing_to_dropped_futures() {
    run(async {
        let mut dice = Dice::new(common::seed("iteration_and_watching"));
        let cache = new_cache();
        let mut watch = cache.watch(WatchFilter::all()).await?;
        let items = (0..1_000).map(|n| (format!("k{n:04}"), n.to_string()));
        cache.set_many(items, &SetOptions::default()).await?;
        let mut entries = cache.iter().await?;
        let mut count = 0;
        loop {
            let patience = Duration::from_micros(dice.below(300));
            match timeout(patience, entries.next()).await {
                Err(_) => {}
                Ok(Ok(Some((key, _)))) => {
                    assert_eq!(key, format!("k{count:04}").into_bytes());
                    count += 1;
                }
                Ok(end) => break assert_eq!(end?, None),
            }
        }
        assert_eq!(count, 1_000);
        let mut told = 0;
        while told < 1_000 {
            let patience = Duration::from_micros(dice.below(300));
            if let Ok(event) = timeout(patience, watch.next()).await {
                let change = event?.change().expect("no gap");
                assert_eq!(change.key, format!("k{told:04}").into_bytes());
                told += 1;
            }
        }
        let seq = watch.seq();
        assert!(
            timeout(Duration::from_millis(250), watch.next())
                .await
                .is_err()
        );
        assert!(watch.seq() >= seq);
        // Another clone writes while this one awaits.
        let other = cache.clone();
        tokio::spawn(async move {
            sleep(Duration::from_millis(120)).await;
            other.delete("k0000").await
        });
        let change = watch.next().await?.change().expect("no gap");
        assert_eq!(change.key, b"k0000");
        Ok(())
    });
}

#[test]
fn a_runtime_ends_soon_while_a_watch_is_awaited() {
    let _limit = Limit::new(Duration::from_secs(30), "ending a runtime".into());
    let runtime = runtime();
    let cache = new_cache();
    let inner = cache.clone();
    runtime.block_on(async move {
        let mut watch = inner.watch(WatchFilter::all()).await.expect("a watch");
        let none = timeout(Duration::from_millis(50), watch.next()).await;
        assert!(none.is_err());
    });
    let start = Instant::now();
    drop(runtime);
    assert!(start.elapsed() < Duration::from_secs(10));
    cache.cache().set("still", "there").expect("set");
}

#[test]
fn tasks_of_one_key_make_its_value_once_and_a_dropped_maker_gives_way() {
    let runtime = two_threads();
    runtime.block_on(async {
        let cache = AsyncCache::from(Cache::temporary().expect("a store"));
        let made = Arc::new(AtomicU64::new(0));
        let ask = |pause: Duration| {
            let (cache, made) = (cache.clone(), Arc::clone(&made));
            async move {
                cache
                    .get_or_compute("key", None, async || {
                        tokio::time::sleep(pause).await;
                        made.fetch_add(1, Ordering::SeqCst);
                        Ok::<_, Error>("value")
                    })
                    .await
            }
        };
        // The first is dropped in the middle; one of the others makes it then.
        let first = tokio::time::timeout(Duration::from_millis(100), ask(Duration::from_secs(600)));
        assert!(first.await.is_err());
        let others: Vec<_> = (0..8)
            .map(|_| tokio::spawn(ask(Duration::from_millis(20))))
            .collect();
        for other in others {
            let value = other.await.expect("a task").expect("the value");
            assert_eq!(value, "value");
        }
        assert_eq!(made.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn tasks_work_a_queue_off_and_dropped_jobs_come_again() {
    let runtime = two_threads();
    runtime.block_on(async {
        let minute = Duration::from_secs(60);
        let queue = AsyncQueue::from(Queue::<u64>::temporary().expect("a queue"));
        let waiter = {
            let queue = queue.clone();
            tokio::spawn(async move { queue.lease_wait(minute, None).await })
        };
        queue.push(7).await.expect("push");
        let job = waiter
            .await
            .expect("a task")
            .expect("lease")
            .expect("a job");
        assert_eq!((*job, job.job().attempts()), (7, 1));
        drop(job);
        let job = queue
            .lease_wait(minute, Some(minute))
            .await
            .expect("lease")
            .expect("it comes again");
        assert_eq!((*job, job.job().attempts()), (7, 2));
        assert!(job.ack().await.expect("ack"));
        let none = queue
            .lease_wait(minute, Some(Duration::from_millis(20)))
            .await;
        assert!(none.expect("lease").is_none());
        assert_eq!(queue.depth().await.expect("depth"), 0);
    });
}
