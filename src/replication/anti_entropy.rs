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
//! **What it does not do.** It compares nothing while a list changes, which has its own way of merging; and no
//! partition of which this node or the other evicted anything: it would bring back what was evicted. A
//! connection that broke is followed by a comparison at once by whoever asks over it; where only the other
//! one's broke, the cycle finds out.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64;

use crate::clock::Instant;
use crate::placement::ListRef;
use crate::types::{CoreId, Identity, Partition};
use crate::wire::message::{Compared, Held};

/// How long it takes to compare everything once.
const CYCLE: Duration = Duration::from_secs(60);

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

/// One partition that this node has in common with a peer, and which of the peer's cores has it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Pair {
    pub(crate) peer: Identity,
    pub(crate) core: CoreId,
    pub(crate) partition: Partition,
}

/// What this node holds, as far as it is to be compared.
pub(crate) trait Copies {
    /// Everything that this node should ask others about.
    fn pairs(&self) -> Vec<Pair>;

    /// What this node holds of it now; `None` where it is not to be compared now.
    fn held(&self, peer: &Identity, partition: Partition) -> Option<Held>;
}

#[derive(Debug, PartialEq)]
pub(crate) enum AntiEntropyAction {
    /// Ask `to` about these; [`AntiEntropy::answered`] or [`AntiEntropy::lost`] is told with this number.
    Compare { round: u64, to: Identity, partitions: Vec<Partition>, digest: u64 },
    /// Merge what `from` holds; then [`AntiEntropy::merged`].
    Merge { partition: Partition, from: Identity },
    /// Have `to` merge what this node holds.
    Tell { partition: Partition, to: Identity, list: ListRef },
}

#[derive(Default)]
pub(crate) struct AntiEntropy {
    /// What is left to be asked in this cycle, how far apart, and when the next is due. There is no time
    /// before there are peers.
    cycle: VecDeque<Vec<Pair>>,
    pace: Duration,
    next_step: Option<Instant>,
    /// Peers that are to be compared as a whole, and when.
    hurried: BTreeMap<Identity, Instant>,
    /// What was asked and has no answer.
    open: BTreeMap<u64, Vec<Pair>>,
    next_round: u64,
    /// What differed when it was looked at last.
    suspects: BTreeMap<Pair, Suspect>,
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
            self.cycle = batches(copies.pairs()).into();
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
        for batch in batches(pairs) {
            self.compare(batch, copies, actions);
        }
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
        self.recheck_at = (!self.suspects.is_empty()).then_some(now + RECHECK_AFTER);
    }

    /// Asks a peer's core about some partitions.
    fn compare(&mut self, mut batch: Vec<Pair>, copies: &impl Copies, actions: &mut Vec<AntiEntropyAction>) {
        let mut held = Vec::with_capacity(batch.len());
        batch.retain(|pair| {
            let copy = copies.held(&pair.peer, pair.partition);
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
                    let both = mine.zip(theirs).filter(|(mine, theirs)| mine.list == theirs.list);
                    both.map(|(mine, theirs)| mine.digest.wrapping_sub(theirs.digest))
                }
            };
            self.saw(pair, difference);
        }
        self.begin_repairs(copies, actions);
        if !self.suspects.is_empty() {
            self.recheck_at.get_or_insert(now + RECHECK_AFTER);
        }
        self.set_wake();
    }

    /// The question will have no answer: the peer is asked again once it can be.
    pub(crate) fn lost(&mut self, round: u64, now: Instant) {
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
            (Some(suspect), None) if suspect.phase == Phase::Watching => {
                self.suspects.remove(&pair);
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
        list: ListRef,
        actions: &mut Vec<AntiEntropyAction>,
    ) {
        for (pair, suspect) in &mut self.suspects {
            if pair.partition == partition && suspect.phase == Phase::Merging {
                (suspect.phase, suspect.looks) = (Phase::Told, 0);
                actions.push(AntiEntropyAction::Tell { partition, to: pair.peer, list });
            }
        }
    }
}

/// The answer to a peer's question, which had this digest for all: what this node holds of what it was asked
/// about, if that is not the same.
pub(crate) fn compare(asked: u64, held: Vec<Held>) -> Compared {
    if digest(&held) == asked { Compared::Alike } else { Compared::Differ(held) }
}

/// One digest for all of these, in this order.
fn digest(held: &[Held]) -> u64 {
    let mut bytes = Vec::with_capacity(held.len() * 26);
    for Held { partition, list, digest } in held {
        bytes.extend_from_slice(&partition.index().to_le_bytes());
        bytes.extend_from_slice(&list.number.to_le_bytes());
        bytes.extend_from_slice(&list.digest.to_le_bytes());
        bytes.extend_from_slice(&digest.to_le_bytes());
    }
    xxh3_64(&bytes)
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
    use crate::replication::tests::node;

    const LIST: ListRef = ListRef { number: 3, digest: 7 };

    fn partition(index: u16) -> Partition {
        Partition::new(index).unwrap()
    }

    /// What a node holds in common with node 1: the digest of each partition.
    #[derive(Default)]
    struct Mine(BTreeMap<Partition, u64>);

    impl Copies for Mine {
        fn pairs(&self) -> Vec<Pair> {
            let pair = |partition: &Partition| Pair { peer: node(1), core: CoreId(0), partition: *partition };
            self.0.keys().map(pair).collect()
        }

        fn held(&self, _: &Identity, partition: Partition) -> Option<Held> {
            self.0.get(&partition).map(|digest| Held { partition, list: LIST, digest: *digest })
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
        two.machine.merged(partition(5), LIST, &mut two.others);
        assert_eq!(
            two.others,
            [AntiEntropyAction::Tell { partition: partition(5), to: node(1), list: LIST }]
        );
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
