//! The net: one thread's connections, those it opened and those that were given to it.
//!
//! ```text
//! thread                         Net                              the other node's Net
//!   send(target, request) ──▶ dial, HELLO ───────────────▶ Greeted ─▶ control thread judges
//!                                                              │ welcome: stays with it
//!   Opened ◀────────────────── WELCOME ◀───────────────────────┤ hand_over ─▶ adopt, on a core
//!            what waited goes out ─────────────────────────▶ Request ─▶ …
//!   Answer ◀────────────────────────────────────────────────── answer(connection, frame)
//! ```
//!
//! In every pass, a loop around a `Net`
//!
//! - polls, until [`deadline`](Net::deadline) at the latest;
//! - calls [`ready`](Net::ready) for each event with a token of the `Net`'s,
//!   [`read_pending`](Net::read_pending), and [`handle_timers`](Net::handle_timers), and acts on
//!   the events that these report;
//! - calls [`flush`](Net::flush), and acts on its events too.
//!
//! **Back-pressure.** Memory is bounded per connection in both directions. A peer that takes no
//! answers gets no more of its requests read. A peer that takes no requests is sent no more of
//! them: [`send`](Net::send) says so. Answers are always read: to leave them would stop the two
//! ends on each other.
//!
//! **Hostile bytes.** The worst outcome of any frame is the end of the connection that it came
//! over, one line in the log, and a counter. Of strangers there is one line a minute.
//!
//! The files of this folder name [`Net`] and what stands below it; none of them names a shard, a
//! store or the control.

#![forbid(unsafe_code)]

mod accepted;
pub(crate) mod bind;
pub(crate) mod complaints;
mod connection;
mod counters;
pub(crate) mod datagram;
mod dials;
#[cfg(feature = "security")]
mod gate;
#[cfg(all(feature = "security", any(fuzzing, test, feature = "sim")))]
pub(crate) mod in_memory;
#[cfg(feature = "security")]
mod kinds;
pub(crate) mod limits;
mod link;
mod memory;
#[cfg(feature = "security")]
mod net_security;
mod outgoing;
mod patience;
mod queue;
#[cfg(feature = "security")]
mod secured;
#[cfg(not(feature = "security"))]
#[path = "unsecured.rs"]
mod secured;
#[cfg(feature = "security")]
mod securing;
#[cfg(feature = "security")]
mod security_error;
mod strangers;
mod stream;
#[cfg(test)]
mod tests;
#[cfg(feature = "security")]
mod tls;
mod transfer;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::io;
#[cfg(feature = "security")]
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mio::event::Event;
use mio::{Registry, Token};

use self::complaints::Complaints;
use self::connection::Connection;
use self::counters::NetCounters;
use self::dials::FailedDials;
use self::limits::Limits;
pub(crate) use self::link::{ConnectionId, Destination, LossCause};
use self::link::{DialStep, LinkStage, NetLink, Outgoing, READ_BUDGET_BYTES};
#[cfg(feature = "security")]
pub(crate) use self::net_security::NetSecurity;
use self::secured::Securing;
use self::strangers::Strangers;
use crate::clock::Instant;
use crate::logging;
#[cfg(feature = "security")]
use crate::security::Fingerprint;
use crate::security::Proved;
use crate::types::{Identity, Partition};
use crate::wire::codec;
use crate::wire::frame::Encoded;
use crate::wire::handshake::Local;
use crate::wire::message::{Frame, Hello, Message};
use crate::wire::timing::{OFFERED_AGAIN_AFTER, OPEN_TIMEOUT, RELAY_TRIES_FOR, is_longer};
use crate::wire::waiting::{MIN_REQUEST_BYTES, max_waiting_bytes};

/// An accepted connection says HELLO within this time.
const HELLO_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a thread may say nothing at all while it was asked something.
///
/// Then the connection ends and the next request opens another: something in between might
/// acknowledge what it does not deliver, such as a proxy that has lost its other side. A core that
/// stands still that long loses its connections as well, with what it was asked a while ago.
/// Longer than a thread takes for any answer: relays take the longest, and those that others pass
/// on. Questions that a control thread might not answer are not counted.
const SILENCE: Duration = Duration::from_secs(4);

const _: () = assert!(!is_longer(RELAY_TRIES_FOR.saturating_mul(2), SILENCE));
const _: () = assert!(is_longer(OFFERED_AGAIN_AFTER, SILENCE));

/// A refused opener gets this long to read why, and to close.
const LINGER: Duration = Duration::from_secs(1);

/// How many requests of an accepted connection are given out in one pass.
const REQUESTS_PER_PASS: usize = 16;

/// How many bytes of unwritten answers stop an accepted connection's requests from being read;
/// below half of it they are read again. Far above what the sockets themselves hold, so that a peer
/// that keeps up never notices.
///
/// It is looked at before each request, so a queue holds this much and one answer more. Requests
/// that are answered later, as other nodes are asked first, are not held back by it.
const ANSWERS_HIGH_BYTES: usize = 8 << 20;

/// What a [`Net`] reports.
#[derive(Debug)]
pub(crate) enum NetEvent {
    /// A connection that this node opened was welcomed; what waited for that is on its way.
    Opened { target: Destination, welcome: Hello, proved: Option<Proved> },
    /// An answer or a control message came over a connection that this node opened.
    Answer { target: Destination, frame: Frame },
    /// A connection that this node opened failed or ended. What was sent over it and not answered
    /// is lost: it may have arrived or not.
    Lost { target: Destination, cause: LossCause },
    /// A host that connected is not let in for what it lacks. It is told rarely, with how many
    /// others were not since.
    #[cfg(feature = "security")]
    NotSecured { peer: SocketAddr, reason: String, others: u64 },
    /// The other end of a connection that was being opened has proved a key that is denied. It is
    /// lost next.
    #[cfg(feature = "security")]
    Denied { target: Destination, key: Fingerprint },
    /// An accepted connection's first frame. It waits for `welcome`, `hand_over` or `refuse`.
    Greeted { connection: ConnectionId, hello: Hello, proved: Option<Proved> },
    /// A request came over an accepted connection that was welcomed.
    Request { connection: ConnectionId, frame: Frame },
    /// An accepted connection that was reported before ended by itself.
    Closed { connection: ConnectionId },
}

/// A welcomed connection on its way to the thread that will serve it, with everything it has read
/// and not yet written. Dropping it closes the connection.
pub(crate) struct Handover {
    connection: Connection,
}

impl fmt::Debug for Handover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handover").field("peer", &self.connection.peer()).finish_non_exhaustive()
    }
}

/// The connections of one thread.
pub(crate) struct Net {
    registry: Registry,
    first_token: usize,
    local: Local,
    identity: Option<Identity>,
    /// How many bytes of requests wait for one peer. Beyond it no more are taken, so the queue
    /// holds this much and one frame more.
    out_limit: usize,
    /// How many bytes of answers wait for one peer until its requests are read no more.
    answers_high: usize,
    /// The latest time that was told.
    now: Instant,
    /// The limits of all threads of the engine together.
    limits: Arc<Limits>,
    /// How connections are secured, if they are.
    securing: Option<Box<Securing>>,
    /// Whether this thread accepts connections.
    accepts: bool,
    /// What strangers sent that could not be secured.
    unsecured: Complaints,
    /// What strangers sent that is no handshake.
    nonsense: Complaints,
    /// What peers sent that makes no sense after the handshake.
    broken: Complaints,
    /// Connections for which there was no place.
    turned_away: Complaints,
    /// Peers that do not go on with a frame, or take no answers.
    stalls: Complaints,
    /// Connections that could not be accepted.
    not_accepted: Complaints,
    /// Threads that said nothing though they were asked.
    silence: Complaints,
    /// The number of the next link. A link's token is its number above `first_token`, and neither
    /// is used twice: an event that comes late finds no link.
    next: u64,
    links: BTreeMap<u64, NetLink>,
    targets: BTreeMap<Destination, u64>,
    /// Accepted links that are not heard yet, or refused; the oldest first.
    strangers: Strangers,
    /// Outgoing links that are not welcomed yet.
    opening: BTreeSet<u64>,
    failed_dials: FailedDials<Destination>,
    /// When to accept connections of which the poll reports nothing.
    accept_at: Option<Instant>,
    /// Links whose reading waits for memory.
    starved: BTreeSet<u64>,
    /// When those look again whether there is some.
    memory_at: Option<Instant>,
    /// The link whose frame goes on though there is no memory for it.
    exempt: Option<u64>,
    timers: BTreeSet<(Instant, u64)>,
    /// Something was queued since the last flush.
    dirty: BTreeSet<u64>,
    /// The connections to be read: the poll said so, or it will not say so again, because a
    /// budget, a pause or a verdict held them back.
    unread: BTreeSet<u64>,
    /// Links that were lost while there was no list of events at hand.
    lost: BTreeMap<Destination, LossCause>,
    counters: NetCounters,
}

impl Net {
    /// Makes a `Net` that uses the tokens from `first_token` upwards.
    /// [`set_identity`](Self::set_identity) comes before the first dial.
    pub(crate) fn new(
        registry: Registry,
        first_token: usize,
        local: Local,
        limits: Arc<Limits>,
    ) -> Self {
        Self {
            registry,
            first_token,
            local,
            identity: None,
            out_limit: max_waiting_bytes(None),
            answers_high: ANSWERS_HIGH_BYTES,
            now: Instant::default(),
            limits,
            securing: None,
            accepts: false,
            unsecured: Complaints::default(),
            nonsense: Complaints::default(),
            broken: Complaints::default(),
            turned_away: Complaints::default(),
            stalls: Complaints::default(),
            not_accepted: Complaints::default(),
            silence: Complaints::default(),
            next: 0,
            links: BTreeMap::new(),
            targets: BTreeMap::new(),
            strangers: Strangers::default(),
            opening: BTreeSet::new(),
            failed_dials: FailedDials::default(),
            accept_at: None,
            starved: BTreeSet::new(),
            memory_at: None,
            exempt: None,
            timers: BTreeSet::new(),
            dirty: BTreeSet::new(),
            unread: BTreeSet::new(),
            lost: BTreeMap::new(),
            counters: NetCounters::default(),
        }
    }

    /// Lets a peer that does not read cost a part of this core's memory at most.
    pub(crate) fn limit_memory(&mut self, memory: usize) {
        self.out_limit = max_waiting_bytes(Some(memory)).max(MIN_REQUEST_BYTES);
        self.answers_high = self.out_limit.min(ANSWERS_HIGH_BYTES);
    }

    /// Sets who this node is from now on: it goes into every HELLO and into the judgement of every
    /// WELCOME.
    ///
    /// Connections that it opened under another identity end and are reported lost, since the other
    /// ends would go on taking it for that one.
    pub(crate) fn set_identity(&mut self, identity: Identity) {
        let before = self.identity.replace(identity);
        self.introduce(&identity);
        if before.is_none_or(|old| old == identity) {
            return;
        }
        for (target, id) in std::mem::take(&mut self.targets) {
            self.remove(id);
            self.lost.insert(target, LossCause::Ended);
        }
    }

    pub(crate) fn counters(&self) -> NetCounters {
        self.counters
    }

    /// Takes up what the poll reported for one of this `Net`'s sockets. Reading is left to
    /// [`read_pending`](Self::read_pending), so that no socket gets more than its share of a pass.
    pub(crate) fn ready(&mut self, now: Instant, event: &Event, events: &mut Vec<NetEvent>) {
        self.now = now;
        let Some(id) = event.token().0.checked_sub(self.first_token).map(|id| id as u64) else {
            return;
        };
        self.finish_dial(id, events);
        if event.is_writable() || event.is_write_closed() || event.is_error() {
            self.write_link(id, events);
        }
        if self.links.contains_key(&id)
            && (event.is_readable() || event.is_read_closed() || event.is_error())
        {
            self.unread.insert(id);
        }
    }

    /// Reads, one share each, what the poll reported and what a budget or back-pressure held back.
    /// Once per pass, after the poll's events.
    ///
    /// Returns whether there is still more: then the poll must not wait
    /// ([`deadline`](Self::deadline) says so too).
    pub(crate) fn read_pending(&mut self, now: Instant, events: &mut Vec<NetEvent>) -> bool {
        self.now = now;
        self.allow_handshakes();
        for id in std::mem::take(&mut self.unread) {
            self.read_link(id, events);
        }
        self.unread.extend(self.strangers.let_in());
        self.owes()
    }

    /// Whether there is work that no poll will report again.
    pub(crate) fn owes(&self) -> bool {
        !self.unread.is_empty() || !self.lost.is_empty()
    }

    /// Writes what was queued since the last call, many frames at a time, and reports what was lost
    /// in between. Once per pass, after everything was sent.
    pub(crate) fn flush(&mut self, events: &mut Vec<NetEvent>) {
        for id in std::mem::take(&mut self.dirty) {
            self.write_link(id, events);
        }
        for (target, cause) in std::mem::take(&mut self.lost) {
            events.push(NetEvent::Lost { target, cause });
        }
    }

    /// Returns when to come back: in the past while work is [owed](Self::owes).
    pub(crate) fn deadline(&self) -> Option<Instant> {
        if self.owes() {
            return Some(Instant::default());
        }
        let timer = self.timers.first().map(|(at, _)| *at);
        let others = [self.accept_at, self.memory_at, self.change_deadline()];
        timer.into_iter().chain(others.into_iter().flatten()).min()
    }

    /// Gives up what did not shake hands in time, was asked and has been silent since, or does not
    /// go on with a frame. Reads what waited for memory.
    pub(crate) fn handle_timers(&mut self, now: Instant, events: &mut Vec<NetEvent>) {
        self.now = now;
        while let Some((at, id)) = self.timers.first().copied()
            && at <= now
        {
            if !self.is_heard_again(id) {
                self.end(id, io::ErrorKind::TimedOut, events);
            }
        }
        self.look_for_memory(events);
        self.end_changed(events);
        self.unread.extend(self.strangers.let_in());
    }

    /// Takes up a stream: registered, numbered, timed.
    fn insert(
        &mut self,
        mut connection: Connection,
        stage: LinkStage,
        deadline: Option<Instant>,
    ) -> io::Result<u64> {
        let id = self.next;
        connection.register(&self.registry, Token(self.first_token + id as usize))?;
        self.next += 1;
        let link = NetLink {
            connection,
            stage,
            deadline: None,
            heard_at: self.now,
            taken_at: self.now,
            large_since: None,
            held_back: VecDeque::new(),
        };
        self.links.insert(id, link);
        self.set_deadline(id, deadline);
        Ok(id)
    }

    /// Forgets a link everywhere. The poll forgets it too.
    fn remove(&mut self, id: u64) -> Option<NetLink> {
        self.set_deadline(id, None);
        let mut link = self.links.remove(&id)?;
        self.strangers.remove(id);
        self.opening.remove(&id);
        self.dirty.remove(&id);
        self.unread.remove(&id);
        self.starved.remove(&id);
        if let LinkStage::Outgoing(outgoing) = &link.stage {
            self.targets.remove(&outgoing.target);
        }
        link.connection.deregister(&self.registry);
        Some(link)
    }

    fn set_deadline(&mut self, id: u64, deadline: Option<Instant>) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if let Some(old) = std::mem::replace(&mut link.deadline, deadline) {
            self.timers.remove(&(old, id));
        }
        if let Some(new) = deadline {
            self.timers.insert((new, id));
        }
    }

    /// Ends a link, and reports it if it was reported before.
    fn end(&mut self, id: u64, kind: io::ErrorKind, events: &mut Vec<NetEvent>) {
        let Some(link) = self.remove(id) else { return };
        logging::debug!("{} with {} ended: {kind}", link.stage, link.connection.peer());
        match link.stage {
            LinkStage::Outgoing(Outgoing { target, step, .. }) => {
                if step.is_opening() {
                    self.dial_failed(target);
                } else {
                    self.forget_plain(target.addr);
                }
                events.push(NetEvent::Lost { target, cause: step.cause(kind) });
            }
            LinkStage::Greeted | LinkStage::Serving { .. } => {
                events.push(NetEvent::Closed { connection: ConnectionId(id) });
            }
            LinkStage::Stranger | LinkStage::Refusing { .. } => {}
        }
    }

    /// Ends a link for what came over it.
    fn end_for(&mut self, id: u64, why: &dyn fmt::Display, events: &mut Vec<NetEvent>) {
        let Some(link) = self.links.get(&id) else { return };
        let peer = link.connection.peer();
        match link.stage {
            LinkStage::Outgoing(_) | LinkStage::Serving { .. } => match self.broken.add(self.now) {
                Some(silent) => logging::warn!(
                    "ending the connection with {peer}: {why} ({silent} others were ended so since \
                     the last such line)"
                ),
                None => logging::debug!("ending the connection with {peer}: {why}"),
            },
            _ => match self.nonsense.add(self.now) {
                Some(silent) => logging::warn!(
                    "{peer} does not speak as a node of gridkv ({why}): an HTTP probe, or a scan \
                     of ports? Its connection is ended, as {silent} others were since the last \
                     such line"
                ),
                None => logging::debug!("{peer} does not speak as a node of gridkv: {why}"),
            },
        }
        self.counters.protocol_errors += 1;
        self.end(id, io::ErrorKind::InvalidData, events);
    }

    /// Queues a frame for the next flush.
    fn queue(&mut self, id: u64, frame: Encoded) {
        if let Some(link) = self.links.get_mut(&id) {
            link.connection.queue(frame);
            self.counters.frames_out += 1;
            self.dirty.insert(id);
        }
    }
}

/// Encodes a handshake frame, which is about no partition and answers no question.
fn handshake(message: Message) -> Encoded {
    let partition = Partition::new(0).expect("there is a partition zero");
    codec::encode(&Frame { partition, request_id: 0, message })
}
