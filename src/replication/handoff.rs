//! Moving a partition to its new replicas: one machine per partition and node, driven by the node that
//! should hold the partition and does not yet.
//!
//! ```text
//! Survey   ask every member which list counts and who holds what
//! Copy     fetch everything from one source; the old list goes on counting
//! Adopt    make the new list, one number higher, known to old and new replicas: from then on a replica
//!          counts for the new list only, so no quorum can form in the old one any more
//! Merge    fetch from every living replica of the old list what was missed: now every write that the old
//!          list acknowledged is here, and this replica is synced
//! Receipts tell the replicas that are no longer in the list that their last change is held here
//! ```
//!
//! Two newcomers that saw the same old list make the same new one (its number and members determine its
//! id), so they need not agree on who drives. Where they saw different members, two lists may be made under
//! one number: the first that reaches a replica stays there, whoever made the other is turned down, surveys
//! again, and goes one number higher. A driver adopts its own list last, so that it never serves one that was
//! turned down. Where a death leaves nobody to come in, the first replica
//! of the shorter list drives. A replica that stays in the list stays synced, and runs Merge and Receipts
//! too: it closes the gaps that a dead coordinator left, and lets a leaving node go.
//!
//! Any failure on the way starts again with a survey, after a pause. What was merged stays merged, and
//! equal digests skip what is there, so starting again is cheap.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Instant;
use crate::entry::Entry;
use crate::placement::{List, Placement};
use crate::types::{Identity, KeyHash};
use crate::wire::message::{Answer, Chunk, Listed, Request};

/// The pause before starting again.
const BACKOFF: Duration = Duration::from_millis(50);

/// How often in a row a list may have members that this node has never heard of, before they are taken
/// for dead. Such a list was made by a node that knows more; its members are heard of soon.
const UNKNOWN_FOR_SURVEYS: u32 = 100;

/// How often in a row nobody may know a list before the partition counts as lost. The first lists of a
/// cluster reach the cores of its nodes at slightly different times.
const LOST_AFTER_SURVEYS: u32 = 20;

pub(crate) struct Handoff {
    me: Identity,
    /// The members that the new list should have. Empty where only a merge is to be done.
    target: Vec<Identity>,
    /// The list that was adopted already, where only a merge is to be done.
    merging: Option<Arc<List>>,
    phase: Phase,
    /// Whom to merge from, in order.
    sources: Vec<Source>,
    fruitless_surveys: u32,
    surveys_with_unknown: u32,
    wake: Option<Instant>,
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
    /// Up to where of its sequence its entries are here.
    merged_to: u64,
    /// The sequence that the fetch under way will have covered.
    covers: Option<u64>,
}

#[derive(Debug)]
enum Phase {
    Backoff,
    Survey { unanswered: Vec<Identity>, reports: Vec<(Identity, Listed)> },
    Copy { list: Arc<List>, tell: Vec<Identity> },
    Adopt { list: Arc<List>, unanswered: Vec<Identity> },
    Merge { list: Arc<List>, at: usize },
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
    /// No replica of the last list lives and nobody holds anything: what the partition held is gone.
    Lost,
    Finished,
}

impl Handoff {
    /// Brings about a list of these members, this node among them.
    pub(crate) fn change(
        me: Identity,
        target: Vec<Identity>,
        others: Vec<Identity>,
        mine: &Mine<'_>,
        now: Instant,
        actions: &mut Vec<HandoffAction>,
    ) -> Self {
        let mut handoff = Self::idle(me, target);
        handoff.survey(others, actions);
        handoff.decide(mine, now, actions);
        handoff
    }

    /// Merges what these replicas hold, the list being adopted already.
    pub(crate) fn merge(
        me: Identity,
        list: Arc<List>,
        sources: Vec<Identity>,
        actions: &mut Vec<HandoffAction>,
    ) -> Self {
        let mut handoff = Self::idle(me, Vec::new());
        handoff.merging = Some(list.clone());
        sources.into_iter().for_each(|source| handoff.add_source(source));
        handoff.merge_from(list, 0, actions);
        handoff
    }

    fn idle(me: Identity, target: Vec<Identity>) -> Self {
        Self {
            me,
            target,
            merging: None,
            phase: Phase::Backoff,
            sources: Vec::new(),
            fruitless_surveys: 0,
            surveys_with_unknown: 0,
            wake: None,
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
            Phase::Merge { at, .. } => self.sources[*at..].iter().map(|source| source.replica).collect(),
            _ => self.sources.iter().map(|source| source.replica).collect(),
        }
    }

    /// Whether the answer of any of these is being waited for, now or later.
    pub(crate) fn involves(&self, gone: impl Fn(&Identity) -> bool) -> bool {
        let waits_for = match &self.phase {
            Phase::Backoff => false,
            Phase::Survey { unanswered, .. }
            | Phase::Adopt { unanswered, .. }
            | Phase::Receipts { unanswered, .. } => unanswered.iter().any(&gone),
            Phase::Copy { tell, .. } => tell.iter().any(&gone),
            Phase::Merge { .. } => false,
        };
        waits_for || self.open_sources().iter().any(gone)
    }

    /// A giver asks to be merged (again).
    pub(crate) fn also_from(&mut self, source: Identity) {
        if matches!(self.phase, Phase::Copy { .. } | Phase::Adopt { .. } | Phase::Merge { .. }) {
            self.add_source(source);
        }
    }

    fn add_source(&mut self, replica: Identity) {
        if replica != self.me && self.sources.iter().all(|source| source.replica != replica) {
            self.sources.push(Source { replica, merged_to: 0, covers: None });
        }
    }

    fn survey(&mut self, others: Vec<Identity>, actions: &mut Vec<HandoffAction>) {
        self.wake = None;
        self.sources.clear();
        for &to in &others {
            actions.push(HandoffAction::Ask { to, request: Request::AskList });
        }
        self.phase = Phase::Survey { unanswered: others, reports: Vec::new() };
    }

    fn back_off(&mut self, now: Instant) {
        self.phase = Phase::Backoff;
        self.wake = Some(now + BACKOFF);
    }

    pub(crate) fn wake(&self) -> Option<Instant> {
        self.wake
    }

    /// The pause is over. `others` is every member that is not dead but this node; `mine` what this node
    /// itself knows.
    pub(crate) fn resume(
        &mut self,
        others: Vec<Identity>,
        mine: &Mine<'_>,
        now: Instant,
        actions: &mut Vec<HandoffAction>,
    ) {
        if self.wake.is_none_or(|at| at > now) {
            return;
        }
        if let Some(list) = self.merging.clone() {
            self.wake = None;
            self.sources.retain(|source| others.contains(&source.replica));
            self.merge_from(list, 0, actions);
        } else {
            self.survey(others, actions);
            self.decide(mine, now, actions);
        }
    }

    /// The connection to `from` failed: starts again, unless it was not being waited for.
    pub(crate) fn lost(&mut self, from: Identity, now: Instant) {
        if self.involves(|replica| *replica == from) {
            self.back_off(now);
        }
    }

    /// After the survey's first call, and after every answer: whether all have answered. `mine` is what
    /// this node itself knows.
    fn decide(&mut self, mine: &Mine<'_>, now: Instant, actions: &mut Vec<HandoffAction>) {
        let Phase::Survey { unanswered, reports } = &mut self.phase else { return };
        if !unanswered.is_empty() {
            return;
        }
        let reports = std::mem::take(reports);
        let listed = reports.iter().map(|(_, listed)| listed).chain([&mine.listed]);
        let lists = listed.filter_map(|listed| listed.list.clone());
        let Some(old) = lists.max_by_key(|list| list.reference()) else {
            return self.nobody_knows(mine, now, actions);
        };
        let alive = |replica: &&Identity| reports.iter().any(|(from, _)| from == *replica);
        let is_unknown =
            |member: &Identity| !alive(&member) && *member != self.me && !mine.placement.is_dead(member);
        if old.members().iter().any(is_unknown) && self.surveys_with_unknown < UNKNOWN_FOR_SURVEYS {
            self.surveys_with_unknown += u32::from(mine.placement.is_complete());
            return self.back_off(now);
        }
        self.surveys_with_unknown = 0;
        let someone_holds = reports.iter().any(|(_, listed)| listed.holds) || mine.listed.holds;
        let a_member_lives = old.members().iter().any(|member| alive(&member) || *member == self.me);
        if !someone_holds && !a_member_lives {
            actions.push(HandoffAction::Lost);
        }
        // Two lists of one number were made by nodes that did not know of each other.
        let is_disputed = |listed: &Listed| {
            listed.list.as_ref().is_some_and(|list| list.number() == old.number() && *list != old)
        };
        let is_disputed = reports.iter().any(|(_, listed)| is_disputed(listed)) || is_disputed(&mine.listed);
        let list = if old.has_members(&self.target) && !is_disputed {
            old.clone()
        } else {
            List::new(old.number() + 1, self.target.iter().copied())
        };
        // Best source first: the copy comes from it.
        for (from, _) in reports.iter().filter(|(_, listed)| listed.synced) {
            self.add_source(*from);
        }
        for (from, _) in reports.iter().filter(|(_, listed)| listed.holds) {
            self.add_source(*from);
        }
        old.members().iter().filter(alive).for_each(|replica| self.add_source(*replica));
        let mut tell: Vec<Identity> = self.sources.iter().map(|source| source.replica).collect();
        let believers = reports
            .iter()
            .filter(|(from, listed)| listed.list.as_ref().is_some_and(|list| list.contains(from)));
        let believers = believers.map(|(from, _)| from);
        for member in list.members().iter().filter(alive).chain(believers) {
            if !tell.contains(member) {
                tell.push(*member);
            }
        }
        match self.sources.first() {
            Some(source) if !mine.listed.synced => {
                actions.push(HandoffAction::Fetch { to: source.replica, after: None, since: 0 });
                self.phase = Phase::Copy { list, tell };
            }
            _ => self.adopt(list, tell, actions),
        }
    }

    fn nobody_knows(&mut self, mine: &Mine<'_>, now: Instant, actions: &mut Vec<HandoffAction>) {
        // A member that could not be asked yet may know.
        self.fruitless_surveys += u32::from(mine.placement.is_complete());
        if self.fruitless_surveys < LOST_AFTER_SURVEYS {
            return self.back_off(now);
        }
        actions.push(HandoffAction::Lost);
        let list = List::new(1, self.target.iter().copied());
        let tell = self.target.iter().copied().filter(|member| *member != self.me).collect();
        self.adopt(list, tell, actions);
    }

    fn adopt(&mut self, list: Arc<List>, tell: Vec<Identity>, actions: &mut Vec<HandoffAction>) {
        for &to in &tell {
            actions.push(HandoffAction::Ask { to, request: Request::Adopt { list: list.clone() } });
        }
        if tell.is_empty() {
            actions.push(HandoffAction::Adopt(list.clone()));
            self.merge_from(list, 0, actions);
        } else {
            self.phase = Phase::Adopt { list, unanswered: tell };
        }
    }

    fn merge_from(&mut self, list: Arc<List>, at: usize, actions: &mut Vec<HandoffAction>) {
        if let Some(source) = self.sources.get(at) {
            let (to, since) = (source.replica, source.merged_to);
            actions.push(HandoffAction::Fetch { to, after: None, since });
            self.phase = Phase::Merge { list, at };
            return;
        }
        actions.push(HandoffAction::Synced(list.clone()));
        let givers = self.sources.iter().filter(|source| !list.contains(&source.replica));
        let mut unanswered = Vec::new();
        for giver in givers {
            let request = Request::Receipt { list: list.reference(), covers: giver.merged_to };
            actions.push(HandoffAction::Ask { to: giver.replica, request });
            unanswered.push(giver.replica);
        }
        self.phase = Phase::Receipts { list, unanswered };
        self.finish_if_told(actions);
    }

    fn finish_if_told(&self, actions: &mut Vec<HandoffAction>) {
        if let Phase::Receipts { unanswered, .. } = &self.phase
            && unanswered.is_empty()
        {
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
        match (&mut self.phase, answer) {
            (Phase::Survey { unanswered, reports }, Answer::Listed(listed)) => {
                take(unanswered, &from);
                reports.push((from, listed));
                self.decide(mine, now, actions);
            }
            (Phase::Adopt { list, unanswered }, Answer::Listed(listed)) => {
                let adopted = listed.list.as_ref().map(|list| list.reference());
                if adopted != Some(list.reference()) {
                    self.back_off(now);
                } else if take(unanswered, &from) && unanswered.is_empty() {
                    // This node last: it must not serve a list that others turn down.
                    let list = list.clone();
                    actions.push(HandoffAction::Adopt(list.clone()));
                    self.merge_from(list, 0, actions);
                }
            }
            (Phase::Copy { .. } | Phase::Merge { .. }, Answer::Chunk(chunk)) => {
                self.chunk(from, chunk, actions);
            }
            (Phase::Receipts { list, unanswered }, Answer::Received { covered }) => {
                let list = list.clone();
                if covered {
                    take(unanswered, &from);
                    self.finish_if_told(actions);
                } else if let Some(at) = self.sources.iter().position(|source| source.replica == from) {
                    // It changed once more before it stopped counting.
                    self.merge_from(list, at, actions);
                }
            }
            (Phase::Receipts { list, unanswered }, Answer::OtherList { list: theirs }) => {
                let ours = list.reference();
                let is_behind = theirs.is_none_or(|theirs| theirs.number() < list.number());
                if !is_behind {
                    // Which has a handoff of its own.
                    take(unanswered, &from);
                    self.finish_if_told(actions);
                } else if let Some(giver) = self.sources.iter().find(|source| source.replica == from) {
                    // It has not heard of the list yet.
                    let receipt = Request::Receipt { list: ours, covers: giver.merged_to };
                    actions.push(HandoffAction::Ask {
                        to: from,
                        request: Request::Adopt { list: list.clone() },
                    });
                    actions.push(HandoffAction::Ask { to: from, request: receipt });
                }
            }
            _ => {}
        }
    }

    fn chunk(&mut self, from: Identity, chunk: Chunk, actions: &mut Vec<HandoffAction>) {
        let at = match &self.phase {
            Phase::Merge { at, .. } => *at,
            _ => 0,
        };
        let Some(source) = self.sources.get_mut(at).filter(|source| source.replica == from) else { return };
        let since = source.merged_to;
        // What changes while the chunks come is behind the first one's sequence, so it is fetched again.
        let covers = *source.covers.get_or_insert(chunk.sequence);
        actions.push(HandoffAction::Apply(chunk.entries));
        if chunk.next.is_some() {
            actions.push(HandoffAction::Fetch { to: from, after: chunk.next, since });
            return;
        }
        source.merged_to = covers;
        source.covers = None;
        match std::mem::replace(&mut self.phase, Phase::Backoff) {
            Phase::Copy { list, tell } => self.adopt(list, tell, actions),
            Phase::Merge { list, at } => self.merge_from(list, at + 1, actions),
            other => self.phase = other,
        }
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
    use crate::placement::Gone;
    use crate::replication::tests::{list, node};

    const NOW: Instant = Instant::from_nanos(1);

    fn listed(list: Option<Arc<List>>, synced: bool) -> Answer {
        Answer::Listed(Listed { list, synced, holds: synced })
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
            let handoff = Handoff::change(node(3), target, others, &mine, NOW, &mut actions);
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
        Listed { list: None, synced: false, holds: false }
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
        assert_eq!(newcomer.answer(2, listed(Some(old), true)), [copy]);

        let new = list(5, 1..4);
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
        let behind = Answer::OtherList { list: Some(list(4, 0..3)) };
        assert_eq!(
            newcomer.answer(0, behind),
            [
                HandoffAction::Ask { to: node(0), request: Request::Adopt { list: new } },
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
        let other = List::new(5, [node(1), node(2), node(9)]);
        assert_eq!(newcomer.answer(1, listed(Some(other.clone()), true)), [], "nothing is adopted here");
        assert_eq!(newcomer.handoff.wake(), Some(NOW + BACKOFF));

        let mut newcomer = Newcomer::surveying(&[1, 2, 9]);
        newcomer.answer(1, listed(Some(other), true));
        newcomer.answer(2, listed(Some(list(5, 1..4)), false));
        newcomer.answer(9, listed(Some(list(4, 0..3)), false));
        newcomer.answer(1, chunk(1));
        let adopts_higher = |action: &HandoffAction| matches!(action, HandoffAction::Ask { request: Request::Adopt { list }, .. } if list.number() == 6);
        assert!(newcomer.actions[1..].iter().all(adopts_higher), "{:?}", newcomer.actions);
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
        assert_eq!(newcomer.handoff.wake(), Some(NOW + BACKOFF), "it surveys again when it knows more");
    }
}
