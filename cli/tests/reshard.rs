//! A store in several shards is divided anew from the shell, and no other command mistakes it.

mod support;

use larder::{Cache, Fanout};
use support::Scene;

#[test]
fn a_divided_store_is_divided_anew() {
    let scene = Scene::new();
    let fanout = Cache::builder()
        .open_fanout(scene.store(), 2)
        .expect("a fanout");
    for number in 0..100 {
        fanout
            .set(format!("key {number}"), number.to_string())
            .expect("set");
    }
    drop(fanout);
    let said = scene.done(["reshard", "3"]);
    assert_eq!(said, "3 shards instead of 2; 100 entries copied\n");
    assert_eq!(scene.done(["reshard", "3"]), "it has 3 shards already\n");
    let said = scene.done(["reshard", "1", "--json"]);
    let said: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!((&said["before"], &said["after"]), (&3.into(), &1.into()));
    let fanout = Fanout::open(scene.store()).expect("a fanout");
    assert_eq!(fanout.shards(), 1);
    let value = fanout.get("key 7").expect("get").expect("there");
    assert_eq!(value, "7");
}

#[test]
fn wrong_use_is_said_and_changes_nothing() {
    let scene = Scene::new();
    for number in ["0", "257", "x", "-1"] {
        assert_eq!(scene.run(["reshard", number]).status, 2, "{number}");
    }
    // There is none, and none is made.
    assert_eq!(scene.run(["reshard", "2"]).status, 2);
    assert!(!scene.has_store());
    drop(
        Cache::builder()
            .open_fanout(scene.store(), 2)
            .expect("a fanout"),
    );
    let outcome = scene.run(["--read-only", "reshard", "3"]);
    assert_eq!(outcome.status, 2, "{outcome:?}");
    // The other commands are about stores that are not divided.
    for command in [&["set", "k", "v"][..], &["ls"], &["check"], &["settings"]] {
        let outcome = scene.run(command);
        outcome.assert_refused(&["several shards"]);
    }
    // And one that is not divided is not.
    let plain = Scene::new();
    plain.done(["set", "k", "v"]);
    let outcome = plain.run(["reshard", "2"]);
    assert_eq!(outcome.status, 2, "{outcome:?}");
    assert_eq!(plain.done(["get", "k"]), "v");
}
