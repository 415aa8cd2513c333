//! [`Effect`]: what one part of a shard did that another part must know.
//!
//! A part finishes its work before any other part learns of it. The joint hands each effect on, in
//! the order in which they arose, until there are none left:
//!
//! ```text
//!   replica       ── Listed ─────────────────────────────────▶ coordinator
//!   coordinator   ── Acknowledged · Ended · ReadAnywhere ────▶ data centers
//!   data centers  ── Call · WriteRelayed · Reply ────────────▶ coordinator
//!   coordinator   ── Count ──────────────────────────────────▶ the joint, which asks all parts
//! ```

use std::sync::Arc;

use super::caller::{Caller, SiteCaller};
use super::calls::{Call, Outcome, ReadCall};
use crate::entry::Entry;
use crate::placement::List;
use crate::types::{KeyHash, Partition};

pub(super) enum Effect<C> {
    /// This node counts in this list of the partition from now on, and so do the calls of its keys.
    Listed { partition: Partition, list: Arc<List> },
    /// A write was acknowledged here, and the other data centers should have it.
    Acknowledged { hash: KeyHash, entry: Entry },
    /// A call that was made for the part for other data centers has ended.
    Ended { caller: SiteCaller, outcome: Outcome },
    /// An app reads a key that any data center might have.
    ReadAnywhere { call: ReadCall, caller: Caller<C> },
    /// A call is to be made.
    Call { call: Call, caller: Caller<C> },
    /// Another data center has acknowledged a write, which is to be written here too.
    WriteRelayed { hash: KeyHash, entry: Entry, caller: Caller<C> },
    /// A read that any data center might have answered has ended.
    Reply { caller: Caller<C>, outcome: Outcome },
    /// An app asks what this core holds and does.
    Count { caller: Caller<C> },
}
