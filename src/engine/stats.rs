//! [`Stats`]: what a node holds and does, added up over its cores.

use super::Engine;
use crate::error::ReadError;
use crate::shard::{Call, Counts, Outcome};

/// What one node holds and does, as [`Engine::stats`] tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// How many keys have a value on this node.
    pub keys: usize,
    /// How many bytes the keys and values take, with tombstones, index and timers.
    ///
    /// This is what [`Config::max_memory`](crate::Config::max_memory) limits.
    pub bytes: usize,
    /// How many more bytes were overwritten, deleted or evicted, and are kept while readers might
    /// still look at them.
    pub held_bytes: usize,
    /// How many partitions, of 4096, this node holds completely.
    pub synced_partitions: usize,
    /// How many partitions this node should hold and is still fetching.
    pub pending_partitions: usize,
    /// How many partitions this node holds and is handing over.
    pub giving_partitions: usize,
    /// How many calls have no answer yet.
    pub calls_in_flight: usize,
    /// How many acknowledged writes some living replica has not confirmed yet.
    pub hinted_writes: usize,
    /// How many acknowledged writes another data center has not confirmed yet. Of several writes to
    /// one key, the last counts.
    pub writes_to_relay: usize,
    /// How many writes, since the start, were not sent to another data center.
    ///
    /// A write is not sent if too many wait, or if the data center was away for too long. The
    /// background comparison brings it there later.
    pub writes_not_relayed: u64,
    /// How many differences between its own and another replica's partition this node, since the
    /// start, has found and repaired.
    ///
    /// A difference counts if it stays, and once both sides are equal after they have merged. Of
    /// two replicas, one compares.
    pub partitions_repaired: u64,
    /// How much is missing, as far as this node knows, before any node may be stopped.
    ///
    /// The sum over all nodes is zero when no copy is missing, and
    /// [`Engine::wait_until_safe`] waits for that. It counts:
    ///
    /// - partitions that this node should hold and does not hold completely, because it is still
    ///   fetching them or has no room for them;
    /// - partitions that this node brought data of when it returned, until each other replica has
    ///   merged that;
    /// - partitions that it holds and has yet to give away;
    /// - partitions that began empty, because all nodes of this data center started again, until
    ///   they were compared with another one that this node reaches;
    /// - copies for which there are too few members, counted by one of the partition's replicas;
    /// - writes that it acknowledged more than 0.1 s ago and that some replica has not confirmed.
    ///   (A replica out of reach for six seconds counts only until W replicas have the write.) Such
    ///   a write is offered for 30 s. After that only the background comparison finds it.
    pub redundancy_debt: usize,
    /// How many lines of the log were dropped, since the start, because the app's logger blocked.
    pub dropped_log_lines: u64,
}

impl Engine {
    /// Returns what this node holds and does now.
    ///
    /// # Errors
    ///
    /// [`ReadError::ShutDown`], [`ReadError::EngineFailed`] or [`ReadError::WouldBlockCore`], or
    /// [`ReadError::Overloaded`] if a core does not answer within 10 s.
    pub fn stats(&self) -> Result<Stats, ReadError> {
        let mut total = Stats::default();
        for core in self.cores() {
            if let Outcome::Counts(counts) = self.ask(core, Call::Counts)? {
                total.add(&counts);
            }
        }
        total.dropped_log_lines = self.inner.runtime.dropped_log_lines();
        Ok(total)
    }
}

impl Stats {
    fn add(&mut self, core: &Counts) {
        self.keys += core.keys;
        self.bytes += core.bytes;
        self.held_bytes += core.held_bytes;
        self.synced_partitions += core.synced_partitions;
        self.pending_partitions += core.pending_partitions;
        self.giving_partitions += core.giving_partitions;
        self.calls_in_flight += core.calls_in_flight;
        self.hinted_writes += core.hinted_writes;
        self.writes_to_relay += core.writes_to_relay;
        self.writes_not_relayed += core.writes_not_relayed;
        self.partitions_repaired += core.partitions_repaired;
        self.redundancy_debt += core.redundancy_debt;
    }
}
