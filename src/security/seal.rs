//! Sealed datagrams: encrypted, authentic, and opened once.
//!
//! ```text
//! suite u8 · key id u32 · salt u64 · counter u48 · the sealed bytes · tag [16]
//! (integers little-endian; 35 bytes more than the plain bytes have)
//!
//! suite   0x80 AES-128-GCM, 0x81 ChaCha20-Poly1305
//! key     derived from the cluster key, the suite and the salt (`keys`)
//! nonce   00 00 00 00 00 00 ‖ counter (big-endian)
//! AAD     the 19 bytes before the sealed ones ‖ the caller's context
//! ```
//!
//! **Nonces.** Each start of a node has a [`Salt`], hence a key of its own, and counts its
//! datagrams from one. A [`Sealer`] counts before it seals and cannot be cloned, so no nonce is
//! used twice as long as salts differ. Changing the cluster key keeps salt and counter: going back
//! to an earlier key repeats no nonce either.
//!
//! **Context.** What sender and receiver both know and no datagram carries. It costs no byte. If
//! the receiver is not in it, a datagram that was recorded on its way to one node opens once at
//! each other node as well.
//!
//! **What a receiver looks at**, the cheapest first: the length, the suite, the key id, the window
//! of a known sender, the tag. For the tag of an unknown sender it derives the sender's key first.
//! Only a right tag changes anything.
//!
//! **What sealing does not do.** All members can derive the keys of all senders. A bad member can
//! thus speak as another one in datagrams, and can use up another one's counters: the other one is
//! heard again after it has drawn a new salt. Also, a right tag says that a datagram was sealed,
//! and not when: see [`senders`](super::senders) for which recorded ones open.

use std::fmt;

use ring::aead::{Aad, LessSafeKey, NONCE_LEN, Nonce};

use super::keys::{KeyId, Keyring};
use super::senders::{SenderId, SenderTable};
use super::suite::{Salt, Suite};
use crate::clock::Instant;
use crate::mutants::{ProtocolMutant, rule};

/// What comes before the sealed bytes: the suite, the key id, the salt and the counter.
pub(crate) const SEALED_HEADER_BYTES: usize = 1 + 4 + 8 + 6;

const TAG_BYTES: usize = 16;

/// How many bytes longer a sealed datagram is than the plain one.
pub(crate) const SEALED_OVERHEAD_BYTES: usize = SEALED_HEADER_BYTES + TAG_BYTES;

/// The highest counter: the last that fits in 48 bits. A million datagrams a second reach it in
/// nine years.
const MAX_COUNTER: u64 = (1 << 48) - 1;

/// No more datagrams can be sealed under this salt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this node has sealed as many datagrams as one salt allows, and needs a new salt")]
pub(crate) struct Exhausted;

/// Why a datagram was not opened. Nothing changed because of it, but for the bytes themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SealError {
    #[error("a datagram that is shorter than an empty sealed one")]
    TooShort,
    #[error("a datagram that begins with {0}, which is no suite of sealed ones")]
    NotSealed(u8),
    #[error("a datagram that is sealed with the key {0}, which this node does not accept")]
    NoSuchKey(KeyId),
    /// It was altered, it was meant for another receiver, or its sender has another key.
    #[error("a datagram whose seal is broken")]
    Forged,
    /// It has been opened before, or is so late that this is not known.
    #[error("a datagram that came before, or 1024 others of its sender too late")]
    Replayed,
}

/// The readable part of a sealed datagram.
#[derive(Clone, Copy)]
struct SealedHeader {
    sender: SenderId,
    counter: u64,
}

impl SealedHeader {
    fn encode(&self) -> [u8; SEALED_HEADER_BYTES] {
        let mut bytes = [0; SEALED_HEADER_BYTES];
        let (suite, rest) = bytes.split_at_mut(1);
        let (key, rest) = rest.split_at_mut(4);
        let (salt, counter) = rest.split_at_mut(8);
        suite[0] = self.sender.suite.first_byte();
        key.copy_from_slice(&self.sender.key.0.to_le_bytes());
        salt.copy_from_slice(&self.sender.salt.0.to_le_bytes());
        counter.copy_from_slice(&self.counter.to_le_bytes()[..6]);
        bytes
    }

    fn decode(bytes: &[u8; SEALED_HEADER_BYTES]) -> Result<Self, SealError> {
        let [suite, k0, k1, k2, k3, s0, s1, s2, s3, s4, s5, s6, s7, c0, c1, c2, c3, c4, c5] =
            *bytes;
        let suite = Suite::of(suite).ok_or(SealError::NotSealed(suite))?;
        let key = KeyId(u32::from_le_bytes([k0, k1, k2, k3]));
        let salt = Salt(u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]));
        let counter = u64::from_le_bytes([c0, c1, c2, c3, c4, c5, 0, 0]);
        Ok(Self { sender: SenderId { key, suite, salt }, counter })
    }

    fn nonce(&self) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        nonce[NONCE_LEN - 8..].copy_from_slice(&self.counter.to_be_bytes());
        Nonce::assume_unique_for_key(nonce)
    }
}

/// Writes the associated data of a datagram to `aad`, a buffer that is used again.
fn fill_aad(aad: &mut Vec<u8>, header: &[u8; SEALED_HEADER_BYTES], context: &[u8]) {
    aad.clear();
    aad.extend_from_slice(header);
    aad.extend_from_slice(context);
}

/// Seals the datagrams of one start of a node.
pub(crate) struct Sealer {
    id: SenderId,
    key: LessSafeKey,
    /// The counter of the datagram that was sealed last.
    counter: u64,
    aad: Vec<u8>,
}

impl Sealer {
    /// Begins to count. `salt` must be drawn for this very call: see [`Salt`].
    pub(crate) fn new(keyring: &Keyring, suite: Suite, salt: Salt) -> Self {
        let keys = keyring.sealing();
        let id = SenderId { key: keys.id(), suite, salt };
        Self { id, key: id.derive(keys), counter: 0, aad: Vec::new() }
    }

    /// Seals with the first key of this ring from now on. Salt and counter stay.
    pub(crate) fn use_keyring(&mut self, keyring: &Keyring) {
        let keys = keyring.sealing();
        self.id.key = keys.id();
        self.key = self.id.derive(keys);
    }

    /// Replaces what `out` holds by the sealed form of `plain`, which the receiver opens with the
    /// same `context`. After an error `out` is empty.
    pub(crate) fn seal(
        &mut self,
        plain: &[u8],
        context: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Exhausted> {
        out.clear();
        if self.counter >= MAX_COUNTER {
            return Err(Exhausted);
        }
        self.counter += 1;
        let header = SealedHeader { sender: self.id, counter: self.counter };
        let head = header.encode();
        fill_aad(&mut self.aad, &head, context);
        out.reserve(plain.len() + SEALED_OVERHEAD_BYTES);
        out.extend_from_slice(&head);
        out.extend_from_slice(plain);
        let aad = Aad::from(&*self.aad);
        let sealed = &mut out[SEALED_HEADER_BYTES..];
        match self.key.seal_in_place_separate_tag(header.nonce(), aad, sealed) {
            Ok(tag) => out.extend_from_slice(tag.as_ref()),
            // There are more than 64 GiB. Nothing plain must be left.
            Err(_) => {
                out.clear();
                return Err(Exhausted);
            }
        }
        Ok(())
    }
}

#[cfg(any(fuzzing, test, feature = "sim"))]
impl Sealer {
    /// Counts on, as if this number of datagrams had been sealed.
    pub(crate) fn skip(&mut self, count: u64) {
        self.counter = self.counter.saturating_add(count).min(MAX_COUNTER);
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealer({:?}, {} sealed)", self.id, self.counter)
    }
}

/// A datagram that was opened.
#[derive(PartialEq, Eq)]
pub(crate) struct Opened<'a> {
    /// Which start of a node sealed it, and with which key.
    pub(crate) sender: SenderId,
    pub(crate) plain: &'a [u8],
}

/// What was sealed is not shown.
impl fmt::Debug for Opened<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Opened({:?}, {} bytes)", self.sender, self.plain.len())
    }
}

/// Opens the datagrams of all senders, each once.
#[derive(Default)]
pub(crate) struct Opener {
    senders: SenderTable,
    aad: Vec<u8>,
}

impl Opener {
    /// Opens a datagram in place. After [`SealError::Forged`] what was sealed of it is no longer
    /// there.
    pub(crate) fn open<'a>(
        &mut self,
        keyring: &Keyring,
        now: Instant,
        context: &[u8],
        bytes: &'a mut [u8],
    ) -> Result<Opened<'a>, SealError> {
        if bytes.len() < SEALED_OVERHEAD_BYTES {
            return Err(SealError::TooShort);
        }
        let (head, sealed) =
            bytes.split_first_chunk_mut::<SEALED_HEADER_BYTES>().ok_or(SealError::TooShort)?;
        let header = SealedHeader::decode(head)?;
        let id = header.sender;
        let no_key = SealError::NoSuchKey(id.key);
        let keys = keyring.by_id(id.key);
        if rule(ProtocolMutant::RemovedKeysOpened, keys.is_none()) {
            return Err(no_key);
        }
        let known = self.senders.get(&id);
        let is_admitted =
            known.map_or(header.counter != 0, |sender| sender.window.admits(header.counter));
        if rule(ProtocolMutant::ReplaysOpened, !is_admitted) {
            return Err(SealError::Replayed);
        }
        if !rule(ProtocolMutant::WindowMovedFirst, true) {
            self.senders.note(&id, header.counter, now);
        }
        fill_aad(&mut self.aad, head, context);
        let plain = match self.senders.get(&id) {
            Some(sender) => {
                let plain = unseal(&sender.key, &header, &self.aad, sealed)?;
                self.senders.note(&id, header.counter, now);
                plain
            }
            None => {
                let key = id.derive(keys.ok_or(no_key)?);
                let plain = unseal(&key, &header, &self.aad, sealed)?;
                self.senders.add(id, key, header.counter, now);
                plain
            }
        };
        Ok(Opened { sender: id, plain })
    }

    /// Keeps a sender apart from [newcomers](super::senders), which a host without the key can
    /// replace by one another.
    ///
    /// To be called when a datagram of it names, as its own, a life that this node knows by more
    /// than datagrams. A recording of an earlier life of a node does not.
    pub(crate) fn confirm(&mut self, sender: &SenderId) {
        self.senders.confirm(sender);
    }

    /// Forgets the senders of all keys that are not in the ring. Their windows are gone then: a key
    /// that was taken out must not come back.
    pub(crate) fn retain_keys(&mut self, keyring: &Keyring) {
        self.senders.retain_keys(keyring);
    }

    /// Returns how many senders are remembered.
    #[cfg(test)]
    pub(crate) fn senders(&self) -> usize {
        self.senders.len()
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Opener({:?})", self.senders)
    }
}

fn unseal<'a>(
    key: &LessSafeKey,
    header: &SealedHeader,
    aad: &[u8],
    sealed: &'a mut [u8],
) -> Result<&'a [u8], SealError> {
    let plain = key.open_in_place(header.nonce(), Aad::from(aad), sealed);
    plain.map(|plain| &*plain).map_err(|_| SealError::Forged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::security::keys::MAX_CLUSTER_KEYS;
    use crate::security::senders::{MOST_NEWCOMERS, MOST_SENDERS};
    use crate::security::testing::{self, hex, keyring};

    const CONTEXT: &[u8] = b"context";
    const PLAIN: &[u8] = b"plain text";
    const SALT: Salt = Salt(0x1122_3344_5566_7788);
    const SUITES: [Suite; 2] = [Suite::Aes128Gcm, Suite::ChaCha20Poly1305];

    fn at(second: u64) -> Instant {
        Instant::from_nanos(second * 1_000_000_000)
    }

    fn sealed(sealer: &mut Sealer) -> Vec<u8> {
        let mut out = b"what was in the buffer".to_vec();
        sealer.seal(PLAIN, CONTEXT, &mut out).unwrap();
        out
    }

    /// Seals under a counter of choice.
    fn sealed_as(sealer: &mut Sealer, counter: u64) -> Vec<u8> {
        sealer.counter = counter - 1;
        sealed(sealer)
    }

    /// Opens a copy, now.
    fn open(opener: &mut Opener, keyring: &Keyring, bytes: &[u8]) -> Result<SenderId, SealError> {
        let mut bytes = bytes.to_vec();
        let opened = opener.open(keyring, at(0), CONTEXT, &mut bytes)?;
        assert_eq!(opened.plain, PLAIN);
        Ok(opened.sender)
    }

    #[test]
    fn sealed_datagrams_are_those_of_the_specification() {
        let keyring = keyring(0, &[]);
        let expected = [
            [
                "8010ca122e88776655443322110100000000000cbe7b45298305c78d0860c26acdebba22fdff\
                 5481cf71e8d7fd",
                "8010ca122e88776655443322110200000000000d521bd525ed5e9302bcb5165f0b100cce773c\
                 9c67299bc29643",
            ],
            [
                "8110ca122e88776655443322110100000000009caf5f659b4ece698da2bd2e1e6809f03b16d6\
                 7b55228a41a3e9",
                "8110ca122e88776655443322110200000000005193e864480ad0107d56dbac8f41e2f29bef85\
                 1c57e3340ffd40",
            ],
        ];
        for (suite, expected) in SUITES.into_iter().zip(expected) {
            let mut sealer = Sealer::new(&keyring, suite, SALT);
            let mut opener = Opener::default();
            for expected in expected {
                let datagram = sealed(&mut sealer);
                assert_eq!(hex(&datagram), expected);
                assert_eq!(datagram.len(), PLAIN.len() + SEALED_OVERHEAD_BYTES);
                let sender = open(&mut opener, &keyring, &datagram).unwrap();
                assert_eq!(sender, SenderId { key: keyring.sealing().id(), suite, salt: SALT });
            }
        }
    }

    #[test]
    fn every_length_is_sealed_and_opened() {
        let keyring = keyring(0, &[]);
        for suite in SUITES {
            let mut sealer = Sealer::new(&keyring, suite, SALT);
            let mut opener = Opener::default();
            let mut out = Vec::new();
            for length in 0..1300 {
                let plain: Vec<u8> = (0..length).map(|byte| byte as u8).collect();
                sealer.seal(&plain, b"", &mut out).unwrap();
                let opened = opener.open(&keyring, at(0), b"", &mut out).unwrap();
                assert_eq!(opened.plain, plain);
            }
        }
    }

    #[test]
    fn every_flipped_bit_is_refused_and_leaves_no_trace() {
        let keyring = keyring(0, &[]);
        for suite in SUITES {
            let datagram = sealed(&mut Sealer::new(&keyring, suite, SALT));
            let mut known = Opener::default();
            let first = sealed_as(&mut Sealer::new(&keyring, suite, SALT), 7);
            open(&mut known, &keyring, &first).unwrap();
            for mut opener in [Opener::default(), known] {
                let senders = opener.senders();
                for bit in 0..8 * datagram.len() {
                    let mut flipped = datagram.clone();
                    flipped[bit / 8] ^= 1 << (bit % 8);
                    let error = open(&mut opener, &keyring, &flipped).unwrap_err();
                    match bit / 8 {
                        0 if Suite::of(flipped[0]).is_none() => {
                            assert_eq!(error, SealError::NotSealed(flipped[0]));
                        }
                        1..5 => assert!(matches!(error, SealError::NoSuchKey(_))),
                        // Counter 1 becomes 0.
                        13 => assert!(matches!(error, SealError::Forged | SealError::Replayed)),
                        _ => assert_eq!(error, SealError::Forged, "bit {bit}"),
                    }
                }
                assert_eq!(opener.senders(), senders);
                open(&mut opener, &keyring, &datagram).unwrap();
            }
        }
    }

    #[test]
    fn every_cut_and_every_appended_byte_is_refused() {
        let keyring = keyring(0, &[]);
        let datagram = sealed(&mut Sealer::new(&keyring, Suite::Aes128Gcm, SALT));
        let mut opener = Opener::default();
        for length in 0..datagram.len() {
            let expected = if length < SEALED_OVERHEAD_BYTES {
                SealError::TooShort
            } else {
                SealError::Forged
            };
            let cut = &datagram[..length];
            assert_eq!(open(&mut opener, &keyring, cut), Err(expected), "{length} bytes");
        }
        for byte in 0..=255 {
            let longer = [&datagram[..], &[byte]].concat();
            assert_eq!(open(&mut opener, &keyring, &longer), Err(SealError::Forged));
        }
        assert_eq!(opener.senders(), 0);
        open(&mut opener, &keyring, &datagram).unwrap();
    }

    #[test]
    fn a_datagram_for_another_receiver_is_refused() {
        let keyring = keyring(0, &[]);
        let datagram = sealed(&mut Sealer::new(&keyring, Suite::Aes128Gcm, SALT));
        let mut opener = Opener::default();
        for context in [&b""[..], b"contex", b"context ", b"Context"] {
            let opened = opener.open(&keyring, at(0), context, &mut datagram.clone()).err();
            assert_eq!(opened, Some(SealError::Forged));
        }
        open(&mut opener, &keyring, &datagram).unwrap();
    }

    #[test]
    fn a_datagram_is_opened_once_in_any_order_within_the_window() {
        let keyring = keyring(0, &[]);
        let mut sealer = Sealer::new(&keyring, Suite::Aes128Gcm, SALT);
        let datagrams: Vec<Vec<u8>> = (0..1025).map(|_| sealed(&mut sealer)).collect();
        let mut opener = Opener::default();
        for datagram in datagrams[1..].iter().rev() {
            open(&mut opener, &keyring, datagram).unwrap();
            assert_eq!(open(&mut opener, &keyring, datagram), Err(SealError::Replayed));
        }
        let first = open(&mut opener, &keyring, &datagrams[0]);
        assert_eq!(first, Err(SealError::Replayed), "1024 behind the latest");
        let sender = Sealer::new(&keyring, Suite::Aes128Gcm, Salt(1)).id;
        let mut forged = SealedHeader { sender, counter: 0 }.encode().to_vec();
        forged.extend([0; TAG_BYTES]);
        assert_eq!(open(&mut opener, &keyring, &forged), Err(SealError::Replayed));
    }

    /// What RUSTSEC-2024-0011 was about: the window moved before the tag was checked.
    #[test]
    fn a_forged_datagram_with_a_high_counter_does_not_move_the_window() {
        let keyring = keyring(0, &[]);
        let mut sealer = Sealer::new(&keyring, Suite::Aes128Gcm, SALT);
        let mut opener = Opener::default();
        let first = sealed(&mut sealer);
        open(&mut opener, &keyring, &first).unwrap();
        let mut forged = first.clone();
        forged[13..19].fill(0xff);
        assert_eq!(open(&mut opener, &keyring, &forged), Err(SealError::Forged));
        open(&mut opener, &keyring, &sealed(&mut sealer)).unwrap();
        assert_eq!(open(&mut opener, &keyring, &first), Err(SealError::Replayed));
    }

    #[test]
    fn keys_are_changed_in_three_steps() {
        let [old, both, turned, new] = [(1, &[][..]), (1, &[2][..]), (2, &[1][..]), (2, &[][..])]
            .map(|(sealing, accepted)| keyring(sealing, accepted));
        let mut sealer = Sealer::new(&old, Suite::Aes128Gcm, SALT);
        let mut opener = Opener::default();
        let first = sealed(&mut sealer);
        open(&mut opener, &both, &first).unwrap();
        sealer.use_keyring(&both);
        let second = sealed(&mut sealer);
        open(&mut opener, &turned, &second).unwrap();
        sealer.use_keyring(&turned);
        let third = sealed(&mut sealer);
        assert_eq!(third[5..13], second[5..13], "the salt stays");
        assert_eq!(third[13..19], [3, 0, 0, 0, 0, 0], "and so does the counter");
        let before = open(&mut Opener::default(), &old, &third);
        assert_eq!(before, Err(SealError::NoSuchKey(new.sealing().id())));
        open(&mut opener, &both, &third).unwrap();
        assert_eq!(opener.senders(), 2);

        sealer.use_keyring(&old);
        let late = sealed(&mut sealer);
        let refused = Err(SealError::NoSuchKey(old.sealing().id()));
        assert_eq!(open(&mut opener, &new, &late), refused);
        assert_eq!(open(&mut opener, &new, &first), refused);
        opener.retain_keys(&new);
        assert_eq!(opener.senders(), 1);
        assert_eq!(open(&mut opener, &new, &third), Err(SealError::Replayed));
    }

    #[test]
    fn going_back_to_an_earlier_key_repeats_no_nonce() {
        let [one, other] = [keyring(1, &[]), keyring(2, &[])];
        let mut sealer = Sealer::new(&one, Suite::Aes128Gcm, SALT);
        let first = sealed(&mut sealer);
        sealer.use_keyring(&other);
        sealed(&mut sealer);
        sealer.use_keyring(&one);
        let third = sealed(&mut sealer);
        assert_ne!(first[13..19], third[13..19]);
    }

    #[test]
    fn the_last_counter_is_the_last() {
        let keyring = keyring(0, &[]);
        let mut sealer = Sealer::new(&keyring, Suite::Aes128Gcm, SALT);
        let mut opener = Opener::default();
        for counter in [MAX_COUNTER - 1, MAX_COUNTER] {
            open(&mut opener, &keyring, &sealed_as(&mut sealer, counter)).unwrap();
        }
        for _ in 0..3 {
            let mut out = b"before".to_vec();
            assert_eq!(sealer.seal(PLAIN, CONTEXT, &mut out), Err(Exhausted));
            assert!(out.is_empty());
        }
        sealer.use_keyring(&keyring);
        assert_eq!(sealer.seal(PLAIN, CONTEXT, &mut Vec::new()), Err(Exhausted));
    }

    #[test]
    fn the_number_of_senders_is_bounded() {
        let keyring = keyring(0, &[]);
        let mut opener = Opener::default();
        let from = |opener: &mut Opener, salt: u64, second: u64| {
            let mut datagram = sealed(&mut Sealer::new(&keyring, Suite::Aes128Gcm, Salt(salt)));
            opener.open(&keyring, at(second), CONTEXT, &mut datagram).map(|opened| opened.sender)
        };
        for salt in 0..2 * MOST_NEWCOMERS as u64 {
            from(&mut opener, salt, salt).unwrap();
            assert!(opener.senders() <= MOST_NEWCOMERS);
        }
        // The first half is forgotten, the second is not.
        let last = 2 * MOST_NEWCOMERS as u64 - 1;
        assert_eq!(from(&mut opener, last, last), Err(SealError::Replayed));
        for salt in 10_000..10_000 + MOST_SENDERS as u64 + 10 {
            let sender = from(&mut opener, salt, salt).unwrap();
            opener.confirm(&sender);
            opener.confirm(&sender);
        }
        assert_eq!(opener.senders(), MOST_NEWCOMERS - 1 + MOST_SENDERS);
        // Of the confirmed ones those went that were silent for longest.
        assert_eq!(from(&mut opener, 10_010, 99_999), Err(SealError::Replayed));
        assert!(from(&mut opener, 10_009, 99_999).is_ok());
        opener.retain_keys(&testing::keyring(9, &[]));
        assert_eq!(opener.senders(), 0);
    }

    #[test]
    fn the_sender_that_is_silent_for_longest_is_forgotten_first() {
        let keyring = keyring(0, &[]);
        for (most, are_confirmed) in [(MOST_NEWCOMERS, false), (MOST_SENDERS, true)] {
            let mut opener = Opener::default();
            let mut hear = |sealer: &mut Sealer, second: usize| {
                let mut datagram = sealed(sealer);
                let opened = opener.open(&keyring, at(second as u64), CONTEXT, &mut datagram);
                let sender = opened.unwrap().sender;
                if are_confirmed {
                    opener.confirm(&sender);
                }
                opener.senders()
            };
            let new = |salt: usize| Sealer::new(&keyring, Suite::Aes128Gcm, Salt(salt as u64));
            let mut sealers: Vec<Sealer> = (0..most).map(new).collect();
            for (second, sealer) in sealers.iter_mut().enumerate() {
                hear(sealer, second);
            }
            assert_eq!(hear(&mut sealers[0], most), most);
            assert_eq!(hear(&mut new(most), most + 1), most);
            let mut is_known = |salt: usize| {
                let mut first = sealed(&mut new(salt));
                opener.open(&keyring, at(0), CONTEXT, &mut first) == Err(SealError::Replayed)
            };
            assert!(is_known(0), "it was heard again");
            assert!(is_known(2) && is_known(most));
            assert!(!is_known(1));
        }
    }

    /// A host without the key recorded one datagram of each of many past starts.
    #[test]
    fn recordings_of_past_starts_push_out_no_confirmed_sender() {
        let keyring = keyring(0, &[]);
        let mut opener = Opener::default();
        let mut member = Sealer::new(&keyring, Suite::Aes128Gcm, SALT);
        let genuine = sealed(&mut member);
        let sender = open(&mut opener, &keyring, &genuine).unwrap();
        opener.confirm(&sender);
        for salt in 0..3 * MOST_NEWCOMERS as u64 {
            let mut recorded = sealed(&mut Sealer::new(&keyring, Suite::Aes128Gcm, Salt(salt)));
            opener.open(&keyring, at(1 + salt), CONTEXT, &mut recorded).unwrap();
        }
        assert_eq!(open(&mut opener, &keyring, &genuine), Err(SealError::Replayed));
        open(&mut opener, &keyring, &sealed(&mut member)).unwrap();
        assert_eq!(opener.senders(), MOST_NEWCOMERS + 1);
    }

    /// It opens once more, as it would after a restart of the receiver.
    #[test]
    fn a_recording_of_a_forgotten_sender_makes_a_newcomer() {
        let keyring = keyring(0, &[]);
        let mut opener = Opener::default();
        let recorded = sealed(&mut Sealer::new(&keyring, Suite::Aes128Gcm, SALT));
        open(&mut opener, &keyring, &recorded).unwrap();
        for salt in 0..MOST_NEWCOMERS as u64 {
            let mut other = sealed(&mut Sealer::new(&keyring, Suite::Aes128Gcm, Salt(salt)));
            opener.open(&keyring, at(1), CONTEXT, &mut other).unwrap();
        }
        open(&mut opener, &keyring, &recorded).unwrap();
        assert_eq!(open(&mut opener, &keyring, &recorded), Err(SealError::Replayed));
    }

    #[test]
    fn forged_datagrams_of_unknown_senders_are_not_remembered() {
        let keyring = keyring(0, &[]);
        let mut opener = Opener::default();
        let mut datagram = sealed(&mut Sealer::new(&keyring, Suite::Aes128Gcm, SALT));
        for salt in 0..1000u64 {
            datagram[5..13].copy_from_slice(&salt.to_le_bytes());
            assert_eq!(open(&mut opener, &keyring, &datagram), Err(SealError::Forged));
        }
        assert_eq!(opener.senders(), 0);
    }

    #[test]
    fn every_key_of_a_full_ring_opens() {
        let firsts: Vec<u8> = (0..MAX_CLUSTER_KEYS as u8).collect();
        let keyring = keyring(firsts[0], &firsts[1..]);
        let mut opener = Opener::default();
        for first in firsts {
            let own = testing::keyring(first, &[]);
            let datagram = sealed(&mut Sealer::new(&own, Suite::ChaCha20Poly1305, SALT));
            let sender = open(&mut opener, &keyring, &datagram).unwrap();
            assert_eq!(sender.key, own.sealing().id());
        }
    }
}
