//! What a node secures its connections with, and which ones it lets in.

#![forbid(unsafe_code)]

use std::sync::Arc;

use super::kinds::Kinds;
use super::security_error::SecurityError;
use super::tls::{TlsError, TlsSettings};
use crate::security::identity::CertificateHash;
use crate::security::opening::{Offer, OpeningError, OpeningFlags};
use crate::security::proof::Introduction;
use crate::security::{Fingerprint, NodeSecurity, Proved};
use crate::types::{ClusterHash, Identity};

/// What the connections of a node are secured with: shared by its threads.
pub(crate) struct NetSecurity {
    pub(super) node: Arc<NodeSecurity>,
    pub(super) cluster: ClusterHash,
    pub(super) kinds: Kinds,
}

impl NetSecurity {
    /// Makes what the connections of this node in this cluster are secured with.
    pub(crate) fn new(
        node: Arc<NodeSecurity>,
        cluster: ClusterHash,
    ) -> Result<Arc<Self>, TlsError> {
        let kinds = Kinds::new(&node)?;
        Ok(Arc::new(Self { node, cluster, kinds }))
    }

    /// Whether connections that are not secured are taken, too.
    pub(super) fn is_optional(&self) -> bool {
        self.node.is_optional
    }

    /// Returns what this life of the node signs about itself.
    pub(super) fn introduce(&self, identity: &Identity) -> Introduction {
        let NodeSecurity { identity: key, flags, .. } = &*self.node;
        Introduction::new(key, self.cluster, identity, *flags)
    }

    /// Whether it would let a connection in now that is not secured.
    pub(super) fn admits_plain(&self) -> Result<(), SecurityError> {
        if self.is_optional() { Ok(()) } else { Err(SecurityError::Plain) }
    }

    /// Whether it would let in now what the other end of a connection has proved.
    pub(super) fn admits(&self, proved: &Proved) -> Result<(), SecurityError> {
        self.check_denied(&proved.fingerprint)?;
        match self.node.keyring.by_id(proved.key) {
            Some(_) => Ok(()),
            None => Err(SecurityError::Opening(OpeningError::NoSuchKey(proved.key))),
        }
    }

    /// Whether a connection that this node opened would be opened with the same cluster key now,
    /// and the same key or certificate of the node. One that goes on with an older certificate
    /// would end when that runs out.
    pub(super) fn opens_so(&self, proved: &Proved, presents: CertificateHash) -> bool {
        self.node.keyring.sealing().id() == proved.key && presents == self.kinds.to_open().hash()
    }

    /// Whether this was proved by the node itself.
    pub(super) fn is_own(&self, proved: &Proved) -> bool {
        proved.fingerprint == self.node.identity.fingerprint()
    }

    pub(super) fn check_denied(&self, fingerprint: &Fingerprint) -> Result<(), SecurityError> {
        match self.node.denied.contains(fingerprint) {
            true => Err(SecurityError::Denied(*fingerprint)),
            false => Ok(()),
        }
    }

    pub(super) fn offer(&self, settings: &TlsSettings) -> Offer {
        let mut flags = settings.kind().flags();
        if self.is_optional() {
            flags = flags.with(OpeningFlags::SPEAKS_PLAIN);
        }
        Offer { flags, certificate: settings.hash() }
    }

    /// Returns the text that tells a host which keys are accepted here. It names no node: it is
    /// sent to hosts that have proved nothing.
    pub(super) fn accepted_keys(&self) -> String {
        let ids: Vec<String> = self.node.keyring.iter().map(|keys| keys.id().to_string()).collect();
        ids.join(", ")
    }
}
