//! Pins threads to CPUs.

use std::io;

/// Why a thread could not be pinned.
#[derive(Debug)]
pub(crate) enum PinError {
    /// The CPU does not exist, or this process is not allowed to use it; it may use these.
    NotAllowed {
        allowed: Vec<usize>,
    },
    System(io::Error),
}

/// Lets the calling thread run on this CPU alone.
///
/// Whether it is allowed is found out by trying. The mask of the thread that starts an engine says
/// nothing about another thread, since an app may pin its own threads.
#[cfg(target_os = "linux")]
pub(crate) fn pin(cpu: usize) -> Result<(), PinError> {
    use rustix::io::Errno;
    use rustix::thread::{CpuSet, sched_setaffinity};

    let is_allowed = |cpu: usize| {
        let mut set = CpuSet::new();
        set.set(cpu);
        sched_setaffinity(None, &set)
    };
    let outcome = if cpu < CpuSet::MAX_CPU { is_allowed(cpu) } else { Err(Errno::INVAL) };
    outcome.map_err(|error| match error {
        Errno::INVAL => PinError::NotAllowed {
            allowed: (0..CpuSet::MAX_CPU).filter(|cpu| is_allowed(*cpu).is_ok()).collect(),
        },
        error => PinError::System(error.into()),
    })
}

/// Returns the CPUs that the calling thread may run on; none if the system does not tell.
#[cfg(target_os = "linux")]
pub(crate) fn allowed_here() -> Vec<usize> {
    use rustix::thread::{CpuSet, sched_getaffinity};

    let Ok(set) = sched_getaffinity(None) else { return Vec::new() };
    (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect()
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn allowed_here() -> Vec<usize> {
    Vec::new()
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn pin(_: usize) -> Result<(), PinError> {
    Err(PinError::System(io::ErrorKind::Unsupported.into()))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_that_is_not_there_is_refused_and_the_others_named() {
        let pinning = std::thread::Builder::new().spawn(|| {
            let Err(PinError::NotAllowed { allowed }) = pin(usize::MAX) else {
                panic!("it is not there")
            };
            pin(allowed[0]).expect("it may be used");
            assert_eq!(rustix::thread::sched_getcpu(), allowed[0]);
        });
        pinning.unwrap().join().unwrap();
    }
}
