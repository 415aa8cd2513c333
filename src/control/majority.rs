//! [`Config::require_majority`](crate::Config::require_majority): at most one side of a network
//! partition acknowledges. Each data center counts its own nodes; a member here is one of this
//! node's data center.
//!
//! Every member pings every other one. A node has a *lease* while enough members have answered
//! pings that it sent within [`LEASE`]: they and it are a majority of the nodes that there can be.
//! Replicas without a lease decline writes, and coordinators without one acknowledge none. A member
//! does not answer in this way a node that it takes for dead.
//!
//! Cores are told of a placement without a member that may live when a majority has said that it
//! sees the same members, and [`WAIT`] has passed since. Two majorities share a node. From when
//! that one said so it has not extended the lease of the missing member, whose last one is over. So
//! the missing member counts no more in the lists that are then replaced.
//!
//! ```text
//! missing member    ── ping ──▶ answered │            lease over: declines writes
//!                        ├────────── LEASE ────────────┤
//! shared node                            │ takes it for dead, says so
//! majority                                   │ all have said so               │ new lists
//!                                            ├────────────── WAIT ────────────┤
//! ```
//!
//! A side without a majority keeps the placement that it had. When the network is whole again,
//! lists meet as they do without all this. Until then, and in the lease after a moment in which it
//! was whole, both may be written to.
//!
//! The quorum is of a fixed number of nodes, because to agree on who the nodes are takes consensus
//! and a memory of it, which processes without disks do not have. Leases are Gray and Cheriton's
//! (SOSP '89), in monotonic time: clocks need not agree. They must only run equally fast, but for
//! the difference between the two times.

use std::time::Duration;

use super::interface::{Actions, ControlAction};
use super::state::{Control, Heard, Majority};
use crate::clock::Instant;
use crate::events::Event;
use crate::membership::{Record, State};
use crate::mutants::{ProtocolMutant, rule};
use crate::placement::{Placement, members_digest};
use crate::shard::{Lease, Stage};
use crate::types::Identity;
use crate::wire::timing::{LEASE, is_longer};

/// How long a majority must have agreed that a member is gone. A quarter longer, as clocks may run
/// unequally fast and answers of replicas take time to reach their coordinator.
const WAIT: Duration = Duration::from_millis(2500);

const _: () = assert!(!is_longer(LEASE.saturating_mul(5), WAIT.saturating_mul(4)));

/// How often everybody is pinged: most of them may be lost within a lease.
const PING_PERIOD: Duration = Duration::from_millis(250);

const _: () = assert!(!is_longer(PING_PERIOD.saturating_mul(8), LEASE));

/// In which steps the cores' lease is extended, rather than with each answer.
const LEASE_STEP: Duration = Duration::from_millis(500);

const _: () = assert!(is_longer(LEASE, LEASE_STEP));

/// How soon everybody is pinged when other members are seen than before.
const PING_SOON: Duration = Duration::from_millis(20);

impl Control {
    /// Returns how many nodes are a majority, if one is required. More nodes than there should be
    /// count, too.
    pub(super) fn majority(&self) -> Option<usize> {
        let nodes = self.majority.of;
        (nodes > 0).then(|| nodes.max(self.placement.members().len()) / 2 + 1)
    }

    /// Whether this node hears from a majority, or none is required.
    pub(super) fn has_majority(&self) -> bool {
        self.majority().is_none() || self.majority.is_held
    }

    /// Returns the members of this data center, and those that have not told their data center yet.
    fn records_here(&self) -> Vec<Record> {
        let mut records = self.membership.records();
        records.retain(|known| {
            let details = self.details.get(&known.identity.node);
            details.is_none_or(|details| self.is_here(&details.told.site))
        });
        records
    }

    pub(super) fn note_heard(&mut self, identity: Identity, sent_at: Instant, view: u64) {
        if !self.majority.active.contains(&identity.life()) {
            return;
        }
        let heard = self.majority.heard.entry(identity.node);
        let heard = heard.or_insert(Heard { identity, sent_at, view });
        if heard.sent_at <= sent_at {
            *heard = Heard { identity, sent_at, view };
        }
    }

    /// Takes up which members this node sees now, and of how many nodes they require a majority:
    /// the largest number that one of them names.
    ///
    /// A dead member counts on until it is forgotten. It may only be out of reach, and the others
    /// there go by the number that it named.
    pub(super) fn count_members(&mut self, now: Instant, actions: &mut Actions) {
        let records = self.records_here();
        let named = records.iter().filter(|known| known.state != State::Left).filter_map(|known| {
            let details = self.details.get(&known.identity.node)?;
            (details.told.boot == known.identity.boot).then_some(details.told.majority_of)
        });
        let of = named.chain([self.config.local.majority_of]).max().unwrap_or_default().into();
        let majority = &mut self.majority;
        if of == 0 {
            // The member that asked for it is gone, or was started again without.
            let before = std::mem::take(majority);
            if before.of > 0 {
                actions.push(ControlAction::Lease(Lease { until: Instant::MAX, nodes: 0 }));
                actions.extend(
                    (!before.is_held).then_some(ControlAction::Notify(Event::MajorityFound)),
                );
            }
            return;
        }
        majority.of = of;
        let active = records.iter().filter(|known| known.state.is_active());
        majority.active = active.map(|known| known.identity.life()).collect();
        // Zero says that the node that asks is not among them.
        let view = members_digest(majority.active.iter()).max(1);
        majority.heard.retain(|_, heard| majority.active.contains(&heard.identity.life()));
        if majority.view != view {
            (majority.view, majority.view_since) = (view, now);
            majority.agreed_at = None;
            majority.ping_at = majority.ping_at.min(now + PING_SOON);
            self.membership.set_view(view);
        }
    }

    /// Takes up what the others have answered.
    pub(super) fn count_majority(&mut self, now: Instant, actions: &mut Actions) {
        let Some(needed) = self.majority() else { return };
        let majority = &mut self.majority;
        majority.heard.retain(|_, heard| heard.view > 0);
        let agrees = |heard: &&Heard| {
            heard.view == majority.view
                && heard.sent_at >= majority.view_since
                && now < heard.sent_at + LEASE
        };
        if majority.heard.values().filter(agrees).count() + 1 < needed {
            majority.agreed_at = None;
        } else {
            majority.agreed_at.get_or_insert(now);
        }
        let mut sent_at: Vec<Instant> =
            majority.heard.values().map(|heard| heard.sent_at).collect();
        let until = match needed.checked_sub(2) {
            None => Instant::MAX,
            Some(at) if at < sent_at.len() => {
                *sent_at.select_nth_unstable_by(at, |a, b| b.cmp(a)).1 + LEASE
            }
            Some(_) => Instant::default(),
        };
        let is_held = now < until;
        if std::mem::replace(&mut majority.is_held, is_held) != is_held {
            let heard = sent_at.iter().filter(|at| now < **at + LEASE).count() + 1;
            let lost = Event::MajorityLost { heard, needed };
            actions.push(ControlAction::Notify(if is_held { Event::MajorityFound } else { lost }));
        }
        let lease = Lease { until, nodes: majority.of };
        // Each answer extends it a little.
        let is_much_later =
            |told: &Lease| lease.until > told.until + LEASE_STEP || now + LEASE_STEP >= told.until;
        if majority.lease.is_none_or(|told| told.nodes != lease.nodes || is_much_later(&told)) {
            let told = majority.lease.replace(lease);
            actions.extend((told != Some(lease)).then_some(ControlAction::Lease(lease)));
        }
    }

    /// An answer to a ping came: less to do than after any other event, of which there are far
    /// fewer.
    pub(super) fn majority_answered(&mut self, now: Instant, actions: &mut Actions) {
        let was_held = self.majority.is_held;
        self.count_majority(now, actions);
        if self.majority.is_held != was_held || self.is_withholding() && self.may_follow(now) {
            self.finish_event(now, actions);
        }
    }

    /// Whether the cores may go by what this node sees now.
    pub(super) fn may_follow(&self, now: Instant) -> bool {
        let (old, old_stage) = &self.published;
        let is_free = match old_stage {
            // Until there are lists. Nodes that agree on being new agree on who they are.
            Stage::Forming => self.stage != Stage::Joined,
            Stage::Born { .. } | Stage::Joined => self.is_nobody_missed(old),
        };
        let has_waited = self.majority.agreed_at.is_some_and(|at| at + WAIT <= now);
        let must_wait = self.majority().is_some() && !is_free && !has_waited;
        !rule(ProtocolMutant::FollowedAtOnce, must_wait)
    }

    /// Whether every member of a placement is a member still, or this life of it is over: it has
    /// left, or was started again.
    fn is_nobody_missed(&self, old: &Placement) -> bool {
        let records = self.records_here();
        old.members().iter().all(|member| {
            let of_node =
                records.iter().filter(|known| known.identity.node == member.identity.node);
            of_node.into_iter().any(|known| match known.state {
                State::Alive | State::Suspect | State::Left
                    if known.identity.boot == member.identity.boot =>
                {
                    true
                }
                // At another address the earlier life may still run.
                _ => {
                    let (now, before) = (known.identity, member.identity);
                    now.boot > before.boot && now.addr == before.addr
                }
            })
        })
    }

    pub(super) fn handle_majority_timer(&mut self, now: Instant, actions: &mut Actions) {
        if self.majority().is_none() || self.majority.ping_at > now {
            return;
        }
        self.majority.ping_at = now + PING_PERIOD;
        let me = self.identity().node;
        let records = self.records_here().into_iter();
        let others = records.filter(|it| it.state.is_active() && it.identity.node != me);
        for identity in others.map(|it| it.identity).collect::<Vec<_>>() {
            self.swim(now, actions, |membership, todo| membership.ping(now, identity, todo));
        }
    }

    /// Returns when something is due. `is_withholding` says that the cores do not go by what this
    /// node sees.
    pub(super) fn majority_deadline(&self, is_withholding: bool) -> Option<Instant> {
        self.majority()?;
        let Majority { ping_at, agreed_at, lease, is_held, .. } = &self.majority;
        let waited = agreed_at.filter(|_| is_withholding).map(|at| at + WAIT);
        let over = lease.filter(|_| *is_held).map(|lease| lease.until);
        waited.into_iter().chain(over).chain([*ping_at]).min()
    }
}
