//! What is found of keys, values and names in the traffic between nodes, and in what they say.

use std::io::Write;
use std::sync::Mutex;

use gridkv::{ClusterKey, Config, Engine, Security};

use crate::attacker::{connect, frame};
use crate::support::process::{NodeProcess, wait_settled};
use crate::support::wait_until;
use crate::tap::Tap;
use crate::tls_attacker::{CLUSTER, OwnKey, PROOF, Session, read_all};
use crate::victims::{KeyFile, NODE, has, hello_of, hex, id};

const KEY: &str = "marker-key-8842ff";
const VALUE: &str = "marker-value-a06c17";

/// Runs two nodes with taps before them, and returns what passed and what they said.
fn run(flags: &[&str]) -> (Vec<Vec<u8>>, Vec<Vec<u8>>, String) {
    let taps = [Tap::new(), Tap::new()];
    let mut nodes: Vec<NodeProcess> = Vec::new();
    for (letter, tap) in ["a", "b"].into_iter().zip(&taps) {
        let own = tap.flags();
        let seed = taps[0].front.to_string();
        let mut all: Vec<&str> = own.iter().map(String::as_str).collect();
        all.extend(["--cluster", CLUSTER]);
        if letter == "b" {
            all.extend(["--seed", &seed]);
        }
        all.extend(flags);
        nodes.push(NodeProcess::start(&id(letter), &all));
    }
    wait_settled(&mut nodes);
    for node in &mut nodes {
        node.ok(&format!("set {KEY} {VALUE}"));
    }
    wait_until("some datagrams pass", || taps.iter().all(|tap| tap.passed().1.len() > 5));
    // A wrong key and a wrong file, which an error tells of.
    nodes[0].error("security required /does/not/exist");
    let (mut connections, mut datagrams) = (Vec::new(), Vec::new());
    for tap in &taps {
        let (streams, packets) = tap.passed();
        connections.extend(streams);
        datagrams.extend(packets);
    }
    let said = nodes.iter().map(NodeProcess::stderr).collect();
    (connections, datagrams, said)
}

#[test]
fn no_secret_is_found_in_the_traffic_of_secured_nodes_and_each_in_that_of_others() {
    let file = KeyFile::new();
    let (connections, datagrams, said) = run(&["--key", file.path()]);
    let count: usize = connections.iter().map(Vec::len).sum();
    println!("{count} bytes of {} directions, {} datagrams", connections.len(), datagrams.len());
    assert!(connections.len() > 1 && count > 1000);
    let names = [KEY, VALUE, NODE, CLUSTER].map(|name| name.as_bytes().to_vec());
    let secrets = [file.key.to_vec(), hex(&file.key).into_bytes()];
    for bytes in connections.iter().chain(&datagrams) {
        for part in names.iter().chain(&secrets) {
            assert!(!has(bytes, part), "{} is found", String::from_utf8_lossy(part));
        }
    }
    for part in [&hex(&file.key), VALUE, KEY] {
        assert!(!said.contains(part), "{part} is found in: {said}");
    }
    assert!(datagrams.iter().all(|datagram| datagram[0] >= 0x80), "each is sealed");
    for bytes in connections.iter().filter(|bytes| bytes.len() > 4) {
        assert!(bytes.starts_with(b"GKVS"), "{:?}", &bytes[..16.min(bytes.len())]);
    }

    let (connections, _, said) = run(&[]);
    assert!(!said.contains("panicked"));
    for name in &names {
        let is_found = connections.iter().any(|bytes| has(bytes, name));
        assert!(is_found, "{} is not found", String::from_utf8_lossy(name));
    }
}

/// Keeps each line that is logged, of every level.
struct Lines(Mutex<String>);

impl log::Log for Lines {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        *self.0.lock().unwrap() += &format!("{} {}\n", record.target(), record.args());
    }

    fn flush(&self) {}
}

static LINES: Lines = Lines(Mutex::new(String::new()));

/// The nodes are engines in this process, as the program of the other tests logs nothing.
#[test]
fn no_secret_is_found_in_what_nodes_log_and_show() {
    log::set_logger(&LINES).expect("no other test logs");
    log::set_max_level(log::LevelFilter::Trace);
    let file = KeyFile::new();
    let security = || Security::cluster_key(ClusterKey::from_file(file.path()).unwrap());
    let start = |letter: &str, seeds: Vec<String>, security: Security| {
        let config = Config::new(id(letter), "127.0.0.1:0").cluster(CLUSTER).seeds(seeds);
        let config = config.cores(1).security(security);
        let shown = format!("{config:?}");
        (Engine::start(config).unwrap(), shown)
    };
    let (first, mut said) = start("a", Vec::new(), security());
    let address = first.address().unwrap();
    let (second, shown) = start("b", vec![address.to_string()], security());
    said += &shown;
    wait_until("they see each other", || second.members().len() == 2);
    second.set(KEY, VALUE).unwrap();
    assert_eq!(first.get(KEY).unwrap().as_deref(), Some(VALUE.as_bytes()));
    // Hosts with another key, with the right one and a wrong proof, and without.
    let (keys, own) = (file.keys(), OwnKey::new());
    let opening = keys.opening(&own.hash);
    let mut session = Session::open(address, &opening, &own).expect("the key opens");
    session.send(&frame(PROOF, &[7; 240]));
    session.until_closed();
    let other = KeyFile::new();
    assert!(Session::open(address, &other.keys().opening(&own.hash), &own).is_err());
    let mut plain = connect(address);
    plain.write_all(&hello_of("x")).unwrap();
    said += &String::from_utf8_lossy(&read_all(&mut plain));
    let rotated = security().also_accept(ClusterKey::from_file(other.path()).unwrap());
    said += &format!("{rotated:?} {first:?} {:?}", first.stats().unwrap());
    first.update_security(rotated).unwrap();
    let twice = security().also_accept(ClusterKey::from_file(file.path()).unwrap());
    let error = first.update_security(twice).unwrap_err();
    said += &format!("{error} {error:?} {:?}", first.members());
    drop((first, second));
    said += &LINES.0.lock().unwrap();
    assert!(said.lines().count() > 5, "nothing is logged: {said}");
    for key in [&file.key, &other.key] {
        // The digits, and the beginning of the numbers that `Debug` of bytes shows.
        let numbers = format!("{:?}", &key[..4]);
        let parts = [hex(key), hex(&key[..8]), numbers.trim_matches(['[', ']']).to_owned()];
        for part in parts {
            assert!(!said.contains(&part), "{part} is found in: {said}");
        }
        assert!(!has(said.as_bytes(), key));
    }
    for part in [KEY, VALUE] {
        assert!(!said.contains(part), "{part} is found in: {said}");
    }
}
