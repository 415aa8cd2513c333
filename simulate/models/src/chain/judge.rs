//! What must hold in every state.
//!
//! - **I1**: a list is decided once. No register has two values.
//! - **I2**: of the members that have list k open, at most f lack the newest write that list k or
//!   an earlier one acknowledged.
//! - **I2'**: if c nodes crashed since the copies were restored, at least W − c living nodes hold
//!   the newest acknowledged write, or a newer one. They are restored if each member of the last
//!   list lives, has it open, and is whole in it.
//! - **I3**: once list k + 1 is decided, fewer than W members of list k can acknowledge.
//! - **I4**: calls at R ≥ 2 are linearizable. One that begins after another ended does not
//!   return or write an older version.
//! - **I5**: a member that is whole in list k holds all that lists before k acknowledged, or newer.
//! - **I6**: if a write at R = 1 is stamped below what was acknowledged before it began, one of
//!   its members says so before it is acknowledged.
//! - **I7**: at rest, with at most W − 1 crashes, each living member of the last list is whole in
//!   it. Each call ended, if W members live and the last list is not sealed. Of a member that
//!   merges nothing, nothing is expected, and the lists that are wished for follow.
//!
//! I2 is what a miss at R = 1 relies on, and I5 what a hit does. They take no step of their own: in
//! every state, each member that would answer is judged. I3 says that two lists never both
//! acknowledge.
//!
//! I4 is more than the definition of linearizability asks, and implies it: order all calls by the
//! version that they write or return, the write of a version before the reads of it. That order
//! agrees with the order of calls that do not overlap, because of I4, and each read returns the
//! version of the latest write before it.

use super::{CallState, Chain, Kind, LISTS, NODES, State, each, rules};

/// I1 is broken.
pub(super) const TWO_LISTS: u8 = 1;
/// I4 is broken by a read.
const OLD_READ: u8 = 2;
/// I4 is broken by a write.
const OLD_WRITE: u8 = 3;

/// I6 is broken.
const LOST_WRITE: u8 = 4;

/// Ends a call, and compares it with those that ended before it began.
pub(super) fn end(chain: &Chain, state: &mut State, number: usize) {
    let call = &mut state.calls[number];
    call.phase = 3;
    let broken = match chain.bounds.calls[number] {
        Kind::Read if call.version < call.floor => OLD_READ,
        Kind::Write if call.version <= call.floor => OLD_WRITE,
        Kind::Stamped(version) if version < call.floor && call.notes == 0 => LOST_WRITE,
        _ => 0,
    };
    let acked = &mut state.acked[usize::from(call.list)];
    *acked = call.version.max(*acked);
    *call = CallState { phase: 3, ..CallState::default() };
    if broken != 0 {
        state.broken = broken;
    }
}

/// Returns the first invariant that does not hold.
pub(super) fn fault(chain: &Chain, state: &State) -> Option<String> {
    let last = match state.broken {
        TWO_LISTS => Some("I1: two lists were decided in one register"),
        OLD_READ => Some("I4: a read returned less than was known before it began"),
        OLD_WRITE => Some("I4: a write was stamped below what was known before it began"),
        LOST_WRITE => Some("I6: a write lost to an earlier one, and its coordinator does not know"),
        _ => None,
    };
    let last = last.map(str::to_owned);
    last.or_else(|| known(chain, state))
        .or_else(|| held(chain, state))
        .or_else(|| exclusive(chain, state))
}

/// Returns the newest version that lists before this one acknowledged.
fn acked_before(state: &State, list: usize) -> u8 {
    state.acked[..list].iter().copied().max().unwrap_or(0)
}

fn known(chain: &Chain, state: &State) -> Option<String> {
    let f = chain.bounds.quorums.0 - chain.write_quorum();
    for list in 0..LISTS {
        let acked = acked_before(state, list + 1);
        let lacks = |node: &usize| {
            usize::from(state.opened[*node]) == list + 1 && state.data[*node] < acked
        };
        let lacking = each(state.alive).filter(lacks).count() as u32;
        if lacking > f {
            return Some(format!(
                "I2: {lacking} members that have list {list} open lack version {acked}, which was \
                 acknowledged"
            ));
        }
        let before = acked_before(state, list);
        let is_wrong = |node: &usize| {
            usize::from(state.whole[*node]) == list + 1 && state.data[*node] < before
        };
        if let Some(node) = each(state.alive).find(is_wrong) {
            return Some(format!(
                "I5: {} is whole in list {list}, and lacks version {before}",
                super::story::name(node)
            ));
        }
    }
    None
}

fn held(chain: &Chain, state: &State) -> Option<String> {
    let newest = acked_before(state, LISTS);
    let holders = each(state.alive).filter(|node| state.data[*node] >= newest).count() as u32;
    let wanted = chain.bounds.quorums.1.saturating_sub(state.risk.into());
    (newest > 0 && holders < wanted).then(|| {
        format!(
            "I2': {holders} living nodes hold version {newest}, which was acknowledged, and \
             {wanted} should"
        )
    })
}

fn exclusive(chain: &Chain, state: &State) -> Option<String> {
    let latest = (0..LISTS).rfind(|list| state.lists[*list].members != 0)?;
    let is_alive_too = |list: &usize| {
        let list = *list;
        rules::unsealed(state, list) >= chain.write_quorum()
    };
    let list = (0..latest).find(is_alive_too)?;
    Some(format!("I3: list {list} can still acknowledge, and list {latest} is decided"))
}

/// Returns what is wrong if nothing more can happen.
pub(super) fn fault_at_rest(chain: &Chain, state: &State) -> Option<String> {
    let w = chain.write_quorum();
    let is_judged = !chain.is_about_agreement() && !chain.bounds.is_hasty;
    if !is_judged || u32::from(state.crashes) >= w {
        return None;
    }
    let last = (0..LISTS).rfind(|list| state.lists[*list].members != 0)?;
    let stuck = chain.bounds.stuck;
    let living = each(state.alive & !stuck).filter(|node| Chain::is_member(state, *node, last));
    if stuck != 0 && chain.bounds.wishes.get(last).is_some_and(|wishes| !wishes.is_empty()) {
        return Some(format!("I7: at rest, no list follows list {last}"));
    }
    if let Some(node) = living.clone().find(|node| usize::from(state.whole[*node]) <= last) {
        return Some(format!(
            "I7: at rest, {} is not whole in list {last}",
            super::story::name(node)
        ));
    }
    let is_sealed = (0..NODES).any(|node| Chain::is_sealed(state, node, last));
    let is_open = !is_sealed && living.count() as u32 >= w;
    let waits = state.calls.iter().position(|call| matches!(call.phase, 1 | 2));
    waits.filter(|_| is_open).map(|call| format!("I7: at rest, call {call} has not ended"))
}
