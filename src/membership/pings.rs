//! Our own pings: a probe of one member, now.
//!
//! foca probes in a cycle of its own. A connection that broke wants an answer about *this* member
//! at once, and must not disturb the cycle. So these pings are none of SWIM's.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hasher};
use std::time::Duration;

use crate::clock::Instant;
use crate::types::Identity;

/// How many pings can be in flight. At the limit the oldest is given up: its answer is ignored.
const MAX_IN_FLIGHT: usize = 4096;

/// How old an answer can be. A later one says nothing about the network, only that a node slept.
const MAX_ROUND_TRIP: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct Ping {
    number: u64,
    target: Identity,
    sent_at: Instant,
}

/// The pings that have not been answered, oldest first.
#[derive(Debug)]
pub(super) struct Pings {
    in_flight: VecDeque<Ping>,
    next: u64,
    /// What nonces are made from. Who has seen some cannot tell the next: that a nonce comes back
    /// shows that the ping has arrived.
    secret: u64,
}

impl Pings {
    /// Makes it empty. The secret is random, and another one for each life.
    pub(super) fn new(secret: u64) -> Self {
        Self { in_flight: VecDeque::new(), next: 0, secret }
    }

    /// Returns the nonce of the ping of this number.
    pub(super) fn nonce(&self, number: u64) -> u64 {
        // SipHash, with the secret before what is hashed.
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.secret);
        hasher.write_u64(number);
        hasher.finish()
    }

    /// Notes a ping that is sent now, and returns its number: they count up from zero.
    pub(super) fn start(&mut self, now: Instant, target: Identity) -> u64 {
        while self
            .in_flight
            .front()
            .is_some_and(|oldest| now.since(oldest.sent_at) > MAX_ROUND_TRIP)
        {
            self.in_flight.pop_front();
        }
        if self.in_flight.len() >= MAX_IN_FLIGHT {
            self.in_flight.pop_front();
        }
        let number = self.next;
        self.next += 1;
        self.in_flight.push_back(Ping { number, target, sent_at: now });
        number
    }

    /// Returns the number of the ping that this answers, from its target and in time. Each ping is
    /// answered once.
    pub(super) fn finish(&mut self, now: Instant, nonce: u64, from: &Identity) -> Option<u64> {
        let is_answered = |ping: &Ping| ping.target == *from && self.nonce(ping.number) == nonce;
        let at = self.in_flight.iter().position(is_answered)?;
        let ping = self.in_flight.remove(at)?;
        (now.since(ping.sent_at) <= MAX_ROUND_TRIP).then_some(ping.number)
    }
}
