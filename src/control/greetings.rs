//! Greetings: who a node lets in.

use super::interface::{Actions, ControlAction};
use super::state::{Control, Leaving};
use crate::clock::Instant;
use crate::wire::message::{Channel, Hello, Refusal, RefusalReason};

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
                    if welcome.channel == Channel::Control {
                        self.note_guest(hello.identity.addr);
                    }
                    self.note_details(now, &hello);
                    actions.push(ControlAction::Welcome { via, welcome, peer: hello.identity });
                }
            },
            Err(refusal) => {
                self.refused(now, hello.identity.addr, &refusal, actions);
                actions.push(ControlAction::Refuse { via, refusal });
            }
        }
    }
}
