//! What each step does to the nodes, to what was sent, and to the calls.

use super::{Action, Ballot, CallState, Chain, Kind, LISTS, List, Mutant, NODES, Nodes, REGISTERS};
use super::{BASE, SLOTS, State, each, judge, nodes_of};

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
        state.acked[list] = state.acked[list].max(state.acked[list - 1]);
    }
    for node in 0..NODES {
        if state.whole[node] == state.known[node] {
            (state.merged[node], state.idlers[node]) = (0, 0);
            state.idle &= !(1 << node);
        }
        if !chain.bounds.gives_away {
            state.receipts[node] = 0;
        }
    }
    let last = (0..LISTS).rfind(|list| state.lists[*list].members != 0).unwrap_or(0);
    let is_restored = |node: usize| {
        let (opened, whole) = (state.opened[node], state.whole[node]);
        Chain::is_member(state, node, last) && opened == whole && usize::from(whole) == last + 1
    };
    let mut members = each(nodes_of(state.lists[last].members));
    if state.lists[last].size() >= chain.write_quorum() && members.all(is_restored) {
        state.risk = 0;
    }
}

fn take_step(chain: &Chain, state: &mut State, action: Action) {
    match action {
        Action::Propose { register, slot, value } => {
            let (register, slot) = (usize::from(register), usize::from(slot));
            state.ballots[register][slot].gone = gone(state, register);
            state.ballots[register][slot].value = value;
            if !chain.is_about_agreement() {
                // Promises are needed no more.
                state.ballots[register][slot].promises = [0; NODES];
            }
        }
        Action::Promise { register, slot, node } => {
            let (register, slot, node) = (register.into(), slot.into(), node.into());
            learn(chain, state, register, node);
            state.promised[node] = chain.number(slot) + 1;
            state.ballots[register][slot].promises[node] = 1 + state.accepted[node];
        }
        Action::Accept { register, slot, node } => {
            learn(chain, state, register.into(), node.into());
            accept(chain, state, (register.into(), slot.into()), node.into());
        }
        Action::Learn { list, node } => learn(chain, state, list.into(), node.into()),
        Action::Merge { list, node, from } => {
            merge(chain, state, list.into(), (node.into(), from.into()));
        }
        Action::GiveAway { list, node } => {
            let node = usize::from(node);
            learn(chain, state, list.into(), node);
            (state.data[node], state.opened[node], state.whole[node]) = (0, 0, 0);
            if chain.lacks(Mutant::ForgetsRegister) {
                (state.known[node], state.promised[node], state.accepted[node]) = (0, 0, 0);
            }
        }
        Action::Crash { node } => {
            crash(state, node.into());
            if chain.lacks(Mutant::GoneLater) {
                decide_all(chain, state);
            }
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
            learn(chain, state, list.into(), node);
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
            learn(chain, state, list.into(), node);
            if let Kind::Stamped(version) = chain.bounds.calls[call] {
                if state.calls[call].acks == 0 {
                    state.calls[call].floor = state.acked.into_iter().max().unwrap_or(0);
                }
                state.calls[call].notes |= u8::from(state.data[node] > version);
            }
            state.data[node] = state.data[node].max(state.calls[call].version);
            if state.opened[node] == list + 1 || chain.lacks(Mutant::PendingCounts) {
                state.calls[call].acks |= 1 << node;
            }
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

/// Returns the acceptors of a list whose life has ended.
pub(super) fn gone(state: &State, register: usize) -> Nodes {
    let acceptors = state.lists[register].acceptors();
    let is_gone =
        |node: &usize| state.alive >> node & 1 == 0 || acceptors & Chain::life(state, *node) == 0;
    each(nodes_of(acceptors)).filter(is_gone).map(|node| 1 << node).sum()
}

/// Whether these acceptors of a list are enough to promise, or to decide.
///
/// A majority is. If some acceptors are certainly gone, as a later life of each is known, then all
/// others are enough too, provided that every majority has one of them.
pub(super) fn is_quorum(
    chain: &Chain,
    state: &State,
    register: usize,
    set: Nodes,
    gone: Nodes,
) -> bool {
    let list = state.lists[register];
    let (all, majority) = (list.acceptors().count_ones(), list.majority());
    let left = nodes_of(list.acceptors()) & !gone;
    if chain.lacks(Mutant::DeadExcused) {
        return (set & left).count_ones() > left.count_ones() / 2;
    }
    let are_enough = left.count_ones() > all - majority;
    set.count_ones() >= majority || are_enough && set & left == left
}

/// Whether enough members of a list accepted: fewer than W others are left.
fn has_members(chain: &Chain, state: &State, register: usize, set: Nodes) -> bool {
    let members = nodes_of(state.lists[register].members);
    let left = (members & !set).count_ones();
    left < chain.write_quorum() || chain.lacks(Mutant::MembersNotCounted)
}

fn accept(chain: &Chain, state: &mut State, (register, slot): (usize, usize), node: usize) {
    state.promised[node] = state.promised[node].max(chain.number(slot) + 1);
    state.accepted[node] = slot as u8 + 1;
    state.ballots[register][slot].accepts |= 1 << node;
    decide_all(chain, state);
}

/// Decides what has a quorum.
fn decide_all(chain: &Chain, state: &mut State) {
    for register in 0..REGISTERS {
        for slot in 0..chain.bounds.ballots[register] {
            let Ballot { accepts, value, mut gone, .. } = state.ballots[register][slot];
            if chain.lacks(Mutant::GoneLater) {
                gone = !accepts & self::gone(state, register);
            }
            if accepts != 0
                && is_quorum(chain, state, register, accepts, gone)
                && has_members(chain, state, register, accepts | gone)
            {
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
        state.promised[node] = 0;
        state.accepted[node] = state.accepted[node].min(1);
    }
}

/// Whether a member that learns of a list has it open at once: it had the previous one open.
pub(super) fn stays(chain: &Chain, state: &State, list: usize, node: usize) -> bool {
    let opened = usize::from(state.opened[node]);
    let had_previous = opened == list || chain.lacks(Mutant::JumpStaysOpen);
    let is_new = usize::from(state.known[node]) <= list && opened != 0;
    is_new && had_previous && list > 0 && Chain::is_member(state, node, list)
}

fn learn(chain: &Chain, state: &mut State, list: usize, node: usize) {
    if usize::from(state.known[node]) > list {
        return;
    }
    let stays = stays(chain, state, list, node);
    let is_idle = list > 0 && is_pending(state, list - 1, node);
    state.idle = state.idle & !(1 << node) | u8::from(is_idle) << node;
    state.known[node] = list as u8 + 1;
    (state.promised[node], state.accepted[node]) = (0, 0);
    (state.merged[node], state.idlers[node], state.receipts[node]) = (0, 0, 0);
    if stays || chain.lacks(Mutant::OpensAtOnce) && Chain::is_member(state, node, list) {
        state.opened[node] = list as u8 + 1;
        become_whole(chain, state, list, node);
    }
}

/// Whether a member of a list knows no later one, and does not have the list open.
fn is_pending(state: &State, list: usize, node: usize) -> bool {
    usize::from(state.known[node]) <= list + 1
        && usize::from(state.opened[node]) != list + 1
        && Chain::is_member(state, node, list)
}

/// Whether a node is idle in a list that it knows, or is once it learns of it.
pub(super) fn is_idler(state: &State, list: usize, node: usize) -> bool {
    let knows = usize::from(state.known[node]) == list + 1;
    knows && state.idle >> node & 1 == 1 || is_pending(state, list - 1, node)
}

/// Whether a node's copy counts as a source: it had the list or the previous one open.
pub(super) fn is_source(chain: &Chain, state: &State, list: usize, from: usize) -> bool {
    let is_pending = state.opened[from] == 0
        && (Chain::is_member(state, from, list) || Chain::is_member(state, from, list - 1));
    usize::from(state.opened[from]) >= list || chain.lacks(Mutant::PendingSource) && is_pending
}

fn merge(chain: &Chain, state: &mut State, list: usize, (node, from): (usize, usize)) {
    learn(chain, state, list, node);
    let is_untold = chain.lacks(Mutant::SourceUnaware)
        || chain.lacks(Mutant::IdleUnaware) && is_pending(state, list - 1, from);
    if !is_untold || usize::from(state.known[from]) > list {
        learn(chain, state, list, from);
    }
    if is_idler(state, list, from) {
        state.idlers[node] |= 1 << from;
    }
    state.data[node] = state.data[node].max(state.data[from]);
    if is_source(chain, state, list, from) {
        state.merged[node] |= 1 << from;
        let whole = usize::from(state.whole[from]);
        if whole >= list {
            state.merged[node] |= BASE;
        }
        if whole > list && !chain.lacks(Mutant::OnlyCounts) {
            state.whole[node] = list as u8 + 1;
            state.opened[node] = list as u8 + 1;
        }
    }
    become_whole(chain, state, list, node);
    let is_whole = usize::from(state.whole[node]) > list;
    let gives_receipt = is_whole || chain.lacks(Mutant::ReceiptsOfPending);
    if gives_receipt && !Chain::is_member(state, from, list) {
        state.receipts[from] |= 1 << node;
    }
}

/// Makes a member whole, and so open, if it has merged enough sources.
fn become_whole(chain: &Chain, state: &mut State, list: usize, node: usize) {
    let is_open = usize::from(state.opened[node]) > list;
    let (merged, is_idle) = (state.merged[node], state.idle >> node & 1 == 1);
    let merged = Merged {
        open: (merged & !BASE).count_ones() + u32::from(is_open),
        idle: state.idlers[node].count_ones() + u32::from(is_idle),
        has_base: merged & BASE != 0 || is_open && usize::from(state.whole[node]) >= list,
    };
    if are_enough(chain, state, list, merged) {
        state.whole[node] = list as u8 + 1;
        state.opened[node] = list as u8 + 1;
    }
}

/// What a copy is made of.
pub(super) struct Merged {
    /// How many of them had the list or the previous one open.
    pub(super) open: u32,
    /// How many are idle members of the previous list.
    pub(super) idle: u32,
    /// Whether one was whole in the previous list.
    pub(super) has_base: bool,
}

/// Whether a copy that is made of these is whole in the list.
pub(super) fn are_enough(chain: &Chain, state: &State, list: usize, merged: Merged) -> bool {
    let Merged { open, idle, has_base } = merged;
    let (n, w, _) = chain.bounds.quorums;
    let few = (state.lists[list - 1].size() + 1).saturating_sub(w).max(1);
    match chain.mutant {
        Some(Mutant::TooFewSources) => open >= n - w,
        Some(Mutant::OnlyCounts) => open > n - w,
        Some(Mutant::IdleIgnored) => open > n - w || has_base && open >= few,
        Some(Mutant::IdleWithoutBase) => open > n - w || open > 0 && open + idle >= few,
        _ => open > n - w || has_base && open + idle >= few,
    }
}

fn crash(state: &mut State, node: usize) {
    state.alive &= !(1 << node);
    state.crashes += 1;
    state.risk += 1;
    for part in [&mut state.known, &mut state.promised, &mut state.accepted, &mut state.opened] {
        part[node] = 0;
    }
    (state.data[node], state.whole[node]) = (0, 0);
    (state.merged[node], state.idlers[node], state.receipts[node]) = (0, 0, 0);
    state.idle &= !(1 << node);
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
        if chain.lacks(Mutant::NoConfirmation) || newest == 0 {
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

/// Returns how many members of a list could still acknowledge writes for it.
pub(super) fn unsealed(state: &State, list: usize) -> u32 {
    let counts = |node: &usize| {
        let is_open = usize::from(state.opened[*node]) == list + 1;
        is_open && Chain::is_member(state, *node, list) && !Chain::is_sealed(state, *node, list)
    };
    each(nodes_of(state.lists[list].members)).filter(counts).count() as u32
}
