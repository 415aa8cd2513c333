use super::*;
use crate::clock::Version;
use crate::entry::{Content, Entry};
use crate::placement::ListRef;
use crate::replication::anti_entropy::survey::BUSY_QUESTIONS;
use crate::replication::tests::node;
use crate::types::CoreId;
use crate::wire::message::{Seen, Survey};

const LIST: ListRef = ListRef { number: 3, digest: 7 };

fn partition(index: u16) -> Partition {
    Partition::new(index).unwrap()
}

/// The digest of a copy with gaps.
const GAPS: u64 = u64::MAX;

/// What a node holds in common with node 1: the digest of each partition.
#[derive(Default)]
struct Digests(BTreeMap<Partition, u64>);

impl Copies for Digests {
    fn pairs(&self) -> Vec<Pair> {
        let pair =
            |partition: &Partition| Pair { peer: node(1), core: CoreId(0), partition: *partition };
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

    fn is_behind(&self, _: &Identity, _: Partition) -> bool {
        false
    }
}

/// Two nodes, of which one asks.
struct Two {
    machine: AntiEntropy,
    mine: Digests,
    theirs: Digests,
    now: Instant,
    asked: usize,
    others: Vec<AntiEntropyAction>,
}

impl Two {
    fn new(partitions: u16) -> Self {
        let copies = || Digests((0..partitions).map(|index| (partition(index), 1)).collect());
        let mut machine = AntiEntropy::default();
        let now = Instant::from_nanos(1);
        machine.start(now);
        Self { machine, mine: copies(), theirs: copies(), now, asked: 0, others: Vec::new() }
    }

    /// Until the next time that it wants to be called: answers what it asks.
    fn turn(&mut self) {
        self.now = self.machine.deadline().unwrap();
        let mut actions = Vec::new();
        self.machine.handle_timers(self.now, &self.mine, &mut actions);
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
        while self.machine.deadline().unwrap() <= until {
            self.turn();
        }
        self.now = until;
    }
}

#[test]
fn a_cycle_asks_about_everything_once_evenly() {
    let mut two = Two::new(1024);
    two.run_for(COMPARE_CYCLE / 2);
    assert_eq!(two.asked, 2);
    two.run_for(10 * COMPARE_CYCLE);
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
    two.run_for(3 * COMPARE_CYCLE);
    assert_eq!((two.machine.repaired(), &two.others[..]), (1, &[][..]));
}

/// Writes on their way: at every look they differ, by something else each time. Then the digests
/// say nothing, and the keys are compared: once a cycle while few partitions are like that, and
/// each once in ten cycles at least, as it costs more.
#[test]
fn a_difference_that_changes_at_every_look_is_surveyed() {
    for (busy, parts) in [(1, 1), (1, 3), (100, 1), (100, 3)] {
        let mut two = Two::new(busy + 1);
        let mut found = vec![0; usize::from(busy)];
        let begin = two.now;
        for digest in 2.. {
            two.theirs.0.extend((0..busy).map(|index| (partition(index), digest)));
            two.turn();
            for index in surveyed(&mut two, parts) {
                found[usize::from(index)] += 1;
            }
            if two.now.since(begin) > 40 * COMPARE_CYCLE {
                break;
            }
        }
        let questions = parts * found.iter().sum::<u64>();
        let (least, most) = (found.iter().min().unwrap(), found.iter().max().unwrap());
        println!("{busy} of {parts} parts: {least} to {most} surveys, {questions} questions");
        assert!(*least >= 3, "{busy} of {parts} parts: {found:?}");
        if busy == 1 {
            assert!((35..=41).contains(most), "{most} surveys");
        }
        let rare = 5 * u64::from(busy) * parts;
        let extra = 41 * BUSY_QUESTIONS as u64 + parts;
        assert!(questions <= rare + extra, "{busy} of {parts} parts: {questions} questions");
    }
}

/// Both lack the same as before, though they take writes between the looks.
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
    two.run_for(2 * COMPARE_CYCLE);
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
    two.run_for(2 * COMPARE_CYCLE);
    assert_eq!(two.others, [], "not again");
    assert_eq!(two.asked - asked, 2, "the others are compared by digest");
    let mut again = Vec::new();
    for _ in 0..SURVEY_CYCLES {
        two.run_for(COMPARE_CYCLE);
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
    assert_eq!(asked, usize::from(MAX_LOOKS_MERGING) + 1);
}

fn entry(version: u64, value: Option<&str>) -> Entry {
    let content = value.map_or(Content::Tombstone, |value| Content::Value(value.as_bytes()));
    Entry::new(b"key", content, Version(version), None)
}

/// What each of two replicas with these eviction watermarks does about one key.
#[test]
fn a_survey_finds_who_lacks_what() {
    let hash = KeyHash(5);
    let differ = |theirs: Option<&Entry>, mark, mine: Option<Entry>| {
        let seen = |entry: &Entry| Seen {
            hash,
            version: entry.version(),
            digest: entry.exact_digest(hash),
        };
        let seen = theirs.map(seen).into_iter().collect();
        let asked = Survey {
            list: LIST,
            after: None,
            until: None,
            eviction_watermark: Version(mark),
            seen,
        };
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
    assert_eq!(
        differ(Some(&value(3)), 9, None),
        (0, 0, 1, 0),
        "the asker knows what becomes of it"
    );
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
        eviction_watermark: Version::ZERO,
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
    assert_eq!(two.others.len(), MAX_REPAIRS);
    two.run_for(RECHECK_AFTER * (u32::from(MAX_LOOKS_MERGING) + 2));
    assert_eq!(two.others.len(), 2 * MAX_REPAIRS);
}

#[test]
fn a_peer_whose_answer_is_lost_is_asked_again_at_once() {
    let mut two = Two::new(600);
    let mut actions = Vec::new();
    let begin = two.machine.deadline().unwrap();
    two.machine.handle_timers(begin, &two.mine, &mut actions);
    let [AntiEntropyAction::Compare { round, .. }] = actions[..] else { panic!("{actions:?}") };
    two.machine.lost(round, begin);
    two.machine.lost(round, begin);
    assert_eq!(two.machine.deadline(), Some(begin + HURRY_AFTER));
    two.turn();
    assert_eq!(two.asked, 3, "all of it, at once");
    assert!(two.machine.open.is_empty());
}
