//! Why a connection is not secured, in words for the operators of both nodes.

#![forbid(unsafe_code)]

use thiserror::Error;

use super::tls::TlsError;
use crate::security::Fingerprint;
use crate::security::certificates::WrongName;
use crate::security::keys::KeyId;
use crate::security::opening::OpeningError;
use crate::security::proof::WrongProof;
use crate::types::Identity;

/// Why a connection is not let in, or not gone on with.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub(super) enum SecurityError {
    #[error(
        "it speaks without security, and this node requires it: give it the cluster key \
             (Config::security)"
    )]
    Plain,
    #[error("{0}")]
    Opening(OpeningError),
    #[error(
        "its cluster key has the id {key}, and here {accepted} is accepted: another key, or the \
         name of another cluster"
    )]
    OtherKey { key: KeyId, accepted: String },
    #[error(
        "it presents a raw key, and this node requires a certificate: give it one \
         (Security::certificates)"
    )]
    NeedsCertificate,
    #[error(
        "it presents a certificate and asks for one, and this node has none: give this node one, \
         or the other one accept_only() until all have one (Security::certificates)"
    )]
    NeedsRawKey,
    #[error("it presents a raw key and asks for a certificate, or the other way round")]
    MixedKinds,
    #[error("it was offered one of a raw key and a certificate, and answers with the other one")]
    OtherKind,
    #[error("{0}")]
    WrongName(WrongName),
    #[error(
        "its own key has not signed this connection: it presents a certificate, and repeats the \
         introduction of another node"
    )]
    NotItsSession,
    #[error("it presents a raw key, and signs what is to be signed with certificates alone")]
    NeedlessSignature,
    #[error("TLS proves another key than it named: a host stands between the two nodes")]
    OtherCertificate,
    #[error("its key {0} is denied (Security::deny)")]
    Denied(Fingerprint),
    #[error("the key {0} of its certificate is denied (Security::deny)")]
    DeniedCertificate(Fingerprint),
    #[error("it sends no proof of the cluster key where one is due, or a second one")]
    NoProof,
    #[error("{0}")]
    WrongProof(WrongProof),
    #[error("it proves the cluster key {0}, and opened with another one")]
    OtherProof(KeyId),
    #[error("its introduction is not signed by the key that TLS proves")]
    WrongIntroduction,
    #[error("it introduces itself as {0:?}, and greets as another node or life")]
    OtherNode(Identity),
    #[error(
        "it proves the key {now}, and this node knows it by its key {known}: a host stands between \
         the two nodes, or another one answers in its name"
    )]
    OtherKnownKey { known: Fingerprint, now: Fingerprint },
    #[error("it greets as this very node, at this node's address, with another key")]
    OwnName,
    #[error("{0}")]
    Tls(TlsError),
    #[error("the system gives no random bytes: {0}")]
    NoRandom(String),
}

impl SecurityError {
    /// Whether a host that has proved nothing may be told, and can be.
    pub(super) fn may_be_told(&self) -> bool {
        !matches!(self, Self::OtherNode(_) | Self::Tls(_))
    }
}
