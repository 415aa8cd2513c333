//! An attacker that knows the wire format: it stands here a second time, by hand.
//!
//! ```text
//! 0        4      5       6           8               16
//! │ length │ type │ flags │ partition │ request id    │ body … │ padding to 16 │
//! ```
//!
//! All numbers are little-endian. A HELLO is that of a real node, recorded when it dials this
//! process.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::support::LATE;
use crate::support::process::NodeProcess;

pub(crate) const HELLO: u8 = 1;
pub(crate) const WELCOME: u8 = 2;
pub(crate) const REFUSED: u8 = 3;
pub(crate) const ASK_MEMBERS: u8 = 4;
pub(crate) const MEMBERS: u8 = 5;

/// The largest body after the handshake: 16 MiB of value, 64 KiB of key, and half a MiB.
pub(crate) const LARGEST_BODY: usize = (16 << 20) + 65_535 + (512 << 10);

/// Returns the first 16 bytes of a frame, for partition zero.
pub(crate) fn header(kind: u8, length: usize) -> Vec<u8> {
    let mut bytes = (length as u32).to_le_bytes().to_vec();
    bytes.resize(16, 0);
    bytes[4] = kind;
    bytes
}

/// Returns a frame with this body.
pub(crate) fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = header(kind, body.len());
    bytes.extend_from_slice(body);
    bytes.resize(bytes.len().next_multiple_of(16), 0);
    bytes
}

/// Returns the HELLO of a node of the default cluster that wants a control thread.
pub(crate) fn recorded_hello() -> Vec<u8> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let node = NodeProcess::start("x", &["--seed", &listener.local_addr().unwrap().to_string()]);
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(LATE)).unwrap();
    let (kind, hello) = read_frame(&mut stream).expect("a node says HELLO");
    assert_eq!(kind, HELLO);
    drop(node);
    hello
}

/// Returns the next frame with its type; nothing if the connection has ended.
pub(crate) fn read_frame(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut bytes = vec![0; 16];
    stream.read_exact(&mut bytes).ok()?;
    let length = u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize;
    bytes.resize(16 + length.next_multiple_of(16), 0);
    stream.read_exact(&mut bytes[16..]).ok()?;
    Some((bytes[4], bytes))
}

/// Connects. Reading and writing end after a while, so that a test does.
pub(crate) fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).expect("it listens");
    limit(&stream);
    stream
}

/// Connects from another address of this host.
pub(crate) fn connect_from(from: Ipv4Addr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((from, 0)).into())?;
    socket.connect_timeout(&to.into(), LATE)?;
    let stream = TcpStream::from(socket);
    limit(&stream);
    Ok(stream)
}

fn limit(stream: &TcpStream) {
    stream.set_read_timeout(Some(LATE)).unwrap();
    stream.set_write_timeout(Some(LATE)).unwrap();
}

/// Connects and is welcomed.
pub(crate) fn welcomed(to: SocketAddr, hello: &[u8]) -> TcpStream {
    let mut stream = connect(to);
    stream.write_all(hello).unwrap();
    let (kind, bytes) = read_frame(&mut stream).expect("an answer to HELLO");
    assert_eq!(kind, WELCOME, "{}", String::from_utf8_lossy(&bytes));
    stream
}

/// Writes as much as is taken within some time, and returns how much that is.
pub(crate) fn write_some(stream: &mut TcpStream, bytes: &[u8], patience: Duration) -> usize {
    stream.set_write_timeout(Some(patience)).unwrap();
    let mut written = 0;
    while written < bytes.len() {
        match stream.write(&bytes[written..]) {
            Ok(count) => written += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    written
}

/// Whether the other end has closed. Reads what it sent until then, and does not wait.
pub(crate) fn is_closed(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let mut bytes = [0; 4096];
    let is_closed = loop {
        match stream.read(&mut bytes) {
            Ok(0) => break true,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break false,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => break true,
        }
    };
    stream.set_nonblocking(false).unwrap();
    is_closed
}

/// Whether the connection has ended, as a write shows. What the other end sent stays unread.
pub(crate) fn cannot_write(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let written = stream.write(&[0]);
    stream.set_nonblocking(false).unwrap();
    let goes_on = [ErrorKind::WouldBlock, ErrorKind::Interrupted];
    written.is_err_and(|error| !goes_on.contains(&error.kind()))
}
