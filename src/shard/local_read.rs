//! Reads on the caller's own thread: when this node's copy of a key is the answer.
//!
//! There is one rule, for the engine's handle and the simulator alike. If this node serves the
//! partition as a synced replica, its value is the answer of a read with R = 1. The absence of a
//! value is an answer only if no other node can have one: if f = N − W is zero, or if the caller
//! asked for this node's copy alone. Everything else goes to the owner core by message.

use crate::clock::WallTime;
use crate::entry::EntryRef;
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
    let is_live = |entry: &EntryRef<'_>| entry.is_lasting() || entry.live_value(wall()).is_some();
    match pinned.get(hash, key) {
        Local::Found(entry) if is_live(&entry) => LocalAnswer::Value(entry),
        Local::Found(_) | Local::Absent if rules.one_denies => LocalAnswer::Nothing,
        Local::Found(_) | Local::Absent | Local::AskOwner => LocalAnswer::AskOwner,
    }
}
