//! Forgetting what was deleted: tombstones, and the husks of what expired, go away once nobody needs them. One
//! machine for each core.
//!
//! A tombstone is there to win over what it deleted, wherever that turns up. It can go when nothing older can turn
//! up any more. Its replica asks everybody who is alive:
//!
//! ```text
//! Asking    "do you hold anything older of these keys?" Each replica of the list says which of them may go, anybody
//!           else whether it holds the partition at all
//! Dropping  what all agreed on is dropped here, and the other replicas are told to drop it until they have answered
//! ```
//!
//! **Where an older state could come from**, and why it does not:
//! - *A replica, or whoever still holds a copy:* each was asked, and said that it holds none. One that merges, hands
//!   over, or sees other members than the asker agrees to nothing.
//! - *A member that is away:* nothing goes while a member is dead that has not left, has not lost its memory in a
//!   restart, and may come back. After `forget_after` it is not waited for any more.
//! - *A message that is still on its way,* a write that its coordinator offers late, or one that a reader sends on:
//!   whoever is asked first raises the partition's *horizon* to the newest version in question. A single entry at or
//!   below it, of a key that is not held, is refused ([`Answer::TooOld`](crate::wire::message::Answer)). Everybody alive was asked, so this holds
//!   everywhere; who comes later learns the horizon with the list that makes it a replica. To agree to a new list is
//!   to serve another one, which makes a purge in the old one impossible: so one of the old list's members suffices
//!   to learn it from.
//! - *Copies that are merged as a whole* come from somebody who was asked.
//!
//! The horizon says nothing of what a replica merges from others, where an entry may have been missed for good
//! reasons. So it need not be right about anything but single messages, and it may be raised early.
//!
//! Each key is judged by itself: one that differs does not hold up the others, and what was evicted is no obstacle.
//!
//! **When.** A tombstone is proposed by the first replica of its list, once the clock has read more than its version
//! for a *grace* ([`GRACE`]): until then writes of the same time are offered to replicas that missed them, and must not
//! be refused. The other replicas propose what is left after three: a message was lost, or the first replica changed.
//! So memory comes back one to two minutes after a delete in a quiet cluster. A cycle looks at every partition that
//! has something to propose, evenly over the grace, and reads all entries of these.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::clock::{Instant, Version};
use crate::placement::ListRef;
use crate::simulated::{Planted, is_planted};
use crate::types::{Identity, KeyHash, Partition};
use crate::wire::message::Request;

/// How old a tombstone is at the least when it goes: twice as long as a write is offered to who missed it.
pub(crate) const GRACE: Duration = Duration::from_secs(60);

/// How many keys are asked about at a time, 16 bytes each.
pub(crate) const MOST_KEYS: usize = 1024;

/// How many partitions are purged at a time.
const MOST_ROUNDS: usize = 16;

/// When a replica is told again what to drop, and how often.
const RETRY_AFTER: Duration = Duration::from_millis(500);
const MOST_TRIES: u32 = 20;

/// For how many cycles the replicas behind the first one wait.
const LATER_CYCLES: usize = 3;

/// A key without a value: its hash, and the version of what deleted it.
pub(crate) type Dead = (KeyHash, Version);

/// Where a partition stands.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stand {
    pub(crate) list: ListRef,
    /// This node's place among the list's replicas.
    pub(crate) place: usize,
    /// The other ones.
    pub(crate) replicas: Vec<Identity>,
    /// Everybody who is alive, but this node.
    pub(crate) alive: Vec<Identity>,
    /// The digest of the members that this node sees.
    pub(crate) members_digest: u64,
}

/// What the machine asks its shard.
pub(crate) trait Graveyard {
    /// The partitions that have dead keys and are served here.
    fn with_dead(&self) -> Vec<Partition>;

    /// `None` where nothing may go now.
    fn stand(&self, partition: Partition) -> Option<Stand>;

    /// Dead keys behind `after` that are no newer than `most`, and where to go on.
    fn dead(
        &self,
        partition: Partition,
        after: Option<KeyHash>,
        most: Version,
    ) -> (Vec<Dead>, Option<KeyHash>);
}

#[derive(Debug, PartialEq)]
pub(crate) enum PurgeAction {
    /// Ask `to`; [`Purge::answered`] or [`Purge::lost`] is told with this number.
    Ask { round: u64, to: Identity, partition: Partition, request: Request },
    /// Drop these, which everybody agreed on.
    Drop { dead: Vec<Dead> },
}

pub(crate) struct Purge {
    grace: Duration,
    /// What the clock read at the last cycles' beginnings.
    readings: VecDeque<Version>,
    /// What is left to be looked at in this cycle, and how far apart.
    queue: VecDeque<Partition>,
    pace: Duration,
    next_step: Option<Instant>,
    rounds: BTreeMap<u64, Round>,
    next_round: u64,
}

struct Round {
    partition: Partition,
    /// Each with whether all that have answered agreed to it.
    dead: Vec<(Dead, bool)>,
    /// Where to go on after these; `None` after the last.
    next: Option<KeyHash>,
    unanswered: Vec<Identity>,
    phase: Phase,
}

enum Phase {
    Asking {
        replicas: Vec<Identity>,
    },
    Dropping {
        tries: u32,
        /// When those who have not answered are told again.
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
        }
    }

    /// There are peers: begins, unless it has begun.
    pub(crate) fn start(&mut self, now: Instant) {
        self.next_step.get_or_insert(now + self.grace);
    }

    /// When [`resume`](Self::resume) wants to be called.
    pub(crate) fn wake(&self) -> Option<Instant> {
        let retries = self.rounds.values().filter_map(|round| match round.phase {
            Phase::Dropping { retry_at, .. } => retry_at,
            Phase::Asking { .. } => None,
        });
        self.next_step.into_iter().chain(retries).min()
    }

    /// Does what is due. `reading` is what the clock reads.
    pub(crate) fn resume(
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
            self.readings.push_back(reading);
            if self.readings.len() > LATER_CYCLES + 1 {
                self.readings.pop_front();
            }
            self.queue = shard.with_dead().into();
            self.pace = self.grace / (self.queue.len() as u32 + 1);
        } else if self.rounds.len() < MOST_ROUNDS
            && let Some(partition) = self.queue.pop_front()
        {
            self.begin(partition, None, shard, actions);
        }
        self.next_step = Some(now + self.pace);
    }

    /// Asks everybody about the partition's next dead keys.
    fn begin(
        &mut self,
        partition: Partition,
        after: Option<KeyHash>,
        shard: &impl Graveyard,
        actions: &mut Vec<PurgeAction>,
    ) {
        let Some(stand) = shard.stand(partition) else { return };
        let cycles = if stand.place == 0 { 1 } else { LATER_CYCLES };
        let Some(&most) = self.readings.iter().rev().nth(cycles) else { return };
        let (dead, next) = shard.dead(partition, after, most);
        if dead.is_empty() {
            return;
        }
        self.next_round += 1;
        let Stand { list, replicas, alive, members_digest, .. } = stand;
        let alive = if is_planted(Planted::PurgedByTime) { Vec::new() } else { alive };
        for &to in &alive {
            let request = Request::Purge { list, members_digest, dead: dead.clone() };
            actions.push(PurgeAction::Ask { round: self.next_round, to, partition, request });
        }
        let phase = Phase::Asking { replicas };
        let dead = dead.into_iter().map(|dead| (dead, true)).collect();
        let round = Round { partition, dead, next, unanswered: alive, phase };
        self.rounds.insert(self.next_round, round);
        self.go_on(self.next_round, shard, actions);
    }

    /// `from` has answered which of the keys may go, by their places in the question.
    pub(crate) fn agreed(
        &mut self,
        number: u64,
        from: Identity,
        agreed: &[u16],
        shard: &impl Graveyard,
        actions: &mut Vec<PurgeAction>,
    ) {
        let Some(round) = self.rounds.get_mut(&number) else { return };
        if !matches!(round.phase, Phase::Asking { .. }) {
            return;
        }
        round.unanswered.retain(|member| *member != from);
        for (at, (_, may_go)) in round.dead.iter_mut().enumerate() {
            *may_go &= agreed.binary_search(&(at as u16)).is_ok();
        }
        self.go_on(number, shard, actions);
    }

    /// `from` has dropped them.
    pub(crate) fn dropped(
        &mut self,
        number: u64,
        from: Identity,
        shard: &impl Graveyard,
        actions: &mut Vec<PurgeAction>,
    ) {
        let Some(round) = self.rounds.get_mut(&number) else { return };
        if matches!(round.phase, Phase::Dropping { .. }) {
            round.unanswered.retain(|member| *member != from);
            self.go_on(number, shard, actions);
        }
    }

    /// A question will have no answer, or another one than was asked for.
    pub(crate) fn lost(&mut self, number: u64, now: Instant) {
        let Some(round) = self.rounds.get_mut(&number) else { return };
        match &mut round.phase {
            Phase::Asking { .. } => drop(self.rounds.remove(&number)),
            Phase::Dropping { retry_at, .. } => drop(retry_at.get_or_insert(now + RETRY_AFTER)),
        }
    }

    /// Members died: nobody waits for them.
    pub(crate) fn members_changed(&mut self, alive: impl Fn(&Identity) -> bool) {
        self.rounds.retain(|_, round| match round.phase {
            Phase::Asking { .. } => round.unanswered.iter().all(&alive),
            Phase::Dropping { .. } => {
                round.unanswered.retain(&alive);
                !round.unanswered.is_empty()
            }
        });
    }

    fn go_on(&mut self, number: u64, shard: &impl Graveyard, actions: &mut Vec<PurgeAction>) {
        let Some(round) = self.rounds.get_mut(&number).filter(|round| round.unanswered.is_empty()) else {
            return;
        };
        if let Phase::Asking { replicas } = &mut round.phase
            && round.dead.iter().any(|(_, may_go)| *may_go)
        {
            round.unanswered = std::mem::take(replicas);
            round.phase = Phase::Dropping { tries: 0, retry_at: None };
            round.dead.retain(|(_, may_go)| *may_go);
            actions.push(PurgeAction::Drop { dead: round.keys() });
            round.tell(number, actions);
            if !round.unanswered.is_empty() {
                return;
            }
        }
        if let Some(Round { partition, next: next @ Some(_), .. }) = self.rounds.remove(&number) {
            self.begin(partition, next, shard, actions);
        }
    }

    fn tell_again(&mut self, now: Instant, actions: &mut Vec<PurgeAction>) {
        self.rounds.retain(|number, round| {
            if let Phase::Dropping { tries, retry_at } = &mut round.phase
                && retry_at.take_if(|at| *at <= now).is_some()
            {
                *tries += 1;
                if *tries > MOST_TRIES {
                    return false;
                }
                round.tell(*number, actions);
            }
            true
        });
    }
}

impl Round {
    fn keys(&self) -> Vec<Dead> {
        self.dead.iter().map(|(dead, _)| *dead).collect()
    }

    fn tell(&self, number: u64, actions: &mut Vec<PurgeAction>) {
        for &to in &self.unanswered {
            let request = Request::Purged { dead: self.keys() };
            actions.push(PurgeAction::Ask { round: number, to, partition: self.partition, request });
        }
    }
}
