//! The phases of a handoff: what each of them waits for.

use std::sync::Arc;

use super::copy::{are_whole, in_next_list};
use super::register::Quorum;
use crate::placement::{Ballot, List};
use crate::quorums::Quorums;
use crate::types::Identity;
use crate::wire::message::Extent;

/// What a handoff does now, and whose answers it waits for.
#[derive(Debug)]
pub(super) enum Phase {
    Backoff,
    /// Which list is the highest? Those that did not answer are `missing`.
    Survey {
        unanswered: Vec<Identity>,
        missing: Vec<Identity>,
        /// Who answered, and whether they see the same members as this node.
        answered: Vec<(Identity, bool)>,
        /// Whether all members are asked.
        is_wide: bool,
    },
    /// A bulk copy of the source at `at`, while the old list counts.
    Copy {
        list: Arc<List>,
        at: usize,
    },
    Prepare(Vote),
    Accept(Vote),
    Merge {
        list: Arc<List>,
        at: usize,
    },
    Receipts {
        list: Arc<List>,
        unanswered: Vec<Identity>,
    },
}

/// A ballot in the register of a list.
#[derive(Debug)]
pub(super) struct Vote {
    pub(super) list: Arc<List>,
    pub(super) ballot: Ballot,
    /// The next list: the one that was accepted under the highest ballot, or the one that is
    /// wished.
    pub(super) value: Arc<List>,
    /// Under which ballot `value` was accepted; the lowest ballot if it is only wished.
    pub(super) accepted_under: Ballot,
    pub(super) unanswered: Vec<Identity>,
    pub(super) given: Vec<Identity>,
    /// The acceptors that were certainly gone when the others were asked. Who goes later does not
    /// count: until then it might have decided with others.
    pub(super) over: Vec<Identity>,
    /// What the members that promised have of what was acknowledged before `list`.
    pub(super) extents: Vec<Extent>,
    /// Those that had to be told the list first.
    pub(super) told: Vec<Identity>,
}

impl Vote {
    /// Returns what counts in this vote.
    pub(super) fn quorum(&self, quorums: Quorums) -> Quorum<'_> {
        Quorum { list: &self.list, quorums, over: &self.over }
    }

    /// Whether a member that promised is not whole.
    pub(super) fn is_early(&self) -> bool {
        self.count_whole() < self.extents.len()
    }

    /// Returns how many members that promised are whole.
    pub(super) fn count_whole(&self) -> usize {
        self.extents.iter().filter(|extent| **extent == Extent::Whole).count()
    }

    /// Whether the members that promised could make a copy whole in the next list.
    pub(super) fn has_sources(&self, quorums: Quorums) -> bool {
        are_whole(quorums, &self.value, self.extents.iter().map(|extent| in_next_list(*extent)))
    }
}

impl Phase {
    /// Returns the members that it waits for. Copy and Merge wait for one source.
    pub(super) fn unanswered(&self) -> &[Identity] {
        match self {
            Self::Survey { unanswered, .. } | Self::Receipts { unanswered, .. } => unanswered,
            Self::Prepare(vote) | Self::Accept(vote) => &vote.unanswered,
            Self::Backoff | Self::Copy { .. } | Self::Merge { .. } => &[],
        }
    }

    /// Returns the position of the source that it waits for.
    pub(super) fn source_at(&self) -> Option<usize> {
        match self {
            Self::Copy { at, .. } | Self::Merge { at, .. } => Some(*at),
            Self::Backoff
            | Self::Survey { .. }
            | Self::Prepare(_)
            | Self::Accept(_)
            | Self::Receipts { .. } => None,
        }
    }

    /// Notes that `from` was asked and has not answered. It is not waited for any more.
    pub(super) fn miss(&mut self, from: &Identity) {
        match self {
            Self::Survey { unanswered, missing, .. } => {
                if take(unanswered, from) {
                    missing.push(*from);
                }
            }
            Self::Prepare(vote) | Self::Accept(vote) => drop(take(&mut vote.unanswered, from)),
            Self::Receipts { unanswered, .. } => drop(take(unanswered, from)),
            // The sources note that themselves; a pause waits for no answer.
            Self::Copy { .. } | Self::Merge { .. } | Self::Backoff => {}
        }
    }
}

/// Removes `member`, and returns whether it was there.
pub(super) fn take(members: &mut Vec<Identity>, member: &Identity) -> bool {
    let before = members.len();
    members.retain(|other| other != member);
    members.len() < before
}
