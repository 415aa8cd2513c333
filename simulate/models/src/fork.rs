//! [`Fork`]: what happens under `OnPartition::Serve` if too few acceptors of a list are left to
//! decide the next one.
//!
//! # The problem
//!
//! Survivors of a list may go on with a *fork*: a list that no majority decided. The others might
//! be alive, and go on as well. When they meet, one list must remain, and nothing that any of them
//! acknowledged may be lost.
//!
//! # The rule
//!
//! Lists form a tree: each has a parent, and is either the decided child of it or a fork. Lists are
//! ordered: a child is above its parent; of two children of one list the decided one is above every
//! fork, and forks are ordered by a number drawn at random; descendants are ordered as the children
//! from which they descend. A node only ever moves up.
//!
//! | step | what the node does |
//! |---|---|
//! | it forks, or learns of a fork of its list | seals its list; if it had that open, the fork is |
//! | it learns of a higher list of another branch | seals its own, is pending there, and owes all |
//! | it is no member | owes all it holds |
//! | it owes | has W open members of one list merge what it holds; then it owes nothing |
//! | it is no member and owes nothing | drops its copy |
//!
//! # The invariant
//!
//! An acknowledged write is held by W living nodes, less those that crashed. At most f open members
//! of the decided list lack a write that the list before acknowledged. When nothing more can
//! happen, all nodes are in one list, and of its living members W, less the crashes, hold the
//! write.
//!
//! # What is simplified
//!
//! A register is one step here: a majority that is in the list decides. `chain` has its steps.
//! Each write has a key of its own, so that a copy is a set of writes. Every opinion that a member
//! is dead may be had at any time. The lists are those of `LISTS`.

use crate::explorer::{Mixer, Model};

const NODES: usize = 4;
const WRITES: usize = 2;
/// W, in lists of two and three members.
const W: u32 = 2;

type Nodes = u8;

/// A list of the model: its name, its members, and its place in the order.
struct List {
    name: &'static str,
    members: Nodes,
    rank: u8,
    /// For a fork, the list that it forks from, and the node that forks.
    split: Option<(usize, usize)>,
}

impl List {
    /// The list before it. The first has none.
    fn parent(&self) -> usize {
        self.split.map_or(ROOT, |(parent, _)| parent)
    }
}

/// The first list, the one that is decided after it, two forks of the first list, and a fork of the
/// second of them.
const LISTS: [List; 5] = [
    List { name: "{ABC}", members: 0b0111, rank: 0, split: None },
    List { name: "{ABD}", members: 0b1011, rank: 4, split: None },
    List { name: "the fork {CD}", members: 0b1100, rank: 1, split: Some((ROOT, 2)) },
    List { name: "the fork {ABC}", members: 0b0111, rank: 2, split: Some((ROOT, 0)) },
    List { name: "the fork {AD}", members: 0b1001, rank: 3, split: Some((3, 0)) },
];
const ROOT: usize = 0;
const DECIDED: usize = 1;

/// A rule that is left out on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutant {
    /// A node that moves goes on applying writes for the list that it left.
    MovesUnsealed,
    /// A member that moves to another branch has the list there open at once.
    MovesOpen,
    /// A node that moves to another branch does not owe what it holds.
    OwesNothing,
    /// A node drops its copy while it owes.
    DropsWhatItOwes,
    /// A node adds receipts of two lists.
    ReceiptsAcrossLists,
    /// A list is above its forks.
    ParentWins,
    /// A node moves to any list of another branch.
    EitherWins,
}

/// The model.
#[derive(Clone, Debug)]
pub struct Fork {
    /// How many nodes crash.
    pub crashes: u8,
    /// The numbers of the lists that there may be, as bits: 1 is the decided one, 2 to 4 are forks.
    pub lists: u8,
    /// The part that is left out.
    pub mutant: Option<Mutant>,
}

/// A write, and who applied it in the list in which it counts.
#[derive(Clone, Copy, Default, Debug)]
struct Write {
    /// One more than the list. Zero if it has not begun.
    list: u8,
    acks: Nodes,
}

/// All nodes and writes.
#[derive(Clone, Debug)]
pub struct State {
    alive: Nodes,
    crashes: u8,
    /// The list that each node is in.
    list: [u8; NODES],
    /// The lists that each node left.
    left: [u8; NODES],
    /// The lists that each node opened.
    opened: [u8; NODES],
    /// The writes that each node holds.
    data: [u8; NODES],
    /// Those that it owes.
    owed: [u8; NODES],
    /// The members that gave it receipts.
    receipts: [Nodes; NODES],
    /// The lists that exist.
    exists: u8,
    writes: [Write; WRITES],
}

/// One step.
#[derive(Clone, Copy, Debug)]
pub enum Action {
    /// Two members of the root list decide the next.
    Decide(Nodes),
    /// A node forks.
    Split(usize, usize),
    /// A node moves to a list.
    Move(usize, usize),
    /// A node opens its list with what these hold.
    Open(usize, Nodes),
    /// A member merges what a node owes.
    Merge(usize, usize),
    /// A node drops its copy.
    Drop(usize),
    /// A node crashes.
    Crash(usize),
    /// A write begins in a list.
    Begin(usize, usize),
    /// A member applies a write.
    Apply(usize, usize),
}

fn each(nodes: Nodes) -> impl Iterator<Item = usize> + Clone {
    (0..NODES).filter(move |node| nodes >> node & 1 == 1)
}

impl Fork {
    fn lacks(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// Whether a node moves from one list to another when it learns of it.
    fn moves(&self, from: usize, to: usize) -> bool {
        let is_below = LISTS[from].rank < LISTS[to].rank;
        match self.mutant {
            Some(Mutant::ParentWins) if LISTS[to].split.is_some() && from == ROOT => false,
            Some(Mutant::ParentWins) if LISTS[from].split.is_some() && to == ROOT => true,
            Some(Mutant::EitherWins) => from != to && to != ROOT,
            _ => is_below,
        }
    }

    fn leave(&self, state: &mut State, node: usize, to: usize) {
        let from = usize::from(state.list[node]);
        state.list[node] = to as u8;
        state.left[node] |= 1 << from;
        let is_next = LISTS[to].parent() == from;
        let is_member = LISTS[to].members >> node & 1 == 1;
        let had_open = state.opened[node] >> from & 1 == 1 || self.lacks(Mutant::MovesOpen);
        if is_member && (is_next || self.lacks(Mutant::MovesOpen)) && had_open {
            state.opened[node] |= 1 << to;
        }
        // A debt stays until it is paid, also if the next list is of the same branch.
        let owes = !(is_next && is_member) || state.owed[node] != 0;
        if owes && !self.lacks(Mutant::OwesNothing) {
            state.owed[node] = state.data[node];
        }
        if !self.lacks(Mutant::ReceiptsAcrossLists) {
            state.receipts[node] = 0;
        }
        pay(state, node);
    }

    fn applies(&self, state: &State, node: usize, list: usize) -> bool {
        let is_in = usize::from(state.list[node]) == list;
        let was_in = state.left[node] >> list & 1 == 1 && self.lacks(Mutant::MovesUnsealed);
        let is_open = state.opened[node] >> list & 1 == 1;
        LISTS[list].members >> node & 1 == 1 && is_open && (is_in || was_in)
    }

    fn changes(&self, state: &State, found: &mut Vec<Action>) {
        let in_root = each(state.alive).filter(|node| usize::from(state.list[*node]) == ROOT);
        let voters: Nodes = in_root.map(|node| 1 << node).sum::<Nodes>() & LISTS[ROOT].members;
        let may_be = |list: usize| self.lists >> list & 1 == 1 && state.exists >> list & 1 == 0;
        if may_be(DECIDED) {
            let pairs = (0..=voters).filter(|set| set & !voters == 0 && set.count_ones() == 2);
            found.extend(pairs.map(Action::Decide));
        }
        for (fork, list) in LISTS.iter().enumerate().filter(|(fork, _)| may_be(*fork)) {
            let is_in = |(from, node): &(usize, usize)| {
                state.alive >> node & 1 == 1 && usize::from(state.list[*node]) == *from
            };
            let split = list.split.filter(is_in);
            found.extend(split.map(|(_, node)| Action::Split(node, fork)));
        }
    }

    fn opens(state: &State, node: usize, found: &mut Vec<Action>) {
        let list = usize::from(state.list[node]);
        if LISTS[list].members >> node & 1 == 0 || state.opened[node] >> list & 1 == 1 {
            return;
        }
        // A member of a fork takes all others for dead. One of the decided list that opened it with
        // two sources is whole.
        let has = |from: usize, list: usize| state.opened[from] >> list & 1 == 1;
        let is_whole = |from: &usize| has(*from, list) && !(list == DECIDED && has(*from, ROOT));
        let whole = each(state.alive).filter(|from| match list {
            DECIDED => is_whole(from),
            _ => has(*from, list),
        });
        found.extend(whole.map(|from| Action::Open(node, 1 << from)));
        if list == DECIDED {
            // f + 1 sources that know the list.
            let knows = |from: &usize| {
                usize::from(state.list[*from]) == DECIDED && has(*from, ROOT) && *from != node
            };
            let known: Nodes = each(state.alive).filter(knows).map(|from| 1 << from).sum();
            let enough = |set: &Nodes| set & !known == 0 && set.count_ones() == 2;
            found.extend((0..=known).filter(enough).map(|set| Action::Open(node, set)));
        } else {
            // All that live of the parent and of the fork.
            let members = LISTS[list].members | LISTS[LISTS[list].parent()].members;
            let knows = |from: &usize| usize::from(state.list[*from]) == list;
            let living = each(state.alive & members).filter(knows).map(|from| 1 << from).sum();
            found.push(Action::Open(node, living));
        }
    }

    fn moves_and_debts(&self, state: &State, node: usize, found: &mut Vec<Action>) {
        let list = usize::from(state.list[node]);
        let told = |to: &usize| {
            let mut others =
                each(state.alive).filter(|other| usize::from(state.list[*other]) == *to);
            self.moves(list, *to) && others.next().is_some()
        };
        found.extend((0..LISTS.len()).filter(told).map(|to| Action::Move(node, to)));
        if state.owed[node] != 0 {
            let in_list = |other: &usize| usize::from(state.list[*other]) == list;
            let members = each(state.alive & LISTS[list].members & !state.receipts[node]);
            let members = members.filter(|other| state.opened[*other] >> list & 1 == 1);
            found.extend(members.filter(in_list).map(|other| Action::Merge(node, other)));
        }
        let may_drop = state.owed[node] == 0 || self.lacks(Mutant::DropsWhatItOwes);
        let is_out = LISTS[list].members >> node & 1 == 0 && state.data[node] != 0;
        if is_out && may_drop {
            found.push(Action::Drop(node));
        }
    }

    fn steps(&self, state: &State, found: &mut Vec<Action>) {
        self.changes(state, found);
        for node in each(state.alive) {
            Self::opens(state, node, found);
            self.moves_and_debts(state, node, found);
        }
        for (number, write) in state.writes.iter().enumerate() {
            if write.list == 0 {
                let exist = (0..LISTS.len()).filter(|list| state.exists >> list & 1 == 1);
                found.extend(exist.map(|list| Action::Begin(number, list)));
            } else if write.acks.count_ones() < W {
                let list = usize::from(write.list) - 1;
                let may = |node: &usize| self.applies(state, *node, list);
                let nodes = each(state.alive & !write.acks).filter(may);
                found.extend(nodes.map(|node| Action::Apply(number, node)));
            }
        }
    }
}

/// Forgets what a node owes once W members have it.
fn pay(state: &mut State, node: usize) {
    if state.receipts[node].count_ones() >= W {
        state.owed[node] = 0;
    }
}

fn acked(state: &State) -> u8 {
    let is_acked = |number: &usize| state.writes[*number].acks.count_ones() >= W;
    (0..WRITES).filter(is_acked).map(|number| 1 << number).sum()
}

/// Returns how many of these nodes hold a write.
fn holders(state: &State, nodes: Nodes, write: usize) -> u32 {
    each(nodes & state.alive).filter(|node| state.data[*node] >> write & 1 == 1).count() as u32
}

/// Whether more than f open members of the decided list lack a write of the list before.
fn is_unknown(state: &State, write: usize) -> bool {
    let lacks = |node: &usize| {
        usize::from(state.list[*node]) == DECIDED
            && state.opened[*node] >> DECIDED & 1 == 1
            && state.data[*node] >> write & 1 == 0
    };
    usize::from(state.writes[write].list) == ROOT + 1 && each(state.alive).filter(lacks).count() > 1
}

/// Returns what is wrong once nothing more can happen.
fn at_rest(state: &State) -> Option<String> {
    let mut lists = each(state.alive).map(|node| usize::from(state.list[node]));
    let list = lists.next()?;
    if !lists.all(|other| other == list) {
        return Some("at rest, two nodes are in two lists".to_owned());
    }
    let members = LISTS[list].members & state.alive;
    let wanted = W.min(members.count_ones()).saturating_sub(state.crashes.into()).max(1);
    let write = each(acked(state)).find(|write| holders(state, members, *write) < wanted)?;
    Some(format!("at rest, fewer than {wanted} members of {} hold write {write}", LISTS[list].name))
}

impl Model for Fork {
    type State = State;
    type Action = Action;

    fn first(&self) -> State {
        State {
            alive: 0b1111,
            crashes: 0,
            list: [ROOT as u8; NODES],
            left: [0; NODES],
            opened: [1, 1, 1, 0],
            data: [0; NODES],
            owed: [0; NODES],
            receipts: [0; NODES],
            exists: 1,
            writes: [Write::default(); WRITES],
        }
    }

    fn actions(&self, state: &State, found: &mut Vec<Action>) {
        self.steps(state, found);
        if state.crashes < self.crashes {
            found.extend(each(state.alive).map(Action::Crash));
        }
    }

    fn next(&self, state: &State, action: Action) -> State {
        let mut next = state.clone();
        match action {
            Action::Decide(voters) => {
                next.exists |= 1 << DECIDED;
                each(voters).for_each(|node| self.leave(&mut next, node, DECIDED));
            }
            Action::Split(node, fork) => {
                next.exists |= 1 << fork;
                next.left[node] |= 1 << state.list[node];
                next.list[node] = fork as u8;
                next.opened[node] |= 1 << fork;
            }
            Action::Move(node, to) => self.leave(&mut next, node, to),
            Action::Open(node, sources) => {
                each(sources).for_each(|from| next.data[node] |= state.data[from]);
                next.opened[node] |= 1 << state.list[node];
            }
            Action::Merge(node, member) => {
                next.data[member] |= state.owed[node];
                next.receipts[node] |= 1 << member;
                pay(&mut next, node);
            }
            Action::Drop(node) => (next.data[node], next.opened[node]) = (0, 0),
            Action::Crash(node) => {
                next.alive &= !(1 << node);
                next.crashes += 1;
                (next.data[node], next.owed[node]) = (0, 0);
            }
            Action::Begin(write, list) => next.writes[write].list = list as u8 + 1,
            Action::Apply(write, node) => {
                next.data[node] |= 1 << write;
                // What is applied for a list that the node left would be owed, if it were allowed.
                next.writes[write].acks |= 1 << node;
            }
        }
        next
    }

    fn fault(&self, state: &State) -> Option<String> {
        let wanted = W.saturating_sub(state.crashes.into());
        let lost = each(acked(state)).find(|write| holders(state, u8::MAX, *write) < wanted);
        if let Some(write) = lost {
            return Some(format!(
                "write {write} was acknowledged, and fewer than {wanted} hold it"
            ));
        }
        if let Some(write) = each(acked(state)).find(|write| is_unknown(state, *write)) {
            return Some(format!("two members of {{ABD}} are open and lack write {write}"));
        }
        let returned = |node: &usize| state.left[*node] >> state.list[*node] & 1 == 1;
        if each(state.alive).any(|node| returned(&node)) {
            return Some("a node returned to a list that it had left".to_owned());
        }
        None
    }

    fn is_progress(&self, action: Action) -> bool {
        !matches!(action, Action::Begin(..) | Action::Crash(..))
    }

    fn fault_at_rest(&self, state: &State) -> Option<String> {
        at_rest(state)
    }

    fn key(&self, state: &State) -> u64 {
        let mut mixer = Mixer::default();
        mixer.add_all(&[state.alive, state.crashes, state.exists]);
        for bytes in [state.list, state.left, state.opened, state.data, state.owed, state.receipts]
        {
            mixer.add_all(&bytes);
        }
        state.writes.iter().for_each(|write| mixer.add_all(&[write.list, write.acks]));
        mixer.key()
    }

    fn tell(&self, before: &State, action: Action, after: &State) -> String {
        let name = |node: usize| char::from(b'A' + node as u8);
        let names = |nodes: Nodes| each(nodes).map(name).collect::<String>();
        match action {
            Action::Decide(voters) => {
                format!("{} decide {}.", names(voters), LISTS[DECIDED].name)
            }
            Action::Split(node, fork) => {
                format!("{} takes the others for dead: {}.", name(node), LISTS[fork].name)
            }
            Action::Move(node, to) => {
                let from = LISTS[usize::from(before.list[node])].name;
                format!("{} moves from {from} to {}.", name(node), LISTS[to].name)
            }
            Action::Open(node, sources) => {
                let list = LISTS[usize::from(after.list[node])].name;
                format!("{} opens {list} with what {} hold.", name(node), names(sources))
            }
            Action::Merge(node, member) => {
                format!("{} merges what {} owes.", name(member), name(node))
            }
            Action::Drop(node) => format!("{} drops its copy.", name(node)),
            Action::Crash(node) => format!("{} crashes.", name(node)),
            Action::Begin(write, list) => format!("Write {write} begins in {}.", LISTS[list].name),
            Action::Apply(write, node) => format!("{} applies write {write}.", name(node)),
        }
    }
}
