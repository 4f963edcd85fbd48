//! Jobs go through a queue from the shell: pushed, leased, acked, given back, given up.

mod support;

use std::time::Duration;

use support::{Outcome, Scene};

/// The lease and the payload that `queue lease` printed.
#[track_caller]
fn lease(scene: &Scene, name: &str) -> (String, String) {
    let text = scene.done(["queue", "lease", name]);
    let (lease, payload) = text.split_once('\n').expect("a line and the payload");
    (lease.to_owned(), payload.to_owned())
}

#[test]
fn a_job_is_leased_by_one_command_and_acked_by_another() {
    let scene = Scene::new();
    let number = scene.done(["queue", "push", "mail", "hello\nthere"]);
    assert!(number.trim_end().parse::<u64>().is_ok(), "{number}");
    assert_eq!(
        scene
            .run_with_stdin(["queue", "push", "mail"], b"second")
            .status,
        0
    );
    let (first, payload) = lease(&scene, "mail");
    assert_eq!(payload, "hello\nthere");
    assert!(first.starts_with(number.trim_end()), "{first}");
    // The process that leased it has ended; the lease has not.
    std::thread::sleep(Duration::from_millis(120));
    let (second, payload) = lease(&scene, "mail");
    assert_eq!(payload, "second");
    scene.run(["queue", "lease", "mail"]).assert_no();
    assert_eq!(
        scene.done(["queue", "stats", "mail"]),
        "mail: 0 waiting, 2 leased, 0 dead\n"
    );
    scene.done(["queue", "ack", "mail", &first]);
    scene.run(["queue", "ack", "mail", &first]).assert_no();
    scene.done(["queue", "extend", "mail", &second, "--visibility", "1h"]);
    scene.done(["queue", "ack", "mail", &second]);
    assert_eq!(
        scene.done(["queue", "ls"]),
        "mail: 0 waiting, 0 leased, 0 dead\n"
    );
    assert!(scene.done(["check"]).starts_with("sound"));
}

#[test]
fn priority_delay_and_key_are_kept() {
    let scene = Scene::new();
    scene.done(["queue", "push", "q", "low", "--priority", "-3"]);
    scene.done(["queue", "push", "q", "later", "--delay", "1h"]);
    let first = scene.done([
        "queue",
        "push",
        "q",
        "high",
        "--priority",
        "5",
        "--key",
        "k",
    ]);
    let again = scene.run(["queue", "push", "q", "twice", "--key", "k"]);
    assert_eq!((again.status, again.stdout_text()), (1, first));
    assert_eq!(lease(&scene, "q").1, "high");
    assert_eq!(lease(&scene, "q").1, "low");
    scene.run(["queue", "lease", "q"]).assert_no();
    let line = scene.done(["queue", "stats", "q", "--json"]);
    let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(
        line,
        serde_json::json!({"name": "q", "depth": 1, "in_flight": 2, "dead": 0, "max_attempts": 10})
    );
}

#[test]
fn a_lease_that_ran_out_acks_nothing() {
    let scene = Scene::new();
    scene.done(["queue", "push", "q", "job"]);
    let text = scene.done(["queue", "lease", "q", "--visibility", "50ms"]);
    let old = text.lines().next().expect("a lease").to_owned();
    std::thread::sleep(Duration::from_millis(100));
    let shown = scene.done(["queue", "lease", "q", "--json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!(shown["attempts"], 2);
    assert_eq!(shown["last_error"], "its lease ran out");
    assert_eq!(shown["payload"], "job");
    scene.run(["queue", "ack", "q", &old]).assert_no();
    scene.run(["queue", "nack", "q", &old]).assert_no();
    scene.run(["queue", "extend", "q", &old]).assert_no();
    let new = shown["lease"].as_str().expect("text");
    scene.done(["queue", "nack", "q", new, "--delay", "1h"]);
    scene.run(["queue", "lease", "q"]).assert_no();
}

#[test]
fn what_failed_too_often_is_shown_and_queued_again() {
    let scene = Scene::new();
    scene.done(["queue", "push", "q", "poi\nson"]);
    assert_eq!(scene.done(["queue", "dead", "q"]), "");
    for _ in 0..10 {
        let (lease, _) = lease(&scene, "q");
        scene.done(["queue", "nack", "q", &lease, "--error", "no printer"]);
    }
    scene.run(["queue", "lease", "q"]).assert_no();
    let dead = scene.done(["queue", "dead", "q"]);
    let words: Vec<&str> = dead.trim_end().split('\t').collect();
    assert_eq!(
        (words[1], words[3], words[4]),
        ("10", "poi\\x0ason", "no printer")
    );
    let line = scene.done(["--read-only", "queue", "dead", "q", "--json"]);
    let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(
        (&line["attempts"], &line["error"]),
        (&10.into(), &"no printer".into())
    );
    assert_eq!(
        scene.done(["--read-only", "queue", "ls"]),
        "q: 0 waiting, 0 leased, 1 dead\n"
    );
    assert_eq!(
        scene.done(["queue", "dead", "q", "--requeue"]),
        "1 jobs queued again\n"
    );
    assert_eq!(lease(&scene, "q").1, "poi\nson");
    assert_eq!(
        scene.done(["queue", "dead", "q", "--clear"]),
        "0 jobs removed\n"
    );
}

#[test]
fn what_is_not_there_is_a_no_and_what_is_wrong_is_said() {
    let scene = Scene::new();
    scene.done(["set", "key", "value"]);
    let some = "7-00c0ffee00c0ffee";
    for args in [
        &["queue", "lease", "none"][..],
        &["queue", "ack", "none", some],
        &["queue", "nack", "none", some],
        &["queue", "extend", "none", some],
        &["queue", "dead", "none"],
        &["queue", "stats", "none"],
    ] {
        scene.run(args).assert_no();
    }
    assert_eq!(scene.done(["queue", "ls"]), "", "looking makes no queue");
    let refused: Outcome = scene.run(["queue", "ack", "q", "7-xyz"]);
    refused.assert_refused(&["7-xyz", "lease"]);
    scene.run(["queue"]).assert_refused(&["which command"]);
    let refused = scene.run(["--read-only", "queue", "push", "q", "x"]);
    refused.assert_refused(&["read-only"]);
    scene
        .run(["queue", "push", "q", "x", "--priority", "high"])
        .assert_refused(&["high"]);
}
