//! A deque that several processes may share: both ends, any index, and one atomic change with a cache.

use larder::{Cache, Deque};

fn main() -> larder::Result<()> {
    let cache = Cache::temporary()?; // or Cache::open("some/dir")
    let jobs = Deque::<String>::of(&cache, "jobs")?.named("job/v1");

    jobs.extend(["wash", "dry", "fold"].map(String::from))?;
    jobs.push_front(&"collect".to_owned())?;
    println!("first {:?}, last {:?}", jobs.peek_front()?, jobs.get(-1)?);

    // What was taken and what came of it, together or not at all.
    cache.transact(|tx| {
        if let Some(job) = jobs.pop_front()? {
            tx.set(&job, "done")?;
        }
        Ok(())
    })?;
    println!("collect: {:?}", cache.get("collect")?);

    jobs.rotate(1)?;
    jobs.reverse()?;
    println!("turned: {:?}", jobs.to_vec()?);
    jobs.remove_value(&"wash".to_owned())?;
    assert!(jobs.equals(["dry", "fold"].map(String::from))?);

    // The last three, whatever comes.
    let recent = Deque::<u32>::of(&cache, "recent")?;
    recent.set_max_len(Some(3))?;
    recent.extend(1..=10)?;
    println!("recent: {:?}", recent.to_vec()?);
    Ok(())
}
