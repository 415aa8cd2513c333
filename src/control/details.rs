//! Details: what a member is called, in which place it stands and what it holds, from any node that
//! knows.
//!
//! **Problem.** Partitions can be placed on a member only once it is known by name, data center and
//! cores. It tells them in its HELLO. But two nodes that both live might never reach each other: a
//! route is broken, or they stand at two sites that are connected to a third one only. All others
//! place partitions on both.
//!
//! So a node tells on what it knows of the living members, in the list of members that any node may
//! ask for. A node that lacks the details of a member asks for that list soon.
//!
//! | what is known of a member | what counts |
//! |---|---|
//! | nothing | it is a member without a name: nothing is placed on it, and nothing is decided |
//! | the word of another node | that, until the member itself says something |
//! | its own HELLO | that |
//!
//! **Invariant.** Details are those of one life of a node, and a life never changes them. What
//! another node says is judged like a HELLO: a member that this node would refuse is not taken.
//! Details are kept for as long as membership remembers that life, so they are no more than it.

use std::collections::BTreeSet;
use std::time::Duration;

use super::interface::{Actions, ControlAction, Link};
use super::state::{Control, Details, LinkState};
use crate::clock::Instant;
use crate::logging;
use crate::membership::{Record, State, exchange_period};
use crate::mutants::{ProtocolMutant, rule};
use crate::placement::Site;
use crate::types::{Identity, MAX_MEMBERS, MAX_NAME_BYTES, NodeHash, NodeId};
use crate::wire::message::{Channel, ControlMessage, Hello, MemberDetails};

/// How long missing details may take to come by themselves, as most do. The pause before they are
/// asked for again doubles each time, up to that between two exchanges.
const ASK_AFTER: Duration = Duration::from_millis(100);

/// How many members are asked for missing details at a time.
const ASKED_AT_A_TIME: usize = 3;

/// How long details are kept that came before their member was heard of.
pub(super) const KEPT_FOR: Duration = Duration::from_secs(60);

/// The most lives of which details are kept. If there are more, those that became no members go at
/// once: any host can say HELLO.
const MAX_DETAILS: usize = 2 * MAX_MEMBERS;

/// How long it is remembered that a life is over, since a node said so last. All nodes say it for
/// as long as membership remembers the dead, and each is asked again within minutes.
const GONE_FOR: Duration = Duration::from_secs(3600);

impl Control {
    /// Returns the node's name, if it is known for this life of it.
    pub(super) fn name(&self, identity: &Identity) -> Option<NodeId> {
        self.details_of(identity).map(|it| it.told.id.clone())
    }

    /// Returns the node's name, unless a later life of the node is a member at another address. The
    /// app is told of that one alone.
    pub(super) fn name_that_counts(&self, identity: &Identity) -> Option<NodeId> {
        let is_later = |it: Identity| {
            it.node == identity.node && it.addr != identity.addr && it.is_later_than(identity)
        };
        let is_outlived = self.active_lives().any(is_later);
        self.name(identity).filter(|_| !is_outlived)
    }

    /// Returns what is known of this life of a node.
    pub(super) fn details_of(&self, identity: &Identity) -> Option<&Details> {
        self.details.of(identity)
    }

    /// Whether a node of this site is in this node's data center.
    pub(super) fn is_here(&self, site: &Site) -> bool {
        site.data_center == self.config.local.site.data_center
    }

    /// Remembers what a node told of itself.
    pub(super) fn note_details(&mut self, now: Instant, hello: &Hello) {
        let identity = &hello.identity;
        if identity.node == self.config.identity.node {
            return;
        }
        if self.details.len() >= MAX_DETAILS {
            self.forget_members(now);
        }
        let details = Details { told: MemberDetails::of(hello), heard_at: now };
        self.details.insert(identity.node, details);
    }

    /// Takes up what another node says of members that this node sees alive and does not know.
    pub(super) fn hear_details(&mut self, now: Instant, told: Vec<MemberDetails>) {
        if !rule(ProtocolMutant::FirstHandOnly, true) {
            return;
        }
        let active: Vec<Identity> = self.active_lives().collect();
        for it in told.into_iter().filter(|it| it.id.as_str().len() <= MAX_NAME_BYTES) {
            let node = NodeHash::of(self.config.cluster, it.id.as_str());
            let is_it = |life: &&Identity| life.node == node && life.boot == it.boot;
            let life = active.iter().find(is_it).filter(|life| self.details_of(life).is_none());
            let Some(life) = life else { continue };
            if let Err(refusal) = self.config.local.judge_details(self.identity(), *life, &it) {
                logging::debug!("{} is a member that this node refuses: {}", it.id, refusal.text);
                continue;
            }
            self.details.insert(node, Details { told: it, heard_at: now });
        }
    }

    /// Returns all members that this node knows, and itself if it is one.
    pub(super) fn records_to_tell(&self) -> Vec<Record> {
        let (me, is_member) = (self.identity(), self.membership.is_member());
        let mut records = self.membership.records();
        records.retain(|known| is_member || known.identity != me);
        records
    }

    /// Returns what this node knows of the members that live, itself among them.
    pub(super) fn details_to_tell(&self) -> Vec<MemberDetails> {
        let me = self.identity();
        let hello = self.config.local.hello(me, Channel::Control, None);
        let own = MemberDetails::of(&hello);
        let active: Vec<Identity> = self.active_lives().collect();
        let others = active.iter().filter_map(|life| self.details_of(life));
        others.map(|details| details.told.clone()).chain([own]).collect()
    }

    /// Returns the lives that take part, that of this node left out.
    pub(super) fn active_lives(&self) -> impl Iterator<Item = Identity> {
        let me = self.identity().node;
        let records = self.membership.records().into_iter();
        records
            .filter(move |known| known.state.is_active() && known.identity.node != me)
            .map(|known| known.identity)
    }

    /// Begins to ask for details when some are missing, and ends when none are.
    pub(super) fn watch_details(&mut self, now: Instant) {
        let missing = &mut self.missing_details;
        if self.placement.is_complete() {
            missing.ask_at = None;
        } else if missing.ask_at.is_none() {
            (missing.ask_at, missing.pause) = (Some(now + ASK_AFTER), ASK_AFTER);
        }
    }

    /// Asks some members for all that they know if details are missing.
    pub(super) fn handle_details_timer(&mut self, now: Instant, actions: &mut Actions) {
        let missing = &mut self.missing_details;
        if missing.ask_at.is_none_or(|at| at > now) {
            return;
        }
        missing.pause = (missing.pause * 2).min(exchange_period(self.links.len()));
        missing.ask_at = Some(now + missing.pause);
        for _ in 0..ASKED_AT_A_TIME.min(self.links.len()) {
            self.ask_next_for_members(actions);
        }
    }

    /// Asks the next member in turn for the members that it knows. Returns whether there is one.
    pub(super) fn ask_next_for_members(&mut self, actions: &mut Actions) -> bool {
        let up = || self.links.iter().filter(|(_, link)| link.state == LinkState::Up);
        let next = up().find(|(node, _)| **node > self.exchanged_with).or_else(|| up().next());
        let Some((&node, link)) = next else { return false };
        let link = Link::to(&link.identity);
        actions.push(ControlAction::Ask { link, message: ControlMessage::AskMembers });
        self.exchanged_with = node;
        true
    }

    /// Notes that a life is said to be over, so that it is remembered.
    pub(super) fn note_over(&mut self, now: Instant, known: &Record) {
        let Record { identity, state, .. } = known;
        self.gone.record(identity, *state == State::Left);
        self.gone_said_at.insert(identity.node, now);
    }

    /// Forgets the members that membership has forgotten.
    pub(super) fn forget_members(&mut self, now: Instant) {
        let records = self.membership.records();
        let remembered: BTreeSet<NodeHash> = records.iter().map(|it| it.identity.node).collect();
        let lives: BTreeSet<_> =
            records.iter().map(|it| (it.identity.node, it.identity.boot)).collect();
        let is_kept = |heard_at: Instant| now.since(heard_at) < KEPT_FOR;
        let is_full = self.details.len() >= MAX_DETAILS;
        self.details.retain(|life, it| lives.contains(life) || is_kept(it.heard_at) && !is_full);
        self.statuses_by_others.retain(|node, _| remembered.contains(node));
        #[cfg(feature = "security")]
        self.forget_denied(|life| lives.contains(&(life.node, life.boot)));
        let members = self.active_lives().map(|life| life.node).collect();
        self.pins.note_members(now, &members);
        self.gone_said_at.retain(|_, said_at| now.since(*said_at) < GONE_FOR);
        self.gone.retain(|node| self.gone_said_at.contains_key(node));
    }
}
