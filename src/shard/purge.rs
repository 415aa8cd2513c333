//! What this node agrees to forget, and what it forgets: joins [`Purge`] with store and lists.

use std::mem;
use std::sync::Arc;

use super::{Action, Asker, Shard, Timer};
use crate::clock::{Now, Version};
use crate::placement::{List, ListRef, Member};
use crate::replication::purge::{Dead, Graveyard, MAX_KEYS, Purge, PurgeAction, PurgeView};
use crate::simulated::{Planted, is_planted};
use crate::types::{Identity, KeyHash, Partition};
use crate::wire::message::{Answer, Request};

impl<C> Graveyard for Shard<C> {
    fn with_dead(&self) -> Vec<Partition> {
        let is_ours = |partition: &Partition| {
            self.store.has_dead(*partition) && self.replica(*partition).serves_synced(&self.me)
        };
        self.partitions().filter(is_ours).collect()
    }

    fn purge_view(&self, partition: Partition) -> Option<PurgeView> {
        let list =
            self.replica(partition).list().filter(|_| self.is_settled(partition) && self.sees_all())?;
        // Who holds it there drops it at the same time, or would bring it back.
        let elsewhere = self.placement.elsewhere().values().flat_map(|other| other.members());
        let elsewhere = elsewhere.map(|member| member.identity);
        let is_asked = |it: &&Member| {
            !is_planted(Planted::FarNotAsked) || !self.placement.is_elsewhere(it.identity.node)
        };
        let others = |members: &mut dyn Iterator<Item = Identity>| {
            members.filter(|member| *member != self.me).collect::<Vec<_>>()
        };
        Some(PurgeView {
            list: list.reference(),
            place: list.members().iter().position(|member| *member == self.me)?,
            replicas: others(&mut list.members().iter().copied().chain(elsewhere)),
            alive: others(&mut self.placement.everybody().filter(is_asked).map(|member| member.identity)),
            members_digest: self.placement.digest_of_all(),
        })
    }

    fn dead(
        &self,
        partition: Partition,
        after: Option<KeyHash>,
        most: Version,
    ) -> (Vec<Dead>, Option<KeyHash>) {
        let (mut dead, next) = self.store.dead(partition, after, MAX_KEYS / 2);
        dead.truncate(MAX_KEYS);
        dead.retain(|(_, version)| *version <= most);
        (dead, next)
    }
}

impl<C> Shard<C> {
    /// Whether whoever may hold something is here and can be asked.
    fn sees_all(&self) -> bool {
        self.placement.is_complete()
            && !self.is_dead
            && (!self.placement.has_absent() || is_planted(Planted::AbsentIgnored))
    }

    /// From here on no single entry at or below it is taken of a key that is not held.
    pub(super) fn raise_purge_horizon(&mut self, partition: Partition, horizon: Version) {
        let replica = self.replica_mut(partition);
        replica.purge_horizon = replica.purge_horizon.max(horizon);
    }

    fn raise_purge_horizon_to(&mut self, partition: Partition, dead: &[Dead]) {
        let newest = dead.iter().map(|(_, version)| *version).max();
        self.raise_purge_horizon(partition, newest.unwrap_or_default());
    }

    /// Which of these keys may go, for all that this node holds.
    pub(super) fn answer_purge(
        &mut self,
        from: Identity,
        partition: Partition,
        list: ListRef,
        members_digest: u64,
        dead: &[Dead],
    ) -> Answer {
        let is_elsewhere = self.placement.is_elsewhere(from.node);
        let replica = self.replica(partition);
        let known = replica.list();
        let is_of_list =
            |known: &Arc<List>| known.contains(&self.me) && (is_elsewhere || known.reference() == list);
        let agrees = if known.is_some_and(is_of_list) {
            self.is_settled(partition)
        } else {
            known.is_none_or(|known| is_elsewhere || known.number() <= list.number)
                && self.store.is_empty(partition)
                && !replica.hands_over()
                && !self.merges.contains_key(&partition)
        };
        if !agrees || !self.sees_all() || self.placement.digest_of_all() != members_digest {
            return Answer::Declined;
        }
        self.raise_purge_horizon_to(partition, dead);
        let may_go = |(_, (hash, version)): &(u16, &Dead)| !self.store.has_older(*hash, *version);
        let places = (0..).zip(dead).filter(may_go).map(|(place, _)| place).collect();
        Answer::Purgeable { merges: self.replica(partition).merges, places }
    }

    /// Nobody holds anything older of these keys.
    pub(super) fn drop_dead(&mut self, partition: Partition, dead: &[Dead]) {
        self.raise_purge_horizon_to(partition, dead);
        dead.iter().for_each(|(hash, version)| self.store.purge(*hash, *version));
    }

    /// Begins or repeats what is due.
    pub(super) fn purge(&mut self, now: Now, actions: &mut Vec<Action<C>>) {
        self.purge_at = None;
        let reading = self.clock.reading(now.wall);
        self.with_purge(now, actions, |machine, shard, todo| {
            machine.handle_timers(now.instant, reading, shard, todo);
        });
    }

    pub(super) fn purge_answered(
        &mut self,
        now: Now,
        round: u64,
        from: Identity,
        answer: &Answer,
        actions: &mut Vec<Action<C>>,
    ) {
        self.with_purge(now, actions, |machine, shard, todo| match answer {
            Answer::Purgeable { merges, places } => machine.agreed(round, from, *merges, places, shard, todo),
            Answer::Purged => machine.dropped(round, from, shard, todo),
            _ => machine.lost(round, now.instant),
        });
    }

    /// Lets the machine look at this shard, and carries out what it wants.
    fn with_purge(
        &mut self,
        now: Now,
        actions: &mut Vec<Action<C>>,
        work: impl FnOnce(&mut Purge, &Self, &mut Vec<PurgeAction>),
    ) {
        let mut todo = Vec::new();
        let mut machine = mem::replace(&mut self.purge, Purge::new(self.config.purge_grace));
        work(&mut machine, self, &mut todo);
        self.purge = machine;
        for action in todo {
            match action {
                PurgeAction::Ask { round, to, partition, request } => {
                    if let Request::Purge { dead, .. } = &request {
                        self.raise_purge_horizon_to(partition, dead);
                    }
                    if self.ask(to, partition, request, Asker::Purge(round), actions).is_none() {
                        self.purge.lost(round, now.instant);
                    }
                }
                PurgeAction::Drop { partition, dead } => self.drop_dead(partition, &dead),
            }
        }
    }

    /// Keeps the timer for what is due next.
    pub(super) fn schedule_purge(&mut self) {
        let wake = self.purge.deadline();
        if wake != self.purge_at {
            let old = mem::replace(&mut self.purge_at, wake);
            old.map(|at| self.timers.remove(&(at, Timer::Purge)));
            self.timers.extend(wake.map(|at| (at, Timer::Purge)));
        }
    }
}
