//! The heavy fence: a memory fence on every processor that runs a thread of this process, in one
//! call.

use crate::logging;
use crate::store::HeavyFence;

/// Returns the fence if the system has one. Readers then need none of their own.
#[cfg(target_os = "linux")]
pub(crate) fn heavy_fence() -> Option<HeavyFence> {
    use rustix::thread::{MembarrierCommand, membarrier, membarrier_query};

    let has_it = membarrier_query().contains_command(MembarrierCommand::PrivateExpedited);
    if !has_it || membarrier(MembarrierCommand::RegisterPrivateExpedited).is_err() {
        return None;
    }
    Some(|| {
        let outcome = membarrier(MembarrierCommand::PrivateExpedited);
        if let Err(error) = outcome {
            static SAID: std::sync::Once = std::sync::Once::new();
            SAID.call_once(|| {
                logging::error!(
                    "membarrier worked and now fails ({error}): nothing that is overwritten is \
                     freed any more; a filter of system calls that was installed meanwhile? \
                     Config::membarrier(false) does without"
                );
            });
        }
        outcome.is_ok()
    })
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn heavy_fence() -> Option<HeavyFence> {
    None
}
