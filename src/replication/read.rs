//! A read: ask replicas of one list until the answer can be given.
//!
//! ```text
//!   R = 1   entered ─▶ asking ── one synced replica has a value ──▶ Found
//!                        └────── a miss, and f more confirm it ─────▶ Found
//!
//!   R ≥ 2   entered ─▶ asking all ── R answers ─▶ writing back ── W hold it ─▶ Found
//! ```
//!
//! With R = 1 a value from one synced replica is the answer; a hedge asks the next one when it is
//! slow. A miss, or a tombstone, is believed only when f = N − W further replicas confirm it. An
//! acknowledged write is missing on at most f of them, so nothing that was acknowledged is ever
//! "not found".
//!
//! A member of the list that is taken for dead counts as one that might know more: the node that
//! reads might be the one that is cut off. It is not asked, and the read waits for the others, for
//! its return or for a list without it. To count the dead as members that know nothing was
//! rejected: a node that took all others for dead then confirmed misses by itself.
//!
//! With R ≥ 2 all are asked, R answers are awaited, the newest wins, and before it is returned W
//! replicas are known to hold it; it is written back to those that do not: the read phase of the
//! ABD register (Attiya, Bar-Noy & Dolev, 1995). Leaving out the write-back was rejected: a value
//! that only a few hold could be read now and be gone from a later read. That there is nothing is
//! believed of W replicas, too. Fewer than W of a list that was replaced still count in it, so what
//! W say of a list is not older than the read.
//!
//! What this node has written itself, and is acknowledged, is part of what is found: the replica
//! that is asked might have missed it. Either way replicas that turned out stale are healed with
//! what was found.
//!
//! A replica that has nothing might have *evicted* something: it tells its eviction watermark. A
//! value up to there might be older than what it had, so it is taken for a miss: it is not
//! returned, and no replica is healed with it. A delete is a miss anyway, and is believed.
//!
//! A replica whose clock was ahead might have expired a value before its time. What is left of it
//! then, an early husk, is no miss: all synced replicas that are alive are asked, and one that has
//! the value wins. One that keeps silent is waited for a tenth of a second: if the clocks of all
//! replicas were ahead, there is nothing to wait for.
//!
//! A read that comes before a change of expiry confirms a value as it would a miss.
//!
//! Invariant: only synced replicas of one list count, and each counts once.

use std::sync::Arc;
use std::time::Duration;

use super::mismatch::mismatch;
use super::quorum::{AskState, Asked, QuorumAction, QuorumMachine, RETRY_AFTER, note_members};
use crate::clock::{Instant, Now, Version};
use crate::entry::Entry;
use crate::mutants::{ProtocolMutant, rule};
use crate::placement::List;
use crate::quorums::{Count, Quorums};
use crate::types::Identity;
use crate::wire::message::{Answer, Found, Request, Want};

/// How long one replica is given before the next is asked too. Above what a healthy LAN needs.
const HEDGE_AFTER: Duration = Duration::from_millis(10);

/// For how long replicas that have not answered are waited for once an early husk was found. Much
/// longer than a healthy replica takes to answer, shorter than a call's usual timeout.
const DOUBTS_FOR: Duration = Duration::from_millis(100);

/// What the reads of an engine go by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadRules {
    /// R, as the caller asked for it.
    pub(crate) needed: Count,
    /// W of them must hold what a strong read returns; N − W further replicas confirm a miss.
    pub(crate) quorums: Quorums,
    /// Whether these must confirm a value, too: it has to be the newest that was acknowledged.
    pub(crate) confirms_hits: bool,
}

/// One read, until its answer.
pub(crate) struct Read {
    key: Box<[u8]>,
    rules: ReadRules,
    /// R in the list that the read counts in.
    needed: usize,
    list: Option<Arc<List>>,
    /// The order in which the replicas of the next list are asked, best first.
    order: Vec<Identity>,
    /// In the order in which they are asked.
    replicas: Vec<Asked<Option<Entry>>>,
    newest: Option<Entry>,
    /// What this node has written itself, and is acknowledged. It ends when a newer state was
    /// purged.
    own: Option<Entry>,
    /// Whether the newest state is a husk of a value that should still live, and more replicas are
    /// waited for.
    is_doubtful: bool,
    /// When that ends; once there was such a husk.
    doubts_until: Option<Instant>,
    /// The highest version that might have been evicted by a replica that has nothing.
    eviction_watermark: Version,
    /// How many replicas to have asked by now.
    goal: usize,
    hedge_at: Option<Instant>,
    /// The replicas that acknowledged the newest state when it was written back; only in that
    /// phase.
    writing_back: Option<Vec<Asked<bool>>>,
}

impl Read {
    pub(crate) fn new(key: Box<[u8]>, rules: ReadRules) -> Self {
        Self {
            key,
            // Until the first list is entered, which says what an `AllBut` is.
            needed: rules.needed.count(0),
            rules,
            list: None,
            order: Vec::new(),
            replicas: Vec::new(),
            newest: None,
            own: None,
            is_doubtful: false,
            doubts_until: None,
            eviction_watermark: Version::ZERO,
            goal: 0,
            hedge_at: None,
            writing_back: None,
        }
    }

    /// Asks the members of the next list in this order, which names all of them. What is
    /// `acknowledged` already, as this node knows, is not older than the answer.
    pub(crate) fn prefer(&mut self, order: Vec<Identity>, acknowledged: Option<Entry>) {
        self.order = order;
        self.own = acknowledged;
    }

    /// Forgets what this node has written itself, if a newer delete was purged: the replicas that
    /// answer from now on know of neither.
    pub(crate) fn purged(&mut self, horizon: Version) {
        self.own.take_if(|own| rule(ProtocolMutant::OwnOutlivesPurge, own.version() <= horizon));
    }

    fn note(&mut self, from: Identity, found: Found, synced: bool, now: Now) {
        let Some(asked) = self.replicas.iter_mut().find(|asked| asked.replica == from) else {
            return;
        };
        if !synced {
            asked.state = AskState::RetryAt(now.instant + RETRY_AFTER);
            return;
        }
        let found = match found {
            // As it is: by another clock it might live, and this one might be ahead.
            Found::Entry(entry) => Some(entry),
            Found::Version(_) => None,
            Found::Absent { eviction_watermark } => {
                self.eviction_watermark = self.eviction_watermark.max(eviction_watermark);
                None
            }
        };
        asked.state = AskState::Answered(found.clone());
        found.into_iter().for_each(|entry| self.find(entry));
    }

    fn find(&mut self, entry: Entry) {
        let known = self.own.iter().chain(&self.newest);
        let entry = known.fold(entry, |entry, known| entry.joined(known));
        if self.newest.as_ref().is_none_or(|newest| entry.wins_over(newest)) {
            self.newest = Some(entry);
        }
    }

    /// Returns the newest state, if it is certain that no replica that has nothing has evicted a
    /// newer one.
    fn newest(&self) -> Option<&Entry> {
        let is_certain = |entry: &&Entry| {
            let is_below = entry.value().is_some() && entry.version() <= self.eviction_watermark;
            !rule(ProtocolMutant::MarkIgnored, is_below)
        };
        let (found, own) = (self.newest.as_ref(), self.own.as_ref());
        let newest = match (found, own) {
            (Some(found), Some(own)) if own.wins_over(found) => Some(own),
            _ => found.or(own),
        };
        newest.filter(is_certain)
    }

    /// Ends the read if the answers suffice, and asks more replicas if they do not.
    fn decide(&mut self, now: Now, actions: &mut Vec<QuorumAction>) {
        let answers = self.answers();
        let is_early = self.newest().is_some_and(|newest| newest.is_early_husk(now.wall));
        self.is_doubtful = rule(ProtocolMutant::EarlyHuskBelieved, is_early) && {
            let waits =
                if rule(ProtocolMutant::DoubtsForEver, true) { DOUBTS_FOR } else { Duration::MAX };
            now.instant < *self.doubts_until.get_or_insert(now.instant + waits)
        };
        if self.is_strong() {
            if answers >= self.needed() {
                if !rule(ProtocolMutant::WrittenBackOnDifference, true) && self.answers_agree() {
                    return actions.push(QuorumAction::Found(self.newest().cloned()));
                }
                self.write_back(now, actions);
            }
            return;
        }
        let is_live = self.newest().is_some_and(|newest| newest.live_value(now.wall).is_some());
        let needed = self.confirmed_by();
        let is_hit = is_live && !self.rules.confirms_hits;
        if answers > 0 && (is_hit || answers >= needed) {
            self.heal_first(now, actions);
            actions.push(QuorumAction::Found(self.newest().cloned()));
            return;
        }
        if answers > 0 {
            self.goal = self.goal.max(needed);
        }
        self.ask_due(now, actions);
    }

    fn answers_agree(&self) -> bool {
        let mut answers = self.replicas.iter().filter_map(Asked::answer);
        answers.all(|answer| answer.as_ref() == self.newest())
    }

    /// How many answers a miss needs, or a value that must be confirmed.
    fn confirmed_by(&self) -> usize {
        if !rule(ProtocolMutant::MissNotConfirmed, true) {
            return 1;
        }
        let quorums = self.rules.quorums;
        if !rule(ProtocolMutant::DeadKnowNothing, true) {
            let living = self.replicas.iter().filter(|asked| asked.state != AskState::Dead).count();
            return quorums.all_writes().min(living.max(1));
        }
        // Without a list, one replica that has a value would do.
        let confirmed =
            self.list.as_ref().map_or(1, |list| quorums.miss_confirmed_by(list.members().len()));
        self.or_all_alive(confirmed)
    }

    /// Returns `needed`; or, while an early husk is doubted, how many replicas have answered or are
    /// about to if that is more.
    fn or_all_alive(&self, needed: usize) -> usize {
        if !self.is_doubtful {
            return needed;
        }
        // One that cannot be counted yet, or was not reached, is not waited for.
        let is_awaited =
            |asked: &&Asked<_>| !matches!(asked.state, AskState::Dead | AskState::RetryAt(_));
        needed.max(self.replicas.iter().filter(is_awaited).count())
    }

    /// Gives the newest state to the replica that was asked first, as the next read will look
    /// there, and to no other: a weak read is one replica's answer.
    fn heal_first(&self, now: Now, actions: &mut Vec<QuorumAction>) {
        if let (Some(asked), Some(newest)) = (self.replicas.first(), self.newest())
            && let Some(held) = asked.answer()
            && held.as_ref().is_none_or(|held| !held.is_same_at(newest, now.wall))
        {
            self.ask_to_write(asked.replica, actions);
        }
    }

    fn ask_to_write(&self, to: Identity, actions: &mut Vec<QuorumAction>) {
        if let (Some(newest), Some(list)) = (self.newest(), &self.list) {
            let request = Request::Write { list: list.reference(), entry: newest.clone() };
            actions.push(QuorumAction::Ask { to, request });
        }
    }

    /// Makes sure that W replicas hold the newest state.
    fn write_back(&mut self, now: Now, actions: &mut Vec<QuorumAction>) {
        let Some(newest) = self.newest() else {
            actions.push(QuorumAction::Found(None));
            return;
        };
        let has_it = |held: &Entry| !newest.wins_over(held) || newest.is_same_at(held, now.wall);
        let held = |asked: &Asked<Option<Entry>>| Asked {
            replica: asked.replica,
            state: match &asked.state {
                AskState::Dead => AskState::Dead,
                AskState::Answered(Some(entry)) if has_it(entry) => AskState::Answered(true),
                _ => AskState::Waiting,
            },
        };
        let holders: Vec<Asked<bool>> = self.replicas.iter().map(held).collect();
        for stale in holders.iter().filter(|asked| asked.state == AskState::Waiting) {
            self.ask_to_write(stale.replica, actions);
        }
        self.writing_back = Some(holders);
        self.finish_write_back(actions);
    }

    fn finish_write_back(&self, actions: &mut Vec<QuorumAction>) {
        let held = self
            .writing_back
            .iter()
            .flatten()
            .filter(|asked| asked.answer() == Some(&true))
            .count();
        if held >= self.rules.quorums.write.count(self.replicas.len()) {
            actions.push(QuorumAction::Found(self.newest().cloned()));
        }
    }

    /// Tries again later to give the newest state to `from`.
    fn write_back_later(&mut self, from: Identity, now: Now) {
        let mut open =
            self.writing_back.iter_mut().flatten().filter(|asked| asked.answer().is_none());
        if let Some(asked) = open.find(|asked| asked.replica == from) {
            asked.state = AskState::RetryAt(now.instant + RETRY_AFTER);
        }
    }

    /// Asks as many replicas as the goal wants, those that are due to be asked again, and one more
    /// if a hedge is due.
    fn ask_due(&mut self, now: Now, actions: &mut Vec<QuorumAction>) {
        let Some(list) = &self.list else { return };
        let list = list.reference();
        if self.hedge_at.is_some_and(|at| at <= now.instant) {
            self.goal += 1;
            let any_left = self.replicas.iter().any(|asked| asked.state == AskState::Idle);
            self.hedge_at = any_left.then_some(now.instant + HEDGE_AFTER);
        }
        let is_open =
            |asked: &&Asked<_>| matches!(asked.state, AskState::Waiting | AskState::Answered(_));
        let mut open = self.replicas.iter().filter(is_open).count();
        for asked in &mut self.replicas {
            let wanted = asked.state == AskState::Idle && open < self.goal;
            if wanted || asked.is_due(now.instant) {
                asked.state = AskState::Waiting;
                open += 1;
                let request = Request::Read { list, key: self.key.clone(), want: Want::Entry };
                actions.push(QuorumAction::Ask { to: asked.replica, request });
            }
        }
        let mut again = Vec::new();
        for asked in
            self.writing_back.iter_mut().flatten().filter(|asked| asked.is_due(now.instant))
        {
            asked.state = AskState::Waiting;
            again.push(asked.replica);
        }
        again.into_iter().for_each(|to| self.ask_to_write(to, actions));
    }

    /// When replicas that have not answered are waited for no longer, if they are.
    fn doubt_ends(&self) -> Option<Instant> {
        self.doubts_until.filter(|_| self.is_doubtful && self.writing_back.is_none())
    }

    /// How many synced replicas have answered.
    pub(crate) fn answers(&self) -> usize {
        self.replicas.iter().filter(|asked| asked.answer().is_some()).count()
    }

    /// How many answers this read needs, given what it found so far.
    pub(crate) fn needed(&self) -> usize {
        if !self.is_strong() {
            return self.confirmed_by();
        }
        // A value is written back to W. That there is none must be known of as many, or the list
        // might have been replaced, and the key written in the next one.
        let is_miss = self.newest().is_none();
        let write = self.rules.quorums.write.count(self.replicas.len());
        if rule(ProtocolMutant::FewConfirmNothing, is_miss) {
            self.needed.max(write)
        } else {
            self.or_all_alive(self.needed)
        }
    }

    /// Whether replicas have answered that there is nothing, and not enough of them.
    pub(crate) fn is_unconfirmed(&self) -> bool {
        !self.is_strong() && (1..self.confirmed_by()).contains(&self.answers())
    }

    fn is_strong(&self) -> bool {
        self.needed >= 2
    }
}

impl QuorumMachine for Read {
    /// Counts from the beginning, in the order that was [preferred](Read::prefer).
    fn entered(
        &mut self,
        list: Arc<List>,
        alive: &dyn Fn(&Identity) -> bool,
        now: Now,
        actions: &mut Vec<QuorumAction>,
    ) {
        self.needed = self.rules.needed.count(list.members().len());
        let order = std::mem::take(&mut self.order);
        debug_assert_eq!(order.len(), list.members().len(), "an order of all members");
        self.replicas =
            order.into_iter().map(|member| Asked::new(member, alive(&member))).collect();
        self.list = Some(list);
        self.writing_back = None;
        if rule(ProtocolMutant::FoundOutlivesList, true) {
            // The members of the list have what was acknowledged before. What only a member of an
            // earlier one had may have been deleted since, and the delete forgotten.
            self.newest = None;
        }
        self.goal = if self.is_strong() {
            self.replicas.len()
        } else if self.rules.confirms_hits {
            self.confirmed_by()
        } else {
            1
        };
        self.hedge_at = Some(now.instant + HEDGE_AFTER);
        self.handle_timers(now, actions);
    }

    fn answered(
        &mut self,
        from: Identity,
        answer: Answer,
        now: Now,
        actions: &mut Vec<QuorumAction>,
    ) {
        match (answer, &mut self.writing_back) {
            (Answer::Found { found, synced }, None) => {
                self.note(from, found, synced, now);
                self.decide(now, actions);
            }
            // R others were faster: what is found is decided.
            (Answer::Found { .. }, Some(_)) => {}
            (Answer::Written { synced, .. }, Some(asked)) => {
                if let Some(asked) = asked.iter_mut().find(|asked| asked.replica == from) {
                    asked.state = AskState::Answered(synced);
                }
                self.finish_write_back(actions);
            }
            // It takes this node for one of another data center: the members are about to change.
            (Answer::Declined, None) => self.lost(from, now, actions),
            (Answer::Declined | Answer::TooOld { .. } | Answer::NoRoom { .. }, Some(_)) => {
                self.write_back_later(from, now);
            }
            (answer, _) => mismatch(&format!("a read was answered {answer:?}")),
        }
    }

    fn lost(&mut self, from: Identity, now: Now, actions: &mut Vec<QuorumAction>) {
        self.write_back_later(from, now);
        if let Some(asked) = self.replicas.iter_mut().find(|asked| asked.replica == from)
            && asked.state == AskState::Waiting
        {
            asked.state = AskState::RetryAt(now.instant + RETRY_AFTER);
            self.handle_timers(now, actions);
        }
    }

    fn handle_timers(&mut self, now: Now, actions: &mut Vec<QuorumAction>) {
        self.ask_due(now, actions);
        if self.doubt_ends().is_some_and(|at| at <= now.instant) {
            self.decide(now, actions);
        }
    }

    fn members_changed(
        &mut self,
        alive: &dyn Fn(&Identity) -> bool,
        now: Now,
        actions: &mut Vec<QuorumAction>,
    ) {
        note_members(&mut self.replicas, alive, now.instant);
        match &mut self.writing_back {
            Some(asked) => note_members(asked, alive, now.instant),
            None if self.list.is_some() => self.decide(now, actions),
            None => {}
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let retries = self.replicas.iter().filter_map(Asked::retry_at);
        let writes = self.writing_back.iter().flatten().filter_map(Asked::retry_at);
        retries.chain(writes).chain(self.hedge_at).chain(self.doubt_ends()).min()
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;
    use crate::clock::WallTime;
    use crate::entry::Content;
    use crate::replication::tests::{list, node};

    const NOW: Now = Now { instant: Instant::from_nanos(1), wall: WallTime::from_micros(1) };

    fn entry(version: u64, value: Option<&str>) -> Entry {
        let content = value.map_or(Content::Tombstone, |value| Content::Value(value.as_bytes()));
        Entry::new(b"key", content, Version(version), None)
    }

    fn rules(needed: u8) -> ReadRules {
        ReadRules {
            needed: Count::Exactly(needed),
            quorums: Quorums::exactly(3, 2, needed),
            confirms_hits: false,
        }
    }

    /// A read in a list of three, and whom it asked.
    fn asked(needed: u8) -> (Read, Vec<Identity>) {
        entered(rules(needed))
    }

    fn entered(rules: ReadRules) -> (Read, Vec<Identity>) {
        let mut read = Read::new(b"key".as_slice().into(), rules);
        let mut actions = Vec::new();
        let list = list(1, 0..3);
        read.prefer(list.members().to_vec(), None);
        read.entered(list.clone(), &|_| true, NOW, &mut actions);
        (read, whom(&actions))
    }

    fn whom(actions: &[QuorumAction]) -> Vec<Identity> {
        let asked = actions.iter().map(|action| match action {
            QuorumAction::Ask { to, .. } => *to,
            _ => panic!("it asks for something else: {actions:?}"),
        });
        asked.collect()
    }

    fn found(read: &mut Read, from: u64, entry: Option<Entry>, synced: bool) -> Vec<QuorumAction> {
        let found = entry.map_or(Found::Absent { eviction_watermark: Version::ZERO }, Found::Entry);
        let mut actions = Vec::new();
        read.answered(node(from), Answer::Found { found, synced }, NOW, &mut actions);
        actions
    }

    #[test]
    fn one_synced_replica_answers_a_hit() {
        let (mut read, asked) = asked(1);
        assert_eq!(asked, [node(0)]);
        let value = entry(1, Some("v"));
        assert_eq!(
            found(&mut read, 0, Some(value.clone()), true),
            [QuorumAction::Found(Some(value))]
        );
    }

    #[test]
    fn a_miss_and_a_tombstone_are_confirmed_by_f_further_replicas() {
        for first in [None, Some(entry(5, None))] {
            let (mut read, _) = asked(1);
            assert_eq!(whom(&found(&mut read, 0, first.clone(), true)), [node(1)]);
            assert_eq!(found(&mut read, 1, first.clone(), true), [QuorumAction::Found(first)]);
        }
    }

    /// Node 0 has a husk, because its clock was ahead. With W = N one replica is believed that
    /// there is nothing, and the value that both others held was "not found".
    #[test]
    fn a_husk_of_what_should_still_live_is_no_miss() {
        let value = Entry::new(b"key", Content::Value(b"v"), Version(5), NonZeroU64::new(9));
        for needed in [1, 3] {
            let (mut read, _) =
                entered(ReadRules { quorums: Quorums::exactly(3, 3, needed), ..rules(needed) });
            found(&mut read, 0, Some(value.husk()), true);
            assert!(read.newest().is_some_and(|newest| newest.value().is_none()));
            found(&mut read, 1, None, true);
            let actions = found(&mut read, 2, Some(value.clone()), true);
            let QuorumAction::Ask { to, request } = &actions[0] else { panic!("{actions:?}") };
            assert!(*to == node(0) && matches!(request, Request::Write { .. }), "{actions:?}");
            if needed == 1 {
                assert_eq!(actions[1..], [QuorumAction::Found(Some(value.clone()))]);
            }
        }
        // No replica has it, and one is dead: then it is nothing.
        let (mut read, _) = entered(ReadRules { quorums: Quorums::exactly(3, 3, 1), ..rules(1) });
        found(&mut read, 0, Some(value.husk()), true);
        found(&mut read, 1, None, true);
        let mut actions = Vec::new();
        read.members_changed(&|member| *member != node(2), NOW, &mut actions);
        assert_eq!(actions.last(), Some(&QuorumAction::Found(Some(value.husk()))));
    }

    /// The expiry of a value was made later. Only node 0 heard of it, whose clock is ahead. What
    /// is left there has the later expiry. It was "not found", and replaced the value.
    #[test]
    fn the_value_of_one_replica_and_the_later_expiry_of_another_are_one_state() {
        let at = |secs: u64| NonZeroU64::new(secs * 1000);
        let value = |at| Entry::new(b"key", Content::Value(b"v"), Version(5), at);
        for order in [[0, 1], [1, 0]] {
            let (mut read, _) = asked(2);
            let mut last = Vec::new();
            for from in order {
                let state = if from == 0 { value(at(20)).husk() } else { value(at(10)) };
                last = found(&mut read, from, Some(state), true);
            }
            last.extend(found(&mut read, 2, Some(value(at(10))), true));
            let entries = last.iter().filter_map(|action| match action {
                QuorumAction::Ask { request: Request::Write { entry, .. }, .. } => Some(entry),
                _ => None,
            });
            let written: Vec<&Entry> = entries.collect();
            assert!(!written.is_empty() && written.iter().all(|it| **it == value(at(20))));
        }
    }

    /// This node's clock is ahead. What has expired by it alone is written back as it came: it took
    /// the value from the replicas that missed it. What has expired everywhere is not written, for
    /// that one replica has freed it and another has not.
    #[test]
    fn what_has_expired_by_the_clock_of_the_reader_is_written_back_as_it_is() {
        let now = Now { wall: WallTime::from_micros(30_000_000), ..NOW };
        let value = |version| {
            Entry::new(b"key", Content::Value(b"v"), Version(version), NonZeroU64::new(20_000))
        };
        let (mut read, _) = asked(2);
        let mut actions = Vec::new();
        for (from, entry) in [(0, value(2)), (1, value(1))] {
            let found = Found::Entry(entry);
            read.answered(node(from), Answer::Found { found, synced: true }, now, &mut actions);
        }
        let writes = actions.iter().filter_map(|action| match action {
            QuorumAction::Ask { to, request: Request::Write { entry, .. } } => Some((*to, entry)),
            _ => None,
        });
        let wanted = value(2);
        assert_eq!(writes.collect::<Vec<_>>(), [(node(1), &wanted), (node(2), &wanted)]);

        let (mut read, _) = asked(2);
        let mut actions = Vec::new();
        for (from, entry) in [(0, value(2)), (1, value(2).husk())] {
            let found = Found::Entry(entry);
            read.answered(node(from), Answer::Found { found, synced: true }, now, &mut actions);
        }
        // Node 2 has not answered.
        let [QuorumAction::Ask { to, .. }, QuorumAction::Found(_)] = &actions[..] else {
            panic!("{actions:?}")
        };
        assert_eq!(*to, node(2));
    }

    #[test]
    fn a_value_that_is_to_be_confirmed_is_the_newest_of_f_and_one_further() {
        let rules = ReadRules { confirms_hits: true, ..rules(1) };
        let (mut read, asked) = entered(rules);
        assert_eq!(asked, [node(0), node(1)]);
        let newest = entry(2, Some("new"));
        assert_eq!(found(&mut read, 1, Some(newest.clone()), true), []);
        let actions = found(&mut read, 0, Some(entry(1, Some("old"))), true);
        assert_eq!(actions.last(), Some(&QuorumAction::Found(Some(newest))));
    }

    /// A full replica cannot take what a read found: the read waits for the others.
    #[test]
    fn who_has_no_room_for_what_is_written_back_is_asked_again() {
        let (mut read, _) = asked(2);
        let value = entry(5, Some("v"));
        found(&mut read, 0, Some(value.clone()), true);
        found(&mut read, 1, None, true);
        let mut actions = Vec::new();
        read.answered(node(1), Answer::NoRoom { max_memory: 7 }, NOW, &mut actions);
        assert_eq!(actions, []);
        let again = Now { instant: read.deadline().unwrap().max(NOW.instant + RETRY_AFTER), ..NOW };
        read.handle_timers(again, &mut actions);
        assert!(whom(&actions).contains(&node(1)), "{actions:?}");
        actions.clear();
        read.answered(
            node(1),
            Answer::Written { superseded_by: None, synced: true },
            NOW,
            &mut actions,
        );
        assert_eq!(actions, [QuorumAction::Found(Some(value))]);
    }

    #[test]
    fn a_newer_state_found_while_confirming_heals_the_replica_that_missed_it() {
        let (mut read, _) = asked(1);
        found(&mut read, 0, None, true);
        let value = entry(5, Some("v"));
        let actions = found(&mut read, 1, Some(value.clone()), true);
        let QuorumAction::Ask { to, request } = &actions[0] else { panic!("{actions:?}") };
        assert!(*to == node(0) && matches!(request, Request::Write { .. }), "{actions:?}");
        assert_eq!(actions[1..], [QuorumAction::Found(Some(value))]);
    }

    /// This node's write was acknowledged by the two others; the replica that it asks missed it.
    #[test]
    fn what_this_node_acknowledged_itself_is_not_older_than_the_answer() {
        let list = list(1, 0..3);
        let own = entry(7, Some("own"));
        let answer = |found| {
            let mut read = Read::new(b"key".as_slice().into(), rules(1));
            let members = list.members().to_vec();
            let mut actions = Vec::new();
            read.prefer(members, Some(own.clone()));
            read.entered(list.clone(), &|_| true, NOW, &mut actions);
            assert_eq!(whom(&actions), [node(0)], "another node might have written since");
            actions.clear();
            read.answered(node(0), Answer::Found { found, synced: true }, NOW, &mut actions);
            actions
        };
        for missed in
            [Found::Entry(entry(5, Some("old"))), Found::Absent { eviction_watermark: Version(3) }]
        {
            let actions = answer(missed);
            assert!(
                matches!(&actions[0], QuorumAction::Ask { to, .. } if *to == node(0)),
                "it is healed"
            );
            assert_eq!(actions[1..], [QuorumAction::Found(Some(own.clone()))]);
        }
        let newer = entry(8, Some("newer"));
        assert_eq!(answer(Found::Entry(newer.clone())), [QuorumAction::Found(Some(newer))]);
        let evicted = answer(Found::Absent { eviction_watermark: Version(8) });
        assert_eq!(whom(&evicted), [node(1)], "what was evicted may have been newer");
    }

    /// A read was under way while its node was cut off. Another node deleted the key, and
    /// the deletion was forgotten everywhere: the replicas that answered then knew of nothing.
    #[test]
    fn what_this_node_wrote_itself_ends_with_the_purge_of_a_newer_state() {
        for (horizon, expected) in [(6, Some(entry(7, Some("own")))), (7, None)] {
            let list = list(1, 0..3);
            let mut read = Read::new(b"key".as_slice().into(), rules(2));
            let mut actions = Vec::new();
            read.prefer(list.members().to_vec(), Some(entry(7, Some("own"))));
            read.entered(list, &|_| true, NOW, &mut actions);
            read.purged(Version(horizon));
            found(&mut read, 0, None, true);
            found(&mut read, 1, None, true);
            assert_eq!(read.newest().cloned(), expected);
        }
    }

    /// Two replicas acknowledged version 7 and the third missed it, with version 5 from before. One
    /// of the two has evicted 7 since: that it has nothing means that 5 is not the newest, be it
    /// asked first or last.
    #[test]
    fn what_is_not_above_the_watermark_of_a_replica_that_has_nothing_is_a_miss() {
        let evicted = |version| Found::Absent { eviction_watermark: Version(version) };
        let answer = |read: &mut Read, from, found| {
            let mut actions = Vec::new();
            read.answered(node(from), Answer::Found { found, synced: true }, NOW, &mut actions);
            actions
        };
        for needed in [1, 2] {
            let (mut read, _) = asked(needed);
            answer(&mut read, 0, evicted(7));
            let actions = answer(&mut read, 1, Found::Entry(entry(5, Some("old"))));
            assert_eq!(
                actions,
                [QuorumAction::Found(None)],
                "R = {needed}: neither found nor healed with"
            );
            let (mut read, _) = asked(needed);
            answer(&mut read, 0, evicted(7));
            let newer = entry(8, Some("new"));
            let actions = answer(&mut read, 1, Found::Entry(newer.clone()));
            assert!(
                matches!(&actions[0], QuorumAction::Ask { to, .. } if *to == node(0)),
                "it is healed"
            );
            if needed == 1 {
                assert_eq!(actions.last(), Some(&QuorumAction::Found(Some(newer))));
            }
            let (mut read, _) = asked(needed);
            answer(&mut read, 0, evicted(7));
            let actions = answer(&mut read, 1, Found::Entry(entry(5, None)));
            assert!(
                matches!(&actions[0], QuorumAction::Ask { to, .. } if *to == node(0)),
                "a delete heals"
            );
        }
    }

    /// Two members of three are taken for dead: each might have what the third missed.
    #[test]
    fn the_dead_might_know_more_until_the_list_is_without_them() {
        for first in [None, Some(entry(5, None))] {
            let (mut read, _) = asked(1);
            assert_eq!(whom(&found(&mut read, 0, first.clone(), true)), [node(1)]);
            let mut actions = Vec::new();
            read.members_changed(&|member| *member == node(0), NOW, &mut actions);
            assert_eq!(actions, []);
            assert!(read.is_unconfirmed() && (read.answers(), read.needed()) == (1, 2));
            // One of them returns, and has nothing either.
            read.members_changed(&|member| *member != node(2), NOW, &mut actions);
            read.handle_timers(NOW, &mut actions);
            assert_eq!(whom(&actions), [node(1)]);
            assert_eq!(found(&mut read, 1, first.clone(), true), [QuorumAction::Found(first)]);
        }
        let (mut read, _) = asked(1);
        found(&mut read, 0, None, true);
        let mut actions = Vec::new();
        read.members_changed(&|member| *member == node(0), NOW, &mut actions);
        let shorter = list(2, 0..2);
        read.prefer(shorter.members().to_vec(), None);
        read.entered(shorter, &|_| true, NOW, &mut actions);
        assert!(!read.is_unconfirmed(), "no answer of the old list counts");
        found(&mut read, 0, None, true);
        assert_eq!(found(&mut read, 1, None, true), [QuorumAction::Found(None)]);
    }

    /// The value that is to be prolonged might be old, as the dead might have a newer one.
    #[test]
    fn a_value_is_not_confirmed_by_members_that_are_dead() {
        let (mut read, _) = entered(ReadRules { confirms_hits: true, ..rules(1) });
        read.members_changed(&|member| *member == node(0), NOW, &mut Vec::new());
        assert_eq!(found(&mut read, 0, Some(entry(1, Some("old"))), true), []);
        assert!(read.is_unconfirmed());
    }

    #[test]
    fn a_pending_replica_is_not_believed() {
        let (mut read, _) = asked(1);
        assert_eq!(whom(&found(&mut read, 0, None, false)), [node(1)]);
        assert_eq!(whom(&found(&mut read, 1, None, true)), [node(2)]);
        assert_eq!(found(&mut read, 2, None, true), [QuorumAction::Found(None)]);
    }

    #[test]
    fn a_slow_replica_is_hedged_and_a_lost_one_replaced_at_once() {
        let (mut read, _) = asked(1);
        let later = Now { instant: NOW.instant + HEDGE_AFTER, ..NOW };
        let mut actions = Vec::new();
        read.handle_timers(later, &mut actions);
        assert_eq!(whom(&actions), [node(1)]);
        actions.clear();
        read.lost(node(1), later, &mut actions);
        assert_eq!(whom(&actions), [node(2)]);
    }

    #[test]
    fn a_replica_that_was_taken_for_dead_is_asked_once_it_returned() {
        let (mut read, _) = asked(2);
        found(&mut read, 0, Some(entry(1, Some("v"))), true);
        let mut actions = Vec::new();
        read.members_changed(&|member| *member == node(0), NOW, &mut actions);
        assert_eq!(actions, [], "nobody is left to ask");
        read.members_changed(&|member| *member != node(2), NOW, &mut actions);
        assert!(read.deadline() <= Some(NOW.instant));
        read.handle_timers(NOW, &mut actions);
        assert_eq!(whom(&actions), [node(1)]);
        let value = entry(1, Some("v"));
        let actions = found(&mut read, 1, Some(value.clone()), true);
        assert_eq!(actions, [QuorumAction::Found(Some(value))]);
    }

    /// Found by a history: a node that was cut off gave a read the value that it held. The read
    /// learned of a list without that node, in which the key had been deleted, and the delete was
    /// forgotten. The read tried to write the value back, was refused as too old, and returned it
    /// once another write had taken its place.
    #[test]
    fn what_a_member_of_an_earlier_list_alone_had_is_not_returned() {
        let (mut read, _) = asked(2);
        found(&mut read, 0, Some(entry(1, Some("deleted since"))), true);
        let later = list(2, 1..4);
        read.prefer(later.members().to_vec(), None);
        read.entered(later, &|_| true, NOW, &mut Vec::new());
        assert_eq!(found(&mut read, 1, None, true), []);
        let ends = found(&mut read, 2, None, true);
        assert_eq!(ends, [QuorumAction::Found(None)]);
    }

    #[test]
    fn a_strong_read_returns_the_newest_once_w_replicas_hold_it() {
        let (mut read, asked) = asked(2);
        assert_eq!(asked.len(), 3);
        assert_eq!(found(&mut read, 0, Some(entry(1, Some("old"))), true), []);
        let newest = entry(2, Some("new"));
        let actions = found(&mut read, 1, Some(newest.clone()), true);
        assert_eq!(whom(&actions), [node(0), node(2)], "only one holds it: it is written back");
        let mut actions = Vec::new();
        read.answered(
            node(2),
            Answer::Written { superseded_by: None, synced: false },
            NOW,
            &mut actions,
        );
        assert_eq!(actions, [], "a pending replica does not count");
        read.answered(node(0), Answer::Declined, NOW, &mut actions);
        read.handle_timers(Now { instant: NOW.instant + RETRY_AFTER, ..NOW }, &mut actions);
        assert_eq!(whom(&actions), [node(0)], "one without room is asked again");
        actions.clear();
        read.answered(
            node(0),
            Answer::Written { superseded_by: None, synced: true },
            NOW,
            &mut actions,
        );
        assert_eq!(actions, [QuorumAction::Found(Some(newest))]);
    }
}
