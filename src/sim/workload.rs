//! Random calls through random nodes, and the [`History`] of how they ended.
//!
//! A few clients make one call at a time each, over a few keys, some much more often than others.
//! Every value is written once, so that a read tells which write it saw.

use std::fmt;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

pub use super::history::{Answer, History, Kind, Operation, SHORTENED, TIME_TO_LIVE, UNKNOWN};
use super::{Ask, CallId, CallResult, SimCluster, SimOptions};
use crate::error::WriteError;
use crate::options::Quorum;
use crate::quorums::{Count, Quorums};

/// What a [`Workload`] is like.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WorkloadOptions {
    /// How many keys there are. One of four is never deleted, and one of four can be set to expire.
    pub keys: usize,
    /// How many calls are under way at a time, at most.
    pub clients: usize,
    /// How long until the next call is begun, on average.
    pub pace: Duration,
    /// How many of a hundred calls write or delete.
    pub writes_percent: u32,
    /// How many of a hundred calls delete.
    pub deletes_percent: u32,
    /// How many of a hundred writes of keys that can expire set them to.
    pub expiring_percent: u32,
    /// How many of a hundred of these expire long after the history.
    pub lasting_percent: u32,
    /// How many of a hundred reads are followed by one of the same key through another node.
    pub again_percent: u32,
    /// How many of a hundred writes have a second one of the same key at the same time, through
    /// another node.
    pub collisions_percent: u32,
    /// How many of a hundred calls of keys that can expire let them.
    pub shortened_percent: u32,
    /// How many of a hundred calls name a quorum.
    pub quorums_percent: u32,
    /// How many of a hundred times a few calls are made together.
    pub together_percent: u32,
    /// How many of a hundred times a closure on a core makes a few writes.
    pub runs_percent: u32,
    /// How long each value is at least, in bytes.
    pub value_bytes: usize,
    /// How many of a hundred calls take the first key instead of a random one.
    pub hot_percent: u32,
}

impl Default for WorkloadOptions {
    /// Returns some hundred calls a second on a dozen keys.
    fn default() -> Self {
        Self {
            keys: 12,
            clients: 5,
            pace: Duration::from_millis(8),
            writes_percent: 45,
            deletes_percent: 8,
            expiring_percent: 0,
            lasting_percent: 0,
            again_percent: 20,
            collisions_percent: 5,
            shortened_percent: 0,
            quorums_percent: 0,
            together_percent: 0,
            runs_percent: 0,
            value_bytes: 1,
            hot_percent: 20,
        }
    }
}

/// How many calls are made together at most.
const MOST_TOGETHER: usize = 6;

/// Makes calls, and keeps how they end.
pub struct Workload {
    options: WorkloadOptions,
    /// The name of each key in the cluster.
    names: Vec<String>,
    /// W and N, if they are numbers.
    counts: Option<(usize, usize)>,
    rng: SmallRng,
    history: History,
    next_value: u64,
    clients: Vec<Client>,
    /// A key that is read more often than all others, and until when.
    watched: Option<(usize, Duration)>,
    /// A node whose clock is wrong.
    misled: Option<usize>,
}

#[derive(Clone, Default)]
struct Client {
    /// The call that is under way, with the index of its operation.
    call: Option<(CallId, usize)>,
    /// A key to read again, with the node through which it was read.
    again: Option<(usize, usize)>,
}

impl Workload {
    /// Makes a workload that has made no call yet.
    pub fn new(seed: u64, options: WorkloadOptions, cluster: &SimOptions) -> Self {
        let counts = match cluster.quorums() {
            Quorums { write: Count::Exactly(w), replicas: Count::Exactly(n), .. } => Some((w, n)),
            _ => None,
        };
        Self {
            counts: counts.map(|(w, n)| (w.into(), n.into())),
            names: (0..2 * options.keys).map(|key| cluster.key(key)).collect(),
            rng: SmallRng::seed_from_u64(seed),
            history: History::default(),
            next_value: 1,
            watched: None,
            misled: None,
            clients: vec![Client::default(); options.clients],
            options,
        }
    }

    /// Returns what was asked for so far, and what came of it.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Returns the names of the keys in the cluster: those that the clients use, and behind them as
    /// many for those who look into the cluster and must leave the first as they are.
    pub fn keys(&self) -> &[String] {
        &self.names
    }

    /// Returns the options.
    pub fn options(&self) -> &WorkloadOptions {
        &self.options
    }

    /// Draws how long to wait until [`step`](Self::step) is called again.
    pub fn pause(&mut self) -> Duration {
        self.options.pace.mul_f64(self.rng.random_range(0.0..2.0))
    }

    /// Keeps the calls that have ended, and begins the next one through one of `nodes`.
    pub fn step(&mut self, cluster: &mut SimCluster, nodes: &[usize]) {
        self.collect(cluster);
        let client = self.rng.random_range(0..self.clients.len());
        if self.clients[client].call.is_some() || nodes.is_empty() {
            return;
        }
        if let Some((key, before)) = self.clients[client].again.take() {
            let others: Vec<usize> = nodes.iter().copied().filter(|node| *node != before).collect();
            let node = if others.is_empty() {
                before
            } else {
                others[self.rng.random_range(0..others.len())]
            };
            if nodes.contains(&node) {
                let quorum = self.quorum(Kind::Get);
                self.begin(cluster, client, node, key, Kind::Get, quorum);
            }
            return;
        }
        if let Some((key, until)) = self.watched
            && cluster.elapsed() < until
            && self.percent(70)
        {
            let node = nodes[self.rng.random_range(0..nodes.len())];
            let quorum = self.quorum(Kind::Get);
            return self.begin(cluster, client, node, key, Kind::Get, quorum);
        }
        if self.percent(self.options.together_percent) {
            let node = nodes[self.rng.random_range(0..nodes.len())];
            return self.begin_together(cluster, node);
        }
        if self.percent(self.options.runs_percent) {
            let node = nodes[self.rng.random_range(0..nodes.len())];
            return self.begin_run(cluster, node);
        }
        let is_hot = self.percent(self.options.hot_percent);
        let key = if is_hot { 0 } else { self.rng.random_range(0..self.options.keys) };
        let node = nodes[self.rng.random_range(0..nodes.len())];
        let kind = self.kind(node, key);
        let quorum = self.quorum(kind);
        self.begin(cluster, client, node, key, kind, quorum);
        if matches!(kind, Kind::Set(_) | Kind::SetFor(_) | Kind::SetLasting(_) | Kind::Delete)
            && self.percent(self.options.collisions_percent)
        {
            let free = self.clients.iter().position(|client| client.call.is_none());
            let others: Vec<usize> = nodes.iter().copied().filter(|other| *other != node).collect();
            if let (Some(client), Some(&node)) = (free, others.first()) {
                let kind = Kind::Set(self.value());
                self.begin(cluster, client, node, key, kind, Quorum::Configured);
            }
        }
    }

    /// Writes a key through `node`, in addition to what the clients do.
    pub fn write_through(&mut self, cluster: &mut SimCluster, node: usize, key: usize) {
        self.collect(cluster);
        let kind = Kind::Set(self.value());
        self.clients.push(Client::default());
        self.begin(cluster, self.clients.len() - 1, node, key, kind, Quorum::Configured);
    }

    /// Deletes a key through `node`, in addition to what the clients do.
    pub fn delete_through(&mut self, cluster: &mut SimCluster, node: usize, key: usize) {
        self.collect(cluster);
        self.clients.push(Client::default());
        self.begin(cluster, self.clients.len() - 1, node, key, Kind::Delete, Quorum::Configured);
    }

    /// Reads a key through `node`, in addition to what the clients do.
    pub fn read_through(
        &mut self,
        cluster: &mut SimCluster,
        node: usize,
        key: usize,
        quorum: Quorum,
    ) {
        self.collect(cluster);
        self.clients.push(Client::default());
        self.begin(cluster, self.clients.len() - 1, node, key, Kind::Get, quorum);
    }

    /// Reads `key` more often than all others, until then.
    pub fn watch(&mut self, key: usize, until: Duration) {
        self.watched = Some((key, until));
    }

    /// Notes whose clock is wrong from now on. What is written through that node to expire might
    /// have expired for the others.
    pub fn mislead(&mut self, node: Option<usize>) {
        self.misled = node;
    }

    /// Excuses the reads that found nothing through a node while its clock was wrong. `wrong` has
    /// these nodes, with from when until when.
    pub fn excuse_misses(&mut self, wrong: &[(usize, Duration, Duration)]) {
        for read in &mut self.history.operations {
            let is_during = |(node, from, until): &(usize, Duration, Duration)| {
                *node == read.node
                    && *from <= read.end.unwrap_or(read.start)
                    && read.start <= *until
            };
            if read.answer == Some(Answer::NotFound) && wrong.iter().any(is_during) {
                read.answer = Some(Answer::Failed);
            }
        }
    }

    /// Waits for the calls that are under way to end, for at most `limit`.
    pub fn drain(&mut self, cluster: &mut SimCluster, limit: Duration) {
        let until = cluster.elapsed() + limit;
        self.collect(cluster);
        while cluster.elapsed() < until && self.clients.iter().any(|client| client.call.is_some()) {
            cluster.run_for(Duration::from_millis(50));
            self.collect(cluster);
        }
        for client in &mut self.clients {
            client.call = None;
        }
    }

    /// Keeps that a node was stopped.
    pub fn note_pause(&mut self, node: usize, from: Duration, until: Duration) {
        self.history.pauses.push((node, from, until));
    }

    /// Keeps the calls that have ended. A client whose node is gone will call another one.
    pub(super) fn collect(&mut self, cluster: &mut SimCluster) {
        for client in &mut self.clients {
            let Some((call, at)) = client.call else { continue };
            let operation = &mut self.history.operations[at];
            if let Some((end, outcome)) = cluster.take_outcome(call) {
                operation.end = Some(end);
                operation.answer = Some(answer(&outcome));
                client.call = None;
                if operation.kind == Kind::Get
                    && self.rng.random_range(0..100) < self.options.again_percent
                {
                    client.again = Some((operation.key, operation.node));
                }
            } else if !cluster.is_running(operation.node)
                || cluster.life(operation.node) != operation.life
            {
                client.call = None;
            }
        }
        // Clients that were added for one call go.
        while self.clients.len() > self.options.clients
            && self.clients.last().is_some_and(|client| client.call.is_none())
        {
            self.clients.pop();
        }
    }

    fn begin(
        &mut self,
        cluster: &mut SimCluster,
        client: usize,
        node: usize,
        key: usize,
        kind: Kind,
        quorum: Quorum,
    ) {
        let value = self.text(kind);
        let at = self.note(cluster, node, key, kind, quorum);
        let ask = Ask { key: self.names[key].as_bytes(), what: kind.what(&value), quorum };
        self.clients[client].call = Some((cluster.ask(node, &ask), at));
    }

    /// Begins calls of a few keys at once, by clients of their own.
    fn begin_together(&mut self, cluster: &mut SimCluster, node: usize) {
        let mut keys: Vec<usize> = (0..self.options.keys).collect();
        keys.shuffle(&mut self.rng);
        keys.truncate(self.rng.random_range(2..=MOST_TOGETHER));
        let mut calls = Vec::new();
        for key in keys {
            let kind = self.kind(node, key);
            calls.push((key, kind, self.text(kind), self.quorum(kind)));
        }
        let mut asks = Vec::new();
        for (key, kind, value, quorum) in &calls {
            let key = self.names[*key].as_bytes();
            asks.push(Ask { key, what: kind.what(value), quorum: *quorum });
        }
        let start = self.history.operations.len();
        let ids = cluster.ask_together(node, &asks);
        for (key, kind, _, quorum) in calls {
            self.note(cluster, node, key, kind, quorum);
        }
        let client = |(id, at)| Client { call: Some((id, at)), again: None };
        self.clients.extend(ids.into_iter().zip(start..).map(client));
    }

    /// Begins a closure that writes a few keys of one core.
    fn begin_run(&mut self, cluster: &mut SimCluster, node: usize) {
        let mut keys: Vec<usize> = (0..self.options.keys).collect();
        keys.shuffle(&mut self.rng);
        let core = |key: usize| cluster.place(self.names[key].as_bytes()).2;
        let first = core(keys[0]);
        keys.retain(|key| core(*key) == first);
        keys.truncate(self.rng.random_range(1..=MOST_TOGETHER));
        let mut calls = Vec::new();
        for key in keys {
            let kind = match self.kind(node, key) {
                kind @ (Kind::Set(_) | Kind::SetFor(_) | Kind::SetLasting(_) | Kind::Delete) => {
                    kind
                }
                _ => Kind::Set(self.value()),
            };
            calls.push((key, kind, self.text(kind)));
        }
        let mut asks = Vec::new();
        for (key, kind, value) in &calls {
            let (key, quorum) = (self.names[*key].as_bytes(), Quorum::Configured);
            asks.push(Ask { key, what: kind.what(value), quorum });
        }
        let start = self.history.operations.len();
        let ids = cluster.run_on(node, &asks);
        for (key, kind, _) in calls {
            self.note(cluster, node, key, kind, Quorum::Configured);
        }
        let client = |(id, at)| Client { call: Some((id, at)), again: None };
        self.clients.extend(ids.into_iter().zip(start..).map(client));
    }

    /// Returns the value that a call writes; empty if it writes none.
    fn text(&self, kind: Kind) -> String {
        let digits = self.options.value_bytes;
        match kind {
            Kind::Set(value) | Kind::SetFor(value) | Kind::SetLasting(value) => {
                format!("{value:0digits$}")
            }
            Kind::Delete | Kind::Get | Kind::Persist | Kind::Shorten => String::new(),
        }
    }

    /// Keeps that a call begins, and returns the index of its operation.
    fn note(
        &mut self,
        cluster: &SimCluster,
        node: usize,
        key: usize,
        kind: Kind,
        quorum: Quorum,
    ) -> usize {
        let (start, life) = (cluster.elapsed(), cluster.life(node));
        let (end, answer) = (None, None);
        self.history.operations.push(Operation {
            node,
            life,
            key,
            kind,
            quorum,
            start,
            end,
            answer,
        });
        self.history.operations.len() - 1
    }

    /// Draws how many replicas must answer a call.
    fn quorum(&mut self, kind: Kind) -> Quorum {
        if !self.percent(self.options.quorums_percent) {
            return Quorum::Configured;
        }
        let (least, most) = self.counts.unwrap_or((1, 1));
        let least = if kind == Kind::Get { 1 } else { least };
        match self.rng.random_range(0..4) {
            0 => Quorum::Majority,
            1 => Quorum::All,
            2 => Quorum::EveryLive,
            _ => Quorum::Count(self.rng.random_range(least..=most)),
        }
    }

    /// Draws what a call of the key through this node asks for.
    fn kind(&mut self, node: usize, key: usize) -> Kind {
        let WorkloadOptions { writes_percent, deletes_percent, expiring_percent, .. } =
            self.options;
        let choice = self.rng.random_range(0..100);
        match choice {
            _ if choice < deletes_percent && key % 4 != 1 => Kind::Delete,
            _ if choice < writes_percent => {
                let expires = key % 4 == 3 && self.percent(expiring_percent);
                let value = self.value();
                let lasts = expires && self.percent(self.options.lasting_percent);
                match (expires, lasts && self.misled != Some(node)) {
                    (true, true) => Kind::SetLasting(value),
                    (true, false) => Kind::SetFor(value),
                    _ => Kind::Set(value),
                }
            }
            _ if key % 4 == 3 && self.percent(expiring_percent / 2) => Kind::Persist,
            _ if key % 4 == 3 && self.percent(self.options.shortened_percent) => Kind::Shorten,
            _ => Kind::Get,
        }
    }

    fn value(&mut self) -> u64 {
        self.next_value += 1;
        self.next_value - 1
    }

    fn percent(&mut self, percent: u32) -> bool {
        percent > 0 && self.rng.random_range(0..100) < percent
    }
}

impl fmt::Debug for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operations = self.history.operations.len();
        f.debug_struct("Workload").field("operations", &operations).finish_non_exhaustive()
    }
}

/// Returns the number of a value; [`UNKNOWN`] if the workload cannot have written it.
pub fn value_number(value: &[u8]) -> u64 {
    std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).unwrap_or(UNKNOWN)
}

fn answer(outcome: &CallResult) -> Answer {
    match outcome {
        CallResult::Written(Ok(())) => Answer::Acknowledged,
        CallResult::Written(Err(WriteError::NotApplied(_))) => Answer::NotApplied,
        CallResult::Written(Err(_)) => Answer::Indeterminate,
        CallResult::Read(Ok(Some(value))) => Answer::Found(value_number(value)),
        CallResult::Read(Ok(None)) => Answer::NotFound,
        CallResult::Read(Err(_)) => Answer::Failed,
        CallResult::Touched(_) => Answer::Touched,
    }
}
