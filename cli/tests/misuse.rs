//! Bad input gets one clear line and exit 2, and leaves nothing behind.

mod support;

use std::fs;

use support::Scene;

#[test]
fn words_that_are_no_command_line() {
    let scene = Scene::new();
    let cases: [(&[&str], &str); 21] = [
        (&[], "which command"),
        (&["bogus"], "bogus"),
        (&["set"], "KEY"),
        (&["get"], "KEY"),
        (&["get", "a", "b"], "'b'"),
        (&["delete"], "KEY"),
        (&["set", "k", "v", "--ttl", "soon"], "soon"),
        (&["set", "k", "v", "--ttl"], "--ttl"),
        (&["touch", "k", "--ttl", "1s", "--never"], "--never"),
        (&["incr", "k", "much"], "much"),
        (&["incr", "k", "99999999999999999999"], "64 bits"),
        (&["ls", "--limit", "-1"], "-1"),
        (&["stats", "now"], "now"),
        (&["settings", "size_limit_bytes"], "NAME=VALUE"),
        (&["settings", "size_limit_bytes=plenty"], "size_limit_bytes"),
        (&["log", "x"], "x"),
        (&["import"], "DIR"),
        (&["import", ".", "--jobs", "0"], "jobs"),
        (&["export"], "DIR"),
        (&["memo"], "COMMAND"),
        (&["memo", "true"], "true"),
    ];
    for (args, word) in cases {
        scene.run(args).assert_refused(&[word]);
        assert!(!scene.has_store(), "{args:?} made a store");
    }
}

#[test]
fn a_store_has_to_be_named() {
    for dir in [None, Some("")] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_larder"));
        match dir {
            Some(dir) => command.env("LARDER_STORE", dir),
            None => command.env_remove("LARDER_STORE"),
        };
        let output = command.args(["get", "k"]).output().expect("larder runs");
        support::Outcome::of(output).assert_refused(&["--store", "LARDER_STORE"]);
    }
}

#[test]
fn help_and_version_are_no_misuse() {
    let scene = Scene::new();
    assert!(scene.done(["--help"]).contains("import"));
    assert!(scene.done(["--version"]).starts_with("larder "));
    assert!(scene.done(["import", "--help"]).contains("type:symlink"));
    assert!(scene.done(["memo", "--help"]).contains("current directory"));
}

#[test]
fn reading_makes_no_store() {
    let scene = Scene::new();
    let export = scene.path("out").display().to_string();
    let cases: [&[&str]; 9] = [
        &["get", "k"],
        &["delete", "k"],
        &["touch", "k"],
        &["ls"],
        &["stats"],
        &["clear"],
        &["log"],
        &["check"],
        &["export", &export],
    ];
    for args in cases {
        scene.run(args).assert_refused(&["store"]);
        assert!(!scene.has_store(), "{args:?} made a store");
        assert!(!scene.path("out").exists(), "{args:?} made its target");
    }
}

#[test]
fn a_directory_of_something_else_is_left_alone() {
    let scene = Scene::new();
    fs::create_dir(scene.store()).expect("a directory");
    fs::write(scene.store().join("letter"), "dear").expect("a file");
    for args in [
        &["set", "k", "v"][..],
        &["get", "k"],
        &["check"],
        &["settings"],
    ] {
        scene.run(args).assert_refused(&["store"]);
    }
    assert_eq!(fs::read_dir(scene.store()).expect("a directory").count(), 1);
}

#[test]
fn a_file_is_no_store() {
    let scene = Scene::new();
    fs::write(scene.store(), "dear").expect("a file");
    scene.run(["set", "k", "v"]).assert_refused(&["store"]);
    scene.run(["get", "k"]).assert_refused(&["store"]);
}

#[test]
fn import_needs_a_directory() {
    let scene = Scene::new();
    scene
        .run(["import", "missing"])
        .assert_refused(&["missing"]);
    fs::write(scene.path("file"), "x").expect("a file");
    scene
        .run(["import", "file"])
        .assert_refused(&["file", "not a directory"]);
    assert!(!scene.has_store());
}

#[test]
fn memo_needs_what_it_depends_on() {
    let scene = Scene::new();
    scene
        .run(["memo", "--file", "missing", "--", "true"])
        .assert_refused(&["missing"]);
    scene
        .run(["memo", "--file", ".", "--", "true"])
        .assert_refused(&[]);
    scene
        .run(["memo", "--", "./no-such-program"])
        .assert_refused(&["no-such-program"]);
}
