//! When acknowledged writes might be lost: as soon as W members of a list are dead at one time.
//!
//! The survivors know it from the deaths alone, seconds before a list without a quorum can be
//! replaced, and also if it never is. They say it once for each list. Who comes in later, and finds
//! no member of the list before, says it when it goes on without them.

use super::Replica;
use crate::shard::interface::Action;
use crate::shard::node::Node;
use crate::shard::turn::Turn;
use crate::types::{Identity, Partition};

impl Replica {
    /// The members, or the list, have changed: looks at how many of the list are dead.
    pub(super) fn note_deaths<C>(&mut self, turn: &mut Turn<'_, C>, partition: Partition) {
        let me = &turn.node.me;
        let copy = self.copies.partition(partition);
        let Some(list) = copy.list().filter(|list| list.contains(me)) else { return };
        // Until its members have what the list before acknowledged, the deaths there count as well.
        let before = if copy.lacks_before(me) { list.before() } else { &[] };
        if are_too_few(turn.node, list.members()) || are_too_few(turn.node, before) {
            self.say_at_risk(turn, partition);
        } else {
            self.copies.partition_mut(partition).said_at_risk = None;
        }
    }

    /// A change of the list went on without W of its members.
    pub(super) fn went_on<C>(&mut self, turn: &mut Turn<'_, C>, partition: Partition) {
        turn.actions.push(Action::WentOn { partition });
        self.say_at_risk(turn, partition);
    }

    fn say_at_risk<C>(&mut self, turn: &mut Turn<'_, C>, partition: Partition) {
        let copy = self.copies.partition_mut(partition);
        let list = copy.list.as_ref().map(|list| list.reference());
        if copy.said_at_risk != Some(list) {
            copy.said_at_risk = Some(list);
            turn.actions.push(Action::DataAtRisk { partition });
        }
    }
}

/// Whether all replicas that acknowledged some write might be dead. Those that have left gave away
/// what they had.
fn are_too_few(node: &Node, members: &[Identity]) -> bool {
    let is_lost =
        |member: &&Identity| node.placement.is_dead(member) && !node.placement.has_left(member);
    let dead = members.iter().filter(is_lost).count();
    dead > 0 && dead >= node.config.quorums.write.count(members.len())
}
