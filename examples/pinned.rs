//! A service whose threads are pinned and that keeps its logic close to its data: a rate limiter.
//! One core thread has a CPU of its own, if there is more than one; the service's thread has
//! another.
//!
//! `cargo run --release --example pinned`
#![allow(clippy::disallowed_methods, reason = "an app may ask for the time")]

use std::error::Error;
use std::time::{Duration, Instant};

use gridkv::{
    Batch, Completed, Completions, Config, Engine, IdleStrategy, LocalShard, NotApplied,
    WriteOptions,
};

const CLIENTS: usize = 1000;
const MAX_REQUESTS: u64 = 100;

/// Counts a request, on the core that owns the client's key: nothing comes between the read and the
/// write.
fn admit(shard: &mut LocalShard<'_>, client: &str) -> Result<bool, NotApplied> {
    let count = shard
        .get(client)
        .ok()
        .flatten()
        .map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().unwrap_or([0; 8])));
    if count < MAX_REQUESTS {
        let minute = WriteOptions::new().ttl(Duration::from_secs(60));
        shard.set_with(client, (count + 1).to_le_bytes(), &minute)?;
    }
    Ok(count < MAX_REQUESTS)
}

fn report(what: &str, operations: usize, start: Instant) {
    println!("{what:<44} {:>6} ns each", start.elapsed().as_nanos() as usize / operations);
}

fn main() -> Result<(), Box<dyn Error>> {
    let cpus = std::thread::available_parallelism()?.get();
    let mut config = Config::standalone("limiter")
        .idle(IdleStrategy::Adaptive { max_spin: Duration::from_micros(50) });
    if cpus > 1 {
        config = config.pin_cpus([cpus - 1]);
    }
    let engine = Engine::start(config)?;
    let clients: Vec<String> = (0..CLIENTS).map(|n| format!("client {n}")).collect();

    let start = Instant::now();
    for client in &clients {
        engine.set(client, 0_u64.to_le_bytes())?;
    }
    report("one set after the other", CLIENTS, start);

    let start = Instant::now();
    let batch = clients.iter().fold(Batch::with_capacity(CLIENTS), |batch, client| {
        batch.set(client, 0_u64.to_le_bytes())
    });
    let failed = engine.apply(batch).into_iter().filter(Result::is_err).count();
    report("sets in one batch", CLIENTS, start);

    let start = Instant::now();
    let client = clients[7].clone();
    let admitted = engine.run_on("client 7", move |shard| {
        (0..200).filter(|_| admit(shard, &client) == Ok(true)).count()
    })?;
    report("requests counted on the core", 200, start);
    println!("{admitted} of 200 requests of one client were admitted, {failed} sets failed");

    // An event loop must not wait: it submits, and takes the answers when it comes round again.
    let start = Instant::now();
    let completions = Completions::new(CLIENTS);
    for client in &clients {
        engine.submit_set(&completions, client, 1_u64.to_le_bytes(), &WriteOptions::new())?;
    }
    for _ in &clients {
        assert_eq!(
            completions.next().expect("one for each").into_result(),
            Completed::Write(Ok(()))
        );
    }
    report("sets submitted, and their answers taken", CLIENTS, start);

    let start = Instant::now();
    let sum: u64 = clients
        .iter()
        .map(|client| engine.read(client, |bytes| u64::from(bytes[0])).unwrap().unwrap_or(0))
        .sum();
    report("local reads, on the caller's own thread", CLIENTS, start);
    assert_eq!(sum, CLIENTS as u64);
    Ok(())
}
