//! The heavy fence: a memory fence on every processor that runs a thread of this process, in one
//! call.

#![forbid(unsafe_code)]

use crate::store::HeavyFence;

/// Returns the fence if the system has one. Readers then need none of their own.
#[cfg(target_os = "linux")]
pub(crate) fn heavy_fence() -> Option<HeavyFence> {
    use rustix::thread::{MembarrierCommand, membarrier, membarrier_query};

    use super::clock::time_since_boot;
    use crate::logging;

    let has_it = membarrier_query().contains_command(MembarrierCommand::PrivateExpedited);
    if !has_it || membarrier(MembarrierCommand::RegisterPrivateExpedited).is_err() {
        return None;
    }
    let run = || {
        let outcome = membarrier(MembarrierCommand::PrivateExpedited);
        if let Err(error) = outcome {
            static SAID: std::sync::Once = std::sync::Once::new();
            SAID.call_once(|| {
                logging::warn!(
                    "membarrier worked and now fails ({error}): readers run a fence of their own \
                     from now on, which makes a local read slower; a filter of system calls that \
                     was installed after the start? Config::membarrier(false) does without from \
                     the beginning"
                );
            });
        }
        outcome.is_ok()
    };
    Some(HeavyFence { run, time: time_since_boot })
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn heavy_fence() -> Option<HeavyFence> {
    None
}
