//! [`Effect`]: what one part of a shard did that another part must know.
//!
//! A part finishes its work before any other part learns of it. The shard delivers each effect, in
//! the order in which they arose, until there are none left:
//!
//! ```text
//!   replica       ── ListChanged ─────────────────────────────────────▶ coordinator
//!   coordinator   ── WriteAcknowledged · CallEnded · ReadAnywhere ────▶ data centers
//!   data centers  ── BeginCall · StoreRelayed · ReplyToCaller ────────▶ coordinator
//!   coordinator   ── CountWanted ─────────────────────────────────────▶ the shard, which asks all
//! ```

use super::caller::{Caller, SiteCaller};
use super::calls::{Call, Outcome, ReadCall};
use crate::entry::Entry;
use crate::types::{KeyHash, Partition};

/// What one part did that another must know.
pub(super) enum Effect<C> {
    /// This node counts in another list of the partition's replicas from now on. The calls of the
    /// partition's keys must count in it, too.
    ListChanged { partition: Partition },
    /// A write of this data center was acknowledged. The other data centers should have it.
    WriteAcknowledged { hash: KeyHash, entry: Entry },
    /// A call that the part for other data centers began has ended.
    CallEnded { caller: SiteCaller, outcome: Outcome },
    /// An app reads a key that any data center might have.
    ReadAnywhere { call: ReadCall, caller: Caller<C> },
    /// The coordinator is to begin a call.
    BeginCall { call: Call, caller: Caller<C> },
    /// The coordinator is to store a write here that another data center has acknowledged.
    StoreRelayed { hash: KeyHash, entry: Entry, caller: Caller<C> },
    /// A read that any data center could answer has ended.
    ReplyToCaller { caller: Caller<C>, outcome: Outcome },
    /// An app asks what this core holds and does.
    CountWanted { caller: Caller<C> },
}
