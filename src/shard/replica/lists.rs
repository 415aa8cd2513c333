//! Which list a partition counts in on this node, and what follows when that changes.
//!
//! Lists name lives: a node that was taken for dead and lives is the same replica as before. It
//! learns from the first node that knows better that its list has been replaced.

use std::sync::Arc;
use std::time::Duration;

use super::Replica;
use super::copies::{Progress, Seal, Standing};
use crate::clock::Instant;
use crate::mutants::{ProtocolMutant, rule};
use crate::placement::{List, ListRef, Member, Stage, Wish};
use crate::replication::handoff::{Handoff, are_whole};
use crate::shard::effects::Effect;
use crate::shard::node::Node;
use crate::shard::requests::{HandoffKind, ReplicaAsker};
use crate::shard::timers::Timer;
use crate::shard::turn::Turn;
use crate::types::{Identity, Partition};
use crate::wire::message::{Answer, Chunk};

/// How often members that have something to do about a list are told it, and how soon the first
/// time. A node that was cut off goes by an old list until then.
pub(super) const REMIND_PERIOD: Duration = Duration::from_millis(500);
const REMIND_AFTER: Duration = Duration::from_millis(50);

/// How long the period becomes for those that keep silent: it doubles after
/// [`PATIENT_REMINDERS`] of them, until the list changes or another node should be in it.
const MAX_REMIND_PERIOD: Duration = Duration::from_secs(8);

/// How many reminders a core sends in [`REMIND_AFTER`] at most, some hundred kilobytes a second.
/// There may be one for each of thousands of partitions, and calls must not wait for all of them.
const MAX_REMINDERS: usize = 256;

/// How much longer each further replica leaves it to the others to take a dead member out of the
/// list. The first one might not be able to.
const DRIVER_STEP: Duration = Duration::from_millis(500);

/// After how many reminders W receipts suffice for a giver, or for one that returned with data:
/// about three seconds. A member that does not reach this node in that time might never do.
pub(super) const PATIENT_REMINDERS: u32 = 6;

impl Replica {
    /// Creates a partition's first list. Nothing was ever written, so its replicas are synced and
    /// empty.
    pub(super) fn create_first_list<C>(&mut self, turn: &mut Turn<'_, C>, partition: Partition) {
        let list = List::first(&turn.node.wish(partition));
        let is_mine = list.contains(&turn.node.me);
        self.copies.partition_mut(partition).list = Some(list);
        let standing = if is_mine { Standing::Synced } else { Standing::Outside };
        self.set_standing(turn.node, partition, standing);
        let copy = self.copies.partition_mut(partition);
        copy.whole = copy.opened;
        if is_mine {
            self.copies.behind.mark(partition, turn.now.instant);
        }
        turn.effects.push_back(Effect::ListChanged { partition });
    }

    /// Notes whether a replica of which this node merges the copy is behind other data centers. So
    /// is this one then, if it had no copy; and if it had one, it has caught up with that replica.
    pub(in crate::shard) fn heard_behind<C>(
        &mut self,
        turn: &Turn<'_, C>,
        partition: Partition,
        Chunk { is_behind, next, .. }: &Chunk,
    ) {
        let now = turn.now.instant;
        match self.copies.partition(partition).standing {
            Standing::Pending if rule(ProtocolMutant::BehindNotHanded, *is_behind) => {
                self.copies.behind.mark(partition, now);
            }
            Standing::Synced if !is_behind && next.is_none() => {
                self.copies.behind.caught_up(partition, now);
            }
            Standing::Pending | Standing::Synced | Standing::Outside => {}
        }
    }

    /// Sets what this node is to the partition from now on. Readers on other threads know it before
    /// anything follows from it.
    pub(super) fn set_standing(&mut self, node: &Node, partition: Partition, standing: Standing) {
        let copy = self.copies.partition_mut(partition);
        copy.standing = standing;
        if standing == Standing::Synced {
            copy.opened = copy.list.as_ref().map(|list| list.reference());
        }
        let serves = copy.serves_synced(&node.me);
        copy.is_alone =
            serves && copy.list.as_ref().is_some_and(|list| list.has_members(&[node.me]));
        self.copies.store.serve(partition, serves);
        if standing == Standing::Outside {
            self.copies.behind.dropped(partition);
        }
    }

    /// Hears of a list, and returns whether it counts from now on. It does if it is above the known
    /// one. A replica that was synced in the list from which it was made stays synced.
    pub(in crate::shard) fn learn<C>(
        &mut self,
        turn: &mut Turn<'_, C>,
        partition: Partition,
        list: Arc<List>,
    ) -> bool {
        let node = turn.node;
        let is_far = |member: &Identity| node.in_other_data_center(member.node);
        if rule(ProtocolMutant::FarListsCount, list.members().iter().any(is_far)) {
            // It is not a list of this data center.
            return false;
        }
        let copy = self.copies.partition(partition);
        if copy.list.as_ref().is_some_and(|known| !list.is_above(known)) {
            return false;
        }
        if copy.standing == Standing::Pending && !rule(ProtocolMutant::AdoptedOnce, true) {
            return false;
        }
        self.take_handoffs(turn, partition);
        self.forget_register(turn, partition);
        let copy = self.copies.partition_mut(partition);
        copy.is_idle = copy.is_idle_before(&list, &node.me);
        let old = copy.list.replace(list.clone());
        let known = old.as_ref().map(|known| known.reference());
        if let Some(old) = &old {
            copy.steadiness.list_changed(turn.now.instant);
            self.forget_what_was_purged(node, partition, old, &list);
        }
        let copy = self.copies.partition_mut(partition);
        // A replica that had a copy then might have none now.
        (copy.receipts, copy.reminders) = ((0, Vec::new()), 0);
        self.remind_anew(turn, partition);
        let copy = self.copies.partition_mut(partition);
        let follows = !rule(ProtocolMutant::JumpedOpen, list.base() != known);
        let is_synced = copy.standing == Standing::Synced && follows;
        let may_lack_writes = rule(ProtocolMutant::ListedCounts, !is_synced)
            && (known.is_some() || rule(ProtocolMutant::BootIgnored, true));
        let stays = !may_lack_writes && list.contains(&node.me);
        let standing = match list.contains(&node.me) {
            true if stays => Standing::Synced,
            true => Standing::Pending,
            false => Standing::Outside,
        };
        if standing == Standing::Pending && copy.standing != Standing::Pending {
            self.note_data_brought(partition);
        }
        self.set_standing(node, partition, standing);
        if standing == Standing::Outside && self.copies.has_to_give(partition) {
            remind_after(turn, REMIND_AFTER, partition);
        }
        turn.effects.push_back(Effect::ListChanged { partition });
        self.review_sharing(turn, partition);
        self.note_deaths(turn, partition);
        if stays && let Some(old) = old {
            let copy = self.copies.partition_mut(partition);
            if are_whole(node.config.quorums, &list, std::iter::once(copy.extent())) {
                copy.whole = Some(list.reference());
            }
            self.queue_merge(node, partition, living_others(node, &old));
            self.hurry_to_compare_list(turn, &list);
        }
        self.update_wants(turn, partition);
        self.recount(turn.node, partition);
        true
    }

    /// Members that went might have coordinated writes that not every replica has, and offer them
    /// no longer. The replicas that stay compare what they hold.
    pub(super) fn compare_with_others<C>(&mut self, turn: &Turn<'_, C>, partition: Partition) {
        self.queue_merge(turn.node, partition, self.living_others(turn.node, partition));
    }

    /// Returns the other living members of the list, if this node is synced in it.
    pub(super) fn living_others(&self, node: &Node, partition: Partition) -> Vec<Identity> {
        let copy = self.copies.partition(partition);
        let list = copy.list().filter(|_| copy.is_synced());
        list.map(|list| living_others(node, list)).unwrap_or_default()
    }

    /// Compares soon with the replicas of a list that is new, or in which this replica is new.
    fn hurry_to_compare_list<C>(&mut self, turn: &Turn<'_, C>, list: &List) {
        list.members().iter().for_each(|member| self.hurry_to_compare(turn, *member));
    }

    /// Notes whether the partition wants a handoff, and whether another node must be told that it
    /// does.
    pub(super) fn update_wants<C>(&mut self, turn: &mut Turn<'_, C>, partition: Partition) {
        self.want_if_needed(turn.node, partition);
        if !self.to_be_told(turn.node, partition).is_empty() {
            remind_after(turn, REMIND_AFTER, partition);
        }
        self.drop_if_given(turn.node, partition);
    }

    pub(super) fn want_if_needed(&mut self, node: &Node, partition: Partition) {
        let waits =
            !self.copies.partition(partition).is_synced() && self.copies.lacking.waits(partition);
        if self.change_wanted(node, partition).is_some() && !waits {
            self.wanted.insert(partition);
            self.may_hand_over = true;
        } else {
            self.wanted.remove(&partition);
        }
    }

    /// Returns the nodes that should know this node's list and might not know it yet. If this node
    /// is synced in a list that should have other members: all that should be in it, as one of them
    /// would drive the change if it knew. If this node holds a partition that it should not, or is
    /// needed for one: all that should, as they might have a later list that has not reached this
    /// node.
    fn to_be_told(&self, node: &Node, partition: Partition) -> Vec<Identity> {
        let copy = self.copies.partition(partition);
        let Some(list) = &copy.list else { return Vec::new() };
        let mut target = node.target(partition);
        if target.contains(&node.me) {
            let is_off = copy.is_synced() && !list.has_members(&target);
            target.retain(|member| is_off && *member != node.me);
            target
        } else if self.is_needed(node, partition) || self.copies.has_to_give(partition) {
            target
        } else {
            Vec::new()
        }
    }

    /// Returns who should be in the list, if it is for this node to see to that, and for how long
    /// it leaves that to others.
    pub(super) fn change_wanted(
        &self,
        node: &Node,
        partition: Partition,
    ) -> Option<(Wish, Duration)> {
        let copy = self.copies.partition(partition);
        if node.stage == Stage::Forming || copy.seal == Seal::Sealed {
            return None;
        }
        let wish = node.wish(partition);
        if copy.seal == Seal::Overdue {
            return Some((wish, Duration::ZERO));
        }
        let place = wish.members.iter().position(|member| *member == node.me);
        if copy.standing != Standing::Synced {
            // If it is in the list the others wait for it, even if it should not stay.
            let is_wanted = copy.standing == Standing::Pending || place.is_some();
            let is_restored = rule(ProtocolMutant::NothingRestored, is_wanted);
            return is_restored.then_some((wish, Duration::ZERO));
        }
        let (place, list) = (place?, copy.list.as_ref()?);
        // For one that might not reach a quorum of the list this node proposes, unless another one
        // would have to go for it.
        let might_be_stuck = |member: &Identity| self.unreached.since(member).is_some();
        let may_propose = rule(ProtocolMutant::NewcomersDriveAlone, keeps_all(node, list, &wish));
        let is_without_newcomer = wish
            .members
            .iter()
            .all(|member| list.contains(member) || may_propose && might_be_stuck(member));
        let delay = DRIVER_STEP.saturating_mul(place as u32);
        (!list.is(&wish) && is_without_newcomer).then_some((wish, delay))
    }

    /// Returns for how long a wish for another list must stand still.
    pub(super) fn pause_before_change<C>(
        &self,
        turn: &Turn<'_, C>,
        partition: Partition,
    ) -> Duration {
        let placement = &turn.node.placement;
        let copy = self.copies.partition(partition);
        let goes = |acceptor: &Identity| {
            let leaves = |member: &Member| member.leaving;
            placement.is_dead(acceptor) || placement.member(acceptor.node).is_some_and(leaves)
        };
        let list = copy.list();
        let is_urgent = list.is_none_or(|list| list.acceptors().any(goes))
            || copy.standing == Standing::Pending
            || copy.seal == Seal::Overdue;
        if is_urgent || !rule(ProtocolMutant::WishedAtOnce, true) {
            return Duration::ZERO;
        }
        copy.steadiness.pause_left(turn.now.instant, placement.is_complete())
    }

    /// This node has merged enough others to hold all that was acknowledged before the list.
    pub(super) fn is_whole<C>(
        &mut self,
        turn: &mut Turn<'_, C>,
        partition: Partition,
        list: &List,
    ) {
        if !list.contains(&turn.node.me) || !self.copies.knows(partition, list.reference()) {
            return;
        }
        let copy = self.copies.partition_mut(partition);
        copy.whole = Some(list.reference());
        let is_pending = copy.standing == Standing::Pending;
        // A change waits for that.
        self.wake_handoff(turn, (partition, HandoffKind::Change), Handoff::wake);
        if is_pending {
            self.set_standing(turn.node, partition, Standing::Synced);
            self.copies.lacking.remove_tried(partition);
            self.share_data_brought(turn, partition);
            self.hurry_to_compare_list(turn, list);
            self.recount(turn.node, partition);
        }
    }

    /// Notes that `from` holds everything of this giver up to `covers` of its sequence.
    pub(super) fn receipt(
        &mut self,
        node: &Node,
        partition: Partition,
        from: Identity,
        list: ListRef,
        covers: u64,
    ) -> Answer {
        let sequence = self.copies.store.sequence(partition);
        if !self.copies.knows(partition, list) {
            return self.copies.other_list(partition);
        }
        if let Some(covered) = self.shared_with(partition, &from, covers) {
            return Answer::Received { covered };
        }
        if self.copies.partition(partition).standing != Standing::Outside {
            // A replica that has shared all, or began to change lists since: it drops nothing.
            return Answer::Received { covered: true };
        }
        if covers < sequence {
            return Answer::Received { covered: false };
        }
        let copy = self.copies.partition_mut(partition);
        if copy.receipts.0 != sequence {
            copy.receipts = (sequence, Vec::new());
        }
        if !copy.receipts.1.contains(&from) {
            copy.receipts.1.push(from);
        }
        self.drop_if_given(node, partition);
        Answer::Received { covered: true }
    }

    /// As a giver: drops the copy once every replica of the list holds its last change. Not if this
    /// node is to hold the partition again and builds on what it has.
    ///
    /// If some confirm that and others do not for long, W of them suffice: as many copies as an
    /// acknowledged write has, and at most f members of the list lack it. The giver and a member
    /// might not reach each other, and a node that leaves must not wait for that. All but f are not
    /// enough: of a list that is shorter than N, too few would be left.
    fn drop_if_given(&mut self, node: &Node, partition: Partition) {
        let copy = self.copies.partition(partition);
        let Some(list) = &copy.list else { return };
        let is_needed = copy.standing != Standing::Outside
            || copy.has_handoff()
            || list.contains(&node.me)
            || node.target(partition).contains(&node.me);
        let (sequence, confirmed) = &copy.receipts;
        let holders = list.members().iter().filter(|member| confirmed.contains(member)).count();
        let all = list.members().len();
        let needed = match copy.reminders {
            PATIENT_REMINDERS.. => node.config.quorums.write.count(all).clamp(1, all.max(1)),
            _ => all,
        };
        let is_given =
            *sequence == self.copies.store.sequence(partition) && all > 0 && holders >= needed;
        let must_give = rule(ProtocolMutant::DroppedUnasked, !is_given);
        if !is_needed && !must_give && self.copies.has_to_give(partition) {
            self.copies.store.drop_partition(partition);
            // From now on it is no source.
            let copy = self.copies.partition_mut(partition);
            (copy.opened, copy.whole, copy.is_idle) = (None, None, false);
            copy.is_of_fork = false;
            self.recount(node, partition);
        }
    }

    /// Tells the list again to those that have something to do: as a giver, to its replicas that
    /// have not confirmed; as a synced replica, to the nodes that should be in it.
    pub(in crate::shard) fn remind<C>(&mut self, turn: &mut Turn<'_, C>, partition: Partition) {
        let copy = self.copies.partition_mut(partition);
        if !std::mem::replace(&mut copy.is_to_remind, true) {
            self.to_remind.push_back(partition);
        }
        self.remind_next(turn);
    }

    /// Sends the reminders that are due, in the order in which they became so, as far as a core may
    /// at a time.
    pub(in crate::shard) fn remind_next<C>(&mut self, turn: &mut Turn<'_, C>) {
        while !self.has_reminded_enough(turn.now.instant) {
            let Some(partition) = self.to_remind.pop_front() else { return };
            self.copies.partition_mut(partition).is_to_remind = false;
            let has_told = self.tell_again(turn, partition);
            if self.ask_to_merge(turn, partition) || has_told {
                let copy = self.copies.partition_mut(partition);
                copy.told += 1;
                let wait = remind_period(copy.told);
                remind_after(turn, wait, partition);
            }
        }
        if !self.to_remind.is_empty() {
            turn.timers.set_once(Timer::RemindNext, self.reminded.0 + REMIND_AFTER);
        }
    }

    /// There is something new to tell: what kept silent so far might answer now.
    pub(super) fn remind_anew<C>(&mut self, turn: &mut Turn<'_, C>, partition: Partition) {
        let told = std::mem::take(&mut self.copies.partition_mut(partition).told);
        if told > PATIENT_REMINDERS {
            turn.timers.set_no_later(Timer::Remind(partition), turn.now.instant + REMIND_AFTER);
        }
    }

    /// Whether this core has sent as many reminders as it may within a moment.
    fn has_reminded_enough(&mut self, now: Instant) -> bool {
        let (since, count) = &mut self.reminded;
        if now.since(*since) >= REMIND_AFTER {
            (*since, *count) = (now, 0);
        }
        rule(ProtocolMutant::RemindedAtOnce, *count >= MAX_REMINDERS)
    }

    /// Tells the list to those that have something to do. Returns whether there are any.
    fn tell_again<C>(&mut self, turn: &mut Turn<'_, C>, partition: Partition) -> bool {
        let mut to_tell = self.to_be_told(turn.node, partition);
        let copy = self.copies.partition(partition);
        let Some(list) = copy.list.clone() else { return false };
        if !list.contains(&turn.node.me) && self.copies.has_to_give(partition) {
            to_tell.extend(list.members());
            let (sequence, confirmed) = &copy.receipts;
            let is_current = *sequence == self.copies.store.sequence(partition);
            to_tell.retain(|member| {
                !(is_current && list.contains(member) && confirmed.contains(member))
            });
            to_tell.sort();
            to_tell.dedup();
        }
        if to_tell.is_empty() {
            // Nothing else says so if eviction has taken what was to be given.
            self.recount(turn.node, partition);
            return false;
        }
        self.reminded.1 += to_tell.len();
        for to in to_tell {
            let request = self.copies.tell_list(partition, list.clone());
            turn.ask(to, partition, request, ReplicaAsker::List(partition));
        }
        self.copies.partition_mut(partition).reminders += 1;
        self.drop_if_given(turn.node, partition);
        true
    }

    /// Whether the list cannot do without this node yet: it is a member, or a witness that should
    /// be replaced.
    pub(super) fn is_needed(&self, node: &Node, partition: Partition) -> bool {
        let list = self.copies.partition(partition).list();
        let Some(list) = list.filter(|list| list.is_acceptor(&node.me)) else { return false };
        list.contains(&node.me) || !node.wish(partition).witnesses.contains(&node.me)
    }

    /// Counts the partition again after anything about it changed.
    pub(super) fn recount(&mut self, node: &Node, partition: Partition) {
        let target = node.target(partition);
        if !target.contains(&node.me) {
            // Other nodes are to hold it.
            self.copies.lacking.remove(partition);
        }
        let copy = self.copies.partition(partition);
        let is_done = copy.is_synced()
            && !self.copies.lacking.has(partition)
            && copy.list.as_ref().is_some_and(|l| l.has_members(&target));
        let progress = match target.contains(&node.me) {
            true if !is_done => Progress::Pending,
            false if self.is_needed(node, partition) || self.copies.has_to_give(partition) => {
                Progress::Giving
            }
            _ => Progress::Done,
        };
        let old = std::mem::replace(&mut self.copies.partition_mut(partition).progress, progress);
        let change =
            |count: usize, what| count + usize::from(progress == what) - usize::from(old == what);
        self.pending = change(self.pending, Progress::Pending);
        self.giving = change(self.giving, Progress::Giving);
    }
}

/// Whether all members of the list are wished that are not gone, and do not leave.
fn keeps_all(node: &Node, list: &List, wish: &Wish) -> bool {
    let stays = |member: &Identity| {
        let known = node.placement.member(member.node);
        known.is_some_and(|known| known.identity == *member && !known.leaving)
    };
    list.members().iter().all(|member| wish.members.contains(member) || !stays(member))
}

/// Returns the other members of the list that are not dead.
fn living_others(node: &Node, list: &List) -> Vec<Identity> {
    let is_other = |member: &&Identity| **member != node.me && node.placement.is_alive(member);
    list.members().iter().filter(is_other).copied().collect()
}

/// Returns how long to wait for those that were told this often.
fn remind_period(told: u32) -> Duration {
    let doublings = told.saturating_sub(PATIENT_REMINDERS).min(16);
    let doublings = if rule(ProtocolMutant::RemindedSteadily, true) { doublings } else { 0 };
    REMIND_PERIOD.saturating_mul(1 << doublings).min(MAX_REMIND_PERIOD)
}

/// Sees to it that the nodes that should take over the partition are told again.
pub(super) fn remind_after<C>(turn: &mut Turn<'_, C>, wait: Duration, partition: Partition) {
    turn.timers.set_once(Timer::Remind(partition), turn.now.instant + wait);
}
