//! What stands for `Sealed` without the feature `security`: there is none.

use std::net::SocketAddr;

use super::codec::DatagramError;
use crate::clock::Instant;
use crate::security::senders::SenderId;
use crate::types::{ClusterHash, Identity};

/// There is none.
#[derive(Debug)]
pub(super) enum Sealed {}

impl Sealed {
    pub(super) fn is_optional(&self) -> bool {
        match *self {}
    }

    pub(super) fn seals_to(&self, _receiver: SocketAddr) -> bool {
        match *self {}
    }

    pub(super) fn has_shown_security(&self, _node: SocketAddr) -> bool {
        match *self {}
    }

    pub(super) fn has_shown(&mut self, _now: Instant, _life: &Identity, _has_security: bool) {
        match *self {}
    }

    pub(super) fn close(
        &mut self,
        _cluster: ClusterHash,
        _receiver: SocketAddr,
        _datagram: &[u8],
    ) -> Option<Vec<u8>> {
        match *self {}
    }

    pub(super) fn open<'a>(
        &mut self,
        _cluster: ClusterHash,
        _now: Instant,
        _own: SocketAddr,
        _bytes: &'a mut [u8],
    ) -> Result<(&'a [u8], SenderId), DatagramError> {
        match *self {}
    }

    pub(super) fn confirm(&mut self, _sender: &SenderId) {
        match *self {}
    }
}
