//! Reads on the caller's own thread: when this node's copy of a key is the answer.
//!
//! There is one rule, for the engine's handle and the simulator alike. If this node serves the
//! partition as a synced replica, its value is the answer of a read with R = 1. The absence of a
//! value is an answer only if no other node can have one: if f = N − W is zero, or if the caller
//! asked for this node's copy alone. Everything else goes to the owner core by message.

use crate::clock::WallTime;
use crate::entry::EntryRef;
use crate::mutants::{ProtocolMutant, rule};
use crate::store::{Local, Pinned};
use crate::types::KeyHash;

/// What a read asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalRules {
    /// Whether one replica's answer is enough: the read's quorum is one, or the caller asked for
    /// this node's copy alone.
    pub(crate) one_answers: bool,
    /// Whether one replica's answer that there is no value is enough, too.
    pub(crate) one_denies: bool,
}

/// What this node's copy says.
pub(crate) enum LocalAnswer<'a> {
    Value(EntryRef<'a>),
    Nothing,
    AskOwner,
}

/// Looks at this node's copy. `wall` is called only if the value might have expired.
#[inline]
pub(crate) fn read_local<'a>(
    pinned: &'a Pinned<'_>,
    rules: LocalRules,
    hash: KeyHash,
    key: &[u8],
    wall: impl FnOnce() -> WallTime,
) -> LocalAnswer<'a> {
    if !rules.one_answers {
        return LocalAnswer::AskOwner;
    }
    match pinned.get(hash, key) {
        Local::Found(entry) if entry.is_lasting() => LocalAnswer::Value(entry),
        Local::Found(entry) => as_of(wall(), entry, rules),
        Local::Absent if rules.one_denies => LocalAnswer::Nothing,
        Local::Absent | Local::AskOwner => LocalAnswer::AskOwner,
    }
}

/// Answers with an entry that has expired or will, or with a tombstone. Other replicas may have the
/// value of what expired before its time.
#[inline]
fn as_of(wall: WallTime, entry: EntryRef<'_>, rules: LocalRules) -> LocalAnswer<'_> {
    if entry.live_value(wall).is_some() {
        LocalAnswer::Value(entry)
    } else if rules.one_denies && !is_doubtful(&entry, wall) {
        LocalAnswer::Nothing
    } else {
        LocalAnswer::AskOwner
    }
}

fn is_doubtful(entry: &EntryRef<'_>, wall: WallTime) -> bool {
    rule(ProtocolMutant::EarlyHuskBelieved, entry.is_early_husk(wall))
}
