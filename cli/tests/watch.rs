//! `watch` writes a line for each change of any process at once, and ends when it is told to.

mod support;

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use support::Scene;

#[test]
fn what_the_log_has_is_told_and_goes_on_from_any_line() {
    let scene = Scene::new();
    scene.done(["set", "a", "1"]);
    scene.done(["set", "b\nc", "2", "--tag", "t"]);
    scene.done(["set", "d", "3"]);
    scene.done(["delete", "a"]);
    let told = scene.done(["watch", "--from", "0", "--timeout", "0"]);
    let words: Vec<&str> = told
        .lines()
        .map(|line| line.split_once(' ').expect("a position").1)
        .collect();
    assert_eq!(words, ["set a", "set b\\x0ac", "set d", "deleted a"]);
    let second = told.lines().nth(1).expect("a line");
    let (seq, _) = second.split_once(' ').expect("a position");
    let rest = scene.done(["watch", "--from", seq, "--timeout", "0"]);
    assert_eq!(rest.lines().count(), 2);
    assert!(told.ends_with(&rest));

    let tagged = scene.done([
        "watch",
        "--from",
        "0",
        "--timeout",
        "0",
        "--tag",
        "t",
        "--json",
    ]);
    let line: serde_json::Value = serde_json::from_str(tagged.trim()).expect("JSON");
    assert_eq!(line["kind"], "set");
    assert_eq!(line["key"], "b\\x0ac");
    assert_eq!(line["tags"][0], "t");
    let prefix = scene.done(["watch", "--from", "0", "--timeout", "0", "--prefix", "d"]);
    assert!(prefix.ends_with(" set d\n"), "{prefix}");
    assert_eq!(prefix.lines().count(), 1);
    // A position that is not of this store.
    let gap = scene.done(["watch", "--from", "4000000", "--timeout", "0"]);
    assert!(gap.contains(" gap from 4000000: rebuilt"), "{gap}");
    let also = scene.done(["--read-only", "watch", "--from", "0", "--timeout", "0"]);
    assert_eq!(also, told);
}

#[test]
fn lines_come_at_once_and_a_signal_ends_it_well() {
    for signal in [Signal::INT, Signal::TERM] {
        let scene = Scene::new();
        scene.done(["set", "a", "1", "--tag", "t"]);
        let mut watch = scene
            .command(["watch", "--from", "0"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut lines = BufReader::new(watch.stdout.take().expect("a pipe")).lines();
        let mut next = || lines.next().expect("a line").expect("text");
        // Its first line: it watches, so what goes is named.
        assert!(next().ends_with(" set a"));
        scene.done(["evict", "t"]);
        assert!(next().ends_with(" evicted a"));
        scene.done(["set", "b", "2"]);
        assert!(next().ends_with(" set b"));
        scene.done(["clear"]);
        assert!(next().ends_with(" cleared b"));
        kill_process(Pid::from_child(&watch), signal).expect("a signal");
        assert!(watch.wait().expect("it ends").success());
    }
}

#[test]
fn it_makes_no_store_and_takes_one_filter() {
    let scene = Scene::new();
    scene.run(["watch"]).assert_refused(&[]);
    assert!(!scene.has_store());
    scene.done(["set", "a", "1"]);
    scene
        .run(["watch", "--prefix", "a", "--tag", "b"])
        .assert_refused(&["--tag"]);
}
