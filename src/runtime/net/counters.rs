//! What a [`Net`](super::Net) counts.

#![forbid(unsafe_code)]

/// What a [`Net`](super::Net) counted since it was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct NetCounters {
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) frames_in: u64,
    pub(crate) frames_out: u64,
    /// Connections ended for what came over them.
    pub(crate) protocol_errors: u64,
    /// Outgoing connections that were welcomed.
    pub(crate) opened: u64,
    /// Connections accepted from the listener, welcome or not.
    pub(crate) accepted: u64,
    /// Times that no connection could be accepted, as the system had no descriptor or no memory.
    pub(crate) not_accepted: u64,
    /// Connections refused because there were as many as there may be.
    pub(crate) turned_away: u64,
    /// Connections without a welcome that were closed for newer ones.
    pub(crate) strangers_closed: u64,
    /// Connections that could not be secured, or whose other end proved too little.
    pub(crate) not_secured: u64,
    /// Connections ended because their peer did not go on with a frame, or took no answers.
    pub(crate) stalled: u64,
    /// Times that reading of a large frame was paused, as all of them took too much memory.
    pub(crate) reads_paused: u64,
    /// Requests that found a peer's answers piled up, and were held back.
    pub(crate) held_back: u64,
    /// Frames or links for which it was too early to dial.
    pub(crate) dials_put_off: u64,
}
