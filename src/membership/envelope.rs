//! The envelope of a membership datagram: plain, or sealed with the cluster key.
//!
//! ```text
//! plain   version u8 · partitions u16 · cluster hash u64 · wall time u64 · kind u8 · body
//! sealed  suite u8 · key id u32 · salt u64 · counter u48 · what is sealed · tag [16]
//!         (sealed are wall time, kind and body)
//! ```
//!
//! What a plain datagram begins with is not sent in a sealed one. With the address that the
//! receiver advertises it is the context in which that opens: the seal is broken for a node of
//! another cluster, for one with another number of partitions, and for one to which it was not
//! sent.
//!
//! | this node's security | seals | opens |
//! |---|---|---|
//! | none | nothing | plain ones |
//! | required | all | sealed ones |
//! | optional | to nodes that open sealed ones | both |
//!
//! Which nodes open sealed ones is shown by them ([`openers`](super::openers)). **While security is
//! optional** any host can send plain datagrams in the name of a member: it keeps no host out.

use std::net::SocketAddr;
#[cfg(feature = "security")]
use std::sync::Arc;

use super::codec::{self, DatagramError, MAX_DATAGRAM_BYTES, SEALED_FROM};
use super::sealed::Sealed;
use crate::clock::{Instant, WallTime};
use crate::security::senders::SenderId;
#[cfg(feature = "security")]
use crate::security::{Fingerprint, NodeSecurity, Sealing};
use crate::types::{ClusterHash, Identity};

/// How many datagrams were opened, and how many were not, by why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
#[cfg_attr(not(feature = "sim"), expect(unreachable_pub, reason = "public in the simulator alone"))]
pub struct EnvelopeCounters {
    /// Plain ones, where none are sealed, or sealed ones with the right tag.
    pub opened: u64,
    /// Plain ones at a node that requires security, or sealed ones at a node that has none.
    pub wrong_kind: u64,
    /// Sealed with a key that this node does not accept.
    pub wrong_key: u64,
    /// The seal is broken.
    pub forged: u64,
    /// Opened before, or too late to tell.
    pub replayed: u64,
    /// Too long or too short, or not of a known kind.
    pub malformed: u64,
}

impl EnvelopeCounters {
    fn of(&mut self, error: &DatagramError) -> &mut u64 {
        #[cfg(feature = "security")]
        use crate::security::seal::SealError;
        match error {
            DatagramError::Sealed => &mut self.wrong_kind,
            #[cfg(feature = "security")]
            DatagramError::Plain => &mut self.wrong_kind,
            #[cfg(feature = "security")]
            DatagramError::Seal(error) => match error {
                SealError::NoSuchKey(_) => &mut self.wrong_key,
                SealError::Forged => &mut self.forged,
                SealError::Replayed => &mut self.replayed,
                SealError::TooShort | SealError::NotSealed(_) => &mut self.malformed,
            },
            _ => &mut self.malformed,
        }
    }
}

/// Closes what a node sends, and opens what it is sent.
#[derive(Debug)]
pub(crate) struct Envelope {
    cluster: ClusterHash,
    counters: EnvelopeCounters,
    sealed: Option<Sealed>,
}

/// What was opened.
#[derive(Debug)]
pub(crate) struct Opened<'a> {
    /// The plain datagram.
    pub(crate) datagram: &'a [u8],
    /// Which start of a node has sealed it, if it was sealed.
    pub(crate) sender: Option<SenderId>,
}

impl Envelope {
    /// Returns the envelope of a node without security.
    pub(crate) fn plain(cluster: ClusterHash) -> Self {
        Self { cluster, counters: EnvelopeCounters::default(), sealed: None }
    }

    /// Returns the envelope of a node with security.
    #[cfg(feature = "security")]
    pub(crate) fn sealed(cluster: ClusterHash, sealing: Sealing) -> Self {
        Self { sealed: Some(Sealed::new(sealing)), ..Self::plain(cluster) }
    }

    /// Goes by this from now on. What was sealed with a key that it does not have is not opened any
    /// more. Does nothing if this node has no security.
    #[cfg(feature = "security")]
    pub(crate) fn use_security(&mut self, security: Arc<NodeSecurity>) {
        if let Some(sealed) = &mut self.sealed {
            sealed.use_security(security);
        }
    }

    /// Whether this node has security, and speaks with nodes that have none, too.
    pub(crate) fn is_optional(&self) -> bool {
        self.sealed.as_ref().is_some_and(Sealed::is_optional)
    }

    /// Whether the app denies this key.
    #[cfg(feature = "security")]
    pub(crate) fn denies(&self, key: &Fingerprint) -> bool {
        self.sealed.as_ref().is_some_and(|sealed| sealed.denies(key))
    }

    /// Notes what a life of a node has shown: that it has security, or that it has none.
    pub(crate) fn has_shown(&mut self, now: Instant, life: &Identity, has_security: bool) {
        if let Some(sealed) = &mut self.sealed {
            sealed.has_shown(now, life, has_security);
        }
    }

    /// Whether the node that advertises this address has shown that it has security.
    pub(crate) fn has_shown_security(&self, node: SocketAddr) -> bool {
        self.sealed.as_ref().is_some_and(|sealed| sealed.has_shown_security(node))
    }

    /// Returns a datagram as it is sent to the node that advertises this address: with what the
    /// wall clock shows, and sealed if that node is to open it so. `None` if this node has sealed
    /// as many as one start of a node may: nine years of a million a second.
    pub(crate) fn close(
        &mut self,
        receiver: SocketAddr,
        mut datagram: Vec<u8>,
        wall: WallTime,
    ) -> Option<Vec<u8>> {
        codec::stamp(&mut datagram, wall);
        match &mut self.sealed {
            Some(sealed) if sealed.seals_to(receiver) => {
                sealed.close(self.cluster, receiver, &datagram)
            }
            _ => Some(datagram),
        }
    }

    /// Returns how many datagrams were opened, and how many were not.
    #[cfg(feature = "sim")]
    pub(crate) fn counters(&self) -> EnvelopeCounters {
        self.counters
    }

    /// Opens what arrived, in place, at a node that advertises the address `own`.
    pub(crate) fn open<'a>(
        &mut self,
        now: Instant,
        own: SocketAddr,
        bytes: &'a mut [u8],
    ) -> Result<Opened<'a>, DatagramError> {
        let opened = self.try_open(now, own, bytes);
        let counter = match &opened {
            Ok(_) => &mut self.counters.opened,
            Err(error) => self.counters.of(error),
        };
        *counter += 1;
        opened
    }

    fn try_open<'a>(
        &mut self,
        now: Instant,
        own: SocketAddr,
        bytes: &'a mut [u8],
    ) -> Result<Opened<'a>, DatagramError> {
        if bytes.len() > MAX_DATAGRAM_BYTES {
            return Err(DatagramError::TooLarge { bytes: bytes.len() });
        }
        let is_sealed = bytes.first().is_some_and(|first| *first >= SEALED_FROM);
        match &mut self.sealed {
            Some(sealed) if is_sealed => {
                let (datagram, sender) = sealed.open(self.cluster, now, own, bytes)?;
                Ok(Opened { datagram, sender: Some(sender) })
            }
            #[cfg(feature = "security")]
            Some(sealed) if !sealed.is_optional() => Err(DatagramError::Plain),
            None if is_sealed => Err(DatagramError::Sealed),
            _ => Ok(Opened { datagram: bytes, sender: None }),
        }
    }

    /// A datagram of this sender named a life of its own that is a member.
    pub(crate) fn confirm(&mut self, sender: &SenderId) {
        if let Some(sealed) = &mut self.sealed {
            sealed.confirm(sender);
        }
    }
}

#[cfg(all(test, feature = "security"))]
mod tests {
    use std::time::Duration;

    use zeroize::Zeroizing;

    use super::codec::Datagram;
    use super::*;
    use crate::security::seal::SealError;
    use crate::security::suite::{Salt, Suite};
    use crate::security::{ClusterKey, Security};
    use crate::types::{Boot, NodeHash};

    const NAME: &str = "shop";

    fn cluster() -> ClusterHash {
        ClusterHash::of(NAME)
    }

    fn at(second: u64) -> Instant {
        Instant::from_nanos(1) + Duration::from_secs(second)
    }

    fn key(number: u8) -> ClusterKey {
        ClusterKey::from_bytes(std::array::from_fn(|at| number.wrapping_add(at as u8))).unwrap()
    }

    fn optional(number: u8) -> Security {
        Security::cluster_key(key(number)).optional()
    }

    fn required(number: u8) -> Security {
        Security::cluster_key(key(number))
    }

    fn of_node(security: &Security) -> Arc<NodeSecurity> {
        Arc::new(security.of_node(NAME, &Zeroizing::new([7; 32])).unwrap())
    }

    /// A node that speaks to others by what its envelope says.
    struct Node {
        life: Identity,
        envelope: Envelope,
    }

    impl Node {
        fn new(number: u8, boot: u64, security: Option<Security>) -> Self {
            let addr = SocketAddr::from(([10, 0, 0, number], 7000));
            let life =
                Identity { node: NodeHash(number.into()), boot: Boot(boot), returns: 0, addr };
            let envelope = match security {
                Some(security) => {
                    let suite = Suite::Aes128Gcm;
                    let salt = Salt(boot << 8 | u64::from(number));
                    let sealing = Sealing { security: of_node(&security), suite, salt };
                    Envelope::sealed(cluster(), sealing)
                }
                None => Envelope::plain(cluster()),
            };
            Self { life, envelope }
        }

        fn close_for(&mut self, to: &Identity) -> Vec<u8> {
            let pong = Datagram::Pong { nonce: 1, from: self.life }.encode(cluster());
            self.envelope.close(to.addr, pong, WallTime::from_micros(1)).unwrap()
        }

        /// Sends another node a datagram. Returns whether it was sealed, if it was opened.
        fn send(&mut self, second: u64, to: &mut Self) -> Result<bool, DatagramError> {
            let mut bytes = self.close_for(&to.life);
            to.receive(second, &mut bytes)
        }

        fn receive(&mut self, second: u64, bytes: &mut [u8]) -> Result<bool, DatagramError> {
            let is_sealed = bytes[0] >= SEALED_FROM;
            let opened = self.envelope.open(at(second), self.life.addr, bytes)?;
            assert_eq!(opened.sender.is_some(), is_sealed);
            assert!(codec::sent_by(cluster(), opened.datagram).is_some());
            Ok(is_sealed)
        }
    }

    #[test]
    fn who_requires_security_seals_all_and_opens_nothing_else() {
        let mut plain = Node::new(1, 100, None);
        let mut required = Node::new(2, 100, Some(required(0)));
        assert_eq!(plain.send(0, &mut required), Err(DatagramError::Plain));
        assert_eq!(required.send(0, &mut plain), Err(DatagramError::Sealed));
        assert_eq!(required.envelope.counters().wrong_kind, 1);
        assert_eq!(plain.envelope.counters().wrong_kind, 1);
        let other = &mut Node::new(3, 100, Some(self::required(0)));
        assert_eq!(required.send(0, other), Ok(true));
    }

    #[test]
    fn an_optional_node_speaks_with_both_kinds() {
        let mut optional = Node::new(1, 100, Some(optional(0)));
        let mut plain = Node::new(2, 100, None);
        let mut required = Node::new(3, 100, Some(required(0)));
        assert_eq!(optional.send(0, &mut plain), Ok(false));
        assert_eq!(plain.send(0, &mut optional), Ok(false));
        assert_eq!(optional.send(0, &mut required), Err(DatagramError::Plain), "not known yet");
        assert_eq!(required.send(1, &mut optional), Ok(true));
        assert_eq!(optional.send(1, &mut required), Ok(true));
        assert_eq!(optional.send(1, &mut plain), Ok(false));
        // A cluster may be silent for long.
        assert_eq!(optional.send(100_000, &mut required), Ok(true));
        let refused = optional.envelope.counters();
        assert_eq!((refused.opened, refused.wrong_kind), (2, 0));
    }

    /// Two that begin with plain datagrams both open them, and neither would seal the first.
    #[test]
    fn two_optional_nodes_seal_once_a_connection_has_shown_it() {
        let [mut one, mut other] = [1, 2].map(|number| Node::new(number, 100, Some(optional(0))));
        for second in 0..3 {
            assert_eq!(one.send(second, &mut other), Ok(false));
            assert_eq!(other.send(second, &mut one), Ok(false));
        }
        one.envelope.has_shown(at(3), &other.life, true);
        assert_eq!(one.send(4, &mut other), Ok(true));
        assert_eq!(other.send(4, &mut one), Ok(true), "that is enough for both");
        // A connection that fell back to plain bytes shows nothing new of the same life.
        one.envelope.has_shown(at(5), &other.life, false);
        assert_eq!(one.send(6, &mut other), Ok(true));
    }

    #[test]
    fn a_node_that_goes_back_to_no_security_is_heard_again() {
        let mut one = Node::new(1, 100, Some(optional(0)));
        let mut other = Node::new(2, 100, Some(optional(0)));
        one.envelope.has_shown(at(0), &other.life, true);
        let recorded = one.envelope.has_shown_security(other.life.addr);
        assert!(recorded);
        let mut late = other.close_for(&one.life);
        one.envelope.has_shown(at(1), &other.life, true);
        let mut sealed = {
            other.envelope.has_shown(at(1), &one.life, true);
            other.close_for(&one.life)
        };
        let mut again = Node::new(2, 200, None);
        assert_eq!(one.send(2, &mut again), Err(DatagramError::Sealed), "not known yet");
        one.envelope.has_shown(at(3), &again.life, false);
        assert_eq!(one.send(3, &mut again), Ok(false));
        // Datagrams of the earlier life come late, or were recorded.
        assert_eq!(one.receive(4, &mut late), Ok(false));
        assert_eq!(one.receive(4, &mut sealed), Ok(true));
        assert_eq!(one.send(5, &mut again), Ok(false));
    }

    #[test]
    fn a_cluster_comes_to_require_security_step_by_step() {
        let [mut one, mut other] = [1, 2].map(|number| Node::new(number, 100, Some(optional(0))));
        one.envelope.has_shown(at(0), &other.life, true);
        assert_eq!(one.send(0, &mut other), Ok(true));
        let require = |node: &mut Node| {
            assert!(node.envelope.is_optional());
            node.envelope.use_security(of_node(&required(0)));
            assert!(!node.envelope.is_optional());
        };
        require(&mut one);
        assert_eq!(one.send(1, &mut other), Ok(true));
        assert_eq!(other.send(1, &mut one), Ok(true));
        require(&mut other);
        assert_eq!(other.send(2, &mut one), Ok(true));
        assert_eq!(Node::new(3, 100, None).send(3, &mut one), Err(DatagramError::Plain));
        // It remembers who opens sealed ones while it requires them.
        one.envelope.use_security(of_node(&optional(0)));
        assert_eq!(one.send(4, &mut other), Ok(true));
    }

    #[test]
    fn an_optional_node_opens_nothing_that_is_sealed_with_another_key() {
        let mut optional = Node::new(1, 100, Some(optional(0)));
        let mut stranger = Node::new(2, 100, Some(required(9)));
        let error = stranger.send(0, &mut optional).unwrap_err();
        assert!(matches!(error, DatagramError::Seal(SealError::NoSuchKey(_))), "{error}");
        assert_eq!(optional.envelope.counters().wrong_key, 1);
        assert!(!optional.envelope.has_shown_security(stranger.life.addr));
        // Nor what is sealed for another node, even if it has the right key.
        let mut third = Node::new(3, 100, Some(required(0)));
        let mut for_another = third.close_for(&stranger.life);
        let error = optional.receive(0, &mut for_another).unwrap_err();
        assert_eq!(error, DatagramError::Seal(SealError::Forged));
        assert!(!optional.envelope.has_shown_security(third.life.addr));
    }

    #[test]
    fn a_node_without_security_has_nothing_to_note() {
        let mut plain = Node::new(1, 100, None);
        let other = Node::new(2, 100, Some(required(0)));
        plain.envelope.has_shown(at(0), &other.life, true);
        plain.envelope.use_security(of_node(&required(0)));
        assert!(!plain.envelope.has_shown_security(other.life.addr));
        assert!(!plain.envelope.is_optional());
        assert!(plain.close_for(&other.life)[0] < SEALED_FROM);
    }
}
