//! OPENING and OPENED: both sides prove that they have the cluster key, before TLS.
//!
//! ```text
//!  0 magic "GKVS" · 4 version 1 · 5 kind (1 OPENING, 2 OPENED) · 6 flags u16
//!  8 key id u32 · 12 zero u32 · 16 nonce [24] · 40 certificate hash [32] · 72 mac [32]
//! (integers little-endian, 104 bytes)
//!
//! OPENED repeats the key id and the nonce of OPENING.
//! mac of OPENING = HMAC(opening key, "gridkv 1 opener" ‖ bytes 0 to 71)
//! mac of OPENED  = HMAC(opening key, "gridkv 1 acceptor" ‖ bytes 0 to 71 ‖ the mac of OPENING)
//! ```
//!
//! **Problem.** TLS costs an acceptor a key agreement and a signature for any host that connects,
//! and an opener tells its name to any host that answers. OPENING costs the acceptor one HMAC to
//! refuse. OPENED proves the acceptor, by the opener's nonce, in the flight of its ServerHello.
//!
//! **Invariant.** A side that gets past its check knows that the other one, or a host that recorded
//! it, has the cluster key. It does not know that the host which speaks TLS is that one: for this
//! it compares the certificate's hash with what TLS proves, and asks for a
//! [proof](super::proof) that no recording has.
//!
//! The flags and the zero are covered by the MAC. What is not known of them is not looked at, so
//! that a later version can use it.

use std::fmt;

use ring::hmac;

use super::identity::CertificateHash;
use super::keys::{DerivedKeys, KeyId, Keyring};
use crate::types::SECURED_MAGIC;

/// The length of OPENING and of OPENED.
pub(crate) const OPENING_BYTES: usize = 104;

/// How both begin. As the length of a plain frame it is 1.4 GB, which every node refuses.
const VERSION: u8 = 1;

const KIND_OPENING: u8 = 1;
const KIND_OPENED: u8 = 2;

const FLAGS_AT: usize = 6;
const KEY_AT: usize = 8;
const NONCE_AT: usize = 16;
const CERTIFICATE_AT: usize = 40;
const MAC_AT: usize = 72;

/// Why an OPENING or OPENED is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OpeningError {
    #[error("what came is not how a secured connection begins")]
    NotAnOpening,
    #[error("version {0} of secured connections; this node speaks version {VERSION}")]
    WrongVersion(u8),
    #[error("the other side uses the key {0}, which this node does not accept here")]
    NoSuchKey(KeyId),
    /// The other side has another key with this id, or something in between altered it.
    #[error("the other side's proof of the cluster key is wrong")]
    WrongMac,
    /// OPENED answers another OPENING.
    #[error("the other side answers another connection")]
    WrongNonce,
}

/// The two sides of a connection. A proof names the side that makes it, so that it is worth nothing
/// if it is sent back to that side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    Opener,
    Acceptor,
}

impl Role {
    pub(super) fn text(self) -> &'static [u8] {
        match self {
            Self::Opener => b"opener",
            Self::Acceptor => b"acceptor",
        }
    }

    pub(super) fn other(self) -> Self {
        match self {
            Self::Opener => Self::Acceptor,
            Self::Acceptor => Self::Opener,
        }
    }
}

/// What a side can do and wants, as a set of bits.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct OpeningFlags(pub(crate) u16);

impl OpeningFlags {
    /// It speaks to nodes without security, too.
    pub(crate) const SPEAKS_PLAIN: Self = Self(1);
    /// It presents a certificate, and not a raw public key.
    pub(crate) const HAS_CERTIFICATE: Self = Self(1 << 1);
    /// It wants a certificate of the other side.
    pub(crate) const WANTS_CERTIFICATE: Self = Self(1 << 2);

    pub(crate) fn has(self, flag: Self) -> bool {
        self.0 & flag.0 == flag.0
    }

    pub(crate) fn with(self, flag: Self) -> Self {
        Self(self.0 | flag.0)
    }
}

impl fmt::Debug for OpeningFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpeningFlags({:#05b})", self.0)
    }
}

/// What a side presents in TLS. Both sides of a connection present the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// The node's own key.
    RawKey,
    /// A certificate of a PKI.
    Certificate,
}

impl Kind {
    /// Returns what a side says that presents this kind, and wants the same.
    pub(crate) fn flags(self) -> OpeningFlags {
        match self {
            Self::RawKey => OpeningFlags::default(),
            Self::Certificate => {
                OpeningFlags::HAS_CERTIFICATE.with(OpeningFlags::WANTS_CERTIFICATE)
            }
        }
    }

    /// Returns the kind that a side presents and wants, or `None` if it wants another one than it
    /// presents.
    pub(crate) fn of(flags: OpeningFlags) -> Option<Self> {
        let [has, wants] = [OpeningFlags::HAS_CERTIFICATE, OpeningFlags::WANTS_CERTIFICATE]
            .map(|flag| flags.has(flag));
        match (has, wants) {
            (false, false) => Some(Self::RawKey),
            (true, true) => Some(Self::Certificate),
            _ => None,
        }
    }
}

/// What a side says of itself before TLS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Offer {
    pub(crate) flags: OpeningFlags,
    /// What it is going to present in TLS.
    pub(crate) certificate: CertificateHash,
}

/// An OPENING: made by the opener, or received and found right by the acceptor.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Opening {
    bytes: [u8; OPENING_BYTES],
}

impl Opening {
    /// Makes an OPENING with the keys that the opener seals with. `nonce` is random.
    pub(crate) fn new(keys: &DerivedKeys, nonce: [u8; 24], offer: Offer) -> Self {
        Self { bytes: encode(keys, &nonce, offer, None) }
    }

    /// Checks what an acceptor has received.
    pub(crate) fn accept(
        keyring: &Keyring,
        bytes: &[u8; OPENING_BYTES],
    ) -> Result<Self, OpeningError> {
        let fields = Fields::decode(bytes, KIND_OPENING)?;
        let keys = keyring.by_id(fields.key).ok_or(OpeningError::NoSuchKey(fields.key))?;
        fields.check_mac(keys, None)?;
        Ok(Self { bytes: *bytes })
    }

    /// Returns the bytes that go over the wire.
    pub(crate) fn bytes(&self) -> &[u8; OPENING_BYTES] {
        &self.bytes
    }

    /// Returns the key that this connection is opened with.
    pub(crate) fn key(&self) -> KeyId {
        KeyId(u32::from_le_bytes(field(&self.bytes, KEY_AT)))
    }

    /// Returns what the opener says of itself.
    pub(crate) fn offer(&self) -> Offer {
        offer(&self.bytes)
    }

    /// Returns the OPENED with which an acceptor answers. It is made with the key of the OPENING,
    /// so there is none if the keyring has lost that in between.
    pub(crate) fn answer(
        &self,
        keyring: &Keyring,
        offer: Offer,
    ) -> Result<[u8; OPENING_BYTES], OpeningError> {
        let keys = keyring.by_id(self.key()).ok_or(OpeningError::NoSuchKey(self.key()))?;
        let nonce = field(&self.bytes, NONCE_AT);
        Ok(encode(keys, &nonce, offer, Some(&self.mac())))
    }

    /// Checks the OPENED that this OPENING was answered with, and returns what the acceptor says of
    /// itself.
    pub(crate) fn check_answer(
        &self,
        keyring: &Keyring,
        bytes: &[u8; OPENING_BYTES],
    ) -> Result<Offer, OpeningError> {
        let fields = Fields::decode(bytes, KIND_OPENED)?;
        let keys = keyring.by_id(fields.key).ok_or(OpeningError::NoSuchKey(fields.key))?;
        if fields.key != self.key() {
            return Err(OpeningError::NoSuchKey(fields.key));
        }
        if fields.nonce != field(&self.bytes, NONCE_AT) {
            return Err(OpeningError::WrongNonce);
        }
        fields.check_mac(keys, Some(&self.mac()))?;
        Ok(offer(bytes))
    }

    fn mac(&self) -> [u8; 32] {
        field(&self.bytes, MAC_AT)
    }
}

impl fmt::Debug for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Opening({}, {:?})", self.key(), self.offer())
    }
}

/// Both messages, their form checked and their MAC not yet.
struct Fields<'a> {
    key: KeyId,
    nonce: [u8; 24],
    bytes: &'a [u8; OPENING_BYTES],
}

impl<'a> Fields<'a> {
    fn decode(bytes: &'a [u8; OPENING_BYTES], kind: u8) -> Result<Self, OpeningError> {
        let [magic @ .., version, kind_here]: [u8; 6] = field(bytes, 0);
        if magic != SECURED_MAGIC {
            return Err(OpeningError::NotAnOpening);
        }
        if version != VERSION {
            return Err(OpeningError::WrongVersion(version));
        }
        if kind_here != kind {
            return Err(OpeningError::NotAnOpening);
        }
        let key = KeyId(u32::from_le_bytes(field(bytes, KEY_AT)));
        Ok(Self { key, nonce: field(bytes, NONCE_AT), bytes })
    }

    fn check_mac(
        &self,
        keys: &DerivedKeys,
        opening_mac: Option<&[u8; 32]>,
    ) -> Result<(), OpeningError> {
        let message = signed(self.bytes, opening_mac);
        hmac::verify(keys.opening(), &message, &self.bytes[MAC_AT..])
            .map_err(|_| OpeningError::WrongMac)
    }
}

/// Writes an OPENED if there is an OPENING to answer, otherwise an OPENING.
fn encode(
    keys: &DerivedKeys,
    nonce: &[u8; 24],
    offer: Offer,
    opening_mac: Option<&[u8; 32]>,
) -> [u8; OPENING_BYTES] {
    let kind = if opening_mac.is_none() { KIND_OPENING } else { KIND_OPENED };
    let mut bytes = [0; OPENING_BYTES];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(0, &SECURED_MAGIC);
    put(4, &[VERSION, kind]);
    put(FLAGS_AT, &offer.flags.0.to_le_bytes());
    put(KEY_AT, &keys.id().0.to_le_bytes());
    put(NONCE_AT, nonce);
    put(CERTIFICATE_AT, &offer.certificate.0);
    let mac = hmac::sign(keys.opening(), &signed(&bytes, opening_mac));
    bytes[MAC_AT..].copy_from_slice(mac.as_ref());
    bytes
}

fn offer(bytes: &[u8; OPENING_BYTES]) -> Offer {
    Offer {
        flags: OpeningFlags(u16::from_le_bytes(field(bytes, FLAGS_AT))),
        certificate: CertificateHash(field(bytes, CERTIFICATE_AT)),
    }
}

/// Returns what the MAC covers. Its length is that of the message and of nothing in it.
fn signed(bytes: &[u8; OPENING_BYTES], opening_mac: Option<&[u8; 32]>) -> Vec<u8> {
    let role = if opening_mac.is_none() { Role::Opener } else { Role::Acceptor };
    let opening_mac = opening_mac.map_or(&[][..], |mac| mac);
    [b"gridkv 1 ", role.text(), &bytes[..MAC_AT], opening_mac].concat()
}

/// Returns a field of a fixed place and length.
fn field<const N: usize>(bytes: &[u8; OPENING_BYTES], at: usize) -> [u8; N] {
    std::array::from_fn(|byte| bytes[at + byte])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::security::testing::{hex, keyring};

    const NONCE: [u8; 24] =
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23];

    fn opener() -> Offer {
        let flags = OpeningFlags::SPEAKS_PLAIN.with(OpeningFlags::WANTS_CERTIFICATE);
        Offer { flags, certificate: CertificateHash([0xaa; 32]) }
    }

    fn acceptor() -> Offer {
        Offer { flags: OpeningFlags::HAS_CERTIFICATE, certificate: CertificateHash([0xbb; 32]) }
    }

    fn opening(keyring: &Keyring) -> Opening {
        Opening::new(keyring.sealing(), NONCE, opener())
    }

    #[test]
    fn both_messages_are_those_of_the_specification() {
        let keyring = keyring(0, &[]);
        let opening = opening(&keyring);
        let expected = "474b56530101050010ca122e00000000000102030405060708090a0b0c0d0e0f10111213\
                        14151617aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\
                        006ccf2c959ab57dcdd948e55e35c45862e637de613ca581bf4a6f09a9dde5ca";
        assert_eq!(hex(opening.bytes()), expected);
        let opened = opening.answer(&keyring, acceptor()).unwrap();
        let expected = "474b56530102020010ca122e00000000000102030405060708090a0b0c0d0e0f10111213\
                        14151617bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\
                        a505427b1ce8ff02a9a65faa1704f710a28328da2905b5d2a92af76a9d300bcc";
        assert_eq!(hex(&opened), expected);
    }

    #[test]
    fn both_sides_learn_what_the_other_one_offers() {
        let [ours, theirs] = [keyring(0, &[1]), keyring(1, &[0])];
        let opening = opening(&ours);
        let accepted = Opening::accept(&theirs, opening.bytes()).unwrap();
        assert_eq!(accepted, opening);
        assert_eq!(accepted.offer(), opener());
        assert_eq!(accepted.key(), ours.sealing().id(), "and not the one that it seals with");
        assert!(accepted.offer().flags.has(OpeningFlags::WANTS_CERTIFICATE));
        assert!(!accepted.offer().flags.has(OpeningFlags::HAS_CERTIFICATE));
        let opened = accepted.answer(&theirs, acceptor()).unwrap();
        assert_eq!(opening.check_answer(&ours, &opened), Ok(acceptor()));
    }

    /// The error that a byte of either message brings when it is another one.
    fn expected_at(byte: usize, changed: u8, is_answer: bool) -> impl Fn(OpeningError) -> bool {
        move |error| match byte {
            0..4 | 5 => error == OpeningError::NotAnOpening,
            4 => error == OpeningError::WrongVersion(changed),
            8..12 => matches!(error, OpeningError::NoSuchKey(_)),
            16..40 if is_answer => error == OpeningError::WrongNonce,
            _ => error == OpeningError::WrongMac,
        }
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let keyring = keyring(0, &[]);
        let opening = opening(&keyring);
        let opened = opening.answer(&keyring, acceptor()).unwrap();
        for bit in 0..8 * OPENING_BYTES {
            let flip = |bytes: &[u8; OPENING_BYTES]| {
                let mut bytes = *bytes;
                bytes[bit / 8] ^= 1 << (bit % 8);
                bytes
            };
            let flipped = flip(opening.bytes());
            let error = Opening::accept(&keyring, &flipped).unwrap_err();
            assert!(expected_at(bit / 8, flipped[bit / 8], false)(error), "bit {bit}: {error}");
            let flipped = flip(&opened);
            let error = opening.check_answer(&keyring, &flipped).unwrap_err();
            assert!(expected_at(bit / 8, flipped[bit / 8], true)(error), "bit {bit}: {error}");
        }
    }

    #[test]
    fn a_host_without_the_key_is_refused() {
        let [ours, theirs] = [keyring(0, &[]), keyring(1, &[])];
        let opening = opening(&ours);
        let error = Opening::accept(&theirs, opening.bytes());
        assert_eq!(error, Err(OpeningError::NoSuchKey(ours.sealing().id())));
        // It can see the key id, and has no key.
        let mut forged = *Opening::new(theirs.sealing(), NONCE, opener()).bytes();
        forged[KEY_AT..KEY_AT + 4].copy_from_slice(&ours.sealing().id().0.to_le_bytes());
        assert_eq!(Opening::accept(&ours, &forged), Err(OpeningError::WrongMac));
        forged[MAC_AT..].fill(0);
        assert_eq!(Opening::accept(&ours, &forged), Err(OpeningError::WrongMac));
    }

    #[test]
    fn an_answer_is_for_one_opening_and_none_of_the_opener_itself() {
        let keyring = keyring(0, &[1]);
        let one = opening(&keyring);
        let other = Opening::new(keyring.sealing(), [7; 24], opener());
        let answer = other.answer(&keyring, acceptor()).unwrap();
        assert_eq!(one.check_answer(&keyring, &answer), Err(OpeningError::WrongNonce));
        let reflected = one.check_answer(&keyring, one.bytes());
        assert_eq!(reflected, Err(OpeningError::NotAnOpening));
        let mut as_opened = *one.bytes();
        as_opened[5] = KIND_OPENED;
        assert_eq!(one.check_answer(&keyring, &as_opened), Err(OpeningError::WrongMac));
        // The same nonce, but another offer: the answer covers all of OPENING.
        let offer = Offer { flags: OpeningFlags::default(), ..opener() };
        let altered = Opening::new(keyring.sealing(), NONCE, offer);
        let answer = altered.answer(&keyring, acceptor()).unwrap();
        assert_eq!(one.check_answer(&keyring, &answer), Err(OpeningError::WrongMac));
        // Another key of the ring than that of OPENING.
        let with_other = keyring.iter().nth(1).unwrap();
        let altered = Opening::new(with_other, NONCE, opener());
        let answer = altered.answer(&keyring, acceptor()).unwrap();
        let expected = Err(OpeningError::NoSuchKey(with_other.id()));
        assert_eq!(one.check_answer(&keyring, &answer), expected);
    }

    #[test]
    fn a_key_that_goes_in_between_ends_the_opening() {
        let [before, after] = [keyring(0, &[1]), keyring(1, &[])];
        let opening = opening(&before);
        let expected = OpeningError::NoSuchKey(opening.key());
        assert_eq!(opening.answer(&after, acceptor()), Err(expected));
        let opened = opening.answer(&before, acceptor()).unwrap();
        assert_eq!(opening.check_answer(&after, &opened), Err(expected));
    }

    #[test]
    fn what_a_later_version_may_say_is_not_looked_at() {
        let keyring = keyring(0, &[]);
        let offer = Offer { flags: OpeningFlags(u16::MAX), ..opener() };
        let opening = Opening::new(keyring.sealing(), NONCE, offer);
        assert_eq!(Opening::accept(&keyring, opening.bytes()).unwrap().offer(), offer);
    }
}
