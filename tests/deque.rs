//! A deque does what a `VecDeque` does, whoever opens it, however it is opened, and whoever is killed.
//!
//! The model is a `VecDeque` that gets the same actions. Workers draw theirs from a seed, so that a killed
//! one's are drawn again here: what it leaves is the model after its last acknowledged action, or after the
//! one it was in.

mod common;

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::time::{Duration, Instant};

use common::{Dice, Job, Watch, leave, say, start};
use larder::{Cache, Deque, Error};

type Item = (u64, Vec<u8>);

#[test]
fn role_entry() {
    let Some(job) = common::job() else { return };
    match job.role.as_str() {
        "actor" => act_until_killed(&job),
        "trader" => push_and_pop(&job),
        "victim" => push_and_pop_until_killed(&job),
        role => panic!("no such role: {role}"),
    }
    leave()
}

fn open(dir: &Path) -> (Cache, Deque<Item>) {
    let cache = common::small().open(dir).expect("the store opens");
    let deque = Deque::of(&cache, "story").expect("the deque opens");
    (cache, deque)
}

// ---- the model ----

#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    items: VecDeque<Item>,
    max_len: Option<usize>,
}

impl Model {
    fn push(&mut self, is_back: bool, item: Item) {
        let max_len = self.max_len.unwrap_or(usize::MAX);
        if max_len == 0 {
            return;
        }
        while self.items.len() >= max_len {
            match is_back {
                true => self.items.pop_front(),
                false => self.items.pop_back(),
            };
        }
        match is_back {
            true => self.items.push_back(item),
            false => self.items.push_front(item),
        }
    }

    fn at(&self, index: i64) -> Option<usize> {
        let len = self.items.len() as i64;
        let index = if index < 0 { len + index } else { index };
        (0..len).contains(&index).then_some(index as usize)
    }
}

/// More elements than this are never there, so that every action is one batch.
const LEN_MAX: usize = 110;

fn item(dice: &mut Dice) -> Item {
    let len = match dice.below(30) {
        0 => 5_000, // a file of its own
        1 => 0,
        _ => dice.below(200) as usize,
    };
    (dice.below(40), dice.bytes(len))
}

/// One action, drawn from the dice, of the model and, where there is one, of the deque.
fn act(dice: &mut Dice, model: &mut Model, deque: Option<&Deque<Item>>) {
    let len = model.items.len();
    let action = match len > LEN_MAX {
        true => 30 + dice.below(16),
        false => dice.below(100),
    };
    let any =
        |dice: &mut Dice| dice.below(len as u64 + 2) as i64 - dice.below(len as u64 + 2) as i64;
    let told = "the deque answers";
    match action {
        0..30 => {
            let (is_back, item) = (action < 15, item(dice));
            if let Some(deque) = deque {
                match is_back {
                    true => deque.push_back(&item).expect(told),
                    false => deque.push_front(&item).expect(told),
                }
            }
            model.push(is_back, item);
        }
        30..46 => {
            let wanted = match action < 38 {
                true => model.items.pop_back(),
                false => model.items.pop_front(),
            };
            if let Some(deque) = deque {
                let got = match action < 38 {
                    true => deque.pop_back(),
                    false => deque.pop_front(),
                };
                assert_eq!(got.expect(told), wanted);
            }
        }
        46..54 => {
            let index = any(dice);
            let wanted = model.at(index).map(|at| model.items[at].clone());
            if let Some(deque) = deque {
                assert_eq!(deque.get(index).expect(told), wanted, "get({index})");
            }
        }
        54..58 => {
            let (index, item) = (any(dice), item(dice));
            if let Some(deque) = deque {
                let is_set = deque.set(index, &item).expect(told);
                assert_eq!(is_set, model.at(index).is_some());
            }
            if let Some(at) = model.at(index) {
                model.items[at] = item;
            }
        }
        58..68 => {
            let index = any(dice);
            let wanted = model.at(index).and_then(|at| model.items.remove(at));
            if let Some(deque) = deque {
                assert_eq!(deque.remove(index).expect(told), wanted, "remove({index})");
            }
        }
        68..72 => {
            let steps = dice.below(41) as i64 - 20;
            if let Some(deque) = deque {
                deque.rotate(steps).expect(told);
            }
            if len > 0 {
                model
                    .items
                    .rotate_right(steps.rem_euclid(len as i64) as usize);
            }
        }
        72..76 => {
            if let Some(deque) = deque {
                deque.reverse().expect(told);
            }
            model.items.make_contiguous().reverse();
        }
        76..82 => {
            let items: Vec<Item> = (0..dice.below(12)).map(|_| item(dice)).collect();
            if let Some(deque) = deque {
                let pushed = match action < 79 {
                    true => deque.extend(&items),
                    false => deque.extend_front(&items),
                };
                assert_eq!(pushed.expect(told), items.len() as u64);
            }
            for item in items {
                model.push(action < 79, item);
            }
        }
        82..85 => {
            let (by, rest) = (2 + dice.below(5), dice.below(2));
            let keep = |item: &Item| item.0 % by != rest;
            model.items.retain(keep);
            if let Some(deque) = deque {
                let removed = deque.retain(keep).expect(told);
                assert_eq!(removed as usize, len - model.items.len());
            }
        }
        85..89 => {
            // One that is there, or nearly.
            let mut value = match model.at(any(dice)) {
                Some(at) => model.items[at].clone(),
                None => item(dice),
            };
            value.0 += u64::from(dice.one_in(5));
            let position = model.items.iter().position(|item| *item == value);
            let count = model.items.iter().filter(|item| **item == value).count();
            if let Some(at) = position {
                model.items.remove(at);
            }
            if let Some(deque) = deque {
                assert_eq!(
                    deque.position(&value).expect(told),
                    position.map(|at| at as u64)
                );
                assert_eq!(deque.contains(&value).expect(told), position.is_some());
                assert_eq!(deque.count(&value).expect(told), count as u64);
                assert_eq!(deque.remove_value(&value).expect(told), position.is_some());
            }
        }
        89 => {
            model.items.clear();
            if let Some(deque) = deque {
                assert_eq!(deque.clear().expect(told), len as u64);
            }
        }
        90..92 => {
            model.max_len = (!dice.one_in(3)).then(|| dice.below(60) as usize);
            while model.items.len() > model.max_len.unwrap_or(usize::MAX) {
                model.items.pop_front();
            }
            if let Some(deque) = deque {
                let max_len = model.max_len.map(|max_len| max_len as u64);
                deque.set_max_len(max_len).expect(told);
                assert_eq!(deque.max_len().expect(told), max_len);
            }
        }
        _ => {
            if let Some(deque) = deque {
                agree(deque, model);
            }
        }
    }
}

/// Everything that can be read says the same.
fn agree(deque: &Deque<Item>, model: &Model) {
    let told = "the deque answers";
    assert_eq!(deque.len().expect(told), model.items.len() as u64);
    assert_eq!(
        deque.peek_front().expect(told).as_ref(),
        model.items.front()
    );
    assert_eq!(deque.peek_back().expect(told).as_ref(), model.items.back());
    assert_eq!(model.items, deque.to_vec().expect(told));
    let back: Vec<Item> = deque
        .iter()
        .expect(told)
        .rev()
        .map(|item| item.expect(told))
        .collect();
    assert!(back.iter().eq(model.items.iter().rev()));
    assert!(deque.equals(&model.items).expect(told));
    assert_eq!(
        deque.compare(&model.items).expect(told),
        Some(std::cmp::Ordering::Equal)
    );
    for index in 0..model.items.len() {
        let item = deque.get(index as i64).expect(told);
        assert_eq!(item.as_ref(), model.items.get(index), "index {index}");
    }
}

// ---- the stories ----

#[test]
fn it_does_what_a_vecdeque_does_however_it_is_opened() {
    let _watch = Watch::new(Duration::from_secs(120), "the model story".into());
    let mut dice = Dice::new(common::seed("deque model"));
    let dir = common::fast_dir();
    let mut model = Model::default();
    let (mut cache, mut deque) = open(dir.path());
    let (_other_cache, mut other) = open(dir.path());
    let begin = Instant::now();
    for round in 0..4_000_u32 {
        if begin.elapsed() > Duration::from_secs(8) {
            break;
        }
        match dice.below(60) {
            0 => {
                // Several at once, or none of them.
                let (mut inside, goes_on) = (model.clone(), dice.one_in(2));
                let done = cache.transact(|_| {
                    for _ in 0..dice.below(20) {
                        act(&mut dice, &mut inside, Some(&deque));
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
                agree(&deque, &model);
            }
            1 => {
                cache.maintain(&larder::Budget::default()).expect("upkeep");
            }
            2 if dice.one_in(3) => {
                drop((deque, other, _other_cache.clone()));
                (cache, deque) = open(dir.path());
                other = Deque::of(&_other_cache, "story").expect("the deque opens");
                agree(&deque, &model);
            }
            _ => {
                // Two handles take turns, as two processes would.
                let which = if dice.one_in(4) { &other } else { &deque };
                act(&mut dice, &mut model, Some(which));
            }
        }
        if round % 200 == 0 {
            common::assert_sound(&cache);
        }
    }
    agree(&deque, &model);
    common::assert_sound(&cache);
    // From the log alone.
    drop((cache, deque, other, _other_cache));
    common::forget_derived(dir.path());
    let (cache, deque) = open(dir.path());
    agree(&deque, &model);
    for _ in 0..200 {
        act(&mut dice, &mut model, Some(&deque));
    }
    agree(&deque, &model);
    common::assert_sound(&cache);
}

/// `i N` before an action and `a N` after it.
fn act_until_killed(job: &Job) {
    let (_, deque) = open(&job.store);
    let mut dice = Dice::new(job.args[0]);
    let mut model = Model {
        items: deque.to_vec().expect("to_vec").into(),
        max_len: deque
            .max_len()
            .expect("max_len")
            .map(|max_len| max_len as usize),
    };
    say("ready");
    for number in 0_u64.. {
        say(&format!("i {number}"));
        act(&mut dice, &mut model, Some(&deque));
        say(&format!("a {number}"));
    }
}

#[test]
fn a_killed_process_leaves_its_last_action_done_or_not_begun() {
    let _watch = Watch::new(Duration::from_secs(150), "the kill story".into());
    let mut dice = Dice::new(common::seed("deque kills"));
    let dir = common::fast_dir();
    let (cache, deque) = open(dir.path());
    let mut model = Model::default();
    let begin = Instant::now();
    let mut kills = 0;
    while begin.elapsed() < Duration::from_secs(8) {
        let seed = dice.roll();
        let mut worker = start("actor", dir.path(), &[seed]);
        worker.expect("ready");
        std::thread::sleep(Duration::from_micros(dice.below(60_000)));
        let lines = worker.kill();
        kills += 1;
        common::settle(&cache);
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
        let left = deque.to_vec().expect("what it left can be read");
        let max_len = deque
            .max_len()
            .expect("max_len")
            .map(|max_len| max_len as usize);
        if next.items == left && next.max_len == max_len {
            model = next;
        }
        assert_eq!(model.items, left, "after {done} actions of seed {seed}");
        assert_eq!(model.max_len, max_len);
        agree(&deque, &model);
        if dice.one_in(4) {
            common::assert_sound(&cache);
        }
    }
    assert!(kills >= 10, "{kills} kills");
    drop((cache, deque));
    common::forget_derived(dir.path());
    let (cache, deque) = open(dir.path());
    agree(&deque, &model);
    common::assert_sound(&cache);
}

/// Pushes its own numbers and pops whatever comes, at ends that its number says.
fn push_and_pop(job: &Job) {
    let (_, deque) = open(&job.store);
    let (me, count) = (job.args[0], job.args[1]);
    let mut got = Vec::new();
    say("ready");
    common::hear();
    for number in 0..count {
        let item = (me << 32 | number, vec![me as u8; 30]);
        match me % 2 {
            0 => deque.push_back(&item).expect("push"),
            _ => deque.push_front(&item).expect("push"),
        }
        if number % 8 != 0 {
            let popped = match number % 3 {
                0 => deque.pop_back(),
                _ => deque.pop_front(),
            };
            got.extend(popped.expect("pop"));
        }
        if number % 64 == 0 {
            // Others' work goes on; what is met is whole.
            for item in deque.iter().expect("iter") {
                let (name, bytes) = item.expect("an element");
                assert_eq!(bytes, vec![(name >> 32) as u8; 30]);
            }
            deque.rotate(3).expect("rotate");
        }
        if number % 100 == 0 {
            deque.reverse().expect("reverse");
        }
        if number % 16 == 0 {
            got.extend(deque.remove(2).expect("remove"));
        }
    }
    for (name, bytes) in got {
        assert_eq!(bytes.len(), 30);
        say(&format!("got {name}"));
    }
}

#[test]
fn processes_push_and_pop_and_nothing_is_lost_or_doubled() {
    let _watch = Watch::new(Duration::from_secs(120), "the traders' story".into());
    let dir = common::fast_dir();
    let (cache, deque) = open(dir.path());
    let (traders, each) = (4_u64, 1_500_u64);
    let mut workers: Vec<_> = (0..traders)
        .map(|me| start("trader", dir.path(), &[me, each]))
        .collect();
    for worker in &mut workers {
        worker.expect("ready");
    }
    for worker in &mut workers {
        worker.tell("go");
    }
    let mut seen: BTreeMap<u64, u32> = BTreeMap::new();
    for worker in workers {
        for line in worker.finish() {
            if let Some(name) = line.strip_prefix("got ") {
                *seen.entry(name.parse().expect("a number")).or_default() += 1;
            }
        }
    }
    let left = deque.to_vec().expect("to_vec");
    assert_eq!(deque.len().expect("len"), left.len() as u64);
    for (name, _) in left {
        *seen.entry(name).or_default() += 1;
    }
    assert!(
        seen.values().all(|&times| times == 1),
        "something came twice"
    );
    assert_eq!(seen.len() as u64, traders * each, "something was lost");
    common::assert_sound(&cache);
}

/// `p NAME` once a push is acknowledged, `got NAME` after a pop.
fn push_and_pop_until_killed(job: &Job) {
    let (_, deque) = open(&job.store);
    say("ready");
    for number in 0_u64.. {
        let name = job.args[0] << 32 | number;
        let item = (name, vec![1; (number % 90) as usize]);
        match number % 5 {
            0..3 => deque.push_back(&item).expect("push"),
            _ => deque.push_front(&item).expect("push"),
        }
        say(&format!("p {name}"));
        let popped = match number % 4 {
            0 => deque.pop_back(),
            1 => deque.pop_front(),
            2 => deque.remove(1),
            _ => continue,
        };
        if let Some((name, _)) = popped.expect("pop") {
            say(&format!("got {name}"));
        }
    }
}

#[test]
fn killed_processes_take_at_most_what_they_held_with_them() {
    let _watch = Watch::new(Duration::from_secs(120), "the victims' story".into());
    let mut dice = Dice::new(common::seed("deque victims"));
    let dir = common::fast_dir();
    let (cache, deque) = open(dir.path());
    let mut lives = 0;
    let mut born = |dir: &Path| {
        lives += 1;
        let mut worker = start("victim", dir, &[lives]);
        worker.expect("ready");
        worker
    };
    let mut workers: Vec<_> = (0..3).map(|_| born(dir.path())).collect();
    let (mut pushed, mut seen, mut kills) = (BTreeMap::new(), BTreeMap::new(), 0_usize);
    let begin = Instant::now();
    while !workers.is_empty() {
        std::thread::sleep(Duration::from_millis(dice.below(40)));
        let victim = workers.swap_remove(dice.below(workers.len() as u64) as usize);
        for line in victim.kill() {
            let (of, name) = match (line.strip_prefix("p "), line.strip_prefix("got ")) {
                (Some(name), _) => (&mut pushed, name),
                (_, Some(name)) => (&mut seen, name),
                _ => continue,
            };
            *of.entry(name.parse::<u64>().expect("a number"))
                .or_insert(0) += 1;
        }
        kills += 1;
        if begin.elapsed() < Duration::from_secs(5) {
            workers.push(born(dir.path()));
        }
    }
    common::settle(&cache);
    let left = deque.to_vec().expect("to_vec");
    assert_eq!(deque.len().expect("len"), left.len() as u64);
    for (name, _) in left {
        *seen.entry(name).or_insert(0) += 1;
    }
    assert!(
        seen.values().all(|&times| times == 1),
        "something came twice"
    );
    let lost = pushed
        .keys()
        .filter(|name| !seen.contains_key(name))
        .count();
    assert!(
        lost <= kills,
        "{lost} of {} lost by {kills} kills",
        pushed.len()
    );
    common::assert_sound(&cache);
}

#[test]
fn it_may_be_extended_by_itself() {
    let deque = Deque::<u32>::temporary().expect("a deque");
    deque.extend(0..2_000).expect("extend");
    let own = deque
        .iter()
        .expect("iter")
        .map(|item| item.expect("an element"));
    assert_eq!(deque.extend(own).expect("extend"), 2_000);
    assert!(deque.equals((0..2_000).chain(0..2_000)).expect("equals"));
    deque.set_max_len(Some(5)).expect("max_len");
    assert!(deque.equals(1_995..2_000).expect("equals"));
    deque.push_front(&7).expect("push");
    assert!(
        deque
            .equals([7, 1_995, 1_996, 1_997, 1_998])
            .expect("equals")
    );
    assert_eq!(deque.clear().expect("clear"), 5);
}

#[test]
fn an_iterator_ends_and_leaves_out_what_goes() {
    let deque = Deque::<u32>::temporary().expect("a deque");
    deque.extend(0..100).expect("extend");
    let mut seen = Vec::new();
    for item in deque.iter().expect("iter") {
        let item = item.expect("an element");
        seen.push(item);
        deque.push_back(&(item + 1_000)).expect("push");
        deque.push_front(&(item + 1_000)).expect("push");
        if item % 10 == 0 {
            assert!(deque.remove_value(&(item + 5)).expect("remove"));
        }
    }
    let wanted: Vec<u32> = (0..100).filter(|item| item % 10 != 5).collect();
    assert_eq!(seen, wanted);
}

#[test]
fn another_type_is_an_error_and_the_element_stays() {
    let cache = Cache::temporary().expect("a store");
    let numbers = Deque::<u32>::of(&cache, "one").expect("a deque");
    numbers.push_back(&7).expect("push");
    let words = Deque::<String>::of(&cache, "one").expect("a deque");
    assert!(matches!(words.pop_back(), Err(Error::WrongType { .. })));
    assert!(matches!(words.remove(0), Err(Error::WrongType { .. })));
    assert!(matches!(words.peek_front(), Err(Error::WrongType { .. })));
    assert_eq!(numbers.pop_back().expect("pop"), Some(7));
    // Deques of one store do not meet, nor do they meet its own entries.
    let other = Deque::<u32>::of(&cache, "two").expect("a deque");
    other.push_back(&1).expect("push");
    assert!(numbers.is_empty().expect("len") && cache.is_empty().expect("len"));
    assert_eq!(other.len().expect("len"), 1);
}

#[test]
fn a_damaged_element_is_told_and_once_repaired_the_others_are_where_they_were() {
    let dir = common::fast_dir();
    let cache = common::small().open(dir.path()).expect("the store opens");
    let deque = Deque::<String>::of(&cache, "story").expect("a deque");
    let name = |number: u32| format!("element <{number}> of them all");
    deque.extend((0..100).map(name)).expect("extend");
    deque.remove(50).expect("remove");
    cache.flush().expect("flush");
    for (lost, index) in [(0_u32, 0_i64), (30, 30), (99, -1)] {
        let mark = format!("<{lost}>").into_bytes();
        for file in common::names(dir.path())
            .iter()
            .filter(|name| common::is_log(name))
        {
            let path = dir.path().join(file);
            let bytes = std::fs::read(&path).expect("the log can be read");
            if let Some(at) = bytes.windows(mark.len()).position(|window| window == mark) {
                common::flip(&path, at as u64 * 8 + 9);
            }
        }
        let got = deque.get(index);
        assert!(matches!(got, Err(Error::Corrupt { .. })), "{lost}: {got:?}");
    }
    // At an end nothing is passed over, and nothing is guessed.
    assert!(matches!(deque.pop_back(), Err(Error::Corrupt { .. })));
    assert!(matches!(deque.pop_front(), Err(Error::Corrupt { .. })));
    let report = cache.repair().expect("repair");
    assert_eq!(report.lost.len(), 3, "{report:?}");
    let wanted: Vec<String> = (1..99)
        .filter(|number| ![30, 50].contains(number))
        .map(name)
        .collect();
    assert_eq!(deque.to_vec().expect("to_vec"), wanted);
    for (index, wanted) in (0..).zip(&wanted) {
        assert_eq!(deque.get(index).expect("get").as_ref(), Some(wanted));
    }
    deque.push_back(&name(100)).expect("push");
    deque.push_front(&name(200)).expect("push");
    assert_eq!(deque.pop_back().expect("pop"), Some(name(100)));
    assert_eq!(deque.pop_back().expect("pop"), Some(name(98)));
    assert_eq!(deque.pop_front().expect("pop"), Some(name(200)));
    assert_eq!(deque.remove(40).expect("remove").as_ref(), wanted.get(40));
    common::assert_sound(&cache);
}

#[test]
fn who_may_only_read_reads_and_changes_nothing() {
    let dir = common::fast_dir();
    {
        let (_, deque) = open(dir.path());
        deque
            .extend((0..200).map(|number| (number, vec![7; 9])))
            .expect("extend");
        deque.remove(100).expect("remove");
        deque.reverse().expect("reverse");
    }
    let cache = Cache::builder()
        .read_only(true)
        .open(dir.path())
        .expect("it opens");
    let deque = Deque::<Item>::of(&cache, "story").expect("the deque is there");
    let wanted: Vec<u64> = (0..200).rev().filter(|&number| number != 100).collect();
    let names = |items: Vec<Item>| items.into_iter().map(|item| item.0).collect::<Vec<_>>();
    assert_eq!(names(deque.to_vec().expect("to_vec")), wanted);
    for (index, &wanted) in (0..).zip(&wanted) {
        assert_eq!(
            deque.get(index).expect("get").map(|item| item.0),
            Some(wanted)
        );
    }
    assert!(matches!(deque.pop_front(), Err(Error::ReadOnly { .. })));
    assert!(matches!(deque.reverse(), Err(Error::ReadOnly { .. })));
    assert!(matches!(
        Deque::<Item>::of(&cache, "none"),
        Err(Error::ReadOnly { .. })
    ));
}

#[test]
fn readers_see_every_change_whole() {
    let cache = Cache::temporary().expect("a store");
    let deque = Deque::<u64>::of(&cache, "story").expect("a deque");
    deque.extend(0..60).expect("extend");
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let own = deque.clone();
            let mut looks = 0_u64;
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) || looks < 100 {
                // However it is turned, there are sixty, at every moment.
                assert_eq!(own.len().expect("len"), 60);
                let first = own.peek_front().expect("peek").expect("there is one");
                assert!(first < 60);
                let last = own.get(59).expect("get").expect("there is one");
                assert!(last < 60);
                assert!(own.get(60).expect("get").is_none());
                looks += 1;
            }
        });
        let begin = Instant::now();
        let mut steps = 0;
        while begin.elapsed() < Duration::from_secs(1) {
            steps += 1;
            match steps % 4 {
                0 => deque.reverse().expect("reverse"),
                1 => deque.rotate(7).expect("rotate"),
                2 => deque.rotate(-20).expect("rotate"),
                _ => cache
                    .transact(|_| {
                        let item = deque.pop_back()?.expect("there is one");
                        deque.push_front(&item)
                    })
                    .expect("a change"),
            }
        }
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        reader.join().expect("the reader saw nothing wrong");
    });
    let mut all = deque.to_vec().expect("to_vec");
    all.sort_unstable();
    assert!(all.into_iter().eq(0..60));
}

#[test]
fn any_index_is_found_among_thousands_that_were_removed() {
    let mut dice = Dice::new(common::seed("deque holes"));
    let cache = Cache::temporary().expect("a store");
    let deque = Deque::<u32>::of(&cache, "story").expect("a deque");
    let mut model: VecDeque<u32> = (0..9_000).collect();
    deque.extend(0..9_000).expect("extend");
    // Stretches, so that whole nodes of counters fill up and empty again.
    let gone = |number: &u32| number % 700 < 300 || number % 11 == 3;
    model.retain(|number| !gone(number));
    deque.retain(|number| !gone(number)).expect("retain");
    for round in 0..1_500_u32 {
        let at = dice.below(model.len() as u64) as usize;
        match dice.below(8) {
            0 => assert_eq!(deque.remove(at as i64).expect("remove"), model.remove(at)),
            1 => assert_eq!(deque.pop_back().expect("pop"), model.pop_back()),
            2 => assert_eq!(deque.pop_front().expect("pop"), model.pop_front()),
            3 if dice.one_in(4) => {
                deque.push_front(&round).expect("push");
                model.push_front(round);
            }
            4 if dice.one_in(20) => {
                deque.rotate(300).expect("rotate");
                model.rotate_right(300);
            }
            _ => assert_eq!(deque.get(at as i64).expect("get"), model.get(at).copied()),
        }
    }
    assert!(deque.equals(&model).expect("equals"));
    while let Some(number) = deque.pop_front().expect("pop") {
        assert_eq!(Some(number), model.pop_front());
    }
    assert!(model.is_empty() && deque.is_empty().expect("len"));
    common::assert_sound(&cache);
}

#[test]
fn a_lost_list_of_taken_numbers_gives_no_space_to_two() {
    let dir = common::fast_dir();
    {
        let cache = common::small().open(dir.path()).expect("it works");
        let deque = Deque::<u64>::of(&cache, "a").expect("it works");
        deque.extend(0..10).expect("it works");
    }
    for entry in std::fs::read_dir(dir.path()).expect("it works") {
        let path = entry.expect("it works").path();
        if path.extension().is_some_and(|e| e == "seg") {
            let mut bytes = std::fs::read(&path).expect("it works");
            let spots: Vec<usize> = (0..bytes.len() - 6)
                .filter(|&at| &bytes[at..at + 6] == b"spaces")
                .collect();
            println!("{path:?}: {spots:?}");
            for at in spots {
                bytes[at + 6] ^= 0x55;
                bytes[at + 7] ^= 0x55;
            }
            std::fs::write(&path, bytes).expect("it works");
        }
    }
    let cache = common::small().open(dir.path()).expect("it works");
    println!(
        "{:?}",
        larder::Index::<u64, u64>::of(&cache, "b")
            .map(drop)
            .map_err(|e| e.to_string())
    );
    println!("{:?}", cache.repair().map(|r| format!("{r:?}")));
    let index = larder::Index::<u64, u64>::of(&cache, "b").expect("it works");
    let second = Deque::<u64>::of(&cache, "c").expect("it works");
    assert_eq!(
        (
            index.len().expect("it works"),
            second.len().expect("it works")
        ),
        (0, 0)
    );
    second.push_back(&77).expect("it works");
    index.insert(&5, &5).expect("it works");
    assert_eq!(
        Deque::<u64>::of(&cache, "a")
            .expect("it works")
            .to_vec()
            .expect("it works"),
        (0..10).collect::<Vec<u64>>()
    );
}
