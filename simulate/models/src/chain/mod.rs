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
//! acceptors of list k, which are its members and its witnesses. No reads stop for a copy.
//!
//! | state of a node for list k | applies | counts, answers | how it gets there |
//! |---|---|---|---|
//! | pending | yes | no | it learns of list k, which names it as a member |
//! | open | yes | yes | it had list k − 1 open, or it is whole |
//! | sealed | no | no | it accepts in the register, or learns of list k + 1 |
//!
//! A member is *whole* in list k if it holds all that earlier lists acknowledged. It becomes so by
//! merging sources, which know list k and had list k − 1 or k open. `README.md` says how many.
//! A member of list k − 1 that learns of list k before it has list k − 1 open is *idle*: it
//! acknowledged nothing there.
//!
//! # The invariant
//!
//! Of the members that have list k open, at most f = N − W lack a write that list k or an earlier
//! one acknowledged. `judge.rs` has the others.
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
//! one Raft group for all lists, whose own membership would need disks; and members that stop until
//! they are whole, which makes each open member as good as any other, and each change a pause.

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

/// In a set of merged sources: one of them was whole in the previous list.
pub(crate) const BASE: Nodes = 1 << 7;

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
    /// The members.
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
    /// A member that accepted the next list still applies writes for its own.
    SealedApplies,
    /// A member that accepted the next list still answers the version questions of R ≥ 2.
    SealedAnswers,
    /// A newcomer opens with f sources instead of f + 1.
    TooFewSources,
    /// A source that had neither list open counts.
    PendingSource,
    /// A source that does not know the list counts.
    SourceUnaware,
    /// A newcomer opens as soon as it learns of the list.
    OpensAtOnce,
    /// A member that had an earlier list than the previous one open stays open.
    JumpStaysOpen,
    /// Only f + 1 sources open a list: one that is whole is no better than any other.
    OnlyCounts,
    /// A list is proposed before all living members of the previous one are whole.
    ProposesEarly,
    /// A list is proposed only when all living members of the previous one are whole, though one of
    /// them never is.
    AwaitsTheStuck,
    /// An idle member counts for nothing when others become whole.
    IdleIgnored,
    /// A member that is pending in the previous list counts as idle, though it may open it still.
    IdleUnaware,
    /// Idle members and those that had the list open are enough, though none of them is whole.
    IdleWithoutBase,
    /// A member that is not whole gives receipts.
    ReceiptsOfPending,
    /// A pending member acknowledges writes.
    PendingCounts,
    /// A pending member answers the version questions.
    PendingAnswers,
    /// A list is decided by a majority of acceptors, however few of them are members.
    MembersNotCounted,
    /// An acceptor accepts below its promise.
    AcceptsBelowPromise,
    /// A proposer does not ask for promises.
    NoPromises,
    /// A proposer does not take over the value that a promise reports.
    IgnoresReports,
    /// A proposer uses one ballot for two values.
    ReusesBallot,
    /// A node that lost its memory goes on under its old identity.
    KeepsIdentity,
    /// The majority is counted among the acceptors that are alive, however few these are.
    DeadExcused,
    /// Acceptors that restarted after they accepted are taken for gone before.
    GoneLater,
    /// A node that gives its copy away forgets all about the partition, its promises included.
    ForgetsRegister,
    /// A node gives its copy away as soon as the list without it is decided.
    DropsAtDecision,
    /// A call adds acknowledgements of two lists.
    AcksAcrossLists,
    /// A write at R ≥ 2 asks R members for their version, and not W, if that is more.
    AsksFew,
    /// A read at R ≥ 2 that R members answered in one list has W members of a later one confirm it.
    ReadGoesOn,
    /// A read at R ≥ 2 answers with the newest of R versions, and has no W members confirm it.
    NoConfirmation,
    /// A read at R ≥ 2 that found nothing at R members says so, although W is more.
    MissOfFew,
}

/// The bounds of a search: what may happen, and how often.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// N, W and R.
    pub quorums: (u32, u32, u32),
    /// The first list.
    pub first: Wish,
    /// The version that the members of the first list hold, and that was acknowledged.
    pub holds: u8,
    /// What may be wished for in each register. A register without wishes decides nothing.
    pub wishes: [Vec<Wish>; REGISTERS],
    /// How many ballots each register has. One alone needs no promises.
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
    /// Whether lists are proposed, and accepted, before the previous one is whole. Nothing is lost
    /// by that, and a list might wait for ever.
    pub is_hasty: bool,
    /// The nodes that merge nothing, as they have no room or reach no source. They are waited for
    /// until it is certain that they never become whole.
    pub stuck: Nodes,
    /// Permutations of the nodes under which the bounds do not change.
    pub symmetries: Vec<[usize; NODES]>,
}

/// A ballot: its value, and which replies were sent. Any node may have proposed it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Ballot {
    /// What is proposed, once it is.
    pub(crate) value: List,
    /// What each acceptor's promise reports: 0 no promise, 1 nothing accepted, 2 + the ballot.
    pub(crate) promises: [u8; NODES],
    /// Which nodes accepted.
    pub(crate) accepts: Nodes,
    /// The nodes of which a later life was known when the accepts were asked for.
    pub(crate) gone: Nodes,
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
    /// For a write at R = 1: 1 if a member held a newer version, so that the coordinator stamps
    /// again.
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
    /// The latest list in which the node is whole, plus one: it holds all that was acknowledged in
    /// lists before.
    pub(crate) whole: [u8; NODES],
    /// The sources that the node merged for the list that it knows, and `BASE`.
    pub(crate) merged: [u8; NODES],
    /// The idle members of the previous list that the node merged for the list that it knows.
    pub(crate) idlers: [Nodes; NODES],
    /// The nodes that are idle: they were members of the list before the one that they know, never
    /// had it open, and never will.
    pub(crate) idle: Nodes,
    /// The members of the list that the node knows which told it that they merged its copy.
    pub(crate) receipts: [Nodes; NODES],
    // What was sent.
    pub(crate) ballots: [[Ballot; SLOTS]; REGISTERS],
    pub(crate) calls: [CallState; CALLS],
    // What the judge remembers.
    /// The lists that were decided.
    pub(crate) lists: [List; LISTS],
    /// The newest version that was acknowledged in each list.
    pub(crate) acked: [u8; LISTS],
    pub(crate) crashes: u8,
    /// Those since the copies were restored last.
    pub(crate) risk: u8,
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

    /// Returns the number of a ballot. Two have one number, if a mutant has it so.
    pub(crate) fn number(&self, slot: usize) -> u8 {
        if self.lacks(Mutant::ReusesBallot) { slot.saturating_sub(1) as u8 } else { slot as u8 }
    }

    /// Whether the search is about the registers only. If there are calls, how a list was decided
    /// is forgotten once it is, as another search has shown that it is decided once.
    pub(crate) fn is_about_agreement(&self) -> bool {
        self.bounds.calls.is_empty()
    }

    /// Whether the node has sealed a list that it knows: it accepted, or knows a later one.
    pub(crate) fn is_sealed(state: &State, node: usize, list: usize) -> bool {
        let known = usize::from(state.known[node]);
        known > list + 1 || known == list + 1 && state.accepted[node] != 0
    }

    /// Whether the node is a member of the list in the life that it leads.
    pub(crate) fn is_member(state: &State, node: usize, list: usize) -> bool {
        let is_alive = state.alive >> node & 1 == 1;
        is_alive && state.lists[list].members & Self::life(state, node) != 0
    }

    /// Whether a call has all acknowledgements that it needs.
    pub(crate) fn is_acknowledged(&self, state: &State, number: usize) -> bool {
        state.calls[number].acks.count_ones() >= self.write_quorum()
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
            whole: [0; NODES],
            merged: [0; NODES],
            idlers: [0; NODES],
            idle: 0,
            receipts: [0; NODES],
            ballots: [[Ballot::default(); SLOTS]; REGISTERS],
            calls: [CallState::default(); CALLS],
            lists,
            acked: [0; LISTS],
            crashes: 0,
            risk: 0,
            broken: 0,
        };
        each(first.members | first.witnesses).for_each(|node| state.known[node] = 1);
        state.acked[0] = self.bounds.holds;
        each(first.members).for_each(|node| state.data[node] = self.bounds.holds);
        each(first.members).for_each(|node| (state.opened[node], state.whole[node]) = (1, 1));
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
    mixer.add_all(&[state.alive, state.restarted, state.crashes, state.risk, state.broken]);
    mixer.add(u64::from(state.idle));
    for bytes in [&state.known, &state.promised, &state.accepted, &state.opened] {
        mixer.add_all(bytes);
    }
    mixer.add_all(&state.data);
    for bytes in [&state.whole, &state.merged, &state.idlers, &state.receipts] {
        mixer.add_all(bytes);
    }
    let is_begun = |ballot: &&Ballot| **ballot != Ballot::default();
    for (number, ballot) in state.ballots.iter().flatten().enumerate() {
        if is_begun(&ballot) {
            let value = u64::from(ballot.value.members) << 16 | u64::from(ballot.value.witnesses);
            mixer.add(value << 16 | u64::from(ballot.accepts) << 8 | number as u64);
            mixer.add(u64::from(ballot.gone));
            mixer.add_all(&ballot.promises);
        }
    }
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
        gone: nodes(old.gone),
    };
    State {
        alive: nodes(state.alive),
        restarted: nodes(state.restarted),
        known: parts(state.known),
        promised: parts(state.promised),
        accepted: parts(state.accepted),
        opened: parts(state.opened),
        data: parts(state.data),
        whole: parts(state.whole),
        merged: parts(state.merged.map(|set| nodes(set & !BASE) | set & BASE)),
        idlers: parts(state.idlers.map(nodes)),
        idle: nodes(state.idle),
        receipts: parts(state.receipts.map(nodes)),
        ballots: state.ballots.map(|register| register.map(ballot)),
        calls: state.calls.map(|call| CallState {
            acks: nodes(call.acks),
            answers: parts(call.answers),
            ..call
        }),
        lists: state.lists.map(list),
        ..*state
    }
}
