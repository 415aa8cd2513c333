//! What an app sees of the cluster: its members, and the events that change them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

#[cfg(feature = "security")]
use crate::security::{Fingerprint, KeyId};
use crate::types::NodeId;

/// What this node knows of one member.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemberInfo {
    /// The member's name.
    pub id: NodeId,
    /// The address at which other nodes reach the member.
    pub address: SocketAddr,
    /// Whether the member lives, as far as this node knows.
    pub state: MemberState,
    /// Whether the member is handing its data over and will leave.
    pub leaving: bool,
    /// Whether the member is this node itself.
    pub is_self: bool,
    /// The member's [`Config::data_center`](crate::Config::data_center), if it has one.
    pub data_center: Option<String>,
    /// The member's [`Config::zone`](crate::Config::zone), if it has one.
    pub zone: Option<String>,
    /// How long a message takes to the member and back, smoothed and shown in steps of a quarter.
    ///
    /// `None` for this node itself, and before the first measurement. The time limits of probes and
    /// refutations follow this value.
    pub round_trip: Option<Duration>,
    /// By how many milliseconds the member's wall clock is ahead of this node's; negative if it is
    /// behind. Shown in steps of 20.
    ///
    /// `None` for this node itself, and until the clocks were compared, which takes 10 to 20 s of
    /// the messages that are sent anyway. Half of a slow round trip is what it may be wrong by.
    /// [`Event::ClockOff`] tells whose clock is off.
    pub clock_ahead_ms: Option<i64>,
    /// What the member has proved to this node. Needs the Cargo feature `security`.
    ///
    /// `None` for this node itself, while this node has no connection to the member, and if that
    /// connection is not secured.
    #[cfg(feature = "security")]
    pub security: Option<MemberSecurity>,
    /// The name of the cluster key that the member uses itself, as its latest datagram shows. Needs
    /// the Cargo feature `security`.
    ///
    /// `None` for this node itself, and if no sealed datagram has come of the member yet.
    #[cfg(feature = "security")]
    pub cluster_key: Option<KeyId>,
}

/// What a member has proved to this node over the connection that this node has to it now.
#[cfg(feature = "security")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemberSecurity {
    /// The name of the member's own key.
    pub fingerprint: Fingerprint,
    /// The name of the cluster key with which the connection was opened.
    pub key_id: KeyId,
    /// Whether the member has presented a certificate (`Security::certificates`).
    pub has_certificate: bool,
}

/// Whether a member lives, as another node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MemberState {
    /// The member answers probes.
    Alive,
    /// The member did not answer a probe and has a moment to refute. It still counts as alive.
    Suspect,
    /// The member is declared dead; its copies are restored from the others.
    Dead,
    /// The member has handed its data over and is gone.
    Left,
}

/// Something that happened in the cluster, as this node saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A node has joined and takes its share of the keys.
    Joined {
        /// The node's name.
        node: NodeId,
        /// The address at which other nodes reach it.
        address: SocketAddr,
    },
    /// A node did not answer a probe. It still counts as alive, and has a moment to refute.
    Suspected {
        /// The node's name.
        node: NodeId,
    },
    /// A suspected node has answered.
    Refuted {
        /// The node's name.
        node: NodeId,
    },
    /// A node was declared dead; its copies are being restored from the others.
    Died {
        /// The node's name.
        node: NodeId,
    },
    /// A node has handed its data over and is gone.
    Left {
        /// The node's name.
        node: NodeId,
    },
    /// A node has come back with another key of its own. Needs the Cargo feature `security`.
    ///
    /// A node that was not given its key ([`Security::identity`](crate::Security::identity)) makes
    /// a new one at every start, so that this event follows each of its restarts. No such event
    /// comes for a node that keeps its key: with another one it is refused ([`Event::Refused`]).
    #[cfg(feature = "security")]
    IdentityChanged {
        /// The node's name.
        node: NodeId,
        /// The key of its life before, as far as this node saw it.
        before: Fingerprint,
        /// The key that it has now.
        now: Fingerprint,
    },
    /// This node is back after the others declared it dead while it lived. It fetches what it
    /// missed.
    Returned,
    /// Another node and this one refused each other.
    Refused {
        /// The address of the other node.
        address: SocketAddr,
        /// The difference, with both nodes' settings.
        reason: String,
    },
    /// Another node was asked to connect to this one and could not. A node that no other reaches
    /// is no member: it holds nothing, and [`Engine::wait_ready`](crate::Engine::wait_ready) fails.
    /// One that was a member before is dead to the others. The other node is asked again, and this
    /// event comes at most every ten seconds.
    Unreachable {
        /// The name of the node that tried.
        by: NodeId,
        /// The address that this node tells the others:
        /// [`Config::advertise`](crate::Config::advertise), or the one on which it listens.
        address: SocketAddr,
        /// What happened, and what to check.
        reason: String,
    },
    /// Nodes that this one heard of were left out, as there are more than it remembers (4096, those
    /// that died within a day among them) or more at a time than it takes up from datagrams (64 a
    /// second, after the first 256).
    ///
    /// The members tell each other of all others over connections as well, so that one that lives
    /// is a member within seconds. If there are fewer nodes than that, a host that is no node sends
    /// forged datagrams. This event comes at most once a minute.
    MembersLeftOut {
        /// How many times one was left out since this node was started.
        count: u64,
    },
    /// The cluster has its first partitions, all of them empty: no node had any data before.
    Born {
        /// How many members the cluster had at its birth.
        members: usize,
    },
    /// The placement of the partitions has changed: a node has come or gone, or the cluster was
    /// born.
    PlacementChanged {
        /// How many members of this data center hold partitions, including those that are leaving.
        members: usize,
    },
    /// This node holds everything that it should, since the last [`Event::PlacementChanged`] or
    /// [`Event::OutOfMemory`].
    Synced,
    /// This node's memory is full, and with [`Eviction::None`](crate::Eviction::None) nothing gives
    /// way: it has no room for copies that it should hold.
    ///
    /// Nothing is lost, but fewer than N nodes hold these keys, and a node that leaves cannot give
    /// them away. The copies become whole by themselves when there is room. To make some, add a
    /// node, raise [`Config::max_memory`](crate::Config::max_memory), delete keys or give them a
    /// time to live. [`Event::Synced`] tells when it is over; until then this event comes again
    /// each time that the missing bytes have doubled.
    OutOfMemory {
        /// How many partitions of this node, of 4096, lack something.
        partitions: usize,
        /// How many bytes found no room so far, with their share of index and timers.
        bytes: usize,
    },
    /// A core thread of this node has been in one step of its work for a second: a closure of
    /// [`Engine::run_on`](crate::Engine::run_on) waits for something, or the host gives the thread
    /// no processor.
    ///
    /// Calls for keys of that core wait. Until the core goes on, this node answers no probes, so
    /// that the others take it for dead and go on without it.
    CoreStuck {
        /// The number of the core, from 0.
        core: usize,
    },
    /// A core thread of this node that was stuck goes on.
    CoreGoesOn {
        /// The number of the core, from 0.
        core: usize,
        /// For how long it was stuck.
        after: Duration,
    },
    /// A node's wall clock is off by more than half a second, against the median of the clocks of
    /// all members. It might be this node's own. Of two nodes each is said to be off by the other.
    ///
    /// Keys with a time to live expire early on a node whose clock is ahead, and late on one whose
    /// clock is behind. Set the clock right, at once or slowly; no restart is needed. This event
    /// comes once, 10 to 20 s after the clock was off, until [`Event::ClockRight`] tells that it is
    /// over. [`MemberInfo::clock_ahead_ms`] has the present figures.
    ClockOff {
        /// The node's name.
        node: NodeId,
        /// Whether its clock is ahead, and not behind.
        is_ahead: bool,
        /// By how much it is off.
        by: Duration,
    },
    /// The clock of a node that was off is within a quarter of a second of the median again. There
    /// is no such event for a node that has gone, nor for this one while it is alone, as its clock
    /// is compared with no other.
    ClockRight {
        /// The node's name.
        node: NodeId,
    },
    /// Acknowledged writes might be lost: W replicas of some partitions, or all of them, are dead
    /// at one time. The partitions go on with what is left after two seconds; with
    /// [`OnPartition::Majority`](crate::OnPartition::Majority) they wait for their replicas.
    ///
    /// The replicas that are left say it within a tenth of a second after they hear of the last of
    /// these deaths, once for all partitions. If more are found later, such as by a node that finds
    /// no replica at all, one event in ten seconds tells of them. Members that were only cut off
    /// bring back what they hold. With W = 1 each death is such a case: a write is acknowledged
    /// when one replica has it.
    DataAtRisk {
        /// How many partitions are at risk, of 4096.
        partitions: usize,
    },
    /// A host has connected, and was not let in for what it lacks: the cluster key, security at
    /// all, a certificate, a key that is not denied. This event comes at most once a minute. (A
    /// node that is refused for its settings or its id is told of by [`Event::Refused`].)
    #[cfg(feature = "security")]
    SecurityRefused {
        /// Where the host connected from.
        address: SocketAddr,
        /// Why it was not let in.
        reason: String,
        /// How many others were not since the last such event.
        others: u64,
    },
    /// Security is optional on this node, so that any host is let in
    /// ([`Security::optional`](crate::Security::optional)). This event comes once a minute until
    /// it is required.
    #[cfg(feature = "security")]
    SecurityOptional {
        /// How many other members have shown no security yet. If it is zero on all nodes,
        /// require security.
        plain_members: usize,
    },
    /// This node secures its traffic as
    /// [`Engine::update_security`](crate::Engine::update_security) says. What was received before
    /// might still be worked on.
    #[cfg(feature = "security")]
    SecurityUpdated {
        /// The cluster key that this node uses from now on.
        key: KeyId,
    },
}

/// A subscription to [`Event`]s, from [`Engine::events`](crate::Engine::events).
///
/// It is an iterator that waits for the next event. It holds up to 1024 events that were not taken.
/// If it is full, newer events are dropped and counted: the engine never waits for a subscriber.
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

/// Returns both ends of a new subscription.
pub(crate) fn subscription() -> (Subscriber, Events) {
    let (sender, receiver) = flume::bounded(CAPACITY);
    let dropped = Arc::new(AtomicU64::new(0));
    (Subscriber { sender, dropped: dropped.clone() }, Events { receiver, dropped })
}

impl Subscriber {
    /// Whether the subscription still exists.
    pub(crate) fn is_heard(&self) -> bool {
        !self.sender.is_disconnected()
    }

    /// Sends an event, or counts it as dropped if the subscription is full. Returns whether the
    /// subscription still exists.
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
    /// Returns the next event, and waits up to `timeout` for one.
    ///
    /// Returns `None` if the time is up, or if the engine has stopped and every event was taken.
    pub fn next_within(&self, timeout: Duration) -> Option<Event> {
        self.receiver.recv_timeout(timeout).ok()
    }

    /// Returns the next event if there is one now.
    pub fn try_next(&self) -> Option<Event> {
        self.receiver.try_recv().ok()
    }

    /// Returns how many events were dropped because they were not taken in time.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Iterator for Events {
    type Item = Event;

    /// Waits for the next event. Returns `None` if the engine has stopped and every event was
    /// taken.
    fn next(&mut self) -> Option<Event> {
        self.receiver.recv().ok()
    }
}
