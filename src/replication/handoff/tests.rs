mod agreement;

use super::propose::ALL_SPEAK;
use super::*;
use crate::placement::{Gone, Member, Site};
use crate::replication::tests::{list, node};
use crate::types::{KeyHash, NodeId};
use crate::wire::message::{Chunk, Extent, Listed, Request};
use crate::wire::retention::PurgeMark;

const NOW: Instant = Instant::from_nanos(1);
const QUORUMS: Quorums = Quorums::exactly(3, 2, 1);

fn wish(members: impl IntoIterator<Item = u64>) -> Wish {
    Wish { members: members.into_iter().map(node).collect(), witnesses: Vec::new() }
}

fn placed(alive: &[u64], dead: &[u64]) -> Placement {
    let member = |number: &u64| Member {
        identity: node(*number),
        id: NodeId::new(&format!("n{number}")),
        cores: 1,
        site: Site::default(),
        leaving: false,
    };
    let mut gone = Gone::new();
    dead.iter().for_each(|number| gone.record(&node(*number), false));
    Placement::new(alive.iter().map(member).collect(), QUORUMS.replicas, 1, gone)
}

/// Node 3, with what it knows, and what it wants next.
struct Driver {
    handoff: Handoff,
    serves: bool,
    list: Option<Arc<List>>,
    is_open: bool,
    extent: Extent,
    must_finish: bool,
    placement: Placement,
    now: Instant,
    actions: Vec<HandoffAction>,
    /// All that it ever wanted.
    wanted: Vec<HandoffAction>,
    /// How much of each chunk finds no room.
    missing_bytes: usize,
}

impl Driver {
    /// Node 3 comes in for node 0, which leaves, while nodes 1 and 2 stay.
    fn newcomer(list: Option<Arc<List>>) -> Self {
        Self::of(true, wish(1..4), list, false, placed(&[0, 1, 2, 3], &[]))
    }

    fn of(
        serves: bool,
        wish: Wish,
        list: Option<Arc<List>>,
        is_open: bool,
        placement: Placement,
    ) -> Self {
        let terms = Terms { me: node(3), quorums: QUORUMS, serves };
        let handoff = Handoff::resting(terms, Goal::Change(wish));
        let mut driver = Self {
            handoff,
            serves,
            list,
            is_open,
            extent: if is_open { Extent::Whole } else { Extent::Any },
            must_finish: false,
            placement,
            now: NOW,
            actions: Vec::new(),
            wanted: Vec::new(),
            missing_bytes: 0,
        };
        driver.step(|handoff, mine, now, actions| handoff.begin(mine, now, actions));
        driver
    }

    fn step(
        &mut self,
        work: impl FnOnce(&mut Handoff, &Mine<'_>, Instant, &mut Vec<HandoffAction>),
    ) -> &[HandoffAction] {
        self.actions.clear();
        let mut work = Some(work);
        loop {
            let mine = Mine {
                list: self.list.clone(),
                is_open: self.is_open,
                extent: self.extent,
                must_finish: self.must_finish,
                placement: &self.placement,
            };
            let mut todo = Vec::new();
            match work.take() {
                Some(work) => work(&mut self.handoff, &mine, self.now, &mut todo),
                // What the shard does at once.
                None => match self.actions.last().cloned() {
                    Some(HandoffAction::Learn(list)) => {
                        let mine = Mine { list: Some(list.clone()), is_open: false, ..mine };
                        self.handoff.learned(&list, &mine, self.now, &mut todo);
                        self.list = Some(list);
                    }
                    Some(HandoffAction::Apply(_)) => {
                        self.handoff.applied(self.missing_bytes, &mine, self.now, &mut todo);
                    }
                    _ => break,
                },
            }
            let is_over = todo.is_empty();
            self.wanted.extend(todo.iter().cloned());
            self.actions.extend(todo);
            if is_over {
                break;
            }
        }
        &self.actions
    }

    fn answer(&mut self, from: u64, answer: Answer) -> &[HandoffAction] {
        self.step(|handoff, mine, now, actions| {
            handoff.answered(node(from), answer, mine, now, actions);
        })
    }

    /// Nothing else comes for so long.
    fn pass(&mut self, time: Duration) -> &[HandoffAction] {
        self.now = self.now + time;
        self.step(|handoff, mine, now, actions| handoff.handle_timers(mine, now, actions))
    }

    /// Lets these answer all that is asked of them, as acceptors that accept everything and as
    /// sources that have the list open and hold nothing, until nothing more is asked.
    fn answered_by(&mut self, these: &[u64]) -> &mut Self {
        let mut asked = self.actions.clone();
        while !asked.is_empty() {
            let mut next = Vec::new();
            for action in asked {
                let (to, answer) = match action {
                    HandoffAction::Ask { to, request: Request::Prepare { .. } } => {
                        (to, promised(None))
                    }
                    HandoffAction::Ask { to, request: Request::Accept { .. } } => {
                        (to, Answer::Accepted)
                    }
                    HandoffAction::Ask { to, request: Request::AskList } => {
                        (to, listed(self.list.clone(), self.placement.digest()))
                    }
                    HandoffAction::Ask { to, request: Request::Receipt { .. } } => {
                        (to, Answer::Received { covered: true })
                    }
                    HandoffAction::Fetch { to, .. } => (to, chunk(1, Extent::Open)),
                    _ => continue,
                };
                if these.iter().any(|number| node(*number) == to) {
                    self.step(|handoff, mine, now, actions| {
                        handoff.answered(to, answer, mine, now, actions);
                    });
                    next.extend(self.actions.iter().cloned());
                }
            }
            asked = next;
        }
        self
    }

    fn learned(&self) -> Option<Arc<List>> {
        self.wanted.iter().rev().find_map(|action| match action {
            HandoffAction::Learn(list) => Some(list.clone()),
            _ => None,
        })
    }

    fn is_whole(&self) -> bool {
        self.wanted.iter().any(|action| matches!(action, HandoffAction::Whole(_)))
    }

    fn has_proposed(&self) -> bool {
        self.wanted.iter().any(|action| {
            matches!(action, HandoffAction::Ask { request: Request::Accept { .. }, .. })
        })
    }

    fn is_at_risk(&self) -> bool {
        self.wanted.contains(&HandoffAction::AtRisk)
    }
}

fn listed(list: Option<Arc<List>>, members_digest: u64) -> Answer {
    Answer::Listed(Listed { list, purged: PurgeMark::default(), members_digest })
}

fn promised(accepted: Option<(Ballot, Arc<List>)>) -> Answer {
    Answer::Promised { accepted, extent: Extent::Whole }
}

fn chunk(sequence: u64, extent: Extent) -> Answer {
    let (entries, purged) = (Vec::new(), PurgeMark::default());
    Answer::Chunk(Chunk { entries, next: None, sequence, extent, purged, is_behind: false })
}

fn other_list(list: Option<Arc<List>>) -> Answer {
    Answer::OtherList { list, purged: PurgeMark::default() }
}

/// Returns whom an action asks for the partition's entries, and since when.
fn fetches(actions: &[HandoffAction]) -> Vec<(Identity, u64)> {
    let fetched = actions.iter().filter_map(|action| match action {
        HandoffAction::Fetch { to, since, .. } => Some((*to, *since)),
        _ => None,
    });
    fetched.collect()
}

fn told(actions: &[HandoffAction]) -> Vec<Identity> {
    let told = actions.iter().filter_map(|action| match action {
        HandoffAction::Tell { to, .. } => Some(*to),
        _ => None,
    });
    told.collect()
}

#[test]
fn a_newcomer_copies_has_the_list_decided_merges_and_relieves_the_giver() {
    let old = list(4, 0..3);
    let mut driver = Driver::newcomer(Some(old.clone()));
    let (first, _) = fetches(&driver.actions)[0];
    let first = first.node.0;
    assert_eq!(driver.answer(first, chunk(7, Extent::Open)).len(), 4, "three acceptors are asked");
    driver.answer(1, promised(None));
    driver.answer(2, promised(None));
    assert_eq!(driver.answer(0, promised(None)).len(), 3);
    driver.answer(0, Answer::Accepted);
    driver.answer(2, Answer::Accepted);
    let new = old.next(&wish(1..4));
    assert_eq!(driver.learned(), Some(new.clone()));
    assert_eq!(told(&driver.actions), [node(1), node(2), node(0)]);
    // What it copied before has changed since.
    let since = |from| if from == first { 7 } else { 0 };
    let mut sources = fetches(&driver.actions);
    for merged in 1..=3 {
        let (from, fetched_since) = sources[0];
        assert_eq!(fetched_since, since(from.node.0));
        driver.answer(from.node.0, chunk(9, Extent::Open));
        assert_eq!(driver.is_whole(), merged >= 2, "f + 1 are enough");
        sources = fetches(&driver.actions);
    }
    let receipt = Request::Receipt { list: new.reference(), covers: 9 };
    let asked = HandoffAction::Ask { to: node(0), request: receipt };
    assert_eq!(driver.actions.last(), Some(&asked));
    // The giver has not heard of the list: it is told, and asked again.
    let told = HandoffAction::Tell { to: node(0), list: new };
    assert_eq!(driver.answer(0, other_list(Some(old))), [told, asked]);
    assert_eq!(driver.answer(0, Answer::Received { covered: true }), [HandoffAction::Finished]);
}

/// The list does not change for a node that cannot hold the partition.
#[test]
fn what_finds_no_room_ends_the_handoff_before_the_list_changes() {
    let mut driver = Driver::newcomer(Some(list(4, 0..3)));
    let from = fetches(&driver.actions)[0].0.node.0;
    driver.missing_bytes = 10;
    let part = |sequence| match chunk(sequence, Extent::Open) {
        Answer::Chunk(chunk) => Answer::Chunk(Chunk { next: Some(KeyHash(1)), ..chunk }),
        other => other,
    };
    assert!(matches!(driver.answer(from, part(9)), [_, HandoffAction::Fetch { .. }]));
    let actions = driver.answer(from, chunk(9, Extent::Open));
    assert_eq!(actions[1..], [HandoffAction::NoRoom { missing_bytes: 20 }]);
}

#[test]
fn what_was_accepted_under_the_highest_ballot_is_decided_instead_of_the_wish() {
    let old = list(4, 0..3);
    let under = |round| Ballot { round, ..Ballot::default() };
    let (low, high) = (old.next(&wish([0, 1, 8])), old.next(&wish([0, 1, 9])));
    let mut driver = Driver::newcomer(Some(old.clone()));
    driver.answered_by(&[]);
    let from = fetches(&driver.actions)[0].0.node.0;
    driver.answer(from, chunk(1, Extent::Open));
    driver.answer(1, promised(Some((under(1), high.clone()))));
    driver.answer(2, promised(Some((under(0), low))));
    driver.answer(0, promised(None));
    let proposed = |action: &HandoffAction| match action {
        HandoffAction::Ask { request: Request::Accept { value, .. }, .. } => Some(value.clone()),
        _ => None,
    };
    let proposed: Vec<_> = driver.actions.iter().filter_map(proposed).collect();
    assert_eq!(proposed, [high.clone(), high.clone(), high]);
}

/// Whether the next list is proposed when node 0 has it to say whether it is whole, or is silent.
/// The two other members promise, and are whole.
fn proposes(extent: Option<Extent>) -> bool {
    let mut driver = Driver::newcomer(Some(list(4, 0..3)));
    let from = fetches(&driver.actions)[0].0.node.0;
    driver.answer(from, chunk(1, Extent::Open));
    driver.answer(1, promised(None));
    driver.answer(2, promised(None));
    match extent {
        Some(extent) => driver.answer(0, Answer::Promised { accepted: None, extent }),
        None => driver.pass(ALL_SPEAK),
    };
    driver.has_proposed()
}

/// A member that came in with the list before had not opened it yet, and was the last to answer.
/// The two others were whole, and made the next list without its word. With one newcomer more,
/// that list had two sources: none of them might fail.
#[test]
fn a_member_that_is_slow_to_say_that_it_is_not_whole_is_waited_for() {
    assert!(!proposes(Some(Extent::Any)), "it is too early");
    assert!(proposes(Some(Extent::Whole)));
    assert!(proposes(None), "one that is silent holds up no list");
    #[cfg(feature = "sim")]
    {
        let mutant = Some(crate::mutants::ProtocolMutant::UnheardSkipped);
        crate::mutants::set_for_this_thread(mutant, u16::MAX);
        assert!(proposes(Some(Extent::Any)), "the mutant is noticed");
        crate::mutants::set_for_this_thread(None, u16::MAX);
    }
}

/// A driver that hears nothing for half a minute but entries, if `sources` send them. Returns whom
/// it asks for a later list. It makes none itself.
fn looks_further(mut driver: Driver, sources: bool) -> Vec<u64> {
    for _ in 0..30 {
        for (from, _) in fetches(&driver.actions.clone()) {
            if sources {
                driver.answer(from.node.0, chunk(1, Extent::Open));
            }
        }
        driver.pass(SILENCE);
    }
    assert_eq!(driver.learned(), None);
    let is_survey = |action: &HandoffAction| match action {
        HandoffAction::Ask { to, request: Request::AskList } => Some(to.node.0),
        _ => None,
    };
    let mut asked: Vec<u64> = driver.wanted.iter().filter_map(is_survey).collect();
    asked.sort_unstable();
    asked.dedup();
    asked
}

/// The list may have been replaced by one whose proposer does not reach this node.
#[test]
fn one_that_hears_nothing_of_its_list_asks_those_that_should_be_in_it_for_a_later_one() {
    let of = |serves, old| {
        Driver::of(serves, wish(3..6), Some(old), false, placed(&[1, 3, 4, 5], &[6, 7]))
    };
    for serves in [false, true] {
        assert_eq!(looks_further(of(serves, list(4, 0..3)), false), [4, 5], "a newcomer");
        let pending = list(4, 0..3).next(&wish(1..4));
        assert_eq!(looks_further(of(serves, pending), false), [4, 5], "a pending member");
    }
    assert_eq!(looks_further(of(false, list(4, 6..8)), false), [4, 5], "all are dead");
    assert_eq!(looks_further(of(false, list(4, 0..3)), true), [4, 5], "no promises");
}

#[test]
fn a_refusal_is_answered_with_a_higher_ballot() {
    let mut driver = Driver::newcomer(Some(list(4, 0..3)));
    let from = fetches(&driver.actions)[0].0.node.0;
    driver.answer(from, chunk(1, Extent::Open));
    let promised = Ballot { round: 7, ..Ballot::default() };
    assert_eq!(driver.answer(1, Answer::Refused { promised }), []);
    assert!(!driver.handoff.is_resting(), "the two others might promise");
    assert_eq!(driver.answer(2, Answer::Refused { promised }), []);
    assert!(driver.handoff.is_resting());
    driver.pass(2 * BACKOFF);
    let from = fetches(&driver.actions)[0].0.node.0;
    driver.answer(from, chunk(1, Extent::Open));
    let is_higher = |action: &HandoffAction| {
        matches!(action, HandoffAction::Ask { request: Request::Prepare { ballot, .. }, .. }
            if ballot.round == 8)
    };
    assert_eq!(driver.actions.iter().filter(|action| is_higher(action)).count(), 3);
}

/// One that has not heard of the list in whose register it is asked is told that list first, once.
#[test]
fn an_acceptor_that_is_behind_is_told_the_list() {
    let old = list(4, 0..3);
    let mut driver = Driver::newcomer(Some(old.clone()));
    let from = fetches(&driver.actions)[0].0.node.0;
    driver.answer(from, chunk(1, Extent::Open));
    let older = other_list(Some(list(3, 0..3)));
    assert!(matches!(
        driver.answer(1, older.clone()),
        [HandoffAction::Tell { .. }, HandoffAction::Ask { request: Request::Prepare { .. }, .. }]
    ));
    assert_eq!(driver.answer(1, older), [], "it does not learn it");
}

#[test]
fn a_replica_that_stays_copies_nothing_and_accepts_last() {
    let old = list(4, 1..4);
    let mut driver = Driver::of(true, wish([1, 3]), Some(old), true, placed(&[1, 3], &[2]));
    driver.answered_by(&[3]);
    assert_eq!(driver.learned(), None, "it has not accepted itself");
    let asked_itself = |action: &HandoffAction| {
        matches!(action, HandoffAction::Ask { to, request: Request::Accept { .. } }
            if *to == node(3))
    };
    driver.answer(1, promised(None));
    assert!(!driver.wanted.iter().any(asked_itself));
    driver.answer(1, Answer::Accepted);
    assert!(driver.wanted.iter().any(asked_itself), "that decides it");
    driver.is_open = true;
    driver.answer(3, Answer::Accepted);
    assert_eq!(driver.learned().map(|list| list.number()), Some(5));
}

#[test]
fn a_silent_member_holds_up_neither_the_decision_nor_the_opening() {
    let mut driver = Driver::newcomer(Some(list(4, 0..3)));
    driver.answered_by(&[1, 2]);
    driver.pass(SILENCE);
    driver.answered_by(&[1, 2]);
    driver.pass(ALL_SPEAK);
    driver.answered_by(&[1, 2]);
    assert!(driver.learned().is_some());
    driver.pass(SILENCE);
    driver.answered_by(&[1, 2]);
    assert!(driver.is_whole() && !driver.is_at_risk());
}

/// A source that is pending itself, or that does not know the list, might lack what the others
/// acknowledged.
#[test]
fn only_sources_that_had_the_list_open_count() {
    let mut driver = Driver::newcomer(Some(list(4, 0..3)));
    let new = list(4, 0..3).next(&wish(1..4));
    driver.list = Some(new.clone());
    driver.step(|handoff, mine, now, actions| handoff.begin(mine, now, actions));
    for extent in [Extent::Open, Extent::Any] {
        let from = fetches(&driver.actions)[0].0.node.0;
        driver.answer(from, chunk(1, extent));
        assert!(!driver.is_whole());
    }
    let from = fetches(&driver.actions)[0].0.node.0;
    let actions = driver.answer(from, other_list(Some(list(4, 0..3))));
    assert!(matches!(actions, [HandoffAction::Tell { .. }, HandoffAction::Fetch { .. }]));
    driver.answer(from, chunk(1, Extent::Open));
    assert!(driver.is_whole());
}

#[test]
fn too_many_dead_are_waited_for_and_then_gone_without_at_a_risk() {
    for (dead, is_at_risk) in [(&[0][..], false), (&[0, 1], true)] {
        let alive: Vec<u64> = (0..5).filter(|node| !dead.contains(node)).collect();
        let old = list(4, 0..3);
        let mut driver =
            Driver::of(true, wish(2..5), Some(old.clone()), false, placed(&alive, dead));
        driver.answered_by(&[1, 2, 4]);
        assert_eq!(driver.learned().is_some(), !is_at_risk, "two of three decide");
        driver.pass(PATIENCE + Duration::from_secs(1));
        driver.answered_by(&[1, 2, 4]);
        assert_eq!(driver.learned().map(|list| list.is_fork()), Some(is_at_risk));
        assert!(driver.is_whole());
        assert_eq!(driver.is_at_risk(), is_at_risk);
    }
}

#[test]
fn with_a_majority_required_the_partition_waits_for_the_dead() {
    let old = list(4, 0..3);
    let placement = placed(&[2, 3, 4], &[0, 1]);
    let mut driver = Driver::of(false, wish(2..5), Some(old), false, placement);
    for _ in 0..10 {
        driver.answered_by(&[2, 4]);
        driver.pass(LONG_PATIENCE);
    }
    assert_eq!((driver.learned(), driver.is_whole(), driver.serves), (None, false, false));
}

/// Found by the simulator: of a list of two one died; another came in for it, and then the first
/// one died as well and was back at once, cut off from the one that had come in. All that it
/// reached knew the old list alone, whose members were dead, so it made another one from that,
/// empty, while the data was there.
#[test]
fn no_fork_is_made_at_once_while_a_living_member_is_silent_or_sees_others() {
    let old = list(4, 0..3);
    let placement = || placed(&[2, 3, 4], &[0, 1]);
    let mut driver = Driver::of(true, wish(2..5), Some(old.clone()), false, placement());
    driver.answered_by(&[2]);
    driver.pass(PATIENCE + SILENCE);
    driver.answered_by(&[2]);
    driver.pass(SILENCE);
    driver.answered_by(&[2]);
    assert_eq!(driver.learned(), None, "node 4 may know a later list");

    let mut driver = Driver::of(true, wish(2..5), Some(old.clone()), false, placement());
    driver.answered_by(&[2]);
    driver.pass(PATIENCE + SILENCE);
    driver.answer(2, listed(Some(old.clone()), driver.placement.digest()));
    driver.answer(4, listed(Some(old), 77));
    assert_eq!(driver.learned(), None, "node 4 sees others alive");
}

/// Its list could acknowledge nothing, and the nodes that it takes for dead might live.
#[test]
fn a_node_that_sees_no_one_makes_no_list_of_its_own() {
    let old = list(4, 1..4);
    let placement = placed(&[3], &[0, 1, 2]);
    let mut driver = Driver::of(true, wish([3]), Some(old), true, placement);
    for _ in 0..20 {
        driver.pass(LONG_PATIENCE);
        driver.answered_by(&[3]);
    }
    assert_eq!(driver.learned(), None);
}

#[test]
fn the_first_list_is_made_again_when_no_member_has_known_any_for_long() {
    let mut driver = Driver::of(true, wish(1..4), None, false, placed(&[1, 2, 3], &[]));
    for _ in 0..100 {
        driver.answered_by(&[1, 2]);
        driver.pass(SILENCE);
    }
    let first = driver.learned().unwrap();
    assert_eq!((first.number(), first.base()), (1, None));
    assert!(driver.is_whole() && driver.is_at_risk());
}

/// Without a crash, of two changes in a row: the members of the second list have never been whole
/// in the first, and only one node ever was. (Found by the search of `simulate/models`.)
#[test]
fn no_list_is_proposed_before_the_living_members_are_whole() {
    use Extent::{Any, Open, Whole};
    // Of members that are never whole, some can make others whole in the next list.
    for (extents, have_sources) in [
        ([Whole, Any], true),
        ([Whole, Open], true),
        ([Open, Open], true),
        ([Open, Any], false),
        ([Any, Any], false),
    ] {
        for serves in [true, false] {
            let old = list(4, 0..3);
            let placement = placed(&[0, 1, 2, 3], &[]);
            let mut driver = Driver::of(serves, wish(1..4), Some(old), false, placement);
            for _ in 0..100 {
                let from = fetches(&driver.actions).first().map(|(from, _)| from.node.0);
                if let Some(from) = from {
                    driver.answer(from, chunk(1, Open));
                    for from in [0, 1] {
                        let extent = extents[from as usize];
                        driver.answer(from, Answer::Promised { accepted: None, extent });
                    }
                }
                let patience = if serves { PATIENCE } else { LONG_PATIENCE };
                assert!(!driver.has_proposed() || driver.now >= NOW + patience);
                driver.pass(MAX_BACKOFF);
            }
            let may_go_on = serves || have_sources;
            assert_eq!(driver.has_proposed(), may_go_on, "serves: {serves}, {extents:?}");
        }
    }
}

/// A list of three, of whose members two are left: one that was whole in it and stays, and has
/// every write with the other.
#[test]
fn a_copy_is_whole_if_each_write_is_on_one_of_those_that_it_is_made_of() {
    use Extent::{Any, Idle, Open, Whole, WholeBefore};
    let next = |members| list(4, 0..members).next(&wish(1..4));
    let whole = |of: &[Extent]| are_whole(QUORUMS, &next(3), of.iter().copied());
    assert!(whole(&[Open, Open]) && whole(&[Whole]) && whole(&[Open, WholeBefore]));
    assert!(!whole(&[Open]) && !whole(&[WholeBefore, Any]) && !whole(&[Any, Any, Any]));
    assert!(whole(&[WholeBefore, Idle]), "the idle one acknowledged nothing in the list before");
    assert!(!whole(&[Open, Idle, Idle]), "lists before that might have");
    let whole_of_two = |of: &[Extent]| are_whole(QUORUMS, &next(2), of.iter().copied());
    assert!(whole_of_two(&[WholeBefore]), "both members of the list before had each of its writes");
    assert!(!whole_of_two(&[Open]), "and might lack what was acknowledged before that");
}

/// A giver that W others had confirmed dropped its copy while this node fetched it. What came then
/// was empty, and the last chunk.
fn opens_with_half_a_copy() -> bool {
    let mut driver = Driver::newcomer(Some(list(4, 0..3)));
    driver.list = Some(list(4, 0..3).next(&wish(1..4)));
    driver.step(|handoff, mine, now, actions| handoff.begin(mine, now, actions));
    let first = match chunk(7, Extent::Open) {
        Answer::Chunk(chunk) => Answer::Chunk(Chunk { next: Some(KeyHash(1)), ..chunk }),
        other => other,
    };
    for chunks in [vec![first, chunk(8, Extent::Any)], vec![chunk(3, Extent::Open)]] {
        let from = fetches(&driver.actions)[0].0.node.0;
        for chunk in chunks {
            driver.answer(from, chunk);
        }
    }
    driver.is_whole()
}

#[test]
fn a_giver_that_drops_its_copy_while_it_is_fetched_is_no_source() {
    assert!(!opens_with_half_a_copy(), "there is one source");
    #[cfg(feature = "sim")]
    {
        let mutant = Some(crate::mutants::ProtocolMutant::DroppedHalfWay);
        crate::mutants::set_for_this_thread(mutant, u16::MAX);
        assert!(opens_with_half_a_copy(), "the mutant is noticed");
        crate::mutants::set_for_this_thread(None, u16::MAX);
    }
}

/// Found by the simulator: what a source was when the bulk copy was made counted for the next list,
/// and the newcomer opened that one without what had been written since.
#[test]
fn a_copy_made_before_the_list_changed_does_not_open_the_next_one() {
    let mut driver = Driver::newcomer(Some(list(4, 0..3)));
    let from = fetches(&driver.actions)[0].0.node.0;
    driver.answer(from, chunk(7, Extent::Whole));
    driver.answered_by(&[]);
    for from in [0, 1, 2] {
        driver.answer(from, promised(None));
    }
    for from in [0, 1] {
        driver.answer(from, Answer::Accepted);
    }
    assert!(driver.learned().is_some() && !driver.is_whole());
    let from = fetches(&driver.actions)[0].0.node.0;
    driver.answer(from, chunk(8, Extent::Whole));
    assert!(driver.is_whole());
}
