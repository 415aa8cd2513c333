//! Which nodes have shown that they have security, and the warning of a node that does not require
//! it.

#[cfg(feature = "security")]
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "security")]
use super::interface::ControlAction;
use super::interface::{Actions, Link};
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
        self.deny_members(now, actions);
        if self.envelope.is_optional() && !was_optional {
            logging::warn!("this node required security, which is optional from now on");
            self.say_optional_at = now;
        }
        self.handle_optional_timer(now, actions);
        actions.push(ControlAction::Notify(Event::SecurityUpdated { key }));
        self.finish_event(now, actions);
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
    pub(super) fn handle_optional_timer(&mut self, now: Instant, actions: &mut Actions) {
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
        #[cfg(feature = "security")]
        actions.push(ControlAction::Notify(Event::SecurityOptional { plain_members: plain }));
        #[cfg(not(feature = "security"))]
        let _ = actions;
    }

    pub(super) fn optional_deadline(&self) -> Option<Instant> {
        self.envelope.is_optional().then_some(self.say_optional_at)
    }
}

#[cfg(all(test, feature = "security"))]
mod tests {
    use zeroize::Zeroizing;

    use super::*;
    use crate::control::ControlConfig;
    use crate::options::OnPartition;
    use crate::placement::Site;
    use crate::quorums::Quorums;
    use crate::security::suite::{Salt, Suite};
    use crate::security::{ClusterKey, Sealing, Security};
    use crate::types::{Boot, ClusterHash, NodeHash, Retention};
    use crate::wire::handshake::Local;

    const START: Instant = Instant::from_nanos(1_000_000_000);
    const SECOND: Duration = Duration::from_secs(1);
    const NAME: &str = "shop";

    fn life(number: u8) -> Identity {
        let addr = ([10, 0, 0, number], 7000).into();
        Identity { node: NodeHash(number.into()), boot: Boot(1), returns: 0, addr }
    }

    fn security() -> Security {
        let key = ClusterKey::from_bytes(std::array::from_fn(|at| at as u8)).unwrap();
        Security::cluster_key(key)
    }

    fn of_node(security: &Security) -> Arc<NodeSecurity> {
        Arc::new(security.of_node(NAME, &Zeroizing::new([7; 32])).unwrap())
    }

    fn started(security: &Security) -> Control {
        let hour = 3600 * SECOND;
        let mut control = Control::new(ControlConfig {
            cluster: ClusterHash::of(NAME),
            identity: life(1),
            local: Local {
                cluster: NAME.into(),
                node_id: "a".into(),
                cores: 1,
                quorums: Quorums::ONE,
                on_partition: OnPartition::Serve,
                site: Site::default(),
            },
            expect: 0,
            seeds: Vec::new(),
            discovers: false,
            probe_period: SECOND,
            retention: Retention { member: hour, data_center: hour },
            suspicion_timeout: SECOND,
            local_health: true,
            seed: 1,
        });
        let (suite, salt) = (Suite::Aes128Gcm, Salt(1));
        control.seal(Sealing { security: of_node(security), suite, salt });
        control.start(START, &mut Vec::new());
        control
    }

    #[test]
    fn that_security_is_optional_is_said_at_once_and_then_once_a_minute() {
        let mut control = started(&security().optional());
        let mut actions = Vec::new();
        for minute in 1..4 {
            let due = START + minute * SAY_EVERY;
            assert_eq!(control.optional_deadline(), Some(due), "it was said a minute before");
            assert!(control.deadline().is_some_and(|at| at <= due));
            control.handle_timers(START + (minute * SAY_EVERY - SECOND), &mut actions);
            assert_eq!(control.optional_deadline(), Some(due));
            control.handle_timers(due, &mut actions);
        }
        let later = START + 1000 * SECOND;
        control.use_security(later, of_node(&security()), &mut actions);
        assert_eq!(control.optional_deadline(), None);
        control.use_security(later, of_node(&security().optional()), &mut actions);
        assert_eq!(control.optional_deadline(), Some(later + SAY_EVERY));
        let told = |is_it: fn(&Event) -> bool| {
            let is_told =
                |it: &&ControlAction| matches!(it, ControlAction::Notify(it) if is_it(it));
            actions.iter().filter(is_told).count()
        };
        assert_eq!(told(|it| matches!(it, Event::SecurityUpdated { .. })), 2);
        assert_eq!(told(|it| *it == Event::SecurityOptional { plain_members: 0 }), 4);
        assert_eq!(started(&security()).optional_deadline(), None);
    }

    #[test]
    fn only_a_connection_to_its_own_address_shows_that_a_node_has_no_security() {
        let mut control = started(&security().optional());
        let (node, other) = (life(2), life(3));
        let shown = |control: &Control| control.envelope.has_shown_security(node.addr);
        control.greeting_has_shown(START, &node, false);
        assert!(!shown(&control));
        control.greeting_has_shown(START, &node, true);
        assert!(shown(&control));
        let later = Identity { boot: Boot(2), ..node };
        control.greeting_has_shown(START, &later, false);
        let elsewhere = Link { addr: other.addr, expects: None };
        control.link_has_shown(START, &elsewhere, &later, false);
        assert!(shown(&control), "another host might have said so");
        control.link_has_shown(START, &Link::to(&later), &later, false);
        assert!(!shown(&control));
        let latest = Identity { boot: Boot(3), ..node };
        control.link_has_shown(START, &elsewhere, &latest, true);
        assert!(shown(&control));
    }
}
