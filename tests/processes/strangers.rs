//! What comes to a node's ports from outside: noise, and nodes of other versions.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};

use crate::support::process::{NodeProcess, cluster};
use crate::support::{Dice, LATE};

#[test]
fn whatever_comes_to_its_ports_a_node_keeps_serving() {
    let mut nodes = cluster(2, &[]);
    nodes[0].ok("set k v");
    let target = nodes[0].address;
    let mut random = Dice(42);
    let noise: Vec<u8> = (0..100_000).map(|_| random.roll(256) as u8).collect();
    let hello_of_another_version = header(1, 64);
    let messages: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        vec![],
        vec![0],
        vec![0; 16],
        vec![0xff; 16],
        header(1, u32::MAX),
        header(2, 1 << 30),
        [header(1, 64), vec![0; 64]].concat(),
        [header(77, 8), vec![7; 8]].concat(),
        hello_of_another_version[..9].to_vec(),
        [hello_of_another_version, vec![0xee; 64]].concat(),
        noise.clone(),
    ];
    for message in &messages {
        let mut stream = TcpStream::connect(target).unwrap();
        // It may hang up before all is written.
        let _ = stream.write_all(message);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        stream.set_read_timeout(Some(LATE)).unwrap();
        let mut answer = Vec::new();
        if let Err(error) = stream.read_to_end(&mut answer) {
            assert_eq!(
                error.kind(),
                std::io::ErrorKind::ConnectionReset,
                "it did not hang up on {message:?}"
            );
        }
        assert!(answer.len() < 4096, "it says little to strangers");
    }
    // Some say nothing, and some go away in the middle.
    let silent: Vec<TcpStream> = (0..50).map(|_| TcpStream::connect(target).unwrap()).collect();
    for mut stream in (0..50).map(|_| TcpStream::connect(target).unwrap()) {
        let _ = stream.write_all(&header(1, 500));
    }
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..2000 {
        let length = random.roll(2000) as usize;
        let from = random.roll((noise.len() - length) as u64) as usize;
        let _ = socket.send_to(&noise[from..from + length], target);
    }
    nodes[0].ok("set k w");
    assert_eq!(nodes[1].ask("get k"), "value w");
    for node in &mut nodes {
        assert_eq!(node.list("members").iter().filter(|line| line.ends_with(" Alive")).count(), 2);
    }
    drop(silent);
    for node in nodes {
        assert!(node.end().success());
    }
}

#[test]
fn a_node_of_another_protocol_version_is_refused_in_clear_words() {
    // A real HELLO, from a node whose seed is this test.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let curious = NodeProcess::start("x", &["--seed", &listener.local_addr().unwrap().to_string()]);
    let (mut stream, _) = listener.accept().unwrap();
    let mut hello = vec![0; 16];
    stream.read_exact(&mut hello).unwrap();
    let length = u32::from_le_bytes(hello[..4].try_into().unwrap()) as usize;
    hello.resize(16 + length.next_multiple_of(16), 0);
    stream.read_exact(&mut hello[16..]).unwrap();
    drop((curious, stream));

    let mut nodes = cluster(2, &[]);
    let target = nodes[0].address;
    // It speaks versions 4 to 4, wherever in the message it says so.
    let places = (16..hello.len() - 4).filter(|&at| hello[at..at + 4] == [4, 0, 4, 0]);
    let refusals = places.filter(|&at| {
        let mut changed = hello.clone();
        changed[at..at + 4].copy_from_slice(&[9, 0, 10, 0]);
        let mut stream = TcpStream::connect(target).unwrap();
        stream.write_all(&changed).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).contains("speaks 9..=10: upgrade one version at a time")
    });
    assert_eq!(refusals.count(), 1);
    nodes[0].ok("set k v");
    assert_eq!(nodes[1].ask("get k"), "value v");
}

/// The header of a frame of this type, for partition zero.
fn header(kind: u8, length: u32) -> Vec<u8> {
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.resize(16, 0);
    bytes[4] = kind;
    bytes
}
