//! A command runs while nobody else holds the lock, and is answered for by its own exit status.

mod support;

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use support::{Outcome, Scene};

#[test]
fn the_command_has_its_streams_and_its_status() {
    let scene = Scene::new();
    let script = "read line; echo got $line; echo err >&2; exit 7";
    let outcome = scene.run_with_stdin(["lock", "door", "--", "sh", "-c", script], b"bread\n");
    assert_eq!(outcome.status, 7, "{outcome:?}");
    assert_eq!(
        (outcome.stdout_text().as_str(), outcome.stderr.as_str()),
        ("got bread\n", "err\n")
    );
    let killed = scene.run(["lock", "door", "--", "sh", "-c", "kill -TERM $$"]);
    assert_eq!(killed.status, 128 + 15);
    assert_eq!(scene.done(["ls"]), "", "a lock is no entry");
}

#[test]
fn two_commands_are_never_at_it_at_once_and_tokens_rise() {
    let scene = Scene::new();
    let script = "mkdir inside || exit 9; echo $LARDER_TOKEN >> tokens; sleep 0.02; rmdir inside";
    let children: Vec<_> = (0..5)
        .map(|_| {
            let mut command = scene.command(["lock", "door", "--", "sh", "-c", script]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            command.spawn().expect("larder runs")
        })
        .collect();
    for child in children {
        let outcome = Outcome::of(child.wait_with_output().expect("larder ends"));
        assert_eq!(outcome.status, 0, "{outcome:?}");
    }
    let text = fs::read_to_string(scene.path("tokens")).expect("tokens");
    let tokens: Vec<u64> = text
        .lines()
        .map(|line| line.parse().expect("a number"))
        .collect();
    assert_eq!(tokens.len(), 5);
    assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
}

#[test]
fn who_gives_up_is_told_who_has_it_and_a_dead_holder_has_nothing() {
    let scene = Scene::new();
    let mut holder = scene
        .command([
            "lock",
            "door",
            "--",
            "sh",
            "-c",
            "echo inside; exec sleep 10",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .expect("larder runs");
    let mut begun = [0; 7];
    let mut stdout = holder.stdout.take().expect("a pipe");
    std::io::Read::read_exact(&mut stdout, &mut begun).expect("it begins");
    let busy = scene.run(["lock", "door", "--timeout", "50ms", "--", "touch", "ran"]);
    busy.assert_refused(&["this lock", &format!("process {}", holder.id())]);
    assert!(!scene.path("ran").exists());
    let other = scene.run(["lock", "window", "--timeout", "20s", "--", "true"]);
    assert_eq!(other.status, 0, "{other:?}");
    holder.kill().expect("it lives");
    holder.wait().expect("it is reaped");
    let killed = Instant::now();
    let had = scene.run(["lock", "door", "--timeout", "20s", "--", "touch", "ran"]);
    assert_eq!(had.status, 0, "{had:?}");
    assert!(killed.elapsed() < Duration::from_secs(10) && scene.path("ran").exists());
}

#[test]
fn a_lock_that_expired_is_told_and_the_status_is_the_commands() {
    let scene = Scene::new();
    let outcome = scene.run([
        "lock",
        "door",
        "--expiry",
        "20ms",
        "--",
        "sh",
        "-c",
        "sleep 0.2; exit 3",
    ]);
    assert_eq!(outcome.status, 3, "{outcome:?}");
    assert!(outcome.stderr.contains("not held"), "{outcome:?}");
}

#[test]
fn wrong_use_is_refused() {
    let scene = Scene::new();
    scene.run(["lock", "door"]).assert_refused(&["COMMAND"]);
    scene
        .run(["lock", "door", "--", "./there-is-no-such-program"])
        .assert_refused(&["cannot run"]);
    scene
        .run(["--read-only", "lock", "door", "--", "true"])
        .assert_refused(&["--read-only"]);
    // Nothing of these is left behind.
    assert_eq!(
        scene
            .run(["lock", "door", "--timeout", "0s", "--", "true"])
            .status,
        0
    );
}
