//! Apps that install a filter of system calls (seccomp) when their engine runs already, as
//! sandboxes and language runtimes do at the end of their start.

use std::sync::atomic::{AtomicBool, Ordering};

use gridkv::{Config, Engine, Eviction, NotApplied, WriteError};

use crate::support::engines::{node, start, wait_settled};
use crate::support::wait::wait_until;
use crate::{Over, in_own_process};

/// How many bytes each of two engines may take.
const MEMORY: usize = 4 << 20;

/// Denies `membarrier` to all threads of this process, for good.
fn deny_membarrier(error: i32) {
    let statement = |code: u32, jt, k| libc::sock_filter { code: code as u16, jt, jf: 0, k };
    let mut filter = [
        // The number of the call, the first word of `seccomp_data`.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, libc::SYS_membarrier as u32),
        statement(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
        statement(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ERRNO | error as u32),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the program lives during the call, and its length is right.
    let outcome = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_TSYNC,
            &program,
        )
    };
    assert_eq!(outcome, 0, "{}", std::io::Error::last_os_error());
}

/// Whether the system has the fence of which this is about.
fn has_membarrier() -> bool {
    // SAFETY: it only asks.
    let commands = unsafe { libc::syscall(libc::SYS_membarrier, 0, 0, 0) };
    commands > 0 && commands & 1 << 3 != 0
}

/// Makes a call until it succeeds. A reader whose thread has to wait for a processor holds up more
/// memory than there is.
fn succeed(call: impl Fn() -> Result<(), WriteError>) {
    wait_until("a call succeeds", || match call() {
        Err(WriteError::NotApplied(NotApplied::Overloaded)) => false,
        outcome => outcome.map(|()| true).expect("a write"),
    });
}

/// Writes, overwrites and deletes several times as much as there is memory, and readers see
/// whole values of their keys.
fn churn(engine: &Engine) {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for n in (0..64u8).cycle() {
                    let value = engine.get([n]).expect("a read");
                    assert!(value.is_none_or(|value| value.len() == 10_000 && value[9999] == n));
                    if is_over.load(Ordering::Relaxed) {
                        return;
                    }
                }
            });
        }
        let _over = Over(&is_over);
        for round in 0..4 * MEMORY / (64 * 10_000) {
            for n in 0..64u8 {
                succeed(|| engine.set([n], [n; 10_000]));
                if (usize::from(n) + round) % 5 == 0 {
                    succeed(|| engine.delete([n]));
                }
            }
        }
    });
    // The garbage is freed: that is what the fence is for.
    wait_until("little is held for readers", || {
        succeed(|| engine.set("one more", "write"));
        engine.stats().expect("it runs").held_bytes < MEMORY / 8
    });
}

fn goes_on_without_membarrier(error: i32) {
    if !has_membarrier() {
        return eprintln!("skipped: this system has no membarrier");
    }
    let limited =
        |config: Config| config.max_memory(MEMORY).eviction(Eviction::None).cores(2).replicas(2);
    let first = start(limited(node("a")));
    let seed = first.address().expect("it listens").to_string();
    let engines = [start(limited(node("b")).seeds([seed])), first];
    wait_settled(&engines);
    churn(&engines[0]);
    deny_membarrier(error);
    assert!(!has_membarrier());
    for engine in &engines {
        churn(engine);
    }
}

/// An app was started, and its sandbox then denied what it did not know. From then on nothing was
/// freed, and when the memory was full, every write failed.
#[test]
fn an_engine_goes_on_when_membarrier_is_denied() {
    in_own_process("filters::an_engine_goes_on_when_membarrier_is_denied", || {
        goes_on_without_membarrier(libc::EPERM);
    });
}

/// Sandboxes of containers say that there is no such call.
#[test]
fn an_engine_goes_on_when_membarrier_is_gone() {
    in_own_process("filters::an_engine_goes_on_when_membarrier_is_gone", || {
        goes_on_without_membarrier(libc::ENOSYS);
    });
}
