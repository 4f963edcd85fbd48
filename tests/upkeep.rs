//! A store that keeps itself small: limits hold, what is evicted stays away, what is dead is given back.
//!
//! Owns the small exact cases; `model.rs` has all verbs against a map, `kill.rs` the kills.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Watch, assert_sound, assert_tags_agree};
use larder::{Budget, Cache, ManualClock, Policy, SetOptions, TagMatch};

/// When the stores of these tests were made, by their own clock.
const START_MS: u64 = 1_800_000_000_000;

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
fn dead_bytes_are_given_back_after_a_rebuild_too() {
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
    drop(cache);
    common::forget_derived(dir.path());
    let cache = Cache::open(dir.path()).expect("opens");
    cache.compact().expect("compacts");
    let after = cache.disk_usage().expect("usage");
    assert!(after < 6 << 20, "{after}");
    assert_sound(&cache);
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

// ---- who goes: each policy, exactly, in a store small enough to be looked at as a whole ----

/// A store of ten entries at most, set one second after the other.
fn ten(policy: Policy) -> (Cache, Arc<ManualClock>, tempfile::TempDir) {
    let dir = dir();
    let clock = Arc::new(ManualClock::new(START_MS));
    let cache = Cache::builder()
        .clock(clock.clone())
        .count_limit(Some(10))
        .policy(policy)
        .open(dir.path())
        .expect("opens");
    for n in 0..10_u32 {
        tick(&clock);
        cache.set(n.to_le_bytes(), "v").expect("set");
    }
    (cache, clock, dir)
}

fn tick(clock: &ManualClock) {
    clock.set(larder::Clock::now_ms(clock) + 1_000);
}

fn read(cache: &Cache, n: u32) {
    assert!(cache.get(n.to_le_bytes()).expect("get").is_some(), "{n}");
}

/// Sets a new entry and tells which one went for it.
fn goes_for(cache: &Cache, clock: &ManualClock, new: u32) -> u32 {
    let there = |n: &u32| cache.contains(n.to_le_bytes()).expect("contains");
    let before: Vec<u32> = (0..new).filter(there).collect();
    tick(clock);
    cache.set(new.to_le_bytes(), "v").expect("set");
    assert!(there(&new), "what was just stored is there");
    let gone: Vec<u32> = before.into_iter().filter(|n| !there(n)).collect();
    assert_eq!(gone.len(), 1, "one goes for one: {gone:?}");
    gone[0]
}

#[test]
fn least_recently_used_a_read_refreshes() {
    let (cache, clock, _dir) = ten(Policy::LeastRecentlyUsed);
    for n in [0, 3, 5] {
        tick(&clock);
        read(&cache, n);
    }
    let gone: Vec<u32> = (10..20).map(|n| goes_for(&cache, &clock, n)).collect();
    assert_eq!(gone, [1, 2, 4, 6, 7, 8, 9, 0, 3, 5]);
    assert_sound(&cache);
}

#[test]
fn least_frequently_used_what_was_read_least_goes() {
    let (cache, clock, _dir) = ten(Policy::LeastFrequentlyUsed);
    for n in 0..10_u32 {
        for _ in 0..=(n * 3 % 10) {
            tick(&clock);
            read(&cache, n);
        }
    }
    // Reads: 0:1 7:2 4:3 1:4 8:5 5:6 2:7 9:8 6:9 3:10. A new one with no read goes before all of them.
    assert_eq!(goes_for(&cache, &clock, 10), 0);
    assert_eq!(goes_for(&cache, &clock, 11), 10);
    for new in 11..19_u32 {
        for _ in 0..20 {
            read(&cache, new);
        }
        let least = [7, 4, 1, 8, 5, 2, 9, 6][new as usize - 11];
        assert_eq!(goes_for(&cache, &clock, new + 1), least);
    }
    assert_sound(&cache);
}

#[test]
fn least_recently_stored_an_overwrite_counts_as_stored_anew_and_a_read_does_not() {
    let (cache, clock, _dir) = ten(Policy::LeastRecentlyStored);
    cache.set(0_u32.to_le_bytes(), "again").expect("set");
    read(&cache, 1);
    let gone: Vec<u32> = (10..21).map(|n| goes_for(&cache, &clock, n)).collect();
    assert_eq!(gone, [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 10]);
    assert_sound(&cache);
}

#[test]
fn s3_fifo_what_was_read_once_more_outlives_what_was_not() {
    let dir = dir();
    let cache = Cache::builder()
        .count_limit(Some(200))
        .policy(Policy::S3Fifo)
        .open(dir.path())
        .expect("opens");
    for n in 0..200_u32 {
        cache.set(n.to_le_bytes(), "v").expect("set");
    }
    for n in 0..10 {
        read(&cache, n);
        read(&cache, n);
    }
    for n in 200..390_u32 {
        cache.set(n.to_le_bytes(), "v").expect("set");
        assert_eq!(cache.len().expect("len"), 200);
    }
    for n in 0..10 {
        read(&cache, n);
    }
    for n in 10..190_u32 {
        assert!(!cache.contains(n.to_le_bytes()).expect("contains"), "{n}");
    }
    assert_sound(&cache);
}

#[test]
fn cost_aware_what_is_cheap_to_have_again_goes() {
    let dir = dir();
    let cache = Cache::builder()
        .count_limit(Some(20))
        .policy(Policy::CostAware)
        .open(dir.path())
        .expect("opens");
    let set = |n: u32, cost: f64| {
        let options = SetOptions::default().cost(cost);
        cache.set_with(n.to_le_bytes(), "v", &options).expect("set");
    };
    for n in 0..20 {
        set(n, if n % 2 == 0 { 100.0 } else { 0.001 });
    }
    for n in 20..30 {
        set(n, 1.0);
    }
    for n in 0..20_u32 {
        let is_there = cache.contains(n.to_le_bytes()).expect("contains");
        assert_eq!(is_there, n % 2 == 0, "{n}");
    }
    assert_sound(&cache);
}

// ---- limits ----

#[test]
fn one_write_removes_as_many_expired_entries_as_cull_limit_says() {
    for limit in [0, 1, 3, 7, 10, 14] {
        let dir = dir();
        let clock = Arc::new(ManualClock::new(START_MS));
        let cache = Cache::builder()
            .clock(clock.clone())
            .cull_limit(Some(limit))
            .open(dir.path())
            .expect("opens");
        cache.set("stays", "v").expect("set");
        let ttl = SetOptions::default().ttl(Duration::from_secs(1));
        for n in 0..100_u32 {
            cache.set_with(n.to_le_bytes(), "v", &ttl).expect("set");
        }
        clock.set(START_MS + 5_000);
        let mut left = 101_u64;
        for write in 0..12 {
            cache.set("stays", "v").expect("set");
            let len = cache.len().expect("len");
            let wanted = left - limit.min(left - 1);
            assert_eq!(len, wanted, "cull_limit {limit}, write {write}");
            left = len;
        }
        assert_sound(&cache);
    }
}

#[test]
fn one_write_evicts_as_many_as_cull_limit_says() {
    for policy in Policy::ALL {
        if policy == Policy::None {
            continue;
        }
        let dir = dir();
        let cache = Cache::builder()
            .policy(policy)
            .cull_limit(Some(4))
            .open(dir.path())
            .expect("opens");
        for n in 0..100_u32 {
            cache.set(n.to_le_bytes(), "v").expect("set");
        }
        cache
            .update_settings(|settings| settings.count_limit = Some(50))
            .expect("settings");
        // The settings are written by a write of their own.
        let mut left = cache.len().expect("len");
        assert!((96..=100).contains(&left), "{policy}: {left}");
        while left > 50 {
            cache.set(99_u32.to_le_bytes(), "again").expect("set");
            let len = cache.len().expect("len");
            assert_eq!(len, left - 4.min(left - 50), "{policy}");
            left = len;
        }
        cache.set(100_u32.to_le_bytes(), "v").expect("set");
        assert_eq!(cache.len().expect("len"), 50, "{policy}");
        // A batch passes the limit by more than one write may evict.
        let batch: Vec<_> = (200..210_u32).map(|n| (n.to_le_bytes(), "v")).collect();
        cache
            .set_many(batch, &SetOptions::default())
            .expect("set_many");
        assert_eq!(cache.len().expect("len"), 56, "{policy}");
        assert_eq!(cache.cull().expect("cull"), 6, "{policy}");
        assert_eq!(cache.len().expect("len"), 50, "{policy}");
        assert_sound(&cache);
    }
}

#[test]
fn a_count_limit_is_exact_where_most_of_the_keymap_is_tag_names() {
    for policy in Policy::ALL {
        if policy == Policy::None {
            continue;
        }
        let dir = dir();
        let cache = Cache::builder()
            .count_limit(Some(10))
            .policy(policy)
            .open(dir.path())
            .expect("opens");
        for n in 0..1_500_u32 {
            let options = SetOptions::default().tag(n.to_string());
            cache.set_with(n.to_le_bytes(), "v", &options).expect("set");
            assert_eq!(
                cache.len().expect("len"),
                u64::from(n + 1).min(10),
                "{policy} {n}"
            );
        }
        assert_tags_agree(&cache);
        assert_sound(&cache);
    }
}

#[test]
fn a_batch_of_more_entries_than_may_be_stays_whole() {
    for policy in Policy::ALL {
        let _watch = Watch::new(Duration::from_secs(60), format!("{policy}"));
        let dir = dir();
        let cache = common::small()
            .count_limit(Some(5))
            .policy(policy)
            .open(dir.path())
            .expect("opens");
        for round in 0..20_u32 {
            let batch = (0..20_u32).map(|n| ((round * 20 + n).to_le_bytes(), [7; 200]));
            let options = SetOptions::default().tag(round.to_string());
            cache.set_many(batch, &options).expect("set_many");
            for n in 0..20_u32 {
                let key = (round * 20 + n).to_le_bytes();
                assert!(cache.contains(key).expect("contains"), "{policy} {n}");
            }
            if policy != Policy::None {
                assert_eq!(cache.len().expect("len"), 20, "{policy}");
            }
        }
        cache.set("one more", "v").expect("set");
        assert!(cache.contains("one more").expect("contains"));
        if policy != Policy::None {
            assert_eq!(cache.len().expect("len"), 5, "{policy}");
        }
        assert_tags_agree(&cache);
        assert_sound(&cache);
    }
}

#[test]
fn nothing_is_evicted_under_the_policy_that_keeps() {
    let dir = dir();
    let cache = common::small()
        .size_limit_bytes(4 << 20)
        .policy(Policy::None)
        .count_limit(Some(5))
        .open(dir.path())
        .expect("opens");
    let mut stored = 0_u32;
    for n in 0..10_000_u32 {
        match cache.set(n.to_le_bytes(), [7; 900]) {
            Ok(()) => stored += 1,
            Err(larder::Error::Full { .. }) => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert!((1_000..10_000).contains(&stored), "{stored}");
    assert_eq!(cache.cull().expect("cull"), 0);
    cache.maintain(&Budget::default()).expect("maintains");
    for n in 0..stored {
        read(&cache, n);
    }
    assert_eq!(cache.len().expect("len"), u64::from(stored));
}

#[test]
fn what_is_too_old_is_over_and_culled_however_it_lies() {
    let dir = dir();
    let clock = Arc::new(ManualClock::new(START_MS));
    let cache = common::small()
        .clock(clock.clone())
        .segment_size_bytes(1 << 20)
        .open(dir.path())
        .expect("opens");
    // What is dead comes first in the log, and there is much of it.
    for n in 0..5_000_u32 {
        cache.set("over and over", n.to_le_bytes()).expect("set");
    }
    for n in 0..100_u32 {
        cache.set(n.to_le_bytes(), "old").expect("set");
    }
    clock.set(START_MS + 60_000);
    cache.set("over and over", "new").expect("set");
    for n in 100..150_u32 {
        cache.set(n.to_le_bytes(), "new").expect("set");
    }
    cache
        .update_settings(|settings| settings.max_age = Some(Duration::from_secs(30)))
        .expect("settings");
    for n in 0..150_u32 {
        let is_there = cache.contains(n.to_le_bytes()).expect("contains");
        assert_eq!(is_there, n >= 100, "{n}");
    }
    let before = cache.len().expect("len");
    assert_eq!(cache.cull().expect("cull"), before - 51);
    assert_eq!(cache.len().expect("len"), 51);
    assert_eq!(cache.cull().expect("cull"), 0);
    let logged = cache.stats(false).expect("stats").bytes_logged;
    for _ in 0..20 {
        cache.maintain(&Budget::default()).expect("maintains");
    }
    let more = cache.stats(false).expect("stats").bytes_logged - logged;
    assert!(more < 4_096, "{more} bytes were logged to do nothing");
    assert_sound(&cache);
}

// ---- compaction ends, and nothing comes back ----

#[test]
fn compaction_ends_whatever_the_size_of_values() {
    for len in [0, 700, 3_900, 20_000, 40_000] {
        let _watch = Watch::new(Duration::from_secs(60), format!("values of {len} bytes"));
        let dir = dir();
        let cache = common::small()
            .large_value_bytes(1 << 20)
            .policy(Policy::None)
            .open(dir.path())
            .expect("opens");
        for round in 0..2_u8 {
            for n in 0..100_u32 {
                if round == 0 || n % 3 != 0 {
                    cache.set(n.to_le_bytes(), vec![round; len]).expect("set");
                }
            }
        }
        let first = cache.compact().expect("compacts");
        let again = cache.compact().expect("compacts");
        assert!(
            again.kept_bytes <= first.kept_bytes.max(64 * 1024),
            "{len}: {first:?}, then {again:?}"
        );
        for n in 0..100_u32 {
            let value = cache.get(n.to_le_bytes()).expect("get").expect("there");
            assert_eq!(*value, vec![u8::from(n % 3 != 0); len][..]);
        }
        assert_sound(&cache);
    }
}

#[test]
fn compaction_ends_where_a_record_is_damaged() {
    for rebuilt in [false, true] {
        let _watch = Watch::new(Duration::from_secs(60), format!("rebuilt: {rebuilt}"));
        let dir = dir();
        let cache = common::small().open(dir.path()).expect("opens");
        for round in 0..3_u8 {
            for n in 0..200_u32 {
                if round == 0 || n % 2 == 0 {
                    cache.set(n.to_le_bytes(), [round; 500]).expect("set");
                }
            }
        }
        cache.close().expect("close");
        let path = dir.path().join(
            common::names(dir.path())
                .into_iter()
                .find(|name| name.ends_with(".seg"))
                .expect("a segment"),
        );
        let bytes = std::fs::read(&path).expect("reads");
        // In the middle of the first value that is alive: of key 1, second of all.
        let at = bytes
            .windows(500)
            .position(|window| window == [0; 500])
            .expect("a value");
        common::flip(&path, (at as u64 + 560 + 250) * 8);
        if rebuilt {
            common::forget_derived(dir.path());
        }
        let cache = Cache::open(dir.path()).expect("opens");
        assert!(cache.get(1_u32.to_le_bytes()).is_err(), "the damage is met");
        cache.compact().expect("compacts");
        cache.maintain(&Budget::default()).expect("maintains");
        for n in 2..200_u32 {
            read(&cache, n);
        }
        cache
            .update_settings(|settings| {
                settings.policy = Policy::S3Fifo;
                settings.count_limit = Some(50);
            })
            .expect("settings");
        cache.cull().expect("culls");
        for n in 1_000..1_300_u32 {
            cache.set(n.to_le_bytes(), [7; 500]).expect("set");
            read(&cache, n);
        }
        cache.maintain(&Budget::default()).expect("maintains");
    }
}

#[test]
fn maintenance_ends_where_deletes_must_be_kept() {
    let _watch = Watch::new(Duration::from_secs(60), "kept deletes".into());
    let dir = dir();
    let cache = common::small()
        .policy(Policy::None)
        .open(dir.path())
        .expect("opens");
    // One dead record of long ago in a segment that is worth nobody's while.
    for n in 0..45_u32 {
        cache.set(n.to_le_bytes(), [7; 1_000]).expect("set");
    }
    cache.set(0_u32.to_le_bytes(), [8; 1_000]).expect("set");
    for n in 1_000..9_000_u32 {
        cache.set(n.to_le_bytes(), "v").expect("set");
        cache.delete(n.to_le_bytes()).expect("delete");
    }
    for _ in 0..3 {
        let report = cache.maintain(&Budget::default()).expect("maintains");
        assert!(report.is_over);
        assert!(report.kept_bytes < 4 << 20, "{report:?}");
    }
    cache.compact().expect("compacts");
    assert_eq!(cache.len().expect("len"), 45);
    assert_sound(&cache);
    drop(cache);
    common::forget_derived(dir.path());
    let cache = Cache::open(dir.path()).expect("opens");
    assert_eq!(cache.len().expect("len"), 45);
    assert_sound(&cache);
}

#[test]
fn what_was_deleted_stays_so_when_what_came_after_it_was_culled() {
    let dir = dir();
    let cache = common::small()
        .policy(Policy::None)
        .open(dir.path())
        .expect("opens");
    let fill = |from: u32, upto: u32| {
        for n in from..upto {
            cache.set(n.to_le_bytes(), [1; 1_000]).expect("set");
        }
    };
    let forget = |from: u32, upto: u32| {
        for n in from..upto {
            cache.delete(n.to_le_bytes()).expect("delete");
        }
    };
    // The first version is copied beside what stays.
    cache.set("k", "first").expect("set");
    fill(0, 45);
    forget(25, 45);
    fill(100, 200);
    cache.compact().expect("compacts");
    // Its delete is in a segment that is given up while the second version is there.
    cache.delete("k").expect("delete");
    fill(200, 350);
    cache.set("k", "second").expect("set");
    fill(350, 400);
    forget(200, 300);
    cache.maintain(&Budget::default()).expect("maintains");
    // Not read: that would save it.
    assert!(cache.contains("k").expect("contains"));
    // The second version goes without a word of its own, and its segment too.
    cache
        .update_settings(|settings| {
            settings.policy = Policy::S3Fifo;
            settings.count_limit = Some(150);
        })
        .expect("settings");
    for n in 0..25_u32 {
        read(&cache, n);
    }
    fill(400, 500);
    cache.cull().expect("culls");
    cache.maintain(&Budget::default()).expect("maintains");
    assert_eq!(cache.get("k").expect("get"), None);
    drop(cache);
    common::forget_derived(dir.path());
    let cache = Cache::open(dir.path()).expect("opens");
    assert_eq!(cache.get("k").expect("get"), None, "an old value came back");
    assert_sound(&cache);
}

#[test]
fn what_was_removed_and_set_in_one_transaction_hides_what_was_before() {
    let dir = dir();
    let cache = common::small()
        .policy(Policy::LeastRecentlyStored)
        .open(dir.path())
        .expect("opens");
    // The first version is copied beside what stays: behind what comes in the log.
    for n in 0..90_u32 {
        cache.set(n.to_le_bytes(), [1; 1_000]).expect("set");
        if n == 10 {
            cache.set("k", "first").expect("set");
        }
    }
    for n in 12..45_u32 {
        cache.delete(n.to_le_bytes()).expect("delete");
    }
    cache.compact().expect("compacts");
    cache
        .transact(|tx| {
            tx.delete("k")?;
            tx.set("k", "second")
        })
        .expect("transact");
    for n in 100..200_u32 {
        cache.set(n.to_le_bytes(), [1; 1_000]).expect("set");
    }
    cache
        .update_settings(|settings| {
            settings.policy = Policy::S3Fifo;
            settings.count_limit = Some(60);
        })
        .expect("settings");
    cache.cull().expect("culls");
    cache.maintain(&Budget::default()).expect("maintains");
    assert_eq!(cache.get("k").expect("get"), None);
    drop(cache);
    common::forget_derived(dir.path());
    let cache = Cache::open(dir.path()).expect("opens");
    assert_eq!(cache.get("k").expect("get"), None, "an old value came back");
    assert_sound(&cache);
}

#[test]
fn an_order_list_is_made_dense_and_iterators_go_on() {
    let dir = dir();
    let cache = Cache::open(dir.path()).expect("opens");
    let other = Cache::open(dir.path()).expect("opens");
    for n in 0..1_000_u32 {
        cache.set(n.to_le_bytes(), "v").expect("set");
    }
    let mut iter = other.keys().expect("keys");
    let before: Vec<_> = iter
        .by_ref()
        .take(500)
        .map(|key| key.expect("a key"))
        .collect();
    for round in 0..30_u32 {
        for n in 2_000..3_000_u32 {
            cache
                .set(n.to_le_bytes(), round.to_le_bytes())
                .expect("set");
            cache.delete(n.to_le_bytes()).expect("delete");
        }
    }
    cache.maintain(&Budget::default()).expect("maintains");
    let list: u64 = common::names(dir.path())
        .into_iter()
        .filter(|name| name.starts_with("order-0"))
        .map(|name| {
            std::fs::metadata(dir.path().join(name))
                .expect("a file")
                .len()
        })
        .sum();
    assert!(list < 128 * 1024, "an order list of {list} bytes");
    let rest: Vec<_> = iter.map(|key| key.expect("a key")).collect();
    let all = [before, rest].concat();
    let wanted: Vec<_> = (0..1_000_u32).map(|n| n.to_le_bytes().to_vec()).collect();
    assert_eq!(all, wanted);
    let again: Vec<_> = other
        .keys()
        .expect("keys")
        .map(|key| key.expect("a key"))
        .collect();
    assert_eq!(again, wanted);
    assert_sound(&other);
}

// ---- tags ----

fn tagged<T: AsRef<[u8]>>(tags: impl IntoIterator<Item = T>) -> SetOptions {
    SetOptions::default().tags(tags)
}

fn reopened(cache: Cache, dir: &tempfile::TempDir, rebuilt: bool) -> Cache {
    drop(cache);
    if rebuilt {
        common::forget_derived(dir.path());
    }
    Cache::open(dir.path()).expect("opens")
}

#[test]
fn what_an_eviction_spares_is_still_found_by_its_tag() {
    for (a, both) in [(10, 3), (13, 1), (14, 7), (40, 13), (300, 100), (600, 2)] {
        let dir = dir();
        let cache = Cache::open(dir.path()).expect("opens");
        for n in 0..a {
            let tags: &[&str] = if n % (a / both) == 0 {
                &["a", "b"]
            } else {
                &["a"]
            };
            cache
                .set_with(u32::to_le_bytes(n), "v", &tagged(tags))
                .expect("set");
        }
        for n in 10_000..10_000 + a * 2 {
            cache
                .set_with(n.to_le_bytes(), "v", &tagged(["b"]))
                .expect("set");
        }
        let gone = cache.evict_tags(["a", "b"], TagMatch::All).expect("evicts");
        let left = u64::from(a) - gone;
        assert_tags_agree(&cache);
        assert_eq!(cache.evict_tag("a").expect("evicts"), left, "{a} {both}");
        assert_tags_agree(&cache);
        assert_eq!(cache.evict_tag("b").expect("evicts"), u64::from(a) * 2);
        assert!(cache.is_empty().expect("is_empty"));
        assert_sound(&cache);
    }
}

#[test]
fn an_entry_with_new_tags_has_those_alone() {
    let dir = dir();
    let mut cache = Cache::open(dir.path()).expect("opens");
    for rebuilt in [false, true] {
        cache = reopened(cache, &dir, rebuilt);
        for n in 0..50_u32 {
            let set = |tags: &[&str]| {
                cache
                    .set_with(n.to_le_bytes(), "v", &tagged(tags))
                    .expect("set");
            };
            set(&["a", "b"]);
            set(&["b", "c"]);
        }
        assert_tags_agree(&cache);
        assert_eq!(cache.evict_tag("a").expect("evicts"), 0);
        // And back: the cells of the first time are no longer its.
        for n in 0..25_u32 {
            cache
                .set_with(n.to_le_bytes(), "v", &tagged(["a"]))
                .expect("set");
        }
        assert_tags_agree(&cache);
        // Counting and touching keep them.
        cache.set_with("n", "v", &tagged(["d"])).expect("set");
        for _ in 0..20 {
            assert!(
                cache
                    .touch("n", larder::Expiry::After(Duration::from_secs(1_000)))
                    .expect("touch")
            );
        }
        assert_eq!(cache.evict_tag("d").expect("evicts"), 1);
        assert_eq!(cache.evict_tag("c").expect("evicts"), 25);
        assert_eq!(cache.evict_tag("b").expect("evicts"), 0);
        assert_eq!(cache.evict_tag("a").expect("evicts"), 25);
        assert!(cache.is_empty().expect("is_empty"));
        assert_tags_agree(&cache);
        assert_sound(&cache);
    }
}

#[test]
fn many_tags_go_with_their_entry_whatever_removes_it() {
    let many = |from: usize, len: usize| tagged((from..from + len).map(|tag| tag.to_string()));
    let dir = dir();
    let clock = Arc::new(ManualClock::new(START_MS));
    let open = || {
        common::small()
            .clock(clock.clone())
            .open(dir.path())
            .expect("opens")
    };
    let mut cache = open();
    for (round, len) in [4, 5, 36, 37, 72, 73, 1_000].into_iter().enumerate() {
        let base = 5_000 * round;
        let fill = |cache: &Cache| {
            for n in 0..6_u32 {
                let options = many(base + n as usize * 10, len).ttl(Duration::from_secs(500));
                cache.set_with(n.to_le_bytes(), "v", &options).expect("set");
            }
            cache.set("untagged", "v").expect("set");
            assert_tags_agree(cache);
        };
        fill(&cache);
        // Overwritten with others, with fewer, with none.
        let set = |n: u32, options: &SetOptions| {
            cache.set_with(n.to_le_bytes(), "w", options).expect("set");
        };
        set(0, &many(base + len / 2, len));
        set(1, &many(base, 2));
        set(2, &SetOptions::default());
        cache.delete(3_u32.to_le_bytes()).expect("delete");
        assert_tags_agree(&cache);
        cache.compact().expect("compacts");
        assert_tags_agree(&cache);
        drop(cache);
        common::forget_derived(dir.path());
        cache = open();
        assert_tags_agree(&cache);
        // By tag, by time, by number, by all.
        fill(&cache);
        cache
            .evict_tag((base + len - 1).to_string())
            .expect("evicts");
        assert_tags_agree(&cache);
        fill(&cache);
        clock.set(larder::Clock::now_ms(&*clock) + 600_000);
        cache.expire().expect("expires");
        assert_eq!(cache.tags().expect("tags"), []);
        for policy in Policy::ALL {
            fill(&cache);
            cache
                .update_settings(|settings| {
                    settings.policy = policy;
                    settings.count_limit = Some(3);
                })
                .expect("settings");
            cache.cull().expect("culls");
            assert_tags_agree(&cache);
            let len = cache.len().expect("len");
            assert!(len <= 3 || policy == Policy::None, "{policy}: {len}");
            cache
                .update_settings(|settings| settings.count_limit = None)
                .expect("settings");
        }
        fill(&cache);
        cache.clear().expect("clears");
        assert_eq!(cache.tags().expect("tags"), []);
        assert_sound(&cache);
    }
}

#[test]
fn a_tag_of_many_large_values_leaves_no_file() {
    let dir = dir();
    let cache = common::small().open(dir.path()).expect("opens");
    let set = |n: u32| {
        let options = tagged(["large"]).ttl(Duration::from_secs(3_600));
        cache
            .set_with(n.to_le_bytes(), vec![n as u8; 5_000], &options)
            .expect("set");
    };
    let files = || {
        cache.flush().expect("flush");
        let names = common::names(dir.path());
        names.iter().filter(|name| name.ends_with(".val")).count()
    };
    (0..400).for_each(set);
    assert_eq!(files(), 400);
    assert_eq!(cache.evict_tag("large").expect("evicts"), 400);
    assert_eq!(files(), 0);
    assert_sound(&cache);
    (0..400).for_each(set);
    cache
        .update_settings(|settings| settings.count_limit = Some(1))
        .expect("settings");
    cache.cull().expect("cull");
    assert_eq!(cache.len().expect("len"), 1);
    assert_eq!(files(), 1);
    assert_sound(&cache);
}

#[test]
fn a_quota_evicts_the_oldest_of_its_tag() {
    let dir = dir();
    let cache = Cache::open(dir.path()).expect("opens");
    let set = |n: u32| {
        cache
            .set_with(n.to_le_bytes(), [0; 100], &tagged(["job"]))
            .expect("set");
    };
    (0..20).for_each(set);
    let bytes = cache.tags().expect("tags")[0].bytes;
    cache.set_tag_quota("job", Some(bytes)).expect("quota");
    for n in 20..100 {
        set(n);
        let there: Vec<u32> = (0..=n)
            .filter(|n| cache.contains(n.to_le_bytes()).expect("contains"))
            .collect();
        let wanted: Vec<u32> = (n - 19..=n).collect();
        assert_eq!(there, wanted);
    }
    let usage = cache.tags().expect("tags").remove(0);
    assert_eq!((usage.entries, usage.bytes), (20, bytes));
    assert_eq!(usage.quota_bytes, Some(bytes));
    // Less, and more than fits.
    cache.set_tag_quota("job", Some(bytes / 4)).expect("quota");
    assert_eq!(cache.len().expect("len"), 5);
    cache
        .set_with("large", vec![0; bytes as usize], &tagged(["job"]))
        .expect("set");
    assert!(
        cache.contains("large").expect("contains"),
        "what was just set stays"
    );
    assert_eq!(cache.len().expect("len"), 1);
    assert!(matches!(
        cache.set_tag_quota("job", Some(0)),
        Err(larder::Error::InvalidSetting { .. })
    ));
    let cache = reopened(cache, &dir, true);
    assert_eq!(cache.tags().expect("tags")[0].quota_bytes, Some(bytes / 4));
    cache.set_tag_quota("job", None).expect("quota");
    for n in 0..100_u32 {
        cache
            .set_with(n.to_le_bytes(), [0; 100], &tagged(["job"]))
            .expect("set");
    }
    assert_eq!(cache.tags().expect("tags")[0].entries, 101);
    assert_tags_agree(&cache);
    assert_sound(&cache);
}

#[test]
fn a_quota_set_before_or_with_its_entries_holds() {
    let dir = dir();
    let cache = Cache::open(dir.path()).expect("opens");
    cache.set_tag_quota("a", Some(2_000)).expect("quota");
    cache.set_tag_quota("b", Some(4_000)).expect("quota");
    let usage = cache.tags().expect("tags");
    assert_eq!(usage.len(), 2, "a tag with a quota is told: {usage:?}");
    for n in 0..200_u32 {
        let tags: &[&str] = match n % 3 {
            0 => &["a"],
            1 => &["b"],
            _ => &["a", "b"],
        };
        cache
            .set_with(n.to_le_bytes(), [0; 100], &tagged(tags))
            .expect("set");
        assert!(cache.contains(n.to_le_bytes()).expect("contains"));
        for usage in cache.tags().expect("tags") {
            assert!(Some(usage.bytes) <= usage.quota_bytes, "{n}: {usage:?}");
        }
    }
    assert_tags_agree(&cache);
    // Batches too.
    let batch: Vec<_> = (1_000..1_100_u32)
        .map(|n| (n.to_le_bytes(), [0; 100]))
        .collect();
    cache
        .set_many(batch.iter().copied(), &tagged(["a"]))
        .expect("set_many");
    for (key, _) in &batch {
        assert!(cache.contains(key).expect("contains"), "just stored");
    }
    cache.set_with("one", "v", &tagged(["a"])).expect("set");
    let usage = cache.tags().expect("tags").remove(0);
    assert!(Some(usage.bytes) <= usage.quota_bytes, "{usage:?}");
    assert_tags_agree(&cache);
    assert_sound(&cache);
}

#[test]
fn counting_does_not_shorten_a_life_by_max_age() {
    let dir = dir();
    let clock = Arc::new(ManualClock::new(START_MS));
    let cache = Cache::builder()
        .clock(clock.clone())
        .max_age(Some(Duration::from_secs(100)))
        .open(dir.path())
        .expect("opens");
    let options = SetOptions::default().ttl(Duration::from_secs(1_000));
    cache.set_number("n", 1_i64, &options).expect("set");
    clock.set(START_MS + 50_000);
    cache.incr("n", 1_i64, 0_i64).expect("incr");
    // Stored anew at 50 s: over at 150 s.
    clock.set(START_MS + 140_000);
    assert!(cache.contains("n").expect("contains"));
    cache
        .update_settings(|settings| settings.max_age = None)
        .expect("settings");
    clock.set(START_MS + 999_000);
    assert!(cache.contains("n").expect("contains"));
    clock.set(START_MS + 1_000_000);
    assert!(!cache.contains("n").expect("contains"));
}

#[test]
fn who_was_told_that_an_entry_is_too_old_is_told_so_when_any_age_may_be() {
    let dir = dir();
    let clock = Arc::new(ManualClock::new(START_MS));
    let cache = Cache::builder()
        .clock(clock.clone())
        .max_age(Some(Duration::from_secs(1)))
        .open(dir.path())
        .expect("opens");
    let ttl = Duration::from_secs(100);
    cache.set("told", "v").expect("set");
    cache
        .set_with("told, with a ttl", "v", &SetOptions::default().ttl(ttl))
        .expect("set");
    cache.set("never asked for", "v").expect("set");
    clock.set(START_MS + 1_000);
    let told = ["told", "told, with a ttl"];
    for key in told {
        assert!(!cache.contains(key).expect("contains"), "{key}");
    }
    cache
        .update_settings(|settings| settings.max_age = None)
        .expect("settings");
    let gone = |cache: &Cache| {
        for key in told {
            assert!(!cache.contains(key).expect("contains"), "{key}");
            assert_eq!(cache.get(key).expect("get"), None, "{key}");
        }
        let keys: Vec<Vec<u8>> = cache
            .keys()
            .expect("keys")
            .map(|key| key.expect("a key"))
            .collect();
        assert_eq!(keys, [b"never asked for".to_vec()]);
    };
    gone(&cache);
    // Nor by a second process, nor under a clock that runs behind.
    let other = Cache::builder()
        .clock(Arc::new(ManualClock::new(START_MS)))
        .open(dir.path())
        .expect("opens");
    gone(&other);
    gone(&cache);
    // What is set anew lives.
    for key in told {
        cache.set(key, "again").expect("set");
        assert!(other.contains(key).expect("contains"), "{key}");
    }
}

#[test]
fn closing_removes_nothing_and_is_believed_whatever_is_due() {
    let dir = dir();
    let clock = Arc::new(ManualClock::new(START_MS));
    let cache = common::small()
        .clock(clock.clone())
        .count_limit(Some(2))
        .open(dir.path())
        .expect("opens");
    // Together they are more than may be; one of them is due, and was not removed yet.
    let ttl = SetOptions::default().ttl(Duration::from_secs(1));
    cache
        .transact(|tx| {
            tx.set("a", "1")?;
            tx.set("b", "2")?;
            tx.set("c", "3")?;
            tx.set_with("due", "4", &ttl)
        })
        .expect("transact");
    clock.set(START_MS + 10_000);
    let stats = |cache: &Cache| {
        let stats = cache.stats(false).expect("stats");
        (stats.culled, stats.expired)
    };
    assert_eq!(stats(&cache), (0, 0));
    let other = cache.clone();
    cache.close().expect("close");
    assert_eq!(stats(&other), (0, 0));
    assert_eq!(other.len().expect("len"), 4);
    drop(other);
    // Of a copy nothing is believed but the marker: without it all that is derived is made again.
    let copy = tempfile::tempdir().expect("a directory");
    common::copy_store(dir.path(), copy.path());
    let derived = || {
        let mut names = common::names(copy.path());
        names.retain(|name| name.starts_with("keymap."));
        names
    };
    let before = derived();
    let cache = Cache::builder()
        .clock(clock)
        .open(copy.path())
        .expect("opens");
    assert_eq!(derived(), before, "the copy was rebuilt");
    assert_eq!(cache.len().expect("len"), 4);
    // The next write sees to what is due.
    cache.set("d", "5").expect("set");
    assert_eq!(cache.len().expect("len"), 2);
    assert_sound(&cache);
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

#[test]
fn a_batch_that_makes_the_keymap_grow_changes_what_was_there_before() {
    let cache = Cache::temporary().expect("a store");
    let key = |n: u64| format!("key/{n}");
    let mut there = std::collections::BTreeSet::new();
    let mut next = 0_u64;
    // Every batch removes and replaces some of the oldest, and adds enough for a split or more.
    for round in 0..400_u64 {
        cache
            .transact(|tx| {
                let gone: Vec<u64> = there.iter().copied().take(40).collect();
                for &n in &gone {
                    assert!(tx.delete(key(n))?);
                    there.remove(&n);
                }
                for &n in there.iter().take(40) {
                    tx.set(key(n), round.to_le_bytes())?;
                }
                for _ in 0..100 {
                    tx.set(key(next), round.to_le_bytes())?;
                    there.insert(next);
                    next += 1;
                }
                Ok(())
            })
            .expect("a batch");
    }
    assert_eq!(cache.len().expect("len"), there.len() as u64);
    for n in 0..next {
        let is_there = cache.contains(key(n)).expect("contains");
        assert_eq!(is_there, there.contains(&n), "{n}");
    }
    common::assert_sound(&cache);
}
