//! Greetings: who a node lets in, and what it learns of those that greet.

use super::interface::{Actions, ControlAction};
use super::state::{Control, Details, Leaving};
use crate::clock::Instant;
use crate::placement::Site;
use crate::types::{Identity, NodeId};
use crate::wire::message::{Hello, Refusal, RefusalReason};

impl Control {
    /// Judges a greeting: the node is welcomed or refused, or waits for what becomes of another
    /// life of it.
    pub(super) fn greeted(&mut self, now: Instant, via: u64, hello: Hello, actions: &mut Actions) {
        let judged = if self.leaving == Leaving::Done {
            let text = format!("{:?} is stopping", self.config.local.node_id);
            Err(Refusal { reason: RefusalReason::Stopping, text })
        } else {
            self.config.local.judge_hello(self.identity(), &hello)
        };
        match judged {
            Ok(welcome) => match self.life_at_another_address(&hello.identity) {
                Some(other) => self.hold(now, via, hello, other, actions),
                None => {
                    self.note_details(&hello);
                    actions.push(ControlAction::Welcome { via, welcome, peer: hello.identity });
                }
            },
            Err(refusal) => {
                self.refused(now, hello.identity.addr, &refusal, actions);
                actions.push(ControlAction::Refuse { via, refusal });
            }
        }
    }

    /// The node's name, if this life of it has told it.
    pub(super) fn name(&self, identity: &Identity) -> Option<NodeId> {
        self.details
            .get(&identity.node)
            .filter(|it| it.boot == identity.boot)
            .map(|it| it.id.clone())
    }

    /// Remembers what a node told of itself, unless a later life of it has told already.
    pub(super) fn note_details(&mut self, hello: &Hello) {
        let Hello { identity, node_id, cores, majority_of, data_center, zone, weight, .. } = hello;
        if identity.node == self.config.identity.node
            || self.details.get(&identity.node).is_some_and(|known| known.boot > identity.boot)
        {
            return;
        }
        let (id, cores, majority_of) = (NodeId::new(node_id), *cores, *majority_of);
        let (data_center, zone) = (data_center.as_str().into(), zone.as_str().into());
        let site = Site { data_center, zone, weight: *weight };
        let details = Details { boot: identity.boot, id, cores, site, majority_of };
        self.details.insert(identity.node, details);
    }

    /// Whether a node of this site is in this node's data center.
    pub(super) fn is_here(&self, site: &Site) -> bool {
        site.data_center == self.config.local.site.data_center
    }
}
