//! A command runs once; afterwards its answer comes from the store, byte for byte.

mod support;

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process_group};
use support::{Outcome, Scene};

/// A script that leaves a line in the file `ran` each time it runs.
fn counted(script: &str) -> String {
    format!("echo ran >> ran; {script}")
}

fn runs(scene: &Scene) -> usize {
    fs::read_to_string(scene.path("ran")).map_or(0, |text| text.lines().count())
}

#[test]
fn both_outputs_and_the_status_come_back() {
    let scene = Scene::new();
    let script = counted("printf 'out\\n\\377\\0'; echo err >&2; exit 3");
    for _ in 0..3 {
        let output = scene
            .command(["memo", "--", "sh", "-c", &script])
            .output()
            .expect("larder runs");
        assert_eq!(output.status.code(), Some(3));
        assert_eq!(output.stdout, b"out\n\xff\0");
        assert_eq!(output.stderr, b"err\n");
    }
    assert_eq!(runs(&scene), 1);
    assert!(scene.done(["ls"]).starts_with("memo:"));
}

#[test]
fn long_output_comes_back_whole() {
    let scene = Scene::new();
    let script = counted("head -c 3000000 /dev/zero; head -c 2000000 /dev/zero >&2");
    for _ in 0..2 {
        let outcome = scene.run(["memo", "--", "sh", "-c", &script]);
        assert_eq!(
            (outcome.stdout.len(), outcome.stderr.len()),
            (3_000_000, 2_000_000)
        );
    }
    assert_eq!(runs(&scene), 1);
}

#[test]
fn words_environment_files_and_directory_make_another_answer() {
    let scene = Scene::new();
    fs::write(scene.path("input"), "one").expect("a file");
    fs::create_dir(scene.path("elsewhere")).expect("a directory");
    let script = counted("cat input; echo $SHADE");
    let memo = |shade: Option<&str>, extra: &str| {
        let mut command = scene.command([
            "memo", "--file", "input", "--env", "SHADE", "--", "sh", "-c",
        ]);
        command.args([&script, extra]).env_remove("SHADE");
        if let Some(shade) = shade {
            command.env("SHADE", shade);
        }
        Outcome::of(command.output().expect("larder runs")).stdout_text()
    };
    assert_eq!(memo(None, "x"), "one\n");
    assert_eq!(memo(None, "x"), "one\n");
    assert_eq!(runs(&scene), 1);
    assert_eq!(memo(Some("blue"), "x"), "oneblue\n");
    assert_eq!(memo(Some(""), "x"), "one\n");
    assert_eq!(runs(&scene), 3);
    memo(None, "y");
    assert_eq!(runs(&scene), 4);
    fs::write(scene.path("input"), "two").expect("a file");
    assert_eq!(memo(None, "x"), "two\n");
    assert_eq!(runs(&scene), 5);
    fs::write(scene.path("input"), "one").expect("a file");
    assert_eq!(memo(None, "x"), "one\n");
    assert_eq!(runs(&scene), 5);

    let here = scene.run(["memo", "--", "pwd"]).stdout_text();
    let mut command = scene.command(["memo", "--", "pwd"]);
    command.current_dir(scene.path("elsewhere"));
    let there = Outcome::of(command.output().expect("larder runs")).stdout_text();
    assert_ne!(here, there);
}

#[test]
fn the_order_of_the_options_is_no_matter() {
    let scene = Scene::new();
    let script = counted("true");
    scene.done([
        "memo", "--env", "A", "--env", "B", "--", "sh", "-c", &script,
    ]);
    scene.done([
        "memo", "--env", "B", "--env", "A", "--env", "A", "--", "sh", "-c", &script,
    ]);
    assert_eq!(runs(&scene), 1);
}

#[test]
fn one_of_four_at_once_runs() {
    let scene = Scene::new();
    let script = counted("sleep 0.3; echo answer");
    let mut children = Vec::new();
    for _ in 0..4 {
        let mut command = scene.command(["memo", "--", "sh", "-c", &script]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        children.push(command.spawn().expect("larder runs"));
    }
    for child in children {
        let outcome = Outcome::of(child.wait_with_output().expect("larder ends"));
        assert_eq!(
            (outcome.status, outcome.stdout_text().as_str()),
            (0, "answer\n"),
            "{outcome:?}"
        );
    }
    assert_eq!(runs(&scene), 1);
}

#[test]
fn a_killed_one_does_not_keep_the_others_waiting() {
    let scene = Scene::new();
    // The first run never comes to its end; a later one does at once.
    let script = counted("[ -e again ] || { touch again; exec sleep 60; }; echo answer");
    let memo = || scene.command(["memo", "--", "sh", "-c", &script]);
    let mut first = memo().process_group(0).spawn().expect("larder runs");
    for _ in 0..500 {
        if scene.path("again").exists() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let mut second = memo();
    second.stdout(Stdio::piped()).stderr(Stdio::piped());
    let second = second.spawn().expect("larder runs");
    // Only the one that holds: its command lives on without it.
    first.kill().expect("killed");
    first.wait().expect("it ends");
    let outcome = Outcome::of(second.wait_with_output().expect("larder ends"));
    kill_process_group(Pid::from_child(&first), Signal::KILL).expect("the command is still there");
    assert_eq!(outcome.stdout_text(), "answer\n", "{outcome:?}");
    assert_eq!(runs(&scene), 2);
}

#[test]
fn different_commands_do_not_wait_for_each_other() {
    let scene = Scene::new();
    // Each makes a file and waits for the other's: only both at once come to an end.
    let meet = |mine: &str, other: &str| {
        let script = format!(
            "touch {mine}; n=0; until [ -e {other} ]; do n=$((n+1)); [ $n -gt 400 ] && exit 9; sleep 0.02; done"
        );
        scene
            .command(["memo", "--", "sh", "-c", &script])
            .spawn()
            .expect("larder runs")
    };
    let both = [meet("a", "b"), meet("b", "a")];
    for mut child in both {
        assert_eq!(child.wait().expect("larder ends").code(), Some(0));
    }
}

#[test]
fn an_answer_is_forgotten_after_its_time() {
    let scene = Scene::new();
    let script = counted("true");
    let memo = || {
        scene.done([
            "memo", "--ttl", "150ms", "--tag", "t", "--", "sh", "-c", &script,
        ])
    };
    memo();
    assert_eq!(scene.done(["ls", "--tag", "t"]).lines().count(), 1);
    std::thread::sleep(std::time::Duration::from_millis(200));
    memo();
    assert_eq!(runs(&scene), 2);
}

#[test]
fn a_killed_command_is_not_an_answer() {
    let scene = Scene::new();
    let script = counted("kill -9 $$");
    for _ in 0..2 {
        assert_eq!(
            scene.run(["memo", "--", "sh", "-c", &script]).status,
            128 + 9
        );
    }
    assert_eq!(runs(&scene), 2);
    assert_eq!(scene.done(["ls"]), "");
}

#[test]
fn output_nobody_read_to_the_end_is_not_an_answer() {
    let scene = Scene::new();
    let script = counted("yes");
    let mut command = scene.command(["memo", "--", "sh", "-c", &script]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("larder runs");
    let mut some = [0; 10];
    std::io::Read::read_exact(child.stdout.as_mut().expect("a pipe"), &mut some).expect("output");
    drop(child.stdout.take());
    let outcome = Outcome::of(child.wait_with_output().expect("larder ends"));
    assert_eq!((outcome.status, outcome.stderr.as_str()), (0, ""));
    assert_eq!(scene.done(["ls"]), "");
}

#[test]
fn the_command_gets_an_empty_stdin() {
    let scene = Scene::new();
    let outcome = scene.run_with_stdin(["memo", "--", "cat"], b"");
    assert_eq!((outcome.status, outcome.stdout.len()), (0, 0));
}

#[test]
fn an_entry_that_is_no_answer_is_replaced() {
    let scene = Scene::new();
    let script = counted("echo answer");
    scene.done(["memo", "--", "sh", "-c", &script]);
    let key = scene.done(["ls"]);
    scene.done(["set", key.trim_end(), "memo, but not such a one"]);
    assert_eq!(scene.done(["memo", "--", "sh", "-c", &script]), "answer\n");
    assert_eq!(scene.done(["memo", "--", "sh", "-c", &script]), "answer\n");
    assert_eq!(runs(&scene), 2);
}

#[test]
fn an_answer_too_big_to_keep_is_still_given() {
    let scene = Scene::new();
    scene.done(["settings", "size_limit_bytes=64MiB"]);
    let script = counted("head -c 70000000 /dev/zero; exit 4");
    let outcome = scene.run(["memo", "--", "sh", "-c", &script]);
    assert_eq!((outcome.status, outcome.stdout.len()), (4, 70_000_000));
    assert!(
        outcome
            .stderr
            .starts_with("larder: the answer is not stored: "),
        "{}",
        outcome.stderr
    );
}
