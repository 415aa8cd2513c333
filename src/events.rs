//! What an app sees of the cluster: its members, and what happens to them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::types::NodeId;

/// A node as this one sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemberInfo {
    /// Its name.
    pub id: NodeId,
    /// Where it listens.
    pub address: SocketAddr,
    /// Whether it lives, as far as this node knows.
    pub state: MemberState,
    /// It is handing its data over and will be gone.
    pub leaving: bool,
    /// It is the node that was asked.
    pub is_self: bool,
    /// [`Config::data_center`](crate::Config::data_center), where it named one.
    pub data_center: Option<String>,
    /// [`Config::zone`](crate::Config::zone), where it named one.
    pub zone: Option<String>,
    /// How long a message takes there and back, smoothed; what is shown follows in steps of a quarter. `None` for the
    /// node itself, and until it was measured. How long probes may take, and suspected members to refute, follows it.
    pub round_trip: Option<Duration>,
}

/// Whether a member lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MemberState {
    /// It answers.
    Alive,
    /// It did not answer a probe, and has a moment to refute. It still counts as alive.
    Suspect,
    /// It is taken for dead; its copies are restored from the others.
    Dead,
    /// It has handed its data over and is gone.
    Left,
}

/// What happened in the cluster, as this node saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A node is here and takes its share of the keys.
    Joined {
        /// Its name.
        node: NodeId,
        /// Where it listens.
        address: SocketAddr,
    },
    /// A node did not answer a probe; it counts as alive for a moment more.
    Suspected {
        /// Its name.
        node: NodeId,
    },
    /// A suspected node answered.
    Refuted {
        /// Its name.
        node: NodeId,
    },
    /// A node is taken for dead; its copies are being restored from the others.
    Died {
        /// Its name.
        node: NodeId,
    },
    /// A node has handed its data over and is gone.
    Left {
        /// Its name.
        node: NodeId,
    },
    /// The others took this node for dead while it lived. It is back, and fetches what it missed.
    Returned,
    /// A node and this one refused each other, and why: the text names both sides' settings.
    Refused {
        /// Where the other node is.
        address: SocketAddr,
        /// What is different.
        reason: String,
    },
    /// Another node was asked to connect to this one, and could not: to the others this node is dead. It is asked again.
    Unreachable {
        /// The node that tried.
        by: NodeId,
        /// Where this node says that it is: [`Config::advertise`](crate::Config::advertise), or what it listens on.
        address: SocketAddr,
        /// What happened, and what to check.
        reason: String,
    },
    /// The cluster has its first partitions, empty: no node here had any data before.
    Born {
        /// How many members it had then.
        members: usize,
    },
    /// Partitions are placed anew: somebody came or went, or the cluster was born.
    PlacementChanged {
        /// On how many members of this data center, those that are leaving included.
        members: usize,
    },
    /// This node holds everything that it should, since the last [`Event::PlacementChanged`].
    Synced,
    /// This node hears from fewer nodes than [`Config::require_majority`](crate::Config::require_majority) asks for: it
    /// acknowledges no writes.
    MajorityLost {
        /// From how many, itself included.
        heard: usize,
        /// How many are a majority.
        needed: usize,
    },
    /// This node hears from a majority (again): it acknowledges writes.
    MajorityFound,
    /// So many replicas of some partitions died, before the copies of one death were restored, that acknowledged
    /// writes of theirs may be gone: W of them, or all.
    DataAtRisk {
        /// How many partitions, of 4096.
        partitions: usize,
    },
}

/// A subscription to [`Event`]s: [`Engine::events`](crate::Engine::events).
///
/// It holds up to 1024 events that were not taken. When it is full, newer ones are dropped and counted;
/// the engine never waits for a subscriber.
#[derive(Debug)]
pub struct Events {
    receiver: flume::Receiver<Event>,
    dropped: Arc<AtomicU64>,
}

/// How many events wait for a subscriber that does not take them.
const CAPACITY: usize = 1024;

/// The engine's end of a subscription.
pub(crate) struct Subscriber {
    sender: flume::Sender<Event>,
    dropped: Arc<AtomicU64>,
}

pub(crate) fn subscription() -> (Subscriber, Events) {
    let (sender, receiver) = flume::bounded(CAPACITY);
    let dropped = Arc::new(AtomicU64::new(0));
    (Subscriber { sender, dropped: dropped.clone() }, Events { receiver, dropped })
}

impl Subscriber {
    /// Whether anybody still listens.
    pub(crate) fn is_heard(&self) -> bool {
        !self.sender.is_disconnected()
    }

    /// Whether anybody still listens.
    pub(crate) fn notify(&self, event: &Event) -> bool {
        match self.sender.try_send(event.clone()) {
            Ok(()) => true,
            Err(flume::TrySendError::Full(_)) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                true
            }
            Err(flume::TrySendError::Disconnected(_)) => false,
        }
    }
}

impl Events {
    /// The next event, waiting up to `timeout` for one. `None` when the time is up, or the engine has
    /// stopped and every event was taken.
    pub fn next_within(&self, timeout: Duration) -> Option<Event> {
        self.receiver.recv_timeout(timeout).ok()
    }

    /// The next event, if one is here.
    pub fn try_next(&self) -> Option<Event> {
        self.receiver.try_recv().ok()
    }

    /// How many events were dropped because nobody took them in time.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Iterator for Events {
    type Item = Event;

    /// Waits for the next event; `None` once the engine has stopped.
    fn next(&mut self) -> Option<Event> {
        self.receiver.recv().ok()
    }
}
