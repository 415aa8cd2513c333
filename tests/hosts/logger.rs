//! Apps whose logger is slow, or worse.

use std::io::Write;
use std::net::TcpStream;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

use gridkv::{ClusterKey, Config, Event, Security};
use log::{LevelFilter, Log, Metadata, Record};

use crate::in_own_process;
use crate::support::engines::{address, alive, cluster};
use crate::support::wait::{LATE, wait_until};

/// More lines than an engine keeps for its logger.
const LINES: usize = 3000;

/// A logger that takes lines only while it is open.
struct Gate {
    is_open: Mutex<bool>,
    changed: Condvar,
    taken: Mutex<Vec<String>>,
}

static GATE: Gate =
    Gate { is_open: Mutex::new(true), changed: Condvar::new(), taken: Mutex::new(Vec::new()) };

impl Gate {
    fn set(&self, is_open: bool) {
        *self.is_open.lock().unwrap_or_else(PoisonError::into_inner) = is_open;
        self.changed.notify_all();
    }

    fn count(&self, text: &str) -> usize {
        self.taken.lock().unwrap().iter().filter(|line| line.contains(text)).count()
    }
}

impl Log for Gate {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let is_open = self.is_open.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.changed.wait_while(is_open, |is_open| !*is_open).unwrap());
        self.taken.lock().unwrap().push(format!("{} {}", record.target(), record.args()));
    }

    fn flush(&self) {}
}

/// The logger writes to a pipe, and who read the pipe stands still. The first line stopped the
/// control thread: the node was dead for the others and took none of them for dead. The first line
/// of a core stopped that core and its keys.
#[test]
fn a_logger_that_blocks_stops_no_thread_of_the_engine() {
    in_own_process("logger::a_logger_that_blocks_stops_no_thread_of_the_engine", || {
        log::set_logger(&GATE).expect("it is the only one");
        log::set_max_level(LevelFilter::Debug);
        let mut engines = cluster(3, |config: Config| config);
        wait_until("lines come to the logger", || GATE.count("gridkv::") > 0);

        GATE.set(false);
        let gone = engines.pop().expect("there are three");
        gone.abort();
        wait_until("the others find out, and serve", || {
            engines.iter().all(|engine| alive(engine) == 2 && engine.set("key", "value").is_ok())
        });
        let port = address(&engines[0]);
        for _ in 0..LINES {
            let mut stranger = TcpStream::connect(&port).expect("it listens");
            let _ = stranger.write_all(b"GET / HTTP/1.0\r\n\r\n");
        }
        wait_until("the queue of lines is full", || {
            engines[0].stats().expect("it runs").dropped_log_lines > 0
        });
        engines[1].set("key", "another").expect("it serves");
        assert_eq!(engines[0].get("key").expect("it serves").as_deref(), Some(&b"another"[..]));

        let start = Instant::now();
        let left = engines.pop().expect("there are two");
        left.leave(LATE).expect("there is another");
        drop((left, gone));
        assert!(start.elapsed() < LATE / 2, "{:?}", start.elapsed());

        GATE.set(true);
        wait_until("the logger is told what it missed", || {
            GATE.count("of the log were dropped") > 0
        });
        let probes = "an HTTP probe, or a scan of ports";
        assert!(GATE.count(probes) <= 1, "a line for each of {LINES} probes");
    });
}

/// A known key, as it stands in no line.
const DIGITS: &str = "8f0c6be1a2d94735bb90e1f64a5c2d7e03fd1b6a9c48e5720d3fa16b7c92e854";

/// All levels are on, and two nodes meet. No line has five bytes of the key in a row.
#[test]
fn the_log_says_that_security_is_optional_and_shows_no_key() {
    in_own_process("logger::the_log_says_that_security_is_optional_and_shows_no_key", || {
        log::set_logger(&GATE).expect("it is the only one");
        log::set_max_level(LevelFilter::Trace);
        let security = || Security::cluster_key(ClusterKey::from_hex(DIGITS).expect("a key"));
        let engines = cluster(2, |config: Config| config.security(security().optional()));
        let line = "security is optional: any host that reaches";
        wait_until("both nodes have said it", || GATE.count(line) == 2);
        let events = engines[0].events();
        engines[0].update_security(security()).expect("it has a key");
        engines[0].update_security(security().optional()).expect("it has a key");
        let is_update = |event: &Event| matches!(event, Event::SecurityUpdated { .. });
        assert_eq!(events.filter(is_update).take(2).count(), 2);
        wait_until("it is said again", || GATE.count(line) == 3);
        assert_eq!(GATE.count("required security, which is optional from now on"), 1);
        assert_eq!(GATE.count("without encryption"), 0);
        engines[0].set("key", "value").expect("it serves");
        drop(engines);

        let byte = |at| u8::from_str_radix(&DIGITS[at..at + 2], 16).expect("digits");
        for start in (0..DIGITS.len() - 10).step_by(2) {
            let list: Vec<String> =
                (start..start + 10).step_by(2).map(|at| byte(at).to_string()).collect();
            assert_eq!(GATE.count(&DIGITS[start..start + 10]), 0);
            assert_eq!(GATE.count(&list.join(", ")), 0);
        }
        assert!(GATE.count("gridkv::") > 10);
    });
}
