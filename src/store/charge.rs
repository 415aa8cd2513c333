//! What memory is charged for: a fixed table of size classes, so that decisions do not depend on
//! which allocator the app has chosen. A little above what the system's takes.

use crate::entry::Entry;

/// The word that an allocator keeps for each allocation.
const HEADER_BYTES: usize = 8;

/// Returns what an allocation of this size takes: a multiple of 16 up to 1 KiB, an eighth of its
/// power of two above.
pub(crate) fn size_class(bytes: usize) -> usize {
    if bytes == 0 {
        return 0;
    }
    let bytes = (bytes + HEADER_BYTES).max(32);
    let step = if bytes <= 1024 { 16 } else { bytes.next_power_of_two() / 16 };
    // A power of two: no division on the way of every write.
    (bytes + step - 1) & !(step - 1)
}

/// Returns what an entry takes, its whole value included.
pub(crate) fn entry(entry: &Entry) -> usize {
    let (own, block) = entry.allocations();
    size_class(own) + size_class(block)
}

/// Returns what an entry takes on top of another state of its key, which may have the same block.
pub(crate) fn beside(entry: &Entry, other: &Entry) -> usize {
    let (own, block) = entry.allocations();
    size_class(own) + if entry.shares_block_with(other) { 0 } else { size_class(block) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_grow_and_waste_at_most_an_eighth() {
        let mut last = 0;
        for bytes in 1..100_000 {
            let class = size_class(bytes);
            assert!(class >= bytes + HEADER_BYTES && class >= last, "{bytes}");
            assert!(
                class <= (bytes + HEADER_BYTES).max(32) + (bytes / 8).max(16),
                "{bytes}: {class}"
            );
            last = class;
        }
        assert_eq!((size_class(0), size_class(144)), (0, 160));
    }
}
