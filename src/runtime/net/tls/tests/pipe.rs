//! A stream in memory that takes and gives as little as it likes, and an end with its session.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::rc::Rc;

use super::super::{Filled, Tls};
use super::body;
use crate::runtime::net::queue::Queue;
use crate::wire::frame::FrameBuffer;

/// Far more turns than any test needs: who takes them all goes on for ever.
pub(super) const TURNS: usize = 400_000;

/// How much a read or a write moves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cuts {
    most_read: usize,
    most_written: usize,
    capacity: usize,
    scratch: usize,
    budget: usize,
    /// The state of what decides each cut; zero if all are as long as may be.
    chance: u64,
}

impl Default for Cuts {
    fn default() -> Self {
        Self {
            most_read: 1 << 20,
            most_written: 1 << 20,
            capacity: 1 << 20,
            scratch: 64 << 10,
            budget: 64 << 10,
            chance: 0,
        }
    }
}

impl Cuts {
    pub(super) fn of(bytes: [u8; 6]) -> Self {
        let power = |byte: u8, most: u32| 1 << (u32::from(byte) % (most + 1));
        Self {
            most_read: 16 * power(bytes[0], 12),
            most_written: 16 * power(bytes[1], 12),
            capacity: 64 * power(bytes[2], 11),
            scratch: 16 * power(bytes[3], 12),
            budget: 16 * power(bytes[4], 14),
            chance: u64::from(bytes[5]) + 1,
        }
    }

    pub(super) fn one_byte() -> Self {
        Self { most_read: 1, most_written: 1, ..Self::default() }
    }

    fn cut(&mut self, most: usize) -> usize {
        if self.chance == 0 {
            return most;
        }
        self.chance = self.chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        1 + (self.chance >> 33) as usize % most
    }
}

#[derive(Default)]
struct Way {
    bytes: VecDeque<u8>,
    is_cut: bool,
}

/// One end of two ways.
pub(super) struct Pipe {
    cuts: Cuts,
    inbound: Rc<RefCell<Way>>,
    outbound: Rc<RefCell<Way>>,
    /// Bytes moved, by either of both calls.
    pub(super) moved: usize,
}

impl Pipe {
    pub(super) fn pair(cuts: Cuts) -> (Self, Self) {
        let ways = [Rc::<RefCell<Way>>::default(), Rc::default()];
        let [one, other] = [&ways[0], &ways[1]];
        let end = |inbound: &Rc<RefCell<Way>>, outbound: &Rc<RefCell<Way>>| Self {
            cuts,
            inbound: inbound.clone(),
            outbound: outbound.clone(),
            moved: 0,
        };
        (end(one, other), end(other, one))
    }

    /// Lets this many bytes wait on the way out.
    pub(super) fn capacity(&mut self, capacity: usize) {
        self.cuts.capacity = capacity;
    }

    /// Puts bytes behind those that wait to be read here.
    pub(super) fn inject(&self, bytes: &[u8]) {
        self.inbound.borrow_mut().bytes.extend(bytes);
    }

    /// Drops the last bytes that wait to be read here.
    pub(super) fn truncate(&self, count: usize) {
        let mut way = self.inbound.borrow_mut();
        let left = way.bytes.len() - count;
        way.bytes.truncate(left);
    }

    /// Changes one byte of those that wait to be read here.
    pub(super) fn flip(&self, at: usize) {
        self.inbound.borrow_mut().bytes[at] ^= 1;
    }

    /// Ends the way to here, behind what waits.
    pub(super) fn cut(&self) {
        self.inbound.borrow_mut().is_cut = true;
    }

    /// Returns how much memory both ways take.
    pub(super) fn held(&self) -> usize {
        self.inbound.borrow().bytes.capacity() + self.outbound.borrow().bytes.capacity()
    }

    /// Returns what waits to be read here.
    pub(super) fn waiting(&self) -> Vec<u8> {
        self.inbound.borrow().bytes.iter().copied().collect()
    }
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        assert!(!buffer.is_empty(), "reading nothing looks like the end");
        let mut way = self.inbound.borrow_mut();
        if way.bytes.is_empty() {
            let end = if way.is_cut { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
            return end;
        }
        let count = self.cuts.cut(self.cuts.most_read).min(buffer.len()).min(way.bytes.len());
        for (to, from) in buffer.iter_mut().zip(way.bytes.drain(..count)) {
            *to = from;
        }
        self.moved += count;
        Ok(count)
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut way = self.outbound.borrow_mut();
        let free = self.cuts.capacity.saturating_sub(way.bytes.len());
        if free == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut left = self.cuts.cut(self.cuts.most_written).min(free);
        let mut count = 0;
        for slice in slices {
            let part = slice.len().min(left);
            way.bytes.extend(&slice[..part]);
            left -= part;
            count += part;
        }
        self.moved += count;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A session, its stream, and the buffers of a connection.
pub(super) struct End {
    pub(super) tls: Box<Tls>,
    pub(super) pipe: Pipe,
    pub(super) frames: FrameBuffer,
    pub(super) queue: Queue,
    /// The lengths of the frames that came, which were what they should be.
    pub(super) lengths: Vec<usize>,
    pub(super) ended: Option<io::ErrorKind>,
    scratch: Vec<u8>,
}

impl End {
    pub(super) fn new(tls: Box<Tls>, pipe: Pipe) -> Self {
        let mut frames = FrameBuffer::new();
        frames.raise_limit();
        Self {
            tls,
            frames,
            queue: Queue::default(),
            lengths: Vec::new(),
            ended: None,
            scratch: vec![0; pipe.cuts.scratch],
            pipe,
        }
    }

    pub(super) fn flush(&mut self) {
        self.tls.flush(&mut self.pipe, &mut self.queue).unwrap();
        assert!(self.tls.waiting_bytes() <= 64 << 10);
    }

    pub(super) fn fill(&mut self, budget: usize) -> (usize, Filled) {
        let most = self.frames.next_excess_bytes();
        let before = self.pipe.moved;
        let (count, filled) =
            self.tls.fill(&mut self.pipe, &mut self.scratch, &mut self.frames, budget);
        assert!(count <= budget && self.pipe.moved >= before + count);
        assert!(self.frames.excess_bytes() <= most, "the buffer grew without leave");
        if filled == Filled::Drained {
            assert!(self.pipe.inbound.borrow().bytes.is_empty(), "there was more");
        }
        (count, filled)
    }

    pub(super) fn take_frames(&mut self) -> usize {
        let mut count = 0;
        while let Some((header, bytes)) = self.frames.next().unwrap() {
            assert_eq!(bytes.as_ptr() as usize % 16, 0);
            assert!(bytes == body(header.request_id as usize, header.body_bytes));
            assert_eq!(header.request_id as usize, self.lengths.len());
            self.lengths.push(header.body_bytes);
            count += 1;
        }
        count
    }

    /// Writes, and reads as a link of the net does. Returns how much was done.
    pub(super) fn turn(&mut self) -> usize {
        if self.ended.is_some() {
            return 0;
        }
        let before = self.pipe.moved;
        let mut done = 0;
        self.flush();
        let mut budget = self.pipe.cuts.budget;
        loop {
            self.frames.shrink();
            done += self.take_frames();
            let handshaking = self.tls.is_handshaking();
            let moved = self.pipe.moved;
            let (count, filled) = self.fill(budget);
            done += self.take_frames();
            budget -= count;
            match filled {
                Filled::Drained => break,
                Filled::Ended(kind) => {
                    self.ended = Some(kind);
                    done += 1;
                    break;
                }
                Filled::Stopped if budget == 0 || handshaking => break,
                Filled::Stopped => {
                    let has_moved = self.pipe.moved > moved || self.frames.is_in_frame();
                    assert!(has_moved || done > 0, "it stopped for nothing");
                }
            }
        }
        self.flush();
        done + self.pipe.moved - before
    }
}

impl fmt::Debug for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?} {:?} {:?}", self.tls, self.ended, self.lengths, self.pipe.cuts)
    }
}
