//! How much of TLS comes and goes at a time.

#![forbid(unsafe_code)]

use crate::security::certificates::MAX_CHAIN_BYTES;

/// How many bytes a peer may send until its handshake is done. Ours takes 600 with raw keys.
pub(super) const MAX_TLS_HANDSHAKE_BYTES: usize = 16 << 10;

/// The same if it presents certificates. Three of them take some 3 KiB.
pub(super) const MAX_CERTIFICATE_HANDSHAKE_BYTES: usize = 64 << 10;

const _: () = assert!(2 * MAX_CHAIN_BYTES <= MAX_CERTIFICATE_HANDSHAKE_BYTES);

/// How many bytes of frames go into a record: with what TLS adds, the 4096 bytes that rustls reads
/// at once. Larger records are read in pieces, and cost more per byte.
pub(super) const RECORD_BYTES: usize = WIRE_RECORD_BYTES - RECORD_OVERHEAD_BYTES;
pub(super) const WIRE_RECORD_BYTES: usize = 4096;

/// What TLS 1.3 adds to a record: its header, the type inside, and the tag.
pub(super) const RECORD_OVERHEAD_BYTES: usize = 5 + 1 + 16;
