//! Apps whose logger is slow, or worse.

use std::io::Write;
use std::net::TcpStream;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

use gridkv::Config;
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
