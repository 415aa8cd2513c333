//! What is known of every other member, and what changed since the last report.
//!
//! foca tells of members that come and go, but not of suspicions, and knows nothing of claims. So
//! its members and the claims are compared with what was last reported, after every interaction,
//! and each difference becomes a [`Change`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use foca::Member;

use super::claims::{ClaimKind, Claims};
use super::interface::{Change, Record, State};
use super::swim::Swim;
use crate::types::Identity;

/// Every other member, as last reported. One per address, as in foca.
#[derive(Debug, Default)]
pub(super) struct Roster {
    by_addr: BTreeMap<SocketAddr, Record>,
    /// What the last update saw: nearly every datagram changes nothing.
    seen: Vec<(Identity, foca::State)>,
    seen_claims: u64,
}

impl Roster {
    /// Reports how what foca and the claims say differs from the last report. This runs after every
    /// datagram: if nothing changed it costs one comparison per member and no allocation.
    pub(super) fn update(
        &mut self,
        swim: &Swim,
        claims: &mut Claims,
        mut report: impl FnMut(Change),
    ) {
        let states = || swim.iter_membership_state().map(|member| (*member.id(), member.state()));
        if self.seen_claims == claims.version() && states().eq(self.seen.iter().copied()) {
            return;
        }
        self.seen.clear();
        self.seen.extend(states());
        let mut known = 0;
        let mut changed = Vec::new();
        for member in others(swim) {
            known += 1;
            let old = self.by_addr.get(&member.id().addr).copied();
            let new = record(member, claims, old);
            if old != Some(new) {
                changed.push((old, new));
            }
        }
        // foca keeps its members shuffled.
        changed.sort_unstable_by_key(|(_, new)| new.identity.sort_key());
        for (old, new) in changed {
            self.by_addr.insert(new.identity.addr, new);
            if let Some(old) = old.filter(|old| old.identity != new.identity) {
                claims.forget(&old.identity);
            }
            report_change(old, new, &mut report);
        }
        if claims.is_long() {
            let own = swim.identity();
            claims.keep_only(|life| self.has_identity(life) || life == own);
        }
        if self.by_addr.len() > known {
            self.forget_what_foca_forgot(swim, claims);
        }
        self.seen_claims = claims.version();
    }

    /// Forgets the members that foca has forgotten, claims included: a dead one after a day.
    fn forget_what_foca_forgot(&mut self, swim: &Swim, claims: &mut Claims) {
        let kept: BTreeSet<SocketAddr> = others(swim).map(|member| member.id().addr).collect();
        self.by_addr.retain(|addr, record| {
            let is_kept = kept.contains(addr);
            if !is_kept {
                claims.forget(&record.identity);
            }
            is_kept
        });
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Record> {
        self.by_addr.values()
    }

    pub(super) fn len(&self) -> usize {
        self.by_addr.len()
    }

    /// Whether some member is known at this one's address.
    pub(super) fn has_address(&self, identity: &Identity) -> bool {
        self.by_addr.contains_key(&identity.addr)
    }

    /// Whether this life is known, dead or alive.
    pub(super) fn has_life(&self, identity: &Identity) -> bool {
        self.by_addr.get(&identity.addr).is_some_and(|it| it.identity.life() == identity.life())
    }

    /// Returns how often this life has returned, if it is known.
    pub(super) fn returns_of(&self, life: &Identity) -> Option<u16> {
        let known = self.by_addr.get(&life.addr)?.identity;
        (known.life() == *life).then_some(known.returns)
    }

    fn has_identity(&self, identity: &Identity) -> bool {
        self.by_addr.get(&identity.addr).is_some_and(|it| it.identity == *identity)
    }

    /// Whether this life takes part, after any number of returns.
    pub(super) fn has_active_life(&self, identity: &Identity) -> bool {
        self.by_addr
            .get(&identity.addr)
            .is_some_and(|it| it.identity.life() == identity.life() && it.state.is_active())
    }

    pub(super) fn has_suspects(&self) -> bool {
        self.by_addr.values().any(|record| record.state == State::Suspect)
    }

    /// Whether this very life of a member is dead, and did not say that it left.
    pub(super) fn has_dead(&self, identity: &Identity) -> bool {
        self.by_addr
            .get(&identity.addr)
            .is_some_and(|it| it.identity == *identity && it.state == State::Dead)
    }

    /// Whether this identity takes part, or an earlier return of the same life: the later one was
    /// not heard of yet.
    pub(super) fn has_active_before(&self, identity: &Identity) -> bool {
        self.by_addr.get(&identity.addr).is_some_and(|it| {
            let is_it = it.identity.life() == identity.life();
            is_it && it.identity.returns <= identity.returns && it.state.is_active()
        })
    }

    /// Whether this very life of a member takes part.
    pub(super) fn has_active(&self, identity: &Identity) -> bool {
        self.by_addr
            .get(&identity.addr)
            .is_some_and(|it| it.identity == *identity && it.state.is_active())
    }
}

/// Returns foca's members without those at our own address, which are our former lives.
fn others(swim: &Swim) -> impl Iterator<Item = &Member<Identity>> {
    let own = swim.identity().addr;
    swim.iter_membership_state().filter(move |member| member.id().addr != own)
}

/// Returns what is known of a member, given what was.
///
/// That it has left is looked into first, and until then it leaves if it did before.
fn record(member: &Member<Identity>, claims: &Claims, old: Option<Record>) -> Record {
    let identity = *member.id();
    let claim = claims.about(&identity);
    let state = match member.state() {
        foca::State::Alive => State::Alive,
        foca::State::Suspect => State::Suspect,
        foca::State::Down if claim == Some(ClaimKind::Left) => State::Left,
        foca::State::Down => State::Dead,
    };
    let was_leaving = old.is_some_and(|old| old.identity == identity && old.leaving);
    let leaving = match claim {
        Some(ClaimKind::Leaving) => true,
        Some(ClaimKind::Left) => was_leaving || state == State::Left,
        None => false,
    };
    Record { identity, state, leaving }
}

fn report_change(old: Option<Record>, new: Record, report: &mut impl FnMut(Change)) {
    let same_life = old.filter(|old| old.identity == new.identity);
    if let Some(old) = old
        && same_life.is_none()
    {
        if old.identity.node == new.identity.node {
            report(Change::Replaced { old: old.identity, new: new.identity });
        } else if old.state.is_active() {
            // Another node was given its address.
            report(Change::Down(old.identity));
        }
    }
    let identity = new.identity;
    match (same_life.map(|old| old.state), new.state) {
        (Some(before), after) if before == after => {}
        (Some(State::Suspect), State::Alive) => report(Change::Refuted(identity)),
        (_, State::Alive) => report(Change::Up(identity)),
        (Some(State::Alive), State::Suspect) => report(Change::Suspected(identity)),
        (_, State::Suspect) => {
            report(Change::Up(identity));
            report(Change::Suspected(identity));
        }
        (_, State::Dead) => report(Change::Down(identity)),
        (_, State::Left) => report(Change::Left(identity)),
    }
    let was_leaving = same_life.is_some_and(|old| old.leaving);
    if new.leaving && !was_leaving && new.state.is_active() {
        report(Change::Leaving(identity));
    }
}
