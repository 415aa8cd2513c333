//! A write: stamp it, send it to every replica of one list, acknowledge it when W of them have
//! applied it.
//!
//! ```text
//!                 R ≥ 2                      enough versions
//!   entered ──────────────▶ AskingVersions ───────────────────▶ AwaitingStamp ◀─┐
//!      │                                                             │ stamped  │ overtaken, once
//!      │ R = 1: Stamp                                                ▼          │
//!      └────────────────────────────────────────────────────▶  Replicating ─────┘
//! ```
//!
//! With R = 1 the coordinator stamps at once. If replicas hold something newer, the write is
//! stamped above the highest of them, once, when W have spoken. If it is overtaken a second time it
//! counts as done, since the newer write is then a concurrent one; stamping again and again would
//! let two coordinators chase each other. With R ≥ 2 the coordinator first asks enough replicas for
//! the key's version that no acknowledged write escapes it, and stamps above the highest: the write
//! phase of the ABD register (Attiya, Bar-Noy & Dolev, "Sharing Memory Robustly in Message-Passing
//! Systems", 1995). Asking first with R = 1 too was rejected: it doubles the round trips of every
//! write.
//!
//! A change of expiry alone writes the content that was read before, and must not make it newer
//! than a write that this node missed. So it is not stamped: a longer life has the version of the
//! write that it prolongs, which merging settles in its favour, a shorter one a version between
//! that and every other write's. If a replica holds something newer, the change was made just
//! before that.
//!
//! **Every live replica.** A write can ask for more than W: it then also waits for each replica of
//! the list that is not taken for dead, for a short *patience* at most. A read that begins after
//! the acknowledgement finds the write on every replica. The patience begins when W have answered,
//! and the write never fails for lack of the others. It does not wait for one that had no room for
//! it, which will not have room in a few milliseconds either; later writes, which may need none,
//! do. Nor is a first message that was lost with its connection worth a longer patience: the
//! connection takes as long to come back. A replica that let the patience of a write pass is
//! *late*: later writes do not wait for it until it has taken a write again. So one that is half
//! dead delays the writes that are under way, and not all that follow.
//!
//! If 2 W ≤ N, all writes wait like that, also for those that were late. Two of them need not share
//! a replica, and only the answers of f + 1 tell of each earlier one. While such a write waits, it
//! can still be stamped above what these hold. Asking f + 1 for the version first was rejected:
//! with one of them gone no write would pass, and it takes twice the round trips.
//!
//! The machine lives on after the acknowledgement until every replica has the entry or it is given
//! up: until then it is a hint for the others, over lost connections and changes of the list, and
//! to one that is silent it is offered again after a while. It is
//! never stamped again then: what is newer was written later. The same is true of a write that its
//! coordinator has superseded by another write of the key, or the two would change places: if it
//! was overtaken, it is acknowledged with the one behind it.
//!
//! Invariant: a write is acknowledged only when W synced replicas of one list have applied it.

use std::sync::Arc;
use std::time::Duration;

use super::mismatch::mismatch;
use super::quorum::{
    AskState, Asked, QuorumAction, QuorumMachine, RETRY_AFTER, note_members, settle, take_due,
};
use crate::clock::{Instant, Now, Version};
use crate::entry::Entry;
use crate::mutants::{ProtocolMutant, rule};
use crate::placement::List;
use crate::quorums::Count;
use crate::types::Identity;
use crate::wire::message::{Answer, Found, Request, Want};
use crate::wire::timing::OFFERED_AGAIN_AFTER;

/// What a write waits for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WriteTerms {
    /// W, as the caller asked for it.
    pub(crate) quorum: Count,
    /// How many replicas must tell the key's version first; zero if R = 1.
    pub(crate) versions_needed: usize,
    /// N − W + 1: how many replicas know, together, every acknowledged write of the key.
    pub(crate) all_writes: usize,
    /// For how long it waits, once W have answered, for the other replicas that are alive.
    pub(crate) patience: Duration,
}

/// How long after it had no room a replica is asked again. Memory that is full stays so for a
/// while, and many writes may be owed to such a replica. Once the write is acknowledged the pause
/// doubles each time: the whole entry crosses the network again, for a replica that will merge it
/// with the rest.
const FULL_RETRY_AFTER: Duration = Duration::from_millis(500);

/// How often it doubles: up to eight seconds, which leaves some tries in the time for which a hint
/// is kept.
const FULL_DOUBLINGS: u32 = 4;

/// One write, until every replica has it.
pub(crate) struct Write {
    /// Without a version until the first stamp.
    entry: Entry,
    terms: WriteTerms,
    /// W in the list that the write counts in.
    needed: usize,
    list: Option<Arc<List>>,
    replicas: Vec<Asked<Acked>>,
    phase: Phase,
    restamped: bool,
    /// The highest version that a replica held against this write before it was stamped again.
    overtaken_by: Version,
    /// From then on a newer state of the key is a later write, which this one must not overtake.
    was_acknowledged: bool,
    /// This node has stamped a later write of the same key, which this one must not overtake
    /// either.
    is_superseded: bool,
    /// W replicas have that later write, and so with it this one.
    is_covered: bool,
    /// When it is offered again to replicas that were asked and are silent. Set when its caller was
    /// told.
    offered_again_at: Option<Instant>,
    /// Until when it waits for replicas beyond W. Set when W have answered.
    waits_until: Option<Instant>,
    /// It waits for W alone: for no more from the start, or no longer.
    is_out_of_patience: bool,
    /// The replicas that it does not wait for beyond W.
    late: Vec<Identity>,
    /// Another data center has acknowledged it.
    is_relayed: bool,
    /// A replica applied it, or was asked and did not say. (Those that are asked now are in
    /// `replicas`.)
    may_have_happened: bool,
    /// When replicas that were not synced are asked again: they are by then, or soon.
    recount_at: Option<Instant>,
    /// The replicas of this list that had no room for it when they were asked last, each with its
    /// memory limit.
    full: Vec<(Identity, u64)>,
    /// How often a replica had no room for it, since it was acknowledged.
    full_since_acknowledged: u32,
}

enum Phase {
    AskingVersions(Vec<Asked<Version>>),
    AwaitingStamp,
    Replicating,
}

/// A replica has applied the write.
#[derive(Debug, PartialEq, Eq)]
struct Acked {
    /// False if it held something newer, which this write is about to be stamped above.
    has_it: bool,
    /// It is synced: it counts.
    counts: bool,
}

impl Write {
    pub(crate) fn new(entry: Entry, terms: WriteTerms) -> Self {
        Self {
            entry,
            terms,
            // Until the first list is entered, which says what an `AllBut` is.
            needed: terms.quorum.count(0),
            list: None,
            replicas: Vec::new(),
            phase: Phase::AwaitingStamp,
            restamped: false,
            overtaken_by: Version::ZERO,
            was_acknowledged: false,
            is_superseded: false,
            is_covered: false,
            offered_again_at: None,
            waits_until: None,
            is_out_of_patience: terms.patience.is_zero(),
            late: Vec::new(),
            is_relayed: false,
            may_have_happened: false,
            recount_at: None,
            full: Vec::new(),
            full_since_acknowledged: 0,
        }
    }

    /// Makes a write of what was read, with another expiry: it has its version.
    pub(crate) fn retimed(entry: Entry, terms: WriteTerms) -> Self {
        Self { restamped: true, ..Self::new(entry, WriteTerms { versions_needed: 0, ..terms }) }
    }

    /// Makes a write of what another data center has acknowledged, under the version that it has
    /// there. What is newer counts, and so does what was purged here: if that was not of this key,
    /// anti-entropy brings it. No app waits for it, so it waits for W alone.
    pub(crate) fn relayed(entry: Entry, terms: WriteTerms) -> Self {
        let terms = WriteTerms { patience: Duration::ZERO, ..terms };
        Self { is_relayed: true, ..Self::retimed(entry, terms) }
    }

    /// Waits for none of these beyond W: an earlier write has waited for them in vain.
    pub(crate) fn with_late(self, late: &[Identity]) -> Self {
        if self.is_out_of_patience { self } else { Self { late: late.to_vec(), ..self } }
    }

    pub(crate) fn entry(&self) -> &Entry {
        &self.entry
    }

    /// Takes the version that was asked for.
    pub(crate) fn stamped(&mut self, version: Version, actions: &mut Vec<QuorumAction>) {
        self.may_have_happened |= self.is_being_asked();
        self.entry.stamp(version);
        self.phase = Phase::Replicating;
        for asked in &mut self.replicas {
            if asked.state != AskState::Dead {
                asked.state = AskState::Idle;
            }
        }
        self.ask_due(Instant::default(), actions);
    }

    fn version_found(
        &mut self,
        from: Identity,
        found: &Found,
        is_synced: bool,
        now: Now,
        actions: &mut Vec<QuorumAction>,
    ) {
        let Phase::AskingVersions(asked) = &mut self.phase else {
            return mismatch("a version for a write that has asked for none");
        };
        let version = match found {
            // It might have had a state up to there, which others still have.
            Found::Absent { eviction_watermark } => *eviction_watermark,
            Found::Version(version) => *version,
            Found::Entry(entry) => entry.version(),
        };
        settle(asked, from, if is_synced { Ok(version) } else { Err(now.instant + RETRY_AFTER) });
        let answers: Vec<Version> = asked.iter().filter_map(Asked::answer).copied().collect();
        // Of W at least: in a list that was replaced fewer still count.
        let of_list = if rule(ProtocolMutant::FewAsked, true) { self.needed } else { 0 };
        if answers.len() >= self.terms.versions_needed.max(of_list) {
            let above = answers.into_iter().max().unwrap_or_default();
            self.phase = Phase::AwaitingStamp;
            actions.push(QuorumAction::Stamp { above });
        }
    }

    fn written(
        &mut self,
        from: Identity,
        superseded_by: Option<Version>,
        is_synced: bool,
        now: Now,
        actions: &mut Vec<QuorumAction>,
    ) {
        self.may_have_happened = true;
        self.full.retain(|(full, _)| *full != from);
        let counts_below = self.keeps_stamp() || self.was_acknowledged;
        match superseded_by.filter(|_| !rule(ProtocolMutant::StampedAgain, counts_below)) {
            Some(newer) => {
                self.overtaken_by = self.overtaken_by.max(newer);
                settle(&mut self.replicas, from, Ok(Acked { counts: is_synced, has_it: false }));
            }
            None => settle(&mut self.replicas, from, Ok(Acked { counts: is_synced, has_it: true })),
        }
        self.wait_for_others(now);
        // With fewer than all writes among W, what the others hold might be an earlier write.
        let is_newest = self.needed >= self.terms.all_writes && self.has_quorum();
        self.was_acknowledged |= is_newest || self.is_acknowledged();
        if !is_synced {
            self.recount_at.get_or_insert(now.instant + RETRY_AFTER);
        }
        self.restamp_if_overtaken(actions);
    }

    /// Whether a newer state does not make it stamp again: it was stamped above what was there, or
    /// again already, or it has the version of what it changes.
    fn keeps_stamp(&self) -> bool {
        self.terms.versions_needed > 0 || self.restamped
    }

    /// A replica has forgotten everything up to `horizon`, which this write is not above.
    fn too_old(
        &mut self,
        from: Identity,
        horizon: Version,
        is_synced: bool,
        now: Now,
        actions: &mut Vec<QuorumAction>,
    ) {
        if self.is_relayed {
            settle(&mut self.replicas, from, Ok(Acked { counts: is_synced, has_it: true }));
        } else if self.was_acknowledged {
            // A replica that lacks it merges it with the rest.
            settle(&mut self.replicas, from, Ok(Acked { counts: false, has_it: false }));
        } else if self.keeps_stamp() {
            self.ask_later(from, now.instant);
        } else {
            self.overtaken_by = self.overtaken_by.max(horizon);
            settle(&mut self.replicas, from, Ok(Acked { counts: is_synced, has_it: false }));
            self.wait_for_others(now);
            self.restamp_if_overtaken(actions);
        }
    }

    /// Begins to wait for the replicas beyond W, if W have answered.
    fn wait_for_others(&mut self, now: Now) {
        if !self.is_out_of_patience && self.spoken() >= self.needed {
            self.waits_until.get_or_insert(now.instant + self.terms.patience);
        }
    }

    /// How many replicas that count have answered, with what they hold.
    fn spoken(&self) -> usize {
        self.replicas.iter().filter_map(Asked::answer).filter(|acked| acked.counts).count()
    }

    /// Once enough replicas have spoken that every acknowledged write was heard of, stamps above
    /// the highest that any of them holds.
    fn restamp_if_overtaken(&mut self, actions: &mut Vec<QuorumAction>) {
        let all_writes = if self.is_out_of_patience { 0 } else { self.terms.all_writes };
        let has_heard_enough = self.spoken() >= self.needed.max(all_writes);
        let is_open = self.replicas.iter().any(Asked::is_open);
        let keeps_version =
            rule(ProtocolMutant::StampedAgain, self.was_acknowledged || self.is_superseded);
        if self.overtaken_by > Version::ZERO && !keeps_version && (has_heard_enough || !is_open) {
            self.restamped = true;
            self.phase = Phase::AwaitingStamp;
            actions.push(QuorumAction::Stamp { above: std::mem::take(&mut self.overtaken_by) });
        }
    }

    /// Notes that this node stamps a later write of the same key, and returns what that must be
    /// above: this one's version, and the highest that a replica held against it.
    pub(crate) fn superseded(&mut self) -> Version {
        self.is_superseded = true;
        self.entry.version().max(self.overtaken_by)
    }

    /// Notes that W replicas have a later write of the same key, which has replaced this one there.
    pub(crate) fn cover(&mut self, now: Now) {
        self.is_covered = true;
        if !self.is_out_of_patience {
            self.waits_until.get_or_insert(now.instant + self.terms.patience);
        }
    }

    pub(crate) fn is_covered(&self) -> bool {
        self.is_covered
    }

    /// Returns the replicas that let the patience of this write pass.
    pub(crate) fn outwaited(&self) -> impl Iterator<Item = Identity> {
        let has_waited = self.is_out_of_patience && !self.terms.patience.is_zero();
        let open = self.replicas.iter().filter(move |asked| has_waited && asked.is_open());
        let open = open.filter(|asked| !self.is_full(&asked.replica));
        open.map(|asked| asked.replica)
    }

    /// Notes that its caller is told that it was acknowledged.
    pub(crate) fn told(&mut self, now: Instant) {
        (self.was_acknowledged, self.is_out_of_patience) = (true, true);
        self.waits_until = None;
        self.offered_again_at = Some(now + OFFERED_AGAIN_AFTER);
    }

    fn ask_later(&mut self, from: Identity, now: Instant) {
        if let Phase::AskingVersions(asked) = &mut self.phase {
            settle(asked, from, Err(now + RETRY_AFTER));
        } else {
            settle(&mut self.replicas, from, Err(now + RETRY_AFTER));
        }
    }

    /// Asks the replicas that were not asked yet, or are due to be asked again.
    fn ask_due(&mut self, now: Instant, actions: &mut Vec<QuorumAction>) {
        if matches!(self.phase, Phase::Replicating) {
            self.restamp_if_overtaken(actions);
        }
        let Some(list) = &self.list else { return };
        let list = list.reference();
        if self.recount_at.take_if(|at| *at <= now).is_some() && !self.was_acknowledged {
            for asked in &mut self.replicas {
                if asked.answer().is_some_and(|acked| !acked.counts) {
                    asked.state = AskState::Idle;
                }
            }
        }
        match &mut self.phase {
            Phase::AskingVersions(asked) => {
                for to in take_due(asked, now) {
                    let key = self.entry.key().into();
                    let request = Request::Read { list, key, want: Want::Version };
                    actions.push(QuorumAction::Ask { to, request });
                }
            }
            Phase::Replicating => {
                for to in take_due(&mut self.replicas, now) {
                    let request = Request::Write { list, entry: self.entry.clone() };
                    actions.push(QuorumAction::Ask { to, request });
                }
            }
            Phase::AwaitingStamp => {}
        }
    }

    /// Asks the silent replicas again if it is time to. What they were asked may have got lost on a
    /// connection that stays; that they apply it twice is harmless.
    fn offer_again(&mut self, now: Instant) {
        if self.offered_again_at.is_none_or(|at| at > now) {
            return;
        }
        self.offered_again_at = Some(now + OFFERED_AGAIN_AFTER);
        for asked in &mut self.replicas {
            let is_silent = asked.state == AskState::Waiting;
            if rule(ProtocolMutant::OfferedOnce, is_silent) {
                asked.state = AskState::RetryAt(now);
            }
        }
    }

    /// How many replicas that count have it.
    pub(crate) fn acked(&self) -> usize {
        let answers = self.replicas.iter().filter_map(Asked::answer);
        answers.filter(|acked| acked.counts && acked.has_it).count()
    }

    pub(crate) fn needed(&self) -> usize {
        self.needed
    }

    /// Whether W replicas have it. One that waits and is to be stamped above what another replica
    /// holds has no quorum yet.
    pub(crate) fn has_quorum(&self) -> bool {
        let is_final = self.was_acknowledged || self.is_superseded || self.is_out_of_patience;
        let is_below = self.overtaken_by > Version::ZERO && !is_final;
        self.is_covered || self.acked() >= self.needed && !is_below
    }

    /// Whether W replicas have it, and no other that is alive is waited for.
    pub(crate) fn is_acknowledged(&self) -> bool {
        self.has_quorum() && !self.waits_for_others()
    }

    /// Whether this replica had no room for it when it was asked last.
    fn is_full(&self, replica: &Identity) -> bool {
        self.full.iter().any(|(full, _)| full == replica)
    }

    fn waits_for_others(&self) -> bool {
        // Where two writes need not share a replica each answer counts, also that of one that was
        // late before.
        let overlaps = self.needed >= self.terms.all_writes;
        let is_left_out =
            |replica: &Identity| self.is_full(replica) || overlaps && self.late.contains(replica);
        let is_awaited = |asked: &Asked<_>| asked.is_open() && !is_left_out(&asked.replica);
        let is_asking = !matches!(self.phase, Phase::Replicating);
        let waits = !self.is_out_of_patience && (is_asking || self.replicas.iter().any(is_awaited));
        rule(ProtocolMutant::EveryLiveNotAwaited, waits)
    }

    /// Whether every living replica has it, or something newer: nothing is owed to any of them.
    pub(crate) fn is_everywhere(&self) -> bool {
        !self.is_owed(|_| false)
    }

    /// Whether some replica lacks it that is alive, or that is taken for dead and `might_return`.
    pub(crate) fn is_owed(&self, might_return: impl Fn(&Identity) -> bool) -> bool {
        !matches!(self.phase, Phase::Replicating)
            || self.replicas.iter().any(|asked| match asked.state {
                AskState::Answered(_) => false,
                AskState::Dead => might_return(&asked.replica),
                _ => true,
            })
    }

    /// Whether W replicas of its list have it, or two, and the others that are alive are `these`.
    pub(crate) fn is_owed_only_to(&self, these: impl Fn(&Identity) -> bool) -> bool {
        let mut open = self.replicas.iter().filter(|asked| asked.is_open());
        // One that is not synced yet has it, too, though it does not count.
        let has_it = |asked: &&Asked<Acked>| asked.answer().is_some_and(|acked| acked.has_it);
        let holders = self.replicas.iter().filter(has_it).count();
        holders >= self.needed.max(2) && open.all(|asked| these(&asked.replica))
    }

    /// Returns the replicas that are full, if W replicas cannot acknowledge the write for that
    /// reason alone, and no other one might be applying it now.
    pub(crate) fn stopped_by(&self) -> &[(Identity, u64)] {
        let alive = self.replicas.iter().filter(|asked| asked.state != AskState::Dead).count();
        let is_stopped = alive < self.needed + self.full.len() && !self.is_being_asked();
        if is_stopped { &self.full } else { &[] }
    }

    /// Whether any replica might have applied it. False if all that were asked have declined.
    pub(crate) fn may_have_happened(&self) -> bool {
        self.may_have_happened || self.is_being_asked()
    }

    /// Whether a replica might be applying it now.
    fn is_being_asked(&self) -> bool {
        self.is_asking(|_| true)
    }

    /// Whether one of these might be. (A replica that is asked for a version is not in `replicas`.)
    fn is_asking(&self, these: impl Fn(&Identity) -> bool) -> bool {
        self.replicas.iter().any(|asked| asked.state == AskState::Waiting && these(&asked.replica))
    }

    /// Whether `replica` is known to have it.
    pub(crate) fn is_held_by(&self, replica: &Identity) -> bool {
        self.replicas.iter().any(|asked| asked.replica == *replica && asked.answer().is_some())
    }
}

impl QuorumMachine for Write {
    /// Asks all replicas of the list: what another list's replicas acknowledged does not count in
    /// this one. Merging makes it harmless that some of them apply the write twice.
    fn entered(
        &mut self,
        list: Arc<List>,
        alive: &dyn Fn(&Identity) -> bool,
        _: Now,
        actions: &mut Vec<QuorumAction>,
    ) {
        self.may_have_happened |= self.is_being_asked();
        self.full.clear();
        self.needed = self.terms.quorum.count(list.members().len());
        self.replicas =
            list.members().iter().map(|member| Asked::new(*member, alive(member))).collect();
        let is_stamped = self.entry.version() != Version::ZERO;
        if is_stamped {
            self.phase = Phase::Replicating;
        } else if self.terms.versions_needed > 0 {
            let asked =
                list.members().iter().map(|member| Asked::new(*member, alive(member))).collect();
            self.phase = Phase::AskingVersions(asked);
        } else {
            self.phase = Phase::AwaitingStamp;
            actions.push(QuorumAction::Stamp { above: Version::ZERO });
        }
        self.list = Some(list);
        self.ask_due(Instant::default(), actions);
    }

    fn answered(
        &mut self,
        from: Identity,
        answer: Answer,
        now: Now,
        actions: &mut Vec<QuorumAction>,
    ) {
        match (&self.phase, answer) {
            (Phase::AskingVersions(_), Answer::Found { found, synced }) => {
                self.version_found(from, &found, synced, now, actions);
            }
            (Phase::Replicating, Answer::Written { superseded_by, synced }) => {
                self.written(from, superseded_by, synced, now, actions);
            }
            (Phase::Replicating, Answer::TooOld { purge_horizon, synced }) => {
                self.too_old(from, purge_horizon, synced, now, actions);
            }
            (_, Answer::Declined) => self.ask_later(from, now.instant),
            (_, Answer::NoRoom { max_memory }) => {
                self.full.retain(|(full, _)| *full != from);
                self.full.push((from, max_memory));
                let doublings = self.full_since_acknowledged.min(FULL_DOUBLINGS);
                self.full_since_acknowledged += u32::from(self.was_acknowledged);
                let again_at = now.instant + FULL_RETRY_AFTER.saturating_mul(1 << doublings);
                settle(&mut self.replicas, from, Err(again_at));
            }
            (_, answer) => mismatch(&format!("a write was answered {answer:?}")),
        }
    }

    fn lost(&mut self, from: Identity, now: Now, _: &mut Vec<QuorumAction>) {
        self.may_have_happened |= self.is_asking(|replica| *replica == from);
        self.ask_later(from, now.instant);
    }

    fn handle_timers(&mut self, now: Now, actions: &mut Vec<QuorumAction>) {
        self.is_out_of_patience |= self.waits_until.take_if(|at| *at <= now.instant).is_some();
        self.offer_again(now.instant);
        self.ask_due(now.instant, actions);
    }

    fn members_changed(
        &mut self,
        alive: &dyn Fn(&Identity) -> bool,
        now: Now,
        _: &mut Vec<QuorumAction>,
    ) {
        if let Phase::AskingVersions(asked) = &mut self.phase {
            note_members(asked, alive, now.instant);
        }
        self.may_have_happened |= self.is_asking(|replica| !alive(replica));
        note_members(&mut self.replicas, alive, now.instant);
    }

    fn deadline(&self) -> Option<Instant> {
        match &self.phase {
            Phase::AskingVersions(asked) => asked.iter().filter_map(Asked::retry_at).min(),
            _ => {
                let retries = self.replicas.iter().filter_map(Asked::retry_at);
                let others = [self.recount_at, self.waits_until, self.offered_again_at];
                retries.chain(others.into_iter().flatten()).min()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::WallTime;
    use crate::entry::Content;
    use crate::replication::tests::{list, node};

    const NOW: Now = Now { instant: Instant::from_nanos(1), wall: WallTime::from_micros(1) };

    /// The time `count` retry periods after [`NOW`].
    fn later(count: u32) -> Now {
        Now { instant: NOW.instant + RETRY_AFTER * count, ..NOW }
    }

    fn entry() -> Entry {
        Entry::new(b"key", Content::Value(b"value"), Version::ZERO, None)
    }

    const PATIENCE: Duration = Duration::from_millis(10);

    fn terms(patience: Duration) -> WriteTerms {
        WriteTerms { quorum: Count::Exactly(2), versions_needed: 0, all_writes: 2, patience }
    }

    /// A write with W = 2, stamped, that has asked all three replicas.
    fn asked() -> Write {
        asked_on(terms(Duration::ZERO))
    }

    fn asked_on(terms: WriteTerms) -> Write {
        let mut write = Write::new(entry(), terms);
        let mut actions = Vec::new();
        write.entered(list(1, 0..3), &|_| true, NOW, &mut actions);
        assert_eq!(actions, [QuorumAction::Stamp { above: Version::ZERO }]);
        actions.clear();
        write.stamped(Version(10), &mut actions);
        assert_eq!(actions.len(), 3);
        write
    }

    fn written(
        write: &mut Write,
        from: u64,
        superseded_by: Option<Version>,
        synced: bool,
    ) -> Vec<QuorumAction> {
        let mut actions = Vec::new();
        write.answered(node(from), Answer::Written { superseded_by, synced }, NOW, &mut actions);
        actions
    }

    #[test]
    fn w_synced_replicas_acknowledge_and_a_pending_one_does_not_count() {
        let mut write = asked();
        written(&mut write, 0, None, true);
        written(&mut write, 1, None, false);
        assert!(!write.is_acknowledged() && write.may_have_happened());
        written(&mut write, 0, None, true);
        assert!(!write.is_acknowledged(), "one replica counts once");
        written(&mut write, 2, None, true);
        assert!(write.is_acknowledged() && write.is_everywhere());
    }

    fn has_no_room(write: &mut Write, from: u64, now: Now) {
        write.answered(node(from), Answer::NoRoom { max_memory: 1 }, now, &mut Vec::new());
    }

    /// It let the patience of each write pass, and was then taken for one that is half dead: later
    /// writes did not wait for it either, though it had room for them.
    #[test]
    fn a_write_that_waits_for_every_live_replica_does_not_wait_for_room() {
        let mut write = asked_on(terms(PATIENCE));
        written(&mut write, 0, None, true);
        has_no_room(&mut write, 1, NOW);
        assert!(!write.is_acknowledged(), "W = 2");
        written(&mut write, 2, None, true);
        assert!(write.is_acknowledged() && !write.is_everywhere());
        assert_eq!(write.outwaited().count(), 0);
        write.handle_timers(Now { instant: NOW.instant + PATIENCE, ..NOW }, &mut Vec::new());
        assert_eq!(write.outwaited().count(), 0, "it is not late");
    }

    /// With 2 W ≤ N, a replica that had been late once was not waited for although it was well
    /// again. What it held was not heard of, and a write that was acknowledged before won.
    #[test]
    fn a_late_replica_is_waited_for_where_writes_need_not_overlap() {
        for (quorum, all_writes, waits) in [(2, 2, false), (1, 3, true)] {
            let quorum = Count::Exactly(quorum);
            let terms = WriteTerms { quorum, all_writes, ..terms(PATIENCE) };
            let mut write = asked_on(terms).with_late(&[node(1)]);
            written(&mut write, 0, None, true);
            written(&mut write, 2, None, true);
            assert_eq!(write.is_acknowledged(), !waits, "W = {quorum}");
            written(&mut write, 1, None, true);
            assert!(write.is_acknowledged());
        }
    }

    /// A large entry crossed the network twice a second for half a minute.
    #[test]
    fn an_acknowledged_write_is_offered_less_and_less_often_to_a_full_replica() {
        let mut write = asked();
        has_no_room(&mut write, 2, NOW);
        assert_eq!(write.deadline(), Some(NOW.instant + FULL_RETRY_AFTER));
        written(&mut write, 0, None, true);
        written(&mut write, 1, None, true);
        write.told(NOW.instant);
        let (mut last, mut pauses) = (NOW.instant, Vec::new());
        while pauses.len() < 7 {
            let at = Now { instant: write.deadline().unwrap(), ..NOW };
            let mut actions = Vec::new();
            write.handle_timers(at, &mut actions);
            if !actions.is_empty() {
                has_no_room(&mut write, 2, at);
                pauses.push(at.instant.since(last).as_millis());
                last = at.instant;
            }
        }
        assert_eq!(pauses, [500, 500, 1000, 2000, 4000, 8000, 8000]);
    }

    #[test]
    fn what_was_read_is_written_under_its_version_and_a_newer_state_counts() {
        let entry = Entry::new(b"key", Content::Value(b"value"), Version(10), None);
        let mut write = Write::retimed(entry, terms(Duration::ZERO));
        let mut actions = Vec::new();
        write.entered(list(1, 0..3), &|_| true, NOW, &mut actions);
        let is_asked = |action: &QuorumAction| {
            matches!(action, QuorumAction::Ask { request: Request::Write { entry, .. }, .. }
                if entry.version() == Version(10))
        };
        assert!(actions.len() == 3 && actions.iter().all(is_asked), "{actions:?}");
        assert_eq!(written(&mut write, 0, Some(Version(20)), true), []);
        assert_eq!(written(&mut write, 1, None, true), []);
        assert!(write.is_acknowledged());
    }

    #[test]
    fn a_newer_state_makes_it_stamp_above_once_and_then_counts() {
        let mut write = asked();
        assert_eq!(
            written(&mut write, 0, Some(Version(15)), true),
            [],
            "another may hold a higher one"
        );
        assert_eq!(
            written(&mut write, 1, Some(Version(20)), true),
            [QuorumAction::Stamp { above: Version(20) }]
        );
        write.stamped(Version(21), &mut Vec::new());
        assert_eq!(write.acked(), 0, "what has the old stamp does not count");
        assert_eq!(written(&mut write, 0, Some(Version(30)), true), []);
        assert_eq!(written(&mut write, 1, None, true), []);
        assert!(write.is_acknowledged());
    }

    /// Found by the simulator (births, seed 42): a delete was acknowledged; a coordinator whose
    /// clock was behind wrote the key, twice in a row. The first of the two found the delete at two
    /// replicas. As it was superseded, it took that for its successor's doing and counted as done,
    /// before any replica had taken either of them. A read then found the delete; had the
    /// coordinator died, the acknowledged write would have been lost.
    #[test]
    fn a_write_that_was_overtaken_is_not_acknowledged_because_another_follows() {
        let mut write = asked();
        assert_eq!(written(&mut write, 0, Some(Version(20)), true), []);
        assert_eq!(write.superseded(), Version(20), "its successor goes above what it has found");
        assert_eq!(written(&mut write, 1, Some(Version(30)), true), [], "it is not stamped again");
        assert!(!write.is_acknowledged());
        assert_eq!(written(&mut write, 2, None, true), []);
        assert_eq!((write.acked(), write.is_acknowledged()), (1, false));
    }

    /// Found by the simulator (seed 43): two replicas acknowledged a write; the connection to the
    /// third broke. The app then wrote the key again, through another node, and all three took
    /// that. When the first write was offered to the third replica once more, it heard of something
    /// newer, stamped itself above it, and overwrote the later write with the earlier one.
    #[test]
    fn an_acknowledged_write_never_overtakes_a_later_one() {
        let mut write = asked();
        written(&mut write, 0, None, true);
        written(&mut write, 1, None, true);
        assert!(write.is_acknowledged());
        assert_eq!(written(&mut write, 2, Some(Version(99)), true), []);
        assert!(write.is_everywhere());
        assert_eq!(write.entry().version(), Version(10));
    }

    #[test]
    fn a_silent_replica_is_offered_an_acknowledged_write_again() {
        let mut write = asked();
        written(&mut write, 0, None, true);
        written(&mut write, 1, None, true);
        write.told(NOW.instant);
        let again = Now { instant: NOW.instant + OFFERED_AGAIN_AFTER, ..NOW };
        let mut actions = Vec::new();
        write.handle_timers(later(1), &mut actions);
        assert_eq!((actions.len(), write.deadline()), (0, Some(again.instant)));
        write.handle_timers(again, &mut actions);
        assert!(
            matches!(&actions[..], [QuorumAction::Ask { to, .. }] if *to == node(2)),
            "those that have answered are not asked: {actions:?}"
        );
        written(&mut write, 2, None, true);
        assert!(write.is_everywhere());
    }

    #[test]
    fn a_quorum_is_counted_inside_one_list() {
        let mut write = asked();
        written(&mut write, 0, None, true);
        let mut actions = Vec::new();
        write.entered(list(2, 1..4), &|_| true, NOW, &mut actions);
        assert_eq!(actions.len(), 3, "all of the new list are asked");
        assert_eq!(write.acked(), 0);
        written(&mut write, 1, None, true);
        assert!(!write.is_acknowledged());
        written(&mut write, 3, None, true);
        assert!(write.is_acknowledged());
    }

    #[test]
    fn a_strong_write_asks_enough_synced_replicas_for_the_version_first() {
        let terms = WriteTerms { versions_needed: 2, ..terms(Duration::ZERO) };
        let mut write = Write::new(entry(), terms);
        let mut actions = Vec::new();
        write.entered(list(1, 0..3), &|_| true, NOW, &mut actions);
        let asks_version = |action: &QuorumAction| {
            matches!(
                action,
                QuorumAction::Ask { request: Request::Read { want: Want::Version, .. }, .. }
            )
        };
        assert!(actions.len() == 3 && actions.iter().all(asks_version));
        for (from, version, synced) in [(0, 7, true), (1, 90, false), (2, 8, true)] {
            let answer = Answer::Found { found: Found::Version(Version(version)), synced };
            actions.clear();
            write.answered(node(from), answer, NOW, &mut actions);
        }
        assert_eq!(actions, [QuorumAction::Stamp { above: Version(8) }]);
        assert!(!write.may_have_happened());
    }

    fn declined(write: &mut Write, from: u64) {
        let mut actions = Vec::new();
        write.answered(node(from), Answer::Declined, NOW, &mut actions);
        assert_eq!(actions, []);
    }

    #[test]
    fn what_every_replica_declined_has_not_happened_and_is_asked_again() {
        let mut write = asked();
        for from in 0..3 {
            assert!(write.may_have_happened(), "replica {from} may be applying it");
            declined(&mut write, from);
        }
        assert!(!write.may_have_happened() && !write.is_everywhere());
        assert_eq!(write.deadline(), Some(later(1).instant));
        let mut actions = Vec::new();
        write.handle_timers(later(1), &mut actions);
        assert_eq!(actions.len(), 3);
        assert!(write.may_have_happened(), "it is being asked again");
        written(&mut write, 0, None, true);
        declined(&mut write, 1);
        declined(&mut write, 2);
        assert!(write.may_have_happened() && write.acked() == 1, "one has it");
        write.handle_timers(later(2), &mut actions);
        written(&mut write, 2, None, true);
        assert!(write.is_acknowledged());
    }

    /// Such a write was tried until its time was over, and then said that it might have happened.
    #[test]
    fn a_write_is_stopped_when_too_few_replicas_have_room_for_it() {
        let full = |write: &mut Write, from| {
            write.answered(node(from), Answer::NoRoom { max_memory: 7 }, NOW, &mut Vec::new());
        };
        let mut write = asked();
        full(&mut write, 0);
        assert_eq!(write.stopped_by(), [], "two others might have room");
        full(&mut write, 0);
        assert_eq!(write.stopped_by(), [], "it is one replica");
        full(&mut write, 1);
        assert_eq!(write.stopped_by(), [], "the third might be applying it");
        full(&mut write, 2);
        assert_eq!(write.stopped_by(), [(node(0), 7), (node(1), 7), (node(2), 7)]);
        assert!(!write.may_have_happened());
        write.handle_timers(later(100), &mut Vec::new());
        written(&mut write, 0, None, true);
        written(&mut write, 1, None, true);
        assert!(write.is_acknowledged() && write.stopped_by().is_empty(), "there is room again");
    }

    /// A decline answers one question only: what was asked before and got no answer may have been
    /// applied.
    #[test]
    fn a_decline_does_not_answer_for_a_question_that_was_lost() {
        for lose in [
            |write: &mut Write| write.lost(node(0), NOW, &mut Vec::new()),
            |write: &mut Write| {
                write.members_changed(&|member| *member != node(0), NOW, &mut Vec::new())
            },
            |write: &mut Write| write.entered(list(2, 0..3), &|_| true, NOW, &mut Vec::new()),
        ] {
            let mut write = asked();
            declined(&mut write, 1);
            declined(&mut write, 2);
            lose(&mut write);
            write.handle_timers(later(1), &mut Vec::new());
            (0..3).for_each(|from| declined(&mut write, from));
            assert!(write.may_have_happened());
        }
    }

    #[test]
    fn a_lost_replica_is_asked_again_and_a_dead_one_once_it_returned() {
        let mut write = asked();
        write.lost(node(2), NOW, &mut Vec::new());
        assert_eq!(write.deadline(), Some(later(1).instant));
        let mut actions = Vec::new();
        write.handle_timers(later(1), &mut actions);
        assert_eq!(actions.len(), 1);
        written(&mut write, 0, None, true);
        written(&mut write, 1, None, true);
        assert!(!write.is_everywhere());
        write.members_changed(&|member| *member != node(2), NOW, &mut Vec::new());
        assert!(write.is_everywhere() && !write.is_owed(|_| false));
        assert!(write.is_owed(|member| *member == node(2)), "it might return without the write");
        write.members_changed(&|_| true, later(3), &mut Vec::new());
        assert!(!write.is_everywhere());
        assert_eq!(write.deadline(), Some(later(3).instant), "it returned, and is asked at once");
    }

    /// The time at which the patience of a write ends that W have answered [`NOW`].
    fn out_of_patience() -> Now {
        Now { instant: NOW.instant + PATIENCE, ..NOW }
    }

    #[test]
    fn every_live_replica_is_waited_for_and_a_silent_one_for_a_short_time() {
        let mut write = asked_on(terms(PATIENCE));
        written(&mut write, 0, None, true);
        assert!(!write.has_quorum() && write.deadline().is_none());
        written(&mut write, 1, None, true);
        assert!(write.has_quorum() && !write.is_acknowledged());
        let mut all = asked_on(terms(PATIENCE));
        (0..3).for_each(|from| _ = written(&mut all, from, None, true));
        assert!(all.is_acknowledged());
        assert_eq!(write.deadline(), Some(out_of_patience().instant));
        write.handle_timers(NOW, &mut Vec::new());
        assert!(!write.is_acknowledged(), "it was woken early");
        write.handle_timers(out_of_patience(), &mut Vec::new());
        assert!(write.is_acknowledged() && !write.is_everywhere());
        assert_eq!(write.deadline(), None);
    }

    #[test]
    fn a_dead_replica_is_not_waited_for() {
        let mut write = asked_on(terms(PATIENCE));
        written(&mut write, 0, None, true);
        written(&mut write, 1, None, true);
        write.members_changed(&|member| *member != node(2), NOW, &mut Vec::new());
        assert!(write.is_acknowledged());
    }

    #[test]
    fn a_lost_replica_is_waited_for_no_longer_than_a_silent_one() {
        let mut write = asked_on(terms(PATIENCE));
        write.lost(node(2), NOW, &mut Vec::new());
        written(&mut write, 0, None, true);
        written(&mut write, 1, None, true);
        assert!(!write.is_acknowledged());
        write.handle_timers(out_of_patience(), &mut Vec::new());
        assert!(write.is_acknowledged());
    }

    #[test]
    fn a_late_replica_is_not_waited_for() {
        let mut write = asked_on(terms(PATIENCE));
        written(&mut write, 0, None, true);
        written(&mut write, 1, None, true);
        assert_eq!(write.outwaited().count(), 0);
        write.handle_timers(out_of_patience(), &mut Vec::new());
        let late: Vec<Identity> = write.outwaited().collect();
        assert_eq!(late, [node(2)]);
        let mut write = Write::new(entry(), terms(PATIENCE)).with_late(&late);
        write.entered(list(1, 0..3), &|_| true, NOW, &mut Vec::new());
        write.stamped(Version(20), &mut Vec::new());
        written(&mut write, 0, None, true);
        assert!(!write.is_acknowledged(), "W are waited for in any case");
        written(&mut write, 1, None, true);
        assert!(write.is_acknowledged() && !write.is_everywhere());
    }

    /// W = 1 of three: that one replica has the write says nothing of what the others hold.
    #[test]
    fn a_write_that_waits_is_stamped_above_what_the_others_hold() {
        let alone = WriteTerms { quorum: Count::Exactly(1), all_writes: 3, ..terms(PATIENCE) };
        let mut write = asked_on(alone);
        assert_eq!(written(&mut write, 0, None, true), []);
        assert_eq!(written(&mut write, 1, Some(Version(20)), true), [], "the third may hold more");
        assert!(!write.has_quorum());
        let stamp = |above| [QuorumAction::Stamp { above: Version(above) }];
        assert_eq!(written(&mut write, 2, Some(Version(30)), true), stamp(30));
        write.stamped(Version(31), &mut Vec::new());
        (0..3).for_each(|from| assert_eq!(written(&mut write, from, None, true), []));
        assert!(write.is_acknowledged());

        let mut write = asked_on(alone);
        written(&mut write, 0, None, true);
        written(&mut write, 1, Some(Version(20)), true);
        let mut actions = Vec::new();
        write.handle_timers(out_of_patience(), &mut actions);
        assert_eq!(actions, stamp(20), "what was heard by then counts");
        write.stamped(Version(21), &mut Vec::new());
        assert!(!write.is_acknowledged());
        written(&mut write, 0, None, true);
        assert!(write.is_acknowledged(), "it does not wait a second time");
    }

    /// Its caller was told in time, before all replicas had answered: from then on what is newer is
    /// a later write.
    #[test]
    fn a_write_that_waited_is_not_stamped_again_once_its_caller_was_told() {
        for end in [
            |write: &mut Write| write.handle_timers(out_of_patience(), &mut Vec::new()),
            |write: &mut Write| {
                write.members_changed(&|member| *member != node(2), NOW, &mut Vec::new());
                write.members_changed(&|_| true, NOW, &mut Vec::new());
            },
            |_: &mut Write| {},
        ] {
            let alone = WriteTerms { quorum: Count::Exactly(1), all_writes: 3, ..terms(PATIENCE) };
            let mut write = asked_on(alone);
            written(&mut write, 0, None, true);
            written(&mut write, 1, None, true);
            end(&mut write);
            write.told(NOW.instant);
            assert_eq!(written(&mut write, 2, Some(Version(99)), true), []);
            assert!(write.is_everywhere() && write.entry().version() == Version(10));
        }
    }

    /// One replica answers with something newer, the others are silent: W have answered, so that
    /// the patience ends, though only one of them has the write.
    #[test]
    fn the_patience_begins_when_w_have_answered() {
        let terms = WriteTerms { all_writes: 3, ..terms(PATIENCE) };
        let mut write = asked_on(terms);
        written(&mut write, 0, None, true);
        assert_eq!(written(&mut write, 1, Some(Version(20)), true), []);
        let mut actions = Vec::new();
        write.handle_timers(out_of_patience(), &mut actions);
        assert_eq!(actions, [QuorumAction::Stamp { above: Version(20) }]);
    }

    #[test]
    fn a_covered_write_waits_for_every_live_replica_too() {
        let mut write = asked_on(terms(PATIENCE));
        written(&mut write, 0, None, true);
        write.superseded();
        written(&mut write, 1, Some(Version(20)), true);
        assert!(!write.has_quorum());
        write.cover(NOW);
        assert!(write.has_quorum() && !write.is_acknowledged(), "the third has neither of them");
        written(&mut write, 2, Some(Version(20)), true);
        assert!(write.is_acknowledged());
    }

    /// Another data center waits for W here, as no app does.
    #[test]
    fn a_relayed_write_waits_for_w_alone() {
        let entry = Entry::new(b"key", Content::Value(b"value"), Version(10), None);
        let mut write = Write::relayed(entry, terms(PATIENCE));
        write.entered(list(1, 0..3), &|_| true, NOW, &mut Vec::new());
        written(&mut write, 0, None, true);
        written(&mut write, 1, Some(Version(20)), true);
        assert!(write.is_acknowledged() && !write.is_everywhere());
    }
}
