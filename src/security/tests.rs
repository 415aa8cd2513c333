//! What holds for the room as a whole: the opening from end to end, and that no secret is shown.

use proptest::prelude::*;
use zeroize::Zeroizing;

use super::identity::CertificateHash;
use super::keys::{ClusterKey, Keyring};
use super::opening::{OPENING_BYTES, Offer, Opening, OpeningError, OpeningFlags, Role};
use super::proof::{Departure, Introduction, IntroductionFlags, Session, SignedClaim};
use super::seal::{Opener, Sealer};
use super::suite::{SEALED_AES_128_GCM, SEALED_CHACHA20_POLY1305, Salt, Suite};
use super::testing::{CLUSTER_HASH, bytes, hex, identity, key, keyring, node};
use crate::clock::Instant;
use crate::security::{Fingerprint, NodeIdentity};

/// The picture of the module, with TLS taken for granted.
#[test]
fn two_nodes_open_a_connection_while_the_key_is_being_changed() {
    let [ours, theirs] = [keyring(0, &[1]), keyring(1, &[0])];
    let [opener, acceptor] = [node(1), node(2)];
    let offer = |node: &NodeIdentity| Offer {
        flags: OpeningFlags::default(),
        certificate: CertificateHash::of(&node.public_key().spki()),
    };
    let opening = Opening::new(ours.sealing(), [9; 24], offer(&opener));
    let accepted = Opening::accept(&theirs, opening.bytes()).unwrap();
    let opened = accepted.answer(&theirs, offer(&acceptor)).unwrap();
    let answer = opening.check_answer(&ours, &opened).unwrap();

    let exporter = || Zeroizing::new([3; 32]);
    let own = offer(&opener).certificate;
    let near = Session::new(Role::Opener, exporter(), own, answer.certificate);
    let own = offer(&acceptor).certificate;
    let far = Session::new(Role::Acceptor, exporter(), own, accepted.offer().certificate);
    let [near_keys, far_keys] = [&ours, &theirs].map(|ring| ring.by_id(opening.key()).unwrap());
    far.check(far_keys, &near.prove(near_keys)).unwrap();
    near.check(near_keys, &far.prove(far_keys)).unwrap();

    let flags = IntroductionFlags::OPENS_SEALED;
    let introduction = Introduction::new(&opener, CLUSTER_HASH, &identity("10.0.0.1:8001"), flags);
    introduction.verify(CLUSTER_HASH).unwrap();
    let proven = CertificateHash::of(&introduction.key.spki());
    assert_eq!(proven, accepted.offer().certificate);
}

proptest! {
    /// They begin as the real ones do, so that they get far.
    #[test]
    fn bytes_of_a_host_without_the_key_open_nothing(
        suite in prop_oneof![Just(SEALED_AES_128_GCM), Just(SEALED_CHACHA20_POLY1305), any::<u8>()],
        rest in prop::collection::vec(any::<u8>(), 0..200),
        has_key_id in any::<bool>(),
        salt in 0u64..2,
    ) {
        let keyring = keyring(0, &[1]);
        let id = keyring.sealing().id().0.to_le_bytes();
        let mut opener = Opener::default();
        let mut datagram = Vec::new();
        let mut sealer = Sealer::new(&keyring, Suite::Aes128Gcm, Salt(0));
        sealer.seal(b"known", b"", &mut datagram).unwrap();
        opener.open(&keyring, Instant::default(), b"", &mut datagram).unwrap();

        let mut datagram = vec![suite];
        if has_key_id {
            datagram.extend(id);
            datagram.extend(salt.to_le_bytes());
        }
        datagram.extend(&rest);
        prop_assert!(opener.open(&keyring, Instant::default(), b"", &mut datagram).is_err());
        prop_assert_eq!(opener.senders(), 1);

        let mut bytes = [0; OPENING_BYTES];
        bytes.iter_mut().zip(&rest).for_each(|(byte, random)| *byte = *random);
        prop_assert!(Opening::accept(&keyring, &bytes).is_err());
        bytes[..6].copy_from_slice(b"GKVS\x01\x01");
        bytes[8..12].copy_from_slice(&id);
        prop_assert_eq!(Opening::accept(&keyring, &bytes), Err(OpeningError::WrongMac));
    }
}

/// Every form in which 32 bytes of a secret could be shown, in parts of four bytes.
fn forms(secret: &[u8]) -> Vec<String> {
    let mut forms = Vec::new();
    for part in secret.windows(4) {
        forms.push(hex(part));
        forms.push(hex(part).to_uppercase());
        for list in [format!("{part:?}"), format!("{part:x?}"), format!("{part:#x?}")] {
            forms.push(list.trim_matches(['[', ']']).trim().to_owned());
        }
        forms.push(String::from_utf8_lossy(part).into_owned());
    }
    forms
}

/// All that this room can print, with secrets that are known to the test.
fn everything_printed() -> String {
    let seed: [u8; 32] = std::array::from_fn(|at| b'A' + at as u8 % 26 + 32 * (at as u8 / 26));
    let own = NodeIdentity::from_seed(&Zeroizing::new(seed));
    let keyring = keyring(0x20, &[0x60]);
    let mut sealer = Sealer::new(&keyring, Suite::Aes128Gcm, Salt(1));
    let mut datagram = Vec::new();
    sealer.seal(b"Qx7Zk9Wv2J", b"", &mut datagram).unwrap();
    let mut opener = Opener::default();
    let mut copy = datagram.clone();
    let opened = opener.open(&keyring, Instant::default(), b"", &mut copy).unwrap();
    let mut printed = format!("{opened:?} {sealer:?}");
    let replayed = opener.open(&keyring, Instant::default(), b"", &mut datagram).unwrap_err();
    let offer = Offer {
        flags: OpeningFlags::default(),
        certificate: CertificateHash::of(&own.public_key().spki()),
    };
    let opening = Opening::new(keyring.sealing(), [1; 24], offer);
    let exporter = Zeroizing::new(*b"Jq8Zx3Vw7Kp2Yt6Rb9Nf4Gd1Hs5Lc0Mv");
    let session = Session::new(Role::Opener, exporter, offer.certificate, offer.certificate);
    let wrong = session.check(keyring.sealing(), &[0; 32]).unwrap_err();
    let identity = identity("10.0.0.1:8001");
    let introduction =
        Introduction::new(&own, CLUSTER_HASH, &identity, IntroductionFlags::default());
    let claim = SignedClaim::new(&own, CLUSTER_HASH, &identity, Departure::Left);
    let not_hex = hex(&secrets()[0])[1..].to_owned() + "x";
    let too_long = hex(&secrets()[0]) + "0";
    let pkcs8 = &own.pkcs8()[1..];
    for text in [
        format!("{:?} {keyring:?} {:#?}", key(0x20), keyring),
        format!("{opener:?} {replayed:?} {replayed}"),
        format!("{own:?} {:?} {:#?}", own.public_key(), own),
        format!("{opening:?} {session:?} {wrong:?} {wrong}"),
        format!("{introduction:?} {claim:?}"),
        format!("{0:?} {0}", ClusterKey::from_hex(&not_hex).unwrap_err()),
        format!("{0:?} {0}", ClusterKey::from_hex(&too_long).unwrap_err()),
        format!("{0:?} {0}", not_hex.parse::<Fingerprint>().unwrap_err()),
        format!("{0:?} {0}", NodeIdentity::from_pkcs8(pkcs8).unwrap_err()),
        format!("{0:?} {0}", Keyring::new("shop", &key(0x20), &[key(0x20)]).unwrap_err()),
    ] {
        printed += &text;
        printed.push('\n');
    }
    printed
}

/// Both cluster keys, what is derived from the first (computed apart), the seed, the exporter, and
/// what was sealed.
fn secrets() -> Vec<Vec<u8>> {
    let mut secrets: Vec<Vec<u8>> =
        [0x20u8, 0x60].map(|first| (first..first + 32).collect()).to_vec();
    let derived: [&str; 4] = [
        "d224b9225aab16ac9fcb7a8cc399355add6e6cd9e28861bcb02853ecd57c3166",
        "51525bcbd4fbd09ec657d646efdf5c3a70e30929f1a76dc8800164c3e30e9ad5",
        "f01ca3c53119351994ed4e8c90fa5000504b95b65fb642cb5aeedb5fc6219165",
        "5788504a3b6fa1d0a5cf189f14816590cbd8a6b3d58a2b3748658346f5fb1590",
    ];
    secrets.extend(derived.map(|hex| bytes::<32>(hex).to_vec()));
    secrets.push((0..32).map(|at| b'A' + at % 26 + 32 * (at / 26)).collect());
    secrets.push(b"Jq8Zx3Vw7Kp2Yt6Rb9Nf4Gd1Hs5Lc0Mv".to_vec());
    secrets.push(b"Qx7Zk9Wv2J".to_vec());
    secrets
}

#[test]
fn no_secret_is_printed() {
    let printed = everything_printed();
    assert!(printed.contains("ClusterKey(..)") && printed.contains("NodeIdentity("), "{printed}");
    for secret in secrets() {
        for form in forms(&secret) {
            assert!(!printed.contains(&form), "{form:?} in:\n{printed}");
        }
    }
    // The search finds what is there.
    let shown = format!("{printed}{:?}", secrets()[0]);
    assert!(forms(&secrets()[0]).iter().any(|form| shown.contains(form)));
}
