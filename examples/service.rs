//! A cache in a service: many threads, upkeep in the background, metrics for Prometheus, and an end in
//! good order on SIGTERM.
//!
//! `cargo run --example service` ends after a second; with a number it serves for so many seconds, or
//! until SIGTERM or Ctrl-C: `curl` the address it prints.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use larder::{Cache, SetOptions};

/// Set by the signals that end the service.
static IS_OVER: AtomicBool = AtomicBool::new(false);

extern "C" fn end(_signal: libc::c_int) {
    IS_OVER.store(true, Ordering::Relaxed);
}

fn end_on_signals() {
    let handler = end as extern "C" fn(libc::c_int) as libc::sighandler_t;
    for signal in [libc::SIGTERM, libc::SIGINT] {
        // SAFETY: the handler has the type that is called, and stores one atomic: safe at any instruction.
        unsafe { libc::signal(signal, handler) };
    }
}

fn is_over() -> bool {
    IS_OVER.load(Ordering::Relaxed)
}

/// What a service does all day: looks an answer up, and makes it where there is none.
fn work(cache: &Cache, thread: u64) -> larder::Result<u64> {
    let options = SetOptions::default()
        .ttl(Duration::from_secs(60))
        .tag("pages");
    let mut requests = 0;
    let mut dice = thread + 1;
    while !is_over() {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let key = format!("page/{}", (dice >> 33) % 4_000);
        if cache.get(&key)?.is_none() {
            let page = key.repeat(40);
            cache.set_with(&key, page, &options)?;
        }
        requests += 1;
        if requests % 64 == 0 {
            thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(requests)
}

/// Answers any request with the metrics.
fn answer(cache: &Cache, mut stream: TcpStream) -> Result<(), Box<dyn std::error::Error>> {
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut request = [0; 1024];
    let _request_line = stream.read(&mut request)?;
    let text = cache.metrics(&[("store", "pages")])?;
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
        text.len()
    )?;
    Ok(())
}

fn serve(cache: &Cache, listener: &TcpListener) -> std::io::Result<()> {
    listener.set_nonblocking(true)?;
    while !is_over() {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                if let Err(error) = answer(cache, stream) {
                    eprintln!("a request failed: {error}");
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                thread::sleep(Duration::from_millis(10));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What Prometheus would do.
fn scrape(listener: &TcpListener) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(listener.local_addr()?)?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let seconds = std::env::args().nth(1);
    let seconds: f64 = seconds.map_or(Ok(1.0), |text| text.parse())?;
    let end_at = Instant::now() + Duration::from_secs_f64(seconds);
    end_on_signals();

    let dir = tempfile::tempdir()?;
    let cache = Cache::builder()
        .size_limit_bytes(4 << 20)
        .background_maintenance(true) // Expires, culls and compacts, so that requests need not.
        .open(dir.path())?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("metrics: http://{}/metrics", listener.local_addr()?);

    thread::scope(|scope| -> Result<(), Box<dyn std::error::Error>> {
        let cache = &cache;
        let workers: Vec<_> = (0..8)
            .map(|thread| scope.spawn(move || work(cache, thread)))
            .collect();
        let server = scope.spawn(|| serve(cache, &listener));
        while !is_over() && Instant::now() < end_at {
            thread::sleep(Duration::from_millis(20));
        }
        // A signal may have ended the server.
        let text = scrape(&listener).unwrap_or_default();
        IS_OVER.store(true, Ordering::Relaxed);
        // In this order: nobody writes any more, then the store is closed.
        let mut requests = 0;
        for worker in workers {
            requests += worker.join().expect("no worker panics")?;
        }
        server.join().expect("the server does not panic")?;
        println!("{requests} requests");
        for line in text.lines().filter(|line| line.starts_with("larder_")) {
            println!("{line}");
        }
        Ok(())
    })?;

    // Durable, and trusted by the next to open it: no rebuild after a reboot.
    cache.close()?;
    println!("closed");
    Ok(())
}
