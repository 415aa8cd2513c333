//! Deadlines in a hierarchical timing wheel (Varghese & Lauck, "Hashed and Hierarchical Timing
//! Wheels", SOSP '87): setting, moving and taking back a deadline cost the same few steps however
//! many there are.
//!
//! Eight levels of 64 slots. A slot of level `l` spans 64^l milliseconds; a deadline is kept at the
//! level of the highest group of six bits in which it differs from the time the wheel has reached,
//! in the slot that this group numbers. When the wheel reaches a slot, each of its nodes is looked
//! at once: it fires or it goes on to a lower level, so that a node is looked at no more than eight
//! times.
//!
//! A node can be removed exactly and at once: no line of a deadline that was taken back stays
//! behind.

/// A deadline's node in a [`Wheel`]: valid until it fires or is removed, used again after that.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct TimerId(pub(super) u32);

impl TimerId {
    /// No node; every operation ignores it.
    pub(super) const NONE: Self = Self(u32::MAX);
}

/// A node that came due. It has left the wheel and its id is free.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Due {
    pub(super) id: TimerId,
    pub(super) hash: u64,
    pub(super) at_ms: u64,
}

/// Deadlines in milliseconds of wall time, each with the hash of its key.
///
/// A slot is a ring of nodes, doubly linked, that its head leads into. Which slot a node is in
/// follows from its deadline and `elapsed_ms`, so nodes do not record it; the exception is the ring
/// of pending nodes.
pub(super) struct Wheel {
    slab: Slab,
    /// The first node of each slot, level by level, and then that of the pending ones.
    heads: Box<[TimerId]>,
    /// For each level, which of its slots have nodes.
    occupied: [u64; LEVELS],
    /// What the wheel has reached. Every node in a slot is due later than this.
    elapsed_ms: u64,
    /// No pending node is due before this; `u64::MAX` when there is none.
    pending_from_ms: u64,
}

const LEVELS: usize = 8;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// The list of the nodes that are to be looked at next: those of the slot that was reached, and
/// those that were due already when they were set.
const PENDING: usize = LEVELS * SLOTS;
/// The last moment that there is, in the year 10889. A later deadline is taken for this one.
pub(super) const MAX_MS: u64 = (1 << 48) - 1;

const _: () = assert!(LEVELS as u32 * SLOT_BITS == 48);

impl Wheel {
    pub(super) fn new() -> Self {
        let heads = vec![TimerId::NONE; PENDING + 1].into_boxed_slice();
        Self {
            slab: Slab::default(),
            heads,
            occupied: [0; LEVELS],
            elapsed_ms: 0,
            pending_from_ms: u64::MAX,
        }
    }

    /// Sets a deadline; one that has passed is due at once. Returns [`TimerId::NONE`], and sets
    /// nothing, when there are as many as ids can number: 2^32 - 1.
    pub(super) fn insert(&mut self, at_ms: u64, hash: u64) -> TimerId {
        let at_ms = at_ms.min(MAX_MS);
        let id = self.slab.insert(hash, at_ms);
        if id != TimerId::NONE {
            self.link(id, at_ms);
        }
        id
    }

    /// Changes when `id` is due. Ignores an id that is free.
    pub(super) fn move_to(&mut self, id: TimerId, at_ms: u64) {
        if self.slab.holds(id) {
            let at_ms = at_ms.min(MAX_MS);
            self.unlink(id);
            self.slab.node_mut(id).at_ms = at_ms;
            self.link(id, at_ms);
        }
    }

    /// Takes a deadline back. Ignores an id that is free.
    pub(super) fn remove(&mut self, id: TimerId) {
        if self.slab.holds(id) {
            self.unlink(id);
            self.slab.remove(id);
        }
    }

    /// When to call [`Wheel::pop_due`] next: never later than the earliest deadline. It may be
    /// earlier, by less than the span of that deadline's slot; a call then brings the deadline to a
    /// lower level.
    pub(super) fn next_due_ms(&self) -> Option<u64> {
        let pending = (self.heads[PENDING] != TimerId::NONE).then_some(self.pending_from_ms);
        let slot = self.next_slot().map(|(_, start_ms)| start_ms);
        [pending, slot].into_iter().flatten().min()
    }

    /// Removes and returns a node that is due by `now_ms`; of several, in no order to rely on.
    /// `None` when no other is due, or when `budget` is used up: each node that is looked at takes
    /// one, fired or not.
    ///
    /// Time that goes back turns the wheel back: what is not due any more does not fire.
    pub(super) fn pop_due(&mut self, now_ms: u64, budget: &mut usize) -> Option<Due> {
        let now_ms = now_ms.min(MAX_MS);
        if now_ms < self.elapsed_ms {
            self.turn_back(now_ms);
        }
        while *budget > 0 {
            let id = self.heads[PENDING];
            if id == TimerId::NONE {
                if self.advance(now_ms) {
                    continue;
                }
                return None;
            }
            *budget -= 1;
            self.unlink(id);
            let Node { hash, at_ms, .. } = *self.slab.node(id);
            if at_ms <= now_ms {
                self.slab.remove(id);
                return Some(Due { id, hash, at_ms });
            }
            self.link(id, at_ms);
        }
        None
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.slab.len
    }

    /// The memory of its allocations.
    pub(super) fn bytes(&self) -> usize {
        size_of_val::<[TimerId]>(&self.heads) + self.slab.bytes()
    }

    /// Moves on to the next slot that has nodes, which become the pending ones, or else to
    /// `now_ms`. Returns whether there was such a slot. Nothing may be pending.
    fn advance(&mut self, now_ms: u64) -> bool {
        match self.next_slot() {
            Some((slot, start_ms)) if start_ms <= now_ms => {
                self.elapsed_ms = start_ms;
                self.pending_from_ms = start_ms;
                self.splice(slot, PENDING);
                true
            }
            _ => {
                self.elapsed_ms = now_ms;
                false
            }
        }
    }

    /// Goes back to `to_ms`. Of the levels, the one at which the two times differ most and those
    /// above it stay as they are. What is below it is all in the span of one slot now, the one the
    /// wheel stood at, which has no nodes of its own.
    fn turn_back(&mut self, to_ms: u64) {
        let level = level(self.elapsed_ms ^ to_ms);
        let into = slot(level, self.elapsed_ms);
        for lower in 0..level {
            while self.occupied[lower] != 0 {
                self.splice(lower * SLOTS + self.occupied[lower].trailing_zeros() as usize, into);
            }
        }
        self.elapsed_ms = to_ms;
    }

    /// The first slot that has nodes, and where its span starts. All nodes of a level are due
    /// before those of the levels above.
    fn next_slot(&self) -> Option<(usize, u64)> {
        let level = self.occupied.iter().position(|&slots| slots != 0)?;
        let group = self.occupied[level].trailing_zeros();
        let shift = level as u32 * SLOT_BITS;
        let above = self.elapsed_ms >> (shift + SLOT_BITS) << SLOT_BITS;
        Some((level * SLOTS + group as usize, (above | u64::from(group)) << shift))
    }

    /// The list that a node with this deadline belongs to.
    fn list(&self, at_ms: u64) -> usize {
        if at_ms <= self.elapsed_ms { PENDING } else { slot(level(at_ms ^ self.elapsed_ms), at_ms) }
    }

    /// Puts a node that is in no list at the back of the one it belongs to.
    fn link(&mut self, id: TimerId, at_ms: u64) {
        let list = self.list(at_ms);
        if list == PENDING {
            self.pending_from_ms = self.pending_from_ms.min(at_ms);
        }
        let node = self.slab.node_mut(id);
        (node.prev, node.next) = (id, id);
        self.append(list, id);
    }

    /// Takes a node out of the list it is in: a slot, or the pending ones with any deadline.
    fn unlink(&mut self, id: TimerId) {
        let Node { at_ms, prev, next, .. } = *self.slab.node(id);
        self.slab.join(prev, next);
        for list in [PENDING, self.list(at_ms)] {
            if self.heads[list] == id {
                self.set_head(list, if next == id { TimerId::NONE } else { next });
            }
        }
    }

    /// Moves all nodes of one list to the back of another.
    fn splice(&mut self, from: usize, into: usize) {
        let ring = self.heads[from];
        self.set_head(from, TimerId::NONE);
        self.append(into, ring);
    }

    /// Puts a whole ring of nodes at the back of a list.
    fn append(&mut self, list: usize, ring: TimerId) {
        let head = self.heads[list];
        if head == TimerId::NONE {
            return self.set_head(list, ring);
        }
        let (tail, ring_tail) = (self.slab.node(head).prev, self.slab.node(ring).prev);
        self.slab.join(tail, ring);
        self.slab.join(ring_tail, head);
    }

    fn set_head(&mut self, list: usize, head: TimerId) {
        self.heads[list] = head;
        let is_empty = head == TimerId::NONE;
        if list == PENDING {
            if is_empty {
                self.pending_from_ms = u64::MAX;
            }
            return;
        }
        let bit = 1 << (list % SLOTS);
        let occupied = &mut self.occupied[list / SLOTS];
        *occupied = if is_empty { *occupied & !bit } else { *occupied | bit };
    }
}

/// The level of two times that differ in these bits, which are not all zero.
fn level(differing: u64) -> usize {
    (differing.ilog2() / SLOT_BITS) as usize
}

/// The slot of that level in whose span the time is, in one turn of the level.
fn slot(level: usize, at_ms: u64) -> usize {
    level * SLOTS + (at_ms >> (level as u32 * SLOT_BITS)) as usize % SLOTS
}

#[derive(Clone, Copy)]
struct Node {
    hash: u64,
    /// When it is due; [`FREE`] when the node is not in use.
    at_ms: u64,
    prev: TimerId,
    /// The next node of its list, or the next free one.
    next: TimerId,
}

/// The deadline of a node that is free.
const FREE: u64 = u64::MAX;
const CHUNK: usize = 512;
const _: () = assert!(size_of::<Node>() == 24);

/// The nodes, in chunks that never move. They all go when the last node does.
struct Slab {
    chunks: Vec<Box<[Node; CHUNK]>>,
    /// The first of the nodes that were used and are free.
    free: TimerId,
    /// How many nodes have been used: all those behind are free as well.
    used: u32,
    len: usize,
}

impl Default for Slab {
    fn default() -> Self {
        Self { chunks: Vec::new(), free: TimerId::NONE, used: 0, len: 0 }
    }
}

impl Slab {
    fn insert(&mut self, hash: u64, at_ms: u64) -> TimerId {
        let id = self.take_free();
        if id != TimerId::NONE {
            *self.node_mut(id) = Node { hash, at_ms, prev: id, next: id };
            self.len += 1;
        }
        id
    }

    fn take_free(&mut self) -> TimerId {
        if self.free != TimerId::NONE {
            let id = self.free;
            self.free = self.node(id).next;
            return id;
        }
        let id = TimerId(self.used);
        if id == TimerId::NONE {
            return id;
        }
        if self.used as usize == self.chunks.len() * CHUNK {
            let node = Node { hash: 0, at_ms: FREE, prev: TimerId::NONE, next: TimerId::NONE };
            self.chunks.push(Box::new([node; CHUNK]));
        }
        self.used += 1;
        id
    }

    /// Frees a node that is in use and in no list.
    fn remove(&mut self, id: TimerId) {
        self.len -= 1;
        if self.len == 0 {
            *self = Self::default();
            return;
        }
        let next = std::mem::replace(&mut self.free, id);
        let node = self.node_mut(id);
        node.at_ms = FREE;
        node.next = next;
    }

    /// Whether the node is in use.
    fn holds(&self, id: TimerId) -> bool {
        let chunk = self.chunks.get(id.0 as usize / CHUNK);
        chunk.is_some_and(|chunk| chunk[id.0 as usize % CHUNK].at_ms != FREE)
    }

    fn node(&self, id: TimerId) -> &Node {
        &self.chunks[id.0 as usize / CHUNK][id.0 as usize % CHUNK]
    }

    fn node_mut(&mut self, id: TimerId) -> &mut Node {
        &mut self.chunks[id.0 as usize / CHUNK][id.0 as usize % CHUNK]
    }

    fn join(&mut self, prev: TimerId, next: TimerId) {
        self.node_mut(prev).next = next;
        self.node_mut(next).prev = prev;
    }

    fn bytes(&self) -> usize {
        self.chunks.capacity() * size_of::<Box<[Node; CHUNK]>>()
            + self.chunks.len() * size_of::<[Node; CHUNK]>()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u64),
        Move(Index, u64),
        Remove(Index),
        /// An id that may be free, or never was given out.
        RemoveAny(u32),
        MoveAny(u32, u64),
        Pop(u64, usize),
    }

    /// Times near to each other, far apart, and on both sides of where a level begins.
    fn a_time() -> impl Strategy<Value = u64> {
        let border =
            (1u32..8, 0u64..4).prop_map(|(level, off)| (1 << (level * SLOT_BITS)) + off - 2);
        prop_oneof![
            3 => 0u64..200,
            2 => 0u64..20_000,
            1 => 0u64..1 << 30,
            1 => border,
            1 => 0..=MAX_MS,
        ]
    }

    fn a_step() -> impl Strategy<Value = Step> {
        let any_id = prop_oneof![4 => 0u32..40, 1 => any::<u32>(), 1 => Just(u32::MAX)];
        prop_oneof![
            6 => a_time().prop_map(Step::Insert),
            2 => (any::<Index>(), a_time()).prop_map(|(at, to)| Step::Move(at, to)),
            2 => any::<Index>().prop_map(Step::Remove),
            1 => any_id.clone().prop_map(Step::RemoveAny),
            1 => (any_id, a_time()).prop_map(|(id, to)| Step::MoveAny(id, to)),
            4 => (a_time(), prop_oneof![0usize..6, Just(1000)])
                .prop_map(|(now, n)| Step::Pop(now, n)),
        ]
    }

    /// What is set: by deadline, and by id with the hash.
    #[derive(Default)]
    struct Model {
        order: BTreeSet<(u64, TimerId)>,
        nodes: BTreeMap<TimerId, (u64, u64)>,
    }

    impl Model {
        fn insert(&mut self, id: TimerId, at_ms: u64, hash: u64) {
            assert!(
                self.nodes.insert(id, (at_ms, hash)).is_none(),
                "an id in use was given out again"
            );
            self.order.insert((at_ms, id));
        }

        fn remove(&mut self, id: TimerId) -> Option<(u64, u64)> {
            let (at_ms, hash) = self.nodes.remove(&id)?;
            self.order.remove(&(at_ms, id));
            Some((at_ms, hash))
        }

        fn move_to(&mut self, id: TimerId, at_ms: u64) {
            if let Some((_, hash)) = self.remove(id) {
                self.insert(id, at_ms, hash);
            }
        }

        fn pick(&self, at: Index) -> Option<TimerId> {
            (!self.nodes.is_empty())
                .then(|| *self.nodes.keys().nth(at.index(self.nodes.len())).unwrap())
        }

        fn first_ms(&self) -> Option<u64> {
            self.order.first().map(|&(at_ms, _)| at_ms)
        }
    }

    fn pop(wheel: &mut Wheel, model: &mut Model, now_ms: u64, mut budget: usize) {
        while let Some(due) = wheel.pop_due(now_ms, &mut budget) {
            assert!(due.at_ms <= now_ms, "early");
            assert_eq!(model.remove(due.id), Some((due.at_ms, due.hash)));
        }
        if budget > 0 {
            assert!(model.first_ms().is_none_or(|first| first > now_ms), "lost or late");
            assert!(
                wheel.next_due_ms().is_none_or(|next| next > now_ms),
                "nothing to be woken for"
            );
        }
    }

    fn take(step: Step, wheel: &mut Wheel, model: &mut Model, hash: u64) {
        match step {
            Step::Insert(at_ms) => model.insert(wheel.insert(at_ms, hash), at_ms, hash),
            Step::Move(at, to_ms) => {
                if let Some(id) = model.pick(at) {
                    wheel.move_to(id, to_ms);
                    model.move_to(id, to_ms);
                }
            }
            Step::Remove(at) => {
                if let Some(id) = model.pick(at) {
                    wheel.remove(id);
                    model.remove(id);
                }
            }
            Step::RemoveAny(id) => {
                wheel.remove(TimerId(id));
                model.remove(TimerId(id));
            }
            Step::MoveAny(id, to_ms) => {
                wheel.move_to(TimerId(id), to_ms);
                model.move_to(TimerId(id), to_ms);
            }
            Step::Pop(now_ms, budget) => pop(wheel, model, now_ms, budget),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        /// Time goes to and fro here: each [`Step::Pop`] has a time of its own.
        #[test]
        fn a_wheel_is_an_ordered_set(steps in prop::collection::vec(a_step(), 0..120)) {
            let mut wheel = Wheel::new();
            let mut model = Model::default();
            let bytes = wheel.bytes();
            for (hash, step) in steps.into_iter().enumerate() {
                take(step, &mut wheel, &mut model, hash as u64);
                prop_assert_eq!(wheel.len(), model.nodes.len());
                prop_assert_eq!(wheel.next_due_ms().is_some(), wheel.len() > 0);
                prop_assert!(wheel.next_due_ms() <= model.first_ms());
                prop_assert!((wheel.bytes() == bytes) == (wheel.len() == 0));
            }
            pop(&mut wheel, &mut model, MAX_MS, usize::MAX);
            prop_assert!(model.nodes.is_empty());
            prop_assert_eq!((wheel.len(), wheel.bytes()), (0, bytes));
        }

        #[test]
        fn who_sleeps_until_the_next_bound_meets_every_deadline_on_its_millisecond(
            start in a_time(),
            after in prop::collection::vec(a_time(), 1..60),
        ) {
            let mut wheel = Wheel::new();
            prop_assert!(wheel.pop_due(start, &mut 1).is_none());
            let deadlines = after.iter().map(|after| (start + after).min(MAX_MS));
            let mut deadlines: Vec<u64> = deadlines.collect();
            for at_ms in &deadlines {
                wheel.insert(*at_ms, 0);
            }
            let most = deadlines.len() * LEVELS;
            let mut budget = most;
            let mut fired = Vec::new();
            let mut wakes = 0;
            while let Some(now_ms) = wheel.next_due_ms() {
                wakes += 1;
                while let Some(due) = wheel.pop_due(now_ms, &mut budget) {
                    prop_assert_eq!(due.at_ms, now_ms);
                    fired.push(due.at_ms);
                }
                prop_assert!(wakes <= most);
            }
            deadlines.sort_unstable();
            prop_assert_eq!(fired, deadlines);
        }
    }

    #[test]
    fn what_has_passed_is_due_at_once_and_what_is_beyond_all_time_at_its_end() {
        let mut wheel = Wheel::new();
        assert_eq!(wheel.pop_due(1000, &mut 10), None);
        let past = wheel.insert(10, 1);
        assert_eq!(wheel.next_due_ms(), Some(10));
        assert_eq!(wheel.pop_due(1000, &mut 1), Some(Due { id: past, hash: 1, at_ms: 10 }));
        wheel.insert(u64::MAX, 2);
        assert_eq!(wheel.pop_due(MAX_MS - 1, &mut 100), None);
        assert_eq!(wheel.pop_due(u64::MAX, &mut 100).map(|due| due.hash), Some(2));
    }

    #[test]
    fn a_clock_that_was_set_back_neither_fires_early_nor_spins() {
        let mut wheel = Wheel::new();
        assert_eq!(wheel.pop_due(5_000_000, &mut 10), None);
        wheel.insert(4_000_000, 1);
        wheel.insert(6_000_000, 2);
        assert_eq!(wheel.pop_due(3_000_000, &mut 10), None);
        assert!(wheel.next_due_ms().is_some_and(|next| next > 3_000_000));
        assert_eq!(wheel.pop_due(4_000_000, &mut 20).map(|due| due.hash), Some(1));
        assert_eq!(wheel.pop_due(6_000_000, &mut 20).map(|due| due.hash), Some(2));
    }

    #[test]
    fn nodes_are_used_again_before_the_wheel_grows() {
        let mut wheel = Wheel::new();
        let ids: Vec<_> = (0..2 * CHUNK as u64).map(|n| wheel.insert(n * n * n, n)).collect();
        let bytes = wheel.bytes();
        assert!(bytes > 2 * CHUNK * size_of::<Node>());
        ids[1..].iter().for_each(|&id| wheel.remove(id));
        assert_eq!((wheel.len(), wheel.bytes()), (1, bytes));
        for n in 1..2 * CHUNK as u64 {
            wheel.insert(n, n);
        }
        assert_eq!((wheel.len(), wheel.bytes()), (2 * CHUNK, bytes));
    }

    #[test]
    fn an_empty_budget_does_nothing() {
        let mut wheel = Wheel::new();
        wheel.insert(1, 1);
        assert_eq!(wheel.pop_due(1, &mut 0), None);
        assert_eq!(wheel.len(), 1);
    }
}
