//! An index does what an ordered map does, whoever opens it, however it is opened, and whoever is killed.
//!
//! The model is a vector of pairs. Workers draw their actions from a seed, so that a killed one's are drawn
//! again here: what it leaves is the model after its last acknowledged action, or after the one it was in.

mod common;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::time::{Duration, Instant};

use common::{Dice, Job, Watch, leave, say, start};
use larder::{Error, Index, Side};

type Story = Index<String, Vec<u8>>;

#[test]
fn role_entry() {
    let Some(job) = common::job() else { return };
    match job.role.as_str() {
        "actor" => act_until_killed(&job),
        "puller" => push_and_pull(&job),
        role => panic!("no such role: {role}"),
    }
    leave()
}

fn open(dir: &Path) -> Story {
    let cache = common::small().open(dir).expect("the store opens");
    Index::of(&cache, "story").expect("the index opens")
}

// ---- the model ----

#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    pairs: Vec<(String, Vec<u8>)>,
    /// Keys that were pushed.
    queue: Vec<String>,
}

impl Model {
    fn at(&self, key: &str) -> Option<usize> {
        self.pairs.iter().position(|(one, _)| one == key)
    }

    fn insert(&mut self, key: String, value: Vec<u8>) {
        match self.at(&key) {
            Some(at) => self.pairs[at].1 = value,
            None => self.pairs.push((key, value)),
        }
    }

    fn remove(&mut self, key: &str) -> Option<(String, Vec<u8>)> {
        self.queue.retain(|one| one != key);
        self.at(key).map(|at| self.pairs.remove(at))
    }
}

fn key(dice: &mut Dice) -> String {
    match dice.below(12) {
        0 => format!("q-{:015}", 500_000_000_000_000 + dice.below(6) - 3),
        1 => String::new(),
        number => format!("key {}", number * 10 + dice.below(10)),
    }
}

fn value(dice: &mut Dice) -> Vec<u8> {
    let len = if dice.one_in(30) {
        5_000
    } else {
        dice.below(200) as usize
    };
    dice.bytes(len)
}

/// One action, drawn from the dice, of the model and, where there is one, of the index.
fn act(dice: &mut Dice, model: &mut Model, index: Option<&Story>) {
    let told = "the index answers";
    match dice.below(100) {
        0..30 => {
            let (key, value) = (key(dice), value(dice));
            let old = model.at(&key).map(|at| model.pairs[at].1.clone());
            if let Some(index) = index {
                match dice_free(&key) {
                    true => index.insert(&key, &value).expect(told),
                    false => assert_eq!(index.replace(&key, &value).expect(told), old),
                }
            }
            model.insert(key, value);
        }
        30..42 => {
            let key = key(dice);
            let wanted = model.remove(&key).map(|(_, value)| value);
            if let Some(index) = index {
                match dice_free(&key) {
                    true => assert_eq!(index.remove(&key).expect(told), wanted),
                    false => assert_eq!(index.delete(&key).expect(told), wanted.is_some()),
                }
            }
        }
        42..50 => {
            let key = key(dice);
            let wanted = model.at(&key).map(|at| model.pairs[at].1.clone());
            if let Some(index) = index {
                assert_eq!(index.contains_key(&key).expect(told), wanted.is_some());
                assert_eq!(index.get(&key).expect(told), wanted);
            }
        }
        50..56 => {
            let (key, value) = (key(dice), value(dice));
            if model.at(&key).is_none() {
                model.insert(key.clone(), value.clone());
            }
            let wanted = model.at(&key).map(|at| model.pairs[at].1.clone());
            if let Some(index) = index {
                let got = index.get_or_insert_with(&key, || value).expect(told);
                assert_eq!(Some(got), wanted);
            }
        }
        56..64 => {
            let is_first = dice.one_in(2);
            let pair = match is_first {
                true => model.pairs.first(),
                false => model.pairs.last(),
            };
            let wanted = pair
                .map(|(key, _)| key.clone())
                .and_then(|key| model.remove(&key));
            if let Some(index) = index {
                let got = match is_first {
                    true => index.pop_first(),
                    false => index.pop_last(),
                };
                assert_eq!(got.expect(told), wanted);
            }
        }
        64..72 => {
            let key = key(dice);
            let at = model.at(&key);
            if let Some(at) = at {
                let pair = model.pairs.remove(at);
                model.pairs.push(pair);
            }
            if let Some(index) = index {
                assert_eq!(index.move_to_end(&key).expect(told), at.is_some());
            }
        }
        72..76 => {
            let pairs: Vec<_> = (0..dice.below(12))
                .map(|_| (key(dice), value(dice)))
                .collect();
            if let Some(index) = index {
                let pairs = pairs.iter().map(|(key, value)| (key, value));
                index.extend(pairs).expect(told);
            }
            for (key, value) in pairs {
                model.insert(key, value);
            }
        }
        76..84 => {
            let (value, is_back) = (value(dice), dice.one_in(2));
            let key = model.next_key(is_back);
            model.insert(key.clone(), value.clone());
            match is_back {
                true => model.queue.push(key.clone()),
                false => model.queue.insert(0, key.clone()),
            }
            if let Some(index) = index {
                let side = if is_back { Side::Back } else { Side::Front };
                assert_eq!(index.push(Some("q"), &value, side).expect(told), key);
            }
        }
        84..92 => {
            let is_back = dice.one_in(2);
            let key = match is_back {
                true => model.queue.last(),
                false => model.queue.first(),
            };
            let wanted = key.cloned().and_then(|key| model.remove(&key));
            if let Some(index) = index {
                let side = if is_back { Side::Back } else { Side::Front };
                assert_eq!(index.pull(Some("q"), side).expect(told), wanted);
            }
        }
        92 => {
            if dice.one_in(3) {
                let len = model.pairs.len() as u64;
                model.pairs.clear();
                model.queue.clear();
                if let Some(index) = index {
                    assert_eq!(index.clear().expect(told), len);
                }
            }
        }
        _ => {
            if let Some(index) = index {
                agree(index, model);
            }
        }
    }
}

/// Which of two verbs is used for a key, always the same one.
fn dice_free(key: &str) -> bool {
    key.len().is_multiple_of(2)
}

impl Model {
    fn next_key(&self, is_back: bool) -> String {
        let number = |key: &String| key["q-".len()..].parse::<u64>().expect("a number");
        let name = |number: u64| format!("q-{number:015}");
        let mut next = match (is_back, self.queue.first(), self.queue.last()) {
            (true, _, Some(last)) => number(last) + 1,
            (false, Some(first), _) => number(first) - 1,
            _ => 500_000_000_000_000,
        };
        // Keys inserted by hand are in the way.
        while self.at(&name(next)).is_some() {
            next = if is_back { next + 1 } else { next - 1 };
        }
        name(next)
    }
}

/// Everything that can be read says the same.
fn agree(index: &Story, model: &Model) {
    let told = "the index answers";
    let pairs: Vec<_> = index
        .iter()
        .expect(told)
        .map(|pair| pair.expect(told))
        .collect();
    assert_eq!(pairs, model.pairs);
    let mut back: Vec<_> = index
        .iter()
        .expect(told)
        .rev()
        .map(|pair| pair.expect(told))
        .collect();
    back.reverse();
    assert_eq!(back, model.pairs);
    let keys: Vec<_> = index
        .keys()
        .expect(told)
        .map(|key| key.expect(told))
        .collect();
    let values: Vec<_> = index
        .values()
        .expect(told)
        .map(|value| value.expect(told))
        .collect();
    assert_eq!(
        keys.into_iter().zip(values).collect::<Vec<_>>(),
        model.pairs
    );
    assert_eq!(index.len().expect(told), model.pairs.len() as u64);
    assert_eq!(index.first().expect(told).as_ref(), model.pairs.first());
    assert_eq!(index.last().expect(told).as_ref(), model.pairs.last());
    let hashed: HashMap<_, _> = model.pairs.iter().cloned().collect();
    let sorted: BTreeMap<_, _> = model.pairs.iter().cloned().collect();
    assert!(index.equals(&hashed).expect(told) && index.equals(&sorted).expect(told));
    let ordered = || model.pairs.iter().map(|(key, value)| (key, value));
    assert!(index.equals_in_order(ordered()).expect(told));
    assert_eq!(
        index.equals_in_order(ordered().rev()).expect(told),
        model.pairs.len() < 2
    );
}

// ---- the stories ----

#[test]
fn it_does_what_an_ordered_map_does_however_it_is_opened() {
    let _watch = Watch::new(Duration::from_secs(120), "the model story".into());
    let mut dice = Dice::new(common::seed("index model"));
    let dir = common::fast_dir();
    let mut model = Model::default();
    let (mut index, mut other) = (open(dir.path()), open(dir.path()));
    let begin = Instant::now();
    for round in 0..4_000_u32 {
        if begin.elapsed() > Duration::from_secs(7) {
            break;
        }
        match dice.below(60) {
            0 => {
                let (mut inside, goes_on) = (model.clone(), dice.one_in(2));
                let done = index.cache().transact(|_| {
                    for _ in 0..dice.below(20) {
                        act(&mut dice, &mut inside, Some(&index));
                    }
                    match goes_on {
                        true => Ok(()),
                        false => Err(Error::Aborted { what: "no".into() }),
                    }
                });
                assert_eq!(done.is_ok(), goes_on, "{done:?}");
                if goes_on {
                    model = inside;
                }
                agree(&index, &model);
            }
            1 => {
                let budget = larder::Budget::default();
                index.cache().maintain(&budget).expect("upkeep");
            }
            2 if dice.one_in(3) => {
                drop((index, other));
                if dice.one_in(2) {
                    common::forget_derived(dir.path());
                }
                (index, other) = (open(dir.path()), open(dir.path()));
                agree(&index, &model);
            }
            _ => {
                let which = if dice.one_in(4) { &other } else { &index };
                act(&mut dice, &mut model, Some(which));
            }
        }
        if round % 200 == 0 {
            common::assert_sound(index.cache());
        }
    }
    agree(&index, &model);
    assert!(index.equals_index(&other).expect("equals"));
    common::assert_sound(index.cache());
}

/// `i N` before an action and `a N` after it.
fn act_until_killed(job: &Job) {
    let index = open(&job.store);
    let mut dice = Dice::new(job.args[0]);
    let mut model = Model::default();
    for pair in index.iter().expect("iter") {
        model.pairs.push(pair.expect("a pair"));
    }
    // Which keys were pushed is told by the test.
    for name in common::hear().split_whitespace().skip(1) {
        model.queue.push(name.to_owned());
    }
    say("ready");
    for number in 0_u64.. {
        say(&format!("i {number}"));
        act(&mut dice, &mut model, Some(&index));
        say(&format!("a {number}"));
    }
}

#[test]
fn a_killed_process_leaves_its_last_action_done_or_not_begun() {
    let _watch = Watch::new(Duration::from_secs(150), "the kill story".into());
    let mut dice = Dice::new(common::seed("index kills"));
    let dir = common::fast_dir();
    let index = open(dir.path());
    let mut model = Model::default();
    let begin = Instant::now();
    let mut kills = 0;
    while begin.elapsed() < Duration::from_secs(7) {
        let seed = dice.roll();
        let mut worker = start("actor", dir.path(), &[seed]);
        worker.tell(&format!("queue {}", model.queue.join(" ")));
        worker.expect("ready");
        std::thread::sleep(Duration::from_micros(dice.below(60_000)));
        let lines = worker.kill();
        kills += 1;
        common::settle(index.cache());
        let last = |tag: &str| {
            let said = lines.iter().rev().find_map(|line| line.strip_prefix(tag));
            said.map_or(0, |number| number.parse::<u64>().expect("a number") + 1)
        };
        let (begun, done) = (last("i "), last("a "));
        let mut again = Dice::new(seed);
        for _ in 0..done {
            act(&mut again, &mut model, None);
        }
        let mut next = model.clone();
        if begun > done {
            act(&mut again, &mut next, None);
        }
        let left: Vec<_> = index
            .iter()
            .expect("iter")
            .map(|pair| pair.expect("a pair"))
            .collect();
        if next.pairs == left {
            model = next;
        }
        assert_eq!(model.pairs, left, "after {done} actions of seed {seed}");
        agree(&index, &model);
        if dice.one_in(4) {
            common::assert_sound(index.cache());
        }
    }
    assert!(kills >= 10, "{kills} kills");
}

/// Pushes its own numbers and pulls whatever comes.
fn push_and_pull(job: &Job) {
    let index = open(&job.store);
    let (me, count) = (job.args[0], job.args[1]);
    for number in 0..count {
        let side = if number % 2 == 0 {
            Side::Back
        } else {
            Side::Front
        };
        let value = (me << 32 | number).to_le_bytes().to_vec();
        index
            .push(None.or(Some("line")), &value, side)
            .expect("push");
        if number % 4 != 0 {
            let (_, value) = index
                .pull(Some("line"), side)
                .expect("pull")
                .expect("there is one");
            let name = u64::from_le_bytes(value.try_into().expect("a number"));
            say(&format!("got {name}"));
        }
        // One winner each.
        let key = format!("key {number}");
        let first = index
            .get_or_insert_with(&key, || me.to_le_bytes().to_vec())
            .expect("get_or_insert_with");
        if first == me.to_le_bytes() {
            say(&format!("won {number}"));
        }
    }
}

#[test]
fn processes_share_it_and_nothing_is_lost_or_doubled() {
    let _watch = Watch::new(Duration::from_secs(120), "the pullers' story".into());
    let dir = common::fast_dir();
    let index = open(dir.path());
    let (pullers, each) = (4_u64, 800_u64);
    let workers: Vec<_> = (0..pullers)
        .map(|me| start("puller", dir.path(), &[me, each]))
        .collect();
    let mut seen = BTreeSet::new();
    let mut winners = 0;
    for worker in workers {
        for line in worker.finish() {
            if let Some(name) = line.strip_prefix("got ") {
                assert!(
                    seen.insert(name.parse::<u64>().expect("a number")),
                    "{name} twice"
                );
            }
            winners += u64::from(line.starts_with("won "));
        }
    }
    while let Some((_, value)) = index.pull(Some("line"), Side::Front).expect("pull") {
        let name = u64::from_le_bytes(value.try_into().expect("a number"));
        assert!(seen.insert(name), "{name} twice");
    }
    assert_eq!(seen.len() as u64, pullers * each, "something was lost");
    assert_eq!(winners, each, "each key has one first value");
    assert_eq!(index.len().expect("len"), each);
    common::assert_sound(index.cache());
}

#[test]
fn a_key_that_cannot_be_is_refused_before_anything_is_stored() {
    let numbers = Index::<u64, u32>::temporary().expect("an index");
    assert!(matches!(
        numbers.push(Some("a"), &1, Side::Back),
        Err(Error::InvalidKey { .. })
    ));
    assert!(numbers.is_empty().expect("len"));
    let key = numbers.push(None, &1, Side::Back).expect("push");
    assert_eq!(key, 500_000_000_000_000);
    // By hand: in the way, and never pulled.
    numbers.insert(&(key + 1), &7).expect("insert");
    assert_eq!(numbers.push(None, &2, Side::Back).expect("push"), key + 2);
    assert_eq!(
        numbers.pull(None, Side::Front).expect("pull"),
        Some((key, 1))
    );
    assert_eq!(
        numbers.pull(None, Side::Front).expect("pull"),
        Some((key + 2, 2))
    );
    assert_eq!(numbers.pull(None, Side::Front).expect("pull"), None);
    assert_eq!(numbers.get(&(key + 1)).expect("get"), Some(7));
}
