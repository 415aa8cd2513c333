//! [`Steadiness`]: for how long a wish for another list must stand before it is proposed.
//!
//! **Problem.** Nodes hear of each other at different times. While nodes start, one of them would
//! have a newcomer in the list, and another one, which has not heard of it, would not. If each
//! acted at once, they would replace each other's list again and again. Each list costs copying,
//! and each that is not merged yet holds up the next.
//!
//! | a list that is not as wished | is replaced |
//! |---|---|
//! | has a member or witness that is dead or leaves | at once |
//! | is not known, or is to be opened, or accepted what follows it long ago | at once |
//! | has all of them alive | once neither the list nor the wish has changed for a *pause* |
//!
//! The pause is [`SHORTEST`]. It doubles with each list that followed another one within [`CALM`],
//! up to [`LONGEST`]. It is the longest while some member is not known by name: the wish will
//! change with it.
//!
//! **Rejected:** to count only how long the wish stands. A node that never hears of a newcomer has
//! a wish that stands for ever, and would undo each list at once that has the newcomer in it.

use std::time::Duration;

use crate::clock::Instant;

/// Nodes that start together, or hear of a newcomer, know of each other within this time. It delays
/// what a newcomer takes over, and no repair.
const SHORTEST: Duration = Duration::from_millis(200);

/// The longest pause: what a partition may be kept from that stands well.
const LONGEST: Duration = Duration::from_secs(1);

/// After this time without another list the next pause is the shortest again.
const CALM: Duration = Duration::from_secs(5);

/// How long list and wish of a partition have stood, as this node sees it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Steadiness {
    /// When either of them changed last.
    changed_at: Instant,
    /// When the list did.
    replaced_at: Instant,
    /// How many lists followed each other without a calm between them.
    replaced: u8,
}

impl Steadiness {
    pub(super) fn wish_changed(&mut self, now: Instant) {
        self.changed_at = now;
    }

    pub(super) fn list_changed(&mut self, now: Instant) {
        let before = if now.since(self.replaced_at) < CALM { self.replaced } else { 0 };
        (self.changed_at, self.replaced_at, self.replaced) = (now, now, before.saturating_add(1));
    }

    /// Returns how much is left of the pause.
    pub(super) fn pause_left(&self, now: Instant, all_are_known: bool) -> Duration {
        let is_calm = now.since(self.replaced_at) >= CALM;
        let doublings = if is_calm { 0 } else { u32::from(self.replaced.min(8)) };
        let pause = SHORTEST.saturating_mul(1 << doublings).min(LONGEST);
        let pause = if all_are_known { pause } else { LONGEST };
        pause.saturating_sub(now.since(self.changed_at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Instant = Instant::from_nanos(60_000_000_000);

    fn pause(steadiness: &Steadiness, now: Instant) -> u128 {
        steadiness.pause_left(now, true).as_millis()
    }

    #[test]
    fn a_wish_stands_for_longer_the_more_often_the_list_has_changed_lately() {
        let mut steadiness = Steadiness::default();
        assert_eq!(pause(&steadiness, START), 0, "it has stood");
        steadiness.wish_changed(START);
        assert_eq!(pause(&steadiness, START), 200);
        assert_eq!(pause(&steadiness, START + Duration::from_millis(150)), 50);
        let mut now = START;
        for expected in [400, 800, 1000, 1000] {
            now = now + LONGEST;
            steadiness.list_changed(now);
            assert_eq!(pause(&steadiness, now), expected);
        }
        now = now + CALM;
        assert_eq!(pause(&steadiness, now), 0);
        steadiness.wish_changed(now);
        assert_eq!(pause(&steadiness, now), 200, "it was calm");
        steadiness.list_changed(now);
        assert_eq!(pause(&steadiness, now), 400);
    }

    #[test]
    fn while_a_member_is_not_known_by_name_the_pause_is_the_longest() {
        let mut steadiness = Steadiness::default();
        steadiness.wish_changed(START);
        assert_eq!(steadiness.pause_left(START, false), LONGEST);
        assert_eq!(steadiness.pause_left(START + LONGEST, false), Duration::ZERO);
    }
}
