//! `Queue`: a durable work queue, delivered at least once, shared by all processes that open it.
//!
//! A thin coat over three spaces of a store: payloads, what is known of jobs, and dead letters. Owns
//! how payloads become bytes; the rest is in the files beside.

mod core;
mod dead;
mod feed;
mod job;
mod lease;
mod memory;
mod moving;
mod note;
mod push;
mod release;
mod settle;

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::marker::PhantomData;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::view::cache::Cache;
use crate::view::codec::{Bincode, Codec, TypeName};
use crate::view::options::SetOptions;
use crate::view::space::ViewKind;
use crate::view::value::{CODEC_ID_MAX, Value, ValueKind};

use self::core::Core;
pub use self::dead::DeadLetter;
pub use self::job::Job;
use self::job::Parts;
use self::lease::Lent;
use self::note::MAX_ATTEMPTS_KEY;
pub use self::push::PushOptions;
pub use self::settle::LeaseId;

/// The name of the queue in a store of its own.
const OWN_NAME: &[u8] = b"queue";

/// A durable work queue: what was pushed is delivered to workers, in whatever process, until one of
/// them acks it.
///
/// A worker leases a job for a time, its *visibility*, and acks it when it is done. A job whose lease
/// runs out is delivered again; so is, within about 0.15 s of somebody asking, one whose worker's process
/// has ended. Deliveries are in the order of priority and then of pushing, but for those that come
/// again. After [`Queue::max_attempts`] deliveries a job becomes a dead letter.
///
/// A job may be done twice: its worker may die between the work and the ack. Where the work is a change of
/// the same store, ack it in the same [`Cache::transact`]: then it happens exactly once.
///
/// ```
/// use std::time::Duration;
/// use larder::{Cache, Queue};
///
/// let cache = Cache::temporary()?;
/// let queue = Queue::<String>::of(&cache, "pages")?;
/// queue.push(&"/index".to_owned())?;
///
/// let job = queue.lease(Duration::from_secs(30))?.expect("one is there");
/// cache.transact(|tx| {
///     tx.set(&*job, "<html>")?;
///     job.ack()
/// })?;
/// assert_eq!((queue.depth()?, queue.in_flight()?), (0, 0));
/// # Ok::<(), larder::Error>(())
/// ```
///
/// Cheap to clone, `Send + Sync`, usable after `fork`: a child's leases are its own. Payloads are
/// written by the codec `C` and have any length. Times are by the store's clock. Jobs are never
/// culled; a store without room answers a push with [`Error::Full`].
///
/// # Errors
/// Verbs that read: as [`Cache`]'s. Verbs that write, too; whatever the error, nothing was changed unless
/// the verb says otherwise. [`Error::Codec`] and [`Error::WrongType`] for payloads that cannot be written
/// or read.
pub struct Queue<T, C = Bincode> {
    core: Arc<Core>,
    name: TypeName,
    types: PhantomData<fn(C, T) -> T>,
}

impl<T> Queue<T> {
    /// Opens the queue in a store of its own in `dir`, making it if there is none.
    ///
    /// # Errors
    /// As [`Cache::open`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Queue<T>> {
        Queue::of(&Cache::open(dir)?, OWN_NAME)
    }

    /// A queue in a store of its own in a new directory below the system's temporary one, removed with
    /// its last clone and job.
    ///
    /// # Errors
    /// As [`Cache::temporary`].
    pub fn temporary() -> Result<Queue<T>> {
        Queue::of(&Cache::temporary()?, OWN_NAME)
    }

    /// The queue `name` in the store of `cache`, made if there is none. It has nothing to do with the
    /// cache's entries, and can change in one transaction with them.
    ///
    /// A store has room for 84 queues, less with other views. A name is at most 1,024 bytes.
    ///
    /// # Errors
    /// See [`Cache`]; [`Error::TooLarge`] for a long name or when there is no room for another queue;
    /// [`Error::Aborted`] when it has to be made inside a transaction.
    pub fn of(cache: &Cache, name: impl AsRef<[u8]>) -> Result<Queue<T>> {
        Ok(Queue {
            core: Arc::new(Core::of(cache, name.as_ref())?),
            name: TypeName::new(std::any::type_name::<T>()),
            types: PhantomData,
        })
    }

    /// The names of all queues in a store, in the order in which they were made.
    ///
    /// # Errors
    /// See [`Cache`].
    pub fn names(cache: &Cache) -> Result<Vec<Vec<u8>>> {
        cache.view_names(ViewKind::Queue)
    }
}

impl<T, C> Queue<T, C> {
    /// The same queue with another codec: [`Json`](crate::Json), [`Raw`](crate::Raw) or your own.
    #[must_use]
    pub fn with_codec<C2: Codec<T>>(self) -> Queue<T, C2> {
        Queue {
            core: self.core,
            name: self.name,
            types: PhantomData,
        }
    }

    /// The same queue with a name for its payloads' type that stays when the type moves, and changes when
    /// the type does: `invoice/v1`. See [`Typed`](crate::Typed).
    ///
    /// Default: [`std::any::type_name`] of `T`.
    #[must_use]
    pub fn named(self, name: impl Into<Cow<'static, str>>) -> Self {
        Queue {
            name: TypeName::new(name),
            ..self
        }
    }

    /// The store's directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.core.jobs.path()
    }

    // Leases by name.

    /// Acks a job by its lease's name, as [`Job::ack`] does.
    ///
    /// # Errors
    /// See [`Queue`].
    pub fn ack(&self, lease: LeaseId) -> Result<bool> {
        self.core.ack(&[lease]).map(|count| count > 0)
    }

    /// Gives a job back by its lease's name, as [`Job::nack`] does, or with a reason as [`Job::fail`].
    ///
    /// # Errors
    /// See [`Queue`].
    pub fn nack(&self, lease: LeaseId, delay: Duration, error: Option<&str>) -> Result<bool> {
        self.core.nack(lease, delay, error)
    }

    /// Puts a lease's end off, as [`Job::extend`] does.
    ///
    /// # Errors
    /// See [`Queue`].
    pub fn extend(&self, lease: LeaseId, visibility: Duration) -> Result<bool> {
        self.core.change_lease(lease, Some(visibility), false)
    }

    /// Acks several jobs at less cost than one by one. Of how many the lease was still the job's; the others
    /// were given back or to others, and are not changed. Inside a transaction all are part of it.
    ///
    /// # Errors
    /// See [`Queue`]; some may be acked.
    pub fn ack_many<'a, P: 'a>(&self, jobs: impl IntoIterator<Item = &'a Job<P>>) -> Result<u64> {
        let jobs: Vec<&Job<P>> = jobs.into_iter().collect();
        let leases: Vec<LeaseId> = jobs.iter().map(|job| job.lease_id()).collect();
        let count = self.core.ack(&leases)?;
        jobs.iter().try_for_each(|job| job.say())?;
        Ok(count)
    }

    // How much there is.

    /// Jobs that wait to be leased, delayed ones included.
    ///
    /// # Errors
    /// See [`Queue`].
    pub fn depth(&self) -> Result<u64> {
        let core = &self.core;
        let (jobs, dead) = (core.len_of(&core.jobs)?, core.len_of(&core.dead)?);
        Ok(jobs.saturating_sub(dead + core.in_flight()?))
    }

    /// Jobs that are leased now; a lease that has run out is none. Costs by these jobs.
    ///
    /// # Errors
    /// See [`Queue`].
    pub fn in_flight(&self) -> Result<u64> {
        self.core.in_flight()
    }

    /// Dead letters.
    ///
    /// # Errors
    /// See [`Queue`].
    pub fn dead(&self) -> Result<u64> {
        self.core.len_of(&self.core.dead)
    }

    /// Delivers every dead letter again, at its old place in the order, its deliveries counted anew. How
    /// many. Its dedup key stays free.
    ///
    /// # Errors
    /// See [`Queue`]; some may be queued again.
    pub fn requeue_dead(&self) -> Result<u64> {
        self.core.requeue_dead()
    }

    /// Removes every dead letter for good. How many.
    ///
    /// # Errors
    /// See [`Queue`]; some may be gone.
    pub fn clear_dead(&self) -> Result<u64> {
        self.core.clear_dead()
    }

    /// Removes every job that is there, in whatever state. How many. A worker's ack answers `false` then.
    ///
    /// # Errors
    /// See [`Queue`]; [`Error::Aborted`] inside a transaction. Some may be gone.
    pub fn clear(&self) -> Result<u64> {
        self.core.clear()
    }

    // Settings.

    /// How often a job is delivered at most before it is a dead letter; `None`: as often as it takes.
    ///
    /// Default: 10. More often than any worker is killed by chance, soon enough to stop a job that
    /// kills its worker.
    ///
    /// # Errors
    /// See [`Queue`].
    pub fn max_attempts(&self) -> Result<Option<u32>> {
        Ok(Some(self.core.max_attempts()?).filter(|&most| most > 0))
    }

    /// Changes [`Queue::max_attempts`] for every process, from the next end of a lease on. 0 counts as 1.
    ///
    /// # Errors
    /// See [`Queue`].
    pub fn set_max_attempts(&self, most: Option<u32>) -> Result<()> {
        let most = most.map_or(0, |most| most.max(1));
        let options = Core::plain_options();
        self.core
            .notes
            .set_with(MAX_ATTEMPTS_KEY, most.to_le_bytes(), &options)
    }

    // Payloads as they are stored.

    /// Leases a job and gives its payload as it is stored, of whatever type.
    ///
    /// # Errors
    /// As [`Queue::lease`].
    pub fn lease_value(&self, visibility: Duration) -> Result<Option<Job<Value>>> {
        let lent = self.core.lend(Core::wish(visibility, 1))?;
        Ok(self.jobs_of(lent, Ok)?.pop())
    }

    /// Dead letters with their payloads as they are stored, oldest first.
    ///
    /// # Errors
    /// See [`Queue`].
    pub fn dead_values(
        &self,
    ) -> Result<impl Iterator<Item = Result<DeadLetter<Value>>> + use<T, C>> {
        self.core.graves()
    }

    /// Guards for leased jobs. One whose payload cannot be read is given back, which counts; that is an
    /// error if there is no other.
    fn jobs_of<P>(
        &self,
        lent: Vec<Lent>,
        read: impl Fn(Value) -> Result<P>,
    ) -> Result<Vec<Job<P>>> {
        let mut jobs = Vec::with_capacity(lent.len());
        let mut wrong = None;
        for mut lent in lent {
            let lease = LeaseId {
                job: lent.id,
                token: lent.token,
            };
            let payload = match lent.take_value(self.core.store()?) {
                Ok(None) => continue,
                Ok(Some(value)) => read(value),
                Err(error) => Err(error),
            };
            match payload {
                Ok(payload) => jobs.push(Job::new(Parts {
                    core: Arc::clone(&self.core),
                    lease,
                    attempts: lent.attempts,
                    priority: lent.priority,
                    error: lent.error,
                    payload,
                })),
                Err(error) => {
                    let why = error.to_string();
                    // What cannot be given back now is when its lease has run out.
                    let _ = self.core.nack(lease, Duration::ZERO, Some(&why));
                    wrong = Some(error);
                }
            }
        }
        match wrong {
            Some(error) if jobs.is_empty() => Err(error),
            _ => Ok(jobs),
        }
    }
}

impl<T, C: Codec<T>> Queue<T, C> {
    /// Puts a job into the queue. Its number.
    ///
    /// Durable as the store's settings say; part of the transaction this thread is in on the store.
    ///
    /// # Errors
    /// See [`Queue`].
    pub fn push(&self, payload: &T) -> Result<u64> {
        self.push_with(payload, &PushOptions::default())
            .map(|(id, _)| id)
    }

    /// Puts a job into the queue with options. Its number and `true`; or, when its dedup key is queued or
    /// in flight already, that job's number and `false`.
    ///
    /// # Errors
    /// See [`Queue`].
    pub fn push_with(&self, payload: &T, options: &PushOptions) -> Result<(u64, bool)> {
        let payload = self.name.encode::<T, C>(payload)?;
        self.core.push(&payload, &Self::set_options(), options)
    }

    /// Puts jobs into the queue as one batch: all or none are seen, in this order. Their numbers.
    ///
    /// # Errors
    /// See [`Queue`]; [`Error::TooLarge`] above 256 MiB or a quarter of `size_limit_bytes`;
    /// [`Error::InvalidKey`] for several jobs with one dedup key.
    pub fn push_many<P: Borrow<T>>(
        &self,
        payloads: impl IntoIterator<Item = P>,
        options: &PushOptions,
    ) -> Result<Vec<u64>> {
        let payloads = payloads
            .into_iter()
            .map(|payload| self.name.encode::<T, C>(payload.borrow()))
            .collect::<Result<Vec<_>>>()?;
        self.core.push_all(&payloads, &Self::set_options(), options)
    }

    /// Leases the next job that is ready, for `visibility`; `None`: there is none.
    ///
    /// # Errors
    /// See [`Queue`]; [`Error::Aborted`] inside a transaction. A payload that cannot be read is an error,
    /// and counts as a delivery.
    pub fn lease(&self, visibility: Duration) -> Result<Option<Job<T>>> {
        Ok(self.lease_many(1, visibility)?.pop())
    }

    /// Leases up to `most` jobs at once, at most 256, in their order. There may be more that are ready; none:
    /// nothing is.
    ///
    /// # Errors
    /// As [`Queue::lease`]; a payload that cannot be read is an error only if there is no other.
    pub fn lease_many(&self, most: usize, visibility: Duration) -> Result<Vec<Job<T>>> {
        let lent = self.core.lend(Core::wish(visibility, most))?;
        self.jobs_of(lent, |value| self.read(&value))
    }

    /// Leases the next job, waiting for one for at most `timeout`; `None`: for ever. A push in whatever
    /// process wakes it, and a job that becomes due.
    ///
    /// # Errors
    /// As [`Queue::lease`].
    pub fn lease_wait(
        &self,
        visibility: Duration,
        timeout: Option<Duration>,
    ) -> Result<Option<Job<T>>> {
        let wish = Core::wish(visibility, 1);
        let lent = self.core.lend_or_wait(wish, timeout)?;
        Ok(self.jobs_of(lent, |value| self.read(&value))?.pop())
    }

    /// Dead letters, oldest first; one whose payload cannot be read is an error of its own.
    ///
    /// # Errors
    /// See [`Queue`].
    pub fn dead_letters(&self) -> Result<impl Iterator<Item = Result<DeadLetter<T>>> + use<T, C>> {
        let name = self.name.clone();
        Ok(self.core.graves()?.map(move |letter| {
            let letter = letter?;
            let payload = name.decode::<T, C>(letter.payload.kind(), &letter.payload)?;
            Ok(DeadLetter {
                id: letter.id,
                payload,
                attempts: letter.attempts,
                priority: letter.priority,
                error: letter.error,
                died_at: letter.died_at,
            })
        }))
    }

    fn set_options() -> SetOptions {
        const {
            assert!(
                C::ID <= CODEC_ID_MAX,
                "records have no room for this codec id"
            );
        }
        SetOptions::default()
            .never_expires()
            .kind(ValueKind::Typed(C::ID))
    }

    fn read(&self, value: &Value) -> Result<T> {
        let payload = self.name.decode::<T, C>(value.kind(), value);
        if matches!(payload, Err(Error::WrongType { .. } | Error::Codec { .. })) {
            self.core.jobs.count_decode_failure();
        }
        payload
    }
}

impl<T, C> Clone for Queue<T, C> {
    fn clone(&self) -> Self {
        Queue {
            core: Arc::clone(&self.core),
            name: self.name.clone(),
            types: PhantomData,
        }
    }
}

impl<T, C> fmt::Debug for Queue<T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("path", &self.path())
            .finish_non_exhaustive()
    }
}
