//! Denied nodes: members whose own keys the app denies take no part for this node.
//!
//! Connections with such a node are refused as soon as TLS has proved its key. Here its life ends
//! for this node as well (`membership`), so that its copies are made on others. Which life has the
//! key is known by its pin. If there is none, it is the life that was dialled where the key was
//! proved.
//!
//! **Invariant.** A life whose pinned key is another one is not denied: a denied node that stands
//! on the way to a member harms no more than that connection.
//!
//! A life is heard again when its key is denied no more. The key of a *certificate* that is denied
//! ends connections alone: its node may get another one, and is the same node.

use std::time::Duration;

use super::interface::{Actions, Link};
use super::state::Control;
use crate::clock::Instant;
use crate::logging;
use crate::security::Fingerprint;
use crate::types::{Identity, MAX_MEMBERS};

/// How rarely the log says that a life is denied: any member can tell of many at one address.
const SAY_EVERY: Duration = Duration::from_secs(1);

impl Control {
    /// Goes by another set of denied keys.
    pub(super) fn deny_members(&mut self, now: Instant, actions: &mut Actions) {
        let envelope = &self.envelope;
        let allowed: Vec<Identity> =
            self.denied.extract_if(.., |_, key| !envelope.denies(key)).map(|it| it.0).collect();
        allowed.iter().for_each(|life| self.membership.allow(life));
        let denied: Vec<(Identity, Fingerprint)> =
            self.pins.lives().filter(|(_, key)| self.envelope.denies(key)).collect();
        denied.into_iter().for_each(|(life, key)| self.deny(now, &life, key, actions));
    }

    /// Who answers at the other end of a link has proved a key of its own that is denied.
    pub(super) fn has_denied_key(
        &mut self,
        now: Instant,
        link: Link,
        key: Fingerprint,
        actions: &mut Actions,
    ) {
        let Some((node, boot)) = link.expects else { return };
        let life = Identity { node, boot, returns: 0, addr: link.addr };
        let is_its_key = self.pins.key_of(&life).is_none_or(|pinned| pinned == key)
            && !self.pins.keeps_another(node, &key);
        if self.envelope.denies(&key) && is_its_key {
            self.deny(now, &life, key, actions);
        }
    }

    fn deny(&mut self, now: Instant, life: &Identity, key: Fingerprint, actions: &mut Actions) {
        let is_news = !self.denied.contains_key(&life.life());
        if is_news && self.denied.len() < MAX_MEMBERS {
            self.denied.insert(life.life(), key);
        }
        if is_news && self.say_denied_at <= now {
            self.say_denied_at = now + SAY_EVERY;
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

    /// A life that was denied has proved another key: who answered in its name before was another
    /// one.
    pub(super) fn has_other_key(&mut self, life: &Identity) {
        if self.denied.remove(&life.life()).is_some() {
            self.membership.allow(life);
        }
    }

    /// Forgets denied lives that membership has forgotten.
    pub(super) fn forget_denied(&mut self, is_remembered: impl Fn(&Identity) -> bool) {
        let over = self.denied.extract_if(.., |life, _| !is_remembered(life));
        for life in over.map(|it| it.0).collect::<Vec<_>>() {
            self.membership.allow(&life);
        }
    }
}
