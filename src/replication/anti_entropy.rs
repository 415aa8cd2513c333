//! Anti-entropy: finding, without being asked, what a replica has missed. One machine for each core.
//!
//! A write is offered to a replica that missed it for half a minute, and reads repair what they touch. What
//! both leave behind is found here: the replicas of a partition compare its digest once a [`CYCLE`], and
//! merge each other's entries where it differs.
//!
//! ```text
//! Cycle    every partition and co-replica once, some of them in one question, evenly over the time; of
//!          two replicas the one with the lower identity asks
//! Watching they differ: asked again, as writes on their way make digests differ for a moment
//! Waiting  they differ for good: this replica merges the other's entries, a few partitions at a time
//! Merging  … it does so
//! Told     … and tells the other one to do the same, then compares until they are equal
//! ```
//!
//! **What counts as a difference.** A digest is the sum of its entries' digests, so the difference of two
//! digests stays the same while both replicas take the same writes, and is another one while a write has
//! reached only one of them. A difference that was seen [`SIGHTINGS`] times unchanged is acted upon. A
//! partition that has a write on its way at every look is left alone until the next cycle.
//!
//! **What it costs.** A question names its partitions with two bytes each and has one hash for all of them;
//! where they are equal, so is the answer, in 32 bytes. With N = 3 there are 3 × 4096 pairs of copies in
//! the cluster, whatever its size: 24,576 bytes a cycle, and for each question of up to [`BATCH`] of them
//! some 70 bytes around. That is under 600 bytes a second in a whole cluster of 3 nodes with 2 cores, under
//! 200 for each node (TCP's own headers come on top); a larger cluster shares the same pairs among more
//! nodes, in smaller questions. Where something differs, the answer has 32 bytes for each partition of the
//! question that is compared, and a repair transfers the partition whole, a 4096th of the data: once where
//! the asker lacked something, twice where the other one did.
//!
//! **Where keys were evicted**, of a partition at either replica, digests say nothing, and merging would bring back
//! what was evicted. Such a copy has a *mark*, the highest version that it has evicted, and is compared key by key: a
//! [`Survey`] tells hash, version and digest of each entry in a range, the answer what differs there ([`survey`]).
//!
//! ```text
//! newer on one side        the other merges it
//! a value on one side      up to the other's mark: dropped, as if evicted here too; above it: merged there
//! a delete, an expired key on one side: merged there, whatever the mark: it is never evicted, and brings nothing back
//! ```
//!
//! So nothing goes to and fro: what a replica has dropped up to its mark is never offered to it again, and of what it
//! is given it can evict each version once. In the end the replicas agree on what is a miss, and nobody goes on with
//! a value whose successor the others have evicted. The price is that what one replica has no room for the others
//! forget too, at the next survey: replicas want equal memory.
//!
//! The asker applies one half at once and pushes the other half as writes; the answerer drops its part before it
//! answers. One question does for both, which is simpler than asking in turn, and costs 24 bytes for each key that
//! one of the two has. As no digest saves that, surveys are rare: when a partition is found to be of this kind, soon
//! after what may have made a replica miss something (a connection broke, a list changed, a merge ended), and
//! otherwise one [`SURVEY_CYCLES`]th of these partitions in each cycle, so each of them once an hour: a million keys
//! of 1 KiB cost 7 KB a second for each pair of replicas, a 40,000th of what they hold.
//!
//! **Another list.** Two replicas that serve different lists tell each other: one of them missed a change, and nobody who
//! made it may be left to say so.
//!
//! **What it does not do.** It compares nothing while a list changes, which has its own way of merging. A connection
//! that broke is followed by a comparison at once by whoever opened it, though only one of two repairs what differs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64;

use crate::clock::Instant;
use crate::entry::Entry;
use crate::types::{CoreId, Identity, KeyHash, Partition};
use crate::wire::message::{Compared, Held, Seen, Survey};
use crate::wire::timing::COMPARE_CYCLE as CYCLE;

/// After what time a peer is compared as a whole whose connection broke or whose lists changed: much of the
/// same kind happens together.
const HURRY_AFTER: Duration = Duration::from_secs(1);

/// How long until those that differ are compared again.
const RECHECK_AFTER: Duration = Duration::from_millis(500);

/// How often the same difference is seen until it is acted upon.
const SIGHTINGS: u8 = 3;

/// How often those that differ are looked at before they are left to the next cycle: for ten seconds, or for a
/// minute where one merges, which for large partitions takes a while and may have been given up.
const MOST_LOOKS: u8 = 20;
const MOST_LOOKS_MERGING: u8 = 120;

/// How many partitions one question compares at the most.
const BATCH: usize = 256;

/// How many partitions are repaired at a time.
const MOST_REPAIRS: usize = 16;

/// How many questions to one peer wait for an answer at the most: twice what all partitions take.
const MOST_OPEN: usize = 32;

/// In so many cycles everything is surveyed once that has gaps.
const SURVEY_CYCLES: u64 = 60;

/// How many surveys are under way at a time.
const MOST_SURVEYS: usize = 4;

/// One partition that this node has in common with a peer, and which of the peer's cores has it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Pair {
    pub(crate) peer: Identity,
    pub(crate) core: CoreId,
    pub(crate) partition: Partition,
}

/// What this node holds, as far as it is to be compared.
pub(crate) trait Copies {
    /// Everything that this node has in common with others.
    fn pairs(&self) -> Vec<Pair>;

    /// That of one partition.
    fn pairs_of(&self, partition: Partition) -> Vec<Pair>;

    /// Whether this node sees to it that what the two hold becomes equal: one of two does.
    fn asks(&self, peer: &Identity) -> bool;

    /// What this node holds of it now; `None` where it is not to be compared now.
    fn held(&self, peer: &Identity, partition: Partition) -> Option<Held>;
}

#[derive(Debug, PartialEq)]
pub(crate) enum AntiEntropyAction {
    /// Ask `to` about these; [`AntiEntropy::answered`] or [`AntiEntropy::lost`] is told with this number.
    Compare { round: u64, to: Identity, partitions: Vec<Partition>, digest: u64 },
    /// Merge what `from` holds; then [`AntiEntropy::merged`].
    Merge { partition: Partition, from: Identity },
    /// `to` serves another list: one of the two has missed a change.
    Meet { partition: Partition, to: Identity },
    /// Have `to` merge what this node holds.
    Tell { partition: Partition, to: Identity },
    /// Ask `to` about the part of the partition behind `after`; [`AntiEntropy::surveyed`], [`AntiEntropy::put_off`]
    /// or [`AntiEntropy::lost`] is told with this number.
    Survey { round: u64, to: Identity, partition: Partition, after: Option<KeyHash> },
}

#[derive(Default)]
pub(crate) struct AntiEntropy {
    /// What is left to be asked in this cycle, how far apart, and when the next is due. There is no time
    /// before there are peers.
    cycle: VecDeque<Vec<Pair>>,
    pace: Duration,
    next_step: Option<Instant>,
    cycles: u64,
    /// Peers that are to be compared as a whole, and when.
    hurried: BTreeMap<Identity, Instant>,
    /// What was asked and has no answer.
    open: BTreeMap<u64, Vec<Pair>>,
    next_round: u64,
    /// What differed when it was looked at last.
    suspects: BTreeMap<Pair, Suspect>,
    /// What is to be surveyed, or is.
    surveys: BTreeMap<Pair, Surveying>,
    /// Where the peer has gaps, as it said when it was asked last.
    gaps: BTreeSet<Pair>,
    recheck_at: Option<Instant>,
    wake: Option<Instant>,
    repaired: u64,
}

#[derive(Clone, Copy, Debug)]
struct Suspect {
    phase: Phase,
    /// This node's digest less the peer's.
    difference: u64,
    /// How often in a row it was seen.
    sightings: u8,
    /// How often this was looked at in this phase.
    looks: u8,
}

#[derive(Clone, Copy, Default, Debug)]
struct Surveying {
    /// Up to which hash it was done.
    after: Option<KeyHash>,
    /// The question that has no answer yet.
    round: Option<u64>,
    /// It is to begin anew when it is over: something has happened since it began.
    again: bool,
    /// How often it was put off, and until when it is.
    tries: u8,
    not_before: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Watching,
    Waiting,
    Merging,
    Told,
}

impl AntiEntropy {
    /// There are peers: begins, unless it has begun.
    pub(crate) fn start(&mut self, now: Instant) {
        self.next_step.get_or_insert(now + HURRY_AFTER);
        self.set_wake();
    }

    /// This peer may lack something, or have something: compares all of it soon.
    pub(crate) fn hurry(&mut self, peer: Identity, now: Instant) {
        self.hurried.entry(peer).or_insert(now + HURRY_AFTER);
        self.set_wake();
    }

    /// When [`resume`](Self::resume) wants to be called.
    pub(crate) fn wake(&self) -> Option<Instant> {
        self.wake
    }

    /// How many partitions differed from a peer's and are equal now.
    pub(crate) fn repaired(&self) -> u64 {
        self.repaired
    }

    fn set_wake(&mut self) {
        let hurried = self.hurried.values().min().copied();
        self.wake = self.next_step.into_iter().chain(hurried).chain(self.recheck_at).min();
    }

    /// Does what is due.
    pub(crate) fn resume(
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
        self.set_wake();
    }

    /// The next question of the cycle.
    fn step(&mut self, now: Instant, copies: &impl Copies, actions: &mut Vec<AntiEntropyAction>) {
        if self.cycle.is_empty() {
            self.cycles += 1;
            let mut pairs = copies.pairs();
            pairs.sort_unstable();
            self.gaps.retain(|pair| pairs.binary_search(pair).is_ok());
            pairs.retain(|pair| copies.asks(&pair.peer));
            let turn = self.cycles % SURVEY_CYCLES;
            let is_due = |pair: &&Pair| u64::from(pair.partition.index()) % SURVEY_CYCLES == turn;
            self.look_for_gaps(pairs.iter().filter(is_due), copies);
            self.begin_surveys(now, copies, actions);
            self.cycle = batches(pairs).into();
            self.pace = CYCLE / self.cycle.len().max(1) as u32;
        }
        self.next_step = Some(now + self.pace);
        if let Some(batch) = self.cycle.pop_front() {
            self.compare(batch, copies, actions);
        }
    }

    fn compare_hurried(&mut self, now: Instant, copies: &impl Copies, actions: &mut Vec<AntiEntropyAction>) {
        let due: Vec<Identity> =
            self.hurried.iter().filter(|(_, at)| **at <= now).map(|(peer, _)| *peer).collect();
        self.hurried.retain(|_, at| *at > now);
        let mut pairs = copies.pairs();
        pairs.retain(|pair| due.contains(&pair.peer));
        self.look_for_gaps(pairs.iter(), copies);
        for batch in batches(pairs) {
            self.compare(batch, copies, actions);
        }
        self.begin_surveys(now, copies, actions);
    }

    /// Has these surveyed, those of them where the peer alone has gaps once it says so again.
    fn look_for_gaps<'a>(&mut self, pairs: impl Iterator<Item = &'a Pair>, copies: &impl Copies) {
        for pair in pairs {
            if copies.held(&pair.peer, pair.partition).is_some_and(|held| held.has_gaps) {
                self.survey_soon(*pair);
            } else {
                self.gaps.remove(pair);
            }
        }
    }

    /// Something may have made one of the two miss what the other has: compares them anew.
    fn survey_soon(&mut self, pair: Pair) {
        let survey = self.surveys.entry(pair).or_default();
        survey.again = survey.after.is_some() || survey.round.is_some();
        survey.tries = 0;
    }

    /// Asks what is due to be surveyed, as far as there is room.
    fn begin_surveys(&mut self, now: Instant, copies: &impl Copies, actions: &mut Vec<AntiEntropyAction>) {
        let open = self.surveys.values().filter(|survey| survey.round.is_some()).count();
        let mut room = MOST_SURVEYS.saturating_sub(open);
        let next_round = &mut self.next_round;
        self.surveys.retain(|pair, survey| {
            if room == 0 || survey.round.is_some() || survey.not_before > now {
                return true;
            }
            if copies.held(&pair.peer, pair.partition).is_none() {
                // The list changes, or the peer is gone. Whoever is synced then begins anew.
                return false;
            }
            room -= 1;
            *next_round += 1;
            survey.round = Some(*next_round);
            let (round, after) = (*next_round, survey.after);
            actions.push(AntiEntropyAction::Survey {
                round,
                to: pair.peer,
                partition: pair.partition,
                after,
            });
            true
        });
        if !self.surveys.is_empty() {
            self.recheck_at.get_or_insert(now + RECHECK_AFTER);
        }
    }

    /// A survey's question was answered, and what it found is applied: it goes on behind `next`, if it does.
    pub(crate) fn surveyed(
        &mut self,
        round: u64,
        next: Option<KeyHash>,
        now: Instant,
        copies: &impl Copies,
        actions: &mut Vec<AntiEntropyAction>,
    ) {
        let found = self.surveys.iter_mut().find(|(_, survey)| survey.round == Some(round));
        if let Some((&pair, survey)) = found {
            match next {
                // Only ever onward.
                Some(next) if survey.after.is_none_or(|after| next > after) => {
                    (survey.after, survey.round, survey.tries) = (Some(next), None, 0);
                }
                _ if survey.again => *survey = Surveying::default(),
                _ => drop(self.surveys.remove(&pair)),
            }
        }
        self.begin_surveys(now, copies, actions);
        self.set_wake();
    }

    /// The peer does not compare this now, as it changes lists or merges: it is asked again for a while.
    pub(crate) fn put_off(&mut self, round: u64, now: Instant) {
        self.surveys.retain(|_, survey| {
            if survey.round != Some(round) {
                return true;
            }
            (survey.round, survey.not_before) = (None, now + RECHECK_AFTER);
            survey.tries += 1;
            survey.tries <= MOST_LOOKS_MERGING
        });
    }

    /// Looks again at what differed, and gives up what has differed for long: it, or its peer, is gone, or
    /// it does not come to rest.
    fn recheck(&mut self, now: Instant, copies: &impl Copies, actions: &mut Vec<AntiEntropyAction>) {
        self.suspects.retain(|_, suspect| {
            suspect.looks += u8::from(suspect.phase != Phase::Waiting);
            suspect.looks <= if suspect.phase == Phase::Merging { MOST_LOOKS_MERGING } else { MOST_LOOKS }
        });
        let is_looked_at = |suspect: &Suspect| matches!(suspect.phase, Phase::Watching | Phase::Told);
        let again = self.suspects.iter().filter(|(_, suspect)| is_looked_at(suspect));
        for batch in batches(again.map(|(pair, _)| *pair).collect()) {
            self.compare(batch, copies, actions);
        }
        self.begin_repairs(copies, actions);
        let is_open = !self.suspects.is_empty() || !self.surveys.is_empty();
        self.recheck_at = is_open.then_some(now + RECHECK_AFTER);
        self.begin_surveys(now, copies, actions);
    }

    /// Asks a peer's core about some partitions.
    fn compare(&mut self, mut batch: Vec<Pair>, copies: &impl Copies, actions: &mut Vec<AntiEntropyAction>) {
        let mut held = Vec::with_capacity(batch.len());
        batch.retain(|pair| {
            let copy = copies.held(&pair.peer, pair.partition);
            let copy = copy.filter(|held| !held.has_gaps && !self.gaps.contains(pair));
            held.extend(copy);
            copy.is_some()
        });
        let Some(&Pair { peer, .. }) = batch.first() else { return };
        let open = self.open.values().filter(|open| open.first().is_some_and(|pair| pair.peer == peer));
        if open.count() >= MOST_OPEN {
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

    /// The peer's answer to a question.
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
            let difference = match answer {
                Compared::Alike => Some(0),
                Compared::Differ(_) => {
                    let theirs = held.next_if(|held| held.partition == pair.partition);
                    let mine = copies.held(&pair.peer, pair.partition);
                    let both = mine.zip(theirs);
                    if both.is_some_and(|(mine, theirs)| mine.list != theirs.list) {
                        actions.push(AntiEntropyAction::Meet { partition: pair.partition, to: pair.peer });
                    }
                    let both = both.filter(|(mine, theirs)| mine.list == theirs.list);
                    if both.is_some_and(|(mine, theirs)| mine.has_gaps || theirs.has_gaps) {
                        if self.gaps.insert(pair) {
                            self.survey_soon(pair);
                        }
                        self.suspects.remove(&pair);
                        continue;
                    }
                    both.map(|(mine, theirs)| mine.digest.wrapping_sub(theirs.digest))
                }
            };
            if copies.asks(&pair.peer) || difference.is_none_or(|difference| difference == 0) {
                self.saw(pair, difference);
            } else {
                // The peer's business.
                self.suspects.remove(&pair);
            }
        }
        self.begin_repairs(copies, actions);
        self.begin_surveys(now, copies, actions);
        if !self.suspects.is_empty() {
            self.recheck_at.get_or_insert(now + RECHECK_AFTER);
        }
        self.set_wake();
    }

    /// The question will have no answer: the peer is asked again once it can be.
    pub(crate) fn lost(&mut self, round: u64, now: Instant) {
        self.put_off(round, now);
        if let Some(pair) = self.open.remove(&round).unwrap_or_default().first() {
            self.hurry(pair.peer, now);
        }
    }

    /// Notes by how much a partition differs from the peer's; `None` where they cannot be compared now.
    fn saw(&mut self, pair: Pair, difference: Option<u64>) {
        match (self.suspects.get_mut(&pair), difference) {
            (Some(suspect), Some(0)) if matches!(suspect.phase, Phase::Watching | Phase::Told) => {
                self.repaired += u64::from(suspect.phase == Phase::Told);
                self.suspects.remove(&pair);
            }
            (Some(suspect), None) if suspect.phase == Phase::Watching => suspect.sightings = 0,
            (None, None) => {
                // Lists change, or one of the two merges: looked at again for a while.
                let suspect = Suspect { phase: Phase::Watching, difference: 0, sightings: 0, looks: 0 };
                self.suspects.insert(pair, suspect);
            }
            (Some(suspect), Some(difference)) if suspect.phase == Phase::Watching => {
                let is_same = suspect.difference == difference;
                suspect.sightings = if is_same { suspect.sightings + 1 } else { 1 };
                suspect.difference = difference;
                if suspect.sightings >= SIGHTINGS {
                    suspect.phase = Phase::Waiting;
                }
            }
            (None, Some(difference)) if difference != 0 => {
                let suspect = Suspect { phase: Phase::Watching, difference, sightings: 1, looks: 0 };
                self.suspects.insert(pair, suspect);
            }
            _ => {}
        }
    }

    /// Repairs what waits for it, as far as there is room.
    fn begin_repairs(&mut self, copies: &impl Copies, actions: &mut Vec<AntiEntropyAction>) {
        let is_open = |suspect: &&Suspect| matches!(suspect.phase, Phase::Merging | Phase::Told);
        let mut room = MOST_REPAIRS.saturating_sub(self.suspects.values().filter(is_open).count());
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

    /// A merge of this partition is over: now it is the peer's turn, for which there is nothing to fetch if
    /// it lacked nothing.
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
            if has_gaps || self.gaps.contains(&pair) {
                self.survey_soon(pair);
            }
        }
        self.begin_surveys(now, copies, actions);
        self.set_wake();
    }
}

/// The answer to a peer's question, which had this digest for all: what this node holds of what it was asked
/// about, if that is not the same.
pub(crate) fn compare(asked: u64, held: Vec<Held>) -> Compared {
    if digest(&held) == asked { Compared::Alike } else { Compared::Differ(held) }
}

/// One digest for all of these, in this order.
fn digest(held: &[Held]) -> u64 {
    let mut bytes = Vec::with_capacity(held.len() * 27);
    for Held { partition, list, digest, has_gaps } in held {
        bytes.extend_from_slice(&partition.index().to_le_bytes());
        bytes.extend_from_slice(&list.number.to_le_bytes());
        bytes.extend_from_slice(&list.digest.to_le_bytes());
        bytes.extend_from_slice(&digest.to_le_bytes());
        bytes.push(u8::from(*has_gaps));
    }
    xxh3_64(&bytes)
}

/// How two replicas differ in a part of a partition.
#[derive(Default, Debug, PartialEq)]
pub(crate) struct Differences {
    /// What the asker lacks, or has an older state of.
    pub(crate) give: Vec<Entry>,
    /// Values that the asker may have evicted, or a newer state than them.
    pub(crate) evict: Vec<(KeyHash, Entry)>,
    /// What this replica lacks, and what it has an older state of.
    pub(crate) missing: Vec<KeyHash>,
    pub(crate) outdated: Vec<KeyHash>,
}

/// Compares what a peer has of a part with `mine`, all that this node has of it, up to and with the hash `end`.
pub(crate) fn survey(asked: &Survey, mine: Vec<(KeyHash, Entry)>, end: Option<KeyHash>) -> Differences {
    #[derive(Default)]
    struct Key {
        theirs: Vec<Seen>,
        mine: Vec<Entry>,
    }
    let is_within =
        |hash: KeyHash| asked.after.is_none_or(|after| hash > after) && end.is_none_or(|end| hash <= end);
    let mut keys: BTreeMap<KeyHash, Key> = BTreeMap::new();
    for seen in asked.seen.iter().filter(|seen| is_within(seen.hash)) {
        keys.entry(seen.hash).or_default().theirs.push(*seen);
    }
    for (hash, entry) in mine.into_iter().filter(|(hash, _)| is_within(*hash)) {
        keys.entry(hash).or_default().mine.push(entry);
    }
    let mut found = Differences::default();
    for (hash, Key { theirs, mine }) in keys {
        match (&theirs[..], &mine[..]) {
            (_, []) => found.missing.push(hash),
            ([], _) => {
                for entry in mine {
                    if entry.value().is_some() && entry.version() <= asked.mark {
                        found.evict.push((hash, entry));
                    } else {
                        found.give.push(entry);
                    }
                }
            }
            ([seen], [entry]) => {
                let is_same = seen.version == entry.version() && seen.digest == entry.digest(hash);
                if !is_same && seen.version >= entry.version() {
                    found.outdated.push(hash);
                }
                if !is_same && seen.version <= entry.version() {
                    found.give.push(mine[0].clone());
                }
            }
            _ => {
                // Several keys of one hash, of which nothing tells which is which: both sides merge all of them.
                let digests = |of: &mut dyn Iterator<Item = u64>| of.collect::<BTreeSet<u64>>();
                let theirs = digests(&mut theirs.iter().map(|seen| seen.digest));
                if theirs != digests(&mut mine.iter().map(|entry| entry.digest(hash))) {
                    found.outdated.push(hash);
                    found.give.extend(mine);
                }
            }
        }
    }
    found
}

/// What goes into one question each: some partitions of one core of one peer.
fn batches(mut pairs: Vec<Pair>) -> Vec<Vec<Pair>> {
    pairs.sort_unstable();
    let by_core = pairs.chunk_by(|one, next| (one.peer, one.core) == (next.peer, next.core));
    by_core.flat_map(|pairs| pairs.chunks(BATCH)).map(<[Pair]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Version;
    use crate::entry::Content;
    use crate::placement::ListRef;
    use crate::replication::tests::node;

    const LIST: ListRef = ListRef { number: 3, digest: 7 };

    fn partition(index: u16) -> Partition {
        Partition::new(index).unwrap()
    }

    /// The digest of a copy with gaps.
    const GAPS: u64 = u64::MAX;

    /// What a node holds in common with node 1: the digest of each partition.
    #[derive(Default)]
    struct Mine(BTreeMap<Partition, u64>);

    impl Copies for Mine {
        fn pairs(&self) -> Vec<Pair> {
            let pair = |partition: &Partition| Pair { peer: node(1), core: CoreId(0), partition: *partition };
            self.0.keys().map(pair).collect()
        }

        fn pairs_of(&self, partition: Partition) -> Vec<Pair> {
            self.pairs().into_iter().filter(|pair| pair.partition == partition).collect()
        }

        fn asks(&self, _: &Identity) -> bool {
            true
        }

        fn held(&self, _: &Identity, partition: Partition) -> Option<Held> {
            let held = |&digest: &u64| Held { partition, list: LIST, digest, has_gaps: digest == GAPS };
            self.0.get(&partition).map(held)
        }
    }

    /// Two nodes, of which one asks.
    struct Two {
        machine: AntiEntropy,
        mine: Mine,
        theirs: Mine,
        now: Instant,
        asked: usize,
        others: Vec<AntiEntropyAction>,
    }

    impl Two {
        fn new(partitions: u16) -> Self {
            let copies = || Mine((0..partitions).map(|index| (partition(index), 1)).collect());
            let mut machine = AntiEntropy::default();
            let now = Instant::from_nanos(1);
            machine.start(now);
            Self { machine, mine: copies(), theirs: copies(), now, asked: 0, others: Vec::new() }
        }

        /// Until the next time that it wants to be called: answers what it asks.
        fn turn(&mut self) {
            self.now = self.machine.wake().unwrap();
            let mut actions = Vec::new();
            self.machine.resume(self.now, &self.mine, &mut actions);
            while let Some(action) = actions.pop() {
                let AntiEntropyAction::Compare { round, to, partitions, digest } = action else {
                    self.others.push(action);
                    continue;
                };
                self.asked += 1;
                let held = partitions.iter().filter_map(|asked| self.theirs.held(&to, *asked));
                let answer = compare(digest, held.collect());
                self.machine.answered(round, &answer, self.now, &self.mine, &mut actions);
            }
        }

        fn run_for(&mut self, time: Duration) {
            let until = self.now + time;
            while self.machine.wake().unwrap() <= until {
                self.turn();
            }
            self.now = until;
        }
    }

    #[test]
    fn a_cycle_asks_about_everything_once_evenly() {
        let mut two = Two::new(1024);
        two.run_for(CYCLE / 2);
        assert_eq!(two.asked, 2);
        two.run_for(10 * CYCLE);
        assert_eq!((two.asked, &two.others[..]), (42, &[][..]));
    }

    #[test]
    fn a_difference_that_stays_is_merged_by_both_and_counted_once_it_is_gone() {
        let mut two = Two::new(300);
        two.theirs.0.insert(partition(5), 9);
        two.run_for(4 * RECHECK_AFTER);
        assert_eq!(two.others, [AntiEntropyAction::Merge { partition: partition(5), from: node(1) }]);
        two.others.clear();
        two.machine.merged(partition(5), two.now, &two.mine, &mut two.others);
        assert_eq!(two.others, [AntiEntropyAction::Tell { partition: partition(5), to: node(1) }]);
        assert_eq!(two.machine.repaired(), 0);
        two.mine.0.insert(partition(5), 9);
        two.run_for(RECHECK_AFTER);
        assert_eq!(two.machine.repaired(), 1);
        two.others.clear();
        two.run_for(3 * CYCLE);
        assert_eq!((two.machine.repaired(), &two.others[..]), (1, &[][..]));
    }

    /// Writes on their way: at every look they differ, by something else each time.
    #[test]
    fn a_difference_that_changes_is_not_acted_upon_for_ever() {
        let mut two = Two::new(2);
        for digest in 2..500 {
            two.theirs.0.insert(partition(0), digest);
            two.turn();
        }
        assert_eq!(two.others, []);
        assert!(two.machine.suspects.len() <= 1);
    }

    /// The same gap, though both take writes meanwhile.
    #[test]
    fn a_gap_is_seen_behind_writes_that_reach_both() {
        let mut two = Two::new(2);
        for digest in 2..8 {
            two.mine.0.insert(partition(0), digest);
            two.theirs.0.insert(partition(0), digest + 100);
            two.turn();
        }
        assert_eq!(two.others, [AntiEntropyAction::Merge { partition: partition(0), from: node(1) }]);
    }

    #[test]
    fn what_one_side_does_not_compare_is_let_be() {
        let mut two = Two::new(3);
        two.theirs.0.remove(&partition(0));
        two.mine.0.remove(&partition(1));
        two.mine.0.insert(partition(2), 1);
        two.run_for(2 * CYCLE);
        assert_eq!(two.others, []);
    }

    /// The partitions that are surveyed next, one part of each after the other.
    fn surveyed(two: &mut Two, parts: u64) -> Vec<u16> {
        let mut surveyed = Vec::new();
        while let Some(action) = two.others.pop() {
            let AntiEntropyAction::Survey { round, partition, after, .. } = action else {
                panic!("{action:?}")
            };
            let part = after.map_or(0, |after| after.0);
            surveyed.extend((part == 0).then_some(partition.index()));
            let next = (part + 1 < parts).then_some(KeyHash(part + 1));
            two.machine.surveyed(round, next, two.now, &two.mine, &mut two.others);
        }
        surveyed.sort_unstable();
        surveyed
    }

    #[test]
    fn where_either_side_has_gaps_it_is_surveyed_after_an_event_and_then_once_an_hour() {
        let mut two = Two::new(60);
        two.mine.0.insert(partition(33), GAPS);
        two.theirs.0.insert(partition(37), GAPS);
        two.machine.hurry(node(1), two.now);
        two.run_for(HURRY_AFTER);
        assert_eq!(surveyed(&mut two, 3), [33, 37]);
        let asked = two.asked;
        two.run_for(2 * CYCLE);
        assert_eq!(two.others, [], "not again");
        assert_eq!(two.asked - asked, 2, "the others are compared by digest");
        let mut again = Vec::new();
        for _ in 0..SURVEY_CYCLES {
            two.run_for(CYCLE);
            again.extend(surveyed(&mut two, 1));
        }
        again.sort_unstable();
        assert_eq!(again, [33, 37]);
        two.machine.merged(partition(37), two.now, &two.mine, &mut two.others);
        assert_eq!(surveyed(&mut two, 1), [37]);
    }

    #[test]
    fn a_survey_that_is_put_off_is_asked_again_and_given_up_after_a_while() {
        let mut two = Two::new(1);
        two.mine.0.insert(partition(0), GAPS);
        two.machine.hurry(node(1), two.now);
        let mut asked = 0;
        for _ in 0..1000 {
            two.run_for(RECHECK_AFTER);
            for action in std::mem::take(&mut two.others) {
                let AntiEntropyAction::Survey { round, .. } = action else { panic!("{action:?}") };
                two.machine.put_off(round, two.now);
                asked += 1;
            }
        }
        assert_eq!(asked, usize::from(MOST_LOOKS_MERGING) + 1);
    }

    fn entry(version: u64, value: Option<&str>) -> Entry {
        let content = value.map_or(Content::Tombstone, |value| Content::Value(value.as_bytes()));
        Entry::new(b"key", content, Version(version), None)
    }

    /// What each of two replicas with these marks does about one key.
    #[test]
    fn a_survey_finds_who_lacks_what() {
        let hash = KeyHash(5);
        let differ = |theirs: Option<&Entry>, mark, mine: Option<Entry>| {
            let seen = |entry: &Entry| Seen { hash, version: entry.version(), digest: entry.digest(hash) };
            let seen = theirs.map(seen).into_iter().collect();
            let asked = Survey { list: LIST, after: None, until: None, mark: Version(mark), seen };
            let found = survey(&asked, mine.into_iter().map(|entry| (hash, entry)).collect(), None);
            (found.give.len(), found.evict.len(), found.missing.len(), found.outdated.len())
        };
        let value = |version| entry(version, Some("value"));
        assert_eq!(differ(Some(&value(3)), 9, Some(value(3))), (0, 0, 0, 0), "the same");
        assert_eq!(differ(Some(&value(2)), 9, Some(value(3))), (1, 0, 0, 0), "newer here");
        assert_eq!(differ(Some(&value(4)), 9, Some(value(3))), (0, 0, 0, 1), "newer there");
        assert_eq!(differ(None, 9, Some(value(9))), (0, 1, 0, 0), "it may have been evicted there");
        assert_eq!(differ(None, 9, Some(value(10))), (1, 0, 0, 0), "it was not");
        assert_eq!(differ(None, 9, Some(entry(3, None))), (1, 0, 0, 0), "a delete was not");
        assert_eq!(differ(Some(&value(3)), 9, None), (0, 0, 1, 0), "the asker knows what becomes of it");
        let other = entry(3, Some("other"));
        assert_eq!(differ(Some(&other), 9, Some(value(3))), (1, 0, 0, 1), "one version, two values");
    }

    #[test]
    fn a_survey_is_about_its_part_only() {
        let mine = (0..10).map(|hash| (KeyHash(hash), entry(1, None))).collect();
        let asked = Survey {
            list: LIST,
            after: Some(KeyHash(2)),
            until: None,
            mark: Version::ZERO,
            seen: (0..10)
                .map(|hash| Seen { hash: KeyHash(hash + 20), version: Version(1), digest: 1 })
                .collect(),
        };
        let found = survey(&asked, mine, Some(KeyHash(6)));
        assert_eq!((found.give.len(), found.missing.len()), (4, 0));
    }

    #[test]
    fn only_so_many_are_repaired_at_a_time_and_a_merge_that_never_ends_is_given_up() {
        let mut two = Two::new(100);
        for index in 0..100 {
            two.theirs.0.insert(partition(index), 5);
        }
        two.run_for(5 * RECHECK_AFTER);
        assert_eq!(two.others.len(), MOST_REPAIRS);
        two.run_for(RECHECK_AFTER * (u32::from(MOST_LOOKS_MERGING) + 2));
        assert_eq!(two.others.len(), 2 * MOST_REPAIRS);
    }

    #[test]
    fn a_peer_whose_answer_is_lost_is_asked_again_at_once() {
        let mut two = Two::new(600);
        let mut actions = Vec::new();
        let begin = two.machine.wake().unwrap();
        two.machine.resume(begin, &two.mine, &mut actions);
        let [AntiEntropyAction::Compare { round, .. }] = actions[..] else { panic!("{actions:?}") };
        two.machine.lost(round, begin);
        two.machine.lost(round, begin);
        assert_eq!(two.machine.wake(), Some(begin + HURRY_AFTER));
        two.turn();
        assert_eq!(two.asked, 3, "all of it, at once");
        assert!(two.machine.open.is_empty());
    }
}
