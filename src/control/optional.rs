//! Which nodes have shown that they have security, and the warning of a node that does not require
//! it.

#[cfg(feature = "security")]
use std::sync::Arc;
use std::time::Duration;

use super::interface::Link;
#[cfg(feature = "security")]
use super::interface::{Actions, ControlAction};
use super::state::Control;
use crate::clock::Instant;
#[cfg(feature = "security")]
use crate::events::Event;
use crate::logging;
#[cfg(feature = "security")]
use crate::security::NodeSecurity;
use crate::types::Identity;

/// How often the log says that any host is let in.
const SAY_EVERY: Duration = Duration::from_secs(60);

impl Control {
    /// Goes by this from now on, and tells the app.
    #[cfg(feature = "security")]
    pub(crate) fn use_security(
        &mut self,
        now: Instant,
        security: Arc<NodeSecurity>,
        actions: &mut Actions,
    ) {
        let key = security.keyring.sealing().id();
        let was_optional = self.envelope.is_optional();
        self.envelope.use_security(security);
        if self.envelope.is_optional() && !was_optional {
            logging::warn!("this node required security, which is optional from now on");
            self.say_optional_at = now;
        }
        self.handle_optional_timer(now);
        actions.push(ControlAction::Notify(Event::SecurityUpdated { key }));
    }

    /// Notes what a node has shown over a link that this one opened to it.
    pub(super) fn link_has_shown(
        &mut self,
        now: Instant,
        link: &Link,
        life: &Identity,
        is_secured: bool,
    ) {
        // At any other address than its own another host might answer in its name.
        if is_secured || link.addr == life.addr {
            self.envelope.has_shown(now, life, is_secured);
        }
    }

    /// Notes what a node has shown by its greeting. One that is not secured shows nothing: any host
    /// can greet in a node's name.
    pub(super) fn greeting_has_shown(&mut self, now: Instant, life: &Identity, is_secured: bool) {
        if is_secured {
            self.envelope.has_shown(now, life, true);
        }
    }

    /// Says once a minute that security is optional, if it is.
    pub(super) fn handle_optional_timer(&mut self, now: Instant) {
        if self.optional_deadline().is_none_or(|at| at > now) {
            return;
        }
        self.say_optional_at = now + SAY_EVERY;
        let members = self.links.len();
        let has_none = |life: &Identity| !self.envelope.has_shown_security(life.addr);
        let plain = self.links.values().filter(|link| has_none(&link.identity)).count();
        logging::warn!(
            "security is optional: any host that reaches {} without it is let in, and can read and \
             write all keys. {plain} of {members} other members have shown no security yet. When \
             all have the cluster key, give them the same Security without optional(), by \
             Engine::update_security or a restart (docs/security.md)",
            self.identity().addr
        );
    }

    pub(super) fn optional_deadline(&self) -> Option<Instant> {
        self.envelope.is_optional().then_some(self.say_optional_at)
    }
}
