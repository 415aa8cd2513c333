//! How the connections of a thread are secured, and judged again when a node's security changes.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::secured::{Advance, Secured, Securing};
use super::security_error::SecurityError;
use super::{
    Destination, DialStep, HELLO_TIMEOUT, LinkStage, Net, NetEvent, NetSecurity, Outgoing,
    handshake,
};
use crate::clock::Instant;
use crate::logging;
use crate::runtime::random;
use crate::security::Proved;
use crate::security::known::KnownKeys;
use crate::types::Identity;
use crate::wire::message::{Hello, Message, Proof, Refusal, RefusalReason};

/// How many steps of TLS handshakes a thread that accepts connections takes in one pass, of some
/// 0.2 ms each (some milliseconds for a wrong chain of certificates). Nodes that start at once do
/// not keep it from answering probes.
pub(super) const HANDSHAKES_PER_PASS: usize = 8;

/// How many steps of TLS handshakes a core takes in one pass: its calls wait for them.
const HANDSHAKES_PER_CORE_PASS: usize = 1;

/// What is read in one system call of a secured connection.
const SCRATCH_BYTES: usize = 64 << 10;

/// For how long an address that speaks without security is dialled so, where security is optional.
/// Then it is asked again.
const PLAIN_FOR: Duration = Duration::from_secs(60);

/// How many such addresses are remembered; the one to be asked again first is forgotten.
const MOST_PLAIN: usize = 1024;

/// Over how long connections end that a change of a node's security ends, so that not all are
/// opened again at once.
const CHANGE_SPREAD: Duration = Duration::from_secs(5);

/// What the text of a refusal is cut to that came without security: it may be by any host.
const MAX_HINT_BYTES: usize = 300;

impl Net {
    /// Secures connections with this from now on. Those that it would not have let in, and those
    /// of this node that it would open with another key, end within [`CHANGE_SPREAD`]; their peers,
    /// or this node, open them again.
    pub(crate) fn secure(&mut self, now: Instant, security: Arc<NetSecurity>) {
        self.now = now;
        let introduction = self.identity.map(|identity| security.introduce(&identity));
        let Some(securing) = &mut self.securing else {
            self.securing = Some(Box::new(Securing {
                security,
                introduction,
                scratch: vec![0; SCRATCH_BYTES],
                handshakes_left: 0,
                plain_until: BTreeMap::new(),
                known: Arc::default(),
                ends_at: BTreeSet::new(),
            }));
            return;
        };
        securing.security = security;
        securing.introduction = introduction;
        securing.plain_until.clear();
        securing.ends_at.clear();
        let ids: Vec<u64> = self.links.keys().copied().collect();
        for (number, id) in ids.iter().enumerate() {
            let at = self.now + CHANGE_SPREAD / ids.len() as u32 * number as u32;
            // Chains are judged when their time has come: to do it for all at once takes long.
            if (self.has_certificate(*id) || self.ends_by_change(*id))
                && let Some(securing) = &mut self.securing
            {
                securing.ends_at.insert((at, *id));
            }
        }
    }

    /// Lives of nodes have these keys. Connections end over which another key was proved in the
    /// name of one of them.
    pub(crate) fn know_keys(&mut self, now: Instant, keys: Arc<KnownKeys>) {
        self.now = now;
        let Some(securing) = &mut self.securing else { return };
        securing.known = keys;
        for (id, link) in &self.links {
            if link.connection.secured().is_some_and(|secured| securing.is_impostor(secured)) {
                securing.ends_at.insert((now, *id));
            }
        }
    }

    fn has_certificate(&self, id: u64) -> bool {
        let secured = self.links.get(&id).and_then(|link| link.connection.secured());
        secured.is_some_and(Secured::has_certificate)
    }

    /// Whether a link would not be let in, or be opened otherwise, if it were opened now.
    fn ends_by_change(&self, id: u64) -> bool {
        let (Some(securing), Some(link)) = (&self.securing, self.links.get(&id)) else {
            return false;
        };
        let is_open = match &link.stage {
            LinkStage::Outgoing(outgoing) => outgoing.step == DialStep::Open,
            LinkStage::Serving { .. } | LinkStage::Greeted => true,
            LinkStage::Stranger | LinkStage::Refusing { .. } => false,
        };
        if !is_open {
            // It is judged when it has proved itself.
            return false;
        }
        let secured = link.connection.secured();
        let is_own = matches!(link.stage, LinkStage::Outgoing(_));
        let is_old = secured.is_some_and(|it| !it.is_opened_so_by(&securing.security));
        let is_impostor = secured.is_some_and(|secured| securing.is_impostor(secured));
        is_impostor || is_own && is_old || admits(&securing.security, secured).is_err()
    }

    /// Ends the links whose time has come after a change.
    pub(super) fn end_changed(&mut self, events: &mut Vec<NetEvent>) {
        let now = self.now;
        let Some(securing) = &mut self.securing else { return };
        let later = securing.ends_at.split_off(&(now, u64::MAX));
        for (_, id) in std::mem::replace(&mut securing.ends_at, later) {
            if self.ends_by_change(id) {
                self.end(id, std::io::ErrorKind::ConnectionAborted, events);
            }
        }
    }

    /// Returns when the next of them ends.
    pub(super) fn change_deadline(&self) -> Option<Instant> {
        self.securing.as_ref()?.ends_at.first().map(|(at, _)| *at)
    }

    /// A connection was welcomed. If the security has changed since it was begun, it may have to be
    /// opened with another key.
    pub(super) fn end_if_changed(&mut self, id: u64) {
        if self.ends_by_change(id)
            && let Some(securing) = &mut self.securing
        {
            securing.ends_at.insert((self.now, id));
        }
    }

    /// This node goes on as this identity.
    pub(super) fn introduce(&mut self, identity: &Identity) {
        if let Some(securing) = &mut self.securing {
            securing.introduction = Some(securing.security.introduce(identity));
        }
    }

    /// A pass begins.
    pub(super) fn allow_handshakes(&mut self) {
        let most = if self.accepts { HANDSHAKES_PER_PASS } else { HANDSHAKES_PER_CORE_PASS };
        self.securing.iter_mut().for_each(|securing| securing.handshakes_left = most);
    }

    /// Takes one step of a handshake, if this link is about to. Returns whether it may read.
    ///
    /// An accepted one that has shown nothing yet waits while as many as may be are shaking hands.
    /// To push these out would throw away what was done for them, and they would dial again. One of
    /// them that has had half of its time goes: a host can send recordings.
    pub(super) fn may_shake_hands(&mut self, id: u64) -> bool {
        // Without security, no link is looked up for it.
        let Some(securing) = &mut self.securing else { return true };
        let Some(link) = self.links.get(&id) else { return true };
        let Some(secured) = link.connection.secured() else { return true };
        if secured.is_at_gate() && matches!(link.stage, LinkStage::Stranger) {
            return self.strangers.has_room() || self.make_room(id);
        }
        if !secured.is_handshaking() {
            return true;
        }
        if securing.handshakes_left == 0 {
            self.unread.insert(id);
            return false;
        }
        securing.handshakes_left -= 1;
        true
    }

    /// Whether there is room for one more that shakes hands, as the oldest has had its time. If
    /// there is none, this one waits.
    fn make_room(&mut self, id: u64) -> bool {
        let oldest = self.strangers.oldest_past_gate();
        let ends_at = oldest.and_then(|oldest| self.links.get(&oldest)?.deadline);
        match (oldest, ends_at) {
            (Some(oldest), Some(at)) if at <= self.now + HELLO_TIMEOUT / 2 => {
                self.counters.strangers_closed += 1;
                self.remove(oldest);
                true
            }
            _ => {
                self.strangers.wait(id);
                false
            }
        }
    }

    /// A link has read nothing, so that it took no step of a handshake.
    pub(super) fn give_step_back(&mut self, id: u64) {
        if let Some(securing) = &mut self.securing
            && let Some(link) = self.links.get(&id)
            && link.connection.secured().is_some_and(Secured::is_handshaking)
        {
            securing.handshakes_left += 1;
        }
    }

    /// Secures an accepted connection, if this node secures any.
    pub(super) fn accepted_state(&self) -> Option<Box<Secured>> {
        self.securing.as_ref().map(|securing| Secured::acceptor(&securing.security))
    }

    /// Begins to secure a connection that this node has opened. `false`: it is opened without.
    pub(super) fn secure_dial(&mut self, id: u64, events: &mut Vec<NetEvent>) -> bool {
        let now = self.now;
        let (Some(securing), Some(link)) = (&mut self.securing, self.links.get_mut(&id)) else {
            return false;
        };
        let LinkStage::Outgoing(outgoing) = &mut link.stage else { return false };
        let addr = outgoing.target.addr;
        if securing.security.is_optional()
            && securing.plain_until.get(&addr).is_some_and(|until| *until > now)
        {
            return false;
        }
        let mut nonce = [0; 24];
        let secured = match random::fill(&mut nonce) {
            Ok(()) => Secured::opener(&securing.security, nonce),
            Err(error) => Err(SecurityError::NoRandom(error.to_string())),
        };
        match secured {
            Ok(secured) => {
                outgoing.step = DialStep::Securing;
                link.connection.secure(Some(secured));
                self.dirty.insert(id);
            }
            Err(error) => self.not_secured(id, &error, events),
        }
        true
    }

    /// Goes on with the steps of a secured connection before frames. Returns whether it may read
    /// on.
    pub(super) fn advance(&mut self, id: u64, events: &mut Vec<NetEvent>) -> bool {
        loop {
            let Some(link) = self.links.get_mut(&id) else { return false };
            let Some(secured) = link.connection.secured_mut() else { return true };
            match secured.advance() {
                Ok(Advance::Waits) => return true,
                Ok(Advance::Opened) => {
                    self.dirty.insert(id);
                    self.strangers.pass_gate(id);
                }
                Ok(Advance::Plain) => return self.speaks_plainly(id, events),
                Ok(Advance::Established) => self.established(id),
                Err(error) => {
                    self.not_secured(id, &error, events);
                    return false;
                }
            }
        }
    }

    /// TLS is up, with the key that was named. The opener proves itself, and greets.
    fn established(&mut self, id: u64) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let LinkStage::Outgoing(outgoing) = &mut link.stage else { return };
        outgoing.step = DialStep::Greeting;
        self.prove(id);
        self.greet(id);
    }

    fn prove(&mut self, id: u64) {
        let (Some(securing), Some(link)) = (&self.securing, self.links.get_mut(&id)) else {
            return;
        };
        let (Some(introduction), Some(secured)) =
            (&securing.introduction, link.connection.secured_mut())
        else {
            return;
        };
        if let Some(proof) = secured.prove(introduction) {
            self.queue(id, handshake(Message::Proof(proof)));
        }
    }

    /// The other end does not begin as a secured one does. Returns whether it is read on.
    fn speaks_plainly(&mut self, id: u64, events: &mut Vec<NetEvent>) -> bool {
        let (Some(securing), Some(link)) = (&self.securing, self.links.get_mut(&id)) else {
            return false;
        };
        let is_dial = matches!(link.stage, LinkStage::Outgoing(_));
        if !is_dial && !securing.security.is_optional() {
            self.not_secured(id, &SecurityError::Plain, events);
            return false;
        }
        // A dial takes a refusal, and nothing else: `received_answer` sees to that.
        let Some(secured) = link.connection.secured() else { return true };
        let bytes = secured.plain_bytes().to_vec();
        link.connection.secure(None);
        link.connection.received_plainly(&bytes);
        true
    }

    /// The node at the address of a dial says, without proof, that it has no security. Where that
    /// is taken, it is remembered.
    fn note_plain(&mut self, addr: SocketAddr) {
        let now = self.now;
        let Some(securing) = &mut self.securing else { return };
        if !securing.security.is_optional() {
            return;
        }
        let plain = &mut securing.plain_until;
        plain.retain(|_, until| *until > now);
        if plain.len() >= MOST_PLAIN
            && let Some(first) = plain.iter().min_by_key(|(_, until)| **until).map(|(at, _)| *at)
        {
            plain.remove(&first);
        }
        plain.insert(addr, now + PLAIN_FOR);
    }

    /// Checks a PROOF, and proves this end as well if it has accepted the connection.
    pub(super) fn received_proof(&mut self, id: u64, proof: &Proof, events: &mut Vec<NetEvent>) {
        let (Some(securing), Some(link)) = (&self.securing, self.links.get_mut(&id)) else {
            return self.end_for(id, &"sent a proof that nothing asks for", events);
        };
        let security = securing.security.clone();
        let is_accepted = !matches!(link.stage, LinkStage::Outgoing(_));
        let Some(secured) = link.connection.secured_mut() else {
            return self.end_for(id, &"sent a proof that nothing asks for", events);
        };
        let checked = secured.check_proof(proof);
        match checked.and_then(|()| secured.is_admitted_by(&security)) {
            Ok(()) if is_accepted => self.prove(id),
            Ok(()) => {}
            Err(error) => self.not_secured(id, &error, events),
        }
    }

    /// Whether a HELLO or WELCOME is by the node that has proved itself; what that has proved, or
    /// `None` on a connection without security. `Err`: the connection has ended.
    pub(super) fn check_greeting(
        &mut self,
        id: u64,
        hello: &Hello,
        events: &mut Vec<NetEvent>,
    ) -> Result<Option<Proved>, ()> {
        let (Some(securing), Some(link)) = (&self.securing, self.links.get_mut(&id)) else {
            return Ok(None);
        };
        let checked = match link.connection.secured_mut() {
            Some(secured) => secured.check_greeting(&hello.identity, &hello.node_id).map(Some),
            None => Ok(None),
        };
        // What this node requires may have changed since the connection began.
        let checked = checked.and_then(|proved| {
            admits(&securing.security, link.connection.secured())?;
            let is_own_place = self.identity.is_some_and(|own| {
                (own.node, own.addr) == (hello.identity.node, hello.identity.addr)
            });
            if is_own_place && proved.is_some_and(|it| !securing.security.is_own(&it)) {
                return Err(SecurityError::OwnName);
            }
            // The control thread has more to say of an accepted connection.
            if let Some(proved) = proved.as_ref().filter(|_| !self.accepts) {
                securing.check_known(&hello.identity, proved)?;
            }
            Ok(proved)
        });
        checked.map_err(|error| self.not_secured(id, &error, events))
    }

    /// Ends a connection that cannot be secured. An opener is told why.
    pub(super) fn not_secured(&mut self, id: u64, why: &SecurityError, events: &mut Vec<NetEvent>) {
        self.counters.not_secured += 1;
        let Some(link) = self.links.get_mut(&id) else { return };
        let peer = link.connection.peer();
        if let LinkStage::Outgoing(Outgoing { target, .. }) = &link.stage {
            let target = *target;
            let text = format!("the connection to {peer} is not secured: {why}");
            let refusal = Refusal { reason: RefusalReason::Security, text };
            if let SecurityError::Denied(key) = *why {
                events.push(NetEvent::Denied { target, key });
            }
            return self.lose(id, target, refusal, events);
        }
        match self.unsecured.add(self.now) {
            Some(others) => {
                logging::warn!(
                    "{peer} is not let in: {why} ({others} others were not since the last such \
                     line)"
                );
                events.push(NetEvent::NotSecured { peer, reason: why.to_string(), others });
            }
            None => logging::debug!("{peer} is not let in: {why}"),
        }
        if !why.may_be_told() {
            return self.end(id, std::io::ErrorKind::InvalidData, events);
        }
        if link.connection.secured().is_some_and(Secured::is_at_gate) {
            // Nothing was written yet, and the other end takes a plain refusal for OPENED.
            link.connection.secure(None);
        }
        self.turn_down(id, Refusal { reason: RefusalReason::Security, text: why.to_string() });
    }

    /// Takes a refusal that came without security over a connection that was to have some: a hint
    /// by any host, which is shown. It decides a pause, and where security is optional, how this
    /// address is dialled.
    pub(super) fn hinted(
        &mut self,
        id: u64,
        target: Destination,
        refusal: &Refusal,
        events: &mut Vec<NetEvent>,
    ) {
        let mut reason = RefusalReason::Security;
        match refusal.reason {
            RefusalReason::NoSecurity => self.note_plain(target.addr),
            // That passes by itself. It is said before there is any security.
            RefusalReason::Full => reason = RefusalReason::Full,
            _ => {}
        }
        let text = &refusal.text;
        let text = &text[..text.floor_char_boundary(MAX_HINT_BYTES)];
        let text = format!("it answers without security, and says: {text:?}");
        self.lose(id, target, Refusal { reason, text }, events);
    }

    /// A connection without security to this address was refused, or has ended: what listens there
    /// now might have security.
    pub(super) fn forget_plain(&mut self, addr: SocketAddr) {
        if let Some(securing) = &mut self.securing {
            securing.plain_until.remove(&addr);
        }
    }

    /// Ends a link whose TLS has failed, if it has.
    pub(super) fn end_if_tls_failed(&mut self, id: u64, events: &mut Vec<NetEvent>) -> bool {
        let Some(link) = self.links.get(&id) else { return false };
        let Some(secured) = link.connection.secured() else { return false };
        let Some(error) = secured.failure().cloned() else { return false };
        let is_new = match &link.stage {
            LinkStage::Outgoing(outgoing) => outgoing.step.is_opening(),
            LinkStage::Stranger => true,
            _ => false,
        };
        if is_new {
            self.not_secured(id, &SecurityError::Tls(error), events);
        } else {
            self.end_for(id, &error, events);
        }
        true
    }

    /// Whether a thread of this node would let this connection in, which another one has accepted.
    pub(super) fn still_admits(&self, secured: Option<&Secured>) -> bool {
        self.securing.as_ref().is_none_or(|it| admits(&it.security, secured).is_ok())
    }
}

/// Whether this security lets a connection in, which may have begun under an earlier one. `None`:
/// it is not secured.
fn admits(security: &NetSecurity, secured: Option<&Secured>) -> Result<(), SecurityError> {
    match secured {
        Some(secured) => secured.is_admitted_by(security),
        None => security.admits_plain(),
    }
}
