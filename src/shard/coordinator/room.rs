//! Writes that wait until room is made for them, and those that other replicas have no room for.
//!
//! A write waits behind the others that wait, so that it overtakes none of them: least of all an
//! earlier one of its key.
//!
//! If W replicas cannot acknowledge because others are full, the coordinator learns it from their
//! answers. By then another replica might have applied the write, and the error must say so.
//! So what was learned is kept for a moment, and the next writes are refused before any replica is
//! asked: these did not happen. Only new keys are: what replaces a value, or deletes one, may need
//! no room.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Coordinator;
use crate::clock::Instant;
use crate::error::NotApplied;
use crate::replication::write::Write;
use crate::shard::caller::Caller;
use crate::shard::calls::{Call, OPS_PER_TURN, Outcome, WriteCall};
use crate::shard::node::Node;
use crate::shard::replica::Replica;
use crate::shard::timers::Timer;
use crate::shard::turn::Turn;
use crate::store::Admission;
use crate::types::Identity;

/// How long a replica is taken for full without being asked again.
const FULL_FOR: Duration = Duration::from_secs(1);

/// The other replicas that had no room for a write a moment ago.
#[derive(Default)]
pub(super) struct FullReplicas(BTreeMap<Identity, Full>);

/// What a replica that is full has said.
struct Full {
    until: Instant,
    max_memory: usize,
    /// The least size of an entry for which it had no room: one that is larger would be refused as
    /// well. A smaller one may fit, and is tried.
    bytes: usize,
}

impl FullReplicas {
    /// Notes the replicas that have stopped this write.
    pub(super) fn note(&mut self, now: Instant, write: &Write) {
        self.0.retain(|_, full| full.until > now);
        for &(replica, max_memory) in write.stopped_by() {
            let (until, bytes) = (now + FULL_FOR, write.entry().bytes());
            let full = Full { until, max_memory: max_memory as usize, bytes };
            let full = match self.0.remove(&replica) {
                Some(before) => Full { bytes: bytes.min(before.bytes), ..full },
                None => full,
            };
            self.0.insert(replica, full);
        }
    }

    /// Returns the memory limit of a full replica, if W replicas cannot acknowledge this write of a
    /// new key because others are full.
    fn stops<C>(&self, turn: &Turn<'_, C>, replica: &Replica, call: &WriteCall) -> Option<usize> {
        if self.0.is_empty() || call.entry.value().is_none() {
            return None;
        }
        let copies = &replica.copies;
        let list = copies.partition(call.hash.partition()).list()?;
        let members = list.members();
        let is_new = members.contains(&turn.node.me)
            && copies.store.get(call.hash, call.entry.key()).is_none();
        let stops =
            |full: &&Full| full.until > turn.now.instant && full.bytes <= call.entry.bytes();
        let full = || members.iter().filter_map(|member| self.0.get(member)).filter(stops);
        let is_stopped =
            is_new && members.len() < call.quorum.count(members.len()) + full().count();
        full().next().filter(|_| is_stopped).map(|full| full.max_memory)
    }
}

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
        let list = || replica.copies.partition(call.hash.partition()).list();
        if let Err(why) = turn.node.check_alive(call.quorum, list) {
            return self.reply(turn, caller, Outcome::Written(Err(why.into())));
        }
        if let Some(max_memory) = self.full.stops(turn, replica, &call) {
            let why = NotApplied::OutOfMemory { max_memory };
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
    match room {
        Admission::OutOfMemory => NotApplied::OutOfMemory { max_memory: node.config.max_memory() },
        _ => NotApplied::Overloaded,
    }
}
