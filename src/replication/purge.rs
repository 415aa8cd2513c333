//! Forgetting what was deleted: tombstones, and the husks of what expired, go away when no node
//! needs them. One machine for each core.
//!
//! **Problem.** A tombstone is there to win over what it deleted, on any node where that turns up.
//! It can go when nothing older can turn up any more. So its replica asks every living node:
//!
//! | phase | what this replica asks | ends when |
//! |---|---|---|
//! | Asking | "Do you hold anything older of these keys?" | all have answered |
//! | Confirming | "Have you merged anything of others since?" | all have answered, with no |
//! | Dropping | "Drop these", of the other replicas | all have answered, or after [`MAX_TRIES`] |
//!
//! When it is asked, a replica of the list says which of the keys may go, another node whether it
//! holds the partition at all. What all agreed on this replica drops when Dropping begins.
//!
//! A refusal, a wrong answer, a new list or a change of the members ends a round before Dropping.
//! What is left is proposed again in a later cycle.
//!
//! **Out of reach.** A node might live and never be reached by this one: most nodes of a network of
//! a hub and spokes are. Then its question is asked through a *helper*, any other living node,
//! which passes it on and the answer back. A helper that does not reach the node either says so,
//! and the next one is tried, up to [`MAX_HELPERS`] of them in a round. The one that reached the
//! node last is asked first from then on. A helper that is busy says nothing of the node: it is
//! asked again a little later.
//!
//! Helpers change nothing of what follows. Each node speaks for itself, and the only thing that a
//! helper adds is time. Time is no argument here: what was true when a node answered is asked again
//! in Confirming, which begins when all have answered, on any way.
//!
//! **Invariant.** A tombstone is dropped only after a moment at which no node held, or could be
//! sent, an older state of its key. An older state could come from five places:
//!
//! - *A node that holds a copy.* Each was asked, and said that it holds none. One that merges,
//!   hands over, or sees other members than the asker agrees to nothing. But nodes answer one after
//!   the other. So an older state could pass from one that has not answered yet to one that has,
//!   and be overwritten by a merge on the node that it came from. Therefore each tells how often it
//!   has merged what others hold, and all are asked again when all have answered. If none has
//!   merged in between, there was a moment at which no node held anything older, and none has it to
//!   give.
//! - *A member that is away.* Nothing goes while a member is dead that might come back with its
//!   memory. After the time that is configured it is not waited for any more. A node that joins is
//!   told of such members; otherwise they would be forgotten with the last node that saw them die.
//!   One that returns later learns of a list all of whose replicas agreed to a purge, and that
//!   descends from its own without a fork ([`PurgeMark`](crate::wire::retention)). They had all
//!   that was acknowledged in its list (unless that was at risk), so what it alone holds of that
//!   age was deleted. It drops all up to the purge horizon before it takes part, and fetches what
//!   is left.
//! - *A message that is still on its way:* a write that its coordinator offers late, or one that a
//!   reader sends on. Each node that is asked first raises the partition's *purge horizon* to the
//!   newest version in question. A single entry at or below it, of a key that is not held, is
//!   refused (`Answer::TooOld`). Every living node was asked, so this holds everywhere. A node that
//!   comes later learns the purge horizon from the one that tells it a list: to agree to a new list
//!   is to serve another one, which makes a purge in the old one impossible. So one member of the
//!   old list suffices to learn it from.
//! - *Copies that are merged as a whole* come from a node that was asked. Neither agrees while a
//!   handoff merges.
//! - *Entries that a survey found missing* are merged in the same way, and may be below the purge
//!   horizon for good reasons. They are sent one by one. So a node that has asked for some, or has
//!   given some, agrees to nothing until it has the answer.
//!
//! The purge horizon says nothing of what a replica merges from others, where an entry might have
//! been missed for good reasons. So it need not be right about anything but single messages, and it
//! may be raised early.
//!
//! Each key is judged by itself. One that differs does not hold up the others, and eviction is no
//! obstacle.
//!
//! **When.** The first replica of a list proposes a tombstone when the clock has read more than its
//! version for a *grace* ([`PURGE_GRACE`](crate::wire::timing::PURGE_GRACE)). Until then writes of
//! the same time are offered to replicas that missed them, and must not be refused. The other
//! replicas propose what is left after three graces: a message was lost, or the first replica
//! changed. So memory comes back one to two minutes after a delete in a quiet cluster. A husk has
//! the version of the write that expired, so it goes in the cycle after that. A cycle looks at
//! every partition that has something to propose, evenly over the grace, and reads all entries of
//! these.
//!
//! **Source.** The death certificates of Demers et al., "Epidemic Algorithms for Replicated
//! Database Maintenance", PODC '87.
//!
//! **Rejected:** to drop a tombstone when it is old, as that paper does with a fixed threshold. A
//! replica that was away for longer brings the deleted value back. And to have each data center
//! agree by itself, and one node of it vouch for all of them: that is a second round of questions
//! in each data center for each round here, whose moments would all have to be one moment.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::clock::{Instant, Version};
use crate::mutants::{ProtocolMutant, rule};
use crate::placement::ListRef;
use crate::types::{Identity, KeyHash, Partition};
use crate::wire::message::{Dead, Request};

/// How many partitions are purged at a time.
const MAX_ROUNDS: usize = 16;

/// After what time a replica is told again what to drop, and a helper that was busy is asked again.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// How often that is done. Then a replica is left to a later cycle, in which it proposes by itself;
/// and so is a round for which no helper has time.
const MAX_TRIES: u32 = 20;

/// Through how many helpers a round tries to reach one node. Enough to find one of a few nodes in
/// the middle of the network, as those that have helped are tried first.
const MAX_HELPERS: usize = 16;

/// For how many cycles the replicas behind the first one wait.
const LATER_CYCLES: usize = 3;

/// What this node sees of a partition that it purges. A round is over as soon as any of it changes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PurgeView {
    pub(crate) list: ListRef,
    /// The position of this node among the list's replicas.
    pub(crate) place: usize,
    /// The other replicas, and every node that might hold a copy in other data centers.
    pub(crate) replicas: Vec<Identity>,
    /// Every living node of all data centers, except this one.
    pub(crate) alive: Vec<Identity>,
    /// The digest of the members that this node sees.
    pub(crate) members_digest: u64,
}

/// What the machine may know of its shard.
pub(crate) trait Graveyard {
    /// Returns the partitions that have dead keys and are served here.
    fn with_dead(&self) -> Vec<Partition>;

    /// Returns what this node sees of the partition; `None` if nothing may go now.
    fn purge_view(&self, partition: Partition) -> Option<PurgeView>;

    /// Returns dead keys behind `after` that are no newer than `newest`, and where to go on.
    fn dead(
        &self,
        partition: Partition,
        after: Option<KeyHash>,
        newest: Version,
    ) -> (Vec<Dead>, Option<KeyHash>);
}

/// What the machine wants its shard to do.
#[derive(Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "nearly all of them ask")]
pub(crate) enum PurgeAction {
    /// Ask `to`, through a helper if one is named; [`Purge::agreed`], [`Purge::dropped`],
    /// [`Purge::declined`] or [`Purge::lost`] is told with this number.
    Ask {
        question: u64,
        to: Identity,
        helper: Option<Identity>,
        partition: Partition,
        request: Request,
    },
    /// Drop these, to which every node agreed.
    Drop { partition: Partition, dead: Vec<Dead> },
}

/// Purges the partitions of one core.
pub(crate) struct Purge {
    grace: Duration,
    /// What the clock read when the last cycles began, the oldest first.
    readings: VecDeque<Version>,
    /// What is left to be looked at in this cycle.
    queue: VecDeque<Partition>,
    /// How far apart the partitions of a cycle are looked at.
    pace: Duration,
    next_step: Option<Instant>,
    rounds: BTreeMap<u64, Round>,
    next_round: u64,
    /// The questions without an answer. Those of rounds that are over end with it.
    questions: BTreeMap<u64, Question>,
    next_question: u64,
    /// The helper that reached a node last, for each node that was reached by one.
    helpers: BTreeMap<Identity, Identity>,
}

/// One node that was asked in a round.
#[derive(Clone, Copy, Debug)]
struct Question {
    round: u64,
    to: Identity,
    helper: Option<Identity>,
}

/// Questions that are about to be asked.
struct ToAsk<'a> {
    questions: &'a mut BTreeMap<u64, Question>,
    next_question: &'a mut u64,
    helpers: &'a BTreeMap<Identity, Identity>,
    actions: &'a mut Vec<PurgeAction>,
}

struct Round {
    partition: Partition,
    /// What this node saw of the partition when the round began.
    view: PurgeView,
    /// The keys, each with whether all that have answered agreed to it.
    dead: Vec<(Dead, bool)>,
    /// Where to go on after these; `None` after the last.
    next: Option<KeyHash>,
    unanswered: Vec<Identity>,
    /// How often a question was lost on the way to each of these nodes.
    losses: BTreeMap<Identity, usize>,
    /// The nodes whose helpers had no time.
    busy: Vec<Identity>,
    /// When these helpers are asked again, and how often they were.
    busy_until: Option<Instant>,
    busy_tries: u32,
    phase: Phase,
}

enum Phase {
    /// The replica asks. It keeps how often each node that answered has merged.
    Asking { merges: BTreeMap<Identity, u64> },
    /// All are asked again. These numbers must not have changed.
    Confirming { merges: BTreeMap<Identity, u64> },
    Dropping {
        tries: u32,
        /// When the replicas that have not answered are told again.
        retry_at: Option<Instant>,
    },
}

impl Purge {
    pub(crate) fn new(grace: Duration) -> Self {
        Self {
            grace,
            readings: VecDeque::new(),
            queue: VecDeque::new(),
            pace: grace,
            next_step: None,
            rounds: BTreeMap::new(),
            next_round: 0,
            questions: BTreeMap::new(),
            next_question: 0,
            helpers: BTreeMap::new(),
        }
    }

    /// Begins, unless it has begun: there are peers.
    pub(crate) fn start(&mut self, now: Instant) {
        self.next_step.get_or_insert(now + self.grace);
    }

    /// Returns when [`handle_timers`](Self::handle_timers) wants to be called.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let retries = self.rounds.values().filter_map(|round| match round.phase {
            Phase::Dropping { retry_at, .. } => retry_at,
            Phase::Asking { .. } | Phase::Confirming { .. } => round.busy_until,
        });
        self.next_step.into_iter().chain(retries).min()
    }

    /// Does what is due. `reading` is what the clock reads.
    pub(crate) fn handle_timers(
        &mut self,
        now: Instant,
        reading: Version,
        shard: &impl Graveyard,
        actions: &mut Vec<PurgeAction>,
    ) {
        self.tell_again(now, actions);
        if self.next_step.is_none_or(|at| at > now) {
            return;
        }
        if self.queue.is_empty() {
            self.begin_cycle(reading, shard);
        } else if self.rounds.len() < MAX_ROUNDS
            && let Some(partition) = self.queue.pop_front()
        {
            self.begin(partition, None, shard, actions);
        }
        self.next_step = Some(now + self.pace);
    }

    fn begin_cycle(&mut self, reading: Version, shard: &impl Graveyard) {
        self.readings.push_back(reading);
        if self.readings.len() > LATER_CYCLES + 1 {
            self.readings.pop_front();
        }
        self.queue = shard.with_dead().into();
        self.pace = self.grace / (self.queue.len() as u32 + 1);
    }

    /// Asks every living node about the partition's next dead keys.
    fn begin(
        &mut self,
        partition: Partition,
        after: Option<KeyHash>,
        shard: &impl Graveyard,
        actions: &mut Vec<PurgeAction>,
    ) {
        let Some(view) = shard.purge_view(partition) else { return };
        let cycles = if view.place == 0 { 1 } else { LATER_CYCLES };
        let Some(&newest) = self.readings.iter().rev().nth(cycles) else { return };
        let (dead, next) = shard.dead(partition, after, newest);
        if dead.is_empty() {
            return;
        }
        self.next_round += 1;
        let dead = dead.into_iter().map(|dead| (dead, true)).collect();
        let phase = Phase::Asking { merges: BTreeMap::new() };
        let (unanswered, losses) = (Vec::new(), BTreeMap::new());
        let (busy, busy_until, busy_tries) = (Vec::new(), None, 0);
        let mut round = Round {
            partition,
            view,
            dead,
            next,
            unanswered,
            losses,
            busy,
            busy_until,
            busy_tries,
            phase,
        };
        round.ask(self.next_round, &mut self.asking(actions));
        self.rounds.insert(self.next_round, round);
        self.go_on(self.next_round, shard, actions);
    }

    /// Takes up which of the keys may go for the node that answers, by their places in the
    /// question, and how often it has merged.
    pub(crate) fn agreed(
        &mut self,
        question: u64,
        merges: u64,
        places: &[u16],
        shard: &impl Graveyard,
        actions: &mut Vec<PurgeAction>,
    ) {
        let Some((number, from)) = self.take_answered(question) else { return };
        let Some(round) = self.rounds.get_mut(&number) else { return };
        match &mut round.phase {
            Phase::Asking { merges: before } => {
                before.insert(from, merges);
                for (at, (_, may_go)) in round.dead.iter_mut().enumerate() {
                    *may_go &= places.binary_search(&(at as u16)).is_ok();
                }
            }
            Phase::Confirming { merges: before } if before.get(&from) == Some(&merges) => {}
            // It has merged since.
            Phase::Confirming { .. } => return drop(self.rounds.remove(&number)),
            // It was told to drop the keys, and answers something else. A peer can do that, so it
            // is no bug here. What it keeps it proposes by itself.
            Phase::Dropping { .. } => {}
        }
        round.unanswered.retain(|member| *member != from);
        self.go_on(number, shard, actions);
    }

    /// Takes up that the node that answers has dropped the keys.
    pub(crate) fn dropped(
        &mut self,
        question: u64,
        shard: &impl Graveyard,
        actions: &mut Vec<PurgeAction>,
    ) {
        let Some((number, from)) = self.take_answered(question) else { return };
        let Some(round) = self.rounds.get_mut(&number) else { return };
        match round.phase {
            Phase::Dropping { .. } => {
                round.unanswered.retain(|member| *member != from);
                self.go_on(number, shard, actions);
            }
            // It was only asked. A peer can answer so, so it is no bug here. Without its word
            // nothing may go, and a round that waited for another answer would keep its slot for
            // ever.
            Phase::Asking { .. } | Phase::Confirming { .. } => drop(self.rounds.remove(&number)),
        }
    }

    /// Notes that a node agrees to nothing now, or has answered with something else.
    pub(crate) fn declined(&mut self, question: u64, now: Instant) {
        let Some((number, _)) = self.take_answered(question) else { return };
        let Some(round) = self.rounds.get_mut(&number) else { return };
        match &mut round.phase {
            Phase::Asking { .. } | Phase::Confirming { .. } => drop(self.rounds.remove(&number)),
            Phase::Dropping { retry_at, .. } => drop(retry_at.get_or_insert(now + RETRY_AFTER)),
        }
    }

    /// Notes that a question will have no answer: it did not reach the node, or the helper. The
    /// next helper is tried.
    pub(crate) fn lost(&mut self, question: u64, now: Instant, actions: &mut Vec<PurgeAction>) {
        let Some(Question { round: number, to, helper }) = self.questions.remove(&question) else {
            return;
        };
        if helper.is_some() && self.helpers.get(&to) == helper.as_ref() {
            self.helpers.remove(&to);
        }
        let Some(mut round) = self.rounds.remove(&number) else { return };
        let losses = round.losses.entry(to).or_default();
        *losses += 1;
        let is_over = *losses > MAX_HELPERS.min(round.view.alive.len().saturating_sub(1));
        match &mut round.phase {
            Phase::Asking { .. } | Phase::Confirming { .. } if is_over => return,
            Phase::Asking { .. } | Phase::Confirming { .. } => {
                let request = round.question();
                round.send(number, to, request, &mut self.asking(actions));
            }
            Phase::Dropping { retry_at, .. } => drop(retry_at.get_or_insert(now + RETRY_AFTER)),
        }
        self.rounds.insert(number, round);
    }

    /// Notes that a helper has not passed a question on, because it has too much to do. It is asked
    /// again later: as a helper it is as good as before.
    pub(crate) fn was_busy(&mut self, question: u64, now: Instant) {
        let Some(Question { round, to, .. }) = self.questions.remove(&question) else { return };
        let Some(round) = self.rounds.get_mut(&round) else { return };
        match &mut round.phase {
            Phase::Asking { .. } | Phase::Confirming { .. } => {
                round.busy.push(to);
                round.busy_until.get_or_insert(now + RETRY_AFTER);
            }
            Phase::Dropping { retry_at, .. } => drop(retry_at.get_or_insert(now + RETRY_AFTER)),
        }
    }

    /// Ends a question that was answered, and returns its round and the node that was asked. It was
    /// reached, by the way that is remembered.
    fn take_answered(&mut self, question: u64) -> Option<(u64, Identity)> {
        let Question { round, to, helper } = self.questions.remove(&question)?;
        match helper {
            Some(helper) => drop(self.helpers.insert(to, helper)),
            None => drop(self.helpers.remove(&to)),
        }
        Some((round, to))
    }

    fn asking<'a>(&'a mut self, actions: &'a mut Vec<PurgeAction>) -> ToAsk<'a> {
        let Self { questions, next_question, helpers, .. } = self;
        ToAsk { questions, next_question, helpers, actions }
    }

    /// Takes up that members died: no round waits for them.
    pub(crate) fn members_changed(&mut self, alive: impl Fn(&Identity) -> bool) {
        self.helpers.retain(|node, helper| alive(node) && alive(helper));
        self.rounds.retain(|_, round| match round.phase {
            Phase::Asking { .. } | Phase::Confirming { .. } => round.view.alive.iter().all(&alive),
            Phase::Dropping { .. } => {
                round.unanswered.retain(&alive);
                !round.unanswered.is_empty()
            }
        });
    }

    /// Goes on with a round as long as it waits for no answer.
    fn go_on(&mut self, number: u64, shard: &impl Graveyard, actions: &mut Vec<PurgeAction>) {
        while let Some(mut round) = self.take_round_without_questions(number) {
            let partition = round.partition;
            let is_dropping = matches!(round.phase, Phase::Dropping { .. });
            if !is_dropping && shard.purge_view(partition).as_ref() != Some(&round.view) {
                return;
            }
            round.dead.retain(|(_, may_go)| *may_go);
            match &mut round.phase {
                Phase::Asking { merges } if !round.dead.is_empty() => {
                    round.phase = Phase::Confirming { merges: std::mem::take(merges) };
                    round.ask(number, &mut self.asking(actions));
                }
                Phase::Confirming { .. } => {
                    round.phase = Phase::Dropping { tries: 0, retry_at: None };
                    round.unanswered = round.view.replicas.clone();
                    actions.push(PurgeAction::Drop { partition, dead: round.keys() });
                    round.tell(number, &mut self.asking(actions));
                }
                Phase::Asking { .. } | Phase::Dropping { .. } => {
                    if round.next.is_some() {
                        self.begin(partition, round.next, shard, actions);
                    }
                    return;
                }
            }
            self.rounds.insert(number, round);
        }
    }

    fn take_round_without_questions(&mut self, number: u64) -> Option<Round> {
        self.rounds.get(&number).filter(|round| round.unanswered.is_empty())?;
        self.rounds.remove(&number)
    }

    /// Tells the replicas again that have not said that they dropped the keys, and asks those again
    /// whose helpers were busy.
    fn tell_again(&mut self, now: Instant, actions: &mut Vec<PurgeAction>) {
        let Self { questions, next_question, helpers, rounds, .. } = self;
        let mut to_ask = ToAsk { questions, next_question, helpers, actions };
        rounds.retain(|number, round| {
            if let Phase::Dropping { tries, retry_at } = &mut round.phase
                && retry_at.take_if(|at| *at <= now).is_some()
            {
                *tries += 1;
                if *tries > MAX_TRIES {
                    return false;
                }
                round.tell(*number, &mut to_ask);
            }
            if round.busy_until.take_if(|at| *at <= now).is_some() {
                round.busy_tries += 1;
                if round.busy_tries > MAX_TRIES {
                    return false;
                }
                for to in std::mem::take(&mut round.busy) {
                    round.send(*number, to, round.question(), &mut to_ask);
                }
            }
            true
        });
    }
}

impl Round {
    fn keys(&self) -> Vec<Dead> {
        self.dead.iter().map(|(dead, _)| *dead).collect()
    }

    /// Asks every living node about the keys, or, without any, whether it has merged since it
    /// answered.
    fn ask(&mut self, number: u64, to_ask: &mut ToAsk<'_>) {
        if !rule(ProtocolMutant::PurgedByTime, true) {
            return;
        }
        self.losses.clear();
        (self.busy, self.busy_until) = (Vec::new(), None);
        self.unanswered = self.view.alive.clone();
        for &to in &self.unanswered {
            self.send(number, to, self.question(), to_ask);
        }
    }

    /// Returns what each living node is asked in this phase.
    fn question(&self) -> Request {
        let PurgeView { list, members_digest, .. } = self.view;
        let dead = if let Phase::Asking { .. } = self.phase { self.keys() } else { Vec::new() };
        Request::Purge { list, members_digest, dead, route: None }
    }

    /// Tells the replicas that have not answered to drop the keys.
    fn tell(&self, number: u64, to_ask: &mut ToAsk<'_>) {
        for &to in &self.unanswered {
            let request = Request::Purged { dead: self.keys(), route: None };
            self.send(number, to, request, to_ask);
        }
    }

    /// Asks a node, by the way that reached it last, or by another one if that failed.
    fn send(&self, number: u64, to: Identity, request: Request, to_ask: &mut ToAsk<'_>) {
        let losses = self.losses.get(&to).copied().unwrap_or_default();
        let helper = match losses.checked_sub(1) {
            None => to_ask.helpers.get(&to).copied(),
            Some(at) => self.helper(to, at, number, to_ask.helpers),
        };
        *to_ask.next_question += 1;
        let question = *to_ask.next_question;
        to_ask.questions.insert(question, Question { round: number, to, helper });
        let partition = self.partition;
        to_ask.actions.push(PurgeAction::Ask { question, to, helper, partition, request });
    }

    /// Returns the helper to try after `at` others, in turn: first those that reached any node,
    /// then all others, in each round beginning with another one. `None` is the node itself.
    fn helper(
        &self,
        to: Identity,
        at: usize,
        number: u64,
        helpers: &BTreeMap<Identity, Identity>,
    ) -> Option<Identity> {
        let mut candidates: Vec<Identity> = Vec::new();
        let from = (number % self.view.alive.len().max(1) as u64) as usize;
        let (before, behind) = self.view.alive.split_at(from);
        for helper in helpers.values().chain(behind).chain(before) {
            if *helper != to && !candidates.contains(helper) && self.view.alive.contains(helper) {
                candidates.push(*helper);
            }
        }
        candidates.get(at % candidates.len().max(1)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replication::tests::{list, node};

    fn here() -> Partition {
        Partition::all().nth(7).unwrap()
    }

    const SECOND: Duration = Duration::from_secs(1);

    /// What one replica of a list of three holds, and a member that is in no list.
    struct Grave {
        dead: Vec<Dead>,
        view: Option<PurgeView>,
    }

    impl Graveyard for Grave {
        fn with_dead(&self) -> Vec<Partition> {
            if self.dead.is_empty() { Vec::new() } else { vec![here()] }
        }

        fn purge_view(&self, _: Partition) -> Option<PurgeView> {
            self.view.clone()
        }

        fn dead(
            &self,
            _: Partition,
            after: Option<KeyHash>,
            most: Version,
        ) -> (Vec<Dead>, Option<KeyHash>) {
            let mut behind =
                self.dead.iter().filter(|(hash, _)| after.is_none_or(|after| *hash > after));
            let two: Vec<Dead> = behind.by_ref().take(2).copied().collect();
            let next = two.last().map(|(hash, _)| *hash).filter(|_| behind.next().is_some());
            (two.into_iter().filter(|(_, version)| *version <= most).collect(), next)
        }
    }

    struct DrivenPurge {
        machine: Purge,
        grave: Grave,
        now: Instant,
    }

    impl DrivenPurge {
        /// Keys 1, 2, … were deleted with versions 10, 20, … before the machine began; this is the
        /// replica at `place`.
        fn new(keys: u64, place: usize) -> Self {
            let dead = (1..=keys).map(|key| (KeyHash(key), Version(10 * key))).collect();
            let replicas = vec![node(1), node(2)];
            let alive = vec![node(1), node(2), node(3)];
            let view = PurgeView {
                list: list(1, 0..3).reference(),
                place,
                replicas,
                alive,
                members_digest: 7,
            };
            let mut machine = Purge::new(60 * SECOND);
            machine.start(Instant::default());
            Self { machine, grave: Grave { dead, view: Some(view) }, now: Instant::default() }
        }

        /// What it wants until `seconds` have passed, while the clock reads `reading`.
        fn run(&mut self, seconds: u64, reading: u64) -> Vec<PurgeAction> {
            let mut actions = Vec::new();
            let end = self.now + SECOND * seconds as u32;
            while let Some(at) = self.machine.deadline().filter(|at| *at <= end) {
                self.now = at;
                self.machine.handle_timers(at, Version(reading), &self.grave, &mut actions);
            }
            self.now = end;
            actions
        }

        /// Asks, once the grace is over.
        fn asked(&mut self) -> u64 {
            let actions = self.run(180, 1_000);
            assert_eq!(asked(&actions).len(), 3, "{actions:?}");
            self.machine.next_round
        }

        /// The latest question to this node; zero if it was asked none.
        fn question_to(&self, to: u64) -> u64 {
            let mut questions = self.machine.questions.iter().rev();
            questions.find(|(_, it)| it.to == node(to)).map_or(0, |(number, _)| *number)
        }

        fn agreed(&mut self, from: u64, merges: u64, places: &[u16]) -> Vec<PurgeAction> {
            let mut actions = Vec::new();
            let question = self.question_to(from);
            self.machine.agreed(question, merges, places, &self.grave, &mut actions);
            actions
        }

        fn dropped(&mut self, from: u64) -> Vec<PurgeAction> {
            let mut actions = Vec::new();
            self.machine.dropped(self.question_to(from), &self.grave, &mut actions);
            actions
        }

        fn declined(&mut self, from: u64) {
            self.machine.declined(self.question_to(from), self.now);
        }

        /// The question to this node is lost. Returns the helper through which it is asked next;
        /// `None` if it is asked no more.
        fn lost(&mut self, to: u64) -> Option<u64> {
            let mut actions = Vec::new();
            self.machine.lost(self.question_to(to), self.now, &mut actions);
            actions.iter().find_map(|action| match action {
                PurgeAction::Ask { to: asked, helper, .. } if *asked == node(to) => {
                    (1..=3).find(|number| *helper == Some(node(*number)))
                }
                _ => None,
            })
        }
    }

    /// Who is asked about which keys.
    fn asked(actions: &[PurgeAction]) -> Vec<(Identity, Vec<u64>)> {
        let asked = actions.iter().filter_map(|action| match action {
            PurgeAction::Ask { to, request: Request::Purge { dead, .. }, .. } => {
                Some((*to, dead.iter().map(|(hash, _)| hash.0).collect()))
            }
            _ => None,
        });
        asked.collect()
    }

    /// Who is told to drop which keys, this node first.
    fn told(actions: &[PurgeAction]) -> Vec<(Identity, Vec<u64>)> {
        let keys = |dead: &[Dead]| dead.iter().map(|(hash, _)| hash.0).collect();
        let told = actions.iter().filter_map(|action| match action {
            PurgeAction::Drop { dead, .. } => Some((node(0), keys(dead))),
            PurgeAction::Ask { to, request: Request::Purged { dead, .. }, .. } => {
                Some((*to, keys(dead)))
            }
            PurgeAction::Ask { .. } => None,
        });
        told.collect()
    }

    #[test]
    fn what_everybody_agrees_on_twice_is_dropped_by_all_replicas() {
        let mut driver = DrivenPurge::new(2, 0);
        driver.asked();
        assert_eq!(driver.agreed(1, 4, &[0, 1]), []);
        assert_eq!(driver.agreed(2, 5, &[1]), []);
        let confirming = driver.agreed(3, 6, &[0, 1]);
        assert_eq!(asked(&confirming), [(node(1), vec![]), (node(2), vec![]), (node(3), vec![])]);
        assert_eq!(driver.agreed(2, 5, &[]), []);
        assert_eq!(driver.agreed(1, 4, &[]), []);
        let dropping = driver.agreed(3, 6, &[]);
        assert_eq!(told(&dropping), [(node(0), vec![2]), (node(1), vec![2]), (node(2), vec![2])]);
        assert_eq!(driver.dropped(1), []);
        driver.declined(2);
        assert_eq!(told(&driver.run(1, 1_000)), [(node(2), vec![2])], "told again");
        assert_eq!(driver.dropped(2), []);
        assert!(driver.machine.rounds.is_empty());
    }

    /// One that holds nothing of the key answers; then it merges the value from one that has not
    /// answered yet, which then merges the tombstone, and agrees as well.
    #[test]
    fn nothing_goes_where_somebody_merged_between_the_answers() {
        let mut driver = DrivenPurge::new(1, 0);
        driver.asked();
        (1..=3).for_each(|from| drop(driver.agreed(from, 4, &[0])));
        assert_eq!(driver.agreed(1, 4, &[]), []);
        assert_eq!(driver.agreed(2, 5, &[]), []);
        assert_eq!(driver.agreed(3, 4, &[]), []);
        assert!(driver.machine.rounds.is_empty());
    }

    #[test]
    fn nothing_goes_without_an_answer_of_everybody_or_once_members_or_lists_change() {
        let changes: [fn(&mut DrivenPurge); 6] = [
            // By the node itself, and by every helper. Those that have answered are asked no more.
            |driver| (0..9).for_each(|_| _ = driver.lost(3)),
            |driver| driver.declined(3),
            |driver| driver.machine.members_changed(|member| *member != node(3)),
            |driver| driver.grave.view.as_mut().unwrap().members_digest = 8,
            |driver| driver.grave.view.as_mut().unwrap().list = list(2, 0..3).reference(),
            |driver| driver.grave.view = None,
        ];
        for change in changes {
            for confirmations in 0..=3 {
                let mut driver = DrivenPurge::new(1, 0);
                driver.asked();
                let mut actions = Vec::new();
                (1..3).for_each(|from| actions.extend(driver.agreed(from, 4, &[0])));
                if confirmations > 0 {
                    actions.extend(driver.agreed(3, 4, &[0]));
                    (1..confirmations).for_each(|from| actions.extend(driver.agreed(from, 4, &[])));
                }
                change(&mut driver);
                (1..=3).for_each(|from| actions.extend(driver.agreed(from, 4, &[])));
                assert_eq!(told(&actions), []);
                assert!(driver.machine.rounds.is_empty());
            }
        }
    }

    #[test]
    fn keys_that_somebody_needs_do_not_hold_up_those_behind_them() {
        let mut driver = DrivenPurge::new(3, 0);
        driver.asked();
        let next: Vec<PurgeAction> = (1..=3).flat_map(|from| driver.agreed(from, 4, &[])).collect();
        assert_eq!(asked(&next), [(node(1), vec![3]), (node(2), vec![3]), (node(3), vec![3])]);
        let all: Vec<PurgeAction> = (1..=3).flat_map(|from| driver.agreed(from, 4, &[0])).collect();
        assert_eq!(asked(&all).len(), 3);
        let all: Vec<PurgeAction> = (1..=3).flat_map(|from| driver.agreed(from, 4, &[])).collect();
        assert_eq!(told(&all)[0], (node(0), vec![3]));
    }

    #[test]
    fn the_first_replica_proposes_after_one_whole_cycle_and_the_others_after_three() {
        for (place, cycles) in [(0, 1), (1, 3), (2, 3)] {
            let mut driver = DrivenPurge::new(1, place);
            // The clock has not come to the tombstone in the first cycle, and has in the second.
            assert_eq!(driver.run(60, 9), []);
            let mut waited = 0;
            while driver.run(60, 10).is_empty() {
                waited += 1;
                assert!(waited < 10);
            }
            assert_eq!(waited, 1 + cycles, "place {place}");
        }
    }

    /// It was told, and does not answer.
    #[test]
    fn who_does_not_answer_is_told_a_number_of_times() {
        let mut driver = DrivenPurge::new(1, 0);
        driver.asked();
        (0..2).for_each(|_| (1..=3).for_each(|from| drop(driver.agreed(from, 4, &[0]))));
        driver.dropped(1);
        driver.grave.dead.clear();
        for _ in 0..MAX_TRIES {
            driver.lost(2);
            assert_eq!(told(&driver.run(1, 1_000)).len(), 1);
        }
        driver.lost(2);
        driver.run(1, 1_000);
        assert!(driver.machine.rounds.is_empty());
    }

    /// Node 3 is reached by node 1 only. It is asked through the others until that is found, and
    /// through node 1 at once from then on.
    #[test]
    fn a_node_out_of_reach_is_asked_through_others_and_by_the_same_way_again() {
        let mut driver = DrivenPurge::new(1, 0);
        driver.asked();
        assert_eq!(driver.lost(3), Some(2));
        assert_eq!(driver.lost(3), Some(1));
        (1..=2).for_each(|from| drop(driver.agreed(from, 4, &[0])));
        let confirming = driver.agreed(3, 4, &[0]);
        let ways: Vec<Option<Identity>> = confirming
            .iter()
            .filter_map(|action| match action {
                PurgeAction::Ask { helper, .. } => Some(*helper),
                PurgeAction::Drop { .. } => None,
            })
            .collect();
        assert_eq!(ways, [None, None, Some(node(1))]);
        (1..=2).for_each(|from| drop(driver.agreed(from, 4, &[])));
        let dropping = driver.agreed(3, 4, &[]);
        assert_eq!(told(&dropping).len(), 3);
        driver.machine.members_changed(|member| *member != node(1));
        assert!(driver.machine.helpers.is_empty());
    }

    /// In a large network of a hub and spokes all spokes ask through the hub at one time. It passed
    /// on what it could, and was taken for one that reaches no node: the other spokes were tried,
    /// which do reach none, and the round was given up, in each cycle again.
    #[test]
    fn a_helper_that_is_busy_is_asked_again_and_is_no_worse_for_it() {
        let mut driver = DrivenPurge::new(1, 0);
        driver.asked();
        assert_eq!((driver.lost(3), driver.lost(3)), (Some(2), Some(1)));
        for _ in 0..MAX_TRIES {
            driver.machine.was_busy(driver.question_to(3), driver.now);
            let again = driver.run(1, 1_000);
            let is_to_helper = |action: &PurgeAction| match action {
                PurgeAction::Ask { to, helper, .. } => (*to, *helper) == (node(3), Some(node(1))),
                PurgeAction::Drop { .. } => false,
            };
            assert!(again.len() == 1 && is_to_helper(&again[0]), "{again:?}");
        }
        (1..=2).for_each(|from| drop(driver.agreed(from, 4, &[0])));
        assert_eq!(asked(&driver.agreed(3, 4, &[0])).len(), 3, "all agree");
        // One that has no time for ever keeps no round for ever.
        driver.machine.was_busy(driver.question_to(3), driver.now);
        driver.run(1, 1_000);
        assert!(driver.machine.rounds.is_empty());
    }

    #[test]
    fn without_dead_keys_it_wakes_once_a_grace() {
        let mut driver = DrivenPurge::new(0, 0);
        assert_eq!(driver.run(60, 1), []);
        let first = driver.machine.deadline().unwrap();
        assert_eq!(first, driver.now + 60 * SECOND);
    }
}
