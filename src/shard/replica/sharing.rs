//! What a replica that returns with data owes to the others of its list.
//!
//! **Problem.** A node that was taken for dead, and a list that lost to another one, hold writes
//! that no member of the list that counts might have. Such a node merges the other members before
//! it counts again. That is only one half: until they have merged it, too, it alone holds these
//! writes, and stopping it would lose them.
//!
//! | when | what this node does |
//! |---|---|
//! | it begins to become synced, and holds something | notes that it brings data |
//! | it is synced | has every other member of its list merge it, each with a receipt |
//! | a member's receipt covers what it held then | waits for the others only |
//! | its list changes | begins again, with the members of the new list |
//!
//! The partition counts as redundancy debt until all have confirmed. After some seconds W holders
//! suffice, as many as an acknowledged write has: this node and a member might never reach each
//! other. A member that holds the same finds that by the digest, and copies nothing. What this node
//! takes as a synced replica is sent to all anyway, so a receipt need not cover that.
//!
//! **Rejected:** to count only when the others have merged. A member that is silent would keep a
//! whole replica from serving.

use super::Replica;
use super::copies::Unshared;
use super::lists::{PATIENT_REMINDERS, REMIND_PERIOD, remind_after};
use crate::mutants::{ProtocolMutant, rule};
use crate::shard::requests::ReplicaAsker;
use crate::shard::turn::Turn;
use crate::types::{Identity, Partition};
use crate::wire::message::Request;

impl Replica {
    /// Notes what this node holds before it begins to become synced.
    pub(super) fn note_data_brought(&mut self, partition: Partition) {
        let holds = !self.copies.store.is_empty(partition);
        let copy = self.copies.partition_mut(partition);
        copy.brings_data = holds && !copy.is_synced();
    }

    /// Has the other members of the list merge this copy, if it brought data when it became synced.
    pub(super) fn share_data_brought<C>(&mut self, turn: &mut Turn<'_, C>, partition: Partition) {
        let sequence = self.copies.store.sequence(partition);
        let copy = self.copies.partition_mut(partition);
        let Some(list) = copy.list.clone().filter(|_| std::mem::take(&mut copy.brings_data)) else {
            return;
        };
        let is_other = |member: &Identity| *member != turn.node.me;
        let others: Vec<Identity> = list.members().iter().copied().filter(is_other).collect();
        if rule(ProtocolMutant::ReturnedUnshared, !others.is_empty()) {
            copy.unshared = Some(Unshared { sequence, others, reminders: 0 });
            self.remind_anew(turn, partition);
            self.ask_to_merge(turn, partition);
            remind_after(turn, REMIND_PERIOD, partition);
        }
    }

    /// The list has changed, or this node is no synced replica any more.
    pub(super) fn review_sharing<C>(&mut self, turn: &mut Turn<'_, C>, partition: Partition) {
        let copy = self.copies.partition_mut(partition);
        if copy.unshared.take().is_some() && copy.is_synced() {
            copy.brings_data = true;
            self.share_data_brought(turn, partition);
        }
    }

    /// Asks those that have not confirmed to merge this copy. They decline while they merge
    /// something else. Returns whether there are any.
    pub(super) fn ask_to_merge<C>(&mut self, turn: &mut Turn<'_, C>, partition: Partition) -> bool {
        let copy = self.copies.partition_mut(partition);
        let (Some(list), Some(unshared)) = (copy.list.clone(), &mut copy.unshared) else {
            return false;
        };
        unshared.reminders += 1;
        let holders = list.members().len() - unshared.others.len();
        let is_enough = holders >= turn.node.config.quorums.write.count(list.members().len());
        if is_enough && unshared.reminders > PATIENT_REMINDERS {
            copy.unshared = None;
            return false;
        }
        self.reminded.1 += unshared.others.len();
        for other in unshared.others.clone() {
            let request = Request::Repair { list: list.reference(), wants_receipt: true };
            turn.ask(other, partition, request, ReplicaAsker::List(partition));
        }
        true
    }

    /// Takes up a receipt of a member that has merged this copy up to `covers` of its sequence;
    /// `None` if no such receipt is waited for.
    pub(super) fn shared_with(
        &mut self,
        partition: Partition,
        from: &Identity,
        covers: u64,
    ) -> Option<bool> {
        let copy = self.copies.partition_mut(partition);
        let Unshared { sequence, others, .. } = copy.unshared.as_mut()?;
        let is_covered = covers >= *sequence;
        if is_covered {
            others.retain(|other| other != from);
        }
        if others.is_empty() {
            copy.unshared = None;
        }
        Some(is_covered)
    }
}
