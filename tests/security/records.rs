//! Members that send records which no node sends: without end, empty ones, of one byte, alerts, and
//! changes of keys.

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ring::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::{Connection, ConnectionTrafficSecrets};

use crate::attacker::{LARGEST_BODY, MEMBERS, connect, header, is_closed};
use crate::support::{memory_kib, wait_until};
use crate::tls_attacker::{OwnKey, Session, read_all, welcomed};
use crate::victims::{Victims, assert_no_names, hello_of};

/// The types of records inside TLS.
const ALERT: u8 = 21;
const DATA: u8 = 23;

/// How many bytes of records a flood has at least, if it is not closed.
const FLOOD_BYTES: usize = 8 << 20;

/// How many times the nodes serve while it goes on.
const SERVED: usize = 30;

/// How many connections are flooded one after the other, if each is closed at once.
const CLOSED: usize = 50;

/// What a flood may cost a node while it goes on: the frame that comes in it is not whole after
/// half a MiB, and the allocator keeps some of what it had.
const MOST_MEMORY_KIB: usize = 16 << 10;

/// The sending half of TLS, by the attacker's own hand.
struct Records {
    stream: TcpStream,
    key: LessSafeKey,
    iv: [u8; 12],
    number: u64,
}

impl Records {
    /// Goes on where a session is.
    fn of(session: Session) -> Self {
        let Connection::Client(tls) = session.tls else { panic!("it opened the connection") };
        let (number, secrets) = tls.dangerous_extract_secrets().expect("it is allowed").tx;
        let (algorithm, key, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&aead::AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&aead::AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => {
                (&aead::CHACHA20_POLY1305, key, iv)
            }
            _ => panic!("another suite"),
        };
        let key = LessSafeKey::new(UnboundKey::new(algorithm, key.as_ref()).unwrap());
        Self { stream: session.stream, key, iv: iv.as_ref().try_into().unwrap(), number }
    }

    /// Adds a record of this type with these bytes.
    fn seal(&mut self, kind: u8, plain: &[u8], out: &mut Vec<u8>) {
        let mut nonce = self.iv;
        nonce[4..].iter_mut().zip(self.number.to_be_bytes()).for_each(|(at, byte)| *at ^= byte);
        self.number += 1;
        let mut inner = [plain, &[kind]].concat();
        let length = (inner.len() + 16) as u16;
        let head = [&[DATA, 3, 3][..], &length.to_be_bytes()].concat();
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.key.seal_in_place_append_tag(nonce, Aad::from(&head), &mut inner).unwrap();
        out.extend(head);
        out.extend(inner);
    }

    /// Returns records of one byte each.
    fn one_by_one(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        bytes.iter().for_each(|byte| self.seal(DATA, &[*byte], &mut out));
        out
    }
}

/// A host that has the key of the cluster, and this one of its own.
fn member(victims: &Victims, key: &OwnKey) -> Session {
    welcomed(victims.target(), &victims.keys(), key, &hello_of("x")).0
}

/// Returns the bytes of the longest frame, one after the other.
fn endless_frame() -> impl Iterator<Item = u8> + Send {
    header(MEMBERS, LARGEST_BODY).into_iter().chain(std::iter::repeat(7))
}

/// Writes batches until it is over or the other end closes. The nodes serve all the time.
fn flood(
    victims: &mut Victims,
    what: &str,
    mut stream: TcpStream,
    mut batch: impl FnMut() -> Vec<u8> + Send,
) {
    let memory = memory_kib(&victims.nodes[0]);
    let (is_over, written) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let attacker = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let bytes = batch();
                if stream.write_all(&bytes).is_err() {
                    return;
                }
                written.fetch_add(bytes.len(), Ordering::Relaxed);
            }
        });
        let (mut longest, mut most) = (Duration::ZERO, 0);
        let mut served = 0;
        while served < SERVED
            || written.load(Ordering::Relaxed) < FLOOD_BYTES && !attacker.is_finished()
        {
            let start = Instant::now();
            for node in &mut victims.nodes {
                if node.ask(&format!("set k{served} v")) != "ok" {
                    is_over.store(true, Ordering::Relaxed);
                    panic!("{what}: a node does not serve: {}", node.stderr());
                }
            }
            longest = longest.max(start.elapsed());
            most = most.max(memory_kib(&victims.nodes[0]));
            served += 1;
        }
        is_over.store(true, Ordering::Relaxed);
        let more = most.saturating_sub(memory);
        let sent = written.load(Ordering::Relaxed);
        println!("{what}: {sent} bytes, {more} KiB more, {served} served, the longest {longest:?}");
        assert!(more < MOST_MEMORY_KIB, "{what}: {more} KiB");
    });
}

#[test]
fn records_of_nothing_or_of_one_byte_keep_no_node_from_serving() {
    let (mut victims, key) = (Victims::start(2), OwnKey::new());

    // A frame that never ends, by one byte after thirty empty records: more are a fault of TLS.
    let mut empty = Records::of(member(&victims, &key));
    let stream = empty.stream.try_clone().unwrap();
    let mut bytes = endless_frame();
    flood(&mut victims, "empty records", stream, || {
        let mut out = Vec::new();
        for byte in bytes.by_ref().take(30) {
            (0..30).for_each(|_| empty.seal(DATA, &[], &mut out));
            empty.seal(DATA, &[byte], &mut out);
        }
        out
    });

    let mut single = Records::of(member(&victims, &key));
    let stream = single.stream.try_clone().unwrap();
    let mut bytes = endless_frame();
    flood(&mut victims, "records of one byte", stream, || {
        let piece: Vec<u8> = bytes.by_ref().take(1000).collect();
        single.one_by_one(&piece)
    });

    drop((empty, single));

    // Of empty ones alone the connection is closed.
    for _ in 0..CLOSED {
        let mut records = Records::of(member(&victims, &key));
        let mut out = Vec::new();
        (0..1000).for_each(|_| records.seal(DATA, &[], &mut out));
        // It may be closed already.
        let _ = records.stream.write_all(&out);
        wait_until("it is closed", || is_closed(&mut records.stream));
    }
    victims.assert_again();
}

#[test]
fn changes_of_keys_without_end_keep_no_node_from_serving() {
    let (mut victims, key) = (Victims::start(2), OwnKey::new());

    // With a byte of a frame after each, so that they are not told from those of a node.
    let mut session = member(&victims, &key);
    let stream = session.stream.try_clone().unwrap();
    let mut bytes = endless_frame();
    flood(&mut victims, "changes of keys", stream, || {
        let mut out = Vec::new();
        for byte in bytes.by_ref().take(200) {
            session.tls.refresh_traffic_keys().unwrap();
            session.tls.writer().write_all(&[byte]).unwrap();
            while session.tls.wants_write() {
                session.tls.write_tls(&mut out).unwrap();
            }
        }
        out
    });
    drop(session);

    // Without, it is closed.
    for _ in 0..CLOSED {
        let mut session = member(&victims, &key);
        for _ in 0..100 {
            session.tls.refresh_traffic_keys().unwrap();
            // It may be closed already.
            let _ = session.flush();
        }
        wait_until("it is closed", || is_closed(&mut session.stream));
    }
    victims.assert_again();
}

#[test]
fn alerts_without_end_are_not_listened_to() {
    let victims = Victims::start(2);
    let (keys, key) = (victims.keys(), OwnKey::new());
    // user_canceled, the one warning that TLS 1.3 has, and others.
    for (number, alert) in [[1, 90], [1, 0], [1, 100], [2, 90], [9, 9]].into_iter().enumerate() {
        for _ in 0..CLOSED / 5 {
            let mut records = Records::of(member(&victims, &key));
            let mut out = Vec::new();
            (0..1000).for_each(|_| records.seal(ALERT, &alert, &mut out));
            // It may be closed already.
            let _ = records.stream.write_all(&out);
            wait_until("it is closed", || is_closed(&mut records.stream));
        }
        // Behind a right OPENING, before TLS has begun.
        let plain = [&[ALERT, 3, 3, 0, 2][..], &alert].concat();
        let bytes = [&keys.opening(&key.hash)[..], &plain.repeat(1000)].concat();
        let mut stream = connect(victims.target());
        let _ = stream.write_all(&bytes);
        let answer = read_all(&mut stream);
        assert!(answer.len() < 300, "alert {number}: {} bytes", answer.len());
        assert_no_names("alerts", &answer);
    }
    let lines = victims.nodes[0].stderr().lines().count();
    assert!(lines < 100, "{lines} lines");
    victims.assert_again();
}
