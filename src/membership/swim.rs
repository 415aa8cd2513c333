//! What foca asks of us: an identity, its settings, and a place for its wishes.

use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

use foca::{Config, Notification, PeriodicParams, Timer};

use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::claims::{ClaimHandler, SharedClaims};
use super::codec::{Codec, MAX_SWIM_BYTES};
use super::interface::MembershipConfig;
use crate::types::{Boot, Identity};

/// foca, with everything that it leaves open filled in.
pub(super) type Swim = foca::Foca<Identity, Codec, SmallRng, ClaimHandler>;

pub(super) fn new_swim(
    config: &MembershipConfig,
    identity: Identity,
    claims: SharedClaims,
) -> Swim {
    let random = SmallRng::seed_from_u64(config.seed);
    Swim::with_custom_broadcast(
        identity,
        foca_config(config),
        random,
        Codec,
        ClaimHandler { claims },
    )
}

impl foca::Identity for Identity {
    /// foca keeps one member per address.
    type Addr = std::net::SocketAddr;

    /// Returns the same life, one return later. After 65,535 returns it is a later life, whose
    /// copies count nowhere and are given to the nodes that do count. Without it the node would
    /// stay dead until it is started again. A node whose datagrams are lost one way gets there in a
    /// day and a half.
    fn renew(&self) -> Option<Self> {
        if let Some(returns) = self.returns.checked_add(1) {
            return Some(Self { returns, ..*self });
        }
        let boot = Boot(self.boot.0.checked_add(1)?);
        Some(Self { boot, ..self.life() }).filter(Self::is_possible)
    }

    fn addr(&self) -> Self::Addr {
        self.addr
    }

    /// Whether this identity wins its address, in a total order, so that every member keeps the
    /// same one.
    ///
    /// Of one node the later life wins. Of two nodes (the address was given to another) the one
    /// that started later wins, and if both started in the same millisecond the one with the higher
    /// hash.
    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        if self.node == adversary.node {
            self.is_later_than(adversary)
        } else {
            (self.boot, self.node) > (adversary.boot, adversary.node)
        }
    }
}

/// From this incarnation on, a suspicion might be one that no incarnation refutes, so that foca
/// renews the identity: it refutes the one before the last by the last.
pub(super) const LAST_INCARNATIONS: u16 = u16::MAX - 1;

/// How long a dead member is remembered. That keeps out only a member that comes back under its
/// very identity, and members renew theirs. Forgetting early would let late gossip revive the dead.
const REMEMBER_DEAD: Duration = Duration::from_secs(24 * 60 * 60);

/// How often a member asks another one for members, in case gossip passed it by.
const ANNOUNCE_PERIOD: Duration = Duration::from_secs(30);

/// How often a dead member is greeted. A split cluster heals within two of these: the answer to the
/// greeting tells one side that it is taken for dead, and it returns.
const ANNOUNCE_TO_DEAD_PERIOD: Duration = Duration::from_secs(5);

/// How often a member passes a change on. Eight others each tell members chosen at random, so a
/// member misses the change with a probability of e^-8. It then learns it from the member
/// concerned.
const MAX_TRANSMISSIONS: NonZeroU8 = NonZeroU8::new(8).unwrap();

/// How many members receive a round of gossip, and how many foca asks for an indirect probe.
pub(super) const FAN_OUT: NonZeroUsize = NonZeroUsize::new(3).unwrap();

/// Returns how long a direct probe may take: 3/10 of the period. The indirect one has the other
/// 7/10, as it takes four hops instead of two.
pub(super) fn probe_rtt(probe_period: Duration) -> Duration {
    probe_period * 3 / 10
}

fn foca_config(config: &MembershipConfig) -> Config {
    let to_one = |frequency| Some(PeriodicParams { frequency, num_members: NonZeroUsize::MIN });
    Config {
        probe_period: config.probe_period,
        probe_rtt: probe_rtt(config.probe_period),
        num_indirect_probes: FAN_OUT,
        max_transmissions: MAX_TRANSMISSIONS,
        suspect_to_down_after: config.suspicion_timeout,
        remove_down_after: Some(REMEMBER_DEAD),
        max_packet_size: NonZeroUsize::new(MAX_SWIM_BYTES).expect("a constant above zero"),
        notify_down_members: true,
        periodic_announce: to_one(ANNOUNCE_PERIOD),
        periodic_announce_to_down_members: to_one(ANNOUNCE_TO_DEAD_PERIOD),
        periodic_gossip: Some(PeriodicParams {
            frequency: config.probe_period / 2,
            num_members: FAN_OUT,
        }),
    }
}

/// What foca wished for during one interaction.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    pub(super) packets: Vec<(Identity, Vec<u8>)>,
    pub(super) timers: Vec<(Duration, Timer<Identity>)>,
}

impl foca::Runtime<Identity> for Wishes {
    /// Does nothing. foca has no notification of a suspicion, and all others can be told from its
    /// members: one mechanism for all changes is simpler than two.
    fn notify(&mut self, _: Notification<'_, Identity>) {}

    fn send_to(&mut self, to: Identity, packet: &[u8]) {
        self.packets.push((to, packet.to_vec()));
    }

    fn submit_after(&mut self, timer: Timer<Identity>, after: Duration) {
        self.timers.push((after, timer));
    }
}
