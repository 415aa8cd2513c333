//! The runtime: the only home of threads, sockets and the operating system's clock.
//!
//! [`Runtime`] is the ways in: it starts and stops an engine's threads, and takes calls to them.
//!
//! ```text
//! launch              from settings to threads that run
//! address_space       whether the process may have the memory for that
//! core_thread         one shard each           ─┐
//! control_thread      membership, accepting     │ their loops, and what happens
//! discovery_thread    lookups that block        │ if one of them fails
//! log_thread          what the logger is told   │
//! engine_thread                                ─┘
//! messages · shared   what threads send each other; what they share with the engine's handle
//! door                whether calls are let in, which a forked child is not
//! mailbox             how a message comes to a thread: ring, bell, and a wait list for room
//! reply · completions how an answer comes back: a slot, or a queue
//! idle                what a thread does that has nothing to do
//! heartbeat           whether a thread stands still in the middle of its work
//! net                 the sockets
//! secured             what connections and datagrams are secured with
//! random · processor · key_file   what that takes of the system
//! ```
//!
//! Nothing here decides what a shard or the control decides: its files name their events and
//! actions, and none of `net`, the mailboxes and the replies knows a shard's insides.

mod address_space;
mod affinity;
mod allowance;
mod bell;
pub(crate) mod clock;
pub(crate) mod completions;
pub(crate) mod control_thread;
pub(crate) mod core_thread;
mod discovery_thread;
mod door;
mod engine_thread;
mod fence;
mod heartbeat;
mod idle;
#[cfg(feature = "security")]
pub(crate) mod key_file;
mod launch;
mod log_thread;
pub(crate) mod mailbox;
mod messages;
pub(crate) mod net;
mod parker;
#[cfg(feature = "security")]
mod processor;
#[cfg(feature = "security")]
mod random;
pub(crate) mod reply;
mod ring;
#[cfg(feature = "security")]
mod secured;
#[cfg(not(feature = "security"))]
#[path = "unsecured.rs"]
mod secured;
mod shared;
mod slot;
mod tokens;
mod wait_list;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use self::allowance::{Allowance, Permit};
use self::clock::Clock;
use self::completions::CompletionSlot;
use self::door::Door;
use self::engine_thread::{Threads, is_engine_thread};
use self::idle::longest_caller_spin;
use self::launch::{Launched, launch};
use self::mailbox::{SendError, Sender};
use self::messages::{CallMessage, Senders, ToControl};
use self::reply::{NoReply, Reply, ReplyTo};
#[cfg(feature = "security")]
use self::secured::CurrentSecurity;
use self::shared::SharedState;
use crate::clock::Instant;
use crate::config::Settings;
#[cfg(feature = "security")]
use crate::error::UpdateSecurityError;
use crate::error::{
    LeaveError, NotApplied, NotReady, NotSafe, ReadError, Risk, StartError, WriteError,
};
use crate::events::{MemberInfo, Subscriber};
#[cfg(feature = "security")]
use crate::security::{Fingerprint, Security};
use crate::shard::{Call, Outcome};
use crate::store::Views;
use crate::types::{ClusterHash, CoreId};

/// Large values under way may take this fraction of the memory limit.
const ALLOWANCE: usize = 16;

/// How long before its time is up a node that leaves asks the others what they lack: some rounds of
/// questions.
const WHY_NOT_LEFT: Duration = Duration::from_millis(500);

/// Values up to this length need no permit: the queues are short.
const MAX_FREE_BYTES: usize = 4 << 10;

/// An engine's threads, and the ways in.
pub(crate) struct Runtime {
    clock: Clock,
    cluster: ClusterHash,
    address: Option<SocketAddr>,
    /// The door of `threads`, one step closer for calls that look at nothing else there.
    door: Door,
    /// How long a caller looks for its answer before it sleeps.
    longest_spin: Duration,
    senders: Senders,
    views: Views,
    /// The memory for large values on their way to the cores, if there is a memory limit.
    allowance: Option<Arc<Allowance>>,
    /// `None` if the app chose no security.
    #[cfg(feature = "security")]
    security: Option<CurrentSecurity>,
    threads: Threads,
}

/// Why no core took a call: nothing happened.
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
    /// Starts an engine's threads.
    pub(crate) fn start(settings: &Settings) -> Result<Self, StartError> {
        let launched = launch(settings)?;
        #[cfg(feature = "security")]
        let security = launched
            .secured
            .map(|secured| CurrentSecurity::new(settings, launched.cluster, secured));
        let Launched { clock, cluster, address, senders, views, threads, .. } = launched;
        let longest_spin = longest_caller_spin(settings.idle);
        let allowance = settings
            .memory
            .map(|share| Allowance::new(share / ALLOWANCE * usize::from(settings.cores)));
        let door = threads.shared.door.clone();
        Ok(Self {
            clock,
            cluster,
            address,
            door,
            longest_spin,
            senders,
            views,
            allowance,
            #[cfg(feature = "security")]
            security,
            threads,
        })
    }

    /// Sends a core a call, which may bring a large value, and waits for room until `deadline`.
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
        match self.senders.calls[usize::from(core.0)]
            .send_until(message, self.clock.to_os(deadline))
        {
            Ok(()) => Ok(reply),
            Err(error) => Err(self.not_sent(error)),
        }
    }

    /// Waits for a core's answer to a call that was sent at `since`.
    pub(crate) fn wait(
        &self,
        core: CoreId,
        reply: Reply,
        since: Instant,
        deadline: Instant,
    ) -> Result<Outcome, NoReply> {
        let ring_again = || self.senders.calls[usize::from(core.0)].ring_again();
        reply.wait(&self.clock, since, self.longest_spin, ring_again, deadline)
    }

    /// Returns how many calls wait for a core.
    #[cfg(test)]
    pub(crate) fn queued(&self, core: CoreId) -> usize {
        self.senders.calls[usize::from(core.0)].queued()
    }

    /// Sends a core a call that no thread waits for, if there is room.
    pub(crate) fn submit(
        &self,
        core: CoreId,
        call: Call,
        slot: CompletionSlot,
        permit: Option<Permit>,
    ) -> Result<(), NotSent> {
        if !self.door.is_open() {
            return Err(self.closed());
        }
        let calls = &self.senders.calls[usize::from(core.0)];
        let message = CallMessage::new(call, ReplyTo::completion(slot, permit));
        calls.try_send(message).map_err(|error| self.not_sent(error))?;
        // No caller waits that would do it later.
        calls.ring_again();
        Ok(())
    }

    /// Checks that the calling thread may wait for this engine.
    pub(crate) fn check_caller(&self) -> Result<(), NotSent> {
        if !self.door.is_open() {
            return Err(self.closed());
        }
        if is_engine_thread() { Err(NotSent::WouldBlock) } else { Ok(()) }
    }

    /// Returns why the engine is closed.
    pub(crate) fn closed(&self) -> NotSent {
        if self.threads.shared.has_failed() { NotSent::Failed } else { NotSent::Closed }
    }

    /// Ends a call that was not sent.
    fn not_sent(&self, error: SendError<CallMessage>) -> NotSent {
        let (message, why) = match error {
            SendError::Full(message) => (message, NotSent::Full),
            SendError::Closed(message) => (message, self.closed()),
        };
        message.discard();
        why
    }

    /// Lets a value of this many bytes be made for a call once there is room for it among those
    /// under way.
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

    /// Lets a value of this many bytes be made for a call if there is room for it now.
    pub(crate) fn allow_now(&self, bytes: usize) -> Result<Option<Permit>, NotSent> {
        match &self.allowance {
            Some(allowance) if bytes > MAX_FREE_BYTES => {
                if !self.door.is_open() {
                    return Err(self.closed());
                }
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
                let needed = needed.max(readiness.needed_at_birth);
                Err(if readiness.members < needed {
                    let members = readiness.members.max(1);
                    NotReady::TooFewMembers { members, needed, hint: readiness.hint }
                } else {
                    NotReady::Settling { members: readiness.members, hint: readiness.hint }
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
        let Some(control) = &self.senders.control else { return Ok(()) };
        let until = self.clock.instant() + timeout;
        let (watch, ticket) = self.watch_safety(until);
        match self.ask_control(control, watch, until, |state| state.safe_up_to >= ticket) {
            Some(true) => Ok(()),
            Some(false) => Err(closed()),
            None => Err(NotSafe::TimedOut { risks: shared.lock().risks.clone() }),
        }
    }

    /// Returns the message that has the control thread ask all nodes what they lack, and a ticket.
    fn watch_safety(&self, until: Instant) -> (ToControl, u64) {
        let mut state = self.threads.shared.lock();
        state.risks.clear();
        state.safety_tickets += 1;
        let ticket = state.safety_tickets;
        (ToControl::WatchSafety { ticket, until }, ticket)
    }

    /// Returns why a closed engine will not be ready.
    fn not_ready(&self) -> NotReady {
        if self.threads.shared.has_failed() { NotReady::EngineFailed } else { NotReady::ShutDown }
    }

    pub(crate) fn leave(&self, timeout: Duration) -> Result<(), LeaveError> {
        let closed = || {
            if self.threads.shared.has_failed() {
                LeaveError::EngineFailed
            } else {
                LeaveError::ShutDown
            }
        };
        match self.check_caller() {
            Ok(()) => {}
            Err(NotSent::WouldBlock) => return Err(LeaveError::WouldBlockCore),
            Err(_) => return Err(closed()),
        }
        let Some(control) = &self.senders.control else {
            self.stop(true);
            return Ok(());
        };
        let start = self.clock.instant();
        let deadline = start + timeout;
        let has_left = |state: &SharedState| state.has_left;
        let ask_why_at = start + (timeout - WHY_NOT_LEFT.min(timeout / 2));
        let mut left = self.ask_control(control, ToControl::Leave, ask_why_at, has_left);
        if left.is_none() {
            // The others know what they lack, and the error should say it.
            let watch = self.watch_safety(deadline).0;
            left = self.ask_control(control, watch, deadline, has_left);
        }
        let state = self.threads.shared.lock();
        let (partitions, unfinished) = (state.giving.iter().sum(), state.unfinished.iter().sum());
        let missing_bytes = state.risks.iter().map(Risk::missing_bytes).sum();
        drop(state);
        self.stop(left != Some(true));
        match left {
            Some(true) => Ok(()),
            Some(false) => Err(closed()),
            None => Err(LeaveError::TimedOut { partitions, unfinished, missing_bytes }),
        }
    }

    /// Has all threads secure their traffic by this.
    #[cfg(feature = "security")]
    pub(crate) fn update_security(
        &self,
        security: &Security,
        until: Instant,
    ) -> Result<(), UpdateSecurityError> {
        let current = self.secured()?;
        let members = self.threads.shared.lock().members.clone();
        current.update(security, &members, |secured| {
            self.tell_secured(ToControl::Secure(secured), until)
        })
    }

    /// Has the control forget which key a node has proved.
    #[cfg(feature = "security")]
    pub(crate) fn forget_identity(
        &self,
        node: &str,
        until: Instant,
    ) -> Result<(), UpdateSecurityError> {
        let node = self.secured()?.hash_of(node);
        self.tell_secured(ToControl::ForgetIdentity { node }, until)
    }

    /// Returns what this engine secures its traffic with. An error if it secures none, or if the
    /// calling thread must not wait for the control thread.
    #[cfg(feature = "security")]
    fn secured(&self) -> Result<&CurrentSecurity, UpdateSecurityError> {
        match self.check_caller() {
            Ok(()) => {}
            Err(NotSent::WouldBlock) => return Err(UpdateSecurityError::WouldBlockCore),
            Err(_) => return Err(self.security_closed()),
        }
        if self.senders.control.is_none() {
            return Err(UpdateSecurityError::Standalone);
        }
        self.security.as_ref().ok_or(UpdateSecurityError::StartedWithout)
    }

    #[cfg(feature = "security")]
    fn security_closed(&self) -> UpdateSecurityError {
        match self.closed() {
            NotSent::Failed => UpdateSecurityError::EngineFailed,
            _ => UpdateSecurityError::ShutDown,
        }
    }

    /// Tells the control thread something of security.
    #[cfg(feature = "security")]
    fn tell_secured(&self, message: ToControl, until: Instant) -> Result<(), UpdateSecurityError> {
        let Some(control) = &self.senders.control else {
            return Err(UpdateSecurityError::Standalone);
        };
        control.send_until(message, self.clock.to_os(until)).map_err(|error| match error {
            SendError::Full(_) => UpdateSecurityError::Overloaded,
            SendError::Closed(_) => self.security_closed(),
        })
    }

    /// Returns the name of this node's key, if it has one.
    #[cfg(feature = "security")]
    pub(crate) fn fingerprint(&self) -> Option<Fingerprint> {
        self.security.as_ref().map(|security| security.fingerprint)
    }

    /// Asks the control thread for something, and waits until it is `done`. `None` if the time is
    /// up first; `false` if the engine is closed.
    fn ask_control(
        &self,
        control: &Sender<ToControl>,
        question: ToControl,
        until: Instant,
        done: impl Fn(&SharedState) -> bool,
    ) -> Option<bool> {
        match control.send_until(question, self.clock.to_os(until)) {
            Ok(()) => self.threads.shared.wait(until.since(self.clock.instant()), |state| {
                let is_done = done(state);
                (is_done || state.is_stopped).then_some(is_done)
            }),
            Err(SendError::Full(_)) => None,
            Err(SendError::Closed(_)) => Some(false),
        }
    }

    /// Stops and joins the threads. With `farewell` the other nodes are told; without, they find
    /// out.
    ///
    /// Called again, it waits for nothing. Called on an engine's own thread, it does not join.
    /// Called in a forked child, it does nothing.
    pub(crate) fn stop(&self, farewell: bool) {
        self.threads.stop(farewell);
    }

    /// Whether this process is a forked child of the one that started the engine. None of the
    /// engine's threads is here, and any of its locks might be locked for ever.
    pub(crate) fn is_forked(&self) -> bool {
        self.door.is_forked()
    }

    /// Leaves all to the parent process, in a forked child: the threads that could be joined, and
    /// queues whose ends wake or lock something when they are dropped.
    pub(crate) fn forget(&mut self) {
        std::mem::forget(std::mem::take(&mut self.threads));
        std::mem::forget(std::mem::take(&mut self.senders));
    }

    /// Returns why the engine has failed, if it has.
    pub(crate) fn failure(&self) -> Option<String> {
        if self.is_forked() {
            return None;
        }
        self.threads.shared.lock().failure.clone()
    }

    pub(crate) fn members(&self) -> Vec<MemberInfo> {
        if self.is_forked() {
            return Vec::new();
        }
        self.threads.shared.lock().members.clone()
    }

    pub(crate) fn subscribe(&self, subscriber: Subscriber) {
        if self.is_forked() {
            return;
        }
        let mut state = self.threads.shared.lock();
        if !state.is_stopped {
            state.subscribers.retain(Subscriber::is_heard);
            state.subscribers.push(subscriber);
        }
    }

    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// How many lines the app's logger did not take, since the start.
    pub(crate) fn dropped_log_lines(&self) -> u64 {
        self.threads.log.dropped()
    }

    #[inline]
    pub(crate) fn cluster(&self) -> ClusterHash {
        self.cluster
    }

    /// Returns what this node's cores let other threads read, until the engine is closed.
    #[inline]
    pub(crate) fn views(&self) -> Result<&Views, NotSent> {
        if self.door.is_open() { Ok(&self.views) } else { Err(self.closed()) }
    }

    #[inline]
    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }
}
