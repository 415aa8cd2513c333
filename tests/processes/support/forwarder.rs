//! A forwarder in front of a node, as a proxy, a sidecar or a firewall is, which can swallow.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// The host of the forwarders, and that of the nodes behind them, at the same port.
const FRONT: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
const BEHIND: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);

/// How often a thread that waits for datagrams looks whether it is to end.
const LOOKS_EVERY: Duration = Duration::from_millis(100);

/// Forwards the TCP and UDP of one node, both ways. Dropped, it ends, and all its connections do.
pub(crate) struct Forwarder {
    /// The address at which it listens: what its node advertises.
    pub(crate) front: SocketAddr,
    /// The address at which its node is to listen.
    pub(crate) behind: SocketAddr,
    state: Arc<ForwarderState>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct ForwarderState {
    has_ended: AtomicBool,
    /// How many connections came, which is the number of the next one.
    accepted: AtomicU64,
    /// Connections with smaller numbers than this are read, and nothing of them is passed on.
    swallowed_below: AtomicU64,
    /// Both ends of each connection.
    streams: Mutex<Vec<Arc<TcpStream>>>,
    /// How many bytes were read and not passed on.
    swallowed_bytes: AtomicU64,
}

impl Forwarder {
    pub(crate) fn new() -> Self {
        let (listener, datagrams) = sockets();
        let front = listener.local_addr().expect("it is bound");
        let behind = SocketAddr::from((BEHIND, front.port()));
        let state = Arc::new(ForwarderState::default());
        let (tcp, udp) = (state.clone(), state.clone());
        let threads = vec![
            thread::spawn(move || tcp.forward_connections(&listener, behind)),
            thread::spawn(move || udp.forward_datagrams(&datagrams, behind)),
        ];
        Self { front, behind, state, threads }
    }

    /// From now on what comes over its present connections is acknowledged, as its host does that,
    /// and not passed on; nor is the end of any. New ones work.
    pub(crate) fn swallow(&self) {
        let accepted = self.state.accepted.load(Ordering::SeqCst);
        self.state.swallowed_below.store(accepted, Ordering::SeqCst);
    }

    pub(crate) fn swallowed_bytes(&self) -> u64 {
        self.state.swallowed_bytes.load(Ordering::Relaxed)
    }
}

/// A port that is free for both kinds.
fn sockets() -> (TcpListener, UdpSocket) {
    loop {
        let listener = TcpListener::bind((FRONT, 0)).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        if let Ok(datagrams) = UdpSocket::bind(address) {
            return (listener, datagrams);
        }
    }
}

impl ForwarderState {
    fn forward_connections(self: Arc<Self>, listener: &TcpListener, behind: SocketAddr) {
        for opener in listener.incoming() {
            if self.has_ended.load(Ordering::SeqCst) {
                return;
            }
            let Ok(opener) = opener else { continue };
            // A dial that fails ends the connection of the opener.
            let Ok(node) = TcpStream::connect(behind) else { continue };
            let number = self.accepted.fetch_add(1, Ordering::SeqCst);
            let (opener, node) = (Arc::new(opener), Arc::new(node));
            for (from, to) in [(&opener, &node), (&node, &opener)] {
                from.set_nodelay(true).expect("it is a socket");
                self.streams.lock().unwrap().push(from.clone());
                let (state, from, to) = (self.clone(), from.clone(), to.clone());
                thread::spawn(move || state.copy(number, &from, &to));
            }
        }
    }

    fn copy(&self, number: u64, mut from: &TcpStream, mut to: &TcpStream) {
        let is_swallowed = || number < self.swallowed_below.load(Ordering::SeqCst);
        let mut bytes = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            if is_swallowed() {
                self.swallowed_bytes.fetch_add(count as u64, Ordering::Relaxed);
            } else if to.write_all(&bytes[..count]).is_err() {
                break;
            }
        }
        if !is_swallowed() {
            // It has ended already, perhaps.
            let _ = to.shutdown(Shutdown::Both);
        }
    }

    /// Each sender gets a socket of its own towards the node, whose answers go back to it.
    fn forward_datagrams(self: Arc<Self>, front: &UdpSocket, behind: SocketAddr) {
        front.set_read_timeout(Some(LOOKS_EVERY)).expect("it is a socket");
        let mut ways: BTreeMap<SocketAddr, (UdpSocket, JoinHandle<()>)> = BTreeMap::new();
        let mut bytes = vec![0; 64 << 10];
        while !self.has_ended.load(Ordering::SeqCst) {
            let Ok((count, from)) = front.recv_from(&mut bytes) else { continue };
            let (way, _) = ways.entry(from).or_insert_with(|| {
                let way = UdpSocket::bind((FRONT, 0)).expect("a free port");
                let back = front.try_clone().expect("a descriptor");
                let (state, node) = (self.clone(), way.try_clone().expect("a descriptor"));
                (way, thread::spawn(move || state.send_back(&node, &back, from)))
            });
            // A datagram may get lost.
            let _ = way.send_to(&bytes[..count], behind);
        }
        for (_, (_, thread)) in ways {
            thread.join().expect("it does not fail");
        }
    }

    fn send_back(&self, node: &UdpSocket, front: &UdpSocket, to: SocketAddr) {
        node.set_read_timeout(Some(LOOKS_EVERY)).expect("it is a socket");
        let mut bytes = vec![0; 64 << 10];
        while !self.has_ended.load(Ordering::SeqCst) {
            if let Ok((count, _)) = node.recv_from(&mut bytes) {
                // A datagram may get lost.
                let _ = front.send_to(&bytes[..count], to);
            }
        }
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.state.has_ended.store(true, Ordering::SeqCst);
        for stream in &*self.state.streams.lock().unwrap() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.front);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
