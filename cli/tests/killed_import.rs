//! An import whose every process is killed half way completes when it is run again.

mod support;
mod trees;

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use support::Scene;
use trees::{noise, snapshot};

const FILES: usize = 1_200;
const JOBS: &str = "4";

#[test]
fn killed_again_and_again_it_completes() {
    let scene = Scene::new();
    let tree = scene.path("tree");
    let bytes = plant(&tree);
    let mut half_way = 0;
    for round in 1..=12 {
        let mut child = start(&scene);
        thread::sleep(Duration::from_millis(12 * round));
        kill(&child);
        child.wait().expect("it ends");
        let there = count(&scene);
        half_way += usize::from(0 < there && there < FILES);
    }
    assert!(half_way > 0, "no kill came while the import was under way");

    let rest = scene.done(["import", "tree", "--jobs", JOBS]);
    assert!(!rest.contains(" 0 unchanged"), "{rest}");
    let again = scene.done(["import", "tree", "--jobs", JOBS]);
    assert!(again.contains(": 0 written"), "{again}");
    scene.done(["export", "copy"]);
    assert_eq!(snapshot(&scene.path("copy")), snapshot(&tree));
    assert!(scene.done(["check"]).starts_with("sound"));

    // What was there already was not written again: at most what was under way came twice.
    let stats: serde_json::Value =
        serde_json::from_str(&scene.done(["stats", "--json"])).expect("JSON");
    let volume = stats["volume_bytes"].as_u64().expect("a number");
    assert!(
        volume >= bytes && volume < bytes + bytes / 4,
        "{volume} bytes live for {bytes}"
    );
}

/// Without its parent no worker goes on.
#[test]
fn workers_end_with_the_one_that_started_them() {
    let scene = Scene::new();
    plant(&scene.path("tree"));
    let mut child = start(&scene);
    thread::sleep(Duration::from_millis(30));
    child.kill().expect("it can be killed");
    child.wait().expect("it ends");
    for _ in 0..500 {
        if alive_in_group(child.id()) == 0 {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
    kill(&child);
    panic!("a worker still runs");
}

/// Processes of a group that still run; those that only wait to be reaped do not.
fn alive_in_group(group: u32) -> usize {
    let processes = fs::read_dir("/proc").expect("the kernel's list of processes");
    let stats = processes.filter_map(|process| fs::read(process.ok()?.path().join("stat")).ok());
    let alive = stats.filter(|stat| {
        // After the name in brackets: state, parent, group.
        let stat = String::from_utf8_lossy(stat);
        let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
        let fields: Vec<&str> = after.split_whitespace().take(3).collect();
        matches!(fields[..], [state, _, of] if state != "Z" && of == group.to_string())
    });
    alive.count()
}

/// Makes the tree; says how many bytes are in it.
fn plant(tree: &std::path::Path) -> u64 {
    let mut bytes = 0;
    for number in 0..FILES {
        let dir = tree.join(format!("{}", number % 30));
        fs::create_dir_all(&dir).expect("a directory");
        let count = if number % 100 == 0 {
            1 << 20
        } else {
            number * 7
        };
        fs::write(dir.join(format!("{number}")), noise(count)).expect("a file");
        bytes += count as u64;
    }
    bytes
}

/// An import with all its processes in a group of their own.
fn start(scene: &Scene) -> Child {
    let mut command = scene.command(["import", "tree", "--jobs", JOBS]);
    command
        .process_group(0)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().expect("larder runs")
}

fn kill(child: &Child) {
    kill_process_group(Pid::from_child(child), Signal::KILL).expect("the group can be killed");
}

fn count(scene: &Scene) -> usize {
    // Killed before there was a store, there is none.
    let outcome = scene.run(["ls"]);
    if outcome.status == 0 {
        outcome
            .stdout_text()
            .lines()
            .filter(|key| !key.ends_with('/'))
            .count()
    } else {
        0
    }
}
