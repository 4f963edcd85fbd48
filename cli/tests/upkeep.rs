//! A store that is told to stay small does: by tag, by time, by number, by quota; what is dead is given
//! back, and what is alive stays whole.

mod support;
#[allow(dead_code, reason = "pictures of trees are for other stories")]
mod trees;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use support::{Outcome, Scene, files_below};
use trees::noise;

/// A tree of 200 files of 20 kB, every fourth a program, imported: 4 MB of values.
fn imported() -> Scene {
    let scene = Scene::new();
    fs::create_dir(scene.path("tree")).expect("a directory");
    for number in 0..200_usize {
        let path = scene.path("tree").join(number.to_string());
        fs::write(&path, noise(20_000 + number)).expect("a file");
        let mode = if number % 4 == 0 { 0o755 } else { 0o644 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("a file's mode");
    }
    fs::set_permissions(scene.path("tree"), fs::Permissions::from_mode(0o700)).expect("a mode");
    scene.done(["import", "tree", "--jobs", "2"]);
    scene
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).expect("JSON")
}

fn stats(scene: &Scene) -> serde_json::Value {
    json(&scene.done(["stats", "--json"]))
}

/// The store's bytes on disk, as `du` counts them.
fn disk_bytes(scene: &Scene) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let blocks = |path: &std::path::PathBuf| path.metadata().expect("a file").blocks();
    files_below(&scene.store()).iter().map(blocks).sum::<u64>() * 512
}

fn set_many(scene: &Scene, count: u32, tag: &str) {
    for number in 0..count {
        scene.done(["set", &format!("{tag}/{number:03}"), "v", "--tag", tag]);
    }
}

#[test]
fn what_was_imported_and_evicted_by_tag_gives_its_bytes_back() {
    let scene = imported();
    let tags = scene.done(["tags"]);
    assert!(tags.contains("mode:0644  150 entries, "), "{tags}");
    assert!(tags.contains("mode:0755  50 entries, "), "{tags}");
    let full = disk_bytes(&scene);
    assert!(full > 4_000_000, "{full}");

    assert_eq!(scene.done(["evict", "mode:0644"]), "150 entries removed\n");
    scene.run(["get", "1"]).assert_no();
    assert_eq!(stats(&scene)["evicted"], 150);
    let said = scene.done(["compact"]);
    assert!(said.contains(" bytes given back; "), "{said}");
    let left = disk_bytes(&scene);
    assert!(left < full / 2, "{full} became {left}");
    assert!(scene.done(["compact"]).starts_with("nothing to do; "));

    assert!(scene.done(["check"]).starts_with("sound: 51 entries"));
    for number in (0..200_usize).step_by(4) {
        let value = scene.run(["get", &number.to_string()]).stdout;
        assert!(value == noise(20_000 + number), "{number}");
    }
}

#[test]
fn several_tags_mean_any_or_all_of_them() {
    let scene = Scene::new();
    for (key, tags) in [
        ("ab", &["a", "b"][..]),
        ("a", &["a"]),
        ("b", &["b"]),
        ("c", &["c"]),
        ("none", &[]),
    ] {
        let mut args = vec!["set", key, "v"];
        for tag in tags {
            args.extend(["--tag", *tag]);
        }
        scene.done(args);
    }
    assert_eq!(
        scene.done(["evict", "--all", "a", "b"]),
        "1 entries removed\n"
    );
    assert_eq!(scene.done(["ls"]), "a\nb\nc\nnone\n");
    // Nobody has all of them.
    assert_eq!(
        scene.done(["evict", "a", "nobody", "--all"]),
        "0 entries removed\n"
    );
    assert_eq!(
        json(&scene.done(["evict", "a", "b", "nobody", "--json"])),
        serde_json::json!({"entries": 2})
    );
    assert_eq!(scene.done(["evict", "nobody"]), "0 entries removed\n");
    assert_eq!(scene.done(["ls"]), "c\nnone\n");
}

#[test]
fn tags_are_any_bytes() {
    let scene = Scene::new();
    scene.done(["set", "k", "v", "--escaped", "--tag", "a\\x0ab\\\\"]);
    let listed = scene.done(["tags"]);
    assert!(listed.starts_with("a\\x0ab\\\\  1 entries, "), "{listed}");
    let line = json(&scene.done(["tags", "--json"]));
    assert_eq!(line["name"], "a\\x0ab\\\\");
    assert_eq!(line["entries"], 1);
    assert_eq!(line["bytes"], stats(&scene)["volume_bytes"]);
    assert_eq!(line["quota_bytes"], serde_json::Value::Null);
    assert_eq!(scene.done(["evict", "a\nb\\"]), "1 entries removed\n");
    assert_eq!(scene.done(["tags"]), "");
}

#[test]
fn what_has_expired_is_removed_when_asked() {
    let scene = Scene::new();
    for key in ["one", "two", "three"] {
        scene.done(["set", key, "v", "--ttl", "300ms"]);
    }
    scene.done(["set", "later", "v", "--ttl", "1h"]);
    scene.done(["set", "never", "v"]);
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!(stats(&scene)["entries"], 5);
    let said = scene.done(["expire"]);
    assert!(said.starts_with("3 entries had expired; "), "{said}");
    let after = stats(&scene);
    assert_eq!(
        (&after["entries"], &after["expired"]),
        (&2.into(), &3.into())
    );
    assert_eq!(json(&scene.done(["expire", "--json"]))["expired"], 0);
    assert_eq!(scene.done(["ls"]), "later\nnever\n");
}

#[test]
fn a_sliding_entry_lives_while_it_is_read() {
    let scene = Scene::new();
    scene.done(["set", "read", "v", "--ttl", "2s", "--sliding"]);
    scene.done(["set", "left", "v", "--ttl", "2s", "--sliding"]);
    for _ in 0..3 {
        std::thread::sleep(Duration::from_secs(1));
        scene.done(["get", "read"]);
    }
    scene.run(["get", "left"]).assert_no();
    assert!(scene.done(["expire"]).starts_with("1 entries had expired"));
    assert_eq!(scene.done(["ls"]), "read\n");
}

#[test]
fn a_quota_bounds_its_tag_and_no_other() {
    let scene = Scene::new();
    set_many(&scene, 20, "job");
    set_many(&scene, 5, "other");
    let listed = json(
        scene
            .done(["tags", "--json"])
            .lines()
            .next()
            .expect("a tag"),
    );
    let each = listed["bytes"].as_u64().expect("a number") / 20;
    let quota = each * 10;

    let said = scene.done(["quota", "job", &quota.to_string()]);
    assert_eq!(
        said,
        format!("job: 10 entries, {quota} bytes of at most {quota}\n")
    );
    // The oldest have gone, of the same tag, and go with each write.
    let jobs = |scene: &Scene| scene.done(["ls", "--tag", "job"]);
    assert!(jobs(&scene).starts_with("job/010\njob/011\n"));
    scene.done(["set", "job/new", "v", "--tag", "job"]);
    assert!(jobs(&scene).starts_with("job/011\njob/012\n"));
    assert!(jobs(&scene).ends_with("job/019\njob/new\n"));
    for number in 100..140 {
        scene.done(["set", &format!("job/{number}"), "v", "--tag", "job"]);
    }
    let last: String = (130..140).map(|number| format!("job/{number}\n")).collect();
    assert_eq!(jobs(&scene), last);
    let others = scene.done(["ls", "--tag", "other"]);
    assert_eq!(others.lines().count(), 5);

    let said = scene.done(["quota", "job", "none"]);
    assert!(said.ends_with(" bytes, no quota\n"), "{said}");
    set_many(&scene, 20, "job");
    assert!(jobs(&scene).lines().count() > 20);
}

#[test]
fn a_quota_may_come_before_the_entries() {
    let scene = Scene::new();
    assert_eq!(
        scene.done(["quota", "job", "1KiB"]),
        "job: 0 entries, 0 bytes of at most 1024\n"
    );
    let line = json(&scene.done(["tags", "--json"]));
    assert_eq!(line["quota_bytes"], 1_024);
    set_many(&scene, 40, "job");
    let line = json(&scene.done(["tags", "--json"]));
    assert!(line["bytes"].as_u64() <= Some(1_024), "{line}");
    assert!(line["entries"].as_u64() > Some(10), "{line}");
}

#[test]
fn a_count_limit_holds_and_cull_catches_up() {
    let scene = Scene::new();
    set_many(&scene, 30, "t");
    // Writes may not evict: only who is asked to does.
    scene.done(["settings", "cull_limit=0", "count_limit=10"]);
    scene.done(["set", "one more", "v"]);
    assert_eq!(stats(&scene)["entries"], 31);
    let said = scene.done(["cull"]);
    assert!(said.starts_with("21 entries evicted; "), "{said}");
    assert_eq!(json(&scene.done(["cull", "--json"]))["culled"], 0);

    scene.done(["settings", "cull_limit=none"]);
    set_many(&scene, 20, "u");
    let now = stats(&scene);
    assert_eq!((&now["entries"], &now["culled"]), (&10.into(), &41.into()));
    assert_eq!(scene.run(["get", "u/019"]).stdout, b"v");
}

#[test]
fn the_settings_of_limits_are_shown_and_refused_by_name() {
    let scene = Scene::new();
    let shown = scene.done(["settings"]);
    for line in [
        "policy=s3-fifo",
        "count_limit=none",
        "max_age=never",
        "cull_limit=none",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line}: {shown}");
    }
    scene.done(["settings", "policy=cost-aware", "max_age=1d"]);
    let shown = scene.done(["settings"]);
    assert!(shown.contains("policy=cost-aware\n"), "{shown}");
    assert!(shown.contains("max_age=1d\n"), "{shown}");
    scene
        .run(["settings", "policy=fifo"])
        .assert_refused(&["policy", "least-recently-used"]);
    scene
        .run(["settings", "count_limit=0"])
        .assert_refused(&["count_limit"]);
}

#[test]
fn what_hits_save_and_what_writing_costs_is_counted() {
    let scene = Scene::new();
    scene.done(["settings"]);
    let none = scene.done(["stats"]);
    assert!(
        none.lines().any(|line| line == "write_amplification  none"),
        "{none}"
    );
    scene.done(["set", "dear", "v", "--cost", "2.5"]);
    scene.done(["get", "dear"]);
    scene.done(["get", "dear"]);
    let now = stats(&scene);
    assert_eq!(now["seconds_saved"], 5.0);
    assert!(now["write_amplification"].as_f64() >= Some(1.0), "{now}");
    for name in [
        "bytes_logged",
        "bytes_kept",
        "bytes_freed",
        "expired",
        "culled",
        "evicted",
    ] {
        assert!(now[name].is_u64(), "{name}: {now}");
    }
}

#[test]
fn maintain_ends_with_its_budget_or_its_work() {
    let scene = imported();
    scene.done(["evict", "mode:0644"]);
    let said = json(&scene.done(["maintain", "--time", "0s", "--json"]));
    assert_eq!(said["expired"], 0, "{said}");
    let said = json(&scene.done(["maintain", "--time", "1m", "--bytes", "64MiB", "--json"]));
    assert_eq!(said["is_over"], true, "{said}");
    assert_eq!(said["disk_usage_bytes"], stats(&scene)["disk_usage_bytes"]);
    assert!(scene.done(["maintain"]).starts_with("nothing to do; "));
    assert_eq!(scene.run(["check"]).status, 0);
}

#[test]
fn an_interrupted_compaction_leaves_every_entry_whole() {
    let scene = imported();
    let count = |tag: &str| scene.done(["ls", "--tag", tag]).lines().count();
    assert_eq!(count("mode:0755"), 50);
    for turn in 0..6_u64 {
        // Something to do each time: half of the files again.
        scene.done(["evict", "mode:0644"]);
        scene.done(["import", "tree", "--jobs", "1"]);
        let mut command = scene.command(["compact"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().expect("larder runs");
        std::thread::sleep(Duration::from_millis(turn * 3));
        let pid = Pid::from_child(&child);
        // It may be through already.
        let _ = kill_process(pid, Signal::INT);
        let outcome = Outcome::of(child.wait_with_output().expect("larder ends"));
        assert!([0, -1].contains(&outcome.status), "{outcome:?}");
    }
    assert!(scene.done(["check"]).starts_with("sound: 201 entries"));
    scene.done(["compact"]);
    for number in 0..200_usize {
        let value = scene.run(["get", &number.to_string()]).stdout;
        assert!(value == noise(20_000 + number), "{number}");
    }
}

#[test]
fn words_that_make_no_sense_are_refused_and_make_no_store() {
    let scene = Scene::new();
    let cases: [(&[&str], &str); 15] = [
        (&["evict"], "TAG"),
        (&["evict", "--all"], "TAG"),
        (&["evict", "t", "--escaped", "a\\b"], "backslash"),
        (&["quota", "t"], "BYTES"),
        (&["quota", "t", "much"], "much"),
        (&["quota", "t", "0"], "evict"),
        (&["quota", "t", "1", "2"], "'2'"),
        (&["tags", "t"], "'t'"),
        (&["compact", "now"], "now"),
        (&["maintain", "--time", "soon"], "soon"),
        (&["maintain", "--bytes", "64MB"], "64MB"),
        (&["set", "k", "v", "--sliding"], "--ttl"),
        (&["set", "k", "v", "--cost", "-1"], "-1"),
        (&["set", "k", "v", "--cost", "nan"], "nan"),
        (&["cull", "--limit", "3"], "--limit"),
    ];
    for (args, word) in cases {
        scene.run(args).assert_refused(&[word]);
        assert!(!scene.has_store(), "{args:?} made a store");
    }
}

#[test]
fn where_there_is_no_store_there_is_nothing_to_make_smaller() {
    let scene = Scene::new();
    let cases: [&[&str]; 7] = [
        &["evict", "t"],
        &["tags"],
        &["quota", "t", "none"],
        &["expire"],
        &["cull"],
        &["compact"],
        &["maintain"],
    ];
    for args in cases {
        scene.run(args).assert_refused(&["store"]);
        assert!(!scene.has_store(), "{args:?} made a store");
    }
}

#[test]
fn read_only_nothing_is_removed() {
    let scene = Scene::new();
    set_many(&scene, 3, "t");
    let cases: [&[&str]; 6] = [
        &["evict", "t"],
        &["quota", "t", "1KiB"],
        &["expire"],
        &["cull"],
        &["compact"],
        &["maintain"],
    ];
    for args in cases {
        let args = [&["--read-only"], args].concat();
        scene.run(args).assert_refused(&["--read-only"]);
    }
    let listed = scene.done(["--read-only", "tags"]);
    assert!(listed.starts_with("t  3 entries, "), "{listed}");
}
