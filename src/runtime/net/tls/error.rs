//! What goes wrong in TLS, in words that an operator can act on.

#![forbid(unsafe_code)]

use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};
use thiserror::Error;

use crate::security::certificates::{MAX_CHAIN, MAX_CHAIN_BYTES};

/// What the text of an error is cut to: a peer can have kilobytes of purposes in its certificate.
const MAX_TEXT_BYTES: usize = 300;

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
    #[error(
        "it presents no certificate that can be read ({0}): it uses raw keys, or is no node of \
         gridkv"
    )]
    NoCertificate(&'static str),
    #[error("{0}: renew its certificate, or set the clock of one of the two nodes right")]
    CertificateTime(String),
    #[error(
        "its certificate leads to none of the roots that are known here: it is of another CA, or \
         the CAs in between are missing in its chain"
    )]
    OtherCa,
    #[error(
        "its certificate is not for this use ({0}): in an extended key usage, both serverAuth and \
         clientAuth are needed"
    )]
    WrongUsage(String),
    #[error(
        "its chain has more than {MAX_CHAIN} certificates, or more than {MAX_CHAIN_BYTES} bytes"
    )]
    LongChain,
    #[error("its certificate is refused: {0}")]
    Certificate(String),
    #[error("it sent {0} bytes and its TLS handshake is not done")]
    TooManyBytes(usize),
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

impl TlsError {
    /// Names an error of a session in which both ends present certificates.
    pub(super) fn of_certificates(error: Error) -> Self {
        match error {
            Error::NoCertificatesPresented => Self::NoCertificate("none"),
            Error::PeerIncompatible(
                PeerIncompatible::IncorrectCertificateTypeExtension
                | PeerIncompatible::UnsolicitedCertificateTypeExtension,
            ) => Self::NoCertificate("it wants another kind"),
            Error::InvalidCertificate(error) => match error {
                CertificateError::BadEncoding => Self::NoCertificate("one of another form"),
                CertificateError::BadSignature => Self::Certificate(
                    "a signature is wrong, by another CA with the name of a root, or by another \
                     key than that of the certificate"
                        .to_owned(),
                ),
                CertificateError::UnknownIssuer => Self::OtherCa,
                CertificateError::ApplicationVerificationFailure => Self::LongChain,
                error @ (CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. }) => {
                    Self::CertificateTime(short(&error))
                }
                error @ (CertificateError::InvalidPurpose
                | CertificateError::InvalidPurposeContext { .. }) => {
                    Self::WrongUsage(short(&error))
                }
                error => Self::Certificate(short(&error)),
            },
            error => error.into(),
        }
    }
}

/// Returns what is wrong with a certificate, without all that it has in it.
fn short(error: &CertificateError) -> String {
    use CertificateError::{
        UnsupportedSignatureAlgorithmContext, UnsupportedSignatureAlgorithmForPublicKeyContext,
    };
    match error {
        UnsupportedSignatureAlgorithmContext { .. }
        | UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "it is signed by an algorithm that nodes do not take: ECDSA with P-256 or P-384, \
             Ed25519 and RSA with SHA-256, SHA-384 or SHA-512 are taken"
                .to_owned()
        }
        error => {
            let mut text = error.to_string();
            text.truncate(text.floor_char_boundary(MAX_TEXT_BYTES));
            text
        }
    }
}

/// Says what an operator can do about an alert.
fn hint(alert: AlertDescription) -> &'static str {
    match alert {
        AlertDescription::CertificateRequired | AlertDescription::UnsupportedCertificate => {
            "it wants a certificate, or another kind: do both nodes have the same kind of \
             security, and does this node's certificate have both extended key usages?"
        }
        AlertDescription::BadCertificate | AlertDescription::DecryptError => {
            "it does not accept this node's key, or its proof of it was altered on the way"
        }
        AlertDescription::CertificateExpired => {
            "this node's certificate has expired or is not yet valid, or a clock is wrong: renew it"
        }
        AlertDescription::UnknownCA => {
            "this node's certificate is under none of its roots, or its chain lacks CAs in between"
        }
        AlertDescription::NoApplicationProtocol => "it does not speak gridkv/1",
        AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure => {
            "it does not speak TLS 1.3 with the same kind of keys (raw keys, or those of \
             certificates), or has no cipher or group in common"
        }
        AlertDescription::BadRecordMac => "what it received was altered on the way",
        AlertDescription::AccessDenied => "it does not let this node in",
        _ => "the other node's log has more",
    }
}
