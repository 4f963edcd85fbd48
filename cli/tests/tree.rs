//! A tree that is imported and exported is the same tree, and nothing else is touched.

mod support;
mod trees;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;

use support::Scene;
use trees::{make_tree, noise, set_mode, snapshot};

#[test]
fn a_tree_with_all_the_hard_cases_comes_back() {
    let scene = Scene::new();
    make_tree(&scene.path("tree"));
    let first = scene.done(["import", "tree", "--jobs", "4"]);
    assert!(first.contains(" 0 unchanged"), "{first}");
    scene.done(["export", "copy"]);
    assert_eq!(snapshot(&scene.path("copy")), snapshot(&scene.path("tree")));
    assert!(scene.done(["check"]).starts_with("sound"));

    let second = scene.done(["import", "tree", "--jobs", "3"]);
    assert!(second.contains(" 0 written"), "{second}");
}

#[test]
fn two_trees_live_under_their_prefixes() {
    let scene = Scene::new();
    for name in ["one", "two"] {
        fs::create_dir_all(scene.path(name).join("d")).expect("a directory");
        fs::write(scene.path(name).join("d/f"), name).expect("a file");
        scene.done([
            "import",
            name,
            "--prefix",
            &format!("{name}/"),
            "--jobs",
            "2",
        ]);
    }
    assert_eq!(scene.run(["get", "two/d/f"]).stdout, b"two");
    scene.done(["export", "copy", "--prefix", "one/"]);
    assert_eq!(snapshot(&scene.path("copy")), snapshot(&scene.path("one")));
    scene.done(["export", "none", "--prefix", "three/"]);
    assert_eq!(
        fs::read_dir(scene.path("none"))
            .expect("a directory")
            .count(),
        0
    );
}

#[test]
fn what_changed_its_type_comes_right() {
    let scene = Scene::new();
    let tree = scene.path("tree");
    fs::create_dir_all(tree.join("was-dir/deep")).expect("directories");
    fs::write(tree.join("was-dir/deep/f"), "x").expect("a file");
    fs::write(tree.join("was-dir-not"), "stays").expect("a file");
    fs::write(tree.join("was-file"), "x").expect("a file");
    symlink("was-file", tree.join("was-link")).expect("a link");
    fs::create_dir(tree.join("was-dir-too")).expect("a directory");
    scene.done(["import", "tree", "--jobs", "2"]);

    fs::remove_dir_all(tree.join("was-dir")).expect("removed");
    fs::write(tree.join("was-dir"), "now a file").expect("a file");
    fs::remove_file(tree.join("was-file")).expect("removed");
    fs::create_dir(tree.join("was-file")).expect("a directory");
    fs::write(tree.join("was-file/f"), "below").expect("a file");
    fs::remove_file(tree.join("was-link")).expect("removed");
    fs::write(tree.join("was-link"), "was-file").expect("a file");
    fs::remove_dir(tree.join("was-dir-too")).expect("removed");
    symlink("nowhere", tree.join("was-dir-too")).expect("a link");
    scene.done(["import", "tree", "--jobs", "2"]);
    scene.done(["export", "copy"]);
    assert_eq!(snapshot(&scene.path("copy")), snapshot(&tree));
}

#[test]
fn a_changed_byte_or_mode_is_written_again() {
    let scene = Scene::new();
    let tree = scene.path("tree");
    fs::create_dir(&tree).expect("a directory");
    let mut bytes = vec![7; 300_000];
    for name in ["byte", "mode", "same", "longer"] {
        fs::write(tree.join(name), &bytes).expect("a file");
    }
    scene.done(["import", "tree", "--jobs", "2"]);
    bytes[299_999] = 8;
    fs::write(tree.join("byte"), &bytes).expect("a file");
    bytes.push(8);
    fs::write(tree.join("longer"), &bytes).expect("a file");
    set_mode(&tree.join("mode"), 0o600);
    let again = scene.done(["import", "tree", "--jobs", "2"]);
    assert!(again.contains(": 3 written, 2 unchanged"), "{again}");
    scene.done(["export", "copy"]);
    assert_eq!(snapshot(&scene.path("copy")), snapshot(&tree));
}

#[test]
fn what_is_no_file_is_named_and_left_out() {
    let scene = Scene::new();
    fs::create_dir(scene.path("tree")).expect("a directory");
    fs::write(scene.path("tree/f"), "x").expect("a file");
    let _socket = UnixListener::bind(scene.path("tree/soc\nket")).expect("a socket");
    let outcome = scene.run(["import", "tree"]);
    assert_eq!(outcome.status, 0, "{outcome:?}");
    assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
    assert!(outcome.stderr.contains("soc\\x0aket"), "{outcome:?}");
    assert_eq!(scene.run(["get", "f"]).stdout, b"x");
}

#[test]
fn what_cannot_be_read_is_named_and_counted() {
    let scene = Scene::new();
    let tree = scene.path("tree");
    fs::create_dir_all(tree.join("shut")).expect("directories");
    fs::write(tree.join("secret"), "x").expect("a file");
    fs::write(tree.join("open"), "x").expect("a file");
    set_mode(&tree.join("secret"), 0);
    set_mode(&tree.join("shut"), 0);
    let may_read_all = fs::read(tree.join("secret")).is_ok();
    let outcome = scene.run(["import", "tree", "--jobs", "2"]);
    set_mode(&tree.join("shut"), 0o755);
    if may_read_all {
        assert_eq!(outcome.status, 0, "{outcome:?}");
        return;
    }
    assert_eq!(outcome.status, 1, "{outcome:?}");
    assert_eq!(
        outcome.stderr.matches("cannot read secret").count(),
        1,
        "{outcome:?}"
    );
    assert_eq!(
        outcome.stderr.matches("cannot read shut").count(),
        1,
        "{outcome:?}"
    );
    assert!(
        outcome.stderr.contains("2 could not be read"),
        "{outcome:?}"
    );
    assert_eq!(scene.run(["get", "open"]).stdout, b"x");
}

#[test]
fn the_store_does_not_swallow_itself() {
    let scene = Scene::new();
    fs::write(scene.path("f"), "x").expect("a file");
    scene.done(["import", ".", "--jobs", "2"]);
    scene.done(["import", ".", "--jobs", "2"]);
    assert_eq!(scene.done(["ls", "--prefix", "store"]), "");
    assert_eq!(scene.run(["get", "f"]).stdout, b"x");
    scene
        .run(["export", "store/sub"])
        .assert_refused(&["store"]);
    scene
        .run(["export", "store", "--force"])
        .assert_refused(&["store"]);
}

#[test]
fn entries_beyond_the_limit_are_counted() {
    let scene = Scene::new();
    let tree = scene.path("tree");
    fs::create_dir(&tree).expect("a directory");
    for number in 0..12 {
        fs::write(tree.join(format!("f{number}")), noise((8 << 20) + number)).expect("a file");
    }
    scene.done(["settings", "size_limit_bytes=64MiB"]);
    let outcome = scene.run(["import", "tree", "--jobs", "2"]);
    assert_eq!(outcome.status, 1, "{outcome:?}");
    let there = scene.done(["ls"]).lines().count();
    let gone = 13 - there;
    assert!(there > 1 && gone > 1, "{outcome:?}");
    assert!(
        outcome
            .stderr
            .contains(&format!("{gone} of 13 entries did not stay")),
        "{outcome:?}"
    );
}

#[test]
fn export_wants_an_empty_directory() {
    let scene = Scene::new();
    fs::create_dir(scene.path("tree")).expect("a directory");
    fs::write(scene.path("tree/f"), "new").expect("a file");
    scene.done(["import", "tree"]);
    fs::create_dir(scene.path("out")).expect("a directory");
    fs::write(scene.path("out/f"), "old").expect("a file");
    fs::write(scene.path("out/other"), "kept").expect("a file");
    scene.run(["export", "out"]).assert_refused(&["not empty"]);
    assert_eq!(fs::read(scene.path("out/f")).expect("a file"), b"old");
    scene.done(["export", "out", "--force"]);
    assert_eq!(fs::read(scene.path("out/f")).expect("a file"), b"new");
    assert_eq!(fs::read(scene.path("out/other")).expect("a file"), b"kept");
    scene.run(["export", "tree/f"]).assert_refused(&["tree/f"]);
}

#[test]
fn hostile_keys_stay_out() {
    let scene = Scene::new();
    let absolute = scene.path("absolute").display().to_string();
    let keys = ["../up", "a/../../up", &absolute, "a//b", "end/", "."];
    for key in keys {
        scene.done(["set", key, "x"]);
    }
    scene.done(["set", "--escaped", "nul\\x00", "x"]);
    scene.done(["set", "good/file", "x"]);
    let outcome = scene.run(["export", "deep/out"]);
    assert_eq!(outcome.status, 1, "{outcome:?}");
    assert_eq!(
        outcome.stderr.matches("refused key").count(),
        7,
        "{outcome:?}"
    );
    assert!(!scene.path("up").exists() && !scene.path("deep/up").exists());
    assert!(!scene.path("absolute").exists());
    let mode = fs::metadata(scene.path("deep/out/good/file"))
        .expect("a file")
        .mode();
    assert_eq!(mode & 0o7777, 0o644);
}

#[test]
fn no_link_is_followed_out_of_the_target() {
    let scene = Scene::new();
    fs::create_dir(scene.path("outside")).expect("a directory");
    fs::write(scene.path("outside/file"), "theirs").expect("a file");
    fs::create_dir(scene.path("out")).expect("a directory");
    symlink("../outside", scene.path("out/dir")).expect("a link");
    symlink("../outside/file", scene.path("out/file")).expect("a link");
    scene.done(["set", "dir/file", "ours"]);
    scene.done(["set", "file", "ours"]);
    // A link in the store, and a key that would lead through it.
    scene.done(["set", "evil", "../outside", "--tag", "type:symlink"]);
    scene.done(["set", "evil/file", "ours"]);
    let outcome = scene.run(["export", "out", "--force"]);
    assert_eq!(outcome.status, 1, "{outcome:?}");
    assert_eq!(
        fs::read(scene.path("outside/file")).expect("a file"),
        b"theirs"
    );
    assert_eq!(
        fs::read_dir(scene.path("outside"))
            .expect("a directory")
            .count(),
        1
    );
    assert_eq!(fs::read(scene.path("out/file")).expect("a file"), b"ours");
    assert_eq!(
        fs::read(scene.path("out/dir/file")).expect("a file"),
        b"ours"
    );
}

#[test]
fn entries_set_by_hand_become_plain_files() {
    let scene = Scene::new();
    scene.done(["set", "notes/today", "rain", "--tag", "weather"]);
    scene.done(["incr", "count"]);
    scene.done(["export", "out"]);
    assert_eq!(
        fs::read(scene.path("out/notes/today")).expect("a file"),
        b"rain"
    );
    assert_eq!(fs::read(scene.path("out/count")).expect("a file"), b"1");
    let mode = fs::metadata(scene.path("out/count"))
        .expect("a file")
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o644);
}
