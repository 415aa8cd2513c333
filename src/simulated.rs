//! What is different in a simulated cluster: bugs on purpose, and fewer partitions.
//!
//! A checker that never found anything proves nothing. Each [`Planted`] bug leaves out one rule of
//! the protocol, at the place of that rule. The simulator plants one and shows that a promise
//! breaks.
//!
//! A change of members costs in proportion to the partitions, and all of them go through the same.
//! So a simulation uses a few, and runs more histories.
//!
//! Without the feature `sim` all of this is constant, and the compiler leaves nothing of it.
#![cfg_attr(
    not(feature = "sim"),
    expect(unreachable_pub, dead_code, reason = "public in the simulator alone")
)]

#[cfg(feature = "sim")]
use std::cell::Cell;

/// A rule of the protocol that is left out.
#[doc(hidden)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Planted {
    /// A replica acknowledges a write, and applies it some time later.
    AcknowledgedFirst,
    /// A replica that may lack writes says that it is synced when it is read.
    PendingCounts,
    /// A replica answers in any list in which it is asked.
    AnyList,
    /// A strong read returns what R replicas agree on without making sure that W have it.
    WrittenBackOnDifference,
    /// A write gets a new version whenever a replica has something newer, acknowledged or not.
    StampedAgain,
    /// Digests and comparisons leave out the values of keys.
    ContentNotCompared,
    /// The reading node alone decides that a key does not exist.
    MissNotConfirmed,
    /// Versions are the time of the wall clock.
    WallClock,
    /// An acknowledged write is not offered again to a replica that missed it.
    NothingOwed,
    /// Replicas do not compare what they hold.
    NothingCompared,
    /// A list is replaced before its members have left it: they go on counting in it.
    NotLeft,
    /// A list is replaced by a node that has seen only the lowest of the reported lists.
    LowestReplaced,
    /// A replica is synced when it has merged one other.
    OneSource,
    /// Every replica in a list counts as synced in it.
    ListedCounts,
    /// A node that lost its memory takes itself for the member of a list that it was.
    BootIgnored,
    /// A replica that has adopted a list adopts no other before it is synced.
    AdoptedOnce,
    /// A replica drops its copy when it is not in the list any more.
    DroppedUnasked,
    /// A node that leaves does not wait until its data is taken over.
    LeftAtOnce,
    /// No node replaces a replica that died.
    NothingRestored,
    /// A node that sees W members creates the first lists, without asking what these see.
    BornAlone,
    /// A tombstone goes when it is old, without regard to what other replicas hold.
    PurgedByTime,
    /// A write that was forgotten is accepted from any message.
    HorizonIgnored,
    /// Replicas and coordinators always take themselves for part of a majority.
    LeaseIgnored,
    /// A majority replaces lists before it is certain that no other node counts in them.
    FollowedAtOnce,
    /// A tombstone goes without waiting for members that are away.
    AbsentIgnored,
    /// A read takes a value for the newest though another replica might have evicted a newer one.
    MarkIgnored,
    /// A tombstone can be evicted as a value is.
    TombstonesEvicted,
    /// Copies in different data centers are not compared.
    FarNotCompared,
    /// Lists of other data centers are taken for those of this one.
    FarListsCount,
    /// A tombstone goes when all replicas of its own data center agree.
    FarNotAsked,
}

impl Planted {
    /// All bugs.
    pub const ALL: [Self; 30] = [
        Self::AcknowledgedFirst,
        Self::PendingCounts,
        Self::AnyList,
        Self::WrittenBackOnDifference,
        Self::StampedAgain,
        Self::ContentNotCompared,
        Self::MissNotConfirmed,
        Self::WallClock,
        Self::NothingOwed,
        Self::NothingCompared,
        Self::NotLeft,
        Self::LowestReplaced,
        Self::OneSource,
        Self::ListedCounts,
        Self::BootIgnored,
        Self::AdoptedOnce,
        Self::DroppedUnasked,
        Self::LeftAtOnce,
        Self::NothingRestored,
        Self::BornAlone,
        Self::PurgedByTime,
        Self::HorizonIgnored,
        Self::LeaseIgnored,
        Self::FollowedAtOnce,
        Self::AbsentIgnored,
        Self::MarkIgnored,
        Self::TombstonesEvicted,
        Self::FarNotCompared,
        Self::FarListsCount,
        Self::FarNotAsked,
    ];
}

#[cfg(feature = "sim")]
std::thread_local! {
    // A simulated cluster runs on one thread.
    static PLANTED: Cell<Option<Planted>> = const { Cell::new(None) };
    static PARTITIONS: Cell<u16> = const { Cell::new(u16::MAX) };
}

/// Whether this bug is planted in the cluster that runs now.
#[cfg(not(feature = "sim"))]
pub(crate) const fn is_planted(_: Planted) -> bool {
    false
}

#[cfg(feature = "sim")]
pub(crate) fn is_planted(bug: Planted) -> bool {
    PLANTED.get() == Some(bug)
}

/// Returns how many of `all` partitions are in use.
#[cfg(not(feature = "sim"))]
pub(crate) const fn partitions_in_use(all: u16) -> u16 {
    all
}

#[cfg(feature = "sim")]
pub(crate) fn partitions_in_use(all: u16) -> u16 {
    all.min(PARTITIONS.get())
}

/// Sets the bug, if any, and the number of partitions for the cluster that this thread runs from
/// here on.
#[cfg(feature = "sim")]
pub(crate) fn simulate(planted: Option<Planted>, partitions: u16) {
    PLANTED.set(planted);
    PARTITIONS.set(partitions);
}
