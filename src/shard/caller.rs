//! The maker of a call, and the numbers of what is under way on this core.

use crate::types::Partition;

/// An operation: a read or a write of one key with a quorum.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct OpId(pub(super) u64);

/// Calls that came in one message.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct GroupId(pub(super) u64);

/// A closure that an app runs on this core.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct RunId(pub(super) u64);

/// A batch of writes of another data center.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct RelayId(pub(super) u64);

/// A read for which other data centers may be asked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct ForwardId(pub(super) u64);

/// The maker of a call, which is told how the call ended.
pub(super) enum Caller<C> {
    App(C),
    /// The group that the call belongs to, and its position there.
    Group(GroupId, usize),
    /// The closure that made the call, a write.
    Run(RunId),
    /// The part of this shard that speaks with other data centers.
    DataCenters(SiteCaller),
}

/// On behalf of whom the part for other data centers made a call.
#[derive(Clone, Copy, Debug)]
pub(super) enum SiteCaller {
    /// A batch of another data center, and the write's position there.
    Relay(RelayId, u16),
    /// A node of another data center that forwarded a read.
    Forwarded(ReturnAddress),
    /// A read of an app, for which other data centers are asked next.
    Forward(ForwardId),
}

/// The address that the answer to a peer's request goes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ReturnAddress {
    /// The accepted connection that the request came by.
    pub(super) via: u64,
    pub(super) partition: Partition,
    pub(super) request_id: u64,
}
