//! What goes wrong in TLS, in words that an operator can act on.

#![forbid(unsafe_code)]

use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};
use thiserror::Error;

use super::limits::MAX_TLS_HANDSHAKE_BYTES;

/// Why a session cannot be made, or was ended. The texts follow "ending the connection with …:".
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub(crate) enum TlsError {
    /// About this node's own key. rustls and ring never quote the key.
    #[error("the private key is no Ed25519 key in PKCS#8: {0}")]
    PrivateKey(String),
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
    #[error("the TLS handshake is not done")]
    NotEstablished,
    #[error(
        "it proves no raw Ed25519 key in TLS ({0}): it uses certificates, or is no node of gridkv"
    )]
    NoRawKey(&'static str),
    #[error("the key that it shows in TLS is not the one that it signs with")]
    BadSignature,
    #[error("it does not offer gridkv/1 inside TLS (ALPN): it is no node of gridkv")]
    NoAlpn,
    #[error("it does not speak TLS 1.3, or none of the ciphers and groups that nodes use")]
    Incompatible,
    #[error("it sent {MAX_TLS_HANDSHAKE_BYTES} bytes and its TLS handshake is not done")]
    TooManyBytes,
    #[error("it sent what is no TLS record or message: {0}")]
    Malformed(String),
    #[error("a TLS record was altered, repeated or left out on the way, or sealed by another node")]
    Altered,
    #[error("it ended TLS with the alert {alert} ({hint})")]
    Alert { alert: String, hint: &'static str },
    #[error("it broke the rules of TLS: {0}")]
    Misbehaved(String),
}

impl From<Error> for TlsError {
    fn from(error: Error) -> Self {
        match error {
            Error::AlertReceived(alert) => {
                Self::Alert { alert: format!("{alert:?}"), hint: hint(alert) }
            }
            Error::NoApplicationProtocol => Self::NoAlpn,
            Error::NoCertificatesPresented => Self::NoRawKey("none"),
            Error::InvalidCertificate(CertificateError::BadEncoding) => {
                Self::NoRawKey("one of another form")
            }
            Error::InvalidCertificate(_) => Self::BadSignature,
            Error::PeerIncompatible(
                PeerIncompatible::IncorrectCertificateTypeExtension
                | PeerIncompatible::UnsolicitedCertificateTypeExtension
                | PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon
                | PeerIncompatible::NoSignatureSchemesInCommon,
            ) => Self::NoRawKey("it wants another kind"),
            Error::PeerIncompatible(_) => Self::Incompatible,
            Error::DecryptError => Self::Altered,
            Error::InvalidMessage(what) => Self::Malformed(format!("{what:?}")),
            Error::PeerSentOversizedRecord => Self::Malformed("a record over 16 KiB".to_owned()),
            Error::HandshakeNotComplete => Self::NotEstablished,
            error => Self::Misbehaved(error.to_string()),
        }
    }
}

/// Says what an operator can do about an alert.
fn hint(alert: AlertDescription) -> &'static str {
    match alert {
        AlertDescription::CertificateRequired | AlertDescription::UnsupportedCertificate => {
            "it wants a certificate, or got no key: do both nodes have the same kind of security?"
        }
        AlertDescription::BadCertificate | AlertDescription::DecryptError => {
            "it does not accept this node's key, or its proof of it was altered on the way"
        }
        AlertDescription::NoApplicationProtocol => "it does not speak gridkv/1",
        AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure => {
            "it does not speak TLS 1.3 with raw keys, or has no cipher or group in common"
        }
        AlertDescription::BadRecordMac => "what it received was altered on the way",
        AlertDescription::AccessDenied => "it does not let this node in",
        _ => "the other node's log has more",
    }
}
