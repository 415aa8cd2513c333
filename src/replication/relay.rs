//! What was written here, for the other data centers. One machine for each core.
//!
//! Each data center has its own copies, lists and quorums. A write that was acknowledged in one is sent to each of the
//! others by its coordinator, in batches, through one member there, the *relay*. That writes it in its own data center
//! as a coordinator does, under the version that it has, and says so when W replicas there have applied it. Relays pass
//! nothing on to a third data center: the coordinator sends to each of them.
//!
//! ```text
//! coordinator ──[Relay: entries]──▶ relay ──[Write]──▶ W replicas there
//! coordinator ◀──[Relayed: which of them]──
//! ```
//!
//! What waits is kept until the relay has said so: over lost connections, dead relays (the next member is taken) and
//! while the data center cannot be reached. Of a key, only the newest state waits. There is a bound on the bytes that
//! wait ([`MOST_BYTES`]) and on how long a data center is waited for without any member ([`PATIENCE`]); beyond it, and
//! where a coordinator dies, anti-entropy between the data centers brings what is missing.
//!
//! A batch is sent when it is full, or [`LINGER`] after its first write while none is on its way: under load batches
//! grow with the round trip, so that few are needed however far the other data center is.

use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Instant;
use crate::entry::Entry;
use crate::types::{CoreId, Identity, KeyHash};
use crate::wire::frame::CHUNK_BYTES;

/// How long a write waits for others to go with it.
const LINGER: Duration = Duration::from_millis(2);

/// How many writes one batch has at the most; its bytes are limited as a chunk's are.
const MOST_WRITES: usize = 512;

/// How many batches are on their way to one core of a relay: full ones only, but for the first.
const MOST_OPEN: usize = 4;

/// How long the relay may take. It answers earlier, be it that it could not write.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// The pause after a batch that came to nothing, doubled each time.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How many bytes one core keeps for other data centers; no more than a sixteenth of its memory, where that is limited.
pub(crate) const MOST_BYTES: usize = 64 << 20;

/// What a write takes beside its bytes.
const OVERHEAD: usize = 64;

/// For how long writes are kept for a data center that has no member.
const PATIENCE: Duration = Duration::from_secs(3600);

/// A member of another data center that may relay, and how many cores it has.
pub(crate) type Candidate = (Identity, u16);

#[derive(Debug, PartialEq)]
pub(crate) enum RelayAction {
    /// Send these to `to`, all of which belong to one of its cores; [`Relays::relayed`] or [`Relays::failed`] is told with
    /// this number.
    Send { batch: u64, to: Identity, entries: Vec<Entry> },
}

pub(crate) struct Relays {
    outboxes: BTreeMap<Arc<str>, Outbox>,
    most_bytes: usize,
    next_item: u64,
    next_batch: u64,
    given_up: u64,
}

/// What waits for one data center.
#[derive(Default)]
struct Outbox {
    /// Who may relay, in this node's order; the first of them does. Empty while none is a member.
    candidates: Vec<Candidate>,
    /// Since when that is so.
    unreachable_since: Option<Instant>,
    /// By the relay's core.
    lanes: BTreeMap<CoreId, Lane>,
    /// Which of the items that wait is the key's.
    latest: BTreeMap<KeyHash, u64>,
    open: BTreeMap<u64, Batch>,
    bytes: usize,
    /// How many batches in a row came to nothing, and until when none is sent.
    failures: u32,
    paused_until: Option<Instant>,
    /// Whether it was said that writes were given up, since the last time that nothing waited.
    has_overflowed: bool,
}

/// What is for one core of the relay.
#[derive(Default)]
struct Lane {
    /// By number, which is the order in which they came.
    waiting: BTreeMap<u64, Item>,
    open: usize,
    /// When the first of those that wait is sent, full batch or not.
    due: Option<Instant>,
}

struct Item {
    hash: KeyHash,
    entry: Entry,
}

struct Batch {
    core: CoreId,
    items: Vec<(u64, Item)>,
    until: Instant,
}

impl Relays {
    pub(crate) fn new(memory: Option<usize>) -> Self {
        let most_bytes = memory.map_or(MOST_BYTES, |memory| MOST_BYTES.min(memory / 16));
        Self { outboxes: BTreeMap::new(), most_bytes, next_item: 0, next_batch: 0, given_up: 0 }
    }

    /// Whether there is another data center to write to.
    pub(crate) fn is_wanted(&self) -> bool {
        !self.outboxes.is_empty()
    }

    /// The data centers that have members, with those that may relay there, in this node's order.
    pub(crate) fn placed(&mut self, now: Instant, mut others: BTreeMap<Arc<str>, Vec<Candidate>>) {
        for name in others.keys() {
            self.outboxes.entry(name.clone()).or_default();
        }
        self.outboxes.retain(|name, outbox| {
            outbox.take_candidates(now, others.remove(name).unwrap_or_default());
            let is_kept = outbox.unreachable_since.is_none_or(|since| now < since + PATIENCE);
            if !is_kept {
                self.given_up += outbox.len() as u64;
                log::warn!(
                    "data center {name:?} has had no member for an hour: no more writes are kept for it"
                );
            }
            is_kept
        });
    }

    /// A write was acknowledged here: the others are to have it.
    pub(crate) fn add(&mut self, now: Instant, hash: KeyHash, entry: &Entry) {
        for (name, outbox) in &mut self.outboxes {
            self.next_item += 1;
            outbox.put(now, self.next_item, Item { hash, entry: entry.clone() });
            while outbox.bytes > self.most_bytes && outbox.give_up_oldest() {
                self.given_up += 1;
                if !mem::replace(&mut outbox.has_overflowed, true) {
                    log::warn!(
                        "more is written than data center {name:?} takes: it gets the rest by comparison"
                    );
                }
            }
        }
    }

    /// The relay has these of the batch written in its data center, by their places.
    pub(crate) fn relayed(&mut self, number: u64, places: &[u16], now: Instant) {
        let found = self.outboxes.values_mut().find_map(|outbox| Some((outbox.close(number)?, outbox)));
        let Some((batch, outbox)) = found else { return };
        let is_all = places.len() == batch.items.len();
        for (place, (number, item)) in batch.items.into_iter().enumerate() {
            if places.binary_search(&(place as u16)).is_err() {
                outbox.put_back(number, item);
            }
        }
        if is_all {
            (outbox.failures, outbox.paused_until) = (0, None);
            outbox.has_overflowed &= outbox.len() > 0;
        } else {
            outbox.pause(now);
        }
    }

    /// The batch was not sent, or has no answer: another member relays it.
    pub(crate) fn failed(&mut self, number: u64, now: Instant) {
        let found = self.outboxes.values_mut().find_map(|outbox| Some((outbox.close(number)?, outbox)));
        let Some((batch, outbox)) = found else { return };
        batch.items.into_iter().for_each(|(number, item)| outbox.put_back(number, item));
        // With the first one of those that were under way.
        if outbox.paused_until.is_none_or(|until| until <= now) {
            outbox.take_next_candidate();
            outbox.pause(now);
        }
    }

    /// When [`resume`](Self::resume) wants to be called.
    pub(crate) fn wake(&self) -> Option<Instant> {
        self.outboxes.values().filter_map(Outbox::wake).min()
    }

    /// Sends what is due.
    pub(crate) fn resume(&mut self, now: Instant, actions: &mut Vec<RelayAction>) {
        let late = self.outboxes.values().flat_map(|outbox| &outbox.open);
        let late: Vec<u64> =
            late.filter(|(_, batch)| batch.until <= now).map(|(number, _)| *number).collect();
        late.into_iter().for_each(|number| self.failed(number, now));
        for outbox in self.outboxes.values_mut() {
            outbox.send(now, &mut self.next_batch, actions);
        }
    }

    /// How many writes another data center has not confirmed.
    pub(crate) fn waiting(&self) -> usize {
        self.outboxes.values().map(Outbox::len).sum()
    }

    /// How many writes were left to anti-entropy.
    pub(crate) fn given_up(&self) -> u64 {
        self.given_up
    }
}

impl Outbox {
    fn len(&self) -> usize {
        let open = self.open.values().map(|batch| batch.items.len()).sum::<usize>();
        open + self.lanes.values().map(|lane| lane.waiting.len()).sum::<usize>()
    }

    /// Which of the relay's cores a key belongs to.
    fn core_of(&self, hash: KeyHash) -> CoreId {
        hash.partition().core(self.candidates.first().map_or(1, |(_, cores)| *cores))
    }

    fn take_candidates(&mut self, now: Instant, candidates: Vec<Candidate>) {
        let old = self.candidates.first().copied();
        if candidates.is_empty() {
            self.unreachable_since.get_or_insert(now);
        } else {
            self.unreachable_since = None;
        }
        self.candidates = candidates;
        // The relay stays while it can.
        if let Some(at) = old.and_then(|old| self.candidates.iter().position(|other| *other == old)) {
            self.candidates.rotate_left(at);
        }
        if self.candidates.first().copied() != old {
            (self.failures, self.paused_until) = (0, None);
            self.change_relay();
        }
    }

    fn take_next_candidate(&mut self) {
        if self.candidates.len() > 1 {
            self.candidates.rotate_left(1);
            self.change_relay();
        }
    }

    /// Another member relays from now on: what an earlier one has not confirmed is sent to it.
    fn change_relay(&mut self) {
        let lanes = mem::take(&mut self.lanes);
        let open = mem::take(&mut self.open).into_values().flat_map(|batch| batch.items);
        let waiting = lanes.into_values().flat_map(|lane| lane.waiting).collect::<Vec<_>>();
        for (number, item) in waiting {
            let core = self.core_of(item.hash);
            self.lanes.entry(core).or_default().waiting.insert(number, item);
        }
        open.for_each(|(number, item)| self.put_back(number, item));
        for lane in self.lanes.values_mut() {
            lane.due = Some(Instant::default());
        }
    }

    /// An item that is new.
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
        self.bytes += item.entry.bytes() + OVERHEAD;
        self.latest.insert(item.hash, number);
        lane.waiting.insert(number, item);
        lane.due.get_or_insert(now + LINGER);
    }

    /// An item that was sent, and is to be sent again unless there is a newer one of its key.
    fn put_back(&mut self, number: u64, item: Item) {
        let core = self.core_of(item.hash);
        let lane = self.lanes.entry(core).or_default();
        let latest = self.latest.get(&item.hash).and_then(|latest| lane.waiting.get(latest));
        let of_key = latest.filter(|waiting| waiting.entry.key() == item.entry.key());
        lane.due = Some(Instant::default());
        if of_key.is_some_and(|waiting| !item.entry.wins_over(&waiting.entry)) {
            self.bytes -= item.entry.bytes() + OVERHEAD;
        } else {
            self.latest.entry(item.hash).or_insert(number);
            lane.waiting.insert(number, item);
        }
    }

    fn forget(&mut self, number: u64, item: &Item) {
        self.bytes -= item.entry.bytes() + OVERHEAD;
        if self.latest.get(&item.hash) == Some(&number) {
            self.latest.remove(&item.hash);
        }
    }

    /// Whether there was one. What is on its way is not taken back.
    fn give_up_oldest(&mut self) -> bool {
        let lanes = self.lanes.values_mut().filter(|lane| !lane.waiting.is_empty());
        let oldest = lanes.min_by_key(|lane| lane.waiting.first_key_value().map(|(number, _)| *number));
        let Some((number, item)) = oldest.and_then(|lane| lane.waiting.pop_first()) else { return false };
        self.forget(number, &item);
        true
    }

    /// Ends a batch. Its items have no key of their own in `latest` any more, and count as bytes until they are confirmed.
    fn close(&mut self, number: u64) -> Option<Batch> {
        let batch = self.open.remove(&number)?;
        if let Some(lane) = self.lanes.get_mut(&batch.core) {
            lane.open -= 1;
        }
        Some(batch)
    }

    fn pause(&mut self, now: Instant) {
        let pause = PAUSE.saturating_mul(1 << self.failures.min(10)).min(LONGEST_PAUSE);
        self.failures += 1;
        self.paused_until = Some(now + pause);
    }

    fn wake(&self) -> Option<Instant> {
        let until = self.open.values().map(|batch| batch.until).min();
        let due = self.lanes.values().filter_map(Lane::due).min().filter(|_| !self.candidates.is_empty());
        let due = due.map(|due| self.paused_until.map_or(due, |until| due.max(until)));
        until.into_iter().chain(due).min()
    }

    fn send(&mut self, now: Instant, next_batch: &mut u64, actions: &mut Vec<RelayAction>) {
        let Some(&(to, _)) = self.candidates.first() else { return };
        if self.paused_until.is_some_and(|until| until > now) {
            return;
        }
        for (&core, lane) in &mut self.lanes {
            while lane.due().is_some_and(|due| due <= now) {
                *next_batch += 1;
                let items = lane.take_batch();
                for (number, item) in &items {
                    if self.latest.get(&item.hash) == Some(number) {
                        self.latest.remove(&item.hash);
                    }
                }
                let entries = items.iter().map(|(_, item)| item.entry.clone()).collect();
                actions.push(RelayAction::Send { batch: *next_batch, to, entries });
                self.open.insert(*next_batch, Batch { core, items, until: now + ANSWER_WITHIN });
                lane.open += 1;
            }
        }
    }
}

impl Lane {
    /// When the next batch is to be sent, for all that this lane knows.
    fn due(&self) -> Option<Instant> {
        let is_full = self.waiting.len() >= MOST_WRITES;
        match self.open {
            _ if self.waiting.is_empty() => None,
            0 if is_full => Some(Instant::default()),
            0 => self.due,
            1..MOST_OPEN if is_full => Some(Instant::default()),
            _ => None,
        }
    }

    fn take_batch(&mut self) -> Vec<(u64, Item)> {
        let (mut items, mut bytes) = (Vec::new(), 0);
        while items.len() < MOST_WRITES
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
