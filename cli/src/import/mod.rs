//! The command `import`: stores a tree of files by several processes at once.
//!
//! Owns the order: look at the tree, make the store, let the processes work, look after them.
//! Never reads a file of the tree; see the module `tree` for what stands in the store.

mod report;
mod sum;
mod walk;
pub(crate) mod worker;
mod workers;

use std::thread;
use std::time::SystemTime;

use self::sum::Sum;
use self::walk::Source;
use self::workers::Workers;
use crate::Answer;
use crate::args::Import;
use crate::entries::bytes;
use crate::failure::Result;
use crate::progress::Progress;
use crate::store::Place;

pub(crate) fn import(place: &Place, args: &Import, escaped: bool) -> Result<Answer> {
    let prefix = bytes(&args.prefix, escaped)?;
    let source = Source::new(&args.dir, place.path(), prefix)?;
    let total_bytes = if Progress::is_seen() {
        source.count_bytes()
    } else {
        0
    };
    let cache = place.open_or_create()?;
    let started_at = SystemTime::now();
    let mut sum = Sum::new(Progress::of_bytes("importing", total_bytes));
    let workers = Workers::start(&source, args.jobs.unwrap_or_else(processors))?;
    let outcome = workers.reports().try_for_each(|report| sum.add(report));
    workers.finish(outcome)?;
    sum.look_after(&cache, &source, started_at)?;
    cache.close()?;
    sum.tell()
}

fn processors() -> u16 {
    thread::available_parallelism().map_or(1, |count| count.get().min(64) as u16)
}
