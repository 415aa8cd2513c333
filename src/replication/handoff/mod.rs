//! Changing a partition's list, and moving what the partition holds. One machine per partition and
//! node: it brings about the next list, or opens a list on a node that comes in, or merges what
//! other replicas hold.
//!
//! **Problem.** A quorum is counted in a list of replicas, and that list must change while writes
//! go on. No acknowledged write must be left behind in the old list, and no two lists must
//! acknowledge at the same time.
//!
//! **Lists are a chain.** List k + 1 is the value of the [`register`] of list k, which the
//! *acceptors* of list k decide: its members, and if they are fewer than 2 W − 1 some *witnesses*
//! without data. So there is one list k + 1.
//!
//! ```text
//!              a quorum of list k decides            a quorum of list k + 1 decides
//!   list k ───────────────────────────────▶ list k + 1 ─────────────────────────▶ list k + 2
//!     open ──── stays a member ───────────▶   open ─────────────────────────────────▶ open
//!     any other node that comes in ───────▶   pending ── merges open ones: it is whole ▶ open
//!     open ──── is no member of k + 1 ────▶   giver ──── has receipts ──────────────▶ outside
//! ```
//!
//! | a member of list k is | it applies writes | it answers reads and counts |
//! |---|---|---|
//! | pending | yes | no |
//! | open | yes | yes |
//! | sealed: it accepted a next list, or knows it | no | no |
//!
//! **Invariant.** Of the open members of a list, at most f = N − W lack an acknowledged write or a
//! newer one. A member that stays keeps what it has. One that comes in opens the list when its copy
//! is *whole*: it has all that was acknowledged before the list. It has merged members that knew
//! the list when they sent what they hold, and so applied nothing for an older list after that;
//! each of them had the list open, or the one before. One of f + 1 such members has each write.
//! `copy` has the other ways to be whole.
//!
//! | phase | what it does | goes on when |
//! |---|---|---|
//! | Survey | asks which list is the highest | it is known, or no one knows a higher one |
//! | Copy | as a newcomer: fetches all from one member while the old list counts | it is all here |
//! | Prepare | asks the acceptors for promises | a majority has promised |
//! | Accept | has them accept the next list | a quorum has accepted: it is decided |
//! | Merge | fetches what it missed from each member | all are merged |
//! | Receipts | tells each giver that its last change is here | all have confirmed |
//! | Backoff | waits after a failure, then begins again | the pause is over |
//!
//! A newcomer drives its own coming in. If there is none, the first replica that should be there
//! drives, and the others do if it does not. Any node may propose, as the register needs no leader.
//!
//! **Silent members** hold up no one: a majority decides, and f + 1 members are enough to open. A
//! member that stays merges the others in the background, which makes it whole, too, and closes the
//! gaps that a dead coordinator left. When all members are whole, W − 1 of them may die.
//!
//! **Never whole** is a member that has no room for what it should merge, or reaches no source. It
//! votes like any other. The next list waits for it, and then goes on with those that are whole
//! (`propose` has the times). One that never had its list open is *idle* in the next one: it
//! acknowledged nothing, which it can tell, so it stands for its part of each write quorum.
//!
//! **Left behind.** A node whose list has no member that answers does not hear from these that the
//! list was replaced. So it surveys those that should be in the list, and makes no list of that.
//!
//! **Without a quorum.** If too many acceptors are dead, a driver makes a *fork*: a next list that
//! no quorum decided (`placement/list` says how forks are ordered). If too many open members are
//! dead, a newcomer opens its list without them. Either puts acknowledged writes at risk, which is
//! told. With [`OnPartition::Majority`](crate::OnPartition) neither happens: the partition waits.
//! A node that learns of a list of another branch becomes pending there, or a giver, and the others
//! merge what it alone holds.
//!
//! **No room.** If something of a source finds no room here and nothing may be evicted, the handoff
//! ends: in Copy without a new list, later without a receipt. It begins again when there is room.
//!
//! **Rejected.** *A consensus group for the placement:* a few voters would stand in the way of
//! every change, and nodes without disks would have to replace these voters by the same kind of
//! change. *Closing a list to all until each member holds the same:* reads would pause at each
//! change.
//!
//! `simulate/models` searches this rule for faults. [`propose`] brings about a list, [`open`]
//! copies and merges, [`copy`] keeps how far each source is merged, [`phase`] what each phase waits
//! for, [`action`] what the shard is asked to do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::mismatch::mismatch;
use crate::clock::Instant;
use crate::logging;
use crate::placement::{Ballot, List, ListRef, Placement, Wish};
use crate::quorums::Quorums;
use crate::types::Identity;
use crate::wire::message::{Answer, Extent};

mod action;
mod copy;
mod open;
mod phase;
mod propose;
mod register;

pub(crate) use action::HandoffAction;
use copy::{Next, Sources};
pub(crate) use copy::{ToMerge, are_whole};
use phase::Phase;
pub(crate) use register::{Register, can_be_replaced};

/// The pause before starting again. It doubles each time up to [`MAX_BACKOFF`], and is short again
/// after progress, and when the members change.
const BACKOFF: Duration = Duration::from_millis(50);

/// The longest pause: how long a partition might wait for no reason when what held it up is over.
const MAX_BACKOFF: Duration = Duration::from_millis(3200);

/// How often at most the pause has doubled that follows a refused ballot. Longer pauses would let a
/// proposer that reaches no quorum keep out one that does, by ballots that are always higher.
const REFUSED_BACKOFFS: u32 = 2;

/// How long a member that is not dead is waited for. Usually longer than a death stays unnoticed.
const SILENCE: Duration = Duration::from_secs(1);

/// How long members are waited for that this node does not reach. Each of a thousand partitions
/// would wait for [`SILENCE`] otherwise, some at a time, and the repair of all take a minute.
const UNREACHED: Duration = Duration::from_millis(20);

/// How long members that are taken for dead are waited for when it takes them to decide or to open
/// a list: most false deaths are taken back by then. Not if 2 W ≤ N: then each death would stop its
/// lists for that long, though one replica of many acknowledges. Members that are not whole are
/// waited for as long: merging takes some round trips.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long members that are silent and not taken for dead are waited for in the same cases, and
/// members that are not whole if too few others are: these might merge much.
const LONG_PATIENCE: Duration = Duration::from_secs(10);

/// What a handoff goes by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) me: Identity,
    pub(crate) quorums: Quorums,
    /// Whether the living go on where it takes the dead to decide or to open a list.
    pub(crate) serves: bool,
}

/// What this node itself knows.
pub(crate) struct Mine<'a> {
    /// The highest list that it knows.
    pub(crate) list: Option<Arc<List>>,
    /// Whether it has that list open.
    pub(crate) is_open: bool,
    /// What it has of what was acknowledged before that list.
    pub(crate) extent: Extent,
    /// Whether it has accepted the next list a while ago, and does not know that it was decided.
    pub(crate) must_finish: bool,
    pub(crate) placement: &'a Placement,
}

/// Brings one partition to this node: changes its list, or only merges what other replicas hold.
pub(crate) struct Handoff {
    terms: Terms,
    goal: Goal,
    phase: Phase,
    /// The highest ballot that was seen in the register.
    seen: Ballot,
    /// The replicas to merge, in order.
    sources: Sources,
    /// What follows from the chunk that is being applied.
    next: Option<Next>,
    /// How many bytes of the source that is fetched from found no room.
    missing_bytes: usize,
    /// Whether this node had the list open when it began to merge.
    is_open: bool,
    /// Whether its copy is whole in the list into which it merges.
    is_whole: bool,
    /// The list into which it merges to open it.
    opening: Option<ListRef>,
    /// The sources that had to be told the list first.
    told: Vec<Identity>,
    /// The members that did not answer, and since when.
    silent: BTreeMap<Identity, Instant>,
    asked_at: Instant,
    /// Since when it gets no further because members are dead or silent.
    blocked_since: Option<Instant>,
    /// Since when a vote waits for members that are not whole, though the others are enough, and
    /// how many were whole all that time.
    unwhole: Option<(Instant, usize)>,
    fruitless_surveys: u32,
    /// How often it has backed off without progress.
    backoffs: u32,
    /// Another node drives until then, or the wish has yet to stand.
    not_before: Instant,
    /// When to start again, or to go on without the members that have not answered.
    deadline: Option<Instant>,
}

/// What a handoff is for.
#[derive(Debug)]
enum Goal {
    /// A list of these members, and this node open in it if it is one of them.
    Change(Wish),
    /// This node, which has the list open, is to hold what the sources hold.
    Merge(Arc<List>),
}

impl Handoff {
    /// Begins to bring about a list as wished, after a `delay`: another node may do it before, or
    /// the wish may change.
    pub(crate) fn change(
        terms: Terms,
        (wish, delay): (Wish, Duration),
        mine: &Mine<'_>,
        now: Instant,
        actions: &mut Vec<HandoffAction>,
    ) -> Self {
        let mut handoff = Self::resting(terms, Goal::Change(wish));
        handoff.not_before = now + delay;
        if delay.is_zero() {
            handoff.begin(mine, now, actions);
        } else {
            handoff.rest(now, delay);
        }
        handoff
    }

    /// Begins to merge what these replicas hold into a list that this node has open.
    pub(crate) fn merge(
        terms: Terms,
        list: Arc<List>,
        sources: ToMerge,
        mine: &Mine<'_>,
        now: Instant,
        actions: &mut Vec<HandoffAction>,
    ) -> Self {
        let mut handoff = Self::resting(terms, Goal::Merge(list.clone()));
        handoff.is_open = true;
        handoff.is_whole = mine.extent == Extent::Whole;
        handoff.sources.add_all(sources);
        handoff.merge_from(list, 0, mine, now, actions);
        handoff
    }

    /// Ends a pause of a merge, to merge what these replicas hold, too.
    pub(crate) fn merge_also(
        &mut self,
        sources: ToMerge,
        mine: &Mine<'_>,
        now: Instant,
        actions: &mut Vec<HandoffAction>,
    ) {
        self.sources.add_all(sources);
        self.begin(mine, now, actions);
    }

    fn resting(terms: Terms, goal: Goal) -> Self {
        Self {
            goal,
            phase: Phase::Backoff,
            seen: Ballot::default(),
            sources: Sources::new(terms.me),
            terms,
            next: None,
            missing_bytes: 0,
            is_open: false,
            is_whole: false,
            opening: None,
            told: Vec::new(),
            silent: BTreeMap::new(),
            asked_at: Instant::default(),
            blocked_since: None,
            unwhole: None,
            fruitless_surveys: 0,
            backoffs: 0,
            not_before: Instant::default(),
            deadline: None,
        }
    }

    /// Begins what is to be done first, or begins again.
    fn begin(&mut self, mine: &Mine<'_>, now: Instant, actions: &mut Vec<HandoffAction>) {
        self.missing_bytes = 0;
        self.told.clear();
        let wish = match &self.goal {
            Goal::Merge(list) => {
                let list = list.clone();
                self.sources.retain(|source| mine.placement.is_alive(source));
                return self.merge_from(list, 0, mine, now, actions);
            }
            Goal::Change(wish) => wish,
        };
        let Some(list) = mine.list.clone() else {
            return self.survey(false, mine, now, actions);
        };
        if mine.must_finish {
            self.prepare(list, mine, now, actions);
        } else if list.contains(&self.terms.me) && !mine.is_open {
            self.open(list, mine, now, actions);
        } else if list.is(wish) {
            self.finish(actions);
        } else if mine.is_open {
            self.prepare(list, mine, now, actions);
        } else {
            self.copy(list, mine, now, actions);
        }
    }

    /// Returns who should be in the list that it brings about; `None` if it only merges.
    pub(crate) fn wish(&self) -> Option<&Wish> {
        match &self.goal {
            Goal::Change(wish) => Some(wish),
            Goal::Merge(_) => None,
        }
    }

    /// Returns the replicas that are not merged yet, or have not confirmed their receipt.
    pub(crate) fn open_sources(&self) -> Vec<Identity> {
        match &self.phase {
            Phase::Receipts { unanswered, .. } => unanswered.clone(),
            _ => self.sources.open(),
        }
    }

    /// Whether everything of `replica` is merged.
    pub(crate) fn has_merged(&self, replica: &Identity) -> bool {
        self.sources.has_merged(replica)
    }

    /// Returns every replica that is merged, or was.
    pub(crate) fn sources(&self) -> Vec<Identity> {
        self.sources.replicas()
    }

    /// Whether an answer of any of these is waited for.
    pub(crate) fn involves(&self, gone: impl Fn(&Identity) -> bool) -> bool {
        let merges = matches!(self.phase, Phase::Copy { .. } | Phase::Merge { .. });
        self.phase.unanswered().iter().any(&gone)
            || (merges || self.is_open) && self.open_sources().iter().any(&gone)
    }

    /// Whether acceptors are sealed for its sake: it should come to an end.
    pub(crate) fn is_deciding(&self) -> bool {
        matches!(self.phase, Phase::Accept(_))
    }

    /// Whether it waits to start again. No answer to what it asked before matters any more.
    pub(crate) fn is_resting(&self) -> bool {
        matches!(self.phase, Phase::Backoff)
    }

    /// Ends a pause: the members have changed. The one behind a survey that goes on is short.
    pub(crate) fn wake(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Survey { .. }) {
            self.backoffs = 0;
        }
        if self.is_resting() {
            (self.backoffs, self.deadline) = (0, Some(now.max(self.not_before)));
        }
    }

    /// Ends a pause: it begins after `delay` at the latest.
    pub(crate) fn wake_by(&mut self, now: Instant, delay: Duration) {
        self.not_before = self.not_before.min(now + delay);
        self.wake(now);
    }

    /// Ends a pause, though another node may drive: acceptors are sealed.
    pub(crate) fn wake_now(&mut self, now: Instant) {
        self.not_before = now;
        self.wake(now);
    }

    /// Adds a giver that asks to be merged. Otherwise it asks again when this handoff is over.
    pub(crate) fn also_from(&mut self, source: Identity) {
        if matches!(self.phase, Phase::Merge { .. }) {
            self.sources.add(source);
        }
    }

    /// Returns when [`handle_timers`](Self::handle_timers) wants to be called.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Starts again if a pause is over, or goes on without the members that have not answered in
    /// time.
    pub(crate) fn handle_timers(
        &mut self,
        mine: &Mine<'_>,
        now: Instant,
        actions: &mut Vec<HandoffAction>,
    ) {
        if self.deadline.is_none_or(|at| at > now) {
            return;
        }
        self.deadline = None;
        if self.is_resting() {
            return self.begin(mine, now, actions);
        }
        self.awaited().into_iter().for_each(|silent| self.unheard(silent));
        match &self.phase {
            Phase::Survey { .. } => self.conclude(mine, now, actions),
            Phase::Copy { .. } | Phase::Merge { .. } => self.leave_source(mine, now, actions),
            Phase::Prepare(_) | Phase::Accept(_) => self.not_decided(mine, now, actions),
            Phase::Receipts { .. } => self.finish_if_told(actions),
            Phase::Backoff => {}
        }
    }

    /// Waits less long if all members whose answers it waits for are out of this node's reach, each
    /// since the time that `unreached_since` returns.
    pub(crate) fn hurry(&mut self, unreached_since: impl Fn(&Identity) -> Option<Instant>) {
        let awaited = self.awaited();
        let unreached: Option<Vec<_>> =
            awaited.iter().map(|member| Some((*member, unreached_since(member)?))).collect();
        let Some(unreached) = unreached.filter(|unreached| !unreached.is_empty()) else { return };
        for (member, since) in unreached {
            self.silent.entry(member).or_insert(since);
        }
        let until = self.asked_at + UNREACHED;
        self.deadline = self.deadline.map(|deadline| deadline.min(until));
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
    /// node. It is not counted, and its sender counts as silent when [`SILENCE`] is over. A list in
    /// the answer that is above the known one is learned behind this, which ends this handoff.
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
            Answer::Listed(listed) => self.listed(from, &listed, mine, now, actions),
            Answer::Promised { accepted, extent } => {
                self.promised(from, (accepted, extent), mine, now, actions);
            }
            Answer::Accepted => self.accepted(from, mine, actions),
            Answer::Refused { promised } => self.refused(from, promised, mine, now),
            Answer::Chunk(chunk) => self.chunk(from, chunk, actions),
            Answer::Received { covered } => self.received(from, covered, mine, now, actions),
            Answer::OtherList { list, .. } => self.other_list(from, list, now, actions),
            // A node of another data center, which keeps none of this data center's lists.
            Answer::Declined => {
                logging::debug!("{:?} declines to take part in a handoff", from.node)
            }
            _ => logging::debug!("{:?} answers a handoff with something else", from.node),
        }
    }

    /// The list that it wanted to be [learned](HandoffAction::Learn) is, or a higher one.
    pub(crate) fn learned(
        &mut self,
        list: &List,
        mine: &Mine<'_>,
        now: Instant,
        actions: &mut Vec<HandoffAction>,
    ) {
        match mine.list.clone().filter(|known| known.reference() == list.reference()) {
            Some(list) if list.contains(&self.terms.me) && !mine.is_open => {
                self.open(list, mine, now, actions);
            }
            _ => self.finish(actions),
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

    /// Returns how long the dead are waited for.
    fn patience(&self) -> Duration {
        if self.terms.quorums.writes_overlap() { PATIENCE } else { Duration::ZERO }
    }

    /// Notes that dead or silent members hold it up, and returns for how long they have.
    fn blocked_for(&mut self, now: Instant) -> Duration {
        now.since(*self.blocked_since.get_or_insert(now))
    }

    fn finish(&mut self, actions: &mut Vec<HandoffAction>) {
        self.deadline = None;
        actions.push(HandoffAction::Finished);
    }

    /// Waits for the answers to what was asked now.
    fn wait(&mut self, now: Instant) {
        self.asked_at = now;
        self.deadline = Some(now + SILENCE);
    }

    /// Rests for longer and longer. Drivers that stand in each other's way rest for different
    /// times.
    fn back_off(&mut self, now: Instant) {
        let pause = BACKOFF.saturating_mul(1 << self.backoffs.min(10)).min(MAX_BACKOFF);
        self.backoffs += 1;
        let mixed =
            (self.terms.me.node.0 ^ u64::from(self.backoffs)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.rest(now, pause + pause.mul_f64((mixed >> 56) as f64 / 256.0));
    }

    fn rest(&mut self, now: Instant, pause: Duration) {
        self.phase = Phase::Backoff;
        self.deadline = Some(now + pause);
    }
}

#[cfg(test)]
mod tests;
