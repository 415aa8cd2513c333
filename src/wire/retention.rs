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
    /// The number of the latest list, of those from which the node's list descends without a fork,
    /// all of whose replicas agreed to forget something; 0 if none did. So each of them had what
    /// was acknowledged before.
    pub(crate) list: u64,
}
