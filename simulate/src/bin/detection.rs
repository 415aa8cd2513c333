//! Measures how soon dead members are found, how often living ones are taken for dead, and what the
//! gossip costs: the tables in `simulate/RESULTS.md`.
//!
//! ```sh
//! cargo run --release -p gridkv-simulate --bin detection            # about ten minutes
//! cargo run --release -p gridkv-simulate --bin detection -- --quick # one
//! ```
//!
//! Processes are killed and stopped on this machine. Larger clusters, and networks that lose
//! datagrams, are simulated: membership alone, by the code of the engine. All runs use the defaults
//! of [`Config`].
#![expect(clippy::disallowed_methods, reason = "a program with threads and clocks of its own")]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{env, io, thread};

use gridkv::sim::detection::{self, DetectionOptions};
use gridkv::{Config, Engine, Event, IdleStrategy};
use rustix::process::{Pid, Signal, kill_process};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// How long a node may take for any step.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        ["--node", id, seed, local_health] => node(id, seed, local_health == "on"),
        ["--spin"] => loop {
            std::hint::spin_loop();
        },
        [] => report(false),
        ["--quick"] => report(true),
        _ => Err("usage: detection [--quick]".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a node as a process until its input ends. It prints its address, when it sees enough
/// members, and which members it finds dead.
fn node(id: &str, seed: &str, local_health: bool) -> Result<()> {
    let config = Config::new(id, "127.0.0.1:0").idle(IdleStrategy::Park).local_health(local_health);
    let config = if seed == "none" { config } else { config.seeds([seed]) };
    let engine = Engine::start(config)?;
    let events = engine.events();
    println!("listening {}", engine.address().ok_or("a node of a cluster has an address")?);
    thread::spawn(move || {
        for event in events {
            match event {
                Event::Died { node } => println!("died {node} {}", nanos_now()),
                Event::Returned => println!("returned"),
                _ => {}
            }
        }
    });
    for line in io::stdin().lines() {
        let line = line?;
        let count: usize = line.parse()?;
        let deadline = Instant::now() + PATIENCE;
        while engine.members().iter().filter(|it| it.state == gridkv::MemberState::Alive).count()
            != count
        {
            if Instant::now() > deadline {
                return Err(
                    format!("{id} never saw {count} members: {:?}", engine.members()).into()
                );
            }
            thread::sleep(Duration::from_millis(10));
        }
        println!("sees {count}");
        io::stdout().flush()?;
    }
    Ok(())
}

fn nanos_now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos())
}

/// A process of this program that runs a node.
struct Node {
    id: String,
    child: Child,
    input: Option<ChildStdin>,
    address: String,
}

/// A line that a node printed, with the number of the node.
type Said = (usize, String);

struct Cluster {
    nodes: Vec<Node>,
    said: Receiver<Said>,
    sender: Sender<Said>,
    local_health: &'static str,
    started: usize,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            let _ = node.child.kill();
            let _ = node.child.wait();
        }
    }
}

impl Cluster {
    fn start(count: usize, local_health: bool) -> Result<Self> {
        let (sender, said) = channel();
        let local_health = if local_health { "on" } else { "off" };
        let mut cluster = Self { nodes: Vec::new(), said, sender, local_health, started: 0 };
        for number in 0..count {
            let node = cluster.spawn(number)?;
            cluster.nodes.push(node);
        }
        cluster.wait_complete()?;
        Ok(cluster)
    }

    fn spawn(&mut self, number: usize) -> Result<Node> {
        self.started += 1;
        let id = format!("n{number}.{}", self.started);
        let seed = self.nodes.iter().find(|node| node.id != id && node.input.is_some());
        let seed = seed.map_or("none".to_owned(), |node| node.address.clone());
        let mut child = Command::new(env::current_exe()?)
            .args(["--node", &id, &seed, self.local_health])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut output = BufReader::new(child.stdout.take().ok_or("no output")?);
        let mut line = String::new();
        output.read_line(&mut line)?;
        let address =
            line.trim().strip_prefix("listening ").ok_or("it does not listen")?.to_owned();
        let sender = self.sender.clone();
        thread::spawn(move || {
            for line in output.lines() {
                let Ok(line) = line else { break };
                if sender.send((number, line)).is_err() {
                    break;
                }
            }
        });
        let input = child.stdin.take();
        Ok(Node { id, child, input, address })
    }

    /// Waits until all nodes see all others.
    fn wait_complete(&mut self) -> Result<()> {
        let count = self.nodes.len();
        for node in &mut self.nodes {
            writeln!(node.input.as_mut().ok_or("a node without input")?, "{count}")?;
        }
        let mut left = count;
        let deadline = Instant::now() + PATIENCE;
        while left > 0 {
            let (_, line) =
                self.said.recv_timeout(deadline.saturating_duration_since(Instant::now()))?;
            left -= usize::from(line.starts_with("sees "));
        }
        Ok(())
    }

    /// Kills a node, or stops it if `silently`. Returns after how long each of the others found it
    /// dead. Then another one is started in its place.
    fn end(&mut self, number: usize, silently: bool) -> Result<Vec<Duration>> {
        let began = nanos_now();
        self.nodes[number].input = None;
        if silently {
            let pid = Pid::from_child(&self.nodes[number].child);
            kill_process(pid, Signal::STOP)?;
        } else {
            self.nodes[number].child.kill()?;
        }
        let id = self.nodes[number].id.clone();
        let mut times = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        while times.len() + 1 < self.nodes.len() {
            let (_, line) =
                self.said.recv_timeout(deadline.saturating_duration_since(Instant::now()))?;
            let mut words = line.split(' ');
            if words.next() == Some("died") && words.next() == Some(&id) {
                let at: u128 = words.next().ok_or("no time")?.parse()?;
                times.push(Duration::from_nanos(at.saturating_sub(began) as u64));
            }
        }
        self.nodes[number].child.kill()?;
        self.nodes[number].child.wait()?;
        self.nodes[number] = self.spawn(number)?;
        self.wait_complete()?;
        Ok(times)
    }

    /// Returns how many lives were found dead within `time`, though all live.
    fn watch(&self, time: Duration) -> Result<usize> {
        let mut returned = 0;
        let deadline = Instant::now() + time;
        loop {
            match self.said.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok((_, line)) => returned += usize::from(line == "returned"),
                Err(RecvTimeoutError::Timeout) => return Ok(returned),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn report(quick: bool) -> Result<()> {
    let rounds = if quick { 5 } else { 30 };
    println!("Until a member that ends is dead to each of the others:\n");
    println!("| nodes | how it ends | rounds | median | p99 | longest |");
    println!("| ---: | --- | ---: | ---: | ---: | ---: |");
    for nodes in [3, 20] {
        let mut cluster = Cluster::start(nodes, true)?;
        for (how, silently) in [("is killed, process", false), ("is stopped, process", true)] {
            let mut times = Vec::new();
            for round in 0..rounds {
                times.extend(cluster.end(round % nodes, silently)?);
            }
            print_times(nodes, how, rounds, times);
        }
    }
    for nodes in [3, 20, 100, 1000] {
        let mut options = DetectionOptions::default();
        options.nodes = nodes;
        options.rounds = match (nodes, quick) {
            (1000, true) => 1,
            (1000, false) => 10,
            _ => rounds * 3,
        };
        let found = detection::run(1, &options);
        assert_eq!(found.unnoticed, 0, "all are found");
        print_times(nodes, "falls silent, simulated", options.rounds, found.times);
    }
    println!("\nMembers that live and are taken for dead, with local health and without:\n");
    println!("| where | time | with | without |");
    println!("| --- | ---: | ---: | ---: |");
    let minutes = if quick { 2 } else { 20 };
    for lost_per_mille in [50, 100, 200, 300] {
        let mut options = DetectionOptions::default();
        (options.nodes, options.rounds, options.lost_per_mille) = (50, 0, lost_per_mille);
        options.time = Duration::from_secs(60 * minutes);
        let found = false_deaths(&options);
        let percent = lost_per_mille / 10;
        println!(
            "| 50 nodes, {percent} % lost, simulated | {minutes} min | {} | {} |",
            found[0].0, found[1].0
        );
    }
    for lost_per_mille in [0, 50] {
        let mut options = DetectionOptions::default();
        (options.nodes, options.rounds, options.lost_per_mille) = (100, 0, lost_per_mille);
        options.stuck_nodes = 10;
        options.time = Duration::from_secs(60 * minutes);
        let found = false_deaths(&options);
        let percent = lost_per_mille / 10;
        println!(
            "| 100 nodes, of which 10 are stuck for 0 to 2 s every 0 to 2 s, {percent} % lost: the \
             other 90, simulated | {minutes} min | {} | {} |",
            found[0].0, found[1].0
        );
        println!("| the 10 themselves | {minutes} min | {} | {} |", found[0].1, found[1].1);
    }
    let seconds = if quick { 10 } else { 60 };
    let spinning: usize = 8;
    let mut found = Vec::new();
    for local_health in [true, false] {
        let cluster = Cluster::start(10, local_health)?;
        let spinners = Spinners::start(spinning)?;
        found.push(cluster.watch(Duration::from_secs(seconds))?);
        drop(spinners);
    }
    let cpus = thread::available_parallelism()?;
    println!(
        "| 10 processes, and {spinning} that spin, on {cpus} CPUs | {seconds} s | {} | {} |",
        found[0], found[1]
    );
    report_trouble(quick);
    println!("\nWhat a node sends in a second if nothing happens, headers included, simulated:\n");
    println!("| nodes | bytes |\n| ---: | ---: |");
    for nodes in [3, 10, 50, 100, 1000] {
        let mut options = DetectionOptions::default();
        (options.nodes, options.rounds) = (nodes, 0);
        println!("| {nodes} | {:.0} |", detection::run(1, &options).bytes_per_second);
    }
    Ok(())
}

/// Reports networks and members that are worse than slow: how many living members are taken for
/// dead, and how soon all agree.
fn report_trouble(quick: bool) {
    println!(
        "\nMembers in trouble, simulated: living ones that are taken for dead, and how soon all \
         agree afterwards:\n"
    );
    println!("| nodes | trouble | taken for dead | agree after |");
    println!("| ---: | --- | ---: | ---: |");
    let row = |nodes: usize, trouble: &str, change: &dyn Fn(&mut DetectionOptions)| {
        let mut options = DetectionOptions::default();
        (options.nodes, options.rounds) = (nodes, 0);
        change(&mut options);
        let found = detection::run(1, &options);
        let agreed = found
            .agreed_after
            .map_or("never".to_owned(), |it| format!("{:.1} s", it.as_secs_f64()));
        println!("| {nodes} | {trouble} | {} | {agreed} |", found.healthy_found_dead);
    };
    let come_and_go = |options: &mut DetectionOptions| {
        (options.time, options.changes, options.lost_per_mille) = (Duration::ZERO, 100, 20);
    };
    for nodes in if quick { &[100][..] } else { &[100, 300, 1000] } {
        let trouble = "100 end in 20 s, and others begin at their addresses, 2 % lost";
        row(*nodes, trouble, &come_and_go);
    }
    row(100, "500 pairs reach each other one way only, for 60 s", &|options| {
        options.one_way_cuts = 500
    });
    row(100, "5 hear nothing and are heard, for 60 s", &|options| options.deaf_nodes = 5);
    row(100, "in 3 places, 5 ms to a later one and 150 ms back, for 60 s", &|options| {
        (options.places, options.far) = (3, (Duration::from_millis(5), Duration::from_millis(150)));
        options.strangers = 1;
    });
    row(100, "20 more of another cluster that know and address all, for 60 s", &|options| {
        options.strangers = 20
    });
}

fn print_times(nodes: usize, how: &str, rounds: usize, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e3;
    println!(
        "| {nodes} | {how} | {rounds} | {:.0} ms | {:.0} ms | {:.0} ms |",
        at(50),
        at(99),
        at(100)
    );
}

/// Returns how many healthy and how many stuck nodes were taken for dead, with local health and
/// without.
fn false_deaths(options: &DetectionOptions) -> [(usize, usize); 2] {
    [true, false].map(|local_health| {
        let mut options = options.clone();
        options.local_health = local_health;
        let found = detection::run(1, &options);
        (found.healthy_found_dead, found.stuck_found_dead)
    })
}

/// Processes that use all the processor time they can get.
struct Spinners(Vec<Child>);

impl Spinners {
    fn start(count: usize) -> Result<Self> {
        let start = |_| Ok(Command::new(env::current_exe()?).arg("--spin").spawn()?);
        (0..count).map(start).collect::<Result<_>>().map(Self)
    }
}

impl Drop for Spinners {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
