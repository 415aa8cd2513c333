//! What stands for secured connections without the feature `security`: there are none.

#![forbid(unsafe_code)]

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;

use mio::net::TcpStream;

use super::queue::Queue;
use super::stream::Filled;
use super::{Destination, Net, NetEvent};
use crate::clock::Instant;
use crate::security::Proved;
use crate::types::Identity;
use crate::wire::frame::FrameBuffer;
use crate::wire::message::{Hello, Proof, Refusal};

/// There is none.
pub(super) struct Securing {
    pub(super) scratch: Vec<u8>,
    _none: Infallible,
}

/// There is none.
pub(super) enum Secured {}

impl Secured {
    pub(super) fn is_securing(&self) -> bool {
        match *self {}
    }

    pub(super) fn is_in_record(&self) -> bool {
        match *self {}
    }

    pub(super) fn fill(
        &mut self,
        _: &TcpStream,
        _: &mut [u8],
        _: &mut FrameBuffer,
        _: usize,
    ) -> (usize, Filled) {
        match *self {}
    }

    pub(super) fn flush(&mut self, _: &TcpStream, _: &mut Queue) -> io::Result<usize> {
        match *self {}
    }

    pub(super) fn waiting_bytes(&self) -> usize {
        match *self {}
    }

    pub(super) fn write_no_more(&mut self) {
        match *self {}
    }

    pub(super) fn close(&mut self, _: &TcpStream, _: &mut Queue) {
        match *self {}
    }
}

impl Net {
    pub(super) fn end_changed(&mut self, _: &mut Vec<NetEvent>) {}

    pub(super) fn change_deadline(&self) -> Option<Instant> {
        None
    }

    pub(super) fn introduce(&mut self, _: &Identity) {}

    pub(super) fn allow_handshakes(&mut self) {}

    pub(super) fn may_shake_hands(&mut self, _: u64) -> bool {
        true
    }

    pub(super) fn give_step_back(&mut self, _: u64) {}

    pub(super) fn end_if_changed(&mut self, _: u64) {}

    pub(super) fn accepted_state(&self) -> Option<Box<Secured>> {
        None
    }

    pub(super) fn secure_dial(&mut self, _: u64, _: &mut Vec<NetEvent>) -> bool {
        false
    }

    pub(super) fn advance(&mut self, _: u64, _: &mut Vec<NetEvent>) -> bool {
        true
    }

    pub(super) fn forget_plain(&mut self, _: SocketAddr) {}

    pub(super) fn received_proof(&mut self, id: u64, _: &Proof, events: &mut Vec<NetEvent>) {
        self.end_for(id, &"sent a proof that nothing asks for", events);
    }

    pub(super) fn check_greeting(
        &mut self,
        _: u64,
        _: &Hello,
        _: &mut Vec<NetEvent>,
    ) -> Result<Option<Proved>, ()> {
        Ok(None)
    }

    pub(super) fn hinted(
        &mut self,
        id: u64,
        target: Destination,
        refusal: &Refusal,
        events: &mut Vec<NetEvent>,
    ) {
        self.lose(id, target, refusal.clone(), events);
    }

    pub(super) fn end_if_tls_failed(&mut self, _: u64, _: &mut Vec<NetEvent>) -> bool {
        false
    }

    pub(super) fn still_admits(&self, _: Option<&Secured>) -> bool {
        true
    }
}
