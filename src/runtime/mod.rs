//! The only home of threads, sockets and the operating system's clock.
//!
//! [`Runtime`] starts and stops an engine's threads: [`core_thread`] runs one shard each,
//! [`control_thread`] runs membership and accepts connections. They talk to each other and to the app's
//! threads through [mailboxes](mod@mailbox); an answer comes back through a [`reply`]. [`net`] has the sockets.

mod allowance;
pub(crate) mod clock;
pub(crate) mod control_thread;
pub(crate) mod core_thread;
mod fence;
pub(crate) mod mailbox;
pub(crate) mod net;
pub(crate) mod reply;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use mio::{Interest, Poll, Waker};

use self::allowance::{Allowance, Permit};
use self::clock::Clock;
use self::control_thread::{ControlThread, DATAGRAMS, LISTENER, MESSAGES_CAPACITY, Shared, ToControl};
use self::core_thread::{
    CALLS_CAPACITY, CallMessage, CoreThread, FIRST_CONNECTION, ORDERS_CAPACITY, Order, WAKE,
};
use self::fence::heavy_fence;
use self::mailbox::{Inbox, Outbox, SendError, Sender, mailbox};
use self::net::Net;
use self::net::bind::{BindError, Bound, bind};
use self::net::datagram::Datagrams;
use self::reply::ReplyTo;
use crate::clock::Instant;
use crate::config::Settings;
use crate::control::{Control, ControlConfig};
use crate::error::{LeaveError, NotApplied, NotReady, ReadError, StartError, WriteError};
use crate::events::{MemberInfo, MemberState, Subscriber};
use crate::placement::{Gone, Member, Placement};
use crate::shard::{Call, Shard, ShardConfig, Stage};
use crate::store::{Readers, Views};
use crate::types::{Boot, ClusterHash, CoreId, Identity, NodeHash, NodeId};
use crate::wire::handshake::Local;

const CONTROL_NAME: &str = "gridkv-control";

/// Large values under way may take one so-manieth of the memory limit.
const ALLOWANCE: usize = 16;

/// Values up to this need no permit: the queues are short.
const MAX_FREE_BYTES: usize = 4 << 10;

/// How long stopping waits for room in a thread's queue.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// An engine's threads, and the ways to them.
pub(crate) struct Runtime {
    clock: Clock,
    cluster: ClusterHash,
    address: Option<SocketAddr>,
    calls: Vec<Sender<CallMessage>>,
    orders: Vec<Sender<Order>>,
    control: Option<Sender<ToControl>>,
    shared: Arc<Shared>,
    views: Views,
    /// Of large values under way to the cores, where there is a memory limit.
    allowance: Option<Arc<Allowance>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// A call that no core took: nothing happened.
#[derive(Debug)]
pub(crate) enum NotSent {
    Full,
    Closed,
}

impl<T> From<SendError<T>> for NotSent {
    fn from(error: SendError<T>) -> Self {
        match error {
            SendError::Full(_) => Self::Full,
            SendError::Closed(_) => Self::Closed,
        }
    }
}

impl NotSent {
    pub(crate) fn into_write_error(self) -> WriteError {
        WriteError::NotApplied(match self {
            Self::Full => NotApplied::Overloaded,
            Self::Closed => NotApplied::ShutDown,
        })
    }

    pub(crate) fn into_read_error(self) -> ReadError {
        match self {
            Self::Full => ReadError::Overloaded,
            Self::Closed => ReadError::ShutDown,
        }
    }
}

/// A thread that is ready to be started.
struct Prepared {
    name: String,
    run: Box<dyn FnOnce() -> io::Result<()> + Send>,
}

/// Ends the whole engine when one of its threads ends by itself, by an error or a panic: an engine that
/// answers for some of its keys only would be taken for a healthy one by the other nodes.
struct OneForAll {
    shared: Arc<Shared>,
    control: Option<Sender<ToControl>>,
    orders: Vec<Sender<Order>>,
    was_told_to_stop: bool,
}

impl Runtime {
    pub(crate) fn start(settings: &Settings) -> Result<Self, StartError> {
        let clock = Clock::start();
        let cluster = ClusterHash::of(&settings.cluster);
        let bound = settings.address.map(bind).transpose().map_err(start_error)?;
        let address = bound.as_ref().map(|bound| bound.addr);
        let identity = Identity {
            node: NodeHash::of(cluster, &settings.node_id),
            boot: Boot(clock.now().wall.millis()),
            returns: 0,
            // A standalone engine is nobody's peer.
            addr: address.unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0))),
        };
        let shared = Arc::new(Shared::default());
        let heavy_fence = if settings.membarrier { heavy_fence() } else { None };
        let readers = Arc::new(Readers::new(heavy_fence));
        let allowance =
            settings.memory.map(|share| Allowance::new(share / ALLOWANCE * usize::from(settings.cores)));
        let shard = |core| Shard::new(shard_config(settings, cluster, identity, core), readers.clone());
        let shards: Vec<Shard<ReplyTo>> = (0..settings.cores).map(CoreId).map(shard).collect();
        let mut runtime = Self {
            clock,
            cluster,
            address,
            calls: Vec::new(),
            orders: Vec::new(),
            control: None,
            shared,
            views: Views::new(shards.iter().map(|shard| shard.view().clone()), readers),
            allowance,
            threads: Mutex::new(Vec::new()),
        };
        let prepared = runtime.prepare(settings, identity, bound, shards)?;
        runtime.spawn(prepared)?;
        Ok(runtime)
    }

    /// Makes everything that can fail before the first thread is started.
    fn prepare(
        &mut self,
        settings: &Settings,
        identity: Identity,
        bound: Option<Bound>,
        shards: Vec<Shard<ReplyTo>>,
    ) -> Result<Vec<Prepared>, StartError> {
        let poll_failed = |source| StartError::System { what: "creating a poll", source };
        let control = match bound {
            Some(bound) => {
                let poll = Poll::new().map_err(poll_failed)?;
                let waker = Arc::new(Waker::new(poll.registry(), WAKE).map_err(poll_failed)?);
                let (sender, messages) = mailbox(MESSAGES_CAPACITY, waker);
                self.control = Some(sender);
                Some((bound, poll, messages))
            }
            None => None,
        };
        let mut prepared = Vec::new();
        for (core, shard) in (0..).map(CoreId).zip(shards) {
            prepared.push(self.prepare_core(settings, identity, core, shard)?);
        }
        match control {
            Some((bound, poll, messages)) => {
                let thread = self.prepare_control(settings, identity, bound, poll, messages)?;
                let name = CONTROL_NAME.to_owned();
                let turn = control_thread::begin(thread);
                prepared.push(Prepared { name, run: Box::new(move || control_thread::run(turn)) });
            }
            None => self.place_standalone(settings, identity),
        }
        Ok(prepared)
    }

    fn prepare_core(
        &mut self,
        settings: &Settings,
        identity: Identity,
        core: CoreId,
        shard: Shard<ReplyTo>,
    ) -> Result<Prepared, StartError> {
        let poll_failed = |source| StartError::System { what: "creating a poll", source };
        let poll = Poll::new().map_err(poll_failed)?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKE).map_err(poll_failed)?);
        let (call_sender, calls) = mailbox(CALLS_CAPACITY, waker.clone());
        let (order_sender, orders) = mailbox(ORDERS_CAPACITY, waker);
        self.calls.push(call_sender);
        self.orders.push(order_sender);
        let net = match &self.control {
            Some(_) => Some(self.net(&poll, settings, identity)?),
            None => None,
        };
        let control = self.control.clone();
        let (clock, shared) = (self.clock, self.shared.clone());
        let run = Box::new(move || {
            core_thread::run(CoreThread { core, poll, clock, shard, calls, orders, shared, net, control })
        });
        Ok(Prepared { name: format!("gridkv-core-{}", core.0), run })
    }

    fn prepare_control(
        &mut self,
        settings: &Settings,
        identity: Identity,
        bound: Bound,
        poll: Poll,
        messages: Inbox<ToControl>,
    ) -> Result<ControlThread, StartError> {
        let net = self.net(&poll, settings, identity)?;
        let failed = |source| StartError::System { what: "registering a socket", source };
        let Bound { mut listener, datagrams, .. } = bound;
        let mut datagrams = Datagrams::new(datagrams).map_err(failed)?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE).map_err(failed)?;
        poll.registry().register(datagrams.source(), DATAGRAMS, Interest::READABLE).map_err(failed)?;
        let control = Control::new(ControlConfig {
            cluster: self.cluster,
            identity,
            local: local(settings),
            seeds: settings.seeds.clone(),
            probe_period: settings.probe_period,
            suspicion_timeout: settings.suspicion_timeout,
            seed: random(),
        });
        self.shared.lock().giving = vec![0; usize::from(settings.cores)];
        Ok(ControlThread {
            poll,
            clock: self.clock,
            control,
            net,
            listener,
            datagrams,
            messages,
            cores: self.orders.iter().cloned().map(Outbox::new).collect(),
            shared: self.shared.clone(),
        })
    }

    fn net(&self, poll: &Poll, settings: &Settings, identity: Identity) -> Result<Net, StartError> {
        let registry = poll
            .registry()
            .try_clone()
            .map_err(|source| StartError::System { what: "cloning a poll's registry", source })?;
        let mut net = Net::new(registry, FIRST_CONNECTION, local(settings));
        net.set_identity(identity);
        Ok(net)
    }

    /// A cluster of one, born at once.
    fn place_standalone(&self, settings: &Settings, identity: Identity) {
        let id = NodeId::new(&settings.node_id);
        let member = Member { identity, id: id.clone(), cores: settings.cores, leaving: false };
        let placement = Arc::new(Placement::new(vec![member], 1, 1, Gone::new()));
        for orders in &self.orders {
            // The queue is new, so there is room.
            let _ = orders.try_send(Order::Place { placement: placement.clone(), stage: Stage::Born });
        }
        self.shared.update(|state| {
            state.readiness.members = 1;
            state.readiness.has_lists = true;
            state.members = vec![MemberInfo {
                id,
                address: identity.addr,
                state: MemberState::Alive,
                leaving: false,
                is_self: true,
            }];
        });
    }

    fn spawn(&self, prepared: Vec<Prepared>) -> Result<(), StartError> {
        for Prepared { name, run } in prepared {
            let one_for_all = OneForAll {
                shared: self.shared.clone(),
                control: self.control.clone(),
                orders: self.orders.clone(),
                was_told_to_stop: false,
            };
            match thread::Builder::new().name(name).spawn(move || one_for_all.watch(run)) {
                Ok(thread) => self.lock_threads().push(thread),
                Err(source) => {
                    self.stop(false);
                    return Err(StartError::System { what: "starting a thread", source });
                }
            }
        }
        Ok(())
    }

    /// Gives a core a call, waiting for room until `deadline`.
    pub(crate) fn call(
        &self,
        core: CoreId,
        call: Call,
        reply_to: ReplyTo,
        deadline: Instant,
    ) -> Result<(), NotSent> {
        if self.shared.is_closed() {
            return Err(NotSent::Closed);
        }
        let message = CallMessage::new(call, reply_to);
        self.calls[usize::from(core.0)].send_until(message, self.clock.to_os(deadline))?;
        Ok(())
    }

    /// Lets a value of so many bytes be made for a call, when there is room for it among those under way.
    pub(crate) fn allow(&self, bytes: usize, deadline: Instant) -> Result<Option<Permit>, NotSent> {
        match &self.allowance {
            Some(allowance) if bytes > MAX_FREE_BYTES => {
                let permit = allowance.take(bytes, deadline.since(self.clock.instant()));
                permit.map(Some).ok_or(NotSent::Full)
            }
            _ => Ok(None),
        }
    }

    pub(crate) fn wait_ready(&self, timeout: Duration, needed: usize) -> Result<(), NotReady> {
        let ready = self.shared.wait(timeout, |state| {
            let readiness = &state.readiness;
            let is_ready = readiness.has_lists && readiness.members >= needed;
            (state.is_stopped || is_ready).then_some(!state.is_stopped)
        });
        match ready {
            Some(true) => Ok(()),
            Some(false) => Err(NotReady::ShutDown),
            None => {
                let readiness = self.shared.lock().readiness.clone();
                Err(if readiness.members < needed {
                    let members = readiness.members.max(1);
                    NotReady::TooFewMembers { members, needed, refused: readiness.refused }
                } else {
                    NotReady::Settling { members: readiness.members }
                })
            }
        }
    }

    pub(crate) fn leave(&self, timeout: Duration) -> Result<(), LeaveError> {
        if self.shared.is_closed() {
            return Err(LeaveError::ShutDown);
        }
        let Some(control) = &self.control else {
            self.stop(true);
            return Ok(());
        };
        let deadline = self.clock.to_os(self.clock.instant() + timeout);
        let left = match control.send_until(ToControl::Leave, deadline) {
            Ok(()) => self
                .shared
                .wait(timeout, |state| (state.has_left || state.is_stopped).then_some(state.has_left)),
            Err(SendError::Full(_)) => None,
            Err(SendError::Closed(_)) => Some(false),
        };
        let partitions = self.shared.lock().giving.iter().sum();
        self.stop(left != Some(true));
        match left {
            Some(true) => Ok(()),
            Some(false) => Err(LeaveError::ShutDown),
            None => Err(LeaveError::TimedOut { partitions }),
        }
    }

    /// Stops and joins the threads. With `farewell` the other nodes are told; without, they find out.
    /// Called again, it waits for nothing. Called on one of the engine's own threads, it does not join.
    pub(crate) fn stop(&self, farewell: bool) {
        self.shared.close();
        let threads = std::mem::take(&mut *self.lock_threads());
        if threads.is_empty() {
            return;
        }
        let deadline = self.clock.to_os(self.clock.instant() + STOP_TIMEOUT);
        if let Some(control) = &self.control {
            let _ = control.send_until(ToControl::Stop { farewell }, deadline);
        }
        for core in &self.orders {
            let _ = core.send_until(Order::Stop, deadline);
        }
        let is_engine_thread = threads.iter().any(|thread| thread.thread().id() == thread::current().id());
        if !is_engine_thread {
            for thread in threads {
                let name = thread.thread().name().unwrap_or_default().to_owned();
                if thread.join().is_err() {
                    log::error!("{name} had panicked");
                }
            }
        }
        self.shared.set_stopped();
    }

    pub(crate) fn members(&self) -> Vec<MemberInfo> {
        self.shared.lock().members.clone()
    }

    pub(crate) fn subscribe(&self, subscriber: Subscriber) {
        let mut state = self.shared.lock();
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

    /// What this node's cores let others read; `None` once the engine is closed.
    #[inline]
    pub(crate) fn views(&self) -> Option<&Views> {
        (!self.shared.is_closed()).then_some(&self.views)
    }

    #[inline]
    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    fn lock_threads(&self) -> std::sync::MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OneForAll {
    fn watch(mut self, run: impl FnOnce() -> io::Result<()>) {
        match run() {
            Ok(()) => self.was_told_to_stop = true,
            Err(error) => log::error!("the engine stops: polling failed: {error}"),
        }
    }
}

impl Drop for OneForAll {
    fn drop(&mut self) {
        if self.was_told_to_stop {
            return;
        }
        self.shared.set_stopped();
        // Whoever has no room for it or is gone already finds the engine closed.
        if let Some(control) = &self.control {
            let _ = control.try_send(ToControl::Stop { farewell: true });
        }
        for core in &self.orders {
            let _ = core.try_send(Order::Stop);
        }
    }
}

fn shard_config(settings: &Settings, cluster: ClusterHash, identity: Identity, core: CoreId) -> ShardConfig {
    ShardConfig {
        cluster,
        core,
        cores: settings.cores,
        me: identity,
        replicas: settings.replicas,
        write_quorum: settings.write_quorum,
        read_quorum: settings.read_quorum,
        standalone: settings.address.is_none(),
        memory: settings.memory,
        eviction: settings.eviction,
    }
}

fn local(settings: &Settings) -> Local {
    Local {
        cluster: settings.cluster.clone(),
        node_id: settings.node_id.clone(),
        cores: settings.cores,
        replicas: settings.replicas as u8,
        write_quorum: settings.write_quorum as u8,
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
