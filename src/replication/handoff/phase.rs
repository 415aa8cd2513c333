//! The phases of a handoff: what each of them waits for.

use std::mem;
use std::sync::Arc;

use super::plan::Plan;
use crate::placement::List;
use crate::replication::mismatch::mismatch;
use crate::types::Identity;
use crate::wire::message::Listed;

/// What a handoff does now, and whose answers it waits for.
#[derive(Debug)]
pub(super) enum Phase {
    Backoff,
    Survey { unanswered: Vec<Identity>, reports: Vec<(Identity, Listed)>, missing: Vec<Identity> },
    Copy { plan: Plan, to_tell: Vec<Identity> },
    Adopt { plan: Plan, unanswered: Vec<Identity>, adopted: Vec<Identity>, missing: Vec<Identity> },
    Merge { plan: Plan, at: usize },
    Receipts { list: Arc<List>, unanswered: Vec<Identity> },
}

/// What a survey found when it is over.
pub(super) struct Collected {
    pub(super) reports: Vec<(Identity, Listed)>,
    /// The members that did not answer.
    pub(super) missing: Vec<Identity>,
}

impl Phase {
    /// Whether an answer of any of these matters to it, sources left out.
    pub(super) fn involves(&self, gone: impl Fn(&Identity) -> bool) -> bool {
        match self {
            Self::Backoff | Self::Merge { .. } => false,
            Self::Survey { unanswered, missing, .. } | Self::Adopt { unanswered, missing, .. } => {
                unanswered.iter().chain(missing).any(gone)
            }
            Self::Receipts { unanswered, .. } => unanswered.iter().any(gone),
            Self::Copy { to_tell, .. } => to_tell.iter().any(gone),
        }
    }

    /// Returns the members that it waits for. Copy and Merge wait for one source.
    pub(super) fn unanswered(&self) -> &[Identity] {
        match self {
            Self::Survey { unanswered, .. }
            | Self::Adopt { unanswered, .. }
            | Self::Receipts { unanswered, .. } => unanswered,
            Self::Backoff | Self::Copy { .. } | Self::Merge { .. } => &[],
        }
    }

    /// Returns the position of the source that it waits for.
    pub(super) fn source_at(&self) -> Option<usize> {
        match self {
            Self::Copy { .. } => Some(0),
            Self::Merge { at, .. } => Some(*at),
            Self::Backoff | Self::Survey { .. } | Self::Adopt { .. } | Self::Receipts { .. } => {
                None
            }
        }
    }

    /// Takes the reports of a survey, and who is missing; `None` while some are waited for.
    pub(super) fn take_reports(&mut self) -> Option<Collected> {
        let Self::Survey { unanswered, reports, missing } = self else {
            mismatch("a handoff decides without a survey");
            return None;
        };
        unanswered
            .is_empty()
            .then(|| Collected { reports: mem::take(reports), missing: mem::take(missing) })
    }

    /// Ends Adopt, and returns its plan, who has adopted the list, and who is missing; `None` while
    /// some are waited for.
    pub(super) fn take_adopted(&mut self) -> Option<(Plan, Vec<Identity>, Vec<Identity>)> {
        match mem::replace(self, Self::Backoff) {
            Self::Adopt { plan, unanswered, adopted, missing } if unanswered.is_empty() => {
                Some((plan, adopted, missing))
            }
            waiting => {
                *self = waiting;
                None
            }
        }
    }

    /// Notes that `from` was asked and has not answered. It is not waited for any more.
    pub(super) fn miss(&mut self, from: &Identity) {
        match self {
            Self::Survey { unanswered, missing, .. } | Self::Adopt { unanswered, missing, .. } => {
                if take(unanswered, from) {
                    missing.push(*from);
                }
            }
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
