//! What is different in a simulated cluster: bugs on purpose, and fewer partitions.
//!
//! A checker that never found anything proves nothing. Each [`Planted`] bug leaves out one rule of the protocol, where
//! that rule is; the simulator plants one and shows that a promise breaks. And a change of members costs as much as
//! there are partitions, which all go through the same: a simulation of a few is worth more than the same of all.
//!
//! Without the feature `sim` all of this is constant, and nothing is left of it.
#![cfg_attr(
    not(feature = "sim"),
    expect(unreachable_pub, dead_code, reason = "public in the simulator alone")
)]

#[cfg(feature = "sim")]
use std::cell::Cell;

/// A rule that is left out.
#[doc(hidden)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Planted {
    /// A replica acknowledges a write, and applies it some time later.
    AcknowledgedFirst,
    /// A replica that may lack writes says that it is synced when it is read.
    PendingCounts,
    /// A replica answers for whatever list it is asked in.
    AnyList,
    /// A strong read returns what R replicas agree on without making sure that W have it.
    WrittenBackOnDifference,
    /// A write is stamped anew whenever a replica has something newer, acknowledged or not.
    StampedAgain,
    /// Digests and comparisons leave out what a key's value is.
    ContentNotCompared,
    /// This node's word that there is nothing is enough.
    MissNotConfirmed,
    /// Versions are what the wall clock says.
    WallClock,
    /// An acknowledged write is not offered again to a replica that missed it.
    NothingOwed,
    /// Replicas do not compare what they hold.
    NothingCompared,
    /// A list is replaced without its members' leave: they go on counting for it.
    NotLeft,
    /// A list is replaced by who has seen only the lowest of those that were reported.
    LowestReplaced,
    /// A replica is synced when it has merged one other.
    OneSource,
    /// Whoever is in a list counts as synced in it.
    ListedCounts,
    /// A node that lost its memory takes itself for the member of a list that it was.
    BootIgnored,
    /// A replica that has adopted a list adopts no other before it is synced.
    AdoptedOnce,
    /// A replica drops its copy when it is not in the list any more.
    DroppedUnasked,
    /// A node that leaves does not wait until its data is taken over.
    LeftAtOnce,
    /// Nobody comes in for replicas that died.
    NothingRestored,
    /// Lists are born by whoever sees W members, whatever these see.
    BornAlone,
    /// A tombstone goes when it is old, whatever others hold.
    PurgedByTime,
    /// What was forgotten is taken from any message.
    HorizonIgnored,
    /// Replicas and coordinators take themselves for part of a majority.
    LeaseIgnored,
    /// A majority replaces lists before it is certain that nobody else counts in them.
    FollowedAtOnce,
    /// Nobody waits for members that are away before a tombstone goes.
    AbsentIgnored,
    /// A read takes a value for the newest though another replica may have evicted a newer one.
    MarkIgnored,
    /// A delete may be evicted as a value is.
    TombstonesEvicted,
    /// Copies in different data centers are not compared.
    FarNotCompared,
    /// Lists of other data centers are taken for those of this one.
    FarListsCount,
    /// A tombstone goes when all of its own data center agree.
    FarNotAsked,
}

impl Planted {
    /// All of them.
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
    /// A simulated cluster runs on one thread.
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

/// How many of `all` partitions there are.
#[cfg(not(feature = "sim"))]
pub(crate) const fn partitions_in_use(all: u16) -> u16 {
    all
}

#[cfg(feature = "sim")]
pub(crate) fn partitions_in_use(all: u16) -> u16 {
    all.min(PARTITIONS.get())
}

/// Makes what runs on this thread from here on one with this bug, or none, and so many partitions.
#[cfg(feature = "sim")]
pub(crate) fn simulate(planted: Option<Planted>, partitions: u16) {
    PLANTED.set(planted);
    PARTITIONS.set(partitions);
}
