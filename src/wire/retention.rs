//! What nodes tell each other of tombstones: for whom they are kept, and what was forgotten.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Version;
use crate::types::Identity;

/// A dead member that might come back.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct AbsentMember {
    pub(crate) identity: Identity,
    pub(crate) data_center: Arc<str>,
    pub(crate) dead_for: Duration,
}

/// What a node knows of the deletes that were forgotten in a partition.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct PurgeMark {
    /// The purge horizon: up to it, a single entry whose key is not held is refused.
    pub(crate) horizon: Version,
    pub(crate) agreed: Agreed,
}

/// The latest agreement of all replicas of a list to forget something. So each of them had what was
/// acknowledged before.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub(crate) struct Agreed {
    /// The number of the list, of those from which the node's list descends without a fork; 0 if
    /// there was no agreement.
    pub(crate) list: u64,
    /// The purge horizon of the node at that time.
    pub(crate) horizon: Version,
}
