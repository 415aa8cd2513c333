//! What a handoff asks of its shard.

use std::sync::Arc;

use super::copy::ToFetch;
use crate::entry::Entry;
use crate::placement::List;
use crate::types::{Identity, KeyHash};
use crate::wire::message::Request;

/// What a handoff wants its shard to do.
#[derive(Debug, PartialEq)]
pub(crate) enum HandoffAction {
    /// Ask `to`. The answer goes to [`Handoff::answered`](super::Handoff::answered).
    Ask {
        to: Identity,
        request: Request,
    },
    /// Tell `to` this list. The answer goes to [`Handoff::answered`](super::Handoff::answered).
    Tell {
        to: Identity,
        list: Arc<List>,
    },
    /// Fetch from `to`. The shard fills in the digest of what it holds.
    Fetch {
        to: Identity,
        after: Option<KeyHash>,
        since: u64,
    },
    /// Merge these entries into the store, then call
    /// [`Handoff::applied`](super::Handoff::applied).
    Apply(Vec<Entry>),
    /// There was no room here for this much of what a source holds. The handoff is over.
    NoRoom {
        missing_bytes: usize,
    },
    /// This node serves this list from now on.
    Adopt(Arc<List>),
    /// This node holds everything that was acknowledged before the list.
    Synced(Arc<List>),
    /// W replicas of the last list died before they were copied: acknowledged writes might be lost.
    AtRisk,
    Finished,
}

/// Returns the action that fetches a part from a source.
pub(super) fn fetch(ToFetch { from: to, after, since }: ToFetch) -> HandoffAction {
    HandoffAction::Fetch { to, after, since }
}
