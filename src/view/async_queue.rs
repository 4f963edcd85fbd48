//! `Queue` for tasks of a tokio runtime: its verbs off the runtime's threads, and jobs that are given
//! back there too.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use crate::error::Result;
use crate::view::async_turns::Work;
use crate::view::codec::{Bincode, Codec};
use crate::view::work_queue::{Job, PushOptions, Queue};

/// How long one turn of waiting has a thread.
const TURN: Duration = Duration::from_millis(100);

/// A [`Queue`] for tasks of a tokio runtime (feature `tokio`): no verb blocks the thread it is awaited on.
///
/// Cheap to clone. A future that is dropped has done all of its verb or nothing, or a thread is at it and
/// will have done all of it soon. A job leased for a future that is no more is given back at once; that
/// delivery counts.
///
/// ```
/// use std::time::Duration;
/// use larder::{AsyncQueue, Queue};
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
/// # runtime.block_on(async {
/// let queue = AsyncQueue::from(Queue::<String>::temporary()?);
/// queue.push("/index".to_owned()).await?;
/// let job = queue.lease(Duration::from_secs(30)).await?.expect("one is there");
/// assert_eq!(*job, "/index");
/// assert!(job.ack().await?);
/// # Ok::<(), larder::Error>(())
/// # })?;
/// # Ok::<(), larder::Error>(())
/// ```
///
/// # Errors
/// Every verb: those of the same verb of [`Queue`]; [`Error::Aborted`](crate::Error::Aborted) when the
/// runtime shuts down before its work began. Panics where it is polled outside a tokio runtime.
pub struct AsyncQueue<T, C = Bincode> {
    queue: Queue<T, C>,
}

impl<T, C> From<Queue<T, C>> for AsyncQueue<T, C> {
    fn from(queue: Queue<T, C>) -> Self {
        AsyncQueue { queue }
    }
}

impl<T, C> Clone for AsyncQueue<T, C> {
    fn clone(&self) -> Self {
        AsyncQueue {
            queue: self.queue.clone(),
        }
    }
}

impl<T, C> fmt::Debug for AsyncQueue<T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncQueue").finish_non_exhaustive()
    }
}

impl<T: Send + Sync + 'static, C: Codec<T> + 'static> AsyncQueue<T, C> {
    /// The queue itself, whose verbs block.
    #[must_use]
    pub fn queue(&self) -> &Queue<T, C> {
        &self.queue
    }

    /// Does any work with the queue on a thread for blocking work.
    ///
    /// # Errors
    /// What `work` returns; see [`AsyncQueue`].
    pub async fn blocking<R: Send + 'static>(
        &self,
        work: impl FnOnce(&Queue<T, C>) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        let queue = self.queue.clone();
        Work::begin(move || work(&queue)).await?
    }

    /// As [`Queue::push`].
    ///
    /// # Errors
    /// See [`AsyncQueue`].
    pub async fn push(&self, payload: T) -> Result<u64> {
        self.blocking(move |queue| queue.push(&payload)).await
    }

    /// As [`Queue::push_with`].
    ///
    /// # Errors
    /// See [`AsyncQueue`].
    pub async fn push_with(&self, payload: T, options: &PushOptions) -> Result<(u64, bool)> {
        let options = options.clone();
        self.blocking(move |queue| queue.push_with(&payload, &options))
            .await
    }

    /// As [`Queue::lease`].
    ///
    /// # Errors
    /// See [`AsyncQueue`].
    pub async fn lease(&self, visibility: Duration) -> Result<Option<AsyncJob<T>>> {
        let leased = self.blocking(move |queue| queue.lease(visibility)).await?;
        Ok(leased.map(AsyncJob::new))
    }

    /// As [`Queue::lease_many`].
    ///
    /// # Errors
    /// See [`AsyncQueue`].
    pub async fn lease_many(&self, most: usize, visibility: Duration) -> Result<Vec<AsyncJob<T>>> {
        let leased = self.blocking(move |queue| queue.lease_many(most, visibility));
        Ok(leased.await?.into_iter().map(AsyncJob::new).collect())
    }

    /// As [`Queue::lease_wait`]; `timeout` of `None`: waits for ever. While it waits it has one of the
    /// runtime's threads for blocking work, and 100 ms longer when it is dropped.
    ///
    /// # Errors
    /// See [`AsyncQueue`].
    pub async fn lease_wait(
        &self,
        visibility: Duration,
        timeout: Option<Duration>,
    ) -> Result<Option<AsyncJob<T>>> {
        let start = Instant::now();
        loop {
            let left = timeout.map(|timeout| timeout.saturating_sub(start.elapsed()));
            let turn = left.map_or(TURN, |left| left.min(TURN));
            let leased = self
                .blocking(move |queue| queue.lease_wait(visibility, Some(turn)))
                .await?;
            if leased.is_some() || left.is_some_and(|left| left.is_zero()) {
                return Ok(leased.map(AsyncJob::new));
            }
        }
    }

    /// As [`Queue::depth`].
    ///
    /// # Errors
    /// See [`AsyncQueue`].
    pub async fn depth(&self) -> Result<u64> {
        self.blocking(|queue| queue.depth()).await
    }
}

/// A [`Job`] in a task's hands. Dropped without a word it is given back, off the runtime's own threads.
#[must_use = "a job that is dropped is given back to the queue"]
pub struct AsyncJob<T: Send + Sync + 'static> {
    /// Taken when it is dropped.
    job: Option<Arc<Job<T>>>,
}

impl<T: Send + Sync + 'static> AsyncJob<T> {
    fn new(job: Job<T>) -> AsyncJob<T> {
        AsyncJob {
            job: Some(Arc::new(job)),
        }
    }

    /// The job itself, whose verbs block: to ack it in a transaction with its results.
    #[must_use]
    pub fn job(&self) -> &Arc<Job<T>> {
        self.job.as_ref().expect("it is taken by drop alone")
    }

    async fn settle(
        &self,
        work: impl FnOnce(&Job<T>) -> Result<bool> + Send + 'static,
    ) -> Result<bool> {
        let job = Arc::clone(self.job());
        Work::begin(move || work(&job)).await?
    }

    /// As [`Job::ack`].
    ///
    /// # Errors
    /// As [`Job::ack`]; see [`AsyncQueue`].
    pub async fn ack(&self) -> Result<bool> {
        self.settle(|job| job.ack()).await
    }

    /// As [`Job::nack`].
    ///
    /// # Errors
    /// As [`Job::nack`]; see [`AsyncQueue`].
    pub async fn nack(&self, delay: Duration) -> Result<bool> {
        self.settle(move |job| job.nack(delay)).await
    }

    /// As [`Job::fail`].
    ///
    /// # Errors
    /// As [`Job::fail`]; see [`AsyncQueue`].
    pub async fn fail(&self, error: impl fmt::Display, delay: Duration) -> Result<bool> {
        let error = error.to_string();
        self.settle(move |job| job.fail(error, delay)).await
    }

    /// As [`Job::extend`].
    ///
    /// # Errors
    /// As [`Job::extend`]; see [`AsyncQueue`].
    pub async fn extend(&self, visibility: Duration) -> Result<bool> {
        self.settle(move |job| job.extend(visibility)).await
    }
}

impl<T: Send + Sync + 'static> Deref for AsyncJob<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.job().payload()
    }
}

impl<T: Send + Sync + 'static> Drop for AsyncJob<T> {
    fn drop(&mut self) {
        // The last one to let go may have to write; without a runtime it does so here.
        if let Some(job) = self.job.take()
            && let Ok(runtime) = Handle::try_current()
        {
            drop(runtime.spawn_blocking(move || drop(job)));
        }
    }
}

impl<T: fmt::Debug + Send + Sync + 'static> fmt::Debug for AsyncJob<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.job().fmt(f)
    }
}
