//! [`Lineage`]: how far a partition's lists were decided, each by the one before.

use crate::clock::Instant;
use crate::placement::List;

/// What is known of one partition's lists.
#[derive(Debug, Default)]
pub(super) struct Lineage {
    /// The id of its first list.
    first: Option<u64>,
    /// The highest number of a list, as long as all lists were decided one after the other.
    pub(super) number: u64,
    /// When there first was a list that no quorum decided.
    pub(super) forked_at: Option<Instant>,
    /// When a node first said that acknowledged writes might be lost.
    pub(super) at_risk_since: Option<Instant>,
}

impl Lineage {
    pub(super) fn heard(&mut self, list: &List, now: Instant) {
        let forks = &list.ancestry().forks;
        let [first, later @ ..] = &**forks else { return };
        let is_other = *self.first.get_or_insert(first.id) != first.id;
        if first.number > 1 || is_other || !later.is_empty() {
            self.forked_at.get_or_insert(now);
        }
        if self.forked_at.is_none() {
            self.number = self.number.max(list.number());
        }
    }
}
