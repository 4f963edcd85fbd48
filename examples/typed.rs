//! Keys and values of Rust types: a tuple finds a struct, and keys keep the tuple's order.

use larder::{Cache, Error, Json};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Reading {
    celsius: f64,
    note: Option<String>,
}

fn main() -> larder::Result<()> {
    let cache = Cache::temporary()?;
    // (station, hour) → reading. The name stays when the type moves to another module.
    let readings = cache.typed::<(String, u32), Reading>().named("reading/v1");

    let cold = Reading {
        celsius: -4.5,
        note: Some("frost".into()),
    };
    let mild = Reading {
        celsius: 9.0,
        note: None,
    };
    let at = |station: &str, hour: u32| (station.to_owned(), hour);
    readings.set(&at("north", 10), &mild)?;
    readings.set(&at("north", 9), &cold)?;
    readings.set(&at("south", 8), &mild)?;
    assert_eq!(readings.get(&at("north", 9))?, Some(cold.clone()));

    // The keys' encoding keeps their order: hour 9 before hour 10.
    let morning = readings.range(at("north", 0)..at("north", 24))?;
    let morning = morning.collect::<larder::Result<Vec<_>>>()?;
    assert_eq!(
        morning,
        [(at("north", 9), cold), (at("north", 10), mild.clone())]
    );
    for ((station, hour), reading) in &morning {
        println!("{station} at {hour}: {reading:?}");
    }

    // What one codec wrote another never misreads.
    let as_json = cache
        .typed::<(String, u32), Reading>()
        .named("reading/v1")
        .with_codec::<Json>();
    let refused = as_json
        .get(&at("south", 8))
        .expect_err("written by another codec");
    assert!(matches!(refused, Error::WrongType { .. }));
    println!("refused: {refused}");

    // A codec others can read.
    as_json.set(&at("south", 8), &mild)?;
    assert_eq!(as_json.get(&at("south", 8))?, Some(mild));
    cache.close()
}
