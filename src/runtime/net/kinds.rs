//! What a node presents in TLS: its own key, or a certificate, or either of them by what the other
//! side says in OPENING.
//!
//! | `Security::certificates` | opens with | lets in |
//! |---|---|---|
//! | none | a raw key | raw keys |
//! | `accept_only()` | a raw key | both |
//! | `prefer()` | a certificate | both |
//! | else | a certificate | certificates |
//!
//! Each kind has TLS settings of its own, which refuse the other kind.

#![forbid(unsafe_code)]

use super::security_error::SecurityError;
use super::tls::{TlsError, TlsSettings};
use crate::logging;
use crate::security::NodeSecurity;
use crate::security::certificates::Certificates;
use crate::security::opening::{Kind, OpeningFlags};

/// The TLS settings of each kind.
pub(super) struct Kinds {
    raw_key: TlsSettings,
    certificate: Option<(TlsSettings, Certificates)>,
}

impl Kinds {
    /// Makes what this node presents. Logs a warning if other nodes would refuse its certificate:
    /// that can be the fault of a clock.
    pub(super) fn new(node: &NodeSecurity) -> Result<Self, TlsError> {
        let raw_key = TlsSettings::with_raw_key(node.identity.pkcs8())?;
        let certificate = match &node.certificates {
            Some(certificates) => {
                let settings = TlsSettings::with_certificates(certificates)?;
                if let Err(error) = settings.check_own() {
                    logging::warn!(
                        "nodes with the same roots refuse this node: of its certificate they say \
                         that {error}"
                    );
                }
                Some((settings, certificates.clone()))
            }
            None => None,
        };
        Ok(Self { raw_key, certificate })
    }

    /// Returns the settings of the connections that this node opens.
    pub(super) fn to_open(&self) -> &TlsSettings {
        match &self.certificate {
            Some((settings, certificates)) if certificates.are_presented() => settings,
            _ => &self.raw_key,
        }
    }

    /// Returns the settings by which an opener is answered that has these flags.
    pub(super) fn to_accept(&self, flags: OpeningFlags) -> Result<&TlsSettings, SecurityError> {
        let kind = Kind::of(flags).ok_or(SecurityError::MixedKinds)?;
        self.of(kind)
    }

    /// Returns the settings of a kind, if a node that presents it is let in.
    pub(super) fn of(&self, kind: Kind) -> Result<&TlsSettings, SecurityError> {
        match (kind, &self.certificate) {
            (Kind::RawKey, Some((_, certificates))) if certificates.are_required() => {
                Err(SecurityError::NeedsCertificate)
            }
            (Kind::RawKey, _) => Ok(&self.raw_key),
            (Kind::Certificate, Some((settings, _))) => Ok(settings),
            (Kind::Certificate, None) => Err(SecurityError::NeedsRawKey),
        }
    }

    /// Checks that a certificate is one for a node of this id.
    pub(super) fn check_names(
        &self,
        certificate: &[u8],
        node_id: &str,
    ) -> Result<(), SecurityError> {
        let (_, certificates) = self.certificate.as_ref().ok_or(SecurityError::NeedsRawKey)?;
        certificates.check_names(certificate, node_id).map_err(SecurityError::WrongName)
    }
}
