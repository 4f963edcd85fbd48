//! What `pack` wrote, `unpack` stores, in another store too; what is not whole never has a name or
//! an effect.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use support::{Outcome, Scene, files_below};

/// Four entries: two with a tag, one a number, one in a file of its own.
fn filled() -> Scene {
    let scene = Scene::new();
    scene.done(["set", "user/1", "Ada", "--tag", "run-7"]);
    scene.done(["set", "user/2", "Grace", "--tag", "run-7", "--tag", "b\\"]);
    scene.done(["incr", "visits", "5"]);
    let large = scene.run_with_stdin(["set", "large"], &[7; 3 << 20]);
    assert_eq!(large.status, 0, "{large:?}");
    scene
}

/// The same command on a second store of the scene.
fn run_on(scene: &Scene, store: &str, args: &[&str]) -> Outcome {
    let path = scene.path(store);
    let mut all = vec!["--store".to_owned(), path.display().to_string()];
    all.extend(args.iter().map(|word| (*word).to_owned()));
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_larder"));
    command
        .env_remove("LARDER_STORE")
        .args(all)
        .current_dir(scene.path("."))
        .stdin(Stdio::null());
    Outcome::of(command.output().expect("larder runs"))
}

/// Nothing but these in the scene's directory.
#[track_caller]
fn assert_names(scene: &Scene, wanted: &[&str]) {
    let mut names: Vec<_> = fs::read_dir(scene.path("."))
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name())
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert_eq!(names, wanted);
}

#[test]
fn a_packed_store_comes_out_in_another_one() {
    let scene = filled();
    let said = scene.done(["pack", "file"]);
    assert!(said.starts_with("4 entries, "), "{said}");
    assert_names(&scene, &["file", "store"]);
    let said = run_on(&scene, "other", &["unpack", "file"]);
    assert_eq!(said.status, 0, "{said:?}");
    assert!(said.stdout_text().starts_with("4 entries, "), "{said:?}");
    let all = |store| {
        let listed = run_on(&scene, store, &["ls", "--json"]).stdout_text();
        let lines = listed.lines().map(|line| {
            let mut line: serde_json::Value = serde_json::from_str(line).expect("JSON");
            line["stored_at"].take();
            line
        });
        lines.collect::<Vec<_>>()
    };
    assert_eq!(all("other"), all("store"));
    assert_eq!(
        run_on(&scene, "other", &["get", "large"]).stdout,
        [7; 3 << 20]
    );
    assert_eq!(run_on(&scene, "other", &["incr", "visits"]).stdout, b"6\n");
    assert_eq!(run_on(&scene, "other", &["check"]).status, 0);
}

#[test]
fn a_tag_and_a_prefix_choose_and_json_says_how_many() {
    let scene = filled();
    for (args, wanted) in [
        (&["pack", "a", "--json"][..], 4),
        (&["pack", "b", "--json", "--tag", "run-7"], 2),
        (
            &["pack", "c", "--json", "--prefix", "user/", "--tag", "b\\"],
            1,
        ),
        (&["pack", "d", "--json", "--escaped", "--tag", "b\\\\"], 1),
        (&["pack", "e", "--json", "--prefix", "nobody"], 0),
    ] {
        let said = scene.done(args);
        let said: serde_json::Value = serde_json::from_str(&said).expect("JSON");
        assert_eq!(said["entries"], wanted, "{args:?}");
        let len = fs::metadata(scene.path(args[1])).expect("a file").len();
        assert_eq!(said["file_bytes"], len, "{args:?}");
    }
    let said = run_on(&scene, "other", &["unpack", "c", "--json"]).stdout_text();
    let said: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(
        said,
        serde_json::json!({"entries": 1, "replaced": 0, "expired": 0, "value_bytes": 5})
    );
    assert_eq!(run_on(&scene, "other", &["ls"]).stdout, b"user/2\n");
}

#[test]
fn what_was_overwritten_and_what_had_expired_is_said() {
    let scene = Scene::new();
    scene.done(["set", "k", "packed"]);
    scene.done(["set", "brief", "v", "--ttl", "300ms"]);
    scene.done(["pack", "file"]);
    scene.done(["set", "k", "newer"]);
    std::thread::sleep(std::time::Duration::from_millis(400));
    let said = scene.done(["unpack", "file"]);
    assert_eq!(
        said,
        "1 entries, 6 bytes, 1 over older ones; 1 had expired\n"
    );
    assert_eq!(scene.run(["get", "k"]).stdout, b"packed");
}

#[test]
fn a_file_that_is_there_is_replaced_only_by_force() {
    let scene = filled();
    fs::write(scene.path("file"), "a letter").expect("written");
    scene
        .run(["pack", "file"])
        .assert_refused(&["file", "--force"]);
    assert_eq!(fs::read(scene.path("file")).expect("a file"), b"a letter");
    scene.done(["pack", "file", "--force"]);
    scene.done(["unpack", "file"]);
    std::os::unix::fs::symlink("file", scene.path("link")).expect("a link");
    scene
        .run(["pack", "link"])
        .assert_refused(&["link", "--force"]);
    scene.done(["pack", "link", "--force", "--prefix", "user/1"]);
    assert!(
        fs::symlink_metadata(scene.path("link"))
            .expect("a link")
            .is_symlink()
    );
    assert!(scene.done(["unpack", "file"]).starts_with("1 entries"));
    for args in [&["pack", "."][..], &["pack", "/dev/null", "--force"]] {
        scene.run(args).assert_refused(&["regular file"]);
    }
    scene
        .run(["pack", "store/file"])
        .assert_refused(&["in the store itself"]);
    assert_names(&scene, &["file", "link", "store"]);
    let mode = fs::metadata(scene.path("file"))
        .expect("a file")
        .permissions()
        .mode();
    assert_eq!(mode & 0o600, 0o600);
}

#[test]
fn a_pack_that_fails_leaves_no_file() {
    let scene = filled();
    let large = files_below(&scene.store())
        .into_iter()
        .find(|path| fs::metadata(path).is_ok_and(|meta| meta.len() == 3 << 20))
        .expect("the large value's file");
    let mut bytes = fs::read(&large).expect("a file");
    bytes[1 << 20] ^= 1;
    fs::write(&large, bytes).expect("written");
    scene
        .run(["pack", "file"])
        .assert_refused(&["damaged", ".val"]);
    scene
        .run(["pack", "no/such/file"])
        .assert_refused(&["no/such/file"]);
    assert_names(&scene, &["store"]);
}

#[test]
fn a_file_with_one_byte_wrong_or_missing_changes_nothing() {
    let scene = filled();
    scene.done(["pack", "file", "--prefix", "user/"]);
    let whole = fs::read(scene.path("file")).expect("a file");
    let mut wrong = whole.clone();
    wrong[whole.len() / 2] ^= 0x10;
    let mut newer = whole[..20].to_vec();
    newer[8] = 9;
    for bad in [
        &whole[..whole.len() - 1],
        &wrong,
        &[],
        b"a letter, and no packed file",
        &newer,
    ] {
        fs::write(scene.path("bad"), bad).expect("written");
        scene
            .run(["unpack", "bad"])
            .assert_refused(&["bad is not a sound packed file"]);
        run_on(&scene, "other", &["unpack", "bad"]).assert_refused(&["bad"]);
        assert!(!scene.path("other").exists(), "a bad file made a store");
    }
    assert_eq!(scene.done(["ls"]).lines().count(), 4);
}

#[test]
fn stdout_takes_the_file_and_no_word_beside() {
    let scene = filled();
    scene.done(["pack", "file"]);
    let piped = scene.run(["pack", "-"]);
    assert_eq!((piped.status, piped.stderr.as_str()), (0, ""));
    assert!(piped.stdout == fs::read(scene.path("file")).expect("a file"));
    scene
        .run(["pack", "-", "--json"])
        .assert_refused(&["--json"]);
    // Whoever reads it may go away.
    let mut child = scene
        .command(["pack", "-"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("larder runs");
    drop(child.stdout.take());
    let outcome = Outcome::of(child.wait_with_output().expect("larder ends"));
    assert_eq!((outcome.status, outcome.stderr.as_str()), (0, ""));
}

#[test]
fn only_a_regular_file_is_unpacked() {
    let scene = Scene::new();
    let pipe = scene.path("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("mkfifo runs").success());
    for (file, words) in [
        ("pipe", &["pipe", "no regular file"][..]),
        (".", &["no regular file"]),
        ("/dev/null", &["no regular file"]),
        ("-", &["stdin"]),
        ("missing", &["cannot read missing"]),
    ] {
        scene.run(["unpack", file]).assert_refused(words);
    }
    assert!(!scene.has_store());
}

#[test]
fn wrong_words_make_neither_a_store_nor_a_file() {
    let scene = Scene::new();
    for (args, word) in [
        (&["pack"][..], "FILE"),
        (&["unpack"], "FILE"),
        (&["unpack", "a", "b"], "'b'"),
        (&["pack", "a", "--tag"], "--tag"),
        (&["pack", "file"], "store"),
        (&["pack", "-"], "store"),
        (&["pack", "file", "--escaped", "--tag", "a\\b"], "backslash"),
    ] {
        scene.run(args).assert_refused(&[word]);
    }
    assert_names(&scene, &[]);
}

#[test]
fn a_full_store_says_how_far_it_came() {
    let scene = Scene::new();
    for at in 0..3 {
        let key = format!("{at}");
        let outcome = scene.run_with_stdin(["set", &key], &[at; 1_500_000]);
        assert_eq!(outcome.status, 0, "{outcome:?}");
    }
    scene.done(["pack", "file"]);
    let settings = [
        "settings",
        "size_limit_bytes=4MiB",
        "segment_size_bytes=64KiB",
        "policy=none",
    ];
    assert_eq!(run_on(&scene, "other", &settings).status, 0);
    run_on(&scene, "other", &["unpack", "file"])
        .assert_refused(&["2 entries were unpacked", "the store is full"]);
    assert_eq!(run_on(&scene, "other", &["ls"]).stdout, b"0\n1\n");
}
