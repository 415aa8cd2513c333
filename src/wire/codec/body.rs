//! A body in its two directions: the archive that is appended to a frame, and the checks that a
//! received one must pass before a value of it is believed.

use rkyv::api::high;
use rkyv::rancor::{Failure, Panic};
use rkyv::ser::allocator::ArenaHandle;
use rkyv::{Portable, Serialize, bytecheck::CheckBytes};

use crate::clock::Version;
use crate::types::{KeyHash, MAX_KEY_BYTES, Partition};
use crate::wire::frame::{self, Encoded, FrameError};
use crate::wire::message::{Extent, Message};

/// The highest version and the highest list number that a node accepts: the year 2094, or as many
/// changes of a list. No working node sends more. The rest of the range is room to count up in, so
/// that nothing wraps around.
pub(super) const MAX_NUMBER: u64 = u64::MAX - (1 << 60);

/// An encoded message that still lacks its frame's addressing.
pub(super) struct Body {
    pub(super) kind: u8,
    /// Room for the header, then the archive.
    pub(super) bytes: Encoded,
}

impl Body {
    /// Returns a message of type `kind` with the archive of `value` as its body.
    ///
    /// Bodies are bounded far below the 2 GiB that relative pointers reach, so only a lack of
    /// memory can make this fail.
    pub(super) fn of(
        kind: u8,
        value: &impl for<'a> Serialize<high::HighSerializer<Encoded, ArenaHandle<'a>, Panic>>,
    ) -> Self {
        let bytes = high::to_bytes_in::<_, Panic>(value, frame::begin())
            .unwrap_or_else(|never| match never {});
        Self { kind, bytes }
    }

    /// Returns a message of type `kind` without a body: the type says it all.
    pub(super) fn empty(kind: u8) -> Self {
        Self { kind, bytes: frame::begin() }
    }
}

/// How a message of one type is read.
pub(super) type Decoder = fn(&Reader<'_>) -> Result<Message, FrameError>;

/// A received body, of which only the type is known yet.
pub(super) struct Reader<'a> {
    pub(super) kind: u8,
    pub(super) body: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Returns the archive in the body, checked: every pointer in it stays in the body.
    pub(super) fn archive<T>(&self) -> Result<&'a T, FrameError>
    where
        T: Portable + for<'b> CheckBytes<high::HighValidator<'b, Failure>>,
    {
        high::access::<T, Failure>(self.body).map_err(|_| self.bad("not a valid archive"))
    }

    pub(super) fn bad(&self, why: &'static str) -> FrameError {
        FrameError::BadBody { kind: self.kind, why }
    }

    pub(super) fn version(&self, version: u64) -> Result<Version, FrameError> {
        if version > MAX_NUMBER {
            Err(self.bad("a version beyond the calendar"))
        } else {
            Ok(Version(version))
        }
    }

    pub(super) fn extent(&self, extent: u8) -> Result<Extent, FrameError> {
        match extent {
            0 => Ok(Extent::Any),
            1 => Ok(Extent::Idle),
            2 => Ok(Extent::Open),
            3 => Ok(Extent::WholeBefore),
            4 => Ok(Extent::Whole),
            _ => Err(self.bad("an unknown extent of a copy")),
        }
    }

    pub(super) fn partition(&self, index: u16) -> Result<Partition, FrameError> {
        Partition::new(index).ok_or_else(|| self.bad("a partition that does not exist"))
    }

    pub(super) fn key<'b>(&self, key: &'b [u8]) -> Result<&'b [u8], FrameError> {
        if key.len() > MAX_KEY_BYTES { Err(self.bad("a key over the limit")) } else { Ok(key) }
    }
}

/// Returns the number in which an optional hash travels: zero if there is none. A flag of the
/// message tells that from the hash zero.
pub(super) fn wire_hash(hash: Option<KeyHash>) -> u64 {
    hash.map_or(0, |hash| hash.0)
}

/// Returns the optional hash that a number and its flag stand for: the reverse of [`wire_hash`].
pub(super) fn hash(wire: u64, is_none: bool) -> Option<KeyHash> {
    (!is_none).then_some(KeyHash(wire))
}
