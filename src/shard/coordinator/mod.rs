//! [`Coordinator`]: the calls, from the message that brings one to its reply.
//!
//! Any node can coordinate a call: the core that owns the key's partition there does it, even if
//! the node holds no replica. The coordinator stands above the replica of its node and may use it.
//!
//! - [`op`], [`hints`], [`groups`], [`runs`]: what is under way;
//! - [`operations`]: an operation's life, from its first request to the reply and beyond;
//! - [`writes`], [`reads`]: how each kind begins, and which of them need no quorum machine;
//! - [`read_order`]: which replica a read asks first;
//! - [`room`]: writes that wait until room is made for them;
//! - [`many`]: begins the calls of groups, a few at a time;
//! - [`run`]: lets an app's closure work on the copies.
//!
//! A file here may use the replica's copies and the machines of `replication`. It knows nothing of
//! other data centers: what they must know is an [`Effect`].

use std::collections::VecDeque;

use self::groups::Groups;
use self::op::{Machine, Op, Ops};
use self::room::FullReplicas;
use self::runs::Runs;
use super::caller::{Caller, OpId};
use super::calls::{Call, Outcome, StoppedBy, WriteCall};
use super::effects::Effect;
use super::interface::Action;
use super::replica::Replica;
use super::turn::Turn;
use crate::clock::Instant;
use crate::error::NotApplied;
use crate::mutants::{ProtocolMutant, rule};
use crate::types::{Identity, Partition};
use crate::wire::message::Request;

mod groups;
mod hints;
mod many;
mod op;
mod operations;
mod read_order;
mod reads;
mod room;
mod run;
mod runs;
mod writes;

/// How many keys one step of a walk looks at.
const KEYS_STEP: usize = 1000;

/// The calls of one core.
pub(super) struct Coordinator<C> {
    ops: Ops<C>,
    /// Writes for which room is being made.
    waiting: VecDeque<(WriteCall, Caller<C>)>,
    /// Other replicas whose memory was full a moment ago.
    full: FullReplicas,
    groups: Groups<C>,
    runs: Runs<C>,
    /// Requests to this node's own replica, which is asked like any other.
    to_self: VecDeque<SelfRequest>,
    /// The replicas that let the patience of a write pass, and have taken no write since. No more
    /// than there are members.
    late: Vec<Identity>,
}

/// A request to this node's own replica.
struct SelfRequest {
    op: OpId,
    request_id: u64,
    partition: Partition,
    request: Request,
}

impl<C> Coordinator<C> {
    pub(super) fn new() -> Self {
        Self {
            ops: Ops::new(),
            waiting: VecDeque::new(),
            full: FullReplicas::default(),
            groups: Groups::new(),
            runs: Runs::new(),
            to_self: VecDeque::new(),
            late: Vec::new(),
        }
    }

    /// Begins a call.
    pub(super) fn call(
        &mut self,
        turn: &mut Turn<'_, C>,
        replica: &mut Replica,
        call: Call,
        caller: Caller<C>,
    ) {
        if call.is_late(turn.now.instant) {
            return self.reply(turn, caller, call.overdue());
        }
        match call {
            Call::Write(call) => self.write(turn, replica, call, caller),
            Call::Touch(call) => self.touch(turn, replica, *call, caller),
            Call::Read(call) => self.read(turn, replica, *call, caller),
            Call::Keys(call) => {
                let store = &replica.copies.store;
                let mut found = store.keys(&call.from, call.end, turn.now.wall, KEYS_STEP);
                found.keys.retain(|key| key.starts_with(&call.prefix));
                self.reply(turn, caller, Outcome::Keys(Box::new(found)));
            }
            Call::Counts => turn.effects.push_back(Effect::CountWanted { caller }),
            Call::Many(calls) => self.begin_group(turn, replica, calls, caller),
            Call::Run(call) => self.run(turn, replica, call, caller),
            #[cfg(test)]
            Call::Panic => panic!("on purpose"),
        }
    }

    /// Tells the maker of a call how it ended. Every reply goes through here.
    pub(super) fn reply(&mut self, turn: &mut Turn<'_, C>, caller: Caller<C>, outcome: Outcome) {
        let mut next = Some((caller, outcome));
        while let Some((caller, outcome)) = next {
            next = match (caller, outcome) {
                (Caller::App(caller), outcome) => {
                    turn.actions.push(Action::Reply { caller, outcome });
                    None
                }
                (Caller::Group(id, at), outcome) => self.groups.ended(id, at, outcome),
                (Caller::Run(id), Outcome::Written(result)) => self.runs.write_ended(id, result),
                (Caller::Run(_), _) => unreachable!("a closure makes only writes"),
                (Caller::DataCenters(caller), outcome) => {
                    turn.effects.push_back(Effect::CallEnded { caller, outcome });
                    None
                }
            };
        }
    }

    /// Answers every call: the engine stops.
    pub(super) fn stop(&mut self, turn: &mut Turn<'_, C>, by: StoppedBy) {
        for (caller, outcome) in self.groups.stop(by) {
            self.reply(turn, caller, outcome);
        }
        for (_, caller) in std::mem::take(&mut self.waiting) {
            self.reply(turn, caller, Outcome::Written(Err(NotApplied::from(by).into())));
        }
        self.stop_ops(turn, by);
    }

    /// How many calls have no answer yet.
    pub(super) fn calls_in_flight(&self) -> usize {
        self.waiting.len() + self.groups.not_begun() + self.ops.with_caller()
    }

    /// How many acknowledged writes some living replica has not confirmed yet.
    pub(super) fn hinted_writes(&self) -> usize {
        self.ops.owed().count()
    }

    /// Returns when the hint window ends of each of those, without the ones that W replicas have
    /// and no other lacks than `unreached` ones.
    pub(super) fn hints_but_for(
        &self,
        unreached: impl Fn(&Identity) -> bool,
    ) -> impl Iterator<Item = Instant> {
        let is_given_up = move |op: &&Op<C>| match &op.machine {
            Machine::Write(write) => {
                rule(ProtocolMutant::UnreachedOwed, write.is_owed_only_to(&unreached))
            }
            Machine::Read(_) => false,
        };
        self.ops.owed().filter(move |op| !is_given_up(op)).map(|op| op.deadline)
    }
}

/// What the tests of the shard look at.
#[cfg(test)]
impl<C> Coordinator<C> {
    /// Returns for each group how many of its calls are not begun.
    pub(super) fn groups_left(&self) -> Vec<usize> {
        self.groups.left()
    }

    pub(super) fn waiting_writes(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn has_no_runs(&self) -> bool {
        self.runs.is_empty()
    }
}
