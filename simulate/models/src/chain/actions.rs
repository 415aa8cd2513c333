//! [`Action`]: what can happen, and when it can.

use super::{Chain, Kind, LISTS, List, Mutant, NODES, Nodes, REGISTERS, State, Wish, each};

/// One step of one node, caller, or of chance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// The owner of a ballot proposes.
    Propose {
        /// The list whose register it is.
        register: u8,
        /// The ballot.
        slot: u8,
        /// The proposal.
        value: List,
    },
    /// An acceptor promises.
    Promise {
        /// The list whose register it is.
        register: u8,
        /// The ballot.
        slot: u8,
        /// Who promises.
        node: u8,
    },
    /// An acceptor accepts.
    Accept {
        /// The list whose register it is.
        register: u8,
        /// The ballot.
        slot: u8,
        /// Who accepts.
        node: u8,
    },
    /// A member that had the previous list open learns of the list.
    Learn {
        /// The list.
        list: u8,
        /// Who learns.
        node: u8,
    },
    /// A member merges another node's copy, for a list that both know.
    Merge {
        /// The list.
        list: u8,
        /// Who merges.
        node: u8,
        /// The node whose copy it is.
        from: u8,
    },
    /// A node that is no member drops its copy.
    GiveAway {
        /// The list that it is no member of.
        list: u8,
        /// Who drops it.
        node: u8,
    },
    /// A node crashes.
    Crash {
        /// Who crashes.
        node: u8,
    },
    /// A node that crashed starts again.
    Restart {
        /// Who starts.
        node: u8,
    },
    /// A member answers a call with its version.
    Answer {
        /// The call.
        call: u8,
        /// The list in which it counts from now on.
        list: u8,
        /// Who answers.
        node: u8,
    },
    /// A call has R answers, of which this is the newest.
    Count {
        /// The call.
        call: u8,
        /// The version.
        newest: u8,
    },
    /// A member applies what a call writes or confirms.
    Apply {
        /// The call.
        call: u8,
        /// The list in which it counts from now on.
        list: u8,
        /// Who applies.
        node: u8,
    },
    /// A call with enough acknowledgements ends.
    End {
        /// The call.
        call: u8,
    },
}

/// Appends all actions that are possible.
pub(super) fn possible(chain: &Chain, state: &State, found: &mut Vec<Action>) {
    let asker = Asker { chain, state };
    for register in 0..REGISTERS {
        let is_over = !chain.is_about_agreement() && state.lists[register + 1].members != 0;
        if state.lists[register].members != 0 && !is_over {
            asker.ballots(register, found);
        }
    }
    for list in (1..LISTS).filter(|_| !chain.is_about_agreement()) {
        for node in each(state.alive).filter(|node| Chain::is_member(state, *node, list)) {
            if usize::from(state.known[node]) <= list + 1 {
                asker.merges(list, node, found);
            }
        }
    }
    for node in 0..NODES {
        asker.chance(node, found);
    }
    for call in 0..chain.bounds.calls.len() {
        asker.call(call, found);
    }
}

struct Asker<'a> {
    chain: &'a Chain,
    state: &'a State,
}

impl Asker<'_> {
    /// Whether the node can act in a register: it lives as one of the acceptors and knows no later
    /// list.
    fn is_acceptor(&self, node: usize, register: usize) -> bool {
        let life = Chain::life(self.state, node);
        self.state.alive >> node & 1 == 1
            && usize::from(self.state.known[node]) < register + 2
            && self.state.lists[register].acceptors() & life != 0
    }

    fn ballots(&self, register: usize, found: &mut Vec<Action>) {
        for slot in 0..self.chain.bounds.ballots[register] {
            let ballot = &self.state.ballots[register][slot];
            let (number, has_value) = (self.chain.number(slot), ballot.value.members != 0);
            let (r, s) = (register as u8, slot as u8);
            if !has_value && self.may_propose(register) {
                self.propose(register, slot, found);
            }
            for node in (0..NODES).filter(|node| self.is_acceptor(*node, register)) {
                let knows = usize::from(self.state.known[node]) == register + 1;
                let promised = if knows { self.state.promised[node] } else { 0 };
                let accepted = if knows { self.state.accepted[node] } else { 0 };
                let node_number = node as u8;
                let is_above = number + 1 > promised
                    || number + 1 == promised && self.chain.lacks(Mutant::ReusesBallot);
                let is_new = ballot.promises[node] == 0 && !has_value;
                if self.needs_promises(register) && is_above && is_new {
                    found.push(Action::Promise { register: r, slot: s, node: node_number });
                }
                // One acceptor never accepts two values under one number, even if there are two.
                let is_taken =
                    accepted != 0 && self.chain.number(usize::from(accepted) - 1) == number;
                let is_bound = promised > number + 1 || is_taken;
                let may_accept = !is_bound || self.chain.lacks(Mutant::AcceptsBelowPromise);
                let is_new = has_value && ballot.accepts >> node & 1 == 0;
                if is_new && may_accept {
                    found.push(Action::Accept { register: r, slot: s, node: node_number });
                }
            }
        }
    }

    /// One ballot alone needs no promises.
    fn needs_promises(&self, register: usize) -> bool {
        self.chain.bounds.ballots[register] > 1 && !self.chain.lacks(Mutant::NoPromises)
    }

    /// Whether each living member is whole, except those that never are. An opinion and the time
    /// decide it in the engine, and may be wrong.
    fn may_propose(&self, register: usize) -> bool {
        let lacks = |node: &usize| {
            Chain::is_member(self.state, *node, register)
                && usize::from(self.state.whole[*node]) <= register
        };
        let is_stuck = |node: usize| self.chain.bounds.stuck >> node & 1 == 1;
        let mut lacking = (0..NODES).filter(lacks);
        self.chain.is_about_agreement()
            || self.chain.bounds.is_hasty
            || self.chain.lacks(Mutant::ProposesEarly)
            || lacking.clone().next().is_none()
            || lacking.all(is_stuck)
                && !self.chain.lacks(Mutant::AwaitsTheStuck)
                && self.has_sources(register)
    }

    /// Whether the living members of a list, of which some are not whole, can make others whole in
    /// the next one.
    fn has_sources(&self, register: usize) -> bool {
        let living = |node: &usize| Chain::is_member(self.state, *node, register);
        let is_in = |latest: &[u8; NODES], node: usize| usize::from(latest[node]) == register + 1;
        let living = (0..NODES).filter(living);
        let open = living.clone().filter(|node| is_in(&self.state.opened, *node)).count() as u32;
        let has_base = living.clone().any(|node| is_in(&self.state.whole, node));
        let idle = living.count() as u32 - open;
        let merged = super::rules::Merged { open, idle, has_base };
        super::rules::are_enough(self.chain, self.state, register + 1, merged)
    }

    /// Offers every value that the owner of a ballot might propose.
    fn propose(&self, register: usize, slot: usize, found: &mut Vec<Action>) {
        let (r, s) = (register as u8, slot as u8);
        let propose = |value| Action::Propose { register: r, slot: s, value };
        let ballots = &self.state.ballots[register];
        let needs_promises = self.needs_promises(register);
        let promises = ballots[slot].promises;
        // A quorum of promises may have been heard whose newest report is `most`.
        let is_heard = |most: u8| {
            let number = |report: u8| self.chain.number(usize::from(report) - 2);
            let counts = |node: &usize| match promises[*node] {
                0 => false,
                1 => true,
                _ if self.chain.lacks(Mutant::IgnoresReports) => true,
                report => most > 1 && number(report) <= number(most),
            };
            let heard: Nodes = (0..NODES).filter(counts).map(|node| 1 << node).sum();
            let gone = super::rules::gone(self.state, register);
            super::rules::is_quorum(self.chain, self.state, register, heard, gone)
        };
        if !needs_promises || is_heard(1) {
            let wishes = self.chain.bounds.wishes[register].iter();
            found.extend(wishes.map(|wish| propose(self.resolve(*wish))));
        }
        if needs_promises {
            let reported = |report: &u8| promises.contains(report) && is_heard(*report);
            let reports = (2..2 + ballots.len() as u8).filter(reported);
            found.extend(reports.map(|report| propose(ballots[usize::from(report) - 2].value)));
        }
    }

    /// Returns the lives that a wish's nodes lead now.
    fn resolve(&self, wish: Wish) -> List {
        let lives = |nodes: Nodes| each(nodes).map(|node| Chain::life(self.state, node)).sum();
        List { members: lives(wish.members), witnesses: lives(wish.witnesses) }
    }

    /// Offers each copy that a member might merge, and that it might learn of the list alone.
    fn merges(&self, list: usize, node: usize, found: &mut Vec<Action>) {
        let (chain, state) = (self.chain, self.state);
        let knows = usize::from(state.known[node]) == list + 1;
        let merged = if knows { state.merged[node] } else { 0 };
        let is_whole = usize::from(state.whole[node]) == list + 1;
        let (l, n) = (list as u8, node as u8);
        if !knows && usize::from(state.opened[node]) == list {
            found.push(Action::Learn { list: l, node: n });
        }
        for from in each(state.alive).filter(|from| *from != node) {
            if usize::from(state.known[from]) > list + 1 {
                continue;
            }
            // A source that has become whole is worth more than before.
            let has_grown = usize::from(state.whole[from]) == list + 1;
            let is_source = super::rules::is_source(chain, state, list, from)
                && (merged >> from & 1 == 0 || has_grown && !chain.lacks(Mutant::OnlyCounts));
            let is_idler = super::rules::is_idler(state, list, from)
                && (!knows || state.idlers[node] >> from & 1 == 0);
            let is_stuck = chain.bounds.stuck >> node & 1 == 1;
            let is_new = !is_whole && !is_stuck && (is_source || is_idler);
            let is_giver = chain.bounds.gives_away && !Chain::is_member(state, from, list);
            let gives_receipt = is_whole || chain.lacks(Mutant::ReceiptsOfPending);
            let has_receipt =
                usize::from(state.known[from]) == list + 1 && state.receipts[from] >> node & 1 == 1;
            let is_owed = is_giver && state.opened[from] != 0 && gives_receipt && !has_receipt;
            if is_new || is_owed {
                found.push(Action::Merge { list: l, node: n, from: from as u8 });
            }
        }
    }

    fn chance(&self, node: usize, found: &mut Vec<Action>) {
        let (state, bounds) = (self.state, &self.chain.bounds);
        let n = node as u8;
        let is_alive = state.alive >> node & 1 == 1;
        let may_crash = bounds.crashes.0 >> node & 1 == 1;
        if is_alive && may_crash && u32::from(state.crashes) < bounds.crashes.1 {
            found.push(Action::Crash { node: n });
        }
        if !is_alive && bounds.restarts && state.restarted >> node & 1 == 0 {
            found.push(Action::Restart { node: n });
        }
        if is_alive && bounds.gives_away && state.opened[node] != 0 {
            let latest = (1..LISTS).rfind(|list| state.lists[*list].members != 0);
            let next = usize::from(state.known[node]).max(1);
            let lists = next - 1..latest.map_or(0, |latest| latest + 1);
            let may = |list: &usize| *list > 0 && self.may_give_away(node, *list);
            let list = lists.into_iter().find(may);
            found.extend(list.map(|list| Action::GiveAway { node: n, list: list as u8 }));
        }
    }

    /// Whether a node that learns, or knows, of a list may drop its copy.
    fn may_give_away(&self, node: usize, list: usize) -> bool {
        let state = self.state;
        let needed = match self.chain.mutant {
            Some(Mutant::DropsAtDecision) => 0,
            // Receipts are not modelled then.
            _ if self.chain.is_about_agreement() => 0,
            _ => self.chain.write_quorum().min(state.lists[list].size()),
        };
        let knows = usize::from(state.known[node]) == list + 1;
        let receipts = if knows { state.receipts[node].count_ones() } else { 0 };
        !Chain::is_member(state, node, list) && receipts >= needed
    }

    fn call(&self, number: usize, found: &mut Vec<Action>) {
        let (state, call, c) = (self.state, &self.state.calls[number], number as u8);
        let exist = |list: &usize| state.lists[*list].members != 0;
        let from = usize::from(call.list);
        let lists = (from..LISTS).filter(exist);
        let is_read = self.chain.bounds.calls.get(number) == Some(&Kind::Read);
        // A read has R members answer and W confirm in one list, or begins again.
        let begins_again = call.phase == 2 && is_read && !self.chain.lacks(Mutant::ReadGoesOn);
        match call.phase {
            1 => {
                lists.for_each(|list| self.answer(number, list, found));
                self.count(number, found);
            }
            2 => {
                let last = if begins_again { from + 1 } else { LISTS };
                let here = lists.clone().filter(|list| *list < last);
                here.for_each(|list| self.apply(number, list, found));
                lists
                    .filter(|list| *list >= last)
                    .for_each(|list| self.answer(number, list, found));
                if self.chain.is_acknowledged(state, number) {
                    found.push(Action::End { call: c });
                }
            }
            _ => {}
        }
    }

    fn answer(&self, number: usize, list: usize, found: &mut Vec<Action>) {
        let call = &self.state.calls[number];
        let is_here = list == usize::from(call.list);
        let may =
            |node: &usize| (!is_here || call.answers[*node] == 0) && self.answers(*node, list);
        let (call, list) = (number as u8, list as u8);
        let nodes = (0..NODES).filter(may);
        found.extend(nodes.map(|node| Action::Answer { call, list, node: node as u8 }));
    }

    fn apply(&self, number: usize, list: usize, found: &mut Vec<Action>) {
        let call = &self.state.calls[number];
        let is_here = list == usize::from(call.list);
        // What a pending member applies does not count.
        let counts =
            |node: usize| self.chain.lacks(Mutant::PendingCounts) || self.opens(node, list);
        let is_due = |node: usize| match counts(node) {
            true => !is_here || call.acks >> node & 1 == 0,
            false => self.state.data[node] < call.version,
        };
        let may = |node: &usize| is_due(*node) && self.applies(*node, list);
        let (call, list) = (number as u8, list as u8);
        let nodes = (0..NODES).filter(may);
        found.extend(nodes.map(|node| Action::Apply { call, list, node: node as u8 }));
    }

    /// Offers each version that might be the newest of R answers. A write needs W of them: fewer
    /// might all be of members that do not know yet that a later list is open.
    fn count(&self, number: usize, found: &mut Vec<Action>) {
        let answers = self.state.calls[number].answers;
        let mut newest = answers;
        newest.sort_unstable();
        let (_, w, r) = self.chain.bounds.quorums;
        let is_read = self.chain.bounds.calls[number] == Kind::Read;
        let most = |newest| match newest {
            _ if self.chain.lacks(Mutant::AsksFew) => r,
            0 if is_read && !self.chain.lacks(Mutant::MissOfFew) => w.max(r),
            _ if is_read => r,
            _ => w.max(r),
        };
        let mut last = 0;
        for answer in newest.into_iter().filter(|answer| *answer != 0) {
            let below = answers.iter().filter(|other| (1..=answer).contains(*other)).count();
            if answer != last && below as u32 >= most(answer - 1) {
                found.push(Action::Count { call: number as u8, newest: answer - 1 });
            }
            last = answer;
        }
    }

    /// Whether the node has the list open, or has once it learns of it.
    fn opens(&self, node: usize, list: usize) -> bool {
        let opened = usize::from(self.state.opened[node]);
        opened == list + 1 || super::rules::stays(self.chain, self.state, list, node)
    }

    /// Whether the node answers version questions for the list: it has it open, and not sealed.
    fn answers(&self, node: usize, list: usize) -> bool {
        let is_open = self.opens(node, list) || self.chain.lacks(Mutant::PendingAnswers);
        let is_sealed = Chain::is_sealed(self.state, node, list);
        let counts = !is_sealed || self.chain.lacks(Mutant::SealedAnswers);
        Chain::is_member(self.state, node, list) && is_open && counts
    }

    /// Whether the node applies writes for the list: it did not seal it.
    fn applies(&self, node: usize, list: usize) -> bool {
        let is_sealed = Chain::is_sealed(self.state, node, list);
        let counts = !is_sealed || self.chain.lacks(Mutant::SealedApplies);
        Chain::is_member(self.state, node, list) && counts
    }
}
