//! Three apps form a cluster, one is killed, nothing is lost, and the copies are restored.
//!
//! `cargo run --release --example cluster [FOLDER]` stores every file below FOLDER (this crate's
//! `src` by default) and 10,000 sessions. It ends with an error if anything is missing, wrong or
//! late.
#![allow(clippy::disallowed_methods, reason = "an app measures time and waits as it likes")]

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use gridkv::{Config, Engine, Event, Events, MemberState};

const COPIES: usize = 3;
const SESSIONS: usize = 10_000;
/// Longer than anything here should take.
const LATE: Duration = Duration::from_secs(30);
/// How soon the others must notice that one is gone.
const NOTICED_WITHIN: Duration = Duration::from_secs(1);

type Result<T> = std::result::Result<T, Box<dyn Error>>;
/// The keys that are stored: of files, and of sessions.
type Keys = BTreeMap<Vec<u8>, Option<PathBuf>>;

fn main() -> ExitCode {
    let folder = env::args().nth(1).unwrap_or(concat!(env!("CARGO_MANIFEST_DIR"), "/src").into());
    let result = run(Path::new(&folder));
    result.map_or_else(
        |error| {
            eprintln!("failed: {error}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}

fn run(folder: &Path) -> Result<()> {
    let mut keys: Keys =
        (0..SESSIONS).map(|n| (format!("session:{n:08x}").into_bytes(), None)).collect();
    add_files(folder, &mut keys)?;
    let files = keys.len() - SESSIONS;
    println!(
        "{files} files below {} and {SESSIONS} sessions, {COPIES} copies of each\n",
        folder.display()
    );

    let a = start("a", None)?;
    let b = start("b", Some(&a))?;
    let c = start("c", Some(&a))?;
    let mut engines = vec![a, b, c];
    step("three engines found each other", || engines.iter().try_for_each(wait_for_members))?;
    step("everything written, a third through each", || write(&engines, &keys))?;
    step("everything read through each of the three", || read(&engines, &keys))?;

    let killed = engines.swap_remove(2);
    let events: Vec<Events> = engines.iter().map(Engine::events).collect();
    let noticed = step("c killed, and both others noticed", || {
        killed.abort();
        events.iter().try_for_each(|events| wait_for_death(events, "c"))
    })?;
    if noticed > NOTICED_WITHIN {
        return Err(format!("noticed after {noticed:?}, later than {NOTICED_WITHIN:?}").into());
    }
    step("everything read through both survivors", || read(&engines, &keys))?;

    engines.push(start("d", Some(&engines[0]))?);
    step("d joined in place of c", || engines.iter().try_for_each(wait_for_members))?;
    step("every key has 3 copies again", || wait_for_copies(&engines, &keys))?;
    step("everything read through each of the three", || read(&engines, &keys))?;

    println!("\nnode    keys     bytes  complete partitions");
    for (name, engine) in ["a", "b", "d"].iter().zip(&engines) {
        let stats = engine.stats()?;
        println!("{name:4} {:7} {:9} {:20}", stats.keys, stats.bytes, stats.synced_partitions);
    }
    Ok(())
}

/// Does a step and prints how long it took.
fn step(what: &str, work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let start = Instant::now();
    work().map_err(|error| format!("{what}: {error}"))?;
    let took = start.elapsed();
    println!("{what:45} {:8.1} ms", took.as_secs_f64() * 1000.0);
    Ok(took)
}

fn start(name: &str, seed: Option<&Engine>) -> Result<Engine> {
    let seeds = seed.and_then(Engine::address).map(|address| address.to_string());
    Ok(Engine::start(Config::new(name, "127.0.0.1:0").seeds(seeds).replicas(COPIES))?)
}

fn wait_for_members(engine: &Engine) -> Result<()> {
    engine.wait_ready(LATE)?;
    let is_alive = |member: &gridkv::MemberInfo| member.state == MemberState::Alive;
    wait_until(|| Ok(engine.members().into_iter().filter(is_alive).count() == COPIES))
}

fn wait_for_death(events: &Events, name: &str) -> Result<()> {
    loop {
        match events.next_within(LATE).ok_or("nobody noticed")? {
            Event::Died { node } if node == *name => return Ok(()),
            _ => {}
        }
    }
}

/// Asks each node for its own copies and counts them.
fn wait_for_copies(engines: &[Engine], keys: &Keys) -> Result<()> {
    wait_until(|| {
        let mut copies: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
        for key in engines.iter().flat_map(|engine| engine.local_keys("")) {
            *copies.entry(key?).or_default() += 1;
        }
        Ok(copies.keys().eq(keys.keys()) && copies.values().all(|count| *count == COPIES))
    })
}

fn wait_until(mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !is_so()? {
        if start.elapsed() > LATE {
            return Err(format!("not after {LATE:?}").into());
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn write(engines: &[Engine], keys: &Keys) -> Result<()> {
    for ((key, file), engine) in keys.iter().zip(engines.iter().cycle()) {
        engine.set(key, expected(key, file.as_deref())?)?;
    }
    Ok(())
}

fn read(engines: &[Engine], keys: &Keys) -> Result<()> {
    for (key, file) in keys {
        let value = expected(key, file.as_deref())?;
        for engine in engines {
            let is_right = engine.read(key, |found| found == value)?;
            if is_right != Some(true) {
                let what = if is_right.is_none() { "missing" } else { "wrong" };
                return Err(format!("{what}: {}", String::from_utf8_lossy(key)).into());
            }
        }
    }
    Ok(())
}

/// What a key's value must be: what is on the disk, or made up from the key.
fn expected(key: &[u8], file: Option<&Path>) -> Result<Vec<u8>> {
    Ok(file.map_or_else(|| Ok([b"user and cart of ", key].concat()), fs::read)?)
}

fn add_files(folder: &Path, keys: &mut Keys) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if kind.is_dir() {
            add_files(&path, keys)?;
        } else if kind.is_file() {
            keys.insert(path.as_os_str().as_encoded_bytes().to_vec(), Some(path));
        }
    }
    Ok(())
}
