//! A typed coat gives back what it was given, in the order of its keys, and never garbage.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use larder::{Cache, Codec, Error, Expiry, Json, Key, KeyPart, Raw, Result, SetOptions, Typed};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Plan {
    floors: u8,
    rooms: Vec<String>,
    area: Option<f64>,
}

fn plan(floors: u8) -> Plan {
    Plan {
        floors,
        rooms: vec!["kitchen".to_owned(); floors.into()],
        area: Some(0.1),
    }
}

fn store() -> Cache {
    Cache::temporary().expect("a temporary store")
}

fn plain() -> SetOptions {
    SetOptions::default()
}

fn decode_failures(cache: &Cache) -> u64 {
    cache.stats(false).expect("stats").decode_failures
}

fn all<T>(items: impl Iterator<Item = Result<T>>) -> Vec<T> {
    items.collect::<Result<_>>().expect("every item")
}

#[test]
fn what_is_set_is_got() -> Result<()> {
    let plans = store().typed::<String, Plan>().named("plan/v1");
    assert_eq!(plans.get("house")?, None);
    plans.set("house", &plan(2))?;
    assert_eq!(plans.get("house")?, Some(plan(2)));
    assert_eq!(plans.get(&"house".to_owned())?, Some(plan(2)));
    assert!(plans.contains("house")?);
    assert_eq!(plans.pop("house")?, Some(plan(2)));
    assert_eq!(plans.pop("house")?, None);
    assert!(!plans.contains("house")?);
    Ok(())
}

#[test]
fn an_entry_carries_its_expiry_tags_and_times() -> Result<()> {
    let plans = store().typed::<String, Plan>();
    let options = plain().ttl(Duration::from_secs(60)).tag("building");
    plans.set_with("house", &plan(2), &options)?;
    let entry = plans.get_entry("house")?.expect("an entry");
    assert_eq!(entry.value, plan(2));
    assert_eq!(entry.tags, [b"building"]);
    assert!(entry.expires_at > Some(SystemTime::now()));
    assert!(entry.stored_at <= entry.expires_at.expect("an expiry"));

    assert!(plans.touch("house", Expiry::Never)?);
    assert_eq!(
        plans.get_entry("house")?.expect("an entry").expires_at,
        None
    );
    assert!(!plans.touch("barn", Expiry::Never)?);
    assert!(plans.get_entry("barn")?.is_none());
    Ok(())
}

#[test]
fn conditional_writes_see_what_is_there() -> Result<()> {
    let plans = store().typed::<u32, Plan>();
    assert!(!plans.replace(&7, &plan(1), &plain())?);
    assert!(plans.add(&7, &plan(1), &plain())?);
    assert!(!plans.add(&7, &plan(2), &plain())?);
    assert!(plans.replace(&7, &plan(2), &plain())?);
    assert_eq!(plans.get(&7)?, Some(plan(2)));

    assert!(!plans.compare_and_swap(&7, Some(&plan(1)), Some(&plan(3)), &plain())?);
    assert!(!plans.compare_and_swap(&7, None, Some(&plan(3)), &plain())?);
    assert!(plans.compare_and_swap(&7, Some(&plan(2)), Some(&plan(3)), &plain())?);
    assert_eq!(plans.get(&7)?, Some(plan(3)));
    assert!(plans.compare_and_swap(&7, Some(&plan(3)), None, &plain())?);
    assert!(plans.compare_and_swap(&7, None, Some(&plan(4)), &plain())?);
    assert!(plans.delete(&7)?);
    assert!(!plans.delete(&7)?);
    Ok(())
}

#[test]
fn many_are_set_and_got_at_once() -> Result<()> {
    let plans = store().typed::<String, Plan>();
    let town: BTreeMap<String, Plan> = (1..=9)
        .map(|floors| (format!("house {floors}"), plan(floors)))
        .collect();
    assert_eq!(plans.set_many(&town, &plain())?, 9);
    assert_eq!(
        plans.get_many(["house 3", "barn", "house 1"])?,
        [Some(plan(3)), None, Some(plan(1))]
    );
    assert_eq!(
        plans.get_many(town.keys())?,
        town.values().cloned().map(Some).collect::<Vec<_>>()
    );
    Ok(())
}

#[test]
fn every_codec_gives_back_what_it_was_given() -> Result<()> {
    let cache = store();
    let plans = cache.typed::<String, Plan>().with_codec::<Json>();
    plans.set("json", &plan(2))?;
    assert_eq!(plans.get("json")?, Some(plan(2)));

    let texts = cache.typed::<String, String>().with_codec::<Raw>();
    texts.set("raw", &"as it is".to_owned())?;
    assert_eq!(texts.get("raw")?.as_deref(), Some("as it is"));
    let mut key = Vec::new();
    "raw".encode(&mut key)?;
    assert_eq!(cache.get(&key)?.as_deref(), Some(&b"as it is"[..]));

    let nots = cache.typed::<String, bool>().with_codec::<Not>();
    nots.set("not", &true)?;
    assert_eq!(nots.get("not")?, Some(true));
    Ok(())
}

/// A user's codec: a bool upside down.
struct Not;

impl Codec<bool> for Not {
    const ID: u8 = 200;
    const NAME: &'static str = "not";

    fn encode(value: &bool, out: &mut Vec<u8>) -> Result<()> {
        out.push(u8::from(!value));
        Ok(())
    }

    fn decode(bytes: &[u8]) -> Result<bool> {
        match bytes {
            [0] => Ok(true),
            [1] => Ok(false),
            _ => Err(Error::Codec {
                what: "neither 0 nor 1".to_owned(),
            }),
        }
    }
}

#[test]
fn another_type_codec_or_kind_is_an_error_and_counted() -> Result<()> {
    let cache = store();
    let plans = cache.typed::<String, Plan>().named("plan/v1");
    plans.set("plan", &plan(2))?;
    let mut key = Vec::new();
    "plan".encode(&mut key)?;

    let refused = |answer: Result<()>, expected: &str, found: &str| match answer {
        Err(Error::WrongType {
            expected: e,
            found: f,
        }) => assert_eq!((e.as_str(), f.as_str()), (expected, found)),
        other => panic!("{other:?} instead of {found} for {expected}"),
    };
    let got = |answer: Result<Option<Plan>>| answer.map(drop);

    let renamed = plans.clone().named("plan/v2");
    refused(
        got(renamed.get("plan")),
        "bincode of plan/v2",
        "bincode of another type",
    );
    let json = plans.clone().with_codec::<Json>();
    refused(got(json.get("plan")), "json of plan/v1", "bincode");
    assert!(matches!(
        cache.typed::<String, u8>().get("plan"),
        Err(Error::WrongType { .. })
    ));
    refused(
        renamed.get_entry("plan").map(drop),
        "bincode of plan/v2",
        "bincode of another type",
    );
    refused(
        renamed.get_many(["plan"]).map(drop),
        "bincode of plan/v2",
        "bincode of another type",
    );
    assert_eq!(decode_failures(&cache), 5);

    // What cannot be read is not taken away either.
    refused(
        got(renamed.pop("plan")),
        "bincode of plan/v2",
        "bincode of another type",
    );
    assert_eq!(decode_failures(&cache), 6);
    assert_eq!(plans.get("plan")?, Some(plan(2)));

    // A value of another type is no expected value.
    assert!(!renamed.compare_and_swap("plan", Some(&plan(2)), None, &plain())?);

    cache.set(&key, "bytes")?;
    refused(got(plans.get("plan")), "bincode of plan/v1", "plain bytes");
    cache.set_number(&key, 5, &plain())?;
    refused(got(plans.get("plan")), "bincode of plan/v1", "a number");
    assert_eq!(decode_failures(&cache), 8);
    assert!(
        plans.contains("plan")?,
        "whether something is there does not depend on its type"
    );

    plans.set("plan", &plan(3))?;
    assert_eq!(plans.get("plan")?, Some(plan(3)));
    assert_eq!(decode_failures(&cache), 8);
    Ok(())
}

#[test]
fn bytes_that_are_no_value_are_an_error_and_counted() -> Result<()> {
    let cache = store();
    let pairs = cache.typed::<u8, (u8, u8)>().named("pair");
    let alone = cache.typed::<u8, u8>().named("pair"); // the name lies
    alone.set(&1, &7)?;
    assert!(matches!(pairs.get(&1), Err(Error::Codec { .. })));
    pairs.set(&2, &(7, 8))?;
    assert!(
        matches!(alone.get(&2), Err(Error::Codec { .. })),
        "bytes left over"
    );
    assert_eq!(decode_failures(&cache), 2);
    Ok(())
}

#[test]
fn what_cannot_be_written_changes_nothing() -> Result<()> {
    let cache = store();
    let by_number = cache
        .typed::<f64, BTreeMap<(u8, u8), u8>>()
        .with_codec::<Json>();
    by_number.set(&0.5, &BTreeMap::new())?;
    assert!(matches!(
        by_number.set(&f64::NAN, &BTreeMap::new()),
        Err(Error::InvalidKey { .. })
    ));
    assert!(matches!(
        by_number.get(&f64::NAN),
        Err(Error::InvalidKey { .. })
    ));
    let no_json = BTreeMap::from([((1, 2), 3)]);
    assert!(matches!(
        by_number.set(&0.5, &no_json),
        Err(Error::Codec { .. })
    ));
    assert_eq!(by_number.get(&0.5)?, Some(BTreeMap::new()));
    assert_eq!(decode_failures(&cache), 0);
    Ok(())
}

#[test]
fn numbers_are_one_key_whatever_their_type() -> Result<()> {
    let cache = store();
    cache.typed::<i32, String>().set(&1, &"one".to_owned())?;
    assert_eq!(
        cache.typed::<u64, String>().get(&1)?.as_deref(),
        Some("one")
    );
    assert_eq!(
        cache.typed::<f64, String>().get(&1.0)?.as_deref(),
        Some("one")
    );
    assert_eq!(cache.typed::<(i32,), String>().get(&(1,))?, None);
    assert_eq!(cache.typed::<String, String>().get("1")?, None);
    assert_eq!(cache.typed::<bool, String>().get(&true)?, None);
    Ok(())
}

#[test]
fn keys_come_in_insertion_order_or_their_own() -> Result<()> {
    let years = store().typed::<i64, String>();
    let inserted = [1999, -44, 476, -1_000_000, 1 << 60, (1 << 60) + 1, 0];
    for year in inserted {
        years.set(&year, &format!("the year {year}"))?;
    }
    let mut sorted = inserted;
    sorted.sort_unstable();

    assert_eq!(all(years.keys()?), inserted);
    assert_eq!(all(years.iter()?.map(|item| Ok(item?.0))), inserted);
    assert_eq!(
        all(years.iter()?.rev().map(|item| Ok(item?.0))),
        inserted.iter().rev().copied().collect::<Vec<_>>()
    );
    assert_eq!(
        all(years.iter_sorted()?),
        sorted.map(|year| (year, format!("the year {year}")))
    );
    let years_in = |range| -> Result<Vec<i64>> {
        Ok(all(years
            .range::<i64, (_, _)>(range)?
            .map(|item| Ok(item?.0))))
    };
    use std::ops::Bound::{Excluded, Included, Unbounded};
    assert_eq!(years_in((Unbounded, Unbounded))?, sorted);
    assert_eq!(years_in((Included(-44), Excluded(1999)))?, [-44, 0, 476]);
    assert_eq!(years_in((Excluded(-44), Included(1999)))?, [0, 476, 1999]);
    assert_eq!(years_in((Excluded(1 << 60), Unbounded))?, [(1 << 60) + 1]);
    assert_eq!(
        all(years.range(..0)?.rev().map(|item| Ok(item?.0))),
        [-44, -1_000_000]
    );
    Ok(())
}

#[test]
fn borrowed_parts_look_up_what_owned_parts_stored() -> Result<()> {
    let cache = store();
    let owned: Typed<(String, u32), u8> = cache.typed();
    let borrowed: Typed<(&str, u32), u8> = cache.typed();
    for (page, name) in [(2, "b"), (1, "b"), (1, "a"), (9, "a\0")] {
        owned.set(&(name.to_owned(), page), &7)?;
    }
    let name = String::from("b");
    assert_eq!(borrowed.get(&(name.as_str(), 1))?, Some(7));
    let pages = all(borrowed.range(("a", 1)..=("b", 1))?.map(|item| Ok(item?.0)));
    assert_eq!(
        pages,
        [
            ("a".to_owned(), 1),
            ("a\0".to_owned(), 9),
            ("b".to_owned(), 1)
        ]
    );
    Ok(())
}

#[test]
fn what_is_not_of_the_view_is_an_error_among_the_others() -> Result<()> {
    let cache = store();
    let texts = cache.typed::<u8, String>();
    texts.set(&1, &"one".to_owned())?;
    cache.typed::<u8, u64>().set(&2, &2)?;
    cache
        .typed::<String, String>()
        .set("three", &"three".to_owned())?;
    cache.set("a byte key", "bytes")?;
    texts.set(&5, &"five".to_owned())?;

    let items: Vec<_> = texts.iter()?.collect();
    assert_eq!(items.len(), 5);
    assert!(matches!(&items[0], Ok((1, one)) if one == "one"));
    assert!(matches!(items[1], Err(Error::WrongType { .. })));
    assert!(matches!(items[2], Err(Error::InvalidKey { .. })));
    assert!(matches!(items[3], Err(Error::InvalidKey { .. })));
    assert!(matches!(&items[4], Ok((5, five)) if five == "five"));
    assert_eq!(decode_failures(&cache), 1, "keys are not decoded values");
    Ok(())
}

#[test]
fn keys_of_several_shapes_share_one_order() -> Result<()> {
    let things = store().typed::<KeyPart<'_>, u8>();
    let order = [
        KeyPart::Null,
        KeyPart::Bool(false),
        KeyPart::Bool(true),
        KeyPart::Float(f64::NEG_INFINITY),
        KeyPart::Int(-1),
        KeyPart::Float(0.5),
        KeyPart::Uint(u64::MAX),
        KeyPart::Text("".into()),
        KeyPart::Text("é".into()),
        KeyPart::Bytes(b"".as_slice().into()),
        KeyPart::Bytes(b"\xff".as_slice().into()),
        KeyPart::Tuple(vec![]),
        KeyPart::Tuple(vec![KeyPart::Int(1)]),
    ];
    for key in order.iter().rev() {
        things.set(key, &0)?;
    }
    assert_eq!(all(things.iter_sorted()?.map(|item| Ok(item?.0))), order);
    Ok(())
}

#[test]
fn views_are_sent_and_shared() {
    fn sendable<T: Send + Sync + Clone>(_: &T) {}
    sendable(&store().typed::<String, std::rc::Rc<()>>());
}

/// Any key, nested up to three deep, of few enough values that some are equal or nearly so.
fn any_key() -> impl Strategy<Value = KeyPart<'static>> {
    let near =
        |whole: i64| (whole.saturating_sub(2)..=whole.saturating_add(2)).prop_map(KeyPart::Int);
    let leaf = prop_oneof![
        Just(KeyPart::Null),
        any::<bool>().prop_map(KeyPart::Bool),
        any::<i64>().prop_map(KeyPart::Int),
        any::<u64>().prop_map(KeyPart::Uint),
        near(0),
        near(1 << 53),
        near(-(1 << 62)),
        near(i64::MIN),
        near(i64::MAX),
        any::<i64>().prop_map(|whole| KeyPart::Float(whole as f64)),
        any::<u64>()
            .prop_map(f64::from_bits)
            .prop_filter("NaN is no key", |float| !float.is_nan())
            .prop_map(KeyPart::Float),
        "[\0\u{1}a\u{ff}\u{10ffff}]{0,4}".prop_map(|text| KeyPart::Text(text.into())),
        any::<String>().prop_map(|text| KeyPart::Text(text.into())),
        prop::collection::vec(prop_oneof![Just(0), Just(1), Just(0xFF), any::<u8>()], 0..6)
            .prop_map(|bytes| KeyPart::Bytes(bytes.into())),
    ];
    leaf.prop_recursive(3, 12, 4, |part| {
        prop::collection::vec(part, 0..4).prop_map(KeyPart::Tuple)
    })
}

fn encoded(key: &(impl Key + ?Sized)) -> Vec<u8> {
    let mut bytes = Vec::new();
    key.encode(&mut bytes).expect("a key");
    bytes
}

/// The order of keys, told without their encoding.
fn compare(left: &KeyPart<'_>, right: &KeyPart<'_>) -> std::cmp::Ordering {
    use KeyPart::{Bool, Bytes, Float, Int, Null, Text, Tuple, Uint};
    let rank = |part: &KeyPart<'_>| match part {
        Null => 0,
        Bool(_) => 1,
        Int(_) | Uint(_) | Float(_) => 2,
        Text(_) => 3,
        Bytes(_) => 4,
        Tuple(_) => 5,
    };
    let whole = |part: &KeyPart<'_>| match part {
        Int(int) => Some(i128::from(*int)),
        Uint(uint) => Some(i128::from(*uint)),
        _ => None,
    };
    match (left, right) {
        (Bool(a), Bool(b)) => a.cmp(b),
        (Text(a), Text(b)) => a.chars().cmp(b.chars()),
        (Bytes(a), Bytes(b)) => a.cmp(b),
        (Tuple(a), Tuple(b)) => {
            let differing = a
                .iter()
                .zip(b)
                .map(|(a, b)| compare(a, b))
                .find(|order| order.is_ne());
            differing.unwrap_or(a.len().cmp(&b.len()))
        }
        (Float(a), Float(b)) => a.partial_cmp(b).expect("no NaN"),
        (Float(float), _) if let Some(whole) = whole(right) => compare_float(*float, whole),
        (_, Float(float)) if let Some(whole) = whole(left) => {
            compare_float(*float, whole).reverse()
        }
        _ if let (Some(a), Some(b)) = (whole(left), whole(right)) => a.cmp(&b),
        _ => rank(left).cmp(&rank(right)),
    }
}

/// Every whole number here is less than 2^65 from zero, so a float beyond is compared by its sign.
fn compare_float(float: f64, whole: i128) -> std::cmp::Ordering {
    if float.abs() > 1e30 {
        return float.total_cmp(&0.0);
    }
    (float.floor() as i128)
        .cmp(&whole)
        .then_with(|| (float.fract() != 0.0).cmp(&false))
}

/// What a key is read back as.
fn canonical(key: &KeyPart<'static>) -> KeyPart<'static> {
    match key {
        KeyPart::Uint(uint) => i64::try_from(*uint).map_or(KeyPart::Uint(*uint), KeyPart::Int),
        KeyPart::Float(float) if float.fract() == 0.0 && float.abs() < 1e30 => {
            let whole = *float as i128;
            if let Ok(int) = i64::try_from(whole) {
                KeyPart::Int(int)
            } else if let Ok(uint) = u64::try_from(whole) {
                KeyPart::Uint(uint)
            } else {
                KeyPart::Float(*float)
            }
        }
        KeyPart::Tuple(parts) => KeyPart::Tuple(parts.iter().map(canonical).collect()),
        other => other.clone(),
    }
}

proptest! {
    #[test]
    fn encodings_are_ordered_as_keys_are(left in any_key(), right in any_key()) {
        prop_assert_eq!(encoded(&left).cmp(&encoded(&right)), compare(&left, &right));
    }

    #[test]
    fn numbers_are_ordered_exactly(left: i64, right: u64, float: f64) {
        for (a, b) in [
            (KeyPart::Int(left), KeyPart::Uint(right)),
            (KeyPart::Int(left), KeyPart::Float(left as f64)),
            (KeyPart::Uint(right), KeyPart::Float(right as f64)),
            (KeyPart::Uint(right), KeyPart::Float((right as f64).next_up())),
            (KeyPart::Int(left), KeyPart::Float(float)),
        ] {
            prop_assert_eq!(encoded(&a).cmp(&encoded(&b)), compare(&a, &b), "{:?} and {:?}", a, b);
        }
    }

    #[test]
    fn keys_come_back(key in any_key()) {
        prop_assert_eq!(KeyPart::decode(&encoded(&key)).expect("canonical"), canonical(&key));
    }

    #[test]
    fn keys_of_rust_types_come_back(key: (String, Vec<u8>, Option<i64>, (u64, f32), [u8; 3], bool)) {
        type Shape = (String, Vec<u8>, Option<i64>, (u64, f32), [u8; 3], bool);
        prop_assert_eq!(Shape::decode(&encoded(&key)).expect("canonical"), key);
    }

    #[test]
    fn random_bytes_are_refused_or_canonical(
        bytes in prop::collection::vec(
            prop_oneof![
                prop::sample::select(&[0x00, 0x10, 0x20, 0x21, 0x30, 0x40, 0x50, 0x60, 0xFF, 0x43, 0xC3][..]),
                any::<u8>(),
            ],
            0..24,
        )
    ) {
        if let Ok(key) = KeyPart::decode(&bytes) {
            prop_assert_eq!(encoded(&key), bytes);
        }
    }

    #[test]
    fn changed_keys_are_refused_or_canonical(key in any_key(), at: prop::sample::Index, byte: u8) {
        let mut bytes = encoded(&key);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(key) = KeyPart::decode(&bytes) {
            prop_assert_eq!(encoded(&key), bytes);
        }
    }
}
