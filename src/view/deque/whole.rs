//! What concerns a deque as a whole: its length, the longest it gets, its direction, turning, emptying.
//!
//! Each verb is one change in a transaction. Never reads a value.

#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::view::deque::shape::Notes;
use crate::view::deque::{Deque, STEP, look};
use crate::view::options::{SetOptions, Side};

impl<T, C> Deque<T, C> {
    /// How many elements there are.
    ///
    /// # Errors
    /// See [`Deque`].
    pub fn len(&self) -> Result<u64> {
        match self.inside(|session| Ok(session.shape.len()))? {
            Some(len) => Ok(len),
            None => look::len(&self.cache, self.spaces),
        }
    }

    /// Whether there is no element.
    ///
    /// # Errors
    /// See [`Deque`].
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// The longest it gets; `None`, the default: as long as the store has room.
    ///
    /// # Errors
    /// See [`Deque`].
    pub fn max_len(&self) -> Result<Option<u64>> {
        Ok(self.notes()?.max_len)
    }

    /// Changes the longest it gets, for every process from now on. What is too much goes from the front.
    ///
    /// A push to a full deque drops the element at the other end. `Some(0)` keeps nothing.
    ///
    /// # Errors
    /// See [`Deque`]; of more than 128 elements too many, some may have gone.
    pub fn set_max_len(&self, max_len: Option<u64>) -> Result<()> {
        // The largest number means none.
        let max_len = max_len.filter(|&max_len| max_len != u64::MAX);
        loop {
            let is_done = self.change(|session| {
                let longest = max_len.unwrap_or(u64::MAX);
                for _ in 0..STEP {
                    if session.shape.len() <= longest {
                        break;
                    }
                    session.drop_end(Side::Front)?;
                }
                if session.shape.len() > longest {
                    return Ok(false);
                }
                let notes = session.shape.notes;
                session.put_notes(Notes { max_len, ..notes }).map(|()| true)
            })?;
            if is_done {
                return Ok(());
            }
        }
    }

    /// Turns the order round, as one change and at once, however long it is.
    ///
    /// # Errors
    /// See [`Deque`].
    pub fn reverse(&self) -> Result<()> {
        self.change(|session| {
            let notes = session.shape.notes;
            session.put_notes(Notes {
                is_reversed: !notes.is_reversed,
                ..notes
            })
        })
    }

    /// Moves the last `steps` elements to the front, or the first `-steps` to the back, as one change.
    ///
    /// Writes as many elements again as it moves, at most half of them all: in one batch of at most 256 MiB
    /// or a quarter of `size_limit_bytes`, with at most 64 values in files of their own.
    ///
    /// # Errors
    /// See [`Deque`]; [`Error::TooLarge`] above those limits.
    pub fn rotate(&self, steps: i64) -> Result<()> {
        if steps == 0 {
            return Ok(());
        }
        self.change(|session| {
            let len = session.shape.len();
            if len < 2 {
                return Ok(());
            }
            let turn = i128::from(steps).rem_euclid(i128::from(len)) as u64;
            let options = SetOptions::default().never_expires();
            match turn <= len / 2 {
                true => session.turn(Side::Back, turn, &options),
                false => session.turn(Side::Front, len - turn, &options),
            }
        })
    }

    /// Removes every element that was there when it began, in batches of 128. How many.
    ///
    /// # Errors
    /// See [`Deque`]; [`Error::removed`] says how many went before [`Error::Busy`].
    pub fn clear(&self) -> Result<u64> {
        let (mut removed, len) = (0, self.len()?);
        while removed < len {
            let step = STEP.min(len - removed);
            let gone = self.change(|session| {
                let mut gone = 0;
                while gone < step && session.drop_end(Side::Front)? {
                    gone += 1;
                }
                Ok(gone)
            });
            match gone.map_err(|error| error.after_removing(removed))? {
                0 => break,
                gone => removed += gone,
            }
        }
        Ok(removed)
    }

    fn notes(&self) -> Result<Notes> {
        match self.inside(|session| Ok(session.shape.notes))? {
            Some(notes) => Ok(notes),
            None => self.known(|known| {
                look::at_one_moment(&self.cache, known, |store, known| {
                    known.notes(store, self.spaces)
                })
            }),
        }
    }
}
