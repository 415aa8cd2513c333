//! Hosts that stand before nodes, pass all on, and keep a copy.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::datagrams::host;

/// The host of the nodes behind taps, which are in front at the same port.
const BEHIND: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);

/// How often a thread that waits looks whether it is to end.
const LOOKS_EVERY: Duration = Duration::from_millis(20);

/// Stands before a node, passes all on, and keeps a copy. Dropped, it ends.
pub(crate) struct Tap {
    pub(crate) front: SocketAddr,
    copy: Arc<Copy>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Copy {
    has_ended: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
    /// Each direction of each connection.
    connections: Mutex<Vec<Arc<Mutex<Vec<u8>>>>>,
    datagrams: Mutex<Vec<Vec<u8>>>,
}

impl Tap {
    pub(crate) fn new() -> Self {
        let (udp, tcp) = host();
        let front = udp.local_addr().unwrap();
        let behind = SocketAddr::from((BEHIND, front.port()));
        let copy = Arc::new(Copy::default());
        let (of_tcp, of_udp) = (copy.clone(), copy.clone());
        let threads = vec![
            thread::spawn(move || of_tcp.connections(&tcp, behind)),
            thread::spawn(move || of_udp.datagrams(&udp, behind)),
        ];
        Self { front, copy, threads }
    }

    /// Returns the flags of the node behind it.
    pub(crate) fn flags(&self) -> [String; 4] {
        let behind = SocketAddr::from((BEHIND, self.front.port()));
        ["--address".into(), behind.to_string(), "--advertise".into(), self.front.to_string()]
    }

    /// Returns what has passed so far: each connection's direction, and each datagram.
    pub(crate) fn passed(&self) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        let connections = self.copy.connections.lock().unwrap();
        let connections = connections.iter().map(|bytes| bytes.lock().unwrap().clone()).collect();
        (connections, self.copy.datagrams.lock().unwrap().clone())
    }
}

impl Copy {
    fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Relaxed)
    }

    fn connections(self: Arc<Self>, tcp: &TcpListener, behind: SocketAddr) {
        while !self.has_ended() {
            let Ok((opener, _)) = tcp.accept() else {
                thread::sleep(LOOKS_EVERY);
                continue;
            };
            opener.set_nonblocking(false).unwrap();
            let Ok(node) = TcpStream::connect(behind) else { continue };
            for (from, to) in [(&opener, &node), (&node, &opener)] {
                from.set_nodelay(true).unwrap();
                let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                self.streams.lock().unwrap().push(from.try_clone().unwrap());
                let bytes = Arc::new(Mutex::new(Vec::new()));
                self.connections.lock().unwrap().push(bytes.clone());
                thread::spawn(move || pass_on(from, to, &bytes));
            }
        }
    }

    /// Each sender gets a socket of its own towards the node, whose answers go back to it.
    fn datagrams(&self, front: &UdpSocket, behind: SocketAddr) {
        front.set_read_timeout(Some(LOOKS_EVERY)).unwrap();
        let mut ways: BTreeMap<SocketAddr, UdpSocket> = BTreeMap::new();
        let mut bytes = [0; 2048];
        while !self.has_ended() {
            if let Ok((count, from)) = front.recv_from(&mut bytes) {
                let way = ways.entry(from).or_insert_with(|| {
                    let way = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
                    way.set_nonblocking(true).unwrap();
                    way
                });
                self.pass_datagram(way, behind, &bytes[..count]);
            }
            for (from, way) in &ways {
                while let Ok((count, _)) = way.recv_from(&mut bytes) {
                    self.pass_datagram(front, *from, &bytes[..count]);
                }
            }
        }
    }

    fn pass_datagram(&self, by: &UdpSocket, to: SocketAddr, bytes: &[u8]) {
        self.datagrams.lock().unwrap().push(bytes.to_vec());
        // A datagram may get lost.
        let _ = by.send_to(bytes, to);
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, copy: &Mutex<Vec<u8>>) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        copy.lock().unwrap().extend(&bytes[..count]);
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    // It has ended already, perhaps.
    let _ = to.shutdown(Shutdown::Both);
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.copy.has_ended.store(true, Ordering::Relaxed);
        for stream in &*self.copy.streams.lock().unwrap() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
