//! One link's share of a pass: what it reads, what it writes, and when it must come back.

#![forbid(unsafe_code)]

use std::io;

use super::connection::Filled;
use super::{DialStep, LinkStage, Net, NetEvent, Outgoing, READ_BUDGET_BYTES, REQUESTS_PER_PASS};
use crate::wire::message::Frame;

impl Net {
    /// Reads one link until nothing is left or its share of the pass is used up.
    ///
    /// What is in the buffer goes first, so that the buffer holds no more than one pass's bytes
    /// beyond a frame.
    pub(super) fn read_link(&mut self, id: u64, events: &mut Vec<NetEvent>) {
        let mut filled = None;
        let mut requests = 0;
        loop {
            let Some(link) = self.links.get_mut(&id) else { return };
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
            match link.connection.next_frame() {
                Ok(Some(frame)) => {
                    self.counters.frames_in += 1;
                    self.received(id, frame, events);
                }
                Err(error) => return self.end_for(id, &error, events),
                Ok(None) => match filled {
                    None => {
                        let (count, end) = link.connection.fill(READ_BUDGET_BYTES);
                        self.counters.bytes_in += count as u64;
                        if let (1.., LinkStage::Outgoing(outgoing)) = (count, &mut link.stage) {
                            outgoing.silent_since = None;
                        }
                        filled = Some(end);
                    }
                    Some(Filled::Drained) if broken => {
                        return self.end(id, io::ErrorKind::BrokenPipe, events);
                    }
                    Some(Filled::Drained) => return,
                    Some(Filled::Stopped) => {
                        self.unread.insert(id);
                        return;
                    }
                    Some(Filled::Ended(kind)) => return self.end(id, kind, events),
                },
            }
        }
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
