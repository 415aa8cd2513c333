use super::lane::{NEXT_AFTER, OVERHEAD};
use super::limits::{BUSY_PAUSE, DIRECT_TRIES, HELPED_FOR, LINGER, MAX_PAUSE, MAX_WRITES, PAUSE};
use super::*;
use crate::entry::Content;
use crate::replication::tests::node;
use crate::types::{ClusterHash, Partition};
use crate::wire::frame::CHUNK_BYTES;
use crate::wire::timing::RELAY_ANSWERS_WITHIN;

const START: Instant = Instant::from_nanos(1_000_000_000);

fn entry(key: usize, version: u64, bytes: usize) -> (KeyHash, Entry) {
    let key = format!("key-{key}");
    let value = vec![7; bytes];
    let entry = Entry::new(key.as_bytes(), Content::Value(&value), Version(version), None);
    (KeyHash::of(ClusterHash::of("c"), key.as_bytes()), entry)
}

struct Test {
    relays: Relays,
    /// Up to there all was purged.
    forgotten: Version,
    now: Instant,
}

impl Test {
    /// One other data center, with these members of one core each.
    fn new(members: &[u64]) -> Self {
        let mut test = Self { relays: Relays::new(None), forgotten: Version::ZERO, now: START };
        test.place(members);
        test
    }

    fn place(&mut self, members: &[u64]) {
        let candidates: Vec<Candidate> = members.iter().map(|number| (node(*number), 1)).collect();
        let others =
            if candidates.is_empty() { vec![] } else { vec![("other".into(), candidates)] };
        self.relays.placed(self.now, others.into_iter().collect());
    }

    fn add(&mut self, keys: std::ops::Range<usize>, version: u64, bytes: usize) {
        for key in keys {
            let (hash, entry) = entry(key, version, bytes);
            self.relays.add(self.now, hash, &entry);
        }
    }

    /// What is sent by the time that the machine asks for: to whom, how many, and the batch's
    /// number.
    fn send(&mut self) -> Vec<(u64, Identity, Vec<Entry>)> {
        self.now = self.relays.deadline().unwrap_or(self.now).max(self.now);
        let mut actions = Vec::new();
        self.relays.handle_timers(self.now, |_, version| version <= self.forgotten, &mut actions);
        let parts = |RelayAction::Send { batch, to, entries, .. }| (batch, to, entries);
        actions.into_iter().map(parts).collect()
    }
}

#[test]
fn writes_go_together_and_wait_for_the_batch_before_unless_they_fill_one() {
    let mut test = Test::new(&[1, 2]);
    test.add(0..3, 1, 10);
    assert_eq!(test.relays.deadline(), Some(START + LINGER));
    let [(first, to, entries)] = &test.send()[..] else { panic!("one batch") };
    assert_eq!((*to, entries.len()), (node(1), 3));
    test.add(3..5, 1, 10);
    assert_eq!(
        test.relays.deadline(),
        Some(test.now + NEXT_AFTER),
        "two wait for the batch under way, for a while"
    );
    test.add(5..5 + MAX_WRITES, 1, 10);
    assert_eq!(
        test.send().iter().map(|(.., entries)| entries.len()).collect::<Vec<_>>(),
        [MAX_WRITES]
    );
    test.relays.relayed(*first, &[0, 1, 2], test.now);
    assert_eq!(
        test.relays.deadline(),
        Some(test.now + NEXT_AFTER),
        "not full, and another is under way"
    );
    assert_eq!(test.send().len(), 1, "which takes long");
    assert_eq!(test.relays.waiting(), MAX_WRITES + 2);
}

#[test]
fn of_a_key_only_the_newest_state_waits() {
    let mut test = Test::new(&[]);
    assert!(!test.relays.is_wanted(), "no member there yet");
    test.place(&[1]);
    test.place(&[]);
    test.add(0..1, 5, 10);
    test.add(0..1, 9, 30);
    test.add(0..1, 7, 20);
    assert_eq!(
        (test.relays.waiting(), test.relays.deadline()),
        (1, None),
        "it is kept while no member is there"
    );
    test.place(&[1]);
    let [(batch, _, entries)] = &test.send()[..] else { panic!("one batch") };
    assert_eq!(entries[0].version(), Version(9));
    // While it is under way another comes, and the batch comes to nothing.
    test.add(0..1, 11, 10);
    test.relays.failed(*batch, test.now);
    let [(batch, _, entries)] = &test.send()[..] else { panic!("one batch") };
    assert_eq!(entries.iter().map(Entry::version).collect::<Vec<_>>(), [Version(11)]);
    test.relays.relayed(*batch, &[0], test.now);
    assert_eq!((test.relays.waiting(), test.relays.deadline()), (0, None));
    assert!(
        test.relays.outboxes.values().all(|outbox| outbox.bytes == 0 && outbox.latest.is_empty())
    );
}

#[test]
fn what_a_relay_does_not_confirm_is_sent_again_and_another_takes_over_from_one_that_is_lost() {
    let mut test = Test::new(&[1, 2]);
    test.add(0..3, 1, 10);
    let (batch, ..) = test.send().remove(0);
    test.relays.relayed(batch, &[0, 2], test.now);
    let before = test.now;
    let (batch, to, entries) = test.send().remove(0);
    assert_eq!(
        (to, entries.len(), test.now),
        (node(2), 1, before + PAUSE),
        "another may reach more"
    );
    test.relays.failed(batch, test.now);
    let (batch, to, entries) = test.send().remove(0);
    assert_eq!((to, entries.len()), (node(1), 1), "after a pause, through another one");
    test.place(&[2]);
    test.relays.relayed(batch, &[0], test.now);
    assert_eq!(test.relays.waiting(), 1, "what a relay says that is none any more does not count");
    let (batch, to, _) = test.send().remove(0);
    assert_eq!(to, node(2));
    test.now = test.now + RELAY_ANSWERS_WITHIN;
    assert!(test.send().is_empty());
    let (again, ..) = test.send().remove(0);
    assert!(again > batch, "no answer is none, too");
}

/// Data center B is not reached, C is. After some tries B's batches go through C's relay, at
/// once from then on; after a while, or when B's members change, B is tried directly again.
#[test]
fn a_data_center_out_of_reach_gets_its_batches_through_a_third_one() {
    let mut test = Test::new(&[]);
    let place = |test: &mut Test, of_b: u64| {
        let others = [("b".into(), vec![(node(of_b), 1)]), ("c".into(), vec![(node(5), 1)])];
        test.relays.placed(test.now, others.into_iter().collect());
    };
    /// Sends what is due: B is reached through node 5 only. Returns the ways to B.
    fn send(test: &mut Test) -> Vec<Option<Identity>> {
        test.now = test.relays.deadline().unwrap_or(test.now).max(test.now);
        let mut actions = Vec::new();
        test.relays.handle_timers(test.now, |_, _| false, &mut actions);
        let mut ways = Vec::new();
        for RelayAction::Send { batch, to, helper, entries } in actions {
            if to == node(5) || helper == Some(node(5)) {
                let places: Vec<u16> = (0..entries.len() as u16).collect();
                test.relays.relayed(batch, &places, test.now);
            } else {
                test.relays.failed(batch, test.now);
            }
            ways.extend((to != node(5)).then_some(helper));
        }
        ways
    }
    place(&mut test, 1);
    test.add(0..3, 1, 10);
    let mut ways = Vec::new();
    while test.relays.waiting() > 0 {
        ways.extend(send(&mut test));
    }
    assert_eq!(ways, [None, None, None, Some(node(5))]);
    test.add(3..4, 1, 10);
    assert_eq!(send(&mut test), [Some(node(5))]);
    assert_eq!((test.relays.waiting(), test.relays.waiting_for_reachable()), (0, 0));
    // Another helper's word is needed when the one that is used is lost.
    test.add(4..5, 1, 10);
    test.now = test.now + HELPED_FOR;
    assert_eq!(send(&mut test), [None], "perhaps it is reached by now");
    place(&mut test, 2);
    assert_eq!(send(&mut test), [None], "another member might be");
}

/// Of four helpers, the fourth was never tried: each fourth try was a direct one. And of two
/// members, each was tried through the same helper only.
#[test]
fn every_member_is_tried_through_every_helper_and_directly() {
    for (members, helpers) in [(1, 1), (1, 4), (2, 2), (2, 3), (3, 3), (4, 1), (4, 4)] {
        let mut test = Test::new(&[]);
        let of_b = (0..members).map(|number| (node(number), 1)).collect();
        let mut others = BTreeMap::from([("b".into(), of_b)]);
        for helper in 0..helpers {
            let name = format!("c{helper}");
            others.insert(name.as_str().into(), vec![(node(100 + helper), 1)]);
        }
        test.relays.placed(test.now, others);
        test.add(0..1, 1, 10);
        let mut ways = std::collections::BTreeSet::new();
        let mut tries = 0;
        while tries < u64::from(DIRECT_TRIES) + members * (helpers + 1) {
            test.now = test.relays.deadline().unwrap().max(test.now);
            let mut actions = Vec::new();
            test.relays.handle_timers(test.now, |_, _| false, &mut actions);
            for RelayAction::Send { batch, to, helper, .. } in actions {
                if to.node.0 >= 100 {
                    test.relays.relayed(batch, &[0], test.now);
                } else {
                    (_, tries) = (ways.insert((to, helper)), tries + 1);
                    test.relays.failed(batch, test.now);
                }
            }
        }
        assert_eq!(ways.len() as u64, members * (helpers + 1), "{members}, {helpers}: {ways:?}");
    }
}

#[test]
fn a_helper_that_is_busy_is_asked_again() {
    let mut test = Test::new(&[1, 2]);
    test.add(0..3, 1, 10);
    let (batch, to, _) = test.send().remove(0);
    let before = test.now;
    test.relays.was_busy(batch, test.now);
    let (_, again, entries) = test.send().remove(0);
    assert_eq!((again, entries.len(), test.now), (to, 3, before + BUSY_PAUSE));
}

/// Data center B is reached through the hub only, C. The node of C that helped has more to do
/// than it can, for ever. It was asked again and again, though others of C have time.
#[test]
fn a_helper_that_is_busy_for_ever_is_left_for_another_one() {
    for serves in [6, 7] {
        let mut test = Test::new(&[]);
        let of_c = (5..8).map(|number| (node(number), 1)).collect();
        let others = [("b".into(), vec![(node(1), 1)]), ("c".into(), of_c)];
        test.relays.placed(test.now, others.into_iter().collect());
        test.add(0..3, 1, 10);
        let (mut asked, start) = (Vec::new(), test.now);
        while test.relays.waiting() > 0 && test.now < start + Duration::from_secs(60) {
            test.now = test.relays.deadline().unwrap().max(test.now);
            let mut actions = Vec::new();
            test.relays.handle_timers(test.now, |_, _| false, &mut actions);
            for RelayAction::Send { batch, to, helper, entries } in actions {
                asked.extend(helper.filter(|helper| asked.last() != Some(helper)));
                let serving = helper.unwrap_or(to).node.0;
                if to == node(1) && serving == 5 {
                    test.relays.was_busy(batch, test.now);
                } else if to == node(1) && serving != serves {
                    test.relays.failed(batch, test.now);
                } else {
                    let places: Vec<u16> = (0..entries.len() as u16).collect();
                    test.relays.relayed(batch, &places, test.now);
                }
            }
        }
        assert_eq!(test.relays.waiting(), 0, "{serves}: {asked:?}");
        assert_eq!(asked.last(), Some(&node(serves)));
    }
}

#[test]
fn what_is_too_much_is_left_to_comparison_the_oldest_first() {
    let mut test = Test::new(&[1]);
    test.relays.max_bytes = 10 * (1000 + 5 + OVERHEAD);
    test.place(&[]);
    test.add(0..25, 1, 1000);
    assert_eq!((test.relays.waiting(), test.relays.given_up()), (9, 16));
    test.place(&[1]);
    let (_, _, entries) = test.send().remove(0);
    assert_eq!(entries[0].key(), b"key-16");
}

#[test]
fn what_was_purged_meanwhile_is_not_sent() {
    let mut test = Test::new(&[]);
    test.place(&[1]);
    test.add(0..3, 5, 10);
    test.add(3..5, 7, 10);
    test.forgotten = Version(5);
    let (batch, _, entries) = test.send().remove(0);
    assert_eq!((entries.len(), test.relays.given_up()), (2, 3));
    test.relays.relayed(batch, &[0, 1], test.now);
    test.add(0..1, 5, 10);
    assert!(test.send().is_empty());
    assert_eq!((test.relays.waiting(), test.relays.deadline()), (0, None));
    assert!(test.relays.outboxes.values().all(|outbox| outbox.bytes == 0));
}

#[test]
fn a_large_value_is_a_batch_of_its_own() {
    let mut test = Test::new(&[1]);
    test.add(0..3, 1, CHUNK_BYTES);
    let sent = test.send();
    assert_eq!(sent.iter().map(|(.., entries)| entries.len()).collect::<Vec<_>>(), [1]);
    test.relays.relayed(sent[0].0, &[0], test.now);
    assert_eq!(test.send().len(), 1);
}

#[test]
fn a_data_center_without_members_is_not_waited_for_for_ever() {
    let mut test = Test::new(&[1]);
    test.place(&[]);
    test.add(0..2, 1, 10);
    test.now = START + PATIENCE;
    test.place(&[]);
    assert!(!test.relays.is_wanted() && test.relays.given_up() == 2);
}

/// Where answers took longer than they were waited for, no write was ever confirmed: each answer
/// was to a batch that had been given up, and did not count.
#[test]
fn an_answer_that_comes_late_is_progress() {
    let mut test = Test::new(&[1]);
    test.add(0..3, 1, 10);
    let (first, ..) = test.send().remove(0);
    test.now = test.now + RELAY_ANSWERS_WITHIN;
    assert!(test.send().is_empty(), "it is given up");
    test.add(2..3, 5, 10);
    test.relays.relayed(first, &[0, 2], test.now);
    assert_eq!(test.relays.waiting(), 2, "of one key a newer state waits");
    let (second, _, entries) = test.send().remove(0);
    assert_eq!(entries.iter().map(Entry::version).collect::<Vec<_>>(), [Version(1), Version(5)]);
    test.now = test.now + RELAY_ANSWERS_WITHIN;
    assert!(test.send().is_empty(), "it is given up");
    let (third, ..) = test.send().remove(0);
    test.relays.relayed(second, &[0, 1], test.now);
    // Whether the third one is answered or not: all that it has is confirmed.
    test.relays.failed(third, test.now);
    assert_eq!((test.relays.waiting(), test.relays.deadline()), (0, None));
    test.relays.relayed(third, &[0, 1], test.now);
    test.relays.relayed(first, &[0, 1, 2], test.now);
    let is_empty = |outbox: &Outbox| outbox.bytes == 0 && outbox.latest.is_empty();
    assert!(test.relays.outboxes.values().all(is_empty));
}

/// A data center of one node with two cores, of which one answers nothing. Its batches made the
/// writes for the other core wait, too, longer each time.
#[test]
fn a_core_that_does_not_answer_delays_no_other() {
    let mut test = Test::new(&[]);
    let others = [("other".into(), vec![(node(1), 2)])];
    test.relays.placed(test.now, others.into_iter().collect());
    let core = |hash: KeyHash| hash.partition().core(2).0;
    let mut of_silent = 0;
    for key in 0..500 {
        let (hash, entry) = entry(key, 1, 10);
        of_silent += usize::from(core(hash) == 0);
        test.relays.add(test.now, hash, &entry);
        let until = test.now + 5 * LINGER;
        while test.relays.deadline().is_some_and(|deadline| deadline <= until) {
            for (batch, _, entries) in test.send() {
                let hash = KeyHash::of(ClusterHash::of("c"), entries[0].key());
                if core(hash) == 0 {
                    test.relays.failed(batch, test.now);
                } else {
                    let places: Vec<u16> = (0..entries.len() as u16).collect();
                    test.relays.relayed(batch, &places, test.now);
                }
            }
        }
        test.now = until;
        assert_eq!(test.relays.waiting(), of_silent, "key {key} waits for another core");
    }
    assert!(of_silent > 200);
    assert_eq!(test.relays.waiting_for_reachable(), 0, "a core that leaves does not wait for it");
}

/// One partition is not written there. Its writes go apart, through each member in turn, and with
/// the others again when one of these has written them. That one relays from then on.
#[test]
fn a_partition_that_is_not_written_goes_apart() {
    let mut test = Test::new(&[1, 2]);
    let partition = |key: usize| entry(key, 1, 10).0.partition();
    let refused: Partition = partition(0);
    let of_key = |entry: &Entry| KeyHash::of(ClusterHash::of("c"), entry.key()).partition();
    let mut tried = Vec::new();
    for key in 0..1000 {
        test.add(key..key + 1, 1, 10);
        test.add(0..1, 2 + key as u64, 10);
        for (batch, to, entries) in test.send() {
            let apart = entries.iter().filter(|entry| of_key(entry) == refused).count();
            assert!(key == 0 || apart == 0 || apart == entries.len(), "key {key}");
            if apart > 0 {
                tried.push((test.now, to));
            }
            let places = entries.iter().zip(0..).filter(|(entry, _)| of_key(entry) != refused);
            let places: Vec<u16> = places.map(|(_, place)| place).collect();
            test.relays.relayed(batch, &places, test.now);
        }
    }
    assert!(tried.len() > 4, "{tried:?}");
    assert!(tried.windows(2).skip(1).all(|two| two[0].1 != two[1].1), "{tried:?}");
    let waiting = test.relays.waiting();
    assert!((1..10).contains(&waiting), "{waiting} wait");
    test.now = test.now + MAX_PAUSE;
    let mut confirmed_by = None;
    for (batch, to, entries) in test.send() {
        confirmed_by =
            entries.iter().any(|it| of_key(it) == refused).then_some(to).or(confirmed_by);
        let places: Vec<u16> = (0..entries.len() as u16).collect();
        test.relays.relayed(batch, &places, test.now);
    }
    assert_eq!(test.relays.waiting(), 0);
    test.add(0..2, 5000, 10);
    let [(_, relay, entries)] = &test.send()[..] else { panic!("one batch") };
    assert_eq!((Some(*relay), entries.len()), (confirmed_by, 2));
}
