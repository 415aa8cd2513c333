//! What one part of a shard did that another must know.

use std::sync::Arc;

use super::calls::{Outcome, ReadCall};
use super::{Call, Caller};
use crate::entry::Entry;
use crate::placement::List;
use crate::types::{KeyHash, Partition};

use super::groups::RemoteCaller;

pub(super) enum Effect<C> {
    /// The replica counts in this list of the partition from now on: so do the calls of its keys.
    Listed { partition: Partition, list: Arc<List> },
    /// A write was acknowledged here: the other data centers should have it.
    Acknowledged { hash: KeyHash, entry: Entry },
    /// A call that was made for another data center, or before asking one, has ended.
    Ended { caller: RemoteCaller, outcome: Outcome },
    /// An app reads a key of any data center.
    ReadAnywhere { call: ReadCall, caller: Caller<C> },
    /// A read of this data center's replicas is wanted.
    Call { call: Call, caller: Caller<C> },
    /// A write that another data center has acknowledged is to be written here.
    WriteRelayed { hash: KeyHash, entry: Entry, caller: Caller<C> },
    /// A read of any data center has ended.
    Reply { caller: Caller<C>, outcome: Outcome },
    /// An app asks what this core holds and does.
    Count { caller: Caller<C> },
}
