use super::*;
use crate::clock::Version;
use crate::options::OnPartition;
use crate::placement::{Gone, Member, Placement, Site};
use crate::quorums::Quorums;
use crate::replication::tests::{list, node};
use crate::types::{KeyHash, NodeId};

const NOW: Instant = Instant::from_nanos(1);
const QUORUMS: Quorums = Quorums::exactly(3, 2, 1);
const RULES: ListRules = ListRules { quorums: QUORUMS, on_partition: OnPartition::Serve };

fn listed(list: Option<Arc<List>>, synced: bool) -> Answer {
    Answer::Listed(Listed {
        list,
        synced,
        holds: synced,
        purge_horizon: Version::ZERO,
        members_digest: 0,
    })
}

/// Node 3 comes in for node 0, while nodes 1 and 2 stay; it has asked all of them for their list.
struct Newcomer {
    handoff: Handoff,
    actions: Vec<HandoffAction>,
    /// How much of each chunk finds no room.
    missing_bytes: usize,
}

impl Newcomer {
    fn surveying(others: &[u64]) -> Self {
        let mut actions = Vec::new();
        let others = others.iter().map(|other| node(*other)).collect();
        let target = vec![node(1), node(2), node(3)];
        let mine = Mine { listed: nothing(), placement: &no_members() };
        let handoff = Handoff::change(node(3), RULES, target, others, &mine, NOW, &mut actions);
        Self { handoff, actions, missing_bytes: 0 }
    }

    fn answer(&mut self, from: u64, answer: Answer) -> &[HandoffAction] {
        let mine = Mine { listed: nothing(), placement: &no_members() };
        self.actions.clear();
        self.handoff.answered(node(from), answer, &mine, NOW, &mut self.actions);
        if let Some(HandoffAction::Apply(_)) = self.actions.last() {
            self.handoff.applied(self.missing_bytes, NOW, &mut self.actions);
        }
        &self.actions
    }
}

fn no_members() -> Placement {
    Placement::new(Vec::new(), QUORUMS.replicas, 0, Gone::new())
}

fn nothing() -> Listed {
    Listed {
        list: None,
        synced: false,
        holds: false,
        purge_horizon: Version::ZERO,
        members_digest: 0,
    }
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
    assert_eq!(newcomer.answer(2, listed(Some(old.clone()), true)), [copy]);

    let new = List::new(5, (1..4).map(node), Some(old.reference()));
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
    let behind = Answer::OtherList { list: Some(list(4, 0..3)), purge_horizon: Version::ZERO };
    assert_eq!(
        newcomer.answer(0, behind),
        [
            HandoffAction::Tell { to: node(0), list: new },
            HandoffAction::Ask { to: node(0), request: receipt }
        ]
    );
    assert_eq!(newcomer.answer(0, Answer::Received { covered: true }), [HandoffAction::Finished]);
}

/// The list does not change for a node that cannot hold the partition, and a giver has no receipt
/// for what was declined.
#[test]
fn what_finds_no_room_ends_the_handoff_before_the_list_changes_or_a_receipt_is_given() {
    let in_parts =
        |sequence| Answer::Chunk(Chunk { entries: Vec::new(), next: Some(KeyHash(1)), sequence });
    for has_adopted in [false, true] {
        let mut newcomer = Newcomer::surveying(&[0, 1, 2]);
        let old = list(4, 0..3);
        for from in [0, 1, 2] {
            newcomer.answer(from, listed(Some(old.clone()), true));
        }
        if has_adopted {
            newcomer.answer(0, chunk(7));
            let new = List::new(5, (1..4).map(node), Some(old.reference()));
            for from in [0, 1, 2] {
                newcomer.answer(from, listed(Some(new.clone()), false));
            }
        }
        newcomer.missing_bytes = 10;
        assert!(matches!(newcomer.answer(0, in_parts(9)), [_, HandoffAction::Fetch { .. }]));
        let actions = newcomer.answer(0, chunk(9));
        assert_eq!(actions[1..], [HandoffAction::NoRoom { missing_bytes: 20 }]);
        assert_eq!(newcomer.handoff.sources(), [node(0), node(1), node(2)]);
    }
}

/// Found by four real nodes on busy processors: two of them brought about lists of one number, each
/// without having seen the other's. The one whose digest was lower was replaced at the others, and
/// went on serving its own.
#[test]
fn a_list_that_others_turn_down_is_not_served_and_a_dispute_ends_with_a_higher_number() {
    let mut newcomer = Newcomer::surveying(&[0, 1, 2]);
    let old = list(4, 0..3);
    for from in [0, 1, 2] {
        newcomer.answer(from, listed(Some(old.clone()), true));
    }
    newcomer.answer(0, chunk(7));
    let other = List::new(5, [node(1), node(2), node(9)], None);
    assert_eq!(
        newcomer.answer(1, listed(Some(other.clone()), true)),
        [],
        "nothing is adopted here"
    );
    assert_eq!(newcomer.handoff.deadline(), Some(NOW + BACKOFF));

    let mut newcomer = Newcomer::surveying(&[1, 2, 9]);
    newcomer.answer(1, listed(Some(other), true));
    newcomer.answer(2, listed(Some(list(5, 1..4)), false));
    newcomer.answer(9, listed(Some(list(4, 0..3)), false));
    newcomer.answer(1, chunk(1));
    let adopts_higher = |action: &HandoffAction| {
        matches!(action, HandoffAction::Tell { list, .. }
            if list.number() == 6 && list.base().is_none())
    };
    assert!(newcomer.actions[1..].iter().all(adopts_higher));
}

/// Found by the simulator (seed 0): five nodes started at once. One of them had not heard of a
/// fifth that was already in the partition's list, took it for dead, and brought about a list
/// without it. The fifth was never told, and went on serving the old list for ever.
#[test]
fn a_list_with_a_member_never_heard_of_is_not_replaced() {
    let mut newcomer = Newcomer::surveying(&[0, 1]);
    let old = list(4, 0..3);
    newcomer.answer(0, listed(Some(old.clone()), true));
    assert_eq!(newcomer.answer(1, listed(Some(old), true)), []);
    assert_eq!(
        newcomer.handoff.deadline(),
        Some(NOW + BACKOFF),
        "it surveys again when it knows more"
    );
}

const LATER: Instant = Instant::from_nanos(1 + SILENCE.as_nanos() as u64);

fn placed(alive: &[u64], dead: &[u64]) -> Placement {
    let member = |number: &u64| Member {
        identity: node(*number),
        id: NodeId::new(&format!("n{number}")),
        cores: 1,
        site: Site::default(),
        leaving: false,
    };
    let gone = dead.iter().map(|number| (node(*number).node, node(*number).boot)).collect();
    Placement::new(alive.iter().map(member).collect(), QUORUMS.replicas, 1, gone)
}

/// Node 3, for the list 4 of nodes 0, 1 and 2, with what it sees of the members.
struct DrivenHandoff {
    handoff: Handoff,
    placement: Placement,
    actions: Vec<HandoffAction>,
}

impl DrivenHandoff {
    fn surveying(target: &[u64], alive: &[u64], dead: &[u64]) -> Self {
        let placement = placed(alive, dead);
        let others = alive.iter().filter(|other| **other != 3).map(|other| node(*other)).collect();
        let target = target.iter().map(|member| node(*member)).collect();
        let mut actions = Vec::new();
        let listed = Listed { members_digest: placement.digest(), ..nothing() };
        let mine = Mine { listed, placement: &placement };
        let handoff = Handoff::change(node(3), RULES, target, others, &mine, NOW, &mut actions);
        Self { handoff, placement, actions }
    }

    /// Takes up an answer of a member that sees the same members.
    fn answer(&mut self, from: u64, answer: Answer) -> &[HandoffAction] {
        let members_digest = self.placement.digest();
        let answer = match answer {
            Answer::Listed(listed) => Answer::Listed(Listed { members_digest, ..listed }),
            other => other,
        };
        self.told(from, answer)
    }

    fn told(&mut self, from: u64, answer: Answer) -> &[HandoffAction] {
        self.actions.clear();
        let listed = Listed { members_digest: self.placement.digest(), ..nothing() };
        let mine = Mine { listed, placement: &self.placement };
        self.handoff.answered(node(from), answer, &mine, LATER, &mut self.actions);
        if let Some(HandoffAction::Apply(_)) = self.actions.last() {
            self.handoff.applied(0, LATER, &mut self.actions);
        }
        &self.actions
    }

    /// Nothing else comes.
    fn silence(&mut self) -> &[HandoffAction] {
        self.actions.clear();
        let listed = Listed { members_digest: self.placement.digest(), ..nothing() };
        let mine = Mine { listed, placement: &self.placement };
        let others = self.placement.members().iter().map(|member| member.identity);
        let others = others.filter(|other| *other != node(3)).collect();
        self.handoff.handle_timers(others, &mine, LATER + SILENCE, &mut self.actions);
        &self.actions
    }
}

fn adopts(actions: &[HandoffAction]) -> Vec<Identity> {
    let told = actions.iter().filter_map(|action| match action {
        HandoffAction::Tell { to, .. } => Some(*to),
        _ => None,
    });
    told.collect()
}

#[test]
fn who_is_silent_for_long_is_done_without_where_the_others_suffice() {
    let old = list(4, 0..3);
    let mut driver = DrivenHandoff::surveying(&[1, 2, 3], &[0, 1, 2, 3], &[]);
    driver.answer(1, listed(Some(old.clone()), true));
    assert_eq!(driver.answer(2, listed(Some(old.clone()), true)), [], "node 0 is waited for");
    assert!(matches!(driver.silence(), [HandoffAction::Fetch { .. }]));
    assert_eq!(adopts(driver.answer(1, chunk(1))), [node(1), node(2)]);
    let new = List::new(5, (1..4).map(node), Some(old.reference()));
    driver.answer(1, listed(Some(new.clone()), true));
    let actions = driver.answer(2, listed(Some(new.clone()), true));
    assert_eq!(actions[0], HandoffAction::Adopt(new.clone()));
    driver.answer(1, chunk(2));
    driver.answer(2, chunk(2));
    // Node 0 is asked in vain; nodes 1 and 2 were synced, and what was acknowledged is on one of
    // them.
    assert!(driver.silence().contains(&HandoffAction::Synced(new)));
}

#[test]
fn a_list_is_not_replaced_where_too_many_are_silent() {
    let mut driver = DrivenHandoff::surveying(&[1, 2, 3], &[0, 1, 2, 3], &[]);
    driver.answer(1, listed(Some(list(4, 0..3)), true));
    assert_eq!(driver.silence(), []);
    assert!(driver.handoff.is_resting());
}

/// Node 1 alone might lack what nodes 0 and 2 acknowledged.
#[test]
fn one_synced_source_of_two_that_live_does_not_suffice() {
    let old = list(4, 0..3);
    let mut driver = DrivenHandoff::surveying(&[1, 2, 3], &[1, 2, 3], &[0]);
    driver.answer(1, listed(Some(old.clone()), true));
    assert!(matches!(
        driver.answer(2, listed(Some(old.clone()), true)),
        [HandoffAction::Fetch { .. }]
    ));
    driver.answer(1, chunk(1));
    let new = List::new(5, (1..4).map(node), Some(old.reference()));
    driver.answer(1, listed(Some(new.clone()), true));
    driver.answer(2, listed(Some(new), true));
    driver.answer(1, chunk(2));
    assert_eq!(driver.silence(), [], "node 2 lives");
    assert!(driver.handoff.is_resting());
}

#[test]
fn the_dead_are_excused_and_w_of_them_put_data_at_risk() {
    for (dead, is_at_risk) in [(&[0][..], false), (&[0, 1], true)] {
        let old = list(4, 0..3);
        let alive: Vec<u64> = (0..5).filter(|node| !dead.contains(node)).collect();
        let mut driver = DrivenHandoff::surveying(&[2, 3, 4], &alive, dead);
        for from in alive.iter().filter(|from| **from != 3) {
            let is_member = old.contains(&node(*from));
            driver.answer(*from, listed(is_member.then(|| old.clone()), is_member));
        }
        let source = alive[0];
        driver.answer(source, chunk(1));
        let new = List::new(5, (2..5).map(node), Some(old.reference()));
        let mut happened = Vec::new();
        for from in alive.iter().filter(|from| **from != 3) {
            driver.answer(*from, listed(Some(new.clone()), true));
            happened.append(&mut driver.actions);
        }
        assert!(happened.contains(&HandoffAction::Adopt(new)), "{happened:?}");
        assert_eq!(happened.contains(&HandoffAction::AtRisk), is_at_risk, "{dead:?}");
    }
}

/// The same as with [`OnPartition::Serve`] above, and nobody asks for a new list.
#[test]
fn a_partition_that_is_to_wait_excuses_nobody() {
    for (dead, goes_on) in [(&[0][..], true), (&[0, 1], false)] {
        let alive: Vec<u64> = (0..5).filter(|node| !dead.contains(node)).collect();
        let mut driver = DrivenHandoff::surveying(&[2, 3, 4], &alive, dead);
        driver.handoff.rules.on_partition = OnPartition::Majority;
        for from in alive.iter().filter(|from| **from != 3) {
            let is_member = *from < 3;
            driver.answer(*from, listed(is_member.then(|| list(4, 0..3)), is_member));
        }
        assert_eq!(driver.handoff.is_resting(), !goes_on, "{dead:?}");
        assert_eq!(driver.actions.is_empty(), !goes_on, "{dead:?}");
    }
}

/// A list is made out of nothing when no member has known any for a while, unless that might be on
/// the other side of a network partition.
#[test]
fn a_partition_that_is_to_wait_makes_no_first_list() {
    for (on_partition, is_made) in [(OnPartition::Serve, true), (OnPartition::Majority, false)] {
        let mut driver = DrivenHandoff::surveying(&[3, 4], &[3, 4], &[0, 1, 2]);
        driver.handoff.rules.on_partition = on_partition;
        let mut now = LATER;
        for _ in 0..2 * LOST_AFTER_SURVEYS {
            driver.answer(4, listed(None, false));
            now = now + MAX_BACKOFF;
            if driver.handoff.is_resting() {
                let mine = Mine { listed: nothing(), placement: &driver.placement };
                driver.handoff.handle_timers(vec![node(4)], &mine, now, &mut driver.actions);
            }
        }
        assert_eq!(adopts(&driver.actions) == [node(4)], is_made, "{:?}", driver.actions);
    }
}

/// Found by the simulator: of a list of two one died; another came in for it, and then the first
/// one died as well and was back at once, cut off from the one that had come in. All that it
/// reached knew the old list alone, whose members were dead, so it made another one from that,
/// empty, while the data was there.
#[test]
fn the_dead_are_not_excused_while_a_living_member_is_silent() {
    let mut driver = DrivenHandoff::surveying(&[2, 3, 4], &[2, 3, 4], &[0, 1]);
    driver.answer(2, listed(Some(list(4, 0..3)), true));
    assert_eq!(driver.silence(), [], "node 4 may know a later list");
    assert!(driver.handoff.is_resting());
}

/// Found by the simulator: a node that was cut off took the others for dead. When the network was
/// whole again it heard of one of them first, and made a list with that one, empty, from one whose
/// members it still took for dead.
#[test]
fn the_dead_are_not_excused_where_others_see_them_alive() {
    let mut driver = DrivenHandoff::surveying(&[3, 4], &[3, 4], &[0, 1, 2]);
    assert_eq!(driver.told(4, listed(Some(list(4, 0..3)), false)), []);
    assert!(driver.handoff.is_resting());
}

/// Its list could acknowledge nothing, and the nodes that it takes for dead might live.
#[test]
fn a_node_that_sees_no_one_makes_no_list_of_its_own() {
    let mut driver = DrivenHandoff::surveying(&[3], &[3], &[0, 1, 2]);
    assert_eq!(adopts(&driver.actions), []);
    let mine_listed = Listed {
        list: Some(list(4, 1..4)),
        synced: true,
        holds: true,
        purge_horizon: Version::ZERO,
        members_digest: 0,
    };
    let mine = Mine { listed: mine_listed, placement: &driver.placement };
    driver.handoff =
        Handoff::change(node(3), RULES, vec![node(3)], Vec::new(), &mine, NOW, &mut driver.actions);
    assert_eq!(driver.actions, []);
    assert!(driver.handoff.is_resting());
}
