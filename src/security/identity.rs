//! Who a node is: an Ed25519 key, what it signs, and the fingerprint that people compare.

use std::fmt;
use std::str::FromStr;

use ring::digest;
use ring::signature::{self, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use zeroize::Zeroizing;

use super::hex::{self, HexError};

/// What comes before the 32 bytes of an Ed25519 key in a SubjectPublicKeyInfo (RFC 8410).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];

/// What comes before the 32 bytes of a seed in a PKCS#8 file without the public key (RFC 8410).
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

/// What a signature is made for. It is signed too, so that none counts for anything else.
///
/// None of the texts begins with another one, so no two of them can sign the same bytes. And TLS
/// signs nothing that begins like them: it puts 64 spaces first (RFC 8446, 4.4.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Domain {
    /// "I am this life of this node, here, with this key."
    Here,
    /// "I hand my data over."
    Leaving,
    /// "I have handed everything over."
    Left,
    /// "I am an end of this TLS session, with a certificate."
    Session,
}

impl Domain {
    fn text(self) -> &'static [u8] {
        match self {
            Self::Here => b"gridkv 1 here",
            Self::Leaving => b"gridkv 1 leaving",
            Self::Left => b"gridkv 1 left",
            Self::Session => b"gridkv 1 session",
        }
    }

    fn with(self, message: &[u8]) -> Vec<u8> {
        [self.text(), message].concat()
    }
}

/// The private Ed25519 key of a node, with which it proves that it is the same node as before.
///
/// Without one, a node has a new key at every start. A node that is given a key keeps its
/// [`Fingerprint`], and other nodes then refuse another key under its node id.
///
/// `Debug` shows the fingerprint. The copy of the key that is kept for TLS is overwritten in memory
/// when the value is dropped.
///
/// ```no_run
/// use gridkv::NodeIdentity;
///
/// // Made by: openssl genpkey -algorithm ed25519 -outform DER -out node.key
/// let der = std::fs::read("/run/secrets/node.key")?;
/// let identity = NodeIdentity::from_pkcs8(&der)?;
/// println!("{}", identity.fingerprint());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct NodeIdentity {
    pair: Ed25519KeyPair,
    /// TLS reads the key from here.
    pkcs8: Zeroizing<Vec<u8>>,
}

impl NodeIdentity {
    /// Takes an Ed25519 key in PKCS#8, as DER, with or without its public key.
    ///
    /// # Errors
    ///
    /// [`NodeIdentityError::Pem`] if the key is written as text, and
    /// [`NodeIdentityError::NotEd25519`] if it is another kind of key, or none.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, NodeIdentityError> {
        if der.trim_ascii_start().starts_with(b"-----BEGIN") {
            return Err(NodeIdentityError::Pem);
        }
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der)
            .map_err(|error| NodeIdentityError::NotEd25519 { reason: error.to_string() })?;
        Ok(Self { pair, pkcs8: Zeroizing::new(der.to_vec()) })
    }

    /// Makes the key that belongs to 32 random bytes.
    pub(crate) fn from_seed(seed: &Zeroizing<[u8; 32]>) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(&**seed).expect("a seed has 32 bytes");
        let mut pkcs8 = Zeroizing::new(Vec::with_capacity(PKCS8_PREFIX.len() + seed.len()));
        pkcs8.extend_from_slice(&PKCS8_PREFIX);
        pkcs8.extend_from_slice(&**seed);
        Self { pair, pkcs8 }
    }

    /// Returns the fingerprint of the public key: what other nodes show of this one.
    pub fn fingerprint(&self) -> Fingerprint {
        self.public_key().fingerprint()
    }

    pub(crate) fn public_key(&self) -> PublicKey {
        let mut key = [0; 32];
        key.copy_from_slice(self.pair.public_key().as_ref());
        PublicKey(key)
    }

    /// Returns the private key as PKCS#8, for TLS.
    pub(crate) fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    pub(crate) fn sign(&self, domain: Domain, message: &[u8]) -> Signature {
        let mut bytes = [0; 64];
        bytes.copy_from_slice(self.pair.sign(&domain.with(message)).as_ref());
        Signature(bytes)
    }
}

impl fmt::Debug for NodeIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeIdentity({})", self.fingerprint())
    }
}

/// Why something is no [`NodeIdentity`]. No text of it has a part of the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NodeIdentityError {
    /// The key is PEM text, and not DER.
    #[error(
        "the node's key is PEM text, and DER is needed: convert it with \
         `openssl pkey -in node.pem -outform DER -out node.key`"
    )]
    Pem,
    /// The key is not an Ed25519 key in PKCS#8.
    #[error(
        "the node's key is no Ed25519 key in PKCS#8 ({reason}): make one with \
         `openssl genpkey -algorithm ed25519 -outform DER -out node.key`"
    )]
    NotEd25519 {
        /// What is wrong with it.
        reason: String,
    },
}

/// A signature does not belong to this key and this message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a signature that the node's key has not made")]
pub(crate) struct WrongSignature;

/// An Ed25519 signature.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Signature(pub(crate) [u8; 64]);

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signature(..)")
    }
}

/// The public Ed25519 key of a node. Any 32 bytes may stand here.
///
/// Bytes that are no key verify nothing. A few keys are weak (those of small order): every host can
/// sign for them. This harms only the node that has made up such a key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PublicKey(pub(crate) [u8; 32]);

impl PublicKey {
    pub(crate) fn verify(
        &self,
        domain: Domain,
        message: &[u8],
        signature: &Signature,
    ) -> Result<(), WrongSignature> {
        UnparsedPublicKey::new(&signature::ED25519, &self.0)
            .verify(&domain.with(message), &signature.0)
            .map_err(|_| WrongSignature)
    }

    /// Returns the key as a SubjectPublicKeyInfo in DER, as raw public keys stand in TLS.
    pub(crate) fn spki(&self) -> [u8; 44] {
        let mut spki = [0; 44];
        let (prefix, key) = spki.split_at_mut(SPKI_PREFIX.len());
        prefix.copy_from_slice(&SPKI_PREFIX);
        key.copy_from_slice(&self.0);
        spki
    }

    /// Reads what [`spki`](Self::spki) writes. `None` if it is anything else.
    pub(crate) fn from_spki(spki: &[u8]) -> Option<Self> {
        let key = spki.strip_prefix(&SPKI_PREFIX)?;
        key.try_into().ok().map(Self)
    }

    pub(crate) fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of_spki(&self.spki())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.fingerprint())
    }
}

/// The public name of a node's key: the SHA-256 of its SubjectPublicKeyInfo.
///
/// It is shown as 64 hexadecimal digits, and read from such. `openssl` prints the same of a file
/// with a private key:
///
/// ```text
/// openssl pkey -inform DER -in node.key -pubout -outform DER | openssl dgst -sha256
/// ```
///
/// ```
/// use gridkv::Fingerprint;
///
/// let text = "1a2b".repeat(16);
/// let fingerprint: Fingerprint = text.parse()?;
/// assert_eq!(fingerprint.to_string(), text);
/// # Ok::<(), gridkv::FingerprintError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Takes the SubjectPublicKeyInfo of any kind of key: certificates have others than Ed25519.
    pub(crate) fn of_spki(spki: &[u8]) -> Self {
        Self(sha256(spki))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

impl FromStr for Fingerprint {
    type Err = FingerprintError;

    /// Reads 64 hexadecimal digits, of either case.
    fn from_str(text: &str) -> Result<Self, FingerprintError> {
        let mut bytes = [0; 32];
        hex::decode(text, &mut bytes)?;
        Ok(Self(bytes))
    }
}

/// Why a text is no [`Fingerprint`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FingerprintError {
    /// A character is no hexadecimal digit.
    #[error("character {position} of the fingerprint is no hexadecimal digit: it has 64 of them")]
    NotHex {
        /// Which character, counted from 1.
        position: usize,
    },
    /// There are more or fewer than 64 hexadecimal digits.
    #[error("the fingerprint has {length} hexadecimal digits, and not 64")]
    WrongLength {
        /// How many digits there are.
        length: usize,
    },
}

impl From<HexError> for FingerprintError {
    fn from(error: HexError) -> Self {
        match error {
            HexError::NotHex { position } => Self::NotHex { position },
            HexError::WrongLength { length } => Self::WrongLength { length },
        }
    }
}

/// The SHA-256 of what a node presents in TLS: its end-entity certificate, or with raw public keys
/// its SubjectPublicKeyInfo. In that case it is the [`Fingerprint`] as well.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct CertificateHash(pub(crate) [u8; 32]);

impl CertificateHash {
    pub(crate) fn of(der: &[u8]) -> Self {
        Self(sha256(der))
    }
}

impl fmt::Debug for CertificateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CertificateHash({})", Fingerprint(self.0))
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::security::testing::{bytes, hex, node};

    const PUBLIC: &str = "2543b92ff1095511476adc8369db6ddc933665a11978dda1404ee1066ca9559d";
    const FINGERPRINT: &str = "788de5096f8b530eef97a4015cffb7cfeb260c23795b846bf8112682a93b1101";
    const DOMAINS: [Domain; 3] = [Domain::Here, Domain::Leaving, Domain::Left];

    #[test]
    fn keys_and_fingerprints_are_those_of_the_specification() {
        let own = node(0x40);
        let public = own.public_key();
        assert_eq!(hex(&public.0), PUBLIC);
        assert_eq!(hex(&public.spki()), "302a300506032b6570032100".to_owned() + PUBLIC);
        assert_eq!(own.fingerprint().to_string(), FINGERPRINT);
        assert_eq!(CertificateHash::of(&public.spki()).0, own.fingerprint().0);
        let pkcs8 = "302e020100300506032b657004220420404142434445464748494a4b4c4d4e4f50515253\
                     5455565758595a5b5c5d5e5f";
        assert_eq!(hex(own.pkcs8()), pkcs8);
        assert_eq!(PublicKey::from_spki(&public.spki()), Some(public));
        assert_eq!(PublicKey::from_spki(&public.spki()[..43]), None);
        assert_eq!(PublicKey::from_spki(&[public.spki().as_slice(), &[0]].concat()), None);
    }

    #[test]
    fn signatures_are_those_of_the_specification() {
        let signature = node(0x40).sign(Domain::Here, b"message");
        let expected = "0c68049f8f921365f9a5fe63b3887a651303660606f227fc7b675d92b8d55edf95a74ab9\
                        34c9a84cc3c9d02825ca6aba255934023dc35d264b600aca733d7c04";
        assert_eq!(hex(&signature.0), expected);
    }

    #[test]
    fn a_signature_counts_for_one_key_one_domain_and_one_message() {
        let own = node(0x40);
        let public = own.public_key();
        for domain in DOMAINS {
            let signature = own.sign(domain, b"message");
            public.verify(domain, b"message", &signature).unwrap();
            for other in DOMAINS.into_iter().filter(|other| *other != domain) {
                assert_eq!(public.verify(other, b"message", &signature), Err(WrongSignature));
            }
            for message in [&b"messag"[..], b"messages", b"Message", b""] {
                assert_eq!(public.verify(domain, message, &signature), Err(WrongSignature));
            }
            let other = node(0x41).public_key();
            assert_eq!(other.verify(domain, b"message", &signature), Err(WrongSignature));
            for bit in 0..8 * 64 {
                let mut flipped = signature;
                flipped.0[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(public.verify(domain, b"message", &flipped), Err(WrongSignature));
            }
        }
    }

    #[test]
    fn no_domain_begins_with_another() {
        for one in DOMAINS {
            for other in DOMAINS.into_iter().filter(|other| *other != one) {
                assert!(!one.text().starts_with(other.text()));
            }
        }
    }

    #[test]
    fn what_is_no_public_key_verifies_nothing() {
        let signature = node(0x40).sign(Domain::Left, b"message");
        for key in [[0; 32], [1; 32], [0xff; 32]] {
            let verified = PublicKey(key).verify(Domain::Left, b"message", &signature);
            assert_eq!(verified, Err(WrongSignature));
        }
    }

    #[test]
    fn keys_are_read_from_pkcs8_and_from_nothing_else() {
        let own = node(0x40);
        let read = NodeIdentity::from_pkcs8(own.pkcs8()).unwrap();
        assert_eq!(read.fingerprint(), own.fingerprint());
        assert_eq!(read.sign(Domain::Here, b"x"), own.sign(Domain::Here, b"x"));
        for length in 0..own.pkcs8().len() {
            let error = NodeIdentity::from_pkcs8(&own.pkcs8()[..length]).unwrap_err();
            assert!(matches!(error, NodeIdentityError::NotEd25519 { .. }), "{error}");
        }
        let mut with_wrong_public_key = own.pkcs8().to_vec();
        with_wrong_public_key[1] = 0x51;
        with_wrong_public_key[4] = 1;
        with_wrong_public_key.extend([0x81, 0x21, 0]);
        let with_public_key = [&with_wrong_public_key[..], &own.public_key().0].concat();
        assert!(NodeIdentity::from_pkcs8(&with_public_key).is_ok());
        with_wrong_public_key.extend([7; 32]);
        assert!(NodeIdentity::from_pkcs8(&with_wrong_public_key).is_err());
        let pem = b"\n-----BEGIN PRIVATE KEY-----\nMC4CAQ";
        assert_eq!(NodeIdentity::from_pkcs8(pem).unwrap_err(), NodeIdentityError::Pem);
    }

    #[test]
    fn fingerprints_are_read_as_they_are_shown() {
        let fingerprint = Fingerprint(bytes(FINGERPRINT));
        assert_eq!(FINGERPRINT.parse(), Ok(fingerprint));
        assert_eq!(FINGERPRINT.to_uppercase().parse(), Ok(fingerprint));
        let error = |text: &str| text.parse::<Fingerprint>().unwrap_err();
        assert_eq!(error(&FINGERPRINT[2..]), FingerprintError::WrongLength { length: 62 });
        assert_eq!(error("78:8d"), FingerprintError::NotHex { position: 3 });
    }
}
