//! What an [`Envelope`](super::envelope::Envelope) has if the node has a cluster key.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::codec::{self, DatagramError, HEAD_BYTES, SEALED_GROWS_BY};
use super::openers::Openers;
use crate::clock::Instant;
use crate::security::seal::{Opener, SEALED_HEADER_BYTES, SEALED_OVERHEAD_BYTES, Sealer};
use crate::security::senders::SenderId;
use crate::security::{Fingerprint, NodeSecurity, Sealing};
use crate::types::{ClusterHash, Identity};

const _: () = assert!(SEALED_OVERHEAD_BYTES - HEAD_BYTES == SEALED_GROWS_BY);

/// What both sides know and no sealed datagram carries.
fn context(cluster: ClusterHash, receiver: SocketAddr) -> [u8; HEAD_BYTES + 18] {
    let mut bytes = [0; HEAD_BYTES + 18];
    let (head, address) = bytes.split_at_mut(HEAD_BYTES);
    head.copy_from_slice(&codec::head(cluster));
    let ip = match receiver.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    address[..16].copy_from_slice(&ip.octets());
    address[16..].copy_from_slice(&receiver.port().to_le_bytes());
    bytes
}

#[derive(Debug)]
pub(super) struct Sealed {
    security: Arc<NodeSecurity>,
    sealer: Sealer,
    opener: Opener,
    openers: Openers,
}

impl Sealed {
    pub(super) fn new(sealing: Sealing) -> Self {
        let Sealing { security, suite, salt } = sealing;
        Self {
            sealer: Sealer::new(&security.keyring, suite, salt),
            security,
            opener: Opener::default(),
            openers: Openers::default(),
        }
    }

    pub(super) fn use_security(&mut self, security: Arc<NodeSecurity>) {
        self.sealer.use_keyring(&security.keyring);
        self.opener.retain_keys(&security.keyring);
        self.security = security;
    }

    pub(super) fn denies(&self, key: &Fingerprint) -> bool {
        self.security.denied.contains(key)
    }

    /// Whether plain datagrams are opened, too.
    pub(super) fn is_optional(&self) -> bool {
        self.security.is_optional
    }

    /// Whether datagrams for this receiver are sealed.
    pub(super) fn seals_to(&self, receiver: SocketAddr) -> bool {
        !self.is_optional() || self.has_shown_security(receiver)
    }

    pub(super) fn has_shown_security(&self, node: SocketAddr) -> bool {
        self.openers.has(node)
    }

    pub(super) fn has_shown(&mut self, now: Instant, life: &Identity, has_security: bool) {
        self.openers.note(now, life, has_security);
    }

    pub(super) fn close(
        &mut self,
        cluster: ClusterHash,
        receiver: SocketAddr,
        datagram: &[u8],
    ) -> Option<Vec<u8>> {
        let plain = datagram.get(HEAD_BYTES..)?;
        let mut out = Vec::new();
        self.sealer.seal(plain, &context(cluster, receiver), &mut out).ok()?;
        Some(out)
    }

    /// Opens a sealed datagram in place. Returns the plain one and its sender.
    pub(super) fn open<'a>(
        &mut self,
        cluster: ClusterHash,
        now: Instant,
        own: SocketAddr,
        bytes: &'a mut [u8],
    ) -> Result<(&'a [u8], SenderId), DatagramError> {
        let opened =
            self.opener.open(&self.security.keyring, now, &context(cluster, own), bytes)?;
        let (sender, end) = (opened.sender, SEALED_HEADER_BYTES + opened.plain.len());
        // The head of the plain datagram is put before what was sealed.
        let start = SEALED_HEADER_BYTES - HEAD_BYTES;
        bytes[start..SEALED_HEADER_BYTES].copy_from_slice(&codec::head(cluster));
        let datagram = &bytes[start..end];
        if let Some((life, _)) = codec::sent_by(cluster, datagram) {
            self.openers.note(now, &life, true);
        }
        Ok((datagram, sender))
    }

    pub(super) fn confirm(&mut self, sender: &SenderId) {
        self.opener.confirm(sender);
    }
}
