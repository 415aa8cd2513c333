//! The replicas that a node fetches a partition from, and how far it has got with each.
//!
//! **Problem.** A partition is larger than one message, and its sources change while it is fetched.
//! The node must know up to which change of each source it holds everything.
//!
//! ```text
//!             the last chunk            fetched again: what changed since
//!   Pending ──────────────────▶ Done ─────────────────────────────────────▶ Pending
//!      │       no answer                fetched again
//!      └──────────────────────▶ Skipped ──────────────────────────────────▶ Pending
//! ```
//!
//! **Invariant.** Every change of a source up to [`Source::merged_to`] of its sequence is here.
//! What changes while the chunks come is behind the sequence of the first one, and belongs to the
//! next fetch.
//!
//! This file says what to fetch next; the handoff asks.

use crate::placement::List;
use crate::types::{Identity, KeyHash};
use crate::wire::message::Chunk;

/// The replicas to merge into a list that was adopted already.
pub(crate) struct ToMerge {
    pub(crate) sources: Vec<Identity>,
    /// Those in the list that want a receipt. One outside it always gets one.
    pub(crate) receipts: Vec<Identity>,
}

/// The replicas that are fetched from, one after the other.
#[derive(Debug)]
pub(super) struct Sources {
    me: Identity,
    sources: Vec<Source>,
}

#[derive(Clone, Debug, PartialEq)]
struct Source {
    replica: Identity,
    /// Whether it is a synced member of the list that is replaced.
    is_synced: bool,
    /// Whether it wants a receipt, though it is in the list.
    wants_receipt: bool,
    /// Up to which change of its sequence its entries are here.
    merged_to: u64,
    /// Up to which change they are here when the fetch that runs is complete.
    covers: Option<u64>,
    state: FetchState,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum FetchState {
    /// It is to be fetched from, or that has begun.
    Pending,
    /// Everything up to `merged_to` is here, since the list was adopted.
    Done,
    /// It did not answer.
    Skipped,
}

/// A part of a source's entries that is to be asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ToFetch {
    pub(super) from: Identity,
    /// The hash behind which it begins; `None` for the first part.
    pub(super) after: Option<KeyHash>,
    /// Only entries that the source stored after this point of its sequence.
    pub(super) since: u64,
}

/// What follows from a chunk.
#[derive(Debug)]
pub(super) enum Next {
    /// The source has more.
    Fetch(ToFetch),
    /// Everything of the source is here.
    Complete,
}

impl Sources {
    pub(super) fn new(me: Identity) -> Self {
        Self { me, sources: Vec::new() }
    }

    pub(super) fn clear(&mut self) {
        self.sources.clear();
    }

    /// Adds a replica behind the others, unless it is there already or is this node.
    pub(super) fn add(&mut self, replica: Identity, is_synced: bool) {
        if replica != self.me && self.sources.iter().all(|source| source.replica != replica) {
            let (state, wants_receipt, merged_to) = (FetchState::Pending, false, 0);
            let covers = None;
            self.sources.push(Source {
                replica,
                is_synced,
                wants_receipt,
                merged_to,
                covers,
                state,
            });
        }
    }

    /// Adds replicas to merge into a list that was adopted already.
    pub(super) fn add_all(&mut self, ToMerge { sources, receipts }: ToMerge) {
        sources.into_iter().for_each(|source| self.add(source, false));
        for source in &mut self.sources {
            source.wants_receipt = receipts.contains(&source.replica);
        }
    }

    pub(super) fn retain(&mut self, is_kept: impl Fn(&Identity) -> bool) {
        self.sources.retain(|source| is_kept(&source.replica));
    }

    pub(super) fn truncate(&mut self, len: usize) {
        self.sources.truncate(len);
    }

    /// Counts only those as synced that have adopted the new list. Another one might still
    /// acknowledge a write in the old list after it was merged.
    pub(super) fn keep_synced(&mut self, adopted: &[Identity]) {
        for source in &mut self.sources {
            source.is_synced &= adopted.contains(&source.replica);
        }
    }

    pub(super) fn replicas(&self) -> Vec<Identity> {
        self.sources.iter().map(|source| source.replica).collect()
    }

    /// Returns the replicas from which something is still to be fetched, or was not to be had.
    pub(super) fn open(&self) -> Vec<Identity> {
        let open = self.sources.iter().filter(|source| source.state != FetchState::Done);
        open.map(|source| source.replica).collect()
    }

    /// Returns the replicas that did not answer.
    pub(super) fn skipped(&self) -> impl Iterator<Item = &Identity> {
        let skipped = self.sources.iter().filter(|source| source.state == FetchState::Skipped);
        skipped.map(|source| &source.replica)
    }

    /// Returns how many synced members of the old list were fetched from.
    pub(super) fn count_synced(&self) -> usize {
        let merged = |source: &&Source| source.is_synced && source.state == FetchState::Done;
        self.sources.iter().filter(merged).count()
    }

    /// Returns the replicas that were fetched from and are to hear of it, with the change up to
    /// which they were: those outside `list`, and those that want a receipt.
    pub(super) fn givers<'a>(
        &'a self,
        list: &'a List,
    ) -> impl Iterator<Item = (Identity, u64)> + 'a {
        let is_giver = |source: &&Source| {
            source.state == FetchState::Done
                && (source.wants_receipt || !list.contains(&source.replica))
        };
        self.sources.iter().filter(is_giver).map(|source| (source.replica, source.merged_to))
    }

    /// Returns up to which change of `replica` everything is here; `None` if it is no source.
    pub(super) fn merged_to(&self, replica: &Identity) -> Option<u64> {
        let found = self.sources.iter().find(|source| source.replica == *replica);
        found.map(|source| source.merged_to)
    }

    pub(super) fn position(&self, replica: &Identity) -> Option<usize> {
        self.sources.iter().position(|source| source.replica == *replica)
    }

    /// Returns the first part of everything that the best source holds; `None` if there is no
    /// source.
    pub(super) fn first_part(&self) -> Option<ToFetch> {
        self.sources.first().map(|source| ToFetch { from: source.replica, after: None, since: 0 })
    }

    /// Begins to fetch from the source at `at` what it has changed since the last time; `None`
    /// behind the last.
    pub(super) fn begin(&mut self, at: usize) -> Option<ToFetch> {
        let source = self.sources.get_mut(at)?;
        source.state = FetchState::Pending;
        Some(ToFetch { from: source.replica, after: None, since: source.merged_to })
    }

    /// Returns the replica whose chunks are waited for when the source at `at` is fetched from.
    pub(super) fn awaited(&self, at: usize) -> Option<Identity> {
        let source = self.sources.get(at).filter(|source| source.state == FetchState::Pending);
        source.map(|source| source.replica)
    }

    /// Notes that `replica` did not answer: what came of a fetch that runs is not counted.
    pub(super) fn skip(&mut self, replica: &Identity) {
        for source in self.sources.iter_mut().filter(|source| source.replica == *replica) {
            (source.state, source.covers) = (FetchState::Skipped, None);
        }
    }

    /// Takes up a chunk of the source at `at`; `None` if no chunk of `from` is waited for.
    pub(super) fn take_chunk(&mut self, at: usize, from: &Identity, chunk: &Chunk) -> Option<Next> {
        self.awaited(at).filter(|awaited| awaited == from)?;
        let source = self.sources.get_mut(at)?;
        let covers = *source.covers.get_or_insert(chunk.sequence);
        if let Some(after) = chunk.next {
            let since = source.merged_to;
            return Some(Next::Fetch(ToFetch { from: *from, after: Some(after), since }));
        }
        (source.merged_to, source.covers, source.state) = (covers, None, FetchState::Done);
        Some(Next::Complete)
    }
}
