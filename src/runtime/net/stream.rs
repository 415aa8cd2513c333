//! What reading and writing a socket have in common, plain or secured.

#![forbid(unsafe_code)]

use std::io::{self, IoSlice};

use mio::net::TcpStream;

use crate::wire::frame::Encoded;

/// A small frame still occupies an allocation of about this size, and is counted as such.
const FRAME_COST_BYTES: usize = 256;

/// Why reading stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Filled {
    /// Nothing is left: the poll reports the next bytes.
    Drained,
    /// The budget is used up, or the buffer is full: the poll reports nothing, come back.
    Stopped,
    /// The other end closed (`UnexpectedEof`) or the connection failed.
    Ended(io::ErrorKind),
}

/// Writes without a signal, whether or not the other end has closed.
///
/// `writev` raises SIGPIPE then, whose default action ends the process. A program in Rust ignores
/// the signal from its start on; one in C that embeds the engine need not.
#[cfg(target_os = "linux")]
pub(super) fn send(stream: &TcpStream, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};

    let mut nothing_beside = SendAncillaryBuffer::default();
    Ok(sendmsg(stream, slices, &mut nothing_beside, SendFlags::NOSIGNAL)?)
}

/// Writes without a signal: on other systems than Linux, mio's sockets never raise one.
#[cfg(not(target_os = "linux"))]
pub(super) fn send(mut stream: &TcpStream, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    std::io::Write::write_vectored(&mut stream, slices)
}

/// Returns what an unwritten frame counts against the limit of its connection.
pub(crate) fn cost(frame: &Encoded) -> usize {
    frame.len().max(FRAME_COST_BYTES)
}
