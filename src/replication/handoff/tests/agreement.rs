//! Proposers with different wishes, and acceptors of one list, in random orders of their messages:
//! each may be late or lost, and proposers begin again with other wishes. One list follows, and
//! when it does, the list before acknowledges nothing any more.
//!
//! `simulate/models` searches the same of a model, in all orders. These are the machines
//! themselves.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::*;
#[cfg(feature = "sim")]
use crate::mutants::{ProtocolMutant, set_for_this_thread};

/// How many of each kind of node there are: members and witnesses of the list, and newcomers.
const KINDS: [(Quorums, [u64; 3]); 4] = [
    (Quorums::exactly(3, 2, 1), [3, 0, 2]),
    (Quorums::exactly(2, 2, 1), [2, 1, 2]),
    (Quorums::exactly(3, 1, 1), [3, 0, 1]),
    (Quorums::exactly(5, 3, 1), [5, 0, 1]),
];

/// How many messages and timers a history has. Most have decided by then.
const STEPS: usize = 150;

/// N, W and R, the nodes of each kind, and what all of them see.
struct Setting {
    quorums: Quorums,
    nodes: [u64; 3],
    placement: Arc<Placement>,
}

fn settings() -> impl Iterator<Item = Setting> {
    KINDS.into_iter().map(|(quorums, nodes)| {
        let all: Vec<u64> = (0..nodes.iter().sum()).collect();
        Setting { quorums, nodes, placement: Arc::new(placed(&all, &[])) }
    })
}

enum Message {
    Asked { by: usize, id: u64, to: Identity, request: Request },
    Answered { by: usize, id: u64, from: Identity, answer: Answer },
}

struct Proposer {
    me: Identity,
    handoff: Option<Handoff>,
    /// What it has asked and waits for.
    open: BTreeSet<u64>,
}

struct History {
    random: u64,
    quorums: Quorums,
    old: Arc<List>,
    placement: Arc<Placement>,
    registers: BTreeMap<Identity, Register>,
    /// The acceptors that have accepted.
    sealed: BTreeSet<Identity>,
    proposers: Vec<Proposer>,
    on_the_way: Vec<Message>,
    asked: u64,
    now: Instant,
    decided: Option<Arc<List>>,
    fault: Option<&'static str>,
}

impl History {
    fn new(seed: u64, setting: &Setting) -> Self {
        let [members, witnesses, newcomers] = setting.nodes;
        let acceptors = members + witnesses;
        let first = Wish {
            members: (0..members).map(node).collect(),
            witnesses: (members..acceptors).map(node).collect(),
        };
        // One member proposes as well as the newcomers.
        let proposers = (0..members).take(1).chain(acceptors..acceptors + newcomers);
        Self {
            random: seed,
            quorums: setting.quorums,
            old: list(1, 0..1).next(&first),
            placement: setting.placement.clone(),
            registers: (0..acceptors).map(|it| (node(it), Register::default())).collect(),
            sealed: BTreeSet::new(),
            proposers: proposers
                .map(|it| Proposer { me: node(it), handoff: None, open: BTreeSet::new() })
                .collect(),
            on_the_way: Vec::new(),
            asked: 0,
            now: NOW,
            decided: None,
            fault: None,
        }
    }

    /// A number below `limit`: SplitMix64.
    fn pick(&mut self, limit: usize) -> usize {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit as u64) as usize
    }

    fn run(mut self) -> Self {
        for at in 0..self.proposers.len() {
            self.begin(at);
        }
        for _ in 0..STEPS {
            let at = self.pick(self.proposers.len());
            match self.pick(20) {
                0 => self.begin(at),
                1..=3 => self.pass(at),
                _ if self.on_the_way.is_empty() => self.pass(at),
                chance => {
                    let place = self.pick(self.on_the_way.len());
                    let message = self.on_the_way.swap_remove(place);
                    if chance > 4 {
                        self.deliver(message);
                    }
                }
            }
        }
        self
    }

    /// Begins, or begins again, with another wish.
    fn begin(&mut self, at: usize) {
        let mut nodes: Vec<Identity> =
            self.placement.members().iter().map(|member| member.identity).collect();
        let mut members = Vec::new();
        while members.len() < self.old.members().len() {
            let place = self.pick(nodes.len());
            members.push(nodes.swap_remove(place));
        }
        let wish = (Wish { members, witnesses: Vec::new() }, Duration::ZERO);
        let terms = Terms { me: self.proposers[at].me, quorums: self.quorums, serves: false };
        let mut todo = Vec::new();
        let handoff = Handoff::change(terms, wish, &self.mine(at), self.now, &mut todo);
        self.proposers[at].open.clear();
        self.carry_out(at, handoff, todo);
    }

    /// Some time passes, and a proposer sees it.
    fn pass(&mut self, at: usize) {
        self.now = self.now + Duration::from_millis(self.pick(300) as u64);
        let Some(mut handoff) = self.proposers[at].handoff.take() else { return };
        if handoff.deadline().is_some_and(|deadline| deadline <= self.now) {
            self.proposers[at].open.clear();
        }
        let mut todo = Vec::new();
        handoff.handle_timers(&self.mine(at), self.now, &mut todo);
        self.carry_out(at, handoff, todo);
    }

    fn deliver(&mut self, message: Message) {
        match message {
            Message::Asked { by, id, to, request } => {
                let answer = self.serve(self.proposers[by].me, to, request);
                self.on_the_way.push(Message::Answered { by, id, from: to, answer });
            }
            Message::Answered { by, id, from, answer } => {
                if self.proposers[by].open.remove(&id)
                    && let Some(mut handoff) = self.proposers[by].handoff.take()
                {
                    let mut todo = Vec::new();
                    handoff.answered(from, answer, &self.mine(by), self.now, &mut todo);
                    self.carry_out(by, handoff, todo);
                }
            }
        }
    }

    fn serve(&mut self, from: Identity, to: Identity, request: Request) -> Answer {
        let register = self.registers.get_mut(&to).expect("an acceptor");
        match request {
            Request::Prepare { ballot, .. } => {
                assert!(ballot.is_of(&from));
                match register.prepare(ballot) {
                    Ok(accepted) => promised(accepted),
                    Err(promised) => Answer::Refused { promised },
                }
            }
            Request::Accept { ballot, value, .. } => match register.accept(ballot, value) {
                Ok(()) => {
                    self.sealed.insert(to);
                    Answer::Accepted
                }
                Err(promised) => Answer::Refused { promised },
            },
            other => panic!("{other:?}"),
        }
    }

    fn mine(&self, at: usize) -> Mine<'_> {
        let me = self.proposers[at].me;
        let is_open = self.old.contains(&me);
        Mine {
            list: Some(self.old.clone()),
            is_open,
            extent: if is_open { Extent::Whole } else { Extent::Any },
            must_finish: self.sealed.contains(&me),
            placement: &self.placement,
        }
    }

    fn carry_out(&mut self, at: usize, mut handoff: Handoff, todo: Vec<HandoffAction>) {
        let me = self.proposers[at].me;
        let mut todo = VecDeque::from(todo);
        while let Some(action) = todo.pop_front() {
            let mut next = Vec::new();
            match action {
                HandoffAction::Ask { to, request } if to == me => {
                    let answer = self.serve(me, me, request);
                    handoff.answered(me, answer, &self.mine(at), self.now, &mut next);
                }
                HandoffAction::Ask { to, request } => {
                    self.asked += 1;
                    self.proposers[at].open.insert(self.asked);
                    self.on_the_way.push(Message::Asked { by: at, id: self.asked, to, request });
                }
                HandoffAction::Fetch { to, .. } => {
                    let answer = chunk(1, Extent::Open);
                    handoff.answered(to, answer, &self.mine(at), self.now, &mut next);
                }
                HandoffAction::Apply(_) => {
                    handoff.applied(0, &self.mine(at), self.now, &mut next);
                }
                // It goes on in that list. The others do not hear of it.
                HandoffAction::Learn(list) => return self.decided(list),
                HandoffAction::Finished => return,
                HandoffAction::Tell { .. } => {}
                action => panic!("{action:?}"),
            }
            todo.extend(next);
        }
        if handoff.is_resting() {
            self.proposers[at].open.clear();
        }
        self.proposers[at].handoff = Some(handoff);
    }

    fn decided(&mut self, list: Arc<List>) {
        let members = self.old.members();
        let left = members.iter().filter(|member| !self.sealed.contains(member)).count();
        if self.decided.as_ref().is_some_and(|other| other.reference() != list.reference()) {
            self.fault = Some("two lists follow");
        } else if left >= self.quorums.write.count(members.len()) {
            self.fault.get_or_insert("the list before can still acknowledge");
        }
        self.decided.get_or_insert(list);
    }
}

#[test]
fn in_random_orders_of_messages_one_list_follows_and_the_one_before_is_over() {
    for setting in settings() {
        let mut decided = 0;
        for seed in 0..500 {
            let history = History::new(seed, &setting).run();
            assert_eq!(history.fault, None, "seed {seed} with {:?}", setting.quorums);
            decided += usize::from(history.decided.is_some());
        }
        assert!(decided > 250, "{decided} of 500 have decided, with {:?}", setting.quorums);
    }
}

#[cfg(feature = "sim")]
#[test]
fn in_random_orders_of_messages_each_rule_of_the_register_is_missed() {
    for mutant in [
        ProtocolMutant::AcceptedIgnored,
        ProtocolMutant::PromiseBroken,
        ProtocolMutant::BallotReused,
        ProtocolMutant::MinorityDecides,
        ProtocolMutant::FewSealed,
    ] {
        set_for_this_thread(Some(mutant), u16::MAX);
        let noticed = settings().find_map(|setting| {
            let fault = |seed| History::new(seed, &setting).run().fault.map(|fault| (seed, fault));
            (0..1000).find_map(fault)
        });
        set_for_this_thread(None, u16::MAX);
        println!("{mutant:?}: {noticed:?}");
        assert!(noticed.is_some(), "{mutant:?} was not noticed");
    }
}
