//! Apps that run many engines.

use std::net::TcpListener;
use std::time::Instant;

use gridkv::{Config, Engine};

use crate::in_own_process;
use crate::support::engines::{alive, start};
use crate::support::wait::{LATE, wait_until};

/// How many engines start: fewer where the compiler did not optimize much.
const ENGINES: usize = if cfg!(debug_assertions) { 16 } else { 40 };

/// Free ports of this host, which another program might take in the meantime.
fn ports(number: usize) -> Vec<String> {
    let bind = |_| TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let listeners: Vec<TcpListener> = (0..number).map(bind).collect();
    listeners.iter().map(|it| it.local_addr().expect("it is bound").to_string()).collect()
}

/// Forty engines, each a node of one cluster, start at the same moment in one process, as the tests
/// of an app do it. Each knows all others as its seeds.
#[test]
fn a_crowd_that_starts_at_once_is_ready_and_safe_in_seconds() {
    let test = "crowds::a_crowd_that_starts_at_once_is_ready_and_safe_in_seconds";
    in_own_process(test, || {
        let given = std::env::var("GRIDKV_CROWD").ok();
        let number = given.map_or(ENGINES, |text| text.parse().expect("a number"));
        let addresses = ports(number);
        let config =
            &|n: usize| Config::new(format!("n{n}"), addresses[n].clone()).seeds(addresses.clone());
        let begun = Instant::now();
        let engines: Vec<Engine> = std::thread::scope(|scope| {
            let starts: Vec<_> =
                (0..number).map(|n| scope.spawn(move || start(config(n)))).collect();
            starts.into_iter().map(|it| it.join().expect("it starts")).collect()
        });
        let started = begun.elapsed();
        for engine in &engines {
            engine.wait_ready(LATE).expect("it is ready");
        }
        let ready = begun.elapsed();
        wait_until("all know all", || engines.iter().all(|engine| alive(engine) == number));
        engines[number / 2].wait_until_safe(LATE).expect("it is safe");
        let safe = begun.elapsed();
        engines[0].set("key", "value").expect("it serves");
        let load = std::fs::read_to_string("/proc/loadavg").expect("Linux has it");
        println!(
            "{number}: started {started:.1?}, ready {ready:.1?}, safe {safe:.1?}; load {load}"
        );
    });
}
