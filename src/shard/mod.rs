//! [`Shard`]: what one core owns, and the joint between its store and replication.
//!
//! A shard is told events and returns actions; it has no thread, socket or clock. It does nine things,
//! one file each, beside [`calls`], which says what an app can ask:
//!
//! - [`coordinate`]: runs the app's calls, as their coordinator, to their end;
//! - [`groups`]: begins the calls of one message a few at a time, and answers them together;
//! - [`run`]: lets an app's closure work on the store itself;
//! - [`replicate`]: answers the requests of other coordinators, and of itself: the coordinator's own
//!   replica is asked like every other one, without the network;
//! - [`local`]: says when a caller may answer a read by itself, from this node's copy;
//! - [`lists`]: keeps each partition's list, and hands partitions over when the placement changes;
//! - [`compare`]: compares what this node holds with what the other replicas do, in the background;
//! - [`elsewhere`]: passes writes, and reads that find nothing, to other data centers, and serves theirs;
//! - [`debt`]: says what is missing before any node may be stopped.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{HybridClock, Instant, Now};
use crate::entry::Entry;
use crate::error::{NotApplied, ReadError, WriteError};
use crate::options::Eviction;
use crate::placement::{Gone, Placement};
use crate::quorums::Quorums;
use crate::replication::anti_entropy::AntiEntropy;
use crate::replication::purge::Purge;
use crate::replication::read::Rules;
use crate::replication::relay::Relays;
use crate::simulated::{Planted, is_planted};
use crate::store::{Applied, Deletes, Readers, Store, StoreConfig, View};
use crate::types::{Boot, ClusterHash, CoreId, Cores, Identity, KeyHash, NodeHash, PARTITIONS, Partition};
use crate::wire::message::{Answer, Listed, Request};

mod calls;
mod compare;
mod coordinate;
mod debt;
mod elsewhere;
mod groups;
mod lists;
mod local;
mod purge;
mod replicate;
mod run;

pub(crate) use calls::{
    Call, Counts, KeysCall, Outcome, ReadCall, RunCall, StoppedBy, TouchCall, WriteCall, WriteRules,
    check_lengths, expires_at_ms,
};
use coordinate::{Op, OpId};
pub(crate) use debt::Debt;
use elsewhere::{Forward, ForwardId, RelayId, Relayed};
use groups::{Caller, Group, GroupId};
use lists::Replica;
pub(crate) use local::{LocalAnswer, LocalRules, read_local};
pub use run::LocalShard;
use run::{Run, RunId};

/// How far a replica's clock may be ahead and still be followed by versions given here.
const MAX_CLOCK_SKEW: Duration = Duration::from_secs(60);

/// How many expired keys one turn frees; the rest wait for the next, so that no turn is long.
const EXPIRE_BUDGET: usize = 256;

/// How often expired keys are looked for, at the most.
const EXPIRE_PERIOD: Duration = Duration::from_millis(50);

/// How long what was overwritten or deleted waits to be freed, at the most, where no reader holds it up.
const COLLECT_PERIOD: Duration = Duration::from_millis(10);

/// How long a bug on purpose puts off what it should have done.
#[cfg(feature = "sim")]
const PUT_OFF_FOR: Duration = Duration::from_millis(20);

/// How many timers one turn fires; the rest are due in the next.
const TIMERS_PER_TURN: usize = 256;

#[derive(Clone, Debug)]
pub(crate) struct ShardConfig {
    pub(crate) cluster: ClusterHash,
    pub(crate) core: CoreId,
    pub(crate) cores: u16,
    pub(crate) me: Identity,
    pub(crate) replicas: usize,
    pub(crate) write_quorum: usize,
    pub(crate) read_quorum: usize,
    pub(crate) standalone: bool,
    /// This core's share of the memory limit, in bytes.
    pub(crate) memory: Option<usize>,
    pub(crate) eviction: Eviction,
    /// How old a tombstone is at the least when it goes.
    pub(crate) purge_grace: Duration,
}

/// What a shard is told. `C` stands for whoever made a call, opaque to the shard.
pub(crate) enum Event<C> {
    Call {
        call: Call,
        caller: C,
    },
    /// A peer's core asks, over the accepted connection `via`.
    Request {
        via: u64,
        from: Identity,
        partition: Partition,
        request_id: u64,
        request: Request,
    },
    /// A peer's core answers what this shard asked.
    Answer {
        request_id: u64,
        answer: Answer,
    },
    /// The connection to this life of a node failed: what was asked over it stays unanswered.
    Lost {
        node: NodeHash,
        boot: Boot,
    },
    /// There was no room to send this request.
    Unsent {
        request_id: u64,
    },
    /// The members changed.
    Placement {
        placement: Arc<Placement>,
        stage: Stage,
    },
    /// A majority is required: until when this node has it.
    Lease(Lease),
    /// This node is this one from now on, of which no list knows.
    NewLife {
        me: Identity,
    },
    /// What is missing? The answer, of the same number, is an [`Action::Debt`].
    AskDebt {
        question: u64,
    },
    /// The engine stops: every call gets its answer now.
    Stop(StoppedBy),
}

/// Until when this node counts as part of a majority of so many nodes (`control/majority` says why).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Lease {
    pub(crate) until: Instant,
    pub(crate) nodes: usize,
}

/// How far the cluster is with its first lists, as this node sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    /// The members have not agreed yet; no lists are made.
    Forming,
    /// The members have agreed, none of them ever held data: lists of this placement are born synced.
    Born,
    /// The cluster has data; whatever this node should hold it must fetch.
    Joined,
}

/// What a shard wants done.
#[derive(Debug)]
pub(crate) enum Action<C> {
    Ask {
        to: Identity,
        core: CoreId,
        partition: Partition,
        request_id: u64,
        request: Request,
    },
    Answer {
        via: u64,
        partition: Partition,
        request_id: u64,
        answer: Answer,
    },
    /// The peer broke the protocol: close its connection.
    Violation {
        via: u64,
        why: &'static str,
    },
    Reply {
        caller: C,
        outcome: Outcome,
    },
    /// Under the placement of this generation: how many partitions this shard should hold and does not
    /// yet, and how many it holds and must give.
    Progress {
        generation: u64,
        pending: usize,
        giving: usize,
    },
    /// W replicas of the partition died before it could be copied: what they acknowledged may be gone.
    DataAtRisk {
        partition: Partition,
    },
    Debt {
        question: u64,
        debt: Debt,
    },
}

pub(crate) struct Shard<C> {
    config: ShardConfig,
    cores: Cores,
    me: Identity,
    clock: HybridClock,
    store: Store,
    placement: Arc<Placement>,
    stage: Stage,
    /// Where a majority is required.
    lease: Option<Lease>,
    /// Whether the placement says that this life of this node is over.
    is_dead: bool,
    /// One for each partition of this core.
    replicas: Vec<Replica>,
    /// Partitions that want a handoff and have none yet.
    wanted: BTreeSet<Partition>,
    handoffs: usize,
    /// Whether one may be startable that was not when they were looked at last.
    may_hand_over: bool,
    /// From whom a partition that this node holds is to be merged, when there is room.
    merges: BTreeMap<Partition, BTreeSet<Identity>>,
    /// Compares with other replicas, and when it is set to do so next.
    anti_entropy: AntiEntropy,
    compare_at: Option<Instant>,
    /// Forgets what was deleted, and when it is set to do so next.
    purge: Purge,
    purge_at: Option<Instant>,
    /// Writes for other data centers, and when some are due next.
    relays: Relays,
    relay_at: Option<Instant>,
    /// Those of other data centers that are being written here.
    relayed: BTreeMap<RelayId, Relayed>,
    /// Reads that other data centers may be asked for.
    forwards: BTreeMap<ForwardId, Forward<C>>,
    ops: BTreeMap<OpId, Op<C>>,
    ops_of: BTreeSet<(Partition, OpId)>,
    /// The latest write of a key that is still owed to some replica.
    recent_writes: BTreeMap<KeyHash, OpId>,
    /// Acknowledged writes that some replica lacks, oldest first, and their bytes.
    owed: BTreeSet<OpId>,
    owed_bytes: usize,
    /// Who waits for the answer to which request.
    outstanding: BTreeMap<u64, Outstanding>,
    /// Requests to this shard itself.
    to_self: VecDeque<(u64, Partition, Request)>,
    timers: BTreeSet<(Instant, Timer)>,
    /// What [`Planted::AcknowledgedFirst`](crate::simulated::Planted) puts off.
    #[cfg(feature = "sim")]
    put_off: VecDeque<Entry>,
    /// The earliest expiry timer.
    expire_at: Option<Instant>,
    /// Whether an entry that expires may have come since that was set, and when it was looked at last.
    may_expire: bool,
    expiry_seen_at: Option<Instant>,
    /// Whether what was unlinked is to be freed some time.
    has_collect: bool,
    /// Writes for which room is being made.
    waiting: VecDeque<(WriteCall, Caller<C>)>,
    /// Calls that came together, and those groups of them of which some are not begun.
    groups: BTreeMap<GroupId, Group<C>>,
    unfinished_groups: VecDeque<GroupId>,
    /// Whether a turn for those who wait for room, or for groups, is set already.
    has_room_timer: bool,
    has_groups_timer: bool,
    /// Closures that run, or whose writes are under way.
    runs: BTreeMap<RunId, Run<C>>,
    write_rules: WriteRules,
    next_id: u64,
    /// How many partitions are to be fetched, and to be given away.
    pending: usize,
    giving: usize,
    /// What was last said of that, and under which placement.
    reported: (u64, usize, usize),
}

#[derive(Clone, Copy, Debug)]
struct Outstanding {
    to: Identity,
    /// It is of another data center: it may have been taken for dead by the time that its answer comes.
    is_elsewhere: bool,
    partition: Partition,
    asker: Asker,
}

/// Who asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Asker {
    Op(OpId),
    Handoff(Partition),
    /// Whoever wants to know this partition's list.
    List(Partition),
    /// Whoever compares partitions, with this number of the question.
    Compare(u64),
    /// Whoever purges a partition, with this number of the round.
    Purge(u64),
    /// Whoever has writes for another data center, with this number of the batch.
    Relay(u64),
    Forward(ForwardId),
    /// Whoever surveys this partition behind this hash, with this number of the question.
    Survey {
        round: u64,
        partition: Partition,
        after: Option<KeyHash>,
    },
}

/// Checked against its owner when it fires: late and repeated ones are harmless.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Timer {
    Op(OpId),
    Handoff(Partition),
    Remind(Partition),
    /// Other replicas are to be compared with.
    Compare,
    /// What was deleted is to be forgotten.
    Purge,
    Expire,
    /// Writes for other data centers are to be sent.
    Relay,
    /// A read of other data centers is over.
    Forward(ForwardId),
    /// What was unlinked may be free to go.
    Collect,
    /// More room can be made.
    Room,
    /// More calls of groups can be begun.
    Groups,
    /// What was put off is to be applied.
    #[cfg(feature = "sim")]
    PutOff,
}

impl<C> Shard<C> {
    /// A shard that may be read by these readers.
    pub(crate) fn new(config: ShardConfig, readers: Arc<Readers>) -> Self {
        let store = Store::new(
            StoreConfig {
                cluster: config.cluster,
                core: config.core,
                cores: Cores::new(config.cores),
                deletes: if config.standalone { Deletes::Forget } else { Deletes::Keep },
                memory: config.memory,
                eviction: config.eviction,
            },
            readers,
        );
        let owned = PARTITIONS.div_ceil(config.cores);
        let write_rules = WriteRules {
            cluster: config.cluster,
            quorums: Quorums::from_codes(config.replicas, config.write_quorum, config.read_quorum),
            memory: config.memory,
        };
        Self {
            cores: Cores::new(config.cores),
            me: config.me,
            clock: HybridClock::new(MAX_CLOCK_SKEW),
            store,
            placement: Arc::new(Placement::new(Vec::new(), config.replicas, 0, Gone::new())),
            stage: Stage::Forming,
            lease: None,
            is_dead: false,
            replicas: (0..owned).map(|_| Replica::default()).collect(),
            wanted: BTreeSet::new(),
            handoffs: 0,
            may_hand_over: false,
            merges: BTreeMap::new(),
            anti_entropy: AntiEntropy::default(),
            compare_at: None,
            purge: Purge::new(config.purge_grace),
            purge_at: None,
            relays: Relays::new(config.memory),
            relay_at: None,
            relayed: BTreeMap::new(),
            forwards: BTreeMap::new(),
            ops: BTreeMap::new(),
            ops_of: BTreeSet::new(),
            recent_writes: BTreeMap::new(),
            owed: BTreeSet::new(),
            owed_bytes: 0,
            outstanding: BTreeMap::new(),
            to_self: VecDeque::new(),
            timers: BTreeSet::new(),
            #[cfg(feature = "sim")]
            put_off: VecDeque::new(),
            expire_at: None,
            may_expire: false,
            expiry_seen_at: None,
            has_collect: false,
            waiting: VecDeque::new(),
            groups: BTreeMap::new(),
            unfinished_groups: VecDeque::new(),
            has_room_timer: false,
            has_groups_timer: false,
            runs: BTreeMap::new(),
            write_rules,
            next_id: 1,
            pending: 0,
            giving: 0,
            reported: (0, 0, 0),
            config,
        }
    }

    /// What other threads read from.
    pub(crate) fn view(&self) -> &Arc<View> {
        self.store.view()
    }

    pub(crate) fn handle(&mut self, now: Now, event: Event<C>, actions: &mut Vec<Action<C>>) {
        match event {
            Event::Call { call, caller } => self.call(now, call, Caller::App(caller), actions),
            Event::Request { via, from, partition, request_id, request } => {
                let from = from.life();
                match self.check(partition, &request) {
                    Ok(()) => {
                        let answer = if self.placement.is_elsewhere(from.node) {
                            let peer = (via, partition, request_id);
                            self.serve_elsewhere(now, from, peer, request, actions)
                        } else {
                            Some(self.serve(now, from, partition, request, actions))
                        };
                        let answered = |answer| Action::Answer { via, partition, request_id, answer };
                        actions.extend(answer.map(answered));
                    }
                    Err(why) => actions.push(Action::Violation { via, why }),
                }
            }
            Event::Answer { request_id, answer } => self.answered(now, request_id, answer, actions),
            Event::Lost { node, boot } => self.lost(now, (node, boot), actions),
            Event::Unsent { request_id } => self.unanswered(now, request_id, actions),
            Event::Placement { placement, stage } => self.placed(now, placement, stage, actions),
            Event::Lease(lease) => self.lease = Some(lease),
            Event::NewLife { me } => self.live_anew(now, me.life()),
            Event::AskDebt { question } => actions.push(Action::Debt { question, debt: self.debt(now) }),
            Event::Stop(by) => return self.stop(by, actions),
        }
        self.settle(now, actions);
    }

    /// Fires what is due, as much of it as one turn allows: where there is more,
    /// [`deadline`](Self::deadline) has passed.
    pub(crate) fn handle_timers(&mut self, now: Now, actions: &mut Vec<Action<C>>) {
        for _ in 0..TIMERS_PER_TURN {
            let Some(&(_, timer)) = self.timers.first().filter(|(at, _)| *at <= now.instant) else { break };
            self.timers.pop_first();
            match timer {
                Timer::Op(op) => self.wake_op(now, op, actions),
                Timer::Handoff(partition) => self.resume_handoff(now, partition, actions),
                Timer::Remind(partition) => self.remind(now, partition, actions),
                Timer::Compare => self.compare(now, actions),
                Timer::Purge => self.purge(now, actions),
                Timer::Relay => self.send_relays(now, actions),
                Timer::Forward(id) => self.end_forward(id, actions),
                Timer::Collect => {
                    self.has_collect = false;
                    self.store.collect();
                }
                Timer::Room => {
                    self.has_room_timer = false;
                    self.go_on_waiting(now, actions);
                }
                Timer::Groups => {
                    self.has_groups_timer = false;
                    self.go_on_groups(now, actions);
                }
                #[cfg(feature = "sim")]
                Timer::PutOff => self.apply_put_off(),
                Timer::Expire => {
                    self.expire_at = None;
                    self.may_expire = true;
                    if self.store.expire(now.wall, EXPIRE_BUDGET) == EXPIRE_BUDGET {
                        // More are due: at once, but not in this turn.
                        self.expire_at = Some(now.instant + Duration::from_nanos(1));
                        self.soon(now, Timer::Expire);
                    }
                }
            }
        }
        self.settle(now, actions);
    }

    /// When [`handle_timers`](Self::handle_timers) wants to be called next.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.timers.first().map(|&(at, _)| at)
    }

    /// Whether another node has been asked and has not answered.
    pub(crate) fn expects_answers(&self) -> bool {
        !self.outstanding.is_empty()
    }

    /// The value that this node would answer as a synced replica.
    #[cfg(feature = "sim")]
    pub(crate) fn peek(&self, now: Now, hash: KeyHash, key: &[u8]) -> Option<Vec<u8>> {
        let is_synced = self.replica(hash.partition()).serves_synced(&self.me);
        let entry = self.store.get(hash, key).filter(|_| is_synced)?;
        entry.live_value(now.wall).map(<[u8]>::to_vec)
    }

    /// What this node stores for the key, in whatever state, and whether as a synced replica.
    #[cfg(feature = "sim")]
    pub(crate) fn stored(&self, hash: KeyHash, key: &[u8]) -> Option<(Entry, bool)> {
        let is_synced = self.replica(hash.partition()).serves_synced(&self.me);
        self.store.get(hash, key).map(|entry| (Entry::clone(&entry), is_synced))
    }

    /// The number of the list that this node serves of the partition, synced.
    #[cfg(feature = "sim")]
    pub(crate) fn serves(&self, partition: Partition) -> Option<u64> {
        let replica = self.replica(partition);
        replica.list().filter(|_| replica.serves_synced(&self.me)).map(|list| list.number())
    }

    /// Lets go of every caller, and does nothing else: for a shard that has panicked, whose state means nothing
    /// any more.
    pub(crate) fn abandon(&mut self) {
        drop(std::mem::take(&mut self.ops));
        drop(std::mem::take(&mut self.waiting));
        drop(std::mem::take(&mut self.groups));
        drop(std::mem::take(&mut self.runs));
        drop(std::mem::take(&mut self.forwards));
    }

    /// Answers this shard's own requests.
    fn answer_self(&mut self, now: Now, actions: &mut Vec<Action<C>>) {
        while let Some((request_id, partition, request)) = self.to_self.pop_front() {
            let answer = self.serve(now, self.me, partition, request, actions);
            self.answered(now, request_id, answer, actions);
        }
    }

    /// Answers this shard's own requests, and reports what that changed.
    fn settle(&mut self, now: Now, actions: &mut Vec<Action<C>>) {
        loop {
            self.answer_self(now, actions);
            if std::mem::take(&mut self.may_hand_over) {
                self.start_handoffs(now, actions);
            }
            if self.to_self.is_empty() {
                break;
            }
        }
        self.schedule_expiry(now);
        self.schedule_compare();
        self.schedule_purge();
        self.schedule_relays();
        if self.store.has_garbage() && !std::mem::replace(&mut self.has_collect, true) {
            self.timers.insert((now.instant + COLLECT_PERIOD, Timer::Collect));
        }
        self.report_progress(actions);
    }

    /// Asks `to`, which may be this node itself. One that is not a member (any more) is treated as a
    /// connection that failed.
    fn ask(
        &mut self,
        to: Identity,
        partition: Partition,
        request: Request,
        asker: Asker,
        actions: &mut Vec<Action<C>>,
    ) -> Option<u64> {
        let mut request = request;
        if let Request::Adopt { horizon, .. } = &mut request {
            *horizon = self.replica(partition).horizon;
        }
        let request_id = self.new_id();
        if to == self.me {
            self.outstanding.insert(request_id, Outstanding { to, is_elsewhere: false, partition, asker });
            self.to_self.push_back((request_id, partition, request));
            return Some(request_id);
        }
        let member = self.placement.member(to.node).filter(|member| member.identity == to)?;
        let core = partition.core(member.cores);
        let is_elsewhere = self.placement.is_elsewhere(to.node);
        self.outstanding.insert(request_id, Outstanding { to, is_elsewhere, partition, asker });
        actions.push(Action::Ask { to, core, partition, request_id, request });
        Some(request_id)
    }

    fn answered(&mut self, now: Now, request_id: u64, answer: Answer, actions: &mut Vec<Action<C>>) {
        let Some(waiting) = self.outstanding.remove(&request_id) else { return };
        let Outstanding { to, is_elsewhere, partition, asker } = waiting;
        let mut answer = answer;
        if let Answer::Listed(Listed { list, .. }) | Answer::OtherList { list, .. } = &mut answer
            && is_elsewhere
            && !is_planted(Planted::FarListsCount)
        {
            // Another data center's lists are none here.
            *list = None;
        }
        // Before the list is served that makes this node a replica.
        if let Answer::Listed(Listed { horizon, .. }) | Answer::OtherList { horizon, .. } = &answer {
            self.raise_horizon(partition, *horizon);
        }
        match asker {
            Asker::Op(op) => self.op_answered(now, op, request_id, to, answer, actions),
            Asker::Handoff(partition) => {
                self.handoff_answered(now, partition, request_id, to, answer, actions);
            }
            Asker::List(partition) => {
                if let Answer::Listed(Listed { list: Some(list), .. }) = answer {
                    self.learn(now, partition, list, actions);
                }
            }
            Asker::Compare(round) => self.compared(now, round, answer, actions),
            Asker::Purge(round) => self.purge_answered(now, round, to, &answer, actions),
            Asker::Relay(batch) => self.relay_answered(now, batch, &answer),
            Asker::Forward(id) => self.forward_answered(now, id, Some(answer), actions),
            Asker::Survey { round, partition, after } => {
                self.surveyed(now, to, (round, partition, after), answer, actions);
            }
        }
    }

    fn lost(&mut self, now: Now, peer: (NodeHash, Boot), actions: &mut Vec<Action<C>>) {
        let is_to_peer = |waiting: &Outstanding| (waiting.to.node, waiting.to.boot) == peer;
        let lost: Vec<u64> =
            self.outstanding.iter().filter(|(_, waiting)| is_to_peer(waiting)).map(|(&id, _)| id).collect();
        for request_id in lost {
            self.unanswered(now, request_id, actions);
        }
        // Writes may have been lost with it.
        let member = self.placement.member(peer.0).map(|member| member.identity);
        if let Some(peer) = member.filter(|member| member.boot == peer.1) {
            self.hurry_to_compare(now, peer);
        }
    }

    /// A request will have no answer. (One before it may have made it moot.)
    fn unanswered(&mut self, now: Now, request_id: u64, actions: &mut Vec<Action<C>>) {
        let Some(Outstanding { to, asker, .. }) = self.outstanding.remove(&request_id) else { return };
        match asker {
            Asker::Op(op) => self.op_lost(now, op, request_id, to, actions),
            Asker::Handoff(partition) => self.handoff_lost(now, partition, to),
            Asker::List(_) => {}
            Asker::Compare(round) | Asker::Survey { round, .. } => self.anti_entropy.lost(round, now.instant),
            Asker::Purge(round) => self.purge.lost(round, now.instant),
            Asker::Relay(batch) => self.relays.failed(batch, now.instant),
            Asker::Forward(id) => self.forward_answered(now, id, None, actions),
        }
    }

    /// Merges an entry into the store.
    fn apply(&mut self, hash: KeyHash, entry: Entry) -> Applied {
        self.may_expire |= entry.expires_at_ms().is_some();
        self.store.apply(hash, entry)
    }

    #[cfg(feature = "sim")]
    fn apply_some_time(&mut self, now: Now, entry: Entry) {
        self.put_off.push_back(entry);
        self.timers.insert((now.instant + PUT_OFF_FOR, Timer::PutOff));
    }

    #[cfg(not(feature = "sim"))]
    fn apply_some_time(&mut self, _: Now, _: Entry) {}

    #[cfg(feature = "sim")]
    fn apply_put_off(&mut self) {
        for entry in std::mem::take(&mut self.put_off) {
            self.apply(self.hash(entry.key()), entry);
        }
    }

    /// Keeps a timer for the key that expires first. Looks once a turn, as the wall clock may have been set,
    /// and where something has come that expires.
    fn schedule_expiry(&mut self, now: Now) {
        let was_seen = self.expiry_seen_at.replace(now.instant) == Some(now.instant);
        if !std::mem::take(&mut self.may_expire) && was_seen {
            return;
        }
        let Some(at_ms) = self.store.next_expiry_ms() else { return };
        let wait = Duration::from_millis(at_ms.saturating_sub(now.wall.millis())).max(EXPIRE_PERIOD);
        let due = now.instant + wait;
        if self.expire_at.is_none_or(|at| due < at) {
            self.expire_at = Some(due);
            self.timers.insert((due, Timer::Expire));
        }
    }

    fn new_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    /// Fires in the next turn, once for all who want it.
    fn soon(&mut self, now: Now, timer: Timer) {
        let is_set = match timer {
            Timer::Room => std::mem::replace(&mut self.has_room_timer, true),
            Timer::Groups => std::mem::replace(&mut self.has_groups_timer, true),
            _ => false,
        };
        if !is_set {
            self.timers.insert((now.instant + Duration::from_nanos(1), timer));
        }
    }

    fn replica(&self, partition: Partition) -> &Replica {
        &self.replicas[usize::from(self.cores.local(partition))]
    }

    fn replica_mut(&mut self, partition: Partition) -> &mut Replica {
        &mut self.replicas[usize::from(self.cores.local(partition))]
    }

    fn owns(&self, partition: Partition) -> bool {
        partition.core(self.config.cores) == self.config.core
    }

    fn partitions(&self) -> impl Iterator<Item = Partition> + use<C> {
        let (core, cores) = (self.config.core, self.config.cores);
        Partition::all().filter(move |partition| partition.core(cores) == core)
    }

    /// Of how many nodes a majority is required that this node does not hear from.
    fn lacks_majority(&self, now: Now) -> Option<usize> {
        let lease = self.lease.filter(|lease| lease.until <= now.instant)?;
        (!is_planted(Planted::LeaseIgnored)).then_some(lease.nodes)
    }

    /// f = N − W: on how many replicas an acknowledged write may be missing.
    fn tolerated(&self) -> usize {
        self.config.replicas - self.config.write_quorum
    }

    fn rules(&self, needed: usize) -> Rules {
        let write_quorum = self.config.write_quorum;
        Rules { needed, write_quorum, confirmations: self.tolerated(), confirms_hits: false }
    }
}

/// Which of these errors a call gets that finds too few members.
fn not_enough(alive: usize, needed: usize) -> (WriteError, ReadError) {
    (
        WriteError::NotApplied(NotApplied::NotEnoughReplicas { alive, needed }),
        ReadError::NotEnoughReplicas { alive, needed },
    )
}

#[cfg(test)]
mod tests;
