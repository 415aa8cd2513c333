//! Bugs on purpose: what the simulator's checkers must notice.
//!
//! A checker that never found anything proves nothing. Each of these leaves out one rule of the protocol, where that
//! rule is; the simulator plants one and shows that a promise breaks. Without the feature `sim` [`is_planted`] is a
//! constant `false`, and nothing is left of it.

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
}

impl Planted {
    /// All of them.
    pub const ALL: [Self; 10] = [
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
    ];
}

/// Whether this bug is planted in the cluster that runs now.
#[cfg(not(feature = "sim"))]
pub(crate) const fn is_planted(_: Planted) -> bool {
    false
}

#[cfg(feature = "sim")]
std::thread_local! {
    /// A simulated cluster runs on one thread.
    static PLANTED: std::cell::Cell<Option<Planted>> = const { std::cell::Cell::new(None) };
}

#[cfg(feature = "sim")]
pub(crate) fn is_planted(bug: Planted) -> bool {
    PLANTED.get() == Some(bug)
}

/// Plants a bug into whatever runs on this thread from here on, or none.
#[cfg(feature = "sim")]
pub(crate) fn plant(bug: Option<Planted>) {
    PLANTED.set(bug);
}
