//! Each partition's list on this node, and who takes part in changing it.
//!
//! ```text
//!             a list without this node                 every receipt is here
//!   Synced ──────────────────────────▶ Giver ──────────────────────────▶ Outside
//!     ▲ │                                │ a list with this node             │
//!     │ │ one not made from this one     ▼                                   │
//!     │ └──────────────▶ Pending ◀───────┴───────────────────────────────────┘
//!     └───────────────────┘ merged every holder
//! ```
//!
//! Lists name lives: a node that was taken for dead and lives is the same replica as before, and learns from the
//! first who knows better that its list has been replaced meanwhile.
//!
//! A *giver* is outside its list and still holds data: it counts for nothing, is a source for others, and
//! drops its copy when each replica of the list has confirmed to hold its last change.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Action, Asker, Shard, Stage, Timer};
use crate::clock::{Now, Version};
use crate::placement::{List, ListRef, Placement};
use crate::replication::handoff::{Handoff, HandoffAction, Mine, Quorums};
use crate::simulated::{Planted, is_planted};
use crate::types::{Identity, Partition};
use crate::wire::message::{Answer, Fetch, Listed, Request};

/// How many partitions one core hands over at a time: enough to hide round trips, few enough that
/// foreground requests, which share the connections, hardly wait.
const MAX_HANDOFFS: usize = 64;

/// How often those are told a list who have something to do about it, and how soon the first time: a node that
/// was cut off goes by an old list until then.
const REMIND_PERIOD: Duration = Duration::from_millis(500);
const REMIND_AFTER: Duration = Duration::from_millis(50);

/// What this node is to one partition.
#[derive(Default)]
pub(super) struct Replica {
    /// The highest list that this node adopted or heard of.
    list: Option<Arc<List>>,
    standing: Standing,
    handoff: Option<Box<Handoff>>,
    /// What the handoff asked and has no answer to.
    requests: Vec<u64>,
    /// Whether this node is all of the list, and synced.
    is_alone: bool,
    /// Whether a reminder is due some time.
    has_reminder: bool,
    /// Whether another list with this one's number was heard of.
    is_disputed: bool,
    /// As a giver: who holds its last change, of this sequence.
    receipts: (u64, Vec<Identity>),
    progress: Progress,
    /// No single entry at or below it is taken of a key that is not held (`replication/purge` says why).
    pub(super) horizon: Version,
    /// How often it has merged what another node holds.
    pub(super) merges: u64,
    /// Whether it merges what another data center holds, which the other replicas here are to have, too.
    pub(super) merged_elsewhere: bool,
}

/// Whether this node should hold the partition and does not yet, or not in the list that it should be; or holds it
/// and must give it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Progress {
    #[default]
    Done,
    Pending,
    Giving,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Standing {
    /// Not in the list, or no list is known.
    #[default]
    Outside,
    /// In the list; may lack what the list before acknowledged.
    Pending,
    /// In the list, and lacks nothing more than any replica may.
    Synced,
}

impl Replica {
    pub(super) fn list(&self) -> Option<&Arc<List>> {
        self.list.as_ref()
    }

    pub(super) fn is_alone(&self) -> bool {
        self.is_alone
    }

    pub(super) fn hands_over(&self) -> bool {
        self.handoff.is_some()
    }

    pub(super) fn is_synced(&self) -> bool {
        self.standing == Standing::Synced
    }

    pub(super) fn serves_synced(&self, me: &Identity) -> bool {
        self.is_synced() && self.list.as_ref().is_some_and(|list| list.contains(me))
    }
}

impl<C> Shard<C> {
    /// Who should hold the partition.
    pub(super) fn target(&self, partition: Partition) -> Vec<Identity> {
        self.placement.replicas(partition).map(|member| member.identity).collect()
    }

    /// The members changed, or the cluster's lists were born.
    pub(super) fn placed(
        &mut self,
        now: Now,
        placement: Arc<Placement>,
        stage: Stage,
        actions: &mut Vec<Action<C>>,
    ) {
        let old = std::mem::replace(&mut self.placement, placement);
        let somebody_went = old.members().iter().any(|member| !self.placement.is_alive(&member.identity));
        let is_birth = matches!(stage, Stage::Born { .. }) && self.stage == Stage::Forming;
        self.stage = stage;
        self.is_dead = self.placement.is_dead(&self.me);
        for partition in self.partitions() {
            if is_birth && self.replica(partition).list.is_none() {
                self.bear(now, partition, actions);
            }
            self.review_handoff(partition);
            if somebody_went {
                self.compare_with_others(partition);
            }
            self.review(now, partition);
            self.recount(partition);
        }
        self.placed_elsewhere(now, &old);
        if self.placement.everybody().any(|member| member.identity != self.me) {
            self.anti_entropy.start(now.instant);
            self.purge.start(now.instant);
        }
        let placement = self.placement.clone();
        self.purge.members_changed(|member| placement.is_alive(member));
        self.ops_placed(now, actions);
    }

    /// Whoever went may have coordinated writes that not every replica has, and owes them no more: those
    /// that stay compare what they hold.
    fn compare_with_others(&mut self, partition: Partition) {
        let me = self.me;
        let replica = self.replica(partition);
        if let Some(list) = replica.list.clone().filter(|_| replica.is_synced()) {
            let others = list.members().iter().filter(|m| **m != me && self.placement.is_alive(m)).copied();
            self.queue_merge(partition, others.collect());
        }
    }

    /// The first list of a partition. Nothing was ever written, so its replicas are synced and empty.
    fn bear(&mut self, now: Now, partition: Partition, actions: &mut Vec<Action<C>>) {
        let list = List::new(1, self.target(partition), None);
        let is_mine = list.contains(&self.me);
        self.replica_mut(partition).list = Some(list.clone());
        self.stand(partition, if is_mine { Standing::Synced } else { Standing::Outside });
        self.ops_relisted(now, &list, partition, actions);
    }

    /// This node is somebody whom no list knows, so it counts nowhere. What it holds it gives to those who do.
    pub(super) fn live_anew(&mut self, now: Now, me: Identity) {
        self.me = me;
        self.is_dead = self.placement.is_dead(&me);
        for partition in self.partitions() {
            self.take_handoff(partition);
            self.forget_handoff_requests(partition);
            let is_listed = self.replica(partition).list.as_ref().is_some_and(|list| list.contains(&me));
            self.replica_mut(partition).receipts = (0, Vec::new());
            self.stand(partition, if is_listed { Standing::Pending } else { Standing::Outside });
            self.review(now, partition);
            self.recount(partition);
        }
        self.merges.clear();
    }

    /// What this node is to the partition from now on. Whoever reads on other threads knows it before anything
    /// follows from it.
    fn stand(&mut self, partition: Partition, standing: Standing) {
        self.replica_mut(partition).standing = standing;
        let me = self.me;
        let replica = self.replica_mut(partition);
        let serves = replica.serves_synced(&me);
        replica.is_alone = serves && replica.list.as_ref().is_some_and(|list| list.has_members(&[me]));
        self.store.serve(partition, serves);
    }

    /// Sees to it that whoever should take over the partition is told again.
    fn remind_after(&mut self, now: Now, wait: Duration, partition: Partition) {
        if !std::mem::replace(&mut self.replica_mut(partition).has_reminder, true) {
            self.timers.insert((now.instant + wait, Timer::Remind(partition)));
        }
    }

    /// A list was heard of. One with a higher number than is known counts from now on; who was synced in the list
    /// from which it was made stays so. Of two with one number the first stays, until a higher one is made
    /// that is told to the replicas of both.
    pub(super) fn learn(
        &mut self,
        now: Now,
        partition: Partition,
        list: Arc<List>,
        actions: &mut Vec<Action<C>>,
    ) {
        let is_far = |member: &Identity| self.placement.is_elsewhere(member.node);
        if list.members().iter().any(is_far) && !is_planted(Planted::FarListsCount) {
            // Not this data center's.
            return;
        }
        let me = self.me;
        let replica = self.replica_mut(partition);
        let known = replica.list.as_ref().map(|known| known.reference());
        if known.is_some_and(|known| known.number >= list.number()) {
            if known.is_some_and(|known| known.number == list.number() && known != list.reference()) {
                replica.is_disputed = true;
                self.review(now, partition);
            }
            return;
        }
        if is_planted(Planted::AdoptedOnce) && replica.standing == Standing::Pending {
            return;
        }
        let old = replica.list.replace(list.clone());
        replica.is_disputed = false;
        // Who had a copy then may have none now.
        replica.receipts = (0, Vec::new());
        let is_synced = replica.standing == Standing::Synced && list.base() == known
            || is_planted(Planted::ListedCounts)
            || is_planted(Planted::BootIgnored) && known.is_none();
        let stays = is_synced && list.contains(&me);
        let standing = match list.contains(&me) {
            true if stays => Standing::Synced,
            true => Standing::Pending,
            false => Standing::Outside,
        };
        self.stand(partition, standing);
        if standing == Standing::Outside && !self.store.is_empty(partition) {
            self.remind_after(now, REMIND_AFTER, partition);
        }
        self.ops_relisted(now, &list, partition, actions);
        if stays && let Some(old) = old {
            let others = old.members().iter().filter(|m| **m != me && self.placement.is_alive(m)).copied();
            self.queue_merge(partition, others.collect());
            self.hurry_to_compare_list(now, &list);
        }
        self.review(now, partition);
        self.recount(partition);
    }

    /// The list is new, or this replica is new in it.
    fn hurry_to_compare_list(&mut self, now: Now, list: &List) {
        list.members().iter().for_each(|member| self.hurry_to_compare(now, *member));
    }

    /// Wants to merge what these replicas hold, as this replica stays in the list and they may not, or may
    /// hold what it missed.
    pub(super) fn queue_merge(&mut self, partition: Partition, sources: Vec<Identity>) {
        if !sources.is_empty() {
            let is_elsewhere = sources.iter().any(|source| self.placement.is_elsewhere(source.node));
            self.replica_mut(partition).merged_elsewhere |= is_elsewhere;
            let wanted = self.merges.entry(partition).or_default();
            wanted.extend(sources);
            self.may_hand_over = true;
        }
    }

    fn want_handoff(&mut self, partition: Partition) {
        self.wanted.insert(partition);
        self.may_hand_over = true;
    }

    /// Notes whether the partition wants a handoff, or somebody else must be told that it does.
    fn review(&mut self, now: Now, partition: Partition) {
        if self.change_wanted(partition).is_some() {
            self.want_handoff(partition);
        } else {
            self.wanted.remove(&partition);
        }
        if !self.to_be_told(partition).is_empty() {
            self.remind_after(now, REMIND_AFTER, partition);
        }
        self.drop_if_given(partition);
    }

    /// Who should know this node's list and may not. Where this node is synced in a list that should have other members,
    /// all who should be in it: one of them would drive the change if it knew. Where this node should not hold the
    /// partition and does, all who should: they may have a later list, and have not reached this node.
    fn to_be_told(&self, partition: Partition) -> Vec<Identity> {
        let replica = self.replica(partition);
        let Some(list) = &replica.list else { return Vec::new() };
        let mut target = self.target(partition);
        if target.contains(&self.me) {
            let is_off = replica.is_synced() && !list.has_members(&target);
            target.retain(|member| is_off && *member != self.me);
            target
        } else if list.contains(&self.me) || !self.store.is_empty(partition) {
            target
        } else {
            Vec::new()
        }
    }

    /// The members that this node should see to that the list has.
    fn change_wanted(&self, partition: Partition) -> Option<Vec<Identity>> {
        if self.stage == Stage::Forming {
            return None;
        }
        let replica = self.replica(partition);
        let target = self.target(partition);
        if !target.contains(&self.me) {
            return None;
        }
        if replica.standing != Standing::Synced || replica.is_disputed {
            return (!is_planted(Planted::NothingRestored)).then_some(target);
        }
        let list = replica.list.as_ref()?;
        if list.has_members(&target) {
            return None;
        }
        let nobody_comes_in = target.iter().all(|member| list.contains(member));
        (nobody_comes_in && target.first() == Some(&self.me)).then_some(target)
    }

    /// Starts again what waits for a member that is gone, or goes for members that are not wanted any more.
    fn review_handoff(&mut self, partition: Partition) {
        let Some(handoff) = &self.replica(partition).handoff else { return };
        let gone = |member: &Identity| *member != self.me && !self.placement.is_alive(member);
        let is_off_target = match handoff.target() {
            Some(target) => self.change_wanted(partition).is_none_or(|wanted| wanted != target),
            None => false,
        };
        if is_off_target || handoff.involves(gone) {
            // What is left of a merge, or of a change that is over but for the receipts.
            let is_merge = handoff.target().is_none() || self.replica(partition).is_synced();
            let remaining = handoff.open_sources().into_iter().filter(|source| !gone(source)).collect();
            self.take_handoff(partition);
            self.forget_handoff_requests(partition);
            if is_merge {
                self.queue_merge(partition, remaining);
            }
        }
    }

    /// Starts the handoffs that are wanted, as far as there is room: changes first.
    pub(super) fn start_handoffs(&mut self, now: Now, actions: &mut Vec<Action<C>>) {
        let mut busy = Vec::new();
        while self.handoffs < MAX_HANDOFFS
            && let Some(partition) = self.wanted.pop_first()
        {
            if self.replica(partition).handoff.is_some() {
                busy.push(partition);
                continue;
            }
            let Some(target) = self.change_wanted(partition) else { continue };
            let (listed, placement) = (self.listed(partition), self.placement.clone());
            let mine = mine(listed, &placement);
            let mut todo = Vec::new();
            let (others, quorums) = (self.others(), self.quorums());
            let handoff = Handoff::change(self.me, quorums, target, others, &mine, now.instant, &mut todo);
            self.drive(now, partition, Box::new(handoff), todo, actions);
        }
        self.wanted.extend(busy.drain(..));
        let mut waiting = BTreeMap::new();
        while self.handoffs < MAX_HANDOFFS
            && let Some((partition, sources)) = self.merges.pop_first()
        {
            if self.replica(partition).handoff.is_some() {
                waiting.insert(partition, sources);
                continue;
            }
            let sources: Vec<Identity> =
                sources.into_iter().filter(|source| self.placement.is_alive(source)).collect();
            if let Some(list) = self.replica(partition).list.clone()
                && self.replica(partition).is_synced()
                && !sources.is_empty()
            {
                let mut todo = Vec::new();
                let handoff = Handoff::merge(self.me, self.quorums(), list, sources, now.instant, &mut todo);
                self.drive(now, partition, Box::new(handoff), todo, actions);
            }
        }
        self.merges.append(&mut waiting);
    }

    fn quorums(&self) -> Quorums {
        Quorums { replicas: self.config.replicas, write: self.config.write_quorum }
    }

    /// Every member that is not dead, but this node.
    fn others(&self) -> Vec<Identity> {
        let all = self.placement.members().iter().map(|member| member.identity);
        all.filter(|member| *member != self.me).collect()
    }

    fn take_handoff(&mut self, partition: Partition) -> Option<Box<Handoff>> {
        let handoff = self.replica_mut(partition).handoff.take();
        self.handoffs -= usize::from(handoff.is_some());
        self.may_hand_over |= handoff.is_some();
        handoff
    }

    fn put_handoff(&mut self, partition: Partition, handoff: Box<Handoff>) {
        self.handoffs += 1;
        if let Some(at) = handoff.wake() {
            self.timers.insert((at, Timer::Handoff(partition)));
        }
        self.replica_mut(partition).handoff = Some(handoff);
    }

    fn forget_handoff_requests(&mut self, partition: Partition) {
        for request in std::mem::take(&mut self.replica_mut(partition).requests) {
            self.outstanding.remove(&request);
        }
    }

    /// Carries out what a handoff asks for, then puts it back, or ends it.
    fn drive(
        &mut self,
        now: Now,
        partition: Partition,
        mut handoff: Box<Handoff>,
        todo: Vec<HandoffAction>,
        actions: &mut Vec<Action<C>>,
    ) {
        let mut is_finished = false;
        for action in todo {
            match action {
                HandoffAction::Ask { to, request } => {
                    self.ask_for_handoff(now, partition, &mut handoff, to, request, actions);
                }
                HandoffAction::Fetch { to, after, since } => {
                    let digest = self.store.digest(partition);
                    let request = Request::Fetch(Fetch { after, since, digest });
                    self.ask_for_handoff(now, partition, &mut handoff, to, request, actions);
                }
                HandoffAction::Apply(entries) => self.merge(now, partition, entries),
                HandoffAction::Adopt(list) => self.learn(now, partition, list, actions),
                HandoffAction::Synced(list) => self.synced(now, partition, &list),
                HandoffAction::AtRisk => actions.push(Action::DataAtRisk { partition }),
                HandoffAction::Finished => is_finished = true,
            }
        }
        if is_finished {
            self.forget_handoff_requests(partition);
            // Who still has the other list of this number says so again.
            self.replica_mut(partition).is_disputed = false;
            self.review(now, partition);
            self.merged(now, partition, actions);
        } else {
            if handoff.is_resting() {
                // It starts again; what comes late belongs to the attempt before.
                self.forget_handoff_requests(partition);
            }
            self.put_handoff(partition, handoff);
        }
    }

    fn ask_for_handoff(
        &mut self,
        now: Now,
        partition: Partition,
        handoff: &mut Handoff,
        to: Identity,
        request: Request,
        actions: &mut Vec<Action<C>>,
    ) {
        match self.ask(to, partition, request, Asker::Handoff(partition), actions) {
            Some(request_id) => self.replica_mut(partition).requests.push(request_id),
            None => handoff.lost(to, now.instant),
        }
    }

    fn synced(&mut self, now: Now, partition: Partition, list: &List) {
        let me = self.me;
        let replica = self.replica(partition);
        if replica.list.as_ref().is_some_and(|known| known.reference() == list.reference())
            && list.contains(&me)
            && replica.standing == Standing::Pending
        {
            self.stand(partition, Standing::Synced);
            self.hurry_to_compare_list(now, list);
            self.recount(partition);
        }
    }

    pub(super) fn handoff_answered(
        &mut self,
        now: Now,
        partition: Partition,
        request_id: u64,
        from: Identity,
        answer: Answer,
        actions: &mut Vec<Action<C>>,
    ) {
        self.replica_mut(partition).requests.retain(|request| *request != request_id);
        let list = match &answer {
            Answer::OtherList { list, .. } => list.clone(),
            Answer::Listed(listed) => listed.list.clone(),
            _ => None,
        };
        if let Some(mut handoff) = self.take_handoff(partition) {
            let (listed, placement) = (self.listed(partition), self.placement.clone());
            let mine = mine(listed, &placement);
            let mut todo = Vec::new();
            handoff.answered(from, answer, &mine, now.instant, &mut todo);
            self.drive(now, partition, handoff, todo, actions);
        }
        // A higher list than is known here counts, whatever becomes of the handoff.
        if let Some(list) = list {
            self.learn(now, partition, list, actions);
        }
    }

    pub(super) fn handoff_lost(&mut self, now: Now, partition: Partition, from: Identity) {
        if let Some(mut handoff) = self.take_handoff(partition) {
            handoff.lost(from, now.instant);
            self.put_handoff(partition, handoff);
        }
    }

    pub(super) fn resume_handoff(&mut self, now: Now, partition: Partition, actions: &mut Vec<Action<C>>) {
        let Some(mut handoff) = self.take_handoff(partition) else { return };
        // What was asked is not waited for any more: a late answer is none to what is asked next.
        self.forget_handoff_requests(partition);
        let (listed, placement) = (self.listed(partition), self.placement.clone());
        let mine = mine(listed, &placement);
        let mut todo = Vec::new();
        handoff.resume(self.others(), &mine, now.instant, &mut todo);
        self.drive(now, partition, handoff, todo, actions);
    }

    /// A node that is not in the list told it to this one: it holds data and wants to be relieved of it.
    pub(super) fn giver_calls(&mut self, partition: Partition, from: Identity, list: ListRef) {
        let me = self.me;
        let replica = self.replica_mut(partition);
        let Some(known) = replica.list.clone().filter(|known| known.reference() == list) else { return };
        if known.contains(&from) || !known.contains(&me) {
            return;
        }
        match &mut replica.handoff {
            Some(handoff) if handoff.target().is_some() => handoff.also_from(from),
            _ => self.queue_merge(partition, vec![from]),
        }
    }

    /// `from` holds everything of this giver up to `covers` of its sequence.
    pub(super) fn receipt(
        &mut self,
        partition: Partition,
        from: Identity,
        list: ListRef,
        covers: u64,
    ) -> Answer {
        let sequence = self.store.sequence(partition);
        let replica = self.replica_mut(partition);
        if replica.list.as_ref().is_none_or(|known| known.reference() != list) {
            return Answer::OtherList { list: replica.list.clone(), horizon: replica.horizon };
        }
        if covers < sequence {
            return Answer::Received { covered: false };
        }
        if replica.receipts.0 != sequence {
            replica.receipts = (sequence, Vec::new());
        }
        if !replica.receipts.1.contains(&from) {
            replica.receipts.1.push(from);
        }
        self.drop_if_given(partition);
        Answer::Received { covered: true }
    }

    /// As a giver: drops the copy once every replica of the list holds its last change. Not where this node
    /// is to hold the partition again, and builds on what it has.
    fn drop_if_given(&mut self, partition: Partition) {
        let replica = self.replica(partition);
        let Some(list) = &replica.list else { return };
        let is_needed = replica.standing != Standing::Outside
            || replica.handoff.is_some()
            || list.contains(&self.me)
            || self.target(partition).contains(&self.me);
        let (sequence, confirmed) = &replica.receipts;
        let is_given = *sequence == self.store.sequence(partition)
            && list.members().iter().all(|member| confirmed.contains(member))
            || is_planted(Planted::DroppedUnasked);
        if !is_needed && is_given && !self.store.is_empty(partition) {
            self.store.drop_partition(partition);
            self.recount(partition);
        }
    }

    /// Tells the list again to those who have something to do: as a giver, to its replicas that have not
    /// confirmed; as a synced replica, to whoever should be in it.
    pub(super) fn remind(&mut self, now: Now, partition: Partition, actions: &mut Vec<Action<C>>) {
        self.replica_mut(partition).has_reminder = false;
        let mut to_tell = self.to_be_told(partition);
        let replica = self.replica(partition);
        let Some(list) = replica.list.clone() else { return };
        if !list.contains(&self.me) && !self.store.is_empty(partition) {
            to_tell.extend(list.members());
            let (sequence, confirmed) = &replica.receipts;
            let is_current = *sequence == self.store.sequence(partition);
            to_tell.retain(|member| !(is_current && list.contains(member) && confirmed.contains(member)));
            to_tell.sort();
            to_tell.dedup();
        }
        if to_tell.is_empty() {
            // Where eviction has taken what was to be given, nobody says so.
            return self.recount(partition);
        }
        for to in to_tell {
            let request = Request::adopt(list.clone());
            self.ask(to, partition, request, Asker::List(partition), actions);
        }
        self.remind_after(now, REMIND_PERIOD, partition);
    }

    /// Counts the partition anew, after anything about it changed.
    fn recount(&mut self, partition: Partition) {
        let me = self.me;
        let replica = self.replica(partition);
        let target = self.target(partition);
        let is_listed = replica.list.as_ref().is_some_and(|list| list.contains(&me));
        let is_done = replica.is_synced() && replica.list.as_ref().is_some_and(|l| l.has_members(&target));
        let progress = match target.contains(&me) {
            true if !is_done => Progress::Pending,
            false if is_listed || !self.store.is_empty(partition) => Progress::Giving,
            _ => Progress::Done,
        };
        let old = std::mem::replace(&mut self.replica_mut(partition).progress, progress);
        self.pending =
            self.pending + usize::from(progress == Progress::Pending) - usize::from(old == Progress::Pending);
        self.giving =
            self.giving + usize::from(progress == Progress::Giving) - usize::from(old == Progress::Giving);
    }

    /// Says how far the handoffs are, when that has changed.
    pub(super) fn report_progress(&mut self, actions: &mut Vec<Action<C>>) {
        let progress = (self.placement.generation(), self.pending, self.giving);
        if self.reported != progress {
            self.reported = progress;
            let (generation, pending, giving) = progress;
            actions.push(Action::Progress { generation, pending, giving });
        }
    }

    /// How many partitions this node serves, synced.
    pub(super) fn synced_partitions(&self) -> usize {
        self.partitions().filter(|partition| self.replica(*partition).serves_synced(&self.me)).count()
    }
}

/// What this node itself knows, for its handoff.
fn mine(listed: Listed, placement: &Placement) -> Mine<'_> {
    Mine { listed, placement }
}
