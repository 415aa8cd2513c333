//! A hub and two edge sites, each a data center: each app reads and writes at its own site. One
//! site is cut off, serves on, and catches up when it is back.
//!
//! The edge sites never reach each other, as shops do not that are each connected to the head
//! office. They learn of each other from the hub, and what one writes comes to the other through
//! it.
//!
//! `cargo run --release --example edge` starts a process for each site. On Linux each site gets a
//! network of its own, so that a cable can be pulled; the switch between them lets no packet pass
//! from one edge site to the other. (It is made of namespaces, by `unshare` and
//! `ip`, which needs no rights on most systems.) If that is not allowed, all sites are on one
//! network and none is cut off. The example ends with an error if anything is missing, wrong or
//! late.
#![allow(clippy::disallowed_methods, reason = "an app measures time and waits as it likes")]

use std::env;
use std::error::Error;
use std::io::{self, BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use gridkv::{Config, Engine, IdleStrategy, MemberState};

/// Each site's name, how many nodes it has, and on how many of them a key is kept.
const SITES: [(&str, usize, usize); 3] = [("hub", 3, 3), ("edge-a", 1, 1), ("edge-b", 1, 1)];
const NODES: usize = 5;
const KEYS: usize = 2000;
/// Longer than anything here should take.
const LATE: Duration = Duration::from_secs(60);

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => begin(),
        ["wired"] => run(true),
        ["site", number, network] => site(number.parse().unwrap_or(0), network == "wired"),
        _ => Err("it takes no arguments".into()),
    };
    result.map_or_else(
        |error| {
            eprintln!("failed: {error}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}

// ── the story
// ───────────────────────────────────────────────────────────────────────────────────────────

/// Runs the story again, in networks of its own, or here if these cannot be had.
fn begin() -> Result<()> {
    let is_allowed = |flags: &str| {
        let made = unshare(flags)
            .args(["ip", "link", "add", "test", "type", "bridge"])
            .stderr(Stdio::null())
            .status();
        made.is_ok_and(|status| status.success())
    };
    let Some(flags) =
        ["-n", "-Urn"].into_iter().find(|flags| cfg!(target_os = "linux") && is_allowed(flags))
    else {
        println!("*** networks of their own cannot be made here: no site is cut off ***\n");
        return run(false);
    };
    let status = unshare(flags).arg(env::current_exe()?).arg("wired").status()?;
    if status.success() { Ok(()) } else { Err("see above".into()) }
}

fn unshare(flags: &str) -> Command {
    let mut command = Command::new("unshare");
    command.arg(flags).arg("--");
    command
}

fn run(is_wired: bool) -> Result<()> {
    if is_wired {
        ip("link add switch type bridge")?;
        ip("link set switch up")?;
    }
    let mut sites =
        (0..SITES.len()).map(|site| Site::start(site, is_wired)).collect::<Result<Vec<_>>>()?;
    let [hub, edge_a, edge_b] = &mut sites[..] else { unreachable!("three of them") };

    step("five nodes in three data centers found each other", || {
        [&mut *hub, edge_a, edge_b].into_iter().try_for_each(|site| site.wait("alive", NODES))
    })?;
    step("2,000 prices written at the hub", || hub.tell(&format!("set price {KEYS} 9.99")))?;
    step("… and read at both edges, from their own memory", || {
        edge_a.wait(&format!("count price {KEYS} 9.99"), KEYS)?;
        edge_b.wait(&format!("count price {KEYS} 9.99"), KEYS)
    })?;
    step("2,000 sales written at edge a, and read at the hub", || {
        edge_a.tell(&format!("set sale-a {KEYS} 1"))?;
        hub.wait(&format!("count sale-a {KEYS} 1"), KEYS)
    })?;
    step("… and at edge b, which has no way to edge a", || {
        edge_b.wait(&format!("count sale-a {KEYS} 1"), KEYS)
    })?;
    [&mut *hub, edge_a, edge_b].into_iter().try_for_each(|site| site.wait("waiting", 0))?;

    if is_wired {
        step("edge b is cut off, and all have noticed", || {
            ip("link set site-2 down")?;
            hub.wait("alive", NODES - 1)?;
            edge_b.wait("alive", 1)
        })?;
    }
    step("edge b goes on selling: 2,000 sales, at its own prices", || {
        edge_b.tell(&format!("set sale-b {KEYS} 1"))?;
        edge_b.wait(&format!("count price {KEYS} 9.99"), KEYS)
    })?;
    step("the hub writes 2,000 prices anew", || hub.tell(&format!("set price {KEYS} 8.88")))?;
    step("both write the same key", || {
        hub.tell("set motto 1 hub")?;
        edge_b.tell("set motto 1 edge")
    })?;
    if is_wired {
        let (here, there) = (hub.number("waiting")?, edge_b.number("waiting")?);
        println!("  writes that wait: {here} at the hub, {there} at edge b");
    }

    step("edge b is back: it has the prices, the others its sales", || {
        if is_wired {
            ip("link set site-2 up")?;
        }
        [&mut *hub, edge_a, edge_b].into_iter().try_for_each(|site| site.wait("alive", NODES))?;
        edge_b.wait(&format!("count price {KEYS} 8.88"), KEYS)?;
        edge_a.wait(&format!("count price {KEYS} 8.88"), KEYS)?;
        hub.wait(&format!("count sale-b {KEYS} 1"), KEYS)?;
        edge_a.wait(&format!("count sale-b {KEYS} 1"), KEYS)
    })?;
    step("all agree on the key that both had written", || {
        [&mut *hub, edge_a, edge_b].into_iter().try_for_each(|site| site.wait("waiting", 0))?;
        let last = hub.ask("get motto-0")?;
        edge_a.wait(&format!("count motto 1 {last}"), 1)?;
        edge_b.wait(&format!("count motto 1 {last}"), 1)
    })?;
    sites.into_iter().try_for_each(Site::stop)
}

/// Does a step and prints how long it took.
fn step(what: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let start = Instant::now();
    work().map_err(|error| format!("{what}: {error}"))?;
    println!("{what:57} {:8.1} ms", start.elapsed().as_secs_f64() * 1000.0);
    Ok(())
}

// ── a site, as the story sees it
// ────────────────────────────────────────────────────────────────────────

/// A process that is told lines and answers each with one.
struct Site {
    process: Child,
    to: ChildStdin,
    from: Lines<BufReader<ChildStdout>>,
}

impl Site {
    fn start(number: usize, is_wired: bool) -> Result<Self> {
        let mut command = if is_wired { unshare("-n") } else { Command::new("env") };
        let network = if is_wired { "wired" } else { "loopback" };
        command.arg(env::current_exe()?).args(["site", &number.to_string(), network]);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (to, from) =
            (process.stdin.take().ok_or("no input")?, process.stdout.take().ok_or("no output")?);
        let mut site = Self { process, to, from: BufReader::new(from).lines() };
        if is_wired {
            // It says so once it is in a network of its own.
            site.answer()?;
            let process = site.process.id();
            ip(&format!("link add site-{number} type veth peer name eth0 netns {process}"))?;
            ip(&format!("link set site-{number} master switch up"))?;
            if number > 0 {
                // What is isolated reaches the hub, and nothing that is isolated.
                ip(&format!("link set site-{number} type bridge_slave isolated on"))?;
            }
            site.tell("plugged")?;
        }
        Ok(site)
    }

    fn answer(&mut self) -> Result<String> {
        Ok(self.from.next().ok_or("the site's process is gone")??)
    }

    fn ask(&mut self, line: &str) -> Result<String> {
        writeln!(self.to, "{line}")?;
        let answer = self.answer()?;
        match answer.strip_prefix("failed: ") {
            Some(why) => Err(format!("{line}: {why}").into()),
            None => Ok(answer),
        }
    }

    fn tell(&mut self, line: &str) -> Result<()> {
        self.ask(line).map(drop)
    }

    fn number(&mut self, line: &str) -> Result<usize> {
        Ok(self.ask(line)?.parse()?)
    }

    /// Until the answer is this number.
    fn wait(&mut self, line: &str, wanted: usize) -> Result<()> {
        let start = Instant::now();
        loop {
            let found = self.number(line)?;
            if found == wanted {
                return Ok(());
            }
            if start.elapsed() > LATE {
                return Err(format!("{line}: {found} instead of {wanted} after {LATE:?}").into());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn stop(mut self) -> Result<()> {
        drop(self.to);
        self.process.wait()?;
        Ok(())
    }
}

// ── a site, as it sees itself
// ───────────────────────────────────────────────────────────────────────────

fn site(number: usize, is_wired: bool) -> Result<()> {
    if is_wired {
        println!("here");
        let mut line = String::new();
        io::stdin().read_line(&mut line)?;
        ip("link set lo up")?;
        ip(&format!("address add {}/24 dev eth0", host(number, true)))?;
        ip("link set eth0 up")?;
        println!("ok");
    }
    let engines = start_nodes(number, is_wired)?;
    for line in io::stdin().lock().lines() {
        match answer(&engines, &line?) {
            Ok(answer) => println!("{answer}"),
            Err(error) => println!("failed: {error}"),
        }
    }
    Ok(())
}

fn host(site: usize, is_wired: bool) -> String {
    if is_wired { format!("10.77.0.{}", site + 1) } else { "127.0.0.1".into() }
}

fn address(site: usize, node: usize, is_wired: bool) -> String {
    format!("{}:{}", host(site, is_wired), 17_700 + 10 * site + node)
}

/// What an app does: names its data center, and where the others can be found.
fn start_nodes(site: usize, is_wired: bool) -> Result<Vec<Engine>> {
    let (name, nodes, copies) = SITES[site];
    let start = |node: usize| {
        let config = Config::new(format!("{name}-{node}"), address(site, node, is_wired))
            .data_center(name)
            .replicas(copies)
            // The hub's nodes: a node that reaches one of them finds all others.
            .seeds((0..SITES[0].1).map(|node| address(0, node, is_wired)))
            .idle(IdleStrategy::Park);
        Ok(Engine::start(config)?)
    };
    let engines = (0..nodes).map(start).collect::<Result<Vec<_>>>()?;
    engines.iter().try_for_each(|engine| engine.wait_ready(LATE))?;
    Ok(engines)
}

fn answer(engines: &[Engine], line: &str) -> Result<String> {
    // Its first node does what is asked: any could.
    let engine = &engines[0];
    let keys = |prefix: &str, count: &str| -> Result<Vec<String>> {
        Ok((0..count.parse()?).map(|number: usize| format!("{prefix}-{number}")).collect())
    };
    match line.split(' ').collect::<Vec<_>>()[..] {
        ["set", prefix, count, value] => {
            keys(prefix, count)?.iter().try_for_each(|key| engine.set(key, value))?;
            Ok("ok".into())
        }
        ["count", prefix, count, value] => {
            let mut found = 0;
            for key in keys(prefix, count)? {
                found += usize::from(engine.get(key)?.as_deref() == Some(value.as_bytes()));
            }
            Ok(found.to_string())
        }
        ["get", key] => Ok(String::from_utf8(engine.get(key)?.ok_or("it is not there")?)?),
        ["alive"] => {
            let members = engine.members().into_iter();
            Ok(members.filter(|member| member.state == MemberState::Alive).count().to_string())
        }
        // What another data center has not confirmed yet.
        ["waiting"] => {
            let mut waiting = 0;
            for engine in engines {
                waiting += engine.stats()?.writes_to_relay;
            }
            Ok(waiting.to_string())
        }
        _ => Err(format!("{line:?} is none of the commands").into()),
    }
}

fn ip(arguments: &str) -> Result<()> {
    let output = Command::new("ip").args(arguments.split(' ')).output()?;
    let why = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("ip {arguments}: {why}").into()) }
}
