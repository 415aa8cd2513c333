//! [`Control`]: everything that the control thread knows, in one place.
//!
//! The other files of this folder have what it does, each one subject. They share this state, and
//! name nothing of each other.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::absent::Absent;
use super::clocks::Clocks;
use super::interface::{ControlConfig, Link, Readiness};
use super::pins::Pins;
use super::risk::AtRisk;
use crate::clock::Instant;
use crate::events::MemberInfo;
use crate::membership::envelope::Envelope;
use crate::membership::{Membership, MembershipConfig};
use crate::mutants::{ProtocolMutant, rule};
use crate::placement::{Gone, Member, Placement};
use crate::security::Proved;
#[cfg(feature = "security")]
use crate::security::{Fingerprint, KeyId};
use crate::shard::{Debt, Shortage, Stage};
use crate::types::{Boot, Identity, NodeHash};
use crate::wire::message::{Hello, MemberDetails, NodeDebt, Reached, Status};

/// A link that failed is dialled again after this time, which doubles up to the second constant: a
/// process that is killed takes a moment to close what it listens on.
pub(super) const LINK_BACKOFF: Duration = Duration::from_millis(5);
const MAX_LINK_BACKOFF: Duration = Duration::from_millis(320);

/// The longest pause before a member is dialled again that was never reached: perhaps there is no
/// way to it.
const MAX_UNREACHED_BACKOFF: Duration = Duration::from_secs(5);

/// A seed that does not answer is asked again after this time, which doubles up to the second
/// constant.
pub(super) const SEED_BACKOFF: Duration = Duration::from_millis(100);
pub(super) const MAX_SEED_BACKOFF: Duration = Duration::from_secs(5);

/// From membership to placement: what the control thread does, without the thread.
pub(crate) struct Control {
    pub(super) config: ControlConfig,
    pub(super) envelope: Envelope,
    /// When the log says next that security is optional, if it is.
    pub(super) say_optional_at: Instant,
    pub(super) membership: Membership,
    /// What nodes told of themselves when they shook hands, with this node or with another.
    pub(super) details: KnownDetails,
    /// When members are asked next for details that are missing.
    pub(super) missing_details: MissingDetails,
    pub(super) links: BTreeMap<NodeHash, MemberLink>,
    /// What the other ends of secured links have proved. Some of these links have ended.
    pub(super) proved: BTreeMap<Link, Proved>,
    pub(super) pins: Pins,
    /// Lives of nodes whose keys are denied.
    #[cfg(feature = "security")]
    pub(super) denied: BTreeMap<Identity, Fingerprint>,
    #[cfg(feature = "security")]
    pub(super) say_denied_at: Instant,
    pub(super) seeds: Vec<SeedAddress>,
    pub(super) discovery: Finding,
    pub(super) reach: Reach,
    pub(super) newcomers: Vec<Newcomer>,
    /// Greetings that are not judged yet.
    pub(super) held: Vec<HeldGreeting>,
    /// What each member told last.
    pub(super) statuses: BTreeMap<NodeHash, (Identity, Status)>,
    /// What members that this node does not reach told another one last.
    pub(super) statuses_by_others: BTreeMap<NodeHash, (Identity, Status)>,
    pub(super) status_at: Instant,
    /// How often the members were told this node's status.
    pub(super) statuses_told: usize,
    /// When the next member is asked for the members that it knows.
    pub(super) exchange_at: Instant,
    /// The member that was asked last.
    pub(super) exchanged_with: NodeHash,
    pub(super) placement: Arc<Placement>,
    /// The members that the placement was made of, of all data centers.
    pub(super) placed: Vec<Member>,
    /// Whether deaths are not acted upon, as no member answers this node.
    pub(super) is_held: bool,
    pub(super) generation: u64,
    pub(super) gone: Gone,
    /// When each of those lives was last said to be over.
    pub(super) gone_said_at: BTreeMap<NodeHash, Instant>,
    pub(super) absent: Absent,
    pub(super) clocks: Clocks,
    /// When the last absent member will be forgotten.
    pub(super) forget_at: Option<Instant>,
    /// No other member of this data center stays, as one of the last has died: what this node holds
    /// may be nowhere else.
    pub(super) is_left_behind: bool,
    pub(super) stage: Stage,
    /// What the cores go by: `placement` and `stage` as they were when an event ended last.
    pub(super) published: (Arc<Placement>, Stage),
    /// Whether the app was told that this node holds everything that it should.
    pub(super) is_synced: bool,
    pub(super) leaving: Leaving,
    /// What each core told last of its progress.
    pub(super) progress: BTreeMap<usize, CoreProgress>,
    /// How many bytes found no room when the app was told so last; zero if nothing is missing.
    pub(super) told_missing_bytes: usize,
    pub(super) at_risk: AtRisk,
    pub(super) own_debt: OwnDebt,
    pub(super) safety: Option<Safety>,
    /// Questions about what a member owes, asked on behalf of one that does not reach it.
    pub(super) passed_on: Vec<PassedOn>,
    /// The number of the latest round of questions about what others owe.
    pub(super) last_round: u64,
    /// How many rounds asked for members out of reach, each through other members.
    pub(super) rounds_asked: usize,
    pub(super) members: Vec<MemberInfo>,
    pub(super) readiness: Readiness,
    /// What the last node that refused this one said, unless another has welcomed it since.
    pub(super) refused_by: Option<String>,
    /// What was refused at which address, either way, and until when that need not be said again.
    pub(super) refusals: BTreeMap<SocketAddr, (String, Instant)>,
}

impl Control {
    pub(crate) fn new(config: ControlConfig) -> Self {
        // The first node of all has no other to ask.
        let is_alone =
            config.seeds.iter().all(|seed| *seed == config.identity.addr) && !config.discovers;
        let asks_first = rule(ProtocolMutant::UnreachedAdmitted, !is_alone);
        let membership = Membership::new(MembershipConfig {
            cluster: config.cluster,
            identity: config.identity,
            probe_period: config.probe_period,
            suspicion_timeout: config.suspicion_timeout,
            local_health: config.local_health,
            is_member: !asks_first,
            seed: config.seed,
        });
        let replicas = config.local.quorums.replicas;
        let nowhere = Placement::new(Vec::new(), replicas, 0, Gone::new());
        let nowhere = Arc::new(nowhere);
        Self {
            envelope: Envelope::plain(config.cluster),
            say_optional_at: Instant::default(),
            membership,
            details: KnownDetails::default(),
            missing_details: MissingDetails::default(),
            links: BTreeMap::new(),
            proved: BTreeMap::new(),
            pins: Pins::new(config.retention),
            #[cfg(feature = "security")]
            denied: BTreeMap::new(),
            #[cfg(feature = "security")]
            say_denied_at: Instant::default(),
            seeds: config
                .seeds
                .iter()
                .map(|&addr| SeedAddress::new(addr, config.identity.addr))
                .collect(),
            discovery: Finding::new(config.discovers),
            reach: Reach::default(),
            newcomers: Vec::new(),
            held: Vec::new(),
            statuses: BTreeMap::new(),
            statuses_by_others: BTreeMap::new(),
            status_at: Instant::default(),
            statuses_told: 0,
            exchange_at: Instant::default(),
            exchanged_with: NodeHash(0),
            placement: nowhere.clone(),
            placed: Vec::new(),
            is_held: false,
            generation: 0,
            gone: Gone::new(),
            gone_said_at: BTreeMap::new(),
            absent: Absent::new(config.retention),
            clocks: Clocks::default(),
            forget_at: None,
            is_left_behind: false,
            stage: Stage::Forming,
            published: (nowhere, Stage::Forming),
            is_synced: false,
            leaving: Leaving::No,
            progress: BTreeMap::new(),
            told_missing_bytes: 0,
            at_risk: AtRisk::default(),
            own_debt: OwnDebt::default(),
            safety: None,
            passed_on: Vec::new(),
            last_round: 0,
            rounds_asked: 0,
            members: Vec::new(),
            readiness: Readiness::default(),
            refused_by: None,
            refusals: BTreeMap::new(),
            config,
        }
    }
}

/// What a life of a node told of itself, and when this node heard of it.
#[derive(Clone, Debug)]
pub(super) struct Details {
    pub(super) told: MemberDetails,
    pub(super) heard_at: Instant,
}

/// The details of lives: a node has several if it was started again, or if another node was given
/// its id by mistake. What is known of one life says nothing about another.
#[derive(Default)]
pub(super) struct KnownDetails {
    by_life: BTreeMap<(NodeHash, Boot), Details>,
}

impl KnownDetails {
    /// Returns what is known of this life of a node.
    pub(super) fn of(&self, life: &Identity) -> Option<&Details> {
        self.by_life.get(&(life.node, life.boot))
    }

    pub(super) fn insert(&mut self, node: NodeHash, details: Details) {
        self.by_life.insert((node, details.told.boot), details);
    }

    pub(super) fn retain(&mut self, is_kept: impl Fn(&(NodeHash, Boot), &Details) -> bool) {
        self.by_life.retain(|life, details| is_kept(life, details));
    }

    pub(super) fn len(&self) -> usize {
        self.by_life.len()
    }
}

/// The search for the details of members that have not told them to this node.
#[derive(Default)]
pub(super) struct MissingDetails {
    /// `None` while none are missing.
    pub(super) ask_at: Option<Instant>,
    /// After how long members are asked again.
    pub(super) pause: Duration,
}

/// How far this node is with leaving.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Leaving {
    No,
    /// Until every core has given everything away under a placement of this generation or later.
    Since {
        generation: u64,
    },
    /// Nothing is left to give; the last calls have yet to end.
    Draining {
        /// When the cores are asked next whether they have ended. `None` while they are being
        /// asked.
        ask_at: Option<Instant>,
    },
    Done,
}

/// How far a core is with a placement.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CoreProgress {
    pub(super) generation: u64,
    pub(super) pending: usize,
    pub(super) giving: usize,
    pub(super) shortage: Shortage,
}

// ---- links ----

/// The link to one member.
#[derive(Clone, Debug)]
pub(super) struct MemberLink {
    pub(super) identity: Identity,
    pub(super) state: LinkState,
    /// After how long it is dialled again if it fails.
    pub(super) backoff: Duration,
    /// Whether it was up in this life of the member. If not, that no process listens there says
    /// nothing: perhaps the way there is closed.
    pub(super) was_up: bool,
    /// The cluster key with which the member has sealed what came from it last.
    #[cfg(feature = "security")]
    pub(super) uses: Option<KeyId>,
}

/// How far a link to a member is.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum LinkState {
    /// It is opened when fewer others are being opened.
    Waiting,
    Opening,
    Up,
    /// It is dialled again at this time.
    Down {
        until: Instant,
    },
    /// No process listens there: the member is pinged, and declared dead when it answers no ping.
    Probing {
        pings: u32,
        next: Instant,
    },
}

impl MemberLink {
    pub(super) fn new(identity: Identity) -> Self {
        Self {
            identity,
            state: LinkState::Waiting,
            backoff: LINK_BACKOFF,
            was_up: false,
            #[cfg(feature = "security")]
            uses: None,
        }
    }

    pub(super) fn come_up(&mut self) {
        (self.state, self.backoff, self.was_up) = (LinkState::Up, LINK_BACKOFF, true);
    }

    pub(super) fn fail(&mut self, now: Instant) {
        let most = if self.was_up { MAX_LINK_BACKOFF } else { MAX_UNREACHED_BACKOFF };
        self.state = LinkState::Down { until: now + self.backoff };
        self.backoff = (self.backoff * 2).min(most);
    }

    /// Whether this node tried to reach the member and does not.
    pub(super) fn is_out_of_reach(&self) -> bool {
        self.state != LinkState::Up && self.backoff > LINK_BACKOFF
    }
}

// ---- seeds ----

/// An address at which this node looks for its cluster.
#[derive(Clone, Debug)]
pub(super) struct SeedAddress {
    pub(super) addr: SocketAddr,
    /// Whether a lookup found it; it goes when the lookup finds it no more.
    pub(super) is_found: bool,
    pub(super) state: SeedState,
    pub(super) backoff: Duration,
    /// Whether it was heard from, or found not to answer, at least once.
    pub(super) settled: bool,
    /// The node that answered there last.
    pub(super) answered: Option<Identity>,
    /// Since when that node is no member itself, as far as it says.
    pub(super) outside_since: Option<Instant>,
    /// Whether it is no seed, and a node that turned to this one before this one was a member.
    pub(super) is_guest: bool,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum SeedState {
    Idle {
        until: Instant,
    },
    /// It is dialled, or has yet to answer a question.
    Trying,
    /// It is this node itself.
    Myself,
}

impl SeedAddress {
    pub(super) fn new(addr: SocketAddr, me: SocketAddr) -> Self {
        let is_myself = addr == me;
        let state = if is_myself {
            SeedState::Myself
        } else {
            SeedState::Idle { until: Instant::default() }
        };
        Self {
            addr,
            is_found: false,
            state,
            backoff: SEED_BACKOFF,
            settled: is_myself,
            answered: None,
            outside_since: None,
            is_guest: false,
        }
    }
}

/// The lookup of seeds that are not given as addresses.
#[derive(Clone, Debug)]
pub(super) struct Finding {
    /// When to look next; `None` while a lookup is under way, and for ever if there is nothing to
    /// look up.
    pub(super) at: Option<Instant>,
    pub(super) began: Option<Instant>,
    pub(super) backoff: Duration,
    /// Whether it has found something once, or has long failed to.
    pub(super) is_settled: bool,
    pub(super) failure: Option<String>,
}

impl Finding {
    pub(super) fn new(is_needed: bool) -> Self {
        let at = is_needed.then(Instant::default);
        Self { at, began: None, backoff: SEED_BACKOFF, is_settled: !is_needed, failure: None }
    }
}

// ---- reach ----

/// What this node knows of how others reach it, and the nodes that it tries to reach for them.
#[derive(Default)]
pub(super) struct Reach {
    /// Whether a member has reached this node.
    pub(super) is_certain: bool,
    /// How many members had no time to try.
    pub(super) passed_over: usize,
    pub(super) ask_at: Instant,
    pub(super) failures: u32,
    pub(super) failure: Option<String>,
    /// When the app may be told again.
    pub(super) say_at: Instant,
    pub(super) tried: Vec<Try>,
}

/// A try to reach a node that asked for it.
pub(super) struct Try {
    pub(super) via: u64,
    pub(super) request_id: u64,
    pub(super) identity: Identity,
    pub(super) until: Instant,
    /// Whether a connection is being opened for it, or there is one.
    pub(super) is_dialed: bool,
    pub(super) ping_at: Instant,
    pub(super) tcp: Option<Reached>,
    pub(super) is_up: bool,
    pub(super) udp: bool,
}

impl Try {
    /// Whether pings are due: the node has answered over TCP, and not yet over UDP.
    pub(super) fn is_pinged(&self) -> bool {
        self.tcp == Some(Reached::Yes) && !self.udp
    }
}

// ---- newcomers ----

/// A node that spoke to this one before it was known, and is asked who it is.
pub(super) struct Newcomer {
    pub(super) identity: Identity,
    /// Whether it has answered.
    pub(super) is_up: bool,
    pub(super) until: Instant,
}

// ---- greetings, duplicates ----

/// What a node said of itself in its HELLO or WELCOME, and what it proved.
pub(super) struct Greeting {
    pub(super) hello: Hello,
    pub(super) proved: Option<Proved>,
    /// Whether it was reached at the address that it gives, so that no other life is there.
    pub(super) is_at_its_address: bool,
}

/// A greeting that waits for what becomes of another life of the same node.
pub(super) struct HeldGreeting {
    /// The connection that it came over. `None` if it is the WELCOME of a link, which was closed.
    pub(super) via: Option<u64>,
    pub(super) greeting: Greeting,
    pub(super) other: Identity,
    pub(super) ping_at: Instant,
    pub(super) until: Instant,
}

// ---- debt ----

/// What this node's own cores owe: one question at a time, for all that want to know.
#[derive(Default)]
pub(super) struct OwnDebt {
    /// The number of the question that the cores were asked last.
    pub(super) question: u64,
    pub(super) answers: BTreeMap<usize, Debt>,
    /// Those that wait for these answers.
    pub(super) asking: Vec<DebtAsker>,
    /// Those that came too late for this question, and wait for the next.
    pub(super) next: Vec<DebtAsker>,
}

/// Where the sum of what the cores owe goes.
pub(super) enum DebtAsker {
    Peer { via: u64, request_id: u64, round: u64 },
    Safety { round: u64 },
    Leave,
}

/// A question about what a member owes, on behalf of another one that does not reach it.
pub(super) struct PassedOn {
    /// Where the answer goes, and the asker's number for its round.
    pub(super) via: u64,
    pub(super) request_id: u64,
    pub(super) round: u64,
    /// The member that is asked, under this number.
    pub(super) of: Identity,
    pub(super) asked_as: u64,
}

/// An app of this node waits until it is safe.
pub(super) struct Safety {
    /// The ticket of the latest caller that waits.
    pub(super) ticket: u64,
    /// Until when the last of them waits.
    pub(super) until: Instant,
    /// The number of this round of questions; zero before the first.
    pub(super) round: u64,
    /// When all are asked again.
    pub(super) ask_at: Instant,
    /// When they would be, if all had answered.
    pub(super) again_at: Instant,
    /// For how long answers are waited for.
    pub(super) patience: Duration,
    /// What members have said in this round, this node among them.
    pub(super) heard: BTreeMap<NodeHash, NodeDebt>,
}
