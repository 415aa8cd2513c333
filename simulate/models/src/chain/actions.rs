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
    /// A member opens its list with what sealed members of the list before reported.
    Open {
        /// The list.
        list: u8,
        /// Who opens.
        node: u8,
        /// The members whose reports it merges.
        sources: Nodes,
        /// Those of them that it asks again: they opened the list before since they were sealed.
        current: Nodes,
    },
    /// A member opens its list with a copy of one that opened it, or a later one.
    Copy {
        /// The list.
        list: u8,
        /// Who opens.
        node: u8,
        /// The member from which it copies.
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
        for node in each(state.alive) {
            // That it sealed the list, too, is no reason to stop: without it, the next list might
            // have no base.
            let may =
                !Chain::is_sealed(state, node, list) || !chain.lacks(Mutant::SealedStopsOpening);
            let is_pending = usize::from(state.opened[node]) < list + 1 && may;
            let is_pending = is_pending && chain.has_copy(state, node, list);
            if is_pending && Chain::is_member(state, node, list) {
                asker.opens(list, node, found);
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
            let owner = self.chain.owner(self.state.lists[register], slot);
            let is_owner_left = owner.is_some_and(|owner| self.is_acceptor(owner, register));
            if !has_value && is_owner_left {
                self.propose(register, slot, found);
            }
            for node in (0..NODES).filter(|node| self.is_acceptor(*node, register)) {
                let knows = usize::from(self.state.known[node]) == register + 1;
                let promised = if knows { self.state.promised[node] } else { 0 };
                let accepted = if knows { self.state.accepted[node] } else { 0 };
                let node_number = node as u8;
                if number > 0 && number + 1 > promised && ballot.promises[node] == 0 && !has_value {
                    found.push(Action::Promise { register: r, slot: s, node: node_number });
                }
                // One acceptor never accepts two values under one number, even if there are two.
                let is_taken =
                    accepted != 0 && self.chain.number(usize::from(accepted) - 1) == number;
                let is_bound = promised > number + 1 || is_taken;
                let may_accept = !is_bound || self.chain.lacks(Mutant::AcceptsBelowPromise);
                if has_value && ballot.accepts >> node & 1 == 0 && may_accept {
                    found.push(Action::Accept { register: r, slot: s, node: node_number });
                }
            }
        }
    }

    /// Offers every value that the owner of a ballot might propose.
    fn propose(&self, register: usize, slot: usize, found: &mut Vec<Action>) {
        let (r, s) = (register as u8, slot as u8);
        let propose = |value| Action::Propose { register: r, slot: s, value };
        let ballots = &self.state.ballots[register];
        let needs_promises = self.chain.number(slot) > 0 && !self.chain.lacks(Mutant::NoPromises);
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
            super::rules::is_quorum(self.chain, self.state, register, heard)
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

    fn opens(&self, list: usize, node: usize, found: &mut Vec<Action>) {
        self.open(list, node, found);
        let is_open = |from: &usize| usize::from(self.state.opened[*from]) > list;
        found.extend(each(self.state.alive).filter(is_open).map(|from| Action::Copy {
            list: list as u8,
            node: node as u8,
            from: from as u8,
        }));
    }

    /// Offers every smallest set of reports with which the node may open the list.
    fn open(&self, list: usize, node: usize, found: &mut Vec<Action>) {
        let state = self.state;
        let members = super::nodes_of(state.lists[list - 1].members);
        // A member that is asked for its report seals the list, if it did not before.
        let reports = |from: &usize| {
            state.seals[list - 1][*from] != 0
                || Chain::is_member(state, *from, list - 1)
                    && self.chain.has_copy(state, *from, list - 1)
        };
        let reporting: Nodes = each(members).filter(reports).map(|from| 1 << from).sum();
        let own = reporting & 1 << node;
        let grown = |from: &usize| {
            Chain::is_member(state, *from, list - 1)
                && usize::from(state.opened[*from]) >= list
                && !Self::is_base(state, list - 1, *from)
        };
        for sources in (0..=members).filter(|set| set & !reporting == 0 && set & own == own) {
            let askable: Nodes = each(sources).filter(grown).map(|from| 1 << from).sum();
            for current in (0..=askable).filter(|set| set & !askable == 0) {
                let suffices = |set: Nodes| self.suffices(list, set, current);
                let is_smallest =
                    each(sources & !own).all(|from| !suffices(sources & !(1 << from)));
                if suffices(sources) && is_smallest {
                    let (list, node) = (list as u8, node as u8);
                    found.push(Action::Open { list, node, sources, current });
                }
            }
        }
    }

    /// Whether the node's report says, or would say now, that it is a base.
    fn is_base(state: &State, list: usize, node: usize) -> bool {
        match state.seals[list][node] {
            0 => usize::from(state.opened[node]) > list,
            report => (report - 1) & 1 == 1,
        }
    }

    /// Whether these reports of the list before are enough to open a list.
    fn suffices(&self, list: usize, sources: Nodes, current: Nodes) -> bool {
        if self.chain.lacks(Mutant::OpensAtOnce) {
            return true;
        }
        let before = self.state.lists[list - 1];
        let needed = (before.size() + 1).saturating_sub(self.chain.write_quorum()).max(1);
        let needed = needed - u32::from(self.chain.lacks(Mutant::TooFewSeals));
        let is_base = |from: usize| Self::is_base(self.state, list - 1, from);
        let has_base = current & sources != 0 || each(sources).any(is_base);
        sources.count_ones() >= needed && (has_base || self.chain.lacks(Mutant::NoBase))
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
        let (state, (n, w, _)) = (self.state, self.chain.bounds.quorums);
        let size = state.lists[list].size();
        let needed = match self.chain.mutant {
            Some(Mutant::DropsAtDecision) => 0,
            // Receipts are not modelled then.
            _ if self.chain.is_about_agreement() => 0,
            Some(Mutant::DropsByTolerated) => size.saturating_sub(n - w),
            _ => w.min(size),
        };
        let is_out = !Chain::is_member(state, node, list);
        is_out && state.receipts[list].count_ones() >= needed
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
        // A coordinator that heard of pending members only asks again those that opened the list.
        let is_stamped = matches!(self.chain.bounds.calls[number], Kind::Stamped(_));
        let is_open = |node: usize| usize::from(self.state.opened[node]) > list;
        let is_again = |node: usize| is_stamped && call.notes == 0 && is_open(node);
        let is_due = |node: usize| !is_here || call.acks >> node & 1 == 0 || is_again(node);
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
        let asks_r = is_read || self.chain.lacks(Mutant::AsksFew);
        let needed = if asks_r { r } else { w.max(r) };
        let mut last = 0;
        for answer in newest.into_iter().filter(|answer| *answer != 0) {
            let below = answers.iter().filter(|other| (1..=answer).contains(*other)).count();
            if answer != last && below as u32 >= needed {
                found.push(Action::Count { call: number as u8, newest: answer - 1 });
            }
            last = answer;
        }
    }

    /// Whether the node answers version questions for the list: it has it open, and not sealed.
    fn answers(&self, node: usize, list: usize) -> bool {
        let is_open =
            usize::from(self.state.opened[node]) > list || self.chain.lacks(Mutant::PendingAnswers);
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
