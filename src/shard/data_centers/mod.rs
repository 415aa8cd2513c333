//! [`DataCenters`]: what passes between this data center and the others.
//!
//! Nothing here counts in a list: lists, and quorums in them, are each data center's own. Writes
//! are relayed ([`relay`]), and reads that find nothing can be forwarded ([`forward`]). Whole
//! partitions are compared and copied between the first replicas of each data center, by
//! anti-entropy.
//!
//! A file here may use the replica's copies and what a [`Turn`] holds. It knows no coordinator:
//! what that should do is an [`Effect`](super::effects::Effect).

use self::forward::{Forwards, answer_forwarded};
use self::relay::Relaying;
use super::caller::{Caller, ForwardId, ReturnAddress, SiteCaller};
use super::calls::{Outcome, ReadCall};
use super::interface::ShardConfig;
use super::replica::Replica;
use super::timers::Timer;
use super::turn::Turn;
use crate::types::Identity;
use crate::wire::message::{Answer, Request};

mod forward;
mod relay;

/// What this core owes other data centers, and does for them.
pub(super) struct DataCenters<C> {
    pub(super) relaying: Relaying,
    pub(super) forwards: Forwards<C>,
}

impl<C> DataCenters<C> {
    pub(super) fn new(config: &ShardConfig) -> Self {
        Self { relaying: Relaying::new(config), forwards: Forwards::new() }
    }

    /// Answers what another data center asks, which knows nothing of this one's lists; at once, if
    /// that can be.
    pub(super) fn serve(
        &mut self,
        turn: &mut Turn<'_, C>,
        replica: &mut Replica,
        from: Identity,
        address: ReturnAddress,
        request: Request,
    ) -> Option<Answer> {
        match request {
            Request::Relay { entries, .. } => {
                self.relaying.begin_batch(turn, address, entries);
                None
            }
            Request::Forward { key } => {
                forward::read_for(turn, address, key);
                None
            }
            // What this node has is not given away, so no node needs to confirm that it has it.
            Request::Receipt { .. } => Some(Answer::Received { covered: true }),
            Request::Fetch(_)
            | Request::Compare(_)
            | Request::Repair { .. }
            | Request::Give { .. }
            | Request::Purge { .. }
            | Request::Purged { .. }
            | Request::Survey(_) => Some(replica.serve(turn, from, address.partition, request)),
            Request::Write { .. }
            | Request::Read { .. }
            | Request::AskList
            | Request::Prepare { .. }
            | Request::Accept { .. }
            | Request::Adopt { .. } => Some(Answer::Declined),
        }
    }

    /// A call that was made for this part has ended.
    pub(super) fn call_ended(
        &mut self,
        turn: &mut Turn<'_, C>,
        caller: SiteCaller,
        outcome: Outcome,
    ) {
        match caller {
            SiteCaller::Relay(id, place) => {
                let is_written = matches!(outcome, Outcome::Written(Ok(())));
                self.relaying.written(turn, id, place, is_written);
            }
            SiteCaller::Forwarded(address) => answer_forwarded(turn, address, outcome),
            SiteCaller::Forward(id) => self.forwards.read_here(turn, id, outcome),
        }
    }

    /// An app reads a key that any data center might have.
    pub(super) fn read_anywhere(
        &mut self,
        turn: &mut Turn<'_, C>,
        call: ReadCall,
        caller: Caller<C>,
    ) {
        self.forwards.begin(turn, call, caller);
    }

    /// A read of other data centers is over.
    pub(super) fn end_forward(&mut self, turn: &mut Turn<'_, C>, id: ForwardId) {
        self.forwards.end(turn, id);
    }

    /// Ends every read for which other data centers might still be asked.
    pub(super) fn stop(&mut self, turn: &mut Turn<'_, C>) {
        self.forwards.end_all(turn);
    }

    /// Sets the timer of this part.
    pub(super) fn finish_turn(&self, turn: &mut Turn<'_, C>) {
        turn.timers.set_to(Timer::Relay, self.relaying.deadline());
    }

    /// How many calls have no answer yet.
    pub(super) fn calls_in_flight(&self) -> usize {
        self.forwards.asking_others()
    }
}
