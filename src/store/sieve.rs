//! The order of eviction: SIEVE (Zhang et al., "SIEVE is Simpler than LRU", NSDI '24).
//!
//! SIEVE keeps keys in the order they came, in one list, and a hand that goes from the oldest to
//! the newest and then round again. The hand evicts the first key it meets that was not visited
//! since it last came by, and takes the visited bit off those that were; it moves nothing.
//!
//! Here the list is cut at the hand into two queues: `behind` it, the keys that it passed, and
//! `ahead` of it, the keys it has yet to meet, which are all newer. The hand takes the front of
//! `ahead`; a key that it spares goes to the back of `behind`, so both stay in the order the keys
//! came; a new key enters at the back of `ahead`; and when `ahead` runs out the two change places,
//! which is the hand going round. So this is SIEVE exactly, with queues for the list, and without a
//! pointer for each key.
//!
//! A deleted key's line stays in its place until the hand comes to it and finds it stale.

use std::collections::VecDeque;

/// A key's line in the queue: 57 bits of its hash, and the generation of the key at this hash.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Line(u64);

const GENERATION_BITS: u32 = 7;
const GENERATION_MASK: u64 = (1 << GENERATION_BITS) - 1;

impl Line {
    /// Makes a line with the low seven bits of `generation`: they tell the line of a key that was
    /// deleted and came again from the line that it left behind. If they repeat while that line is
    /// there, the key can be evicted by either of its lines, and the other is stale then.
    pub(super) fn new(hash: u64, generation: u8) -> Self {
        Self(hash & !GENERATION_MASK | u64::from(generation) & GENERATION_MASK)
    }

    /// Whether this may be the line of a key with this hash: the low seven bits are not known.
    pub(super) fn matches_hash(self, hash: u64) -> bool {
        (self.0 ^ hash) >> GENERATION_BITS == 0
    }

    /// The hash with its low seven bits zero.
    pub(super) fn hash_bits(self) -> u64 {
        self.0 & !GENERATION_MASK
    }

    /// The key's generation, which is less than 128.
    pub(super) fn generation(self) -> u8 {
        (self.0 & GENERATION_MASK) as u8
    }
}

/// What is to become of a line that the hand has come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// Its key is gone, or has a newer line.
    Stale,
    /// Its key was visited (the judge takes the bit off) or cannot go.
    Keep,
    /// Its key goes.
    Evict,
}

/// The lines of a store's keys, in the order of SIEVE.
#[derive(Default)]
pub(super) struct Sieve {
    ahead: Fifo,
    behind: Fifo,
}

impl Sieve {
    /// Enters a new key.
    pub(super) fn push(&mut self, hash: u64, generation: u8) {
        self.ahead.push(Line::new(hash, generation));
    }

    /// Moves the hand on until `judge` has a line evicted, which is dropped as stale ones are.
    /// Returns false when that did not come about in one full round, or in `steps`, of which each
    /// line takes one.
    ///
    /// When every key was visited, the first round finds none and the next one evicts.
    pub(super) fn hand(
        &mut self,
        mut judge: impl FnMut(Line) -> Verdict,
        steps: &mut usize,
    ) -> bool {
        for _ in 0..self.len() {
            if *steps == 0 {
                return false;
            }
            *steps -= 1;
            if self.step(&mut judge) == Some(Verdict::Evict) {
                return true;
            }
        }
        false
    }

    /// Moves the hand on over up to `steps` lines, but no more than one full round, only to drop
    /// the stale ones: for a store that deletes much and evicts nothing. Returns how many it
    /// dropped.
    pub(super) fn compact(
        &mut self,
        mut is_stale: impl FnMut(Line) -> bool,
        steps: usize,
    ) -> usize {
        let before = self.len();
        for _ in 0..before.min(steps) {
            self.step(&mut |line| if is_stale(line) { Verdict::Stale } else { Verdict::Keep });
        }
        before - self.len()
    }

    /// Has the hand take one line. It goes round at once when that was the newest: a key that comes
    /// after is met at the end of the new round.
    fn step(&mut self, judge: &mut impl FnMut(Line) -> Verdict) -> Option<Verdict> {
        let line = self.ahead.pop()?;
        let verdict = judge(line);
        if verdict == Verdict::Keep {
            self.behind.push(line);
        }
        if self.ahead.len == 0 {
            std::mem::swap(&mut self.ahead, &mut self.behind);
        }
        Some(verdict)
    }

    /// How many lines there are, stale ones among them.
    pub(super) fn len(&self) -> usize {
        self.ahead.len + self.behind.len
    }

    /// The memory of its allocations.
    pub(super) fn bytes(&self) -> usize {
        self.ahead.bytes() + self.behind.bytes()
    }
}

const CHUNK: usize = 512;

/// A queue in chunks that never move and that go when they have been read.
#[derive(Default)]
struct Fifo {
    chunks: VecDeque<Box<[u64; CHUNK]>>,
    /// The index of the front in the first chunk.
    front: usize,
    len: usize,
}

impl Fifo {
    fn push(&mut self, line: Line) {
        let at = self.front + self.len;
        if at == self.chunks.len() * CHUNK {
            self.chunks.push_back(Box::new([0; CHUNK]));
        }
        self.chunks[at / CHUNK][at % CHUNK] = line.0;
        self.len += 1;
    }

    fn pop(&mut self) -> Option<Line> {
        if self.len == 0 {
            return None;
        }
        let line = Line(self.chunks[0][self.front]);
        self.len -= 1;
        self.front += 1;
        if self.len == 0 {
            *self = Self::default();
        } else if self.front == CHUNK {
            self.chunks.pop_front();
            self.front = 0;
        }
        Some(line)
    }

    fn bytes(&self) -> usize {
        self.chunks.capacity() * size_of::<Box<[u64; CHUNK]>>()
            + self.chunks.len() * size_of::<[u64; CHUNK]>()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// SIEVE as its paper has it: objects from the oldest to the newest, each visited or not, and a
    /// hand that is at an object or, before the oldest, at none. A deleted object keeps its place
    /// until the hand comes, and is no victim.
    #[derive(Default)]
    struct Model {
        objects: Vec<Object>,
        hand: Option<usize>,
    }

    struct Object {
        key: u64,
        is_visited: bool,
        is_deleted: bool,
    }

    impl Model {
        fn find(&mut self, key: u64) -> Option<&mut Object> {
            self.objects.iter_mut().find(|object| object.key == key && !object.is_deleted)
        }

        fn evict(&mut self) -> Option<u64> {
            while !self.objects.is_empty() {
                let at = self.hand.unwrap_or(0);
                let object = &mut self.objects[at];
                if object.is_visited && !object.is_deleted {
                    object.is_visited = false;
                    self.hand = (at + 1 < self.objects.len()).then_some(at + 1);
                } else {
                    let gone = self.objects.remove(at);
                    self.hand = (at < self.objects.len()).then_some(at);
                    if !gone.is_deleted {
                        return Some(gone.key);
                    }
                }
            }
            None
        }
    }

    /// The keys that a store would hold, by hash: their generation, and whether they were visited.
    type Keys = BTreeMap<u64, (u8, bool)>;

    fn judge(keys: &mut Keys, line: Line) -> Verdict {
        let held = keys.iter_mut().find(|(hash, _)| line.matches_hash(**hash));
        match held {
            Some((_, (generation, is_visited))) if *generation == line.generation() => {
                if std::mem::take(is_visited) {
                    Verdict::Keep
                } else {
                    Verdict::Evict
                }
            }
            _ => Verdict::Stale,
        }
    }

    /// Evicts one key, in as many calls of `steps` each as it takes, and says which.
    fn evict(sieve: &mut Sieve, keys: &mut Keys, steps: usize) -> Option<u64> {
        let mut victim = None;
        while sieve.len() > 0 {
            let look = |line: Line| {
                let verdict = judge(keys, line);
                victim = (verdict == Verdict::Evict).then_some(line.hash_bits());
                verdict
            };
            if sieve.hand(look, &mut { steps }) {
                break;
            }
        }
        victim.inspect(|hash| assert!(keys.remove(hash).is_some()))
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// Visits the key, or enters it.
        Use(u64),
        Delete(u64),
        Evict(usize),
    }

    fn a_step() -> impl Strategy<Value = Step> {
        let key = || (0u64..24).prop_map(|key| key << GENERATION_BITS);
        prop_oneof![
            6 => key().prop_map(Step::Use),
            1 => key().prop_map(Step::Delete),
            3 => prop_oneof![1usize..4, Just(1000)].prop_map(Step::Evict),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn the_victims_are_those_of_sieve(
            deletes in any::<bool>(),
            steps in prop::collection::vec(a_step(), 0..300),
        ) {
            let mut sieve = Sieve::default();
            let mut keys = Keys::new();
            let mut model = Model::default();
            let mut generations = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Use(key) => match (keys.get_mut(&key), model.find(key)) {
                        (Some((_, is_visited)), Some(object)) => {
                            (*is_visited, object.is_visited) = (true, true);
                        }
                        (None, None) => {
                            let generation: &mut u8 = generations.entry(key).or_default();
                            *generation = (*generation + 1) % 128;
                            sieve.push(key, *generation);
                            keys.insert(key, (*generation, false));
                            let (is_visited, is_deleted) = (false, false);
                            model.objects.push(Object { key, is_visited, is_deleted });
                        }
                        _ => prop_assert!(false, "{key} is in one of the two"),
                    },
                    Step::Delete(key) => {
                        if deletes && keys.remove(&key).is_some() {
                            model.find(key).unwrap().is_deleted = true;
                        }
                    }
                    Step::Evict(steps) => {
                        prop_assert_eq!(evict(&mut sieve, &mut keys, steps), model.evict());
                    }
                }
                prop_assert_eq!(sieve.len(), model.objects.len());
            }
            while let Some(key) = model.evict() {
                prop_assert_eq!(evict(&mut sieve, &mut keys, usize::MAX), Some(key));
            }
            prop_assert_eq!(evict(&mut sieve, &mut keys, usize::MAX), None);
            prop_assert_eq!((sieve.len(), sieve.bytes()), (0, 0));
        }

        #[test]
        fn compacting_drops_what_is_stale_and_keeps_the_order(
            stale in prop::collection::vec(any::<bool>(), 0..2000),
            steps in 1usize..3000,
        ) {
            let mut sieve = Sieve::default();
            (0..stale.len()).for_each(|n| sieve.push((n as u64) << GENERATION_BITS, 0));
            let number = |line: Line| (line.hash_bits() >> GENERATION_BITS) as usize;
            let dropped = sieve.compact(|line| stale[number(line)], steps);
            prop_assert_eq!(dropped, stale.iter().take(steps).filter(|&&stale| stale).count());
            prop_assert_eq!(sieve.len(), stale.len() - dropped);
            sieve.compact(|line| stale[number(line)], stale.len().saturating_sub(steps));
            let mut left = Vec::new();
            let look = |line| {
                left.push(number(line));
                Verdict::Keep
            };
            prop_assert!(!sieve.hand(look, &mut usize::MAX.clone()), "nothing was to be evicted");
            prop_assert_eq!(left, (0..stale.len()).filter(|&n| !stale[n]).collect::<Vec<_>>());
        }

        #[test]
        fn a_line_knows_its_key(hash in any::<u64>(), bit in 0u32..64, generation in any::<u8>()) {
            let line = Line::new(hash, generation);
            prop_assert!(line.matches_hash(hash) && line.matches_hash(line.hash_bits()));
            prop_assert_eq!(line.matches_hash(hash ^ 1 << bit), bit < GENERATION_BITS);
            prop_assert_eq!(line.generation(), generation % 128);
        }
    }

    #[test]
    fn chunks_are_freed_as_the_hand_leaves_them() {
        let chunk = size_of::<[u64; CHUNK]>();
        let mut sieve = Sieve::default();
        (0..10 * CHUNK as u64).for_each(|hash| sieve.push(hash, 0));
        assert!(sieve.bytes() >= 10 * chunk);
        sieve.compact(|_| true, 9 * CHUNK);
        assert_eq!(sieve.len(), CHUNK);
        assert!((chunk..2 * chunk).contains(&sieve.bytes()), "{} bytes", sieve.bytes());
        sieve.compact(|_| true, usize::MAX);
        assert_eq!((sieve.len(), sieve.bytes()), (0, 0));
    }

    #[test]
    fn a_round_over_keys_that_all_stay_ends() {
        let mut sieve = Sieve::default();
        (0..1000).for_each(|hash| sieve.push(hash << GENERATION_BITS, 0));
        let mut steps = 5000;
        assert!(!sieve.hand(|_| Verdict::Keep, &mut steps));
        assert_eq!((steps, sieve.len()), (4000, 1000));
        assert!(!Sieve::default().hand(|_| Verdict::Evict, &mut steps));
    }
}
