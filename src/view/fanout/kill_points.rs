//! A process killed at each step of what is done over several shards, and what others find then.
//!
//! The process is this very binary, started again; it kills itself at the step it was told.

use std::cell::Cell;
use std::path::Path;
use std::process::Command;

use super::*;
use crate::{FanoutTransaction, SetOptions};

const STEP: &str = "LARDER_UNIT_STEP";
const ROLE: &str = "LARDER_UNIT_ROLE";
const STORE: &str = "LARDER_UNIT_STORE";

thread_local! {
    /// Steps until the kill; 0: there is none.
    static LEFT: Cell<u64> = const { Cell::new(0) };
}

/// One step done.
pub(super) fn step() {
    let left = LEFT.get();
    if left == 1 {
        let me = rustix::process::getpid();
        rustix::process::kill_process(me, rustix::process::Signal::KILL).expect("killed");
    }
    LEFT.set(left.saturating_sub(1));
}

/// Runs a role in a process of its own, which is killed at step `at`. Whether it was.
fn is_killed(role: &str, store: &Path, at: u64) -> bool {
    use std::os::unix::process::ExitStatusExt;
    let output = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", "view::fanout::kill_points::role", "--nocapture"])
        .env(ROLE, role)
        .env(STORE, store)
        .env(STEP, at.to_string())
        .output()
        .expect("it runs");
    let is_killed = output.status.signal() == Some(9);
    assert!(
        is_killed || output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    is_killed
}

/// What the process does that is killed.
#[test]
fn role() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let store = std::env::var(STORE).expect("a store");
    let at: u64 = std::env::var(STEP)
        .expect("a step")
        .parse()
        .expect("a number");
    match role.as_str() {
        "cross" => {
            let fanout = Fanout::open(&store).expect("opens");
            LEFT.set(at);
            change(&fanout, 2, false);
        }
        "make" => {
            LEFT.set(at);
            small().open_fanout(&store, 3).expect("opens");
        }
        "divide" => {
            LEFT.set(at);
            Fanout::reshard(&store, 2).expect("reshard");
        }
        "grow" => {
            let fanout = Fanout::open(&store).expect("opens");
            LEFT.set(at);
            fanout.set("large", vec![1; 6 << 20]).expect("set");
        }
        "lower" => {
            let fanout = Fanout::open(&store).expect("opens");
            LEFT.set(at);
            let lower = |settings: &mut crate::Settings| {
                settings.size_limit_bytes = 8 << 20;
                settings.statistics = false;
            };
            fanout.update_settings(lower).expect("update");
        }
        other => panic!("{other}"),
    }
}

fn small() -> Builder {
    Cache::builder()
        .segment_size_bytes(64 << 10)
        .large_value_bytes(4 << 10)
}

const KEYS: usize = 9;

/// Sets, deletes and makes keys in all shards, one of them large and tagged.
fn change(fanout: &Fanout, version: u8, twice: bool) {
    let tagged = SetOptions::default().tag(format!("v{version}"));
    fanout
        .transact(|tx| {
            for n in 0..KEYS {
                let len = if n % 3 == 0 { 6_000 } else { 20 };
                tx.set_with(format!("k{n}"), vec![version; len], &tagged)?;
            }
            tx.delete(format!("only in {}", version - 1))?;
            tx.set(format!("only in {version}"), "x")?;
            tx.incr("sum", 1, 0)?;
            Ok(())
        })
        .expect("transact");
    if twice {
        fanout.set("plain", [version]).expect("set");
    }
}

/// Which version all keys are of.
fn version_of(fanout: &Fanout) -> u8 {
    let of = |n: usize| fanout.get(format!("k{n}")).expect("get").expect("there")[0];
    let version = of(0);
    for n in 0..KEYS {
        assert_eq!(of(n), version, "half a batch at k{n}");
        let value = fanout.get(format!("k{n}")).expect("get").expect("there");
        assert_eq!(value.len(), if n % 3 == 0 { 6_000 } else { 20 });
    }
    let is_there = |version: u8| {
        fanout
            .contains(format!("only in {version}"))
            .expect("contains")
    };
    let there = (is_there(1), is_there(2));
    assert_eq!(
        there,
        (version == 1, version == 2),
        "{:?}",
        fanout.stats(false)
    );
    assert_eq!(
        fanout.get("sum").expect("get").expect("there"),
        version.to_string()
    );
    version
}

/// The same by the verbs that look at all shards, when nothing is half done.
fn assert_whole(fanout: &Fanout) -> u8 {
    let version = version_of(fanout);
    let tagged = fanout.iter_tag(format!("v{version}")).expect("iter_tag");
    assert_eq!(tagged.count(), KEYS);
    assert_eq!(fanout.len().expect("len"), KEYS as u64 + 3);
    assert_eq!(fanout.iter().expect("iter").count(), KEYS + 3);
    let report = fanout.check().expect("check");
    assert!(report.is_sound(), "{:#?}", report.findings);
    for shard in &*fanout.shards {
        assert_eq!(shard.store().expect("store").crossing(), 0);
        assert_eq!(
            shard
                .store()
                .expect("store")
                .inner(b"x/waiting")
                .expect("inner"),
            None
        );
    }
    version
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("made");
    for entry in std::fs::read_dir(from).expect("listed") {
        let entry = entry.expect("an entry");
        let to = to.join(entry.file_name());
        match entry.file_type().expect("a type").is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).expect("copied")),
        }
    }
}

/// Takes the derived files of shards away: those of which `which` has the bit.
fn forget(store: &Path, which: u32) {
    for shard in (0..3).filter(|shard| which >> shard & 1 == 1) {
        let dir = store.join(name_of(shard));
        for entry in std::fs::read_dir(dir).expect("listed") {
            let path = entry.expect("an entry").path();
            let is_log = path
                .extension()
                .is_some_and(|end| end == "seg" || end == "val");
            if !is_log && path.is_file() {
                std::fs::remove_file(path).expect("removed");
            }
        }
    }
}

fn name_of(shard: usize) -> String {
    crate::format::name::shard(1, shard)
}

fn memory_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .expect("a directory")
}

#[test]
fn a_batch_is_whole_wherever_its_maker_was_killed() {
    let dir = memory_dir();
    let before = dir.path().join("before");
    let fanout = small().open_fanout(&before, 3).expect("opens");
    change(&fanout, 1, true);
    drop(fanout);
    let (mut absent, mut whole) = (0, 0);
    for at in 1.. {
        let work = dir.path().join(format!("at {at}"));
        copy(&before, &work);
        // A neighbour that lives on: it reads at once, and writes in each shard.
        let neighbour = Fanout::open(&work).expect("opens");
        let is_killed = is_killed("cross", &work, at);
        let dead = dir.path().join("dead");
        copy(&work, &dead);
        let mut seen = version_of(&neighbour);
        assert!(is_killed || seen == 2);
        for n in 0..20 {
            neighbour.set(format!("other {n}"), "x").expect("set");
            // Between the intent and its word nobody has seen it: the next writer finds it decided.
            let now = version_of(&neighbour);
            assert!(now >= seen, "step {at}: {now} after {seen}");
            seen = now;
        }
        for n in 0..20 {
            neighbour.delete(format!("other {n}")).expect("delete");
        }
        neighbour.delete("plain").expect("delete");
        neighbour.set("plain", "x").expect("set");
        assert_eq!(assert_whole(&neighbour), seen, "step {at}");
        drop(neighbour);
        assert_eq!(assert_whole(&Fanout::open(&work).expect("opens")), seen);
        // Nobody lives on, and some of the mapped files are lost too.
        for which in 0..8 {
            let work = dir.path().join("work");
            copy(&dead, &work);
            forget(&work, which);
            let reader = Cache::builder()
                .read_only(true)
                .open_fanout(&work, None)
                .expect("opens");
            assert_eq!(
                version_of(&reader),
                seen,
                "step {at}, {which:b} lost, reading"
            );
            assert_eq!(reader.iter().expect("iter").count(), KEYS + 3);
            drop(reader);
            let fanout = Fanout::open(&work).expect("opens");
            assert_eq!(assert_whole(&fanout), seen, "step {at}, {which:b} lost");
            // And the next one goes well; what dead files were left is gone then.
            let next =
                |tx: &FanoutTransaction| tx.incr("sum", 0, 0).and_then(|_| tx.set("plain", "2"));
            fanout.transact(next).expect("next");
            fanout.flush().expect("flush");
            fanout.flush().expect("flush again");
            assert_eq!(
                assert_whole(&fanout),
                seen,
                "step {at}, {which:b} lost, later"
            );
            drop(fanout);
            std::fs::remove_dir_all(&work).expect("removed");
        }
        std::fs::remove_dir_all(&dead).expect("removed");
        match seen {
            1 => absent += 1,
            _ => whole += 1,
        }
        assert!(
            absent == 0 || whole == 0 || seen == 2,
            "decided once, decided for ever"
        );
        if !is_killed {
            break;
        }
    }
    assert!(absent > 5 && whole > 5, "{absent} absent, {whole} whole");
}

#[test]
fn a_power_loss_at_any_step_leaves_a_batch_whole_or_absent() {
    let dir = memory_dir();
    let before = dir.path().join("before");
    let fanout = small().open_fanout(&before, 3).expect("opens");
    change(&fanout, 1, true);
    drop(fanout);
    let mut steps = vec![before.clone()];
    for at in 1.. {
        let work = dir.path().join(format!("at {at}"));
        copy(&before, &work);
        let is_killed = is_killed("cross", &work, at);
        steps.push(work);
        if !is_killed {
            break;
        }
    }
    // What each shard has on the disk is what it had at some step since it was last synced: the first
    // shard's intent at `decided`, the others' large values before.
    let has_intent = |path: &Path| {
        let copied = dir.path().join("look");
        copy(path, &copied);
        let seen = version_of(&Fanout::open(&copied).expect("opens"));
        std::fs::remove_dir_all(&copied).expect("removed");
        seen == 2
    };
    let decided = (1..steps.len())
        .find(|&at| has_intent(&steps[at]))
        .expect("decided");
    for at in decided..steps.len() {
        for which in 0..4_u32 {
            let work = dir.path().join("work");
            copy(&steps[at], &work);
            for shard in 1..3 {
                if which >> (shard - 1) & 1 == 1 {
                    let to = work.join(name_of(shard));
                    std::fs::remove_dir_all(&to).expect("removed");
                    copy(&steps[decided].join(name_of(shard)), &to);
                }
            }
            forget(&work, 7);
            let fanout = Fanout::open(&work).expect("opens");
            assert_eq!(
                assert_whole(&fanout),
                2,
                "step {at}, {which:b} as at {decided}"
            );
            drop(fanout);
            std::fs::remove_dir_all(&work).expect("removed");
        }
    }
}

#[test]
fn whoever_makes_or_divides_a_store_may_be_killed_at_any_step() {
    let dir = memory_dir();
    for at in 1.. {
        let work = dir.path().join(format!("make {at}"));
        let is_killed = is_killed("make", &work, at);
        let fanout = small().open_fanout(&work, 3).expect("completed");
        change(&fanout, 1, true);
        drop(fanout);
        assert_eq!(assert_whole(&Fanout::open(&work).expect("opens")), 1);
        if !is_killed {
            assert!(at > 4);
            break;
        }
    }
    let before = dir.path().join("before");
    let fanout = small().open_fanout(&before, 3).expect("opens");
    change(&fanout, 1, true);
    drop(fanout);
    let mut is_new = false;
    for at in 1.. {
        let work = dir.path().join(format!("divide {at}"));
        copy(&before, &work);
        let neighbour = Fanout::open(&work).expect("opens");
        let is_killed = is_killed("divide", &work, at);
        let fanout = Fanout::open(&work).expect("opens");
        assert!(fanout.shards() == 2 || !is_new, "once new, it stays so");
        is_new = fanout.shards() == 2;
        assert_eq!(assert_whole(&fanout), 1);
        fanout.set("plain", "newer").expect("set");
        match is_new {
            true => {
                let moved = neighbour.set("plain", "old").expect_err("moved");
                assert!(matches!(moved, Error::Moved { .. }), "{moved}");
            }
            false => {
                assert_eq!(
                    neighbour.get("plain").expect("get").expect("there"),
                    "newer"
                );
                neighbour.set("plain", "newest").expect("set");
            }
        }
        let left = std::fs::read_dir(&work).expect("listed").count();
        assert_eq!(left, fanout.shards() + 2, "step {at}");
        if !is_killed {
            assert!(is_new && at > 6);
            break;
        }
    }
}

#[test]
fn limits_are_never_more_than_the_whole_wherever_their_changer_was_killed() {
    let dir = memory_dir();
    let before = dir.path().join("before");
    let whole = 16 << 20;
    let fanout = small()
        .size_limit_bytes(whole)
        .open_fanout(&before, 3)
        .expect("opens");
    change(&fanout, 1, true);
    drop(fanout);
    let sum = |fanout: &Fanout| -> u64 {
        let limits = fanout
            .shards
            .iter()
            .map(|shard| shard.settings().expect("settings"));
        limits.map(|settings| settings.size_limit_bytes).sum()
    };
    for role in ["grow", "lower"] {
        for at in 1.. {
            let work = dir.path().join(format!("{role} {at}"));
            copy(&before, &work);
            let neighbour = Fanout::open(&work).expect("opens");
            let is_killed = is_killed(role, &work, at);
            assert!(sum(&neighbour) <= whole, "step {at}");
            drop(neighbour);
            forget(&work, 7);
            let fanout = Fanout::open(&work).expect("opens");
            let now = fanout.settings().expect("settings");
            assert!(sum(&fanout) <= now.size_limit_bytes, "step {at}");
            if role == "lower" {
                assert_eq!((now.size_limit_bytes, now.statistics), (8 << 20, false));
                let own = fanout
                    .shards
                    .iter()
                    .map(|shard| shard.settings().expect("settings"));
                assert!(
                    own.into_iter().all(|settings| !settings.statistics),
                    "step {at}"
                );
            } else {
                fanout.set("large", vec![1; 6 << 20]).expect("set");
                assert!(sum(&fanout) <= whole, "step {at}");
            }
            let report = fanout.check().expect("check");
            assert!(report.is_sound(), "{:#?}", report.findings);
            if !is_killed {
                assert!(at > 1, "{role}");
                break;
            }
        }
    }
}
