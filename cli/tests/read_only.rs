//! Commands that read leave a store as it was when they are told to; the others are refused.

mod support;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use support::{Scene, files_below};

/// Every file of the store: its bytes, and when they were last changed.
fn picture(scene: &Scene) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime)> {
    let with_bytes = |path: PathBuf| {
        let bytes = std::fs::read(&path).expect("a readable file");
        let changed = path.metadata().and_then(|meta| meta.modified());
        (path, (bytes, changed.expect("the time of its change")))
    };
    files_below(&scene.store())
        .into_iter()
        .map(with_bytes)
        .collect()
}

fn scene_with_entries() -> Scene {
    let scene = Scene::new();
    scene.done(["set", "greeting", "hello", "--tag", "t"]);
    scene.done(["incr", "visits"]);
    scene
}

#[test]
fn what_reads_changes_not_a_byte() {
    let scene = scene_with_entries();
    let before = picture(&scene);
    assert_eq!(scene.done(["--read-only", "get", "greeting"]), "hello");
    assert_eq!(scene.done(["ls", "--read-only"]), "greeting\nvisits\n");
    assert!(
        scene
            .done(["--read-only", "ls", "--json"])
            .contains("\"tags\":[\"t\"]")
    );
    assert!(scene.done(["--read-only", "stats"]).contains("entries"));
    assert!(
        scene
            .done(["--read-only", "settings"])
            .contains("size_limit_bytes=")
    );
    assert!(scene.done(["--read-only", "log"]).contains("greeting"));
    assert!(
        scene
            .done(["--read-only", "check"])
            .contains("sound: 2 entries")
    );
    let out = scene.path("out").display().to_string();
    scene.done(["--read-only", "export", &out]);
    assert_eq!(
        std::fs::read(scene.path("out/greeting")).expect("an exported file"),
        b"hello"
    );
    scene.run(["--read-only", "get", "nothing"]).assert_no();
    assert!(picture(&scene) == before, "a file of the store was changed");
}

#[test]
fn what_writes_is_refused() {
    let scene = scene_with_entries();
    let before = picture(&scene);
    let cases: [&[&str]; 9] = [
        &["set", "k", "v"],
        &["delete", "greeting"],
        &["touch", "greeting", "--never"],
        &["incr", "visits"],
        &["stats", "--reset"],
        &["settings", "default_ttl=1h"],
        &["clear"],
        &["import", "."],
        &["memo", "--", "true"],
    ];
    for args in cases {
        let args = [&["--read-only"], args].concat();
        scene.run(args).assert_refused(&["--read-only"]);
    }
    assert!(picture(&scene) == before, "a file of the store was changed");
}

#[test]
fn no_store_is_made_to_be_read() {
    let scene = Scene::new();
    for command in ["ls", "settings", "check"] {
        scene
            .run(["--read-only", command])
            .assert_refused(&["store"]);
        assert!(!scene.has_store(), "{command} made a store");
    }
}
