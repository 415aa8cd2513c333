//! A deterministic cluster in one thread: virtual time, network and clocks. One seed, one history.
//!
//! Every node is the real `Control` and the real `Shard`s, and every message passes, encoded,
//! through the real decoding. The simulator decides when a message arrives, which one is lost, and
//! when a node dies. It decides no acknowledgement, list or death.
//!
//! | file | what it is |
//! |---|---|
//! | this one | [`SimCluster`]: what a test asks for, the queue of events, the trace |
//! | `options`, `results` | what the cluster is like; what a test is told |
//! | `node` | one node: its `Control`, its shards, its clock |
//! | `calls` | calls through nodes, as apps make them |
//! | `driver` | acts as the threads of a node do: delivers events, carries out actions |
//! | `event`, `network` | what is scheduled; datagrams and connections |
//! | `observe` | what a test sees of the cluster's state |
//! | `arrival` | stops time just before a message arrives |
//! | `lists` | what became of each partition's lists |
//! | `faults` | what goes wrong, one method for each kind of fault |
//! | [`workload`], [`checks`] | calls and their history; what the history must keep to |
//! | [`chaos`] | random schedules of all of it, each from one seed |
//! | [`detection`] | membership alone, with up to thousands of nodes |
//!
//! Chance, time and order come from the seed alone. So a history that failed fails again.
//!
//! ```
//! use std::time::Duration;
//! use gridkv::sim::{CallResult, SimCluster};
//!
//! let mut cluster = SimCluster::new(7);
//! for _ in 0..3 {
//!     cluster.start_node();
//! }
//! assert!(cluster.run_until(Duration::from_secs(5), |cluster| cluster.is_settled()));
//! let call = cluster.set(0, "key", "value");
//! assert!(cluster.run_until(Duration::from_secs(2), |cluster| cluster.outcome(call).is_some()));
//! assert_eq!(cluster.outcome(call), Some(&CallResult::Written(Ok(()))));
//! ```

mod arrival;
mod calls;
pub mod chaos;
pub mod checks;
pub mod detection;
mod driver;
mod event;
mod faults;
mod history;
mod keys;
mod lineage;
mod lists;
mod network;
mod node;
mod observe;
mod options;
mod results;
mod runs;
mod sealing;
pub mod workload;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

pub use self::arrival::RequestKind;
pub use self::calls::{Ask, What};
use self::event::{Connection, ConnectionKey, SimEvent};
pub use self::faults::Fault;
use self::keys::KeyNumbers;
use self::lineage::Lineage;
use self::node::Node;
pub use self::options::SimOptions;
pub use self::results::{CallId, CallResult, Death, Stored, Traffic};
use self::sealing::Recorded;
use crate::clock::{Instant, Now};
use crate::config::DEFAULT_REQUEST_TIMEOUT;
use crate::events::Event;
#[doc(hidden)]
pub use crate::membership::envelope::EnvelopeCounters;
#[doc(hidden)]
pub use crate::mutants::ProtocolMutant;
use crate::mutants::set_for_this_thread;
use crate::types::{CoreId, Partition};
use crate::wire::frame::FrameBuffer;

/// A cluster of simulated nodes, numbered in the order of their first start.
pub struct SimCluster {
    options: SimOptions,
    now: Instant,
    rng: SmallRng,
    nodes: Vec<Node>,
    /// What is due, by time, then in the order of scheduling; each with its index in `events`.
    queue: BinaryHeap<Reverse<(Instant, u64, usize)>>,
    events: Vec<Option<SimEvent>>,
    free_places: Vec<usize>,
    next_event: u64,
    connections: BTreeMap<ConnectionKey, Connection>,
    /// The key of each connection, by id.
    keys: BTreeMap<u64, ConnectionKey>,
    next_connection: u64,
    /// The receive buffer through which every frame passes.
    received: FrameBuffer,
    /// How calls ended, each with the time.
    outcomes: BTreeMap<CallId, (Instant, CallResult)>,
    next_call: u64,
    /// The calls that were made together, by the id under which they are answered.
    groups: BTreeMap<CallId, Vec<CallId>>,
    trace: String,
    trace_hash: u64,
    events_handled: u64,
    at_this_instant: u32,
    /// Pairs of nodes: the cores of the first do not reach those of the second.
    cut: BTreeSet<(usize, usize)>,
    /// Pairs of nodes: nothing that the first sends reaches the second.
    blocked: BTreeSet<(usize, usize)>,
    /// Pairs of nodes: no datagram of the first reaches the second.
    no_datagrams: BTreeSet<(usize, usize)>,
    /// Pairs of nodes: nothing that the first sends over a connection reaches the second.
    no_connections: BTreeSet<(usize, usize)>,
    /// Nodes whose address none reaches, and whether it refuses connections.
    hidden: BTreeMap<usize, bool>,
    /// Pairs of nodes: what the first sends over a connection to the second gets lost on the way,
    /// and neither end notices.
    swallowed: BTreeSet<(usize, usize)>,
    /// Pairs of nodes with a delay of their own, which replaces that of the options.
    slow: BTreeMap<(usize, usize), (Duration, Duration)>,
    faults: Vec<Fault>,
    deaths: Vec<Death>,
    /// When a node crashed last.
    crashed_at: Option<Instant>,
    lineages: BTreeMap<Partition, Lineage>,
    traffic: BTreeMap<usize, Traffic>,
    /// The datagrams that have arrived, if they are recorded.
    recorded: Option<Vec<Recorded>>,
}

/// The times that the product keeps to, for tests that wait for them.
#[doc(hidden)]
pub mod timing {
    use std::time::Duration;

    use crate::wire::timing as product;

    pub const COMPARE_CYCLE: Duration = product::COMPARE_CYCLE;
    pub const HINT_WINDOW: Duration = product::HINT_WINDOW;
    pub const OPEN_TIMEOUT: Duration = product::OPEN_TIMEOUT;
    pub const PURGE_GRACE: Duration = product::PURGE_GRACE;
    pub const USER_TIMEOUT: Duration = product::USER_TIMEOUT;
}

/// When simulated time begins.
const START: Instant = Instant::from_nanos(1_000_000_000);

/// When the simulated world begins, in wall time.
const EPOCH_MICROS: u64 = 1_700_000_000_000_000;

/// How many events one instant can have. More are a loop: a deadline that its handling does not
/// move.
const MAX_AT_ONCE: u32 = 100_000;

/// How long a simulated call may take: as long as one of an app does by default.
pub const CALL_TIMEOUT: Duration = DEFAULT_REQUEST_TIMEOUT;

impl SimCluster {
    /// Makes an empty cluster with the default options.
    pub fn new(seed: u64) -> Self {
        Self::with_options(seed, SimOptions::default())
    }

    /// Makes an empty cluster.
    pub fn with_options(seed: u64, options: SimOptions) -> Self {
        Self {
            options,
            now: START,
            rng: SmallRng::seed_from_u64(seed),
            nodes: Vec::new(),
            queue: BinaryHeap::new(),
            events: Vec::new(),
            free_places: Vec::new(),
            next_event: 0,
            connections: BTreeMap::new(),
            keys: BTreeMap::new(),
            next_connection: 1,
            received: FrameBuffer::new(),
            outcomes: BTreeMap::new(),
            next_call: 0,
            groups: BTreeMap::new(),
            trace: String::new(),
            trace_hash: 0,
            events_handled: 0,
            at_this_instant: 0,
            cut: BTreeSet::new(),
            blocked: BTreeSet::new(),
            no_datagrams: BTreeSet::new(),
            no_connections: BTreeSet::new(),
            hidden: BTreeMap::new(),
            swallowed: BTreeSet::new(),
            slow: BTreeMap::new(),
            faults: Vec::new(),
            deaths: Vec::new(),
            crashed_at: None,
            lineages: BTreeMap::new(),
            traffic: BTreeMap::new(),
            recorded: None,
        }
    }

    /// Starts a new node and returns its number. Its seeds are the nodes that were started before.
    pub fn start_node(&mut self) -> usize {
        self.start_node_with_memory(self.options.memory_per_core)
    }

    /// Starts a new node and returns its number. Each of its cores stays within `bytes_per_core`,
    /// as [`SimOptions::eviction`] says; `None` sets no limit.
    pub fn start_node_with_memory(&mut self, bytes_per_core: Option<usize>) -> usize {
        let number = self.nodes.len();
        let skew = self.options.clock_skew.as_micros() as i64;
        let offset = if skew > 0 { self.rng.random_range(-skew..=skew) } else { 0 };
        let epoch = EPOCH_MICROS.saturating_add_signed(offset);
        self.add_node(Node::new(number, number, epoch, bytes_per_core));
        number
    }

    fn add_node(&mut self, mut node: Node) {
        node.keys = self.options.is_sealed.then_some(KeyNumbers::FIRST);
        self.nodes.push(node);
        self.restart_node(self.nodes.len() - 1);
    }

    /// Starts a new node under the id of another one and returns its number. It has an address of
    /// its own, and a clock that is ahead of the others by `clock_ahead` microseconds.
    pub fn start_twin(&mut self, of: usize, clock_ahead: i64) -> usize {
        let number = self.nodes.len();
        let epoch = EPOCH_MICROS.saturating_add_signed(clock_ahead);
        self.add_node(Node::new(number, of, epoch, None));
        number
    }

    /// Whether `observer` sees `node` active, and no other node of that id.
    pub fn sees_only(&self, observer: usize, node: usize) -> bool {
        self.nodes[observer].sees_at(self.nodes[node].named_as()) == [node::address(node)]
    }

    /// Returns what might be wrong with a running node, as its app would read in
    /// [`NotReady`](crate::NotReady).
    pub fn hint(&self, node: usize) -> Option<&str> {
        self.nodes[node].hint()
    }

    /// Starts a node that was crashed or has left, at its old address, with empty memory.
    ///
    /// # Panics
    ///
    /// If the node runs.
    pub fn restart_node(&mut self, node: usize) {
        assert!(!self.nodes[node].is_running(), "node {node} is running");
        set_for_this_thread(self.options.mutant, self.options.partitions);
        let seed = self.rng.random();
        self.fault("start", || format!("n{node} starts"));
        let now = self.now_of(node);
        let nodes = self.nodes.len();
        self.nodes[node].start(&self.options, nodes, now, seed);
        self.act(node);
    }

    /// Asks a node to hand over its data and leave; [`is_running`](Self::is_running) says when it
    /// has.
    pub fn leave(&mut self, node: usize) {
        set_for_this_thread(self.options.mutant, self.options.partitions);
        self.fault("leave", || format!("n{node} is asked to leave"));
        let now = self.now_of(node).instant;
        self.nodes[node].leave(now);
        self.act(node);
    }

    /// Waits on `node`, as an app would, until no copy is missing in the cluster. Returns whether
    /// that was so within `limit`.
    pub fn wait_until_safe(&mut self, node: usize, limit: Duration) -> bool {
        self.note(|| format!("wait until safe n{node}"));
        let ticket = self.watch_safety(node, limit);
        self.run_until(limit, |cluster| cluster.is_safe(node, ticket))
    }

    /// Asks a node, as [`wait_until_safe`](Self::wait_until_safe) does, without waiting for it.
    /// Returns the ticket for [`is_safe`](Self::is_safe).
    pub fn watch_safety(&mut self, node: usize, limit: Duration) -> u64 {
        let now = self.now_of(node).instant;
        let ticket = self.nodes[node].watch_safety(now, now + limit);
        self.act(node);
        ticket
    }

    /// Whether the node said, since this ticket was given out, that no copy was missing.
    pub fn is_safe(&self, node: usize, ticket: u64) -> bool {
        self.nodes[node].is_safe(ticket)
    }

    /// Returns what a running node's app was told since the node's start.
    pub fn events(&self, node: usize) -> &[Event] {
        self.nodes[node].events()
    }

    /// Returns the redundancy debt of the running nodes, as
    /// [`Stats::redundancy_debt`](crate::Stats::redundancy_debt) counts it.
    pub fn redundancy_debt(&self) -> usize {
        let debts = self.nodes.iter().map(|node| node.debt(self.now));
        debts.map(|debt| debt.copies + debt.behind + debt.writes).sum()
    }

    /// Whether the node was started and has neither crashed nor left.
    pub fn is_running(&self, node: usize) -> bool {
        self.nodes[node].is_running()
    }

    /// Returns what the cores of a node have sent to other nodes so far.
    pub fn traffic(&self, node: usize) -> Traffic {
        self.traffic.get(&node).copied().unwrap_or_default()
    }

    /// Returns every death that a node reported so far, in that order.
    pub fn deaths(&self) -> &[Death] {
        &self.deaths
    }

    /// Returns how many partitions the running nodes have found to differ and seen repaired.
    pub fn partitions_repaired(&self) -> u64 {
        self.nodes.iter().map(Node::partitions_repaired).sum()
    }

    /// Returns how the call ended; `None` while it is under way, and for ever if its node crashed.
    pub fn outcome(&self, call: CallId) -> Option<&CallResult> {
        self.outcomes.get(&call).map(|(_, outcome)| outcome)
    }

    /// Removes how the call ended, and returns it with the time; see [`outcome`](Self::outcome).
    pub fn take_outcome(&mut self, call: CallId) -> Option<(Duration, CallResult)> {
        let (at, outcome) = self.outcomes.remove(&call)?;
        Some((at.since(START), outcome))
    }

    /// Lets `time` pass.
    pub fn run_for(&mut self, time: Duration) {
        let until = self.now + time;
        while self.step(until) {}
        self.now = until;
    }

    /// Lets time pass until `done`, but no longer than `limit`. Returns whether it was done.
    pub fn run_until(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let until = self.now + limit;
        let mut steps = 0u32;
        loop {
            // A single event hardly ever changes what is waited for, and asking costs.
            if steps.is_multiple_of(16) && done(self) {
                return true;
            }
            steps += 1;
            if !self.step(until) {
                self.now = until;
                return done(self);
            }
        }
    }

    /// Lets time pass until `done`, but no longer than `limit`, and asks after every event.
    pub(super) fn run_until_just(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) {
        let until = self.now + limit;
        while !done(self) {
            if !self.step(until) {
                self.now = until;
                break;
            }
        }
    }

    /// Handles the next event that is due before `until`. Returns whether there was one.
    fn step(&mut self, until: Instant) -> bool {
        set_for_this_thread(self.options.mutant, self.options.partitions);
        match self.queue.peek() {
            Some(Reverse((at, _, _))) if *at <= until => {}
            _ => return false,
        }
        let Some(Reverse((at, _, place))) = self.queue.pop() else { return false };
        let Some(event) = self.events[place].take() else { return false };
        self.free_places.push(place);
        self.at_this_instant = if at > self.now { 0 } else { self.at_this_instant + 1 };
        assert!(self.at_this_instant < MAX_AT_ONCE, "time stands still: {}", self.describe());
        self.now = self.now.max(at);
        self.events_handled += 1;
        self.note(|| format!("{event:?}"));
        let (kind, number, bytes) = event.fingerprint();
        self.add_to_hash(kind, number, bytes);
        self.handle(event);
        true
    }

    fn schedule(&mut self, after: Duration, event: SimEvent) {
        let place = self.free_places.pop().unwrap_or(self.events.len());
        if place == self.events.len() {
            self.events.push(None);
        }
        self.events[place] = Some(event);
        self.queue.push(Reverse((self.now + after, self.next_event, place)));
        self.next_event += 1;
    }

    fn now_of(&self, node: usize) -> Now {
        self.nodes[node].clocks(self.now)
    }

    /// Returns a core's number as an index.
    fn index(core: CoreId) -> usize {
        usize::from(core.0)
    }

    /// Returns everything that happened, a line each, if [`SimOptions::keep_trace`] asks for it.
    pub fn trace(&self) -> &str {
        &self.trace
    }

    /// Returns a hash of everything that happened: equal for equal histories.
    ///
    /// It is made of times, numbers and encoded messages, and of no name in the source: a change of
    /// names leaves it as it is.
    pub fn trace_hash(&self) -> u64 {
        self.trace_hash
    }

    fn add_to_hash(&mut self, kind: u64, number: u64, bytes: &[u8]) {
        let before = self.trace_hash.rotate_left(17) ^ self.now.nanos();
        let seed = before ^ (kind << 56 | number);
        self.trace_hash = xxhash_rust::xxh3::xxh3_64_with_seed(bytes, seed);
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if self.options.keep_trace {
            self.trace.push_str(&format!("{:>12} {}\n", self.now.nanos() / 1000, line()));
        }
    }
}

impl std::fmt::Debug for SimCluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimCluster")
            .field("now", &self.now)
            .field("nodes", &self.nodes.len())
            .finish()
    }
}
