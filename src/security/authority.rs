//! A certificate authority for tests: of this crate's units, and of `tests/security`.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SignatureAlgorithm, date_time_ymd,
};

/// A CA: a root, or one under another CA.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// The certificates between a leaf and the root, this one's among them; empty for a root.
    chain: String,
}

/// What a certificate is issued for.
pub(crate) struct Leaf<'a> {
    pub(crate) names: &'a [&'a str],
    /// The first and the last year in which it is valid.
    pub(crate) years: (i32, i32),
    /// The extended key usages; none if it is empty.
    pub(crate) usages: &'a [ExtendedKeyUsagePurpose],
    pub(crate) algorithm: &'static SignatureAlgorithm,
    /// The private key, as PEM. `None`: a new one of the algorithm.
    pub(crate) key: Option<&'a str>,
    /// How many names it has in addition, to be large.
    pub(crate) padding: usize,
}

impl<'a> Leaf<'a> {
    /// What nodes use: for clients and servers, of a time that does not end in tests.
    pub(crate) fn of(names: &'a [&'a str]) -> Self {
        Self {
            names,
            years: (2020, 2990),
            usages: &[ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            algorithm: &PKCS_ECDSA_P256_SHA256,
            key: None,
            padding: 0,
        }
    }
}

fn new_key(algorithm: &'static SignatureAlgorithm) -> KeyPair {
    KeyPair::generate_for(algorithm).expect("a key")
}

fn of_ca(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).expect("a certificate");
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

impl Authority {
    /// Makes a root of a new key.
    pub(crate) fn new(name: &str) -> Self {
        let issuer = CertifiedIssuer::self_signed(of_ca(name), new_key(&PKCS_ECDSA_P256_SHA256));
        Self { issuer: issuer.expect("a root"), chain: String::new() }
    }

    /// Makes a CA under this one.
    pub(crate) fn under(&self, name: &str) -> Self {
        let issuer =
            CertifiedIssuer::signed_by(of_ca(name), new_key(&PKCS_ECDSA_P256_SHA256), &self.issuer);
        let issuer = issuer.expect("a CA");
        let chain = format!("{}{}", issuer.pem(), self.chain);
        Self { issuer, chain }
    }

    /// Returns the certificate of this CA.
    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Returns a chain from a new certificate up, and its private key.
    pub(crate) fn issue(&self, leaf: &Leaf<'_>) -> (String, String) {
        let mut names: Vec<String> = leaf.names.iter().map(|name| (*name).to_owned()).collect();
        names.extend((0..leaf.padding).map(|at| format!("padding-{at}.of.a.large.certificate")));
        let mut params = CertificateParams::new(names).expect("names");
        params.not_before = date_time_ymd(leaf.years.0, 1, 1);
        params.not_after = date_time_ymd(leaf.years.1, 12, 31);
        params.extended_key_usages = leaf.usages.to_vec();
        let key = leaf.key.map(|pem| KeyPair::from_pem(pem).expect("a key"));
        let key = key.unwrap_or_else(|| new_key(leaf.algorithm));
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        (format!("{}{}", certificate.pem(), self.chain), key.serialize_pem())
    }
}
