//! Sessions in which both ends present certificates, or one of them a raw key.

use rcgen::{ExtendedKeyUsagePurpose, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256};

use super::*;
use crate::counting::taken;
use crate::security::Certificates;
use crate::security::authority::{Authority, Leaf};

const RSA: &str = include_str!("../../../../security/testing_rsa.pem");

/// Settings of a node with a certificate by one CA, for which the roots of another one count.
fn settings_of(by: &Authority, leaf: &Leaf<'_>, roots: &Authority) -> TlsSettings {
    let (chain, key) = by.issue(leaf);
    let certificates =
        Certificates::from_pem(chain.as_bytes(), key.as_bytes(), roots.pem().as_bytes());
    TlsSettings::with_certificates(&certificates.unwrap()).unwrap()
}

fn pair(client: &TlsSettings, server: &TlsSettings) -> (End, End) {
    let (here, there) = Pipe::pair(Cuts::default());
    let client = End::new(Tls::client(client).unwrap(), here);
    (client, End::new(Tls::server(server).unwrap(), there))
}

#[test]
fn ends_with_certificates_of_all_kinds_learn_each_others_keys() {
    let root = Authority::new("root");
    let between = root.under("one").under("two");
    let good = settings_of(&root, &Leaf::of(&["n0"]), &root);
    assert_eq!(good.check_own(), Ok(()));
    for leaf in [
        Leaf::of(&["n1"]),
        Leaf { usages: &[], ..Leaf::of(&["n1"]) },
        Leaf { algorithm: &PKCS_ECDSA_P384_SHA384, ..Leaf::of(&["n1"]) },
        Leaf { algorithm: &PKCS_ED25519, ..Leaf::of(&["n1"]) },
        Leaf { algorithm: &PKCS_RSA_SHA256, key: Some(RSA), ..Leaf::of(&["n1"]) },
        // More than a raw key's handshake may have.
        Leaf { padding: 400, ..Leaf::of(&["n1"]) },
    ] {
        for by in [&root, &between] {
            let other = settings_of(by, &leaf, &root);
            for (client, server) in [(&good, &other), (&other, &good)] {
                let (mut here, mut there) = pair(client, server);
                here.queue.push(frame(0, 300));
                shake_hands(&mut here, &mut there);
                run(&mut here, &mut there);
                assert_eq!(there.lengths, [300]);
                for (end, settings) in [(&here, server), (&there, client)] {
                    let peer = end.tls.peer().unwrap();
                    assert_eq!((peer.hash, peer.raw_key), (settings.hash(), None));
                    let presented = CertificateHash::of(end.tls.certificate().unwrap());
                    assert_eq!(presented, settings.hash());
                    assert_eq!(end.tls.check_again(&good), Ok(()));
                }
                assert_eq!(here.tls.exporter(), there.tls.exporter());
            }
        }
    }
}

/// Has each role be taken by the bad one, and returns what the good one says.
fn refusals(good: &TlsSettings, bad: &TlsSettings) -> [TlsError; 2] {
    let (mut client, mut server) = pair(good, bad);
    server.queue.push(frame(0, 300));
    run(&mut client, &mut server);
    assert!(client.tls.peer().is_none() && client.lengths.is_empty());
    let as_client = failure(&client);
    let (mut client, mut server) = pair(bad, good);
    client.queue.push(frame(0, 300));
    run(&mut client, &mut server);
    assert!(server.tls.peer().is_none() && server.lengths.is_empty());
    [as_client, failure(&server)]
}

#[test]
fn each_fault_of_a_certificate_is_refused_in_both_roles_and_named() {
    let root = Authority::new("root");
    let good = settings_of(&root, &Leaf::of(&["n0"]), &root);
    let usage =
        |usage: &'static [ExtendedKeyUsagePurpose]| Leaf { usages: usage, ..Leaf::of(&["x"]) };
    let of_years = |years| Leaf { years, ..Leaf::of(&["x"]) };
    let other = Authority::new("other");
    let namesake = Authority::new("root");
    for (by, leaf, text) in [
        (&other, Leaf::of(&["x"]), "leads to none of the roots"),
        (&namesake, Leaf::of(&["x"]), "its certificate is refused: a signature is wrong"),
        (&root, of_years((2001, 2002)), "expired"),
        (&root, of_years((2900, 2990)), "not valid yet"),
        (&root, usage(&[ExtendedKeyUsagePurpose::CodeSigning]), "both serverAuth and clientAuth"),
    ] {
        let bad = settings_of(by, &leaf, &root);
        for error in refusals(&good, &bad) {
            assert!(error.to_string().contains(text), "{error}");
        }
        assert!(bad.check_own().unwrap_err().to_string().contains(text));
    }
    let one_role = [
        (usage(&[ExtendedKeyUsagePurpose::ServerAuth]), 1),
        (usage(&[ExtendedKeyUsagePurpose::ClientAuth]), 0),
    ];
    for (leaf, lacks) in one_role {
        let bad = settings_of(&root, &leaf, &root);
        assert!(matches!(bad.check_own(), Err(TlsError::WrongUsage(_))));
        let (mut client, mut server) =
            if lacks == 0 { pair(&good, &bad) } else { pair(&bad, &good) };
        run(&mut client, &mut server);
        let error = failure(if lacks == 0 { &client } else { &server });
        assert!(matches!(error, TlsError::WrongUsage(_)), "{error}");
    }
}

#[test]
fn a_chain_that_lacks_a_ca_or_is_too_long_is_refused() {
    let root = Authority::new("root");
    let good = settings_of(&root, &Leaf::of(&["n0"]), &root);
    let (chain, key) = root.under("between").issue(&Leaf::of(&["x"]));
    let end = chain.find("-----END CERTIFICATE-----").unwrap();
    let first = format!("{}-----END CERTIFICATE-----\n", &chain[..end]);
    let certificates = |chain: &str, key: &str| {
        Certificates::from_pem(chain.as_bytes(), key.as_bytes(), root.pem().as_bytes()).unwrap()
    };
    let bad = TlsSettings::with_certificates(&certificates(&first, &key)).unwrap();
    assert_eq!(refusals(&good, &bad), [TlsError::OtherCa, TlsError::OtherCa]);
    // Longer than a node lets its own be: nine certificates, and one of more than 16 KiB.
    let (chain, key) = root.issue(&Leaf::of(&["x"]));
    let mut nine = (**certificates(&chain, &key).certified()).clone();
    nine.cert.resize(9, nine.cert[0].clone());
    let mut large = (**certificates(&chain, &key).certified()).clone();
    large.cert.push(vec![0; 16 << 10].into());
    for long in [nine, large] {
        let bad = TlsSettings::presenting(&long.into(), &certificates(&chain, &key)).unwrap();
        assert_eq!(refusals(&good, &bad), [TlsError::LongChain, TlsError::LongChain]);
    }
}

/// OPENING chooses the settings. A host that presents another kind than it has said gets no further
/// than the handshake, in either role.
#[test]
fn a_raw_key_and_a_certificate_do_not_shake_hands() {
    let root = Authority::new("root");
    let certificates = settings_of(&root, &Leaf::of(&["n0"]), &root);
    let raw_key = settings();
    for error in refusals(&certificates, &raw_key) {
        let is_named = matches!(error, TlsError::NoCertificate(_) | TlsError::Alert { .. });
        assert!(is_named, "{error}");
    }
    for error in refusals(&raw_key, &certificates) {
        let is_named = matches!(error, TlsError::NoRawKey(_) | TlsError::Alert { .. });
        assert!(is_named, "{error}");
    }
}

#[test]
fn a_stranger_sends_64_kib_at_most_and_holds_less_than_160() {
    let root = Authority::new("root");
    let own = settings_of(&root, &Leaf::of(&["n0"]), &root);
    let most = super::super::limits::MAX_CERTIFICATE_HANDSHAKE_BYTES;
    // A ClientHello of 64 KiB, in records that make it longer on the wire.
    let mut message = vec![1, 0, 0xff, 0xfe];
    message.resize(0xffff + 4, 3);
    for length in [1, 100, 1000] {
        let (_, mut server) = pair(&settings(), &own);
        for part in message.chunks(length) {
            server.pipe.inject(&[22, 3, 1, (part.len() >> 8) as u8, part.len() as u8]);
            server.pipe.inject(part);
        }
        let mut came = 0;
        let ((), held, peak) = taken(|| {
            loop {
                let (count, filled) = server.fill(1 << 20);
                came += count;
                if filled != Filled::Stopped {
                    break;
                }
            }
        });
        println!("records of {length}: {held} bytes more than a new session, {peak} at the most");
        let error = failure(&server);
        assert!(matches!(error, TlsError::TooManyBytes(_) | TlsError::Malformed(_)), "{error}");
        assert_eq!(came, most, "{error}");
        assert!(peak < 150 << 10, "{peak}");
    }
}

#[test]
fn a_chain_is_judged_again_by_other_roots() {
    let (root, next) = (Authority::new("root"), Authority::new("next"));
    let one = settings_of(&root, &Leaf::of(&["n0"]), &root);
    let (mut client, mut server) = pair(&one, &settings_of(&root, &Leaf::of(&["n1"]), &root));
    shake_hands(&mut client, &mut server);
    let later = settings_of(&next, &Leaf::of(&["n0"]), &next);
    for end in [&client, &server] {
        assert_eq!(end.tls.check_again(&one), Ok(()));
        assert_eq!(end.tls.check_again(&later), Err(TlsError::OtherCa));
    }
}
