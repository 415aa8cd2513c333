//! Sessions in three instances of an app: a visitor logs in through one instance, and the next
//! request of that visitor comes to another one.
//!
//! `cargo run --release --example sessions` logs 2000 visitors in. Each time it asks the two other
//! instances, right after the login was acknowledged, and counts those that still see a session
//! without a user. With `Quorum::EveryLive`, the default, every replica that is alive has the login
//! by then. With W = 2 of three one of them might not. Later requests prolong the session and end
//! it, each through another instance.
#![allow(clippy::disallowed_methods, reason = "an app measures time")]

use std::error::Error;
use std::time::{Duration, Instant};

use gridkv::{Config, Engine, Quorum, ReadError, WriteOptions};

const INSTANCES: usize = 3;
const LOGINS: usize = 2000;
const HALF_AN_HOUR: Duration = Duration::from_secs(1800);
/// Longer than anything here should take.
const LATE: Duration = Duration::from_secs(30);

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let mut instances: Vec<Engine> = Vec::new();
    for number in 0..INSTANCES {
        let seeds = instances.first().and_then(Engine::address).map(|address| address.to_string());
        let config = Config::new(format!("app-{number}"), "127.0.0.1:0");
        instances.push(Engine::start(config.seeds(seeds))?);
    }
    instances[0].wait_until_safe(LATE)?;
    println!("{INSTANCES} instances; {LOGINS} logins with each quorum\n");
    println!("quorum       logins a second   not seen by another instance");
    for (name, quorum) in [("W = 2", Quorum::Count(2)), ("EveryLive", Quorum::EveryLive)] {
        let (start, mut not_seen) = (Instant::now(), 0);
        for visitor in 0..LOGINS {
            not_seen += log_in(&instances, &format!("session:{name}:{visitor}"), quorum)?;
        }
        let rate = LOGINS as f64 / start.elapsed().as_secs_f64();
        println!("{name:9} {rate:18.0} {not_seen:30}");
    }
    for visitor in 0..LOGINS {
        let session = format!("session:EveryLive:{visitor}");
        let [first, second, third] = [0, 1, 2].map(|next| &instances[(visitor + next) % INSTANCES]);
        if !first.touch(&session, HALF_AN_HOUR)? {
            return Err(format!("{session} is not there to be prolonged").into());
        }
        second.delete(&session)?;
        if third.get(&session)?.is_some() {
            return Err(format!("{session} is there after the logout").into());
        }
    }
    println!("\nall prolonged, and logged out");
    Ok(())
}

/// Begins a session and logs its visitor in, through one instance. Returns how many of the others
/// do not see the login.
fn log_in(instances: &[Engine], session: &str, quorum: Quorum) -> Result<usize> {
    let options = WriteOptions::new().ttl(HALF_AN_HOUR).quorum(quorum);
    let (first, others) = instances.split_first().ok_or("no instance runs")?;
    first.set_with(session, "guest", &options.clone().quorum(Quorum::EveryLive))?;
    first.set_with(session, "Ada", &options)?;
    let mut not_seen = 0;
    for other in others {
        not_seen += usize::from(user(other, session)?.as_deref() != Some(b"Ada"));
    }
    Ok(not_seen)
}

/// Returns the user of a session, if there is such a session.
fn user(instance: &Engine, session: &str) -> Result<Option<Vec<u8>>> {
    match instance.get(session) {
        // It is not certain that the session is gone: to log the visitor out would be wrong.
        Err(ReadError::Unconfirmed { .. }) => Err("try again in a moment".into()),
        found => Ok(found?),
    }
}
