//! Denied nodes: members whose keys the app denies take no part for this node.
//!
//! Connections with such a node are refused as soon as TLS has proved its key. Here its life ends
//! for this node as well (`membership`), so that its copies are made on others. Which life has the
//! key is known by its pin, or by a connection that was opened to it and refused for its key.
//!
//! A life is heard again when its key is denied no more.

use super::interface::{Actions, Link};
use super::state::Control;
use crate::clock::Instant;
use crate::logging;
use crate::security::Fingerprint;
use crate::types::Identity;

impl Control {
    /// Goes by another set of denied keys.
    pub(super) fn deny_members(&mut self, now: Instant, actions: &mut Actions) {
        let envelope = &self.envelope;
        let allowed: Vec<Identity> =
            self.denied.extract_if(.., |_, key| !envelope.denies(key)).map(|it| it.0).collect();
        allowed.iter().for_each(|life| self.membership.allow(life));
        let key_of = |life: Identity| Some((life, self.pins.key_of(&life)?));
        let members: Vec<(Identity, Fingerprint)> = self
            .active_lives()
            .filter_map(key_of)
            .filter(|(_, key)| self.envelope.denies(key))
            .collect();
        members.into_iter().for_each(|(life, key)| self.deny(now, &life, key, actions));
    }

    /// Whoever answers at the other end of a link has proved a key that is denied.
    pub(super) fn has_denied_key(
        &mut self,
        now: Instant,
        link: Link,
        key: Fingerprint,
        actions: &mut Actions,
    ) {
        if let Some((node, boot)) = link.expects
            && self.envelope.denies(&key)
        {
            let life = Identity { node, boot, returns: 0, addr: link.addr };
            self.deny(now, &life, key, actions);
        }
    }

    fn deny(&mut self, now: Instant, life: &Identity, key: Fingerprint, actions: &mut Actions) {
        if self.denied.insert(life.life(), key).is_none() {
            let name = self.name_that_counts(life);
            let id = name.as_ref().map_or("a node", |name| name.as_str());
            logging::warn!(
                "{id} at {} is dead for this node: its key {key} is denied (Security::deny). Stop \
                 it, and deny it on all nodes",
                life.addr
            );
        }
        self.swim(now, actions, |membership, todo| membership.deny(now, life, todo));
    }
}
