//! What all threads of an engine may take together for their connections: how many of these there
//! are, how many bytes of large frames wait for their end, and how many bytes of answers wait to be
//! taken.
//!
//! | limit | when it is reached |
//! |---|---|
//! | accepted connections | a new one is told so, and closed |
//! | bytes of receive buffers | reading of large frames pauses, all but one of each thread |
//! | bytes of answers | a peer that takes none of its own for a second loses its connection |
//!
//! Every connection holds its part of all for as long as it lives, also on its way from one thread
//! to another. So connections that wait for a busy core count as well.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many bytes the receive buffers of an engine may take, besides a part of its memory limit:
/// four of the largest frames. Buffers of the usual size do not count.
const RECEIVE_BYTES: usize = 64 << 20;

/// How many bytes of answers may wait in an engine, besides a part of its memory limit: as much as
/// 32 peers may have waiting, or 16 of the largest values. The first [`USUAL_ANSWER_BYTES`] of a
/// connection do not count.
const ANSWER_BYTES: usize = 256 << 20;

/// How many bytes of answers wait for a connection while its peer keeps up.
const USUAL_ANSWER_BYTES: usize = 64 << 10;

/// The part of the memory limit that receive buffers, and answers, may take in addition.
const MEMORY_PART: usize = 16;

/// How many connections an engine accepts if the app names no number: with a receive buffer of the
/// usual size for each, half a gigabyte.
const DEFAULT_MAX_CONNECTIONS: usize = 8192;

/// The part of the descriptors of this process that accepted connections take by default. The rest
/// is for the connections that the node opens, and for the app.
const DESCRIPTORS_PART: usize = 2;

/// The limits of one engine, and what is taken of them.
#[derive(Debug)]
pub(crate) struct Limits {
    max_connections: usize,
    connections: AtomicUsize,
    received: Pool,
    answers: Pool,
}

/// Bytes that connections share.
#[derive(Debug)]
struct Pool {
    most: usize,
    taken: AtomicUsize,
}

impl Pool {
    fn new(most: usize) -> Self {
        Self { most, taken: AtomicUsize::new(0) }
    }

    fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }
}

/// What a [`Share`] is of.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Received,
    Answers,
}

impl Limits {
    /// `memory` is the memory limit of the whole engine, in bytes.
    pub(crate) fn new(max_connections: Option<usize>, memory: Option<usize>) -> Arc<Self> {
        Arc::new(Self {
            max_connections: max_connections.unwrap_or_else(default_max_connections),
            connections: AtomicUsize::new(0),
            received: Pool::new(RECEIVE_BYTES + memory.map_or(0, |memory| memory / MEMORY_PART)),
            answers: Pool::new(ANSWER_BYTES + memory.map_or(0, |memory| memory / MEMORY_PART)),
        })
    }

    pub(super) fn max_connections(&self) -> usize {
        self.max_connections
    }

    /// Takes a place for an accepted connection, if there is one.
    pub(super) fn admit(self: &Arc<Self>) -> Option<Place> {
        let before = self.connections.fetch_add(1, Ordering::Relaxed);
        let place = Place(self.clone());
        (before < self.max_connections).then_some(place)
    }

    #[cfg(test)]
    pub(super) fn taken(&self) -> (usize, usize) {
        (self.connections.load(Ordering::Relaxed), self.received.taken())
    }

    #[cfg(test)]
    pub(super) fn answer_bytes(&self) -> usize {
        self.answers.taken()
    }

    /// Lets receive buffers, and answers, take only this many bytes.
    #[cfg(test)]
    pub(super) fn with_bytes(most: usize) -> Arc<Self> {
        let limits = Self::new(None, None);
        let limits = Arc::into_inner(limits).expect("it was made for this test");
        Arc::new(Self { received: Pool::new(most), answers: Pool::new(most), ..limits })
    }
}

/// The place of an accepted connection. Dropped, it is free again.
#[derive(Debug)]
pub(super) struct Place(Arc<Limits>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the receive buffer of a connection, or the answers that wait for it, take beyond the usual
/// size. Dropped, it is given back.
#[derive(Debug)]
pub(super) struct Share {
    limits: Arc<Limits>,
    kind: Kind,
    bytes: usize,
}

impl Share {
    pub(super) fn of_received(limits: Arc<Limits>) -> Self {
        Self { limits, kind: Kind::Received, bytes: 0 }
    }

    pub(super) fn of_answers(limits: Arc<Limits>) -> Self {
        Self { limits, kind: Kind::Answers, bytes: 0 }
    }

    fn pool(&self) -> &Pool {
        match self.kind {
            Kind::Received => &self.limits.received,
            Kind::Answers => &self.limits.answers,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Notes how much it takes now. Whether that fits, the caller has [asked](Self::fits).
    pub(super) fn set(&mut self, bytes: usize) {
        if bytes == self.bytes {
            return;
        }
        let taken = &self.pool().taken;
        if bytes > self.bytes {
            taken.fetch_add(bytes - self.bytes, Ordering::Relaxed);
        } else {
            taken.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        }
        self.bytes = bytes;
    }

    /// Notes how many bytes of answers wait.
    pub(super) fn set_queued(&mut self, bytes: usize) {
        self.set(bytes.saturating_sub(USUAL_ANSWER_BYTES));
    }

    /// Whether all together take more than they may, and this one takes some of it.
    pub(super) fn is_too_much(&self) -> bool {
        self.bytes > 0 && self.pool().taken() > self.pool().most
    }

    /// Whether there is room for this many bytes instead of those that it takes. Two threads that
    /// ask at once might both be told so, and take one step more than there is.
    pub(super) fn fits(&self, bytes: usize) -> bool {
        bytes <= self.bytes || self.pool().taken() + (bytes - self.bytes) <= self.pool().most
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}

fn default_max_connections() -> usize {
    let half = descriptors().map_or(usize::MAX, |most| most / DESCRIPTORS_PART);
    DEFAULT_MAX_CONNECTIONS.min(half)
}

/// Returns how many descriptors this process may have.
#[cfg(target_os = "linux")]
fn descriptors() -> Option<usize> {
    use rustix::process::{Resource, getrlimit};

    usize::try_from(getrlimit(Resource::Nofile).current?).ok()
}

#[cfg(not(target_os = "linux"))]
fn descriptors() -> Option<usize> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_its_connection_ends() {
        let limits = Limits::new(Some(2), None);
        let places = [limits.admit(), limits.admit()];
        assert!(places.iter().all(Option::is_some) && limits.admit().is_none());
        assert_eq!(limits.taken().0, 2, "who is refused takes none");
        drop(places);
        assert!(limits.admit().is_some());
        assert!(Limits::new(None, None).max_connections() <= DEFAULT_MAX_CONNECTIONS);
    }

    #[test]
    fn receive_buffers_have_a_part_of_the_memory() {
        let limits = Limits::new(None, Some(160 << 20));
        let mut share = Share::of_received(limits.clone());
        assert!(share.fits(74 << 20) && !share.fits((74 << 20) + 1));
        share.set(70 << 20);
        let other = Share::of_received(limits.clone());
        assert!(share.fits(74 << 20) && other.fits(4 << 20) && !other.fits(5 << 20));
        share.set(1);
        assert_eq!(limits.taken().1, 1);
        drop(share);
        assert_eq!(limits.taken().1, 0);
    }
}
