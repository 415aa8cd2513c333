//! [`Control`]: from membership to placement. What the control thread does, without the thread.
//!
//! It keeps a connection, a *link*, to every member's control thread; finds members through the seeds;
//! turns what SWIM says into placements for the cores; and decides the one thing that must be agreed on
//! before there is any data: that the cluster is new.
//!
//! [`links`] says how a crash is found, [`seeds`] how a cluster is, [`birth`] when lists are made, [`majority`] when they
//! may change and be written to, [`debt`] when a node may be stopped, [`reach`] whether others reach this one, [`duplicates`]
//! what becomes of a node whose id is in use, and [`publish`] what cores and app are told.

mod absent;
mod birth;
mod debt;
mod duplicates;
mod links;
mod majority;
mod publish;
mod reach;
mod seeds;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use self::absent::Absent;
use self::debt::{OwnDebt, Safety};
use self::duplicates::Held;
use self::links::{LinkState, MemberLink, member_link};
use self::majority::Majority;
pub(crate) use self::publish::Readiness;
use self::publish::bury;
use self::reach::Reach;
use self::seeds::{Finding, Seed};
use crate::clock::Instant;
use crate::discovery::Found;
use crate::error::Risk;
use crate::events::{Event, MemberInfo};
use crate::membership::{Change, DatagramError, Membership, MembershipAction, MembershipConfig};
use crate::placement::{Gone, Member, Placement, Site};
use crate::shard::{Debt, Lease, Stage};
use crate::simulated::{Planted, is_planted};
use crate::types::{Boot, ClusterHash, Identity, NodeHash, NodeId};
use crate::wire::handshake::Local;
use crate::wire::message::{ControlMessage, Hello, Origin, Refusal, RefusalReason, Status};

#[derive(Clone, Debug)]
pub(crate) struct ControlConfig {
    pub(crate) cluster: ClusterHash,
    pub(crate) identity: Identity,
    pub(crate) local: Local,
    pub(crate) seeds: Vec<SocketAddr>,
    /// Whether there is something else to find nodes through.
    pub(crate) discovers: bool,
    pub(crate) probe_period: Duration,
    /// How long a member that died may come back with what it holds.
    pub(crate) forget_after: Duration,
    pub(crate) suspicion_timeout: Duration,
    pub(crate) local_health: bool,
    /// Seeds the choices of whom to probe and gossip to.
    pub(crate) seed: u64,
}

/// Whom a link goes to: a seed, known by its address alone, or a certain life of a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Link {
    pub(crate) addr: SocketAddr,
    pub(crate) expects: Option<(NodeHash, Boot)>,
}

/// Why a link ended, or did not come about.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum LinkEnd {
    /// Nobody listens there.
    ConnectRefused,
    Unreachable,
    Refused(Refusal),
    Ended,
}

/// What the control thread is told, datagrams aside.
#[derive(Debug)]
pub(crate) enum ControlEvent {
    /// A link that this node opened was welcomed.
    LinkUp {
        link: Link,
        welcome: Hello,
    },
    LinkDown {
        link: Link,
        end: LinkEnd,
    },
    /// An answer over a link.
    Answer {
        link: Link,
        message: ControlMessage,
    },
    /// The first frame of an accepted connection.
    Greeted {
        via: u64,
        hello: Hello,
    },
    /// A request over an accepted connection.
    Request {
        via: u64,
        request_id: u64,
        message: ControlMessage,
    },
    /// How many partitions a core has yet to fetch and to give away, under the placement of this generation.
    Progress {
        core: usize,
        generation: u64,
        pending: usize,
        giving: usize,
    },
    /// Some of a core's partitions are gone for good.
    DataAtRisk {
        partitions: usize,
    },
    /// What a core owes, in answer to the question of this number.
    CoreOwes {
        core: usize,
        question: u64,
        debt: Debt,
    },
    /// An app waits until no copy is missing anywhere: then [`ControlAction::Safe`] with this ticket, or a later one.
    WatchSafety {
        ticket: u64,
        until: Instant,
    },
    /// What [`ControlAction::Discover`] came to.
    Found(Found),
    /// Hand everything over, then [`ControlAction::Left`].
    Leave,
    /// Stopping without handing over: tell the others not to wait.
    Stop,
}

#[derive(Debug)]
pub(crate) enum ControlAction {
    Datagram {
        to: SocketAddr,
        bytes: Vec<u8>,
    },
    /// Look up where nodes may be, and say so: [`ControlEvent::Found`].
    Discover,
    Open(Link),
    Close(Link),
    Ask {
        link: Link,
        message: ControlMessage,
    },
    /// Accept the connection; where it is for a core, hand it over.
    Welcome {
        via: u64,
        welcome: Hello,
        peer: Identity,
    },
    Refuse {
        via: u64,
        refusal: Refusal,
    },
    Answer {
        via: u64,
        request_id: u64,
        message: ControlMessage,
    },
    /// For every core.
    Publish {
        placement: Arc<Placement>,
        stage: Stage,
    },
    /// For every core.
    Lease(Lease),
    /// This node's identity is another one now, for every link, and where it counts as another life for every core.
    Returned {
        identity: Identity,
        is_same_life: bool,
    },
    /// For the app.
    Notify(Event),
    Members(Vec<MemberInfo>),
    Readiness(Readiness),
    /// For every core: what does it owe?
    AskDebt {
        question: u64,
    },
    /// No copy is missing anywhere.
    Safe {
        ticket: u64,
    },
    /// Why not, for whoever waits no longer.
    Risks(Vec<Risk>),
    /// Everything was handed over: no new calls from here on.
    Drain,
    /// Those that were under way have ended, and the others know that this node is gone.
    Left,
}

pub(crate) struct Control {
    config: ControlConfig,
    membership: Membership,
    /// What nodes told of themselves when they shook hands.
    details: BTreeMap<NodeHash, Details>,
    links: BTreeMap<NodeHash, MemberLink>,
    seeds: Vec<Seed>,
    discovery: Finding,
    reach: Reach,
    /// Greetings that are not judged yet.
    held: Vec<Held>,
    origin: Origin,
    statuses: BTreeMap<NodeHash, (Identity, Status)>,
    status_at: Instant,
    /// When a member is asked for whom it knows, and who was asked last.
    exchange_at: Instant,
    exchanged_with: NodeHash,
    placement: Arc<Placement>,
    /// The members that it was made of, of all data centers.
    placed: Vec<Member>,
    generation: u64,
    gone: Gone,
    absent: Absent,
    /// When the last absent member will be forgotten.
    forget_at: Option<Instant>,
    stage: Stage,
    /// What the cores go by, until they may go by the two above.
    published: (Arc<Placement>, Stage),
    /// Whether the app was told that this node holds everything that it should.
    is_synced: bool,
    majority: Majority,
    leaving: Leaving,
    progress: BTreeMap<usize, Progress>,
    own_debt: OwnDebt,
    safety: Option<Safety>,
    /// The latest round of questions what others owe.
    last_round: u64,
    members: Vec<MemberInfo>,
    readiness: Readiness,
    /// What the last node that refused this one said, unless another has welcomed it since.
    refused_by: Option<String>,
    /// What was refused at which address, either way, and until when that need not be said again.
    refusals: BTreeMap<SocketAddr, (String, Instant)>,
}

#[derive(Clone, Debug)]
struct Details {
    boot: Boot,
    id: NodeId,
    cores: u16,
    site: Site,
    majority_of: u16,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Leaving {
    No,
    /// Until every core has given everything away under a placement of this generation or later.
    Since {
        generation: u64,
    },
    /// Nothing is left to give. Until the last calls have ended; whether they have is asked next at this time, where
    /// that is not under way.
    Draining {
        ask_at: Option<Instant>,
    },
    Done,
}

#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    generation: u64,
    pending: usize,
    giving: usize,
}

type Actions = Vec<ControlAction>;

impl Control {
    pub(crate) fn new(config: ControlConfig) -> Self {
        let membership = Membership::new(MembershipConfig {
            cluster: config.cluster,
            identity: config.identity,
            probe_period: config.probe_period,
            suspicion_timeout: config.suspicion_timeout,
            local_health: config.local_health,
            seed: config.seed,
        });
        let nowhere = Placement::new(Vec::new(), config.local.replicas.into(), 0, Gone::new());
        let nowhere = Arc::new(nowhere);
        Self {
            membership,
            details: BTreeMap::new(),
            links: BTreeMap::new(),
            seeds: config.seeds.iter().map(|&addr| Seed::new(addr, config.identity.addr)).collect(),
            discovery: Finding::new(config.discovers),
            reach: Reach::default(),
            held: Vec::new(),
            origin: Origin::Unborn,
            statuses: BTreeMap::new(),
            status_at: Instant::default(),
            exchange_at: Instant::default(),
            exchanged_with: NodeHash(0),
            placement: nowhere.clone(),
            placed: Vec::new(),
            generation: 0,
            gone: Gone::new(),
            absent: Absent::new(config.forget_after),
            forget_at: None,
            stage: Stage::Forming,
            published: (nowhere, Stage::Forming),
            is_synced: false,
            majority: Majority::default(),
            leaving: Leaving::No,
            progress: BTreeMap::new(),
            own_debt: OwnDebt::default(),
            safety: None,
            last_round: 0,
            members: Vec::new(),
            readiness: Readiness::default(),
            refused_by: None,
            refusals: BTreeMap::new(),
            config,
        }
    }

    /// Publishes the first placement, of this node alone, and asks the seeds.
    pub(crate) fn start(&mut self, now: Instant, actions: &mut Actions) {
        self.settle(now, actions);
        self.handle_timers(now, actions);
    }

    pub(crate) fn identity(&self) -> Identity {
        self.membership.identity()
    }

    /// Whether the cores know of lists, and hear from a majority where one is required.
    pub(crate) fn is_serving(&self) -> bool {
        self.published.1 != Stage::Forming && self.has_majority()
    }

    /// How far the cluster is with its first lists, as the cores know.
    #[cfg(feature = "sim")]
    pub(crate) fn stage(&self) -> Stage {
        self.published.1
    }

    pub(crate) fn handle_datagram(
        &mut self,
        now: Instant,
        from: SocketAddr,
        bytes: &[u8],
        actions: &mut Actions,
    ) -> Result<(), DatagramError> {
        let mut todo = Vec::new();
        let result = self.membership.handle_datagram(now, from, bytes, &mut todo);
        let changes = || todo.iter().filter(|action| matches!(action, MembershipAction::Changed(_)));
        let is_answer =
            |action: &MembershipAction| matches!(action, MembershipAction::Changed(Change::Probed { .. }));
        let is_news = changes().any(|action| !is_answer(action));
        let is_answered = changes().any(is_answer);
        self.perform(now, todo, actions);
        if is_news {
            self.settle(now, actions);
        } else if is_answered {
            self.majority_answered(now, actions);
        }
        result
    }

    pub(crate) fn handle(&mut self, now: Instant, event: ControlEvent, actions: &mut Actions) {
        match event {
            ControlEvent::LinkUp { link, welcome } => self.link_up(now, link, &welcome, actions),
            ControlEvent::LinkDown { link, end } => self.link_down(now, link, end, actions),
            ControlEvent::Answer { link, message } => self.answered(now, link, message, actions),
            ControlEvent::Greeted { via, hello } => self.greeted(now, via, hello, actions),
            ControlEvent::Request { via, request_id, message } => {
                self.requested(now, via, request_id, message, actions);
            }
            ControlEvent::Progress { core, generation, pending, giving } => {
                self.progress.insert(core, Progress { generation, pending, giving });
            }
            ControlEvent::DataAtRisk { partitions } => {
                actions.push(ControlAction::Notify(Event::DataAtRisk { partitions }));
            }
            ControlEvent::CoreOwes { core, question, debt } => {
                self.core_owes(now, core, question, debt, actions);
            }
            ControlEvent::WatchSafety { ticket, until } => self.watch_safety(now, ticket, until, actions),
            ControlEvent::Found(found) => self.found(now, found),
            ControlEvent::Leave => self.leave(now, actions),
            ControlEvent::Stop => {
                self.swim(now, actions, |membership, todo| membership.announce_dead(now, todo));
            }
        }
        self.settle(now, actions);
    }

    pub(crate) fn handle_timers(&mut self, now: Instant, actions: &mut Actions) {
        self.swim(now, actions, |membership, todo| membership.handle_timers(now, todo));
        self.wake_links(now, actions);
        self.wake_exchange(now, actions);
        self.wake_majority(now, actions);
        self.wake_seeds(now, actions);
        self.wake_reach(now, actions);
        self.wake_held(now, actions);
        self.wake_safety(now, actions);
        self.wake_drain(now, actions);
        if self.origin == Origin::Unborn && self.status_at <= now {
            self.tell_status(now, actions);
        }
        self.settle(now, actions);
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        let status = (self.origin == Origin::Unborn).then_some(self.status_at);
        let links = [self.links_deadline(), self.seeds_deadline(), status, self.membership.deadline()];
        let majority = self.majority_deadline(self.is_withholding());
        let others = [
            self.safety_deadline(),
            self.drain_deadline(),
            self.forget_at,
            majority,
            self.reach_deadline(),
            self.held_deadline(),
            (!self.links.is_empty()).then_some(self.exchange_at),
        ];
        links.into_iter().chain(others).flatten().min()
    }

    /// Lets membership work, and follows what that changed.
    fn swim(
        &mut self,
        now: Instant,
        actions: &mut Actions,
        work: impl FnOnce(&mut Membership, &mut Vec<MembershipAction>),
    ) {
        let mut todo = Vec::new();
        work(&mut self.membership, &mut todo);
        self.perform(now, todo, actions);
    }

    fn perform(&mut self, now: Instant, todo: Vec<MembershipAction>, actions: &mut Actions) {
        for action in todo {
            match action {
                MembershipAction::Send { to, datagram } => {
                    actions.push(ControlAction::Datagram { to, bytes: datagram });
                }
                MembershipAction::Changed(change) => self.changed(now, change, actions),
            }
        }
    }

    fn changed(&mut self, now: Instant, change: Change, actions: &mut Actions) {
        let event = match change {
            Change::Up(identity) => {
                self.open_link(identity, actions);
                None
            }
            Change::Replaced { old, new: _ } | Change::Down(old) => {
                self.life_ended(now, &old, actions);
                self.name(&old).map(|node| Event::Died { node })
            }
            Change::Left(identity) => {
                self.life_ended(now, &identity, actions);
                self.name(&identity).map(|node| Event::Left { node })
            }
            Change::Suspected(identity) => self.name(&identity).map(|node| Event::Suspected { node }),
            Change::Refuted(identity) => self.name(&identity).map(|node| Event::Refuted { node }),
            Change::Leaving(_) => None,
            Change::Returned(identity) => {
                let is_same_life = identity.boot == self.config.identity.boot;
                self.config.identity = identity;
                self.doubt_reach();
                actions.push(ControlAction::Returned { identity, is_same_life });
                is_same_life.then_some(Event::Returned)
            }
            Change::Probed { identity, sent_at, view } => {
                self.probe_answered(now, &identity);
                self.note_heard(identity, sent_at, view);
                self.ping_was_answered(now, &identity, actions);
                self.other_answered(now, &identity, actions);
                None
            }
        };
        actions.extend(event.map(ControlAction::Notify));
    }

    fn life_ended(&mut self, now: Instant, life: &Identity, actions: &mut Actions) {
        self.close_link(life, actions);
        self.wake_held(now, actions);
    }

    /// The node's name, where that life of it has told it.
    fn name(&self, identity: &Identity) -> Option<NodeId> {
        self.details.get(&identity.node).filter(|it| it.boot == identity.boot).map(|it| it.id.clone())
    }

    fn note_details(&mut self, hello: &Hello) {
        let Hello { identity, node_id, cores, majority_of, data_center, zone, weight, .. } = hello;
        if identity.node == self.config.identity.node
            || self.details.get(&identity.node).is_some_and(|known| known.boot > identity.boot)
        {
            return;
        }
        let (id, cores, majority_of) = (NodeId::new(node_id), *cores, *majority_of);
        let (data_center, zone) = (data_center.as_str().into(), zone.as_str().into());
        let site = Site { data_center, zone, weight: *weight };
        let details = Details { boot: identity.boot, id, cores, site, majority_of };
        self.details.insert(identity.node, details);
    }

    /// Whether a node that stands there is of this node's data center.
    pub(super) fn is_here(&self, site: &Site) -> bool {
        site.data_center == self.config.local.site.data_center
    }

    fn is_member_at(&self, addr: SocketAddr) -> bool {
        self.links.values().any(|link| link.identity.addr == addr && link.state == LinkState::Up)
    }

    fn answered(&mut self, now: Instant, link: Link, message: ControlMessage, actions: &mut Actions) {
        match message {
            ControlMessage::Members { records, absent } => {
                self.absent.told(now, &absent);
                for known in records.iter().filter(|known| !known.state.is_active()) {
                    bury(&mut self.gone, &known.identity);
                }
                self.swim(now, actions, |membership, todo| membership.learn(now, &records, todo));
                if link.expects.is_none() {
                    self.seed_is_done(now, link.addr);
                    actions.push(ControlAction::Close(link));
                }
            }
            ControlMessage::Status(status) => {
                let from = self.links.values().find(|member| member_link(&member.identity) == link);
                if let Some(from) = from.map(|member| member.identity) {
                    self.statuses.insert(from.node, (from, status));
                }
            }
            ControlMessage::Debt { round, debt } => self.debt_told(link, round, debt, actions),
            ControlMessage::DialedBack { tcp, udp } => self.dialed_back(now, link, tcp, udp, actions),
            ControlMessage::AskMembers | ControlMessage::AskDebt { .. } | ControlMessage::DialBack { .. } => {
            }
        }
    }

    fn greeted(&mut self, now: Instant, via: u64, hello: Hello, actions: &mut Actions) {
        let judged = if self.leaving == Leaving::Done {
            let text = format!("{:?} is stopping", self.config.local.node_id);
            Err(Refusal { reason: RefusalReason::Stopping, text })
        } else {
            self.config.local.judge_hello(self.identity(), &hello)
        };
        match judged {
            Ok(welcome) => match self.life_elsewhere(&hello.identity) {
                Some(other) => self.hold(now, via, hello, other, actions),
                None => {
                    self.note_details(&hello);
                    actions.push(ControlAction::Welcome { via, welcome, peer: hello.identity });
                }
            },
            Err(refusal) => {
                self.refused(now, hello.identity.addr, &refusal, actions);
                actions.push(ControlAction::Refuse { via, refusal });
            }
        }
    }

    fn requested(
        &mut self,
        now: Instant,
        via: u64,
        request_id: u64,
        message: ControlMessage,
        actions: &mut Actions,
    ) {
        let message = match message {
            ControlMessage::AskMembers => ControlMessage::Members {
                records: self.membership.records(),
                absent: self.absent.waited_for(now),
            },
            ControlMessage::Status(_) => ControlMessage::Status(self.status()),
            ControlMessage::AskDebt { round } => return self.debt_asked(via, request_id, round, actions),
            ControlMessage::DialBack { identity } => {
                return self.try_to_reach(now, via, request_id, identity, actions);
            }
            ControlMessage::Members { .. }
            | ControlMessage::Debt { .. }
            | ControlMessage::DialedBack { .. } => return,
        };
        actions.push(ControlAction::Answer { via, request_id, message });
    }

    fn leave(&mut self, now: Instant, actions: &mut Actions) {
        if self.leaving == Leaving::No {
            self.leaving = Leaving::Since { generation: self.generation + 1 };
            self.swim(now, actions, |membership, todo| membership.announce_leaving(now, todo));
        }
    }

    fn finish_leave(&mut self, now: Instant, actions: &mut Actions) {
        let Leaving::Since { generation } = self.leaving else { return };
        let is_last = self.is_last();
        let cores = usize::from(self.config.local.cores);
        let given = |progress: &&Progress| progress.generation >= generation && progress.giving == 0;
        let is_all = is_last && self.placement.elsewhere().is_empty();
        if is_all || is_planted(Planted::LeftAtOnce) {
            if is_all {
                log::warn!("the last node leaves: the data is gone");
            }
            self.left(now, actions);
        } else if is_last || self.progress.values().filter(given).count() == cores {
            self.drain(actions);
        }
    }

    /// Whether nobody of this data center stays.
    fn is_last(&self) -> bool {
        self.placement.members().iter().all(|member| member.leaving)
    }

    fn left(&mut self, now: Instant, actions: &mut Actions) {
        self.leaving = Leaving::Done;
        self.swim(now, actions, |membership, todo| membership.announce_left(now, todo));
        actions.push(ControlAction::Left);
    }

    fn is_withholding(&self) -> bool {
        self.published.0.generation() != self.generation || self.published.1 != self.stage
    }

    /// Lets the cores go by what this node sees, where they do not and may.
    fn publish(&mut self, now: Instant, actions: &mut Actions) {
        if self.is_withholding() && self.may_follow(now) {
            let (placement, stage) = (self.placement.clone(), self.stage);
            let before = std::mem::replace(&mut self.published, (placement.clone(), stage));
            // Not where something changed in another data center.
            let is_moved = before.1 != stage || before.0.members() != placement.members();
            let members = placement.members().len();
            actions.push(ControlAction::Publish { placement, stage });
            if stage != Stage::Forming && is_moved {
                self.is_synced = false;
                actions.push(ControlAction::Notify(Event::PlacementChanged { members }));
            }
        }
    }

    /// Says so when this node holds what it should.
    fn note_synced(&mut self, actions: &mut Actions) {
        let (generation, stage) = (self.published.0.generation(), self.published.1);
        let is_done = |progress: &&Progress| progress.generation == generation && progress.pending == 0;
        let done = self.progress.values().filter(is_done).count();
        let is_synced = stage != Stage::Forming && done == usize::from(self.config.local.cores);
        if is_synced && !std::mem::replace(&mut self.is_synced, true) {
            actions.push(ControlAction::Notify(Event::Synced));
        }
    }

    /// Publishes what has changed.
    fn settle(&mut self, now: Instant, actions: &mut Actions) {
        let members = self.placeable();
        let old_stage = self.stage;
        self.note_gone();
        let alive = self.membership.records().iter().filter(|known| known.state.is_active()).count();
        let is_complete = members.len() == alive;
        self.absent.note(now, &self.membership.records());
        self.forget_at = self.absent.deadline(now);
        let has_absent = self.forget_at.is_some();
        let members_changed = members != self.placed
            || self.gone != *self.placement.gone()
            || is_complete != self.placement.is_complete()
            || has_absent != self.placement.has_absent();
        if members_changed {
            self.generation += 1;
            let replicas = self.config.local.replicas.into();
            self.placed = members.clone();
            let (here, elsewhere) = members.into_iter().partition(|member| self.is_here(&member.site));
            let placement = Placement::new(here, replicas, self.generation, self.gone.clone());
            let mut placement = placement.with_elsewhere(elsewhere).with_absent(has_absent);
            if !is_complete {
                placement = placement.incomplete();
            }
            self.notify_joined(&placement, actions);
            self.placement = Arc::new(placement);
        }
        self.count_members(now, actions);
        self.consider_birth(actions);
        self.count_majority(now, actions);
        self.publish(now, actions);
        self.note_synced(actions);
        if old_stage == Stage::Forming && (members_changed || self.stage != old_stage) {
            // The others wait for this node's word.
            self.tell_status(now, actions);
        }
        self.publish_members(actions);
        self.finish_leave(now, actions);
        // Whoever hears of something finds it so: members and readiness are published before.
        actions.sort_by_key(|action| matches!(action, ControlAction::Notify(_)));
    }
}
