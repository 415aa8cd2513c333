//! One simulated node: a `Control`, its shards, and a clock of its own.
//!
//! A node outlives its crashes: it keeps its number, its address and its clock, and counts its
//! lives. What it had in memory is in [`Running`], and gone with that.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::CallId;
use super::keys::KeyNumbers;
use super::options::{CLUSTER, SimOptions, cluster};
use crate::clock::{Instant, Now, WallTime};
use crate::config::{DEFAULT_PROBE_PERIOD, DEFAULT_SUSPICION_TIMEOUT};
use crate::control::{Control, ControlAction, ControlConfig, ControlEvent};
use crate::entry::Entry;
use crate::events::{Event as AppEvent, MemberInfo, MemberState};
use crate::mutants::{ProtocolMutant, rule};
use crate::placement::{DEFAULT_WEIGHT, List, Site};
use crate::quorums::{Count, Quorums};
use crate::security::NodeSecurity;
use crate::shard::{
    Action, Call, Debt, Event, LocalAnswer, LocalRules, Shard, ShardConfig, StoppedBy, read_local,
};
use crate::store::{Readers, Views};
use crate::types::{Boot, CoreId, Identity, KeyHash, NodeHash, NodeId, Partition, Retention};
use crate::wire::handshake::Local;
use crate::wire::timing::STUCK_AFTER;

fn name(number: usize) -> String {
    format!("n{number}")
}

pub(super) fn address(number: usize) -> SocketAddr {
    let [high, low] = (number as u16 + 1).to_be_bytes();
    SocketAddr::from(([10, 0, high, low], 7000))
}

/// Returns the number of the node with this address, whether there is such a node or not.
pub(super) fn number_at(addr: SocketAddr) -> Option<usize> {
    match addr.ip() {
        IpAddr::V4(ip) => {
            let [_, _, high, low] = ip.octets();
            (usize::from(high) << 8 | usize::from(low)).checked_sub(1)
        }
        IpAddr::V6(_) => None,
    }
}

pub(super) struct Node {
    number: usize,
    /// The number in its name: its own, unless it is another node's twin.
    named_as: usize,
    /// What its wall clock showed when simulated time was zero, in microseconds since 1970.
    pub(super) epoch_micros: u64,
    /// How often it was started: what was meant for an earlier life does not reach a later one.
    pub(super) life: u32,
    /// The memory of each core, in bytes, if it is limited.
    memory: Option<usize>,
    running: Option<Running>,
    /// When it is woken next; an earlier deadline supersedes this one.
    pub(super) wake_at: Option<Instant>,
    pub(super) paused_until: Option<Instant>,
    /// Until when all of its cores stand still, or its control thread, while the rest works.
    stalled: BTreeMap<Part, Stall>,
    /// For how long its monotonic clock has stood still when the last suspension is over, and when
    /// that is.
    suspended_for: Duration,
    suspended_until: Instant,
    /// The cluster keys that it was given, also when it starts again.
    pub(super) keys: Option<KeyNumbers>,
}

/// Parts of a node that may stand still while the others work.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Part {
    Cores,
    /// It stands still, too, once it has noticed that the cores do.
    Control,
}

/// For how long a part stands still. Of two, the one that ends later is the greater.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Stall {
    pub(super) until: Instant,
    pub(super) from: Instant,
}

pub(super) struct Running {
    pub(super) control: Control,
    /// What it goes by, if it has a cluster key.
    pub(super) security: Option<Arc<NodeSecurity>>,
    /// The deadline of `control` after its last event.
    control_deadline: Option<Instant>,
    pub(super) shards: Vec<Shard<CallId>>,
    views: Views,
    pub(super) identity: Identity,
    pub(super) local: Local,
    pub(super) control_actions: Vec<ControlAction>,
    /// Actions, each with the core that returned it.
    pub(super) shard_actions: VecDeque<(CoreId, Action<CallId>)>,
    members: Vec<MemberInfo>,
    /// What its app would be told, since its start.
    events: Vec<AppEvent>,
    /// What might be wrong with it, as its app would be told.
    hint: Option<String>,
    /// How many partitions each core has to fetch and to give, once it has reported.
    progress: Vec<Option<(usize, usize)>>,
    pub(super) next_request: u64,
    /// The latest ticket for which no copy was missing, and the latest that was given out.
    pub(super) safe: u64,
    pub(super) ticket: u64,
    /// Whether it refuses new calls because it leaves.
    pub(super) is_draining: bool,
}

/// Returns the data center of a node.
fn data_center(options: &SimOptions, number: usize) -> String {
    if options.data_centers > 1 {
        format!("dc-{}", number % options.data_centers)
    } else {
        String::new()
    }
}

/// Returns the zone of a node.
fn zone(options: &SimOptions, number: usize) -> String {
    if options.zones > 1 {
        format!("zone-{}", number / options.data_centers % options.zones)
    } else {
        String::new()
    }
}

/// Returns the weight of a node: its share of the data, relative to the others'.
fn weight(options: &SimOptions, number: usize) -> u16 {
    if options.are_weights_different {
        [DEFAULT_WEIGHT, DEFAULT_WEIGHT / 2, 3 * DEFAULT_WEIGHT][number % 3]
    } else {
        DEFAULT_WEIGHT
    }
}

impl Node {
    pub(super) fn new(
        number: usize,
        named_as: usize,
        epoch_micros: u64,
        memory: Option<usize>,
    ) -> Self {
        Self {
            number,
            named_as,
            epoch_micros,
            life: 0,
            memory,
            running: None,
            wake_at: None,
            paused_until: None,
            stalled: BTreeMap::new(),
            suspended_for: Duration::ZERO,
            suspended_until: Instant::default(),
            keys: None,
        }
    }

    pub(super) fn id(&self) -> NodeId {
        NodeId::new(&name(self.named_as))
    }

    pub(super) fn named_as(&self) -> usize {
        self.named_as
    }

    /// Returns what its clocks show when the simulated time is `now`. The wall clock goes on while
    /// the host is suspended, the monotonic clock does not.
    pub(super) fn clocks(&self, now: Instant) -> Now {
        let wall = WallTime::from_micros(self.epoch_micros + now.nanos() / 1000);
        let still_to_come = self.suspended_until.nanos().saturating_sub(now.nanos());
        let suspended = self.suspended_for.as_nanos() as u64 - still_to_come;
        Now { instant: Instant::from_nanos(now.nanos() - suspended), wall }
    }

    /// Stops the node and its monotonic clock for `time`.
    pub(super) fn suspend(&mut self, now: Instant, time: Duration) {
        (self.paused_until, self.suspended_until) = (Some(now + time), now + time);
        self.suspended_for += time;
    }

    pub(super) fn stall(&mut self, part: Part, stall: Stall) {
        self.stalled.insert(part, stall);
    }

    /// Until when this part of the node stands still, if it does.
    pub(super) fn still_until(&self, part: Part, now: Instant) -> Option<Instant> {
        let stalled = |part| self.stalled.get(&part).copied();
        let until = match part {
            Part::Cores => stalled(part).map(|stall| stall.until),
            Part::Control => {
                let is_noticed = |cores: &Stall| cores.from + STUCK_AFTER <= now;
                let cores = stalled(Part::Cores).filter(is_noticed);
                cores.max(stalled(Part::Control)).map(|stall| stall.until)
            }
        };
        until.max(self.paused_until).filter(|until| *until > now)
    }

    pub(super) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    pub(super) fn running(&mut self) -> Option<&mut Running> {
        self.running.as_mut()
    }

    pub(super) fn start(&mut self, options: &SimOptions, nodes: usize, now: Now, seed: u64) {
        self.life += 1;
        self.wake_at = None;
        self.paused_until = None;
        self.stalled.clear();
        let identity = Identity {
            node: NodeHash::of(cluster(), &name(self.named_as)),
            boot: Boot(now.wall.millis()),
            returns: 0,
            addr: address(self.number),
        };
        let local = Local {
            cluster: CLUSTER.into(),
            node_id: name(self.named_as),
            cores: options.cores,
            quorums: options.quorums(),
            on_partition: options.on_partition,
            site: Site {
                data_center: data_center(options, self.number).into(),
                zone: zone(options, self.number).into(),
                weight: weight(options, self.number),
            },
        };
        let mut control = Control::new(ControlConfig {
            cluster: cluster(),
            identity,
            local: local.clone(),
            expect: options.expect,
            seeds: (0..nodes.min(options.seeds)).map(address).collect(),
            discovers: false,
            probe_period: DEFAULT_PROBE_PERIOD,
            suspicion_timeout: DEFAULT_SUSPICION_TIMEOUT,
            local_health: true,
            retention: Retention {
                member: options.tombstone_retention,
                data_center: options.data_center_retention,
            },
            seed,
        });
        let sealing = self.keys.as_ref().map(|keys| keys.sealing(seed));
        let security = sealing.as_ref().map(|sealing| sealing.security.clone());
        sealing.into_iter().for_each(|sealing| control.seal(sealing));
        let mut control_actions = Vec::new();
        control.start(now.instant, &mut control_actions);
        let readers = Arc::new(Readers::new(None));
        let shard = |core| {
            let config = ShardConfig {
                cluster: cluster(),
                core: CoreId(core),
                cores: options.cores,
                me: identity,
                quorums: options.quorums(),
                on_partition: options.on_partition,
                every_live: options.every_live,
                every_live_patience: options.every_live_patience,
                standalone: false,
                memory: self.memory,
                eviction: options.eviction,
                purge_grace: options.purge_grace,
            };
            Shard::new(config, readers.clone())
        };
        let shards: Vec<Shard<CallId>> = (0..options.cores).map(shard).collect();
        self.running = Some(Running {
            control_deadline: control.deadline(),
            control,
            security,
            views: Views::new(shards.iter().map(|shard| shard.view().clone()), readers),
            shards,
            identity,
            local,
            control_actions,
            shard_actions: VecDeque::new(),
            members: Vec::new(),
            events: Vec::new(),
            hint: None,
            progress: vec![None; usize::from(options.cores)],
            next_request: 1,
            safe: 0,
            ticket: 0,
            is_draining: false,
        });
    }

    pub(super) fn crash(&mut self) {
        self.running = None;
        self.paused_until = None;
        self.stalled.clear();
    }

    pub(super) fn leave(&mut self, now: Instant) {
        self.control(now, ControlEvent::Leave);
    }

    /// Asks when it is safe to stop a node, and returns the ticket of the question.
    pub(super) fn watch_safety(&mut self, now: Instant, until: Instant) -> u64 {
        let Some(running) = &mut self.running else { return u64::MAX };
        running.ticket += 1;
        let ticket = running.ticket;
        self.control(now, ControlEvent::WatchSafety { ticket, until });
        ticket
    }

    pub(super) fn is_safe(&self, ticket: u64) -> bool {
        self.running.as_ref().is_some_and(|running| running.safe >= ticket)
    }

    pub(super) fn control(&mut self, now: Instant, event: ControlEvent) {
        if let Some(running) = &mut self.running {
            running.control.handle(now, event, &mut running.control_actions);
            running.control_deadline = running.control.deadline();
        }
    }

    /// Gives it other cluster keys, with which it also starts again. One that runs without keys
    /// goes on without.
    pub(super) fn give_keys(&mut self, now: Instant, keys: KeyNumbers) {
        if let Some(running) = &mut self.running
            && let Some(security) = &mut running.security
        {
            *security = keys.of_running(security);
            let actions = &mut running.control_actions;
            running.control.use_security(now, security.clone(), actions);
            running.control_deadline = running.control.deadline();
        }
        self.keys = Some(keys);
    }

    pub(super) fn datagram(&mut self, now: Now, from: SocketAddr, bytes: &mut [u8]) {
        if let Some(running) = &mut self.running {
            let _ = running.control.handle_datagram(now, from, bytes, &mut running.control_actions);
            running.control_deadline = running.control.deadline();
        }
    }

    pub(super) fn shard(&mut self, now: Now, core: CoreId, event: Event<CallId>) {
        if let Some(running) = &mut self.running {
            let mut actions = Vec::new();
            running.shards[usize::from(core.0)].handle(now, event, &mut actions);
            running.shard_actions.extend(actions.into_iter().map(|action| (core, action)));
        }
    }

    pub(super) fn call(&mut self, now: Now, core: CoreId, call: Call, id: CallId) {
        let Some(running) = &mut self.running else { return };
        if running.is_draining {
            let outcome = call.stopped(StoppedBy::Request);
            return running.shard_actions.push_back((core, Action::Reply { caller: id, outcome }));
        }
        self.shard(now, core, Event::Call { call, caller: id });
    }

    /// Fires every timer that is due, of the parts that do not stand still.
    pub(super) fn wake(&mut self, at: Instant) {
        let now = self.clocks(at);
        let is_still = |part| self.still_until(part, at).is_some();
        let (control_is_still, cores_are_still) = (is_still(Part::Control), is_still(Part::Cores));
        let Some(running) = &mut self.running else { return };
        if !control_is_still && running.control_deadline.is_some_and(|at| at <= now.instant) {
            running.control.handle_timers(now.instant, &mut running.control_actions);
            running.control_deadline = running.control.deadline();
        }
        if cores_are_still {
            return;
        }
        for (core, shard) in (0..).map(CoreId).zip(&mut running.shards) {
            if shard.deadline().is_some_and(|at| at <= now.instant) {
                let mut actions = Vec::new();
                shard.handle_timers(now, &mut actions);
                running.shard_actions.extend(actions.into_iter().map(|action| (core, action)));
            }
        }
    }

    /// Returns the simulated time at which a timer is due, of a part that can act on it.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        let running = self.running.as_ref()?;
        let due = |part, at: Instant| {
            let at = at + self.suspended_for;
            self.still_until(part, now).map_or(at, |until| until.max(at))
        };
        let control = running.control_deadline.map(|at| due(Part::Control, at));
        let cores = running.shards.iter().filter_map(Shard::deadline).min();
        control.into_iter().chain(cores.map(|at| due(Part::Cores, at))).min()
    }

    /// Reads as an app's thread does; `None` if it must ask the core that owns the key.
    pub(super) fn read_local(
        &self,
        now: Now,
        quorums: Quorums,
        quorum: Count,
        hash: KeyHash,
        key: &[u8],
    ) -> Option<Option<Vec<u8>>> {
        let pinned = self.running.as_ref()?.views.pin()?;
        let rules = LocalRules {
            one_answers: quorum == Count::Exactly(1),
            one_denies: !rule(ProtocolMutant::MissNotConfirmed, quorums.tolerated() > 0),
        };
        match read_local(&pinned, rules, hash, key, || now.wall) {
            LocalAnswer::Value(entry) => Some(entry.value().map(<[u8]>::to_vec)),
            LocalAnswer::Nothing => Some(None),
            LocalAnswer::AskOwner => None,
        }
    }

    pub(super) fn peek(
        &self,
        now: Now,
        core: CoreId,
        hash: KeyHash,
        key: &[u8],
    ) -> Option<Vec<u8>> {
        self.core(core)?.peek(now, hash, key)
    }

    fn core(&self, core: CoreId) -> Option<&Shard<CallId>> {
        self.running.as_ref().map(|running| &running.shards[usize::from(core.0)])
    }

    pub(super) fn stored(&self, core: CoreId, hash: KeyHash, key: &[u8]) -> Option<(Entry, bool)> {
        self.core(core)?.stored(hash, key)
    }

    pub(super) fn serves(&self, core: CoreId, partition: Partition) -> Option<u64> {
        self.core(core)?.serves(partition)
    }

    /// Returns the list that it knows of the partition.
    pub(super) fn list(&self, core: CoreId, partition: Partition) -> Option<&Arc<List>> {
        self.core(core)?.list(partition)
    }

    /// Whether it runs, in the life that a list names.
    pub(super) fn is_in_life(&self, identity: &Identity) -> bool {
        self.running.as_ref().is_some_and(|running| running.identity.life() == identity.life())
    }

    /// Returns the numbers of calls without an answer and of writes that are owed, of all cores.
    pub(super) fn open(&self) -> (usize, usize) {
        let shards = self.running.iter().flat_map(|running| &running.shards);
        let counts = shards.map(Shard::counts);
        counts.fold((0, 0), |(calls, owed), counts| {
            (calls + counts.calls_in_flight, owed + counts.hinted_writes)
        })
    }

    pub(super) fn partitions_repaired(&self) -> u64 {
        let shards = self.running.iter().flat_map(|running| &running.shards);
        shards.map(|shard| shard.counts().partitions_repaired).sum()
    }

    pub(super) fn waiting_to_relay(&self) -> usize {
        let shards = self.running.iter().flat_map(|running| &running.shards);
        shards.map(|shard| shard.counts().writes_to_relay).sum()
    }

    pub(super) fn sees_alive(&self) -> usize {
        let members = self.running.iter().flat_map(|running| &running.members);
        members.filter(|m| matches!(m.state, MemberState::Alive | MemberState::Suspect)).count()
    }

    pub(super) fn sees(&self, number: usize) -> Option<MemberState> {
        let id = NodeId::new(&name(number));
        self.running
            .as_ref()?
            .members
            .iter()
            .find(|member| member.id == id)
            .map(|member| member.state)
    }

    /// Returns the addresses of the active members that it sees with the name of node `number`.
    pub(super) fn sees_at(&self, number: usize) -> Vec<SocketAddr> {
        let id = NodeId::new(&name(number));
        let is_active =
            |m: &&MemberInfo| matches!(m.state, MemberState::Alive | MemberState::Suspect);
        let members = self.running.iter().flat_map(|running| &running.members).filter(is_active);
        members.filter(|member| member.id == id).map(|member| member.address).collect()
    }

    /// Returns what its app was told since its start.
    pub(super) fn events(&self) -> &[AppEvent] {
        self.running.as_ref().map_or(&[], |running| &running.events)
    }

    /// Returns what its cores have still to do before no copy is missing.
    pub(super) fn debt(&self, now: Instant) -> Debt {
        let mut total = Debt::default();
        let shards = self.running.iter().flat_map(|running| &running.shards);
        shards.for_each(|shard| total.add(&shard.owes(now)));
        total
    }

    pub(super) fn hint(&self) -> Option<&str> {
        self.running.as_ref()?.hint.as_deref()
    }

    pub(super) fn describe(&self) -> String {
        let Some(running) = &self.running else { return format!("n{} is down", self.number) };
        let members = running.members.iter().map(|member| {
            let leaving = if member.leaving { ", leaving" } else { "" };
            format!("{} {:?}{leaving}", member.id, member.state)
        });
        format!(
            "n{} {:?}: sees {:?}, (pending, giving) {:?}, {:?}",
            self.number,
            running.control.stage(),
            members.collect::<Vec<_>>(),
            running.progress,
            running.shards.iter().map(Shard::shortage).collect::<Vec<_>>()
        )
    }

    pub(super) fn is_settled(&self) -> bool {
        self.running.as_ref().is_some_and(|running| {
            running.control.is_serving()
                && running.progress.iter().all(|progress| *progress == Some((0, 0)))
        })
    }
}

impl Running {
    pub(super) fn set_members(&mut self, members: Vec<MemberInfo>) {
        self.members = members;
    }

    pub(super) fn add_event(&mut self, event: AppEvent) {
        self.events.push(event);
    }

    pub(super) fn set_hint(&mut self, hint: Option<String>) {
        self.hint = hint;
    }

    pub(super) fn set_progress(&mut self, core: CoreId, pending: usize, giving: usize) {
        self.progress[usize::from(core.0)] = Some((pending, giving));
    }
}
