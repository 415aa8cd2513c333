//! One node of a cluster as a process of its own, told what to do on standard input.
//!
//! `cargo run --example node -- --id a --address 127.0.0.1:8001 --seed 127.0.0.1:8002`
//!
//! The first line on standard output is `listening ADDRESS`. Each command is answered there with
//! one line, or with several and a line that says `.`. A failure is answered with `failed: ` and
//! the reason. The exit code is 1 if anything failed, 2 for a wrong flag. Events go to standard
//! error.
//!
//! Commands are carried out one after the other: the next one is read when the last one is done. A
//! command that starts with `@NAME ` runs on a thread of that name, at the same time as the others,
//! and each line of its answer starts with `@NAME `, too. That makes many clients of one process.
//! (A node that has left at such a command stays until it is told to `quit`.)
//!
//! For a rolling restart, do this with one node after the other: `leave 30000`, start it again at
//! its address, `wait-safe 30000` on any node.
#![allow(clippy::disallowed_methods, reason = "an app starts threads as it likes")]

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;
use std::{env, thread};

use gridkv::{
    Certificates, ClusterKey, Config, Engine, IdleStrategy, Names, NodeIdentity, OnPartition,
    Quorum, Security, WriteOptions,
};

const USAGE: &str = "\
usage: node --id NAME [--address IP:PORT] [--advertise IP:PORT] [--seed HOST:PORT]... \
            [--cluster NAME] [--cores N]
            [--replicas N] [--write-quorum W] [--read-quorum R] \
            [--on-partition serve|majority] [--expect NODES] [--timeout-ms MS] \
            [--max-connections N]
            [--probe-period-ms MS] [--suspicion-timeout-ms MS] [--idle park|adaptive|busy]
            [--key FILE] [--accept-key FILE]... [--node-key FILE] [--deny FINGERPRINT]... \
            [--security required|optional]
            [--certificates CHAIN KEY ROOTS] [--certificate-name NAME] \
            [--certificate-step accept-only|prefer|required]
commands on standard input, one a line:
  set KEY VALUE          setq KEY VALUE QUORUM TIMEOUT_MS
  setfor KEY VALUE TTL_MS
  get KEY                del KEY
  keys [PREFIX]          members
  stats                  debt
  fingerprint            forget-identity NODE
  secured                which key each member has
  security required|optional KEY-FILE [ACCEPTED-KEY-FILE | deny=FINGERPRINT |
      certificates=CHAIN,KEY,ROOTS[,accept-only|,prefer|,NAME]...]...
  wait-ready MS          wait-safe MS
  leave [MS]             quit
  @NAME COMMAND          the same, beside the others";

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
        let count = if flag == "--certificates" { 3 } else { 1 };
        let values: Vec<String> = args.by_ref().take(count).collect();
        if values.len() < count {
            return Err(format!("{flag} needs a value, or three for --certificates").into());
        }
        flags.push((flag, values.join(",")));
    }
    let all = |name: &str| -> Vec<String> {
        flags.iter().filter(|(flag, _)| flag == name).map(|(_, value)| value.clone()).collect()
    };
    let id = all("--id").pop().ok_or("--id is missing")?;
    let address = all("--address").pop().unwrap_or("127.0.0.1:0".into());
    let mut config = Config::new(id, address).seeds(all("--seed"));
    if let Some(key) = all("--key").pop() {
        let mode = all("--security").pop().unwrap_or("required".into());
        let keys: Vec<String> = [key].into_iter().chain(all("--accept-key")).collect();
        let mut security = security(&mode, keys.iter().map(String::as_str))?;
        if let Some(path) = all("--node-key").pop() {
            security = security.identity(NodeIdentity::from_pkcs8(&std::fs::read(path)?)?);
        }
        if let Some(files) = all("--certificates").pop() {
            let how = [all("--certificate-step"), all("--certificate-name")].concat();
            let given = [vec![files], how].concat().join(",");
            security = security.certificates(certificates(&given)?);
        }
        for fingerprint in all("--deny") {
            security = security.deny([fingerprint.parse()?]);
        }
        config = config.security(security);
    }
    for (flag, value) in &flags {
        let number =
            || value.parse::<usize>().map_err(|_| format!("{flag} needs a number, not {value:?}"));
        let millis = || number().map(|ms| Duration::from_millis(ms as u64));
        config = match flag.as_str() {
            "--id" | "--address" | "--seed" => config,
            "--key" | "--accept-key" | "--node-key" | "--deny" | "--security" => config,
            "--certificates" | "--certificate-step" | "--certificate-name" => config,
            "--advertise" => config.advertise(value),
            "--cluster" => config.cluster(value),
            "--cores" => config.cores(number()?),
            "--replicas" => config.replicas(number()?),
            "--write-quorum" => config.write_quorum(number()?),
            "--read-quorum" => config.read_quorum(number()?),
            "--on-partition" => config.on_partition(match value.as_str() {
                "serve" => OnPartition::Serve,
                "majority" => OnPartition::Majority,
                _ => {
                    let text = format!("--on-partition knows serve and majority, not {value:?}");
                    return Err(text.into());
                }
            }),
            "--expect" => config.expect(number()?),
            "--max-connections" => config.max_connections(number()?),
            "--timeout-ms" => config.request_timeout(millis()?),
            "--probe-period-ms" => config.probe_period(millis()?),
            "--suspicion-timeout-ms" => config.suspicion_timeout(millis()?),
            "--idle" => config.idle(match value.as_str() {
                "park" => IdleStrategy::Park,
                "adaptive" => IdleStrategy::default(),
                "busy" => IdleStrategy::Busy,
                _ => {
                    return Err(
                        format!("--idle knows park, adaptive and busy, and not {value:?}").into()
                    );
                }
            }),
            _ => return Err(format!("there is no flag {flag}").into()),
        };
    }
    Ok(config)
}

/// Makes the security of files with cluster keys: the one that is used, and others that are
/// accepted; and of fingerprints of nodes that are kept out.
fn security<'a>(mode: &str, mut keys: impl Iterator<Item = &'a str>) -> Result<Security> {
    let first = keys.next().ok_or("the file of the cluster key is missing")?;
    let mut security = Security::cluster_key(ClusterKey::from_file(first)?);
    for path in keys {
        security = match path.split_once('=') {
            Some(("deny", fingerprint)) => security.deny([fingerprint.parse()?]),
            Some(("certificates", given)) => security.certificates(certificates(given)?),
            _ => security.also_accept(ClusterKey::from_file(path)?),
        };
    }
    match mode {
        "required" => Ok(security),
        "optional" => Ok(security.optional()),
        _ => Err(format!("--security knows required and optional, and not {mode:?}").into()),
    }
}

/// Reads certificates from `CHAIN,KEY,ROOTS`. A step of a roll-out, and names that nodes share, may
/// follow.
fn certificates(given: &str) -> Result<Certificates> {
    let mut parts = given.split(',');
    let (Some(chain), Some(key), Some(roots)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(format!("certificates are CHAIN,KEY,ROOTS, and not {given:?}").into());
    };
    let mut certificates = Certificates::from_files(chain, key, roots)?;
    let mut names = Vec::new();
    for part in parts {
        certificates = match part {
            "accept-only" => certificates.accept_only(),
            "prefer" => certificates.prefer(),
            "required" => certificates,
            name => {
                names.push(name);
                certificates
            }
        };
    }
    Ok(match names.is_empty() {
        true => certificates,
        false => certificates.names(Names::any_of(names)),
    })
}

/// Carries out commands until there are no more; says how many failed.
fn serve(engine: &Engine) -> Result<usize> {
    let events = engine.events();
    thread::spawn(move || events.for_each(|event| eprintln!("event: {event:?}")));
    if let Some(address) = engine.address() {
        writeln!(io::stdout(), "listening {address}")?;
    }
    let failed = AtomicUsize::new(0);
    thread::scope(|scope| {
        let mut clients: BTreeMap<String, Sender<String>> = BTreeMap::new();
        for line in io::stdin().lines() {
            let line = line?;
            let Some((name, command)) =
                line.strip_prefix('@').and_then(|line| line.split_once(' '))
            else {
                if answer(engine, "", &line, &failed)? {
                    break;
                }
                continue;
            };
            let client = clients.entry(name.to_owned()).or_insert_with(|| {
                let (sender, commands) = channel::<String>();
                let (name, failed) = (format!("@{name} "), &failed);
                scope.spawn(move || {
                    // If the answers are no longer read, no more commands will come.
                    commands
                        .iter()
                        .try_for_each(|command| answer(engine, &name, &command, failed).map(drop))
                });
                sender
            });
            client.send(command.to_owned())?;
        }
        // The clients carry out what they were told, and end.
        Ok::<_, Box<dyn Error>>(())
    })?;
    Ok(failed.into_inner())
}

/// Carries out a command and says how it went, every line behind `name`. Whether it was the last.
fn answer(engine: &Engine, name: &str, line: &str, failed: &AtomicUsize) -> io::Result<bool> {
    let (lines, is_last) = match command(engine, line) {
        Ok(Answer::Line(line)) => (vec![line], false),
        Ok(Answer::Lines(mut lines)) => {
            lines.push(".".into());
            (lines, false)
        }
        Ok(Answer::Last(line)) => (vec![line], true),
        Err(error) => {
            failed.fetch_add(1, Ordering::Relaxed);
            (vec![format!("failed: {error}")], false)
        }
    };
    let text: String = lines.iter().map(|line| format!("{name}{line}\n")).collect();
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(is_last)
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
        ["setfor", key, value, ttl_ms] => {
            let ttl = Duration::from_millis(ttl_ms.parse()?);
            engine.set_with(key, value, &WriteOptions::new().ttl(ttl))?;
        }
        ["del", key] => engine.delete(key)?,
        ["wait-ready", ms] => engine.wait_ready(Duration::from_millis(ms.parse()?))?,
        ["wait-safe", ms] => engine.wait_until_safe(Duration::from_millis(ms.parse()?))?,
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
            let lines = members
                .map(|member| format!("{} {} {:?}", member.id, member.address, member.state));
            return Ok(Answer::Lines(lines.collect()));
        }
        ["stats"] => return Ok(Answer::Line(format!("{:?}", engine.stats()?))),
        ["fingerprint"] => {
            let fingerprint = engine.fingerprint();
            return Ok(Answer::Line(fingerprint.map_or("none".into(), |it| it.to_string())));
        }
        ["secured"] => {
            let others = engine.members().into_iter().filter(|member| !member.is_self);
            let keys = others.map(|member| match member.cluster_key {
                Some(key) if member.security.is_some() => format!("{}={key}", member.id),
                _ => format!("{}=plain", member.id),
            });
            return Ok(Answer::Line(keys.collect::<Vec<_>>().join(" ")));
        }
        ["forget-identity", node] => engine.forget_identity(node)?,
        ["security", mode, ref keys @ ..] => {
            engine.update_security(security(mode, keys.iter().copied())?)?;
        }
        ["debt"] => return Ok(Answer::Line(format!("debt {}", engine.stats()?.redundancy_debt))),
        ["leave"] => return leave(engine, LEAVE_TIMEOUT),
        ["leave", ms] => return leave(engine, Duration::from_millis(ms.parse()?)),
        ["quit"] => return Ok(Answer::Last("ok".into())),
        _ => return Err(format!("no such command, or a word too many or too few: {line:?}").into()),
    }
    ok()
}

fn leave(engine: &Engine, timeout: Duration) -> Result<Answer> {
    engine.leave(timeout)?;
    Ok(Answer::Last("ok".into()))
}

fn keys(engine: &Engine, prefix: &str) -> Result<Answer> {
    let keys = engine.local_keys(prefix).map(|key| Ok(one_line(&key?)));
    Ok(Answer::Lines(keys.collect::<Result<_>>()?))
}

/// Returns the bytes as one line of text: a line break inside must not look like the end of the
/// answer.
fn one_line(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace('\\', "\\\\").replace('\n', "\\n")
}
