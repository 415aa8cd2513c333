//! The senders of datagrams that this node has heard: the key and the receive window of each.
//!
//! **Problem.** A receiver must remember a window per sender, and senders come and go: each start
//! of a node is a new one. So their number needs a bound, and a full table forgets the one that
//! has been silent for longest. But a receiver cannot tell a new sender from one that it has
//! forgotten, or that a node was before this receiver started: a recorded datagram of such a one
//! opens, too. A host without the key that replays recordings of many past starts would thus fill
//! the table, and empty the windows of the living.
//!
//! | class | a sender is in it once | most |
//! |---|---|---|
//! | newcomer | a datagram of it was opened | [`MOST_NEWCOMERS`] |
//! | confirmed | a datagram of it named a life known by other means | [`MOST_SENDERS`] |
//!
//! If a class is full, the one of it goes that has been silent for longest.
//!
//! **Invariant.** Only a datagram with the right tag adds a newcomer, and a newcomer only ever
//! takes the place of a newcomer. What confirms a sender is up to the
//! [caller](super::seal::Opener::confirm).
//!
//! **A forgotten sender** is a newcomer when it is heard again, and is never refused. Its window is
//! empty then: each of its recorded datagrams opens once more, as after a restart of the receiver.
//! So what a datagram says must hold even if it is old: it names the lives of nodes that it is
//! about, and no answer to a question is believed that this node did not ask just now.
//!
//! Refusing newcomers while the table is full was rejected: recordings could then shut out nodes
//! that start.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ring::aead::LessSafeKey;

use super::keys::{DerivedKeys, KeyId, Keyring};
use super::suite::{Salt, Suite};
use super::window::Window;
use crate::clock::Instant;
use crate::mutants::{ProtocolMutant, rule};

/// The most confirmed senders: as many as a cluster has members.
pub(crate) const MOST_SENDERS: usize = 4096;

/// The most newcomers. It is far more than the nodes that start at the same time and are not
/// members yet.
pub(crate) const MOST_NEWCOMERS: usize = 1024;

/// One start of a node, under one key: its datagrams count from one, and have one window.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct SenderId {
    pub(crate) key: KeyId,
    pub(crate) suite: Suite,
    pub(crate) salt: Salt,
}

impl SenderId {
    pub(super) fn derive(&self, keys: &DerivedKeys) -> LessSafeKey {
        keys.of_sender(self.suite, self.salt)
    }
}

/// What is kept of one sender.
pub(super) struct KnownSender {
    pub(super) key: LessSafeKey,
    pub(super) window: Window,
    class: Class,
    heard_at: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Newcomer,
    Confirmed,
}

/// All senders that are remembered, by id and by when they were heard.
#[derive(Default)]
pub(super) struct SenderTable {
    /// Boxed, as a sender has several hundred bytes, and a tree moves what is in it.
    by_id: BTreeMap<SenderId, Box<KnownSender>>,
    newcomers: BySilence,
    confirmed: BySilence,
}

/// The senders of one class. The first is the one that has been silent for longest.
type BySilence = BTreeSet<(Instant, SenderId)>;

impl SenderTable {
    pub(super) fn get(&self, id: &SenderId) -> Option<&KnownSender> {
        self.by_id.get(id).map(|sender| &**sender)
    }

    /// Takes down that a datagram of a known sender, with this counter, had the right tag.
    pub(super) fn note(&mut self, id: &SenderId, counter: u64, now: Instant) {
        let Some(sender) = self.by_id.get_mut(id) else { return };
        if sender.window.admits(counter) {
            sender.window.mark(counter);
        }
        let order = match sender.class {
            Class::Newcomer => &mut self.newcomers,
            Class::Confirmed => &mut self.confirmed,
        };
        order.remove(&(sender.heard_at, *id));
        order.insert((now, *id));
        sender.heard_at = now;
    }

    /// Adds a sender whose first datagram, with this counter, had the right tag.
    pub(super) fn add(&mut self, id: SenderId, key: LessSafeKey, counter: u64, now: Instant) {
        if self.newcomers.len() >= MOST_NEWCOMERS
            && let Some((_, silent)) = self.newcomers.pop_first()
        {
            self.by_id.remove(&silent);
        }
        let mut window = Window::default();
        window.mark(counter);
        let sender = KnownSender { key, window, class: Class::Newcomer, heard_at: now };
        self.by_id.insert(id, Box::new(sender));
        self.newcomers.insert((now, id));
    }

    /// Keeps a sender apart from newcomers. Does nothing if it is forgotten by now.
    pub(super) fn confirm(&mut self, id: &SenderId) {
        let Some(sender) = self.by_id.get_mut(id) else { return };
        if sender.class == Class::Confirmed {
            return;
        }
        sender.class = Class::Confirmed;
        let place = (sender.heard_at, *id);
        self.newcomers.remove(&place);
        if self.confirmed.len() >= MOST_SENDERS
            && let Some((_, silent)) = self.confirmed.pop_first()
        {
            self.by_id.remove(&silent);
        }
        self.confirmed.insert(place);
    }

    /// Forgets the senders of all keys that are not in the ring.
    pub(super) fn retain_keys(&mut self, keyring: &Keyring) {
        let is_kept = |id: &SenderId| {
            !rule(ProtocolMutant::RemovedKeysOpened, true) || keyring.by_id(id.key).is_some()
        };
        self.by_id.retain(|id, _| is_kept(id));
        self.newcomers.retain(|(_, id)| is_kept(id));
        self.confirmed.retain(|(_, id)| is_kept(id));
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }
}

impl fmt::Debug for SenderTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (newcomers, confirmed) = (self.newcomers.len(), self.confirmed.len());
        write!(f, "SenderTable({newcomers} newcomers, {confirmed} confirmed)")
    }
}
