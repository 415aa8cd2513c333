//! Three apps form a cluster, one is killed, nothing is lost, and the copies are restored.
//!
//! `cargo run --release --example cluster [FOLDER]` stores every file below FOLDER (this crate's `src` by
//! default) and 10,000 sessions. It ends with an error if anything is missing, wrong or late.
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
/// What is stored: keys, and where to look up what their values must be.
type Expected = BTreeMap<Vec<u8>, Source>;

enum Source {
    File(PathBuf),
    Session(usize),
}

fn main() -> ExitCode {
    let folder = env::args().nth(1).unwrap_or(concat!(env!("CARGO_MANIFEST_DIR"), "/src").into());
    match run(Path::new(&folder)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(folder: &Path) -> Result<()> {
    let mut expected: Expected = (0..SESSIONS).map(|n| (session_key(n), Source::Session(n))).collect();
    add_files(folder, &mut expected)?;
    let files = expected.len() - SESSIONS;
    println!("{files} files below {} and {SESSIONS} sessions, {COPIES} copies of each\n", folder.display());

    let a = start("a", None)?;
    let b = start("b", Some(&a))?;
    let c = start("c", Some(&a))?;
    let mut engines = vec![a, b, c];
    step("three engines found each other", || engines.iter().try_for_each(wait_for_members))?;
    step("everything written, a third through each", || write(&engines, &expected))?;
    step("everything read through each of the three", || read(&engines, &expected))?;

    let killed = engines.swap_remove(2);
    let events: Vec<Events> = engines.iter().map(Engine::events).collect();
    let noticed = step("c killed, and both others noticed", || {
        killed.abort();
        events.iter().try_for_each(|events| wait_for_death(events, "c"))
    })?;
    if noticed > NOTICED_WITHIN {
        return Err(format!("noticed after {noticed:?}, later than {NOTICED_WITHIN:?}").into());
    }
    step("everything read through both survivors", || read(&engines, &expected))?;

    engines.push(start("d", Some(&engines[0]))?);
    step("d joined in place of c", || engines.iter().try_for_each(wait_for_members))?;
    step("every key has 3 copies again", || wait_for_copies(&engines, &expected))?;
    step("everything read through each of the three", || read(&engines, &expected))?;

    println!("\nnode   keys    bytes  complete partitions");
    for engine in &engines {
        let stats = engine.stats()?;
        let name =
            engine.members().into_iter().find(|member| member.is_self).ok_or("a node without itself")?;
        println!("{:4} {:6} {:8} {:20}", name.id, stats.keys, stats.bytes, stats.synced_partitions);
    }
    Ok(())
}

/// Does a step and prints how long it took.
fn step(what: &str, work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let start = Instant::now();
    work().map_err(|error| format!("{what}: {error}"))?;
    let took = start.elapsed();
    println!("{what:46} {:8.1} ms", took.as_secs_f64() * 1000.0);
    Ok(took)
}

fn start(name: &str, seed: Option<&Engine>) -> Result<Engine> {
    let seeds = seed.and_then(Engine::address).map(|address| address.to_string());
    Ok(Engine::start(Config::new(name, "127.0.0.1:0").seeds(seeds).replicas(COPIES))?)
}

fn wait_for_members(engine: &Engine) -> Result<()> {
    engine.wait_ready(LATE)?;
    wait_until("three living members", || {
        let members = engine.members();
        Ok(members.iter().filter(|member| member.state == MemberState::Alive).count() == COPIES)
    })
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
fn wait_for_copies(engines: &[Engine], expected: &Expected) -> Result<()> {
    wait_until("copies of every key", || {
        let mut copies: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
        for key in engines.iter().flat_map(|engine| engine.local_keys("")) {
            *copies.entry(key?).or_default() += 1;
        }
        Ok(copies.len() == expected.len() && copies.values().all(|count| *count == COPIES))
    })
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !is_so()? {
        if start.elapsed() > LATE {
            return Err(format!("still no {what} after {LATE:?}").into());
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn write(engines: &[Engine], expected: &Expected) -> Result<()> {
    for ((key, source), engine) in expected.iter().zip(engines.iter().cycle()) {
        engine.set(key, source.value()?)?;
    }
    Ok(())
}

fn read(engines: &[Engine], expected: &Expected) -> Result<()> {
    for (key, source) in expected {
        let value = source.value()?;
        for engine in engines {
            match engine.read(key, |found| found == value)? {
                Some(true) => {}
                Some(false) => return Err(format!("wrong: {}", String::from_utf8_lossy(key)).into()),
                None => return Err(format!("missing: {}", String::from_utf8_lossy(key)).into()),
            }
        }
    }
    Ok(())
}

impl Source {
    fn value(&self) -> Result<Vec<u8>> {
        match self {
            Self::File(path) => Ok(fs::read(path)?),
            Self::Session(n) => Ok(format!("{{\"user\":{n},\"cart\":[{}]}}", n * 7 % 1000).into_bytes()),
        }
    }
}

fn session_key(n: usize) -> Vec<u8> {
    format!("session:{n:08x}").into_bytes()
}

fn add_files(folder: &Path, expected: &mut Expected) -> Result<()> {
    let entries = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if kind.is_dir() {
            add_files(&path, expected)?;
        } else if kind.is_file() {
            expected.insert(path.as_os_str().as_encoded_bytes().to_vec(), Source::File(path));
        }
    }
    Ok(())
}
