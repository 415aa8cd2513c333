//! Two ends in memory, or over a socket; honest ones, odd ones and hostile ones.

mod bench;
mod certificates;
mod hostile;
mod memory;
mod pipe;
mod socket;

use proptest::prelude::*;
use ring::rand::SystemRandom;
use ring::signature::Ed25519KeyPair;

use self::pipe::{Cuts, End, Pipe, TURNS};
use super::limits::WIRE_RECORD_BYTES;
use super::*;
use crate::security::identity::PublicKey;
use crate::types::Partition;
use crate::wire::frame::{Encoded, begin, finish};

pub(super) fn pkcs8() -> Vec<u8> {
    Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap().as_ref().to_vec()
}

fn settings() -> TlsSettings {
    TlsSettings::with_raw_key(&pkcs8()).unwrap()
}

/// A frame whose body tells its number and length.
fn frame(number: usize, length: usize) -> Encoded {
    let mut bytes = begin();
    bytes.extend_from_slice(&body(number, length));
    finish(bytes, 3, Partition::new(7).unwrap(), number as u64)
}

fn body(number: usize, length: usize) -> Vec<u8> {
    (0..length).map(|byte| (byte * 31 + number * 7) as u8).collect()
}

/// Two ends of new keys, in this process' memory.
fn ends(cuts: Cuts) -> (End, End) {
    let (here, there) = Pipe::pair(cuts);
    let client = End::new(Tls::client(&settings()).unwrap(), here);
    (client, End::new(Tls::server(&settings()).unwrap(), there))
}

/// A client that makes records of up to 16 KiB.
fn of_large_records() -> Box<Tls> {
    let mut config = (*settings().client()).clone();
    config.max_fragment_size = None;
    let no_name = ServerName::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    Tls::begin(Kind::RawKey, ClientConnection::new(config.into(), no_name).map(Into::into)).unwrap()
}

/// Two ends that have shaken hands.
fn established() -> (End, End) {
    let (mut client, mut server) = ends(Cuts::default());
    shake_hands(&mut client, &mut server);
    (client, server)
}

fn shake_hands(client: &mut End, server: &mut End) {
    for _ in 0..TURNS {
        client.turn();
        server.turn();
        if !client.tls.is_handshaking() && !server.tls.is_handshaking() {
            return;
        }
    }
    panic!("no end of the handshake: {client:?}, {server:?}");
}

/// Goes on until neither end can: both have ended, or wait for what does not come.
fn run(client: &mut End, server: &mut End) {
    for _ in 0..TURNS {
        if client.turn() + server.turn() == 0 {
            return;
        }
    }
    panic!("they go on for ever: {client:?}, {server:?}");
}

fn failure(end: &End) -> TlsError {
    match end.tls.ending() {
        Some(Ending::Failed(error)) => error.clone(),
        other => panic!("it did not fail: {other:?}"),
    }
}

#[test]
fn both_ends_learn_the_other_key_and_the_same_secret_which_no_other_session_has() {
    let (one, other) = (settings(), settings());
    let mut secrets = Vec::new();
    for _ in 0..2 {
        let (here, there) = Pipe::pair(Cuts::default());
        let mut client = End::new(Tls::client(&one).unwrap(), here);
        let mut server = End::new(Tls::server(&other).unwrap(), there);
        assert_eq!(client.tls.exporter(), Err(TlsError::NotEstablished));
        assert_eq!(client.tls.peer(), None);
        shake_hands(&mut client, &mut server);
        for (end, settings) in [(&client, &other), (&server, &one)] {
            let peer = end.tls.peer().unwrap();
            assert_eq!(peer.hash, settings.hash());
            let key = PublicKey(peer.raw_key.unwrap());
            assert_eq!(CertificateHash::of(&key.spki()), settings.hash());
            assert_eq!((peer.fingerprint, end.tls.certificate()), (key.fingerprint(), None));
        }
        let secret = client.tls.exporter().unwrap();
        assert_eq!(Ok(secret), server.tls.exporter());
        secrets.push(secret);
    }
    assert_ne!(secrets[0], secrets[1]);
    assert!(!secrets.contains(&[0; 32]));
}

#[test]
fn no_session_is_resumed_and_no_ticket_is_sent() {
    let (one, other) = (settings(), settings());
    for _ in 0..2 {
        let (here, there) = Pipe::pair(Cuts::default());
        let mut client = End::new(Tls::client(&one).unwrap(), here);
        let mut server = End::new(Tls::server(&other).unwrap(), there);
        shake_hands(&mut client, &mut server);
        run(&mut client, &mut server);
        for end in [&client, &server] {
            let session = &end.tls.session;
            assert_eq!(session.handshake_kind(), Some(rustls::HandshakeKind::Full));
            assert_eq!(session.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
            assert_eq!(session.alpn_protocol(), Some(ALPN));
        }
        let rustls::Connection::Client(session) = &client.tls.session else { panic!() };
        assert_eq!(session.tls13_tickets_received(), 0);
    }
}

#[test]
fn settings_are_shared_and_sessions_move_between_threads() {
    fn is_send<T: Send>() {}
    fn is_sync<T: Sync>() {}
    is_send::<Box<Tls>>();
    is_send::<TlsSettings>();
    is_sync::<TlsSettings>();
    let settings = settings();
    assert_eq!(settings.clone().hash(), settings.hash());
    assert_eq!(format!("{settings:?}"), "TlsSettings { .. }");
}

#[test]
fn only_an_ed25519_key_makes_settings() {
    let good = pkcs8();
    for bad in [&[] as &[u8], &good[1..], &good[..good.len() - 1], &[0; 85]] {
        let error = TlsSettings::with_raw_key(bad).unwrap_err();
        assert!(matches!(error, TlsError::PrivateKey(_)), "{error}");
    }
    let spki = |bytes: &[u8]| ed25519_key(bytes).is_some();
    let mut key = [7; 44];
    key[..12].copy_from_slice(&[0x30, 42, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0]);
    assert!(spki(&key) && !spki(&key[..43]) && !spki(&[&key[..], &[0]].concat()));
    key[8] = 0x71;
    assert!(!spki(&key));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn frames_arrive_identical_and_aligned_whatever_the_cuts(
        to_server in prop::collection::vec(prop_oneof![0usize..300, 0usize..200_000], 0..8),
        to_client in prop::collection::vec(prop_oneof![0usize..300, 0usize..200_000], 0..8),
        cuts in any::<[u8; 6]>(),
    ) {
        let (mut client, mut server) = ends(Cuts::of(cuts));
        for (number, length) in to_server.iter().enumerate() {
            client.queue.push(frame(number, *length));
        }
        for (number, length) in to_client.iter().enumerate() {
            server.queue.push(frame(number, *length));
        }
        run(&mut client, &mut server);
        for (end, sent) in [(&client, &to_client), (&server, &to_server)] {
            prop_assert_eq!(&end.lengths, sent, "{:?}", end);
            prop_assert!(end.queue.is_empty() && end.tls.waiting_bytes() == 0);
            prop_assert_eq!(end.tls.ending(), None);
        }
    }

    #[test]
    fn one_byte_at_a_time_works(lengths in prop::collection::vec(0usize..3000, 1..6)) {
        let (mut client, mut server) = ends(Cuts::one_byte());
        for (number, length) in lengths.iter().enumerate() {
            client.queue.push(frame(number, *length));
        }
        run(&mut client, &mut server);
        prop_assert_eq!(&server.lengths, &lengths);
    }
}

/// PROOF, HELLO and requests come in one segment with the end of the handshake.
#[test]
fn frames_right_behind_the_handshake_are_read_with_it() {
    let (mut client, mut server) = ends(Cuts::default());
    for number in 0..5 {
        client.queue.push(frame(number, 300));
    }
    client.flush();
    assert_eq!(server.fill(1 << 20).1, Filled::Stopped, "one step at a time");
    server.flush();
    client.fill(1 << 20);
    assert!(!client.tls.is_handshaking() && server.tls.is_handshaking());
    assert!(client.tls.wants_write(), "the caller must know that it has to flush");
    client.flush();
    server.fill(1 << 20);
    assert!(!server.tls.is_handshaking());
    server.take_frames();
    assert_eq!(server.lengths, [300; 5]);
}

/// More came with the end of the handshake than the small buffer of a stranger holds.
#[test]
fn what_does_not_fit_into_the_frame_buffer_waits_and_is_not_forgotten() {
    let (mut client, mut server) = ends(Cuts::default());
    server.frames = FrameBuffer::new();
    for number in 0..20 {
        client.queue.push(frame(number, 600));
    }
    client.turn();
    server.turn();
    client.turn();
    let mut fills = 0;
    loop {
        let (_, filled) = server.fill(1 << 20);
        server.take_frames();
        fills += 1;
        if filled == Filled::Drained {
            break;
        }
        assert_eq!(filled, Filled::Stopped);
        assert!(fills < 20);
    }
    assert!(fills > 2, "some had to wait");
    assert_eq!(server.lengths, [600; 20]);
}

#[test]
fn a_budget_is_of_the_wire_and_stops_reading() {
    let (mut client, mut server) = established();
    client.queue.push(frame(0, 100_000));
    client.flush();
    let (count, filled) = server.fill(5000);
    assert_eq!((count, filled), (5000, Filled::Stopped));
    assert_eq!(server.fill(0), (0, Filled::Stopped));
    run(&mut client, &mut server);
    assert_eq!(server.lengths, [100_000]);
}

#[test]
fn at_most_64_kib_are_sealed_and_the_rest_stays_frames() {
    let (mut client, mut server) = established();
    client.pipe.capacity(0);
    for number in 0..100 {
        client.queue.push(frame(number, 50_000));
    }
    let queued = client.queue.cost_bytes();
    for _ in 0..3 {
        client.flush();
    }
    assert_eq!(client.tls.waiting_bytes(), RECORDS_AT_ONCE * WIRE_RECORD_BYTES);
    assert_eq!(RECORDS_AT_ONCE * WIRE_RECORD_BYTES, 64 << 10);
    assert!(queued - client.queue.cost_bytes() <= 64 << 10);
    client.pipe.capacity(1 << 16);
    run(&mut client, &mut server);
    assert_eq!(server.lengths, [50_000; 100]);
    assert_eq!(client.tls.waiting_bytes(), 0);
}

#[test]
fn full_records_take_4096_bytes_of_the_wire() {
    let (mut client, mut server) = established();
    run(&mut client, &mut server);
    for number in 0..64 {
        client.queue.push(frame(number, 192));
    }
    client.flush();
    let wire = server.pipe.waiting();
    let mut records = Vec::new();
    let mut at = 0;
    while at < wire.len() {
        let length = 5 + usize::from(u16::from_be_bytes([wire[at + 3], wire[at + 4]]));
        records.push(length);
        at += length;
    }
    let (last, full) = records.split_last().unwrap();
    assert!(full.iter().all(|length| *length == WIRE_RECORD_BYTES), "{records:?}");
    assert_eq!(records.len(), (64 * 208usize).div_ceil(RECORD_BYTES));
    assert_eq!(*last, 64 * 208 % RECORD_BYTES + RECORD_OVERHEAD_BYTES);
}

#[test]
fn what_came_before_a_close_is_given_out_and_what_comes_after_is_not() {
    let (mut client, mut server) = established();
    for number in 0..3 {
        client.queue.push(frame(number, 70_000));
    }
    client.flush();
    client.tls.close();
    client.tls.close();
    client.queue.push(frame(9, 10));
    client.turn();
    assert!(!client.queue.is_empty(), "nothing is sent after a close");
    server.pipe.inject(&[0x17, 3, 3, 0, 5, 1, 2, 3, 4, 5]);
    server.pipe.inject(&[7; 100_000]);
    run(&mut client, &mut server);
    assert_eq!(server.lengths, [70_000; 3]);
    assert_eq!(server.tls.ending(), Some(&Ending::Closed));
    assert_eq!(server.ended, Some(io::ErrorKind::UnexpectedEof));
    assert_eq!(server.fill(1000), (0, Filled::Ended(io::ErrorKind::UnexpectedEof)));
}

/// rustls takes nothing after a close_notify: feeding it the rest of a read went on for ever.
#[test]
fn what_is_read_together_with_a_close_is_forgotten() {
    let (mut client, mut server) = established();
    run(&mut client, &mut server);
    client.tls.close();
    client.flush();
    server.pipe.inject(&[7; 20_000]);
    let length = server.pipe.waiting().len();
    assert_eq!(server.fill(1 << 20), (length, Filled::Ended(io::ErrorKind::UnexpectedEof)));
    assert_eq!(server.tls.ending(), Some(&Ending::Closed));
}

/// rustls asserts that no alert follows another one: debug builds panicked when garbage came after
/// this end had closed.
#[test]
fn what_comes_after_this_end_has_closed_is_forgotten() {
    let (mut client, mut server) = established();
    server.queue.push(frame(1, 5000));
    server.flush();
    client.tls.close();
    client.flush();
    client.pipe.inject(&[0xff; 50_000]);
    for _ in 0..TURNS {
        if client.fill(1000) == (0, Filled::Drained) {
            break;
        }
    }
    assert_eq!(client.tls.ending(), None);
    client.take_frames();
    assert!(client.lengths.is_empty());
    client.pipe.cut();
    assert_eq!(client.fill(1000), (0, Filled::Ended(io::ErrorKind::UnexpectedEof)));
}

#[test]
fn the_end_of_the_stream_without_a_close_is_told_apart() {
    for missing in [0, 1, 500, 4096, 4097] {
        let (mut client, mut server) = established();
        run(&mut client, &mut server);
        client.queue.push(frame(0, 10_000));
        client.queue.push(frame(1, 10_000));
        client.flush();
        server.pipe.truncate(missing);
        server.pipe.cut();
        run(&mut client, &mut server);
        assert_eq!(server.tls.ending(), Some(&Ending::CutOff));
        assert_eq!(server.ended, Some(io::ErrorKind::UnexpectedEof));
        let whole = if missing == 0 { 2 } else { 1 };
        assert_eq!(server.lengths.len(), whole, "{missing}");
        assert_eq!(server.frames.is_in_frame(), missing > 0);
    }
}
