//! Sending what was written here to the other data centers. One machine for each core.
//!
//! **Problem.** Each data center has its own copies, lists and quorums. A write that was
//! acknowledged in one of them must reach the others, though they are far away, and cut off at
//! times.
//!
//! Its coordinator sends the write to each other data center, in batches, through one member there,
//! the *relay*. The relay writes it in its own data center as a coordinator does, under the version
//! that it has, and answers when W replicas there have applied it. A relay writes nothing in a
//! third data center: the coordinator sends to each.
//!
//! ```text
//! coordinator ──[Relay: entries]──▶ relay ──[Write]──▶ W replicas there
//! coordinator ◀──[Relayed: which of them]──
//! ```
//!
//! Two spokes of a hub do not reach each other. A coordinator that has failed to reach any member
//! of another data center sends its batches through a *helper*, the relay of a third one. The
//! helper passes a batch on as it is, and the answer back; it keeps nothing. So it is still the
//! relay that confirms, and the coordinator that waits for that. If a helper is busy for a second,
//! another member of a third data center takes its place.
//!
//! ```text
//! coordinator ──[Relay, for a member of B]──▶ helper in C ──[the same]──▶ that member, the relay
//! coordinator ◀──[Relayed]─────────────────── helper      ◀──[Relayed]──
//! ```
//!
//! | a write is | kept by | until |
//! |---|---|---|
//! | waiting | a lane, one for each core of the relay | its batch is sent |
//! | on its way | its batch | the relay confirms it, or it waits again |
//! | given up | no one: anti-entropy finds it | |
//!
//! A batch is sent when it is full, or [`LINGER`] after its first write while none is on its way.
//!
//! **Invariant.** A write waits or is on its way until a relay has confirmed it: over lost
//! connections, dead relays (the next member is taken), and while the data center cannot be
//! reached. Of a key, only the newest state waits.
//!
//! Two bounds limit that: on the bytes that are kept ([`MAX_BYTES`]), and on how long a data center
//! without any member is waited for ([`PATIENCE`]). Anti-entropy brings what is beyond them, and
//! what a dead coordinator kept.
//!
//! Under load batches grow with the round trip, so few are needed however far away the other data
//! center is.
//!
//! **Source.** One member of each other data center passes a write on to its own, as in Cassandra.
//!
//! **Rejected:** a quorum of all data centers. A write would wait for the slowest of them, and fail
//! while one is away.

use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Instant, Version};
use crate::entry::Entry;
use crate::logging;
use crate::types::{CoreId, Identity, KeyHash};
use crate::wire::frame::CHUNK_BYTES;
use crate::wire::timing::RELAY_ANSWERS_WITHIN;

/// How long a write waits for others to go with it.
const LINGER: Duration = Duration::from_millis(2);

/// How many writes one batch has at most. Its bytes are limited as a chunk's are.
const MAX_WRITES: usize = 512;

/// How many batches are on their way to one core of a relay. All but the first are full ones.
const MAX_OPEN: usize = 4;

/// The pause after a batch that came to nothing. It doubles each time, up to [`MAX_PAUSE`].
const PAUSE: Duration = Duration::from_millis(50);

/// The pause after a helper was too busy: it has passed on most of what it had by then.
const BUSY_PAUSE: Duration = Duration::from_millis(200);

/// After how many answers in a row that a helper is busy, one a pause, another one is asked: after
/// a second. Most helpers have time before that, and are known to reach the relay.
const BUSY_TRIES: u32 = 5;

/// The longest pause: how long a data center that is back might wait for its writes.
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// How many bytes one core keeps for each other data center. If its memory is limited, at most a
/// sixteenth of that.
const MAX_BYTES: usize = 64 << 20;

/// How many bytes a write takes in addition to those of its entry.
const OVERHEAD: usize = 64;

/// After how many batches in a row that came to nothing a helper is tried.
const DIRECT_TRIES: u32 = 3;

/// How long a helper is used before it is tried again whether the data center can be reached
/// without one. That takes some seconds if it cannot, in which writes wait.
const HELPED_FOR: Duration = Duration::from_secs(600);

/// How long writes are kept for a data center that has no member.
const PATIENCE: Duration = Duration::from_secs(3600);

/// A member of another data center that can relay, and how many cores it has.
pub(crate) type Candidate = (Identity, u16);

/// What the machine wants its shard to do.
#[derive(Debug, PartialEq)]
pub(crate) enum RelayAction {
    /// Send these to `to`, through a helper if one is named. All of them belong to one of its
    /// cores. [`Relays::relayed`] or [`Relays::failed`] is told with this number.
    Send { batch: u64, to: Identity, helper: Option<Identity>, entries: Vec<Entry> },
}

/// The writes of one core that other data centers have not confirmed.
pub(crate) struct Relays {
    outboxes: BTreeMap<Arc<str>, Outbox>,
    max_bytes: usize,
    next_item: u64,
    next_batch: u64,
    given_up: u64,
}

/// What waits for one data center.
#[derive(Default)]
struct Outbox {
    /// The members that can relay, in this node's order. The first of them does. Empty while there
    /// is no member.
    candidates: Vec<Candidate>,
    /// How many cores the relay has, or the last one had.
    cores: u16,
    /// Since when there is no member.
    unreachable_since: Option<Instant>,
    /// The lanes, by the core of the relay that they lead to.
    lanes: BTreeMap<CoreId, Lane>,
    /// The number of the item that waits for a key.
    latest: BTreeMap<KeyHash, u64>,
    open: BTreeMap<u64, Batch>,
    bytes: usize,
    /// How many batches in a row came to nothing.
    failures: u32,
    /// Until when no batch is sent.
    paused_until: Option<Instant>,
    /// Whether the last batch that was confirmed came directly to the relay.
    is_reached: bool,
    /// The helper through which batches are sent, if one is used.
    helper: Option<Identity>,
    /// How many times in a row the helper was busy.
    busy: u32,
    /// Counts the helpers that were taken for one that was busy.
    next_helper: usize,
    /// Since when helpers are needed.
    helped_since: Option<Instant>,
    /// Whether it was logged that writes were given up, since nothing waited last.
    has_overflowed: bool,
}

/// What is for one core of the relay.
#[derive(Default)]
struct Lane {
    /// The items that wait, by number: the order in which they came.
    waiting: BTreeMap<u64, Item>,
    open: usize,
    /// When the first of those that wait is sent, whether the batch is full or not.
    due: Option<Instant>,
}

struct Item {
    hash: KeyHash,
    entry: Entry,
}

impl Item {
    fn bytes(&self) -> usize {
        self.entry.bytes() + OVERHEAD
    }
}

struct Batch {
    core: CoreId,
    items: Vec<(u64, Item)>,
    until: Instant,
    helper: Option<Identity>,
}

impl Relays {
    pub(crate) fn new(memory: Option<usize>) -> Self {
        let max_bytes = memory.map_or(MAX_BYTES, |memory| MAX_BYTES.min(memory / 16));
        Self { outboxes: BTreeMap::new(), max_bytes, next_item: 0, next_batch: 0, given_up: 0 }
    }

    /// Whether there is another data center to write to.
    pub(crate) fn is_wanted(&self) -> bool {
        !self.outboxes.is_empty()
    }

    /// Takes up which other data centers have members, and which of these can relay, in this node's
    /// order.
    pub(crate) fn placed(&mut self, now: Instant, mut others: BTreeMap<Arc<str>, Vec<Candidate>>) {
        for name in others.keys() {
            self.outboxes.entry(name.clone()).or_default();
        }
        self.outboxes.retain(|name, outbox| {
            outbox.take_candidates(now, others.remove(name).unwrap_or_default());
            let is_kept = outbox.unreachable_since.is_none_or(|since| now < since + PATIENCE);
            if !is_kept {
                self.given_up += outbox.len() as u64;
                logging::warn!(
                    "data center {name:?} has had no member for an hour: no more writes are kept \
                     for it"
                );
            }
            is_kept
        });
    }

    /// Keeps a write that was acknowledged here for each other data center.
    pub(crate) fn add(&mut self, now: Instant, hash: KeyHash, entry: &Entry) {
        for (name, outbox) in &mut self.outboxes {
            self.next_item += 1;
            outbox.put(now, self.next_item, Item { hash, entry: entry.clone() });
            while outbox.bytes > self.max_bytes && outbox.give_up_oldest() {
                self.given_up += 1;
                if !mem::replace(&mut outbox.has_overflowed, true) {
                    logging::warn!(
                        "more is written than data center {name:?} takes: it gets the rest by \
                         comparison"
                    );
                }
            }
        }
    }

    /// Takes up which writes of the batch the relay has written in its data center, by their
    /// places.
    pub(crate) fn relayed(&mut self, number: u64, places: &[u16], now: Instant) {
        let found =
            self.outboxes.values_mut().find_map(|outbox| Some((outbox.close(number)?, outbox)));
        let Some((batch, outbox)) = found else { return };
        outbox.confirmed(now, batch.helper);
        let is_all = places.len() == batch.items.len();
        for (place, (number, item)) in batch.items.into_iter().enumerate() {
            if places.binary_search(&(place as u16)).is_ok() {
                outbox.forget(number, &item);
            } else {
                outbox.put_back(number, item);
            }
        }
        if is_all {
            (outbox.failures, outbox.paused_until) = (0, None);
            outbox.has_overflowed &= outbox.len() > 0;
        } else {
            // Another one may reach more of them.
            outbox.take_next_candidate();
            outbox.pause(now);
        }
    }

    /// Notes that the batch was not sent, or that its answer is none. Another member relays it.
    pub(crate) fn failed(&mut self, number: u64, now: Instant) {
        let reached = self.outboxes.values().filter(|outbox| outbox.is_reached);
        let relays = reached.filter_map(|outbox| outbox.candidates.first());
        let helpers: Vec<Identity> = relays.map(|(relay, _)| *relay).collect();
        let found =
            self.outboxes.values_mut().find_map(|outbox| Some((outbox.close(number)?, outbox)));
        let Some((batch, outbox)) = found else { return };
        batch.items.into_iter().for_each(|(number, item)| outbox.put_back(number, item));
        // With the first one of those that were under way.
        if outbox.paused_until.is_none_or(|until| until <= now) {
            outbox.pause(now);
            outbox.take_next_way(&helpers);
        }
    }

    /// Notes that the batch was not sent on, because a helper has too much to do. The way is as
    /// good as before: it is taken again after a pause, up to [`BUSY_TRIES`] times in a row.
    pub(crate) fn was_busy(&mut self, number: u64, now: Instant) {
        // Not only the relays: the others of a relay's data center might reach as much as it does.
        let reached = self.outboxes.values().filter(|outbox| outbox.is_reached);
        let helpers = reached.flat_map(|outbox| &outbox.candidates);
        let helpers: Vec<Identity> = helpers.map(|(member, _)| *member).collect();
        let found =
            self.outboxes.values_mut().find_map(|outbox| Some((outbox.close(number)?, outbox)));
        let Some((batch, outbox)) = found else { return };
        batch.items.into_iter().for_each(|(number, item)| outbox.put_back(number, item));
        // With the first one of those that were under way.
        if outbox.paused_until.is_none_or(|until| until <= now) {
            outbox.paused_until = Some(now + BUSY_PAUSE);
            if batch.helper == outbox.helper {
                outbox.count_busy(&helpers);
            }
        }
    }

    /// Returns when [`handle_timers`](Self::handle_timers) wants to be called.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.outboxes.values().filter_map(Outbox::deadline).min()
    }

    /// Sends what is due. What is no newer than the purge horizon here is given up: other data
    /// centers might have purged it too, and no node there would know.
    pub(crate) fn handle_timers(
        &mut self,
        now: Instant,
        is_forgotten: impl Fn(KeyHash, Version) -> bool,
        actions: &mut Vec<RelayAction>,
    ) {
        let late = self.outboxes.values().flat_map(|outbox| &outbox.open);
        let late: Vec<u64> =
            late.filter(|(_, batch)| batch.until <= now).map(|(number, _)| *number).collect();
        late.into_iter().for_each(|number| self.failed(number, now));
        for outbox in self.outboxes.values_mut() {
            self.given_up += outbox.send(now, &mut self.next_batch, &is_forgotten, actions);
        }
    }

    /// Returns how many writes another data center has not confirmed.
    pub(crate) fn waiting(&self) -> usize {
        self.outboxes.values().map(Outbox::len).sum()
    }

    /// Returns how many of them wait for data centers that have members, and take what they are
    /// sent.
    pub(crate) fn waiting_for_reachable(&self) -> usize {
        let takes = |outbox: &&Outbox| !outbox.candidates.is_empty() && outbox.failures < 3;
        let reachable = self.outboxes.values().filter(takes);
        reachable.map(Outbox::len).sum()
    }

    /// Returns how many writes were left to anti-entropy.
    pub(crate) fn given_up(&self) -> u64 {
        self.given_up
    }
}

impl Outbox {
    fn len(&self) -> usize {
        let open = self.open.values().map(|batch| batch.items.len()).sum::<usize>();
        open + self.lanes.values().map(|lane| lane.waiting.len()).sum::<usize>()
    }

    /// Returns the relay's core to which a key belongs.
    fn core_of(&self, hash: KeyHash) -> CoreId {
        hash.partition().core(self.cores.max(1))
    }

    /// Takes up which members can relay now.
    fn take_candidates(&mut self, now: Instant, candidates: Vec<Candidate>) {
        let old = self.candidates.first().copied();
        if candidates.is_empty() {
            self.unreachable_since.get_or_insert(now);
        } else {
            self.unreachable_since = None;
        }
        self.candidates = candidates;
        // The relay stays while it can.
        if let Some(at) = old.and_then(|old| self.candidates.iter().position(|other| *other == old))
        {
            self.candidates.rotate_left(at);
        }
        if self.candidates.first().copied() != old {
            (self.failures, self.paused_until) = (0, None);
            (self.is_reached, self.helper, self.helped_since) = (false, None, None);
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

    /// Notes that a batch was confirmed that came through this helper, or directly.
    fn confirmed(&mut self, now: Instant, helper: Option<Identity>) {
        (self.is_reached, self.helper, self.busy) = (helper.is_none(), helper, 0);
        self.helped_since = helper.map(|_| self.helped_since.unwrap_or(now));
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

    /// Sends to the new relay what an earlier one has not confirmed.
    fn change_relay(&mut self) {
        let open = mem::take(&mut self.open).into_values().flat_map(|batch| batch.items);
        if let Some(&(_, cores)) = self.candidates.first().filter(|(_, cores)| *cores != self.cores)
        {
            self.cores = cores;
            for (number, item) in
                mem::take(&mut self.lanes).into_values().flat_map(|lane| lane.waiting)
            {
                let core = self.core_of(item.hash);
                self.lanes.entry(core).or_default().waiting.insert(number, item);
            }
        }
        open.for_each(|(number, item)| self.put_back(number, item));
        for lane in self.lanes.values_mut() {
            (lane.open, lane.due) = (0, Some(Instant::default()));
        }
    }

    /// Keeps an item that is new.
    fn put(&mut self, now: Instant, number: u64, item: Item) {
        let core = self.core_of(item.hash);
        let lane = self.lanes.entry(core).or_default();
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

    /// Keeps an item that was sent, to send it again, unless a newer one of its key waits.
    fn put_back(&mut self, number: u64, item: Item) {
        let core = self.core_of(item.hash);
        let lane = self.lanes.entry(core).or_default();
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
    fn give_up_oldest(&mut self) -> bool {
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
    fn close(&mut self, number: u64) -> Option<Batch> {
        let batch = self.open.remove(&number)?;
        if let Some(lane) = self.lanes.get_mut(&batch.core) {
            lane.open -= 1;
        }
        Some(batch)
    }

    /// Sends nothing for a while, longer after each failure.
    fn pause(&mut self, now: Instant) {
        let pause = PAUSE.saturating_mul(1 << self.failures.min(10)).min(MAX_PAUSE);
        self.failures += 1;
        self.paused_until = Some(now + pause);
    }

    fn deadline(&self) -> Option<Instant> {
        let until = self.open.values().map(|batch| batch.until).min();
        let due =
            self.lanes.values().filter_map(Lane::due).min().filter(|_| !self.candidates.is_empty());
        let due = due.map(|due| self.paused_until.map_or(due, |until| due.max(until)));
        until.into_iter().chain(due).min()
    }

    /// Sends the batches that are due, and returns how many writes were given up.
    fn send(
        &mut self,
        now: Instant,
        next_batch: &mut u64,
        is_forgotten: &impl Fn(KeyHash, Version) -> bool,
        actions: &mut Vec<RelayAction>,
    ) -> u64 {
        let mut given_up = 0;
        let is_paused = self.paused_until.is_some_and(|until| until > now);
        let Some(&(to, _)) = self.candidates.first().filter(|_| !is_paused) else {
            return given_up;
        };
        if self.helped_since.is_some_and(|since| since + HELPED_FOR <= now) {
            (self.helper, self.helped_since) = (None, None);
        }
        let helper = self.helper;
        for (&core, lane) in &mut self.lanes {
            while lane.due().is_some_and(|due| due <= now) {
                let mut items = lane.take_batch();
                for (number, item) in &items {
                    // A later write of the key does not replace what is on its way.
                    if self.latest.get(&item.hash) == Some(number) {
                        self.latest.remove(&item.hash);
                    }
                }
                for (_, item) in
                    items.extract_if(.., |(_, item)| is_forgotten(item.hash, item.entry.version()))
                {
                    self.bytes -= item.bytes();
                    given_up += 1;
                }
                if items.is_empty() {
                    continue;
                }
                *next_batch += 1;
                let entries = items.iter().map(|(_, item)| item.entry.clone()).collect();
                actions.push(RelayAction::Send { batch: *next_batch, to, helper, entries });
                let until = now + RELAY_ANSWERS_WITHIN;
                self.open.insert(*next_batch, Batch { core, items, until, helper });
                lane.open += 1;
            }
        }
        given_up
    }
}

impl Lane {
    /// Returns when the next batch is to be sent, as far as this lane knows.
    fn due(&self) -> Option<Instant> {
        let is_full = self.waiting.len() >= MAX_WRITES;
        match self.open {
            _ if self.waiting.is_empty() => None,
            0 if is_full => Some(Instant::default()),
            0 => self.due,
            1..MAX_OPEN if is_full => Some(Instant::default()),
            _ => None,
        }
    }

    /// Takes the oldest items, as many as fit into one batch.
    fn take_batch(&mut self) -> Vec<(u64, Item)> {
        let (mut items, mut bytes) = (Vec::new(), 0);
        while items.len() < MAX_WRITES
            && bytes < CHUNK_BYTES
            && let Some((number, item)) = self.waiting.pop_first()
        {
            bytes += item.entry.bytes();
            items.push((number, item));
        }
        // What is left has waited.
        self.due = (!self.waiting.is_empty()).then_some(Instant::default());
        items
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Content;
    use crate::replication::tests::node;
    use crate::types::ClusterHash;

    const START: Instant = Instant::from_nanos(1_000_000_000);

    fn entry(key: usize, version: u64, bytes: usize) -> (KeyHash, Entry) {
        let key = format!("key-{key}");
        let value = vec![7; bytes];
        let entry = Entry::new(key.as_bytes(), Content::Value(&value), Version(version), None);
        (KeyHash::of(ClusterHash::of("c"), key.as_bytes()), entry)
    }

    struct Test {
        relays: Relays,
        /// Up to there all was purged.
        forgotten: Version,
        now: Instant,
    }

    impl Test {
        /// One other data center, with these members of one core each.
        fn new(members: &[u64]) -> Self {
            let mut test = Self { relays: Relays::new(None), forgotten: Version::ZERO, now: START };
            test.place(members);
            test
        }

        fn place(&mut self, members: &[u64]) {
            let candidates: Vec<Candidate> =
                members.iter().map(|number| (node(*number), 1)).collect();
            let others =
                if candidates.is_empty() { vec![] } else { vec![("other".into(), candidates)] };
            self.relays.placed(self.now, others.into_iter().collect());
        }

        fn add(&mut self, keys: std::ops::Range<usize>, version: u64, bytes: usize) {
            for key in keys {
                let (hash, entry) = entry(key, version, bytes);
                self.relays.add(self.now, hash, &entry);
            }
        }

        /// What is sent by the time that the machine asks for: to whom, how many, and the batch's
        /// number.
        fn send(&mut self) -> Vec<(u64, Identity, Vec<Entry>)> {
            self.now = self.relays.deadline().unwrap_or(self.now).max(self.now);
            let mut actions = Vec::new();
            self.relays.handle_timers(
                self.now,
                |_, version| version <= self.forgotten,
                &mut actions,
            );
            let parts = |RelayAction::Send { batch, to, entries, .. }| (batch, to, entries);
            actions.into_iter().map(parts).collect()
        }
    }

    #[test]
    fn writes_go_together_and_wait_for_the_batch_before_unless_they_fill_one() {
        let mut test = Test::new(&[1, 2]);
        test.add(0..3, 1, 10);
        assert_eq!(test.relays.deadline(), Some(START + LINGER));
        let [(first, to, entries)] = &test.send()[..] else { panic!("one batch") };
        assert_eq!((*to, entries.len()), (node(1), 3));
        test.add(3..5, 1, 10);
        assert_eq!(
            test.relays.deadline(),
            Some(test.now + RELAY_ANSWERS_WITHIN),
            "two wait for the batch under way"
        );
        test.add(5..5 + MAX_WRITES, 1, 10);
        assert_eq!(
            test.send().iter().map(|(.., entries)| entries.len()).collect::<Vec<_>>(),
            [MAX_WRITES]
        );
        test.relays.relayed(*first, &[0, 1, 2], test.now);
        assert_eq!(test.send().len(), 0, "not full, and another is under way");
        assert_eq!(test.relays.waiting(), MAX_WRITES + 2);
    }

    #[test]
    fn of_a_key_only_the_newest_state_waits() {
        let mut test = Test::new(&[]);
        assert!(!test.relays.is_wanted(), "no member there yet");
        test.place(&[1]);
        test.place(&[]);
        test.add(0..1, 5, 10);
        test.add(0..1, 9, 30);
        test.add(0..1, 7, 20);
        assert_eq!(
            (test.relays.waiting(), test.relays.deadline()),
            (1, None),
            "it is kept while no member is there"
        );
        test.place(&[1]);
        let [(batch, _, entries)] = &test.send()[..] else { panic!("one batch") };
        assert_eq!(entries[0].version(), Version(9));
        // While it is under way another comes, and the batch comes to nothing.
        test.add(0..1, 11, 10);
        test.relays.failed(*batch, test.now);
        let [(batch, _, entries)] = &test.send()[..] else { panic!("one batch") };
        assert_eq!(entries.iter().map(Entry::version).collect::<Vec<_>>(), [Version(11)]);
        test.relays.relayed(*batch, &[0], test.now);
        assert_eq!((test.relays.waiting(), test.relays.deadline()), (0, None));
        assert!(
            test.relays
                .outboxes
                .values()
                .all(|outbox| outbox.bytes == 0 && outbox.latest.is_empty())
        );
    }

    #[test]
    fn what_a_relay_does_not_confirm_is_sent_again_and_another_takes_over_from_one_that_is_lost() {
        let mut test = Test::new(&[1, 2]);
        test.add(0..3, 1, 10);
        let (batch, ..) = test.send().remove(0);
        test.relays.relayed(batch, &[0, 2], test.now);
        let before = test.now;
        let (batch, to, entries) = test.send().remove(0);
        assert_eq!(
            (to, entries.len(), test.now),
            (node(2), 1, before + PAUSE),
            "another may reach more"
        );
        test.relays.failed(batch, test.now);
        let (batch, to, entries) = test.send().remove(0);
        assert_eq!((to, entries.len()), (node(1), 1), "after a pause, through another one");
        test.place(&[2]);
        test.relays.relayed(batch, &[0], test.now);
        assert_eq!(
            test.relays.waiting(),
            1,
            "what a relay says that is none any more does not count"
        );
        let (batch, to, _) = test.send().remove(0);
        assert_eq!(to, node(2));
        test.now = test.now + RELAY_ANSWERS_WITHIN;
        assert!(test.send().is_empty());
        let (again, ..) = test.send().remove(0);
        assert!(again > batch, "no answer is none, too");
    }

    /// Data center B is not reached, C is. After some tries B's batches go through C's relay, at
    /// once from then on; after a while, or when B's members change, B is tried directly again.
    #[test]
    fn a_data_center_out_of_reach_gets_its_batches_through_a_third_one() {
        let mut test = Test::new(&[]);
        let place = |test: &mut Test, of_b: u64| {
            let others = [("b".into(), vec![(node(of_b), 1)]), ("c".into(), vec![(node(5), 1)])];
            test.relays.placed(test.now, others.into_iter().collect());
        };
        /// Sends what is due: B is reached through node 5 only. Returns the ways to B.
        fn send(test: &mut Test) -> Vec<Option<Identity>> {
            test.now = test.relays.deadline().unwrap_or(test.now).max(test.now);
            let mut actions = Vec::new();
            test.relays.handle_timers(test.now, |_, _| false, &mut actions);
            let mut ways = Vec::new();
            for RelayAction::Send { batch, to, helper, entries } in actions {
                if to == node(5) || helper == Some(node(5)) {
                    let places: Vec<u16> = (0..entries.len() as u16).collect();
                    test.relays.relayed(batch, &places, test.now);
                } else {
                    test.relays.failed(batch, test.now);
                }
                ways.extend((to != node(5)).then_some(helper));
            }
            ways
        }
        place(&mut test, 1);
        test.add(0..3, 1, 10);
        let mut ways = Vec::new();
        while test.relays.waiting() > 0 {
            ways.extend(send(&mut test));
        }
        assert_eq!(ways, [None, None, None, Some(node(5))]);
        test.add(3..4, 1, 10);
        assert_eq!(send(&mut test), [Some(node(5))]);
        assert_eq!((test.relays.waiting(), test.relays.waiting_for_reachable()), (0, 0));
        // Another helper's word is needed when the one that is used is lost.
        test.add(4..5, 1, 10);
        test.now = test.now + HELPED_FOR;
        assert_eq!(send(&mut test), [None], "perhaps it is reached by now");
        place(&mut test, 2);
        assert_eq!(send(&mut test), [None], "another member might be");
    }

    /// Of four helpers, the fourth was never tried: each fourth try was a direct one. And of two
    /// members, each was tried through the same helper only.
    #[test]
    fn every_member_is_tried_through_every_helper_and_directly() {
        for (members, helpers) in [(1, 1), (1, 4), (2, 2), (2, 3), (3, 3), (4, 1), (4, 4)] {
            let mut test = Test::new(&[]);
            let of_b = (0..members).map(|number| (node(number), 1)).collect();
            let mut others = BTreeMap::from([("b".into(), of_b)]);
            for helper in 0..helpers {
                let name = format!("c{helper}");
                others.insert(name.as_str().into(), vec![(node(100 + helper), 1)]);
            }
            test.relays.placed(test.now, others);
            test.add(0..1, 1, 10);
            let mut ways = std::collections::BTreeSet::new();
            let mut tries = 0;
            while tries < u64::from(DIRECT_TRIES) + members * (helpers + 1) {
                test.now = test.relays.deadline().unwrap().max(test.now);
                let mut actions = Vec::new();
                test.relays.handle_timers(test.now, |_, _| false, &mut actions);
                for RelayAction::Send { batch, to, helper, .. } in actions {
                    if to.node.0 >= 100 {
                        test.relays.relayed(batch, &[0], test.now);
                    } else {
                        (_, tries) = (ways.insert((to, helper)), tries + 1);
                        test.relays.failed(batch, test.now);
                    }
                }
            }
            assert_eq!(
                ways.len() as u64,
                members * (helpers + 1),
                "{members}, {helpers}: {ways:?}"
            );
        }
    }

    #[test]
    fn a_helper_that_is_busy_is_asked_again() {
        let mut test = Test::new(&[1, 2]);
        test.add(0..3, 1, 10);
        let (batch, to, _) = test.send().remove(0);
        let before = test.now;
        test.relays.was_busy(batch, test.now);
        let (_, again, entries) = test.send().remove(0);
        assert_eq!((again, entries.len(), test.now), (to, 3, before + BUSY_PAUSE));
    }

    /// Data center B is reached through the hub only, C. The node of C that helped has more to do
    /// than it can, for ever. It was asked again and again, though others of C have time.
    #[test]
    fn a_helper_that_is_busy_for_ever_is_left_for_another_one() {
        for serves in [6, 7] {
            let mut test = Test::new(&[]);
            let of_c = (5..8).map(|number| (node(number), 1)).collect();
            let others = [("b".into(), vec![(node(1), 1)]), ("c".into(), of_c)];
            test.relays.placed(test.now, others.into_iter().collect());
            test.add(0..3, 1, 10);
            let (mut asked, start) = (Vec::new(), test.now);
            while test.relays.waiting() > 0 && test.now < start + Duration::from_secs(60) {
                test.now = test.relays.deadline().unwrap().max(test.now);
                let mut actions = Vec::new();
                test.relays.handle_timers(test.now, |_, _| false, &mut actions);
                for RelayAction::Send { batch, to, helper, entries } in actions {
                    asked.extend(helper.filter(|helper| asked.last() != Some(helper)));
                    let serving = helper.unwrap_or(to).node.0;
                    if to == node(1) && serving == 5 {
                        test.relays.was_busy(batch, test.now);
                    } else if to == node(1) && serving != serves {
                        test.relays.failed(batch, test.now);
                    } else {
                        let places: Vec<u16> = (0..entries.len() as u16).collect();
                        test.relays.relayed(batch, &places, test.now);
                    }
                }
            }
            assert_eq!(test.relays.waiting(), 0, "{serves}: {asked:?}");
            assert_eq!(asked.last(), Some(&node(serves)));
        }
    }

    #[test]
    fn what_is_too_much_is_left_to_comparison_the_oldest_first() {
        let mut test = Test::new(&[1]);
        test.relays.max_bytes = 10 * (1000 + 5 + OVERHEAD);
        test.place(&[]);
        test.add(0..25, 1, 1000);
        assert_eq!((test.relays.waiting(), test.relays.given_up()), (9, 16));
        test.place(&[1]);
        let (_, _, entries) = test.send().remove(0);
        assert_eq!(entries[0].key(), b"key-16");
    }

    #[test]
    fn what_was_purged_meanwhile_is_not_sent() {
        let mut test = Test::new(&[]);
        test.place(&[1]);
        test.add(0..3, 5, 10);
        test.add(3..5, 7, 10);
        test.forgotten = Version(5);
        let (batch, _, entries) = test.send().remove(0);
        assert_eq!((entries.len(), test.relays.given_up()), (2, 3));
        test.relays.relayed(batch, &[0, 1], test.now);
        test.add(0..1, 5, 10);
        assert!(test.send().is_empty());
        assert_eq!((test.relays.waiting(), test.relays.deadline()), (0, None));
        assert!(test.relays.outboxes.values().all(|outbox| outbox.bytes == 0));
    }

    #[test]
    fn a_large_value_is_a_batch_of_its_own() {
        let mut test = Test::new(&[1]);
        test.add(0..3, 1, CHUNK_BYTES);
        let sent = test.send();
        assert_eq!(sent.iter().map(|(.., entries)| entries.len()).collect::<Vec<_>>(), [1]);
        test.relays.relayed(sent[0].0, &[0], test.now);
        assert_eq!(test.send().len(), 1);
    }

    #[test]
    fn a_data_center_without_members_is_not_waited_for_for_ever() {
        let mut test = Test::new(&[1]);
        test.place(&[]);
        test.add(0..2, 1, 10);
        test.now = START + PATIENCE;
        test.place(&[]);
        assert!(!test.relays.is_wanted() && test.relays.given_up() == 2);
    }
}
