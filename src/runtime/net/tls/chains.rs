//! Which certificates are taken: those that lead to one of the roots, now, for this use.
//!
//! A node is a client and a server, and both are checked by the same rule: the chain, the validity
//! times, and the extended key usage, if a certificate has one. Names are not looked at: TLS does
//! not know which node the other end is going to be. HELLO and WELCOME tell that.
//!
//! The length of a chain is bounded before it is looked at: a connection keeps it.

#![forbid(unsafe_code)]

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, Error, RootCertStore, Side, SignatureScheme,
};

use super::verifier::PeerKeys;
use crate::security::certificates::{MAX_CHAIN, MAX_CHAIN_BYTES};

/// Takes certificates under these roots.
pub(super) struct Chains {
    roots: Arc<RootCertStore>,
    clients: Arc<dyn ClientCertVerifier>,
    provider: Arc<CryptoProvider>,
}

impl Chains {
    pub(super) fn new(
        roots: &Arc<RootCertStore>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, Error> {
        let clients =
            WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build();
        let clients = clients.map_err(|error| Error::General(error.to_string()))?;
        Ok(Self { roots: roots.clone(), clients, provider: provider.clone() })
    }

    /// Checks the chain of a client or server, the end-entity certificate first.
    pub(super) fn check_chain(
        &self,
        side: Side,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let [end_entity, intermediates @ ..] = chain else {
            return Err(Error::NoCertificatesPresented);
        };
        self.check(side, end_entity, intermediates, now)
    }
}

impl PeerKeys for Chains {
    fn check(
        &self,
        side: Side,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let bytes = intermediates.iter().fold(end_entity.len(), |sum, it| sum + it.len());
        if intermediates.len() >= MAX_CHAIN || bytes > MAX_CHAIN_BYTES {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        match side {
            Side::Client => {
                self.clients.verify_client_cert(end_entity, intermediates, now).map(|_| ())
            }
            Side::Server => verify_server_cert_signed_by_trust_anchor(
                &ParsedCertificate::try_from(end_entity)?,
                &self.roots,
                intermediates,
                now,
                self.provider.signature_verification_algorithms.all,
            ),
        }
    }

    fn check_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }

    fn are_raw(&self) -> bool {
        false
    }
}

impl fmt::Debug for Chains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chains").field("roots", &self.roots.len()).finish_non_exhaustive()
    }
}
