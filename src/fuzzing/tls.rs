//! A secured connection with a host in between that can do anything to the bytes.

use std::collections::VecDeque;
use std::sync::LazyLock;

use zeroize::Zeroizing;

use super::input::Input;
use super::nodes::{CLUSTER, cluster, cluster_key, first_life};
use crate::runtime::net::in_memory::{SecuredEnd, SecuredNode};
use crate::security::Security;
use crate::wire::message::Message;

/// The most that both ends hold, with what this file keeps: the connection of a stranger.
const MAX_BYTES: usize = 96 << 10;

/// The most bytes that one part of the input brings.
const MAX_PIECE_BYTES: usize = 4 << 10;
const MAX_INJECTED_BYTES: usize = 20 << 10;

/// How much of what has passed can be sent again.
const MOST_KEPT_BYTES: usize = 4 << 10;

const MAX_ERROR_BYTES: usize = 2 << 10;

static NODES: LazyLock<[SecuredNode; 2]> = LazyLock::new(|| [1, 2].map(node));

fn node(number: u8) -> SecuredNode {
    let security = Security::cluster_key(cluster_key(1));
    let security = security.of_node(CLUSTER, &Zeroizing::new([number; 32])).expect("it is one key");
    SecuredNode::new(security, cluster(), first_life(number))
}

/// Opens a connection between two nodes, and passes on, alters, leaves out, repeats and adds bytes
/// in both directions: each part of the input is what to do, and with which bytes.
///
/// No frame comes out but the PROOF of the other end, and the session that both have then is one:
/// their proofs are right. `measure` runs what it is given, and returns how many bytes that had
/// allocated at its peak, or zero if it cannot tell.
///
/// The keys of sessions are drawn at random. So an input does the same each time, with other bytes.
pub fn tls(bytes: &[u8], measure: impl FnOnce(&mut dyn FnMut()) -> usize) {
    let mut scratch = SecuredEnd::scratch();
    LazyLock::force(&NODES);
    let peak_bytes = measure(&mut || {
        let mut between = Between::new(&mut scratch);
        let mut input = Input::new(bytes);
        between.turn();
        while !input.is_empty() {
            between.step(&mut input);
        }
    });
    assert!(peak_bytes <= MAX_BYTES, "{peak_bytes} bytes");
}

/// What goes one way.
#[derive(Default)]
struct Way {
    /// Written by one end, and not passed on yet.
    waiting: VecDeque<u8>,
    /// The last that was passed on.
    passed: VecDeque<u8>,
}

/// Both ends, and the host in between.
struct Between<'a> {
    scratch: &'a mut [u8],
    /// The acceptor, then the opener.
    ends: [SecuredEnd; 2],
    /// What goes to each.
    ways: [Way; 2],
    /// What each has proved.
    proofs: [Option<Message>; 2],
    has_come: [bool; 2],
}

impl<'a> Between<'a> {
    fn new(scratch: &'a mut [u8]) -> Self {
        let ends = [NODES[0].accepts(), NODES[1].opens([7; 24])];
        Self { scratch, ends, ways: Default::default(), proofs: [None, None], has_come: [false; 2] }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let what = input.byte();
        let to = usize::from(what >> 7);
        let way = &mut self.ways[to];
        let count = way.waiting.len();
        match what % 128 % 10 {
            0 | 1 => self.pass(to, count),
            2 => self.pass(to, count.min(input.byte().into())),
            3 => {
                let at = usize::from(input.u16());
                let bit = 1 << input.below(8);
                if count > 0 {
                    way.waiting[at % count] ^= bit;
                }
            }
            4 => drop(way.waiting.drain(..count.min(input.byte().into()))),
            5 => {
                let bytes = input.bytes(MAX_PIECE_BYTES);
                self.inject(to, bytes);
            }
            // A record, or several of them.
            6 => {
                let (kind, times) = (input.byte(), input.byte());
                let body = input.bytes(MAX_PIECE_BYTES);
                let [high, low] = (body.len() as u16).to_be_bytes();
                let record = [&[kind, 3, 3, high, low], body].concat();
                let times = usize::from(times).clamp(1, MAX_INJECTED_BYTES / record.len());
                self.inject(to, &record.repeat(times));
            }
            7 => {
                let again = usize::from(input.u16()).min(way.passed.len());
                let bytes: Vec<u8> = way.passed.iter().copied().collect();
                self.inject(to, &bytes[bytes.len() - again..]);
            }
            8 => {
                let is_full = input.below(2) == 0;
                self.ends[to].set_full(is_full);
            }
            _ => self.ends[to].cut(),
        }
        self.turn();
    }

    fn pass(&mut self, to: usize, count: usize) {
        let way = &mut self.ways[to];
        let bytes: Vec<u8> = way.waiting.drain(..count).collect();
        way.passed.extend(&bytes);
        let excess = way.passed.len().saturating_sub(MOST_KEPT_BYTES);
        way.passed.drain(..excess);
        self.inject(to, &bytes);
    }

    /// Nothing is held for an end that is gone.
    fn inject(&mut self, to: usize, bytes: &[u8]) {
        if self.ends[to].ended().is_none() {
            self.ends[to].arrives(bytes);
        }
    }

    /// Has both ends do what they can.
    fn turn(&mut self) {
        for at in [0, 1] {
            let other = 1 - at;
            let end = &mut self.ends[at];
            let frames = end.turn(self.scratch);
            if !end.is_established() {
                assert!(frames.is_empty() && !end.is_in_frame(), "a frame before TLS is up");
            }
            for frame in frames {
                assert!(!self.has_come[at], "a frame twice");
                self.has_come[at] = true;
                assert_eq!(Some(&frame.message), self.proofs[other].as_ref(), "it sent no such");
                assert!(self.ends[at].has_proved(&frame.message), "two sessions");
            }
            self.prove(at);
            let end = &mut self.ends[at];
            if let Some(error) = end.ended() {
                assert!(error.len() <= MAX_ERROR_BYTES, "{error}");
                assert!(!error.chars().any(char::is_control), "more than one line: {error:?}");
            }
            let written = end.take_written();
            self.ways[other].waiting.extend(written);
        }
    }

    /// The opener proves itself once TLS is up, the acceptor once the opener has.
    fn prove(&mut self, at: usize) {
        let end = &mut self.ends[at];
        let is_due = end.is_established() && (at == 1 || self.has_come[at]);
        if is_due && self.proofs[at].is_none() && end.ended().is_none() {
            self.proofs[at] = end.prove();
            assert!(self.proofs[at].is_some(), "it has no proof");
            assert!(self.ends[at].turn(self.scratch).is_empty(), "a frame that was not there");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fuzzer tells nothing if connections between honest hosts come to nothing.
    #[test]
    fn both_ends_prove_themselves_if_all_is_passed_on() {
        let mut scratch = SecuredEnd::scratch();
        let mut between = Between::new(&mut scratch);
        between.turn();
        let mut input = Input::new(&[0, 0x80, 0, 0x80, 0, 0x80]);
        while !input.is_empty() {
            between.step(&mut input);
        }
        assert_eq!(between.has_come, [true; 2]);
        assert!(between.ends.iter().all(|end| end.ended().is_none()));
    }
}
