//! Keys, values, chance, and the one hasher of every rival.

use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// How long every key is.
pub const KEY_BYTES: usize = 20;
/// How long every value is, where nothing else is said.
pub const VALUE_BYTES: usize = 100;

/// A key. Rivals hold it as a `Box<[u8]>`, since gridkv takes keys of any length.
pub type Key = [u8; KEY_BYTES];

/// Which of the disjoint sets of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Keys without a time to live.
    Plain,
    /// Keys with a time to live.
    Expiring,
}

/// The key of this number: no two numbers have the same.
pub fn key(family: Family, number: u64) -> Key {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut key = match family {
        Family::Plain => *b"key:0000000000000000",
        Family::Expiring => *b"ttl:0000000000000000",
    };
    let mixed = mix(number);
    for (index, digit) in key[4..].iter_mut().enumerate() {
        *digit = HEX[(mixed >> (4 * index)) as usize & 15];
    }
    key
}

/// The value of this number.
pub fn value(number: u64) -> [u8; VALUE_BYTES] {
    [number as u8 | 1; VALUE_BYTES]
}

/// What every reader does with a value: its first byte and its length, so that it has been looked
/// at.
#[inline]
pub fn look(value: &[u8]) -> u64 {
    value.first().map_or(0, |&first| u64::from(first)) + value.len() as u64
}

/// Keys in the order in which they are asked for, drawn beforehand, so that drawing costs every
/// contender the same. Laid out in that order: a caller has its key at hand, and fetching it is not
/// what is measured.
#[derive(Debug)]
pub struct Draws {
    keys: Vec<Key>,
    next: AtomicUsize,
}

/// How many keys are taken between two looks at the clock. A multiple of every batch.
pub const CHUNK: usize = 1024;

impl Draws {
    /// At least `draws` keys, uniform among the first `keys` of a family.
    pub fn uniform(family: Family, keys: u64, draws: usize) -> Self {
        let mut random = Random::new(0x5eed ^ keys);
        let draws = draws.next_multiple_of(CHUNK);
        let keys = (0..draws).map(|_| key(family, random.below(keys))).collect();
        Self { keys, next: AtomicUsize::new(0) }
    }

    /// Goes on where the last walk began, moved on by some chunks.
    pub fn walk(&self) -> Walk<'_> {
        let start = self.next.fetch_add(37, Ordering::Relaxed);
        Walk { keys: &self.keys, next: start % (self.keys.len() / CHUNK) }
    }
}

/// Chunks of keys, for ever.
#[derive(Debug)]
pub struct Walk<'a> {
    keys: &'a [Key],
    next: usize,
}

impl<'a> Walk<'a> {
    /// The next [`CHUNK`] keys.
    #[inline]
    pub fn chunk(&mut self) -> &'a [Key] {
        let start = self.next * CHUNK;
        self.next = if start + CHUNK == self.keys.len() { 0 } else { self.next + 1 };
        &self.keys[start..start + CHUNK]
    }
}

/// SplitMix64: chance that is the same in every run.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Starts at a seed, which determines all numbers.
    pub fn new(seed: u64) -> Self {
        Self(mix(seed))
    }

    /// The next number.
    #[inline]
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `bound`.
    #[inline]
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// A number from 0 up to 1.
    #[inline]
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// One to one.
fn mix(number: u64) -> u64 {
    let mut mixed = number;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// XXH3-64 with a seed, in one go over a key: what gridkv does, and no dearer. (The streaming form
/// of the same hash sets up hundreds of bytes of state for each key.)
#[derive(Clone, Copy, Debug)]
pub struct Xxh3 {
    seed: u64,
}

impl Default for Xxh3 {
    fn default() -> Self {
        Self { seed: 0x9a3c_41f7_0b5d_e26b }
    }
}

impl BuildHasher for Xxh3 {
    type Hasher = Xxh3Hasher;

    #[inline]
    fn build_hasher(&self) -> Xxh3Hasher {
        Xxh3Hasher { hash: self.seed }
    }
}

/// See [`Xxh3`].
#[derive(Debug)]
pub struct Xxh3Hasher {
    hash: u64,
}

impl Hasher for Xxh3Hasher {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        self.hash = xxh3_64_with_seed(bytes, self.hash);
    }

    /// The length that a slice of bytes puts before itself: the hash of the bytes covers it.
    #[inline]
    fn write_usize(&mut self, _: usize) {}

    #[inline]
    fn finish(&self) -> u64 {
        self.hash
    }
}
