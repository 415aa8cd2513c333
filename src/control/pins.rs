//! Pins: the key of its own that each node proved last.
//!
//! **Problem.** All nodes have the cluster key, so it does not say which of them speaks. A node's
//! own key does. But most nodes make a new one at every start, and no authority says which key
//! belongs to which node id. So a node remembers the key that each other one proved. A host that
//! has the cluster key can take an id that is free, and not that of a node that lives or that keeps
//! its key.
//!
//! What another node proves is compared whenever the control thread opens a connection or judges a
//! greeting: a node can be impersonated at both ends. The cores are told of the pins, and compare
//! what the nodes prove that they dial. Connections end that were let in before the pin, with
//! another key.
//!
//! A key is pinned if the node was found with it at its address: over a connection that this one
//! opened, or by a ping while its greeting waited. A greeting alone pins none, as the address in it
//! is only a claim: a host could give a node's name and another key to one that has just started,
//! which would then refuse the node.
//!
//! | pinned | proved now | the node is |
//! |---|---|---|
//! | nothing | any key, or none | let in; its key is pinned |
//! | a key | the same | let in |
//! | a key of this life, at this address | another | refused: a life has one key |
//! | a key that the node keeps | another, or none | refused until the pin is forgotten |
//! | a key of a life that may be here | another | held until that life is found (`duplicates`) |
//! | a key of a life that is over | another | let in, and the app is told |
//! | a key that the node does not keep | none | judged by its address alone |
//!
//! **Invariant.** A pin is that of the latest life. An earlier one never moves it back, as its
//! greeting might have been under way for longer.
//!
//! A pin lasts for as long as members that died may come back, after its node was last a member or
//! greeted this one. There are as many as there may be members. If there are more, the one goes
//! that was not seen for longest and is no member: a host with the cluster key that greets under
//! thousands of ids has this node forget the keys of nodes that are away, and of no others.

use std::collections::{BTreeMap, BTreeSet};
#[cfg(feature = "security")]
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Instant;
use crate::mutants::{ProtocolMutant, rule};
#[cfg(feature = "security")]
use crate::security::known::KnownKeys;
use crate::security::{Fingerprint, Proved};
use crate::types::{Identity, MAX_MEMBERS, NodeHash, Retention};
use crate::wire::message::{Refusal, RefusalReason};

/// The keys that nodes have proved.
pub(super) struct Pins {
    by_node: BTreeMap<NodeHash, Pin>,
    kept_for: Duration,
    /// Whether a key has changed since the other threads were told.
    has_news: bool,
}

/// The key of a node's latest life.
#[derive(Clone, Copy, Debug)]
struct Pin {
    life: Identity,
    fingerprint: Fingerprint,
    keeps_key: bool,
    seen_at: Instant,
}

/// Whether a node proves the key that it had before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Key {
    /// It does, or has none, or had none.
    Fits,
    /// It has another one, and may have if its life before is over.
    Differs,
}

impl Pins {
    /// Makes it empty. A node of a data center that is away is waited for longest.
    pub(super) fn new(retention: Retention) -> Self {
        let kept_for = retention.member.max(retention.data_center);
        Self { by_node: BTreeMap::new(), kept_for, has_news: false }
    }

    /// Compares what this life of a node proves with what is pinned.
    pub(super) fn judge(
        &self,
        node_id: &str,
        life: &Identity,
        proved: Option<&Proved>,
    ) -> Result<Key, Refusal> {
        let Some(pin) = self.by_node.get(&life.node) else { return Ok(Key::Fits) };
        let Some(proved) = proved else {
            let is_refused = rule(ProtocolMutant::PinsIgnored, pin.keeps_key);
            return if is_refused { Err(self.speaks_plainly(node_id, pin)) } else { Ok(Key::Fits) };
        };
        if !rule(ProtocolMutant::PinsIgnored, proved.fingerprint != pin.fingerprint) {
            Ok(Key::Fits)
        } else if life.life() == pin.life {
            Err(has_two_keys(node_id, pin, proved))
        } else if pin.keeps_key {
            Err(self.has_lost_its_key(node_id, pin, proved))
        } else {
            Ok(Key::Differs)
        }
    }

    /// Takes up what a node has proved that is let in. `members` returns the nodes that take part;
    /// it is called if there is no room. Returns the key of the node's life before, if this life is
    /// a later one and has another key.
    pub(super) fn note(
        &mut self,
        now: Instant,
        life: &Identity,
        proved: &Proved,
        members: impl FnOnce() -> BTreeSet<NodeHash>,
    ) -> Option<Fingerprint> {
        let &Proved { fingerprint, keeps_key, .. } = proved;
        let new = Pin { life: life.life(), fingerprint, keeps_key, seen_at: now };
        match self.by_node.get_mut(&life.node) {
            Some(pin) if life.boot >= pin.life.boot => {
                let before = pin.fingerprint;
                self.has_news |= (pin.life, before) != (new.life, fingerprint);
                *pin = new;
                (before != fingerprint).then_some(before)
            }
            Some(pin) => {
                if pin.fingerprint == fingerprint {
                    pin.seen_at = now;
                }
                None
            }
            None => {
                if self.by_node.len() < MAX_MEMBERS || self.make_room(&members()) {
                    self.by_node.insert(life.node, new);
                    self.has_news = true;
                }
                None
            }
        }
    }

    /// Returns the keys of all lives that are pinned, if one has changed since it did so last.
    #[cfg(feature = "security")]
    pub(super) fn take_news(&mut self) -> Option<Arc<KnownKeys>> {
        std::mem::take(&mut self.has_news).then(|| Arc::new(self.lives().collect()))
    }

    /// Returns the lives that are pinned, with their keys.
    #[cfg(feature = "security")]
    pub(super) fn lives(&self) -> impl Iterator<Item = (Identity, Fingerprint)> {
        self.by_node.values().map(|pin| (pin.life, pin.fingerprint))
    }

    /// Forgets the key that was not seen for longest, unless all are those of members. Returns
    /// whether it did.
    fn make_room(&mut self, members: &BTreeSet<NodeHash>) -> bool {
        let away = self.by_node.iter().filter(|(node, _)| !members.contains(node));
        let longest_unseen = away.min_by_key(|(_, pin)| pin.seen_at).map(|(node, _)| *node);
        longest_unseen.is_some_and(|node| self.by_node.remove(&node).is_some())
    }

    /// Notes that these nodes take part, and forgets those that have been away for long enough.
    pub(super) fn note_members(&mut self, now: Instant, members: &BTreeSet<NodeHash>) {
        self.by_node.retain(|node, pin| {
            if members.contains(node) {
                pin.seen_at = now;
            }
            now.since(pin.seen_at) < self.kept_for
        });
    }

    /// Forgets a node's key: the next one that it proves is believed.
    #[cfg(feature = "security")]
    pub(super) fn forget(&mut self, node: NodeHash) {
        self.has_news |= self.by_node.remove(&node).is_some();
    }

    /// Whether a node proves the key that is pinned of it.
    pub(super) fn is_pinned(&self, node: NodeHash, proved: &Proved) -> bool {
        self.fingerprint(node) == Some(&proved.fingerprint)
    }

    /// Whether a node keeps a key, and another one than this.
    #[cfg(feature = "security")]
    pub(super) fn keeps_another(&self, node: NodeHash, key: &Fingerprint) -> bool {
        self.by_node.get(&node).is_some_and(|pin| pin.keeps_key && pin.fingerprint != *key)
    }

    /// Returns the pinned key of this life of a node.
    #[cfg(feature = "security")]
    pub(super) fn key_of(&self, life: &Identity) -> Option<Fingerprint> {
        let pin = self.by_node.get(&life.node).filter(|pin| pin.life == life.life())?;
        Some(pin.fingerprint)
    }

    /// Returns the pinned key of a node.
    pub(super) fn fingerprint(&self, node: NodeHash) -> Option<&Fingerprint> {
        self.by_node.get(&node).map(|pin| &pin.fingerprint)
    }

    fn has_lost_its_key(&self, node_id: &str, pin: &Pin, proved: &Proved) -> Refusal {
        let (Pin { fingerprint, .. }, now, waits) = (pin, proved.fingerprint, self.kept_for);
        let text = format!(
            "the key of {node_id:?} is {fingerprint}, which it keeps, and not {now}: start it with \
             that key (Security::identity), have the nodes that refuse it forget the key \
             (Engine::forget_identity), or start it {waits:?} after it was stopped"
        );
        Refusal { reason: RefusalReason::Other, text }
    }

    fn speaks_plainly(&self, node_id: &str, pin: &Pin) -> Refusal {
        let (Pin { fingerprint, .. }, waits) = (pin, self.kept_for);
        let text = format!(
            "{node_id:?} keeps its key, {fingerprint}, and speaks without security: give it \
             Config::security, have the nodes that refuse it forget the key \
             (Engine::forget_identity), or start it {waits:?} after it was stopped"
        );
        Refusal { reason: RefusalReason::Security, text }
    }
}

fn has_two_keys(node_id: &str, pin: &Pin, proved: &Proved) -> Refusal {
    let (one, other) = (pin.fingerprint, proved.fingerprint);
    let text = format!(
        "{node_id:?} has proved the key {one}, and now {other} without a restart: two processes \
         claim to be the same start of one node. Find out which is yours, and stop the other"
    );
    Refusal { reason: RefusalReason::DuplicateId, text }
}
