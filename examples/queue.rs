//! A work queue: priorities, a job that fails and comes again, a dead letter.

use std::time::Duration;

use larder::{PushOptions, Queue};

const LEASE: Duration = Duration::from_secs(30);

fn send(letter: &str, attempt: u32) -> Result<(), String> {
    match (letter, attempt) {
        ("to nobody", _) => Err("no such address".into()),
        ("to bob", 1) => Err("the line is busy".into()),
        _ => Ok(()),
    }
}

fn main() -> larder::Result<()> {
    // `Queue::open("some/dir")` keeps it, for any number of processes at once.
    let queue = Queue::<String>::temporary()?;
    queue.set_max_attempts(Some(3))?;
    for letter in ["to alice", "to bob", "to nobody"] {
        queue.push(&letter.to_owned())?;
    }
    let urgent = PushOptions::default().priority(10).key("to carol");
    queue.push_with(&"to carol".to_owned(), &urgent)?;
    let (_, is_new) = queue.push_with(&"to carol".to_owned(), &urgent)?;
    assert!(!is_new, "one is queued already");

    // A worker, in this or another process. `lease_wait` sleeps until there is a job.
    while let Some(job) = queue.lease(LEASE)? {
        match send(&job, job.attempts()) {
            Ok(()) => {
                println!("sent {} (attempt {})", job.payload(), job.attempts());
                job.ack()?;
            }
            Err(why) => {
                // Again at once; `Duration::from_secs(60)` would be in a minute.
                job.fail(why, Duration::ZERO)?;
            }
        }
    }
    for letter in queue.dead_letters()? {
        let letter = letter?;
        println!("gave {} up: {}", letter.payload, letter.error);
    }
    assert_eq!(
        (queue.depth()?, queue.in_flight()?, queue.dead()?),
        (0, 0, 1)
    );
    Ok(())
}
