//! [`Control`]: from membership to placement. What the control thread does, without the thread.
//!
//! It keeps a connection, a *link*, to every member's control thread; finds members through the seeds;
//! turns what SWIM says into placements for the cores; and decides the one thing that must be agreed on
//! before there is any data: that the cluster is new ("birth").
//!
//! **A crash** shows as the end of the link. That alone kills nobody: the link is dialled again, and only
//! where nobody listens any more, and the member's own port answers no ping, is it declared dead. A host
//! that falls silent is left to SWIM.
//!
//! **Birth.** A node starts not knowing whether the cluster has data. When at least W members see exactly
//! the same members, every seed was heard from or found dead, and none of the members ever held data,
//! each lets its lists be born, synced and empty. Where any member already holds data, this node is a
//! joiner: it holds nothing until it has fetched it. So a node that restarts alone can never take its
//! empty memory for the truth.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Instant;
use crate::events::{Event, MemberInfo, MemberState};
use crate::membership::{Change, DatagramError, Membership, MembershipAction, MembershipConfig, State};
use crate::placement::{Gone, Member, Placement};
use crate::shard::Stage;
use crate::types::{Boot, ClusterHash, Identity, NodeHash, NodeId};
use crate::wire::handshake::Local;
use crate::wire::message::{ControlMessage, Hello, Origin, Refusal, RefusalReason, Status};

/// How often the members tell each other their status until the lists are born.
const STATUS_PERIOD: Duration = Duration::from_millis(100);

/// A seed that does not answer is asked again after this, doubling up to the second.
const SEED_BACKOFF: Duration = Duration::from_millis(100);
const SEED_BACKOFF_MOST: Duration = Duration::from_secs(5);

/// A link that failed is dialled again after this.
const LINK_BACKOFF: Duration = Duration::from_millis(250);

/// A member where nobody listens gets this many pings, this far apart, and as long again to answer.
const PINGS: u32 = 3;
const PING_PERIOD: Duration = Duration::from_millis(20);

#[derive(Clone, Debug)]
pub(crate) struct ControlConfig {
    pub(crate) cluster: ClusterHash,
    pub(crate) identity: Identity,
    pub(crate) local: Local,
    pub(crate) seeds: Vec<SocketAddr>,
    pub(crate) probe_period: Duration,
    pub(crate) suspicion_timeout: Duration,
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
    /// How many partitions a core has yet to give away, under the placement of this generation.
    Progress {
        core: usize,
        generation: u64,
        giving: usize,
    },
    /// Some of a core's partitions are gone for good.
    DataLost {
        partitions: usize,
    },
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
    /// For every core and connection: this node's identity is another one now.
    Returned {
        identity: Identity,
    },
    /// For the app.
    Notify(Event),
    Members(Vec<MemberInfo>),
    Readiness(Readiness),
    /// Everything was handed over, and the others know that this node is gone.
    Left,
}

/// Whether calls can be expected to succeed.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Readiness {
    pub(crate) members: usize,
    pub(crate) has_lists: bool,
    /// What the last node that refused this one said.
    pub(crate) refused: Option<String>,
}

pub(crate) struct Control {
    config: ControlConfig,
    membership: Membership,
    /// What nodes told of themselves when they shook hands.
    details: BTreeMap<NodeHash, Details>,
    links: BTreeMap<NodeHash, MemberLink>,
    seeds: Vec<Seed>,
    origin: Origin,
    statuses: BTreeMap<NodeHash, (Identity, Status)>,
    status_at: Instant,
    placement: Arc<Placement>,
    generation: u64,
    gone: Gone,
    stage: Stage,
    leaving: Leaving,
    progress: BTreeMap<usize, Progress>,
    members: Vec<MemberInfo>,
    readiness: Readiness,
}

#[derive(Clone, Debug)]
struct Details {
    boot: Boot,
    id: NodeId,
    cores: u16,
}

#[derive(Clone, Debug)]
struct MemberLink {
    identity: Identity,
    state: LinkState,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum LinkState {
    Opening,
    Up,
    /// Dialled again at this time.
    Down {
        until: Instant,
    },
    /// Nobody listens there: pinged, and declared dead when no ping is answered.
    Probing {
        pings: u32,
        next: Instant,
    },
}

#[derive(Clone, Debug)]
struct Seed {
    addr: SocketAddr,
    state: SeedState,
    backoff: Duration,
    /// It was heard from, or found not to answer, at least once.
    settled: bool,
    /// Who answered there last.
    node: Option<NodeHash>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum SeedState {
    Idle {
        until: Instant,
    },
    Trying,
    /// It is this node itself.
    Myself,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Leaving {
    No,
    /// Until every core has given everything away under a placement of this generation or later.
    Since {
        generation: u64,
    },
    Done,
}

#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    generation: u64,
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
            seed: config.seed,
        });
        let seed = |&addr: &SocketAddr| Seed {
            addr,
            state: if addr == config.identity.addr {
                SeedState::Myself
            } else {
                SeedState::Idle { until: Instant::default() }
            },
            backoff: SEED_BACKOFF,
            settled: addr == config.identity.addr,
            node: None,
        };
        Self {
            membership,
            details: BTreeMap::new(),
            links: BTreeMap::new(),
            seeds: config.seeds.iter().map(seed).collect(),
            origin: Origin::Unborn,
            statuses: BTreeMap::new(),
            status_at: Instant::default(),
            placement: Arc::new(Placement::new(Vec::new(), config.local.replicas.into(), 0, Gone::new())),
            generation: 0,
            gone: Gone::new(),
            stage: Stage::Forming,
            leaving: Leaving::No,
            progress: BTreeMap::new(),
            members: Vec::new(),
            readiness: Readiness::default(),
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

    /// How far the cluster is with its first lists.
    #[cfg(feature = "sim")]
    pub(crate) fn stage(&self) -> Stage {
        self.stage
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
        self.perform(now, todo, actions);
        self.settle(now, actions);
        result
    }

    pub(crate) fn handle(&mut self, now: Instant, event: ControlEvent, actions: &mut Actions) {
        match event {
            ControlEvent::LinkUp { link, welcome } => self.link_up(now, link, &welcome, actions),
            ControlEvent::LinkDown { link, end } => self.link_down(now, link, end, actions),
            ControlEvent::Answer { link, message } => self.answered(now, link, message, actions),
            ControlEvent::Greeted { via, hello } => self.greeted(via, hello, actions),
            ControlEvent::Request { via, request_id, message } => {
                self.requested(via, request_id, message, actions);
            }
            ControlEvent::Progress { core, generation, giving } => {
                self.progress.insert(core, Progress { generation, giving });
            }
            ControlEvent::DataLost { partitions } => {
                actions.push(ControlAction::Notify(Event::DataLost { partitions }));
            }
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
        self.wake_seeds(now, actions);
        if self.origin == Origin::Unborn && self.status_at <= now {
            self.tell_status(now, actions);
        }
        self.settle(now, actions);
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        let links = self.links.values().filter_map(|link| match link.state {
            LinkState::Down { until } => Some(until),
            LinkState::Probing { next, .. } => Some(next),
            LinkState::Opening | LinkState::Up => None,
        });
        let seeds = self.seeds.iter().filter_map(|seed| match seed.state {
            SeedState::Idle { until } if self.asks_seed(seed) => Some(until),
            _ => None,
        });
        let status = (self.origin == Origin::Unborn).then_some(self.status_at);
        links.chain(seeds).chain(status).chain(self.membership.deadline()).min()
    }

    // ── membership ──────────────────────────────────────────────────────────────────────────────────

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
                self.close_link(&old, actions);
                self.name(&old).map(|node| Event::Died { node })
            }
            Change::Left(identity) => {
                self.close_link(&identity, actions);
                self.name(&identity).map(|node| Event::Left { node })
            }
            Change::Suspected(identity) => self.name(&identity).map(|node| Event::Suspected { node }),
            Change::Refuted(identity) => self.name(&identity).map(|node| Event::Refuted { node }),
            Change::Leaving(_) => None,
            Change::Returned(identity) => {
                actions.push(ControlAction::Returned { identity });
                Some(Event::Returned)
            }
            Change::Probed { identity, .. } => {
                if let Some(link) = self.links.get_mut(&identity.node)
                    && matches!(link.state, LinkState::Probing { .. })
                {
                    link.state = LinkState::Down { until: now + LINK_BACKOFF };
                }
                None
            }
        };
        actions.extend(event.map(ControlAction::Notify));
    }

    /// The node's name, where that life of it has told it.
    fn name(&self, identity: &Identity) -> Option<NodeId> {
        self.details.get(&identity.node).filter(|it| it.boot == identity.boot).map(|it| it.id.clone())
    }

    fn note_details(&mut self, hello: &Hello) {
        let Hello { identity, node_id, cores, .. } = hello;
        if identity.node == self.config.identity.node
            || self.details.get(&identity.node).is_some_and(|known| known.boot > identity.boot)
        {
            return;
        }
        let details = Details { boot: identity.boot, id: NodeId::new(node_id), cores: *cores };
        self.details.insert(identity.node, details);
    }

    fn is_member_at(&self, addr: SocketAddr) -> bool {
        self.links.values().any(|link| link.identity.addr == addr && link.state == LinkState::Up)
    }

    // ── links ───────────────────────────────────────────────────────────────────────────────────────

    fn open_link(&mut self, identity: Identity, actions: &mut Actions) {
        let known = self.links.insert(identity.node, MemberLink { identity, state: LinkState::Opening });
        match known {
            // Only its `returns` changed: the connection stays.
            Some(old) if member_link(&old.identity) == member_link(&identity) => {
                self.links.insert(identity.node, MemberLink { identity, ..old });
            }
            Some(old) => {
                actions.push(ControlAction::Close(member_link(&old.identity)));
                actions.push(ControlAction::Open(member_link(&identity)));
            }
            None => actions.push(ControlAction::Open(member_link(&identity))),
        }
    }

    fn close_link(&mut self, identity: &Identity, actions: &mut Actions) {
        if self.links.get(&identity.node).is_some_and(|link| link.identity == *identity) {
            self.links.remove(&identity.node);
            self.statuses.remove(&identity.node);
            actions.push(ControlAction::Close(member_link(identity)));
        }
    }

    fn link_up(&mut self, now: Instant, link: Link, welcome: &Hello, actions: &mut Actions) {
        self.note_details(welcome);
        if link.expects.is_none() {
            return self.seed_answered(now, link, welcome, actions);
        }
        if let Some(member) = self.links.values_mut().find(|member| member_link(&member.identity) == link) {
            member.state = LinkState::Up;
            if self.origin == Origin::Unborn {
                let message = ControlMessage::Status(self.status());
                actions.push(ControlAction::Ask { link, message });
            }
        }
    }

    fn link_down(&mut self, now: Instant, link: Link, end: LinkEnd, actions: &mut Actions) {
        if let LinkEnd::Refused(refusal) = &end {
            self.refused(link.addr, refusal, actions);
        }
        if link.expects.is_none() {
            return self.seed_failed(now, link.addr);
        }
        let Some(member) = self.links.values_mut().find(|member| member_link(&member.identity) == link)
        else {
            return;
        };
        let is_gone = match &end {
            LinkEnd::ConnectRefused => true,
            LinkEnd::Refused(refusal) => refusal.reason == RefusalReason::NotMe,
            LinkEnd::Ended | LinkEnd::Unreachable => false,
        };
        if is_gone {
            member.state = LinkState::Probing { pings: 0, next: now };
            self.wake_links(now, actions);
        } else if end == LinkEnd::Ended && member.state == LinkState::Up {
            member.state = LinkState::Opening;
            actions.push(ControlAction::Open(link));
        } else {
            member.state = LinkState::Down { until: now + LINK_BACKOFF };
        }
    }

    fn wake_links(&mut self, now: Instant, actions: &mut Actions) {
        let mut to_ping = Vec::new();
        let mut to_bury = Vec::new();
        for link in self.links.values_mut() {
            match &mut link.state {
                LinkState::Down { until } if *until <= now => {
                    link.state = LinkState::Opening;
                    actions.push(ControlAction::Open(member_link(&link.identity)));
                }
                LinkState::Probing { pings, next } if *next <= now => {
                    if *pings < PINGS {
                        *pings += 1;
                        *next = now + PING_PERIOD;
                        to_ping.push(link.identity);
                    } else {
                        link.state = LinkState::Down { until: now + LINK_BACKOFF };
                        to_bury.push(link.identity);
                    }
                }
                _ => {}
            }
        }
        for identity in to_ping {
            self.swim(now, actions, |membership, todo| membership.ping(now, identity, todo));
        }
        for identity in to_bury {
            self.swim(now, actions, |membership, todo| membership.declare_dead(now, identity, todo));
        }
    }

    fn refused(&mut self, address: SocketAddr, refusal: &Refusal, actions: &mut Actions) {
        if matches!(refusal.reason, RefusalReason::NotMe | RefusalReason::Stopping) {
            return;
        }
        let reason = refusal.text.clone();
        if self.readiness.refused.as_ref() != Some(&reason) {
            actions.push(ControlAction::Notify(Event::Refused { address, reason: reason.clone() }));
            self.readiness.refused = Some(reason);
            actions.push(ControlAction::Readiness(self.readiness.clone()));
        }
    }

    // ── seeds ───────────────────────────────────────────────────────────────────────────────────────

    /// Asks the seeds that are due and are no members: for ever, so that nodes that were started together
    /// or split apart find each other.
    fn wake_seeds(&mut self, now: Instant, actions: &mut Actions) {
        for at in 0..self.seeds.len() {
            if let SeedState::Idle { until } = self.seeds[at].state
                && until <= now
                && self.asks_seed(&self.seeds[at])
            {
                self.seeds[at].state = SeedState::Trying;
                actions.push(ControlAction::Open(Link { addr: self.seeds[at].addr, expects: None }));
            }
        }
    }

    /// One that is a member has nothing new to say, and whoever leaves finds nobody any more.
    fn asks_seed(&self, seed: &Seed) -> bool {
        self.leaving == Leaving::No && !self.is_member_at(seed.addr)
    }

    fn seed_answered(&mut self, now: Instant, link: Link, welcome: &Hello, actions: &mut Actions) {
        let is_myself = welcome.identity.node == self.config.identity.node;
        for seed in self.seeds.iter_mut().filter(|seed| seed.addr == link.addr) {
            seed.settled = true;
            seed.backoff = SEED_BACKOFF;
            seed.node = Some(welcome.identity.node);
            seed.state = if is_myself {
                SeedState::Myself
            } else {
                SeedState::Idle { until: now + SEED_BACKOFF_MOST }
            };
        }
        if is_myself {
            actions.push(ControlAction::Close(link));
        } else {
            actions.push(ControlAction::Ask { link, message: ControlMessage::AskMembers });
            let identity = welcome.identity;
            self.swim(now, actions, |membership, todo| membership.announce_to(now, identity, todo));
        }
    }

    fn seed_failed(&mut self, now: Instant, addr: SocketAddr) {
        for seed in self.seeds.iter_mut().filter(|seed| seed.addr == addr) {
            if seed.state == SeedState::Trying {
                seed.settled = true;
                seed.node = None;
                seed.state = SeedState::Idle { until: now + seed.backoff };
                seed.backoff = (seed.backoff * 2).min(SEED_BACKOFF_MOST);
            }
        }
    }

    // ── what others say ─────────────────────────────────────────────────────────────────────────────

    fn answered(&mut self, now: Instant, link: Link, message: ControlMessage, actions: &mut Actions) {
        match message {
            ControlMessage::Members(records) => {
                for known in records.iter().filter(|known| !known.state.is_active()) {
                    bury(&mut self.gone, &known.identity);
                }
                self.swim(now, actions, |membership, todo| membership.learn(now, &records, todo));
                if link.expects.is_none() {
                    actions.push(ControlAction::Close(link));
                }
            }
            ControlMessage::Status(status) => {
                let from = self.links.values().find(|member| member_link(&member.identity) == link);
                if let Some(from) = from.map(|member| member.identity) {
                    self.statuses.insert(from.node, (from, status));
                }
            }
            ControlMessage::AskMembers => {}
        }
    }

    fn greeted(&mut self, via: u64, hello: Hello, actions: &mut Actions) {
        let judged = if self.leaving == Leaving::Done {
            let text = format!("{:?} is stopping", self.config.local.node_id);
            Err(Refusal { reason: RefusalReason::Stopping, text })
        } else {
            self.config.local.judge_hello(self.identity(), &hello).and_then(|welcome| {
                self.check_duplicate(&hello)?;
                Ok(welcome)
            })
        };
        match judged {
            Ok(welcome) => {
                self.note_details(&hello);
                actions.push(ControlAction::Welcome { via, welcome, peer: hello.identity });
            }
            Err(refusal) => {
                self.refused(hello.identity.addr, &refusal, actions);
                actions.push(ControlAction::Refuse { via, refusal });
            }
        }
    }

    /// Two nodes of one id would take turns in replacing each other.
    fn check_duplicate(&self, hello: &Hello) -> Result<(), Refusal> {
        let other = hello.identity;
        let known = self.links.get(&other.node).filter(|link| link.state == LinkState::Up);
        match known {
            Some(link) if link.identity.addr != other.addr => {
                let text = format!(
                    "the node id {:?} is in use at {} and at {}: every node needs an id of its own",
                    hello.node_id, link.identity.addr, other.addr
                );
                Err(Refusal { reason: RefusalReason::DuplicateId, text })
            }
            _ => Ok(()),
        }
    }

    fn requested(&mut self, via: u64, request_id: u64, message: ControlMessage, actions: &mut Actions) {
        let message = match message {
            ControlMessage::AskMembers => ControlMessage::Members(self.membership.records()),
            ControlMessage::Status(_) => ControlMessage::Status(self.status()),
            ControlMessage::Members(_) => return,
        };
        actions.push(ControlAction::Answer { via, request_id, message });
    }

    // ── birth ───────────────────────────────────────────────────────────────────────────────────────

    fn status(&self) -> Status {
        Status { members_digest: self.placement.digest(), origin: self.origin }
    }

    fn tell_status(&mut self, now: Instant, actions: &mut Actions) {
        self.status_at = now + STATUS_PERIOD;
        let message = ControlMessage::Status(self.status());
        for member in self.links.values().filter(|member| member.state == LinkState::Up) {
            let link = member_link(&member.identity);
            actions.push(ControlAction::Ask { link, message: message.clone() });
        }
    }

    /// Decides whether this node is there when the cluster is born, or comes later.
    fn consider_birth(&mut self, actions: &mut Actions) {
        if self.origin != Origin::Unborn {
            return;
        }
        let digest = self.placement.digest();
        let others = || self.placement.members().iter().filter(|member| member.identity != self.identity());
        let status_of = |member: &Member| {
            let known = self.statuses.get(&member.identity.node);
            known.filter(|(identity, _)| *identity == member.identity).map(|(_, status)| *status)
        };
        let has_data = |status: Status| match status.origin {
            Origin::Unborn => false,
            Origin::Born { members_digest } => members_digest != digest,
            Origin::Joined => true,
        };
        if others().filter_map(status_of).any(has_data) {
            self.origin = Origin::Joined;
            self.stage = Stage::Joined;
            return;
        }
        let all_agree =
            others().all(|member| status_of(member).is_some_and(|status| status.members_digest == digest));
        let members = self.placement.members().len();
        let all_known =
            self.membership.records().iter().filter(|known| known.state.is_active()).count() == members;
        let is_here = |node: &NodeHash| self.placement.member(*node).is_some();
        let seeds_settled = self.seeds.iter().all(|seed| seed.settled && seed.node.iter().all(is_here));
        let enough = members >= usize::from(self.config.local.write_quorum);
        if all_agree && all_known && seeds_settled && enough && self.leaving == Leaving::No {
            self.origin = Origin::Born { members_digest: digest };
            self.stage = Stage::Born;
            actions.push(ControlAction::Notify(Event::Born { members }));
        }
    }

    // ── leaving ─────────────────────────────────────────────────────────────────────────────────────

    fn leave(&mut self, now: Instant, actions: &mut Actions) {
        if self.leaving == Leaving::No {
            self.leaving = Leaving::Since { generation: self.generation + 1 };
            self.swim(now, actions, |membership, todo| membership.announce_leaving(now, todo));
        }
    }

    fn finish_leave(&mut self, now: Instant, actions: &mut Actions) {
        let Leaving::Since { generation } = self.leaving else { return };
        let is_last = self.placement.members().iter().all(|member| member.leaving);
        let cores = usize::from(self.config.local.cores);
        let given = |progress: &&Progress| progress.generation >= generation && progress.giving == 0;
        if is_last || self.progress.values().filter(given).count() == cores {
            self.leaving = Leaving::Done;
            self.swim(now, actions, |membership, todo| membership.announce_left(now, todo));
            actions.push(ControlAction::Left);
        }
    }

    // ── what follows from all that ──────────────────────────────────────────────────────────────────

    /// Publishes what has changed.
    fn settle(&mut self, now: Instant, actions: &mut Actions) {
        let members = self.placeable();
        let old_stage = self.stage;
        self.note_gone();
        let members_changed = members != self.placement.members() || self.gone != *self.placement.gone();
        if members_changed {
            self.generation += 1;
            let replicas = self.config.local.replicas.into();
            let placement = Placement::new(members, replicas, self.generation, self.gone.clone());
            self.notify_joined(&placement, actions);
            self.placement = Arc::new(placement);
        }
        self.consider_birth(actions);
        if members_changed || self.stage != old_stage {
            let placement = self.placement.clone();
            actions.push(ControlAction::Publish { placement, stage: self.stage });
            // The others wait for this node's word.
            self.tell_status(now, actions);
        }
        self.publish_members(actions);
        self.finish_leave(now, actions);
        // Whoever hears of something finds it so: members and readiness are published before.
        actions.sort_by_key(|action| matches!(action, ControlAction::Notify(_)));
    }

    /// Remembers whose lives are over.
    fn note_gone(&mut self) {
        for known in self.membership.records() {
            if !known.state.is_active() {
                bury(&mut self.gone, &known.identity);
            }
        }
    }

    /// The members that partitions can be placed on or fetched from: alive, and known by name.
    fn placeable(&self) -> Vec<Member> {
        let me = self.identity();
        let member = |known: crate::membership::Record| {
            let (id, cores) = if known.identity.node == me.node {
                (NodeId::new(&self.config.local.node_id), self.config.local.cores)
            } else {
                let details = self.details.get(&known.identity.node)?;
                if details.boot != known.identity.boot {
                    return None;
                }
                (details.id.clone(), details.cores)
            };
            let leaving = known.leaving || known.identity == me && self.leaving != Leaving::No;
            Some(Member { identity: known.identity, id, cores, leaving })
        };
        let mut members: Vec<Member> = self
            .membership
            .records()
            .into_iter()
            .filter(|known| known.state.is_active())
            .filter_map(member)
            .collect();
        // Of two lives of a node, the later.
        members.sort_by_key(|member| std::cmp::Reverse(member.identity.sort_key()));
        members.dedup_by_key(|member| member.identity.node);
        members.reverse();
        members
    }

    fn notify_joined(&self, new: &Placement, actions: &mut Actions) {
        let me = self.config.identity.node;
        for member in new.members().iter().filter(|member| member.identity.node != me) {
            let was_here = self
                .placement
                .member(member.identity.node)
                .is_some_and(|old| old.identity.boot == member.identity.boot);
            if !was_here {
                let (node, address) = (member.id.clone(), member.identity.addr);
                actions.push(ControlAction::Notify(Event::Joined { node, address }));
            }
        }
    }

    fn publish_members(&mut self, actions: &mut Actions) {
        let me = self.identity();
        let info = |known: crate::membership::Record| {
            let is_self = known.identity.node == me.node;
            let id =
                if is_self { NodeId::new(&self.config.local.node_id) } else { self.name(&known.identity)? };
            Some(MemberInfo {
                id,
                address: known.identity.addr,
                state: match known.state {
                    State::Alive => MemberState::Alive,
                    State::Suspect => MemberState::Suspect,
                    State::Dead => MemberState::Dead,
                    State::Left => MemberState::Left,
                },
                leaving: known.leaving,
                is_self,
            })
        };
        let mut members: Vec<MemberInfo> = self.membership.records().into_iter().filter_map(info).collect();
        members.sort_by(|a, b| a.id.cmp(&b.id));
        if members != self.members {
            self.members = members.clone();
            actions.push(ControlAction::Members(members));
        }
        let active = self.placement.members().iter().filter(|member| !member.leaving).count();
        let readiness = Readiness {
            members: active,
            has_lists: self.stage != Stage::Forming,
            refused: self.readiness.refused.clone(),
        };
        if readiness != self.readiness {
            self.readiness = readiness.clone();
            actions.push(ControlAction::Readiness(readiness));
        }
    }
}

fn bury(gone: &mut Gone, identity: &Identity) {
    let life = (identity.boot, identity.returns);
    let known = gone.entry(identity.node).or_insert(life);
    *known = life.max(*known);
}

fn member_link(identity: &Identity) -> Link {
    Link { addr: identity.addr, expects: Some((identity.node, identity.boot)) }
}
