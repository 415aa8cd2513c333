//! What two nodes hold in common, and how one question compares much of it.

use xxhash_rust::xxh3::xxh3_64;

use crate::types::{CoreId, Identity, Partition};
use crate::wire::message::{Compared, Held};

/// How many partitions one question compares at most.
const BATCH: usize = 256;

/// One partition that this node has in common with a peer, and which of the peer's cores has it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Pair {
    pub(crate) peer: Identity,
    pub(crate) core: CoreId,
    pub(crate) partition: Partition,
}

/// What this node holds, as far as it is to be compared.
pub(crate) trait Copies {
    /// Returns everything that this node has in common with others.
    fn pairs(&self) -> Vec<Pair>;

    /// Returns the pairs of one partition.
    fn pairs_of(&self, partition: Partition) -> Vec<Pair>;

    /// Whether this node sees to it that what the two hold becomes equal. One of two nodes does.
    fn asks(&self, peer: &Identity) -> bool;

    /// Returns what this node holds of the partition now; `None` if it is not to be compared now.
    fn held(&self, peer: &Identity, partition: Partition) -> Option<Held>;

    /// Whether this copy might lack what the peer's data center has held since before its own
    /// began.
    fn is_behind(&self, peer: &Identity, partition: Partition) -> bool;
}

/// Returns the answer to a peer's question, which had the digest `asked` for all of its partitions:
/// what this node holds of them, if that is not the same.
pub(crate) fn compare(asked: u64, held: Vec<Held>) -> Compared {
    if digest(&held) == asked { Compared::Alike } else { Compared::Differ(held) }
}

/// Returns one digest for all of these, in this order.
pub(super) fn digest(held: &[Held]) -> u64 {
    let mut bytes = Vec::with_capacity(held.len() * 27);
    for Held { partition, list, digest, has_gaps } in held {
        bytes.extend_from_slice(&partition.index().to_le_bytes());
        bytes.extend_from_slice(&list.number.to_le_bytes());
        bytes.extend_from_slice(&list.digest.to_le_bytes());
        bytes.extend_from_slice(&digest.to_le_bytes());
        bytes.push(u8::from(*has_gaps));
    }
    xxh3_64(&bytes)
}

/// Splits the pairs into what goes into one question each: some partitions of one core of one peer.
pub(super) fn batches(mut pairs: Vec<Pair>) -> Vec<Vec<Pair>> {
    pairs.sort_unstable();
    let by_core = pairs.chunk_by(|one, next| (one.peer, one.core) == (next.peer, next.core));
    by_core.flat_map(|pairs| pairs.chunks(BATCH)).map(<[Pair]>::to_vec).collect()
}
