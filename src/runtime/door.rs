//! The door of an engine: a word that every call looks at, and that a forked child finds shut.
//!
//! ```text
//! door       calls                                   what moves it there
//! OPEN       are let in                              it starts so
//! DRAINING   that were let in go on, new ones fail   the control, once all is handed over
//! CLOSED     fail, and the threads stop              the handle, or a thread that fails
//! FORKED     fail                                    the system, in the child of a process that
//!                                                    forks
//! ```
//!
//! The door only moves on, never back.
//!
//! A forked child has the memory of its parent and none of the engine's threads. A call that waits
//! for a thread would wait in vain, a lock that another thread held at that moment stays locked,
//! and what the child reads never changes again. So the word lies in a page of its own, which Linux
//! (since 4.14) fills with zeros in a child (`MADV_WIPEONFORK`): a call finds out by looking at the
//! door, as it does anyway. Rejected: asking for the process id in each call, which is a system
//! call; and `pthread_atfork`, which belongs to the app. On systems that cannot do that, the door
//! of a child looks open, and only [`is_forked`](Door::is_forked) knows better.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// What the system leaves in a page that it has wiped.
const FORKED: u8 = 0;
const OPEN: u8 = 1;
const DRAINING: u8 = 2;
const CLOSED: u8 = 3;

/// The door of one engine. Clones are the same door.
#[derive(Clone)]
pub(crate) struct Door {
    word: NonNull<AtomicU8>,
    home: Arc<Home>,
}

/// The memory of a door's word. It lasts as long as one of the door's clones lives.
struct Home {
    page: Option<Page>,
    /// The word, if there is no page.
    word: AtomicU8,
    /// The process in which the door was made.
    process: u32,
}

// SAFETY: the word is an atomic, which any thread may use, and any may drop its home: a heap
// allocation or a page of the process.
unsafe impl Send for Door {}
// SAFETY: as above.
unsafe impl Sync for Door {}

impl Default for Door {
    fn default() -> Self {
        let (page, process) = (Page::new(), std::process::id());
        let home = Arc::new(Home { page, word: AtomicU8::new(OPEN), process });
        let word = home.page.as_ref().map_or(NonNull::from(&home.word), |page| page.0);
        Self { word, home }
    }
}

impl Door {
    #[inline]
    fn word(&self) -> &AtomicU8 {
        // SAFETY: it lies in `home`, which does not move and lives as long as this clone.
        unsafe { self.word.as_ref() }
    }

    /// Whether calls are let in.
    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        self.word().load(Ordering::Acquire) == OPEN
    }

    /// Whether the threads are to stop, or do not exist in this process.
    #[inline]
    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.word().load(Ordering::Acquire), CLOSED | FORKED)
    }

    /// Whether this process is a child of the one that made the door.
    ///
    /// It makes a system call, also where there is a page: an emulator of processors might say that
    /// it wipes one, and not do so.
    pub(crate) fn is_forked(&self) -> bool {
        let is_wiped = self.word().load(Ordering::Relaxed) == FORKED;
        is_wiped || std::process::id() != self.home.process
    }

    /// Lets no more calls in; those that were let in go on.
    pub(crate) fn drain(&self) {
        self.move_to(DRAINING);
    }

    /// Lets no more calls in, and has the threads stop when they look next.
    pub(crate) fn close(&self) {
        self.move_to(CLOSED);
    }

    fn move_to(&self, state: u8) {
        let later = |old| (old != FORKED).then_some(state.max(old));
        let _ = self.word().fetch_update(Ordering::Release, Ordering::Relaxed, later);
    }
}

/// A page of memory that a forked child finds wiped, with the word of a door at its beginning.
struct Page(NonNull<AtomicU8>);

// SAFETY: as for `Door`.
unsafe impl Send for Page {}
// SAFETY: as for `Door`.
unsafe impl Sync for Page {}

/// The system rounds it up to a page.
#[cfg(target_os = "linux")]
const PAGE_BYTES: usize = size_of::<AtomicU8>();

#[cfg(target_os = "linux")]
impl Page {
    /// Returns a page with an open door, if the system has pages that it wipes.
    fn new() -> Option<Self> {
        use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};

        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the system chooses the place, where nothing else lies.
        let memory = unsafe {
            mmap_anonymous(std::ptr::null_mut(), PAGE_BYTES, protection, MapFlags::PRIVATE)
        };
        // From here on it is unmapped by its drop.
        let page = Self(NonNull::new(memory.ok()?)?.cast());
        // SAFETY: the page is ours, and its content does not change in this process.
        unsafe { madvise(page.0.as_ptr().cast(), PAGE_BYTES, Advice::LinuxWipeOnFork) }.ok()?;
        // SAFETY: the memory is mapped, zeroed and aligned, and no other thread knows it yet.
        unsafe { page.0.as_ref() }.store(OPEN, Ordering::Relaxed);
        Some(page)
    }
}

#[cfg(target_os = "linux")]
impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and no clone of its door is left.
        let _ = unsafe { rustix::mm::munmap(self.0.as_ptr().cast(), PAGE_BYTES) };
    }
}

#[cfg(not(target_os = "linux"))]
impl Page {
    fn new() -> Option<Self> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_door_moves_on_and_never_back() {
        for door in [Door::default(), without_page()] {
            assert!(door.is_open() && !door.is_closed() && !door.is_forked());
            door.drain();
            assert!(!door.is_open() && !door.is_closed());
            let clone = door.clone();
            door.close();
            door.drain();
            drop(door);
            assert!(!clone.is_open() && clone.is_closed() && !clone.is_forked());
        }
    }

    #[test]
    fn a_forked_door_lets_no_call_in_and_stays_forked() {
        let door = Door::default();
        assert!(door.home.page.is_some() || !cfg!(target_os = "linux"));
        // As the system does in a child.
        door.word().store(FORKED, Ordering::Relaxed);
        door.close();
        assert!(!door.is_open() && door.is_closed() && door.is_forked());
    }

    fn without_page() -> Door {
        let process = std::process::id();
        let home = Arc::new(Home { page: None, word: AtomicU8::new(OPEN), process });
        Door { word: NonNull::from(&home.word), home }
    }
}
