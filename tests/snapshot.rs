//! A snapshot is the store at one moment, whatever writers do then, and lives on beside it.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use common::{
    Dice, assert_sound, fast_dir, forget_derived, names, read_signed, signed_value, small, start,
    work_dir,
};
use larder::{Cache, Error, SetOptions};

type Contents = BTreeMap<Vec<u8>, Vec<u8>>;

/// Where a worker process begins; for the test itself there is nothing to do.
#[test]
fn role_entry() {
    let Some(job) = common::job() else { return };
    let store = open(&job.store);
    let writer = job.args[0];
    for version in 1_u64.. {
        // Three keys that say the same, one of them in a file of its own, and some that come and go.
        store
            .transact(|tx| {
                for part in ["a", "b", "large"] {
                    let key = format!("{writer}/{part}");
                    let len = if part == "large" { 5_000 } else { 100 };
                    let value = signed_value(key.as_bytes(), writer as u32, version, len);
                    tx.set(&key, &value)?;
                }
                tx.set(format!("{writer}/churn/{}", version % 50), vec![7; 500])?;
                tx.delete(format!("{writer}/churn/{}", (version + 25) % 50))?;
                Ok(())
            })
            .expect("a batch");
        common::say(&version.to_string());
    }
}

fn open(dir: &Path) -> Cache {
    small().open(dir).expect("it opens")
}

fn contents(store: &Cache) -> Contents {
    let all = store.iter().expect("iter");
    let all: Contents = all
        .map(|item| item.expect("an entry"))
        .map(|(key, value)| (key, value.to_vec()))
        .collect();
    assert_eq!(store.len().expect("len"), all.len() as u64);
    for (key, value) in &all {
        assert_eq!(store.get(key).expect("get").as_deref(), Some(&value[..]));
    }
    all
}

fn fill(store: &Cache, dice: &mut Dice, rounds: u64) {
    for at in 0..rounds {
        let key = format!("key/{}", dice.below(rounds / 2));
        let len = if dice.one_in(10) { 6_000 } else { 200 };
        let value = dice.bytes(len);
        match dice.below(5) {
            0 => assert!(store.delete(&key).is_ok()),
            1 => {
                let tag = format!("tag-{}", at % 3);
                let options = SetOptions::default().tag(tag).ttl(Duration::from_secs(900));
                store.set_with(&key, &value, &options).expect("set");
            }
            _ => store.set(&key, &value).expect("set"),
        }
    }
}

/// What became of the last batch of each writer a snapshot has; all of it or nothing.
fn last_batches(found: &Contents, writers: &[u64]) -> Vec<u64> {
    let version = |writer: u64, part: &str| {
        let key = format!("{writer}/{part}").into_bytes();
        let value = found.get(&key)?;
        Some(read_signed(&key, value).expect("its own").1)
    };
    writers
        .iter()
        .map(|&writer| {
            let parts = ["a", "b", "large"].map(|part| version(writer, part));
            assert!(parts.iter().all(|part| *part == parts[0]), "{parts:?}");
            parts[0].unwrap_or(0)
        })
        .collect()
}

#[test]
fn a_snapshot_beside_two_writers_is_a_consistent_prefix() {
    let dir = fast_dir();
    let home = dir.path().join("store");
    let store = open(&home);
    let mut workers: Vec<_> = [1, 2]
        .iter()
        .map(|&n| start("writer", &home, &[n]))
        .collect();
    let mut said = [0_u64; 2];
    for (n, worker) in workers.iter_mut().enumerate() {
        said[n] = worker.hear().parse().expect("a version");
    }
    let mut kept = Vec::new();
    for round in 0..12 {
        std::thread::sleep(Duration::from_millis(30));
        let mut hear = |said: &mut [u64; 2]| {
            for (n, worker) in workers.iter_mut().enumerate() {
                if let Some(last) = worker.said().last() {
                    said[n] = last.parse().expect("a version");
                }
            }
        };
        hear(&mut said);
        let before = said;
        let to = dir.path().join(format!("snapshot-{round}"));
        let report = store.snapshot(&to).expect("a snapshot");
        assert!(report.segments > 0 && report.values >= 2, "{report:?}");
        assert_eq!(report.copied, 0);
        let mode = fs::metadata(&to).expect("made").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let then = open(&to);
        let found = contents(&then);
        assert_sound(&then);
        let has = last_batches(&found, &[1, 2]);
        std::thread::sleep(Duration::from_millis(5));
        hear(&mut said);
        for n in 0..2 {
            // One more may be acknowledged before we hear of it.
            let (from, to) = (before[n], said[n] + 1);
            assert!((from..=to).contains(&has[n]), "{from}..={to}: {has:?}");
        }
        kept.push((to, found));
        if round % 3 == 2 {
            // The origin unlinks what the snapshots have.
            store.compact().expect("compact");
        }
    }
    drop(workers);
    store.flush().expect("flush");
    store.compact().expect("compact");
    let origin = contents(&store);
    assert_sound(&store);
    for (path, found) in &kept {
        assert!(contents(&open(path)) == *found, "{}", path.display());
        forget_derived(path);
        let then = open(path);
        assert!(contents(&then) == *found, "{}", path.display());
        assert_sound(&then);
    }
    assert!(contents(&store) == origin);
}

#[test]
fn a_snapshot_and_its_origin_live_on_and_leave_each_other_alone() {
    let mut dice = Dice::new(common::seed("snapshots"));
    let dir = fast_dir();
    let (home, to) = (dir.path().join("store"), dir.path().join("then"));
    let store = open(&home);
    fill(&store, &mut dice, 3_000);
    let then = contents(&store);
    store.snapshot(&to).expect("a snapshot");
    assert!(contents(&store) == then);
    assert!(names(&to).iter().all(|name| common::is_log(name)));
    let inode = |path: &Path| fs::metadata(path).expect("it is there").ino();
    for name in names(&to) {
        assert_eq!(inode(&to.join(&name)), inode(&home.join(&name)), "{name}");
    }

    let other = open(&to);
    for round in 0..3 {
        fill(&store, &mut dice, 1_000);
        store.compact().expect("compact");
        store.flush().expect("flush");
        if round == 0 {
            assert!(contents(&other) == then, "the origin went on");
        }
        let here = contents(&store);
        fill(&other, &mut dice, 1_000);
        other.compact().expect("compact");
        other.flush().expect("flush");
        assert!(contents(&store) == here, "the snapshot went on");
        assert_sound(&store);
        assert_sound(&other);
    }
    let (here, there) = (contents(&store), contents(&other));
    // Of a snapshot too.
    let third = dir.path().join("third");
    other.snapshot(&third).expect("a snapshot");
    drop((store, other));
    for (path, found) in [(&home, &here), (&to, &there), (&third, &there)] {
        forget_derived(path);
        let store = open(path);
        assert!(contents(&store) == *found, "{}", path.display());
        assert_sound(&store);
    }
}

#[test]
fn a_snapshot_keeps_tags_settings_and_numbers() {
    let dir = fast_dir();
    let store = open(&dir.path().join("store"));
    store
        .update_settings(|settings| settings.cull_limit = Some(3))
        .expect("settings");
    let tagged = SetOptions::default().tag("run-7");
    for n in 0..20 {
        store.set_with(format!("k/{n}"), "v", &tagged).expect("set");
    }
    store.set_tag_quota("run-7", Some(1 << 20)).expect("quota");
    store.incr("n", 41, 0).expect("incr");
    let to = dir.path().join("then");
    // An empty directory will do.
    fs::create_dir(&to).expect("made");
    store.snapshot(&to).expect("a snapshot");
    let then = open(&to);
    assert_eq!(
        then.settings().expect("settings"),
        store.settings().expect("settings")
    );
    assert_eq!(then.tags().expect("tags"), store.tags().expect("tags"));
    assert_eq!(then.incr("n", 1, 0).expect("incr").to_string(), "42");
    assert_eq!(then.evict_tag("run-7").expect("evict"), 20);
    assert_eq!(store.len().expect("len"), 21);
    assert_sound(&then);
}

#[test]
fn what_cannot_be_a_snapshot_is_refused_and_leaves_nothing() {
    let dir = fast_dir();
    let home = dir.path().join("store");
    let store = open(&home);
    fill(&store, &mut Dice::new(7), 2_000);
    let full = dir.path().join("full");
    fs::create_dir(&full).expect("made");
    fs::write(full.join("mine"), "of value").expect("written");
    for to in [&full, &home] {
        let before = names(to);
        let error = store.snapshot(to).expect_err("it is not empty");
        assert!(matches!(error, Error::Io { .. }), "{error:?}");
        assert!(error.to_string().contains("empty"), "{error}");
        assert_eq!(names(to), before);
    }
    let inside = store.transact(|_| store.snapshot(dir.path().join("inside")).map(drop));
    assert!(matches!(inside, Err(Error::Aborted { .. })), "{inside:?}");
    // A segment that is gone cannot be linked; what was is removed.
    let gone = home.join(
        names(&home)
            .into_iter()
            .find(|name| name.ends_with(".seg"))
            .expect("one"),
    );
    fs::rename(&gone, dir.path().join("aside")).expect("moved");
    let to = dir.path().join("to");
    store.snapshot(&to).expect_err("a segment is missing");
    assert!(!to.exists());
    fs::create_dir(&to).expect("made");
    store.snapshot(&to).expect_err("a segment is missing");
    assert!(names(&to).is_empty());
    fs::rename(dir.path().join("aside"), &gone).expect("moved");
    store.snapshot(&to).expect("a snapshot");
    drop(store);
    let reader = small().read_only(true).open(&to).expect("it opens");
    let error = reader
        .snapshot(dir.path().join("never"))
        .expect_err("read-only");
    assert!(matches!(error, Error::ReadOnly { .. }), "{error:?}");
    assert!(!dir.path().join("never").exists());
}

#[test]
fn on_another_filesystem_files_are_copied_without_their_holes() {
    let (here, there) = (fast_dir(), work_dir());
    let device = |path: &Path| fs::metadata(path).expect("it is there").dev();
    if device(here.path()) == device(there.path()) {
        println!("one filesystem only: nothing to test");
        return;
    }
    let store = Cache::builder()
        .large_value_bytes(4096)
        .open(here.path().join("store"))
        .expect("opens");
    fill(&store, &mut Dice::new(3), 1_000);
    let found = contents(&store);
    let to = there.path().join("then");
    let report = store.snapshot(&to).expect("a snapshot");
    assert_eq!(report.copied, report.segments + report.values);
    assert!(common::du_bytes(&to) < 8 << 20, "{}", common::du_bytes(&to));
    let then = open(&to);
    assert!(contents(&then) == found);
    assert_sound(&then);
}

/// Whoever shares the lock on `pin` finds every file that was there.
#[test]
fn no_file_is_removed_while_somebody_needs_them_to_stay() {
    let dir = fast_dir();
    let store = open(dir.path());
    let churn = |round: u8| {
        for n in 0..40 {
            store
                .set(format!("large/{n}"), vec![round; 5_000])
                .expect("set");
            store
                .set(format!("small/{n}"), vec![round; 3_000])
                .expect("set");
        }
        store.flush().expect("flush");
        store.compact().expect("compact");
        store.flush().expect("flush");
    };
    churn(0);
    let pin = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(dir.path().join("pin"))
        .expect("the lock file");
    pin.lock_shared().expect("shared");
    let logs = || -> Vec<String> {
        let mut names = names(dir.path());
        names.retain(|name| common::is_log(name));
        names
    };
    let before = logs();
    for round in 1..4 {
        churn(round);
        let now = logs();
        assert!(
            before.iter().all(|name| now.contains(name)),
            "round {round}"
        );
    }
    pin.unlock().expect("unlocked");
    churn(9);
    let now = logs();
    assert!(
        before.iter().all(|name| !now.contains(name)),
        "{before:?} {now:?}"
    );
    assert_eq!(now.iter().filter(|name| name.ends_with(".val")).count(), 40);
    assert_sound(&store);
}

/// More large values than there are graves go at once.
#[test]
fn evicting_many_large_values_at_once_leaves_no_file() {
    let dir = fast_dir();
    let store = open(dir.path());
    let tagged = SetOptions::default().tag("t");
    for n in 0..300 {
        store
            .set_with(format!("large/{n}"), vec![1; 5_000], &tagged)
            .expect("set");
    }
    assert_eq!(store.evict_tag("t").expect("evict"), 300);
    store.flush().expect("flush");
    store.flush().expect("flush");
    let left = names(dir.path())
        .into_iter()
        .filter(|name| name.ends_with(".val"));
    assert_eq!(left.count(), 0);
    assert_sound(&store);
}
