//! Sealed datagrams, as a host hands them to a receiver that can copy, alter, keep and reorder all
//! that was sent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use std::time::Duration;

use super::alter::alter;
use super::input::Input;
use super::nodes::keyring;
use crate::clock::Instant;
use crate::security::keys::{KeyId, Keyring};
use crate::security::seal::{
    Exhausted, Opener, SEALED_HEADER_BYTES, SEALED_OVERHEAD_BYTES, SealError, Sealer,
};
use crate::security::senders::SenderId;
use crate::security::suite::{Salt, Suite};

/// The rings of the steps by which a cluster key is replaced.
static RINGS: LazyLock<[Keyring; 3]> =
    LazyLock::new(|| [keyring(1, &[2]), keyring(2, &[1]), keyring(2, &[])]);

/// The starts of nodes that seal.
const SENDERS: [(Suite, Salt); 4] = [
    (Suite::Aes128Gcm, Salt(1)),
    (Suite::ChaCha20Poly1305, Salt(1)),
    (Suite::Aes128Gcm, Salt(1 << 63)),
    (Suite::ChaCha20Poly1305, Salt(2)),
];

const CONTEXTS: [&[u8]; 3] = [b"", b"a", b"another receiver"];

/// How many datagrams are kept.
const MOST_KEPT: usize = 256;

const MAX_PLAIN_BYTES: usize = 64;

/// How many counters a receiver tells apart, by the documentation of the window.
const WINDOW: u64 = 1024;

/// The last counter: no datagram is sealed after it.
const MAX_COUNTER: u64 = (1 << 48) - 1;

/// Has a receiver open datagrams of four senders: as they are, altered, again, in any order, for
/// other receivers, and while the cluster key is replaced.
///
/// A datagram opens if and only if it is as it was sealed, for this receiver, with a key that is
/// accepted, and has not been opened before. No other changes what opens later.
pub fn sealed(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut run = Run::new();
    while !input.is_empty() {
        run.step(&mut input);
    }
}

/// A datagram as it was sealed.
struct Sent {
    bytes: Vec<u8>,
    sender: SenderId,
    counter: u64,
    context: usize,
    plain: Vec<u8>,
}

/// What a receiver should remember of a sender.
#[derive(Default)]
struct Heard {
    top: u64,
    opened: BTreeSet<u64>,
}

impl Heard {
    fn admits(&self, counter: u64) -> bool {
        counter + WINDOW > self.top && !self.opened.contains(&counter)
    }
}

struct Run {
    now: Instant,
    sealers: Vec<(Sealer, SenderId, u64)>,
    sent: Vec<Sent>,
    opener: Opener,
    ring: usize,
    heard: BTreeMap<SenderId, Heard>,
}

impl Run {
    fn new() -> Self {
        let sealer = |(suite, salt)| {
            let ring = &RINGS[0];
            let id = SenderId { key: ring.sealing().id(), suite, salt };
            (Sealer::new(ring, suite, salt), id, 0)
        };
        Self {
            now: Instant::from_nanos(1),
            sealers: SENDERS.map(sealer).into(),
            sent: Vec::new(),
            opener: Opener::default(),
            ring: 0,
            heard: BTreeMap::new(),
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.below(12) {
            0 | 1 => {
                let (sender, context) = (input.below(4), input.below(3));
                let plain = input.bytes(MAX_PLAIN_BYTES);
                self.seal(sender.into(), context.into(), plain);
            }
            2 | 3 => self.receive_one(input, |_, _, _| {}),
            4 | 5 => self.receive_one(input, alter),
            6 => {
                let bytes = input.bytes(MAX_PLAIN_BYTES + SEALED_OVERHEAD_BYTES);
                self.receive(bytes.to_vec(), 0);
            }
            7 => self.skip(input.below(4).into(), input.u16().into()),
            8 => {
                // A sender goes on with a key of another step, also with an earlier one.
                let (sealer, id, _) = &mut self.sealers[usize::from(input.below(4))];
                let ring = &RINGS[usize::from(input.below(3))];
                sealer.use_keyring(ring);
                id.key = ring.sealing().id();
            }
            9 => self.next_ring(),
            10 => {
                let id = self.sealers[usize::from(input.below(4))].1;
                self.opener.confirm(&id);
            }
            _ => self.now = self.now + Duration::from_millis(input.u16().into()),
        }
    }

    fn seal(&mut self, sender: usize, context: usize, plain: &[u8]) {
        let (sealer, id, counter) = &mut self.sealers[sender];
        let mut bytes = Vec::new();
        let sealed = sealer.seal(plain, CONTEXTS[context], &mut bytes);
        if *counter == MAX_COUNTER {
            return assert!(sealed == Err(Exhausted) && bytes.is_empty(), "a nonce twice");
        }
        sealed.expect("it has counters left");
        *counter += 1;
        assert_eq!(bytes.len(), plain.len() + SEALED_OVERHEAD_BYTES);
        if self.sent.len() < MOST_KEPT {
            let (sender, counter, plain) = (*id, *counter, plain.to_vec());
            self.sent.push(Sent { bytes, sender, counter, context, plain });
        }
    }

    /// A sender sends to others, or up to its last datagrams.
    fn skip(&mut self, sender: usize, count: u64) {
        let (sealer, _, counter) = &mut self.sealers[sender];
        let count = match count {
            0 => MAX_COUNTER - 3 - (*counter).min(MAX_COUNTER - 3),
            count => count,
        };
        sealer.skip(count);
        *counter = MAX_COUNTER.min(*counter + count);
    }

    fn next_ring(&mut self) {
        self.ring = (self.ring + 1).min(RINGS.len() - 1);
        let ring = &RINGS[self.ring];
        self.opener.retain_keys(ring);
        self.heard.retain(|id, _| is_accepted(ring, id.key));
    }

    /// Hands over one of those that were sent, after an edit.
    fn receive_one(
        &mut self,
        input: &mut Input<'_>,
        edit: impl FnOnce(&mut Vec<u8>, &[u8], &mut Input<'_>),
    ) {
        let count = self.sent.len();
        if count == 0 {
            return;
        }
        let [one, other] = [(); 2].map(|()| usize::from(input.byte()) % count);
        // Mostly at the node for which it is.
        let context = match input.below(8) {
            context @ 0..3 => context.into(),
            _ => self.sent[one].context,
        };
        let mut bytes = self.sent[one].bytes.clone();
        edit(&mut bytes, &self.sent[other].bytes, input);
        self.receive(bytes, context);
    }

    fn receive(&mut self, mut bytes: Vec<u8>, context: usize) {
        let ring = &RINGS[self.ring];
        let original = self.sent.iter().find(|sent| sent.bytes == bytes);
        let received = bytes.clone();
        let result = self.opener.open(ring, self.now, CONTEXTS[context], &mut bytes);
        let Some(sent) = original else {
            match result {
                Ok(opened) => {
                    let (sender, plain) = (opened.sender, opened.plain.to_vec());
                    self.is_of_another_run(&received, sender, context, &plain);
                }
                Err(error) => {
                    let text = error.to_string();
                    assert!(text.len() <= 100 && !text.chars().any(char::is_control), "{text:?}");
                }
            }
            return;
        };
        let is_new = self.heard.get(&sent.sender).is_none_or(|heard| heard.admits(sent.counter));
        if !is_accepted(ring, sent.sender.key) {
            assert_eq!(result, Err(SealError::NoSuchKey(sent.sender.key)));
        } else if !is_new {
            assert_eq!(result, Err(SealError::Replayed));
        } else if sent.context != context {
            assert_eq!(result, Err(SealError::Forged));
        } else {
            let opened = result.expect("it is as it was sealed, and new");
            assert_eq!((opened.sender, opened.plain), (sent.sender, &sent.plain[..]));
            let heard = self.heard.entry(sent.sender).or_default();
            heard.opened.insert(sent.counter);
            heard.top = heard.top.max(sent.counter);
        }
    }
}

impl Run {
    /// A datagram has opened that was not sealed in this run. Keys and salts are those of every
    /// run, and the fuzzer remembers what it was shown: a node would have sealed the same.
    fn is_of_another_run(
        &mut self,
        received: &[u8],
        sender: SenderId,
        context: usize,
        plain: &[u8],
    ) {
        let is_it = |ring: &&Keyring| ring.sealing().id() == sender.key;
        let ring = RINGS.iter().find(is_it).expect("a key that seals");
        let mut counter = [0; 8];
        counter[..6].copy_from_slice(&received[13..SEALED_HEADER_BYTES]);
        let counter = u64::from_le_bytes(counter);
        let mut sealer = Sealer::new(ring, sender.suite, sender.salt);
        sealer.skip(counter - 1);
        let mut sealed = Vec::new();
        sealer.seal(plain, CONTEXTS[context], &mut sealed).expect("it has counters left");
        assert_eq!(sealed, received, "no node sealed it");
        let heard = self.heard.entry(sender).or_default();
        assert!(heard.admits(counter), "it was opened before");
        heard.opened.insert(counter);
        heard.top = heard.top.max(counter);
    }
}

fn is_accepted(ring: &Keyring, key: KeyId) -> bool {
    ring.by_id(key).is_some()
}
