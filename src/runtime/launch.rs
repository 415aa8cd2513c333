//! The launch of an engine: from its settings to threads that run.
//!
//! ```text
//! 0. ask for the limits of this process, and draw what traffic is secured with
//! 1. bind the sockets
//! 2. prepare the control thread, then each core: poll, bell, mailboxes, net
//! 3. start the log thread, then the cores; each pins itself, makes its shard, and hands out the
//!    view of it
//! 4. start the control thread, which gives the cores their first placement
//!    (a standalone engine's cores are given theirs here)
//! ```
//!
//! What can fail is made before the first thread is started, as far as it can be. If something
//! fails later, the threads that run already are stopped.

#![forbid(unsafe_code)]

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, mpsc};

use mio::net::TcpListener;
use mio::{Interest, Poll, Waker};

use super::address_space;
use super::affinity::{self, PinError};
use super::bell::Bell;
use super::clock::Clock;
use super::control_thread::{self, ControlThread};
use super::core_thread::{self, CoreThread};
use super::discovery_thread::{self, DiscoveryRequests};
use super::engine_thread::Threads;
use super::fence::heavy_fence;
use super::heartbeat::{Heartbeats, LOOKS_AT_CORES_EVERY, Watch};
use super::idle::note_processors;
use super::mailbox::{Inbox, ThreadOutbox, mailbox};
use super::messages::{
    CALLS_CAPACITY, CallMessage, MESSAGES_CAPACITY, ORDERS_CAPACITY, Order, Senders, ToControl,
};
use super::net::Net;
use super::net::bind::{BindError, Bound, bind};
use super::net::datagram::Datagrams;
use super::net::limits::Limits;
use super::secured::Secured;
use super::tokens::{DATAGRAMS, FIRST_CONNECTION, LISTENER, WAKE};
use crate::config::Settings;
use crate::control::{Control, ControlConfig};
use crate::error::StartError;
use crate::events::{MemberInfo, MemberState};
use crate::logging;
use crate::placement::{Gone, Member, Placement, Site};
use crate::shard::{Shard, ShardConfig, Stage};
use crate::store::{Readers, View, Views};
use crate::types::{Boot, ClusterHash, CoreId, Identity, MAX_BOOT, NodeHash, NodeId};
use crate::wire::handshake::Local;
use crate::wire::timing::PURGE_GRACE;

const CONTROL_NAME: &str = "gridkv-control";

/// An engine whose threads run.
pub(super) struct Launched {
    pub(super) clock: Clock,
    pub(super) cluster: ClusterHash,
    /// Where other nodes reach this one. `None`: standalone.
    pub(super) address: Option<SocketAddr>,
    pub(super) senders: Senders,
    pub(super) views: Views,
    pub(super) threads: Threads,
    /// What its traffic is secured with, if it is.
    #[cfg(feature = "security")]
    pub(super) secured: Option<Secured>,
}

/// Starts an engine's threads.
pub(super) fn launch(settings: &Settings) -> Result<Launched, StartError> {
    address_space::check(settings)?;
    note_processors(&[]);
    let clock = Clock::start();
    let cluster = ClusterHash::of(&settings.cluster);
    if settings.address.is_some() && clock.wall().millis() > MAX_BOOT.0 {
        let source = io::Error::other(
            "it shows the year 2100 or later, which no other node believes: set it right",
        );
        return Err(StartError::System { what: "reading the system's clock", source });
    }
    let secured = Secured::at_start(settings, cluster)?;
    let bound = settings.address.map(bind).transpose().map_err(start_error)?;
    let open_to_others = bound.as_ref().map(|it| it.addr).filter(|it| !it.ip().is_loopback());
    let address = bound.as_ref().map(|bound| advertised(settings, bound.addr));
    let heavy_fence = if settings.membarrier { heavy_fence() } else { None };
    let mut launch = Launch {
        settings,
        clock,
        cluster,
        identity: identity(settings, cluster, clock, address),
        readers: Arc::new(Readers::new(heavy_fence)),
        senders: Senders::default(),
        threads: Threads::default(),
        heartbeats: Arc::new(Heartbeats::new(usize::from(settings.cores))),
        limits: Limits::new(
            settings.max_connections,
            settings.memory.map(|memory| memory * usize::from(settings.cores)),
        ),
        secured,
    };
    let control = bound.map(|bound| launch.prepare_control(bound)).transpose()?;
    let cores = (0..settings.cores).map(|core| launch.prepare_core(CoreId(core)));
    let cores = cores.collect::<Result<_, _>>()?;
    let views = launch.start(cores, control).inspect_err(|_| {
        launch.threads.stop(false);
        launch.threads.log.stop();
    })?;
    note_processors(settings.pin_cpus.as_deref().unwrap_or_default());
    if let Some(address) = open_to_others
        && launch.secured.is_none()
    {
        logging::warn!(
            "listening on {address} without encryption and without authentication: whoever reaches \
             this port can read and write all keys of the cluster, and can end it. Let only its \
             nodes reach it, or set Config::security (docs/security.md)"
        );
    }
    Ok(Launched {
        clock,
        cluster,
        address,
        senders: launch.senders,
        views,
        threads: launch.threads,
        #[cfg(feature = "security")]
        secured: launch.secured,
    })
}

/// An engine that is being launched.
struct Launch<'a> {
    settings: &'a Settings,
    clock: Clock,
    cluster: ClusterHash,
    identity: Identity,
    readers: Arc<Readers>,
    senders: Senders,
    threads: Threads,
    heartbeats: Arc<Heartbeats>,
    limits: Arc<Limits>,
    secured: Option<Secured>,
}

/// What a thread that is not started yet will poll, and will be woken by.
struct Prepared {
    poll: Poll,
    bell: Arc<Bell>,
}

/// A core thread that is ready to be started.
struct PreparedCore {
    core: CoreId,
    thread: Prepared,
    calls: Inbox<CallMessage>,
    orders: Inbox<Order>,
    net: Option<Net>,
}

/// The control thread, ready to be started.
struct PreparedControl {
    thread: Prepared,
    control: Control,
    net: Net,
    listener: TcpListener,
    datagrams: Datagrams,
    messages: Inbox<ToControl>,
    discovery: Option<DiscoveryRequests>,
}

/// The view of a core's shard, or why the core has none.
type Started = Result<(CoreId, Arc<View>), StartError>;

impl Launch<'_> {
    /// Prepares what every thread needs.
    fn prepare(&mut self) -> Result<Prepared, StartError> {
        let failed = |source| StartError::System { what: "creating a poll", source };
        let poll = Poll::new().map_err(failed)?;
        let bell = Arc::new(Bell::new(Waker::new(poll.registry(), WAKE).map_err(failed)?));
        self.threads.bells.push(bell.clone());
        Ok(Prepared { poll, bell })
    }

    fn prepare_control(&mut self, bound: Bound) -> Result<PreparedControl, StartError> {
        let thread = self.prepare()?;
        let failed = |source| StartError::System { what: "registering a socket", source };
        let Bound { mut listener, datagrams, .. } = bound;
        let mut datagrams = Datagrams::new(datagrams).map_err(failed)?;
        let registry = thread.poll.registry();
        registry.register(&mut listener, LISTENER, Interest::READABLE).map_err(failed)?;
        registry.register(datagrams.source(), DATAGRAMS, Interest::READABLE).map_err(failed)?;
        let (sender, messages) = mailbox(MESSAGES_CAPACITY, thread.bell.clone());
        let source = &self.settings.finder;
        let discovery =
            source.is_needed().then(|| discovery_thread::start(source.clone(), sender.clone()));
        let failed = |source| StartError::System { what: "starting a thread", source };
        let discovery = discovery.transpose().map_err(failed)?;
        self.senders.control = Some(sender);
        let mut control = Control::new(self.control_config());
        self.secured.iter().try_for_each(|secured| secured.seal(&mut control))?;
        let net = self.net(&thread.poll)?;
        Ok(PreparedControl { thread, control, net, listener, datagrams, messages, discovery })
    }

    fn prepare_core(&mut self, core: CoreId) -> Result<PreparedCore, StartError> {
        let thread = self.prepare()?;
        let (call_sender, calls) = mailbox(CALLS_CAPACITY, thread.bell.clone());
        let (order_sender, orders) = mailbox(ORDERS_CAPACITY, thread.bell.clone());
        self.senders.calls.push(call_sender);
        self.senders.orders.push(order_sender);
        let is_cluster = self.senders.control.is_some();
        let net = is_cluster.then(|| self.net(&thread.poll)).transpose()?;
        Ok(PreparedCore { core, thread, calls, orders, net })
    }

    fn net(&self, poll: &Poll) -> Result<Net, StartError> {
        let failed = |source| StartError::System { what: "cloning a poll's registry", source };
        let registry = poll.registry().try_clone().map_err(failed)?;
        let mut net =
            Net::new(registry, FIRST_CONNECTION, local(self.settings), self.limits.clone());
        net.set_identity(self.identity);
        self.secured.iter().for_each(|secured| secured.secure_net(&mut net));
        self.settings.memory.into_iter().for_each(|memory| net.limit_memory(memory));
        Ok(net)
    }

    /// Starts the cores, which make their shards, and then tells the cores what to hold: by the
    /// control thread, or once if the engine is standalone.
    fn start(
        &self,
        cores: Vec<PreparedCore>,
        control: Option<PreparedControl>,
    ) -> Result<Views, StartError> {
        let failed = |source| StartError::System { what: "starting a thread", source };
        self.start_log(control.is_none()).map_err(failed)?;
        let (started, views) = mpsc::channel();
        for prepared in cores {
            self.start_core(prepared, started.clone(), control.as_ref())?;
        }
        drop(started);
        let mut views: Vec<(CoreId, Arc<View>)> = views.into_iter().collect::<Result<_, _>>()?;
        views.sort_by_key(|(core, _)| *core);
        if views.len() < usize::from(self.settings.cores) {
            let source = io::Error::other("it ended before it had begun (the log says why)");
            return Err(StartError::System { what: "starting a core thread", source });
        }
        match control {
            Some(control) => self.start_control(control)?,
            None => self.place_standalone(),
        }
        Ok(Views::new(views.into_iter().map(|(_, view)| view), self.readers.clone()))
    }

    /// Starts the log thread, which looks at the cores of an engine that has no control thread.
    fn start_log(&self, watches: bool) -> io::Result<()> {
        if !watches {
            return self.threads.log.start(|| None);
        }
        let (clock, shared) = (self.clock, self.threads.shared.clone());
        let heartbeats = self.heartbeats.clone();
        let mut watch = Watch::new(&heartbeats.cores, LOOKS_AT_CORES_EVERY, clock.instant());
        self.threads.log.start(move || {
            for (core, noticed) in watch.look(clock.instant(), &heartbeats.cores) {
                shared.notify(&noticed.of_core(core));
            }
            watch.deadline().map(|at| at.since(clock.instant()))
        })
    }

    fn start_core(
        &self,
        prepared: PreparedCore,
        started: mpsc::Sender<Started>,
        watcher: Option<&PreparedControl>,
    ) -> Result<(), StartError> {
        let PreparedCore { core, thread: Prepared { poll, bell }, calls, orders, net } = prepared;
        let config = shard_config(self.settings, self.cluster, self.identity, core);
        let readers = self.readers.clone();
        let cpu = self.settings.pin_cpus.as_ref().map(|cpus| cpus[usize::from(core.0)]);
        let (clock, idle) = (self.clock, self.settings.idle);
        let (shared, control) = (self.threads.shared.clone(), self.senders.control.clone());
        let heartbeats = self.heartbeats.clone();
        let wake_watcher: Box<dyn Fn() + Send> = match watcher.map(|it| it.thread.bell.clone()) {
            Some(bell) => Box::new(move || bell.ring()),
            None => self
                .threads
                .log
                .waker()
                .map_or_else(|| Box::new(|| {}) as Box<dyn Fn() + Send>, |wake| Box::new(wake)),
        };
        self.threads.spawn(format!("gridkv-core-{}", core.0), move || {
            // First the processor, then the memory, so that it lies close to it.
            if let Some(error) = cpu.and_then(|cpu| pin_core(cpu).err()) {
                let _ = started.send(Err(error));
                return Ok(());
            }
            let shard = Shard::new(config, readers);
            let _ = started.send(Ok((core, shard.view().clone())));
            drop(started);
            core_thread::run(CoreThread {
                core,
                poll,
                bell,
                clock,
                idle,
                shard,
                calls,
                orders,
                shared,
                net,
                control,
                heartbeats,
                wake_watcher,
            })
        })
    }

    fn start_control(&self, prepared: PreparedControl) -> Result<(), StartError> {
        let PreparedControl {
            thread: Prepared { poll, bell },
            control,
            net,
            listener,
            datagrams,
            messages,
            discovery,
        } = prepared;
        self.threads.shared.update(|state| {
            state.giving = vec![0; usize::from(self.settings.cores)];
            state.unfinished = state.giving.clone();
        });
        let control_loop = control_thread::begin(ControlThread {
            poll,
            bell,
            clock: self.clock,
            control,
            net,
            listener,
            datagrams,
            messages,
            discovery,
            cores: self.senders.orders.iter().cloned().map(ThreadOutbox::new).collect(),
            shared: self.threads.shared.clone(),
            heartbeats: self.heartbeats.clone(),
            watcher: self.threads.bells[1].clone(),
        });
        self.threads.spawn(CONTROL_NAME.to_owned(), move || control_thread::run(control_loop))
    }

    fn control_config(&self) -> ControlConfig {
        let settings = self.settings;
        ControlConfig {
            cluster: self.cluster,
            identity: self.identity,
            local: local(settings),
            expect: settings.expect,
            seeds: settings.seeds.clone(),
            discovers: settings.finder.is_needed(),
            probe_period: settings.probe_period,
            suspicion_timeout: settings.suspicion_timeout,
            local_health: settings.local_health,
            retention: settings.retention,
            seed: random(),
        }
    }

    /// Gives the cores of a standalone engine the placement of a cluster of one, whose lists are
    /// born at once.
    fn place_standalone(&self) {
        let id = NodeId::new(&self.settings.node_id);
        let identity = self.identity;
        let (cores, site) = (self.settings.cores, Site::default());
        let member = Member { identity, id: id.clone(), cores, site, leaving: false };
        let replicas = self.settings.quorums.replicas;
        let placement = Arc::new(Placement::new(vec![member], replicas, 1, Gone::new()));
        let stage = Stage::Born { members_digest: placement.digest() };
        for orders in &self.senders.orders {
            // The queue is new, so there is room.
            let _ = orders.try_send(Order::Place { placement: placement.clone(), stage });
        }
        self.threads.shared.update(|state| {
            state.readiness.members = 1;
            state.readiness.is_serving = true;
            state.members = vec![standalone_member(id, identity.addr)];
        });
    }
}

fn pin_core(cpu: usize) -> Result<(), StartError> {
    affinity::pin(cpu).map_err(|error| match error {
        PinError::NotAllowed { allowed } => StartError::CpuNotAllowed { cpu, allowed },
        PinError::System(source) => StartError::System { what: "pinning a core thread", source },
    })
}

fn shard_config(
    settings: &Settings,
    cluster: ClusterHash,
    identity: Identity,
    core: CoreId,
) -> ShardConfig {
    ShardConfig {
        cluster,
        core,
        cores: settings.cores,
        me: identity,
        quorums: settings.quorums,
        on_partition: settings.on_partition,
        every_live: settings.wait_for_every_live,
        every_live_patience: settings.every_live_patience,
        standalone: settings.address.is_none(),
        memory: settings.memory,
        eviction: settings.eviction,
        purge_grace: PURGE_GRACE,
    }
}

/// What this node says of itself in a handshake.
fn local(settings: &Settings) -> Local {
    Local {
        cluster: settings.cluster.clone(),
        node_id: settings.node_id.clone(),
        cores: settings.cores,
        quorums: settings.quorums,
        on_partition: settings.on_partition,
        site: settings.site.clone(),
    }
}

/// The only member of a standalone engine's cluster.
fn standalone_member(id: NodeId, address: SocketAddr) -> MemberInfo {
    MemberInfo {
        id,
        address,
        state: MemberState::Alive,
        leaving: false,
        is_self: true,
        data_center: None,
        zone: None,
        round_trip: None,
        clock_ahead_ms: None,
        #[cfg(feature = "security")]
        security: None,
        #[cfg(feature = "security")]
        cluster_key: None,
    }
}

/// Who this node is in its new life.
fn identity(
    settings: &Settings,
    cluster: ClusterHash,
    clock: Clock,
    address: Option<SocketAddr>,
) -> Identity {
    Identity {
        node: NodeHash::of(cluster, &settings.node_id),
        boot: Boot(clock.wall().millis()),
        returns: 0,
        // A standalone engine has no address, and no other node asks for it.
        addr: address.unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0))),
    }
}

/// Where other nodes reach a node that listens at `bound`.
fn advertised(settings: &Settings, bound: SocketAddr) -> SocketAddr {
    match settings.advertise {
        Some(address) if address.port() == 0 => SocketAddr::new(address.ip(), bound.port()),
        Some(address) => address,
        None => bound,
    }
}

fn start_error(error: BindError) -> StartError {
    match error {
        BindError::AddressInUse { addr } => StartError::AddressInUse { address: addr },
        BindError::AddressNotAvailable { addr } => {
            StartError::AddressNotAvailable { address: addr }
        }
        BindError::PermissionDenied { addr } => StartError::PermissionDenied { address: addr },
        BindError::Other { source, .. } => StartError::System { what: "opening a socket", source },
    }
}

/// A number that differs from run to run, from the standard library's own source.
fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish()
}
