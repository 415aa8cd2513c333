//! Anti-entropy: finding, without being asked, what a replica has missed. One machine for each
//! core.
//!
//! **Problem.** A write is offered for half a minute to a replica that missed it, and reads repair
//! what they touch. What both leave behind stays different for ever, unless the replicas compare
//! all that they hold.
//!
//! The replicas of a partition compare its digest once a [`COMPARE_CYCLE`], and merge each other's
//! entries if it differs:
//!
//! | phase | what this node does with a partition that differs |
//! |---|---|
//! | Watching | asks again: writes on their way make digests differ for a moment |
//! | Waiting | waits for room: a few partitions are merged at a time |
//! | Merging | merges the other replica's entries |
//! | Told | has told the other one to do the same, and compares until they are equal |
//!
//! A cycle asks about every partition and co-replica once, evenly over the time. Of two replicas
//! the one with the lower identity asks.
//!
//! **Invariant.** A difference is acted upon when it was seen [`SIGHTINGS`] times unchanged, and
//! never before. A digest is the sum of its entries' digests. So the difference of two digests
//! stays the same while both replicas take the same writes, and is another one while a write has
//! reached only one of them. A partition that has a write on its way at every look is compared key
//! by key ([`survey`](mod@survey)): its digests will not tell whether anything else differs.
//!
//! **What it costs**, as computed. A question names its partitions with two bytes each and has one
//! hash for all of them. If they are equal the answer takes 32 bytes; else it has 32 bytes for each
//! partition that is compared.
//!
//! | what | bytes |
//! |---|---|
//! | naming 3 × 4096 pairs of copies, once a cycle (N = 3, a cluster of any size) | 24,576 |
//! | around each question of up to 256 partitions | 70 |
//! | a difference | the whole partition, a 4096th of the data |
//!
//! A difference is transferred once if only the asker lacked something, and twice if the other one
//! did.
//!
//! **Gaps.** If either replica has evicted keys of a partition, or had no room for some, the two
//! are compared key by key, too. Digests are compared again when such a survey is over.
//!
//! **Early husks.** A digest does not tell a value from the husk that is left once it expired: two
//! clocks never agree on the moment. But a copy might have husks of values that should still live,
//! because the clock of its node, or of the node that it has them from, was ahead. Such a copy is
//! compared key by key with each other one, once.
//!
//! **Other lists.** Two replicas that serve different lists tell each other. One of them missed a
//! change, and the nodes that made it might be gone.
//!
//! **What it leaves to others.** Nothing is compared while a list changes: a handoff merges by
//! itself. If a connection broke, the node that opened it compares at once, though only one of two
//! repairs what differs.
//!
//! **Source.** Demers et al., "Epidemic Algorithms for Replicated Database Maintenance", PODC '87:
//! anti-entropy behind direct mail, with checksums.
//!
//! **Rejected:** Merkle trees (DeCandia et al., "Dynamo", SOSP '07). They find a single key in a
//! large range, at the price of a tree that every write updates. Here a partition is the range, and
//! small enough to transfer.
//!
//! **The files.** [`copies`] is what this machine may know of its shard, `survey` the comparison
//! key by key. Both know nothing of this file, which alone decides when to ask.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::clock::Instant;
use crate::mutants::{ProtocolMutant, rule};
use crate::types::{Identity, KeyHash, Partition};
use crate::wire::message::{Compared, Held};
use crate::wire::timing::COMPARE_CYCLE;

mod copies;
mod survey;

pub(crate) use copies::{Copies, Pair, compare};
use copies::{batches, digest};
pub(crate) use survey::survey;
use survey::{SURVEY_CYCLES, Surveys};

/// After what time a peer is compared as a whole whose connection broke or whose lists changed.
/// Many such events happen together.
const HURRY_AFTER: Duration = Duration::from_secs(1);

/// How long until those that differ are compared again.
const RECHECK_AFTER: Duration = Duration::from_millis(500);

/// How often the same difference is seen until it is acted upon.
const SIGHTINGS: u8 = 3;

/// How often those that differ are looked at before they are left to the next cycle, or surveyed:
/// for ten seconds.
const MAX_LOOKS: u8 = 20;

/// How often a partition that merges is looked at before it is left to the next cycle: for a
/// minute. A merge of a large partition takes a while, and might have been given up.
const MAX_LOOKS_MERGING: u8 = 120;

/// How many partitions are repaired at a time.
const MAX_REPAIRS: usize = 16;

/// How many questions to one peer wait for an answer: twice what all partitions take. More are not
/// asked.
const MAX_OPEN: usize = 32;

/// What the machine wants its shard to do.
#[derive(Debug, PartialEq)]
pub(crate) enum AntiEntropyAction {
    /// Ask `to` about these; [`AntiEntropy::answered`] or [`AntiEntropy::lost`] is told with this
    /// number.
    Compare { round: u64, to: Identity, partitions: Vec<Partition>, digest: u64 },
    /// Merge what `from` holds; then [`AntiEntropy::merged`].
    Merge { partition: Partition, from: Identity },
    /// Tell `to`, which serves another list, this node's: one of the two has missed a change.
    Meet { partition: Partition, to: Identity },
    /// Note that this copy, which was behind another data center, has what that had.
    CaughtUp { partition: Partition },
    /// Have `to` merge what this node holds.
    Tell { partition: Partition, to: Identity },
    /// Ask `to` about the part of the partition behind `after`; [`AntiEntropy::surveyed`],
    /// [`AntiEntropy::put_off`] or [`AntiEntropy::lost`] is told with this number.
    Survey { round: u64, to: Identity, partition: Partition, after: Option<KeyHash> },
}

/// Compares what a core holds with what the other replicas hold.
#[derive(Default)]
pub(crate) struct AntiEntropy {
    /// What is left to be asked in this cycle.
    cycle: VecDeque<Vec<Pair>>,
    /// How far apart the questions of a cycle are.
    pace: Duration,
    /// When the next question is due; `None` before there are peers.
    next_step: Option<Instant>,
    cycles: u64,
    /// The peers that are to be compared as a whole, and when.
    hurried: BTreeMap<Identity, Instant>,
    /// What was asked and has no answer.
    open: BTreeMap<u64, Vec<Pair>>,
    next_round: u64,
    /// What differed when it was looked at last.
    suspects: BTreeMap<Pair, Suspect>,
    surveys: Surveys,
    recheck_at: Option<Instant>,
    deadline: Option<Instant>,
    repaired: u64,
}

#[derive(Clone, Copy, Debug)]
struct Suspect {
    phase: Phase,
    /// This node's digest less the peer's.
    difference: u64,
    /// How often in a row it was seen.
    sightings: u8,
    /// How often the pair was looked at in this phase.
    looks: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Watching,
    Waiting,
    Merging,
    Told,
}

impl AntiEntropy {
    /// Begins, unless it has begun: there are peers.
    pub(crate) fn start(&mut self, now: Instant) {
        self.next_step.get_or_insert(now + HURRY_AFTER);
        self.set_deadline();
    }

    /// Compares everything with this peer soon: one of the two might have missed something.
    pub(crate) fn hurry(&mut self, peer: Identity, now: Instant) {
        self.hurried.entry(peer).or_insert(now + HURRY_AFTER);
        self.set_deadline();
    }

    /// Returns when [`handle_timers`](Self::handle_timers) wants to be called.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Does what is due.
    pub(crate) fn handle_timers(
        &mut self,
        now: Instant,
        copies: &impl Copies,
        actions: &mut Vec<AntiEntropyAction>,
    ) {
        if self.next_step.is_some_and(|at| at <= now) {
            self.step(now, copies, actions);
        }
        if self.hurried.values().any(|at| *at <= now) {
            self.compare_hurried(now, copies, actions);
        }
        if self.recheck_at.is_some_and(|at| at <= now) {
            self.recheck(now, copies, actions);
        }
        self.set_deadline();
    }

    /// Takes up the peer's answer to a question.
    pub(crate) fn answered(
        &mut self,
        round: u64,
        answer: &Compared,
        now: Instant,
        copies: &impl Copies,
        actions: &mut Vec<AntiEntropyAction>,
    ) {
        // In the order of the question, some left out.
        let mut held = match answer {
            Compared::Alike => [].iter(),
            Compared::Differ(held) => held.iter(),
        }
        .peekable();
        for pair in self.open.remove(&round).unwrap_or_default() {
            if *answer == Compared::Alike {
                self.saw(pair, Some(0));
                note_caught_up(&pair, copies, actions);
            } else {
                let theirs = held.next_if(|held| held.partition == pair.partition);
                self.compared(pair, theirs, copies, actions);
            }
        }
        self.begin_repairs(copies, actions);
        self.begin_surveys(now, copies, actions);
        if !self.suspects.is_empty() {
            self.recheck_at.get_or_insert(now + RECHECK_AFTER);
        }
        self.set_deadline();
    }

    /// Notes that a question will have no answer, or has one of another kind: the peer is asked
    /// again soon.
    pub(crate) fn lost(&mut self, round: u64, now: Instant) {
        self.put_off(round, now);
        if let Some(pair) = self.open.remove(&round).unwrap_or_default().first() {
            self.hurry(pair.peer, now);
        }
    }

    /// Takes up that a survey's question was answered, and that what it found is applied. It goes
    /// on behind `next` if there is more.
    pub(crate) fn surveyed(
        &mut self,
        round: u64,
        next: Option<KeyHash>,
        now: Instant,
        copies: &impl Copies,
        actions: &mut Vec<AntiEntropyAction>,
    ) {
        if let Some(pair) = self.surveys.answered(round, next, self.cycles) {
            note_caught_up(&pair, copies, actions);
        }
        self.begin_surveys(now, copies, actions);
        self.set_deadline();
    }

    /// Notes that this copy was surveyed to its end by `peer`, so that the digests of the two are
    /// compared again.
    pub(crate) fn was_surveyed_by(
        &mut self,
        peer: &Identity,
        partition: Partition,
        copies: &impl Copies,
    ) {
        for pair in copies.pairs_of(partition).iter().filter(|pair| pair.peer == *peer) {
            self.surveys.was_surveyed(pair);
        }
    }

    /// Compares these partitions key by key soon, with all that hold them: some of their keys
    /// expired before their time, which no digest tells.
    pub(crate) fn survey_soon(
        &mut self,
        partitions: &[Partition],
        now: Instant,
        copies: &impl Copies,
        actions: &mut Vec<AntiEntropyAction>,
    ) {
        for pair in partitions.iter().flat_map(|partition| copies.pairs_of(*partition)) {
            self.surveys.survey_soon(pair);
        }
        self.begin_surveys(now, copies, actions);
        self.set_deadline();
    }

    /// Notes that the peer does not compare this now, as it changes lists or merges. It is asked
    /// again for a while.
    pub(crate) fn put_off(&mut self, round: u64, now: Instant) {
        self.surveys.put_off(round, now + RECHECK_AFTER, MAX_LOOKS_MERGING);
    }

    /// Takes up that a merge of this partition is over. Now it is the peer's turn, which finds
    /// nothing to fetch if it lacked nothing.
    pub(crate) fn merged(
        &mut self,
        partition: Partition,
        now: Instant,
        copies: &impl Copies,
        actions: &mut Vec<AntiEntropyAction>,
    ) {
        for (pair, suspect) in &mut self.suspects {
            if pair.partition == partition && suspect.phase == Phase::Merging {
                (suspect.phase, suspect.looks) = (Phase::Told, 0);
                actions.push(AntiEntropyAction::Tell { partition, to: pair.peer });
            }
        }
        for pair in copies.pairs_of(partition) {
            let has_gaps = copies.held(&pair.peer, partition).is_some_and(|held| held.has_gaps);
            if has_gaps || self.surveys.has_gaps(&pair) {
                self.surveys.survey_soon(pair);
            }
        }
        self.begin_surveys(now, copies, actions);
        self.set_deadline();
    }

    /// Returns how many partitions differed from a peer's and are equal now.
    pub(crate) fn repaired(&self) -> u64 {
        self.repaired
    }

    fn set_deadline(&mut self) {
        let hurried = self.hurried.values().min().copied();
        self.deadline = self.next_step.into_iter().chain(hurried).chain(self.recheck_at).min();
    }

    /// Asks the next question of the cycle.
    fn step(&mut self, now: Instant, copies: &impl Copies, actions: &mut Vec<AntiEntropyAction>) {
        if self.cycle.is_empty() {
            self.begin_cycle(now, copies, actions);
        }
        self.next_step = Some(now + self.pace);
        if let Some(batch) = self.cycle.pop_front() {
            self.compare(batch, copies, actions);
        }
    }

    /// Collects what a cycle asks, and begins the surveys that are due in it.
    fn begin_cycle(
        &mut self,
        now: Instant,
        copies: &impl Copies,
        actions: &mut Vec<AntiEntropyAction>,
    ) {
        self.cycles += 1;
        self.surveys.begin_cycle();
        let mut pairs = copies.pairs();
        pairs.sort_unstable();
        self.surveys.keep_only(&pairs);
        pairs
            .retain(|pair| copies.asks(&pair.peer) || copies.is_behind(&pair.peer, pair.partition));
        let turn = self.cycles % SURVEY_CYCLES;
        let is_due = |pair: &&Pair| u64::from(pair.partition.index()) % SURVEY_CYCLES == turn;
        self.surveys.look_for_gaps(pairs.iter().filter(is_due), copies);
        self.begin_surveys(now, copies, actions);
        self.cycle = batches(pairs).into();
        self.pace = COMPARE_CYCLE / self.cycle.len().max(1) as u32;
    }

    /// Compares everything with the peers for which that is due.
    fn compare_hurried(
        &mut self,
        now: Instant,
        copies: &impl Copies,
        actions: &mut Vec<AntiEntropyAction>,
    ) {
        let due: Vec<Identity> =
            self.hurried.iter().filter(|(_, at)| **at <= now).map(|(peer, _)| *peer).collect();
        self.hurried.retain(|_, at| *at > now);
        let mut pairs = copies.pairs();
        pairs.retain(|pair| due.contains(&pair.peer));
        self.surveys.look_for_gaps(pairs.iter(), copies);
        for batch in batches(pairs) {
            self.compare(batch, copies, actions);
        }
        self.begin_surveys(now, copies, actions);
    }

    /// Looks again at what differed, and gives up what has differed for long. It or its peer is
    /// gone, or it does not come to rest.
    fn recheck(
        &mut self,
        now: Instant,
        copies: &impl Copies,
        actions: &mut Vec<AntiEntropyAction>,
    ) {
        let (surveys, cycle) = (&mut self.surveys, self.cycles);
        self.suspects.retain(|pair, suspect| {
            suspect.looks += u8::from(suspect.phase != Phase::Waiting);
            let most = if suspect.phase == Phase::Merging { MAX_LOOKS_MERGING } else { MAX_LOOKS };
            let is_busy = suspect.phase == Phase::Watching && suspect.sightings > 0;
            if rule(ProtocolMutant::BusyLetBe, suspect.looks > most && is_busy) {
                surveys.found_busy(*pair, cycle);
            }
            suspect.looks <= most
        });
        let is_looked_at =
            |suspect: &Suspect| matches!(suspect.phase, Phase::Watching | Phase::Told);
        let again = self.suspects.iter().filter(|(_, suspect)| is_looked_at(suspect));
        for batch in batches(again.map(|(pair, _)| *pair).collect()) {
            self.compare(batch, copies, actions);
        }
        self.begin_repairs(copies, actions);
        let is_open = !self.suspects.is_empty() || !self.surveys.is_empty();
        self.recheck_at = is_open.then_some(now + RECHECK_AFTER);
        self.begin_surveys(now, copies, actions);
    }

    /// Asks a peer's core about some partitions, unless it has too many questions already.
    fn compare(
        &mut self,
        mut batch: Vec<Pair>,
        copies: &impl Copies,
        actions: &mut Vec<AntiEntropyAction>,
    ) {
        let mut held = Vec::with_capacity(batch.len());
        batch.retain(|pair| {
            let copy = copies.held(&pair.peer, pair.partition);
            let copy = copy.filter(|held| !held.has_gaps && !self.surveys.has_gaps(pair));
            held.extend(copy);
            copy.is_some()
        });
        let Some(&Pair { peer, .. }) = batch.first() else { return };
        let open =
            self.open.values().filter(|open| open.first().is_some_and(|pair| pair.peer == peer));
        if open.count() >= MAX_OPEN {
            return;
        }
        self.next_round += 1;
        actions.push(AntiEntropyAction::Compare {
            round: self.next_round,
            to: peer,
            partitions: batch.iter().map(|pair| pair.partition).collect(),
            digest: digest(&held),
        });
        self.open.insert(self.next_round, batch);
    }

    /// Compares a pair with what the peer holds of it; `None` if the peer does not compare it now.
    fn compared(
        &mut self,
        pair: Pair,
        theirs: Option<&Held>,
        copies: &impl Copies,
        actions: &mut Vec<AntiEntropyAction>,
    ) {
        let both = copies.held(&pair.peer, pair.partition).zip(theirs);
        if both.is_some_and(|(mine, theirs)| mine.list != theirs.list) {
            actions.push(AntiEntropyAction::Meet { partition: pair.partition, to: pair.peer });
        }
        let both = both.filter(|(mine, theirs)| mine.list == theirs.list);
        if both.is_some_and(|(mine, theirs)| mine.has_gaps || theirs.has_gaps) {
            self.surveys.found_gaps(pair, self.cycles);
            self.suspects.remove(&pair);
            return;
        }
        let difference = both.map(|(mine, theirs)| mine.digest.wrapping_sub(theirs.digest));
        if difference == Some(0) {
            note_caught_up(&pair, copies, actions);
        }
        if copies.asks(&pair.peer) || difference.is_none_or(|difference| difference == 0) {
            self.saw(pair, difference);
        } else {
            // The peer's business.
            self.suspects.remove(&pair);
        }
    }

    /// Notes by how much a partition differs from the peer's; `None` if they cannot be compared
    /// now.
    fn saw(&mut self, pair: Pair, difference: Option<u64>) {
        let Some(suspect) = self.suspects.get_mut(&pair) else {
            if difference != Some(0) {
                // If they cannot be compared, lists change or one of the two merges. That is looked
                // at for a while.
                let (sightings, difference) =
                    (u8::from(difference.is_some()), difference.unwrap_or(0));
                let suspect = Suspect { phase: Phase::Watching, difference, sightings, looks: 0 };
                self.suspects.insert(pair, suspect);
            }
            return;
        };
        match (suspect.phase, difference) {
            (phase @ (Phase::Watching | Phase::Told), Some(0)) => {
                self.repaired += u64::from(phase == Phase::Told);
                self.suspects.remove(&pair);
            }
            (Phase::Watching, None) => suspect.sightings = 0,
            (Phase::Watching, Some(difference)) => {
                let is_same = suspect.difference == difference;
                suspect.sightings = if is_same { suspect.sightings + 1 } else { 1 };
                suspect.difference = difference;
                if suspect.sightings >= SIGHTINGS {
                    suspect.phase = Phase::Waiting;
                }
            }
            // The repair goes its way. What a look at the pair finds before it is over changes
            // nothing.
            (Phase::Waiting | Phase::Merging | Phase::Told, _) => {}
        }
    }

    /// Repairs what waits for it, as far as there is room.
    fn begin_repairs(&mut self, copies: &impl Copies, actions: &mut Vec<AntiEntropyAction>) {
        let is_open = |suspect: &&Suspect| matches!(suspect.phase, Phase::Merging | Phase::Told);
        let mut room = MAX_REPAIRS.saturating_sub(self.suspects.values().filter(is_open).count());
        self.suspects.retain(|pair, suspect| {
            if room == 0 || suspect.phase != Phase::Waiting {
                return true;
            }
            if copies.held(&pair.peer, pair.partition).is_none() {
                return false;
            }
            room -= 1;
            (suspect.phase, suspect.looks) = (Phase::Merging, 0);
            actions.push(AntiEntropyAction::Merge { partition: pair.partition, from: pair.peer });
            true
        });
    }

    /// Asks what is due to be surveyed, as far as there is room, and looks again while a survey is
    /// open.
    fn begin_surveys(
        &mut self,
        now: Instant,
        copies: &impl Copies,
        actions: &mut Vec<AntiEntropyAction>,
    ) {
        for question in self.surveys.begin(now, &mut self.next_round, copies) {
            let (round, after) = (question.round, question.after);
            let Pair { peer: to, partition, .. } = question.pair;
            actions.push(AntiEntropyAction::Survey { round, to, partition, after });
        }
        if !self.surveys.is_empty() {
            self.recheck_at.get_or_insert(now + RECHECK_AFTER);
        }
    }
}

/// Notes that this node's copy has what the peer has, if that is news.
fn note_caught_up(pair: &Pair, copies: &impl Copies, actions: &mut Vec<AntiEntropyAction>) {
    if copies.is_behind(&pair.peer, pair.partition) {
        actions.push(AntiEntropyAction::CaughtUp { partition: pair.partition });
    }
}

#[cfg(test)]
mod tests;
