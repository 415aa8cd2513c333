//! Reads for which other data centers are asked if this one has nothing.
//!
//! ```text
//!   begin ─▶ read here ── found ──────────────────────────────▶ reply it
//!                └─ nothing ─▶ ask all others ── one has it ──▶ reply it
//!                                   └─ none has it, or the time is over ─▶ reply that
//! ```

use std::collections::BTreeMap;

use crate::error::ReadError;
use crate::shard::caller::{Caller, ForwardId, ReturnAddress, SiteCaller};
use crate::shard::calls::{Call, Outcome, ReadCall};
use crate::shard::effects::Effect;
use crate::shard::requests::Asker;
use crate::shard::timers::Timer;
use crate::shard::turn::Turn;
use crate::types::{Identity, Partition};
use crate::wire::message::{Answer, Found, Request};
use crate::wire::timing::RELAY_TRIES_FOR;

/// A read of any data center.
struct Forward<C> {
    caller: Caller<C>,
    key: Box<[u8]>,
    partition: Partition,
    /// What this data center has said.
    here: Option<Outcome>,
    to_ask: Vec<Identity>,
    /// How many of those have not answered.
    open: usize,
}

/// The reads of one core that any data center might answer.
pub(in crate::shard) struct Forwards<C> {
    by_id: BTreeMap<ForwardId, Forward<C>>,
}

impl<C> Forwards<C> {
    pub(super) fn new() -> Self {
        Self { by_id: BTreeMap::new() }
    }

    /// Reads here first. Half of the time is for the others.
    pub(super) fn begin(&mut self, turn: &mut Turn<'_, C>, call: ReadCall, caller: Caller<C>) {
        let id = ForwardId(turn.requests.new_id());
        let partition = call.hash.partition();
        let others = turn.node.placement.other_data_centers().values();
        let firsts = others.filter_map(|other| other.replicas(partition).next());
        let forward = Forward {
            caller,
            key: call.key.clone(),
            partition,
            here: None,
            to_ask: firsts.map(|member| member.identity).collect(),
            open: 0,
        };
        turn.timers.set(Timer::Forward(id), call.deadline);
        self.by_id.insert(id, forward);
        let deadline = turn.now.instant + call.deadline.since(turn.now.instant) / 2;
        let call = Call::Read(Box::new(ReadCall { anywhere: false, deadline, ..call }));
        let caller = Caller::DataCenters(SiteCaller::Forward(id));
        turn.effects.push_back(Effect::BeginCall { call, caller });
    }

    /// This data center has answered a read.
    pub(super) fn read_here(&mut self, turn: &mut Turn<'_, C>, id: ForwardId, outcome: Outcome) {
        let Some(forward) = self.by_id.get_mut(&id) else { return };
        let is_found = matches!(outcome, Outcome::Read(Ok(Some(_))));
        forward.here = Some(outcome);
        if is_found {
            self.end(turn, id);
        } else {
            self.ask_others(turn, id);
        }
    }

    /// Asks all the others at once. If there is none, what this one said is the answer.
    fn ask_others(&mut self, turn: &mut Turn<'_, C>, id: ForwardId) {
        let Some(forward) = self.by_id.get_mut(&id) else { return };
        for to in std::mem::take(&mut forward.to_ask) {
            let request = Request::Forward { key: forward.key.clone() };
            let asked = turn.ask(to, forward.partition, request, Asker::Forward(id));
            forward.open += usize::from(asked.is_some());
        }
        if forward.open == 0 {
            self.end(turn, id);
        }
    }

    /// Another data center has answered a read, or will not.
    pub(in crate::shard) fn answered(
        &mut self,
        turn: &mut Turn<'_, C>,
        id: ForwardId,
        answer: Option<Answer>,
    ) {
        let Some(forward) = self.by_id.get_mut(&id) else { return };
        match answer {
            Some(Answer::Found { found: Found::Entry(entry), .. })
                if entry.live_value(turn.now.wall).is_some() =>
            {
                (forward.here, forward.open) = (Some(Outcome::Read(Ok(Some(entry)))), 0);
                self.end(turn, id);
            }
            _ => {
                forward.open = forward.open.saturating_sub(1);
                if forward.open == 0 {
                    self.end(turn, id);
                }
            }
        }
    }

    /// Replies what is known, which is that there is nothing, or why nothing is known.
    pub(super) fn end(&mut self, turn: &mut Turn<'_, C>, id: ForwardId) {
        let is_answered = self.by_id.get(&id).is_some_and(|forward| forward.here.is_some());
        if is_answered
            && let Some(Forward { caller, open, here: Some(outcome), .. }) = self.by_id.remove(&id)
        {
            turn.timers.stop(Timer::Forward(id));
            // One that has not answered might have what this one has not.
            let outcome = match outcome {
                Outcome::Read(Ok(None)) if open > 0 => {
                    Outcome::Read(Err(ReadError::TimedOut { answered: 1, needed: 1 + open }))
                }
                outcome => outcome,
            };
            turn.effects.push_back(Effect::ReplyToCaller { caller, outcome });
        }
    }

    /// Asks no other data center any more.
    pub(in crate::shard) fn ask_no_more(&mut self) {
        self.by_id.values_mut().for_each(|forward| forward.to_ask.clear());
    }

    pub(super) fn end_all(&mut self, turn: &mut Turn<'_, C>) {
        let ids: Vec<ForwardId> = self.by_id.keys().copied().collect();
        ids.into_iter().for_each(|id| self.end(turn, id));
    }

    /// How many reads this data center has no value for, so that others are asked.
    pub(super) fn asking_others(&self) -> usize {
        self.by_id.values().filter(|forward| forward.here.is_some()).count()
    }
}

/// Reads a key for a node of another data center.
pub(super) fn read_for<C>(turn: &mut Turn<'_, C>, address: ReturnAddress, key: Box<[u8]>) {
    let hash = turn.node.hash(&key);
    let (quorum, deadline) = (turn.node.config.quorums.read, turn.now.instant + RELAY_TRIES_FOR);
    let call = ReadCall { key, hash, quorum, local: false, anywhere: false, deadline };
    let caller = Caller::DataCenters(SiteCaller::Forwarded(address));
    turn.effects.push_back(Effect::BeginCall { call: Call::Read(Box::new(call)), caller });
}

/// Answers a read that another data center has forwarded.
pub(super) fn answer_forwarded<C>(
    turn: &mut Turn<'_, C>,
    address: ReturnAddress,
    outcome: Outcome,
) {
    let found = match outcome {
        Outcome::Read(Ok(Some(entry))) => Found::Entry(entry),
        Outcome::Read(Ok(None)) => Found::Absent { eviction_watermark: Default::default() },
        _ => return turn.answer(address, Answer::Declined),
    };
    turn.answer(address, Answer::Found { found, synced: true });
}
