//! A value from the store or, once for all who ask at the same time, from a function.

use std::thread;
use std::time::Duration;

use larder::{Cache, ComputeOptions, Error};

fn main() -> larder::Result<()> {
    let cache = Cache::temporary()?;
    let minute = Duration::from_secs(60);

    // Eight ask at once; threads here, but processes do as well.
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let page = cache.get_or_compute("/index", minute, || {
                    println!("rendering");
                    thread::sleep(Duration::from_millis(50));
                    Ok::<_, Error>("<h1>Larder</h1>")
                });
                assert_eq!(page.expect("a page"), "<h1>Larder</h1>");
            });
        }
    });

    // An old value is better than none: for five minutes after its time.
    let options = ComputeOptions::default()
        .ttl(Duration::ZERO)
        .stale_if_error(Duration::from_secs(300))
        .timeout(Duration::from_secs(5));
    cache.get_or_compute_with("rate", &options, || Ok::<_, Error>("1.07"))?;
    let rate = cache.get_or_compute_with("rate", &options, || {
        Err::<&str, _>(Error::Aborted {
            what: "the bank is closed".into(),
        })
    })?;
    println!("rate {}", rate.escape_ascii());

    // Several at once: what is missing is made together and stored as one batch.
    let names = ["/index", "/about", "/contact"];
    let pages = cache.get_or_compute_many(&names, minute, |missing| {
        println!("rendering {missing:?}");
        Ok::<_, Error>(
            missing
                .iter()
                .map(|name| format!("<h1>{name}</h1>"))
                .collect(),
        )
    })?;
    println!("{} pages", pages.len());
    Ok(())
}
