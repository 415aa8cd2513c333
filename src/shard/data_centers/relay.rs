//! Relays: joins [`Relays`], which sends acknowledged writes to other data centers, with the
//! copies; and writes here what others relay.

use std::collections::BTreeMap;

use xxhash_rust::xxh3::xxh3_64;

use crate::clock::Instant;
use crate::entry::Entry;
use crate::placement::{Member, Placement};
use crate::replication::relay::{Candidate, RelayAction, Relays};
use crate::shard::caller::{Caller, RelayId, ReturnAddress, SiteCaller};
use crate::shard::effects::Effect;
use crate::shard::interface::ShardConfig;
use crate::shard::node::Node;
use crate::shard::replica::copies::LocalCopies;
use crate::shard::requests::Asker;
use crate::shard::turn::Turn;
use crate::types::KeyHash;
use crate::wire::message::{Answer, Request, Route};
use crate::wire::waiting::max_waiting_bytes;

/// Writes for other data centers, and those of others that are being written here.
pub(in crate::shard) struct Relaying {
    relays: Relays,
    batches: BTreeMap<RelayId, Batch>,
    /// How many bytes the batches may have that are being written here.
    max_taken_bytes: usize,
}

/// A batch of another data center's writes that are being written here.
struct Batch {
    address: ReturnAddress,
    /// How many have no outcome yet, and one more while they are begun.
    open: usize,
    written: Vec<u16>,
    bytes: usize,
}

impl Relaying {
    pub(super) fn new(config: &ShardConfig) -> Self {
        Self {
            relays: Relays::new(config.memory),
            batches: BTreeMap::new(),
            max_taken_bytes: max_waiting_bytes(config.memory),
        }
    }

    /// Takes up which other data centers there are.
    pub(in crate::shard) fn placed<C>(&mut self, turn: &Turn<'_, C>) {
        let others = turn.node.placement.other_data_centers().iter();
        let others =
            others.map(|(name, other)| (name.clone(), candidates(turn.node, other))).collect();
        self.relays.placed(turn.now.instant, others);
    }

    /// Whether another data center should have what is acknowledged here.
    pub(in crate::shard) fn has_destinations(&self) -> bool {
        self.relays.is_wanted()
    }

    /// A write was acknowledged here.
    pub(in crate::shard) fn add<C>(&mut self, turn: &Turn<'_, C>, hash: KeyHash, entry: &Entry) {
        self.relays.add(turn.now.instant, hash, entry);
    }

    /// Sends what is due to be relayed.
    pub(in crate::shard) fn send<C>(&mut self, turn: &mut Turn<'_, C>, copies: &LocalCopies) {
        let now = turn.now.instant;
        let mut todo = Vec::new();
        let is_forgotten =
            |hash: KeyHash, version| version <= copies.partition(hash.partition()).purge_horizon;
        self.relays.handle_timers(now, is_forgotten, &mut todo);
        for RelayAction::Send { batch, to, helper, entries } in todo {
            let Some(first) = entries.first() else { continue };
            let partition = turn.node.hash(first.key()).partition();
            let route = helper.map(|_| Route { asker: turn.node.me, to });
            let (receiver, request) = (helper.unwrap_or(to), Request::Relay { entries, route });
            if turn.ask(receiver, partition, request, Asker::Relay(batch)).is_none() {
                self.relays.failed(batch, now);
            }
        }
    }

    /// The other data center has answered a batch, or will not.
    pub(in crate::shard) fn answered<C>(
        &mut self,
        turn: &Turn<'_, C>,
        batch: u64,
        answer: Option<&Answer>,
    ) {
        match answer {
            Some(Answer::Relayed { places }) => {
                self.relays.relayed(batch, places, turn.now.instant)
            }
            Some(Answer::Busy) => self.relays.was_busy(batch, turn.now.instant),
            _ => self.relays.failed(batch, turn.now.instant),
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.relays.deadline()
    }

    /// How many writes wait for a data center, of which how many for one that can be reached, and
    /// how many were left to anti-entropy.
    pub(in crate::shard) fn waiting(&self) -> (usize, usize, u64) {
        (self.relays.waiting(), self.relays.waiting_for_reachable(), self.relays.given_up())
    }

    /// Begins to write what another data center has acknowledged. If there is no room for a batch,
    /// as others are being written, the node that keeps it sends it again later.
    pub(super) fn begin_batch<C>(
        &mut self,
        turn: &mut Turn<'_, C>,
        address: ReturnAddress,
        entries: Vec<Entry>,
    ) {
        let bytes: usize = entries.iter().map(Entry::bytes).sum();
        let taken: usize = self.batches.values().map(|batch| batch.bytes).sum();
        let is_too_much = taken + bytes > self.max_taken_bytes;
        if !self.batches.is_empty() && is_too_much {
            return turn.answer(address, Answer::Busy);
        }
        let id = RelayId(turn.requests.new_id());
        let can_write = turn.node.check_alive(turn.node.config.quorums.write, || None).is_ok();
        let open = entries.len() + 1;
        self.batches.insert(id, Batch { address, open, written: Vec::new(), bytes });
        for (place, entry) in (0..).zip(entries) {
            if !can_write {
                self.written(turn, id, place, false);
                continue;
            }
            let hash = turn.node.hash(entry.key());
            let caller = Caller::DataCenters(SiteCaller::Relay(id, place));
            turn.effects.push_back(Effect::StoreRelayed { hash, entry, caller });
        }
        self.end_batch(turn, id);
    }

    /// Notes how writing the relayed entry at this place ended.
    pub(super) fn written<C>(
        &mut self,
        turn: &mut Turn<'_, C>,
        id: RelayId,
        place: u16,
        is_written: bool,
    ) {
        if let Some(batch) = self.batches.get_mut(&id) {
            batch.written.extend(is_written.then_some(place));
            self.end_batch(turn, id);
        }
    }

    fn end_batch<C>(&mut self, turn: &mut Turn<'_, C>, id: RelayId) {
        let Some(batch) = self.batches.get_mut(&id) else { return };
        batch.open -= 1;
        if batch.open == 0
            && let Some(Batch { address, written: mut places, .. }) = self.batches.remove(&id)
        {
            places.sort_unstable();
            turn.answer(address, Answer::Relayed { places });
        }
    }
}

/// Returns the members of another data center that this core's writes can be sent to: each core
/// prefers another one.
fn candidates(node: &Node, other: &Placement) -> Vec<Candidate> {
    let mut members: Vec<&Member> = other.members().iter().collect();
    let (me, core) = (node.me.node.0.to_le_bytes(), node.config.core.0.to_le_bytes());
    members.sort_by_cached_key(|member| {
        let node = member.identity.node.0.to_le_bytes();
        (member.leaving, xxh3_64(&[&node[..], &me[..], &core[..]].concat()))
    });
    members.into_iter().map(|member| (member.identity, member.cores)).collect()
}
