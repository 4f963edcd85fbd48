//! Jobs whose results are in the same store: ack and result are one batch, so each job counts once,
//! whoever is killed when.

use std::time::Duration;

use larder::{Cache, Error, Queue};

const LEASE: Duration = Duration::from_secs(30);

fn main() -> larder::Result<()> {
    let cache = Cache::temporary()?;
    let numbers = Queue::<u64>::of(&cache, "numbers")?;
    numbers.push_many(1..=10, &Default::default())?;

    // A worker that gives up between its result and its ack: neither happened.
    let job = numbers.lease(LEASE)?.expect("ten are there");
    let gave_up = cache.transact(|tx| {
        tx.incr("sum", *job as i64, 0)?;
        job.ack()?;
        Err::<(), _>(Error::Aborted {
            what: "the worker gave up".into(),
        })
    });
    println!(
        "{}: sum is {:?}",
        gave_up.expect_err("it gave up"),
        cache.get("sum")?
    );
    drop(job);

    while let Some(job) = numbers.lease(LEASE)? {
        cache.transact(|tx| {
            tx.incr("sum", *job as i64, 0)?;
            tx.set(format!("square/{}", *job), (*job * *job).to_string())?;
            job.ack()
        })?;
    }
    println!(
        "7 * 7 = {:?}",
        cache.get("square/7")?.map(|square| square.len())
    );
    assert_eq!(cache.get("sum")?.expect("a sum"), "55");
    assert_eq!(numbers.depth()? + numbers.in_flight()?, 0);
    println!("the sum of all jobs is 55");
    Ok(())
}
