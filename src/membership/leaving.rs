//! How nodes go: what this one announces when it does, and what it believes of others.

use std::collections::BTreeSet;
#[cfg(feature = "security")]
use std::sync::Arc;
use std::time::Duration;

use super::Membership;
use super::claims::{Claim, ClaimKind, SaidClaim};
use super::drive::Timer;
use super::interface::{MembershipAction, Record, State};
use super::swim::{Swim, Wishes};
use crate::clock::Instant;
#[cfg(feature = "security")]
use crate::security::identity::NodeIdentity;
#[cfg(feature = "security")]
use crate::security::known::KnownKeys;
use crate::types::Identity;

/// How often a leaving member announces it again, for the members that the gossip missed.
const LEAVING_PERIOD: Duration = Duration::from_secs(1);

impl Membership {
    /// Announces that we are leaving: at once, and again until we have left or die.
    pub(crate) fn announce_leaving(&mut self, now: Instant, actions: &mut Vec<MembershipAction>) {
        if !self.leaving && self.ended.is_none() {
            self.leaving = true;
            self.claim_leaving(now, actions);
        }
    }

    /// Announces that we have left: everything has been handed over. Each further call announces it
    /// to other members, in case datagrams get lost: a member that does not hear of it finds us
    /// dead.
    pub(crate) fn announce_left(&mut self, now: Instant, actions: &mut Vec<MembershipAction>) {
        self.leaving = true;
        let left = self.own_claim(ClaimKind::Left);
        self.end(now, State::Left, actions, |swim, mut wishes| {
            swim.add_broadcast(&left)?;
            swim.gossip(&mut wishes)?;
            swim.leave_cluster(wishes)
        });
    }

    /// Announces that we are dead: we stop without having handed our data over. It spares the other
    /// members the time to find out.
    pub(crate) fn announce_dead(&mut self, now: Instant, actions: &mut Vec<MembershipAction>) {
        self.end(now, State::Dead, actions, |swim, wishes| swim.leave_cluster(wishes));
    }

    fn end(
        &mut self,
        now: Instant,
        state: State,
        actions: &mut Vec<MembershipAction>,
        say: impl FnOnce(&mut Swim, &mut Wishes) -> Result<(), foca::Error>,
    ) {
        let result = self.try_drive(now, actions, say);
        self.log_failure(result);
        self.ended = Some(state);
        self.timers.clear();
    }

    /// Returns what this node claims of itself, as gossip carries it.
    pub(super) fn own_claim(&self, kind: ClaimKind) -> Vec<u8> {
        let claim = Claim { identity: self.own, kind };
        self.claims.lock().departures.say(claim).encode()
    }

    pub(super) fn claim_leaving(&mut self, now: Instant, actions: &mut Vec<MembershipAction>) {
        let leaving = self.own_claim(ClaimKind::Leaving);
        self.drive(now, actions, |swim, wishes| {
            swim.add_broadcast(&leaving)?;
            swim.gossip(wishes)
        });
        self.timers.retain(|_, timer| !matches!(timer, Timer::RepeatLeaving));
        self.set_timer(now + LEAVING_PERIOD, Timer::RepeatLeaving);
    }

    /// Has this node sign what it claims.
    #[cfg(feature = "security")]
    pub(crate) fn sign_with(&mut self, identity: Arc<NodeIdentity>) {
        self.claims.lock().departures.sign_with(self.settings.cluster, identity);
    }

    /// Lives of nodes have these keys: what others than they claim of them is not believed.
    #[cfg(feature = "security")]
    pub(crate) fn know_keys(&mut self, keys: Arc<KnownKeys>) {
        let mut claims = self.claims.lock();
        claims.departures.know_keys(keys);
        claims.drop_unproved();
    }

    /// Returns what the nodes in a list have claimed and signed.
    pub(crate) fn signed_claims(&self, records: &[Record]) -> Vec<SaidClaim> {
        let claims = self.claims.lock();
        records.iter().filter_map(|record| claims.signed_by(&record.identity)).collect()
    }

    /// Takes up what came with a list that another member gave us, and takes out of the list what
    /// is not believed: that a node leaves, or has left, whose key is known, and has not signed it.
    pub(crate) fn check_departures(
        &mut self,
        now: Instant,
        said: Vec<SaidClaim>,
        records: &mut [Record],
    ) {
        let mut claims = self.claims.lock();
        claims.departures.note_time(now);
        let listed: BTreeSet<Identity> = records.iter().map(|record| record.identity).collect();
        for said in said.into_iter().filter(|said| listed.contains(&said.claim.identity)) {
            claims.note_listed(said);
        }
        for record in records.iter_mut().filter(|it| claims.departures.knows(&it.identity)) {
            let claim = claims.about(&record.identity);
            record.leaving &= claim.is_some();
            if record.state == State::Left && claim != Some(ClaimKind::Left) {
                record.state = State::Dead;
            }
        }
    }
}
