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
//! **Whole.** A copy is whole in a list if it has all that was acknowledged before the list. It is
//! if it is made of f + 1 copies that were open, as at most f of those lack a write; or of enough
//! that every write of the list before is on one of them, one of which was whole in that list; or
//! of one that is whole.
//!
//! **Idle** is a member of the list before that never had it open, and learned of the list: so it
//! never will. It acknowledged nothing in the list before. A write there is on W *other* members,
//! so an idle one counts like one that had the list open when it is asked whether every write is on
//! one of them. What earlier lists acknowledged it might lack: for that, one must have been whole.
//!
//! This file says what to fetch next; the handoff asks.

use crate::mutants::{ProtocolMutant, rule};
use crate::placement::List;
use crate::quorums::Quorums;
use crate::types::{Identity, KeyHash};
use crate::wire::message::{Chunk, Extent};

/// Whether a copy that is made of these has all that was acknowledged before the list.
pub(crate) fn are_whole(
    quorums: Quorums,
    list: &List,
    copies: impl Iterator<Item = Extent>,
) -> bool {
    let before = list.before().len();
    let copies: Vec<Extent> = copies.collect();
    let count = |least| copies.iter().filter(|extent| **extent >= least).count();
    let (open, sealed) = (count(Extent::Open), count(Extent::Idle));
    let best = copies.into_iter().max().unwrap_or_default();
    let wanted = if rule(ProtocolMutant::OneSource, true) { quorums.all_writes() } else { 1 };
    before == 0
        || best == Extent::Whole
        || open >= wanted
        || best == Extent::WholeBefore && sealed >= quorums.write.transfer_quorum(before)
}

/// Returns what a member that has this of its list has of the next one, once it has learned that.
pub(super) fn in_next_list(extent: Extent) -> Extent {
    match extent {
        Extent::Any | Extent::Idle => Extent::Idle,
        Extent::Open | Extent::WholeBefore => Extent::Open,
        Extent::Whole => Extent::WholeBefore,
    }
}

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
    /// What it had when it sent its first chunk.
    extent: Extent,
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
    pub(super) fn add(&mut self, replica: Identity) {
        if replica != self.me && self.sources.iter().all(|source| source.replica != replica) {
            self.sources.push(Source {
                replica,
                extent: Extent::Any,
                wants_receipt: false,
                merged_to: 0,
                covers: None,
                state: FetchState::Pending,
            });
        }
    }

    /// Adds replicas to merge into a list that was adopted already.
    pub(super) fn add_all(&mut self, ToMerge { sources, receipts }: ToMerge) {
        sources.into_iter().for_each(|source| self.add(source));
        for source in &mut self.sources {
            source.wants_receipt |= receipts.contains(&source.replica);
        }
    }

    pub(super) fn retain(&mut self, is_kept: impl Fn(&Identity) -> bool) {
        self.sources.retain(|source| is_kept(&source.replica));
    }

    pub(super) fn replicas(&self) -> Vec<Identity> {
        self.sources.iter().map(|source| source.replica).collect()
    }

    /// Notes that another list counts: what was sent before is here, and says nothing about that
    /// list.
    pub(super) fn begin_list(&mut self) {
        for source in &mut self.sources {
            (source.state, source.covers, source.extent) = (FetchState::Pending, None, Extent::Any);
        }
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

    /// Returns how many replicas were fetched from.
    pub(super) fn count_merged(&self) -> usize {
        self.sources.iter().filter(|source| source.state == FetchState::Done).count()
    }

    /// Whether `replica` was fetched from.
    pub(super) fn has_merged(&self, replica: &Identity) -> bool {
        let done = self.sources.iter().filter(|source| source.state == FetchState::Done);
        done.into_iter().any(|source| source.replica == *replica)
    }

    /// Returns what each replica had that was fetched from.
    pub(super) fn extents(&self) -> impl Iterator<Item = Extent> {
        let done = self.sources.iter().filter(|source| source.state == FetchState::Done);
        done.map(|source| source.extent)
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

    /// Begins to fetch from the source at `at` what it has changed since the last time; `None`
    /// behind the last.
    pub(super) fn begin(&mut self, at: usize) -> Option<ToFetch> {
        let source = self.sources.get_mut(at)?;
        (source.state, source.covers, source.extent) = (FetchState::Pending, None, Extent::Any);
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

    /// Takes up a chunk of the source at `at`; `None` if no chunk of `from` is waited for. What it
    /// is when it sends the first one counts: up to that change everything comes. A giver may drop
    /// its copy before the last, and is no source from then on.
    pub(super) fn take_chunk(&mut self, at: usize, from: &Identity, chunk: &Chunk) -> Option<Next> {
        self.awaited(at).filter(|awaited| awaited == from)?;
        let source = self.sources.get_mut(at)?;
        if source.covers.is_none() {
            let is_pending = chunk.extent < Extent::Open;
            let counts = rule(ProtocolMutant::PendingGives, is_pending) || !is_pending;
            source.extent = if counts { chunk.extent } else { Extent::Open };
        } else if rule(ProtocolMutant::DroppedHalfWay, true) {
            // If it has dropped its copy since the first chunk, the rest of that never came.
            source.extent = source.extent.min(chunk.extent);
        }
        let covers = *source.covers.get_or_insert(chunk.sequence);
        if let Some(after) = chunk.next {
            let since = source.merged_to;
            return Some(Next::Fetch(ToFetch { from: *from, after: Some(after), since }));
        }
        (source.merged_to, source.covers, source.state) = (covers, None, FetchState::Done);
        Some(Next::Complete)
    }
}
