//! What became of each partition's lists, as the messages between nodes tell it.
//!
//! Two members at least acknowledge a write where reads are promised to be linearizable. So a list
//! that no message has named has acknowledged nothing, and all lists are found in the messages.

use std::time::Duration;

use super::lineage::Lineage;
use super::{START, SimCluster};
use crate::placement::List;
use crate::types::Partition;
use crate::wire::message::{Answer, Listed, Request};

impl SimCluster {
    /// Keeps what a request says of its partition's lists.
    pub(super) fn hear_request(&mut self, partition: Partition, request: &Request) {
        if let Request::Accept { value: list, .. } | Request::Adopt { list, .. } = request {
            self.hear_of(partition, list);
        }
    }

    /// Keeps what an answer says of its partition's lists.
    pub(super) fn hear_answer(&mut self, partition: Partition, answer: &Answer) {
        if let Answer::OtherList { list: Some(list), .. }
        | Answer::Listed(Listed { list: Some(list), .. })
        | Answer::Promised { accepted: Some((_, list)), .. } = answer
        {
            self.hear_of(partition, list);
        }
    }

    fn hear_of(&mut self, partition: Partition, list: &List) {
        let now = self.now;
        self.lineages.entry(partition).or_default().heard(list, now);
    }

    /// Keeps that a node says of the partition that acknowledged writes might be lost.
    pub(super) fn hear_of_risk(&mut self, partition: Partition) {
        let now = self.now;
        self.lineages.entry(partition).or_default().at_risk_since.get_or_insert(now);
    }

    /// Forgets the lists that there were so far: a cluster was born again.
    pub(super) fn forget_lists(&mut self) {
        self.lineages.clear();
    }

    fn lineage(&self, key: &str) -> Option<&Lineage> {
        self.lineages.get(&self.place(key.as_bytes()).1.partition())
    }

    /// Returns when a node first said of the partition of `key` that acknowledged writes might be
    /// lost, since the start.
    pub fn at_risk_since(&self, key: &str) -> Option<Duration> {
        self.lineage(key)?.at_risk_since.map(|at| at.since(START))
    }

    /// Returns when the history of `key` first might have become two: its partition got a list that
    /// no quorum decided, or its acknowledged writes might be lost.
    pub fn parted_since(&self, key: &str) -> Option<Duration> {
        let lineage = self.lineage(key)?;
        let parted = lineage.forked_at.into_iter().chain(lineage.at_risk_since).min();
        parted.map(|at| at.since(START))
    }

    /// Returns the highest number of a list of the partition of `key` until then.
    pub fn list_number(&self, key: &str) -> u64 {
        self.lineage(key).map_or(0, |lineage| lineage.number)
    }
}
