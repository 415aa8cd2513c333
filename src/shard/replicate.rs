//! What this node does as a replica: it answers requests about one partition, each in one step.

use super::{Action, Shard};
use crate::clock::Now;
use crate::entry::Entry;
use crate::placement::ListRef;
use crate::simulated::{Planted, is_planted};
use crate::store::{Applied, Room};
use crate::types::{Identity, KeyHash, Partition};
use crate::wire::frame::CHUNK_BYTES;
use crate::wire::message::{Answer, Chunk, Fetch, Found, Listed, Request, Want};

/// How often room is made for a peer's entry before it is told to ask again: some thousand entries are looked at,
/// a millisecond or two.
const ROOM_TRIES: usize = 64;

impl<C> Shard<C> {
    /// Whether a peer's request makes sense at all.
    pub(super) fn check(&self, partition: Partition, request: &Request) -> Result<(), &'static str> {
        if !self.owns(partition) {
            return Err("a request for a partition of another core");
        }
        match request {
            Request::Write { entry, .. } if self.hash(entry.key()).partition() != partition => {
                Err("a key that is not of the partition")
            }
            Request::Relay { entries } if entries.len() >= usize::from(u16::MAX) => {
                Err("more writes than can be confirmed")
            }
            Request::Relay { entries }
                if !entries.iter().all(|it| self.owns(self.hash(it.key()).partition())) =>
            {
                Err("writes of another core")
            }
            Request::Forward { key } if self.hash(key).partition() != partition => {
                Err("a key that is not of the partition")
            }
            Request::Compare(asked) if !asked.partitions.iter().all(|partition| self.owns(*partition)) => {
                Err("a comparison of partitions of another core")
            }
            Request::Purge { dead, .. } | Request::Purged { dead }
                if dead.iter().any(|(hash, _)| hash.partition() != partition) =>
            {
                Err("a key that is not of the partition")
            }
            _ => Ok(()),
        }
    }

    pub(super) fn serve(
        &mut self,
        now: Now,
        from: Identity,
        partition: Partition,
        request: Request,
        actions: &mut Vec<Action<C>>,
    ) -> Answer {
        match request {
            Request::Write { list, entry } => {
                if let Some(other) = self.other_list(partition, list) {
                    return other;
                }
                if self.lacks_majority(now).is_some() {
                    return Answer::Declined;
                }
                let hash = self.hash(entry.key());
                let horizon = self.replica(partition).purge_horizon;
                if entry.version() <= horizon
                    && self.store.get(hash, entry.key()).is_none()
                    && !is_planted(Planted::HorizonIgnored)
                {
                    return Answer::TooOld { horizon, synced: self.replica(partition).is_synced() };
                }
                if self.may_be_evicted(partition, hash, &entry) {
                    // As if stored and evicted: what is owed since long must not come after what was evicted. Whoever
                    // writes this now stamps it above the mark.
                    let superseded_by = Some(self.store.mark(partition));
                    return Answer::Written { superseded_by, synced: self.replica(partition).is_synced() };
                }
                if self.make_room(hash, &entry) != Room::Enough {
                    return Answer::Declined;
                }
                self.clock.witness(entry.version(), now.wall);
                if is_planted(Planted::AcknowledgedFirst) {
                    self.apply_some_time(now, entry);
                    return Answer::Written {
                        superseded_by: None,
                        synced: self.replica(partition).is_synced(),
                    };
                }
                let version = entry.version();
                let superseded_by = match self.apply(hash, entry) {
                    // A newer state of the key may have been evicted here, which others still have: as it says so,
                    // a write that is new is stamped above that.
                    Applied::Stored => Some(self.store.mark(partition)).filter(|mark| *mark >= version),
                    Applied::Superseded(version) => Some(version),
                };
                Answer::Written { superseded_by, synced: self.replica(partition).is_synced() }
            }
            Request::Read { list, key, want } => {
                if let Some(other) = self.other_list(partition, list) {
                    return other;
                }
                let found = match (self.store.get(self.hash(&key), &key), want) {
                    // A write that asks is to be stamped above what was forgotten, or evicted.
                    (None, Want::Version) => {
                        Found::Version(self.replica(partition).purge_horizon.max(self.store.mark(partition)))
                    }
                    (None, Want::Entry) => Found::Absent { mark: self.store.mark(partition) },
                    (Some(entry), Want::Version) => Found::Version(entry.version()),
                    (Some(entry), Want::Entry) => {
                        entry.visit();
                        Found::Entry(Entry::clone(&entry))
                    }
                };
                // What a majority has written since may be missing.
                let may_count = self.config.read_quorum == 1 || self.lacks_majority(now).is_none();
                let is_synced = self.replica(partition).is_synced() && may_count;
                let is_synced = is_synced || is_planted(Planted::PendingCounts);
                Answer::Found { found, synced: is_synced }
            }
            Request::AskList => Answer::Listed(self.listed(partition)),
            Request::Adopt { list, horizon } => {
                self.raise_purge_horizon(partition, horizon);
                self.learn(now, partition, list.clone(), actions);
                self.offer_from_giver(partition, from, list.reference());
                Answer::Listed(self.listed(partition))
            }
            Request::Fetch(fetch) => self.fetch(partition, fetch),
            Request::Receipt { list, covers } => self.receipt(partition, from, list, covers),
            Request::Compare(asked) => Answer::Compared(self.answer_compare(&from, &asked)),
            Request::Repair { list } => self.repair(from, partition, list),
            Request::Purge { list, members_digest, dead } => {
                self.answer_purge(from, partition, list, members_digest, &dead)
            }
            Request::Purged { dead } => {
                self.drop_dead(partition, &dead);
                Answer::Purged
            }
            Request::Survey(asked) => self.answer_survey(&from, partition, &asked),
            // From whom this node takes for one of its own data center.
            Request::Relay { .. } | Request::Forward { .. } => Answer::Declined,
        }
    }

    /// The answer to a request that counts in a list which this node does not serve.
    fn other_list(&self, partition: Partition, asked: ListRef) -> Option<Answer> {
        let replica = self.replica(partition);
        let serves = replica.list().is_some_and(|list| list.reference() == asked && list.contains(&self.me));
        (!serves && !is_planted(Planted::AnyList))
            .then(|| Answer::OtherList { list: replica.list().cloned(), horizon: replica.purge_horizon })
    }

    /// What this node knows of a partition.
    pub(super) fn listed(&self, partition: Partition) -> Listed {
        let replica = self.replica(partition);
        Listed {
            list: replica.list().cloned(),
            synced: replica.serves_synced(&self.me),
            holds: !self.store.is_empty(partition),
            horizon: replica.purge_horizon,
            members_digest: self.placement.digest(),
        }
    }

    fn fetch(&self, partition: Partition, fetch: Fetch) -> Answer {
        let sequence = self.store.sequence(partition);
        if fetch.after.is_none() && fetch.digest == self.store.digest(partition) {
            return Answer::Chunk(Chunk { entries: Vec::new(), next: None, sequence });
        }
        let part = self.store.part(partition, fetch.after, fetch.since, CHUNK_BYTES);
        Answer::Chunk(Chunk { entries: part.entries, next: part.next, sequence })
    }

    /// Merges what another node holds. What finds no room, though all that may be evicted was, stays away as
    /// if it had been evicted; and what this node may have evicted does not come back. One that is to be a replica is
    /// compared with the others as soon as it is.
    pub(super) fn merge(&mut self, now: Now, partition: Partition, entries: Vec<Entry>) {
        let mut declined = 0;
        self.replica_mut(partition).merges += 1;
        for entry in entries {
            let hash = self.hash(entry.key());
            if hash.partition() != partition {
                continue;
            }
            self.clock.witness(entry.version(), now.wall);
            if self.may_be_evicted(partition, hash, &entry) {
                continue;
            }
            match self.make_room(hash, &entry) {
                Room::Enough | Room::HeldByReaders => drop(self.apply(hash, entry)),
                Room::Later | Room::OutOfMemory => {
                    self.store.decline(partition, entry.version());
                    declined += 1;
                }
            }
        }
        if declined > 0 {
            log::warn!(
                "partition {}: {declined} keys of another replica find no room here: raise Config::max_memory",
                partition.index()
            );
        }
    }

    /// Whether this value, or a newer state of its key, may have been evicted here. One that is to be a replica takes
    /// everything.
    fn may_be_evicted(&self, partition: Partition, hash: KeyHash, entry: &Entry) -> bool {
        entry.version() <= self.store.mark(partition)
            && entry.value().is_some()
            && self.replica(partition).is_synced()
            && self.store.get(hash, entry.key()).is_none()
    }

    /// Makes room for what another node sends, as far as one turn can be made to wait.
    pub(super) fn make_room(&mut self, hash: KeyHash, entry: &Entry) -> Room {
        let mut tries = (0..ROOM_TRIES).map(|_| self.store.make_room(hash, entry));
        tries.find(|room| *room != Room::Later).unwrap_or(Room::Later)
    }

    pub(super) fn hash(&self, key: &[u8]) -> KeyHash {
        KeyHash::of(self.config.cluster, key)
    }
}
