//! How well this node is itself, and how far away the others are: what its own probes tell, beside who is dead.
//!
//! A node that gets too little of its processor, or whose network loses much, sees others fail that are well, and SWIM
//! believes it. After Lifeguard (Dadgar, Phillips, Currey, "Lifeguard: Local Health Awareness for More Accurate Failure
//! Detection", DSN '18) it doubts itself:
//!
//! - Its **score** goes up with each probe that stays unanswered, with each suspicion of itself that it has to refute, and
//!   when its timers come late; it goes down with each probe that is answered. It gives others score + 1 times as long, to
//!   answer and to refute. (Lifeguard also counts helpers that did not say that they tried; foca's do not.)
//! - **Time in which it did not run** is nobody's fault: where a timer comes late, all others of SWIM's are put off by as
//!   much. What would have been answered meanwhile may then still be.
//!
//! And a member that is far away is no suspect for it: a probe may take as long as round trips to that member suggest,
//! smoothed as TCP does (RFC 6298), and the same holds for all that follows from the probe.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::clock::Instant;
use crate::types::Identity;

/// The most that a score comes to: eight times as long, as in Lifeguard.
const WORST: u32 = 7;

/// The longest that a round trip is taken for, however long they are: nobody waits longer for a dead member, by far.
const MOST_ROUND_TRIP: Duration = Duration::from_secs(2);

/// Of how many probes the answer is still recognised.
const REMEMBERED: usize = 16;

#[derive(Debug)]
struct Probe {
    number: u8,
    target: Identity,
    at: Instant,
    is_answered: bool,
}

/// Smoothed, with how much it varies.
#[derive(Clone, Copy, Debug)]
struct RoundTrip {
    mean: Duration,
    variation: Duration,
}

impl RoundTrip {
    fn first(sample: Duration) -> Self {
        Self { mean: sample, variation: sample / 2 }
    }

    fn add(&mut self, sample: Duration) {
        self.variation = (self.variation * 3 + self.mean.abs_diff(sample)) / 4;
        self.mean = (self.mean * 7 + sample) / 8;
    }

    /// Nearly all take less.
    fn most(&self) -> Duration {
        (self.mean + 4 * self.variation).min(MOST_ROUND_TRIP)
    }
}

#[derive(Debug)]
pub(super) struct Health {
    /// How long a probe may take on a network without distances.
    probe_rtt: Duration,
    /// Whether this node doubts itself.
    has_doubts: bool,
    score: u32,
    /// When a suspicion of this node last counted: there are as many as there are accusers.
    refuted_at: Option<Instant>,
    probes: VecDeque<Probe>,
    round_trips: BTreeMap<Identity, RoundTrip>,
    /// To anybody.
    typical: Option<RoundTrip>,
}

impl Health {
    pub(super) fn new(probe_rtt: Duration, has_doubts: bool) -> Self {
        Self {
            probe_rtt,
            has_doubts,
            score: 0,
            refuted_at: None,
            probes: VecDeque::new(),
            round_trips: BTreeMap::new(),
            typical: None,
        }
    }

    /// A probe begins, and with that the one before has come to its end. `is_active` says who still was a member then:
    /// that a dead one did not answer is no news.
    pub(super) fn probe_begins(
        &mut self,
        now: Instant,
        target: Identity,
        number: u8,
        is_active: impl Fn(&Identity) -> bool,
    ) {
        if let Some(last) = self.probes.back() {
            if last.is_answered {
                self.score = self.score.saturating_sub(1);
            } else if is_active(&last.target) {
                self.worsen();
            }
        }
        if self.probes.len() == REMEMBERED {
            self.probes.pop_front();
        }
        self.probes.push_back(Probe { number, target, at: now, is_answered: false });
    }

    /// The target of a probe answered, itself or through somebody else: then the way that it took is not measured.
    pub(super) fn probe_answered(&mut self, now: Instant, target: &Identity, number: u8, is_direct: bool) {
        let is_it = |probe: &Probe| probe.number == number && probe.target == *target && !probe.is_answered;
        let Some(at) = self.probes.iter().rposition(is_it) else { return };
        let is_over = at + 1 < self.probes.len();
        if is_over {
            // It had counted as unanswered, and was only slow.
            self.score = self.score.saturating_sub(1);
        }
        let probe = &mut self.probes[at];
        probe.is_answered = true;
        if is_direct {
            let sample = now.since(probe.at);
            let round_trip = self.round_trips.entry(*target);
            round_trip.and_modify(|it| it.add(sample)).or_insert(RoundTrip::first(sample));
            match &mut self.typical {
                Some(typical) => typical.add(sample),
                None => self.typical = Some(RoundTrip::first(sample)),
            }
        }
    }

    /// This node was suspected, which it refuted.
    pub(super) fn refuted(&mut self, now: Instant) {
        if self.refuted_at.is_none_or(|at| now.since(at) > 2 * self.probe_rtt) {
            self.refuted_at = Some(now);
            self.worsen();
        }
    }

    /// A timer came this much too late. How long all others are put off.
    pub(super) fn came_late(&mut self, late: Duration) -> Duration {
        if !self.has_doubts || late < self.probe_rtt / 2 {
            return Duration::ZERO;
        }
        self.worsen();
        late
    }

    fn worsen(&mut self) {
        if self.has_doubts {
            self.score = (self.score + 1).min(WORST);
        }
    }

    /// How long a direct probe of this member waits instead of `time`: as much longer as it is further away, and as this
    /// node doubts itself.
    pub(super) fn direct_time(&self, member: &Identity, time: Duration) -> Duration {
        time.max(self.most_round_trip(member)) * (self.score + 1)
    }

    /// How long the whole probe takes: the indirect one goes twice as far.
    pub(super) fn probe_time(&self, member: &Identity, time: Duration) -> Duration {
        time.max(3 * self.most_round_trip(member)) * (self.score + 1)
    }

    /// How long, instead of `time`, this member has to refute a suspicion: it has to hear of it, and say so.
    pub(super) fn suspicion_time(&self, member: &Identity, time: Duration) -> Duration {
        (time + 2 * self.most_round_trip(member)) * (self.score + 1)
    }

    /// What nearly all round trips to a member take; to any member, where none to it was measured; zero where none was at
    /// all.
    pub(super) fn most_round_trip(&self, member: &Identity) -> Duration {
        self.round_trips.get(member).or(self.typical.as_ref()).map_or(Duration::ZERO, RoundTrip::most)
    }

    /// The smoothed round trip to a member, once one was measured.
    pub(super) fn round_trip(&self, member: &Identity) -> Option<Duration> {
        self.round_trips.get(member).map(|round_trip| round_trip.mean)
    }

    /// To any member.
    pub(super) fn typical_round_trip(&self) -> Duration {
        self.typical.map_or(Duration::ZERO, |round_trip| round_trip.mean)
    }

    /// That life of a member is over.
    pub(super) fn forget(&mut self, member: &Identity) {
        self.round_trips.remove(member);
    }
}
