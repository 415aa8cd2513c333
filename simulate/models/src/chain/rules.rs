//! What each step does to the nodes, to what was sent, and to the calls.

use super::{Action, Ballot, CallState, Chain, Kind, LISTS, List, Mutant, NODES, Nodes, REGISTERS};
use super::{SLOTS, State, each, judge, nodes_of};

/// Takes a step.
///
/// A request carries the list that it is about, so a node that takes one learns of that list.
pub(super) fn take(chain: &Chain, state: &mut State, action: Action) {
    take_step(chain, state, action);
    if !chain.is_about_agreement() {
        forget(chain, state);
    }
}

/// Forgets what can matter no more, so that states that differ only in it become one.
fn forget(chain: &Chain, state: &mut State) {
    for list in 1..LISTS {
        let is_pending = |node: &usize| {
            Chain::is_member(state, *node, list) && usize::from(state.opened[*node]) <= list
        };
        // The reports were for members that are to open the next list.
        if state.lists[list].members != 0 && !(0..NODES).any(|node| is_pending(&node)) {
            state.seals[list - 1] = [0; NODES];
        }
        state.acked[list] = state.acked[list].max(state.acked[list - 1]);
        if !chain.bounds.gives_away {
            state.receipts[list] = 0;
        }
    }
}

fn take_step(chain: &Chain, state: &mut State, action: Action) {
    match action {
        Action::Propose { register, slot, value } => {
            let (register, slot) = (usize::from(register), usize::from(slot));
            let owner = chain.owner(state.lists[register], slot).expect("an acceptor proposes");
            learn(state, register, owner);
            state.ballots[register][slot].value = value;
            if !chain.is_about_agreement() {
                // Promises are needed no more.
                state.ballots[register][slot].promises = [0; NODES];
            }
        }
        Action::Promise { register, slot, node } => {
            let (register, slot, node) = (register.into(), slot.into(), node.into());
            learn(state, register, node);
            seal(state, register, node);
            state.promised[node] = chain.number(slot) + 1;
            state.ballots[register][slot].promises[node] = 1 + state.accepted[node];
        }
        Action::Accept { register, slot, node } => {
            learn(state, register.into(), node.into());
            accept(chain, state, (register.into(), slot.into()), node.into());
        }
        Action::Open { list, node, sources, current } => {
            let (list, node) = (usize::from(list), usize::from(node));
            for from in each(sources) {
                if state.seals[list - 1][from] == 0 {
                    learn(state, list, from);
                    // A node that a mutant lets start under its old life knows the list already.
                    seal(state, list - 1, from);
                }
            }
            let version = |from: usize| match current >> from & 1 {
                1 => state.data[from],
                _ => state.seals[list - 1][from].saturating_sub(1) / 2,
            };
            let newest = each(sources).map(version).max().unwrap_or(0);
            open(state, list, node, newest);
        }
        Action::Copy { list, node, from } => {
            let version = state.data[usize::from(from)];
            open(state, list.into(), node.into(), version);
        }
        Action::GiveAway { list, node } => {
            let node = usize::from(node);
            learn(state, list.into(), node);
            (state.data[node], state.opened[node], state.dropped[node]) = (0, 0, list + 1);
            if chain.lacks(Mutant::ForgetsRegister) {
                (state.known[node], state.promised[node], state.accepted[node]) = (0, 0, 0);
            }
        }
        Action::Crash { node } => {
            crash(state, node.into());
            // What the others accepted might be enough now.
            decide_all(chain, state);
        }
        Action::Restart { node } => {
            state.alive |= 1 << node;
            if !chain.lacks(Mutant::KeepsIdentity) {
                state.restarted |= 1 << node;
            }
        }
        _ => take_call(chain, state, action),
    }
}

fn take_call(chain: &Chain, state: &mut State, action: Action) {
    match action {
        Action::Answer { call, list, node } => {
            let (call, node) = (usize::from(call), usize::from(node));
            follow(chain, state, call, list);
            learn(state, list.into(), node);
            if state.calls[call].phase == 2 {
                // A read asks again.
                state.calls[call] = CallState { phase: 1, list, ..CallState::default() };
            }
            if state.calls[call].answers == [0; NODES] {
                // A call that began earlier had to know less.
                state.calls[call].floor = state.acked.into_iter().max().unwrap_or(0);
            }
            state.calls[call].answers[node] = state.data[node] + 1;
        }
        Action::Count { call, newest } => count(chain, state, call.into(), newest),
        Action::Apply { call, list, node } => {
            let (call, node) = (usize::from(call), usize::from(node));
            follow(chain, state, call, list);
            learn(state, list.into(), node);
            if let Kind::Stamped(version) = chain.bounds.calls[call] {
                if state.calls[call].acks == 0 {
                    state.calls[call].floor = state.acked.into_iter().max().unwrap_or(0);
                }
                let is_open = u8::from(state.opened[node] > list);
                let is_newer = u8::from(state.data[node] > version);
                state.calls[call].notes |= is_open | is_newer << 1;
            }
            state.data[node] = state.data[node].max(state.calls[call].version);
            state.calls[call].acks |= 1 << node;
            end_if_due(chain, state, call);
        }
        Action::End { call } => judge::end(chain, state, call.into()),
        _ => unreachable!("the other actions are of nodes"),
    }
}

/// Goes on with a call in a list, in which it counts from the start.
fn follow(chain: &Chain, state: &mut State, number: usize, list: u8) {
    let call = &mut state.calls[number];
    if call.list != list {
        call.list = list;
        call.answers = [0; NODES];
        if !chain.lacks(Mutant::AcksAcrossLists) {
            (call.acks, call.notes) = (0, 0);
        }
    }
}

/// Whether these acceptors of a list are enough to promise, or to decide.
///
/// A majority is. If some acceptors are certainly gone, as a later life of each is known, then all
/// others are enough too, provided that every majority has one of them.
pub(super) fn is_quorum(chain: &Chain, state: &State, register: usize, set: Nodes) -> bool {
    let list = state.lists[register];
    let (all, majority) = (list.acceptors().count_ones(), list.majority());
    let is_left = |node: &usize| {
        state.alive >> node & 1 == 1 && list.acceptors() & Chain::life(state, *node) != 0
    };
    let left: Nodes = (0..NODES).filter(is_left).map(|node| 1 << node).sum();
    if chain.lacks(Mutant::DeadExcused) {
        return (set & left).count_ones() > left.count_ones() / 2;
    }
    let are_enough = left.count_ones() > all - majority;
    set.count_ones() >= majority || are_enough && set & left == left
}

fn accept(chain: &Chain, state: &mut State, (register, slot): (usize, usize), node: usize) {
    seal(state, register, node);
    state.promised[node] = state.promised[node].max(chain.number(slot) + 1);
    state.accepted[node] = slot as u8 + 1;
    state.ballots[register][slot].accepts |= 1 << node;
    decide_all(chain, state);
}

/// Decides what has a quorum.
fn decide_all(chain: &Chain, state: &mut State) {
    for register in 0..REGISTERS {
        for slot in 0..chain.bounds.ballots[register] {
            let Ballot { accepts, value, .. } = state.ballots[register][slot];
            if accepts != 0 && is_quorum(chain, state, register, accepts) {
                decide(chain, state, register + 1, value);
            }
        }
    }
}

fn decide(chain: &Chain, state: &mut State, list: usize, value: List) {
    if state.lists[list].members == 0 {
        state.lists[list] = value;
        if !chain.is_about_agreement() {
            tidy(state, list - 1);
        }
    } else if state.lists[list] != value {
        state.broken = judge::TWO_LISTS;
    }
}

/// Forgets how a list was decided, except that those that took part have sealed the list before.
fn tidy(state: &mut State, register: usize) {
    state.ballots[register] = [Ballot::default(); SLOTS];
    for node in (0..NODES).filter(|node| usize::from(state.known[*node]) == register + 1) {
        state.promised[node] = state.promised[node].min(1);
        state.accepted[node] = 0;
    }
}

/// Notes what a member of the list holds at the moment from which on it counts no more.
fn seal(state: &mut State, list: usize, node: usize) {
    let is_member = Chain::is_member(state, node, list);
    if list < REGISTERS && is_member && state.seals[list][node] == 0 {
        let is_base = usize::from(state.opened[node]) > list;
        state.seals[list][node] = 1 + 2 * state.data[node] + u8::from(is_base);
    }
}

fn learn(state: &mut State, list: usize, node: usize) {
    if usize::from(state.known[node]) > list {
        return;
    }
    (0..list).for_each(|earlier| seal(state, earlier, node));
    state.known[node] = list as u8 + 1;
    (state.promised[node], state.accepted[node]) = (0, 0);
}

fn open(state: &mut State, list: usize, node: usize, version: u8) {
    learn(state, list, node);
    state.data[node] = state.data[node].max(version);
    state.opened[node] = list as u8 + 1;
    state.receipts[list] |= 1 << node;
}

fn crash(state: &mut State, node: usize) {
    state.alive &= !(1 << node);
    state.crashes += 1;
    for part in [&mut state.known, &mut state.promised, &mut state.accepted, &mut state.opened] {
        part[node] = 0;
    }
    (state.data[node], state.dropped[node]) = (0, 0);
}

/// Goes from asking for versions to writing or confirming.
fn count(chain: &Chain, state: &mut State, number: usize, newest: u8) {
    let kind = chain.bounds.calls[number];
    let call = &mut state.calls[number];
    call.phase = 2;
    if kind == Kind::Read {
        call.version = newest;
        // An answer to this read, in this list, is a confirmation too.
        let holds = |node: &usize| call.answers[*node] > newest;
        call.acks = (0..NODES).filter(holds).map(|node| 1 << node).sum::<Nodes>();
        call.answers = [0; NODES];
        if chain.lacks(Mutant::NoConfirmation) {
            judge::end(chain, state, number);
            return;
        }
    } else {
        // The number of the call is the lower half of its stamp, as a writer's node hash is.
        call.version = (newest / 4 + 1) * 4 + number as u8;
        call.answers = [0; NODES];
    }
    end_if_due(chain, state, number);
}

fn end_if_due(chain: &Chain, state: &mut State, number: usize) {
    if !chain.bounds.loses_acks && chain.is_acknowledged(state, number) {
        judge::end(chain, state, number);
    }
}

/// Returns how many members of an earlier list could still apply a write for it.
pub(super) fn unsealed(state: &State, list: usize) -> u32 {
    debug_assert!(list < LISTS, "there is such a list");
    let counts = |node: &usize| {
        Chain::is_member(state, *node, list) && !Chain::is_sealed(state, *node, list)
    };
    each(nodes_of(state.lists[list].members)).filter(counts).count() as u32
}
