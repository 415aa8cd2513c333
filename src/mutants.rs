//! Rules that are left out on purpose, so that the checkers show that they notice.
//!
//! A checker that never found anything proves nothing. There are two kinds of mutants:
//!
//! | mutant | leaves out | who must notice |
//! |---|---|---|
//! | [`ProtocolMutant`] | a rule of the protocol, at its place | the simulator's checkers |
//! | [`OrderingMutant`] | an ordering, a fence or a check of the lock-free parts | the models |
//!
//! **In the simulator** a mutant is chosen for a whole cluster, and [`rule`] is the condition of
//! the rule unless that mutant leaves it out. The number of partitions is set with it: a change of
//! members costs in proportion to them, and all of them go through the same. So a simulated cluster
//! uses a few, and the simulator runs more histories.
//!
//! **The models** (`loom-tests/`) run the lock-free parts in every order. A model that holds with
//! its mutant too has proved nothing, so each model also runs with it.
//!
//! In every other build [`rule`], [`partitions_in_use`], [`ordering`] and [`is_left_out`] are
//! constant, and the compiler leaves nothing of them.

#[cfg(feature = "sim")]
use std::cell::Cell;
use std::sync::atomic::Ordering;

// ── the protocol, for the simulator ──

/// One rule of the protocol, left out: the simulator's checkers must notice.
#[doc(hidden)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
#[cfg_attr(not(feature = "sim"), expect(unreachable_pub, reason = "public in the simulator alone"))]
pub enum ProtocolMutant {
    /// A replica acknowledges a write, and applies it some time later.
    AcknowledgedFirst,
    /// A replica that may lack writes says that it is synced when it is read.
    PendingCounts,
    /// A replica answers in any list in which it is asked.
    AnyList,
    /// A strong read returns what R replicas agree on without making sure that W have it.
    WrittenBackOnDifference,
    /// A strong read believes R replicas that there is nothing, though W is more.
    FewConfirmNothing,
    /// A strong write asks fewer than W replicas for the version that it must be above.
    FewAsked,
    /// A write gets a new version whenever a replica has something newer, acknowledged or not.
    StampedAgain,
    /// Digests and comparisons leave out the values of keys.
    ContentNotCompared,
    /// The reading node alone decides that a key does not exist.
    MissNotConfirmed,
    /// A member of the list that is taken for dead counts as one that knows nothing.
    DeadKnowNothing,
    /// Versions are the time of the wall clock.
    WallClock,
    /// A write that asks for every live replica waits for W alone.
    EveryLiveNotAwaited,
    /// An acknowledged write is not offered again to a replica that missed it.
    NothingOwed,
    /// An acknowledged write that a replica was asked to take, and got no answer about, is not
    /// offered to it again while the connection stays.
    OfferedOnce,
    /// An acknowledged write is forgotten with the death of the replica that missed it, though
    /// deaths are taken back.
    DeathEndsHint,
    /// Replicas do not compare what they hold.
    NothingCompared,
    /// A member that has accepted the next list goes on counting in the old one.
    AcceptedUnsealed,
    /// A proposer takes its own wish for the next list, though another one has been accepted.
    AcceptedIgnored,
    /// An acceptor accepts below what it has promised.
    PromiseBroken,
    /// An acceptor promises a ballot again, to a proposer that has begun again with another wish.
    BallotReused,
    /// One acceptor decides the next list.
    MinorityDecides,
    /// A majority decides the next list though W members go on counting in the old one.
    FewSealed,
    /// A replica that had any list open stays synced in each that contains it.
    JumpedOpen,
    /// A newcomer counts those that are pending themselves as sources.
    PendingGives,
    /// A source that drops its copy while it is fetched counts as one that has sent all.
    DroppedHalfWay,
    /// A replica gives receipts for copies before it has all that was acknowledged before its list.
    ReceiptUnwhole,
    /// The next list is proposed before the members of the present one have all that they should.
    ProposedEarly,
    /// The next list waits for members that are never whole, though the others have what it takes
    /// to make it whole.
    UnwholeAwaited,
    /// A member that never had the list before open counts for nothing when it is asked what it
    /// holds.
    IdleIgnored,
    /// Such a member takes nothing for granted of what it is needed for, and goes.
    IdleDropped,
    /// What is left of an expired value replaces the value if its expiry is later.
    HuskReplaces,
    /// A list is proposed as soon as it is wished, and undone as soon as another one is.
    WishedAtOnce,
    /// The next list is proposed though a member has not said whether it has all that it should.
    UnheardSkipped,
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
    /// A copy that had no room for some entries of another one counts as complete.
    DeclinedCovered,
    /// What a full copy lacks is forgotten when there is room, though a replica that might hold it
    /// was silent.
    SilentForgotten,
    /// A node that returns with data is synced without having others merge what it alone holds.
    ReturnedUnshared,
    /// A partition that differs by something else at every look is left alone.
    BusyLetBe,
    /// Such a partition that was compared key by key waits ten cycles for it to be done again.
    BusyOnceInTen,
    /// A handoff waits as long for a member that its node does not reach as for any other.
    UnreachedAwaited,
    /// An answer that comes after its request was given up does not show that its node is reached.
    LateAnswerUnheard,
    /// A newcomer that does not reach a quorum of its list has no other node propose the next list.
    NewcomersDriveAlone,
    /// A node that gets nothing from the members of the list that it knows asks no others for a
    /// later one.
    OldMembersOnly,
    /// A write counts as missing though W replicas have it and the others are out of reach.
    UnreachedOwed,
    /// A node that leaves does not wait until its data is taken over.
    LeftAtOnce,
    /// A node that leaves and has forgotten all others takes itself for the last.
    ForgottenNotAwaited,
    /// No node replaces a replica that died.
    NothingRestored,
    /// A node that sees W members creates the first lists, without asking what these see.
    BornAlone,
    /// A tombstone goes when it is old, without regard to what other replicas hold.
    PurgedByTime,
    /// A write that was forgotten is accepted from any message.
    HorizonIgnored,
    /// A node agrees to forget a deletion while entries are under way from it, or to it.
    GivenUnseen,
    /// A read goes by what its node had written before a newer state was purged.
    OwnOutlivesPurge,
    /// A partition that should wait for its replicas goes on without those that are dead.
    DeadExcused,
    /// The only replica left of a list does not merge those that came into the next one.
    LastAlone,
    /// A read returns what it found in a list that was replaced while it ran.
    FoundOutlivesList,
    /// A node that was away for longer than it is waited for keeps what was deleted since.
    LateReturnBelieved,
    /// A node drops what is old of what its side of a network partition wrote.
    ForkDropped,
    /// A tombstone goes without waiting for members that are away.
    AbsentIgnored,
    /// A value does not win over its own husk, which a node whose clock was ahead has made.
    HuskTies,
    /// A read believes a husk of a value that should still live, and asks no other replica for it.
    EarlyHuskBelieved,
    /// A node that does not answer is reminded of each list as often as one that might soon.
    RemindedSteadily,
    /// A core reminds others of the lists of all of its partitions at once.
    RemindedAtOnce,
    /// A read that found such a husk waits for a silent replica for as long as its caller does.
    DoubtsForEver,
    /// A copy with husks of values that should still live is not compared key by key.
    EarlyHusksKept,
    /// A read takes a value for the newest though another replica might have evicted a newer one.
    MarkIgnored,
    /// A tombstone can be evicted as a value is.
    TombstonesEvicted,
    /// Copies in different data centers are not compared.
    FarNotCompared,
    /// A data center that is born again counts as whole before it has what others hold.
    BehindUncounted,
    /// A replica that is given a copy which is behind other data centers does not count as behind.
    BehindNotHanded,
    /// Writes that another data center does not take go with all others.
    RefusedDelays,
    /// Lists of other data centers are taken for those of this one.
    FarListsCount,
    /// A tombstone goes when all replicas of its own data center agree.
    FarNotAsked,
    /// What a member tells of itself is believed from that member only.
    FirstHandOnly,
    /// A node that is asked to pass a question on answers it in place of the one that it is for.
    HelperVouches,
    /// A member that is dead for one node alone is not told so.
    DeathUntold,
    /// A death by the word of another member is believed without a look of its own.
    HearsayBelieved,
    /// Each host that sends what looks like a packet of a node is believed.
    StrangersBelieved,
    /// Others are believed when they tell of a life that begins in many years.
    FarLivesBelieved,
    /// A life is believed to have returned any number of times.
    ReturnsBelieved,
    /// The answer to a ping of a known node goes to the source of the ping.
    AnswersToSource,
    /// A sealed datagram is opened again each time that it comes.
    #[cfg(feature = "security")]
    ReplaysOpened,
    /// The counter of a sealed datagram is noted before its seal is checked.
    #[cfg(feature = "security")]
    WindowMovedFirst,
    /// A sender that was heard under a cluster key is heard on when that key is taken out.
    #[cfg(feature = "security")]
    RemovedKeysOpened,
    /// A node does not compare the key that another one proves with the one that it had before.
    PinsIgnored,
    /// The key that a greeting proves is pinned, also if no node was found at its address.
    GreetingsPinned,
    /// A node whose key is denied is heard by datagrams.
    DeniedHeard,
    /// Any member is believed when it says of another one that it leaves, or has left.
    #[cfg(feature = "security")]
    UnsignedBelieved,
    /// Who asks whether it is safe takes no answer that comes later than a tenth of a second.
    AnswersCutOff,
    /// A pause of a node's own counts as the round trip of a probe.
    PauseMeasured,
    /// A node takes part before any member has reached it.
    UnreachedAdmitted,
    /// A node that is no member asks its seeds alone to reach it, and no node that turns to it.
    GuestsIgnored,
    /// A node that no member answers acts upon deaths.
    CutOffDecides,
}

#[cfg(feature = "sim")]
impl ProtocolMutant {
    /// All mutants.
    pub const ALL: [Self; 96] = [
        Self::AcknowledgedFirst,
        Self::PendingCounts,
        Self::AnyList,
        Self::WrittenBackOnDifference,
        Self::FewConfirmNothing,
        Self::FewAsked,
        Self::StampedAgain,
        Self::ContentNotCompared,
        Self::MissNotConfirmed,
        Self::DeadKnowNothing,
        Self::WallClock,
        Self::EveryLiveNotAwaited,
        Self::NothingOwed,
        Self::OfferedOnce,
        Self::DeathEndsHint,
        Self::NothingCompared,
        Self::AcceptedUnsealed,
        Self::AcceptedIgnored,
        Self::PromiseBroken,
        Self::BallotReused,
        Self::MinorityDecides,
        Self::FewSealed,
        Self::JumpedOpen,
        Self::PendingGives,
        Self::DroppedHalfWay,
        Self::ReceiptUnwhole,
        Self::ProposedEarly,
        Self::UnwholeAwaited,
        Self::IdleIgnored,
        Self::IdleDropped,
        Self::HuskReplaces,
        Self::WishedAtOnce,
        Self::UnheardSkipped,
        Self::OneSource,
        Self::ListedCounts,
        Self::BootIgnored,
        Self::AdoptedOnce,
        Self::DroppedUnasked,
        Self::DeclinedCovered,
        Self::SilentForgotten,
        Self::ReturnedUnshared,
        Self::BusyLetBe,
        Self::BusyOnceInTen,
        Self::UnreachedAwaited,
        Self::LateAnswerUnheard,
        Self::NewcomersDriveAlone,
        Self::OldMembersOnly,
        Self::UnreachedOwed,
        Self::LeftAtOnce,
        Self::ForgottenNotAwaited,
        Self::NothingRestored,
        Self::BornAlone,
        Self::PurgedByTime,
        Self::HorizonIgnored,
        Self::GivenUnseen,
        Self::OwnOutlivesPurge,
        Self::DeadExcused,
        Self::LastAlone,
        Self::FoundOutlivesList,
        Self::LateReturnBelieved,
        Self::ForkDropped,
        Self::AbsentIgnored,
        Self::HuskTies,
        Self::EarlyHuskBelieved,
        Self::RemindedSteadily,
        Self::RemindedAtOnce,
        Self::DoubtsForEver,
        Self::EarlyHusksKept,
        Self::MarkIgnored,
        Self::TombstonesEvicted,
        Self::FarNotCompared,
        Self::BehindUncounted,
        Self::BehindNotHanded,
        Self::RefusedDelays,
        Self::FarListsCount,
        Self::FarNotAsked,
        Self::FirstHandOnly,
        Self::HelperVouches,
        Self::DeathUntold,
        Self::HearsayBelieved,
        Self::StrangersBelieved,
        Self::FarLivesBelieved,
        Self::ReturnsBelieved,
        Self::AnswersToSource,
        Self::ReplaysOpened,
        Self::WindowMovedFirst,
        Self::RemovedKeysOpened,
        Self::PinsIgnored,
        Self::GreetingsPinned,
        Self::DeniedHeard,
        Self::UnsignedBelieved,
        Self::AnswersCutOff,
        Self::PauseMeasured,
        Self::UnreachedAdmitted,
        Self::GuestsIgnored,
        Self::CutOffDecides,
    ];
}

/// Returns `condition`, the condition of a rule, or `false` if this mutant leaves the rule out.
#[cfg(not(feature = "sim"))]
#[inline]
pub(crate) const fn rule(_: ProtocolMutant, condition: bool) -> bool {
    condition
}

#[cfg(feature = "sim")]
#[inline]
pub(crate) fn rule(mutant: ProtocolMutant, condition: bool) -> bool {
    condition && MUTANT.get() != Some(mutant)
}

/// Returns how many of `all` partitions are in use.
#[cfg(not(feature = "sim"))]
#[inline]
pub(crate) const fn partitions_in_use(all: u16) -> u16 {
    all
}

#[cfg(feature = "sim")]
pub(crate) fn partitions_in_use(all: u16) -> u16 {
    all.min(PARTITIONS.get())
}

/// Sets the mutant, if any, and the number of partitions of the cluster that this thread simulates
/// from here on.
#[cfg(feature = "sim")]
pub(crate) fn set_for_this_thread(mutant: Option<ProtocolMutant>, partitions: u16) {
    MUTANT.set(mutant);
    PARTITIONS.set(partitions);
}

#[cfg(feature = "sim")]
std::thread_local! {
    // A simulated cluster runs on one thread.
    static MUTANT: Cell<Option<ProtocolMutant>> = const { Cell::new(None) };
    static PARTITIONS: Cell<u16> = const { Cell::new(u16::MAX) };
}

// ── the lock-free parts, for the models ──

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
