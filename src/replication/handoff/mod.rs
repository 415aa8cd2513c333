//! Changing a partition's list, and moving what the partition holds. One machine per partition and
//! node, driven by a node that should hold the partition and does not yet.
//! Longer than 600 lines because lists are about to be changed by another rule, which replaces it.
//!
//! **Problem.** A quorum is counted in a list of replicas, and that list must change while writes
//! go on. No acknowledged write must be left behind in the old list, and no two lists must
//! acknowledge at the same time.
//!
//! | phase | what the driver does | goes on when |
//! |---|---|---|
//! | Survey | asks every member which list counts and who holds what | all have reported |
//! | Copy | fetches all from the best source; the old list counts | the last chunk is here |
//! | Adopt | tells the new list to old and new replicas | enough of the old list have adopted it |
//! | Merge | fetches from every holder what was missed | all are merged: now it is synced |
//! | Receipts | tells each giver that its last change is here | all have confirmed |
//! | Backoff | waits after a failure, then surveys again | the pause is over |
//!
//! The new list has the next number. A *giver* is a holder that is not in it.
//!
//! A replica that has adopted the new list counts for that one only. From Adopt on no quorum can
//! form in the old list, so after Merge every write that the old list acknowledged is here.
//!
//! **Invariant.** Of the members of the list that counts, at most N − W lack an acknowledged write
//! or a newer one. A member that stays in a list keeps what it has, so a change only makes these
//! fewer. A member that comes in does not count before it lacks nothing.
//!
//! If a death leaves no newcomer, the first replica of the shorter list drives. A driver adopts its
//! own list last, so that it never serves a list that the others turned down.
//!
//! **Silent members.** A member that does not answer for [`SILENCE`] and is not dead is done
//! without if the others suffice: to replace the list, and to be synced (more than N − W synced
//! members have everything among them). It learns the list later, from a member that asks it or
//! hears of its list.
//!
//! **No room.** If something of a source finds no room here and nothing may be evicted, the handoff
//! ends: in Copy without a new list, later without a receipt. It begins again when there is room.
//!
//! A replica that stays in the list stays synced, and runs Merge and Receipts too: to close the
//! gaps that a dead coordinator left, and to let a leaving node go. Starting again is cheap,
//! because what was merged stays merged and equal digests skip what is there.
//!
//! **Source.** The reconfiguration of RAMBO (Lynch & Shvartsman, DISC '02): a quorum of the old
//! configuration learns of the new one, then its state is read, then the new one counts alone.
//!
//! **Rejected:** a consensus group for the placement. A few voters would stand in the way of every
//! change, and nodes without disks would have to replace these voters by the same kind of change.
//!
//! **The files.** [`plan`] judges the members' reports and says when a list counts, [`copy`] keeps
//! how far each source is merged, [`phase`] whom each phase waits for, [`action`] what the shard is
//! asked to do. All are functions of what they are told, and name nothing of this file, which asks.

use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use super::mismatch::mismatch;
use crate::clock::Instant;
use crate::placement::List;
use crate::types::Identity;
use crate::wire::message::{Answer, Chunk, Listed, Request};

mod action;
mod copy;
mod phase;
mod plan;

pub(crate) use action::HandoffAction;
use action::fetch;
pub(crate) use copy::ToMerge;
use copy::{Next, Sources};
use phase::{Collected, Phase, take};
use plan::{Leave, Plan, Reports};
pub(crate) use plan::{ListRules, Mine};

/// The pause before starting again. It doubles each time up to [`MAX_BACKOFF`], and is short again
/// after progress, and when the members change.
const BACKOFF: Duration = Duration::from_millis(50);

/// The longest pause: how long a partition might wait for no reason when what held it up is over.
const MAX_BACKOFF: Duration = Duration::from_millis(3200);

/// How long a member that is not dead is waited for. Usually longer than a death stays unnoticed.
const SILENCE: Duration = Duration::from_secs(1);

/// How many surveys in a row a list may have members that this node has never heard of, before they
/// are taken for dead. Such a list was made by a node that knows more; its members are heard of
/// soon.
const UNKNOWN_FOR_SURVEYS: u32 = 100;

/// After how many surveys in a row without any list the partition counts as lost. The first lists
/// of a cluster reach the cores of its nodes at slightly different times.
const LOST_AFTER_SURVEYS: u32 = 20;

/// Brings one partition to this node: changes its list, or only merges what other replicas hold.
pub(crate) struct Handoff {
    me: Identity,
    rules: ListRules,
    /// The members that the new list should have. Empty if there is only something to merge.
    target: Vec<Identity>,
    /// The list that was adopted already, if there is only something to merge.
    merging: Option<Arc<List>>,
    phase: Phase,
    /// The replicas to merge, in order.
    sources: Sources,
    /// What follows from the chunk that is being applied.
    next: Option<Next>,
    /// How many bytes of the source that is fetched from found no room.
    missing_bytes: usize,
    /// The members that did not answer, and since when.
    silent: BTreeMap<Identity, Instant>,
    asked_at: Instant,
    fruitless_surveys: u32,
    surveys_with_unknown: u32,
    /// How often it has backed off without progress.
    backoffs: u32,
    /// When to start again, or to go on without the members that have not answered.
    deadline: Option<Instant>,
}

impl Handoff {
    /// Begins to bring about a list of the `target` members, this node among them. `others` is
    /// every member that is not dead, except this node.
    pub(crate) fn change(
        me: Identity,
        rules: ListRules,
        target: Vec<Identity>,
        others: Vec<Identity>,
        mine: &Mine<'_>,
        now: Instant,
        actions: &mut Vec<HandoffAction>,
    ) -> Self {
        let mut handoff = Self::resting(me, rules, target);
        handoff.survey(others, now, actions);
        handoff.decide(mine, now, actions);
        handoff
    }

    /// Begins to merge what these replicas hold into a list that was adopted already.
    pub(crate) fn merge(
        me: Identity,
        rules: ListRules,
        list: Arc<List>,
        sources: ToMerge,
        now: Instant,
        actions: &mut Vec<HandoffAction>,
    ) -> Self {
        let mut handoff = Self::resting(me, rules, Vec::new());
        handoff.merging = Some(list.clone());
        handoff.sources.add_all(sources);
        handoff.merge_from(Plan::only_merge(list), 0, now, actions);
        handoff
    }

    fn resting(me: Identity, rules: ListRules, target: Vec<Identity>) -> Self {
        Self {
            me,
            rules,
            target,
            merging: None,
            phase: Phase::Backoff,
            sources: Sources::new(me),
            next: None,
            missing_bytes: 0,
            silent: BTreeMap::new(),
            asked_at: Instant::default(),
            fruitless_surveys: 0,
            surveys_with_unknown: 0,
            backoffs: 0,
            deadline: None,
        }
    }

    /// Returns the members of the list that it brings about; `None` if it only merges.
    pub(crate) fn target(&self) -> Option<&[Identity]> {
        self.merging.is_none().then_some(&self.target)
    }

    /// Returns the replicas that are not merged yet, or have not confirmed their receipt.
    pub(crate) fn open_sources(&self) -> Vec<Identity> {
        match &self.phase {
            Phase::Receipts { unanswered, .. } => unanswered.clone(),
            _ => self.sources.open(),
        }
    }

    /// Returns every replica that is merged, or was.
    pub(crate) fn sources(&self) -> Vec<Identity> {
        self.sources.replicas()
    }

    /// Whether an answer of any of these is waited for, now or later.
    pub(crate) fn involves(&self, gone: impl Fn(&Identity) -> bool) -> bool {
        self.phase.involves(&gone) || self.open_sources().iter().any(gone)
    }

    /// Whether it waits to start again. No answer to what it asked before matters any more.
    pub(crate) fn is_resting(&self) -> bool {
        matches!(self.phase, Phase::Backoff)
    }

    /// Ends a pause: the members have changed.
    pub(crate) fn wake(&mut self, now: Instant) {
        if self.is_resting() {
            (self.backoffs, self.deadline) = (0, Some(now));
        }
    }

    /// Adds a giver that asks to be merged. A survey finds it by itself, and in Receipts it asks
    /// again.
    pub(crate) fn also_from(&mut self, source: Identity) {
        if matches!(self.phase, Phase::Copy { .. } | Phase::Adopt { .. } | Phase::Merge { .. }) {
            self.sources.add(source, false);
        }
    }

    /// Returns when [`handle_timers`](Self::handle_timers) wants to be called.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Starts again if a pause is over, or goes on without the members that have not answered in
    /// time. `others` is every member that is not dead, except this node.
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
        if !self.is_resting() {
            self.awaited().into_iter().for_each(|silent| self.unheard(silent));
            self.go_on(mine, now, actions);
        } else if let Some(list) = self.merging.clone() {
            self.sources.retain(|source| others.contains(source));
            self.missing_bytes = 0;
            self.merge_from(Plan::only_merge(list), 0, now, actions);
        } else {
            self.survey(others, now, actions);
            self.decide(mine, now, actions);
        }
    }

    /// Notes that the connection to `from` failed.
    pub(crate) fn lost(&mut self, from: Identity, now: Instant) {
        if self.awaited().contains(&from) {
            self.unheard(from);
            if self.awaited().is_empty() {
                self.deadline = Some(now);
            }
        }
    }

    /// Takes up an answer to what this machine asked since it rested last.
    ///
    /// Answers come from the network, so one of a kind that was not asked for is no bug of this
    /// node. It is not counted, and its sender counts as silent when [`SILENCE`] is over.
    pub(crate) fn answered(
        &mut self,
        from: Identity,
        answer: Answer,
        mine: &Mine<'_>,
        now: Instant,
        actions: &mut Vec<HandoffAction>,
    ) {
        self.silent.remove(&from);
        match answer {
            Answer::Listed(listed) => self.listed(from, listed, mine, now, actions),
            Answer::Chunk(chunk) => self.chunk(from, chunk, actions),
            Answer::Received { covered } => self.received(from, covered, now, actions),
            Answer::OtherList { list, .. } => self.other_list(from, list, actions),
            // A node of another data center, which keeps none of this data center's lists.
            Answer::Declined => log::debug!("{:?} declines to take part in a handoff", from.node),
            _ => log::debug!("{:?} answers a handoff with something else", from.node),
        }
    }

    /// Asks every member which list counts, and what it holds.
    fn survey(&mut self, others: Vec<Identity>, now: Instant, actions: &mut Vec<HandoffAction>) {
        self.sources.clear();
        self.missing_bytes = 0;
        for &to in &others {
            actions.push(HandoffAction::Ask { to, request: Request::AskList });
        }
        self.phase = Phase::Survey { unanswered: others, reports: Vec::new(), missing: Vec::new() };
        self.wait(now);
    }

    /// Begins what the reports call for, once every member has reported or is done without.
    fn decide(&mut self, mine: &Mine<'_>, now: Instant, actions: &mut Vec<HandoffAction>) {
        let Some(Collected { mut reports, missing }) = self.phase.take_reports() else { return };
        reports.push((self.me, mine.listed.clone()));
        if !self.are_done_without(missing.iter(), now) {
            return self.back_off(now);
        }
        let (me, rules, target) = (self.me, self.rules, &self.target[..]);
        let reports = Reports { me, rules, target, mine, reports, missing };
        let Some(old) = reports.counting_list() else {
            if !reports.missing.is_empty() {
                return self.back_off(now);
            }
            return self.no_list_reported(mine.placement.is_complete(), now, actions);
        };
        if reports.has_unknown_members(&old) && self.surveys_with_unknown < UNKNOWN_FOR_SURVEYS {
            if !mine.placement.is_complete() {
                return self.back_off(now);
            }
            self.surveys_with_unknown += 1;
            return self.rest(now, BACKOFF);
        }
        self.surveys_with_unknown = 0;
        match reports.leave(&old) {
            Leave::Granted => {}
            Leave::NotYet => return self.back_off(now),
            Leave::TooFewMembers => return self.rest(now, SILENCE),
        }
        let plan = reports.plan(old.clone());
        let to_tell = reports.choose_sources(&old, &plan.list, &mut self.sources);
        self.copy(plan, to_tell, mine.listed.synced, now, actions);
    }

    /// Makes the partition's first list when no member has known any for [`LOST_AFTER_SURVEYS`]. A
    /// survey counts if all members can be reached: one that could not be asked might know a list.
    /// A partition that waits for its replicas waits for ever then.
    fn no_list_reported(
        &mut self,
        is_complete: bool,
        now: Instant,
        actions: &mut Vec<HandoffAction>,
    ) {
        if !is_complete || self.rules.waits_for_dead() {
            return self.back_off(now);
        }
        self.fruitless_surveys += 1;
        if self.fruitless_surveys < LOST_AFTER_SURVEYS {
            return self.rest(now, BACKOFF);
        }
        let to_tell = self.target.iter().copied().filter(|member| *member != self.me).collect();
        self.adopt(Plan::first_list(&self.target), to_tell, now, actions);
    }

    /// Copies from the best source while the old list counts, so that little is left to merge when
    /// it does not any more. A synced node has the copy already.
    fn copy(
        &mut self,
        plan: Plan,
        to_tell: Vec<Identity>,
        is_synced: bool,
        now: Instant,
        actions: &mut Vec<HandoffAction>,
    ) {
        match self.sources.first_part().filter(|_| !is_synced) {
            Some(part) => {
                actions.push(fetch(part));
                self.phase = Phase::Copy { plan, to_tell };
                self.wait(now);
            }
            None => self.adopt(plan, to_tell, now, actions),
        }
    }

    /// Tells the new list to all that must adopt it.
    fn adopt(
        &mut self,
        plan: Plan,
        to_tell: Vec<Identity>,
        now: Instant,
        actions: &mut Vec<HandoffAction>,
    ) {
        for &to in &to_tell {
            actions.push(HandoffAction::Tell { to, list: plan.list.clone() });
        }
        self.phase =
            Phase::Adopt { plan, unanswered: to_tell, adopted: Vec::new(), missing: Vec::new() };
        self.wait(now);
        self.finish_adopting(now, actions);
    }

    /// Adopts the list here when enough members of the old one have adopted it. This node is the
    /// last to do so, as it must not serve a list that the others turn down.
    fn finish_adopting(&mut self, now: Instant, actions: &mut Vec<HandoffAction>) {
        let Some((plan, adopted, missing)) = self.phase.take_adopted() else { return };
        if !plan.is_left(&self.me, &adopted) || !self.are_done_without(missing.iter(), now) {
            return self.back_off(now);
        }
        self.sources.keep_synced(&adopted);
        actions.push(HandoffAction::Adopt(plan.list.clone()));
        if plan.is_at_risk {
            actions.push(HandoffAction::AtRisk);
        }
        // What was copied before has changed since.
        self.merge_from(plan, 0, now, actions);
    }

    /// Fetches what was missed from the source at `at`; behind the last one, this node is synced if
    /// that suffices.
    fn merge_from(
        &mut self,
        plan: Plan,
        at: usize,
        now: Instant,
        actions: &mut Vec<HandoffAction>,
    ) {
        if let Some(part) = self.sources.begin(at) {
            actions.push(fetch(part));
            self.phase = Phase::Merge { plan, at };
            return self.wait(now);
        }
        let is_all = self.sources.skipped().next().is_none() || self.merging.is_some();
        if !self.are_done_without(self.sources.skipped(), now)
            || !is_all && !plan.suffices(self.sources.count_synced(), self.rules.quorums)
        {
            return self.back_off(now);
        }
        self.give_receipts(plan.list, now, actions);
    }

    /// Is synced, and tells each giver up to which change it may forget its copy.
    fn give_receipts(&mut self, list: Arc<List>, now: Instant, actions: &mut Vec<HandoffAction>) {
        self.backoffs = 0;
        actions.push(HandoffAction::Synced(list.clone()));
        let mut unanswered = Vec::new();
        for (to, covers) in self.sources.givers(&list) {
            let request = Request::Receipt { list: list.reference(), covers };
            actions.push(HandoffAction::Ask { to, request });
            unanswered.push(to);
        }
        self.phase = Phase::Receipts { list, unanswered };
        self.wait(now);
        self.finish_if_told(actions);
    }

    fn finish_if_told(&mut self, actions: &mut Vec<HandoffAction>) {
        if let Phase::Receipts { unanswered, .. } = &self.phase
            && unanswered.is_empty()
        {
            self.deadline = None;
            actions.push(HandoffAction::Finished);
        }
    }

    /// Takes up which list a member knows: its report in Survey, its consent or refusal in Adopt.
    fn listed(
        &mut self,
        from: Identity,
        listed: Listed,
        mine: &Mine<'_>,
        now: Instant,
        actions: &mut Vec<HandoffAction>,
    ) {
        match &mut self.phase {
            Phase::Survey { unanswered, reports, missing } => {
                take(unanswered, &from);
                take(missing, &from);
                reports.push((from, listed));
                self.decide(mine, now, actions);
            }
            Phase::Adopt { plan, unanswered, adopted, missing } => {
                if listed.list.is_none_or(|theirs| theirs.reference() != plan.list.reference()) {
                    return self.back_off(now);
                }
                take(unanswered, &from);
                take(missing, &from);
                adopted.push(from);
                self.finish_adopting(now, actions);
            }
            // From a giver that had to be told the list before it could take its receipt. The
            // receipt was sent behind it, and that answer counts.
            Phase::Receipts { .. } | Phase::Merge { .. } => {}
            Phase::Backoff | Phase::Copy { .. } => {
                log::debug!("{:?} reports a list and was not asked for it", from.node);
            }
        }
    }

    /// Has a chunk applied.
    fn chunk(&mut self, from: Identity, chunk: Chunk, actions: &mut Vec<HandoffAction>) {
        let at = self.phase.source_at();
        self.next = at.and_then(|at| self.sources.take_chunk(at, &from, &chunk));
        if self.next.is_none() {
            return log::debug!("{:?} sends a chunk and was not asked for it", from.node);
        }
        // Equal copies bring nothing: a handoff that only repeats itself waits longer and longer.
        if !chunk.entries.is_empty() {
            self.backoffs = 0;
        }
        actions.push(HandoffAction::Apply(chunk.entries));
    }

    /// A chunk was applied, and this many bytes of it found no room: goes on to the source's end.
    pub(crate) fn applied(
        &mut self,
        missing_bytes: usize,
        now: Instant,
        actions: &mut Vec<HandoffAction>,
    ) {
        self.missing_bytes += missing_bytes;
        match self.next.take() {
            Some(Next::Fetch(part)) => {
                actions.push(fetch(part));
                self.wait(now);
            }
            Some(Next::Complete) if self.missing_bytes > 0 => {
                self.phase = Phase::Backoff;
                actions.push(HandoffAction::NoRoom { missing_bytes: self.missing_bytes });
            }
            Some(Next::Complete) => self.leave_source(now, actions),
            None => mismatch("no chunk was applied"),
        }
    }

    /// Takes up whether a giver's last change is covered by its receipt.
    fn received(
        &mut self,
        from: Identity,
        covered: bool,
        now: Instant,
        actions: &mut Vec<HandoffAction>,
    ) {
        // While another giver is merged once more, what this one says is not lost: it gets a new
        // receipt then.
        let Phase::Receipts { list, unanswered } = &mut self.phase else { return };
        if covered {
            take(unanswered, &from);
            self.finish_if_told(actions);
        } else if let Some(at) = self.sources.position(&from) {
            // It changed once more before it stopped counting.
            let plan = Plan::only_merge(list.clone());
            self.merge_from(plan, at, now, actions);
        }
    }

    /// Takes up that a giver serves another list than its receipt names.
    fn other_list(
        &mut self,
        from: Identity,
        theirs: Option<Arc<List>>,
        actions: &mut Vec<HandoffAction>,
    ) {
        // As in `received`: otherwise it gets a new receipt.
        let Phase::Receipts { list, unanswered } = &mut self.phase else { return };
        let is_behind = theirs.is_none_or(|theirs| theirs.number() < list.number());
        if !is_behind {
            // The newer list has a handoff of its own.
            take(unanswered, &from);
            self.finish_if_told(actions);
        } else if let Some(covers) = self.sources.merged_to(&from) {
            // It has not heard of the list yet.
            let receipt = Request::Receipt { list: list.reference(), covers };
            actions.push(HandoffAction::Tell { to: from, list: list.clone() });
            actions.push(HandoffAction::Ask { to: from, request: receipt });
        }
    }

    /// Goes on after all have answered, or are not waited for any more.
    fn go_on(&mut self, mine: &Mine<'_>, now: Instant, actions: &mut Vec<HandoffAction>) {
        match &self.phase {
            Phase::Survey { .. } => self.decide(mine, now, actions),
            Phase::Copy { .. } | Phase::Merge { .. } => self.leave_source(now, actions),
            Phase::Adopt { .. } => self.finish_adopting(now, actions),
            Phase::Receipts { .. } => self.finish_if_told(actions),
            Phase::Backoff => {
                mismatch("a handoff goes on while it rests");
                self.back_off(now);
            }
        }
    }

    /// Goes on behind the source that was fetched from, or that did not answer.
    fn leave_source(&mut self, now: Instant, actions: &mut Vec<HandoffAction>) {
        match mem::replace(&mut self.phase, Phase::Backoff) {
            Phase::Copy { plan, to_tell } => self.adopt(plan, to_tell, now, actions),
            Phase::Merge { plan, at } => self.merge_from(plan, at + 1, now, actions),
            phase => {
                mismatch("a handoff leaves a source and fetches from none");
                self.phase = phase;
            }
        }
    }

    /// Returns the members whose answers the phase waits for.
    fn awaited(&self) -> Vec<Identity> {
        let source = self.phase.source_at().and_then(|at| self.sources.awaited(at));
        self.phase.unanswered().iter().copied().chain(source).collect()
    }

    /// Notes that `from` was asked and has not answered. This phase does not wait for it any more.
    fn unheard(&mut self, from: Identity) {
        self.silent.entry(from).or_insert(self.asked_at);
        self.phase.miss(&from);
        if self.phase.source_at().is_some() {
            self.sources.skip(&from);
        }
    }

    /// Whether all of these have been silent for [`SILENCE`].
    fn are_done_without<'a>(
        &self,
        mut these: impl Iterator<Item = &'a Identity>,
        now: Instant,
    ) -> bool {
        these.all(|member| self.silent.get(member).is_some_and(|since| *since + SILENCE <= now))
    }

    /// Waits for the answers to what was asked now.
    fn wait(&mut self, now: Instant) {
        self.asked_at = now;
        self.deadline = Some(now + SILENCE);
    }

    fn back_off(&mut self, now: Instant) {
        let pause = BACKOFF.saturating_mul(1 << self.backoffs.min(10)).min(MAX_BACKOFF);
        self.backoffs += 1;
        self.rest(now, pause);
    }

    fn rest(&mut self, now: Instant, pause: Duration) {
        self.phase = Phase::Backoff;
        self.deadline = Some(now + pause);
    }
}

#[cfg(test)]
mod tests;
