//! A queue and a reference queue get the same random calls, by two handles and a second process that is
//! killed now and then, with reopening and lost derived files in between; they agree after each.

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::{Dice, Job as Task, Worker, hear, leave, say, seed, start};
use larder::{Cache, Clock, Job, LeaseId, ManualClock, PushOptions, Queue, Raw};

type Bytes = Queue<Vec<u8>, Raw>;

const BEGIN_MS: u64 = 1_700_000_000_000;
const MAX_ATTEMPTS: u32 = 3;

#[test]
fn role_entry() {
    let Some(task) = common::job() else { return };
    obey(&task);
    leave()
}

fn open(dir: &Path, clock: &Arc<ManualClock>) -> (Cache, Bytes) {
    let clock: Arc<dyn Clock> = clock.clone();
    let cache = common::small().clock(clock).open(dir);
    let cache = cache.expect("the store opens");
    let queue = Queue::of(&cache, "jobs").expect("the queue opens");
    (cache, queue.with_codec())
}

// ---- the reference ----

#[derive(Clone, Debug, PartialEq)]
enum State {
    Waiting { due_ms: u64 },
    Leased { until_ms: u64, holder: usize },
    Dead,
}

#[derive(Clone, Debug)]
struct Entry {
    payload: Vec<u8>,
    priority: i32,
    key: Option<u64>,
    attempts: u32,
    state: State,
}

/// Jobs in the order in which they were pushed.
#[derive(Default)]
struct Model {
    jobs: BTreeMap<u64, Entry>,
    ids: BTreeMap<u64, u64>,
    next: u64,
}

impl Model {
    fn push(&mut self, entry: Entry) -> u64 {
        self.next += 1;
        self.jobs.insert(self.next, entry);
        self.next
    }

    fn at(&self, id: u64) -> u64 {
        self.ids[&id]
    }

    fn with_key(&self, key: u64) -> Option<u64> {
        let named = |entry: &&Entry| entry.key == Some(key) && entry.state != State::Dead;
        let found = self.jobs.iter().find(|(_, entry)| named(entry));
        found.map(|(&at, _)| at)
    }

    fn release(&mut self, at: u64, due_ms: u64) {
        let entry = self.jobs.get_mut(&at).expect("a job");
        if entry.attempts >= MAX_ATTEMPTS {
            (entry.state, entry.key) = (State::Dead, None);
        } else {
            entry.state = State::Waiting { due_ms };
        }
    }

    /// What a look for work takes back first.
    fn take_back(&mut self, now_ms: u64) {
        let over = |entry: &Entry| matches!(entry.state, State::Leased { until_ms, .. } if until_ms <= now_ms);
        let all: Vec<u64> = self
            .jobs
            .iter()
            .filter(|job| over(job.1))
            .map(|job| *job.0)
            .collect();
        for at in all {
            self.release(at, now_ms);
        }
    }

    fn lease(&mut self, now_ms: u64, until_ms: u64, holder: usize) -> Option<u64> {
        self.take_back(now_ms);
        let ready =
            |entry: &Entry| matches!(entry.state, State::Waiting { due_ms } if due_ms <= now_ms);
        let next = self.jobs.iter().filter(|job| ready(job.1));
        let at = next.max_by_key(|(at, entry)| (entry.priority, std::cmp::Reverse(**at)));
        let at = *at?.0;
        let entry = self.jobs.get_mut(&at).expect("a job");
        entry.state = State::Leased { until_ms, holder };
        entry.attempts += 1;
        Some(at)
    }

    fn forget_holder(&mut self, holder: usize, now_ms: u64) {
        let its = |entry: &Entry| matches!(entry.state, State::Leased { holder: who, .. } if who == holder);
        let all: Vec<u64> = self
            .jobs
            .iter()
            .filter(|job| its(job.1))
            .map(|job| *job.0)
            .collect();
        for at in all {
            self.release(at, now_ms);
        }
    }

    fn counts(&self, now_ms: u64) -> (u64, u64, u64) {
        let count = |is: &dyn Fn(&State) -> bool| {
            self.jobs.values().filter(|entry| is(&entry.state)).count() as u64
        };
        let flying =
            count(&|state| matches!(state, State::Leased { until_ms, .. } if *until_ms > now_ms));
        let dead = count(&|state| *state == State::Dead);
        (self.jobs.len() as u64 - flying - dead, flying, dead)
    }
}

// ---- the second process ----

/// Does as it is told, line by line: `push PRIORITY LEN SEED`, `lease NOW_MS VISIBILITY_MS`.
fn obey(task: &Task) {
    let clock = Arc::new(ManualClock::new(BEGIN_MS));
    let (_cache, queue) = open(&task.store, &clock);
    say("ready");
    loop {
        let line = hear();
        let words: Vec<&str> = line.split(' ').collect();
        let number = |n: usize| words[n].parse::<i64>().expect("a number");
        match words[0] {
            "push" => {
                let options = PushOptions::default().priority(number(1) as i32);
                let payload = Dice::new(number(3) as u64).bytes(number(2) as usize);
                let (id, _) = queue.push_with(&payload, &options).expect("push");
                say(&format!("id {id}"));
            }
            "lease" => {
                clock.set(number(1) as u64);
                let visibility = Duration::from_millis(number(2) as u64);
                match queue.lease(visibility).expect("lease") {
                    None => say("none"),
                    Some(job) => {
                        say(&format!("job {} {}", job.lease_id(), job.attempts()));
                        // Its lease goes with this process, not with the guard.
                        std::mem::forget(job);
                    }
                }
            }
            other => panic!("no such word: {other}"),
        }
    }
}

// ---- the story ----

/// The number of the second process among those who hold leases.
const OTHER: usize = 9;

struct Story {
    dir: tempfile::TempDir,
    clock: Arc<ManualClock>,
    now_ms: u64,
    handles: Vec<Option<(Cache, Bytes)>>,
    jobs: BTreeMap<u64, (usize, Job<Vec<u8>>)>,
    leases: BTreeMap<u64, LeaseId>,
    other: Option<Worker>,
    model: Model,
    dice: Dice,
}

impl Story {
    fn queue(&mut self, handle: usize) -> &Bytes {
        let open = || open(self.dir.path(), &self.clock);
        &self.handles[handle].get_or_insert_with(open).1
    }

    fn other(&mut self) -> &mut Worker {
        self.other.get_or_insert_with(|| {
            let mut worker = start("obey", self.dir.path(), &[]);
            worker.expect("ready");
            worker
        })
    }

    fn payload(&mut self) -> (u64, usize, Vec<u8>) {
        let len = match self.dice.below(12) {
            0 => 6_000, // in a file of its own
            1 => 0,
            _ => self.dice.below(200) as usize,
        };
        let seed = self.dice.below(1 << 40);
        (seed, len, Dice::new(seed).bytes(len))
    }

    fn push(&mut self, handle: usize) {
        let (seed, len, payload) = self.payload();
        let priority = [0, 0, 0, 1, -1, 7][self.dice.below(6) as usize];
        if self.dice.one_in(4) {
            let other = self.other();
            other.tell(&format!("push {priority} {len} {seed}"));
            let id: u64 = other.expect("id").parse().expect("a number");
            return self.pushed(id, payload, priority, 0, None);
        }
        let delay_ms = if self.dice.one_in(3) {
            self.dice.below(2_000)
        } else {
            0
        };
        let key = self.dice.one_in(4).then(|| self.dice.below(6));
        let mut options = PushOptions::default()
            .priority(priority)
            .delay(Duration::from_millis(delay_ms));
        if let Some(key) = key {
            options = options.key(key.to_le_bytes());
        }
        let (id, is_new) = self
            .queue(handle)
            .push_with(&payload, &options)
            .expect("push");
        match key.and_then(|key| self.model.with_key(key)) {
            Some(at) => {
                assert!(!is_new, "the key is in use");
                assert_eq!(self.model.at(id), at, "which job has the key");
            }
            None => {
                assert!(is_new, "the key is free");
                let due_ms = if delay_ms == 0 {
                    0
                } else {
                    self.now_ms + delay_ms
                };
                self.pushed(id, payload, priority, due_ms, key);
            }
        }
    }

    fn push_many(&mut self, handle: usize) {
        let count = self.dice.below(20);
        let payloads: Vec<Vec<u8>> = (0..count).map(|_| self.payload().2).collect();
        let options = PushOptions::default().priority(if self.dice.one_in(3) { 2 } else { 0 });
        let priority = if format!("{options:?}").contains("priority: 2") {
            2
        } else {
            0
        };
        let ids = self
            .queue(handle)
            .push_many(payloads.clone(), &options)
            .expect("pushes");
        for (id, payload) in ids.into_iter().zip(payloads) {
            self.pushed(id, payload, priority, 0, None);
        }
    }

    fn pushed(&mut self, id: u64, payload: Vec<u8>, priority: i32, due_ms: u64, key: Option<u64>) {
        let at = self.model.push(Entry {
            payload,
            priority,
            key,
            attempts: 0,
            state: State::Waiting { due_ms },
        });
        assert!(
            self.model.ids.insert(id, at).is_none(),
            "job {id} was there before"
        );
    }

    fn lease(&mut self, handle: usize) {
        if self.dice.one_in(5) {
            let visibility_ms = self.dice.below(3_000) + 1;
            let (now_ms, until_ms) = (self.now_ms, self.now_ms + visibility_ms);
            let other = self.other();
            other.tell(&format!("lease {now_ms} {visibility_ms}"));
            let said = other.hear();
            let expected = self.model.lease(now_ms, until_ms, OTHER);
            let words: Vec<&str> = said.split(' ').collect();
            let Some(at) = expected else {
                assert_eq!(said, "none");
                return;
            };
            assert_eq!(words[0], "job", "the model leases job {at}");
            let lease: LeaseId = words[1].parse().expect("a lease");
            assert_eq!(self.model.at(lease.job()), at, "which job is next");
            assert_eq!(words[2], self.model.jobs[&at].attempts.to_string());
            self.leases.insert(at, lease);
            return;
        }
        self.lease_here(handle);
    }

    fn lease_here(&mut self, handle: usize) {
        let visibility_ms = self.dice.below(3_000) + 1;
        let (now_ms, until_ms) = (self.now_ms, self.now_ms + visibility_ms);
        let most = if self.dice.one_in(4) { 5 } else { 1 };
        let visibility = Duration::from_millis(visibility_ms);
        // There may be more than it gives at once, but if it gives nothing there is nothing.
        let mut jobs = Vec::new();
        while jobs.len() < most {
            let queue = self.queue(handle);
            let more = queue.lease_many(most - jobs.len(), visibility);
            match more.expect("lease") {
                more if more.is_empty() => break,
                more => jobs.extend(more),
            }
        }
        for job in jobs.iter() {
            let at = self
                .model
                .lease(now_ms, until_ms, handle)
                .expect("the model has none");
            assert_eq!(self.model.at(job.id()), at, "which job is next");
            let entry = &self.model.jobs[&at];
            assert_eq!(*job.payload(), entry.payload);
            assert_eq!(
                (job.attempts(), job.priority()),
                (entry.attempts, entry.priority)
            );
            assert!(job.last_error().is_some() || entry.attempts == 1);
        }
        if jobs.len() < most {
            assert_eq!(self.model.lease(now_ms, until_ms, handle), None);
        }
        for job in jobs {
            let at = self.model.at(job.id());
            self.leases.insert(at, job.lease_id());
            // What was leased before by a guard that is still here is no longer its.
            if let Some((_, old)) = self.jobs.insert(at, (handle, job)) {
                assert!(!old.ack().expect("ack"), "an old lease acks nothing");
            }
        }
    }

    /// One of the leases there were, and whether it is still its job's.
    fn some_lease(&mut self) -> Option<(u64, LeaseId, bool)> {
        let n = self.dice.below(self.leases.len() as u64) as usize;
        let (&at, &lease) = self.leases.iter().nth(n)?;
        let state = self.model.jobs.get(&at).map(|entry| entry.state.clone());
        Some((at, lease, matches!(state, Some(State::Leased { .. }))))
    }

    /// Ends a lease: by its guard, or by its name through any handle.
    fn settle(&mut self, handle: usize) {
        let Some((at, lease, is_its)) = self.some_lease() else {
            return;
        };
        // One of an earlier lease says nothing when it goes.
        let guard = self
            .jobs
            .remove(&at)
            .filter(|guard| guard.1.lease_id() == lease);
        self.leases.remove(&at);
        let verb = self.dice.below(4);
        let delay_ms = if self.dice.one_in(2) {
            self.dice.below(1_000)
        } else {
            0
        };
        let delay = Duration::from_millis(delay_ms);
        let had_guard = guard.is_some();
        let done = match (guard, verb) {
            (Some((_, job)), 0) => {
                drop(job);
                is_its
            }
            (Some((_, job)), 1) => job.fail("no luck", delay).expect("fail"),
            (Some((_, job)), _) => job.ack().expect("ack"),
            (None, 0 | 1) => {
                let queue = self.queue(handle);
                queue.nack(lease, delay, Some("no luck")).expect("nack")
            }
            (None, _) => self.queue(handle).ack(lease).expect("ack"),
        };
        assert_eq!(done, is_its, "whether the lease was still its job's");
        if !is_its {
            return;
        }
        match verb {
            0 | 1 => {
                let is_drop = verb == 0 && had_guard;
                let due_ms = self.now_ms + if is_drop { 0 } else { delay_ms };
                self.model.release(at, due_ms);
            }
            _ => {
                self.model.jobs.remove(&at);
            }
        }
    }

    fn extend(&mut self, handle: usize) {
        let Some((at, lease, is_its)) = self.some_lease() else {
            return;
        };
        let visibility_ms = self.dice.below(4_000) + 1;
        let visibility = Duration::from_millis(visibility_ms);
        let done = self
            .queue(handle)
            .extend(lease, visibility)
            .expect("extend");
        assert_eq!(done, is_its, "whether the lease was still its job's");
        let new_ms = self.now_ms + visibility_ms;
        if is_its
            && let Some(entry) = self.model.jobs.get_mut(&at)
            && let State::Leased { until_ms, .. } = &mut entry.state
        {
            *until_ms = new_ms;
        }
    }

    /// A result and an ack in one transaction, which comes to nothing every other time.
    fn settle_with_result(&mut self) {
        let Some((&at, _)) = self.jobs.iter().next() else {
            return;
        };
        let (handle, job) = self.jobs.remove(&at).expect("a guard");
        let is_last = self.leases.get(&at) == Some(&job.lease_id());
        if is_last {
            self.leases.remove(&at);
        }
        let is_its = is_last
            && matches!(
                self.model.jobs.get(&at).map(|entry| &entry.state),
                Some(State::Leased { .. })
            );
        let fails = self.dice.one_in(2);
        let cache = self.handles[handle].as_ref().expect("it is open").0.clone();
        let before = cache.get(at.to_le_bytes()).expect("get");
        let done = cache.transact(|tx| {
            tx.set(at.to_le_bytes(), job.payload())?;
            let done = job.ack()?;
            match fails {
                true => Err(larder::Error::Aborted { what: "no".into() }),
                false => Ok(done),
            }
        });
        let after = cache.get(at.to_le_bytes()).expect("get");
        let payload = job.payload().clone();
        drop(job);
        match done {
            Ok(done) => {
                assert_eq!(done, is_its);
                assert_eq!(after.as_deref(), Some(&payload[..]));
                if is_its {
                    self.model.jobs.remove(&at);
                }
            }
            Err(_) => {
                assert_eq!(before, after);
                if is_its {
                    self.model.release(at, self.now_ms);
                }
            }
        }
    }

    /// Closes a handle: its leases are anybody's at once. Its guards have gone before.
    fn reopen(&mut self, handle: usize) {
        let its: Vec<u64> = self
            .jobs
            .iter()
            .filter(|job| job.1.0 == handle)
            .map(|job| *job.0)
            .collect();
        for at in its {
            let (_, job) = self.jobs.remove(&at).expect("a guard");
            // Its lease stays as it is: who forgets a guard says nothing of it.
            let lease = job.lease_id();
            let is_its = job.detach().expect("detach").is_some();
            assert!(!is_its || self.leases[&at] == lease);
        }
        self.handles[handle] = None;
    }

    fn kill_other(&mut self) {
        if let Some(other) = self.other.take() {
            other.kill();
            self.model.forget_holder(OTHER, self.now_ms);
            // Holders are asked whether they live every 50 ms.
            std::thread::sleep(Duration::from_millis(60));
            self.lease_here(0);
        }
    }

    fn reopen_all(&mut self, forget: bool) {
        self.kill_other();
        for handle in 0..self.handles.len() {
            self.reopen(handle);
        }
        if forget {
            common::forget_derived(self.dir.path());
        }
    }

    fn requeue(&mut self, handle: usize) {
        let count = self.queue(handle).requeue_dead().expect("requeue");
        assert_eq!(count, self.model.counts(self.now_ms).2);
        for entry in self.model.jobs.values_mut() {
            if entry.state == State::Dead {
                entry.state = State::Waiting { due_ms: 0 };
                entry.attempts = 0;
            }
        }
    }

    fn agree(&mut self, handle: usize) {
        let now_ms = self.now_ms;
        let expected = self.model.counts(now_ms);
        let queue = self.queue(handle);
        let counts = (
            queue.depth().expect("depth"),
            queue.in_flight().expect("in_flight"),
            queue.dead().expect("dead"),
        );
        assert_eq!(counts, expected, "waiting, leased, dead");
    }
}

#[test]
fn a_queue_and_a_reference_queue_agree_after_each_call() {
    let seed = seed("a queue and a reference queue");
    let rounds =
        std::env::var("LARDER_TEST_TIMES").map_or(1, |times| times.parse().expect("a number"));
    for round in 0..rounds {
        let clock = Arc::new(ManualClock::new(BEGIN_MS));
        let mut story = Story {
            dir: common::fast_dir(),
            clock,
            now_ms: BEGIN_MS,
            handles: vec![None, None],
            jobs: BTreeMap::new(),
            leases: BTreeMap::new(),
            other: None,
            model: Model::default(),
            dice: Dice::new(seed + round),
        };
        story
            .queue(0)
            .set_max_attempts(Some(MAX_ATTEMPTS))
            .expect("a setting");
        for _ in 0..2_500 {
            let handle = story.dice.below(2) as usize;
            match story.dice.below(100) {
                0..28 => story.push(handle),
                28..32 => story.push_many(handle),
                32..60 => story.lease(handle),
                60..78 => story.settle(handle),
                78..84 => story.extend(handle),
                84..88 => story.settle_with_result(),
                88..96 => {
                    story.now_ms += story.dice.below(1_500);
                    story.clock.set(story.now_ms);
                }
                96 => story.requeue(handle),
                97 if story.dice.one_in(2) => story.kill_other(),
                98 => story.reopen(handle),
                99 if story.dice.one_in(4) => {
                    let forget = story.dice.one_in(2);
                    story.reopen_all(forget);
                }
                _ => {}
            }
            story.agree(handle);
        }
        let cache = story
            .handles
            .iter()
            .flatten()
            .next()
            .map(|open| open.0.clone());
        if let Some(cache) = cache {
            common::assert_sound(&cache);
        }
    }
}
