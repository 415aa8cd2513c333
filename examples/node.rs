//! One node of a cluster as a process of its own, told what to do on standard input.
//!
//! `cargo run --example node -- --id a --address 127.0.0.1:8001 --seed 127.0.0.1:8002`
//!
//! The first line on standard output is `listening ADDRESS`. Each command is answered there with one line,
//! or with several and a line that says `.`; what went wrong is on standard error, and the answer is then
//! `failed`. The exit code is 1 if anything failed, 2 for a wrong flag. Events go to standard error.
#![allow(clippy::disallowed_methods, reason = "an app starts threads as it likes")]

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;
use std::{env, thread};

use gridkv::{Config, Engine, IdleStrategy, Quorum, WriteOptions};

const USAGE: &str = "\
usage: node --id NAME [--address IP:PORT] [--seed IP:PORT]... [--cluster NAME] [--cores N]
            [--replicas N] [--write-quorum W] [--read-quorum R] [--timeout-ms MS]
            [--probe-period-ms MS] [--suspicion-timeout-ms MS] [--idle park|adaptive|busy]
commands on standard input, one a line:
  set KEY VALUE          setq KEY VALUE QUORUM TIMEOUT_MS
  get KEY                del KEY
  keys [PREFIX]          members
  stats                  wait-ready MS
  leave                  quit";

const LEAVE_TIMEOUT: Duration = Duration::from_secs(30);

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What a command answers, and whether the node goes on.
enum Answer {
    Line(String),
    /// Ended by a line of its own, a full stop.
    Lines(Vec<String>),
    Last(String),
}

fn main() -> ExitCode {
    let config = match config(env::args().skip(1)) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("error: {error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match Engine::start(config).map_err(Into::into).and_then(|engine| serve(&engine)) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn config(mut args: impl Iterator<Item = String>) -> Result<Config> {
    let mut flags = Vec::new();
    while let Some(flag) = args.next() {
        let value = args.next().ok_or_else(|| format!("{flag} needs a value"))?;
        flags.push((flag, value));
    }
    let all = |name: &str| -> Vec<String> {
        flags.iter().filter(|(flag, _)| flag == name).map(|(_, value)| value.clone()).collect()
    };
    let id = all("--id").pop().ok_or("--id is missing")?;
    let address = all("--address").pop().unwrap_or("127.0.0.1:0".into());
    let mut config = Config::new(id, address).seeds(all("--seed"));
    for (flag, value) in &flags {
        let number = || value.parse::<usize>().map_err(|_| format!("{flag} needs a number, not {value:?}"));
        let millis = || number().map(|ms| Duration::from_millis(ms as u64));
        config = match flag.as_str() {
            "--id" | "--address" | "--seed" => config,
            "--cluster" => config.cluster(value),
            "--cores" => config.cores(number()?),
            "--replicas" => config.replicas(number()?),
            "--write-quorum" => config.write_quorum(number()?),
            "--read-quorum" => config.read_quorum(number()?),
            "--timeout-ms" => config.request_timeout(millis()?),
            "--probe-period-ms" => config.probe_period(millis()?),
            "--suspicion-timeout-ms" => config.suspicion_timeout(millis()?),
            "--idle" => config.idle(match value.as_str() {
                "park" => IdleStrategy::Park,
                "adaptive" => IdleStrategy::default(),
                "busy" => IdleStrategy::Busy,
                _ => return Err(format!("--idle knows park, adaptive and busy, and not {value:?}").into()),
            }),
            _ => return Err(format!("there is no flag {flag}").into()),
        };
    }
    Ok(config)
}

/// Carries out commands until there are no more; says how many failed.
fn serve(engine: &Engine) -> Result<usize> {
    let events = engine.events();
    thread::spawn(move || events.for_each(|event| eprintln!("event: {event:?}")));
    let mut out = io::stdout();
    if let Some(address) = engine.address() {
        writeln!(out, "listening {address}")?;
    }
    let mut failed = 0;
    for line in io::stdin().lines() {
        let (text, is_last) = match command(engine, &line?) {
            Ok(Answer::Line(line)) => (line, false),
            Ok(Answer::Lines(lines)) => {
                (lines.into_iter().map(|line| line + "\n").collect::<String>() + ".", false)
            }
            Ok(Answer::Last(line)) => (line, true),
            Err(error) => {
                failed += 1;
                eprintln!("error: {error}");
                ("failed".into(), false)
            }
        };
        writeln!(out, "{text}")?;
        out.flush()?;
        if is_last {
            break;
        }
    }
    Ok(failed)
}

fn command(engine: &Engine, line: &str) -> Result<Answer> {
    let ok = || Ok(Answer::Line("ok".into()));
    match line.split_whitespace().collect::<Vec<_>>()[..] {
        ["set", key, value] => engine.set(key, value)?,
        ["setq", key, value, quorum, timeout_ms] => {
            let quorum = Quorum::Count(quorum.parse()?);
            let timeout = Duration::from_millis(timeout_ms.parse()?);
            engine.set_with(key, value, &WriteOptions::new().quorum(quorum).timeout(timeout))?;
        }
        ["del", key] => engine.delete(key)?,
        ["wait-ready", ms] => engine.wait_ready(Duration::from_millis(ms.parse()?))?,
        ["get", key] => {
            let value = engine.get(key)?;
            return Ok(Answer::Line(
                value.map_or("none".into(), |value| format!("value {}", one_line(&value))),
            ));
        }
        ["keys"] => return keys(engine, ""),
        ["keys", prefix] => return keys(engine, prefix),
        ["members"] => {
            let members = engine.members().into_iter();
            let lines = members.map(|member| format!("{} {} {:?}", member.id, member.address, member.state));
            return Ok(Answer::Lines(lines.collect()));
        }
        ["stats"] => return Ok(Answer::Line(format!("{:?}", engine.stats()?))),
        ["leave"] => {
            engine.leave(LEAVE_TIMEOUT)?;
            return Ok(Answer::Last("ok".into()));
        }
        ["quit"] => return Ok(Answer::Last("ok".into())),
        _ => return Err(format!("no such command, or a word too many or too few: {line:?}").into()),
    }
    ok()
}

fn keys(engine: &Engine, prefix: &str) -> Result<Answer> {
    let keys = engine.local_keys(prefix).map(|key| Ok(one_line(&key?)));
    Ok(Answer::Lines(keys.collect::<Result<_>>()?))
}

/// As text; a line break inside must not look like the end of the answer.
fn one_line(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace('\\', "\\\\").replace('\n', "\\n")
}
