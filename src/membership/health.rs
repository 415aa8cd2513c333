//! How well this node is itself, and how far away the others are, judged by its own probes.
//!
//! A node that gets too little of its processor, or whose network loses much, sees healthy members
//! fail, and SWIM believes it. After Lifeguard (Dadgar, Phillips, Currey, "Lifeguard: Local Health
//! Awareness for More Accurate Failure Detection", DSN '18) the node doubts itself:
//!
//! - Its **score** goes up with each probe that stays unanswered, with each suspicion of itself
//!   that it has to refute, and when its timers come late. It goes down with each probe that is
//!   answered. The node gives others score + 1 times as long to answer and to refute. (Lifeguard
//!   also counts helpers that did not say that they tried; foca's do not say it.)
//! - **Time in which it did not run** counts against no member: if a timer comes late, all other
//!   timers of SWIM are put off by as much. An answer that was on its way can then still count.
//!
//! A distant member is no suspect for its distance. A probe may take as long as round trips to that
//! member suggest, smoothed as TCP does (RFC 6298), and so may all that follows from the probe. The
//! score does not lengthen a distance: this node's own troubles come on top of it. And a round trip
//! counts only if this node ran all the while, as far as its timers tell: a pause of its own says
//! nothing of the network.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::clock::Instant;
use crate::mutants::{ProtocolMutant, rule};
use crate::types::Identity;

/// The highest score: it gives others eight times as long, as in Lifeguard.
const WORST: u32 = 7;

/// The longest time that is assumed for a round trip, so that a distant member which dies is found
/// dead within seconds.
const MAX_ASSUMED_ROUND_TRIP: Duration = Duration::from_secs(2);

/// How many probes are remembered, so that a late answer to one is recognised.
const REMEMBERED: usize = 16;

/// After how many probes in a row without an answer a node takes itself for cut off. Members die of
/// probes later than that, and crashes are mostly noticed without a probe.
const UNHEARD_AFTER: usize = 2;

#[derive(Debug)]
struct Probe {
    number: u8,
    target: Identity,
    at: Instant,
    is_answered: bool,
    /// Whether this node did not run for some of the time since.
    is_interrupted: bool,
}

/// A smoothed round trip, with how much it varies.
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

    /// Returns a time that nearly all round trips stay below.
    fn longest(&self) -> Duration {
        (self.mean + 4 * self.variation).min(MAX_ASSUMED_ROUND_TRIP)
    }
}

#[derive(Debug)]
pub(super) struct Health {
    /// How long a probe may take on a network without distances.
    probe_rtt: Duration,
    /// Whether this node doubts itself.
    has_doubts: bool,
    score: u32,
    /// When a suspicion of this node last counted. Each accuser sends one, and they count once.
    refuted_at: Option<Instant>,
    probes: VecDeque<Probe>,
    round_trips: BTreeMap<Identity, RoundTrip>,
    /// The members that have answered indirectly, and never directly.
    out_of_reach: BTreeSet<Identity>,
    /// The round trip to all members together.
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
            out_of_reach: BTreeSet::new(),
            typical: None,
        }
    }

    /// Notes that a probe begins, which ends the one before. `is_active` says which members still
    /// took part then: it is no news that a dead one did not answer.
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
        let probe = Probe { number, target, at: now, is_answered: false, is_interrupted: false };
        self.probes.push_back(probe);
    }

    /// Notes that the target of a probe answered. Only a direct answer measures a round trip.
    /// Returns whether it answered the probe that is under way.
    pub(super) fn probe_answered(
        &mut self,
        now: Instant,
        target: &Identity,
        number: u8,
        is_direct: bool,
    ) -> bool {
        let is_it =
            |probe: &Probe| probe.number == number && probe.target == *target && !probe.is_answered;
        let Some(at) = self.probes.iter().rposition(is_it) else { return false };
        let is_over = at + 1 < self.probes.len();
        if is_over {
            // It had counted as unanswered, and was only slow.
            self.score = self.score.saturating_sub(1);
        }
        let probe = &mut self.probes[at];
        probe.is_answered = true;
        if !is_direct && !self.round_trips.contains_key(target) {
            self.out_of_reach.insert(*target);
        }
        if is_direct {
            self.out_of_reach.remove(target);
        }
        if is_direct && !rule(ProtocolMutant::PauseMeasured, probe.is_interrupted) {
            let sample = now.since(probe.at).min(MAX_ASSUMED_ROUND_TRIP);
            let round_trip = self.round_trips.entry(*target);
            round_trip.and_modify(|it| it.add(sample)).or_insert(RoundTrip::first(sample));
            match &mut self.typical {
                Some(typical) => typical.add(sample),
                None => self.typical = Some(RoundTrip::first(sample)),
            }
        }
        !is_over
    }

    /// Whether the last [`UNHEARD_AFTER`] probes that are over were not answered, by any member and
    /// by no way.
    pub(super) fn is_unheard(&self) -> bool {
        let over = self.probes.iter().rev().skip(1);
        let unanswered = over.take_while(|probe| !probe.is_answered).count();
        unanswered >= UNHEARD_AFTER && self.probes.back().is_some_and(|probe| !probe.is_answered)
    }

    /// Notes that this node was suspected, and refuted it.
    pub(super) fn refuted(&mut self, now: Instant) {
        if self.refuted_at.is_none_or(|at| now.since(at) > 2 * self.probe_rtt) {
            self.refuted_at = Some(now);
            self.worsen();
        }
    }

    /// Notes that a timer has been due for `late`. From half a probe on this node did not run, and
    /// no probe that is under way measures a round trip.
    pub(super) fn note_lateness(&mut self, late: Duration) {
        if self.is_too_late(late) {
            self.probes.iter_mut().for_each(|probe| probe.is_interrupted = true);
        }
    }

    /// Notes that a timer came too late by `late`. Returns how long all other timers are put off.
    pub(super) fn came_late(&mut self, late: Duration) -> Duration {
        self.note_lateness(late);
        if !self.has_doubts || !self.is_too_late(late) {
            return Duration::ZERO;
        }
        self.worsen();
        late
    }

    fn is_too_late(&self, late: Duration) -> bool {
        late >= self.probe_rtt / 2
    }

    fn worsen(&mut self) {
        if self.has_doubts {
            self.score = (self.score + 1).min(WORST);
        }
    }

    /// Returns how long a direct probe of this member waits instead of `time`: longer if the member
    /// is distant, and if this node doubts itself.
    pub(super) fn direct_time(&self, member: &Identity, time: Duration) -> Duration {
        time.max(self.longest_round_trip(member)) + time * self.score
    }

    /// Returns how long the whole probe takes instead of `time`: the indirect one goes twice as
    /// far.
    pub(super) fn probe_time(&self, member: &Identity, time: Duration) -> Duration {
        time.max(3 * self.longest_round_trip(member)) + time * self.score
    }

    /// Returns how long this member has to refute a suspicion instead of `time`: it must hear of
    /// it, and answer.
    pub(super) fn suspicion_time(&self, member: &Identity, time: Duration) -> Duration {
        time * (self.score + 1) + 2 * self.longest_round_trip(member)
    }

    /// Returns how long nearly all round trips to a member take at most. If none to it was
    /// measured, it is that of all members; if none was measured at all, zero.
    ///
    /// A member that only answers indirectly is as far away as the most distant member of all: the
    /// way to it leads over another member, twice.
    pub(super) fn longest_round_trip(&self, member: &Identity) -> Duration {
        if let Some(measured) = self.round_trips.get(member) {
            return measured.longest();
        }
        let typical = self.typical.map_or(Duration::ZERO, |typical| typical.longest());
        if !self.out_of_reach.contains(member) {
            return typical;
        }
        self.round_trips.values().map(RoundTrip::longest).fold(typical, Duration::max)
    }

    /// Returns the smoothed round trip to a member, once one was measured.
    pub(super) fn round_trip(&self, member: &Identity) -> Option<Duration> {
        self.round_trips.get(member).map(|round_trip| round_trip.mean)
    }

    /// Returns the smoothed round trip to all members together; zero if none was measured.
    pub(super) fn typical_round_trip(&self) -> Duration {
        self.typical.map_or(Duration::ZERO, |round_trip| round_trip.mean)
    }

    /// Forgets a life of a member that is over.
    pub(super) fn forget(&mut self, member: &Identity) {
        self.round_trips.remove(member);
        self.out_of_reach.remove(member);
    }
}
