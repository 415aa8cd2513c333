//! Gossip's datagrams: received up to a budget, sent at best effort.
//!
//! SWIM expects to lose some, so nothing here is retried or queued.

#![forbid(unsafe_code)]

use std::io;
use std::net::{IpAddr, SocketAddr};

use mio::net::UdpSocket;

use crate::logging;

/// Gossip keeps its packets below the smallest common MTU; a longer datagram is cut here, does not
/// decode, and is dropped.
const DATAGRAM_BYTES: usize = 2 << 10;

/// What happened to datagrams so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct DatagramCounters {
    pub(crate) received: u64,
    pub(crate) sent: u64,
    /// Not sent: the socket's buffer was full, or the system refused.
    pub(crate) dropped: u64,
}

/// A UDP socket and what edge-triggered polling needs to remember about it.
#[derive(Debug)]
pub(crate) struct Datagrams {
    socket: UdpSocket,
    /// An IPv6 socket reaches IPv4 addresses in their mapped form only.
    is_v6: bool,
    /// A budget ended the last [`receive`](Self::receive): the poll will not report what is left.
    stopped: bool,
    counters: DatagramCounters,
}

impl Datagrams {
    pub(crate) fn new(socket: UdpSocket) -> io::Result<Self> {
        let is_v6 = socket.local_addr()?.is_ipv6();
        Ok(Self { socket, is_v6, stopped: false, counters: DatagramCounters::default() })
    }

    /// Returns the socket, to register it with a poll. For readability alone, since sending never
    /// waits.
    pub(crate) fn source(&mut self) -> &mut UdpSocket {
        &mut self.socket
    }

    /// Receives until none is left or `budget` datagrams came. Returns whether some may be left:
    /// then call again before waiting for the poll.
    pub(crate) fn receive(
        &mut self,
        budget: usize,
        mut each: impl FnMut(SocketAddr, &mut [u8]),
    ) -> bool {
        let mut buffer = [0; DATAGRAM_BYTES];
        // Errors count too: a socket that reports one each time must not hold the thread.
        for _ in 0..budget {
            match self.socket.recv_from(&mut buffer) {
                Ok((count, from)) => {
                    self.counters.received += 1;
                    let from = SocketAddr::new(from.ip().to_canonical(), from.port());
                    each(from, &mut buffer[..count]);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.stopped = false;
                    return false;
                }
                // An earlier datagram met a closed port, and the answer to it surfaces here.
                Err(error) => logging::debug!("receiving a datagram: {error}"),
            }
        }
        self.stopped = true;
        true
    }

    /// Sends now or not at all.
    pub(crate) fn send_to(&mut self, bytes: &[u8], to: SocketAddr) {
        let reachable = match to.ip() {
            IpAddr::V4(ip) if self.is_v6 => SocketAddr::new(ip.to_ipv6_mapped().into(), to.port()),
            _ => to,
        };
        // The second try is for an error that an earlier datagram left behind.
        let sent = match self.socket.send_to(bytes, reachable) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                self.socket.send_to(bytes, reachable)
            }
            first => first,
        };
        match sent {
            Ok(_) => self.counters.sent += 1,
            Err(error) => {
                self.counters.dropped += 1;
                logging::debug!("a datagram to {to} was not sent: {error}");
            }
        }
    }

    pub(crate) fn counters(&self) -> DatagramCounters {
        self.counters
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mio::{Events, Interest, Poll, Token};

    use super::*;
    use crate::runtime::net::bind::bind;

    fn datagrams(addr: &str) -> (Datagrams, SocketAddr) {
        let bound = bind(addr.parse().unwrap()).unwrap();
        (Datagrams::new(bound.datagrams).unwrap(), bound.addr)
    }

    fn receive_all(to: &mut Datagrams, budget: usize, wanted: usize) -> Vec<(SocketAddr, Vec<u8>)> {
        let mut poll = Poll::new().unwrap();
        poll.registry().register(to.source(), Token(0), Interest::READABLE).unwrap();
        let mut events = Events::with_capacity(4);
        let mut got = Vec::new();
        for _ in 0..1000 {
            to.receive(budget, |from, bytes| got.push((from, bytes.to_vec())));
            if got.len() >= wanted {
                break;
            }
            let wait = if to.stopped { Duration::ZERO } else { Duration::from_millis(50) };
            poll.poll(&mut events, Some(wait)).unwrap();
        }
        got
    }

    #[test]
    fn a_budget_stops_receiving_and_is_remembered() {
        let (mut a, from) = datagrams("127.0.0.1:0");
        let (mut b, to) = datagrams("127.0.0.1:0");
        for number in 0..10u8 {
            a.send_to(&[number; 9], to);
        }
        let mut got = Vec::new();
        assert!(b.receive(4, |_, bytes| got.push(bytes[0])));
        assert!(b.stopped);
        assert_eq!(got, [0, 1, 2, 3]);
        let rest = receive_all(&mut b, 4, 6);
        assert_eq!(rest.iter().map(|(_, bytes)| bytes[0]).collect::<Vec<_>>(), [4, 5, 6, 7, 8, 9]);
        assert!(rest.iter().all(|(sender, _)| *sender == from));
        assert!(!b.receive(4, |_, _| panic!("nothing is left")) && !b.stopped);
        assert_eq!((a.counters().sent, b.counters().received), (10, 10));
    }

    #[test]
    fn a_datagram_to_a_closed_port_disturbs_nothing_after_it() {
        let (mut a, _) = datagrams("127.0.0.1:0");
        let (gone, closed) = datagrams("127.0.0.1:0");
        drop(gone);
        let (mut b, to) = datagrams("127.0.0.1:0");
        for _ in 0..3 {
            a.send_to(b"lost", closed);
            a.send_to(b"kept", to);
        }
        assert_eq!(receive_all(&mut b, 8, 3).len(), 3);
        assert!(!a.receive(8, |_, _| panic!("nobody answered")));
    }

    #[test]
    fn a_dual_stack_socket_talks_to_ipv4_and_names_it_so() {
        // Machines without IPv6 have nothing to test here.
        let Ok(bound) = bind("[::]:0".parse().unwrap()) else { return };
        let mut dual = Datagrams::new(bound.datagrams).unwrap();
        let (mut v4, addr) = datagrams("127.0.0.1:0");
        dual.send_to(b"hello", addr);
        assert_eq!(receive_all(&mut v4, 8, 1)[0].1, b"hello");
        v4.send_to(b"back", ([127, 0, 0, 1], bound.addr.port()).into());
        assert_eq!(receive_all(&mut dual, 8, 1), [(addr, b"back".to_vec())]);
    }
}
