//! Our own pings: a probe of one member, now.
//!
//! foca probes in a cycle of its own. A connection that broke wants an answer about *this* member
//! at once, and must not disturb the cycle. So these pings are none of SWIM's.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Instant;
use crate::types::Identity;

/// How many pings can be in flight. At the limit the oldest is given up: its answer is ignored.
const MAX_IN_FLIGHT: usize = 4096;

/// How old an answer can be. A later one says nothing about the network, only that a node slept.
const MAX_ROUND_TRIP: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct Ping {
    nonce: u64,
    target: Identity,
    sent_at: Instant,
}

/// The pings that have not been answered, oldest first.
#[derive(Debug)]
pub(super) struct Pings {
    in_flight: VecDeque<Ping>,
    next_nonce: u64,
}

impl Pings {
    /// Makes it empty. Nonces count up from `first_nonce`, which is random, so that a pong to an
    /// earlier life is not taken for one to this life.
    pub(super) fn new(first_nonce: u64) -> Self {
        Self { in_flight: VecDeque::new(), next_nonce: first_nonce }
    }

    /// Notes a ping that is sent now, and returns its nonce.
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
        let nonce = self.next_nonce;
        self.next_nonce = nonce.wrapping_add(1);
        self.in_flight.push_back(Ping { nonce, target, sent_at: now });
        nonce
    }

    /// Whether this answers a ping, from the ping's target and in time. Each ping is answered once.
    pub(super) fn finish(&mut self, now: Instant, nonce: u64, from: &Identity) -> bool {
        let is_answered = |ping: &Ping| ping.nonce == nonce && ping.target == *from;
        let at = self.in_flight.iter().position(is_answered);
        let ping = at.and_then(|at| self.in_flight.remove(at));
        ping.is_some_and(|ping| now.since(ping.sent_at) <= MAX_ROUND_TRIP)
    }
}
