//! Copying and merging: Copy before a list changes, Merge behind it, and Receipts.
//!
//! A newcomer opens its list when its copy is *whole* in it ([`copy`](super::copy) says what that
//! takes). A replica that stays has the list open at once, and becomes whole in the background.
//! The next list waits for all living members to be whole, but not for ever (`propose` says how
//! long): otherwise a list could be made whose members find no source.
//!
//! **Only a whole copy gives receipts.** Otherwise the givers of one list could drop their copies
//! for members that never open it.
//!
//! If too few open members are left, a newcomer waits for their return before it goes on without
//! them, by merging all that live. Acknowledged writes may be lost then.

use std::sync::Arc;

use super::action::fetch;
use super::copy::{Next, are_whole};
use super::phase::{Phase, take};
use super::{Handoff, HandoffAction, LONG_PATIENCE, Mine, mismatch};
use crate::clock::Instant;
use crate::logging;
use crate::mutants::{ProtocolMutant, rule};
use crate::placement::List;
use crate::types::Identity;
use crate::wire::message::{Chunk, Request};

impl Handoff {
    /// Copies from one member, as a newcomer, while the old list counts: little is left to merge
    /// when it does not any more.
    pub(super) fn copy(
        &mut self,
        list: Arc<List>,
        mine: &Mine<'_>,
        now: Instant,
        actions: &mut Vec<HandoffAction>,
    ) {
        self.sources.clear();
        // Newcomers begin with different members.
        let (before, after) =
            list.members().split_at(self.terms.me.node.0 as usize % list.members().len());
        for member in after.iter().chain(before).filter(|it| !mine.placement.is_dead(it)) {
            self.sources.add(*member);
        }
        self.copy_from(list, 0, mine, now, actions);
    }

    fn copy_from(
        &mut self,
        list: Arc<List>,
        at: usize,
        mine: &Mine<'_>,
        now: Instant,
        actions: &mut Vec<HandoffAction>,
    ) {
        if let Some(part) = self.sources.begin(at) {
            actions.push(fetch(&list, part));
            self.phase = Phase::Copy { list, at };
            self.wait(now);
        } else if at == 0 {
            // None of them lives.
            self.prepare(list, mine, now, actions);
        } else {
            self.blocked_for(now);
            self.look_further(mine, now, actions);
        }
    }

    /// Opens a list that this node is a member of.
    pub(super) fn open(
        &mut self,
        list: Arc<List>,
        mine: &Mine<'_>,
        now: Instant,
        actions: &mut Vec<HandoffAction>,
    ) {
        if self.opening.replace(list.reference()) != Some(list.reference()) {
            self.sources.begin_list();
        }
        self.add_members(&list, mine);
        self.sources.retain(|source| !mine.placement.is_dead(source));
        self.merge_from(list, 0, mine, now, actions);
    }

    /// Fetches what was missed from the source at `at`. Behind the last one, gives receipts.
    pub(super) fn merge_from(
        &mut self,
        list: Arc<List>,
        at: usize,
        mine: &Mine<'_>,
        now: Instant,
        actions: &mut Vec<HandoffAction>,
    ) {
        let quorums = self.terms.quorums;
        let is_whole = || are_whole(quorums, &list, self.sources.extents().chain([mine.extent]));
        if !self.is_whole && is_whole() {
            self.whole(&list, actions);
        }
        if let Some(part) = self.sources.begin(at) {
            actions.push(fetch(&list, part));
            self.phase = Phase::Merge { list, at };
            return self.wait(now);
        }
        let is_done = self.is_whole
            || self.may_be_whole_without(&list, mine, now, actions)
            || !rule(ProtocolMutant::ReceiptUnwhole, true);
        if !is_done && !self.is_open {
            return self.look_further(mine, now, actions);
        }
        if !is_done || self.is_open && !self.are_done_without(self.sources.skipped(), now) {
            return self.back_off(now);
        }
        self.give_receipts(list, now, actions);
    }

    fn whole(&mut self, list: &Arc<List>, actions: &mut Vec<HandoffAction>) {
        (self.is_whole, self.blocked_since, self.backoffs) = (true, None, 0);
        actions.push(HandoffAction::Whole(list.clone()));
    }

    /// All sources were asked, and they are not enough: goes on without the others if that can be
    /// answered for.
    fn may_be_whole_without(
        &mut self,
        list: &Arc<List>,
        mine: &Mine<'_>,
        now: Instant,
        actions: &mut Vec<HandoffAction>,
    ) -> bool {
        let is_silent = self.sources.skipped().next().is_some();
        let blocked_for = self.blocked_for(now);
        let needed = self.terms.quorums.write.count(list.members().len());
        let is_enough = self.sources.count_merged() + 1 >= needed;
        let merged =
            |member: &Identity| *member == self.terms.me || self.sources.has_merged(member);
        let mut missing = list.members().iter().chain(list.before()).filter(|it| !merged(it));
        let are_over = missing.all(|member| mine.placement.is_over(member));
        let is_time = blocked_for >= LONG_PATIENCE
            || !is_silent && (list.is_fork() || are_over || blocked_for >= self.patience());
        if !self.terms.serves || !is_enough || !is_time {
            if self.is_open {
                // One that comes in might be whole soon.
                self.add_members(list, mine);
            }
            return false;
        }
        if !list.is_fork() {
            actions.push(HandoffAction::AtRisk);
        }
        self.whole(list, actions);
        true
    }

    fn add_members(&mut self, list: &List, mine: &Mine<'_>) {
        for member in list.members().iter().chain(list.before()) {
            if !mine.placement.is_dead(member) {
                self.sources.add(*member);
            }
        }
    }

    /// Tells each giver up to which change it may forget its copy.
    fn give_receipts(&mut self, list: Arc<List>, now: Instant, actions: &mut Vec<HandoffAction>) {
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

    pub(super) fn finish_if_told(&mut self, actions: &mut Vec<HandoffAction>) {
        if let Phase::Receipts { unanswered, .. } = &self.phase
            && unanswered.is_empty()
        {
            self.finish(actions);
        }
    }

    /// Has a chunk applied.
    pub(super) fn chunk(&mut self, from: Identity, chunk: Chunk, actions: &mut Vec<HandoffAction>) {
        let at = self.phase.source_at();
        let has_changed = self.sources.merged_to(&from).is_none_or(|to| to < chunk.sequence);
        self.next = at.and_then(|at| self.sources.take_chunk(at, &from, &chunk));
        if self.next.is_none() {
            return logging::debug!("{:?} sends a chunk and was not asked for it", from.node);
        }
        // A handoff that only repeats itself waits longer and longer. A newcomer that copies a busy
        // partition again and again, and reaches no quorum, is one of these.
        let is_merge = matches!(self.phase, Phase::Merge { .. });
        if is_merge && has_changed && !chunk.entries.is_empty() {
            self.backoffs = 0;
        }
        actions.push(HandoffAction::Apply(chunk.entries));
    }

    /// A chunk was applied, and this many bytes of it found no room: goes on to the source's end.
    pub(crate) fn applied(
        &mut self,
        missing_bytes: usize,
        mine: &Mine<'_>,
        now: Instant,
        actions: &mut Vec<HandoffAction>,
    ) {
        self.missing_bytes += missing_bytes;
        match self.next.take() {
            Some(Next::Fetch(part)) => {
                if let Phase::Copy { list, .. } | Phase::Merge { list, .. } = &self.phase {
                    actions.push(fetch(list, part));
                }
                self.wait(now);
            }
            Some(Next::Complete) if self.missing_bytes > 0 => {
                self.phase = Phase::Backoff;
                actions.push(HandoffAction::NoRoom { missing_bytes: self.missing_bytes });
            }
            Some(Next::Complete) => match std::mem::replace(&mut self.phase, Phase::Backoff) {
                Phase::Copy { list, .. } => self.prepare(list, mine, now, actions),
                Phase::Merge { list, at } => self.merge_from(list, at + 1, mine, now, actions),
                phase => self.phase = phase,
            },
            None => mismatch("no chunk was applied"),
        }
    }

    /// Goes on behind the source that did not answer.
    pub(super) fn leave_source(
        &mut self,
        mine: &Mine<'_>,
        now: Instant,
        actions: &mut Vec<HandoffAction>,
    ) {
        match std::mem::replace(&mut self.phase, Phase::Backoff) {
            Phase::Copy { list, at } => self.copy_from(list, at + 1, mine, now, actions),
            Phase::Merge { list, at } => self.merge_from(list, at + 1, mine, now, actions),
            phase => {
                mismatch("a handoff leaves a source and fetches from none");
                self.phase = phase;
            }
        }
    }

    /// Takes up whether a giver's last change is covered by its receipt.
    pub(super) fn received(
        &mut self,
        from: Identity,
        covered: bool,
        mine: &Mine<'_>,
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
            let list = list.clone();
            self.merge_from(list, at, mine, now, actions);
        }
    }

    /// Takes up that a node knows another list than the one that it was asked about.
    pub(super) fn other_list(
        &mut self,
        from: Identity,
        theirs: Option<Arc<List>>,
        now: Instant,
        actions: &mut Vec<HandoffAction>,
    ) {
        match &mut self.phase {
            Phase::Prepare(_) | Phase::Accept(_) => {
                self.voter_knows(from, theirs.as_ref(), actions);
            }
            Phase::Copy { list, at } | Phase::Merge { list, at } => {
                let is_behind = theirs.is_none_or(|theirs| list.is_above(&theirs));
                let is_awaited = self.sources.awaited(*at) == Some(from);
                if is_behind && is_awaited && !self.told.contains(&from) {
                    self.told.push(from);
                    actions.push(HandoffAction::Tell { to: from, list: list.clone() });
                    if let Some(part) = self.sources.begin(*at) {
                        actions.push(fetch(list, part));
                        self.wait(now);
                    }
                }
            }
            // As in `received`: otherwise it gets a new receipt.
            Phase::Receipts { list, unanswered } => {
                if theirs.is_some_and(|theirs| !list.is_above(&theirs)) {
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
            Phase::Backoff | Phase::Survey { .. } => {}
        }
    }
}
