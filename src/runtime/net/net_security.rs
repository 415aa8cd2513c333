//! What a node secures its connections with, and which ones it lets in.

#![forbid(unsafe_code)]

use std::sync::Arc;

use super::kinds::Kinds;
use super::secured::Secured;
use super::security_error::SecurityError;
use super::tls::{TlsError, TlsSettings};
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

    /// Whether it would let this connection in now, which may have begun under another one. `None`:
    /// the connection is not secured.
    pub(super) fn admits(&self, secured: Option<&Secured>) -> Result<(), SecurityError> {
        let Some(secured) = secured else {
            return match self.is_optional() {
                true => Ok(()),
                false => Err(SecurityError::Plain),
            };
        };
        let proved = secured.proved().ok_or(SecurityError::NoProof)?;
        self.check_denied(&proved.fingerprint)?;
        if self.node.keyring.by_id(proved.key).is_none() {
            return Err(SecurityError::Opening(OpeningError::NoSuchKey(proved.key)));
        }
        match secured.is_secured_by(self) {
            true => Ok(()),
            false => secured.judge_again(self),
        }
    }

    /// Whether a connection that this node opened would be opened with the same cluster key now,
    /// and the same key or certificate of the node. One that goes on with an older certificate
    /// would end when that runs out.
    pub(super) fn opens_so(&self, secured: &Secured) -> bool {
        let has_key = |proved: &Proved| self.node.keyring.sealing().id() == proved.key;
        secured.proved().is_some_and(has_key) && secured.presents() == self.kinds.to_open().hash()
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
