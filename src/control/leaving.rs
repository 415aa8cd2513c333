//! How a node leaves: first it gives its copies away, then its last calls end, then it goes.
//!
//! ```text
//! No ──leave──▶ Since ──every core has given all──▶ Draining ──no call is left──▶ Done
//!                 └──────────────── this was the last node of all ─────────────────▲
//! ```
//!
//! While it gives, it serves calls like any other node. While it drains, new calls fail, and its
//! cores are asked again and again whether the calls that it took have ended and are known to every
//! replica (`debt` asks them).

use std::time::Duration;

use super::interface::{Actions, ControlAction};
use super::state::{Control, CoreProgress, DebtAsker, Leaving};
use crate::clock::Instant;
use crate::logging;
use crate::mutants::{ProtocolMutant, rule};
use crate::shard::Debt;

/// How often a node that leaves asks whether its last calls have ended.
const DRAIN_PERIOD: Duration = Duration::from_millis(5);

impl Control {
    /// Begins to leave, unless the node leaves already.
    pub(super) fn leave(&mut self, now: Instant, actions: &mut Actions) {
        if self.leaving == Leaving::No {
            self.leaving = Leaving::Since { generation: self.generation + 1 };
            self.swim(now, actions, |membership, todo| membership.announce_leaving(now, todo));
        }
    }

    /// Goes on once every core has given everything away. The last node of all has no other to wait
    /// for.
    pub(super) fn finish_leave(&mut self, now: Instant, actions: &mut Actions) {
        let Leaving::Since { generation } = self.leaving else { return };
        let is_last = self.is_last();
        let cores = usize::from(self.config.local.cores);
        let given =
            |progress: &&CoreProgress| progress.generation >= generation && progress.giving == 0;
        let is_all = is_last && self.placement.other_data_centers().is_empty();
        if !rule(ProtocolMutant::LeftAtOnce, !is_all) {
            if is_all {
                logging::warn!("the last node leaves: the data is gone");
            }
            self.left(now, actions);
        } else if is_last || self.progress.values().filter(given).count() == cores {
            self.drain(actions);
        }
    }

    /// Whether no node of this data center stays. One that is taken for dead might, and then it is
    /// waited for: what this node holds is nowhere else. So it is if it was forgotten since.
    fn is_last(&self) -> bool {
        self.placement.members().iter().all(|member| member.leaving)
            && !self.placement.has_absent()
            && !rule(ProtocolMutant::ForgottenNotAwaited, self.is_left_behind)
    }

    /// The node goes, and tells the others.
    fn left(&mut self, now: Instant, actions: &mut Actions) {
        self.leaving = Leaving::Done;
        self.swim(now, actions, |membership, todo| membership.announce_left(now, todo));
        actions.push(ControlAction::Left);
    }

    /// Lets no new calls in, and asks the cores from now on whether the last ones have ended.
    fn drain(&mut self, actions: &mut Actions) {
        self.leaving = Leaving::Draining { ask_at: None };
        actions.push(ControlAction::Drain);
        self.ask_cores(DebtAsker::Leave, actions);
    }

    pub(super) fn handle_drain_timer(&mut self, now: Instant, actions: &mut Actions) {
        if let Leaving::Draining { ask_at: Some(at) } = self.leaving
            && at <= now
        {
            self.leaving = Leaving::Draining { ask_at: None };
            self.ask_cores(DebtAsker::Leave, actions);
        }
    }

    pub(super) fn drain_deadline(&self) -> Option<Instant> {
        if let Leaving::Draining { ask_at } = self.leaving { ask_at } else { None }
    }

    /// The cores have said what they owe: the node goes if they have nothing left to do.
    pub(super) fn drained(&mut self, now: Instant, total: &Debt, actions: &mut Actions) {
        // The last node of a data center has no other to give to.
        if (total.copies == 0 || self.is_last()) && total.unfinished == 0 {
            self.left(now, actions);
        } else {
            self.leaving = Leaving::Draining { ask_at: Some(now + DRAIN_PERIOD) };
        }
    }
}
