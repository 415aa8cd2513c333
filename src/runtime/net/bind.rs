//! The two sockets of a node: TCP to be connected to, UDP for gossip, on one number.

#![forbid(unsafe_code)]

use std::io;
use std::net::SocketAddr;

use mio::net::{TcpListener, UdpSocket};
use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;

use crate::logging;

/// Connections that may wait to be accepted: a large cluster that reconnects all at once.
const BACKLOG: i32 = 1024;

/// How many bytes of datagrams may wait to be read. A flood that fills them pushes out the answers
/// to this node's probes, which then takes others for dead: more than a few thousand datagrams.
const DATAGRAM_BUFFER_BYTES: usize = 1 << 20;

/// How many numbers are tried when any port will do and UDP's is taken. Each try fails rarely; this
/// many in a row means that no UDP port is free.
const PORT_TRIES: usize = 32;

/// Both sockets, bound and listening.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) listener: TcpListener,
    pub(crate) datagrams: UdpSocket,
    /// The address that was asked for, with the port that was found if that was 0.
    pub(crate) addr: SocketAddr,
}

/// Why a node cannot listen at its address.
#[derive(Debug, Error)]
pub(crate) enum BindError {
    #[error(
        "{addr} is in use: stop what listens there (TCP and UDP are both needed), or choose \
         another port"
    )]
    AddressInUse { addr: SocketAddr },
    #[error(
        "{addr} is not an address of this machine: listen on one of its own, or on 0.0.0.0 or [::]"
    )]
    AddressNotAvailable { addr: SocketAddr },
    #[error(
        "no permission to listen on {addr}: choose a port above 1023, or grant CAP_NET_BIND_SERVICE"
    )]
    PermissionDenied { addr: SocketAddr },
    #[error("cannot listen on {addr}: {source}")]
    Other { addr: SocketAddr, source: io::Error },
}

impl BindError {
    fn new(addr: SocketAddr, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::AddressInUse { addr },
            io::ErrorKind::AddrNotAvailable => Self::AddressNotAvailable { addr },
            io::ErrorKind::PermissionDenied => Self::PermissionDenied { addr },
            _ => Self::Other { addr, source },
        }
    }
}

/// Binds TCP first, then UDP on the same number. Port 0 finds a number that is free for both.
pub(crate) fn bind(addr: SocketAddr) -> Result<Bound, BindError> {
    let mut tries = if addr.port() == 0 { PORT_TRIES } else { 1 };
    loop {
        tries -= 1;
        let (listener, bound) = bind_tcp(addr).map_err(|source| BindError::new(addr, source))?;
        match bind_udp(bound) {
            Ok(datagrams) => return Ok(Bound { listener, datagrams, addr: bound }),
            Err(source) if source.kind() == io::ErrorKind::AddrInUse && tries > 0 => {}
            Err(source) => return Err(BindError::new(bound, source)),
        }
    }
}

fn bind_tcp(addr: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let socket = socket(addr, Type::STREAM, Protocol::TCP)?;
    // A restarted node must not wait for its old connections to time out. (On other systems than
    // Unix the option means that a port can be stolen.)
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from_std(socket.into());
    let bound = listener.local_addr()?;
    Ok((listener, bound))
}

fn bind_udp(addr: SocketAddr) -> io::Result<UdpSocket> {
    let socket = socket(addr, Type::DGRAM, Protocol::UDP)?;
    let asked = socket.set_recv_buffer_size(DATAGRAM_BUFFER_BYTES);
    let given = asked.and_then(|()| socket.recv_buffer_size());
    // The system may allow less, such as net.core.rmem_max of Linux.
    if !given.as_ref().is_ok_and(|bytes| *bytes >= DATAGRAM_BUFFER_BYTES) {
        logging::debug!(
            "asked for {DATAGRAM_BUFFER_BYTES} bytes for datagrams that wait, got {given:?}"
        );
    }
    socket.bind(&addr.into())?;
    Ok(UdpSocket::from_std(socket.into()))
}

fn socket(addr: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    if addr.is_ipv6() && addr.ip().is_unspecified() {
        // `[::]` means every address, IPv4 ones too. Some systems cannot, and listen on IPv6 alone.
        if let Err(error) = socket.set_only_v6(false) {
            logging::debug!("{addr} listens on IPv6 only: {error}");
        }
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_0_finds_one_number_for_both() {
        let bound = bind(([127, 0, 0, 1], 0).into()).unwrap();
        assert_ne!(bound.addr.port(), 0);
        assert_eq!(bound.listener.local_addr().unwrap(), bound.addr);
        assert_eq!(bound.datagrams.local_addr().unwrap(), bound.addr);
    }

    /// The usual size on Linux holds some 270 datagrams.
    #[cfg(target_os = "linux")]
    #[test]
    fn datagrams_get_as_large_a_buffer_as_the_system_allows() {
        let allowed = std::fs::read_to_string("/proc/sys/net/core/rmem_max").unwrap();
        let allowed: usize = allowed.trim().parse().unwrap();
        let bound = bind(([127, 0, 0, 1], 0).into()).unwrap();
        let given = socket2::SockRef::from(&bound.datagrams).recv_buffer_size().unwrap();
        // Linux doubles what is asked for.
        assert_eq!(given, 2 * allowed.min(DATAGRAM_BUFFER_BYTES));
    }

    #[test]
    fn a_taken_port_is_named_whichever_half_is_taken() {
        let bound = bind(([127, 0, 0, 1], 0).into()).unwrap();
        let addr = bound.addr;
        assert!(
            matches!(bind(addr), Err(BindError::AddressInUse { addr: named }) if named == addr)
        );
        drop(bound.listener);
        let error = bind(addr).unwrap_err();
        assert!(matches!(error, BindError::AddressInUse { addr: named } if named == addr));
        assert!(error.to_string().contains(&addr.to_string()));
    }

    #[test]
    fn an_address_of_another_machine_is_named() {
        let addr: SocketAddr = ([192, 0, 2, 1], 0).into();
        let bound = bind(addr);
        let is_named = matches!(
            bound,
            Err(BindError::AddressNotAvailable { addr: named }) if named == addr
        );
        assert!(is_named);
    }
}
