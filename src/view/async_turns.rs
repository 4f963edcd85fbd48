//! Blocking work by turns, for tasks: whoever stops waiting loses nothing.
//!
//! Owns how work goes to the runtime's threads for blocking work, and what a dropped future means there.
//! Knows no verb of a cache.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::task::{JoinError, JoinHandle, spawn_blocking};

use crate::error::{Error, Result};

/// Work on a thread for blocking work. Dropped before a thread has begun, it is not done; from then on
/// it is done to its end, by itself.
pub(crate) struct Work<T>(JoinHandle<T>);

impl<T: Send + 'static> Work<T> {
    pub(crate) fn begin(work: impl FnOnce() -> T + Send + 'static) -> Work<T> {
        Work(spawn_blocking(work))
    }
}

impl<T> Future for Work<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T>> {
        Pin::new(&mut self.0)
            .poll(context)
            .map(|done| done.map_err(ended))
    }
}

impl<T> Drop for Work<T> {
    fn drop(&mut self) {
        // No effect once it has begun.
        self.0.abort();
    }
}

/// A panic of the work is the caller's.
fn ended(error: JoinError) -> Error {
    match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => Error::Aborted {
            what: "the runtime is shutting down".into(),
        },
    }
}

/// Something that blocking work is done with again and again, one turn after the other. A turn whose
/// future is dropped goes on, and the next future takes up its result.
pub(crate) struct Turns<S, R> {
    idle: Option<S>,
    turn: Option<JoinHandle<(S, R)>>,
}

impl<S: Send + 'static, R: Send + 'static> Turns<S, R> {
    pub(crate) fn new(state: S) -> Turns<S, R> {
        Turns {
            idle: Some(state),
            turn: None,
        }
    }

    /// The result of the turn that is going on; if none is, of one begun now.
    pub(crate) async fn take(&mut self, work: fn(&mut S) -> R) -> Result<R> {
        if let Some(mut state) = self.idle.take() {
            self.turn = Some(spawn_blocking(move || {
                let result = work(&mut state);
                (state, result)
            }));
        }
        let Some(turn) = self.turn.as_mut() else {
            return Err(Error::Aborted {
                what: "it ended with a panic, or with its runtime".into(),
            });
        };
        let done = turn.await;
        self.turn = None;
        let (state, result) = done.map_err(ended)?;
        self.idle = Some(state);
        Ok(result)
    }
}

impl<S, R> std::fmt::Debug for Turns<S, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Turns")
            .field("is_going_on", &self.turn.is_some())
            .finish_non_exhaustive()
    }
}
