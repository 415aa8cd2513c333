//! Lets an app's closure work on the copies of this core.
//!
//! The closure runs between two calls, so nothing changes under it. Its writes take the way of all
//! writes: this node's own replica has applied them when they return, the others are asked after
//! that, and the closure's caller hears when all of them were acknowledged.
//!
//! A panic of the closure ends here; a panic of the shard's own code goes on, even if the closure
//! called it.

use std::any::Any;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::Coordinator;
use super::room::{no_room, room_for};
use super::writes::is_decided_alone;
use crate::clock::Instant;
use crate::entry::Content;
use crate::error::{NotApplied, ReadError, RunError};
use crate::options::WriteOptions;
use crate::shard::caller::{Caller, RunId};
use crate::shard::calls::{Outcome, RunCall, WriteCall};
use crate::shard::local_shard::{LocalShard, Owner, Returned, drop_quietly};
use crate::shard::node::Node;
use crate::shard::replica::Replica;
use crate::shard::turn::Turn;
use crate::store::Admission;
use crate::types::MAX_KEY_BYTES;

/// How often room is made for one entry: enough for the largest among the smallest, all of them
/// read lately.
const ROOM_TRIES: usize = 4096;

/// The core's share of this node while a closure runs.
struct Running<'a, 'b, C> {
    coordinator: &'a mut Coordinator<C>,
    turn: &'a mut Turn<'b, C>,
    replica: &'a mut Replica,
    id: RunId,
    deadline: Instant,
    /// Whether the shard's own code runs: then a panic is its own.
    is_inside: bool,
}

impl<C> Owner for Running<'_, '_, C> {
    fn core(&self) -> usize {
        usize::from(self.turn.node.config.core.0)
    }

    fn owns(&self, key: &[u8]) -> bool {
        self.turn.node.owns(self.turn.node.hash(key).partition())
    }

    fn get(&self, key: &[u8]) -> Result<Option<&[u8]>, ReadError> {
        if key.len() > MAX_KEY_BYTES {
            return Err(ReadError::KeyTooLong { length: key.len() });
        }
        let node = self.turn.node;
        let hash = node.hash(key);
        if !node.owns(hash.partition()) {
            return Err(ReadError::OtherCore);
        }
        let copies = &self.replica.copies;
        if !copies.partition(hash.partition()).serves_synced(&node.me) {
            return Err(ReadError::NotLocal);
        }
        let held = copies.store.get(hash, key);
        let live = held.filter(|held| held.live_value(self.turn.now.wall).is_some());
        Ok(live.and_then(|held| {
            held.visit();
            held.into_value()
        }))
    }

    fn write(
        &mut self,
        key: &[u8],
        content: Content<'_>,
        options: &WriteOptions,
    ) -> Result<(), NotApplied> {
        let now = self.turn.now;
        let end = options.timeout.map_or(self.deadline, |timeout| now.instant + timeout);
        let deadline = end.min(self.deadline);
        self.is_inside = true;
        let rules = &self.turn.node.write_rules;
        let call = WriteCall::new(rules, key, content, options, deadline, || now.wall);
        let begun = call.and_then(|call| self.begin(call));
        self.is_inside = false;
        begun
    }
}

impl<C> Running<'_, '_, C> {
    fn begin(&mut self, call: WriteCall) -> Result<(), NotApplied> {
        let Self { coordinator, turn, replica, id, .. } = self;
        if !turn.node.owns(call.hash.partition()) {
            return Err(NotApplied::OtherCore);
        }
        if call.deadline <= turn.now.instant {
            return Err(NotApplied::Overloaded);
        }
        let list = || replica.copies.partition(call.hash.partition()).list();
        turn.node.check_alive(call.quorum, list)?;
        make_room_at_once(turn.node, replica, &call)?;
        if is_decided_alone(turn.node, replica, &call) {
            coordinator.write_alone(turn, replica, call);
            return Ok(());
        }
        coordinator.runs.write_begins(*id);
        coordinator.begin_write(turn, replica, call, Caller::Run(*id));
        coordinator.ask_own_replica(turn, replica);
        Ok(())
    }
}

/// Makes room in one go: the closure cannot be left and come back to. There are no more steps than
/// make room for the largest entry.
fn make_room_at_once(
    node: &Node,
    replica: &mut Replica,
    call: &WriteCall,
) -> Result<(), NotApplied> {
    for _ in 0..ROOM_TRIES {
        match room_for(node, replica, call) {
            Admission::Enough => return Ok(()),
            Admission::Later => {}
            room => return Err(no_room(node, room)),
        }
    }
    Err(NotApplied::Overloaded)
}

impl<C> Coordinator<C> {
    /// Runs an app's closure.
    pub(super) fn run(
        &mut self,
        turn: &mut Turn<'_, C>,
        replica: &mut Replica,
        call: RunCall,
        caller: Caller<C>,
    ) {
        let id = RunId(turn.requests.new_id());
        self.runs.add(id);
        let RunCall { run, deadline } = call;
        let mut owner = Running {
            coordinator: &mut *self,
            turn: &mut *turn,
            replica,
            id,
            deadline,
            is_inside: false,
        };
        let result = catch_unwind(AssertUnwindSafe(|| run(&mut LocalShard::new(&mut owner))));
        let is_own = mem::take(&mut owner.is_inside);
        match result {
            Err(payload) if is_own => resume_unwind(payload),
            Ok(_) if is_own => panic!("the shard panicked, and an app's closure hid it"),
            Ok(value) => {
                if let Some((caller, outcome)) =
                    self.runs.returned(id, caller, Returned::new(value))
                {
                    self.reply(turn, caller, outcome);
                }
            }
            Err(payload) => {
                // Its writes go on, and nothing waits for them.
                self.runs.remove(id);
                let message = message(&*payload);
                drop_quietly(payload);
                self.reply(
                    turn,
                    caller,
                    Outcome::Ran(Err(Box::new(RunError::Panicked { message }))),
                );
            }
        }
    }
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}
