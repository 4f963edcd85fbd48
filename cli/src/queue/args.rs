//! What can be typed after `larder queue`.
//!
//! Owns the shape of these commands, and which of them change the store.
//! Never opens a store.

use std::ffi::OsString;
use std::time::Duration;

use clap::{Args, Subcommand};
use larder::LeaseId;

use crate::time;

/// Queues of work for other processes: each job is delivered until it is acked.
///
/// A lease printed by `queue lease` outlives the command: `queue ack` ends it, or its time does.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Queue {
    #[command(subcommand)]
    pub(crate) command: QueueCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum QueueCommand {
    Push(Push),
    Lease(Lease),
    /// Say that a leased job is done; exit 1 when the lease has ended and the job is another's.
    Ack(OneLease),
    Nack(Nack),
    /// Put the end of a lease off; exit 1 when it has ended and the job is another's.
    Extend(Extend),
    Dead(Dead),
    /// List the queues: what waits, what is leased, what is dead.
    Ls(Shown),
    /// Show what waits in a queue, what is leased, what is dead; exit 1 when there is no such queue.
    Stats(Stats),
}

impl QueueCommand {
    /// What the command changes in the store; none when it only reads.
    pub(crate) fn changes(&self) -> Option<&'static str> {
        match self {
            Self::Push(_) => Some("queue push stores a job"),
            Self::Lease(_) => Some("queue lease notes a lease"),
            Self::Ack(_) => Some("queue ack removes a job"),
            Self::Nack(_) => Some("queue nack gives a job back"),
            Self::Extend(_) => Some("queue extend changes a lease"),
            Self::Dead(args) if args.requeue => Some("queue dead --requeue queues jobs again"),
            Self::Dead(args) if args.clear => Some("queue dead --clear removes jobs"),
            Self::Dead(_) | Self::Ls(_) | Self::Stats(_) => None,
        }
    }
}

/// Put a job into a queue, which is made when there is none, and print the job's number.
///
/// Exit 1 when a job with the same --key is queued or leased already; its number is printed.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Push {
    /// The queue, its bytes as they are.
    pub(crate) name: OsString,
    /// The payload; `-` or nothing: all of stdin. Put `--` before one that begins with a dash.
    #[arg(allow_negative_numbers = true)]
    pub(crate) value: Option<OsString>,
    /// Jobs of a higher priority are delivered first.
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        default_value_t = 0
    )]
    pub(crate) priority: i32,
    /// Do not deliver it before so long from now (500ms, 30s, 1h30m).
    #[arg(long, value_name = "D", value_parser = time::parse_span)]
    pub(crate) delay: Option<Duration>,
    /// While a job with this key is queued or leased, no second one is pushed.
    #[arg(long, value_name = "K")]
    pub(crate) key: Option<OsString>,
}

/// Lease the next job: one line with the lease, then the payload, its bytes as they are.
///
/// Until the lease's end nobody else gets the job; after it, it is delivered again. Exit 1 when no job is
/// ready.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Lease {
    /// The queue, its bytes as they are.
    pub(crate) name: OsString,
    /// How long the job is leased.
    #[arg(long, value_name = "D", default_value = "30s", value_parser = time::parse_span)]
    pub(crate) visibility: Duration,
    /// One JSON object instead: lease, job, attempts, priority, last_error, payload.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct OneLease {
    /// The queue, its bytes as they are.
    pub(crate) name: OsString,
    /// The lease, as `queue lease` printed it.
    pub(crate) lease: LeaseId,
}

/// Give a leased job back, to be delivered again; or up, if this was the last delivery allowed.
///
/// Exit 1 when the lease has ended and the job is another's.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Nack {
    #[command(flatten)]
    pub(crate) lease: OneLease,
    /// Do not deliver it before so long from now.
    #[arg(long, value_name = "D", value_parser = time::parse_span)]
    pub(crate) delay: Option<Duration>,
    /// Why: the next worker and `queue dead` show it.
    #[arg(long, value_name = "TEXT")]
    pub(crate) error: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Extend {
    #[command(flatten)]
    pub(crate) lease: OneLease,
    /// How long the job is leased from now on.
    #[arg(long, value_name = "D", default_value = "30s", value_parser = time::parse_span)]
    pub(crate) visibility: Duration,
}

/// List the jobs that were given up: number, deliveries, when, payload, the last error.
///
/// With --requeue or --clear, print how many there were. Exit 1 when there is no such queue.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Dead {
    /// The queue, its bytes as they are.
    pub(crate) name: OsString,
    /// Deliver them all again.
    #[arg(long, conflicts_with_all = ["clear", "json"])]
    pub(crate) requeue: bool,
    /// Remove them all for good.
    #[arg(long, conflicts_with = "json")]
    pub(crate) clear: bool,
    /// One JSON object a line: job, attempts, priority, died_at, error, payload.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Shown {
    /// One JSON object a line: name, depth, in_flight, dead, max_attempts.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Stats {
    /// The queue, its bytes as they are.
    pub(crate) name: OsString,
    #[command(flatten)]
    pub(crate) shown: Shown,
}
