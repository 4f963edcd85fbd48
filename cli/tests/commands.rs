//! Each command on entries and on the store does what its help says, with the exit status it says.

mod support;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::process::Stdio;
use std::time::Duration;

use support::{Outcome, Scene};

#[test]
fn what_was_set_is_what_get_writes() {
    let scene = Scene::new();
    scene.done(["set", "key", "value"]);
    assert_eq!(scene.run(["get", "key"]).stdout, b"value");
    scene.done(["set", "key", ""]);
    assert_eq!(scene.run(["get", "key"]).stdout, b"");
    scene.done(["set", "key", "-5"]);
    assert_eq!(scene.run(["get", "key"]).stdout, b"-5");
    scene.done(["set", "--", "-key", "--value"]);
    assert_eq!(scene.run(["get", "--", "-key"]).stdout, b"--value");
    scene.run(["get", "other"]).assert_no();
}

#[test]
fn stdin_is_a_value_of_any_bytes() {
    let scene = Scene::new();
    let bytes: Vec<u8> = (0..3_000_000_u32)
        .map(|number| (number * 7 / 3) as u8)
        .collect();
    for args in [&["set", "big"][..], &["set", "big", "-"]] {
        assert_eq!(scene.run_with_stdin(args, &bytes).status, 0);
        assert!(scene.run(["get", "big"]).stdout == bytes);
    }
}

#[test]
fn the_store_may_come_from_the_environment() {
    let scene = Scene::new();
    scene.done(["set", "key", "value"]);
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_larder"));
    command
        .env("LARDER_STORE", scene.store())
        .args(["get", "key"]);
    assert_eq!(command.output().expect("larder runs").stdout, b"value");
}

#[test]
fn keys_are_any_bytes_and_ls_shows_them_on_a_line() {
    let scene = Scene::new();
    let key = OsStr::from_bytes(b"a\\b\n\xff\xc3\xa4");
    scene.done([OsStr::new("set"), key, OsStr::new("v")]);
    assert_eq!(scene.done(["ls"]), "a\\\\b\\x0a\\xffä\n");
    assert_eq!(scene.run([OsStr::new("get"), key]).stdout, b"v");
    assert_eq!(
        scene.run(["get", "--escaped", "a\\\\b\\x0a\\xffä"]).stdout,
        b"v"
    );
    scene
        .run(["get", "--escaped", "a\\b"])
        .assert_refused(&["backslash"]);
}

#[test]
fn delete_says_whether_it_was_there() {
    let scene = Scene::new();
    scene.done(["set", "key", "value"]);
    assert_eq!(scene.done(["delete", "key"]), "");
    scene.run(["delete", "key"]).assert_no();
    scene.run(["get", "key"]).assert_no();
}

#[test]
fn entries_expire_when_told_and_touch_changes_it() {
    let scene = Scene::new();
    scene.done(["set", "short", "v", "--ttl", "50ms"]);
    scene.done(["set", "kept", "v", "--ttl", "200ms"]);
    scene.done(["touch", "kept", "--never"]);
    scene.done(["set", "cut", "v"]);
    scene.done(["touch", "cut", "--ttl", "1ms"]);
    std::thread::sleep(Duration::from_millis(250));
    scene.run(["get", "short"]).assert_no();
    scene.run(["touch", "short", "--never"]).assert_no();
    scene.run(["get", "cut"]).assert_no();
    assert_eq!(scene.run(["get", "kept"]).stdout, b"v");

    scene.done(["touch", "kept", "--ttl", "1h"]);
    assert!(!scene.done(["ls", "--json"]).contains("\"expires_at\":null"));
    scene.done(["touch", "kept"]);
    assert!(scene.done(["ls", "--json"]).contains("\"expires_at\":null"));
    scene.done(["settings", "default_ttl=1h"]);
    scene.done(["touch", "kept"]);
    assert!(!scene.done(["ls", "--json"]).contains("\"expires_at\":null"));
}

#[test]
fn numbers_add_up() {
    let scene = Scene::new();
    assert_eq!(scene.done(["incr", "n"]), "1\n");
    assert_eq!(scene.done(["incr", "n", "41"]), "42\n");
    assert_eq!(scene.done(["incr", "n", "-50"]), "-8\n");
    assert_eq!(scene.done(["incr", "m", "5", "--default", "-2"]), "3\n");
    assert_eq!(scene.done(["incr", "f", "0.5"]), "0.5\n");
    assert_eq!(scene.run(["get", "n"]).stdout, b"-8");
    scene.done(["set", "word", "seven"]);
    scene.run(["incr", "word"]).assert_refused(&[]);
    assert_eq!(scene.run(["get", "word"]).stdout, b"seven");
    scene.done(["incr", "top", "9223372036854775807"]);
    scene.run(["incr", "top"]).assert_refused(&[]);
    assert_eq!(scene.run(["get", "top"]).stdout, b"9223372036854775807");
}

#[test]
fn ls_chooses_and_orders() {
    let scene = Scene::new();
    scene.done(["set", "fruit:plum", "1", "--tag", "blue", "--tag", "sweet"]);
    scene.done(["set", "fruit:apple", "22", "--tag", "red", "--tag", "sweet"]);
    scene.done(["set", "leek", "333"]);
    scene.done(["incr", "count"]);
    assert_eq!(scene.done(["ls"]), "fruit:plum\nfruit:apple\nleek\ncount\n");
    assert_eq!(
        scene.done(["ls", "--reverse"]),
        "count\nleek\nfruit:apple\nfruit:plum\n"
    );
    assert_eq!(
        scene.done(["ls", "--limit", "2"]),
        "fruit:plum\nfruit:apple\n"
    );
    assert_eq!(scene.done(["ls", "--limit", "0"]), "");
    assert_eq!(
        scene.done(["ls", "--prefix", "fruit:"]),
        "fruit:plum\nfruit:apple\n"
    );
    assert_eq!(scene.done(["ls", "--tag", "red"]), "fruit:apple\n");
    assert_eq!(
        scene.done(["ls", "--tag", "sweet", "--reverse", "--limit", "1"]),
        "fruit:apple\n"
    );
    assert_eq!(
        scene.done(["ls", "--tag", "sweet", "--tag", "blue"]),
        "fruit:plum\n"
    );
    assert_eq!(scene.done(["ls", "--tag", "sour"]), "");
}

#[test]
fn ls_json_says_all_of_an_entry() {
    let scene = Scene::new();
    scene.done(["set", "a\nb", "333", "--tag", "t\\", "--ttl", "1h"]);
    scene.done(["incr", "n"]);
    let text = scene.done(["ls", "--json"]);
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(lines[0]["key"], "a\\x0ab");
    assert_eq!(lines[0]["size"], 3);
    assert_eq!(lines[0]["kind"], "bytes");
    assert_eq!(lines[0]["tags"], serde_json::json!(["t\\\\"]));
    let (stored, expires) = (&lines[0]["stored_at"], &lines[0]["expires_at"]);
    assert!(stored.as_str().expect("an instant") < expires.as_str().expect("an instant"));
    assert_eq!(lines[1]["kind"], "integer");
    assert_eq!(lines[1]["expires_at"], serde_json::Value::Null);
}

#[test]
fn a_closed_pipe_ends_ls_without_a_word() {
    let scene = Scene::new();
    for number in 0..20 {
        scene.done(["set", &format!("{number}{}", "k".repeat(10_000)), "v"]);
    }
    let mut command = scene.command(["ls"]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("larder runs");
    drop(child.stdout.take());
    let outcome = Outcome::of(child.wait_with_output().expect("larder ends"));
    assert_eq!((outcome.status, outcome.stderr.as_str()), (0, ""));
}

#[test]
fn stats_count_and_start_anew() {
    let scene = Scene::new();
    scene.done(["set", "key", "value"]);
    scene.done(["get", "key"]);
    scene.run(["get", "other"]).assert_no();
    let stats = |args: &[&str]| -> serde_json::Value {
        serde_json::from_str(&scene.done(args)).expect("JSON")
    };
    let before = stats(&["stats", "--json", "--reset"]);
    assert_eq!(before["entries"], 1);
    assert_eq!(
        (&before["hits"], &before["misses"], &before["sets"]),
        (&1.into(), &1.into(), &1.into())
    );
    assert!(before["volume_bytes"].as_u64() >= Some(8));
    assert!(before["disk_usage_bytes"].as_u64() > Some(0));
    let after = stats(&["stats", "--json"]);
    assert_eq!((&after["hits"], &after["entries"]), (&0.into(), &1.into()));
    assert!(
        scene
            .done(["stats"])
            .lines()
            .any(|line| line.starts_with("entries "))
    );
}

#[test]
fn settings_are_shown_as_they_are_typed() {
    let scene = Scene::new();
    let all = scene.done(["settings"]);
    assert!(scene.has_store());
    assert!(
        all.lines()
            .any(|line| line.starts_with("size_limit_bytes=")),
        "{all}"
    );
    assert_eq!(
        scene.done(["settings", "size_limit_bytes=64MiB", "default_ttl=30s"]),
        ""
    );
    let changed = scene.done(["settings"]);
    assert_ne!(changed, all);
    // What is shown can be typed again.
    scene.done([&["settings"][..], &changed.lines().collect::<Vec<_>>()].concat());
    assert_eq!(scene.done(["settings"]), changed);
}

#[test]
fn one_bad_setting_and_none_changes() {
    let scene = Scene::new();
    let before = scene.done(["settings"]);
    scene
        .run(["settings", "size_limit_bytes=64MiB", "no_such=1"])
        .assert_refused(&["no_such"]);
    scene
        .run(["settings", "size_limit_bytes=plenty"])
        .assert_refused(&["size_limit_bytes"]);
    assert_eq!(scene.done(["settings"]), before);
}

#[test]
fn clear_says_how_many_there_were() {
    let scene = Scene::new();
    for key in ["a", "b", "c"] {
        scene.done(["set", key, "v"]);
    }
    assert_eq!(scene.done(["clear"]), "3\n");
    assert_eq!(scene.done(["clear"]), "0\n");
    assert_eq!(scene.done(["ls"]), "");
}

#[test]
fn log_shows_the_records() {
    let scene = Scene::new();
    scene.done(["set", "first-key", "v"]);
    scene.done(["delete", "first-key"]);
    let all = scene.done(["log"]);
    assert!(
        all.lines()
            .filter(|line| line.contains("first-key"))
            .count()
            >= 2,
        "{all}"
    );
    let segment = all
        .lines()
        .find_map(|line| line.strip_prefix("# segment "))
        .expect("a segment");
    assert!(scene.done(["log", segment]).contains("first-key"));
    scene
        .run(["log", "999999"])
        .assert_refused(&["no segment 999999"]);
}

#[test]
fn check_finds_a_flipped_byte() {
    let scene = Scene::new();
    let value = "a value that stands in the log once".repeat(40);
    for key in ["a", "b", "c"] {
        scene.done(["set", key, &value]);
    }
    assert!(scene.done(["check"]).starts_with("sound: 3 entries, "));
    assert!(flip_a_value_byte(&scene, &value));
    let outcome = scene.run(["check"]);
    assert_eq!(outcome.status, 1, "{outcome:?}");
    assert!(
        outcome
            .stdout_text()
            .contains(&scene.store().display().to_string()),
        "{outcome:?}"
    );
}

/// Damages the first place below the store where `value` is found.
fn flip_a_value_byte(scene: &Scene, value: &str) -> bool {
    for path in support::files_below(&scene.store()) {
        let Ok(mut bytes) = std::fs::read(&path) else {
            continue;
        };
        let at = bytes
            .windows(value.len())
            .position(|window| window == value.as_bytes());
        if let Some(at) = at {
            bytes[at + value.len() / 2] ^= 1;
            std::fs::write(&path, bytes).expect("the file can be written");
            return true;
        }
    }
    false
}
