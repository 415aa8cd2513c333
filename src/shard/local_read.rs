//! Reads on the caller's own thread: when this node's copy of a key is the answer.
//!
//! One rule, for the engine's handle and the simulator alike. A value of a partition that this node serves,
//! synced, is the answer of a read with R = 1. That there is none is an answer only where nobody else can have
//! it: where f = N − W is zero, or where the caller asked for this node's copy alone. Everything else goes to
//! the owning core by message.

use crate::clock::WallTime;
use crate::entry::EntryRef;
use crate::store::{Local, Pinned};
use crate::types::KeyHash;

/// What a read asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalRules {
    /// One replica's answer is enough: the read's quorum is one, or this node is all that it may ask.
    pub(crate) one_answers: bool,
    /// So is one replica's word that there is nothing.
    pub(crate) one_denies: bool,
}

/// The answer, where this node's copy is one.
pub(crate) enum LocalAnswer<'a> {
    Value(EntryRef<'a>),
    Nothing,
    AskOwner,
}

/// Looks at this node's copy. `wall` is asked for only where the value may have expired.
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
