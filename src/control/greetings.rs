//! Greetings: who a node lets in.

use super::interface::{Actions, ControlAction};
use super::pins::Key;
use super::state::{Control, Greeting, Leaving};
use crate::clock::Instant;
#[cfg(feature = "security")]
use crate::events::Event;
use crate::mutants::{ProtocolMutant, rule};
use crate::types::Identity;
#[cfg(feature = "security")]
use crate::types::NodeHash;
#[cfg(feature = "security")]
use crate::types::NodeId;
use crate::wire::message::{Channel, Refusal, RefusalReason};

impl Control {
    /// Judges a greeting: the node is welcomed or refused, or waits for what becomes of another
    /// life of it.
    pub(super) fn greeted(
        &mut self,
        now: Instant,
        via: u64,
        greeting: Greeting,
        actions: &mut Actions,
    ) {
        let hello = &greeting.hello;
        let judged = if self.leaving == Leaving::Done {
            let text = format!("{:?} is stopping", self.config.local.node_id);
            Err(Refusal { reason: RefusalReason::Stopping, text })
        } else {
            self.config.local.judge_hello(self.identity(), hello)
        };
        let judged = judged.and_then(|welcome| Ok((welcome, self.judge_key(&greeting)?)));
        match judged {
            Ok((welcome, key)) => match self.life_in_the_way(&greeting, key) {
                Some(other) => self.hold(now, Some(via), greeting, other, actions),
                None => {
                    if welcome.channel == Channel::Control {
                        self.note_guest(hello.identity.addr);
                    }
                    self.let_in(now, &greeting, actions);
                    let peer = greeting.hello.identity;
                    actions.push(ControlAction::Welcome { via, welcome, peer });
                }
            },
            Err(refusal) => {
                self.refused(now, hello.identity.addr, &refusal, actions);
                actions.push(ControlAction::Refuse { via, refusal });
            }
        }
    }

    /// Compares the key that a node has proved with the one that it had before.
    pub(super) fn judge_key(&self, greeting: &Greeting) -> Result<Key, Refusal> {
        let Greeting { hello, proved, .. } = greeting;
        if hello.identity.node == self.config.identity.node {
            // It is this node itself, at the address of a seed.
            return Ok(Key::Fits);
        }
        self.pins.judge(&hello.node_id, &hello.identity, proved.as_ref())
    }

    /// Returns the life that must be gone before this greeting counts, if there is one.
    pub(super) fn life_in_the_way(&self, greeting: &Greeting, key: Key) -> Option<Identity> {
        // At one address there is one node.
        let key = if greeting.is_at_its_address { Key::Fits } else { key };
        self.other_life(&greeting.hello.identity, key)
    }

    /// Takes up what a node that is let in has told and proved.
    ///
    /// A greeting alone pins no key (`pins`). This node dials the newcomer, and pins what it finds
    /// at its address.
    pub(super) fn let_in(&mut self, now: Instant, greeting: &Greeting, actions: &mut Actions) {
        let Greeting { hello, proved, .. } = greeting;
        self.note_details(now, hello);
        let Some(proved) = proved else { return };
        let life = &hello.identity;
        if life.node == self.config.identity.node {
            return;
        }
        #[cfg(feature = "security")]
        self.has_other_key(life);
        let is_shown = greeting.is_at_its_address || self.pins.is_pinned(life.node, proved);
        if !is_shown && rule(ProtocolMutant::GreetingsPinned, true) {
            return;
        }
        let records = || self.membership.records().into_iter();
        let members =
            || records().filter(|it| it.state.is_active()).map(|it| it.identity.node).collect();
        let before = self.pins.note(now, life, proved, members);
        #[cfg(feature = "security")]
        if let Some(before) = before {
            let (node, now) = (NodeId::new(&hello.node_id), proved.fingerprint);
            actions.push(ControlAction::Notify(Event::IdentityChanged { node, before, now }));
        }
        #[cfg(not(feature = "security"))]
        let _ = (before, actions);
    }

    /// Forgets the key that a node has proved, so that it may come back with another one. Of a node
    /// that is connected with that key nothing is forgotten.
    #[cfg(feature = "security")]
    pub(super) fn forget_identity(&mut self, node: NodeHash) {
        let life = self.links.get(&node).map(|link| link.identity);
        let is_here = life.is_some_and(|life| self.security_of(&life).is_some());
        if !is_here {
            self.pins.forget(node);
        }
    }
}
