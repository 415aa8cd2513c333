//! Cluster keys in the simulator: which node has which, and recordings that are sent again.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::SimCluster;
use super::event::SimEvent;
use super::keys::KeyNumbers;
use super::node::{address, number_at};
use crate::membership::envelope::EnvelopeCounters;
use crate::mutants::set_for_this_thread;
use crate::security::seal::SEALED_HEADER_BYTES;
use crate::security::{Fingerprint, NodeSecurity};

/// A datagram that arrived, or would have: its receiver, its source, and its bytes.
pub(super) struct Recorded {
    to: SocketAddr,
    from: SocketAddr,
    bytes: Vec<u8>,
}

impl SimCluster {
    /// Gives a node other cluster keys, by number: the one that it seals with, and up to three
    /// others that it opens. It also starts again with these. One that runs without keys goes on
    /// without until then.
    ///
    /// # Panics
    ///
    /// If one key is given twice, or more than four are.
    #[doc(hidden)]
    pub fn give_keys(&mut self, node: usize, sealing: u8, accepted: &[u8]) {
        self.give(node, KeyNumbers::new(sealing, accepted.to_vec()));
    }

    /// Gives a node a cluster key, by number, with which it also speaks with nodes that have none:
    /// [`Security::optional`](crate::Security::optional).
    #[doc(hidden)]
    pub fn give_optional_key(&mut self, node: usize, sealing: u8) {
        self.give(node, KeyNumbers { is_optional: true, ..KeyNumbers::new(sealing, Vec::new()) });
    }

    /// Has a running node deny the key of another one from now on, if both have keys:
    /// [`Security::deny`](crate::Security::deny). Giving the node keys again allows it.
    #[doc(hidden)]
    pub fn deny(&mut self, node: usize, denied: usize) {
        let key = self.security(denied).map(|security| security.identity.fingerprint());
        let keys = self.nodes[node].keys.clone();
        if let (Some(key), Some(mut keys)) = (key, keys) {
            keys.denied.push(key);
            self.give(node, keys);
            self.break_connections(node, denied);
        }
    }

    /// Whether one node denies the key of another one, and so takes no connection with it.
    pub(super) fn denies(&mut self, node: usize, other: usize) -> Option<Fingerprint> {
        let key = self.security(other)?.identity.fingerprint();
        self.security(node)?.denied.contains(&key).then_some(key)
    }

    pub(super) fn security(&mut self, node: usize) -> Option<Arc<NodeSecurity>> {
        self.nodes[node].running()?.security.clone()
    }

    fn give(&mut self, node: usize, keys: KeyNumbers) {
        set_for_this_thread(self.options.mutant, self.options.partitions);
        self.fault("keys", || format!("n{node} is given {keys:?}"));
        let now = self.now_of(node).instant;
        self.nodes[node].give_keys(now, keys);
        self.act(node);
    }

    /// Has a node start without a cluster key from now on.
    #[doc(hidden)]
    pub fn take_keys(&mut self, node: usize) {
        self.nodes[node].keys = None;
    }

    /// Returns how many datagrams a node has opened since it was started, and how many it has not.
    ///
    /// # Panics
    ///
    /// If it does not run.
    #[doc(hidden)]
    pub fn opened_datagrams(&mut self, node: usize) -> EnvelopeCounters {
        self.nodes[node].running().expect("it runs").control.envelope_counters()
    }

    /// Records all datagrams that arrive from now on.
    #[doc(hidden)]
    pub fn record_datagrams(&mut self) {
        self.recorded = Some(Vec::new());
    }

    /// Sends all recorded datagrams once more, in another order, to their receivers and to a node
    /// of the caller's choice. Returns how many go to each node. Recording has ended.
    #[doc(hidden)]
    pub fn replay_datagrams(&mut self, also_to: usize) -> BTreeMap<usize, u64> {
        let mut counts = BTreeMap::new();
        for Recorded { to, from, bytes } in self.recorded.take().unwrap_or_default() {
            for to in [to, address(also_to)] {
                *counts.entry(number_at(to).unwrap_or(usize::MAX)).or_default() += 1;
                self.send_again(to, from, bytes.clone());
            }
        }
        counts
    }

    /// Sends all recorded datagrams once more to their receivers, each as if many others had been
    /// sealed before it, which breaks its seal. Recording has ended.
    #[doc(hidden)]
    pub fn forge_datagrams(&mut self) {
        for Recorded { to, from, mut bytes } in self.recorded.take().unwrap_or_default() {
            // The highest byte of the counter.
            if let Some(byte) = bytes.get_mut(SEALED_HEADER_BYTES - 1) {
                *byte = 0x7f;
            }
            self.send_again(to, from, bytes);
        }
    }

    fn send_again(&mut self, to: SocketAddr, from: SocketAddr, bytes: Vec<u8>) {
        let delay = self.delay(0, None);
        self.schedule(delay, SimEvent::Datagram { to, from, bytes });
    }

    pub(super) fn record_datagram(&mut self, to: SocketAddr, from: SocketAddr, bytes: &[u8]) {
        if let Some(recorded) = &mut self.recorded {
            recorded.push(Recorded { to, from, bytes: bytes.to_vec() });
        }
    }
}
