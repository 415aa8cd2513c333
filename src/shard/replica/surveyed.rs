//! Which pairs of copies were compared key by key, so that their digests mean something again.

use std::collections::BTreeMap;

use crate::store::Store;
use crate::types::{Identity, Partition};

/// The pairs of copies that were surveyed key by key, or are now, with what that covers of the gaps
/// in this node's copy.
#[derive(Default)]
pub(super) struct SurveyedPairs(BTreeMap<(Partition, Identity), PairSurvey>);

struct PairSurvey {
    /// The copy's last gap when the survey began. Later ones are not covered.
    last_gap: u64,
    /// The last time that its husks were early.
    last_early: u64,
    is_complete: bool,
}

impl SurveyedPairs {
    /// Notes that a survey begins.
    pub(super) fn begin(&mut self, pair: (Partition, Identity), store: &Store) {
        let (last_gap, last_early) = (store.last_gap(pair.0), store.last_early(pair.0));
        self.0.insert(pair, PairSurvey { last_gap, last_early, is_complete: false });
    }

    /// Notes that the copy evicted something because the peer might have: no gap of this pair.
    pub(super) fn evicted(&mut self, pair: (Partition, Identity), before: u64, after: u64) {
        if let Some(survey) = self.0.get_mut(&pair).filter(|survey| survey.last_gap == before) {
            survey.last_gap = after;
        }
    }

    /// Notes that the survey of the last part is over.
    pub(super) fn complete(&mut self, pair: (Partition, Identity)) {
        if let Some(survey) = self.0.get_mut(&pair) {
            survey.is_complete = true;
        }
    }

    /// Whether a survey has covered everything up to this gap of the copy.
    pub(super) fn covers(&self, pair: (Partition, Identity), last_gap: u64) -> bool {
        self.0.get(&pair).is_some_and(|survey| survey.is_complete && survey.last_gap == last_gap)
    }

    /// Whether the copy was surveyed since its husks were early this last time.
    pub(super) fn covers_early(&self, pair: (Partition, Identity), last_early: u64) -> bool {
        self.0.get(&pair).is_some_and(|it| it.is_complete && it.last_early == last_early)
    }

    /// Forgets the surveys with peers that are gone.
    pub(super) fn keep_only(&mut self, is_alive: impl Fn(&Identity) -> bool) {
        self.0.retain(|(_, peer), _| is_alive(peer));
    }
}
