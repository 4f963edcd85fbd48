//! A deque inside a transaction: its shape, changed step by step with its elements.
//!
//! The transaction keeps the shape from verb to verb, for nobody else can change it meanwhile; the first
//! verb reads it off the order lists. Each verb opens a session, and ends it with `finish`.

use std::cell::RefMut;

use crate::engine::change::Payload;
use crate::engine::store::{Proof, Store};
use crate::error::{Error, Result};
use crate::format::header::space;
use crate::view::deque::Spaces;
use crate::view::deque::counted::load;
use crate::view::deque::holes::{Holes, key_prefix};
use crate::view::deque::shape::{Notes, Run, Shape, Spot, Wing};
use crate::view::options::{SetOptions, Side};
use crate::view::prepare::{self, Prepared};
use crate::view::state::State;
use crate::view::transaction::Transaction;
use crate::view::value::Value;

/// The key of a deque's notes.
pub(super) fn notes_key(spaces: Spaces) -> Vec<u8> {
    key_prefix(spaces.front, b'n')
}

/// The depth that an element's key stands for.
pub(super) fn depth_of(store: &Store, key: &[u8]) -> Result<u64> {
    let depth = key.try_into().map(u64::from_be_bytes);
    depth.map_err(|_| damaged(store, "an element's key is no position"))
}

pub(super) fn damaged(store: &Store, what: &str) -> Error {
    let what = format!("{what} of a deque: repair the store");
    Error::corrupt(store.dir.path(), 0, what)
}

/// One wing as the log has it. Under the lock.
fn run_of(store: &Store, proof: &mut Proof, which: u32) -> Result<Run> {
    let mut buffer = Vec::new();
    let count = store.files.space(which, space::COUNT);
    let mut first = None;
    if count > 0
        && let Some(end) = store.oldest(proof, which, &mut buffer)?
    {
        first = Some(depth_of(store, end.hit.key(&buffer))?);
    }
    let mut last = None;
    if count > 0
        && let Some(end) = store.newest(proof, which, &mut buffer)?
    {
        last = Some(depth_of(store, end.hit.key(&buffer))?);
    }
    Run::new(first, last, count).ok_or_else(|| damaged(store, "the ends do not fit the count"))
}

pub(super) struct Session<'a> {
    pub(super) spaces: Spaces,
    pub(super) state: RefMut<'a, State>,
    pub(super) shape: Shape,
    pub(super) holes: [Option<Holes>; 2],
}

impl<'a> Session<'a> {
    pub(super) fn begin(transaction: &'a Transaction, spaces: Spaces) -> Result<Session<'a>> {
        let mut state = transaction.state.borrow_mut();
        state.check_fork()?;
        let known = state
            .deques
            .iter()
            .find(|(deque, _)| *deque == spaces.front);
        let shape = match known {
            Some((_, shape)) => *shape,
            None => {
                let mut shape = Shape::default();
                let (store, proof) = state.held();
                for wing in Wing::BOTH {
                    shape.runs[wing as usize] = run_of(store, proof, spaces.of(wing))?;
                }
                if let Some(payload) = state.entry(spaces.notes, &notes_key(spaces))? {
                    shape.notes = Notes::from_bytes(&payload.value)
                        .ok_or_else(|| damaged(&state.store, "the notes"))?;
                }
                shape
            }
        };
        Ok(Session {
            spaces,
            state,
            shape,
            holes: [None, None],
        })
    }

    /// What was done is part of the transaction.
    pub(super) fn finish(mut self) -> Result<()> {
        for holes in &mut self.holes {
            for (key, value) in holes.as_mut().map(Holes::changes).unwrap_or_default() {
                match value {
                    Some(value) => put_note(&mut self.state, self.spaces, &key, value)?,
                    None => self.state.remove(self.spaces.notes, &key)?,
                }
            }
        }
        let deque = self.spaces.front;
        match self
            .state
            .deques
            .iter_mut()
            .find(|(known, _)| *known == deque)
        {
            Some((_, shape)) => *shape = self.shape,
            None => self.state.deques.push((deque, self.shape)),
        }
        Ok(())
    }

    /// Changes what is kept beside the elements: always as a new entry, so that a handle sees by the
    /// length of the notes' order list that what it knows is old.
    pub(super) fn put_notes(&mut self, notes: Notes) -> Result<()> {
        let key = notes_key(self.spaces);
        self.state.remove(self.spaces.notes, &key)?;
        put_note(
            &mut self.state,
            self.spaces,
            &key,
            notes.to_bytes().to_vec(),
        )?;
        self.shape.notes = notes;
        Ok(())
    }

    fn space(&self, spot: Spot) -> u32 {
        self.spaces.of(spot.wing)
    }

    /// The element at a spot, if there is one.
    pub(super) fn payload(&self, spot: Spot) -> Result<Option<Payload>> {
        self.state.entry(self.space(spot), &spot.key())
    }

    /// The value at a spot, if there is one.
    pub(super) fn value(&self, spot: Spot) -> Result<Option<Value>> {
        let payload = self.payload(spot)?;
        payload
            .map(|payload| self.state.value(&payload))
            .transpose()
    }

    /// The value of an element that the shape says is there.
    pub(super) fn must_value(&self, spot: Spot) -> Result<Value> {
        let value = self.value(spot)?;
        value.ok_or_else(|| damaged(&self.state.store, "an element is missing"))
    }

    /// The element of an index.
    pub(super) fn spot(&mut self, index: i64) -> Result<Option<Spot>> {
        let Some((wing, below)) = self.shape.locate(index) else {
            return Ok(None);
        };
        let depth = self.nth(wing, below)?;
        Ok(Some(Spot { wing, depth }))
    }

    /// Takes an element away that is there.
    pub(super) fn take(&mut self, spot: Spot) -> Result<()> {
        let Spot { wing, depth } = spot;
        let run = *self.shape.run(wing);
        let mut after = Run {
            count: run.count.saturating_sub(1),
            ..run
        };
        let has_holes = run.holes() > 0;
        if after.count == 0 {
            after = Run::default();
            if has_holes {
                self.fill(wing, run.base..run.end)?;
            }
        } else if depth + 1 == run.end {
            let last = self.nth(wing, after.count - 1)?;
            after.end = last + 1;
            self.fill(wing, after.end..depth)?;
        } else if depth == run.base {
            after.base = self.nth(wing, 1)?;
            self.fill(wing, depth + 1..after.base)?;
        } else {
            self.load_holes(wing)?;
            let (spaces, state) = (self.spaces, &self.state);
            if let Some(holes) = &mut self.holes[wing as usize] {
                holes.add(depth, &|key| load(state, spaces, key))?;
            }
        }
        let which = self.space(spot);
        self.state.remove(which, &spot.key())?;
        self.shape.runs[wing as usize] = after;
        Ok(())
    }

    /// The spot beyond the last one of a side, which a new element takes.
    fn grow(&mut self, side: Side) -> Result<Spot> {
        let wing = self.shape.notes.wing(side);
        let run = &mut self.shape.runs[wing as usize];
        let depth = run.end;
        if depth == u64::MAX {
            return Err(Error::TooLarge {
                what: "the number of elements ever pushed",
                bytes: depth,
                max_bytes: u64::MAX,
            });
        }
        (run.end, run.count) = (depth + 1, run.count + 1);
        Ok(Spot { wing, depth })
    }

    /// Puts an element at a side; above the longest length, those at the other side go.
    pub(super) fn push(
        &mut self,
        side: Side,
        prepared: Prepared<'_>,
        options: &SetOptions,
    ) -> Result<()> {
        if let Some(max_len) = self.shape.notes.max_len {
            if max_len == 0 {
                return Ok(());
            }
            let other = match side {
                Side::Front => Side::Back,
                Side::Back => Side::Front,
            };
            while self.shape.len() >= max_len {
                self.drop_end(other)?;
            }
        }
        let spot = self.grow(side)?;
        let which = self.space(spot);
        self.state.set(which, &spot.key(), prepared, options)
    }

    /// Takes the element at a side away, unread. Whether there was one.
    pub(super) fn drop_end(&mut self, side: Side) -> Result<bool> {
        match self.shape.end(side) {
            Some(spot) => self.take(spot).map(|()| true),
            None => Ok(false),
        }
    }

    /// Stores a value over an element.
    pub(super) fn set(
        &mut self,
        spot: Spot,
        prepared: Prepared<'_>,
        options: &SetOptions,
    ) -> Result<()> {
        let which = self.space(spot);
        self.state.set(which, &spot.key(), prepared, options)
    }

    /// Moves `count` elements, one by one, from one side to the other.
    pub(super) fn turn(&mut self, from: Side, count: u64, options: &SetOptions) -> Result<()> {
        let to = match from {
            Side::Front => Side::Back,
            Side::Back => Side::Front,
        };
        let store = std::sync::Arc::clone(&self.state.store);
        // Everything that may fail comes first: a verb that fails has done nothing.
        let mut spots = Vec::new();
        for nth in 0..count as i64 {
            let index = match from {
                Side::Front => nth,
                Side::Back => -1 - nth,
            };
            spots.extend(self.spot(index)?);
        }
        let mut moved = Vec::with_capacity(spots.len());
        for &spot in &spots {
            let Some(payload) = self.payload(spot)? else {
                return Err(damaged(&store, "an element is missing"));
            };
            moved.push(match payload.apart {
                None => Ok(payload),
                // A file belongs to one key: the value is written to another.
                Some(_) => {
                    let value = self.state.value(&payload)?;
                    let options = options.clone().kind(value.kind());
                    let prepared = prepare::bytes(&store, &value, &options, self.state.now_ms)?;
                    Err((prepared.into_owned(), options))
                }
            });
        }
        for (spot, payload) in spots.into_iter().zip(moved) {
            self.take(spot)?;
            let spot = self.grow(to)?;
            let which = self.space(spot);
            match payload {
                Ok(payload) => self.state.put(which, &spot.key(), payload)?,
                Err((prepared, options)) => {
                    self.state.set(which, &spot.key(), prepared, &options)?;
                }
            }
        }
        Ok(())
    }

    /// Every element in order, as the transaction sees it now.
    pub(super) fn values(&self) -> Result<Vec<(Spot, Value)>> {
        let mut all = Vec::new();
        let [front, back] = self.shape.runs;
        let front = (front.base..front.end)
            .rev()
            .map(|depth| (Wing::Front, depth));
        let back = (back.base..back.end).map(|depth| (Wing::Back, depth));
        for (wing, depth) in front.chain(back) {
            let spot = Spot { wing, depth };
            if let Some(value) = self.value(spot)? {
                all.push((spot, value));
            }
        }
        if self.shape.notes.is_reversed {
            all.reverse();
        }
        Ok(all)
    }
}

fn put_note(state: &mut State, spaces: Spaces, key: &[u8], value: Vec<u8>) -> Result<()> {
    let payload = state.inner_payload(value);
    state.put(spaces.notes, key, payload)
}
