//! Apps with signals as a C program has them.

use std::time::Duration;

use gridkv::{Config, Engine, WriteOptions};

use crate::in_own_process;
use crate::support::engines::{address, alive, node, start};
use crate::support::wait::wait_until;

/// How often a peer ends in the middle of what it is sent.
const DEATHS: usize = 40;

/// A program in C that embeds the engine has not changed what SIGPIPE does, which is to end the
/// process. It was raised by writing to a connection whose other end had just closed: after some
/// ten deaths of peers the app was gone.
#[test]
fn no_signal_ends_an_app_whose_peers_die() {
    in_own_process("signals::no_signal_ends_an_app_whose_peers_die", || {
        sigpipe::reset();
        let pair = |config: Config| config.replicas(2).write_quorum(1);
        let engine = start(pair(node("a")));
        for number in 0..DEATHS {
            let peer = start(pair(node(&format!("b{number}"))).seeds([address(&engine)]));
            wait_until("the peer is a member", || {
                peer.wait_ready(Duration::ZERO).is_ok() && alive(&engine) == 2
            });
            write_until(&engine, || peer.get("key").is_ok_and(|found| found.is_some()));
            std::thread::scope(|scope| {
                let dies = scope.spawn(|| peer.abort());
                write_until(&engine, || dies.is_finished());
            });
            write_until(&engine, || alive(&engine) == 1);
        }
    });
}

/// Writes without a pause, so that something is always on its way to the peer.
fn write_until(engine: &Engine, is_over: impl Fn() -> bool) {
    let options = WriteOptions::new().timeout(Duration::from_millis(50));
    wait_until("the peer's state has changed", || {
        for _ in 0..100 {
            // Whether it succeeds does not matter here.
            let _ = engine.set_with("key", [7; 1000], &options);
        }
        is_over()
    });
}
