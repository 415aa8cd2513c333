//! Nodes as processes of their own, each the `node` example.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use super::{LATE, wait_until};

/// A running node. Dropped, it is killed.
pub(crate) struct NodeProcess {
    pub(crate) child: Child,
    pub(crate) address: SocketAddr,
    /// Lines on its standard output that are for no client.
    lines: Receiver<String>,
    stderr: Arc<Mutex<String>>,
    door: Door,
}

/// The way in for clients of a node, for as long as it runs.
#[derive(Clone)]
pub(crate) struct Door {
    /// `None` once it was closed.
    stdin: Arc<Mutex<Option<ChildStdin>>>,
    clients: Arc<Mutex<Clients>>,
}

/// Who gets its answers, by name. `None` once the node has ended.
type Clients = Option<BTreeMap<String, Sender<String>>>;

/// A client of a node, which may have others at the same time.
pub(crate) struct Client {
    name: String,
    lines: Receiver<String>,
    door: Door,
}

/// The `node` example, which `cargo test` builds in a folder next to that of the tests.
fn program() -> PathBuf {
    let test = std::env::current_exe().expect("this test is a program");
    let profile =
        test.parent().and_then(|deps| deps.parent()).expect("it is in target/PROFILE/deps");
    let program = profile.join("examples").join("node");
    assert!(
        program.exists(),
        "{} is missing: run `cargo test`, or `cargo build --examples`",
        program.display()
    );
    program
}

/// `launcher` is a program that becomes the node, with its arguments. It may be empty.
fn spawn_by(launcher: &[&str], id: &str, flags: &[&str]) -> Child {
    let program = program();
    let mut command = match launcher {
        [] => Command::new(program),
        [first, rest @ ..] => {
            let mut command = Command::new(first);
            command.args(rest).arg(program);
            command
        }
    };
    command
        .args(["--id", id])
        .args(flags)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the node starts")
}

pub(crate) fn spawn(id: &str, flags: &[&str]) -> Child {
    spawn_by(&[], id, flags)
}

impl NodeProcess {
    /// Silence is no sign of death for a while, where the flags do not say otherwise: the tests
    /// share their processors.
    pub(crate) fn start(id: &str, flags: &[&str]) -> Self {
        Self::start_by(&[], id, flags)
    }

    /// Starts the node by way of a program that becomes it.
    pub(crate) fn start_by(launcher: &[&str], id: &str, flags: &[&str]) -> Self {
        let mut all = vec!["--suspicion-timeout-ms", "5000", "--timeout-ms", "10000"];
        all.extend(flags);
        let mut child = spawn_by(launcher, id, &all);
        let stdin = Arc::new(Mutex::new(child.stdin.take()));
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let errors = BufReader::new(child.stderr.take().expect("it is piped"));
        let (sender, lines) = channel();
        let door = Door { stdin, clients: Arc::new(Mutex::new(Some(BTreeMap::new()))) };
        let clients = door.clients.clone();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let Some((name, answer)) =
                    line.strip_prefix('@').and_then(|line| line.split_once(' '))
                else {
                    let _ = sender.send(line);
                    continue;
                };
                if let Some(client) =
                    clients.lock().unwrap().as_ref().and_then(|clients| clients.get(name))
                {
                    // A client that has ended does not wait for its answer.
                    let _ = client.send(answer.to_owned());
                }
            }
            *clients.lock().unwrap() = None;
        });
        let stderr = Arc::new(Mutex::new(String::new()));
        let said = stderr.clone();
        thread::spawn(move || {
            for line in errors.lines().map_while(Result::ok) {
                *said.lock().unwrap() += &(line + "\n");
            }
        });
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut node = Self { child, lines, stderr, address, door };
        let first = node.line();
        let address = first.strip_prefix("listening ").and_then(|address| address.parse().ok());
        node.address = address.unwrap_or_else(|| panic!("{first:?} is not an address"));
        node
    }

    pub(crate) fn seed(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn door(&self) -> Door {
        self.door.clone()
    }

    fn line(&self) -> String {
        self.lines
            .recv_timeout(LATE)
            .unwrap_or_else(|_| panic!("no answer; it said: {}", self.stderr()))
    }

    pub(crate) fn stderr(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    /// A command that is answered with one line.
    pub(crate) fn ask(&mut self, command: &str) -> String {
        self.door.say(command).expect("it reads");
        self.line()
    }

    pub(crate) fn ok(&mut self, command: &str) {
        let answer = self.ask(command);
        assert_eq!(answer, "ok", "{command}: {}", self.stderr());
    }

    /// A command that is answered with one line, while clients go on.
    pub(crate) fn ask_beside(&self, command: &str) -> String {
        let answer = self.door.client("beside").ask(command);
        answer.unwrap_or_else(|| panic!("{command}: it is gone, and said: {}", self.stderr()))
    }

    pub(crate) fn ok_beside(&self, command: &str) {
        let answer = self.ask_beside(command);
        assert_eq!(answer, "ok", "{command}: {}", self.stderr());
    }

    /// A command that is answered with many lines.
    pub(crate) fn list(&mut self, command: &str) -> Vec<String> {
        let mut lines = vec![self.ask(command)];
        while lines.last().is_some_and(|line| line != ".") {
            assert!(!lines[0].starts_with("failed: "), "{command}: {}", lines[0]);
            lines.push(self.line());
        }
        lines.pop();
        lines
    }

    /// A command that fails; what it said why.
    pub(crate) fn error(&mut self, command: &str) -> String {
        let answer = self.ask(command);
        let why = answer.strip_prefix("failed: ");
        why.unwrap_or_else(|| panic!("{command} did not fail: {answer}")).to_owned()
    }

    /// Whether it sees another node in this state.
    pub(crate) fn sees(&mut self, id: &str, state: &str) -> bool {
        let members = self.list("members");
        members.iter().any(|line| line.starts_with(&format!("{id} ")) && line.ends_with(state))
    }

    pub(crate) fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(status.expect("there is a kill command").success());
    }

    /// Stops all of its threads, as a long pause of its host would, until [`resume`](Self::resume).
    pub(crate) fn pause(&self) {
        self.signal("-STOP");
        let tasks = format!("/proc/{}/task", self.child.id());
        let is_stopped = |task: std::io::Result<std::fs::DirEntry>| {
            let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
            status.lines().any(|line| line.starts_with("State:") && line.contains("(stopped)"))
        };
        wait_until("all its threads have stopped", || {
            std::fs::read_dir(&tasks).unwrap().all(is_stopped)
        });
    }

    pub(crate) fn resume(&self) {
        self.signal("-CONT");
    }

    /// Waits for it to end by itself.
    pub(crate) fn wait_gone(&mut self) -> ExitStatus {
        self.child.wait().expect("it ends")
    }

    /// Closes its standard input, and returns how it ends then.
    pub(crate) fn end(mut self) -> ExitStatus {
        self.door.stdin.lock().unwrap().take();
        self.wait_gone()
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Door {
    /// A new client. No two of a node have the same name.
    pub(crate) fn client(&self, name: &str) -> Client {
        let (sender, lines) = channel();
        if let Some(clients) = self.clients.lock().unwrap().as_mut() {
            clients.insert(name.to_owned(), sender);
        }
        Client { name: name.to_owned(), lines, door: self.clone() }
    }

    fn say(&self, command: &str) -> std::io::Result<()> {
        let mut stdin = self.stdin.lock().unwrap();
        let gone = std::io::ErrorKind::BrokenPipe;
        // At once: a line that two writes make could be cut by a third.
        stdin.as_mut().ok_or(gone)?.write_all(format!("{command}\n").as_bytes())
    }
}

impl Client {
    /// The answer, of one line. `None` where the node is gone.
    pub(crate) fn ask(&self, command: &str) -> Option<String> {
        self.door.say(&format!("@{} {command}", self.name)).ok()?;
        match self.lines.recv_timeout(LATE) {
            Ok(answer) => Some(answer),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => {
                panic!("no answer to {command} of client {}", self.name)
            }
        }
    }
}

/// Nodes `a`, `b`, `c`, …, that see each other and serve.
pub(crate) fn cluster(nodes: usize, flags: &[&str]) -> Vec<NodeProcess> {
    let mut all: Vec<NodeProcess> = Vec::new();
    for id in ["a", "b", "c", "d", "e"].into_iter().take(nodes) {
        let seed = all.first().map(NodeProcess::seed);
        let mut own: Vec<&str> = flags.to_vec();
        if let Some(seed) = &seed {
            own.extend(["--seed", seed]);
        }
        all.push(NodeProcess::start(id, &own));
    }
    wait_settled(&mut all);
    all
}

/// Waits until these are the living nodes and no copy is missing.
pub(crate) fn wait_settled(nodes: &mut [NodeProcess]) {
    let count = nodes.len();
    for node in nodes {
        wait_until("the members are these and hold what they should", || {
            let members = node.list("members");
            let alive = members.iter().filter(|line| line.ends_with(" Alive")).count();
            let stats = node.ask("stats");
            alive == count
                && stats.contains("pending_partitions: 0, giving_partitions: 0")
                && !stats.contains("synced_partitions: 0,")
        });
        node.ok("wait-ready 10000");
    }
}

pub(crate) fn assert_readable(nodes: &mut [NodeProcess], keys: usize) {
    for node in nodes {
        for n in 0..keys {
            assert_eq!(node.ask(&format!("get k{n}")), format!("value {n}"));
        }
    }
}

pub(crate) fn write(node: &mut NodeProcess, keys: usize) {
    for n in 0..keys {
        node.ok(&format!("set k{n} {n}"));
    }
}
