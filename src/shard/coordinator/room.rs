//! Writes that wait until room is made for them.
//!
//! A write waits behind the others that wait, so that it overtakes none of them: least of all an
//! earlier one of its key.

use super::Coordinator;
use crate::error::NotApplied;
use crate::shard::caller::Caller;
use crate::shard::calls::{Call, OPS_PER_TURN, Outcome, WriteCall};
use crate::shard::node::Node;
use crate::shard::replica::Replica;
use crate::shard::timers::Timer;
use crate::shard::turn::Turn;
use crate::store::Admission;

impl<C> Coordinator<C> {
    pub(super) fn write(
        &mut self,
        turn: &mut Turn<'_, C>,
        replica: &mut Replica,
        call: WriteCall,
        caller: Caller<C>,
    ) {
        if self.waiting.is_empty() {
            self.write_now(turn, replica, call, caller);
        } else {
            self.waiting.push_back((call, caller));
        }
    }

    fn write_now(
        &mut self,
        turn: &mut Turn<'_, C>,
        replica: &mut Replica,
        call: WriteCall,
        caller: Caller<C>,
    ) {
        if let Err(why) = turn.node.check_alive(turn.now, call.quorum) {
            return self.reply(turn, caller, Outcome::Written(Err(why.into())));
        }
        match room_for(turn.node, replica, &call) {
            Admission::Enough => self.begin_write(turn, replica, call, caller),
            Admission::Later => {
                self.waiting.push_back((call, caller));
                turn.soon(Timer::Room);
            }
            room => {
                let outcome = Outcome::Written(Err(no_room(turn.node, room).into()));
                self.reply(turn, caller, outcome);
            }
        }
    }

    /// Goes on making room for the writes that wait for it, one after the other.
    pub(in crate::shard) fn resume_waiting_writes(
        &mut self,
        turn: &mut Turn<'_, C>,
        replica: &mut Replica,
    ) {
        for _ in 0..OPS_PER_TURN {
            let Some((call, caller)) = self.waiting.pop_front() else { return };
            let is_late = call.deadline <= turn.now.instant;
            if !is_late && room_for(turn.node, replica, &call) == Admission::Later {
                self.waiting.push_front((call, caller));
                break;
            }
            let group = if let Caller::Group(id, _) = caller { Some(id) } else { None };
            if is_late {
                self.reply(turn, caller, Call::Write(call).overdue());
            } else {
                // With what was found just now: there is room, or there is none.
                self.write_now(turn, replica, call, caller);
            }
            self.ask_own_replica(turn, replica);
            if let Some(id) = group.filter(|id| !self.is_parked_last(*id)) {
                self.queue_group(turn, id);
            }
        }
        if !self.waiting.is_empty() {
            turn.soon(Timer::Room);
        }
    }
}

/// Makes room for a write, as far as one turn allows, if this node is to hold it.
pub(super) fn room_for(node: &Node, replica: &mut Replica, call: &WriteCall) -> Admission {
    let copy = replica.copies.partition(call.hash.partition());
    if copy.is_alone() || copy.list().is_some_and(|list| list.contains(&node.me)) {
        replica.copies.store.make_room(call.hash, &call.entry)
    } else {
        Admission::Enough
    }
}

/// Returns why a write is not applied for which there is no room.
pub(super) fn no_room(node: &Node, room: Admission) -> NotApplied {
    let config = &node.config;
    let max_memory = config.memory.map_or(0, |memory| memory * usize::from(config.cores));
    match room {
        Admission::OutOfMemory => NotApplied::OutOfMemory { max_memory },
        _ => NotApplied::Overloaded,
    }
}
