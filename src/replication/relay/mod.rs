//! Sending what was written here to the other data centers. One machine for each core.
//!
//! **Problem.** Each data center has its own copies, lists and quorums. A write that was
//! acknowledged in one of them must reach the others, though they are far away, and cut off at
//! times.
//!
//! Its coordinator sends the write to each other data center, in batches, through one member there,
//! the *relay*. The relay writes it in its own data center as a coordinator does, under the version
//! that it has, and answers when W replicas there have applied it. A relay writes nothing in a
//! third data center: the coordinator sends to each.
//!
//! ```text
//! coordinator ──[Relay: entries]──▶ relay ──[Write]──▶ W replicas there
//! coordinator ◀──[Relayed: which of them]──
//! ```
//!
//! Two spokes of a hub do not reach each other. A coordinator that has failed to reach any member
//! of another data center sends its batches through a *helper*, the relay of a third one. The
//! helper passes a batch on as it is, and the answer back; it keeps nothing. So it is still the
//! relay that confirms, and the coordinator that waits for that. If a helper is busy for a second,
//! another member of a third data center takes its place.
//!
//! ```text
//! coordinator ──[Relay, for a member of B]──▶ helper in C ──[the same]──▶ that member, the relay
//! coordinator ◀──[Relayed]─────────────────── helper      ◀──[Relayed]──
//! ```
//!
//! | a write is | kept by | until |
//! |---|---|---|
//! | waiting | a lane, one for each core of the relay | its batch is sent |
//! | on its way | its batch | the relay confirms it, or it waits again |
//! | waiting apart | a lane of its partition | its batch is sent |
//! | given up | no one: anti-entropy finds it | |
//!
//! A batch is sent when it is full, or [`limits::LINGER`] after its first write while none is on
//! its way, or [`lane::NEXT_AFTER`] after one that has no answer yet.
//!
//! **Lanes do not wait for each other.** Each has its own pauses. A partition that its data center
//! does not write goes apart, in a lane of its own, so that a batch does not wait for it: it has
//! too few replicas there, for as long as that takes. Such a lane tries each member as its relay in
//! turn, and ends when its writes are confirmed.
//!
//! **Late answers count.** A batch is sent again when its answer does not come in time, or when the
//! relay is another one. If the answer comes after all, what it confirms is not sent any more. So
//! the slowest way makes progress. Batches become smaller while they come to nothing. A late answer
//! of a relay that is no member any more counts for nothing: its data center might have lost its
//! memory since.
//!
//! **Invariant.** A write waits or is on its way until a relay has confirmed it: over lost
//! connections, dead relays (the next member is taken), and while the data center cannot be
//! reached. Of a key, only the newest state waits.
//!
//! Two bounds limit that: on the bytes that are kept ([`max_waiting_bytes`]), and on how long a
//! data center without any member is waited for ([`PATIENCE`]). Anti-entropy brings what is beyond
//! them, and what a dead coordinator kept.
//!
//! **The files.** An [`outbox`] has all that waits for one data center and chooses its way, a
//! [`lane`] says what goes in which order. This one knows all outboxes.
//!
//! Under load batches grow with the round trip, so few are needed however far away the other data
//! center is.
//!
//! **Source.** One member of each other data center passes a write on to its own, as in Cassandra.
//!
//! **Rejected:** a quorum of all data centers. A write would wait for the slowest of them, and fail
//! while one is away.

use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use self::lane::Item;
use self::outbox::{Batch, Outbox};
use crate::clock::{Instant, Version};
use crate::entry::Entry;
use crate::logging;
use crate::types::{Identity, KeyHash};
use crate::wire::waiting::max_waiting_bytes;

mod interface;
mod lane;
mod limits;
mod outbox;

pub(crate) use self::interface::{Candidate, RelayAction};

/// How long writes are kept for a data center that has no member.
const PATIENCE: Duration = Duration::from_secs(3600);

/// The writes of one core that other data centers have not confirmed.
pub(crate) struct Relays {
    outboxes: BTreeMap<Arc<str>, Outbox>,
    max_bytes: usize,
    next_item: u64,
    next_batch: u64,
    given_up: u64,
}

impl Relays {
    pub(crate) fn new(memory: Option<usize>) -> Self {
        let max_bytes = max_waiting_bytes(memory);
        Self { outboxes: BTreeMap::new(), max_bytes, next_item: 0, next_batch: 0, given_up: 0 }
    }

    /// Whether there is another data center to write to.
    pub(crate) fn is_wanted(&self) -> bool {
        !self.outboxes.is_empty()
    }

    /// Takes up which other data centers have members, and which of these can relay, in this node's
    /// order.
    pub(crate) fn placed(&mut self, now: Instant, mut others: BTreeMap<Arc<str>, Vec<Candidate>>) {
        for name in others.keys() {
            self.outboxes.entry(name.clone()).or_default();
        }
        self.outboxes.retain(|name, outbox| {
            outbox.take_candidates(now, others.remove(name).unwrap_or_default());
            let is_kept = outbox.unreachable_since.is_none_or(|since| now < since + PATIENCE);
            if !is_kept {
                self.given_up += outbox.len() as u64;
                logging::warn!(
                    "data center {name:?} has had no member for an hour: no more writes are kept \
                     for it"
                );
            }
            is_kept
        });
    }

    /// Keeps a write that was acknowledged here for each other data center.
    pub(crate) fn add(&mut self, now: Instant, hash: KeyHash, entry: &Entry) {
        for (name, outbox) in &mut self.outboxes {
            self.next_item += 1;
            let item = Item { hash, entry: entry.clone(), is_confirmed: false };
            outbox.put(now, self.next_item, item);
            while outbox.bytes > self.max_bytes && outbox.give_up_oldest() {
                self.given_up += 1;
                if !mem::replace(&mut outbox.has_overflowed, true) {
                    logging::warn!(
                        "more is written than data center {name:?} takes: it gets the rest by \
                         comparison"
                    );
                }
            }
        }
    }

    /// Takes up which writes of the batch the relay has written in its data center, by their
    /// places.
    pub(crate) fn relayed(&mut self, number: u64, places: &[u16], now: Instant) {
        match self.close(number) {
            Some((batch, outbox)) => outbox.answered(batch, places, now),
            None => self.outboxes.values_mut().for_each(|it| it.answered_late(number, places)),
        }
    }

    /// Notes that the batch was not sent, or that its answer is none. Another member relays it.
    pub(crate) fn failed(&mut self, number: u64, now: Instant) {
        let reached = self.outboxes.values().filter(|outbox| outbox.is_reached);
        let relays = reached.filter_map(|outbox| outbox.candidates.first());
        let helpers: Vec<Identity> = relays.map(|(relay, _)| *relay).collect();
        if let Some((batch, outbox)) = self.close(number) {
            outbox.failed((number, batch), &helpers, now);
        }
    }

    /// Returns a batch that has no answer yet, and whose it is.
    fn close(&mut self, number: u64) -> Option<(Batch, &mut Outbox)> {
        self.outboxes.values_mut().find_map(|outbox| Some((outbox.close(number)?, outbox)))
    }

    /// Notes that the batch was not sent on, because a helper has too much to do. The way is as
    /// good as before: it is taken again after a pause, up to [`limits::BUSY_TRIES`] times.
    pub(crate) fn was_busy(&mut self, number: u64, now: Instant) {
        // Not only the relays: the others of a relay's data center might reach as much as it does.
        let reached = self.outboxes.values().filter(|outbox| outbox.is_reached);
        let helpers = reached.flat_map(|outbox| &outbox.candidates);
        let helpers: Vec<Identity> = helpers.map(|(member, _)| *member).collect();
        if let Some((batch, outbox)) = self.close(number) {
            outbox.was_busy(batch, &helpers, now);
        }
    }

    /// Returns when [`handle_timers`](Self::handle_timers) wants to be called.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.outboxes.values().filter_map(Outbox::deadline).min()
    }

    /// Sends what is due. What is no newer than the purge horizon here is given up: other data
    /// centers might have purged it too, and no node there would know.
    pub(crate) fn handle_timers(
        &mut self,
        now: Instant,
        is_forgotten: impl Fn(KeyHash, Version) -> bool,
        actions: &mut Vec<RelayAction>,
    ) {
        let overdue: Vec<u64> = self.outboxes.values().flat_map(|it| it.overdue(now)).collect();
        overdue.into_iter().for_each(|number| self.failed(number, now));
        for outbox in self.outboxes.values_mut() {
            self.given_up += outbox.send(now, &mut self.next_batch, &is_forgotten, actions);
        }
    }

    /// Returns how many writes another data center has not confirmed.
    pub(crate) fn waiting(&self) -> usize {
        self.outboxes.values().map(Outbox::len).sum()
    }

    /// Returns how many of them wait for data centers that have members, and take what they are
    /// sent.
    pub(crate) fn waiting_for_reachable(&self) -> usize {
        self.outboxes.values().map(Outbox::taken).sum()
    }

    /// Returns how many writes were left to anti-entropy.
    pub(crate) fn given_up(&self) -> u64 {
        self.given_up
    }
}

#[cfg(test)]
mod tests;
