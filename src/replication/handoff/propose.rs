//! Bringing about the next list: Survey, Prepare, Accept, and a fork if there is no quorum.
//!
//! **Who is asked.** All acceptors that are not dead. Those that know an older list are told first.
//! A proposer that is an acceptor accepts last, when that decides: if the others turn out not to be
//! reached, this node goes on in the old list.
//!
//! **A fork** needs that the members which answered could acknowledge a write with this node, that
//! none of them knows a higher list, and that all see the same members, or that this was waited for
//! in vain. So a node that is cut off makes none, and one that has yet to hear of others hardly
//! makes one.
//!
//! **Early** is a list that is proposed while a living member of the one before is not whole. That
//! member might become a source still, and two quick changes could leave a list that has none. But
//! it might never be whole: it has no room, or reaches no source. So it is waited for, and not for
//! ever:
//!
//! | the members that promise | under `Serve` | under `Majority` |
//! |---|---|---|
//! | are whole | at once | at once |
//! | can make others whole, and W of the members are whole or dead | 2 s | 2 s |
//! | can make others whole | 2 s | 10 s |
//! | cannot | 2 s, then with `DataAtRisk` | they are waited for |
//!
//! They can make others whole if what they have is enough for that in the next list
//! ([`copy`](super::copy)): one of them is whole, and no write is acknowledged without one of them.

use std::sync::Arc;
use std::time::Duration;

use super::phase::{Phase, Vote, take};
use super::register::{Quorum, can_be_replaced, over};
use super::{BACKOFF, Handoff, HandoffAction, LONG_PATIENCE, Mine, PATIENCE, REFUSED_BACKOFFS};
use crate::clock::Instant;
use crate::mutants::{ProtocolMutant, rule};
use crate::placement::{Ballot, List, Placement, Wish};
use crate::types::Identity;
use crate::wire::message::{Extent, Listed, Request};

/// After how many surveys in a row without any list the partition counts as lost. The first lists
/// of a cluster reach the cores of its nodes at slightly different times.
const LOST_AFTER_SURVEYS: u32 = 20;

/// How long a proposal waits for members to become whole before it is tried again. Merging takes
/// some round trips, and a node that dies early may have left thousands of partitions like that.
const EARLY: Duration = Duration::from_millis(100);

/// How long the promises of all living acceptors are waited for when enough have promised: what
/// they say of themselves counts for whether it is too early.
pub(super) const ALL_SPEAK: Duration = Duration::from_millis(100);

/// How much longer than the one before it each driver waits before it makes a fork.
const FORK_STEP: Duration = Duration::from_millis(300);

impl Handoff {
    fn wished(&self) -> Wish {
        self.wish().cloned().unwrap_or_default()
    }

    /// Asks which list is the highest: the nodes that should be in it, or all.
    pub(super) fn survey(
        &mut self,
        is_wide: bool,
        mine: &Mine<'_>,
        now: Instant,
        actions: &mut Vec<HandoffAction>,
    ) {
        let mut unanswered = match is_wide {
            true => mine.placement.members().iter().map(|member| member.identity).collect(),
            false => self.wished().members,
        };
        unanswered.retain(|member| *member != self.terms.me);
        for &to in &unanswered {
            actions.push(HandoffAction::Ask { to, request: Request::AskList });
        }
        let (missing, answered) = (Vec::new(), Vec::new());
        self.phase = Phase::Survey { unanswered, missing, answered, is_wide };
        self.wait(now);
        self.conclude_if_over(mine, now, actions);
    }

    /// This node gets no further with the members of the list that it knows. It asks those that
    /// should be in the list whether there is a later one: a newcomer is told by the node that
    /// decided its list, and that one might not reach it.
    pub(super) fn look_further(
        &mut self,
        mine: &Mine<'_>,
        now: Instant,
        actions: &mut Vec<HandoffAction>,
    ) {
        if rule(ProtocolMutant::OldMembersOnly, true) {
            self.survey(false, mine, now, actions);
        } else {
            self.back_off(now);
        }
    }

    /// Takes up which list a member knows.
    pub(super) fn listed(
        &mut self,
        from: Identity,
        listed: &Listed,
        mine: &Mine<'_>,
        now: Instant,
        actions: &mut Vec<HandoffAction>,
    ) {
        // Otherwise it was told a list, and what was sent behind that is answered, too.
        let Phase::Survey { unanswered, missing, answered, .. } = &mut self.phase else { return };
        take(unanswered, &from);
        take(missing, &from);
        answered.push((from, listed.members_digest == mine.placement.digest()));
        let is_above = |theirs: &Arc<List>| mine.list.as_ref().is_none_or(|it| theirs.is_above(it));
        if listed.list.as_ref().is_some_and(is_above) {
            // It is learned now.
            return self.rest(now, BACKOFF);
        }
        self.conclude_if_over(mine, now, actions);
    }

    fn conclude_if_over(
        &mut self,
        mine: &Mine<'_>,
        now: Instant,
        actions: &mut Vec<HandoffAction>,
    ) {
        if let Phase::Survey { unanswered, .. } = &self.phase
            && unanswered.is_empty()
        {
            self.conclude(mine, now, actions);
        }
    }

    /// No member that answered knows a higher list: makes a fork if all were asked and it may, or
    /// the first list.
    pub(super) fn conclude(
        &mut self,
        mine: &Mine<'_>,
        now: Instant,
        actions: &mut Vec<HandoffAction>,
    ) {
        let Phase::Survey { missing, answered, is_wide, .. } = &self.phase else { return };
        if !is_wide {
            return match mine.list {
                None => self.survey(true, mine, now, actions),
                Some(_) => self.back_off(now),
            };
        }
        let wish = self.wished();
        let has_answered = |member: &&Identity| answered.iter().any(|(from, _)| from == *member);
        let is_here = |member: &&Identity| **member == self.terms.me || has_answered(member);
        let reached = wish.members.iter().filter(is_here).count();
        let needed = self.terms.quorums.write.count(wish.members.len());
        let is_enough = reached >= needed && !wish.members.is_empty();
        let living: Vec<Identity> =
            answered.iter().map(|(from, _)| *from).chain([self.terms.me]).collect();
        let all_agree = missing.is_empty()
            && mine.placement.is_complete()
            && answered.iter().all(|(_, agrees)| *agrees);
        let is_too_soon = !all_agree && self.blocked_for(now) < LONG_PATIENCE;
        if !self.terms.serves || !is_enough || is_too_soon {
            return self.back_off(now);
        }
        let Some(list) = mine.list.clone() else {
            self.fruitless_surveys += 1;
            if self.fruitless_surveys < LOST_AFTER_SURVEYS {
                return self.rest(now, BACKOFF);
            }
            let first = List::first_again(&wish, &self.terms.me);
            actions.push(HandoffAction::AtRisk);
            return self.decided(None, first, mine.placement, actions);
        };
        let members = list.members();
        let left = members.iter().filter(|member| living.contains(member)).count();
        if left < self.terms.quorums.write.transfer_quorum(members.len()) {
            actions.push(HandoffAction::AtRisk);
        }
        let fork = list.fork(&wish, &self.terms.me);
        self.decided(Some(list), fork, mine.placement, actions);
    }

    /// Asks the acceptors of `list` for promises, if those that live can decide.
    pub(super) fn prepare(
        &mut self,
        list: Arc<List>,
        mine: &Mine<'_>,
        now: Instant,
        actions: &mut Vec<HandoffAction>,
    ) {
        let wish = self.wished();
        let is_lacking = mine.is_open && mine.extent != Extent::Whole;
        if is_lacking && !mine.must_finish && self.is_too_early(now) {
            return self.rest(now, EARLY);
        }
        let is_dead = |acceptor: &Identity| mine.placement.is_dead(acceptor);
        let living: Vec<Identity> = list.acceptors().filter(|it| !is_dead(it)).copied().collect();
        if !can_be_replaced(&list, self.terms.quorums, mine.placement) {
            return self.blocked_by_the_dead(&list, mine, now, actions);
        }
        let ballot = Ballot::above(self.seen, &self.terms.me);
        self.seen = ballot;
        let request = Request::Prepare { list: list.reference(), ballot };
        let value = list.next(&wish);
        self.phase = Phase::Prepare(Vote {
            ballot,
            value,
            accepted_under: Ballot::default(),
            unanswered: living.clone(),
            given: Vec::new(),
            over: over(&list, mine.placement),
            extents: Vec::new(),
            told: Vec::new(),
            list,
        });
        self.wait(now);
        let ask = |to| HandoffAction::Ask { to, request: request.clone() };
        actions.extend(living.into_iter().map(ask));
    }

    /// The dead could decide, and the living cannot: waits for a return, then looks whether a fork
    /// may be made.
    fn blocked_by_the_dead(
        &mut self,
        list: &List,
        mine: &Mine<'_>,
        now: Instant,
        actions: &mut Vec<HandoffAction>,
    ) {
        let blocked_for = self.blocked_for(now);
        if !self.terms.serves {
            return self.look_further(mine, now, actions);
        }
        let dead = || list.acceptors().filter(|acceptor| mine.placement.is_dead(acceptor));
        let wish = self.wished();
        let place = wish.members.iter().position(|member| *member == self.terms.me);
        let step = FORK_STEP.saturating_mul(place.unwrap_or(wish.members.len()) as u32);
        // Those that have started again will not come back with what they held.
        let are_over = dead().all(|acceptor| mine.placement.is_over(acceptor));
        // In a short list the living can have all the data, and be too few to decide.
        let members = list.members();
        let left = members.iter().filter(|member| !mine.placement.is_dead(member)).count();
        let is_kept = left >= self.terms.quorums.write.transfer_quorum(members.len());
        let patience = if are_over || is_kept { Duration::ZERO } else { self.patience() } + step;
        if blocked_for < patience {
            self.rest(now, patience - blocked_for);
        } else {
            self.survey(true, mine, now, actions);
        }
    }

    /// Whether the next list has to wait for members that are not whole. Members would find too few
    /// sources if lists followed each other faster than these are merged. But a member might never
    /// be whole.
    fn is_too_early(&mut self, now: Instant) -> bool {
        let is_long = self.blocked_for(now) >= PATIENCE;
        rule(ProtocolMutant::ProposedEarly, !is_long)
    }

    /// Whether a vote in which this number of members is whole has to wait for the others; `None`
    /// is for ever.
    ///
    /// With a majority required, the time begins with the first of the votes in a row that have
    /// what it takes, and begins again when another member is whole: that more time went by in
    /// which nothing could be decided says nothing of how long the members had to merge.
    fn waits_for_unwhole(
        &mut self,
        patience: Option<Duration>,
        whole: usize,
        now: Instant,
    ) -> bool {
        if self.terms.serves {
            return self.is_too_early(now);
        }
        let running = self.unwhole.filter(|(_, count)| *count == whole);
        let since = running.map_or(now, |(since, _)| since);
        self.unwhole = patience.map(|_| (since, whole));
        let is_long = patience.is_some_and(|patience| now.since(since) >= patience);
        rule(ProtocolMutant::ProposedEarly, !is_long)
    }

    /// Returns how long a vote waits for members that are not whole; `None` if the next list would
    /// wait for these in any case, and must not.
    fn patience_with_unwhole(&self, vote: &Vote, placement: &Placement) -> Option<Duration> {
        let quorums = self.terms.quorums;
        if self.terms.serves {
            return Some(PATIENCE);
        }
        let members = vote.list.members();
        let dead = members.iter().filter(|member| placement.is_dead(member)).count();
        // If W − 1 members die in all, one that is whole is left.
        let is_spare = vote.count_whole() + dead >= quorums.write.count(members.len());
        let has_sources = rule(ProtocolMutant::UnwholeAwaited, vote.has_sources(quorums));
        has_sources.then_some(if is_spare { PATIENCE } else { LONG_PATIENCE })
    }

    pub(super) fn promised(
        &mut self,
        from: Identity,
        (accepted, extent): (Option<(Ballot, Arc<List>)>, Extent),
        mine: &Mine<'_>,
        now: Instant,
        actions: &mut Vec<HandoffAction>,
    ) {
        let Phase::Prepare(vote) = &mut self.phase else { return };
        if !take(&mut vote.unanswered, &from) {
            return;
        }
        vote.given.push(from);
        // All that live may be members of the next list, and it takes all of them as sources but f.
        if vote.list.contains(&from) {
            vote.extents.push(extent);
        }
        if let Some((under, value)) = accepted
            && rule(ProtocolMutant::AcceptedIgnored, under > vote.accepted_under)
            && value.base() == Some(vote.list.reference())
        {
            (vote.accepted_under, vote.value) = (under, value);
        }
        self.propose_if_all_spoke(mine, now, actions);
    }

    /// Proposes the next list if those that promised can decide it, and no other is waited for.
    ///
    /// A member that has not said whether it is whole might be one that has the list not even open.
    /// If it is skipped, the next list may have only f + 1 sources, and none of them may fail. It
    /// answers behind the others, as it is copying. So it is waited for, but not for long: it might
    /// be silent, and a list must be replaceable without it.
    fn propose_if_all_spoke(
        &mut self,
        mine: &Mine<'_>,
        now: Instant,
        actions: &mut Vec<HandoffAction>,
    ) {
        let Phase::Prepare(vote) = &self.phase else { return };
        let has_promised = |acceptor: &Identity| vote.given.contains(acceptor);
        if !vote.quorum(self.terms.quorums).decides(&has_promised) {
            return;
        }
        let is_early = vote.is_early() && !mine.must_finish;
        let patience = self.patience_with_unwhole(vote, mine.placement);
        let whole = vote.count_whole();
        let until = self.asked_at + ALL_SPEAK;
        let is_waited_for = !vote.unanswered.is_empty() && !mine.must_finish && now < until;
        if rule(ProtocolMutant::UnheardSkipped, is_waited_for) {
            self.deadline = Some(until);
            return;
        } else if is_early && self.waits_for_unwhole(patience, whole, now) {
            return self.rest(now, EARLY);
        }
        let Phase::Prepare(vote) = std::mem::replace(&mut self.phase, Phase::Backoff) else {
            return;
        };
        (self.blocked_since, self.unwhole) = (None, None);
        let is_asked =
            |acceptor: &&Identity| !mine.placement.is_dead(acceptor) && **acceptor != self.terms.me;
        let unanswered: Vec<Identity> = vote.list.acceptors().filter(is_asked).copied().collect();
        let over = over(&vote.list, mine.placement);
        let vote = Vote { unanswered, given: Vec::new(), over, told: Vec::new(), ..vote };
        for &to in &vote.unanswered {
            actions.push(HandoffAction::Ask { to, request: accept(&vote) });
        }
        self.phase = Phase::Accept(vote);
        self.wait(now);
        self.count_accepts(mine, actions);
    }

    pub(super) fn accepted(
        &mut self,
        from: Identity,
        mine: &Mine<'_>,
        actions: &mut Vec<HandoffAction>,
    ) {
        let Phase::Accept(vote) = &mut self.phase else { return };
        if take(&mut vote.unanswered, &from) {
            vote.given.push(from);
            self.count_accepts(mine, actions);
        }
    }

    /// Begins again with a higher ballot, unless those that have not answered might decide still.
    pub(super) fn refused(
        &mut self,
        from: Identity,
        promised: Ballot,
        mine: &Mine<'_>,
        now: Instant,
    ) {
        self.seen = self.seen.max(promised);
        let (Phase::Prepare(vote) | Phase::Accept(vote)) = &mut self.phase else { return };
        take(&mut vote.unanswered, &from);
        let over = over(&vote.list, mine.placement);
        let quorum = Quorum { over: &over, ..vote.quorum(self.terms.quorums) };
        let might_agree = |acceptor: &Identity| {
            let is_own = *acceptor == self.terms.me && from != self.terms.me;
            is_own || vote.given.contains(acceptor) || vote.unanswered.contains(acceptor)
        };
        if !quorum.decides(&might_agree) {
            // Now it knows a ballot that is high enough. If the other proposer reaches no quorum,
            // its ballots come seldom, and the next one of this node is in time.
            self.backoffs = self.backoffs.min(REFUSED_BACKOFFS);
            self.back_off(now);
        }
    }

    /// Ends the vote if it is decided, or has this node accept if that decides it.
    fn count_accepts(&mut self, mine: &Mine<'_>, actions: &mut Vec<HandoffAction>) {
        let me = self.terms.me;
        let Phase::Accept(vote) = &mut self.phase else { return };
        let quorum = vote.quorum(self.terms.quorums);
        if quorum.decides(&|acceptor| vote.given.contains(acceptor)) {
            let (list, value) = (vote.list.clone(), vote.value.clone());
            return self.decided(Some(list), value, mine.placement, actions);
        }
        let is_asked = vote.unanswered.contains(&me) || vote.given.contains(&me);
        if !is_asked
            && vote.list.is_acceptor(&me)
            && quorum.decides(&|acceptor| *acceptor == me || vote.given.contains(acceptor))
        {
            vote.unanswered.push(me);
            actions.push(HandoffAction::Ask { to: me, request: accept(vote) });
        }
    }

    /// Acceptors have not answered in time. Goes on if the others are enough.
    pub(super) fn not_decided(
        &mut self,
        mine: &Mine<'_>,
        now: Instant,
        actions: &mut Vec<HandoffAction>,
    ) {
        let is_prepare = matches!(self.phase, Phase::Prepare(_));
        self.propose_if_all_spoke(mine, now, actions);
        if is_prepare && !matches!(self.phase, Phase::Prepare(_)) {
            return;
        }
        self.unwhole = None;
        if self.blocked_for(now) < LONG_PATIENCE {
            self.back_off(now);
        } else if self.terms.serves {
            self.survey(true, mine, now, actions);
        } else {
            self.look_further(mine, now, actions);
        }
    }

    /// The list counts: all that were asked to decide it are told, and all that are in it.
    fn decided(
        &mut self,
        old: Option<Arc<List>>,
        list: Arc<List>,
        placement: &Placement,
        actions: &mut Vec<HandoffAction>,
    ) {
        (self.phase, self.deadline) = (Phase::Backoff, None);
        (self.blocked_since, self.unwhole) = (None, None);
        let mut to_tell: Vec<Identity> = list.acceptors().copied().collect();
        for acceptor in old.iter().flat_map(|old| old.acceptors()) {
            if !to_tell.contains(acceptor) {
                to_tell.push(*acceptor);
            }
        }
        to_tell.retain(|it| *it != self.terms.me && !placement.is_dead(it));
        let tell = |to| HandoffAction::Tell { to, list: list.clone() };
        actions.extend(to_tell.into_iter().map(tell));
        actions.push(HandoffAction::Learn(list));
    }

    /// Takes up that an acceptor knows another list than the one that is voted in.
    pub(super) fn voter_knows(
        &mut self,
        from: Identity,
        theirs: Option<&Arc<List>>,
        actions: &mut Vec<HandoffAction>,
    ) {
        let is_prepare = matches!(self.phase, Phase::Prepare(_));
        let (Phase::Prepare(vote) | Phase::Accept(vote)) = &mut self.phase else { return };
        let is_behind = theirs.is_none_or(|theirs| vote.list.is_above(theirs));
        if is_behind && !vote.told.contains(&from) && vote.unanswered.contains(&from) {
            vote.told.push(from);
            let request = match is_prepare {
                true => Request::Prepare { list: vote.list.reference(), ballot: vote.ballot },
                false => accept(vote),
            };
            actions.push(HandoffAction::Tell { to: from, list: vote.list.clone() });
            actions.push(HandoffAction::Ask { to: from, request });
        }
    }
}

fn accept(vote: &Vote) -> Request {
    let Vote { list, ballot, value, .. } = vote;
    Request::Accept { list: list.reference(), ballot: *ballot, value: value.clone() }
}
