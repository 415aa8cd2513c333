//! One link's share of a pass: what it reads, what it writes, and when it must come back.

#![forbid(unsafe_code)]

use std::io;

use super::stream::Filled;
use super::{DialStep, LinkStage, Net, NetEvent, NetLink, Outgoing, REQUESTS_PER_PASS};
use crate::logging;
use crate::wire::frame::FrameError;
use crate::wire::message::{Frame, Refusal, RefusalReason};

impl Net {
    /// Reads one link until nothing is left or its share of the pass is used up.
    ///
    /// What is in the buffer goes first, so that the buffer holds one frame, or what is usual.
    pub(super) fn read_link(&mut self, id: u64, events: &mut Vec<NetEvent>) {
        let Some(mut budget) = self.links.get(&id).map(NetLink::read_budget_bytes) else { return };
        let mut filled = Filled::Stopped;
        let mut requests = 0;
        loop {
            let Some(mut link) = self.links.get_mut(&id) else { return };
            let mut broken = false;
            match &link.stage {
                LinkStage::Outgoing(Outgoing { step: DialStep::Dialling, .. }) => return,
                LinkStage::Outgoing(Outgoing { step, .. }) => broken = *step == DialStep::Broken,
                LinkStage::Greeted | LinkStage::Serving { paused: true } => return,
                LinkStage::Refusing { .. } => return self.linger(id),
                LinkStage::Stranger | LinkStage::Serving { .. } => requests += 1,
            }
            if requests > REQUESTS_PER_PASS {
                self.unread.insert(id);
                return;
            }
            if let Some(frame) = link.held_back.pop_front() {
                self.received(id, frame, events);
                continue;
            }
            link.connection.shrink();
            if link.connection.is_securing() {
                if !self.advance(id, events) {
                    return;
                }
                let Some(advanced) = self.links.get_mut(&id) else { return };
                link = advanced;
            }
            match (link.connection.next_frame(), filled) {
                (Ok(Some(frame)), _) => {
                    link.large_since = None;
                    self.counters.frames_in += 1;
                    self.received(id, frame, events);
                }
                (Err(error), _)
                    if link.connection.secured().is_none() && link.connection.begins_secured() =>
                {
                    return self.has_no_security(id, &error, events);
                }
                (Err(error), _) => return self.end_for(id, &error, events),
                (Ok(None), Filled::Drained) if broken => {
                    return self.end(id, io::ErrorKind::BrokenPipe, events);
                }
                (Ok(None), Filled::Drained) => return self.watch_frame(id),
                (Ok(None), Filled::Ended(kind)) => {
                    if !self.end_if_tls_failed(id, events) {
                        self.end(id, kind, events);
                    }
                    return;
                }
                (Ok(None), Filled::Stopped) if budget == 0 => {
                    self.unread.insert(id);
                    return;
                }
                (Ok(None), Filled::Stopped) => {
                    if !self.may_fill(id) || !self.may_shake_hands(id) {
                        return;
                    }
                    let count;
                    (count, filled) = self.fill(id, budget);
                    budget -= count;
                }
            }
        }
    }

    /// Reads from the socket. Returns how many bytes came, and why no more did.
    fn fill(&mut self, id: u64, budget: usize) -> (usize, Filled) {
        let Some(link) = self.links.get_mut(&id) else { return (0, Filled::Drained) };
        let scratch = self.securing.as_mut().map_or(&mut [][..], |it| &mut it.scratch);
        let (count, filled) = link.connection.fill(scratch, budget);
        self.counters.bytes_in += count as u64;
        if count > 0 {
            if link.connection.wants_write() {
                self.dirty.insert(id);
            }
            link.heard_at = self.now;
            if let LinkStage::Outgoing(outgoing) = &mut link.stage {
                outgoing.silent_since = None;
            }
        }
        if link.connection.excess_bytes() > 0 && link.large_since.is_none() {
            link.large_since = Some(self.now);
        }
        if count == 0 {
            self.give_step_back(id);
        }
        (count, filled)
    }

    /// A host wants a secured connection, and this node secures none. It is told so, if it is no
    /// member.
    fn has_no_security(&mut self, id: u64, why: &FrameError, events: &mut Vec<NetEvent>) {
        let is_stranger =
            self.links.get(&id).is_some_and(|link| matches!(link.stage, LinkStage::Stranger));
        if !is_stranger {
            return self.end_for(id, why, events);
        }
        self.counters.not_secured += 1;
        if let Some(silent) = self.unsecured.add(self.now)
            && let Some(link) = self.links.get(&id)
        {
            logging::warn!(
                "{} wants a secured connection, and this node has no security: give it the \
                 cluster key (Config::security), or take it from the other ({silent} others were \
                 refused so since the last such line)",
                link.connection.peer()
            );
        }
        let text = "it has no security: give it the cluster key (Config::security)".to_owned();
        self.turn_down(id, Refusal { reason: RefusalReason::NoSecurity, text });
    }

    fn received(&mut self, id: u64, frame: Frame, events: &mut Vec<NetEvent>) {
        match self.links.get(&id).map(|link| &link.stage) {
            Some(LinkStage::Outgoing(outgoing)) => {
                let (target, step) = (outgoing.target, outgoing.step);
                self.received_answer(id, target, step, frame, events);
            }
            Some(stage) => {
                let first = matches!(stage, LinkStage::Stranger);
                self.received_request(id, first, frame, events);
            }
            None => {}
        }
    }

    /// Returns the event, unless it is a request of a connection whose answers pile up. Such a
    /// request is given out again when half of them are written.
    ///
    /// For each event that the net reported, just before the thread acts on it: the requests of a
    /// pass are reported together, and the answer to the first one can be large.
    pub(crate) fn admit(&mut self, event: NetEvent) -> Option<NetEvent> {
        let NetEvent::Request { connection, frame } = event else { return Some(event) };
        match self.links.get_mut(&connection.0) {
            Some(link) if matches!(link.stage, LinkStage::Serving { paused: true }) => {
                link.held_back.push_back(frame);
                self.counters.held_back += 1;
                None
            }
            _ => Some(NetEvent::Request { connection, frame }),
        }
    }

    /// Writes what one link has queued, and takes up what waited for that.
    pub(super) fn write_link(&mut self, id: u64, events: &mut Vec<NetEvent>) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if matches!(&link.stage, LinkStage::Outgoing(Outgoing { step: DialStep::Dialling, .. })) {
            return;
        }
        let written = link.connection.flush();
        let left = link.connection.queued_bytes();
        match (written, &mut link.stage) {
            (Ok(count), stage) => {
                self.counters.bytes_out += count as u64;
                if count > 0 {
                    link.taken_at = self.now;
                }
                match stage {
                    LinkStage::Serving { paused } if *paused && left < self.answers_high / 2 => {
                        *paused = false;
                        self.unread.insert(id);
                    }
                    LinkStage::Refusing { finished } if !*finished && left == 0 => {
                        *finished = true;
                        link.connection.finish_writing();
                    }
                    _ => {}
                }
                if left > 0 {
                    self.watch_answers(id);
                }
            }
            (Err(_), LinkStage::Outgoing(outgoing)) => {
                outgoing.step = outgoing.step.broken();
                link.connection.drop_queue();
                self.unread.insert(id);
            }
            (Err(error), _) => self.end(id, error.kind(), events),
        }
    }
}
