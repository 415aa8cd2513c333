//! What an engine takes from its process it gives back: threads and descriptors.

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::storm::STORM;
use crate::support::engines::{address, cluster, node, start};
use crate::support::wait::{LATE, wait_until};
use crate::{engine_threads, process, thread_names};
use gridkv::{Batch, Completions, Config, Engine, RunError, StartError, WriteOptions};

/// The threads and open descriptors of this process. The thread of the test that waits for its turn
/// is not counted, nor is it when it ends.
fn usage() -> (usize, usize) {
    let threads = thread_names().into_iter().filter(|name| name != STORM);
    (threads.count(), fs::read_dir("/proc/self/fd").expect("Linux has it").count())
}

/// The CPUs that a line of a status file allows: "0-3,7".
fn allowed(status: &str) -> BTreeSet<usize> {
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .expect("Linux says it");
    let number = |text: &str| text.trim().parse::<usize>().expect("a number");
    let range = |part: &str| match part.split_once('-') {
        Some((first, last)) => number(first)..=number(last),
        None => number(part)..=number(part),
    };
    list.split(',').flat_map(range).collect()
}

/// The CPUs that an engine's thread may run on, once it has named itself.
fn thread_cpus(name: &str) -> BTreeSet<usize> {
    let mut found = None;
    wait_until(&format!("there is a thread {name}"), || {
        let mut tasks = fs::read_dir("/proc/self/task").expect("Linux has it");
        found = tasks.find_map(|task| {
            let status = fs::read_to_string(task.ok()?.path().join("status")).ok()?;
            (status.lines().next()? == format!("Name:\t{name}")).then(|| allowed(&status))
        });
        found.is_some()
    });
    found.unwrap_or_default()
}

/// Calls of every kind, until the engine has ended.
fn work(engine: &Engine, calls: &AtomicUsize) {
    let completions = Completions::new(8);
    for n in 0.. {
        let key = format!("k{n}");
        let has_ended = match n % 5 {
            0 => engine.set(&key, "v").is_err(),
            1 => engine.get(&key).is_err(),
            2 => engine.apply(Batch::new().set(&key, "v").delete(&key)).iter().any(Result::is_err),
            3 => engine.run_on(&key, |shard| shard.set("k", "v").is_ok()).is_err(),
            _ => {
                let _ = engine.submit_set(&completions, &key, "v", &WriteOptions::new());
                engine.get_or_insert_with(&key, None, || "v").is_err()
            }
        };
        if has_ended {
            return;
        }
        calls.fetch_add(1, Ordering::Relaxed);
    }
}

/// An engine that others use when it is stopped, by the last handle or by another way.
fn start_and_stop(round: usize) {
    let cores = 1 + round % 3;
    let config = match round % 4 {
        0 | 1 => Config::standalone("solo"),
        2 => node("a").replicas(1),
        // Its calls fail, for the want of another node.
        _ => node("a").request_timeout(Duration::from_millis(5)),
    };
    let engine = start(config.cores(cores));
    let calls = AtomicUsize::new(0);
    thread::scope(|scope| {
        if !round.is_multiple_of(3) {
            for _ in 0..2 {
                let (engine, calls) = (engine.clone(), &calls);
                scope.spawn(move || work(&engine, calls));
            }
            if round % 4 != 3 {
                wait_until("it is at work", || calls.load(Ordering::Relaxed) > round);
            }
        }
        match round % 5 {
            0 => engine.leave(LATE).unwrap(),
            1 if round.is_multiple_of(2) => {
                // On its own core.
                let inside = engine.clone();
                let _ = engine.run_on("k", move |_| inside.abort());
            }
            _ => engine.abort(),
        }
    });
}

/// The last handle of an engine ends on one of its own threads, which cannot join itself.
fn drop_on_its_own_core(config: Config) {
    // Long enough for the closure to be begun.
    let engine = start(config.request_timeout(Duration::from_millis(300)));
    let (go_on, wait) = flume::unbounded::<()>();
    let inside = engine.clone();
    let result = engine.run_on("k", move |_| {
        wait.recv_timeout(LATE).unwrap();
        drop(inside);
    });
    assert_eq!(result, Err(RunError::Indeterminate));
    drop(engine);
    go_on.send(()).unwrap();
}

#[test]
fn nothing_is_left_of_an_engine_that_stopped() {
    let _process = process();
    // What the process takes once and keeps, it takes now.
    drop(start(Config::standalone("warm-up")));
    // A new thread, such as that of the other test, has its parent's name until it names itself.
    wait_until("each thread has a name of its own", || {
        thread_names().windows(2).all(|pair| pair[0] != pair[1])
    });
    let before = usage();
    let is_back =
        |what: &str| wait_until(&format!("{what}: {before:?} again"), || usage() == before);

    let engine = start(Config::standalone("solo").cores(3));
    // A thread names itself, in its own time.
    wait_until("its threads", || {
        engine_threads() == ["gridkv-core-0", "gridkv-core-1", "gridkv-core-2", "gridkv-log"]
    });
    engine.set("k", "v").unwrap();
    drop(engine);
    is_back("a standalone engine was dropped");

    let engine = start(node("a").cores(2));
    wait_until("its threads", || {
        engine_threads() == ["gridkv-control", "gridkv-core-0", "gridkv-core-1", "gridkv-log"]
    });
    let taken = address(&engine);
    let with_one = usage();
    assert!(Engine::start(Config::new("b", &taken).cores(4)).is_err());
    assert_eq!(usage(), with_one, "what does not start leaves nothing");
    drop(engine);
    is_back("a lone node was dropped");

    let stops: [fn(Engine); 3] =
        [drop, |engine| engine.abort(), |engine| engine.leave(LATE).unwrap()];
    for stop in stops {
        let engines = cluster(3, |config| config.cores(2));
        for n in 0..200 {
            engines[n % 3].set(format!("k{n}"), "v").unwrap();
        }
        engines.into_iter().for_each(stop);
        is_back("three nodes were stopped");
    }

    let engines = cluster(3, |config| config.request_timeout(Duration::from_millis(500)));
    thread::scope(|scope| {
        for engine in engines {
            scope.spawn(move || {
                for n in 0.. {
                    // Until the others are gone.
                    if engine.set(format!("k{n}"), "v").is_err() || n == 500 {
                        break;
                    }
                }
            });
        }
    });
    is_back("three nodes were dropped at work, each by another thread");

    for round in 0..200 {
        start_and_stop(round);
    }
    is_back("200 engines were started and stopped, most of them at work");

    for cores in 1..4 {
        drop_on_its_own_core(Config::standalone("solo").cores(cores));
        drop_on_its_own_core(node("a").replicas(1).cores(cores));
    }
    is_back("engines ended on their own cores");

    let cpus: Vec<usize> =
        allowed(&fs::read_to_string("/proc/thread-self/status").unwrap()).into_iter().collect();
    let engine = start(Config::standalone("solo").pin_cpus(cpus.clone()));
    for (core, &cpu) in cpus.iter().enumerate() {
        assert_eq!(thread_cpus(&format!("gridkv-core-{core}")), [cpu].into());
    }
    engine.set("k", "v").unwrap();
    drop(engine);
    let last = cpus[cpus.len() - 1];
    let engine = start(node("a").pin_cpus([last]));
    assert_eq!(thread_cpus("gridkv-core-0"), [last].into());
    assert_eq!(
        thread_cpus("gridkv-control"),
        cpus.iter().copied().collect(),
        "that one is never pinned"
    );
    drop(engine);
    is_back("engines were pinned");

    // One that may be used, and one that is not there; and one that no mask has a bit for.
    for wrong in [cpus[cpus.len() - 1] + 1000, usize::MAX] {
        for config in [Config::standalone("solo"), node("a")] {
            let error = Engine::start(config.pin_cpus([cpus[0], wrong])).unwrap_err();
            let StartError::CpuNotAllowed { cpu, allowed } = &error else { panic!("{error:?}") };
            assert_eq!((*cpu, allowed), (wrong, &cpus));
            assert!(
                error.to_string().contains(&format!("CPU {wrong} cannot be pinned")),
                "{error}"
            );
            is_back("an engine did not start");
        }
    }

    let engine = start(Config::standalone("solo"));
    let events = engine.events();
    let keys = engine.local_keys("");
    drop((engine, keys));
    assert_eq!(events.next_within(Duration::ZERO), None);
    drop(events);
    is_back("a walk held the last handle");
}
