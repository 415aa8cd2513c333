//! Clusters of nodes with a cluster key, their names, and the files with their keys.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

use crate::attacker::{HELLO, read_frame};
use crate::support::process::{NodeProcess, wait_settled};
use crate::support::{Before, LATE, wait_until};
use crate::tls_attacker::{CLUSTER, ClusterKeys, random};

/// What the id of each victim begins with.
pub(crate) const NODE: &str = "marker-node";

/// A file with a cluster key. Dropped, it is removed.
pub(crate) struct KeyFile {
    pub(crate) key: [u8; 32],
    path: PathBuf,
}

impl KeyFile {
    /// Makes a key, and writes it to a file that no other user can read.
    pub(crate) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("gridkv-security-{}-{number}.key", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = fs::remove_file(&path);
        let key = random();
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&path).unwrap();
        file.write_all(hex(&key).as_bytes()).unwrap();
        Self { key, path }
    }

    pub(crate) fn path(&self) -> &str {
        self.path.to_str().expect("its name is text")
    }

    pub(crate) fn keys(&self) -> ClusterKeys {
        ClusterKeys::of(&self.key)
    }
}

impl Drop for KeyFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the id of a victim.
pub(crate) fn id(letter: &str) -> String {
    format!("{NODE}-{letter}")
}

/// A cluster whose nodes require a key.
pub(crate) struct Victims {
    pub(crate) nodes: Vec<NodeProcess>,
    pub(crate) file: KeyFile,
    before: Option<Before>,
}

impl Victims {
    pub(crate) fn start(count: usize) -> Self {
        Self::start_with(count, &[])
    }

    /// Starts them with more flags.
    pub(crate) fn start_with(count: usize, more: &[&str]) -> Self {
        let file = KeyFile::new();
        let mut nodes: Vec<NodeProcess> = Vec::new();
        for letter in ["a", "b", "c"].into_iter().take(count) {
            let seed = nodes.first().map(NodeProcess::seed);
            let mut flags = vec!["--cluster", CLUSTER, "--key", file.path()];
            flags.extend(seed.iter().flat_map(|seed| ["--seed", seed]));
            flags.extend(more);
            nodes.push(NodeProcess::start(&id(letter), &flags));
        }
        wait_settled(&mut nodes);
        let before = Some(Before::of(&nodes));
        Self { nodes, file, before }
    }

    pub(crate) fn target(&self) -> SocketAddr {
        self.nodes[0].address
    }

    pub(crate) fn keys(&self) -> ClusterKeys {
        self.file.keys()
    }

    /// Starts a node that has the key of the cluster.
    pub(crate) fn join(&self, letter: &str, seed: &str) -> NodeProcess {
        start_with(&self.file, letter, &["--seed", seed])
    }

    /// Waits until the members are these nodes alone, hold about what they did, and serve. None of
    /// them was taken for dead, and no host has joined that is no node.
    pub(crate) fn assert_again(mut self) {
        let letters = ["a", "b", "c"].into_iter().take(self.nodes.len());
        let expected: Vec<String> = letters.map(id).collect();
        for node in &mut self.nodes {
            wait_until("the members are what they were", || living(node) == expected);
        }
        self.before.take().expect("it is taken once").assert_again(&mut self.nodes);
        for said in self.nodes.iter().map(NodeProcess::stderr) {
            assert!(!said.contains("Joined { node: \"intruder"), "{said}");
            for (what, id) in
                ["Died", "Left"].iter().flat_map(|what| expected.iter().map(move |id| (what, id)))
            {
                assert!(!said.contains(&format!("event: {what} {{ node: {id:?}")), "{said}");
            }
        }
    }
}

/// Returns the ids of the members that a node sees alive.
pub(crate) fn living(node: &mut NodeProcess) -> Vec<String> {
    let members = node.list("members").into_iter();
    let mut ids: Vec<String> = members
        .filter_map(|line| line.strip_suffix(" Alive").map(str::to_owned))
        .filter_map(|line| line.split(' ').next().map(str::to_owned))
        .collect();
    ids.sort_unstable();
    ids
}

/// Starts a node with the key in this file.
pub(crate) fn start_with(file: &KeyFile, letter: &str, more: &[&str]) -> NodeProcess {
    let flags = ["--cluster", CLUSTER, "--key", file.path()];
    NodeProcess::start(&id(letter), &[&flags, more].concat())
}

/// Returns the HELLO of a host that is no victim.
pub(crate) fn hello_of(letter: &str) -> Vec<u8> {
    hello_named(&format!("intruder-{letter}"))
}

/// Returns the HELLO of a node without security, of the victims' cluster, that wants a control
/// thread. It says the same as that of a secured one. Nothing is at its address.
pub(crate) fn hello_named(id: &str) -> Vec<u8> {
    static RECORDED: OnceLock<Mutex<BTreeMap<String, Vec<u8>>>> = OnceLock::new();
    let mut recorded = RECORDED.get_or_init(Mutex::default).lock().unwrap();
    let record = || {
        let (listener, seed) = listener();
        let node = NodeProcess::start(id, &["--cluster", CLUSTER, "--seed", &seed]);
        let (kind, hello) = read_frame(&mut accept(&listener)).expect("a node says HELLO");
        assert_eq!(kind, HELLO);
        drop(node);
        hello
    };
    recorded.entry(id.to_owned()).or_insert_with(record).clone()
}

/// Returns a listener of this test, and its address as a seed.
pub(crate) fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let seed = listener.local_addr().unwrap().to_string();
    (listener, seed)
}

/// Waits until a node dials.
pub(crate) fn accept(listener: &TcpListener) -> TcpStream {
    listener.set_nonblocking(true).unwrap();
    let mut dial = None;
    wait_until("a node dials", || {
        dial = listener.accept().ok();
        dial.is_some()
    });
    let (stream, _) = dial.expect("it has come");
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(LATE)).unwrap();
    stream.set_write_timeout(Some(LATE)).unwrap();
    stream
}

/// Whether these bytes have a part.
pub(crate) fn has(bytes: &[u8], part: &[u8]) -> bool {
    part.is_empty() || bytes.windows(part.len()).any(|here| here == part)
}

/// Checks that no node and no cluster is named in what came.
pub(crate) fn assert_no_names(what: &str, bytes: &[u8]) {
    for name in [NODE, CLUSTER] {
        let text = String::from_utf8_lossy(bytes);
        assert!(!has(bytes, name.as_bytes()), "{what}: {name} is told: {text}");
    }
}
