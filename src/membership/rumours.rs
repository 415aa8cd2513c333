//! Rumours: deaths that packets tell of. This node looks for itself before it believes one.
//!
//! **Problem.** A node might send and not hear: a firewall drops what is sent to it, or its network
//! was cut for a second. It takes all others for dead, and gossips that. Until it is dead to them,
//! they believe it, and healthy members die of the word of one that knows nothing.
//!
//! Or a host that is no member says so, perhaps in the name of that very member; or that it has
//! left, which is worse: who has left is not waited for, and what was deleted may be forgotten.
//!
//! So a death counts only when this node's own pings fail, too, and so does that a member has left:
//!
//! ```text
//! "it is dead" ──▶ ping, ping, ping ──▶ an answer: the rumour is dropped
//!                                  └──▶ silence:   it is believed, and told on
//! ```
//!
//! | the rumour is about a member that | it is believed |
//! |---|---|
//! | is suspected because this node's own probe failed | at once |
//! | takes part, and says it itself or not | after [`PINGS`] pings without an answer |
//!
//! Who has left, or stops, answers no ping any more.
//!
//! A packet of the member shows that it is not dead. It does not show that it has not left, as it
//! might have been sent before; an answer to a ping does.
//!
//! **Invariant.** A member whose answers arrive here does not die here by the word of another. One
//! that is said to leave, and does not, renews its identity.
//!
//! The member is still dead for the node that told of it, which finds that out when it hears of it
//! from another one (`accusations`).
//!
//! Rejected: that a node which hears none keeps its opinion for itself. Of two nodes, neither can
//! know which one is cut off, and a node might hear some and not others.

use std::collections::BTreeMap;
use std::time::Duration;

use foca::Member;

use super::Membership;
use super::codec;
use super::drive::Timer;
use super::interface::MembershipAction;
use crate::clock::Instant;
use crate::mutants::{ProtocolMutant, rule};
use crate::types::Identity;

/// How many pings must fail, and how far apart they are on a network without distances. Gossip
/// about a death passes several members, and each of them waits for this: with four the median of
/// the times until all have heard of a silent host is above a second.
const PINGS: u32 = 3;
const PING_PERIOD: Duration = Duration::from_millis(15);

/// The ends that this node was told of and does not believe yet: at most one for each member.
#[derive(Debug, Default)]
pub(super) struct Rumours {
    open: BTreeMap<Identity, Rumour>,
}

#[derive(Debug, Clone, Copy)]
struct Rumour {
    /// How often the member was pinged, and when that is due again.
    pings: u32,
    next: Instant,
    /// It is said to have left, or else to be dead.
    is_left: bool,
    /// The number of the first ping since that was said.
    first_ping: Option<u64>,
}

impl Rumour {
    fn new(now: Instant, is_left: bool) -> Self {
        Self { pings: 0, next: now, is_left, first_ping: None }
    }
}

impl Rumours {
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Notes that a member lives, or has until a moment ago.
    pub(super) fn heard_from(&mut self, member: &Identity) {
        if self.open.get(member).is_some_and(|it| !it.is_left) {
            self.open.remove(member);
        }
    }

    /// Takes up an answer to the ping of this number. Returns whether the member was said to have
    /// left, and has not.
    fn refutes(&mut self, member: &Identity, number: u64) -> bool {
        let Some(it) = self.open.get(member) else { return false };
        let is_refuted = !it.is_left || it.first_ping.is_some_and(|first| number >= first);
        let was_left = it.is_left;
        if is_refuted {
            self.open.remove(member);
        }
        is_refuted && was_left
    }
}

impl Membership {
    /// Takes the deaths out of a packet that this node must look into first, and begins to. Returns
    /// what is left of the packet, or `None` if that is all of it.
    pub(super) fn hold_rumours(
        &mut self,
        now: Instant,
        packet: &[u8],
        actions: &mut Vec<MembershipAction>,
    ) -> Option<Vec<u8>> {
        let header = codec::header_of(packet)?;
        if header.dst != self.own || self.roster.has_dead(&header.src) {
            // foca does not believe it.
            return None;
        }
        let mut held = Vec::new();
        let left = codec::without_updates(packet, |update| {
            let is_held = self.is_rumour(update);
            held.extend(is_held.then_some(*update.id()));
            is_held
        });
        for member in held {
            self.rumours.open.entry(member).or_insert(Rumour::new(now, false));
        }
        if left.is_some() {
            self.ask_rumoured(now, actions);
        }
        left
    }

    fn is_rumour(&self, update: &Member<Identity>) -> bool {
        let of = update.id();
        update.state() == foca::State::Down
            && self.roster.has_active_before(of)
            && !self.accuses(of)
            && rule(ProtocolMutant::HearsayBelieved, true)
    }

    /// Looks into it that members have left, as is said.
    pub(super) fn hold_leavers(
        &mut self,
        now: Instant,
        members: Vec<Identity>,
        actions: &mut Vec<MembershipAction>,
    ) {
        let mut is_news = false;
        for member in members {
            let it = self.rumours.open.entry(member).or_insert(Rumour::new(now, true));
            if !it.is_left {
                // An answer to an earlier ping does not show that it has not left since.
                *it = Rumour::new(now, true);
            }
            is_news |= it.pings == 0;
        }
        if is_news {
            self.ask_rumoured(now, actions);
        }
    }

    /// A member has answered a ping of this number.
    pub(super) fn answered_rumour(&mut self, member: &Identity, number: u64) {
        if self.rumours.refutes(member, number) {
            self.claims.lock().forget(member);
        }
    }

    /// Pings the members again that are said to be dead, and believes it of those that did not
    /// answer.
    pub(super) fn ask_rumoured(&mut self, now: Instant, actions: &mut Vec<MembershipAction>) {
        let roster = &self.roster;
        self.rumours.open.retain(|member, _| roster.has_active_before(member));
        let (mut to_ping, mut dead) = (Vec::new(), Vec::new());
        for (member, rumour) in self.rumours.open.iter_mut().filter(|(_, it)| it.next <= now) {
            if rumour.pings < PINGS {
                rumour.pings += 1;
                rumour.next = now + self.health.direct_time(member, PING_PERIOD);
                to_ping.push(*member);
            } else {
                dead.push(*member);
            }
        }
        for member in to_ping {
            let number = self.ping_numbered(now, member, actions);
            if let Some(rumour) = self.rumours.open.get_mut(&member) {
                rumour.first_ping.get_or_insert(number);
            }
        }
        for member in dead {
            self.rumours.open.remove(&member);
            self.declare_dead(now, member, actions);
        }
        if let Some(next) = self.rumours.open.values().map(|rumour| rumour.next).min() {
            self.timers.retain(|_, timer| !matches!(timer, Timer::AskRumoured));
            self.set_timer(next, Timer::AskRumoured);
        }
    }
}
