//! How an entry lies in memory: one allocation, and who may read what of it.
//!
//! ```text
//! version 8 │ handles 4 │ content hash 4 │ value length 4 │ key length 2 │ flags 1 │ eviction 1
//! [ deadline 8 │ timer 4 │ – 4 ]      if it expires
//! [ shared block 16 ]                 if the value is longer than 4 KiB
//! key │ value
//! ```
//!
//! [`Draft::allocate`] writes all of it before the first handle exists. From then on only the
//! atomics change, and the version while there is one handle. Nothing here counts handles: the file
//! above does.

use std::alloc::{self, Layout};
use std::num::NonZeroU64;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use crate::clock::Version;
use crate::sync::{AtomicU8, AtomicU32, Life};
use crate::types::{MAX_KEY_BYTES, MAX_VALUE_BYTES};

#[repr(C)]
pub(super) struct Header {
    pub(super) version: Version,
    pub(super) handles: AtomicU32,
    pub(super) content_hash: u32,
    pub(super) value_bytes: u32,
    pub(super) key_bytes: u16,
    pub(super) flags: u8,
    /// The store's own: whether a reader has seen the entry since eviction last looked at it, and
    /// the key's generation in the eviction queue.
    pub(super) eviction_bits: AtomicU8,
    pub(super) life: Life,
}

#[cfg(not(gridkv_loom))]
const _: () = assert!(size_of::<Header>() == 24);

/// What lies behind the header of an entry that expires.
#[repr(C)]
pub(super) struct Expiry {
    pub(super) at_ms: NonZeroU64,
    /// The store's own: the entry's timer.
    pub(super) timer: AtomicU32,
}

/// What lies behind that if the value is long.
pub(super) type Block = Arc<[u8]>;

/// The timer of an entry that has none.
pub(crate) const NO_TIMER: u32 = u32::MAX;

pub(super) const TOMBSTONE: u8 = 1;
pub(super) const HUSK: u8 = 2;
pub(super) const EXPIRES: u8 = 4;
pub(super) const SHARED: u8 = 8;

/// Where the parts of an entry are, as offsets.
#[derive(Clone, Copy)]
pub(super) struct Parts {
    pub(super) expiry: usize,
    pub(super) block: usize,
    pub(super) key: usize,
    pub(super) value: usize,
    pub(super) end: usize,
}

/// What an entry is made of.
pub(super) struct Draft<'a> {
    pub(super) key: &'a [u8],
    /// The whole value, also if it is in a block.
    pub(super) value: &'a [u8],
    pub(super) block: Option<Block>,
    /// [`TOMBSTONE`], [`HUSK`], or zero for a value.
    pub(super) kind: u8,
    pub(super) content_hash: u32,
    pub(super) version: Version,
    pub(super) expires_at_ms: Option<NonZeroU64>,
}

impl Parts {
    #[inline]
    pub(super) fn new(flags: u8, key_bytes: usize, value_bytes: usize) -> Self {
        let expiry = size_of::<Header>();
        let block =
            expiry + usize::from(flags & EXPIRES) * (size_of::<Expiry>() / EXPIRES as usize);
        let key = block + usize::from(flags & SHARED) * (size_of::<Block>() / SHARED as usize);
        let value = key + key_bytes;
        let end = value + if flags & SHARED != 0 { 0 } else { value_bytes };
        Self { expiry, block, key, value, end }
    }

    #[inline]
    fn layout(self) -> Layout {
        Layout::from_size_align(self.end, align_of::<Header>())
            .expect("an entry is smaller than the address space")
    }
}

impl Draft<'_> {
    /// Allocates the entry, with one handle.
    ///
    /// # Panics
    ///
    /// When key or value are over the limits.
    #[inline]
    pub(super) fn allocate(self) -> NonNull<Header> {
        let Self { key, value, block, kind, content_hash, version, expires_at_ms } = self;
        assert!(
            key.len() <= MAX_KEY_BYTES && value.len() <= MAX_VALUE_BYTES,
            "checked at the boundary"
        );
        let expires = if expires_at_ms.is_some() { EXPIRES } else { 0 };
        let flags = kind | expires | if block.is_some() { SHARED } else { 0 };
        let parts = Parts::new(flags, key.len(), value.len());
        let layout = parts.layout();
        let header = Header {
            version,
            handles: AtomicU32::new(1),
            content_hash,
            value_bytes: value.len() as u32,
            key_bytes: key.len() as u16,
            flags,
            eviction_bits: AtomicU8::new(0),
            life: Life::new(),
        };
        // SAFETY: the layout is no smaller than the header. Every write below is inside of it, as
        // `Parts` computes both, and aligned: the parts that need it follow each other in multiples
        // of 8.
        unsafe {
            let start = alloc::alloc(layout);
            if start.is_null() {
                alloc::handle_alloc_error(layout);
            }
            start.cast::<Header>().write(header);
            if let Some(at_ms) = expires_at_ms {
                let expiry = Expiry { at_ms, timer: AtomicU32::new(NO_TIMER) };
                start.add(parts.expiry).cast::<Expiry>().write(expiry);
            }
            ptr::copy_nonoverlapping(key.as_ptr(), start.add(parts.key), key.len());
            match block {
                Some(block) => start.add(parts.block).cast::<Block>().write(block),
                None => {
                    ptr::copy_nonoverlapping(value.as_ptr(), start.add(parts.value), value.len())
                }
            }
            NonNull::new_unchecked(start.cast())
        }
    }
}

/// Frees an entry, and its share of a block.
///
/// # Safety
///
/// [`Draft::allocate`] made it with these parts, `block` is its own, and no handle of it is used
/// any more.
#[inline]
pub(super) unsafe fn free(header: NonNull<Header>, parts: Parts, block: Option<*const Block>) {
    // SAFETY: the caller's promise. The block and the header are dropped once, and the layout is
    // that of `allocate`.
    unsafe {
        if let Some(block) = block {
            drop(block.read());
        }
        ptr::drop_in_place(header.as_ptr());
        alloc::dealloc(header.as_ptr().cast(), parts.layout());
    }
}
