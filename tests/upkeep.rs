//! A store that keeps itself small: limits hold, what is evicted stays away, what is dead is given back.
//!
//! Owns the small exact cases; `model.rs` has all verbs against a map, `kill.rs` the kills.

mod common;

use std::sync::Arc;
use std::time::Duration;

use larder::{Budget, Cache, ManualClock, Policy, SetOptions, TagMatch};

fn dir() -> tempfile::TempDir {
    common::fast_dir()
}

#[test]
fn a_full_store_evicts_and_stays_within_its_limit() {
    for policy in Policy::ALL {
        if policy == Policy::None {
            continue;
        }
        let dir = dir();
        let cache = Cache::builder()
            .size_limit_bytes(4 << 20)
            .policy(policy)
            .open(dir.path())
            .expect("opens");
        let value = vec![7_u8; 900];
        for n in 0..40_000_u32 {
            cache
                .set(n.to_le_bytes(), &value)
                .unwrap_or_else(|error| panic!("{policy} {n}: {error}"));
            assert!(
                cache.get(n.to_le_bytes()).expect("get").is_some(),
                "{policy} {n}"
            );
            if n % 100 == 0 {
                let du = common::du_bytes(dir.path());
                assert!(du <= (4 << 20) + (4 << 20) / 16, "{policy} {n}: {du}");
            }
        }
        let report = cache.check().expect("check");
        assert!(report.is_sound(), "{policy}: {:?}", report.findings);
        let len = cache.len().expect("len");
        println!(
            "{policy}: {len} entries, {:?}",
            cache.stats(false).expect("stats")
        );
        assert!(len > 1_500, "{policy}: {len}");
        drop(cache);
        common::forget_derived(dir.path());
        let cache = Cache::open(dir.path()).expect("opens again");
        assert_eq!(cache.len().expect("len"), len, "{policy}");
        let report = cache.check().expect("check");
        assert!(report.is_sound(), "{policy}: {:?}", report.findings);
    }
}

#[test]
fn compaction_gives_dead_bytes_back_and_loses_nothing() {
    let dir = dir();
    let cache = Cache::builder()
        .size_limit_bytes(64 << 20)
        .policy(Policy::None)
        .open(dir.path())
        .expect("opens");
    for round in 0..20_u32 {
        for n in 0..5_000_u32 {
            if round == 0 || n % 10 != 0 {
                cache.set(n.to_le_bytes(), [round as u8; 300]).expect("set");
            }
        }
    }
    for n in 0..2_500_u32 {
        cache.delete(n.to_le_bytes()).expect("delete");
    }
    let before = cache.disk_usage().expect("usage");
    let report = cache.compact().expect("compacts");
    let after = cache.disk_usage().expect("usage");
    println!("{before} -> {after}: {report:?}");
    assert!(after < 4 << 20, "{after}");
    let check = |cache: &Cache| {
        for n in 0..5_000_u32 {
            let found = cache.get(n.to_le_bytes()).expect("get");
            let wanted = match n {
                0..2_500 => None,
                _ if n % 10 == 0 => Some(vec![0_u8; 300]),
                _ => Some(vec![19_u8; 300]),
            };
            assert_eq!(found.as_deref(), wanted.as_deref(), "{n}");
        }
        let report = cache.check().expect("check");
        assert!(report.is_sound(), "{:?}", report.findings);
    };
    check(&cache);
    drop(cache);
    let cache = Cache::open(dir.path()).expect("opens");
    check(&cache);
    drop(cache);
    common::forget_derived(dir.path());
    check(&Cache::open(dir.path()).expect("rebuilds"));
}

#[test]
fn a_count_limit_is_exact_under_every_policy() {
    for policy in Policy::ALL {
        let dir = dir();
        let cache = Cache::builder()
            .count_limit(Some(100))
            .policy(policy)
            .open(dir.path())
            .expect("opens");
        for n in 0..1_000_u32 {
            let done = cache.set(n.to_le_bytes(), "v");
            if policy == Policy::None {
                done.expect("set");
                continue;
            }
            done.expect("set");
            assert!(cache.get(n.to_le_bytes()).expect("get").is_some());
            assert_eq!(
                cache.len().expect("len"),
                u64::from(n + 1).min(100),
                "{policy}"
            );
        }
        assert!(cache.check().expect("check").is_sound());
    }
}

#[test]
fn tags_are_evicted_counted_and_listed() {
    let dir = dir();
    let cache = Cache::open(dir.path()).expect("opens");
    let tagged = |tags: &[&str]| SetOptions::default().tags(tags.iter().copied());
    for n in 0..1_000_u32 {
        let tags: &[&str] = match n % 4 {
            0 => &["a"],
            1 => &["b"],
            2 => &["a", "b"],
            _ => &[],
        };
        cache
            .set_with(n.to_le_bytes(), "v", &tagged(tags))
            .expect("set");
    }
    let usage = |cache: &Cache| -> Vec<(String, u64)> {
        let tags = cache.tags().expect("tags");
        tags.into_iter()
            .map(|tag| (String::from_utf8(tag.name).expect("text"), tag.entries))
            .collect()
    };
    assert_eq!(usage(&cache), [("a".into(), 500), ("b".into(), 500)]);
    assert_eq!(cache.iter_tag("a").expect("iter").count(), 500);
    assert_eq!(
        cache.evict_tags(["a", "b"], TagMatch::All).expect("evicts"),
        250
    );
    assert_eq!(usage(&cache), [("a".into(), 250), ("b".into(), 250)]);
    drop(cache);
    common::forget_derived(dir.path());
    let cache = Cache::open(dir.path()).expect("opens");
    assert_eq!(usage(&cache), [("a".into(), 250), ("b".into(), 250)]);
    assert_eq!(cache.evict_tag("a").expect("evicts"), 250);
    assert_eq!(cache.evict_tag("a").expect("evicts"), 0);
    assert_eq!(cache.len().expect("len"), 500);
    for round in 0..300_u32 {
        for n in 0..20_u32 {
            cache
                .set_with(
                    (n + 5_000).to_le_bytes(),
                    round.to_le_bytes(),
                    &tagged(&["c"]),
                )
                .expect("set");
        }
    }
    assert_eq!(cache.iter_tag("c").expect("iter").count(), 20);
    assert_eq!(cache.evict_tag("c").expect("evicts"), 20);
    assert!(cache.check().expect("check").is_sound());
}

#[test]
fn a_quota_evicts_of_the_same_tag_alone() {
    let cache = Cache::temporary().expect("opens");
    cache.set("plain", "v").expect("set");
    cache.set_tag_quota("job", Some(10_000)).expect("quota");
    for n in 0..500_u32 {
        let options = SetOptions::default().tag("job");
        cache
            .set_with(n.to_le_bytes(), [0; 100], &options)
            .expect("set");
        assert!(cache.get(n.to_le_bytes()).expect("get").is_some());
    }
    let usage = cache.tags().expect("tags").remove(0);
    assert!(usage.bytes <= 10_000 && usage.bytes > 9_000, "{usage:?}");
    assert_eq!(cache.len().expect("len"), usage.entries + 1);
    assert!(cache.get("plain").expect("get").is_some());
}

#[test]
fn what_is_due_goes_and_nothing_else() {
    let dir = dir();
    let clock = Arc::new(ManualClock::new(1_800_000_000_000));
    let cache = Cache::builder()
        .clock(clock.clone())
        .open(dir.path())
        .expect("opens");
    for n in 0..1_000_u64 {
        let ttl = Duration::from_millis(n * 997 + 1);
        cache
            .set_with(n.to_le_bytes(), "v", &SetOptions::default().ttl(ttl))
            .expect("set");
    }
    cache.set("stays", "v").expect("set");
    let mut gone = 0;
    for seconds in [0_u64, 1, 10, 50, 63, 64, 65, 100, 500, 900, 996] {
        clock.set(1_800_000_000_000 + seconds * 1_000);
        let due = (0..1_000_u64).filter(|n| n * 997 < seconds * 1_000).count() as u64;
        gone += cache.expire().expect("expires");
        assert_eq!(gone, due, "after {seconds} s");
        assert_eq!(cache.len().expect("len"), 1_001 - due);
    }
    clock.set(1_800_000_000_000 + 400 * 86_400_000);
    gone += cache.expire().expect("expires");
    assert_eq!((gone, cache.len().expect("len")), (1_000, 1));
    let report = cache.maintain(&Budget::default()).expect("maintains");
    assert!(report.is_over);
}

#[test]
fn a_sliding_ttl_is_renewed_by_reads_alone() {
    let clock = Arc::new(ManualClock::new(1_800_000_000_000));
    let dir = dir();
    let cache = Cache::builder()
        .clock(clock.clone())
        .open(dir.path())
        .expect("opens");
    cache
        .set_with(
            "k",
            "v",
            &SetOptions::default().sliding_ttl(Duration::from_secs(10)),
        )
        .expect("set");
    let logged = cache.stats(false).expect("stats").bytes_logged;
    for step in 1..20_u64 {
        clock.set(1_800_000_000_000 + step * 8_000);
        assert!(cache.get("k").expect("get").is_some(), "{step}");
        assert_eq!(cache.expire().expect("expires"), 0);
    }
    assert_eq!(cache.stats(false).expect("stats").bytes_logged, logged);
    clock.set(1_800_000_000_000 + 19 * 8_000 + 10_001);
    assert!(!cache.contains("k").expect("contains"));
    // Whoever was told so first, it holds.
    clock.set(1_800_000_000_000 + 19 * 8_000);
    assert!(cache.get("k").expect("get").is_none());
}

#[test]
fn a_lowered_limit_is_met() {
    for policy in Policy::ALL {
        if policy == Policy::None {
            continue;
        }
        for value_len in [1_000, 60_000] {
            let dir = dir();
            let cache = Cache::builder()
                .size_limit_bytes(1 << 30)
                .policy(policy)
                .open(dir.path())
                .expect("opens");
            for n in 0..(60_000_000 / value_len) as u32 {
                cache.set(n.to_le_bytes(), vec![3; value_len]).expect("set");
            }
            let limit = 24 << 20;
            cache
                .update_settings(|settings| settings.size_limit_bytes = limit)
                .expect("lowers");
            let begin = std::time::Instant::now();
            cache
                .cull()
                .unwrap_or_else(|error| panic!("{policy} {value_len}: {error}"));
            println!("{policy} {value_len}: {:?}", begin.elapsed());
            let du = common::du_bytes(dir.path());
            assert!(du <= limit + limit / 16, "{policy} {value_len}: {du}");
            for n in 0..2_000_u32 {
                cache
                    .set(n.to_le_bytes(), vec![4; value_len])
                    .unwrap_or_else(|error| panic!("{policy} {value_len}: {error}"));
            }
            let du = common::du_bytes(dir.path());
            assert!(du <= limit + limit / 16, "{policy} {value_len}: {du}");
            assert!(cache.check().expect("check").is_sound());
        }
    }
}
