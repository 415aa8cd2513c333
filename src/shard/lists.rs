//! Each partition's list on this node, and who takes part in changing it.
//!
//! ```text
//!             a list without this node                 every receipt is here
//!   Synced ──────────────────────────▶ Giver ──────────────────────────▶ Outside
//!     ▲                                  │ a list with this node             │
//!     │ merged every holder              ▼                                   │
//!   Pending ◀────────────────────────────┴───────────────────────────────────┘
//! ```
//!
//! A *giver* is outside its list and still holds data: it counts for nothing, is a source for others, and
//! drops its copy when each replica of the list has confirmed to hold its last change.

use std::sync::Arc;
use std::time::Duration;

use super::{Action, Asker, Shard, Stage, Timer};
use crate::clock::Now;
use crate::placement::{List, ListRef, Placement};
use crate::replication::handoff::{Handoff, HandoffAction, Mine};
use crate::types::{Identity, Partition};
use crate::wire::message::{Answer, Fetch, Request};

/// How many partitions one core hands over at a time: enough to hide round trips, few enough that
/// foreground requests, which share the connections, hardly wait.
const MAX_HANDOFFS: usize = 64;

/// How often a giver asks the replicas of the list that have not taken its data.
const REMIND_PERIOD: Duration = Duration::from_millis(500);

/// What this node is to one partition.
#[derive(Default)]
pub(super) struct Replica {
    /// The highest list that this node adopted or heard of.
    list: Option<Arc<List>>,
    standing: Standing,
    handoff: Option<Box<Handoff>>,
    /// As a giver: who holds its last change, of this sequence.
    receipts: (u64, Vec<Identity>),
    progress: Progress,
}

/// Whether this node should hold the partition and does not yet, or holds it and must give it.
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
        self.placement = placement;
        let is_birth = stage == Stage::Born && self.stage == Stage::Forming;
        self.stage = stage;
        for partition in self.partitions() {
            if is_birth && self.replica(partition).list.is_none() {
                self.bear(now, partition, actions);
            }
            self.review_handoff(partition);
            self.review(partition);
            self.recount(partition);
        }
        self.ops_placed(now, actions);
    }

    /// The first list of a partition. Nothing was ever written, so its replicas are synced and empty.
    fn bear(&mut self, now: Now, partition: Partition, actions: &mut Vec<Action<C>>) {
        let list = List::new(1, self.target(partition));
        let is_mine = list.contains(&self.me);
        let replica = self.replica_mut(partition);
        replica.list = Some(list.clone());
        replica.standing = if is_mine { Standing::Synced } else { Standing::Outside };
        self.ops_relisted(now, &list, partition, actions);
    }

    /// This node is back under a new identity: no list contains it, so it counts nowhere. What it holds
    /// stays, for itself and as a source.
    pub(super) fn returned(&mut self, now: Now, me: Identity) {
        self.me = me;
        for partition in self.partitions().filter(|partition| !self.store.is_empty(*partition)) {
            self.timers.insert((now.instant + REMIND_PERIOD, Timer::Giver(partition)));
        }
        for replica in &mut self.replicas {
            replica.standing = Standing::Outside;
            replica.receipts = (0, Vec::new());
            if replica.handoff.take().is_some() {
                self.handoffs -= 1;
            }
        }
        self.outstanding.retain(|_, waiting| !matches!(waiting.asker, Asker::Handoff(_)));
        for partition in self.partitions() {
            self.wanted.insert(partition);
            self.recount(partition);
        }
    }

    /// A list was heard of. A higher one than is known counts from now on.
    pub(super) fn learn(
        &mut self,
        now: Now,
        partition: Partition,
        list: Arc<List>,
        actions: &mut Vec<Action<C>>,
    ) {
        let me = self.me;
        let replica = self.replica_mut(partition);
        let old = match &replica.list {
            Some(known) if known.reference() >= list.reference() => return,
            _ => replica.list.replace(list.clone()),
        };
        let was_synced = replica.standing == Standing::Synced;
        replica.standing = match (list.contains(&me), was_synced) {
            (true, true) => Standing::Synced,
            (true, false) => Standing::Pending,
            (false, _) => Standing::Outside,
        };
        let stays = was_synced && replica.standing == Standing::Synced;
        if replica.standing == Standing::Outside && !self.store.is_empty(partition) {
            self.timers.insert((now.instant + REMIND_PERIOD, Timer::Giver(partition)));
        }
        self.ops_relisted(now, &list, partition, actions);
        if stays && let Some(old) = old {
            let placement = self.placement.clone();
            let others =
                old.members().iter().filter(|m| **m != me && placement.is_alive(m)).copied().collect();
            self.merge_from(now, partition, list, others, actions);
        }
        self.review(partition);
        self.recount(partition);
    }

    /// Merges what these replicas hold, as this replica stays in the list and they may not. A handoff
    /// that changes the list does so itself.
    fn merge_from(
        &mut self,
        now: Now,
        partition: Partition,
        list: Arc<List>,
        mut sources: Vec<Identity>,
        actions: &mut Vec<Action<C>>,
    ) {
        match self.take_handoff(partition) {
            Some(handoff) if handoff.target().is_some() => return self.put_handoff(partition, handoff),
            // Whom the merge before this one was not done with.
            Some(handoff) => {
                for source in handoff.open_sources() {
                    if self.placement.is_alive(&source) && !sources.contains(&source) {
                        sources.push(source);
                    }
                }
            }
            None if self.is_driving == Some(partition) => return,
            None => {}
        }
        if sources.is_empty() {
            return;
        }
        self.forget_handoff_requests(partition);
        let mut todo = Vec::new();
        let handoff = Handoff::merge(self.me, list, sources, &mut todo);
        self.drive(now, partition, Box::new(handoff), todo, actions);
    }

    /// Notes whether the partition wants a handoff.
    fn review(&mut self, partition: Partition) {
        if self.change_wanted(partition).is_some() {
            self.wanted.insert(partition);
        } else {
            self.wanted.remove(&partition);
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
            // Not for long in the list, but until then it should count.
            let list = replica.list.as_ref().filter(|_| replica.standing == Standing::Pending)?;
            return list
                .members()
                .iter()
                .all(|m| self.placement.is_alive(m))
                .then(|| list.members().to_vec());
        }
        if replica.standing != Standing::Synced {
            return Some(target);
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
            let is_merge = handoff.target().is_none();
            let remaining: Vec<Identity> = handoff.open_sources().into_iter().filter(|s| !gone(s)).collect();
            self.take_handoff(partition);
            self.forget_handoff_requests(partition);
            if is_merge && !remaining.is_empty() {
                self.remerge.push((partition, remaining));
            }
        }
    }

    /// Starts the handoffs that are wanted, as far as there is room.
    pub(super) fn start_handoffs(&mut self, now: Now, actions: &mut Vec<Action<C>>) {
        for (partition, sources) in std::mem::take(&mut self.remerge) {
            if let Some(list) = self.replica(partition).list.clone() {
                self.merge_from(now, partition, list, sources, actions);
            }
        }
        let mut skipped = Vec::new();
        while self.handoffs < MAX_HANDOFFS
            && let Some(partition) = self.wanted.pop_first()
        {
            if self.replica(partition).handoff.is_some() {
                skipped.push(partition);
                continue;
            }
            let Some(target) = self.change_wanted(partition) else { continue };
            let placement = self.placement.clone();
            let is_dead = |member: &Identity| placement.is_dead(member);
            let mine = Mine { listed: self.listed(partition), is_dead: &is_dead };
            let mut todo = Vec::new();
            let handoff = Handoff::change(self.me, target, self.others(), &mine, now.instant, &mut todo);
            self.drive(now, partition, Box::new(handoff), todo, actions);
        }
        self.wanted.extend(skipped);
    }

    /// Every member that is not dead, but this node.
    fn others(&self) -> Vec<Identity> {
        let all = self.placement.members().iter().map(|member| member.identity);
        all.filter(|member| *member != self.me).collect()
    }

    fn take_handoff(&mut self, partition: Partition) -> Option<Box<Handoff>> {
        let handoff = self.replica_mut(partition).handoff.take();
        self.handoffs -= usize::from(handoff.is_some());
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
        self.outstanding.retain(|_, waiting| waiting.asker != Asker::Handoff(partition));
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
                HandoffAction::Adopt(list) => {
                    self.is_driving = Some(partition);
                    self.learn(now, partition, list, actions);
                    self.is_driving = None;
                }
                HandoffAction::Synced(list) => self.synced(partition, &list),
                HandoffAction::Lost => actions.push(Action::DataLost { partition }),
                HandoffAction::Finished => is_finished = true,
            }
        }
        if is_finished {
            self.forget_handoff_requests(partition);
            self.review(partition);
        } else {
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
        if self.ask(to, partition, request, Asker::Handoff(partition), actions).is_none() {
            handoff.lost(to, now.instant);
        }
    }

    fn synced(&mut self, partition: Partition, list: &List) {
        let me = self.me;
        let replica = self.replica_mut(partition);
        if replica.list.as_ref().is_some_and(|known| known.reference() == list.reference())
            && list.contains(&me)
            && replica.standing == Standing::Pending
        {
            replica.standing = Standing::Synced;
            self.recount(partition);
        }
    }

    pub(super) fn handoff_answered(
        &mut self,
        now: Now,
        partition: Partition,
        from: Identity,
        answer: Answer,
        actions: &mut Vec<Action<C>>,
    ) {
        let list = match &answer {
            Answer::OtherList { list } => list.clone(),
            Answer::Listed(listed) => listed.list.clone(),
            _ => None,
        };
        if let Some(mut handoff) = self.take_handoff(partition) {
            let placement = self.placement.clone();
            let is_dead = |member: &Identity| placement.is_dead(member);
            let mine = Mine { listed: self.listed(partition), is_dead: &is_dead };
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
            if handoff.wake().is_some() {
                self.forget_handoff_requests(partition);
            }
            self.put_handoff(partition, handoff);
        }
    }

    pub(super) fn resume_handoff(&mut self, now: Now, partition: Partition, actions: &mut Vec<Action<C>>) {
        let Some(mut handoff) = self.take_handoff(partition) else { return };
        let placement = self.placement.clone();
        let is_dead = |member: &Identity| placement.is_dead(member);
        let mine = Mine { listed: self.listed(partition), is_dead: &is_dead };
        let mut todo = Vec::new();
        handoff.resume(self.others(), &mine, now.instant, &mut todo);
        self.drive(now, partition, handoff, todo, actions);
    }

    /// A node that is not in the list told it to this one: it holds data and wants to be relieved of it.
    pub(super) fn giver_calls(
        &mut self,
        now: Now,
        partition: Partition,
        from: Identity,
        list: ListRef,
        actions: &mut Vec<Action<C>>,
    ) {
        let me = self.me;
        let replica = self.replica_mut(partition);
        let Some(known) = replica.list.clone().filter(|known| known.reference() == list) else { return };
        if known.contains(&from) || !known.contains(&me) {
            return;
        }
        if let Some(handoff) = &mut replica.handoff {
            handoff.also_from(from);
        } else if replica.standing == Standing::Synced {
            self.merge_from(now, partition, known, vec![from], actions);
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
        let me = self.me;
        let replica = self.replica_mut(partition);
        let Some(known) = replica.list.clone().filter(|known| known.reference() == list) else {
            return Answer::OtherList { list: replica.list.clone() };
        };
        if covers < sequence {
            return Answer::Received { covered: false };
        }
        if replica.receipts.0 != sequence {
            replica.receipts = (sequence, Vec::new());
        }
        if !replica.receipts.1.contains(&from) {
            replica.receipts.1.push(from);
        }
        let all = known.members().iter().all(|member| replica.receipts.1.contains(member));
        if all && !known.contains(&me) && replica.standing == Standing::Outside {
            self.store.drop_partition(partition);
            self.recount(partition);
        }
        Answer::Received { covered: true }
    }

    /// As a giver: tells the list again to its replicas that have not confirmed.
    pub(super) fn remind_receivers(&mut self, now: Now, partition: Partition, actions: &mut Vec<Action<C>>) {
        let replica = self.replica(partition);
        let Some(list) = replica.list.clone().filter(|list| !list.contains(&self.me)) else { return };
        if self.store.is_empty(partition) {
            return;
        }
        let (sequence, confirmed) = &replica.receipts;
        let is_current = *sequence == self.store.sequence(partition);
        let has_confirmed = |member: &Identity| is_current && confirmed.contains(member);
        let open: Vec<Identity> = list.members().iter().filter(|m| !has_confirmed(m)).copied().collect();
        for to in open {
            let request = Request::Adopt { list: list.clone() };
            self.ask(to, partition, request, Asker::List(partition), actions);
        }
        self.timers.insert((now.instant + REMIND_PERIOD, Timer::Giver(partition)));
    }

    /// Counts the partition anew, after anything about it changed.
    fn recount(&mut self, partition: Partition) {
        let me = self.me;
        let replica = self.replica(partition);
        let should_hold = self.placement.replicas(partition).any(|member| member.identity == me);
        let is_listed = replica.list.as_ref().is_some_and(|list| list.contains(&me));
        let progress = match should_hold {
            true if replica.standing != Standing::Synced => Progress::Pending,
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
