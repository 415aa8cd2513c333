//! What this node does as an acceptor of a partition's list: it promises and accepts what follows
//! (`replication/handoff` says what that is good for).
//!
//! | when | what a member of the list does |
//! |---|---|
//! | it accepts a next list | is sealed: it applies and answers nothing for its list |
//! | it learns a next list | forgets promise and seal, and counts in that one |
//! | it is sealed and learns nothing for [`SEAL_PATIENCE`] | finishes the vote itself |

use std::sync::Arc;
use std::time::Duration;

use super::Replica;
use super::copies::Seal;
use crate::mutants::{ProtocolMutant, rule};
use crate::placement::{Ballot, List, ListRef};
use crate::replication::handoff::Handoff;
use crate::shard::node::Node;
use crate::shard::requests::HandoffKind;
use crate::shard::timers::Timer;
use crate::shard::turn::Turn;
use crate::types::{Identity, Partition};
use crate::wire::message::Answer;

/// How long a sealed member waits to hear of the decision before it sees to it itself. Many round
/// trips, and hardly noticed in a request's timeout.
const SEAL_PATIENCE: Duration = Duration::from_millis(200);

/// How much longer each further member waits, so that one of them does it.
const SEAL_STEP: Duration = Duration::from_millis(50);

impl Replica {
    pub(super) fn prepare(
        &mut self,
        node: &Node,
        from: Identity,
        partition: Partition,
        (list, ballot): (ListRef, Ballot),
    ) -> Answer {
        if !self.is_acceptor(node, partition, list) {
            return self.copies.other_list(partition);
        }
        if !ballot.is_of(&from) {
            return Answer::Declined;
        }
        let extent = self.copies.partition(partition).extent();
        let register = &mut self.copies.partition_mut(partition).register;
        match register.get_or_insert_default().prepare(ballot) {
            Ok(accepted) => Answer::Promised { accepted, extent },
            Err(promised) => Answer::Refused { promised },
        }
    }

    pub(super) fn accept<C>(
        &mut self,
        turn: &mut Turn<'_, C>,
        from: Identity,
        partition: Partition,
        (list, ballot, value): (ListRef, Ballot, Arc<List>),
    ) -> Answer {
        if !self.is_acceptor(turn.node, partition, list) {
            return self.copies.other_list(partition);
        }
        let known = self.copies.partition(partition).list();
        if !ballot.is_of(&from) || !known.is_some_and(|known| value.is_next_of(known)) {
            return Answer::Declined;
        }
        let register = &mut self.copies.partition_mut(partition).register;
        match register.get_or_insert_default().accept(ballot, value) {
            Ok(()) => {
                self.seal(turn, partition);
                Answer::Accepted
            }
            Err(promised) => Answer::Refused { promised },
        }
    }

    fn is_acceptor(&self, node: &Node, partition: Partition, list: ListRef) -> bool {
        let known = self.copies.partition(partition).list();
        known.is_some_and(|known| known.reference() == list && known.is_acceptor(&node.me))
    }

    fn seal<C>(&mut self, turn: &mut Turn<'_, C>, partition: Partition) {
        let me = turn.node.me;
        let copy = self.copies.partition_mut(partition);
        let place = copy.list().and_then(|list| list.members().iter().position(|it| *it == me));
        let Some(place) = place.filter(|_| copy.seal == Seal::No) else { return };
        if rule(ProtocolMutant::AcceptedUnsealed, true) {
            copy.seal = Seal::Sealed;
            let standing = copy.standing;
            self.set_standing(turn.node, partition, standing);
        }
        let patience = SEAL_PATIENCE + SEAL_STEP.saturating_mul(place as u32);
        turn.timers.set_to(Timer::Seal(partition), Some(turn.now.instant + patience));
    }

    /// This node has been sealed for long: it finishes the vote, unless it learned a list since.
    pub(in crate::shard) fn seal_is_overdue<C>(
        &mut self,
        turn: &mut Turn<'_, C>,
        partition: Partition,
    ) {
        let copy = self.copies.partition_mut(partition);
        if copy.seal != Seal::Sealed {
            return;
        }
        copy.seal = Seal::Overdue;
        self.wake_handoff(turn, (partition, HandoffKind::Change), Handoff::wake_now);
        self.want_if_needed(turn.node, partition);
    }

    /// Forgets what was promised and accepted as what follows a list: another one is known.
    pub(super) fn forget_register<C>(&mut self, turn: &mut Turn<'_, C>, partition: Partition) {
        let copy = self.copies.partition_mut(partition);
        (copy.register, copy.seal) = (None, Seal::No);
        turn.timers.stop(Timer::Seal(partition));
    }
}
