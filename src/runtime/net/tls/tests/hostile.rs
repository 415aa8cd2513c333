//! Peers that are not nodes, bytes that were altered, and floods.

use std::sync::Arc;

use proptest::prelude::*;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use rustls::client::AlwaysResolvesClientRawPublicKeys;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring as provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    ServerConnection, SignatureScheme,
};

use super::*;

/// A certificate of Ed25519 for the name "x", signed by itself, and its key: made by openssl.
const CERTIFICATE: &str = "3082012e3081e1a00302010202146ee79e76e6b637635db551d92071ab4c92923903\
    300506032b6570300c310a300806035504030c01783020170d3236313132373133303135305a180f323132363131\
    30333133303135305a300c310a300806035504030c0178302a300506032b6570032100a243e97ee8c5502135ada8\
    d6864d62abcb76f6a902ee6b1475b25b9aedbc08a9a3533051301d0603551d0e04160414a5f2ceedde7bb305230b\
    95f00ad4a95a524e3145301f0603551d23041830168014a5f2ceedde7bb305230b95f00ad4a95a524e3145300f06\
    03551d130101ff040530030101ff300506032b657003410027807dc8cbeb89a0bc68d2b68aa0699ec5b36643f055\
    a23076c5f869662f2fd01b16929f111cd8a1af3c0aa5e1371c37339a82a0bc231d511d64020e6b807607";
const CERTIFICATE_KEY: &str = "302e020100300506032b6570042204205e0eeff1f4d8728ef5c3bcbbf454106c2c\
    194a503837a7753776041c11da61b9";

fn bytes(hex: &str) -> Vec<u8> {
    let digit = |digit: u8| (digit as char).to_digit(16).unwrap() as u8;
    hex.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

/// Takes all that the other end shows.
#[derive(Debug)]
struct Credulous {
    wants_raw_keys: bool,
}

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519, SignatureScheme::ECDSA_NISTP256_SHA256]
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.wants_raw_keys
    }
}

impl ClientCertVerifier for Credulous {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.wants_raw_keys
    }
}

fn ed25519() -> Arc<dyn SigningKey> {
    provider::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(pkcs8())).unwrap()
}

fn p256() -> Arc<dyn SigningKey> {
    let random = SystemRandom::new();
    let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
    let key = PrivatePkcs8KeyDer::from(key.as_ref().to_vec());
    provider::sign::any_ecdsa_type(&PrivateKeyDer::Pkcs8(key)).unwrap()
}

fn raw(key: Arc<dyn SigningKey>) -> Arc<CertifiedKey> {
    let spki = CertificateDer::from(key.public_key().unwrap().as_ref().to_vec());
    Arc::new(CertifiedKey::new(vec![spki], key))
}

fn other(shown: Vec<u8>) -> Arc<CertifiedKey> {
    Arc::new(CertifiedKey::new(vec![CertificateDer::from(shown)], ed25519()))
}

fn certificate() -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let key = PrivatePkcs8KeyDer::from(bytes(CERTIFICATE_KEY));
    (vec![bytes(CERTIFICATE).into()], PrivateKeyDer::Pkcs8(key))
}

/// What an odd peer shows: a raw key, a certificate, or nothing.
enum Shows {
    Raw(Arc<dyn SigningKey>),
    /// These bytes as its raw key, and the signatures of another one.
    Other(Vec<u8>),
    Certificate,
    Nothing,
}

fn odd_client(shows: Shows, alpn: &[&[u8]]) -> Box<Tls> {
    let wants_raw_keys = !matches!(shows, Shows::Certificate);
    let builder = ClientConfig::builder_with_provider(Arc::new(provider::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous { wants_raw_keys }));
    let mut config = match shows {
        Shows::Raw(key) => {
            let key = AlwaysResolvesClientRawPublicKeys::new(raw(key));
            builder.with_client_cert_resolver(Arc::new(key))
        }
        Shows::Other(shown) => {
            let key = AlwaysResolvesClientRawPublicKeys::new(other(shown));
            builder.with_client_cert_resolver(Arc::new(key))
        }
        Shows::Certificate => {
            let (chain, key) = certificate();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
        Shows::Nothing => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let name = ServerName::try_from("x").unwrap();
    Tls::begin(Kind::RawKey, ClientConnection::new(Arc::new(config), name).map(Into::into)).unwrap()
}

fn odd_server(shows: Shows, alpn: &[&[u8]]) -> Box<Tls> {
    let builder = ServerConfig::builder_with_provider(Arc::new(provider::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(Arc::new(Credulous { wants_raw_keys: true }));
    let mut config = match shows {
        Shows::Raw(key) => {
            let key = AlwaysResolvesServerRawPublicKeys::new(raw(key));
            builder.with_cert_resolver(Arc::new(key))
        }
        Shows::Other(shown) => {
            let key = AlwaysResolvesServerRawPublicKeys::new(other(shown));
            builder.with_cert_resolver(Arc::new(key))
        }
        _ => {
            let (chain, key) = certificate();
            builder.with_single_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Tls::begin(Kind::RawKey, ServerConnection::new(Arc::new(config)).map(Into::into)).unwrap()
}

/// Lets a node as the acceptor meet an opener. Returns both ends, after all is said.
fn accept(client: Box<Tls>) -> (End, End) {
    let (here, there) = Pipe::pair(Cuts::default());
    let mut client = End::new(client, here);
    let mut server = End::new(Tls::server(&settings()).unwrap(), there);
    client.queue.push(frame(0, 100));
    run(&mut client, &mut server);
    assert!(server.lengths.is_empty(), "nothing is taken of it");
    (client, server)
}

/// Lets a node as the opener meet an acceptor.
fn open(server: Box<Tls>) -> (End, End) {
    let (here, there) = Pipe::pair(Cuts::default());
    let mut client = End::new(Tls::client(&settings()).unwrap(), here);
    let mut server = End::new(server, there);
    client.queue.push(frame(0, 100));
    server.queue.push(frame(0, 100));
    run(&mut client, &mut server);
    assert!(client.lengths.is_empty() && !client.queue.is_empty(), "nothing is told to it");
    (client, server)
}

fn is_refused_as_no_node(end: &End) {
    let error = failure(end);
    assert!(matches!(error, TlsError::NoRawKey(_)), "{error}");
    assert!(end.tls.is_handshaking() && end.tls.peer().is_none());
    assert_eq!(end.ended, Some(io::ErrorKind::InvalidData));
}

/// Whether the other end got an alert, and which hint an operator gets there.
fn alert(end: &End) -> (String, &'static str) {
    match failure(end) {
        TlsError::Alert { alert, hint } => (alert, hint),
        other => panic!("{other}"),
    }
}

#[test]
fn a_client_without_a_raw_key_of_ed25519_is_refused_and_told() {
    let garbage = vec![0x30; 44];
    for (shows, told) in [
        (Shows::Certificate, "HandshakeFailure"),
        (Shows::Nothing, "HandshakeFailure"),
        (Shows::Raw(p256()), "CertificateRequired"),
        (Shows::Other(garbage), "BadCertificate"),
        (Shows::Other(p256().public_key().unwrap().as_ref().to_vec()), "BadCertificate"),
    ] {
        let (client, server) = accept(odd_client(shows, &[ALPN]));
        is_refused_as_no_node(&server);
        assert_eq!(alert(&client).0, told);
    }
}

#[test]
fn a_server_without_a_raw_key_of_ed25519_is_refused() {
    for shows in [Shows::Certificate, Shows::Raw(p256())] {
        let (client, server) = open(odd_server(shows, &[ALPN]));
        // It refuses first, as it has nothing to show.
        assert_eq!(alert(&client).0, "HandshakeFailure");
        assert!(alert(&client).1.contains("raw keys"));
        is_refused_as_no_node(&server);
    }
    let (client, _) = open(odd_server(Shows::Other(vec![0x30; 44]), &[ALPN]));
    is_refused_as_no_node(&client);
}

/// The key of a node is no secret: anybody can show it.
#[test]
fn who_shows_the_key_of_another_node_is_refused() {
    let stolen = || ed25519().public_key().unwrap().as_ref().to_vec();
    let (client, server) = accept(odd_client(Shows::Other(stolen()), &[ALPN]));
    assert_eq!(failure(&server), TlsError::BadSignature);
    assert!(server.tls.peer().is_none() && server.tls.exporter().is_err());
    assert!(alert(&client).1.contains("does not accept this node's key"), "{client:?}");

    let (client, _) = open(odd_server(Shows::Other(stolen()), &[ALPN]));
    assert_eq!(failure(&client), TlsError::BadSignature);
    assert!(client.tls.peer().is_none() && client.tls.exporter().is_err());
}

#[test]
fn another_protocol_inside_tls_or_none_is_refused_by_the_acceptor() {
    let (client, server) = accept(odd_client(Shows::Raw(ed25519()), &[b"h2"]));
    assert_eq!(failure(&server), TlsError::NoAlpn);
    assert_eq!(alert(&client), ("NoApplicationProtocol".into(), "it does not speak gridkv/1"));
    // rustls lets a client leave it out.
    let (_, server) = accept(odd_client(Shows::Raw(ed25519()), &[]));
    assert_eq!(failure(&server), TlsError::NoAlpn);
    assert!(server.tls.is_handshaking() && server.tls.exporter().is_err());
}

#[test]
fn another_protocol_inside_tls_or_none_is_refused_by_the_opener() {
    let (client, _) = open(odd_server(Shows::Raw(ed25519()), &[b"h2"]));
    assert_eq!(alert(&client).0, "NoApplicationProtocol");
    let (client, _) = open(odd_server(Shows::Raw(ed25519()), &[]));
    assert_eq!(failure(&client), TlsError::NoAlpn);
    assert!(client.tls.peer().is_none() && client.tls.exporter().is_err());
}

/// A client that goes on as if all were agreed: its frame comes with the end of its handshake.
#[test]
fn frames_of_a_peer_without_the_protocol_are_not_taken() {
    let (mut client, mut server) = ends(Cuts::default());
    client.tls = odd_client(Shows::Raw(ed25519()), &[]);
    client.flush();
    server.turn();
    let session = &mut client.tls.session;
    while session.is_handshaking() {
        session.read_tls(&mut client.pipe).unwrap();
        session.process_new_packets().unwrap();
    }
    session.writer().write_all(&frame(0, 100)).unwrap();
    session.write_tls(&mut client.pipe).unwrap();
    run_alone(&mut server);
    assert_eq!(failure(&server), TlsError::NoAlpn);
    assert!(server.lengths.is_empty() && !server.frames.is_in_frame());
}

/// A ClientHello that offers TLS 1.2 only.
fn client_hello_of_tls12() -> Vec<u8> {
    let mut hello = vec![3, 3];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]);
    let extensions = [
        [0, 10, 0, 4, 0, 2, 0, 29].as_slice(), // groups: X25519
        &[0, 13, 0, 4, 0, 2, 8, 7],            // signatures: Ed25519
        &[0, 11, 0, 2, 1, 0],
    ];
    let extensions = extensions.concat();
    hello.extend((extensions.len() as u16).to_be_bytes());
    hello.extend(extensions);
    record(&[&[1, 0, 0, hello.len() as u8], &hello[..]].concat())
}

fn record(handshake: &[u8]) -> Vec<u8> {
    let length = (handshake.len() as u16).to_be_bytes();
    [&[22, 3, 1, length[0], length[1]], handshake].concat()
}

#[test]
fn tls_1_2_is_refused_by_both_and_the_alert_says_so() {
    let (client, mut server) = ends(Cuts::default());
    server.pipe.inject(&client_hello_of_tls12());
    server.turn();
    assert_eq!(failure(&server), TlsError::Incompatible);
    let protocol_version = [21, 3, 3, 0, 2, 2, 70];
    assert_eq!(client.pipe.waiting(), protocol_version);

    let (mut client, _server) = ends(Cuts::default());
    client.flush();
    // A ServerHello without supported_versions is one of TLS 1.2.
    let mut hello = vec![2, 0, 0, 38, 3, 3];
    hello.extend([9; 32]);
    hello.extend([0, 0xc0, 0x2b, 0]);
    client.pipe.inject(&record(&hello));
    client.turn();
    assert_eq!(failure(&client), TlsError::Incompatible);

    let (mut client, _server) = ends(Cuts::default());
    client.flush();
    client.pipe.inject(&protocol_version);
    client.turn();
    assert_eq!(alert(&client).0, "ProtocolVersion");
    assert!(failure(&client).to_string().contains("does not speak TLS 1.3 with"));
}

#[test]
fn an_altered_record_ends_both_ends_and_the_alert_says_so() {
    for at in [5, 100, 4095] {
        let (mut client, mut server) = established();
        run(&mut client, &mut server);
        client.queue.push(frame(0, 10_000));
        client.flush();
        server.pipe.flip(at);
        run(&mut client, &mut server);
        assert_eq!(failure(&server), TlsError::Altered);
        assert_eq!(
            alert(&client),
            ("BadRecordMac".into(), "what it received was altered on the way")
        );
        assert!(server.lengths.is_empty());
    }
}

#[test]
fn a_repeated_record_and_one_that_is_left_out_end_the_session() {
    for repeats in [true, false] {
        let (mut client, mut server) = established();
        run(&mut client, &mut server);
        client.queue.push(frame(0, 10));
        client.flush();
        let first = server.pipe.waiting();
        if repeats {
            server.pipe.inject(&first);
        } else {
            server.pipe.truncate(first.len());
        }
        client.queue.push(frame(1, 10));
        client.flush();
        run(&mut client, &mut server);
        assert_eq!(failure(&server), TlsError::Altered);
        assert_eq!(server.lengths.len(), usize::from(repeats));
    }
}

#[test]
fn records_of_one_byte_are_read_and_cost_their_budget() {
    let (mut client, mut server) = established();
    run(&mut client, &mut server);
    let bytes = frame(0, 1000);
    for byte in &bytes[..] {
        client.tls.session.writer().write_all(&[*byte]).unwrap();
    }
    client.flush();
    assert_eq!(server.pipe.waiting().len(), 23 * bytes.len());
    assert_eq!(server.fill(2300), (2300, Filled::Stopped));
    run(&mut client, &mut server);
    assert_eq!(server.lengths, [1000]);
}

/// Empty records cost work and give nothing.
#[test]
fn empty_records_do_not_go_on_for_ever() {
    let (mut client, mut server) = ends(Cuts::default());
    for _ in 0..200 {
        server.pipe.inject(&[22, 3, 1, 0, 0]);
    }
    run(&mut client, &mut server);
    let error = failure(&server);
    assert!(matches!(error, TlsError::Malformed(_) | TlsError::Misbehaved(_)), "{error}");
}

#[test]
fn a_stranger_that_sends_much_is_ended_before_it_is_done() {
    // A ClientHello that says it is long, in records of all sizes.
    for length in [1, 100, 4000, 16_000] {
        let (_client, mut server) = ends(Cuts::default());
        let mut message = vec![1, 0, 0xf0, 0];
        message.resize(40_000, 3);
        for part in message.chunks(length) {
            server.pipe.inject(&record(part));
        }
        let mut came = 0;
        let filled = loop {
            let (count, filled) = server.fill(1 << 20);
            came += count;
            if filled != Filled::Stopped {
                break filled;
            }
        };
        assert_eq!(filled, Filled::Ended(io::ErrorKind::InvalidData));
        assert!(came <= MAX_TLS_HANDSHAKE_BYTES);
        let error = failure(&server);
        assert!(matches!(error, TlsError::TooManyBytes(_) | TlsError::Malformed(_)), "{error}");
    }
}

#[test]
fn the_texts_say_what_can_be_done() {
    let text = TlsError::NoRawKey("none").to_string();
    assert!(text.contains("certificates"), "{text}");
    assert!(TlsError::TooManyBytes(MAX_TLS_HANDSHAKE_BYTES).to_string().contains("16384"));
    assert!(TlsError::NoAlpn.to_string().contains("gridkv/1"));
}

proptest! {
    #[test]
    fn garbage_ends_a_handshake_on_either_side(
        garbage in prop::collection::vec(any::<u8>(), 1..3000),
        looks_like_tls in any::<bool>(),
        cuts in any::<[u8; 6]>(),
    ) {
        let garbage = if looks_like_tls { record(&garbage) } else { garbage };
        let (mut client, mut server) = ends(Cuts::of(cuts));
        client.pipe.inject(&garbage);
        server.pipe.inject(&garbage);
        client.pipe.cut();
        server.pipe.cut();
        run(&mut client, &mut server);
        for end in [&client, &server] {
            prop_assert!(end.ended.is_some() && end.tls.peer().is_none());
            prop_assert!(end.lengths.is_empty());
        }
    }
}

/// Whether rustls ignores a byte: the minor version of a record, and that a sealed record says so.
/// What these should be is authenticated, not what came.
fn is_ignored(flight: &[u8], at: usize) -> bool {
    let mut start = 0;
    while start + 5 <= flight.len() {
        let length = u16::from_be_bytes([flight[start + 3], flight[start + 4]]);
        let end = start + 5 + usize::from(length);
        if (start..end).contains(&at) {
            return at == start + 2 || at == start && flight[start] == 23;
        }
        start = end;
    }
    false
}

#[test]
fn every_changed_byte_of_the_handshake_is_noticed() {
    for flight in 0..3 {
        let mut at = 0;
        loop {
            let (mut client, mut server) = ends(Cuts::default());
            client.flush();
            if flight > 0 {
                server.turn();
            }
            if flight > 1 {
                client.turn();
            }
            let pipe = if flight == 1 { &client.pipe } else { &server.pipe };
            let bytes = pipe.waiting();
            if at == bytes.len() {
                break;
            }
            pipe.flip(at);
            // A length that grew waits for more: the end of the stream ends that.
            for end in [&mut client, &mut server] {
                run_alone(end);
            }
            run(&mut client, &mut server);
            client.pipe.cut();
            server.pipe.cut();
            run(&mut client, &mut server);
            let failed = [&client, &server].iter().any(|end| {
                matches!(end.tls.ending(), Some(Ending::Failed(_))) || end.tls.is_handshaking()
            });
            assert_ne!(failed, is_ignored(&bytes, at), "flight {flight}, byte {at}");
            at += 1;
        }
        assert!(at > 100, "a flight of {at} bytes");
    }
}

fn run_alone(end: &mut End) {
    for _ in 0..TURNS {
        if end.turn() == 0 {
            return;
        }
    }
    panic!("it goes on for ever: {end:?}");
}
