//! Certificates of a PKI: a layer on top of the cluster key and of a node's own key.
//!
//! **Problem.** A host with the cluster key can take the id of a node that is away. A certificate
//! says which ids its holder may have, and it can be withheld, or run out.
//!
//! | | proves | is kept by |
//! |---|---|---|
//! | the cluster key | that the host belongs to the cluster; it also seals datagrams | all nodes |
//! | the node's own key | that it is the same node as before | the node |
//! | a certificate | that a CA lets it have this node id | the node |
//!
//! **Invariant.** Both sides of a connection present the same kind, and OPENING says which. An
//! opener chooses before it has heard anything of the acceptor. So a running cluster moves from raw
//! keys to certificates in three steps:
//!
//! | [`Certificates`] | opens with | lets in |
//! |---|---|---|
//! | none | a raw key | raw keys |
//! | `accept_only()` | a raw key | both |
//! | `prefer()` | a certificate | both |
//! | as made | a certificate | certificates |
//!
//! **Rejected.** Certificates instead of the cluster key: datagrams need a shared secret, and a
//! certificate of the right CA does not make a host a member (CVE-2021-37219, CVE-2020-7956).
//!
//! Chains are checked where TLS is spoken. This file reads them, and compares names. It names
//! `rustls` for both, and nothing else of it.

use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::client::verify_server_name;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, DnsName, PrivateKeyDer, ServerName};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use super::identity::Fingerprint;

/// How many certificates a chain has at most, that of the node among them. Certificates that all
/// have the name of a root are tried in each order: the work grows with the factorial.
pub(crate) const MAX_CHAIN: usize = 4;

/// How many bytes the certificates of a chain have at most, in DER. A connection keeps those of its
/// other end.
pub(crate) const MAX_CHAIN_BYTES: usize = 16 << 10;

/// The certificate of a node with its private key, and the roots under which the certificates of
/// other nodes must be.
///
/// It is used in addition to the cluster key, by [`Security::certificates`]. The certificate's key
/// is another one than that of [`Security::identity`], and is of ECDSA (P-256 or P-384), Ed25519 or
/// RSA (2048 to 8192 bits). A node uses its certificate as a client and as a server: if the
/// certificate has an extended key usage, this has both `serverAuth` and `clientAuth`.
///
/// ```no_run
/// use gridkv::{Certificates, ClusterKey, Names, Security};
///
/// let certificates = Certificates::from_files("node.pem", "node.key", "roots.pem")?;
/// let key = ClusterKey::from_file("/run/secrets/gridkv.key")?;
/// let security = Security::cluster_key(key).certificates(certificates.names(Names::NodeId));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// **Roll-out.** An opener chooses between a raw key and a certificate before it hears from the
/// acceptor. So a cluster that runs without certificates takes three steps, each on every node
/// before the next one, by [`Engine::update_security`](crate::Engine::update_security):
///
/// 1. `certificates.accept_only()`
/// 2. `certificates.prefer()`
/// 3. `certificates`
///
/// `Debug` shows no secret. A clone shares the private key with its original.
///
/// [`Security::certificates`]: crate::Security::certificates
/// [`Security::identity`]: crate::Security::identity
#[derive(Clone)]
pub struct Certificates {
    certified: Arc<CertifiedKey>,
    roots: Arc<RootCertStore>,
    names: Names,
    rollout: Rollout,
}

/// Which names a node's certificate must have.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Names {
    /// The certificate is valid for the node id, as a DNS name. So the id of each node is a DNS
    /// name, in small letters and without a dot at its end. A wildcard is valid for all ids that it
    /// covers.
    NodeId,
    /// The certificate is valid for one of these DNS names, the same for all nodes of a service. A
    /// node with such a certificate can take any id that is free.
    AnyOf(Vec<String>),
}

impl Names {
    /// Takes names of services: a certificate must be valid for one of them.
    pub fn any_of<N: Into<String>>(names: impl IntoIterator<Item = N>) -> Self {
        Self::AnyOf(names.into_iter().map(Into::into).collect())
    }
}

/// How far the roll-out of certificates is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rollout {
    AcceptOnly,
    Prefer,
    Required,
}

impl Certificates {
    /// Reads PEM text: the node's certificate with those of CAs between it and a root, the private
    /// key of the first certificate, and the roots.
    ///
    /// The key is in PKCS#8, in PKCS#1 for RSA, or in SEC1 for ECDSA, and is not encrypted. What is
    /// neither a certificate nor a key is ignored. Validity times are not looked at here: a warning
    /// is logged when the node starts or is updated.
    ///
    /// # Errors
    ///
    /// [`CertificatesError`] says what is missing or wrong. It quotes nothing of the key.
    pub fn from_pem(chain: &[u8], key: &[u8], roots: &[u8]) -> Result<Self, CertificatesError> {
        let chain = certificates(chain, "chain")?;
        check_chain(&chain)?;
        let roots = read_roots(roots)?;
        let key = private_key(key)?;
        let signing = any_supported_type(&key).map_err(|_| CertificatesError::UnusableKey)?;
        let certified = CertifiedKey::new(chain, signing);
        certified.keys_match().map_err(|_| CertificatesError::OtherKey)?;
        Ok(Self {
            certified: Arc::new(certified),
            roots: Arc::new(roots),
            names: Names::NodeId,
            rollout: Rollout::Required,
        })
    }

    /// Chooses which names the certificates of nodes must have, that of this node among them. The
    /// default is [`Names::NodeId`].
    #[must_use]
    pub fn names(mut self, names: Names) -> Self {
        self.names = names;
        self
    }

    /// Takes the first step of a roll-out: the node opens its connections with a raw key, as
    /// before, and lets in nodes that open theirs with a certificate. **It keeps no node out.**
    #[must_use]
    pub fn accept_only(mut self) -> Self {
        self.rollout = Rollout::AcceptOnly;
        self
    }

    /// Takes the second step of a roll-out: the node opens its connections with its certificate,
    /// and still lets in nodes that open theirs with a raw key. **It keeps no node out.** All nodes
    /// have taken the first step before.
    #[must_use]
    pub fn prefer(mut self) -> Self {
        self.rollout = Rollout::Prefer;
        self
    }

    /// Returns the fingerprint of the certificate's key, by which other nodes can
    /// [deny](crate::Security::deny) it.
    ///
    /// ```text
    /// openssl x509 -in node.pem -noout -pubkey | openssl pkey -pubin -outform DER |
    ///     openssl dgst -sha256
    /// ```
    pub fn fingerprint(&self) -> Fingerprint {
        let spki = self.certified.key.public_key();
        Fingerprint::of_spki(spki.as_deref().unwrap_or_default())
    }

    /// Checks that a node of this id would be let in with this certificate, but for its chain.
    pub(super) fn check(&self, node_id: &str) -> Result<(), CertificatesError> {
        if let Names::AnyOf(names) = &self.names {
            if names.is_empty() {
                return Err(CertificatesError::NoNames);
            }
            let wrong = names.iter().find(|name| DnsName::try_from(name.as_str()).is_err());
            if let Some(name) = wrong {
                return Err(CertificatesError::BadName { name: name.clone() });
            }
        }
        let own = self.certified.cert.first().map_or(&[][..], |certificate| certificate);
        self.check_names(own, node_id).map_err(|error| match error {
            WrongName::NotADnsName(node_id) => CertificatesError::NotADnsName { node_id },
            WrongName::NotValid(name) => CertificatesError::OtherName { name },
        })
    }

    /// Checks that a certificate is one for a node of this id.
    pub(crate) fn check_names(&self, certificate: &[u8], node_id: &str) -> Result<(), WrongName> {
        let certificate = CertificateDer::from(certificate);
        let is_valid_for = |name: &str| {
            let Ok(certificate) = ParsedCertificate::try_from(&certificate) else { return false };
            let name = DnsName::try_from(name).map(ServerName::DnsName);
            name.is_ok_and(|name| verify_server_name(&certificate, &name).is_ok())
        };
        match &self.names {
            // One certificate would be good for several nodes: names are the same in both cases,
            // and with a dot at their end.
            Names::NodeId
                if DnsName::try_from(node_id).is_err()
                    || node_id.ends_with('.')
                    || node_id.contains(|letter: char| letter.is_ascii_uppercase()) =>
            {
                Err(WrongName::NotADnsName(node_id.to_owned()))
            }
            Names::NodeId if is_valid_for(node_id) => Ok(()),
            Names::NodeId => Err(WrongName::NotValid(node_id.to_owned())),
            Names::AnyOf(names) if names.iter().any(|name| is_valid_for(name)) => Ok(()),
            Names::AnyOf(names) => Err(WrongName::NotValid(names.join(", "))),
        }
    }

    /// Whether this node opens its connections with its certificate.
    pub(crate) fn are_presented(&self) -> bool {
        self.rollout != Rollout::AcceptOnly
    }

    /// Whether nodes without a certificate are kept out.
    pub(crate) fn are_required(&self) -> bool {
        self.rollout == Rollout::Required
    }

    pub(crate) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }

    pub(crate) fn roots(&self) -> &Arc<RootCertStore> {
        &self.roots
    }
}

// The private key is a `dyn` type of rustls, which is never changed once it is made.
impl UnwindSafe for Certificates {}
impl RefUnwindSafe for Certificates {}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates")
            .field("fingerprint", &self.fingerprint())
            .field("chain", &self.certified.cert.len())
            .field("roots", &self.roots.len())
            .field("names", &self.names)
            .field("rollout", &self.rollout)
            .finish()
    }
}

/// Why a certificate is none for a node of some id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WrongName {
    #[error(
        "its node id {0:?} is no DNS name in small letters, so that no certificate is valid for \
         it: give the node \
         another id, or all nodes Names::any_of"
    )]
    NotADnsName(String),
    #[error("its certificate is not valid for {0}: have the CA issue one with this DNS name")]
    NotValid(String),
}

/// Reads all certificates of a PEM text.
fn certificates(
    text: &[u8],
    part: &'static str,
) -> Result<Vec<CertificateDer<'static>>, CertificatesError> {
    let all: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(text).collect();
    all.map_err(|_| CertificatesError::BadPem { part })
}

fn check_chain(chain: &[CertificateDer<'_>]) -> Result<(), CertificatesError> {
    if chain.is_empty() {
        return Err(CertificatesError::NoCertificate);
    }
    let bytes = chain.iter().map(|certificate| certificate.len()).sum();
    if chain.len() > MAX_CHAIN || bytes > MAX_CHAIN_BYTES {
        return Err(CertificatesError::LongChain { certificates: chain.len(), bytes });
    }
    for (at, certificate) in chain.iter().enumerate() {
        ParsedCertificate::try_from(certificate).map_err(|error| {
            CertificatesError::BadCertificate { number: at + 1, reason: error.to_string() }
        })?;
    }
    Ok(())
}

fn read_roots(text: &[u8]) -> Result<RootCertStore, CertificatesError> {
    let mut roots = RootCertStore::empty();
    for (at, root) in certificates(text, "roots")?.into_iter().enumerate() {
        roots.add(root).map_err(|error| CertificatesError::BadRoot {
            number: at + 1,
            reason: error.to_string(),
        })?;
    }
    match roots.is_empty() {
        true => Err(CertificatesError::NoRoots),
        false => Ok(roots),
    }
}

/// Reads the first private key of a PEM text. No part of the text gets into an error.
fn private_key(text: &[u8]) -> Result<Zeroizing<PrivateKeyDer<'static>>, CertificatesError> {
    match PrivateKeyDer::from_pem_slice(text) {
        Ok(key) => Ok(Zeroizing::new(key)),
        Err(pem::Error::NoItemsFound) => Err(CertificatesError::NoKey),
        Err(_) => Err(CertificatesError::BadPem { part: "key" }),
    }
}

/// Why something is no [`Certificates`], or does not fit the node. No text of it has a part of the
/// private key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificatesError {
    /// There is no certificate in the text of the chain.
    #[error(
        "the chain has no certificate: it is PEM text with a section BEGIN CERTIFICATE, that of \
         the node first and then those of the CAs between it and a root"
    )]
    NoCertificate,
    /// There is no private key in the text of the key.
    #[error(
        "the text of the private key has none: it is PEM text with a section BEGIN PRIVATE KEY. \
         An encrypted key is decrypted by `openssl pkey -in encrypted.pem -out node.key`, DER is \
         converted by `openssl pkey -inform DER -in key.der -out node.key`"
    )]
    NoKey,
    /// There is no certificate in the text of the roots, so no node could be let in.
    #[error(
        "the roots have no certificate: they are PEM text with a section BEGIN CERTIFICATE for \
         each CA whose certificates are accepted"
    )]
    NoRoots,
    /// A text begins a section and does not end it, or has what is no base64.
    #[error("the PEM text of the {part} is damaged: a section is cut off or has other letters")]
    BadPem {
        /// Which of the three texts: chain, key or roots.
        part: &'static str,
    },
    /// A certificate of the chain cannot be read.
    #[error("certificate {number} of the chain cannot be read: {reason}")]
    BadCertificate {
        /// Which one, counted from 1.
        number: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A root cannot be read.
    #[error("certificate {number} of the roots cannot be read as that of a CA: {reason}")]
    BadRoot {
        /// Which one, counted from 1.
        number: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// The chain has too many certificates or bytes.
    #[error(
        "the chain has {certificates} certificates of {bytes} bytes, and at most {MAX_CHAIN} of \
         {MAX_CHAIN_BYTES} are possible: leave out roots, and CAs that the node's certificate is \
         not under"
    )]
    LongChain {
        /// How many certificates there are.
        certificates: usize,
        /// How many bytes they have in DER.
        bytes: usize,
    },
    /// The private key is of a kind that TLS does not sign with here.
    #[error(
        "the private key is none of ECDSA (P-256 or P-384), Ed25519 or RSA (2048 to 8192 bits): \
         make one with `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`"
    )]
    UnusableKey,
    /// The private key is not that of the first certificate.
    #[error(
        "the private key does not belong to the first certificate of the chain: the node's own \
         certificate comes first, and both are renewed together"
    )]
    OtherKey,
    /// A file cannot be read.
    #[error("cannot read the file {path:?}: {reason}")]
    Unreadable {
        /// The file.
        path: String,
        /// What the system says.
        reason: String,
    },
    /// Certificates are to be valid for node ids, and this node's id is no DNS name in small
    /// letters.
    #[error(
        "the node id {node_id:?} is no DNS name in small letters, so that no certificate is valid \
         for it: use small letters, digits and hyphens, or Names::any_of with the name of the \
         service"
    )]
    NotADnsName {
        /// The node id.
        node_id: String,
    },
    /// The node's own certificate lacks the names that all nodes' certificates must have, so other
    /// nodes would refuse it.
    #[error(
        "the node's certificate is not valid for {name}: have the CA issue one with this DNS name \
         (subjectAltName), or choose other names with Certificates::names"
    )]
    OtherName {
        /// The node id, or the names of [`Names::AnyOf`].
        name: String,
    },
    /// A name of [`Names::AnyOf`] is no DNS name.
    #[error("{name:?} is no DNS name: Names::any_of takes names like \"gridkv.internal\"")]
    BadName {
        /// The name.
        name: String,
    },
    /// [`Names::AnyOf`] has no name, so no node could be let in.
    #[error("Names::any_of has no name, so that no certificate is accepted: give it one")]
    NoNames,
}

#[cfg(test)]
mod tests {
    use rcgen::{PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256};

    use super::*;
    use crate::security::authority::{Authority, Leaf};

    const RSA: &str = include_str!("testing_rsa.pem");

    fn made(chain: &str, key: &str, roots: &str) -> Result<Certificates, CertificatesError> {
        Certificates::from_pem(chain.as_bytes(), key.as_bytes(), roots.as_bytes())
    }

    #[test]
    fn keys_of_all_kinds_are_read_and_belong_to_their_certificates() {
        let root = Authority::new("root");
        let between = root.under("between");
        let leaf = Leaf::of(&["n0"]);
        for leaf in [
            Leaf::of(&["n0"]),
            Leaf { algorithm: &PKCS_ECDSA_P384_SHA384, ..Leaf::of(&["n0"]) },
            Leaf { algorithm: &PKCS_ED25519, ..Leaf::of(&["n0"]) },
            Leaf { algorithm: &PKCS_RSA_SHA256, key: Some(RSA), ..Leaf::of(&["n0"]) },
        ] {
            for authority in [&root, &between] {
                let (chain, key) = authority.issue(&leaf);
                let certificates = made(&chain, &key, &root.pem()).unwrap();
                certificates.check("n0").unwrap();
            }
        }
        let (chain, _) = root.issue(&leaf);
        let (_, other) = root.issue(&leaf);
        assert_eq!(made(&chain, &other, &root.pem()).unwrap_err(), CertificatesError::OtherKey);
        let root_first = format!("{}{chain}", root.pem());
        let (_, key) = root.issue(&leaf);
        let error = made(&root_first, &key, &root.pem()).unwrap_err();
        assert_eq!(error, CertificatesError::OtherKey);
    }

    #[test]
    fn what_is_missing_or_damaged_is_named_and_no_secret_is_quoted() {
        let root = Authority::new("root");
        let (chain, key) = root.issue(&Leaf::of(&["n0"]));
        let pem = root.pem();
        let damaged = |text: &str| text.replacen("MII", "M*I", 1);
        let body = key.lines().nth(1).unwrap().to_owned();
        // Other DER in the section of a certificate.
        let no_certificate = key.replace("PRIVATE KEY", "CERTIFICATE");
        let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
        let bad_key = key.replace(&body, &"A".repeat(body.len()));
        let begins_badly = format!("-----BEGIN {body}\n");
        for (error, expected) in [
            (made("", &key, &pem), CertificatesError::NoCertificate),
            (made(&key, &key, &pem), CertificatesError::NoCertificate),
            (made(&chain, "", &pem), CertificatesError::NoKey),
            (made(&chain, &chain, &pem), CertificatesError::NoKey),
            (made(&chain, &encrypted, &pem), CertificatesError::NoKey),
            (made(&chain, &key, ""), CertificatesError::NoRoots),
            (made(&damaged(&chain), &key, &pem), CertificatesError::BadPem { part: "chain" }),
            (made(&chain, &key[..80], &pem), CertificatesError::BadPem { part: "key" }),
            (made(&chain, &begins_badly, &pem), CertificatesError::BadPem { part: "key" }),
            (made(&chain, &key, &damaged(&pem)), CertificatesError::BadPem { part: "roots" }),
            (made(&chain, &bad_key, &pem), CertificatesError::UnusableKey),
        ] {
            let error = error.unwrap_err();
            assert_eq!(error, expected);
            let text = format!("{error} {error:?}");
            assert!(!text.contains(&body[..8]), "{text}");
        }
        let error = made(&no_certificate, &key, &pem).unwrap_err();
        assert!(matches!(error, CertificatesError::BadCertificate { number: 1, .. }), "{error}");
        let error = made(&chain, &key, &format!("{pem}{no_certificate}")).unwrap_err();
        assert!(matches!(error, CertificatesError::BadRoot { number: 2, .. }), "{error}");
        assert!(!error.to_string().contains(&body[..8]), "{error}");
    }

    #[test]
    fn a_chain_is_bounded_in_certificates_and_in_bytes() {
        let root = Authority::new("root");
        let (chain, key) = root.issue(&Leaf::of(&["n0"]));
        let long = |certificates: usize| format!("{chain}{}", root.pem().repeat(certificates - 1));
        made(&long(MAX_CHAIN), &key, &root.pem()).unwrap();
        let error = made(&long(MAX_CHAIN + 1), &key, &root.pem()).unwrap_err();
        let CertificatesError::LongChain { certificates: 5, .. } = error else { panic!("{error}") };
        let (chain, key) = root.issue(&Leaf { padding: 600, ..Leaf::of(&["n0"]) });
        let error = made(&chain, &key, &root.pem()).unwrap_err();
        let CertificatesError::LongChain { certificates: 1, bytes } = error else { panic!() };
        assert!(bytes > MAX_CHAIN_BYTES, "{bytes}");
    }

    #[test]
    fn a_certificate_is_for_the_names_that_the_app_chooses() {
        let root = Authority::new("root");
        let with = |names: &[&str]| {
            let (chain, key) = root.issue(&Leaf::of(names));
            made(&chain, &key, &root.pem()).unwrap()
        };
        let own = with(&["n0.gridkv.internal"]);
        assert_eq!(own.check("n0.gridkv.internal"), Ok(()));
        let other = |name: &str| Err(CertificatesError::OtherName { name: name.into() });
        assert_eq!(own.check("n1.gridkv.internal"), other("n1.gridkv.internal"));
        for node_id in ["n 0", "n0:1", "10.0.0.1", "", "N0.gridkv.internal", "n0.gridkv.internal."]
        {
            let error = own.check(node_id).unwrap_err();
            assert_eq!(error, CertificatesError::NotADnsName { node_id: node_id.into() });
        }
        let wild = with(&["*.gridkv.internal"]);
        assert_eq!(wild.check("n1.gridkv.internal"), Ok(()));
        assert_eq!(wild.check("gridkv.internal"), other("gridkv.internal"));
        let shared = |names: &[&str]| own.clone().names(Names::any_of(names.iter().copied()));
        assert_eq!(shared(&["x", "n0.gridkv.internal"]).check("any id"), Ok(()));
        assert_eq!(shared(&["x", "y"]).check("n0.gridkv.internal"), other("x, y"));
        assert_eq!(shared(&[]).check("n0"), Err(CertificatesError::NoNames));
        let bad = CertificatesError::BadName { name: "no name".into() };
        assert_eq!(shared(&["x", "no name"]).check("n0"), Err(bad));
        assert!(matches!(own.check_names(b"junk", "n0"), Err(WrongName::NotValid(_))));
    }

    #[test]
    fn what_is_printed_has_no_key_and_a_fingerprint_that_openssl_shows() {
        let root = Authority::new("root");
        let leaf = Leaf { algorithm: &PKCS_RSA_SHA256, key: Some(RSA), ..Leaf::of(&["n0"]) };
        let (chain, key) = root.issue(&leaf);
        let certificates = made(&chain, &key, &root.pem()).unwrap();
        let text = format!("{certificates:?} {certificates:#?}");
        assert!(text.contains(&certificates.fingerprint().to_string()), "{text}");
        assert!(!text.contains("BEGIN") && text.len() < 800, "{text}");
        assert_eq!(certificates.fingerprint().to_string(), RSA_FINGERPRINT);
    }

    /// What `openssl pkey -in testing_rsa.pem -pubout -outform DER | openssl dgst -sha256` prints.
    const RSA_FINGERPRINT: &str =
        "400d308953e38a7e9a1e5d957c2fe673bca86fd8d3a48880bafeb93f0026131e";
}
