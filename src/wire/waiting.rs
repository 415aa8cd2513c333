//! How many bytes may wait in memory to be sent, outside [`Config::max_memory`]: one rule for all
//! that waits.
//!
//! | what waits | for whom | beyond the limit |
//! |---|---|---|
//! | requests | a peer that does not read | they are owed to it, and offered again |
//! | acknowledged writes | a replica that missed them | the oldest is left to anti-entropy |
//! | acknowledged writes | another data center | the oldest is left to anti-entropy |
//! | batches of another data center | replicas here | the senders keep them, and try again |
//!
//! [`Config::max_memory`]: crate::Config::max_memory

/// The most that waits, without a limit on memory: the writes of about a second at half a gigabit.
pub(crate) const MAX_WAITING_BYTES: usize = 64 << 20;

/// The least for requests, however little memory there is: some hundred calls with small values.
/// They fail beyond the limit, and what waits otherwise is found by anti-entropy.
pub(crate) const MIN_REQUEST_BYTES: usize = 256 << 10;

/// The part of a core's memory that it is at most, if that is limited.
const MEMORY_PART: usize = 16;

const _: () = assert!(MIN_REQUEST_BYTES < MAX_WAITING_BYTES);

/// Returns how many bytes may wait on a core with this much memory: of each kind and for each
/// destination. Batches of other data centers count together.
pub(crate) const fn max_waiting_bytes(memory: Option<usize>) -> usize {
    match memory {
        Some(memory) if memory / MEMORY_PART < MAX_WAITING_BYTES => memory / MEMORY_PART,
        _ => MAX_WAITING_BYTES,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_grows_with_memory_within_bounds() {
        let memory = [1 << 20, 16 << 20, 1 << 30, 1 << 40];
        let limits = memory.map(|memory| max_waiting_bytes(Some(memory)));
        let most = MAX_WAITING_BYTES;
        assert_eq!(limits, [1 << 16, 1 << 20, most, most]);
        assert_eq!(max_waiting_bytes(None), most);
    }
}
