//! Whose wall clock is off, as far as this node can tell.
//!
//! Every datagram says what its sender's wall clock showed. By how much that is ahead of this
//! node's clock is a *sample*; half of the smoothed round trip is added for the way, up to
//! [`MAX_ON_ITS_WAY`]. A datagram that waited for long, because this node or the network stood
//! still, makes its sender look behind. So the largest sample counts of those in a [`WINDOW`], as
//! in the clock filter of NTP (RFC 5905).
//!
//! Members that are compared with each other tell who is off: the right time is the median of all
//! clocks, this node's included. So the one node whose clock was set wrong says so of itself, and
//! all others say it of that node. Of two nodes each says it of the other.
//!
//! When this node's own clock is set, all samples begin again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::clock::{Instant, Now, WallTime};
use crate::types::{Identity, NodeHash};

/// By how much a clock may be off before the app is told. A time daemon keeps it within some
/// thousandths of a second.
const MAX_OFFSET: Duration = Duration::from_millis(500);

/// How long samples of a member are collected, at least.
const WINDOW: Duration = Duration::from_secs(10);

/// How many samples make a window: a few might all have waited for the same reason.
const MIN_SAMPLES: u32 = 3;

/// How long a datagram is taken to be on its way at most. The mean of the round trips stays high
/// for minutes after one of them took long, and the datagram that counts is the fastest.
const MAX_ON_ITS_WAY: Duration = Duration::from_millis(100);

/// By how much this node's clock goes astray, against the time that has passed, if it was set.
const SET_BY_MICROS: u64 = 100_000;

/// What the members' clocks show.
#[derive(Default)]
pub(super) struct Clocks {
    samples: BTreeMap<Identity, Samples>,
    /// What this node's clocks showed when they were compared last.
    last: Option<Now>,
    /// The nodes whose clocks are off, as the app knows.
    pub(super) off: BTreeSet<NodeHash>,
}

struct Samples {
    since: Instant,
    count: u32,
    /// The largest of this window, in microseconds.
    most: i64,
    /// The result of the last window that is over.
    ahead: Option<i64>,
}

impl Clocks {
    /// Notes what a member's clock showed when it sent what has come now. Returns whether a window
    /// is over.
    pub(super) fn note(
        &mut self,
        now: Now,
        member: Identity,
        sent: WallTime,
        round_trip: Duration,
    ) -> bool {
        self.begin_again_if_set(now);
        let micros = |wall: WallTime| i64::try_from(wall.micros()).unwrap_or(i64::MAX);
        let on_its_way = (round_trip / 2).min(MAX_ON_ITS_WAY).as_micros() as i64;
        let sample = micros(sent).saturating_add(on_its_way).saturating_sub(micros(now.wall));
        let new = Samples { since: now.instant, count: 0, most: i64::MIN, ahead: None };
        let samples = self.samples.entry(member).or_insert(new);
        let is_over = now.instant.since(samples.since) >= WINDOW && samples.count >= MIN_SAMPLES;
        if is_over {
            samples.ahead = Some(samples.most);
            (samples.since, samples.count, samples.most) = (now.instant, 0, i64::MIN);
        }
        samples.count += 1;
        samples.most = samples.most.max(sample);
        is_over
    }

    /// Forgets the members that are none of these.
    pub(super) fn keep_only(&mut self, active: &BTreeSet<Identity>) {
        self.samples.retain(|member, _| active.contains(member));
        // A node that is gone needs no end of its trouble.
        self.off.retain(|node| active.iter().any(|it| it.node == *node));
    }

    /// Returns by how many milliseconds a member's clock is ahead of this node's, once it was
    /// compared.
    pub(super) fn ahead_ms(&self, member: &Identity) -> Option<i64> {
        self.samples.get(member)?.ahead.map(|ahead| ahead / 1000)
    }

    /// Forgets all samples if this node's clock was set.
    fn begin_again_if_set(&mut self, now: Now) {
        if let Some(last) = self.last.replace(now) {
            let passed = now.instant.since(last.instant).as_micros() as u64;
            let expected = last.wall.micros().saturating_add(passed);
            if now.wall.micros().abs_diff(expected) > SET_BY_MICROS {
                self.samples.clear();
            }
        }
    }

    /// Returns by how many microseconds the clock of each node is ahead of the median, this node's
    /// too; nothing if too few were compared.
    pub(super) fn offsets(&self, own: NodeHash) -> Vec<(NodeHash, i64)> {
        let judged =
            self.samples.iter().filter_map(|(it, samples)| Some((it.node, samples.ahead?)));
        let mut all: Vec<(NodeHash, i64)> = judged.chain([(own, 0)]).collect();
        if 2 * (all.len() - 1) <= self.samples.len() {
            return Vec::new();
        }
        let mut ahead: Vec<i64> = all.iter().map(|(_, ahead)| *ahead).collect();
        ahead.sort_unstable();
        // Of two in the middle the one that this node's clock is nearer to.
        let middle = [ahead[(ahead.len() - 1) / 2], ahead[ahead.len() / 2]];
        let median = if middle[0].unsigned_abs() <= middle[1].unsigned_abs() {
            middle[0]
        } else {
            middle[1]
        };
        all.iter_mut().for_each(|(_, ahead)| *ahead = ahead.saturating_sub(median));
        all
    }
}

/// Whether a clock that is off by this is off by too much, given whether it was.
pub(super) fn is_off(by: Duration, was_off: bool) -> bool {
    by > if was_off { MAX_OFFSET / 2 } else { MAX_OFFSET }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Boot, NodeHash};

    const SECOND: Duration = Duration::from_secs(1);

    fn member(number: u64) -> Identity {
        let addr = ([127, 0, 0, 1], number as u16).into();
        Identity { node: NodeHash(number), boot: Boot(1), returns: 0, addr }
    }

    fn now(seconds: u64, ahead_ms: i64) -> Now {
        let instant = Instant::default() + Duration::from_secs(seconds);
        let wall = (1_000_000_000_000 + seconds * 1_000_000).saturating_add_signed(ahead_ms * 1000);
        Now { instant, wall: WallTime::from_micros(wall) }
    }

    /// Hears for a while, once a second, from members whose clocks are ahead by `ahead_ms`. Each
    /// datagram is late by `late_ms`.
    fn hear(
        clocks: &mut Clocks,
        from: u64,
        own_ms: i64,
        ahead_ms: &[i64],
        late_ms: impl Fn(u64) -> i64,
    ) {
        for second in from..from + 25 {
            for (number, ahead) in (1..).zip(ahead_ms) {
                let sent = now(second, ahead - late_ms(second)).wall;
                clocks.note(now(second, own_ms), member(number), sent, Duration::ZERO);
            }
        }
    }

    fn offsets_ms(clocks: &Clocks) -> Vec<i64> {
        let mut offsets = clocks.offsets(NodeHash(9));
        offsets.sort_unstable();
        offsets.into_iter().map(|(_, ahead)| ahead / 1000).collect()
    }

    #[test]
    fn the_one_whose_clock_is_off_is_found_from_both_sides() {
        let mut clocks = Clocks::default();
        hear(&mut clocks, 0, 0, &[0, 3_600_000], |_| 0);
        assert_eq!(offsets_ms(&clocks), [0, 3_600_000, 0]);
        let mut clocks = Clocks::default();
        hear(&mut clocks, 0, -5000, &[0, 0], |_| 0);
        assert_eq!(offsets_ms(&clocks), [0, 0, -5000]);
        let mut clocks = Clocks::default();
        hear(&mut clocks, 0, 0, &[-700], |_| 0);
        assert_eq!(offsets_ms(&clocks), [-700, 0]);
    }

    #[test]
    fn what_waited_makes_no_clock_wrong() {
        let mut clocks = Clocks::default();
        hear(&mut clocks, 0, 0, &[0, 0], |second| if second % 5 == 0 { 2 } else { 9000 });
        assert_eq!(offsets_ms(&clocks), [-2, -2, 0].map(|ms: i64| ms + 2));
    }

    #[test]
    fn all_begins_again_when_the_own_clock_is_set() {
        let mut clocks = Clocks::default();
        hear(&mut clocks, 0, 0, &[0, 0], |_| 0);
        assert_eq!(offsets_ms(&clocks), [0, 0, 0]);
        clocks.note(now(25, 60_000), member(1), now(25, 0).wall, SECOND);
        assert_eq!(clocks.offsets(NodeHash(9)), []);
        hear(&mut clocks, 26, 60_000, &[0, 0], |_| 0);
        assert_eq!(offsets_ms(&clocks), [0, 0, 60_000]);
    }
}
