//! Expiry: values give up their bytes, and husks stay.
//!
//! A husk is *early* if its value should still live, by this node's clock. The clock was ahead when
//! it was made, here or on the node that sent it, and other replicas may have the value. No digest
//! tells a value from its husk. So each partition keeps until when its husks go, and the replica
//! looks from time to time whether that is in the future.

use super::table::Change;
use super::{Deletes, Share, Store};
use crate::clock::WallTime;
use crate::entry::Entry;
use crate::mutants::{ProtocolMutant, rule};
use crate::types::{KeyHash, Partition};

impl Store {
    /// By how much a husk is early at least if its value is worth being looked for: less than a
    /// repair takes, and more than clocks differ that are kept.
    pub(crate) const EARLY_MS: u64 = 1000;

    /// Frees the values of keys that have expired, looking at up to `limit` timers. Returns how
    /// many it looked at.
    pub(crate) fn expire(&mut self, wall: WallTime, limit: usize) -> usize {
        let mut budget = limit;
        while let Some(due) = self.timers.pop_due(wall.millis(), &mut budget) {
            let hash = KeyHash(due.hash);
            let forget = self.config.deletes == Deletes::Forget;
            let decide = |_, held: Option<&Entry>| match held {
                None => (Change::Keep, None),
                Some(entry) if forget => (Change::Remove, Some((Share::of(hash, entry), None))),
                Some(entry) => {
                    let husk = entry.husk();
                    let shares = (Share::of(hash, entry), Some(Share::of(hash, &husk)));
                    (Change::Put(husk), Some(shares))
                }
            };
            // A husk says what the value said: no replica needs it again, so it keeps the old
            // sequence.
            let shares = self.table.update(hash, due.id, 0, decide);
            if let Some((old, new)) = shares {
                let at = self.index(hash.partition());
                let sequence = self.partitions[at].sequence;
                self.count(hash.partition(), Some(old), new);
                self.partitions[at].sequence = sequence;
                self.note_husk(hash.partition(), due.at_ms);
            }
        }
        self.tidy();
        limit - budget
    }

    /// Notes that there might be a husk with this expiry.
    pub(super) fn note_husk(&mut self, partition: Partition, expires_at_ms: u64) {
        let at = self.index(partition);
        let until = &mut self.partitions[at].husks_until_ms;
        *until = (*until).max(expires_at_ms);
    }

    /// Whether there are husks whose values should still live, by this wall time, and that were not
    /// [found](Self::find_early_husks) yet.
    pub(crate) fn has_early_husks(&self, partition: Partition, wall: WallTime) -> bool {
        let until_ms = self.partitions[self.index(partition)].husks_until_ms;
        rule(ProtocolMutant::EarlyHusksKept, until_ms > wall.millis() + Self::EARLY_MS)
    }

    /// Looks whether husks are early: their values should still live, by this wall time. The clock
    /// was ahead when they expired, on this node or on the one that sent them. Returns whether that
    /// is news.
    pub(crate) fn find_early_husks(&mut self, partition: Partition, wall: WallTime) -> bool {
        let is_early = self.has_early_husks(partition, wall);
        if is_early {
            self.gaps += 1;
            let at = self.index(partition);
            let contents = &mut self.partitions[at];
            (contents.husks_until_ms, contents.last_early) = (0, self.gaps);
        }
        is_early
    }

    /// The number of the last time that [husks were early](Self::find_early_husks); zero if they
    /// never were. Other replicas may have the values, which the partition's digest does not tell.
    pub(crate) fn last_early(&self, partition: Partition) -> u64 {
        self.partitions[self.index(partition)].last_early
    }
}
