//! Damage to some entries is named, and the others are still listed, exported and imported over.

mod support;
mod trees;

use std::fs;
use std::path::PathBuf;

use support::{Scene, files_below};
use trees::{noise, snapshot};

/// Longer than what stands in the log, so it has a file of its own.
const LARGE: usize = 3 << 20;

/// A store with one damaged small entry and one large entry whose file is gone.
fn damaged() -> Scene {
    let scene = Scene::new();
    let tree = scene.path("tree");
    fs::create_dir_all(tree.join("d")).expect("directories");
    for name in ["d/first", "d/hit", "d/last"] {
        fs::write(tree.join(name), noise(5_000 + name.len())).expect("a file");
    }
    fs::write(tree.join("large"), noise(LARGE)).expect("a file");
    scene.done(["import", "tree", "--jobs", "2"]);
    flip_in_store(&scene, &noise(5_000 + "d/hit".len()));
    fs::remove_file(large_file(&scene)).expect("removed");
    scene
}

fn large_file(scene: &Scene) -> PathBuf {
    let is_large = |path: &PathBuf| fs::metadata(path).is_ok_and(|meta| meta.len() == LARGE as u64);
    files_below(&scene.store())
        .into_iter()
        .find(is_large)
        .expect("the large value's file")
}

/// Changes one bit where `value` stands in the store.
fn flip_in_store(scene: &Scene, value: &[u8]) {
    for path in files_below(&scene.store()) {
        let mut bytes = fs::read(&path).expect("a readable file");
        if let Some(at) = bytes.windows(64).position(|window| window == &value[..64]) {
            bytes[at + value.len() / 2] ^= 1;
            fs::write(&path, bytes).expect("written");
            return;
        }
    }
    panic!("the value is nowhere");
}

#[test]
fn check_names_each_file_and_place() {
    let scene = damaged();
    let outcome = scene.run(["check"]);
    assert_eq!(outcome.status, 1, "{outcome:?}");
    let text = outcome.stdout_text();
    assert!(
        text.contains(".seg:") && text.contains("not sound: "),
        "{text}"
    );
    assert!(text.lines().count() >= 3, "{text}");
}

#[test]
fn get_refuses_and_gives_no_wrong_byte() {
    let scene = damaged();
    scene.run(["get", "d/hit"]).assert_refused(&[".seg"]);
    scene.run(["get", "large"]).assert_refused(&[]);
    assert_eq!(
        scene.run(["get", "d/last"]).stdout,
        noise(5_000 + "d/last".len())
    );
}

#[test]
fn ls_lists_the_others() {
    let scene = damaged();
    let outcome = scene.run(["ls", "--json"]);
    let text = outcome.stdout_text();
    assert!(
        text.contains("d/first") && text.contains("d/last"),
        "{outcome:?}"
    );
}

#[test]
fn export_writes_the_others() {
    let scene = damaged();
    let outcome = scene.run(["export", "out"]);
    assert_eq!(outcome.status, 1, "{outcome:?}");
    assert!(outcome.stderr.contains("2 were left out"), "{outcome:?}");
    let (mut wanted, out) = (snapshot(&scene.path("tree")), snapshot(&scene.path("out")));
    wanted.retain(|path, _| path != b"d/hit" && path != b"large");
    assert_eq!(out, wanted);
}

#[test]
fn importing_again_mends_it() {
    let scene = damaged();
    let again = scene.done(["import", "tree", "--jobs", "2"]);
    assert!(again.contains(": 2 written, 4 unchanged"), "{again}");
    scene.done(["export", "out"]);
    assert_eq!(snapshot(&scene.path("out")), snapshot(&scene.path("tree")));
}

#[test]
fn a_damaged_answer_is_run_again() {
    let scene = Scene::new();
    let memo = [
        "memo",
        "--",
        "sh",
        "-c",
        "echo ran >> ran; printf '%04000d' 7",
    ];
    let first = scene.done(memo);
    flip_in_store(&scene, first.as_bytes());
    assert_eq!(scene.done(memo), first);
    assert_eq!(scene.done(memo), first);
    assert_eq!(
        fs::read_to_string(scene.path("ran")).expect("a file"),
        "ran\nran\n"
    );
}
