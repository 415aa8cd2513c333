//! What holds where nothing is evicted and there is no room for all.

use std::time::Duration;

use super::Chaos;
use super::profile::Profile;
use crate::sim::CALL_TIMEOUT;
use crate::sim::checks::Violation;

/// Within this time keys can be deleted however full the nodes are.
const DELETED_WITHIN: Duration = Duration::from_secs(30);

/// Within this time after there is room it is safe again to stop a node.
const SAFE_WITHIN: Duration = Duration::from_secs(60);

impl Chaos {
    /// Notes that a node is asked to leave while no copy is missing, where
    /// [`judge_leaves`](Self::judge_leaves) judges what it leaves behind.
    pub(super) fn note_leave(&mut self, node: usize) {
        if self.profile == Profile::Full && self.cluster.is_settled() {
            self.leaves.push((node, self.cluster.elapsed()));
        }
    }

    /// Judges the copies when a node has left: what it held is with others. A crash since it was
    /// asked to might have taken some of them.
    pub(super) fn judge_leaves(&mut self) {
        let cluster = &self.cluster;
        let asked = self.leaves.iter().filter(|(node, _)| !cluster.is_running(*node));
        let Some(earliest) = asked.map(|(_, at)| *at).min() else { return };
        self.leaves.retain(|(node, _)| cluster.is_running(*node));
        let since = cluster.elapsed() - earliest;
        if cluster.has_just_crashed(since) || self.broken.is_some() {
            return;
        }
        self.judge_copies();
    }

    /// Deletes keys until there is room for all that is left. Where members of lists die or leave
    /// and no node has room for their copies, some deletes wait for a node with room.
    pub(super) fn make_room(&mut self) -> Result<(), Violation> {
        let mut left: Vec<usize> =
            (0..self.workload.options().keys).filter(|key| key % 4 != 1).collect();
        let mut until = self.cluster.elapsed() + DELETED_WITHIN;
        let mut has_helped = false;
        while !left.is_empty() {
            if self.cluster.elapsed() > until {
                if has_helped || self.cluster.is_settled() {
                    let what = format!("not deleted within {DELETED_WITHIN:?}: keys {left:?}");
                    return Err(Violation::general("what gives memory back is not refused", what));
                }
                self.cluster.start_node_with_memory(None);
                has_helped = true;
                until = self.cluster.elapsed() + DELETED_WITHIN;
            }
            let begun = self.workload.history().operations.len();
            let nodes = self.staying();
            for &key in &left {
                if let Some(node) = self.pick(&nodes) {
                    self.workload.delete_through(&mut self.cluster, node, key);
                }
            }
            self.workload.drain(&mut self.cluster, CALL_TIMEOUT + Duration::from_secs(1));
            let deletes = &self.workload.history().operations[begun..];
            let is_deleted =
                |key: usize| deletes.iter().any(|it| it.key == key && it.is_acknowledged());
            left.retain(|key| !is_deleted(*key));
        }
        Ok(())
    }

    /// When there is room again, it is safe to stop a node.
    pub(super) fn check_safe_again(&mut self) -> Result<(), Violation> {
        let nodes = self.staying();
        let Some(node) = self.pick(&nodes) else { return Ok(()) };
        let is_enough = self.running().len() >= self.sim.replicas;
        if is_enough && !self.cluster.wait_until_safe(node, SAFE_WITHIN) {
            let what = format!("n{node} did not say so within {SAFE_WITHIN:?}");
            return Err(Violation::general("it is safe again when there is room", what));
        }
        Ok(())
    }
}
