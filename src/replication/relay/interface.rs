//! What the machine is told, and what it wants done.

use crate::entry::Entry;
use crate::types::Identity;

/// A member of another data center that can relay, and how many cores it has.
pub(crate) type Candidate = (Identity, u16);

/// What the machine wants its shard to do.
#[derive(Debug, PartialEq)]
pub(crate) enum RelayAction {
    /// Send these to `to`, through a helper if one is named. All of them belong to one of its
    /// cores. `Relays::relayed` or `Relays::failed` is told with this number.
    Send { batch: u64, to: Identity, helper: Option<Identity>, entries: Vec<Entry> },
}
