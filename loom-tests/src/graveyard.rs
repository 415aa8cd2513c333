//! Memory that a model frees stays as it was until the next execution begins, so that a mutant that
//! uses freed memory meets what says that it is freed, and nothing else.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, UnsafeCell};
use std::ptr;

/// More pieces than one execution frees.
const MAX_PIECES: usize = 1 << 14;

struct Graveyard;

#[global_allocator]
static GRAVEYARD: Graveyard = Graveyard;

struct Graves {
    is_open: Cell<bool>,
    len: Cell<usize>,
    graves: UnsafeCell<[(*mut u8, Layout); MAX_PIECES]>,
}

thread_local! {
    /// Loom runs all threads of a model on one thread of the system. What is here needs no
    /// destructor, so the allocator may use it at any time.
    static GRAVES: Graves = const {
        Graves {
            is_open: Cell::new(false),
            len: Cell::new(0),
            graves: UnsafeCell::new([(ptr::null_mut(), Layout::new::<u8>()); MAX_PIECES]),
        }
    };
}

// SAFETY: the system's allocator, some of whose memory is given back later.
unsafe impl GlobalAlloc for Graveyard {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        GRAVES.with(|graves| {
            let len = graves.len.get();
            if graves.is_open.get() && len < MAX_PIECES {
                // SAFETY: only this thread has it, and nothing here comes back to it in between.
                unsafe { (*graves.graves.get())[len] = (memory, layout) };
                graves.len.set(len + 1);
            } else {
                // SAFETY: the caller's promise.
                unsafe { System.dealloc(memory, layout) };
            }
        });
    }
}

/// Gives back what was freed before. From now on this thread's freed memory stays as it was, or
/// does not.
pub(crate) fn clear(stays: bool) {
    GRAVES.with(|graves| {
        graves.is_open.set(stays);
        for at in 0..graves.len.replace(0) {
            // SAFETY: only this thread has it; the memory was this allocator's, and is given back
            // once.
            unsafe {
                let (memory, layout) = (*graves.graves.get())[at];
                System.dealloc(memory, layout);
            }
        }
    });
}
