//! The only home of threads, sockets and the operating system's clock.
//!
//! [`Runtime`] starts and stops an engine's threads: [`core_thread`] runs one shard each,
//! [`control_thread`] runs membership and accepts connections, and [`engine_thread`] says what happens when one
//! of them fails. They talk to each other and to the app's threads through [mailboxes](mod@mailbox), each a
//! [`ring`] and a [`bell`]; an answer comes back through a [`reply`], which is a [`slot`]. Who has nothing to do
//! is [`idle`]. [`net`] has the sockets.

mod affinity;
mod allowance;
mod bell;
pub(crate) mod clock;
pub(crate) mod control_thread;
pub(crate) mod core_thread;
mod discovery_thread;
mod engine_thread;
mod fence;
mod idle;
pub(crate) mod mailbox;
pub(crate) mod net;
mod parker;
pub(crate) mod reply;
mod ring;
mod room;
mod slot;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use mio::net::TcpListener;
use mio::{Interest, Poll, Waker};

use self::affinity::PinError;
use self::allowance::{Allowance, Permit};
use self::bell::Bell;
use self::clock::Clock;
use self::control_thread::{ControlThread, DATAGRAMS, LISTENER, MESSAGES_CAPACITY, Shared, ToControl};
use self::core_thread::{
    CALLS_CAPACITY, CallMessage, CoreThread, FIRST_CONNECTION, ORDERS_CAPACITY, Order, WAKE,
};
use self::discovery_thread::DiscoveryRequests;
use self::engine_thread::EngineThread;
pub(crate) use self::engine_thread::is_engine_thread;
use self::fence::heavy_fence;
use self::idle::{longest_caller_spin, note_processors};
use self::mailbox::{Inbox, Outbox, SendError, Sender, mailbox};
use self::net::Net;
use self::net::bind::{BindError, Bound, bind};
use self::net::datagram::Datagrams;
use self::reply::{NoReply, Reply, ReplyTo};
use crate::clock::Instant;
use crate::completions::Place;
use crate::config::Settings;
use crate::control::{Control, ControlConfig};
use crate::error::{LeaveError, NotApplied, NotReady, NotSafe, ReadError, StartError, WriteError};
use crate::events::{MemberInfo, MemberState, Subscriber};
use crate::placement::{Gone, Member, Placement, Site};
use crate::replication::purge::GRACE;
use crate::shard::{Call, Outcome, Shard, ShardConfig, Stage};
use crate::store::{Readers, View, Views};
use crate::types::{Boot, ClusterHash, CoreId, Identity, NodeHash, NodeId};
use crate::wire::handshake::Local;

const CONTROL_NAME: &str = "gridkv-control";

/// Large values under way may take one so-manieth of the memory limit.
const ALLOWANCE: usize = 16;

/// Values up to this need no permit: the queues are short.
const MAX_FREE_BYTES: usize = 4 << 10;

/// An engine's threads, and the ways to them.
pub(crate) struct Runtime {
    clock: Clock,
    cluster: ClusterHash,
    address: Option<SocketAddr>,
    /// How long a caller looks for its answer before it sleeps.
    longest_spin: Duration,
    ways: Ways,
    views: Views,
    /// Of large values under way to the cores, where there is a memory limit.
    allowance: Option<Arc<Allowance>>,
    threads: Threads,
}

/// The mailboxes of an engine's threads.
#[derive(Default)]
struct Ways {
    calls: Vec<Sender<CallMessage>>,
    orders: Vec<Sender<Order>>,
    control: Option<Sender<ToControl>>,
}

/// What is needed to start an engine's threads, and to stop them.
#[derive(Default)]
struct Threads {
    shared: Arc<Shared>,
    bells: Vec<Arc<Bell>>,
    handles: Mutex<Vec<JoinHandle<()>>>,
}

/// A call that no core took: nothing happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NotSent {
    Full,
    Closed,
    Failed,
    /// The caller is an engine's thread.
    WouldBlock,
}

impl From<NotSent> for NotApplied {
    fn from(why: NotSent) -> Self {
        match why {
            NotSent::Full => Self::Overloaded,
            NotSent::Closed => Self::ShutDown,
            NotSent::Failed => Self::EngineFailed,
            NotSent::WouldBlock => Self::WouldBlockCore,
        }
    }
}

impl From<NotSent> for WriteError {
    fn from(why: NotSent) -> Self {
        Self::NotApplied(why.into())
    }
}

impl From<NotSent> for ReadError {
    fn from(why: NotSent) -> Self {
        match why {
            NotSent::Full => Self::Overloaded,
            NotSent::Closed => Self::ShutDown,
            NotSent::Failed => Self::EngineFailed,
            NotSent::WouldBlock => Self::WouldBlockCore,
        }
    }
}

impl Runtime {
    pub(crate) fn start(settings: &Settings) -> Result<Self, StartError> {
        note_processors(&[]);
        let clock = Clock::start();
        let cluster = ClusterHash::of(&settings.cluster);
        let bound = settings.address.map(bind).transpose().map_err(start_error)?;
        let address = bound.as_ref().map(|bound| advertised(settings, bound.addr));
        let identity = Identity {
            node: NodeHash::of(cluster, &settings.node_id),
            boot: Boot(clock.now().wall.millis()),
            returns: 0,
            // A standalone engine is nobody's peer.
            addr: address.unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0))),
        };
        let heavy_fence = if settings.membarrier { heavy_fence() } else { None };
        let mut launch = Launch {
            settings,
            clock,
            cluster,
            identity,
            readers: Arc::new(Readers::new(heavy_fence)),
            ways: Ways::default(),
            threads: Threads::default(),
        };
        // What can fail is made before the first thread is started, as far as it can be.
        let control = bound.map(|bound| launch.prepare_control(bound)).transpose()?;
        let cores = (0..settings.cores).map(|core| launch.prepare_core(CoreId(core)));
        let cores = cores.collect::<Result<_, _>>()?;
        let views = match launch.start(cores, control) {
            Ok(views) => views,
            Err(error) => {
                launch.threads.stop(false);
                return Err(error);
            }
        };
        note_processors(settings.pin_cpus.as_deref().unwrap_or_default());
        let Launch { ways, threads, .. } = launch;
        let longest_spin = longest_caller_spin(settings.idle);
        let allowance =
            settings.memory.map(|share| Allowance::new(share / ALLOWANCE * usize::from(settings.cores)));
        Ok(Self { clock, cluster, address, longest_spin, ways, views, allowance, threads })
    }

    /// Gives a core a call, which may bring a large value, waiting for room until `deadline`.
    pub(crate) fn send(
        &self,
        core: CoreId,
        call: Call,
        permit: Option<Permit>,
        deadline: Instant,
    ) -> Result<Reply, NotSent> {
        self.check_caller()?;
        let (reply, reply_to) = Reply::new(permit);
        let message = CallMessage::new(call, reply_to);
        match self.ways.calls[usize::from(core.0)].send_until(message, self.clock.to_os(deadline)) {
            Ok(()) => Ok(reply),
            Err(error) => Err(self.not_sent(error)),
        }
    }

    /// Waits for the answer of a core to what was sent at `since`.
    pub(crate) fn wait(
        &self,
        core: CoreId,
        reply: Reply,
        since: Instant,
        deadline: Instant,
    ) -> Result<Outcome, NoReply> {
        let ring_again = || self.ways.calls[usize::from(core.0)].ring_again();
        reply.wait(&self.clock, since, self.longest_spin, ring_again, deadline)
    }

    /// How many calls wait for a core.
    #[cfg(test)]
    pub(crate) fn queued(&self, core: CoreId) -> usize {
        self.ways.calls[usize::from(core.0)].queued()
    }

    /// Gives a core a call that nobody waits for, if there is room.
    pub(crate) fn submit(
        &self,
        core: CoreId,
        call: Call,
        place: Place,
        permit: Option<Permit>,
    ) -> Result<(), NotSent> {
        if !self.threads.shared.is_open() {
            return Err(self.closed());
        }
        let calls = &self.ways.calls[usize::from(core.0)];
        let message = CallMessage::new(call, ReplyTo::completion(place, permit));
        calls.try_send(message).map_err(|error| self.not_sent(error))?;
        // Nobody waits who would do it later.
        calls.ring_again();
        Ok(())
    }

    /// Whether a caller may wait for this engine.
    pub(crate) fn check_caller(&self) -> Result<(), NotSent> {
        if !self.threads.shared.is_open() {
            return Err(self.closed());
        }
        if is_engine_thread() { Err(NotSent::WouldBlock) } else { Ok(()) }
    }

    /// Why it is closed.
    pub(crate) fn closed(&self) -> NotSent {
        if self.threads.shared.has_failed() { NotSent::Failed } else { NotSent::Closed }
    }

    /// The call that comes back is nobody's any more.
    fn not_sent(&self, error: SendError<CallMessage>) -> NotSent {
        let (message, why) = match error {
            SendError::Full(message) => (message, NotSent::Full),
            SendError::Closed(message) => (message, self.closed()),
        };
        message.discard();
        why
    }

    /// Lets a value of so many bytes be made for a call, when there is room for it among those under way.
    pub(crate) fn allow(&self, bytes: usize, deadline: Instant) -> Result<Option<Permit>, NotSent> {
        match &self.allowance {
            Some(allowance) if bytes > MAX_FREE_BYTES => {
                self.check_caller()?;
                let permit = allowance.take(bytes, deadline.since(self.clock.instant()));
                permit.map(Some).ok_or(NotSent::Full)
            }
            _ => Ok(None),
        }
    }

    /// The same, without waiting.
    pub(crate) fn allow_now(&self, bytes: usize) -> Result<Option<Permit>, NotSent> {
        match &self.allowance {
            Some(allowance) if bytes > MAX_FREE_BYTES => {
                allowance.take(bytes, Duration::ZERO).map(Some).ok_or(NotSent::Full)
            }
            _ => Ok(None),
        }
    }

    pub(crate) fn wait_ready(&self, timeout: Duration, needed: usize) -> Result<(), NotReady> {
        match self.check_caller() {
            Ok(()) => {}
            Err(NotSent::WouldBlock) => return Err(NotReady::WouldBlockCore),
            Err(_) => return Err(self.not_ready()),
        }
        let ready = self.threads.shared.wait(timeout, |state| {
            let readiness = &state.readiness;
            let is_ready = readiness.is_serving && readiness.members >= needed;
            (state.is_stopped || is_ready).then_some(!state.is_stopped)
        });
        match ready {
            Some(true) => Ok(()),
            Some(false) => Err(self.not_ready()),
            None => {
                let readiness = self.threads.shared.lock().readiness.clone();
                Err(if readiness.members < needed {
                    let members = readiness.members.max(1);
                    NotReady::TooFewMembers { members, needed, hint: readiness.hint }
                } else {
                    NotReady::Settling { members: readiness.members }
                })
            }
        }
    }

    pub(crate) fn wait_until_safe(&self, timeout: Duration) -> Result<(), NotSafe> {
        let shared = &self.threads.shared;
        let closed = || if shared.has_failed() { NotSafe::EngineFailed } else { NotSafe::ShutDown };
        match self.check_caller() {
            Ok(()) => {}
            Err(NotSent::WouldBlock) => return Err(NotSafe::WouldBlockCore),
            Err(_) => return Err(closed()),
        }
        // A standalone engine's copy is the only one that there is to be.
        let Some(control) = &self.ways.control else { return Ok(()) };
        let until = self.clock.instant() + timeout;
        let ticket = {
            let mut state = shared.lock();
            state.risks.clear();
            state.safety_tickets += 1;
            state.safety_tickets
        };
        let sent = control.send_until(ToControl::WatchSafety { ticket, until }, self.clock.to_os(until));
        let safe = match sent {
            Ok(()) => shared.wait(until.since(self.clock.instant()), |state| {
                let is_safe = state.safe_up_to >= ticket;
                (is_safe || state.is_stopped).then_some(is_safe)
            }),
            Err(SendError::Full(_)) => None,
            Err(SendError::Closed(_)) => Some(false),
        };
        match safe {
            Some(true) => Ok(()),
            Some(false) => Err(closed()),
            None => Err(NotSafe::TimedOut { risks: shared.lock().risks.clone() }),
        }
    }

    /// Why a closed engine will not be ready.
    fn not_ready(&self) -> NotReady {
        if self.threads.shared.has_failed() { NotReady::EngineFailed } else { NotReady::ShutDown }
    }

    pub(crate) fn leave(&self, timeout: Duration) -> Result<(), LeaveError> {
        let closed =
            || if self.threads.shared.has_failed() { LeaveError::EngineFailed } else { LeaveError::ShutDown };
        match self.check_caller() {
            Ok(()) => {}
            Err(NotSent::WouldBlock) => return Err(LeaveError::WouldBlockCore),
            Err(_) => return Err(closed()),
        }
        let Some(control) = &self.ways.control else {
            self.stop(true);
            return Ok(());
        };
        let deadline = self.clock.instant() + timeout;
        let shared = &self.threads.shared;
        let left = match control.send_until(ToControl::Leave, self.clock.to_os(deadline)) {
            Ok(()) => {
                let timeout = deadline.since(self.clock.instant());
                shared.wait(timeout, |state| (state.has_left || state.is_stopped).then_some(state.has_left))
            }
            Err(SendError::Full(_)) => None,
            Err(SendError::Closed(_)) => Some(false),
        };
        let state = self.threads.shared.lock();
        let (partitions, unfinished) = (state.giving.iter().sum(), state.unfinished.iter().sum());
        drop(state);
        self.stop(left != Some(true));
        match left {
            Some(true) => Ok(()),
            Some(false) => Err(closed()),
            None => Err(LeaveError::TimedOut { partitions, unfinished }),
        }
    }

    /// Stops and joins the threads. With `farewell` the other nodes are told; without, they find out.
    /// Called again, it waits for nothing. Called on an engine's own thread, it does not join.
    pub(crate) fn stop(&self, farewell: bool) {
        self.threads.stop(farewell);
    }

    /// Why it has failed, where it has.
    pub(crate) fn failure(&self) -> Option<String> {
        self.threads.shared.lock().failure.clone()
    }

    pub(crate) fn members(&self) -> Vec<MemberInfo> {
        self.threads.shared.lock().members.clone()
    }

    pub(crate) fn subscribe(&self, subscriber: Subscriber) {
        let mut state = self.threads.shared.lock();
        if !state.is_stopped {
            state.subscribers.retain(Subscriber::is_heard);
            state.subscribers.push(subscriber);
        }
    }

    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    #[inline]
    pub(crate) fn cluster(&self) -> ClusterHash {
        self.cluster
    }

    /// What this node's cores let others read, until the engine is closed.
    #[inline]
    pub(crate) fn views(&self) -> Result<&Views, NotSent> {
        if self.threads.shared.is_open() { Ok(&self.views) } else { Err(self.closed()) }
    }

    #[inline]
    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }
}

/// An engine on its way.
struct Launch<'a> {
    settings: &'a Settings,
    clock: Clock,
    cluster: ClusterHash,
    identity: Identity,
    readers: Arc<Readers>,
    ways: Ways,
    threads: Threads,
}

/// What a thread is woken by and polls, before it is started.
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

/// The control thread, likewise.
struct PreparedControl {
    thread: Prepared,
    net: Net,
    listener: TcpListener,
    datagrams: Datagrams,
    messages: Inbox<ToControl>,
    discovery: Option<DiscoveryRequests>,
}

/// A core's shard that has been made, or why it has not.
type Started = Result<(CoreId, Arc<View>), StartError>;

impl Launch<'_> {
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
        let discovery = source.is_needed().then(|| discovery_thread::start(source.clone(), sender.clone()));
        let failed = |source| StartError::System { what: "starting a thread", source };
        let discovery = discovery.transpose().map_err(failed)?;
        self.ways.control = Some(sender);
        let net = self.net(&thread.poll)?;
        Ok(PreparedControl { thread, net, listener, datagrams, messages, discovery })
    }

    fn prepare_core(&mut self, core: CoreId) -> Result<PreparedCore, StartError> {
        let thread = self.prepare()?;
        let (call_sender, calls) = mailbox(CALLS_CAPACITY, thread.bell.clone());
        let (order_sender, orders) = mailbox(ORDERS_CAPACITY, thread.bell.clone());
        self.ways.calls.push(call_sender);
        self.ways.orders.push(order_sender);
        let is_cluster = self.ways.control.is_some();
        let net = is_cluster.then(|| self.net(&thread.poll)).transpose()?;
        Ok(PreparedCore { core, thread, calls, orders, net })
    }

    fn net(&self, poll: &Poll) -> Result<Net, StartError> {
        let failed = |source| StartError::System { what: "cloning a poll's registry", source };
        let registry = poll.registry().try_clone().map_err(failed)?;
        let mut net = Net::new(registry, FIRST_CONNECTION, local(self.settings));
        net.set_identity(self.identity);
        Ok(net)
    }

    /// Starts the cores, which make their shards, and then whoever tells them what these are to hold.
    fn start(&self, cores: Vec<PreparedCore>, control: Option<PreparedControl>) -> Result<Views, StartError> {
        let (started, views) = mpsc::channel();
        for prepared in cores {
            self.start_core(prepared, started.clone())?;
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

    fn start_core(&self, prepared: PreparedCore, started: mpsc::Sender<Started>) -> Result<(), StartError> {
        let PreparedCore { core, thread: Prepared { poll, bell }, calls, orders, net } = prepared;
        let config = shard_config(self.settings, self.cluster, self.identity, core);
        let readers = self.readers.clone();
        let cpu = self.settings.pin_cpus.as_ref().map(|cpus| cpus[usize::from(core.0)]);
        let (clock, idle) = (self.clock, self.settings.idle);
        let (shared, control) = (self.threads.shared.clone(), self.ways.control.clone());
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
            })
        })
    }

    fn start_control(&self, prepared: PreparedControl) -> Result<(), StartError> {
        let PreparedControl {
            thread: Prepared { poll, bell },
            net,
            listener,
            datagrams,
            messages,
            discovery,
        } = prepared;
        let settings = self.settings;
        let control = Control::new(ControlConfig {
            cluster: self.cluster,
            identity: self.identity,
            local: local(settings),
            seeds: settings.seeds.clone(),
            discovers: settings.finder.is_needed(),
            probe_period: settings.probe_period,
            suspicion_timeout: settings.suspicion_timeout,
            local_health: settings.local_health,
            forget_after: settings.forget_after,
            seed: random(),
        });
        self.threads.shared.update(|state| {
            state.giving = vec![0; usize::from(settings.cores)];
            state.unfinished = state.giving.clone();
        });
        let turn = control_thread::begin(ControlThread {
            poll,
            bell,
            clock: self.clock,
            control,
            net,
            listener,
            datagrams,
            messages,
            discovery,
            cores: self.ways.orders.iter().cloned().map(Outbox::new).collect(),
            shared: self.threads.shared.clone(),
        });
        self.threads.spawn(CONTROL_NAME.to_owned(), move || control_thread::run(turn))
    }

    /// A cluster of one, born at once.
    fn place_standalone(&self) {
        let id = NodeId::new(&self.settings.node_id);
        let identity = self.identity;
        let (cores, site) = (self.settings.cores, Site::default());
        let member = Member { identity, id: id.clone(), cores, site, leaving: false };
        let placement = Arc::new(Placement::new(vec![member], 1, 1, Gone::new()));
        for orders in &self.ways.orders {
            // The queue is new, so there is room.
            let _ = orders.try_send(Order::Place { placement: placement.clone(), stage: Stage::Born });
        }
        self.threads.shared.update(|state| {
            state.readiness.members = 1;
            state.readiness.is_serving = true;
            state.members = vec![MemberInfo {
                id,
                address: identity.addr,
                state: MemberState::Alive,
                leaving: false,
                is_self: true,
                data_center: None,
                zone: None,
                round_trip: None,
            }];
        });
    }
}

impl Threads {
    fn spawn(
        &self,
        name: String,
        run: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) -> Result<(), StartError> {
        let thread =
            EngineThread { name: name.clone(), shared: self.shared.clone(), bells: self.bells.clone() };
        let handle = thread::Builder::new()
            .name(name)
            .spawn(move || thread.run(run))
            .map_err(|source| StartError::System { what: "starting a thread", source })?;
        self.lock().push(handle);
        Ok(())
    }

    /// Stops and joins the threads, unless the caller is an engine's thread: then they end by themselves.
    fn stop(&self, farewell: bool) {
        self.shared.close(farewell);
        let handles = std::mem::take(&mut *self.lock());
        if handles.is_empty() {
            return;
        }
        self.bells.iter().for_each(|bell| bell.ring());
        if !is_engine_thread() {
            for handle in handles {
                let name = handle.thread().name().unwrap_or_default().to_owned();
                if handle.join().is_err() {
                    log::error!("{name} had panicked");
                }
            }
        }
        self.shared.set_stopped();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pin_core(cpu: usize) -> Result<(), StartError> {
    affinity::pin(cpu).map_err(|error| match error {
        PinError::NotAllowed { allowed } => StartError::CpuNotAllowed { cpu, allowed },
        PinError::System(source) => StartError::System { what: "pinning a core thread", source },
    })
}

fn shard_config(settings: &Settings, cluster: ClusterHash, identity: Identity, core: CoreId) -> ShardConfig {
    ShardConfig {
        cluster,
        core,
        cores: settings.cores,
        me: identity,
        replicas: settings.quorums.replicas.code().into(),
        write_quorum: settings.quorums.write.code().into(),
        read_quorum: settings.quorums.read.code().into(),
        standalone: settings.address.is_none(),
        memory: settings.memory,
        eviction: settings.eviction,
        purge_grace: GRACE,
    }
}

fn local(settings: &Settings) -> Local {
    Local {
        cluster: settings.cluster.clone(),
        node_id: settings.node_id.clone(),
        cores: settings.cores,
        replicas: settings.quorums.replicas.code(),
        write_quorum: settings.quorums.write.code(),
        majority_of: settings.majority_of,
        site: settings.site.clone(),
    }
}

/// Where others reach a node that listens there.
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
        BindError::AddressNotAvailable { addr } => StartError::AddressNotAvailable { address: addr },
        BindError::PermissionDenied { addr } => StartError::PermissionDenied { address: addr },
        BindError::Other { source, .. } => StartError::System { what: "opening a socket", source },
    }
}

/// A number that differs from run to run: the standard library's own source of it.
fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish()
}
