//! Tests of an engine whose threads fail, which only the engine itself can bring about.
#![expect(clippy::disallowed_methods, reason = "tests are apps: they start threads, and wait")]

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant as OsInstant};

use super::Engine;
use crate::config::Config;
use crate::error::{LeaveError, NotApplied, NotReady, ReadError, RunError};
use crate::events::MemberState;
use crate::options::{ReadOptions, WriteOptions};
use crate::runtime::completions::{Completed, Completions};
use crate::runtime::reply::NoReply;
use crate::shard::{Call, LocalShard, Outcome};
use crate::types::CoreId;

const LATE: Duration = Duration::from_secs(60);

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = OsInstant::now();
    while !is_so() {
        assert!(start.elapsed() < LATE, "in vain: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// A key of this core.
fn key_of(engine: &Engine, core: u16) -> String {
    let mut keys = (0..).map(|n| format!("key {n}"));
    keys.find(|key| engine.route(key.as_bytes()).0 == CoreId(core)).expect("each core has some")
}

/// A closure that keeps its core busy: it says when it runs, and is told when to end.
fn blocker()
-> (impl FnOnce(&mut LocalShard<'_>) -> bool + Send, mpsc::Receiver<()>, mpsc::Sender<()>) {
    let (runs, running) = mpsc::channel();
    let (go_on, wait) = mpsc::channel();
    let block = move |_: &mut LocalShard<'_>| runs.send(()).is_ok() && wait.recv().is_ok();
    (block, running, go_on)
}

fn let_fail(engine: &Engine, core: u16) -> Result<Outcome, NoReply> {
    let span = engine.span(None);
    let reply = engine.inner.runtime.send(CoreId(core), Call::Panic, None, span.deadline).unwrap();
    engine.wait(CoreId(core), reply, span)
}

/// Nothing can be done with it any more, and it says why.
fn assert_failed(engine: &Engine, key: &str) {
    assert!(engine.failure().is_some());
    assert_eq!(engine.get(key), Err(ReadError::EngineFailed));
    assert_eq!(engine.get_many(&[key]), Err(ReadError::EngineFailed));
    assert_eq!(engine.set(key, "v"), Err(NotApplied::EngineFailed.into()));
    assert_eq!(engine.run_on(key, |_| ()), Err(NotApplied::EngineFailed.into()));
    assert_eq!(engine.wait_ready(LATE), Err(NotReady::EngineFailed));
}

#[test]
fn a_core_that_panics_closes_the_engine_before_anybody_is_told() {
    let engine = Engine::start(Config::standalone("solo").cores(2)).unwrap();
    let keys = [0, 1].map(|core| key_of(&engine, core));
    keys.iter().for_each(|key| engine.set(key, "v").unwrap());
    let (block, running, go_on) = blocker();
    thread::scope(|scope| {
        // The core is busy while the others queue up behind what lets it fail.
        let (engine, keys) = (&engine, &keys);
        let busy = scope.spawn(move || engine.run_on(&keys[0], block));
        running.recv().unwrap();
        let failing = scope.spawn(move || {
            assert_eq!(let_fail(engine, 0).unwrap_err(), NoReply::Gone);
            assert_failed(engine, &keys[0]);
        });
        wait_until("it is queued", || engine.inner.runtime.queued(CoreId(0)) == 1);
        let behind: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    assert_eq!(engine.set(&keys[0], "w"), Err(NotApplied::EngineFailed.into()));
                    assert_failed(engine, &keys[1]);
                })
            })
            .collect();
        wait_until("they are queued", || engine.inner.runtime.queued(CoreId(0)) == 4);
        go_on.send(()).unwrap();
        assert_eq!(busy.join().unwrap(), Ok(true));
        failing.join().unwrap();
        behind.into_iter().for_each(|thread| thread.join().unwrap());
    });
    let why = Some("gridkv-core-0 panicked: on purpose".to_owned());
    wait_until("which thread it was is known", || engine.failure() == why);
    assert_eq!(engine.leave(LATE), Err(LeaveError::EngineFailed));
}

#[test]
fn submitted_calls_hear_of_a_failure() {
    let engine = Engine::start(Config::standalone("solo")).unwrap();
    let completions = Completions::new(10);
    let (block, running, go_on) = blocker();
    thread::scope(|scope| {
        let engine = &engine;
        let busy = scope.spawn(move || engine.run_on("k", block));
        running.recv().unwrap();
        let failing = scope.spawn(|| let_fail(engine, 0));
        wait_until("it is queued", || engine.inner.runtime.queued(CoreId(0)) == 1);
        engine.submit_set(&completions, "k", "v", &WriteOptions::new()).unwrap();
        go_on.send(()).unwrap();
        assert_eq!(busy.join().unwrap(), Ok(true));
        assert!(failing.join().unwrap().is_err());
    });
    let completion = completions.next_within(LATE).expect("each of them is answered");
    assert_eq!(completion.into_result(), Completed::Write(Err(NotApplied::EngineFailed.into())));
}

#[test]
fn a_node_whose_core_panics_leaves_the_others_its_keys() {
    let start = |id: &str, seeds: &[String]| {
        let config = Config::new(id, "127.0.0.1:0").seeds(seeds.iter().cloned());
        Engine::start(config).unwrap()
    };
    let first = start("a", &[]);
    let seeds = [first.address().unwrap().to_string()];
    let others = ["b", "c"].map(|id| start(id, &seeds));
    let engines = [&first, &others[0], &others[1]];
    let is_complete = |engine: &&Engine| engine.members().len() == 3;
    wait_until("three nodes", || engines.iter().all(is_complete));
    engines.iter().for_each(|engine| engine.wait_ready(LATE).unwrap());
    for n in 0..200 {
        engines[n % 3].set(format!("k{n}"), "v").unwrap();
    }
    let_fail(&first, 0).unwrap_err();
    assert_failed(&first, "k0");
    let died = |engine: &Engine| {
        engine
            .members()
            .iter()
            .any(|member| member.id.as_str() == "a" && member.state == MemberState::Dead)
    };
    for other in &others {
        wait_until("its death is known", || died(other));
        for n in 0..200 {
            assert_eq!(other.get(format!("k{n}")).unwrap().as_deref(), Some(&b"v"[..]), "k{n}");
        }
    }
    others[0].set("k", "v").expect("two of three are enough");
}

#[test]
fn a_closure_that_panics_is_no_failure() {
    let engine = Engine::start(Config::standalone("solo")).unwrap();
    let panics = engine.run_on("k", |_| panic!("on purpose"));
    let panics: Result<(), RunError> = panics;
    assert_eq!(panics, Err(RunError::Panicked { message: "on purpose".into() }));
    assert_eq!(engine.failure(), None);
    engine.set("k", "v").unwrap();
}

/// A submitted read took this node's word that there is nothing, when N = W, even if it was to ask
/// the other data centers: a data center that was new answered "nothing" for all that it had not
/// copied yet.
#[test]
fn a_submitted_read_of_any_data_center_asks_the_others() {
    let node = |id: &str, data_center: &str| {
        Config::new(id, "127.0.0.1:0").replicas(1).data_center(data_center)
    };
    let old = Engine::start(node("a", "old")).unwrap();
    old.wait_ready(LATE).unwrap();
    let keys: Vec<String> = (0..20).map(|n| format!("k{n}")).collect();
    keys.iter().for_each(|key| old.set(key, "v").unwrap());
    let seed = old.address().unwrap().to_string();
    let new = Engine::start(node("b", "new").seeds([seed])).unwrap();
    new.wait_ready(LATE).unwrap();
    wait_until("the old one is known", || new.members().len() == 2);
    let completions = Completions::new(keys.len());
    let anywhere = ReadOptions::new().any_data_center().timeout(LATE);
    keys.iter().for_each(|key| {
        new.submit_get(&completions, key, &anywhere).unwrap();
    });
    for _ in &keys {
        let completion = completions.next_within(LATE).expect("each of them is answered");
        let value = Ok(Some(b"v".to_vec()));
        assert_eq!(completion.into_result(), Completed::Read(value));
    }
}
