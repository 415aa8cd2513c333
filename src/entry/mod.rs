//! A key's stored state, and [`wins_over`](Entry::wins_over): which of two states of a key is the
//! newer.
//!
//! A delete is a state too, a *tombstone* with a version of its own: without one, a replica that
//! missed the delete would bring the key back. An expired value keeps its version for the same
//! reason and gives up its bytes; what is left is called a *husk*.
//!
//! | state | bytes of its value | expires | versions compare as |
//! |---|---|---|---|
//! | value | yes | if it has a deadline | themselves |
//! | husk | no | did | the value's, and below the value itself |
//! | tombstone | no | no | themselves, and above a value of the same version |
//!
//! A node whose clock was ahead for a while has husks of values that still live on other nodes. So
//! a value wins over its own husk where the two meet. Digests of partitions do not tell the two
//! apart, because replicas whose clocks are right expire a value at two moments. A comparison key
//! by key does ([`Entry::exact_digest`]).
//!
//! An entry is one allocation, shared by counted handles: a header of 24 bytes, what only some
//! entries have, the key, the value ([`layout`]). The app's thread builds it in this form; from
//! then on it travels as a pointer, into the table too. A value of more than 4 KiB lives in a block
//! of its own that entries share, so that a new version or deadline of it copies nothing.

mod layout;

use std::cmp::Ordering as Order;
use std::fmt;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::num::NonZeroU64;
use std::ops::Deref;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

pub(crate) use self::layout::NO_TIMER;
use self::layout::{Block, Draft, EXPIRES, Expiry, HUSK, Header, Parts, SHARED, TOMBSTONE, free};
use crate::clock::{Version, WallTime};
use crate::mutants::{OrderingMutant, ordering};
use crate::mutants::{ProtocolMutant, rule};
use crate::prefetch;
use crate::sync::{Ordering, acquire};
use crate::types::KeyHash;

/// Values above this are kept in a block of their own.
const MAX_INLINE_BYTES: usize = 4 << 10;

/// Numbers without a pattern, for [`fold`]: the beginnings of the fractions of √2, √3, √5 and √7.
const ODD: [u64; 4] =
    [0x6a09_e667_f3bc_c909, 0xbb67_ae85_84ca_a73b, 0x3c6e_f372_fe94_f82b, 0xa54f_f53a_5f1d_36f1];

/// Mixes two numbers into one: the halves of their product, as wyhash and its descendants do. Fast,
/// and not made to resist an attacker who chooses both.
const fn fold(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
}

/// A counted handle of what one replica holds for one key. What it says never changes, except that
/// [`stamp`](Self::stamp) sets the version of an entry that has no other handle.
pub(crate) struct Entry {
    header: NonNull<Header>,
}

const VISITED: u8 = 1;

/// Far from where the count would wrap around, by more than there can be threads.
const MAX_HANDLES: u32 = u32::MAX / 2;

/// Value, delete, or what an expired value leaves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content<'a> {
    Value(&'a [u8]),
    Tombstone,
    /// The hash of the value that expired.
    Husk(u32),
}

// SAFETY: a handle gives shared access to data that is written only before it is shared
// (`allocate`), by its sole owner (`stamp`, which checks that), or through atomics. The block is an
// `Arc` of bytes.
unsafe impl Send for Entry {}
// SAFETY: as above; `&Entry` gives nothing more than a clone does.
unsafe impl Sync for Entry {}

impl Entry {
    /// Makes an entry; a long value gets a block of its own.
    ///
    /// # Panics
    ///
    /// When key or value are over the limits, which callers check.
    pub(crate) fn new(
        key: &[u8],
        content: Content<'_>,
        version: Version,
        expires_at_ms: Option<NonZeroU64>,
    ) -> Self {
        let (kind, content_hash, value): (u8, u32, &[u8]) = match content {
            Content::Value(value) => (0, xxh3_64(value) as u32, value),
            Content::Tombstone => (TOMBSTONE, 0, &[]),
            Content::Husk(hash) => (HUSK, hash, &[]),
        };
        let block = (value.len() > MAX_INLINE_BYTES).then(|| Block::from(value));
        let draft = Draft { key, value, block, kind, content_hash, version, expires_at_ms };
        Self { header: draft.allocate() }
    }

    #[inline]
    fn header(&self) -> &Header {
        // SAFETY: a handle keeps the allocation alive, and what is not atomic in it is not written
        // while handles are shared.
        let header = unsafe { self.header.as_ref() };
        header.life.read();
        header
    }

    #[inline]
    fn parts(&self) -> Parts {
        let header = self.header();
        Parts::new(header.flags, usize::from(header.key_bytes), header.value_bytes as usize)
    }

    #[inline]
    fn at<T>(&self, offset: usize) -> *const T {
        // SAFETY: offsets come from `Parts`, so they are inside the allocation.
        unsafe { self.header.as_ptr().cast::<u8>().add(offset).cast() }
    }

    #[inline]
    fn expiry(&self) -> Option<&Expiry> {
        // SAFETY: an entry with the flag was built with an `Expiry` there.
        (self.header().flags & EXPIRES != 0).then(|| unsafe { &*self.at(self.parts().expiry) })
    }

    #[inline]
    fn block(&self) -> Option<&Block> {
        // SAFETY: an entry with the flag was built with a `Block` there.
        (self.header().flags & SHARED != 0).then(|| unsafe { &*self.at(self.parts().block) })
    }

    pub(crate) fn version(&self) -> Version {
        self.header().version
    }

    /// When the value stops being visible, in milliseconds of wall time. Absolute, so that replicas
    /// agree.
    #[inline]
    pub(crate) fn expires_at_ms(&self) -> Option<NonZeroU64> {
        self.expiry().map(|expiry| expiry.at_ms)
    }

    #[inline]
    pub(crate) fn key(&self) -> &[u8] {
        let parts = self.parts();
        // SAFETY: `allocate` wrote that many bytes there.
        unsafe { std::slice::from_raw_parts(self.at(parts.key), parts.value - parts.key) }
    }

    /// Whether this is the entry's key.
    #[inline]
    pub(crate) fn has_key(&self, key: &[u8]) -> bool {
        let header = self.header();
        if usize::from(header.key_bytes) != key.len() {
            return false;
        }
        // Most entries have nothing between header and key: a branch that is foreseen is cheaper
        // than a sum that is waited for.
        let start: *const u8 = if header.flags & (EXPIRES | SHARED) == 0 {
            self.at(size_of::<Header>())
        } else {
            self.at(self.parts().key)
        };
        // SAFETY: `allocate` wrote that many bytes there.
        let own = unsafe { std::slice::from_raw_parts(start, key.len()) };
        // Two overlapping halves are cheaper than a call, for the keys that most apps have.
        let halves = |key: &[u8]| Some((*key.first_chunk::<16>()?, *key.last_chunk::<16>()?));
        if key.len().wrapping_sub(16) <= 16 {
            halves(own) == halves(key)
        } else {
            are_equal(own, key)
        }
    }

    pub(crate) fn content(&self) -> Content<'_> {
        match self.value() {
            Some(value) => Content::Value(value),
            None if self.header().flags & TOMBSTONE != 0 => Content::Tombstone,
            None => Content::Husk(self.header().content_hash),
        }
    }

    /// The value, expired or not.
    #[inline]
    pub(crate) fn value(&self) -> Option<&[u8]> {
        let header = self.header();
        if header.flags == 0 {
            let start = size_of::<Header>() + usize::from(header.key_bytes);
            // SAFETY: `allocate` wrote that many bytes there, right behind the key.
            return Some(unsafe {
                std::slice::from_raw_parts(self.at(start), header.value_bytes as usize)
            });
        }
        if header.flags & (TOMBSTONE | HUSK) != 0 {
            return None;
        }
        if let Some(block) = self.block() {
            return Some(block);
        }
        let parts = self.parts();
        // SAFETY: `allocate` wrote that many bytes there.
        Some(unsafe { std::slice::from_raw_parts(self.at(parts.value), parts.end - parts.value) })
    }

    /// Whether it has a value that does not expire.
    #[inline]
    pub(crate) fn is_lasting(&self) -> bool {
        self.header().flags & (TOMBSTONE | HUSK | EXPIRES) == 0
    }

    /// The value, if there is one and it has not expired.
    #[inline]
    pub(crate) fn live_value(&self, wall: WallTime) -> Option<&[u8]> {
        self.value().filter(|_| !self.is_expired(wall))
    }

    #[inline]
    pub(crate) fn is_expired(&self, wall: WallTime) -> bool {
        self.expires_at_ms().is_some_and(|at| at.get() <= wall.millis())
    }

    /// Whether it is a husk whose value should still live: it was made where a clock was ahead.
    pub(crate) fn is_early_husk(&self, wall: WallTime) -> bool {
        self.header().flags & HUSK != 0 && !self.is_expired(wall)
    }

    /// How many bytes key and value have.
    pub(crate) fn bytes(&self) -> usize {
        usize::from(self.header().key_bytes) + self.header().value_bytes as usize
    }

    /// The sizes of its allocations: its own, and the shared block's, or zero.
    pub(crate) fn allocations(&self) -> (usize, usize) {
        // A block has two counters before its bytes.
        let block = self.block().map_or(0, |block| block.len() + 2 * size_of::<usize>());
        (self.parts().end, block)
    }

    /// Whether both entries have the same block.
    pub(crate) fn shares_block_with(&self, other: &Self) -> bool {
        self.block().zip(other.block()).is_some_and(|(mine, theirs)| Arc::ptr_eq(mine, theirs))
    }

    /// A hash of the content, expiry left out. Equal for a value and its husk.
    pub(crate) fn content_hash(&self) -> u32 {
        self.header().content_hash
    }

    /// Gives the entry a version: in place if this is the only handle, else in a copy.
    pub(crate) fn stamp(&mut self, version: Version) {
        // SAFETY: see `header`.
        let is_unique = unsafe { self.header.as_ref() }.handles.load(Ordering::Acquire) == 1;
        if is_unique {
            // SAFETY: see `header`.
            unsafe { self.header.as_ref() }.life.write();
            // SAFETY: the only handle is borrowed mutably, so no thread reads or writes the version
            // now. The table counts as a handle, and a reader's borrow lives no longer than the
            // table's handle, or the one that the retire list keeps for it.
            unsafe { ptr::addr_of_mut!((*self.header.as_ptr()).version).write(version) };
        } else {
            *self = self.copy(version, self.expires_at_ms());
        }
    }

    /// Returns the same content with another version and deadline. A long value is shared.
    pub(crate) fn copy(&self, version: Version, expires_at_ms: Option<NonZeroU64>) -> Self {
        let draft = Draft {
            key: self.key(),
            value: self.value().unwrap_or_default(),
            block: self.block().cloned(),
            kind: self.header().flags & (TOMBSTONE | HUSK),
            content_hash: self.content_hash(),
            version,
            expires_at_ms,
        };
        Self { header: draft.allocate() }
    }

    /// Returns this state, together with what another state of the same key knows of the same
    /// write: the value, if either has it, with the later expiry.
    ///
    /// A husk might be of a clock that was ahead. If its expiry was changed to a later one since,
    /// it must not replace the value of a replica that has yet to hear of the change.
    pub(crate) fn joined(self, other: &Self) -> Self {
        let expiry = |entry: &Self| entry.expires_at_ms().map_or(u64::MAX, NonZeroU64::get);
        if !rule(ProtocolMutant::HuskReplaces, self.is_of_one_write(other)) {
            return self;
        }
        match (self.value(), other.value()) {
            (None, Some(_)) if expiry(&self) > expiry(other) => {
                other.copy(self.version(), self.expires_at_ms())
            }
            (Some(_), None) if expiry(other) > expiry(&self) => {
                self.copy(self.version(), other.expires_at_ms())
            }
            _ => self,
        }
    }

    /// Whether both are what one write has stored, or left: they differ by their expiry at most,
    /// and one may be the husk of the other.
    fn is_of_one_write(&self, other: &Self) -> bool {
        let is_tombstone = |entry: &Self| entry.header().flags & TOMBSTONE != 0;
        self.version() == other.version()
            && self.content_hash() == other.content_hash()
            && !is_tombstone(self)
            && !is_tombstone(other)
    }

    /// Whether both are the same at this wall time: equal, or what one has and the other has
    /// freed has expired.
    pub(crate) fn is_same_at(&self, other: &Self, wall: WallTime) -> bool {
        let have_expired = self.is_expired(wall) && self.expires_at_ms() == other.expires_at_ms();
        self == other || have_expired && self.is_of_one_write(other)
    }

    /// Returns what is left once the value has expired.
    pub(crate) fn husk(&self) -> Self {
        Self::new(
            self.key(),
            Content::Husk(self.content_hash()),
            self.version(),
            self.expires_at_ms(),
        )
    }

    /// A number that is equal for equal states of a key and differs for different ones, so that
    /// sums of it compare whole partitions. It is the same for a value and its husk. `hash` is the
    /// key's.
    pub(crate) fn digest(&self, hash: KeyHash) -> u64 {
        let expiry = self.expires_at_ms().map_or(0, NonZeroU64::get);
        let content =
            if rule(ProtocolMutant::ContentNotCompared, true) { self.content_hash() } else { 0 };
        let state = fold(self.version().0 ^ ODD[0], u64::from(content) ^ ODD[1]);
        fold(fold(hash.0 ^ ODD[2], state ^ ODD[3]) ^ ODD[0], expiry.rotate_left(32) ^ ODD[1])
    }

    /// Returns a [digest](Self::digest) that tells a value from its husk, too.
    pub(crate) fn exact_digest(&self, hash: KeyHash) -> u64 {
        let is_husk = self.header().flags & HUSK != 0;
        self.digest(hash) ^ if is_husk { ODD[2] } else { 0 }
    }

    /// Prefetches what merging the entry begins with.
    #[inline]
    pub(crate) fn prefetch(&self) {
        let header = self.header.as_ptr().cast::<u8>();
        prefetch::to_write(header);
        // Where the key is, or its beginning.
        prefetch::to_read(header.wrapping_add(64));
    }

    /// Whether this state replaces `other`, a state of the same key: by version, then tombstone
    /// over value, then hash of the content, then later expiry, then value over husk, then bytes.
    /// This is a total order up to equality, so replicas that merge the same states in any order,
    /// any number of times, end up the same.
    pub(crate) fn wins_over(&self, other: &Self) -> bool {
        self.order(other) == Order::Greater
    }

    fn order(&self, other: &Self) -> Order {
        let is_tombstone = |entry: &Self| entry.header().flags & TOMBSTONE != 0;
        self.version()
            .cmp(&other.version())
            .then_with(|| is_tombstone(self).cmp(&is_tombstone(other)))
            .then_with(|| self.content_hash().cmp(&other.content_hash()))
            .then_with(|| {
                let expiry = |entry: &Self| entry.expires_at_ms().map_or(u64::MAX, NonZeroU64::get);
                expiry(self).cmp(&expiry(other))
            })
            .then_with(|| match (self.value(), other.value()) {
                (Some(mine), Some(theirs)) => mine.cmp(theirs),
                (mine, theirs) => {
                    let has_value =
                        |value: Option<&[u8]>| rule(ProtocolMutant::HuskTies, value.is_some());
                    has_value(mine).cmp(&has_value(theirs))
                }
            })
    }

    /// Turns the handle into a number, for a slot of the table.
    pub(crate) fn into_bits(self) -> u64 {
        let bits = ManuallyDrop::new(self).header.as_ptr().expose_provenance() as u64;
        assert!(bits >> 48 == 0, "pointers of more than 48 bits leave no room for a tag");
        bits
    }

    /// Turns a number into the handle again.
    ///
    /// # Safety
    ///
    /// `bits` came from [`into_bits`](Self::into_bits), and this is the only handle made of it.
    #[inline]
    pub(crate) unsafe fn from_bits(bits: u64) -> Self {
        let header = ptr::with_exposed_provenance_mut(bits as usize);
        // SAFETY: the caller's promise: the number is a pointer that was not null.
        Self { header: unsafe { NonNull::new_unchecked(header) } }
    }

    /// Looks at what a number stands for, without a handle of its own.
    ///
    /// # Safety
    ///
    /// `bits` came from [`into_bits`](Self::into_bits), and for all of `'a` the handle is not
    /// dropped.
    #[inline]
    pub(crate) unsafe fn borrow_bits<'a>(bits: u64) -> EntryRef<'a> {
        // SAFETY: the caller's promise. The handle is never dropped.
        let entry = ManuallyDrop::new(unsafe { Self::from_bits(bits) });
        EntryRef { entry, life: PhantomData }
    }

    /// Looks at the entry without another handle.
    pub(crate) fn borrow(&self) -> EntryRef<'_> {
        EntryRef { entry: ManuallyDrop::new(Self { header: self.header }), life: PhantomData }
    }

    /// Notes that a reader has seen the entry. Writes only if that is news, so that a hot entry's
    /// cache line stays shared; and only the one bit, as the writer may be changing the others.
    #[inline]
    pub(crate) fn visit(&self) {
        let bits = &self.header().eviction_bits;
        if bits.load(Ordering::Relaxed) & VISITED == 0 {
            bits.fetch_or(VISITED, Ordering::Relaxed);
        }
    }

    /// Whether a reader has seen the entry since the last call. For the store's writer.
    pub(crate) fn take_visited(&self) -> bool {
        let bits = &self.header().eviction_bits;
        let seen = bits.load(Ordering::Relaxed);
        // Only the writer changes the generation. A visit that comes in between is lost, which
        // costs little.
        bits.store(seen & !VISITED, Ordering::Relaxed);
        seen & VISITED != 0
    }

    /// The key's generation in the eviction queue, seven bits.
    pub(crate) fn generation(&self) -> u8 {
        self.header().eviction_bits.load(Ordering::Relaxed) >> 1
    }

    /// Sets the generation, which is below 128, and whether a reader has seen the entry. For the
    /// store's writer.
    pub(crate) fn set_eviction_bits(&self, generation: u8, visited: bool) {
        self.header().eviction_bits.store(generation << 1 | u8::from(visited), Ordering::Relaxed);
    }

    /// The store's timer for the entry; [`NO_TIMER`] if it has none.
    pub(crate) fn timer(&self) -> u32 {
        self.expiry().map_or(NO_TIMER, |expiry| expiry.timer.load(Ordering::Relaxed))
    }

    /// Keeps a timer, if the entry expires.
    pub(crate) fn set_timer(&self, timer: u32) {
        if let Some(expiry) = self.expiry() {
            expiry.timer.store(timer, Ordering::Relaxed);
        }
    }
}

/// A function of its own, so that the common case keeps its registers.
#[inline(never)]
fn are_equal(one: &[u8], other: &[u8]) -> bool {
    one == other
}

impl Clone for Entry {
    fn clone(&self) -> Self {
        let handles = &self.header().handles;
        if handles.fetch_add(1, Ordering::Relaxed) >= MAX_HANDLES {
            // Taken back, so that no number of panics that are caught wraps the count around.
            handles.fetch_sub(1, Ordering::Relaxed);
            panic!("more than {MAX_HANDLES} handles of one entry: they are leaking");
        }
        Self { header: self.header }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let order = ordering(OrderingMutant::RelaxedDrop, Ordering::Release);
        // SAFETY: see `header`; this handle still counts.
        if unsafe { self.header.as_ref() }.handles.fetch_sub(1, order) > 1 {
            return;
        }
        // SAFETY: see `header`; the allocation goes below.
        acquire(unsafe { &self.header.as_ref().handles });
        let parts = self.parts();
        let block = self.block().map(ptr::from_ref);
        // SAFETY: as above.
        unsafe { self.header.as_ref() }.life.end();
        // SAFETY: this was the last handle, and the fence orders every use through the others
        // before.
        unsafe { free(self.header, parts, block) };
    }
}

/// A look at an entry that another handle keeps alive for `'a`.
pub(crate) struct EntryRef<'a> {
    entry: ManuallyDrop<Entry>,
    life: PhantomData<&'a Entry>,
}

impl<'a> EntryRef<'a> {
    /// The value, expired or not, for as long as the entry is kept.
    pub(crate) fn into_value(self) -> Option<&'a [u8]> {
        let value: *const [u8] = self.value()?;
        // SAFETY: the value is in the entry's allocation, or in a block that the entry keeps;
        // neither is written while handles are shared, and the handle that this look is of keeps
        // the entry for `'a`.
        Some(unsafe { &*value })
    }
}

impl EntryRef<'_> {
    /// Takes the handle that this look is of.
    ///
    /// # Safety
    ///
    /// The place that kept the handle never drops or takes it again.
    pub(crate) unsafe fn into_handle(self) -> Entry {
        ManuallyDrop::into_inner(self.entry)
    }
}

impl Deref for EntryRef<'_> {
    type Target = Entry;

    #[inline]
    fn deref(&self) -> &Entry {
        &self.entry
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        let parts = |entry: &Self| (entry.version(), entry.expires_at_ms());
        parts(self) == parts(other)
            && self.key() == other.key()
            && self.content() == other.content()
    }
}

impl Eq for Entry {}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={:?}@{:?}", self.key().escape_ascii(), self.content(), self.version())
    }
}

impl fmt::Debug for Content<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(value) => write!(f, "{} bytes", value.len()),
            Self::Tombstone => f.write_str("tombstone"),
            Self::Husk(_) => f.write_str("husk"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sync::AtomicU8;
    use crate::types::{MAX_KEY_BYTES, MAX_VALUE_BYTES};

    const HASH: KeyHash = KeyHash(7);

    fn entry() -> impl Strategy<Value = Entry> {
        let content = prop_oneof![Just(None), prop::collection::vec(0u8..3, 0..3).prop_map(Some)];
        // Few versions and few contents, so that ties happen.
        (0u64..3, content, 0u64..3, any::<bool>()).prop_map(|(version, value, expiry, expired)| {
            let content = value.as_deref().map_or(Content::Tombstone, Content::Value);
            let entry = Entry::new(b"key", content, Version(version), NonZeroU64::new(expiry));
            if expired && value.is_some() && expiry > 0 { entry.husk() } else { entry }
        })
    }

    fn merge(a: &Entry, b: &Entry) -> Entry {
        if b.wins_over(a) { b.clone() } else { a.clone() }
    }

    proptest! {
        #[test]
        fn merge_is_commutative_associative_and_idempotent(
            a in entry(),
            b in entry(),
            c in entry(),
        ) {
            prop_assert_eq!(merge(&a, &b), merge(&b, &a));
            prop_assert_eq!(merge(&a, &merge(&b, &c)), merge(&merge(&a, &b), &c));
            prop_assert_eq!(merge(&a, &a), a.clone());
            prop_assert_eq!(merge(&merge(&a, &b), &b), merge(&a, &b));
        }

        #[test]
        fn equal_states_have_equal_digests_and_different_ones_do_not(a in entry(), b in entry()) {
            prop_assert_eq!(a == b, a.exact_digest(HASH) == b.exact_digest(HASH));
            if a.value().is_some() {
                prop_assert_eq!(a.digest(HASH), a.husk().digest(HASH));
            }
        }

        #[test]
        fn a_value_wins_over_its_husk_and_both_over_the_same(a in entry(), b in entry()) {
            if a.value().is_some() {
                let husk = a.husk();
                prop_assert!(a.wins_over(&husk) && !husk.wins_over(&a));
                if a != b && b != husk {
                    prop_assert_eq!(a.wins_over(&b), husk.wins_over(&b));
                }
            }
        }

        #[test]
        fn of_two_states_one_wins(a in entry(), b in entry()) {
            prop_assert_eq!(a != b, a.wins_over(&b) || b.wins_over(&a));
        }

        #[test]
        fn an_entry_says_what_it_was_built_from(
            key in prop::collection::vec(any::<u8>(), 0..300),
            value in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..40),
                prop::collection::vec(any::<u8>(), MAX_INLINE_BYTES - 2..MAX_INLINE_BYTES + 3),
            ],
            version: u64,
            expires: Option<NonZeroU64>,
        ) {
            let mut entry = Entry::new(&key, Content::Value(&value), Version(version), expires);
            let other = entry.clone();
            entry.stamp(Version(1));
            let again = entry.copy(Version(2), None);
            let all = [(&other, version, expires), (&entry, 1, expires), (&again, 2, None)];
            for (entry, version, expires) in all {
                prop_assert_eq!(entry.key(), &key[..]);
                prop_assert_eq!(entry.content(), Content::Value(&value));
                let stamped = (entry.version(), entry.expires_at_ms());
                prop_assert_eq!(stamped, (Version(version), expires));
                prop_assert_eq!(entry.bytes(), key.len() + value.len());
                prop_assert_eq!(entry.content_hash(), xxh3_64(&value) as u32);
            }
            prop_assert_eq!(entry.shares_block_with(&again), value.len() > MAX_INLINE_BYTES);
            entry.set_timer(7);
            prop_assert_eq!(entry.timer(), if expires.is_some() { 7 } else { NO_TIMER });
        }
    }

    #[test]
    fn a_version_is_set_in_place_only_if_no_other_handle_sees_it() {
        let mut entry = Entry::new(b"key", Content::Value(b"value"), Version(0), None);
        let before = entry.header;
        entry.stamp(Version(1));
        assert_eq!((entry.header, entry.version()), (before, Version(1)));
        let other = entry.clone();
        entry.stamp(Version(2));
        assert_eq!((other.version(), entry.version()), (Version(1), Version(2)));
    }

    #[test]
    fn the_limits_fit() {
        let (key, value) = (vec![1; MAX_KEY_BYTES], vec![2; MAX_VALUE_BYTES]);
        let entry = Entry::new(&key, Content::Value(&value), Version(1), None);
        assert_eq!((entry.key(), entry.value()), (&key[..], Some(&value[..])));
    }

    /// A visit that wrote all the bits back gave a key the generation that it had had before.
    #[test]
    fn threads_share_the_handles_and_a_visit_changes_no_generation() {
        let entry = Entry::new(b"key", Content::Value(b"value"), Version(1), None);
        let is_over = AtomicU8::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while is_over.load(Ordering::Relaxed) == 0 {
                    entry.clone().visit();
                }
            });
            let mut generations = Vec::new();
            for generation in (0..128).cycle().take(300_000) {
                entry.set_eviction_bits(generation, false);
                std::iter::repeat_with(std::hint::spin_loop).take(10).for_each(drop);
                if entry.generation() != generation {
                    generations.push((generation, entry.generation()));
                }
            }
            is_over.store(1, Ordering::Relaxed);
            assert_eq!(generations, []);
        });
        assert_eq!(entry.header().handles.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn eviction_bits_are_kept() {
        let entry = Entry::new(b"key", Content::Tombstone, Version(1), None);
        entry.set_eviction_bits(100, false);
        assert!(!entry.take_visited());
        entry.visit();
        assert_eq!(
            (entry.generation(), entry.take_visited(), entry.take_visited()),
            (100, true, false)
        );
    }
}
