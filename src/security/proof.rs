//! PROOF: what each side proves once TLS is up, and what a node signs about itself.
//!
//! **Problem.** OPENING can be recorded, and a node's key can be stolen. And a host between two
//! nodes can speak TLS with both. So each side proves, over this very TLS session, that it has the
//! cluster key:
//!
//! ```text
//! mac = HMAC(proof key, "gridkv 1 " ‖ role ‖ exporter [32] ‖ own hash [32] ‖ the peer's hash [32])
//! ```
//!
//! The exporter is a value of the session that both ends know and no third host can bring about
//! (RFC 9266). It does not cover the client's certificate, therefore the hashes of both do.
//!
//! **Introduction.** TLS proves a key, and HELLO names a node. A signature by the key joins the
//! two: this life of this node, at this address, has this key. It says the same to every node, so
//! that a node can pass it on. It lasts as long as the life, and so it does not cover the number of
//! returns.
//!
//! **Departures.** A node whose leaving is believed is not waited for any more. So a node signs its
//! own, with the number of its returns: a copy with a higher number would otherwise count as newer
//! than what the node says later.
//!
//! ```text
//! here     "gridkv 1 here" ‖ life ‖ key [32] ‖ flags u8
//! leaving  "gridkv 1 leaving" ‖ life ‖ returns u16
//! left     "gridkv 1 left" ‖ life ‖ returns u16
//!
//! life     cluster u64 · node u64 · boot u64 · address [19]
//! address  ip [16], IPv4 as ::ffff:a.b.c.d · port u16 · family u8 (4 or 6)
//! (integers little-endian)
//! ```

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ring::hmac;
use zeroize::Zeroizing;

use super::identity::{
    CertificateHash, Domain, NodeIdentity, PublicKey, Signature, WrongSignature,
};
use super::keys::DerivedKeys;
use super::opening::Role;
use crate::types::{ClusterHash, Identity};

/// The label of the value that both sides take from TLS (RFC 8446, 7.5), without a context.
pub(crate) const EXPORTER_LABEL: &[u8] = b"EXPORTER-gridkv-1";

/// What came as a proof is none of the cluster key, or none for this session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the other side's proof of the cluster key is wrong: it has another key, or a host stands in \
     between"
)]
pub(crate) struct WrongProof;

/// One end of a TLS session.
pub(crate) struct Session {
    role: Role,
    exporter: Zeroizing<[u8; 32]>,
    own: CertificateHash,
    peer: CertificateHash,
}

impl Session {
    /// Describes this end. `own` is what this node presented, `peer` what TLS has proved of the
    /// other one.
    pub(crate) fn new(
        role: Role,
        exporter: Zeroizing<[u8; 32]>,
        own: CertificateHash,
        peer: CertificateHash,
    ) -> Self {
        Self { role, exporter, own, peer }
    }

    /// Returns this end's proof.
    pub(crate) fn prove(&self, keys: &DerivedKeys) -> [u8; 32] {
        let mut proof = [0; 32];
        let message = self.message(self.role, &self.own, &self.peer);
        proof.copy_from_slice(hmac::sign(keys.proof(), &message).as_ref());
        proof
    }

    /// Checks the proof that came from the other end.
    pub(crate) fn check(&self, keys: &DerivedKeys, proof: &[u8; 32]) -> Result<(), WrongProof> {
        let message = self.message(self.role.other(), &self.peer, &self.own);
        hmac::verify(keys.proof(), &message, proof).map_err(|_| WrongProof)
    }

    /// Returns what the end with this role proves. All that follows the role has a fixed length.
    fn message(
        &self,
        role: Role,
        own: &CertificateHash,
        peer: &CertificateHash,
    ) -> Zeroizing<Vec<u8>> {
        let parts = [b"gridkv 1 ", role.text(), &*self.exporter, &own.0, &peer.0];
        Zeroizing::new(parts.concat())
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({:?}, {:?} to {:?})", self.role, self.own, self.peer)
    }
}

/// What a node says of itself for its whole life, as a set of bits. Unknown ones are signed, passed
/// on, and mean nothing here.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct IntroductionFlags(pub(crate) u8);

impl IntroductionFlags {
    /// It has the same key after a restart.
    pub(crate) const KEEPS_ITS_KEY: Self = Self(1);
    /// It opens sealed datagrams.
    pub(crate) const OPENS_SEALED: Self = Self(1 << 1);

    pub(crate) fn has(self, flag: Self) -> bool {
        self.0 & flag.0 == flag.0
    }

    pub(crate) fn with(self, flag: Self) -> Self {
        Self(self.0 | flag.0)
    }
}

impl fmt::Debug for IntroductionFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IntroductionFlags({:#04b})", self.0)
    }
}

/// "I am this life of this node, here, with this key": signed by that key. What came over the wire
/// is to be [verified](Self::verify) before it is believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Introduction {
    /// The life. The number of its returns is not signed, and says nothing here.
    pub(crate) identity: Identity,
    pub(crate) key: PublicKey,
    pub(crate) flags: IntroductionFlags,
    pub(crate) signature: Signature,
}

impl Introduction {
    pub(crate) fn new(
        own: &NodeIdentity,
        cluster: ClusterHash,
        identity: &Identity,
        flags: IntroductionFlags,
    ) -> Self {
        let (identity, key) = (identity.life(), own.public_key());
        let signature = own.sign(Domain::Here, &here(cluster, &identity, &key, flags));
        Self { identity, key, flags, signature }
    }

    /// Checks that the key in it has signed it for this cluster. Whether that is the node's key is
    /// for the caller to find out: TLS proves it, or it is known from before.
    pub(crate) fn verify(&self, cluster: ClusterHash) -> Result<(), WrongSignature> {
        let message = here(cluster, &self.identity, &self.key, self.flags);
        self.key.verify(Domain::Here, &message, &self.signature)
    }
}

/// How a node says that it goes.
#[cfg_attr(
    not(any(fuzzing, test, feature = "sim")),
    expect(dead_code, reason = "departures are not signed yet")
)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Departure {
    /// It hands its data over.
    Leaving,
    /// It has handed everything over.
    Left,
}

impl Departure {
    fn domain(self) -> Domain {
        match self {
            Self::Leaving => Domain::Leaving,
            Self::Left => Domain::Left,
        }
    }
}

/// "I am leaving" or "I have left", signed by the node. It has no key: the receiver takes the one
/// that the node has introduced itself with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SignedClaim {
    pub(crate) departure: Departure,
    pub(crate) identity: Identity,
    pub(crate) signature: Signature,
}

#[cfg_attr(
    not(any(fuzzing, test, feature = "sim")),
    expect(dead_code, reason = "departures are not signed yet")
)]
impl SignedClaim {
    pub(crate) fn new(
        own: &NodeIdentity,
        cluster: ClusterHash,
        identity: &Identity,
        departure: Departure,
    ) -> Self {
        let signature = own.sign(departure.domain(), &departs(cluster, identity));
        Self { departure, identity: *identity, signature }
    }

    /// Checks that this key has signed it for this cluster.
    pub(crate) fn verify(
        &self,
        cluster: ClusterHash,
        key: &PublicKey,
    ) -> Result<(), WrongSignature> {
        let message = departs(cluster, &self.identity);
        key.verify(self.departure.domain(), &message, &self.signature)
    }
}

fn here(
    cluster: ClusterHash,
    identity: &Identity,
    key: &PublicKey,
    flags: IntroductionFlags,
) -> Vec<u8> {
    let mut message = life(cluster, identity);
    message.extend_from_slice(&key.0);
    message.push(flags.0);
    message
}

fn departs(cluster: ClusterHash, identity: &Identity) -> Vec<u8> {
    let mut message = life(cluster, identity);
    message.extend_from_slice(&identity.returns.to_le_bytes());
    message
}

/// Returns what names a life of a node in every signature.
fn life(cluster: ClusterHash, identity: &Identity) -> Vec<u8> {
    let Identity { node, boot, returns: _, addr } = identity;
    let numbers = [cluster.0, node.0, boot.0].map(u64::to_le_bytes);
    let mut message = numbers.concat();
    message.extend_from_slice(&address(*addr));
    message
}

/// Returns the fixed form of an address in what is signed, 19 bytes. The family tells an IPv4
/// address from the IPv6 address that maps it.
pub(crate) fn address(addr: SocketAddr) -> [u8; 19] {
    let (ip, family) = match addr.ip() {
        IpAddr::V4(ip) => (ip.to_ipv6_mapped(), 4),
        IpAddr::V6(ip) => (ip, 6),
    };
    let mut bytes = [0; 19];
    bytes[..16].copy_from_slice(&ip.octets());
    bytes[16..18].copy_from_slice(&addr.port().to_le_bytes());
    bytes[18] = family;
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::security::testing::{CLUSTER_HASH, hex, identity, keyring, node};
    use crate::types::{Boot, NodeHash};

    fn sessions() -> [Session; 2] {
        let [opener, acceptor] = [[0xaa; 32], [0xbb; 32]].map(CertificateHash);
        let exporter = || Zeroizing::new([0xee; 32]);
        [
            Session::new(Role::Opener, exporter(), opener, acceptor),
            Session::new(Role::Acceptor, exporter(), acceptor, opener),
        ]
    }

    #[test]
    fn proofs_are_those_of_the_specification() {
        let keyring = keyring(0, &[]);
        let proofs = sessions().map(|session| hex(&session.prove(keyring.sealing())));
        let opener = "c6bbe373a1830f68170d78c60985c54a6418e954957f0a1389286d85ec7de9bd";
        let acceptor = "cc4e0e493cd3050b53660b88016070177eda92307a23117bb7b7fa6963823e11";
        assert_eq!(proofs, [opener, acceptor]);
    }

    #[test]
    fn a_proof_counts_for_one_side_of_one_session_under_one_key() {
        let keyring = keyring(0, &[1]);
        let keys = keyring.sealing();
        let [opener, acceptor] = sessions();
        let proof = opener.prove(keys);
        acceptor.check(keys, &proof).unwrap();
        opener.check(keys, &acceptor.prove(keys)).unwrap();
        assert_eq!(opener.check(keys, &proof), Err(WrongProof), "sent back");
        let other_key = keyring.iter().nth(1).unwrap();
        assert_eq!(acceptor.check(other_key, &proof), Err(WrongProof));
        for bit in 0..8 * 32 {
            let flip = |bytes: &[u8; 32]| {
                let mut bytes = *bytes;
                bytes[bit / 8] ^= 1 << (bit % 8);
                bytes
            };
            assert_eq!(acceptor.check(keys, &flip(&proof)), Err(WrongProof));
            let [_, mut other] = sessions();
            other.exporter = Zeroizing::new(flip(&other.exporter));
            assert_eq!(other.check(keys, &proof), Err(WrongProof), "another session");
            let [_, mut other] = sessions();
            other.own.0 = flip(&other.own.0);
            assert_eq!(other.check(keys, &proof), Err(WrongProof), "a host in between");
            let [_, mut other] = sessions();
            other.peer.0 = flip(&other.peer.0);
            assert_eq!(other.check(keys, &proof), Err(WrongProof), "a host in between");
        }
    }

    fn introduction() -> Introduction {
        let flags = IntroductionFlags::KEEPS_ITS_KEY.with(IntroductionFlags::OPENS_SEALED);
        Introduction::new(&node(0x40), CLUSTER_HASH, &identity("10.0.0.1:8001"), flags)
    }

    #[test]
    fn signatures_are_those_of_the_specification() {
        let expected = "bd94b64240c2ca549fa46cf9100323ad428e7199978c33bd7262d6313bb30ae05738238a\
                        44520f3907e0641d0751fb1a0a1abeddca838402ef1e670b36b78b05";
        assert_eq!(hex(&introduction().signature.0), expected);
        let claims = [Departure::Leaving, Departure::Left].map(|departure| {
            let identity = identity("[fd00::7]:8001");
            hex(&SignedClaim::new(&node(0x40), CLUSTER_HASH, &identity, departure).signature.0)
        });
        let leaving = "917e3f49d7088163cd8611690d7cdea43f19162190d98d9453355d0ce135786d1921b3dc\
                       dcacffc981fc638784ec3f6a7d34e4e8774185f617b265cdad257603";
        let left = "04037d59770c8e27bf74c0dafe6c0cea39e73b739b02cacd70ae6d89c210a31ea0d5e6a7\
                    24d0d50e5df9f4bc5a682f8e63d1302c4f5069d40fa1c39a79932204";
        assert_eq!(claims, [leaving, left]);
    }

    /// Other identities than that of the tests, each in one field.
    fn others(addr: &str) -> Vec<Identity> {
        let own = identity(addr);
        let addrs = ["10.0.0.2:8001", "10.0.0.1:8002", "[::ffff:10.0.0.1]:8001", "[fd00::8]:8001"];
        let mut others: Vec<Identity> = addrs.map(identity).to_vec();
        others.push(Identity { node: NodeHash(own.node.0 + 1), ..own });
        others.push(Identity { boot: Boot(own.boot.0 + 1), ..own });
        others
    }

    #[test]
    fn an_introduction_holds_for_the_life_that_it_names() {
        let introduction = introduction();
        introduction.verify(CLUSTER_HASH).unwrap();
        assert_eq!(introduction.identity, identity("10.0.0.1:8001").life());
        let returned = Identity { returns: 9, ..introduction.identity };
        Introduction { identity: returned, ..introduction }.verify(CLUSTER_HASH).unwrap();
        let other = ClusterHash(CLUSTER_HASH.0 + 1);
        assert_eq!(introduction.verify(other), Err(WrongSignature));
        for identity in others("10.0.0.1:8001") {
            let altered = Introduction { identity, ..introduction };
            assert_eq!(altered.verify(CLUSTER_HASH), Err(WrongSignature), "{identity:?}");
        }
        for bit in 0..8 {
            let flags = IntroductionFlags(introduction.flags.0 ^ 1 << bit);
            let altered = Introduction { flags, ..introduction };
            assert_eq!(altered.verify(CLUSTER_HASH), Err(WrongSignature));
        }
        let stolen = Introduction { key: node(0x41).public_key(), ..introduction };
        assert_eq!(stolen.verify(CLUSTER_HASH), Err(WrongSignature));
    }

    #[test]
    fn a_departure_is_the_node_s_own_word_about_one_return() {
        let (own, identity) = (node(0x40), identity("10.0.0.1:8001"));
        let key = own.public_key();
        for departure in [Departure::Leaving, Departure::Left] {
            let claim = SignedClaim::new(&own, CLUSTER_HASH, &identity, departure);
            claim.verify(CLUSTER_HASH, &key).unwrap();
            let other = node(0x41).public_key();
            assert_eq!(claim.verify(CLUSTER_HASH, &other), Err(WrongSignature));
            assert_eq!(claim.verify(ClusterHash(0), &key), Err(WrongSignature));
            let mut others = others("10.0.0.1:8001");
            others.push(Identity { returns: identity.returns + 1, ..identity });
            for identity in others {
                let altered = SignedClaim { identity, ..claim };
                assert_eq!(altered.verify(CLUSTER_HASH, &key), Err(WrongSignature));
            }
        }
        let leaving = SignedClaim::new(&own, CLUSTER_HASH, &identity, Departure::Leaving);
        let left = SignedClaim { departure: Departure::Left, ..leaving };
        assert_eq!(left.verify(CLUSTER_HASH, &key), Err(WrongSignature));
    }

    #[test]
    fn addresses_have_one_form() {
        let forms = ["1.2.3.4:258", "[::ffff:1.2.3.4]:258", "[2001:db8::1]:258"]
            .map(|text| hex(&address(text.parse().unwrap())));
        assert_eq!(forms[0], "00000000000000000000ffff01020304020104");
        assert_eq!(forms[1], "00000000000000000000ffff01020304020106");
        assert_eq!(forms[2], "20010db8000000000000000000000001020106");
    }
}
