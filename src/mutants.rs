//! Rules that are left out on purpose, so that the checkers show that they notice.
//!
//! The models (`loom-tests/`) run the lock-free parts in every order. For each model there is an
//! [`OrderingMutant`]: one ordering is weakened, one fence or check is left out. A model that holds
//! with its mutant too has proved nothing, so each model also runs with it. In every other build
//! [`ordering`] and [`is_left_out`] are constant and nothing is left of them.

use std::sync::atomic::Ordering;

/// One rule of the lock-free parts, left out: a model must reject it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum OrderingMutant {
    /// An entry is published without [`Ordering::Release`].
    RelaxedPublish,
    /// A handle is dropped without [`Ordering::Release`].
    RelaxedDrop,
    /// A reader reads on without a fence behind its announcement.
    UnfencedPin,
    /// The writer looks at the readers without a fence behind its unlinking.
    UnfencedCollect,
    /// An epoch ends without [`Ordering::Release`].
    RelaxedEpoch,
    /// A reader that pins again does not say that it is done with what it saw before.
    RelaxedRepin,
    /// A reader's place is given back without [`Ordering::Release`].
    RelaxedExit,
    /// A tag that matches counts as a key that matches.
    TagIsKey,
    /// A key that leaves the stash takes along the count of another that stays.
    ClearedHint,
    /// Keys leave the old segment before the new ones are published.
    SplitInPlace,
    /// New segments or a new array are published without [`Ordering::Release`].
    RelaxedDirectory,
    /// What is unlinked is freed at once.
    FreeAtOnce,
    /// A miss is believed without looking at the partition's state again.
    TrustedMiss,
    /// A message is put into its slot of the ring without [`Ordering::Release`].
    RelaxedPush,
    /// A slot of the ring is given back without [`Ordering::Release`].
    RelaxedPop,
    /// A ring is closed only when what was in it has been dropped.
    LateClose,
    /// A sender that rings looks at the word without a fence behind the message.
    UnfencedRing,
    /// A thread looks at its work without a fence behind the word.
    UnfencedPark,
    /// A thread sleeps without another look at its work.
    UncheckedPark,
    /// A caller that is about to wait does not ring again.
    RungOnce,
    /// A wake that failed counts as one that came.
    ForgottenFailure,
    /// A sender that waits for room tries without a fence behind its entry in the list.
    UnfencedEntry,
    /// The inbox looks at the list without a fence behind the room that it made.
    UnfencedAdmit,
    /// The inbox makes room and tells no sender.
    SkippedAdmit,
    /// A sender that waits for room does not try again behind its entry in the list.
    UntriedEntry,
    /// A sender that is woken when it already has its room does not pass the wake on.
    KeptWake,
    /// A sender that is woken when its time is up goes without a try.
    LostWake,
    /// An inbox closes and tells no sender that waits for room.
    SilentClose,
    /// An answer is told without [`Ordering::Release`].
    RelaxedAnswer,
    /// An answer is told, and the caller that sleeps for it is not woken.
    SilentAnswer,
    /// A caller that gives up takes the slot along, to which the answer is still to come.
    #[cfg(gridkv_loom)]
    StolenSlot,
}

/// Returns `order`, or [`Ordering::Relaxed`] in a model that runs with this mutant.
#[cfg(not(gridkv_loom))]
#[inline]
pub(crate) const fn ordering(_: OrderingMutant, order: Ordering) -> Ordering {
    order
}

#[cfg(gridkv_loom)]
pub(crate) fn ordering(mutant: OrderingMutant, order: Ordering) -> Ordering {
    if is_left_out(mutant) { Ordering::Relaxed } else { order }
}

/// Whether the model that runs now leaves out the rule that this mutant names.
#[cfg(not(gridkv_loom))]
#[inline]
pub(crate) const fn is_left_out(_: OrderingMutant) -> bool {
    false
}

#[cfg(gridkv_loom)]
pub(crate) fn is_left_out(mutant: OrderingMutant) -> bool {
    ACTIVE.get() == Some(mutant)
}

#[cfg(gridkv_loom)]
std::thread_local! {
    /// The mutant of the model that runs now. Loom runs all threads of a model on one thread of the
    /// system.
    pub(crate) static ACTIVE: std::cell::Cell<Option<OrderingMutant>> =
        const { std::cell::Cell::new(None) };
}
