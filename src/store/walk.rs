//! Walks over the store in bounded steps: a partition's entries for replicas, and keys for the app.
//!
//! A walk keeps no state here: each step says where the next one begins. Keys may come, change and
//! go between two steps; a key that is there all along is shown once.

use std::ops::ControlFlow;

use super::table::TablePosition;
use super::{Keys, Part, Store, charge};
use crate::clock::{Version, WallTime};
use crate::entry::Entry;
use crate::types::{KeyHash, Partition};

impl Store {
    /// Returns entries of `partition` behind `after`, in the order of hashes, until `limit_bytes`
    /// are reached: those that changed after `since` of its sequence, and perhaps some that did
    /// not. Keys of one hash stay together.
    pub(crate) fn part(
        &self,
        partition: Partition,
        after: Option<KeyHash>,
        since: u64,
        limit_bytes: usize,
    ) -> Part {
        let since = self.table.grain(since);
        let wanted = |sequence, entry: &Entry| (sequence >= since).then(|| charge::entry(entry));
        let mut entries = Vec::new();
        let next = self.scan(partition, after, limit_bytes, wanted, |_, entry| {
            entries.push(Entry::clone(entry))
        });
        Part { entries, next }
    }

    /// Returns keys without a value behind `after`, in the order of hashes, until there are
    /// `limit`; each has the version of what took its value. The second part is where to go on.
    pub(crate) fn dead(
        &self,
        partition: Partition,
        after: Option<KeyHash>,
        limit: usize,
    ) -> (Vec<(KeyHash, Version)>, Option<KeyHash>) {
        let wanted = |_, entry: &Entry| entry.value().is_none().then_some(1);
        let mut dead = Vec::new();
        let next = self.scan(partition, after, limit, wanted, |hash, entry| {
            dead.push((hash, entry.version()))
        });
        (dead, next)
    }

    /// Forgets everything of the partition that is not newer than `newest`, as if it had never been
    /// here. Returns how much that was.
    pub(crate) fn forget(&mut self, partition: Partition, newest: Version) -> usize {
        let wanted = |_, entry: &Entry| (entry.version() <= newest).then_some(0);
        let mut old = Vec::new();
        self.scan(partition, None, usize::MAX, wanted, |hash, entry| {
            old.push((hash, Entry::clone(entry)))
        });
        let count = old.len();
        old.into_iter().for_each(|(hash, entry)| self.remove(hash, entry));
        count
    }

    /// Shows the entries of `partition` behind `after` that are wanted, in the order of hashes,
    /// until what they weigh reaches `limit`; keys of one hash stay together. Returns where to go
    /// on.
    fn scan(
        &self,
        partition: Partition,
        after: Option<KeyHash>,
        limit: usize,
        wanted: impl Fn(u64, &Entry) -> Option<usize>,
        mut show: impl FnMut(KeyHash, &Entry),
    ) -> Option<KeyHash> {
        let (start, end) = self.table.paths(partition);
        let mut last = after;
        let mut shown = 0;
        let mut path = Some(after.map_or(start, |after| self.table.path(after)));
        while let Some(at) = path.filter(|at| end.is_none_or(|end| *at < end)) {
            let mut found = Vec::new();
            let mut from_tree = (0, None);
            path =
                self.table.walk(&TablePosition::first(at), |_, hash, sequence, entry, in_tree| {
                    let is_behind = after.is_none_or(|after| hash > after);
                    let weight = wanted(sequence, &entry)
                        .filter(|_| hash.partition() == partition && is_behind);
                    let Some(weight) = weight else { return ControlFlow::Continue(()) };
                    let is_beyond = in_tree && from_tree.0 >= limit && from_tree.1 != Some(hash);
                    if in_tree {
                        from_tree = (from_tree.0 + weight, Some(hash));
                    }
                    found.push((hash, entry, weight));
                    // One more than fits says below that there is more.
                    if is_beyond { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                });
            found.sort_unstable_by(|(a, one, _), (b, other, _)| {
                (a, one.key()).cmp(&(b, other.key()))
            });
            for (hash, entry, weight) in found {
                if shown >= limit && last != Some(hash) {
                    return last;
                }
                shown += weight;
                last = Some(hash);
                show(hash, &entry);
            }
        }
        None
    }

    /// Returns keys that have a value, from a position on to before the path `end`, in the order of
    /// positions, until `limit` were looked at; and the position to go on from.
    pub(crate) fn keys(
        &self,
        from: &TablePosition,
        end: Option<u64>,
        wall: WallTime,
        limit: usize,
    ) -> Keys {
        let mut found = Vec::new();
        let mut from_tree = 0;
        let next = self.table.walk(from, |path, _, _, entry, in_tree| {
            if from.is_at_or_before(path, entry.key()) && end.is_none_or(|end| path < end) {
                found.push((path, entry));
            }
            from_tree += usize::from(in_tree);
            // One more than fits: that is where the next call goes on.
            if from_tree > limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        found.sort_unstable_by(|(a, one), (b, other)| (a, one.key()).cmp(&(b, other.key())));
        let next = match found.get(limit) {
            Some((path, entry)) => Some(TablePosition::new(*path, entry.key())),
            None => next.filter(|next| end.is_none_or(|end| *next < end)).map(TablePosition::first),
        };
        found.truncate(limit);
        let live = found.into_iter().filter(|(_, entry)| entry.live_value(wall).is_some());
        Keys { keys: live.map(|(_, entry)| entry.key().into()).collect(), next }
    }
}
