//! What this node does as a replica: it answers requests about one partition, each in one step.

use super::Replica;
use super::copies::LocalCopies;
use crate::clock::{Instant, Now};
use crate::entry::Entry;
use crate::logging;
use crate::mutants::{ProtocolMutant, rule};
use crate::placement::ListRef;
use crate::shard::node::Node;
use crate::shard::turn::Turn;
use crate::store::{Admission, Applied};
use crate::types::{Identity, KeyHash, Partition};
use crate::wire::frame::CHUNK_BYTES;
use crate::wire::message::{Answer, Chunk, Extent, Fetch, Found, Request, Want};
use crate::wire::retention::Agreed;

/// Whether a peer's request makes sense at all. The error says how it broke the protocol.
pub(in crate::shard) fn check_request(
    node: &Node,
    partition: Partition,
    request: &Request,
) -> Result<(), &'static str> {
    if !node.owns(partition) {
        return Err("a request for a partition of another core");
    }
    match request {
        Request::Write { entry, .. } if node.hash(entry.key()).partition() != partition => {
            Err("a key that is not of the partition")
        }
        Request::Relay { entries, .. } if entries.len() >= usize::from(u16::MAX) => {
            Err("more writes than can be confirmed")
        }
        // One that passes them on may have another number of cores.
        Request::Relay { entries, route }
            if route.is_none_or(|route| route.to == node.me)
                && !entries.iter().all(|it| node.owns(node.hash(it.key()).partition())) =>
        {
            Err("writes of another core")
        }
        Request::Forward { key } if node.hash(key).partition() != partition => {
            Err("a key that is not of the partition")
        }
        Request::Accept { list, value, .. } if value.base() != Some(*list) => {
            Err("a list that does not follow the one that it is proposed to")
        }
        Request::Compare(asked)
            if !asked.partitions.iter().all(|partition| node.owns(*partition)) =>
        {
            Err("a comparison of partitions of another core")
        }
        Request::Give { entries, .. }
            if !entries.iter().all(|it| node.hash(it.key()).partition() == partition) =>
        {
            Err("a key that is not of the partition")
        }
        Request::Purge { dead, .. } | Request::Purged { dead, .. }
            if dead.iter().any(|(hash, _)| hash.partition() != partition) =>
        {
            Err("a key that is not of the partition")
        }
        _ => Ok(()),
    }
}

impl Replica {
    /// Answers the request of a coordinator or of another replica.
    pub(in crate::shard) fn serve<C>(
        &mut self,
        turn: &mut Turn<'_, C>,
        from: Identity,
        partition: Partition,
        request: Request,
    ) -> Answer {
        match request {
            Request::Write { list, entry } => self.serve_write(turn, partition, list, entry),
            Request::Read { list, key, want } => self.serve_read(turn, partition, list, &key, want),
            Request::AskList => Answer::Listed(self.copies.listed(turn.node, partition)),
            Request::Prepare { list, ballot } => {
                self.prepare(turn.node, from, partition, (list, ballot))
            }
            Request::Accept { list, ballot, value } => {
                self.accept(turn, from, partition, (list, ballot, value))
            }
            Request::Adopt { list, purged } => {
                let is_of_line = self.copies.is_of_line(partition, &list);
                self.heard_mark(turn, partition, is_of_line, purged);
                self.learn(turn, partition, list.clone());
                // One that knows less has yet to hear what it must not bring.
                if purged.agreed >= self.copies.mark(partition).agreed {
                    self.offer_from_giver(turn.node, partition, from, list.reference());
                }
                Answer::Listed(self.copies.listed(turn.node, partition))
            }
            Request::Fetch(fetch) => self.copies.fetch(partition, fetch, turn.now.instant),
            Request::Receipt { list, covers } => {
                self.receipt(turn.node, partition, from, list, covers)
            }
            Request::Compare(asked) => {
                Answer::Compared(self.answer_compare(turn.node, &from, &asked))
            }
            Request::Repair { list, wants_receipt } => {
                self.repair(turn.node, from, partition, (list, wants_receipt))
            }
            Request::Purge { list, members_digest, dead, .. } => {
                self.answer_purge(turn, from, partition, (list, members_digest), &dead)
            }
            Request::Purged { dead, .. } => {
                self.drop_dead(partition, &dead);
                Answer::Purged
            }
            Request::Give { list, entries } => {
                self.given(turn, from, partition, (list, entries));
                Answer::Listed(self.copies.listed(turn.node, partition))
            }
            Request::Survey(asked) => {
                self.answer_survey((turn.node, turn.now.instant), &from, partition, &asked)
            }
            // The sender takes this node for one of another data center, and this node does not.
            Request::Relay { .. } | Request::Forward { .. } => Answer::Declined,
        }
    }

    fn serve_write<C>(
        &mut self,
        turn: &mut Turn<'_, C>,
        partition: Partition,
        list: ListRef,
        entry: Entry,
    ) -> Answer {
        if !self.serves(turn.node, partition, list) {
            return self.copies.other_list(partition);
        }
        let copies = &mut self.copies;
        let hash = turn.node.hash(entry.key());
        let copy = copies.partition(partition);
        let (purge_horizon, synced) = (copy.purge_horizon, copy.is_synced());
        let is_forgotten =
            entry.version() <= purge_horizon && copies.store.get(hash, entry.key()).is_none();
        if rule(ProtocolMutant::HorizonIgnored, is_forgotten) {
            return Answer::TooOld { purge_horizon, synced };
        }
        if copies.may_be_evicted(partition, hash, &entry) {
            // As if stored and evicted: a write that was owed for long must not come after what was
            // evicted. A coordinator that writes it now stamps it above the watermark.
            let superseded_by = Some(copies.store.eviction_watermark(partition));
            return Answer::Written { superseded_by, synced };
        }
        match copies.make_room(hash, &entry) {
            Admission::Enough => {}
            Admission::OutOfMemory => {
                let max_memory = turn.node.config.max_memory() as u64;
                return Answer::NoRoom { max_memory };
            }
            Admission::Later | Admission::HeldByReaders => return Answer::Declined,
        }
        copies.clock.witness(entry.version(), turn.now.wall);
        if !rule(ProtocolMutant::AcknowledgedFirst, true) {
            self.apply_some_time(turn, entry);
            return Answer::Written { superseded_by: None, synced };
        }
        let version = entry.version();
        let superseded_by = match copies.apply(hash, entry) {
            // A newer state of the key might have been evicted here, which others still have: the
            // answer says so, and a write that is new is stamped above that.
            Applied::Stored => Some(copies.store.eviction_watermark(partition))
                .filter(|evicted| *evicted >= version),
            Applied::Superseded(version) => Some(version),
        };
        Answer::Written { superseded_by, synced }
    }

    fn serve_read<C>(
        &mut self,
        turn: &Turn<'_, C>,
        partition: Partition,
        list: ListRef,
        key: &[u8],
        want: Want,
    ) -> Answer {
        if !self.serves(turn.node, partition, list) {
            return self.copies.other_list(partition);
        }
        let copies = &self.copies;
        let eviction_watermark = copies.store.eviction_watermark(partition);
        let found = match (copies.store.get(turn.node.hash(key), key), want) {
            // A write that asks is to be stamped above what was forgotten, or evicted.
            (None, Want::Version) => {
                Found::Version(copies.partition(partition).purge_horizon.max(eviction_watermark))
            }
            (None, Want::Entry) => Found::Absent { eviction_watermark },
            (Some(entry), Want::Version) => Found::Version(entry.version()),
            (Some(entry), Want::Entry) => {
                entry.visit();
                Found::Entry(Entry::clone(&entry))
            }
        };
        let is_synced = copies.partition(partition).is_synced();
        Answer::Found { found, synced: !rule(ProtocolMutant::PendingCounts, !is_synced) }
    }

    /// Whether this node is in this list, as it sees itself.
    fn serves(&self, node: &Node, partition: Partition, asked: ListRef) -> bool {
        let is_in = self.copies.knows(partition, asked)
            && self.copies.partition(partition).serves(&node.me);
        !rule(ProtocolMutant::AnyList, !is_in)
    }
}

impl LocalCopies {
    /// Returns the digest with which this node fetches the copy of `from`: one that has the same
    /// has nothing to send. The values of keys that expired here before their time have the same
    /// digest, and are wanted until that copy was surveyed.
    pub(super) fn fetch_digest(&self, partition: Partition, from: &Identity, now: Now) -> u64 {
        let digest = self.store.digest(partition);
        let is_early =
            self.store.has_early_husks(partition, now.wall) || self.is_early_for(partition, from);
        if is_early { !digest } else { digest }
    }

    /// Whether keys of the partition expired here before their time, and the copy of `peer` was not
    /// surveyed since.
    pub(super) fn is_early_for(&self, partition: Partition, peer: &Identity) -> bool {
        let last_early = self.store.last_early(partition);
        last_early > 0 && !self.surveyed.covers_early((partition, *peer), last_early)
    }

    fn fetch(&self, partition: Partition, fetch: Fetch, now: Instant) -> Answer {
        let copy = self.partition(partition);
        let known = copy.list().filter(|known| known.reference() == fetch.list);
        if known.is_none() && fetch.list != ListRef::default() {
            return self.other_list(partition);
        }
        let extent = known.map_or(Extent::Any, |_| copy.extent());
        let (sequence, mut purged) = (self.store.sequence(partition), self.mark(partition));
        if known.is_none() {
            purged.agreed = Agreed::default();
        }
        let is_behind = self.behind.is_counted(partition, now);
        let chunk = |entries, next| {
            Answer::Chunk(Chunk { entries, next, sequence, extent, purged, is_behind })
        };
        if fetch.after.is_none() && fetch.digest == self.store.digest(partition) {
            return chunk(Vec::new(), None);
        }
        let part = self.store.part(partition, fetch.after, fetch.since, CHUNK_BYTES);
        chunk(part.entries, part.next)
    }

    /// Merges what another node holds, and returns how many bytes of it are missing here then.
    ///
    /// If this node evicts, an entry for which there is no room stays away as if it had been
    /// evicted, and what this node might have evicted does not come back: no byte is missing. A
    /// node that is to be a replica is compared with the others once it is one. If nothing is
    /// evicted, what finds no room is missing, and the copy is incomplete.
    pub(in crate::shard) fn merge(
        &mut self,
        node: &Node,
        now: Now,
        partition: Partition,
        entries: Vec<Entry>,
    ) -> usize {
        let (mut declined, mut missing_bytes) = (0, 0);
        self.partition_mut(partition).merges += 1;
        for entry in entries {
            let hash = node.hash(entry.key());
            if hash.partition() != partition {
                continue;
            }
            self.clock.witness(entry.version(), now.wall);
            if self.may_be_evicted(partition, hash, &entry) {
                self.store.note_gap(partition);
                continue;
            }
            match self.make_room(hash, &entry) {
                Admission::Enough | Admission::HeldByReaders => drop(self.apply(hash, entry)),
                Admission::Later | Admission::OutOfMemory => {
                    missing_bytes += self.store.decline(partition, &entry);
                    declined += 1;
                }
            }
        }
        if declined > 0 && missing_bytes == 0 {
            logging::warn!(
                "partition {}: {declined} keys of another replica find no room here: \
                 raise Config::max_memory",
                partition.index()
            );
        }
        if rule(ProtocolMutant::DeclinedCovered, true) { missing_bytes } else { 0 }
    }

    /// Whether this value, or a newer state of its key, might have been evicted here. A node that
    /// is to be a replica takes everything.
    fn may_be_evicted(&self, partition: Partition, hash: KeyHash, entry: &Entry) -> bool {
        entry.version() <= self.store.eviction_watermark(partition)
            && entry.value().is_some()
            && self.partition(partition).is_synced()
            && self.store.get(hash, entry.key()).is_none()
    }
}
