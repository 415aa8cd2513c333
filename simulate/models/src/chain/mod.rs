//! [`Chain`]: the lists of one partition as a chain, one key in it, and all that can happen.
//!
//! # The problem
//!
//! A quorum is counted in a list of replicas. When the list changes, what the old one acknowledged
//! must be met by every quorum of the new one. No clock may decide it, and no node that is out of
//! reach may block it.
//!
//! # The rule
//!
//! List k + 1 is the value of a register that belongs to list k: single-decree Paxos among the
//! acceptors of list k, which are its members and its witnesses.
//!
//! | state of a node for list k | counts for writes | answers reads | how it gets there |
//! |---|---|---|---|
//! | pending | yes | no | it learns of list k, which names it as a member |
//! | open | yes | yes | it holds what the sealed members of list k − 1 held |
//! | sealed | no | no | it promises or accepts in the register, or learns of list k + 1 |
//!
//! A sealed member reports what it holds and whether it is a *base*: it opened list k or a later
//! one, so it holds all that was acknowledged before list k. A member opens list k + 1 once it has
//! merged the reports of |k| − W + 1 sealed members of list k, at least one of them a base. Or it
//! copies from one member that opened list k + 1.
//!
//! # The invariant
//!
//! A member that opened list k holds every write that an earlier list acknowledged, or a newer one.
//! `judge.rs` has the others.
//!
//! # What is simplified
//!
//! - Messages are what was sent, not a queue: a request or reply that was sent once may arrive at
//!   any time later, more than once, or never. So loss, delay and repetition need no action.
//! - A node that crashes loses all. If it starts again it is another *life*.
//! - There is one key. Its versions are numbers, and to merge is to take the higher one.
//! - Calls are run by callers that are no nodes. A call that never goes on is a coordinator that
//!   crashed.
//!
//! Sources: Lamport, Malkhi and Zhou, "Vertical Paxos" (2009); Gilbert, Lynch and Shvartsman,
//! "RAMBO" (2010); Attiya, Bar-Noy and Dolev (1995) for reads and writes inside a list. Rejected:
//! one Raft group for all lists, whose own membership would need disks.

mod actions;
mod judge;
mod rules;
mod story;

use crate::explorer::{Mixer, Model};

pub use self::actions::Action;

/// The most nodes of a model.
pub const NODES: usize = 5;
/// The most lists in the chain, the first included.
pub const LISTS: usize = 3;
/// The registers: the last list has none.
pub const REGISTERS: usize = LISTS - 1;
/// The most ballots of a register.
pub const SLOTS: usize = 3;
/// The most calls.
pub const CALLS: usize = 3;

/// A set of nodes, one bit each.
pub type Nodes = u8;

/// A set of lives, two bits for each node: its first life, and the one after a restart.
pub type Lives = u16;

/// Returns the nodes of a set, lowest first.
pub(crate) fn each(nodes: Nodes) -> impl Iterator<Item = usize> + Clone {
    (0..NODES).filter(move |node| nodes >> node & 1 == 1)
}

/// Returns the nodes that these lives are of.
pub(crate) fn nodes_of(lives: Lives) -> Nodes {
    let bit = |node: usize| u8::from(lives >> (2 * node) & 3 != 0) << node;
    (0..NODES).map(bit).sum()
}

/// A list: who keeps copies, and who only votes on the next list.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct List {
    /// The members. The lowest owns ballot zero of the list's register.
    pub members: Lives,
    /// The acceptors that keep no copy.
    pub witnesses: Lives,
}

impl List {
    /// Returns the lives that decide the next list.
    #[must_use]
    pub fn acceptors(self) -> Lives {
        self.members | self.witnesses
    }

    /// Returns how many acceptors decide, if none is certainly gone.
    pub(crate) fn majority(self) -> u32 {
        self.acceptors().count_ones() / 2 + 1
    }

    pub(crate) fn size(self) -> u32 {
        self.members.count_ones()
    }
}

/// A list that a node may wish for, as nodes: their lives are those of the moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wish {
    /// The nodes that shall keep copies.
    pub members: Nodes,
    /// The nodes that shall only vote.
    pub witnesses: Nodes,
}

/// What a call does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A write at R = 1: stamped with this number, the coordinator's clock, without asking.
    /// If a member holds a newer version, it says so.
    Stamped(u8),
    /// A write at R ≥ 2: asks W members for their version, or R if that is more, and stamps
    /// above.
    Write,
    /// A read at R ≥ 2: asks R members, and has W of the same list confirm before it answers.
    Read,
}

/// A rule that is left out on purpose. The search must find what it was for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutant {
    /// A sealed member still applies writes for the list that it sealed.
    SealedApplies,
    /// A sealed member still answers the version questions of reads and writes at R ≥ 2.
    SealedAnswers,
    /// A sealed member still answers reads at R = 1.
    SealedReads,
    /// A member opens with |k| − W sealed members instead of |k| − W + 1.
    TooFewSeals,
    /// A member opens without a base among the sealed members.
    NoBase,
    /// A member opens as soon as it learns of a list.
    OpensAtOnce,
    /// A member that sealed a list before it opened it never opens it.
    SealedStopsOpening,
    /// A write at R = 1 may be acknowledged by pending members alone.
    PendingAlone,
    /// A pending member answers the version questions.
    PendingAnswers,
    /// An acceptor accepts below its promise.
    AcceptsBelowPromise,
    /// A proposer above ballot zero does not ask for promises.
    NoPromises,
    /// A proposer does not take over the value that a promise reports.
    IgnoresReports,
    /// Ballot zero belongs to any acceptor that takes itself for the first live one.
    BallotZeroOfAny,
    /// The owner of ballot zero proposes a second value under it when its wish changes.
    BallotZeroTwice,
    /// A node that lost its memory goes on under its old identity.
    KeepsIdentity,
    /// The majority is counted among the acceptors that are alive, however few these are.
    DeadExcused,
    /// A node that gives its copy away forgets all about the partition, its promises included.
    ForgetsRegister,
    /// A node that gave its copy away still reports for the lists before.
    ReportsNothingness,
    /// A node gives its copy away as soon as the list without it is decided.
    DropsAtDecision,
    /// A node gives its copy away after |k| − f receipts, also in a list shorter than N.
    DropsByTolerated,
    /// A call adds acknowledgements of two lists.
    AcksAcrossLists,
    /// A write at R ≥ 2 asks R members for their version, and not W, if that is more.
    AsksFew,
    /// A read at R ≥ 2 that R members answered in one list has W members of a later one confirm it.
    ReadGoesOn,
    /// A read at R ≥ 2 answers with the newest of R versions, and has no W members confirm it.
    NoConfirmation,
}

/// The bounds of a search: what may happen, and how often.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// N, W and R.
    pub quorums: (u32, u32, u32),
    /// The first list.
    pub first: Wish,
    /// What may be wished for in each register. A register without wishes decides nothing.
    pub wishes: [Vec<Wish>; REGISTERS],
    /// How many ballots each register has, ballot zero included.
    pub ballots: [usize; REGISTERS],
    /// The nodes that may crash, and how many of them do.
    pub crashes: (Nodes, u32),
    /// Whether a node that crashed may start again, as another life.
    pub restarts: bool,
    /// The calls that may be made.
    pub calls: Vec<Kind>,
    /// Whether acknowledgements may be lost. Otherwise a call ends at its W-th, which is the
    /// strictest case for all that begins later.
    pub loses_acks: bool,
    /// Whether nodes that are no longer members give their copies away.
    pub gives_away: bool,
    /// Permutations of the nodes under which the bounds do not change.
    pub symmetries: Vec<[usize; NODES]>,
}

/// A ballot: its owner, its value, and which replies were sent.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Ballot {
    /// What its owner proposes, once it does.
    pub(crate) value: List,
    /// What each acceptor's promise reports: 0 no promise, 1 nothing accepted, 2 + the ballot.
    pub(crate) promises: [u8; NODES],
    /// Which nodes accepted.
    pub(crate) accepts: Nodes,
}

/// A call as its coordinator knows it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct CallState {
    /// 0 no call, 1 asks for versions, 2 has members apply, 3 ended.
    pub(crate) phase: u8,
    /// The list in which it counts.
    pub(crate) list: u8,
    /// The version that is written or returned.
    pub(crate) version: u8,
    /// The newest version that any call had ended with when this one was answered first.
    pub(crate) floor: u8,
    /// The nodes that applied it.
    pub(crate) acks: Nodes,
    /// For a write at R = 1: 1 if one of those had the list open, 2 if one held a newer version, so
    /// that the coordinator stamps again.
    pub(crate) notes: u8,
    /// The versions that members answered, each one more.
    pub(crate) answers: [u8; NODES],
}

/// All nodes, all that was ever sent, and what a judge must remember.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct State {
    // The nodes.
    pub(crate) alive: Nodes,
    /// The nodes in their second life.
    pub(crate) restarted: Nodes,
    /// The latest list that the node knows to be decided, plus one.
    pub(crate) known: [u8; NODES],
    /// In that list's register: the ballot promised, plus one.
    pub(crate) promised: [u8; NODES],
    /// In that list's register: the ballot accepted, plus one.
    pub(crate) accepted: [u8; NODES],
    /// The latest list that the node opened, plus one.
    pub(crate) opened: [u8; NODES],
    /// The version of the key.
    pub(crate) data: [u8; NODES],
    /// The list whose members opened it before the node dropped its copy, plus one.
    pub(crate) dropped: [u8; NODES],
    // What was sent.
    pub(crate) ballots: [[Ballot; SLOTS]; REGISTERS],
    /// What each member reported of each list when it was sealed: 0 nothing, or else one more than
    /// twice its version, and one more if it is a base.
    pub(crate) seals: [[u8; NODES]; REGISTERS],
    /// The members that said that they opened each list.
    pub(crate) receipts: [Nodes; LISTS],
    pub(crate) calls: [CallState; CALLS],
    // What the judge remembers.
    /// The lists that were decided.
    pub(crate) lists: [List; LISTS],
    /// The newest version that was acknowledged in each list.
    pub(crate) acked: [u8; LISTS],
    pub(crate) crashes: u8,
    /// A fault that happened in the last step. See `judge`.
    pub(crate) broken: u8,
}

/// The model: the rule within bounds, and perhaps without a part of it.
#[derive(Clone, Debug)]
pub struct Chain {
    /// What may happen.
    pub bounds: Bounds,
    /// The part that is left out.
    pub mutant: Option<Mutant>,
}

impl Chain {
    pub(crate) fn lacks(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// Returns the life that a node leads.
    pub(crate) fn life(state: &State, node: usize) -> Lives {
        1 << (2 * node + usize::from(state.restarted >> node & 1 == 1))
    }

    /// Returns the number of a ballot. Two may have one number, if a mutant has it so.
    pub(crate) fn number(&self, slot: usize) -> u8 {
        let is_shared = self.lacks(Mutant::BallotZeroOfAny) || self.lacks(Mutant::BallotZeroTwice);
        if is_shared && slot < 2 { 0 } else { slot as u8 }
    }

    /// Returns the owner of a ballot: the acceptor of that number, members before witnesses.
    pub(crate) fn owner(&self, list: List, slot: usize) -> Option<usize> {
        let slot = if self.lacks(Mutant::BallotZeroTwice) && slot == 1 { 0 } else { slot };
        each(nodes_of(list.members)).chain(each(nodes_of(list.witnesses))).nth(slot)
    }

    /// Whether the search is about the registers only. If there are calls, how a list was decided
    /// is forgotten once it is, as another search has shown that it is decided once.
    pub(crate) fn is_about_agreement(&self) -> bool {
        self.bounds.calls.is_empty()
    }

    /// Whether the node has sealed a list that it knows: it promised, or knows a later one.
    pub(crate) fn is_sealed(state: &State, node: usize, list: usize) -> bool {
        let known = usize::from(state.known[node]);
        known > list + 1 || known == list + 1 && state.promised[node] != 0
    }

    /// Whether the node is a member of the list in the life that it leads.
    pub(crate) fn is_member(state: &State, node: usize, list: usize) -> bool {
        let is_alive = state.alive >> node & 1 == 1;
        is_alive && state.lists[list].members & Self::life(state, node) != 0
    }

    /// Whether a node may have what a list is about: it did not give its copy to a later one.
    pub(crate) fn has_copy(&self, state: &State, node: usize, list: usize) -> bool {
        usize::from(state.dropped[node]) <= list + 1 || self.lacks(Mutant::ReportsNothingness)
    }

    /// Whether a call has all acknowledgements that it needs.
    pub(crate) fn is_acknowledged(&self, state: &State, number: usize) -> bool {
        let call = &state.calls[number];
        let asks = !matches!(self.bounds.calls[number], Kind::Stamped(_));
        let is_told = asks || call.notes != 0 || self.lacks(Mutant::PendingAlone);
        call.acks.count_ones() >= self.write_quorum() && is_told
    }

    /// Returns W. It does not fall with the length of the list: a list of fewer acknowledges
    /// nothing.
    pub(crate) fn write_quorum(&self) -> u32 {
        self.bounds.quorums.1
    }
}

impl Model for Chain {
    type State = State;
    type Action = Action;

    fn first(&self) -> State {
        let lives = |nodes: Nodes| each(nodes).map(|node| 1 << (2 * node)).sum();
        let first = self.bounds.first;
        let mut lists = [List::default(); LISTS];
        lists[0] = List { members: lives(first.members), witnesses: lives(first.witnesses) };
        let mut state = State {
            alive: u8::MAX >> (8 - NODES),
            restarted: 0,
            known: [0; NODES],
            promised: [0; NODES],
            accepted: [0; NODES],
            opened: [0; NODES],
            data: [0; NODES],
            dropped: [0; NODES],
            ballots: [[Ballot::default(); SLOTS]; REGISTERS],
            seals: [[0; NODES]; REGISTERS],
            receipts: [0; LISTS],
            calls: [CallState::default(); CALLS],
            lists,
            acked: [0; LISTS],
            crashes: 0,
            broken: 0,
        };
        each(first.members | first.witnesses).for_each(|node| state.known[node] = 1);
        each(first.members).for_each(|node| state.opened[node] = 1);
        for (call, kind) in state.calls.iter_mut().zip(&self.bounds.calls) {
            (call.phase, call.version) = match kind {
                Kind::Stamped(version) => (2, *version),
                Kind::Write | Kind::Read => (1, 0),
            };
        }
        state
    }

    fn actions(&self, state: &State, found: &mut Vec<Action>) {
        actions::possible(self, state, found);
    }

    fn next(&self, state: &State, action: Action) -> State {
        let mut next = *state;
        rules::take(self, &mut next, action);
        next
    }

    fn fault(&self, state: &State) -> Option<String> {
        judge::fault(self, state)
    }

    fn is_progress(&self, action: Action) -> bool {
        !matches!(action, Action::Crash { .. } | Action::Restart { .. })
    }

    fn fault_at_rest(&self, state: &State) -> Option<String> {
        judge::fault_at_rest(self, state)
    }

    fn key(&self, state: &State) -> u64 {
        let kinds = &self.bounds.calls;
        let names = self.bounds.symmetries.iter();
        let renamed = names.map(|names| key_of(kinds, &rename(state, names)));
        renamed.fold(key_of(kinds, state), u64::min)
    }

    fn tell(&self, before: &State, action: Action, after: &State) -> String {
        story::tell(self, before, action, after)
    }
}

fn key_of(kinds: &[Kind], state: &State) -> u64 {
    let mut mixer = Mixer::default();
    mixer.add_all(&[state.alive, state.restarted, state.crashes, state.broken]);
    for bytes in [&state.known, &state.promised, &state.accepted, &state.opened] {
        mixer.add_all(bytes);
    }
    mixer.add_all(&state.data);
    mixer.add_all(&state.dropped);
    let is_begun = |ballot: &&Ballot| **ballot != Ballot::default();
    for (number, ballot) in state.ballots.iter().flatten().enumerate() {
        if is_begun(&ballot) {
            let value = u64::from(ballot.value.members) << 16 | u64::from(ballot.value.witnesses);
            mixer.add(value << 16 | u64::from(ballot.accepts) << 8 | number as u64);
            mixer.add_all(&ballot.promises);
        }
    }
    state.seals.iter().for_each(|seals| mixer.add_all(seals));
    mixer.add_all(&state.receipts);
    mixer.add_all(&state.acked);
    for list in &state.lists[1..] {
        mixer.add(u64::from(list.members) << 16 | u64::from(list.witnesses));
    }
    // Reads have no names.
    let key = |number: usize| {
        let (call, mut mixer) = (&state.calls[number], Mixer::default());
        mixer.add_all(&[call.phase, call.list, call.version, call.floor, call.acks, call.notes]);
        mixer.add_all(&call.answers);
        mixer.key()
    };
    let is_read = |number: &usize| kinds.get(*number) == Some(&Kind::Read);
    mixer.add((0..CALLS).filter(is_read).map(key).fold(0, u64::wrapping_add));
    (0..CALLS).filter(|number| !is_read(number)).for_each(|number| mixer.add(key(number)));
    mixer.key()
}

/// Returns the state with each node's part under the name that it is given.
fn rename(state: &State, names: &[usize; NODES]) -> State {
    let nodes = |set: Nodes| each(set).map(|node| 1 << names[node]).sum::<Nodes>();
    let lives = |set: Lives| -> Lives {
        (0..NODES).map(|node| (set >> (2 * node) & 3) << (2 * names[node])).sum()
    };
    let parts = |old: [u8; NODES]| {
        let mut new = [0; NODES];
        (0..NODES).for_each(|node| new[names[node]] = old[node]);
        new
    };
    let list = |old: List| List { members: lives(old.members), witnesses: lives(old.witnesses) };
    let ballot = |old: Ballot| Ballot {
        value: list(old.value),
        promises: parts(old.promises),
        accepts: nodes(old.accepts),
    };
    State {
        alive: nodes(state.alive),
        restarted: nodes(state.restarted),
        known: parts(state.known),
        promised: parts(state.promised),
        accepted: parts(state.accepted),
        opened: parts(state.opened),
        data: parts(state.data),
        dropped: parts(state.dropped),
        ballots: state.ballots.map(|register| register.map(ballot)),
        seals: state.seals.map(parts),
        receipts: state.receipts.map(nodes),
        calls: state.calls.map(|call| CallState {
            acks: nodes(call.acks),
            answers: parts(call.answers),
            ..call
        }),
        lists: state.lists.map(list),
        ..*state
    }
}
