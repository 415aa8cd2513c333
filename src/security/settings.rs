//! What an app chooses ([`Security`]), and what a node of a cluster makes of it ([`NodeSecurity`]).

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::certificates::{Certificates, CertificatesError};
use super::identity::{Fingerprint, NodeIdentity};
use super::keys::{ClusterKey, KeyId, Keyring, KeyringError};
use super::proof::IntroductionFlags;
use super::suite::{Salt, Suite};

/// How the traffic between nodes is encrypted, and how nodes prove that they belong to the cluster.
///
/// All nodes of a cluster share one [`ClusterKey`]. With it, connections are TLS 1.3 between nodes
/// that have both proved the key, datagrams are sealed, and a host that has no key can neither
/// read, nor write, nor join.
///
/// ```no_run
/// use gridkv::{ClusterKey, Config, Security};
///
/// // Made by: openssl rand -hex 32
/// let key = ClusterKey::from_file("/run/secrets/gridkv.key")?;
/// let config = Config::new("a", "10.0.0.1:7000").security(Security::cluster_key(key));
/// # Ok::<(), gridkv::ClusterKeyError>(())
/// ```
///
/// `Debug` shows no secret. A clone shares everything with its original.
#[derive(Clone)]
pub struct Security(Arc<Choices>);

#[derive(Clone)]
struct Choices {
    key: ClusterKey,
    accepted: Vec<ClusterKey>,
    identity: Option<Arc<NodeIdentity>>,
    certificates: Option<Certificates>,
    denied: BTreeSet<Fingerprint>,
    is_optional: bool,
    is_forced: bool,
}

impl Security {
    /// Requires of all nodes that they have this key.
    pub fn cluster_key(key: ClusterKey) -> Self {
        Self(Arc::new(Choices {
            key,
            accepted: Vec::new(),
            identity: None,
            certificates: None,
            denied: BTreeSet::new(),
            is_optional: false,
            is_forced: false,
        }))
    }

    /// Lets nodes in that use this key, too. Up to three such keys, for the time in which the key
    /// of a cluster is replaced.
    ///
    /// To replace the key `old` by `new`, take three steps, each on every node before the next one,
    /// by [`Engine::update_security`](crate::Engine::update_security) or a restart:
    ///
    /// 1. `Security::cluster_key(old).also_accept(new)`
    /// 2. `Security::cluster_key(new).also_accept(old)`
    /// 3. `Security::cluster_key(new)`
    #[must_use]
    pub fn also_accept(mut self, key: ClusterKey) -> Self {
        self.choices().accepted.push(key);
        self
    }

    /// Gives the node a key of its own that it keeps over restarts. Without it, the node makes a
    /// new one at every start.
    ///
    /// Other nodes then refuse another key under this node's id, for as long as it may come back
    /// after its death: the longer of
    /// [`Config::tombstone_retention`](crate::Config::tombstone_retention) and
    /// [`Config::data_center_retention`](crate::Config::data_center_retention).
    #[must_use]
    pub fn identity(mut self, identity: NodeIdentity) -> Self {
        self.choices().identity = Some(Arc::new(identity));
        self
    }

    /// Also requires of all nodes that they have a certificate of a PKI. Without it, nodes prove
    /// raw keys of their own.
    ///
    /// A certificate keeps hosts out that have the cluster key alone, and with
    /// [`Names::NodeId`](crate::Names::NodeId) it keeps nodes from taking each other's ids. It
    /// protects connections, and not datagrams.
    ///
    /// [`Certificates`] tells how a running cluster comes to use them. To renew a certificate, or
    /// to exchange roots, give the new ones to
    /// [`Engine::update_security`](crate::Engine::update_security): connections of nodes that would
    /// not be let in any more end.
    #[must_use]
    pub fn certificates(mut self, certificates: Certificates) -> Self {
        self.choices().certificates = Some(certificates);
        self
    }

    /// Takes the nodes that have these keys for dead, and refuses connections with them, also if
    /// they prove the cluster key. The key is a node's own one, or that of its
    /// certificate.
    ///
    /// This keeps a node from coming back that [keeps its key](Self::identity). One that makes a
    /// new key at every start comes back with the next one. Give the same to all nodes: one that
    /// does not deny the node goes on with it. A node that means harm has the cluster key as well,
    /// so replace that, too.
    #[must_use]
    pub fn deny(mut self, fingerprints: impl IntoIterator<Item = Fingerprint>) -> Self {
        self.choices().denied.extend(fingerprints);
        self
    }

    /// Also speaks with nodes that have no security, for the time in which a cluster that runs
    /// without is given a key. **It keeps no host out:** any that speaks without security is let
    /// in.
    ///
    /// Start all nodes with it, one after the other. Then give them the same without it, by
    /// [`Engine::update_security`](crate::Engine::update_security). Until then the log says once a
    /// minute how many members have shown no security yet.
    #[must_use]
    pub fn optional(mut self) -> Self {
        self.choices().is_optional = true;
        self
    }

    /// Has [`Engine::update_security`](crate::Engine::update_security) take a cluster key out also
    /// if members still use it, and require certificates also if members present none. These are
    /// then shut out until they have what is accepted.
    ///
    /// For a key that was stolen, and for a member that does not change its key. It means nothing
    /// in [`Config::security`](crate::Config::security).
    #[must_use]
    pub fn force(mut self) -> Self {
        self.choices().is_forced = true;
        self
    }

    /// Whether keys are taken out that members still use.
    pub(crate) fn is_forced(&self) -> bool {
        self.0.is_forced
    }

    fn choices(&mut self) -> &mut Choices {
        Arc::make_mut(&mut self.0)
    }

    /// Derives the keys of a cluster.
    pub(crate) fn keyring(&self, cluster: &str) -> Result<Keyring, KeyringError> {
        Keyring::new(cluster, &self.0.key, &self.0.accepted)
    }

    /// Checks that a node of this id can use the certificates.
    pub(crate) fn check_certificates(&self, node_id: &str) -> Result<(), CertificatesError> {
        self.0.certificates.as_ref().map_or(Ok(()), |certificates| certificates.check(node_id))
    }

    /// Makes what a node of this cluster uses. `seed` is that of its key if the app gave none: 32
    /// random bytes of this start.
    pub(crate) fn of_node(
        &self,
        cluster: &str,
        seed: &Zeroizing<[u8; 32]>,
    ) -> Result<NodeSecurity, KeyringError> {
        let keyring = self.keyring(cluster)?;
        let given = self.0.identity.clone();
        let keeps_key = given.is_some();
        let identity = given.unwrap_or_else(|| Arc::new(NodeIdentity::from_seed(seed)));
        let mut flags = IntroductionFlags::default().with(IntroductionFlags::OPENS_SEALED);
        if keeps_key {
            flags = flags.with(IntroductionFlags::KEEPS_ITS_KEY);
        }
        Ok(NodeSecurity {
            keyring,
            identity,
            flags,
            certificates: self.0.certificates.clone(),
            denied: self.0.denied.clone(),
            is_optional: self.0.is_optional,
        })
    }

    /// Makes what a running node uses from now on. A node has one key of its own in its life, so it
    /// keeps the one that it has, and what it says of itself.
    pub(crate) fn of_running(
        &self,
        cluster: &str,
        running: &NodeSecurity,
    ) -> Result<NodeSecurity, KeyringError> {
        Ok(NodeSecurity {
            keyring: self.keyring(cluster)?,
            identity: running.identity.clone(),
            flags: running.flags,
            certificates: self.0.certificates.clone(),
            denied: self.0.denied.clone(),
            is_optional: self.0.is_optional,
        })
    }

    /// Returns the name of the node's key that the app gave, if it gave one.
    pub(crate) fn fingerprint(&self) -> Option<Fingerprint> {
        self.0.identity.as_ref().map(|identity| identity.fingerprint())
    }
}

impl fmt::Debug for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Choices { key: _, accepted, identity, certificates, denied, is_optional, is_forced } =
            &*self.0;
        f.debug_struct("Security")
            .field("accepted_keys", &accepted.len())
            .field("identity", identity)
            .field("certificates", certificates)
            .field("denied", denied)
            .field("is_optional", is_optional)
            .field("is_forced", is_forced)
            .finish_non_exhaustive()
    }
}

/// What one node of a cluster secures its traffic with.
#[derive(Debug)]
pub(crate) struct NodeSecurity {
    pub(crate) keyring: Keyring,
    pub(crate) identity: Arc<NodeIdentity>,
    /// What it says of itself in its introduction.
    pub(crate) flags: IntroductionFlags,
    pub(crate) certificates: Option<Certificates>,
    pub(crate) denied: BTreeSet<Fingerprint>,
    /// Whether it also speaks with nodes that secure nothing.
    pub(crate) is_optional: bool,
}

/// What one start of a node seals its datagrams with.
#[derive(Debug)]
pub(crate) struct Sealing {
    pub(crate) security: Arc<NodeSecurity>,
    pub(crate) suite: Suite,
    /// Drawn for this one start.
    pub(crate) salt: Salt,
}

/// What the other end of a secured connection has proved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Proved {
    /// The name of its key.
    pub(crate) fingerprint: Fingerprint,
    /// Whether it has the same key after a restart.
    pub(crate) keeps_key: bool,
    /// The cluster key that it has.
    pub(crate) key: KeyId,
    /// Whether it has presented a certificate.
    pub(crate) has_certificate: bool,
}
