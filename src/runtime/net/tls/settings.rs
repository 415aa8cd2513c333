//! What this node asks of TLS, and which keys it takes.

#![forbid(unsafe_code)]

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::{AlwaysResolvesClientRawPublicKeys, ResolvesClientCert, Resumption};
use rustls::crypto::ring::{self, cipher_suite, kx_group};
use rustls::crypto::{CryptoProvider, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::{
    AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage, ResolvesServerCert,
};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, NoKeyLog, ServerConfig, Side,
    SignatureScheme, SupportedCipherSuite,
};

use super::chains::Chains;
use super::error::TlsError;
use super::limits::RECORD_BYTES;
use super::verifier::{PeerKeys, Verifier};
use crate::runtime::processor::has_aes_instructions;
use crate::security::Certificates;
use crate::security::identity::{CertificateHash, PublicKey};
use crate::security::opening::Kind;

/// What both ends speak inside TLS. Without it, a service of another protocol that has a key of
/// this node's could be made to answer as the node.
pub(super) const ALPN: &[u8] = b"gridkv/1";

/// The length of a record's header, which rustls counts as a part of the longest fragment.
const HEADER_BYTES: usize = 5;

/// What this node presents, what it asks for, and the settings of both roles. Cheap to clone.
#[derive(Clone)]
pub(crate) struct TlsSettings(Arc<Settings>);

struct Settings {
    /// What is presented: the end-entity certificate, or the public key.
    presented: Arc<CertifiedKey>,
    /// What certificates must be under. `None`: raw keys are presented and asked for.
    chains: Option<Arc<Chains>>,
    // rustls shares these with every session that it makes of them.
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl TlsSettings {
    /// Makes the settings of a node that proves this Ed25519 key, and asks for one of its peers.
    ///
    /// `pkcs8` is not kept: the caller wipes it. What ring holds of it is not wiped.
    pub(crate) fn with_raw_key(pkcs8: &[u8]) -> Result<Self, TlsError> {
        let key = ring::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(pkcs8))
            .map_err(|error| TlsError::PrivateKey(error.to_string()))?;
        let spki = key.public_key().map(|spki| spki.as_ref().to_vec()).unwrap_or_default();
        ed25519_key(&spki).ok_or_else(|| TlsError::PrivateKey("no public key".to_owned()))?;
        let key = Arc::new(CertifiedKey::new(vec![CertificateDer::from(spki)], key));
        let provider = Arc::new(provider());
        let parts = Parts {
            peers: Arc::new(RawKeys { provider: provider.clone() }),
            as_client: Arc::new(AlwaysResolvesClientRawPublicKeys::new(key.clone())),
            as_server: Arc::new(AlwaysResolvesServerRawPublicKeys::new(key.clone())),
            provider,
        };
        Self::new(parts, key, None)
    }

    /// Makes the settings of a node that presents this certificate, and asks its peers for one
    /// under these roots. A raw key is refused.
    pub(crate) fn with_certificates(certificates: &Certificates) -> Result<Self, TlsError> {
        Self::presenting(certificates.certified(), certificates)
    }

    /// Makes the settings of a node that presents `key`, and takes what these certificates say.
    pub(super) fn presenting(
        key: &Arc<CertifiedKey>,
        certificates: &Certificates,
    ) -> Result<Self, TlsError> {
        let provider = Arc::new(provider());
        let chains = Chains::new(certificates.roots(), &provider)
            .map_err(|error| TlsError::Setup(error.to_string()))?;
        let chains = Arc::new(chains);
        let parts = Parts {
            peers: chains.clone(),
            as_client: Arc::new(SingleCertAndKey::from(key.clone())),
            as_server: Arc::new(SingleCertAndKey::from(key.clone())),
            provider,
        };
        Self::new(parts, key.clone(), Some(chains))
    }

    fn new(
        parts: Parts,
        presented: Arc<CertifiedKey>,
        chains: Option<Arc<Chains>>,
    ) -> Result<Self, TlsError> {
        let (client, server) =
            configs(parts).map_err(|error| TlsError::Setup(error.to_string()))?;
        let (client, server) = (Arc::new(client), Arc::new(server));
        Ok(Self(Arc::new(Settings { presented, chains, client, server })))
    }

    /// Returns the hash of what peers will see.
    pub(crate) fn hash(&self) -> CertificateHash {
        CertificateHash::of(self.0.presented.cert.first().map_or(&[], |it| it))
    }

    /// Returns what is presented and asked for.
    pub(crate) fn kind(&self) -> Kind {
        match self.0.chains {
            Some(_) => Kind::Certificate,
            None => Kind::RawKey,
        }
    }

    /// Checks that a node with the same roots would take this node's certificate now, as that of a
    /// client and of a server.
    pub(crate) fn check_own(&self) -> Result<(), TlsError> {
        [Side::Client, Side::Server]
            .into_iter()
            .try_for_each(|side| self.check_chain(side, &self.0.presented.cert))
    }

    /// Checks a chain that a client or server has presented, by the time of now.
    pub(super) fn check_chain(
        &self,
        side: Side,
        chain: &[CertificateDer<'_>],
    ) -> Result<(), TlsError> {
        match &self.0.chains {
            Some(chains) => {
                chains.check_chain(side, chain, UnixTime::now()).map_err(TlsError::of_certificates)
            }
            None => Ok(()),
        }
    }

    pub(super) fn client(&self) -> Arc<ClientConfig> {
        self.0.client.clone()
    }

    pub(super) fn server(&self) -> Arc<ServerConfig> {
        self.0.server.clone()
    }
}

impl fmt::Debug for TlsSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsSettings").finish_non_exhaustive()
    }
}

/// What differs between raw keys and certificates.
struct Parts {
    provider: Arc<CryptoProvider>,
    /// Which peers are taken.
    peers: Arc<dyn PeerKeys>,
    /// What this node presents in each role.
    as_client: Arc<dyn ResolvesClientCert>,
    as_server: Arc<dyn ResolvesServerCert>,
}

/// Makes both roles' settings. What is rustls' default is set all the same where security depends
/// on it.
fn configs(parts: Parts) -> Result<(ClientConfig, ServerConfig), Error> {
    let Parts { provider, peers, as_client, as_server } = parts;
    let verifier = Arc::new(Verifier(peers));
    let versions = &[&rustls::version::TLS13];

    let mut client = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)?
        .dangerous()
        .with_custom_certificate_verifier(verifier.clone())
        .with_client_cert_resolver(as_client);
    client.alpn_protocols = vec![ALPN.to_vec()];
    client.resumption = Resumption::disabled();
    client.max_fragment_size = Some(RECORD_BYTES + HEADER_BYTES);
    client.enable_sni = false;
    client.enable_early_data = false;
    client.enable_secret_extraction = false;
    client.key_log = Arc::new(NoKeyLog {}); // SSLKEYLOGFILE is ignored

    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(as_server);
    server.alpn_protocols = vec![ALPN.to_vec()];
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    server.max_tls13_tickets = 0;
    server.max_early_data_size = 0;
    server.send_half_rtt_data = false;
    server.max_fragment_size = Some(RECORD_BYTES + HEADER_BYTES);
    server.enable_secret_extraction = false;
    server.key_log = Arc::new(NoKeyLog {});
    Ok((client, server))
}

/// Returns the cryptography that nodes use. It is never installed as the default of the process,
/// which belongs to the app.
fn provider() -> CryptoProvider {
    let aes = [cipher_suite::TLS13_AES_128_GCM_SHA256, cipher_suite::TLS13_AES_256_GCM_SHA384];
    let chacha = [cipher_suite::TLS13_CHACHA20_POLY1305_SHA256];
    let cipher_suites: Vec<SupportedCipherSuite> = match has_aes_instructions() {
        true => aes.into_iter().chain(chacha).collect(),
        false => chacha.into_iter().chain(aes).collect(),
    };
    let kx_groups = vec![kx_group::X25519];
    CryptoProvider { cipher_suites, kx_groups, ..ring::default_provider() }
}

/// Returns the key in a public key's DER, if it is one of Ed25519.
pub(super) fn ed25519_key(spki: &[u8]) -> Option<[u8; 32]> {
    PublicKey::from_spki(spki).map(|key| key.0)
}

/// Takes any Ed25519 key that the peer proves to have.
#[derive(Debug)]
struct RawKeys {
    provider: Arc<CryptoProvider>,
}

impl PeerKeys for RawKeys {
    fn check(
        &self,
        _side: Side,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<(), Error> {
        match ed25519_key(end_entity) {
            Some(_) => Ok(()),
            None => Err(CertificateError::BadEncoding.into()),
        }
    }

    fn check_signature(
        &self,
        message: &[u8],
        end_entity: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        let spki = SubjectPublicKeyInfoDer::from(end_entity.as_ref());
        verify_tls13_signature_with_raw_key(message, &spki, signed, algorithms)
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn are_raw(&self) -> bool {
        true
    }
}
