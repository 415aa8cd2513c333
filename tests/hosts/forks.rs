//! Apps that fork: the engine stays with the parent.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gridkv::{Completions, Config, Engine, NotApplied, ReadError, WriteError, WriteOptions};

use crate::support::engines::{alive, cluster};
use crate::support::wait::LATE;
use crate::{Over, in_own_process};

/// How a child ends that found all as it should be.
const FINE: i32 = 42;

/// Forks. The child does `work` and ends; returns how it ended. A child that hangs fails the test.
fn in_child(work: impl FnOnce()) -> i32 {
    // SAFETY: the child goes on with this thread alone. Its allocator is the system's, which a fork
    // leaves usable, and what it does is what is tested here.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let outcome = catch_unwind(AssertUnwindSafe(work));
        // SAFETY: it ends this process, the child.
        unsafe { libc::_exit(if outcome.is_ok() { FINE } else { 1 }) };
    }
    assert!(child > 0, "{}", std::io::Error::last_os_error());
    let (start, mut status) = (Instant::now(), 0);
    // SAFETY: it waits for this process's own child.
    while unsafe { libc::waitpid(child, &mut status, libc::WNOHANG) } == 0 {
        if start.elapsed() > LATE {
            // SAFETY: as above, and the child is not waited for yet.
            unsafe { libc::kill(child, libc::SIGKILL) };
            panic!("the child hangs");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(libc::WIFEXITED(status), "the child ended with status {status:x}");
    libc::WEXITSTATUS(status)
}

/// Drops the child's only handle of an engine.
fn drop_last(engine: &Engine) {
    // SAFETY: this process never uses the other copy again.
    drop(unsafe { std::ptr::read(engine) });
}

/// Makes each kind of call, which fails at once.
fn call_everything(engine: &Engine) {
    let start = Instant::now();
    let closed = WriteError::NotApplied(NotApplied::ShutDown);
    assert_eq!(engine.get("key"), Err(ReadError::ShutDown));
    assert_eq!(engine.read("key", <[u8]>::len), Err(ReadError::ShutDown));
    assert_eq!(engine.set("key", "value"), Err(closed.clone()));
    assert_eq!(engine.set("key", [7; 100_000]), Err(closed.clone()));
    assert_eq!(engine.delete("key"), Err(closed));
    assert!(engine.run_on("key", |_| ()).is_err());
    assert!(engine.get_or_insert_with("key", None, || "value").is_err());
    let (completions, options) = (Completions::new(1), WriteOptions::new());
    assert!(engine.submit_set(&completions, "key", [7; 100_000], &options).is_err());
    assert!(engine.stats().is_err());
    assert!(engine.wait_ready(LATE).is_err());
    assert!(engine.wait_until_safe(LATE).is_err());
    assert!(engine.leave(LATE).is_err());
    engine.abort();
    assert!(engine.members().is_empty() && engine.failure().is_none());
    assert_eq!(engine.events().try_next(), None);
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

/// A child that dropped its handle waited for ever for threads that it did not have. Its reads were
/// answered with what its parent held at the fork, for as long as it lived.
#[test]
fn a_forked_child_may_drop_its_handle_and_harms_nothing() {
    in_own_process("forks::a_forked_child_may_drop_its_handle_and_harms_nothing", || {
        let engines = cluster(2, |config: Config| {
            // No time for a pause: a member that a child disturbs is noticed.
            config.replicas(2).suspicion_timeout(Duration::from_secs(1))
        });
        let lone = Engine::start(Config::standalone("lone")).expect("it starts");
        engines[0].set("key", "value").expect("there are two");
        let events = engines[0].events();
        let (is_over, lone) = (AtomicBool::new(false), &lone);
        std::thread::scope(|scope| {
            // Locks are held and queues are filled at the moment of a fork.
            for engine in [&engines[0], &engines[1], lone] {
                let is_over = &is_over;
                scope.spawn(move || {
                    for n in 0u32.. {
                        let key = n.to_le_bytes();
                        engine.set(&key[..1], [7; 5_000]).expect("the parent goes on");
                        let _ = (engine.members(), engine.stats().expect("it runs"));
                        if is_over.load(Ordering::Relaxed) {
                            return;
                        }
                    }
                });
            }
            let over = Over(&is_over);
            for round in 0..30 {
                let ended = in_child(|| match round % 3 {
                    0 => engines.iter().chain([lone]).for_each(drop_last),
                    1 => {
                        engines.iter().chain([lone]).for_each(call_everything);
                        engines.iter().chain([lone]).for_each(drop_last);
                    }
                    // As at the end of main. Handles in statics are not dropped there.
                    _ => {
                        drop_last(&engines[0]);
                        std::process::exit(FINE);
                    }
                });
                assert_eq!(ended, FINE);
            }
            drop(over);
        });
        for engine in &engines {
            assert_eq!(engine.get("key").expect("it serves").as_deref(), Some(&b"value"[..]));
            assert_eq!(alive(engine), 2);
        }
        let died = std::iter::from_fn(|| events.try_next())
            .find(|event| matches!(event, gridkv::Event::Died { .. } | gridkv::Event::Returned));
        assert_eq!(died, None);
        let [last, first] = <[Engine; 2]>::try_from(engines).expect("there are two");
        last.leave(LATE).expect("there is another");
        drop(first);
    });
}
