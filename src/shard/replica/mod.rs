//! [`Replica`]: this node's copies on one core. It answers the requests of coordinators and of
//! other replicas, and knows no coordinator.
//!
//! - [`copies`]: the store, the clock, and what this node is to each partition;
//! - [`serve`]: answers requests, each in one step;
//! - [`lists`]: which list a partition counts in, and what follows from another one;
//! - [`acceptor`]: promises and accepts the next list;
//! - [`handoffs`]: copies partitions when the placement changed;
//! - [`lacking`]: what found no room, and when to try again;
//! - [`steady`]: how long a wish for another list must stand;
//! - [`sharing`]: has others merge what a replica that returned alone holds;
//! - [`risk`]: when acknowledged writes might be lost;
//! - [`unreached`]: which members this core does not reach, and what follows for its lists;
//! - [`anti_entropy`]: compares copies with those of others in the background;
//! - [`behind`]: which partitions might lack what other data centers hold;
//! - [`surveyed`]: which copies were compared key by key;
//! - [`purge`]: forgets tombstones.
//!
//! A file here may use the copies and the machines of `replication`, and what a [`Turn`] holds.
//! What a coordinator must know is an [`Effect`](super::effects::Effect).

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use self::copies::{LocalCopies, Standing};
use self::handoffs::Job;
use self::unreached::Unreached;
use super::interface::{Action, ShardConfig, Shortage};
use super::node::Node;
use super::requests::ReplicaAsker;
use super::timers::Timer;
use super::turn::Turn;
use crate::clock::{Instant, WallTime};
#[cfg(feature = "sim")]
use crate::entry::Entry;
use crate::mutants::{ProtocolMutant, rule};
use crate::placement::{Member, Placement};
use crate::replication::anti_entropy::AntiEntropy;
use crate::replication::purge::Purge;
use crate::store::{Readers, Store};
use crate::types::{Identity, Partition};
use crate::wire::message::{Answer, Listed};

mod acceptor;
mod anti_entropy;
mod behind;
pub(super) mod copies;
mod handoffs;
mod lacking;
mod lists;
mod purge;
mod risk;
mod serve;
mod sharing;
mod steady;
mod surveyed;
mod unreached;

pub(super) use self::serve::check_request;

/// How many expired keys one turn frees; the rest wait for the next, so that no turn is long.
const EXPIRE_BUDGET: usize = 256;

/// The shortest time between two searches for expired keys.
const EXPIRE_PERIOD: Duration = Duration::from_millis(50);

/// The longest time that memory waits to be freed if no reader holds it up.
const COLLECT_PERIOD: Duration = Duration::from_millis(10);

/// How long a mutant puts off what it should have done.
#[cfg(feature = "sim")]
const PUT_OFF_FOR: Duration = Duration::from_millis(20);

/// This node's copies of one core's partitions, and the machines that keep them.
pub(super) struct Replica {
    pub(super) copies: LocalCopies,
    /// Partitions that want a handoff and have none yet.
    wanted: BTreeSet<Partition>,
    /// How many handoffs are under way, those left out that rest.
    handoffs: usize,
    /// Partitions whose handoff has rested, and starts again when there is room.
    rested: BTreeSet<Job>,
    /// Whether a handoff might be startable that was not when they were looked at last.
    may_hand_over: bool,
    /// How many reminders were sent since when.
    reminded: (Instant, usize),
    /// The partitions whose reminders are due and wait for that.
    to_remind: VecDeque<Partition>,
    /// The members that this core does not reach.
    pub(super) unreached: Unreached,
    anti_entropy: AntiEntropy,
    purge: Purge,
    /// When the timer for expiry was looked at last.
    expiry_seen_at: Option<Instant>,
    /// The latest wall time that was seen since it went back last.
    latest_wall: WallTime,
    /// How many partitions are to be fetched, and to be given away.
    pending: usize,
    giving: usize,
    /// The generation, the two numbers above, and what lacks room, as they were reported last.
    reported: (u64, usize, usize, Shortage),
    /// What [`ProtocolMutant::AcknowledgedFirst`] puts off.
    #[cfg(feature = "sim")]
    put_off: VecDeque<Entry>,
}

impl Replica {
    pub(super) fn new(config: &ShardConfig, readers: Arc<Readers>) -> Self {
        Self {
            copies: LocalCopies::new(config, readers),
            wanted: BTreeSet::new(),
            handoffs: 0,
            rested: BTreeSet::new(),
            may_hand_over: false,
            reminded: (Instant::default(), 0),
            to_remind: VecDeque::new(),
            unreached: Unreached::default(),
            anti_entropy: AntiEntropy::default(),
            purge: Purge::new(config.purge_grace),
            expiry_seen_at: None,
            latest_wall: WallTime::default(),
            pending: 0,
            giving: 0,
            reported: (0, 0, 0, Shortage::default()),
            #[cfg(feature = "sim")]
            put_off: VecDeque::new(),
        }
    }

    /// The members changed, or the cluster's first lists were born. `old` is the placement before.
    pub(super) fn placed<C>(&mut self, turn: &mut Turn<'_, C>, old: &Placement, is_birth: bool) {
        let placement = turn.node.placement.clone();
        self.unreached.keep_only(|node| placement.member(node).map(|member| member.identity.boot));
        let has_lost_members =
            old.members().iter().any(|member| !placement.is_alive(&member.identity));
        for partition in turn.node.partitions() {
            if is_birth && self.copies.partition(partition).list().is_none() {
                self.create_first_list(turn, partition);
            }
            let wished = |placement: &Placement| -> Vec<Identity> {
                placement.replicas(partition).map(|member| member.identity).collect()
            };
            if wished(old) != wished(&placement) {
                let steadiness = &mut self.copies.partition_mut(partition).steadiness;
                steadiness.wish_changed(turn.now.instant);
                self.remind_anew(turn, partition);
            }
            self.note_deaths(turn, partition);
            self.review_handoffs(turn, partition);
            if has_lost_members || self.copies.partition(partition).lacks_before(&turn.node.me) {
                self.compare_with_others(turn, partition);
            }
            self.update_wants(turn, partition);
            self.recount(turn.node, partition);
        }
        if has_lost_members {
            let is_alive = |member: &Identity| placement.is_alive(member);
            self.copies.receipts_wanted.retain(|(_, source)| is_alive(source));
            self.copies.surveyed.keep_only(is_alive);
        }
        for other in placement.other_data_centers().values() {
            let is_new = |member: &&Member| is_birth || !old.is_alive(&member.identity);
            for member in other.members().iter().filter(is_new) {
                // It might have been out of reach, or this data center begins empty.
                self.hurry_to_compare(turn, member.identity);
            }
        }
        if placement.everybody().any(|member| member.identity != turn.node.me) {
            self.anti_entropy.start(turn.now.instant);
            self.purge.start(turn.now.instant);
        }
        self.purge.members_changed(|member| placement.is_alive(member));
    }

    /// Another node has answered what this replica asked.
    pub(super) fn answered<C>(
        &mut self,
        turn: &mut Turn<'_, C>,
        asker: ReplicaAsker,
        request_id: u64,
        from: Identity,
        answer: Answer,
    ) {
        match asker {
            ReplicaAsker::Handoff(partition, kind) => {
                self.handoff_answered(turn, (partition, kind), request_id, from, answer)
            }
            ReplicaAsker::List(partition) | ReplicaAsker::Give(partition) => {
                if let Answer::Listed(Listed { list: Some(list), .. }) = answer {
                    self.learn(turn, partition, list);
                }
            }
            ReplicaAsker::Compare(round) => self.compared(turn, round, answer),
            ReplicaAsker::Purge(question) => self.purge_answered(turn, question, &answer),
            ReplicaAsker::Survey { round, partition, after } => {
                self.surveyed(turn, from, (round, partition, after), answer);
            }
        }
    }

    /// What this replica asked will have no answer.
    pub(super) fn unanswered<C>(
        &mut self,
        turn: &mut Turn<'_, C>,
        asker: ReplicaAsker,
        from: Identity,
    ) {
        match asker {
            ReplicaAsker::Handoff(partition, kind) => {
                self.handoff_lost(turn, (partition, kind), from)
            }
            ReplicaAsker::List(_) | ReplicaAsker::Give(_) => {}
            ReplicaAsker::Compare(round) | ReplicaAsker::Survey { round, .. } => {
                self.anti_entropy.lost(round, turn.now.instant);
            }
            ReplicaAsker::Purge(question) => self.purge_unanswered(turn, question),
        }
    }

    /// Looks for expired keys, and frees some of them.
    pub(super) fn expire<C>(&mut self, turn: &mut Turn<'_, C>) {
        self.copies.may_expire = true;
        if self.copies.store.expire(turn.now.wall, EXPIRE_BUDGET) == EXPIRE_BUDGET {
            // More are due: at once, but not in this turn.
            turn.soon(Timer::Expire);
        }
    }

    /// Starts the handoffs that can start, and returns whether it looked for any.
    pub(super) fn start_wanted_handoffs<C>(&mut self, turn: &mut Turn<'_, C>) -> bool {
        let may_hand_over = std::mem::take(&mut self.may_hand_over);
        if may_hand_over {
            self.start_handoffs(turn);
        }
        may_hand_over
    }

    /// Sets the timers of this part, and reports how far the handoffs are.
    pub(super) fn finish_turn<C>(&mut self, turn: &mut Turn<'_, C>) {
        self.schedule_expiry(turn);
        let compare_at =
            self.anti_entropy.deadline().filter(|_| rule(ProtocolMutant::NothingCompared, true));
        turn.timers.set_to(Timer::Compare, compare_at);
        turn.timers.set_to(Timer::Purge, self.purge.deadline());
        if self.copies.store.has_garbage() {
            turn.timers.set_once(Timer::Collect, turn.now.instant + COLLECT_PERIOD);
        }
        let (pending, giving, shortage) = (self.pending, self.giving, self.shortage());
        let generation = turn.node.placement.generation();
        let progress = (generation, pending, giving, shortage);
        if self.reported != progress {
            self.reported = progress;
            turn.actions.push(Action::Progress { generation, pending, giving, shortage });
        }
    }

    /// Keeps a timer for the key that expires first. Looks once a turn, as the wall clock might
    /// have been set, and after an entry that expires has come.
    fn schedule_expiry<C>(&mut self, turn: &mut Turn<'_, C>) {
        let was_seen = self.expiry_seen_at.replace(turn.now.instant) == Some(turn.now.instant);
        if !was_seen && self.has_gone_back(turn.now.wall) {
            self.look_for_early_husks(turn);
        }
        if !std::mem::take(&mut self.copies.may_expire) && was_seen {
            return;
        }
        let Some(at_ms) = self.copies.store.next_expiry_ms() else { return };
        let left = Duration::from_millis(at_ms.saturating_sub(turn.now.wall.millis()));
        turn.timers.set_no_later(Timer::Expire, turn.now.instant + left.max(EXPIRE_PERIOD));
    }

    /// Whether the wall clock was set back, by more than is put up with.
    fn has_gone_back(&mut self, wall: WallTime) -> bool {
        let limit = self.latest_wall.millis().saturating_sub(Store::EARLY_MS);
        let has_gone_back = wall.millis() < limit;
        self.latest_wall = if has_gone_back { wall } else { self.latest_wall.max(wall) };
        has_gone_back
    }

    /// How many partitions are to be fetched, and how many are to be given away.
    pub(super) fn progress(&self) -> (usize, usize) {
        (self.pending, self.giving)
    }

    /// How much found no room here.
    pub(super) fn shortage(&self) -> Shortage {
        self.copies.lacking.shortage()
    }

    pub(super) fn partitions_repaired(&self) -> u64 {
        self.anti_entropy.repaired()
    }

    #[cfg(feature = "sim")]
    fn apply_some_time<C>(&mut self, turn: &mut Turn<'_, C>, entry: Entry) {
        self.put_off.push_back(entry);
        turn.timers.set_once(Timer::PutOff, turn.now.instant + PUT_OFF_FOR);
    }

    #[cfg(not(feature = "sim"))]
    fn apply_some_time<C>(&mut self, _: &mut Turn<'_, C>, _: crate::entry::Entry) {}

    #[cfg(feature = "sim")]
    pub(super) fn apply_put_off<C>(&mut self, turn: &Turn<'_, C>) {
        for entry in std::mem::take(&mut self.put_off) {
            self.copies.apply(turn.node.hash(entry.key()), entry);
        }
    }

    /// How many copies of a partition are missing, or one too many, by this node's count.
    pub(super) fn missing(&self, node: &Node, partition: Partition) -> usize {
        let copy = self.copies.partition(partition);
        let target = || node.placement.replicas(partition).map(|member| member.identity);
        let is_mine = if target().any(|member| member == node.me) {
            let is_whole = self.copies.is_quiet(node, partition)
                && !self.copies.lacking.has(partition)
                && copy.unshared.is_none()
                && !copy.lacks_before(&node.me)
                && copy.list().is_some_and(|list| target().eq(list.members().iter().copied()));
            !is_whole
        } else {
            self.is_needed(node, partition) || self.copies.has_to_give(partition)
        };
        let is_first = target().next() == Some(node.me);
        let wanted = node.config.quorums.copies_wanted();
        let homeless = if is_first { wanted.saturating_sub(target().len()) } else { 0 };
        usize::from(is_mine) + homeless
    }

    /// How many partitions this node serves as a synced replica.
    pub(super) fn synced_partitions(&self, node: &Node) -> usize {
        let serves =
            |partition: &Partition| self.copies.partition(*partition).serves_synced(&node.me);
        node.partitions().filter(serves).count()
    }

    /// This node starts a new life, which no list names: its copies count nowhere, and it gives
    /// what it holds to the nodes that do count.
    pub(super) fn start_new_life<C>(&mut self, turn: &mut Turn<'_, C>) {
        let me = turn.node.me;
        for partition in turn.node.partitions() {
            self.take_handoffs(turn, partition);
            self.forget_register(turn, partition);
            let copy = self.copies.partition_mut(partition);
            (copy.opened, copy.whole, copy.is_idle) = (None, None, false);
            (copy.receipts, copy.reminders) = ((0, Vec::new()), 0);
            copy.unshared = None;
            let is_listed = copy.list().is_some_and(|list| list.contains(&me));
            let standing = if is_listed { Standing::Pending } else { Standing::Outside };
            self.set_standing(turn.node, partition, standing);
            self.update_wants(turn, partition);
            self.recount(turn.node, partition);
        }
        self.copies.merges.clear();
    }
}
