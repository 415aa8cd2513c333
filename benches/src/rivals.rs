//! The rivals, each as its user would hold keys and values of any length: `Box<[u8]>`, or
//! `Arc<[u8]>` where a read gives out a clone. All with one hasher, all from the system's
//! allocator.

use std::sync::Arc;

use quick_cache::UnitWeighter;
use quick_cache::sync::DefaultLifecycle;

use crate::keys::{Family, Key, VALUE_BYTES, Xxh3, key, look, value};

type Bytes = Box<[u8]>;

/// A map or cache.
pub trait Rival: Sized {
    /// What it is called in the report.
    const NAME: &'static str;

    /// An empty one. Caches have room for `capacity` entries; maps grow.
    fn empty(capacity: u64) -> Self;

    /// Looks at the value of a key.
    fn read(&self, key: &Key) -> Option<u64>;

    /// Stores a value, with exclusive access.
    fn put(&mut self, key: &Key, value: &[u8]);

    /// Does the maintenance that it would otherwise do now and then within calls.
    fn settle(&self) {}

    /// One with the first `keys` keys. A cache has twice the room, so that it evicts nothing.
    fn filled(keys: u64) -> Self {
        let mut rival = Self::empty(2 * keys);
        for number in 0..keys {
            rival.put(&key(Family::Plain, number), &value(number));
        }
        rival.settle();
        rival
    }
}

/// A rival that threads share.
pub trait Shared: Rival + Sync {
    /// Stores a value.
    fn set(&self, key: &Key, value: &[u8]);
}

/// Unsynchronised: the limit.
#[derive(Debug)]
pub struct Hashbrown(pub hashbrown::HashMap<Bytes, Bytes, Xxh3>);

impl Rival for Hashbrown {
    const NAME: &'static str = "hashbrown";

    fn empty(_: u64) -> Self {
        Self(hashbrown::HashMap::with_hasher(Xxh3::default()))
    }

    #[inline]
    fn read(&self, key: &Key) -> Option<u64> {
        self.0.get(&key[..]).map(|value| look(value))
    }

    fn put(&mut self, key: &Key, value: &[u8]) {
        self.0.insert(key[..].into(), value.into());
    }
}

/// Unsynchronised, and with keys of one length inside the table: what no store for keys of any
/// length can do.
#[derive(Debug)]
pub struct HashbrownInline(hashbrown::HashMap<Key, [u8; VALUE_BYTES], Xxh3>);

impl Rival for HashbrownInline {
    const NAME: &'static str = "hashbrown, all inline";

    fn empty(_: u64) -> Self {
        Self(hashbrown::HashMap::with_hasher(Xxh3::default()))
    }

    #[inline]
    fn read(&self, key: &Key) -> Option<u64> {
        self.0.get(key).map(|value| look(value))
    }

    fn put(&mut self, key: &Key, value: &[u8]) {
        self.0.insert(*key, value.try_into().expect("values are of one length"));
    }
}

/// Sharded read-write locks.
#[derive(Debug)]
pub struct Dashmap(dashmap::DashMap<Bytes, Bytes, Xxh3>);

impl Rival for Dashmap {
    const NAME: &'static str = "dashmap";

    fn empty(_: u64) -> Self {
        Self(dashmap::DashMap::with_hasher(Xxh3::default()))
    }

    #[inline]
    fn read(&self, key: &Key) -> Option<u64> {
        self.0.get(&key[..]).map(|value| look(&value))
    }

    fn put(&mut self, key: &Key, value: &[u8]) {
        self.set(key, value);
    }
}

impl Shared for Dashmap {
    fn set(&self, key: &Key, value: &[u8]) {
        self.0.insert(key[..].into(), value.into());
    }
}

/// Lock-free, with hazard-free reclamation by `seize`; pinned for each call.
#[derive(Debug)]
pub struct Papaya(papaya::HashMap<Bytes, Bytes, Xxh3>);

impl Rival for Papaya {
    const NAME: &'static str = "papaya";

    fn empty(_: u64) -> Self {
        Self(papaya::HashMap::with_hasher(Xxh3::default()))
    }

    #[inline]
    fn read(&self, key: &Key) -> Option<u64> {
        self.0.pin().get(&key[..]).map(|value| look(value))
    }

    fn put(&mut self, key: &Key, value: &[u8]) {
        self.set(key, value);
    }
}

impl Shared for Papaya {
    fn set(&self, key: &Key, value: &[u8]) {
        self.0.pin().insert(key[..].into(), value.into());
    }
}

/// Locked buckets.
#[derive(Debug)]
pub struct Scc(scc::HashMap<Bytes, Bytes, Xxh3>);

impl Rival for Scc {
    const NAME: &'static str = "scc";

    fn empty(_: u64) -> Self {
        Self(scc::HashMap::with_hasher(Xxh3::default()))
    }

    #[inline]
    fn read(&self, key: &Key) -> Option<u64> {
        self.0.read_sync(&key[..], |_, value| look(value))
    }

    fn put(&mut self, key: &Key, value: &[u8]) {
        self.set(key, value);
    }
}

impl Shared for Scc {
    fn set(&self, key: &Key, value: &[u8]) {
        self.0.upsert_sync(key[..].into(), value.into());
    }
}

/// A cache: CLOCK-Pro under sharded locks.
pub struct QuickCache(quick_cache::sync::Cache<Bytes, Arc<[u8]>, UnitWeighter, Xxh3>);

impl Rival for QuickCache {
    const NAME: &'static str = "quick_cache";

    fn empty(capacity: u64) -> Self {
        Self(quick_cache::sync::Cache::with(
            capacity as usize,
            capacity,
            UnitWeighter,
            Xxh3::default(),
            DefaultLifecycle::default(),
        ))
    }

    #[inline]
    fn read(&self, key: &Key) -> Option<u64> {
        self.0.get(&key[..]).map(|value| look(&value))
    }

    fn put(&mut self, key: &Key, value: &[u8]) {
        self.set(key, value);
    }
}

impl Shared for QuickCache {
    fn set(&self, key: &Key, value: &[u8]) {
        self.0.insert(key[..].into(), value.into());
    }
}

/// A cache: TinyLFU, with the accesses recorded next to a concurrent table.
#[derive(Debug)]
pub struct Moka(moka::sync::Cache<Bytes, Arc<[u8]>, Xxh3>);

impl Rival for Moka {
    const NAME: &'static str = "moka";

    fn empty(capacity: u64) -> Self {
        Self(moka::sync::Cache::builder().max_capacity(capacity).build_with_hasher(Xxh3::default()))
    }

    #[inline]
    fn read(&self, key: &Key) -> Option<u64> {
        self.0.get(&key[..]).map(|value| look(&value))
    }

    fn put(&mut self, key: &Key, value: &[u8]) {
        self.set(key, value);
    }

    fn settle(&self) {
        self.0.run_pending_tasks();
    }
}

impl Shared for Moka {
    fn set(&self, key: &Key, value: &[u8]) {
        self.0.insert(key[..].into(), value.into());
    }
}

/// A cache: plain LRU, unsynchronised.
#[derive(Debug)]
pub struct Lru(lru::LruCache<Key, (), Xxh3>);

impl Lru {
    /// Returns a cache with room for this number of entries.
    ///
    /// # Panics
    ///
    /// If that number is zero.
    pub fn empty(capacity: u64) -> Self {
        let capacity = std::num::NonZeroUsize::new(capacity as usize).expect("room for an entry");
        Self(lru::LruCache::with_hasher(capacity, Xxh3::default()))
    }

    /// Whether the key was there. It is afterwards.
    pub fn touch(&mut self, key: &Key) -> bool {
        self.0.get(key).is_some() || self.0.put(*key, ()).is_some()
    }
}
