//! What an engine's threads send each other, each through a [mailbox](mod@super::mailbox).
//!
//! ```text
//! message       from                        to              when the mailbox is full
//! CallMessage   an app's thread             a core          the caller waits for room
//! Order         the control thread          a core          the control thread keeps it
//! ToControl     a core                      the control     the core keeps the latest
//! ToControl     discovery, an app's thread  the control     the sender waits for room
//! ```

#![forbid(unsafe_code)]

use std::sync::Arc;

use super::engine_thread::stopped_by;
use super::mailbox::Sender;
use super::net::Handover;
#[cfg(feature = "security")]
use super::net::NetSecurity;
use super::reply::ReplyTo;
#[cfg(feature = "security")]
use super::secured::Secured;
use crate::clock::Instant;
use crate::discovery::FoundAddresses;
use crate::placement::Placement;
#[cfg(feature = "security")]
use crate::security::known::KnownKeys;
use crate::shard::{Call, Debt, Shortage, Stage};
use crate::types::Identity;

/// How many calls may wait for a core; a caller beyond that waits for room.
///
/// Few enough that the queue stays in the processor's cache.
pub(crate) const CALLS_CAPACITY: usize = 1024;

/// How many orders may wait for a core; the control thread keeps what does not fit.
pub(crate) const ORDERS_CAPACITY: usize = 256;

/// How many messages may wait for the control thread.
pub(crate) const MESSAGES_CAPACITY: usize = 1024;

/// The sending ends of an engine's mailboxes.
#[derive(Default)]
pub(crate) struct Senders {
    /// One for each core.
    pub(crate) calls: Vec<Sender<CallMessage>>,
    pub(crate) orders: Vec<Sender<Order>>,
    /// `None`: the engine is standalone.
    pub(crate) control: Option<Sender<ToControl>>,
}

/// A call of an app.
///
/// If it is dropped before a core took it, it answers that the engine has stopped: the caller is
/// told, however the queue ends.
pub(crate) struct CallMessage {
    /// `None` once it was taken.
    content: Option<(Call, ReplyTo)>,
}

/// A message and the word of its slot fill one cache line of the ring.
const _: () = assert!(size_of::<CallMessage>() <= 56);

impl CallMessage {
    #[inline]
    pub(crate) fn new(call: Call, reply_to: ReplyTo) -> Self {
        Self { content: Some((call, reply_to)) }
    }

    /// Takes the call, whose answer is the taker's duty from then on.
    #[inline]
    pub(crate) fn take(mut self) -> Option<(Call, ReplyTo)> {
        self.content.take()
    }

    /// Drops a call that was not sent, as its caller knows.
    pub(crate) fn discard(self) {
        if let Some((_, reply_to)) = self.take() {
            reply_to.discard();
        }
    }
}

impl Drop for CallMessage {
    fn drop(&mut self) {
        if let Some((call, reply_to)) = self.content.take() {
            reply_to.send(call.stopped(stopped_by()));
        }
    }
}

/// What the control thread tells a core.
pub(crate) enum Order {
    /// Go by this placement.
    Place { placement: Arc<Placement>, stage: Stage },
    /// This node counts as another life of itself.
    NewLife { identity: Identity },
    /// Say what you owe, with [`ToControl::CoreOwes`].
    AskDebt { question: u64 },
    /// Serve an accepted connection, whose opener wants this core.
    Adopt { handover: Box<Handover>, peer: Identity },
    /// Secure connections with this.
    #[cfg(feature = "security")]
    Secure(Arc<NetSecurity>),
    /// Lives of nodes have these keys.
    #[cfg(feature = "security")]
    Keys(Arc<KnownKeys>),
}

/// What cores, the discovery thread and the engine's handle tell the control thread.
pub(crate) enum ToControl {
    /// How many partitions a core has yet to fetch and to give away, under the placement of this
    /// generation, and what it has no room for.
    Progress { core: usize, generation: u64, pending: usize, giving: usize, shortage: Shortage },
    /// The last copies of these partitions are gone.
    DataAtRisk { partitions: usize },
    /// The answer to [`Order::AskDebt`].
    CoreOwes { core: usize, question: u64, debt: Debt },
    /// An app waits, with this ticket, until no copy is missing anywhere.
    WatchSafety { ticket: u64, until: Instant },
    /// The result of a lookup.
    Found(Box<FoundAddresses>),
    /// Hand everything over, then leave the cluster.
    Leave,
    /// Secure all traffic with this, and tell every core.
    #[cfg(feature = "security")]
    Secure(Secured),
    /// Forget which key this node has proved.
    #[cfg(feature = "security")]
    ForgetIdentity { node: crate::types::NodeHash },
}
