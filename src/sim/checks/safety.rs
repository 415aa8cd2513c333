//! What holds while faults go on: no false miss, and no false word of safety.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{FOUND, Violation, removes};
use crate::sim::Stored;
use crate::sim::workload::{Answer, History, Kind, Operation};

const SAFE: &str = "when it is safe to stop a node, W copies of everything are there";

/// Checks that no read found nothing for a key that was written and never removed.
///
/// It holds for reads of every node, cut off or not, until a node reports that acknowledged writes
/// of the key's partition might be lost; `at_risk_since` returns when one did. A read that cannot
/// know must fail.
///
/// # Errors
///
/// The first read that found nothing.
pub fn misses(
    history: &History,
    at_risk_since: impl Fn(usize) -> Option<Duration>,
) -> Result<(), Violation> {
    let keys: BTreeSet<usize> = history.operations.iter().map(|operation| operation.key).collect();
    for key in keys {
        let operations = history.of_key(key);
        if operations.iter().any(|operation| removes(operation)) {
            continue;
        }
        let acknowledged = operations.iter().filter(|it| it.is_write() && it.is_acknowledged());
        let Some(first) = acknowledged.min_by_key(|write| write.end) else { continue };
        let at_risk_since = at_risk_since(key);
        let is_missed = |read: &&&Operation| {
            let is_in_time =
                at_risk_since.is_none_or(|at_risk| read.end.is_some_and(|end| end < at_risk));
            read.answer == Some(Answer::NotFound) && first.is_before(read) && is_in_time
        };
        if let Some(read) = operations.iter().find(is_missed) {
            let what = "it was not found, and no node had reported a loss".to_owned();
            return Err(Violation::of(FOUND, what, &[*first, *read]));
        }
    }
    Ok(())
}

/// A moment at which a node says that any node may be stopped.
#[derive(Clone, Copy, Debug)]
pub struct Safety<'a> {
    /// What clients asked for so far, and were told.
    pub history: &'a History,
    /// W, the copies that must be there.
    pub copies: usize,
    /// How many nodes run. All of them have a copy if they are fewer than W.
    pub running: usize,
    /// Writes that are further apart than this have versions in the order in which they were made.
    pub apart: Duration,
}

/// Checks that a key has the copies that it must have at such a moment.
///
/// `stored` has what each of the running nodes stores. Not judged is a key whose last acknowledged
/// write might not be its newest state: after it, or at the same time, was a delete, or a write
/// that might have happened in part.
///
/// # Errors
///
/// How many copies there are.
pub fn safe(safety: &Safety<'_>, key: usize, stored: &[Stored]) -> Result<(), Violation> {
    let Safety { history, copies, running, apart } = *safety;
    let operations = history.of_key(key);
    let acknowledged = operations.iter().filter(|it| it.is_write() && it.is_acknowledged());
    let Some(last) = acknowledged.max_by_key(|write| write.start) else { return Ok(()) };
    let is_unclear = |it: &Operation| {
        let is_partial = it.may_have_happened() && !it.is_acknowledged();
        is_partial || it.kind == Kind::Persist || removes(it)
    };
    let is_late = |it: &Operation| it.end.is_none_or(|end| end + apart >= last.start);
    if operations.iter().any(|it| is_unclear(it) && is_late(it)) {
        return Ok(());
    }
    let newest = stored.iter().map(|it| it.version).max();
    let holders: Vec<usize> =
        stored.iter().filter(|it| Some(it.version) == newest).map(|it| it.node).collect();
    if holders.len() >= copies.min(running) {
        return Ok(());
    }
    let what = format!("only {holders:?} of {running} nodes have the newest state {newest:?}");
    Err(Violation::of(SAFE, what, &[*last]))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{ACK, MAYBE, delete, miss, set};
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn history(operations: Vec<Operation>) -> History {
        History { operations, pauses: Vec::new() }
    }

    #[test]
    fn a_miss_of_what_was_never_removed_is_a_loss_unless_one_was_reported() {
        let judge = |operations, at_risk| misses(&history(operations), |_| at_risk).is_ok();
        assert!(!judge(vec![set(1, 0, 10, ACK), miss(20, 30)], None));
        assert!(judge(vec![set(1, 0, 25, ACK), miss(20, 30)], None), "they overlap");
        assert!(judge(vec![set(1, 0, 10, MAYBE), miss(20, 30)], None));
        assert!(judge(vec![set(1, 0, 10, ACK), delete(11, 12, MAYBE), miss(20, 30)], None));
        let reported = |ms| Some(Duration::from_millis(ms));
        assert!(judge(vec![set(1, 0, 10, ACK), miss(20, 30)], reported(15)));
        assert!(!judge(vec![set(1, 0, 10, ACK), miss(20, 30)], reported(31)));
    }

    fn is_safe(operations: Vec<Operation>, versions: &[u64]) -> bool {
        let stored: Vec<Stored> = versions
            .iter()
            .enumerate()
            .map(|(node, &version)| Stored {
                node,
                is_synced: true,
                version,
                value: None,
                content_hash: 0,
                expires_at_ms: None,
            })
            .collect();
        let history = history(operations);
        safe(&Safety { history: &history, copies: 2, running: 3, apart: SECOND }, 0, &stored)
            .is_ok()
    }

    #[test]
    fn w_copies_of_the_newest_state_are_safe() {
        let written = || vec![set(1, 0, 10, ACK), set(2, 5000, 5010, ACK)];
        assert!(is_safe(written(), &[7, 7, 6]) && !is_safe(written(), &[7, 6, 6]));
        assert!(!is_safe(written(), &[]), "nothing is left");
        assert!(is_safe(vec![set(1, 0, 10, ACK), delete(20, 30, ACK)], &[7]), "it may be purged");
        let maybe = |start| vec![set(3, start, start + 10, MAYBE), set(2, 5000, 5010, ACK)];
        assert!(is_safe(maybe(4500), &[7, 6, 6]), "what may have happened may be the newest");
        assert!(!is_safe(maybe(3000), &[7, 6, 6]));
    }
}
