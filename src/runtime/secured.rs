//! What the traffic of a node is secured with: made when it starts, and when its app changes it.

#![forbid(unsafe_code)]

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use zeroize::Zeroizing;

use super::net::{Net, NetSecurity};
use super::processor::has_aes_instructions;
use super::random;
use crate::clock::Instant;
use crate::config::Settings;
use crate::control::Control;
use crate::error::{ConfigError, StartError, UpdateSecurityError};
use crate::events::{MemberInfo, MemberState};
use crate::security::certificates::Certificates;
use crate::security::suite::{Salt, Suite};
use crate::security::{Fingerprint, KeyId, NodeSecurity, Sealing, Security};
use crate::types::{ClusterHash, NodeHash, NodeId};

/// What the threads of a node secure its traffic with.
#[derive(Clone)]
pub(crate) struct Secured {
    pub(crate) node: Arc<NodeSecurity>,
    pub(crate) net: Arc<NetSecurity>,
}

impl Secured {
    /// Makes what this start of a node uses. `None` if its app chose no security.
    pub(super) fn at_start(
        settings: &Settings,
        cluster: ClusterHash,
    ) -> Result<Option<Self>, StartError> {
        let Some(security) = &settings.security else { return Ok(None) };
        let mut seed = Zeroizing::new([0; 32]);
        random::fill(&mut *seed)
            .map_err(|source| StartError::System { what: "drawing the node's key", source })?;
        let node = security.of_node(&settings.cluster, &seed).map_err(ConfigError::from)?;
        let secured = Self::new(node, cluster).map_err(|reason| StartError::System {
            what: "setting up TLS",
            source: io::Error::other(reason),
        })?;
        Ok(Some(secured))
    }

    fn new(node: NodeSecurity, cluster: ClusterHash) -> Result<Self, String> {
        let node = Arc::new(node);
        let net = NetSecurity::new(node.clone(), cluster).map_err(|error| error.to_string())?;
        Ok(Self { node, net })
    }

    /// Has a thread that has not started secure its connections.
    pub(super) fn secure_net(&self, net: &mut Net) {
        net.secure(Instant::default(), self.net.clone());
    }

    /// Has the control, which has not started, seal its datagrams.
    pub(super) fn seal(&self, control: &mut Control) -> Result<(), StartError> {
        let mut salt = [0; 8];
        random::fill(&mut salt)
            .map_err(|source| StartError::System { what: "drawing a salt", source })?;
        let suite = if has_aes_instructions() { Suite::Aes128Gcm } else { Suite::ChaCha20Poly1305 };
        let salt = Salt(u64::from_le_bytes(salt));
        control.seal(Sealing { security: self.node.clone(), suite, salt });
        Ok(())
    }
}

/// What an engine runs with, for its handles.
pub(super) struct CurrentSecurity {
    cluster: String,
    node_id: String,
    hash: ClusterHash,
    /// The name of the node's key, which stays.
    pub(super) fingerprint: Fingerprint,
    node: Mutex<Arc<NodeSecurity>>,
}

impl CurrentSecurity {
    pub(super) fn new(settings: &Settings, hash: ClusterHash, secured: Secured) -> Self {
        Self {
            cluster: settings.cluster.clone(),
            node_id: settings.node_id.clone(),
            hash,
            fingerprint: secured.node.identity.fingerprint(),
            node: Mutex::new(secured.node),
        }
    }

    /// Checks what the app gives a running node, of a cluster with these members, makes what its
    /// threads are to use, and has `send` tell them. Of two updates at a time, one waits: what was
    /// sent last is what the node uses.
    pub(super) fn update(
        &self,
        security: &Security,
        members: &[MemberInfo],
        send: impl FnOnce(Secured) -> Result<(), UpdateSecurityError>,
    ) -> Result<(), UpdateSecurityError> {
        let running = self.fingerprint;
        if let Some(given) = security.fingerprint().filter(|given| *given != running) {
            return Err(UpdateSecurityError::OtherIdentity { running, given });
        }
        security.check_certificates(&self.node_id)?;
        let mut node = self.lock();
        let secured = Secured::new(security.of_running(&self.cluster, &node)?, self.hash)
            .map_err(|reason| UpdateSecurityError::Tls { reason })?;
        let new = secured.node.clone();
        if !security.is_forced() {
            check_unused(&node, &new, members)?;
        }
        send(secured)?;
        *node = new;
        Ok(())
    }

    /// Returns the number by which nodes know the node with this id.
    pub(super) fn hash_of(&self, node: &str) -> NodeHash {
        NodeHash::of(self.hash, node)
    }

    fn lock(&self) -> MutexGuard<'_, Arc<NodeSecurity>> {
        self.node.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks whether members use a key that the node opens now and not any more.
fn check_unused(
    now: &NodeSecurity,
    new: &NodeSecurity,
    members: &[MemberInfo],
) -> Result<(), UpdateSecurityError> {
    let is_out =
        |key: &KeyId| now.keyring.by_id(*key).is_some() && new.keyring.by_id(*key).is_none();
    let used = |member: &MemberInfo| {
        let key = member.cluster_key?;
        (takes_part(member) && is_out(&key)).then_some((key, member.id.clone()))
    };
    let mut users = members.iter().filter_map(used).peekable();
    let Some((key, _)) = users.peek().cloned() else { return check_certified(now, new, members) };
    let members = users.filter(|(used, _)| *used == key).map(|(_, id)| id).collect();
    Err(UpdateSecurityError::StillUsed { key, members })
}

/// Looks whether members present no certificate, where that is going to be required.
fn check_certified(
    now: &NodeSecurity,
    new: &NodeSecurity,
    members: &[MemberInfo],
) -> Result<(), UpdateSecurityError> {
    let requires = |security: &NodeSecurity| {
        security.certificates.as_ref().is_some_and(Certificates::are_required)
    };
    let has_none =
        |member: &&MemberInfo| member.security.is_some_and(|security| !security.has_certificate);
    let takes_part = |member: &&MemberInfo| takes_part(member);
    if requires(now) || !requires(new) {
        return Ok(());
    }
    let without = members.iter().filter(takes_part).filter(has_none);
    let members: Vec<NodeId> = without.map(|member| member.id.clone()).collect();
    match members.is_empty() {
        true => Ok(()),
        false => Err(UpdateSecurityError::WithoutCertificate { members }),
    }
}

fn takes_part(member: &MemberInfo) -> bool {
    matches!(member.state, MemberState::Alive | MemberState::Suspect) && !member.is_self
}
