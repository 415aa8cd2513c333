//! The opener's side of a connection: dial when there is something to say, say HELLO, judge the
//! WELCOME, then ask.

#![forbid(unsafe_code)]

use std::io;

use mio::net::TcpStream;

use super::connection::Connection;
use super::dials::{MOST_CONTROL_DIALS, MOST_DIALS};
use super::stream::cost;
use super::{
    Destination, DialStep, LinkStage, LossCause, Net, NetEvent, OPEN_TIMEOUT, Outgoing, SILENCE,
    handshake,
};
use crate::clock::Instant;
use crate::logging;
use crate::wire::codec;
use crate::wire::message::{
    Channel, ControlMessage, Frame, Hello, Message, Refusal, RefusalReason,
};

/// The way to a destination.
enum Way {
    Link(u64),
    /// There is none any more, and that is still to be reported. The report covers what is sent
    /// until then.
    Lost,
    /// There is none, and it is too early to dial.
    Later,
}

impl Net {
    /// Queues a frame, and dials if there is no connection yet; the frame goes out with the first
    /// [`flush`](Net::flush) after the welcome.
    ///
    /// Returns whether it was taken. The peer may be so far behind that memory must not pay for
    /// more, or it may be too early to dial a core again. A connection that was lost counts as
    /// taken: its `Lost` covers the frame.
    #[must_use]
    pub(crate) fn send(&mut self, now: Instant, target: Destination, frame: &Frame) -> bool {
        let id = match self.connection_to(now, target) {
            Way::Link(id) => id,
            Way::Lost => return true,
            Way::Later => return false,
        };
        let Some(link) = self.links.get_mut(&id) else { return true };
        let LinkStage::Outgoing(outgoing) = &mut link.stage else { return true };
        if link.connection.queued_bytes() + outgoing.waiting_bytes > self.out_limit {
            return false;
        }
        let is_answered = is_answered(&frame.message);
        let frame = codec::encode(frame);
        match outgoing.step {
            DialStep::Dialling | DialStep::Securing | DialStep::Greeting => {
                outgoing.waiting_bytes += cost(&frame);
                outgoing.waiting.push(frame);
                outgoing.waits_for_answer |= is_answered;
            }
            DialStep::Open => {
                self.queue(id, frame);
                if is_answered {
                    self.expect_answer(id);
                }
            }
            // Its loss is about to be reported, and includes this frame.
            DialStep::Broken => {}
        }
        true
    }

    /// Dials if there is no connection yet.
    pub(crate) fn open(&mut self, now: Instant, target: Destination) {
        self.connection_to(now, target);
    }

    /// Drops the connection with everything queued, and reports nothing of it any more.
    pub(crate) fn close(&mut self, target: Destination) {
        self.lost.remove(&target);
        self.forget_plain(target.addr);
        if let Some(id) = self.targets.get(&target).copied() {
            self.remove(id);
        }
    }

    /// Returns the link to this destination, which it dials if there is none.
    fn connection_to(&mut self, now: Instant, target: Destination) -> Way {
        self.now = now;
        if self.lost.contains_key(&target) {
            return Way::Lost;
        }
        if let Some(id) = self.targets.get(&target) {
            return Way::Link(*id);
        }
        let is_core = matches!(target.channel, Channel::Core(_));
        let most = if is_core { MOST_DIALS } else { MOST_CONTROL_DIALS };
        if self.opening.len() >= most || self.failed_dials.must_wait(now, &target) {
            self.counters.dials_put_off += 1;
            if is_core {
                return Way::Later;
            }
            self.lost.insert(target, LossCause::PutOff);
            return Way::Lost;
        }
        match self.dial(now, target) {
            Ok(id) => {
                self.targets.insert(target, id);
                self.opening.insert(id);
                Way::Link(id)
            }
            Err(error) => {
                logging::debug!("dialling {}: {error}", target.addr);
                self.dial_failed(target);
                self.lost.insert(target, DialStep::Dialling.cause(error.kind()));
                Way::Lost
            }
        }
    }

    /// Notes that a connection was not welcomed. The control thread has pauses of its own.
    pub(super) fn dial_failed(&mut self, target: Destination) {
        if matches!(target.channel, Channel::Core(_)) {
            self.failed_dials.failed(self.now, target);
        }
    }

    fn dial(&mut self, now: Instant, target: Destination) -> io::Result<u64> {
        let stream = TcpStream::connect(target.addr)?;
        let outgoing = Outgoing {
            target,
            step: DialStep::Dialling,
            waiting: Vec::new(),
            waiting_bytes: 0,
            waits_for_answer: false,
            silent_since: None,
        };
        let connection = Connection::new(stream, target.addr, &self.limits, None);
        self.insert(connection, LinkStage::Outgoing(outgoing), Some(now + OPEN_TIMEOUT))
    }

    /// Secures the connection or says HELLO, if this is a dial and it has come through.
    pub(super) fn finish_dial(&mut self, id: u64, events: &mut Vec<NetEvent>) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let LinkStage::Outgoing(outgoing) = &mut link.stage else { return };
        if outgoing.step != DialStep::Dialling {
            return;
        }
        match link.connection.is_connected() {
            Ok(false) => {}
            Err(error) => self.end(id, error.kind(), events),
            Ok(true) => {
                if self.identity.is_none() {
                    // The thread dialled before it knew its identity, and has nothing to greet
                    // with.
                    return self.end(id, io::ErrorKind::NotConnected, events);
                }
                outgoing.step = DialStep::Greeting;
                link.connection.tune();
                if !self.secure_dial(id, events) {
                    self.greet(id);
                }
            }
        }
    }

    /// Says HELLO.
    pub(super) fn greet(&mut self, id: u64) {
        let (Some(identity), Some(link)) = (self.identity, self.links.get(&id)) else { return };
        let LinkStage::Outgoing(outgoing) = &link.stage else { return };
        let Destination { channel, expects, .. } = outgoing.target;
        self.queue(id, handshake(Message::Hello(self.local.hello(identity, channel, expects))));
    }

    /// Takes up a frame that came over a connection that this node opened.
    pub(super) fn received_answer(
        &mut self,
        id: u64,
        target: Destination,
        step: DialStep,
        frame: Frame,
        events: &mut Vec<NetEvent>,
    ) {
        match (step, frame.message) {
            (DialStep::Securing, Message::Refused(refusal)) => {
                self.hinted(id, target, &refusal, events);
            }
            (DialStep::Greeting, Message::Proof(proof)) => {
                self.received_proof(id, &proof, events);
            }
            (DialStep::Greeting, Message::Refused(refusal))
                if refusal.reason == RefusalReason::Security =>
            {
                self.forget_plain(target.addr);
                self.lose(id, target, refusal, events);
            }
            (_, Message::Refused(refusal)) => self.lose(id, target, refusal, events),
            (DialStep::Greeting, Message::Welcome(welcome)) => {
                self.welcomed(id, target, welcome, events)
            }
            (
                DialStep::Open | DialStep::Broken,
                message @ (Message::Answer(_) | Message::Control(_)),
            ) => {
                events.push(NetEvent::Answer { target, frame: Frame { message, ..frame } });
            }
            (DialStep::Securing | DialStep::Greeting, _) => {
                self.end_for(id, &"neither welcomed nor refused us", events)
            }
            _ => self.end_for(id, &"sent what an acceptor does not send", events),
        }
    }

    fn welcomed(
        &mut self,
        id: u64,
        target: Destination,
        welcome: Hello,
        events: &mut Vec<NetEvent>,
    ) {
        let Some(identity) = self.identity else { return };
        let Ok(proved) = self.check_greeting(id, &welcome, events) else { return };
        if let Err(refusal) = self.local.judge_welcome(identity, target.expects, &welcome) {
            return self.lose(id, target, refusal, events);
        }
        let Some(link) = self.links.get_mut(&id) else { return };
        let LinkStage::Outgoing(outgoing) = &mut link.stage else { return };
        outgoing.step = DialStep::Open;
        outgoing.waiting_bytes = 0;
        let waiting = std::mem::take(&mut outgoing.waiting);
        let is_answered = std::mem::take(&mut outgoing.waits_for_answer);
        link.connection.raise_limit();
        self.set_deadline(id, None);
        for frame in waiting {
            self.queue(id, frame);
        }
        if is_answered {
            self.expect_answer(id);
        }
        self.end_if_changed(id);
        self.opening.remove(&id);
        self.failed_dials.welcomed(&target);
        self.counters.opened += 1;
        events.push(NetEvent::Opened { target, welcome, proved });
    }

    /// Something was asked over this link. The silence of its other end begins then.
    fn expect_answer(&mut self, id: u64) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let LinkStage::Outgoing(outgoing) = &mut link.stage else { return };
        if outgoing.silent_since.is_some() {
            return;
        }
        outgoing.silent_since = Some(self.now);
        // A timer that runs already, for an earlier silence or a frame, looks at this one when it
        // ends.
        let ends_at = self.now + SILENCE;
        if link.deadline.is_none_or(|at| at > ends_at) {
            self.set_deadline(id, Some(ends_at));
        }
    }

    pub(super) fn lose(
        &mut self,
        id: u64,
        target: Destination,
        refusal: Refusal,
        events: &mut Vec<NetEvent>,
    ) {
        logging::debug!("no connection with {}: {:?}", target.addr, refusal.text);
        self.remove(id);
        self.dial_failed(target);
        events.push(NetEvent::Lost { target, cause: LossCause::Refused(refusal) });
    }
}

/// Whether a thread that works answers a question within two seconds, with anything.
fn is_answered(question: &Message) -> bool {
    // A helper does not answer for a member that does not.
    !matches!(question, Message::Control(ControlMessage::AskDebt { of: Some(_), .. }))
}
