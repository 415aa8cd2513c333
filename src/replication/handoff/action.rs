//! What a handoff asks of its shard.

use std::sync::Arc;

use super::copy::ToFetch;
use crate::entry::Entry;
use crate::placement::{List, ListRef};
use crate::types::{Identity, KeyHash};
use crate::wire::message::Request;

/// What a handoff wants its shard to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum HandoffAction {
    /// Ask `to`, which may be this node. The answer goes to
    /// [`Handoff::answered`](super::Handoff::answered).
    Ask {
        to: Identity,
        request: Request,
    },
    /// Tell `to` this list. The answer goes to [`Handoff::answered`](super::Handoff::answered).
    Tell {
        to: Identity,
        list: Arc<List>,
    },
    /// Fetch from `to`, which must know `list` if that names one. The shard fills in the digest of
    /// what it holds.
    Fetch {
        to: Identity,
        list: ListRef,
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
    /// The list counts from now on: learn it, then call
    /// [`Handoff::learned`](super::Handoff::learned).
    Learn(Arc<List>),
    /// This node holds all that was acknowledged before the list. It opens it, unless it has
    /// already.
    Whole(Arc<List>),
    /// Too many replicas died before they were copied: acknowledged writes might be lost.
    AtRisk,
    Finished,
}

/// Returns the action that fetches a part from a source. It must know `list` if it is a member of
/// that or of the list before; otherwise it might be of another data center.
pub(super) fn fetch(list: &List, ToFetch { from: to, after, since }: ToFetch) -> HandoffAction {
    let is_of_list = list.contains(&to) || list.before().contains(&to);
    let list = if is_of_list { list.reference() } else { ListRef::default() };
    HandoffAction::Fetch { to, list, after, since }
}
