//! What a test is told: how a call ended, what a node stores, what its cores have sent.

use std::time::Duration;

use crate::error::{ReadError, WriteError};

/// Names a call that was made; its [`outcome`](super::SimCluster::outcome) comes later.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct CallId(pub(super) u64);

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallResult {
    /// A write was acknowledged or failed.
    Written(Result<(), WriteError>),
    /// Whether the key got another time to live: `false` if it did not exist, or had none to lose.
    Touched(Result<bool, WriteError>),
    /// A read found a value or none, or failed.
    Read(Result<Option<Vec<u8>>, ReadError>),
}

/// What one node stores for a key: a value or a tombstone.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stored {
    /// The node.
    pub node: usize,
    /// Whether the node counts as a synced replica of the key's partition.
    pub is_synced: bool,
    /// The version: of two states the one with the higher version is newer.
    pub version: u64,
    /// The value; `None` if the key was deleted or its value expired.
    pub value: Option<Vec<u8>>,
    /// A hash of the value, which remains when the value has expired.
    pub content_hash: u32,
    /// When the value expires, in milliseconds since 1970.
    pub expires_at_ms: Option<u64>,
}

/// How many bytes the cores of a node have sent to those of other nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Traffic {
    /// Bytes that compare digests.
    pub compared: u64,
    /// Bytes that compare key by key because some were evicted, and what that copies.
    pub surveyed: u64,
    /// Bytes that copy partitions.
    pub copied: u64,
    /// All bytes, these among them.
    pub all: u64,
}

/// A node that took another one for dead, and whether that was running.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Death {
    /// When it was reported, since the start of the cluster.
    pub at: Duration,
    /// The node that reported it.
    pub by: usize,
    /// The node that was taken for dead.
    pub of: usize,
    /// Whether that node was running.
    pub is_false: bool,
}
