//! The outbox: what waits for one data center, and which way it goes.

use std::collections::{BTreeMap, BTreeSet};

use super::interface::{Candidate, RelayAction};
use super::lane::{Item, Lane, LaneId};
use super::limits::{
    BUSY_PAUSE, BUSY_TRIES, DIRECT_TRIES, HELPED_FOR, LINGER, MAX_APART_OPEN, MAX_LATE, MAX_PAUSE,
    MIN_BATCH_BYTES, PAUSE,
};
use crate::clock::{Instant, Version};
use crate::mutants::{ProtocolMutant, rule};
use crate::types::{Identity, KeyHash, Partition};
use crate::wire::frame::CHUNK_BYTES;
use crate::wire::timing::RELAY_ANSWERS_WITHIN;

/// What waits for one data center.
#[derive(Default)]
pub(super) struct Outbox {
    /// The members that can relay, in this node's order. The first of them does. Empty while there
    /// is no member.
    pub(super) candidates: Vec<Candidate>,
    /// How many cores the relay has, or the last one had.
    cores: u16,
    /// Since when there is no member.
    pub(super) unreachable_since: Option<Instant>,
    lanes: BTreeMap<LaneId, Lane>,
    /// The number of the item that waits for a key.
    pub(super) latest: BTreeMap<KeyHash, u64>,
    open: BTreeMap<u64, Batch>,
    /// The batches that were given up, and might be confirmed all the same. The last of them.
    late: BTreeMap<u64, Late>,
    pub(super) bytes: usize,
    /// By how much batches are smaller than a whole chunk: each step halves them.
    shrunk: u32,
    /// How many batches in a row came to nothing.
    failures: u32,
    /// Until when the way is not changed again.
    way_until: Option<Instant>,
    /// Whether the last batch that was confirmed came directly to the relay.
    pub(super) is_reached: bool,
    /// The helper through which batches are sent, if one is used.
    helper: Option<Identity>,
    /// How many times in a row the helper was busy.
    busy: u32,
    /// Counts the helpers that were taken for one that was busy.
    next_helper: usize,
    /// Since when helpers are needed.
    helped_since: Option<Instant>,
    /// Whether it was logged that writes were given up, since nothing waited last.
    pub(super) has_overflowed: bool,
}

pub(super) struct Batch {
    lane: LaneId,
    to: Identity,
    items: Vec<(u64, Item)>,
    until: Instant,
    helper: Option<Identity>,
}

/// A batch that was given up: to whom it went, and of each item in its place the number, and which
/// state of it was sent.
struct Late {
    to: Identity,
    items: Vec<(u64, KeyHash, Version)>,
}

impl Outbox {
    pub(super) fn len(&self) -> usize {
        let open = self.open.values().map(|batch| batch.items.len()).sum::<usize>();
        open + self.lanes.values().map(|lane| lane.waiting.len()).sum::<usize>()
    }

    /// Returns how many writes wait for a data center that has members, and takes them.
    pub(super) fn taken(&self) -> usize {
        let takes = |id: LaneId| self.lanes.get(&id).is_none_or(|lane| lane.failures < 3);
        if self.candidates.is_empty() || self.failures >= 3 {
            return 0;
        }
        let open = self.open.values().filter(|batch| takes(batch.lane));
        let waiting = self.lanes.iter().filter(|(id, _)| takes(**id));
        open.map(|batch| batch.items.len()).sum::<usize>()
            + waiting.map(|(_, lane)| lane.waiting.len()).sum::<usize>()
    }

    /// Returns the numbers of the batches that should have been answered by now.
    pub(super) fn overdue(&self, now: Instant) -> impl Iterator<Item = u64> {
        self.open.iter().filter(move |(_, batch)| batch.until <= now).map(|(number, _)| *number)
    }

    /// Returns the lane in which a key waits.
    fn lane_of(&self, hash: KeyHash) -> LaneId {
        let partition = hash.partition();
        let apart = LaneId::Apart(partition);
        if self.lanes.contains_key(&apart) {
            return apart;
        }
        LaneId::Core(partition.core(self.cores.max(1)))
    }

    /// Lets what waits for a partition go apart from now on, as its data center does not write it.
    fn set_apart(&mut self, partition: Partition) {
        let id = LaneId::Core(partition.core(self.cores.max(1)));
        let is_of_it = |_: &u64, item: &mut Item| item.hash.partition() == partition;
        let lane = self.lanes.entry(id).or_default();
        let moved: BTreeMap<u64, Item> = lane.waiting.extract_if(.., is_of_it).collect();
        let apart = self.lanes.entry(LaneId::Apart(partition)).or_default();
        apart.waiting.extend(moved);
        apart.due = Some(Instant::default());
    }

    /// Lets a partition go with the others again: its data center writes it.
    fn rejoin(&mut self, partition: Partition) {
        if let Some(mut apart) = self.lanes.remove(&LaneId::Apart(partition)) {
            let id = LaneId::Core(partition.core(self.cores.max(1)));
            let lane = self.lanes.entry(id).or_default();
            if !apart.waiting.is_empty() {
                lane.due = Some(Instant::default());
            }
            lane.waiting.append(&mut apart.waiting);
        }
    }

    /// Takes up which members can relay now.
    pub(super) fn take_candidates(&mut self, now: Instant, candidates: Vec<Candidate>) {
        let old = self.candidates.first().copied();
        if candidates.is_empty() {
            self.unreachable_since.get_or_insert(now);
        } else {
            self.unreachable_since = None;
        }
        self.candidates = candidates;
        let candidates = &self.candidates;
        let is_lost = |_: &u64, batch: &mut Batch| {
            !candidates.iter().any(|(candidate, _)| *candidate == batch.to)
        };
        let lost: Vec<(u64, Batch)> = self.open.extract_if(.., is_lost).collect();
        for (_, batch) in lost {
            self.release(batch.lane);
            batch.items.into_iter().for_each(|(number, item)| self.put_back(number, item));
        }
        // The relay stays while it can.
        if let Some(at) = old.and_then(|old| self.candidates.iter().position(|other| *other == old))
        {
            self.candidates.rotate_left(at);
        }
        if self.candidates.first().copied() != old {
            (self.failures, self.way_until) = (0, None);
            (self.is_reached, self.helper, self.helped_since) = (false, None, None);
            self.lanes.values_mut().for_each(Lane::succeed);
            self.change_relay();
        }
    }

    /// Lets the next member relay, if there is another one.
    fn take_next_candidate(&mut self) {
        if self.candidates.len() > 1 {
            self.candidates.rotate_left(1);
            self.change_relay();
        }
    }

    /// Lets this member relay from now on, which has written what the present relay did not.
    fn prefer(&mut self, member: Identity) {
        let at = self.candidates.iter().position(|(candidate, _)| *candidate == member);
        if let Some(at) = at.filter(|at| *at > 0) {
            self.candidates.rotate_left(at);
            self.change_relay();
        }
    }

    /// Chooses the way of the next batch after some that came to nothing: directly to each member,
    /// then to each of them through every one of these helpers, and directly again. The helpers
    /// come first where one was needed before.
    fn take_next_way(&mut self, helpers: &[Identity]) {
        let first = if self.helped_since.is_some() { 0 } else { DIRECT_TRIES };
        let tries = self.failures.checked_sub(first);
        // A member is left when all ways to it were tried: if both changed each time, some would
        // never meet.
        let way = tries.map(|tries| tries as usize % (helpers.len() + 1));
        if way.is_none_or(|way| way == 0) {
            self.take_next_candidate();
        }
        self.helper = way.and_then(|way| helpers.get(way).copied());
        (self.is_reached, self.busy) = (false, 0);
    }

    /// Counts that the helper has too much to do. If it had that too often, the next of these
    /// helpers is taken.
    fn count_busy(&mut self, helpers: &[Identity]) {
        self.busy += 1;
        if self.busy < BUSY_TRIES {
            return;
        }
        self.busy = 0;
        // In turn, also if the one that is taken does not reach the relay and another way is tried.
        let next = |turn: usize| helpers.get(turn % helpers.len().max(1)).copied();
        self.next_helper += 1;
        if next(self.next_helper) == self.helper {
            self.next_helper += 1;
        }
        self.helper = next(self.next_helper).or(self.helper);
    }

    /// Sends to the new relay what an earlier one has not confirmed. Partitions that go apart have
    /// relays of their own.
    fn change_relay(&mut self) {
        let to_old = |_: &u64, batch: &mut Batch| !batch.lane.is_apart();
        let open: Vec<(u64, Batch)> = self.open.extract_if(.., to_old).collect();
        if let Some(&(_, cores)) = self.candidates.first().filter(|(_, cores)| *cores != self.cores)
        {
            self.cores = cores;
            let to_old = |id: &LaneId, _: &mut Lane| !id.is_apart();
            let lanes: Vec<(LaneId, Lane)> = self.lanes.extract_if(.., to_old).collect();
            for (number, item) in lanes.into_iter().flat_map(|(_, lane)| lane.waiting) {
                let id = self.lane_of(item.hash);
                self.lanes.entry(id).or_default().waiting.insert(number, item);
            }
        }
        for (number, batch) in open {
            self.note_late(number, &batch);
            batch.items.into_iter().for_each(|(number, item)| self.put_back(number, item));
        }
        for (_, lane) in self.lanes.iter_mut().filter(|(id, _)| !id.is_apart()) {
            (lane.open, lane.due) = (0, Some(Instant::default()));
        }
    }

    /// Keeps an item that is new.
    pub(super) fn put(&mut self, now: Instant, number: u64, item: Item) {
        let lane = self.lanes.entry(self.lane_of(item.hash)).or_default();
        let latest = self.latest.get(&item.hash).and_then(|latest| lane.waiting.get_mut(latest));
        if let Some(waiting) = latest.filter(|waiting| waiting.entry.key() == item.entry.key()) {
            if item.entry.wins_over(&waiting.entry) {
                self.bytes -= waiting.entry.bytes();
                self.bytes += item.entry.bytes();
                waiting.entry = item.entry;
            }
            return;
        }
        self.bytes += item.bytes();
        self.latest.insert(item.hash, number);
        lane.waiting.insert(number, item);
        lane.due.get_or_insert(now + LINGER);
    }

    /// Keeps an item that was sent, to send it again, unless it was confirmed all the same or a
    /// newer one of its key waits.
    fn put_back(&mut self, number: u64, item: Item) {
        if item.is_confirmed {
            return self.forget(number, &item);
        }
        let lane = self.lanes.entry(self.lane_of(item.hash)).or_default();
        let latest = self.latest.get(&item.hash).and_then(|latest| lane.waiting.get(latest));
        let of_key = latest.filter(|waiting| waiting.entry.key() == item.entry.key());
        lane.due = Some(Instant::default());
        if of_key.is_some_and(|waiting| !item.entry.wins_over(&waiting.entry)) {
            self.bytes -= item.bytes();
        } else {
            self.latest.entry(item.hash).or_insert(number);
            lane.waiting.insert(number, item);
        }
    }

    /// Forgets an item that is confirmed or given up.
    fn forget(&mut self, number: u64, item: &Item) {
        self.bytes -= item.bytes();
        if self.latest.get(&item.hash) == Some(&number) {
            self.latest.remove(&item.hash);
        }
    }

    /// Gives up the oldest item that waits, and returns whether there was one. What is on its way
    /// is not taken back.
    pub(super) fn give_up_oldest(&mut self) -> bool {
        let lanes = self.lanes.values_mut().filter(|lane| !lane.waiting.is_empty());
        let oldest =
            lanes.min_by_key(|lane| lane.waiting.first_key_value().map(|(number, _)| *number));
        let Some((number, item)) = oldest.and_then(|lane| lane.waiting.pop_first()) else {
            return false;
        };
        self.forget(number, &item);
        true
    }

    /// Ends a batch. Its items count as bytes until they are confirmed.
    pub(super) fn close(&mut self, number: u64) -> Option<Batch> {
        let batch = self.open.remove(&number)?;
        self.release(batch.lane);
        Some(batch)
    }

    /// Notes that a batch of this lane is not on its way any more.
    fn release(&mut self, id: LaneId) {
        if let Some(lane) = self.lanes.get_mut(&id) {
            lane.open = lane.open.saturating_sub(1);
        }
    }

    /// Remembers what a batch had that is given up, for an answer that comes late.
    fn note_late(&mut self, number: u64, batch: &Batch) {
        let sent = batch.items.iter().map(|(number, it)| (*number, it.hash, it.entry.version()));
        self.late.insert(number, Late { to: batch.to, items: sent.collect() });
        while self.late.len() > MAX_LATE {
            self.late.pop_first();
        }
    }

    /// Takes up which writes of a batch the relay has written, by their places.
    pub(super) fn answered(&mut self, batch: Batch, places: &[u16], now: Instant) {
        self.is_reached = batch.helper.is_none();
        (self.helper, self.busy) = (batch.helper, 0);
        self.helped_since = batch.helper.map(|_| self.helped_since.unwrap_or(now));
        self.shrunk = self.shrunk.saturating_sub(1);
        let is_written = |place: usize| places.binary_search(&(place as u16)).is_ok();
        let mut partitions = BTreeSet::new();
        let mut refused = BTreeSet::new();
        for (place, (_, item)) in batch.items.iter().enumerate() {
            partitions.insert(item.hash.partition());
            if !is_written(place) {
                refused.insert(item.hash.partition());
            }
        }
        let is_none = places.is_empty() && partitions.len() > 1;
        if rule(ProtocolMutant::RefusedDelays, !is_none && !batch.lane.is_apart()) {
            for partition in &refused {
                self.set_apart(*partition);
                self.pause_lane(LaneId::Apart(*partition), now);
            }
        }
        for (place, (number, item)) in batch.items.into_iter().enumerate() {
            if is_written(place) {
                self.forget(number, &item);
            } else {
                self.put_back(number, item);
            }
        }
        match batch.lane {
            _ if refused.is_empty() => {
                (self.failures, self.way_until) = (0, None);
                self.lanes.entry(batch.lane).or_default().succeed();
                self.has_overflowed &= self.len() > 0;
                if let LaneId::Apart(partition) = batch.lane {
                    self.rejoin(partition);
                    self.prefer(batch.to);
                }
            }
            LaneId::Apart(_) => self.pause_lane(batch.lane, now),
            LaneId::Core(_) if rule(ProtocolMutant::RefusedDelays, !is_none) => {
                (self.failures, self.way_until) = (0, None);
            }
            LaneId::Core(_) => {
                // Another one may reach more of them.
                self.pause_lane(batch.lane, now);
                if self.way_until.is_none_or(|until| until <= now) {
                    self.keep_way(now);
                    self.take_next_candidate();
                }
            }
        }
    }

    /// Takes up a late answer to a batch that was given up: what it confirms is not sent again. It
    /// counts for nothing if the relay is none any more, as its data center might have lost its
    /// memory since.
    pub(super) fn answered_late(&mut self, number: u64, places: &[u16]) {
        let Some(late) = self.late.remove(&number) else { return };
        let is_relay = self.candidates.iter().any(|(candidate, _)| *candidate == late.to);
        if !is_relay {
            return;
        }
        for place in places {
            let Some(&(number, hash, version)) = late.items.get(usize::from(*place)) else {
                continue;
            };
            let id = self.lane_of(hash);
            let lane = self.lanes.get_mut(&id);
            let waiting = lane.and_then(|lane| {
                let item = lane.waiting.get(&number)?;
                (item.entry.version() == version).then(|| lane.waiting.remove(&number))?
            });
            if let Some(item) = waiting {
                self.forget(number, &item);
                continue;
            }
            for batch in self.open.values_mut() {
                let found = batch.items.binary_search_by_key(&number, |(number, _)| *number);
                if let Some((_, item)) = found.ok().and_then(|at| batch.items.get_mut(at)) {
                    item.is_confirmed |= item.entry.version() == version;
                }
            }
        }
    }

    /// Puts back a batch that came to nothing: it was not sent, or its answer is none. The next one
    /// of its lane goes another way, if these helpers or other members offer one.
    pub(super) fn failed(
        &mut self,
        (number, batch): (u64, Batch),
        helpers: &[Identity],
        now: Instant,
    ) {
        let (lane, to) = (batch.lane, batch.to);
        self.note_late(number, &batch);
        batch.items.into_iter().for_each(|(number, item)| self.put_back(number, item));
        self.shrunk = (self.shrunk + 1).min((CHUNK_BYTES / MIN_BATCH_BYTES).ilog2());
        self.pause_lane(lane, now);
        let is_to_relay = self.candidates.first().is_some_and(|(relay, _)| *relay == to);
        // With the first one of those that were under way.
        if is_to_relay && self.way_until.is_none_or(|until| until <= now) {
            self.keep_way(now);
            self.take_next_way(helpers);
        }
    }

    /// Puts back a batch that a helper had no time for. The way is as good as before: it is taken
    /// again after a pause, up to [`BUSY_TRIES`] times in a row.
    pub(super) fn was_busy(&mut self, batch: Batch, helpers: &[Identity], now: Instant) {
        let (lane, helper) = (batch.lane, batch.helper);
        batch.items.into_iter().for_each(|(number, item)| self.put_back(number, item));
        let lane = self.lanes.entry(lane).or_default();
        lane.paused_until = lane.paused_until.max(Some(now + BUSY_PAUSE));
        // With the first one of those that were under way.
        if self.way_until.is_none_or(|until| until <= now) {
            self.way_until = Some(now + BUSY_PAUSE);
            if helper == self.helper {
                self.count_busy(helpers);
            }
        }
    }

    /// Sends nothing in a lane for a while, longer after each failure.
    fn pause_lane(&mut self, id: LaneId, now: Instant) {
        let lane = self.lanes.entry(id).or_default();
        lane.fail(now + pause_after(lane.failures));
    }

    /// Keeps the way that is chosen now for a while, longer after each failure.
    fn keep_way(&mut self, now: Instant) {
        self.way_until = Some(now + pause_after(self.failures));
        self.failures += 1;
    }

    fn batch_bytes(&self) -> usize {
        CHUNK_BYTES >> self.shrunk
    }

    /// Returns how many more batches of partitions that go apart can be sent.
    fn room_apart(&self) -> usize {
        let open = self.open.values().filter(|batch| batch.lane.is_apart()).count();
        MAX_APART_OPEN.saturating_sub(open)
    }

    /// Returns when each lane is due that can send something, if there is a member.
    fn due(&self) -> impl Iterator<Item = (Instant, LaneId)> {
        let has_room = self.room_apart() > 0;
        let can_send = move |id: LaneId, lane: &Lane| match id {
            LaneId::Core(_) => true,
            LaneId::Apart(_) => has_room && lane.open == 0,
        };
        let lanes = self.lanes.iter().filter(|_| !self.candidates.is_empty());
        let lanes = lanes.filter(move |(id, lane)| can_send(**id, lane));
        lanes.filter_map(|(id, lane)| Some((lane.due(self.batch_bytes())?, *id)))
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let until = self.open.values().map(|batch| batch.until).min();
        until.into_iter().chain(self.due().map(|(due, _)| due).min()).min()
    }

    /// Sends the batches that are due, and returns how many writes were given up.
    pub(super) fn send(
        &mut self,
        now: Instant,
        next_batch: &mut u64,
        is_forgotten: &impl Fn(KeyHash, Version) -> bool,
        actions: &mut Vec<RelayAction>,
    ) -> u64 {
        if self.helped_since.is_some_and(|since| since + HELPED_FOR <= now) {
            (self.helper, self.helped_since) = (None, None);
        }
        let mut due: Vec<(Instant, LaneId)> = self.due().filter(|(due, _)| *due <= now).collect();
        // Of partitions that go apart the one that has waited longest.
        due.sort_unstable();
        let mut given_up = 0;
        for (_, id) in due {
            if id.is_apart() && self.room_apart() == 0 {
                continue;
            }
            loop {
                given_up += self.send_batch((id, now), next_batch, is_forgotten, actions);
                let next = self.lanes.get(&id).and_then(|lane| lane.due(self.batch_bytes()));
                if id.is_apart() || next.is_none_or(|due| due > now) {
                    break;
                }
            }
        }
        given_up
    }

    /// Sends the next batch of a lane, without what is forgotten, and returns how much that was.
    fn send_batch(
        &mut self,
        (id, now): (LaneId, Instant),
        next_batch: &mut u64,
        is_forgotten: &impl Fn(KeyHash, Version) -> bool,
        actions: &mut Vec<RelayAction>,
    ) -> u64 {
        let batch_bytes = self.batch_bytes();
        let Some(lane) = self.lanes.get_mut(&id) else { return 0 };
        // A partition that goes apart tries each member in turn.
        let turn = if id.is_apart() { lane.failures as usize } else { 0 };
        let Some(&(to, _)) = self.candidates.get(turn % self.candidates.len().max(1)) else {
            return 0;
        };
        let mut items = lane.take_batch(now, batch_bytes);
        for (number, item) in &items {
            // A later write of the key does not replace what is on its way.
            if self.latest.get(&item.hash) == Some(number) {
                self.latest.remove(&item.hash);
            }
        }
        let mut given_up = 0;
        for (_, item) in
            items.extract_if(.., |(_, item)| is_forgotten(item.hash, item.entry.version()))
        {
            self.bytes -= item.bytes();
            given_up += 1;
        }
        if items.is_empty() {
            return given_up;
        }
        *next_batch += 1;
        lane.open += 1;
        let (helper, until) = (self.helper, now + RELAY_ANSWERS_WITHIN);
        let entries = items.iter().map(|(_, item)| item.entry.clone()).collect();
        actions.push(RelayAction::Send { batch: *next_batch, to, helper, entries });
        self.open.insert(*next_batch, Batch { lane: id, to, items, until, helper });
        given_up
    }
}

/// Returns the pause after this many failures in a row.
fn pause_after(failures: u32) -> std::time::Duration {
    PAUSE.saturating_mul(1 << failures.min(10)).min(MAX_PAUSE)
}
