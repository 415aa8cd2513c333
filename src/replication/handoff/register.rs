//! The register of a list: where its acceptors agree on the list that follows.
//!
//! ```text
//!   proposer ── Prepare b ──▶ acceptors    ◀── Promised: what I accepted so far, if anything
//!            ── Accept b, v ─▶ acceptors   ◀── Accepted: I count in the old list no more
//!            ── Adopt v ─────▶ old and new members
//! ```
//!
//! | what it takes | of whom |
//! |---|---|
//! | to begin with a ballot | promises of a majority of the acceptors |
//! | to decide | accepts of a majority, and |k| − W + 1 members of list k among them |
//!
//! An acceptor promises to accept nothing below a ballot, and tells what it has accepted. The
//! proposer takes up the value of the highest ballot that it is told, and its own wish only if it
//! is told none. So all that is ever decided in a register is one value.
//!
//! **Seal.** A member that accepts applies and answers nothing for its list from then on. When the
//! next list is decided, fewer than W members of the old one are left, so no quorum forms in it. A
//! promise seals nothing: the list serves until there is a value.
//!
//! **Certainly gone.** A life whose node has started again accepts nothing and acknowledges nothing
//! any more. All acceptors that are not gone are a quorum, too, if each majority has one of them;
//! and a member that is gone counts as sealed. That a node is taken for dead never counts here.
//!
//! **Source.** Single-decree Paxos (Lamport, "The Part-Time Parliament", TOCS '98), one instance
//! for each list and its successor, as in Vertical Paxos (Lamport, Malkhi & Zhou, PODC '09). No
//! disk is needed: a node that lost its memory is another life, and no acceptor.

use std::sync::Arc;

use crate::mutants::{ProtocolMutant, rule};
use crate::placement::{Ballot, List, Placement};
use crate::quorums::Quorums;
use crate::types::Identity;

/// What one acceptor of a list has promised and accepted.
#[derive(Debug, Default)]
pub(crate) struct Register {
    promised: Ballot,
    accepted: Option<(Ballot, Arc<List>)>,
}

impl Register {
    /// Promises to accept nothing below `ballot`, and returns what was accepted so far. It promises
    /// a ballot once: a proposer that begins again takes a higher one.
    ///
    /// # Errors
    ///
    /// The ballot that was promised, if it is not lower.
    pub(crate) fn prepare(
        &mut self,
        ballot: Ballot,
    ) -> Result<Option<(Ballot, Arc<List>)>, Ballot> {
        if ballot < self.promised || rule(ProtocolMutant::BallotReused, ballot == self.promised) {
            return Err(self.promised);
        }
        self.promised = ballot;
        Ok(self.accepted.clone())
    }

    /// Accepts `value` as the next list.
    ///
    /// # Errors
    ///
    /// The ballot that was promised, if it is higher.
    pub(crate) fn accept(&mut self, ballot: Ballot, value: Arc<List>) -> Result<(), Ballot> {
        if rule(ProtocolMutant::PromiseBroken, ballot < self.promised) {
            return Err(self.promised);
        }
        self.promised = self.promised.max(ballot);
        self.accepted = Some((ballot, value));
        Ok(())
    }
}

/// Who of a list's acceptors and members counts, and for what.
pub(super) struct Quorum<'a> {
    pub(super) list: &'a List,
    pub(super) quorums: Quorums,
    /// The acceptors that are certainly gone.
    pub(super) over: &'a [Identity],
}

impl Quorum<'_> {
    /// Whether what these acceptors promise cannot escape any who decide.
    pub(super) fn may_begin(&self, promised: &dyn Fn(&Identity) -> bool) -> bool {
        let all = self.list.acceptors().count();
        let majority = all / 2 + 1;
        let count = self.list.acceptors().filter(|acceptor| promised(acceptor)).count();
        let left = || self.list.acceptors().filter(|acceptor| !self.over.contains(acceptor));
        count >= majority || left().all(promised) && left().count() > all - majority
    }

    /// Whether these acceptors decide.
    pub(super) fn decides(&self, accepted: &dyn Fn(&Identity) -> bool) -> bool {
        let members = self.list.members();
        let is_sealed = |member: &&Identity| accepted(member) || self.over.contains(member);
        let sealed = members.iter().filter(is_sealed).count();
        let is_left = sealed >= self.quorums.write.transfer_quorum(members.len());
        self.may_begin(accepted) && !rule(ProtocolMutant::FewSealed, !is_left)
            || !rule(ProtocolMutant::MinorityDecides, true) && self.list.acceptors().any(accepted)
    }
}

/// Returns the acceptors that are certainly gone.
pub(super) fn over(list: &List, placement: &Placement) -> Vec<Identity> {
    list.acceptors().filter(|acceptor| placement.is_over(acceptor)).copied().collect()
}

/// Whether those that are not dead can decide what follows the list.
pub(crate) fn can_be_replaced(list: &List, quorums: Quorums, placement: &Placement) -> bool {
    let over = over(list, placement);
    Quorum { list, quorums, over: &over }.decides(&|acceptor| !placement.is_dead(acceptor))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::Wish;
    use crate::replication::tests::{list, node};

    fn ballot(round: u64) -> Ballot {
        Ballot::above(Ballot { round: round - 1, ..Ballot::default() }, &node(round))
    }

    #[test]
    fn an_acceptor_keeps_its_promise_and_tells_what_it_accepted() {
        let value = list(1, 0..3);
        let mut register = Register::default();
        assert_eq!(register.prepare(ballot(2)), Ok(None));
        assert_eq!(register.prepare(ballot(1)), Err(ballot(2)));
        assert_eq!(register.prepare(ballot(2)), Err(ballot(2)), "it is used once");
        assert_eq!(register.accept(ballot(1), value.clone()), Err(ballot(2)));
        assert_eq!(register.accept(ballot(2), value.clone()), Ok(()));
        assert_eq!(register.prepare(ballot(3)), Ok(Some((ballot(2), value.clone()))));
        assert_eq!(register.accept(ballot(2), value.clone()), Err(ballot(3)));
        assert_eq!(register.accept(ballot(4), value), Ok(()), "it need not have promised");
        assert_eq!(register.prepare(ballot(3)), Err(ballot(4)));
    }

    fn decides(quorums: Quorums, of: u64, witnesses: u64, yes: &[u64], over: &[u64]) -> bool {
        let members = (0..of).map(node).collect();
        let witnesses = (of..of + witnesses).map(node).collect();
        let list = list(1, 0..1).next(&Wish { members, witnesses });
        let over: Vec<Identity> = over.iter().map(|number| node(*number)).collect();
        let quorum = Quorum { list: &list, quorums, over: &over };
        quorum.decides(&|it| yes.iter().any(|number| node(*number) == *it))
    }

    #[test]
    fn a_majority_decides_in_which_enough_members_are_sealed() {
        let two_of_three = Quorums::exactly(3, 2, 1);
        assert!(decides(two_of_three, 3, 0, &[0, 1], &[]));
        assert!(!decides(two_of_three, 3, 0, &[0], &[]));
        assert!(!decides(two_of_three, 3, 0, &[0], &[1]), "two of three might have decided");
        assert!(decides(Quorums::exactly(2, 2, 1), 2, 1, &[0, 2], &[]), "a witness decides, too");
        assert!(decides(Quorums::exactly(3, 3, 1), 3, 2, &[2, 3, 4], &[]));
        let one_of_three = Quorums::exactly(3, 1, 1);
        assert!(!decides(one_of_three, 3, 0, &[0, 1], &[]), "the third acknowledges alone");
        assert!(decides(one_of_three, 3, 0, &[0, 1], &[2]), "not once it is gone");
    }

    #[test]
    fn all_that_are_not_gone_decide_where_each_majority_has_one_of_them() {
        let both = Quorums::exactly(2, 2, 1);
        assert!(!decides(both, 2, 0, &[0], &[]), "the other one is only silent");
        assert!(decides(both, 2, 0, &[0], &[1]));
        assert!(!decides(Quorums::exactly(3, 2, 1), 3, 0, &[0], &[1, 2]));
    }
}
