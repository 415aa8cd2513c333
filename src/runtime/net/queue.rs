//! The frames of a connection that are not written yet, and how far the first one is.
//!
//! Plain connections give the slices to the socket, secured ones to TLS: both say what was taken.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io::IoSlice;

use super::stream::cost;
use crate::wire::frame::Encoded;

/// The frames that wait, in order.
#[derive(Default)]
pub(crate) struct Queue {
    frames: VecDeque<Encoded>,
    /// The cost of all frames.
    cost_bytes: usize,
    /// Bytes of the first frame that are taken already.
    offset: usize,
}

impl Queue {
    /// Adds a frame at the end.
    pub(crate) fn push(&mut self, frame: Encoded) {
        self.cost_bytes += cost(&frame);
        self.frames.push_back(frame);
    }

    /// Returns about how much memory the frames take.
    pub(crate) fn cost_bytes(&self) -> usize {
        self.cost_bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Writes the next bytes into `slices`, `most_bytes` at most, and returns how many slices they
    /// take.
    pub(crate) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>], most_bytes: usize) -> usize {
        let mut left = most_bytes;
        let mut used = 0;
        for (slice, frame) in slices.iter_mut().zip(&self.frames) {
            if left == 0 {
                break;
            }
            let from = if used == 0 { self.offset } else { 0 };
            let bytes = &frame[from..];
            let bytes = &bytes[..bytes.len().min(left)];
            left -= bytes.len();
            *slice = IoSlice::new(bytes);
            used += 1;
        }
        used
    }

    /// Drops the frames that `count` more bytes complete, and remembers how far the next one is.
    pub(crate) fn taken(&mut self, count: usize) {
        self.offset += count;
        while let Some(first) = self.frames.front()
            && self.offset >= first.len()
        {
            self.offset -= first.len();
            self.cost_bytes -= cost(first);
            self.frames.pop_front();
        }
    }

    /// Forgets what is not written: there is no other end left to write it to.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}
