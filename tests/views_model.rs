//! Views against models: transactions that fail or panic, two handles, clock jumps, rebuilds from the log.

mod common;

use std::sync::Arc;
use std::time::Duration;

use larder::{Cache, Clock, Deque, Index, ManualClock, PushOptions, Queue};

const BEGIN_MS: u64 = 1_700_000_000_000;
const MINUTE: Duration = Duration::from_secs(60);

fn with_clock(dir: &std::path::Path) -> (Cache, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new(BEGIN_MS));
    let dynamic: Arc<dyn Clock> = clock.clone();
    let cache = common::small().clock(dynamic).open(dir).expect("opens");
    (cache, clock)
}

/// Deques and indexes against a model: transactions that fail or panic, two handles, rebuilds.
#[test]
fn deques_and_indexes_keep_what_was_acknowledged() {
    use std::collections::VecDeque;
    for seed in 0..12 {
        println!("seed {seed}");
        let mut dice = common::Dice::new(seed);
        let dir = common::fast_dir();
        let mut cache = common::small().open(dir.path()).expect("it works");
        let mut handles: Vec<Deque<u64>> = (0..2)
            .map(|_| Deque::of(&cache, "d").expect("it works"))
            .collect();
        let mut indexes: Vec<Index<u64, u64>> = (0..2)
            .map(|_| Index::of(&cache, "d").expect("it works"))
            .collect();
        let mut model: VecDeque<u64> = VecDeque::new();
        let mut imodel: Vec<(u64, u64)> = Vec::new();
        let mut max: Option<u64> = None;
        fn push(m: &mut VecDeque<u64>, max: Option<u64>, back: bool, v: u64) {
            if max == Some(0) {
                return;
            }
            if let Some(x) = max {
                while m.len() as u64 >= x {
                    if back {
                        m.pop_front();
                    } else {
                        m.pop_back();
                    }
                }
            }
            if back {
                m.push_back(v)
            } else {
                m.push_front(v)
            }
        }
        let mut next = 0;
        for round in 0..400 {
            let h = handles[dice.below(2) as usize].clone();
            let ix = indexes[dice.below(2) as usize].clone();
            let mut m = model.clone();
            let mut im = imodel.clone();
            let mut mx = max;
            let steps = 1 + dice.below(6);
            let mode = dice.below(5); // 0: plain, 1..: tx; 3 aborts, 4 panics
            let mut work = || {
                for _ in 0..if mode == 0 { 1 } else { steps } {
                    next += 1;
                    match dice.below(20) {
                        0..=2 => {
                            h.push_back(&next).expect("it works");
                            push(&mut m, mx, true, next);
                        }
                        3 | 4 => {
                            h.push_front(&next).expect("it works");
                            push(&mut m, mx, false, next);
                        }
                        5 => assert_eq!(h.pop_front().expect("it works"), m.pop_front()),
                        6 => assert_eq!(h.pop_back().expect("it works"), m.pop_back()),
                        7 => {
                            let n = dice.below(5) as i64 - 2;
                            h.rotate(n).expect("it works");
                            if !m.is_empty() {
                                let k = n.rem_euclid(m.len() as i64) as usize;
                                m.rotate_right(k);
                            }
                        }
                        8 => {
                            h.reverse().expect("it works");
                            m.make_contiguous().reverse();
                        }
                        9 | 10 => {
                            if !m.is_empty() {
                                let k = dice.below(m.len() as u64) as usize;
                                assert_eq!(h.remove(k as i64).expect("it works"), m.remove(k));
                            }
                        }
                        11 => {
                            mx = match dice.below(4) {
                                0 => Some(dice.below(12)),
                                _ => None,
                            };
                            h.set_max_len(mx).expect("it works");
                            if let Some(x) = mx {
                                while m.len() as u64 > x {
                                    m.pop_front();
                                }
                            }
                        }
                        12 => {
                            let more: Vec<u64> =
                                (0..dice.below(20)).map(|k| next * 1000 + k).collect();
                            h.extend(&more).expect("it works");
                            for v in more {
                                push(&mut m, mx, true, v);
                            }
                        }
                        13 => {
                            if !m.is_empty() {
                                let k = dice.below(m.len() as u64) as usize;
                                let old = m[k];
                                assert_eq!(h.get(k as i64).expect("it works"), Some(old));
                                h.set(k as i64, &(old + 1)).expect("it works");
                                m[k] = old + 1;
                            }
                        }
                        14 => {
                            let d = dice.below(5);
                            h.retain(|v| v % 5 != d).expect("it works");
                            m.retain(|v| v % 5 != d);
                        }
                        15 | 16 => {
                            let k = dice.below(30);
                            ix.insert(&k, &next).expect("it works");
                            match im.iter_mut().find(|e| e.0 == k) {
                                Some(e) => e.1 = next,
                                None => im.push((k, next)),
                            }
                        }
                        17 => {
                            let k = dice.below(30);
                            let was = ix.move_to_end(&k).expect("it works");
                            let at = im.iter().position(|e| e.0 == k);
                            assert_eq!(was, at.is_some());
                            if let Some(at) = at {
                                let e = im.remove(at);
                                im.push(e);
                            }
                        }
                        18 => {
                            let got = ix.pop_last().expect("it works");
                            assert_eq!(got, im.pop());
                        }
                        _ => {
                            let got = ix.pop_first().expect("it works");
                            assert_eq!(
                                got,
                                if im.is_empty() {
                                    None
                                } else {
                                    Some(im.remove(0))
                                }
                            );
                        }
                    }
                    assert_eq!(h.len().expect("it works"), m.len() as u64);
                }
            };
            match mode {
                0 => {
                    work();
                    model = m;
                    imodel = im;
                    max = mx;
                }
                1 | 2 => {
                    cache
                        .transact(|_| {
                            work();
                            Ok(())
                        })
                        .expect("it works");
                    model = m;
                    imodel = im;
                    max = mx;
                }
                3 => {
                    let failed = cache.transact(|_| {
                        work();
                        Err::<(), _>(larder::Error::Aborted { what: "x".into() })
                    });
                    assert!(failed.is_err());
                }
                _ => {
                    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                        cache.transact(|_| {
                            work();
                            std::panic::resume_unwind(Box::new(1));
                            #[allow(unreachable_code)]
                            Ok(())
                        })
                    }));
                }
            }
            for h in &handles {
                assert_eq!(
                    h.to_vec().expect("it works"),
                    Vec::from(model.clone()),
                    "round {round}"
                );
                if !model.is_empty() {
                    let k = dice.below(model.len() as u64);
                    assert_eq!(h.get(k as i64).expect("it works"), Some(model[k as usize]));
                    assert_eq!(h.peek_back().expect("it works"), model.back().copied());
                    assert_eq!(h.peek_front().expect("it works"), model.front().copied());
                }
            }
            for ix in &indexes {
                assert_eq!(
                    ix.iter()
                        .expect("it works")
                        .map(|e| e.expect("it works"))
                        .collect::<Vec<_>>(),
                    imodel,
                    "round {round}"
                );
            }
            if dice.below(40) == 0 {
                match dice.below(4) {
                    0 => {
                        cache.compact().expect("it works");
                    }
                    1 => {
                        cache.clear().expect("it works");
                    }
                    _ => {
                        handles.clear();
                        indexes.clear();
                        drop(h);
                        drop(ix);
                        drop(cache);
                        common::forget_derived(dir.path());
                        cache = common::small().open(dir.path()).expect("it works");
                        handles = (0..2)
                            .map(|_| Deque::of(&cache, "d").expect("it works"))
                            .collect();
                        indexes = (0..2)
                            .map(|_| Index::of(&cache, "d").expect("it works"))
                            .collect();
                    }
                }
            }
        }
        common::assert_sound(&cache);
    }
}

/// Queue against a model: two handles, aborts, clock jumps, rebuilds, compaction.
#[test]
fn queues_deliver_each_acknowledged_job_once() {
    use std::collections::BTreeMap;
    for seed in 0..10 {
        println!("seed {seed}");
        let mut dice = common::Dice::new(seed);
        let dir = common::fast_dir();
        let (mut cache, mut clock) = with_clock(dir.path());
        let mut handles: Vec<Queue<u64>> = (0..2)
            .map(|_| Queue::of(&cache, "q").expect("it works"))
            .collect();
        handles[0].set_max_attempts(None).expect("it works");
        let mut waiting: BTreeMap<u64, ()> = BTreeMap::new();
        let mut out: Vec<(larder::LeaseId, u64)> = Vec::new();
        let mut next = 0_u64;
        let mut now = BEGIN_MS;
        for _ in 0..500 {
            let h = handles[dice.below(2) as usize].clone();
            match dice.below(14) {
                0..=2 => {
                    next += 1;
                    h.push(&next).expect("it works");
                    waiting.insert(next, ());
                }
                3 | 4 => {
                    next += 1;
                    let o = PushOptions::default()
                        .priority(dice.below(3) as i32 - 1)
                        .delay(Duration::from_millis(dice.below(3) * 5_000));
                    h.push_with(&next, &o).expect("it works");
                    waiting.insert(next, ());
                }
                5 => {
                    let jump = dice.below(20_000) as i64 - 8_000;
                    now = (now as i64 + jump) as u64;
                    clock.set(now);
                }
                6..=9 => {
                    if let Some(job) = h.lease(Duration::from_secs(1_000_000)).expect("it works") {
                        assert!(
                            waiting.remove(&*job).is_some(),
                            "a job of a live worker, or of nobody: {}",
                            *job
                        );
                        let payload = *job;
                        out.push((job.detach().expect("it works").expect("it works"), payload));
                    }
                }
                10 => {
                    if !out.is_empty() {
                        let (lease, _) = out.swap_remove(dice.below(out.len() as u64) as usize);
                        assert!(h.ack(lease).expect("it works"));
                    }
                }
                11 => {
                    if !out.is_empty() {
                        let (lease, p) = out.swap_remove(dice.below(out.len() as u64) as usize);
                        assert!(
                            h.nack(lease, Duration::from_millis(dice.below(2) * 5_000), None)
                                .expect("it works")
                        );
                        waiting.insert(p, ());
                    }
                }
                12 => {
                    let failed = dice.below(2) == 0;
                    let n = next + 1;
                    next += 3;
                    let first = out.first().copied();
                    let done = cache.transact(|_| {
                        h.push(&n)?;
                        h.push_with(&(n + 1), &PushOptions::default().priority(1))?;
                        if let Some((lease, _)) = first {
                            assert!(h.ack(lease)?);
                        }
                        if failed {
                            Err(larder::Error::Aborted { what: "x".into() })
                        } else {
                            Ok(())
                        }
                    });
                    if done.is_ok() {
                        waiting.insert(n, ());
                        waiting.insert(n + 1, ());
                        if first.is_some() {
                            out.remove(0);
                        }
                    }
                }
                _ => {
                    if dice.below(6) == 0 {
                        if dice.below(2) == 0 {
                            cache.compact().expect("it works");
                        } else {
                            handles.clear();
                            drop(h);
                            drop(cache);
                            common::forget_derived(dir.path());
                            (cache, clock) = with_clock(dir.path());
                            clock.set(now);
                            handles = (0..2)
                                .map(|_| Queue::of(&cache, "q").expect("it works"))
                                .collect();
                        }
                    }
                }
            }
        }
        clock.set(now + 100_000);
        for h in &handles {
            assert_eq!(
                (
                    h.depth().expect("it works"),
                    h.in_flight().expect("it works")
                ),
                (waiting.len() as u64, out.len() as u64)
            );
        }
        // Both handles in turns find all.
        let one = seed as usize % 2;
        while let Some(job) = handles[one].lease(MINUTE).expect("it works") {
            assert!(waiting.remove(&*job).is_some());
            assert!(job.ack().expect("it works"));
        }
        assert!(waiting.is_empty(), "lost: {waiting:?}");
        common::assert_sound(&cache);
    }
}

/// What a power loss leaves: the log as it was, and of what came next some first bytes; no derived files.
#[test]
fn views_after_a_power_loss_are_whole() {
    let mut dice = common::Dice::new(5);
    for seed in 0..12 {
        let (dir, left) = (common::fast_dir(), common::fast_dir());
        let cache = common::small().open(dir.path()).expect("opens");
        let deque = Deque::<u64>::of(&cache, "d").expect("a deque");
        let queue = Queue::<u64>::of(&cache, "q").expect("a queue");
        let index = Index::<u64, u64>::of(&cache, "i").expect("an index");
        let step = |n: u64| -> larder::Result<()> {
            deque.push_back(&n)?;
            index.insert(&n, &n)?;
            let options = PushOptions::default()
                .priority((n % 3) as i32)
                .key(n.to_string());
            queue.push_with(&n, &options)?;
            if n % 4 == 1 {
                deque.rotate(2)?;
                deque.remove(deque.len()? as i64 / 2)?;
                deque.reverse()?;
            }
            if n % 5 == 1
                && let Some(job) = queue.lease(MINUTE)?
            {
                job.ack()?;
                index.move_to_end(&(n / 2))?;
            }
            Ok(())
        };
        let at = 5 + dice.below(40);
        (0..at).try_for_each(step).expect("steps");
        let images = |dir: &std::path::Path| -> Vec<(std::ffi::OsString, Vec<u8>)> {
            let files = std::fs::read_dir(dir)
                .expect("a directory")
                .map(|entry| entry.expect("an entry"));
            let logs =
                files.filter(|entry| entry.path().extension().is_some_and(|kind| kind == "seg"));
            logs.map(|entry| {
                (
                    entry.file_name(),
                    std::fs::read(entry.path()).expect("bytes"),
                )
            })
            .collect()
        };
        let before = images(dir.path());
        (at..at + 3).try_for_each(step).expect("steps");
        for (name, new) in images(dir.path()) {
            let old = before.iter().find(|(other, _)| *other == name);
            let old = old.map_or_else(|| vec![0; new.len()], |(_, old)| old.clone());
            let half = new.len() / 2;
            let changed: Vec<usize> = (0..half).filter(|&n| old[n] != new[n]).collect();
            let end = match changed.as_slice() {
                [] => half,
                all => all[dice.below(all.len() as u64) as usize],
            };
            let with_summaries = dice.below(2) == 0;
            let mut torn = new[..end].to_vec();
            torn.extend(&old[end..half]);
            torn.extend(if with_summaries {
                &new[half..]
            } else {
                &old[half..]
            });
            std::fs::write(left.path().join(name), torn).expect("written");
        }
        drop((deque, queue, index, cache));
        let cache = common::small().open(left.path()).expect("opens");
        let deque = Deque::<u64>::of(&cache, "d").expect("a deque");
        let queue = Queue::<u64>::of(&cache, "q").expect("a queue");
        let index = Index::<u64, u64>::of(&cache, "i").expect("an index");
        let all = deque.to_vec().expect("elements");
        println!("round {seed}: {at} steps, {} elements", all.len());
        assert!(index.len().expect("len") >= at, "what came before is there");
        for (n, value) in all.iter().enumerate() {
            assert_eq!(deque.get(n as i64).expect("get"), Some(*value));
        }
        deque.rotate(3).expect("rotate");
        deque.push_front(&5).expect("push");
        assert_eq!(deque.to_vec().expect("elements").len(), all.len() + 1);
        // Whoever had a job is gone: it is delivered again, unless its ack was cut in two.
        let (depth, mut had) = (queue.depth().expect("depth"), 0);
        let leased = queue.in_flight().expect("in_flight");
        while let Some(job) = queue.lease(MINUTE).expect("lease") {
            assert!(job.ack().expect("ack"));
            had += 1;
        }
        assert!(
            (depth..=depth + leased).contains(&had),
            "{had} of {depth} and {leased}"
        );
        common::assert_sound(&cache);
    }
}
