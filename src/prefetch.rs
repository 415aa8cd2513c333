//! Bringing a cache line closer before it is needed. Where the processor has no way to, nothing
//! happens.

/// A line that will be read.
#[inline]
pub(crate) fn to_read<T>(at: *const T) {
    #[cfg(all(target_arch = "x86_64", not(gridkv_loom)))]
    // SAFETY: a prefetch reads nothing as far as the program can tell, wherever it points.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
    }
    #[cfg(not(all(target_arch = "x86_64", not(gridkv_loom))))]
    let _ = at;
}

/// A line that will be written, and may be in another processor's cache.
#[inline]
pub(crate) fn to_write<T>(at: *const T) {
    #[cfg(all(target_arch = "x86_64", not(gridkv_loom)))]
    // SAFETY: as above. (The compiler's own function comes out as a prefetch for reading where the
    // processor is not known to have this one; those that have not ignore it.)
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) at, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(all(target_arch = "x86_64", not(gridkv_loom))))]
    let _ = at;
}
