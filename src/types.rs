//! The small nouns of the system, each its own type so that none is taken for another.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::mutants::partitions_in_use;

/// How many partitions the key space has. A constant of the protocol: every node of every cluster
/// agrees on it, and the handshake refuses a peer that does not.
pub(crate) const PARTITIONS: u16 = 4096;

/// What a secured connection begins with. As the length of a frame it is beyond every limit, so
/// four bytes tell the two kinds of connections apart.
pub(crate) const SECURED_MAGIC: [u8; 4] = *b"GKVS";

/// The longest node id and cluster name, in bytes. Both travel in one small handshake frame.
pub const MAX_NAME_BYTES: usize = 255;

/// The most members of a cluster that a node remembers, the dead ones of a day included. If there
/// is no room for one that lives, those that have been dead for longest are forgotten.
pub(crate) const MAX_MEMBERS: usize = 4096;

/// The longest key, in bytes (64 KiB − 1): its length fits in 16 bits of an entry's header.
pub const MAX_KEY_BYTES: usize = u16::MAX as usize;

/// The largest value, in bytes (16 MiB). A value crosses the network in one frame, and a frame is
/// held whole in memory on both sides.
pub const MAX_VALUE_BYTES: usize = 16 << 20;

/// The largest number of cores that one engine may run.
pub const MAX_CORES: usize = 256;

/// The largest number of copies of a key that can be asked for.
pub const MAX_REPLICAS: usize = 16;

/// The name of a node, which the app passed to [`Config::new`](crate::Config::new). Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(Arc<str>);

impl NodeId {
    pub(crate) fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl PartialEq<str> for NodeId {
    fn eq(&self, other: &str) -> bool {
        &*self.0 == other
    }
}

impl PartialEq<&str> for NodeId {
    fn eq(&self, other: &&str) -> bool {
        &*self.0 == *other
    }
}

/// The hash of a cluster's name. It seeds every other hash, so that two clusters place the same key
/// and the same node differently, and it opens every datagram, so that a stray one is dropped
/// unread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ClusterHash(pub(crate) u64);

impl ClusterHash {
    #[inline]
    pub(crate) fn of(name: &str) -> Self {
        Self(xxh3_64(name.as_bytes()))
    }
}

/// The hash of a node's id: the node's name inside the protocol. It stays the same over restarts,
/// so a node that comes back takes the partitions that it held.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NodeHash(pub(crate) u64);

impl NodeHash {
    #[inline]
    pub(crate) fn of(cluster: ClusterHash, id: &str) -> Self {
        Self(xxh3_64_with_seed(id.as_bytes(), cluster.0))
    }
}

impl fmt::Debug for NodeHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{:04x}", self.0 >> 48)
    }
}

/// One core thread of this node, counted from zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct CoreId(pub(crate) u16);

/// The one hash that a key has: XXH3-64, seeded by the cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct KeyHash(pub(crate) u64);

impl KeyHash {
    #[inline]
    pub(crate) fn of(cluster: ClusterHash, key: &[u8]) -> Self {
        Self(xxh3_64_with_seed(key, cluster.0))
    }

    /// The partition: the top 12 bits.
    #[inline]
    pub(crate) fn partition(self) -> Partition {
        Partition((self.0 >> 52) as u16)
    }
}

#[cfg(any(test, gridkv_loom))]
impl KeyHash {
    /// The only key of eight bytes that has this hash: XXH3 maps those one to one, and every step
    /// of it can be undone.
    pub(crate) fn key(self, cluster: ClusterHash) -> [u8; 8] {
        const FACTOR: u64 = 0x9fb2_1c65_1e98_df25;
        let inverse =
            (0..6).fold(FACTOR, |x, _| x.wrapping_mul(2u64.wrapping_sub(FACTOR.wrapping_mul(x))));
        let undo = |hash: u64| {
            let x = hash ^ hash >> 28 ^ hash >> 56;
            let x = x.wrapping_mul(inverse);
            let x = x ^ ((x >> 35) + 8);
            let x = x.wrapping_mul(inverse);
            (0..63).fold(x, |x, _| x ^ x.rotate_left(49) ^ x.rotate_left(24))
        };
        let word = undo(self.0) ^ undo(Self::of(cluster, &[0; 8]).0);
        let mut key = [0; 8];
        key[..4].copy_from_slice(&((word >> 32) as u32).to_le_bytes());
        key[4..].copy_from_slice(&(word as u32).to_le_bytes());
        key
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "k{:016x}", self.0)
    }
}

/// One 4096th of the key space: the unit in which data is owned by cores, placed on nodes and
/// moved.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub(crate) struct Partition(u16);

impl Partition {
    /// `None` if `index` is not below [`PARTITIONS`], which a number from the network might not be.
    pub(crate) fn new(index: u16) -> Option<Self> {
        (index < PARTITIONS).then_some(Self(index))
    }

    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..partitions_in_use(PARTITIONS)).map(Self)
    }

    pub(crate) fn index(self) -> u16 {
        self.0
    }

    /// The core that owns this partition on a node with `cores` cores.
    pub(crate) fn core(self, cores: u16) -> CoreId {
        CoreId(self.0 % cores)
    }
}

/// How many cores a node has, and how its partitions are spread over them, without a division.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Cores {
    count: u16,
    reciprocal: u32,
}

impl Cores {
    /// Spreads the partitions over `count` cores, from 1 to [`MAX_CORES`].
    pub(crate) fn new(count: u16) -> Self {
        // Exact for numbers below 4096 and up to 256 cores: the rounding error stays below one
        // core's part.
        Self { count, reciprocal: (1 << 20) / u32::from(count) + 1 }
    }

    #[inline]
    pub(crate) fn count(self) -> u16 {
        self.count
    }

    /// The partition's number among those of its core.
    #[inline]
    pub(crate) fn local(self, partition: Partition) -> u16 {
        ((u32::from(partition.0) * self.reciprocal) >> 20) as u16
    }

    /// The core that owns the partition, and the partition's number among those of it.
    #[inline]
    pub(crate) fn place(self, partition: Partition) -> (CoreId, u16) {
        if self.count == 1 {
            return (CoreId(0), partition.0);
        }
        let local = self.local(partition);
        (CoreId(partition.0 - local * self.count), local)
    }
}

/// Which life of a node's memory: milliseconds of wall time at its start. A newer boot of the same
/// node remembers nothing of the older one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Boot(pub(crate) u64);

/// The latest boot that is believed: the year 2100. No node could ever count as later than one with
/// the highest number there is.
pub(crate) const MAX_BOOT: Boot = Boot(4_102_444_800_000);

/// A member as the protocol names it: which node, which life of it, and its address. At most 37
/// bytes on the wire.
///
/// Two identities with one `node` are the same node at different times: a higher `boot` means that
/// its memory was lost in between, a higher `returns` that it was declared dead while it lived.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    pub(crate) node: NodeHash,
    pub(crate) boot: Boot,
    /// How often it came back from being declared dead, its memory intact.
    pub(crate) returns: u16,
    pub(crate) addr: SocketAddr,
}

impl Identity {
    /// Whether `self` is a later life of the node than `other`.
    pub(crate) fn is_later_than(&self, other: &Self) -> bool {
        (self.boot, self.returns) > (other.boot, other.returns)
    }

    /// The node's life: from this start until it loses its memory, however often it is taken for
    /// dead in between.
    pub(crate) fn life(&self) -> Self {
        Self { returns: 0, ..*self }
    }

    /// Whether a node can be reached at its address, and can count as later than it. What comes
    /// from another host is looked at here, over TCP and UDP: a node sends to every member that it
    /// believes in.
    pub(crate) fn is_possible(&self) -> bool {
        is_one_host(self.addr.ip()) && self.addr.port() != 0 && self.boot <= MAX_BOOT
    }

    /// An order over identities that every node agrees on.
    pub(crate) fn sort_key(&self) -> (NodeHash, Boot, u16) {
        (self.node, self.boot, self.returns)
    }
}

/// Whether an address is that of one host.
pub(crate) fn is_one_host(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => !ip.is_broadcast() && !ip.is_unspecified() && !ip.is_multicast(),
        IpAddr::V6(ip) => !ip.is_unspecified() && !ip.is_multicast(),
    }
}

impl Ord for Identity {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.sort_key(), self.addr).cmp(&(other.sort_key(), other.addr))
    }
}

impl PartialOrd for Identity {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}@{}/b{}r{}", self.node, self.addr, self.boot.0, self.returns)
    }
}

/// How long tombstones are kept for members that are dead and might come back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Retention {
    /// A member of a data center that is there. What it holds is on others, too.
    pub(crate) member: Duration,
    /// All members of a data center that is away as a whole.
    pub(crate) data_center: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_spread_as_division_would() {
        for count in 1..=MAX_CORES as u16 {
            let cores = Cores::new(count);
            for partition in Partition::all() {
                assert_eq!(cores.place(partition), (partition.core(count), partition.0 / count));
            }
        }
    }
}
