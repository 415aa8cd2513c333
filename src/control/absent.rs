//! Absent members: they are dead, and may come back with what they hold. While there are any, no
//! node forgets what was deleted (`replication/purge` says why).
//!
//! A member is known by its node, with its last life: a later life has lost the memory of those
//! before. Membership forgets the dead in its own time and does not tell joiners of them, so they
//! are kept here.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::Instant;
use crate::membership::{Record, State};
use crate::types::{Identity, NodeHash};

/// The members that are waited for, and for how long.
pub(super) struct Absent {
    /// Each with when it is forgotten. One that is forgotten stays for as long as membership has it
    /// for dead, so that its time does not begin again.
    lives: BTreeMap<NodeHash, (Identity, Instant)>,
    forget_after: Duration,
}

impl Absent {
    pub(super) fn new(forget_after: Duration) -> Self {
        Self { lives: BTreeMap::new(), forget_after }
    }

    /// Takes up what membership says now.
    pub(super) fn note(&mut self, now: Instant, records: &[Record]) {
        for Record { identity, .. } in records.iter().filter(|known| known.state == State::Dead) {
            self.add(*identity, now + self.forget_after);
        }
        self.lives.retain(|node, (life, forget_at)| {
            let of_node = || records.iter().filter(|known| known.identity.node == *node);
            let is_here_or_lost = |known: &Record| match known.state {
                State::Dead => known.identity.boot > life.boot,
                State::Alive | State::Suspect | State::Left => known.identity.boot >= life.boot,
            };
            !of_node().any(is_here_or_lost)
                && (now < *forget_at || of_node().any(|known| known.state == State::Dead))
        });
    }

    /// Takes up what another member says: who is dead, and for how long.
    pub(super) fn told(&mut self, now: Instant, absent: &[(Identity, Duration)]) {
        for (identity, dead_for) in absent {
            self.add(*identity, now + self.forget_after.saturating_sub(*dead_for));
        }
    }

    fn add(&mut self, identity: Identity, forget_at: Instant) {
        let known = self.lives.entry(identity.node).or_insert((identity, forget_at));
        if known.0.boot < identity.boot {
            *known = (identity, forget_at);
        }
    }

    /// Returns those that are not forgotten yet, each with how long it has been dead.
    pub(super) fn waited_for(&self, now: Instant) -> Vec<(Identity, Duration)> {
        let waited_for = self.lives.values().filter(|(_, forget_at)| now < *forget_at);
        waited_for
            .map(|(life, at)| (*life, self.forget_after.saturating_sub(at.since(now))))
            .collect()
    }

    /// Returns when the last of them will be forgotten; `None` if all are.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        self.lives.values().map(|(_, forget_at)| *forget_at).max().filter(|at| now < *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Boot;

    const NOW: Instant = Instant::from_nanos(1_000_000);
    const HOUR: Duration = Duration::from_secs(3600);

    fn life(of: u64, boot: u64) -> Identity {
        let addr = ([127, 0, 0, 1], of as u16).into();
        Identity { node: NodeHash(of), boot: Boot(boot), returns: 0, addr }
    }

    fn record(identity: Identity, state: State) -> Record {
        Record { identity, state, leaving: false }
    }

    fn nodes(absent: &Absent, now: Instant) -> Vec<Identity> {
        absent.waited_for(now).into_iter().map(|(life, _)| life).collect()
    }

    #[test]
    fn a_dead_member_is_waited_for_until_it_is_back_has_left_or_has_lost_its_memory() {
        for (last, is_waited_for) in [
            (record(life(3, 5), State::Dead), true),
            (record(life(3, 5), State::Suspect), false),
            (record(life(3, 5), State::Alive), false),
            (record(life(3, 5), State::Left), false),
            (record(life(3, 6), State::Alive), false),
            // What an earlier life did says nothing of this one.
            (record(life(3, 4), State::Left), true),
        ] {
            let mut absent = Absent::new(24 * HOUR);
            absent.note(NOW, &[record(life(3, 5), State::Dead)]);
            assert_eq!(nodes(&absent, NOW), [life(3, 5)]);
            absent.note(NOW, &[last]);
            assert_eq!(!nodes(&absent, NOW).is_empty(), is_waited_for, "{last:?}");
        }
    }

    /// A node left, was started again at another address, and died there: it was taken for the one
    /// that left.
    #[test]
    fn a_life_that_left_does_not_stand_for_a_later_one_that_died() {
        let mut absent = Absent::new(24 * HOUR);
        let (left, died) = (record(life(3, 5), State::Left), record(life(3, 6), State::Dead));
        for records in [[left, died], [died, left]] {
            absent.note(NOW, &records);
            assert_eq!(nodes(&absent, NOW), [life(3, 6)]);
        }
    }

    /// The earlier one's time was over, and was given as the deadline for ever.
    #[test]
    fn the_deadline_is_that_of_the_last_one_and_lies_ahead() {
        let mut absent = Absent::new(24 * HOUR);
        let dead = [record(life(3, 5), State::Dead), record(life(4, 5), State::Dead)];
        absent.note(NOW, &dead[..1]);
        absent.note(NOW + HOUR, &dead);
        let later = NOW + 24 * HOUR;
        absent.note(later, &dead);
        assert_eq!(nodes(&absent, later), [life(4, 5)]);
        assert_eq!(absent.deadline(later), Some(later + HOUR));
        absent.note(later + HOUR, &dead);
        assert_eq!((nodes(&absent, later + HOUR), absent.deadline(later + HOUR)), (vec![], None));
    }

    #[test]
    fn it_outlasts_what_membership_remembers_and_is_told_on_with_its_age() {
        let mut absent = Absent::new(48 * HOUR);
        absent.note(NOW, &[record(life(3, 5), State::Dead)]);
        let later = NOW + 30 * HOUR;
        absent.note(later, &[]);
        assert_eq!(absent.waited_for(later), [(life(3, 5), 30 * HOUR)]);
        let mut joiner = Absent::new(48 * HOUR);
        joiner.told(NOW, &absent.waited_for(later));
        joiner.note(NOW, &[]);
        assert_eq!(nodes(&joiner, NOW + 17 * HOUR), [life(3, 5)]);
        assert_eq!(nodes(&joiner, NOW + 18 * HOUR), []);
        joiner.told(NOW, &[(life(3, 4), HOUR)]);
        assert_eq!(nodes(&joiner, NOW + 18 * HOUR), [], "an earlier life");
        joiner.note(NOW, &[record(life(3, 5), State::Alive)]);
        assert_eq!(nodes(&joiner, NOW), []);
    }
}
