//! An attacker that knows how connections and datagrams are secured: the formats stand here a
//! second time, by hand, with `ring` for the cryptography and `rustls` for TLS.
//!
//! ```text
//! OPENING  magic "GKVS" · version 1 · kind 1 · flags u16 · key id u32 · zero u32 · nonce [24]
//!          · hash of the key that TLS proves [32] · mac [32]
//! PROOF    identity [40] · key id u32 · flags u8 · mac [32] · public key [32] · signature [64]
//!          · signature of the session [64], zeros with raw keys
//! sealed   suite u8 · key id u32 · salt u64 · counter u48 · what is sealed · tag [16]
//! ```

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;

use ring::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair};
use ring::{digest, hkdf, hmac};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption, WantsClientCert};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, ClientConnection, ConfigBuilder, Connection, DigitallySignedStruct,
    DistinguishedName, Error, ServerConfig, ServerConnection, SignatureScheme,
};

use crate::attacker::{WELCOME, connect, frame, is_closed};
use crate::support::wait_until;

/// The name of the victims' cluster, and its hash: the XXH3 that their datagrams have.
pub(crate) const CLUSTER: &str = "marker-cluster-5d1e";
const CLUSTER_HASH: u64 = 0xa819_3a74_3a66_ab99;

pub(crate) const PROOF: u8 = 11;

/// The length of OPENING and of OPENED.
pub(crate) const OPENING_BYTES: usize = 104;

/// Where the MAC of both begins.
pub(crate) const MAC_AT: usize = 72;

const SUITE_AES: u8 = 0x80;

/// Returns random bytes.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).expect("random bytes");
    bytes
}

/// Returns the SHA-256 of some bytes.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    digest::digest(&digest::SHA256, bytes).as_ref().try_into().unwrap()
}

/// What a cluster key is made into for the cluster of the victims.
pub(crate) struct ClusterKeys {
    id: [u8; 4],
    opening: hmac::Key,
    proof: hmac::Key,
    datagrams: hkdf::Prk,
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

fn expand(prk: &hkdf::Prk, info: &[&[u8]], length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    prk.expand(info, Length(length)).unwrap().fill(&mut bytes).unwrap();
    bytes
}

impl ClusterKeys {
    pub(crate) fn of(key: &[u8; 32]) -> Self {
        let length = (CLUSTER.len() as u64).to_le_bytes();
        let name = [b"gridkv cluster 1", &length[..], CLUSTER.as_bytes()].concat();
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, &sha256(&name)).extract(key);
        let mac_key = |info| hmac::Key::new(hmac::HMAC_SHA256, &expand(&prk, &[info], 32));
        let datagrams = expand(&prk, &[b"datagrams"], 32);
        Self {
            id: expand(&prk, &[b"key id"], 4).try_into().unwrap(),
            opening: mac_key(b"opening"),
            proof: mac_key(b"proof"),
            datagrams: hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, &datagrams),
        }
    }

    /// Returns an OPENING by which the opener will prove the key with this hash.
    pub(crate) fn opening(&self, hash: &[u8; 32]) -> [u8; OPENING_BYTES] {
        let mut bytes = [b"GKVS".as_slice(), &[1, 1, 0, 0], &self.id, &[0; 4]].concat();
        bytes.extend(random::<24>());
        bytes.extend(hash);
        let signed = [b"gridkv 1 opener", &bytes[..]].concat();
        bytes.extend(hmac::sign(&self.opening, &signed).as_ref());
        bytes.try_into().unwrap()
    }

    /// Returns the OPENED that answers this OPENING.
    pub(crate) fn opened(&self, opening: &[u8], hash: &[u8; 32]) -> [u8; OPENING_BYTES] {
        let mut bytes = opening[..MAC_AT].to_vec();
        bytes[5] = 2;
        bytes[40..MAC_AT].copy_from_slice(hash);
        let signed = [b"gridkv 1 acceptor", &bytes[..], &opening[MAC_AT..]].concat();
        bytes.extend(hmac::sign(&self.opening, &signed).as_ref());
        bytes.try_into().unwrap()
    }

    fn proof_mac(&self, role: &str, session: &Session, own: &[u8; 32], peer: &[u8; 32]) -> Vec<u8> {
        let exporter = session.exporter();
        let message = [b"gridkv 1 ", role.as_bytes(), &exporter, own, peer].concat();
        hmac::sign(&self.proof, &message).as_ref().to_vec()
    }

    /// Returns a sealer of datagrams, with a salt of its own.
    pub(crate) fn sealer(&self) -> Sealer {
        let salt = random::<8>();
        let key = expand(&self.datagrams, &[b"sender", &[SUITE_AES], &salt], 16);
        let key = UnboundKey::new(&aead::AES_128_GCM, &key).unwrap();
        Sealer { id: self.id, salt, key: LessSafeKey::new(key), counter: 0 }
    }
}

/// Seals datagrams as one start of a node does.
pub(crate) struct Sealer {
    id: [u8; 4],
    salt: [u8; 8],
    key: LessSafeKey,
    counter: u64,
}

/// Returns what a plain datagram begins with: version, partitions, cluster.
pub(crate) fn envelope() -> Vec<u8> {
    [&[3][..], &4096u16.to_le_bytes(), &CLUSTER_HASH.to_le_bytes()].concat()
}

impl Sealer {
    /// Returns a plain datagram as it is sent to the node at this address.
    pub(crate) fn seal(&mut self, plain: &[u8], to: SocketAddr) -> Vec<u8> {
        self.counter += 1;
        let counter = self.counter.to_le_bytes();
        let mut bytes = [&[SUITE_AES][..], &self.id, &self.salt, &counter[..6]].concat();
        let aad = [&bytes[..], &envelope(), &mapped(to)].concat();
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&self.counter.to_be_bytes());
        let mut sealed = plain[envelope().len()..].to_vec();
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.key.seal_in_place_append_tag(nonce, Aad::from(aad), &mut sealed).unwrap();
        bytes.extend(sealed);
        bytes
    }
}

/// Returns an address as 16 bytes of IPv6, and the port.
fn mapped(addr: SocketAddr) -> Vec<u8> {
    let IpAddr::V4(ip) = addr.ip() else { panic!("these tests know IPv4 alone") };
    [&ip.to_ipv6_mapped().octets()[..], &addr.port().to_le_bytes()].concat()
}

/// The Ed25519 key of the attacker.
pub(crate) struct OwnKey {
    pair: Ed25519KeyPair,
    /// The hash of the public key, as OPENING has it.
    pub(crate) hash: [u8; 32],
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl OwnKey {
    pub(crate) fn new() -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
        let key = PrivatePkcs8KeyDer::from(pkcs8.as_ref());
        let key = rustls::crypto::ring::sign::any_eddsa_type(&key).unwrap();
        let spki = key.public_key().unwrap().as_ref().to_vec();
        let hash = sha256(&spki);
        let certified = Arc::new(CertifiedKey::new(vec![CertificateDer::from(spki)], key));
        let resolver = AlwaysResolvesClientRawPublicKeys::new(certified.clone());
        let mut client = builder().with_client_cert_resolver(Arc::new(resolver));
        client.alpn_protocols = vec![b"gridkv/1".to_vec()];
        client.resumption = Resumption::disabled();
        client.enable_sni = false;
        // It makes records of its own.
        client.enable_secret_extraction = true;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(Arc::new(AnyKey))
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(certified)));
        server.alpn_protocols = vec![b"gridkv/1".to_vec()];
        server.send_tls13_tickets = 0;
        Self { pair, hash, client: Arc::new(client), server: Arc::new(server) }
    }

    pub(crate) fn client(&self) -> Connection {
        begin(self.client.clone())
    }

    /// Begins TLS as an opener that offers these protocols inside it.
    pub(crate) fn client_that_speaks(&self, protocols: &[&[u8]]) -> Connection {
        let mut client = ClientConfig::clone(&self.client);
        client.alpn_protocols = protocols.iter().map(|it| it.to_vec()).collect();
        begin(Arc::new(client))
    }

    /// Begins TLS as a host that proves no key of its own.
    pub(crate) fn client_without_key() -> Connection {
        let mut client = builder().with_no_client_auth();
        client.alpn_protocols = vec![b"gridkv/1".to_vec()];
        begin(Arc::new(client))
    }

    pub(crate) fn server(&self) -> Connection {
        ServerConnection::new(self.server.clone()).unwrap().into()
    }

    /// Returns the first message of TLS.
    pub(crate) fn client_hello(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.client().write_tls(&mut bytes).unwrap();
        bytes
    }

    fn public_key(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    /// Returns the signature of "I am this life of this node, here, with this key".
    fn introduce(&self, identity: &[u8], flags: u8) -> Vec<u8> {
        let mut message = b"gridkv 1 here".to_vec();
        message.extend(CLUSTER_HASH.to_le_bytes());
        message.extend(&identity[..34]); // node, boot, IP, port
        message.push(4); // the family
        message.extend(self.public_key());
        message.push(flags);
        self.pair.sign(&message).as_ref().to_vec()
    }
}

fn builder() -> ConfigBuilder<ClientConfig, WantsClientCert> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyKey))
}

fn begin(client: Arc<ClientConfig>) -> Connection {
    let unnamed = ServerName::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    ClientConnection::new(client, unnamed).unwrap().into()
}

/// The parts of a PROOF, in the order of the wire.
#[derive(Clone)]
pub(crate) struct ProofParts {
    pub(crate) identity: Vec<u8>,
    pub(crate) key_id: [u8; 4],
    pub(crate) flags: u8,
    pub(crate) mac: Vec<u8>,
    pub(crate) public_key: Vec<u8>,
    pub(crate) signature: Vec<u8>,
    pub(crate) session_signature: Vec<u8>,
}

impl ProofParts {
    /// Returns the PROOF of the node that says this HELLO.
    pub(crate) fn right(keys: &ClusterKeys, key: &OwnKey, session: &Session, hello: &[u8]) -> Self {
        Self {
            identity: identity_of(hello).to_vec(),
            key_id: keys.id,
            flags: 2,
            mac: keys.proof_mac("opener", session, &key.hash, &session.peer_hash()),
            public_key: key.public_key().to_vec(),
            signature: key.introduce(identity_of(hello), 2),
            session_signature: vec![0; 64],
        }
    }

    /// Returns this PROOF with the MAC that the other side makes.
    pub(crate) fn reflected(
        keys: &ClusterKeys,
        key: &OwnKey,
        session: &Session,
        hello: &[u8],
    ) -> Self {
        let mac = keys.proof_mac("acceptor", session, &session.peer_hash(), &key.hash);
        Self { mac, ..Self::right(keys, key, session, hello) }
    }

    pub(crate) fn frame(&self) -> Vec<u8> {
        let Self { identity, key_id, flags, mac, public_key, signature, session_signature } = self;
        let signatures = [&signature[..], session_signature].concat();
        let mut body = [identity, &key_id[..], &[*flags], mac, public_key, &signatures].concat();
        body.resize(240, 0);
        frame(PROOF, &body)
    }
}

/// Whether a PROOF frame by the acceptor is right.
pub(crate) fn is_proof(keys: &ClusterKeys, key: &OwnKey, session: &Session, proof: &[u8]) -> bool {
    let mac = keys.proof_mac("acceptor", session, &session.peer_hash(), &key.hash);
    proof[16 + 45..16 + 77] == mac
}

/// Returns the identity in a HELLO or WELCOME: the first 40 of its last 112 bytes.
pub(crate) fn identity_of(hello: &[u8]) -> &[u8] {
    let length = u32::from_le_bytes(hello[..4].try_into().unwrap()) as usize;
    let at = 16 + length - 112;
    &hello[at..at + 40]
}

/// One end of a connection, with TLS.
pub(crate) struct Session {
    pub(crate) stream: TcpStream,
    pub(crate) tls: Connection,
    /// What came: as it came, and decrypted. Names are searched in it.
    pub(crate) seen: Vec<u8>,
    /// What came inside TLS and was not taken yet.
    pub(crate) plain: Vec<u8>,
}

impl Session {
    /// Opens a connection, up to the end of TLS' handshake. Otherwise: what came instead of OPENED.
    pub(crate) fn open(to: SocketAddr, opening: &[u8], key: &OwnKey) -> Result<Self, Vec<u8>> {
        let (session, opened) = Self::begin(to, opening, key.client())?;
        assert_eq!(opened[..6], *b"GKVS\x01\x02", "OPENED");
        Ok(session.established())
    }

    /// Sends OPENING and the first message of TLS, and reads OPENED.
    pub(crate) fn begin(
        to: SocketAddr,
        opening: &[u8],
        tls: Connection,
    ) -> Result<(Self, Vec<u8>), Vec<u8>> {
        let mut session = Self::over(connect(to), tls);
        let mut first = opening.to_vec();
        session.tls.write_tls(&mut first).unwrap();
        // It may be closed already.
        let _ = session.stream.write_all(&first);
        let opened = read_at_most(&mut session.stream, OPENING_BYTES);
        session.seen.extend(&opened);
        if opened.len() < OPENING_BYTES || !opened.starts_with(b"GKVS") {
            let mut rest = read_all(&mut session.stream);
            let mut all = opened;
            all.append(&mut rest);
            return Err(all);
        }
        Ok((session, opened))
    }

    pub(crate) fn over(stream: TcpStream, tls: Connection) -> Self {
        Self { stream, tls, seen: Vec::new(), plain: Vec::new() }
    }

    /// Ends TLS' handshake.
    pub(crate) fn established(mut self) -> Self {
        while self.tls.is_handshaking() && self.step().is_ok() {}
        self
    }

    pub(crate) fn is_established(&self) -> bool {
        !self.tls.is_handshaking()
    }

    /// Writes what waits, and reads once.
    fn step(&mut self) -> io::Result<()> {
        self.flush()?;
        let mut bytes = [0; 16 << 10];
        let count = self.stream.read(&mut bytes)?;
        if count == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.seen.extend(&bytes[..count]);
        let mut bytes = &bytes[..count];
        while !bytes.is_empty() {
            if self.tls.read_tls(&mut bytes)? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            let state = self.tls.process_new_packets();
            let state = state.map_err(|error| io::Error::new(ErrorKind::InvalidData, error));
            let mut plain = vec![0; state?.plaintext_bytes_to_read()];
            self.tls.reader().read_exact(&mut plain)?;
            self.seen.extend(&plain);
            self.plain.extend(&plain);
        }
        self.flush()
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.stream)?;
        }
        Ok(())
    }

    /// Sends this inside TLS. The other end may have closed.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.tls.writer().write_all(bytes).unwrap();
        let _ = self.flush();
    }

    /// Returns these bytes as TLS sends them, and does not send them.
    pub(crate) fn sealed(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.tls.writer().write_all(bytes).unwrap();
        let mut sealed = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut sealed).unwrap();
        }
        sealed
    }

    /// Returns the next frame with its type; nothing if the connection has ended.
    pub(crate) fn next_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some(first) = self.plain.first_chunk::<16>() {
                let length = u32::from_le_bytes(first[..4].try_into().unwrap()) as usize;
                let whole = 16 + length.next_multiple_of(16);
                if self.plain.len() >= whole {
                    let frame: Vec<u8> = self.plain.drain(..whole).collect();
                    return Some((frame[4], frame));
                }
            }
            self.step().ok()?;
        }
    }

    /// Reads until the other end closes, and returns the types of the frames that came.
    pub(crate) fn until_closed(&mut self) -> Vec<u8> {
        let mut kinds = Vec::new();
        while let Some((kind, _)) = self.next_frame() {
            kinds.push(kind);
        }
        wait_until("it is closed", || is_closed(&mut self.stream));
        kinds
    }

    fn exporter(&self) -> [u8; 32] {
        self.tls.export_keying_material([0; 32], b"EXPORTER-gridkv-1", None).unwrap()
    }

    pub(crate) fn peer_hash(&self) -> [u8; 32] {
        sha256(&self.tls.peer_certificates().expect("it has proved a key")[0])
    }
}

/// Opens a connection, proves all, and is welcomed.
pub(crate) fn welcomed(
    to: SocketAddr,
    keys: &ClusterKeys,
    key: &OwnKey,
    hello: &[u8],
) -> (Session, Vec<u8>) {
    let opening = keys.opening(&key.hash);
    let mut session = Session::open(to, &opening, key)
        .unwrap_or_else(|said| panic!("refused: {}", String::from_utf8_lossy(&said)));
    let proof = ProofParts::right(keys, key, &session, hello).frame();
    session.send(&[&proof[..], hello].concat());
    let (kind, proof) = session.next_frame().expect("an answer to PROOF");
    assert_eq!(kind, PROOF, "{}", String::from_utf8_lossy(&proof));
    assert!(is_proof(keys, key, &session, &proof), "its PROOF is right");
    let (kind, welcome) = session.next_frame().expect("an answer to HELLO");
    assert_eq!(kind, WELCOME, "{}", String::from_utf8_lossy(&welcome));
    (session, welcome)
}

/// Reads this much, or less if the other end closes.
pub(crate) fn read_at_most(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A reset ends it too.
    let _ = stream.take(length as u64).read_to_end(&mut bytes);
    bytes
}

/// Reads until the other end closes.
pub(crate) fn read_all(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Err(error) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()) => {
            panic!("it is not closed")
        }
        // A reset ends it too.
        _ => bytes,
    }
}

/// Takes each Ed25519 key, as nodes do.
#[derive(Debug)]
struct AnyKey;

impl ServerCertVerifier for AnyKey {
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
        unreachable!("TLS 1.3 alone is offered")
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
        true
    }
}

impl ClientCertVerifier for AnyKey {
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
        unreachable!("TLS 1.3 alone is offered")
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
        true
    }
}
