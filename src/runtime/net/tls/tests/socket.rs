//! Over loopback, with an edge-triggered poll: who says that nothing is left must not be wrong.

use std::io::ErrorKind;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use super::*;

/// One end of a TCP connection, as the net has it.
struct Side {
    stream: TcpStream,
    tls: Box<Tls>,
    frames: FrameBuffer,
    queue: Queue,
    /// It is to be read, and the poll will not say so.
    is_unread: bool,
    lengths: Vec<usize>,
    ended: Option<ErrorKind>,
}

impl Side {
    fn new(poll: &Poll, token: usize, mut stream: TcpStream, tls: Box<Tls>) -> Self {
        let interest = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(&mut stream, Token(token), interest).unwrap();
        let mut frames = FrameBuffer::new();
        frames.raise_limit();
        let (queue, lengths) = Default::default();
        Self { stream, tls, frames, queue, is_unread: true, lengths, ended: None }
    }

    fn turn(&mut self, scratch: &mut [u8]) {
        self.tls.flush(&mut self.stream, &mut self.queue).unwrap();
        if !std::mem::take(&mut self.is_unread) || self.ended.is_some() {
            return;
        }
        let mut budget = 64 << 10;
        loop {
            while let Some((header, bytes)) = self.frames.next().unwrap() {
                assert!(bytes == body(header.request_id as usize, header.body_bytes));
                self.lengths.push(header.body_bytes);
            }
            self.frames.shrink();
            let (count, filled) =
                self.tls.fill(&mut self.stream, scratch, &mut self.frames, budget);
            budget -= count;
            match filled {
                Filled::Drained => break,
                Filled::Ended(kind) => {
                    self.ended = Some(kind);
                    break;
                }
                Filled::Stopped => {
                    if budget == 0 || self.tls.wants_write() {
                        self.is_unread = true;
                        break;
                    }
                }
            }
        }
        while let Some((header, _)) = self.frames.next().unwrap() {
            self.lengths.push(header.body_bytes);
        }
        self.tls.flush(&mut self.stream, &mut self.queue).unwrap();
    }
}

#[test]
fn frames_pass_over_tcp_both_ways_and_the_poll_is_never_missed() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let here = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (there, _) = listener.accept().unwrap();
    here.set_nonblocking(true).unwrap();
    there.set_nonblocking(true).unwrap();
    let mut poll = Poll::new().unwrap();
    let client = Tls::client(&settings()).unwrap();
    let server = Tls::server(&settings()).unwrap();
    let mut sides = [
        Side::new(&poll, 0, TcpStream::from_std(here), client),
        Side::new(&poll, 1, TcpStream::from_std(there), server),
    ];
    let lengths: Vec<usize> = (0..300).map(|number| number * number * 7 % 200_000).collect();
    for side in &mut sides {
        for (number, length) in lengths.iter().enumerate() {
            side.queue.push(frame(number, *length));
        }
    }
    let mut scratch = vec![0; 64 << 10];
    let mut events = Events::with_capacity(8);
    let mut is_closed = false;
    for _ in 0..TURNS {
        for side in &mut sides {
            side.turn(&mut scratch);
        }
        if sides.iter().all(|side| side.lengths.len() == lengths.len()) && !is_closed {
            is_closed = true;
            sides[0].tls.close();
            continue;
        }
        if sides[1].ended.is_some() {
            break;
        }
        let is_owed = sides.iter().any(|side| side.is_unread);
        let timeout = Duration::from_secs(if is_owed { 0 } else { 20 });
        poll.poll(&mut events, Some(timeout)).unwrap();
        assert!(is_owed || !events.is_empty(), "an end waits for what it has");
        for event in &events {
            sides[event.token().0].is_unread = true;
        }
    }
    assert!(sides.iter().all(|side| side.lengths == lengths));
    assert_eq!(sides[1].tls.ending(), Some(&Ending::Closed));
}
