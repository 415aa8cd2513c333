//! Changing a partition's list, and moving what it holds: one machine per partition and node, driven by a node
//! that should hold the partition and does not yet.
//!
//! ```text
//! Survey   ask every member which list counts and who holds what
//! Copy     fetch everything from one source; the old list goes on counting
//! Adopt    make the new list, one number higher, known to old and new replicas: from then on a replica
//!          counts for the new list only, so no quorum can form in the old one any more
//! Merge    fetch from every replica that holds something what was missed: now every write that the old
//!          list acknowledged is here, and this replica is synced
//! Receipts tell the replicas that are no longer in the list that their last change is held here
//! ```
//!
//! **What is kept true.** Of the members of the list that counts, at most N − W lack an acknowledged write or a
//! newer one. Who stays in a list keeps what it has, so a change only ever makes these fewer; who comes in is not
//! counted before it lacks nothing.
//!
//! **One list counts.** A list is replaced when so many of its members have adopted the next one that the rest
//! acknowledge nothing any more and no other list can replace it too ([`List::leave_quorum`]). Only members
//! that are taken for dead are excused, and only once everybody who is not has spoken and takes the same members for dead:
//! a later list may be known to its own members alone, and they may be back from the other side of a network partition. Where too many are dead, they may be alive on the other side of a network partition, and both sides
//! go on. A list that is too short to acknowledge a write is not made that way, so a
//! node that is cut off from all others keeps the list that it had.
//!
//! **Whose lists meet.** The list with the higher number wins; who serves another one adopts it, is not synced in
//! it unless that one was its base, and gives what it holds to those who are. Of two lists with one number the
//! first stays wherever it was adopted; whoever finds both makes one above them without a base, in which
//! everybody merges everybody before it is synced again. Two newcomers that saw the same old list make the
//! same new one (its number, members and base determine its id), so they need not agree on who drives. Where
//! a death leaves nobody to come in, the first replica of the shorter list drives. A driver adopts its own
//! list last, so that it never serves one that was turned down.
//!
//! **Who does not answer** for [`SILENCE`] and is not dead is done without, as far as the others suffice: to
//! replace the list, and to be synced (more than N − W members that are synced have everything among them).
//! It learns the list later, from whoever asks it or is told its own.
//!
//! A replica that stays in the list stays synced, and runs Merge and Receipts too: it closes the gaps that a dead
//! coordinator left, and lets a leaving node go. Any failure on the way starts again with a survey, after a
//! pause. What was merged stays merged, and equal digests skip what is there, so starting again is cheap.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Instant;
use crate::entry::Entry;
use crate::placement::{List, Placement};
use crate::simulated::{Planted, is_planted};
use crate::types::{Identity, KeyHash, quorum_of};
use crate::wire::message::{Answer, Chunk, Listed, Request};

/// The pause before starting again.
const BACKOFF: Duration = Duration::from_millis(50);

/// How long a member that is not dead is waited for. Longer than a death takes to be noticed, most of the time.
const SILENCE: Duration = Duration::from_secs(1);

/// How often in a row a list may have members that this node has never heard of, before they are taken
/// for dead. Such a list was made by a node that knows more; its members are heard of soon.
const UNKNOWN_FOR_SURVEYS: u32 = 100;

/// How often in a row nobody may know a list before the partition counts as lost. The first lists of a
/// cluster reach the cores of its nodes at slightly different times.
const LOST_AFTER_SURVEYS: u32 = 20;

/// N and W.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HandoffQuorums {
    pub(crate) replicas: usize,
    pub(crate) write: usize,
}

impl HandoffQuorums {
    /// How many synced members of a list have every acknowledged write among them.
    fn all_writes(self) -> usize {
        self.replicas + 1 - self.write
    }
}

pub(crate) struct Handoff {
    me: Identity,
    quorums: HandoffQuorums,
    /// The members that the new list should have. Empty where only a merge is to be done.
    target: Vec<Identity>,
    /// The list that was adopted already, where only a merge is to be done.
    merging: Option<Arc<List>>,
    phase: Phase,
    /// Whom to merge from, in order.
    sources: Vec<Source>,
    /// Who did not answer, and since when.
    silent: BTreeMap<Identity, Instant>,
    asked_at: Instant,
    fruitless_surveys: u32,
    surveys_with_unknown: u32,
    /// When to start again, or to go on without those who have not answered.
    deadline: Option<Instant>,
}

/// What this node itself knows.
pub(crate) struct Mine<'a> {
    /// Of the partition.
    pub(crate) listed: Listed,
    /// Of the members.
    pub(crate) placement: &'a Placement,
}

#[derive(Clone, Debug, PartialEq)]
struct Source {
    replica: Identity,
    /// A synced member of the list that is replaced.
    is_synced: bool,
    /// Up to where of its sequence its entries are here.
    merged_to: u64,
    /// The sequence that the fetch under way will have covered.
    covers: Option<u64>,
    fetched: Fetched,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fetched {
    No,
    /// Everything up to `merged_to`, since the list was adopted.
    Yes,
    /// It did not answer.
    Skipped,
}

/// What is to become of the list.
#[derive(Debug)]
struct Plan {
    list: Arc<List>,
    /// What it replaces, or is; `None` where nobody knew any.
    old: Option<Arc<List>>,
    /// How many members of the old list must adopt the new one.
    leavers: usize,
    /// Whether this node is synced in the old list.
    is_synced: bool,
    /// W members of the old list died: what they acknowledged among themselves is gone.
    is_at_risk: bool,
}

#[derive(Debug)]
enum Phase {
    Backoff,
    Survey { unanswered: Vec<Identity>, reports: Vec<(Identity, Listed)>, missing: Vec<Identity> },
    Copy { plan: Plan, tell: Vec<Identity> },
    Adopt { plan: Plan, unanswered: Vec<Identity>, adopted: Vec<Identity>, missing: Vec<Identity> },
    Merge { plan: Plan, at: usize },
    Receipts { list: Arc<List>, unanswered: Vec<Identity> },
}

#[derive(Debug, PartialEq)]
pub(crate) enum HandoffAction {
    Ask {
        to: Identity,
        request: Request,
    },
    /// Fetch from `to`: the shard fills in the digest of what it holds.
    Fetch {
        to: Identity,
        after: Option<KeyHash>,
        since: u64,
    },
    Apply(Vec<Entry>),
    /// This node serves this list from now on.
    Adopt(Arc<List>),
    /// This node holds everything that was acknowledged before the list.
    Synced(Arc<List>),
    /// W replicas of the last list died before another had copied them: acknowledged writes may be gone.
    AtRisk,
    Finished,
}

impl Handoff {
    /// Brings about a list of these members, this node among them.
    pub(crate) fn change(
        me: Identity,
        quorums: HandoffQuorums,
        target: Vec<Identity>,
        others: Vec<Identity>,
        mine: &Mine<'_>,
        now: Instant,
        actions: &mut Vec<HandoffAction>,
    ) -> Self {
        let mut handoff = Self::idle(me, quorums, target);
        handoff.survey(others, now, actions);
        handoff.decide(mine, now, actions);
        handoff
    }

    /// Merges what these replicas hold, the list being adopted already.
    pub(crate) fn merge(
        me: Identity,
        quorums: HandoffQuorums,
        list: Arc<List>,
        sources: Vec<Identity>,
        now: Instant,
        actions: &mut Vec<HandoffAction>,
    ) -> Self {
        let mut handoff = Self::idle(me, quorums, Vec::new());
        handoff.merging = Some(list.clone());
        sources.into_iter().for_each(|source| handoff.add_source(source, false));
        handoff.merge_from(Plan::only_merge(list), 0, now, actions);
        handoff
    }

    fn idle(me: Identity, quorums: HandoffQuorums, target: Vec<Identity>) -> Self {
        Self {
            me,
            quorums,
            target,
            merging: None,
            phase: Phase::Backoff,
            sources: Vec::new(),
            silent: BTreeMap::new(),
            asked_at: Instant::default(),
            fruitless_surveys: 0,
            surveys_with_unknown: 0,
            deadline: None,
        }
    }

    /// The members it brings about; `None` where it only merges.
    pub(crate) fn target(&self) -> Option<&[Identity]> {
        self.merging.is_none().then_some(&self.target)
    }

    /// Whom it has not merged, or not told, yet.
    pub(crate) fn open_sources(&self) -> Vec<Identity> {
        match &self.phase {
            Phase::Receipts { unanswered, .. } => unanswered.clone(),
            _ => {
                let open = self.sources.iter().filter(|source| source.fetched != Fetched::Yes);
                open.map(|source| source.replica).collect()
            }
        }
    }

    /// Whether the answer of any of these is being waited for, now or later.
    pub(crate) fn involves(&self, gone: impl Fn(&Identity) -> bool) -> bool {
        let waits_for = match &self.phase {
            Phase::Backoff | Phase::Merge { .. } => false,
            Phase::Survey { unanswered, missing, .. } | Phase::Adopt { unanswered, missing, .. } => {
                unanswered.iter().chain(missing).any(&gone)
            }
            Phase::Receipts { unanswered, .. } => unanswered.iter().any(&gone),
            Phase::Copy { tell, .. } => tell.iter().any(&gone),
        };
        waits_for || self.open_sources().iter().any(gone)
    }

    /// A giver asks to be merged (again).
    pub(crate) fn also_from(&mut self, source: Identity) {
        if matches!(self.phase, Phase::Copy { .. } | Phase::Adopt { .. } | Phase::Merge { .. }) {
            self.add_source(source, false);
        }
    }

    fn add_source(&mut self, replica: Identity, is_synced: bool) {
        if replica != self.me && self.sources.iter().all(|source| source.replica != replica) {
            let source = Source { replica, is_synced, merged_to: 0, covers: None, fetched: Fetched::No };
            self.sources.push(source);
        }
    }

    fn survey(&mut self, others: Vec<Identity>, now: Instant, actions: &mut Vec<HandoffAction>) {
        self.sources.clear();
        for &to in &others {
            actions.push(HandoffAction::Ask { to, request: Request::AskList });
        }
        self.phase = Phase::Survey { unanswered: others, reports: Vec::new(), missing: Vec::new() };
        self.wait(now);
    }

    /// For answers that were asked for now.
    fn wait(&mut self, now: Instant) {
        self.asked_at = now;
        self.deadline = Some(now + SILENCE);
    }

    fn back_off(&mut self, now: Instant) {
        self.rest(now, BACKOFF);
    }

    fn rest(&mut self, now: Instant, pause: Duration) {
        self.phase = Phase::Backoff;
        self.deadline = Some(now + pause);
    }

    /// When [`handle_timers`](Self::handle_timers) wants to be called.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Whether it starts again, and what it asked before does not matter any more.
    pub(crate) fn is_resting(&self) -> bool {
        matches!(self.phase, Phase::Backoff)
    }

    /// A pause is over, or the time for answers. `others` is every member that is not dead but this node; `mine`
    /// what this node itself knows.
    pub(crate) fn handle_timers(
        &mut self,
        others: Vec<Identity>,
        mine: &Mine<'_>,
        now: Instant,
        actions: &mut Vec<HandoffAction>,
    ) {
        if self.deadline.is_none_or(|at| at > now) {
            return;
        }
        self.deadline = None;
        match (&self.phase, self.merging.clone()) {
            (Phase::Backoff, Some(list)) => {
                self.sources.retain(|source| others.contains(&source.replica));
                self.merge_from(Plan::only_merge(list), 0, now, actions);
            }
            (Phase::Backoff, None) => {
                self.survey(others, now, actions);
                self.decide(mine, now, actions);
            }
            _ => {
                self.awaited().into_iter().for_each(|silent| self.unheard(silent));
                self.go_on(mine, now, actions);
            }
        }
    }

    /// Whose answers the phase waits for.
    fn awaited(&self) -> Vec<Identity> {
        match &self.phase {
            Phase::Survey { unanswered, .. }
            | Phase::Adopt { unanswered, .. }
            | Phase::Receipts { unanswered, .. } => unanswered.clone(),
            Phase::Copy { .. } | Phase::Merge { .. } => {
                let at = if let Phase::Merge { at, .. } = self.phase { at } else { 0 };
                let source = self.sources.get(at).filter(|source| source.fetched == Fetched::No);
                source.map(|source| source.replica).into_iter().collect()
            }
            Phase::Backoff => Vec::new(),
        }
    }

    /// It was asked and has not answered, and is not waited for in this phase any more.
    fn unheard(&mut self, from: Identity) {
        self.silent.entry(from).or_insert(self.asked_at);
        match &mut self.phase {
            Phase::Survey { unanswered, missing, .. } | Phase::Adopt { unanswered, missing, .. } => {
                if take(unanswered, &from) {
                    missing.push(from);
                }
            }
            Phase::Receipts { unanswered, .. } => drop(take(unanswered, &from)),
            Phase::Copy { .. } | Phase::Merge { .. } => {
                for source in self.sources.iter_mut().filter(|source| source.replica == from) {
                    (source.fetched, source.covers) = (Fetched::Skipped, None);
                }
            }
            Phase::Backoff => {}
        }
    }

    /// The connection to `from` failed.
    pub(crate) fn lost(&mut self, from: Identity, now: Instant) {
        if self.awaited().contains(&from) {
            self.unheard(from);
            if self.awaited().is_empty() {
                self.deadline = Some(now);
            }
        }
    }

    /// Everybody has answered, or is not waited for any more.
    fn go_on(&mut self, mine: &Mine<'_>, now: Instant, actions: &mut Vec<HandoffAction>) {
        match std::mem::replace(&mut self.phase, Phase::Backoff) {
            phase @ Phase::Survey { .. } => {
                self.phase = phase;
                self.decide(mine, now, actions);
            }
            Phase::Copy { plan, tell } => self.adopt(plan, tell, now, actions),
            phase @ Phase::Adopt { .. } => {
                self.phase = phase;
                self.finish_adopting(now, actions);
            }
            Phase::Merge { plan, at } => self.merge_from(plan, at + 1, now, actions),
            phase @ Phase::Receipts { .. } => {
                self.phase = phase;
                self.finish_if_told(actions);
            }
            Phase::Backoff => self.back_off(now),
        }
    }

    /// Whether all of these have been silent for so long that they are done without.
    fn are_done_without<'a>(&self, mut these: impl Iterator<Item = &'a Identity>, now: Instant) -> bool {
        these.all(|member| self.silent.get(member).is_some_and(|since| *since + SILENCE <= now))
    }

    /// After the survey's first call, and after every answer: whether all have answered. `mine` is what
    /// this node itself knows.
    fn decide(&mut self, mine: &Mine<'_>, now: Instant, actions: &mut Vec<HandoffAction>) {
        let Phase::Survey { unanswered, reports, missing } = &mut self.phase else { return };
        if !unanswered.is_empty() {
            return;
        }
        let mut reports = std::mem::take(reports);
        let missing = std::mem::take(missing);
        reports.push((self.me, mine.listed.clone()));
        if !self.are_done_without(missing.iter(), now) {
            return self.back_off(now);
        }
        let lists = || reports.iter().filter_map(|(_, listed)| listed.list.as_ref());
        let highest = lists().max_by_key(|list| list.reference());
        let lowest = lists().min_by_key(|list| list.reference());
        let old = if is_planted(Planted::LowestReplaced) { lowest } else { highest };
        let Some(old) = old.cloned() else {
            return if missing.is_empty() {
                self.nobody_knows(mine, now, actions)
            } else {
                self.back_off(now)
            };
        };
        let is_here = |member: &Identity| reports.iter().any(|(from, _)| from == member);
        let is_unknown = |member: &Identity| {
            !is_here(member) && !mine.placement.is_alive(member) && !mine.placement.is_dead(member)
        };
        if old.members().iter().any(is_unknown) && self.surveys_with_unknown < UNKNOWN_FOR_SURVEYS {
            self.surveys_with_unknown += u32::from(mine.placement.is_complete());
            return self.back_off(now);
        }
        self.surveys_with_unknown = 0;
        let here = old.members().iter().filter(|member| is_here(member)).count();
        let is_silent = |member: &Identity| !is_here(member) && mine.placement.is_alive(member);
        let dead = old.members().iter().filter(|member| !is_here(member) && !is_silent(member)).count();
        if here < old.leave_quorum(self.quorums.write) {
            if self.target.len() < quorum_of(self.quorums.write, self.target.len()) {
                return self.rest(now, SILENCE);
            }
            // Where the dead are excused, a later list may be known to its own members alone.
            let digest = mine.placement.digest();
            let all_agree = reports.iter().all(|(_, listed)| listed.members_digest == digest);
            let all_spoke = missing.is_empty() && mine.placement.is_complete() && all_agree;
            if old.members().iter().any(is_silent) || !all_spoke {
                return self.back_off(now);
            }
        }
        // Two lists of one number were made by nodes that did not know of each other.
        let is_disputed = lists().any(|list| list.number() == old.number() && *list != old);
        let is_kept = old.has_members(&self.target) && !is_disputed;
        let list = if is_kept {
            old.clone()
        } else {
            let base = (!is_disputed).then_some(old.reference());
            List::new(old.number() + 1, self.target.iter().copied(), base)
        };
        // Best source first: the copy comes from it.
        let is_synced_in_old = |from: &Identity, listed: &Listed| {
            listed.synced && listed.list.as_ref() == Some(&old) && old.contains(from)
        };
        for (from, listed) in reports.iter().filter(|(_, listed)| listed.synced) {
            self.add_source(*from, is_synced_in_old(from, listed) && !is_disputed);
        }
        for (from, _) in reports.iter().filter(|(_, listed)| listed.holds) {
            self.add_source(*from, false);
        }
        for member in old.members().iter().filter(|member| is_here(member)) {
            self.add_source(*member, false);
        }
        let mut tell: Vec<Identity> = self.sources.iter().map(|source| source.replica).collect();
        let believers = reports
            .iter()
            .filter(|(from, listed)| listed.list.as_ref().is_some_and(|list| list.contains(from)));
        let believers = believers.map(|(from, _)| from);
        for member in list.members().iter().filter(|member| is_here(member)).chain(believers) {
            if *member != self.me && !tell.contains(member) {
                tell.push(*member);
            }
        }
        if is_planted(Planted::NotLeft) {
            tell.retain(|member| list.contains(member) && !old.contains(member));
        }
        // Merged with the others, unless it can be reached again.
        missing.iter().for_each(|silent| self.add_source(*silent, false));
        if is_planted(Planted::OneSource) {
            self.sources.truncate(1);
        }
        let plan = Plan {
            is_at_risk: !is_kept && dead >= quorum_of(self.quorums.write, old.members().len()),
            leavers: match is_planted(Planted::NotLeft) {
                true => 0,
                false => here.min(old.leave_quorum(self.quorums.write)),
            },
            is_synced: is_synced_in_old(&self.me, &mine.listed) && !is_disputed,
            list,
            old: Some(old),
        };
        match self.sources.first() {
            Some(source) if !mine.listed.synced => {
                actions.push(HandoffAction::Fetch { to: source.replica, after: None, since: 0 });
                self.phase = Phase::Copy { plan, tell };
                self.wait(now);
            }
            _ => self.adopt(plan, tell, now, actions),
        }
    }

    fn nobody_knows(&mut self, mine: &Mine<'_>, now: Instant, actions: &mut Vec<HandoffAction>) {
        // A member that could not be asked yet may know.
        self.fruitless_surveys += u32::from(mine.placement.is_complete());
        if self.fruitless_surveys < LOST_AFTER_SURVEYS {
            return self.back_off(now);
        }
        let list = List::new(1, self.target.iter().copied(), None);
        let tell = self.target.iter().copied().filter(|member| *member != self.me).collect();
        let plan = Plan { list, old: None, leavers: 0, is_synced: false, is_at_risk: true };
        self.adopt(plan, tell, now, actions);
    }

    fn adopt(&mut self, plan: Plan, tell: Vec<Identity>, now: Instant, actions: &mut Vec<HandoffAction>) {
        for &to in &tell {
            let request = Request::adopt(plan.list.clone());
            actions.push(HandoffAction::Ask { to, request });
        }
        self.phase = Phase::Adopt { plan, unanswered: tell, adopted: Vec::new(), missing: Vec::new() };
        self.wait(now);
        self.finish_adopting(now, actions);
    }

    /// Where enough of the old list's members have adopted the new one, this node does: last, as it must not
    /// serve a list that others turn down.
    fn finish_adopting(&mut self, now: Instant, actions: &mut Vec<HandoffAction>) {
        let (plan, adopted, missing) = match std::mem::replace(&mut self.phase, Phase::Backoff) {
            Phase::Adopt { plan, unanswered, adopted, missing } if unanswered.is_empty() => {
                (plan, adopted, missing)
            }
            other => return self.phase = other,
        };
        let has_left = |member: &&Identity| **member == self.me || adopted.contains(member);
        let left = plan.old.iter().flat_map(|old| old.members()).filter(has_left).count();
        if left < plan.leavers || !self.are_done_without(missing.iter(), now) {
            return self.back_off(now);
        }
        // Who counts for the old list still may acknowledge a write there after it was merged.
        for source in &mut self.sources {
            source.is_synced &= adopted.contains(&source.replica);
        }
        actions.push(HandoffAction::Adopt(plan.list.clone()));
        if plan.is_at_risk {
            actions.push(HandoffAction::AtRisk);
        }
        // What was copied before has changed since.
        self.merge_from(plan, 0, now, actions);
    }

    fn merge_from(&mut self, plan: Plan, at: usize, now: Instant, actions: &mut Vec<HandoffAction>) {
        if let Some(source) = self.sources.get_mut(at) {
            source.fetched = Fetched::No;
            let (to, since) = (source.replica, source.merged_to);
            actions.push(HandoffAction::Fetch { to, after: None, since });
            self.phase = Phase::Merge { plan, at };
            return self.wait(now);
        }
        let skipped = self.sources.iter().filter(|source| source.fetched == Fetched::Skipped);
        let is_all = skipped.clone().count() == 0;
        if !self.are_done_without(skipped.map(|source| &source.replica), now)
            || !is_all && !self.suffices(&plan)
        {
            return self.back_off(now);
        }
        let list = plan.list;
        actions.push(HandoffAction::Synced(list.clone()));
        let is_giver = |source: &&Source| source.fetched == Fetched::Yes && !list.contains(&source.replica);
        let mut unanswered = Vec::new();
        for giver in self.sources.iter().filter(is_giver) {
            let request = Request::Receipt { list: list.reference(), covers: giver.merged_to };
            actions.push(HandoffAction::Ask { to: giver.replica, request });
            unanswered.push(giver.replica);
        }
        self.phase = Phase::Receipts { list, unanswered };
        self.wait(now);
        self.finish_if_told(actions);
    }

    /// Whether those that were merged have every acknowledged write among them, though others were not.
    fn suffices(&self, plan: &Plan) -> bool {
        let merged = |source: &&Source| source.is_synced && source.fetched == Fetched::Yes;
        let synced = self.sources.iter().filter(merged).count() + usize::from(plan.is_synced);
        self.merging.is_some() || plan.is_synced || synced >= self.quorums.all_writes()
    }

    fn finish_if_told(&mut self, actions: &mut Vec<HandoffAction>) {
        if let Phase::Receipts { unanswered, .. } = &self.phase
            && unanswered.is_empty()
        {
            self.deadline = None;
            actions.push(HandoffAction::Finished);
        }
    }

    pub(crate) fn answered(
        &mut self,
        from: Identity,
        answer: Answer,
        mine: &Mine<'_>,
        now: Instant,
        actions: &mut Vec<HandoffAction>,
    ) {
        self.silent.remove(&from);
        match (&mut self.phase, answer) {
            (Phase::Survey { unanswered, reports, missing }, Answer::Listed(listed)) => {
                take(unanswered, &from);
                take(missing, &from);
                reports.push((from, listed));
                self.decide(mine, now, actions);
            }
            (Phase::Adopt { plan, unanswered, adopted, missing }, Answer::Listed(listed)) => {
                let theirs = listed.list.as_ref().map(|list| list.reference());
                if theirs != Some(plan.list.reference()) {
                    return self.back_off(now);
                }
                take(unanswered, &from);
                take(missing, &from);
                adopted.push(from);
                self.finish_adopting(now, actions);
            }
            (Phase::Copy { .. } | Phase::Merge { .. }, Answer::Chunk(chunk)) => {
                self.chunk(from, chunk, now, actions);
            }
            (Phase::Receipts { list, unanswered }, Answer::Received { covered }) => {
                let list = list.clone();
                if covered {
                    take(unanswered, &from);
                    self.finish_if_told(actions);
                } else if let Some(at) = self.sources.iter().position(|source| source.replica == from) {
                    // It changed once more before it stopped counting.
                    self.merge_from(Plan::only_merge(list), at, now, actions);
                }
            }
            (Phase::Receipts { list, unanswered }, Answer::OtherList { list: theirs, .. }) => {
                let ours = list.reference();
                let is_behind = theirs.is_none_or(|theirs| theirs.number() < list.number());
                if !is_behind {
                    // Which has a handoff of its own.
                    take(unanswered, &from);
                    self.finish_if_told(actions);
                } else if let Some(giver) = self.sources.iter().find(|source| source.replica == from) {
                    // It has not heard of the list yet.
                    let receipt = Request::Receipt { list: ours, covers: giver.merged_to };
                    actions.push(HandoffAction::Ask { to: from, request: Request::adopt(list.clone()) });
                    actions.push(HandoffAction::Ask { to: from, request: receipt });
                }
            }
            _ => {}
        }
    }

    fn chunk(&mut self, from: Identity, chunk: Chunk, now: Instant, actions: &mut Vec<HandoffAction>) {
        let at = match &self.phase {
            Phase::Merge { at, .. } => *at,
            _ => 0,
        };
        let Some(source) = self.sources.get_mut(at).filter(|source| source.replica == from) else { return };
        if source.fetched != Fetched::No {
            return;
        }
        let since = source.merged_to;
        // What changes while the chunks come is behind the first one's sequence, so it is fetched again.
        let covers = *source.covers.get_or_insert(chunk.sequence);
        actions.push(HandoffAction::Apply(chunk.entries));
        if chunk.next.is_some() {
            actions.push(HandoffAction::Fetch { to: from, after: chunk.next, since });
            return self.wait(now);
        }
        source.merged_to = covers;
        source.covers = None;
        source.fetched = Fetched::Yes;
        match std::mem::replace(&mut self.phase, Phase::Backoff) {
            Phase::Copy { plan, tell } => self.adopt(plan, tell, now, actions),
            Phase::Merge { plan, at } => self.merge_from(plan, at + 1, now, actions),
            other => self.phase = other,
        }
    }
}

impl Plan {
    /// The list is adopted already.
    fn only_merge(list: Arc<List>) -> Self {
        Self { list, old: None, leavers: 0, is_synced: true, is_at_risk: false }
    }
}

/// Removes `member`; whether it was there.
fn take(members: &mut Vec<Identity>, member: &Identity) -> bool {
    let before = members.len();
    members.retain(|other| other != member);
    members.len() < before
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Version;
    use crate::placement::{Gone, Member, Site};
    use crate::replication::tests::{list, node};
    use crate::types::NodeId;

    const NOW: Instant = Instant::from_nanos(1);
    const QUORUMS: HandoffQuorums = HandoffQuorums { replicas: 3, write: 2 };

    fn listed(list: Option<Arc<List>>, synced: bool) -> Answer {
        Answer::Listed(Listed { list, synced, holds: synced, horizon: Version::ZERO, members_digest: 0 })
    }

    /// Node 3 comes in for node 0, while nodes 1 and 2 stay; it has asked all of them for their list.
    struct Newcomer {
        handoff: Handoff,
        actions: Vec<HandoffAction>,
    }

    impl Newcomer {
        fn surveying(others: &[u64]) -> Self {
            let mut actions = Vec::new();
            let others = others.iter().map(|other| node(*other)).collect();
            let target = vec![node(1), node(2), node(3)];
            let mine = Mine { listed: nothing(), placement: &nobody() };
            let handoff = Handoff::change(node(3), QUORUMS, target, others, &mine, NOW, &mut actions);
            Self { handoff, actions }
        }

        fn answer(&mut self, from: u64, answer: Answer) -> &[HandoffAction] {
            let mine = Mine { listed: nothing(), placement: &nobody() };
            self.actions.clear();
            self.handoff.answered(node(from), answer, &mine, NOW, &mut self.actions);
            &self.actions
        }
    }

    fn nobody() -> Placement {
        Placement::new(Vec::new(), 3, 0, Gone::new())
    }

    fn nothing() -> Listed {
        Listed { list: None, synced: false, holds: false, horizon: Version::ZERO, members_digest: 0 }
    }

    fn chunk(sequence: u64) -> Answer {
        Answer::Chunk(Chunk { entries: Vec::new(), next: None, sequence })
    }

    #[test]
    fn a_newcomer_surveys_copies_adopts_merges_and_relieves_the_giver() {
        let mut newcomer = Newcomer::surveying(&[0, 1, 2]);
        assert_eq!(newcomer.actions.len(), 3);
        let old = list(4, 0..3);
        for from in [0, 1] {
            assert_eq!(newcomer.answer(from, listed(Some(old.clone()), true)), []);
        }
        let copy = HandoffAction::Fetch { to: node(0), after: None, since: 0 };
        assert_eq!(newcomer.answer(2, listed(Some(old.clone()), true)), [copy]);

        let new = List::new(5, (1..4).map(node), Some(old.reference()));
        let actions = newcomer.answer(0, chunk(7));
        assert_eq!(actions.len(), 4, "old and new replicas are told: {actions:?}");
        for from in [0, 1] {
            assert_eq!(newcomer.answer(from, listed(Some(new.clone()), false)), []);
        }
        let delta = HandoffAction::Fetch { to: node(0), after: None, since: 7 };
        let adopt = HandoffAction::Adopt(new.clone());
        assert_eq!(newcomer.answer(2, listed(Some(new.clone()), false)), [adopt, delta]);
        assert!(matches!(newcomer.answer(0, chunk(9)), [_, HandoffAction::Fetch { since: 0, .. }]));
        assert!(matches!(newcomer.answer(1, chunk(3)), [_, HandoffAction::Fetch { since: 0, .. }]));
        let receipt = Request::Receipt { list: new.reference(), covers: 9 };
        assert_eq!(
            newcomer.answer(2, chunk(3))[1..],
            [
                HandoffAction::Synced(new.clone()),
                HandoffAction::Ask { to: node(0), request: receipt.clone() }
            ]
        );
        // The giver has not heard of the list: it is told, and asked again.
        let behind = Answer::OtherList { list: Some(list(4, 0..3)), horizon: Version::ZERO };
        assert_eq!(
            newcomer.answer(0, behind),
            [
                HandoffAction::Ask { to: node(0), request: Request::adopt(new) },
                HandoffAction::Ask { to: node(0), request: receipt }
            ]
        );
        assert_eq!(newcomer.answer(0, Answer::Received { covered: true }), [HandoffAction::Finished]);
    }

    /// Found by four real nodes on busy processors: two of them brought about lists of one number, each
    /// without having seen the other's. The one whose digest was lower was replaced at the others, and went
    /// on serving its own.
    #[test]
    fn a_list_that_others_turn_down_is_not_served_and_a_dispute_ends_with_a_higher_number() {
        let mut newcomer = Newcomer::surveying(&[0, 1, 2]);
        let old = list(4, 0..3);
        for from in [0, 1, 2] {
            newcomer.answer(from, listed(Some(old.clone()), true));
        }
        newcomer.answer(0, chunk(7));
        let other = List::new(5, [node(1), node(2), node(9)], None);
        assert_eq!(newcomer.answer(1, listed(Some(other.clone()), true)), [], "nothing is adopted here");
        assert_eq!(newcomer.handoff.deadline(), Some(NOW + BACKOFF));

        let mut newcomer = Newcomer::surveying(&[1, 2, 9]);
        newcomer.answer(1, listed(Some(other), true));
        newcomer.answer(2, listed(Some(list(5, 1..4)), false));
        newcomer.answer(9, listed(Some(list(4, 0..3)), false));
        newcomer.answer(1, chunk(1));
        let adopts_higher = |action: &HandoffAction| {
            matches!(action, HandoffAction::Ask { request: Request::Adopt { list, .. }, .. }
                if list.number() == 6 && list.base().is_none())
        };
        assert!(newcomer.actions[1..].iter().all(adopts_higher));
    }

    /// Found by the simulator (seed 0): five nodes started at once. One of them had not heard of a fifth
    /// that was already in the partition's list, took it for dead, and brought about a list without it.
    /// Nobody told the fifth, which went on serving the old list for ever.
    #[test]
    fn a_list_with_a_member_never_heard_of_is_not_replaced() {
        let mut newcomer = Newcomer::surveying(&[0, 1]);
        let old = list(4, 0..3);
        newcomer.answer(0, listed(Some(old.clone()), true));
        assert_eq!(newcomer.answer(1, listed(Some(old), true)), []);
        assert_eq!(newcomer.handoff.deadline(), Some(NOW + BACKOFF), "it surveys again when it knows more");
    }

    const LATER: Instant = Instant::from_nanos(1 + SILENCE.as_nanos() as u64);

    fn placed(alive: &[u64], dead: &[u64]) -> Placement {
        let member = |number: &u64| Member {
            identity: node(*number),
            id: NodeId::new(&format!("n{number}")),
            cores: 1,
            site: Site::default(),
            leaving: false,
        };
        let gone = dead.iter().map(|number| (node(*number).node, node(*number).boot)).collect();
        Placement::new(alive.iter().map(member).collect(), 3, 1, gone)
    }

    /// Node 3, for the list 4 of nodes 0, 1 and 2, with what it sees of the members.
    struct Driver {
        handoff: Handoff,
        placement: Placement,
        actions: Vec<HandoffAction>,
    }

    impl Driver {
        fn surveying(target: &[u64], alive: &[u64], dead: &[u64]) -> Self {
            let placement = placed(alive, dead);
            let others = alive.iter().filter(|other| **other != 3).map(|other| node(*other)).collect();
            let target = target.iter().map(|member| node(*member)).collect();
            let mut actions = Vec::new();
            let listed = Listed { members_digest: placement.digest(), ..nothing() };
            let mine = Mine { listed, placement: &placement };
            let handoff = Handoff::change(node(3), QUORUMS, target, others, &mine, NOW, &mut actions);
            Self { handoff, placement, actions }
        }

        /// As a member answers that sees the same members.
        fn answer(&mut self, from: u64, answer: Answer) -> &[HandoffAction] {
            let members_digest = self.placement.digest();
            let answer = match answer {
                Answer::Listed(listed) => Answer::Listed(Listed { members_digest, ..listed }),
                other => other,
            };
            self.told(from, answer)
        }

        fn told(&mut self, from: u64, answer: Answer) -> &[HandoffAction] {
            self.actions.clear();
            let listed = Listed { members_digest: self.placement.digest(), ..nothing() };
            let mine = Mine { listed, placement: &self.placement };
            self.handoff.answered(node(from), answer, &mine, LATER, &mut self.actions);
            &self.actions
        }

        /// Nothing else comes.
        fn silence(&mut self) -> &[HandoffAction] {
            self.actions.clear();
            let listed = Listed { members_digest: self.placement.digest(), ..nothing() };
            let mine = Mine { listed, placement: &self.placement };
            let others = self.placement.members().iter().map(|member| member.identity);
            let others = others.filter(|other| *other != node(3)).collect();
            self.handoff.handle_timers(others, &mine, LATER + SILENCE, &mut self.actions);
            &self.actions
        }
    }

    fn adopts(actions: &[HandoffAction]) -> Vec<Identity> {
        let told = actions.iter().filter_map(|action| match action {
            HandoffAction::Ask { to, request: Request::Adopt { .. } } => Some(*to),
            _ => None,
        });
        told.collect()
    }

    #[test]
    fn who_is_silent_for_long_is_done_without_where_the_others_suffice() {
        let old = list(4, 0..3);
        let mut driver = Driver::surveying(&[1, 2, 3], &[0, 1, 2, 3], &[]);
        driver.answer(1, listed(Some(old.clone()), true));
        assert_eq!(driver.answer(2, listed(Some(old.clone()), true)), [], "node 0 is waited for");
        assert!(matches!(driver.silence(), [HandoffAction::Fetch { .. }]));
        assert_eq!(adopts(driver.answer(1, chunk(1))), [node(1), node(2)]);
        let new = List::new(5, (1..4).map(node), Some(old.reference()));
        driver.answer(1, listed(Some(new.clone()), true));
        let actions = driver.answer(2, listed(Some(new.clone()), true));
        assert_eq!(actions[0], HandoffAction::Adopt(new.clone()));
        driver.answer(1, chunk(2));
        driver.answer(2, chunk(2));
        // Node 0 is asked in vain; nodes 1 and 2 were synced, and what was acknowledged is on one of them.
        assert!(driver.silence().contains(&HandoffAction::Synced(new)));
    }

    #[test]
    fn a_list_is_not_replaced_where_too_many_are_silent() {
        let mut driver = Driver::surveying(&[1, 2, 3], &[0, 1, 2, 3], &[]);
        driver.answer(1, listed(Some(list(4, 0..3)), true));
        assert_eq!(driver.silence(), []);
        assert!(driver.handoff.is_resting());
    }

    /// Node 1 alone may not have what nodes 0 and 2 acknowledged.
    #[test]
    fn one_synced_source_of_two_that_live_does_not_suffice() {
        let old = list(4, 0..3);
        let mut driver = Driver::surveying(&[1, 2, 3], &[1, 2, 3], &[0]);
        driver.answer(1, listed(Some(old.clone()), true));
        assert!(matches!(driver.answer(2, listed(Some(old.clone()), true)), [HandoffAction::Fetch { .. }]));
        driver.answer(1, chunk(1));
        let new = List::new(5, (1..4).map(node), Some(old.reference()));
        driver.answer(1, listed(Some(new.clone()), true));
        driver.answer(2, listed(Some(new), true));
        driver.answer(1, chunk(2));
        assert_eq!(driver.silence(), [], "node 2 lives");
        assert!(driver.handoff.is_resting());
    }

    #[test]
    fn the_dead_are_excused_and_w_of_them_put_data_at_risk() {
        for (dead, is_at_risk) in [(&[0][..], false), (&[0, 1], true)] {
            let old = list(4, 0..3);
            let alive: Vec<u64> = (0..5).filter(|node| !dead.contains(node)).collect();
            let mut driver = Driver::surveying(&[2, 3, 4], &alive, dead);
            for from in alive.iter().filter(|from| **from != 3) {
                let is_member = old.contains(&node(*from));
                driver.answer(*from, listed(is_member.then(|| old.clone()), is_member));
            }
            let source = alive[0];
            driver.answer(source, chunk(1));
            let new = List::new(5, (2..5).map(node), Some(old.reference()));
            let mut happened = Vec::new();
            for from in alive.iter().filter(|from| **from != 3) {
                driver.answer(*from, listed(Some(new.clone()), true));
                happened.append(&mut driver.actions);
            }
            assert!(happened.contains(&HandoffAction::Adopt(new)), "{happened:?}");
            assert_eq!(happened.contains(&HandoffAction::AtRisk), is_at_risk, "{dead:?}");
        }
    }

    /// Found by the simulator: of a list of two one died; another came in for it, and then the first one died as well and
    /// was back at once, cut off from the one that had come in. All that it reached knew the old list alone, whose
    /// members were dead, so it made another one from that, empty, while the data was there.
    #[test]
    fn the_dead_are_not_excused_while_a_living_member_is_silent() {
        let mut driver = Driver::surveying(&[2, 3, 4], &[2, 3, 4], &[0, 1]);
        driver.answer(2, listed(Some(list(4, 0..3)), true));
        assert_eq!(driver.silence(), [], "node 4 may know a later list");
        assert!(driver.handoff.is_resting());
    }

    /// Found by the simulator: a node that was cut off took the others for dead. When the network was whole again it
    /// heard of one of them first, and made a list with that one, empty, from one whose members it still took for dead.
    #[test]
    fn the_dead_are_not_excused_where_others_see_them_alive() {
        let mut driver = Driver::surveying(&[3, 4], &[3, 4], &[0, 1, 2]);
        assert_eq!(driver.told(4, listed(Some(list(4, 0..3)), false)), []);
        assert!(driver.handoff.is_resting());
    }

    /// It could acknowledge nothing, and whoever it takes for dead may live.
    #[test]
    fn a_node_that_sees_no_one_makes_no_list_of_its_own() {
        let mut driver = Driver::surveying(&[3], &[3], &[0, 1, 2]);
        assert_eq!(adopts(&driver.actions), []);
        let mine_listed = Listed {
            list: Some(list(4, 1..4)),
            synced: true,
            holds: true,
            horizon: Version::ZERO,
            members_digest: 0,
        };
        let mine = Mine { listed: mine_listed, placement: &driver.placement };
        driver.handoff =
            Handoff::change(node(3), QUORUMS, vec![node(3)], Vec::new(), &mine, NOW, &mut driver.actions);
        assert_eq!(driver.actions, []);
        assert!(driver.handoff.is_resting());
    }
}
