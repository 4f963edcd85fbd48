//! Every example runs to its end by itself, says something, and leaves nothing behind.
//!
//! Examples are built with the tests; those that need a feature are run when it is on.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// However busy the machine is.
const PATIENCE: Duration = Duration::from_secs(120);

/// The sources of the examples, by name.
fn sources() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut sources: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("the examples")
        .map(|entry| entry.expect("an example").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect();
    sources.sort();
    sources
}

/// Where the examples are built: beside the folder of this test.
fn built(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    let profile = test.ancestors().nth(2).expect("the profile's folder");
    profile.join("examples").join(name)
}

/// Whether the manifest asks for a feature before it builds the example.
fn needs_feature(name: &str) -> bool {
    let manifest = include_str!("../Cargo.toml");
    manifest.split("[[example]]").skip(1).any(|part| {
        part.contains(&format!("name = \"{name}\"")) && part.contains("required-features")
    })
}

#[test]
fn every_example_runs() {
    let mut ran = 0;
    for source in sources() {
        let name = source
            .file_stem()
            .and_then(|name| name.to_str())
            .expect("a name");
        if needs_feature(name) && !cfg!(feature = "tokio") {
            println!("{name}: skipped, its feature is off");
            continue;
        }
        let program = built(name);
        assert!(
            program.exists(),
            "{} is not built: run all tests of the package, or `cargo build --examples`",
            program.display()
        );
        let dir = common::work_dir();
        let start = Instant::now();
        let mut child = Command::new(program)
            .env("TMPDIR", dir.path())
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the example starts");
        while child.try_wait().expect("wait").is_none() {
            if start.elapsed() > PATIENCE {
                let _ = child.kill();
                panic!("{name} does not end");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let output = child.wait_with_output().expect("its output");
        let said = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{name}: {}\n{said}\n{errors}",
            output.status
        );
        assert!(!said.trim().is_empty(), "{name} says nothing");
        let left = common::names(dir.path());
        assert!(left.is_empty(), "{name} leaves {left:?} behind");
        ran += 1;
    }
    println!("{ran} examples");
    assert!(ran >= 6, "only {ran} examples ran");
}
