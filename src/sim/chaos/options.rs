//! What the caller chooses of a schedule, and what no schedule exceeds.

use super::profile::Profile;
use crate::mutants::ProtocolMutant;

/// What [`run`](super::run) does.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ChaosOptions {
    /// The kind of trouble; `None` lets the seed choose.
    pub profile: Option<Profile>,
    /// Whether faults go on for ten minutes instead of one.
    pub long: bool,
    /// Whether every event is kept, for [`Failure::trace`](super::Failure::trace).
    pub keep_trace: bool,
    /// The rule that is left out on purpose, to test the checkers.
    #[doc(hidden)]
    pub mutant: Option<ProtocolMutant>,
}

/// How many nodes run at a time at most.
pub(super) const MAX_NODES: usize = 7;
