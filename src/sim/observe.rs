//! What a test sees of a cluster: who holds what, who sees whom, what is under way.

use std::num::NonZeroU64;
use std::time::Duration;

use super::node::{Node, number_at};
use super::{START, SimCluster, Stored};
use crate::events::MemberState;
use crate::types::Identity;

impl SimCluster {
    /// Whether a node has crashed within this time.
    pub(super) fn has_just_crashed(&self, within: Duration) -> bool {
        self.crashed_at.is_some_and(|at| self.now.since(at) < within)
    }

    /// Returns the values that the running nodes hold for `key` as synced replicas, by node.
    pub fn copies(&self, key: impl AsRef<[u8]>) -> Vec<(usize, Vec<u8>)> {
        let (key, hash, core) = self.place(key.as_ref());
        let held = |number: usize| {
            let value = self.nodes[number].peek(self.now_of(number), core, hash, key)?;
            Some((number, value.to_vec()))
        };
        (0..self.nodes.len()).filter_map(held).collect()
    }

    /// Returns what the running nodes store for `key`, by node.
    pub fn stored(&self, key: impl AsRef<[u8]>) -> Vec<Stored> {
        let (key, hash, core) = self.place(key.as_ref());
        let stored = |node: usize| {
            let (entry, is_synced) = self.nodes[node].stored(core, hash, key)?;
            Some(Stored {
                node,
                is_synced,
                version: entry.version().0,
                value: entry.live_value(self.now_of(node).wall).map(<[u8]>::to_vec),
                content_hash: entry.content_hash(),
                expires_at_ms: entry.expires_at_ms().map(NonZeroU64::get),
            })
        };
        (0..self.nodes.len()).filter_map(stored).collect()
    }

    /// Returns the running nodes that count as synced replicas of the partition of `key`, each with
    /// the number of the list in which it counts.
    pub fn replicas(&self, key: impl AsRef<[u8]>) -> Vec<(usize, u64)> {
        let (_, hash, core) = self.place(key.as_ref());
        let serves = |node: usize| Some((node, self.nodes[node].serves(core, hash.partition())?));
        (0..self.nodes.len()).filter_map(serves).collect()
    }

    /// Returns the latest list of the partition of `key` that the running nodes of a data center
    /// know: how many members it has, and which of them run.
    pub fn members(&self, key: impl AsRef<[u8]>, data_center: usize) -> (usize, Vec<usize>) {
        let (_, hash, core) = self.place(key.as_ref());
        let here = self.nodes.iter().skip(data_center).step_by(self.options.data_centers);
        let known = here.filter_map(|node| node.list(core, hash.partition()));
        let latest = known.reduce(|a, b| if b.is_above(a) { b } else { a });
        let members = latest.map_or(&[][..], |list| list.members());
        let number = |member: &Identity| {
            let number = number_at(member.addr)?;
            self.nodes.get(number)?.is_in_life(member).then_some(number)
        };
        (members.len(), members.iter().filter_map(number).collect())
    }

    /// Returns how many nodes were ever started.
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// Returns how often this node was started: the number of its life.
    pub fn life(&self, node: usize) -> u32 {
        self.nodes[node].life
    }

    /// Returns how many calls of a node have no answer yet, and how many acknowledged writes it
    /// still owes to some replica.
    pub fn open_calls(&self, node: usize) -> (usize, usize) {
        self.nodes[node].open()
    }

    /// Whether the running nodes see exactly each other, hold everything that they should, and have
    /// nothing to hand over.
    pub fn is_settled(&self) -> bool {
        self.see_each_other()
            && self.nodes.iter().all(|node| !node.is_running() || node.is_settled())
    }

    /// Whether the running nodes see exactly each other.
    pub fn see_each_other(&self) -> bool {
        let running: Vec<&Node> = self.nodes.iter().filter(|node| node.is_running()).collect();
        running.iter().all(|node| node.sees_alive() == running.len())
    }

    /// Whether every other running node takes `node` for dead or gone.
    pub fn is_gone(&self, node: usize) -> bool {
        let states = |observer: &Node| {
            observer.sees(node).is_none_or(|s| matches!(s, MemberState::Dead | MemberState::Left))
        };
        self.nodes
            .iter()
            .enumerate()
            .filter(|(n, it)| *n != node && it.is_running())
            .all(|(_, it)| states(it))
    }

    /// Whether `node` takes all of these for dead or gone.
    pub fn is_dead_for(&self, node: usize, others: &[usize]) -> bool {
        let is_dead = |state: Option<MemberState>| {
            state.is_none_or(|state| matches!(state, MemberState::Dead | MemberState::Left))
        };
        others.iter().all(|other| is_dead(self.nodes[node].sees(*other)))
    }

    /// Returns how many acknowledged writes of the running nodes wait for another data center to
    /// confirm them.
    pub fn waiting_to_relay(&self) -> usize {
        self.nodes.iter().map(Node::waiting_to_relay).sum()
    }

    /// Describes each node in a line: what it sees, and what it still has to fetch and to give.
    pub fn describe(&self) -> String {
        self.nodes.iter().map(|node| format!("{}\n", node.describe())).collect()
    }

    /// Returns the virtual time since the start.
    pub fn elapsed(&self) -> Duration {
        self.now.since(START)
    }

    /// Returns how many events were handled so far.
    pub fn events_handled(&self) -> u64 {
        self.events_handled
    }
}
