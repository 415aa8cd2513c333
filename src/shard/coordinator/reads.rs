//! Reads: how they begin, and the ones that this node's own copy answers.

use super::Coordinator;
use super::op::{Begin, Machine};
use crate::entry::Entry;
use crate::error::ReadError;
use crate::quorums::Count;
use crate::replication::read::{Read, ReadRules};
use crate::shard::caller::Caller;
use crate::shard::calls::{Outcome, ReadCall};
use crate::shard::effects::Effect;
use crate::shard::node::Node;
use crate::shard::replica::Replica;
use crate::shard::replica::copies::LocalCopies;
use crate::shard::turn::Turn;

impl<C> Coordinator<C> {
    pub(super) fn read(
        &mut self,
        turn: &mut Turn<'_, C>,
        replica: &mut Replica,
        call: ReadCall,
        caller: Caller<C>,
    ) {
        if call.anywhere && !turn.node.placement.other_data_centers().is_empty() {
            return turn.effects.push_back(Effect::ReadAnywhere { call, caller });
        }
        let copies = &replica.copies;
        let is_local = copies.partition(call.hash.partition()).serves_synced(&turn.node.me);
        if is_local && (call.quorum == Count::Exactly(1) || call.local) {
            let held = copies.store.get(call.hash, &call.key);
            let live =
                held.filter(|entry| entry.live_value(turn.now.wall).is_some()).map(|entry| {
                    entry.visit();
                    Entry::clone(&entry)
                });
            if live.is_some() || call.local {
                return self.reply(turn, caller, Outcome::Read(Ok(live)));
            }
        }
        if let Some(error) = why_unreadable(turn, copies, &call) {
            return self.reply(turn, caller, Outcome::Read(Err(error)));
        }
        let ReadCall { key, hash, quorum, deadline, .. } = call;
        let machine = Machine::Read(Read::new(key, rules(turn.node, quorum)));
        self.begin(turn, replica, Begin { hash, machine, touch: None, deadline, caller });
    }
}

/// Returns why no replica needs to be asked: the read cannot succeed.
fn why_unreadable<C>(
    turn: &Turn<'_, C>,
    copies: &LocalCopies,
    call: &ReadCall,
) -> Option<ReadError> {
    if call.local {
        return Some(ReadError::NotLocal);
    }
    let (alive, all) = turn.node.alive(|| copies.partition(call.hash.partition()).list());
    let needed = call.quorum.count(all);
    (alive < needed).then(|| {
        let alive = turn.node.members_for_errors(alive);
        ReadError::NotEnoughReplicas { alive, needed }
    })
}

/// Returns what a read that needs this many answers goes by.
pub(super) fn rules(node: &Node, needed: Count) -> ReadRules {
    ReadRules { needed, quorums: node.config.quorums, confirms_hits: false }
}
