//! Absent members: they are dead, and may come back with what they hold. While there are any, no
//! node forgets what was deleted (`replication/purge` says why).
//!
//! A member is known by its node, with its last life: a later life has lost the memory of those
//! before. Membership forgets the dead in its own time and does not tell joiners of them, so they
//! are kept here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Instant;
use crate::membership::{Record, State};
use crate::types::{Identity, MAX_MEMBERS, NodeHash, Retention};
use crate::wire::retention::AbsentMember;

/// The members that are waited for, and for how long.
pub(super) struct Absent {
    /// One that is forgotten stays for as long as membership has it for dead, so that its time does
    /// not begin again.
    lives: BTreeMap<NodeHash, Life>,
    /// The data centers that are there; one that was away, with when it came back.
    here: BTreeMap<Arc<str>, Option<Instant>>,
    retention: Retention,
}

/// The last life of a member that is dead.
struct Life {
    identity: Identity,
    data_center: Arc<str>,
    /// When this was heard of, and how long it had been dead then.
    heard: (Instant, Duration),
}

impl Life {
    fn dead_for(&self, now: Instant) -> Duration {
        let (heard_at, dead_for) = self.heard;
        dead_for.saturating_add(now.since(heard_at))
    }
}

impl Absent {
    pub(super) fn new(retention: Retention) -> Self {
        Self { lives: BTreeMap::new(), here: BTreeMap::new(), retention }
    }

    /// Takes up what membership says now, and which data centers are here. `data_center_of` returns
    /// where a member stood.
    pub(super) fn note(
        &mut self,
        now: Instant,
        records: &[Record],
        here: BTreeSet<Arc<str>>,
        data_center_of: impl Fn(&Identity) -> Arc<str>,
    ) {
        let is_away = |data_center: &Arc<str>| {
            let mut lives = self.lives.values();
            !self.here.is_empty() && lives.any(|life| life.data_center == *data_center)
        };
        let since = |it: &Arc<str>| match self.here.get(it) {
            Some(since) => *since,
            None => is_away(it).then_some(now),
        };
        self.here = here.into_iter().map(|it| (it.clone(), since(&it))).collect();
        for Record { identity, .. } in records.iter().filter(|known| known.state == State::Dead) {
            let data_center = data_center_of(identity);
            self.add(now, Life { identity: *identity, data_center, heard: (now, Duration::ZERO) });
        }
        let Self { lives, here, retention } = self;
        let mut by_node: BTreeMap<NodeHash, Vec<&Record>> = BTreeMap::new();
        for known in records {
            by_node.entry(known.identity.node).or_default().push(known);
        }
        lives.retain(|node, life| {
            let of_node = || by_node.get(node).into_iter().flatten().copied();
            let is_here_or_lost = |known: &Record| match known.state {
                State::Dead => known.identity.boot > life.identity.boot,
                State::Alive | State::Suspect | State::Left => {
                    known.identity.boot >= life.identity.boot
                }
            };
            let is_waited_for = !left(*retention, life, here, now).is_zero();
            !of_node().any(is_here_or_lost)
                && (is_waited_for || of_node().any(|known| known.state == State::Dead))
        });
    }

    /// Takes up what another member says: who is dead, where that one stood, and for how long.
    pub(super) fn told(&mut self, now: Instant, absent: Vec<AbsentMember>) {
        for AbsentMember { identity, data_center, dead_for } in absent {
            self.add(now, Life { identity, data_center, heard: (now, dead_for) });
        }
    }

    fn add(&mut self, now: Instant, life: Life) {
        // Nodes that crash again and again, under a new name each time, must not fill memory. And a
        // list of more is refused by who is told.
        let is_full = self.lives.len() >= MAX_MEMBERS;
        match self.lives.get_mut(&life.identity.node) {
            None if is_full => {}
            // Who was told of it earlier knows it better.
            Some(known) if known.identity.boot == life.identity.boot => {
                if life.dead_for(now) > known.dead_for(now) {
                    *known = life;
                }
            }
            Some(known) if known.identity.boot > life.identity.boot => {}
            Some(_) | None => drop(self.lives.insert(life.identity.node, life)),
        }
    }

    /// Returns those that are not forgotten yet.
    pub(super) fn waited_for(&self, now: Instant) -> Vec<AbsentMember> {
        let waited_for = |life: &&Life| !left(self.retention, life, &self.here, now).is_zero();
        let lives = self.lives.values().filter(waited_for);
        let told = |life: &Life| AbsentMember {
            identity: life.identity,
            data_center: life.data_center.clone(),
            dead_for: life.dead_for(now),
        };
        lives.map(told).collect()
    }

    /// Returns when the last of them will be forgotten; `None` if all are.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        let lives = self.lives.values();
        let last = lives.map(|life| left(self.retention, life, &self.here, now)).max();
        let last = last.filter(|left| !left.is_zero())?;
        Some(now + last)
    }
}

/// Returns for how long this one is still waited for while these data centers are here. When its
/// data center has come back, it gets the time of a member to come back itself.
fn left(
    retention: Retention,
    life: &Life,
    here: &BTreeMap<Arc<str>, Option<Instant>>,
    now: Instant,
) -> Duration {
    let whole = retention.data_center.max(retention.member).saturating_sub(life.dead_for(now));
    let of_member = |since: Duration| retention.member.saturating_sub(since);
    match here.get(&life.data_center) {
        None => whole,
        Some(None) => of_member(life.dead_for(now)),
        Some(Some(back_at)) => of_member(life.dead_for(now).min(now.since(*back_at))).min(whole),
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
        absent.waited_for(now).into_iter().map(|absent| absent.identity).collect()
    }

    /// Waits this long for a member, and a day for a data center.
    fn waiting(member: Duration) -> Absent {
        Absent::new(Retention { member, data_center: 24 * HOUR })
    }

    /// Takes up what membership says, in one data center.
    fn note(absent: &mut Absent, now: Instant, records: &[Record]) {
        absent.note(now, records, [Arc::from("a")].into(), |_| "a".into());
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
            let mut absent = waiting(24 * HOUR);
            note(&mut absent, NOW, &[record(life(3, 5), State::Dead)]);
            assert_eq!(nodes(&absent, NOW), [life(3, 5)]);
            note(&mut absent, NOW, &[last]);
            assert_eq!(!nodes(&absent, NOW).is_empty(), is_waited_for, "{last:?}");
        }
    }

    /// A node left, was started again at another address, and died there: it was taken for the one
    /// that left.
    #[test]
    fn a_life_that_left_does_not_stand_for_a_later_one_that_died() {
        let mut absent = waiting(24 * HOUR);
        let (left, died) = (record(life(3, 5), State::Left), record(life(3, 6), State::Dead));
        for records in [[left, died], [died, left]] {
            note(&mut absent, NOW, &records);
            assert_eq!(nodes(&absent, NOW), [life(3, 6)]);
        }
    }

    /// The earlier one's time was over, and was given as the deadline for ever.
    #[test]
    fn the_deadline_is_that_of_the_last_one_and_lies_ahead() {
        let mut absent = waiting(24 * HOUR);
        let dead = [record(life(3, 5), State::Dead), record(life(4, 5), State::Dead)];
        note(&mut absent, NOW, &dead[..1]);
        note(&mut absent, NOW + HOUR, &dead);
        let later = NOW + 24 * HOUR;
        note(&mut absent, later, &dead);
        assert_eq!(nodes(&absent, later), [life(4, 5)]);
        assert_eq!(absent.deadline(later), Some(later + HOUR));
        note(&mut absent, later + HOUR, &dead);
        assert_eq!((nodes(&absent, later + HOUR), absent.deadline(later + HOUR)), (vec![], None));
    }

    #[test]
    fn it_outlasts_what_membership_remembers_and_is_told_on_with_its_age() {
        let mut absent = waiting(48 * HOUR);
        note(&mut absent, NOW, &[record(life(3, 5), State::Dead)]);
        let later = NOW + 30 * HOUR;
        note(&mut absent, later, &[]);
        let told =
            |identity, dead_for| AbsentMember { identity, data_center: "a".into(), dead_for };
        assert_eq!(absent.waited_for(later), [told(life(3, 5), 30 * HOUR)]);
        let mut joiner = waiting(48 * HOUR);
        joiner.told(NOW, absent.waited_for(later));
        note(&mut joiner, NOW, &[]);
        assert_eq!(nodes(&joiner, NOW + 17 * HOUR), [life(3, 5)]);
        assert_eq!(nodes(&joiner, NOW + 18 * HOUR), []);
        joiner.told(NOW, vec![told(life(3, 4), HOUR)]);
        assert_eq!(nodes(&joiner, NOW + 18 * HOUR), [], "an earlier life");
        note(&mut joiner, NOW, &[record(life(3, 5), State::Alive)]);
        assert_eq!(nodes(&joiner, NOW), []);
    }

    /// A ship is out of reach for a night, and its nodes hold what was deleted ashore.
    #[test]
    fn a_data_center_that_is_away_is_waited_for_longer_than_one_member_of_it() {
        let mut absent = waiting(HOUR);
        let dead = [record(life(3, 5), State::Dead), record(life(4, 5), State::Dead)];
        let note = |absent: &mut Absent, now, here: &[&str]| {
            let here = here.iter().map(|name| Arc::from(*name)).collect();
            absent.note(now, &dead, here, |_| "ship".into());
        };
        note(&mut absent, NOW, &["a"]);
        let night = NOW + 10 * HOUR;
        note(&mut absent, night, &["a"]);
        assert_eq!(nodes(&absent, night), [life(3, 5), life(4, 5)]);
        assert_eq!(absent.deadline(night), Some(NOW + 24 * HOUR));
        // Another node of the ship is back. The others have an hour to follow.
        note(&mut absent, night, &["a", "ship"]);
        assert_eq!(nodes(&absent, night), [life(3, 5), life(4, 5)]);
        assert_eq!(absent.deadline(night), Some(night + HOUR));
        let later = night + HOUR;
        note(&mut absent, later, &["a", "ship"]);
        assert_eq!((nodes(&absent, later), absent.deadline(later)), (vec![], None));
    }

    #[test]
    fn only_so_many_are_waited_for() {
        let mut absent = waiting(HOUR);
        for of in 0..MAX_MEMBERS as u64 + 10 {
            let at = NOW + Duration::from_millis(of);
            let (identity, data_center) = (life(of, 1), "a".into());
            absent.told(at, vec![AbsentMember { identity, data_center, dead_for: Duration::ZERO }]);
        }
        let left = nodes(&absent, NOW + Duration::from_secs(60));
        assert_eq!((left.len(), left[0]), (MAX_MEMBERS, life(0, 1)), "further ones are not");
    }
}
