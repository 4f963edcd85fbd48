//! The results of a function by its arguments, whatever `serde` can serialise.

use std::time::Duration;

use larder::{Cache, Error, Memo};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Route {
    from: String,
    to: String,
    km: f64,
}

fn main() -> larder::Result<()> {
    let cache = Cache::temporary()?;
    // The third argument does not count.
    let routes = Memo::<Route>::new(&cache, "route/v1")
        .ttl(Duration::from_secs(3600))
        .ignore([2]);
    let route = |from: &str, to: &str, why: &str| {
        routes.call(&(from, to, why), || {
            println!("computing {from} - {to}");
            let km = 17.5 * from.len() as f64;
            Ok::<_, Error>(Route {
                from: from.into(),
                to: to.into(),
                km,
            })
        })
    };
    println!("{:?}", route("Ulm", "Bonn", "first")?);
    println!("{:?}", route("Ulm", "Bonn", "again")?);

    let key = routes.key_of(&("Ulm", "Bonn", ""))?;
    println!(
        "stored under {} bytes: {}",
        key.len(),
        cache.contains(&key)?
    );
    println!("forgotten: {}", routes.invalidate(&("Ulm", "Bonn", ""))?);
    route("Ulm", "Bonn", "once more")?;
    println!("all forgotten: {}", routes.invalidate_all()?);
    Ok(())
}
